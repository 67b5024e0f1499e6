"""The real program and real LSL clients, alone on this machine: nobody else's streams are heard, and no multicast is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "clients" / "python" / "src"))
PROGRAM = ROOT / "target" / "release" / "youquanti"
LOAD = ROOT / "target" / "release" / "examples" / "lsl-load"

#: How long a test waits for what must come. Never a measure of anything.
PATIENCE = 90.0

# Before pylsl is imported: liblsl reads it once.
_folder = tempfile.TemporaryDirectory()
API_CONFIG = Path(_folder.name) / "lsl_api.cfg"
API_CONFIG.write_text(
    "[ports]\nIPv6 = disable\nPortRange = 128\n"
    "[multicast]\nResolveScope = machine\n"
    f"[lab]\nKnownPeers = {{127.0.0.1}}\nSessionID = test-{os.getpid()}\n"
    "[log]\nlevel = -2\n"
)
os.environ["LSLAPICFG"] = str(API_CONFIG)

import pylsl  # noqa: E402

CONFIG = """
version = 1
[session]
name = "{name}"
[[camera]]
name = "left"
[camera.scene]
faces = 1
width = 320
height = 180
fps = 10
[pipeline]
backend = "{backend}"
threads = 1
smallest_face = 40
[participants]
expected = 1
[recording]
enabled = true
flush_interval = "200ms"
reserve = "1MB"
[lsl]
enabled = true
{lsl}
"""


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "VIRTUAL_ENV": sys.prefix} | more


def wait_for(what: str, holds: Callable[[], object]) -> object:
    """What `holds` gives, once it gives something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if result := holds():
            return result
        time.sleep(0.02)
    pytest.fail(f"waited in vain for {what}")


def find(source_id: str) -> pylsl.StreamInfo:
    """The stream whose `source_id` ends so."""
    predicate = f"contains(source_id, '{source_id}')"
    infos = wait_for(f"stream {source_id}", lambda: pylsl.resolve_bypred(predicate, 1, 1.0))
    return next(info for info in infos if info.source_id().endswith(source_id))


def open_inlet(source_id: str, **options: int) -> pylsl.StreamInlet:
    """Recovering, because liblsl throws away what an inlet has not been asked for when a stream is lost."""
    inlet = pylsl.StreamInlet(find(source_id), **options)
    inlet.open_stream(PATIENCE)
    return inlet


def drain(inlet: pylsl.StreamInlet) -> list[tuple[float, list]]:
    """What has come."""
    samples, stamps = inlet.pull_chunk(0.0, max_samples=4096)
    return list(zip(stamps, samples))


class Session:
    """The program while it runs."""

    def __init__(self, folder: Path, name: str, lsl: str, backend: str = "none", people: int = 1, text: str = CONFIG, **more: str):
        self.folder, self.name, self.asked = folder, name, False
        text = text.format(name=name, lsl=lsl, backend=backend)
        config = folder / f"{name}.toml"
        for key in ("faces", "expected"):
            text = text.replace(f"{key} = 1", f"{key} = {people}")
        config.write_text(text)
        self.log = folder / f"{name}.log"
        command = [PROGRAM, "run", config, "--json"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=log, env=environment(**more)
            )

    @property
    def file(self) -> Path:
        return next(iter(self.folder.glob(f"sessions/{self.name}_*.h5")))

    def started(self) -> Session:
        wait_for(f"session {self.name}: {self.log.read_text()}", lambda: "session_started" in self.log.read_text())
        return self

    def ask(self) -> None:
        """Asks it to end; a second time would end it at once."""
        self.asked = True
        self.process.terminate()

    def end(self) -> dict:
        """Ends it in good order; its report."""
        if not self.asked:
            self.ask()
        out, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode in (0, 4), self.log.read_text()
        return json.loads(out)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Starts sessions; those that a test leaves are killed."""
    sessions: list[Session] = []

    def begin(*args: str, **more: Any) -> Session:
        sessions.append(Session(tmp_path, *args, **more))
        return sessions[-1]

    yield begin
    for session in sessions:
        if session.process.poll() is None:
            session.process.kill()
            session.process.wait()


class Load:
    """`lsl-load`: a session whose faces are numbers that a test can check."""

    def __init__(self, folder: Path, name: str, *args: object):
        self.truth_file = folder / f"{name}.json"
        command = [LOAD, "--name", name, "--truth", self.truth_file, *map(str, args)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "streaming\n"

    def report(self) -> dict:
        """Waits for the end."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        return json.loads(out)

    def truth(self) -> dict[str, list[tuple[int, int]]]:
        """The driver's number and stamp (ns) of each frame of each camera."""
        return json.loads(self.truth_file.read_text())


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Load]]:
    running: list[Load] = []

    def begin(*args: object) -> Load:
        running.append(Load(tmp_path, *args))
        return running[-1]

    yield begin
    for session in running:
        if session.process.poll() is None:
            session.process.kill()
            session.process.wait()
