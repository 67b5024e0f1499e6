//! When a camera's silence is a failure.
//!
//! Pure: told of frames and times, it says until when to wait. Never reads a clock.

use std::time::Duration;

use youquanti_models::Timestamp;

/// Silence that is a failure at the least, and of a slow camera three times its period.
const SHORTEST_LIMIT: Duration = Duration::from_secs(1);

/// A camera may take its time until its first frame: sensors warm up, USB bandwidth is negotiated.
pub(crate) const FIRST_FRAME_WITHIN: Duration = Duration::from_secs(5);

/// Watches one life of a camera.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallWatch {
    limit: Duration,
    waits_since: Timestamp,
    is_first: bool,
}

impl StallWatch {
    /// A camera opened at `now` that sends a frame each `period`.
    pub(crate) fn new(period: Duration, now: Timestamp) -> Self {
        Self { limit: SHORTEST_LIMIT.max(period * 3), waits_since: now, is_first: true }
    }

    /// A frame came at `now`.
    pub(crate) fn frame(&mut self, now: Timestamp) {
        (self.waits_since, self.is_first) = (now, false);
    }

    /// How long it may be silent.
    pub(crate) fn limit(&self) -> Duration {
        if self.is_first { FIRST_FRAME_WITHIN.max(self.limit) } else { self.limit }
    }

    /// Time left at `now` before its silence is a failure; `None` when it is one.
    pub(crate) fn left(&self, now: Timestamp) -> Option<Duration> {
        let left = self.limit().saturating_sub(now.saturating_since(self.waits_since));
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use youquanti_models::Clock;
    use youquanti_models::time::FakeClock;

    use super::*;

    /// Time from the last of three frames until a failure is noticed by somebody who waits as told.
    fn noticed_after(fps: f64, wakes_early_by: Duration) -> Duration {
        let period = Duration::from_secs_f64(1.0 / fps);
        let clock = FakeClock::default();
        let mut watch = StallWatch::new(period, clock.now());
        for _ in 0..3 {
            clock.advance(period);
            assert!(watch.left(clock.now()).is_some(), "{fps} fps: a camera in time has not failed");
            watch.frame(clock.now());
        }
        let last = clock.now();
        while let Some(left) = watch.left(clock.now()) {
            clock.advance(left.saturating_sub(wakes_early_by).max(left.min(Duration::from_millis(1))));
        }
        clock.now().saturating_since(last)
    }

    #[test]
    fn a_stall_is_noticed_within_a_second_or_three_frames() {
        for fps in [0.5, 1.0, 2.0, 3.0, 7.5, 29.97, 30.0, 120.0] {
            let most = Duration::from_secs(1).max(Duration::from_secs_f64(3.0 / fps));
            for early in [Duration::ZERO, Duration::from_millis(7)] {
                let after = noticed_after(fps, early);
                assert!(after <= most + Duration::from_nanos(3), "{fps} fps: {after:?}");
            }
        }
    }

    #[test]
    fn the_first_frame_may_take_longer_but_not_for_ever() {
        let clock = FakeClock::default();
        let watch = StallWatch::new(Duration::from_millis(33), clock.now());
        clock.advance(Duration::from_secs(4));
        assert_eq!(watch.left(clock.now()), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(watch.left(clock.now()), None);
    }
}
