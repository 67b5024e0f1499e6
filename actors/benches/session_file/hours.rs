//! Hours of one camera with one face at 30 fps through the recorder itself, on a clock that jumps to the next thing that is
//! due: does anything grow or slow down with the length of a session?
//!
//! The recorder's timers (flush each second, ledger and quality each minute) and its stamps go by the simulated clock; what its
//! work takes is measured on the real one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;
use tokio::time::{Instant, pause, sleep_until};
use youquanti_actors::capture::CaptureError;
use youquanti_actors::child::{Lifeline, Pulse, Report, Word};
use youquanti_actors::messages::{ChildId, FacesNamed, IndexEntry};
use youquanti_actors::participants::Roster;
use youquanti_actors::plane::{CameraPlan, DataPlane};
use youquanti_actors::recorder::{
    BeginRecording, EndRecording, OnFailure, RecorderActor, RecordingFailed, RecordingPlan, RecordingRequest,
};
use youquanti_actors::session_file::{Compression, SessionOptions, SessionReader};
use youquanti_models::{CameraId, Clock, Timestamp, UtcNanos};

use super::measure::{Times, now, own_processor_time, resident_bytes, show};
use super::rows::Rows;
use super::session_rows::{START, UTC_START};

const FPS: u64 = 30;
/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Goes by the runtime's clock, which is stopped and jumps.
struct Simulated {
    began: Instant,
}

impl Clock for Simulated {
    fn now(&self) -> Timestamp {
        START + self.began.elapsed()
    }

    fn utc(&self) -> UtcNanos {
        UtcNanos(UTC_START.0 + self.began.elapsed().as_nanos() as i64)
    }
}

/// Hears of what must not happen.
struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<Report> for Nobody {
    type Result = ();

    fn handle(&mut self, report: Report, _: &mut Self::Context) {
        assert!(matches!(report.word, Word::Started | Word::Ended(_)), "{report:?}");
    }
}

impl Handler<RecordingFailed> for Nobody {
    type Result = ();

    fn handle(&mut self, failed: RecordingFailed, _: &mut Self::Context) {
        panic!("{}", failed.cause);
    }
}

/// What is noted at the end of each tenth.
struct Tenth {
    flushes: Times,
    /// Of a simulated second without its flush.
    processor: Duration,
    seconds: u64,
    resident: u64,
    bytes: u64,
}

pub(crate) fn run(hours: f64, deflate: bool) {
    let filter = if deflate { "deflate" } else { "none" };
    println!("{hours} simulated hours, one camera with one face at {FPS} fps, filter: {filter}");
    let folder = tempfile::tempdir().unwrap();
    let compression = if deflate { Compression::Deflate } else { Compression::None };
    let (tenths, wall) = System::new().block_on(record(folder.path(), hours, compression));
    let path = folder.path().join("hours.h5");
    let began = now();
    let reader = SessionReader::open(&path).unwrap();
    let (rows, frames) = (reader.face_count(0), reader.frame_count(0));
    reader.landmarks(0, rows - 1..rows).unwrap();
    let opening = now().saturating_since(began);
    drop(reader);

    let table = (1..).zip(&tenths).map(|(number, tenth)| {
        vec![
            json!(number),
            json!(tenth.flushes.millis(0.5)),
            json!(tenth.flushes.millis(0.99)),
            json!(tenth.flushes.millis(1.0)),
            json!(tenth.processor.as_secs_f64() * 1e3 / tenth.seconds as f64),
            json!(tenth.resident as f64 / 1e6),
            json!(tenth.bytes as f64 / 1e6),
        ]
    });
    let columns = [
        "tenth",
        "flush p50 ms",
        "flush p99 ms",
        "longest ms",
        "processor ms a simulated second",
        "MB resident",
        "MB of file",
    ];
    show(&format!("hours_{filter}"), &columns, &table.collect::<Vec<_>>());

    let bytes = std::fs::metadata(&path).unwrap().len();
    let stored = stored_bytes(&path);
    let (first, last) = (&tenths[0], &tenths[tenths.len() - 1]);
    let ratio = bytes as f64 / stored as f64;
    println!(
        "\n{frames} frames and {rows} faces in {:.0} s ({:.0} times real time); file {:.1} MB, {ratio:.3} times the {:.1} MB of its rows \
         as they are stored (goal: 1.1); last tenth over first: resident {:.2}, flush p50 {:.2}, flush p99 {:.2}, processor {:.2}; \
         opening it and reading its last row: {:.0} ms",
        wall.as_secs_f64(),
        hours * 3600.0 / wall.as_secs_f64(),
        bytes as f64 / 1e6,
        stored as f64 / 1e6,
        last.resident as f64 / first.resident as f64,
        last.flushes.millis(0.5) / first.flushes.millis(0.5),
        last.flushes.millis(0.99) / first.flushes.millis(0.99),
        (last.processor.as_secs_f64() / last.seconds as f64)
            / (first.processor.as_secs_f64() / first.seconds as f64),
        opening.as_secs_f64() * 1e3,
    );
}

/// Bytes of all chunks that hold rows, as they are stored: what the file would have without anything else in it.
fn stored_bytes(path: &std::path::Path) -> u64 {
    fn of(group: &hdf5::Group) -> u64 {
        let here: u64 = group.datasets().unwrap().iter().map(|dataset| dataset.storage_size()).sum();
        here + group.groups().unwrap().iter().map(of).sum::<u64>()
    }
    of(&hdf5::File::open(path).unwrap())
}

async fn record(folder: &std::path::Path, hours: f64, compression: Compression) -> (Vec<Tenth>, Duration) {
    pause();
    let began = Instant::now();
    let camera = CameraPlan {
        name: "left".parse().unwrap(),
        open: Arc::new(|_| Err(CaptureError::Disconnected { device: "none".to_owned(), source: None })),
        slots: 4,
        lossless: false,
        offsets: Arc::default(),
        video: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(Simulated { began });
    let plane = DataPlane::new(Arc::clone(&clock), "hours".to_owned(), "/dev/shm".into(), vec![camera], 64);
    let plan = RecordingPlan {
        directory: folder.to_owned(),
        session_id: "0123".to_owned(),
        session_name: "hours".to_owned(),
        config_text: String::new(),
        software: "youquanti".to_owned(),
        flush_interval: Duration::from_secs(1),
        options: SessionOptions { compression, ..SessionOptions::default() },
        on_failure: OnFailure::Stop,
        overridden: None,
    };
    let nobody = Nobody.start();
    let lifeline =
        Lifeline::new(nobody.clone().recipient(), ChildId::Recorder, 0, Arc::new(Pulse::default()), false);
    let recorder =
        RecorderActor::new(Arc::clone(&plane), Arc::new(plan), &[], nobody.recipient(), None, lifeline)
            .start();
    let request = RecordingRequest { name: Some("hours".to_owned()), ..RecordingRequest::default() };
    recorder.send(BeginRecording(request)).await.unwrap().unwrap();

    let rows = Rows::made_up();
    let mut roster = Roster::new(None, 1);
    let (real_start, mut told) = (now(), now());
    let frames = (hours * 3600.0) as u64 * FPS;
    let mut tenths = Vec::new();
    let (mut flushes, mut processor, mut seconds, mut safe) = (Vec::new(), Duration::ZERO, 0, 0);
    for seq in 0..frames {
        let step = now();
        // Flushes are due on the second, frames between them: what is due before this frame is done before it.
        sleep_until(began + Duration::from_nanos((2 * seq + 1) * 500_000_000 / FPS)).await;
        let status = plane.recording().unwrap();
        if status.rows != safe {
            safe = status.rows;
            flushes.push(now().saturating_since(step));
        }
        let used = own_processor_time();
        let mut faces = rows.frame(0, seq, 1);
        faces.meta.captured_at = clock.now();
        faces.meta.received_at = clock.now();
        let line = plane.camera(CameraId(0));
        line.next_seq.store(seq + 1, Ordering::Relaxed);
        let [pipeline, index] = plane.ledger.captured(CameraId(0));
        line.index.send(IndexEntry { meta: faces.meta, ticket: index }).unwrap();
        pipeline.delivered();
        let update = Arc::new(roster.name(&faces));
        recorder.send(FacesNamed { faces: Arc::new(faces), update }).await.unwrap();
        processor += own_processor_time() - used;
        seconds += u64::from((seq + 1).is_multiple_of(FPS));
        if tenths.len() as u64 + 1 == (seq + 1) * 10 / frames {
            tenths.push(Tenth {
                flushes: Times::new(std::mem::take(&mut flushes)),
                processor: std::mem::take(&mut processor),
                seconds: std::mem::take(&mut seconds),
                resident: resident_bytes(),
                bytes: plane.recording().unwrap().file_bytes,
            });
        }
        if now().saturating_since(told) > TOLD_EVERY {
            told = now();
            eprintln!("{:.1} of {hours} hours", (seq + 1) as f64 / FPS as f64 / 3600.0);
        }
    }
    recorder.send(EndRecording).await.unwrap().unwrap().unwrap();
    (tenths, now().saturating_since(real_start))
}
