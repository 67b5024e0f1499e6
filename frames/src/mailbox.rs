//! Mailboxes for frames: `Latest` has one place and the newest wins, `Counted` is bounded and refuses.
//!
//! Preallocated: nothing is allocated after `new`, neither by sender nor consumer. A mailbox outlives its
//! consumer: a restarted actor takes the stream again and gets what is queued. Senders never wait, and share
//! no lock with the consumer. What cannot be kept is handed back, so that the sender counts it; a mailbox
//! never drops an item itself, except those still queued when its last handle goes.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::sync::{ArrayQueue, AtomicBool, AtomicWaker, Mutex, MutexGuard, Ordering, fence};

/// A mailbox of one place where a new item displaces the old one. For consumers that want the newest frame.
pub struct Latest<T>(Arc<Mailbox<T>>);

/// A bounded mailbox, first in first out, that refuses what it has no room for. For consumers that want
/// every frame; a lossless sender waits for room with [`Counted::poll_ready`].
pub struct Counted<T>(Arc<Mailbox<T>>);

/// What is sent to a mailbox, in order. Ends when the mailbox is closed and empty, or at once when the
/// mailbox's stream is taken again by somebody else. Dropping it leaves what is queued in the mailbox.
pub struct MailboxStream<T> {
    mailbox: Arc<Mailbox<T>>,
    consumer: u64,
}

impl<T> Latest<T> {
    /// An empty mailbox.
    #[expect(clippy::new_without_default, reason = "a mailbox is made on purpose, never by derive")]
    pub fn new() -> Self {
        Self(Arc::new(Mailbox::new(1)))
    }

    /// Puts `item` in the place and wakes the consumer. Gives back the item that is lost by it: the
    /// displaced one, or `item` itself when the mailbox is closed. Any number of senders; never waits.
    #[must_use = "the item given back was not delivered: count it"]
    pub fn send(&self, item: T) -> Option<T> {
        if self.0.is_closed() {
            return Some(item);
        }
        let displaced = self.0.queue.force_push(item);
        self.0.arrived.wake();
        displaced.or_else(|| self.0.take_back_if_closed())
    }
}

impl<T> Counted<T> {
    /// An empty mailbox for `capacity` items, at least 1.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Mailbox::new(capacity.max(1))))
    }

    /// Appends `item` and wakes the consumer. Gives it back when the mailbox is full or closed; any number
    /// of senders; never waits.
    #[must_use = "the item given back was not delivered: count it"]
    pub fn send(&self, item: T) -> Result<(), T> {
        if self.0.is_closed() {
            return Err(item);
        }
        self.0.queue.push(item)?;
        self.0.arrived.wake();
        self.0.take_back_if_closed().map_or(Ok(()), Err)
    }

    /// Ready when there is room or the mailbox is closed; otherwise wakes `cx` when an item is taken out.
    /// One waiting sender a mailbox: the last to wait is the one that is woken.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = || !self.0.queue.is_full() || self.0.is_closed();
        if ready() {
            return Poll::Ready(());
        }
        self.0.room.register(cx.waker());
        // An item taken before the registration woke nobody: look again.
        if ready() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What both mailboxes offer in the same words.
macro_rules! consumer_side {
    ($mailbox:ident) => {
        impl<T> $mailbox<T> {
            /// The consumer's end. Taking it again makes the newest stream the consumer, with all that is
            /// queued; a former one, left behind by a panicked or hung thread, ends at its next poll and takes
            /// nothing more.
            pub fn stream(&self) -> MailboxStream<T> {
                MailboxStream { consumer: self.0.take_over(), mailbox: Arc::clone(&self.0) }
            }

            /// The next item, if there is one now. For consumers that are not tasks, and for counting what
            /// is left after the stream ended or its consumer died.
            pub fn try_recv(&self) -> Option<T> {
                self.0.pop()
            }

            /// Refuses what is sent from now on; the stream ends after what is queued.
            pub fn close(&self) {
                self.0.close();
            }

            /// Whether [`Self::close`] was called.
            pub fn is_closed(&self) -> bool {
                self.0.is_closed()
            }

            /// Items queued now.
            #[expect(clippy::len_without_is_empty, reason = "a gauge: nobody may act on emptiness")]
            pub fn len(&self) -> usize {
                self.0.queue.len()
            }
        }

        impl<T> Clone for $mailbox<T> {
            fn clone(&self) -> Self {
                Self(Arc::clone(&self.0))
            }
        }

        impl<T> fmt::Debug for $mailbox<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($mailbox))
                    .field("len", &self.len())
                    .field("closed", &self.is_closed())
                    .finish()
            }
        }
    };
}

consumer_side!(Latest);
consumer_side!(Counted);

impl<T> Stream for MailboxStream<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.mailbox.poll_next(self.consumer, cx)
    }
}

impl<T> fmt::Debug for MailboxStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxStream").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

struct Mailbox<T> {
    queue: ArrayQueue<T>,
    closed: AtomicBool,
    /// Number of the stream that is the consumer. Locked by streams only, while they look and register, so
    /// that a former consumer can neither take an item nor replace the present one's waker.
    consumer: Mutex<u64>,
    /// Woken when an item arrives, the mailbox closes or another consumer takes over.
    arrived: AtomicWaker,
    /// Woken when an item is taken out or the mailbox closes.
    room: AtomicWaker,
}

impl<T> Mailbox<T> {
    fn new(capacity: usize) -> Self {
        Self {
            queue: ArrayQueue::new(capacity),
            closed: AtomicBool::new(false),
            consumer: Mutex::new(0),
            arrived: AtomicWaker::new(),
            room: AtomicWaker::new(),
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.arrived.wake();
        self.room.wake();
    }

    fn pop(&self) -> Option<T> {
        let item = self.queue.pop()?;
        self.room.wake();
        Some(item)
    }

    /// Sender's second look, after a push: the mailbox may have closed and its stream ended in between, and
    /// then nobody else would ever take the item. What comes back may be another one that is as late.
    /// The two fences make either this see the closing or the consumer's last look see the push.
    fn take_back_if_closed(&self) -> Option<T> {
        fence(Ordering::SeqCst);
        if self.is_closed() { self.queue.pop() } else { None }
    }

    fn consumer(&self) -> MutexGuard<'_, u64> {
        // Holds a plain number, whole at all times: poison means nothing here.
        self.consumer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_over(&self) -> u64 {
        let mut consumer = self.consumer();
        *consumer += 1;
        let number = *consumer;
        drop(consumer);
        self.arrived.wake();
        number
    }

    fn poll_next(&self, number: u64, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let consumer = self.consumer();
        if *consumer != number {
            return Poll::Ready(None);
        }
        let mut item = self.queue.pop();
        let mut ended = false;
        if item.is_none() {
            self.arrived.register(cx.waker());
            // What arrived before the registration woke nobody: look again.
            ended = self.is_closed();
            fence(Ordering::SeqCst);
            item = self.queue.pop();
        }
        drop(consumer);
        match item {
            Some(item) => {
                self.room.wake();
                Poll::Ready(Some(item))
            }
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::future::poll_fn;

    use loom::future::block_on;
    use loom::thread;

    use super::*;

    /// All interleavings with up to two forced switches of threads; without the bound it takes hours.
    fn model(check: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(check);
    }

    /// The next item, waited for as an actor waits.
    fn next<T>(stream: &mut MailboxStream<T>) -> Option<T> {
        block_on(poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)))
    }

    #[test]
    fn loom_latest_delivers_or_displaces_each_item_once() {
        model(|| {
            let mailbox = Latest::new();
            let mut stream = mailbox.stream();
            let sender = thread::spawn(move || {
                let displaced = (1..=2).filter_map(|item| mailbox.send(item)).collect::<Vec<_>>();
                mailbox.close();
                displaced
            });
            let mut seen: Vec<_> = std::iter::from_fn(|| next(&mut stream)).collect();
            assert_eq!(seen.last(), Some(&2), "the newest wins");
            seen.extend(sender.join().unwrap());
            seen.sort();
            assert_eq!(seen, [1, 2]);
        });
    }

    #[test]
    fn loom_what_races_with_closing_is_delivered_or_handed_back() {
        model(|| {
            let mailbox = Counted::new(1);
            let mut stream = mailbox.stream();
            let sender = {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.send(1))
            };
            let closer = {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.close())
            };
            let delivered = std::iter::from_fn(|| next(&mut stream)).count();
            let handed_back = usize::from(sender.join().unwrap().is_err());
            closer.join().unwrap();
            assert_eq!((delivered + handed_back, mailbox.len()), (1, 0));
        });
    }

    #[test]
    fn loom_a_waiting_sender_is_woken_by_room() {
        model(|| {
            let mailbox = Counted::new(1);
            let mut stream = mailbox.stream();
            let sender = thread::spawn(move || {
                for item in 0..2 {
                    block_on(poll_fn(|cx| mailbox.poll_ready(cx)));
                    assert_eq!(mailbox.send(item), Ok(()));
                }
                mailbox.close();
            });
            assert_eq!(std::iter::from_fn(|| next(&mut stream)).collect::<Vec<_>>(), [0, 1]);
            sender.join().unwrap();
        });
    }

    #[test]
    fn loom_a_former_consumer_takes_neither_item_nor_wakeup() {
        model(|| {
            let mailbox = Latest::new();
            let mut former = mailbox.stream();
            let hung = thread::spawn(move || next(&mut former));
            let mut stream = mailbox.stream();
            // Sent after the take-over: the former consumer may be anywhere in its poll, but gets nothing.
            let sender = thread::spawn(move || mailbox.send(1));
            assert_eq!(next(&mut stream), Some(1));
            assert_eq!(hung.join().unwrap(), None);
            assert_eq!(sender.join().unwrap(), None);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A task that counts how often it was woken.
    fn task() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    fn poll<T>(stream: &mut MailboxStream<T>, waker: &Waker) -> Poll<Option<T>> {
        Pin::new(stream).poll_next(&mut Context::from_waker(waker))
    }

    #[test]
    fn latest_keeps_the_newest_and_gives_back_the_displaced() {
        let mailbox = Latest::new();
        let (wakes, waker) = task();
        let mut stream = mailbox.stream();
        assert!(poll(&mut stream, &waker).is_pending());
        assert_eq!(mailbox.send(1), None);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(mailbox.send(2), Some(1));
        assert_eq!(poll(&mut stream, &waker), Poll::Ready(Some(2)));
        assert!(poll(&mut stream, &waker).is_pending());
    }

    #[test]
    fn counted_keeps_order_and_refuses_when_full() {
        let mailbox = Counted::new(2);
        assert_eq!([1, 2, 3].map(|item| mailbox.send(item)), [Ok(()), Ok(()), Err(3)]);
        let (wakes, waker) = task();
        assert!(mailbox.poll_ready(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(mailbox.try_recv(), Some(1));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "a waiting sender is woken by room");
        assert!(mailbox.poll_ready(&mut Context::from_waker(&waker)).is_ready());
        assert_eq!((mailbox.try_recv(), mailbox.try_recv()), (Some(2), None));
    }

    #[test]
    fn closing_ends_the_stream_after_what_is_queued() {
        let mailbox = Counted::new(4);
        let (wakes, waker) = task();
        let mut stream = mailbox.stream();
        assert!(poll(&mut stream, &waker).is_pending());
        assert_eq!(mailbox.send(1), Ok(()));
        mailbox.close();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "registered once, woken once");
        assert_eq!(mailbox.send(2), Err(2));
        assert!(mailbox.poll_ready(&mut Context::from_waker(&waker)).is_ready(), "nobody waits for the dead");
        assert_eq!(poll(&mut stream, &waker), Poll::Ready(Some(1)));
        assert_eq!(poll(&mut stream, &waker), Poll::Ready(None));
        let latest = Latest::new();
        latest.close();
        assert_eq!(latest.send(3), Some(3));
    }

    #[test]
    fn a_restarted_consumer_takes_over_what_is_queued() {
        let mailbox = Counted::new(4);
        let (_, waker) = task();
        assert_eq!([1, 2, 3].map(|item| mailbox.send(item)), [Ok(()); 3]);
        let panicking = mailbox.stream();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut stream = panicking;
            assert_eq!(poll(&mut stream, &Waker::noop().clone()), Poll::Ready(Some(1)));
            panic!("in the middle of item 1");
        }));
        assert!(outcome.is_err());
        let mut stream = mailbox.stream();
        assert_eq!(poll(&mut stream, &waker), Poll::Ready(Some(2)));
        assert_eq!(poll(&mut stream, &waker), Poll::Ready(Some(3)));
    }

    #[test]
    fn a_hung_consumer_is_ended_by_the_next() {
        let mailbox = Latest::new();
        let (wakes, waker) = task();
        let mut hung = mailbox.stream();
        assert!(poll(&mut hung, &waker).is_pending());
        let mut stream = mailbox.stream();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        let (new_wakes, new_waker) = task();
        assert!(poll(&mut stream, &new_waker).is_pending());
        assert_eq!(poll(&mut hung, &waker), Poll::Ready(None));
        assert_eq!(mailbox.send(1), None);
        assert_eq!(new_wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut hung, &waker), Poll::Ready(None));
        assert_eq!(poll(&mut stream, &new_waker), Poll::Ready(Some(1)));
    }
}
