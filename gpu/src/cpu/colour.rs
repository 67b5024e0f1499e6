//! From the camera's bytes to RGB: only the part of the picture that is looked at, and no copy where
//! the camera already gives three bytes a pixel.
//!
//! YUYV and NV12 are read as BT.601 with limited range, which is what cameras send unless they say
//! otherwise; JPEG as BT.601 with full range, which is what the standard says. Grey is copied to all
//! three channels.

use std::ops::Range;

use youquanti_models::{Picture, PictureLayout, PixelFormat};
use yuv::{YuvBiPlanarImage, YuvConversionMode, YuvPackedImage, YuvRange, YuvStandardMatrix};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// A part of a picture, pixels; not empty, inside the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First column.
    pub x0: usize,
    /// First row.
    pub y0: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Part {
    /// All of a picture.
    pub fn whole(layout: &PictureLayout) -> Self {
        Self { x0: 0, y0: 0, width: layout.width as usize, height: layout.height as usize }
    }

    /// The smallest part around this one in which subsampled chroma is complete.
    fn with_whole_chroma(self, format: PixelFormat, layout: &PictureLayout) -> Self {
        let (mut x0, mut y0) = (self.x0, self.y0);
        let (mut x1, mut y1) = (self.x0 + self.width, self.y0 + self.height);
        if matches!(format, PixelFormat::Yuyv | PixelFormat::Nv12) {
            (x0, x1) = (x0 & !1, x1.next_multiple_of(2));
        }
        if format == PixelFormat::Nv12 {
            (y0, y1) = (y0 & !1, y1.next_multiple_of(2).min(layout.height as usize));
        }
        Self { x0, y0, width: x1 - x0, height: y1 - y0 }
    }
}

/// Three bytes a pixel of a part of a picture.
#[derive(Clone, Copy, Debug)]
pub struct RgbView<'a> {
    /// Begins with the part's first pixel.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Which part of the picture it is.
    pub part: Part,
    /// Blue comes first.
    pub is_bgr: bool,
}

/// Why a picture has no RGB.
#[derive(Debug, thiserror::Error)]
pub enum ColourError {
    /// Fewer bytes than the layout needs.
    #[error("{given} bytes where {format} of {width}x{height} needs {needed}")]
    Short {
        /// Bytes there are.
        given: usize,
        /// Bytes that the layout needs.
        needed: usize,
        /// Name of the format.
        format: &'static str,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The layout cannot be.
    #[error("stride {stride} is too short for {format} of {width}x{height}, or a side is 0")]
    Layout {
        /// Bytes from one line to the next.
        stride: u32,
        /// Name of the format.
        format: &'static str,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The conversion refused.
    #[error("colour conversion failed: {0}")]
    Conversion(String),
    /// The JPEG is damaged.
    #[error("JPEG cannot be decoded: {0}")]
    Jpeg(String),
    /// The JPEG is sound but not of the size that the camera announced.
    #[error("JPEG is {}x{}, not {}x{}", is.0, is.1, announced.0, announced.1)]
    JpegSize {
        /// Width and height of the JPEG.
        is: (usize, usize),
        /// Width and height of the layout.
        announced: (usize, usize),
    },
}

/// Whether layout and bytes of an uncompressed picture fit together.
///
/// # Errors
/// [`ColourError::Layout`] and [`ColourError::Short`].
pub fn check(picture: &Picture<'_>) -> Result<(), ColourError> {
    let PictureLayout { width, height, format, stride } = picture.layout;
    if width == 0 || height == 0 || stride < format.min_stride(width) {
        return Err(ColourError::Layout { stride, format: format.name(), width, height });
    }
    // The last line may end with its last pixel.
    let padding = (stride - format.min_stride(width)) as usize;
    let (given, needed) = (picture.bytes.len(), picture.layout.max_bytes() - padding);
    if given < needed && format != PixelFormat::Mjpg {
        return Err(ColourError::Short { given, needed, format: format.name(), width, height });
    }
    Ok(())
}

/// RGB of a part of an uncompressed picture that [`check`] accepts. Formats that are not RGB are
/// converted into `scratch`, which grows to the largest part seen and no further.
///
/// # Errors
/// [`ColourError::Conversion`], also for MJPG, which must be decoded first.
pub fn rgb_part<'a>(
    picture: &Picture<'a>,
    part: Part,
    scratch: &'a mut Vec<u8>,
) -> Result<RgbView<'a>, ColourError> {
    let format = picture.layout.format;
    let stride = picture.layout.stride as usize;
    if matches!(format, PixelFormat::Rgb24 | PixelFormat::Bgr24) {
        let bytes = &picture.bytes[part.y0 * stride + part.x0 * 3..];
        return Ok(RgbView { bytes, stride, part, is_bgr: format == PixelFormat::Bgr24 });
    }
    let part = part.with_whole_chroma(format, &picture.layout);
    let needed = part.width * part.height * 3;
    if scratch.len() < needed {
        scratch.resize(needed, 0);
    }
    let out = &mut scratch[..needed];
    let out_stride = (part.width * 3) as u32;
    let (width, height) = (part.width as u32, part.height as u32);
    let (range, matrix) = (YuvRange::Limited, YuvStandardMatrix::Bt601);
    match format {
        PixelFormat::Yuyv => {
            // The converter wants every line at its full stride, which the last one of a part may not have.
            let from = &picture.bytes[part.y0 * stride + part.x0 * 2..];
            let (above, last) = from.split_at((part.height - 1) * stride);
            let (out_above, out_last) = out.split_at_mut((part.height - 1) * part.width * 3);
            let last =
                YuvPackedImage { yuy: &last[..part.width * 2], yuy_stride: width * 2, width, height: 1 };
            let last = yuv::yuyv422_to_rgb(&last, out_last, out_stride, range, matrix);
            if height == 1 {
                last
            } else {
                let above =
                    YuvPackedImage { yuy: above, yuy_stride: stride as u32, width, height: height - 1 };
                last.and(yuv::yuyv422_to_rgb(&above, out_above, out_stride, range, matrix))
            }
        }
        PixelFormat::Nv12 => {
            let (y_plane, uv_plane) = picture.bytes.split_at(stride * picture.layout.height as usize);
            let image = YuvBiPlanarImage {
                y_plane: &y_plane[part.y0 * stride + part.x0..],
                y_stride: stride as u32,
                uv_plane: &uv_plane[part.y0 / 2 * stride + part.x0..],
                uv_stride: stride as u32,
                width,
                height,
            };
            yuv::yuv_nv12_to_rgb(&image, out, out_stride, range, matrix, YuvConversionMode::Balanced)
        }
        PixelFormat::Grey => {
            let rows = picture.bytes[part.y0 * stride..].chunks(stride);
            for (row, out) in rows.zip(out.chunks_exact_mut(part.width * 3)) {
                let row = &row[part.x0..part.x0 + part.width];
                for (&grey, pixel) in row.iter().zip(out.as_chunks_mut::<3>().0) {
                    *pixel = [grey; 3];
                }
            }
            Ok(())
        }
        PixelFormat::Mjpg | PixelFormat::Rgb24 | PixelFormat::Bgr24 => {
            return Err(ColourError::Conversion(format!("{} is not converted by parts", format.name())));
        }
    }
    .map_err(|error| ColourError::Conversion(error.to_string()))?;
    Ok(RgbView { bytes: out, stride: part.width * 3, part, is_bgr: false })
}

/// Decodes the JPEG pictures of cameras, including those that leave out the Huffman tables.
#[derive(Debug, Default)]
pub struct Jpeg {
    rgb: Vec<u8>,
    completed: Vec<u8>,
}

impl Jpeg {
    /// Decodes a picture to RGB24 in this decoder's own buffer. Nothing is allocated here for a size
    /// seen before; the decoder's library allocates as it likes. A picture that ends early is an error; bytes
    /// after its end, with which cameras fill their packets, are not. Bytes that are wrong or missing within it cannot
    /// be noticed.
    ///
    /// # Errors
    /// [`ColourError::Jpeg`] and [`ColourError::JpegSize`].
    pub fn decode(&mut self, picture: &Picture<'_>) -> Result<Picture<'_>, ColourError> {
        let jpeg = with_huffman_tables(picture.bytes, &mut self.completed);
        let failed = |error: zune_jpeg::errors::DecodeErrors| ColourError::Jpeg(error.to_string());
        // Otherwise a JPEG that ends early is decoded without a word, grey from there on.
        let options =
            DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB).set_strict_mode(true);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        decoder.decode_headers().map_err(failed)?;
        let is = decoder.dimensions().unwrap_or_default();
        let (width, height) = (picture.layout.width, picture.layout.height);
        let announced = (width as usize, height as usize);
        if is != announced {
            return Err(ColourError::JpegSize { is, announced });
        }
        self.rgb.resize(announced.0 * announced.1 * 3, 0);
        decoder.decode_into(&mut self.rgb).map_err(failed)?;
        Ok(self.last(width, height))
    }

    /// The picture that was decoded last.
    pub fn last(&self, width: u32, height: u32) -> Picture<'_> {
        Picture { layout: PictureLayout::packed(width, height, PixelFormat::Rgb24), bytes: &self.rgb }
    }
}

/// Marks in a JPEG, behind a byte 0xff.
const DEFINE_HUFFMAN: u8 = 0xc4;
const START_OF_SCAN: u8 = 0xda;

/// The parts of a JPEG up to the header of its first scan, that included; fewer where it is damaged. Each is its mark and
/// where it lies, with mark and length.
fn segments(jpeg: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut next = Some(2);
    std::iter::from_fn(move || {
        let mut at = next.take()?;
        // A mark may be filled up in front.
        while let [0xff, 0xff, ..] = jpeg.get(at..)? {
            at += 1;
        }
        let [0xff, mark, high, low, ..] = *jpeg.get(at..)? else { return None };
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        next = Some(end).filter(|_| mark != START_OF_SCAN);
        (end <= jpeg.len()).then_some((mark, at..end))
    })
}

/// The JPEG itself, or a copy with the standard's tables in `buffer` when it has none of its own.
fn with_huffman_tables<'a>(jpeg: &'a [u8], buffer: &'a mut Vec<u8>) -> &'a [u8] {
    for (mark, place) in segments(jpeg) {
        match mark {
            DEFINE_HUFFMAN => return jpeg,
            START_OF_SCAN => {
                buffer.clear();
                buffer.extend_from_slice(&jpeg[..place.start]);
                push_standard_tables(buffer);
                buffer.extend_from_slice(&jpeg[place.start..]);
                return buffer;
            }
            _ => {}
        }
    }
    jpeg
}

/// For a decoder that takes cut and damaged pictures as they come: copies of a camera's JPEG to `out` what belongs to the
/// picture, from its beginning to its end and nothing after it, with the standard's Huffman tables where it has none.
/// What programs note in a JPEG, e.g. Exif, is left out. `out` grows to the largest seen and no further.
///
/// # Errors
/// [`ColourError::Jpeg`] where it has no beginning, no end or no sound frame header, and [`ColourError::JpegSize`]. Bytes that
/// are wrong or missing within the picture cannot be noticed.
#[cfg(feature = "cuda")]
pub(crate) fn copy_whole_jpeg(picture: &Picture<'_>, out: &mut Vec<u8>) -> Result<(), ColourError> {
    const BEGINNING: [u8; 2] = [0xff, 0xd8];
    const END: [u8; 2] = [0xff, 0xd9];

    let jpeg = picture.bytes;
    let damaged = |what: &str| ColourError::Jpeg(what.to_owned());
    if !jpeg.starts_with(&BEGINNING) {
        return Err(damaged("it does not begin as one"));
    }
    out.clear();
    out.extend_from_slice(&BEGINNING);
    let (mut has_frame, mut has_tables) = (false, false);
    for (mark, place) in segments(jpeg) {
        let bytes = &jpeg[place.clone()];
        match mark {
            // Baseline, extended and progressive frames.
            0xc0..=0xc2 => {
                check_frame_header(bytes, &picture.layout)?;
                has_frame = true;
            }
            DEFINE_HUFFMAN => has_tables = true,
            START_OF_SCAN if !has_frame => break,
            START_OF_SCAN => {
                // Within the scans 0xff is followed by 0 or other marks: what looks like the last end is the end.
                let scans = &jpeg[place.start..];
                let end = scans.windows(2).rposition(|pair| pair == END);
                let end = end.ok_or_else(|| damaged("it is cut off: its end is missing"))?;
                if !has_tables {
                    push_standard_tables(out);
                }
                out.extend_from_slice(&scans[..end + 2]);
                return Ok(());
            }
            // Notes and comments, but not Adobe's, which says how colours are coded.
            0xe0..=0xed | 0xef | 0xfe => continue,
            _ => {}
        }
        out.extend_from_slice(bytes);
    }
    Err(damaged("it has no frame, or ends before its pixels"))
}

#[cfg(feature = "cuda")]
fn check_frame_header(header: &[u8], layout: &PictureLayout) -> Result<(), ColourError> {
    let damaged = |what: String| Err(ColourError::Jpeg(what));
    let [_, _, _, _, bits, y1, y0, x1, x0, channels, ref rest @ ..] = *header else {
        return damaged("its frame header is cut off".to_owned());
    };
    let is = (usize::from(u16::from_be_bytes([x1, x0])), usize::from(u16::from_be_bytes([y1, y0])));
    let announced = (layout.width as usize, layout.height as usize);
    if is != announced {
        return Err(ColourError::JpegSize { is, announced });
    }
    if bits != 8 || !matches!(channels, 1 | 3) || rest.len() != 3 * usize::from(channels) {
        return damaged(format!("a frame of {channels} channels of {bits} bits is no camera's"));
    }
    Ok(())
}

fn push_standard_tables(out: &mut Vec<u8>) {
    for table in &STANDARD_HUFFMAN_TABLES {
        let length = (2 + 1 + table.counts.len() + table.values.len()) as u16;
        out.extend_from_slice(&[0xff, DEFINE_HUFFMAN]);
        out.extend_from_slice(&length.to_be_bytes());
        out.push(table.class_and_id);
        out.extend_from_slice(&table.counts);
        out.extend_from_slice(table.values);
    }
}

struct HuffmanTable {
    class_and_id: u8,
    counts: [u8; 16],
    values: &'static [u8],
}

/// ITU-T T.81, annex K.3: the tables K.3 to K.6.
static STANDARD_HUFFMAN_TABLES: [HuffmanTable; 4] = [
    HuffmanTable {
        class_and_id: 0x00,
        counts: [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        values: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    },
    HuffmanTable {
        class_and_id: 0x01,
        counts: [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        values: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    },
    HuffmanTable {
        class_and_id: 0x10,
        counts: [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d],
        values: &[
            0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
            0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
            0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
            0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
            0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
            0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
            0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
            0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
            0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
            0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
            0xf9, 0xfa,
        ],
    },
    HuffmanTable {
        class_and_id: 0x11,
        counts: [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
        values: &[
            0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
            0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
            0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
            0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
            0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
            0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
            0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
            0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
            0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
            0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
            0xf9, 0xfa,
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: (u32, u32) = (320, 240);

    fn layout() -> PictureLayout {
        PictureLayout::packed(SIDES.0, SIDES.1, PixelFormat::Mjpg)
    }

    fn jpeg(sampling: jpeg_encoder::SamplingFactor) -> Vec<u8> {
        let (width, height) = SIDES;
        let pixels: Vec<u8> = (0..width * height * 3).map(|i: u32| (i.wrapping_mul(i) >> 7) as u8).collect();
        let mut jpeg = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 85);
        encoder.set_sampling_factor(sampling);
        encoder.encode(&pixels, width as u16, height as u16, jpeg_encoder::ColorType::Rgb).unwrap();
        jpeg
    }

    #[test]
    fn a_jpeg_that_is_not_whole_is_no_picture() {
        let jpeg = jpeg(jpeg_encoder::SamplingFactor::F_2_2);
        let mut decoder = Jpeg::default();
        let mut check = |what: &str, bytes: &[u8], is_picture: bool| {
            let picture = Picture { layout: layout(), bytes };
            let decoded = decoder.decode(&picture);
            assert_eq!(decoded.is_ok(), is_picture, "{what}: {:?}", decoded.err());
            #[cfg(feature = "cuda")]
            {
                let copied = copy_whole_jpeg(&picture, &mut Vec::new());
                assert_eq!(copied.is_ok(), is_picture, "{what}: {copied:?}");
            }
        };
        check("whole", &jpeg, true);
        check("zeros after its end", &[&jpeg[..], &[0; 3000]].concat(), true);
        check("other bytes after its end", &[&jpeg[..], &[0xaa; 30]].concat(), true);
        check("a third of it", &jpeg[..jpeg.len() / 3], false);
        check("half of it", &jpeg[..jpeg.len() / 2], false);
        check("all but the last 200 bytes", &jpeg[..jpeg.len() - 200], false);
        check("its head", &jpeg[..200], false);
        let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8;
        check("noise", &(0..jpeg.len()).map(noise).collect::<Vec<_>>(), false);
        check("noise with the mark of a JPEG", &[&[0xff, 0xd8][..], &jpeg[jpeg.len() / 2..]].concat(), false);
        check("nothing", &[], false);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn what_is_copied_of_a_jpeg_is_the_same_picture_without_notes() {
        use jpeg_encoder::SamplingFactor::{F_1_1, F_2_1, F_2_2};

        for sampling in [F_1_1, F_2_1, F_2_2] {
            let plain = jpeg(sampling);
            let expected = Jpeg::default()
                .decode(&Picture { layout: layout(), bytes: &plain })
                .map(|p| p.bytes.to_vec());
            let expected = expected.unwrap();
            let mut without_tables = plain[..2].to_vec();
            for (mark, place) in segments(&plain) {
                match mark {
                    DEFINE_HUFFMAN => {}
                    START_OF_SCAN => without_tables.extend_from_slice(&plain[place.start..]),
                    _ => without_tables.extend_from_slice(&plain[place]),
                }
            }
            // Exif with a picture of its own, which ends, and a comment; fill bytes before a mark; bytes after the end.
            let notes = *b"\xff\xe1\0\x0aExif\xff\xda\xff\xd9\xff\xff\xfe\0\x03!";
            let noted = [&plain[..2], &notes, &plain[2..], &[0xaa; 30]].concat();
            let mut out = Vec::new();
            for bytes in [&plain, &without_tables, &noted] {
                copy_whole_jpeg(&Picture { layout: layout(), bytes }, &mut out).unwrap();
                assert!(out.ends_with(&[0xff, 0xd9]) && !out.windows(4).any(|four| four == b"Exif"));
                let copy = Picture { layout: layout(), bytes: &out };
                assert!(Jpeg::default().decode(&copy).unwrap().bytes == expected, "{sampling:?}");
            }
            let cut = &noted[..noted.len() / 2];
            assert!(
                copy_whole_jpeg(&Picture { layout: layout(), bytes: cut }, &mut out).is_err(),
                "its note has an end"
            );
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn frames_of_other_sizes_and_kinds_are_refused() {
        let plain = jpeg(jpeg_encoder::SamplingFactor::F_2_2);
        let frame = segments(&plain).find(|&(mark, _)| mark == 0xc0).unwrap().1.start;
        let error = |layout: PictureLayout, change: &[(usize, u8)]| {
            let mut bytes = plain.clone();
            change.iter().for_each(|&(at, byte)| bytes[frame + at] = byte);
            copy_whole_jpeg(&Picture { layout, bytes: &bytes }, &mut Vec::new()).unwrap_err()
        };
        let wrong = PictureLayout::packed(SIDES.0, SIDES.1 - 8, PixelFormat::Mjpg);
        let size = error(wrong, &[]);
        assert!(matches!(size, ColourError::JpegSize { is: (320, 240), announced: (320, 232) }), "{size}");
        for change in [&[(4, 12)][..], &[(9, 4)], &[(1, 0xc3)], &[(3, 200)]] {
            let other = error(layout(), change);
            assert!(matches!(other, ColourError::Jpeg(_)), "{change:?}: {other}");
        }
    }
}
