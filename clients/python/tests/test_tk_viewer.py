"""The example window on the real program, under Xvfb: the picture and its mesh are what the shared memory holds.

The screenshot stays in target/screenshots.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import PROGRAM, ROOT, install
from numpy.typing import NDArray
from test_shm import CONFIG, PATIENCE, until
from youquanti import shm

VIEWER = Path(__file__).parents[1] / "examples" / "tk_viewer.py"
SCREENSHOT = ROOT / "target" / "screenshots" / "tk_viewer.png"
MESH = (0, 255, 120)


@pytest.fixture(scope="session")
def python_with_tk() -> str:
    """This Python, or the system's, which finds NumPy in this one's packages."""
    candidates = [sys.executable, "/usr/bin/python3"]
    environment = os.environ | {"PYTHONPATH": str(Path(np.__file__).parents[1])}

    def first() -> str | None:
        for python in filter(os.path.exists, candidates):
            ran = subprocess.run([python, "-c", "import tkinter, numpy"], env=environment, capture_output=True)
            if ran.returncode == 0:
                return python
        return None

    found = first()
    if found is None:
        problem = install("python3-tk")
        found = first()
        if found is None:
            pytest.skip(problem or "no Python here has both tkinter and NumPy")
    return found


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A display without a screen, and the file of its pixels."""
    if shutil.which("Xvfb") is None and (problem := install("xvfb")):
        pytest.skip(problem)
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-fbdir", str(tmp_path)]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        try:
            with os.fdopen(reading) as answer:
                number = answer.readline().strip()
            assert number, "Xvfb does not start"
            yield f":{number}", tmp_path / "Xvfb_screen0"
        finally:
            server.terminate()


def pixels(dump: Path) -> NDArray[np.uint8]:
    """The screen as [h, w, 3] red, green, blue: the file is in the format of `xwd`."""
    data = dump.read_bytes()
    header = struct.unpack(">25I", data[:100])
    size, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
    rows = np.frombuffer(data, np.uint8, height * line, size + colours * 12).reshape(height, line)
    return rows[:, : width * 4].reshape(height, width, 4)[:, :, 2::-1].copy()


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = rgb.shape
    lines = b"".join(b"\0" + line.tobytes() for line in rgb)
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def test_the_window_shows_the_frame_and_its_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python_with_tk: str, screen: tuple[str, Path]
) -> None:
    display, dump = screen
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    name = f"tk-{os.getpid()}"
    config = tmp_path / "config.toml"
    # The last frame stays in the window: the scene stands still.
    config.write_text(CONFIG.format(name=name))
    paths = [Path(__file__).parents[1] / "src", Path(np.__file__).parents[1]]
    environment = os.environ | {"DISPLAY": display, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    program = subprocess.Popen([PROGRAM, "run", config, "--record", tmp_path / "sessions"], stdout=subprocess.DEVNULL)
    viewer = subprocess.Popen([python_with_tk, VIEWER, "left", name], env=environment)
    try:
        reader, shown = shm.Reader("left", name), []

        def window_shows_a_frame() -> bool:
            assert program.poll() is None and viewer.poll() is None
            frame = reader.wait(0)
            if frame is not None and frame.analysed and len(frame.faces):  # type: ignore[arg-type]
                shown.append(frame)
                del shown[:-40]
            screen = pixels(dump)
            return any(is_on(screen, frame) for frame in shown)

        until("the window shows a frame that was read", window_shows_a_frame)
    finally:
        if dump.exists():
            write_png(SCREENSHOT, pixels(dump))
        program.send_signal(signal.SIGINT)
        program.wait(PATIENCE)
        viewer.kill()
        viewer.wait()


def is_on(screen: NDArray[np.uint8], frame: shm.Frame) -> bool:
    """Whether the screen shows exactly this picture with its landmarks somewhere, but for the names."""
    assert frame.faces is not None
    expected = frame.pixels.copy()
    height, width, _ = expected.shape
    for face in frame.faces:
        x, y = face["landmarks"][:, :2].round().astype(int).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        expected[y[inside], x[inside]] = MESH
    mesh = np.argwhere((screen == MESH).all(axis=2))
    if len(mesh) == 0:
        return False
    # Without a window manager the window is in the corner.
    part = screen[:height, :width]
    differs = (part != expected).any(axis=2)
    return bool(differs.mean() < 0.02)
