//! A slot's generation: how a reader in another process knows that nobody wrote while it read.
//!
//! Odd while the slot is written or holds no whole frame, even when complete, 0 when never filled. It only
//! grows. A reader takes it before and after and keeps what it read if both are the same even number above 0.
//! Never says who may write: that is the slot state machine's business.

use std::sync::atomic::Ordering;

use crate::sync::fence;

/// A 64-bit atomic: the standard library's inside a mapping, loom's inside a model.
pub(crate) trait Generation {
    fn get(&self, order: Ordering) -> u64;
    fn set(&self, value: u64, order: Ordering);
}

impl Generation for std::sync::atomic::AtomicU64 {
    fn get(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn set(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
}

/// Makes the generation odd, before the first byte is written. Only the slot's single writer calls it.
pub(crate) fn begin_write(generation: &impl Generation) {
    let next_odd = (generation.get(Ordering::Relaxed) + 1) | 1;
    generation.set(next_odd, Ordering::Relaxed);
    // Orders the odd number before the bytes that follow: whoever sees one of them, and fences, sees it.
    fence(Ordering::Release);
}

/// Makes the generation even, after the last byte is written.
pub(crate) fn end_write(generation: &impl Generation) {
    let even = generation.get(Ordering::Relaxed) + 1;
    generation.set(even, Ordering::Release);
}
