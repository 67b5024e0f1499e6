"""The program itself with streams: markers of other programs, a missing library, no network, two at a time."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pylsl
import pytest
import pyxdf
import youquanti
from PIL import Image
from conftest import CONFIG, PROGRAM, ROOT, drain, environment, find, open_inlet, wait_for

MARKERS = '[[lsl.markers]]\nname = "Stim*"\n'

#: Sends markers `first` to `last` one by one, each with what its sender's clock said, then waits to be killed.
SENDER = """
import sys, time, pylsl
name, source_id, first, last, form = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "Markers", 1, 0, form, source_id))
while not outlet.have_consumers():
    time.sleep(0.01)
for number in range(first, last):
    stamp = pylsl.local_clock()
    outlet.push_sample([f"marker {number}" if form == "string" else number], stamp)
    print(number, repr(stamp), flush=True)
    time.sleep(0.02)
time.sleep(600)
"""


class Sender:
    def __init__(self, name: str, source_id: str, first: int, last: int, form: str = "string"):
        command = [sys.executable, "-c", SENDER, name, source_id, str(first), str(last), form]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True)
        self.stamps: dict[int, float] = {}
        self.count = last - first

    def sent(self) -> Sender:
        """Waits until it has sent everything."""
        assert self.process.stdout is not None
        while len(self.stamps) < self.count:
            number, stamp = self.process.stdout.readline().split()
            self.stamps[int(number)] = float(stamp)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def markers(path: Path) -> list[tuple[int, dict]]:
    """Stamp (ns) and text of each marker that is committed."""
    try:
        with youquanti.load(path) as session:
            return [(row["time_ns"], row["data"]) for row in session.markers]
    except (OSError, ValueError, youquanti.SessionError):
        return []


def wait_for_markers(session, count: int) -> list[tuple[int, dict]]:
    return wait_for(f"{count} markers", lambda: (m := markers(session.file)) and len(m) >= count and m)


def test_markers_of_a_program_that_is_killed_and_started_again_are_all_in_the_file(start) -> None:
    session = start("markers", MARKERS).started()
    before = Sender("StimA", "stim-a", 0, 30).sent()
    # With the next flush, not only at the end.
    assert len(wait_for_markers(session, 30)) == 30
    before.kill()
    after = Sender("StimA", "stim-a", 30, 60).sent()
    found = wait_for_markers(session, 60)
    assert [marker["value"] for _, marker in found] == [f"marker {n}" for n in range(60)]
    stamps = before.stamps | after.stamps
    for number, (at, marker) in enumerate(found):
        assert marker["remote_stamp_s"] == stamps[number]
        # One machine has one clock: what corrects it is the error of the estimate.
        assert abs(at / 1e9 - stamps[number]) < 0.005, marker
        assert marker["stream"] == "StimA" and marker["source_id"] == "stim-a"
    after.kill()
    session.end()
    assert len(markers(session.file)) == 60
    # As LabRecorder would have them: a stream of its own.
    subprocess.run([PROGRAM, "export", session.file, "--to", "xdf"], check=True)
    streams, _ = pyxdf.load_xdf(session.file.with_suffix(".xdf"), select_streams=[{"name": "StimA"}])
    (stream,) = streams
    assert stream["info"]["type"] == ["Markers"]
    assert [text for (text,) in stream["time_series"]] == [f"marker {n}" for n in range(60)]
    assert stream["time_stamps"].tolist() == [at / 1e9 for at, _ in markers(session.file)]


def test_only_streams_that_are_asked_for_are_recorded_and_numbers_are_numbers(start) -> None:
    session = start("choose", MARKERS).started()
    other = pylsl.StreamOutlet(pylsl.StreamInfo("Other", "Markers", 1, 0, "string", "other"))
    regular = pylsl.StreamOutlet(pylsl.StreamInfo("StimRegular", "Markers", 1, 100, "float32", "regular"))
    numbers = Sender("StimNumbers", "", 1, 4, "int32").sent()
    assert [marker["value"] for _, marker in wait_for_markers(session, 3)] == [1.0, 2.0, 3.0]
    assert not other.have_consumers() and not regular.have_consumers()
    numbers.kill()
    session.end()
    assert {marker["stream"] for _, marker in markers(session.file)} == {"StimNumbers"}


def test_a_recording_that_requires_a_stream_of_markers_waits_for_it(start) -> None:
    session = start("waits", f"{MARKERS}required = true\n").started()
    wait_for("the recording to wait", lambda: 'no sign of a stream of markers' in session.log.read_text())
    assert not list(session.folder.glob("sessions/*.h5"))
    # Those that come before the recording has begun belong to none.
    sender = Sender("StimLate", "stim-late", 0, 60)
    wait_for("the recording to begin", lambda: "recording_started" in session.log.read_text())
    sender.sent()
    found = wait_for("the last marker", lambda: (m := markers(session.file)) and m[-1][1]["value"] == "marker 59" and m)
    assert [marker["value"] for _, marker in found] == [f"marker {n}" for n in range(60 - len(found), 60)]
    sender.kill()
    assert session.end()["state"] == "ok"


def test_a_required_stream_that_never_comes_ends_the_session_unless_somebody_decides_otherwise(tmp_path: Path) -> None:
    text = CONFIG.format(name="never", backend="none", lsl=f"{MARKERS}required = true")
    text = text.replace('reserve = "1MB"', 'reserve = "1MB"\nrequire_within = "200ms"')
    (tmp_path / "never.toml").write_text(text)

    def run(*more: str) -> tuple[int, dict]:
        command = [PROGRAM, "run", "never.toml", "--json", "--no-ui", *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
        return done.returncode, json.loads(done.stdout)

    code, report = run()
    assert code == 3 and 'no sign of a stream of markers with type "Markers", name "Stim*"' in report["stop_reason"], report
    assert not list(tmp_path.glob("sessions/*.h5"))
    code, report = run("--override", "stimuli come by hand", "--by", "Ada", "--duration", "1s")
    assert code == 4, report
    (path,) = tmp_path.glob("sessions/*.h5")
    with youquanti.load(path) as session:
        assert session.overridden == {
            "reason": "stimuli come by hand",
            "by": "Ada",
            "missing": ['a stream of markers with type "Markers", name "Stim*": not waited for'],
        }


def test_ten_thousand_markers_a_second_are_recorded_or_counted(start) -> None:
    session = start("flood", MARKERS).started()
    outlet = pylsl.StreamOutlet(pylsl.StreamInfo("StimFlood", "Markers", 1, 0, "string", "flood"), max_buffered=3600)
    wait_for("a receiver", outlet.have_consumers)
    total = 30_000
    for hundred in range(total // 100):
        for number in range(100):
            outlet.push_sample([f"{hundred * 100 + number}"])
        time.sleep(0.01)  # no faster than that, and slower on a slow machine
    wait_for(
        "all markers",
        lambda: len(found := markers(session.file)) and len(found) + session_lost(session) >= total,
    )
    found = [int(marker["value"]) for _, marker in markers(session.file)]
    assert found == sorted(found) and len(set(found)) == len(found)
    report = session.end()
    # The session itself noticed nothing.
    assert report["state"] == "ok" and report["cameras"][0]["consumers"]["index"]["dropped"] == {
        reason: 0 for reason in report["cameras"][0]["consumers"]["index"]["dropped"]
    }
    assert len(markers(session.file)) + report["lsl"]["markers_lost"] == total


def session_lost(session) -> int:
    """Markers that the log says were lost."""
    lines = [line for line in session.log.read_text().splitlines() if '"markers_lost":' in line]
    return sum(int(line.split('"markers_lost":')[1].split("}")[0].split(",")[0]) for line in lines)


def test_events_are_a_stream(start) -> None:
    session = start("events", "").started()
    inlet = open_inlet("_events_youquanti_events")
    session.ask()
    told: list[dict] = []

    def stopping() -> bool:
        told.extend(json.loads(sample[0]) for _, sample in drain(inlet))
        return any(event["kind"] == "session_stopping" for event in told)

    wait_for("the event of the end", stopping)
    assert set(told[-1]) == {"at", "source", "kind", "detail"}
    session.end()


SYNCHRONY = """
[synchrony]
enabled = true
window = "1s"
step = "500ms"
max_lag = "200ms"
history = "2s"
shifts = 19
"""


def test_windows_of_synchrony_are_those_of_the_file(start) -> None:
    session = start("synchrony", SYNCHRONY, "cpu", people=2).started()
    inlet = open_inlet("_synchrony_Synchrony")
    info = inlet.info(60.0)
    assert (info.type(), info.nominal_srate(), info.channel_count()) == ("Synchrony", 2.0, 4 * 4)
    labels = info.get_channel_labels()
    assert labels[:4] == ["P1-P2_brow_r", "P1-P2_brow_lag_s", "P1-P2_brow_p", "P1-P2_brow_common"]
    assert info.get_channel_units()[:4] == ["normalized", "seconds", "probability", "fraction"]
    method = info.desc().child("method")
    assert (method.child_value("window"), method.child_value("shifts")) == ("1", "19")
    assert method.child("groups").child("group").child_value("blendshapes").startswith("browInnerUp ")
    rows: list[tuple[float, list]] = []
    wait_for("windows", lambda: rows.extend(drain(inlet)) or len(rows) >= 8)
    session.end()
    with youquanti.load(session.file) as loaded:
        synchrony = loaded.synchrony
        assert synchrony is not None
        in_file = {
            end_ns / 1e9: np.stack([of[n, 0] for of in (synchrony.r, synchrony.lag, synchrony.p, synchrony.common)], 1)
            for n, end_ns in enumerate(synchrony.windows["end_ns"].tolist())
        }
        groups = list(synchrony.groups)
    assert [label.split("_")[1] for label in labels[::4]] == groups
    for stamp, row in rows:
        (found,) = [values for end, values in in_file.items() if abs(end - stamp) < 1e-6]
        assert np.array_equal(np.reshape(row, (4, 4)), found, equal_nan=True)
    # Both are there, and move.
    assert np.isfinite([row for _, row in rows]).all(axis=1).any()


#: What `youquanti calibrate` keeps, of the scene that these sessions film.
OFFSETS = """
version = 1
[[camera]]
device = "scene:grid:1:1"
width = 320
height = 180
format = "YUYV"
fps = 10.0
mean_s = 0.0405
rms_s = 0.0032
median_s = 0.041
p05_s = 0.035
p95_s = 0.0465
changes = 37
standard_error_s = 0.0008
exposure_s = 0.01
measured_at = "2026-01-31T23:59:59.123Z"
"""


def test_a_measured_offset_is_in_the_synchronization_of_every_stream_of_the_camera(start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "youquanti").mkdir(parents=True)
    (data / "youquanti" / "offsets.toml").write_text(OFFSETS)
    session = start("offset", 'profile = "both"\nmesh = true\n', XDG_DATA_HOME=str(data)).started()
    expected = {
        "offset_mean": 0.0405,
        "offset_rms": 0.0032,
        "offset_median": 0.041,
        "offset_5_centile": 0.035,
        "offset_95_centile": 0.0465,
    }
    streams = ["P1_blendshapes", "P1_headpose", "P1_mesh", "P1_landmarks", "left_frames", "camera_0_video_frames"]
    for name in streams:
        synchronization = open_inlet(f"_offset_{name}").info(60.0).desc().child("synchronization")
        assert {key: float(synchronization.child_value(key)) for key in expected} == expected, name
        assert synchronization.child_value("calibrated") == synchronization.child_value("can_drop_samples") == "true"
    inlet = open_inlet("_offset_left_frames")
    rows: list[tuple[float, list]] = []
    wait_for("frames", lambda: rows.extend(drain(inlet)) or len(rows) >= 5)
    session.end()
    # Stamps are the driver's all the same: whoever reads them subtracts it.
    assert all(at == row[2] for at, row in rows)


def test_the_screen_of_calibrate_is_a_stream_of_markers(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(name="screen", lsl="", backend="none"))
    terminal, other_end = pty.openpty()
    command = [PROGRAM, "calibrate", "left", "--config", "c.toml", "--yes", "--lsl"]
    data = environment(XDG_DATA_HOME=str(tmp_path / "data"))
    process = subprocess.Popen(command, cwd=tmp_path, env=data, stdin=other_end, stdout=other_end, stderr=other_end)
    os.close(other_end)
    written = bytearray()

    def read() -> None:
        while chunk := read_terminal(terminal):
            written.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        began = pylsl.local_clock()
        inlet = open_inlet("_youquanti_calibration")
        assert (inlet.info(60.0).type(), inlet.info(60.0).channel_count()) == ("Markers", 1)
        told: list[tuple[float, list]] = []
        wait_for("both colours, twice", lambda: told.extend(drain(inlet)) or len(told) >= 4)
    finally:
        process.terminate()
        code = process.wait()
        reader.join()
        os.close(terminal)
    assert code == 4 and b"interrupted: nothing was measured" in written
    stamps = [at for at, _ in told]
    assert {marker for _, (marker,) in told} == {"white", "black"}
    # On LSL's clock, each when it had been written.
    assert stamps == sorted(stamps) and began - 60 < stamps[0] and stamps[-1] <= pylsl.local_clock()
    # What was sent was shown: white and black of the 256 colours.
    assert written.count(b"[48;5;231m") >= 1 and written.count(b"[48;5;16m") >= 1


def read_terminal(terminal: int) -> bytes:
    """What the program wrote; nothing when it has ended."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_a_new_name_is_an_event_and_streams_keep_theirs(start) -> None:
    session = start("rename", "").started()
    events = open_inlet("_rename_youquanti_events")
    before = find("_rename_P1_blendshapes").uid()
    address = wait_for("the port", lambda: re.search(r"http://(127\.0\.0\.1:\d+)", session.log.read_text()))
    command = [PROGRAM, "control", "rename", "P1", "Ada Lovelace", "--at", address[1]]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    told: list[tuple[float, dict]] = []

    def renamed() -> list[tuple[float, dict]]:
        told.extend((at, json.loads(sample[0])) for at, sample in drain(events))
        return [entry for entry in told if entry[1]["kind"] == "participant_renamed"]

    ((at, event),) = wait_for("the event", renamed)
    assert event["detail"]["participant"] == "P1" and event["detail"]["name"] == "Ada Lovelace"
    assert event["detail"]["before"] == "P1" and at == pytest.approx(event["at"] / 1e9, abs=1e-6)
    stream = find("_rename_P1_blendshapes")
    assert stream.uid() == before
    participant = open_inlet("_rename_P1_blendshapes").info(60.0).desc().child("participant")
    assert (participant.child_value("id"), participant.child_value("name")) == ("P1", "P1")
    assert "participant_renamed" in participant.child_value("renamed_by")
    session.end()


BODIES = """
version = 1
[session]
name = "{name}"
[[camera]]
name = "left"
file = {{ path = "left", fps = 10, loop = true }}
[[camera]]
name = "right"
file = {{ path = "right", fps = 10, loop = true }}
[pipeline]
threads = 1
[participants]
expected = 3
[pose]
enabled = true
[lsl]
enabled = true
profile = "youquantipy"
"""


def test_bodies_are_youquantipys_pose_and_in_the_file(start, tmp_path: Path) -> None:
    """P1 and P3 have the camera `left` as their home, in which one body is; P2 has `right`, in which there is none."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "models/portraits/astronaut.png", tmp_path / "left" / "picture.png")
    Image.new("RGB", (320, 240), (90, 100, 110)).save(tmp_path / "right" / "picture.png")
    session = start("bodies", "", text=BODIES).started()
    inlets = {name: open_inlet(f"_bodies_{name}_pose") for name in ("P1", "P2", "P3")}
    info = inlets["P1"].info(5.0)
    assert (info.name(), info.type(), info.channel_count()) == ("P1_pose", "Pose", 132)
    assert info.channel_format() == pylsl.cf_float32 and info.nominal_srate() == 10.0
    channels = info.get_channel_labels()
    assert channels[:5] == ["nose_x", "nose_y", "nose_z", "nose_visibility", "left_eye_inner_x"]
    assert channels[-1] == "right_foot_index_visibility"
    assert info.desc().child("synchronization").child_value("can_drop_samples") == "true"
    assert info.desc().child("pipeline").child("model").child_value("id") == "pose_detect"

    rows: dict[str, list] = {name: [] for name in inlets}

    def enough() -> bool:
        for name, inlet in inlets.items():
            rows[name] += drain(inlet)
        return sum(any(row) for _, row in rows["P1"]) >= 20 and len(rows["P2"]) >= 20

    wait_for("twenty bodies", enough)
    report = session.end()
    for name, inlet in inlets.items():
        rows[name] += drain(inlet)
    with youquanti.load(session.file) as recorded:
        for camera, expected in (("left", True), ("right", False)):
            found = recorded.cameras[camera]
            assert len(found.pose) > 0 and set(found.pose["valid"]) == {int(expected)}
            assert np.isnan(found.pose_points[:]).all() != expected
            consumer = next(c for c in report["cameras"] if c["name"] == camera)["consumers"]["pose"]
            assert consumer["delivered"] == len(found.pose)
            assert consumer["delivered"] + sum(consumer["dropped"].values()) == len(found.frames)
        left, right = recorded.cameras["left"], recorded.cameras["right"]
        assert left.pose_names[0] == "nose" and left.pose["detector_ran"].sum() == 1
        points = {at: point for at, point in zip(left.pose["captured_at_ns"], left.pose_points[:])}
        # One row for each frame from the first that was received on, at its stamp: the body of exactly that frame, or zeros.
        for name, camera in (("P1", left), ("P2", right), ("P3", left)):
            stamps = [at for at, _ in rows[name]]
            frames = camera.frames["captured_at_ns"] / 1e9
            frames = frames[frames > stamps[0] - 1e-6]
            assert np.abs(np.array(stamps) - frames[: len(stamps)]).max() < 1e-6, name
        for at, row in rows["P1"]:
            near = min(points, key=lambda ns: abs(ns / 1e9 - at))
            point = points[near] if abs(near / 1e9 - at) < 1e-6 else np.zeros((33, 5))
            expected = np.column_stack([point[:, 0] / 512, point[:, 1] / 512, point[:, 2] / 512, point[:, 3]])
            # The first bodies may have come before anybody's face: then they are nobody's.
            assert np.allclose(row, expected.ravel(), atol=1e-5) or not any(row)
        assert not any(any(row) for _, row in rows["P2"] + rows["P3"])


def test_two_at_a_time_do_not_disturb_each_other(start) -> None:
    first, second = start("first", "").started(), start("second", "").started()
    ids = {find(f"_{name}_P1_blendshapes").source_id() for name in ("first", "second")}
    assert len(ids) == 2
    inlet = open_inlet("_second_P1_blendshapes")
    first.end()
    drain(inlet)
    wait_for("rows of the one that goes on", lambda: drain(inlet))
    second.end()


def test_a_stream_has_the_same_source_id_in_the_next_session(start) -> None:
    session = start("again", "").started()
    before = find("_again_P1_blendshapes")
    session.end()
    session = start("again", "").started()
    after = wait_for(
        "the next life",
        lambda: [
            info
            for info in pylsl.resolve_byprop("source_id", before.source_id(), 1, 1.0)
            if info.uid() != before.uid()
        ],
    )
    assert after[0].name() == "P1_blendshapes"
    session.end()


def test_without_the_library_a_session_does_not_start_and_says_why(tmp_path: Path) -> None:
    config = tmp_path / "none.toml"
    config.write_text(CONFIG.format(name="none", lsl="", backend="none"))
    for command in (["run", config], ["check", config]):
        result = subprocess.run(
            [PROGRAM, *command],
            cwd=tmp_path,
            env=environment(YOUQUANTI_LIBLSL="/nowhere/liblsl.so"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 3, result.stderr
        said = result.stderr + result.stdout
        assert "/nowhere/liblsl.so" in said and "YOUQUANTI_LIBLSL" in said and "make setup" in said
    doctor = subprocess.run(
        [PROGRAM, "doctor"], env=environment(YOUQUANTI_LIBLSL="/nowhere/liblsl.so"), capture_output=True, text=True
    )
    assert "liblsl" in doctor.stdout and "/nowhere/liblsl.so" in doctor.stdout


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this machine gives no network namespaces")
@pytest.mark.parametrize("loopback", [False, True])
def test_without_a_network_a_session_runs_and_records(tmp_path: Path, loopback: bool) -> None:
    config = tmp_path / "offline.toml"
    text = CONFIG.format(name="offline", lsl=MARKERS, backend="none")
    config.write_text(text.replace("[[camera]]", 'duration = "2s"\n[[camera]]'))
    up = "ip link set lo up; " if loopback else ""
    # Whatever liblsl is configured to elsewhere: here it is as it comes.
    plain = {key: value for key, value in environment().items() if key != "LSLAPICFG"}
    result = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{up}exec "$0" run "$1"', PROGRAM, config],
        cwd=tmp_path,
        env=plain,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode in (0, 4), result.stderr
    (file,) = tmp_path.glob("sessions/*.h5")
    with youquanti.load(file) as session:
        assert len(session.cameras["left"].frames) > 5
