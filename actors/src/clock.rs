//! The system's clock: the only place that reads time.

use rustix::time::{ClockId, clock_gettime};
use youquanti_models::{Clock, Timestamp, UtcNanos};

/// `CLOCK_MONOTONIC` and `CLOCK_REALTIME` of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

fn nanos(id: ClockId) -> i64 {
    let now = clock_gettime(id);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(nanos(ClockId::Monotonic)).unwrap_or(0))
    }

    fn utc(&self) -> UtcNanos {
        UtcNanos(nanos(ClockId::Realtime))
    }
}
