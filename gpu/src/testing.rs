//! For tests, benches and examples, here and in other crates: a frame that owns its bytes.

use youquanti_models::{CameraId, Frame, FrameFlags, FrameMeta, Picture, PictureLayout, Timestamp};

pub use crate::cpu::network::is_inside_runtime;

/// A frame in memory of its own.
#[derive(Clone, Debug)]
pub struct OwnedFrame {
    meta: FrameMeta,
    layout: PictureLayout,
    bytes: Vec<u8>,
}

impl OwnedFrame {
    /// A frame captured 33 ms after the one before it.
    pub fn new(camera: CameraId, seq: u64, layout: PictureLayout, bytes: Vec<u8>) -> Self {
        let at = Timestamp(1 + seq * 33_000_000);
        let meta = FrameMeta {
            camera,
            seq,
            driver_seq: seq as u32,
            captured_at: at,
            received_at: at,
            flags: FrameFlags::default(),
        };
        Self { meta, layout, bytes }
    }

    /// The same picture as another frame.
    #[must_use]
    pub fn with_seq(self, seq: u64) -> Self {
        Self::new(self.meta.camera, seq, self.layout, self.bytes)
    }
}

impl Frame for OwnedFrame {
    fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    fn picture(&self) -> Picture<'_> {
        Picture { layout: self.layout, bytes: &self.bytes }
    }
}
