"""The files of benches/session_file/rates.rs, written with h5py: the same rows, tables, chunks, filters, flushes.

Usage: session_file.py ROWS FLUSH_EVERY none|deflate FOLDER
Writes a file for each line that it reads, and answers with what that took, as JSON. FOLDER holds the rows.
"""

import json
import os
import sys
import time

import h5py
import numpy as np

rows, flush_every, compression, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
is_compressed = compression == "deflate"
filters = {"shuffle": True, "compression": "gzip", "compression_opts": 1} if is_compressed else {}
chunk = 16
face_type = np.dtype([
    ("frame_seq", "<u8"), ("captured_at_ns", "<u8"), ("track", "<u4"), ("participant", "<u4"),
    ("score", "<f4"), ("bbox", "<f4", 4), ("presence", "<f4"), ("sharpness", "<f8"), ("latency_us", "<u4", 6),
])
result_type = np.dtype([
    ("frame_seq", "<u8"), ("captured_at_ns", "<u8"), ("faces", "<u4"), ("over_limit", "<u2"), ("detector_ran", "<u2"),
])


def read(name, *shape):
    return np.fromfile(os.path.join(folder, name), "<f4").reshape(-1, *shape)


landmarks, blendshapes, head_pose = read("landmarks", 478, 3), read("blendshapes", 52), read("head_pose", 4, 4)
boxes = read("boxes", 6)
count = len(landmarks)
face, result = np.zeros(count, face_type), np.zeros(count, result_type)
face["frame_seq"] = result["frame_seq"] = np.arange(count)
face["captured_at_ns"] = result["captured_at_ns"] = 1_000_000_000 + np.arange(count) * 33_333_333
face["score"], face["bbox"], face["presence"] = boxes[:, 0], boxes[:, 1:5], boxes[:, 5]
face["latency_us"], result["faces"] = [2000, 3000, 4000, 6000, 10000, 11000], 1


def write(path):
    with h5py.File(path, "w", libver="v110") as file:
        def table(name, shape, dtype, chunk, **filters):
            return file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(chunk, *shape), **filters)
        faces = [
            (table("faces", (), face_type, chunk, **filters), face),
            (table("landmarks", (478, 3), "f4", chunk, **filters), landmarks),
            (table("blendshapes", (52,), "f4", chunk, **filters), blendshapes),
            (table("head_pose", (4, 4), "f4", chunk, **filters), head_pose),
        ]
        results = [(table("results", (), result_type, 256), result)]
        committed = table("committed", (17,), "u8", 64)
        file.swmr_mode = True
        disk = os.open(path, os.O_RDONLY)
        written = {"faces": 0, "results": 0}

        def write_out(tables, kind, end):
            start = written[kind]
            if start == end:
                return
            for dataset, source in tables:
                dataset.resize(end, axis=0)
                dataset[start:end] = np.take(source, range(start, end), axis=0, mode="wrap")
            written[kind] = end

        for row in range(1, rows + 1):
            is_flush = row % flush_every == 0
            # As the other side: blocks end with a chunk, or at a flush unless compressed.
            if row % chunk == 0 or row == rows or (is_flush and not is_compressed):
                write_out(faces, "faces", row)
            if row % 256 == 0 or row == rows or is_flush:
                write_out(results, "results", row)
            if is_flush or row == rows:
                file.flush()
                os.fdatasync(disk)
                committed.resize(len(committed) + 1, axis=0)
                committed[-1] = row
                committed.flush()
                os.fdatasync(disk)
        os.close(disk)
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())


for _ in sys.stdin:
    path = os.path.join(folder, "theirs.h5")
    start, used = time.perf_counter(), time.thread_time()
    write(path)
    reply = {"seconds": time.perf_counter() - start, "processor": time.thread_time() - used, "bytes": os.path.getsize(path)}
    os.remove(path)
    print(json.dumps(reply), flush=True)
