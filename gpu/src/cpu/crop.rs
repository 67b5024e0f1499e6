//! From RGB pixels to a network's input: one bilinear sampler behind every crop, letterbox and resize.
//!
//! Output is planar f32, channel by channel. Output pixel (u, v) shows the picture at `map(u, v)`.
//! Samples are rounded to whole numbers, as bytes would be: the landmark network notices. Positions
//! are exact to 2⁻²⁰ pixels, where OpenCV's `warpAffine` rounds to 1/32 pixel: it does not notice that.

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

/// Order of the output's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// What a network wants to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Columns of the output.
    pub width: usize,
    /// Rows of the output.
    pub height: usize,
    /// Columns and rows, from the left upper corner, that show the picture; the rest is black.
    pub content: [usize; 2],
    /// Samples a side that are averaged for a pixel of the output: 1 takes one bilinear sample as
    /// MediaPipe does, more keep a picture that shrinks from aliasing.
    pub samples: usize,
    /// Order of the planes.
    pub channels: Channels,
    /// A byte `b` becomes `b * scale + offset`.
    pub scale: f32,
    /// See `scale`.
    pub offset: f32,
    /// What lies outside the picture.
    pub border: Border,
}

/// Samples a side that see every pixel of a picture shrunk by this factor: a bilinear sample sees two.
pub fn samples_for(factor: f32) -> usize {
    ((factor / 2.0).round() as usize).max(1)
}

const FRACTION_BITS: u32 = 20;
const ONE: i64 = 1 << FRACTION_BITS;

/// The part of the picture that an output looks at.
pub fn part_seen(map: &Affine2, input: &Input, layout: &PictureLayout) -> Part {
    let first = if input.samples > 1 { -0.5 } else { 0.0 };
    let [right, bottom] = input.content.map(|side| (side - 1) as f32 - first);
    let corners = [[first, first], [right, first], [first, bottom], [right, bottom]].map(|at| map.apply(at));
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
/// `out` holds three planes of `input.width * input.height`.
pub fn sample(view: &RgbView<'_>, layout: &PictureLayout, map: &Affine2, input: &Input, out: &mut [f32]) {
    let taps = Taps::new(view, layout, input.border);
    if input.samples > 1 {
        let averaged = Averaged::new(taps, map, input.samples);
        fill(view, map, input, out, |x, y| averaged.at(x, y));
    } else {
        fill(view, map, input, out, |x, y| taps.at(x, y));
    }
}

/// Writes every pixel of the output with the colour that `at` gives for its place in the picture.
#[inline(always)]
fn fill(
    view: &RgbView<'_>,
    map: &Affine2,
    input: &Input,
    out: &mut [f32],
    at: impl Fn(i64, i64) -> [f32; 4],
) {
    let plane = input.width * input.height;
    let (first, rest) = out[..3 * plane].split_at_mut(plane);
    let (second, third) = rest.split_at_mut(plane);
    let swapped = view.is_bgr != (input.channels == Channels::Bgr);
    let (first, third) = if swapped { (third, first) } else { (first, third) };
    let rows = first
        .chunks_exact_mut(input.width)
        .zip(second.chunks_exact_mut(input.width))
        .zip(third.chunks_exact_mut(input.width));
    let [[dx_u, dx_v, x0], [dy_u, dy_v, y0]] = map.m.map(|row| row.map(fixed));
    let [columns, content_rows] = input.content;
    for (v, ((first, second), third)) in rows.enumerate() {
        let shown = if v < content_rows { columns } else { 0 };
        for row in [&mut first[shown..], &mut second[shown..], &mut third[shown..]] {
            row.fill(input.offset);
        }
        let mut x = x0 + dx_v * v as i64;
        let mut y = y0 + dy_v * v as i64;
        for ((first, second), third) in first[..shown].iter_mut().zip(second).zip(third) {
            let [a, b, c, _] = at(x, y).map(|value| value * input.scale + input.offset);
            (*first, *second, *third) = (a, b, c);
            x += dx_u;
            y += dy_u;
        }
    }
}

/// A coordinate in units of 2⁻²⁰ pixels.
fn fixed(value: f32) -> i64 {
    (f64::from(value) * ONE as f64) as i64
}

/// The mean of several samples spread evenly over an output pixel.
struct Averaged<'a> {
    taps: Taps<'a>,
    samples: usize,
    /// From an output pixel's place to its first sample.
    start: [i64; 2],
    /// From sample to sample along a row, and from row to row.
    step_u: [i64; 2],
    step_v: [i64; 2],
    weight: f32,
}

impl<'a> Averaged<'a> {
    fn new(taps: Taps<'a>, map: &Affine2, samples: usize) -> Self {
        let n = samples as f32;
        let first = 0.5 / n - 0.5;
        let [[dx_u, dx_v, _], [dy_u, dy_v, _]] = map.m;
        Self {
            taps,
            samples,
            start: [fixed((dx_u + dx_v) * first), fixed((dy_u + dy_v) * first)],
            step_u: [fixed(dx_u / n), fixed(dy_u / n)],
            step_v: [fixed(dx_v / n), fixed(dy_v / n)],
            weight: 1.0 / (n * n),
        }
    }

    #[inline(always)]
    fn at(&self, x: i64, y: i64) -> [f32; 4] {
        let mut sum = [0.0; 4];
        let (x, y) = (x + self.start[0], y + self.start[1]);
        for row in 0..self.samples as i64 {
            for column in 0..self.samples as i64 {
                let sample = self.taps.at(
                    x + column * self.step_u[0] + row * self.step_v[0],
                    y + column * self.step_u[1] + row * self.step_v[1],
                );
                for (sum, value) in sum.iter_mut().zip(sample) {
                    *sum += value;
                }
            }
        }
        sum.map(|value| value * self.weight)
    }
}

/// Reads four pixels and mixes them.
struct Taps<'a> {
    view: RgbView<'a>,
    /// Where the four pixels can be read as they are: columns and rows of the view.
    inner_width: u64,
    inner_height: u64,
    picture_width: i64,
    picture_height: i64,
    border: Border,
}

impl<'a> Taps<'a> {
    fn new(view: &RgbView<'a>, layout: &PictureLayout, border: Border) -> Self {
        Self {
            view: *view,
            // The reads below take four bytes for a pixel, so the last column of pairs is left out.
            inner_width: view.part.width.saturating_sub(2) as u64,
            inner_height: view.part.height.saturating_sub(1) as u64,
            picture_width: i64::from(layout.width),
            picture_height: i64::from(layout.height),
            border,
        }
    }

    /// The pixel at a position in units of 2⁻²⁰ pixels; the fourth value means nothing.
    #[inline(always)]
    fn at(&self, x: i64, y: i64) -> [f32; 4] {
        let (column, row) = (
            (x >> FRACTION_BITS) - self.view.part.x0 as i64,
            (y >> FRACTION_BITS) - self.view.part.y0 as i64,
        );
        let right = ((x & (ONE - 1)) as i32) as f32 * (1.0 / ONE as f32);
        let down = ((y & (ONE - 1)) as i32) as f32 * (1.0 / ONE as f32);
        // Negative ones are beyond any width, too.
        let (top, bottom) = if (column as u64) < self.inner_width && (row as u64) < self.inner_height {
            let at = row as usize * self.view.stride + column as usize * 3;
            (self.pair(at), self.pair(at + self.view.stride))
        } else {
            self.border_pairs(x >> FRACTION_BITS, y >> FRACTION_BITS)
        };
        let top = mix(top.0, top.1, right);
        let bottom = mix(bottom.0, bottom.1, right);
        // Adding and taking away 1.5 * 2^23 leaves a whole number.
        mix(top, bottom, down).map(|value| (value + 12_582_912.0) - 12_582_912.0)
    }

    #[inline(always)]
    fn pair(&self, at: usize) -> ([f32; 4], [f32; 4]) {
        let bytes: &[u8] = &self.view.bytes[at..at + 7];
        let left = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let right = [bytes[3], bytes[4], bytes[5], bytes[6]];
        (left.map(f32::from), right.map(f32::from))
    }

    #[cold]
    #[inline(never)]
    fn border_pairs(&self, column: i64, row: i64) -> (([f32; 4], [f32; 4]), ([f32; 4], [f32; 4])) {
        let pixel = |column: i64, row: i64| {
            let (inside_column, inside_row) =
                (column.clamp(0, self.picture_width - 1), row.clamp(0, self.picture_height - 1));
            if self.border == Border::Black && (inside_column, inside_row) != (column, row) {
                return [0.0; 4];
            }
            let part = &self.view.part;
            let (column, row) = (inside_column as usize - part.x0, inside_row as usize - part.y0);
            let at = row * self.view.stride + column * 3;
            let bytes = &self.view.bytes[at..at + 3];
            [f32::from(bytes[0]), f32::from(bytes[1]), f32::from(bytes[2]), 0.0]
        };
        let pair = |row: i64| (pixel(column, row), pixel(column + 1, row));
        (pair(row), pair(row + 1))
    }
}

#[inline(always)]
fn mix(from: [f32; 4], to: [f32; 4], weight: f32) -> [f32; 4] {
    [
        from[0] + (to[0] - from[0]) * weight,
        from[1] + (to[1] - from[1]) * weight,
        from[2] + (to[2] - from[2]) * weight,
        from[3] + (to[3] - from[3]) * weight,
    ]
}
