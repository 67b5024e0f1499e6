"""Runs the project's programs in a virtual machine with real V4L2 cameras, and says what must hold afterwards.

The machine computes in software, 10 to 20 times slower than its host: nothing here looks at wall-clock time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import youquanti
from youquanti import FrameFlags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PROGRAM = RELEASE / "youquanti"
GRAB = RELEASE / "examples" / "grab"
#: What `tools/setup.sh` provides; without it, a name that tells what is missing.
ONNX_RUNTIME = next(ROOT.glob(".venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*"), Path("libonnxruntime.so"))
FFMPEG = (ROOT / ".venv" / "bin" / "ffmpeg").resolve()

#: Begins every script. It works in the machine's memory, where writing is cheap; what it leaves there is put into
#: the shared folder at its end, also when a command fails, which ends it. Pipes cannot be shared.
#: Beside it a witness on each processor sleeps for a quarter of a second, again and again, and writes down the longest that
#: took, in hundredths: the host may hold back one and let the other run.
PRELUDE = """
set -eu
mkdir /tmp/out
trap 'find /tmp/out -type p -exec rm {} +; cp -r /tmp/out/. /share/' EXIT
cd /tmp/out
witness() {
    read -r self rest < /proc/self/stat
    taskset -p $((1 << $1)) $self > /dev/null
    last= longest=0
    while read -r now idle < /proc/uptime; do
        now=${now%.*}${now#*.}
        took=$((now - ${last:-$now})) last=$now
        [ $took -le $longest ] || { longest=$took; echo $took > standstill.$1.txt; }
        usleep 250000
    done
}
(for cpu in $(seq 0 $(($(nproc) - 1))); do witness $cpu & done)  # no children of this shell, which may `wait` for all of its own
"""

#: A machine that stands still for so long, seconds, has cameras that rightly count as silent or lose frames.
STANDSTILL = 0.3

#: How often a scenario is run at most, where the machine stood still and something went wrong.
ATTEMPTS = 4


@dataclass
class Machine:
    """One scenario: a folder that host and machine share, and the machine that works in it."""

    share: Path

    def run(
        self,
        script: str,
        *,
        driver: str,
        cams: int = 1,
        param: str = "",
        programs: Iterable[Path | tuple[Path, str]] = (PROGRAM,),
        tools: Iterable[str] = (),
        disks: Iterable[str] = (),
        pull_plug: bool = False,
        mem: int = 512,
        limit: int = 900,
        is_sound: Callable[[], bool] = lambda: True,
    ) -> str:
        """Boots, runs the script, and returns what it printed; a script that fails is a failed test.

        With `is_sound`, a result that is not sound counts only if the machine itself ran: where the host let it stand still, which
        a program of its own in there witnesses, the scenario is run again.

        With `pull_plug` the machine is killed when the script writes "@@pull-plug" to its console; what it had in memory is gone.

        `programs` are put into the machine's /bin, or where the pair says, with their shared libraries. `limit`, seconds, is
        there for what hangs: it is many times what a script takes.
        """
        command: list[str | Path] = [HERE / "vm-run.sh", "--driver", driver, "--cams", str(cams), "--param", param]
        command += ["--share", self.share, "--mem", str(mem), "--timeout", str(limit)]
        for program in programs:
            file, place = program if isinstance(program, tuple) else (program, f"/bin/{program.name}")
            if not file.exists():
                pytest.fail(f"{file} is missing: `make test-cameras` brings it and runs these tests")
            command += ["--with", f"{file}:{place}"]
        for tool in tools:
            command += ["--tool", tool]
        for disk in disks:
            command += ["--disk", disk]
        if pull_plug:
            command.append("--pull-plug")
        path = self.share / "script.sh"
        path.write_text(PRELUDE + script)
        console = self.share / "console.txt"
        inputs = set(self.share.iterdir())
        for attempt in range(ATTEMPTS):
            for left in set(self.share.iterdir()) - inputs:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            done = subprocess.run(
                ["bash", *command, "--log", console, path],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
            if done.returncode != 0:
                logs = "".join(f"\n--- {log.name}\n{log.read_text()}" for log in sorted(self.share.glob("*.log")))
                pytest.fail(f"the script ended with {done.returncode}:\n{done.stdout}{logs}", pytrace=False)
            if pull_plug:
                break
            standstill = max(int(file.read_text()) for file in self.share.glob("standstill.*.txt")) / 100 - 0.25
            if is_sound() or standstill < STANDSTILL:
                break
            print(f"attempt {attempt + 1}: the machine stood still for {standstill:.2f} s, which disturbed the scenario")
        else:
            pytest.skip(f"the host let the machine stand still in each of {ATTEMPTS} attempts: nothing is told of the program")
        return done.stdout

    def json(self, name: str) -> Any:
        """A result that the script wrote."""
        return json.loads((self.share / name).read_text())

    def session(self, name: str) -> youquanti.Session:
        """The only session whose file's name begins so."""
        (path,) = self.share.glob(f"{name}_*.h5")
        return youquanti.load(path)


def configuration(name: str, *cameras: str, duration: str | None = None, pipeline: str = 'backend = "none"') -> str:
    """A configuration of these cameras, recorded into the folder that the script works in."""
    lasts = f'duration = "{duration}"' if duration else ""
    return f"""
version = 1

[session]
name = "{name}"
directory = "."
{lasts}

[pipeline]
{pipeline}

[recording]
reserve = "1MB"
{"".join(cameras)}"""


def v4l2(name: str, device: str, form: str = "YUYV", size: str = "640x480", fps: float = 25) -> str:
    """A real camera."""
    width, height = size.split("x")
    return f"""
[[camera]]
name = "{name}"
[camera.v4l2]
device = "{device}"
width = {width}
height = {height}
fps = {fps}
format = "{form}"
"""


def check_every_frame_is_counted(session: youquanti.Session, name: str) -> None:
    """Each frame that the driver counted, from the first to the last, was captured or is known to be lost.

    A late driver may give two frames one number, or go back by one: vivid reckons its numbers from the time. Such
    frames are more than were counted.
    """
    frames = session.cameras[name].frames
    assert len(frames) > 0, f"{name}: nothing captured"
    assert np.array_equal(frames["seq"], np.arange(len(frames))), f"{name}: seq jumps"
    steps = np.diff(frames["driver_seq"]).astype(np.int32)  # so a counter that wraps around is a small step too
    assert np.all(steps >= -1), f"{name}: the driver's counter goes back: {steps}"
    surplus = (1 - steps[steps < 1]).sum()
    for consumer, items in ledger(session, name).items():
        dropped = sum(count for item, count in items.items() if item.startswith("dropped:"))
        assert items["captured"] == items["delivered"] + dropped, f"{name}, {consumer}: {items}"
        assert items["captured"] == len(frames), f"{name}, {consumer}: {items}"
        assert items["captured"] + items["driver_lost"] == 1 + steps.sum() + surplus, f"{name}, {consumer}: {items}"


def check_stamps(session: youquanti.Session, name: str) -> None:
    """All stamps are the driver's own, and rise."""
    frames = session.cameras[name].frames
    replaced = frames["flags"] & (FrameFlags.STAMP_REPLACED | FrameFlags.STAMP_IS_RECEIPT)
    assert not np.any(replaced), f"{name}: {np.count_nonzero(replaced)} stamps are not the driver's"
    assert np.all(np.diff(frames["captured_at_ns"].astype(np.int64)) > 0), f"{name}: stamps do not rise"


def ledger(session: youquanti.Session, camera: str) -> dict[str, dict[str, int]]:
    """Counts of a camera, by consumer and item."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in session.ledger:
        if row["camera"] == camera:
            counts[row["consumer"]][row["item"]] = row["count"]
    return dict(counts)
