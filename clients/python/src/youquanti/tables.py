"""Tidy tables: a column an array, all cameras in one table, as `youquanti export --to csv` and `--to parquet` write them.

Owns names and order of columns and rows, which are those of the exports. Computes nothing that the session does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .session import Camera, Session

#: In `latency_us`: the stage did not run on this frame.
NOT_RUN = 0xFFFF_FFFF

#: A table: name of each column to its values, all of the same length.
Table = dict[str, NDArray[Any]]

#: Columns of `Session.validity` that are counts, and those that are figures, NaN where too little was seen.
_COUNTS = ("analysed", "faces", "still")
_FIGURES = (
    "presence",
    "face_size_p50_px",
    "face_size_p05_px",
    "sharpness_p50",
    "sharpness_p05",
    "yaw_beyond_30deg",
    "noise_px",
    "noise_score",
)
_VALIDITY = np.dtype(
    [("participant", "u4"), ("camera", "U32"), ("time", "f8"), ("time_ns", "u8"), ("analysed", "u8"), ("faces", "u8")]
    + [(name, "f8") for name in _FIGURES]
    + [("still", "u8")]
)


def table(session: Session, name: str) -> Table:
    """The table of this name, one of `TABLES`. Raises `KeyError` for any other."""
    return _MAKERS[name](session)


def validity(session: Session) -> NDArray[Any]:
    """The validity card: see `Session.validity`."""
    rows: dict[tuple[int, str, int], NDArray[Any]] = {}
    for source, items in session.quality.items():
        parts = re.fullmatch(r"P(\d+) in (.*)", source)
        if parts is None:
            continue
        for item, series in items.items():
            if item not in _COUNTS and item not in _FIGURES:
                continue
            for time, time_ns, value in series.tolist():
                key = (int(parts[1]), parts[2], time_ns)
                if key not in rows:
                    rows[key] = np.zeros((), _VALIDITY)
                    for figure in _FIGURES:
                        rows[key][figure] = np.nan
                    rows[key]["participant"], rows[key]["camera"], rows[key]["time_ns"] = key
                    rows[key]["time"] = time
                rows[key][item] = value
    ordered = [rows[key] for key in sorted(rows)]
    return np.array(ordered, _VALIDITY) if ordered else np.empty(0, _VALIDITY)


def _joined(parts: list[Table]) -> Table:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _of_cameras(of_camera: Callable[[Camera], Table]) -> Callable[[Session], Table]:
    """A table of all cameras, from that of each, with the camera's name in front."""

    def make(session: Session) -> Table:
        parts = []
        for camera in session.cameras.values():
            columns = of_camera(camera)
            count = len(next(iter(columns.values())))
            parts.append({"camera": np.full(count, camera.name, dtype=object), **columns})
        return _joined(parts)

    return make


def _picked(rows: NDArray[Any], *names: str) -> Table:
    return {name: rows[name] for name in names}


def _frames(camera: Camera) -> Table:
    return _picked(camera.frames, "time", "seq", "driver_seq", "flags", "captured_at_ns", "received_at_ns")


def _video(camera: Camera) -> Table:
    return _picked(camera.video, "time", "seq", "captured_at_ns", "segment", "frame")


def _results(camera: Camera) -> Table:
    names = ("time", "frame_seq", "captured_at_ns", "faces", "over_limit", "detector_ran")
    return _picked(camera.results, *names)


def _who(camera: Camera) -> Table:
    return _picked(camera.faces, "time", "frame_seq", "track", "participant")


def _faces(camera: Camera) -> Table:
    faces = camera.faces
    columns = {**_who(camera), **_picked(faces, "captured_at_ns", "score")}
    for place, edge in enumerate(("x0", "y0", "x1", "y1")):
        columns[f"bbox_{edge}"] = faces["bbox"][:, place]
    columns["presence"] = faces["presence"]
    unknown = np.full(len(faces), np.nan, np.float32)
    columns["sharpness"] = faces["sharpness"] if "sharpness" in (faces.dtype.names or ()) else unknown
    for place, stage in enumerate(camera.latency_stages):
        micros = faces["latency_us"][:, place]
        columns[f"latency_{stage}_us"] = np.where(micros == NOT_RUN, np.nan, micros.astype(float))
    return columns


def _head_pose(camera: Camera) -> Table:
    columns, poses = _who(camera), camera.head_pose[:]
    for row, axis in enumerate("xyz"):
        columns[f"position_{axis}_m"] = poses[:, row, 3]
    for row in range(3):
        for column in range(3):
            columns[f"rotation_{row}{column}"] = poses[:, row, column]
    return columns


def _blendshapes(camera: Camera) -> Table:
    scores = camera.blendshapes[:]
    return {**_who(camera), **{name: scores[:, i] for i, name in enumerate(camera.blendshape_names)}}


def _landmarks(camera: Camera) -> Table:
    points = camera.landmarks[:]
    named = {f"{i}_{axis}": points[:, i, k] for i in range(points.shape[1]) for k, axis in enumerate("xyz")}
    return {**_who(camera), **named}


def _of_pose(camera: Camera) -> Table:
    assert camera.pose is not None and camera.pose_points is not None
    names = ("time", "frame_seq", "captured_at_ns", "valid", "detector_ran", "latency_us", "presence", "score")
    points = camera.pose_points[:]
    values = ("x", "y", "z", "visibility", "presence")
    named = {
        f"{point}_{value}": points[:, i, k]
        for i, point in enumerate(camera.pose_names)
        for k, value in enumerate(values)
    }
    return {**_picked(camera.pose, *names), **named}


def _pose(session: Session) -> Table:
    is_sought = all(camera.pose is not None for camera in session.cameras.values())
    return _of_cameras(_of_pose)(session) if is_sought else {}


def _synchrony(session: Session) -> Table:
    found = session.synchrony
    if found is None:
        return {}
    count, compared = len(found.windows), len(found.pairs) * len(found.groups)

    def each(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, compared)

    pairs = np.repeat(np.array(found.pairs, np.uint32).reshape(-1, 2), len(found.groups), axis=0)
    groups = np.tile(np.array(list(found.groups), dtype=object), len(found.pairs))
    return {
        "time": each(found.windows["time"]),
        "start_ns": each(found.windows["start_ns"]),
        "end_ns": each(found.windows["end_ns"]),
        "first": np.tile(pairs[:, 0], count),
        "second": np.tile(pairs[:, 1], count),
        "group": np.tile(groups, count),
        "r": found.r.reshape(-1),
        "lag_s": found.lag.reshape(-1),
        "p": found.p.reshape(-1),
        "common": found.common.reshape(-1),
    }


def _of_rows(rows: list[dict[str, Any]], **columns: str) -> Table:
    """Columns by the names that they have in the rows; None becomes NaN."""
    out: Table = {}
    for name, key in columns.items():
        values = [row[key] for row in rows]
        if name in _TEXTS:
            out[name] = np.array(values, dtype=object)
        elif any(value is None for value in values):
            out[name] = np.array([np.nan if value is None else value for value in values], dtype=float)
        else:
            out[name] = np.array(values)
    return out


#: Columns of small tables that are texts.
_TEXTS = {"name", "role", "camera", "why", "source", "kind", "data", "cause", "consumer", "item"}


def _participants(session: Session) -> Table:
    names = ("time", "time_ns", "id", "name", "role", "camera", "track", "why")
    columns = {("participant" if name == "id" else name): name for name in names}
    return _of_rows(session.participants, **columns)


def _texts(path: str) -> Callable[[Session], Table]:
    def make(session: Session) -> Table:
        rows = session._table(path, parsed=False)
        return _of_rows(rows, **{name: name for name in ("time", "time_ns", "source", "kind", "data")})

    return make


def _gaps(session: Session) -> Table:
    rows = [
        row | {"missed": row["data"].get("missed"), "cause": row["data"].get("cause", row["cause"])}
        for row in session.gaps
    ]
    names = ("time", "end", "time_ns", "end_ns", "source", "cause", "missed")
    return _of_rows(rows, **{name: name for name in names})


def _ledger(session: Session) -> Table:
    first = ("captured", "delivered", "driver_lost")

    def place(row: dict[str, Any]) -> tuple[str, str, int, str]:
        item = row["item"]
        rank = first.index(item) if item in first else len(first) + (item == "under_way")
        return row["camera"], row["consumer"], rank, item

    rows = sorted(session.ledger, key=place)
    return _of_rows(rows, camera="camera", consumer="consumer", item="item", count="count")


def _quality(session: Session) -> Table:
    empty = np.empty(0)
    parts: list[Table] = [
        {"time": empty, "time_ns": empty.astype("u8"), "source": empty.astype(object)}
        | {"item": empty.astype(object), "value": empty}
    ]
    parts += [
        {
            "time": series["time"],
            "time_ns": series["time_ns"],
            "source": np.full(len(series), source, dtype=object),
            "item": np.full(len(series), item, dtype=object),
            "value": series["value"],
        }
        for source, items in session.quality.items()
        for item, series in items.items()
    ]
    return _joined(parts)


def _validity(session: Session) -> Table:
    rows = session.validity
    return {name: rows[name].astype(object) if name == "camera" else rows[name] for name in rows.dtype.names or ()}


def _clock(session: Session) -> Table:
    return _picked(session.clock, "time", "time_ns", "utc_ns")


_MAKERS: dict[str, Callable[[Session], Table]] = {
    "frames": _of_cameras(_frames),
    "video": _of_cameras(_video),
    "results": _of_cameras(_results),
    "faces": _of_cameras(_faces),
    "head_pose": _of_cameras(_head_pose),
    "blendshapes": _of_cameras(_blendshapes),
    "landmarks": _of_cameras(_landmarks),
    "pose": _pose,
    "synchrony": _synchrony,
    "participants": _participants,
    "markers": _texts("/markers"),
    "events": _texts("/events"),
    "gaps": _gaps,
    "ledger": _ledger,
    "quality": _quality,
    "validity": _validity,
    "clock": _clock,
}

#: Names of all tables.
TABLES = tuple(_MAKERS)
