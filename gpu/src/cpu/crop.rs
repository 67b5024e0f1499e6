//! From RGB pixels to a network's input: one bilinear sampler behind crops and letterboxes.
//!
//! Output is planar f32, channel by channel. Output pixel (u, v) shows the picture at `map(u, v)`.
//! Samples are taken at 1/64 of a pixel and rounded to whole numbers, as bytes would be, because MediaPipe's
//! are (OpenCV's `warpAffine`, 1/32 of a pixel) and the landmark network notices.

use std::ops::Range;

use youquanti_models::PictureLayout;
use youquanti_models::geometry::Affine2;

use super::colour::{Part, RgbView};

/// What lies outside the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// The nearest pixel of the edge.
    Replicate,
    /// Black.
    Black,
}

/// What a network wants to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Columns of the output.
    pub width: usize,
    /// Rows of the output.
    pub height: usize,
    /// A byte `b` becomes `b * scale + offset`.
    pub scale: f32,
    /// See `scale`.
    pub offset: f32,
    /// What lies outside the picture.
    pub border: Border,
}

const FRACTION_BITS: u32 = 20;
const ONE: i64 = 1 << FRACTION_BITS;
/// Bits of a weight along one axis.
const WEIGHT_BITS: u32 = 6;

/// The part of the picture that an output looks at.
pub fn part_seen(map: &Affine2, input: &Input, layout: &PictureLayout) -> Part {
    let [right, bottom] = [input.width, input.height].map(|side| (side - 1) as f32);
    let corners = [[0.0, 0.0], [right, 0.0], [0.0, bottom], [right, bottom]].map(|at| map.apply(at));
    // One pixel beyond on each side: the second tap, and what f32 rounds differently than the sampler.
    let range = |axis: usize, side: u32| {
        let low = corners.iter().map(|c| c[axis]).fold(f32::INFINITY, f32::min);
        let high = corners.iter().map(|c| c[axis]).fold(f32::NEG_INFINITY, f32::max);
        let last = side as usize - 1;
        // `as` saturates: far away, and not a number, end up on an edge.
        let first = ((low.floor() - 1.0).max(0.0) as usize).min(last);
        let end = ((high.floor() + 2.0).max(0.0) as usize).clamp(first, last);
        (first, end - first + 1)
    };
    let ((x0, width), (y0, height)) = (range(0, layout.width), range(1, layout.height));
    Part { x0, y0, width, height }
}

/// Samples the picture. `view` must hold at least [`part_seen`] of it.
///
/// `out` holds three planes of `input.width * input.height`: red, green, blue.
pub fn sample(view: &RgbView<'_>, layout: &PictureLayout, map: &Affine2, input: &Input, out: &mut [f32]) {
    let plane = input.width * input.height;
    let (first, rest) = out[..3 * plane].split_at_mut(plane);
    let (second, third) = rest.split_at_mut(plane);
    let (first, third) = if view.is_bgr { (third, first) } else { (first, third) };
    let rows = first
        .chunks_exact_mut(input.width)
        .zip(second.chunks_exact_mut(input.width))
        .zip(third.chunks_exact_mut(input.width));
    let [[dx_u, dx_v, x0], [dy_u, dy_v, y0]] = map.m.map(|row| row.map(fixed));
    // So that cutting a position to 1/64 pixel rounds it.
    let (x0, y0) = (x0 + ONE / 128, y0 + ONE / 128);
    let source = Source::new(view, layout, input.border);
    let mut run = Run::default();
    for (v, ((first, second), third)) in (0..).zip(rows) {
        let mut at = [x0 + dx_v * v, y0 + dy_v * v];
        let planes = first.chunks_mut(RUN).zip(second.chunks_mut(RUN)).zip(third.chunks_mut(RUN));
        for ((first, second), third) in planes {
            at = run.gather(&source, at, [dx_u, dy_u], first.len());
            for (shift, plane) in [0, 8, 16].into_iter().zip([first, second, third]) {
                run.mix(shift, input.scale, input.offset, plane);
            }
        }
    }
}

/// A coordinate in units of 2⁻²⁰ pixels.
fn fixed(value: f32) -> i64 {
    (f64::from(value) * ONE as f64) as i64
}

/// Where pixels are read from.
struct Source<'a> {
    view: RgbView<'a>,
    /// Columns and rows of the picture at which four pixels can be read as they are.
    columns: Range<i64>,
    rows: Range<i64>,
    picture_width: i64,
    picture_height: i64,
    border: Border,
}

impl<'a> Source<'a> {
    fn new(view: &RgbView<'a>, layout: &PictureLayout, border: Border) -> Self {
        let inner = |first: usize, len: usize| first as i64..(first + len) as i64;
        let Part { x0, y0, width, height } = view.part;
        Self {
            view: *view,
            // The reads below take eight bytes for two pixels, so the last columns are left out.
            columns: inner(x0, width.saturating_sub(2)),
            rows: inner(y0, height.saturating_sub(1)),
            picture_width: i64::from(layout.width),
            picture_height: i64::from(layout.height),
            border,
        }
    }

    /// Whether all four pixels around a position can be read as they are.
    fn is_inner(&self, [x, y]: [i64; 2]) -> bool {
        self.columns.contains(&(x >> FRACTION_BITS)) && self.rows.contains(&(y >> FRACTION_BITS))
    }

    /// Two pixels side by side, three bytes each.
    #[inline(always)]
    fn pair(&self, at: usize) -> u64 {
        self.view.bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Two pixels side by side that may lie outside the picture.
    fn border_pair(&self, column: i64, row: i64) -> u64 {
        u64::from(self.border_pixel(column, row)) | u64::from(self.border_pixel(column + 1, row)) << 24
    }

    fn border_pixel(&self, column: i64, row: i64) -> u32 {
        let inside = (column.clamp(0, self.picture_width - 1), row.clamp(0, self.picture_height - 1));
        if self.border == Border::Black && inside != (column, row) {
            return 0;
        }
        let part = &self.view.part;
        let at = (inside.1 as usize - part.y0) * self.view.stride + (inside.0 as usize - part.x0) * 3;
        let [r, g, b] = self.view.bytes[at..].first_chunk().map_or([0; 3], |bytes| *bytes);
        u32::from_le_bytes([r, g, b, 0])
    }
}

/// Output pixels that are sampled in one go.
const RUN: usize = 64;

/// Four pixels around each position of a run, and how near it is to them: in columns, so that the compiler can
/// mix several at once.
struct Run {
    /// Left and right pixel above, left and right pixel below; the highest byte means nothing.
    pixels: [[u32; RUN]; 4],
    /// Weights of the right and of the lower pixels, 1/64.
    right: [i32; RUN],
    down: [i32; RUN],
}

impl Default for Run {
    fn default() -> Self {
        Self { pixels: [[0; RUN]; 4], right: [0; RUN], down: [0; RUN] }
    }
}

impl Run {
    /// Reads the pixels around `len` positions in units of 2⁻²⁰ pixels, from `at` on; the position after them.
    fn gather(&mut self, source: &Source<'_>, at: [i64; 2], step: [i64; 2], len: usize) -> [i64; 2] {
        let after = |steps: usize| [0, 1].map(|axis| at[axis] + step[axis] * steps as i64);
        let Part { x0, y0, .. } = source.view.part;
        // Between two inner positions there are only inner ones.
        if source.is_inner(at) && source.is_inner(after(len - 1)) {
            self.fill(at, step, len, |column, row| {
                let at = (row as usize - y0) * source.view.stride + (column as usize - x0) * 3;
                [source.pair(at), source.pair(at + source.view.stride)]
            });
        } else {
            self.fill(at, step, len, |column, row| {
                [source.border_pair(column, row), source.border_pair(column, row + 1)]
            });
        }
        after(len)
    }

    #[inline(always)]
    fn fill(
        &mut self,
        [mut x, mut y]: [i64; 2],
        step: [i64; 2],
        len: usize,
        pairs: impl Fn(i64, i64) -> [u64; 2],
    ) {
        let weight = |position: i64| ((position & (ONE - 1)) >> (FRACTION_BITS - WEIGHT_BITS)) as i32;
        let [left_above, right_above, left_below, right_below] = &mut self.pixels;
        for i in 0..len.min(RUN) {
            let [above, below] = pairs(x >> FRACTION_BITS, y >> FRACTION_BITS);
            (left_above[i], right_above[i]) = (above as u32, (above >> 24) as u32);
            (left_below[i], right_below[i]) = (below as u32, (below >> 24) as u32);
            (self.right[i], self.down[i]) = (weight(x), weight(y));
            x += step[0];
            y += step[1];
        }
    }

    /// Mixes one channel, rounds it to a whole level and scales that.
    ///
    /// All numbers up to the rounding are multiples of 2⁻¹³ below 2⁸ or whole ones below 2²⁰: f32 holds them exactly.
    #[inline(always)]
    fn mix(&self, shift: u32, scale: f32, offset: f32, out: &mut [f32]) {
        /// Adding it leaves no room for a fraction.
        const WHOLE: f32 = (1 << 23) as f32;
        const WEIGHTS: f32 = (1 << WEIGHT_BITS) as f32;
        for (i, to) in out.iter_mut().enumerate().take(RUN) {
            let [left_above, right_above, left_below, right_below] =
                self.pixels.each_ref().map(|pixels| (pixels[i] >> shift & 0xff) as i32 as f32);
            let (right, down) = (self.right[i] as f32, self.down[i] as f32);
            let above = left_above * WEIGHTS + (right_above - left_above) * right;
            let below = left_below * WEIGHTS + (right_below - left_below) * right;
            let mixed = above * WEIGHTS + (below - above) * down;
            // A little more, so that halves go up.
            let level = mixed * (1.0 / (WEIGHTS * WEIGHTS)) + 0.5 / (WEIGHTS * WEIGHTS);
            *to = (level + WHOLE - WHOLE) * scale + offset;
        }
    }
}
