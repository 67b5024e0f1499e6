//! Non-maximum suppression, plain and weighted, in the detections' own buffer.
//!
//! Allocates nothing once its scratch has grown to the largest number of candidates seen.

use crate::detection::Detection;
use crate::geometry::Box2;

/// What becomes of the detections that a better one suppresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmsMode {
    /// They are dropped (YuNet).
    Plain,
    /// The kept one takes the mean of its own and their boxes and keypoints, weighted by score, and
    /// keeps its own score (BlazeFace, as MediaPipe does it).
    Weighted,
}

/// Scratch space for suppression.
#[derive(Debug, Default)]
pub struct Nms {
    /// Candidates with their places in the given order.
    left: Vec<(usize, Detection)>,
}

impl Nms {
    /// Scratch that needs no growth up to so many candidates.
    pub fn with_capacity(candidates: usize) -> Self {
        Self { left: Vec::with_capacity(candidates) }
    }

    /// Leaves in `detections` the best of each group whose members overlap it by more than
    /// `iou_threshold`, best score first; of equal scores the earlier wins.
    ///
    /// In weighted mode a group's mean is what is left, so that two of them may overlap by more than
    /// the threshold again, as in MediaPipe.
    pub fn run(&mut self, mode: NmsMode, iou_threshold: f32, detections: &mut Vec<Detection>) {
        let left = &mut self.left;
        left.clear();
        left.extend(detections.drain(..).enumerate());
        left.sort_unstable_by(|(i, a), (j, b)| b.score.total_cmp(&a.score).then(i.cmp(j)));
        let mut best_at = 0;
        while let Some(&(_, best)) = left.get(best_at) {
            best_at += 1;
            let mut mean = Mean::of(&best);
            let mut kept = best_at;
            for at in best_at..left.len() {
                if best.bbox.iou(&left[at].1.bbox) > iou_threshold {
                    mean.add(&left[at].1);
                } else {
                    left.swap(kept, at);
                    kept += 1;
                }
            }
            left.truncate(kept);
            detections.push(match mode {
                NmsMode::Plain => best,
                NmsMode::Weighted => mean.finish(best),
            });
        }
    }
}

/// Score-weighted sums of boxes and keypoints, in f64 so that the order of adding does not matter.
struct Mean {
    weight: f64,
    bbox: [f64; 4],
    keypoints: [f64; 12],
}

impl Mean {
    fn of(first: &Detection) -> Self {
        let mut mean = Self { weight: 0.0, bbox: [0.0; 4], keypoints: [0.0; 12] };
        mean.add(first);
        mean
    }

    fn add(&mut self, detection: &Detection) {
        let weight = f64::from(detection.score);
        let Box2 { x0, y0, x1, y1 } = detection.bbox;
        self.weight += weight;
        for (sum, value) in self.bbox.iter_mut().zip([x0, y0, x1, y1]) {
            *sum += weight * f64::from(value);
        }
        for (sum, &value) in self.keypoints.iter_mut().zip(detection.keypoints.as_flattened()) {
            *sum += weight * f64::from(value);
        }
    }

    fn finish(self, best: Detection) -> Detection {
        if self.weight <= 0.0 {
            return best;
        }
        let [x0, y0, x1, y1] = self.bbox.map(|sum| (sum / self.weight) as f32);
        let mut keypoints = best.keypoints;
        for (value, sum) in keypoints.as_flattened_mut().iter_mut().zip(self.keypoints) {
            *value = (sum / self.weight) as f32;
        }
        Detection { bbox: Box2 { x0, y0, x1, y1 }, keypoints, ..best }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::DetectorKind;
    use proptest::prelude::*;

    fn detection(score: f32, x0: f32, width: f32) -> Detection {
        let bbox = Box2 { x0, y0: 0.0, x1: x0 + width, y1: 10.0 };
        Detection { kind: DetectorKind::YuNet, score, bbox, keypoints: [[x0, 5.0]; 6] }
    }

    /// Score, left edge and first keypoint's x of what is left.
    fn check(mode: NmsMode, threshold: f32, given: &[(f32, f32)], expected: &[(f32, f32)]) {
        let mut detections: Vec<_> = given.iter().map(|&(score, x0)| detection(score, x0, 10.0)).collect();
        Nms::default().run(mode, threshold, &mut detections);
        let got: Vec<_> = detections.iter().map(|d| (d.score, d.bbox.x0)).collect();
        assert_eq!(got, expected);
        assert!(detections.iter().all(|d| d.keypoints[5][0] == d.bbox.x0), "keypoints go with the box");
    }

    #[test]
    fn plain_keeps_the_best_of_each_group() {
        // Boxes 10 wide: 2 apart overlap by 8/12, 6 apart by 4/16.
        check(NmsMode::Plain, 0.3, &[(0.7, 2.0), (0.9, 0.0), (0.8, 6.0)], &[(0.9, 0.0), (0.8, 6.0)]);
        check(NmsMode::Plain, 0.2, &[(0.7, 2.0), (0.9, 0.0), (0.8, 6.0)], &[(0.9, 0.0)]);
        check(NmsMode::Plain, 0.3, &[], &[]);
        check(NmsMode::Plain, 0.3, &[(1.0, 1.0), (1.0, 0.0), (1.0, 2.0)], &[(1.0, 1.0)]);
    }

    #[test]
    fn weighted_takes_the_mean_of_what_it_swallows() {
        // 2 apart: one group, its mean at 0.75 * 2 + 0.25 * 4. The far one stays as it is.
        check(NmsMode::Weighted, 0.5, &[(0.25, 4.0), (0.5, 60.0), (0.75, 2.0)], &[(0.75, 2.5), (0.5, 60.0)]);
    }

    proptest! {
        #[test]
        fn nothing_left_overlaps(
            given in prop::collection::vec((0f32..1.0, 0f32..100.0, 1f32..30.0), 0..60),
            threshold in 0f32..0.9,
        ) {
            let mut left: Vec<_> = given.iter().map(|&(s, x, w)| detection(s, x, w)).collect();
            let all = left.clone();
            Nms::default().run(NmsMode::Plain, threshold, &mut left);
            for (at, a) in left.iter().enumerate() {
                prop_assert!(all.contains(a));
                prop_assert!(left[at + 1..].iter().all(|b| a.bbox.iou(&b.bbox) <= threshold));
                prop_assert!(left[at + 1..].iter().all(|b| a.score >= b.score));
            }
            for a in &all {
                prop_assert!(left.iter().any(|b| b == a || b.bbox.iou(&a.bbox) > threshold));
            }
        }
    }
}
