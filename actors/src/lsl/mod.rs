//! LSL actor: sends what the session finds over Lab Streaming Layer, and brings markers of other programs in.
//!
//! Owns no outlet itself: those are made once, live in [`Streams`] as long as the session, and outlast every life of the actor.
//! Every sample carries the capture stamp of its frame, unchanged; a frame without a face is a row that says so. Never waits
//! for a receiver, and never makes anybody else wait: what does not fit is dropped in front of it and counted.

pub mod channels;
mod describe;
mod markers;
mod order;
mod quality;
mod rows;
mod streams;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use youquanti_frames::MailboxStream;
use youquanti_models::CameraId;

pub use markers::MarkerQuery;
pub use streams::{LslError, Streams, quiet};

use order::Place;

use crate::child::{Lifeline, Port};
use crate::fault;
use crate::ledger::{DropReason, Ticket};
use crate::messages::{Event, FacesNamed, IndexEntry, PoseFound, Shutdown, Streamed, SynchronyFound};
use crate::plane::DataPlane;
use crate::recorder::RecorderActor;
use crate::session::SessionPlan;

/// Frames' facts taken in one go before other messages have their turn.
const FACTS_BATCH: usize = 256;

/// Results and events that may wait for the actor. Beyond that they are dropped and counted.
const MAILBOX: usize = 512;

/// How often it is looked for frames that have waited too long for their result.
const TICK: Duration = Duration::from_millis(100);

/// How long the last samples have to reach their receivers before the streams end: liblsl does not say when they have.
const LINGER: Duration = Duration::from_millis(250);

/// What is streamed, and received, of a session.
#[derive(Clone, Debug)]
pub struct LslPlan {
    /// Whether the streams of this program are sent.
    pub native: bool,
    /// Whether the streams that YouQuantiPy sent are, for analysis code that exists.
    pub youquantipy: bool,
    /// Whether landmarks are sent.
    pub mesh: bool,
    /// Whether YouQuantiPy's landmark streams have three values of quality at their end; only with `mesh`.
    pub quality: bool,
    /// Which streams of others are recorded as markers.
    pub markers: Vec<MarkerQuery>,
}

/// Whom the markers and the news of their streams go to.
#[derive(Clone)]
pub struct MarkerSinks {
    /// The session file.
    pub recorder: Port<RecorderActor>,
    /// The session.
    pub events: Recipient<Event>,
}

/// Every frame has been captured and looked at: those that wait get their rows, and streams of others are left, before the file is
/// closed. Events are sent on, until [`Shutdown`]. Answered when that is done.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct FinishRows;

/// The session's streams, sent.
pub struct LslActor {
    session: Arc<SessionPlan>,
    plan: Arc<LslPlan>,
    plane: Arc<DataPlane>,
    streams: Streams,
    sinks: MarkerSinks,
    facts: Vec<MailboxStream<IndexEntry>>,
    lifeline: Lifeline,
}

impl LslActor {
    /// An actor for streams that are made, if no life before has, when it is started: cameras are open and pipelines built
    /// by then.
    pub fn new(
        session: Arc<SessionPlan>,
        plan: Arc<LslPlan>,
        plane: Arc<DataPlane>,
        streams: Streams,
        sinks: MarkerSinks,
        lifeline: Lifeline,
    ) -> Self {
        Self { session, plan, plane, streams, sinks, facts: Vec::new(), lifeline }
    }

    /// Does `work` with the streams; a failure or a panic in it ends this life.
    fn work(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut streams::Open, &DataPlane) -> Result<(), LslError>,
    ) {
        let (streams, plane) = (&self.streams, &*self.plane);
        match self.lifeline.guard(|| streams.with(|open| work(open, plane))) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.lifeline.failed(youquanti_models::with_causes(&error));
                ctx.terminate();
            }
            None => ctx.terminate(),
        }
    }
}

impl Actor for LslActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let Self { session, plan, plane, streams, sinks, lifeline, .. } = self;
        match lifeline.guard(|| streams.open(session, plan, plane, sinks)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.lifeline.failed(youquanti_models::with_causes(&error));
                return ctx.terminate();
            }
            None => return ctx.terminate(),
        }
        self.facts = self.plane.cameras.iter().map(|line| line.stream_facts.stream()).collect();
        ctx.run_interval(TICK, |actor, ctx| actor.work(ctx, streams::Open::overdue));
        self.lifeline.started();
        ctx.spawn(FactsLoop);
    }
}

/// Takes frames' facts for as long as the actor lives.
struct FactsLoop;

impl ActorFuture<LslActor> for FactsLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut LslActor,
        ctx: &mut Context<LslActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        for _ in 0..FACTS_BATCH {
            if !actor.take_facts(ctx, task) {
                return Poll::Pending;
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl LslActor {
    /// Takes one frame's facts of any camera; false when there are none.
    fn take_facts(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> bool {
        for camera in 0..self.facts.len() {
            if let Poll::Ready(Some(entry)) = Pin::new(&mut self.facts[camera]).poll_next(task) {
                self.take_entry(ctx, entry);
                return true;
            }
        }
        false
    }

    /// Takes the facts that wait, of one camera or of all: what is known of its frames comes before what is known of faces.
    fn take_waiting_facts(&mut self, ctx: &mut Context<Self>, of: Option<CameraId>) {
        let plane = Arc::clone(&self.plane);
        for id in plane.camera_ids().filter(|id| of.is_none_or(|of| of == *id)) {
            while let Some(entry) = plane.camera(id).stream_facts.try_recv() {
                self.take_entry(ctx, entry);
            }
        }
    }

    /// Takes a frame's facts; what ends this life ends the frame's ticket with it.
    fn take_entry(&mut self, ctx: &mut Context<Self>, IndexEntry { meta, ticket }: IndexEntry) {
        self.work(ctx, |open, plane| {
            open.frame(plane, &meta)?;
            ticket.delivered();
            Ok(())
        });
    }

    /// Takes what was found in a frame, likewise.
    fn take_found(
        &mut self,
        ctx: &mut Context<Self>,
        camera: CameraId,
        ticket: Ticket,
        send: impl FnOnce(&mut streams::Open, &DataPlane) -> Result<Place, LslError>,
    ) {
        self.take_waiting_facts(ctx, Some(camera));
        self.work(ctx, |open, plane| {
            match send(open, plane)? {
                Place::Next => ticket.delivered(),
                Place::Late => ticket.dropped(DropReason::Late),
            }
            Ok(())
        });
    }
}

impl Handler<Streamed<FacesNamed>> for LslActor {
    type Result = ();

    fn handle(&mut self, Streamed { found, ticket }: Streamed<FacesNamed>, ctx: &mut Self::Context) {
        self.take_found(ctx, found.faces.meta.camera, ticket, |open, plane| {
            fault::point("lsl:faces");
            open.faces(plane, &found)
        });
    }
}

impl Handler<Streamed<PoseFound>> for LslActor {
    type Result = ();

    fn handle(&mut self, Streamed { found, ticket }: Streamed<PoseFound>, ctx: &mut Self::Context) {
        let PoseFound(found) = found;
        self.take_found(ctx, found.meta.camera, ticket, |open, plane| open.pose(plane, &found));
    }
}

impl Handler<SynchronyFound> for LslActor {
    type Result = ();

    fn handle(&mut self, SynchronyFound(window): SynchronyFound, ctx: &mut Self::Context) {
        self.work(ctx, |open, _| open.synchrony(&window));
    }
}

impl Handler<Event> for LslActor {
    type Result = ();

    fn handle(&mut self, event: Event, ctx: &mut Self::Context) {
        self.work(ctx, |open, _| open.event(&event));
    }
}

impl Handler<FinishRows> for LslActor {
    type Result = ();

    fn handle(&mut self, _: FinishRows, ctx: &mut Self::Context) {
        self.take_waiting_facts(ctx, None);
        self.work(ctx, streams::Open::finish);
    }
}

impl Handler<Shutdown> for LslActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) -> Self::Result {
        let linger = if self.streams.has_consumers() { LINGER } else { Duration::ZERO };
        let lingering = actix::fut::wrap_future::<_, Self>(actix_rt::time::sleep(linger));
        Box::pin(lingering.map(|(), actor, ctx| {
            actor.lifeline.ended();
            ctx.stop();
        }))
    }
}
