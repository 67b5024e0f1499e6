//! The memory of a ring, in a mapped segment or on the heap, and its layout.
//!
//! Owns the bytes and the headers inside them, which readers in other processes see. Never decides who may
//! touch a slot's pixels: its callers prove that by the slot state machine.
//!
//! # Layout, version 2
//! All numbers are little-endian (the host's order; only such hosts are supported) and naturally aligned.
//!
//! Segment header, 128 bytes at offset 0:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic, `YQFRAMES` in ASCII; written last, so a segment without it is not ready |
//! | 8 | 4 | version of this layout, 2 |
//! | 12 | 4 | state: 1 live, 2 closed: no frame will follow, open the segment by its name again |
//! | 16 | 4 | offset of the first slot header, 128 |
//! | 20 | 4 | bytes from one slot header to the next, 64 |
//! | 24 | 8 | offset of the first slot's pixels, a multiple of 4096 |
//! | 32 | 8 | bytes from one slot's pixels to the next slot's, and from results to results; a multiple of 4096 |
//! | 40 | 8 | bytes that one frame may take |
//! | 48 | 4 | slots, 2 to 64 |
//! | 52 | 4 | width of the picture, pixels |
//! | 56 | 4 | height of the picture, pixels |
//! | 60 | 4 | line stride, bytes; 0 for a compressed format |
//! | 64 | 8 | format, ASCII padded with zeros: `YUYV`, `NV12`, `RGB24`, `BGR24`, `GREY` or `MJPG` |
//! | 72 | 8 | frames published so far: changes with every new frame, cheap to poll |
//! | 80 | 8 | offset of the first slot's results area, a multiple of 64; 0 without such areas |
//! | 88 | 4 | bytes of a results area, laid out as `results` says; 0 without one |
//! | 92 | 4 | faces that a results area has room for |
//! | 96 | 32 | zero |
//!
//! Slot header, 64 bytes at 128 + 64 × slot:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | generation: odd while written or without a whole frame, even when complete, 0 never filled |
//! | 8 | 8 | seq: count of captured frames of the camera |
//! | 16 | 8 | captured_at, nanoseconds of `CLOCK_MONOTONIC` |
//! | 24 | 8 | received_at, nanoseconds of `CLOCK_MONOTONIC` |
//! | 32 | 8 | bytes used of the pixel area |
//! | 40 | 4 | driver_seq |
//! | 44 | 2 | flags, the bits of `FrameFlags` |
//! | 46 | 2 | camera, the index of `CameraId` |
//! | 48 | 16 | zero |
//!
//! A reader maps the segment read-only, picks the even generation above 0 with the highest seq, copies what it
//! wants, and keeps the copy only if the generation is still the same. It holds nothing: a slot that nobody in
//! the owner's process uses is written again whenever the camera needs it.

#![allow(unsafe_code, reason = "views of raw memory that other processes map too")]

use std::cell::UnsafeCell;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use memmap2::MmapRaw;
use youquanti_models::{FrameMeta, PictureLayout, PixelFormat};

use crate::generation::{begin_write, end_write};
use crate::results;
use crate::ring::RingOptions;
use crate::segment::{RingError, Segment};

#[cfg(target_endian = "big")]
compile_error!("the segment's layout is little-endian");

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"YQFRAMES");
const VERSION: u32 = 2;
const STATE_LIVE: u32 = 1;
const STATE_CLOSED: u32 = 2;
const PAGE: usize = 4096;
const MAX_SIDE: u32 = 16384;
const SLOTS: std::ops::RangeInclusive<usize> = 2..=RingOptions::MOST_SLOTS;

/// All fields are atomics, so that a shared reference may exist while the owner writes and others read.
#[repr(C)]
struct SegmentHeader {
    magic: AtomicU64,
    version: AtomicU32,
    state: AtomicU32,
    slot_header_offset: AtomicU32,
    slot_header_bytes: AtomicU32,
    pixels_offset: AtomicU64,
    pixels_stride: AtomicU64,
    frame_bytes: AtomicU64,
    slots: AtomicU32,
    width: AtomicU32,
    height: AtomicU32,
    line_stride: AtomicU32,
    format: AtomicU64,
    published: AtomicU64,
    results_offset: AtomicU64,
    results_bytes: AtomicU32,
    results_faces: AtomicU32,
    zero: [u64; 4],
}

#[repr(C)]
struct SlotHeader {
    generation: AtomicU64,
    seq: AtomicU64,
    captured_at: AtomicU64,
    received_at: AtomicU64,
    bytes_used: AtomicU64,
    driver_seq: AtomicU32,
    flags: AtomicU16,
    camera: AtomicU16,
    zero: [u64; 2],
}

// The table above, as far as the compiler can hold us to it.
const _: () = {
    assert!(size_of::<SegmentHeader>() == 128 && size_of::<SlotHeader>() == 64);
    assert!(offset_of!(SegmentHeader, pixels_offset) == 24 && offset_of!(SegmentHeader, slots) == 48);
    assert!(offset_of!(SegmentHeader, format) == 64 && offset_of!(SegmentHeader, published) == 72);
    assert!(
        offset_of!(SegmentHeader, results_offset) == 80 && offset_of!(SegmentHeader, results_faces) == 92
    );
    assert!(offset_of!(SlotHeader, bytes_used) == 32 && offset_of!(SlotHeader, camera) == 46);
};

/// Where everything lies in a region; only made of valid slots and layouts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) slots: usize,
    pub(crate) layout: PictureLayout,
    pub(crate) frame_bytes: usize,
    /// Faces of a slot's results area; none: there is no such area.
    result_faces: Option<usize>,
    pixels_offset: usize,
    pixels_stride: usize,
}

impl Geometry {
    pub(crate) fn new(
        slots: usize,
        layout: PictureLayout,
        result_faces: Option<usize>,
    ) -> Result<Self, RingError> {
        if !SLOTS.contains(&slots) {
            return Err(RingError::Slots { slots });
        }
        let side_is_good = |side| (1..=MAX_SIDE).contains(&side);
        let least = layout.format.min_stride(layout.width.min(MAX_SIDE));
        let stride_is_good = match layout.format {
            PixelFormat::Mjpg => layout.stride == 0,
            _ => (least..=least.saturating_mul(4).max(MAX_SIDE)).contains(&layout.stride),
        };
        if !(side_is_good(layout.width) && side_is_good(layout.height) && stride_is_good) {
            return Err(RingError::Layout { layout });
        }
        Ok(Self::of(slots, layout, result_faces))
    }

    fn of(slots: usize, layout: PictureLayout, result_faces: Option<usize>) -> Self {
        let frame_bytes = layout.max_bytes();
        let headers = size_of::<SegmentHeader>() + slots * size_of::<SlotHeader>();
        let mut geometry = Self {
            slots,
            layout,
            frame_bytes,
            result_faces,
            pixels_offset: headers.next_multiple_of(PAGE),
            pixels_stride: 0,
        };
        let slot_bytes = geometry.results_in_slot() + geometry.results_bytes();
        geometry.pixels_stride = slot_bytes.next_multiple_of(PAGE);
        geometry
    }

    /// Where a slot's results begin, counted from its pixels.
    fn results_in_slot(&self) -> usize {
        self.frame_bytes.next_multiple_of(64)
    }

    pub(crate) fn results_bytes(&self) -> usize {
        self.result_faces.map_or(0, results::area_bytes)
    }

    /// Bytes of the whole region, a multiple of the page size.
    pub(crate) fn region_bytes(&self) -> usize {
        self.pixels_offset + self.slots * self.pixels_stride
    }
}

/// Bytes of shared memory that a ring of `slots` frames takes, so that all rings can be added up before any
/// of them is made.
pub fn segment_bytes(slots: usize, layout: &PictureLayout) -> u64 {
    Geometry::of(slots, *layout, None).region_bytes() as u64
}

/// The same of a ring with results of so many faces in each slot.
pub fn segment_bytes_with_results(slots: usize, layout: &PictureLayout, faces: usize) -> u64 {
    Geometry::of(slots, *layout, Some(faces)).region_bytes() as u64
}

#[repr(C, align(4096))]
struct Page([u8; PAGE]);

enum Backing {
    Heap { _pages: Vec<UnsafeCell<Page>> },
    Segment { _mapping: MmapRaw, segment: Segment },
}

/// Memory of a ring. Invariant: `base` points to `geometry.region_bytes()` bytes that `backing` owns, aligned
/// to a page, readable and writable, not moved and not freed before drop.
pub(crate) struct Region {
    base: NonNull<u8>,
    geometry: Geometry,
    backing: Backing,
}

// SAFETY: the headers are only reached as atomics, and the pixels only through `pixels` and `pixels_mut`,
// whose callers prove that nobody writes what another thread reads. The backing is only dropped.
unsafe impl Send for Region {}
// SAFETY: as for `Send`: `&Region` gives safe access to atomics alone.
unsafe impl Sync for Region {}

impl Region {
    /// Zeroed memory of this process alone.
    pub(crate) fn on_heap(geometry: Geometry) -> Self {
        let pages = geometry.region_bytes() / PAGE;
        let pages: Vec<_> = (0..pages).map(|_| UnsafeCell::new(Page([0; PAGE]))).collect();
        let base = NonNull::from(pages.as_slice()).cast();
        Self::with_headers(base, geometry, Backing::Heap { _pages: pages })
    }

    /// A new segment, which every process of this user can map.
    pub(crate) fn in_segment(geometry: Geometry, segment: Segment) -> Result<Self, RingError> {
        let (mapping, base) = segment.map(geometry.region_bytes())?;
        Ok(Self::with_headers(base, geometry, Backing::Segment { _mapping: mapping, segment }))
    }

    fn with_headers(base: NonNull<u8>, geometry: Geometry, backing: Backing) -> Self {
        let region = Self { base, geometry, backing };
        let mut format = [0; 8];
        let name = geometry.layout.format.name().as_bytes();
        format[..name.len()].copy_from_slice(name);
        let layout = &geometry.layout;
        let header = region.header();
        for (field, value) in [
            (&header.version, VERSION),
            (&header.state, STATE_LIVE),
            (&header.slot_header_offset, size_of::<SegmentHeader>() as u32),
            (&header.slot_header_bytes, size_of::<SlotHeader>() as u32),
            (&header.slots, geometry.slots as u32),
            (&header.width, layout.width),
            (&header.height, layout.height),
            (&header.line_stride, layout.stride),
            (&header.results_bytes, geometry.results_bytes() as u32),
            (&header.results_faces, geometry.result_faces.unwrap_or(0) as u32),
        ] {
            field.store(value, Ordering::Relaxed);
        }
        for (field, value) in [
            (&header.pixels_offset, geometry.pixels_offset as u64),
            (&header.pixels_stride, geometry.pixels_stride as u64),
            (&header.frame_bytes, geometry.frame_bytes as u64),
            (&header.format, u64::from_le_bytes(format)),
            (
                &header.results_offset,
                geometry.result_faces.map_or(0, |_| geometry.pixels_offset + geometry.results_in_slot())
                    as u64,
            ),
        ] {
            field.store(value, Ordering::Relaxed);
        }
        header.magic.store(MAGIC, Ordering::Release);
        region
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn segment(&self) -> Option<&Segment> {
        match &self.backing {
            Backing::Heap { .. } => None,
            Backing::Segment { segment, .. } => Some(segment),
        }
    }

    /// All bytes, headers included.
    pub(crate) fn bytes(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.base, self.geometry.region_bytes())
    }

    /// Tells readers that no frame will follow, and takes the segment's name away. The memory stays.
    pub(crate) fn close(&self) {
        self.header().state.store(STATE_CLOSED, Ordering::Release);
        if let Some(segment) = self.segment() {
            segment.unlink();
        }
    }

    /// Marks the slot as being written. For its single writer.
    pub(crate) fn begin_frame(&self, slot: usize) {
        begin_write(&self.slot_header(slot).generation);
    }

    /// Publishes what was written as a whole frame. For its single writer.
    pub(crate) fn end_frame(&self, slot: usize, meta: &FrameMeta, bytes_used: usize) {
        let header = self.slot_header(slot);
        for (field, value) in [
            (&header.seq, meta.seq),
            (&header.captured_at, meta.captured_at.0),
            (&header.received_at, meta.received_at.0),
            (&header.bytes_used, bytes_used as u64),
        ] {
            field.store(value, Ordering::Relaxed);
        }
        header.driver_seq.store(meta.driver_seq, Ordering::Relaxed);
        header.flags.store(meta.flags.0, Ordering::Relaxed);
        header.camera.store(meta.camera.0, Ordering::Relaxed);
        end_write(&header.generation);
        self.header().published.fetch_add(1, Ordering::Release);
    }

    /// The slot's pixel and results areas for reading.
    ///
    /// # Safety
    /// While the slices live, nobody calls [`Region::areas_mut`] for this slot.
    pub(crate) unsafe fn areas(&self, slot: usize) -> (&[u8], &[u8]) {
        let (pixels, results) = self.areas_start(slot);
        // SAFETY: `frame_bytes` bytes from `pixels` are inside the region, initialised, and live as long as
        // `self`; by this function's contract nobody writes them meanwhile.
        let pixels = unsafe { std::slice::from_raw_parts(pixels.as_ptr(), self.geometry.frame_bytes) };
        // SAFETY: the same of `results_bytes` bytes from `results`.
        let results = unsafe { std::slice::from_raw_parts(results.as_ptr(), self.geometry.results_bytes()) };
        (pixels, results)
    }

    /// The slot's pixel and results areas for writing.
    ///
    /// # Safety
    /// While the slices live, no other slice of this slot exists in this process.
    #[expect(clippy::mut_from_ref, reason = "interior mutability: the contract makes the slices unique")]
    pub(crate) unsafe fn areas_mut(&self, slot: usize) -> (&mut [u8], &mut [u8]) {
        let (pixels, results) = self.areas_start(slot);
        // SAFETY: `frame_bytes` bytes from `pixels` are inside the region, initialised, and live as long as
        // `self`; by this function's contract the slice is the only one of them.
        let pixels = unsafe { std::slice::from_raw_parts_mut(pixels.as_ptr(), self.geometry.frame_bytes) };
        // SAFETY: the same of `results_bytes` bytes from `results`, which begin behind the pixels.
        let results =
            unsafe { std::slice::from_raw_parts_mut(results.as_ptr(), self.geometry.results_bytes()) };
        (pixels, results)
    }

    fn areas_start(&self, slot: usize) -> (NonNull<u8>, NonNull<u8>) {
        assert!(slot < self.geometry.slots);
        // SAFETY: the slot exists, so the offset is inside the region.
        let pixels =
            unsafe { self.base.add(self.geometry.pixels_offset + slot * self.geometry.pixels_stride) };
        // SAFETY: a slot's stride covers its pixels, and its results, which may be none, behind them.
        (pixels, unsafe { pixels.add(self.geometry.results_in_slot()) })
    }

    fn header(&self) -> &SegmentHeader {
        // SAFETY: the region begins with a header's worth of initialised bytes, aligned to a page, and all
        // fields that change are atomics.
        unsafe { self.base.cast().as_ref() }
    }

    fn slot_header(&self, slot: usize) -> &SlotHeader {
        assert!(slot < self.geometry.slots);
        let offset = size_of::<SegmentHeader>() + slot * size_of::<SlotHeader>();
        // SAFETY: the slot exists, so the header is inside the region; 128 + 64 × slot is aligned, the
        // bytes are initialised, and all fields that change are atomics.
        unsafe { self.base.add(offset).cast().as_ref() }
    }
}
