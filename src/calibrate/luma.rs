//! How bright the parts of a picture are, whatever its format.
//!
//! Reads luminance where the camera sends it, and computes it where it sends colours. Judges nothing.

use youquanti_actors::calibration::estimate::{GRID, Parts};
use youquanti_gpu::cpu::colour::Jpeg;
use youquanti_models::{Picture, PixelFormat};

/// Measures pictures; keeps the buffers of the JPEG decoder.
#[derive(Default)]
pub(super) struct Meter {
    jpeg: Jpeg,
}

impl Meter {
    /// Mean luminance of each part of the picture; `None` if it is damaged or smaller than the parts.
    pub(super) fn parts(&mut self, picture: &Picture<'_>) -> Option<Parts> {
        let decoded;
        let picture = if picture.layout.format == PixelFormat::Mjpg {
            decoded = self.jpeg.decode(picture).ok()?;
            &decoded
        } else {
            picture
        };
        let layout = picture.layout;
        let (width, height) = (layout.width as usize, layout.height as usize);
        if width < GRID || height < GRID {
            return None;
        }
        let (step, luma): (usize, fn(&[u8]) -> u32) = match layout.format {
            PixelFormat::Yuyv => (2, |pixel| u32::from(pixel[0])),
            PixelFormat::Nv12 | PixelFormat::Grey => (1, |pixel| u32::from(pixel[0])),
            PixelFormat::Rgb24 => (3, |pixel| weigh(pixel[0], pixel[1], pixel[2])),
            PixelFormat::Bgr24 => (3, |pixel| weigh(pixel[2], pixel[1], pixel[0])),
            PixelFormat::Mjpg => return None,
        };
        let mut sums = [0u64; GRID * GRID];
        let mut counts = [0u64; GRID * GRID];
        for y in 0..height {
            let line = y * layout.stride as usize;
            let line = picture.bytes.get(line..line + width * step)?;
            for column in 0..GRID {
                let pixels = &line[column * width / GRID * step..(column + 1) * width / GRID * step];
                let part = y * GRID / height * GRID + column;
                sums[part] += pixels.chunks_exact(step).map(|pixel| u64::from(luma(pixel))).sum::<u64>();
                counts[part] += (pixels.len() / step) as u64;
            }
        }
        Some(std::array::from_fn(|part| (sums[part] as f64 / counts[part] as f64) as f32))
    }
}

/// Luminance of ITU-R BT.601, in 256ths.
fn weigh(red: u8, green: u8, blue: u8) -> u32 {
    (77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue)) >> 8
}

#[cfg(test)]
mod tests {
    use youquanti_models::PictureLayout;

    use super::*;

    /// A picture in which part 9 (second row, second column) is bright, with padded lines.
    fn bytes(layout: &PictureLayout) -> Vec<u8> {
        let (width, height) = (layout.width as usize, layout.height as usize);
        let step = layout.format.min_stride(layout.width) as usize / width;
        let mut bytes = vec![0x55; layout.max_bytes()];
        for y in 0..height {
            for x in 0..width {
                let is_bright = (x * GRID / width, y * GRID / height) == (1, 1);
                let at = y * layout.stride as usize + x * step;
                let pixel = &mut bytes[at..at + step];
                let level = if is_bright { 200 } else { 20 };
                if layout.format == PixelFormat::Yuyv { pixel[0] = level } else { pixel.fill(level) }
            }
        }
        bytes
    }

    #[test]
    fn every_format_is_read() {
        use PixelFormat::{Bgr24, Grey, Nv12, Rgb24, Yuyv};
        for format in [Yuyv, Nv12, Rgb24, Bgr24, Grey] {
            let mut layout = PictureLayout::packed(48, 24, format);
            layout.stride += 13;
            let bytes = bytes(&layout);
            let parts = Meter::default().parts(&Picture { layout, bytes: &bytes }).unwrap();
            let expected = std::array::from_fn(|part| if part == 9 { 200.0 } else { 20.0 });
            assert_eq!(parts, expected, "{format:?}");
            let cut = &bytes[..layout.stride as usize * 20];
            assert_eq!(Meter::default().parts(&Picture { layout, bytes: cut }), None, "{format:?}");
        }
    }

    #[test]
    fn colours_count_as_the_eye_sees_them() {
        let check = |pixel: [u8; 3], format, expected: f32| {
            let layout = PictureLayout::packed(8, 8, format);
            let bytes = pixel.repeat(64);
            let parts = Meter::default().parts(&Picture { layout, bytes: &bytes }).unwrap();
            assert_eq!(parts, [expected; GRID * GRID]);
        };
        check([255, 255, 255], PixelFormat::Rgb24, 255.0);
        check([255, 0, 0], PixelFormat::Rgb24, 76.0);
        check([255, 0, 0], PixelFormat::Bgr24, 28.0);
    }

    #[test]
    fn what_is_no_jpeg_and_what_is_too_small_have_no_parts() {
        let jpeg = PictureLayout::packed(64, 64, PixelFormat::Mjpg);
        assert_eq!(Meter::default().parts(&Picture { layout: jpeg, bytes: b"junk" }), None);
        let small = PictureLayout::packed(7, 7, PixelFormat::Grey);
        assert_eq!(Meter::default().parts(&Picture { layout: small, bytes: &[0; 49] }), None);
    }
}
