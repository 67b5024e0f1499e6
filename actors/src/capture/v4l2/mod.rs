//! V4L2: a real camera, and the list of those that are plugged in.
//!
//! Owns the comparison of what was got with what was asked, and what a driver's stamps and flags mean; `find.rs`
//! chooses the node, `controls.rs` says what is set. Never touches a stream after a fault, never watches for a stall
//! (its caller does), and has no unsafe code: that is in `youquanti-v4l2`.

mod controls;
mod find;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tracing::{debug, info, warn};
use youquanti_models::{Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp};
use youquanti_v4l2::{Device, FourCc, Fraction, Frame, Stream};

pub use controls::{ControlValue, Setting, Usual};
use find::Found;
pub use find::{
    CameraListing, CameraState, ControlListing, FormatListing, SizeListing, list_cameras, locate,
};

use super::{Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource};

/// Which camera, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct V4l2Options {
    /// A name below `/dev/v4l/by-id` or `by-path`, a serial number, a bus address (`usb-0000:00:14.0-1`), a card's
    /// name, or a path (`/dev/video0`). It must fit one camera only, and is looked up each time the camera is opened.
    pub camera: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pixel format.
    pub format: PixelFormat,
    /// Frames a second; `None` leaves it to the driver. A rate within 1 % is not another one.
    pub fps: Option<f64>,
    /// Buffers of the driver, at least 2: how many frames a late caller may be behind.
    pub buffers: u32,
    /// Take a format, size, rate or control other than asked for, instead of [`CaptureError::Setup`].
    pub accept_other: bool,
    /// What the camera is set to before it starts.
    pub controls: Vec<Setting>,
}

impl Default for V4l2Options {
    /// `/dev/video0`, 1280×720 YUYV at 30 a second, 4 buffers; controls stay as they are.
    fn default() -> Self {
        Self {
            camera: "/dev/video0".into(),
            width: 1280,
            height: 720,
            format: PixelFormat::Yuyv,
            fps: Some(30.0),
            buffers: 4,
            accept_other: false,
            controls: Vec::new(),
        }
    }
}

const fn fourcc(format: PixelFormat) -> FourCc {
    FourCc(*match format {
        PixelFormat::Yuyv => b"YUYV",
        PixelFormat::Nv12 => b"NV12",
        PixelFormat::Rgb24 => b"RGB3",
        PixelFormat::Bgr24 => b"BGR3",
        PixelFormat::Grey => b"GREY",
        PixelFormat::Mjpg => b"MJPG",
    })
}

fn letters(fourcc: FourCc) -> String {
    String::from_utf8_lossy(&fourcc.0).trim_end().to_owned()
}

fn rate(interval: Fraction) -> f64 {
    f64::from(interval.denominator) / f64::from(interval.numerator)
}

/// A camera that streams.
pub struct V4l2Source {
    stream: AsyncFd<Stream>,
    info: DeviceInfo,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    last_stamp: Timestamp,
}

impl V4l2Source {
    /// Finds the camera, sets it up and starts it. Blocks for as long as the driver takes. Needs a
    /// tokio runtime with I/O.
    ///
    /// # Errors
    /// [`CaptureError::Disconnected`] if nothing answers to the name, [`CaptureError::Unavailable`] if another program
    /// has it or this user may not open it, [`CaptureError::Setup`] if more than one camera answers or the camera
    /// gives something other than asked, [`CaptureError::Driver`] for any other call that failed.
    pub fn open(options: V4l2Options, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let Found { path, id, capability } = find::find(&options.camera)?;
        let fault = |error| find::fault(&path, error);
        let device = Device::open(&path).map_err(fault)?;
        let accept = |what, asked: String, got: String| {
            if asked != got && options.accept_other {
                warn!(camera = %id, what, asked, got, "the camera gives something other than asked");
            }
            if asked == got || options.accept_other {
                Ok(())
            } else {
                Err(CaptureError::Setup { what, asked, got })
            }
        };
        let (layout, fps) = negotiate(&device, &options, accept, fault)?;
        let controls = device.controls().map_err(fault)?;
        let (steps, lacking) = controls::plan(&options.controls, &controls);
        let refused = controls::set(&device, &steps);
        let stream = device.stream(options.buffers.max(2)).and_then(Stream::registered).map_err(fault)?;
        // Some cameras forget a setting when they start, so what counts is what they have now.
        let now = stream.get_ref().device().controls().map_err(fault)?;
        let (readings, differing) = controls::compare(&steps, &refused, &now);
        for difference in lacking.into_iter().chain(differing) {
            accept("control", difference.asked, difference.got)?;
        }
        let info = DeviceInfo {
            driver: capability.driver,
            name: capability.card,
            id,
            asked: Asked {
                size: Some((options.width, options.height)),
                format: Some(options.format),
                fps: options.fps,
            },
            layout,
            fps: fps.or(options.fps).unwrap_or(30.0),
            stamps: StampSource::DriverFrameEnd,
            stamp_resolution: Duration::from_micros(1),
            pace: Pace::Real,
            is_live: true,
            controls: readings,
        };
        log_set_up(&info, &path, &options, fps);
        Ok(Self { stream, info, path, clock, last_stamp: Timestamp(0) })
    }
}

/// Asks for format, size and rate, and returns what the driver made of it; the rate is `None` where it does not say.
fn negotiate(
    device: &Device,
    options: &V4l2Options,
    accept: impl Fn(&'static str, String, String) -> Result<(), CaptureError>,
    fault: impl Fn(youquanti_v4l2::Error) -> CaptureError,
) -> Result<(PictureLayout, Option<f64>), CaptureError> {
    let asked = fourcc(options.format);
    let got = device.set_format(options.width, options.height, asked).map_err(&fault)?;
    accept("format", letters(asked), letters(got.fourcc))?;
    let refuse = |what, asked: String, got: String| Err(CaptureError::Setup { what, asked, got });
    let Some(format) = PixelFormat::ALL.into_iter().find(|&format| fourcc(format) == got.fourcc) else {
        return refuse(
            "format",
            letters(asked),
            format!("{}, which cannot be read here", letters(got.fourcc)),
        );
    };
    let size = |width, height| format!("{width}x{height}");
    accept("size", size(options.width, options.height), size(got.width, got.height))?;
    if !got.progressive {
        return refuse("field order", "progressive".to_owned(), "interlaced".to_owned());
    }
    let fps = device.set_interval(options.fps.map(interval)).map_err(&fault)?.map(rate);
    if let (Some(asked), Some(got)) = (options.fps, fps)
        && (asked - got).abs() > 0.01 * asked
    {
        accept("fps", asked.to_string(), got.to_string())?;
    }
    let stride = match format {
        PixelFormat::Mjpg => 0,
        format => got.stride.max(format.min_stride(got.width)),
    };
    Ok((PictureLayout { width: got.width, height: got.height, format, stride }, fps))
}

/// One line that says what was asked of a camera and what it gives.
fn log_set_up(info: &DeviceInfo, path: &Path, options: &V4l2Options, fps: Option<f64>) {
    let text = |format: PixelFormat, width: u32, height: u32, fps: Option<f64>| {
        let fps = fps.map_or("unknown".to_owned(), |fps| fps.to_string());
        format!("{} {width}x{height} at {fps} fps", format.name())
    };
    let layout = info.layout;
    let controls: Vec<_> = info.controls.iter().map(|c| format!("{} = {}", c.name, c.got)).collect();
    info!(
        camera = %info.id,
        path = %path.display(),
        asked = text(options.format, options.width, options.height, options.fps),
        got = text(layout.format, layout.width, layout.height, fps),
        stride = layout.stride,
        controls = controls.join(", "),
        "camera set up"
    );
}

/// Thousandths are enough for 29.97, and whole rates stay whole.
fn interval(fps: f64) -> Fraction {
    if fps.fract() == 0.0 {
        Fraction { numerator: 1, denominator: fps as u32 }
    } else {
        Fraction { numerator: 1000, denominator: (fps * 1000.0).round() as u32 }
    }
}

/// The stamp to use and its flags: the driver's if it is of our clock and later than the last one.
///
/// A stamp may be ahead by the time of one frame: a driver may name the moment at which the frame should end. The
/// kernel's test driver does: it makes a picture at once, and stamps it nine tenths of a frame later. The same driver
/// hands a buffer out before it stamps it, so that a fast reader now and then sees the stamp of the buffer's last use,
/// which does not advance.
fn stamp(
    driver: Option<Timestamp>,
    received: Timestamp,
    last: Timestamp,
    period: Duration,
) -> (Timestamp, FrameFlags) {
    match driver {
        None => (received, FrameFlags::STAMP_IS_RECEIPT),
        Some(at) if at <= last || at > received + period => (received, FrameFlags::STAMP_REPLACED),
        Some(at) => (at, FrameFlags::default()),
    }
}

/// What a frame's flags tell of its stamp.
fn stamp_source(flags: FrameFlags) -> StampSource {
    if flags.contains(FrameFlags::STAMP_IS_RECEIPT) {
        StampSource::Receipt
    } else if flags.contains(FrameFlags::STAMP_IS_EXPOSURE_START) {
        StampSource::DriverExposureStart
    } else {
        StampSource::DriverFrameEnd
    }
}

/// Bytes at the end of a JPEG in which its end is looked for, beyond zeros: cameras fill up to whole packets or words.
const JPEG_TAIL: usize = 1024;

/// Whether a JPEG begins and ends as one. A picture cut short on the way decodes to grey below the cut, and no driver
/// says so. The end's mark cannot occur within the picture: there, 0xff is followed by 0 or the number of a restart.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let tail = &bytes[end.saturating_sub(JPEG_TAIL)..end];
    bytes.starts_with(&[0xff, 0xd8]) && tail.windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

/// What was captured of `frame`, which is copied into `slot`.
fn take(
    frame: &Frame<'_>,
    info: &DeviceInfo,
    slot: Option<&mut [u8]>,
    received_at: Timestamp,
    last_stamp: Timestamp,
) -> Captured {
    let layout = info.layout;
    let driver_stamp = frame.monotonic().then_some(Timestamp(frame.stamp.as_nanos() as u64));
    let period = Duration::from_secs_f64(1.0 / info.fps);
    let (captured_at, mut flags) = stamp(driver_stamp, received_at, last_stamp, period);
    if driver_stamp.is_some() && frame.stamped_at_exposure_start() {
        flags = flags.with(FrameFlags::STAMP_IS_EXPOSURE_START);
    }
    let mut bytes_used = 0;
    // Lines that are missing from a raw picture are damage. A JPEG is as long as it is: its ends tell.
    let mut is_whole = layout.format == PixelFormat::Mjpg || frame.bytes_used >= layout.max_bytes();
    match slot {
        Some(slot) => {
            bytes_used = frame.copy_to(slot);
            if layout.format == PixelFormat::Mjpg {
                is_whole = bytes_used == frame.bytes_used && is_whole_jpeg(&slot[..bytes_used]);
            }
        }
        None => flags = flags.with(FrameFlags::NO_SLOT),
    }
    if frame.damaged() || !is_whole {
        flags = flags.with(FrameFlags::DAMAGED);
    }
    // The number is the driver's word on it. The kernel's test driver derives it from the time: a frame that it makes
    // early, after one that took it long, has the number of the one before.
    Captured { driver_seq: frame.sequence, captured_at, received_at, bytes_used, flags }
}

impl CaptureDevice for V4l2Source {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        mut slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        // The driver gets the last buffer back before we wait, not after. Refused once it is offered again with
        // the next frame, and only then is that a failure: reopening would cost far more than one buffer.
        if let Err(error) = self.stream.get_mut().requeue() {
            debug!(camera = self.info.id, %error, "the driver did not take a buffer back");
        }
        loop {
            // EPOLLERR alone, a fault of the stream, wakes nobody who waits to read: it shows as writable.
            let ready = match self.stream.poll_read_ready_mut(cx) {
                Poll::Pending => self.stream.poll_write_ready_mut(cx),
                ready => ready,
            };
            let mut ready = match ready {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(source)) => {
                    return Poll::Ready(Err(CaptureError::Driver { call: "epoll_wait", source }));
                }
                Poll::Ready(Ok(ready)) => ready,
            };
            match ready.get_inner_mut().dequeue() {
                Ok(None) => ready.clear_ready(),
                Ok(Some(frame)) => {
                    let now = self.clock.now();
                    let captured = take(&frame, &self.info, slot.take(), now, self.last_stamp);
                    self.last_stamp = captured.captured_at;
                    self.info.stamps = stamp_source(captured.flags);
                    return Poll::Ready(Ok(captured));
                }
                Err(error) => return Poll::Ready(Err(find::fault(&self.path, error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use youquanti_models::time::FakeClock;

    use super::*;

    #[test]
    fn a_stamp_is_replaced_when_it_cannot_be_right() {
        let now = Timestamp(200);
        let stamp =
            |driver: Option<u64>| stamp(driver.map(Timestamp), now, Timestamp(100), Duration::from_nanos(40));
        assert_eq!(stamp(Some(150)), (Timestamp(150), FrameFlags::default()));
        assert_eq!(stamp(Some(240)), (Timestamp(240), FrameFlags::default()));
        assert_eq!(stamp(Some(241)), (now, FrameFlags::STAMP_REPLACED));
        assert_eq!(stamp(Some(100)), (now, FrameFlags::STAMP_REPLACED));
        assert_eq!(stamp(None), (now, FrameFlags::STAMP_IS_RECEIPT));
    }

    #[test]
    fn a_jpeg_has_both_its_ends() {
        let check = |bytes: &[u8], expected| assert_eq!(is_whole_jpeg(bytes), expected, "{bytes:02x?}");
        check(&[0xff, 0xd8, 1, 2, 0xff, 0xd9], true);
        check(&[&[0xff, 0xd8, 1, 2, 0xff, 0xd9][..], &[0; 5000]].concat(), true);
        check(&[&[0xff, 0xd8, 1, 2, 0xff, 0xd9][..], &[0xff; 15]].concat(), true);
        check(&[&[0xff, 0xd8, 0xff, 0xd9][..], &[7; JPEG_TAIL]].concat(), false);
        check(&[0xff, 0xd8, 1, 2, 0xff, 0], false);
        check(&[1, 2, 3, 0xff, 0xd9], false);
        check(&[0xff, 0xd8], false);
        check(&[0; 64], false);
        check(&[], false);
    }

    #[test]
    fn rates_become_intervals_and_back() {
        for fps in [1.0, 7.5, 29.97, 30.0, 59.94, 120.0] {
            assert!((rate(interval(fps)) - fps).abs() < 1e-9, "{fps}");
        }
    }

    #[tokio::test]
    async fn a_missing_camera_is_disconnected_and_a_wrong_node_is_no_camera() {
        let open = |camera: &str| {
            let options = V4l2Options { camera: camera.into(), ..V4l2Options::default() };
            V4l2Source::open(options, Arc::new(FakeClock::default())).err().unwrap()
        };
        assert!(matches!(open("/dev/video-none"), CaptureError::Disconnected { .. }));
        assert!(matches!(open("no such card"), CaptureError::Disconnected { source: None, .. }));
        assert!(matches!(open("/dev/null"), CaptureError::Driver { call: "VIDIOC_QUERYCAP", .. }));
    }
}
