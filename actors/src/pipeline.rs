//! Pipeline actor: owns one face pipeline on one thread and feeds it the newest frames.
//!
//! The thread that opens the pipeline is the one that uses and drops it. Takes frames from its cameras'
//! mailboxes in turn, hands results on in order and waits for them to be taken; what a slow
//! receiver costs is newer frames winning in the mailboxes, never memory. Never holds more frames than
//! the back end works on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use tokio::sync::oneshot;
use tracing::{debug, warn};
use youquanti_frames::MailboxStream;
use youquanti_models::{CameraId, Frame, FrameFaces, Pipeline, PipelineError, Timestamp};

use crate::camera::error_chain;
use crate::child::{Lifeline, Port};
use crate::fault;
use crate::flight::{Span, Stage};
use crate::ledger::DropReason;
use crate::messages::{Delivery, FacesFound, Shutdown};
use crate::participants::ParticipantsActor;
use crate::plane::DataPlane;

/// A pipeline as actors use it.
pub type BoxedPipeline = Box<dyn Pipeline<Delivery>>;

/// Why a pipeline cannot be made.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// Makes a pipeline for the cameras of a worker, on the worker's own thread, when all are open.
pub type BuildPipeline =
    Arc<dyn Fn(&DataPlane, &[CameraId]) -> Result<BoxedPipeline, BuildError> + Send + Sync>;

/// A pause in a camera's frames after which nobody is where they were: its tracks are ended.
const TRACKS_OUTLIVE: Duration = Duration::from_secs(1);

/// How long a result waits before it looks again for a receiver that has crashed.
const RECEIVER_RETRY: Duration = Duration::from_millis(10);

/// Lives of the receiver that one result may cost before it is given up and its frame counted as failed.
const MOST_LIVES_FOR_A_RESULT: u32 = 3;

/// What a pipeline worker is made from.
#[derive(Clone)]
pub struct PipelinePlan {
    /// Its cameras.
    pub cameras: Vec<CameraId>,
    /// Makes the back end.
    pub build: BuildPipeline,
    /// The core that the worker's own thread is pinned to once the back end is built; threads that the
    /// back end starts are not.
    pub core: Option<usize>,
    /// Faces of a frame that results are preallocated for.
    pub max_faces: usize,
}

/// One pipeline worker of the session.
pub struct PipelineActor {
    plan: PipelinePlan,
    plane: Arc<DataPlane>,
    participants: Port<ParticipantsActor>,
    lifeline: Lifeline,
    work: Option<Work>,
    /// Answered when the last frame has been handed on.
    drained: Option<oneshot::Sender<()>>,
}

/// What a running worker works with.
struct Work {
    pipeline: BoxedPipeline,
    inputs: Vec<Input>,
    /// The input that is asked first next time, so that no camera starves another.
    turn: usize,
    /// When each frame that is in the back end was submitted, oldest first.
    submitted_at: VecDeque<Timestamp>,
    handover: Option<Handover>,
    max_faces: usize,
}

struct Input {
    frames: MailboxStream<Delivery>,
    last_captured_at: Timestamp,
}

/// A result on its way to the participants actor. The frame counts as delivered when it got there.
struct Handover {
    taken: Pin<Box<dyn Future<Output = bool>>>,
    delivery: Delivery,
}

impl PipelineActor {
    /// A worker that builds its pipeline when it is started.
    pub fn new(
        plan: PipelinePlan,
        plane: Arc<DataPlane>,
        participants: Port<ParticipantsActor>,
        lifeline: Lifeline,
    ) -> Self {
        Self { plan, plane, participants, lifeline, work: None, drained: None }
    }

    fn finish(&mut self, ctx: &mut Context<Self>) {
        self.work = None;
        if let Some(drained) = self.drained.take() {
            // Nobody waits any more if the session has lost patience; then nothing is left to say.
            drained.send(()).ok();
        }
        ctx.terminate();
    }
}

impl Actor for PipelineActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (plan, plane) = (&self.plan, &self.plane);
        match self.lifeline.guard(|| Work::build(plan, plane)) {
            Some(Ok(_)) if self.lifeline.is_abandoned() => {
                self.lifeline.ended();
                ctx.terminate();
            }
            Some(Ok(work)) => {
                self.work = Some(work);
                self.lifeline.started();
                ctx.spawn(WorkLoop);
            }
            Some(Err(error)) => {
                self.lifeline.failed(error_chain(&*error));
                ctx.terminate();
            }
            None => ctx.terminate(),
        }
    }
}

impl Handler<Shutdown> for PipelineActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) -> ResponseFuture<()> {
        let (tell, told) = oneshot::channel();
        self.drained = Some(tell);
        Box::pin(async move {
            // An error means that the worker crashed while draining; its lifeline has said so.
            told.await.ok();
        })
    }
}

/// Works for as long as the actor lives, one frame a poll, so that control comes between frames.
struct WorkLoop;

impl ActorFuture<PipelineActor> for WorkLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut PipelineActor,
        ctx: &mut Context<PipelineActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let PipelineActor { plane, participants, lifeline, work, drained, .. } = actor;
        let Some(running) = work else { return Poll::Ready(()) };
        let polled = lifeline.guard(|| running.poll_frame(plane, participants, task));
        match polled {
            // What it holds, a result that nobody has taken included, counts as crashed.
            _ if lifeline.is_abandoned() => lifeline.ended(),
            Some(Poll::Pending) if drained.is_some() && running.is_idle() => lifeline.ended(),
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Ok(()))) => {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Poll::Ready(Err(error))) => lifeline.failed(error_chain(&error)),
            None => {}
        }
        actor.finish(ctx);
        Poll::Ready(())
    }
}

impl Work {
    fn build(plan: &PipelinePlan, plane: &DataPlane) -> Result<Self, BuildError> {
        fault::point("pipeline:build");
        let inputs = plan.cameras.iter().map(|&id| Input {
            frames: plane.camera(id).frames.stream(),
            last_captured_at: Timestamp::default(),
        });
        let pipeline = (plan.build)(plane, &plan.cameras)?;
        plane.set_backend(pipeline.info().clone());
        if let Some(id) = plan.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            warn!(core = id, "the pipeline's thread could not be pinned to its core");
        }
        Ok(Self {
            pipeline,
            inputs: inputs.collect(),
            turn: 0,
            submitted_at: VecDeque::with_capacity(64),
            handover: None,
            max_faces: plan.max_faces,
        })
    }

    /// Nothing in hand; together with empty mailboxes: done.
    fn is_idle(&self) -> bool {
        self.handover.is_none() && self.submitted_at.is_empty()
    }

    /// Completes when one frame was processed and its result is on its way, or the frame was counted as
    /// dropped. Pending when there is no frame, or the last result has not been taken yet.
    fn poll_frame(
        &mut self,
        plane: &DataPlane,
        participants: &Port<ParticipantsActor>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), PipelineError>> {
        if let Some(handover) = &mut self.handover {
            let was_taken = ready!(handover.taken.as_mut().poll(cx));
            match self.handover.take() {
                Some(handover) if was_taken => handover.delivery.ticket.delivered(),
                Some(handover) => handover.delivery.ticket.dropped(DropReason::Failed),
                None => {}
            }
        }
        while self.pipeline.has_room()
            && let Some(delivery) = self.next_frame(cx)
        {
            self.submitted_at.push_back(plane.clock.now());
            self.pipeline.submit(delivery);
        }
        let Some(submitted_at) = self.submitted_at.pop_front() else { return Poll::Pending };
        let mut faces = FrameFaces::with_capacity(self.max_faces);
        let Some((delivery, outcome)) = self.pipeline.collect(&mut faces) else { return Poll::Pending };
        fault::point("pipeline:collected");
        match outcome {
            Ok(()) => {
                faces.stamps.submitted = submitted_at;
                faces.stamps.published = plane.clock.now();
                note(plane, &faces);
                self.handover = Some(Handover { taken: hand_over(faces, participants.clone()), delivery });
                Poll::Ready(Ok(()))
            }
            Err(error @ PipelineError::Picture { .. }) => {
                debug!(%error, "frame dropped");
                delivery.ticket.dropped(DropReason::Undecodable);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                delivery.ticket.dropped(DropReason::Failed);
                Poll::Ready(Err(error))
            }
        }
    }

    fn next_frame(&mut self, cx: &mut TaskContext<'_>) -> Option<Delivery> {
        for _ in 0..self.inputs.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.inputs.len();
            let input = &mut self.inputs[turn];
            if let Poll::Ready(Some(delivery)) = Pin::new(&mut input.frames).poll_next(cx) {
                let meta = delivery.meta();
                let pause = meta.captured_at.saturating_since(input.last_captured_at);
                if input.last_captured_at != Timestamp::default() && pause > TRACKS_OUTLIVE {
                    self.pipeline.forget(meta.camera);
                }
                input.last_captured_at = meta.captured_at;
                return Some(delivery);
            }
        }
        None
    }
}

/// Waits until a participants actor has taken the result, over that actor's restarts; false when
/// several lives of it ended with this result, which is then no good to anybody.
fn hand_over(faces: FrameFaces, to: Port<ParticipantsActor>) -> Pin<Box<dyn Future<Output = bool>>> {
    let message = FacesFound(Arc::new(faces));
    Box::pin(async move {
        let mut ended_with_it = None;
        let mut lives = 0;
        loop {
            if let Some(receiver) = to.get().filter(|receiver| Some(receiver) != ended_with_it.as_ref()) {
                if receiver.send(message.clone()).await.is_ok() {
                    return true;
                }
                lives += 1;
                if lives == MOST_LIVES_FOR_A_RESULT {
                    return false;
                }
                ended_with_it = Some(receiver);
            }
            actix_rt::time::sleep(RECEIVER_RETRY).await;
        }
    })
}

/// Counts a result and writes its stages to the flight recorder.
fn note(plane: &DataPlane, faces: &FrameFaces) {
    let (meta, stamps) = (&faces.meta, &faces.stamps);
    let stats = &plane.stats[usize::from(meta.camera.0)];
    stats.faces.store(u32::try_from(faces.faces.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    stats.face_rows.fetch_add(faces.faces.len() as u64, Ordering::Relaxed);
    stats.results.fetch_add(1, Ordering::Relaxed);
    stats.latency.record(stamps.published.saturating_since(meta.captured_at));
    let mut start = meta.received_at;
    for (stage, end) in [
        (Stage::Wait, stamps.submitted),
        (Stage::Upload, stamps.uploaded),
        (Stage::Detect, stamps.detected),
        (Stage::Landmarks, stamps.landmarks),
        (Stage::Publish, stamps.published),
    ] {
        if end != Timestamp::default() {
            plane.flight.record(Span { stage, camera: meta.camera, seq: meta.seq, start, end });
            start = end;
        }
    }
}
