"""Capture to preview in shared memory, as another process finds it: the program with simulated cameras, read by youquanti.shm.

    .venv/bin/python benches/preview/latency.py [--cameras 1 2 4] [--seconds 20] [--size 1280x720] [--fps 30] [--faces 1]

Prints a line of JSON for each number of cameras, with p50, p99 and max in milliseconds, of all of them together: from the capture stamp
to the result leaving the pipeline (`inference`: waiting, detector and landmarks), from there to the finished preview of the same
frame (`preview`), and both together.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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


def percentiles(values: Sequence[float] | npt.NDArray[np.float64]) -> dict[str, float]:
    """p50, p99 and the largest."""
    p50, p99, largest = np.percentile(values, [50, 99, 100]).round(2).tolist()
    return {"p50": p50, "p99": p99, "max": largest}


def options(description: str | None) -> argparse.ArgumentParser:
    """What is measured."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4])
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--size", default="1280x720")
    arguments.add_argument("--fps", type=int, default=30)
    arguments.add_argument("--faces", type=int, default=1)
    return arguments


def configuration(name: str, count: int, asked: argparse.Namespace) -> str:
    """A session with so many cameras."""
    width, height = asked.size.split("x")
    cameras = (CAMERA.format(k=k, width=width, height=height, fps=asked.fps, faces=asked.faces) for k in range(count))
    return HEAD.format(name=name) + "".join(cameras)


def measure(count: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One session with so many cameras, nobody looking on but the reader."""
    name = f"latency-{os.getpid()}-{count}"
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "config.toml", Path(folder) / "log.txt"
        config.write_text(configuration(name, count, asked))
        with log.open("wb") as out:
            program = subprocess.Popen([PROGRAM, "run", config, "--record", folder, "--no-ui"], stdout=out, stderr=out)
        while not any(session.name == name and all(c.preview for c in session.cameras) for session in shm.sessions()):
            assert program.poll() is None, log.read_text()
            time.sleep(0.05)
        time.sleep(2)  # the first frames find everything cold
        stop = threading.Event()
        rows: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
        readers = [threading.Thread(target=read, args=(name, f"cam{k}", stop, rows[k])) for k in range(count)]
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
    return {
        "cameras": count,
        "previews_a_second": round(len(figures) / took, 1),
        "preview_thread_cpu_ms_each": round(spent / max(len(figures), 1) * 1e3, 2),
        "ms": {what: percentiles(figures[:, k]) for k, what in enumerate(("inference", "preview", "both"))},
    }


def main() -> None:
    asked = options(__doc__).parse_args()
    for count in asked.cameras:
        print(json.dumps(measure(count, asked)), flush=True)


if __name__ == "__main__":
    main()
