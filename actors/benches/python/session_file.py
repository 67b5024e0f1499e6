"""The same file as benches/session_file.rs, written with h5py: the same tables, chunks, SWMR and flushes.

Usage: session_file.py ROWS FLUSH_EVERY none|deflate
Prints the median rows per second of five files and the bytes of one.
"""

import os
import sys
import tempfile
import time

import h5py
import numpy as np

rows, flush_every, compression = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
filters = {"shuffle": True, "compression": "gzip", "compression_opts": 1} if compression == "deflate" else {}
face_type = np.dtype([
    ("frame_seq", "<u8"), ("captured_at_ns", "<u8"), ("track", "<u4"), ("participant", "<u4"),
    ("score", "<f4"), ("bbox", "<f4", 4), ("presence", "<f4"), ("latency_us", "<u4", 6),
])
noise = np.random.default_rng(1)
index = np.arange(478, dtype=np.float32)
landmarks = np.stack([index, -index, np.full(478, 0.5, np.float32)], 1) + noise.random((256, 478, 3), np.float32)
landmarks += np.arange(256, dtype=np.float32)[:, None, None] * [1, 1, 0]
landmarks = landmarks.astype(np.float32)
blendshapes = noise.random((256, 52), np.float32)
head_pose = noise.random((256, 4, 4), np.float32)
face = np.zeros(256, face_type)


def write(path):
    with h5py.File(path, "w", libver="v110") as file:
        def table(name, shape, dtype):
            return file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(64, *shape), **filters)
        tables = [
            (table("faces", (), face_type), face),
            (table("landmarks", (478, 3), "f4"), landmarks),
            (table("blendshapes", (52,), "f4"), blendshapes),
            (table("head_pose", (4, 4), "f4"), head_pose),
        ]
        file.swmr_mode = True
        # As the Rust side: blocks that end with a chunk, or at a flush unless compressed.
        written = 0
        for row in range(1, rows + 1):
            if row % 64 == 0 or row == rows or (row % flush_every == 0 and not filters):
                for dataset, source in tables:
                    dataset.resize(row, axis=0)
                    dataset[written:row] = np.take(source, range(written, row), axis=0, mode="wrap")
                written = row
            if row % flush_every == 0:
                file.flush()


seconds = []
for _ in range(5):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "session.h5")
        start = time.perf_counter()
        write(path)
        seconds.append(time.perf_counter() - start)
        size = os.path.getsize(path)
print(f"h5py {compression}: {rows / sorted(seconds)[2]:.0f} rows/s, {size} bytes, {size // rows} a row")
