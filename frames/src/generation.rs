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

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, AtomicUsize};

    use super::*;

    impl Generation for AtomicU64 {
        fn get(&self, order: Ordering) -> u64 {
            self.load(order)
        }

        fn set(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }
    }

    /// A reader that follows the protocol never keeps bytes of two frames.
    #[test]
    fn loom_a_reader_keeps_whole_frames_only() {
        loom::model(|| {
            let slot = Arc::new((AtomicU64::new(2), [AtomicUsize::new(2), AtomicUsize::new(2)]));
            let writer = {
                let slot = Arc::clone(&slot);
                loom::thread::spawn(move || {
                    let (generation, bytes) = &*slot;
                    begin_write(generation);
                    bytes.iter().for_each(|byte| byte.store(4, Ordering::Relaxed));
                    end_write(generation);
                })
            };
            let (generation, bytes) = &*slot;
            let before = generation.load(Ordering::Acquire);
            let copy = [bytes[0].load(Ordering::Relaxed), bytes[1].load(Ordering::Relaxed)];
            fence(Ordering::Acquire);
            let after = generation.load(Ordering::Relaxed);
            if before == after && before % 2 == 0 {
                assert_eq!(copy, [before as usize; 2]);
            }
            writer.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn odd_while_written_and_after_an_aborted_writing_even_when_complete() {
        let generation = AtomicU64::new(0);
        let now = || generation.load(Ordering::Relaxed);
        begin_write(&generation);
        assert_eq!(now(), 1);
        end_write(&generation);
        assert_eq!(now(), 2);
        begin_write(&generation); // and dropped without an end
        assert_eq!(now(), 3);
        begin_write(&generation);
        assert_eq!(now(), 5);
        end_write(&generation);
        assert_eq!(now(), 6);
    }
}
