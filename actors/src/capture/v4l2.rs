//! V4L2: a real camera, and the list of those that are plugged in.
//!
//! Owns the choice of a node, the comparison of what was got with what was asked, and what a driver's
//! stamps and flags mean. Never touches a stream after a fault, and has no unsafe code: that is in
//! `youquanti-v4l2`.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep};
use youquanti_models::{Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp};
use youquanti_v4l2::{Device, FourCc, Fraction, Frame, FrameInterval, FrameSize, Stream};

use super::{Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource};

/// Which camera, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct V4l2Options {
    /// A path (`/dev/video0`), a name below `/dev/v4l/by-id`, a serial number, a bus address
    /// (`usb-0000:00:14.0-1`) or a card's name. It must fit one camera only.
    pub camera: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pixel format.
    pub format: PixelFormat,
    /// Frames a second; `None` leaves it to the driver. A driver that gives another rate (by more
    /// than 1 %) is an error.
    pub fps: Option<f64>,
    /// Buffers of the driver, at least 2: how many frames a late caller may be behind.
    pub buffers: u32,
    /// Time without a frame after which [`CaptureError::TimedOut`] is returned, once each time.
    pub timeout: Duration,
}

impl Default for V4l2Options {
    /// `/dev/video0`, 1280×720 YUYV at 30 a second, 4 buffers, 2 s.
    fn default() -> Self {
        Self {
            camera: "/dev/video0".into(),
            width: 1280,
            height: 720,
            format: PixelFormat::Yuyv,
            fps: Some(30.0),
            buffers: 4,
            timeout: Duration::from_secs(2),
        }
    }
}

/// A camera node that captures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraListing {
    /// Stable over restarts, and usable as [`V4l2Options::camera`]: the by-id name, or else the bus address.
    pub id: String,
    /// The card's name.
    pub name: String,
    /// The driver's name.
    pub driver: String,
    /// Where it is plugged in.
    pub bus: String,
    /// Serial number of a USB camera.
    pub serial: Option<String>,
    /// The node now; may be another one after the next start.
    pub path: PathBuf,
    /// What it offers.
    pub formats: Vec<FormatListing>,
}

/// A pixel format that a camera offers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FormatListing {
    /// The driver's four letters.
    pub fourcc: String,
    /// The same as a format that can be asked for, if it is one.
    #[serde(serialize_with = "format_name")]
    pub format: Option<PixelFormat>,
    /// Its sizes. Of a range the usual ones.
    pub sizes: Vec<SizeListing>,
}

/// A size that a camera offers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeListing {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames a second, highest first. Of a range its ends.
    pub rates: Vec<f64>,
}

/// Sizes that are listed of a range.
const USUAL_SIZES: [(u32, u32); 6] =
    [(320, 240), (640, 360), (640, 480), (1280, 720), (1920, 1080), (3840, 2160)];

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

/// Every camera that is plugged in, by node. Nodes that do not capture, or cannot be opened, are left out.
pub fn list_cameras() -> Vec<CameraListing> {
    nodes()
        .into_iter()
        .filter_map(|node| {
            let device = Device::open(&node.path).ok()?;
            let formats = device.formats().unwrap_or_default();
            Some(CameraListing {
                id: node.by_id.first().unwrap_or(&node.bus).clone(),
                name: node.card,
                driver: node.driver,
                bus: node.bus,
                serial: node.serial,
                path: node.path,
                formats: formats.into_iter().map(|fourcc| list_format(&device, fourcc)).collect(),
            })
        })
        .collect()
}

fn format_name<S: serde::Serializer>(format: &Option<PixelFormat>, serializer: S) -> Result<S::Ok, S::Error> {
    format.map(PixelFormat::name).serialize(serializer)
}

/// The node that a configuration's `camera` means now, without opening a stream.
///
/// # Errors
/// [`CaptureError::Disconnected`] when nothing that captures answers to it, [`CaptureError::Setup`] when
/// several do.
pub fn locate(camera: &str) -> Result<PathBuf, CaptureError> {
    let nodes = nodes();
    let path = find(camera, &nodes)?;
    let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    if nodes.iter().any(|node| node.path == target) {
        Ok(path)
    } else {
        Err(CaptureError::Disconnected { device: format!("camera {camera}"), source: None })
    }
}

fn list_format(device: &Device, code: FourCc) -> FormatListing {
    let offered = device.frame_sizes(code).unwrap_or_default().into_iter().flat_map(usual_sizes);
    let sizes = offered.map(|(width, height)| {
        let intervals = device.frame_intervals(code, width, height).unwrap_or_default();
        let mut rates: Vec<f64> = intervals
            .into_iter()
            .flat_map(|interval| match interval {
                FrameInterval::One(f) => vec![rate(f)],
                FrameInterval::Range(shortest, longest) => vec![rate(shortest), rate(longest)],
            })
            .filter(|r| r.is_finite() && *r > 0.0)
            .collect();
        rates.sort_by(|a, b| b.total_cmp(a));
        SizeListing { width, height, rates }
    });
    FormatListing {
        fourcc: letters(code),
        format: PixelFormat::ALL.into_iter().find(|&f| fourcc(f) == code),
        sizes: sizes.collect(),
    }
}

fn usual_sizes(size: FrameSize) -> Vec<(u32, u32)> {
    match size {
        FrameSize::One(width, height) => vec![(width, height)],
        FrameSize::Range { min, max, step } => {
            let fits = |v: u32, min: u32, max: u32, step: u32| {
                (min..=max).contains(&v) && (v - min).is_multiple_of(step.max(1))
            };
            USUAL_SIZES
                .into_iter()
                .filter(|s| fits(s.0, min.0, max.0, step.0) && fits(s.1, min.1, max.1, step.1))
                .collect()
        }
    }
}

fn rate(interval: Fraction) -> f64 {
    f64::from(interval.denominator) / f64::from(interval.numerator)
}

/// A node that captures, and the names it goes by.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    path: PathBuf,
    by_id: Vec<String>,
    serial: Option<String>,
    bus: String,
    card: String,
    driver: String,
}

impl Node {
    fn answers_to(&self, name: &str) -> bool {
        self.path == Path::new(name)
            || self.by_id.iter().any(|id| id == name)
            || self.serial.as_deref() == Some(name)
            || self.bus == name
            || self.card == name
    }
}

fn nodes() -> Vec<Node> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let mut numbers: Vec<u32> =
        names("/dev").iter().filter_map(|n| n.strip_prefix("video")?.parse().ok()).collect();
    numbers.sort_unstable();
    let mut by_id: Vec<(String, PathBuf)> = names("/dev/v4l/by-id")
        .into_iter()
        .filter_map(|name| {
            let target = fs::canonicalize(Path::new("/dev/v4l/by-id").join(&name)).ok()?;
            Some((name, target))
        })
        .collect();
    by_id.sort();
    numbers
        .into_iter()
        .filter_map(|number| {
            let path = PathBuf::from(format!("/dev/video{number}"));
            let capability = Device::open(&path).and_then(|d| d.capability()).ok()?;
            capability.captures().then(|| Node {
                by_id: by_id.iter().filter(|(_, t)| *t == path).map(|(name, _)| name.clone()).collect(),
                serial: usb_serial(number),
                bus: capability.bus,
                card: capability.card,
                driver: capability.driver,
                path,
            })
        })
        .collect()
}

/// The USB device is the parent of the interface that the node belongs to.
fn usb_serial(number: u32) -> Option<String> {
    let interface = fs::canonicalize(format!("/sys/class/video4linux/video{number}/device")).ok()?;
    let serial = fs::read_to_string(interface.parent()?.join("serial")).ok()?;
    Some(serial.trim().to_owned()).filter(|s| !s.is_empty())
}

/// The one node that answers to `name`. A path is taken as it is, so that its own error shows.
fn find(name: &str, nodes: &[Node]) -> Result<PathBuf, CaptureError> {
    if name.starts_with('/') {
        return Ok(name.into());
    }
    let fitting: Vec<&Node> = nodes.iter().filter(|n| n.answers_to(name)).collect();
    match fitting[..] {
        [] => Err(CaptureError::Disconnected { device: format!("camera {name}"), source: None }),
        [node] => Ok(node.path.clone()),
        _ => {
            let paths: Vec<String> = fitting.iter().map(|n| n.path.display().to_string()).collect();
            Err(CaptureError::Setup {
                what: "camera",
                asked: name.into(),
                got: format!("{} that answer to it: {}", paths.len(), paths.join(", ")),
            })
        }
    }
}

/// A camera that streams.
pub struct V4l2Source {
    stream: AsyncFd<Stream>,
    info: DeviceInfo,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    last_stamp: Timestamp,
}

impl V4l2Source {
    /// Finds the camera, sets it up and starts it. Blocks for as long as the driver takes. Needs a
    /// tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`CaptureError::Disconnected`] if nothing answers to the name, [`CaptureError::Setup`] if more
    /// than one does or the camera gives something other than asked, [`CaptureError::Driver`] for a
    /// call that failed (EACCES, EBUSY, …).
    pub fn open(options: V4l2Options, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let path = find(&options.camera, &nodes())?;
        let fault = |error| classify(&path, error);
        let device = Device::open(&path).map_err(fault)?;
        let capability = device.capability().map_err(fault)?;
        if !capability.captures() {
            return Err(CaptureError::Setup {
                what: "camera",
                asked: options.camera,
                got: "a node that does not capture single-plane pictures".into(),
            });
        }
        let code = fourcc(options.format);
        let got = device.set_format(options.width, options.height, code).map_err(fault)?;
        let compare = |what, asked: String, got: String| {
            if asked == got { Ok(()) } else { Err(CaptureError::Setup { what, asked, got }) }
        };
        compare("format", letters(code), letters(got.fourcc))?;
        let size = |width, height| format!("{width}x{height}");
        compare("size", size(options.width, options.height), size(got.width, got.height))?;
        if !got.progressive {
            compare("field order", "progressive".into(), "interlaced".into())?;
        }
        let interval = options.fps.map(interval);
        let fps = device.set_interval(interval).map_err(fault)?.map(rate).or(options.fps);
        if let (Some(asked), Some(got)) = (options.fps, fps)
            && (asked - got).abs() > 0.01 * asked
        {
            compare("fps", asked.to_string(), got.to_string())?;
        }
        let stride = match options.format {
            PixelFormat::Mjpg => 0,
            format => got.stride.max(format.min_stride(got.width)),
        };
        let layout = PictureLayout { width: got.width, height: got.height, format: options.format, stride };
        let stream = device.stream(options.buffers.max(2)).and_then(Stream::registered).map_err(fault)?;
        let info = DeviceInfo {
            driver: capability.driver,
            name: capability.card,
            id: options.camera,
            asked: Asked {
                size: Some((options.width, options.height)),
                format: Some(options.format),
                fps: options.fps,
            },
            layout,
            fps: fps.unwrap_or(30.0),
            stamps: StampSource::DriverFrameEnd,
            stamp_resolution: Duration::from_micros(1),
            pace: Pace::Real,
        };
        Ok(Self {
            stream,
            info,
            clock,
            timeout: options.timeout,
            deadline: Box::pin(tokio::time::sleep(options.timeout)),
            last_stamp: Timestamp(0),
        })
    }
}

/// Thousandths are enough for 29.97, and whole rates stay whole.
fn interval(fps: f64) -> Fraction {
    if fps.fract() == 0.0 {
        Fraction { numerator: 1, denominator: fps as u32 }
    } else {
        Fraction { numerator: 1000, denominator: (fps * 1000.0).round() as u32 }
    }
}

fn classify(path: &Path, error: youquanti_v4l2::Error) -> CaptureError {
    match Errno::from_io_error(&error.source) {
        Some(Errno::NODEV | Errno::NXIO | Errno::NOENT) => {
            CaptureError::Disconnected { device: path.display().to_string(), source: Some(error.source) }
        }
        _ => CaptureError::Driver { call: error.call, source: error.source },
    }
}

/// The stamp to use and its flags: the driver's if it is of our clock and later than the last one.
/// A stamp may be ahead by the time of one frame: some drivers name the moment at which the frame should end.
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
    let bytes_used = match slot {
        Some(slot) => frame.copy_to(slot),
        None => {
            flags = flags.with(FrameFlags::NO_SLOT);
            0
        }
    };
    // A JPEG is as long as it is; lines that are missing from a raw picture are damage.
    let whole = match layout.format {
        PixelFormat::Mjpg => frame.bytes_used > 0 && (bytes_used == frame.bytes_used || bytes_used == 0),
        _ => frame.bytes_used >= layout.max_bytes(),
    };
    if frame.damaged() || !whole {
        flags = flags.with(FrameFlags::DAMAGED);
    }
    Captured { driver_seq: frame.sequence, captured_at, received_at, bytes_used, flags }
}

impl CaptureDevice for V4l2Source {
    fn layout(&self) -> PictureLayout {
        self.info.layout
    }

    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        mut slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        let device = Path::new(&self.info.id);
        // The driver gets the last buffer back before we wait, not after.
        if let Err(error) = self.stream.get_mut().requeue() {
            return Poll::Ready(Err(classify(device, error)));
        }
        loop {
            // EPOLLERR alone, a fault of the stream, wakes nobody who waits to read: it shows as writable.
            let ready = match self.stream.poll_read_ready_mut(cx) {
                Poll::Pending => self.stream.poll_write_ready_mut(cx),
                ready => ready,
            };
            let mut ready = match ready {
                Poll::Pending => break,
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
                    self.deadline.as_mut().reset(Instant::now() + self.timeout);
                    return Poll::Ready(Ok(captured));
                }
                Err(error) => return Poll::Ready(Err(classify(device, error))),
            }
        }
        if self.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.deadline.as_mut().reset(Instant::now() + self.timeout);
        Poll::Ready(Err(CaptureError::TimedOut { after: self.timeout }))
    }
}

#[cfg(test)]
mod tests {
    use youquanti_models::time::FakeClock;

    use super::*;

    fn node(path: &str, bus: &str, card: &str) -> Node {
        Node {
            path: path.into(),
            by_id: vec![format!("usb-{card}-index0")],
            serial: Some(format!("serial-{path}")),
            bus: bus.into(),
            card: card.into(),
            driver: "uvcvideo".into(),
        }
    }

    #[track_caller]
    fn check_found(name: &str, expected: Result<&str, &str>) {
        let nodes = [node("/dev/video0", "usb-1", "left"), node("/dev/video2", "usb-2", "twin"), {
            Node { by_id: vec!["usb-other".into()], ..node("/dev/video4", "usb-3", "twin") }
        }];
        let found = find(name, &nodes).map_err(|e| e.to_string());
        assert_eq!(found, expected.map(PathBuf::from).map_err(str::to_owned));
    }

    #[test]
    fn a_camera_answers_to_all_its_names() {
        check_found("usb-1", Ok("/dev/video0"));
        check_found("left", Ok("/dev/video0"));
        check_found("usb-twin-index0", Ok("/dev/video2"));
        check_found("serial-/dev/video4", Ok("/dev/video4"));
        check_found("/dev/video9", Ok("/dev/video9"));
        check_found("right", Err("camera right is not connected"));
        check_found("twin", Err("camera: asked for twin, got 2 that answer to it: /dev/video2, /dev/video4"));
    }

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
    fn rates_become_intervals_and_back() {
        for fps in [1.0, 7.5, 29.97, 30.0, 59.94, 120.0] {
            assert!((rate(interval(fps)) - fps).abs() < 1e-9, "{fps}");
        }
    }

    #[test]
    fn of_a_range_the_usual_sizes_are_listed() {
        let range = |step| FrameSize::Range { min: (320, 180), max: (1920, 1080), step: (step, step) };
        assert_eq!(usual_sizes(FrameSize::One(800, 600)), [(800, 600)]);
        assert_eq!(usual_sizes(range(1)), USUAL_SIZES[..5]);
        assert_eq!(usual_sizes(range(180)), [(1280 - 780, 720)][..0]);
        assert_eq!(usual_sizes(range(0)), USUAL_SIZES[..5], "a driver that leaves the step out");
    }

    #[tokio::test]
    async fn a_missing_camera_is_disconnected_and_a_wrong_node_is_no_camera() {
        let open = |camera: &str| {
            let options = V4l2Options { camera: camera.into(), ..V4l2Options::default() };
            V4l2Source::open(options, Arc::new(FakeClock::default())).err().unwrap()
        };
        assert!(matches!(open("/dev/video-none"), CaptureError::Disconnected { source: Some(_), .. }));
        assert!(matches!(open("no such card"), CaptureError::Disconnected { source: None, .. }));
        assert!(matches!(open("/dev/null"), CaptureError::Driver { call: "VIDIOC_QUERYCAP", .. }));
    }
}
