"""A camera whose delay is known is calibrated: the offset that is found is that delay, to a millisecond of the machine's clock."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from machine import HERE, PROGRAM, Machine, configuration, v4l2

#: Delay and exposure of the camera at each node, milliseconds. The first delay is shorter than a frame, the second longer than three.
CAMERAS = {"/dev/video0": (37, 30), "/dev/video1": (141.5, 12)}


@dataclass
class Calibrated:
    """What `youquanti calibrate` found, and what its camera did meanwhile."""

    found: dict
    delay: float
    exposure: float
    #: From the look at the code to the stamp, seconds, of each picture. v4l2loopback does not say of which clock its stamps are,
    #: so the program takes the time of receipt: what the machine needs to hand a picture over is part of the truth.
    late: np.ndarray
    #: Pictures a second, from the median time between looks.
    fps: float


@pytest.fixture(scope="module")
def machine(scenario: Callable[[str], Machine]) -> Machine:
    """Each camera is filmed with, one after the other, and then records a session."""
    machine = scenario("calibrate")
    feeder = machine.share / "code_feed"
    rustc = ["rustc", "--edition", "2021", "-O", "-C", "target-feature=+crt-static", "-o", feeder]
    subprocess.run([*rustc, HERE / "code_feed.rs"], check=True)
    mode = "--width 160 --height 120 --fps 25 --format YUYV --screen external"
    script = "export XDG_DATA_HOME=$PWD/data\n"
    for k, (node, (delay, exposure)) in enumerate(CAMERAS.items()):
        camera = v4l2("eye", node, size="160x120")
        (machine.share / f"session{k}.toml").write_text(configuration(f"session{k}", camera, duration="2s"))
        script += f"""
        mkfifo end{k}
        code_feed {node} {delay} {exposure} < end{k} > feed{k}.txt &
        exec 3> end{k}
        until grep -q ready feed{k}.txt; do usleep 100000; done
        youquanti calibrate {node} {mode} --json --save film{k}.csv > {k}.json 2> {k}.log
        # 4: a machine that stood still for a second has a gap, which changes nothing of what was measured
        youquanti run /share/session{k}.toml --json > session{k}.json 2> session{k}.log || [ $? = 4 ]
        exec 3>&-
        wait
        rm end{k}
        """
    machine.run(script, driver="loopback", cams=len(CAMERAS), programs=(PROGRAM, feeder), limit=900)
    return machine


@pytest.fixture(scope="module")
def calibrated(machine: Machine) -> list[Calibrated]:
    found = []
    for k, (delay, exposure) in enumerate(CAMERAS.values()):
        lines = (machine.share / f"feed{k}.txt").read_text().splitlines()
        looks = np.array([line for line in lines if line != "ready"], dtype=np.int64)
        stamps = np.loadtxt(machine.share / f"film{k}.csv", delimiter=",", skiprows=1, usecols=0, dtype=np.int64)
        late = stamps - looks[np.searchsorted(looks, stamps) - 1]
        fps = 1e9 / float(np.median(np.diff(looks)))
        found.append(Calibrated(machine.json(f"{k}.json"), delay * 1e-3, exposure * 1e-3, late * 1e-9, fps))
    return found


def test_a_known_delay_is_found_to_a_millisecond(calibrated: list[Calibrated]) -> None:
    for camera in calibrated:
        offset, error = camera.found["offset"], camera.found["standard_error_s"]
        late = float(np.median(camera.late))
        # What is found is the median of the changes that were seen. How far it may be from the median of all pictures follows
        # from how differently they were handed over: next to nothing, unless the host is busy.
        spread = float(np.diff(np.percentile(camera.late, [16, 84]))[0]) / 2 / np.sqrt(offset["count"])
        print(
            f"delay {camera.delay * 1e3:.1f} ms + {late * 1e3:.2f} ms until receipt (mean {camera.late.mean() * 1e3:.2f}): "
            f"median {offset['median_s'] * 1e3:.2f} (known to {spread * 1e3:.2f}), mean {offset['mean_s'] * 1e3:.2f} ± {error * 1e3:.2f} ms"
        )
        assert offset["count"] > 100
        assert abs(offset["median_s"] - camera.delay - late) <= 0.001 + 5 * spread, camera.found
        # Some pictures are handed over much later than most, which moves the mean as it should.
        assert abs(offset["mean_s"] - camera.delay - camera.late.mean()) <= 0.001 + 3 * error, camera.found


def test_the_exposure_is_known_as_well_as_is_said(calibrated: list[Calibrated]) -> None:
    for camera in calibrated:
        exposure, error = camera.found["exposure_s"], camera.found["exposure_error_s"]
        irregular = float(np.diff(np.percentile(camera.late, [16, 84]))[0]) / 2
        print(
            f"exposure {camera.exposure * 1e3:.1f} ms: found {exposure * 1e3:.2f} ± {error * 1e3:.2f} ms "
            f"from stamps that are irregular by {irregular * 1e3:.2f} ms"
        )
        assert abs(exposure - camera.exposure) <= 5 * error, camera.found
        # What is said of it is not just anything: stamps as regular as these tell that much.
        assert error <= 0.0005 + irregular, camera.found


def test_what_is_said_of_the_camera_is_true(calibrated: list[Calibrated]) -> None:
    for camera in calibrated:
        found = camera.found
        assert (found["width"], found["height"], found["format"], found["fps"]) == (160, 120, "YUYV", 25.0)
        assert abs(found["measured_fps"] - camera.fps) < 1
        assert abs(found["contrast"] - 190) < 5
        assert found["correlation"] > 0.9
        assert found["screen_delay_s"] is None


def test_offsets_are_kept_for_each_camera(machine: Machine, calibrated: list[Calibrated]) -> None:
    kept = tomllib.loads((machine.share / "data/youquanti/offsets.toml").read_text())
    assert kept["version"] == 1
    assert len({camera.found["device"] for camera in calibrated}) == len(CAMERAS), "ids are unique"
    by_device = {entry["device"]: entry for entry in kept["camera"]}
    for camera in calibrated:
        entry = by_device[camera.found["device"]]
        assert (entry["width"], entry["height"], entry["format"], entry["fps"]) == (160, 120, "YUYV", 25.0)
        assert entry["mean_s"] == camera.found["offset"]["mean_s"]
        assert entry["median_s"] == camera.found["offset"]["median_s"]
        assert entry["exposure_s"] == camera.found["exposure_s"]
        assert entry["exposure_error_s"] == camera.found["exposure_error_s"]


def test_a_session_records_what_was_measured(machine: Machine, calibrated: list[Calibrated]) -> None:
    for k, camera in enumerate(calibrated):
        with machine.session(f"session{k}") as recorded:
            assert recorded.cameras["eye"].stamp_offset_s == camera.found["offset"]["median_s"]
