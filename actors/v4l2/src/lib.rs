//! Thin safe layer over the V4L2 ioctls that single-plane capture into mapped buffers needs.
//!
//! Owns the kernel's structures, the open node, the mapped buffers, and all unsafe code of camera
//! capture. Never waits (the node is non-blocking), never retries, never decides what a fault means:
//! each error names its call and carries the errno.
#![allow(unsafe_code, reason = "leaf crate for a C interface: ioctl and mmap")]

mod controls;
mod raw;

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};
use tokio::io::unix::AsyncFd;

pub use controls::{Control, ControlKind, MenuEntry, id, variable_name};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed")]
pub struct Error {
    /// `open`, `mmap` or the ioctl's name.
    pub call: &'static str,
    /// Its errno.
    pub source: io::Error,
}

impl Error {
    fn new(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self { call, source: source.into() }
    }

    fn is(&self, errno: rustix::io::Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
}

/// Four letters that name a pixel format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourCc(pub [u8; 4]);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// `uvcvideo`, `vivid`, …
    pub driver: String,
    /// The camera's name.
    pub card: String,
    /// Where it is plugged in: `usb-0000:00:14.0-1`.
    pub bus: String,
    /// `V4L2_CAP_*` of this node (not of all nodes of the device).
    pub flags: u32,
}

impl Capability {
    /// Whether the node delivers pictures, single-plane, into mapped buffers. The second node of a USB
    /// camera delivers metadata and says no.
    pub fn captures(&self) -> bool {
        const WANTED: u32 = raw::CAP_VIDEO_CAPTURE | raw::CAP_STREAMING;
        self.flags & WANTED == WANTED
    }
}

/// Format of the frames that a node delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Order and meaning of the bytes.
    pub fourcc: FourCc,
    /// Bytes from one line to the next, the driver's choice; 0 for a compressed format.
    pub stride: u32,
    /// Bytes of a buffer.
    pub size: u32,
    /// Whether each frame is whole, not one field of an interlaced picture.
    pub progressive: bool,
}

/// A number of seconds, or frames a second, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// Above the line.
    pub numerator: u32,
    /// Below the line.
    pub denominator: u32,
}

/// Sizes that a node offers, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// One size: width, height.
    One(u32, u32),
    /// All from `min` to `max` in steps.
    Range {
        /// Smallest width and height.
        min: (u32, u32),
        /// Largest width and height.
        max: (u32, u32),
        /// Steps of width and height.
        step: (u32, u32),
    },
}

/// Times from frame to frame that a node offers at one size, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameInterval {
    /// One interval.
    One(Fraction),
    /// All from the first to the second.
    Range(Fraction, Fraction),
}

/// An open node.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opens a node for non-blocking use.
    ///
    /// # Errors
    /// `open`, with ENOENT, EACCES, or ENODEV for a camera that was pulled out.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::new("open", e))?;
        Ok(Self { fd })
    }

    /// What the node is.
    ///
    /// # Errors
    /// VIDIOC_QUERYCAP, with ENOTTY for something that is no V4L2 node.
    pub fn capability(&self) -> Result<Capability, Error> {
        let mut c = raw::Capability::default();
        raw::querycap(self.fd.as_fd(), &mut c).map_err(|e| Error::new("VIDIOC_QUERYCAP", e))?;
        let of_node = c.capabilities & raw::CAP_DEVICE_CAPS != 0;
        Ok(Capability {
            driver: text(&c.driver),
            card: text(&c.card),
            bus: text(&c.bus_info),
            flags: if of_node { c.device_caps } else { c.capabilities },
        })
    }

    /// The pixel formats it offers.
    ///
    /// # Errors
    /// VIDIOC_ENUM_FMT.
    pub fn formats(&self) -> Result<Vec<FourCc>, Error> {
        listed("VIDIOC_ENUM_FMT", |index| {
            let mut f = raw::FormatDescription { index, kind: raw::CAPTURE, ..Default::default() };
            raw::enum_fmt(self.fd.as_fd(), &mut f)?;
            Ok(FourCc(f.pixelformat.to_le_bytes()))
        })
    }

    /// The sizes it offers in a format.
    ///
    /// # Errors
    /// VIDIOC_ENUM_FRAMESIZES, with ENOTTY where a driver does not say.
    pub fn frame_sizes(&self, fourcc: FourCc) -> Result<Vec<FrameSize>, Error> {
        listed("VIDIOC_ENUM_FRAMESIZES", |index| {
            let pixel_format = u32::from_le_bytes(fourcc.0);
            let mut f = raw::FrameSizes { index, pixel_format, ..Default::default() };
            raw::enum_framesizes(self.fd.as_fd(), &mut f)?;
            let [a, b, c, d, e, g] = f.sizes;
            Ok(if f.kind == raw::DISCRETE {
                FrameSize::One(a, b)
            } else {
                FrameSize::Range { min: (a, d), max: (b, e), step: (c, g) }
            })
        })
    }

    /// The times from frame to frame that it offers at a size.
    ///
    /// # Errors
    /// VIDIOC_ENUM_FRAMEINTERVALS, with ENOTTY where a driver does not say.
    pub fn frame_intervals(
        &self,
        fourcc: FourCc,
        width: u32,
        height: u32,
    ) -> Result<Vec<FrameInterval>, Error> {
        listed("VIDIOC_ENUM_FRAMEINTERVALS", |index| {
            let pixel_format = u32::from_le_bytes(fourcc.0);
            let mut f = raw::FrameIntervals { index, pixel_format, width, height, ..Default::default() };
            raw::enum_frameintervals(self.fd.as_fd(), &mut f)?;
            let at = |i: usize| Fraction { numerator: f.intervals[i], denominator: f.intervals[i + 1] };
            Ok(if f.kind == raw::DISCRETE {
                FrameInterval::One(at(0))
            } else {
                FrameInterval::Range(at(0), at(2))
            })
        })
    }

    /// Asks for a format and size; returns what the driver made of it, which may be something else.
    ///
    /// # Errors
    /// VIDIOC_S_FMT, with EBUSY while another handle streams.
    pub fn set_format(&self, width: u32, height: u32, fourcc: FourCc) -> Result<Format, Error> {
        // Stride and size stay 0: drivers keep a larger old stride if it is handed back to them.
        let mut f = raw::Format { kind: raw::CAPTURE, ..Default::default() };
        f.pix.width = width;
        f.pix.height = height;
        f.pix.pixelformat = u32::from_le_bytes(fourcc.0);
        f.pix.field = raw::FIELD_NONE;
        raw::s_fmt(self.fd.as_fd(), &mut f).map_err(|e| Error::new("VIDIOC_S_FMT", e))?;
        Ok(f.pix.into())
    }

    /// The format and size as they are.
    ///
    /// # Errors
    /// VIDIOC_G_FMT.
    pub fn format(&self) -> Result<Format, Error> {
        let mut f = raw::Format { kind: raw::CAPTURE, ..Default::default() };
        raw::g_fmt(self.fd.as_fd(), &mut f).map_err(|e| Error::new("VIDIOC_G_FMT", e))?;
        Ok(f.pix.into())
    }

    /// Asks for a time from frame to frame (`None` leaves it); returns what the driver has, or `None`
    /// where it does not say.
    ///
    /// # Errors
    /// VIDIOC_S_PARM.
    pub fn set_interval(&self, interval: Option<Fraction>) -> Result<Option<Fraction>, Error> {
        let mut p = raw::StreamParameters { kind: raw::CAPTURE, ..Default::default() };
        let done = match interval {
            Some(Fraction { numerator, denominator }) => {
                p.interval = [numerator, denominator];
                raw::s_parm(self.fd.as_fd(), &mut p)
            }
            None => raw::g_parm(self.fd.as_fd(), &mut p),
        };
        match done {
            Ok(()) if p.interval.iter().all(|&v| v > 0) => {
                Ok(Some(Fraction { numerator: p.interval[0], denominator: p.interval[1] }))
            }
            Ok(()) | Err(rustix::io::Errno::NOTTY) => Ok(None),
            Err(e) => Err(Error::new("VIDIOC_S_PARM", e)),
        }
    }

    /// Whether another handle has the node's buffers, which is what "streams" means to a driver.
    ///
    /// Asks for no buffers, which takes nothing from anybody and is refused while they are another's. Only for a
    /// handle that does not stream itself, and not for v4l2loopback: its readers share their buffers, so it never
    /// refuses, and whoever streams is disturbed (VIDIOC_DQBUF with EINVAL, once).
    ///
    /// # Errors
    /// VIDIOC_REQBUFS, with anything but EBUSY.
    pub fn is_taken(&self) -> Result<bool, Error> {
        match self.request_buffers(0) {
            Ok(_) => Ok(false),
            Err(e) if e.is(rustix::io::Errno::BUSY) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// How many buffers the driver makes of it.
    fn request_buffers(&self, count: u32) -> Result<u32, Error> {
        let mut request =
            raw::RequestBuffers { count, kind: raw::CAPTURE, memory: raw::MEMORY_MMAP, ..Default::default() };
        raw::reqbufs(self.fd.as_fd(), &mut request).map_err(|e| Error::new("VIDIOC_REQBUFS", e))?;
        Ok(request.count)
    }

    /// Maps and queues `buffers` buffers (the driver may make it more or fewer) and starts to stream.
    ///
    /// # Errors
    /// VIDIOC_REQBUFS with EBUSY while another handle streams; VIDIOC_QUERYBUF, `mmap`, VIDIOC_QBUF,
    /// VIDIOC_STREAMON.
    pub fn stream(self, buffers: u32) -> Result<Stream, Error> {
        let count = self.request_buffers(buffers)?;
        let mut stream = Stream { buffers: Vec::new(), held: None, device: self };
        for index in 0..count {
            let mut b = Stream::buffer(index);
            raw::querybuf(stream.as_fd(), &mut b).map_err(|e| Error::new("VIDIOC_QUERYBUF", e))?;
            stream.buffers.push(Mapping::new(&stream.device.fd, b.offset, b.length as usize)?);
            stream.queue(index)?;
        }
        let kind = raw::CAPTURE as i32;
        raw::streamon(stream.as_fd(), kind).map_err(|e| Error::new("VIDIOC_STREAMON", e))?;
        Ok(stream)
    }
}

/// Calls `query` with 0, 1, … until EINVAL, which is how the kernel ends a list.
fn listed<T>(call: &'static str, query: impl Fn(u32) -> rustix::io::Result<T>) -> Result<Vec<T>, Error> {
    let mut list = Vec::new();
    // No driver has as many; one that never ends its list must not hang us.
    for index in 0..1024 {
        match query(index) {
            Ok(entry) => list.push(entry),
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(Error::new(call, e)),
        }
    }
    Ok(list)
}

/// Text up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// How often a waiter comes to a stream until no frame was there when it did. Frames are far rarer than that takes.
const WAITER_COMES: u32 = 16;

/// A node that streams. Readable (`poll`, `epoll`) when a frame can be dequeued; EPOLLERR alone says
/// that the next [`Self::dequeue`] returns an error.
#[derive(Debug)]
pub struct Stream {
    buffers: Vec<Mapping>,
    /// The buffer that was dequeued last, and is ours until it is queued again.
    held: Option<u32>,
    device: Device,
}

impl Stream {
    /// The node that streams, for its controls.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stream as a task of the current tokio runtime waits for it: for reading, and for writing,
    /// which is how a fault of the stream shows. Only a stream can be had so: a node that does not
    /// stream yet reports an error all the time. Frames that are there already are thrown away: they
    /// are older than the stream, and v4l2loopback never wakes a waiter that came while it had one.
    /// So a frame that comes in between is looked for afterwards, and the waiter comes again.
    ///
    /// # Errors
    /// `epoll_ctl`, or those of [`Self::dequeue`].
    pub fn registered(mut self) -> Result<AsyncFd<Self>, Error> {
        for _ in 1..WAITER_COMES {
            self.drain()?;
            let mut waiter = self.register()?;
            if waiter.get_mut().dequeue()?.is_none() {
                return Ok(waiter);
            }
            self = waiter.into_inner();
        }
        self.drain()?;
        self.register()
    }

    fn drain(&mut self) -> Result<(), Error> {
        let mut stale = self.buffers.len();
        while stale > 0 && self.dequeue()?.is_some() {
            stale -= 1;
        }
        Ok(())
    }

    fn register(self) -> Result<AsyncFd<Self>, Error> {
        // SAFETY: the descriptor is owned by the stream, which closes it only when it is dropped, never
        // replaces it, and is dropped by the `AsyncFd` after it was taken off the runtime.
        unsafe { AsyncFd::register(self) }.map_err(|e| Error::new("epoll_ctl", e))
    }

    /// The next frame, or `None` if there is none yet. Hands the last one's buffer back to the driver.
    ///
    /// # Errors
    /// VIDIOC_QBUF: the buffer is tried again at the next call. VIDIOC_DQBUF: EIO for a fault of the
    /// camera, ENODEV when it was pulled out.
    pub fn dequeue(&mut self) -> Result<Option<Frame<'_>>, Error> {
        self.requeue()?;
        let mut b = Self::buffer(0);
        match raw::dqbuf(self.as_fd(), &mut b).map_err(|e| Error::new("VIDIOC_DQBUF", e)) {
            Err(e) if e.is(rustix::io::Errno::AGAIN) => return Ok(None),
            other => other?,
        }
        let Some(mapping) = self.buffers.get(b.index as usize) else {
            return Err(Error::new("VIDIOC_DQBUF", io::Error::other("a buffer that was never made")));
        };
        self.held = Some(b.index);
        Ok(Some(Frame {
            mapping,
            bytes_used: b.bytesused as usize,
            sequence: b.sequence,
            stamp: Duration::new(b.seconds.max(0) as u64, (b.microseconds.clamp(0, 999_999) * 1000) as u32),
            flags: b.flags,
        }))
    }

    /// Hands the last frame's buffer back to the driver, if that was not done yet.
    ///
    /// # Errors
    /// VIDIOC_QBUF; the buffer stays ours.
    pub fn requeue(&mut self) -> Result<(), Error> {
        if let Some(index) = self.held {
            self.queue(index)?;
            self.held = None;
        }
        Ok(())
    }

    fn queue(&self, index: u32) -> Result<(), Error> {
        raw::qbuf(self.as_fd(), &mut Self::buffer(index)).map_err(|e| Error::new("VIDIOC_QBUF", e))
    }

    fn buffer(index: u32) -> raw::Buffer {
        raw::Buffer { index, kind: raw::CAPTURE, memory: raw::MEMORY_MMAP, ..Default::default() }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.fd.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.device.fd.as_raw_fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It fails on a camera that is gone, where nothing is left to stop. Buffers are unmapped and the
        // node closed after this.
        raw::streamoff(self.as_fd(), raw::CAPTURE as i32).ok();
    }
}

/// A frame in a buffer that the driver will not touch until the next call on its stream.
#[derive(Debug)]
pub struct Frame<'a> {
    mapping: &'a Mapping,
    /// Bytes of the picture, as the driver says; of a compressed one its length.
    pub bytes_used: usize,
    /// The driver's counter; wraps.
    pub sequence: u32,
    /// The driver's stamp, on the clock that [`Self::monotonic`] names.
    pub stamp: Duration,
    flags: u32,
}

impl Frame<'_> {
    /// Copies the picture into `slot`, as much as fits, and returns how many bytes that was.
    pub fn copy_to(&self, slot: &mut [u8]) -> usize {
        let bytes = self.bytes_used.min(self.mapping.length).min(slot.len());
        // SAFETY: the mapping is live while `self` borrows it and at least `bytes` long; `slot` is
        // exclusively ours and as long, so the two cannot overlap. Bytes have no invalid values, and no
        // reference to the mapping is made, so a driver that still writes can only damage the picture.
        unsafe { ptr::copy_nonoverlapping(self.mapping.start.as_ptr(), slot.as_mut_ptr(), bytes) };
        bytes
    }

    /// The driver says that the picture is damaged.
    pub fn damaged(&self) -> bool {
        self.flags & raw::FLAG_ERROR != 0
    }

    /// The stamp is of `CLOCK_MONOTONIC`; otherwise it is of an unknown clock.
    pub fn monotonic(&self) -> bool {
        self.flags & raw::FLAG_TIMESTAMP_MASK == raw::FLAG_TIMESTAMP_MONOTONIC
    }

    /// The stamp is of the start of the exposure; otherwise of the end of the frame.
    pub fn stamped_at_exposure_start(&self) -> bool {
        self.flags & raw::FLAG_TSTAMP_SRC_MASK == raw::FLAG_TSTAMP_SRC_SOE
    }
}

/// A mapped buffer. Invariant: `length` bytes from `start` are mapped readable until drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only read.
unsafe impl Send for Mapping {}
// SAFETY: as above; reading from several threads needs no order.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, offset: u32, length: usize) -> Result<Self, Error> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                u64::from(offset),
            )
        }
        .map_err(|e| Error::new("mmap", e))?;
        NonNull::new(start.cast::<u8>())
            .map(|start| Self { start, length })
            .ok_or_else(|| Error::new("mmap", io::Error::other("mapped at address 0")))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant the range is mapped, by us, and nothing borrows it any more.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.length) }.ok();
    }
}

impl From<raw::PixFormat> for Format {
    fn from(p: raw::PixFormat) -> Self {
        Self {
            width: p.width,
            height: p.height,
            fourcc: FourCc(p.pixelformat.to_le_bytes()),
            stride: p.bytesperline,
            size: p.sizeimage,
            progressive: p.field == raw::FIELD_NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_camera_says_so() {
        let missing = Device::open(Path::new("/dev/no-such-node")).unwrap_err();
        assert_eq!((missing.call, missing.source.raw_os_error()), ("open", Some(2)));
        let null = Device::open(Path::new("/dev/null")).unwrap().capability().unwrap_err();
        assert_eq!((null.call, null.source.raw_os_error()), ("VIDIOC_QUERYCAP", Some(25)));
    }

    #[test]
    fn text_ends_at_the_first_zero() {
        assert_eq!(text(b"vivid\0\0junk"), "vivid");
        assert_eq!(text(b"full"), "full");
    }

    #[test]
    fn a_metadata_node_does_not_capture() {
        let node = |flags| Capability { driver: "".into(), card: "".into(), bus: "".into(), flags };
        assert!(node(0x0420_0001).captures());
        assert!(!node(0x04a0_0000).captures(), "second node of a USB camera");
        assert!(!node(0x0420_1000).captures(), "multi-plane only");
    }
}
