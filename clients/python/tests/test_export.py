"""What `youquanti export` and `youquanti inspect --plot` make, read with the programs that people read it with."""

from __future__ import annotations

import json
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pyxdf
import youquanti
from conftest import PROGRAM, ROOT, Recording, start
from PIL import Image
from youquanti import Session


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run([PROGRAM, *arguments], capture_output=True, encoding="utf-8")
    assert ended.returncode == code, ended.stderr
    return ended


def export(session: Path, form: str, folder: Path, *more: str) -> dict[str, Any]:
    made = run("export", session, "--to", form, "--out", folder, "--json", *more)
    told: dict[str, Any] = json.loads(made.stdout)
    assert told["form"] == form
    for file in told["files"]:
        assert Path(file["path"]).stat().st_size == file["bytes"]
    assert not list(folder.rglob("*.part"))
    return told


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session with more frames than a face has landmarks."""
    recording = start(tmp_path_factory.mktemp("longer"), "longer", "lossless", 490)
    assert recording.process.wait() == 0, recording.log.read_text()
    return recording.path


def check_tables(session: Session, folder: Path, read: Any) -> None:
    tables = [name for name in youquanti.TABLES if name != "video" and session.table(name)]
    assert {path.stem for path in folder.iterdir()} == set(tables)
    for name in tables:
        (path,) = folder.glob(f"{name}.*")
        found, expected = read(path), session.to_pandas(name)
        assert list(found) == list(expected)
        texts = [column for column in found if not pd.api.types.is_numeric_dtype(expected[column].dtype)]
        found[texts] = found[texts].astype(object).fillna("")
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)


def test_tables_are_the_same_everywhere(ended: Path, tmp_path: Path) -> None:
    with youquanti.load(ended) as session:
        for form, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
            told = export(ended, form, tmp_path)
            folder = tmp_path / f"{ended.stem}_{form}"
            check_tables(session, folder, read)
            rows = {name: count for file in told["files"] for name, count in file["rows"].items()}
            assert rows["faces"] == rows["landmarks"] == 270
            assert rows["frames"] == 180
        # Stamps are of nanoseconds, and float64 would lose them.
        frames = pd.read_parquet(folder / "frames.parquet")
        assert frames["captured_at_ns"].tolist() == session.to_pandas("frames")["captured_at_ns"].tolist()
        with pytest.raises(KeyError):
            session.table("nothing")


BODY = """
version = 1
[session]
name = "body"
[[camera]]
name = "left"
file = {{ path = "{folder}", pace = "lossless" }}
[pipeline]
backend = "cpu"
threads = 1
[pose]
enabled = true
[recording]
reserve = "1MB"
[preview]
enabled = false
[server]
enabled = false
"""


def test_bodies_are_a_table(tmp_path: Path) -> None:
    """Three frames with a body, then three without."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    body = Image.open(ROOT / "models" / "portraits" / "astronaut.png")
    for number in range(6):
        (body if number < 3 else Image.new("RGB", body.size, (90, 90, 90))).save(pictures / f"{number}.png")
    config = tmp_path / "body.toml"
    config.write_text(BODY.format(folder=pictures))
    made = run("run", config, "--record", tmp_path, "--json")
    (file,) = tmp_path.glob("*.h5")
    assert json.loads(made.stdout)["cameras"][0]["consumers"]["pose"]["delivered"] == 6
    with youquanti.load(file) as session:
        camera = session.cameras["left"]
        assert camera.pose is not None and camera.pose_points is not None
        assert camera.pose["valid"].tolist() == [1, 1, 1, 0, 0, 0]
        # Followed until it is gone; from then on it is looked for.
        assert camera.pose["detector_ran"].tolist() == [1, 0, 0, 0, 1, 1]
        assert camera.pose_points.shape == (6, 33, 5)
        nose = camera.pose_names.index("nose")
        (face,) = camera.faces[camera.faces["frame_seq"] == 0]
        x, y = camera.pose_points[0, nose, :2]
        assert face["bbox"][0] < x < face["bbox"][2] and face["bbox"][1] < y < face["bbox"][3]
        export(file, "csv", tmp_path)
        check_tables(session, tmp_path / f"{file.stem}_csv", pd.read_csv)
        assert len(session.table("pose")) == 9 + 33 * 5
    told = run("inspect", file).stdout
    assert "pose    6 frames looked at, 3 with a body" in told


def test_without_landmarks(ended: Path, tmp_path: Path) -> None:
    told = export(ended, "parquet", tmp_path, "--no-landmarks")
    assert "landmarks.parquet" not in {Path(file["path"]).name for file in told["files"]}
    export(ended, "xdf", tmp_path, "--no-landmarks")
    streams, _ = pyxdf.load_xdf(tmp_path / f"{ended.stem}.xdf")
    assert not any(stream["info"]["name"][0].endswith("_mesh") for stream in streams)


def labels(stream: Any) -> list[str]:
    return [channel["label"][0] for channel in stream["info"]["desc"][0]["channels"][0]["channel"]]


def test_xdf_has_the_streams_of_the_session(ended: Path, tmp_path: Path) -> None:
    export(ended, "xdf", tmp_path)
    streams, header = pyxdf.load_xdf(tmp_path / f"{ended.stem}.xdf", dejitter_timestamps=False)
    assert header["info"]["version"] == ["1.0"]
    by_name = {stream["info"]["name"][0]: stream for stream in streams}
    people = {f"P{n}_{what}" for n in (1, 2, 3) for what in ("blendshapes", "headpose", "mesh")}
    assert by_name.keys() == people | {"left_frames", "right_frames", "Synchrony", "youquanti_events"}
    with youquanti.load(ended) as session:
        for number in session.participant_names:
            (camera,) = [c for c in session.cameras.values() if number in c.faces["participant"]]
            mine = camera.faces["participant"] == number
            stamps = camera.results["captured_at_ns"] / 1e9
            seen = np.isin(camera.results["frame_seq"], camera.faces["frame_seq"][mine])

            scores = by_name[f"P{number}_blendshapes"]
            assert (scores["info"]["type"][0], float(scores["info"]["nominal_srate"][0])) == ("Face", camera.fps)
            assert labels(scores) == [*camera.blendshape_names, "valid", "confidence", "age_ms", "camera"]
            assert np.array_equal(scores["time_stamps"], stamps)
            values = scores["time_series"]
            assert np.array_equal(values[seen, :52], camera.blendshapes[mine])
            assert np.isnan(values[~seen, :52]).all()
            assert np.array_equal(values[:, 52], seen)
            assert np.all(values[:, 55] == camera.index)

            pose = by_name[f"P{number}_headpose"]
            assert labels(pose)[:4] == ["PositionX", "PositionY", "PositionZ", "OrientationA"]
            assert np.array_equal(pose["time_series"][seen, :3], camera.head_pose[mine][:, :3, 3])
            quaternion = pose["time_series"][seen, 3:7]
            assert np.allclose(np.linalg.norm(quaternion, axis=1), 1, atol=1e-5)
            a, b, c, d = quaternion.T
            turned = np.stack([1 - 2 * (c * c + d * d), 2 * (b * c + a * d), 2 * (b * d - a * c)], axis=1)
            assert np.allclose(turned, camera.head_pose[mine][:, :3, 0], atol=1e-4)

            mesh = by_name[f"P{number}_mesh"]
            assert labels(mesh)[:4] == ["0_x", "0_y", "0_z", "1_x"]
            assert np.array_equal(mesh["time_series"][seen], camera.landmarks[mine].reshape(-1, 1434))
        for camera in session.cameras.values():
            frames = by_name[f"{camera.name}_frames"]
            assert np.array_equal(frames["time_stamps"], camera.frames["captured_at_ns"] / 1e9)
            assert labels(frames) == ["frame", "driver_sequence", "captured_at", "dropped"]
            assert np.array_equal(frames["time_series"][:, 0], camera.frames["seq"])
            assert np.all(frames["time_series"][:, 3] == 0), "lossless: none was dropped"
        stream, synchrony = by_name["Synchrony"], session.synchrony
        assert synchrony is not None
        compared = [(f"P{a}-P{b}", group) for a, b in synchrony.pairs for group in synchrony.groups]
        assert labels(stream) == [f"{p}_{g}_{column}" for p, g in compared for column in ("r", "lag_s", "p", "common")]
        assert np.array_equal(stream["time_stamps"], synchrony.windows["end_ns"] / 1e9)
        values = np.stack([getattr(synchrony, column) for column in ("r", "lag", "p", "common")], axis=-1)
        assert len(values) > 0
        assert np.array_equal(stream["time_series"], values.reshape(len(values), -1), equal_nan=True)
        (method,) = stream["info"]["desc"][0]["method"]
        assert float(method["step"][0]) == pytest.approx(1 / float(stream["info"]["nominal_srate"][0]))
        events = by_name["youquanti_events"]
        kinds = sorted(json.loads(text[0])["kind"] for text in events["time_series"])
        assert kinds == sorted(event["kind"] for event in session.events)


@pytest.mark.filterwarnings("ignore")
def test_nwb_opens_and_passes_its_inspector(longer: Path, tmp_path: Path) -> None:
    import pynwb
    from nwbinspector import Importance, inspect_nwbfile

    told = export(longer, "nwb", tmp_path)
    names = [f"{longer.stem}_P{number}.nwb" for number in (1, 2, 3)]
    assert [Path(file["path"]).name for file in told["files"]] == names
    with youquanti.load(longer) as session:
        for number, name in enumerate(names, 1):
            path = tmp_path / name
            worst = [m for m in inspect_nwbfile(nwbfile_path=path) if m.importance.value >= Importance.CRITICAL.value]
            # A participant who was away for long may have fewer rows than landmarks; these sessions have none.
            assert worst == []
            assert not pynwb.validate(path=str(path))
            (camera,) = [c for c in session.cameras.values() if number in c.faces["participant"]]
            mine = camera.faces["participant"] == number
            with pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
                nwb = io.read()
                assert (nwb.subject.subject_id, nwb.session_id) == (f"P{number}", session.session_id)
                assert abs((nwb.session_start_time - session.utc_start).total_seconds()) < 1e-6
                behavior = nwb.processing["behavior"]
                face = behavior[f"face_{camera.name}"]
                assert np.array_equal(face["blendshapes"].timestamps[:], camera.faces["time"][mine])
                assert np.array_equal(face["blendshapes"].data[:], camera.blendshapes[mine])
                assert np.array_equal(face["landmarks"].data[:], camera.landmarks[mine])
                assert np.array_equal(face["bounding_box"].data[:], camera.faces["bbox"][mine])
                head = behavior[f"head_{camera.name}"]["head_position"]
                assert np.array_equal(head.data[:], camera.head_pose[mine][:, :3, 3])
                assert len(nwb.acquisition["events"].data[:]) == len(session.events)
                clock = nwb.acquisition["utc_offset"]
                assert np.array_equal(clock.timestamps[:], session.clock["time"])


def test_nothing_is_written_over(ended: Path, tmp_path: Path) -> None:
    for form in ("nwb", "xdf", "csv", "parquet"):
        made = [Path(file["path"]) for file in export(ended, form, tmp_path)["files"]]
        made[-1].write_text("mine")
        for path in made[:-1]:
            path.unlink()
        refused = run("export", ended, "--to", form, "--out", tmp_path, code=2)
        assert f"{made[-1]} exists already" in refused.stderr
        assert made[-1].read_text() == "mine"
        assert not any(path.exists() for path in made[:-1])
        export(ended, form, tmp_path, "--force")
        assert all(path.exists() and path.stat().st_size > 4 for path in made)


def test_what_is_no_session_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    other.write_text("nothing")
    wrong: list[list[str | Path]] = [["export", other, "--to", "csv"], ["inspect", other, "--plot", tmp_path / "a.png"]]
    for arguments in wrong:
        assert "other.h5" in run(*arguments, code=2).stderr
    assert list(tmp_path.iterdir()) == [other]


def check_picture(session: Path, folder: Path, texts: list[str]) -> None:
    run("inspect", session, "--plot", folder / "a.png")
    with Image.open(folder / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert picture.width == 2240 and 900 < picture.height < 4000
    assert 0.3 < np.all(pixels == 255, axis=1).mean() < 0.95
    # The blue of analysed frames and the green of faces.
    for colour in ((0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)):
        assert np.all(pixels == colour, axis=1).sum() > 5000
    run("inspect", session, "--plot", folder / "a.svg")
    drawn = ["".join(node.itertext()) for node in ET.parse(folder / "a.svg").getroot() if node.tag.endswith("text")]
    for text in texts:
        assert any(text in line for line in drawn), (text, drawn)


def test_the_picture_of_an_ended_session(ended: Path, tmp_path: Path) -> None:
    check_picture(ended, tmp_path, ["ended", "ok", "left", "right", "P1 Änne", "P3 Cleo", "the ledger closes"])
    refused = run("inspect", ended, "--plot", tmp_path / "a.pdf", code=2)
    assert "a.pdf has to end in .png or .svg" in refused.stderr


def test_files_that_grow_or_were_cut_off(recording: Recording, tmp_path: Path) -> None:
    with recording.wait_for_faces(30):
        pass
    check_picture(recording.path, tmp_path, ["no end: still recorded, or cut off", "P1 Änne"])
    assert recording.end(signal.SIGKILL) == -signal.SIGKILL
    check_picture(recording.path, tmp_path, ["no end: still recorded, or cut off"])
    with youquanti.load(recording.path) as session:
        export(recording.path, "parquet", tmp_path)
        check_tables(session, tmp_path / f"{recording.path.stem}_parquet", pd.read_parquet)
        rows = len(session.cameras["left"].results)
    export(recording.path, "xdf", tmp_path)
    streams, _ = pyxdf.load_xdf(tmp_path / f"{recording.path.stem}.xdf")
    (scores,) = [stream for stream in streams if stream["info"]["name"][0] == "P1_blendshapes"]
    assert len(scores["time_stamps"]) == rows
    export(recording.path, "nwb", tmp_path)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def keys(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {f"{path}{key}" for key in value} | {k for key, v in value.items() for k in keys(v, f"{path}{key}.")}
    if isinstance(value, list):
        return {k for v in value for k in keys(v, f"{path.removesuffix('.')}[].")}
    return set()


def test_every_key_of_inspect_is_documented(ended: Path, recording: Recording) -> None:
    with recording.wait_for_faces(5):
        pass
    documented = (ROOT / "docs" / "inspect.md").read_text()
    for path in (ended, recording.path):
        told = json.loads(run("inspect", "--json", path).stdout, parse_constant=refuse)
        assert all(model["matches_manifest"] for model in told["models"])
        free = ("header.models.", "quality.", "events_by_kind.", "ledger[].dropped.", "cameras[].frames_by_faces.",
                "validity[].weak_blendshapes.")  # fmt: skip
        named = {key for key in keys(told) if not key.startswith(free)}
        assert not {key for key in named if f"`{key.rsplit('.', 1)[-1]}`" not in documented}


def test_the_validity_card_is_as_inspect_says(ended: Path) -> None:
    told = json.loads(run("inspect", "--json", ended).stdout)["validity"]
    with youquanti.load(ended) as session:
        card = session.validity
        assert [(row["participant"], row["camera"]) for row in card] == [(1, "left"), (2, "right"), (3, "left")]
        assert np.all(card["analysed"] == 90) and np.all(card["presence"] == 1)
        assert np.all((card["face_size_p50_px"] > 40) & (card["face_size_p05_px"] <= card["face_size_p50_px"]))
        assert np.all(card["sharpness_p50"] > 0)
        assert session.weak_blendshapes[0] == "cheekPuff" and len(session.weak_blendshapes) == 5
        for row, entry in zip(card, told, strict=True):
            (minute,) = entry["minutes"]
            assert minute["end_ns"] == row["time_ns"]
            for name in ("presence", "face_size_p50_px", "sharpness_p05", "yaw_beyond_30deg", "noise_px"):
                expected = np.nan if minute[name] is None else minute[name]
                assert np.array_equal(row[name], expected, equal_nan=True)
        # The card agrees with the rows that it is about: percentiles to the one percent of its histogram.
        for row in card:
            faces = session.cameras[row["camera"]].faces
            mine = faces[faces["participant"] == row["participant"]]
            x0, y0, x1, y1 = mine["bbox"].T
            assert np.median(np.maximum(x1 - x0, y1 - y0)) == pytest.approx(row["face_size_p50_px"], rel=0.02)
            assert np.median(mine["sharpness"]) == pytest.approx(row["sharpness_p50"], rel=0.03)
