//! The seam between actors and back ends: frames go in, faces come out.
//!
//! Actors know this trait and no back end; back ends know this trait and no actor.

use crate::face::FrameFaces;
use crate::ids::CameraId;
use crate::picture::Frame;

/// What a back end is, for logs, the session file and `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// `cpu`, `cuda` or `tensorrt`.
    pub backend: &'static str,
    /// What it runs on, e.g. the processor's or the GPU's name.
    pub device: String,
    /// The runtime of the networks and its version.
    pub runtime: String,
    /// Networks in use: id and SHA-256 of each.
    pub models: Vec<(String, String)>,
    /// Why this back end was chosen, one sentence.
    pub reason: String,
}

/// Why a frame has no result. The variant says what may be done about it.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Only this frame is lost: its picture cannot be decoded or does not fit. Go on with the next.
    #[error("camera {camera}, frame {seq}: picture cannot be used: {reason}")]
    Picture {
        /// Whose frame.
        camera: CameraId,
        /// Which frame.
        seq: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The back end failed; a new one may work.
    #[error("pipeline stage {stage} failed")]
    Stage {
        /// What was attempted.
        stage: &'static str,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device cannot be used again by this process.
    #[error("device lost in pipeline stage {stage}")]
    DeviceLost {
        /// What was attempted.
        stage: &'static str,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A face pipeline on one device. Used by one thread, on which it was made.
///
/// Frames go in through `submit`, results come out of `collect` in the order of submission; between
/// the two a back end may overlap upload, compute and download, or batch frames of several
/// cameras. The CPU back end holds one frame and computes in `collect`.
/// Frames of one camera must be submitted in ascending `seq`; gaps are fine.
pub trait Pipeline<F: Frame> {
    /// What this back end is.
    fn info(&self) -> &BackendInfo;

    /// Whether one more frame may be submitted now. Ask before taking a frame from anywhere: a frame
    /// that has to wait should wait where a newer one can take its place.
    fn has_room(&self) -> bool;

    /// Hands over a frame; only when there is room. Never waits.
    fn submit(&mut self, frame: F);

    /// Waits for the oldest submitted frame, writes its result to `out` (whose capacity is used
    /// again) and gives the frame back; `None` when nothing was submitted.
    ///
    /// # Errors
    /// See [`PipelineError`]; `out` is then meaningless, and the frame has no result.
    fn collect(&mut self, out: &mut FrameFaces) -> Option<(F, Result<(), PipelineError>)>;

    /// Ends all tracks of a camera, e.g. after a gap in its frames.
    fn forget(&mut self, camera: CameraId);
}
