//! The terminal as the coded screen.
//!
//! Owns the terminal while it flashes: the alternate screen without a cursor, all of it black or white as the code is at the
//! moment. Gives it back as it was, however the measurement ends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use youquanti::actors::calibration::code;
use youquanti::models::{Clock, Timestamp};

use super::marker::Marker;

/// Alternate screen, no cursor, no wrapping of long lines.
const TAKE: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";

const GIVE_BACK: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal that flashes on a thread of its own.
pub(super) struct Screen {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<Duration>>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    status: Mutex<String>,
}

impl Screen {
    /// Takes the terminal and begins. Each change is sent as a marker, too, if there is one.
    pub(super) fn start(
        terminal: impl Write + Send + 'static,
        clock: Arc<dyn Clock>,
        marker: Option<Marker>,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let flashing = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("yq-screen".to_owned())
            .spawn(move || flash(Taken::take(terminal)?, clock.as_ref(), &flashing, marker.as_ref()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What stands in the corner from the next change on.
    pub(super) fn say(&self, status: String) {
        *self.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Gives the terminal back. Tells by how much changes were written too late in the mean.
    pub(super) fn end(mut self) -> io::Result<Duration> {
        self.join()
    }

    fn join(&mut self) -> io::Result<Duration> {
        self.shared.ends.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return Ok(Duration::ZERO) };
        thread.thread().unpark();
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that flashes panicked")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Only when something else has failed, which is what is told.
        self.join().ok();
    }
}

/// A terminal that is given back when this is dropped.
struct Taken<W: Write>(W);

impl<W: Write> Taken<W> {
    fn take(terminal: W) -> io::Result<Self> {
        let mut taken = Self(terminal);
        taken.0.write_all(TAKE.as_bytes())?;
        Ok(taken)
    }
}

impl<W: Write> Drop for Taken<W> {
    fn drop(&mut self) {
        // If the terminal is gone, there is nobody left to tell.
        self.0.write_all(GIVE_BACK.as_bytes()).and_then(|()| self.0.flush()).ok();
    }
}

fn flash<W: Write>(
    mut terminal: Taken<W>,
    clock: &dyn Clock,
    shared: &Shared,
    marker: Option<&Marker>,
) -> io::Result<Duration> {
    let (mut late, mut changes) = (Duration::ZERO, 0);
    let mut due = clock.now();
    while !shared.ends.load(Ordering::Acquire) {
        let now = clock.now();
        if now < due {
            thread::park_timeout(due.saturating_since(now));
            continue;
        }
        let picture = picture(now, &shared.status.lock().unwrap_or_else(PoisonError::into_inner));
        terminal.0.write_all(picture.as_bytes())?;
        terminal.0.flush()?;
        let written_at = clock.now();
        if let Some(marker) = marker {
            marker.send(code::is_white(now), written_at).map_err(io::Error::other)?;
        }
        late += written_at.saturating_since(due);
        changes += 1;
        due = code::next_change(now);
    }
    Ok(late / changes.max(1))
}

/// What is written at a time: the whole screen in one colour of the 256 that are the same everywhere, and the status in grey.
fn picture(at: Timestamp, status: &str) -> String {
    let colour = if code::is_white(at) { 231 } else { 16 };
    format!("\x1b[48;5;{colour}m\x1b[2J\x1b[H\x1b[38;5;244m{status}")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    /// A clock that stands at each change of the code in turn, for two looks each: before it is drawn and after.
    struct ChangeByChange(Mutex<(Timestamp, bool)>);

    impl ChangeByChange {
        fn from(at: Timestamp) -> Arc<Self> {
            Arc::new(Self(Mutex::new((at, false))))
        }
    }

    impl Clock for ChangeByChange {
        fn now(&self) -> Timestamp {
            let (at, goes_on) = &mut *self.0.lock().unwrap();
            if *goes_on {
                *at = code::next_change(*at);
            }
            *goes_on = !*goes_on;
            *at
        }

        fn utc(&self) -> youquanti::models::UtcNanos {
            youquanti::models::UtcNanos(0)
        }
    }

    struct Sent(SyncSender<Vec<u8>>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_terminal_flashes_and_is_given_back() {
        let (terminal, written) = sync_channel(0);
        let screen =
            Screen::start(Sent(terminal), ChangeByChange::from(Timestamp(5_000_000_000_000)), None).unwrap();
        screen.say("7 s".to_owned());
        assert_eq!(written.recv().unwrap(), TAKE.as_bytes());
        let mut seen = String::new();
        while !(seen.contains("[48;5;231m") && seen.contains("[48;5;16m") && seen.contains("7 s")) {
            seen.push_str(std::str::from_utf8(&written.recv().unwrap()).unwrap());
        }
        let rest = thread::scope(|scope| {
            let rest = scope.spawn(move || written.iter().last());
            screen.end().unwrap();
            rest.join().unwrap()
        });
        assert_eq!(rest.unwrap(), GIVE_BACK.as_bytes());
    }

    #[test]
    fn a_terminal_that_is_gone_is_told() {
        let (terminal, written) = sync_channel(0);
        let screen = Screen::start(Sent(terminal), ChangeByChange::from(Timestamp(1)), None).unwrap();
        drop(written);
        assert_eq!(screen.end().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
