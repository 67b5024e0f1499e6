//! How well a face is seen, as YouQuantiPy's streams tell it: three values from 0 to 1.
//!
//! Owns their definition. Pure, one value of state for each participant.

use std::collections::VecDeque;

use youquanti_models::{Face, PictureLayout};

/// Steps of the box's centre that stability is the mean of.
const STEPS: usize = 10;

/// Movement a frame, in widths of the box, at which a face is not stable at all.
const RESTLESS: f32 = 0.1;

/// Shares of the picture's area: where the size begins to be right, where it ceases to be, where it is of no use.
const AREA_FROM: f32 = 0.05;
const AREA_TO: f32 = 0.30;
const AREA_MOST: f32 = 0.80;

/// What is remembered of one participant.
#[derive(Clone, Debug, Default)]
pub(super) struct Quality {
    centre: Option<[f32; 2]>,
    steps: VecDeque<f32>,
}

impl Quality {
    /// Nobody is seen: a face that comes back begins anew.
    pub(super) fn lose(&mut self) {
        self.centre = None;
        self.steps.clear();
    }

    /// `quality_size`, `quality_frontal` and `quality_stability` of the participant's next face.
    ///
    /// Size is 1 for a box of 5 to 30 % of the picture's area, and falls linearly to 0 below and, at 80 %, above. Frontal
    /// is cos(yaw) · cos(pitch), 0 for a face turned away. Stability is 1 for a box whose centre stands still, and falls
    /// linearly to 0 at a movement of a tenth of the box's width a frame, as the mean of the last ten frames.
    pub(super) fn of(&mut self, face: &Face, picture: &PictureLayout) -> [f32; 3] {
        let [x0, y0, x1, y1] = face.bbox;
        let (width, height) = ((x1 - x0).max(0.0), (y1 - y0).max(0.0));
        let area = width * height / (picture.width.max(1) as f32 * picture.height.max(1) as f32);
        let centre = [(x0 + x1) / 2.0, (y0 + y1) / 2.0];
        if let Some([x, y]) = self.centre.replace(centre) {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back((centre[0] - x).hypot(centre[1] - y) / width.max(1.0));
        }
        let movement = self.steps.iter().sum::<f32>() / self.steps.len().max(1) as f32;
        // The face's own axis out of the face, along the camera's axis.
        let frontal = face.head_pose[2][2].clamp(0.0, 1.0);
        [size(area), frontal, (1.0 - movement / RESTLESS).clamp(0.0, 1.0)]
    }
}

fn size(area: f32) -> f32 {
    let below = area / AREA_FROM;
    let above = (AREA_MOST - area) / (AREA_MOST - AREA_TO);
    below.min(above).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use youquanti_models::{LANDMARK_COUNT, PixelFormat, TrackId};

    use super::*;

    const PICTURE: PictureLayout = PictureLayout::packed(1000, 1000, PixelFormat::Grey);

    fn face(x: f32) -> Face {
        let mut head_pose = [[0.0; 4]; 4];
        head_pose[2][2] = 0.5;
        Face {
            track: TrackId(0),
            score: 1.0,
            bbox: [x, 0.0, x + 400.0, 400.0],
            presence: 1.0,
            sharpness: None,
            landmarks: [[0.0; 3]; LANDMARK_COUNT],
            blendshapes: [0.0; 52],
            head_pose,
        }
    }

    #[test]
    fn sizes() {
        for (area, expected) in
            [(0.0, 0.0), (0.025, 0.5), (0.05, 1.0), (0.3, 1.0), (0.55, 0.5), (0.8, 0.0), (2.0, 0.0)]
        {
            assert!((size(area) - expected).abs() < 1e-6, "{area}: {} {expected}", size(area));
        }
    }

    #[test]
    fn a_face_that_moves_is_less_stable_until_it_has_stood_still_for_ten_frames() {
        let mut quality = Quality::default();
        assert_eq!(quality.of(&face(0.0), &PICTURE), [1.0, 0.5, 1.0]);
        // A twentieth of its width.
        assert!((quality.of(&face(20.0), &PICTURE)[2] - 0.5).abs() < 1e-6);
        for _ in 0..9 {
            assert!(quality.of(&face(20.0), &PICTURE)[2] < 1.0);
        }
        assert_eq!(quality.of(&face(20.0), &PICTURE)[2], 1.0);
        quality.lose();
        assert_eq!(quality.of(&face(900.0), &PICTURE)[2], 1.0, "no jump from where it was before");
    }
}
