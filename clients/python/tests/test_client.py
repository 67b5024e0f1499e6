"""The client on the real program: what it tells a session to do, and what it sees of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import youquanti
from service import Service, with_gpus

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("served"), "served")
    yield service
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait() == 0, service.log.read_text()
    assert "ledger: closes" in service.log.read_text()


def next_of(live: youquanti.Live, kind: type) -> youquanti.client.Message:
    for message in live:
        if isinstance(message, kind):
            return message
    pytest.fail("the session has ended")


def test_results_come_as_asked_for(service: Service) -> None:
    with service.client() as client, client.live(results=True, cameras=["left"], landmarks=True) as live:
        assert len(live.blendshape_names) == 52
        assert live.picture_sizes == {"left": (640, 360), "right": (640, 360)}
        while True:
            result = next_of(live, youquanti.Result)
            assert isinstance(result, youquanti.Result) and result.camera == "left"
            if result.faces:
                break
        face = result.faces[0]
        assert face.blendshapes is not None and face.landmarks is not None and face.head_pose is not None
        assert face.blendshapes.shape == (52,) and face.landmarks.shape == (478, 3) and face.head_pose.shape == (4, 4)
        x0, y0, x1, y1 = face.bbox
        inside = (face.landmarks[:, :2] >= [x0 - 1, y0 - 1]) & (face.landmarks[:, :2] <= [x1 + 1, y1 + 1])
        assert inside.all(), "the box is around the landmarks"
        assert 0 < time.monotonic() - result.captured_at_s < 120, "the clock is this machine's"
        later = next_of(live, youquanti.Result)
        assert isinstance(later, youquanti.Result) and later.captured_at_s > result.captured_at_s


def test_fewer_results_are_the_newest_ones(service: Service) -> None:
    with service.client() as client, client.live(results=True, rate=2, blendshapes=False, head_pose=False) as live:
        seen: dict[str, int] = {}
        skipped = 0
        while skipped < 4:
            result = next_of(live, youquanti.Result)
            assert isinstance(result, youquanti.Result)
            assert all(face.blendshapes is None and face.landmarks is None for face in result.faces)
            skipped += result.seq - seen.get(result.camera, result.seq) > 1
            seen[result.camera] = result.seq


def test_wishes_that_cannot_be_are_refused_in_words(service: Service) -> None:
    with service.client() as client:
        with pytest.raises(ValueError, match='there is no camera "lift"; there are left, right'):
            client.live(results=True, cameras=["lift"])
        with pytest.raises(ValueError, match="outside 0.1 to 1000"):
            client.live(results=True, rate=0)
        with pytest.raises(youquanti.CommandError, match="there are left, right") as refused:
            client.pause_camera("lift")
        assert (refused.value.status, refused.value.code) == (404, "unknown")


def test_a_recording_has_what_was_said_meanwhile(service: Service) -> None:
    with service.client() as client, client.live() as live:
        while len([person for person in client.participants() if person["camera"]]) < 2:
            time.sleep(0.05)
        file = client.start_recording("study/one", notes="a note", by="a test")
        assert file is not None and client.state()["state"] == "recording"
        with pytest.raises(youquanti.CommandError) as refused:
            client.start_recording()
        assert "stop_recording" in refused.value.allowed
        before = time.monotonic()
        client.mark("stimulus on", lsl_time=before)
        client.mark("stimulus off")
        client.rename("P2", "Bob")
        client.pause_camera("right")
        assert client.state()["cameras"]["right"] == "paused"
        client.resume_camera("right")
        kinds = []
        while "camera_resumed" not in kinds:
            event = next_of(live, youquanti.Event)
            assert isinstance(event, youquanti.Event)
            kinds.append(event.kind)
        assert {"recording_started", "marker", "participant_renamed", "camera_paused", "gap_closed"} < set(kinds)
        summary = client.stop_recording()
        assert summary["complete"]
        assert client.recordings()[0]["name"] == "study/one.h5"
        assert client.inspect("study/one.h5")["ledger_closes"]
    with youquanti.load(service.folder / file) as session:
        first, second = session.markers
        assert [marker["data"]["text"] for marker in session.markers] == ["stimulus on", "stimulus off"]
        assert np.isclose(first["time_ns"] / 1e9, before, atol=1e-6)
        assert second["time_ns"] > first["time_ns"]
        assert [gap["cause"] for gap in session.gaps] == ["paused by the operator"]
        names = {row["id"]: row["name"] for row in session.participants}
        assert sorted(names.values()) == ["Bob", "Änne"]


def test_of_two_that_start_at_once_one_does_and_both_know(service: Service) -> None:
    both = threading.Barrier(2)

    def start(number: int) -> tuple[youquanti.CommandError | Path | None, str]:
        """What this one is answered, and of which file it hears as it goes on listening."""
        with service.client() as client, client.live() as live:
            both.wait()
            answer: youquanti.CommandError | Path | None
            try:
                answer = client.start_recording(f"both/{number}", by=f"client {number}")
            except youquanti.CommandError as refused:
                answer = refused
            while True:
                event = next_of(live, youquanti.Event)
                assert isinstance(event, youquanti.Event)
                if event.kind == "recording_started":
                    return answer, event.detail["path"]

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(start, (1, 2)))
    (file,) = {heard for _, heard in outcomes}
    (refused,) = (answer for answer, _ in outcomes if isinstance(answer, youquanti.CommandError))
    assert (refused.status, refused.code) == (409, "not_now")
    assert [str(answer) for answer, _ in outcomes if isinstance(answer, Path)] == [file]
    with service.client() as client:
        assert client.state()["recording"]["path"] == file
        assert client.stop_recording()["complete"]


def test_the_examples_run(service: Service) -> None:
    package = Path(youquanti.__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(package)}
    for script in (
        ["stimulus_loop.py", "--port", str(service.port), "--trials", "3", "--seconds", "0.1"],
        ["psychopy_component.py", str(service.port)],
    ):
        ended = subprocess.run(
            [sys.executable, EXAMPLES / script[0], *script[1:]], capture_output=True, encoding="utf-8", env=environment
        )
        assert ended.returncode == 0, ended.stderr
        assert re.search(r"P001.*\.h5", ended.stdout), ended.stdout
    loops = list(service.folder.glob("sessions/P001/*.h5"))
    with youquanti.load(loops[0]) as session:
        assert len(session.markers) == 3


def test_the_interface_keeps_what_its_description_promises(service: Service) -> None:
    """Requests made up from the OpenAPI document, good ones and bad ones: no answer that it does not have."""
    with service.client():  # runs
        schemathesis = Path(sys.executable).with_name("schemathesis")
    url = f"http://127.0.0.1:{service.port}/api/v1/openapi.json"
    # Stopping the session would end the test; the WebSocket is no request that can be made up.
    ended = subprocess.run(
        [
            schemathesis, "run", url, "--url", f"http://127.0.0.1:{service.port}", "--max-examples", "25",
            "--exclude-path", "/api/v1/live", "--exclude-checks", "positive_data_acceptance",
            "--phases", "examples,coverage,fuzzing", "--no-color", "--generation-database", "none", "--seed", "1",
        ],
        capture_output=True, encoding="utf-8", cwd=service.folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_gpus_are_as_busy_as_the_driver_says(service: Service, tmp_path: Path) -> None:
    here = json.loads(service.get("/api/v1/gpus"))
    assert bool(here["gpus"]) == (here["missing"] is None)
    assert ("youquanti_gpu_memory_used_bytes{" in service.get("/metrics")) == bool(here["gpus"])

    other = Service(tmp_path, "gpus", environment=with_gpus(tmp_path))
    try:
        told = json.loads(other.get("/api/v1/gpus"))
        assert told["missing"] is None
        gpu = {"name": 'Some "GPU"', "memory_used_bytes": 12_500_000_000, "memory_total_bytes": 80_000_000_000}
        assert told["gpus"] == [gpu | {"uuid": "GPU-0", "utilisation": 0.45}, gpu | {"uuid": "GPU-1", "utilisation": None}]
        lines = other.get("/metrics").splitlines()
        (line,) = (line for line in lines if line.startswith("youquanti_gpu_utilisation_ratio{"))
        assert line == 'youquanti_gpu_utilisation_ratio{uuid="GPU-0",name="Some \\"GPU\\""} 0.45'
        assert sum(line.startswith("youquanti_gpu_memory_total_bytes{") for line in lines) == 2
    finally:
        other.process.terminate()
        other.process.wait()


def test_the_stream_ends_with_the_session(tmp_path: Path) -> None:
    service = Service(tmp_path, "short")
    with service.client() as client, client.live() as live:
        client.stop("enough")
        kinds = [message.kind for message in live if isinstance(message, youquanti.Event)]
        assert "session_stopping" in kinds
    assert service.process.wait() == 0
    assert "(enough)" in service.log.read_text()
