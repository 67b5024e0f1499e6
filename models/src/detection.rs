//! What a detector says of one face or person, whichever detector it is.

use crate::geometry::{Box2, Roi};
use crate::pose;

/// Which detector a detection is from: it decides the meaning of keypoints and the ROI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetectorKind {
    /// Six keypoints: right eye, left eye (the subject's), nose tip, mouth centre, right and left tragion.
    BlazeFace,
    /// Five keypoints: right eye, left eye (the subject's), nose tip, right and left mouth corner.
    YuNet,
    /// Of a person, four keypoints: mid-hip, a point on the circle about the whole body, mid-shoulder, a point on the circle
    /// about the upper body.
    BlazePose,
}

impl DetectorKind {
    /// Keypoints that the detector gives.
    pub const fn keypoint_count(self) -> usize {
        match self {
            Self::BlazeFace => 6,
            Self::YuNet => 5,
            Self::BlazePose => 4,
        }
    }
}

/// One detected face or person, pixels of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Which detector saw it.
    pub kind: DetectorKind,
    /// 0 to 1.
    pub score: f32,
    /// Sound by construction: finite and with an area. May reach beyond the picture.
    pub bbox: Box2,
    /// x, y; the first [`DetectorKind::keypoint_count`] count, the rest are 0. All finite.
    pub keypoints: [[f32; 2]; 6],
}

impl Detection {
    /// Of a face, the subject's right eye: on the picture's left in a frontal face.
    pub fn right_eye(&self) -> [f32; 2] {
        self.keypoints[0]
    }

    /// Of a face, the subject's left eye.
    pub fn left_eye(&self) -> [f32; 2] {
        self.keypoints[1]
    }

    /// The region that the landmark network should see. Of a face: the box's centre, turned so that the eyes are
    /// level. BlazeFace: 1.5 times the box, not squared first (MediaPipe). YuNet: a square of 1.4 times
    /// the longer side (measured on both test portraits: the first pass is then within 1 px of the second). Of a person: see [`crate::pose::roi`].
    pub fn roi(&self) -> Roi {
        let [cx, cy] = self.bbox.center();
        let (width, height) = match self.kind {
            DetectorKind::BlazeFace => (self.bbox.width() * 1.5, self.bbox.height() * 1.5),
            DetectorKind::YuNet => {
                let side = self.bbox.width().max(self.bbox.height()) * 1.4;
                (side, side)
            }
            DetectorKind::BlazePose => return pose::roi(self.keypoints[0], self.keypoints[1]),
        };
        let ([rx, ry], [lx, ly]) = (self.right_eye(), self.left_eye());
        Roi { cx, cy, width, height, rotation: (ly - ry).atan2(lx - rx) }
    }

    /// Whether box and keypoints are usable.
    pub(crate) fn is_sound(&self) -> bool {
        self.bbox.is_sound() && self.keypoints.as_flattened().iter().all(|v| v.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: DetectorKind, left_eye: [f32; 2], expected: Roi) {
        let mut keypoints = [[0.0; 2]; 6];
        keypoints[0] = [10.0, 20.0];
        keypoints[1] = left_eye;
        let bbox = Box2 { x0: 0.0, y0: 10.0, x1: 40.0, y1: 60.0 };
        assert_eq!(Detection { kind, score: 0.9, bbox, keypoints }.roi(), expected);
    }

    #[test]
    fn regions_of_both_detectors() {
        let level = Roi { cx: 20.0, cy: 35.0, width: 60.0, height: 75.0, rotation: 0.0 };
        check(DetectorKind::BlazeFace, [30.0, 20.0], level);
        let tilted = Roi { width: 70.0, height: 70.0, rotation: std::f32::consts::FRAC_PI_4, ..level };
        check(DetectorKind::YuNet, [30.0, 40.0], tilted);
    }
}
