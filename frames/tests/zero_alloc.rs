//! The frame path allocates nothing once it runs: counted by the global allocator, on each thread.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use futures_core::Stream;
use youquanti_frames::{Counted, FrameHandle, FrameRing, Latest, MailboxStream};
use youquanti_models::{CameraId, Frame, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp};

struct CountingAllocator;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system allocator unchanged; the counter is a plain thread-local number
// that needs neither allocation nor destruction.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const WARM_UP: u64 = 100;
const FRAMES: u64 = 10_000;

/// Allocations of this thread while `frame` runs for each frame after the warm-up.
fn allocations(mut frame: impl FnMut(u64)) -> u64 {
    (0..WARM_UP).for_each(&mut frame);
    let before = ALLOCATIONS.get();
    (WARM_UP..WARM_UP + FRAMES).for_each(&mut frame);
    ALLOCATIONS.get() - before
}

fn ring() -> FrameRing {
    FrameRing::on_heap(4, PictureLayout::packed(64, 48, PixelFormat::Grey)).unwrap()
}

fn capture(ring: &FrameRing, seq: u64) -> Option<FrameHandle> {
    let mut slot = ring.try_acquire()?;
    slot.bytes_mut()[0] = seq as u8;
    let stamp = Timestamp(seq);
    let flags = FrameFlags::default();
    let meta =
        FrameMeta { camera: CameraId(0), seq, driver_seq: 0, captured_at: stamp, received_at: stamp, flags };
    Some(slot.freeze(meta, 64 * 48))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn poll(stream: &mut MailboxStream<FrameHandle>, waker: &Waker) -> Poll<Option<FrameHandle>> {
    Pin::new(stream).poll_next(&mut Context::from_waker(waker))
}

fn this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(std::thread::current())))
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn latest_on_one_thread() {
    let (ring, mailbox, waker) = (ring(), Latest::new(), this_thread());
    let mut stream = mailbox.stream();
    let count = allocations(|seq| {
        assert!(poll(&mut stream, &waker).is_pending());
        assert!(mailbox.send(capture(&ring, seq).unwrap()).is_none());
        assert_eq!(mailbox.send(capture(&ring, seq).unwrap()).unwrap().meta().seq, seq);
        assert!(matches!(poll(&mut stream, &waker), Poll::Ready(Some(frame)) if frame.meta().seq == seq));
    });
    assert_eq!((count, ring.in_use()), (0, 0));
}

#[test]
fn counted_on_one_thread() {
    let (ring, mailbox, waker) = (ring(), Counted::new(2), this_thread());
    let mut stream = mailbox.stream();
    let count = allocations(|seq| {
        let mut cx = Context::from_waker(&waker);
        assert!(poll(&mut stream, &waker).is_pending());
        let frame = capture(&ring, seq).unwrap();
        assert!(mailbox.send(frame.clone()).is_ok() && mailbox.send(frame.clone()).is_ok());
        assert!(mailbox.poll_ready(&mut cx).is_pending());
        assert!(mailbox.send(frame).is_err());
        assert!(mailbox.try_recv().is_some());
        assert!(matches!(poll(&mut stream, &waker), Poll::Ready(Some(frame)) if frame.meta().seq == seq));
    });
    assert_eq!((count, ring.in_use()), (0, 0));
}

#[test]
fn a_full_ring_waits_without_allocating() {
    let (ring, waker) = (ring(), this_thread());
    let count = allocations(|seq| {
        let held: [_; 4] = std::array::from_fn(|_| capture(&ring, seq));
        assert!(held.iter().all(Option::is_some));
        assert!(ring.poll_acquire(&mut Context::from_waker(&waker)).is_pending());
    });
    assert_eq!((count, ring.in_use()), (0, 0));
}

#[test]
fn a_camera_and_a_consumer_on_two_threads() {
    let (ring, mailbox) = (ring(), Counted::new(2));
    let mut stream = mailbox.stream();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            let waker = this_thread();
            allocations(|seq| {
                let frame = loop {
                    match poll(&mut stream, &waker) {
                        Poll::Ready(frame) => break frame.unwrap(),
                        Poll::Pending => std::thread::park(),
                    }
                };
                assert_eq!((frame.meta().seq, frame.picture().bytes[0]), (seq, seq as u8));
            })
        });
        let waker = this_thread();
        let mut cx = Context::from_waker(&waker);
        let sent = allocations(|seq| {
            while mailbox.poll_ready(&mut cx).is_pending() {
                std::thread::park();
            }
            // Four slots: two queued, one with the consumer, one free.
            assert!(mailbox.send(capture(&ring, seq).unwrap()).is_ok());
        });
        assert_eq!((sent, consumer.join().unwrap()), (0, 0));
    });
    assert_eq!(ring.in_use(), 0);
}
