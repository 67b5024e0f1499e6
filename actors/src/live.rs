//! Live results and events for whoever wants to see them: any number of listeners, none of whom can hold anything up.
//!
//! Owns one bounded ring of results and one of events. Publishing never waits and never looks at who listens: a listener that falls
//! further behind than the ring is long misses the oldest, and is told how many. Without a listener nothing is kept.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use youquanti_models::Clock;

use crate::clock::SystemClock;
use crate::messages::{Event, FacesNamed};

/// Results that a listener may be behind: with four cameras at 60 fps, one second.
const RESULTS: usize = 256;

/// Events that a listener may be behind.
const EVENTS: usize = 1024;

/// The publishing end, which the session's actors hold. The streams end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Live {
    results: broadcast::Sender<FacesNamed>,
    events: broadcast::Sender<Event>,
}

impl Default for Live {
    fn default() -> Self {
        Self { results: broadcast::Sender::new(RESULTS), events: broadcast::Sender::new(EVENTS) }
    }
}

impl Live {
    /// Shows a result to whoever listens.
    pub fn result(&self, faces: &FacesNamed) {
        if self.results.receiver_count() > 0 {
            // Fails when the last listener has just gone.
            self.results.send(faces.clone()).ok();
        }
    }

    /// Shows an event to whoever listens.
    pub fn event(&self, event: &Event) {
        if self.events.receiver_count() > 0 {
            self.events.send(event.clone()).ok();
        }
    }

    /// Where to listen.
    pub fn listen(&self) -> Listen {
        Listen { results: self.results.downgrade(), events: self.events.downgrade() }
    }
}

/// Where to listen; keeps nothing alive.
#[derive(Clone, Debug)]
pub struct Listen {
    results: broadcast::WeakSender<FacesNamed>,
    events: broadcast::WeakSender<Event>,
}

impl Listen {
    /// Results from now on; ended at once when the session is over.
    pub fn results(&self) -> Stream<FacesNamed> {
        Stream::new(self.results.upgrade())
    }

    /// Events from now on; ended at once when the session is over.
    pub fn events(&self) -> Stream<Event> {
        Stream::new(self.events.upgrade())
    }
}

/// What a listener gets, in order. Falling behind costs the listener the oldest, and nobody else anything.
#[derive(Debug)]
pub struct Stream<T> {
    receiver: Option<broadcast::Receiver<T>>,
    missed: u64,
}

/// How waiting for the next one of a [`Stream`] ended.
#[derive(Clone, Debug)]
pub enum Next<T> {
    /// The next one.
    Item(T),
    /// None came in time.
    TimedOut,
    /// The session is over.
    Ended,
}

impl<T> Next<T> {
    /// Whether the session is over.
    pub fn is_end(&self) -> bool {
        matches!(self, Next::Ended)
    }
}

impl<T: Clone> Stream<T> {
    fn new(sender: Option<broadcast::Sender<T>>) -> Self {
        Self { receiver: sender.map(|sender| sender.subscribe()), missed: 0 }
    }

    /// How many this listener has missed so far because it was too slow.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// How many were published for this listener that it has not received, also those that the ring has no longer and that
    /// [`missed`](Self::missed) will have.
    pub fn behind(&self) -> u64 {
        self.receiver.as_ref().map_or(0, |receiver| receiver.len() as u64)
    }

    /// The next one; `None` when the session is over. May be cancelled, which loses nothing.
    pub async fn recv(&mut self) -> Option<T> {
        let receiver = self.receiver.as_mut()?;
        loop {
            match receiver.recv().await {
                Ok(item) => return Some(item),
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The same for threads without an executor: waits up to `patience`.
    pub fn next(&mut self, patience: Duration) -> Next<T> {
        match wait_for(self.recv(), Some(patience)) {
            Some(Some(item)) => Next::Item(item),
            Some(None) => Next::Ended,
            None => Next::TimedOut,
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future that needs no executor of its own on this thread, for at most `patience`.
pub(crate) fn wait_for<F: Future>(future: F, patience: Option<Duration>) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut task = Context::from_waker(&waker);
    let begun_at = SystemClock.now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut task) {
            return Some(output);
        }
        match patience {
            None => std::thread::park(),
            Some(patience) => match patience.checked_sub(SystemClock.now().saturating_since(begun_at)) {
                Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                _ => return None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use youquanti_models::Timestamp;

    use super::*;
    use crate::messages::EventKind;

    fn event(at: u64) -> Event {
        Event { at: Timestamp(at), source: "test".to_owned(), kind: EventKind::Marker, detail: json!({}) }
    }

    #[test]
    fn a_slow_listener_misses_the_oldest_and_is_told_and_a_quick_one_misses_nothing() {
        let live = Live::default();
        live.event(&event(0));
        let [mut slow, mut quick] = [live.listen().events(), live.listen().events()];
        let sent = EVENTS as u64 + 100;
        for at in 1..=sent {
            live.event(&event(at));
            assert!(matches!(quick.next(Duration::ZERO), Next::Item(event) if event.at.0 == at));
        }
        assert_eq!((slow.behind(), quick.behind()), (sent, 0));
        let Next::Item(first) = slow.next(Duration::ZERO) else { panic!() };
        assert_eq!(slow.missed() + 1, first.at.0, "what was missed and what came make all");
        assert!(slow.missed() >= 100 - 1);
        assert_eq!(slow.missed() + 1 + slow.behind(), sent);
        assert_eq!(quick.missed(), 0);
    }

    #[test]
    fn a_stream_ends_with_the_session_and_is_not_kept_waiting_before() {
        let live = Live::default();
        let listen = live.listen();
        let mut events = listen.events();
        assert!(matches!(events.next(Duration::from_millis(1)), Next::TimedOut));
        live.event(&event(7));
        let ending = std::thread::Builder::new().spawn(move || drop(live)).unwrap();
        assert!(matches!(events.next(Duration::from_secs(60)), Next::Item(_)));
        assert!(matches!(events.next(Duration::from_secs(60)), Next::Ended));
        assert!(matches!(listen.results().next(Duration::from_secs(60)), Next::Ended));
        ending.join().unwrap();
    }
}
