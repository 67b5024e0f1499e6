//! Appending faces to a session file: rows per second without and with compression, and h5py doing the same.
//!
//! One row is what the file holds of one face: 478×3 landmarks, 52 blendshapes, head pose and the row of
//! `faces`. A file of 8192 rows is made, flushed every 60 rows, and finished. Both sides write to the folder
//! for temporary files, so the disk counts as little as possible; compare by ratio within one run.
#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

#[path = "../tests/session_rows/mod.rs"]
mod session_rows;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use session_rows::*;
use youquanti_actors::session_file::{Compression, SessionOptions};
use youquanti_models::face::FrameFaces;
use youquanti_models::time::Timestamp;

const ROWS: u64 = 8192;
const FLUSH_EVERY: u64 = 60;

/// Faces whose landmarks jitter as measured ones do: numbers that do not compress well.
fn measured_faces() -> Vec<FrameFaces> {
    let mut state = 1_u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0
    };
    (0..256)
        .map(|seq| {
            let mut frame = found(0, seq, 1);
            frame.faces[0].landmarks.as_flattened_mut().iter_mut().for_each(|value| *value += noise());
            frame.faces[0].blendshapes.iter_mut().for_each(|value| *value = noise());
            frame
        })
        .collect()
}

fn write_session(path: &Path, faces: &[FrameFaces], compression: Compression) -> u64 {
    let options = SessionOptions { compression, ..SessionOptions::default() };
    let mut writer = create(path, &["left"], options).unwrap();
    let people = participants(1);
    for (number, frame) in (1..=ROWS).zip(faces.iter().cycle()) {
        writer.append_faces(frame, &people).unwrap();
        if number.is_multiple_of(FLUSH_EVERY) {
            // As if 30 faces came in a second, so that compressed rows wait for their chunk.
            writer.flush(Timestamp(START.0 + number * 33_333_333)).unwrap();
        }
    }
    writer.finish(START, UTC_START, &[], "{}").unwrap().file_bytes
}

fn files(c: &mut Criterion) {
    let faces = measured_faces();
    let mut group = c.benchmark_group("session_file");
    group.sample_size(10).throughput(Throughput::Elements(ROWS));
    for (name, compression) in [("none", Compression::None), ("deflate", Compression::Deflate)] {
        let mut bytes = 0;
        group.bench_function(name, |b| {
            b.iter_batched(
                || tempfile::tempdir().unwrap(),
                |folder| {
                    bytes = write_session(&folder.path().join("session.h5"), &faces, compression);
                    folder
                },
                BatchSize::PerIteration,
            );
        });
        println!("{name}: {bytes} bytes, {} a row", bytes / ROWS);
    }
    group.finish();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.venv/bin/python");
    for filter in ["none", "deflate"] {
        let status = Command::new(&python)
            .arg(root.join("benches/python/session_file.py"))
            .args([&ROWS.to_string(), &FLUSH_EVERY.to_string(), filter])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{}: run tools/setup.sh", python.display());
    }
}

/// One face into memory: what the recorder does for most rows.
fn append(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let faces = measured_faces();
    let people = participants(1);
    let mut writer = create(&folder.path().join("session.h5"), &["left"], SessionOptions::default()).unwrap();
    let mut next = faces.iter().cycle();
    c.bench_function("session_file/append_face", |b| {
        b.iter(|| writer.append_faces(black_box(next.next().unwrap()), &people).unwrap());
    });
    let mut now = START.0;
    c.bench_function("session_file/flush_60_faces", |b| {
        b.iter(|| {
            for frame in &faces[..60] {
                writer.append_faces(frame, &people).unwrap();
            }
            now += 1_000_000_000;
            writer.flush(Timestamp(now)).unwrap()
        });
    });
}

criterion_group!(benches, files, append);
criterion_main!(benches);
