//! A segment: one video file of one camera, and what is on its way into it.
//!
//! Owns the file, the encoder in front of it, and the tickets of the frames between. A frame is delivered, and has its row,
//! when its packet is in the file. Times in the file are microseconds from the first frame's stamp.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use youquanti_frames::{Counted, FrameHandle};
use youquanti_models::{Frame, FrameMeta, PictureLayout, Timestamp};

use super::encoder::Encoding;
use super::matroska::{self, Cue, Head, MatroskaError, Part};
use super::{VideoFrame, VideoJob, VideoPlan, segment_path};
use crate::capture::CaptureError;
use crate::ledger::{DropReason, Ticket};
use crate::session_file::{VideoRow, free_bytes};

/// Why a video cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// The file cannot be made or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Video ends before the session file has to.
    #[error("the disk of {path} is full: {free} bytes are free, video needs {reserve} to spare")]
    DiskFull {
        /// The video's file.
        path: PathBuf,
        /// Bytes that were free.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
    /// FFmpeg cannot be started.
    #[error("FFmpeg cannot be started")]
    Start(#[from] CaptureError),
    /// A pipe to FFmpeg failed.
    #[error("a pipe to FFmpeg failed")]
    Pipe {
        /// Why.
        source: io::Error,
    },
    /// FFmpeg gives something else than was asked for.
    #[error("FFmpeg's output cannot be read")]
    Output(#[from] MatroskaError),
    /// It ended by itself.
    #[error("FFmpeg ended: {how}")]
    Ended {
        /// Its status, and what it said last.
        how: String,
    },
    /// It takes nothing, or gives nothing.
    #[error("FFmpeg stands still: {how}")]
    StandsStill {
        /// Its status, and what it said last.
        how: String,
    },
    /// Pictures have to be encoded, and there is no encoder: a camera gives another format than it was asked for.
    #[error(
        "the camera sends {format}, which has to be encoded, and no encoder was prepared: write accept_other = false"
    )]
    NoEncoder {
        /// What it sends.
        format: &'static str,
    },
}

/// Nanoseconds of a unit of a file's times.
const SCALE: u64 = 1000;

/// Bytes written between two looks at the disk, at most; and the part of what must stay free that they are, for all cameras of a
/// session together to write less than that.
const LOOK_AT_DISK: u64 = 4 << 20;
const LOOKS_IN_RESERVE: u64 = 64;

/// Units of time between two places where a player may begin.
const CUE_EVERY: u64 = 1_000_000;

/// Frames in an encoder that counts as standing still when there are more.
const MOST_IN_ENCODER: usize = 256;

/// A file of video that grows.
struct VideoFile {
    file: File,
    path: PathBuf,
    job: Arc<VideoJob>,
    head: Head,
    cues: Vec<Cue>,
    length: u64,
    looked_at: u64,
    origin: Timestamp,
    last: u64,
    frames: u32,
    /// Bytes that a loss of power cannot take, but for a sync that is under way.
    synced: u64,
}

impl VideoFile {
    fn create(
        path: PathBuf,
        job: Arc<VideoJob>,
        tracks: &[u8],
        origin: Timestamp,
    ) -> Result<Self, VideoError> {
        check_disk(&path, &job)?;
        let title = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let head = matroska::head(tracks, SCALE, &title);
        let failed = |action| {
            let path = path.clone();
            move |source| VideoError::File { action, path, source }
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed("create"))?;
        file.write_all(&head.bytes).map_err(failed("write"))?;
        let length = head.bytes.len() as u64;
        Ok(Self {
            file,
            path,
            job,
            head,
            cues: Vec::new(),
            length,
            looked_at: 0,
            origin,
            last: 0,
            frames: 0,
            synced: 0,
        })
    }

    /// Appends a frame; its index in the file.
    fn append(&mut self, captured_at: Timestamp, is_key: bool, data: &[u8]) -> Result<u32, VideoError> {
        if self.length - self.looked_at >= LOOK_AT_DISK.min(self.job.reserve_bytes / LOOKS_IN_RESERVE) {
            self.looked_at = self.length;
            check_disk(&self.path, &self.job)?;
        }
        let time = captured_at.saturating_since(self.origin).as_nanos() as u64 / SCALE;
        let head = matroska::frame_head(time, data.len(), is_key);
        if let Err(source) = write_both(&mut self.file, &head, data) {
            // Half a frame at the end would be no harm to a player, but a trap for what is appended next.
            self.file.set_len(self.length).ok();
            return Err(VideoError::File { action: "write", path: self.path.clone(), source });
        }
        if is_key && self.cues.last().is_none_or(|cue| time >= cue.time + CUE_EVERY) {
            self.cues.push(Cue { time, at: self.length });
        }
        self.length += (head.len() + data.len()) as u64;
        self.last = time;
        self.frames += 1;
        Ok(self.frames - 1)
    }

    /// What is to be done for all that was written since the last time to survive a loss of power; nothing if nothing was. It takes
    /// as long as the disk does, and may run beside further writing.
    fn sync(&mut self) -> Result<Option<impl FnOnce() -> Result<(), VideoError> + use<>>, VideoError> {
        if self.synced == self.length {
            return Ok(None);
        }
        let path = self.path.clone();
        let failed = |source| VideoError::File { action: "sync", path: path.clone(), source };
        let file = self.file.try_clone().map_err(failed)?;
        let folder = (self.synced == 0).then(|| path.parent().map(Path::to_owned)).flatten();
        self.synced = self.length;
        Ok(Some(move || {
            // Of a new file the name, too.
            let name = || folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all());
            let synced = file.sync_data().and_then(|()| name());
            synced.map_err(|source| VideoError::File { action: "sync", path, source })
        }))
    }

    /// Writes what lets players jump. Without it the file plays all the same.
    fn finish(&mut self) -> Result<(), VideoError> {
        let tail = matroska::tail(&self.head, &self.cues, self.length, self.last);
        let written = self.file.write_all_at(&tail.bytes, self.length).and_then(|()| {
            tail.patches.iter().try_for_each(|(at, bytes)| self.file.write_all_at(bytes, *at))
        });
        written.and_then(|()| self.file.sync_data()).map_err(|source| VideoError::File {
            action: "finish",
            path: self.path.clone(),
            source,
        })
    }
}

fn check_disk(path: &Path, job: &VideoJob) -> Result<(), VideoError> {
    let failed =
        |source| VideoError::File { action: "ask for the free space of", path: path.to_owned(), source };
    let free = free_bytes(path).map_err(failed)?;
    if free < job.reserve_bytes {
        return Err(VideoError::DiskFull { path: path.to_owned(), free, reserve: job.reserve_bytes });
    }
    Ok(())
}

/// Writes head and data without joining them in memory.
fn write_both(file: &mut File, mut head: &[u8], mut data: &[u8]) -> io::Result<()> {
    while !(head.is_empty() && data.is_empty()) {
        match file.write_vectored(&[IoSlice::new(head), IoSlice::new(data)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                let of_head = written.min(head.len());
                head = &head[of_head..];
                data = &data[written - of_head..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A frame in the encoder.
struct InEncoder {
    /// What it is known by there.
    time: u64,
    meta: FrameMeta,
    ticket: Ticket,
}

/// What a segment has done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// A step: there may be more to do.
    Step,
    /// All that was under way is in the file.
    Finished,
}

/// One video file, and what is on its way into it.
pub(super) struct Segment {
    number: u32,
    life: u32,
    layout: PictureLayout,
    path: PathBuf,
    job: Arc<VideoJob>,
    /// Made with the first packet, so that no file is empty.
    file: Option<VideoFile>,
    encoding: Option<Encoding>,
    /// The frame whose picture goes into the encoder's pipe.
    sending: Option<FrameHandle>,
    in_encoder: VecDeque<InEncoder>,
    /// Milliseconds from frame to frame, and frames begun: what frames are known by.
    period_ms: f64,
    begun: u64,
    tracks: Vec<u8>,
}

impl Segment {
    /// A segment for frames like this one.
    pub(super) fn open(
        plan: &VideoPlan,
        job: Arc<VideoJob>,
        camera: &str,
        number: u32,
        first: &VideoFrame,
        fps: f64,
    ) -> Result<Self, VideoError> {
        let layout = first.frame.picture().layout;
        let path = segment_path(&job.session_file, camera, number);
        let encoding = match &plan.ffmpeg {
            _ if plan.codec.keeps(layout.format) => None,
            Some((program, encoder)) => Some(Encoding::start(program, encoder, &layout, fps)?),
            None => return Err(VideoError::NoEncoder { format: layout.format.name() }),
        };
        Ok(Self {
            number,
            life: first.life,
            layout,
            path,
            job,
            file: None,
            encoding,
            sending: None,
            in_encoder: VecDeque::new(),
            period_ms: (1e3 / fps).max(1.0),
            begun: 0,
            tracks: matroska::tracks(&layout, (1e9 / fps).round() as u64),
        })
    }

    /// Whether a frame goes into this file.
    pub(super) fn takes(&self, frame: &VideoFrame, job: Option<&Arc<VideoJob>>) -> bool {
        self.life == frame.life
            && self.layout == frame.frame.picture().layout
            && job.is_some_and(|job| Arc::ptr_eq(job, &self.job))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Frames and bytes in the file.
    pub(super) fn written(&self) -> (u32, u64) {
        self.file.as_ref().map_or((0, 0), |file| (file.frames, file.length))
    }

    /// Whether it waits for FFmpeg to take a picture, or to end.
    pub(super) fn is_waiting(&self) -> bool {
        self.sending.is_some() || self.encoding.as_ref().is_some_and(Encoding::is_closed)
    }

    /// Takes a frame, when none is being sent. Of pictures that are kept as they come, it is in the file afterwards.
    pub(super) fn begin(&mut self, frame: VideoFrame, rows: &Counted<VideoRow>) -> Result<(), VideoError> {
        let VideoFrame { frame, ticket, .. } = frame;
        let meta = *frame.meta();
        if let Some(encoding) = &mut self.encoding {
            let time = (self.begun as f64 * self.period_ms).round() as u64;
            self.begun += 1;
            encoding.begin(time, frame.picture());
            self.in_encoder.push_back(InEncoder { time, meta, ticket });
            self.sending = Some(frame);
            return Ok(());
        }
        let written =
            append(&mut self.file, &self.path, &self.job, &self.tracks, &meta, true, frame.picture().bytes);
        self.settle(written, meta, ticket, rows)
    }

    fn settle(
        &self,
        written: Result<u32, VideoError>,
        meta: FrameMeta,
        ticket: Ticket,
        rows: &Counted<VideoRow>,
    ) -> Result<(), VideoError> {
        match written {
            Ok(frame) => {
                let row = VideoRow {
                    seq: meta.seq,
                    captured_at_ns: meta.captured_at.0,
                    segment: self.number,
                    frame,
                };
                // There was room before the frame was taken, and nobody else sends.
                rows.send(row).ok();
                ticket.delivered();
                Ok(())
            }
            Err(error) => {
                ticket.dropped(DropReason::Failed);
                Err(error)
            }
        }
    }

    /// Sends what the encoder takes and writes what it gives, one step at a time.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        rows: &Counted<VideoRow>,
    ) -> Poll<Result<Done, VideoError>> {
        let Some(encoding) = &mut self.encoding else { return Poll::Pending };
        let (file, path, job, tracks, waiting) =
            (&mut self.file, &self.path, &self.job, &mut self.tracks, &mut self.in_encoder);
        let part = encoding.poll_part(cx, |part| match part {
            Part::Scale(_) => Ok(None),
            Part::Tracks(element) => {
                *tracks = element.to_vec();
                Ok(None)
            }
            Part::Frame { time, is_key, data } => {
                // Those before it never come: FFmpeg could not use them.
                while let Some(unused) = waiting.pop_front_if(|frame| (frame.time as i64) < time) {
                    unused.ticket.dropped(DropReason::Undecodable);
                }
                let Some(frame) = waiting.pop_front_if(|frame| frame.time as i64 == time) else {
                    return Ok(None);
                };
                let written = append(file, path, job, tracks, &frame.meta, is_key, data);
                Ok(Some((written, frame)))
            }
        });
        match part {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(Some(Err(error)))) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(Some(Ok(None)))) => return Poll::Ready(Ok(Done::Step)),
            Poll::Ready(Ok(Some(Ok(Some((written, frame)))))) => {
                self.settle(written, frame.meta, frame.ticket, rows)?;
                return Poll::Ready(Ok(Done::Step));
            }
            Poll::Ready(Ok(None)) if encoding.is_closed() && self.in_encoder.is_empty() => {
                return Poll::Ready(Ok(Done::Finished));
            }
            Poll::Ready(Ok(None)) => {
                return Poll::Ready(Err(VideoError::Ended { how: encoding.end() }));
            }
            Poll::Pending => {}
        }
        if self.in_encoder.len() > MOST_IN_ENCODER {
            return Poll::Ready(Err(VideoError::StandsStill { how: encoding.end() }));
        }
        let Some(frame) = &self.sending else { return Poll::Pending };
        let sent = ready!(encoding.poll_send(cx, frame.picture()));
        self.sending = None;
        // A pipe that FFmpeg has closed: what it says of that comes with its end.
        if sent.is_err() {
            return Poll::Ready(Err(VideoError::Ended { how: encoding.end() }));
        }
        Poll::Ready(Ok(Done::Step))
    }

    /// No more frames: what is under way is finished. True if nothing is.
    pub(super) fn close(&mut self) -> bool {
        match &mut self.encoding {
            Some(encoding) => {
                encoding.close();
                false
            }
            None => true,
        }
    }

    /// What is to be done for all that is in the file to survive a loss of power, see there.
    pub(super) fn sync(
        &mut self,
    ) -> Result<Option<impl FnOnce() -> Result<(), VideoError> + use<>>, VideoError> {
        self.file.as_mut().map_or(Ok(None), VideoFile::sync)
    }

    /// FFmpeg did not do anything for too long.
    pub(super) fn stands_still(&mut self) -> VideoError {
        let how = self.encoding.as_mut().map_or_else(String::new, Encoding::end);
        VideoError::StandsStill { how }
    }

    /// Ends the file. Frames that are still in the encoder are lost.
    pub(super) fn finish(mut self) -> Result<(), VideoError> {
        for lost in self.in_encoder.drain(..) {
            lost.ticket.dropped(DropReason::Failed);
        }
        self.file.as_mut().map_or(Ok(()), VideoFile::finish)
    }
}

/// Appends a frame to the file, which is made for it if there is none.
fn append(
    file: &mut Option<VideoFile>,
    path: &Path,
    job: &Arc<VideoJob>,
    tracks: &[u8],
    meta: &FrameMeta,
    is_key: bool,
    data: &[u8],
) -> Result<u32, VideoError> {
    let file = match file {
        Some(file) => file,
        None => file.insert(VideoFile::create(path.to_owned(), Arc::clone(job), tracks, meta.captured_at)?),
    };
    file.append(meta.captured_at, is_key, data)
}
