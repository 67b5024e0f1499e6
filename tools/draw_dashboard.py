"""Draws docs/dashboard.png: the demo as the dashboard shows it after half a minute, in Chromium. Wants a computer with nothing else to do.

    make setup-test build && .venv/bin/python tools/draw_dashboard.py
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "clients/python/src"), str(ROOT / "clients/python/tests")]

import youquanti  # noqa: E402
from browser import Page  # noqa: E402

#: Cameras and people; what is below them says little.
SHOWN = 1010
WIDTH = 1120


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log, shot = Path(folder) / "log.txt", Path(folder) / "shot.png"
        with log.open("wb") as out:
            demo = ROOT / "config/examples/demo.toml"
            # The demo ends after 20 s, before the plots are full.
            command: list[str | Path] = [ROOT / "target/release/youquanti", "run", demo, "--duration", "60s"]
            program = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
        while not (found := re.search(r"control and figures at http://127\.0\.0\.1:(\d+)/", log.read_text())):
            assert program.poll() is None, log.read_text()
            time.sleep(0.05)
        with youquanti.Client(port=int(found[1])) as client:
            client.wait_until_running()
        page = Page(Path(folder), f"http://127.0.0.1:{found[1]}/")
        time.sleep(33)  # the plots show 30 s
        page.screenshot(shot)
        page.close()
        program.send_signal(signal.SIGINT)
        program.wait()
        whole = Image.open(shot).convert("RGB")
    picture = whole.crop((0, 0, whole.width, SHOWN))
    picture = picture.resize((WIDTH, SHOWN * WIDTH // whole.width), Image.Resampling.LANCZOS)
    picture.save(ROOT / "docs/dashboard.png", optimize=True)


if __name__ == "__main__":
    main()
