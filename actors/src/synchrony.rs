//! Synchrony actor: how alike the participants' faces move, window by window.
//!
//! Owns everybody's recent blendshapes on a common grid of capture time. Takes every frame at once and computes in portions
//! between them: a window that is not done when the next is due costs that next one, never a result. Never sees a pixel.

pub mod comodulation;
mod correlation;
mod grid;
mod windows;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use actix::fut::ActorFuture;
use actix::prelude::*;
use serde_json::json;

pub use grid::LONGEST_GAP;
pub use windows::{Group, Likeness, Synchrony, SynchronyOptions, SynchronyWindow};

use crate::child::{Lifeline, tell};
use crate::fault;
use crate::messages::{Event, EventKind, FacesNamed, Shutdown, SynchronyFound};
use crate::outputs::Outputs;

/// The session's synchrony.
pub struct SynchronyActor {
    synchrony: Synchrony,
    /// Whether all sources wait for their consumers: then a window is computed at once and none is left out.
    lossless: bool,
    /// Windows that were left out since the last one that was not.
    skipped: u64,
    outputs: Outputs,
    events: Recipient<Event>,
    lifeline: Lifeline,
}

impl SynchronyActor {
    /// An actor that has seen nobody yet.
    pub fn new(
        options: SynchronyOptions,
        lossless: bool,
        outputs: Outputs,
        events: Recipient<Event>,
        lifeline: Lifeline,
    ) -> Self {
        Self { synchrony: Synchrony::new(options), lossless, skipped: 0, outputs, events, lifeline }
    }

    /// Hands a window to everybody who wants it.
    fn publish(&mut self, ctx: &mut Context<Self>, window: SynchronyWindow) {
        let found = SynchronyFound(Arc::new(window));
        self.outputs.try_synchrony(&found);
        for output in self.outputs.of_synchrony() {
            tell::<Self, _>(ctx, &output, found.clone());
        }
    }

    /// Says once in a row that windows are left out.
    fn skip(&mut self, ctx: &mut Context<Self>, frame: &FacesNamed) {
        self.synchrony.skip();
        self.skipped += 1;
        if self.skipped == 1 {
            let detail = json!({ "why": "the window before it is still being computed" });
            let event = Event {
                at: frame.faces.meta.captured_at,
                source: "synchrony".to_owned(),
                kind: EventKind::WindowSkipped,
                detail,
            };
            tell::<Self, _>(ctx, &self.events, event);
        }
    }
}

impl Actor for SynchronyActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.lifeline.started();
    }
}

impl Handler<FacesNamed> for SynchronyActor {
    type Result = ();

    fn handle(&mut self, frame: FacesNamed, ctx: &mut Self::Context) {
        fault::point("synchrony:faces");
        while self.synchrony.is_due(frame.faces.meta.captured_at) {
            if self.synchrony.is_at_work() {
                self.skip(ctx, &frame);
                continue;
            }
            self.skipped = 0;
            self.synchrony.open();
            if !self.lossless {
                ctx.spawn(Portions);
                continue;
            }
            while self.synchrony.is_at_work() {
                if let Some(window) = self.synchrony.advance() {
                    self.publish(ctx, window);
                }
            }
        }
        self.synchrony.take(&frame.faces, &frame.update.participants);
    }
}

/// Computes the open window, a portion each time that nothing else is to be done.
struct Portions;

impl ActorFuture<SynchronyActor> for Portions {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut SynchronyActor,
        ctx: &mut Context<SynchronyActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if let Some(window) = actor.synchrony.advance() {
            actor.publish(ctx, window);
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Handler<Shutdown> for SynchronyActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.lifeline.ended();
        ctx.stop();
    }
}
