"""Chromium without a window, steered over its DevTools protocol by the package's own WebSocket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import install
from youquanti._websocket import WebSocket

PATIENCE = 120.0

#: Keys that are no characters: `windowsVirtualKeyCode`, and the text that goes with them.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "ArrowDown": (40, ""), "Delete": (46, ""), "Escape": (27, "")}


class Page:
    """One page of a browser of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        program = shutil.which("chromium")
        if program is None:
            problem = install("chromium")
            program = shutil.which("chromium")
        if program is None:
            pytest.skip(problem or "there is no chromium")
        profile = folder / "profile"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--hide-scrollbars", "--window-size=1400,1100"]
        with (folder / "chromium.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [program, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that all of its processes can be stopped together
            )
        active = profile / "DevToolsActivePort"
        self._wait("the browser", lambda: active.exists() and active.read_text().count("\n") >= 1)
        port, path = active.read_text().split("\n")[:2]
        self._socket = WebSocket("127.0.0.1", int(port), path, None, PATIENCE)
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        # Keys go to the page that has the focus.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.bringToFront")
        self.call("Page.navigate", url=url)

    def _wait(self, what: str, holds: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (held := holds()):
            assert self.process.poll() is None, "the browser has ended"
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)
        return held

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Asks the browser for something."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            text = self._socket.receive(PATIENCE)
            assert text is not None, f"no answer to {method}"
            answer: dict[str, Any] = json.loads(text)
            self._note(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Waits until an expression is true."""
        return self._wait(expression, lambda: self.evaluate(f"Boolean({expression})"))

    def press(self, key: str) -> None:
        """Presses a key."""
        code, text = KEYS[key] if key in KEYS else (ord(key.upper()), key)
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, media: str = "screen") -> None:
        """Keeps the whole page, as it is on a screen or in print."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.call("Emulation.setEmulatedMedia", media=media)
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {**size, "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        self.call("Emulation.setEmulatedMedia", media="screen")
        path.write_bytes(base64.b64decode(picture["data"]))

    def freeze(self) -> None:
        """Stops every process of the browser where it is: it reads nothing any more, and closes nothing."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def close(self) -> None:
        """Ends the browser."""
        os.killpg(self.process.pid, signal.SIGCONT)
        self._socket.close()
        self.process.terminate()
        self.process.wait()
