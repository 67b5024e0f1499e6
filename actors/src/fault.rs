//! Named points at which a test makes an actor panic or hang.
//!
//! Without the feature `testing` a point compiles to nothing. Never used to change what an actor does,
//! only to end it or to hold it up.

/// Panics or hangs if a test has armed `name`.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

#[cfg(feature = "testing")]
pub use armed::{Armed, Hang, arm, hang, point};

#[cfg(feature = "testing")]
mod armed {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// What happens at a point.
    enum Fault {
        Panic,
        /// Until the other end is gone.
        Hang(Receiver<()>),
    }

    /// Name, passes left and fault of each armed point. A name is armed once at a time.
    static ARMED: Mutex<Vec<(&'static str, u32, Fault)>> = Mutex::new(Vec::new());
    /// Length of `ARMED`, so that a point that nobody armed costs next to nothing.
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    fn armed() -> MutexGuard<'static, Vec<(&'static str, u32, Fault)>> {
        ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics or hangs if a test has armed `name`.
    pub fn point(name: &'static str) {
        if COUNT.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut points = armed();
        let Some(place) = points.iter().position(|(armed_name, ..)| *armed_name == name) else { return };
        if points[place].1 > 0 {
            points[place].1 -= 1;
            return;
        }
        let (_, _, fault) = points.remove(place);
        COUNT.store(points.len(), Ordering::Release);
        drop(points);
        match fault {
            Fault::Panic => panic!("injected fault at {name}"),
            // Nothing is ever sent.
            Fault::Hang(until) => until.recv().unwrap_or_default(),
        }
    }

    fn add(name: &'static str, passes: u32, fault: Fault) -> Armed {
        let mut points = armed();
        points.push((name, passes, fault));
        COUNT.store(points.len(), Ordering::Release);
        Armed(name)
    }

    /// Makes the point `name` panic once, after it was passed `passes` times unharmed.
    pub fn arm(name: &'static str, passes: u32) -> Armed {
        add(name, passes, Fault::Panic)
    }

    /// Makes the point `name` hang once, until this is dropped.
    pub fn hang(name: &'static str) -> Hang {
        let (until, hanging) = sync_channel(0);
        Hang { armed: add(name, 0, Fault::Hang(hanging)), _until: until }
    }

    /// A point that hangs, or will; dropping it lets the thread go on that hangs there.
    #[derive(Debug)]
    #[must_use = "dropped at once, it holds nobody up"]
    pub struct Hang {
        armed: Armed,
        _until: SyncSender<()>,
    }

    impl Hang {
        /// Whether a thread hangs at the point.
        pub fn hangs(&self) -> bool {
            !self.armed.is_armed()
        }
    }

    /// An armed point; dropping it disarms it, so that a test that fails leaves nothing for the next.
    #[derive(Debug)]
    #[must_use = "dropped at once, it arms nothing"]
    pub struct Armed(&'static str);

    impl Armed {
        /// Passes that are left before the panic; `None` once it has panicked.
        pub fn passes_left(&self) -> Option<u32> {
            armed().iter().find(|(name, ..)| *name == self.0).map(|&(_, passes, _)| passes)
        }

        /// Whether the panic is still to come.
        pub fn is_armed(&self) -> bool {
            self.passes_left().is_some()
        }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            let mut points = armed();
            points.retain(|(name, ..)| *name != self.0);
            COUNT.store(points.len(), Ordering::Release);
        }
    }
}
