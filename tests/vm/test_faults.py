"""Every fault that a driver can be made to have: noticed, survived, and paid for by no other camera.

Each driver has a campaign of `youquanti chaos` beside this file. With `--update-matrix` its section of
benches/results/fault-matrix.md is written anew.
"""

from __future__ import annotations

import shutil
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from machine import HERE, ROOT, Machine, ledger

MATRIX = ROOT / "benches" / "results" / "fault-matrix.md"

#: What a machine needs for the campaign: its options, and what has to be done before.
DRIVERS: dict[str, dict[str, Any]] = {
    "vivid": {"cams": 3, "tools": ["v4l2-ctl"]},
    # With exclusive_caps=1 a writer that is killed leaves a device that takes neither readers nor writers any more.
    "loopback": {"cams": 2, "param": "exclusive_caps=0,0"},
    "uvc": {"param": "nodrop=1"},
}


def prepare(driver: str, share: Path) -> str:
    """Commands that bring the cameras to life."""
    match driver:
        case "loopback":
            scene = pictures.numbered(pictures.FOUR_FACES, 320, 240, 3)
            (share / "fed.yuyv").write_bytes(b"".join(pictures.yuyv(pictures.planes_420(each)) for each in scene))
            return """
            for n in 0 1; do
                v4l2_feed /dev/video$n YUYV 320 240 5 600 /share/fed.yuyv > /share/feed$n.log 2>&1 & echo $! > /tmp/feed$n.pid
            done
            """
        case "uvc":
            return pictures.plug_in(share, 3, 320, 240, fps=5)
        case _:
            return ""


@dataclass
class Campaign:
    """A campaign's file as it was read, what came of it, and where its recording is."""

    written: dict[str, Any]
    matrix: dict[str, Any]
    machine: Machine


@pytest.fixture(scope="module", params=DRIVERS)
def campaign(request: pytest.FixtureRequest, scenario: Callable[[str], Machine]) -> Campaign:
    """A campaign that has been run."""
    driver = request.param
    machine = scenario(f"faults of {driver}")
    file = HERE / f"{driver}.toml"
    shutil.copy(file, machine.share)
    if MATRIX.exists():
        shutil.copy(MATRIX, machine.share)
    # Run from the same place as here, which the matrix names. Faults that did not go as expected (4) are ours to tell.
    machine.run(
        prepare(driver, machine.share)
        + f"""
        mkdir -p tests/vm
        cp /share/{driver}.toml tests/vm/
        [ ! -e /share/{MATRIX.name} ] || cp /share/{MATRIX.name} .
        youquanti chaos tests/vm/{driver}.toml --json --markdown {MATRIX.name} > matrix.json 2> /share/chaos.log || [ $? = 4 ]
        """,
        driver=driver,
        is_sound=lambda: not any(outcome["problems"] for outcome in machine.json("matrix.json")["outcomes"]),
        **DRIVERS[driver],
    )
    if request.config.getoption("--update-matrix"):
        shutil.copy(machine.share / MATRIX.name, MATRIX)
    return Campaign(tomllib.loads(file.read_text()), machine.json("matrix.json"), machine)


def test_every_fault_went_as_expected(campaign: Campaign) -> None:
    written, outcomes = campaign.written["fault"], campaign.matrix["outcomes"]
    assert [outcome["fault"] for outcome in outcomes] == [fault["name"] for fault in written], "in the order of the file"
    assert [outcome["repeat"] for outcome in outcomes] == [fault.get("repeat", 1) for fault in written]
    complaints = {outcome["fault"]: outcome["problems"] for outcome in outcomes if outcome["problems"]}
    assert not complaints, (campaign.machine.share / "chaos.log").read_text()
    assert [outcome["lost_by_others"] for outcome in outcomes] == [0] * len(outcomes)


def test_nothing_leaks_and_the_ledger_closes(campaign: Campaign) -> None:
    assert campaign.matrix["problems"] == []
    assert {outcome["ledger_closed"] for outcome in campaign.matrix["outcomes"]} == {True}


def test_the_recording_has_every_gap(campaign: Campaign) -> None:
    cameras = [camera["name"] for camera in campaign.written["config"]["camera"]]
    gaps: Counter[str] = Counter()
    for fault in campaign.written["fault"]:
        if fault.get("expect", "gap") == "gap":
            for name in cameras if fault["camera"] == "all" else [fault["camera"]]:
                gaps[name] += fault.get("repeat", 1)
    with campaign.machine.session(campaign.written["config"]["session"]["name"]) as session:
        assert session.finished
        assert tuple(session.cameras) == tuple(cameras)
        recorded = Counter(gap["source"].removeprefix("camera ") for gap in session.gaps)
        assert recorded == gaps
        for name in cameras:
            frames = session.cameras[name].frames
            assert np.array_equal(frames["seq"], np.arange(len(frames))), f"{name}: seq jumps"
            for consumer, items in ledger(session, name).items():
                dropped = sum(count for item, count in items.items() if item.startswith("dropped:"))
                assert items["captured"] == items["delivered"] + dropped, f"{name}, {consumer}: {items}"
