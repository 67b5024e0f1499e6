//! What can be chosen about a pipeline, the same for every back end unless it says otherwise.

use std::path::PathBuf;
use std::sync::Arc;

use youquanti_models::{CameraId, PictureLayout, TrackIds, TrackerOptions, blazeface, yunet};

/// Which network looks for faces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Detector {
    /// Any number of faces, from about 20 px of its input on.
    #[default]
    YuNet,
    /// MediaPipe's short-range network: few, large faces. For parity with MediaPipe.
    BlazeFaceShort,
    /// MediaPipe's full-range network: up to about 5 m.
    BlazeFaceFull,
}

impl Detector {
    /// The score from which on its authors take a detection.
    pub const fn default_score_threshold(self) -> f32 {
        match self {
            Self::YuNet => yunet::SCORE_THRESHOLD,
            Self::BlazeFaceShort | Self::BlazeFaceFull => blazeface::SCORE_THRESHOLD,
        }
    }
}

/// How large the picture is when YuNet sees it. The BlazeFace networks have a size of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DetectorSize {
    /// So that a face of this width, in pixels of the camera picture, is still found.
    Auto {
        /// Pixels of the camera picture.
        smallest_face_px: f32,
    },
    /// This many pixels wide.
    Width(u32),
}

impl DetectorSize {
    /// The smallest face to find, pixels of a picture so many pixels wide.
    pub(crate) fn smallest_face(self, picture_width: u32) -> f32 {
        match self {
            Self::Auto { smallest_face_px } => smallest_face_px,
            Self::Width(width) => yunet::SMALLEST_FACE * picture_width as f32 / width.max(1) as f32,
        }
    }
}

/// A camera that the pipeline will get frames from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CameraInput {
    /// Whose frames.
    pub camera: CameraId,
    /// What they look like. Frames that look different are accepted, at the price of new buffers.
    pub layout: PictureLayout,
}

/// What to look for, and how.
#[derive(Clone, Debug)]
pub struct FaceOptions {
    /// Cameras that buffers are made for in advance. Others are accepted too.
    pub cameras: Vec<CameraInput>,
    /// Which network looks for faces.
    pub detector: Detector,
    /// How large a picture YuNet sees.
    pub detector_size: DetectorSize,
    /// Longest side of a detector's input, pixels: a picture that needs more is cut into tiles.
    pub detector_max_side: u32,
    /// 0 to 1; a detection with less is not taken.
    pub score_threshold: f32,
    /// Number of faces, how often the detector runs, and from what presence on landmarks are a face.
    pub tracker: TrackerOptions,
    /// Where the networks' files are; `None` for those inside the program. Either must agree with the manifest.
    pub model_dir: Option<PathBuf>,
    /// Gives the tracks their numbers: one for the session, so that a pipeline that is made anew goes on counting.
    pub track_ids: Arc<TrackIds>,
}

impl FaceOptions {
    /// Up to four faces of 60 px and more, found by YuNet, in the pictures of these cameras.
    pub fn new(cameras: Vec<CameraInput>) -> Self {
        let count = cameras.iter().map(|input| usize::from(input.camera.0) + 1).max().unwrap_or(1);
        Self {
            cameras,
            detector: Detector::YuNet,
            detector_size: DetectorSize::Auto { smallest_face_px: 60.0 },
            detector_max_side: yunet::MAX_INPUT_SIDE,
            score_threshold: Detector::YuNet.default_score_threshold(),
            tracker: TrackerOptions::default(),
            model_dir: None,
            track_ids: Arc::new(TrackIds::new(count)),
        }
    }

    /// The same with another detector, at the score that its authors recommend.
    #[must_use]
    pub fn with_detector(self, detector: Detector) -> Self {
        Self { detector, score_threshold: detector.default_score_threshold(), ..self }
    }
}

/// Options of the CPU back end.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// What to look for.
    pub faces: FaceOptions,
    /// Threads that share out detector and faces, the calling one among them; at least 1.
    pub threads: usize,
    /// Why this back end was chosen, one sentence, for logs and the session file.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_is_a_smallest_face() {
        assert_eq!(DetectorSize::Width(640).smallest_face(1280), 2.0 * yunet::SMALLEST_FACE);
        assert_eq!(DetectorSize::Auto { smallest_face_px: 60.0 }.smallest_face(1280), 60.0);
    }
}
