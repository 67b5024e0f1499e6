//! A child's thread and its line to the supervisor.
//!
//! Owns how an actor gets its own named OS thread, and that no end of an actor goes unnoticed:
//! whatever way an actor goes (error, panic in any handler or in its constructor, thread gone),
//! its [`Lifeline`] is dropped and reports it; an actor whose thread hangs has no heartbeat. Never decides
//! what follows.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;
use tracing::warn;

use crate::messages::{ChildId, Shutdown};
use crate::supervision::WATCH_PERIOD;

/// What a child says of itself.
#[derive(Debug)]
pub enum Word {
    /// At work.
    Started,
    /// Failed, and why.
    Failed(String),
    /// Failed, and why no other life would fare better.
    FailedForGood(String),
    /// Came to its natural end; what there is to say of it, such as a file that was cut off.
    Ended(Option<String>),
}

/// A child's word to the supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Report {
    /// Which child.
    pub child: ChildId,
    /// Which of its lives.
    pub generation: u32,
    /// What it says.
    pub word: Word,
}

/// What one life of a child and its supervisor have in common.
#[derive(Debug, Default)]
pub struct Pulse {
    beats: AtomicU64,
    abandoned: AtomicBool,
}

impl Pulse {
    /// Whether another life has taken this one's place.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Heartbeats so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Tells the life, should it ever come back, that another has taken its place.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }
}

/// Held by an actor for as long as it lives.
#[derive(Debug)]
pub struct Lifeline {
    supervisor: Recipient<Report>,
    child: ChildId,
    generation: u32,
    pulse: Arc<Pulse>,
    follows_hung: bool,
    last_word_said: bool,
}

impl Lifeline {
    /// The line of one life of `child`; `follows_hung` when earlier lives hang and may still hold what was
    /// theirs.
    pub fn new(
        supervisor: Recipient<Report>,
        child: ChildId,
        generation: u32,
        pulse: Arc<Pulse>,
        follows_hung: bool,
    ) -> Self {
        Self { supervisor, child, generation, pulse, follows_hung, last_word_said: false }
    }

    /// Whether an earlier life hangs and may still write to what was its own.
    pub fn follows_hung(&self) -> bool {
        self.follows_hung
    }

    /// What this life and its supervisor have in common.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Lets the actor's heart beat on its own thread for as long as it lives: a thread that hangs in
    /// whatever it does beats no more.
    pub fn beat<A: Actor<Context = Context<A>>>(&self, ctx: &mut Context<A>) {
        let pulse = Arc::clone(&self.pulse);
        ctx.run_interval(WATCH_PERIOD, move |_, _| {
            pulse.beats.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Whether this life hung, was left behind, and has come back: what it holds is nobody's any more, and it
    /// should end itself without handing anything on.
    pub fn is_abandoned(&self) -> bool {
        self.pulse.is_abandoned()
    }

    /// Reports that the actor is at work.
    pub fn started(&self) {
        self.say(Word::Started);
    }

    /// Reports a failure; the actor should end itself.
    pub fn failed(&mut self, cause: impl Into<String>) {
        self.last_word_said = true;
        self.say(Word::Failed(cause.into()));
    }

    /// Reports a failure that another life would only repeat: the child is given up. The actor should end itself.
    pub fn failed_for_good(&mut self, cause: impl Into<String>) {
        self.last_word_said = true;
        self.say(Word::FailedForGood(cause.into()));
    }

    /// Reports the natural end; the actor should end itself.
    pub fn ended(&mut self) {
        self.ended_with(None);
    }

    /// The same, with what there is to say of it.
    pub fn ended_with(&mut self, note: Option<String>) {
        self.last_word_said = true;
        self.say(Word::Ended(note));
    }

    /// Runs `work`; a panic in it is reported with its text, and `None` comes back. The actor must then
    /// end itself: its state may be half changed.
    pub fn guard<T>(&mut self, work: impl FnOnce() -> T) -> Option<T> {
        caught(work).map_err(|panic| self.failed(panic)).ok()
    }

    #[allow(clippy::disallowed_methods, reason = "a failure report must not be refused by a full mailbox")]
    fn say(&self, word: Word) {
        self.supervisor.do_send(Report { child: self.child, generation: self.generation, word });
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if !self.last_word_said {
            let how = if std::thread::panicking() { "panicked" } else { "ended without a word" };
            self.say(Word::Failed(how.to_owned()));
        }
    }
}

/// What `work` gives, or the text of its panic, for actors that have to let go of something before they report it.
///
/// # Errors
/// `panic: ` and what it said.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        format!("panic: {}", text.unwrap_or("no text"))
    })
}

/// One life of a child, as the supervisor holds it.
pub struct Life {
    /// The child's thread.
    pub arbiter: Arbiter,
    /// Where to ask for an orderly end.
    pub shutdown: Recipient<Shutdown>,
}

/// Starts an actor on a new OS thread called `name` (cut to 15 bytes by the kernel) and lets its heart beat.
/// `make` runs on that thread. Without a thread the lifeline says so and nothing comes back.
pub fn start_on_thread<A>(
    name: &str,
    mut lifeline: Lifeline,
    make: impl FnOnce(Lifeline) -> A + Send + 'static,
) -> Option<(Life, Addr<A>)>
where
    A: Actor<Context = Context<A>> + Handler<Shutdown>,
{
    let arbiter = match Arbiter::try_new() {
        Ok(arbiter) => arbiter,
        Err(error) => {
            lifeline.failed(format!("the system gives no thread: {error}"));
            return None;
        }
    };
    let name: String = name.chars().filter(|&c| c != '\0').take(15).collect();
    let addr = A::start_in_arbiter(&arbiter.handle(), move |ctx| {
        let named = CString::new(name.as_str()).map(|name| rustix::thread::set_name(&name));
        if !matches!(named, Ok(Ok(()))) {
            warn!(name, "the kernel refused the thread's name");
        }
        lifeline.beat(ctx);
        make(lifeline)
    });
    Some((Life { arbiter, shutdown: addr.clone().recipient() }, addr))
}

/// Where the present life of an actor is found. Written by the supervisor's factories, read by whoever
/// sends to the actor; read again when an address turns out to be dead.
pub struct Port<A: Actor>(Arc<Mutex<Option<Addr<A>>>>);

impl<A: Actor> Port<A> {
    /// A port with nobody behind it yet.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// The present address.
    pub fn get(&self) -> Option<Addr<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a new life behind the port, if there is one; gives it on for the supervisor.
    pub fn born(&self, born: Option<(Life, Addr<A>)>) -> Option<Life> {
        let (life, addr) = born?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(addr);
        Some(life)
    }
}

impl<A: Actor> Default for Port<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Actor> Clone for Port<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Sends a control message and waits for its place in the mailbox without holding up the sender.
pub fn tell<A, M>(ctx: &mut A::Context, to: &Recipient<M>, message: M)
where
    A: Actor,
    A::Context: AsyncContext<A>,
    M: Message<Result = ()> + Send + 'static,
{
    let sending = to.send(message);
    ctx.spawn(actix::fut::wrap_future::<_, A>(async move {
        if sending.await.is_err() {
            tracing::debug!("a control message found its receiver gone");
        }
    }));
}
