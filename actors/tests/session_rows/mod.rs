//! Rows for the tests of the session file: every value follows from a frame's number, so a reader can be
//! checked without keeping what was written.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use youquanti_actors::calibration::StampOffset;
use youquanti_actors::capture::{Asked, ControlReading};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::session_file::{
    CameraHeader, Compression, SessionFileError, SessionHeader, SessionOptions, SessionWriter, VideoRow,
};
use youquanti_actors::synchrony::{Group, Likeness, SynchronyOptions, SynchronyWindow};
use youquanti_models::face::{BLENDSHAPE_COUNT, Face, FrameFaces, LANDMARK_COUNT, Stamps};
use youquanti_models::ids::{CameraId, CameraName, ParticipantId, TrackId};
use youquanti_models::picture::{FrameFlags, FrameMeta, PictureLayout, PixelFormat};
use youquanti_models::pipeline::BackendInfo;
use youquanti_models::time::{Clock, Timestamp, UtcNanos};

/// Start of every session here.
pub(crate) const START: Timestamp = Timestamp(1_000_000_000);
/// Calendar time of it.
pub(crate) const UTC_START: UtcNanos = UtcNanos(1_767_225_600_000_000_000);
/// Between two frames.
pub(crate) const PERIOD_NANOS: u64 = 33_333_333;

/// Measured of the first camera; nothing is known of the others.
pub(crate) const STAMP_OFFSET: StampOffset = StampOffset {
    mean_s: 0.0125,
    rms_s: 0.0005,
    median_s: 0.012,
    p05_s: 0.0115,
    p95_s: 0.0135,
    count: 200,
    measured_at_utc_ns: 1_767_225_600_000_000_001,
};

/// Controls of the first camera; the others have none.
pub(crate) fn controls() -> Vec<ControlReading> {
    let reading = |name: &str, asked: Option<&str>, got: &str| ControlReading {
        name: name.to_owned(),
        asked: asked.map(str::to_owned),
        got: got.to_owned(),
    };
    vec![
        reading("exposure_time_absolute", Some("157"), "156"),
        reading("gain", Some("4"), "4"),
        reading("power_line_frequency", None, "50 Hz"),
    ]
}

pub(crate) fn create(
    path: &Path,
    cameras: &[&str],
    options: SessionOptions,
) -> Result<SessionWriter, SessionFileError> {
    create_with_config(path, cameras, options, "[session]\nname = \"test\"\n")
}

pub(crate) fn create_with_config(
    path: &Path,
    cameras: &[&str],
    options: SessionOptions,
    config_text: &str,
) -> Result<SessionWriter, SessionFileError> {
    let names: Vec<CameraName> = cameras.iter().map(|name| name.parse().unwrap()).collect();
    let controls = controls();
    let mut cameras: Vec<_> = names
        .iter()
        .map(|name| CameraHeader {
            name,
            layout: PictureLayout::packed(1280, 720, PixelFormat::Yuyv),
            device: "simulated scene, seed 1",
            stamp_source: "monotonic, end of frame, 1 ns",
            first_seq: 0,
            asked: Asked::default(),
            fps: None,
            controls: &[],
            stamp_offset: None,
            video: "none",
        })
        .collect();
    cameras[0] = CameraHeader {
        asked: Asked { size: Some((1280, 720)), format: Some(PixelFormat::Yuyv), fps: Some(30.0) },
        fps: Some(29.97),
        controls: &controls,
        stamp_offset: Some(STAMP_OFFSET),
        ..cameras[0]
    };
    let backend = BackendInfo {
        backend: "cpu",
        device: "any processor".into(),
        runtime: "none 1.0".into(),
        models: vec![("yunet".into(), "0".repeat(64)), ("landmarks".into(), "f".repeat(64))],
        reason: "a test asked for it".into(),
    };
    let header = SessionHeader {
        session_id: "0123",
        name: "grüße",
        recording: 1,
        notes: "",
        recorded_by: "",
        overridden: None,
        utc_start: UTC_START,
        clock_start: START,
        software: "youquanti 0.0.0",
        config_text,
        backend: &backend,
        cameras: &cameras,
        pose: None,
        synchrony: Some(&synchrony()),
        options,
    };
    SessionWriter::create(path, &header)
}

/// What is compared in every file here: three people, two groups.
pub(crate) fn synchrony() -> SynchronyOptions {
    let group = |name: &str, channels: &[usize]| Group { name: name.to_owned(), channels: channels.to_vec() };
    SynchronyOptions {
        participants: 3,
        rate: 30,
        window: Duration::from_secs(10),
        step: Duration::from_secs(1),
        max_lag: Duration::from_secs(1),
        history: Duration::from_secs(120),
        shifts: 199,
        seed: 1,
        groups: vec![group("jaw", &[25]), group("smile", &[44, 45])],
    }
}

/// A window; every pair and group has numbers of its own, and of every third window and pair nothing is known.
pub(crate) fn window(n: u64) -> SynchronyWindow {
    let start = START + Duration::from_secs(n);
    let likeness = |k: u64| {
        let known = if (n + k).is_multiple_of(3) { f32::NAN } else { 1.0 };
        let (n, k) = (n as f32, k as f32);
        Likeness {
            r: known * (n + k) / 1000.0,
            lag_s: known * -k / 30.0,
            p: known * (k + 1.0) / 100.0,
            common: 0.25 * k,
        }
    };
    SynchronyWindow { start, end: start + Duration::from_secs(10), likeness: (0..6).map(likeness).collect() }
}

/// Options with the smallest reserve.
pub(crate) fn options(compression: Compression) -> SessionOptions {
    SessionOptions { compression, reserve_bytes: 0 }
}

pub(crate) fn meta(camera: u16, seq: u64) -> FrameMeta {
    let captured_at = Timestamp(START.0 + seq * PERIOD_NANOS);
    FrameMeta {
        camera: CameraId(camera),
        seq,
        driver_seq: seq as u32 + 7,
        captured_at,
        received_at: Timestamp(captured_at.0 + 2_000_000),
        flags: FrameFlags::STAMP_IS_EXPOSURE_START,
    }
}

/// The `number`th face of frame `seq`.
pub(crate) fn face(seq: u64, number: u32) -> Face {
    let base = (seq % 1000) as f32 + number as f32 * 0.25;
    Face {
        track: TrackId(number + 1),
        score: 0.5 + number as f32 / 16.0,
        bbox: [base, base + 1.0, base + 100.0, base + 101.0],
        presence: 0.9,
        sharpness: (number == 0).then_some(base),
        landmarks: std::array::from_fn::<_, LANDMARK_COUNT, _>(|i| [base + i as f32, base - i as f32, 0.5]),
        blendshapes: std::array::from_fn::<_, BLENDSHAPE_COUNT, _>(|i| base / 2000.0 + i as f32 / 100.0),
        head_pose: std::array::from_fn(|r| std::array::from_fn(|c| base + (r * 4 + c) as f32)),
    }
}

pub(crate) fn found(camera: u16, seq: u64, faces: u32) -> FrameFaces {
    let meta = meta(camera, seq);
    let after = |millis: u64| Timestamp(meta.captured_at.0 + millis * 1_000_000);
    FrameFaces {
        meta,
        stamps: Stamps {
            submitted: after(3),
            uploaded: after(4),
            // The detector runs on every other frame.
            detected: if seq.is_multiple_of(2) { after(6) } else { Timestamp(0) },
            landmarks: after(10),
            published: after(11),
        },
        detector_ran: seq.is_multiple_of(2),
        over_limit: 0,
        faces: (0..faces).map(|number| face(seq, number)).collect(),
    }
}

/// The first face is P1, the others are nobody.
pub(crate) fn participants(faces: u32) -> Vec<Option<ParticipantId>> {
    (0..faces).map(|number| (number == 0).then_some(ParticipantId(1))).collect()
}

/// Cameras, and faces of each frame, of [`write_for_ever`].
pub(crate) const VICTIM_CAMERAS: [&str; 2] = ["left", "right"];
pub(crate) const VICTIM_FACES: u32 = 2;

/// A frame's row of video: 100 frames a segment.
pub(crate) fn video(seq: u64, captured_at: Timestamp) -> VideoRow {
    let (segment, frame) = ((seq / 100) as u32, (seq % 100) as u32);
    VideoRow { seq, captured_at_ns: captured_at.0, segment, frame }
}

/// Writes rows of every kind, a frame of each camera every 2 ms, until the process is killed, and tells `out` of each
/// flush: `flush <ns>` when it begins, `safe <frames> <ns>` when so many frames of each camera are on the disk, times of
/// `CLOCK_MONOTONIC`. Frames carry the time at which they are handed over; all else follows from their numbers.
pub(crate) fn write_for_ever(
    path: &Path,
    compression: Compression,
    flush_every: Duration,
    mut out: impl Write,
) -> io::Result<()> {
    let mut writer = create(path, &VICTIM_CAMERAS, options(compression)).unwrap();
    let mut flush_at = SystemClock.now() + flush_every;
    for seq in 0.. {
        for camera in 0..VICTIM_CAMERAS.len() as u16 {
            let now = SystemClock.now();
            let mut found = found(camera, seq, VICTIM_FACES);
            (found.meta.captured_at, found.meta.received_at) = (now, now);
            writer.append_frame(&found.meta).unwrap();
            writer.append_faces(&found, &participants(VICTIM_FACES)).unwrap();
            writer.append_video(CameraId(camera), video(seq, now)).unwrap();
        }
        writer.append_event(SystemClock.now(), "victim", "event", &format!("{{\"n\":{seq}}}")).unwrap();
        writer.append_synchrony(&window(seq)).unwrap();
        let now = SystemClock.now();
        if now >= flush_at {
            writeln!(out, "flush {}", now.0)?;
            writer.flush(now).unwrap();
            let done = SystemClock.now();
            writeln!(out, "safe {} {}", seq + 1, done.0)?;
            flush_at = now + flush_every;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}
