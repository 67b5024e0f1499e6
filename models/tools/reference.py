#!/usr/bin/env python3
"""A plain reading of the whole face pipeline on the ONNX models: detector ->
ROI -> 478 landmarks -> 52 blendshapes, with MediaPipe's tracking loop.

It is what the golden data in tests/golden is made with, so the Rust pipeline is checked
against it; it is not tuned. Needs numpy, onnxruntime, opencv-python(-headless).

    tracker = FaceTracker(models_dir, max_faces=4)
    for face in tracker.video(rgb_frame):   # or tracker.image(rgb_frame)
        face["landmarks"]   # [478,3]: x, y, z in picture pixels
        face["blendshapes"] # [52]
"""
from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from convert import SUBSET_146


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -100, 100)))


def anchors_short():
    """896 centres in 0..1: 16x16 cells x 2, then 8x8 cells x 6; row-major"""
    a = []
    for n, per in ((16, 2), (8, 6)):
        for y in range(n):
            for x in range(n):
                a += [((x + 0.5) / n, (y + 0.5) / n)] * per
    return np.array(a, np.float32)


def anchors_full():
    return np.array([((x + 0.5) / 48, (y + 0.5) / 48)
                     for y in range(48) for x in range(48)], np.float32)


def warp(rgb, cx, cy, w, h, rot, size, border):
    """crop of the rotated ROI (pixels), mapped corner to corner onto size x size"""
    c, s = math.cos(rot), math.sin(rot)
    src = np.array([[cx + c * dx * w - s * dy * h, cy + s * dx * w + c * dy * h]
                    for dx, dy in ((-.5, .5), (-.5, -.5), (.5, -.5))], np.float32)
    dst = np.array([[0, size], [0, 0], [size, 0]], np.float32)
    m = cv2.getAffineTransform(src, dst)
    return cv2.warpAffine(rgb, m, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)


def iou(a, b):
    """boxes as x0, y0, x1, y1"""
    ix = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    iy = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    i = ix * iy
    u = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - i
    return i / u if u > 0 else 0.0


def weighted_nms(dets, thr):
    """dets: rows score, x0, y0, x1, y1, keypoints...; the kept row takes the
    score-weighted mean of everything it swallows"""
    left = sorted(dets, key=lambda d: -d[0])
    out = []
    while left:
        top = left[0]
        near = [d for d in left if iou(top[1:5], d[1:5]) > thr]
        rest = [d for d in left if iou(top[1:5], d[1:5]) <= thr]
        if near:
            w = np.array([d[0] for d in near])
            row = top.copy()
            row[1:] = (np.array(near)[:, 1:] * w[:, None]).sum(0) / w.sum()
            out.append(row)
        else:                       # a degenerate box overlaps nothing, itself included
            out.append(top)
            rest = left[1:]
        if len(rest) == len(left):
            break
        left = rest
    return out


class FaceTracker:
    def __init__(self, models: Path, max_faces=1, detector="short", det_conf=0.5,
                 presence_conf=0.5, track_conf=0.5, nms=0.5, threads=1,
                 mediapipe_z=False):
        models = Path(models)
        so = ort.SessionOptions()
        so.intra_op_num_threads = threads
        so.log_severity_level = 3

        def load(n):
            return ort.InferenceSession(str(models / n), so, providers=["CPUExecutionProvider"])
        self.size = 128 if detector == "short" else 192
        self.det = load("blazeface_short_128.onnx" if detector == "short"
                        else "blazeface_full_192.onnx")
        self.anchors = anchors_short() if detector == "short" else anchors_full()
        self.lm, self.bs = load("face_landmarks_478_cpu.onnx"), load("face_blendshapes_52.onnx")
        self.max_faces, self.det_conf, self.nms = max_faces, det_conf, nms
        self.presence_conf, self.track_conf = presence_conf, track_conf
        self.mediapipe_z = mediapipe_z
        self.rects = []
        self.detector_runs = 0

    def raw(self, rgb):
        """the detector's own outputs for a picture: regressors [A,16], logits [A]"""
        H, W = rgb.shape[:2]
        side, n = max(W, H), self.size
        x = warp(rgb, W / 2, H / 2, side, side, 0.0, n, cv2.BORDER_CONSTANT)
        x = (x.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
        reg, sc = self.det.run(["regressors", "scores"], {"image": x})
        return reg[0], sc[0, :, 0]

    def detections(self, rgb):
        """rows score, x0, y0, x1, y1, six keypoints x, y; picture pixels, best first"""
        self.detector_runs += 1
        H, W = rgb.shape[:2]
        side, n = max(W, H), self.size
        reg, logits = self.raw(rgb)
        p = sigmoid(logits)
        rows = []
        for k in np.nonzero(p >= self.det_conf)[0]:
            r = reg[k] / n
            ax, ay = self.anchors[k]
            cx, cy, w, h = r[0] + ax, r[1] + ay, r[2], r[3]
            kp = r[4:16].reshape(6, 2) + (ax, ay)
            rows.append(np.concatenate([[p[k], cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2],
                                        kp.reshape(-1)]))
        out = []
        for r in weighted_nms(rows, self.nms)[:self.max_faces]:
            q = r[1:].reshape(-1, 2) * side - ((side - W) / 2, (side - H) / 2)
            out.append(np.concatenate([r[:1], q.reshape(-1)]))
        return np.array(out).reshape(-1, 17)

    def detect(self, rgb):
        """ROIs of new faces: cx, cy, w, h in pixels, rotation in radians"""
        out = []
        for _, x0, y0, x1, y1, ex0, ey0, ex1, ey1, *_ in self.detections(rgb):
            out.append(((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * 1.5, (y1 - y0) * 1.5,
                        math.atan2(ey1 - ey0, ex1 - ex0)))
        return out

    def landmarks(self, rgb, rects):
        """-> faces, next-frame rects"""
        faces, nxt = [], []
        if not rects:
            return faces, nxt
        x = np.stack([warp(rgb, *r, 256, cv2.BORDER_REPLICATE) for r in rects])
        x = np.ascontiguousarray((x.astype(np.float32) / 255).transpose(0, 3, 1, 2))
        pts, pres = self.lm.run(["landmarks", "presence"], {"image": x})
        score = sigmoid(pres[:, 0])
        for k, (cx, cy, w, h, rot) in enumerate(rects):
            if score[k] < self.presence_conf:
                continue
            p = pts[k] / 256
            u, v = p[:, 0] - 0.5, p[:, 1] - 0.5
            c, s = math.cos(rot), math.sin(rot)
            zs = w
            if self.mediapipe_z:    # its matrix is built in normalised coordinates, so
                H, W = rgb.shape[:2]        # z stretches with rotation unless W == H
                zs = w * math.hypot(c, s * W / H)
            q = np.stack([cx + c * u * w - s * v * h, cy + s * u * w + c * v * h,
                          p[:, 2] * zs], 1)
            faces.append(dict(landmarks=q, presence=float(score[k]), rect=rects[k]))
            lo, hi = q[:, :2].min(0), q[:, :2].max(0)
            side = float((hi - lo).max()) * 1.5
            mid = (lo + hi) / 2
            d = q[263] - q[33]
            nxt.append((float(mid[0]), float(mid[1]), side, side, math.atan2(d[1], d[0])))
        if faces:
            xy = np.stack([f["landmarks"][SUBSET_146, :2] for f in faces]).astype(np.float32)
            for f, b in zip(faces, self.bs.run(None, {"points": xy})[0]):
                f["blendshapes"] = b
        return faces, nxt

    def image(self, rgb):
        return self.landmarks(rgb, self.detect(rgb))[0]

    def video(self, rgb):
        rects = list(self.rects)
        if len(rects) < self.max_faces:
            def box(r):                 # rotation is ignored here
                return (r[0] - r[2] / 2, r[1] - r[3] / 2, r[0] + r[2] / 2, r[1] + r[3] / 2)
            for d in self.detect(rgb):  # a new detection replaces what it overlaps
                rects = [r for r in rects if iou(box(r), box(d)) <= self.track_conf] + [d]
        faces, self.rects = self.landmarks(rgb, rects[:self.max_faces])
        return faces
