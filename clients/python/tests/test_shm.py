"""Shared memory under load and of the real program: never half a frame, never the results of another, always in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import youquanti
from conftest import PROGRAM, ROOT
from youquanti import shm

LOAD = ROOT / "target" / "release" / "examples" / "shm-load"
PATIENCE = 60.0

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for announcements of this test alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def load() -> Iterator[Start]:
    """Starts writers of made-up previews; none outlives the test."""
    writers: list[subprocess.Popen[bytes]] = []

    def start(fps: float, frames: int = 0, size: str = "640x360") -> subprocess.Popen[bytes]:
        name = f"load-{os.getpid()}"
        writers.append(subprocess.Popen([LOAD, name, size, str(fps), str(frames)]))
        return writers[-1]

    yield start
    for writer in writers:
        writer.kill()
        writer.wait()


def until(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.005)


def is_torn(frame: shm.Frame) -> bool:
    """Whether picture, results and number are not all of the same frame."""
    words = frame.pixels.reshape(-1).view("<u8")
    assert frame.faces is not None
    (face,) = frame.faces
    numbers = [face["landmarks"], face["blendshapes"], face["head_pose"], face["bbox"], face["score"]]
    of_this = all(np.all(values == frame.seq) for values in numbers)
    sum_is_right = int(words[2:].sum(dtype=np.uint64)) == int(words[1])
    return not (of_this and sum_is_right and int(words[0]) == frame.seq)


def next_frame(reader: shm.Reader) -> shm.Frame:
    frame = reader.wait(PATIENCE)
    assert frame is not None, "no frame came"
    return frame


def test_under_load_every_frame_is_whole_and_the_order_is_kept(load: Start) -> None:
    # Fast enough that the writer comes round to the slot that is being read.
    writer, reader = load(1000, 4000), shm.Reader("load")
    read, last, overtaken = 0, -1, 0
    while last < 3990:
        frame = reader.wait(PATIENCE if writer.poll() is None else 0)
        if frame is None:
            break
        assert not is_torn(frame), frame.seq
        assert frame.seq > last
        last, read = frame.seq, read + 1
        try:
            with reader.latest() or pytest.fail("no frame") as view:
                whole = not is_torn(view)
        except shm.Overwritten:
            overtaken += 1
        else:
            assert whole, view.seq
    assert read > 50 and last > 1000, (read, last)
    print(f"{read} frames read, {overtaken} views overwritten and noticed")


def test_a_view_that_is_looked_at_for_too_long_says_so(load: Start) -> None:
    load(200)
    reader = shm.Reader("load")
    next_frame(reader)
    view = reader.latest()
    assert view is not None
    until("its slot is written again", lambda: not view.is_whole())
    with pytest.raises(shm.Overwritten), view:
        pass
    with pytest.raises(shm.Overwritten):
        view.copy()
    copy = reader.read()
    assert copy is not None and copy.is_whole() and not is_torn(copy)
    assert not view.pixels.flags.writeable and copy.pixels.flags.writeable


def test_a_writer_that_is_killed_and_started_again_is_found_again(load: Start) -> None:
    reader = shm.Reader("load")
    assert reader.latest() is None and reader.wait(0) is None, "nobody is there yet"
    for life in range(1, 4):
        writer = load(200)
        frame = next_frame(reader)
        assert reader.connections == life
        for _ in range(5):
            after = next_frame(reader)
            assert after.seq > frame.seq and not is_torn(after)
            frame = after
        (session,) = shm.sessions()
        assert session.pid == writer.pid
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert shm.sessions() == [], "what is left behind is no session"
        until("the reader knows", lambda: reader.latest() is None)


READER = """
import sys
sys.path[:0] = sys.argv[1:3]
from test_shm import is_torn
from youquanti import shm
last = -1
for frame in shm.Reader("load"):
    assert not is_torn(frame) and frame.seq > last
    last = frame.seq
    print(last, flush=True)
"""


def test_a_reader_that_is_stopped_blocks_nobody_and_goes_on_with_whole_frames(load: Start) -> None:
    load(300)
    here = Path(__file__).parent
    command = [sys.executable, "-c", READER, str(here), str(here.parent / "src")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            first = int(other.stdout.readline())
            watcher = shm.Reader("load")
            for _ in range(3):
                other.send_signal(signal.SIGSTOP)
                before = next_frame(watcher).seq
                until("the writer has gone on", lambda: next_frame(watcher).seq > before + 50)  # noqa: B023 called at once
                other.send_signal(signal.SIGCONT)
                seen = first
                while seen <= before + 50:
                    line = other.stdout.readline()
                    assert line, "the reader ended: a frame was torn or out of order"
                    seen = int(line)
        finally:
            other.kill()


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
fps = 15
format = "RGB24"
[pipeline]
backend = "cpu"
smallest_face = 40
[preview]
width = 320
height = 180
format = "RGB24"
"""


def test_of_the_program_picture_results_and_file_agree_frame_by_frame(tmp_path: Path) -> None:
    name = f"shm-{os.getpid()}"
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(name=name))
    previews: dict[int, shm.Frame] = {}
    pictures: dict[int, shm.Frame] = {}
    command: list[str | Path] = [PROGRAM, "run", config, "--record", tmp_path / "sessions"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as program:
        try:
            small, large = shm.Reader("left", name), shm.Reader("left", name, kind="frames")
            end = time.monotonic() + PATIENCE
            while len(previews.keys() & pictures.keys()) < 20:
                assert time.monotonic() < end and program.poll() is None, (len(previews), len(pictures))
                for reader, frames in ((large, pictures), (small, previews)):
                    frame = reader.wait(0.001)
                    if frame is not None:
                        frames[frame.seq] = frame
            (session,) = shm.sessions()
            assert (session.name, session.pid) == (name, program.pid)
        finally:
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, said.decode()
    assert shm.sessions() == []

    with youquanti.load(next((tmp_path / "sessions").glob("*.h5"))) as recorded:
        left = recorded.cameras["left"]
        faces, landmarks = left.faces, left.landmarks[:]
        blendshapes, poses = left.blendshapes[:], left.head_pose[:]
    seen = 0
    for seq, frame in previews.items():
        assert frame.pixels.shape == (180, 320, 3) and frame.results is not None
        assert tuple(frame.results["camera_size"]) == (640, 360)
        if seq in pictures:
            picture = pictures[seq]
            assert picture.pixels.shape == (360, 640, 3) and picture.faces is None
            assert picture.captured_at_ns == frame.captured_at_ns
            mean = picture.pixels.reshape(180, 2, 320, 2, 3).mean(axis=(1, 3))
            assert np.abs(mean - frame.pixels).max() <= 1.0, f"frame {seq}: another picture"
        if frame.faces is None:
            continue
        rows = np.flatnonzero(faces["frame_seq"] == seq)
        assert len(rows) == len(frame.faces)
        for row, face in zip(rows, frame.faces, strict=True):
            seen += 1
            assert (face["track"], face["participant"]) == (faces["track"][row], faces["participant"][row])
            # Half the size: pixel centres are at whole numbers.
            half = landmarks[row] * 0.5 - [0.25, 0.25, 0.0]
            np.testing.assert_allclose(face["landmarks"], half, atol=1e-3)
            np.testing.assert_array_equal(face["blendshapes"], blendshapes[row])
            np.testing.assert_array_equal(face["head_pose"], poses[row])
    assert seen >= 20


def _segment(path: Path, form: str, width: int, height: int, stride: int, used: int) -> bytes:
    """A segment of two slots, the second of which holds frame 5, whose bytes count up."""
    rows = height + (height + 1) // 2 if form == "NV12" else height
    size = used if form == "MJPG" else rows * stride
    slot = -(-size // 4096) * 4096
    memory = np.zeros(4096 + 2 * slot, np.uint8)
    header = memory[:128].view(shm.SEGMENT)
    header["magic"], header["version"], header["state"] = b"YQFRAMES", shm.SEGMENT_VERSION, 1
    header["slot_header_offset"], header["slot_header_bytes"], header["slots"] = 128, 64, 2
    header["pixels_offset"], header["pixels_stride"], header["frame_bytes"] = 4096, slot, size
    header["width"], header["height"], header["line_stride"], header["format"] = width, height, stride, form.encode()
    slots = memory[128:256].view(shm.SLOT)
    slots["generation"], slots["seq"], slots["bytes_used"] = (3, 2), (9, 5), used
    memory[4096 + slot : 4096 + slot + size] = np.arange(size) % 251
    path.write_bytes(memory.tobytes())
    return memory.tobytes()


@pytest.mark.parametrize(
    ("form", "stride", "shape", "last"),
    [
        ("RGB24", 25, (5, 7, 3), 4 * 25 + 20),
        ("YUYV", 20, (5, 8, 2), 4 * 20 + 15),
        ("NV12", 10, (8, 8), 7 * 10 + 7),
        ("GREY", 9, (5, 7), 4 * 9 + 6),
        ("MJPG", 0, (33,), 32),
    ],
)
def test_every_format_has_its_shape(tmp_path: Path, form: str, stride: int, shape: tuple[int, ...], last: int) -> None:
    _segment(tmp_path / "s", form, 7, 5, stride, 33)
    frame = shm.Segment(tmp_path / "s").newest()
    assert frame is not None and frame.seq == 5, "the slot that is being written is none"
    assert frame.pixels.shape == shape and frame.pixels.flat[-1] == last % 251
    assert frame.copy().pixels.shape == shape


def test_damaged_segments_are_errors_and_nothing_else(tmp_path: Path) -> None:
    good = _segment(tmp_path / "s", "BGR24", 7, 5, 21, 105)
    random = np.random.default_rng(1)
    for _ in range(500):
        bad = np.frombuffer(good, np.uint8)[: int(random.integers(0, len(good)))].copy()
        head = bad[: 256 if random.random() < 0.5 else 104]
        places = random.integers(0, max(len(head), 1), 8)
        head[places[places < len(head)]] = random.integers(0, 256, int((places < len(head)).sum()))
        (tmp_path / "bad").write_bytes(bad.tobytes())
        try:
            segment = shm.Segment(tmp_path / "bad")
            frame = segment.newest()
            assert frame is None or frame.pixels.size > 0
        except shm.ShmError:
            pass
    (tmp_path / "old").write_bytes(good[:8] + b"\x01\0\0\0" + good[12:])
    with pytest.raises(shm.ShmError, match="layout 1"):
        shm.Segment(tmp_path / "old")


def test_announcements_that_are_none_are_errors(tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "youquanti"
    folder.mkdir()
    for text in ("", "[]", '{"version": 1}', '{"version": 99}'):
        with open(folder / "x.json", "w+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(text)
            file.flush()
            with pytest.raises(shm.ShmError, match=r"x\.json"):
                shm.sessions()
    assert shm.sessions() == [], "nobody holds it any more"


def test_numpy_is_enough() -> None:
    code = "import sys; sys.modules['h5py'] = None; from youquanti import shm; print(shm.sessions())"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ran.stdout, ran.returncode) == ("[]\n", 0), ran.stderr
