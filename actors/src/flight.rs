//! The frame flight recorder: what happened to each frame in the last minute.
//!
//! Owns a preallocated ring of spans that any thread writes without waiting, allocating or locking.
//! Written out as a trace that Perfetto (and chrome://tracing) opens, on command, after a gap or a
//! panic. A reader never stops a writer; a span that is overwritten while it is read is left out.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use youquanti_models::{CameraId, CameraName, Timestamp};

/// One stage of a frame's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The source's stamp to receipt by this process.
    Capture,
    /// In the pipeline's mailbox.
    Wait,
    /// Conversion or upload of the picture.
    Upload,
    /// Detection and tracking.
    Detect,
    /// Landmarks, blendshapes, head poses.
    Landmarks,
    /// Handing the result over.
    Publish,
}

impl Stage {
    const ALL: [Stage; 6] =
        [Stage::Capture, Stage::Wait, Stage::Upload, Stage::Detect, Stage::Landmarks, Stage::Publish];

    /// Spans that one frame leaves behind.
    pub const PER_FRAME: usize = Self::ALL.len();

    const fn name(self) -> &'static str {
        match self {
            Stage::Capture => "capture",
            Stage::Wait => "wait",
            Stage::Upload => "upload",
            Stage::Detect => "detect",
            Stage::Landmarks => "landmarks",
            Stage::Publish => "publish",
        }
    }
}

/// One span: a stage of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which stage.
    pub stage: Stage,
    /// Whose frame.
    pub camera: CameraId,
    /// Which frame.
    pub seq: u64,
    /// When the stage began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
}

/// A place of the ring. `ticket` is 2n+1 while span n is written, 2n+2 when it stands. Whoever makes
/// it odd owns the place until it is even again.
#[derive(Debug, Default)]
struct Place {
    ticket: AtomicU64,
    key: AtomicU64,
    seq: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

/// The ring of spans. Shared by all threads.
#[derive(Debug)]
pub struct FlightRecorder {
    next: AtomicU64,
    places: Box<[Place]>,
}

impl FlightRecorder {
    /// Room for `spans` spans; the oldest is overwritten. 40 bytes a span.
    pub fn new(spans: usize) -> Self {
        Self { next: AtomicU64::new(0), places: (0..spans.max(1)).map(|_| Place::default()).collect() }
    }

    /// Writes one span. Never waits: a span whose place is being written by a thread that the whole
    /// ring has meanwhile overtaken is left out.
    pub fn record(&self, span: Span) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let place = &self.places[(n % self.places.len() as u64) as usize];
        let before = place.ticket.load(Ordering::Relaxed);
        let taken =
            |t| place.ticket.compare_exchange(t, 2 * n + 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if before % 2 == 1 || before > 2 * n || !taken(before) {
            return;
        }
        std::sync::atomic::fence(Ordering::Release);
        place.key.store(u64::from(span.camera.0) << 8 | span.stage as u64, Ordering::Relaxed);
        place.seq.store(span.seq, Ordering::Relaxed);
        place.start.store(span.start.0, Ordering::Relaxed);
        place.end.store(span.end.0, Ordering::Relaxed);
        place.ticket.store(2 * n + 2, Ordering::Release);
    }

    /// All spans that stand, oldest first.
    pub fn spans(&self) -> Vec<Span> {
        let next = self.next.load(Ordering::Acquire);
        let oldest = next.saturating_sub(self.places.len() as u64);
        (oldest..next).filter_map(|n| self.read(n)).collect()
    }

    fn read(&self, n: u64) -> Option<Span> {
        let place = &self.places[(n % self.places.len() as u64) as usize];
        if place.ticket.load(Ordering::Acquire) != 2 * n + 2 {
            return None;
        }
        let (key, seq) = (place.key.load(Ordering::Relaxed), place.seq.load(Ordering::Relaxed));
        let (start, end) = (place.start.load(Ordering::Relaxed), place.end.load(Ordering::Relaxed));
        std::sync::atomic::fence(Ordering::Acquire);
        if place.ticket.load(Ordering::Relaxed) != 2 * n + 2 {
            return None;
        }
        Some(Span {
            stage: *Stage::ALL.get((key & 0xff) as usize)?,
            camera: CameraId((key >> 8) as u16),
            seq,
            start: Timestamp(start),
            end: Timestamp(end),
        })
    }

    /// Writes all spans as trace events in JSON: one process, one thread line for each camera's
    /// captures and one for its pipeline stages, microseconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_trace(&self, cameras: &[CameraName], out: &mut impl Write) -> io::Result<()> {
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        write!(
            out,
            "{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{{\"name\":\"youquanti\"}}}}"
        )?;
        for (index, name) in cameras.iter().enumerate() {
            for (line, what) in ["capture", "pipeline"].into_iter().enumerate() {
                write!(
                    out,
                    ",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{},\"args\":{{\"name\":\"{name} {what}\"}}}}",
                    index * 2 + line + 1
                )?;
            }
        }
        for span in self.spans() {
            let line = usize::from(span.camera.0) * 2 + usize::from(span.stage != Stage::Capture) + 1;
            write!(
                out,
                ",\n{{\"name\":\"{}\",\"ph\":\"X\",\"pid\":1,\"tid\":{line},\"ts\":{:.3},\"dur\":{:.3},\"args\":{{\"seq\":{}}}}}",
                span.stage.name(),
                span.start.0 as f64 / 1e3,
                span.end.0.saturating_sub(span.start.0) as f64 / 1e3,
                span.seq
            )?;
        }
        writeln!(out, "\n]}}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn span(n: u64) -> Span {
        Span {
            stage: Stage::ALL[(n % 6) as usize],
            camera: CameraId((n % 3) as u16),
            seq: n,
            start: Timestamp(n * 1000),
            end: Timestamp(n * 1000 + n),
        }
    }

    #[test]
    fn the_newest_spans_stand() {
        let flight = FlightRecorder::new(4);
        for n in 0..6 {
            flight.record(span(n));
        }
        assert_eq!(flight.spans(), (2..6).map(span).collect::<Vec<_>>());
    }

    #[test]
    fn a_span_read_while_written_is_whole_or_left_out() {
        let flight = Arc::new(FlightRecorder::new(8));
        let writers: Vec<_> = (0..2)
            .map(|w| {
                let flight = Arc::clone(&flight);
                std::thread::Builder::new()
                    .spawn(move || (0..20_000).for_each(|k| flight.record(span(2 * k + w))))
                    .unwrap()
            })
            .collect();
        while writers.iter().any(|w| !w.is_finished()) {
            for read in flight.spans() {
                assert_eq!(read, span(read.seq), "torn");
            }
        }
        assert!((1..=8).contains(&flight.spans().len()));
    }

    #[test]
    fn the_trace_is_json_with_a_line_for_each_camera() {
        let flight = FlightRecorder::new(16);
        (0..6).for_each(|n| flight.record(span(n)));
        let names = ["left", "right", "top"].map(|n| n.parse().unwrap());
        let mut out = Vec::new();
        flight.write_trace(&names, &mut out).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.iter().filter(|e| e["ph"] == "M").count(), 1 + 2 * 3);
        let landmarks = events.iter().find(|e| e["name"] == "landmarks").unwrap();
        assert_eq!((&landmarks["ts"], &landmarks["args"]["seq"]), (&4.0.into(), &4.into()));
    }
}
