//! What is in a session file, in figures: rates, gaps, latencies, and whether the ledger closes.
//!
//! Reads committed rows in blocks, so that memory grows with frames and not with landmarks. Judges nothing
//! but what the file itself can prove.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use youquanti_models::manifest::MODELS;
use youquanti_models::picture::FrameFlags;

use crate::messages::EventKind;
use crate::timing::frames_lost;
use crate::verdict::{Verdict, VerdictState};

use super::SessionFileError;
use super::card::{ValidityInspection, cards};
use super::reader::{CameraFacts, HeaderFacts, Opened, SessionReader, TextEntry};
use super::schema::*;

/// Rows that are read in one go.
const BLOCK: u64 = 65536;

/// A session file in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// How HDF5 let it be opened.
    pub opened: Opened,
    /// What its attributes say.
    pub header: HeaderFacts,
    /// The networks, against those that this program has; by id.
    pub models: Vec<ModelInspection>,
    /// When and how the session ended; none: it is running, or was cut off.
    pub stop: Option<StopInspection>,
    /// When the newest rows were committed, nanoseconds of `CLOCK_MONOTONIC`.
    pub committed_at_ns: u64,
    /// Seconds from the session's start to the newest commit.
    pub duration_s: f64,
    /// In the order of their ids.
    pub cameras: Vec<CameraInspection>,
    /// In the order of their ids.
    pub participants: Vec<ParticipantInspection>,
    /// What was compared between participants; none if that was not asked for.
    pub synchrony: Option<SynchronyInspection>,
    /// Number of markers.
    pub markers: u64,
    /// Number of events of each kind.
    pub events_by_kind: BTreeMap<String, u64>,
    /// The newest events, oldest first.
    pub events: Vec<TextEntry>,
    /// In the order in which they were noticed.
    pub gaps: Vec<GapInspection>,
    /// Measures over time: source → item → series. Of a camera see [`quality_item`], of the file itself [`flush_item`].
    pub quality: BTreeMap<String, BTreeMap<String, QualitySeries>>,
    /// The validity card: one entry for each participant and camera. Empty until the first minute, or the end, is written.
    pub validity: Vec<ValidityInspection>,
    /// How far apart the cameras' first frames are, milliseconds.
    pub first_frames_spread_ms: Option<f64>,
    /// One entry for each camera and consumer.
    pub ledger: Vec<LedgerInspection>,
    /// Whether there is a ledger and all of it closes.
    pub ledger_closes: bool,
    /// How much faster UTC runs than `CLOCK_MONOTONIC`, parts per million; none with fewer than two pairs.
    pub clock_drift_ppm: Option<f64>,
}

/// A network that the session ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelInspection {
    /// Its id in the manifest.
    pub id: String,
    /// Of the bytes that ran, lower-case hexadecimal.
    pub sha256: String,
    /// Whether that is what the manifest of this program says; none: it does not have this network.
    pub matches_manifest: Option<bool>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StopInspection {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Nanoseconds since 1970.
    pub utc_ns: i64,
    /// What the session says of itself, JSON.
    pub verdict: String,
    /// What the verdict says; none for one that this program does not understand.
    pub state: Option<VerdictState>,
    /// Why it is degraded, in words.
    pub reasons: Vec<String>,
}

/// One camera in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraInspection {
    /// What its attributes say.
    #[serde(flatten)]
    pub facts: CameraFacts,
    /// Frames in the index.
    pub frames: u64,
    /// Captured frames that are missing in the index, from jumps of `seq`.
    pub missing_in_index: u64,
    /// Frames that the driver lost, from jumps of its own counter.
    pub driver_lost: u64,
    /// Seconds from the first to the last frame.
    pub duration_s: f64,
    /// Frames per second over that time; 0 with fewer than two frames.
    pub rate_hz: f64,
    /// Longest time between two frames, milliseconds.
    pub longest_interval_ms: f64,
    /// Whether every stamp is later than the one before.
    pub stamps_ascend: bool,
    /// Frames whose stamp was replaced by the time of receipt.
    pub stamps_replaced: u64,
    /// Rows of faces.
    pub faces: u64,
    /// Different tracks.
    pub tracks: u64,
    /// Different participants, as numbers.
    pub participants: BTreeSet<u32>,
    /// Frames that the pipeline has a result for.
    pub analysed: u64,
    /// Frames that are in its video.
    pub video_frames: u64,
    /// Frames that were looked at for a body.
    pub poses: u64,
    /// Of these, frames with a body.
    pub bodies: u64,
    /// Number of faces → number of analysed frames.
    pub frames_by_faces: BTreeMap<u64, u64>,
    /// Over the frames with a face, in the order of the stages.
    pub latency: Vec<LatencyInspection>,
}

/// Time from a frame's stamp until a stage was done with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyInspection {
    /// One of [`LATENCY_STAGES`].
    pub stage: &'static str,
    /// Frames on which the stage ran.
    pub frames: u64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// Nine of ten frames took at most this.
    pub p90_ms: f64,
    /// 99 of 100 frames took at most this.
    pub p99_ms: f64,
    /// The slowest frame.
    pub max_ms: f64,
}

/// A participant's newest row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParticipantInspection {
    /// 1 is `P1`.
    pub id: u32,
    /// From the configuration.
    pub name: String,
    /// From the configuration.
    pub role: String,
    /// Tracks that were theirs.
    pub tracks: u64,
}

/// Synchrony in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SynchronyInspection {
    /// Windows.
    pub windows: u64,
    /// For each pair, and each group of channels within it.
    pub likeness: Vec<LikenessInspection>,
}

/// How alike two participants moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LikenessInspection {
    /// Numbers of both, 1 is `P1`.
    pub pair: [u32; 2],
    /// The group of channels.
    pub group: String,
    /// Windows with an r: both were seen for long enough, and moved.
    pub known: u64,
    /// Windows with p up to 0.05, out of which 0.05 are expected by chance.
    pub significant: u64,
    /// Median of r over the windows that have one.
    pub median_r: Option<f64>,
    /// Median lag over the significant windows, seconds; positive: the second follows the first.
    pub median_lag_s: Option<f64>,
}

/// A time in which something was away.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapInspection {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`; none: it was still away when the newest rows were committed.
    pub end_ns: Option<u64>,
    /// Seconds, up to the newest commit if it has no end.
    pub duration_s: f64,
    /// What was away.
    pub source: String,
    /// Why, in full.
    pub cause: String,
    /// Frames that would have come meanwhile, if that is known.
    pub missed: Option<u64>,
    /// JSON.
    pub text: String,
}

/// One measure over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QualitySeries {
    /// End of the time that each value is of, nanoseconds of `CLOCK_MONOTONIC`; that time begins with the one before.
    pub time_ns: Vec<u64>,
    /// In the unit that the item's name ends with.
    pub value: Vec<f64>,
}

/// What became of one camera's frames at one consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerInspection {
    /// Whose frames.
    pub camera: String,
    /// For whom.
    pub consumer: String,
    /// Frames that the camera handed out.
    pub captured: u64,
    /// Frames that the consumer got.
    pub delivered: u64,
    /// Frames that it did not get, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Frames that were still on their way to it when the file was closed, while the session ran on.
    pub under_way: u64,
    /// Frames that never reached the process.
    pub driver_lost: u64,
    /// `captured = delivered + Σ dropped + under_way`.
    pub closes: bool,
}

impl Inspection {
    /// Everything as JSON; `docs/inspect.md` says what the keys mean. A number that is not finite is null.
    pub fn to_json(&self) -> serde_json::Value {
        // Maps have texts as keys and no type here refuses, so there is nothing that could fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl SessionReader {
    /// The file in figures, with its newest `last_events` events.
    ///
    /// # Errors
    /// `Hdf5`, and `OutOfRange` when a row names a text that is not there.
    pub fn inspect(&self, last_events: u64) -> Result<Inspection, SessionFileError> {
        let ledger = self.ledger()?;
        let participants = self.newest_participants()?;
        let quality = self.quality()?;
        let committed_at_ns = self.committed_at().0;
        let mut events_by_kind = BTreeMap::new();
        let mut first_frames_spread_ms = None;
        for row in self.all::<TextRow>(EVENTS)? {
            let kind = text_of(&row.kind);
            if kind == EventKind::FirstFrames.name() {
                let detail = parsed(&self.text(row.text_offset, row.text_length)?);
                first_frames_spread_ms = detail["spread_ms"].as_f64();
            }
            *events_by_kind.entry(kind).or_insert(0) += 1;
        }
        Ok(Inspection {
            path: self.path().to_owned(),
            file_bytes: std::fs::metadata(self.path()).map_or(0, |meta| meta.len()),
            opened: self.opened(),
            header: self.header().clone(),
            stop: self.stop()?,
            committed_at_ns,
            duration_s: seconds(committed_at_ns.saturating_sub(self.header().clock_start_ns)),
            cameras: (0..self.cameras().len()).map(|id| self.camera(id)).collect::<Result<_, _>>()?,
            models: self.header().models.iter().map(model).collect(),
            validity: cards(&quality, &participants),
            participants,
            synchrony: self.inspect_synchrony()?,
            markers: self.count(MARKERS),
            events_by_kind,
            events: self.events(last_events)?,
            gaps: self.gaps()?,
            quality,
            first_frames_spread_ms,
            ledger_closes: !ledger.is_empty() && ledger.iter().all(|entry| entry.closes),
            ledger,
            clock_drift_ppm: self.clock_drift_ppm()?,
        })
    }

    fn camera(&self, id: usize) -> Result<CameraInspection, SessionFileError> {
        let mut index = FrameIndex { next_seq: self.cameras()[id].first_seq, ..FrameIndex::default() };
        for start in (0..self.frame_count(id)).step_by(BLOCK as usize) {
            let end = self.frame_count(id).min(start + BLOCK);
            self.frames(id, start..end)?.iter().for_each(|row| index.add(row));
        }
        let mut faces = FaceFigures::default();
        for start in (0..self.face_count(id)).step_by(BLOCK as usize) {
            let end = self.face_count(id).min(start + BLOCK);
            self.faces(id, start..end)?.iter().for_each(|row| faces.add(row));
        }
        let mut frames_by_faces = BTreeMap::new();
        for start in (0..self.result_count(id)).step_by(BLOCK as usize) {
            let end = self.result_count(id).min(start + BLOCK);
            for row in self.results(id, start..end)? {
                *frames_by_faces.entry(u64::from(row.faces)).or_insert(0) += 1;
            }
        }
        let span = index.last_ns.saturating_sub(index.first_ns);
        let stages = LATENCY_STAGES.into_iter().zip(faces.latency_us);
        Ok(CameraInspection {
            facts: self.cameras()[id].clone(),
            frames: index.frames,
            missing_in_index: index.missing,
            driver_lost: index.driver_lost,
            duration_s: seconds(span),
            rate_hz: if span == 0 { 0.0 } else { (index.frames - 1) as f64 / seconds(span) },
            longest_interval_ms: index.longest_ns as f64 / 1e6,
            stamps_ascend: index.descents == 0,
            stamps_replaced: index.replaced,
            faces: self.face_count(id),
            tracks: faces.tracks.len() as u64,
            participants: faces.participants,
            analysed: self.result_count(id),
            video_frames: self.video_count(id),
            poses: self.pose_count(id),
            bodies: self.bodies(id)?,
            frames_by_faces,
            latency: stages.filter_map(|(stage, micros)| latency(stage, micros)).collect(),
        })
    }

    /// Frames of a camera with a body.
    fn bodies(&self, camera: usize) -> Result<u64, SessionFileError> {
        let (count, mut bodies) = (self.pose_count(camera), 0);
        for start in (0..count).step_by(BLOCK as usize) {
            let rows = self.poses(camera, start..count.min(start + BLOCK))?;
            bodies += rows.iter().map(|row| u64::from(row.valid)).sum::<u64>();
        }
        Ok(bodies)
    }

    fn stop(&self) -> Result<Option<StopInspection>, SessionFileError> {
        let Some(row) = self.all::<StopRow>(STOP)?.pop() else { return Ok(None) };
        let verdict = self.text(row.text_offset, row.text_length)?;
        let known: Option<Verdict> = serde_json::from_str(&verdict).ok();
        Ok(Some(StopInspection {
            time_ns: row.time_ns,
            utc_ns: row.utc_ns,
            state: known.as_ref().map(|known| known.state),
            reasons: known.as_ref().map(Verdict::texts).unwrap_or_default(),
            verdict,
        }))
    }

    fn newest_participants(&self) -> Result<Vec<ParticipantInspection>, SessionFileError> {
        let mut newest = BTreeMap::new();
        let mut tracks = BTreeMap::<u32, BTreeSet<u32>>::new();
        for row in self.all::<ParticipantRow>(PARTICIPANTS)? {
            tracks.entry(row.id).or_default().insert(row.track);
            newest.insert(row.id, row);
        }
        Ok(newest
            .values()
            .map(|row| ParticipantInspection {
                id: row.id,
                name: text_of(&row.name),
                role: text_of(&row.role),
                tracks: tracks.get(&row.id).map_or(0, |set| set.len() as u64),
            })
            .collect())
    }

    fn inspect_synchrony(&self) -> Result<Option<SynchronyInspection>, SessionFileError> {
        let Some(facts) = self.synchrony()? else { return Ok(None) };
        let windows = self.window_count();
        let kinds = facts.pairs.len() * facts.groups.len();
        let mut r = vec![Vec::new(); kinds];
        let mut lags = vec![Vec::new(); kinds];
        let block = (BLOCK / kinds.max(1) as u64).max(1);
        for start in (0..windows).step_by(block as usize) {
            let found = self.likeness(start..windows.min(start + block))?;
            for (index, [value, lag_s, p, _]) in found.into_iter().enumerate() {
                if !value.is_nan() {
                    r[index % kinds].push(f64::from(value));
                }
                if p <= 0.05 {
                    lags[index % kinds].push(f64::from(lag_s));
                }
            }
        }
        let named = facts.pairs.iter().flat_map(|&pair| facts.groups.iter().map(move |group| (pair, group)));
        let likeness =
            named.zip(r.into_iter().zip(lags)).map(|((pair, group), (r, lags))| LikenessInspection {
                pair,
                group: group.clone(),
                known: r.len() as u64,
                significant: lags.len() as u64,
                median_r: median(r),
                median_lag_s: median(lags),
            });
        Ok(Some(SynchronyInspection { windows, likeness: likeness.collect() }))
    }

    /// The newest row of each gap, which is known by its source and its start.
    fn gaps(&self) -> Result<Vec<GapInspection>, SessionFileError> {
        let mut newest: Vec<GapRow> = Vec::new();
        let mut places = BTreeMap::new();
        for row in self.all::<GapRow>(GAPS)? {
            match places.entry((text_of(&row.source), row.time_ns)) {
                Entry::Occupied(place) => newest[*place.get()] = row,
                Entry::Vacant(place) => {
                    place.insert(newest.len());
                    newest.push(row);
                }
            }
        }
        newest.iter().map(|row| self.gap(row)).collect()
    }

    fn gap(&self, row: &GapRow) -> Result<GapInspection, SessionFileError> {
        let text = self.text(row.text_offset, row.text_length)?;
        let detail = parsed(&text);
        let end_ns = Some(row.end_ns).filter(|&end| end != 0);
        let until = end_ns.unwrap_or(self.committed_at().0);
        Ok(GapInspection {
            start_ns: row.time_ns,
            end_ns,
            duration_s: seconds(until.saturating_sub(row.time_ns)),
            source: text_of(&row.source),
            cause: detail["cause"].as_str().map_or_else(|| text_of(&row.cause), str::to_owned),
            missed: detail["missed"].as_u64(),
            text,
        })
    }

    /// Every row of `/quality`, as series: source → item → values over time. Of a camera see [`quality_item`].
    ///
    /// # Errors
    /// `Hdf5`.
    pub fn quality(&self) -> Result<BTreeMap<String, BTreeMap<String, QualitySeries>>, SessionFileError> {
        let mut sources = BTreeMap::<String, BTreeMap<String, QualitySeries>>::new();
        for row in self.all::<QualityRow>(QUALITY)? {
            let items = sources.entry(text_of(&row.source)).or_default();
            let series = items.entry(text_of(&row.item)).or_default();
            series.time_ns.push(row.time_ns);
            series.value.push(row.value);
        }
        Ok(sources)
    }

    fn ledger(&self) -> Result<Vec<LedgerInspection>, SessionFileError> {
        let mut entries = BTreeMap::<(String, String), LedgerInspection>::new();
        for row in self.all::<LedgerRow>(LEDGER)? {
            let key = (text_of(&row.camera), text_of(&row.consumer));
            let entry = entries.entry(key).or_default();
            let item = text_of(&row.item);
            match (&*item, item.strip_prefix(ledger_item::DROPPED_PREFIX)) {
                (ledger_item::CAPTURED, _) => entry.captured = row.count,
                (ledger_item::DELIVERED, _) => entry.delivered = row.count,
                (ledger_item::DRIVER_LOST, _) => entry.driver_lost = row.count,
                (ledger_item::UNDER_WAY, _) => entry.under_way = row.count,
                (_, reason) => {
                    entry.dropped.insert(reason.unwrap_or(&item).to_owned(), row.count);
                }
            }
        }
        Ok(entries
            .into_iter()
            .map(|((camera, consumer), entry)| LedgerInspection {
                camera,
                consumer,
                closes: entry.captured
                    == entry.delivered + entry.dropped.values().sum::<u64>() + entry.under_way,
                ..entry
            })
            .collect())
    }

    fn clock_drift_ppm(&self) -> Result<Option<f64>, SessionFileError> {
        let pairs = self.all::<ClockRow>(CLOCK)?;
        let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else { return Ok(None) };
        let monotonic = last.time_ns.saturating_sub(first.time_ns) as f64;
        let utc = last.utc_ns.saturating_sub(first.utc_ns) as f64;
        Ok((monotonic > 0.0).then(|| (utc / monotonic - 1.0) * 1e6))
    }
}

/// What the rows of `frames` add up to, taken in one by one.
#[derive(Default)]
struct FrameIndex {
    /// Of the first frame, if none is missing.
    next_seq: u64,
    previous: Option<FrameRow>,
    frames: u64,
    missing: u64,
    driver_lost: u64,
    first_ns: u64,
    last_ns: u64,
    longest_ns: u64,
    descents: u64,
    replaced: u64,
}

impl FrameIndex {
    fn add(&mut self, row: &FrameRow) {
        self.frames += 1;
        self.replaced += u64::from(row.flags & u32::from(FrameFlags::STAMP_REPLACED.0) != 0);
        match self.previous {
            None => {
                self.first_ns = row.captured_at_ns;
                self.missing = row.seq.saturating_sub(self.next_seq);
            }
            Some(before) => {
                self.missing += row.seq.saturating_sub(before.seq + 1);
                self.driver_lost += frames_lost(before.driver_seq, row.driver_seq)
                    .saturating_sub(row.seq.saturating_sub(before.seq + 1));
                self.longest_ns =
                    self.longest_ns.max(row.captured_at_ns.saturating_sub(before.captured_at_ns));
                self.descents += u64::from(row.captured_at_ns <= before.captured_at_ns);
            }
        }
        self.last_ns = row.captured_at_ns;
        self.previous = Some(*row);
    }
}

/// What the rows of `faces` add up to. The faces of a frame are rows in succession.
#[derive(Default)]
struct FaceFigures {
    frame: Option<u64>,
    tracks: BTreeSet<u32>,
    participants: BTreeSet<u32>,
    latency_us: [Vec<u32>; LATENCY_STAGES.len()],
}

impl FaceFigures {
    fn add(&mut self, row: &FaceRow) {
        self.tracks.insert(row.track);
        if row.participant != 0 {
            self.participants.insert(row.participant);
        }
        if self.frame.replace(row.frame_seq) != Some(row.frame_seq) {
            for (stage, &micros) in self.latency_us.iter_mut().zip(&row.latency_us) {
                if micros != NOT_RUN {
                    stage.push(micros);
                }
            }
        }
    }
}

/// Percentiles by nearest rank; none for a stage that never ran.
fn latency(stage: &'static str, mut micros: Vec<u32>) -> Option<LatencyInspection> {
    micros.sort_unstable();
    let max = *micros.last()?;
    let percentile = |p: usize| f64::from(micros[(micros.len() * p).div_ceil(100).max(1) - 1]) / 1e3;
    Some(LatencyInspection {
        stage,
        frames: micros.len() as u64,
        p50_ms: percentile(50),
        p90_ms: percentile(90),
        p99_ms: percentile(99),
        max_ms: f64::from(max) / 1e3,
    })
}

/// The middle of the values; none of none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
}

/// A network of the file against those of this program.
fn model((id, sha256): (&String, &String)) -> ModelInspection {
    let known = MODELS.iter().find(|model| model.name == id);
    ModelInspection {
        id: id.clone(),
        sha256: sha256.clone(),
        matches_manifest: known.map(|model| model.sha256 == sha256),
    }
}

/// A text of the file as JSON; null for one that is none.
fn parsed(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Date and time of nanoseconds since 1970, UTC, to the second.
fn utc_text(nanos: i64) -> String {
    let utc = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    utc.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        writeln!(f, "{}, {:.1} MB", self.path.display(), self.file_bytes as f64 / 1e6)?;
        writeln!(f, "session   {} ({}), {}", header.name, header.session_id, header.software)?;
        writeln!(f, "start     {}, {:.1} s", utc_text(header.utc_start_ns), self.duration_s)?;
        match (header.recording, &*header.recorded_by) {
            (1, "") => {}
            (number, "") => writeln!(f, "recording {number} of the session")?,
            (number, by) => writeln!(f, "recording {number} of the session, started by {by}")?,
        }
        if let Some(overridden) = &header.overridden {
            writeln!(f, "override  {overridden}")?;
            overridden.missing.iter().try_for_each(|missing| writeln!(f, "missing   {missing}"))?;
        }
        if let Some(recovered) = &header.recovered {
            writeln!(f, "recovered from {}", recovered.from)?;
            recovered.lost.iter().try_for_each(|lost| writeln!(f, "lost      {lost}"))?;
        }
        if !header.notes.is_empty() {
            writeln!(f, "notes     {}", header.notes)?;
        }
        match (&self.stop, self.opened) {
            (Some(StopInspection { state: Some(VerdictState::Ok), .. }), _) => writeln!(f, "end       ok")?,
            (Some(StopInspection { state: Some(_), reasons, .. }), _) => {
                writeln!(f, "end       degraded: {}", reasons.join("; "))?;
            }
            (Some(stop), _) => writeln!(f, "end       closed: {}", stop.verdict)?,
            (None, Opened::Swmr) => writeln!(f, "end       none: being recorded, or cut off")?,
            (None, Opened::Plain) if header.recovered.is_some() => {
                writeln!(f, "end       none: the file that was recovered was cut off")?;
            }
            (None, Opened::Plain) => writeln!(f, "end       none: the recorder failed and closed the file")?,
        }
        writeln!(f, "back end  {} on {}, {}", header.backend, header.backend_device, header.backend_runtime)?;
        for ModelInspection { id, sha256, matches_manifest } in &self.models {
            let verdict = match matches_manifest {
                Some(true) => "as in the manifest",
                Some(false) => "NOT that of this program's manifest",
                None => "which this program does not have",
            };
            writeln!(f, "model     {id}, SHA-256 {sha256}, {verdict}")?;
        }
        if let Some(spread) = self.first_frames_spread_ms {
            writeln!(f, "barrier   first frames of all cameras within {spread:.1} ms")?;
        }
        if let Some(quality) = self.quality.get(FLUSH_SOURCE) {
            write_flushes(f, quality)?;
        }
        for camera in &self.cameras {
            camera.fmt(f)?;
            if let Some(quality) = self.quality.get(&camera.facts.name) {
                write_timing(f, quality)?;
            }
        }
        for person in &self.participants {
            let ParticipantInspection { id, name, role, tracks } = person;
            let who =
                [&**name, &**role].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            writeln!(
                f,
                "{:<9} {who}, {tracks} {}",
                format!("P{id}"),
                if *tracks == 1 { "track" } else { "tracks" }
            )?;
        }
        if let Some(synchrony) = &self.synchrony {
            write_synchrony(f, synchrony, &self.participants)?;
        }
        for card in &self.validity {
            card.fmt(f)?;
        }
        let weak: BTreeSet<_> = self.validity.iter().flat_map(|card| card.weak_blendshapes.keys()).collect();
        if !weak.is_empty() {
            let weak: Vec<_> = weak.into_iter().map(String::as_str).collect();
            writeln!(f, "weak      scores that hardly respond, whatever a face does: {}", weak.join(", "))?;
        }
        for entry in &self.ledger {
            let dropped: u64 = entry.dropped.values().sum();
            let under_way = entry.captured.saturating_sub(entry.delivered + dropped);
            // A session that has not ended has frames on their way; at its end there must be none.
            let verdict = match (entry.closes, &self.stop) {
                (true, _) if entry.under_way > 0 => {
                    format!("+ {} under way at the end closes", entry.under_way)
                }
                (true, _) => "closes".to_owned(),
                (false, None) => format!("+ {under_way} under way"),
                (false, Some(_)) => "does not close".to_owned(),
            };
            writeln!(
                f,
                "ledger    {} → {}: {} captured = {} delivered + {dropped} dropped {verdict}",
                entry.camera, entry.consumer, entry.captured, entry.delivered
            )?;
        }
        for gap in &self.gaps {
            let from = seconds(gap.start_ns.saturating_sub(header.clock_start_ns));
            write!(f, "gap       {}: from {from:.3} s ", gap.source)?;
            match gap.end_ns {
                Some(_) => write!(f, "for {:.3} s", gap.duration_s)?,
                None => write!(f, "on, still away after {:.3} s", gap.duration_s)?,
            }
            if let Some(missed) = gap.missed {
                write!(f, ", {missed} frames missed")?;
            }
            writeln!(f, ": {}", gap.cause)?;
        }
        let events: u64 = self.events_by_kind.values().sum();
        writeln!(f, "events    {events}, markers {}", self.markers)?;
        for event in &self.events {
            let at = seconds(event.time_ns.saturating_sub(header.clock_start_ns));
            writeln!(f, "{at:>9.3} s {} {} {}", event.source, event.kind, event.text)?;
        }
        Ok(())
    }
}

impl fmt::Display for CameraInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        writeln!(
            f,
            "camera    {}: {}×{} {}, {}",
            facts.name, facts.width, facts.height, facts.pixel_format, facts.device
        )?;
        writeln!(f, "  mode    {}", mode_text(facts))?;
        if let Some(offset) = &facts.stamp_offset {
            writeln!(
                f,
                "  light   {:.2} ms before the stamp (median of {}, 5 to 95 %: {:.2} to {:.2}), measured {}",
                offset.median_s * 1e3,
                offset.count,
                offset.p05_s * 1e3,
                offset.p95_s * 1e3,
                utc_text(offset.measured_at_utc_ns)
            )?;
        }
        writeln!(
            f,
            "  frames  {} in {:.1} s, {:.2} per second, longest interval {:.1} ms, {} lost by the driver, {} \
             not in the index",
            self.frames,
            self.duration_s,
            self.rate_hz,
            self.longest_interval_ms,
            self.driver_lost,
            self.missing_in_index
        )?;
        let order = if self.stamps_ascend { "ascending" } else { "NOT ascending" };
        writeln!(f, "  stamps  {order}, {} replaced; {}", self.stamps_replaced, facts.stamp_source)?;
        let counts: Vec<_> =
            self.frames_by_faces.iter().map(|(faces, frames)| format!("{faces}: {frames}")).collect();
        let by_faces = counts.join(", ");
        writeln!(
            f,
            "  faces   {} in {} tracks; {} frames analysed, by number of faces {by_faces}",
            self.faces, self.tracks, self.analysed
        )?;
        if self.poses > 0 {
            writeln!(f, "  pose    {} frames looked at, {} with a body", self.poses, self.bodies)?;
        }
        for stage in &self.latency {
            writeln!(
                f,
                "  {:<9} p50 {:.1} p90 {:.1} p99 {:.1} max {:.1} ms after capture",
                stage.stage, stage.p50_ms, stage.p90_ms, stage.p99_ms, stage.max_ms
            )?;
        }
        Ok(())
    }
}

/// What was asked of a camera and what it gives; of its controls those that were asked for.
fn mode_text(facts: &CameraFacts) -> String {
    let asked = &facts.asked;
    let wishes: Vec<_> = [
        asked.size.map(|(width, height)| format!("{width}×{height}")),
        asked.format.clone(),
        asked.fps.map(|fps| format!("{fps} fps")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = match &wishes[..] {
        [] => "nothing asked for".to_owned(),
        wishes => format!("asked for {}", wishes.join(" ")),
    };
    if let Some(fps) = facts.fps {
        text += &format!(", declares {fps:.2} fps");
    }
    for control in &facts.controls {
        match &control.asked {
            Some(asked) if *asked == control.got => text += &format!(", {} {asked}", control.name),
            Some(asked) => text += &format!(", {} {} for {asked}", control.name, control.got),
            None => {}
        }
    }
    text
}

/// How alike participants moved: a line for each group of channels, with the pair whose median r is farthest from 0. What is known of
/// every pair is in the JSON.
fn write_synchrony(
    f: &mut fmt::Formatter<'_>,
    SynchronyInspection { windows, likeness }: &SynchronyInspection,
    people: &[ParticipantInspection],
) -> fmt::Result {
    let name = |id: u32| match people.iter().find(|person| person.id == id) {
        Some(ParticipantInspection { name, .. }) if !name.is_empty() => format!("P{id} {name}"),
        _ => format!("P{id}"),
    };
    let Some(first) = likeness.first().map(|of| of.pair) else { return Ok(()) };
    let groups = likeness.iter().take_while(|of| of.pair == first).map(|of| &of.group);
    let pairs = likeness.len() / groups.clone().count();
    let what = if pairs == 1 { "pair" } else { "pairs" };
    for group in groups {
        write!(f, "synchrony {group}: {pairs} {what}, {windows} windows")?;
        let known = likeness.iter().filter(|of| of.group == *group);
        let known: Vec<_> = known.filter_map(|of| Some((of.median_r?, of))).collect();
        let strongest = known.iter().max_by(|(a, _), (b, _)| a.abs().total_cmp(&b.abs()));
        match (median(known.iter().map(|(r, _)| r.abs()).collect()), strongest) {
            (Some(middle), Some((r, of))) => {
                let [a, b] = of.pair.map(name);
                write!(f, "; median |r| {middle:.2}; strongest {a} and {b}: r {r:.2}")?;
                write!(f, ", known in {}, p ≤ 0.05 in {}", of.known, of.significant)?;
                if let Some(lag) = of.median_lag_s {
                    let when = if lag < 0.0 { "earlier" } else { "later" };
                    write!(f, ", there {b} {:.2} s {when}", lag.abs())?;
                }
            }
            _ => write!(f, "; r is known in none")?,
        }
        writeln!(f)?;
    }
    if pairs > 1 {
        writeln!(f, "          all pairs: --json")?;
    }
    Ok(())
}

/// How long rows waited until they were safe.
fn write_flushes(f: &mut fmt::Formatter<'_>, quality: &BTreeMap<String, QualitySeries>) -> fmt::Result {
    let values = |item: &str| quality.get(item).map_or(&[][..], |series| &series.value).iter().copied();
    let most = |item: &str| values(item).fold(0.0, f64::max);
    writeln!(
        f,
        "flushes   {}, the longest took {:.1} ms; rows were safe {:.3} s after they came, at the latest",
        values(flush_item::FLUSHES).sum::<f64>(),
        1e3 * most(flush_item::TOOK_MAX),
        most(flush_item::ROW_AGE_MAX)
    )
}

/// What a camera's stamps tell, as far as they do.
fn write_timing(f: &mut fmt::Formatter<'_>, quality: &BTreeMap<String, QualitySeries>) -> fmt::Result {
    let show =
        |item: &str, scale: f64, unit: &str| quality.get(item).and_then(|series| series.text(scale, unit));
    let figures = [
        ("jitter", show(quality_item::INTERVAL_JITTER, 1e3, "ms")),
        ("delay", show(quality_item::DELAY_MEAN, 1e3, "ms")),
        ("drift", show(quality_item::CLOCK_DRIFT, 1.0, "ppm")),
    ];
    let known: Vec<_> =
        figures.iter().filter_map(|(name, text)| Some(format!("{name} {}", text.as_ref()?))).collect();
    if !known.is_empty() {
        writeln!(f, "  timing  {}", known.join(", "))?;
    }
    for item in quality.keys() {
        if let (Some(camera), Some(phase)) = (quality_item::phase_camera(item), show(item, 1e3, "ms")) {
            let spread = show(&quality_item::phase_spread_to(camera), 1e3, "ms").unwrap_or_default();
            writeln!(f, "  phase   to {camera} {phase}, spread {spread}")?;
        }
    }
    Ok(())
}

impl QualitySeries {
    /// The median, and from where to where if there are several values; none if there are none.
    fn text(&self, scale: f64, unit: &str) -> Option<String> {
        let mut sorted: Vec<_> = self.value.iter().map(|value| value * scale).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let median = median(sorted.clone())?;
        Some(match &sorted[..] {
            [least, .., most] => format!("{median:.3} {unit} ({least:.3} to {most:.3})"),
            _ => format!("{median:.3} {unit}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_times() {
        let check = |seconds: i64, expected: &str| assert_eq!(utc_text(seconds * 1_000_000_000), expected);
        check(0, "1970-01-01 00:00:00 UTC");
        check(-1, "1969-12-31 23:59:59 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(1_767_225_599, "2025-12-31 23:59:59 UTC");
        check(4_107_542_400, "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn nine_people_take_a_line_of_synchrony_for_each_group_with_the_strongest_pair() {
        let pairs = || (1..=9).flat_map(|a| (a + 1..=9).map(move |b| [a, b]));
        let of = |pair, group: &str, median_r: Option<f64>| LikenessInspection {
            pair,
            group: group.to_owned(),
            known: median_r.map_or(0, |_| 7),
            significant: 0,
            median_r,
            median_lag_s: None,
        };
        let r = |pair| if pair == [4, 6] { -0.8 } else { 0.1 };
        let likeness =
            pairs().flat_map(|pair| [of(pair, "smile", Some(r(pair))), of(pair, "jaw", None)]).collect();
        let synchrony = SynchronyInspection { windows: 7, likeness };
        let text = fmt::from_fn(|f| write_synchrony(f, &synchrony, &[])).to_string();
        assert_eq!(
            text,
            "synchrony smile: 36 pairs, 7 windows; median |r| 0.10; strongest P4 and P6: r -0.80, known in 7, p ≤ 0.05 in 0\n\
             synchrony jaw: 36 pairs, 7 windows; r is known in none\n          all pairs: --json\n"
        );
    }

    #[test]
    fn percentiles_by_nearest_rank() {
        let check = |micros: Vec<u32>, expected: [f64; 4]| {
            let found = latency("x", micros).unwrap();
            assert_eq!([found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms], expected);
        };
        check(vec![7000], [7.0; 4]);
        check((1..=100).rev().map(|ms| ms * 1000).collect(), [50.0, 90.0, 99.0, 100.0]);
        check(vec![1000, 2000, 3000], [2.0, 3.0, 3.0, 3.0]);
        assert_eq!(latency("x", Vec::new()), None);
    }
}
