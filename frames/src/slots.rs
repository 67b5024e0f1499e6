//! The state of each slot: free → writing → shared by n handles → free.
//!
//! One atomic word a slot is the whole truth: 0 is free, `WRITING` has one writer, n has n readers, so the
//! reader that counts down to 0 has freed the slot in the same step. Lock-free, nothing allocated after `new`.
//! Never touches the slots' bytes: that an index is handed out once is what makes `ring`'s unsafe code sound.

use std::task::{Context, Poll};

use crate::sync::{AtomicBool, AtomicU32, AtomicUsize, AtomicWaker, Ordering};

const FREE: u32 = 0;
const WRITING: u32 = u32::MAX;
/// Handles of one slot beyond which the process aborts, as `Arc` does: only leaking clones gets there.
const MAX_SHARED: u32 = u32::MAX / 2;

/// States of all slots of a ring.
pub(crate) struct Slots {
    states: Box<[AtomicU32]>,
    /// Where the next search begins: slots are used in turn, so that a frame stays readable in its mapping,
    /// after the last handle is gone, for as long as possible.
    next: AtomicUsize,
    retired: AtomicBool,
    /// The one source that waits for a free slot.
    waiting: AtomicWaker,
}

impl Slots {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            states: (0..slots).map(|_| AtomicU32::new(FREE)).collect(),
            next: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Takes a free slot for writing. The index is not handed out again before [`Slots::release`],
    /// after a [`Slots::publish`] the last one. None: all in use, or retired.
    ///
    /// With one producer the answer None is exact: only it takes slots, so a slot that is found in use
    /// was in use from the start of the search.
    pub(crate) fn try_acquire(&self) -> Option<usize> {
        if self.retired.load(Ordering::Acquire) {
            return None;
        }
        let first = self.next.load(Ordering::Relaxed);
        (0..self.len()).map(|step| (first + step) % self.len()).find(|&slot| {
            // Acquire: all that the former readers did happens before the writing. They counted down with
            // Release, and each countdown continues the release sequence of those before.
            let taken = self.states[slot]
                .compare_exchange(FREE, WRITING, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
            if taken {
                self.next.store((slot + 1) % self.len(), Ordering::Relaxed);
            }
            taken
        })
    }

    /// [`Slots::try_acquire`], waking `cx` when a slot becomes free. Ready(None): retired.
    pub(crate) fn poll_acquire(&self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        if let Some(slot) = self.try_acquire() {
            return Poll::Ready(Some(slot));
        }
        self.waiting.register(cx.waker());
        // A slot freed before the registration woke nobody: look again.
        match self.try_acquire() {
            Some(slot) => Poll::Ready(Some(slot)),
            None if self.is_retired() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Writing → shared by one handle.
    pub(crate) fn publish(&self, slot: usize) {
        self.states[slot].store(1, Ordering::Release);
    }

    /// One handle more. The caller holds one.
    pub(crate) fn share(&self, slot: usize) {
        // Relaxed: the caller's own handle keeps the slot shared.
        let before = self.states[slot].fetch_add(1, Ordering::Relaxed);
        if before > MAX_SHARED {
            std::process::abort();
        }
    }

    /// Writing → free, nothing was written worth keeping; or one handle less, of which the last one frees.
    /// The caller is the writer, or holds one of the handles.
    pub(crate) fn release(&self, slot: usize) {
        let state = &self.states[slot];
        // Relaxed: as long as the caller holds its share, only itself changes WRITING to anything else, and
        // nobody changes a count to WRITING.
        let freed = if state.load(Ordering::Relaxed) == WRITING {
            state.store(FREE, Ordering::Release);
            true
        } else {
            state.fetch_sub(1, Ordering::Release) == 1
        };
        if freed {
            self.waiting.wake();
        }
    }

    /// Gives out no slot any more. A call of [`Slots::try_acquire`] that runs at this moment may still get one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.waiting.wake();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Slots that are written or shared now.
    pub(crate) fn in_use(&self) -> usize {
        self.states.iter().filter(|state| state.load(Ordering::Relaxed) != FREE).count()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::future::poll_fn;

    use loom::cell::UnsafeCell;
    use loom::future::block_on;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Slots with the bytes that they guard: loom reports every access that is not ordered.
    struct Ring {
        slots: Slots,
        bytes: Vec<UnsafeCell<usize>>,
    }

    impl Ring {
        fn new(slots: usize) -> Arc<Self> {
            let bytes = (0..slots).map(|_| UnsafeCell::new(0)).collect();
            Arc::new(Self { slots: Slots::new(slots), bytes })
        }

        #[allow(unsafe_code, reason = "the model's stand-in for the pixels")]
        fn write(&self, slot: usize, value: usize) {
            // SAFETY: loom checks that nobody else accesses the cell.
            self.bytes[slot].with_mut(|byte| unsafe { *byte = value });
        }

        #[allow(unsafe_code, reason = "the model's stand-in for the pixels")]
        fn read(&self, slot: usize) -> usize {
            // SAFETY: loom checks that nobody writes the cell.
            self.bytes[slot].with(|byte| unsafe { *byte })
        }
    }

    #[test]
    fn loom_two_readers_drop_while_a_writer_acquires() {
        loom::model(|| {
            let ring = Ring::new(1);
            let slot = ring.slots.try_acquire().unwrap();
            ring.write(slot, 7);
            ring.slots.publish(slot);
            ring.slots.share(slot);
            let readers = [0; 2].map(|_| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    assert_eq!(ring.read(slot), 7);
                    ring.slots.release(slot);
                })
            });
            if let Some(slot) = ring.slots.try_acquire() {
                ring.write(slot, 8);
                ring.slots.release(slot);
            }
            for reader in readers {
                reader.join().unwrap();
            }
            assert_eq!(ring.slots.in_use(), 0);
        });
    }

    #[test]
    fn loom_no_slot_is_handed_out_twice_and_none_is_lost() {
        loom::model(|| {
            let ring = Ring::new(2);
            let other = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let slot = ring.slots.try_acquire().unwrap();
                    ring.write(slot, 1);
                    ring.slots.publish(slot);
                    assert_eq!(ring.read(slot), 1);
                    ring.slots.release(slot);
                })
            };
            let slot = ring.slots.try_acquire().unwrap();
            ring.write(slot, 2);
            ring.slots.publish(slot);
            assert_eq!(ring.read(slot), 2);
            other.join().unwrap();
            assert_eq!(ring.slots.in_use(), 1);
            let last = ring.slots.try_acquire().unwrap();
            assert_ne!(last, slot);
            ring.write(last, 3);
            assert_eq!(ring.slots.try_acquire(), None);
            ring.slots.release(last);
            ring.slots.release(slot);
            assert_eq!(ring.slots.in_use(), 0);
        });
    }

    #[test]
    fn loom_a_handle_cloned_and_dropped_elsewhere_keeps_the_slot() {
        loom::model(|| {
            let ring = Ring::new(1);
            let slot = ring.slots.try_acquire().unwrap();
            ring.write(slot, 7);
            ring.slots.publish(slot);
            ring.slots.share(slot);
            let other = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    ring.slots.share(slot);
                    ring.slots.release(slot);
                    assert_eq!(ring.read(slot), 7);
                    ring.slots.release(slot);
                })
            };
            assert_eq!(ring.slots.try_acquire(), None);
            assert_eq!(ring.read(slot), 7);
            ring.slots.release(slot);
            other.join().unwrap();
            assert_eq!(ring.slots.in_use(), 0);
        });
    }

    #[test]
    fn loom_a_waiting_source_is_woken_by_the_last_reader() {
        loom::model(|| {
            let ring = Ring::new(1);
            let slot = ring.slots.try_acquire().unwrap();
            ring.slots.publish(slot);
            let reader = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.slots.release(slot))
            };
            assert_eq!(block_on(poll_fn(|cx| ring.slots.poll_acquire(cx))), Some(slot));
            reader.join().unwrap();
        });
    }

    #[test]
    fn loom_retiring_ends_the_waiting() {
        loom::model(|| {
            let ring = Ring::new(1);
            let slot = ring.slots.try_acquire().unwrap();
            ring.slots.publish(slot);
            let supervisor = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.slots.retire())
            };
            assert_eq!(block_on(poll_fn(|cx| ring.slots.poll_acquire(cx))), None);
            supervisor.join().unwrap();
            ring.slots.release(slot);
            assert_eq!(ring.slots.try_acquire(), None);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_in_turn() {
        let slots = Slots::new(3);
        let used: Vec<_> = (0..5)
            .map(|_| {
                let slot = slots.try_acquire().unwrap();
                slots.publish(slot);
                slots.release(slot);
                slot
            })
            .collect();
        assert_eq!(used, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_full_ring_gives_none_and_the_freed_slot_next() {
        let slots = Slots::new(64);
        let all: Vec<_> = std::iter::from_fn(|| slots.try_acquire()).collect();
        assert_eq!(all, (0..64).collect::<Vec<_>>());
        slots.publish(41);
        slots.share(41);
        slots.release(41);
        assert_eq!(slots.try_acquire(), None);
        slots.release(41);
        assert_eq!((slots.try_acquire(), slots.in_use()), (Some(41), 64));
    }
}
