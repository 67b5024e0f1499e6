//! The tidy tables that CSV and Parquet have in common, and the Python package too: names and types of their columns.
//!
//! A table holds all cameras, with a column that says which. Times are seconds since the session's start in `time`, and
//! nanoseconds of `CLOCK_MONOTONIC` in columns that end in `_ns`.

use youquanti_actors::session_file::{LATENCY_STAGES, NOT_RUN, TextEntry};
use youquanti_models::{LANDMARK_COUNT, blendshapes, pose};

use super::walk::{Faces, Progress, blocks};
use super::{ExportError, Source};

/// Values of a column, by type. What is not known is NaN or `None`.
pub(super) enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
    Int(Vec<i64>),
    MaybeInt(Vec<Option<i64>>),
    Text(Vec<String>),
}

impl Values {
    fn of<T>(rows: &[T], value: impl Fn(&T) -> f64) -> Self {
        Self::F64(rows.iter().map(value).collect())
    }

    fn f32s<T>(rows: &[T], value: impl Fn(&T) -> f32) -> Self {
        Self::F32(rows.iter().map(value).collect())
    }

    fn ints<T, N: TryInto<i64>>(rows: &[T], value: impl Fn(&T) -> N) -> Self {
        Self::Int(rows.iter().map(|row| value(row).try_into().unwrap_or(i64::MAX)).collect())
    }

    fn maybe<T, N: TryInto<i64>>(rows: &[T], value: impl Fn(&T) -> Option<N>) -> Self {
        Self::MaybeInt(
            rows.iter().map(|row| value(row).map(|value| value.try_into().unwrap_or(i64::MAX))).collect(),
        )
    }

    fn texts<T>(rows: &[T], value: impl Fn(&T) -> &str) -> Self {
        Self::Text(rows.iter().map(|row| value(row).to_owned()).collect())
    }

    fn same(text: &str, rows: usize) -> Self {
        Self::Text(vec![text.to_owned(); rows])
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Int(values) => values.len(),
            Self::MaybeInt(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }
}

/// A block of a table: its columns, all of the same length.
pub(super) type Block = Vec<(String, Values)>;

/// All tables, in the order in which they are written.
pub(super) const TABLES: [&str; 17] = [
    "frames",
    "video",
    "results",
    "faces",
    "head_pose",
    "blendshapes",
    "landmarks",
    "pose",
    "synchrony",
    "participants",
    "markers",
    "events",
    "gaps",
    "ledger",
    "quality",
    "validity",
    "clock",
];

impl Source<'_> {
    /// The tables of this export.
    pub(super) fn tables(&self) -> impl Iterator<Item = &'static str> {
        let has_video = (0..self.reader.cameras().len()).any(|camera| self.reader.video_count(camera) > 0);
        let has_pose = self.reader.has_pose();
        let has_synchrony = self.inspection.synchrony.is_some();
        TABLES.into_iter().filter(move |&table| match table {
            "landmarks" => self.landmarks,
            "video" => has_video,
            "pose" => has_pose,
            "synchrony" => has_synchrony,
            _ => true,
        })
    }

    /// Gives `each` a table of these, block after block; at least one, which may be empty and tells the columns.
    pub(super) fn table(
        &self,
        table: &str,
        progress: &mut Progress<'_>,
        each: &mut dyn FnMut(Block) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        match table {
            "frames" | "video" | "results" | "faces" | "head_pose" | "blendshapes" | "landmarks" | "pose" => {
                for (camera, facts) in self.reader.cameras().iter().enumerate() {
                    let rows = match table {
                        "frames" => self.reader.frame_count(camera),
                        "video" => self.reader.video_count(camera),
                        "results" => self.reader.result_count(camera),
                        "pose" => self.reader.pose_count(camera),
                        _ => self.reader.face_count(camera),
                    };
                    // An empty one first, for a table without rows.
                    let empty = std::iter::once(0..0).filter(|_| table != "video");
                    for range in empty.chain(blocks(rows)) {
                        let block = match table {
                            "frames" => self.frames(camera, &facts.name, range)?,
                            "video" => self.video(camera, &facts.name, range)?,
                            "results" => self.results(camera, &facts.name, range)?,
                            "pose" => self.pose(camera, &facts.name, range)?,
                            _ => self.of_faces(table, camera, &facts.name, range)?,
                        };
                        progress.add(block.first().map_or(0, |(_, values)| values.len()));
                        each(block)?;
                    }
                }
                Ok(())
            }
            "synchrony" => self.synchrony(each),
            "participants" => each(self.participants()?),
            "markers" => each(self.texts(&self.reader.markers(u64::MAX)?)),
            "events" => each(self.texts(&self.reader.events(u64::MAX)?)),
            "gaps" => each(self.gaps()),
            "ledger" => each(self.ledger()),
            "quality" => each(self.quality()),
            "validity" => each(self.validity()),
            _ => each(self.clock()?),
        }
    }

    fn frames(&self, camera: usize, name: &str, rows: std::ops::Range<u64>) -> Result<Block, ExportError> {
        let rows = self.reader.frames(camera, rows)?;
        Ok(columns([
            ("camera", Values::same(name, rows.len())),
            ("time", Values::of(&rows, |row| self.seconds(row.captured_at_ns))),
            ("seq", Values::ints(&rows, |row| row.seq)),
            ("driver_seq", Values::ints(&rows, |row| row.driver_seq)),
            ("flags", Values::ints(&rows, |row| row.flags)),
            ("captured_at_ns", Values::ints(&rows, |row| row.captured_at_ns)),
            ("received_at_ns", Values::ints(&rows, |row| row.received_at_ns)),
        ]))
    }

    fn results(&self, camera: usize, name: &str, rows: std::ops::Range<u64>) -> Result<Block, ExportError> {
        let rows = self.reader.results(camera, rows)?;
        Ok(columns([
            ("camera", Values::same(name, rows.len())),
            ("time", Values::of(&rows, |row| self.seconds(row.captured_at_ns))),
            ("frame_seq", Values::ints(&rows, |row| row.frame_seq)),
            ("captured_at_ns", Values::ints(&rows, |row| row.captured_at_ns)),
            ("faces", Values::ints(&rows, |row| row.faces)),
            ("over_limit", Values::ints(&rows, |row| row.over_limit)),
            ("detector_ran", Values::ints(&rows, |row| row.detector_ran)),
        ]))
    }

    /// Which frame is where in which file beside the session file.
    fn video(&self, camera: usize, name: &str, rows: std::ops::Range<u64>) -> Result<Block, ExportError> {
        let rows = self.reader.video(camera, rows)?;
        Ok(columns([
            ("camera", Values::same(name, rows.len())),
            ("time", Values::of(&rows, |row| self.seconds(row.captured_at_ns))),
            ("seq", Values::ints(&rows, |row| row.seq)),
            ("captured_at_ns", Values::ints(&rows, |row| row.captured_at_ns)),
            ("segment", Values::ints(&rows, |row| row.segment)),
            ("frame", Values::ints(&rows, |row| row.frame)),
        ]))
    }

    /// Each frame that was looked at for a body, with the body's points.
    fn pose(&self, camera: usize, name: &str, rows: std::ops::Range<u64>) -> Result<Block, ExportError> {
        let points = self.reader.pose_points(camera, rows.clone())?;
        let rows = self.reader.poses(camera, rows)?;
        let mut block = columns([
            ("camera", Values::same(name, rows.len())),
            ("time", Values::of(&rows, |row| self.seconds(row.captured_at_ns))),
            ("frame_seq", Values::ints(&rows, |row| row.frame_seq)),
            ("captured_at_ns", Values::ints(&rows, |row| row.captured_at_ns)),
            ("valid", Values::ints(&rows, |row| row.valid)),
            ("detector_ran", Values::ints(&rows, |row| row.detector_ran)),
            ("latency_us", Values::ints(&rows, |row| row.latency_us)),
            ("presence", Values::f32s(&rows, |row| row.presence)),
            ("score", Values::f32s(&rows, |row| row.score)),
        ]);
        for (point, name) in pose::NAMES.into_iter().enumerate() {
            for (value, column) in pose::POINT_VALUES.into_iter().enumerate() {
                block
                    .push((format!("{name}_{column}"), Values::f32s(&points, |points| points[point][value])));
            }
        }
        Ok(block)
    }

    /// One of the four tables with a row for each face.
    fn of_faces(
        &self,
        table: &str,
        camera: usize,
        name: &str,
        rows: std::ops::Range<u64>,
    ) -> Result<Block, ExportError> {
        let Faces { rows, blendshapes: scores, poses, landmarks } =
            Faces::read(self.reader, camera, rows, table == "landmarks")?;
        let mut block = columns([
            ("camera", Values::same(name, rows.len())),
            ("time", Values::of(&rows, |row| self.seconds(row.captured_at_ns))),
            ("frame_seq", Values::ints(&rows, |row| row.frame_seq)),
            ("track", Values::ints(&rows, |row| row.track)),
            ("participant", Values::ints(&rows, |row| row.participant)),
        ]);
        let mut add = |name: String, values| block.push((name, values));
        match table {
            "faces" => {
                add("captured_at_ns".to_owned(), Values::ints(&rows, |row| row.captured_at_ns));
                add("score".to_owned(), Values::f32s(&rows, |row| row.score));
                for (place, edge) in ["x0", "y0", "x1", "y1"].into_iter().enumerate() {
                    add(format!("bbox_{edge}"), Values::f32s(&rows, |row| row.bbox[place]));
                }
                add("presence".to_owned(), Values::f32s(&rows, |row| row.presence));
                add("sharpness".to_owned(), Values::of(&rows, |row| row.sharpness));
                for (place, stage) in LATENCY_STAGES.into_iter().enumerate() {
                    let latency = Values::maybe(&rows, |row| {
                        Some(row.latency_us[place]).filter(|&micros| micros != NOT_RUN)
                    });
                    add(format!("latency_{stage}_us"), latency);
                }
            }
            "head_pose" => {
                for (row, axis) in ["x", "y", "z"].into_iter().enumerate() {
                    add(format!("position_{axis}_m"), Values::f32s(&poses, |pose| pose[row][3]));
                }
                for (row, column) in (0..3).flat_map(|row| (0..3).map(move |column| (row, column))) {
                    add(format!("rotation_{row}{column}"), Values::f32s(&poses, |pose| pose[row][column]));
                }
            }
            "blendshapes" => {
                for (place, name) in blendshapes::NAMES.into_iter().enumerate() {
                    add(name.to_owned(), Values::f32s(&scores, |scores| scores[place]));
                }
            }
            _ => {
                for (point, axis) in
                    (0..LANDMARK_COUNT).flat_map(|point| (0..3).map(move |axis| (point, axis)))
                {
                    let name = format!("{point}_{}", ["x", "y", "z"][axis]);
                    add(name, Values::f32s(&landmarks, |points| points[point][axis]));
                }
            }
        }
        Ok(block)
    }

    /// A row for each window, pair and group of channels.
    fn synchrony(&self, each: &mut dyn FnMut(Block) -> Result<(), ExportError>) -> Result<(), ExportError> {
        let Some(facts) = self.reader.synchrony()? else { return Ok(()) };
        let compared: Vec<_> =
            facts.pairs.iter().flat_map(|pair| facts.groups.iter().map(move |group| (pair, group))).collect();
        for range in std::iter::once(0..0).chain(blocks(self.reader.window_count())) {
            let windows = self.reader.windows(range.clone())?;
            let likeness = self.reader.likeness(range)?;
            let rows: Vec<_> = windows
                .iter()
                .flat_map(|window| compared.iter().map(move |&(pair, group)| (window, pair, group)))
                .zip(&likeness)
                .collect();
            each(columns([
                ("time", Values::of(&rows, |((window, ..), _)| self.seconds(window.end_ns))),
                ("start_ns", Values::ints(&rows, |((window, ..), _)| window.start_ns)),
                ("end_ns", Values::ints(&rows, |((window, ..), _)| window.end_ns)),
                ("first", Values::ints(&rows, |((_, pair, _), _)| pair[0])),
                ("second", Values::ints(&rows, |((_, pair, _), _)| pair[1])),
                ("group", Values::texts(&rows, |((.., group), _)| group)),
                ("r", Values::f32s(&rows, |(_, found)| found[0])),
                ("lag_s", Values::f32s(&rows, |(_, found)| found[1])),
                ("p", Values::f32s(&rows, |(_, found)| found[2])),
                ("common", Values::f32s(&rows, |(_, found)| found[3])),
            ]))?;
        }
        Ok(())
    }

    fn participants(&self) -> Result<Block, ExportError> {
        let rows = self.reader.participants()?;
        Ok(columns([
            ("time", Values::of(&rows, |row| self.seconds(row.time_ns))),
            ("time_ns", Values::ints(&rows, |row| row.time_ns)),
            ("participant", Values::ints(&rows, |row| row.id)),
            ("name", Values::texts(&rows, |row| &row.name)),
            ("role", Values::texts(&rows, |row| &row.role)),
            ("camera", Values::texts(&rows, |row| &row.camera)),
            ("track", Values::ints(&rows, |row| row.track)),
            ("why", Values::texts(&rows, |row| &row.why)),
        ]))
    }

    fn texts(&self, rows: &[TextEntry]) -> Block {
        columns([
            ("time", Values::of(rows, |row| self.seconds(row.time_ns))),
            ("time_ns", Values::ints(rows, |row| row.time_ns)),
            ("source", Values::texts(rows, |row| &row.source)),
            ("kind", Values::texts(rows, |row| &row.kind)),
            ("data", Values::texts(rows, |row| &row.text)),
        ])
    }

    fn gaps(&self) -> Block {
        let rows = &self.inspection.gaps;
        columns([
            ("time", Values::of(rows, |row| self.seconds(row.start_ns))),
            ("end", Values::of(rows, |row| row.end_ns.map_or(f64::NAN, |end| self.seconds(end)))),
            ("time_ns", Values::ints(rows, |row| row.start_ns)),
            ("end_ns", Values::maybe(rows, |row| row.end_ns)),
            ("source", Values::texts(rows, |row| &row.source)),
            ("cause", Values::texts(rows, |row| &row.cause)),
            ("missed", Values::maybe(rows, |row| row.missed)),
        ])
    }

    fn ledger(&self) -> Block {
        let rows: Vec<_> = self
            .inspection
            .ledger
            .iter()
            .flat_map(|entry| {
                let named = [
                    ("captured", entry.captured),
                    ("delivered", entry.delivered),
                    ("driver_lost", entry.driver_lost),
                ];
                let named = named.into_iter().map(|(item, count)| (item.to_owned(), count));
                let dropped =
                    entry.dropped.iter().map(|(reason, &count)| (format!("dropped:{reason}"), count));
                let under_way = (entry.under_way > 0).then(|| ("under_way".to_owned(), entry.under_way));
                named.chain(dropped).chain(under_way).map(move |(item, count)| (entry, item, count))
            })
            .collect();
        columns([
            ("camera", Values::texts(&rows, |(entry, ..)| &entry.camera)),
            ("consumer", Values::texts(&rows, |(entry, ..)| &entry.consumer)),
            ("item", Values::texts(&rows, |(_, item, _)| item)),
            ("count", Values::ints(&rows, |&(.., count)| count)),
        ])
    }

    fn quality(&self) -> Block {
        let rows: Vec<_> = self
            .inspection
            .quality
            .iter()
            .flat_map(|(source, items)| items.iter().map(move |(item, series)| (source, item, series)))
            .flat_map(|(source, item, series)| {
                series
                    .time_ns
                    .iter()
                    .zip(&series.value)
                    .map(move |(&time_ns, &value)| (time_ns, source, item, value))
            })
            .collect();
        columns([
            ("time", Values::of(&rows, |row| self.seconds(row.0))),
            ("time_ns", Values::ints(&rows, |row| row.0)),
            ("source", Values::texts(&rows, |row| row.1)),
            ("item", Values::texts(&rows, |row| row.2)),
            ("value", Values::of(&rows, |row| row.3)),
        ])
    }

    fn validity(&self) -> Block {
        let rows: Vec<_> = self
            .inspection
            .validity
            .iter()
            .flat_map(|card| card.minutes.iter().map(move |minute| (card, minute)))
            .collect();
        let known = |value: Option<f64>| value.unwrap_or(f64::NAN);
        columns([
            ("participant", Values::ints(&rows, |(card, _)| card.participant)),
            ("camera", Values::texts(&rows, |(card, _)| &card.camera)),
            ("time", Values::of(&rows, |(_, minute)| self.seconds(minute.end_ns))),
            ("time_ns", Values::ints(&rows, |(_, minute)| minute.end_ns)),
            ("analysed", Values::ints(&rows, |(_, minute)| minute.analysed)),
            ("faces", Values::ints(&rows, |(_, minute)| minute.faces)),
            ("presence", Values::of(&rows, |(_, minute)| known(minute.presence))),
            ("face_size_p50_px", Values::of(&rows, |(_, minute)| known(minute.face_size_p50_px))),
            ("face_size_p05_px", Values::of(&rows, |(_, minute)| known(minute.face_size_p05_px))),
            ("sharpness_p50", Values::of(&rows, |(_, minute)| known(minute.sharpness_p50))),
            ("sharpness_p05", Values::of(&rows, |(_, minute)| known(minute.sharpness_p05))),
            ("yaw_beyond_30deg", Values::of(&rows, |(_, minute)| known(minute.yaw_beyond_30deg))),
            ("noise_px", Values::of(&rows, |(_, minute)| known(minute.noise_px))),
            ("noise_score", Values::of(&rows, |(_, minute)| known(minute.noise_score))),
            ("still", Values::ints(&rows, |(_, minute)| minute.still)),
        ])
    }

    fn clock(&self) -> Result<Block, ExportError> {
        let rows = self.reader.clock_pairs()?;
        Ok(columns([
            ("time", Values::of(&rows, |row| self.seconds(row.0))),
            ("time_ns", Values::ints(&rows, |row| row.0)),
            ("utc_ns", Values::ints(&rows, |row| row.1)),
        ]))
    }
}

fn columns<const N: usize>(columns: [(&str, Values); N]) -> Block {
    columns.into_iter().map(|(name, values)| (name.to_owned(), values)).collect()
}
