//! Reads the session file: as it was committed, whether it was closed, is being written, or was cut off.
//!
//! Owns the rule that a table ends where the newest row of `/committed` says; rows behind it are never
//! shown. Never changes a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::types::FixedUnicode;
use hdf5::{Dataset, File, Group, H5Type, Hyperslab, Location, OpenMode, SliceOrIndex};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use youquanti_models::face::{BLENDSHAPE_COUNT, LANDMARK_COUNT};
use youquanti_models::pose::{POINT_VALUES, POSE_POINT_COUNT};
use youquanti_models::time::Timestamp;

use crate::calibration::StampOffset;
use crate::capture::ControlReading;
use crate::recorder::Override;

use super::schema::*;
use super::{SessionFileError, failed_to};

/// How HDF5 let the file be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Opened {
    /// It was closed; any reader opens it.
    Plain,
    /// It is being written, or its writer was killed; readers ask for SWMR.
    Swmr,
}

/// What the attributes of the file say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderFacts {
    /// Unique for each session.
    pub session_id: String,
    /// What people call the session.
    pub name: String,
    /// Which recording of the session this is, from 1.
    pub recording: u32,
    /// What whoever started it wrote about it.
    pub notes: String,
    /// Who started it; empty if nobody said.
    pub recorded_by: String,
    /// Calendar time at `clock_start_ns`, nanoseconds since 1970.
    pub utc_start_ns: i64,
    /// Start of the recording, nanoseconds of `CLOCK_MONOTONIC`.
    pub clock_start_ns: u64,
    /// Program and version.
    pub software: String,
    /// The whole configuration as TOML.
    pub config: String,
    /// `cpu`, `cuda` or `tensorrt`.
    pub backend: String,
    /// What the back end ran on.
    pub backend_device: String,
    /// The runtime of the networks and its version.
    pub backend_runtime: String,
    /// Why this back end was chosen.
    pub backend_reason: String,
    /// Networks: id → SHA-256.
    pub models: BTreeMap<String, String>,
    /// Set where the session was started although something is missing.
    pub overridden: Option<Override>,
    /// In a recovered copy: the name of the original, and what of it is lost.
    pub recovered: Option<Recovered>,
}

/// What a recovered copy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Name of the original file.
    pub from: String,
    /// What of it is not in the copy, in words.
    pub lost: Vec<String>,
}

/// What the attributes of a camera say. Files of earlier builds have none of the last five.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraFacts {
    /// Name of the camera's group.
    pub name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Name of the pixel format.
    pub pixel_format: String,
    /// Driver, model, serial number, address.
    pub device: String,
    /// Whose clock the stamps are of, and which instant they name.
    pub stamp_source: String,
    /// `seq` of the first frame that belongs to the file.
    pub first_seq: u64,
    /// What was asked of it.
    pub asked: AskedMode,
    /// Frames a second as it declared them; none if it was never opened.
    pub fps: Option<f64>,
    /// Its controls when it was opened.
    pub controls: Vec<ControlReading>,
    /// Stamp minus light, if it was measured: subtract it from stamps.
    pub stamp_offset: Option<StampOffset>,
    /// Codec and encoder of its video; `none` without, empty in files of earlier builds.
    pub video: String,
}

/// A row of `/events` or `/markers` with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextEntry {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What it is about.
    pub source: String,
    /// What kind it is.
    pub kind: String,
    /// JSON.
    pub text: String,
}

/// What was compared between participants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynchronyFacts {
    /// Numbers of both participants, 1 is `P1`.
    pub pairs: Vec<[u32; 2]>,
    /// Names of the groups of channels.
    pub groups: Vec<String>,
    /// Blendshapes of each group.
    pub channels: Vec<Vec<String>>,
}

/// A row of `/participants`: from `time_ns` on, `track` of `camera` is this participant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParticipantEntry {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// 1 is `P1`.
    pub id: u32,
    /// Unique in the session.
    pub track: u32,
    /// From the configuration.
    pub name: String,
    /// From the configuration.
    pub role: String,
    /// Which camera the track is in.
    pub camera: String,
    /// Why it was given to them.
    pub why: String,
}

/// A session file, open for reading. Shows the rows that were committed when it was opened.
pub struct SessionReader {
    file: File,
    path: PathBuf,
    opened: Opened,
    header: HeaderFacts,
    cameras: Vec<CameraFacts>,
    committed_at: Timestamp,
    /// Rows of each table, by its path.
    committed: BTreeMap<String, u64>,
}

impl SessionReader {
    /// Opens a file that was closed, or else one that is being written or was cut off. Of a file that grows, readers of one
    /// process that overlap all see what the first of them does: HDF5 opens it once.
    ///
    /// # Errors
    /// `Unreadable`, `Open`, `NotASession`, `Damaged`, `Hdf5`.
    pub fn open(path: &Path) -> Result<Self, SessionFileError> {
        std::fs::File::open(path)
            .map_err(|source| SessionFileError::Unreadable { path: path.to_owned(), source })?;
        let (file, opened) = match File::open(path) {
            Ok(file) => (file, Opened::Plain),
            Err(source) => match open_swmr(path, LIVE_READ_ATTEMPTS) {
                Ok(file) => (file, Opened::Swmr),
                Err(_) => return Err(SessionFileError::Open { path: path.to_owned(), source }),
            },
        };
        let refuse = |reason: String| SessionFileError::NotASession { path: path.to_owned(), reason };
        let format = read_text(&file, "format").map_err(|_| refuse("attribute format is missing".into()))?;
        if format != FORMAT {
            return Err(refuse(format!("its format is {format:?}, not {FORMAT:?}")));
        }
        let version: u32 = read_number(&file, "version")?;
        if version != VERSION {
            return Err(refuse(format!("its version is {version}, this program reads {VERSION}")));
        }
        let (committed_at, committed) =
            read_committed(&file)?.ok_or_else(|| refuse("nothing was ever committed to it".into()))?;
        let reader = Self {
            header: read_header(&file)?,
            cameras: read_cameras(&file)?,
            path: path.to_owned(),
            file,
            opened,
            committed_at,
            committed,
        };
        reader.check_lengths()?;
        Ok(reader)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How HDF5 let it be opened.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// What the attributes say.
    pub fn header(&self) -> &HeaderFacts {
        &self.header
    }

    /// The cameras, in the order of their `CameraId`.
    pub fn cameras(&self) -> &[CameraFacts] {
        &self.cameras
    }

    /// When the newest committed rows were committed.
    pub fn committed_at(&self) -> Timestamp {
        self.committed_at
    }

    /// Committed frames of a camera; 0 for a camera that there is not.
    pub fn frame_count(&self, camera: usize) -> u64 {
        self.cameras.get(camera).map_or(0, |facts| self.rows_of(&camera_path(facts, FRAMES)))
    }

    /// Committed results of a camera: frames that were analysed; 0 for a camera that there is not.
    pub fn result_count(&self, camera: usize) -> u64 {
        self.cameras.get(camera).map_or(0, |facts| self.rows_of(&camera_path(facts, RESULTS)))
    }

    /// Committed faces of a camera; 0 for a camera that there is not.
    pub fn face_count(&self, camera: usize) -> u64 {
        self.cameras.get(camera).map_or(0, |facts| self.rows_of(&camera_path(facts, FACES)))
    }

    /// Rows of a camera's frames.
    ///
    /// # Errors
    /// `OutOfRange`, `Hdf5`; the same for all that follow for a camera.
    pub fn frames(&self, camera: usize, rows: Range<u64>) -> Result<Vec<FrameRow>, SessionFileError> {
        self.camera_rows(camera, FRAMES, FRAMES, rows)
    }

    /// Rows of a camera's analysed frames.
    pub fn results(&self, camera: usize, rows: Range<u64>) -> Result<Vec<ResultRow>, SessionFileError> {
        self.camera_rows(camera, RESULTS, RESULTS, rows)
    }

    /// Committed frames of a camera's video; 0 for a camera that there is not, and in files of earlier builds.
    pub fn video_count(&self, camera: usize) -> u64 {
        self.cameras.get(camera).map_or(0, |facts| self.rows_of(&camera_path(facts, VIDEO)))
    }

    /// Rows of a camera's video: which frames are where in its files.
    pub fn video(&self, camera: usize, rows: Range<u64>) -> Result<Vec<VideoRow>, SessionFileError> {
        self.camera_rows(camera, VIDEO, VIDEO, rows)
    }

    /// Rows of a camera's faces.
    pub fn faces(&self, camera: usize, rows: Range<u64>) -> Result<Vec<FaceRow>, SessionFileError> {
        self.camera_rows(camera, FACES, FACES, rows)
    }

    /// Landmarks of these rows of faces: x, y, z in pixels of the camera picture.
    pub fn landmarks(
        &self,
        camera: usize,
        rows: Range<u64>,
    ) -> Result<Vec<[[f32; 3]; LANDMARK_COUNT]>, SessionFileError> {
        let flat = self.camera_rows::<f32>(camera, LANDMARKS, FACES, rows)?;
        Ok(flat.as_chunks::<3>().0.as_chunks::<LANDMARK_COUNT>().0.to_vec())
    }

    /// Blendshapes of these rows of faces, `_neutral` first.
    pub fn blendshapes(
        &self,
        camera: usize,
        rows: Range<u64>,
    ) -> Result<Vec<[f32; BLENDSHAPE_COUNT]>, SessionFileError> {
        let flat = self.camera_rows::<f32>(camera, BLENDSHAPES, FACES, rows)?;
        Ok(flat.as_chunks::<BLENDSHAPE_COUNT>().0.to_vec())
    }

    /// Head poses of these rows of faces: canonical face to camera, metres, row-major.
    pub fn head_poses(
        &self,
        camera: usize,
        rows: Range<u64>,
    ) -> Result<Vec<[[f32; 4]; 4]>, SessionFileError> {
        let flat = self.camera_rows::<f32>(camera, HEAD_POSE, FACES, rows)?;
        Ok(flat.as_chunks::<4>().0.as_chunks::<4>().0.to_vec())
    }

    /// Whether bodies were sought.
    pub fn has_pose(&self) -> bool {
        self.cameras.iter().any(|facts| self.committed.contains_key(&camera_path(facts, POSE)))
    }

    /// Committed frames of a camera that were looked at for a body; 0 for a camera that there is not, and where none was sought.
    pub fn pose_count(&self, camera: usize) -> u64 {
        self.cameras.get(camera).map_or(0, |facts| self.rows_of(&camera_path(facts, POSE)))
    }

    /// Rows of a camera's body.
    pub fn poses(&self, camera: usize, rows: Range<u64>) -> Result<Vec<PoseRow>, SessionFileError> {
        self.camera_rows(camera, POSE, POSE, rows)
    }

    /// The body's points of these rows: x, y, z in pixels of the camera picture, visibility, presence; NaN where there is none.
    pub fn pose_points(
        &self,
        camera: usize,
        rows: Range<u64>,
    ) -> Result<Vec<[[f32; POINT_VALUES.len()]; POSE_POINT_COUNT]>, SessionFileError> {
        let flat = self.camera_rows::<f32>(camera, POSE_POINTS, POSE, rows)?;
        Ok(flat.as_chunks().0.as_chunks().0.to_vec())
    }

    /// What was compared between participants; none if that was not asked for.
    ///
    /// # Errors
    /// `Hdf5`, `Json`; the same, and `OutOfRange`, for the next two.
    pub fn synchrony(&self) -> Result<Option<SynchronyFacts>, SessionFileError> {
        let pairs = format!("/{SYNCHRONY}/{PAIRS}");
        if !self.committed.contains_key(&pairs) {
            return Ok(None);
        }
        let pairs = self.read::<PairRow>(&pairs, 0..self.rows_of(&pairs))?;
        let path = format!("/{SYNCHRONY}/{VALUES}");
        let values = self.file.dataset(&path).map_err(failed_to("open", &*path))?;
        let groups: Vec<Label> = read_list(&values, "groups")?;
        Ok(Some(SynchronyFacts {
            pairs: pairs.iter().map(|pair| [pair.first, pair.second]).collect(),
            groups: groups.iter().map(text_of).collect(),
            channels: read_json(&values, "channels")?,
        }))
    }

    /// Committed windows of synchrony; 0 where it was not asked for.
    pub fn window_count(&self) -> u64 {
        self.rows_of(&format!("/{SYNCHRONY}/{WINDOWS}"))
    }

    /// Windows of synchrony.
    pub fn windows(&self, rows: Range<u64>) -> Result<Vec<WindowRow>, SessionFileError> {
        let path = format!("/{SYNCHRONY}/{WINDOWS}");
        self.check_range(&path, &rows, self.window_count())?;
        self.read(&path, rows)
    }

    /// What these windows found: [`LIKENESS_COLUMNS`] of each group of each pair, one window after the other.
    pub fn likeness(&self, rows: Range<u64>) -> Result<Vec<[f32; LIKENESS_COLUMNS.len()]>, SessionFileError> {
        let path = format!("/{SYNCHRONY}/{VALUES}");
        self.check_range(&path, &rows, self.window_count())?;
        Ok(self.read::<f32>(&path, rows)?.as_chunks().0.to_vec())
    }

    /// The newest `last` events, oldest first.
    ///
    /// # Errors
    /// `Hdf5`.
    pub fn events(&self, last: u64) -> Result<Vec<TextEntry>, SessionFileError> {
        self.text_entries(EVENTS, last)
    }

    /// The newest `last` markers, oldest first.
    ///
    /// # Errors
    /// `Hdf5`.
    pub fn markers(&self, last: u64) -> Result<Vec<TextEntry>, SessionFileError> {
        self.text_entries(MARKERS, last)
    }

    /// Who got which track, oldest first.
    ///
    /// # Errors
    /// `Hdf5`.
    pub fn participants(&self) -> Result<Vec<ParticipantEntry>, SessionFileError> {
        let rows = self.all::<ParticipantRow>(PARTICIPANTS)?;
        let entry = |row: &ParticipantRow| ParticipantEntry {
            time_ns: row.time_ns,
            id: row.id,
            track: row.track,
            name: text_of(&row.name),
            role: text_of(&row.role),
            camera: text_of(&row.camera),
            why: text_of(&row.why),
        };
        Ok(rows.iter().map(entry).collect())
    }

    /// The same instants on both clocks, oldest first: nanoseconds of `CLOCK_MONOTONIC`, and nanoseconds since 1970.
    ///
    /// # Errors
    /// `Hdf5`.
    pub fn clock_pairs(&self) -> Result<Vec<(u64, i64)>, SessionFileError> {
        Ok(self.all::<ClockRow>(CLOCK)?.iter().map(|row| (row.time_ns, row.utc_ns)).collect())
    }

    /// All rows of a table of the session.
    pub(super) fn all<T: H5Type>(&self, table: &'static str) -> Result<Vec<T>, SessionFileError> {
        let path = format!("/{table}");
        self.read(&path, 0..self.rows_of(&path))
    }

    /// Committed rows of a table of the session.
    pub(super) fn count(&self, table: &'static str) -> u64 {
        self.rows_of(&format!("/{table}"))
    }

    /// A text of the blob table. Bytes that are no UTF-8 are replaced.
    pub(super) fn text(&self, offset: u64, length: u64) -> Result<String, SessionFileError> {
        let path = format!("/{TEXT}");
        let asked = offset..offset.saturating_add(length);
        self.check_range(&path, &asked, self.rows_of(&path))?;
        Ok(String::from_utf8_lossy(&self.read::<u8>(&path, asked)?).into_owned())
    }

    fn text_entries(&self, table: &'static str, last: u64) -> Result<Vec<TextEntry>, SessionFileError> {
        let path = format!("/{table}");
        let rows = self.rows_of(&path);
        self.read::<TextRow>(&path, rows.saturating_sub(last)..rows)?
            .iter()
            .map(|row| {
                Ok(TextEntry {
                    time_ns: row.time_ns,
                    source: text_of(&row.source),
                    kind: text_of(&row.kind),
                    text: self.text(row.text_offset, row.text_length)?,
                })
            })
            .collect()
    }

    /// Rows of a camera's table, whose length is that of its table `ruler`.
    fn camera_rows<T: H5Type>(
        &self,
        camera: usize,
        table: &str,
        ruler: &str,
        asked: Range<u64>,
    ) -> Result<Vec<T>, SessionFileError> {
        let Some(facts) = self.cameras.get(camera) else {
            let table = format!("/{CAMERAS}/#{camera}/{table}");
            return Err(SessionFileError::OutOfRange { table, asked, committed: 0 });
        };
        let path = camera_path(facts, table);
        self.check_range(&path, &asked, self.rows_of(&camera_path(facts, ruler)))?;
        self.read(&path, asked)
    }

    fn check_range(&self, table: &str, asked: &Range<u64>, committed: u64) -> Result<(), SessionFileError> {
        if asked.start <= asked.end && asked.end <= committed {
            return Ok(());
        }
        Err(SessionFileError::OutOfRange { table: table.to_owned(), asked: asked.clone(), committed })
    }

    fn rows_of(&self, path: &str) -> u64 {
        self.committed.get(path).copied().unwrap_or(0)
    }

    /// Reads whole rows, all elements one after the other.
    fn read<T: H5Type>(&self, path: &str, rows: Range<u64>) -> Result<Vec<T>, SessionFileError> {
        let dataset = self.file.dataset(path).map_err(failed_to("open", path))?;
        read_rows(&dataset, rows.start as usize..rows.end as usize).map_err(failed_to("read", path))
    }

    /// Every table must be as long as it was committed.
    fn check_lengths(&self) -> Result<(), SessionFileError> {
        let of_faces = self.cameras.iter().flat_map(|facts| {
            let rows = self.rows_of(&camera_path(facts, FACES));
            FACE_TABLES.map(|table| (camera_path(facts, table), rows))
        });
        let listed = self.committed.iter().map(|(path, &rows)| (path.clone(), rows));
        let of_windows = listed.clone().filter(|(path, _)| *path == format!("/{SYNCHRONY}/{WINDOWS}"));
        let of_windows = of_windows.map(|(_, rows)| (format!("/{SYNCHRONY}/{VALUES}"), rows));
        let of_poses =
            self.cameras.iter().map(|facts| (camera_path(facts, POSE), camera_path(facts, POSE_POINTS)));
        let of_poses = of_poses.filter_map(|(ruler, points)| Some((points, *self.committed.get(&ruler)?)));
        for (table, committed) in listed.chain(of_faces).chain(of_windows).chain(of_poses) {
            let dataset = self.file.dataset(&table).map_err(failed_to("open", &*table))?;
            let found = dataset.shape().first().map_or(0, |&rows| rows as u64);
            if found < committed {
                return Err(SessionFileError::Damaged { path: self.path.clone(), table, committed, found });
            }
        }
        Ok(())
    }
}

/// HDF5 waits twice as long before each next attempt, from 1 ns on: 17 ms in all before a part of a file that is not
/// whole is given up. Its own 100 attempts never end for a part that is damaged.
const LIVE_READ_ATTEMPTS: u32 = 25;

/// Opens a file that has, or had, a writer. A part that is being changed is read again up to so many times.
pub(super) fn open_swmr(path: &Path, attempts: u32) -> Result<File, hdf5::Error> {
    File::with_options()
        .with_fapl(|access| access.metadata_read_attempts(attempts))
        .open_as(path, OpenMode::ReadSWMR)
}

fn camera_path(facts: &CameraFacts, table: &str) -> String {
    format!("/{CAMERAS}/{}/{table}", facts.name)
}

pub(super) fn read_rows<T: H5Type>(dataset: &Dataset, rows: Range<usize>) -> Result<Vec<T>, hdf5::Error> {
    let mut selection = vec![SliceOrIndex::from(rows)];
    selection.extend((1..dataset.ndim()).map(|_| SliceOrIndex::from(..)));
    let block = dataset.read_slice::<T, _, ndarray::IxDyn>(Hyperslab::from(selection))?;
    Ok(block.into_raw_vec_and_offset().0)
}

/// A row of `/committed`: its time, and the rows of each table by its path.
pub(super) type Commit = (Timestamp, BTreeMap<String, u64>);

/// The newest commit.
fn read_committed(file: &File) -> Result<Option<Commit>, SessionFileError> {
    let dataset = file.dataset(COMMITTED).map_err(failed_to("open", COMMITTED))?;
    let Some(newest) = dataset.shape().first().and_then(|rows| rows.checked_sub(1)) else { return Ok(None) };
    whole_commit(&dataset, newest).map(Some)
}

/// The newest whole row of `/committed` up to this one. A loss of power may leave a part of a row, in which there are zeros: it counts
/// less than the row before, which no commit does.
pub(super) fn whole_commit(dataset: &Dataset, row: usize) -> Result<Commit, SessionFileError> {
    let newest = commit_of(dataset, row)?;
    let Some(before) = row.checked_sub(1) else { return Ok(newest) };
    let before = commit_of(dataset, before)?;
    let grows = before.1.iter().all(|(table, rows)| newest.1.get(table) >= Some(rows));
    Ok(if grows { newest } else { before })
}

/// One row of `/committed`.
fn commit_of(dataset: &Dataset, row: usize) -> Result<Commit, SessionFileError> {
    let row: Vec<u64> = read_rows(dataset, row..row + 1).map_err(failed_to("read", COMMITTED))?;
    let columns: Vec<Label> = read_list(dataset, COLUMNS)?;
    let mut rows: BTreeMap<String, u64> = columns.iter().map(text_of).zip(row).collect();
    let time = rows.remove(TIME_COLUMN).unwrap_or(0);
    Ok((Timestamp(time), rows))
}

fn read_header(file: &File) -> Result<HeaderFacts, SessionFileError> {
    let models: Vec<ModelEntry> = read_list(file, "models")?;
    Ok(HeaderFacts {
        session_id: read_text(file, "session_id")?,
        name: read_text(file, "name")?,
        recording: read_if_there(file, recording_attribute::NUMBER)?.unwrap_or(1),
        notes: read_text_if_there(file, recording_attribute::NOTES)?.unwrap_or_default(),
        recorded_by: read_text_if_there(file, recording_attribute::BY)?.unwrap_or_default(),
        utc_start_ns: read_number(file, "utc_start")?,
        clock_start_ns: read_number(file, "clock_start")?,
        software: read_text(file, "software")?,
        config: read_text(file, "config")?,
        backend: read_text(file, "backend")?,
        backend_device: read_text(file, "backend_device")?,
        backend_runtime: read_text(file, "backend_runtime")?,
        backend_reason: read_text(file, "backend_reason")?,
        models: models.iter().map(|entry| (text_of(&entry.id), text_of(&entry.sha256))).collect(),
        overridden: read_json(file, recording_attribute::OVERRIDE)?,
        recovered: read_json(file, recording_attribute::RECOVERED)?,
    })
}

/// The cameras in the order of their ids, which is an attribute of each.
fn read_cameras(file: &File) -> Result<Vec<CameraFacts>, SessionFileError> {
    let parent = file.group(CAMERAS).map_err(failed_to("open", CAMERAS))?;
    let names = parent.member_names().map_err(failed_to("list", CAMERAS))?;
    let mut cameras = names
        .iter()
        .map(|name| {
            let group = parent.group(name).map_err(failed_to("open", &**name))?;
            Ok((read_number::<u16>(&group, "index")?, read_camera(name, &group)?))
        })
        .collect::<Result<Vec<_>, SessionFileError>>()?;
    cameras.sort_by_key(|(index, _)| *index);
    Ok(cameras.into_iter().map(|(_, facts)| facts).collect())
}

fn read_camera(name: &str, group: &Group) -> Result<CameraFacts, SessionFileError> {
    Ok(CameraFacts {
        name: name.to_owned(),
        width: read_number(group, "width")?,
        height: read_number(group, "height")?,
        pixel_format: read_text(group, "pixel_format")?,
        device: read_text(group, "device")?,
        stamp_source: read_text(group, "stamp_source")?,
        first_seq: read_if_there(group, camera_attribute::FIRST_SEQ)?.unwrap_or(0),
        asked: read_json(group, camera_attribute::ASKED)?,
        fps: read_if_there(group, camera_attribute::FPS)?,
        controls: read_json(group, camera_attribute::CONTROLS)?,
        stamp_offset: read_stamp_offset(group)?,
        video: if is_there(group, camera_attribute::VIDEO)? {
            read_text(group, camera_attribute::VIDEO)?
        } else {
            String::new()
        },
    })
}

fn read_stamp_offset(group: &Group) -> Result<Option<StampOffset>, SessionFileError> {
    if read_if_there::<u8>(group, camera_attribute::CALIBRATED)?.unwrap_or(0) == 0 {
        return Ok(None);
    }
    Ok(Some(StampOffset {
        mean_s: read_number(group, camera_attribute::OFFSET_MEAN)?,
        rms_s: read_number(group, camera_attribute::OFFSET_RMS)?,
        median_s: read_number(group, camera_attribute::OFFSET_MEDIAN)?,
        p05_s: read_number(group, camera_attribute::OFFSET_P05)?,
        p95_s: read_number(group, camera_attribute::OFFSET_P95)?,
        count: read_number(group, camera_attribute::OFFSET_COUNT)?,
        measured_at_utc_ns: read_number(group, camera_attribute::OFFSET_MEASURED)?,
    }))
}

fn is_there(at: &Location, name: &'static str) -> Result<bool, SessionFileError> {
    let names = at.attr_names().map_err(failed_to("list attributes beside", name))?;
    Ok(names.iter().any(|other| other == name))
}

fn read_if_there<T: H5Type>(at: &Location, name: &'static str) -> Result<Option<T>, SessionFileError> {
    if is_there(at, name)? { read_number(at, name).map(Some) } else { Ok(None) }
}

fn read_text_if_there(at: &Location, name: &'static str) -> Result<Option<String>, SessionFileError> {
    if is_there(at, name)? { read_text(at, name).map(Some) } else { Ok(None) }
}

/// The value of a JSON attribute; the default where there is no such attribute.
fn read_json<T: DeserializeOwned + Default>(
    at: &Location,
    name: &'static str,
) -> Result<T, SessionFileError> {
    if !is_there(at, name)? {
        return Ok(T::default());
    }
    serde_json::from_str(&read_text(at, name)?).map_err(|source| SessionFileError::Json {
        action: "read",
        attribute: name,
        source,
    })
}

pub(super) fn read_number<T: H5Type>(at: &Location, name: &str) -> Result<T, SessionFileError> {
    at.attr(name).and_then(|attribute| attribute.read_scalar()).map_err(failed_to("read attribute", name))
}

pub(super) fn read_text(at: &Location, name: &str) -> Result<String, SessionFileError> {
    Ok(text_of(&read_number::<FixedUnicode<ATTRIBUTE_LIMIT>>(at, name)?))
}

pub(super) fn read_list<T: H5Type>(at: &Location, name: &str) -> Result<Vec<T>, SessionFileError> {
    at.attr(name).and_then(|attribute| attribute.read_raw()).map_err(failed_to("read attribute", name))
}
