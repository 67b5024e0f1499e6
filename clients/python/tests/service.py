"""The program with its port open, for tests of clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import youquanti
from conftest import PROGRAM

CONFIG = """
version = 1
[session]
name = "{name}"
[[camera]]
name = "left"
scene = {{ width = 640, height = 360, fps = 15, faces = 1, seed = 7 }}
[[camera]]
name = "right"
scene = {{ width = 640, height = 360, fps = 15, faces = 1, seed = 8 }}
[pipeline]
backend = "cpu"
threads = 1
smallest_face = 40
[participants]
expected = 2
names = ["Änne", "Ben"]
[recording]
enabled = false
flush_interval = "200ms"
reserve = "1MB"
[server]
port = 0
"""


class Service:
    """The program, running in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        config = folder / "session.toml"
        config.write_text(CONFIG.format(name=f"{name}-{os.getpid()}"))
        self.folder = folder
        self.log = folder / "log.txt"
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [PROGRAM, "run", config], cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=environment
            )
        deadline = time.monotonic() + 120
        while not (found := re.search(r"control and figures at http://127\.0\.0\.1:(\d+)/", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    def client(self) -> youquanti.Client:
        client = youquanti.Client(port=self.port, timeout=60)
        client.wait_until_running(120)
        return client
