//! The blendshape network: its input from landmarks, and the names of its output.
//!
//! The network centres and scales its points itself, so pixels of any picture serve; head roll is not removed.

use crate::face::{BLENDSHAPE_COUNT, LANDMARK_COUNT};

/// Landmarks that the network takes.
pub const POINT_COUNT: usize = 146;

/// Names of the coefficients, in the network's order. Left and right are the subject's.
pub const NAMES: [&str; BLENDSHAPE_COUNT] = [
    "_neutral",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeLookDownLeft",
    "eyeLookDownRight",
    "eyeLookInLeft",
    "eyeLookInRight",
    "eyeLookOutLeft",
    "eyeLookOutRight",
    "eyeLookUpLeft",
    "eyeLookUpRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawOpen",
    "jawRight",
    "mouthClose",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthFunnel",
    "mouthLeft",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthPucker",
    "mouthRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "noseSneerLeft",
    "noseSneerRight",
];

/// Which landmarks the network takes, in its order.
pub const SUBSET_146: [usize; POINT_COUNT] = [
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70,
    78, 80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149,
    150, 152, 153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195,
    197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300,
    308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375,
    377, 378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454,
    466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
];

/// Writes the network's input for one face: x, y of each point in picture pixels, in a row.
pub fn gather(landmarks: &[[f32; 3]; LANDMARK_COUNT], out: &mut [f32; POINT_COUNT * 2]) {
    for (to, &point) in out.as_chunks_mut::<2>().0.iter_mut().zip(&SUBSET_146) {
        let [x, y, _] = landmarks[point];
        *to = [x, y];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_names_are_in_order() {
        assert!(SUBSET_146.is_sorted_by(|a, b| a < b), "ascending, none twice");
        assert_eq!((SUBSET_146[0], SUBSET_146[145]), (0, LANDMARK_COUNT - 1));
        assert!(NAMES[1..].is_sorted(), "after _neutral they are in the order of the alphabet");
        assert_eq!((NAMES[0], NAMES[25], NAMES[51]), ("_neutral", "jawOpen", "noseSneerRight"));
    }

    #[test]
    fn x_and_y_of_each_point_without_depth() {
        let landmarks = std::array::from_fn(|i| [i as f32, -(i as f32), 1e9]);
        let mut out = [0.0; POINT_COUNT * 2];
        gather(&landmarks, &mut out);
        assert_eq!(out[..8], [0.0, 0.0, 1.0, -1.0, 4.0, -4.0, 5.0, -5.0]);
        assert_eq!(out[290..], [477.0, -477.0]);
    }
}
