//! Small pictures for people: a camera's picture in RGB or BGR, made smaller.
//!
//! Rows first, then columns, with the weights of [`super::shrink`]. Owns its buffers, which grow to the largest picture seen
//! and no further. Never enlarges, and knows nothing of where the picture goes.

use youquanti_models::{Picture, PictureLayout, PixelFormat};

use super::colour::{self, ColourError, Jpeg, Part};
use super::shrink::{Axis, add_rows};

/// Rows of the output that the picture is converted for in one go.
const BAND: usize = 16;

/// Draws small pictures, of any number of cameras in turn.
#[derive(Debug, Default)]
pub struct Previewer {
    jpeg: Jpeg,
    rgb: Vec<u8>,
    sums: Vec<u16>,
    /// Sizes seen: few.
    axes: Vec<Shrinking>,
}

#[derive(Debug)]
struct Shrinking {
    from: [u32; 2],
    to: [u32; 2],
    columns: Axis,
    rows: Axis,
}

impl Shrinking {
    fn new(from: [u32; 2], to: [u32; 2]) -> Self {
        let axis = |k: usize| {
            let step = f64::from(from[k]) / f64::from(to[k]);
            // The centre of the output's first pixel.
            Axis::new(step, (step - 1.0) / 2.0, to[k] as usize, from[k] as usize)
        };
        Self { from, to, columns: axis(0), rows: axis(1) }
    }
}

impl Previewer {
    /// Draws `picture` into the bytes of a packed RGB24 or BGR24 picture of layout `to`.
    ///
    /// # Errors
    /// What is wrong with the picture, also where it does not have as many bytes as its layout says.
    ///
    /// # Panics
    /// If `to` is neither RGB24 nor BGR24, or `out` is shorter than it.
    pub fn draw(
        &mut self,
        picture: &Picture<'_>,
        to: &PictureLayout,
        out: &mut [u8],
    ) -> Result<(), ColourError> {
        assert!(matches!(to.format, PixelFormat::Rgb24 | PixelFormat::Bgr24), "a preview is RGB or BGR");
        let Self { jpeg, rgb, sums, axes } = self;
        let decoded;
        let picture = match picture.layout.format {
            PixelFormat::Mjpg => {
                decoded = jpeg.decode(picture)?;
                &decoded
            }
            _ => picture,
        };
        colour::check(picture)?;
        let size = |layout: &PictureLayout| [layout.width, layout.height];
        let (from_size, to_size) = (size(&picture.layout), size(to));
        let known = axes.iter().position(|known| known.from == from_size && known.to == to_size);
        let at = known.unwrap_or_else(|| {
            axes.push(Shrinking::new(from_size, to_size));
            axes.len() - 1
        });
        let Shrinking { columns, rows, .. } = &axes[at];
        let (width, height) = (to.width as usize, to.height as usize);
        let across = picture.layout.width as usize;
        let wants_bgr = to.format == PixelFormat::Bgr24;
        // One pixel more, so that four numbers can be read of every pixel.
        sums.resize(sums.len().max(across * 3 + 3), 0);
        for band in (0..height).step_by(BAND) {
            let band = band..(band + BAND).min(height);
            let (y0, seen) = rows.span(band.clone());
            let part = Part { x0: 0, y0, width: across, height: seen };
            let view = colour::rgb_part(picture, part, rgb)?;
            for (v, (y, weights)) in band.clone().zip(rows.pixels().skip(band.start)) {
                let lines = view.bytes[(y - view.part.y0) * view.stride..].chunks(view.stride);
                let out = &mut out[v * to.stride as usize..][..width * 3];
                if let (true, [_]) = (width == across, weights) {
                    let line = lines.flatten().take(width * 3);
                    out.iter_mut().zip(line).for_each(|(to, from)| *to = *from);
                } else {
                    add_rows(lines, weights, &mut sums[..across * 3]);
                    add_columns(sums, columns, out);
                }
                if view.is_bgr != wants_bgr {
                    out.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
                }
            }
        }
        Ok(())
    }
}

/// The weighted sums of pixels, rounded, as bytes.
fn add_columns(sums: &[u16], columns: &Axis, out: &mut [u8]) {
    match columns.taps() {
        // Pictures that are less than halved, which most are: loops of known length.
        2 => add_taps::<2>(sums, columns, out),
        3 => add_taps::<3>(sums, columns, out),
        _ => {
            for (to, (x, weights)) in out.as_chunks_mut::<3>().0.iter_mut().zip(columns.pixels()) {
                *to = weighted(&sums[x * 3..], weights);
            }
        }
    }
}

fn add_taps<const TAPS: usize>(sums: &[u16], columns: &Axis, out: &mut [u8]) {
    let pixels = columns.first().iter().zip(columns.weights().as_chunks::<TAPS>().0);
    for (to, (&x, weights)) in out.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
        *to = weighted(&sums[x as usize * 3..][..TAPS * 3 + 1], weights);
    }
}

/// One pixel, from the sums of those that it sees and one number more.
#[inline(always)]
fn weighted(sums: &[u16], weights: &[u16]) -> [u8; 3] {
    let mut sum = [1_u32 << 15; 4];
    for (tap, &weight) in sums.windows(4).step_by(3).zip(weights) {
        // The fourth number belongs to the next pixel and is for company: four are added at once.
        for (sum, &channel) in sum.iter_mut().zip(tap) {
            *sum += u32::from(channel) * u32::from(weight);
        }
    }
    [0, 1, 2].map(|channel| (sum[channel] >> 16) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(x: usize, y: usize, c: usize) -> u8 {
        ((x * 5 + y * 3 + c * 40) % 200) as u8
    }

    fn picture(layout: PictureLayout) -> Vec<u8> {
        let mut bytes = vec![0; layout.max_bytes()];
        for (y, row) in bytes.chunks_mut(layout.stride as usize).enumerate() {
            for (x, pixel) in row[..layout.width as usize * 3].chunks_mut(3).enumerate() {
                (0..3).for_each(|c| {
                    pixel[if layout.format == PixelFormat::Bgr24 { 2 - c } else { c }] = level(x, y, c)
                });
            }
        }
        bytes
    }

    fn drawn(layout: PictureLayout, bytes: &[u8], to: PictureLayout) -> Vec<u8> {
        let mut out = vec![0; to.max_bytes()];
        Previewer::default().draw(&Picture { layout, bytes }, &to, &mut out).unwrap();
        out
    }

    #[test]
    fn a_picture_that_is_small_enough_stays_as_it_is_but_for_the_order_of_colours() {
        for (from, to) in [(PixelFormat::Rgb24, PixelFormat::Bgr24), (PixelFormat::Bgr24, PixelFormat::Rgb24)]
        {
            let layout = PictureLayout { stride: 41 * 3 + 7, ..PictureLayout::packed(41, 37, from) };
            for to in [from, to] {
                let to = PictureLayout::packed(41, 37, to);
                assert!(drawn(layout, &picture(layout), to) == picture(to));
            }
        }
    }

    #[test]
    fn halved_every_pixel_is_the_mean_of_four() {
        let (from, to) = ([64, 48], [32, 24]);
        let layout = PictureLayout::packed(from[0], from[1], PixelFormat::Rgb24);
        let out = drawn(layout, &picture(layout), PictureLayout::packed(to[0], to[1], PixelFormat::Rgb24));
        for (at, &got) in out.iter().enumerate() {
            let (x, y, c) = (at / 3 % 32, at / 96, at % 3);
            let of = |dx, dy| f64::from(level(2 * x + dx, 2 * y + dy, c));
            let mean = (of(0, 0) + of(1, 0) + of(0, 1) + of(1, 1)) / 4.0;
            assert!((f64::from(got) - mean).abs() <= 1.0, "({x}, {y}, {c}): {got}, not {mean}");
        }
    }

    #[test]
    fn an_edge_stays_where_it_is_whatever_the_format() {
        // White from the middle on: in a smaller picture, too.
        for format in [PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Grey] {
            let layout = PictureLayout::packed(640, 360, format);
            let mut bytes = vec![128; layout.max_bytes()];
            let step = if format == PixelFormat::Yuyv { 2 } else { 1 };
            for row in bytes[..layout.stride as usize * 360].chunks_mut(layout.stride as usize) {
                for x in 0..640 {
                    row[x * step] = if x < 320 { 16 } else { 235 };
                }
            }
            let to = PictureLayout::packed(480, 270, PixelFormat::Bgr24);
            let out = drawn(layout, &bytes, to);
            for row in out.chunks(480 * 3) {
                assert!(
                    row[..238 * 3].iter().all(|&byte| byte < 20)
                        && row[242 * 3..].iter().all(|&byte| byte > 230)
                );
            }
        }
    }

    #[test]
    fn damaged_pictures_are_errors() {
        let to = PictureLayout::packed(8, 8, PixelFormat::Rgb24);
        let mut out = vec![0; to.max_bytes()];
        for format in PixelFormat::ALL {
            let picture = Picture { layout: PictureLayout::packed(16, 16, format), bytes: &[7; 50] };
            assert!(Previewer::default().draw(&picture, &to, &mut out).is_err(), "{}", format.name());
        }
    }
}
