#!/usr/bin/env python3
"""Render clips of real faces in motion, with ground truth, for benches and golden data.

Two public-domain portraits (models/portraits) are pasted as feathered ellipses on a smooth
background and move, turn and scale along sines. Truth for each frame and face: cx, cy = midpoint of
the outer eye corners (px, pixel centres at whole numbers), eye = their distance (px), ang =
in-plane turn relative to the photograph (radians, clockwise in the picture).
The formulas are written out in tests/golden/README.md.

    make_clip.py --faces 1 --frames 300 --out clip1.npz
    make_clip.py --faces 4 --layout grid --out clip4.npz --raw clip4.rgb

The .npz holds the recipe and the truth (small); `render(clip, k)` makes frame k on demand.
--raw writes headerless RGB24, --png one frame as a picture.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

W, H = 1280, 720
PORTRAITS = Path(__file__).resolve().parents[2] / "models" / "portraits"
# file, midpoint x, y and distance of the outer eye corners
SRC = {"collins": ("astronaut.png", 225.43, 102.40, 60.82),
       "hopper": ("grace_hopper.jpg", 263.92, 189.19, 115.44)}


def sources():
    from PIL import Image
    return {name: np.asarray(Image.open(PORTRAITS / s[0]).convert("RGB"))
            for name, s in SRC.items()}


def make(faces: int, frames: int, fps: float = 30.0, seed: int = 3, layout: str = "row"):
    """layout "row": faces side by side (four are ~140 px wide: hard for a 128x128 detector).
    "grid": up to four larger faces, two by two."""
    rng = np.random.default_rng(seed)
    who = [("collins", "hopper")[k % 2] for k in range(faces)]
    flip = np.array([k >= 2 for k in range(faces)])
    t = np.arange(frames) / fps
    cx, cy, eye, ang = (np.zeros((frames, faces), np.float32) for _ in range(4))
    path = []               # of each face, see tests/golden/README.md
    cell = W / max(faces, 1)
    for k in range(faces):
        ph = rng.uniform(0, 2 * np.pi, 4)
        if layout == "grid":
            base, x0, y0 = 105.0, W * (0.25 + 0.5 * (k % 2)), H * (0.24 + 0.5 * (k // 2))
            ax, ay, zoom = 130.0, 14.0, 0.08
        else:
            base = 120.0 if faces == 1 else min(0.26 * cell, 100.0)
            x0, y0 = cell * (k + 0.5), H / 2 - 30
            ax = float(np.clip(cell / 2 - base * 2.0, 8.0, 300.0))
            ay, zoom = (80, 0.25) if faces == 1 else (110, 0.1)
        path.append([x0, ax, y0, ay, base, zoom, *ph])
        cx[:, k] = x0 + ax * np.sin(2 * np.pi * 0.13 * t + ph[0])
        cy[:, k] = y0 + ay * np.sin(2 * np.pi * 0.11 * t + ph[1])
        eye[:, k] = base * (1 + zoom * np.sin(2 * np.pi * 0.17 * t + ph[2]))
        ang[:, k] = np.deg2rad(20) * np.sin(2 * np.pi * 0.23 * t + ph[3])
    return dict(who=np.array(who), flip=flip, cx=cx, cy=cy, eye=eye, ang=ang, path=np.array(path),
                fps=np.float32(fps), size=np.array([W, H]),
                ellipse=np.array([1.5, 1.6, 0.3] if layout == "grid" else [1.75, 2.3, 0.23],
                                 np.float32))


_cache: dict = {}


def background(noise: bool) -> np.ndarray:
    if noise not in _cache:
        y, x = np.mgrid[0:H, 0:W].astype(np.float32)
        b = np.stack([90 + 40 * np.sin(x / 190) + 20 * np.cos(y / 70),
                      100 + 30 * np.cos(x / 140 + y / 210),
                      120 + 35 * np.sin(y / 120)], -1)
        if noise:
            b += np.random.default_rng(1).normal(0, 3, b.shape)
        _cache[noise] = np.clip(b, 0, 255).astype(np.uint8)
    return _cache[noise]


def render(clip, k: int, noise: bool = True) -> np.ndarray:
    """frame k as RGB uint8 [720,1280,3]"""
    if "src" not in _cache:
        _cache["src"] = sources()
    out = background(noise).copy()
    ew, eh, ey = (float(v) for v in clip["ellipse"])   # in eye distances
    for f in range(len(clip["who"])):
        name = str(clip["who"][f])
        _, sx, sy, sr = SRC[name]
        img = _cache["src"][name]
        if clip["flip"][f]:
            img = img[:, ::-1]
            sx = img.shape[1] - 1 - sx
        cx, cy, e, a = (float(clip[n][k, f]) for n in ("cx", "cy", "eye", "ang"))
        s = e / sr
        c, n = np.cos(a) * s, np.sin(a) * s
        m = np.array([[c, -n, cx - c * sx + n * sy], [n, c, cy - n * sx - c * sy]])
        x0, x1 = max(int(cx - 3 * e), 0), min(int(cx + 3 * e) + 1, W)
        y0, y1 = max(int(cy - 3 * e), 0), min(int(cy + 3 * e) + 1, H)
        if x1 <= x0 or y1 <= y0:
            continue
        mm = m.copy()
        mm[:, 2] -= (x0, y0)
        patch = cv2.warpAffine(np.ascontiguousarray(img), mm, (x1 - x0, y1 - y0),
                               flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        u = ((xx - cx) * np.cos(a) + (yy - cy) * np.sin(a)) / (ew * e)
        v = (-(xx - cx) * np.sin(a) + (yy - cy) * np.cos(a) - ey * e) / (eh * e)
        alpha = np.clip((1 - np.sqrt(u * u + v * v)) * 8, 0, 1)[..., None]
        roi = out[y0:y1, x0:x1]
        out[y0:y1, x0:x1] = (roi + alpha * (patch.astype(np.float32) - roi)).astype(np.uint8)
    return out


def load(path):
    with np.load(path) as z:
        return {k: z[k] for k in z.files}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--faces", type=int, default=1)
    ap.add_argument("--frames", type=int, default=300)
    ap.add_argument("--layout", choices=["row", "grid"], default="row")
    ap.add_argument("--fps", type=float, default=30)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--raw", type=Path)
    ap.add_argument("--png", type=Path, help="write frame 0 as a picture")
    a = ap.parse_args()
    clip = make(a.faces, a.frames, a.fps, layout=a.layout)
    np.savez_compressed(a.out, **clip)
    if a.png:
        from PIL import Image
        Image.fromarray(render(clip, 0)).save(a.png)
    if a.raw:
        with open(a.raw, "wb") as raw:
            for k in range(a.frames):
                raw.write(render(clip, k).tobytes())


if __name__ == "__main__":
    main()
