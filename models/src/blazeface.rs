//! BlazeFace, MediaPipe's detectors, and BlazePose's, which is built alike: letter-box, anchors and decoding.
//!
//! Anchors and decoding follow the options of MediaPipe's `SsdAnchorsCalculator` and
//! `TensorsToDetectionsCalculator` for these networks. Never touches pixels.

use crate::detection::{Detection, DetectorKind};
use crate::geometry::{Affine2, Box2, Roi};

/// Score from which on MediaPipe's face landmarker takes a detection.
pub const SCORE_THRESHOLD: f32 = 0.5;

/// Overlap above which weighted suppression merges, as in MediaPipe's face landmarker.
pub const NMS_IOU: f32 = 0.5;

/// Numbers a network gives for each anchor before the keypoints: centre, size.
const BOX_VALUES: usize = 4;

/// The square of side `max(width, height)` about the picture's centre, seen by the network as a square of
/// `size` pixels, corner to corner: input pixel i reads picture coordinate `origin + i * side / size`.
/// Outside of the picture is black before normalisation (`x / 127.5 - 1`, RGB).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    /// Picture coordinate of input pixel (0, 0).
    pub origin: [f32; 2],
    /// Side of the square in picture pixels.
    pub side: f32,
    /// Side of the network's input in its own pixels.
    pub size: u32,
}

impl Letterbox {
    /// The letter-box of a picture of `width` × `height` pixels.
    pub fn new(width: u32, height: u32, size: u32) -> Self {
        let side = width.max(height) as f32;
        Self { origin: [(width as f32 - side) / 2.0, (height as f32 - side) / 2.0], side, size }
    }

    /// The map by which the network's input is sampled.
    pub fn image_from_input(&self) -> Affine2 {
        let half = self.side / 2.0;
        let [cx, cy] = self.origin.map(|v| v + half);
        Affine2::image_from_crop(
            &Roi { cx, cy, width: self.side, height: self.side, rotation: 0.0 },
            self.size,
        )
    }

    /// A point in fractions of the square, to the picture.
    fn to_picture(self, [x, y]: [f32; 2]) -> [f32; 2] {
        [x * self.side + self.origin[0], y * self.side + self.origin[1]]
    }
}

/// One of the networks: its input size and its anchors.
#[derive(Clone, Debug)]
pub struct BlazeFace {
    kind: DetectorKind,
    size: u32,
    /// See [`Self::anchors`].
    anchors: Vec<[f32; 2]>,
}

impl BlazeFace {
    /// Short range: 128 × 128, faces of about a sixth of the longer side or more; 896 anchors.
    pub fn short() -> Self {
        Self::new(DetectorKind::BlazeFace, 128, &[(16, 2), (8, 6)])
    }

    /// Full range: 192 × 192; 2304 anchors.
    pub fn full() -> Self {
        Self::new(DetectorKind::BlazeFace, 192, &[(48, 1)])
    }

    /// Persons: 224 × 224; 2254 anchors.
    pub fn person() -> Self {
        Self::new(DetectorKind::BlazePose, 224, &[(28, 2), (14, 2), (7, 6)])
    }

    /// `grids`: cells a side and anchors in each cell.
    fn new(kind: DetectorKind, size: u32, grids: &[(u16, usize)]) -> Self {
        let mut anchors = Vec::new();
        for &(cells, copies) in grids {
            let center = |i: u16| (f32::from(i) + 0.5) / f32::from(cells);
            for row in 0..cells {
                for column in 0..cells {
                    anchors.extend(std::iter::repeat_n([center(column), center(row)], copies));
                }
            }
        }
        Self { kind, size, anchors }
    }

    /// Side of the square input, pixels.
    pub fn input_size(&self) -> u32 {
        self.size
    }

    /// Anchors, that is candidates at most.
    pub fn anchor_count(&self) -> usize {
        self.anchors.len()
    }

    /// Centres of the anchors in the order of the network's outputs, x and y in fractions of the input. An
    /// anchor's size is 1.
    pub fn anchors(&self) -> &[[f32; 2]] {
        &self.anchors
    }

    /// Appends what the network sees to `out`, in picture pixels, candidates overlapping: weighted
    /// suppression with [`NMS_IOU`] is the next step.
    ///
    /// `regressors` holds centre, size and keypoints, and `scores` one logit, for each anchor; a shorter slice is read as
    /// far as it goes. Candidates that are not finite or have no area are left out.
    pub fn decode(
        &self,
        regressors: &[f32],
        scores: &[f32],
        score_threshold: f32,
        letterbox: &Letterbox,
        out: &mut Vec<Detection>,
    ) {
        let values = regressors.chunks_exact(BOX_VALUES + 2 * self.kind.keypoint_count());
        for ((&anchor, &logit), r) in self.anchors.iter().zip(scores).zip(values) {
            let score = sigmoid(logit);
            // Written so that NaN is left out.
            if score >= score_threshold {
                let detection = self.decode_one(anchor, r, score, letterbox);
                if detection.is_sound() {
                    out.push(detection);
                }
            }
        }
    }

    fn decode_one(&self, [ax, ay]: [f32; 2], r: &[f32], score: f32, letterbox: &Letterbox) -> Detection {
        let scale = 1.0 / self.size as f32;
        let point = |x: f32, y: f32| letterbox.to_picture([x * scale + ax, y * scale + ay]);
        let [cx, cy] = point(r[0], r[1]);
        let [width, height] = [r[2], r[3]].map(|v| v * scale * letterbox.side);
        let mut keypoints = [[0.0; 2]; 6];
        for (keypoint, &[x, y]) in keypoints.iter_mut().zip(r[BOX_VALUES..].as_chunks::<2>().0) {
            *keypoint = point(x, y);
        }
        Detection { kind: self.kind, score, bbox: Box2::from_center(cx, cy, width, height), keypoints }
    }
}

/// `1 / (1 + e^-x)` with x clipped to ±100 first: the logits of the short-range network reach thousands.
/// Also turns the landmark network's presence logit into a score. NaN stays NaN.
pub fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit.clamp(-100.0, 100.0))).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers a face network gives for each anchor.
    const VALUES: usize = 16;

    #[test]
    fn anchors_in_the_networks_order() {
        let (short, full) = (BlazeFace::short(), BlazeFace::full());
        assert_eq!((short.anchor_count(), full.anchor_count()), (896, 2304));
        let check = |net: &BlazeFace, at: usize, expected: [f32; 2]| assert_eq!(net.anchors()[at], expected);
        check(&short, 1, [0.5 / 16.0, 0.5 / 16.0]);
        check(&short, 2, [1.5 / 16.0, 0.5 / 16.0]);
        check(&short, 32, [0.5 / 16.0, 1.5 / 16.0]);
        check(&short, 512, [0.5 / 8.0, 0.5 / 8.0]);
        check(&short, 895, [7.5 / 8.0, 7.5 / 8.0]);
        check(&full, 49, [1.5 / 48.0, 1.5 / 48.0]);
        let person = BlazeFace::person();
        assert_eq!(person.anchor_count(), 2254);
        check(&person, 1568, [0.5 / 14.0, 0.5 / 14.0]);
        check(&person, 2253, [6.5 / 7.0, 6.5 / 7.0]);
    }

    #[test]
    fn letterbox_of_a_wide_and_a_tall_picture() {
        let check = |w, h, origin, side| {
            let letterbox = Letterbox::new(w, h, 128);
            assert_eq!((letterbox.origin, letterbox.side), (origin, side));
            let map = letterbox.image_from_input();
            assert_eq!(map.apply([0.0, 0.0]), origin);
            assert_eq!(map.apply([128.0, 128.0]), origin.map(|v| v + side));
        };
        check(1280, 720, [0.0, -280.0], 1280.0);
        check(480, 640, [-80.0, 0.0], 640.0);
    }

    #[test]
    fn one_candidate_by_hand() {
        // The last anchor of the full network; a picture of 384 × 192, so that 1 input pixel is 2 pixels.
        let net = BlazeFace::full();
        let mut regressors = vec![0.0; 2304 * VALUES];
        let mut scores = vec![-5000.0; 2304];
        scores[2303] = 2.0;
        regressors[2303 * VALUES..].copy_from_slice(&[
            -90.0, -94.0, 20.0, 30.0, -95., -96., -85., -96., 0., 0., 0., 0., 0., 0., 0., 0.,
        ]);
        let mut out = Vec::new();
        net.decode(&regressors, &scores, SCORE_THRESHOLD, &Letterbox::new(384, 192, 192), &mut out);
        let [found] = out[..] else { panic!("{out:?}") };
        // Anchor at 190 of 192 input pixels: centre (100, 96), in the picture (200, 192 - 96).
        let expected = Box2 { x0: 180.0, y0: 66.0, x1: 220.0, y1: 126.0 };
        assert!((found.score - 0.880_797).abs() < 1e-6);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-3;
        assert!(near(found.bbox.x0, expected.x0) && near(found.bbox.y0, expected.y0), "{found:?}");
        assert!(near(found.bbox.x1, expected.x1) && near(found.bbox.y1, expected.y1), "{found:?}");
        let roi = found.roi();
        assert!(near(roi.width, 60.0) && near(roi.height, 90.0) && near(roi.rotation, 0.0), "{roi:?}");
        assert!(near(found.right_eye()[0], 190.0) && near(found.left_eye()[0], 210.0), "{found:?}");
    }

    #[test]
    fn logits_far_from_zero() {
        let check = |logit, expected: f32| assert!((sigmoid(logit) - expected).abs() < 1e-7, "{logit}");
        check(0.0, 0.5);
        check(6000.0, 1.0);
        check(-6000.0, 0.0);
        check(f32::INFINITY, 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn whatever_the_network_says_boxes_are_sound(
            values in prop::collection::vec(any::<f32>(), 0..3000),
            logits in prop::collection::vec(any::<f32>(), 0..200),
        ) {
            let mut out = Vec::new();
            let letterbox = Letterbox::new(1279, 721, 128);
            BlazeFace::short().decode(&values, &logits, SCORE_THRESHOLD, &letterbox, &mut out);
            BlazeFace::person().decode(&values, &logits, SCORE_THRESHOLD, &letterbox, &mut out);
            prop_assert!(out.iter().all(|d| d.is_sound() && (0.5..=1.0).contains(&d.score)));
        }
    }
}
