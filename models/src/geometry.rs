//! Boxes, rotated regions and the maps between a picture and a network's input.
//!
//! All coordinates are pixels of the camera picture or of a crop: x right, y down, (0, 0) the centre of
//! the first pixel. Angles are radians, clockwise as seen in the picture. Never touches pixels.

use crate::face::LANDMARK_COUNT;

/// An upright box in pixels. May reach beyond the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Box2 {
    /// Left edge.
    pub x0: f32,
    /// Upper edge.
    pub y0: f32,
    /// Right edge, not less than `x0` in a sound box.
    pub x1: f32,
    /// Lower edge, not less than `y0` in a sound box.
    pub y1: f32,
}

impl Box2 {
    /// The box around a centre.
    pub fn from_center(cx: f32, cy: f32, width: f32, height: f32) -> Self {
        let (half_width, half_height) = (width / 2.0, height / 2.0);
        Self { x0: cx - half_width, y0: cy - half_height, x1: cx + half_width, y1: cy + half_height }
    }

    /// Pixels, negative in an inverted box.
    pub fn width(&self) -> f32 {
        self.x1 - self.x0
    }

    /// Pixels, negative in an inverted box.
    pub fn height(&self) -> f32 {
        self.y1 - self.y0
    }

    /// x and y of the middle.
    pub fn center(&self) -> [f32; 2] {
        [(self.x0 + self.x1) / 2.0, (self.y0 + self.y1) / 2.0]
    }

    /// Whether all edges are finite and the box has an area.
    pub fn is_sound(&self) -> bool {
        [self.x0, self.y0, self.x1, self.y1].iter().all(|v| v.is_finite())
            && self.width() > 0.0
            && self.height() > 0.0
    }

    /// Intersection over union, 0 to 1; 0 when either box is not sound.
    pub fn iou(&self, other: &Self) -> f32 {
        if !self.is_sound() || !other.is_sound() {
            return 0.0;
        }
        let width = self.x1.min(other.x1) - self.x0.max(other.x0);
        let height = self.y1.min(other.y1) - self.y0.max(other.y0);
        let shared = width.max(0.0) * height.max(0.0);
        let union = self.width() * self.height() + other.width() * other.height() - shared;
        if union > 0.0 && union.is_finite() { (shared / union).min(1.0) } else { 0.0 }
    }
}

/// A rotated region of a picture: what the landmark network gets to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Centre, pixels.
    pub cx: f32,
    /// Centre, pixels.
    pub cy: f32,
    /// Side along the rotated x axis, pixels, above 0.
    pub width: f32,
    /// Side along the rotated y axis, pixels, above 0.
    pub height: f32,
    /// Radians, clockwise in the picture; 0 for a face whose eyes are level.
    pub rotation: f32,
}

impl Roi {
    /// The region's box with its rotation ignored, as tracks and detections are compared by.
    pub fn unrotated(&self) -> Box2 {
        Box2::from_center(self.cx, self.cy, self.width, self.height)
    }
}

/// An affine map of the plane: `x' = m[0][0] x + m[0][1] y + m[0][2]`, y' likewise from the second row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine2 {
    /// Two rows of three.
    pub m: [[f32; 3]; 2],
}

impl Affine2 {
    /// The map from pixel indices of a square crop of `size` pixels to the picture, corner to corner:
    /// index 0 is the region's corner and index `size` its opposite one, with no half-pixel shift.
    pub fn image_from_crop(roi: &Roi, size: u32) -> Self {
        let (sin, cos) = roi.rotation.sin_cos();
        let size = size as f32;
        let (sx, sy) = (roi.width / size, roi.height / size);
        let (half_width, half_height) = (roi.width / 2.0, roi.height / 2.0);
        Self {
            m: [
                [cos * sx, -sin * sy, roi.cx - cos * half_width + sin * half_height],
                [sin * sx, cos * sy, roi.cy - sin * half_width - cos * half_height],
            ],
        }
    }

    /// Where a point goes.
    pub fn apply(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        self.m.map(|[a, b, c]| a * x + b * y + c)
    }

    /// The way back; `None` where the map flattens the plane or is not finite.
    pub fn inverse(&self) -> Option<Self> {
        let [[a, b, c], [d, e, f]] = self.m.map(|row| row.map(f64::from));
        let determinant = a * e - b * d;
        if !determinant.is_normal() {
            return None;
        }
        let rows = [
            [e, -b, b * f - c * e].map(|v| (v / determinant) as f32),
            [-d, a, c * d - a * f].map(|v| (v / determinant) as f32),
        ];
        rows.as_flattened().iter().all(|v| v.is_finite()).then_some(Self { m: rows })
    }
}

/// Brings landmarks from a crop of `size` pixels, x, y, z of each in a row as the network gives them,
/// to the picture. z is scaled like x, so that a rotated head keeps its depth:
/// `Z = z / size * roi.width`, pixels of the picture, negative is nearer.
///
/// Takes as many points as `crop` holds, at most [`LANDMARK_COUNT`].
pub fn landmarks_to_picture(crop: &[f32], roi: &Roi, size: u32, out: &mut [[f32; 3]; LANDMARK_COUNT]) {
    let map = Affine2::image_from_crop(roi, size);
    let depth = roi.width / size as f32;
    for (point, &[x, y, z]) in out.iter_mut().zip(crop.as_chunks::<3>().0) {
        let [px, py] = map.apply([x, y]);
        *point = [px, py, z * depth];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f32::consts::FRAC_PI_2;

    fn boxes() -> impl Strategy<Value = Box2> {
        (-500f32..500.0, -500f32..500.0, 0.1f32..300.0, 0.1f32..300.0)
            .prop_map(|(x, y, w, h)| Box2::from_center(x, y, w, h))
    }

    fn rois() -> impl Strategy<Value = Roi> {
        (-100f32..4000.0, -100f32..4000.0, 10f32..2000.0, 10f32..2000.0, -4f32..4.0)
            .prop_map(|(cx, cy, width, height, rotation)| Roi { cx, cy, width, height, rotation })
    }

    #[test]
    fn overlap_of_known_boxes() {
        let check = |a: [f32; 4], b: [f32; 4], expected: f32| {
            let [a, b] = [a, b].map(|[x0, y0, x1, y1]| Box2 { x0, y0, x1, y1 });
            assert!((a.iou(&b) - expected).abs() < 1e-6, "{a:?} {b:?}: {}", a.iou(&b));
        };
        check([0., 0., 2., 2.], [0., 0., 2., 2.], 1.0);
        check([0., 0., 2., 2.], [1., 0., 3., 2.], 1.0 / 3.0);
        check([0., 0., 2., 2.], [2., 0., 4., 2.], 0.0);
        check([0., 0., 2., 2.], [1., 1., 1., 1.], 0.0);
        check([2., 2., 0., 0.], [0., 0., 2., 2.], 0.0);
        check([0., 0., f32::NAN, 2.], [0., 0., 2., 2.], 0.0);
    }

    #[test]
    fn corners_of_a_turned_region() {
        // A quarter turn clockwise: the crop's left upper corner is the picture's right upper one.
        let roi = Roi { cx: 100.0, cy: 50.0, width: 20.0, height: 40.0, rotation: FRAC_PI_2 };
        let map = Affine2::image_from_crop(&roi, 256);
        let check = |crop: [f32; 2], expected: [f32; 2]| {
            let [x, y] = map.apply(crop);
            assert!((x - expected[0]).hypot(y - expected[1]) < 1e-4, "{crop:?} -> {x}, {y}");
        };
        check([0.0, 0.0], [120.0, 40.0]);
        check([256.0, 0.0], [120.0, 60.0]);
        check([0.0, 256.0], [80.0, 40.0]);
        check([128.0, 128.0], [100.0, 50.0]);
    }

    #[test]
    fn depth_is_scaled_by_the_width() {
        let roi = Roi { cx: 0.0, cy: 0.0, width: 128.0, height: 64.0, rotation: 1.0 };
        let mut out = [[0.0; 3]; LANDMARK_COUNT];
        landmarks_to_picture(&[128.0, 128.0, -10.0, 1.0, 2.0], &roi, 256, &mut out);
        assert!((out[0][2] + 5.0).abs() < 1e-6 && out[0][0].hypot(out[0][1]) < 1e-4, "{:?}", out[0]);
        assert_eq!(out[1], [0.0; 3], "an incomplete point is left out");
    }

    #[test]
    fn a_flat_region_has_no_way_back() {
        let roi = Roi { cx: 0.0, cy: 0.0, width: 0.0, height: 1.0, rotation: 0.0 };
        assert_eq!(Affine2::image_from_crop(&roi, 256).inverse(), None);
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_bounded(a in boxes(), b in boxes()) {
            prop_assert_eq!(a.iou(&b), b.iou(&a));
            prop_assert!((0.0..=1.0).contains(&a.iou(&b)));
            prop_assert!((a.iou(&a) - 1.0).abs() < 1e-5);
        }

        #[test]
        fn crop_to_picture_and_back(roi in rois(), x in 0f32..256.0, y in 0f32..256.0) {
            let map = Affine2::image_from_crop(&roi, 256);
            let [u, v] = map.inverse().unwrap().apply(map.apply([x, y]));
            // A crop pixel may be 0.04 picture pixels, at f32 coordinates of thousands.
            prop_assert!((u - x).hypot(v - y) < 0.05, "{x} {y} -> {u} {v}");
        }
    }
}
