//! Named points at which a test makes an actor panic.
//!
//! Without the feature `testing` a point compiles to nothing. Never used to change what an actor does,
//! only to end it.

/// Panics if a test has armed `name`.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

#[cfg(feature = "testing")]
pub use armed::{Armed, arm, point};

#[cfg(feature = "testing")]
mod armed {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Name and passes left of each armed point. A name is armed once at a time.
    static ARMED: Mutex<Vec<(&'static str, u32)>> = Mutex::new(Vec::new());
    /// Length of `ARMED`, so that a point that nobody armed costs next to nothing.
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    fn armed() -> MutexGuard<'static, Vec<(&'static str, u32)>> {
        ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics if a test has armed `name`.
    pub fn point(name: &'static str) {
        if COUNT.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut points = armed();
        let Some(place) = points.iter().position(|(armed_name, _)| *armed_name == name) else { return };
        if points[place].1 > 0 {
            points[place].1 -= 1;
            return;
        }
        points.remove(place);
        COUNT.store(points.len(), Ordering::Release);
        drop(points);
        panic!("injected fault at {name}");
    }

    /// Makes the point `name` panic once, after it was passed `passes` times unharmed.
    pub fn arm(name: &'static str, passes: u32) -> Armed {
        let mut points = armed();
        points.push((name, passes));
        COUNT.store(points.len(), Ordering::Release);
        Armed(name)
    }

    /// An armed point; dropping it disarms it, so that a test that fails leaves nothing for the next.
    #[derive(Debug)]
    #[must_use = "dropped at once, it arms nothing"]
    pub struct Armed(&'static str);

    impl Armed {
        /// Passes that are left before the panic; `None` once it has panicked.
        pub fn passes_left(&self) -> Option<u32> {
            armed().iter().find(|(name, _)| *name == self.0).map(|&(_, passes)| passes)
        }

        /// Whether the panic is still to come.
        pub fn is_armed(&self) -> bool {
            self.passes_left().is_some()
        }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            let mut points = armed();
            points.retain(|(name, _)| *name != self.0);
            COUNT.store(points.len(), Ordering::Release);
        }
    }
}
