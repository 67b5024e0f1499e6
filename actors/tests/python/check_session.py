"""Checks a session file as a stranger sees it: h5py and numpy only.

Usage: check_session.py FILE [--swmr]
Ends with an assertion if the layout is not the documented one; else prints, as JSON, how many rows of each
table are committed and some values for the caller to compare.
"""

import json
import sys

import h5py
import numpy as np

COLUMNS = {
    "frames": ["seq", "driver_seq", "flags", "captured_at_ns", "received_at_ns"],
    "video": ["seq", "captured_at_ns", "segment", "frame"],
    "results": ["frame_seq", "captured_at_ns", "faces", "over_limit", "detector_ran"],
    "faces": ["frame_seq", "captured_at_ns", "track", "participant", "score", "bbox", "presence",
              "sharpness", "latency_us"],
    "participants": ["time_ns", "id", "track", "name", "role", "camera", "why"],
    "markers": ["time_ns", "text_offset", "text_length", "source", "kind"],
    "events": ["time_ns", "text_offset", "text_length", "source", "kind"],
    "gaps": ["time_ns", "end_ns", "text_offset", "text_length", "source", "cause"],
    "ledger": ["time_ns", "count", "camera", "consumer", "item"],
    "quality": ["time_ns", "value", "source", "item"],
    "clock": ["time_ns", "utc_ns"],
    "stop": ["time_ns", "utc_ns", "text_offset", "text_length"],
    "pairs": ["first", "second"],
    "windows": ["start_ns", "end_ns"],
}
ROW_SHAPES = {"landmarks": (478, 3), "blendshapes": (52,), "head_pose": (4, 4)}
PICTURE = ["index", "width", "height", "stride", "pixel_format", "device", "stamp_source", "video"]
STOCK_FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE}


def assert_fixed(dtype, where):
    """No variable-length data, at any depth."""
    assert h5py.check_vlen_dtype(dtype) is None, where
    text = h5py.check_string_dtype(dtype)
    assert text is None or text.length is not None, where
    for name in dtype.names or ():
        assert_fixed(dtype[name], f"{where}.{name}")
    if dtype.subdtype:
        assert_fixed(dtype.subdtype[0], where)
    assert dtype.kind != "O", where


def plain(value):
    """An attribute as JSON has it; texts here are JSON already."""
    return json.loads(value) if isinstance(value, bytes) else value.item()


def synchrony(group, windows):
    """What a session found that was asked to compare people."""
    values = group["values"]
    names = [name.decode() for name in values.attrs["groups"]]
    return {
        "pairs": group["pairs"][:].tolist(),
        "groups": dict(zip(names, json.loads(values.attrs["channels"]))),
        "windows": group["windows"][:windows].tolist(),
        "common": values[:windows, ..., 3].tolist(),
    }


def check_object(name, thing):
    for key in thing.attrs:
        assert_fixed(thing.attrs.get_id(key).dtype, f"{name}@{key}")
    if isinstance(thing, h5py.Group):
        return
    assert_fixed(thing.dtype, name)
    assert thing.maxshape[0] is None and thing.chunks is not None, f"{name} cannot grow"
    pipeline = thing.id.get_create_plist()
    filters = {pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())}
    assert filters <= STOCK_FILTERS, f"{name}: {filters}"
    table = name.rsplit("/", 1)[-1]
    if table in COLUMNS:
        assert list(thing.dtype.names) == COLUMNS[table], f"{name}: {thing.dtype.names}"
    elif table in ROW_SHAPES:
        assert thing.dtype == np.float32 and thing.shape[1:] == ROW_SHAPES[table], name
    elif table == "values":
        pairs, groups = len(thing.parent["pairs"]), len(thing.attrs["groups"])
        assert thing.dtype == np.float32 and thing.shape[1:] == (pairs, groups, 4), name
        assert thing.attrs["columns"].tolist() == [b"r", b"lag_s", b"p", b"common"]
    elif table == "text":
        assert thing.dtype == np.uint8 and thing.ndim == 1
    else:
        assert table == "committed" and thing.dtype == np.uint64, name


def main():
    with h5py.File(sys.argv[1], "r", swmr="--swmr" in sys.argv[2:]) as file:
        file.visititems(check_object)
        check_object("/", file)
        attrs = file.attrs
        assert attrs["format"] == b"youquanti-session" and attrs["version"] == 1
        models = {row["id"].decode(): row["sha256"].decode() for row in attrs["models"]}

        columns = [text.decode() for text in file["committed"].attrs["columns"]]
        assert columns[0] == "time_ns"
        rows = dict(zip(columns[1:], file["committed"][-1, 1:].tolist()))
        listed = {path for path in rows}
        found = set()
        file.visititems(lambda name, thing: found.add(f"/{name}") if isinstance(thing, h5py.Dataset) else None)
        by_faces = {path for path in found if path.rsplit("/", 1)[-1] in ROW_SHAPES}
        assert listed == found - by_faces - {"/committed", "/synchrony/values"}, listed ^ found

        cameras = {}
        for name, group in file["cameras"].items():
            faces = rows[f"/cameras/{name}/faces"]
            assert all(len(group[table]) >= faces for table in ROW_SHAPES)
            assert group["faces"].dtype["bbox"].shape == (4,)
            assert group["faces"].dtype["latency_us"].shape == (6,)
            assert group["faces"].attrs["latency_stages"].tolist() == [
                b"received", b"submitted", b"uploaded", b"detected", b"landmarks", b"published",
            ]
            names = group["blendshapes"].attrs["names"].tolist()
            assert len(names) == 52 and names[0] == b"_neutral" and names[-1] == b"noseSneerRight"
            cameras[name] = {
                "index": int(group.attrs["index"]),
                "width": int(group.attrs["width"]),
                "height": int(group.attrs["height"]),
                "stamp_source": group.attrs["stamp_source"].decode(),
                "mode": {key: plain(value) for key, value in group.attrs.items() if key not in PICTURE},
                "frames": rows[f"/cameras/{name}/frames"],
                "faces": faces,
                "seq_sum": int(group["frames"]["seq"][: rows[f"/cameras/{name}/frames"]].sum()),
                "landmark_sum": float(group["landmarks"][:faces].sum(dtype=np.float64)),
                "blendshape_sum": float(group["blendshapes"][:faces].sum(dtype=np.float64)),
                "head_pose_sum": float(group["head_pose"][:faces].sum(dtype=np.float64)),
                "bbox_sum": float(group["faces"]["bbox"][:faces].sum(dtype=np.float64)),
            }
        blob = file["text"][: rows["/text"]].tobytes()
        text = lambda row: blob[int(row["text_offset"]):][: int(row["text_length"])].decode()
        events = file["events"][: rows["/events"]]
        print(json.dumps({
            "name": attrs["name"].decode(),
            "config": attrs["config"].decode(),
            "utc_start": int(attrs["utc_start"]),
            "models": models,
            "cameras": cameras,
            "events": [
                [row["source"].decode(), row["kind"].decode(), text(row)] for row in events
            ],
            "gaps": [
                [int(row["time_ns"]), int(row["end_ns"]), row["source"].decode(), row["cause"].decode(),
                 json.loads(text(row))]
                for row in file["gaps"][: rows["/gaps"]]
            ],
            "quality": [
                [int(row["time_ns"]), float(row["value"]), row["source"].decode(), row["item"].decode()]
                for row in file["quality"][: rows["/quality"]]
            ],
            **(synchrony(file["synchrony"], rows["/synchrony/windows"]) if "synchrony" in file else {}),
            "stopped": rows["/stop"] == 1,
        }))


main()
