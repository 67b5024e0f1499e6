//! From RGB pixels to a network's input: one bilinear sampler behind every crop, letterbox and resize.
//!
//! Output is planar f32, channel by channel. Output pixel (u, v) shows the picture at `map(u, v)`.
//! Samples are taken at 1/64 of a pixel and rounded to whole numbers, as bytes would be, because MediaPipe's
//! are (OpenCV's `warpAffine`, 1/32 of a pixel) and the landmark network notices.

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

/// Samples a side that see every pixel of a picture shrunk by this factor: a bilinear sample mixes two. With
/// fewer, the detector loses faces at the limit of its size: one of fifteen of 60 px in a 4K picture.
pub fn samples_for(factor: f32) -> usize {
    ((factor / 2.0).round() as usize).clamp(1, 64)
}

const FRACTION_BITS: u32 = 20;
const ONE: i64 = 1 << FRACTION_BITS;

/// Output pixels that are sampled in one go.
const RUN: usize = 64;

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
fn fill(view: &RgbView<'_>, map: &Affine2, input: &Input, out: &mut [f32], at: impl Fn(i64, i64) -> u64) {
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
    // So that cutting a position to 1/64 pixel rounds it.
    let (x0, y0) = (x0 + ONE / 128, y0 + ONE / 128);
    let [columns, content_rows] = input.content;
    let scale = input.scale / (input.samples * input.samples) as f32;
    for (v, ((first, second), third)) in rows.enumerate() {
        let shown = if v < content_rows { columns } else { 0 };
        for row in [&mut first[shown..], &mut second[shown..], &mut third[shown..]] {
            row.fill(input.offset);
        }
        let mut x = x0 + dx_v * v as i64;
        let mut y = y0 + dy_v * v as i64;
        // By runs of pixels, so that the compiler can turn a whole run into numbers at once.
        let mut run = [0; RUN];
        let runs = first[..shown]
            .chunks_mut(RUN)
            .zip(second[..shown].chunks_mut(RUN))
            .zip(third[..shown].chunks_mut(RUN));
        for ((first, second), third) in runs {
            for packed in &mut run[..first.len()] {
                *packed = at(x, y);
                x += dx_u;
                y += dy_u;
            }
            for (lane, plane) in [first, second, third].into_iter().enumerate() {
                for (to, packed) in plane.iter_mut().zip(&run) {
                    let value = (packed >> (lane as u32 * LANE)) as u32 & LANE_MASK;
                    *to = value as f32 * scale + input.offset;
                }
            }
        }
    }
}

/// A coordinate in units of 2⁻²⁰ pixels.
fn fixed(value: f32) -> i64 {
    (f64::from(value) * ONE as f64) as i64
}

/// The sum of several samples spread evenly over an output pixel.
struct Averaged<'a> {
    taps: Taps<'a>,
    samples: usize,
    /// From an output pixel's place to its first sample.
    start: [i64; 2],
    /// From sample to sample along a row, and from row to row.
    step_u: [i64; 2],
    step_v: [i64; 2],
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
        }
    }

    /// The sum of the samples, packed; there are fewer than 2¹³.
    #[inline(always)]
    fn at(&self, x: i64, y: i64) -> u64 {
        let mut sum = 0;
        let (x, y) = (x + self.start[0], y + self.start[1]);
        for row in 0..self.samples as i64 {
            for column in 0..self.samples as i64 {
                sum += self.taps.at(
                    x + column * self.step_u[0] + row * self.step_v[0],
                    y + column * self.step_u[1] + row * self.step_v[1],
                );
            }
        }
        sum
    }
}

/// Reads four pixels and mixes them.
///
/// The three channels of a pixel are mixed at once, 21 bits apart in a `u64`: 8 bits of colour times 12 bits of
/// weight leave room for the sum.
#[derive(Clone, Copy)]
struct Taps<'a> {
    view: RgbView<'a>,
    /// Where the four pixels can be read as they are: columns and rows of the view.
    inner_width: u64,
    inner_height: u64,
    picture_width: i64,
    picture_height: i64,
    border: Border,
}

/// Bits between the channels of a packed pixel.
const LANE: u32 = 21;
const LANE_MASK: u32 = (1 << LANE) - 1;
/// The lowest byte of each channel.
const BYTES: u64 = 0xff | 0xff << LANE | 0xff << (2 * LANE);
/// Bits of a weight along one axis.
const WEIGHT_BITS: u32 = 6;
/// A half in each channel of a mixed pixel.
const HALVES: u64 = (1 << (2 * WEIGHT_BITS - 1)) * (1 | 1 << LANE | 1 << (2 * LANE));

impl<'a> Taps<'a> {
    fn new(view: &RgbView<'a>, layout: &PictureLayout, border: Border) -> Self {
        Self {
            view: *view,
            // The reads below take eight bytes for two pixels, so the last columns are left out.
            inner_width: view.part.width.saturating_sub(2) as u64,
            inner_height: view.part.height.saturating_sub(1) as u64,
            picture_width: i64::from(layout.width),
            picture_height: i64::from(layout.height),
            border,
        }
    }

    /// The colour at a position in units of 2⁻²⁰ pixels, packed, each channel rounded to a whole number.
    #[inline(always)]
    fn at(&self, x: i64, y: i64) -> u64 {
        let (column, row) = (x >> FRACTION_BITS, y >> FRACTION_BITS);
        let weight = |position: i64| ((position & (ONE - 1)) >> (FRACTION_BITS - WEIGHT_BITS)) as u64;
        let (right, down) = (weight(x), weight(y));
        let (left, up) = ((1 << WEIGHT_BITS) - right, (1 << WEIGHT_BITS) - down);
        let (in_view, row_in_view) = (column - self.view.part.x0 as i64, row - self.view.part.y0 as i64);
        // Negative ones are beyond any width, too.
        let inside = (in_view as u64) < self.inner_width && (row_in_view as u64) < self.inner_height;
        let [top, bottom] = if inside {
            let at = row_in_view as usize * self.view.stride + in_view as usize * 3;
            [self.pair(at), self.pair(at + self.view.stride)]
        } else {
            [self.border_pair(column, row), self.border_pair(column, row + 1)]
        };
        let mixed = top[0] * (left * up)
            + top[1] * (right * up)
            + bottom[0] * (left * down)
            + bottom[1] * (right * down);
        (mixed + HALVES) >> (2 * WEIGHT_BITS) & BYTES
    }

    /// Two pixels side by side.
    #[inline(always)]
    fn pair(&self, at: usize) -> [u64; 2] {
        let both = self.view.bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        [pack(both), pack(both >> 24)]
    }

    #[cold]
    #[inline(never)]
    fn border_pair(&self, column: i64, row: i64) -> [u64; 2] {
        [self.border_pixel(column, row), self.border_pixel(column + 1, row)]
    }

    fn border_pixel(&self, column: i64, row: i64) -> u64 {
        let inside = (column.clamp(0, self.picture_width - 1), row.clamp(0, self.picture_height - 1));
        if self.border == Border::Black && inside != (column, row) {
            return 0;
        }
        let part = &self.view.part;
        let at = (inside.1 as usize - part.y0) * self.view.stride + (inside.0 as usize - part.x0) * 3;
        let [r, g, b] = self.view.bytes[at..].first_chunk().map_or([0; 3], |bytes| *bytes);
        pack(u64::from_le_bytes([r, g, b, 0, 0, 0, 0, 0]))
    }
}

/// The three lowest bytes, [`LANE`] bits apart.
#[inline(always)]
fn pack(pixel: u64) -> u64 {
    (pixel & 0xff) | (pixel & 0xff00) << (LANE - 8) | (pixel & 0xff_0000) << (2 * (LANE - 8))
}
