//! Pure types, traits and network mathematics of YouQuanti.
//!
//! Owns what every other crate talks about: ids, time, pictures, faces, the [`Pipeline`] trait, the
//! bytes of the networks with their manifest, and the mathematics before and after each network.
//! Never does I/O, never starts a thread, never reads a clock.

pub mod blazeface;
pub mod blendshapes;
pub mod causes;
pub mod detection;
pub mod face;
pub mod geometry;
pub mod head_pose;
pub mod ids;
pub mod manifest;
pub mod nms;
pub mod picture;
pub mod pipeline;
pub mod pose;
pub mod roi;
pub mod time;
pub mod tracker;
pub mod yunet;

#[cfg(test)]
mod golden;

pub use causes::with_causes;
pub use detection::{Detection, DetectorKind};
pub use face::{BLENDSHAPE_COUNT, Face, FrameFaces, LANDMARK_COUNT, Stamps};
pub use geometry::{Affine2, Box2, Roi};
pub use ids::{CameraId, CameraName, ParticipantId, TrackId};
pub use manifest::{ManifestError, ModelId};
pub use picture::{Frame, FrameFlags, FrameMeta, Picture, PictureLayout, PixelFormat};
pub use pipeline::{BackendInfo, Pipeline, PipelineError};
pub use pose::{BodyPose, FramePose, POSE_POINT_COUNT};
pub use time::{Clock, Timestamp, UtcNanos};
pub use tracker::{LandmarkResult, Track, TrackIds, TrackedFace, Tracker, TrackerOptions};
