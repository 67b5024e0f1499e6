//! The session file as h5py sees it: the layout is the documented one, and a stock reader needs nothing else.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_rows;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use session_rows::*;
use youquanti_actors::session_file::{Compression, Gap, SessionWriter, quality_item};
use youquanti_models::time::Timestamp;

fn check_with_h5py(path: &Path, swmr: bool) -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make test`, or `tools/setup.sh` once", python.display());
    let output = Command::new(python)
        .arg(root.join("tests/python/check_session.py"))
        .arg(path)
        .args(swmr.then_some("--swmr"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "check_session.py: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write(path: &Path, compression: Compression, frames: u64) -> SessionWriter {
    let mut writer = create(path, &["right", "left"], options(compression)).unwrap();
    for seq in 0..frames {
        writer.append_frame(&meta(0, seq)).unwrap();
        writer.append_faces(&found(0, seq, 2), &participants(2)).unwrap();
    }
    writer.append_event(START, "right", "grüße", r#"{"ü":1}"#).unwrap();
    for (start, end) in [(1, None), (2, None), (1, Some(Timestamp(9)))] {
        writer
            .append_gap(&Gap {
                start: Timestamp(start), end, source: "left", cause: "ü", json: r#"{"ü":2}"#
            })
            .unwrap();
    }
    writer.append_quality(START, "left", quality_item::CLOCK_DRIFT, 12.5).unwrap();
    writer.append_synchrony(&window(0)).unwrap();
    writer.append_synchrony(&window(1)).unwrap();
    writer
}

fn check_values(seen: &Value, frames: u64) {
    assert_eq!(seen["name"], "grüße");
    assert_eq!(seen["config"], "[session]\nname = \"test\"\n");
    assert_eq!(seen["utc_start"], UTC_START.0);
    assert_eq!(seen["models"]["landmarks"], "f".repeat(64));
    assert_eq!(seen["events"][0], serde_json::json!(["right", "grüße", "{\"ü\":1}"]));
    assert_eq!(
        seen["gaps"],
        serde_json::json!([[1, 0, "left", "ü", {"ü": 2}], [2, 0, "left", "ü", {"ü": 2}], [1, 9, "left", "ü", {"ü": 2}]])
    );
    assert_eq!(seen["quality"], serde_json::json!([[START.0, 12.5, "left", "clock_drift_ppm"]]));
    assert_eq!(seen["pairs"], serde_json::json!([[1, 2], [1, 3], [2, 3]]));
    assert_eq!(
        seen["groups"],
        serde_json::json!({"jaw": ["jawOpen"], "smile": ["mouthSmileLeft", "mouthSmileRight"]})
    );
    let windows = [0, 1].map(window).map(|window| [window.start.0, window.end.0]);
    assert_eq!(seen["windows"], serde_json::json!(windows));
    let common = serde_json::json!([[0.0, 0.25], [0.5, 0.75], [1.0, 1.25]]);
    assert_eq!(seen["common"], serde_json::json!([common, common]));
    assert_eq!(seen["cameras"]["left"]["index"], 1);
    let nothing = serde_json::json!({"size": null, "format": null, "fps": null});
    assert_eq!(
        seen["cameras"]["left"]["mode"],
        serde_json::json!({"first_seq": 0, "asked": nothing, "controls": [], "calibrated": 0})
    );
    assert_eq!(
        seen["cameras"]["right"]["mode"],
        serde_json::json!({
            "first_seq": 0,
            "asked": {"size": [1280, 720], "format": "YUYV", "fps": 30.0},
            "fps": 29.97,
            "controls": controls(),
            "calibrated": 1,
            "stamp_offset_mean_s": 0.0125,
            "stamp_offset_rms_s": 0.0005,
            "stamp_offset_median_s": 0.012,
            "stamp_offset_p05_s": 0.0115,
            "stamp_offset_p95_s": 0.0135,
            "stamp_offset_count": 200,
            "stamp_offset_measured_utc": 1_767_225_600_000_000_001_i64,
        })
    );
    let camera = &seen["cameras"]["right"];
    assert_eq!((&camera["width"], &camera["height"]), (&1280.into(), &720.into()));
    assert_eq!((&camera["frames"], &camera["faces"]), (&frames.into(), &(2 * frames).into()));
    assert_eq!(camera["seq_sum"], frames * (frames - 1) / 2);
    let sum = |values: &dyn Fn(u64, u32) -> f64| -> f64 {
        (0..frames).flat_map(|seq| [values(seq, 0), values(seq, 1)]).sum()
    };
    let of = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
    let check = |key: &str, expected: f64| {
        let seen = camera[key].as_f64().unwrap();
        assert!((seen - expected).abs() <= expected.abs() * 1e-9, "{key}: {seen}, not {expected}");
    };
    check("landmark_sum", sum(&|seq, n| of(face(seq, n).landmarks.as_flattened())));
    check("blendshape_sum", sum(&|seq, n| of(&face(seq, n).blendshapes)));
    check("head_pose_sum", sum(&|seq, n| of(face(seq, n).head_pose.as_flattened())));
    check("bbox_sum", sum(&|seq, n| of(&face(seq, n).bbox)));
}

#[test]
fn a_finished_file_is_plain_hdf5() {
    let folder = tempfile::tempdir().unwrap();
    for (name, compression) in [("none.h5", Compression::None), ("deflate.h5", Compression::Deflate)] {
        let path = folder.path().join(name);
        let writer = write(&path, compression, 150);
        writer.finish(Timestamp(START.0 + 1), UTC_START, &[], "{}").unwrap();
        let seen = check_with_h5py(&path, false);
        check_values(&seen, 150);
        assert_eq!(seen["stopped"], true);
    }
}

#[test]
fn a_file_that_is_being_written_can_be_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.h5");
    let mut writer = write(&path, Compression::None, 150);
    writer.flush(Timestamp(START.0 + 1)).unwrap();
    // Not committed, so not to be seen.
    for seq in 150..400 {
        writer.append_frame(&meta(0, seq)).unwrap();
    }
    let seen = check_with_h5py(&path, true);
    check_values(&seen, 150);
    assert_eq!(seen["stopped"], false);
}
