//! Recorder actor: owns the session file and is the only one that writes it, on its own thread.
//!
//! Takes every result, event and index entry it is sent; what does not fit into its mailbox waits at the
//! sender. Flushes on a timer. A failed write is never retried blindly: what is safe is kept, the file
//! is closed as well as it can be, and the session is told. Without a file it only keeps the books.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use tracing::{debug, info};
use youquanti_frames::MailboxStream;
use youquanti_models::{BackendInfo, CameraId, PictureLayout, PixelFormat, Timestamp, with_causes};

use crate::capture::{Asked, StampSource};
use crate::child::Lifeline;
use crate::fault;
use crate::ledger::{Consumer, DropReason, LedgerSnapshot};
use crate::messages::{CameraGap, Event, EventKind, FacesNamed, IndexEntry, ParticipantChange, Shutdown};
use crate::plane::{CameraLine, DataPlane, OpenedCamera};
use crate::session_file::{
    CameraHeader, Gap, Participant, SessionFileError, SessionHeader, SessionOptions, SessionWriter, Summary,
    ledger_item, quality_item,
};
use crate::timing::{Figures, Timing};

/// Index entries taken in one go before other messages have their turn.
const INDEX_BATCH: usize = 256;

/// How often the ledger, a pair of clocks and the cameras' timing are written while a session runs.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// What is recorded, and where.
#[derive(Clone, Debug)]
pub struct RecordingPlan {
    /// The session file; must not exist.
    pub path: PathBuf,
    /// Unique for each session.
    pub session_id: String,
    /// What people call the session.
    pub session_name: String,
    /// The whole configuration, TOML.
    pub config_text: String,
    /// Program and version.
    pub software: String,
    /// Names of P1, P2, …, as far as they are known.
    pub participant_names: Vec<String>,
    /// How often rows become safe.
    pub flush_interval: Duration,
    /// How the file is written.
    pub options: SessionOptions,
}

/// Writes the last rows and closes the file. Answered with what is in it, or nothing without a file.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<Summary>, String>")]
pub struct Finish {
    /// `ok`, or `degraded` and why, as JSON.
    pub verdict: String,
}

/// The session's recorder.
pub struct RecorderActor {
    plane: Arc<DataPlane>,
    plan: Option<Arc<RecordingPlan>>,
    writer: Option<SessionWriter>,
    index: Vec<MailboxStream<IndexEntry>>,
    timing: Timing,
    names: Vec<String>,
    checkpoint_at: Timestamp,
    lifeline: Lifeline,
}

impl RecorderActor {
    /// A recorder that creates its file when it is started; without a plan it only keeps the books.
    pub fn new(plane: Arc<DataPlane>, plan: Option<Arc<RecordingPlan>>, lifeline: Lifeline) -> Self {
        let names = plane.camera_names().iter().map(ToString::to_string).collect();
        Self {
            plane,
            plan,
            writer: None,
            index: Vec::new(),
            timing: Timing::new(&[]),
            names,
            checkpoint_at: Timestamp(0),
            lifeline,
        }
    }

    /// Does `write` if there is a file; a failure or a panic in it ends the recorder, loudly. Says whether
    /// all is well.
    fn write(
        &mut self,
        ctx: &mut Context<Self>,
        write: impl FnOnce(&mut SessionWriter, &DataPlane, &[String]) -> Result<(), SessionFileError>,
    ) -> bool {
        let Some(writer) = &mut self.writer else { return self.plan.is_none() };
        let (plane, names) = (&*self.plane, &*self.names);
        match self.lifeline.guard(|| write(writer, plane, names)) {
            Some(Ok(())) => return true,
            Some(Err(error)) => {
                let cause = with_causes(&error);
                let closed = self.close("{\"state\":\"degraded\",\"reasons\":[\"recording failed\"]}");
                self.lifeline.failed(match closed {
                    Ok(_) => format!("{cause}; the file was closed with what it had"),
                    Err(second) => format!("{cause}; closing the file failed too: {second}"),
                });
                ctx.terminate();
            }
            None => {
                // Dropping the writer closes the file; its last commit stands.
                self.writer = None;
                ctx.terminate();
            }
        }
        false
    }

    /// Writes what the stamps told since the last time.
    fn report_timing(&mut self, ctx: &mut Context<Self>) {
        let now = self.plane.clock.now();
        let figures = self.timing.take();
        for (name, figures) in self.names.iter().zip(&figures) {
            debug!(camera = %name, ?figures, "timing");
        }
        self.write(ctx, |writer, _, names| {
            let mut result = Ok(());
            for_quality_rows(&figures, names, |camera, item, value| {
                if result.is_ok() {
                    result = writer.append_quality(now, camera, item, value);
                }
            });
            result
        });
    }

    fn close(&mut self, verdict: &str) -> Result<Option<Summary>, String> {
        let Some(writer) = self.writer.take() else { return Ok(None) };
        let snapshot = self.plane.ledger.snapshot();
        let mut rows = Vec::new();
        for_ledger_rows(&snapshot, &self.names, |camera, consumer, item, count| {
            rows.push((camera.to_owned(), consumer, item.to_owned(), count));
        });
        let rows: Vec<(&str, &str, &str, u64)> = rows
            .iter()
            .map(|(camera, consumer, item, count)| (&**camera, *consumer, &**item, *count))
            .collect();
        writer
            .finish(self.plane.clock.now(), self.plane.clock.utc(), &rows, verdict)
            .map(Some)
            .map_err(|error| with_causes(&error))
    }
}

/// Every count of the ledger as camera, consumer, item and count; counts of dropped frames only where
/// there are any.
fn for_ledger_rows(
    snapshot: &LedgerSnapshot,
    names: &[String],
    mut row: impl FnMut(&str, &'static str, &str, u64),
) {
    for (camera, name) in snapshot.cameras.iter().zip(names) {
        for (consumer, counts) in Consumer::ALL.into_iter().zip(&camera.consumers) {
            row(name, consumer.name(), ledger_item::CAPTURED, camera.captured);
            row(name, consumer.name(), ledger_item::DELIVERED, counts.delivered);
            row(name, consumer.name(), ledger_item::DRIVER_LOST, camera.driver_lost);
            for (reason, &count) in DropReason::ALL.into_iter().zip(&counts.dropped) {
                if count > 0 {
                    let item = format!("{}{}", ledger_item::DROPPED_PREFIX, reason.name());
                    row(name, consumer.name(), &item, count);
                }
            }
        }
    }
}

/// Every figure that there is, as camera, item and value.
fn for_quality_rows(figures: &[Figures], names: &[String], mut row: impl FnMut(&str, &str, f64)) {
    for (figures, name) in figures.iter().zip(names) {
        let known = [
            (quality_item::FRAMES, Some(figures.frames as f64)),
            (quality_item::DRIVER_LOST, Some(figures.driver_lost as f64)),
            (quality_item::STAMPS_REPLACED, Some(figures.stamps_replaced as f64)),
            (quality_item::INTERVAL_MEAN, figures.interval_mean_s),
            (quality_item::INTERVAL_JITTER, figures.interval_jitter_s),
            (quality_item::INTERVAL_MAX, figures.interval_max_s),
            (quality_item::DELAY_MEAN, figures.delay_mean_s),
            (quality_item::DELAY_MIN, figures.delay_min_s),
            (quality_item::DELAY_STD, figures.delay_std_s),
            (quality_item::CLOCK_DRIFT, figures.clock_drift_ppm),
        ];
        for (item, value) in known {
            if let Some(value) = value {
                row(name, item, value);
            }
        }
        if let Some(phase) = figures.phase {
            row(name, &quality_item::phase_to(&names[phase.to]), phase.mean_s);
            row(name, &quality_item::phase_spread_to(&names[phase.to]), phase.spread_s);
        }
    }
}

fn create(plan: &RecordingPlan, plane: &DataPlane) -> Result<SessionWriter, SessionFileError> {
    fault::point("recorder:create");
    // One header for each camera, in the order of their ids: rows find their camera's tables by that.
    let opened: Vec<_> = plane.cameras.iter().map(CameraLine::opened).collect();
    let described: Vec<_> = opened.iter().map(|opened| describe(opened.as_ref())).collect();
    let cameras: Vec<_> = plane
        .cameras
        .iter()
        .zip(opened.iter().zip(&described))
        .map(|(line, (opened, (layout, device, stamps)))| {
            let info = opened.as_ref().map(|opened| &opened.info);
            CameraHeader {
                name: &line.plan.name,
                layout: *layout,
                device,
                stamp_source: stamps,
                asked: info.map_or_else(Asked::default, |info| info.asked),
                fps: info.map(|info| info.fps),
                controls: info.map_or(&[], |info| &info.controls),
                stamp_offset: opened.as_ref().and_then(|opened| opened.stamp_offset),
            }
        })
        .collect();
    let none = BackendInfo {
        backend: "none",
        device: String::new(),
        runtime: String::new(),
        models: Vec::new(),
        reason: "no pipeline runs".to_owned(),
    };
    SessionWriter::create(
        &plan.path,
        &SessionHeader {
            session_id: &plan.session_id,
            name: &plan.session_name,
            utc_start: plane.clock.utc(),
            clock_start: plane.clock.now(),
            software: &plan.software,
            config_text: &plan.config_text,
            backend: plane.backend().as_ref().unwrap_or(&none),
            cameras: &cameras,
            options: plan.options,
        },
    )
}

/// A camera's layout, and in words what it is and what its stamps mean.
fn describe(opened: Option<&OpenedCamera>) -> (PictureLayout, String, String) {
    let Some(OpenedCamera { layout, info, .. }) = opened else {
        return (PictureLayout::packed(0, 0, PixelFormat::Grey), "never opened".to_owned(), String::new());
    };
    let device = format!("{} {} ({}), {} fps", info.driver, info.name, info.id, info.fps);
    let meaning = match info.stamps {
        StampSource::DriverExposureStart => "driver, CLOCK_MONOTONIC, start of exposure",
        StampSource::DriverFrameEnd => "driver, CLOCK_MONOTONIC, end of frame",
        StampSource::Computed => "computed, start + n/fps",
        StampSource::Receipt => "receipt by this program",
    };
    let stamps = format!("{meaning}, steps of {} ns", info.stamp_resolution.as_nanos());
    (*layout, device, stamps)
}

impl Actor for RecorderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(plan) = self.plan.clone() {
            let plane = Arc::clone(&self.plane);
            match self.lifeline.guard(|| create(&plan, &plane)) {
                Some(Ok(writer)) => self.writer = Some(writer),
                Some(Err(error)) => {
                    self.lifeline.failed(with_causes(&error));
                    return ctx.terminate();
                }
                None => return ctx.terminate(),
            }
            info!(path = %plan.path.display(), "recording");
            ctx.run_interval(plan.flush_interval, |recorder, ctx| {
                let now = recorder.plane.clock.now();
                let is_checkpoint = now >= recorder.checkpoint_at;
                if is_checkpoint {
                    recorder.checkpoint_at = now + CHECKPOINT;
                }
                recorder.write(ctx, |writer, plane, names| {
                    fault::point("recorder:before-flush");
                    if is_checkpoint {
                        checkpoint(writer, plane, names)?;
                    }
                    writer.flush(now).map(drop)
                });
            });
        }
        let rates: Vec<_> =
            self.plane.cameras.iter().map(|line| line.opened().map(|opened| opened.info.fps)).collect();
        self.timing = Timing::new(&rates);
        ctx.run_interval(CHECKPOINT, Self::report_timing);
        self.index = self.plane.cameras.iter().map(|line| line.index.stream()).collect();
        self.lifeline.started();
        ctx.spawn(IndexLoop);
    }
}

fn checkpoint(
    writer: &mut SessionWriter,
    plane: &DataPlane,
    names: &[String],
) -> Result<(), SessionFileError> {
    let now = plane.clock.now();
    writer.append_clock(now, plane.clock.utc())?;
    let mut result = Ok(());
    for_ledger_rows(&plane.ledger.snapshot(), names, |camera, consumer, item, count| {
        if result.is_ok() {
            result = writer.append_ledger(now, camera, consumer, item, count);
        }
    });
    result
}

/// Takes index entries for as long as the actor lives.
struct IndexLoop;

impl ActorFuture<RecorderActor> for IndexLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        recorder: &mut RecorderActor,
        ctx: &mut Context<RecorderActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        for _ in 0..INDEX_BATCH {
            if !recorder.take_index_entry(ctx, task) {
                return Poll::Pending;
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl RecorderActor {
    /// Takes one entry of any camera; false when there is none.
    fn take_index_entry(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> bool {
        for camera in 0..self.index.len() {
            if let Poll::Ready(Some(entry)) = Pin::new(&mut self.index[camera]).poll_next(task) {
                self.timing.frame(&entry.meta);
                if self.write(ctx, |writer, _, _| writer.append_frame(&entry.meta, None)) {
                    entry.ticket.delivered();
                } else {
                    entry.ticket.dropped(DropReason::Failed);
                }
                return true;
            }
        }
        false
    }
}

impl Handler<FacesNamed> for RecorderActor {
    type Result = ();

    fn handle(&mut self, FacesNamed { faces, update }: FacesNamed, ctx: &mut Self::Context) {
        let plan = self.plan.clone();
        self.write(ctx, |writer, _, names| {
            fault::point("recorder:faces");
            for change in &update.changes {
                append_participant(writer, change, plan.as_deref(), names)?;
            }
            writer.append_faces(&faces, &update.participants)
        });
    }
}

fn append_participant(
    writer: &mut SessionWriter,
    change: &ParticipantChange,
    plan: Option<&RecordingPlan>,
    names: &[String],
) -> Result<(), SessionFileError> {
    let id = change.participant.to_string();
    let given = plan.and_then(|plan| plan.participant_names.get(usize::from(change.participant.0) - 1));
    writer.append_participant(&Participant {
        time: change.at,
        id: change.participant,
        name: given.unwrap_or(&id),
        role: "",
        camera: camera_name(names, change.camera),
        track: change.track,
        why: change.why,
    })
}

fn camera_name(names: &[String], id: CameraId) -> &str {
    names.get(usize::from(id.0)).map_or("", String::as_str)
}

impl Handler<Event> for RecorderActor {
    type Result = ();

    fn handle(&mut self, event: Event, ctx: &mut Self::Context) {
        self.write(ctx, |writer, _, _| {
            let (source, kind, json) = (&event.source, event.kind.name(), event.detail.to_string());
            if event.kind == EventKind::Marker {
                writer.append_marker(event.at, source, kind, &json)?;
            }
            writer.append_event(event.at, source, kind, &json)
        });
    }
}

impl Handler<CameraGap> for RecorderActor {
    type Result = ();

    fn handle(&mut self, gap: CameraGap, ctx: &mut Self::Context) {
        self.write(ctx, |writer, _, names| {
            let detail = serde_json::json!({
                "cause": gap.cause,
                "noticed_ns": gap.noticed_at.0,
                "last_good_ns": gap.last_good.0,
                "first_missing_seq": gap.first_missing,
                "missed": gap.missed,
            });
            writer.append_gap(&Gap {
                start: gap.last_good,
                end: gap.end,
                source: camera_name(names, gap.camera),
                cause: &gap.cause,
                json: &detail.to_string(),
            })
        });
    }
}

impl Handler<Finish> for RecorderActor {
    type Result = Result<Option<Summary>, String>;

    fn handle(&mut self, finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        let mut task = TaskContext::from_waker(std::task::Waker::noop());
        while self.take_index_entry(ctx, &mut task) {}
        self.report_timing(ctx);
        self.close(&finish.verdict)
    }
}

impl Handler<Shutdown> for RecorderActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.lifeline.ended();
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::Phase;

    #[test]
    fn what_is_known_of_the_timing_becomes_rows() {
        let left = Figures { frames: 3, driver_lost: 2, ..Figures::default() };
        let right = Figures {
            frames: 4,
            stamps_replaced: 1,
            interval_mean_s: Some(0.1),
            interval_jitter_s: Some(0.2),
            interval_max_s: Some(0.3),
            delay_mean_s: Some(0.4),
            delay_min_s: Some(0.5),
            delay_std_s: Some(0.6),
            clock_drift_ppm: Some(-7.0),
            phase: Some(Phase { to: 0, mean_s: -0.8, spread_s: 0.9 }),
            ..Figures::default()
        };
        let mut rows = Vec::new();
        for_quality_rows(&[left, right], &["left".to_owned(), "right".to_owned()], |camera, item, value| {
            rows.push(format!("{camera} {item} {value}"));
        });
        let expected = [
            "left frames 3",
            "left driver_lost 2",
            "left stamps_replaced 0",
            "right frames 4",
            "right driver_lost 0",
            "right stamps_replaced 1",
            "right interval_mean_s 0.1",
            "right interval_jitter_s 0.2",
            "right interval_max_s 0.3",
            "right delay_mean_s 0.4",
            "right delay_min_s 0.5",
            "right delay_std_s 0.6",
            "right clock_drift_ppm -7",
            "right phase_to:left_s -0.8",
            "right phase_spread_to:left_s 0.9",
        ];
        assert_eq!(rows, expected);
    }
}
