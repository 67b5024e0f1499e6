"""Capture to preview in shared memory, as another process finds it: the program with simulated cameras, read by youquanti.shm.

    .venv/bin/python benches/preview/latency.py [--cameras 4] [--seconds 20] [--size 1280x720] [--fps 30] [--faces 1]

Prints one line of JSON with p50, p99 and max in milliseconds, of all cameras together: from the capture stamp to the result
leaving the pipeline (`inference`: waiting, detector and landmarks), from there to the finished preview (`preview`), and both together.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target" / "release" / "youquanti"
sys.path.insert(0, str(ROOT / "clients" / "python" / "src"))

from youquanti import shm  # noqa: E402

HEAD = """
version = 1
[session]
name = "{name}"
[pipeline]
backend = "cpu"
[recording]
reserve = "1MB"
"""
CAMERA = """
[[camera]]
name = "cam{k}"
[camera.scene]
faces = {faces}
width = {width}
height = {height}
fps = {fps}
seed = {k}
"""


def read(name: str, camera: str, stop: threading.Event, rows: list[tuple[int, int, int]]) -> None:
    """Facts of every new preview, nothing copied but those."""
    reader, last = shm.Reader(camera, name), -1
    while not stop.is_set():
        frame = reader.latest()
        if frame is None or frame.seq == last:
            time.sleep(0.003)
            continue
        last = frame.seq
        if frame.analysed and frame.results is not None and frame.is_whole():
            published, previewed = int(frame.results["published_ns"]), int(frame.results["previewed_ns"])
            rows.append((published - frame.captured_at_ns, previewed - published, previewed - frame.captured_at_ns))


def cpu_of_thread(pid: int, thread: str) -> float:
    """Seconds of processor time of a thread."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == thread:
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return float("nan")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cameras", type=int, default=4)
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--size", default="1280x720")
    arguments.add_argument("--fps", type=int, default=30)
    arguments.add_argument("--faces", type=int, default=1)
    asked = arguments.parse_args()
    width, height = asked.size.split("x")
    name = f"latency-{os.getpid()}"
    cameras = (
        CAMERA.format(k=k, width=width, height=height, fps=asked.fps, faces=asked.faces) for k in range(asked.cameras)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(HEAD.format(name=name) + "".join(cameras))
        program = subprocess.Popen([PROGRAM, "run", config, "--record", folder], stdout=subprocess.DEVNULL)
        while not any(session.name == name and all(c.preview for c in session.cameras) for session in shm.sessions()):
            time.sleep(0.05)
        time.sleep(2)  # the first frames find everything cold
        stop, rows = threading.Event(), [[] for _ in range(asked.cameras)]
        readers = [threading.Thread(target=read, args=(name, f"cam{k}", stop, rows[k])) for k in range(asked.cameras)]
        spent, begun = cpu_of_thread(program.pid, "yq-preview"), time.monotonic()
        for reader in readers:
            reader.start()
        time.sleep(asked.seconds)
        spent, took = cpu_of_thread(program.pid, "yq-preview") - spent, time.monotonic() - begun
        stop.set()
        for reader in readers:
            reader.join()
        program.send_signal(signal.SIGINT)
        program.wait()
    figures = np.array([row for camera in rows for row in camera], dtype=float) / 1e6
    percentiles = {
        what: dict(zip(("p50", "p99", "max"), np.percentile(figures[:, k], [50, 99, 100]).round(2).tolist(), strict=True))
        for k, what in enumerate(("inference", "preview", "both"))
    }
    facts = {
        "cameras": asked.cameras,
        "size": asked.size,
        "fps": asked.fps,
        "faces": asked.faces,
        "previews_a_second": round(len(figures) / took, 1),
        "preview_thread_cpu_ms_each": round(spent / max(len(figures), 1) * 1e3, 2),
    }
    print(json.dumps(facts | {"ms": percentiles}))


if __name__ == "__main__":
    main()
