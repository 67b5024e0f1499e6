//! After warm-up the pipeline allocates nothing per frame, on any of its threads.
//!
//! What ONNX Runtime's binding allocates inside a run is its own affair and not counted. (Its C++ part
//! does not use this allocator at all.) In a binary of its own: the counter sees the whole process.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{golden, options};
use youquanti_gpu::testing::{OwnedFrame, is_inside_runtime};
use youquanti_gpu::{CpuOptions, CpuPipeline};
use youquanti_models::time::FakeClock;
use youquanti_models::{Frame, FrameFaces, Pipeline, PixelFormat};

struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    if COUNTING.load(Ordering::Relaxed) && !is_inside_runtime() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "an allocator that counts has to be one")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` is from `alloc` above, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `pointer` is from `alloc` above, which is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_per_frame() {
    let picture = golden::picture("grid4.png");
    for format in
        [PixelFormat::Rgb24, PixelFormat::Bgr24, PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Grey]
    {
        for threads in [1, 2] {
            let frames: Vec<OwnedFrame> =
                (0..30).map(|seq| picture.as_format(format, 0).with_seq(seq)).collect();
            let mut faces = options(frames[0].picture().layout, 2);
            faces.tracker.detect_every = 4;
            let options = CpuOptions { faces, threads, reason: "asked for by name".to_owned() };
            let mut pipeline = CpuPipeline::new(&options, Arc::new(FakeClock::default()))
                .unwrap_or_else(|error| panic!("{error}"));
            let mut out = FrameFaces::with_capacity(2);
            let mut detected = 0;
            for (seq, frame) in frames.into_iter().enumerate() {
                if seq == 10 {
                    ALLOCATIONS.store(0, Ordering::SeqCst);
                    COUNTING.store(true, Ordering::SeqCst);
                }
                pipeline.submit(frame);
                let (frame, result) = pipeline.collect(&mut out).unwrap();
                // The frame's own memory is not the pipeline's: freed after counting.
                COUNTING.store(false, Ordering::SeqCst);
                assert!(result.is_ok() && out.faces.len() == 2);
                detected += usize::from(out.detector_ran);
                drop(frame);
                COUNTING.store(seq >= 10, Ordering::SeqCst);
            }
            COUNTING.store(false, Ordering::SeqCst);
            assert!(detected > 5, "the detector is part of it");
            assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0, "{}, {threads} threads", format.name());
        }
    }
}
