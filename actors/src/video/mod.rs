//! Video beside the session file: one Matroska file for each camera and each time that it was opened.
//!
//! Owns the codecs, the encoders of this machine's FFmpeg, and what a camera's line of the data plane keeps for its
//! [`VideoActor`]. A file's name is that of the session file with camera and segment behind it; which captured frame each
//! encoded one is, says the table `/cameras/<name>/video`. Never in the way of anything else: what encoder or disk cannot
//! take is dropped here, and counted.

mod actor;
mod encoder;
pub(crate) mod matroska;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use youquanti_frames::{Counted, FrameHandle};
use youquanti_models::{CameraName, PictureLayout, PixelFormat};

pub use actor::{StopVideo, VideoActor};
pub use encoder::{Encoder, EncoderError, find_encoder};
pub use matroska::MatroskaError;
pub use segment::VideoError;

use crate::ledger::Ticket;
use crate::session_file::VideoRow;

/// Frames that may wait for the encoder of a camera. `benches/results/ring-size.md`: with 2, a ring of 8 slots has one to
/// capture into, whatever stalls.
const FRAMES_CAPACITY: usize = 2;

/// Rows that may wait for the recorder.
const ROWS_CAPACITY: usize = 1024;

/// What the pictures of a camera are recorded as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// H.264, about as good as the picture; every second a key frame.
    H264,
    /// H.265, the same in less space with more work.
    H265,
    /// A JPEG a frame: those that the camera sends, byte for byte, if it sends JPEG.
    Mjpeg,
    /// FFV1 (RFC 9043), every pixel as it was; of a camera that sends JPEG, its own pictures byte for byte.
    Lossless,
}

impl Codec {
    /// Name in configuration, session file and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::H264 => "h264",
            Codec::H265 => "h265",
            Codec::Mjpeg => "mjpeg",
            Codec::Lossless => "lossless",
        }
    }

    /// Whether a camera's own pictures are kept as they come, for which no FFmpeg is needed.
    pub fn keeps(self, format: PixelFormat) -> bool {
        format == PixelFormat::Mjpg && matches!(self, Codec::Mjpeg | Codec::Lossless)
    }
}

/// How a camera's video is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoPlan {
    /// What becomes of its pictures.
    pub codec: Codec,
    /// FFmpeg and the encoder in it; not needed where pictures are kept as they come.
    pub ffmpeg: Option<(PathBuf, &'static Encoder)>,
}

/// Where the video of a recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoJob {
    /// The session file: video lies beside it.
    pub session_file: PathBuf,
    /// Bytes that must stay free on its disk while video is written. More than the session file's own reserve, so that
    /// video ends first.
    pub reserve_bytes: u64,
}

/// The file of a camera's segment: `<session file>.<camera>.<nnn>.mkv`, beside the session file.
pub fn segment_path(session_file: &Path, camera: &str, segment: u32) -> PathBuf {
    let stem = session_file.file_stem().unwrap_or_default().to_string_lossy();
    session_file.with_file_name(format!("{stem}.{camera}.{segment:03}.mkv"))
}

/// A frame on its way to a camera's video. Dropping it frees the slot and settles the ticket.
#[derive(Debug)]
pub struct VideoFrame {
    /// Pixels in the camera's own format and stride.
    pub frame: FrameHandle,
    /// Counts what became of the frame.
    pub ticket: Ticket,
    /// Which time of being opened the camera took it in: each has a segment of its own.
    pub life: u32,
}

/// What a camera's line of the data plane keeps of its video, over all lives of its actor.
pub struct VideoLine {
    /// To the actor.
    pub frames: Counted<VideoFrame>,
    /// From the actor to the recorder: frames that are in their file.
    pub rows: Counted<VideoRow>,
    /// Whether frames are wanted: a recording with video is under way.
    wanted: AtomicBool,
    job: Mutex<Option<Arc<VideoJob>>>,
    next_segment: AtomicU32,
}

impl VideoLine {
    pub(crate) fn new() -> Self {
        Self {
            frames: Counted::new(FRAMES_CAPACITY),
            rows: Counted::new(ROWS_CAPACITY),
            wanted: AtomicBool::new(false),
            job: Mutex::new(None),
            next_segment: AtomicU32::new(0),
        }
    }

    /// Whether the camera should offer its frames.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Has the camera's frames written beside this recording, from now on.
    pub(crate) fn begin(&self, job: Arc<VideoJob>) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        self.next_segment.store(0, Ordering::Relaxed);
        self.wanted.store(true, Ordering::Release);
    }

    /// No more frames are wanted; those that wait are still written.
    pub(crate) fn refuse(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// Forgets the recording.
    fn forget(&self) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn job(&self) -> Option<Arc<VideoJob>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_segment(&self) -> u32 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }
}

/// What is said of a camera's video in the session file: codec, and what makes it.
pub(crate) fn description(plan: Option<&VideoPlan>, layout: &PictureLayout, name: &CameraName) -> String {
    let Some(plan) = plan else { return "none".to_owned() };
    let how = match &plan.ffmpeg {
        _ if plan.codec.keeps(layout.format) => "the camera's own pictures".to_owned(),
        Some((_, encoder)) => format!("FFmpeg's {}", encoder.name),
        None => "no encoder".to_owned(),
    };
    format!("{}, {how}, in *.{name}.*.mkv", plan.codec.name())
}
