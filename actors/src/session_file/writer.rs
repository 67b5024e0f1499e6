//! Writes the session file: takes rows as they come, and makes them durable at each flush.
//!
//! Owns the HDF5 file from creation to close. After creation it never makes a table or an attribute, so
//! readers may follow (SWMR) and a killed process loses at most what came after the last flush.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdf5::plist::{FileAccess, FileCreate};
use hdf5::types::FixedUnicode;
use hdf5::{File, Group, H5Type, Location};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::Serialize;
use youquanti_models::blendshapes;
use youquanti_models::face::{BLENDSHAPE_COUNT, FrameFaces, LANDMARK_COUNT};
use youquanti_models::ids::{CameraId, CameraName, ParticipantId, TrackId};
use youquanti_models::picture::{FrameMeta, PictureLayout};
use youquanti_models::pipeline::BackendInfo;
use youquanti_models::pose::{self, FramePose, POINT_VALUES, POSE_POINT_COUNT};
use youquanti_models::time::{Timestamp, UtcNanos};

use crate::calibration::StampOffset;
use crate::capture::{Asked, ControlReading};
use crate::recorder::Override;
use crate::synchrony::{Likeness, SynchronyOptions, SynchronyWindow};

use super::disk::{DiskSpace, OnDisk};
use super::journal::Journaled;
use super::recover::has_writer;
use super::schema::*;
use super::table::{Table, TableLayout};
use super::{SessionFileError, failed_to};

/// What is known when a session starts; becomes attributes.
#[derive(Clone, Copy, Debug)]
pub struct SessionHeader<'a> {
    /// Unique for each session; all recordings of a session share it.
    pub session_id: &'a str,
    /// What people call the session.
    pub name: &'a str,
    /// Counts the recordings of the session from 1.
    pub recording: u32,
    /// What is to be known about this recording, at most 60 KiB.
    pub notes: &'a str,
    /// Who started it; empty if nobody said.
    pub recorded_by: &'a str,
    /// Set where the session was started although something is missing.
    pub overridden: Option<&'a Override>,
    /// Calendar time at `clock_start`.
    pub utc_start: UtcNanos,
    /// When the recording started.
    pub clock_start: Timestamp,
    /// Program and version.
    pub software: &'a str,
    /// The whole configuration as TOML, at most 60 KiB.
    pub config_text: &'a str,
    /// The back end and the networks it runs.
    pub backend: &'a BackendInfo,
    /// Id and SHA-256 of the networks that look for bodies; `None`: nothing looks for them.
    pub pose: Option<&'a [(String, String)]>,
    /// In the order of their `CameraId`.
    pub cameras: &'a [CameraHeader<'a>],
    /// What is compared between participants, if anything.
    pub synchrony: Option<&'a SynchronyOptions>,
    /// How the file is written.
    pub options: SessionOptions,
}

/// A camera of the session; becomes attributes of `/cameras/<name>`.
#[derive(Clone, Copy, Debug)]
pub struct CameraHeader<'a> {
    /// Name of the camera's group.
    pub name: &'a CameraName,
    /// Size and format of its pictures.
    pub layout: PictureLayout,
    /// Driver, model, serial number, address: what identifies it.
    pub device: &'a str,
    /// What the stamps are: whose clock, which instant of the exposure, which resolution.
    pub stamp_source: &'a str,
    /// `seq` of the first frame that belongs to the file.
    pub first_seq: u64,
    /// What was asked of it.
    pub asked: Asked,
    /// Frames a second as it declares them; `None` if it was never opened.
    pub fps: Option<f64>,
    /// Its controls when it was opened, at most 60 KiB as JSON.
    pub controls: &'a [ControlReading],
    /// Stamp minus light, if it was measured.
    pub stamp_offset: Option<StampOffset>,
    /// Codec and encoder of its video; `none` without.
    pub video: &'a str,
}

/// Whether faces are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Rows are on disk after each flush.
    #[default]
    None,
    /// Shuffle and deflate: 1.2 to 1.4 times smaller, more than ten times slower to write. Rows of an
    /// incomplete chunk (16 faces of a camera) wait for the next flush, in all up to two seconds, and that long is
    /// lost by a kill.
    Deflate,
}

/// How a session file is written.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Whether faces are compressed.
    pub compression: Compression,
    /// Bytes set aside for closing the file, and as many that must stay free while recording.
    /// Raised to four times what waits in memory.
    pub reserve_bytes: u64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { compression: Compression::None, reserve_bytes: 64 << 20 }
    }
}

/// A row of `/participants`. Texts beyond their column are cut: name and why 64 bytes, role 32.
#[derive(Clone, Copy, Debug)]
pub struct Participant<'a> {
    /// From when on.
    pub time: Timestamp,
    /// Who.
    pub id: ParticipantId,
    /// Their name, from the configuration.
    pub name: &'a str,
    /// Their role, from the configuration.
    pub role: &'a str,
    /// The camera that the track is in.
    pub camera: &'a str,
    /// The track that is theirs from now on.
    pub track: TrackId,
    /// Why it was given to them.
    pub why: &'a str,
}

/// A row of `/gaps`: a gap that was noticed, or one that has ended. Source and cause beyond 64 bytes are cut.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'a> {
    /// The last sign of life before. Tells the gaps of a source apart.
    pub start: Timestamp,
    /// The first one after; `None` while it is away.
    pub end: Option<Timestamp>,
    /// What is away, e.g. a camera's name.
    pub source: &'a str,
    /// Why.
    pub cause: &'a str,
    /// More about it.
    pub json: &'a str,
}

/// What a flush made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushReport {
    /// Rows of frames and faces that this flush added to what a reader sees.
    pub rows: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Free space of its disk.
    pub free_bytes: u64,
    /// Why its journal failed, if it did in this flush. The rows are safe; a loss of power in the middle of a later flush may cost
    /// tables.
    pub journal_lost: Option<String>,
}

/// What a finished file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// Frames of each camera, in the order of the header.
    pub frames: Vec<u64>,
    /// Faces of each camera, in the order of the header.
    pub faces: Vec<u64>,
    /// Rows were refused, because the disk was full or a write failed.
    pub complete: bool,
}

/// How long after a flush that left them behind rows of an incomplete compressed chunk go out all the same: with the next
/// one, if flushes are a second apart. The space of the incomplete chunk is lost then; with 16 faces a second and more that
/// never comes to pass.
const DEFLATE_HOLD_NANOS: u64 = 900_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Recording,
    /// For good, also if the disk has space again: bytes that were free.
    DiskFull(u64),
    /// A flush failed although HDF5 has all rows: another attempt may succeed.
    Unsafe,
    /// HDF5 may take rows for written that are not: no more than those of the last flush count.
    Broken,
}

/// The tables of one camera. Row i of faces, landmarks, blendshapes and head_pose belongs together.
struct CameraTables {
    frames: Table<FrameRow>,
    video: Table<VideoRow>,
    results: Table<ResultRow>,
    faces: Table<FaceRow>,
    landmarks: Table<f32>,
    blendshapes: Table<f32>,
    head_pose: Table<f32>,
    pose: Option<PoseTables>,
    /// A flush, and how many faces there were; another one is noted here once all of those have gone out.
    left_behind: (Timestamp, u64),
}

/// The tables of a camera's body. Row i of both belongs together.
struct PoseTables {
    rows: Table<PoseRow>,
    points: Table<f32>,
}

/// The tables of synchrony. Row i of both belongs together.
struct SynchronyTables {
    pairs: Table<PairRow>,
    windows: Table<WindowRow>,
    values: Table<f32>,
    /// A row of `values`, made anew for each window in the same memory.
    row: Vec<f32>,
}

/// An open session file. Dropping it without [`finish`](Self::finish) keeps what was flushed.
pub struct SessionWriter {
    cameras: Vec<CameraTables>,
    participants: Table<ParticipantRow>,
    markers: Table<TextRow>,
    events: Table<TextRow>,
    gaps: Table<GapRow>,
    text: Table<u8>,
    ledger: Table<LedgerRow>,
    quality: Table<QualityRow>,
    clock: Table<ClockRow>,
    stop: Table<StopRow>,
    synchrony: Option<SynchronyTables>,
    committed: Table<u64>,
    /// A row of `/committed`, made anew at each flush in the same memory.
    commit_row: Vec<u64>,
    /// The newest that is safe; before the first, zeros.
    safe_row: Vec<u64>,
    file: File,
    storage: Arc<Mutex<Journaled>>,
    path: PathBuf,
    /// None while the file does not have its name yet.
    on_disk: Option<OnDisk>,
    space: DiskSpace,
    /// Bytes appended since free space was last looked at.
    unchecked_bytes: u64,
    state: State,
}

impl SessionWriter {
    /// Makes the file with all its tables and attributes, and lets readers in.
    ///
    /// # Errors
    /// `AlreadyExists`, `Create`, `DiskFull`, `HeaderTooLong`, `Hdf5`; no file is left behind then.
    pub fn create(path: &Path, header: &SessionHeader<'_>) -> Result<Self, SessionFileError> {
        if path.exists() {
            return Err(SessionFileError::AlreadyExists { path: path.to_owned() });
        }
        // Under another name until it can be read: somebody who opened it earlier would hold HDF5's lock.
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let failed = |source| SessionFileError::Create { path: path.to_owned(), source };
        let begin = || OpenOptions::new().read(true).write(true).create_new(true).open(&unfinished);
        let file = match begin() {
            // Of a program that was killed while it made the file: nobody holds it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !has_writer(&unfinished) => {
                fs::remove_file(&unfinished).and_then(|()| begin())
            }
            begun => begun,
        };
        let file = file.map_err(failed)?;
        let made = Self::fill(path, file, header).and_then(|mut writer| {
            match renameat_with(CWD, &unfinished, CWD, path, RenameFlags::NOREPLACE) {
                Ok(()) => match writer.hold() {
                    Ok(()) => Ok(writer),
                    Err(error) => {
                        // It is ours, and without rows; the error says more than a failure to remove it.
                        fs::remove_file(path).ok();
                        Err(error)
                    }
                },
                Err(Errno::EXIST) => Err(SessionFileError::AlreadyExists { path: path.to_owned() }),
                Err(error) => Err(failed(error.into())),
            }
        });
        made.inspect_err(|_| {
            // The error that is returned says more than a failure to remove a file without rows.
            fs::remove_file(&unfinished).ok();
        })
    }

    /// Takes hold of the file, which has its name now, and makes it safe.
    fn hold(&mut self) -> Result<(), SessionFileError> {
        let protected = self.storage().protect(&self.path);
        protected.map_err(|source| SessionFileError::Create { path: self.path.clone(), source })?;
        // Its name and the journal's are made safe with the folder.
        self.on_disk = Some(OnDisk::hold(&self.path)?);
        Ok(())
    }

    /// Turns an empty file into a session file that will be called `path`.
    fn fill(path: &Path, file: fs::File, header: &SessionHeader<'_>) -> Result<Self, SessionFileError> {
        let waiting = buffered_bytes(header.cameras.len(), header.pose.is_some(), header.synchrony);
        let space = DiskSpace::set_aside(path, header.options.reserve_bytes.max(4 * waiting))?;
        let keeps_rows = header.options.compression == Compression::Deflate;
        let storage = Arc::new(Mutex::new(Journaled::new(file, keeps_rows)));
        let name = path.display().to_string();
        let file = FileAccess::build()
            .libver_v110()
            .finish()
            .and_then(|access| youquanti_hdf5::create(&storage, &name, &access, &FileCreate::try_new()?))
            .map_err(failed_to("create", name))?;
        write_header(&file, header)?;
        let parent = file.create_group(CAMERAS).map_err(failed_to("create", CAMERAS))?;
        let cameras = (0..)
            .zip(header.cameras)
            .map(|(index, camera)| CameraTables::create(&parent, index, camera, header))
            .collect::<Result<Vec<_>, _>>()?;
        let synchrony =
            header.synchrony.map(|options| SynchronyTables::create(&file, options)).transpose()?;
        let columns = committed_columns(header.cameras, header.pose.is_some(), synchrony.is_some());
        let mut writer = Self {
            cameras,
            participants: small(&file, PARTICIPANTS)?,
            markers: small(&file, MARKERS)?,
            events: small(&file, EVENTS)?,
            gaps: small(&file, GAPS)?,
            text: table(&file, TEXT, &[], chunk_rows::TEXT, false)?,
            ledger: small(&file, LEDGER)?,
            quality: small(&file, QUALITY)?,
            clock: small(&file, CLOCK)?,
            stop: small(&file, STOP)?,
            synchrony,
            committed: table(&file, COMMITTED, &[columns.len()], chunk_rows::SMALL, false)?,
            commit_row: Vec::with_capacity(columns.len()),
            safe_row: vec![0; columns.len()],
            file,
            storage,
            path: path.to_owned(),
            on_disk: None,
            space,
            unchecked_bytes: 0,
            state: State::Recording,
        };
        list_attribute(writer.committed.dataset(), COLUMNS, &columns)?;
        writer.file.start_swmr().map_err(failed_to("share", path.display().to_string()))?;
        writer.append_clock(header.clock_start, header.utc_start)?;
        writer.flush(header.clock_start)?;
        Ok(writer)
    }

    /// Flushes no longer wait for the disk from here on, so that what that costs can be measured.
    #[cfg(feature = "testing")]
    pub fn never_wait_for_the_disk(&mut self) {
        self.storage().never_wait();
    }

    /// Bytes that must stay free while it is written: those of the options, or as many as it takes.
    pub fn reserve_bytes(&self) -> u64 {
        self.space.reserve_bytes()
    }

    /// Adds a frame to its camera's index.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `UnknownCamera`, `Hdf5`.
    pub fn append_frame(&mut self, meta: &FrameMeta) -> Result<(), SessionFileError> {
        self.admit(size_of::<FrameRow>())?;
        let row = FrameRow {
            seq: meta.seq,
            driver_seq: meta.driver_seq,
            flags: meta.flags.0.into(),
            captured_at_ns: meta.captured_at.0,
            received_at_ns: meta.received_at.0,
        };
        let result = camera_of(&mut self.cameras, meta.camera)?.frames.append(&[row]);
        self.note(result, FRAMES)
    }

    /// Adds a frame of a camera's video, which is in its file.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `UnknownCamera`, `Hdf5`.
    pub fn append_video(&mut self, camera: CameraId, row: VideoRow) -> Result<(), SessionFileError> {
        self.admit(size_of::<VideoRow>())?;
        let result = camera_of(&mut self.cameras, camera)?.video.append(&[row]);
        self.note(result, VIDEO)
    }

    /// Adds the result of an analysed frame, with all its faces; `participants[i]` is who `faces[i]` is.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `UnknownCamera`, `ParticipantCount`, `Hdf5`.
    pub fn append_faces(
        &mut self,
        found: &FrameFaces,
        participants: &[Option<ParticipantId>],
    ) -> Result<(), SessionFileError> {
        if found.faces.len() != participants.len() {
            return Err(SessionFileError::ParticipantCount {
                faces: found.faces.len(),
                participants: participants.len(),
            });
        }
        self.admit(size_of::<ResultRow>() + found.faces.len() * FACE_BYTES)?;
        let result = camera_of(&mut self.cameras, found.meta.camera)?.append_faces(found, participants);
        self.note(result, FACES)
    }

    /// Adds what was found of a body in a frame.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `UnknownCamera`, `NotAsked`, `Hdf5`.
    pub fn append_pose(&mut self, found: &FramePose) -> Result<(), SessionFileError> {
        self.admit(POSE_BYTES)?;
        let tables = &mut camera_of(&mut self.cameras, found.meta.camera)?.pose;
        let tables = tables.as_mut().ok_or(SessionFileError::NotAsked { table: POSE })?;
        let result = tables.append(found);
        self.note(result, POSE)
    }

    /// Adds an event: what happened to the session itself. `json` is kept whole; `source` and `kind` beyond
    /// 64 bytes are cut.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_event(
        &mut self,
        time: Timestamp,
        source: &str,
        kind: &str,
        json: &str,
    ) -> Result<(), SessionFileError> {
        let row = self.text_row(time, source, kind, json)?;
        let result = self.events.append(&[row]);
        self.note(result, EVENTS)
    }

    /// Adds a marker: what happened in the experiment, from an operator or a stream. Like an event otherwise.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_marker(
        &mut self,
        time: Timestamp,
        source: &str,
        kind: &str,
        json: &str,
    ) -> Result<(), SessionFileError> {
        let row = self.text_row(time, source, kind, json)?;
        let result = self.markers.append(&[row]);
        self.note(result, MARKERS)
    }

    /// Adds a gap when it is noticed, and once more, with the same start, when it has ended.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_gap(&mut self, gap: &Gap<'_>) -> Result<(), SessionFileError> {
        let text = self.text_row(gap.start, gap.source, gap.cause, gap.json)?;
        let result = self.gaps.append(&[GapRow {
            time_ns: gap.start.0,
            end_ns: gap.end.unwrap_or_default().0,
            text_offset: text.text_offset,
            text_length: text.text_length,
            source: text.source,
            cause: text.kind,
        }]);
        self.note(result, GAPS)
    }

    /// Adds that a track belongs to a participant from now on.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_participant(&mut self, participant: &Participant<'_>) -> Result<(), SessionFileError> {
        self.admit(size_of::<ParticipantRow>())?;
        let result = self.participants.append(&[ParticipantRow {
            time_ns: participant.time.0,
            id: participant.id.0.into(),
            track: participant.track.0,
            name: fixed(participant.name),
            role: fixed(participant.role),
            camera: fixed(participant.camera),
            why: fixed(participant.why),
        }]);
        self.note(result, PARTICIPANTS)
    }

    /// Adds a count of the ledger since the file's beginning; see [`ledger_item`].
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_ledger(
        &mut self,
        time: Timestamp,
        camera: &str,
        consumer: &str,
        item: &str,
        count: u64,
    ) -> Result<(), SessionFileError> {
        self.admit(size_of::<LedgerRow>())?;
        self.put_ledger(time, camera, consumer, item, count)
    }

    /// Adds a measure of quality of a camera, a participant or the machine.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_quality(
        &mut self,
        time: Timestamp,
        source: &str,
        item: &str,
        value: f64,
    ) -> Result<(), SessionFileError> {
        self.admit(size_of::<QualityRow>())?;
        let row = QualityRow { time_ns: time.0, value, source: fixed(source), item: fixed(item) };
        let result = self.quality.append(&[row]);
        self.note(result, QUALITY)
    }

    /// Adds a window of synchrony.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `NotAsked`, `Hdf5`.
    pub fn append_synchrony(&mut self, window: &SynchronyWindow) -> Result<(), SessionFileError> {
        self.admit(size_of::<WindowRow>() + size_of_val(&*window.likeness))?;
        let Some(tables) = &mut self.synchrony else {
            return Err(SessionFileError::NotAsked { table: SYNCHRONY });
        };
        let result = tables.append(window);
        self.note(result, SYNCHRONY)
    }

    /// Adds the same instant on both clocks.
    ///
    /// # Errors
    /// `DiskFull`, `Broken`, `Hdf5`.
    pub fn append_clock(&mut self, time: Timestamp, utc: UtcNanos) -> Result<(), SessionFileError> {
        self.admit(size_of::<ClockRow>())?;
        let result = self.clock.append(&[ClockRow { time_ns: time.0, utc_ns: utc.0 }]);
        self.note(result, CLOCK)
    }

    /// Makes all rows so far visible to readers and safe from a kill and a loss of power, `now` being the time of it.
    ///
    /// # Errors
    /// `DiskFull`: the rows are safe all the same, but no more are taken; call [`finish`](Self::finish).
    /// `FreeSpace`: the rows are safe all the same.
    /// `Removed`: the file has no name any more; `finish` gives it one again.
    /// `Hdf5`: the rows since the last flush are lost, and `finish` closes the file with those before.
    /// `Sync`: they are not safe; `finish` tries once more.
    /// `Broken`: an earlier flush or append failed.
    pub fn flush(&mut self, now: Timestamp) -> Result<FlushReport, SessionFileError> {
        if matches!(self.state, State::Unsafe | State::Broken) {
            return Err(SessionFileError::Broken { path: self.path.clone() });
        }
        if let Some(on_disk) = &self.on_disk {
            on_disk.check_named()?;
        }
        let space = self.check_space();
        let rows = self.commit(now, false)?;
        let free_bytes = space?;
        let journal_lost = self.storage().journal_lost().map(|error| error.to_string());
        Ok(FlushReport { rows, file_bytes: self.file.size(), free_bytes, journal_lost })
    }

    /// Writes the last rows, the final ledger as (camera, consumer, item, count) and the verdict, and closes
    /// the file so that any reader opens it plainly. Works on a full disk, with the space that was set aside.
    ///
    /// # Errors
    /// `Hdf5`, `Sync`: what earlier flushes made safe is in the file, which opens with SWMR reading.
    /// `Create`: the file had been removed, and cannot be written again.
    pub fn finish(
        mut self,
        now: Timestamp,
        utc: UtcNanos,
        ledger: &[(&str, &str, &str, u64)],
        verdict: &str,
    ) -> Result<Summary, SessionFileError> {
        self.space.release();
        for &(camera, consumer, item, count) in ledger {
            self.put_ledger(now, camera, consumer, item, count)?;
        }
        let (text_offset, text_length) = self.put_text(verdict)?;
        let stop = StopRow { time_ns: now.0, utc_ns: utc.0, text_offset, text_length };
        self.stop.append(&[stop]).map_err(failed_to("append to", STOP))?;
        self.commit(now, true)?;
        let is_removed = self.on_disk.as_ref().is_some_and(|on_disk| on_disk.check_named().is_err());
        let mut summary = Summary {
            path: self.path,
            file_bytes: 0,
            frames: self.cameras.iter().map(|camera| camera.frames.written()).collect(),
            faces: self.cameras.iter().map(|camera| camera.faces.written()).collect(),
            complete: self.state == State::Recording && !is_removed,
        };
        // Tables hold the file open, so they go first.
        drop((self.cameras, self.participants, self.markers, self.events, self.gaps, self.text));
        drop((self.ledger, self.quality, self.clock, self.stop, self.synchrony, self.committed));
        self.file.close().map_err(failed_to("close", summary.path.display().to_string()))?;
        if let Some(on_disk) = self.on_disk.filter(|_| is_removed) {
            on_disk.write_again()?;
        }
        summary.file_bytes = fs::metadata(&summary.path).map_or(0, |meta| meta.len());
        Ok(summary)
    }

    /// Refuses rows when there is no place for them; looks at the disk now and then.
    fn admit(&mut self, bytes: usize) -> Result<(), SessionFileError> {
        self.unchecked_bytes += bytes as u64;
        match self.state {
            State::Unsafe | State::Broken => Err(SessionFileError::Broken { path: self.path.clone() }),
            State::Recording if self.unchecked_bytes < self.space.reserve_bytes() / 4 => Ok(()),
            State::Recording | State::DiskFull(_) => self.check_space().map(drop),
        }
    }

    /// Looks at the disk; when it is full, gives the reserve back and takes no more rows from now on.
    fn check_space(&mut self) -> Result<u64, SessionFileError> {
        self.unchecked_bytes = 0;
        if let State::DiskFull(free) = self.state {
            return Err(self.space.full(free));
        }
        let result = self.space.check();
        if let Err(SessionFileError::DiskFull { free, .. }) = result {
            self.state = State::DiskFull(free);
            self.space.release();
        }
        result
    }

    /// Notes that a write failed, which a later one cannot undo.
    fn note(&mut self, result: Result<(), hdf5::Error>, table: &'static str) -> Result<(), SessionFileError> {
        result.map_err(|source| {
            self.state = State::Broken;
            self.space.release();
            failed_to("append to", table)(source)
        })
    }

    fn put_ledger(
        &mut self,
        time: Timestamp,
        camera: &str,
        consumer: &str,
        item: &str,
        count: u64,
    ) -> Result<(), SessionFileError> {
        let result = self.ledger.append(&[LedgerRow {
            time_ns: time.0,
            count,
            camera: fixed(camera),
            consumer: fixed(consumer),
            item: fixed(item),
        }]);
        self.note(result, LEDGER)
    }

    /// Adds a text to the blob table and says where it is.
    fn put_text(&mut self, text: &str) -> Result<(u64, u64), SessionFileError> {
        let offset = self.text.rows();
        let result = self.text.append(text.as_bytes());
        self.note(result, TEXT)?;
        Ok((offset, text.len() as u64))
    }

    fn text_row(
        &mut self,
        time: Timestamp,
        source: &str,
        kind: &str,
        json: &str,
    ) -> Result<TextRow, SessionFileError> {
        self.admit(size_of::<GapRow>() + json.len())?;
        let (text_offset, text_length) = self.put_text(json)?;
        Ok(TextRow { time_ns: time.0, text_offset, text_length, source: fixed(source), kind: fixed(kind) })
    }

    /// Writes and flushes all tables, then the row of `/committed` that makes them count.
    /// Returns how many rows of cameras it added.
    fn commit(&mut self, now: Timestamp, everything: bool) -> Result<u64, SessionFileError> {
        let result = self.try_commit(now, everything);
        if let Err(error) = &result {
            let has_all = matches!(error, SessionFileError::Sync { .. }) && self.state != State::Broken;
            self.state = if has_all { State::Unsafe } else { State::Broken };
            self.space.release();
        }
        result
    }

    fn try_commit(&mut self, now: Timestamp, everything: bool) -> Result<u64, SessionFileError> {
        if self.state != State::Broken {
            self.write_out(now, everything)?;
        }
        self.text.write_out().map_err(failed_to("write rows to", TEXT))?;
        self.ledger.write_out().map_err(failed_to("write rows to", LEDGER))?;
        self.stop.write_out().map_err(failed_to("write rows to", STOP))?;
        // What HDF5 knows of the rows first, of the row that makes them count after it: readers see them in this order.
        self.file.flush().map_err(failed_to("flush", self.path.display().to_string()))?;

        // In the order of `committed_columns`.
        self.commit_row.clear();
        self.commit_row.push(now.0);
        for camera in &self.cameras {
            self.commit_row.extend(camera.committed());
        }
        let of_cameras = self.commit_row.len();
        self.commit_row.extend([
            self.participants.written(),
            self.markers.written(),
            self.events.written(),
            self.gaps.written(),
            self.text.written(),
            self.ledger.written(),
            self.quality.written(),
            self.clock.written(),
            self.stop.written(),
        ]);
        if let Some(synchrony) = &self.synchrony {
            self.commit_row.extend([synchrony.pairs.written(), synchrony.windows.written()]);
        }
        if self.state == State::Broken {
            let of_the_end = OF_SESSION.map(|table| [TEXT, LEDGER, STOP].contains(&table));
            for (column, rows) in self.commit_row.iter_mut().enumerate().skip(1) {
                let of_session = column.checked_sub(of_cameras).and_then(|column| of_the_end.get(column));
                if of_session != Some(&true) {
                    *rows = self.safe_row[column];
                }
            }
        }
        let rows_of_cameras = |row: &[u64]| row[1..of_cameras].iter().sum::<u64>();
        let added = rows_of_cameras(&self.commit_row) - rows_of_cameras(&self.safe_row);
        self.committed.append(&self.commit_row).map_err(failed_to("append to", COMMITTED))?;
        self.committed.write_out().map_err(failed_to("write rows to", COMMITTED))?;
        self.committed.dataset().flush().map_err(failed_to("flush", COMMITTED))?;
        let committed = self.storage().commit();
        committed.map_err(|source| SessionFileError::Sync { path: self.path.clone(), source })?;
        self.safe_row.clone_from(&self.commit_row);
        Ok(added)
    }

    /// Hands the rows that wait to HDF5, but for those that [`finish`](Self::finish) adds.
    fn write_out(&mut self, now: Timestamp, everything: bool) -> Result<(), SessionFileError> {
        for camera in &mut self.cameras {
            camera.write_out(now, everything).map_err(failed_to("write rows to", CAMERAS))?;
        }
        self.participants.write_out().map_err(failed_to("write rows to", PARTICIPANTS))?;
        self.markers.write_out().map_err(failed_to("write rows to", MARKERS))?;
        self.events.write_out().map_err(failed_to("write rows to", EVENTS))?;
        self.gaps.write_out().map_err(failed_to("write rows to", GAPS))?;
        self.quality.write_out().map_err(failed_to("write rows to", QUALITY))?;
        self.clock.write_out().map_err(failed_to("write rows to", CLOCK))?;
        if let Some(synchrony) = &mut self.synchrony {
            synchrony.write_out().map_err(failed_to("write rows to", SYNCHRONY))?;
        }
        Ok(())
    }

    fn storage(&self) -> MutexGuard<'_, Journaled> {
        // A panic while it was held left it as good as an error does.
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CameraTables {
    /// Its columns of `/committed`, see [`committed_columns`].
    fn committed(&self) -> impl Iterator<Item = u64> {
        let always =
            [self.frames.written(), self.results.written(), self.faces.written(), self.video.written()];
        always.into_iter().chain(self.pose.as_ref().map(|pose| pose.rows.written()))
    }

    fn create(
        parent: &Group,
        index: u16,
        camera: &CameraHeader<'_>,
        header: &SessionHeader<'_>,
    ) -> Result<Self, SessionFileError> {
        let name = camera.name.as_str();
        let group = parent.create_group(name).map_err(failed_to("create", name))?;
        number(&group, "index", index)?;
        number(&group, "width", camera.layout.width)?;
        number(&group, "height", camera.layout.height)?;
        number(&group, "stride", camera.layout.stride)?;
        text_attribute(&group, "pixel_format", camera.layout.format.name())?;
        text_attribute(&group, "device", camera.device)?;
        text_attribute(&group, "stamp_source", camera.stamp_source)?;
        mode_attributes(&group, camera)?;
        let deflate = header.options.compression == Compression::Deflate;
        let faces = chunk_rows::FACES;
        let tables = Self {
            frames: table(&group, FRAMES, &[], chunk_rows::FRAMES, false)?,
            video: table(&group, VIDEO, &[], chunk_rows::FRAMES, false)?,
            results: table(&group, RESULTS, &[], chunk_rows::FRAMES, false)?,
            faces: table(&group, FACES, &[], faces, deflate)?,
            landmarks: table(&group, LANDMARKS, &[LANDMARK_COUNT, 3], faces, deflate)?,
            blendshapes: table(&group, BLENDSHAPES, &[BLENDSHAPE_COUNT], faces, deflate)?,
            head_pose: table(&group, HEAD_POSE, &[4, 4], faces, deflate)?,
            pose: header.pose.map(|_| PoseTables::create(&group)).transpose()?,
            left_behind: (Timestamp(0), 0),
        };
        list_attribute(tables.faces.dataset(), "latency_stages", &LATENCY_STAGES)?;
        number(tables.faces.dataset(), "latency_not_run", NOT_RUN)?;
        text_attribute(tables.faces.dataset(), "latency_origin", "captured_at_ns")?;
        text_attribute(tables.faces.dataset(), "bbox", "x0, y0, x1, y1, pixels of the camera picture")?;
        text_attribute(
            tables.landmarks.dataset(),
            "units",
            "pixels of the camera picture, x right, y down, z in the same unit, negative is nearer",
        )?;
        list_attribute(tables.blendshapes.dataset(), "names", &blendshapes::NAMES)?;
        text_attribute(
            tables.head_pose.dataset(),
            "units",
            "canonical face to camera, metres, right-handed, camera looks along -z, for a vertical field of view of 63 degrees",
        )?;
        Ok(tables)
    }

    fn append_faces(
        &mut self,
        found: &FrameFaces,
        participants: &[Option<ParticipantId>],
    ) -> Result<(), hdf5::Error> {
        let (meta, stamps) = (&found.meta, &found.stamps);
        self.results.append(&[ResultRow {
            frame_seq: meta.seq,
            captured_at_ns: meta.captured_at.0,
            faces: u32::try_from(found.faces.len()).unwrap_or(u32::MAX),
            over_limit: found.over_limit,
            detector_ran: found.detector_ran.into(),
        }])?;
        let latency_us = [
            meta.received_at,
            stamps.submitted,
            stamps.uploaded,
            stamps.detected,
            stamps.landmarks,
            stamps.published,
        ]
        .map(|done| if done.0 == 0 { NOT_RUN } else { done.micros_since(meta.captured_at) });
        for (face, participant) in found.faces.iter().zip(participants) {
            self.faces.append(&[FaceRow {
                frame_seq: meta.seq,
                captured_at_ns: meta.captured_at.0,
                track: face.track.0,
                participant: participant.map_or(0, |id| id.0.into()),
                score: face.score,
                bbox: face.bbox,
                presence: face.presence,
                sharpness: face.sharpness.map_or(f64::NAN, f64::from),
                latency_us,
            }])?;
            self.landmarks.append(face.landmarks.as_flattened())?;
            self.blendshapes.append(&face.blendshapes)?;
            self.head_pose.append(face.head_pose.as_flattened())?;
        }
        Ok(())
    }

    /// Hands waiting rows to HDF5; an incomplete compressed chunk only now and then, or for the last time.
    fn write_out(&mut self, now: Timestamp, everything: bool) -> Result<(), hdf5::Error> {
        self.frames.write_out()?;
        self.video.write_out()?;
        self.results.write_out()?;
        if let Some(pose) = &mut self.pose {
            pose.rows.write_out()?;
            pose.points.write_out()?;
        }
        let (since, rows) = self.left_behind;
        let are_out = self.faces.written() >= rows;
        if are_out {
            self.left_behind = (now, self.faces.rows());
        }
        if everything || (!are_out && now.0.saturating_sub(since.0) >= DEFLATE_HOLD_NANOS) {
            self.faces.write_out()?;
            self.landmarks.write_out()?;
            self.blendshapes.write_out()?;
            self.head_pose.write_out()
        } else {
            self.faces.write_whole_chunks()?;
            self.landmarks.write_whole_chunks()?;
            self.blendshapes.write_whole_chunks()?;
            self.head_pose.write_whole_chunks()
        }
    }
}

impl PoseTables {
    fn create(group: &Group) -> Result<Self, SessionFileError> {
        let tables = Self {
            rows: table(group, POSE, &[], chunk_rows::FACES, false)?,
            points: table(
                group,
                POSE_POINTS,
                &[POSE_POINT_COUNT, POINT_VALUES.len()],
                chunk_rows::FACES,
                false,
            )?,
        };
        let points = tables.points.dataset();
        list_attribute(points, "names", &pose::NAMES)?;
        list_attribute(points, "columns", &POINT_VALUES)?;
        text_attribute(
            points,
            "units",
            "x, y: pixels of the camera picture, x right, y down; z: the same unit, 0 at the mid-hip, negative is nearer; visibility, \
             presence: 0 to 1; NaN: no body",
        )?;
        Ok(tables)
    }

    fn append(&mut self, found: &FramePose) -> Result<(), hdf5::Error> {
        let (meta, body) = (&found.meta, &found.body);
        self.rows.append(&[PoseRow {
            frame_seq: meta.seq,
            captured_at_ns: meta.captured_at.0,
            valid: body.is_some().into(),
            detector_ran: found.detector_ran.into(),
            latency_us: found.found_at.micros_since(meta.captured_at),
            presence: found.presence,
            score: body.as_ref().map_or(f32::NAN, |body| body.score),
        }])?;
        let nowhere = [[f32::NAN; POINT_VALUES.len()]; POSE_POINT_COUNT];
        let points = body.as_ref().map_or(&nowhere, |body| &body.points);
        self.points.append(points.as_flattened())
    }
}

impl SynchronyTables {
    fn create(file: &File, options: &SynchronyOptions) -> Result<Self, SessionFileError> {
        let group = file.create_group(SYNCHRONY).map_err(failed_to("create", SYNCHRONY))?;
        let pairs: Vec<_> = options
            .pairs()
            .map(|[first, second]| PairRow { first: first.0.into(), second: second.0.into() })
            .collect();
        let shape = [pairs.len(), options.groups.len(), LIKENESS_COLUMNS.len()];
        let mut tables = Self {
            pairs: small(&group, PAIRS)?,
            windows: table(&group, WINDOWS, &[], chunk_rows::SMALL, false)?,
            values: table(&group, VALUES, &shape, chunk_rows::synchrony(options), false)?,
            row: Vec::with_capacity(shape.iter().product()),
        };
        let values = tables.values.dataset();
        list_attribute(values, "columns", &LIKENESS_COLUMNS)?;
        let names: Vec<_> = options.groups.iter().map(|group| &group.name).collect();
        list_attribute(values, "groups", &names)?;
        let channels: Vec<Vec<_>> = options.groups.iter().map(|group| group.names().collect()).collect();
        json_attribute(values, "channels", &channels)?;
        text_attribute(
            values,
            "units",
            "r: -1 to 1, at the lag where |r| is largest; lag_s: seconds, positive: the second participant follows the \
             first; p: of |r| under circular shifts, above 0 to 1; common: part of the window; NaN: not known",
        )?;
        tables.pairs.append(&pairs).map_err(failed_to("append to", PAIRS))?;
        Ok(tables)
    }

    fn append(&mut self, window: &SynchronyWindow) -> Result<(), hdf5::Error> {
        self.windows.append(&[WindowRow { start_ns: window.start.0, end_ns: window.end.0 }])?;
        self.row.clear();
        self.row.extend(window.likeness.iter().flat_map(Likeness::columns));
        self.values.append(&self.row)
    }

    fn write_out(&mut self) -> Result<(), hdf5::Error> {
        self.pairs.write_out()?;
        self.windows.write_out()?;
        self.values.write_out()
    }
}

/// What was asked of a camera, what it gives, and what is known of its stamps.
fn mode_attributes(group: &Group, camera: &CameraHeader<'_>) -> Result<(), SessionFileError> {
    number(group, camera_attribute::FIRST_SEQ, camera.first_seq)?;
    json_attribute(group, camera_attribute::ASKED, &AskedMode::from(camera.asked))?;
    if let Some(fps) = camera.fps {
        number(group, camera_attribute::FPS, fps)?;
    }
    json_attribute(group, camera_attribute::CONTROLS, camera.controls)?;
    text_attribute(group, camera_attribute::VIDEO, camera.video)?;
    number(group, camera_attribute::CALIBRATED, u8::from(camera.stamp_offset.is_some()))?;
    let Some(offset) = camera.stamp_offset else { return Ok(()) };
    number(group, camera_attribute::OFFSET_MEAN, offset.mean_s)?;
    number(group, camera_attribute::OFFSET_RMS, offset.rms_s)?;
    number(group, camera_attribute::OFFSET_MEDIAN, offset.median_s)?;
    number(group, camera_attribute::OFFSET_P05, offset.p05_s)?;
    number(group, camera_attribute::OFFSET_P95, offset.p95_s)?;
    number(group, camera_attribute::OFFSET_COUNT, offset.count)?;
    number(group, camera_attribute::OFFSET_MEASURED, offset.measured_at_utc_ns)
}

/// Upper bound of what waits in memory.
fn buffered_bytes(cameras: usize, has_pose: bool, synchrony: Option<&SynchronyOptions>) -> u64 {
    let index = chunk_rows::FRAMES * (size_of::<FrameRow>() + size_of::<ResultRow>() + size_of::<VideoRow>());
    let pose = if has_pose { POSE_BYTES } else { 0 };
    let camera = index + chunk_rows::FACES * (FACE_BYTES + pose);
    let session = chunk_rows::TEXT + 9 * chunk_rows::SMALL * size_of::<ParticipantRow>();
    let synchrony =
        synchrony.map_or(0, |options| chunk_rows::synchrony(options) * synchrony_row_bytes(options));
    (cameras * camera + session + synchrony) as u64
}

fn camera_of(cameras: &mut [CameraTables], camera: CameraId) -> Result<&mut CameraTables, SessionFileError> {
    cameras.get_mut(usize::from(camera.0)).ok_or(SessionFileError::UnknownCamera { camera })
}

/// Tables of the session itself that always are, in the order of their columns of `/committed`.
const OF_SESSION: [&str; 9] = [PARTICIPANTS, MARKERS, EVENTS, GAPS, TEXT, LEDGER, QUALITY, CLOCK, STOP];

/// What the columns of `/committed` count. The rows of `faces` count for landmarks, blendshapes and head poses, those of
/// `windows` for values, those of `pose` for its points.
fn committed_columns(cameras: &[CameraHeader<'_>], has_pose: bool, has_synchrony: bool) -> Vec<String> {
    let tables = [FRAMES, RESULTS, FACES, VIDEO].into_iter().chain(has_pose.then_some(POSE));
    let of_cameras = cameras
        .iter()
        .flat_map(|camera| tables.clone().map(|table| format!("/{CAMERAS}/{}/{table}", camera.name)));
    let of_synchrony = [PAIRS, WINDOWS].into_iter().filter(|_| has_synchrony);
    std::iter::once(TIME_COLUMN.to_owned())
        .chain(of_cameras)
        .chain(OF_SESSION.iter().map(|table| format!("/{table}")))
        .chain(of_synchrony.map(|table| format!("/{SYNCHRONY}/{table}")))
        .collect()
}

fn write_header(file: &File, header: &SessionHeader<'_>) -> Result<(), SessionFileError> {
    text_attribute(file, "format", FORMAT)?;
    number(file, "version", VERSION)?;
    text_attribute(file, "session_id", header.session_id)?;
    text_attribute(file, "name", header.name)?;
    number(file, recording_attribute::NUMBER, header.recording)?;
    text_attribute(file, recording_attribute::NOTES, header.notes)?;
    text_attribute(file, recording_attribute::BY, header.recorded_by)?;
    if let Some(overridden) = header.overridden {
        json_attribute(file, recording_attribute::OVERRIDE, overridden)?;
    }
    number(file, "utc_start", header.utc_start.0)?;
    text_attribute(file, "clock", "CLOCK_MONOTONIC, nanoseconds")?;
    number(file, "clock_start", header.clock_start.0)?;
    text_attribute(file, "software", header.software)?;
    text_attribute(file, "config", header.config_text)?;
    text_attribute(file, "backend", header.backend.backend)?;
    text_attribute(file, "backend_device", &header.backend.device)?;
    text_attribute(file, "backend_runtime", &header.backend.runtime)?;
    text_attribute(file, "backend_reason", &header.backend.reason)?;
    let models: Vec<_> = header
        .backend
        .models
        .iter()
        .chain(header.pose.unwrap_or_default())
        .map(|(id, sha256)| ModelEntry { id: fixed(id), sha256: fixed(sha256) })
        .collect();
    array_attribute(file, "models", &models)
}

fn small<T: H5Type + Copy>(parent: &Group, name: &'static str) -> Result<Table<T>, SessionFileError> {
    table(parent, name, &[], chunk_rows::SMALL, false)
}

fn table<T: H5Type + Copy>(
    parent: &Group,
    name: &'static str,
    row_shape: &[usize],
    chunk_rows: usize,
    deflate: bool,
) -> Result<Table<T>, SessionFileError> {
    Table::create(parent, TableLayout { name, row_shape, chunk_rows, deflate })
        .map_err(failed_to("create", name))
}

pub(super) fn number<T: H5Type>(at: &Location, name: &str, value: T) -> Result<(), SessionFileError> {
    at.new_attr::<T>()
        .create(name)
        .and_then(|attribute| attribute.write_scalar(&value))
        .map_err(failed_to("write attribute", name))
}

pub(super) fn array_attribute<T: H5Type>(
    at: &Location,
    name: &str,
    values: &[T],
) -> Result<(), SessionFileError> {
    at.new_attr_builder().with_data(values).create(name).map(drop).map_err(failed_to("write attribute", name))
}

fn list_attribute(
    at: &Location,
    name: &'static str,
    texts: &[impl AsRef<str>],
) -> Result<(), SessionFileError> {
    let texts: Vec<Label> = texts.iter().map(|text| fixed(text.as_ref())).collect();
    array_attribute(at, name, &texts)
}

fn json_attribute(
    at: &Location,
    name: &'static str,
    value: &(impl Serialize + ?Sized),
) -> Result<(), SessionFileError> {
    let text = serde_json::to_string(value).map_err(|source| SessionFileError::Json {
        action: "write",
        attribute: name,
        source,
    })?;
    text_attribute(at, name, &text)
}

/// A text of fixed width: the smallest of a few widths that holds it.
pub(super) fn text_attribute(at: &Location, name: &str, text: &str) -> Result<(), SessionFileError> {
    match text.len() {
        0..=64 => number::<FixedUnicode<64>>(at, name, fixed(text)),
        65..=1024 => number::<FixedUnicode<1024>>(at, name, fixed(text)),
        1025..=8192 => number::<FixedUnicode<8192>>(at, name, fixed(text)),
        8193..=ATTRIBUTE_LIMIT => number::<FixedUnicode<ATTRIBUTE_LIMIT>>(at, name, fixed(text)),
        bytes => {
            Err(SessionFileError::HeaderTooLong { attribute: name.to_owned(), bytes, limit: ATTRIBUTE_LIMIT })
        }
    }
}
