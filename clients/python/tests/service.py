"""The program with its port open, for tests of clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

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
[server]
port = 0
[recording]
enabled = false
flush_interval = "200ms"
reserve = "1MB"
"""


#: In place of NVIDIA's library, where there is no GPU: two devices, of which the second does not say how busy it is.
NVML = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
static long places[2];
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &places[index]; return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) { strncpy(name, "Some \\"GPU\\"", length); return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    strncpy(uuid, device == &places[0] ? "GPU-0" : "GPU-1", length);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 80000000000ull;
    memory->used = 12500000000ull;
    memory->free = memory->total - memory->used;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    rates->gpu = 45;
    return device == &places[0] ? 0 : 3;
}
"""


def with_gpus(folder: Path) -> dict[str, str]:
    """The environment of a program that shall find two GPUs."""
    (folder / "nvml.c").write_text(NVML)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "libnvidia-ml.so.1", "nvml.c"], cwd=folder, check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


class Service:
    """The program, running in a folder, with more keys of `[recording]` and tables after it.

    With faults it is a rehearsal, whose matrix is `matrix.json` at its end.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        faults: str | None = None,
        environment: dict[str, str] | None = None,
        more: str = "",
    ) -> None:
        config = folder / "session.toml"
        config.write_text(CONFIG.format(name=f"{name}-{os.getpid()}") + more)
        self.folder = folder
        self.log = folder / "log.txt"
        self.matrix = folder / "matrix.json"
        words: list[str | Path] = ["run", config]
        if faults is not None:
            campaign = folder / "campaign.toml"
            campaign.write_text(f'version = 1\nconfig = "session.toml"\n{faults}')
            words = ["chaos", campaign, "--ui", "--json"]
        environment = os.environ | (environment or {}) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with self.log.open("wb") as log, self.matrix.open("wb") as matrix:
            out = log if faults is None else matrix
            self.process = subprocess.Popen([PROGRAM, *words], cwd=folder, stdout=out, stderr=log, env=environment)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"control and figures at http://127\.0\.0\.1:(\d+)/", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    def get(self, path: str) -> str:
        """What is answered to a request."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            text: str = answer.read().decode()
            return text

    def client(self) -> youquanti.Client:
        client = youquanti.Client(port=self.port, timeout=60)
        client.wait_until_running(120)
        return client
