//! From landmarks to the region in which the next frame's landmarks are looked for.

use crate::face::LANDMARK_COUNT;
use crate::geometry::{Box2, Roi};

/// Outer corner of the eye on the picture's left in a frontal face.
pub const LEFT_IN_PICTURE_EYE_CORNER: usize = 33;
/// Outer corner of the eye on the picture's right.
pub const RIGHT_IN_PICTURE_EYE_CORNER: usize = 263;

/// How much longer than the face's box the region is, so that a moving face stays inside.
const MARGIN: f32 = 1.5;

/// The smallest upright box around all landmarks, irises included. Not sound where a landmark is not finite.
pub fn landmark_box(landmarks: &[[f32; 3]; LANDMARK_COUNT]) -> Box2 {
    let mut bbox = Box2 { x0: f32::MAX, y0: f32::MAX, x1: f32::MIN, y1: f32::MIN };
    let mut finite = true;
    for &[x, y, _] in landmarks {
        bbox.x0 = bbox.x0.min(x);
        bbox.y0 = bbox.y0.min(y);
        bbox.x1 = bbox.x1.max(x);
        bbox.y1 = bbox.y1.max(y);
        finite &= x.is_finite() && y.is_finite();
    }
    if finite { bbox } else { Box2 { x0: f32::NAN, ..bbox } }
}

/// The landmark network's region for the next frame (MediaPipe's rule): a square of 1.5 times the longer
/// side of the landmarks' box, about that box's centre, turned so that the outer eye corners are level.
/// `None` where a landmark is not finite or all are one point.
pub fn roi_from_landmarks(landmarks: &[[f32; 3]; LANDMARK_COUNT]) -> Option<Roi> {
    let bbox = landmark_box(landmarks);
    let side = MARGIN * bbox.width().max(bbox.height());
    if !bbox.is_sound() || !side.is_finite() {
        return None;
    }
    let [left, right] = [LEFT_IN_PICTURE_EYE_CORNER, RIGHT_IN_PICTURE_EYE_CORNER].map(|i| landmarks[i]);
    let [cx, cy] = bbox.center();
    Some(Roi { cx, cy, width: side, height: side, rotation: (right[1] - left[1]).atan2(right[0] - left[0]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landmarks(corners: [[f32; 2]; 2], eyes: [[f32; 2]; 2]) -> [[f32; 3]; LANDMARK_COUNT] {
        let flat = |[x, y]: [f32; 2]| [x, y, 0.0];
        let mut all = [flat(corners[0]); LANDMARK_COUNT];
        all[10] = flat(corners[1]);
        all[LEFT_IN_PICTURE_EYE_CORNER] = flat(eyes[0]);
        all[RIGHT_IN_PICTURE_EYE_CORNER] = flat(eyes[1]);
        all
    }

    #[test]
    fn a_square_about_the_box_turned_with_the_eyes() {
        let points = landmarks([[10.0, 20.0], [50.0, 80.0]], [[20.0, 40.0], [40.0, 60.0]]);
        let rotation = std::f32::consts::FRAC_PI_4;
        let expected = Roi { cx: 30.0, cy: 50.0, width: 90.0, height: 90.0, rotation };
        assert_eq!(roi_from_landmarks(&points), Some(expected));
    }

    #[test]
    fn no_region_without_a_face() {
        assert_eq!(roi_from_landmarks(&[[3.0; 3]; LANDMARK_COUNT]), None);
        let mut points = landmarks([[10.0, 20.0], [50.0, 80.0]], [[20.0, 40.0], [40.0, 60.0]]);
        points[477][1] = f32::NAN;
        assert_eq!(roi_from_landmarks(&points), None);
        points[477][1] = f32::INFINITY;
        assert_eq!(roi_from_landmarks(&points), None);
    }
}
