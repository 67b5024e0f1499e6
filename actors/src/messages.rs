//! What travels between actors. Small structs named after a fact or an order.
//!
//! Results and events travel in bounded mailboxes and are waited for; frames do not travel here but
//! in the allocation-free mailboxes of `youquanti-frames`, as [`Delivery`] and [`IndexEntry`].

use std::fmt;
use std::sync::Arc;

use actix::prelude::*;
use serde::Serialize;
use youquanti_frames::FrameHandle;
use youquanti_models::{
    CameraId, Frame, FrameFaces, FrameMeta, FramePose, ParticipantId, Picture, Timestamp, TrackId,
};

use crate::ledger::{DropReason, Ticket};
use crate::participants::RosterUpdate;
use crate::synchrony::SynchronyWindow;

/// A frame on its way to the pipeline, or to the pose actor. Dropping it frees the slot and settles the ticket.
#[derive(Debug)]
pub struct Delivery {
    /// Pixels in the camera's own format and stride.
    pub frame: FrameHandle,
    /// Counts what became of the frame.
    pub ticket: Ticket,
    /// Of the preview, to which the frame goes on with its result, or without one once that is certain; none when it is
    /// shown nowhere.
    pub preview: Option<Ticket>,
}

/// A frame on its way to the preview, with what was found in exactly this frame. Dropping it frees the slot and settles
/// the ticket.
#[derive(Debug)]
pub struct Preview {
    /// Pixels in the camera's own format and stride.
    pub frame: FrameHandle,
    /// What was found, and whose faces they are; none when it is certain that there will be no result.
    pub result: Option<FacesNamed>,
    /// Counts what became of the frame.
    pub ticket: Ticket,
}

impl Delivery {
    /// No consumer will have a result for it.
    pub fn dropped(self, reason: DropReason) {
        self.ticket.dropped(reason);
        if let Some(preview) = self.preview {
            preview.dropped(reason);
        }
    }
}

impl Frame for Delivery {
    fn meta(&self) -> &FrameMeta {
        self.frame.meta()
    }

    fn picture(&self) -> Picture<'_> {
        self.frame.picture()
    }
}

/// A frame on its way to the recorder's index or to the streams: facts only, so it never holds a slot.
#[derive(Debug)]
pub struct IndexEntry {
    /// The frame's facts.
    pub meta: FrameMeta,
    /// Counts what became of the entry.
    pub ticket: Ticket,
}

/// The pipeline is done with a frame. Sent once for each processed frame, in the camera's order.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct FacesFound(pub Arc<FrameFaces>);

/// Faces with their participants. Sent once for each processed frame, in the camera's order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct FacesNamed {
    /// The pipeline's result.
    pub faces: Arc<FrameFaces>,
    /// Who they are, and what changed with this frame.
    pub update: Arc<RosterUpdate>,
}

/// A frame was looked at for a body. Sent once for each, in the camera's order; faces of the same frame may come before or after.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct PoseFound(pub Arc<FramePose>);

/// What was found in a frame, on its way to the streams. Dropping it settles the ticket.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Streamed<T> {
    /// Faces or a body.
    pub found: T,
    /// Counts what became of it.
    pub ticket: Ticket,
}

/// A window of synchrony is computed. Sent once for each, in their order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct SynchronyFound(pub Arc<SynchronyWindow>);

/// A track has become a participant, or a participant has moved to another track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParticipantChange {
    /// Capture time of the first frame that this holds for.
    pub at: Timestamp,
    /// Who.
    pub participant: ParticipantId,
    /// Where.
    pub camera: CameraId,
    /// Which track the participant has from now on.
    pub track: TrackId,
    /// `first seen`, `seen again`, `renamed`.
    pub why: &'static str,
}

/// Something worth knowing happened. Goes to the log, the file and whoever listens.
#[derive(Clone, Debug, Message, Serialize)]
#[rtype(result = "()")]
pub struct Event {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    #[serde(serialize_with = "nanos")]
    pub at: Timestamp,
    /// Who says so: `session`, `camera left`, `pipeline 0`, …
    pub source: String,
    /// What happened; the names are stable.
    pub kind: EventKind,
    /// The particulars, in words or as JSON.
    pub detail: serde_json::Value,
}

fn nanos<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.0)
}

/// Markers that another program sent over LSL, for the file alone: there may be thousands a second.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Markers(pub Vec<Event>);

/// A camera is away. Sent when that is noticed, and again, with `end`, when it is back or the session ends.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CameraGap {
    /// Which camera.
    pub camera: CameraId,
    /// Stamp of the last good frame; of the session's start when there was none. Tells a camera's gaps apart.
    pub last_good: Timestamp,
    /// When the failure was noticed.
    pub noticed_at: Timestamp,
    /// `seq` of the first frame that is missing, which is the one that the first frame after the gap gets:
    /// frames that were never captured have no numbers.
    pub first_missing: u64,
    /// Stamp of the first frame after; of the session's end when there was none. `None` while it is away.
    pub end: Option<Timestamp>,
    /// Frames that the camera would have sent meanwhile at its declared rate; known with `end`.
    pub missed: Option<u64>,
    /// What the camera said when it failed.
    pub cause: String,
}

/// Kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The session began: cameras run, the file is open.
    SessionStarted,
    /// The session is about to end, and why.
    SessionStopping,
    /// The session began although something that it requires is missing: what, who decided so, and why.
    Overridden,
    /// A file is being written from now on.
    RecordingStarted,
    /// A file was closed: where it is and what is in it.
    RecordingStopped,
    /// A file could not be written to its end: the session goes on without, or ends, as its plan says.
    RecordingFailed,
    /// At the rate at which a file grows, its disk is full within ten minutes.
    DiskLow,
    /// The journal of a file cannot be written: recording goes on without, and a loss of power may cost tables of it.
    JournalLost,
    /// A camera delivers frames.
    CameraStarted,
    /// A child failed and will be restarted.
    ChildFailed,
    /// A failed child works again.
    ChildRestarted,
    /// A child failed too often: the session goes on without it, and it is tried again slowly.
    ChildDegraded,
    /// A child failed for good.
    ChildGivenUp,
    /// A child's thread hangs: it was left behind, and will never be used again.
    ChildAbandoned,
    /// A pipeline that failed works again on something else than before, such as the processor after its GPU was lost.
    BackendChanged,
    /// The first frames of all cameras have come: how far they are apart.
    FirstFrames,
    /// A camera is away, since when and why.
    GapOpened,
    /// It is back.
    GapClosed,
    /// A camera came to its natural end.
    CameraEnded,
    /// A camera is closed because somebody asked for it.
    CameraPaused,
    /// It works again after a pause.
    CameraResumed,
    /// A participant got a track.
    Participant,
    /// A participant was given a name.
    ParticipantRenamed,
    /// More people than expected are in view.
    OverLimit,
    /// A file of a camera's video was begun.
    VideoStarted,
    /// It is finished: what is in it.
    VideoEnded,
    /// The video of a camera ended before the recording did, and why.
    VideoFailed,
    /// Somebody set a marker.
    Marker,
    /// A stream of markers of another program was connected, was lost, or sends more than can be recorded.
    MarkerStream,
    /// Windows of synchrony are left out, because computing them takes longer than the step between them.
    WindowSkipped,
    /// The ledger does not add up: an error of this program.
    LedgerImbalance,
}

impl EventKind {
    /// Name in file, log and API.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::SessionStarted => "session_started",
            EventKind::SessionStopping => "session_stopping",
            EventKind::Overridden => "overridden",
            EventKind::DiskLow => "disk_low",
            EventKind::JournalLost => "journal_lost",
            EventKind::RecordingStarted => "recording_started",
            EventKind::RecordingStopped => "recording_stopped",
            EventKind::RecordingFailed => "recording_failed",
            EventKind::CameraStarted => "camera_started",
            EventKind::ChildFailed => "child_failed",
            EventKind::ChildRestarted => "child_restarted",
            EventKind::ChildDegraded => "child_degraded",
            EventKind::ChildGivenUp => "child_given_up",
            EventKind::ChildAbandoned => "child_abandoned",
            EventKind::BackendChanged => "backend_changed",
            EventKind::FirstFrames => "first_frames",
            EventKind::GapOpened => "gap_opened",
            EventKind::GapClosed => "gap_closed",
            EventKind::CameraEnded => "camera_ended",
            EventKind::CameraPaused => "camera_paused",
            EventKind::CameraResumed => "camera_resumed",
            EventKind::Participant => "participant",
            EventKind::ParticipantRenamed => "participant_renamed",
            EventKind::OverLimit => "over_limit",
            EventKind::VideoStarted => "video_started",
            EventKind::VideoEnded => "video_ended",
            EventKind::VideoFailed => "video_failed",
            EventKind::Marker => "marker",
            EventKind::MarkerStream => "marker_stream",
            EventKind::WindowSkipped => "window_skipped",
            EventKind::LedgerImbalance => "ledger_imbalance",
        }
    }
}

/// A child of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildId {
    /// One camera.
    Camera(CameraId),
    /// One pipeline worker.
    Pipeline(u16),
    /// Tracks to participants.
    Participants,
    /// How alike the participants' faces move.
    Synchrony,
    /// The session file.
    Recorder,
    /// The video of one camera.
    Video(CameraId),
    /// Streams over LSL.
    Lsl,
    /// Live pictures in shared memory.
    Preview,
    /// Bodies.
    Pose,
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildId::Camera(id) => write!(f, "camera {id}"),
            ChildId::Pipeline(worker) => write!(f, "pipeline {worker}"),
            ChildId::Participants => f.write_str("participants"),
            ChildId::Synchrony => f.write_str("synchrony"),
            ChildId::Recorder => f.write_str("recorder"),
            ChildId::Video(id) => write!(f, "video {id}"),
            ChildId::Lsl => f.write_str("lsl"),
            ChildId::Preview => f.write_str("preview"),
            ChildId::Pose => f.write_str("pose"),
        }
    }
}

/// Ends an actor in good order: device closed, what it holds handed on. Answered when that is done.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Shutdown;
