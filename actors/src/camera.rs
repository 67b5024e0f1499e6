//! Camera actor: owns one capture device and turns its images into frame handles.
//!
//! On its own thread. Never copies pixels after capture and never waits for a consumer, unless the
//! source is lossless: no free slot means drop and count. Control never waits behind a frame: one
//! poll takes at most one frame, then the mailbox has its turn.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use youquanti_frames::{FrameRing, RingError, SlotMut};
use youquanti_models::{CameraId, FrameFlags, FrameMeta, Timestamp};

use crate::capture::{CaptureDevice, CaptureError, Captured, Pace};
use crate::child::Lifeline;
use crate::fault;
use crate::flight::{Span, Stage};
use crate::ledger::DropReason;
use crate::messages::{Delivery, IndexEntry, Shutdown};
use crate::plane::{CameraLine, DataPlane, OpenedCamera};

/// Why a camera cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    /// The device cannot be opened or read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Its ring cannot be made.
    #[error("frame ring cannot be made")]
    Ring(#[from] RingError),
}

/// Tells a camera that the session's barrier is open.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct BarrierOpened;

/// What an open camera works with.
struct Open {
    device: Box<dyn CaptureDevice>,
    ring: FrameRing,
    pace: Pace,
    /// Time from frame to frame, as the source declares it.
    period: Duration,
    /// The slot that the device is filling.
    slot: Option<SlotMut>,
    /// The driver's number of the frame before.
    driver_seq: Option<u32>,
}

/// One camera of the session.
pub struct CameraActor {
    id: CameraId,
    plane: Arc<DataPlane>,
    lifeline: Lifeline,
    open: Option<Open>,
}

impl CameraActor {
    /// A camera that opens its device when it is started.
    pub fn new(id: CameraId, plane: Arc<DataPlane>, lifeline: Lifeline) -> Self {
        Self { id, plane, lifeline, open: None }
    }
}

impl Actor for CameraActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (id, plane) = (self.id, Arc::clone(&self.plane));
        match self.lifeline.guard(|| open(id, &plane)) {
            Some(Ok(open)) => {
                self.open = Some(open);
                self.lifeline.started();
                ctx.spawn(CaptureLoop);
            }
            Some(Err(error)) => {
                self.lifeline.failed(error_chain(&error));
                ctx.terminate();
            }
            None => ctx.terminate(),
        }
    }
}

fn open(id: CameraId, plane: &DataPlane) -> Result<Open, CameraError> {
    fault::point("camera:open");
    let device = (plane.camera(id).plan.open)(Arc::clone(&plane.clock))?;
    let info = device.describe().clone();
    let pace = info.pace;
    let period = Duration::try_from_secs_f64(1.0 / info.fps).unwrap_or_default();
    let ring = plane.ring_for(id, OpenedCamera { layout: device.layout(), info })?;
    Ok(Open { device, ring, pace, period, slot: None, driver_seq: None })
}

/// An error with its causes, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

impl Handler<BarrierOpened> for CameraActor {
    type Result = ();

    /// Being woken is all: the capture loop is polled after every message.
    fn handle(&mut self, _: BarrierOpened, _: &mut Self::Context) {}
}

impl Handler<Shutdown> for CameraActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.open = None;
        self.lifeline.ended();
        ctx.stop();
    }
}

/// Polls the device for as long as the actor lives.
struct CaptureLoop;

impl ActorFuture<CameraActor> for CaptureLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        camera: &mut CameraActor,
        ctx: &mut Context<CameraActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let (id, plane) = (camera.id, Arc::clone(&camera.plane));
        let Some(open) = &mut camera.open else { return Poll::Ready(()) };
        match camera.lifeline.guard(|| open.poll_frame(id, &plane, task)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Ok(()))) => {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Poll::Ready(Err(CaptureError::Ended { note, .. }))) => camera.lifeline.ended_with(note),
            Some(Poll::Ready(Err(error))) => camera.lifeline.failed(error_chain(&error)),
            None => {}
        }
        camera.open = None;
        ctx.terminate();
        Poll::Ready(())
    }
}

impl Open {
    /// Completes when one frame was taken from the device and handed on or counted as dropped.
    fn poll_frame(
        &mut self,
        id: CameraId,
        plane: &DataPlane,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), CaptureError>> {
        if !plane.capturing.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let line = plane.camera(id);
        if line.plan.lossless {
            ready!(line.poll_room(cx));
        }
        if self.slot.is_none() {
            self.slot = match self.pace {
                Pace::Real => self.ring.try_acquire(),
                Pace::Fast | Pace::Lossless => ready!(self.ring.poll_acquire(cx)),
            };
        }
        let captured = ready!(self.device.poll_capture(cx, self.slot.as_mut().map(SlotMut::bytes_mut)))?;
        fault::point("camera:captured");
        self.hand_on(id, plane, line, captured);
        Poll::Ready(Ok(()))
    }

    fn hand_on(&mut self, id: CameraId, plane: &DataPlane, line: &CameraLine, captured: Captured) {
        if let Some(before) = self.driver_seq.replace(captured.driver_seq) {
            let lost = captured.driver_seq.wrapping_sub(before).wrapping_sub(1);
            // A number that went back is a driver that began anew, not 4 billion lost frames.
            if lost < u32::MAX / 2 {
                plane.ledger.driver_lost(id, u64::from(lost));
            }
        }
        let (captured_at, flags) = stamp(line, &captured, self.period);
        let meta = FrameMeta {
            camera: id,
            seq: line.next_seq.fetch_add(1, Ordering::Relaxed),
            driver_seq: captured.driver_seq,
            captured_at,
            received_at: captured.received_at,
            flags,
        };
        plane.flight.record(Span {
            stage: Stage::Capture,
            camera: id,
            seq: meta.seq,
            start: meta.captured_at,
            end: meta.received_at,
        });
        let [to_pipeline, to_index] = plane.ledger.captured(id);
        if meta.flags.contains(FrameFlags::DAMAGED) {
            to_pipeline.dropped(DropReason::Damaged);
        } else if meta.flags.contains(FrameFlags::NO_SLOT) {
            to_pipeline.dropped(DropReason::NoSlot);
        } else if let Some(slot) = self.slot.take() {
            let frame = slot.freeze(meta, captured.bytes_used);
            line.frames.send(Delivery { frame, ticket: to_pipeline });
        } else {
            to_pipeline.dropped(DropReason::NoSlot);
        }
        // After the frame, whose latency counts: the recorder that this wakes may need the same core.
        if let Err(refused) = line.index.send(IndexEntry { meta, ticket: to_index }) {
            refused.ticket.dropped(DropReason::Full);
        }
    }
}

/// Stamp and flags of a frame: a stamp that does not advance, or that is further ahead than the end of a
/// frame could be and would spoil all that follow, is replaced by the time of receipt.
fn stamp(line: &CameraLine, captured: &Captured, period: Duration) -> (Timestamp, FrameFlags) {
    let before = Timestamp(line.last_captured_at.load(Ordering::Relaxed));
    let is_sound = captured.captured_at > before && captured.captured_at <= captured.received_at + period;
    let (stamp, flags) = if is_sound {
        (captured.captured_at, captured.flags)
    } else {
        (captured.received_at, captured.flags.with(FrameFlags::STAMP_REPLACED))
    };
    line.last_captured_at.store(stamp.0.max(before.0), Ordering::Relaxed);
    (stamp, flags)
}
