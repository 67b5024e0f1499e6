//! The atomics, locks and queues that the lock-free parts stand on: the standard library's and
//! crossbeam's, or under `cfg(loom)` loom's, so that the same code is model-checked.
//!
//! Never used for what lives in a mapping: loom's atomics cannot live there.

#[cfg(loom)]
pub(crate) use self::model::*;
#[cfg(not(loom))]
pub(crate) use self::real::*;

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use atomic_waker::AtomicWaker;
    pub(crate) use crossbeam_queue::ArrayQueue;
}

#[cfg(loom)]
mod model {
    use std::collections::VecDeque;
    use std::task::Waker;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// Loom's model of a waker place, with the signature of `atomic_waker`.
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }

    /// Stands in for crossbeam's queue, which loom cannot see into: it takes the queue's own correctness
    /// for granted and checks what is built on top.
    pub(crate) struct ArrayQueue<T> {
        items: Mutex<VecDeque<T>>,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(capacity: usize) -> Self {
            Self { items: Mutex::new(VecDeque::with_capacity(capacity)), capacity }
        }

        fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
            self.items.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(crate) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items();
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }

        pub(crate) fn force_push(&self, item: T) -> Option<T> {
            let mut items = self.items();
            let displaced = if items.len() == self.capacity { items.pop_front() } else { None };
            items.push_back(item);
            displaced
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.items().pop_front()
        }

        pub(crate) fn is_full(&self) -> bool {
            self.items().len() == self.capacity
        }

        pub(crate) fn len(&self) -> usize {
            self.items().len()
        }
    }
}
