//! What the tests of all back ends share: golden data, pictures drawn on the spot, and the conformance suite.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "test code, which clippy knows by its attribute only")]

pub(crate) mod conformance;
pub(crate) mod counting;
pub(crate) mod golden;
pub(crate) mod random;
pub(crate) mod scene;

use std::sync::atomic::{AtomicU64, Ordering};

use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{CameraInput, FaceOptions};
use youquanti_models::{CameraId, Clock, PictureLayout, PixelFormat, Timestamp, UtcNanos};

/// A clock that goes on by a microsecond each time it is read.
#[derive(Default)]
pub(crate) struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp(1000 * (1 + self.0.fetch_add(1, Ordering::SeqCst)))
    }

    fn utc(&self) -> UtcNanos {
        UtcNanos(0)
    }
}

/// An RGB24 picture.
#[derive(Clone)]
pub(crate) struct Rgb {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Rgb {
    pub(crate) fn layout(&self) -> PictureLayout {
        PictureLayout::packed(self.width, self.height, PixelFormat::Rgb24)
    }

    pub(crate) fn frame(&self, seq: u64) -> OwnedFrame {
        OwnedFrame::new(CameraId(0), seq, self.layout(), self.bytes.clone())
    }

    /// The picture in another format, its lines `padding` bytes longer than they need to be.
    pub(crate) fn as_format(&self, format: PixelFormat, padding: u32) -> OwnedFrame {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut layout = PictureLayout::packed(self.width, self.height, format);
        if format != PixelFormat::Mjpg {
            layout.stride += padding;
        }
        let stride = layout.stride as usize;
        let pixel = |x: usize, y: usize| {
            let at = (y.min(height - 1) * width + x.min(width - 1)) * 3;
            [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]].map(f32::from)
        };
        let y_of = |[r, g, b]: [f32; 3]| (16.0 + 0.25679 * r + 0.50413 * g + 0.09791 * b).round() as u8;
        // Mean chroma of some pixels.
        let uv_of = |pixels: &[[f32; 3]]| {
            let sum = pixels.iter().fold([0.0; 3], |sum, p| [sum[0] + p[0], sum[1] + p[1], sum[2] + p[2]]);
            let [r, g, b] = sum.map(|v| v / pixels.len() as f32);
            [
                (128.0 - 0.14822 * r - 0.29099 * g + 0.43922 * b).round() as u8,
                (128.0 + 0.43922 * r - 0.36779 * g - 0.07143 * b).round() as u8,
            ]
        };
        let mut bytes = vec![0xa5; layout.max_bytes()];
        match format {
            PixelFormat::Rgb24 | PixelFormat::Bgr24 => {
                for (y, row) in bytes.chunks_mut(stride).enumerate() {
                    for (x, to) in row[..width * 3].as_chunks_mut::<3>().0.iter_mut().enumerate() {
                        *to = pixel(x, y).map(|v| v as u8);
                        if format == PixelFormat::Bgr24 {
                            to.reverse();
                        }
                    }
                }
            }
            PixelFormat::Grey => {
                for (y, row) in bytes.chunks_mut(stride).enumerate() {
                    for (x, to) in row[..width].iter_mut().enumerate() {
                        let [r, g, b] = pixel(x, y);
                        *to = (0.299 * r + 0.587 * g + 0.114 * b).round() as u8;
                    }
                }
            }
            PixelFormat::Yuyv => {
                for (y, row) in bytes.chunks_mut(stride).enumerate() {
                    for (pair, to) in row.as_chunks_mut::<4>().0[..width.div_ceil(2)].iter_mut().enumerate() {
                        let two = [pixel(2 * pair, y), pixel(2 * pair + 1, y)];
                        let [u, v] = uv_of(&two);
                        *to = [y_of(two[0]), u, y_of(two[1]), v];
                    }
                }
            }
            PixelFormat::Nv12 => {
                let (luma, chroma) = bytes.split_at_mut(stride * height);
                for (y, row) in luma.chunks_mut(stride).enumerate() {
                    for (x, to) in row[..width].iter_mut().enumerate() {
                        *to = y_of(pixel(x, y));
                    }
                }
                for (y, row) in chroma.chunks_mut(stride).enumerate() {
                    for (x, to) in row.as_chunks_mut::<2>().0[..width.div_ceil(2)].iter_mut().enumerate() {
                        let (x, y) = (2 * x, 2 * y);
                        *to = uv_of(&[pixel(x, y), pixel(x + 1, y), pixel(x, y + 1), pixel(x + 1, y + 1)]);
                    }
                }
            }
            PixelFormat::Mjpg => bytes = self.jpeg(),
        }
        OwnedFrame::new(CameraId(0), 0, layout, bytes)
    }

    /// The picture as JPEG with the standard's Huffman tables.
    pub(crate) fn jpeg(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        jpeg_encoder::Encoder::new(&mut bytes, 92)
            .encode(&self.bytes, self.width as u16, self.height as u16, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        bytes
    }
}

/// The JPEG without its Huffman tables, as many cameras send it.
pub(crate) fn without_huffman_tables(jpeg: &[u8]) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    let mut at = 2;
    while jpeg[at + 1] != 0xda {
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if jpeg[at + 1] != 0xc4 {
            out.extend_from_slice(&jpeg[at..end]);
        }
        at = end;
    }
    out.extend_from_slice(&jpeg[at..]);
    assert!(out.len() < jpeg.len(), "the encoder wrote no tables");
    out
}

/// Options for one camera with pictures of this layout.
pub(crate) fn options(layout: PictureLayout, max_faces: usize) -> FaceOptions {
    let mut options = FaceOptions::new(vec![CameraInput { camera: CameraId(0), layout }]);
    options.tracker.max_faces = max_faces;
    options
}
