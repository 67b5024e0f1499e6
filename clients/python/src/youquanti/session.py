"""The session file as Python objects: what was committed to it, and never a row more.

Owns the rule that a table ends where the newest row of `/committed` says. Never changes a file, and reads
large tables only where they are asked for.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import tables
from .tables import NOT_RUN as NOT_RUN

if TYPE_CHECKING:
    import h5py
    import pandas

FORMAT = "youquanti-session"
VERSION = 1

#: One row of a table: column name to value.
Row = dict[str, Any]


class SessionError(Exception):
    """The file is not a session file, is of another version, or is damaged."""


class FrameFlags(enum.IntFlag):
    """Bits of the column `flags` of `Camera.frames`."""

    #: The source's stamp was not monotonic: `captured_at_ns` is the time of receipt instead.
    STAMP_REPLACED = 1 << 0
    #: The source gives no stamps: `captured_at_ns` is the time of receipt.
    STAMP_IS_RECEIPT = 1 << 1
    #: The stamp is the start of the exposure; without it, the end of the frame.
    STAMP_IS_EXPOSURE_START = 1 << 2
    #: The driver marked the picture as damaged; no face was looked for.
    DAMAGED = 1 << 3
    #: No memory was free for the picture; no face was looked for.
    NO_SLOT = 1 << 4


class StampOffset(NamedTuple):
    """Measured offset of a camera's stamps: stamp minus the middle of the exposure, seconds. Subtract it."""

    mean_s: float
    #: Root of the mean square around the mean.
    rms_s: float
    median_s: float
    #: 5th percentile.
    p05_s: float
    #: 95th percentile.
    p95_s: float
    #: Single measurements that these figures come from.
    count: int  # type: ignore[assignment]  # hides the tuple's method, which nobody needs here
    #: When it was measured, nanoseconds since 1970.
    measured_at_utc_ns: int


class Rows:
    """The committed rows of a large table, read from the file when indexed.

    Takes the indices of a NumPy array: `rows[7]`, `rows[10:20]`, `rows[mask]`, `rows[numbers]`, `rows[:, 3]`.
    `rows[:]` and `np.asarray(rows)` read everything.
    """

    #: Rows that are read at once when single ones are asked for: whole chunks of the file.
    _BLOCK = 1024

    def __init__(self, dataset: h5py.Dataset, count: int) -> None:
        self._dataset = dataset
        #: Rows first: (n, ...).
        self.shape: tuple[int, ...] = (count, *dataset.shape[1:])
        #: Type of an element.
        self.dtype: np.dtype[Any] = dataset.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions, the rows included."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(first, slice):
            # HDF5 has no negative steps, so those are turned around in memory.
            start, stop, step = first.indices(len(self))
            if step > 0:
                block = self._dataset[start : max(start, stop) : step]
            else:
                block = self[np.arange(start, stop, step)]
            return block[(slice(None), *rest)]
        if first is Ellipsis:
            return self[:][key]
        # The row numbers stand in for the rows: NumPy judges and resolves any other index.
        numbers = np.arange(len(self))[first]
        if numbers.ndim == 0:
            return self._dataset[int(numbers)][tuple(rest)]
        places = np.arange(numbers.size).reshape(numbers.shape)
        return self._gather(numbers.ravel())[(places, *rest)]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("rows of a file cannot become an array without a copy")
        return np.asarray(self[:], dtype=dtype)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), self._BLOCK):
            yield from self[start : start + self._BLOCK]

    def __repr__(self) -> str:
        return f"<Rows of {self._dataset.name}: shape {self.shape}, {self.dtype}>"

    def _gather(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Rows by their numbers, in any order; reads each block that has one of them once."""
        out = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        blocks = numbers // self._BLOCK
        for block in np.unique(blocks):
            start = int(block) * self._BLOCK
            inside = blocks == block
            out[inside] = self._dataset[start : min(start + self._BLOCK, len(self))][numbers[inside] - start]
        return out


class Camera:
    """One camera of a session. Row i of `faces`, `landmarks`, `blendshapes` and `head_pose` belongs together."""

    def __init__(self, name: str, group: h5py.Group, session: Session) -> None:
        self._group = group
        self._session = session
        #: Its name in the configuration.
        self.name = name
        #: Its place in the configuration, from 0.
        self.index = int(group.attrs["index"])
        #: `seq` of the first frame that belongs to this recording: what was captured before it began is not in it.
        self.first_seq = int(group.attrs.get("first_seq", 0))
        #: Width of the picture, pixels.
        self.width = int(group.attrs["width"])
        #: Height of the picture, pixels.
        self.height = int(group.attrs["height"])
        #: Name of the pixel format, e.g. "MJPG".
        self.pixel_format = _text(group.attrs["pixel_format"])
        #: Driver, model, serial number, address.
        self.device = _text(group.attrs["device"])
        #: Whose clock the stamps are of, and which instant they name.
        self.stamp_source = _text(group.attrs["stamp_source"])
        #: Frames a second as the camera declared them; None if it was never opened.
        self.fps: float | None = float(group.attrs["fps"]) if "fps" in group.attrs else None
        #: What was asked of it: size [width, height], format, fps; None was left to the camera.
        self.asked: Row = json.loads(group.attrs.get("asked", '{"size": null, "format": null, "fps": null}'))
        #: Its controls when it was opened, each with name, asked (None: left as it was) and got.
        self.controls: list[Row] = json.loads(group.attrs.get("controls", "[]"))
        #: How much later than the light its stamps are, None if that was never measured; see `light_time`.
        self.stamp_offset = _stamp_offset(group.attrs)

    @property
    def calibrated(self) -> bool:
        """Whether the offset of its stamps was measured, for this device in this mode."""
        return self.stamp_offset is not None

    @property
    def stamp_offset_s(self) -> float | None:
        """Stamp minus light in seconds, the median of what was measured; None if it never was."""
        return None if self.stamp_offset is None else self.stamp_offset.median_s

    def light_time(self, time: Any) -> Any:
        """When the light of a frame fell on the sensor, seconds since the session's start: `time`, of frames,
        results or faces, minus `stamp_offset_s`. Stamps in the file are as the driver gave them.

        Raises `ValueError` if the offset was never measured.
        """
        if self.stamp_offset_s is None:
            raise ValueError(
                f"the offset of camera {self.name!r} was never measured: see `youquanti calibrate`"
            )
        return time - self.stamp_offset_s

    @property
    def quality(self) -> Mapping[str, NDArray[Any]]:
        """Its clock health over time, by item: structured arrays [n] of time, time_ns, value.

        Each minute, and the session's end, has a value for the time since the one before; `time` is the end of it.
        Where too few frames came there is none.

        frames, driver_lost, stamps_replaced            counts
        interval_mean_s, interval_jitter_s (standard deviation), interval_max_s
        delay_mean_s, delay_min_s, delay_std_s          receipt minus stamp
        clock_drift_ppm                                 by how much the driver's clock gains on the machine's
        phase_to:<camera>_s, phase_spread_to:<camera>_s stamps minus those of the first camera of the same rate,
                                                        circular within half a period; positive: this one is later
        """
        return self._session.quality.get(self.name, {})

    @cached_property
    def frames(self) -> NDArray[Any]:
        """All captured frames, structured [n].

        time            f8  s since the session's start, of `captured_at_ns`
        seq             u8  counts captured frames of this camera from 0
        driver_seq      u4  the driver's own counter; a jump is a frame that the driver lost
        flags           u4  see `FrameFlags`
        captured_at_ns  u8  the source's stamp
        received_at_ns  u8  when the frame reached the recording program
        """
        return self._session._timed(self._path("frames"), "captured_at_ns")

    @cached_property
    def video(self) -> NDArray[Any]:
        """Frames that are in the videos beside the file, structured [n]; empty without any.

        time            f8  s since the session's start, of `captured_at_ns`
        seq             u8  `seq` of the frame
        captured_at_ns  u8  the frame's stamp
        segment         u4  which file, from 0: the session file's name with `.<camera>.<segment, three digits>.mkv`
        frame           u4  which frame of that file, from 0
        """
        if self._path("video") not in self._session._committed:
            names = (("time", "f8"), ("seq", "u8"), ("captured_at_ns", "u8"), ("segment", "u4"), ("frame", "u4"))
            return np.empty(0, list(names))
        return self._session._timed(self._path("video"), "captured_at_ns")

    @cached_property
    def results(self) -> NDArray[Any]:
        """All frames that were analysed, also those without a face, structured [n].

        A frame without a row here was dropped before it was analysed; `Session.ledger` says why. In a compressed
        file that still grows, or whose program was killed, the last rows may have no `faces` yet.

        time            f8  s since the session's start, of `captured_at_ns`
        frame_seq       u8  `seq` of the frame
        captured_at_ns  u8  the frame's stamp
        faces           u4  faces found: so many rows of `Camera.faces` belong to the frame
        over_limit      u2  faces seen beyond the configured maximum, which have no rows
        detector_ran    u2  1 if the detector ran on the frame, 0 if faces come from tracks alone
        """
        return self._session._timed(self._path("results"), "captured_at_ns")

    @cached_property
    def faces(self) -> NDArray[Any]:
        """One row for each face of each frame, structured [n], in the order of the frames.

        time            f8     s since the session's start, of `captured_at_ns`
        frame_seq       u8     `seq` of the frame
        captured_at_ns  u8     the frame's stamp
        track           u4     unique in the session, over all cameras
        participant     u4     1 is "P1"; 0: no participant is known
        score           f4     of the detector, 0 to 1
        bbox            f4[4]  x0, y0, x1, y1, pixels of the camera picture
        presence        f4     confidence of the landmark network, 0 to 1
        sharpness       f8     variance of the Laplacian of the face's picture; NaN: not measured; absent in earlier files
        latency_us      u4[6]  from the stamp until the stages in `latency_stages` were done; `NOT_RUN`
        """
        return self._session._timed(self._path("faces"), "captured_at_ns")

    @property
    def landmarks(self) -> Rows:
        """[n, 478, 3] f4: x right, y down, pixels of the camera picture; z in the same unit, negative is nearer."""
        return self._rows("landmarks")

    @property
    def blendshapes(self) -> Rows:
        """[n, 52] f4: 0 to 1, columns as in `blendshape_names`."""
        return self._rows("blendshapes")

    @property
    def head_pose(self) -> Rows:
        """[n, 4, 4] f4: from the canonical face to the camera, metres, right-handed, y up, looking along -z."""
        return self._rows("head_pose")

    @cached_property
    def pose(self) -> NDArray[Any] | None:
        """Frames that were looked at for a body, also those without one, structured [n]; None where bodies were not sought.

        Frames without a row were skipped: what looks for bodies takes as many as one thread can. Row i belongs to row i of
        `pose_points`. Whose body it is, the file does not say; its nose is in their face.

        time            f8  s since the session's start, of `captured_at_ns`
        frame_seq       u8  `seq` of the frame
        captured_at_ns  u8  the frame's stamp
        valid           u2  1 if there is a body
        detector_ran    u2  1 if the detector ran on the frame, 0 if the body was followed from the one before
        latency_us      u4  from the stamp until the result was there
        presence        f4  the network's confidence, 0 to 1, that there is a body where it looked; 0: nowhere to look
        score           f4  of the detection that began the body's track, 0 to 1; NaN without a body
        """
        path = self._path("pose")
        return self._session._timed(path, "captured_at_ns") if path in self._session._committed else None

    @property
    def pose_points(self) -> Rows | None:
        """[n, 33, 5] f4: x, y in pixels of the camera picture, z in the same unit, 0 at the mid-hip, negative is nearer; visibility and
        presence, 0 to 1. NaN without a body; None where bodies were not sought."""
        if self.pose is None:
            return None
        return self._session._rows(self._path("pose_points"), ruler=self._path("pose"))

    @cached_property
    def pose_names(self) -> tuple[str, ...]:
        """Names of the 33 points, "nose" first; empty where bodies were not sought."""
        if self.pose is None:
            return ()
        return tuple(_text(name) for name in self._group["pose_points"].attrs["names"])

    @cached_property
    def blendshape_names(self) -> tuple[str, ...]:
        """Names of the 52 columns of `blendshapes`, "_neutral" first."""
        return tuple(_text(name) for name in self._group["blendshapes"].attrs["names"])

    @cached_property
    def latency_stages(self) -> tuple[str, ...]:
        """Names of the 6 columns of `latency_us`."""
        return tuple(_text(name) for name in self._group["faces"].attrs["latency_stages"])

    def __repr__(self) -> str:
        size = f"{self.width}x{self.height} {self.pixel_format}"
        return f"<Camera {self.name!r}: {size}, {len(self.frames)} frames, {len(self.faces)} faces>"

    def _path(self, table: str) -> str:
        return f"/cameras/{self.name}/{table}"

    def _rows(self, table: str) -> Rows:
        return self._session._rows(self._path(table), ruler=self._path("faces"))


class Synchrony:
    """How alike the participants' faces moved. Row i of `windows` and of what was found in it belongs together.

    What was found is NaN where it is not known: in no window of the second both were seen for half of it, or one of them
    did not move.
    """

    def __init__(self, group: h5py.Group, session: Session) -> None:
        self._session = session
        attributes = group["values"].attrs
        #: Numbers of both participants of each pair, 1 is "P1".
        self.pairs: list[tuple[int, int]] = [(int(a), int(b)) for a, b in session._rows("/synchrony/pairs")[:]]
        #: Blendshapes of each group by its name. Their mean is what is compared.
        self.groups: dict[str, list[str]] = dict(
            zip((_text(name) for name in attributes["groups"]), json.loads(attributes["channels"]), strict=True)
        )

    @cached_property
    def windows(self) -> NDArray[Any]:
        """Structured [n]: time (s, of `end_ns`), start_ns, end_ns: the first one's first and last sample, capture time."""
        return self._session._timed("/synchrony/windows", "end_ns")

    @property
    def r(self) -> NDArray[np.float32]:
        """[n, pairs, groups]: Pearson's r at the lag where |r| is largest, -1 to 1."""
        return self._column(0)

    @property
    def lag(self) -> NDArray[np.float32]:
        """[n, pairs, groups]: that lag in seconds; positive: the second of the pair follows the first."""
        return self._column(1)

    @property
    def p(self) -> NDArray[np.float32]:
        """[n, pairs, groups]: how likely chance gives as large an |r| at any of the lags, above 0 to 1."""
        return self._column(2)

    @property
    def common(self) -> NDArray[np.float32]:
        """[n, pairs, groups]: part of the window in which both were seen, 0 to 1."""
        return self._column(3)

    def __repr__(self) -> str:
        return f"<Synchrony: {len(self.windows)} windows, {len(self.pairs)} pairs, {', '.join(self.groups)}>"

    def _column(self, column: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._values[..., column]
        return found

    @cached_property
    def _values(self) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._session._rows("/synchrony/values", ruler="/synchrony/windows")[:]
        return rows


class Session:
    """A session file, as it was committed when it was opened; made by `load`.

    The file stays open until `close`, or to the end of a `with` block.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        #: The file is being written, or its writer was killed.
        self.swmr: bool = file.swmr_mode
        # First of all: what is read later is at least as long.
        self._committed = _read_committed(file)
        attributes = file.attrs
        #: Path of the file.
        self.path: str = file.filename
        #: When the newest rows were committed.
        self.committed_at_ns = self._committed.pop("time_ns")
        #: Unique for each session.
        self.session_id = _text(attributes["session_id"])
        #: What people call the session.
        self.name = _text(attributes["name"])
        #: Which recording of the session this file is, from 1.
        self.recording = int(attributes.get("recording", 1))
        #: What whoever started the recording wrote about it.
        self.notes = _text(attributes.get("notes", ""))
        #: Who started the recording; empty if nobody said.
        self.recorded_by = _text(attributes.get("recorded_by", ""))
        #: Start of the recording on the session's clock. Times in seconds count from here.
        self.clock_start_ns = int(attributes["clock_start"])
        #: The same instant in calendar time, nanoseconds since 1970.
        self.utc_start_ns = int(attributes["utc_start"])
        #: Program and version that wrote the file.
        self.software = _text(attributes["software"])
        #: The whole configuration, TOML.
        self.config = _text(attributes["config"])
        #: "cpu", "cuda" or "tensorrt".
        self.backend = _text(attributes["backend"])
        #: What the back end ran on.
        self.backend_device = _text(attributes["backend_device"])
        #: The runtime of the networks and its version.
        self.backend_runtime = _text(attributes["backend_runtime"])
        #: Why this back end was chosen.
        self.backend_reason = _text(attributes["backend_reason"])
        #: Where the session was started although something was missing: `reason`, `by`, `missing`; else None.
        self.overridden: dict[str, Any] | None = json.loads(_text(attributes.get("override", "null")))
        #: In a recovered copy: the original's name, `from`, and what of it is not in the copy, `lost`; else None.
        self.recovered: dict[str, Any] | None = json.loads(_text(attributes.get("recovered", "null")))
        #: Networks: id to SHA-256.
        self.models = {_text(entry["id"]): _text(entry["sha256"]) for entry in attributes["models"]}
        cameras = [Camera(name, group, self) for name, group in file["cameras"].items()]
        #: Cameras by name, in the order of the configuration.
        self.cameras: Mapping[str, Camera] = {
            camera.name: camera for camera in sorted(cameras, key=lambda camera: camera.index)
        }

    @property
    def utc_start(self) -> datetime:
        """Start of the session in calendar time (UTC), to the microsecond."""
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=self.utc_start_ns // 1000)

    @property
    def duration(self) -> float:
        """Seconds from the start to the newest commit."""
        return float(self.seconds(self.committed_at_ns))

    @property
    def finished(self) -> bool:
        """Whether the session ended as meant; otherwise it still runs, or its program was killed."""
        return self.stop is not None

    def seconds(self, time_ns: Any) -> Any:
        """Seconds since the session's start, of one time or an array of times of the session's clock."""
        elapsed = np.asarray(time_ns).astype(np.int64) - np.int64(self.clock_start_ns)
        seconds = elapsed / 1e9
        return seconds if elapsed.ndim else float(seconds)

    @cached_property
    def participants(self) -> list[Row]:
        """Who is which track: from `time` on, `track` of `camera` is participant `id`.

        time, time_ns, id (1 is "P1"), track, name, role, camera, why
        """
        return self._table("/participants")

    @cached_property
    def participant_names(self) -> dict[int, str]:
        """Newest name of each participant, by id."""
        return {row["id"]: row["name"] for row in self.participants}

    @cached_property
    def events(self) -> list[Row]:
        """What happened to the session itself: time, time_ns, source, kind, data (parsed JSON)."""
        return self._table("/events")

    @cached_property
    def markers(self) -> list[Row]:
        """What happened in the experiment: time, time_ns, source, kind, data (parsed JSON)."""
        return self._table("/markers")

    @cached_property
    def gaps(self) -> list[Row]:
        """Spans without a source, as they were noticed: time, end, time_ns, end_ns, source, cause, data.

        `end` and `end_ns` are None if the source was still away when the newest rows were committed. `data` has
        the cause in full, noticed_ns, last_good_ns, first_missing_seq, and missed: the frames that would have come.
        """
        newest = {}
        for row in self._table("/gaps"):
            end_ns = row["end_ns"] or None
            end = None if end_ns is None else self.seconds(end_ns)
            newest[row["source"], row["time_ns"]] = row | {"end": end, "end_ns": end_ns}
        return list(newest.values())

    @cached_property
    def synchrony(self) -> Synchrony | None:
        """How alike the participants' faces moved; None if that was not asked for."""
        return Synchrony(self._file["synchrony"], self) if "/synchrony/pairs" in self._committed else None

    @cached_property
    def ledger(self) -> list[Row]:
        """Newest count of each camera, consumer and item: time, time_ns, count, camera, consumer, item.

        Counts are of this recording. Items: "captured", "delivered", "driver_lost", "dropped:" with a reason, and
        "under_way" if frames were still on their way when the recording was stopped in a session that ran on. In a
        finished file captured = delivered + all dropped + under_way, for every camera and consumer.
        """
        newest = {(row["camera"], row["consumer"], row["item"]): row for row in self._table("/ledger")}
        return list(newest.values())

    @cached_property
    def quality(self) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """Measures over time, by source and item: structured arrays [n] of time, time_ns, value.

        Those of a camera are in its own `quality` too, where their meaning stands.
        """
        rows = self._timed("/quality", "time_ns")
        quality: dict[str, dict[str, NDArray[Any]]] = {}
        for source in np.unique(rows["source"]):
            of_source = rows[rows["source"] == source]
            quality[_text(source)] = {
                _text(item): of_source[of_source["item"] == item][["time", "time_ns", "value"]]
                for item in np.unique(of_source["item"])
            }
        return quality

    @cached_property
    def validity(self) -> NDArray[Any]:
        """The validity card: how far rows can be trusted, structured [n], by participant, camera and time.

        Each minute, and the end, has a row for everybody seen so far, about the time since the row before.

        participant, camera         1 is "P1"; name of the camera
        time, time_ns               end of the time that the row is about
        analysed, faces, presence   frames analysed; of these with the participant's face; their share, 0 to 1
        face_size_p50_px, _p05_px   longer side of the box around the landmarks: median, 5th percentile
        sharpness_p50, _p05         of the face's picture (variance of the Laplacian); compare it within one camera
        yaw_beyond_30deg            share of the faces that are turned by more than 30 degrees to a side
        noise_px, noise_score       repeatability of x or y of a landmark, and of a blendshape, while the head is still:
                                    standard deviation
        still                       three frames in succession with a still head, from which the noise comes

        Figures are NaN where too little was seen.
        """
        return tables.validity(self)

    @property
    def weak_blendshapes(self) -> tuple[str, ...]:
        """Blendshapes that hardly respond, whatever a face does, as the validity card names them."""
        items = {item for of_source in self.quality.values() for item in of_source}
        prefix = "weak_range:"
        return tuple(sorted(item.removeprefix(prefix) for item in items if item.startswith(prefix)))

    def table(self, name: str) -> dict[str, NDArray[Any]]:
        """A tidy table of all cameras: name of each column to its values, as `youquanti export` writes them.

        Raises `KeyError` for a name that is not in `youquanti.TABLES`.
        """
        return tables.table(self, name)

    def to_pandas(self, name: str) -> pandas.DataFrame:
        """The same table as a `pandas.DataFrame`. Raises `ImportError` without pandas."""
        import pandas

        return pandas.DataFrame(self.table(name))

    @cached_property
    def clock(self) -> NDArray[Any]:
        """The same instants on both clocks, structured [n]: time (s), time_ns, utc_ns (since 1970)."""
        return self._timed("/clock", "time_ns")

    @cached_property
    def stop(self) -> Row | None:
        """How the session ended: time, time_ns, utc_ns, data (the verdict); None if it did not end as meant."""
        rows = self._table("/stop")
        return rows[-1] if rows else None

    def close(self) -> None:
        """Closes the file. What was read stays; rows that were not read cannot be read any more."""
        self._file.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self.name!r}: {len(self.cameras)} cameras, {self.duration:.1f} s, {self.path}>"

    def _rows(self, path: str, ruler: str | None = None) -> Rows:
        """The committed rows of a table, whose length is that of the table `ruler`."""
        dataset = self._file[path]
        if self.swmr:
            dataset.refresh()
        count = self._committed[ruler or path]
        if len(dataset) < count:
            raise SessionError(
                f"{self.path} is damaged: {path} has {len(dataset)} rows, {count} were committed"
            )
        return Rows(dataset, count)

    def _timed(self, path: str, column: str) -> NDArray[Any]:
        """A whole table, with a column `time` in front."""
        rows = self._rows(path)[:]
        columns = ((name, rows.dtype[name]) for name in rows.dtype.names)
        out = np.empty(len(rows), [("time", "f8"), *columns])
        for name in rows.dtype.names:
            out[name] = rows[name]
        out["time"] = self.seconds(rows[column])
        return out

    def _table(self, path: str, parsed: bool = True) -> list[Row]:
        """A whole small table, with times in seconds, and with texts, parsed or not, in place of what points at them."""
        table = []
        for values in self._rows(path)[:]:
            row = {name: _plain(value) for name, value in zip(values.dtype.names, values, strict=True)}
            if "text_offset" in row:
                offset, length = row.pop("text_offset"), row.pop("text_length")
                text = self._text_blob[offset : offset + length].decode("utf-8", "replace")
                row["data"] = _parsed(text) if parsed else text
            table.append({"time": self.seconds(row["time_ns"])} | row)
        return table

    @cached_property
    def _text_blob(self) -> bytes:
        blob: bytes = self._rows("/text")[:].tobytes()
        return blob


def load(path: str | os.PathLike[str]) -> Session:
    """Opens a session file: one that was closed, is being written, or whose writer was killed.

    Shows the rows that were committed at this moment; load again to see more of a session that still runs.

    Raises `OSError` if the file cannot be read, `SessionError` if it is no session file.
    """
    path = os.fspath(path)
    with open(path, "rb"):  # a missing or forbidden file is the system's error, and not HDF5's
        pass
    file = _open(path)
    try:
        form, version = file.attrs.get("format"), file.attrs.get("version")
        if form is None or _text(form) != FORMAT:
            raise SessionError(f"{path} is not a session file: attribute format is missing or not {FORMAT!r}")
        if version != VERSION:
            raise SessionError(f"{path} has version {version}, this package reads {VERSION}")
        return Session(file)
    except KeyError as error:
        file.close()
        raise SessionError(f"{path} is damaged: {error.args[0]}") from error
    except BaseException:
        file.close()
        raise


def _open(path: str) -> h5py.File:
    # Without locks: a reader that holds one while a session starts would keep the program from its file.
    # A file that is not ready to be shared says so in its header.
    # Imported here, so that what needs NumPy alone, as shared memory does, goes without it.
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except OSError as plain:
        try:
            return h5py.File(path, "r", swmr=True, locking=False)
        except OSError:
            raise SessionError(f"{path} cannot be opened as an HDF5 file: {plain}") from plain


def _read_committed(file: h5py.File) -> dict[str, int]:
    """Rows of each table by its path, and the time of the commit as `time_ns`."""
    committed = file["committed"]
    if file.swmr_mode:
        committed.refresh()
    if len(committed) == 0:
        raise SessionError(f"{file.filename} is not a session file: nothing was ever committed to it")
    columns = [_text(column) for column in committed.attrs["columns"]]
    newest, before = committed[-1], committed[-2:][0]
    # A loss of power may leave a part of a row, and zeros: it counts less than the row before, which no commit does.
    whole = newest if np.all(newest[1:] >= before[1:]) else before
    return {column: int(count) for column, count in zip(columns, whole, strict=True)}


def _stamp_offset(attributes: h5py.AttributeManager) -> StampOffset | None:
    if not attributes.get("calibrated", 0):
        return None
    figures = (float(attributes[f"stamp_offset_{name}"]) for name in StampOffset._fields[:5])
    return StampOffset(  # type: ignore[call-arg]
        *figures,  # type: ignore[arg-type]
        int(attributes["stamp_offset_count"]), int(attributes["stamp_offset_measured_utc"])
    )


def _text(value: Any) -> str:
    """A text of fixed width; h5py cuts the zero bytes at its end."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """A value of a row as Python's own type."""
    return _text(value) if isinstance(value, bytes) else value.item()


def _parsed(text: str) -> Any:
    """JSON as Python objects, anything else as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text
