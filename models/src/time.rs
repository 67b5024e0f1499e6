//! Time: one clock, `CLOCK_MONOTONIC`, in nanoseconds.
//!
//! It is the clock of V4L2 buffer stamps and of `lsl_local_clock()`. This module only names it:
//! the clock itself is read by an implementation of [`Clock`] that `actors` provides.

use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant of `CLOCK_MONOTONIC`, nanoseconds. 0 means "did not happen".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// Nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcNanos(pub i64);

impl Timestamp {
    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Microseconds from `earlier` to `self`, clamped to what `u32` holds (71 minutes).
    pub fn micros_since(self, earlier: Timestamp) -> u32 {
        u32::try_from(self.saturating_since(earlier).as_micros()).unwrap_or(u32::MAX)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Source of time. Injected wherever time is read, so that a test can drive it.
pub trait Clock: Send + Sync {
    /// Now, on `CLOCK_MONOTONIC`.
    fn now(&self) -> Timestamp;

    /// Now, as calendar time. Only for what people read; never for intervals.
    fn utc(&self) -> UtcNanos;
}

/// A clock that stands still until a test moves it. UTC is the monotonic time plus 2026-01-01.
#[cfg(feature = "testing")]
#[derive(Debug, Default)]
pub struct FakeClock(std::sync::atomic::AtomicU64);

#[cfg(feature = "testing")]
impl FakeClock {
    /// Moves time on.
    pub fn advance(&self, by: Duration) {
        self.0
            .fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(feature = "testing")]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn utc(&self) -> UtcNanos {
        const NEW_YEAR_2026: i64 = 1_767_225_600_000_000_000;
        UtcNanos(NEW_YEAR_2026.saturating_add_unsigned(self.now().0))
    }
}
