//! YuNet, the default detector: which parts of a picture it gets to see at which size, and decoding.
//!
//! Decoding follows libfacedetection, whose weights the network has (multiples of 32, no half-cell shift).
//! Never touches pixels.

use crate::detection::{Detection, DetectorKind};
use crate::geometry::Box2;

/// Score from which on a detection is taken.
pub const SCORE_THRESHOLD: f32 = 0.6;

/// Overlap above which plain suppression drops.
pub const NMS_IOU: f32 = 0.3;

/// Width in input pixels from which on faces are found reliably. Measured on both test portraits, 40 poses
/// each, turned by up to 25°: 18 px and more in all of them at [`SCORE_THRESHOLD`], 16 px in 95 %,
/// 12 px in 68 %.
pub const SMALLEST_FACE: f32 = 20.0;

/// Default for the longest side of an input, pixels: beyond it a picture is cut into tiles.
/// 3840 × 2160 with faces of 60 px still fits.
pub const MAX_INPUT_SIDE: u32 = 1280;

/// Strides of the network's three outputs; a side of the input is a multiple of the last.
pub const STRIDES: [u32; 3] = [8, 16, 32];

/// A face in a tile's overlap is this much longer than the width by which its size is given.
const OVERLAP_MARGIN: f64 = 1.5;

/// Input pixels from a tile's cut within which a box is taken for a part of a face.
const CUT_MARGIN: f32 = 2.0;

/// One run of the detector: a part of the picture, resized to the left upper part of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// The part, measured between pixel edges: the whole picture is (0, 0, width, height). Lies inside it.
    pub source: Box2,
    /// Width and height in input pixels that `source` is resized to, at least 1 and at most the
    /// input's; the rest, right and below, is black.
    pub content: [u32; 2],
    /// Whether left, upper, right and lower edge of `source` are cuts through the picture.
    pub cut: [bool; 4],
}

impl Tile {
    /// An input coordinate to the picture's, both with (0, 0) as the centre of the first pixel.
    pub fn to_picture(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [sx, sy] = self.scale();
        [self.source.x0 - 0.5 + (x + 0.5) * sx, self.source.y0 - 0.5 + (y + 0.5) * sy]
    }

    /// Picture pixels for each input pixel.
    fn scale(&self) -> [f32; 2] {
        [self.source.width() / self.content[0] as f32, self.source.height() / self.content[1] as f32]
    }

    /// Whether a box in input pixels reaches one of the tile's cuts.
    fn cuts(&self, bbox: &Box2) -> bool {
        let [left, upper, right, lower] = self.cut;
        let [width, height] = self.content.map(|v| v as f32);
        (left && bbox.x0 < CUT_MARGIN)
            || (upper && bbox.y0 < CUT_MARGIN)
            || (right && bbox.x1 > width - CUT_MARGIN)
            || (lower && bbox.y1 > height - CUT_MARGIN)
    }
}

/// How the detector looks at pictures of one size: which tiles, all with one size of input, so that they
/// can be one batch. Made when a camera's size is known, then used for each of its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorPlan {
    /// Of every tile's input, pixels, a multiple of 32.
    pub input_width: u32,
    /// Of every tile's input, pixels, a multiple of 32.
    pub input_height: u32,
    /// One with the whole picture; where that would be too coarse for the smallest face, more follow,
    /// which overlap by as much as the largest face that the first may miss.
    pub tiles: Vec<Tile>,
}

impl DetectorPlan {
    /// Plans for a picture of `width` × `height` pixels in which faces of `smallest_face` pixels width are to
    /// be found, with no input side above `max_side` (rounded down to a multiple of 32, at least 64).
    ///
    /// The picture is shrunk until such a face is [`SMALLEST_FACE`] wide, never enlarged.
    pub fn new(width: u32, height: u32, smallest_face: f32, max_side: u32) -> Self {
        let picture = [width.max(1), height.max(1)].map(f64::from);
        let max_side = (max_side / 32 * 32).max(64);
        // Also for a size that is no number: all there is.
        let scale = f64::from(SMALLEST_FACE / smallest_face).clamp(1e-3, 1.0);
        let scale = if scale.is_nan() { 1.0 } else { scale };
        let scaled = picture.map(|side| ((side * scale).round() as u32).max(1));
        let whole = Self::whole(picture, scaled, scaled.map(|side| side.next_multiple_of(32)));
        if whole.input_width <= max_side && whole.input_height <= max_side {
            return whole;
        }
        // The more the whole picture is shrunk, the larger are the faces that only tiles can find,
        // and a tile's size decides both: widen the overlap until it is enough.
        let mut overlap = 0;
        loop {
            let cuts = scaled.map(|side| Cuts::new(side, overlap, max_side));
            let input = cuts.map(|cut| cut.tile);
            let coarse = (f64::from(input[0]) / picture[0]).min(f64::from(input[1]) / picture[1]);
            let missed = f64::from(SMALLEST_FACE) / coarse * scale;
            let needed = ((missed * OVERLAP_MARGIN).ceil() as u32).min(max_side / 2);
            if needed <= overlap {
                return Self::tiled(picture, scaled, cuts, coarse);
            }
            overlap = needed;
        }
    }

    /// The whole picture resized to `content`.
    fn whole(picture: [f64; 2], content: [u32; 2], [input_width, input_height]: [u32; 2]) -> Self {
        let source = Box2 { x0: 0.0, y0: 0.0, x1: picture[0] as f32, y1: picture[1] as f32 };
        Self { input_width, input_height, tiles: vec![Tile { source, content, cut: [false; 4] }] }
    }

    fn tiled(picture: [f64; 2], scaled: [u32; 2], cuts: [Cuts; 2], coarse: f64) -> Self {
        let input = cuts.map(|cut| cut.tile);
        let content: [u32; 2] =
            std::array::from_fn(|i| ((picture[i] * coarse).round() as u32).clamp(1, input[i]));
        let mut plan = Self::whole(picture, content, input);
        for row in 0..cuts[1].count {
            for column in 0..cuts[0].count {
                let [(x0, x1), (y0, y1)] = [cuts[0].span(column, scaled[0]), cuts[1].span(row, scaled[1])];
                let edge = |at: u32, i: usize| (f64::from(at) * picture[i] / f64::from(scaled[i])) as f32;
                plan.tiles.push(Tile {
                    source: Box2 { x0: edge(x0, 0), y0: edge(y0, 1), x1: edge(x1, 0), y1: edge(y1, 1) },
                    content: [x1 - x0, y1 - y0],
                    cut: [x0 > 0, y0 > 0, x1 < scaled[0], y1 < scaled[1]],
                });
            }
        }
        plan
    }
}

/// How one side of the shrunk picture is cut.
#[derive(Clone, Copy)]
struct Cuts {
    count: u32,
    /// Input pixels, a multiple of 32.
    tile: u32,
}

impl Cuts {
    /// The fewest tiles of at most `max_side` that share `overlap` with their neighbours.
    fn new(side: u32, overlap: u32, max_side: u32) -> Self {
        let count = if side <= max_side { 1 } else { (side - overlap).div_ceil(max_side - overlap) };
        let tile = (side + (count - 1) * overlap).div_ceil(count).next_multiple_of(32);
        Self { count, tile }
    }

    /// First pixel of a tile and the one after its last.
    fn span(self, at: u32, side: u32) -> (u32, u32) {
        if self.count == 1 {
            return (0, side);
        }
        let from = (side - self.tile) * at / (self.count - 1);
        (from, from + self.tile)
    }
}

/// The outputs of one stride, for one input of `H` × `W`: a row for each of the `H/s * W/s` cells, row-major.
#[derive(Clone, Copy, Debug)]
pub struct StrideOutput<'a> {
    /// `cls_s`: 1 probability a cell.
    pub class: &'a [f32],
    /// `obj_s`: 1 probability a cell.
    pub object: &'a [f32],
    /// `bbox_s`: 4 numbers a cell: shift of the centre in cells, logarithm of the size in cells.
    pub bbox: &'a [f32],
    /// `kps_s`: 10 numbers a cell: shift of five points in cells.
    pub keypoints: &'a [f32],
}

/// Appends what the network sees in one tile to `out`, in picture pixels, candidates overlapping:
/// when all tiles are decoded, plain suppression with [`NMS_IOU`] is the next step.
///
/// `outputs` in the order of [`STRIDES`]; shorter slices are read as far as they go. Candidates that are not
/// finite, have no area or lie in the padding are left out, and so are those that reach a cut of the tile: another
/// tile shows that face in whole.
///
/// `score = sqrt(cls * obj)`, `centre = (cell + b) * s`, `size = exp(b) * s`, `keypoint = (cell + k) * s`.
pub fn decode(
    outputs: &[StrideOutput<'_>; 3],
    plan: &DetectorPlan,
    tile: &Tile,
    score_threshold: f32,
    out: &mut Vec<Detection>,
) {
    for (output, stride) in outputs.iter().zip(STRIDES) {
        let columns = (plan.input_width / stride).max(1) as usize;
        let scores = output.class.iter().zip(output.object);
        let values = output.bbox.as_chunks::<4>().0.iter().zip(output.keypoints.as_chunks::<10>().0);
        for (cell, ((&class, &object), (bbox, keypoints))) in scores.zip(values).enumerate() {
            let score = (class * object).sqrt();
            // Written so that NaN is left out.
            if score >= score_threshold {
                let cell = [(cell % columns) as f32, (cell / columns) as f32];
                out.extend(decode_one(cell, stride as f32, bbox, keypoints, score.min(1.0), tile));
            }
        }
    }
}

fn decode_one(
    [column, row]: [f32; 2],
    stride: f32,
    bbox: &[f32; 4],
    keypoints: &[f32; 10],
    score: f32,
    tile: &Tile,
) -> Option<Detection> {
    let point = |x: f32, y: f32| [(column + x) * stride, (row + y) * stride];
    let [cx, cy] = point(bbox[0], bbox[1]);
    let inside = cx < tile.content[0] as f32 && cy < tile.content[1] as f32;
    let in_input = Box2::from_center(cx, cy, bbox[2].exp() * stride, bbox[3].exp() * stride);
    if !inside || tile.cuts(&in_input) {
        return None;
    }
    let [x0, y0] = tile.to_picture([in_input.x0, in_input.y0]);
    let [x1, y1] = tile.to_picture([in_input.x1, in_input.y1]);
    let mut points = [[0.0; 2]; 6];
    for (to, &[x, y]) in points.iter_mut().zip(keypoints.as_chunks::<2>().0) {
        *to = tile.to_picture(point(x, y));
    }
    let detection =
        Detection { kind: DetectorKind::YuNet, score, bbox: Box2 { x0, y0, x1, y1 }, keypoints: points };
    detection.is_sound().then_some(detection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Input size and number of tiles.
    fn check(picture: [u32; 2], smallest_face: f32, max_side: u32, expected: ([u32; 2], usize)) {
        let plan = DetectorPlan::new(picture[0], picture[1], smallest_face, max_side);
        assert_eq!(([plan.input_width, plan.input_height], plan.tiles.len()), expected, "{plan:?}");
    }

    #[test]
    fn inputs_for_common_pictures() {
        check([1280, 720], 60.0, MAX_INPUT_SIDE, ([448, 256], 1));
        check([1280, 720], 40.0, MAX_INPUT_SIDE, ([640, 384], 1));
        check([64, 48], 60.0, MAX_INPUT_SIDE, ([32, 32], 1));
        check([64, 48], 5.0, MAX_INPUT_SIDE, ([64, 64], 1));
        check([641, 481], 20.0, MAX_INPUT_SIDE, ([672, 512], 1));
        check([3840, 2160], 60.0, MAX_INPUT_SIDE, ([1280, 736], 1));
        check([3840, 2160], 60.0, 640, ([512, 416], 1 + 3 * 2));
        check([3840, 2160], 20.0, MAX_INPUT_SIDE, ([1056, 1152], 1 + 4 * 2));
        check([1280, 720], f32::NAN, MAX_INPUT_SIDE, ([1280, 736], 1));
        check([1280, 720], 0.0, MAX_INPUT_SIDE, ([1280, 736], 1));
        check([1280, 720], f32::INFINITY, MAX_INPUT_SIDE, ([32, 32], 1));
    }

    #[test]
    fn a_tiles_corners_are_its_sources() {
        let plan = DetectorPlan::new(1280, 720, 40.0, MAX_INPUT_SIDE);
        let tile = plan.tiles[0];
        assert_eq!(tile.to_picture([-0.5, -0.5]), [-0.5, -0.5]);
        assert_eq!(tile.to_picture([639.5, 359.5]), [1279.5, 719.5]);
    }

    /// Outputs with one candidate at a cell of stride 8.
    struct Outputs {
        class: Vec<f32>,
        bbox: Vec<f32>,
        keypoints: Vec<f32>,
    }

    impl Outputs {
        fn new(cells: usize, at: usize, bbox: [f32; 4]) -> Self {
            let mut outputs = Self {
                class: vec![0.1; cells],
                bbox: vec![0.0; cells * 4],
                keypoints: vec![0.0; cells * 10],
            };
            outputs.class[at] = 0.81;
            outputs.bbox[at * 4..][..4].copy_from_slice(&bbox);
            outputs.keypoints[at * 10..][..10].copy_from_slice(&[-1., 0., 1., 0., 0., 0., -1., 1., 1., 1.]);
            outputs
        }

        fn decode(&self, plan: &DetectorPlan, tile: &Tile) -> Vec<Detection> {
            let none = StrideOutput { class: &[], object: &[], bbox: &[], keypoints: &[] };
            let first = StrideOutput {
                class: &self.class,
                object: &self.class,
                bbox: &self.bbox,
                keypoints: &self.keypoints,
            };
            let mut out = Vec::new();
            decode(&[first, none, none], plan, tile, SCORE_THRESHOLD, &mut out);
            out
        }
    }

    #[test]
    fn one_candidate_by_hand() {
        // 640 × 320 seen at half size: 320 × 160, 40 cells a row. Cell (5, 3), shifted by (0.5, 0.25).
        let plan = DetectorPlan::new(640, 320, 40.0, MAX_INPUT_SIDE);
        let found =
            Outputs::new(800, 3 * 40 + 5, [0.5, 0.25, 4f32.ln(), 5f32.ln()]).decode(&plan, &plan.tiles[0]);
        let [found] = found[..] else { panic!("{found:?}") };
        // Centre (44, 26), size 32 × 40 in the input; x2 + 0.5 in the picture.
        let expected = Box2 { x0: 56.5, y0: 12.5, x1: 120.5, y1: 92.5 };
        let near = |a: f32, b: f32| (a - b).abs() < 1e-3;
        assert!(near(found.score, 0.81));
        assert!(near(found.bbox.x0, expected.x0) && near(found.bbox.x1, expected.x1), "{found:?}");
        assert!(near(found.bbox.y0, expected.y0) && near(found.bbox.y1, expected.y1), "{found:?}");
        assert_eq!(found.keypoints[..2], [[64.5, 48.5], [96.5, 48.5]]);
        assert_eq!(found.keypoints[5], [0.0, 0.0]);
        assert!(near(found.roi().width, 112.0));
    }

    #[test]
    fn a_face_at_a_cut_is_left_to_the_other_tile() {
        let plan = DetectorPlan::new(3840, 2160, 60.0, 640);
        let columns = plan.input_width as usize / 8;
        let cells = columns * plan.input_height as usize / 8;
        // At the right edge of the input, half way down.
        let outputs = Outputs::new(cells, cells / 2 + columns - 1, [0.0, 0.0, 2f32.ln(), 2f32.ln()]);
        let seen: Vec<_> = plan.tiles.iter().map(|tile| outputs.decode(&plan, tile).len()).collect();
        // The whole picture and the right column of tiles end where the picture ends.
        assert_eq!(seen, [1, 0, 0, 1, 0, 0, 1]);
    }

    proptest! {
        /// Every face from the smallest on is whole in a tile in which it is large enough.
        #[test]
        fn no_face_falls_between_tiles(
            width in 32u32..5000, height in 32u32..5000, smallest in 15f32..120.0,
            max_side in prop::sample::select(vec![512u32, 640, 960, 1280]),
            at in (0.0f32..1.0, 0.0f32..1.0), larger in 1f32..40.0,
        ) {
            let plan = DetectorPlan::new(width, height, smallest, max_side);
            prop_assert!(plan.input_width <= max_side && plan.input_height <= max_side);
            prop_assert!(plan.input_width.is_multiple_of(32) && plan.input_height.is_multiple_of(32));
            for tile in &plan.tiles {
                prop_assert!(tile.content[0] <= plan.input_width && tile.content[1] <= plan.input_height);
                prop_assert!(tile.source.x0 >= 0.0 && tile.source.x1 <= width as f32);
                prop_assert!(tile.source.y0 >= 0.0 && tile.source.y1 <= height as f32);
            }
            let face = smallest.max(SMALLEST_FACE) * larger;
            prop_assume!(face * 1.3 < width as f32 && face * 1.3 < height as f32);
            let x0 = at.0 * (width as f32 - face);
            let y0 = at.1 * (height as f32 - face * 1.3);
            let face_box = Box2 { x0, y0, x1: x0 + face, y1: y0 + face * 1.3 };
            let whole_in = |tile: &Tile| {
                let [sx, sy] = tile.scale();
                let s = &tile.source;
                let in_input = Box2 {
                    x0: (face_box.x0 - s.x0) / sx, y0: (face_box.y0 - s.y0) / sy,
                    x1: (face_box.x1 - s.x0) / sx, y1: (face_box.y1 - s.y0) / sy,
                };
                let inside = face_box.x0 >= s.x0 && face_box.x1 <= s.x1
                    && face_box.y0 >= s.y0 && face_box.y1 <= s.y1;
                inside && !tile.cuts(&in_input) && in_input.width() >= SMALLEST_FACE * 0.95
            };
            prop_assert!(plan.tiles.iter().any(whole_in), "{:?} in {:?}", face_box, plan);
        }

        #[test]
        fn whatever_the_network_says_boxes_are_sound(
            scores in prop::collection::vec(any::<f32>(), 0..100),
            values in prop::collection::vec(any::<f32>(), 0..1000),
        ) {
            let plan = DetectorPlan::new(641, 481, 40.0, MAX_INPUT_SIDE);
            let output =
                StrideOutput { class: &scores, object: &scores, bbox: &values, keypoints: &values };
            let mut out = Vec::new();
            decode(&[output; 3], &plan, &plan.tiles[0], SCORE_THRESHOLD, &mut out);
            prop_assert!(out.iter().all(|d| d.is_sound() && (0.6..=1.0).contains(&d.score)));
        }
    }
}
