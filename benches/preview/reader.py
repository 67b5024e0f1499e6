"""The Python reader under load: made-up previews at a rate, writer killed and started again, reader stopped and continued.

    .venv/bin/python benches/preview/reader.py [--frames 100000] [--fps 60] [--size 960x540]

Every frame carries its number and a sum over its picture; every number of its face is the frame's. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "python"
LOAD = ROOT / "target" / "release" / "examples" / "shm-load"

READER = """
import json, signal, sys
from test_shm import is_torn
from youquanti import shm
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
reader, connection, last = shm.Reader("load"), 0, -1
n = dict(read=0, torn=0, out_of_order=0, views=0, views_overwritten=0, torn_views_unnoticed=0)
while not stop:
    frame = reader.wait(0.2)
    if frame is None:
        continue
    if reader.connections != connection:
        connection, last = reader.connections, -1
    n["read"] += 1
    n["torn"] += is_torn(frame)
    n["out_of_order"] += frame.seq <= last
    last = frame.seq
    view = reader.latest()
    if view is not None:
        torn = is_torn(view)
        whole = view.is_whole()
        n["views"] += 1
        n["views_overwritten"] += not whole
        n["torn_views_unnoticed"] += torn and whole
print(json.dumps(n | {"connections": reader.connections}))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--frames", type=int, default=100_000)
    arguments.add_argument("--fps", type=float, default=60)
    arguments.add_argument("--size", default="960x540")
    arguments.add_argument("--lives", type=int, default=10, help="lives of the writer; all but the last end by a kill")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as runtime:
        paths = [str(CLIENT / "src"), str(CLIENT / "tests")]
        environment = os.environ | {"XDG_RUNTIME_DIR": runtime, "PYTHONPATH": os.pathsep.join(paths)}
        reader = subprocess.Popen([sys.executable, "-c", READER], env=environment, stdout=subprocess.PIPE)
        share, stops = -(-asked.frames // asked.lives), 0
        begun = time.monotonic()
        for life in range(asked.lives):
            is_last = life == asked.lives - 1
            command = [LOAD, f"bench-{os.getpid()}", asked.size, str(asked.fps), str(share if is_last else 0)]
            writer = subprocess.Popen(command, env=environment)
            until = time.monotonic() + share / asked.fps
            while writer.poll() is None and (is_last or time.monotonic() < until):
                time.sleep(min(10.0, max(0.1, until - time.monotonic())))
                reader.send_signal(signal.SIGSTOP)
                time.sleep(0.5)
                reader.send_signal(signal.SIGCONT)
                stops += 1
                done = (life + min(1.0, 1 - (until - time.monotonic()) * asked.fps / share)) / asked.lives
                print(f"\r{done:4.0%} of {asked.frames} frames", end="", file=sys.stderr, flush=True)
            writer.kill()
            writer.wait()
        reader.send_signal(signal.SIGTERM)
        said, _ = reader.communicate()
        facts = {"written_about": asked.frames, "fps": asked.fps, "size": asked.size, "writer_lives": asked.lives}
        print(file=sys.stderr)
        print(json.dumps(facts | {"reader_stops": stops, "s": round(time.monotonic() - begun)} | json.loads(said)))


if __name__ == "__main__":
    main()
