//! Rows a second, and h5py doing the same work: the same rows into the same tables with the same chunks and filters, flushed
//! as often, waiting for the disk as often. Files of both are written in turn, so that both see the same machine.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use youquanti_actors::session_file::{Compression, SessionOptions};
use youquanti_models::Face;

use super::measure::{now, own_processor_time, show};
use super::rows::{Rows, time_of};
use super::session_rows::{UTC_START, create, participants};

const ROWS: u64 = 4096;
/// A second of one face at 60 fps, or of two at 30.
const FLUSH_EVERY: u64 = 60;
/// Files of each kind.
const FILES: usize = 7;

/// What a file took.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    processor_seconds: f64,
    bytes: u64,
}

pub(crate) fn run(rows: &Rows) {
    println!(
        "{ROWS} {}, a flush every {FLUSH_EVERY}; medians of {FILES} files of each kind, written in turn",
        rows.what
    );
    let folder = tempfile::tempdir().unwrap();
    let mut table = Vec::new();
    for (name, compression) in [("none", Compression::None), ("deflate", Compression::Deflate)] {
        let mut h5py = H5py::start(folder.path(), rows, name);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first ones warm up.
        for file in 0..=FILES {
            let (our, their) = (write(&folder.path().join("ours.h5"), rows, compression), h5py.write());
            if file > 0 {
                ours.push(our);
                theirs.push(their);
            }
        }
        h5py.end();
        let ratio = median(ours.iter().zip(&theirs).map(|(our, their)| their.seconds / our.seconds));
        for (who, costs, ratio) in [("this program", &ours, json!(ratio)), ("h5py", &theirs, json!(1))] {
            table.push(vec![
                json!(name),
                json!(who),
                json!(median(costs.iter().map(|cost| ROWS as f64 / cost.seconds)).round()),
                ratio,
                json!(median(costs.iter().map(|cost| cost.processor_seconds * 1e6 / ROWS as f64))),
                json!(costs[0].bytes as f64 / ROWS as f64),
            ]);
        }
    }
    show("rates", &["filter", "", "rows/s", "times h5py", "processor µs a row", "bytes a row"], &table);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn write(path: &Path, rows: &Rows, compression: Compression) -> Cost {
    let options = SessionOptions { compression, ..SessionOptions::default() };
    let people = participants(1);
    let frames: Vec<_> = (0..rows.faces.len() as u64).map(|seq| rows.frame(0, seq, 1)).collect();
    let (began, used) = (now(), own_processor_time());
    let mut writer = create(path, &["left"], options).unwrap();
    for (number, frame) in (1..=ROWS).zip(frames.iter().cycle()) {
        writer.append_faces(frame, &people).unwrap();
        if number.is_multiple_of(FLUSH_EVERY) {
            writer.flush(time_of(number)).unwrap();
        }
    }
    let bytes = writer.finish(time_of(ROWS), UTC_START, &[], "{}").unwrap().file_bytes;
    let seconds = now().saturating_since(began).as_secs_f64();
    let processor_seconds = (own_processor_time() - used).as_secs_f64();
    std::fs::remove_file(path).unwrap();
    Cost { seconds, processor_seconds, bytes }
}

/// A process that writes a file each time that it is asked.
struct H5py {
    child: Child,
    replies: BufReader<std::process::ChildStdout>,
}

impl H5py {
    fn start(folder: &Path, rows: &Rows, filter: &str) -> Self {
        // What both write, as bytes.
        let of = |bytes: &dyn Fn(&Face) -> Vec<u8>| rows.faces.iter().flat_map(bytes).collect::<Vec<u8>>();
        let floats =
            |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let parts = [
            ("landmarks", of(&|face| floats(face.landmarks.as_flattened()))),
            ("blendshapes", of(&|face| floats(&face.blendshapes))),
            ("head_pose", of(&|face| floats(face.head_pose.as_flattened()))),
            (
                "boxes",
                of(&|face| {
                    floats(&[
                        face.score,
                        face.bbox[0],
                        face.bbox[1],
                        face.bbox[2],
                        face.bbox[3],
                        face.presence,
                    ])
                }),
            ),
        ];
        for (name, bytes) in parts {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../.venv/bin/python");
        let child = Command::new(&python)
            .arg(root.join("benches/python/session_file.py"))
            .args([&ROWS.to_string(), &FLUSH_EVERY.to_string(), filter])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("{}: {error}: run make setup-test", python.display()));
        let replies = BufReader::new(child.stdout.take().unwrap());
        Self { child, replies }
    }

    fn write(&mut self) -> Cost {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        let reply: serde_json::Value = serde_json::from_str(&line).unwrap();
        let [seconds, processor_seconds] = ["seconds", "processor"].map(|key| reply[key].as_f64().unwrap());
        Cost { seconds, processor_seconds, bytes: reply["bytes"].as_u64().unwrap() }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}
