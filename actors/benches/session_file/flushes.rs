//! How long a flush takes, and which part of it is waiting for the disk (`fdatasync`, twice a flush).

use std::time::Duration;

use serde_json::json;
use youquanti_actors::session_file::{Compression, SessionOptions};

use super::measure::{Times, now, own_processor_time, show};
use super::rows::{Rows, time_of};
use super::session_rows::{START, UTC_START, create, meta, participants};

const FLUSHES: u64 = 120;
/// Frames of a camera between two flushes.
const FRAMES: u64 = 30;
/// Seconds go by between flushes when people record; here as long as lets the disk finish what it has begun.
const REST: Duration = Duration::from_millis(50);

pub(crate) fn run() {
    let rows = Rows::made_up();
    println!(
        "{FLUSHES} flushes, {FRAMES} frames of each camera before each, {} ms rest; milliseconds",
        REST.as_millis()
    );
    let mut table = Vec::new();
    for (cameras, faces) in [(1_u16, 1), (8, 2)] {
        for (name, compression) in [("none", Compression::None), ("deflate", Compression::Deflate)] {
            for waits in [true, false] {
                let (times, processor) = flushes(&rows, cameras, faces, compression, waits);
                table.push(vec![
                    json!(cameras),
                    json!(faces),
                    json!(name),
                    json!(if waits { "yes" } else { "no" }),
                    json!(times.millis(0.5)),
                    json!(times.millis(0.99)),
                    json!(times.millis(1.0)),
                    json!(processor.as_secs_f64() * 1e3 / FLUSHES as f64),
                ]);
            }
        }
    }
    let columns =
        ["cameras", "faces each", "filter", "waits for the disk", "p50", "p99", "longest", "processor"];
    show("flushes", &columns, &table);
}

fn flushes(
    rows: &Rows,
    cameras: u16,
    faces: u32,
    compression: Compression,
    waits: bool,
) -> (Times, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..cameras).map(|k| format!("cam{k}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let options = SessionOptions { compression, ..SessionOptions::default() };
    let mut writer = create(&folder.path().join("session.h5"), &names, options).unwrap();
    if !waits {
        writer.never_wait_for_the_disk();
    }
    let people = participants(faces);
    let (mut times, mut processor) = (Vec::new(), Duration::ZERO);
    for flush in 0..FLUSHES {
        for seq in flush * FRAMES..(flush + 1) * FRAMES {
            for camera in 0..cameras {
                writer.append_frame(&meta(camera, seq)).unwrap();
                writer.append_faces(&rows.frame(camera, seq, faces), &people).unwrap();
            }
        }
        let (began, used) = (now(), own_processor_time());
        writer.flush(time_of((flush + 1) * FRAMES)).unwrap();
        times.push(now().saturating_since(began));
        processor += own_processor_time() - used;
        std::thread::sleep(REST);
    }
    writer.finish(START, UTC_START, &[], "{}").unwrap();
    (Times::new(times), processor)
}
