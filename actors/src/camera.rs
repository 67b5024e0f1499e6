//! Camera actor: owns one capture device and turns its images into frame handles.
//!
//! On its own thread. Never copies pixels after capture and never waits for a consumer, unless the
//! source is lossless: no free slot means drop and count. Control never waits behind a frame: one
//! poll takes at most one frame, then the mailbox has its turn. A live camera is at work when its first frame
//! has come; what it sends before the session's t0 is thrown away; one that falls silent has failed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use tokio::time::{Instant, Sleep};
use youquanti_frames::{FrameRing, RingError, SlotMut};
use youquanti_models::{CameraId, FrameFlags, FrameMeta, Timestamp, with_causes};

use crate::calibration;
use crate::capture::{CaptureDevice, CaptureError, Captured, Pace};
use crate::child::{Lifeline, Pulse};
use crate::fault;
use crate::flight::{Span, Stage};
use crate::ledger::{Consumer, DropReason, Ticket};
use crate::messages::{Delivery, IndexEntry, Shutdown};
use crate::plane::{CameraLine, DataPlane, OpenedCamera};
use crate::stall::StallWatch;
use crate::timing::frames_lost;
use crate::video::VideoFrame;

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
    /// Which time of being opened this is.
    life: u32,
    /// Only of a live device: others send nothing before they are asked.
    stall: Option<(StallWatch, Pin<Box<Sleep>>)>,
    pulse: Arc<Pulse>,
}

/// One camera of the session.
pub struct CameraActor {
    id: CameraId,
    plane: Arc<DataPlane>,
    lifeline: Lifeline,
    open: Option<Open>,
    /// The supervisor has been told that it is at work.
    is_started: bool,
}

impl CameraActor {
    /// A camera that opens its device when it is started.
    pub fn new(id: CameraId, plane: Arc<DataPlane>, lifeline: Lifeline) -> Self {
        Self { id, plane, lifeline, open: None, is_started: false }
    }
}

impl Actor for CameraActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (id, plane) = (self.id, Arc::clone(&self.plane));
        let (pulse, follows_hung) = (Arc::clone(self.lifeline.pulse()), self.lifeline.follows_hung());
        match self.lifeline.guard(|| open(id, &plane, pulse, follows_hung)) {
            // A life whose opening hung and that was left behind: its device is closed again.
            Some(Ok(_)) if self.lifeline.is_abandoned() => {
                self.lifeline.ended();
                ctx.terminate();
            }
            Some(Ok(open)) => {
                if open.stall.is_none() {
                    self.say_started();
                }
                self.open = Some(open);
                ctx.spawn(CaptureLoop);
            }
            Some(Err(error)) => {
                self.lifeline.failed(with_causes(&error));
                ctx.terminate();
            }
            None => ctx.terminate(),
        }
    }
}

impl CameraActor {
    fn say_started(&mut self) {
        if !self.is_started {
            self.is_started = true;
            self.lifeline.started();
        }
    }
}

fn open(id: CameraId, plane: &DataPlane, pulse: Arc<Pulse>, follows_hung: bool) -> Result<Open, CameraError> {
    fault::point("camera:open");
    if follows_hung {
        plane.retire_ring(id);
    }
    let device = (plane.camera(id).plan.open)(Arc::clone(&plane.clock))?;
    let info = device.describe().clone();
    let (pace, is_live) = (info.pace, info.is_live);
    let period = Duration::try_from_secs_f64(1.0 / info.fps).unwrap_or_default();
    let stamp_offset = calibration::find(&plane.camera(id).plan.offsets, &info).map(|known| known.offset);
    let ring = plane.ring_for(id, OpenedCamera { layout: device.layout(), info, stamp_offset })?;
    let stall = is_live.then(|| {
        let watch = StallWatch::new(period, plane.clock.now());
        (watch, Box::pin(tokio::time::sleep(watch.limit())))
    });
    plane.camera(id).first_since_opened.store(0, Ordering::Relaxed);
    let life = plane.camera(id).lives.fetch_add(1, Ordering::Relaxed);
    Ok(Open { device, ring, pace, period, slot: None, driver_seq: None, life, stall, pulse })
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
        let polled = camera.lifeline.guard(|| open.poll_frame(id, &plane, task));
        match polled {
            _ if camera.lifeline.is_abandoned() => camera.lifeline.ended(),
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Ok(()))) => {
                camera.say_started();
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Poll::Ready(Err(CaptureError::Ended { note, .. }))) => camera.lifeline.ended_with(note),
            Some(Poll::Ready(Err(error))) => camera.lifeline.failed(with_causes(&error)),
            None => {}
        }
        camera.open = None;
        ctx.terminate();
        Poll::Ready(())
    }
}

impl Open {
    /// Completes when one frame was taken from the device and handed on or counted as dropped, or thrown away
    /// because the session had not begun.
    fn poll_frame(
        &mut self,
        id: CameraId,
        plane: &DataPlane,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), CaptureError>> {
        let Some(started_at) = plane.started_at() else {
            return if self.stall.is_some() {
                self.poll_device(plane, cx).map_ok(drop)
            } else {
                Poll::Pending
            };
        };
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
        let captured = ready!(self.poll_device(plane, cx))?;
        fault::point("camera:captured");
        // On its way at t0; a stamp that is as old later is a wrong one, and its frame counts.
        let on_its_way = captured.received_at < started_at + 3 * self.period;
        if self.stall.is_some() && captured.captured_at < started_at && on_its_way {
            return Poll::Ready(Ok(()));
        }
        if self.pulse.is_abandoned() {
            return Poll::Pending;
        }
        self.hand_on(id, plane, line, captured);
        Poll::Ready(Ok(()))
    }

    /// The device's next frame; a live device that is silent for too long has failed.
    fn poll_device(
        &mut self,
        plane: &DataPlane,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Captured, CaptureError>> {
        let captured = self.device.poll_capture(cx, self.slot.as_mut().map(SlotMut::bytes_mut));
        let Some((watch, timer)) = &mut self.stall else { return captured };
        if captured.is_ready() {
            watch.frame(plane.clock.now());
            return captured;
        }
        loop {
            let Some(left) = watch.left(plane.clock.now()) else {
                return Poll::Ready(Err(CaptureError::TimedOut { after: watch.limit() }));
            };
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + left);
        }
    }

    fn hand_on(&mut self, id: CameraId, plane: &DataPlane, line: &CameraLine, captured: Captured) {
        let driver_seq = number(self.driver_seq, &captured);
        if let Some(before) = self.driver_seq.replace(driver_seq) {
            plane.ledger.driver_lost(id, frames_lost(before, driver_seq));
        }
        let (captured_at, flags) = stamp(line, &captured, self.period);
        for first in [&line.first_captured_at, &line.first_since_opened] {
            // Only this thread writes it.
            if first.load(Ordering::Relaxed) == 0 {
                first.store(captured_at.0, Ordering::Relaxed);
            }
        }
        let meta = FrameMeta {
            camera: id,
            seq: line.next_seq.fetch_add(1, Ordering::Relaxed),
            driver_seq,
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
        if !meta.flags.contains(FrameFlags::DAMAGED) {
            line.last_good_at.store(captured_at.0, Ordering::Relaxed);
        }
        let [to_pipeline, to_index] = plane.ledger.captured(id);
        let video = line.video.as_ref().filter(|video| video.is_wanted());
        let to_video = video.map(|video| (video, plane.ledger.offered(id, Consumer::Video)));
        let preview = plane.preview().map(|_| plane.ledger.offered(id, Consumer::Preview));
        let to_pose = plane.pose().map(|_| plane.ledger.offered(id, Consumer::Pose));
        let slot = if meta.flags.contains(FrameFlags::DAMAGED) {
            Err(DropReason::Damaged)
        } else if meta.flags.contains(FrameFlags::NO_SLOT) {
            Err(DropReason::NoSlot)
        } else {
            self.slot.take().ok_or(DropReason::NoSlot)
        };
        match slot {
            Ok(slot) => {
                let frame = slot.freeze(meta, captured.bytes_used);
                let shared = to_video.map(|(video, ticket)| (video, ticket, frame.clone()));
                let posed = to_pose.map(|ticket| Delivery { frame: frame.clone(), ticket, preview: None });
                line.send(Delivery { frame, ticket: to_pipeline, preview });
                if let Some(delivery) = posed {
                    line.send_pose(delivery);
                }
                if let Some((video, ticket, frame)) = shared
                    && let Err(refused) = video.frames.send(VideoFrame { frame, ticket, life: self.life })
                {
                    refused.ticket.dropped(DropReason::Full);
                }
            }
            Err(reason) => {
                let tickets = to_video.map(|(_, ticket)| ticket).into_iter();
                let tickets = tickets.chain(preview).chain(to_pose).chain([to_pipeline]);
                tickets.for_each(|ticket: Ticket| ticket.dropped(reason));
            }
        }
        // After the frame, whose latency counts: the recorder that this wakes may need the same core.
        if let Err(refused) = line.index.send(IndexEntry { meta, ticket: to_index }) {
            refused.ticket.dropped(DropReason::Full);
        }
        if plane.wants_stream_facts.load(Ordering::Relaxed) {
            let ticket = plane.ledger.offered(id, Consumer::Streams);
            if let Err(refused) = line.stream_facts.send(IndexEntry { meta, ticket }) {
                refused.ticket.dropped(DropReason::Full);
            }
        }
    }
}

/// The driver's number of a frame. Damaged ones come back with any (uvcvideo: 0, whatever came before): if that
/// is not ahead, they have the number of the frame before.
fn number(before: Option<u32>, captured: &Captured) -> u32 {
    let is_ahead = |before: &u32| (1..u32::MAX / 2).contains(&captured.driver_seq.wrapping_sub(*before));
    let is_damaged = captured.flags.contains(FrameFlags::DAMAGED);
    before.filter(|before| is_damaged && !is_ahead(before)).unwrap_or(captured.driver_seq)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as they are kept, and frames lost, of frames as the driver numbers them; damaged ones with a minus.
    #[track_caller]
    fn check(given: &[i64], kept: &[u32], lost: u64) {
        let (mut before, mut numbers, mut sum) = (None, Vec::new(), 0);
        for &seq in given {
            let captured = Captured {
                driver_seq: u32::try_from(seq.unsigned_abs() % (1 << 32)).unwrap(),
                captured_at: Timestamp(1),
                received_at: Timestamp(1),
                bytes_used: 0,
                flags: if seq < 0 { FrameFlags::DAMAGED } else { FrameFlags::default() },
            };
            let number = number(before, &captured);
            sum += before.map_or(0, |before| frames_lost(before, number));
            before = Some(number);
            numbers.push(number);
        }
        assert_eq!((&numbers[..], sum), (kept, lost), "{given:?}");
    }

    #[test]
    fn damaged_frames_without_a_number_of_their_own_lose_nothing() {
        const DAMAGED_0: i64 = -(1 << 32);
        check(&[89, 90, DAMAGED_0, DAMAGED_0, 92], &[89, 90, 90, 90, 92], 1);
        check(&[5, -6, 7], &[5, 6, 7], 0);
        check(&[5, -8, 9], &[5, 8, 9], 2);
        check(&[4_294_967_295, 0, 1], &[4_294_967_295, 0, 1], 0);
        check(&[DAMAGED_0, 1], &[0, 1], 0);
        check(&[7, 7, 9, 0, 1], &[7, 7, 9, 0, 1], 1);
    }
}
