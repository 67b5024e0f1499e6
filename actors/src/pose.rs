//! Pose actor: looks for a body in the pictures of all cameras, on one thread of its own.
//!
//! Takes the newest frame of each camera in turn, beside the face pipeline, which never waits for it; what comes meanwhile is counted as
//! replaced. Cameras whose frames may not be lost wait for it. Hands each result to the recorder, and waits until it is taken,
//! before it looks at the next frame. Never decides whose body it is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use tokio::sync::oneshot;
use tracing::{debug, warn};
use youquanti_frames::{FrameHandle, MailboxStream};
use youquanti_models::{FramePose, PipelineError, with_causes};

use crate::child::{Lifeline, caught};
use crate::fault;
use crate::ledger::DropReason;
use crate::messages::{Delivery, PoseFound, Shutdown};
use crate::outputs::Outputs;
use crate::pipeline::BuildCause;
use crate::plane::DataPlane;

/// Added to the niceness of the actor's thread: faces come first where there are too few cores.
const NICE: i32 = 5;

/// Looks at a frame; [`FramePose::found_at`] is left to the caller.
pub type Seek = Box<dyn FnMut(&FrameHandle) -> Result<FramePose, PipelineError>>;

/// How bodies are sought.
#[derive(Clone)]
pub struct PosePlan {
    /// Id and SHA-256 of each network.
    pub networks: Vec<(String, String)>,
    /// Makes what looks, on the actor's own thread.
    pub seek: Arc<dyn Fn() -> Result<Seek, BuildCause> + Send + Sync>,
}

impl PosePlan {
    /// Slots of a camera's ring that pose may hold: frames that wait, and one that is looked at. The ring is made larger by these.
    pub const HELD: usize = 3;
}

/// The bodies of all cameras.
pub struct PoseActor {
    plane: Arc<DataPlane>,
    plan: PosePlan,
    outputs: Outputs,
    lifeline: Lifeline,
    work: Option<Work>,
    /// Answered when the last frame has been handed on.
    drained: Option<oneshot::Sender<()>>,
}

struct Work {
    seek: Seek,
    cameras: Vec<MailboxStream<Delivery>>,
    /// The camera that is asked first next time.
    turn: usize,
    handover: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl PoseActor {
    /// An actor that loads its networks when it is started.
    pub fn new(plane: Arc<DataPlane>, plan: PosePlan, outputs: Outputs, lifeline: Lifeline) -> Self {
        Self { plane, plan, outputs, lifeline, work: None, drained: None }
    }
}

impl Actor for PoseActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Of this thread alone, on Linux.
        if let Err(error) = rustix::process::nice(NICE) {
            warn!(%error, "the thread that looks for bodies does not give way to others");
        }
        let seek = Arc::clone(&self.plan.seek);
        match self.lifeline.guard(|| seek()) {
            Some(Ok(seek)) => {
                let cameras = self.plane.cameras.iter().map(|line| line.poses.stream()).collect();
                self.work = Some(Work { seek, cameras, turn: 0, handover: None });
                self.lifeline.started();
                ctx.spawn(SeekLoop);
            }
            Some(Err(error)) => {
                self.lifeline.failed(with_causes(&*error));
                ctx.terminate();
            }
            None => ctx.terminate(),
        }
    }
}

impl Handler<Shutdown> for PoseActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) -> ResponseFuture<()> {
        let (tell, told) = oneshot::channel();
        self.drained = Some(tell);
        // An error means that the actor crashed while draining; its lifeline has said so.
        Box::pin(async move { told.await.unwrap_or_default() })
    }
}

/// Looks for as long as the actor lives, one frame a poll.
struct SeekLoop;

impl ActorFuture<PoseActor> for SeekLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut PoseActor,
        ctx: &mut Context<PoseActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let PoseActor { plane, outputs, lifeline, work, drained, .. } = actor;
        let Some(running) = work else { return Poll::Ready(()) };
        match caught(|| running.look_at_next(plane, outputs, task)) {
            _ if lifeline.is_abandoned() => lifeline.ended(),
            Ok(Poll::Pending) if drained.is_some() && running.handover.is_none() => lifeline.ended(),
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            Ok(Poll::Ready(Err(error))) => lifeline.failed(with_causes(&error)),
            Err(panic) => lifeline.failed(panic),
        }
        *work = None;
        if let Some(drained) = drained.take() {
            // Nobody waits any more if the session has lost patience.
            drained.send(()).ok();
        }
        ctx.terminate();
        Poll::Ready(())
    }
}

impl Work {
    /// Completes when one frame of any camera was looked at and its result is on its way, or it was counted as dropped. Pending when
    /// there is none, or the last result has not been taken yet.
    fn look_at_next(
        &mut self,
        plane: &DataPlane,
        outputs: &Outputs,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), PipelineError>> {
        if let Some(handover) = &mut self.handover {
            ready!(handover.as_mut().poll(task));
            self.handover = None;
        }
        let Some(delivery) = self.next_frame(task) else { return Poll::Pending };
        fault::point("pose:frame");
        match (self.seek)(&delivery.frame) {
            Ok(mut found) => {
                found.found_at = plane.clock.now();
                delivery.ticket.delivered();
                self.handover = Some(Box::pin(outputs.clone().pose(PoseFound(Arc::new(found)))));
                Poll::Ready(Ok(()))
            }
            Err(error @ PipelineError::Picture { .. }) => {
                debug!(%error, "no pose");
                delivery.dropped(DropReason::Undecodable);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                delivery.dropped(DropReason::Failed);
                Poll::Ready(Err(error))
            }
        }
    }

    /// The next frame, every camera in its turn.
    fn next_frame(&mut self, task: &mut TaskContext<'_>) -> Option<Delivery> {
        for _ in 0..self.cameras.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.cameras.len();
            if let Poll::Ready(Some(delivery)) = Pin::new(&mut self.cameras[turn]).poll_next(task) {
                return Some(delivery);
            }
        }
        None
    }
}
