"""USB cameras in software under the kernel's own driver: found by their serial numbers, and fed with broken JPEGs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pictures
import pytest
from machine import Machine, check_every_frame_is_counted, check_stamps, configuration, ledger, v4l2
from youquanti import FrameFlags

WIDTH, HEIGHT = 320, 240
CAMERAS = ("broken", "sound")

#: Frames that the first camera cuts after a third of their bytes, and frames that it replaces by random bytes.
CUT, JUNK = 3, 2

#: Asked of the first camera. Its exposure, focus and white balance are automatic, and locked, until they are set.
CONTROLS = {"exposure": "10.0", "focus": "30", "white_balance": "4600", "power_line": '"50Hz"', "brightness": "200"}


@pytest.fixture(scope="module")
def machine(scenario: Callable[[str], Machine]) -> Machine:
    """Two cameras, one of which sends broken JPEGs for a while."""
    machine = scenario("uvc")
    cameras = (v4l2(name, f"SN{port:04}", "MJPG", f"{WIDTH}x{HEIGHT}", fps=10) for port, name in enumerate(CAMERAS))
    text = configuration("broken", *cameras)
    controls = "\n".join(f"{key} = {value}" for key, value in CONTROLS.items())
    where = text.index("[[camera]]", text.index("[[camera]]") + 1)
    text = f"{text[:where]}[camera.v4l2.controls]\n{controls}\n\n{text[where:]}"
    (machine.share / "broken.toml").write_text(text)
    machine.run(
        pictures.plug_in(machine.share, len(CAMERAS), WIDTH, HEIGHT, fps=10)
        + f"""
        ls /dev/video* > nodes.txt
        youquanti cameras --json > cameras.json
        youquanti run /share/broken.toml --json > broken.json 2> /share/broken.log & running=$!
        until grep -q "recording to" /share/broken.log; do kill -0 $running; usleep 200000; done
        sleep 2
        echo cut {CUT} > /tmp/cam0
        sleep 2
        echo junk {JUNK} > /tmp/cam0
        sleep 4
        kill -INT $running
        wait $running || [ $? = 4 ]
        """,
        driver="uvc",
        is_sound=lambda: machine.json("broken.json")["state"] == "ok",
    )
    return machine


def test_metadata_nodes_are_no_cameras(machine: Machine) -> None:
    nodes = (machine.share / "nodes.txt").read_text().split()
    assert len(nodes) == 2 * len(CAMERAS)
    listed = machine.json("cameras.json")["cameras"]
    assert sorted(camera["serial"] for camera in listed) == ["SN0000", "SN0001"]
    assert len({camera["id"] for camera in listed}) == 2
    for camera in listed:
        assert camera["driver"] == "uvcvideo"
        assert camera["path"] in nodes
        (form,) = camera["formats"]
        assert form["format"] == "MJPG"
        assert [(size["width"], size["height"], size["rates"]) for size in form["sizes"]] == [(WIDTH, HEIGHT, [10.0])]


def test_broken_jpegs_are_counted_and_seen_by_nobody(machine: Machine) -> None:
    report = machine.json("broken.json")
    assert (report["state"], report["ledger_closes"]) == ("ok", True), report
    with machine.session("broken") as session:
        for name, broken in zip(CAMERAS, (CUT + JUNK, 0)):
            check_every_frame_is_counted(session, name)
            check_stamps(session, name)
            damaged = session.cameras[name].frames["flags"] & FrameFlags.DAMAGED != 0
            assert np.count_nonzero(damaged) == broken, name
            assert ledger(session, name)["pipeline"].get("dropped:damaged", 0) == broken, name
            assert not np.any(np.isin(session.cameras[name].results["frame_seq"], np.flatnonzero(damaged))), name
        assert not session.gaps, "a broken picture is no failure"


def test_controls_are_set_and_read_back(machine: Machine) -> None:
    listed = {camera["serial"]: camera for camera in machine.json("cameras.json")["cameras"]}
    names = {control["name"] for control in listed["SN0000"]["controls"]}
    assert {"exposure_time_absolute", "focus_absolute", "white_balance_temperature", "brightness"} <= names
    with machine.session("broken") as session:
        asked = {control["name"]: control["got"] for control in session.cameras["broken"].controls if control["asked"]}
        left_alone = {control["name"]: control["got"] for control in session.cameras["sound"].controls}
    values = {"exposure_time_absolute": "100", "focus_absolute": "30", "white_balance_temperature": "4600"}
    assert {name: asked[name] for name in values} == values
    assert asked["brightness"] == "200"
    assert asked["power_line_frequency"] == "50 Hz"
    assert left_alone["exposure_time_absolute"] == "157", "nobody asked this camera"
