//! The structs that host and kernels hand each other, as `gpu/kernels` declares them, byte for byte; what they mean is said
//! there. Pointers are addresses in device memory.

#![allow(unsafe_code, reason = "which types may lie in device memory is promised to the compiler")]

use youquanti_models::{PictureLayout, PixelFormat, Roi};

use super::memory::{DevicePtr, Plain};

/// Candidates of one frame that are kept.
pub const MAX_CANDIDATES: usize = 1024;
/// Detections of one frame that are given back.
pub const MAX_DETECTIONS: usize = 64;
/// In place of a frame's index: padding.
pub const NO_FRAME: u32 = u32::MAX;
/// Points of a face.
pub const LANDMARKS: usize = 478;
/// Side of the landmark network's input, pixels.
pub const CROP: usize = 256;
/// Points that the blendshape network takes.
pub const BLENDSHAPE_POINTS: usize = 146;

/// A picture in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Frame {
    /// First line.
    pub bytes: DevicePtr<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Bytes from line to line.
    pub stride: u32,
    /// The kernels' `Format`.
    pub format: u32,
}

impl Frame {
    /// A picture of this layout; `None` for a compressed one, which no kernel reads.
    pub fn new(bytes: DevicePtr<u8>, layout: &PictureLayout) -> Option<Self> {
        let format = match layout.format {
            PixelFormat::Yuyv => 0,
            PixelFormat::Nv12 => 1,
            PixelFormat::Rgb24 => 2,
            PixelFormat::Bgr24 => 3,
            PixelFormat::Grey => 4,
            PixelFormat::Mjpg => return None,
        };
        let PictureLayout { width, height, stride, .. } = *layout;
        Some(Self { bytes, width, height, stride, format })
    }
}

/// One place of a batch of faces.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct FaceSlot {
    /// Centre x and y, width, height in pixels; rotation in radians.
    pub roi: [f32; 5],
    /// Index in the table of frames, or [`NO_FRAME`].
    pub frame: u32,
}

impl FaceSlot {
    /// A place that is not used.
    pub const PADDING: Self = Self { roi: [0.0; 5], frame: NO_FRAME };

    /// A face to look at.
    pub fn new(roi: &Roi, frame: u32) -> Self {
        Self { roi: [roi.cx, roi.cy, roi.width, roi.height, roi.rotation], frame }
    }
}

/// Which pixels along one axis make an input pixel.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ShrinkAxis {
    /// `len` first pixels.
    pub first: DevicePtr<u32>,
    /// `len × taps` weights.
    pub weights: DevicePtr<u16>,
    /// Pixels for each input pixel.
    pub taps: u32,
    /// Input pixels that show the picture.
    pub len: u32,
}

/// One view of a picture.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ShrinkTile {
    /// Along x.
    pub columns: ShrinkAxis,
    /// Along y.
    pub rows: ShrinkAxis,
    /// Index in the table of frames, or [`NO_FRAME`].
    pub frame: u32,
    /// 0.
    pub reserved: u32,
}

/// One detected face.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Detection {
    /// 0 to 1.
    pub score: f32,
    /// x0, y0, x1, y1, picture pixels.
    pub bbox: [f32; 4],
    /// x, y, picture pixels.
    pub keypoints: [[f32; 2]; 6],
    /// Its place in the network's outputs.
    pub place: u32,
}

/// What is found in one frame.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Detections {
    /// How many of `items` count.
    pub stored: u32,
    /// Faces found.
    pub found: u32,
    /// Candidates before suppression.
    pub candidates: u32,
    /// 0.
    pub reserved: u32,
    /// Best first.
    pub items: [Detection; MAX_DETECTIONS],
}

/// The candidates of all frames of a batch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Candidates {
    /// One for each frame; 0 before decoding.
    pub counts: DevicePtr<u32>,
    /// [`MAX_CANDIDATES`] for each frame.
    pub items: DevicePtr<Detection>,
}

/// How one tile of a plan lies in its picture.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DetectorTile {
    /// x0, y0, x1, y1 between pixel edges.
    pub source: [f32; 4],
    /// Width and height, input pixels.
    pub content: [u32; 2],
    /// Bits: left 1, upper 2, right 4, lower 8.
    pub cut: u32,
    /// Index of the frame's candidates, or [`NO_FRAME`].
    pub frame: u32,
    /// Which of the frame's tiles.
    pub index: u32,
}

/// YuNet's outputs for a batch of tiles, by the strides 8, 16, 32.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct YunetOutputs {
    /// 1 a cell.
    pub class: [DevicePtr<f32>; 3],
    /// 1 a cell.
    pub object: [DevicePtr<f32>; 3],
    /// 4 a cell.
    pub bbox: [DevicePtr<f32>; 3],
    /// 10 a cell.
    pub keypoints: [DevicePtr<f32>; 3],
}

/// What there is in a batch of faces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FacesHeader {
    /// Places.
    pub slots: u32,
    /// Of them, no padding.
    pub active: u32,
    /// 0.
    pub reserved: [u32; 2],
}

/// What is known of one face beside its points.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct FaceHead {
    /// 0 to 1, or NaN.
    pub presence: f32,
    /// x0, y0, x1, y1, picture pixels.
    pub bbox: [f32; 4],
}

/// Where the results of a batch of faces go.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FacesOut {
    /// One.
    pub header: DevicePtr<FacesHeader>,
    /// One a slot.
    pub next: DevicePtr<FaceSlot>,
    /// One a slot.
    pub heads: DevicePtr<FaceHead>,
    /// [`LANDMARKS`] × 3 a slot.
    pub landmarks: DevicePtr<f32>,
    /// [`BLENDSHAPE_POINTS`] × 2 a slot.
    pub blendshape_points: DevicePtr<f32>,
}

const _: () = {
    assert!(size_of::<Frame>() == 24 && size_of::<FaceSlot>() == 24);
    assert!(size_of::<ShrinkAxis>() == 24 && size_of::<ShrinkTile>() == 56);
    assert!(size_of::<Detection>() == 72 && size_of::<Detections>() == 16 + 72 * MAX_DETECTIONS);
    assert!(
        size_of::<Candidates>() == 16 && size_of::<DetectorTile>() == 36 && size_of::<YunetOutputs>() == 96
    );
    assert!(size_of::<FacesHeader>() == 16 && size_of::<FaceHead>() == 20 && size_of::<FacesOut>() == 40);
};

// SAFETY: numbers and device addresses, with no gaps between them: the sizes above are the sums of the fields'.
unsafe impl Plain for Frame {}
// SAFETY: as above.
unsafe impl Plain for FaceSlot {}
// SAFETY: as above.
unsafe impl Plain for ShrinkTile {}
// SAFETY: as above.
unsafe impl Plain for Detection {}
// SAFETY: as above.
unsafe impl Plain for Detections {}
// SAFETY: as above.
unsafe impl Plain for DetectorTile {}
// SAFETY: as above.
unsafe impl Plain for FacesHeader {}
// SAFETY: as above.
unsafe impl Plain for FaceHead {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_that_kernels_read_has_their_number() {
        let formats = [
            (PixelFormat::Yuyv, Some(0)),
            (PixelFormat::Nv12, Some(1)),
            (PixelFormat::Rgb24, Some(2)),
            (PixelFormat::Bgr24, Some(3)),
            (PixelFormat::Grey, Some(4)),
            (PixelFormat::Mjpg, None),
        ];
        for (format, expected) in formats {
            let layout = PictureLayout::packed(64, 48, format);
            let frame = Frame::new(DevicePtr::new(16), &layout);
            assert_eq!(frame.map(|frame| frame.format), expected, "{format:?}");
            assert!(frame.is_none_or(|frame| frame.stride == layout.stride && frame.height == 48));
        }
    }
}
