"""Capture to preview in shared memory, and capture to drawn in a browser: the program with simulated cameras, its dashboard in Chromium.

    make preview-bench      which is    .venv/bin/python benches/preview/run.py --json benches/results/preview.json
    ... run.py [--cameras 1 2 4] [--seconds 20] [--size 1280x720] [--fps 30] [--faces 1] [--json FILE]

Shared memory is measured first, by latency.py, without a browser. In the browser the page itself measures: a picture comes with its
capture stamp, and is late by what the session's clock says right after it was drawn, in the callback of requestAnimationFrame. What a
monitor adds is not in it. The clocks are tied by questions and answers over the page's WebSocket; `clock` is by how much that may be
wrong. Processor time is that of all processes of Chromium, and that of the program, simulated cameras and all, in cores. Chromium
paints with the processor here (`--disable-gpu`), as it does not on a desk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target" / "release" / "youquanti"
sys.path[:0] = [str(ROOT / "clients/python/src"), str(ROOT / "clients/python/tests")]

import latency  # noqa: E402
import youquanti  # noqa: E402
from browser import Page  # noqa: E402

#: How long nothing is counted at first: caches are cold, networks are loaded, the page is laid out.
WARM_UP = 5.0

#: The page remembers 1000 pictures of each camera.
MOST_PICTURES = 1000


def children(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu(pid: int) -> float:
    """Seconds of processor time of a process and all that it started."""
    total = 0
    for process in children(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(count: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One session with so many cameras, and one browser."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(latency.configuration(f"browser-{os.getpid()}-{count}", count, asked) + "[server]\nport = 0\n")
        log = Path(folder) / "log.txt"
        with log.open("wb") as out:
            program = subprocess.Popen([PROGRAM, "run", config, "--record", folder], stdout=out, stderr=out)
        while not (found := re.search(r"control and figures at http://127\.0\.0\.1:(\d+)/", log.read_text())):
            assert program.poll() is None, log.read_text()
            time.sleep(0.05)
        with youquanti.Client(port=int(found[1]), timeout=60) as client:
            client.wait_until_running(120)
            page = Page(Path(folder), f"http://127.0.0.1:{found[1]}/")
            page.wait_for(f"document.querySelectorAll('.camera canvas[data-seq]').length === {count}")
            time.sleep(WARM_UP)
            before = client.ledger()
            page.evaluate("for (const { camera } of document.querySelectorAll('.camera')) camera.delays.length = 0")
            spent, begun = [cpu(page.process.pid), cpu(program.pid)], time.monotonic()
            time.sleep(asked.seconds)
            took = time.monotonic() - begun
            spent = [now - then for now, then in zip([cpu(page.process.pid), cpu(program.pid)], spent, strict=True)]
            delays = page.evaluate("[...document.querySelectorAll('.camera')].flatMap(({ camera }) => camera.delays)")
            after, cameras = client.ledger(), client.cameras()
            page.close()
        program.send_signal(signal.SIGINT)
        program.wait()
    analysed = sum(
        camera["consumers"]["pipeline"]["delivered"] - before[name]["consumers"]["pipeline"]["delivered"]
        for name, camera in after.items()
    )
    return {
        "drawn_a_second": round(len(delays) / took, 1),
        "analysed_a_second": round(analysed / took, 1),
        "ms": {
            # Since the session's beginning, of the camera that is worst.
            "result": {key: round(max(camera["latency_ms"][key] for camera in cameras), 2) for key in ("p50", "p99", "max")},
            "received": latency.percentiles([delay["received_ms"] for delay in delays]),
            "drawn": latency.percentiles([delay["drawn_ms"] for delay in delays]),
        },
        "clock_ms": round(max(delay["error_ms"] for delay in delays), 2),
        "cores": {"chromium": round(spent[0] / took, 2), "program": round(spent[1] / took, 2)},
    }


def main() -> None:
    arguments = latency.options(__doc__)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write everything into this file, too")
    asked = arguments.parse_args()
    if asked.seconds * asked.fps > MOST_PICTURES:
        arguments.error(f"the page remembers {MOST_PICTURES} pictures of a camera: fewer --seconds, or fewer --fps")
    print(f"{asked.size}, {asked.fps} fps, faces: {asked.faces} a camera; milliseconds, p50 / p99; {os.cpu_count()} cores\n")
    print("| cameras | shared memory: result | result to preview | browser: result | received | drawn | clock ± "
          "| drawn of analysed of captured /s | cores: Chromium | program | load |")  # fmt: skip
    print("| --- " * 11 + "|", flush=True)
    rows = []
    for count in asked.cameras:
        load = round(os.getloadavg()[0], 1)
        shared, seen = latency.measure(count, asked), measure(count, asked)
        rows.append({"cameras": count, "load_before": load, "shared_memory": shared, "browser": seen})
        delays = [shared["ms"]["inference"], shared["ms"]["preview"], *seen["ms"].values()]
        cells = [
            count,
            *(f"{delay['p50']:.1f} / {delay['p99']:.1f}" for delay in delays),
            seen["clock_ms"],
            f"{seen['drawn_a_second']} of {seen['analysed_a_second']} of {count * asked.fps}",
            *seen["cores"].values(),
            load,
        ]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    if asked.json:
        facts = {"machine": platform.platform(), "cores": os.cpu_count(), "seconds": asked.seconds}
        facts |= {"size": asked.size, "fps": asked.fps, "faces": asked.faces, "rows": rows}
        asked.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
