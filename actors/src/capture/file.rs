//! File: anything that FFmpeg reads (a video, a folder of pictures, a network address) as a camera.
//!
//! Owns an `ffmpeg` child process, and reads its raw frames from a pipe
//! straight into the slot. Never decodes, never keeps a frame, never leaves a process behind.
//!
//! Frames are counted, not stamped by their presentation times: frame n is at n / fps of the stream's
//! declared rate. Of a video with a variable rate each frame is delivered once, at the declared rate.
//! A video that changes its size on the way is scaled to its first size. A live address (one that has
//! no duration) is not paced at all: its frames are stamped when they arrive.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ChildStderr, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, Sleep};
use youquanti_models::{Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp};

use crate::ffmpeg::{Ffmpeg, Log, PIPE_BYTES, poll_read, programs};

use super::{Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, Pacer, StampSource};

/// What to play, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct FileOptions {
    /// A video, a folder of pictures of one kind (played in the order of their names), or an address
    /// (`rtsp://…`, `http://…`).
    pub input: String,
    /// Any uncompressed format. For YUYV and NV12 an odd last column or line is cut off.
    pub format: PixelFormat,
    /// Frames a second to play at; `None` is what the stream declares (of pictures, 25).
    pub fps: Option<f64>,
    /// Begin anew at the end, for ever.
    pub repeat: bool,
    /// What drives it.
    pub pace: Pace,
    /// Stamp of frame 0; `None` is the time of the first poll.
    pub start: Option<Timestamp>,
    /// The program; `None` is `$YOUQUANTI_FFMPEG`, else `ffmpeg` on the path, else `.venv/bin/ffmpeg` below
    /// the current folder or below one that the running program is in.
    pub ffmpeg: Option<PathBuf>,
    /// Time without a byte from FFmpeg after which opening fails, or [`CaptureError::TimedOut`] is returned.
    pub timeout: Duration,
}

impl FileOptions {
    /// `input` in NV12 at its own rate, in real time, once, with a limit of 10 s.
    pub fn new(input: impl Into<String>) -> Self {
        Self {
            input: input.into(),
            format: PixelFormat::Nv12,
            fps: None,
            repeat: false,
            pace: Pace::Real,
            start: None,
            ffmpeg: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Frames a second of a stream that declares none, and of pictures.
const DEFAULT_FPS: f64 = 25.0;

/// What FFmpeg says before the first frame.
#[derive(Clone, Debug, Default, PartialEq)]
struct Header {
    size: Option<(u32, u32)>,
    fps: Option<f64>,
    /// The input has a duration: it is no live stream.
    has_end: bool,
    in_output: bool,
}

impl Header {
    /// Takes one line; true when it was the last one of interest.
    fn take(&mut self, line: &str) -> bool {
        if let Some((_, duration)) = line.split_once("Duration: ") {
            self.has_end |= !duration.starts_with("N/A");
        }
        self.in_output |= line.contains("Output #0");
        if !self.in_output || !line.contains(" Video: ") {
            return false;
        }
        for part in line.split(", ") {
            let first = part.split_whitespace().next().unwrap_or_default();
            if let Some(rate) = part.trim().strip_suffix(" fps") {
                self.fps = self.fps.or_else(|| exact_rate(rate));
            } else if let Some((w, h)) = first.split_once('x')
                && let (Ok(w), Ok(h)) = (w.parse(), h.parse())
            {
                self.size = self.size.or(Some((w, h)));
            }
        }
        true
    }
}

/// FFmpeg prints two decimals: 29.97 stands for 30/1.001. `1k` is a thousand.
fn exact_rate(printed: &str) -> Option<f64> {
    let (number, factor) = printed.strip_suffix('k').map_or((printed, 1.0), |n| (n, 1000.0));
    let rate = number.parse::<f64>().ok()? * factor;
    let broadcast = (rate * 1.001).round() / 1.001;
    let exact = if rate.fract() != 0.0 && (rate - broadcast).abs() < 0.005 { broadcast } else { rate };
    (exact.is_finite() && exact > 0.0).then_some(exact)
}

/// Starts FFmpeg on the input.
fn start(options: &FileOptions) -> Result<Ffmpeg, CaptureError> {
    let folder = Path::new(&options.input).is_dir();
    let list = if folder { picture_list(Path::new(&options.input))? } else { String::new() };
    let mut child = Ffmpeg::start(&programs(options.ffmpeg.as_deref()), |command| {
        command
            .args(arguments(options, folder))
            .stdin(if folder { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    })?;
    if let Some(mut stdin) = child.0.stdin.take() {
        // A child that ended already says why on its error output.
        stdin.write_all(list.as_bytes()).ok();
    }
    Ok(child)
}

fn is_address(input: &str) -> bool {
    input.contains("://")
}

fn arguments(options: &FileOptions, folder: bool) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &str| args.extend(words.split(' ').map(OsString::from));
    add("-hide_banner -nostdin -nostats -loglevel level+info");
    if options.repeat {
        add("-stream_loop -1");
    }
    if options.input.starts_with("rtsp://") {
        add("-rtsp_transport tcp");
    }
    if folder {
        add("-f concat -safe 0 -protocol_whitelist file,pipe -i pipe:0");
    } else {
        add("-i");
        // `file:` keeps a name with a colon from being taken for an address.
        let prefix = if is_address(&options.input) { "" } else { "file:" };
        args.push(format!("{prefix}{}", options.input).into());
    }
    let mut add = |words: &str| args.extend(words.split(' ').map(OsString::from));
    add("-map 0:v:0 -fps_mode passthrough -pix_fmt");
    add(match options.format {
        PixelFormat::Yuyv => "yuyv422",
        PixelFormat::Nv12 => "nv12",
        PixelFormat::Rgb24 => "rgb24",
        PixelFormat::Bgr24 => "bgr24",
        PixelFormat::Grey | PixelFormat::Mjpg => "gray",
    });
    if matches!(options.format, PixelFormat::Yuyv | PixelFormat::Nv12) {
        add("-vf crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0");
    }
    add("-f rawvideo pipe:1");
    args
}

/// The pictures of a folder by name, as a list for FFmpeg's `concat`.
fn picture_list(folder: &Path) -> Result<String, CaptureError> {
    const ENDINGS: [&str; 8] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "pgm"];
    let unreadable = |source| CaptureError::Driver { call: "readdir", source };
    let folder = fs::canonicalize(folder).map_err(unreadable)?;
    let mut pictures: Vec<PathBuf> = Vec::new();
    let mut kinds = BTreeSet::new();
    for path in fs::read_dir(&folder).map_err(unreadable)?.filter_map(|entry| Some(entry.ok()?.path())) {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if ENDINGS.contains(&ending.as_str()) {
            kinds.insert(ending.replace("jpeg", "jpg").replace("tiff", "tif"));
            pictures.push(path);
        }
    }
    if kinds.len() != 1 {
        let found = kinds.into_iter().collect::<Vec<_>>().join(" and ");
        return Err(CaptureError::Setup {
            what: "pictures",
            asked: folder.display().to_string(),
            got: match found.as_str() {
                "" => format!("a folder without {}", ENDINGS.join(", ")),
                // FFmpeg decodes them all as it does the first.
                kinds => format!("a folder with pictures of more than one kind: {kinds}"),
            },
        });
    }
    pictures.sort();
    // Without `file:` names would be taken as below `pipe:`, where the list comes from.
    let quoted = |path: &PathBuf| {
        format!("file 'file:{}'\nduration 0.04\n", path.display().to_string().replace('\'', r"'\''"))
    };
    Ok(pictures.iter().map(quoted).collect())
}

/// A frame on its way through the pipe.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    index: u64,
    captured_at: Timestamp,
    filled: usize,
    kept: bool,
}

/// A file, or an address, that plays.
pub struct FileSource {
    frames: Receiver,
    complaints: Receiver,
    log: Log,
    child: Ffmpeg,
    info: DeviceInfo,
    clock: Arc<dyn Clock>,
    pacer: Pacer,
    timeout: Duration,
    /// Counts while FFmpeg owes a byte, which `waiting` says.
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
    incoming: Option<Incoming>,
    /// Whole frames read so far: the index of the frame that comes next out of the pipe.
    read: u64,
    last_stamp: Timestamp,
    /// Where frames go that nobody keeps.
    waste: Box<[u8]>,
}

/// An FFmpeg that has said what it plays, not yet on the thread that will read it.
pub(super) struct Started {
    options: FileOptions,
    child: Ffmpeg,
    stdout: OwnedFd,
    stderr: OwnedFd,
    log: Log,
    header: Header,
    size: (u32, u32),
}

impl Started {
    /// Starts FFmpeg and waits for its first frame, on any thread.
    ///
    /// # Errors
    /// As [`FileSource::open`].
    pub(super) fn new(options: FileOptions) -> Result<Self, CaptureError> {
        let setup = |what, asked: String, got: &str| CaptureError::Setup { what, asked, got: got.into() };
        if options.format == PixelFormat::Mjpg {
            return Err(setup("format", "MJPG".into(), "possible is any uncompressed format"));
        }
        if let Some(fps) = options.fps.filter(|fps| !(*fps > 0.0 && *fps <= 1000.0)) {
            return Err(setup("fps", fps.to_string(), "possible is more than 0, at most 1000"));
        }
        if !is_address(&options.input) && !Path::new(&options.input).exists() {
            return Err(setup("file", options.input, "no such file or folder"));
        }
        let mut child = start(&options)?;
        let (Some(stdout), Some(mut stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
            return Err(CaptureError::Driver { call: "ffmpeg", source: io::ErrorKind::BrokenPipe.into() });
        };
        let mut log = Log::default();
        let header = read_header(&mut stderr, &mut log, &options)?;
        let Some(size) = header.size else {
            return Err(unplayable(&options.input, &log));
        };
        // Refused where pipes of the user are many: then it stays as it was.
        rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES).ok();
        Ok(Self { options, child, stdout: stdout.into(), stderr: stderr.into(), log, header, size })
    }
}

impl FileSource {
    /// Starts FFmpeg and waits for its first frame. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`CaptureError::Setup`] for a file that is not there or is no video, options that do not fit, or
    /// no FFmpeg; [`CaptureError::Disconnected`] for an address that does not answer.
    pub fn open(options: FileOptions, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        Self::of(Started::new(options)?, clock)
    }

    /// Reads what was started. Needs a tokio runtime with I/O and time.
    pub(super) fn of(started: Started, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let Started { options, child, stdout, stderr, log, header, size: (width, height) } = started;
        let register = |pipe: OwnedFd| {
            Receiver::from_owned_fd(pipe).map_err(|source| CaptureError::Driver { call: "epoll_ctl", source })
        };

        let live = is_address(&options.input) && !header.has_end;
        let fps = options.fps.or(header.fps.filter(|_| !Path::new(&options.input).is_dir()));
        let info = DeviceInfo {
            driver: "ffmpeg".into(),
            name: options.input.rsplit('/').next().unwrap_or_default().to_owned(),
            id: options.input,
            asked: Asked { size: None, format: Some(options.format), fps: options.fps },
            layout: PictureLayout::packed(width, height, options.format),
            fps: fps.unwrap_or(DEFAULT_FPS),
            stamps: if live { StampSource::Receipt } else { StampSource::Computed },
            stamp_resolution: Duration::from_nanos(1),
            pace: options.pace,
            is_live: false,
            controls: Vec::new(),
        };
        // A live stream paces itself.
        let pace = if live { Pace::Fast } else { options.pace };
        Ok(Self {
            frames: register(stdout)?,
            complaints: register(stderr)?,
            log,
            child,
            pacer: Pacer::new(pace, info.fps, options.start, clock.clone()),
            info,
            clock,
            timeout: options.timeout,
            deadline: Box::pin(tokio::time::sleep(Duration::ZERO)),
            waiting: false,
            incoming: None,
            read: 0,
            last_stamp: Timestamp(0),
            waste: vec![0; PIPE_BYTES].into(),
        })
    }

    fn live(&self) -> bool {
        self.info.stamps == StampSource::Receipt
    }

    /// Empties FFmpeg's error output, so that it never waits for us there.
    fn read_complaints(&mut self, cx: &mut Context<'_>) {
        let mut bytes = [0; 1024];
        while let Poll::Ready(Ok(read @ 1..)) = poll_read(&mut self.complaints, cx, &mut bytes) {
            self.log.take(&bytes[..read], |_| {});
        }
    }

    /// FFmpeg closed its output: how did it end?
    fn ended(&mut self, partial: usize) -> CaptureError {
        let status = self.child.0.wait();
        // The child is gone: what is there is all there will be.
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = self.complaints.try_read(&mut bytes) {
            self.log.take(&bytes[..read], |_| {});
        }
        let mut note = self.log.text();
        if partial > 0 {
            let cut = format!("{partial} bytes of a further frame");
            note = Some(note.map_or(cut.clone(), |n| format!("{n}; {cut}")));
        }
        let text = || io::Error::other(note.clone().unwrap_or_else(|| "the stream ended".into()));
        match status {
            Ok(status) if !status.success() => CaptureError::Driver {
                call: "ffmpeg",
                source: io::Error::other(format!("{status}: {}", text())),
            },
            _ if self.live() => {
                CaptureError::Disconnected { device: self.info.id.clone(), source: Some(text()) }
            }
            _ => CaptureError::Ended { frames: self.read, note },
        }
    }
}

/// Reads FFmpeg's error output up to the line that names size and rate, or to its end.
fn read_header(
    stderr: &mut ChildStderr,
    log: &mut Log,
    options: &FileOptions,
) -> Result<Header, CaptureError> {
    let failed = |call| move |source| CaptureError::Driver { call, source };
    let limit = Timespec::try_from(options.timeout)
        .map_err(|_| failed("poll")(io::ErrorKind::InvalidInput.into()))?;
    let (mut header, mut done, mut bytes) = (Header::default(), false, [0; 4096]);
    while !done {
        let waited = rustix::event::poll(&mut [PollFd::new(stderr, PollFlags::IN)], Some(&limit));
        match waited {
            Ok(0) => return Err(CaptureError::TimedOut { after: options.timeout }),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(failed("poll")(error.into())),
        }
        match stderr.read(&mut bytes).map_err(failed("read"))? {
            0 => break,
            n => log.take(&bytes[..n], |line| done |= header.take(line)),
        }
    }
    Ok(header)
}

fn unplayable(input: &str, log: &Log) -> CaptureError {
    let text = log.text().unwrap_or_else(|| "FFmpeg found no video in it".into());
    if is_address(input) {
        CaptureError::Disconnected { device: input.to_owned(), source: Some(io::Error::other(text)) }
    } else {
        CaptureError::Setup { what: "video", asked: input.to_owned(), got: text }
    }
}

impl CaptureDevice for FileSource {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        mut slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        self.read_complaints(cx);
        let size = self.info.layout.max_bytes();
        loop {
            let mut incoming = match self.incoming {
                Some(incoming) => incoming,
                None => {
                    let index = ready!(self.pacer.poll_next(cx));
                    let captured_at = self.pacer.captured_at(index);
                    Incoming { index, captured_at, filled: 0, kept: false }
                }
            };
            // Frames that were skipped go through the pipe all the same.
            let wanted = incoming.index == self.read;
            incoming.kept = wanted && slot.is_some() && (incoming.kept || incoming.filled == 0);
            let target = match &mut slot {
                Some(slot) if incoming.kept => &mut slot[incoming.filled..size],
                _ => {
                    let bytes = (size - incoming.filled).min(self.waste.len());
                    &mut self.waste[..bytes]
                }
            };
            let Poll::Ready(bytes) = poll_read(&mut self.frames, cx, target) else {
                self.incoming = Some(incoming);
                break;
            };
            self.waiting = false;
            match bytes {
                Err(source) => return Poll::Ready(Err(CaptureError::Driver { call: "read", source })),
                Ok(0) => return Poll::Ready(Err(self.ended(incoming.filled))),
                Ok(n) => incoming.filled += n,
            }
            self.incoming = Some(incoming);
            if incoming.filled < size {
                continue;
            }
            self.read += 1;
            if !wanted {
                self.incoming = Some(Incoming { filled: 0, ..incoming });
                continue;
            }
            self.incoming = None;
            let mut flags = if incoming.kept { FrameFlags::default() } else { FrameFlags::NO_SLOT };
            let mut captured_at = incoming.captured_at;
            if self.live() {
                captured_at = self.clock.now().max(self.last_stamp + Duration::from_nanos(1));
                flags = flags.with(FrameFlags::STAMP_IS_RECEIPT);
            }
            self.last_stamp = captured_at;
            return Poll::Ready(Ok(Captured {
                driver_seq: incoming.index as u32,
                captured_at,
                received_at: self.pacer.received_at(captured_at),
                bytes_used: if incoming.kept { size } else { 0 },
                flags,
            }));
        }
        if !self.waiting {
            self.deadline.as_mut().reset(Instant::now() + self.timeout);
            self.waiting = true;
        }
        ready!(self.deadline.as_mut().poll(cx));
        self.waiting = false;
        Poll::Ready(Err(CaptureError::TimedOut { after: self.timeout }))
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use super::super::testing::{TokioClock, capture};
    use super::*;

    /// FFmpeg as `tools/setup.sh --test` installs it, or what the environment names.
    fn ffmpeg() -> PathBuf {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/ffmpeg");
        env::var_os("YOUQUANTI_FFMPEG").map_or(installed, PathBuf::from)
    }

    /// Runs FFmpeg with `words`, then `output`.
    fn make(words: &str, output: &Path) {
        let run = Command::new(ffmpeg())
            .args("-hide_banner -loglevel error -nostdin -y".split(' '))
            .args(words.split(' '))
            .arg(output)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }

    fn video(folder: &Path, size: &str, frames: u32) -> PathBuf {
        let path = folder.join(format!("{size}.mkv"));
        let source = format!("-f lavfi -i testsrc=size={size}:rate=30000/1001 -frames:v {frames}");
        make(&format!("{source} -c:v ffv1"), &path);
        path
    }

    fn options(input: &Path) -> FileOptions {
        FileOptions {
            pace: Pace::Lossless,
            start: Some(Timestamp(1_000)),
            ffmpeg: Some(ffmpeg()),
            ..FileOptions::new(input.to_str().unwrap())
        }
    }

    fn open(options: FileOptions) -> Result<FileSource, CaptureError> {
        FileSource::open(options, Arc::new(TokioClock::default()))
    }

    /// All frames, each with its bytes, and the error at their end.
    async fn play(options: FileOptions) -> (Vec<(Captured, Vec<u8>)>, CaptureError) {
        let mut source = open(options).unwrap();
        let mut slot = vec![0; source.layout().max_bytes()];
        let mut frames = Vec::new();
        loop {
            match capture(&mut source, Some(&mut slot)).await {
                Ok(frame) => frames.push((frame, slot.clone())),
                Err(error) => return (frames, error),
            }
        }
    }

    /// The same, decoded in one go by FFmpeg itself.
    fn decoded(input: &Path, pix_fmt: &str) -> Vec<u8> {
        let raw = input.with_extension(pix_fmt);
        make(&format!("-i {} -f rawvideo -pix_fmt {pix_fmt}", input.display()), &raw);
        fs::read(raw).unwrap()
    }

    #[tokio::test]
    async fn delivers_every_frame_of_a_video_once_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = video(folder.path(), "64x48", 12);
        for (format, name) in [
            (PixelFormat::Nv12, "nv12"),
            (PixelFormat::Yuyv, "yuyv422"),
            (PixelFormat::Rgb24, "rgb24"),
            (PixelFormat::Bgr24, "bgr24"),
            (PixelFormat::Grey, "gray"),
        ] {
            let (frames, end) = play(FileOptions { format, ..options(&path) }).await;
            assert!(matches!(end, CaptureError::Ended { frames: 12, note: None }), "{end:?}");
            let sequence: Vec<u32> = frames.iter().map(|(f, _)| f.driver_seq).collect();
            assert_eq!(sequence, (0..12).collect::<Vec<_>>());
            let bytes: Vec<u8> = frames.iter().flat_map(|(_, b)| b.clone()).collect();
            assert!(bytes == decoded(&path, name), "{name}: other pixels than FFmpeg's own");
            assert_eq!(frames[3].0.captured_at, Timestamp(1_000 + 100_100_000), "3 frames of 1001/30000 s");
        }
    }

    #[tokio::test]
    async fn an_odd_size_loses_its_last_line_only_where_chroma_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.mkv");
        make("-f lavfi -i color=red:size=65x49:rate=10,format=bgr0 -frames:v 2 -c:v ffv1", &path);
        let size = |format| {
            let layout = open(FileOptions { format, ..options(&path) }).unwrap().layout();
            (layout.width, layout.height)
        };
        assert_eq!(size(PixelFormat::Nv12), (64, 48));
        assert_eq!(size(PixelFormat::Rgb24), (65, 49));
    }

    #[tokio::test]
    async fn a_cut_off_video_ends_after_its_last_whole_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = video(folder.path(), "160x120", 40);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let (frames, end) = play(options(&path)).await;
        let CaptureError::Ended { frames: counted, .. } = end else { panic!("{end:?}") };
        assert_eq!(counted, frames.len() as u64);
        assert!((5..40).contains(&frames.len()), "{} frames", frames.len());
    }

    #[tokio::test]
    async fn a_video_that_changes_its_size_is_scaled_to_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut both = Vec::new();
        for size in ["64x48", "128x96"] {
            let path = folder.path().join(format!("{size}.ts"));
            make(&format!("-f lavfi -i testsrc=size={size}:rate=25 -frames:v 10 -c:v mpeg2video"), &path);
            both.extend(fs::read(path).unwrap());
        }
        let path = folder.path().join("both.ts");
        fs::write(&path, both).unwrap();
        let source = open(options(&path)).unwrap();
        assert_eq!((source.layout().width, source.layout().height), (64, 48));
        drop(source);
        let (frames, end) = play(options(&path)).await;
        assert!(matches!(end, CaptureError::Ended { .. }), "{end:?}");
        assert!((18..=20).contains(&frames.len()), "{} frames", frames.len());
    }

    #[tokio::test]
    async fn a_folder_of_pictures_plays_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        for (name, colour) in [("b 2.png", "white"), ("a'1.png", "black"), ("c3.PNG", "gray")] {
            let source = format!("-f lavfi -i color={colour}:size=32x32 -frames:v 1 -update 1");
            make(&source, &folder.path().join(name));
        }
        fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        let given = FileOptions { format: PixelFormat::Grey, fps: Some(10.0), ..options(folder.path()) };
        let (frames, end) = play(given.clone()).await;
        assert!(matches!(end, CaptureError::Ended { frames: 3, .. }), "{end:?}");
        let shades: Vec<u8> = frames.iter().map(|(_, bytes)| bytes[500] / 86).collect();
        assert_eq!(shades, [0, 2, 1], "black, white, grey");
        assert_eq!(frames[2].0.captured_at, Timestamp(200_001_000));

        let mut source = open(FileOptions { repeat: true, ..given }).unwrap();
        let mut slot = vec![0; source.layout().max_bytes()];
        for expected in [0, 2, 1, 0, 2, 1, 0] {
            capture(&mut source, Some(&mut slot)).await.unwrap();
            assert_eq!(slot[500] / 86, expected, "repeated");
        }
    }

    #[tokio::test]
    async fn repeats_for_ever_if_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = video(folder.path(), "32x32", 4);
        let mut source = open(FileOptions { repeat: true, ..options(&path) }).unwrap();
        let mut slot = vec![0; source.layout().max_bytes()];
        let mut frames = Vec::new();
        for _ in 0..10 {
            capture(&mut source, Some(&mut slot)).await.unwrap();
            frames.push(slot.clone());
        }
        assert_eq!(frames[1], frames[5]);
        assert_eq!(frames[1], frames[9]);
        assert_ne!(frames[1], frames[2]);
    }

    #[tokio::test]
    async fn what_was_begun_without_a_slot_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = video(folder.path(), "64x48", 6);
        let whole = decoded(&path, "nv12");
        let mut source = open(options(&path)).unwrap();
        let size = source.layout().max_bytes();
        let mut slot = vec![0; size];
        let frame = capture(&mut source, None).await.unwrap();
        assert_eq!((frame.driver_seq, frame.bytes_used, frame.flags), (0, 0, FrameFlags::NO_SLOT));
        let frame = capture(&mut source, Some(&mut slot)).await.unwrap();
        assert_eq!((frame.driver_seq, frame.bytes_used, frame.flags), (1, size, FrameFlags::default()));
        assert!(slot == whole[size..2 * size]);

        // A slot that comes when half of the frame is gone is left alone, and serves the next frame.
        source.incoming = Some(Incoming { index: 2, captured_at: Timestamp(5), filled: 0, kept: false });
        let mut half = vec![0; size / 2];
        std::future::poll_fn(|cx| poll_read(&mut source.frames, cx, &mut half)).await.unwrap();
        source.incoming =
            Some(Incoming { index: 2, captured_at: Timestamp(5), filled: half.len(), kept: false });
        source.pacer.next = 3;
        slot.fill(7);
        let frame = capture(&mut source, Some(&mut slot)).await.unwrap();
        assert_eq!((frame.driver_seq, frame.flags), (2, FrameFlags::NO_SLOT));
        assert!(slot.iter().all(|&b| b == 7));
        let frame = capture(&mut source, Some(&mut slot)).await.unwrap();
        assert_eq!((frame.driver_seq, frame.flags), (3, FrameFlags::default()));
        assert!(slot == whole[3 * size..4 * size]);
    }

    #[track_caller]
    fn check_refused(options: FileOptions, expected: &str) {
        let message = open(options).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(expected), "{message}");
    }

    #[tokio::test]
    async fn says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.mp4");
        fs::write(&text, "this is no video\n".repeat(100)).unwrap();
        check_refused(options(&text), "video: asked for ");
        check_refused(options(&text), "Invalid data found");
        check_refused(options(&folder.path().join("none.mp4")), "none.mp4, got no such file or folder");
        check_refused(options(folder.path()), "a folder without png");
        for name in ["a.png", "b.jpg", "c.jpeg"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        check_refused(options(folder.path()), "pictures of more than one kind: jpg and png");
        check_refused(
            FileOptions { ffmpeg: Some("/nowhere/ffmpeg".into()), ..options(&text) },
            "ffmpeg: asked for /nowhere/ffmpeg, got no such program",
        );
        check_refused(FileOptions { fps: Some(-1.0), ..options(&text) }, "fps: asked for -1");
        check_refused(FileOptions { format: PixelFormat::Mjpg, ..options(&text) }, "format: asked for MJPG");
        let nobody = FileOptions { input: "http://127.0.0.1:9/x".into(), ..options(&text) };
        assert!(matches!(open(nobody), Err(CaptureError::Disconnected { source: Some(_), .. })));
    }

    #[tokio::test]
    async fn dropping_it_ends_and_reaps_the_child() {
        let folder = tempfile::tempdir().unwrap();
        let path = video(folder.path(), "320x240", 30);
        let source = open(FileOptions { repeat: true, ..options(&path) }).unwrap();
        let child = format!("/proc/{}", source.child.0.id());
        assert!(Path::new(&child).exists());
        drop(source);
        assert!(!Path::new(&child).exists(), "still running, or a zombie");
    }

    #[track_caller]
    fn check_header(lines: &str, expected: Option<(u32, u32, f64)>) {
        let mut header = Header::default();
        let done = lines.lines().any(|line| header.take(line));
        let found = header.size.zip(header.fps).filter(|_| done).map(|((w, h), fps)| (w, h, fps));
        assert_eq!(found, expected);
    }

    #[test]
    fn reads_size_and_rate_of_the_output_not_of_the_input() {
        let input = "[info]   Stream #0:0: Video: h264 (avc1 / 0x31637661), yuv420p, 640x480, 30 fps, 15 tbr";
        let output = "[info]   Stream #0:0(und): Video: rawvideo (NV12 / 0x3231564E), \
                      nv12(tv, bt709, progressive), 480x640 [SAR 1:1 DAR 3:4], q=2-31, 1 kb/s, 29.97 fps, 30 tbn";
        check_header(input, None);
        let both = format!("{input}\n[info] Output #0, rawvideo, to 'pipe:1':\n{output}");
        check_header(&both, Some((480, 640, 30.0 / 1.001)));
    }

    #[test]
    fn printed_rates_become_exact_ones() {
        let rates = ["25", "29.97", "23.98", "59.94", "12.50", "1k", "15.02"].map(|r| exact_rate(r).unwrap());
        let exact = [25.0, 30.0 / 1.001, 24.0 / 1.001, 60.0 / 1.001, 12.5, 1000.0, 15.02];
        assert_eq!(rates, exact);
        assert_eq!(exact_rate("0"), None);
        assert_eq!(exact_rate("many"), None);
    }
}
