//! BlazePose, MediaPipe's body pose: the region of a body, and 33 points from what the landmark network says of it.
//!
//! Regions follow MediaPipe's `AlignmentPointsRectsCalculator` and `RectTransformationCalculator`, points its
//! `TensorsToLandmarksCalculator` and `LandmarkProjectionCalculator`, with the options of its graphs `pose_landmark`. Its refinement
//! by a heat map and its smoothing are left out. Never touches pixels.

use crate::blazeface::sigmoid;
use crate::geometry::{Affine2, Roi};
use crate::ids::CameraId;
use crate::picture::{FrameFlags, FrameMeta};
use crate::time::Timestamp;

/// Points of a body.
pub const POSE_POINT_COUNT: usize = 33;

/// Names of the points, as MediaPipe has them, in the network's order; left and right are the subject's.
pub const NAMES: [&str; POSE_POINT_COUNT] = [
    "nose",
    "left_eye_inner",
    "left_eye",
    "left_eye_outer",
    "right_eye_inner",
    "right_eye",
    "right_eye_outer",
    "left_ear",
    "right_ear",
    "mouth_left",
    "mouth_right",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_pinky",
    "right_pinky",
    "left_index",
    "right_index",
    "left_thumb",
    "right_thumb",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
    "left_heel",
    "right_heel",
    "left_foot_index",
    "right_foot_index",
];

/// Values of a point in [`BodyPose::points`].
pub const POINT_VALUES: [&str; 5] = ["x", "y", "z", "visibility", "presence"];

/// Side of the landmark network's input, pixels.
pub const CROP: u32 = 256;

/// Score from which on MediaPipe takes a person for one.
pub const SCORE_THRESHOLD: f32 = 0.5;

/// Overlap above which weighted suppression merges persons, as in MediaPipe.
pub const NMS_IOU: f32 = 0.3;

/// The landmark network's confidence from which on MediaPipe takes its points for a body.
pub const PRESENCE_THRESHOLD: f32 = 0.5;

/// How much longer than the circle's diameter the region's side is.
const MARGIN: f32 = 1.25;

/// Points that the network gives: those of the body, then six that are not the body's.
const RAW_POINTS: usize = 39;

/// Of those, the centre of the circle about the whole body, which is the mid-hip, and a point on it.
const CENTER: usize = 33;
const ON_CIRCLE: usize = 34;

/// A body in one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct BodyPose {
    /// The detector's score, 0 to 1, of the detection that began the track.
    pub score: f32,
    /// See [`POINT_VALUES`]: x, y in pixels of the camera picture, z in the same unit, 0 at the mid-hip, negative is nearer; the
    /// probability that the point is in the picture and hidden by nothing, and that it is in the picture.
    pub points: [[f32; POINT_VALUES.len()]; POSE_POINT_COUNT],
}

/// What was found of a body in one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FramePose {
    /// The frame that was looked at.
    pub meta: FrameMeta,
    /// When that was done.
    pub found_at: Timestamp,
    /// Whether the detector ran on this frame; without it, the region comes from the frame before.
    pub detector_ran: bool,
    /// The landmark network's confidence, 0 to 1, that there is a body where it looked; 0 where there was nothing to look at.
    pub presence: f32,
    /// The body, if there is one.
    pub body: Option<BodyPose>,
}

impl FramePose {
    /// Nothing of no frame yet.
    pub fn nothing() -> Self {
        let meta = FrameMeta {
            camera: CameraId(0),
            seq: 0,
            driver_seq: 0,
            captured_at: Timestamp(0),
            received_at: Timestamp(0),
            flags: FrameFlags::default(),
        };
        Self { meta, found_at: Timestamp(0), detector_ran: false, presence: 0.0, body: None }
    }
}

/// The landmark network's region: a square about the mid-hip, 1.25 times as long as the circle through `on_circle` is wide, turned
/// so that `on_circle` is straight above the mid-hip. Both in pixels of the picture.
pub fn roi([cx, cy]: [f32; 2], on_circle: [f32; 2]) -> Roi {
    let (dx, dy) = (on_circle[0] - cx, on_circle[1] - cy);
    let side = MARGIN * 2.0 * dx.hypot(dy);
    Roi {
        cx,
        cy,
        width: side,
        height: side,
        rotation: normalised(std::f32::consts::FRAC_PI_2 - (-dy).atan2(dx)),
    }
}

/// An angle in -π to π.
fn normalised(angle: f32) -> f32 {
    use std::f32::consts::{PI, TAU};
    angle - TAU * ((angle + PI) / TAU).floor()
}

/// Brings the network's points from the crop of `roi` to the picture: 39 × (x, y, z in pixels of the crop, logits of visibility
/// and presence), as it gives them. Returns the region for the next frame.
///
/// `None` where there are fewer numbers, one of them is not finite, or the next region is no place in any picture.
pub fn read_landmarks(
    raw: &[f32],
    roi_seen: &Roi,
    points: &mut [[f32; POINT_VALUES.len()]; POSE_POINT_COUNT],
) -> Option<Roi> {
    let raw: &[[f32; 5]; RAW_POINTS] = raw.as_chunks().0.first_chunk()?;
    if !raw.as_flattened().iter().all(|value| value.is_finite()) {
        return None;
    }
    let map = Affine2::image_from_crop(roi_seen, CROP);
    let depth = roi_seen.width / CROP as f32;
    for (point, &[x, y, z, visibility, presence]) in points.iter_mut().zip(raw) {
        let [px, py] = map.apply([x, y]);
        *point = [px, py, z * depth, sigmoid(visibility), sigmoid(presence)];
    }
    let [center, on_circle] = [CENTER, ON_CIRCLE].map(|at| map.apply([raw[at][0], raw[at][1]]));
    Some(roi(center, on_circle)).filter(is_usable)
}

/// Whether a region can be sampled: finite, and at least a pixel long.
pub fn is_usable(roi: &Roi) -> bool {
    let Roi { cx, cy, width, height, rotation } = *roi;
    [cx, cy, width, height, rotation].iter().all(|value| value.is_finite() && value.abs() < 1e6)
        && width.min(height) >= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_region_is_about_the_hip_and_upright_with_the_body() {
        let check = |on_circle: [f32; 2], side: f32, rotation: f32| {
            let found = roi([100.0, 200.0], on_circle);
            assert_eq!((found.cx, found.cy), (100.0, 200.0));
            assert!((found.width - side).abs() < 1e-3 && found.width == found.height, "{found:?}");
            assert!((found.rotation - rotation).abs() < 1e-6, "{found:?}");
        };
        use std::f32::consts::FRAC_PI_2;
        check([100.0, 120.0], 200.0, 0.0);
        // Clockwise in the picture: the head is on the right.
        check([180.0, 200.0], 200.0, FRAC_PI_2);
        check([20.0, 200.0], 200.0, -FRAC_PI_2);
        check([103.0, 196.0], 12.5, 3f32.atan2(4.0));
        assert!((roi([0.0, 0.0], [-1e-6, 1.0]).rotation.abs() - std::f32::consts::PI).abs() < 1e-5);
    }

    #[test]
    fn points_go_to_the_picture_and_logits_become_probabilities() {
        let mut raw = vec![0.0; RAW_POINTS * 5];
        raw[..5].copy_from_slice(&[128.0, 64.0, -32.0, 0.0, 100.0]);
        raw[CENTER * 5..CENTER * 5 + 2].copy_from_slice(&[128.0, 128.0]);
        raw[ON_CIRCLE * 5..ON_CIRCLE * 5 + 2].copy_from_slice(&[128.0, 28.0]);
        let seen = Roi { cx: 300.0, cy: 200.0, width: 512.0, height: 512.0, rotation: 0.0 };
        let mut points = [[0.0; 5]; POSE_POINT_COUNT];
        let next = read_landmarks(&raw, &seen, &mut points).unwrap();
        assert_eq!(points[0], [300.0, 72.0, -64.0, 0.5, 1.0]);
        assert_eq!(next, Roi { cx: 300.0, cy: 200.0, width: 500.0, height: 500.0, rotation: 0.0 });
        raw[7] = f32::NAN;
        assert_eq!(read_landmarks(&raw, &seen, &mut points), None);
        assert_eq!(read_landmarks(&raw[1..], &seen, &mut points), None);
        let circle_without_size = vec![0.0; RAW_POINTS * 5];
        assert_eq!(read_landmarks(&circle_without_size, &seen, &mut points), None);
    }

    proptest! {
        #[test]
        fn whatever_the_network_says_points_are_finite_and_the_next_region_is_usable(
            raw in prop::collection::vec(-1e4f32..1e4, 0..250),
            side in 1f32..5000.0,
            rotation in -4f32..4.0,
        ) {
            let seen = Roi { cx: 640.0, cy: 360.0, width: side, height: side, rotation };
            let mut points = [[0.0; 5]; POSE_POINT_COUNT];
            let next = read_landmarks(&raw, &seen, &mut points);
            prop_assert!(next.is_none_or(|next| is_usable(&next)));
            prop_assert!(points.as_flattened().iter().all(|value| value.is_finite()));
            prop_assert!(points.iter().all(|point| (0.0..=1.0).contains(&point[3])));
        }

        #[test]
        fn a_turned_body_has_a_turned_region(angle in -3.1f32..3.1, radius in 1f32..1000.0) {
            let found = roi([50.0, 60.0], [50.0 + radius * angle.sin(), 60.0 - radius * angle.cos()]);
            prop_assert!((found.rotation - angle).abs() < 1e-3, "{found:?}");
            prop_assert!((found.width - 2.5 * radius).abs() < 1e-2 * radius);
        }
    }
}
