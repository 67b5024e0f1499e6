//! The structs that host and kernels hand each other, as `gpu/kernels` declares them; see there for what they mean.
//! Pointers are addresses, 64 bits wide, as on the device.

use youquanti_models::{Box2, Picture, PixelFormat, Roi};

/// `MAX_CANDIDATES`.
pub(crate) const MAX_CANDIDATES: usize = 1024;
/// `MAX_DETECTIONS`.
pub(crate) const MAX_DETECTIONS: usize = 64;
/// `NO_FRAME`.
pub(crate) const NO_FRAME: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) bytes: u64,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) stride: u32,
    pub(crate) format: u32,
}

impl Frame {
    /// The picture must outlive what is done with the frame.
    pub(crate) fn of(picture: &Picture<'_>) -> Self {
        let layout = picture.layout;
        let format = match layout.format {
            PixelFormat::Yuyv => 0,
            PixelFormat::Nv12 => 1,
            PixelFormat::Rgb24 => 2,
            PixelFormat::Bgr24 => 3,
            PixelFormat::Grey => 4,
            PixelFormat::Mjpg => panic!("a JPEG is decoded first"),
        };
        let bytes = address(picture.bytes);
        Self { bytes, width: layout.width, height: layout.height, stride: layout.stride, format }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct FaceSlot {
    /// cx, cy, width, height, rotation.
    pub(crate) roi: [f32; 5],
    pub(crate) frame: u32,
}

impl FaceSlot {
    pub(crate) fn new(roi: &Roi, frame: u32) -> Self {
        Self { roi: [roi.cx, roi.cy, roi.width, roi.height, roi.rotation], frame }
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ShrinkAxis {
    pub(crate) first: u64,
    pub(crate) weights: u64,
    pub(crate) taps: u32,
    pub(crate) len: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ShrinkTile {
    pub(crate) columns: ShrinkAxis,
    pub(crate) rows: ShrinkAxis,
    pub(crate) frame: u32,
    pub(crate) reserved: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Detection {
    pub(crate) score: f32,
    pub(crate) bbox: [f32; 4],
    pub(crate) keypoints: [[f32; 2]; 6],
    pub(crate) place: u32,
}

impl Detection {
    pub(crate) fn of(detection: &youquanti_models::Detection, place: usize) -> Self {
        let Box2 { x0, y0, x1, y1 } = detection.bbox;
        let (score, keypoints) = (detection.score, detection.keypoints);
        Self { score, bbox: [x0, y0, x1, y1], keypoints, place: place as u32 }
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Detections {
    pub(crate) stored: u32,
    pub(crate) found: u32,
    pub(crate) candidates: u32,
    pub(crate) reserved: u32,
    pub(crate) items: [Detection; MAX_DETECTIONS],
}

impl Default for Detections {
    /// Nothing that a kernel would leave.
    fn default() -> Self {
        let item = Detection { place: 0xdead, ..Detection::default() };
        Self { stored: 0xdead, found: 0xdead, candidates: 0xdead, reserved: 1, items: [item; MAX_DETECTIONS] }
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Candidates {
    pub(crate) counts: u64,
    pub(crate) items: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct DetectorTile {
    pub(crate) source: [f32; 4],
    pub(crate) content: [u32; 2],
    pub(crate) cut: u32,
    pub(crate) frame: u32,
    pub(crate) index: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct YunetOutputs {
    pub(crate) class: [u64; 3],
    pub(crate) object: [u64; 3],
    pub(crate) bbox: [u64; 3],
    pub(crate) keypoints: [u64; 3],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct FacesHeader {
    pub(crate) slots: u32,
    pub(crate) active: u32,
    pub(crate) reserved: [u32; 2],
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct FaceHead {
    pub(crate) presence: f32,
    pub(crate) bbox: [f32; 4],
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct FacesOut {
    pub(crate) header: u64,
    pub(crate) next: u64,
    pub(crate) heads: u64,
    pub(crate) landmarks: u64,
    pub(crate) blendshape_points: u64,
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

/// Where a kernel finds something that it reads.
pub(crate) fn address<T>(of: &[T]) -> u64 {
    of.as_ptr() as u64
}

/// Where a kernel finds something that it writes.
pub(crate) fn address_mut<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr() as u64
}
