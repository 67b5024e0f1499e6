//! Preview actor: small pictures of every camera in shared memory, each with what was found in exactly that picture.
//!
//! One thread for all cameras; made once, whatever the number of viewers. A frame comes with its result, or with the
//! certainty that it will have none: it holds no slot that the pipeline does not hold, but for the one that waits and the one
//! that is being drawn. While results come, pictures without one are left out, so that a picture and its mesh
//! never part; when none has come for a while, pictures go on without. Never waits for a viewer, and nothing waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_core::Stream;
use tracing::trace;
use youquanti_frames::{MailboxStream, RingError, results};
use youquanti_models::{CameraId, Frame, Picture, PictureLayout, PixelFormat, Timestamp, with_causes};

use crate::child::Lifeline;
use crate::fault;
use crate::ledger::DropReason;
use crate::messages::{Preview, Shutdown};
use crate::plane::DataPlane;

/// Time without a result after which pictures are shown that have none.
const RESULTS_MISSED_AFTER: Duration = Duration::from_secs(1);

/// Draws a camera's picture into the bytes of a smaller one of the given layout, RGB or BGR. Allocates nothing for sizes
/// that it has seen before.
pub type Draw = Box<dyn FnMut(&Picture<'_>, &PictureLayout, &mut [u8]) -> Result<(), DrawError>>;

/// Why a picture cannot be drawn.
pub type DrawError = Box<dyn std::error::Error + Send + Sync>;

/// How previews are made.
#[derive(Clone)]
pub struct PreviewPlan {
    /// Most pixels across; the picture keeps its proportions and is never enlarged.
    pub width: u32,
    /// Most pixels down.
    pub height: u32,
    /// `Rgb24` or `Bgr24`.
    pub format: PixelFormat,
    /// Most pictures a second, of each camera.
    pub max_fps: f64,
    /// Slots of each camera's segment.
    pub slots: usize,
    /// Faces that a slot has room for.
    pub max_faces: usize,
    /// Makes what draws, on the preview's own thread.
    pub draw: Arc<dyn Fn() -> Draw + Send + Sync>,
}

impl PreviewPlan {
    /// Slots of a camera's segment: the newest, the next, and two that readers have time for.
    pub const SLOTS: usize = 4;

    /// Slots of the camera's own ring that the preview may hold: a frame that waits and one that is drawn. The ring is made
    /// larger by these, so that a slow preview takes no slot from anybody.
    pub const HELD: usize = 2;

    /// The previews of a camera whose pictures are of this layout.
    pub fn layout_for(&self, camera: &PictureLayout) -> PictureLayout {
        let [width, height] = [f64::from(camera.width), f64::from(camera.height)];
        let scale = (f64::from(self.width) / width).min(f64::from(self.height) / height).min(1.0);
        let [width, height] = [width, height].map(|side| ((side * scale).round() as u32).max(1));
        PictureLayout::packed(width, height, self.format)
    }
}

/// The previews of all cameras.
pub struct PreviewActor {
    plane: Arc<DataPlane>,
    plan: PreviewPlan,
    lifeline: Lifeline,
    work: Option<Work>,
}

struct Work {
    draw: Draw,
    cameras: Vec<View>,
    /// The camera that is asked first next time.
    turn: usize,
}

/// One camera's preview.
struct View {
    frames: MailboxStream<Preview>,
    choice: Choice,
}

/// Which frames of a camera are shown.
#[derive(Debug, Default)]
struct Choice {
    /// The newest that was.
    shown: Option<u64>,
    /// Stamp of the newest frame that had a result.
    result_at: Option<Timestamp>,
    /// Stamp of the next frame that is not too early.
    due: Timestamp,
}

impl Choice {
    /// Whether the next frame is shown, and if not, why.
    fn choose(
        &mut self,
        seq: u64,
        at: Timestamp,
        has_result: bool,
        interval: Duration,
    ) -> Result<(), DropReason> {
        let results_come =
            self.result_at.is_some_and(|before| at.saturating_since(before) < RESULTS_MISSED_AFTER);
        if has_result {
            self.result_at = Some(at);
        } else if results_come {
            return Err(DropReason::Replaced);
        }
        // One without a result had gone before.
        if self.shown.is_some_and(|shown| seq <= shown) {
            return Err(DropReason::Replaced);
        }
        // A quarter of the time is forgiven: cameras are not that even.
        if at + interval / 4 < self.due {
            return Err(DropReason::NotWanted);
        }
        let is_late = at > self.due + interval;
        self.due = if is_late { at } else { self.due } + interval;
        self.shown = Some(seq);
        Ok(())
    }
}

impl PreviewActor {
    /// An actor that makes previews as the plane's plan says.
    pub fn new(plane: Arc<DataPlane>, plan: PreviewPlan, lifeline: Lifeline) -> Self {
        Self { plane, plan, lifeline, work: None }
    }
}

impl Actor for PreviewActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.lifeline.follows_hung() {
            self.plane.retire_preview_rings();
        }
        let cameras = self.plane.cameras.iter();
        let cameras =
            cameras.map(|line| View { frames: line.previews.stream(), choice: Choice::default() }).collect();
        self.work = Some(Work { draw: (self.plan.draw)(), cameras, turn: 0 });
        self.lifeline.started();
        ctx.spawn(DrawLoop);
    }
}

impl Handler<Shutdown> for PreviewActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.work = None;
        self.lifeline.ended();
        ctx.stop();
    }
}

/// Draws for as long as the actor lives, one frame a poll.
struct DrawLoop;

impl ActorFuture<PreviewActor> for DrawLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut PreviewActor,
        ctx: &mut Context<PreviewActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let PreviewActor { plane, plan, lifeline, work, .. } = actor;
        let Some(running) = work else { return Poll::Ready(()) };
        if lifeline.is_abandoned() {
            lifeline.ended();
        } else {
            match lifeline.guard(|| running.draw_next(plane, plan, task)) {
                Some(Ok(true)) => {
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Ok(false)) => return Poll::Pending,
                Some(Err(error)) => lifeline.failed(with_causes(&error)),
                None => {}
            }
        }
        *work = None;
        ctx.terminate();
        Poll::Ready(())
    }
}

impl Work {
    /// Takes one frame of any camera; false when there is none.
    fn draw_next(
        &mut self,
        plane: &DataPlane,
        plan: &PreviewPlan,
        task: &mut TaskContext<'_>,
    ) -> Result<bool, RingError> {
        for _ in 0..self.cameras.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.cameras.len();
            if let Poll::Ready(Some(preview)) = Pin::new(&mut self.cameras[turn].frames).poll_next(task) {
                fault::point("preview:frame");
                self.show(plane, plan, turn, preview)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn show(
        &mut self,
        plane: &DataPlane,
        plan: &PreviewPlan,
        camera: usize,
        preview: Preview,
    ) -> Result<(), RingError> {
        let Preview { frame, result, ticket } = preview;
        let meta = *frame.meta();
        let interval = Duration::from_secs_f64(1.0 / plan.max_fps);
        let choice = &mut self.cameras[camera].choice;
        if let Err(reason) = choice.choose(meta.seq, meta.captured_at, result.is_some(), interval) {
            ticket.dropped(reason);
            return Ok(());
        }
        let picture = frame.picture();
        let layout = plan.layout_for(&picture.layout);
        let id = CameraId(u16::try_from(camera).unwrap_or(u16::MAX));
        let ring = plane.preview_ring_for(id, layout, plan)?;
        // Viewers in this process hold all: they see the next one.
        let Some(mut slot) = ring.try_acquire() else {
            ticket.dropped(DropReason::NoSlot);
            return Ok(());
        };
        let (pixels, area) = slot.areas_mut();
        if let Err(error) = (self.draw)(&picture, &layout, pixels) {
            trace!(camera, seq = meta.seq, %error, "no preview");
            ticket.dropped(DropReason::Undecodable);
            return Ok(());
        }
        let state = result.as_ref().map_or(results::State::NoResult, |named| results::State::Analysed {
            faces: &named.faces,
            participants: &named.update.participants,
        });
        let [of_camera, shown] = [&picture.layout, &layout].map(|layout| [layout.width, layout.height]);
        results::write(area, state, of_camera, shown, plane.clock.now());
        let handle = slot.freeze(meta, layout.max_bytes());
        plane.cameras[camera].shown.send_replace(Some(handle));
        ticket.delivered();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn plan(width: u32, height: u32) -> PreviewPlan {
        PreviewPlan {
            width,
            height,
            format: PixelFormat::Bgr24,
            max_fps: 30.0,
            slots: PreviewPlan::SLOTS,
            max_faces: 1,
            draw: Arc::new(|| Box::new(|_, _, _| Ok(()))),
        }
    }

    #[test]
    fn a_preview_keeps_the_proportions_and_is_never_enlarged() {
        let check = |[w, h]: [u32; 2], expected: [u32; 2]| {
            let layout = plan(960, 540).layout_for(&PictureLayout::packed(w, h, PixelFormat::Yuyv));
            assert_eq!([layout.width, layout.height], expected, "{w}x{h}");
            assert_eq!((layout.format, layout.stride), (PixelFormat::Bgr24, expected[0] * 3));
        };
        check([1280, 720], [960, 540]);
        check([1920, 1080], [960, 540]);
        check([640, 480], [640, 480]);
        check([1280, 960], [720, 540]);
        check([720, 1280], [304, 540]);
        check([16384, 1], [960, 1]);
        check([1, 16384], [1, 540]);
    }

    /// What becomes of frames (seq, milliseconds, has a result): S shown, R replaced, N not wanted.
    #[track_caller]
    fn check(fps: f64, frames: &[(u64, u64, bool)], expected: &str) {
        let mut choice = Choice::default();
        let interval = Duration::from_secs_f64(1.0 / fps);
        let became = frames.iter().map(|&(seq, ms, has_result)| {
            match choice.choose(seq, Timestamp(10_000 * MS + ms * MS), has_result, interval) {
                Ok(()) => 'S',
                Err(DropReason::NotWanted) => 'N',
                Err(_) => 'R',
            }
        });
        assert_eq!(became.collect::<String>(), expected);
    }

    #[test]
    fn while_results_come_pictures_have_one_and_after_that_they_go_on_without() {
        check(30.0, &[(0, 0, false), (1, 33, false), (2, 67, true), (4, 133, false)], "SSSR");
        check(
            30.0,
            &[(0, 0, true), (1, 500, false), (2, 999, false), (3, 1000, false), (4, 1033, false)],
            "SRRSS",
        );
    }

    #[test]
    fn the_order_is_kept_when_a_result_comes_later_than_a_picture_without() {
        check(30.0, &[(5, 0, false), (4, 0, true), (6, 67, true)], "SRS");
    }

    #[test]
    fn a_camera_that_is_faster_than_wanted_is_thinned_out_and_one_that_wavers_is_not() {
        let even = |ms: u64| (0..8).map(|n| (n, n * ms, true)).collect::<Vec<_>>();
        check(30.0, &even(33), "SSSSSSSS");
        check(15.0, &even(33), "SNSNSNSN");
        check(30.0, &[(0, 0, true), (1, 27, true), (2, 72, true), (3, 95, true), (4, 140, true)], "SSSSS");
        check(30.0, &[(0, 0, true), (1, 5000, true), (2, 5033, true), (3, 5040, true)], "SSSN");
    }
}
