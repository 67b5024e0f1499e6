#!/usr/bin/env python3
"""How much video this machine can write, and what happens beyond: a table in Markdown.

    make build && .venv/bin/python tools/video_load.py [SECONDS] > table.md

Runs the program on simulated cameras (two faces, YUYV, 30 frames a second in real time), with nothing sought in the
pictures. Processor time is that of program and FFmpeg together, less that of the same frames without video; divided by frames in
the video, it depends little on what else runs. Drawing the pictures takes a part of the machine, too.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "target/release/youquanti"


def session(folder: str, cameras: int, size: tuple[int, int], codec: str, seconds: float):
    """Frames captured, in the index, and in the video; processor seconds; bytes of video."""
    scene = "scene = {{ faces = 2, seed = {}, width = {}, height = {}, fps = 30 }}"
    tables = "".join(f'[[camera]]\nname = "c{k}"\n{scene.format(k + 1, *size)}\n' for k in range(cameras))
    out = Path(folder) / f"{codec}-{cameras}-{size[1]}"
    config = Path(folder) / "load.toml"
    config.write_text(
        f'version = 1\n[session]\nname = "load"\ndirectory = "{out}"\nduration = "{seconds:.0f}s"\n{tables}'
        f'[pipeline]\nbackend = "none"\n[preview]\nenabled = false\n[server]\nenabled = false\n'
        f'[recording.video]\ncodec = "{codec}"\n'
    )
    program = subprocess.Popen([PROGRAM, "run", config, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    report = json.loads(program.stdout.read())
    used = os.wait4(program.pid, 0)[2]
    counts = [camera["consumers"] for camera in report["cameras"]]
    captured = sum(camera["captured"] for camera in report["cameras"])
    index, video = (sum(count[who]["delivered"] for count in counts) for who in ("index", "video"))
    size_of_video = sum(file.stat().st_size for file in out.glob("*.mkv"))
    return captured, index, video, used.ru_utime + used.ru_stime, size_of_video


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    print("| size | codec | cameras | captured | in the video | CPU ms a frame | kB a frame | frame index |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in [(640, 480), (1280, 720), (1920, 1080)]:
            captured, _, _, processor, _ = session(folder, 1, size, "none", seconds)
            drawing = processor / captured
            for codec, cameras in [(codec, n) for codec in ("h264", "h265", "mjpeg", "lossless") for n in (1, 4)]:
                captured, index, video, processor, volume = session(folder, cameras, size, codec, seconds)
                cost = 1e3 * (processor - drawing * captured) / max(video, 1)
                print(
                    f"| {size[0]}×{size[1]} | {codec} | {cameras} | {captured} | {video} ({100 * video / captured:.0f} %) "
                    f"| {cost:.1f} | {volume / 1e3 / max(video, 1):.0f} | {'all' if index == captured else index} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
