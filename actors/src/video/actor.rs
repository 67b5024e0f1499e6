//! Video actor: writes the pictures of one camera to files of video while a recording is under way.
//!
//! On its own thread. Takes a frame when the one before is with the encoder, and holds no more than that one: what comes faster is
//! refused by its mailbox and counted. FFmpeg that dies or stands still is a failure of this actor, whose next life begins
//! a new file; a full disk ends the video of the recording, and nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use youquanti_frames::MailboxStream;
use youquanti_models::{CameraId, with_causes};

use super::segment::{Done, Segment, VideoError};
use super::{VideoFrame, VideoJob, VideoLine, VideoPlan};
use crate::child::{Lifeline, tell};
use crate::fault;
use crate::ledger::DropReason;
use crate::messages::{Event, EventKind, Shutdown};
use crate::plane::{CameraLine, DataPlane};

/// Steps in one go before messages have their turn.
const BATCH: usize = 64;

/// How long FFmpeg may do nothing while it has something to do.
const STANDSTILL: Duration = Duration::from_secs(10);

/// Finishes the video of the recording that was refused further frames. Answered when everything that was under way is in its
/// file and every row is on its way to the recorder.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct StopVideo;

/// The video of one camera.
pub struct VideoActor {
    id: CameraId,
    plane: Arc<DataPlane>,
    events: Recipient<Event>,
    lifeline: Lifeline,
    frames: Option<MailboxStream<VideoFrame>>,
    segment: Option<Segment>,
    /// A frame for another segment than the one that is being finished.
    next: Option<VideoFrame>,
    /// The recording whose video has ended before its time.
    given_up: Option<Arc<VideoJob>>,
    stopping: Option<oneshot::Sender<()>>,
    /// Runs while FFmpeg has something to do and does nothing.
    patience: Option<Pin<Box<Sleep>>>,
    flush_interval: Duration,
    /// The disk is being waited for, aside.
    is_syncing: bool,
}

impl VideoActor {
    /// The video of camera `id`, made safe from a loss of power each `flush_interval`; `events` hears of its files.
    pub fn new(
        id: CameraId,
        plane: Arc<DataPlane>,
        flush_interval: Duration,
        events: Recipient<Event>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            id,
            plane,
            events,
            lifeline,
            frames: None,
            segment: None,
            next: None,
            given_up: None,
            stopping: None,
            patience: None,
            flush_interval,
            is_syncing: false,
        }
    }

    fn emit(&self, ctx: &mut Context<Self>, kind: EventKind, detail: serde_json::Value) {
        let source = format!("video {}", self.plane.camera(self.id).plan.name);
        tell::<Self, _>(ctx, &self.events, Event { at: self.plane.clock.now(), source, kind, detail });
    }

    /// Says that a file is finished. What was lost on the way to it is in the ledger.
    fn end_segment(&mut self, ctx: &mut Context<Self>, segment: Segment) -> Result<(), VideoError> {
        let (frames, bytes) = segment.written();
        let detail = json!({
            "segment": segment.number(), "file": segment.path(), "frames": frames, "bytes": bytes,
        });
        segment.finish()?;
        self.emit(ctx, EventKind::VideoEnded, detail);
        Ok(())
    }

    /// Has the disk take what was written, aside: that may take its time, and frames go on.
    fn sync(&mut self, ctx: &mut Context<Self>) {
        if self.is_syncing {
            return;
        }
        let sync = match self.segment.as_mut().map_or(Ok(None), Segment::sync) {
            Ok(Some(sync)) => sync,
            Ok(None) => return,
            Err(error) => return self.fail(ctx, with_causes(&error), true),
        };
        self.is_syncing = true;
        let syncing = actix::fut::wrap_future::<_, Self>(tokio::task::spawn_blocking(sync));
        ctx.spawn(syncing.map(|synced, actor, ctx| {
            actor.is_syncing = false;
            match synced {
                Ok(Ok(())) => {}
                Ok(Err(error)) => actor.fail(ctx, with_causes(&error), true),
                Err(panic) => actor.fail(ctx, panic.to_string(), true),
            }
        }));
    }

    /// This life ends; the file plays as it is, and gets its end if the segment `is_whole`.
    fn fail(&mut self, ctx: &mut Context<Self>, mut cause: String, is_whole: bool) {
        if let Some(segment) = self.segment.take().filter(|_| is_whole) {
            let frames = segment.written().0;
            cause = format!("{cause}; {} has {frames} frames", segment.path().display());
            if let Err(second) = segment.finish() {
                cause = format!("{cause}, and {}", with_causes(&second));
            }
        }
        self.lifeline.failed(cause);
        ctx.terminate();
    }

    /// Ends the video of this recording before its time, and says so; the recording goes on.
    fn give_up(&mut self, ctx: &mut Context<Self>, video: &VideoLine, error: &VideoError) {
        video.refuse();
        self.given_up = video.job();
        self.emit(ctx, EventKind::VideoFailed, json!({ "cause": with_causes(error) }));
        if let Some(segment) = self.segment.take()
            && let Err(second) = self.end_segment(ctx, segment)
        {
            // A full disk may have no place for the end of the file, without which it plays as well.
            tracing::debug!(error = %with_causes(&second), "the end of a video is not written");
        }
    }
}

impl Actor for VideoActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(video) = &self.plane.camera(self.id).video else {
            self.lifeline.ended();
            ctx.terminate();
            return;
        };
        self.frames = Some(video.frames.stream());
        self.lifeline.started();
        ctx.run_interval(self.flush_interval, Self::sync);
        ctx.spawn(VideoLoop);
    }
}

impl Handler<StopVideo> for VideoActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopVideo, _: &mut Self::Context) -> Self::Result {
        let (done, is_done) = oneshot::channel();
        self.stopping = Some(done);
        Box::pin(async move {
            // Gone with the actor, whose failure is reported elsewhere.
            is_done.await.ok();
        })
    }
}

impl Handler<Shutdown> for VideoActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.lifeline.ended();
        ctx.stop();
    }
}

/// Moves frames to their file for as long as the actor lives.
struct VideoLoop;

impl ActorFuture<VideoActor> for VideoLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut VideoActor,
        ctx: &mut Context<VideoActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let plane = Arc::clone(&actor.plane);
        let line = plane.camera(actor.id);
        let Some(video) = &line.video else { return Poll::Ready(()) };
        for _ in 0..BATCH {
            let stepped = match crate::child::caught(|| actor.step(ctx, task, line, video)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(stepped)) => stepped.map_err(|error| (with_causes(&error), Some(error))),
                Err(panic) => Err((panic, None)),
            };
            match stepped {
                Ok(()) => {}
                Err((_, Some(error @ VideoError::DiskFull { .. }))) => actor.give_up(ctx, video, &error),
                Err((cause, error)) => {
                    // After a panic it may be half changed.
                    actor.fail(ctx, cause, error.is_some());
                    return Poll::Ready(());
                }
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl VideoActor {
    /// Completes when something was done, and there may be more.
    fn step(
        &mut self,
        ctx: &mut Context<Self>,
        cx: &mut TaskContext<'_>,
        line: &CameraLine,
        video: &VideoLine,
    ) -> Poll<Result<(), VideoError>> {
        fault::point("video:step");
        if let Some(segment) = &mut self.segment {
            // Every frame that gets into a file has a place for its row.
            ready!(video.rows.poll_ready(cx));
            match segment.poll(cx, &video.rows) {
                Poll::Ready(Ok(Done::Step)) => {
                    self.patience = None;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(Done::Finished)) => {
                    self.patience = None;
                    return Poll::Ready(
                        self.segment.take().map_or(Ok(()), |segment| self.end_segment(ctx, segment)),
                    );
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            if segment.is_waiting() {
                let patience = self
                    .patience
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STANDSTILL)));
                ready!(patience.as_mut().poll(cx));
                return Poll::Ready(Err(segment.stands_still()));
            }
        }
        let frame = match self.next.take() {
            Some(frame) => Some(frame),
            None => match self.frames.as_mut().map(|frames| Pin::new(frames).poll_next(cx)) {
                Some(Poll::Ready(frame)) => frame,
                _ => None,
            },
        };
        match frame {
            Some(frame) => Poll::Ready(self.take(ctx, line, video, frame)),
            None if self.stopping.is_some() => Poll::Ready(self.close(ctx, video)),
            None => Poll::Pending,
        }
    }

    /// Puts a frame into its segment, or makes way for that.
    fn take(
        &mut self,
        ctx: &mut Context<Self>,
        line: &CameraLine,
        video: &VideoLine,
        frame: VideoFrame,
    ) -> Result<(), VideoError> {
        let (job, plan) = (video.job(), line.plan.video.as_ref());
        if let Some(segment) = &mut self.segment {
            if segment.takes(&frame, job.as_ref()) {
                return segment.begin(frame, &video.rows);
            }
            self.next = Some(frame);
            return self.close_segment(ctx);
        }
        let given_up =
            |job: &Arc<VideoJob>| self.given_up.as_ref().is_some_and(|other| Arc::ptr_eq(other, job));
        let (Some(job), Some(plan)) = (job.filter(|job| !given_up(job)), plan) else {
            frame.ticket.dropped(DropReason::Unfinished);
            return Ok(());
        };
        let number = video.take_segment();
        let name = line.plan.name.as_str();
        let fps = line.opened().map_or(30.0, |opened| opened.info.fps);
        let segment = match Segment::open(plan, job, name, number, &frame, fps) {
            Ok(segment) => segment,
            Err(error) => {
                frame.ticket.dropped(DropReason::Failed);
                return Err(error);
            }
        };
        let detail = json!({
            "segment": number, "file": segment.path(), "codec": plan.codec.name(),
            "first_seq": frame_seq(&frame), "how": how(plan, &frame),
        });
        self.emit(ctx, EventKind::VideoStarted, detail);
        self.segment.insert(segment).begin(frame, &video.rows)
    }

    /// Finishes what is under way; when nothing is, forgets the recording and says so to who waits.
    fn close(&mut self, ctx: &mut Context<Self>, video: &VideoLine) -> Result<(), VideoError> {
        if self.segment.is_some() {
            return self.close_segment(ctx);
        }
        video.forget();
        self.given_up = None;
        if let Some(stopping) = self.stopping.take() {
            // Who waited may have lost patience.
            stopping.send(()).ok();
        }
        Ok(())
    }

    fn close_segment(&mut self, ctx: &mut Context<Self>) -> Result<(), VideoError> {
        match self.segment.as_mut().map(Segment::close) {
            Some(true) => self.segment.take().map_or(Ok(()), |segment| self.end_segment(ctx, segment)),
            _ => Ok(()),
        }
    }
}

fn frame_seq(frame: &VideoFrame) -> u64 {
    use youquanti_models::Frame;
    frame.frame.meta().seq
}

fn how(plan: &VideoPlan, frame: &VideoFrame) -> &'static str {
    use youquanti_models::Frame;
    match &plan.ffmpeg {
        _ if plan.codec.keeps(frame.frame.picture().layout.format) => "kept as the camera sends them",
        Some((_, encoder)) => encoder.name,
        None => "no encoder",
    }
}
