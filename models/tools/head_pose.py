#!/usr/bin/env python3
"""Head pose from landmarks: MediaPipe's facial transformation matrix in plain numpy.

Input: normalised landmarks as MediaPipe reports them: x / W, y / H (origin top left) and
z in units of the picture's width, smaller is nearer. Output: 4x4 matrix that takes the canonical
face (face_geometry.json, cm) to camera space (cm, right-handed: x right, y up, the camera looks along
-z). The upper 3x3 is a pure rotation. tests/golden/make_golden.py measures the distance from
MediaPipe's own matrices (rounding of its float32).
"""
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

NEAR = 1.0                        # the unit of the near plane is free; MediaPipe uses 1 cm
FOV_Y = math.radians(63.0)        # vertical field of view that MediaPipe assumes


class HeadPose:
    def __init__(self, geometry: Path):
        g = json.loads(Path(geometry).read_text())
        self.canonical = np.array(g["vertices"], np.float64)[:, :3]         # [468,3] cm
        self.index = np.array([i for i, _ in g["procrustes_basis"]])        # [33]
        self.weight = np.array([w for _, w in g["procrustes_basis"]])       # [33]

    def matrix(self, normalised: np.ndarray, width: int, height: int) -> np.ndarray:
        near_h = 2 * NEAR * math.tan(FOV_Y / 2)
        near_w = near_h * width / height
        p = np.asarray(normalised, np.float64)[:468]
        # points on the near plane, y up; z keeps the scale of x
        screen = np.stack([(p[:, 0] - 0.5) * near_w, (0.5 - p[:, 1]) * near_h,
                           p[:, 2] * near_w], 1)
        depth = screen[:, 2].mean()           # over all 468 points, unweighted

        # scale of the face on the near plane, without perspective (camera looks along -z)
        first = self.fit(screen * (1, 1, -1))[0]
        # every point moved along its ray to the depth where the face has about its true size
        z = (screen[:, 2] - depth + NEAR) / first
        metric = np.stack([screen[:, 0] * z / NEAR, screen[:, 1] * z / NEAR, -z], 1)
        scale, rotation, translation = self.fit(metric)
        # MediaPipe moves the points once more, by `first * scale`, and fits a third time; that
        # only divides all of `metric` by `scale`, so the third fit is this one with scale 1
        m = np.eye(4)
        m[:3, :3] = rotation
        m[:3, 3] = translation / scale
        return m

    def fit(self, target: np.ndarray):
        """weighted similarity canonical -> target: minimises
        sum w_i |s R a_i + t - b_i|^2 over the 33 basis points"""
        a, b, w = self.canonical[self.index], target[self.index], self.weight
        mean_a = w @ a / w.sum()
        da = a - mean_a
        u, _, vt = np.linalg.svd((b * w[:, None]).T @ da)       # sum w b da^T
        if np.linalg.det(u) * np.linalg.det(vt) < 0:            # a rotation, never a mirror
            u[:, 2] *= -1
        r = u @ vt
        s = (w * ((da @ r.T) * b).sum(1)).sum() / (w * (da * a).sum(1)).sum()
        t = w @ (b - s * a @ r.T) / w.sum()
        return s, r, t


def difference(m: np.ndarray, reference: np.ndarray):
    """(angle in degrees, distance as a fraction of the reference's distance)"""
    r = m[:3, :3] @ reference[:3, :3].T
    sine = np.linalg.norm([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / 2
    angle = math.degrees(math.atan2(sine, (np.trace(r) - 1) / 2))
    return angle, float(np.linalg.norm(m[:3, 3] - reference[:3, 3])
                        / np.linalg.norm(reference[:3, 3]))
