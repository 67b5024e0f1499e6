//! Capture: where pictures come from. One trait, and a source for each kind of camera.
//!
//! Owns the open device, its pacing and its stamps. Never owns a frame's memory: the caller lends a
//! slot, the source fills it, and that is the only time the pixels are written. Never retries,
//! never restarts: an error says what happened, the supervisor decides.

pub mod faulty;
pub mod file;
pub mod replay;
pub mod scene;
pub mod v4l2;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Sleep};
use youquanti_models::{Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp};

/// A camera, real or not, that is open and streams.
///
/// Opened, polled and dropped on the camera's own thread, inside a tokio runtime with I/O and time
/// switched on; not `Send`.
pub trait CaptureDevice {
    /// Size, format and stride of every frame. Fixed while the device is open.
    fn layout(&self) -> PictureLayout {
        self.describe().layout
    }

    /// What was opened, what was asked of it and what it gives.
    fn describe(&self) -> &DeviceInfo;

    /// Completes when one frame is in `slot`, or, without a slot, was captured and thrown away.
    ///
    /// **The slot while a frame is on its way.** `slot` has at least `layout().max_bytes()` bytes. A
    /// source may fill it over several polls, so a caller that got `Pending` passes the same slot
    /// again until `Ready`. What was begun decides: a frame that began without a slot is thrown away
    /// even if a later poll brings one (that slot is left alone, and serves the next frame); a frame
    /// whose slot is taken away before `Ready` is thrown away too. Either way the frame completes
    /// with [`FrameFlags::NO_SLOT`] and `bytes_used` 0. After an error the slot's bytes mean nothing.
    ///
    /// **Waking.** On `Pending` the task of `cx` is woken when there is more to do. A source that
    /// runs faster than a clock ([`Pace::Fast`], [`Pace::Lossless`]) may be ready every time: the
    /// caller decides how many frames it takes before it looks at its control messages.
    ///
    /// **After an error** of the kind [`CaptureError::TimedOut`] polling may go on; after any other
    /// the device is of no more use, is dropped, and may be opened again.
    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>>;
}

/// One captured frame, without its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The source's own counter since it was opened, wrapping at 2³². A jump is a frame lost before
    /// it reached us: by the driver, or by a paced source that was polled too late.
    pub driver_seq: u32,
    /// The source's stamp, `CLOCK_MONOTONIC`. [`Pace`] and `flags` say what it means.
    pub captured_at: Timestamp,
    /// When the whole frame had reached this process.
    pub received_at: Timestamp,
    /// Bytes of the slot that hold the picture; 0 if it was thrown away.
    pub bytes_used: usize,
    /// See [`FrameFlags`].
    pub flags: FrameFlags,
}

/// What drives a source that has no clock of its own (scene, file).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// By the clock, like a real camera: frame n is due, and stamped, at start + n/fps. Frames that
    /// nobody polled for in time are skipped, and `driver_seq` jumps.
    #[default]
    Real,
    /// Every frame, as fast as slots come free; stamped with the time of its making. The caller
    /// waits for a slot rather than polling without one.
    Fast,
    /// Every frame, none lost, whatever the time: the caller waits for a slot and for room at every
    /// consumer. Both stamps are start + n/fps, so two runs agree.
    Lossless,
}

/// What was opened, for logs, files and people.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Driver or program behind it: `uvcvideo`, `scene`, `ffmpeg`.
    pub driver: String,
    /// What people call it: the card's name, the file.
    pub name: String,
    /// Stable identity: by-id name or bus address of a camera, path or address of a file.
    pub id: String,
    /// What the options asked for; `None` left it to the source.
    pub asked: Asked,
    /// What the source gives.
    pub layout: PictureLayout,
    /// Frames a second as the source declares them; more than 0.
    pub fps: f64,
    /// Where `captured_at` comes from; of a camera known from its first frame on.
    pub stamps: StampSource,
    /// Steps in which stamps advance.
    pub stamp_resolution: Duration,
    /// Who paces the source; [`Pace::Real`] for a camera.
    pub pace: Pace,
    /// Whether frames come whether or not anybody asks for them, as those of a camera do. Until the session's
    /// barrier opens they are taken and thrown away, so that the first frame that counts is a fresh one.
    pub is_live: bool,
    /// Controls as they were read back when the device was opened.
    pub controls: Vec<ControlReading>,
}

/// A control of a camera: what was asked for, and what the driver has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlReading {
    /// The driver's name in lower case with underscores: `exposure_time_absolute`.
    pub name: String,
    /// What the configuration asked for, if it did.
    pub asked: Option<String>,
    /// What was read back: a number, or the text of a menu's entry.
    pub got: String,
}

/// What was asked of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// Width and height, pixels.
    pub size: Option<(u32, u32)>,
    /// Pixel format.
    pub format: Option<PixelFormat>,
    /// Frames a second.
    pub fps: Option<f64>,
}

/// Where the stamps of a device's frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampSource {
    /// The driver, `CLOCK_MONOTONIC`, when the exposure began.
    DriverExposureStart,
    /// The driver, `CLOCK_MONOTONIC`, when the frame had been received from the sensor.
    DriverFrameEnd,
    /// The source computes them: see [`Pace`].
    Computed,
    /// None: `captured_at` is the time of receipt.
    Receipt,
}

impl StampSource {
    /// Clock and instant of the stamps, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            StampSource::DriverExposureStart => "driver, CLOCK_MONOTONIC, start of exposure",
            StampSource::DriverFrameEnd => "driver, CLOCK_MONOTONIC, end of frame",
            StampSource::Computed => "computed, start + n/fps",
            StampSource::Receipt => "receipt by this program",
        }
    }
}

/// Why no frame came. The variant says what a supervisor may do about it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A file came to its normal end: nothing to repair, do not restart.
    #[error("ended after {frames} frames{}", .note.as_deref().map(|n| format!(": {n}")).unwrap_or_default())]
    Ended {
        /// Whole frames since it was opened, skipped ones included.
        frames: u64,
        /// What the decoder complained of, such as a truncated file.
        note: Option<String>,
    },
    /// The device is gone, or nothing answers to its name. It may come back: reopen later.
    #[error("{device} is not connected")]
    Disconnected {
        /// Name, path or address.
        device: String,
        /// The system's word on it, if there is one.
        source: Option<io::Error>,
    },
    /// The device is there and cannot be had now: another program has it, or this user may not open it.
    /// Reopening may help.
    #[error("{device} {why}")]
    Unavailable {
        /// Name, path or address.
        device: String,
        /// What is wrong and what to do: `is in use by cheese (process 812)`.
        why: String,
    },
    /// A call failed. Reopening may help.
    #[error("{call} failed")]
    Driver {
        /// Driver call or program.
        call: &'static str,
        /// The system's or the program's word on it.
        source: io::Error,
    },
    /// No frame for this long. The device is left alone: poll on, or reopen.
    #[error("no frame within {after:?}")]
    TimedOut {
        /// The options' limit.
        after: Duration,
    },
    /// The source cannot do what was asked. Reopening does not help, other options do.
    #[error("{what}: asked for {asked}, got {got}")]
    Setup {
        /// What was asked: `size`, `format`, `fps`, `camera`, `ffmpeg`, …
        what: &'static str,
        /// As in the options.
        asked: String,
        /// As the source has it, or what is wrong.
        got: String,
    },
}

/// Frames that a paced source holds back for a late caller, as a driver's buffers would.
const BUFFERED_FRAMES: u64 = 3;

/// Says which frame of a source without a clock is next, when it is due, and how it is stamped.
pub(crate) struct Pacer {
    pace: Pace,
    fps: f64,
    clock: Arc<dyn Clock>,
    /// Stamp of frame 0; set by the first poll unless the options did.
    start: Option<Timestamp>,
    next: u64,
    timer: Pin<Box<Sleep>>,
}

impl Pacer {
    /// Needs a tokio runtime with time. `fps` is more than 0.
    pub(crate) fn new(pace: Pace, fps: f64, start: Option<Timestamp>, clock: Arc<dyn Clock>) -> Self {
        Self { pace, fps, clock, start, next: 0, timer: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Completes with the index of the frame to make now; each index is given at most once, in order.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        let start = *self.start.get_or_insert_with(|| self.clock.now());
        if self.pace == Pace::Real {
            loop {
                let now = self.clock.now();
                let due = self.due(start, self.next);
                if due <= now {
                    let periods_late = (now.saturating_since(due).as_secs_f64() * self.fps) as u64;
                    self.next += periods_late.saturating_sub(BUFFERED_FRAMES - 1);
                    break;
                }
                self.timer.as_mut().reset(Instant::now() + due.saturating_since(now));
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        }
        self.next += 1;
        Poll::Ready(self.next - 1)
    }

    /// The stamp of frame `index`, taken when its making begins.
    pub(crate) fn captured_at(&self, index: u64) -> Timestamp {
        match (self.pace, self.start) {
            (Pace::Real | Pace::Lossless, Some(start)) => self.due(start, index),
            _ => self.clock.now(),
        }
    }

    /// The time of receipt of a frame stamped `captured_at`, taken when it is complete.
    pub(crate) fn received_at(&self, captured_at: Timestamp) -> Timestamp {
        if self.pace == Pace::Lossless { captured_at } else { self.clock.now() }
    }

    fn due(&self, start: Timestamp, index: u64) -> Timestamp {
        Timestamp(start.0 + (index as f64 * 1e9 / self.fps).round() as u64)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::future::poll_fn;

    use youquanti_models::UtcNanos;

    use super::*;

    /// The clock of the tokio runtime, which a test can pause. Starts at one second.
    pub(crate) struct TokioClock(Instant);

    impl Default for TokioClock {
        fn default() -> Self {
            Self(Instant::now())
        }
    }

    impl Clock for TokioClock {
        fn now(&self) -> Timestamp {
            Timestamp(1_000_000_000) + self.0.elapsed()
        }

        fn utc(&self) -> UtcNanos {
            UtcNanos(0)
        }
    }

    /// One frame, the way a camera actor takes it: the same slot in every poll.
    pub(crate) async fn capture(
        device: &mut impl CaptureDevice,
        mut slot: Option<&mut [u8]>,
    ) -> Result<Captured, CaptureError> {
        poll_fn(|cx| device.poll_capture(cx, slot.as_deref_mut())).await
    }
}
