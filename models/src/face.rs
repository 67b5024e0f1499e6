//! What the pipeline finds in one frame. Pure data, in the units of the session file:
//! pixels of the camera picture, metres, microseconds.

use crate::ids::{CameraId, TrackId};
use crate::picture::{FrameFlags, FrameMeta};
use crate::time::Timestamp;

/// Points of the face mesh with irises.
pub const LANDMARK_COUNT: usize = 478;

/// Coefficients of the blendshape network, `_neutral` first.
pub const BLENDSHAPE_COUNT: usize = 52;

/// One face in one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// The track that this face belongs to, unique in the session.
    pub track: TrackId,
    /// The detector's score, 0 to 1, of the detection that began or last confirmed the track.
    pub score: f32,
    /// Box around the landmarks: x0, y0, x1, y1, pixels; may reach beyond the picture.
    pub bbox: [f32; 4],
    /// The landmark network's own confidence that there is a face, 0 to 1.
    pub presence: f32,
    /// Variance of the Laplacian of the crop that the landmark network saw, in levels of 0 to 255; none where the back end
    /// does not measure it.
    pub sharpness: Option<f32>,
    /// x, y in pixels; z in the same unit, negative is nearer to the camera than the face's centre.
    pub landmarks: [[f32; 3]; LANDMARK_COUNT],
    /// 0 to 1, in the order of [`crate::blendshapes::NAMES`]; `_neutral` first.
    pub blendshapes: [f32; BLENDSHAPE_COUNT],
    /// Row-major 4×4: canonical face to camera, metres, right-handed, camera looking along −z.
    pub head_pose: [[f32; 4]; 4],
}

/// When each stage of the pipeline was done with a frame. 0 where a stage did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// The pipeline took the frame from its mailbox.
    pub submitted: Timestamp,
    /// The picture is where the back end works on it: on the device, or converted on the CPU.
    pub uploaded: Timestamp,
    /// Boxes are known (from the detector, or only from tracks).
    pub detected: Timestamp,
    /// Landmarks, blendshapes and head poses are known.
    pub landmarks: Timestamp,
    /// The result was handed to the actors behind the pipeline.
    pub published: Timestamp,
}

/// All faces of one analysed frame.
#[derive(Clone, Debug)]
pub struct FrameFaces {
    /// The frame they were found in.
    pub meta: FrameMeta,
    /// When each stage was done.
    pub stamps: Stamps,
    /// Whether the detector ran on this frame; without it, faces come from tracks alone.
    pub detector_ran: bool,
    /// Faces that the detector saw beyond the configured maximum.
    pub over_limit: u16,
    /// Faces, in the order of their tracks' ids.
    pub faces: Vec<Face>,
}

impl FrameFaces {
    /// No faces of no frame yet, with room for `max_faces`.
    pub fn with_capacity(max_faces: usize) -> Self {
        let meta = FrameMeta {
            camera: CameraId(0),
            seq: 0,
            driver_seq: 0,
            captured_at: Timestamp(0),
            received_at: Timestamp(0),
            flags: FrameFlags::default(),
        };
        Self {
            meta,
            stamps: Stamps::default(),
            detector_ran: false,
            over_limit: 0,
            faces: Vec::with_capacity(max_faces),
        }
    }
}
