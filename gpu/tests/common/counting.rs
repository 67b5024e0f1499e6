//! An allocator that counts, for test binaries that declare it as theirs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use youquanti_gpu::testing::is_inside_runtime;

/// The system's allocator, counted between [`begin`] and the drop of what that gives.
pub(crate) struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Keeps other tests of the binary from counting until it is dropped.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts until it is dropped.
pub(crate) struct Begun;

/// Begins to count, if `counts`.
pub(crate) fn begin(counts: bool) -> Begun {
    COUNTING.store(counts, Ordering::SeqCst);
    Begun
}

impl Drop for Begun {
    fn drop(&mut self) {
        COUNTING.store(false, Ordering::SeqCst);
    }
}

/// How many there were since the last call, outside of calls of ONNX Runtime on the processor.
pub(crate) fn taken() -> usize {
    ALLOCATIONS.swap(0, Ordering::SeqCst)
}

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
