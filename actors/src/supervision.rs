//! Supervision as a pure state machine: who is started when, after which failure.
//!
//! Owns the restart policy. Sees times and failures, never a clock, an actor or a thread:
//! [`crate::supervisor`] carries out what is decided here. One-for-one, exponential backoff, a budget
//! of restarts for each window; beyond it a child is either tried for ever at the longest interval
//! (degraded) or given up, which ends the session.

use std::collections::VecDeque;
use std::time::Duration;

use youquanti_models::Timestamp;

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
    /// It failed: error, panic or silence.
    Failed {
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
    /// Dispose of this life and end the session.
    Escalate,
}

/// One child's supervision.
#[derive(Clone, Debug)]
pub struct ChildSupervision {
    policy: RestartPolicy,
    state: ChildState,
    generation: u32,
    failures: VecDeque<Timestamp>,
}

impl ChildSupervision {
    /// A child that is not wanted yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, state: ChildState::Stopped, generation: 0, failures: VecDeque::new() }
    }

    /// Where the child stands.
    pub fn state(&self) -> ChildState {
        self.state
    }

    /// How often the child was made; its present life has this number.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes what happened at `now` and says what to do, if anything.
    pub fn on(&mut self, now: Timestamp, input: Input) -> Option<Effect> {
        let alive = matches!(self.state, ChildState::Starting | ChildState::Running);
        match input {
            Input::Start if self.state == ChildState::Stopped => Some(self.spawn()),
            Input::Started { generation } if self.is_current(generation) => {
                if self.state == ChildState::Starting {
                    self.state = ChildState::Running;
                }
                None
            }
            Input::Failed { generation } if alive && self.is_current(generation) => Some(self.fail(now)),
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
            _ => None,
        }
    }

    fn is_current(&self, generation: u32) -> bool {
        generation == self.generation
    }

    fn spawn(&mut self) -> Effect {
        self.generation += 1;
        self.state = ChildState::Starting;
        Effect::Spawn { generation: self.generation }
    }

    fn fail(&mut self, now: Timestamp) -> Effect {
        let window = self.policy.window;
        self.failures.retain(|&at| now.saturating_since(at) < window);
        let degraded = self.failures.len() >= self.policy.max_restarts;
        if degraded && self.policy.when_exhausted == WhenExhausted::Escalate {
            self.state = ChildState::GivenUp;
            return Effect::Escalate;
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
        let at = now + backoff;
        self.state = ChildState::Waiting { until: at, degraded };
        Effect::RetryAt { at, degraded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: RestartPolicy = RestartPolicy {
        max_restarts: 3,
        window: Duration::from_secs(60),
        first_backoff: Duration::from_millis(100),
        longest_backoff: Duration::from_secs(5),
        when_exhausted: WhenExhausted::Degrade,
    };

    fn millis(at: u64) -> Timestamp {
        Timestamp(at * 1_000_000)
    }

    /// Starts a child and lets each life fail at the given milliseconds; returns the last effect.
    fn after_failures(policy: RestartPolicy, failures: &[u64]) -> Option<Effect> {
        let mut child = ChildSupervision::new(policy);
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
        let check = |failures: &[u64], wait, degraded| {
            let at = millis(failures.last().unwrap() + wait);
            assert_eq!(
                after_failures(CAMERA, failures),
                Some(Effect::RetryAt { at, degraded }),
                "{failures:?}"
            );
        };
        check(&[1000], 100, false);
        check(&[1000, 2000], 200, false);
        check(&[1000, 2000, 3000], 400, false);
        check(&[1000, 2000, 3000, 4000], 5000, true);
        check(&[1000, 2000, 3000, 4000, 10_000, 16_000, 22_000], 5000, true);
        check(&[1000, 2000, 3000, 64_000], 100, false);
    }

    #[test]
    fn what_the_session_cannot_live_without_escalates() {
        let recorder = RestartPolicy { max_restarts: 0, when_exhausted: WhenExhausted::Escalate, ..CAMERA };
        assert_eq!(after_failures(recorder, &[1000]), Some(Effect::Escalate));
    }

    #[test]
    fn words_from_an_earlier_life_are_ignored() {
        let mut child = ChildSupervision::new(CAMERA);
        child.on(millis(0), Input::Start);
        child.on(millis(1), Input::Failed { generation: 1 });
        assert_eq!(child.on(millis(500), Input::Tick), Some(Effect::Spawn { generation: 2 }));
        assert_eq!(child.on(millis(501), Input::Failed { generation: 1 }), None);
        assert_eq!(child.on(millis(502), Input::Ended { generation: 1 }), None);
        assert_eq!(child.state(), ChildState::Starting);
    }

    #[test]
    fn a_stopped_child_stays_stopped() {
        let mut child = ChildSupervision::new(CAMERA);
        child.on(millis(0), Input::Start);
        child.on(millis(1), Input::Failed { generation: 1 });
        assert_eq!(child.on(millis(2), Input::Stop), None, "nothing is alive");
        assert_eq!(child.on(millis(9000), Input::Tick), None);
        assert_eq!(child.state(), ChildState::Stopped);
    }
}
