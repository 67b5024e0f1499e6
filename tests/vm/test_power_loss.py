"""Machines that lose their power while they record: what was safe is in the file, whatever else the disk made of it.

A machine records onto an ext4 disk of its own and is killed, QEMU and all, so that its memory is lost. Every write and flush that
the disk got is logged. From the log come the states that a disk with a cache may be in when the power goes: everything up to a
flush, and of what came after it any part, in sectors or pages. Another machine mounts each of them, which replays ext4's journal. What was
safe is in the log, too: after each flush of the recorder a line is written to the end of the disk, behind the file system.

`POWER_LOSSES=200` looks at so many states, `SEED=2` at others.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pictures
import pytest
import youquanti
from machine import HERE, PROGRAM, RELEASE, ROOT, Machine, configuration, v4l2

ROWS = RELEASE / "examples" / "session-rows"
CHECK_ROWS = ROOT / "actors" / "tests" / "python" / "check_rows.py"

LOSSES = int(os.environ.get("POWER_LOSSES", "8"))
SEED = int(os.environ.get("SEED", "1"))
#: States that one machine mounts.
DISKS = 8

SECTOR = 512
PAGE = 4096
#: Who says what is safe. `session` is the program itself, which counts rows; the others are of `session-rows`, which counts frames.
WRITERS = ("session", "plain", "deflate")
#: The file system, and the whole disk: in between is a page for each of them.
FILE_SYSTEM, DISK = 96 << 20, (96 << 20) + len(WRITERS) * PAGE

WIDTH, HEIGHT = 320, 240


@dataclass
class Entry:
    """One write, or flush, of the disk."""

    offset: int
    data: bytes
    flush: bool


def entries(log: Path) -> Iterator[Entry]:
    """What the disk got, in order: the format of dm-log-writes (Linux, Documentation/device-mapper/log-writes)."""
    content = log.read_bytes()
    magic, version, _, sector = struct.unpack_from("<QQQI", content)
    assert (magic, version, sector) == (0x6A736677736872, 1, SECTOR)
    at = SECTOR
    while at + SECTOR <= len(content):
        first, count, flags, _ = struct.unpack_from("<QQQQ", content, at)
        at += SECTOR
        data = content[at : at + count * SECTOR]
        # The kill's own moment: the last entries may be without a head or without all of their data.
        if (count == 0 and flags == 0) or len(data) < count * SECTOR:
            return
        assert flags & ~3 == 0, "discards are switched off"
        yield Entry(first * SECTOR, data, flags & 1 != 0)
        at += len(data)


@dataclass
class State:
    """A disk that lost its power."""

    image: Path
    #: What had been said to be safe, by writer.
    safe: dict[str, int]
    #: What was found on it once it was mounted.
    files: Path


def lose_power(
    base: Path, written: list[Entry], cut: int, kept: float, whole: int, dice: random.Random, image: Path
) -> dict[str, int]:
    """Makes the disk as it is when the power goes after so many entries, and a share of what was not flushed is on it.

    The disk writes so many bytes as a `whole`. Returns what had been safe by then.
    """
    shutil.copy(base, image)
    flushed = max((k for k in range(cut) if written[k].flush), default=-1)
    safe: dict[str, int] = {}
    with image.open("r+b") as disk:
        for k, entry in enumerate(written[:cut]):
            if entry.offset >= FILE_SYSTEM:
                # Of a writer that has said nothing yet there are zeros.
                for writer, count in re.findall(r"([a-z]+) ([0-9]+) ", entry.data.decode()):
                    safe[writer] = int(count)
                continue
            step = max(len(entry.data), 1) if k <= flushed else whole
            for start in range(0, len(entry.data), step):
                if k <= flushed or dice.random() < kept:
                    disk.seek(entry.offset + start)
                    disk.write(entry.data[start : start + step])
    return safe


@pytest.fixture(scope="module")
def states(scenario: Callable[[str], Machine], tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    folder = tmp_path_factory.mktemp("disks")
    base, disk, log = folder / "base.img", folder / "disk.img", folder / "disk.log"
    with base.open("wb") as file:
        file.truncate(DISK)
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    assert mkfs, "mkfs.ext4 is missing: apt-get install e2fsprogs"
    options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run([mkfs, *options, base, str(FILE_SYSTEM // 1024)], check=True)
    shutil.copy(base, disk)
    recording = scenario("recording")
    camera = v4l2("cam", "SN0000", "MJPG", f"{WIDTH}x{HEIGHT}", fps=10)
    text = configuration("session", camera).replace('directory = "."', 'directory = "/disk"')
    text = text.replace("[recording]", '[recording]\nflush_interval = "250ms"') + '\n[recording.video]\ncodec = "lossless"\n'
    (recording.share / "session.toml").write_text(text)
    recording.run(
        pictures.plug_in(recording.share, 1, WIDTH, HEIGHT, fps=10)
        + f"""
        mkdir /disk
        mount -t ext4 /dev/vda /disk
        ifconfig lo up
        safe() {{ # WRITER PAGE COUNT
            printf '%-{PAGE}s' "$1 $3" | dd of=/dev/vda bs={PAGE} seek=$(({FILE_SYSTEM // PAGE} + $2)) oflag=direct conv=notrunc 2>&1
        }}
        session-rows /disk/plain.h5 250 | while read word count at; do [ $word = flush ] || safe plain 1 $count; done > plain.log &
        session-rows /disk/deflate.h5 250 deflate | while read word count at; do [ $word = flush ] || safe deflate 2 $count; done > deflate.log &
        youquanti run /share/session.toml > /share/session.log 2>&1 & running=$!
        until grep -q "recording to" /share/session.log; do kill -0 $running; usleep 200000; done
        for k in $(seq 12); do
            rows=$(wget -qO- http://127.0.0.1:8478/api/v1/state | sed -nE 's/.*"rows": *([0-9]+).*/\\1/p')
            safe session 0 $rows > /dev/null
            usleep 250000
        done
        echo @@pull-plug > /dev/console
        sleep 60
        """,
        driver="uvc",
        programs=(PROGRAM, ROWS),
        disks=(f"{disk}:{log}",),
        pull_plug=True,
    )
    return list(look_at(scenario, folder, base, list(entries(log))))


def look_at(scenario: Callable[[str], Machine], folder: Path, base: Path, written: list[Entry]) -> Iterator[State]:
    dice = random.Random(SEED)
    first = next(k for k, entry in enumerate(written) if entry.offset >= FILE_SYSTEM)
    # The moment of the kill itself, in which all that the disk was given is on it; then any other.
    losses = [(len(written), 1.0, PAGE)]
    losses += [
        (dice.randrange(first, len(written)), dice.choice([0.0, dice.random(), dice.random(), 1.0]), dice.choice([SECTOR, PAGE]))
        for _ in range(LOSSES - 1)
    ]
    for start in range(0, len(losses), DISKS):
        machine = scenario(f"mounted {start}")
        batch = []
        for k, (cut, kept, whole) in enumerate(losses[start : start + DISKS]):
            image = folder / f"{k}.img"
            safe = lose_power(base, written, cut, kept, whole, dice, image)
            batch.append(State(image, safe, machine.share / f"disk{k}"))
            print(f"loss {start + k}: after {cut} of {len(written)} writes and flushes, {kept:.0%} of what was not flushed, by {whole}; safe: {safe}")
        machine.run(
            """
            number=0
            for disk in /dev/vd?; do
                mkdir -p /mnt /share/disk$number
                mount -t ext4 $disk /mnt
                cp /mnt/* /share/disk$number/ 2> cp.log || grep -v lost+found cp.log || true
                umount /mnt
                number=$((number + 1))
            done
            """,
            driver="none",
            programs=(),
            disks=[str(state.image) for state in batch],
        )
        yield from batch


def recovered(path: Path) -> Path:
    """The copy that `youquanti recover` makes; nothing that had been committed may be lost."""
    copy = path.with_suffix(".recovered.h5")
    done = subprocess.run([PROGRAM, "recover", path, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, f"{path}: {done.stdout}{done.stderr}"
    return copy


def loses_alone(path: Path) -> bool:
    """Whether the file without its journal loses something that had been committed."""
    alone = path.with_name(f"alone-{path.name}")
    shutil.copy(path, alone)
    return subprocess.run([PROGRAM, "recover", alone], capture_output=True).returncode != 0


def check_rows(how: str, files: list[tuple[Path, int]]) -> list[list[int]]:
    text = "".join(f"{path}\t{least}\n" for path, least in files)
    done = subprocess.run([sys.executable, CHECK_ROWS, how], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [[int(count) for count in line.split()] for line in done.stdout.splitlines()]


def test_rows_that_were_safe_are_there_and_whole(states: list[State]) -> None:
    files = [(state.files / f"{writer}.h5", state.safe[writer]) for state in states for writer in WRITERS[1:] if writer in state.safe]
    assert len(files) >= len(states)
    counts = check_rows("plain", [(recovered(path), least) for path, least in files])
    # What a mere kill leaves opens as it is, without a flush that is in its journal alone; what is torn may not.
    as_they_are = check_rows("swmr", files[:2])
    assert all(row <= copy for rows, copies in zip(as_they_are, counts) for row, copy in zip(rows, copies))
    print(f"{len(states)} losses of power: {len(files)} files, {sum(map(sum, counts))} rows checked")
    alone = sum(loses_alone(path) for path, _ in files)
    print(f"without their journals {alone} of them would lose what had been committed")
    assert alone > 0 or LOSSES < 100, "nothing was torn: the states show nothing of the journals"


def test_the_session_and_its_video_are_there(states: list[State]) -> None:
    looked_at = 0
    for state in states:
        safe = state.safe.get("session", 0)
        paths = list(state.files.glob("session_*Z.h5"))
        assert paths or not safe, f"{state.files}: the file is gone"
        for path in paths:
            with youquanti.load(recovered(path)) as session:
                camera = session.cameras["cam"]
                assert len(camera.frames) + len(camera.results) + len(camera.faces) + len(camera.video) >= safe
                seqs = camera.frames["seq"]
                assert np.array_equal(seqs, np.arange(len(seqs)))
                looked_at += len(seqs)
    assert looked_at > 0
    # At the kill, frames of seconds: without a flush of their own they would still have been in memory.
    (video,) = states[0].files.glob("session_*.cam.000.mkv")
    (path,) = states[0].files.glob("session_*Z.h5")
    with youquanti.load(path) as session:
        rows = len(session.cameras["cam"].video)
    frames = video.read_bytes().count(b"\xff\xd8\xff")
    print(f"video at the kill: {frames} frames in the file, {rows} rows")
    assert frames > 0
