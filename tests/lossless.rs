//! Lossless sessions of the same scenes: nothing is dropped, and what is found is the same, byte for byte,
//! whichever the run and however many threads share the work.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use youquanti::actors::ledger::Consumer;
use youquanti::actors::session_file::SessionReader;
use youquanti::{Config, Session, SessionReport};

const FRAMES: u64 = 40;

/// What a camera's tables say apart from when it was: stamps count from the camera's first one.
#[derive(PartialEq)]
struct Recorded {
    /// Number, the driver's number, flags, stamps.
    frames: Vec<(u64, u32, u32, u64, u64)>,
    /// Frame, stamp, track, score, box, presence; all numbers as bits, so that equal means byte for byte.
    faces: Vec<(u64, u64, u32, [u32; 6])>,
    landmarks: Vec<u32>,
    blendshapes: Vec<u32>,
    head_poses: Vec<u32>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn recorded(reader: &SessionReader, camera: usize) -> Recorded {
    let (frames, faces) = (0..reader.frame_count(camera), 0..reader.face_count(camera));
    let frames = reader.frames(camera, frames).unwrap();
    let start = frames[0].captured_at_ns;
    let face_rows = reader.faces(camera, faces.clone()).unwrap();
    Recorded {
        frames: frames
            .iter()
            .map(|row| {
                let stamps = [row.captured_at_ns, row.received_at_ns].map(|stamp| stamp - start);
                (row.seq, row.driver_seq, row.flags, stamps[0], stamps[1])
            })
            .collect(),
        faces: face_rows
            .iter()
            .map(|row| {
                let [x0, y0, x1, y1] = row.bbox;
                let numbers = [row.score, x0, y0, x1, y1, row.presence].map(f32::to_bits);
                (row.frame_seq, row.captured_at_ns - start, row.track, numbers)
            })
            .collect(),
        landmarks: bits(reader.landmarks(camera, faces.clone()).unwrap().as_flattened().as_flattened()),
        blendshapes: bits(reader.blendshapes(camera, faces.clone()).unwrap().as_flattened()),
        head_poses: bits(reader.head_poses(camera, faces).unwrap().as_flattened().as_flattened()),
    }
}

fn run(folder: &Path, pipeline: &str) -> (SessionReport, Vec<Recorded>) {
    let text = format!(
        r#"
        version = 1
        [session]
        name = "lossless-{process}"
        directory = "{folder}"
        [[camera]]
        name = "left"
        scene = {{ faces = 2, seed = 7, width = 640, height = 360, pace = "lossless", frames = {FRAMES} }}
        [[camera]]
        name = "right"
        slots = 2
        scene = {{ faces = 2, seed = 8, width = 640, height = 360, layout = "cross", format = "NV12", pace = "lossless", frames = {FRAMES} }}
        [pipeline]
        {pipeline}
        [recording]
        reserve = "1MB"
        "#,
        process = std::process::id(),
        folder = folder.display(),
    );
    let config = Config::from_toml(&text, "lossless.toml").unwrap();
    let mut session = Session::start(&config).unwrap();
    let report = session.wait(Duration::from_secs(300)).unwrap();
    let reader = SessionReader::open(&session.file().unwrap()).unwrap();
    let recorded = (0..2).map(|camera| recorded(&reader, camera)).collect();
    (report, recorded)
}

#[track_caller]
fn check_nothing_is_lost(report: &SessionReport) {
    assert_eq!((&report.degraded[..], &report.imbalances[..]), (&[][..], &[][..]));
    assert_eq!(report.stop_reason, "every source came to its end");
    for camera in &report.cameras {
        assert_eq!((camera.ledger.captured, camera.ledger.driver_lost), (FRAMES, 0), "{}", camera.name);
        for consumer in Consumer::ALWAYS {
            let counts = &camera.ledger.consumers[consumer as usize];
            assert_eq!((counts.delivered, counts.dropped_total()), (FRAMES, 0), "{consumer:?}: {counts:?}");
        }
    }
}

#[test]
fn lossless_runs_find_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let threads = ["threads = 1", "threads = 1", "threads = 2", "threads = 1\nworkers = 2"];
    let mut runs = threads.iter().enumerate().map(|(at, pipeline)| {
        let (report, recorded) = run(&folder.path().join(at.to_string()), pipeline);
        check_nothing_is_lost(&report);
        (pipeline, recorded)
    });
    let (_, first) = runs.next().unwrap();
    for camera in &first {
        assert_eq!(camera.frames.len() as u64, FRAMES);
        assert!(camera.faces.len() as u64 >= FRAMES, "{} faces", camera.faces.len());
    }
    for (pipeline, again) in runs {
        for (camera, (first, again)) in first.iter().zip(&again).enumerate() {
            let case = format!("camera {camera}, {pipeline}");
            assert_eq!(again.frames, first.frames, "{case}");
            assert_eq!(again.faces, first.faces, "{case}");
            assert!(again == first, "{case}: landmarks, blendshapes or head poses differ");
        }
    }
}
