//! Replay: a camera whose pictures are those of an earlier session's video, with the stamps that they had then.
//!
//! Owns which frames of which files are shown: those of the video's index that the session had analysed, so that who looks at
//! them again sees what was seen then. Decodes nothing: FFmpeg does, or the pictures are a camera's own JPEG as they
//! were kept. A replay that fails ends, and says so; it is never begun anew in its middle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, Sleep};
use youquanti_models::{CameraName, Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp, with_causes};

use super::file::{FileOptions, FileSource, Started};
use super::{Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource};
use crate::session_file::{FrameRow, SessionFileError, SessionReader};
use crate::video::matroska::{Parser, Part};
use crate::video::segment_path;

/// Why a session cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The session file cannot be read.
    #[error(transparent)]
    Session(#[from] SessionFileError),
    /// It has no video.
    #[error("{session} has no video: record with a codec in [recording.video], and replay that")]
    NoVideo {
        /// The session file.
        session: PathBuf,
    },
    /// A file of its video is not there.
    #[error("{video} of the session cannot be read: keep it beside the session file")]
    MissingVideo {
        /// The file.
        video: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A frame as it was when it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Then {
    driver_seq: u32,
    flags: FrameFlags,
    captured_at: Timestamp,
    received_at: Timestamp,
}

/// A file of video, and what of it is shown.
#[derive(Clone, Debug)]
struct SegmentPlan {
    path: PathBuf,
    /// For each frame of the file what it was, or nothing if it is not shown.
    frames: Vec<Option<Then>>,
}

/// A camera of a session, as far as it can be replayed.
#[derive(Clone, Debug)]
pub struct RecordedCamera {
    /// Its name.
    pub name: CameraName,
    /// Frames that are shown.
    pub frames: u64,
    /// Frames of the index that are not: they are in no video, or had not been analysed.
    pub left_out: u64,
    layout: PictureLayout,
    fps: f64,
    segments: Arc<[SegmentPlan]>,
}

impl RecordedCamera {
    /// The first file of its video.
    pub fn first_file(&self) -> Option<&Path> {
        self.segments.first().map(|segment| segment.path.as_path())
    }
}

/// The cameras of a session that have video, in the order of their ids. Frames that the session had not analysed, because it dropped
/// them, are left out unless `all_frames`.
///
/// # Errors
/// [`ReplayError`].
pub fn recorded_cameras(session: &Path, all_frames: bool) -> Result<Vec<RecordedCamera>, ReplayError> {
    let reader = SessionReader::open(session)?;
    let mut cameras = Vec::new();
    for (camera, facts) in reader.cameras().iter().enumerate() {
        let rows = reader.video(camera, 0..reader.video_count(camera))?;
        let Ok(name) = facts.name.parse::<CameraName>() else { continue };
        if rows.is_empty() {
            continue;
        }
        let frames = reader.frames(camera, 0..reader.frame_count(camera))?;
        let by_seq: BTreeMap<u64, &FrameRow> = frames.iter().map(|row| (row.seq, row)).collect();
        let results = reader.results(camera, 0..reader.result_count(camera))?;
        let analysed: BTreeSet<u64> = results.iter().map(|row| row.frame_seq).collect();
        let mut segments: BTreeMap<u32, Vec<Option<Then>>> = BTreeMap::new();
        let mut shown = 0;
        for row in &rows {
            let then =
                by_seq.get(&row.seq).filter(|_| all_frames || analysed.contains(&row.seq)).map(|frame| {
                    Then {
                        driver_seq: frame.driver_seq,
                        flags: FrameFlags(frame.flags as u16),
                        captured_at: Timestamp(frame.captured_at_ns),
                        received_at: Timestamp(frame.received_at_ns),
                    }
                });
            shown += u64::from(then.is_some());
            let segment = segments.entry(row.segment).or_default();
            segment.resize(row.frame as usize + 1, None);
            segment[row.frame as usize] = then;
        }
        let segments: Vec<_> = segments
            .into_iter()
            .map(|(number, frames)| SegmentPlan { path: segment_path(session, &facts.name, number), frames })
            .collect();
        for SegmentPlan { path, .. } in &segments {
            File::open(path).map_err(|source| ReplayError::MissingVideo { video: path.clone(), source })?;
        }
        let recorded = PixelFormat::ALL.into_iter().find(|format| format.name() == facts.pixel_format);
        let kept = match segments.first() {
            Some(segment) => is_jpeg(&segment.path)
                .map_err(|source| ReplayError::MissingVideo { video: segment.path.clone(), source })?,
            None => false,
        };
        let format = match recorded {
            Some(PixelFormat::Mjpg) if kept => PixelFormat::Mjpg,
            // What was encoded anew is no camera's JPEG any more.
            Some(PixelFormat::Mjpg) | None => PixelFormat::Nv12,
            Some(format) => format,
        };
        cameras.push(RecordedCamera {
            name,
            frames: shown,
            left_out: frames.len() as u64 - shown,
            layout: PictureLayout::packed(facts.width, facts.height, format),
            fps: facts.fps.filter(|fps| *fps > 0.0).unwrap_or(30.0),
            segments: segments.into(),
        });
    }
    if cameras.is_empty() {
        return Err(ReplayError::NoVideo { session: session.to_owned() });
    }
    Ok(cameras)
}

/// Whether a file of video holds JPEG.
fn is_jpeg(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(1 << 16).read_to_end(&mut start)?;
    let mut parser = Parser::default();
    parser.feed(&start);
    while let Ok(Some(part)) = parser.next() {
        if let Part::Tracks(tracks) = part {
            return Ok(tracks.windows(7).any(|word| word == b"V_MJPEG"));
        }
    }
    Ok(false)
}

/// What went wrong in replays, for whoever waits for their end.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<Vec<String>>>);

impl Troubles {
    fn add(&self, trouble: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(trouble);
    }

    /// All so far.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A file of video that plays.
enum Playing {
    /// Through FFmpeg.
    Decoded(Box<FileSource>),
    /// A camera's own pictures.
    Kept(KeptPictures),
}

/// Reads pictures that were kept as they came.
struct KeptPictures {
    file: File,
    parser: Parser,
    buffer: Box<[u8]>,
}

impl KeptPictures {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, parser: Parser::default(), buffer: vec![0; 1 << 16].into() })
    }

    /// The next picture, into `slot` if there is one; its length, none at the end.
    fn next(&mut self, mut slot: Option<&mut [u8]>) -> io::Result<Option<usize>> {
        loop {
            match self.parser.next().map_err(io::Error::other)? {
                Some(Part::Frame { data, .. }) => {
                    if let Some(slot) = &mut slot {
                        let target = slot.get_mut(..data.len());
                        target.ok_or(io::ErrorKind::FileTooLarge)?.copy_from_slice(data);
                    }
                    return Ok(Some(data.len()));
                }
                Some(_) => {}
                None => match self.file.read(&mut self.buffer)? {
                    0 => return Ok(None),
                    read => self.parser.feed(&self.buffer[..read]),
                },
            }
        }
    }
}

/// A recorded camera that plays.
pub struct ReplaySource {
    info: DeviceInfo,
    clock: Arc<dyn Clock>,
    segments: Arc<[SegmentPlan]>,
    troubles: Troubles,
    /// The file that plays, and which frame of it is next.
    playing: Option<Playing>,
    /// The FFmpeg of the next file, which may take its time.
    starting: Option<JoinHandle<Result<Started, CaptureError>>>,
    segment: usize,
    frame: usize,
    shown: u64,
    /// When the first frame was due, by the clock, and what its stamp is: of a replay in real time.
    began: Option<(Timestamp, Timestamp)>,
    timer: Pin<Box<Sleep>>,
}

impl ReplaySource {
    /// A camera of an earlier session. Needs a tokio runtime with I/O and time. `pace`: by the stamps, as fast as slots come
    /// free, or as fast as all consumers take every frame. The stamps are always those of then.
    pub fn open(camera: &RecordedCamera, pace: Pace, troubles: Troubles, clock: Arc<dyn Clock>) -> Self {
        let info = DeviceInfo {
            driver: "replay".into(),
            name: camera.name.to_string(),
            id: camera.first_file().unwrap_or(Path::new("")).display().to_string(),
            asked: Asked::default(),
            layout: camera.layout,
            fps: camera.fps,
            stamps: StampSource::Computed,
            stamp_resolution: Duration::from_nanos(1),
            pace,
            is_live: false,
            controls: Vec::new(),
        };
        Self {
            info,
            clock,
            segments: Arc::clone(&camera.segments),
            troubles,
            playing: None,
            starting: None,
            segment: 0,
            frame: 0,
            shown: 0,
            began: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// In place of a replay that has failed in its middle: nothing more is shown.
    pub fn ended(camera: &RecordedCamera, troubles: Troubles, clock: Arc<dyn Clock>) -> Self {
        troubles.add(format!("camera {} failed, and a replay is not begun anew in its middle", camera.name));
        Self { segment: camera.segments.len(), ..Self::open(camera, Pace::Lossless, troubles, clock) }
    }

    /// What plays a file, off this thread as far as it takes time.
    fn poll_start(&mut self, cx: &mut Context<'_>, path: &Path) -> Poll<Result<Playing, CaptureError>> {
        let failed = |call| move |source| CaptureError::Driver { call, source };
        if self.info.layout.format == PixelFormat::Mjpg {
            return Poll::Ready(KeptPictures::open(path).map(Playing::Kept).map_err(failed("open")));
        }
        let starting = self.starting.get_or_insert_with(|| {
            let options = FileOptions {
                format: self.info.layout.format,
                pace: Pace::Fast,
                ..FileOptions::new(path.to_string_lossy())
            };
            spawn_blocking(move || Started::new(options))
        });
        let started = ready!(Pin::new(starting).poll(cx));
        self.starting = None;
        let started = started.map_err(|lost| failed("ffmpeg")(io::Error::other(lost)))??;
        let source = FileSource::of(started, Arc::clone(&self.clock))?;
        let layout = source.layout();
        if layout != self.info.layout {
            let size = |layout: PictureLayout| format!("{}x{}", layout.width, layout.height);
            let (asked, got) = (size(self.info.layout), size(layout));
            return Poll::Ready(Err(CaptureError::Setup { what: "size", asked, got }));
        }
        Poll::Ready(Ok(Playing::Decoded(Box::new(source))))
    }

    /// Until a frame is due, in real time.
    fn poll_due(&mut self, cx: &mut Context<'_>, then: Then) -> Poll<()> {
        if self.info.pace != Pace::Real {
            return Poll::Ready(());
        }
        let now = self.clock.now();
        let (began, first) = *self.began.get_or_insert((now, then.captured_at));
        let due = began + then.captured_at.saturating_since(first);
        if due <= now {
            return Poll::Ready(());
        }
        self.timer.as_mut().reset(Instant::now() + due.saturating_since(now));
        self.timer.as_mut().poll(cx)
    }

    fn poll_shown(
        &mut self,
        cx: &mut Context<'_>,
        mut slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        loop {
            let Some(segment) = self.segments.get(self.segment) else {
                return Poll::Ready(Err(CaptureError::Ended { frames: self.shown, note: None }));
            };
            // Frames behind the last row are not known to the session.
            let Some(&then) = segment.frames.get(self.frame) else {
                (self.playing, self.segment, self.frame) = (None, self.segment + 1, 0);
                continue;
            };
            if self.playing.is_none() {
                let path = segment.path.clone();
                self.playing = Some(ready!(self.poll_start(cx, &path))?);
            }
            if let Some(then) = then {
                ready!(self.poll_due(cx, then));
            }
            let target = slot.as_deref_mut().filter(|_| then.is_some());
            let has_slot = target.is_some();
            let bytes = match self.playing.as_mut() {
                Some(Playing::Decoded(source)) => match ready!(source.poll_capture(cx, target)) {
                    Ok(captured) => Some(captured.bytes_used),
                    Err(CaptureError::Ended { .. }) => None,
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Some(Playing::Kept(pictures)) => {
                    let failed = |source| CaptureError::Driver { call: "read", source };
                    pictures.next(target).map_err(failed)?.map(|bytes| if has_slot { bytes } else { 0 })
                }
                None => None,
            };
            let Some(bytes_used) = bytes else {
                let segment = &self.segments[self.segment];
                let missing = segment.frames[self.frame..].iter().flatten().count();
                if missing > 0 {
                    self.troubles
                        .add(format!("{}: the last {missing} frames are missing", segment.path.display()));
                }
                (self.playing, self.segment, self.frame) = (None, self.segment + 1, 0);
                continue;
            };
            self.frame += 1;
            let Some(then) = then else { continue };
            self.shown += 1;
            let flags = if bytes_used > 0 { then.flags } else { then.flags.with(FrameFlags::NO_SLOT) };
            return Poll::Ready(Ok(Captured {
                driver_seq: then.driver_seq,
                captured_at: then.captured_at,
                received_at: then.received_at,
                bytes_used,
                flags,
            }));
        }
    }
}

impl CaptureDevice for ReplaySource {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        match ready!(self.poll_shown(cx, slot)) {
            Err(error) if !matches!(error, CaptureError::Ended { .. }) => {
                let note = with_causes(&error);
                self.troubles.add(format!("camera {}: {note}", self.info.name));
                Poll::Ready(Err(CaptureError::Ended { frames: self.shown, note: Some(note) }))
            }
            result => Poll::Ready(result),
        }
    }
}
