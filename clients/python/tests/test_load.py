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
    return json.loads(subprocess.check_output([PROGRAM, "inspect", "--json", path]))


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
        assert json.loads(told["stop"]["verdict"]) == session.stop["data"]
        assert session.stop["utc_ns"] == told["stop"]["utc_ns"]


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
            assert np.all(camera.frames["video_index"] == -1)
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


def test_a_table_ends_where_the_newest_commit_says(ended: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(ended.read_bytes())
    with h5py.File(cut, "r+") as file:
        committed = file["committed"]
        columns = [name.decode() for name in committed.attrs["columns"]]
        row = committed[-1]
        row[columns.index("/cameras/left/faces")] = 33
        row[columns.index("/events")] = 1
        row[columns.index("/stop")] = 0
        committed[-1] = row
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
    assert len(readme_examples) == 3
    (tmp_path / "session.h5").symlink_to(ended)
    for example in readme_examples:
        run = python("-c", example, folder=tmp_path)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "smile.png").stat().st_size > 5000
