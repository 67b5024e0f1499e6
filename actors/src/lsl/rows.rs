//! What the values of each stream are: one function a kind of row, into a buffer that is used again.
//!
//! Owns units and the order of channels; their labels stand in `channels.rs`. Pure.

use std::time::Duration;

use youquanti_models::head_pose::quaternion;
use youquanti_models::{
    BLENDSHAPE_COUNT, BodyPose, Face, FrameMeta, LANDMARK_COUNT, POSE_POINT_COUNT, PictureLayout, Timestamp,
};

use super::LslPlan;
use crate::synchrony::{Likeness, SynchronyWindow};

/// Values of the mesh: x, y, z of each landmark.
pub(super) const MESH: usize = 3 * LANDMARK_COUNT;

/// 52 blendshapes, then whether there is a face, the landmark network's confidence (0 to 1), the age of the row when it is
/// sent (ms), and the camera's number. Without a face: NaN, 0, NaN.
pub(super) fn blendshapes(row: &mut Vec<f32>, face: Option<&Face>, meta: &FrameMeta, now: Timestamp) {
    let age_ms = now.saturating_since(meta.captured_at).as_secs_f32() * 1e3;
    let camera = f32::from(meta.camera.0);
    match face {
        Some(face) => {
            row.extend_from_slice(&face.blendshapes);
            row.extend_from_slice(&[1.0, face.presence, age_ms, camera]);
        }
        None => {
            row.resize(row.len() + BLENDSHAPE_COUNT, f32::NAN);
            row.extend_from_slice(&[0.0, f32::NAN, age_ms, camera]);
        }
    }
}

/// Position (m), orientation as a unit quaternion, real part first and not negative, confidence 0 to 1. Without a face:
/// NaN, and confidence 0.
pub(super) fn head_pose(row: &mut Vec<f32>, face: Option<&Face>) {
    let Some(face) = face else {
        row.resize(row.len() + 7, f32::NAN);
        return row.push(0.0);
    };
    let pose = &face.head_pose;
    row.extend_from_slice(&[pose[0][3], pose[1][3], pose[2][3]]);
    row.extend_from_slice(&quaternion(pose));
    row.push(face.presence);
}

/// x, y, z of each landmark, pixels of the camera picture. Without a face: NaN.
pub(super) fn mesh(row: &mut Vec<f32>, face: Option<&Face>) {
    match face {
        Some(face) => row.extend_from_slice(face.landmarks.as_flattened()),
        None => row.resize(row.len() + MESH, f32::NAN),
    }
}

/// The mesh as MediaPipe gives it: x in widths of the picture, y in heights, z in widths.
fn normalised_mesh(row: &mut Vec<f32>, face: &Face, picture: &PictureLayout) {
    let (width, height) = (picture.width.max(1) as f32, picture.height.max(1) as f32);
    row.extend(face.landmarks.iter().flat_map(|[x, y, z]| [x / width, y / height, z / width]));
}

/// A row of YouQuantiPy: 52 scores, the mesh and three values of quality as far as the plan has them; all zeros without a face.
pub(super) fn landmarks(
    row: &mut Vec<f32>,
    face: Option<&Face>,
    plan: &LslPlan,
    picture: &PictureLayout,
    quality: [f32; 3],
) {
    let Some(face) = face else {
        let mesh = if plan.mesh { MESH } else { 0 };
        let quality = if plan.quality { quality.len() } else { 0 };
        return row.resize(row.len() + BLENDSHAPE_COUNT + mesh + quality, 0.0);
    };
    row.extend_from_slice(&face.blendshapes);
    if plan.mesh {
        normalised_mesh(row, face, picture);
    }
    if plan.quality {
        row.extend_from_slice(&quality);
    }
}

/// A body as MediaPipe gives it: x in widths of the picture, y in heights, z in widths, visibility (0 to 1) of each point; all zeros
/// without one.
pub(super) fn pose(row: &mut Vec<f32>, body: Option<&BodyPose>, picture: &PictureLayout) {
    let Some(body) = body else { return row.resize(row.len() + 4 * POSE_POINT_COUNT, 0.0) };
    let (width, height) = (picture.width.max(1) as f32, picture.height.max(1) as f32);
    row.extend(
        body.points
            .iter()
            .flat_map(|[x, y, z, visibility, _]| [x / width, y / height, z / width, *visibility]),
    );
}

/// r, lag (s), p and the common part of each pair and group, in the order of `LIKENESS_COLUMNS`.
pub(super) fn synchrony(row: &mut Vec<f32>, window: &SynchronyWindow) {
    row.extend(window.likeness.iter().flat_map(Likeness::columns));
}

/// Frame number, the driver's number, stamp (s), frames without a result so far.
pub(super) fn frame(meta: &FrameMeta, dropped: u64) -> [f64; 4] {
    [meta.seq as f64, f64::from(meta.driver_seq), seconds(meta.captured_at), dropped as f64]
}

/// Frame number, stamp as Unix time (s), the same on LSL's clock (s), and since the camera's first frame (s).
pub(super) fn video_frame(meta: &FrameMeta, since_epoch: Duration, first: Timestamp) -> [f64; 4] {
    let video = meta.captured_at.saturating_since(first).as_secs_f64();
    [meta.seq as f64, since_epoch.as_secs_f64(), seconds(meta.captured_at), video]
}

/// A stamp as LSL writes it.
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rotation([a, b, c, d]: [f32; 4]) -> [[f32; 4]; 4] {
        [
            [1.0 - 2.0 * (c * c + d * d), 2.0 * (b * c - a * d), 2.0 * (b * d + a * c), 0.0],
            [2.0 * (b * c + a * d), 1.0 - 2.0 * (b * b + d * d), 2.0 * (c * d - a * b), 0.0],
            [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), 1.0 - 2.0 * (b * b + c * c), 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    }

    #[test]
    fn no_rotation_and_half_turns() {
        for quaternion_of in
            [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
        {
            assert_eq!(quaternion(&rotation(quaternion_of)), quaternion_of);
        }
    }

    proptest! {
        #[test]
        fn a_rotation_and_its_quaternion_are_the_same(parts in proptest::array::uniform4(-1.0f32..1.0)) {
            let length = parts.iter().map(|part| part * part).sum::<f32>().sqrt();
            prop_assume!(length > 0.1);
            let sign = if parts[0] < 0.0 { -1.0 } else { 1.0 };
            let expected = parts.map(|part| sign * part / length);
            let found = quaternion(&rotation(expected));
            let error = |sign: f32| found.iter().zip(&expected).map(|(f, e)| (f - sign * e).abs()).fold(0.0, f32::max);
            // Near a half turn either sign is right.
            prop_assert!(error(1.0).min(error(-1.0)) < 1e-5, "{found:?} {expected:?}");
            prop_assert!(found[0] >= 0.0);
        }
    }
}
