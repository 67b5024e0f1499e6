//! Recorder actor: owns the session's files, one after the other, and is the only one that writes them, on its
//! own thread.
//!
//! Takes every result, event and index entry it is sent, with or without a file; what does not fit into its
//! mailbox waits at the sender. Flushes on a timer. Keeps what a file that begins later must have at its start: who
//! is which track, and which cameras are away. A failed write is never retried blindly: what is safe is kept, the
//! file is closed as well as it can be, and the session is told. Without a file it only keeps the books.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};
use youquanti_frames::MailboxStream;
use youquanti_models::{
    BackendInfo, CameraId, FrameMeta, ParticipantId, PictureLayout, PixelFormat, Timestamp, UtcNanos,
    blendshapes, with_causes,
};

use crate::capture::Asked;
use crate::child::{Lifeline, caught};
use crate::fault;
use crate::flushes::{FlushFigures, Flushes};
use crate::ledger::{CameraSnapshot, Consumer, DropReason, LedgerSnapshot};
use crate::messages::{
    CameraGap, Event, EventKind, FacesNamed, IndexEntry, Markers, ParticipantChange, PoseFound, Shutdown,
    SynchronyFound,
};
use crate::plane::{CameraLine, DataPlane, INDEX_CAPACITY, OpenedCamera, RecordingStatus};
use crate::session_file::{
    CameraHeader, FLUSH_SOURCE, Gap, Participant, SessionFileError, SessionHeader, SessionOptions,
    SessionWriter, Summary, VideoRow, flush_item, ledger_item, quality_item, validity_item, validity_source,
};
use crate::synchrony::SynchronyOptions;
use crate::timing::{Figures, Timing};
use crate::validity::{Card, Validity, WEAK_BLENDSHAPES};
use crate::verdict::ReasonCode;
use crate::video::{self, VideoJob};

/// Index entries taken in one go before other messages have their turn.
const INDEX_BATCH: usize = 256;

/// Reserves of the session file that must be free for video: it ends before the session file has to.
const VIDEO_RESERVES: u64 = 2;

/// How often the ledger, a pair of clocks and the cameras' timing are written while a session runs.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// What follows a file that cannot be written to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The session stops, after saving what it can.
    #[default]
    Stop,
    /// The session goes on without a file, degraded; another recording may be started.
    Continue,
}

/// What all recordings of a session have in common.
#[derive(Clone, Debug)]
pub struct RecordingPlan {
    /// Where files go; made when the first one is.
    pub directory: PathBuf,
    /// Unique for each session.
    pub session_id: String,
    /// What people call the session; its files are named after it.
    pub session_name: String,
    /// The whole configuration, TOML.
    pub config_text: String,
    /// Program and version.
    pub software: String,
    /// How often rows become safe.
    pub flush_interval: Duration,
    /// How files are written.
    pub options: SessionOptions,
    /// What follows a file that cannot be written to its end.
    pub on_failure: OnFailure,
    /// Set where the session was started although something is missing.
    pub overridden: Option<Override>,
}

/// Somebody's decision to start a session or a recording although something that it requires is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Why.
    pub reason: String,
    /// Who decided so.
    pub by: String,
    /// What was missing, as far as it was known then.
    pub missing: Vec<String>,
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "started by {} although something is missing: {}", self.by, self.reason)
    }
}

/// What may be said of a recording when it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingRequest {
    /// Name of the file without its ending, also with folders, relative to the plan's directory: `pilot/P01` is
    /// `<directory>/pilot/P01.h5`, which must not exist. Without it: session and UTC,
    /// `<session>_20260131T235959.123Z.h5`.
    pub name: Option<String>,
    /// What is to be known about it, at most 60 KiB; an attribute of the file.
    pub notes: String,
    /// Who started it; an attribute of the file.
    pub by: String,
    /// Somebody's decision to record although something that is required is missing. What is, the session adds.
    pub overridden: Option<Override>,
}

/// Creates a file and records to it from now on. Answered with the file, or why there is none; then nothing has
/// changed.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<RecordingStarted, String>")]
pub struct BeginRecording(pub RecordingRequest);

/// A recording that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingStarted {
    /// The file.
    pub path: PathBuf,
    /// From when on it covers the session.
    pub at: Timestamp,
    /// Counts the recordings of the session from 1.
    pub number: u32,
}

/// Writes the last rows and the verdict on the recording, and closes the file. Answered with what is in it, or
/// nothing without a file.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Option<Summary>, String>")]
pub struct EndRecording;

/// A file could not be written to its end; what could be saved is in it. Sent where the session goes on without.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct RecordingFailed {
    /// The file.
    pub path: PathBuf,
    /// Why, and whether it could be closed.
    pub cause: String,
}

/// The file that is being written.
struct OpenFile {
    writer: SessionWriter,
    path: PathBuf,
    /// What had been settled before it began.
    before: LedgerSnapshot,
    /// By camera, `seq` of the first frame that belongs to it.
    first_seq: Vec<u64>,
    flushes: Flushes,
}

/// The session's recorder.
pub struct RecorderActor {
    plane: Arc<DataPlane>,
    plan: Arc<RecordingPlan>,
    file: Option<OpenFile>,
    files: u32,
    synchrony: Option<SynchronyOptions>,
    index: Vec<MailboxStream<IndexEntry>>,
    /// Of cameras that have video.
    video: Vec<(CameraId, MailboxStream<VideoRow>)>,
    timing: Timing,
    validity: Validity,
    names: Vec<String>,
    checkpoint_at: Timestamp,
    /// The newest change of each participant: who is which track now.
    present: BTreeMap<ParticipantId, ParticipantChange>,
    /// What participants are called: as planned, or as they were named since.
    called: Arc<BTreeMap<ParticipantId, String>>,
    open_gaps: BTreeMap<CameraId, CameraGap>,
    failures: Recipient<RecordingFailed>,
    lifeline: Lifeline,
}

impl RecorderActor {
    /// A recorder without a file, for people of these names (P1, P2, …, as far as they are known); its files have tables for
    /// `synchrony`; `failures` hears of files that the session has to go on without.
    pub fn new(
        plane: Arc<DataPlane>,
        plan: Arc<RecordingPlan>,
        participant_names: &[String],
        failures: Recipient<RecordingFailed>,
        synchrony: Option<SynchronyOptions>,
        lifeline: Lifeline,
    ) -> Self {
        let names = plane.camera_names().iter().map(ToString::to_string).collect();
        let called = (1..).map(ParticipantId).zip(participant_names.iter().cloned());
        let called = Arc::new(called.collect());
        Self {
            plane,
            plan,
            file: None,
            files: 0,
            synchrony,
            index: Vec::new(),
            video: Vec::new(),
            timing: Timing::new(&[]),
            validity: Validity::default(),
            names,
            checkpoint_at: Timestamp(0),
            present: BTreeMap::new(),
            called,
            open_gaps: BTreeMap::new(),
            failures,
            lifeline,
        }
    }

    /// Does `write` if there is a file; what follows a failure or a panic in it is as the plan says. Says whether
    /// all is well.
    fn write(
        &mut self,
        ctx: &mut Context<Self>,
        write: impl FnOnce(&mut OpenFile, &DataPlane, &[String]) -> Result<(), SessionFileError>,
    ) -> bool {
        let Some(file) = &mut self.file else { return true };
        let (plane, names) = (&*self.plane, &*self.names);
        file.flushes.row(|| plane.clock.now());
        let cause = match caught(|| write(file, plane, names)) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => Ok(with_causes(&error)),
            Err(panic) => Err(panic),
        };
        self.plane.end_video();
        let path = file.path.clone();
        let text = match &cause {
            Ok(cause) | Err(cause) => format!("recording: {cause}"),
        };
        self.plane.findings.add_to_recording(ReasonCode::RecordingFailed, self.plane.clock.now(), text);
        let cause = match cause {
            Ok(cause) => match self.close() {
                Ok(_) => format!("{cause}; the file was closed with what it had"),
                Err(second) => format!("{cause}; closing the file failed too: {second}"),
            },
            Err(panic) => {
                // Dropping the writer closes the file; its last commit stands.
                self.file = None;
                self.plane.set_recording(None);
                panic
            }
        };
        match self.plan.on_failure {
            OnFailure::Stop => {
                self.lifeline.failed(cause);
                ctx.terminate();
            }
            OnFailure::Continue => {
                crate::child::tell::<Self, _>(ctx, &self.failures, RecordingFailed { path, cause })
            }
        }
        false
    }

    /// Writes what stamps and faces told since the last time.
    fn report_quality(&mut self, ctx: &mut Context<Self>) {
        let now = self.plane.clock.now();
        let figures = self.timing.take();
        let cards = self.validity.take();
        for (name, figures) in self.names.iter().zip(&figures) {
            debug!(camera = %name, ?figures, "timing");
        }
        self.write(ctx, |file, _, names| {
            let flushes = file.flushes.take();
            let mut result = Ok(());
            let mut append = |source: &str, item: &str, value: f64| {
                if result.is_ok() {
                    result = file.writer.append_quality(now, source, item, value);
                }
            };
            for_quality_rows(&figures, names, &mut append);
            for_validity_rows(&cards, names, &mut append);
            for_flush_rows(flushes, &mut append);
            result
        });
    }

    /// Begins a file with all that it needs to stand alone.
    fn begin(&mut self, request: &RecordingRequest) -> Result<RecordingStarted, String> {
        if let Some(file) = &self.file {
            return Err(format!("{} is being written", file.path.display()));
        }
        let path = path_of(&self.plan, request, self.plane.clock.utc())?;
        let number = self.files + 1;
        let at = self.plane.clock.now();
        // Frames from here on belong to the file; what is on its way to the index is older.
        let first_seq: Vec<_> =
            self.plane.cameras.iter().map(|line| line.next_seq.load(Ordering::Relaxed)).collect();
        let mut file = caught(|| {
            let writer = create(
                &self.plan,
                &self.plane,
                request,
                &path,
                (number, at),
                &first_seq,
                self.synchrony.as_ref(),
            )?;
            let before = self.plane.ledger.snapshot();
            Ok(OpenFile { writer, path: path.clone(), before, first_seq, flushes: Flushes::default() })
        })?
        .map_err(|error: SessionFileError| with_causes(&error))?;
        let known = caught(|| {
            for change in self.present.values() {
                append_participant(&mut file.writer, change, &self.called, &self.names)?;
            }
            self.open_gaps.values().try_for_each(|gap| append_gap(&mut file.writer, gap, &self.names))
        });
        known?.map_err(|error| with_causes(&error))?;
        // Of its own time alone.
        self.timing.take();
        self.validity.take();
        self.checkpoint_at = at;
        self.files = number;
        self.plane.findings.recording_begins();
        if let Some(overridden) = &request.overridden {
            self.plane.findings.add_to_recording(ReasonCode::Overridden, at, overridden.to_string());
        }
        for gap in self.open_gaps.values() {
            let text = format!(
                "camera {} was away when the recording began: {}",
                camera_name(&self.names, gap.camera),
                gap.cause
            );
            self.plane.findings.add_to_recording(ReasonCode::CameraAway, at, text);
        }
        self.plane.set_recording(Some(RecordingStatus {
            path: path.clone(),
            number,
            started_at: at,
            rows: 0,
            file_bytes: 0,
            free_bytes: 0,
            journal_lost: None,
        }));
        self.plane.begin_video(VideoJob {
            session_file: path.clone(),
            reserve_bytes: VIDEO_RESERVES * file.writer.reserve_bytes(),
        });
        self.file = Some(file);
        info!(path = %path.display(), "recording");
        Ok(RecordingStarted { path, at, number })
    }

    fn close(&mut self) -> Result<Option<Summary>, String> {
        let Some(file) = self.file.take() else { return Ok(None) };
        self.plane.set_recording(None);
        let snapshot = self.plane.ledger.snapshot();
        let mut rows = Vec::new();
        let mut add = |camera: &str, consumer, item: &str, count| {
            rows.push((camera.to_owned(), consumer, item.to_owned(), count));
        };
        for_ledger_rows(&snapshot, &file.before, &self.names, &mut add);
        for_under_way_rows(&snapshot, &self.names, &mut add);
        let rows: Vec<(&str, &str, &str, u64)> = rows
            .iter()
            .map(|(camera, consumer, item, count)| (&**camera, *consumer, &**item, *count))
            .collect();
        let verdict = self.plane.findings.of_recording().to_json();
        file.writer
            .finish(self.plane.clock.now(), self.plane.clock.utc(), &rows, &verdict)
            .map(Some)
            .map_err(|error| with_causes(&error))
    }
}

/// Whether a recording can be called so: a name, or folders and a name, at most 200 bytes each, below the plan's directory.
pub(crate) fn can_name_a_file(name: &str) -> bool {
    let is_plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let is_odd = name.is_empty() || name.ends_with('/') || name.chars().any(char::is_control);
    let is_long = name.split('/').any(|part| part.len() > 200);
    is_plain && !is_odd && !is_long
}

/// The file of a recording: as it was named, or after session and time, so that it sorts by time and names no
/// earlier file, not even that of a recording so short that the next begins within the same second.
fn path_of(plan: &RecordingPlan, request: &RecordingRequest, utc: UtcNanos) -> Result<PathBuf, String> {
    let Some(name) = &request.name else {
        let stamp =
            jiff::Timestamp::from_nanosecond(i128::from(utc.0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let name = format!("{}_{}", plan.session_name, stamp.strftime("%Y%m%dT%H%M%S%.3fZ"));
        // A calendar that was set back may come to the same moment again.
        let numbered = (2..100).map(|n| plan.directory.join(format!("{name}_{n}.h5")));
        let mut paths = std::iter::once(plan.directory.join(format!("{name}.h5"))).chain(numbered);
        return paths.find(|path| !path.exists()).ok_or_else(|| format!("{name}.h5 exists 99 times"));
    };
    if !can_name_a_file(name) {
        return Err(format!(
            "{name:?} cannot name a file: write a name, or folders and a name, at most 200 bytes each, \
             relative to {}",
            plan.directory.display()
        ));
    }
    Ok(plan.directory.join(format!("{name}.h5")))
}

/// Every count of the ledger since `before` as camera, consumer, item and count; counts of dropped frames only
/// where there are any. What was under way then counts as captured: it is settled in the time since.
fn for_ledger_rows(
    snapshot: &LedgerSnapshot,
    before: &LedgerSnapshot,
    names: &[String],
    mut row: impl FnMut(&str, &'static str, &str, u64),
) {
    for ((camera, before), name) in snapshot.cameras.iter().zip(&before.cameras).zip(names) {
        let driver_lost = camera.driver_lost.saturating_sub(before.driver_lost);
        for (k, consumer) in Consumer::ALL.into_iter().enumerate() {
            let (counts, before) = (&camera.consumers[k], &before.consumers[k]);
            let captured = counts.captured.saturating_sub(before.settled());
            if counts.captured == 0 && !Consumer::ALWAYS.contains(&consumer) {
                continue;
            }
            row(name, consumer.name(), ledger_item::CAPTURED, captured);
            let delivered = counts.delivered.saturating_sub(before.delivered);
            row(name, consumer.name(), ledger_item::DELIVERED, delivered);
            row(name, consumer.name(), ledger_item::DRIVER_LOST, driver_lost);
            let dropped = counts.dropped.iter().zip(&before.dropped);
            for (reason, (&count, &before)) in DropReason::ALL.into_iter().zip(dropped) {
                let count = count.saturating_sub(before);
                if count > 0 {
                    let item = format!("{}{}", ledger_item::DROPPED_PREFIX, reason.name());
                    row(name, consumer.name(), &item, count);
                }
            }
        }
    }
}

/// What is on its way to each consumer, where there is any.
fn for_under_way_rows(
    snapshot: &LedgerSnapshot,
    names: &[String],
    mut row: impl FnMut(&str, &'static str, &str, u64),
) {
    for (camera, name) in snapshot.cameras.iter().zip(names) {
        for (consumer, counts) in Consumer::ALL.into_iter().zip(&camera.consumers) {
            let under_way = counts.captured.saturating_sub(counts.settled());
            if under_way > 0 {
                row(name, consumer.name(), ledger_item::UNDER_WAY, under_way);
            }
        }
    }
}

/// What is known of the flushes, as source, item and value.
fn for_flush_rows(figures: Option<FlushFigures>, mut row: impl FnMut(&str, &str, f64)) {
    let Some(FlushFigures { flushes, took_mean, took_max, row_age_max }) = figures else { return };
    row(FLUSH_SOURCE, flush_item::FLUSHES, flushes as f64);
    row(FLUSH_SOURCE, flush_item::TOOK_MEAN, took_mean.as_secs_f64());
    row(FLUSH_SOURCE, flush_item::TOOK_MAX, took_max.as_secs_f64());
    row(FLUSH_SOURCE, flush_item::ROW_AGE_MAX, row_age_max.as_secs_f64());
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

/// Every figure of the validity cards that there is, as source, item and value.
fn for_validity_rows(cards: &[Card], names: &[String], mut row: impl FnMut(&str, &str, f64)) {
    for card in cards {
        let source = validity_source(card.participant, camera_name(names, card.camera));
        let [median, low] = [0, 1].map(|i| move |pair: [f64; 2]| pair[i]);
        let known = [
            (validity_item::ANALYSED, Some(card.analysed as f64)),
            (validity_item::FACES, Some(card.faces as f64)),
            (validity_item::PRESENCE, card.presence()),
            (validity_item::SIZE_P50, card.size_px.map(median)),
            (validity_item::SIZE_P05, card.size_px.map(low)),
            (validity_item::SHARPNESS_P50, card.sharpness.map(median)),
            (validity_item::SHARPNESS_P05, card.sharpness.map(low)),
            (validity_item::YAW_BEYOND, card.yaw_beyond),
            (validity_item::NOISE_PX, card.noise_px),
            (validity_item::NOISE_SCORE, card.noise_score),
            (validity_item::STILL, Some(card.still as f64)),
        ];
        for (item, value) in known {
            if let Some(value) = value {
                row(&source, item, value);
            }
        }
        for (place, range) in WEAK_BLENDSHAPES.into_iter().zip(card.weak_range) {
            if let Some(range) = range {
                row(&source, &validity_item::weak_range(blendshapes::NAMES[place]), range);
            }
        }
    }
}

fn create(
    plan: &RecordingPlan,
    plane: &DataPlane,
    request: &RecordingRequest,
    path: &Path,
    (number, at): (u32, Timestamp),
    first_seq: &[u64],
    synchrony: Option<&SynchronyOptions>,
) -> Result<SessionWriter, SessionFileError> {
    fault::point("recorder:create");
    if let Some(folder) = path.parent() {
        let failed = |source| SessionFileError::Create { path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // One header for each camera, in the order of their ids: rows find their camera's tables by that.
    let opened: Vec<_> = plane.cameras.iter().map(CameraLine::opened).collect();
    let described: Vec<_> = opened.iter().map(|opened| describe(opened.as_ref())).collect();
    let videos: Vec<_> = plane
        .cameras
        .iter()
        .zip(&described)
        .map(|(line, (layout, ..))| video::description(line.plan.video.as_ref(), layout, &line.plan.name))
        .collect();
    let cameras: Vec<_> = plane
        .cameras
        .iter()
        .zip(first_seq)
        .zip(opened.iter().zip(&described).zip(&videos))
        .map(|((line, &first_seq), ((opened, (layout, device, stamps)), video))| {
            let info = opened.as_ref().map(|opened| &opened.info);
            CameraHeader {
                name: &line.plan.name,
                layout: *layout,
                device,
                stamp_source: stamps,
                first_seq,
                asked: info.map_or_else(Asked::default, |info| info.asked),
                fps: info.map(|info| info.fps),
                controls: info.map_or(&[], |info| &info.controls),
                stamp_offset: opened.as_ref().and_then(|opened| opened.stamp_offset),
                video,
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
        path,
        &SessionHeader {
            session_id: &plan.session_id,
            name: &plan.session_name,
            recording: number,
            notes: &request.notes,
            recorded_by: &request.by,
            overridden: request.overridden.as_ref(),
            utc_start: plane.clock.utc(),
            clock_start: at,
            software: &plan.software,
            config_text: &plan.config_text,
            backend: plane.backend().as_ref().unwrap_or(&none),
            pose: plane.pose().map(|plan| &*plan.networks),
            cameras: &cameras,
            synchrony,
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
    let stamps = format!("{}, steps of {} ns", info.stamps.meaning(), info.stamp_resolution.as_nanos());
    (*layout, device, stamps)
}

impl Actor for RecorderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.plan.flush_interval, |recorder, ctx| {
            let now = recorder.plane.clock.now();
            let is_checkpoint = now >= recorder.checkpoint_at;
            if is_checkpoint {
                recorder.checkpoint_at = now + CHECKPOINT;
            }
            recorder.write(ctx, |file, plane, names| {
                fault::point("recorder:before-flush");
                if is_checkpoint {
                    checkpoint(file, plane, names)?;
                }
                let report = file.writer.flush(now)?;
                file.flushes.flushed(now, plane.clock.now());
                plane.note_flush(&report);
                Ok(())
            });
        });
        let rates: Vec<_> =
            self.plane.cameras.iter().map(|line| line.opened().map(|opened| opened.info.fps)).collect();
        self.timing = Timing::new(&rates);
        ctx.run_interval(CHECKPOINT, Self::report_quality);
        self.index = self.plane.cameras.iter().map(|line| line.index.stream()).collect();
        let videos = self.plane.camera_ids().zip(&self.plane.cameras);
        let videos = videos.filter_map(|(id, line)| Some((id, line.video.as_ref()?.rows.stream())));
        self.video = videos.collect();
        self.lifeline.started();
        ctx.spawn(IndexLoop);
    }
}

fn checkpoint(file: &mut OpenFile, plane: &DataPlane, names: &[String]) -> Result<(), SessionFileError> {
    let now = plane.clock.now();
    let OpenFile { writer, before, .. } = file;
    writer.append_clock(now, plane.clock.utc())?;
    let mut result = Ok(());
    for_ledger_rows(&plane.ledger.snapshot(), before, names, |camera, consumer, item, count| {
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

impl OpenFile {
    /// Whether a frame was captured in the file's time.
    fn covers(&self, camera: CameraId, seq: u64) -> bool {
        self.first_seq.get(usize::from(camera.0)).is_some_and(|&first| seq >= first)
    }

    /// Adds a frame to the index; one that was captured before the file began counts as settled before.
    fn append_frame(&mut self, meta: &FrameMeta) -> Result<(), SessionFileError> {
        if self.covers(meta.camera, meta.seq) {
            return self.writer.append_frame(meta);
        }
        if let Some(CameraSnapshot { consumers, .. }) =
            self.before.cameras.get_mut(usize::from(meta.camera.0))
        {
            consumers[Consumer::Index as usize].delivered += 1;
        }
        Ok(())
    }
}

impl RecorderActor {
    /// Takes one entry of any camera's index or video; false when there is none.
    fn take_index_entry(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> bool {
        for camera in 0..self.index.len() {
            if let Poll::Ready(Some(entry)) = Pin::new(&mut self.index[camera]).poll_next(task) {
                self.timing.frame(&entry.meta);
                if self.write(ctx, |file, _, _| file.append_frame(&entry.meta)) {
                    entry.ticket.delivered();
                } else {
                    entry.ticket.dropped(DropReason::Failed);
                }
                return true;
            }
        }
        self.take_video_row(ctx, task)
    }

    /// Takes one row of any camera's video; false when there is none.
    fn take_video_row(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> bool {
        for at in 0..self.video.len() {
            if let Poll::Ready(Some(row)) = Pin::new(&mut self.video[at].1).poll_next(task) {
                let camera = self.video[at].0;
                self.write(ctx, |file, _, _| file.writer.append_video(camera, row));
                return true;
            }
        }
        false
    }
}

impl Handler<FacesNamed> for RecorderActor {
    type Result = ();

    fn handle(&mut self, FacesNamed { faces, update }: FacesNamed, ctx: &mut Self::Context) {
        if self.file.as_ref().is_some_and(|file| file.covers(faces.meta.camera, faces.meta.seq)) {
            self.validity.frame(&faces, &update.participants);
        }
        for change in &update.changes {
            self.present.insert(change.participant, change.clone());
        }
        let called = Arc::clone(&self.called);
        self.write(ctx, |file, _, names| {
            fault::point("recorder:faces");
            for change in &update.changes {
                append_participant(&mut file.writer, change, &called, names)?;
            }
            if !file.covers(faces.meta.camera, faces.meta.seq) {
                return Ok(());
            }
            file.writer.append_faces(&faces, &update.participants)
        });
    }
}

impl RecorderActor {
    /// Takes a participant's new name from the event that says so. The row that follows, if they have been seen.
    fn rename(&mut self, event: &Event) -> Option<ParticipantChange> {
        if event.kind != EventKind::ParticipantRenamed {
            return None;
        }
        let of = |key: &str| event.detail[key].as_str();
        let id: ParticipantId = of("participant")?.parse().ok()?;
        Arc::make_mut(&mut self.called).insert(id, of("name")?.to_owned());
        let present = self.present.get(&id)?.clone();
        Some(ParticipantChange { at: event.at, why: "renamed", ..present })
    }
}

fn append_participant(
    writer: &mut SessionWriter,
    change: &ParticipantChange,
    called: &BTreeMap<ParticipantId, String>,
    names: &[String],
) -> Result<(), SessionFileError> {
    let id = change.participant.to_string();
    writer.append_participant(&Participant {
        time: change.at,
        id: change.participant,
        name: called.get(&change.participant).unwrap_or(&id),
        role: "",
        camera: camera_name(names, change.camera),
        track: change.track,
        why: change.why,
    })
}

fn camera_name(names: &[String], id: CameraId) -> &str {
    names.get(usize::from(id.0)).map_or("", String::as_str)
}

impl Handler<PoseFound> for RecorderActor {
    type Result = ();

    fn handle(&mut self, PoseFound(found): PoseFound, ctx: &mut Self::Context) {
        self.write(ctx, |file, _, _| {
            if !file.covers(found.meta.camera, found.meta.seq) {
                return Ok(());
            }
            file.writer.append_pose(&found)
        });
    }
}

impl Handler<SynchronyFound> for RecorderActor {
    type Result = ();

    fn handle(&mut self, SynchronyFound(window): SynchronyFound, ctx: &mut Self::Context) {
        self.write(ctx, |file, _, _| file.writer.append_synchrony(&window));
    }
}

impl Handler<Event> for RecorderActor {
    type Result = ();

    fn handle(&mut self, event: Event, ctx: &mut Self::Context) {
        let renamed = self.rename(&event);
        let called = Arc::clone(&self.called);
        self.write(ctx, |OpenFile { writer, .. }, _, names| {
            if let Some(change) = &renamed {
                append_participant(writer, change, &called, names)?;
            }
            let (source, kind, json) = (&event.source, event.kind.name(), event.detail.to_string());
            if event.kind == EventKind::Marker {
                writer.append_marker(event.at, source, kind, &json)?;
            }
            writer.append_event(event.at, source, kind, &json)
        });
    }
}

impl Handler<Markers> for RecorderActor {
    type Result = ();

    fn handle(&mut self, Markers(markers): Markers, ctx: &mut Self::Context) {
        self.write(ctx, |OpenFile { writer, .. }, _, _| {
            markers.iter().try_for_each(|marker| {
                writer.append_marker(
                    marker.at,
                    &marker.source,
                    marker.kind.name(),
                    &marker.detail.to_string(),
                )
            })
        });
    }
}

impl Handler<CameraGap> for RecorderActor {
    type Result = ();

    fn handle(&mut self, gap: CameraGap, ctx: &mut Self::Context) {
        match gap.end {
            None => self.open_gaps.insert(gap.camera, gap.clone()),
            Some(_) => self.open_gaps.remove(&gap.camera),
        };
        self.write(ctx, |file, _, names| append_gap(&mut file.writer, &gap, names));
    }
}

fn append_gap(writer: &mut SessionWriter, gap: &CameraGap, names: &[String]) -> Result<(), SessionFileError> {
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
}

impl Handler<BeginRecording> for RecorderActor {
    type Result = Result<RecordingStarted, String>;

    fn handle(&mut self, BeginRecording(request): BeginRecording, _: &mut Self::Context) -> Self::Result {
        self.begin(&request)
    }
}

impl Handler<EndRecording> for RecorderActor {
    type Result = Result<Option<Summary>, String>;

    fn handle(&mut self, _: EndRecording, ctx: &mut Self::Context) -> Self::Result {
        // All that wait now; cameras that run may always send another.
        let mut task = TaskContext::from_waker(std::task::Waker::noop());
        for _ in 0..self.index.len() * INDEX_CAPACITY {
            if !self.take_index_entry(ctx, &mut task) {
                break;
            }
        }
        // Video has ended: these are all.
        while self.take_video_row(ctx, &mut task) {}
        self.report_quality(ctx);
        self.write(ctx, |file, plane, _| file.writer.append_clock(plane.clock.now(), plane.clock.utc()));
        self.close()
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
    fn a_file_is_named_after_session_and_time_or_as_was_asked() {
        let plan = RecordingPlan {
            directory: "rec".into(),
            session_id: String::new(),
            session_name: "pilot".to_owned(),
            config_text: String::new(),
            software: String::new(),
            flush_interval: Duration::from_secs(1),
            options: SessionOptions::default(),
            on_failure: OnFailure::Stop,
            overridden: None,
        };
        let path = |name: Option<&str>| {
            let request = RecordingRequest { name: name.map(str::to_owned), ..RecordingRequest::default() };
            path_of(&plan, &request, UtcNanos(1_790_000_000_123_456_789))
        };
        assert_eq!(path(None).unwrap(), PathBuf::from("rec/pilot_20260921T141320.123Z.h5"));
        assert_eq!(path(Some("P01 baseline")).unwrap(), PathBuf::from("rec/P01 baseline.h5"));
        assert_eq!(path(Some("sub-01/ses-2/run.1")).unwrap(), PathBuf::from("rec/sub-01/ses-2/run.1.h5"));
        for bad in ["", "../x", "/etc/x", "a/../b", "a/", ".", "a\0b", "a\nb", &"x".repeat(201)] {
            let error = path(Some(bad)).unwrap_err();
            assert!(error.contains("relative to rec"), "{bad:?}: {error}");
        }
    }

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
