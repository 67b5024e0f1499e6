"""What a session of the real program looks like in Python, compared with what the program says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import youquanti
from conftest import PROGRAM, Recording
from youquanti import NOT_RUN, Camera, Session


def python(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python with the package as it is here, installed or not."""
    package = Path(youquanti.__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(package), "MPLBACKEND": "agg", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, encoding="utf-8", env=environment, cwd=folder
    )


def inspect(path: Path) -> dict[str, Any]:
    """What the program says of a file."""
    told: dict[str, Any] = json.loads(subprocess.check_output([PROGRAM, "inspect", "--json", path]))
    return told


def check_camera(camera: Camera) -> None:
    """What holds for every camera of every session, ended or not."""
    rows = len(camera.faces)
    assert camera.landmarks.shape == (rows, 478, 3)
    assert camera.blendshapes.shape == (rows, 52)
    assert camera.head_pose.shape == (rows, 4, 4)
    assert np.array_equal(camera.frames["seq"], np.arange(len(camera.frames)))
    assert np.all(np.diff(camera.frames["time"]) > 0)
    assert np.all(np.diff(camera.results["frame_seq"].astype(int)) > 0)
    assert np.array_equal(
        camera.faces["frame_seq"], np.repeat(camera.results["frame_seq"], camera.results["faces"])
    )

    landmarks, faces = camera.landmarks[:], camera.faces
    assert np.isfinite(landmarks).all()
    assert np.all((camera.blendshapes[:] >= 0) & (camera.blendshapes[:] <= 1))
    assert np.all(camera.head_pose[:, 3] == [0, 0, 0, 1])
    rotation = camera.head_pose[:, :3, :3]
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-4)
    # Each row's landmarks are of the face in that row: the tip of the nose is within its box.
    nose, (x0, y0, x1, y1) = landmarks[:, 1], faces["bbox"].T
    assert np.all((x0 < nose[:, 0]) & (nose[:, 0] < x1) & (y0 < nose[:, 1]) & (nose[:, 1] < y1))


def check_like_inspect(session: Session, told: dict[str, Any]) -> None:
    assert session.committed_at_ns == told["committed_at_ns"]
    assert session.duration == pytest.approx(told["duration_s"])
    for camera, facts in zip(session.cameras.values(), told["cameras"], strict=True):
        assert (camera.name, camera.width, camera.height) == (facts["name"], facts["width"], facts["height"])
        assert (camera.asked, camera.fps, camera.controls) == (facts["asked"], facts["fps"], facts["controls"])
        assert not camera.calibrated and facts["stamp_offset"] is None
        counts = len(camera.frames), len(camera.results), len(camera.faces)
        assert counts == (facts["frames"], facts["analysed"], facts["faces"])


def test_an_ended_session_is_as_inspect_says(ended: Path) -> None:
    told = inspect(ended)
    with youquanti.load(ended) as session:
        assert not session.swmr
        assert session.finished
        check_like_inspect(session, told)
        header = {key: getattr(session, key) for key in told["header"]}
        assert header == told["header"]
        assert abs(session.utc_start.timestamp() - session.utc_start_ns / 1e9) < 1e-5
        assert session.stop is not None
        assert json.loads(told["stop"]["verdict"]) == session.stop["data"]
        assert session.stop["utc_ns"] == told["stop"]["utc_ns"]


def test_quality_is_as_inspect_says(ended: Path) -> None:
    told = inspect(ended)["quality"]
    with youquanti.load(ended) as session:
        assert session.quality.keys() == told.keys()
        assert session.quality.keys() > session.cameras.keys()
        for source, items in session.quality.items():
            assert items.keys() == told[source].keys()
            for item, series in items.items():
                assert series["time_ns"].tolist() == told[source][item]["time_ns"]
                assert series["value"].tolist() == told[source][item]["value"]
                assert np.array_equal(series["time"], session.seconds(series["time_ns"]))
        # Of 90 lossless frames: exact intervals, and received the moment they are stamped.
        for camera, fps in zip(session.cameras.values(), (20, 10), strict=True):
            total = {item: series["value"].sum() for item, series in camera.quality.items()}
            assert (total["frames"], total["driver_lost"], total["stamps_replaced"]) == (90, 0, 0)
            assert camera.quality["interval_mean_s"]["value"] == pytest.approx(1 / fps)
            assert np.all(camera.quality["interval_jitter_s"]["value"] < 1e-9)
            assert np.all(camera.quality["delay_mean_s"]["value"] == 0)


def test_synchrony_is_as_inspect_says(ended: Path, tmp_path: Path) -> None:
    told = inspect(ended)["synchrony"]
    with youquanti.load(ended) as session:
        synchrony = session.synchrony
        assert synchrony is not None
        assert synchrony.pairs == [(1, 2), (1, 3), (2, 3)]
        assert synchrony.groups["smile"] == ["mouthSmileLeft", "mouthSmileRight"]
        # Frames of 4.45 s in one camera and 8.95 s in the other; the last second is waited for.
        windows = synchrony.windows
        assert 10 <= len(windows) == told["windows"]
        assert set(np.diff(windows["end_ns"].astype(int))) == {500_000_000}
        assert np.allclose(windows["time"], session.seconds(windows["end_ns"]))
        shape = (len(windows), len(synchrony.pairs), len(synchrony.groups))
        found = [
            ([first, second], group, synchrony.r[:, pair, place], synchrony.p[:, pair, place])
            for pair, (first, second) in enumerate(synchrony.pairs)
            for place, group in enumerate(synchrony.groups)
        ]
        for (pair, group, r, p), of in zip(found, told["likeness"], strict=True):
            assert (pair, group) == (of["pair"], of["group"])
            assert (np.isfinite(r).sum(), (p <= 0.05).sum()) == (of["known"], of["significant"])
        # P1 and P3 are in the camera on the left, which ends first: then there is nobody to compare with.
        assert np.isfinite(synchrony.r[0]).any() and np.isnan(synchrony.r[-1]).all()
        known = np.isfinite(synchrony.r)
        assert synchrony.r.shape == synchrony.lag.shape == synchrony.common.shape == shape
        assert np.all(np.abs(synchrony.r[known]) <= 1)
        assert np.all(np.abs(synchrony.lag[known]) <= 0.2 + 1e-6)
        assert np.all((synchrony.p[known] > 0) & (synchrony.p[known] <= 1))
        assert np.all(synchrony.common[known] >= 0.5)
    copy = tmp_path / "without.h5"
    copy.write_bytes(ended.read_bytes())
    with h5py.File(copy, "r+") as file:
        columns = file["committed"].attrs["columns"]
        columns = np.array([name for name in columns if not name.startswith(b"/synchrony")], columns.dtype)
        rows = file["committed"][:, : len(columns)]
        del file["committed"], file["synchrony"]
        file["committed"] = rows
        file["committed"].attrs["columns"] = columns
    with youquanti.load(copy) as session:
        assert session.synchrony is None
    assert inspect(copy)["synchrony"] is None


def append(file: h5py.File, table: str, rows: list[Any]) -> None:
    """Appends rows to a table and commits them, as the program would."""
    dataset = file[table]
    dataset.resize(len(dataset) + len(rows), axis=0)
    dataset[-len(rows) :] = np.array(rows, dataset.dtype)
    column = [name.decode() for name in file["committed"].attrs["columns"]].index(f"/{table}")
    row = file["committed"][-1]
    row[column] = len(dataset)
    file["committed"][-1] = row


def test_the_newest_row_of_a_gap_counts(ended: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gaps.h5"
    copy.write_bytes(ended.read_bytes())
    with h5py.File(copy, "r+") as file:
        start = int(file.attrs["clock_start"])
        texts = [b'{"cause":"unplugged","missed":null}', b'{"cause":"unplugged","missed":29}']
        offset = len(file["text"])
        append(file, "text", list(texts[0] + texts[1]))
        places = [(offset, len(texts[0])), (offset + len(texts[0]), len(texts[1]))]
        first, second, other = start + 10**9, start + 3 * 10**9, start + 10**9
        append(
            file,
            "gaps",
            [
                (first, 0, *places[0], b"left", b"unplugged"),
                (other, 0, *places[0], b"right", b"unplugged"),
                (first, first + 10**9, *places[1], b"left", b"unplugged"),
                (second, 0, *places[0], b"left", b"unplugged"),
            ],
        )
    told = inspect(copy)["gaps"]
    with youquanti.load(copy) as session:
        found = [(gap["source"], gap["time"], gap["end"], gap["data"]["missed"]) for gap in session.gaps]
        assert found == [("left", 1.0, 2.0, 29), ("right", 1.0, None, None), ("left", 3.0, None, None)]
        assert [(gap["source"], gap["time_ns"], gap["end_ns"]) for gap in session.gaps] == [
            (gap["source"], gap["start_ns"], gap["end_ns"]) for gap in told
        ]
    summary = python("-m", "youquanti", copy).stdout
    assert "3 gaps" in summary
    assert "gap in left from 1.000 s to 2.000 s: unplugged" in summary
    assert "gap in right from 1.000 s on, still away: unplugged" in summary


def test_the_offset_of_stamps_is_subtracted(ended: Path, tmp_path: Path) -> None:
    copy = tmp_path / "calibrated.h5"
    copy.write_bytes(ended.read_bytes())
    figures = {"mean_s": 0.013, "rms_s": 0.001, "median_s": 0.0125, "p05_s": 0.011, "p95_s": 0.015}
    counts = {"count": np.uint32(200), "measured_utc": np.int64(1_767_225_600_000_000_001)}
    with h5py.File(copy, "r+") as file:
        left = file["cameras/left"].attrs
        left["calibrated"] = np.uint8(1)
        for name, value in (figures | counts).items():
            left[f"stamp_offset_{name}"] = value
    told = inspect(copy)["cameras"]
    with youquanti.load(copy) as session:
        left, right = session.cameras.values()
        assert left.calibrated and left.stamp_offset is not None
        assert left.stamp_offset._asdict() == told[0]["stamp_offset"]
        assert left.stamp_offset_s == 0.0125
        assert np.array_equal(left.light_time(left.frames["time"]), left.frames["time"] - 0.0125)
        assert (right.calibrated, right.stamp_offset_s, told[1]["stamp_offset"]) == (False, None, None)
        with pytest.raises(ValueError, match="camera 'right' was never measured"):
            right.light_time(right.frames["time"])


def test_files_of_earlier_builds_lack_what_was_not_written_then(ended: Path, tmp_path: Path) -> None:
    copy = tmp_path / "earlier.h5"
    copy.write_bytes(ended.read_bytes())
    with h5py.File(copy, "r+") as file:
        for name in ("asked", "fps", "controls", "calibrated"):
            del file["cameras/left"].attrs[name]
    with youquanti.load(copy) as session:
        left = session.cameras["left"]
        assert (left.fps, left.controls, left.calibrated) == (None, [], False)
        assert left.asked == {"size": None, "format": None, "fps": None}


def test_every_frame_and_face_of_an_ended_session_is_there(ended: Path) -> None:
    with youquanti.load(ended) as session:
        assert list(session.cameras) == ["left", "right"]
        for camera, faces, fps in zip(session.cameras.values(), (2, 1), (20, 10), strict=True):
            check_camera(camera)
            assert len(camera.frames) == 90
            assert np.array_equal(camera.results["frame_seq"], np.arange(90))
            assert np.all(camera.results["faces"] == faces)
            assert camera.results["detector_ran"][0] == 1
            assert np.all(camera.results["over_limit"] == 0)
            assert np.allclose(np.diff(camera.frames["time"]), 1 / fps)
            assert "video_index" not in (camera.frames.dtype.names or ())
            ran = camera.faces["latency_us"] != NOT_RUN
            assert ran[:, camera.latency_stages.index("published")].all()


def test_times_are_seconds_since_the_start(ended: Path) -> None:
    with youquanti.load(ended) as session:
        assert session.seconds(session.clock_start_ns) == 0
        assert session.seconds(session.clock_start_ns - 500_000_000) == -0.5
        left = session.cameras["left"]
        expected = [(int(ns) - session.clock_start_ns) / 1e9 for ns in left.frames["captured_at_ns"]]
        assert left.frames["time"].tolist() == expected
        assert session.clock["time"][0] == 0
        assert session.clock["utc_ns"][0] == session.utc_start_ns


def test_texts_are_resolved(ended: Path) -> None:
    with youquanti.load(ended) as session:
        kinds = {event["kind"]: event for event in session.events}
        assert kinds["session_started"]["data"]["name"] == "ended"
        assert kinds["session_started"]["source"] == "session"
        assert session.participant_names == {1: "Änne", 2: "Ben", 3: "Cleo"}
        assert {row["camera"] for row in session.participants} == {"left", "right"}
        assert session.markers == session.gaps == []
        assert session.cameras["left"].blendshape_names[:2] == ("_neutral", "browDownLeft")
        assert len(session.cameras["left"].blendshape_names) == 52
        assert all(len(sha256) == 64 for sha256 in session.models.values())


def test_participants_are_those_of_the_faces(ended: Path) -> None:
    with youquanti.load(ended) as session:
        owner = {row["track"]: row["id"] for row in session.participants}
        for camera in session.cameras.values():
            assert [owner[track] for track in camera.faces["track"]] == camera.faces["participant"].tolist()


def test_the_ledger_closes(ended: Path) -> None:
    with youquanti.load(ended) as session:
        counts = {(row["camera"], row["consumer"], row["item"]): row["count"] for row in session.ledger}
        pairs = {key[:2] for key in counts}
        assert ("left", "pipeline") in pairs
        for pair in pairs:
            dropped = sum(n for key, n in counts.items() if key[:2] == pair and key[2].startswith("dropped:"))
            assert counts[(*pair, "captured")] == counts[(*pair, "delivered")] + dropped == 90


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:],
        np.s_[...],
        np.s_[7],
        np.s_[-1],
        np.int64(3),
        np.s_[10:20],
        np.s_[20:10],
        np.s_[::7],
        np.s_[::-3],
        np.s_[-5:],
        np.s_[5:10_000],
        np.s_[:, 3],
        np.s_[4, 3],
        np.s_[..., 0],
        np.s_[2:9, 1:4],
        [5, 0, 5, -1],
        [],
        np.arange(180) % 3 == 0,
        np.zeros(180, bool),
        np.array([[1, 2], [3, 179]]),
        np.s_[[1, 2, 3], 4],
        np.s_[[1, 2, 3], [4, 5, 6]],
    ],
    ids=str,
)
def test_rows_take_the_indices_of_an_array(ended: Path, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(youquanti.Rows, "_BLOCK", 50)  # so that 180 rows are several blocks
    with youquanti.load(ended) as session:
        for rows in (session.cameras["left"].blendshapes, session.cameras["left"].landmarks):
            array = np.asarray(rows)
            wanted = key if not isinstance(key, list) or key else np.array([], int)
            assert np.array_equal(rows[wanted], array[wanted])


def test_rows_refuse_what_an_array_refuses(ended: Path) -> None:
    with youquanti.load(ended) as session:
        rows = session.cameras["left"].blendshapes
        assert len(list(rows)) == len(rows) == 180
        for key in (180, -181, [0, 180], np.ones(179, bool), "name"):
            with pytest.raises(IndexError):
                rows[key]


def test_a_running_session_is_read_as_it_was_committed(recording: Recording) -> None:
    with recording.wait_for_faces(20) as early:
        assert early.swmr
        assert not early.finished
        assert early.stop is None
        for camera in early.cameras.values():
            check_camera(camera)
        before = {name: len(camera.faces) for name, camera in early.cameras.items()}
        landmarks = early.cameras["left"].landmarks[:]

        with recording.wait_for_faces(before["left"] + 1) as later:
            assert later.committed_at_ns > early.committed_at_ns
            check_camera(later.cameras["left"])
            # The first one still shows what it showed.
            assert early.cameras["left"].landmarks.shape == landmarks.shape

    assert recording.end(signal.SIGINT) == 0, recording.log.read_text()
    with youquanti.load(recording.path) as session:
        assert not session.swmr
        assert session.finished
        assert np.array_equal(session.cameras["left"].landmarks[: before["left"]], landmarks)


def test_a_killed_session_holds_all_that_was_committed(recording: Recording) -> None:
    with recording.wait_for_faces(20) as live:
        faces, landmarks = live.cameras["left"].faces, live.cameras["left"].landmarks[:]
    assert recording.end(signal.SIGKILL) == -signal.SIGKILL

    with pytest.raises(OSError, match="already open"):
        h5py.File(recording.path)
    with youquanti.load(recording.path) as session:
        assert session.swmr
        assert not session.finished
        check_like_inspect(session, inspect(recording.path))
        for camera in session.cameras.values():
            check_camera(camera)
        assert np.array_equal(session.cameras["left"].faces[: len(faces)], faces)
        assert np.array_equal(session.cameras["left"].landmarks[: len(faces)], landmarks)
        assert session.events[0]["data"] is not None


def test_a_commit_of_which_a_part_is_missing_does_not_count(ended: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.h5"
    torn.write_bytes(ended.read_bytes())
    with h5py.File(torn, "r+") as file:
        committed = file["committed"]
        columns = [name.decode() for name in committed.attrs["columns"]]
        before, row = committed[-2], committed[-1]
        row[columns.index("/events") :] = 0
        committed[-1] = row
        place = columns.index("/cameras/left/frames")
        assert 0 < before[place] <= row[place] and before[columns.index("/events")] > 0
    with youquanti.load(torn) as session:
        assert len(session.cameras["left"].frames) == before[place]
        assert len(session.events) == before[columns.index("/events")]


def test_a_table_ends_where_the_newest_commit_says(ended: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(ended.read_bytes())
    with h5py.File(cut, "r+") as file:
        committed = file["committed"]
        columns = [name.decode() for name in committed.attrs["columns"]]
        rows = committed[:]
        for table, most in {"/cameras/left/faces": 33, "/events": 1, "/stop": 0}.items():
            rows[:, columns.index(table)] = np.minimum(rows[:, columns.index(table)], most)
        committed[:] = rows
    with youquanti.load(cut) as session:
        left = session.cameras["left"]
        assert (len(left.faces), len(left.landmarks), len(left.frames)) == (33, 33, 90)
        assert len(left.landmarks[:]) == len(left.landmarks[10:]) + 10 == 33
        assert len(session.events) == 1
        assert not session.finished
        with pytest.raises(IndexError):
            left.landmarks[33]


def test_a_table_shorter_than_committed_is_damage(ended: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.h5"
    short.write_bytes(ended.read_bytes())
    with h5py.File(short, "r+") as file:
        file["cameras/left/landmarks"].resize(100, axis=0)
    with youquanti.load(short) as session:
        with pytest.raises(youquanti.SessionError, match="landmarks has 100 rows, 180 were committed"):
            session.cameras["left"].landmarks[:]


def test_what_is_no_session_file_is_refused(tmp_path: Path) -> None:
    def check(name: str, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            youquanti.load(tmp_path / name)

    (tmp_path / "text.h5").write_text("not HDF5")
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        file.attrs["format"], file.attrs["version"] = np.bytes_("youquanti-session"), 2
    with h5py.File(tmp_path / "hollow.h5", "w") as file:
        file.attrs["format"], file.attrs["version"] = np.bytes_("youquanti-session"), 1
    check("missing.h5", FileNotFoundError, "missing.h5")
    check("text.h5", youquanti.SessionError, "cannot be opened as an HDF5 file")
    check("other.h5", youquanti.SessionError, "is not a session file")
    check("newer.h5", youquanti.SessionError, "has version 2, this package reads 1")
    check("hollow.h5", youquanti.SessionError, "is damaged")


def test_the_summary(ended: Path) -> None:
    run = python("-m", "youquanti", ended)
    assert run.returncode == 0, run.stderr
    for line in (
        'session "ended"',
        "ended ok",
        "camera left: 640x360 YUYV, 20.0 fps, 90 frames, 90 analysed, 180 faces",
        "P1 Änne: faces 90 in ",
        "0 markers, 0 gaps",
    ):
        assert line in run.stdout
    run = python("-m", "youquanti", "no.h5")
    assert (run.returncode, run.stdout) == (2, "")
    assert "no.h5" in run.stderr


def test_the_examples_of_the_readme_run(ended: Path, tmp_path: Path, readme_examples: list[str]) -> None:
    assert len(readme_examples) == 6
    (tmp_path / "session.h5").symlink_to(ended)
    for example in readme_examples:
        run = python("-c", example, folder=tmp_path)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "smile.png").stat().st_size > 5000
