//! Pictures as cameras deliver them, and what is known about each frame.
//!
//! A [`Picture`] borrows pixels; it never owns or copies them. Coordinates everywhere in the
//! project are pixels of this picture, x right, y down, (0, 0) the centre of the first pixel.

use crate::ids::CameraId;
use crate::time::Timestamp;

/// Order and meaning of a picture's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// 4:2:2, two pixels in four bytes: Y0 U Y1 V. An odd width is padded to the next even one.
    Yuyv,
    /// 4:2:0: a plane of Y, then a plane of half height with U and V interleaved, same stride.
    Nv12,
    /// Three bytes a pixel: red, green, blue.
    Rgb24,
    /// Three bytes a pixel: blue, green, red.
    Bgr24,
    /// One byte a pixel, luminance.
    Grey,
    /// A JPEG picture a frame, any length up to the slot's.
    Mjpg,
}

impl PixelFormat {
    /// All formats, in the order in which they are documented.
    pub const ALL: [PixelFormat; 6] =
        [Self::Yuyv, Self::Nv12, Self::Rgb24, Self::Bgr24, Self::Grey, Self::Mjpg];

    /// Name in configuration, files and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yuyv => "YUYV",
            Self::Nv12 => "NV12",
            Self::Rgb24 => "RGB24",
            Self::Bgr24 => "BGR24",
            Self::Grey => "GREY",
            Self::Mjpg => "MJPG",
        }
    }

    /// Bytes of one line without padding; 0 for a compressed format.
    pub const fn min_stride(self, width: u32) -> u32 {
        match self {
            Self::Yuyv => width.next_multiple_of(2) * 2,
            Self::Nv12 => width.next_multiple_of(2),
            Self::Rgb24 | Self::Bgr24 => width * 3,
            Self::Grey => width,
            Self::Mjpg => 0,
        }
    }
}

/// Size, format and stride of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureLayout {
    /// Pixels, 1 to 16384.
    pub width: u32,
    /// Pixels, 1 to 16384.
    pub height: u32,
    /// Order and meaning of the bytes.
    pub format: PixelFormat,
    /// Bytes from one line to the next in the first plane; 0 for a compressed format.
    pub stride: u32,
}

impl PictureLayout {
    /// A layout without padding at the lines' ends.
    pub const fn packed(width: u32, height: u32, format: PixelFormat) -> Self {
        Self { width, height, format, stride: format.min_stride(width) }
    }

    /// Bytes that one frame may take. For MJPG the upper bound that slots are made with:
    /// two bytes a pixel, at least 64 KiB.
    pub const fn max_bytes(&self) -> usize {
        let (stride, height) = (self.stride as usize, self.height as usize);
        match self.format {
            PixelFormat::Nv12 => stride * (height + height.div_ceil(2)),
            PixelFormat::Mjpg => {
                let two_a_pixel = self.width as usize * height * 2;
                if two_a_pixel < 65536 { 65536 } else { two_a_pixel }
            }
            _ => stride * height,
        }
    }
}

/// A picture that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Size, format and stride.
    pub layout: PictureLayout,
    /// The bytes: `layout.max_bytes()` of them, or for MJPG the JPEG's own length.
    pub bytes: &'a [u8],
}

/// What is known of a frame's stamp and picture beside its pixels. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFlags(pub u16);

impl FrameFlags {
    /// The source's stamp was not monotonic: `captured_at` is the time of receipt instead.
    pub const STAMP_REPLACED: FrameFlags = FrameFlags(1);
    /// The source gives no stamps: `captured_at` is the time of receipt.
    pub const STAMP_IS_RECEIPT: FrameFlags = FrameFlags(1 << 1);
    /// The stamp is the start of the exposure; without it, the end of the frame.
    pub const STAMP_IS_EXPOSURE_START: FrameFlags = FrameFlags(1 << 2);
    /// The driver marked the picture as damaged, or it came short or cut off. It is never shown to the pipeline.
    pub const DAMAGED: FrameFlags = FrameFlags(1 << 3);
    /// No slot of the ring was free: the frame was captured and counted, its picture thrown away.
    pub const NO_SLOT: FrameFlags = FrameFlags(1 << 4);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: FrameFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: FrameFlags) -> FrameFlags {
        FrameFlags(self.0 | other.0)
    }
}

/// What is known of a frame from the moment of its capture. Small, copied freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Whose frame it is.
    pub camera: CameraId,
    /// Counts captured frames of the camera from 0, without jumps, over restarts of the camera.
    pub seq: u64,
    /// The driver's own counter since the device was opened; a jump is a frame that the driver lost. A damaged
    /// frame that the driver gave no number has that of the frame before.
    pub driver_seq: u32,
    /// The source's stamp; what instant of the exposure it is, is in `flags`.
    pub captured_at: Timestamp,
    /// When the frame reached this process.
    pub received_at: Timestamp,
    /// See [`FrameFlags`].
    pub flags: FrameFlags,
}

/// A frame that can be read: its facts and its pixels. Cheap to clone, frees its slot when dropped.
pub trait Frame {
    /// The frame's facts.
    fn meta(&self) -> &FrameMeta;

    /// The frame's pixels, in the camera's own format and stride.
    fn picture(&self) -> Picture<'_>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_odd_pictures() {
        let bytes = |w, h, f| PictureLayout::packed(w, h, f).max_bytes();
        assert_eq!(bytes(641, 3, PixelFormat::Yuyv), 642 * 2 * 3);
        assert_eq!(bytes(641, 3, PixelFormat::Nv12), 642 * (3 + 2));
        assert_eq!(bytes(641, 3, PixelFormat::Rgb24), 641 * 9);
        assert_eq!(bytes(641, 3, PixelFormat::Grey), 641 * 3);
        assert_eq!(bytes(64, 48, PixelFormat::Mjpg), 65536);
        assert_eq!(bytes(1920, 1080, PixelFormat::Mjpg), 1920 * 1080 * 2);
    }

    #[test]
    fn flags_are_a_set() {
        let both = FrameFlags::DAMAGED.with(FrameFlags::NO_SLOT);
        assert!(both.contains(FrameFlags::DAMAGED) && both.contains(FrameFlags::NO_SLOT));
        assert!(!both.contains(FrameFlags::STAMP_REPLACED));
    }
}
