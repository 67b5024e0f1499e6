"""Sessions that the real program recorded: one that ended, and one that still runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import youquanti

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "target" / "release" / "youquanti"

CONFIG = """
version = 1

[session]
name = "{name}"

[[camera]]
name = "left"

[camera.scene]
faces = 2
width = 640
height = 360
fps = 20
seed = 7
pace = "{pace}"
frames = {frames}

[[camera]]
name = "right"

[camera.scene]
faces = 1
width = 640
height = 360
fps = 10
seed = 8
pace = "{pace}"
frames = {frames}

[pipeline]
backend = "cpu"
threads = 1
smallest_face = 40

[participants]
expected = 3
names = ["Änne", "Ben", "Cleo"]

[synchrony]
enabled = true
window = "1s"
step = "500ms"
max_lag = "200ms"
history = "2s"
shifts = 19

[recording]
flush_interval = "200ms"
reserve = "1MB"
"""


def install(package: str) -> str | None:
    """Installs a package of Debian; why it could not."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return f"{package} is missing: on Debian, as root, 'apt-get install {package}'"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        ran = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True)
    return None if ran.returncode == 0 else f"{package} could not be installed: {ran.stderr.strip()}"


@dataclass
class Recording:
    """The program while it records, and the file it writes."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    @property
    def path(self) -> Path:
        (path,) = self.folder.glob("sessions/*.h5")
        return path

    def end(self, how: signal.Signals) -> int:
        """Sends a signal and waits until the program is gone."""
        self.process.send_signal(how)
        return self.process.wait()

    def wait_for_faces(self, count: int) -> youquanti.Session:
        """The session as soon as this many faces of the first camera are committed."""
        while self.process.poll() is None:
            try:
                session = youquanti.load(self.path)
            except (ValueError, OSError, youquanti.SessionError):
                pass  # no file yet, or one without tables
            else:
                if len(session.cameras["left"].faces) >= count:
                    return session
                session.close()
            time.sleep(0.05)
        pytest.fail(f"the program ended before it found {count} faces:\n{self.log.read_text()}")


def start(folder: Path, name: str, pace: str, frames: int) -> Recording:
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is missing: run `make build` first")
    config = folder / "session.toml"
    config.write_text(CONFIG.format(name=name, pace=pace, frames=frames))
    log = folder / "log.txt"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [PROGRAM, "run", config], cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    return Recording(process, folder, log)


@pytest.fixture(scope="session")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session of 90 frames of each of two cameras, every one of them looked at."""
    recording = start(tmp_path_factory.mktemp("ended"), "ended", "lossless", 90)
    assert recording.process.wait() == 0, recording.log.read_text()
    return recording.path


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    """A session in real time, which would go on for minutes."""
    recording = start(tmp_path, "running", "real", 6000)
    yield recording
    if recording.process.poll() is None:
        recording.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def readme_examples() -> list[str]:
    """The examples of the README that open a session file, without the first, which only shows names."""
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1:]
    return [example for example in examples if "youquanti.load(" in example]
