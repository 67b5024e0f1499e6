//! Supervision as a pure state machine: who is started when, after which failure.
//!
//! Owns the restart policy. Sees times and failures, never a clock, an actor or a thread:
//! [`crate::supervisor`] carries out what is decided here. One-for-one, exponential backoff with jitter, a budget
//! of restarts for each window; beyond it a child is either tried for ever at the longest interval
//! (degraded) or given up, which ends the session. A child that shows no sign of life has failed too; its
//! thread cannot be ended, so it is abandoned, and few of those are allowed.

use std::collections::VecDeque;
use std::time::Duration;

use youquanti_models::Timestamp;

use crate::dice::Dice;

/// What happens when a child has used up its restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExhausted {
    /// Go on without it and try again at the longest interval, for ever.
    Degrade,
    /// The session cannot live without it: stop, loudly, saving what can be saved.
    Escalate,
}

/// How a child is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts within `window` before `when_exhausted` applies.
    pub max_restarts: usize,
    /// How long a failure counts.
    pub window: Duration,
    /// Wait before the first restart; doubles with every failure in the window.
    pub first_backoff: Duration,
    /// The longest wait.
    pub longest_backoff: Duration,
    /// See [`WhenExhausted`].
    pub when_exhausted: WhenExhausted,
}

/// How often the supervisor looks for signs of life. Silence is counted in looks and not in time, so that a
/// machine that stands still as a whole is no hung thread.
pub const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// Threads of one child that may hang at the same time.
pub const MOST_ABANDONED: usize = 2;

/// What happens when [`MOST_ABANDONED`] threads of a child hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenHung {
    /// Go on without it: no further thread is risked until one of those comes back.
    Suspend,
    /// The session cannot live without it: stop, loudly, saving what can be saved.
    Escalate,
}

/// How a child is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchPolicy {
    /// Time from being made to being at work after which its thread counts as hung.
    pub start_within: Duration,
    /// Time without a heartbeat after which a child that was at work counts as hung.
    pub silent_for: Duration,
    /// See [`WhenHung`].
    pub when_hung: WhenHung,
}

/// Where a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// Not wanted yet, or stopped on request.
    Stopped,
    /// Made, not yet at work.
    Starting,
    /// At work.
    Running,
    /// Failed; will be made again at `until`.
    Waiting {
        /// When.
        until: Timestamp,
        /// Whether the budget is used up.
        degraded: bool,
    },
    /// Too many of its threads hang; made again when one of them comes back.
    Suspended,
    /// Came to its natural end (the last frame of a file).
    Ended,
    /// Failed for good.
    GivenUp,
}

/// What happened to a child. `generation` says to which of its lives: words from an earlier life
/// are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The session wants it.
    Start,
    /// It is at work.
    Started {
        /// Which life.
        generation: u32,
    },
    /// It failed: error or panic.
    Failed {
        /// Which life.
        generation: u32,
    },
    /// It failed, and says that every other life would too.
    FailedForGood {
        /// Which life.
        generation: u32,
    },
    /// It came to its natural end.
    Ended {
        /// Which life.
        generation: u32,
    },
    /// The session does not want it any more.
    Stop,
    /// Time has passed.
    Tick,
    /// The supervisor has looked for signs of life, [`WATCH_PERIOD`] after it last did. An effect says that the
    /// present life hangs and must be abandoned.
    Watch {
        /// Heartbeats of the present life so far.
        beats: u64,
    },
    /// A life that was abandoned has ended after all.
    Returned,
}

/// What the supervisor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the child, as this life.
    Spawn {
        /// Which life.
        generation: u32,
    },
    /// Dispose of this life and come back with [`Input::Tick`] at `at`.
    RetryAt {
        /// When.
        at: Timestamp,
        /// Whether the budget is used up.
        degraded: bool,
    },
    /// Ask this life to end.
    Shutdown {
        /// Which life.
        generation: u32,
    },
    /// Dispose of this life; nothing follows until an abandoned one returns.
    Suspend,
    /// Dispose of this life and end the session.
    Escalate,
}

/// One child's supervision.
#[derive(Clone, Debug)]
pub struct ChildSupervision {
    policy: RestartPolicy,
    watch: WatchPolicy,
    state: ChildState,
    generation: u32,
    failures: VecDeque<Timestamp>,
    /// Heartbeats at the last look, and looks since they last advanced, or since it was made.
    beats: u64,
    silent_looks: u32,
    abandoned: usize,
    jitter: Dice,
}

impl ChildSupervision {
    /// A child that is not wanted yet. `seed` decides its jitter: children with different seeds that fail
    /// together do not come back together.
    pub fn new(policy: RestartPolicy, watch: WatchPolicy, seed: u64) -> Self {
        Self {
            policy,
            watch,
            state: ChildState::Stopped,
            generation: 0,
            failures: VecDeque::new(),
            beats: 0,
            silent_looks: 0,
            abandoned: 0,
            jitter: Dice::new(seed),
        }
    }

    /// Where the child stands.
    pub fn state(&self) -> ChildState {
        self.state
    }

    /// How often the child was made; its present life has this number.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Lives that hang.
    pub fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Takes what happened at `now` and says what to do, if anything.
    pub fn on(&mut self, now: Timestamp, input: Input) -> Option<Effect> {
        let alive = matches!(self.state, ChildState::Starting | ChildState::Running);
        match input {
            // Stopped with too many of its threads hanging: no further one is risked.
            Input::Start if self.state == ChildState::Stopped && self.abandoned >= MOST_ABANDONED => {
                self.state = ChildState::Suspended;
                Some(Effect::Suspend)
            }
            Input::Start if self.state == ChildState::Stopped => Some(self.spawn()),
            Input::Started { generation } if self.is_current(generation) => {
                if self.state == ChildState::Starting {
                    self.state = ChildState::Running;
                    self.silent_looks = 0;
                }
                None
            }
            Input::Failed { generation } if alive && self.is_current(generation) => Some(self.fail(now)),
            Input::FailedForGood { generation } if alive && self.is_current(generation) => {
                Some(self.give_up())
            }
            Input::Ended { generation } if alive && self.is_current(generation) => {
                self.state = ChildState::Ended;
                None
            }
            Input::Stop => {
                let generation = self.generation;
                if !matches!(self.state, ChildState::Ended | ChildState::GivenUp) {
                    self.state = ChildState::Stopped;
                }
                alive.then_some(Effect::Shutdown { generation })
            }
            Input::Tick => match self.state {
                ChildState::Waiting { until, .. } if now >= until => Some(self.spawn()),
                _ => None,
            },
            Input::Watch { beats } if alive => self.look(now, beats),
            Input::Returned => {
                self.abandoned = self.abandoned.saturating_sub(1);
                (self.state == ChildState::Suspended)
                    .then(|| self.retry_at(now, self.policy.longest_backoff, true))
            }
            _ => None,
        }
    }

    /// What is known of a life that is watched but not heard of.
    pub fn silence(&self) -> String {
        if self.state == ChildState::Starting {
            format!("was not at work within {:?}: its thread hangs", self.watch.start_within)
        } else {
            format!("no sign of life for {:?}: its thread hangs", self.watch.silent_for)
        }
    }

    fn look(&mut self, now: Timestamp, beats: u64) -> Option<Effect> {
        // While it starts it is busy elsewhere, so its heartbeats say nothing.
        let (is_silent, limit) = match self.state {
            ChildState::Starting => (true, self.watch.start_within),
            _ => (beats == self.beats, self.watch.silent_for),
        };
        self.beats = beats;
        self.silent_looks = if is_silent { self.silent_looks + 1 } else { 0 };
        if WATCH_PERIOD * self.silent_looks < limit {
            return None;
        }
        self.abandoned += 1;
        if self.abandoned < MOST_ABANDONED {
            return Some(self.fail(now));
        }
        Some(match self.watch.when_hung {
            WhenHung::Suspend => {
                self.state = ChildState::Suspended;
                Effect::Suspend
            }
            WhenHung::Escalate => self.give_up(),
        })
    }

    fn is_current(&self, generation: u32) -> bool {
        generation == self.generation
    }

    fn spawn(&mut self) -> Effect {
        self.generation += 1;
        self.state = ChildState::Starting;
        (self.beats, self.silent_looks) = (0, 0);
        Effect::Spawn { generation: self.generation }
    }

    fn fail(&mut self, now: Timestamp) -> Effect {
        let window = self.policy.window;
        self.failures.retain(|&at| now.saturating_since(at) < window);
        let degraded = self.failures.len() >= self.policy.max_restarts;
        if degraded && self.policy.when_exhausted == WhenExhausted::Escalate {
            return self.give_up();
        }
        let backoff = if degraded {
            self.policy.longest_backoff
        } else {
            let doublings = u32::try_from(self.failures.len()).unwrap_or(u32::MAX).min(20);
            self.policy.first_backoff.saturating_mul(1 << doublings).min(self.policy.longest_backoff)
        };
        if self.failures.len() > self.policy.max_restarts {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        self.retry_at(now, backoff, degraded)
    }

    fn give_up(&mut self) -> Effect {
        self.state = ChildState::GivenUp;
        Effect::Escalate
    }

    /// Waits three to four quarters of `backoff`, by chance.
    fn retry_at(&mut self, now: Timestamp, backoff: Duration, degraded: bool) -> Effect {
        let at = now + backoff.mul_f64(0.75 + 0.25 * self.jitter.unit());
        self.state = ChildState::Waiting { until: at, degraded };
        Effect::RetryAt { at, degraded }
    }
}

#[cfg(test)]
mod tests {
    use youquanti_models::Clock;
    use youquanti_models::time::FakeClock;

    use super::*;

    const CAMERA: RestartPolicy = RestartPolicy {
        max_restarts: 3,
        window: Duration::from_secs(60),
        first_backoff: Duration::from_millis(100),
        longest_backoff: Duration::from_secs(5),
        when_exhausted: WhenExhausted::Degrade,
    };

    const WATCH: WatchPolicy = WatchPolicy {
        start_within: Duration::from_secs(20),
        silent_for: Duration::from_millis(900),
        when_hung: WhenHung::Suspend,
    };

    fn millis(at: u64) -> Timestamp {
        Timestamp(at * 1_000_000)
    }

    /// Starts a child and lets each life fail at the given milliseconds; returns the last effect.
    fn after_failures(policy: RestartPolicy, failures: &[u64]) -> Option<Effect> {
        let mut child = ChildSupervision::new(policy, WATCH, 7);
        let mut effect = child.on(millis(0), Input::Start);
        for &at in failures {
            if let Some(Effect::RetryAt { at, .. }) = effect {
                effect = child.on(at, Input::Tick);
            }
            let Some(Effect::Spawn { generation }) = effect else { panic!("{effect:?}") };
            child.on(millis(at), Input::Started { generation });
            effect = child.on(millis(at), Input::Failed { generation });
        }
        effect
    }

    #[test]
    fn waits_double_then_the_child_is_degraded_and_a_quiet_minute_forgives() {
        let check = |failures: &[u64], wait: u64, want_degraded| {
            let Some(Effect::RetryAt { at, degraded }) = after_failures(CAMERA, failures) else { panic!() };
            let waited = at.saturating_since(millis(*failures.last().unwrap())).as_millis() as u64;
            assert!((wait * 3 / 4..=wait).contains(&waited), "{failures:?}: {waited} for {wait}");
            assert_eq!(degraded, want_degraded, "{failures:?}");
        };
        check(&[1000], 100, false);
        check(&[1000, 2000], 200, false);
        check(&[1000, 2000, 3000], 400, false);
        check(&[1000, 2000, 3000, 4000], 5000, true);
        check(&[1000, 2000, 3000, 4000, 10_000, 16_000, 22_000], 5000, true);
        check(&[1000, 2000, 3000, 64_000], 100, false);
    }

    #[test]
    fn children_that_fail_together_come_back_one_by_one() {
        let mut waits: Vec<_> = (0..8)
            .map(|seed| {
                let mut child = ChildSupervision::new(CAMERA, WATCH, seed);
                child.on(millis(0), Input::Start);
                child.on(millis(1), Input::Failed { generation: 1 })
            })
            .map(|effect| if let Some(Effect::RetryAt { at, .. }) = effect { at } else { panic!() })
            .collect();
        waits.sort_unstable();
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    }

    #[test]
    fn what_the_session_cannot_live_without_escalates() {
        let recorder = RestartPolicy { max_restarts: 0, when_exhausted: WhenExhausted::Escalate, ..CAMERA };
        assert_eq!(after_failures(recorder, &[1000]), Some(Effect::Escalate));
    }

    #[test]
    fn who_says_that_no_life_will_do_gets_none() {
        let mut child = ChildSupervision::new(CAMERA, WATCH, 0);
        child.on(millis(0), Input::Start);
        assert_eq!(child.on(millis(1), Input::FailedForGood { generation: 2 }), None, "another life's word");
        assert_eq!(child.on(millis(1), Input::FailedForGood { generation: 1 }), Some(Effect::Escalate));
        assert_eq!(child.on(millis(9000), Input::Tick), None);
        assert_eq!(child.state(), ChildState::GivenUp);
    }

    #[test]
    fn words_from_an_earlier_life_are_ignored() {
        let mut child = ChildSupervision::new(CAMERA, WATCH, 0);
        child.on(millis(0), Input::Start);
        child.on(millis(1), Input::Failed { generation: 1 });
        assert_eq!(child.on(millis(500), Input::Tick), Some(Effect::Spawn { generation: 2 }));
        assert_eq!(child.on(millis(501), Input::Failed { generation: 1 }), None);
        assert_eq!(child.on(millis(502), Input::Ended { generation: 1 }), None);
        assert_eq!(child.state(), ChildState::Starting);
    }

    #[test]
    fn a_stopped_child_stays_stopped() {
        let mut child = ChildSupervision::new(CAMERA, WATCH, 0);
        child.on(millis(0), Input::Start);
        child.on(millis(1), Input::Failed { generation: 1 });
        assert_eq!(child.on(millis(2), Input::Stop), None, "nothing is alive");
        assert_eq!(child.on(millis(9000), Input::Tick), None);
        assert_eq!(child.state(), ChildState::Stopped);
    }

    /// A child and a clock that is moved from look to look.
    struct Watched {
        clock: FakeClock,
        child: ChildSupervision,
        beats: u64,
    }

    impl Watched {
        fn running(watch: WatchPolicy) -> Self {
            let mut child = ChildSupervision::new(CAMERA, watch, 0);
            child.on(millis(0), Input::Start);
            child.on(millis(0), Input::Started { generation: 1 });
            Self { clock: FakeClock::default(), child, beats: 0 }
        }

        /// Looks until there is an effect; the time that this took.
        fn until_noticed(&mut self, beats_each_time: u64) -> (Duration, Effect) {
            let begin = self.clock.now();
            for _ in 0..1000 {
                self.clock.advance(WATCH_PERIOD);
                self.beats += beats_each_time;
                if let Some(effect) = self.child.on(self.clock.now(), Input::Watch { beats: self.beats }) {
                    return (self.clock.now().saturating_since(begin), effect);
                }
            }
            panic!("not noticed in 1000 looks")
        }

        /// Makes the next life, as the last effect wants it, and says that it works.
        fn next_life(&mut self) {
            self.clock.advance(CAMERA.longest_backoff);
            let Some(Effect::Spawn { generation }) = self.child.on(self.clock.now(), Input::Tick) else {
                panic!("nothing to make")
            };
            self.beats = 0;
            self.child.on(self.clock.now(), Input::Started { generation });
        }
    }

    #[test]
    fn a_hung_thread_is_noticed_within_a_second() {
        let mut watched = Watched::running(WATCH);
        for _ in 0..50 {
            watched.clock.advance(WATCH_PERIOD);
            watched.beats += 1;
            assert_eq!(watched.child.on(watched.clock.now(), Input::Watch { beats: watched.beats }), None);
        }
        let (after, effect) = watched.until_noticed(0);
        assert!(after <= Duration::from_secs(1), "{after:?}");
        assert!(matches!(effect, Effect::RetryAt { degraded: false, .. }));
        assert_eq!(watched.child.abandoned(), 1);
    }

    #[test]
    fn a_machine_that_stood_still_is_no_hung_thread() {
        let mut watched = Watched::running(WATCH);
        for _ in 0..5 {
            watched.clock.advance(Duration::from_secs(60));
            assert_eq!(watched.child.on(watched.clock.now(), Input::Watch { beats: 0 }), None);
        }
        assert_eq!(watched.child.on(watched.clock.now(), Input::Watch { beats: 1 }), None);
        assert_eq!(watched.child.state(), ChildState::Running);
    }

    #[test]
    fn a_start_that_hangs_is_noticed_whatever_its_heart_does() {
        let mut watched = Watched::running(WATCH);
        watched.child = ChildSupervision::new(CAMERA, WATCH, 0);
        watched.child.on(millis(0), Input::Start);
        let (after, _) = watched.until_noticed(1);
        assert_eq!(after, WATCH.start_within);
    }

    #[test]
    fn after_two_hung_threads_none_is_risked_until_one_returns() {
        let mut watched = Watched::running(WATCH);
        watched.until_noticed(0);
        watched.next_life();
        assert_eq!(watched.until_noticed(0).1, Effect::Suspend);
        watched.clock.advance(Duration::from_secs(3600));
        assert_eq!(watched.child.on(watched.clock.now(), Input::Tick), None);
        let back = watched.child.on(watched.clock.now(), Input::Returned);
        assert!(matches!(back, Some(Effect::RetryAt { degraded: true, .. })), "{back:?}");
        watched.next_life();
        assert_eq!(watched.child.state(), ChildState::Running);
        assert_eq!(watched.child.on(watched.clock.now(), Input::Returned), None);
        assert_eq!(watched.child.abandoned(), 0);
    }

    #[test]
    fn two_hung_threads_of_what_the_session_needs_escalate() {
        let mut watched = Watched::running(WatchPolicy { when_hung: WhenHung::Escalate, ..WATCH });
        watched.until_noticed(0);
        watched.next_life();
        assert_eq!(watched.until_noticed(0).1, Effect::Escalate);
        assert_eq!(watched.child.state(), ChildState::GivenUp);
    }
}
