"""The kernel's test driver: rates of several cameras at once, and what the driver says of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machine import Machine, check_every_frame_is_counted, check_stamps, configuration, v4l2

#: Four cameras and their formats; MJPG, which the driver lacks, is what USB cameras send.
FORMATS = {"a": "YUYV", "b": "NV12", "c": "GREY", "d": "YUYV"}
NAMES = tuple(FORMATS)


@pytest.fixture(scope="module")
def machine(scenario: Callable[[str], Machine]) -> Machine:
    """Four cameras of 25 fps, and then, from a new set of nodes, one of 60 fps."""
    machine = scenario("vivid")
    cameras = (v4l2(name, f"/dev/video{number}", form) for number, (name, form) in enumerate(FORMATS.items()))
    (machine.share / "four.toml").write_text(configuration("four", *cameras, duration="10s"))
    (machine.share / "one.toml").write_text(configuration("one", v4l2("fast", "/dev/video0", fps=60), duration="6s"))
    machine.run(
        """
        youquanti cameras --json > cameras.json
        youquanti run /share/four.toml --json > four.json 2> /share/four.log || [ $? = 4 ]
        rmmod vivid
        modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=3 vid_cap_nr=0
        youquanti run /share/one.toml --json > one.json 2> /share/one.log || [ $? = 4 ]
        """,
        driver="vivid",
        cams=len(NAMES),
        is_sound=lambda: all(machine.json(f"{session}.json")["state"] == "ok" for session in ("four", "one")),
    )
    return machine


def check_session(machine: Machine, session: str, cameras: tuple[str, ...]) -> None:
    report = machine.json(f"{session}.json")
    assert (report["state"], report["ledger_closes"]) == ("ok", True), report
    with machine.session(session) as recorded:
        assert recorded.finished
        assert tuple(recorded.cameras) == cameras
        (first,) = (event["data"] for event in recorded.events if event["kind"] == "first_frames")
        assert sorted(first["ms_after_start"]) == sorted(cameras), first
        for name in cameras:
            check_every_frame_is_counted(recorded, name)
            check_stamps(recorded, name)


def test_four_cameras_at_25_fps(machine: Machine) -> None:
    check_session(machine, "four", NAMES)


def test_one_camera_at_60_fps(machine: Machine) -> None:
    check_session(machine, "one", ("fast",))


def test_cameras_are_listed(machine: Machine) -> None:
    listed = machine.json("cameras.json")["cameras"]
    assert [camera["path"] for camera in listed] == [f"/dev/video{number}" for number in range(len(NAMES))]
    assert len({camera["id"] for camera in listed}) == len(listed), "ids are unique"
    for camera in listed:
        assert camera["driver"] == "vivid"
        usable = {form["format"]: form["sizes"] for form in camera["formats"] if form["format"]}
        assert {"YUYV", "NV12", "GREY"} <= usable.keys()
        assert any((size["width"], size["height"]) == (640, 480) for size in usable["YUYV"])
