"""Frames and previews of a running session, read from its shared memory. NumPy alone; nothing is copied unless asked for.

    reader = youquanti.shm.Reader("left")           # previews; kind="frames" for the camera's own pictures
    while True:
        frame = reader.wait(1.0)                    # a copy of the next new one; None if none came
        if frame is not None and frame.analysed:
            frame.pixels, frame.faces["landmarks"]  # [h, w, 3] u8 and [n, 478, 3] pixels of that picture

Never blocks the program that writes, and never keeps it from using a slot again: that is why a view may be overwritten
while it is looked at. `Frame.is_whole` tells, `with reader.latest() as frame:` checks at its end. A service that is started
again is found again. The layout is in docs/shared-memory.md.

Clock: every `*_ns` is nanoseconds of this machine's CLOCK_MONOTONIC, as `time.monotonic_ns()` gives.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: Versions of the layouts that this module reads.
SEGMENT_VERSION = 2
DISCOVERY_VERSION = 1

_LIVE = 1
#: Looks for a frame that nobody writes meanwhile, before one gives up until the next call.
_ATTEMPTS = 16
#: Seconds without a new frame after which it is asked whether the segment still is the session's.
_QUIET = 0.5
#: Seconds between two looks for a segment that is not there.
_RETRY = 0.02
#: Seconds between two looks for a new frame.
_POLL = 0.001


def _dtype(size: int, **fields: tuple[Any, int]) -> np.dtype[np.void]:
    names = list(fields)
    formats = [fields[name][0] for name in names]
    offsets = [fields[name][1] for name in names]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


#: Header of a segment.
SEGMENT = _dtype(
    128,
    magic=("S8", 0),
    version=("<u4", 8),
    state=("<u4", 12),
    slot_header_offset=("<u4", 16),
    slot_header_bytes=("<u4", 20),
    pixels_offset=("<u8", 24),
    pixels_stride=("<u8", 32),
    frame_bytes=("<u8", 40),
    slots=("<u4", 48),
    width=("<u4", 52),
    height=("<u4", 56),
    line_stride=("<u4", 60),
    format=("S8", 64),
    published=("<u8", 72),
    results_offset=("<u8", 80),
    results_bytes=("<u4", 88),
    results_faces=("<u4", 92),
)
#: Header of a slot.
SLOT = _dtype(
    64,
    generation=("<u8", 0),
    seq=("<u8", 8),
    captured_at_ns=("<u8", 16),
    received_at_ns=("<u8", 24),
    bytes_used=("<u8", 32),
    driver_seq=("<u4", 40),
    flags=("<u2", 44),
    camera=("<u2", 46),
)
#: Header of a slot's results.
RESULTS = _dtype(
    128,
    state=("<u4", 0),
    faces=("<u4", 4),
    over_limit=("<u4", 8),
    detector_ran=("<u4", 12),
    submitted_ns=("<u8", 16),
    uploaded_ns=("<u8", 24),
    detected_ns=("<u8", 32),
    landmarks_ns=("<u8", 40),
    published_ns=("<u8", 48),
    previewed_ns=("<u8", 56),
    camera_size=(("<u4", 2), 64),
)
#: One face. `participant` is n of `Pn`, 0 without one; box and landmarks are pixels of the picture beside it.
FACE = _dtype(
    6080,
    track=("<u4", 0),
    participant=("<u2", 4),
    score=("<f4", 8),
    presence=("<f4", 12),
    bbox=(("<f4", 4), 16),
    head_pose=(("<f4", (4, 4)), 32),
    blendshapes=(("<f4", 52), 96),
    landmarks=(("<f4", (478, 3)), 320),
)


class ShmError(Exception):
    """Shared memory that this module cannot read."""


class Overwritten(ShmError):
    """The frame's slot was written again before it had been looked at to the end."""


@dataclass(frozen=True)
class Camera:
    """Where a camera's segments are; None where there is none yet."""

    name: str
    frames: Path | None
    preview: Path | None


@dataclass(frozen=True)
class Session:
    """A session that runs on this machine."""

    name: str
    pid: int
    started_ns: int
    started_utc_ns: int
    cameras: tuple[Camera, ...]


def default_folder() -> Path:
    """Where sessions of this user are announced."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        return Path(runtime) / "youquanti"
    return Path(f"/dev/shm/youquanti-{os.getuid()}")


def sessions(folder: Path | None = None) -> list[Session]:
    """The sessions that run now, the newest first. What a killed program has left behind is none."""
    found = []
    for path in sorted((folder or default_folder()).glob("*.json")):
        text = _read_if_alive(path)
        if text is None:
            continue
        try:
            said = json.loads(text)
            if said["version"] != DISCOVERY_VERSION:
                raise ShmError(f"{path} has version {said['version']}, this module reads {DISCOVERY_VERSION}")
            cameras = tuple(
                Camera(camera["name"], _path(camera["frames"]), _path(camera["preview"])) for camera in said["cameras"]
            )
            found.append(Session(said["session"], said["pid"], said["started_ns"], said["started_utc_ns"], cameras))
        except (ValueError, KeyError, TypeError) as error:
            raise ShmError(f"{path} is not the announcement of a session: {error!r}") from error
    return sorted(found, key=lambda session: -session.started_ns)


def _path(said: str | None) -> Path | None:
    return None if said is None else Path(said)


def _read_if_alive(path: Path) -> str | None:
    # A session holds the lock on its announcement; one that can be had is nobody's. A file that was replaced while it
    # was looked at is nobody's either: then the next one is.
    for _ in range(_ATTEMPTS):
        try:
            with open(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read()
                here, there = os.fstat(file.fileno()), os.stat(path)
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return None
        except FileNotFoundError:
            return None
    return None


class Segment:
    """One segment, mapped for reading. Valid for as long as it is held, whatever becomes of its session."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.fstat(fd)
            if stat.st_size < SEGMENT.itemsize:
                raise ShmError(f"{path} is not ready")
            memory = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.identity = (stat.st_dev, stat.st_ino)
        self._memory = memory
        self._header = np.frombuffer(memory, SEGMENT, 1)[0:1]
        header = self._header[0]
        if header["magic"] != b"YQFRAMES":
            raise ShmError(f"{path} is not ready, or not a segment of YouQuanti")
        if header["version"] != SEGMENT_VERSION:
            raise ShmError(f"{path} has layout {header['version']}, this module reads {SEGMENT_VERSION}")
        count = int(header["slots"])
        self.width, self.height = int(header["width"]), int(header["height"])
        self.format = header["format"].decode("ascii", "replace")
        self._line_stride, self._frame_bytes = int(header["line_stride"]), int(header["frame_bytes"])
        self._pixels_offset, self._stride = int(header["pixels_offset"]), int(header["pixels_stride"])
        self._results_offset, self._room = int(header["results_offset"]), int(header["results_faces"])
        first = int(header["slot_header_offset"])
        results = RESULTS.itemsize + self._room * FACE.itemsize if self._results_offset else 0
        ends = (
            first + count * SLOT.itemsize,
            self._pixels_offset + (count - 1) * self._stride + max(self._frame_bytes, self._least_bytes()),
            self._results_offset + (count - 1) * self._stride + results,
        )
        if count < 1 or int(header["slot_header_bytes"]) != SLOT.itemsize or max(ends) > len(memory):
            raise ShmError(f"{path} is damaged: what it says of itself does not fit into its {len(memory)} bytes")
        self._slots = np.frombuffer(memory, SLOT, count, first)

    def _least_bytes(self) -> int:
        least = {"RGB24": 3, "BGR24": 3, "GREY": 1, "YUYV": 2, "NV12": 1, "MJPG": 0}.get(self.format)
        across = self.width + self.width % 2 if self.format in ("YUYV", "NV12") else self.width
        if least is None or self.width < 1 or self.height < 1 or self._line_stride < across * least:
            raise ShmError(f"{self.path} is damaged: {self.format!r} of {self.width}x{self.height} pixels")
        rows = self.height + (self.height + 1) // 2 if self.format == "NV12" else self.height
        return rows * self._line_stride

    @property
    def closed(self) -> bool:
        """No frame will follow."""
        return int(self._header["state"][0]) != _LIVE

    @property
    def published(self) -> int:
        """Frames so far: changes with each."""
        return int(self._header["published"][0])

    def newest(self) -> Frame | None:
        """A view of the newest whole frame; None if there is none, or the writer was always faster."""
        for _ in range(_ATTEMPTS):
            generations = self._slots["generation"].copy()
            whole = (generations > 0) & (generations % 2 == 0)
            if not whole.any():
                return None
            slot = int(np.where(whole, self._slots["seq"].astype(np.int64), -1).argmax())
            frame = Frame(self, slot, int(generations[slot]))
            if frame.is_whole():
                return frame
        return None

    def _pixels(self, slot: int, used: int) -> NDArray[np.uint8]:
        start = self._pixels_offset + slot * self._stride
        stride, width, height = self._line_stride, self.width, self.height
        if self.format == "MJPG":
            return np.frombuffer(self._memory, np.uint8, min(used, self._frame_bytes), start)
        rows = height + (height + 1) // 2 if self.format == "NV12" else height
        lines = np.frombuffer(self._memory, np.uint8, rows * stride, start).reshape(rows, stride)
        if self.format in ("RGB24", "BGR24"):
            return _channels(lines, width, 3)
        if self.format == "YUYV":
            return _channels(lines, width + width % 2, 2)
        return lines[:, : width + width % 2] if self.format == "NV12" else lines[:, :width]

    def _results(self, slot: int) -> tuple[NDArray[np.void], NDArray[np.void]] | None:
        if self._results_offset == 0:
            return None
        start = self._results_offset + slot * self._stride
        header = np.frombuffer(self._memory, RESULTS, 1, start)
        count = min(int(header["faces"][0]), self._room)
        return header, np.frombuffer(self._memory, FACE, count, start + RESULTS.itemsize)


def _channels(lines: NDArray[np.uint8], width: int, channels: int) -> NDArray[np.uint8]:
    shape, strides = (lines.shape[0], width, channels), (lines.strides[0], channels, 1)
    return np.lib.stride_tricks.as_strided(lines, shape, strides, writeable=False)


class Frame:
    """A frame with what was found in it: a view of its slot, or a copy.

    pixels: [h, w, 3] for RGB24 and BGR24, [h, w, 2] for YUYV, [h, w] for GREY, both planes [h * 3/2, w] for NV12, and the
        bytes of the JPEG for MJPG.
    faces: structured array of `FACE`, empty without faces; None where nothing is known of the frame but its picture,
        which is always so of `kind="frames"`.
    """

    def __init__(self, segment: Segment, slot: int, generation: int) -> None:
        self._segment: Segment | None = segment
        self._slot, self._generation = slot, generation
        header = segment._slots[slot : slot + 1].copy()[0]
        self.seq, self.driver_seq = int(header["seq"]), int(header["driver_seq"])
        self.captured_at_ns, self.received_at_ns = int(header["captured_at_ns"]), int(header["received_at_ns"])
        self.flags, self.camera = int(header["flags"]), int(header["camera"])
        self.format = segment.format
        self.pixels = segment._pixels(slot, int(header["bytes_used"]))
        results = segment._results(slot)
        self.results: np.void | None = None
        self.faces: NDArray[np.void] | None = None
        if results is not None:
            self.results = results[0].copy()[0]
            if self.results["state"] == 1:
                self.faces = results[1]

    @property
    def analysed(self) -> bool:
        """Whether `faces` is what was found in exactly this frame."""
        return self.faces is not None

    def is_whole(self) -> bool:
        """Whether nobody has written the slot since this view was made. Always so of a copy."""
        segment = self._segment
        return segment is None or int(segment._slots["generation"][self._slot]) == self._generation

    def copy(self) -> Frame:
        """The frame in memory of its own.

        Raises Overwritten if its slot was written again meanwhile.
        """
        copy = object.__new__(Frame)
        copy.__dict__.update(self.__dict__)
        copy.pixels = self.pixels.copy()
        copy.faces = None if self.faces is None else self.faces.copy()
        self._check()
        copy._segment = None
        return copy

    def rgb(self) -> NDArray[np.uint8]:
        """The picture as [h, w, 3] red, green, blue: of RGB24 and BGR24, as previews are."""
        if self.format == "RGB24":
            return self.pixels
        if self.format == "BGR24":
            return self.pixels[:, :, ::-1]
        raise ShmError(f"{self.format} is not RGB: previews are, or convert it yourself")

    def _check(self) -> None:
        if not self.is_whole():
            raise Overwritten(f"frame {self.seq} was overwritten while it was looked at")

    def __enter__(self) -> Frame:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._check()


class Reader:
    """The newest frames of a camera, over restarts of camera and service.

    camera: its name; None for the first one.
    session: its name; None for the newest session that has the camera.
    kind: "preview" for small pictures with results, "frames" for the camera's own.
    """

    def __init__(
        self,
        camera: str | None = None,
        session: str | None = None,
        kind: Literal["preview", "frames"] = "preview",
        folder: Path | None = None,
    ) -> None:
        if kind not in ("preview", "frames"):
            raise ValueError(f'kind is {kind!r}, not "preview" or "frames"')
        self._camera, self._session, self._kind, self._folder = camera, session, kind, folder
        self._segment: Segment | None = None
        #: Frames that the segment had when it last had news, and when that was, by `time.monotonic`.
        self._news, self._news_at = -1, 0.0
        #: The same of the frame that `wait` has given last, its segment and its number.
        self._given: tuple[tuple[int, int], int, int] | None = None
        #: Segments that were found so far: grows by one with every restart of service or camera.
        self.connections = 0

    def latest(self) -> Frame | None:
        """A view of the newest frame, nothing copied; None without one. Use it in a `with`, or ask `is_whole` after."""
        segment = self._current()
        return None if segment is None else segment.newest()

    def read(self) -> Frame | None:
        """A copy of the newest frame; None without one."""
        for _ in range(_ATTEMPTS):
            frame = self.latest()
            if frame is None:
                return None
            try:
                return frame.copy()
            except Overwritten:
                continue
        return None

    def wait(self, timeout: float) -> Frame | None:
        """A copy of a frame that is newer than all before, as soon as there is one; None after `timeout` seconds."""
        until = time.monotonic() + timeout
        while True:
            segment = self._current()
            if segment is not None:
                published = segment.published
                if self._given is None or self._given[:2] != (segment.identity, published):
                    frame = self.read()
                    is_new = self._given is None or self._given[0] != segment.identity
                    if frame is not None and self._segment is segment and (is_new or frame.seq > self._last_seq()):
                        self._given = (segment.identity, published, frame.seq)
                        return frame
            if time.monotonic() >= until:
                return None
            time.sleep(_POLL)

    def _last_seq(self) -> int:
        return -1 if self._given is None else self._given[2]

    def __iter__(self) -> Iterator[Frame]:
        """Copies of new frames, for ever; those that came while one was busy are left out, the newest wins."""
        while True:
            frame = self.wait(1.0)
            if frame is not None:
                yield frame

    def _current(self) -> Segment | None:
        """The segment; looked for again when it is closed, or nothing new has come for a while."""
        segment, now = self._segment, time.monotonic()
        if segment is not None and not segment.closed:
            published = segment.published
            if published != self._news:
                self._news, self._news_at = published, now
            if now - self._news_at < _QUIET:
                return segment
        elif now - self._news_at < _RETRY:
            return None
        self._news_at = now
        path = self._find()
        try:
            stat = None if path is None else os.stat(path)
            if path is None or stat is None:
                segment = None
            elif segment is None or segment.identity != (stat.st_dev, stat.st_ino):
                segment = Segment(path)
                self.connections += 1
        except (FileNotFoundError, ShmError):
            # Just gone, or not yet ready: the next call looks again.
            segment = None
        self._segment = None if segment is None or segment.closed else segment
        return self._segment

    def _find(self) -> Path | None:
        for session in sessions(self._folder):
            if self._session not in (None, session.name):
                continue
            for camera in session.cameras:
                if self._camera in (None, camera.name):
                    return camera.preview if self._kind == "preview" else camera.frames
        return None
