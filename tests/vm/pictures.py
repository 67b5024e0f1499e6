"""Pictures for cameras to show, and cameras that show them: made from the project's own, in the forms that cameras send.

Colours are BT.601: limited range in YUYV, as the program reads it, full range in JPEGs, as their standard has it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from machine import ROOT
from numpy.typing import NDArray
from PIL import Image

#: One face of about 200 pixels in 1280 x 720.
ONE_FACE = ROOT / "tests" / "golden" / "one.png"
#: Four faces in 1280 x 720.
FOUR_FACES = ROOT / "tests" / "golden" / "grid4.png"

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def rgb(path: Path, width: int, height: int, zoom: float = 1.0) -> NDArray[np.uint8]:
    """The middle of a picture, 1 / zoom of its height, in this size: [height, width, 3]."""
    with Image.open(path) as picture:
        half = picture.height / zoom / 2
        x, y, aspect = picture.width / 2, picture.height / 2, width / height
        part = (x - half * aspect, y - half, x + half * aspect, y + half)
        return np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, part))


def planes_420(picture: NDArray[np.uint8]) -> Planes:
    """Luma and, in half the width and height, the means of both chromas."""
    red, green, blue = np.moveaxis(picture.astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chromas = (blue - luma) / 1.772, (red - luma) / 1.402
    height, width = luma.shape
    means = (chroma.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for chroma in chromas)
    u, v = (np.rint(128 + mean * 224 / 255).astype(np.uint8) for mean in means)
    return np.rint(16 + luma * 219 / 255).astype(np.uint8), u, v


def yuyv(planes: Planes) -> bytes:
    """The same as a camera's YUYV frame: each line of chroma serves two lines."""
    luma, u, v = planes
    frame = np.empty((*luma.shape, 2), np.uint8)
    frame[:, :, 0] = luma
    frame[:, 0::2, 1] = u.repeat(2, axis=0)
    frame[:, 1::2, 1] = v.repeat(2, axis=0)
    return frame.tobytes()


def y4m(planes: Planes, frames: int) -> bytes:
    """The same as an uncompressed video that shows it so many times."""
    height, width = planes[0].shape
    frame = b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
    return f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode() + frame * frames


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """The same as a camera's MJPG frame: chroma in half the width."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=92, subsampling="4:2:2")
    return out.getvalue()


def numbered(path: Path, width: int, height: int, count: int) -> list[NDArray[np.uint8]]:
    """Different pictures of one scene, each moved on by its number."""
    picture = rgb(path, width, height)
    return [np.roll(picture, 8 * number, axis=1) for number in range(count)]


def plug_in(share: Path, cameras: int, width: int, height: int, fps: int) -> str:
    """Commands for a machine that plug in USB cameras, each with orders from /tmp/cam0, ... Puts their pictures into `share`."""
    for number, picture in enumerate(numbered(FOUR_FACES, width, height, 3)):
        (share / f"uvc{number}.jpg").write_bytes(jpeg(picture))
    return f"""
        for port in $(seq 0 {cameras - 1}); do
            mkfifo /tmp/cam$port
            # opened for both ways, so that it stays open when an order's writer closes it
            uvc_cam $port {width} {height} {fps} /share/uvc?.jpg <> /tmp/cam$port > uvc_cam$port.log 2>&1 &
        done
        until [ -e /dev/video{2 * cameras - 1} ]; do usleep 200000; done
        """
