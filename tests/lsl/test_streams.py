"""What receivers of the streams get: stamps, values, labels, through drops, in XDF, in YouQuantiPy's layout, and under load."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pylsl
import pyxdf
from conftest import PATIENCE, Load, drain, find, open_inlet
from xdf import Recorder

FRAME = 1.0 / 30.0


def labels(info: pylsl.StreamInfo) -> list[str]:
    return info.get_channel_labels()


def frames_with_faces(load: Load, camera: str) -> list[tuple[float, bool, int]]:
    """Stamp (s), whether the face is there, and number of each frame of a camera, as `lsl-load` makes them."""
    stamps = load.truth()[camera]
    return [(at / 1e9, seq // 60 % 3 != 2, seq) for seq, (_, at) in enumerate(stamps)]


def blendshapes(seq: int, k: int) -> np.ndarray:
    return ((7 * seq + np.arange(52) + 100 * k) % 1000) / 1000


def receive(load: Load, pull: Callable[[], None]) -> None:
    """Pulls until the session has ended, and once more."""
    while load.process.poll() is None:
        pull()
        time.sleep(0.02)
    pull()


def test_round_trip_through_xdf_with_a_twentieth_of_the_frames_dropped(load, tmp_path: Path) -> None:
    session = load("round", "--participants", 2, "--cameras", 1, "--fps", 30, "--seconds", 12, "--drop", 0.05, "--mesh")
    names = ["P1_blendshapes", "P2_headpose", "P1_mesh", "cam0_frames", "youquanti_events"]
    inlets = [open_inlet(f"_round_{name}") for name in names]
    path = tmp_path / "round.xdf"
    recorder = Recorder(path, inlets)
    receive(session, recorder.pull)
    recorder.close()
    report = session.report()
    assert report["driver_lost"][0] > 0 and report["frames_lost"] == report["late"] == 0

    streams, _ = pyxdf.load_xdf(path)  # clocks synchronised, jitter removed: what anybody does
    by_name = {stream["info"]["name"][0]: stream for stream in streams}
    assert sorted(by_name) == sorted(names)
    truth = frames_with_faces(session, "cam0")
    for name in names[:4]:
        stream = by_name[name]
        stamps = stream["time_stamps"]
        expected = [frame for frame in truth if frame[0] > stamps[0] - FRAME / 2]
        # Every frame that the driver gave, and no other, at its time.
        assert len(stamps) == len(expected) > 100, name
        errors = np.abs(stamps - [at for at, _, _ in expected])
        assert errors.max() < 1e-3, (name, errors.max())
        synchronization = stream["info"]["desc"][0]["synchronization"][0]
        assert synchronization["can_drop_samples"] == ["true"]
        assert float(synchronization["offset_mean"][0]) == 0.0 and synchronization["calibrated"] == ["false"]

    # The rows are those of their frames; without a face NaN and not valid. None is repeated or invented.
    rows = by_name["P1_blendshapes"]
    truth_of = [frame for frame in truth if frame[0] > rows["time_stamps"][0] - FRAME / 2]
    seen = {True: 0, False: 0}
    for row, (_, has_face, seq) in zip(rows["time_series"], truth_of):
        valid = row[52] == 1.0
        # A frame that was not analysed has no face either.
        assert has_face or not valid
        seen[valid] += 1
        if valid:
            assert np.allclose(row[:52], blendshapes(seq, 0), atol=1e-6)
            assert row[53] == 0.75
        else:
            assert row[52] == 0.0 and np.isnan(row[:52]).all() and np.isnan(row[53])
        assert row[54] >= 0 and row[55] == 0
    assert seen[True] > 60 and seen[False] > 30

    poses = by_name["P2_headpose"]["time_series"]
    with_face = poses[poses[:, 7] > 0]
    expected_pose = [0.01, 0.02, -0.6, math.cos(0.1), 0.0, math.sin(0.1), 0.0, 0.75]
    assert np.allclose(with_face, expected_pose, atol=1e-6)
    without = poses[poses[:, 7] == 0]
    assert len(without) and np.isnan(without[:, :7]).all()

    # The numbers of lost frames are missing in the driver's, and in ours they are not.
    facts = by_name["cam0_frames"]["time_series"]
    assert (np.diff(facts[:, 0]) == 1).all() and (np.diff(facts[:, 1]) >= 1).all()
    assert (np.diff(facts[:, 1]) > 1).any()
    assert (np.diff(facts[:, 3]) >= 0).all()


def test_descriptions_say_what_the_values_are(load) -> None:
    load("describe", "--participants", 1, "--cameras", 1, "--fps", 10, "--seconds", 20, "--mesh")
    info = open_inlet("_describe_P1_blendshapes").info(PATIENCE)
    names = labels(info)
    assert names[:3] == ["_neutral", "browDownLeft", "browDownRight"]
    assert names[50:] == ["noseSneerLeft", "noseSneerRight", "valid", "confidence", "age_ms", "camera"]
    assert (info.type(), info.channel_count(), info.nominal_srate()) == ("Face", 56, 10.0)
    desc = info.desc()
    assert desc.child("acquisition").child_value("software") == "lsl-load"
    assert desc.child("camera").child_value("name") == "cam0"
    model = desc.child("pipeline").child("model")
    assert model.child_value("id") == "numbers" and len(model.child_value("sha256")) == 64
    pose = open_inlet("_describe_P1_headpose").info(PATIENCE)
    expected = ["PositionX", "PositionY", "PositionZ", *(f"Orientation{axis}" for axis in "ABCD"), "Confidence"]
    assert labels(pose) == expected
    assert pose.get_channel_units()[:4] == ["meters", "meters", "meters", "quaternion"]
    assert "metres" in pose.desc().child_value("coordinate_frame")
    mesh = open_inlet("_describe_P1_mesh").info(PATIENCE)
    assert mesh.channel_count() == 1434 and labels(mesh)[:4] == ["0_x", "0_y", "0_z", "1_x"]
    assert "pixels" in mesh.desc().child_value("coordinate_frame")
    frames = find("_describe_cam0_frames")
    assert (frames.type(), frames.nominal_srate(), frames.channel_count()) == ("VideoExternal", 0.0, 4)


def test_youquantipys_layout(load) -> None:
    options = ["--participants", 2, "--cameras", 2, "--fps", 30, "--seconds", 12]
    session = load("old", *options, "--profile", "youquantipy", "--mesh", "--quality")
    first, video = open_inlet("_old_P1_landmarks"), open_inlet("_old_camera_1_video_frames")
    second = find("_old_P2_landmarks")
    info = first.info(PATIENCE)
    assert (info.name(), info.type(), info.channel_count()) == ("P1_landmarks", "Landmark", 52 + 1434 + 3)
    assert second.channel_count() == 1489 and info.channel_format() == pylsl.cf_float32
    names = labels(info)
    assert names[0] == "_neutral" and names[52:55] == ["0_x", "0_y", "0_z"]
    assert names[-3:] == ["quality_size", "quality_frontal", "quality_stability"]
    rows: list[tuple[float, list]] = []
    facts: list[tuple[float, list]] = []

    def pull() -> None:
        rows.extend(drain(first))
        facts.extend(drain(video))

    receive(session, pull)
    truth = {round(at, 6): (has_face, seq) for at, has_face, seq in frames_with_faces(session, "cam0")}
    assert {bool(np.any(row)) for _, row in rows} == {True, False}
    for at, row in rows:
        has_face, seq = truth[round(at, 6)]
        if np.any(row):
            # A reader that knows only the scores takes the first 52 columns.
            assert has_face and np.allclose(row[:52], blendshapes(seq, 0), atol=1e-6)
            # The face's points lie at x = number, y = 1, z = -1 pixels of a picture of 64 × 48.
            mesh = np.reshape(row[52:1486], (478, 3))
            assert np.allclose(mesh[:, 0], np.arange(478) / 64) and np.allclose(mesh[:, 1:], [1 / 48, -1 / 64])
            assert all(0 <= value <= 1 for value in row[1486:])
            assert row[1487] == np.float32(math.cos(0.2)) and row[1488] == 1.0
        else:
            assert len(row) == 1489
    offset = time.time() - time.monotonic()
    for at, (number, unix_time, lsl_time, video_time) in facts:
        assert lsl_time == at and abs(unix_time - at - offset) < 1.0
        assert abs(video_time - (at - session.truth()["cam1"][0][1] / 1e9)) < 1e-6 and number == int(number)


def test_comodulation_is_off_without_both_faces_and_holds_its_peaks(load) -> None:
    session = load("comod", "--participants", 2, "--cameras", 1, "--fps", 30, "--seconds", 16, "--profile", "youquantipy")
    inlet = open_inlet("_comod_CoModulation")
    info = inlet.info(PATIENCE)
    assert (info.name(), info.type(), info.channel_count()) == ("CoModulation", "Comodulation", 52)
    assert labels(info)[0] == "_neutral" and info.nominal_srate() == 30.0
    rows: list[tuple[float, list]] = []
    receive(session, lambda: rows.extend(drain(inlet)))
    truth = {round(at, 6): has_face for at, has_face, _ in frames_with_faces(session, "cam0")}
    values = np.array([row for _, row in rows])
    present = np.array([truth[round(at, 6)] for at, _ in rows])
    # Two seconds of every six nobody is there.
    assert not values[~present].any() and len(values[~present]) > 30
    is_on = values > 0
    assert np.all(values[is_on] >= np.float32(0.05)) and is_on[present].any()
    stays = is_on[1:] & is_on[:-1]
    assert np.all(np.diff(values, axis=0)[stays] >= 0), "held at its peak while on"


def test_comodulation_is_of_people_in_two_cameras_at_the_frames_of_the_first(load) -> None:
    options = ["--participants", 2, "--cameras", 2, "--fps", 30, "--seconds", 16]
    session = load("two", *options, "--profile", "youquantipy")
    inlet = open_inlet("_two_CoModulation")
    rows: list[tuple[float, list]] = []
    receive(session, lambda: rows.extend(drain(inlet)))
    stamps, values = np.array([at for at, _ in rows]), np.array([row for _, row in rows])
    first, second = (frames_with_faces(session, camera) for camera in ("cam0", "cam1"))
    # P1's home clocks it: a row for each of its frames, and none for those of the other camera.
    expected = np.array([at for at, _, _ in first if at > stamps[0] - FRAME / 2])
    assert len(stamps) == len(expected) > 200 and np.abs(stamps - expected).max() < 1e-6

    def seen_for(frames: list[tuple[float, bool, int]], at: float) -> bool | None:
        """Whether the face is there, or None where that changes within half a second."""
        around = {has_face for stamp, has_face, _ in frames if abs(stamp - at) < 0.5}
        return around.pop() if len(around) == 1 else None

    both = [(seen_for(first, at), seen_for(second, at)) for at in stamps]
    away = np.array([False in pair and None not in pair for pair in both])
    assert away.sum() > 30 and not values[away].any()
    there = np.array([pair == (True, True) for pair in both])
    is_on = values > 0
    assert is_on[there].any() and np.all(values[is_on] >= np.float32(0.05))
    # Every score grows by 7/1000 a frame: after 61 frames each is 0.21 above its mean of the last 60. Of one person alone it would be
    # half of that. Frames that were not analysed make it more, so only the first value is looked at.
    turned_on = np.flatnonzero(is_on.any(axis=1))[0]
    if turned_on > 0:
        assert np.all(values[turned_on] > 0.15), values[turned_on]


def test_youquantipys_streams_have_52_or_1486_channels_without_quality(load) -> None:
    load("thin", "--participants", 1, "--cameras", 1, "--fps", 10, "--seconds", 20, "--profile", "both")
    load("wide", "--participants", 1, "--cameras", 1, "--fps", 10, "--seconds", 20, "--profile", "both", "--mesh")
    assert find("_thin_P1_landmarks").channel_count() == 52
    assert find("_wide_P1_landmarks").channel_count() == 1486
    assert find("_thin_P1_blendshapes").channel_count() == 56


def test_nothing_is_lost_under_load_and_one_who_never_reads_costs_nobody_anything(load) -> None:
    session = load("busy", "--participants", 6, "--cameras", 2, "--fps", 60, "--seconds", 15, "--mesh", "--readers", 1)
    idle = pylsl.StreamInlet(find("_busy_P1_mesh"), max_buflen=1)
    idle.open_stream(PATIENCE)  # connected, and never read
    report = session.report()
    assert report["samples_received"][0] > 6 * 3 * 60
    lost = {key: report[key] for key in ("samples_missing", "late", "frames_lost", "results_lost")}
    assert lost == {"samples_missing": [0], "late": 0, "frames_lost": 0, "results_lost": 0}


def test_streams_outlast_twenty_restarts_of_the_cameras(load) -> None:
    options = ["--participants", 1, "--cameras", 1, "--fps", 30, "--seconds", 20, "--restarts", 20]
    session = load("restart", *options)
    inlet, events = open_inlet("_restart_P1_blendshapes"), open_inlet("_restart_youquanti_events")
    uid = find("_restart_P1_blendshapes").uid()
    rows: list[tuple[float, list]] = []
    told: list[tuple[float, list]] = []
    uids = set()
    resolver = pylsl.ContinuousResolver(pred="contains(source_id, '_restart_P1_bl')", forget_after=3600)

    def pull() -> None:
        rows.extend(drain(inlet))
        told.extend(drain(events))
        uids.update(info.uid() for info in resolver.results())

    receive(session, pull)
    report = session.report()
    assert report["restarts"] == [20] and uids == {uid}
    expected = [at for at, _, _ in frames_with_faces(session, "cam0") if at > rows[0][0] - FRAME / 2]
    assert np.abs(np.array([at for at, _ in rows]) - expected).max() < 1e-6
    texts = " ".join(event[0] for _, event in told)
    assert "gap_closed" in texts and "child_restarted" in texts and "session_stopping" in texts
