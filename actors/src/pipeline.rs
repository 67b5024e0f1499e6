//! Pipeline actor: owns one face pipeline on one thread and feeds it the newest frames.
//!
//! The thread that opens the pipeline is the one that uses and drops it. Takes frames from its cameras'
//! mailboxes in turn, hands results on in order and waits for them to be taken; what a slow
//! receiver costs is newer frames winning in the mailboxes, never memory. Never holds more frames than
//! the back end has room for. What becomes of a back end that is lost is for [`BuildPipeline`] to say, which makes the
//! next.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use actix_rt::time::{Instant, Sleep, sleep_until};
use futures_core::Stream;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};
use youquanti_frames::MailboxStream;
use youquanti_models::{CameraId, Clock, Frame, FrameFaces, Pipeline, PipelineError, Timestamp, with_causes};

use crate::child::{Lifeline, Port, caught};
use crate::fault;
use crate::flight::{Span, Stage};
use crate::ledger::DropReason;
use crate::messages::{Delivery, FacesFound, Shutdown};
use crate::participants::ParticipantsActor;
use crate::plane::DataPlane;

/// A pipeline as actors use it.
pub type BoxedPipeline = Box<dyn Pipeline<Delivery>>;

/// Why a pipeline cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The next attempt may succeed.
    #[error(transparent)]
    Failed(BuildCause),
    /// No attempt will: the session has to end.
    #[error(transparent)]
    ForGood(BuildCause),
}

/// What a back end says of it.
pub type BuildCause = Box<dyn std::error::Error + Send + Sync>;

/// Makes a pipeline for the cameras of a worker, on the worker's own thread, when all are open. Called again after every
/// failure; what was lost with the one before may make it another back end.
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
    /// What is made, in a few words, for the log: `CUDA on GPU 0 (NVIDIA H100)`.
    pub what: String,
    /// Time after which a thread that still makes it counts as hung.
    pub built_within: Duration,
    /// How long a frame waits for frames of the worker's other cameras, so that they are computed together; zero: not
    /// at all.
    pub batch_wait: Duration,
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
    /// Frames that are in the back end, oldest first.
    inside: VecDeque<Inside>,
    /// Only where frames wait for each other.
    batches: Option<Batches>,
    handover: Option<Handover>,
    max_faces: usize,
}

struct Input {
    frames: MailboxStream<Delivery>,
    last_captured_at: Timestamp,
    /// Its frames in the back end.
    inside: usize,
}

/// A frame that is in the back end.
struct Inside {
    /// Place of its input.
    input: usize,
    submitted_at: Timestamp,
}

/// Frames that are computed together. A back end computes what it has when the first of them is collected; those
/// that come later are the next batch.
struct Batches {
    wait: Duration,
    /// Made once and set again for every batch.
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
    /// Frames of the present batch that are still to be collected.
    computed: usize,
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

    /// Ends the actor; `failure` is why. What it worked with is gone before anybody hears of it: a device must be free
    /// when the next life opens it.
    fn finish(&mut self, ctx: &mut Context<Self>, failure: Option<String>) {
        self.work = None;
        match failure {
            Some(cause) => self.lifeline.failed(cause),
            None => self.lifeline.ended(),
        }
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
            Some(Ok(work)) if self.lifeline.is_abandoned() => {
                drop(work);
                self.lifeline.ended();
                ctx.terminate();
            }
            Some(Ok(work)) => {
                plan.cameras.iter().for_each(|&id| plane.camera(id).set_backend(work.pipeline.info()));
                self.work = Some(work);
                self.lifeline.started();
                ctx.spawn(WorkLoop);
            }
            Some(Err(error @ BuildError::Failed(_))) => {
                self.lifeline.failed(with_causes(&error));
                ctx.terminate();
            }
            Some(Err(error @ BuildError::ForGood(_))) => {
                self.lifeline.failed_for_good(with_causes(&error));
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
        let is_draining = drained.is_some();
        let polled = caught(|| running.poll_frame(plane, participants, is_draining, task));
        let failure = match polled {
            // What it holds, a result that nobody has taken included, counts as crashed.
            _ if lifeline.is_abandoned() => None,
            Ok(Poll::Pending) if is_draining && running.is_idle() => None,
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            Ok(Poll::Ready(Err(error))) => Some(with_causes(&error)),
            Err(panic) => Some(panic),
        };
        actor.finish(ctx, failure);
        Poll::Ready(())
    }
}

impl Work {
    fn build(plan: &PipelinePlan, plane: &DataPlane) -> Result<Self, BuildError> {
        fault::point("pipeline:build");
        let inputs = plan.cameras.iter().map(|&id| Input {
            frames: plane.camera(id).frames.stream(),
            last_captured_at: Timestamp::default(),
            inside: 0,
        });
        let inputs: Vec<_> = inputs.collect();
        let begun_at = plane.clock.now();
        info!(cameras = inputs.len(), "building a pipeline: {}", plan.what);
        let pipeline = (plan.build)(plane, &plan.cameras)?;
        let backend = pipeline.info();
        info!(
            took = ?plane.clock.now().saturating_since(begun_at),
            reason = backend.reason,
            "built a pipeline: {} on {}", backend.backend, backend.device
        );
        if let Some(id) = plan.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            warn!(core = id, "the pipeline's thread could not be pinned to its core");
        }
        Ok(Self {
            pipeline,
            batches: Batches::of(plan.batch_wait, inputs.len()),
            inputs,
            turn: 0,
            inside: VecDeque::with_capacity(64),
            handover: None,
            max_faces: plan.max_faces,
        })
    }

    /// Nothing in hand; together with empty mailboxes: done.
    fn is_idle(&self) -> bool {
        self.handover.is_none() && self.inside.is_empty()
    }

    /// Completes when one frame was processed and its result is on its way, or the frame was counted as
    /// dropped. Pending when there is no frame, the last result has not been taken yet, or frames wait for others,
    /// which they do not when the worker `is_draining`.
    fn poll_frame(
        &mut self,
        plane: &DataPlane,
        participants: &Port<ParticipantsActor>,
        is_draining: bool,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), PipelineError>> {
        if let Some(handover) = &mut self.handover {
            let was_taken = ready!(handover.taken.as_mut().poll(cx));
            match self.handover.take() {
                Some(handover) if was_taken => handover.delivery.ticket.delivered(),
                Some(handover) => {
                    plane.camera(handover.delivery.meta().camera).never_named();
                    handover.delivery.ticket.dropped(DropReason::Failed);
                }
                None => {}
            }
        }
        while self.pipeline.has_room()
            && let Some((input, delivery)) = self.next_frame(cx)
        {
            self.inputs[input].inside += 1;
            self.inside.push_back(Inside { input, submitted_at: plane.clock.now() });
            self.pipeline.submit(delivery);
        }
        if !is_draining {
            ready!(self.poll_batch(&*plane.clock, cx));
        }
        let Some(Inside { input, submitted_at }) = self.inside.pop_front() else { return Poll::Pending };
        self.inputs[input].inside -= 1;
        let mut faces = FrameFaces::with_capacity(self.max_faces);
        let Some((mut delivery, outcome)) = self.pipeline.collect(&mut faces) else { return Poll::Pending };
        fault::point("pipeline:collected");
        match outcome {
            Ok(()) => {
                faces.stamps.submitted = submitted_at;
                faces.stamps.published = plane.clock.now();
                note(plane, &faces);
                plane.camera(faces.meta.camera).found_in(&mut delivery);
                self.handover = Some(Handover { taken: hand_over(faces, participants.clone()), delivery });
                Poll::Ready(Ok(()))
            }
            Err(error @ PipelineError::Picture { .. }) => {
                debug!(%error, "frame dropped");
                delivery.dropped(DropReason::Undecodable);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                delivery.dropped(DropReason::Failed);
                Poll::Ready(Err(error))
            }
        }
    }

    /// Ready when the oldest frame is to be collected, and with it what is computed together with it.
    fn poll_batch(&mut self, clock: &dyn Clock, cx: &mut TaskContext<'_>) -> Poll<()> {
        let (Some(batches), Some(oldest)) = (&mut self.batches, self.inside.front()) else {
            return Poll::Ready(());
        };
        if batches.computed == 0 {
            if self.pipeline.has_room() && self.inputs.iter().any(|input| input.inside == 0) {
                ready!(batches.poll_wait(clock.now().saturating_since(oldest.submitted_at), cx));
            }
            batches.is_waiting = false;
            batches.computed = self.inside.len();
        }
        batches.computed -= 1;
        Poll::Ready(())
    }

    /// The next frame with the place of its input, every input in its turn.
    fn next_frame(&mut self, cx: &mut TaskContext<'_>) -> Option<(usize, Delivery)> {
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
                return Some((turn, delivery));
            }
        }
        None
    }
}

impl Batches {
    /// Nothing where nobody waits, or there is nobody to wait for.
    fn of(wait: Duration, inputs: usize) -> Option<Self> {
        (!wait.is_zero() && inputs > 1).then(|| Self {
            wait,
            timer: Box::pin(sleep_until(Instant::now())),
            is_waiting: false,
            computed: 0,
        })
    }

    /// Ready when the oldest frame, submitted so long ago, has waited long enough.
    fn poll_wait(&mut self, since_submitted: Duration, cx: &mut TaskContext<'_>) -> Poll<()> {
        if !self.is_waiting {
            let left = self.wait.saturating_sub(since_submitted);
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(Instant::now() + left);
            self.is_waiting = true;
        }
        self.timer.as_mut().poll(cx)
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use youquanti_frames::{FrameRing, SlotMut};
    use youquanti_models::time::FakeClock;
    use youquanti_models::{BackendInfo, FrameFlags, FrameMeta, PictureLayout, PixelFormat};

    use super::*;
    use crate::capture::CaptureError;
    use crate::ledger::Consumer;
    use crate::plane::CameraPlan;

    const LAYOUT: PictureLayout = PictureLayout::packed(8, 8, PixelFormat::Grey);

    /// A back end that can make nothing of any picture, and holds several.
    struct Blind {
        info: BackendInfo,
        depth: usize,
        frames: VecDeque<Delivery>,
    }

    impl Pipeline<Delivery> for Blind {
        fn info(&self) -> &BackendInfo {
            &self.info
        }

        fn has_room(&self) -> bool {
            self.frames.len() < self.depth
        }

        fn submit(&mut self, frame: Delivery) {
            self.frames.push_back(frame);
        }

        fn collect(&mut self, _: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
            let frame = self.frames.pop_front()?;
            let meta = frame.meta();
            let error =
                PipelineError::Picture { camera: meta.camera, seq: meta.seq, reason: "blind".to_owned() };
            Some((frame, Err(error)))
        }

        fn forget(&mut self, _: CameraId) {}
    }

    /// A worker on a clock that is moved by hand, and its cameras.
    struct Desk {
        clock: Arc<FakeClock>,
        plane: Arc<DataPlane>,
        ring: FrameRing,
        work: Work,
    }

    impl Desk {
        fn new(cameras: u16, depth: usize, batch_wait: Duration) -> Self {
            let clock = Arc::new(FakeClock::default());
            let plans = (0..cameras).map(|id| CameraPlan {
                name: format!("cam{id}").parse().unwrap(),
                open: Arc::new(|_| Err(CaptureError::Disconnected { device: String::new(), source: None })),
                slots: 4,
                lossless: true,
                offsets: Arc::default(),
                video: None,
            });
            let session_clock: Arc<dyn Clock> = Arc::<FakeClock>::clone(&clock);
            let plane =
                DataPlane::new(session_clock, "desk".to_owned(), "/nowhere".into(), plans.collect(), 8);
            let plan = PipelinePlan {
                cameras: plane.camera_ids().collect(),
                build: Arc::new(move |_, _| {
                    let info = BackendInfo {
                        backend: "blind",
                        device: String::new(),
                        runtime: String::new(),
                        models: Vec::new(),
                        reason: String::new(),
                    };
                    Ok(Box::new(Blind { info, depth, frames: VecDeque::new() }))
                }),
                what: "blind".to_owned(),
                built_within: Duration::ZERO,
                batch_wait,
                core: None,
                max_faces: 1,
            };
            let work = Work::build(&plan, &plane).unwrap();
            Self { clock, plane, ring: FrameRing::on_heap(16, LAYOUT).unwrap(), work }
        }

        /// A camera sends a frame.
        fn sends(&self, camera: u16) {
            let line = self.plane.camera(CameraId(camera));
            let [ticket, index] = self.plane.ledger.captured(CameraId(camera));
            index.delivered();
            let at = self.clock.now();
            let meta = FrameMeta {
                camera: CameraId(camera),
                seq: line.next_seq.fetch_add(1, Ordering::Relaxed),
                driver_seq: 0,
                captured_at: at,
                received_at: at,
                flags: FrameFlags::default(),
            };
            let slot: SlotMut = self.ring.try_acquire().unwrap();
            let frame = slot.freeze(meta, LAYOUT.max_bytes());
            line.send(Delivery { frame, ticket, preview: None });
        }

        fn step(&mut self, is_draining: bool) -> Poll<Result<(), PipelineError>> {
            let mut cx = TaskContext::from_waker(Waker::noop());
            self.work.poll_frame(&self.plane, &Port::new(), is_draining, &mut cx)
        }

        /// Lets the worker work for as long as it can; the frames that it is done with, of each camera.
        fn works(&mut self) -> Vec<u64> {
            self.works_as(false)
        }

        fn works_as(&mut self, is_draining: bool) -> Vec<u64> {
            while self.step(is_draining).is_ready() {}
            let cameras = self.plane.ledger.snapshot().cameras;
            cameras
                .iter()
                .map(|camera| camera.consumers[Consumer::Pipeline as usize].dropped_total())
                .collect()
        }
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    const WAIT: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn frames_wait_for_no_other_unless_they_are_told_to() {
        for mut desk in [Desk::new(2, 4, Duration::ZERO), Desk::new(1, 4, WAIT)] {
            desk.sends(0);
            assert_eq!(desk.works()[0], 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_waits_for_the_others_so_long_and_no_longer() {
        let mut desk = Desk::new(2, 4, WAIT);
        for round in 1..=3 {
            desk.sends(0);
            assert_eq!(desk.works(), [round - 1, 0]);
            pass(WAIT - Duration::from_millis(1)).await;
            assert_eq!(desk.works(), [round - 1, 0]);
            pass(Duration::from_millis(1)).await;
            assert_eq!(desk.works(), [round, 0], "the timer is set anew for every batch");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_every_camera_has_a_frame_or_there_is_no_room() {
        let mut desk = Desk::new(3, 4, WAIT);
        desk.sends(0);
        desk.sends(0);
        desk.sends(2);
        assert_eq!(desk.works(), [0, 0, 0]);
        desk.sends(1);
        assert_eq!(desk.works(), [2, 1, 1]);
        let mut desk = Desk::new(3, 2, WAIT);
        desk.sends(1);
        assert_eq!(desk.works(), [0, 0, 0]);
        desk.sends(1);
        assert_eq!(desk.works(), [0, 2, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_has_waited_elsewhere_waits_for_the_rest_only() {
        let mut desk = Desk::new(2, 4, WAIT);
        desk.sends(0);
        desk.sends(1);
        assert!(desk.step(false).is_ready(), "one of two that are computed together");
        desk.sends(0);
        assert!(desk.step(false).is_ready(), "the other");
        desk.clock.advance(WAIT);
        assert_eq!(desk.works(), [2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_cameras_that_have_stopped() {
        let mut desk = Desk::new(2, 4, WAIT);
        desk.sends(0);
        assert_eq!(desk.works(), [0, 0]);
        assert_eq!(desk.works_as(true), [1, 0]);
        assert!(desk.work.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn cameras_take_turns() {
        let mut desk = Desk::new(3, 4, Duration::ZERO);
        for camera in [2, 2, 0, 0, 1, 1] {
            desk.sends(camera);
        }
        let mut cx = TaskContext::from_waker(Waker::noop());
        let turns: Vec<_> =
            std::iter::from_fn(|| desk.work.next_frame(&mut cx)).map(|(input, _)| input).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }
}
