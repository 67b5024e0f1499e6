//! Supervisor actor: carries out what [`crate::supervision`] decides.
//!
//! Owns the children's lives: makes each from its factory, on its own thread, hears of every end through
//! its lifeline, looks for its heartbeat, and makes the next life when the policy says so. Never looks into a
//! child's work, and never waits for a thread.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use youquanti_models::{Clock, Timestamp};

use crate::child::{Life, Lifeline, Pulse, Report, Word, tell};
use crate::fault;
use crate::messages::{ChildId, Shutdown};
use crate::session::end_system;
use crate::supervision::{
    ChildState, ChildSupervision, Effect, Input, RestartPolicy, WATCH_PERIOD, WatchPolicy,
};

/// Makes one life of a child; nothing when there is no thread for it, which the lifeline then says.
pub type Factory = Box<dyn FnMut(Lifeline) -> Option<Life> + Send>;

/// A child as the session hands it over.
pub struct ChildSpec {
    /// Which child.
    pub id: ChildId,
    /// How it is restarted.
    pub policy: RestartPolicy,
    /// How it is watched.
    pub watch: WatchPolicy,
    /// Whether it is tried again also when its first life fails.
    pub may_be_missing: bool,
    /// Makes its lives.
    pub factory: Factory,
}

/// Starts a child. Answered when it is at work, or with the cause when its first life fails; that
/// failure is not retried, because whoever starts a session wants to know, unless the child may be missing.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
pub struct StartChild(pub ChildSpec);

/// Ends a child in good order and for good. Answered when it has ended; with what went wrong if it failed
/// on the way, or did not end within `patience` and was abandoned with its thread.
#[derive(Clone, Copy, Message)]
#[rtype(result = "Result<(), String>")]
pub struct StopChild {
    /// Which child.
    pub id: ChildId,
    /// How long to wait for it.
    pub patience: Duration,
}

/// Makes a child again that [`StopChild`] has ended. What follows is said to the listener as after a failure: that it works again, or
/// that it failed.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ReviveChild(pub ChildId);

/// Something changed for a child.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct ChildChanged {
    /// Which child.
    pub id: ChildId,
    /// When it was noticed.
    pub at: Timestamp,
    /// What.
    pub change: Change,
}

/// See [`ChildChanged`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It failed and is made again at `retry_at`.
    Failed {
        /// What it said.
        cause: String,
        /// When the next life begins.
        retry_at: Timestamp,
        /// Whether its budget of restarts is used up.
        degraded: bool,
        /// Whether its thread hangs and was abandoned.
        is_hung: bool,
    },
    /// Too many of its threads hang; it is made again when one of them comes back.
    Suspended {
        /// What is known of it.
        cause: String,
    },
    /// It works again.
    Restarted,
    /// It came to its natural end.
    Ended {
        /// What there is to say of it, such as a file that was cut off.
        note: Option<String>,
    },
    /// It failed for good, and the session must end.
    GivenUp {
        /// What it said.
        cause: String,
    },
}

struct Child {
    id: ChildId,
    supervision: ChildSupervision,
    factory: Factory,
    life: Option<Life>,
    /// Of the present life.
    pulse: Arc<Pulse>,
    /// Lives that hang, by their numbers.
    abandoned: Vec<u32>,
    may_be_missing: bool,
    /// Whoever started the child waits here for its first word.
    first_word: Option<oneshot::Sender<Result<(), String>>>,
    /// What a child that was asked to end said of a failure on the way.
    failed_ending: Option<String>,
}

impl Child {
    /// Lets the present life's thread end as soon as it can.
    fn dispose(&mut self) {
        if let Some(life) = self.life.take() {
            life.arbiter.stop();
        }
    }

    /// Leaves the present life behind: it hangs, and must hand on nothing should it come back.
    fn abandon(&mut self) {
        self.pulse.abandon();
        self.abandoned.push(self.supervision.generation());
        self.dispose();
    }
}

/// The session's supervisor.
pub struct SupervisorActor {
    clock: Arc<dyn Clock>,
    children: Vec<Child>,
    listener: Recipient<ChildChanged>,
}

impl SupervisorActor {
    /// A supervisor without children; `listener` hears of every change.
    pub fn new(clock: Arc<dyn Clock>, listener: Recipient<ChildChanged>) -> Self {
        Self { clock, children: Vec::new(), listener }
    }

    fn input(&mut self, ctx: &mut Context<Self>, id: ChildId, input: Input) -> Option<Effect> {
        let now = self.clock.now();
        let supervisor = ctx.address().recipient();
        let child = self.children.iter_mut().find(|child| child.id == id)?;
        let effect = child.supervision.on(now, input);
        match effect {
            Some(Effect::Spawn { generation }) => {
                child.pulse = Arc::default();
                let follows_hung = !child.abandoned.is_empty();
                let pulse = Arc::clone(&child.pulse);
                let lifeline = Lifeline::new(supervisor, id, generation, pulse, follows_hung);
                child.life = (child.factory)(lifeline);
            }
            Some(Effect::RetryAt { at, .. }) => {
                child.dispose();
                ctx.run_later(at.saturating_since(now), move |supervisor, ctx| supervisor.tick(ctx, id));
            }
            Some(Effect::Suspend | Effect::Escalate) => child.dispose(),
            Some(Effect::Shutdown { .. }) | None => {}
        }
        effect
    }

    /// Looks at every child's heartbeat; who has none is left behind.
    fn look(&mut self, ctx: &mut Context<Self>) {
        fault::point("supervisor:look");
        for at in 0..self.children.len() {
            let child = &mut self.children[at];
            let (id, beats, silence) = (child.id, child.pulse.beats(), child.supervision.silence());
            // What hangs is let go of before the policy has the life disposed of.
            let effect = child.supervision.on(self.clock.now(), Input::Watch { beats });
            let Some(effect) = effect else { continue };
            child.abandon();
            if let Effect::RetryAt { at, .. } = effect {
                let wait = at.saturating_since(self.clock.now());
                ctx.run_later(wait, move |supervisor, ctx| supervisor.tick(ctx, id));
            }
            self.failed(ctx, id, silence, Some(effect), true);
        }
    }

    /// Says what follows a failure to whoever waits for it: of a first life that is an answer, of a later one
    /// news.
    fn failed(
        &mut self,
        ctx: &mut Context<Self>,
        id: ChildId,
        cause: String,
        effect: Option<Effect>,
        is_hung: bool,
    ) {
        let Some(child) = self.children.iter_mut().find(|child| child.id == id) else { return };
        if let Some(first) = child.first_word.take() {
            // Whoever asked may have lost patience.
            drop(first.send(Err(cause.clone())));
            if !child.may_be_missing {
                child.supervision.on(self.clock.now(), Input::Stop);
                child.dispose();
                return;
            }
        }
        match effect {
            Some(Effect::RetryAt { at, degraded }) => {
                self.announce(ctx, id, Change::Failed { cause, retry_at: at, degraded, is_hung });
            }
            Some(Effect::Suspend) => self.announce(ctx, id, Change::Suspended { cause }),
            Some(Effect::Escalate) => self.announce(ctx, id, Change::GivenUp { cause }),
            _ => child.failed_ending = Some(cause),
        }
    }

    /// Time has passed for a waiting child; if the timer was early, it is set again.
    fn tick(&mut self, ctx: &mut Context<Self>, id: ChildId) {
        self.input(ctx, id, Input::Tick);
        let now = self.clock.now();
        let state = self.children.iter().find(|child| child.id == id).map(|child| child.supervision.state());
        if let Some(ChildState::Waiting { until, .. }) = state {
            let wait = until.saturating_since(now).max(Duration::from_millis(1));
            ctx.run_later(wait, move |supervisor, ctx| supervisor.tick(ctx, id));
        }
    }

    fn announce(&self, ctx: &mut Context<Self>, id: ChildId, change: Change) {
        let changed = ChildChanged { id, at: self.clock.now(), change };
        tell::<Self, _>(ctx, &self.listener, changed);
    }
}

impl Drop for SupervisorActor {
    /// Nobody would notice any failure from now on: the session ends with it.
    fn drop(&mut self) {
        end_system();
    }
}

impl Actor for SupervisorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(WATCH_PERIOD, |supervisor, ctx| supervisor.look(ctx));
    }
}

impl Handler<StartChild> for SupervisorActor {
    type Result = ResponseFuture<Result<(), String>>;

    fn handle(&mut self, StartChild(spec): StartChild, ctx: &mut Self::Context) -> Self::Result {
        let (tell, told) = oneshot::channel();
        self.children.push(Child {
            id: spec.id,
            supervision: ChildSupervision::new(spec.policy, spec.watch, self.children.len() as u64),
            factory: spec.factory,
            life: None,
            pulse: Arc::default(),
            abandoned: Vec::new(),
            may_be_missing: spec.may_be_missing,
            first_word: Some(tell),
            failed_ending: None,
        });
        self.input(ctx, spec.id, Input::Start);
        Box::pin(async move { told.await.unwrap_or_else(|_| Err("the supervisor is gone".to_owned())) })
    }
}

impl Handler<Report> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, report: Report, ctx: &mut Self::Context) {
        let Report { child: id, generation, word } = report;
        let Some(child) = self.children.iter_mut().find(|child| child.id == id) else { return };
        if let Some(at) = child.abandoned.iter().position(|&abandoned| abandoned == generation) {
            if !matches!(word, Word::Started) {
                child.abandoned.swap_remove(at);
                self.input(ctx, id, Input::Returned);
            }
            return;
        }
        if generation != child.supervision.generation() {
            return;
        }
        let before = child.supervision.state();
        match word {
            Word::Started => {
                let first = child.first_word.take();
                self.input(ctx, id, Input::Started { generation });
                match first {
                    // Whoever asked may have lost patience.
                    Some(first) => drop(first.send(Ok(()))),
                    None if before == ChildState::Starting => self.announce(ctx, id, Change::Restarted),
                    None => {}
                }
            }
            Word::Failed(cause) => {
                let effect = self.input(ctx, id, Input::Failed { generation });
                self.failed(ctx, id, cause, effect, false);
            }
            Word::FailedForGood(cause) => {
                let effect = self.input(ctx, id, Input::FailedForGood { generation });
                self.failed(ctx, id, cause, effect, false);
            }
            Word::Ended(note) => {
                self.input(ctx, id, Input::Ended { generation });
                if before == ChildState::Running {
                    self.announce(ctx, id, Change::Ended { note });
                }
            }
        }
    }
}

/// How many threads hang and were left behind, now.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct CountAbandoned;

impl Handler<CountAbandoned> for SupervisorActor {
    type Result = usize;

    fn handle(&mut self, _: CountAbandoned, _: &mut Self::Context) -> usize {
        self.children.iter().map(|child| child.abandoned.len()).sum()
    }
}

impl Handler<ReviveChild> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, ReviveChild(id): ReviveChild, ctx: &mut Self::Context) {
        self.input(ctx, id, Input::Start);
    }
}

impl Handler<StopChild> for SupervisorActor {
    type Result = ResponseActFuture<Self, Result<(), String>>;

    fn handle(&mut self, StopChild { id, patience }: StopChild, ctx: &mut Self::Context) -> Self::Result {
        let wants_shutdown = matches!(self.input(ctx, id, Input::Stop), Some(Effect::Shutdown { .. }));
        let shutdown = self.children.iter().find(|child| child.id == id).and_then(|child| {
            let life = child.life.as_ref()?;
            wants_shutdown.then(|| life.shutdown.send(Shutdown))
        });
        let ended = actix::fut::wrap_future::<_, Self>(async move {
            match shutdown {
                // A closed mailbox means that the child ended on its own meanwhile.
                Some(request) => actix_rt::time::timeout(patience, request).await.is_ok(),
                None => true,
            }
        });
        Box::pin(ended.map(move |in_time, supervisor: &mut Self, _| {
            let child = supervisor.children.iter_mut().find(|child| child.id == id);
            let failed = child.and_then(|child| {
                if in_time {
                    child.dispose();
                } else {
                    child.abandon();
                }
                child.failed_ending.take()
            });
            match failed {
                Some(cause) => Err(format!("failed: {cause}")),
                None if !in_time => Err(format!("did not end within {patience:?} and was abandoned")),
                None => Ok(()),
            }
        }))
    }
}
