//! Frames on their way up: the device's slots, the rings that are page-locked for it, and pictures that have to be decoded.
//!
//! Each frame is copied once, from where the camera put it. Never waits for the device where the frame's ring is page-locked.

#![allow(unsafe_code, reason = "uploads read frames while the host goes on")]

use youquanti_frames::RingMemory;
use youquanti_models::{
    Frame, FrameFaces, FrameMeta, PictureLayout, PipelineError, PixelFormat, Timestamp, with_causes,
};

use super::super::abi;
use super::super::device::{CallError, Device};
use super::super::jpeg::{JpegDecoder, JpegError, Nvjpeg};
use super::super::launch::{Event, Stream};
use super::super::memory::{DeviceBuffer, MemoryError, RegisteredRing};
use super::{RingOf, stage};
use crate::cpu::colour::{self, ColourError, Jpeg};
use crate::options::FaceOptions;

/// A place for a frame on the device, and what is known of the frame in it.
pub(super) struct Slot<F> {
    memory: DeviceBuffer<u8>,
    /// When the upload began and ended.
    pub(super) begun: Event,
    pub(super) uploaded: Event,
    /// The frame itself stays where it is until it is collected.
    pub(super) frame: Option<F>,
    pub(super) meta: FrameMeta,
    pub(super) submitted: Timestamp,
    /// The picture in `memory`.
    pub(super) picture: abi::Frame,
    /// Index of its camera among those that are followed.
    pub(super) camera: usize,
    /// Whether the camera is to be forgotten before this frame.
    pub(super) forgets: bool,
    /// Whether `result`, or `failed`, is there.
    pub(super) is_done: bool,
    pub(super) failed: Option<PipelineError>,
    pub(super) result: FrameFaces,
}

impl<F> Slot<F> {
    pub(super) fn new(
        device: &Device,
        memory: DeviceBuffer<u8>,
        max_faces: usize,
    ) -> Result<Self, CallError> {
        let picture = abi::Frame { bytes: memory.ptr(), width: 0, height: 0, stride: 0, format: 0 };
        let result = FrameFaces::with_capacity(max_faces);
        Ok(Self {
            memory,
            begun: Event::new(device)?,
            uploaded: Event::new(device)?,
            frame: None,
            meta: result.meta,
            submitted: Timestamp::default(),
            picture,
            camera: 0,
            forgets: false,
            is_done: false,
            failed: None,
            result,
        })
    }

    /// Width and height of its picture.
    pub(super) fn size(&self) -> [u32; 2] {
        [self.picture.width, self.picture.height]
    }

    /// Forgets the frame before.
    pub(super) fn begin(&mut self, frame: &impl Frame, submitted: Timestamp) {
        self.meta = *frame.meta();
        self.submitted = submitted;
        self.forgets = false;
        self.is_done = false;
        self.failed = None;
        self.result.faces.clear();
    }
}

/// Device memory for a frame of any of the announced cameras.
pub(super) fn slot_bytes(options: &FaceOptions) -> usize {
    let layouts = options.cameras.iter().map(|input| uploaded_layout(&input.layout));
    layouts.map(|layout| layout.max_bytes()).max().unwrap_or(0).max(1)
}

/// What of a picture goes up: itself, or what its JPEG is decoded to.
fn uploaded_layout(layout: &PictureLayout) -> PictureLayout {
    match layout.format {
        PixelFormat::Mjpg => PictureLayout::packed(layout.width, layout.height, PixelFormat::Rgb24),
        _ => *layout,
    }
}

/// Who decodes JPEG pictures.
enum JpegDecoding {
    /// nvJPEG, so that the picture goes up as the camera sent it.
    Device(Box<JpegDecoder>),
    /// This thread.
    Host(Jpeg),
}

impl JpegDecoding {
    fn new(device: &Device) -> Self {
        let nvjpeg = Nvjpeg::load(device.info().driver).map_err(|error| with_causes(&error));
        let decoder = nvjpeg.and_then(|nvjpeg| {
            let decoder = JpegDecoder::new(&nvjpeg, device).map_err(|error| with_causes(&error))?;
            tracing::info!(path = %nvjpeg.path().display(), version = nvjpeg.version(), "the GPU decodes JPEG");
            Ok(decoder)
        });
        decoder.map_or_else(
            |error| {
                tracing::info!(%error, "the processor decodes JPEG");
                Self::Host(Jpeg::default())
            },
            |decoder| Self::Device(Box::new(decoder)),
        )
    }
}

/// See the module.
pub(super) struct Uploader<F> {
    ring_of: RingOf<F>,
    rings: Vec<RegisteredRing>,
    /// Where rings begin that the driver does not page-lock.
    refused: Vec<usize>,
    /// Made for the first JPEG.
    jpeg: Option<JpegDecoding>,
    stream: Stream,
}

impl<F: Frame> Uploader<F> {
    pub(super) fn new(stream: Stream, ring_of: RingOf<F>) -> Self {
        Self { ring_of, rings: Vec::new(), refused: Vec::new(), jpeg: None, stream }
    }

    /// Begins the upload of a frame, which stays where it is until the slot's event has happened.
    pub(super) fn upload(
        &mut self,
        device: &Device,
        frame: &F,
        slot: &mut Slot<F>,
    ) -> Result<(), PipelineError> {
        let picture = frame.picture();
        let failed = |error: CallError| error.in_stage("upload");
        let bad = |error: ColourError| {
            let FrameMeta { camera, seq, .. } = *frame.meta();
            PipelineError::Picture { camera, seq, reason: error.to_string() }
        };
        colour::check(&picture).map_err(bad)?;
        let layout = uploaded_layout(&picture.layout);
        if slot.memory.len() < layout.max_bytes() {
            slot.memory = larger(device, layout.max_bytes()).map_err(|error| stage("upload", error))?;
        }
        slot.picture = abi::Frame::new(slot.memory.ptr(), &layout)
            .ok_or_else(|| bad(ColourError::Conversion("it is not decoded".to_owned())))?;
        let to = slot.memory.ptr();
        self.stream.record(&slot.begun).map_err(failed)?;
        if picture.layout.format != PixelFormat::Mjpg {
            self.page_lock(device, frame, picture.bytes);
            let bytes = &picture.bytes[..picture.bytes.len().min(layout.max_bytes())];
            // SAFETY: the slot is large enough. The frame is kept, and not written, until it is collected, which is after
            // the upload.
            unsafe { self.stream.upload(bytes, to) }.map_err(failed)?;
        } else {
            match self.jpeg.get_or_insert_with(|| JpegDecoding::new(device)) {
                JpegDecoding::Device(decoder) => {
                    // SAFETY: the slot is large enough, and is not used again before its work is done.
                    let decoded = unsafe { decoder.decode(&picture, to, &self.stream) };
                    decoded.map_err(|error| match error {
                        JpegError::Picture(error) => bad(error),
                        error => error.in_stage("decode"),
                    })?;
                }
                JpegDecoding::Host(decoder) => {
                    let picture = decoder.decode(&picture).map_err(bad)?;
                    // SAFETY: as above; the driver reads memory that is not page-locked before it returns.
                    unsafe { self.stream.upload(picture.bytes, to) }.map_err(failed)?;
                }
            }
        }
        self.stream.record(&slot.uploaded).map_err(failed)
    }

    /// Page-locks the frame's ring, if it is a new one. Where that is refused uploads are slower, and it is said once.
    fn page_lock(&mut self, device: &Device, frame: &F, bytes: &[u8]) {
        if self.rings.iter().any(|ring| ring.contains(bytes)) {
            return;
        }
        let Some(memory) = (self.ring_of)(frame) else { return };
        let start = start_of(&memory);
        if self.refused.contains(&start) {
            return;
        }
        match RegisteredRing::new(device, memory) {
            Ok(ring) => self.rings.push(ring),
            Err(error) => {
                tracing::warn!(
                    camera = %frame.meta().camera, error = %with_causes(&error),
                    "a camera's ring cannot be page-locked: its uploads take longer"
                );
                self.refused.push(start);
            }
        }
    }
}

fn start_of(memory: &RingMemory) -> usize {
    memory.bytes().cast::<u8>().as_ptr().addr()
}

/// For a picture larger than any that was announced. Waits for the device.
fn larger(device: &Device, bytes: usize) -> Result<DeviceBuffer<u8>, MemoryError> {
    DeviceBuffer::new(device, "a larger frame", bytes)
}
