//! Measures how far a camera's stamps are from the light: films the coded screen and has the offset estimated.
//!
//! Owns the open camera and the series of its brightness. Never shows the code itself (the command line does, or another
//! program that knows [`code`]), and keeps nothing: [`crate::offsets`] does.

mod luma;

use std::fs;
use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use youquanti_actors::calibration::estimate::{self, Estimate, EstimateError, Parts};
use youquanti_actors::calibration::{KnownOffset, code};
use youquanti_actors::capture::{CaptureDevice, CaptureError, DeviceInfo, Pace};
use youquanti_config::CameraConfig;
use youquanti_models::{Clock, FrameFlags, Picture, Timestamp, UtcNanos};

use crate::offsets::StoredOffset;
use crate::wiring;

/// Why a camera cannot be filmed with.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The device cannot be opened or read.
    #[error("camera \"{camera}\" cannot be used")]
    Capture {
        /// Its name.
        camera: String,
        /// What happened.
        source: CaptureError,
    },
    /// The source has no clock that could be compared with anything.
    #[error("camera \"{camera}\" does not run in real time: set pace = \"real\", or choose a real camera")]
    NotLive {
        /// Its name.
        camera: String,
    },
    /// The system refuses what capture needs.
    #[error("capture cannot be set up")]
    Runtime(#[source] io::Error),
}

/// How far a film is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Time filmed.
    pub elapsed: Duration,
    /// Frames that count.
    pub frames: usize,
    /// White minus black in the last seconds, levels of 255.
    pub contrast: f64,
    /// Changes that the screen has made.
    pub changes: usize,
}

/// A camera that is open and streams.
pub struct Camera {
    name: String,
    // Dropped before the runtime that it is registered with.
    device: Box<dyn CaptureDevice>,
    runtime: Runtime,
    clock: Arc<dyn Clock>,
}

/// How long the camera is waited for before signals are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// Frames that the contrast is told of.
const CONTRAST_FRAMES: usize = 300;

impl Camera {
    /// Opens a camera of a configuration, as a session would.
    ///
    /// # Errors
    /// When it cannot be opened, or does not run in real time.
    pub fn open(config: &CameraConfig, clock: Arc<dyn Clock>) -> Result<Self, CalibrateError> {
        let name = config.name.to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CalibrateError::Runtime)?;
        let device = {
            let _context = runtime.enter();
            (wiring::camera(config).open)(Arc::clone(&clock))
                .map_err(|source| CalibrateError::Capture { camera: name.clone(), source })?
        };
        if device.describe().pace != Pace::Real {
            return Err(CalibrateError::NotLive { camera: name });
        }
        Ok(Self { name, device, runtime, clock })
    }

    /// What was opened.
    pub fn describe(&self) -> &DeviceInfo {
        self.device.describe()
    }

    /// Films for `duration`, or until the source ends; `None` when `on_progress` broke it off. It is asked several times a
    /// second, with figures once a second. Damaged frames and those whose stamp was replaced are left out and counted.
    ///
    /// # Errors
    /// When the camera fails.
    pub fn film(
        &mut self,
        duration: Duration,
        mut on_progress: impl FnMut(Option<Progress>) -> ControlFlow<()>,
    ) -> Result<Option<Film>, CalibrateError> {
        let layout = self.device.layout();
        let mut slot = vec![0; layout.max_bytes()];
        let mut meter = luma::Meter::default();
        let mut film = Film { frames: Vec::new(), left_out: 0 };
        let began = self.clock.now();
        let mut told = began;
        loop {
            let now = self.clock.now();
            let is_due = now.saturating_since(told) >= PROGRESS;
            if is_due {
                told = now;
            }
            if on_progress(is_due.then(|| film.progress(began, now))).is_break() {
                return Ok(None);
            }
            if now.saturating_since(began) >= duration {
                return Ok(Some(film));
            }
            let device = &mut self.device;
            let frame = poll_fn(|cx| device.poll_capture(cx, Some(&mut slot)));
            let captured = match self.runtime.block_on(async { tokio::time::timeout(GLANCE, frame).await }) {
                Err(_nothing_yet) => continue,
                Ok(Ok(captured)) => captured,
                Ok(Err(CaptureError::Ended { .. })) => return Ok(Some(film)),
                Ok(Err(source)) => {
                    return Err(CalibrateError::Capture { camera: self.name.clone(), source });
                }
            };
            let is_sound = !captured.flags.contains(FrameFlags::DAMAGED)
                && !captured.flags.contains(FrameFlags::STAMP_REPLACED)
                && film.frames.last().is_none_or(|&(before, _)| captured.captured_at > before);
            let picture = Picture { layout, bytes: &slot[..captured.bytes_used] };
            match is_sound.then(|| meter.parts(&picture)).flatten() {
                Some(parts) => film.frames.push((captured.captured_at, parts)),
                None => film.left_out += 1,
            }
        }
    }
}

/// What a camera saw of the screen.
#[derive(Clone, Debug)]
pub struct Film {
    frames: Vec<(Timestamp, Parts)>,
    /// Frames that were damaged, or whose stamp was not the device's own.
    pub left_out: usize,
}

impl Film {
    fn progress(&self, began: Timestamp, now: Timestamp) -> Progress {
        let last = &self.frames[self.frames.len().saturating_sub(CONTRAST_FRAMES)..];
        let changes =
            std::iter::successors(Some(code::next_change(began)), |&at| Some(code::next_change(at)));
        Progress {
            elapsed: now.saturating_since(began),
            frames: self.frames.len(),
            contrast: estimate::contrast(&estimate::flashing_part(last)),
            changes: changes.take_while(|&change| change < now).count(),
        }
    }

    /// Writes what the estimate is made from as CSV, a line for each frame: its stamp, nanoseconds of the monotonic clock, and
    /// the mean luminance, 0 to 255, of the part of the picture that flashes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut text = String::from("stamp_ns,luma\n");
        for sample in estimate::flashing_part(&self.frames) {
            text.push_str(&format!("{},{:.2}\n", sample.stamp.0, sample.luma));
        }
        fs::write(path, text)
    }

    /// The offset: stamp minus the middle of the exposure, the screen's own delay included.
    ///
    /// # Errors
    /// When the code is not to be found in the film.
    pub fn estimate(&self, measured_at: UtcNanos) -> Result<Estimate, EstimateError> {
        estimate::estimate(&estimate::flashing_part(&self.frames), measured_at)
    }
}

/// What is to be stored of an estimate: for this device in this mode, without the screen's own delay where that is known.
pub fn to_store(info: &DeviceInfo, estimate: &Estimate, screen_delay: Option<Duration>) -> StoredOffset {
    let delay_s = screen_delay.unwrap_or_default().as_secs_f64();
    let mut offset = estimate.offset;
    for figure in [&mut offset.mean_s, &mut offset.median_s, &mut offset.p05_s, &mut offset.p95_s] {
        *figure -= delay_s;
    }
    StoredOffset {
        known: KnownOffset {
            device: info.id.clone(),
            width: info.layout.width,
            height: info.layout.height,
            format: info.layout.format,
            fps: info.fps,
            offset,
        },
        standard_error_s: estimate.standard_error_s,
        exposure_s: estimate.exposure_s,
        exposure_error_s: Some(estimate.exposure_error_s),
        screen_delay_s: screen_delay.map(|delay| delay.as_secs_f64()),
    }
}
