//! The ring of a camera's frames: slots that are filled once and shared by counted handles.
//!
//! Owns the rule that a slot has one writer or any number of readers. Never copies pixels, never allocates
//! after `create`, and never waits: no free slot means None, and the camera drops the frame and counts it.

#![allow(unsafe_code, reason = "the slices of a slot, whose exclusiveness the slot states prove")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Context, Poll};

use youquanti_models::{Frame, FrameMeta, Picture, PictureLayout, PixelFormat};

use crate::region::{Geometry, Region};
use crate::segment::{RingError, Segment};
use crate::slots::Slots;

/// What a ring in shared memory is made of.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// A directory in memory, `/dev/shm`.
    pub dir: PathBuf,
    /// Unique among the sessions of this machine; the file is `youquanti.<name>`. 1 to 128 of
    /// `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// Frames in flight at most, 2 to 64.
    pub slots: usize,
    /// The pictures.
    pub layout: PictureLayout,
    /// Faces that each slot has room for behind its picture, as [`results`](crate::results) lays them out; none: a
    /// slot holds a picture alone.
    pub result_faces: Option<usize>,
}

impl RingOptions {
    /// Slots of a ring unless told otherwise.
    pub const DEFAULT_SLOTS: usize = 8;

    /// Most slots of a ring.
    pub const MOST_SLOTS: usize = 64;

    /// A ring of [`Self::DEFAULT_SLOTS`] slots in `/dev/shm`.
    pub fn new(name: impl Into<String>, layout: PictureLayout) -> Self {
        Self {
            dir: PathBuf::from("/dev/shm"),
            name: name.into(),
            slots: Self::DEFAULT_SLOTS,
            layout,
            result_faces: None,
        }
    }
}

/// A ring of frame slots. Clones are the same ring. When the last clone goes, or with [`FrameRing::retire`],
/// its segment loses its name; the memory stays until the last handle is dropped.
#[derive(Clone)]
pub struct FrameRing(Arc<Named>);

/// A free slot, taken to be written. Dropping it frees it.
pub struct SlotMut(Held);

/// A frame in its slot. Cheap to clone; the last clone frees the slot when dropped.
pub struct FrameHandle {
    held: Held,
    meta: FrameMeta,
    bytes_used: usize,
}

/// A ring's whole memory, for registering it with a device. Keeps the memory alive, not the segment's name.
#[derive(Clone)]
pub struct RingMemory(Arc<Core>);

struct Core {
    slots: Slots,
    region: Region,
}

/// The ring as its owner sees it: what ends with the last [`FrameRing`], whatever the handles do.
struct Named(Arc<Core>);

impl Drop for Named {
    fn drop(&mut self) {
        self.0.region.close();
    }
}

/// A slot of a ring that is in use. Invariant: between [`Slots::try_acquire`] and [`Slots::publish`] there is
/// one `Held` of a slot, inside a [`SlotMut`]; after it, as many as the slot's count, inside [`FrameHandle`]s.
/// Dropping one gives its share of the slot back.
struct Held {
    core: Arc<Core>,
    slot: usize,
}

impl FrameRing {
    /// Makes a ring in shared memory, allocated in full and locked, that other processes of this user may read
    /// as `region` describes. A stale segment of the same name is replaced.
    ///
    /// # Errors
    /// [`RingError::Live`] if the name's owner is alive, [`RingError::NoSpace`] if the directory's file system
    /// is too full, and what else [`RingError`] lists.
    pub fn create(options: &RingOptions) -> Result<Self, RingError> {
        let geometry = Geometry::new(options.slots, options.layout, options.result_faces)?;
        let segment = Segment::create(&options.dir, &options.name, geometry.region_bytes())?;
        Ok(Self::with(Region::in_segment(geometry, segment)?))
    }

    /// Makes a ring in this process's memory only, the same in everything else. For tests and benches.
    ///
    /// # Errors
    /// [`RingError::Slots`] and [`RingError::Layout`].
    pub fn on_heap(slots: usize, layout: PictureLayout) -> Result<Self, RingError> {
        Ok(Self::with(Region::on_heap(Geometry::new(slots, layout, None)?)))
    }

    fn with(region: Region) -> Self {
        let slots = Slots::new(region.geometry().slots);
        Self(Arc::new(Named(Arc::new(Core { slots, region }))))
    }

    /// A free slot to write the next frame into. None when all are in use, or the ring is retired.
    pub fn try_acquire(&self) -> Option<SlotMut> {
        self.core().slots.try_acquire().map(|slot| self.begin(slot))
    }

    /// [`FrameRing::try_acquire`] for a lossless source: wakes `cx` when a slot becomes free. Ready(None) once the
    /// ring is retired. One waiting task a ring: the last to wait is the one that is woken.
    pub fn poll_acquire(&self, cx: &mut Context<'_>) -> Poll<Option<SlotMut>> {
        self.core().slots.poll_acquire(cx).map(|slot| slot.map(|slot| self.begin(slot)))
    }

    fn begin(&self, slot: usize) -> SlotMut {
        let core = Arc::clone(self.core());
        core.region.begin_frame(slot);
        SlotMut(Held { core, slot })
    }

    /// Gives out no slot ever again and takes the segment's name away, so that another ring can have it: for
    /// the ring of a thread that hangs. Frames that are out stay valid.
    pub fn retire(&self) {
        self.core().slots.retire();
        self.core().region.close();
    }

    /// Slots that are being written or held by a consumer now.
    pub fn in_use(&self) -> usize {
        self.core().slots.in_use()
    }

    /// Slots in all.
    pub fn slots(&self) -> usize {
        self.core().slots.len()
    }

    /// The pictures it was made for.
    pub fn layout(&self) -> PictureLayout {
        self.core().region.geometry().layout
    }

    /// The segment's file; None for a ring on the heap.
    pub fn path(&self) -> Option<&Path> {
        self.core().region.segment().map(Segment::path)
    }

    /// The ring's whole memory.
    pub fn memory(&self) -> RingMemory {
        RingMemory(Arc::clone(self.core()))
    }

    fn core(&self) -> &Arc<Core> {
        &self.0.0
    }
}

impl RingMemory {
    /// All bytes, headers included; page-aligned, a whole number of pages, at this place until the last
    /// owner of the ring's memory is dropped. For registration only: the bytes belong to the slots' holders.
    pub fn bytes(&self) -> NonNull<[u8]> {
        self.0.region.bytes()
    }
}

impl SlotMut {
    /// The slot's bytes, as many as a frame may take. Holds what an earlier frame left there.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.areas_mut().0
    }

    /// The same, and beside them the bytes of the slot's results, for [`results::write`](crate::results::write); none in
    /// a ring without.
    pub fn areas_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        // SAFETY: the slot is in state writing and this is its only `Held`, by `Held`'s invariant; the slices
        // borrow `self` mutably, so they are the only ones.
        unsafe { self.0.core.region.areas_mut(self.0.slot) }
    }

    /// Ends the writing: from here on the bytes do not change until the last clone of the handle is dropped.
    /// `bytes_used` is how many of them are the frame's; more than the slot has counts as all. A frame of
    /// an uncompressed format that is shorter than its layout keeps what an earlier frame left behind its end
    /// and belongs marked as damaged.
    pub fn freeze(self, meta: FrameMeta, bytes_used: usize) -> FrameHandle {
        let held = self.0;
        let bytes_used = bytes_used.min(held.core.region.geometry().frame_bytes);
        held.core.region.end_frame(held.slot, &meta, bytes_used);
        held.core.slots.publish(held.slot);
        FrameHandle { held, meta, bytes_used }
    }
}

impl FrameHandle {
    /// How many bytes of the slot the source wrote.
    pub fn bytes_used(&self) -> usize {
        self.bytes_used
    }

    /// The bytes of the slot's results, for [`Results::of`](crate::results::Results::of); none in a ring without.
    pub fn results(&self) -> &[u8] {
        self.areas().1
    }

    fn areas(&self) -> (&[u8], &[u8]) {
        // SAFETY: the slot is in state shared as long as `self.held` lives, which the slices borrow, so no
        // `SlotMut` of it exists, and only `SlotMut` asks for mutable slices.
        unsafe { self.held.core.region.areas(self.held.slot) }
    }

    /// The memory of the ring that the frame lies in. Allocates nothing.
    pub fn memory(&self) -> RingMemory {
        RingMemory(Arc::clone(&self.held.core))
    }
}

impl Clone for FrameHandle {
    fn clone(&self) -> Self {
        self.held.core.slots.share(self.held.slot);
        let held = Held { core: Arc::clone(&self.held.core), slot: self.held.slot };
        Self { held, meta: self.meta, bytes_used: self.bytes_used }
    }
}

impl Frame for FrameHandle {
    fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    fn picture(&self) -> Picture<'_> {
        let layout = self.held.core.region.geometry().layout;
        let (bytes, _) = self.areas();
        let bytes = match layout.format {
            PixelFormat::Mjpg => &bytes[..self.bytes_used],
            _ => bytes,
        };
        Picture { layout, bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.core.slots.release(self.slot);
    }
}

impl fmt::Debug for FrameRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameRing")
            .field("path", &self.path())
            .field("slots", &self.slots())
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SlotMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SlotMut").field(&self.0.slot).finish()
    }
}

impl fmt::Debug for FrameHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameHandle")
            .field("slot", &self.held.slot)
            .field("meta", &self.meta)
            .field("bytes_used", &self.bytes_used)
            .finish()
    }
}

impl fmt::Debug for RingMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RingMemory").field(&self.bytes()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use youquanti_models::{CameraId, FrameFlags, Timestamp};

    #[test]
    fn a_frame_lies_in_the_memory_of_its_own_ring_which_outlives_both() {
        let layout = PictureLayout::packed(67, 5, PixelFormat::Grey);
        let [ring, other] = [(); 2].map(|()| FrameRing::on_heap(2, layout).unwrap());
        let stamp = Timestamp(1);
        let meta = FrameMeta {
            camera: CameraId(0),
            seq: 0,
            driver_seq: 0,
            captured_at: stamp,
            received_at: stamp,
            flags: FrameFlags::default(),
        };
        let frame = ring.try_acquire().unwrap().freeze(meta, layout.max_bytes());
        let memory = frame.memory();
        assert_eq!(memory.bytes(), ring.memory().bytes());
        assert_ne!(memory.bytes(), other.memory().bytes());
        let pixels = frame.picture().bytes.as_ptr_range();
        let start = memory.bytes().cast::<u8>().as_ptr().cast_const();
        assert!(start <= pixels.start && pixels.end <= start.wrapping_add(memory.bytes().len()));
        drop((ring, frame));
        assert_eq!(memory.bytes().cast::<u8>().as_ptr().cast_const(), start);
    }
}
