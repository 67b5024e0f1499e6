//! FFmpeg as an encoder: pictures in at one pipe, packets out at another, both in Matroska.
//!
//! Owns the child process and its pipes. A picture's time on its way is a number that it is known by, so that each packet
//! names its picture whatever FFmpeg drops; no encoder here puts frames in another order. Never waits: what the pipe does not
//! take now is sent when it does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe::{Receiver, Sender};
use tracing::debug;
use youquanti_models::{Picture, PictureLayout, PixelFormat};

use super::Codec;
use super::matroska::{self, FRAME_HEAD, Parser, Part};
use super::segment::VideoError;
use crate::capture::CaptureError;
use crate::ffmpeg::{self, Ffmpeg, Log, PIPE_BYTES, poll_read};

/// An encoder of FFmpeg's.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoder {
    /// What it makes.
    pub codec: Codec,
    /// FFmpeg's name for it.
    pub name: &'static str,
    /// Whether it is a device's.
    pub is_hardware: bool,
    /// Words of the command line, the encoder's own ones.
    words: &'static str,
}

const fn encoder(codec: Codec, name: &'static str, is_hardware: bool, words: &'static str) -> Encoder {
    Encoder { codec, name, is_hardware, words }
}

/// All that are tried, of each codec the best first. None looks ahead or holds frames back: what is lost when FFmpeg dies is
/// what was on its way.
static ENCODERS: [Encoder; 9] = [
    encoder(
        Codec::H264,
        "h264_nvenc",
        true,
        "-preset p4 -tune ll -rc vbr -cq 21 -b:v 0 -bf 0 -delay 0 -zerolatency 1",
    ),
    encoder(Codec::H264, "h264_vaapi", true, "-qp 21 -bf 0 -async_depth 1"),
    encoder(Codec::H264, "libx264", false, "-preset veryfast -tune zerolatency -crf 20 -bf 0"),
    encoder(Codec::H264, "libopenh264", false, "-rc_mode quality -b:v 8M"),
    encoder(
        Codec::H265,
        "hevc_nvenc",
        true,
        "-preset p4 -tune ll -rc vbr -cq 23 -b:v 0 -bf 0 -delay 0 -zerolatency 1",
    ),
    encoder(Codec::H265, "hevc_vaapi", true, "-qp 23 -bf 0 -async_depth 1"),
    encoder(
        Codec::H265,
        "libx265",
        false,
        "-preset ultrafast -tune zerolatency -crf 22 -bf 0 -x265-params log-level=error",
    ),
    encoder(Codec::Mjpeg, "mjpeg", false, "-q:v 3"),
    encoder(Codec::Lossless, "ffv1", false, "-level 3 -coder 1 -context 0 -slices 4 -slicecrc 1"),
];

/// Why there is no encoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncoderError {
    /// There is no FFmpeg.
    #[error("there is no FFmpeg: {0}")]
    NoFfmpeg(String),
    /// It is there, and cannot make the codec.
    #[error("{program} has no encoder of {codec} that works: {tried}")]
    None {
        /// Which FFmpeg.
        program: PathBuf,
        /// What was wanted.
        codec: &'static str,
        /// Each encoder, and what was said of it.
        tried: String,
    },
}

/// How long an encoder may take for the few pictures of its trial.
const TRIAL: Duration = Duration::from_secs(20);

type Found = Result<&'static Encoder, EncoderError>;

/// This machine's FFmpeg and its best encoder of a codec: a device's, if there is one that works and `hardware` is allowed. Each
/// is tried once in the life of the process, on a few pictures, with the arguments that it will have.
///
/// # Errors
/// [`EncoderError`].
pub fn find_encoder(codec: Codec, hardware: bool) -> Result<(PathBuf, &'static Encoder), EncoderError> {
    static TRIED: Mutex<BTreeMap<(PathBuf, &str, bool), Found>> = Mutex::new(BTreeMap::new());
    let program = ffmpeg::find().map_err(|error| EncoderError::NoFfmpeg(error.to_string()))?;
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = tried
        .entry((program.clone(), codec.name(), hardware))
        .or_insert_with(|| try_encoders(&program, codec, hardware));
    found.clone().map(|encoder| (program, encoder))
}

fn try_encoders(program: &Path, codec: Codec, hardware: bool) -> Found {
    let mut refused = Vec::new();
    for encoder in ENCODERS.iter().filter(|encoder| encoder.codec == codec) {
        if encoder.is_hardware && !hardware {
            continue;
        }
        match try_encoder(program, encoder) {
            Ok(()) => return Ok(encoder),
            Err(why) => {
                debug!(encoder = encoder.name, why, "does not work here");
                refused.push(format!("{}: {why}", encoder.name));
            }
        }
    }
    Err(EncoderError::None { program: program.to_owned(), codec: codec.name(), tried: refused.join("; ") })
}

/// Has it make three pictures.
fn try_encoder(program: &Path, encoder: &Encoder) -> Result<(), String> {
    let layout = PictureLayout::packed(640, 480, PixelFormat::Nv12);
    let input = "-hide_banner -nostdin -loglevel error -f lavfi -i testsrc2=size=640x480:rate=30,format=nv12 -frames:v 3";
    let spawned = Command::new(program)
        .args(input.split(' '))
        .args(output_arguments(encoder, &layout, 30.0))
        .args(["-f", "null", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = Ffmpeg(spawned.map_err(|error| error.to_string())?);
    let begun = now();
    loop {
        match child.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(_)) => break,
            Ok(None) if now().saturating_duration_since(begun) > TRIAL => {
                return Err(format!("nothing within {TRIAL:?}"));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.to_string()),
        }
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.0.stderr.take() {
        // What cannot be read is not said.
        io::Read::read_to_string(&mut stderr, &mut said).ok();
    }
    Err(said.lines().next().unwrap_or("it fails without a word").to_owned())
}

#[allow(
    clippy::disallowed_methods,
    reason = "a limit on another program's run at start, not a stamp of anything"
)]
fn now() -> Instant {
    Instant::now()
}

/// What follows the input on FFmpeg's command line, without the output.
fn output_arguments(encoder: &Encoder, layout: &PictureLayout, fps: f64) -> Vec<OsString> {
    let pixels = match (encoder.codec, layout.format) {
        (Codec::Lossless, PixelFormat::Yuyv) => "yuv422p",
        (Codec::Lossless, PixelFormat::Nv12) => "yuv420p",
        (Codec::Lossless, PixelFormat::Rgb24 | PixelFormat::Bgr24) => "bgr0",
        (Codec::Lossless, PixelFormat::Grey) => "gray",
        (Codec::Mjpeg, PixelFormat::Yuyv) => "yuvj422p",
        (Codec::Mjpeg, _) => "yuvj420p",
        (Codec::H264 | Codec::H265 | Codec::Lossless, _) => "yuv420p",
    };
    // Half the colour: no odd width or height. What is exact keeps all.
    let even = "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0";
    let mut words: Vec<String> = Vec::new();
    let mut add = |text: &str| words.extend(text.split(' ').map(str::to_owned));
    add("-an -fps_mode passthrough -enc_time_base 1:1000");
    if encoder.name.ends_with("_vaapi") {
        add(&format!("-vaapi_device /dev/dri/renderD128 -vf {even},format=nv12,hwupload"));
    } else if encoder.codec == Codec::Lossless {
        add(&format!("-pix_fmt {pixels}"));
    } else {
        add(&format!("-vf {even} -pix_fmt {pixels}"));
    }
    add(&format!("-c:v {} {}", encoder.name, encoder.words));
    let key_every = match encoder.codec {
        Codec::H264 | Codec::H265 => fps.round().clamp(1.0, 1000.0) as u32,
        Codec::Mjpeg | Codec::Lossless => 1,
    };
    add(&format!("-g {key_every}"));
    words.into_iter().map(OsString::from).collect()
}

/// A picture on its way into the pipe.
struct Sending {
    head: [u8; FRAME_HEAD],
    /// Bytes of it that are in the pipe, head included.
    sent: usize,
}

/// FFmpeg that encodes.
pub(super) struct Encoding {
    child: Ffmpeg,
    /// None once there are no more pictures.
    input: Option<Sender>,
    output: Receiver,
    complaints: Receiver,
    log: Log,
    parser: Parser,
    /// What stands before the first picture, as far as it is not in the pipe.
    prologue: Vec<u8>,
    sending: Option<Sending>,
    buffer: Box<[u8]>,
}

impl Encoding {
    /// Starts FFmpeg for pictures of this layout. Needs a tokio runtime with I/O.
    pub(super) fn start(
        program: &Path,
        encoder: &Encoder,
        layout: &PictureLayout,
        fps: f64,
    ) -> Result<Self, CaptureError> {
        let mut input = "-hide_banner -nostats -loglevel level+error".to_owned();
        if layout.format != PixelFormat::Mjpg {
            // All is known of them before the first one.
            input.push_str(" -probesize 32 -analyzeduration 0");
        }
        input.push_str(" -fpsprobesize 0 -f matroska -i pipe:0 -map 0:v:0");
        let output = "-cluster_size_limit 1 -flush_packets 1 -f matroska pipe:1";
        let mut child = Ffmpeg::start(&[program.to_owned()], |command| {
            command
                .args(input.split(' '))
                .args(output_arguments(encoder, layout, fps))
                .args(output.split(' '))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
        })?;
        if let Some(pid) = rustix::process::Pid::from_raw(child.0.id() as i32)
            && let Err(error) = rustix::process::setpriority_process(Some(pid), NICENESS)
        {
            debug!(%error, "FFmpeg keeps its priority");
        }
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take())
        else {
            return Err(CaptureError::Driver { call: "ffmpeg", source: io::ErrorKind::BrokenPipe.into() });
        };
        // Refused where pipes of the user are many: then they stay as they were.
        rustix::pipe::fcntl_setpipe_size(&stdin, PIPE_BYTES).ok();
        rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES).ok();
        let failed = |source| CaptureError::Driver { call: "epoll_ctl", source };
        let receiver = |pipe: OwnedFd| Receiver::from_owned_fd(pipe).map_err(failed);
        let period = (1e9 / fps).round() as u64;
        Ok(Self {
            child,
            input: Some(Sender::from_owned_fd(stdin.into()).map_err(failed)?),
            output: receiver(stdout.into())?,
            complaints: receiver(stderr.into())?,
            log: Log::default(),
            parser: Parser::default(),
            prologue: matroska::head(&matroska::tracks(layout, period), 1_000_000, "").bytes,
            sending: None,
            buffer: vec![0; 1 << 16].into(),
        })
    }

    /// Begins to send a picture, which will be known by `time`, milliseconds; more than that of the picture before.
    /// [`poll_send`](Self::poll_send) sends it, with the same picture.
    pub(super) fn begin(&mut self, time: u64, picture: Picture<'_>) {
        let head = matroska::frame_head(time, packed_bytes(&picture), true);
        self.sending = Some(Sending { head, sent: 0 });
    }

    /// Completes when the picture that was begun is in the pipe.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, picture: Picture<'_>) -> Poll<io::Result<()>> {
        let (Some(input), Some(sending)) = (&mut self.input, &mut self.sending) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        while !self.prologue.is_empty() {
            let sent = ready!(Pin::new(&mut *input).poll_write(cx, &self.prologue))?;
            self.prologue.drain(..sent);
        }
        loop {
            let rest = match sending.head.get(sending.sent..) {
                Some(head @ [_, ..]) => head,
                _ => packed_rest(&picture, sending.sent - FRAME_HEAD),
            };
            if rest.is_empty() {
                break;
            }
            sending.sent += ready!(Pin::new(&mut *input).poll_write(cx, rest))?;
        }
        self.sending = None;
        Poll::Ready(Ok(()))
    }

    /// There are no more pictures: what is under way is finished, then the packets end.
    pub(super) fn close(&mut self) {
        self.input = None;
    }

    /// Whether there are no more pictures.
    pub(super) fn is_closed(&self) -> bool {
        self.input.is_none()
    }

    /// The next part of what FFmpeg gives, to `take`; None at its end.
    pub(super) fn poll_part<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(Part<'_>) -> T,
    ) -> Poll<Result<Option<T>, VideoError>> {
        let mut bytes = [0; 1024];
        // Emptied, so that FFmpeg never waits for us there.
        while let Poll::Ready(Ok(read @ 1..)) = poll_read(&mut self.complaints, cx, &mut bytes) {
            self.log.take(&bytes[..read], |_| {});
        }
        loop {
            if let Some(part) = self.parser.next()? {
                return Poll::Ready(Ok(Some(take(part))));
            }
            match ready!(poll_read(&mut self.output, cx, &mut self.buffer)) {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(read) => self.parser.feed(&self.buffer[..read]),
                Err(source) => return Poll::Ready(Err(VideoError::Pipe { source })),
            }
        }
    }

    /// How it ended and what it said last; ends it if it has not.
    pub(super) fn end(&mut self) -> String {
        // A child that has ended keeps its own status.
        self.child.0.kill().ok();
        let status = self.child.0.wait();
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = self.complaints.try_read(&mut bytes) {
            self.log.take(&bytes[..read], |_| {});
        }
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        self.log.text().map_or(status.clone(), |text| format!("{status}: {text}"))
    }
}

/// Others come first: video is what is dropped when the processor is too slow.
const NICENESS: i32 = 5;

/// Bytes of a picture without what its lines are padded with.
fn packed_bytes(picture: &Picture<'_>) -> usize {
    let PictureLayout { width, height, format, .. } = picture.layout;
    match format {
        PixelFormat::Mjpg => picture.bytes.len(),
        _ => PictureLayout::packed(width, height, format).max_bytes(),
    }
}

/// What follows byte `at` of a picture without its padding: the rest of the picture, or of a line.
fn packed_rest<'p>(picture: &Picture<'p>, at: usize) -> &'p [u8] {
    let layout = &picture.layout;
    let (line, stride) = (layout.format.min_stride(layout.width) as usize, layout.stride as usize);
    if layout.format == PixelFormat::Mjpg || line == stride {
        return &picture.bytes[at.min(packed_bytes(picture))..packed_bytes(picture)];
    }
    let (row, column) = (at / line, at % line);
    picture.bytes.get(row * stride + column..row * stride + line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_not_sent() {
        let check = |width, height, format, stride| {
            let layout = PictureLayout { width, height, format, stride };
            let bytes: Vec<u8> = (0..layout.max_bytes()).map(|n| (n % 251) as u8).collect();
            let picture = Picture { layout, bytes: &bytes };
            let mut sent = Vec::new();
            loop {
                // In pieces, as a pipe takes it.
                match packed_rest(&picture, sent.len()) {
                    [] => break,
                    rest => sent.extend(&rest[..rest.len().min(7)]),
                }
            }
            let line = format.min_stride(width) as usize;
            let expected: Vec<u8> =
                bytes.chunks(stride as usize).flat_map(|row| &row[..line]).copied().collect();
            assert_eq!((sent.len(), &sent), (packed_bytes(&picture), &expected), "{layout:?}");
        };
        check(5, 3, PixelFormat::Yuyv, 12);
        check(5, 3, PixelFormat::Yuyv, 16);
        check(6, 4, PixelFormat::Nv12, 8);
        check(5, 3, PixelFormat::Rgb24, 15);
        check(5, 3, PixelFormat::Grey, 9);
    }
}
