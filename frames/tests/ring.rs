//! One conformance suite for both memories of a ring, the heap and a shared-memory segment, and random
//! sequences of operations against a model.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;
use youquanti_frames::{FrameHandle, FrameRing, RingError, RingOptions, SlotMut, segment_bytes};
use youquanti_models::{CameraId, Frame, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp};

/// Makes rings of one kind, and cleans up after itself.
trait Memory {
    fn ring(&self, slots: usize, layout: PictureLayout) -> Result<FrameRing, RingError>;
}

struct Heap;

impl Memory for Heap {
    fn ring(&self, slots: usize, layout: PictureLayout) -> Result<FrameRing, RingError> {
        FrameRing::on_heap(slots, layout)
    }
}

struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }
}

impl Memory for Shared {
    fn ring(&self, slots: usize, layout: PictureLayout) -> Result<FrameRing, RingError> {
        let dir = self.0.path().to_owned();
        FrameRing::create(&RingOptions { dir, slots, ..RingOptions::new("conformance", layout) })
    }
}

macro_rules! conformance {
    ($($check:ident),+ $(,)?) => {
        mod heap {
            $(#[test] fn $check() { super::$check(&super::Heap); })+
        }
        mod shared {
            $(#[test] fn $check() { super::$check(&super::Shared::new()); })+
        }
    };
}

conformance!(
    frames_keep_their_bytes_and_facts,
    a_full_ring_refuses_and_recovers,
    a_dropped_slot_is_free_again,
    a_waiting_source_is_woken_once_a_slot_is_free,
    a_retired_ring_keeps_its_frames_and_gives_no_more,
    frames_outlive_the_ring,
    odd_pictures_fit,
    compressed_frames_have_their_own_length,
    impossible_rings_are_refused,
    handles_cross_threads,
    memory_is_pages,
    random_operations_agree_with_the_model,
);

const GREY: PictureLayout = PictureLayout::packed(67, 5, PixelFormat::Grey);

fn meta(seq: u64) -> FrameMeta {
    FrameMeta {
        camera: CameraId(3),
        seq,
        driver_seq: seq as u32 + 100,
        captured_at: Timestamp(seq * 1_000),
        received_at: Timestamp(seq * 1_000 + 1),
        flags: FrameFlags::STAMP_IS_RECEIPT,
    }
}

/// A frame whose bytes all tell its number.
fn fill(mut slot: SlotMut, seq: u64) -> FrameHandle {
    let bytes = slot.bytes_mut();
    bytes.fill(seq as u8);
    let bytes_used = bytes.len();
    slot.freeze(meta(seq), bytes_used)
}

fn check_frame(frame: &FrameHandle, seq: u64) {
    assert_eq!(*frame.meta(), meta(seq));
    assert!(frame.picture().bytes.iter().all(|&byte| byte == seq as u8), "bytes of frame {seq}");
}

fn frames_keep_their_bytes_and_facts(memory: &dyn Memory) {
    let ring = memory.ring(4, GREY).unwrap();
    let frames: Vec<_> = (0..4).map(|seq| fill(ring.try_acquire().unwrap(), seq)).collect();
    let clones = frames.clone();
    drop(frames);
    for (frame, seq) in clones.iter().zip(0..) {
        check_frame(frame, seq);
        assert_eq!(frame.picture().layout, GREY);
        assert_eq!((frame.picture().bytes.len(), frame.bytes_used()), (67 * 5, 67 * 5));
    }
}

fn a_full_ring_refuses_and_recovers(memory: &dyn Memory) {
    let ring = memory.ring(2, GREY).unwrap();
    let first = fill(ring.try_acquire().unwrap(), 1);
    let second = ring.try_acquire().unwrap();
    assert!(ring.try_acquire().is_none());
    let clone = first.clone();
    drop(first);
    assert!(ring.try_acquire().is_none(), "a clone still holds the slot");
    drop(clone);
    let third = fill(ring.try_acquire().unwrap(), 3);
    assert_eq!((ring.in_use(), ring.slots()), (2, 2));
    drop((second, third));
    assert_eq!(ring.in_use(), 0);
}

fn a_dropped_slot_is_free_again(memory: &dyn Memory) {
    let ring = memory.ring(2, GREY).unwrap();
    for _ in 0..5 {
        let slots = [ring.try_acquire().unwrap(), ring.try_acquire().unwrap()];
        assert_eq!(ring.in_use(), 2);
        drop(slots);
        assert_eq!(ring.in_use(), 0);
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_waiting_source_is_woken_once_a_slot_is_free(memory: &dyn Memory) {
    let ring = memory.ring(2, GREY).unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let Poll::Ready(Some(slot)) = ring.poll_acquire(&mut cx) else { panic!("a slot is free") };
    let frame = fill(slot, 1);
    let other = ring.try_acquire().unwrap();
    assert!(ring.poll_acquire(&mut cx).is_pending());
    let clone = frame.clone();
    drop(frame);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    drop(clone);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(Some(slot)) = ring.poll_acquire(&mut cx) else { panic!("a slot was freed") };
    assert!(ring.poll_acquire(&mut cx).is_pending());
    ring.retire();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 2);
    assert!(matches!(ring.poll_acquire(&mut cx), Poll::Ready(None)));
    drop((slot, other));
}

fn a_retired_ring_keeps_its_frames_and_gives_no_more(memory: &dyn Memory) {
    let ring = memory.ring(3, GREY).unwrap();
    let frame = fill(ring.try_acquire().unwrap(), 9);
    let late = ring.try_acquire().unwrap();
    ring.retire();
    assert!(ring.try_acquire().is_none());
    check_frame(&frame, 9);
    check_frame(&fill(late, 10), 10); // a thread that hung in the driver and comes back
    drop(frame);
    assert!(ring.try_acquire().is_none());
    assert_eq!(ring.in_use(), 0);
    // Its name is free at once, whoever still holds it.
    drop(memory.ring(3, GREY).unwrap());
}

fn frames_outlive_the_ring(memory: &dyn Memory) {
    let ring = memory.ring(2, GREY).unwrap();
    let frame = fill(ring.try_acquire().unwrap(), 5);
    let slot = ring.try_acquire().unwrap();
    let registered = ring.memory();
    drop(ring);
    // A camera that is restarted makes its ring again while consumers still hold frames of the former one.
    let again = memory.ring(2, GREY).unwrap();
    check_frame(&fill(again.try_acquire().unwrap(), 6), 6);
    check_frame(&frame, 5);
    check_frame(&fill(slot, 7), 7);
    drop(frame);
    assert_eq!(registered.bytes().len() as u64, segment_bytes(2, &GREY));
}

fn odd_pictures_fit(memory: &dyn Memory) {
    for format in PixelFormat::ALL {
        for (width, height) in [(1, 1), (641, 3), (64, 48), (1279, 721)] {
            let mut layout = PictureLayout::packed(width, height, format);
            for padding in [0, 13] {
                if format != PixelFormat::Mjpg {
                    layout.stride += padding;
                }
                let ring = memory.ring(2, layout).unwrap();
                let mut slots = [ring.try_acquire().unwrap(), ring.try_acquire().unwrap()];
                slots[0].bytes_mut().fill(0x11);
                slots[1].bytes_mut().fill(0x22);
                let frames = slots.map(|slot| slot.freeze(meta(0), layout.max_bytes()));
                for (frame, value) in frames.iter().zip([0x11, 0x22]) {
                    assert_eq!(frame.picture().bytes.len(), layout.max_bytes(), "{layout:?}");
                    assert!(frame.picture().bytes.iter().all(|&byte| byte == value), "{layout:?}");
                }
            }
        }
    }
}

fn compressed_frames_have_their_own_length(memory: &dyn Memory) {
    let layout = PictureLayout::packed(64, 48, PixelFormat::Mjpg);
    let ring = memory.ring(2, layout).unwrap();
    for (written, expected) in [(0, 0), (1234, 1234), (65_536, 65_536), (usize::MAX, 65_536)] {
        let frame = ring.try_acquire().unwrap().freeze(meta(1), written);
        assert_eq!((frame.bytes_used(), frame.picture().bytes.len()), (expected, expected));
    }
}

fn impossible_rings_are_refused(memory: &dyn Memory) {
    for slots in [0, 1, 65, usize::MAX] {
        assert!(matches!(memory.ring(slots, GREY), Err(RingError::Slots { .. })), "{slots} slots");
    }
    let layout = |width, height, format, stride| PictureLayout { width, height, format, stride };
    for bad in [
        layout(0, 5, PixelFormat::Grey, 10),
        layout(5, 0, PixelFormat::Grey, 10),
        layout(16_385, 1, PixelFormat::Grey, 16_385),
        layout(1, u32::MAX, PixelFormat::Grey, 1),
        layout(u32::MAX, 1, PixelFormat::Rgb24, u32::MAX),
        layout(64, 48, PixelFormat::Yuyv, 127),
        layout(64, 48, PixelFormat::Nv12, u32::MAX),
        layout(64, 48, PixelFormat::Mjpg, 64),
    ] {
        assert!(matches!(memory.ring(2, bad), Err(RingError::Layout { .. })), "{bad:?}");
    }
    drop(memory.ring(64, PictureLayout::packed(1, 1, PixelFormat::Grey)).unwrap());
}

fn handles_cross_threads(memory: &dyn Memory) {
    const FRAMES: u64 = 2_000;
    let ring = memory.ring(3, GREY).unwrap();
    let (send, receive) = std::sync::mpsc::sync_channel::<FrameHandle>(1);
    std::thread::scope(|scope| {
        let reader = scope
            .spawn(move || receive.iter().map(|frame| check_frame(&frame, frame.meta().seq)).count() as u64);
        let mut sent = 0;
        while sent < FRAMES {
            match ring.try_acquire() {
                Some(slot) => {
                    send.send(fill(slot, sent)).unwrap();
                    sent += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        drop(send);
        assert_eq!(reader.join().unwrap(), FRAMES);
    });
    assert_eq!(ring.in_use(), 0);
}

fn memory_is_pages(memory: &dyn Memory) {
    let ring = memory.ring(5, GREY).unwrap();
    let bytes = ring.memory().bytes();
    assert_eq!((bytes.cast::<u8>().as_ptr() as usize % 4096, bytes.len() % 4096), (0, 0));
    assert_eq!(bytes.len() as u64, segment_bytes(5, &GREY));
    let frame = fill(ring.try_acquire().unwrap(), 1);
    assert_eq!(frame.picture().bytes.as_ptr() as usize % 4096, 0, "pixels begin on a page");
}

#[derive(Clone, Debug)]
enum Step {
    Acquire,
    Freeze(usize),
    Abandon(usize),
    Clone(usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pick = 0..64_usize;
    let step = prop_oneof![
        3 => Just(Step::Acquire),
        3 => pick.clone().prop_map(Step::Freeze),
        1 => pick.clone().prop_map(Step::Abandon),
        2 => pick.clone().prop_map(Step::Clone),
        4 => pick.prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 0..200)
}

/// The model: a ring of n slots is a number of slots in use; a frame is a number and how often it is held.
fn random_operations_agree_with_the_model(memory: &dyn Memory) {
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(slots in 2..=8_usize, steps in steps())| {
        let ring = memory.ring(slots, GREY).unwrap();
        let mut writing: Vec<SlotMut> = Vec::new();
        let mut frames: Vec<(u64, FrameHandle)> = Vec::new();
        let mut next_seq = 0;
        for step in steps {
            match step {
                Step::Acquire => {
                    let expected = in_use(&writing, &frames) < slots;
                    let slot = ring.try_acquire();
                    prop_assert_eq!(slot.is_some(), expected);
                    writing.extend(slot);
                }
                Step::Freeze(pick) if !writing.is_empty() => {
                    let slot = writing.swap_remove(pick % writing.len());
                    frames.push((next_seq, fill(slot, next_seq)));
                    next_seq += 1;
                }
                Step::Abandon(pick) if !writing.is_empty() => {
                    let mut slot = writing.swap_remove(pick % writing.len());
                    slot.bytes_mut().fill(0xee);
                }
                Step::Clone(pick) if !frames.is_empty() => {
                    let (seq, frame) = &frames[pick % frames.len()];
                    let clone = (*seq, frame.clone());
                    frames.push(clone);
                }
                Step::Drop(pick) if !frames.is_empty() => {
                    frames.swap_remove(pick % frames.len());
                }
                _ => {}
            }
            prop_assert_eq!(ring.in_use(), in_use(&writing, &frames));
            frames.iter().for_each(|(seq, frame)| check_frame(frame, *seq));
        }
    });
}

fn in_use(writing: &[SlotMut], frames: &[(u64, FrameHandle)]) -> usize {
    let mut distinct: Vec<_> = frames.iter().map(|(seq, _)| seq).collect();
    distinct.sort_unstable();
    distinct.dedup();
    writing.len() + distinct.len()
}
