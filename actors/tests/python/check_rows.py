"""Opens session files without any repair and holds every committed row against what it must be.

    check_rows.py {plain,swmr} < list

Each line of the list is a file's path and the least number of frames that each camera must have. Rows follow from
their frames' numbers, as tests/session_rows/mod.rs makes them. Prints the number of frames of each camera and of faces
of all, a line a file, and fails at the first row that is not whole.
"""

import sys

import h5py
import numpy as np

#: Rows of a compressed chunk of faces: those of one that is not complete wait for more.
CHUNK = 16


def check(path: str, swmr: bool, least: int) -> list[int]:
    counts, all_faces = [], 0
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
            waiting = CHUNK - 1 if camera["faces"].compression else 0
            assert len(results) >= least, f"{path}: {len(results)} results of {name}, {least} were safe"
            assert len(faces) >= 2 * least - waiting, f"{path}: {len(faces)} faces of {name}, of {least} frames that were safe"
            video = camera["video"][: rows[f"/cameras/{name}/video"]]
            assert len(video) >= least and np.array_equal(video["seq"], np.arange(len(video))), f"{path}: video of {name}"
            assert np.array_equal(video["segment"] * 100 + video["frame"], video["seq"]), f"{path}: video of {name}"
            same = min(n, len(video))
            assert np.array_equal(video["captured_at_ns"][:same], frames["captured_at_ns"][:same])
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
            all_faces += len(faces)
        check_synchrony(file["synchrony"], rows["/synchrony/windows"], least, path)
        events, text = file["events"][: rows["/events"]], file["text"][: rows["/text"]].tobytes()
        for k, event in enumerate(events):
            start = int(event["text_offset"])
            assert text[start : start + int(event["text_length"])] == b'{"n":%d}' % k, f"{path}: text {k}"
        assert len(events) >= least, f"{path}: {len(events)} events, {least} were safe"
    return [*counts, all_faces]


def check_synchrony(tables: h5py.Group, count: int, least: int, path: str) -> None:
    assert count >= least, f"{path}: {count} windows, {least} were safe"
    n, k = np.arange(count), np.arange(6).reshape(1, 3, 2)
    windows = tables["windows"][:count]
    assert np.array_equal(windows["start_ns"], (1 + n) * 10**9), f"{path}: windows"
    assert np.array_equal(windows["end_ns"], (11 + n) * 10**9), f"{path}: windows"
    sum_of = n.reshape(-1, 1, 1) + k
    known = sum_of % 3 != 0
    single = np.float32
    r = (sum_of.astype(single) / single(1000)).astype(single)
    expected = np.stack(np.broadcast_arrays(r, -(k.astype(single)) / single(30), (k + 1).astype(single) / single(100)), -1)
    values = tables["values"][:count]
    assert np.array_equal(values[..., :3], np.where(known[..., None], expected, np.nan), equal_nan=True), f"{path}: values"
    assert np.array_equal(values[..., 3], np.broadcast_to(single(0.25) * k.astype(single), known.shape)), f"{path}: common"


for line in sys.stdin:
    path, least = line.rstrip("\n").rsplit("\t", 1)
    print(*check(path, sys.argv[1] == "swmr", int(least)), flush=True)
