#!/usr/bin/env python3
"""Make pose.json: what MediaPipe's own Pose finds in three pictures, and in a picture that moves.

Its newer wheels carry no pose networks, so this needs an environment of its own, with the last that does:

    python3.11 -m venv /tmp/pose && /tmp/pose/bin/pip install --no-deps mediapipe==0.10.14 numpy==1.26.4 \\
        opencv-python-headless==4.10.0.84 absl-py attrs flatbuffers protobuf==4.25.9 matplotlib==3.9.4 pillow contourpy cycler \\
        fonttools kiwisolver packaging pyparsing python-dateutil six sounddevice cffi pycparser jax==0.4.30 jaxlib==0.4.30 \\
        ml_dtypes opt_einsum scipy
    /tmp/pose/bin/python tests/golden/make_pose.py

Points are x, y, z in pixels of the picture (MediaPipe's x · width, y · height, z · width) and visibility.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")
import mediapipe  # noqa: E402
import numpy as np  # noqa: E402
from mediapipe.python.solutions.pose import Pose  # noqa: E402
from PIL import Image  # noqa: E402

HERE = Path(__file__).resolve().parent
PORTRAITS = HERE.parents[1] / "models" / "portraits"
PICTURES = {"photographer": HERE / "photographer.png", "astronaut": PORTRAITS / "astronaut.png",
            "grid4": HERE / "grid4.png"}
# The moving picture: the photographer on grey, 640 × 544; in frame k its corner is at (8 k, 2 k).
MOVING, CANVAS, STEP, FRAMES = "photographer", (544, 640), (8, 2), 12


def read(path):
    return np.array(Image.open(path).convert("RGB"))


def points(result, picture):
    if result.pose_landmarks is None:
        return None
    height, width = picture.shape[:2]
    rows = [[p.x * width, p.y * height, p.z * width, p.visibility] for p in result.pose_landmarks.landmark]
    return np.round(rows, 4).tolist()


def main():
    found = dict(mediapipe=mediapipe.__version__, pictures={}, moving=dict(step=STEP, canvas=CANVAS, frames=[]))
    with Pose(static_image_mode=True, model_complexity=1) as pose:
        for name, path in PICTURES.items():
            picture = read(path)
            found["pictures"][name] = points(pose.process(picture), picture)
    moved = read(PICTURES[MOVING])
    with Pose(static_image_mode=False, model_complexity=1, smooth_landmarks=False) as pose:
        for k in range(FRAMES):
            canvas = np.full((*CANVAS, 3), 128, np.uint8)
            x, y = STEP[0] * k, STEP[1] * k
            canvas[y:y + moved.shape[0], x:x + moved.shape[1]] = moved
            found["moving"]["frames"].append(points(pose.process(canvas), canvas))
    (HERE / "pose.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
