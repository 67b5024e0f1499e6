//! Session actor: the order in which a session starts, runs and ends.
//!
//! Owns the session's state (arming, running, stopping), its events and gaps, and the report at its end. Starts
//! cameras first, then pipelines, then the recorder; opens the barrier when all are at work; stops in the
//! order in which frames flow, so that everything captured is accounted for. Never touches a frame, and never
//! waits for a thread that hangs.

mod orders;
mod required;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use youquanti_models::{BackendInfo, CameraId, CameraName, Clock, ParticipantId, Timestamp};

use crate::camera::{BarrierOpened, CameraActor};
use crate::child::{Port, start_on_thread, tell};
use crate::control::{Board, CameraState, Control, Person, Phase};
use crate::discovery::Discovery;
use crate::fault;
use crate::flight::Stage;
use crate::ledger::{CameraSnapshot, Consumer, Imbalance, LedgerSnapshot};
use crate::live::{Listen, Live, wait_for};
use crate::lsl::{FinishRows, LslActor, LslPlan, MarkerSinks, Streams};
use crate::messages::{CameraGap, ChildId, Event, EventKind};
use crate::outputs::Outputs;
use crate::participants::{ParticipantsActor, Roster};
use crate::pipeline::{PipelineActor, PipelinePlan};
use crate::plane::{CameraPlan, DataPlane};
use crate::pose::{PoseActor, PosePlan};
use crate::preview::{PreviewActor, PreviewPlan};
use crate::recorder::{
    BeginRecording, EndRecording, RecorderActor, RecordingFailed, RecordingPlan, RecordingRequest,
    RecordingStarted,
};
use crate::session_file::Summary;
use crate::stats::{LatencySnapshot, StreamFigures};
use crate::supervision::{RestartPolicy, WatchPolicy, WhenExhausted, WhenHung};
use crate::supervisor::{
    Change, ChildChanged, ChildSpec, CountAbandoned, Factory, StartChild, StopChild, SupervisorActor,
};
use crate::synchrony::{SynchronyActor, SynchronyOptions};
use crate::verdict::{ReasonCode, Verdict};
use crate::video::{StopVideo, VideoActor};

pub use required::Required;
use required::Waiting;

/// How long a child may take to end before it is abandoned.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the recorder may take to write the last rows and close its file, on a slow disk.
const CLOSING_PATIENCE: Duration = Duration::from_secs(60);

/// A camera's thread never waits for anything but the driver: noticed within a second.
const WATCH_CAMERA: WatchPolicy = WatchPolicy {
    start_within: Duration::from_secs(20),
    silent_for: Duration::from_millis(900),
    when_hung: WhenHung::Suspend,
};

/// How often it is said that a pipeline is still being built: networks may be compiled for a device.
const BUILDING_NEWS: Duration = Duration::from_secs(5);

/// Disks may stand still for a while, and everything that is recorded waits for them.
const WATCH_OTHERS: WatchPolicy = WatchPolicy {
    start_within: Duration::from_secs(60),
    silent_for: Duration::from_secs(30),
    when_hung: WhenHung::Escalate,
};

/// What streams wait for is liblsl alone, and never for long.
const WATCH_STREAMS: WatchPolicy =
    WatchPolicy { silent_for: Duration::from_secs(5), when_hung: WhenHung::Suspend, ..WATCH_OTHERS };

/// A disk that stands still for long costs the video of its camera, and nothing else.
const WATCH_VIDEO: WatchPolicy = WatchPolicy { when_hung: WhenHung::Suspend, ..WATCH_OTHERS };

/// Longer than an encoder may stand still, so that it is the video that says so.
const VIDEO_PATIENCE: Duration = Duration::from_secs(15);

/// A session loses nothing else with its previews or with the poses of bodies.
const WATCH_PREVIEW: WatchPolicy = WatchPolicy { when_hung: WhenHung::Suspend, ..WATCH_OTHERS };

/// How often it is looked whether every camera has sent its first frame, and for how long.
const FIRST_FRAMES_LOOK: Duration = Duration::from_millis(20);
const FIRST_FRAMES_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked how long the disk will last, and what is too short.
const DISK_LOOK: Duration = Duration::from_secs(10);
const DISK_LOW_SECONDS: f64 = 600.0;

/// Events that wait for a subscriber; beyond that it misses them, and is told so in the log.
const SUBSCRIBER_CAPACITY: usize = 1024;

/// Traces written in one session; a camera that fails for ever must not fill the disk.
const MAX_TRACES: u32 = 20;

/// Time that the flight recorder covers.
const FLIGHT_SECONDS: usize = 60;

/// Frames a second that the flight recorder is sized for, each camera.
const FLIGHT_FPS: usize = 60;

/// Everything a session is made from.
#[derive(Clone)]
pub struct SessionPlan {
    /// What people call it; part of the names of its segments.
    pub name: String,
    /// Cameras, in the order of their ids.
    pub cameras: Vec<CameraPlan>,
    /// Pipeline workers; every camera belongs to exactly one.
    pub pipelines: Vec<PipelinePlan>,
    /// How many people take part, if that is known.
    pub expected_participants: Option<u16>,
    /// What is compared between participants; nothing without it.
    pub synchrony: Option<SynchronyOptions>,
    /// Names of P1, P2, …, as far as they are known.
    pub participant_names: Vec<String>,
    /// What is the same for all recordings.
    pub recording: RecordingPlan,
    /// The recording that the session starts with; without it, none until one is asked for.
    pub record_from_start: Option<RecordingRequest>,
    /// What must be there for a recording to begin.
    pub required: Required,
    /// What is streamed over LSL; nothing without it.
    pub lsl: Option<LslPlan>,
    /// How live pictures are made; none without it.
    pub preview: Option<PreviewPlan>,
    /// How bodies are sought; they are not without it.
    pub pose: Option<PosePlan>,
    /// Folder in which other programs find this session's shared memory; not announced without it.
    pub discovery_dir: Option<PathBuf>,
    /// How cameras and pipelines are restarted.
    pub restarts: RestartPolicy,
    /// How long a pipeline may work on a frame before its thread counts as hung.
    pub pipeline_timeout: Duration,
    /// Where rings are made: `/dev/shm`.
    pub ring_dir: PathBuf,
    /// Where traces of the last minute go after a failure; none are written without it.
    pub trace_dir: Option<PathBuf>,
    /// When the session ends by itself, counted from the barrier.
    pub duration: Option<Duration>,
}

/// Why a session did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Segments of an earlier run cannot be removed, or the folder for rings cannot be read.
    #[error("shared memory in {dir} cannot be prepared")]
    Rings {
        /// Where rings are made.
        dir: PathBuf,
        /// Why.
        source: youquanti_frames::RingError,
    },
    /// A camera cannot be opened.
    #[error("camera \"{camera}\" cannot be opened: {cause}")]
    Camera {
        /// Which.
        camera: CameraName,
        /// What it said.
        cause: String,
    },
    /// No pipeline could be built.
    #[error("pipeline {worker} cannot be built: {cause}")]
    Pipeline {
        /// Which worker.
        worker: u16,
        /// What it said.
        cause: String,
    },
    /// The session file cannot be made.
    #[error("recording cannot start: {cause}")]
    Recording {
        /// What the recorder said.
        cause: String,
    },
    /// What looks for bodies cannot be made.
    #[error("bodies cannot be sought: {cause}")]
    Pose {
        /// What it said.
        cause: String,
    },
    /// Streams cannot be made.
    #[error("streaming over LSL cannot start: {cause}")]
    Streams {
        /// What the LSL actor said.
        cause: String,
    },
    /// This program failed.
    #[error("the session cannot start: {cause}")]
    Internal {
        /// How.
        cause: String,
    },
}

/// Why a recording was not started or stopped. The session goes on as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// Recordings start and stop only while the session runs.
    #[error("the session is {state}: recordings start and stop while it runs")]
    NotRunning {
        /// What it does instead.
        state: &'static str,
    },
    /// One file at a time.
    #[error("{} is being recorded: stop that recording before you start another", path.display())]
    AlreadyRecording {
        /// The file.
        path: PathBuf,
    },
    /// What recordings require is not there.
    #[error("what a recording requires is missing: {}", missing.join(", "))]
    Missing {
        /// What, in words.
        missing: Vec<String>,
    },
    /// There is nothing to stop.
    #[error("nothing is being recorded: start a recording first")]
    NotRecording,
    /// Somebody else was first.
    #[error("a file is being {doing}: ask again when that is done")]
    Busy {
        /// `opened` or `closed`.
        doing: &'static str,
    },
    /// The file could not be made, or not written to its end.
    #[error("recording failed: {cause}")]
    Failed {
        /// What the recorder said.
        cause: String,
    },
    /// The session is over.
    #[error("the session has ended")]
    Ended,
}

/// What became of one file.
#[derive(Clone, Debug)]
pub struct RecordingReport {
    /// The file.
    pub path: PathBuf,
    /// What is in it, or why it does not hold all that it should.
    pub outcome: Result<Summary, String>,
}

/// How a session went.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// What people call it.
    pub name: String,
    /// Why it ended.
    pub stop_reason: String,
    /// What went wrong on the way, in words; empty when all was well.
    pub degraded: Vec<String>,
    /// The same for programs.
    pub verdict: Verdict,
    /// Threads that hang at the end; nothing of the session waits for them.
    pub abandoned_threads: usize,
    /// When the barrier was opened.
    pub started_at: Timestamp,
    /// When capturing ended.
    pub stopped_at: Timestamp,
    /// The back end that the session began with, which is also what its file says; `degraded` says when another took
    /// its place.
    pub backend: Option<BackendInfo>,
    /// In the order of the cameras' ids.
    pub cameras: Vec<CameraReport>,
    /// Places where the ledger does not add up: errors of this program.
    pub imbalances: Vec<Imbalance>,
    /// The files, in the order in which they were begun.
    pub recordings: Vec<RecordingReport>,
    /// What was sent and received over LSL, if anything was to be.
    pub lsl: Option<StreamFigures>,
    /// Traces that were written.
    pub traces: Vec<PathBuf>,
}

/// How one camera went.
#[derive(Clone, Debug)]
pub struct CameraReport {
    /// Its name.
    pub name: CameraName,
    /// What became of its frames.
    pub ledger: CameraSnapshot,
    /// Faces found in all its frames together.
    pub face_rows: u64,
    /// Capture to result.
    pub latency: LatencySnapshot,
    /// Times it was restarted.
    pub restarts: u32,
}

#[derive(Debug, Message)]
#[rtype(result = "Result<(), StartError>")]
struct Start;

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Stop {
    reason: String,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct StartRecording {
    request: RecordingRequest,
    answer: oneshot::Sender<Result<RecordingStarted, RecordingError>>,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct StopRecording(oneshot::Sender<Result<Summary, RecordingError>>);

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Mark {
    at: Timestamp,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Arming,
    Running,
    Stopping,
}

/// The session.
struct SessionActor {
    plan: SessionPlan,
    plane: Arc<DataPlane>,
    cast: Option<Arc<Cast>>,
    state: State,
    started_at: Timestamp,
    /// Why to stop as soon as the session is up: what has to end it came before that.
    stop_early: Option<String>,
    recording: Recording,
    recordings: Vec<RecordingReport>,
    open_gaps: BTreeMap<CameraId, CameraGap>,
    ended: BTreeSet<CameraId>,
    subscribers: Vec<SyncSender<Event>>,
    first_frames_said: bool,
    /// The newest recording whose disk was said to be low.
    disk_low_said: u32,
    /// The newest recording whose journal was said to have failed.
    journal_lost_said: u32,
    /// The back end that the session began with.
    backend: Option<BackendInfo>,
    /// What each pipeline worker works with, as far as was said.
    worker_backends: BTreeMap<usize, BackendInfo>,
    traces: Vec<PathBuf>,
    /// Cameras that come back from a pause.
    resumed: BTreeSet<CameraId>,
    /// A recording that begins later.
    scheduled: Option<SpawnHandle>,
    board: Board,
    live: Live,
    report: SyncSender<SessionReport>,
}

/// Where the session is with its files.
enum Recording {
    Off,
    Opening,
    On(PathBuf),
    Closing,
}

/// Whom the session directs.
struct Cast {
    supervisor: Addr<SupervisorActor>,
    cameras: Vec<Port<CameraActor>>,
    videos: Vec<Port<VideoActor>>,
    participants: Port<ParticipantsActor>,
    outputs: Outputs,
    streams: Streams,
}

impl Cast {
    /// A supervisor and empty ports for a session that is about to start.
    fn new(plane: &Arc<DataPlane>, listener: Recipient<ChildChanged>, live: Live) -> Self {
        Self {
            supervisor: SupervisorActor::new(Arc::clone(&plane.clock), listener).start(),
            cameras: plane.cameras.iter().map(|_| Port::new()).collect(),
            videos: plane.cameras.iter().map(|_| Port::new()).collect(),
            participants: Port::new(),
            outputs: Outputs {
                live,
                stream_counts: Arc::clone(&plane.stream_counts),
                plane: Some(Arc::clone(plane)),
                ..Outputs::default()
            },
            streams: Streams::default(),
        }
    }

    fn camera_spec(&self, plan: &SessionPlan, plane: &Arc<DataPlane>, id: CameraId) -> ChildSpec {
        let (plane, port) = (Arc::clone(plane), self.cameras[usize::from(id.0)].clone());
        let thread = format!("yq-cam-{}", plane.camera(id).plan.name);
        let factory: Factory = Box::new(move |lifeline| {
            let plane = Arc::clone(&plane);
            let make = move |lifeline| CameraActor::new(id, plane, lifeline);
            port.born(start_on_thread(&thread, lifeline, make))
        });
        let may_be_missing = plan.recording.overridden.is_some();
        ChildSpec {
            id: ChildId::Camera(id),
            policy: plan.restarts,
            watch: WATCH_CAMERA,
            may_be_missing,
            factory,
        }
    }

    fn pipeline_spec(&self, plan: &SessionPlan, plane: &Arc<DataPlane>, worker: u16) -> ChildSpec {
        let (plane, participants) = (Arc::clone(plane), self.participants.clone());
        let pipeline = plan.pipelines[usize::from(worker)].clone();
        let factory: Factory = Box::new(move |lifeline| {
            let (plane, participants, pipeline) =
                (Arc::clone(&plane), participants.clone(), pipeline.clone());
            let make = move |lifeline| PipelineActor::new(pipeline, plane, participants, lifeline);
            start_on_thread(&format!("yq-pipeline-{worker}"), lifeline, make).map(|(life, _)| life)
        });
        // Its thread is silent while it works on a frame.
        let watch = WatchPolicy {
            start_within: plan.pipelines[usize::from(worker)].built_within,
            silent_for: plan.pipeline_timeout,
            when_hung: WhenHung::Escalate,
        };
        ChildSpec {
            id: ChildId::Pipeline(worker),
            policy: plan.restarts,
            watch,
            may_be_missing: false,
            factory,
        }
    }

    fn participants_spec(&self, plan: &SessionPlan, cameras: usize, events: Recipient<Event>) -> ChildSpec {
        let (port, outputs) = (self.participants.clone(), self.outputs.clone());
        let roster = Arc::new(Mutex::new(Roster::new(plan.expected_participants, cameras)));
        let factory: Factory = Box::new(move |lifeline| {
            let (roster, outputs, events) = (Arc::clone(&roster), outputs.clone(), events.clone());
            let make = move |lifeline| ParticipantsActor::new(roster, cameras, outputs, events, lifeline);
            port.born(start_on_thread("yq-participants", lifeline, make))
        });
        ChildSpec {
            id: ChildId::Participants,
            policy: plan.restarts,
            watch: WATCH_OTHERS,
            may_be_missing: false,
            factory,
        }
    }

    fn synchrony_spec(
        &self,
        plan: &SessionPlan,
        options: &SynchronyOptions,
        events: Recipient<Event>,
    ) -> ChildSpec {
        let (port, outputs, options) =
            (self.outputs.synchrony.clone(), self.outputs.clone(), options.clone());
        let lossless = plan.cameras.iter().all(|camera| camera.lossless);
        let factory: Factory = Box::new(move |lifeline| {
            let (options, outputs, events) = (options.clone(), outputs.clone(), events.clone());
            let make = move |lifeline| SynchronyActor::new(options, lossless, outputs, events, lifeline);
            port.born(start_on_thread("yq-synchrony", lifeline, make))
        });
        // A session goes on without it.
        let watch = WatchPolicy { when_hung: WhenHung::Suspend, ..WATCH_OTHERS };
        ChildSpec { id: ChildId::Synchrony, policy: plan.restarts, watch, may_be_missing: false, factory }
    }

    fn video_spec(
        &self,
        plan: &SessionPlan,
        plane: &Arc<DataPlane>,
        id: CameraId,
        events: Recipient<Event>,
    ) -> ChildSpec {
        let (plane, port) = (Arc::clone(plane), self.videos[usize::from(id.0)].clone());
        let thread = format!("yq-video-{}", plane.camera(id).plan.name);
        let flush_interval = plan.recording.flush_interval;
        let factory: Factory = Box::new(move |lifeline| {
            let (plane, events) = (Arc::clone(&plane), events.clone());
            let make = move |lifeline| VideoActor::new(id, plane, flush_interval, events, lifeline);
            port.born(start_on_thread(&thread, lifeline, make))
        });
        ChildSpec {
            id: ChildId::Video(id),
            policy: plan.restarts,
            watch: WATCH_VIDEO,
            may_be_missing: false,
            factory,
        }
    }

    /// Finishes the videos of the recording that ends.
    async fn stop_video(&self, plane: &DataPlane) {
        plane.end_video();
        let stopping: Vec<_> = videos(plane)
            .filter_map(|id| Some((id, self.videos[usize::from(id.0)].get()?.send(StopVideo))))
            .collect();
        for (id, stopped) in stopping {
            if actix_rt::time::timeout(VIDEO_PATIENCE, stopped).await.is_err() {
                let text = format!(
                    "{} did not end within {VIDEO_PATIENCE:?}",
                    child_name(plane, ChildId::Video(id))
                );
                plane.findings.add(ReasonCode::StopFailed, plane.clock.now(), text);
            }
        }
    }

    fn recorder_spec(
        &self,
        plan: &SessionPlan,
        plane: &Arc<DataPlane>,
        failures: Recipient<RecordingFailed>,
    ) -> ChildSpec {
        let (plane, port) = (Arc::clone(plane), self.outputs.recorder.clone());
        let (recording, synchrony) = (Arc::new(plan.recording.clone()), plan.synchrony.clone());
        let names: Arc<[String]> = plan.participant_names.clone().into();
        let factory: Factory = Box::new(move |lifeline| {
            let (plane, recording) = (Arc::clone(&plane), Arc::clone(&recording));
            let (names, failures, synchrony) = (Arc::clone(&names), failures.clone(), synchrony.clone());
            let make =
                move |lifeline| RecorderActor::new(plane, recording, &names, failures, synchrony, lifeline);
            port.born(start_on_thread("yq-recorder", lifeline, make))
        });
        // A recorder is never restarted: its file cannot be continued by another.
        let policy =
            RestartPolicy { max_restarts: 0, when_exhausted: WhenExhausted::Escalate, ..plan.restarts };
        ChildSpec { id: ChildId::Recorder, policy, watch: WATCH_OTHERS, may_be_missing: false, factory }
    }

    fn lsl_spec(
        &self,
        plan: &SessionPlan,
        lsl: &LslPlan,
        plane: &Arc<DataPlane>,
        events: Recipient<Event>,
    ) -> ChildSpec {
        let (session, lsl) = (Arc::new(plan.clone()), Arc::new(lsl.clone()));
        let (plane, port) = (Arc::clone(plane), self.outputs.lsl.clone());
        let (streams, sinks) =
            (self.streams.clone(), MarkerSinks { recorder: self.outputs.recorder.clone(), events });
        let factory: Factory = Box::new(move |lifeline| {
            let (session, lsl, plane) = (Arc::clone(&session), Arc::clone(&lsl), Arc::clone(&plane));
            let (streams, sinks) = (streams.clone(), sinks.clone());
            let make = move |lifeline| LslActor::new(session, lsl, plane, streams, sinks, lifeline);
            port.born(start_on_thread("yq-lsl", lifeline, make))
        });
        ChildSpec {
            id: ChildId::Lsl,
            policy: plan.restarts,
            watch: WATCH_STREAMS,
            may_be_missing: false,
            factory,
        }
    }

    fn preview_spec(plan: &SessionPlan, plane: &Arc<DataPlane>, preview: &PreviewPlan) -> ChildSpec {
        let (plane, preview) = (Arc::clone(plane), preview.clone());
        let factory: Factory = Box::new(move |lifeline| {
            let (plane, preview) = (Arc::clone(&plane), preview.clone());
            let make = move |lifeline| PreviewActor::new(plane, preview, lifeline);
            start_on_thread("yq-preview", lifeline, make).map(|(life, _)| life)
        });
        ChildSpec {
            id: ChildId::Preview,
            policy: plan.restarts,
            watch: WATCH_PREVIEW,
            may_be_missing: false,
            factory,
        }
    }

    fn pose_spec(&self, plan: &SessionPlan, plane: &Arc<DataPlane>, pose: &PosePlan) -> ChildSpec {
        let (plane, pose, outputs) = (Arc::clone(plane), pose.clone(), self.outputs.clone());
        let factory: Factory = Box::new(move |lifeline| {
            let (plane, pose, outputs) = (Arc::clone(&plane), pose.clone(), outputs.clone());
            let make = move |lifeline| PoseActor::new(plane, pose, outputs, lifeline);
            start_on_thread("yq-pose", lifeline, make).map(|(life, _)| life)
        });
        ChildSpec {
            id: ChildId::Pose,
            policy: plan.restarts,
            watch: WATCH_PREVIEW,
            may_be_missing: false,
            factory,
        }
    }

    async fn start_child(&self, spec: ChildSpec) -> Result<(), String> {
        self.supervisor.send(StartChild(spec)).await.unwrap_or_else(|gone| Err(gone.to_string()))
    }

    /// Starts everything and opens the barrier; when that was, and the recording that began with it.
    async fn start(
        &self,
        plan: &SessionPlan,
        plane: &Arc<DataPlane>,
        session: Addr<SessionActor>,
    ) -> Result<(Timestamp, Option<RecordingStarted>), StartError> {
        // Asked for all at once, waited for one by one: cameras take their time in parallel.
        let opening: Vec<_> = plane
            .camera_ids()
            .map(|id| (id, self.supervisor.send(StartChild(self.camera_spec(plan, plane, id)))))
            .collect();
        for (id, opened) in opening {
            let outcome = opened.await.unwrap_or_else(|gone| Err(gone.to_string()));
            let camera = plane.camera(id).plan.name.clone();
            match outcome {
                Err(cause) if plan.recording.overridden.is_some() => {
                    warn!(%camera, cause, "missing; the session begins without it, and goes on trying");
                }
                other => other.map_err(|cause| StartError::Camera { camera, cause })?,
            }
        }
        let workers = (0..plan.pipelines.len()).map(|worker| u16::try_from(worker).unwrap_or(u16::MAX));
        let building: Vec<_> = workers
            .map(|worker| (worker, self.supervisor.send(StartChild(self.pipeline_spec(plan, plane, worker)))))
            .collect();
        let begun_at = plane.clock.now();
        for (worker, built) in building {
            let built = awaited(built, || {
                let (what, so_far) = (
                    &plan.pipelines[usize::from(worker)].what,
                    plane.clock.now().saturating_since(begun_at).as_secs(),
                );
                info!("pipeline {worker} is being built, {so_far} s so far: {what}");
            });
            let outcome = built.await.unwrap_or_else(|gone| Err(gone.to_string()));
            outcome.map_err(|cause| StartError::Pipeline { worker, cause })?;
        }
        let failed = |cause| StartError::Recording { cause };
        self.start_child(self.recorder_spec(plan, plane, session.clone().recipient()))
            .await
            .map_err(failed)?;
        for id in videos(plane) {
            self.start_child(self.video_spec(plan, plane, id, session.clone().recipient()))
                .await
                .map_err(|cause| StartError::Internal { cause })?;
        }
        let mut recording = None;
        if let Some(request) = plan.recording_at_start() {
            recording = Some(self.begin_recording(request).await.map_err(failed)?);
        }
        if let Some(lsl) = &plan.lsl {
            self.start_child(self.lsl_spec(plan, lsl, plane, session.clone().recipient()))
                .await
                .map_err(|cause| StartError::Streams { cause })?;
        }
        if let Some(options) = &plan.synchrony {
            self.start_child(self.synchrony_spec(plan, options, session.clone().recipient()))
                .await
                .map_err(|cause| StartError::Internal { cause })?;
        }
        self.start_child(self.participants_spec(plan, plane.cameras.len(), session.recipient()))
            .await
            .map_err(|cause| StartError::Internal { cause })?;
        if let Some(preview) = &plan.preview {
            self.start_child(Self::preview_spec(plan, plane, preview))
                .await
                .map_err(|cause| StartError::Internal { cause })?;
        }
        if let Some(pose) = &plan.pose {
            self.start_child(self.pose_spec(plan, plane, pose))
                .await
                .map_err(|cause| StartError::Pose { cause })?;
        }
        let started_at = plane.open_barrier();
        for camera in self.cameras.iter().filter_map(Port::get) {
            // A camera that has just crashed finds the barrier open in its next life.
            camera.send(BarrierOpened).await.ok();
        }
        Ok((started_at, recording))
    }

    async fn begin_recording(&self, request: RecordingRequest) -> Result<RecordingStarted, String> {
        let Some(recorder) = self.outputs.recorder.get() else {
            return Err("the recorder is gone".to_owned());
        };
        recorder.send(BeginRecording(request)).await.unwrap_or_else(|gone| Err(gone.to_string()))
    }

    /// Has video finished and the file closed; nothing without one.
    async fn end_recording(&self, plane: &DataPlane) -> Result<Option<Summary>, String> {
        self.stop_video(plane).await;
        let Some(recorder) = self.outputs.recorder.get() else { return Ok(None) };
        match actix_rt::time::timeout(CLOSING_PATIENCE, recorder.send(EndRecording)).await {
            Ok(closed) => closed.unwrap_or(Ok(None)),
            Err(_) => Err(format!(
                "the file was not closed within {CLOSING_PATIENCE:?}; what was committed is safe"
            )),
        }
    }

    /// Stops everything but the recorder and the streams of events, in the order in which frames flow. Returns what went wrong.
    async fn stop(&self, plan: &SessionPlan, plane: &DataPlane) -> Vec<String> {
        let cameras = plane.camera_ids().map(ChildId::Camera).collect();
        let pipelines = (0..plan.pipelines.len())
            .map(|worker| ChildId::Pipeline(u16::try_from(worker).unwrap_or(u16::MAX)))
            .collect();
        let mut troubles = Vec::new();
        let synchrony = plan.synchrony.iter().map(|_| ChildId::Synchrony).collect();
        let pose = plan.pose.iter().map(|_| ChildId::Pose).collect();
        let participants = vec![ChildId::Participants];
        for children in [cameras, pipelines, pose, participants, synchrony, vec![ChildId::Preview]] {
            let children: Vec<ChildId> = children;
            let patience = |id| match id {
                ChildId::Pipeline(_) => PATIENCE.max(plan.pipeline_timeout),
                _ => PATIENCE,
            };
            let stopping: Vec<_> =
                children.into_iter().map(|id| (id, self.stop_child(id, patience(id)))).collect();
            for (id, stopped) in stopping {
                if let Err(trouble) = stopped.await.unwrap_or_else(|gone| Err(gone.to_string())) {
                    troubles.push(format!("{} {trouble}", child_name(plane, id)));
                }
            }
        }
        if let Err(trouble) = self.finish_rows().await {
            troubles.push(format!("{} {trouble}", ChildId::Lsl));
        }
        self.stop_video(plane).await;
        for id in videos(plane).map(ChildId::Video) {
            if let Err(trouble) =
                self.stop_child(id, PATIENCE).await.unwrap_or_else(|gone| Err(gone.to_string()))
            {
                troubles.push(format!("{} {trouble}", child_name(plane, id)));
            }
        }
        plane.settle_frames();
        plane.settle_video();
        plane.settle_streams();
        if self.abandoned().await > 0 {
            plane.ledger.give_up(Consumer::Pipeline);
            plane.ledger.give_up(Consumer::Video);
            plane.ledger.give_up(Consumer::Preview);
            plane.ledger.give_up(Consumer::Pose);
            plane.ledger.give_up(Consumer::Streams);
            plane.ledger.give_up(Consumer::StreamResults);
        }
        troubles
    }

    /// Has the streams' rows sent to the last; an actor that does not answer is ended at once.
    async fn finish_rows(&self) -> Result<(), String> {
        let Some(lsl) = self.outputs.lsl.get() else { return Ok(()) };
        match actix_rt::time::timeout(PATIENCE, lsl.send(FinishRows)).await {
            // A closed mailbox is that of an actor that has failed, which was said then.
            Ok(_) => Ok(()),
            Err(_) => self.end_streams().await,
        }
    }

    /// Ends the streams: receivers see them go.
    async fn end_streams(&self) -> Result<(), String> {
        let ended =
            self.stop_child(ChildId::Lsl, PATIENCE).await.unwrap_or_else(|gone| Err(gone.to_string()));
        // Each takes its time to go.
        let streams = self.streams.clone();
        let closing = actix_rt::task::spawn_blocking(move || streams.close());
        actix_rt::time::timeout(PATIENCE, closing).await.ok();
        ended
    }

    /// Threads that hang and were left behind.
    async fn abandoned(&self) -> usize {
        self.supervisor.send(CountAbandoned).await.unwrap_or(0)
    }

    fn stop_child(&self, id: ChildId, patience: Duration) -> Request<SupervisorActor, StopChild> {
        self.supervisor.send(StopChild { id, patience })
    }

    /// Ends what is left once the file is closed and that is said, and leaves nothing in shared memory. Returns what went wrong.
    async fn finish(&self, plane: &DataPlane) -> Result<(), String> {
        let streamed = self.end_streams().await;
        // It has done its work; what it says after that changes nothing.
        self.stop_child(ChildId::Recorder, PATIENCE).await.ok();
        plane.settle_index();
        plane.retire_rings();
        if self.abandoned().await > 0 {
            plane.ledger.give_up(Consumer::Index);
        }
        streamed.map_err(|trouble| format!("{} {trouble}", ChildId::Lsl))
    }
}

/// Waits for an answer; `news` is called every [`BUILDING_NEWS`] meanwhile.
async fn awaited<F: Future>(answer: F, mut news: impl FnMut()) -> F::Output {
    let mut answer = std::pin::pin!(answer);
    loop {
        match actix_rt::time::timeout(BUILDING_NEWS, answer.as_mut()).await {
            Ok(answer) => return answer,
            Err(_) => news(),
        }
    }
}

/// Cameras that have video.
fn videos(plane: &DataPlane) -> impl Iterator<Item = CameraId> {
    plane.camera_ids().filter(|&id| plane.camera(id).video.is_some())
}

/// A child as people call it.
fn child_name(plane: &DataPlane, id: ChildId) -> String {
    match id {
        ChildId::Camera(camera) => format!("camera {}", plane.camera(camera).plan.name),
        ChildId::Video(camera) => format!("video {}", plane.camera(camera).plan.name),
        other => other.to_string(),
    }
}

/// What kind of failure that of a child is.
fn code_of(id: ChildId) -> ReasonCode {
    if matches!(id, ChildId::Camera(_)) { ReasonCode::CameraFailed } else { ReasonCode::PartFailed }
}

/// A back end as an event tells it, with what the file's header says of the one that the session began with.
fn backend_facts(info: &BackendInfo) -> serde_json::Value {
    let BackendInfo { backend, device, runtime, models, reason } = info;
    let models: BTreeMap<_, _> = models.iter().cloned().collect();
    json!({ "backend": backend, "device": device, "runtime": runtime, "models": models, "reason": reason })
}

impl SessionActor {
    fn new(
        plan: SessionPlan,
        plane: Arc<DataPlane>,
        board: Board,
        live: Live,
        report: SyncSender<SessionReport>,
    ) -> Self {
        Self {
            plan,
            plane,
            cast: None,
            state: State::Arming,
            started_at: Timestamp::default(),
            stop_early: None,
            recording: Recording::Off,
            recordings: Vec::new(),
            open_gaps: BTreeMap::new(),
            ended: BTreeSet::new(),
            subscribers: Vec::new(),
            first_frames_said: false,
            disk_low_said: 0,
            journal_lost_said: 0,
            backend: None,
            worker_backends: BTreeMap::new(),
            traces: Vec::new(),
            resumed: BTreeSet::new(),
            scheduled: None,
            board,
            live,
            report,
        }
    }

    fn emit(&mut self, ctx: &mut Context<Self>, source: &str, kind: EventKind, detail: serde_json::Value) {
        let event = Event { at: self.plane.clock.now(), source: source.to_owned(), kind, detail };
        self.publish(ctx, event);
    }

    fn publish(&mut self, ctx: &mut Context<Self>, event: Event) {
        let (session, camera) = (&self.plan.name, event.source.strip_prefix("camera "));
        info!(session, camera, source = event.source, detail = %event.detail, "{}", event.kind.name());
        self.live.event(&event);
        if event.kind == EventKind::Participant {
            self.note_participant(&event);
        }
        self.subscribers.retain(|subscriber| match subscriber.try_send(event.clone()) {
            Ok(()) => true,
            // Nobody waits for a subscriber: what does not fit is in the file and in the log.
            Err(TrySendError::Full(missed)) => {
                warn!(kind = missed.kind.name(), "a subscriber takes no events and misses this one");
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
        for output in self.cast.iter().flat_map(|cast| cast.outputs.of_events()) {
            tell::<Self, _>(ctx, &output, event.clone());
        }
        if let Some(cast) = &self.cast {
            cast.outputs.try_event(&event);
        }
    }

    fn mark(&mut self, ctx: &mut Context<Self>, at: Timestamp, text: String) {
        let (source, detail) = ("operator".to_owned(), json!({ "text": text }));
        self.publish(ctx, Event { at, source, kind: EventKind::Marker, detail });
    }

    /// Something went wrong that the session goes on with, or ends of.
    fn degrade(&self, code: ReasonCode, text: String) {
        self.plane.findings.add(code, self.plane.clock.now(), text);
    }

    fn start_recording(
        &mut self,
        ctx: &mut Context<Self>,
        StartRecording { request, answer }: StartRecording,
    ) {
        let refusal = match (self.state, &self.recording) {
            (State::Arming, _) => Some(RecordingError::NotRunning { state: "starting" }),
            (State::Stopping, _) => Some(RecordingError::NotRunning { state: "stopping" }),
            (State::Running, Recording::Off) => None,
            (State::Running, Recording::Opening) => Some(RecordingError::Busy { doing: "opened" }),
            (State::Running, Recording::Closing) => Some(RecordingError::Busy { doing: "closed" }),
            (State::Running, Recording::On(path)) => {
                Some(RecordingError::AlreadyRecording { path: path.clone() })
            }
        };
        let admitted = refusal.map_or_else(|| self.admit(request), Err);
        let cast = self.cast.clone().ok_or(RecordingError::Ended);
        let (cast, request) = match cast.and_then(|cast| Ok((cast, admitted?))) {
            Ok(both) => both,
            Err(refusal) => {
                // Whoever asked may have lost patience; so too below.
                answer.send(Err(refusal)).ok();
                return;
            }
        };
        self.recording = Recording::Opening;
        let asked = request.clone();
        let beginning = async move { cast.begin_recording(asked).await };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(beginning).map(move |begun, session, ctx| {
            match &begun {
                Ok(started) => session.recording_started(ctx, started, &request),
                // The session may be closing its files meanwhile.
                Err(_) if matches!(session.recording, Recording::Opening) => {
                    session.recording = Recording::Off
                }
                Err(_) => {}
            }
            answer.send(begun.map_err(|cause| RecordingError::Failed { cause })).ok();
        }));
    }

    fn recording_started(
        &mut self,
        ctx: &mut Context<Self>,
        RecordingStarted { path, number, .. }: &RecordingStarted,
        RecordingRequest { notes, by, overridden, .. }: &RecordingRequest,
    ) {
        // What was decided for the whole session was said at its start.
        if let (Some(overridden), None) = (overridden, &self.plan.recording.overridden) {
            self.degrade(ReasonCode::Overridden, overridden.to_string());
            self.emit(ctx, "session", EventKind::Overridden, json!(overridden));
        }
        if matches!(self.recording, Recording::Opening | Recording::Off) {
            self.recording = Recording::On(path.clone());
        }
        let detail = json!({ "path": path, "number": number, "by": by, "notes": notes });
        self.emit(ctx, "session", EventKind::RecordingStarted, detail);
    }

    fn stop_recording(&mut self, ctx: &mut Context<Self>, StopRecording(answer): StopRecording) {
        let refusal = match (self.state, &self.recording) {
            (State::Arming, _) => RecordingError::NotRunning { state: "starting" },
            (State::Stopping, _) => RecordingError::NotRunning { state: "stopping" },
            (State::Running, Recording::Off) => RecordingError::NotRecording,
            (State::Running, Recording::Opening) => RecordingError::Busy { doing: "opened" },
            (State::Running, Recording::Closing) => RecordingError::Busy { doing: "closed" },
            (State::Running, Recording::On(path)) => {
                let Some(cast) = self.cast.clone() else { return };
                let path = path.clone();
                self.recording = Recording::Closing;
                let plane = Arc::clone(&self.plane);
                let ending = async move { cast.end_recording(&plane).await };
                ctx.spawn(actix::fut::wrap_future::<_, Self>(ending).map(move |closed, session, ctx| {
                    session.recording = Recording::On(path);
                    let outcome = session.recording_closed(ctx, closed);
                    let lost = || RecordingError::Failed { cause: "the file had failed before".to_owned() };
                    let outcome = outcome.ok_or_else(lost);
                    answer
                        .send(outcome.and_then(|o| o.map_err(|cause| RecordingError::Failed { cause })))
                        .ok();
                }));
                return;
            }
        };
        answer.send(Err(refusal)).ok();
    }

    /// Notes what became of the file that was being written, if it has not been noted before, and says so.
    fn recording_closed(
        &mut self,
        ctx: &mut Context<Self>,
        closed: Result<Option<Summary>, String>,
    ) -> Option<Result<Summary, String>> {
        let was = std::mem::replace(&mut self.recording, Recording::Off);
        let outcome = closed.transpose()?;
        let path = match (&outcome, was) {
            (Ok(summary), _) => summary.path.clone(),
            (Err(_), Recording::On(path)) => path,
            (Err(_), _) => self.plane.newest_file().unwrap_or_default(),
        };
        match &outcome {
            Ok(summary) => {
                let summary = json!({
                    "path": path, "bytes": summary.file_bytes, "complete": summary.complete,
                    "frames": summary.frames, "faces": summary.faces,
                });
                self.emit(ctx, "session", EventKind::RecordingStopped, summary);
                self.recordings.push(RecordingReport { path, outcome: outcome.clone() });
            }
            Err(cause) => self.recording_failed(ctx, path, cause),
        }
        Some(outcome)
    }

    /// A file does not hold all that it should.
    fn recording_failed(&mut self, ctx: &mut Context<Self>, path: PathBuf, cause: &str) {
        error!(path = %path.display(), cause, "the recording failed");
        self.degrade(ReasonCode::RecordingFailed, format!("recording: {cause}"));
        self.emit(ctx, "session", EventKind::RecordingFailed, json!({ "path": path, "cause": cause }));
        self.recordings.push(RecordingReport { path, outcome: Err(cause.to_owned()) });
        if let Some(cast) = self.cast.clone().filter(|_| self.state == State::Running) {
            let plane = Arc::clone(&self.plane);
            ctx.spawn(actix::fut::wrap_future(async move { cast.stop_video(&plane).await }));
        }
    }

    fn begin_stop(&mut self, ctx: &mut Context<Self>, reason: &str) {
        match self.state {
            State::Arming => {
                self.stop_early.get_or_insert_with(|| reason.to_owned());
                return;
            }
            State::Running => self.state = State::Stopping,
            State::Stopping => return,
        }
        self.show_phase();
        self.look_for_first_frames(ctx);
        self.emit(ctx, "session", EventKind::SessionStopping, json!({ "reason": reason }));
        let Some(cast) = self.cast.clone() else { return };
        let (plan, plane) = (self.plan.clone(), Arc::clone(&self.plane));
        let stopped_at = plane.clock.now();
        while let Some((&camera, _)) = self.open_gaps.first_key_value() {
            self.close_gap(ctx, camera, stopped_at);
        }
        let reason = reason.to_owned();
        let stopping = {
            let (cast, plan, plane) = (Arc::clone(&cast), plan.clone(), Arc::clone(&plane));
            async move { cast.stop(&plan, &plane).await }
        };
        let closing = {
            let (cast, plane) = (Arc::clone(&cast), Arc::clone(&plane));
            async move { cast.end_recording(&plane).await }
        };
        let finishing = async move { (cast.finish(&plane).await, cast.abandoned().await) };
        let stopping = actix::fut::wrap_future::<_, Self>(stopping);
        let closed = stopping.then(move |troubles, session, _| {
            troubles.into_iter().for_each(|trouble| session.degrade(ReasonCode::StopFailed, trouble));
            actix::fut::wrap_future(closing)
        });
        let finished = closed.then(move |closed, session, ctx| {
            // The last event that is streamed.
            session.recording_closed(ctx, closed);
            actix::fut::wrap_future(finishing)
        });
        ctx.spawn(finished.map(move |(finished, abandoned_threads), session, ctx| {
            if let Err(trouble) = finished {
                session.degrade(ReasonCode::StopFailed, trouble);
            }
            let snapshot = session.plane.ledger.snapshot();
            let imbalances = snapshot.imbalances();
            for imbalance in &imbalances {
                error!(%imbalance, "the ledger does not close");
                session.degrade(ReasonCode::LedgerImbalance, imbalance.to_string());
            }
            let verdict = session.plane.findings.of_session();
            let report = SessionReport {
                name: session.plan.name.clone(),
                stop_reason: reason,
                degraded: verdict.texts(),
                verdict,
                abandoned_threads,
                started_at: session.started_at,
                stopped_at,
                backend: session.backend.take(),
                cameras: camera_reports(&session.plane, &snapshot),
                imbalances,
                recordings: std::mem::take(&mut session.recordings),
                lsl: session.plan.lsl.as_ref().map(|_| session.plane.stream_counts.figures(&snapshot)),
                traces: std::mem::take(&mut session.traces),
            };
            // Whoever started the session may not want the report.
            session.report.try_send(report).ok();
            ctx.stop();
        }));
    }

    /// Says once for each file that its disk will soon be full, and that its journal failed.
    fn look_at_disk(&mut self, ctx: &mut Context<Self>) {
        let Some(file) = self.plane.recording() else { return };
        if let Some(cause) = &file.journal_lost
            && self.journal_lost_said != file.number
        {
            self.journal_lost_said = file.number;
            warn!(path = %file.path.display(), cause, "a loss of power may cost tables: the file's journal failed");
            self.emit(ctx, "session", EventKind::JournalLost, json!({ "path": file.path, "cause": cause }));
        }
        let lasted = self.plane.clock.now().saturating_since(file.started_at);
        let room = file.free_bytes.saturating_sub(self.plan.recording.options.reserve_bytes);
        // Before the first flush nothing is known.
        if file.rows == 0 || lasted < DISK_LOOK || self.disk_low_said == file.number {
            return;
        }
        let seconds_left = room as f64 / (file.file_bytes as f64 / lasted.as_secs_f64());
        if seconds_left < DISK_LOW_SECONDS {
            self.disk_low_said = file.number;
            warn!(path = %file.path.display(), seconds_left, "the disk will soon be full: free some space");
            let detail = json!({
                "path": file.path, "free_bytes": file.free_bytes, "seconds_left": seconds_left.round(),
            });
            self.emit(ctx, "session", EventKind::DiskLow, detail);
        }
    }

    /// Notes that a camera is away from its last good frame on, and has that written.
    fn open_gap(&mut self, ctx: &mut Context<Self>, camera: CameraId, noticed_at: Timestamp, cause: &str) {
        if self.open_gaps.contains_key(&camera) {
            return;
        }
        let line = self.plane.camera(camera);
        let last_good = Timestamp(line.last_good_at.load(Ordering::Relaxed));
        // Without a frame, from the session's start; before that, from now.
        let known = [last_good, self.started_at];
        let gap = CameraGap {
            camera,
            last_good: known.into_iter().find(|&known| known != Timestamp::default()).unwrap_or(noticed_at),
            noticed_at,
            first_missing: line.next_seq.load(Ordering::Relaxed),
            end: None,
            missed: None,
            cause: cause.to_owned(),
        };
        let detail = json!({
            "cause": gap.cause,
            "last_good_ns": gap.last_good.0,
            "first_missing_seq": gap.first_missing,
        });
        let name = child_name(&self.plane, ChildId::Camera(camera));
        self.record_gap(ctx, gap.clone());
        self.open_gaps.insert(camera, gap);
        self.show_camera(camera, CameraState::Away);
        self.publish(ctx, Event { at: noticed_at, source: name, kind: EventKind::GapOpened, detail });
    }

    /// Has the end of a camera's gap written, if it has one.
    fn close_gap(&mut self, ctx: &mut Context<Self>, camera: CameraId, end: Timestamp) {
        let Some(mut gap) = self.open_gaps.remove(&camera) else { return };
        let fps = self.plane.camera(camera).opened().map_or(0.0, |opened| opened.info.fps);
        let away = end.saturating_since(gap.last_good);
        let missed = ((away.as_secs_f64() * fps).round() as u64).saturating_sub(1);
        (gap.end, gap.missed) = (Some(end), Some(missed));
        let detail = json!({ "away_ms": away.as_millis() as u64, "frames_missed": missed });
        self.record_gap(ctx, gap);
        let name = child_name(&self.plane, ChildId::Camera(camera));
        self.publish(ctx, Event { at: end, source: name, kind: EventKind::GapClosed, detail });
    }

    fn record_gap(&self, ctx: &mut Context<Self>, gap: CameraGap) {
        for output in self.cast.iter().flat_map(|cast| cast.outputs.of_gaps()) {
            tell::<Self, _>(ctx, &output, gap.clone());
        }
    }

    /// Says once how far apart the cameras' first frames are: when all have come, their time is up, or the
    /// session ends.
    fn look_for_first_frames(&mut self, ctx: &mut Context<Self>) {
        if self.first_frames_said {
            return;
        }
        let firsts: Vec<_> = self
            .plane
            .cameras
            .iter()
            .map(|line| Timestamp(line.first_captured_at.load(Ordering::Relaxed)))
            .collect();
        let came = || firsts.iter().filter(|&&first| first != Timestamp::default());
        let is_over = self.plane.clock.now().saturating_since(self.started_at) > FIRST_FRAMES_WITHIN;
        if came().count() < firsts.len() && !is_over && self.state == State::Running {
            ctx.run_later(FIRST_FRAMES_LOOK, Self::look_for_first_frames);
            return;
        }
        let spread = came().max().zip(came().min()).map(|(last, first)| last.saturating_since(*first));
        let after_ms = |first: &Timestamp| {
            let after = first.0 as f64 - self.started_at.0 as f64;
            (*first != Timestamp::default()).then_some(after / 1e6)
        };
        let names = self.plane.cameras.iter().map(|line| line.plan.name.to_string());
        let cameras: BTreeMap<_, _> = names.zip(firsts.iter().map(after_ms)).collect();
        let detail = json!({
            "spread_ms": spread.map(|spread| spread.as_secs_f64() * 1e3),
            "ms_after_start": cameras,
        });
        self.first_frames_said = true;
        self.emit(ctx, "session", EventKind::FirstFrames, detail);
    }

    /// What a worker works with.
    fn backend_of(&self, worker: usize) -> Option<BackendInfo> {
        self.plane.camera(*self.plan.pipelines[worker].cameras.first()?).backend()
    }

    /// Says so when a worker has come back with another back end than it had.
    fn look_at_backend(&mut self, ctx: &mut Context<Self>, worker: usize, name: &str) {
        let Some(now) = self.backend_of(worker) else { return };
        let Some(before) = self.worker_backends.insert(worker, now.clone()) else { return };
        if before == now {
            return;
        }
        let words = |info: &BackendInfo| format!("{} on {}", info.backend, info.device);
        warn!(child = name, reason = now.reason, "went over to {}", words(&now));
        let text = format!("{name} went over from {} to {}: {}", words(&before), words(&now), now.reason);
        self.degrade(ReasonCode::BackendChanged, text);
        let cameras = self.plan.pipelines[worker].cameras.iter();
        let cameras: Vec<_> = cameras.map(|&id| self.plane.camera(id).plan.name.to_string()).collect();
        let detail = json!({ "cameras": cameras, "from": backend_facts(&before), "to": backend_facts(&now) });
        self.emit(ctx, name, EventKind::BackendChanged, detail);
    }

    /// Writes the last minute to a file of its own, off this thread.
    fn write_trace(&mut self, name: &str) {
        let written = u32::try_from(self.traces.len()).unwrap_or(u32::MAX);
        let Some(dir) = self.plan.trace_dir.as_ref().filter(|_| written < MAX_TRACES) else { return };
        let path = dir.join(format!("{}.{written}-{name}.trace.json", self.plan.name));
        self.traces.push(path.clone());
        let plane = Arc::clone(&self.plane);
        actix_rt::task::spawn_blocking(move || {
            if let Err(error) = save_trace(&plane, &path) {
                warn!(path = %path.display(), %error, "the trace could not be written");
            }
        });
    }
}

fn save_trace(plane: &DataPlane, path: &Path) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    plane.flight.write_trace(&plane.camera_names(), &mut out)?;
    std::io::Write::flush(&mut out)
}

fn camera_reports(plane: &DataPlane, snapshot: &LedgerSnapshot) -> Vec<CameraReport> {
    let parts = plane.cameras.iter().zip(plane.stats.iter()).zip(&snapshot.cameras);
    let reports = parts.map(|((line, stats), ledger)| CameraReport {
        name: line.plan.name.clone(),
        ledger: *ledger,
        face_rows: stats.face_rows.load(Ordering::Relaxed),
        latency: stats.latency.snapshot(),
        restarts: stats.restarts.load(Ordering::Relaxed),
    });
    reports.collect()
}

impl Actor for SessionActor {
    type Context = Context<Self>;
}

impl Drop for SessionActor {
    /// However it ends, and be it by a panic: every actor ends with it, and the recorder closes its file.
    fn drop(&mut self) {
        self.board.update(|status| status.phase = Phase::Ended);
        end_system();
    }
}

/// Ends the threads of all actors of this session as soon as each can.
pub(crate) fn end_system() {
    if let Some(system) = System::try_current() {
        system.stop();
    }
}

impl Handler<Start> for SessionActor {
    type Result = ResponseActFuture<Self, Result<(), StartError>>;

    fn handle(&mut self, _: Start, ctx: &mut Self::Context) -> Self::Result {
        let cast = Arc::new(Cast::new(&self.plane, ctx.address().recipient(), self.live.clone()));
        self.cast = Some(Arc::clone(&cast));
        let (plan, plane, session) = (self.plan.clone(), Arc::clone(&self.plane), ctx.address());
        let starting = async move {
            let started = cast.start(&plan, &plane, session).await;
            if started.is_err() {
                cast.stop(&plan, &plane).await;
                // The error that is returned says more than one of a file without rows, or of streams.
                cast.end_recording(&plane).await.ok();
                cast.finish(&plane).await.ok();
            }
            started
        };
        Box::pin(actix::fut::wrap_future::<_, Self>(starting).map(|started, session, ctx| {
            if let Ok((started_at, recording)) = &started {
                session.state = State::Running;
                session.show_phase();
                for camera in session.plane.camera_ids() {
                    session.show_camera(camera, CameraState::Running);
                }
                session.started_at = *started_at;
                session.backend = session.plane.backend();
                session.worker_backends = (0..session.plan.pipelines.len())
                    .filter_map(|worker| Some((worker, session.backend_of(worker)?)))
                    .collect();
                let detail = json!({
                    "name": session.plan.name,
                    "cameras": session.plane.cameras.len(),
                    "backend": session.backend.as_ref().map(|info| info.backend),
                });
                session.emit(ctx, "session", EventKind::SessionStarted, detail);
                // Cameras that were away before there was a recorder.
                for gap in session.open_gaps.values() {
                    let text = format!(
                        "camera {} was missing at the start: {}",
                        session.plane.camera(gap.camera).plan.name,
                        gap.cause
                    );
                    session.plane.findings.add_to_recording(ReasonCode::CameraAway, *started_at, text);
                    session.record_gap(ctx, gap.clone());
                }
                if let Some(overridden) = session.plan.recording.overridden.clone() {
                    session.degrade(ReasonCode::Overridden, overridden.to_string());
                    session.emit(ctx, "session", EventKind::Overridden, json!(overridden));
                }
                ctx.run_interval(DISK_LOOK, SessionActor::look_at_disk);
                match (recording, session.plan.record_from_start.clone()) {
                    (Some(recording), Some(request)) => session.recording_started(ctx, recording, &request),
                    (None, Some(request)) => {
                        let waiting = Waiting::new(request, session);
                        session.begin_when_ready(ctx, waiting);
                    }
                    (_, None) => {}
                }
                session.look_for_first_frames(ctx);
                if let Some(duration) = session.plan.duration {
                    ctx.run_later(duration, |session, ctx| session.begin_stop(ctx, "duration reached"));
                }
                if let Some(reason) = session.stop_early.take() {
                    session.begin_stop(ctx, &reason);
                }
            } else {
                ctx.stop();
            }
            started.map(drop)
        }))
    }
}

impl Handler<Stop> for SessionActor {
    type Result = ();

    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        self.begin_stop(ctx, &stop.reason);
    }
}

impl Handler<StartRecording> for SessionActor {
    type Result = ();

    fn handle(&mut self, order: StartRecording, ctx: &mut Self::Context) {
        self.start_recording(ctx, order);
    }
}

impl Handler<StopRecording> for SessionActor {
    type Result = ();

    fn handle(&mut self, order: StopRecording, ctx: &mut Self::Context) {
        self.stop_recording(ctx, order);
    }
}

impl Handler<RecordingFailed> for SessionActor {
    type Result = ();

    fn handle(&mut self, RecordingFailed { path, cause }: RecordingFailed, ctx: &mut Self::Context) {
        if matches!(&self.recording, Recording::On(on) if *on == path) {
            self.recording = Recording::Off;
        }
        self.recording_failed(ctx, path, &cause);
    }
}

impl Handler<Mark> for SessionActor {
    type Result = ();

    fn handle(&mut self, mark: Mark, ctx: &mut Self::Context) {
        self.mark(ctx, mark.at, mark.text);
    }
}

impl Handler<Event> for SessionActor {
    type Result = ();

    fn handle(&mut self, event: Event, ctx: &mut Self::Context) {
        if event.kind == EventKind::VideoFailed {
            let cause = event.detail["cause"].as_str().unwrap_or_default();
            self.degrade(ReasonCode::VideoFailed, format!("{} ended early: {cause}", event.source));
        }
        self.publish(ctx, event);
    }
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Subscribe(SyncSender<Event>);

impl Handler<Subscribe> for SessionActor {
    type Result = ();

    fn handle(&mut self, Subscribe(subscriber): Subscribe, _: &mut Self::Context) {
        self.subscribers.push(subscriber);
    }
}

impl Handler<ChildChanged> for SessionActor {
    type Result = ();

    fn handle(&mut self, ChildChanged { id, at, change }: ChildChanged, ctx: &mut Self::Context) {
        fault::point("session:changed");
        let name = child_name(&self.plane, id);
        match change {
            Change::Failed { cause, retry_at, degraded, is_hung } => {
                warn!(child = name, cause, "failed");
                self.degrade(code_of(id), format!("{name} failed: {cause}"));
                if is_hung {
                    self.emit(ctx, &name, EventKind::ChildAbandoned, json!({ "cause": cause }));
                }
                if let ChildId::Camera(camera) = id {
                    self.open_gap(ctx, camera, at, &cause);
                }
                let kind = if degraded { EventKind::ChildDegraded } else { EventKind::ChildFailed };
                let wait = retry_at.saturating_since(at).as_millis() as u64;
                self.emit(ctx, &name, kind, json!({ "cause": cause, "retry_in_ms": wait }));
                if !degraded {
                    self.write_trace(&name.replace(' ', "-"));
                }
            }
            Change::Suspended { cause } => {
                error!(child = name, cause, "hangs again: left alone until one of its threads comes back");
                self.degrade(code_of(id), format!("{name} failed: {cause}"));
                self.emit(
                    ctx,
                    &name,
                    EventKind::ChildAbandoned,
                    json!({ "cause": cause, "suspended": true }),
                );
                if let ChildId::Camera(camera) = id {
                    self.open_gap(ctx, camera, at, &cause);
                }
            }
            Change::Restarted => {
                if let ChildId::Camera(camera) = id {
                    self.plane.stats[usize::from(camera.0)].restarts.fetch_add(1, Ordering::Relaxed);
                    let first = self.plane.camera(camera).first_since_opened.load(Ordering::Relaxed);
                    self.close_gap(ctx, camera, if first == 0 { at } else { Timestamp(first) });
                    self.show_camera(camera, CameraState::Running);
                }
                let is_resumed = matches!(id, ChildId::Camera(camera) if self.resumed.remove(&camera));
                let kind = if is_resumed { EventKind::CameraResumed } else { EventKind::ChildRestarted };
                self.emit(ctx, &name, kind, json!({}));
                if let ChildId::Pipeline(worker) = id {
                    self.look_at_backend(ctx, usize::from(worker), &name);
                }
            }
            Change::Ended { note } => {
                let ChildId::Camera(camera) = id else { return };
                self.ended.insert(camera);
                self.show_camera(camera, CameraState::Ended);
                let detail = note.map_or(json!({}), |note| json!({ "note": note }));
                self.emit(ctx, &name, EventKind::CameraEnded, detail);
                if self.ended.len() == self.plane.cameras.len() {
                    self.begin_stop(ctx, "every source came to its end");
                }
            }
            Change::GivenUp { cause } => {
                error!(child = name, cause, "failed for good");
                self.degrade(ReasonCode::PartGivenUp, format!("{name} failed for good: {cause}"));
                self.emit(ctx, &name, EventKind::ChildGivenUp, json!({ "cause": cause }));
                if id == ChildId::Recorder
                    && let Recording::On(path) = std::mem::replace(&mut self.recording, Recording::Off)
                {
                    self.recordings.push(RecordingReport { path, outcome: Err(cause) });
                }
                self.write_trace(&name.replace(' ', "-"));
                self.begin_stop(ctx, &format!("{name} failed for good"));
            }
        }
    }
}

/// Who is expected, with names as far as they are known.
fn people(plan: &SessionPlan) -> Vec<Person> {
    let expected = usize::from(plan.expected_participants.unwrap_or(0)).max(plan.participant_names.len());
    let person = |index: usize| {
        let id = ParticipantId(u16::try_from(index + 1).unwrap_or(u16::MAX));
        let name = plan.participant_names.get(index).cloned().unwrap_or_else(|| id.to_string());
        Person { id, name, seen: None }
    };
    (0..expected).map(person).collect()
}

/// A running session, held by whoever started it. Dropped, it stops the session and waits for the end.
pub struct SessionHandle {
    session: Addr<SessionActor>,
    plane: Arc<DataPlane>,
    board: Board,
    listen: Listen,
    report: Receiver<SessionReport>,
    thread: Option<JoinHandle<()>>,
}

impl SessionHandle {
    /// Starts a session on threads of its own and returns when all cameras deliver.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(plan: SessionPlan, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let dir = plan.ring_dir.clone();
        for stale in
            youquanti_frames::remove_stale(&dir, "").map_err(|source| StartError::Rings { dir, source })?
        {
            info!(segment = %stale.display(), "removed the frame ring of a run that was killed");
        }
        let spans = plan.cameras.len() * FLIGHT_SECONDS * FLIGHT_FPS * Stage::PER_FRAME;
        let (name, ring_dir) = (plan.name.clone(), plan.ring_dir.clone());
        let plane = DataPlane::new(clock, name, ring_dir, plan.cameras.clone(), spans);
        if let Some(preview) = &plan.preview {
            plane.with_preview(preview.clone());
        }
        if let Some(pose) = &plan.pose {
            plane.with_pose(pose.clone());
        }
        if let Some(folder) = &plan.discovery_dir {
            match Discovery::new(folder, &plan.name, plane.clock.now(), plane.clock.utc()) {
                Ok(discovery) => plane.with_discovery(discovery),
                Err(error) => {
                    let folder = folder.display();
                    warn!(%folder, %error, "other programs cannot find this session's shared memory");
                }
            }
        }
        let (report_to, report) = sync_channel(1);
        let (started_to, started) = sync_channel(1);
        let actor_plane = Arc::clone(&plane);
        let (board, live) = (Board::default(), Live::default());
        let (actor_board, listen) = (board.clone(), live.listen());
        board.update(|status| {
            status.cameras = vec![CameraState::default(); plane.cameras.len()];
            status.people = people(&plan);
        });
        let internal = |cause: &dyn std::fmt::Display| StartError::Internal { cause: cause.to_string() };
        let thread = std::thread::Builder::new()
            .name("yq-session".to_owned())
            .spawn(move || {
                let system = System::new();
                system.block_on(async move {
                    let session = SessionActor::new(plan, actor_plane, actor_board, live, report_to).start();
                    let outcome = session.send(Start).await;
                    started_to.try_send((session, outcome)).ok();
                });
                if let Err(error) = system.run() {
                    error!(%error, "the session's thread ended with an error");
                }
            })
            .map_err(|error| internal(&error))?;
        let (session, outcome) = started.recv().map_err(|gone| internal(&gone))?;
        let handle = Self { session, plane, board, listen, report, thread: Some(thread) };
        match outcome.map_err(|gone| internal(&gone)).and_then(|started| started) {
            Ok(()) => Ok(handle),
            Err(error) => {
                drop(handle);
                Err(error)
            }
        }
    }

    /// Live figures, ledger and flight recorder.
    pub fn plane(&self) -> &Arc<DataPlane> {
        &self.plane
    }

    /// For whoever steers or watches the session from elsewhere.
    pub fn control(&self) -> Control {
        let (session, plane) = (self.session.clone().recipient(), Arc::clone(&self.plane));
        Control::new(session, plane, self.board.clone(), self.listen.clone())
    }

    /// Asks the session to end; [`wait`](Self::wait) tells when it has.
    #[allow(clippy::disallowed_methods, reason = "an order to stop must not be refused by a full mailbox")]
    pub fn stop(&self, reason: &str) {
        self.session.do_send(Stop { reason: reason.to_owned() });
    }

    /// Creates a file and records to it from now on; returns when it is open. Waits for the session, not for its
    /// frames.
    ///
    /// # Errors
    /// See [`RecordingError`].
    #[allow(clippy::disallowed_methods, reason = "an order must not be refused by a full mailbox")]
    pub fn start_recording(&self, request: RecordingRequest) -> Result<RecordingStarted, RecordingError> {
        let (answer, answered) = oneshot::channel();
        self.session.do_send(StartRecording { request, answer });
        wait_for(answered, None).and_then(Result::ok).unwrap_or(Err(RecordingError::Ended))
    }

    /// Closes the file that is being written; returns when it can be opened plainly, with what is in it. The
    /// session goes on.
    ///
    /// # Errors
    /// See [`RecordingError`].
    #[allow(clippy::disallowed_methods, reason = "an order must not be refused by a full mailbox")]
    pub fn stop_recording(&self) -> Result<Summary, RecordingError> {
        let (answer, answered) = oneshot::channel();
        self.session.do_send(StopRecording(answer));
        wait_for(answered, None).and_then(Result::ok).unwrap_or(Err(RecordingError::Ended))
    }

    /// Sets a marker, stamped now. Markers come from people and experiments: few, and none may go lost.
    #[allow(clippy::disallowed_methods, reason = "a marker must not be refused by a full mailbox")]
    pub fn mark(&self, text: &str) {
        self.session.do_send(Mark { at: self.plane.clock.now(), text: text.to_owned() });
    }

    /// Every event from now on, in the order in which the session hears of them. A subscriber that leaves
    /// 1024 of them waiting misses the next.
    #[allow(clippy::disallowed_methods, reason = "a subscription must not be refused by a full mailbox")]
    pub fn subscribe(&self) -> Receiver<Event> {
        let (to, events) = sync_channel(SUBSCRIBER_CAPACITY);
        self.session.do_send(Subscribe(to));
        events
    }

    /// Writes what happened to the frames of the last minute as a trace that Perfetto opens; after the
    /// session's end, of its last minute.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_trace(&self, to: &Path) -> std::io::Result<()> {
        save_trace(&self.plane, to)
    }

    /// Waits up to `patience` for the session's end; its report, once.
    pub fn wait(&mut self, patience: Duration) -> Option<SessionReport> {
        match self.report.recv_timeout(patience) {
            Ok(report) => {
                self.join();
                Some(report)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Whether the session's thread has ended; without a report, it was lost.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the session's thread panicked");
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.stop("dropped");
        self.join();
    }
}
