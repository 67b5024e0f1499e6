"""Opens session files without any repair and holds every committed row against what it must be.

    check_rows.py {plain,swmr} < list

Each line of the list is a file's path and the least number of frames that each camera must have. Rows follow from
their frames' numbers, as tests/session_rows/mod.rs makes them. Prints the number of frames of each camera, a line a
file, and fails at the first row that is not whole.
"""

import sys

import h5py
import numpy as np


def check(path: str, swmr: bool, least: int) -> list[int]:
    counts = []
    with h5py.File(path, "r", swmr=swmr) as file:
        committed = file["committed"]
        columns = [text.decode() for text in committed.attrs["columns"]]
        rows = {column: int(count) for column, count in zip(columns, committed[-1], strict=True)}
        if not swmr:
            for column, count in rows.items():
                if column != "time_ns":
                    assert len(file[column]) == count, f"{path}: {column} is not cut to what was committed"
        for name, camera in file["cameras"].items():
            frames, results, faces = (
                camera[table][: rows[f"/cameras/{name}/{table}"]] for table in ("frames", "results", "faces")
            )
            n = len(frames)
            assert n >= least, f"{path}: {n} frames of {name}, {least} were safe"
            seq = frames["seq"]
            assert np.array_equal(seq, np.arange(n)), f"{path}: seq of {name}"
            assert np.array_equal(frames["driver_seq"], seq + 7), f"{path}: driver_seq of {name}"
            assert np.array_equal(results["frame_seq"], np.arange(len(results))), f"{path}: results of {name}"
            assert len(results) >= least and len(faces) >= 2 * least
            number = np.arange(len(faces)) % 2
            of = np.arange(len(faces)) // 2
            assert np.array_equal(faces["frame_seq"], of) and np.array_equal(faces["track"], number + 1)
            base = ((of % 1000) + number * 0.25).astype(np.float32)
            assert np.array_equal(faces["bbox"][:, 0], base), f"{path}: bbox of {name}"
            i = np.arange(478, dtype=np.float32)
            landmarks = camera["landmarks"][: len(faces)]
            assert np.array_equal(landmarks[..., 0], base[:, None] + i), f"{path}: landmarks of {name}"
            assert np.array_equal(landmarks[..., 1], base[:, None] - i) and np.all(landmarks[..., 2] == 0.5)
            shapes = camera["blendshapes"][: len(faces)]
            expected = base[:, None] / np.float32(2000) + np.arange(52, dtype=np.float32) / np.float32(100)
            assert np.array_equal(shapes, expected), f"{path}: blendshapes of {name}"
            pose = camera["head_pose"][: len(faces)].reshape(-1, 16)
            assert np.array_equal(pose, base[:, None] + np.arange(16, dtype=np.float32)), f"{path}: pose of {name}"
            counts.append(n)
        events, text = file["events"][: rows["/events"]], file["text"][: rows["/text"]].tobytes()
        for k, event in enumerate(events):
            start = int(event["text_offset"])
            assert text[start : start + int(event["text_length"])] == b'{"n":%d}' % k, f"{path}: text {k}"
    return counts


for line in sys.stdin:
    path, least = line.rstrip("\n").rsplit("\t", 1)
    print(*check(path, sys.argv[1] == "swmr", int(least)), flush=True)
