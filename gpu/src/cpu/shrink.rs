//! From a camera's picture to the detector's input: an upright part of it, made smaller.
//!
//! Rows first, then columns, with weights that are worked out once for a size: 16-bit sums of bytes, which
//! compilers turn into vector instructions, and nothing is rounded on the way. A few rows of the picture are
//! converted to RGB at a time, so that they are still in the cache when they are read.
//! Crops that turn are [`super::crop`]'s.

use youquanti_models::Picture;
use youquanti_models::yunet::{DetectorPlan, Tile};

use super::colour::{self, ColourError, Part};

/// Rows of the output that the picture is converted for in one go.
const BAND: usize = 16;

/// Output pixels that are summed up before they are written to the planes.
const RUN: usize = 64;

/// What the weights of an output pixel add up to along one axis: a byte times this fits 16 bits.
const WEIGHT_SUM: u16 = 256;

/// Samples a side that see every pixel of a picture shrunk by this factor: a bilinear sample mixes two. With
/// fewer, the detector loses faces at the limit of its size: one of fifteen of 60 px in a 4K picture.
fn samples_for(factor: f64) -> usize {
    ((factor / 2.0).round() as usize).clamp(1, 64)
}

/// Which pixels along one axis make an output pixel.
#[derive(Debug)]
pub struct Axis {
    taps: usize,
    first: Vec<u32>,
    weights: Vec<u16>,
}

impl Axis {
    /// Output pixel `u` of `len` is the mean of bilinear samples spread evenly over it, around `u * step + start`
    /// in a picture of `side` pixels, which goes on as its edges are.
    pub(super) fn new(step: f64, start: f64, len: usize, side: usize) -> Self {
        let samples = samples_for(step);
        let last = side - 1;
        let seen = |u: usize, sample: usize| {
            let at = (u as f64 + (sample as f64 + 0.5) / samples as f64 - 0.5) * step + start;
            let at = at.clamp(0.0, last as f64);
            // `as` cuts off, and makes 0 of what is no number.
            let low = at as usize;
            (low, (low + 1).min(last), at - low as f64)
        };
        let spans = (0..len).map(|u| (seen(u, 0).0, seen(u, samples - 1).1));
        let taps = spans.clone().map(|(low, high)| high - low + 1).max().unwrap_or(1);
        let first: Vec<u32> = spans.map(|(low, _)| low.min(side - taps) as u32).collect();
        let mut weights = Vec::with_capacity(len * taps);
        let mut exact = vec![0.0; taps];
        for (u, &first) in first.iter().enumerate() {
            let first = first as usize;
            exact.fill(0.0);
            for (low, high, fraction) in (0..samples).map(|sample| seen(u, sample)) {
                exact[low - first] += 1.0 - fraction;
                exact[high - first] += fraction;
            }
            // What has been given away so far is rounded, so that nothing is lost at the end.
            let (mut sum, mut given) = (0.0, 0);
            for weight in &exact {
                sum += weight;
                let due = (sum / samples as f64 * f64::from(WEIGHT_SUM)).round() as u16;
                weights.push(due - given);
                given = due;
            }
        }
        Self { taps, first, weights }
    }

    /// Picture pixels for each output pixel, at least 1.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// For each output pixel the first of its picture pixels, all of which are inside the picture.
    pub fn first(&self) -> &[u32] {
        &self.first
    }

    /// For each output pixel [`Self::taps`] weights, which add up to 256.
    pub fn weights(&self) -> &[u16] {
        &self.weights
    }

    /// First pixel and weights of each output pixel.
    pub(super) fn pixels(&self) -> impl Iterator<Item = (usize, &[u16])> {
        self.first.iter().map(|&first| first as usize).zip(self.weights.chunks_exact(self.taps))
    }

    /// The first of the pixels that these output pixels, not none, see, and their number.
    pub(super) fn span(&self, pixels: std::ops::Range<usize>) -> (usize, usize) {
        let first = self.first[pixels.start] as usize;
        (first, self.first[pixels.end - 1] as usize + self.taps - first)
    }
}

/// Makes one tile's input from pictures of one size.
#[derive(Debug)]
pub struct Shrink {
    columns: Axis,
    rows: Axis,
    /// Width and height of the network's input.
    input: [usize; 2],
    /// Weighted sums of the rows that an output row sees, three channels a pixel and one number more.
    sums: Vec<u16>,
}

impl Shrink {
    /// For a tile of the plan for pictures of this width and height.
    pub fn new(plan: &DetectorPlan, tile: &Tile, [width, height]: [u32; 2]) -> Self {
        let ([x0, y0], [x1, y1]) = (tile.to_picture([0.0; 2]), tile.to_picture([1.0; 2]));
        let axis = |from: f32, to: f32, len: u32, side: u32| {
            Axis::new(f64::from(to) - f64::from(from), f64::from(from), len as usize, side.max(1) as usize)
        };
        let columns = axis(x0, x1, tile.content[0], width);
        let rows = axis(y0, y1, tile.content[1], height);
        let seen = columns.span(0..columns.first.len()).1;
        let input = [plan.input_width, plan.input_height].map(|side| side as usize);
        Self { columns, rows, input, sums: vec![0; seen * 3 + 1] }
    }

    /// Which columns of the picture make each column of the input that shows it.
    pub fn columns(&self) -> &Axis {
        &self.columns
    }

    /// Which rows of the picture make each row of the input that shows it.
    pub fn rows(&self) -> &Axis {
        &self.rows
    }

    /// Fills `out`, the planes blue, green and red of the network's input, with levels of 0 to 255; what the
    /// tile does not cover is black. `scratch` is for [`colour::rgb_part`].
    ///
    /// # Errors
    /// See [`colour::rgb_part`].
    pub fn run(
        &mut self,
        picture: &Picture<'_>,
        scratch: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<(), ColourError> {
        let [width, height] = self.input;
        let plane = width * height;
        let [shown, shown_rows] = [self.columns.first.len(), self.rows.first.len()];
        for plane in out[..3 * plane].chunks_exact_mut(plane) {
            for row in plane[..shown_rows * width].chunks_exact_mut(width) {
                row[shown..].fill(0.0);
            }
            plane[shown_rows * width..].fill(0.0);
        }
        let (x0, seen) = self.columns.span(0..shown);
        for band in (0..shown_rows).step_by(BAND) {
            let band = band..(band + BAND).min(shown_rows);
            let (y0, height) = self.rows.span(band.clone());
            let view = colour::rgb_part(picture, Part { x0, y0, width: seen, height }, scratch)?;
            let from = &view.bytes[(x0 - view.part.x0) * 3..];
            let (blue, rest) = out.split_at_mut(plane);
            let (green, red) = rest.split_at_mut(plane);
            let (first, third) = if view.is_bgr { (blue, red) } else { (red, blue) };
            for (v, (y, weights)) in band.clone().zip(self.rows.pixels().skip(band.start)) {
                let rows = from[(y - view.part.y0) * view.stride..].chunks(view.stride);
                add_rows(rows, weights, &mut self.sums[..seen * 3]);
                let row = v * width..v * width + shown;
                let planes = [&mut first[row.clone()], &mut green[row.clone()], &mut third[row]];
                add_columns(&self.sums, &self.columns, x0, planes);
            }
        }
        Ok(())
    }
}

/// The weighted sum of rows of bytes.
pub(super) fn add_rows<'a>(rows: impl Iterator<Item = &'a [u8]>, weights: &[u16], sums: &mut [u16]) {
    for (tap, (row, &weight)) in rows.zip(weights).enumerate() {
        let terms = row.iter().map(|&byte| u16::from(byte) * weight);
        if tap == 0 {
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum = term);
        } else {
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
    }
}

/// The weighted sums of pixels, `sums` beginning with column `x0`, as levels in three planes.
fn add_columns(sums: &[u16], columns: &Axis, x0: usize, [first, second, third]: [&mut [f32]; 3]) {
    const LEVEL: f32 = 1.0 / (WEIGHT_SUM as f32 * WEIGHT_SUM as f32);
    let mut run = [[0_u32; 4]; RUN];
    let mut pixels = columns.pixels();
    let planes = first.chunks_mut(RUN).zip(second.chunks_mut(RUN)).zip(third.chunks_mut(RUN));
    for ((first, second), third) in planes {
        for (to, (x, weights)) in run[..first.len()].iter_mut().zip(&mut pixels) {
            let taps = sums[(x - x0) * 3..].windows(4).step_by(3);
            *to = [0; 4];
            for (tap, &weight) in taps.zip(weights) {
                // The fourth number belongs to the next pixel and is for company: four are added at once.
                for (sum, &channel) in to.iter_mut().zip(tap) {
                    *sum += u32::from(channel) * u32::from(weight);
                }
            }
        }
        for (channel, plane) in [first, second, third].into_iter().enumerate() {
            for (to, pixel) in plane.iter_mut().zip(&run) {
                *to = pixel[channel] as i32 as f32 * LEVEL;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use youquanti_models::{PictureLayout, PixelFormat};

    use super::*;

    /// Level of channel `c` of a made-up picture: waves, edges and some noise.
    fn level(x: usize, y: usize, c: usize) -> u8 {
        let noise = (x * 7919 + y * 104_729 + c * 31) % 23;
        let wave = 100.0 + 80.0 * ((x as f64 / 9.0 + c as f64).sin() * (y as f64 / 13.0).cos());
        if (x / 40 + y / 30).is_multiple_of(5) { 255 - noise as u8 } else { wave as u8 + noise as u8 }
    }

    /// The mean of bilinear samples spread evenly over an output pixel, in `f64` and without tables.
    fn expected([width, height]: [u32; 2], tile: &Tile, u: usize, v: usize, c: usize) -> f64 {
        let [x0, y0] = tile.to_picture([0.0; 2]).map(f64::from);
        let [x1, y1] = tile.to_picture([1.0; 2]).map(f64::from);
        let samples = |from: f64, step: f64, at: usize, side: u32| {
            let n = samples_for(step);
            let spread = (0..n).map(move |k| at as f64 + (k as f64 + 0.5) / n as f64 - 0.5);
            spread.map(move |at| (at * step + from).clamp(0.0, f64::from(side - 1))).collect::<Vec<_>>()
        };
        let (xs, ys) = (samples(x0, x1 - x0, u, width), samples(y0, y1 - y0, v, height));
        let at =
            |x: usize, y: usize| f64::from(level(x.min(width as usize - 1), y.min(height as usize - 1), c));
        let mut sum = 0.0;
        for (&x, &y) in xs.iter().flat_map(|x| ys.iter().map(move |y| (x, y))) {
            let (left, top) = (x as usize, y as usize);
            let (fx, fy) = (x - left as f64, y - top as f64);
            let upper = at(left, top) * (1.0 - fx) + at(left + 1, top) * fx;
            let lower = at(left, top + 1) * (1.0 - fx) + at(left + 1, top + 1) * fx;
            sum += upper * (1.0 - fy) + lower * fy;
        }
        sum / (xs.len() * ys.len()) as f64
    }

    /// Every tile of a picture of this size is, to the rounding of the weights, what `expected` says, and
    /// black elsewhere.
    fn check(width: u32, height: u32, smallest_face: f32, max_side: u32, format: PixelFormat) {
        let layout = PictureLayout { stride: width * 3 + 5, ..PictureLayout::packed(width, height, format) };
        let mut bytes = vec![0; layout.max_bytes()];
        let is_bgr = format == PixelFormat::Bgr24;
        for (y, row) in bytes.chunks_mut(layout.stride as usize).enumerate() {
            for (x, pixel) in row[..width as usize * 3].chunks_mut(3).enumerate() {
                (0..3).for_each(|c| pixel[if is_bgr { 2 - c } else { c }] = level(x, y, c));
            }
        }
        let plan = DetectorPlan::new(width, height, smallest_face, max_side);
        let (across, plane) = (plan.input_width as usize, (plan.input_width * plan.input_height) as usize);
        for tile in &plan.tiles {
            let mut out = vec![f32::NAN; 3 * plane];
            let picture = Picture { layout, bytes: &bytes };
            Shrink::new(&plan, tile, [width, height]).run(&picture, &mut Vec::new(), &mut out).unwrap();
            let mut worst = 0.0_f64;
            for (k, &got) in out.iter().enumerate() {
                // Planes are blue, green, red; `level` counts from red.
                let (c, u, v) = (2 - k / plane, k % plane % across, k % plane / across);
                let is_shown = u < tile.content[0] as usize && v < tile.content[1] as usize;
                let want = if is_shown { expected([width, height], tile, u, v, c) } else { 0.0 };
                worst = worst.max((f64::from(got) - want).abs());
            }
            assert!(worst <= 2.0, "{width}x{height}, {tile:?}: off by {worst}");
        }
    }

    #[test]
    fn every_size_is_shrunk_as_a_plain_resampler_does() {
        for format in [PixelFormat::Rgb24, PixelFormat::Bgr24] {
            check(640, 360, 40.0, 1280, format);
            check(641, 479, 60.0, 1280, format);
            check(333, 7, 20.0, 1280, format);
            check(64, 48, 20.0, 1280, format);
            check(1, 1, 20.0, 1280, format);
        }
    }

    #[test]
    fn every_tile_is_its_part_of_the_picture() {
        check(900, 500, 20.0, 256, PixelFormat::Rgb24);
    }
}
