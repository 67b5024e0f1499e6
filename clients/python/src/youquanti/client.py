"""Steers and watches a session that runs: `youquanti run` serves what is asked for here.

    with youquanti.Client() as session:
        session.mark("stimulus on")
        with session.live(results=True, rate=30) as live:
            for message in live:
                ...

Clock: every `*_s` is seconds of the session machine's CLOCK_MONOTONIC. That is `pylsl.local_clock()` and, on Linux,
`time.monotonic()` of the same machine.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from ._websocket import WebSocket, WebSocketError

USUAL_PORT = 8478


class CommandError(RuntimeError):
    """A command was refused, or failed. `code` is for programs; `allowed` says what is possible now, where that is why."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", "no reason was given"))
        self.status = status
        self.code: str = error.get("code", "")
        self.allowed: list[str] = error.get("allowed", [])


@dataclass(frozen=True)
class Event:
    """Something worth knowing happened."""

    at_s: float
    source: str
    kind: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class Face:
    """One face in one frame. Arrays that were not asked for are None."""

    participant: str | None
    """`P1`, `P2`, …; None for more people than are expected."""
    name: str | None
    track: int
    score: float
    presence: float
    bbox: npt.NDArray[np.float32]
    """x0, y0, x1, y1: pixels of the camera's picture."""
    head_pose: npt.NDArray[np.float32] | None
    """[4, 4]: canonical face to camera, metres, the camera looks along −z."""
    blendshapes: npt.NDArray[np.float32] | None
    """[52], in the order of `Live.blendshape_names`."""
    landmarks: npt.NDArray[np.float32] | None
    """[478, 3], pixels."""


@dataclass(frozen=True)
class Result:
    """The faces of one analysed frame."""

    camera: str
    seq: int
    captured_at_s: float
    latency_ms: float
    faces: list[Face]


@dataclass(frozen=True)
class Missed:
    """What this client was too slow for, in all since it subscribed. The session has lost nothing."""

    events: int
    results: int


Message = Event | Result | Missed


class Client:
    """A session that runs, on this machine or another.

    `token` is needed beyond the session's own machine; without it, the environment's YOUQUANTI_TOKEN is taken.
    One client belongs to one thread.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = USUAL_PORT, token: str | None = None, timeout: float = 10.0
    ) -> None:
        self._host, self._port, self._timeout = host, port, timeout
        self._token = token if token is not None else os.environ.get("YOUQUANTI_TOKEN")
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the session goes on. Used again, the client connects again."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        for is_last in (False, True):
            try:
                self._connection.request(method, path, content, headers)
                response = self._connection.getresponse()
                text = response.read()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A server lets an idle connection go. Asking again is safe: every command has an id.
                self._connection.close()
                if is_last:
                    raise
        return response.status, json.loads(text) if text else None

    def _get(self, path: str) -> Any:
        status, answer = self._ask("GET", path)
        if status != 200:
            raise CommandError(status, (answer or {}).get("error", {}))
        return answer

    def command(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Has a command carried out, and returns what it did; the methods below do it for you.

        Raises CommandError when it is refused or fails, OSError when nobody answers.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        body = {"command": command, "id": given.pop("id", uuid.uuid4().hex), **given}
        status, answer = self._ask("POST", "/api/v1/commands", body)
        if status != 200:
            raise CommandError(status, (answer or {}).get("error", {}))
        done: dict[str, Any] = answer["ok"]
        return done

    def mark(self, text: str, lsl_time: float | None = None) -> float:
        """Sets a marker; returns its stamp in seconds.

        `lsl_time` is when it was, on the session machine's clock: take it before you call, and the time that the call takes
        does not matter. Without it, the marker has the time of receipt.
        """
        return float(self.command("mark", text=text, lsl_time=lsl_time)["at_ns"]) / 1e9

    def rename(self, participant: str, name: str) -> None:
        """Gives a participant (`P1`) a name, from now on."""
        self.command("rename_participant", participant=participant, name=name)

    def pause_camera(self, camera: str) -> None:
        """Closes a camera until it is resumed: a gap in its data."""
        self.command("pause_camera", camera=camera)

    def resume_camera(self, camera: str) -> None:
        """Opens a paused camera again."""
        self.command("resume_camera", camera=camera)

    def restart_camera(self, camera: str) -> None:
        """Closes a camera and opens it again: a gap in its data."""
        self.command("restart_camera", camera=camera)

    def start_recording(
        self,
        name: str | None = None,
        notes: str = "",
        by: str = "",
        lsl_time: float | None = None,
        override: str | None = None,
    ) -> Path | None:
        """Makes a file and records to it; returns the file, or None where it begins later, at `lsl_time`.

        `name` has no ending, and may have folders, below the session's own. Where something that recordings require is
        missing, it is refused, unless `override` says why to record all the same, and `by` who decides so.
        """
        done = self.command("start_recording", name=name, notes=notes, by=by, lsl_time=lsl_time, override=override)
        return Path(done["path"]) if "path" in done else None

    def stop_recording(self) -> dict[str, Any]:
        """Closes the file, and returns what is in it; or calls off a recording that has not begun."""
        return self.command("stop_recording")

    def stop(self, reason: str = "asked for") -> None:
        """Ends the session in good order."""
        self.command("stop", reason=reason)

    def state(self) -> dict[str, Any]:
        """Where the session stands: `state`, `allowed`, `recording`, `cameras`, …"""
        state: dict[str, Any] = self._get("/api/v1/state")
        return state

    def cameras(self) -> list[dict[str, Any]]:
        """What each camera is, and how it does."""
        cameras: list[dict[str, Any]] = self._get("/api/v1/cameras")["cameras"]
        return cameras

    def participants(self) -> list[dict[str, Any]]:
        """Everybody who is expected or was seen."""
        participants: list[dict[str, Any]] = self._get("/api/v1/participants")["participants"]
        return participants

    def ledger(self) -> dict[str, Any]:
        """What became of every frame, by camera and consumer."""
        ledger: dict[str, Any] = self._get("/api/v1/ledger")["cameras"]
        return ledger

    def recordings(self) -> list[dict[str, Any]]:
        """Files in the session's folder, the newest first."""
        recordings: list[dict[str, Any]] = self._get("/api/v1/sessions")["sessions"]
        return recordings

    def inspect(self, name: str) -> dict[str, Any]:
        """What is in one of `recordings`, by its name."""
        inspection: dict[str, Any] = self._get(f"/api/v1/sessions/{quote(name)}")
        return inspection

    def wait_until_running(self, patience: float = 60.0) -> None:
        """Waits until the session runs: networks may take a while to load.

        Raises TimeoutError when it does not in time.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                if self._ask("GET", "/readyz")[0] == 200:
                    return
            except ConnectionRefusedError:
                pass  # not started yet
            if time.monotonic() > deadline:
                raise TimeoutError(f"no session runs at {self._host}:{self._port}")
            time.sleep(0.05)

    def live(
        self,
        *,
        events: bool = True,
        results: bool = False,
        rate: float | None = None,
        cameras: Sequence[str] | None = None,
        blendshapes: bool = True,
        head_pose: bool = True,
        landmarks: bool = False,
    ) -> Live:
        """What happens, as it happens: iterate over it.

        `rate` is results a second of each camera, the newest ones (0.1 to 1000); without it, every one.
        """
        wish: dict[str, Any] = {"type": "subscribe", "events": events}
        if results:
            wish["results"] = {"blendshapes": blendshapes, "head_pose": head_pose, "landmarks": landmarks}
            if rate is not None:
                wish["results"]["rate"] = rate
            if cameras is not None:
                wish["results"]["cameras"] = list(cameras)
        return Live(WebSocket(self._host, self._port, "/api/v1/live", self._token, self._timeout), wish, self._timeout)


class Live:
    """Events and results as they come. Belongs to one thread; whoever is slow misses some, and is told by `Missed`."""

    def __init__(self, websocket: WebSocket, wish: dict[str, Any], timeout: float) -> None:
        self._websocket = websocket
        self._waiting: list[Message] = []
        hello = self._expect("hello", timeout)
        self.blendshape_names: list[str] = hello["blendshapes"]
        """What the columns of `Face.blendshapes` mean."""
        self.picture_sizes: dict[str, tuple[int, int]] = {
            camera["name"]: (camera["width"], camera["height"]) for camera in hello["cameras"]
        }
        """Width and height of each camera's picture."""
        websocket.send(json.dumps(wish))
        self._expect("subscribed", timeout)

    def _expect(self, kind: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            text = self._websocket.receive(left)
            if text is None:
                continue
            message: dict[str, Any] = json.loads(text)
            if message["type"] == kind:
                return message
            if message["type"] == "error":
                raise ValueError(message["message"])
            self._waiting += _read(message)
        raise TimeoutError(f"the server said no {kind}")

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream; the session goes on."""
        self._websocket.close()

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None when none has come in time.

        Raises ConnectionError when the session has ended.
        """
        while not self._waiting:
            text = self._websocket.receive(timeout)
            if text is None:
                return None
            self._waiting += _read(json.loads(text))
        return self._waiting.pop(0)

    def __iter__(self) -> Iterator[Message]:
        """Everything until the session ends."""
        while True:
            try:
                message = self.receive(None)
            except WebSocketError:
                return
            if message is not None:
                yield message


def _read(message: dict[str, Any]) -> list[Message]:
    kind = message.pop("type")
    if kind == "event":
        return [Event(**message)]
    if kind == "missed":
        return [Missed(**message)]
    if kind == "result":
        return [Result(**{**message, "faces": [_face(face) for face in message["faces"]]})]
    return []  # of a newer server


def _face(face: dict[str, Any]) -> Face:
    def array(key: str) -> npt.NDArray[np.float32] | None:
        values = face.get(key)
        return None if values is None else np.asarray(values, dtype=np.float32)

    return Face(
        participant=face["participant"],
        name=face["name"],
        track=face["track"],
        score=face["score"],
        presence=face["presence"],
        bbox=np.asarray(face["bbox"], dtype=np.float32),
        head_pose=array("head_pose"),
        blendshapes=array("blendshapes"),
        landmarks=array("landmarks"),
    )
