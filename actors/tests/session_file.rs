//! The session file from outside: what is written comes back, and nothing that can go wrong on a disk costs
//! rows that were committed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_rows;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use hdf5::H5Type;
use proptest::prelude::*;
use rustix::process::{Signal, getpid, kill_process};
use session_rows::*;
use youquanti_actors::dice::Dice;
use youquanti_actors::session_file::{
    AskedMode, Compression, Gap, NOT_RUN, Opened, Participant, SessionFileError, SessionOptions,
    SessionReader, SessionWriter, ledger_item, quality_item, recover, recovered_path,
};
use youquanti_models::ids::{CameraId, ParticipantId, TrackId};
use youquanti_models::picture::{FrameFlags, FrameMeta};
use youquanti_models::time::{Timestamp, UtcNanos};

const NO_LEDGER: &[(&str, &str, &str, u64)] = &[];

fn finish(writer: SessionWriter) -> youquanti_actors::session_file::Summary {
    writer.finish(Timestamp(START.0 + 1), UTC_START, NO_LEDGER, "{}").unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Frame { camera: u16, meta: FrameMeta },
    Faces { camera: u16, seq: u64, faces: u32 },
    Event { time: u64, source: String, kind: String, text: String },
    Marker { time: u64, text: String },
    Gap { start: u64, end: u64, source: String, text: String },
    Quality { time: u64, source: String, item: String, value: f64 },
    Flush { time: u64 },
}

fn any_meta(camera: u16) -> impl Strategy<Value = FrameMeta> {
    any::<(u64, u32, u64, u64, u16)>().prop_map(move |(seq, driver_seq, captured, received, flags)| {
        FrameMeta {
            camera: CameraId(camera),
            seq,
            driver_seq,
            captured_at: Timestamp(captured),
            received_at: Timestamp(received),
            flags: FrameFlags(flags),
        }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_u16).prop_flat_map(|camera| any_meta(camera).prop_map(move |meta| Step::Frame { camera, meta })),
        4 => (0..2_u16, 0..5000_u64, 0..40_u32)
            .prop_map(|(camera, seq, faces)| Step::Faces { camera, seq, faces }),
        2 => (any::<u64>(), "[a-z]{0,20}", "[a-zäß]{0,20}", ".{0,300}")
            .prop_map(|(time, source, kind, text)| Step::Event { time, source, kind, text }),
        1 => (any::<u64>(), "\\PC{0,20000}").prop_map(|(time, text)| Step::Marker { time, text }),
        2 => (0..3_u64, prop_oneof![Just(0), any::<u64>()], "[ab]", ".{0,30}")
            .prop_map(|(start, end, source, text)| Step::Gap { start, end, source, text }),
        2 => (any::<u64>(), "[ab]", "[ab]", -1e6..1e6)
            .prop_map(|(time, source, item, value)| Step::Quality { time, source, item, value }),
        1 => (0..u64::MAX).prop_map(|time| Step::Flush { time }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rows_come_back_as_they_were_written(
        steps in prop::collection::vec(any_step(), 0..120),
        compression in prop_oneof![Just(Compression::None), Just(Compression::Deflate)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.h5");
        let mut writer = create(&path, &["left", "right"], options(compression)).unwrap();
        for step in &steps {
            match step {
                Step::Frame { meta, .. } => writer.append_frame(meta).unwrap(),
                Step::Faces { camera, seq, faces } => {
                    writer.append_faces(&found(*camera, *seq, *faces), &participants(*faces)).unwrap();
                }
                Step::Event { time, source, kind, text } => {
                    writer.append_event(Timestamp(*time), source, kind, text).unwrap();
                }
                Step::Marker { time, text } => writer.append_marker(Timestamp(*time), "op", "note", text).unwrap(),
                Step::Gap { start, end, source, text } => {
                    let end = Some(Timestamp(*end)).filter(|end| end.0 != 0);
                    writer.append_gap(&Gap { start: Timestamp(*start), end, source, cause: "away", json: text }).unwrap();
                }
                Step::Quality { time, source, item, value } => {
                    writer.append_quality(Timestamp(*time), source, item, *value).unwrap();
                }
                Step::Flush { time } => drop(writer.flush(Timestamp(*time)).unwrap()),
            }
        }
        let summary = finish(writer);
        let reader = SessionReader::open(&path).unwrap();
        prop_assert_eq!(reader.opened(), Opened::Plain);
        for camera in 0..2 {
            let frames = reader.frames(camera.into(), 0..reader.frame_count(camera.into())).unwrap();
            let expected: Vec<_> = steps.iter().filter_map(|step| match step {
                Step::Frame { camera: of, meta } if *of == camera => Some(meta),
                _ => None,
            }).collect();
            prop_assert_eq!(frames.len(), expected.len());
            prop_assert_eq!(summary.frames[usize::from(camera)], expected.len() as u64);
            for (row, meta) in frames.iter().zip(expected) {
                prop_assert_eq!((row.seq, row.driver_seq, row.flags), (meta.seq, meta.driver_seq, meta.flags.0.into()));
                prop_assert_eq!((row.captured_at_ns, row.received_at_ns), (meta.captured_at.0, meta.received_at.0));
            }
            let expected: Vec<(u64, u32)> = steps.iter().flat_map(|step| match step {
                Step::Faces { camera: of, seq, faces } if *of == camera => (0..*faces).map(|n| (*seq, n)).collect(),
                _ => Vec::new(),
            }).collect();
            check_faces(&reader, camera.into(), &expected);
        }
        let events: Vec<_> = steps.iter().filter_map(|step| match step {
            Step::Event { time, source, kind, text } => Some((*time, source.clone(), kind.clone(), text.clone())),
            _ => None,
        }).collect();
        let read: Vec<_> = reader.events(u64::MAX).unwrap().into_iter()
            .map(|entry| (entry.time_ns, entry.source, entry.kind, entry.text)).collect();
        prop_assert_eq!(read, events);
        let markers: Vec<_> = steps.iter().filter_map(|step| match step {
            Step::Marker { time, text } => Some((*time, text.clone())),
            _ => None,
        }).collect();
        let read: Vec<_> =
            reader.markers(u64::MAX).unwrap().into_iter().map(|entry| (entry.time_ns, entry.text)).collect();
        prop_assert_eq!(read, markers);
        let mut gaps = BTreeMap::new();
        let mut quality = BTreeMap::<_, BTreeMap<_, (Vec<u64>, Vec<f64>)>>::new();
        for step in &steps {
            match step {
                Step::Gap { start, end, source, text } => {
                    gaps.insert((source.clone(), *start), (Some(*end).filter(|&end| end != 0), text.clone()));
                }
                Step::Quality { time, source, item, value } => {
                    let (times, values) = quality.entry(source.clone()).or_default().entry(item.clone()).or_default();
                    times.push(*time);
                    values.push(*value);
                }
                _ => {}
            }
        }
        let found = reader.inspect(0).unwrap();
        let read = found.gaps.iter()
            .map(|gap| ((gap.source.clone(), gap.start_ns), (gap.end_ns, gap.text.clone())));
        prop_assert_eq!(found.gaps.len(), gaps.len());
        prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), gaps);
        let read = found.quality.into_iter().map(|(source, items)| {
            (source, items.into_iter().map(|(item, series)| (item, (series.time_ns, series.value))).collect())
        });
        prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), quality);
    }
}

/// All faces of a camera are these (frame, number) of `session_rows::face`.
fn check_faces(reader: &SessionReader, camera: usize, expected: &[(u64, u32)]) {
    let all = 0..reader.face_count(camera);
    assert_eq!(all.end, expected.len() as u64);
    let rows = reader.faces(camera, all.clone()).unwrap();
    let landmarks = reader.landmarks(camera, all.clone()).unwrap();
    let blendshapes = reader.blendshapes(camera, all.clone()).unwrap();
    let head_poses = reader.head_poses(camera, all).unwrap();
    assert_eq!([landmarks.len(), blendshapes.len(), head_poses.len()], [expected.len(); 3]);
    for (i, &(seq, number)) in expected.iter().enumerate() {
        let face = face(seq, number);
        let captured = meta(0, seq).captured_at.0;
        assert_eq!((rows[i].frame_seq, rows[i].captured_at_ns, rows[i].track), (seq, captured, face.track.0));
        assert_eq!((rows[i].participant, rows[i].score), (u32::from(number == 0), face.score));
        assert_eq!((rows[i].bbox, rows[i].presence), (face.bbox, face.presence));
        let detected = if seq.is_multiple_of(2) { 6000 } else { NOT_RUN };
        assert_eq!(rows[i].latency_us, [2000, 3000, 4000, detected, 10000, 11000]);
        assert_eq!(landmarks[i], face.landmarks);
        assert_eq!(blendshapes[i], face.blendshapes);
        assert_eq!(head_poses[i], face.head_pose);
    }
}

#[test]
fn an_inspection_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let mut writer = create(&path, &["right", "left"], options(Compression::None)).unwrap();
    for seq in 0..100 {
        // The index misses frames 40 and 41; the driver loses three frames between 59 and 60.
        let mut frame = meta(0, seq);
        frame.driver_seq += if seq >= 60 { 3 } else { 0 };
        if seq == 10 {
            frame.flags = FrameFlags::STAMP_REPLACED;
        }
        if !(40..42).contains(&seq) {
            writer.append_frame(&frame).unwrap();
        }
        let faces = if seq < 20 { 0 } else { 1 + u32::from(seq >= 90) };
        writer.append_faces(&found(0, seq, faces), &participants(faces)).unwrap();
    }
    let at = |seconds: u64| Timestamp(START.0 + seconds * 1_000_000_000);
    for (time, track) in [(1, 1), (2, 4)] {
        let participant = Participant {
            time: at(time),
            id: ParticipantId(1),
            name: "Ada",
            role: "speaker",
            camera: "right",
            track: TrackId(track),
            why: "first seen",
        };
        writer.append_participant(&participant).unwrap();
    }
    writer.append_event(at(1), "right", "camera_lost", r#"{"cause":"unplugged"}"#).unwrap();
    writer.append_marker(at(2), "operator", "note", "{}").unwrap();
    let gap = |start, end, json| Gap { start: at(start), end, source: "right", cause: "unplugged", json };
    let first = r#"{"cause":"unplugged by somebody","noticed_ns":2000000000,"missed":null}"#;
    writer.append_gap(&gap(1, None, first)).unwrap();
    writer.append_gap(&gap(90, None, "no JSON")).unwrap();
    writer.append_gap(&gap(1, Some(at(3)), &first.replace("null", "59"))).unwrap();
    for (second, jitter, phase) in [(60, 0.001, -0.002), (101, 0.003, 0.004)] {
        writer.append_quality(at(second), "left", quality_item::INTERVAL_JITTER, jitter).unwrap();
        writer.append_quality(at(second), "left", &quality_item::phase_to("right"), phase).unwrap();
        writer.append_quality(at(second), "left", &quality_item::phase_spread_to("right"), 1e-5).unwrap();
    }
    writer.append_quality(at(60), "left", quality_item::CLOCK_DRIFT, 12.5).unwrap();
    writer.append_event(at(1), "session", "first_frames", r#"{"spread_ms":12.25}"#).unwrap();
    writer.append_event(at(2), "right", "camera_back", "{}").unwrap();
    writer.append_clock(at(100), UtcNanos(UTC_START.0 + 100_001_000_000)).unwrap();
    writer.append_ledger(at(1), "right", "pipeline", ledger_item::CAPTURED, 7).unwrap();
    let ledger = [
        ("right", "pipeline", ledger_item::CAPTURED, 100),
        ("right", "pipeline", ledger_item::DELIVERED, 90),
        ("right", "pipeline", "dropped:replaced", 8),
        ("right", "pipeline", "dropped:no_slot", 2),
        ("right", "pipeline", ledger_item::DRIVER_LOST, 3),
        ("left", "index", ledger_item::CAPTURED, 5),
        ("left", "index", ledger_item::DELIVERED, 4),
    ];
    let summary = writer.finish(at(101), UtcNanos(9), &ledger, "ok").unwrap();
    assert_eq!((summary.frames, summary.faces, summary.complete), (vec![98, 0], vec![90, 0], true));

    let found = SessionReader::open(&path).unwrap().inspect(1).unwrap();
    assert_eq!(found.opened, Opened::Plain);
    assert_eq!(found.file_bytes, summary.file_bytes);
    assert_eq!(found.header.name, "grüße");
    assert_eq!(found.header.models["yunet"], "0".repeat(64));
    let stop = found.stop.as_ref().unwrap();
    assert_eq!((stop.time_ns, stop.utc_ns, &*stop.verdict), (at(101).0, 9, "ok"));
    assert_eq!(found.duration_s, 101.0);
    assert!((found.clock_drift_ppm.unwrap() - 10.0).abs() < 1e-3, "{:?}", found.clock_drift_ppm);

    let [right, left] = &found.cameras[..] else { panic!("{:?}", found.cameras) };
    assert_eq!((&*right.facts.name, right.frames, right.faces), ("right", 98, 90));
    assert_eq!((right.missing_in_index, right.driver_lost, right.stamps_replaced), (2, 3, 1));
    assert!(right.stamps_ascend);
    assert!((right.duration_s - 3.3).abs() < 1e-3 && (right.rate_hz - 97.0 / 3.3).abs() < 1e-3);
    assert!((right.longest_interval_ms - 100.0).abs() < 1e-3, "{}", right.longest_interval_ms);
    assert_eq!(
        right.frames_by_faces.iter().map(|(&k, &n)| (k, n)).collect::<Vec<_>>(),
        [(0, 20), (1, 70), (2, 10)]
    );
    assert_eq!((right.analysed, right.tracks, right.participants.len()), (100, 2, 1));
    let detected = right.latency.iter().find(|entry| entry.stage == "detected").unwrap();
    assert_eq!((detected.frames, detected.p50_ms, detected.max_ms), (40, 6.0, 6.0));
    assert_eq!((left.frames, left.rate_hz, left.latency.len()), (0, 0.0, 0));

    assert_eq!((found.participants[0].id, found.participants[0].tracks), (1, 2));
    assert_eq!((found.markers, found.events_by_kind.len(), found.events.len()), (1, 3, 1));
    assert_eq!(found.events[0].kind, "camera_back");
    let [ended, open] = &found.gaps[..] else { panic!("{:?}", found.gaps) };
    assert_eq!((ended.start_ns, ended.end_ns, ended.duration_s), (at(1).0, Some(at(3).0), 2.0));
    assert_eq!((&*ended.cause, ended.missed), ("unplugged by somebody", Some(59)));
    assert_eq!((open.start_ns, open.end_ns, open.duration_s), (at(90).0, None, 11.0));
    assert_eq!((&*open.cause, open.missed, &*open.text), ("unplugged", None, "no JSON"));
    assert_eq!(found.first_frames_spread_ms, Some(12.25));
    let jitter = &found.quality["left"]["interval_jitter_s"];
    assert_eq!((&jitter.time_ns[..], &jitter.value[..]), (&[at(60).0, at(101).0][..], &[0.001, 0.003][..]));
    assert_eq!(found.quality["left"]["phase_to:right_s"].value, [-0.002, 0.004]);
    let [left, right] = &found.ledger[..] else { panic!("{:?}", found.ledger) };
    assert_eq!((right.captured, right.delivered, right.driver_lost, right.closes), (100, 90, 3, true));
    assert_eq!((right.dropped["replaced"], right.dropped["no_slot"]), (8, 2));
    assert!(!left.closes && !found.ledger_closes);
    let text = found.to_string();
    for line in [
        "does not close",
        "Ada",
        "gap       right: from 1.000 s for 2.000 s, 59 frames missed: unplugged by somebody\n",
        "gap       right: from 90.000 s on, still away after 11.000 s: unplugged\n",
        "barrier   first frames of all cameras within 12.2 ms\n",
        "  timing  jitter 2.000 ms (1.000 to 3.000), drift 12.500 ppm\n",
        "  phase   to right 1.000 ms (-2.000 to 4.000), spread 0.010 ms (0.010 to 0.010)\n",
        "  mode    asked for 1280×720 YUYV 30 fps, declares 29.97 fps, exposure_time_absolute 156 for 157, gain 4\n",
        "  light   12.00 ms before the stamp (median of 200, 5 to 95 %: 11.50 to 13.50), measured 2026-01-01 00:00:00 UTC\n",
        "  mode    nothing asked for\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    serde_json::to_string(&found).unwrap();
}

#[test]
fn windows_of_synchrony_come_back_and_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let mut writer = create(&path, &["left"], options(Compression::None)).unwrap();
    {
        let reader = SessionReader::open(&path).unwrap();
        assert_eq!(
            reader.synchrony().unwrap().unwrap().pairs,
            [[1, 2], [1, 3], [2, 3]],
            "known from the start"
        );
        assert_eq!(reader.window_count(), 0);
    }
    for n in 0..100 {
        writer.append_synchrony(&window(n)).unwrap();
    }
    let cleo = Participant {
        time: START,
        id: ParticipantId(3),
        name: "Cleo",
        role: "",
        camera: "left",
        track: TrackId(1),
        why: "first seen",
    };
    writer.append_participant(&cleo).unwrap();
    finish(writer);
    let reader = SessionReader::open(&path).unwrap();
    assert_eq!(reader.window_count(), 100);
    let (rows, found) = (reader.windows(0..100).unwrap(), reader.likeness(0..100).unwrap());
    for (n, row) in (0..).zip(&rows) {
        let window = window(n);
        assert_eq!((row.start_ns, row.end_ns), (window.start.0, window.end.0));
        for (found, put) in found[n as usize * 6..][..6].iter().zip(window.likeness) {
            let put = [put.r, put.lag_s, put.p, put.common];
            assert_eq!(found.map(f32::to_bits), put.map(f32::to_bits));
        }
    }
    assert!(reader.windows(0..101).is_err() && reader.likeness(99..101).is_err());
    let told = reader.inspect(0).unwrap().synchrony.unwrap();
    assert_eq!((told.windows, told.likeness.len()), (100, 6));
    let last = &told.likeness[5];
    assert_eq!((last.pair, &*last.group), ([2, 3], "smile"));
    // Of windows 0 to 99 those of n + 5 that 3 divides are not known; p is 0.06.
    assert_eq!((last.known, last.significant, last.median_lag_s), (67, 0, None));
    assert!((last.median_r.unwrap() - 0.054).abs() < 1e-3, "{last:?}");
    let second = &told.likeness[1];
    assert_eq!((second.known, second.significant), (67, 67));
    assert!((second.median_lag_s.unwrap() + 1.0 / 30.0).abs() < 1e-6, "{second:?}");
    // A line for each group, however many pairs there are.
    let text = reader.inspect(0).unwrap().to_string();
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("synchrony")).take(3).collect();
    let lines_expected = [
        "synchrony jaw: 3 pairs, 100 windows; median |r| 0.05; strongest P2 and P3 Cleo: r 0.05, known in 67, p ≤ 0.05 in 67, \
         there P3 Cleo 0.13 s earlier",
        "synchrony smile: 3 pairs, 100 windows; median |r| 0.05; strongest P2 and P3 Cleo: r 0.05, known in 67, p ≤ 0.05 in 0",
        "          all pairs: --json",
    ];
    assert_eq!(lines, lines_expected, "{text}");
}

#[test]
fn what_is_known_of_a_camera_is_in_its_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    finish(create(&path, &["right", "left"], options(Compression::None)).unwrap());
    let reader = SessionReader::open(&path).unwrap();
    let [right, left] = reader.cameras() else { panic!("{:?}", reader.cameras()) };
    let asked = AskedMode { size: Some((1280, 720)), format: Some("YUYV".to_owned()), fps: Some(30.0) };
    assert_eq!((&right.asked, right.fps, right.stamp_offset), (&asked, Some(29.97), Some(STAMP_OFFSET)));
    assert_eq!(right.controls, controls());
    assert_eq!((&left.asked, left.fps, left.stamp_offset), (&AskedMode::default(), None, None));
    assert_eq!(left.controls, []);
}

#[test]
fn files_of_earlier_builds_lack_what_was_not_written_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    finish(create(&path, &["right"], options(Compression::None)).unwrap());
    let file = hdf5::File::open_rw(&path).unwrap();
    let group = file.group("cameras/right").unwrap();
    for name in ["asked", "fps", "controls", "calibrated"] {
        group.delete_attr(name).unwrap();
    }
    drop((group, file));
    let reader = SessionReader::open(&path).unwrap();
    let facts = &reader.cameras()[0];
    assert_eq!((&facts.asked, facts.fps, facts.stamp_offset), (&AskedMode::default(), None, None));
    assert_eq!(facts.controls, []);
}

/// A row of `frames` as builds before had it.
#[derive(Clone, Copy, H5Type)]
#[repr(C)]
struct EarlierFrameRow {
    seq: u64,
    driver_seq: u32,
    flags: u32,
    captured_at_ns: u64,
    received_at_ns: u64,
    video_index: i64,
}

#[test]
fn a_column_of_earlier_builds_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let mut writer = create(&path, &["left"], options(Compression::None)).unwrap();
    let metas: Vec<_> = (0..300).map(|seq| meta(0, seq)).collect();
    metas.iter().for_each(|meta| writer.append_frame(meta).unwrap());
    finish(writer);
    let earlier: Vec<_> = metas
        .iter()
        .map(|meta| EarlierFrameRow {
            seq: meta.seq,
            driver_seq: meta.driver_seq,
            flags: meta.flags.0.into(),
            captured_at_ns: meta.captured_at.0,
            received_at_ns: meta.received_at.0,
            video_index: -1,
        })
        .collect();
    let file = hdf5::File::open_rw(&path).unwrap();
    let group = file.group("cameras/left").unwrap();
    group.unlink("frames").unwrap();
    group.new_dataset_builder().chunk(256).with_data(&earlier).create("frames").unwrap();
    drop((group, file));
    let copy = recovered_path(&path);
    assert_eq!(recover(&path, &copy, &mut |_, _| ControlFlow::Continue(())).unwrap().lost, [""; 0]);
    for path in [path, copy] {
        let rows = SessionReader::open(&path).unwrap().frames(0, 0..300).unwrap();
        for (row, meta) in rows.iter().zip(&metas) {
            let read = (row.seq, row.driver_seq, row.captured_at_ns, row.received_at_ns);
            assert_eq!(read, (meta.seq, meta.driver_seq, meta.captured_at.0, meta.received_at.0));
        }
    }
}

#[test]
fn an_existing_file_is_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    fs::write(&path, "precious").unwrap();
    let error = create(&path, &["left"], options(Compression::None)).err().unwrap();
    assert!(matches!(error, SessionFileError::AlreadyExists { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_second_session_of_the_same_name_is_refused_while_the_first_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let first = create(&path, &["left"], options(Compression::None)).unwrap();
    let error = create(&path, &["left"], options(Compression::None)).err().unwrap();
    assert!(matches!(error, SessionFileError::AlreadyExists { .. }), "{error}");
    finish(first);
    SessionReader::open(&path).unwrap();
}

#[test]
fn what_is_left_of_a_file_that_was_being_made_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let (path, unfinished) = (folder.path().join("session.h5"), folder.path().join("session.h5.new"));
    fs::write(&unfinished, "half").unwrap();
    let held = fs::File::open(&unfinished).unwrap();
    held.lock_shared().unwrap();
    let error = create(&path, &["left"], options(Compression::None)).err().unwrap();
    assert!(matches!(error, SessionFileError::Create { .. }), "somebody else is at it: {error}");
    drop(held);
    finish(create(&path, &["left"], options(Compression::None)).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_unwritable_folder_is_named() {
    let check = |path: &Path| {
        let error = create(path, &["left"], options(Compression::None)).err().unwrap();
        assert!(matches!(error, SessionFileError::Create { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    check(&folder.path().join("file/session.h5"));
    check(&folder.path().join("missing/session.h5"));
    if let Some(mount) = Mount::tmpfs(&folder.path().join("ro"), "ro,size=1m") {
        check(&mount.0.join("session.h5"));
    }
}

#[test]
fn a_header_that_does_not_fit_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let fits = "x".repeat(60 << 10);
    let too_long = format!("{fits}x");
    let error = create_with_config(&path, &["left"], options(Compression::None), &too_long).err().unwrap();
    assert!(
        matches!(&error, SessionFileError::HeaderTooLong { attribute, .. } if attribute == "config"),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    finish(create_with_config(&path, &["left"], options(Compression::None), &fits).unwrap());
    assert_eq!(SessionReader::open(&path).unwrap().header().config, fits);
}

#[test]
fn rows_that_fit_nowhere_are_refused_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let mut writer = create(&path, &["left"], options(Compression::None)).unwrap();
    let error = writer.append_frame(&meta(1, 0)).unwrap_err();
    assert!(matches!(error, SessionFileError::UnknownCamera { camera: CameraId(1) }), "{error}");
    let error = writer.append_faces(&found(0, 0, 2), &participants(1)).unwrap_err();
    assert!(matches!(error, SessionFileError::ParticipantCount { faces: 2, participants: 1 }), "{error}");
    writer.append_frame(&meta(0, 0)).unwrap();
    assert_eq!(finish(writer).frames, [1]);
    let reader = SessionReader::open(&path).unwrap();
    let error = reader.frames(0, 0..2).unwrap_err();
    assert!(matches!(error, SessionFileError::OutOfRange { committed: 1, .. }), "{error}");
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.h5");
    let open = || SessionReader::open(&path).err().unwrap();
    assert!(matches!(open(), SessionFileError::Unreadable { .. }));
    fs::write(&path, "no HDF5").unwrap();
    assert!(matches!(open(), SessionFileError::Open { .. }));
    drop(hdf5::File::create(&path).unwrap());
    assert!(matches!(open(), SessionFileError::NotASession { .. }));
}

#[test]
fn a_writer_that_is_dropped_keeps_what_it_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.h5");
    let mut writer = create(&path, &["left"], options(Compression::None)).unwrap();
    for seq in 0..300 {
        writer.append_frame(&meta(0, seq)).unwrap();
        if seq == 9 {
            let report = writer.flush(meta(0, seq).captured_at).unwrap();
            assert_eq!(report.rows, 10);
        }
    }
    drop(writer);
    let found = SessionReader::open(&path).unwrap().inspect(0).unwrap();
    assert_eq!((found.cameras[0].frames, found.stop), (10, None));
}

const FLUSH_EVERY: u64 = 16;

/// From this frame on of each hundred the child's other camera is away, until the hundred is over.
const AWAY_FROM: u64 = 60;

/// What the killed child wrote before each flush: a frame, two faces, an event, and now and then a gap.
fn write_frame(writer: &mut SessionWriter, seq: u64) {
    let gap = |of: u64, end| Gap {
        start: meta(0, of).captured_at,
        end,
        source: "right",
        cause: "away",
        json: "{}",
    };
    if seq % 100 == AWAY_FROM {
        writer.append_gap(&gap(seq, None)).unwrap();
    } else if seq >= 100 && seq.is_multiple_of(100) {
        writer.append_gap(&gap(seq - 100 + AWAY_FROM, Some(meta(0, seq).captured_at))).unwrap();
    }
    writer.append_frame(&meta(0, seq)).unwrap();
    writer.append_faces(&found(0, seq, 2), &participants(2)).unwrap();
    writer.append_event(meta(0, seq).captured_at, "child", "frame", &event_text(seq)).unwrap();
    if (seq + 1).is_multiple_of(FLUSH_EVERY) {
        writer.flush(meta(0, seq).captured_at).unwrap();
    }
}

fn event_text(seq: u64) -> String {
    format!("{{\"seq\":{seq},\"why\":\"{}\"}}", "x".repeat((seq % 97) as usize))
}

/// The child of the next test; nothing by itself.
#[test]
fn child_writes_until_it_is_killed() {
    let Ok(path) = std::env::var("SESSION_PATH").map(PathBuf::from) else { return };
    let variable = |name| std::env::var(name).unwrap();
    let kill_at: u64 = variable("KILL_AT").parse().unwrap();
    let compression = if variable("DEFLATE") == "1" { Compression::Deflate } else { Compression::None };
    let within_a_call = variable("WITHIN_A_CALL") == "1";
    let kill = || kill_process(getpid(), Signal::KILL).unwrap();
    let mut writer = create(&path, &["left"], options(compression)).unwrap();
    let reached = AtomicU64::new(0);
    std::thread::scope(|scope| {
        if within_a_call {
            // Hits the writing thread wherever it is by then.
            scope.spawn(|| {
                while reached.load(SeqCst) < kill_at {
                    std::hint::spin_loop();
                }
                kill();
            });
        }
        for seq in 0.. {
            reached.store(seq, SeqCst);
            if seq == kill_at && !within_a_call {
                kill();
            }
            write_frame(&mut writer, seq);
        }
    });
}

#[test]
fn a_killed_writer_loses_nothing_committed() {
    for (number, kill_at) in [1_u64, 15, 16, 17, 100, 333, 511, 600, 801, 1234].into_iter().enumerate() {
        for within_a_call in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("session.h5");
            let deflate = number % 2 == 1;
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_writes_until_it_is_killed"])
                .env("SESSION_PATH", &path)
                .env("KILL_AT", kill_at.to_string())
                .env("DEFLATE", u8::from(deflate).to_string())
                .env("WITHIN_A_CALL", u8::from(within_a_call).to_string())
                .output()
                .unwrap();
            assert_eq!(status.status.signal(), Some(9), "{status:?}");

            let reader = SessionReader::open(&path).unwrap();
            assert_eq!(reader.opened(), Opened::Swmr);
            let frames = reader.frame_count(0);
            let flushed = kill_at / FLUSH_EVERY * FLUSH_EVERY;
            assert!(frames >= flushed && frames.is_multiple_of(FLUSH_EVERY), "{frames} of {kill_at}");
            assert!(within_a_call || frames == flushed, "{frames} of {kill_at}");
            let expected: Vec<_> = (0..frames).flat_map(|seq| [(seq, 0), (seq, 1)]).collect();
            // Compressed rows of an incomplete chunk wait in memory.
            let faces = if deflate { reader.face_count(0) as usize } else { expected.len() };
            assert!(faces + 64 > expected.len(), "{faces} of {}", expected.len());
            check_faces(&reader, 0, &expected[..faces]);
            for (seq, row) in (0..).zip(reader.frames(0, 0..frames).unwrap()) {
                assert_eq!((row.seq, row.captured_at_ns), (seq, meta(0, seq).captured_at.0));
            }
            let events = reader.events(u64::MAX).unwrap();
            assert_eq!(events.len() as u64, frames);
            for (seq, event) in (0..).zip(events) {
                assert_eq!(event.text, event_text(seq));
            }
            let found = reader.inspect(3).unwrap();
            assert_eq!(found.stop, None);
            let read: Vec<_> = found.gaps.iter().map(|gap| (gap.start_ns, gap.end_ns)).collect();
            let nanos = |seq| meta(0, seq).captured_at.0;
            let expected: Vec<_> = (AWAY_FROM..frames)
                .step_by(100)
                .map(|from| (from, from + 100 - AWAY_FROM))
                .map(|(from, until)| (nanos(from), (until < frames).then(|| nanos(until))))
                .collect();
            assert_eq!(read, expected);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "beside its journal: a reserve file");
        }
    }
}

/// A file system of a test; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// None, with a word about it, where mounting is not permitted.
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        if status.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: mounting a tmpfs needs root");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: HDF5 lets the children of other tests inherit its open files.
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

#[test]
fn a_full_disk_costs_no_row_that_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    for (name, compression) in [("none", Compression::None), ("deflate", Compression::Deflate)] {
        let Some(mount) = Mount::tmpfs(&folder.path().join(name), "size=16m") else { return };
        let path = mount.0.join("session.h5");
        let mut writer = create(&path, &["left"], options(compression)).unwrap();
        let mut taken = Vec::new();
        let error = (0..)
            .find_map(|seq| {
                let result = writer.append_faces(&found(0, seq, 3), &participants(3));
                if result.is_ok() {
                    taken.extend([(seq, 0), (seq, 1), (seq, 2)]);
                }
                result.err()
            })
            .unwrap();
        assert!(
            matches!(error, SessionFileError::DiskFull { free, reserve, .. } if free < reserve),
            "{error}"
        );
        let again = writer.append_frame(&meta(0, 0)).unwrap_err();
        assert!(again.to_string().contains("is full"), "{again}");
        assert!(!finish(writer).complete);
        let reader = SessionReader::open(&path).unwrap();
        assert_eq!(reader.opened(), Opened::Plain);
        check_faces(&reader, 0, &taken);
    }
}

/// Bytes of all chunks that hold rows, as they are stored.
fn stored_bytes(group: &hdf5::Group) -> u64 {
    let here: u64 = group.datasets().unwrap().iter().map(|dataset| dataset.storage_size()).sum();
    here + group.groups().unwrap().iter().map(stored_bytes).sum::<u64>()
}

#[test]
fn a_file_is_little_larger_than_its_compressed_rows() {
    let folder = tempfile::tempdir().unwrap();
    // Frames a second, and by how much the file may be larger. Where chunks take longer than a second, what was
    // written of them by then is written again.
    for (fps, most) in [(16, 1.1), (30, 1.1), (60, 1.1), (3, 2.5)] {
        let path = folder.path().join(format!("{fps}.h5"));
        let mut writer = create(&path, &["left"], options(Compression::Deflate)).unwrap();
        for second in 1..=120_u64 {
            for seq in (second - 1) * fps..second * fps {
                // As hard to compress as measured faces are.
                let mut found = found(0, seq, 1);
                let mut dice = Dice::new(seq);
                found.faces[0].landmarks.as_flattened_mut().iter_mut().for_each(|v| *v += dice.unit() as f32);
                writer.append_faces(&found, &participants(1)).unwrap();
            }
            writer.flush(Timestamp(START.0 + second * 1_000_000_000)).unwrap();
        }
        let bytes = finish(writer).file_bytes as f64;
        let stored = stored_bytes(&hdf5::File::open(&path).unwrap()) as f64;
        println!("{fps} a second: {:.3} times", bytes / stored);
        assert!(bytes < most * stored, "{fps} a second: {bytes} bytes, {stored} of rows");
    }
}

#[test]
fn compressed_rows_wait_for_less_than_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    for rate in [1_u64, 5, 10, 15, 16, 30] {
        let path = folder.path().join(format!("{rate}.h5"));
        let mut writer = create(&path, &["left"], options(Compression::Deflate)).unwrap();
        for second in 1..=40_u64 {
            for seq in (second - 1) * rate..second * rate {
                writer.append_faces(&found(0, seq, 1), &participants(1)).unwrap();
            }
            writer.flush(Timestamp(START.0 + second * 1_000_000_000)).unwrap();
            let safe = SessionReader::open(&path).unwrap().face_count(0);
            assert!(safe >= (second - 1) * rate, "{rate} a second: {safe} faces are safe after {second} s");
        }
    }
}

#[test]
fn a_disk_that_somebody_else_fills_costs_no_row_that_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&folder.path().join("disk"), "size=16m") else { return };
    let path = mount.0.join("session.h5");
    let mut writer = create(&path, &["left"], options(Compression::None)).unwrap();
    let expected: Vec<_> = (0..50).map(|seq| (seq, 0)).collect();
    for seq in 0..50 {
        writer.append_faces(&found(0, seq, 1), &participants(1)).unwrap();
    }
    fs::write(mount.0.join("other"), vec![1; 32 << 20]).unwrap_err();
    let error = writer.flush(Timestamp(START.0 + 5)).unwrap_err();
    assert!(matches!(error, SessionFileError::DiskFull { free: 0, .. }), "{error}");
    assert!(!finish(writer).complete);
    check_faces(&SessionReader::open(&path).unwrap(), 0, &expected);
}

/// Takes all space of a disk that is left.
fn fill(disk: &Path, name: &str) {
    let mut file = fs::File::create(disk.join(name)).unwrap();
    let error = std::iter::repeat_with(|| file.write_all(&[1; 4096])).find_map(Result::err).unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

/// A writer whose disk somebody else has filled with the files `other` and `more`, that which was set aside for closing, too. These
/// faces were flushed before; others wait.
fn out_of_space(path: &Path) -> (SessionWriter, Vec<(u64, u32)>) {
    let mut writer = create(path, &["left"], options(Compression::None)).unwrap();
    for seq in 0..100 {
        writer.append_faces(&found(0, seq, 1), &participants(1)).unwrap();
    }
    writer.flush(Timestamp(START.0 + 5)).unwrap();
    let disk = path.parent().unwrap();
    fill(disk, "other");
    let append = |seq| writer.append_faces(&found(0, seq, 1), &participants(1)).err();
    let error = (100..1000).find_map(append).unwrap();
    assert!(matches!(error, SessionFileError::DiskFull { free: 0, .. }), "{error}");
    fill(disk, "more");
    (writer, (0..100).map(|seq| (seq, 0)).collect())
}

#[test]
fn a_write_that_finds_no_space_costs_no_row_that_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&folder.path().join("disk"), "size=16m") else { return };
    let path = mount.0.join("session.h5");
    let (writer, flushed) = out_of_space(&path);
    let error = writer.finish(Timestamp(START.0 + 9), UTC_START, NO_LEDGER, "{}").unwrap_err();
    let causes = youquanti_models::with_causes(&error);
    assert!(causes.contains("No space left on device"), "{causes}");
    // As another program finds it: HDF5 remembers what it has open.
    let copy = folder.path().join("copy.h5");
    fs::copy(&path, &copy).unwrap();
    let saved = recovered_path(&copy);
    let recovery = recover(&copy, &saved, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(recovery.lost, [""; 0]);
    for path in [copy, saved] {
        check_faces(&SessionReader::open(&path).unwrap(), 0, &flushed);
    }
}

#[test]
fn after_a_write_that_failed_no_row_counts_that_may_not_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&folder.path().join("disk"), "size=16m") else { return };
    let path = mount.0.join("session.h5");
    let (mut writer, flushed) = out_of_space(&path);
    let error = writer.flush(Timestamp(START.0 + 6)).unwrap_err();
    assert!(matches!(error, SessionFileError::Hdf5 { .. }), "{error}");
    // There is space again: what HDF5 makes of the rows that it could not write is its own affair.
    fs::remove_file(mount.0.join("other")).unwrap();
    let error = writer.flush(Timestamp(START.0 + 7)).unwrap_err();
    assert!(matches!(error, SessionFileError::Broken { .. }), "{error}");
    let summary = writer.finish(Timestamp(START.0 + 9), UTC_START, NO_LEDGER, "{\"state\":1}").unwrap();
    assert!(!summary.complete);
    let reader = SessionReader::open(&path).unwrap();
    check_faces(&reader, 0, &flushed);
    assert_eq!(reader.inspect(0).unwrap().stop.unwrap().verdict, "{\"state\":1}");
}

#[test]
fn a_disk_without_room_for_the_reserve_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&folder.path().join("disk"), "size=3m") else { return };
    let options = SessionOptions { reserve_bytes: 4 << 20, ..options(Compression::None) };
    let error = create(&mount.0.join("session.h5"), &["left"], options).err().unwrap();
    assert!(matches!(error, SessionFileError::DiskFull { .. }), "{error}");
    assert_eq!(fs::read_dir(&mount.0).unwrap().count(), 0);
}
