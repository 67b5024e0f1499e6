//! NWB 2, a file for each participant: their faces as `behavior`, gaps as intervals, markers and events as annotations.
//!
//! Times are seconds since `session_start_time`, reckoned on the session's one clock; the series `utc_offset` says how far UTC has
//! moved against it since, minute by minute. A file carries the specifications that it is written by, as pynwb's do. Of a
//! participant who was seen by several cameras, each camera's series have its name.

use std::collections::BTreeMap;
use std::path::Path;

use hdf5::types::VarLenUnicode;
use hdf5::{
    Dataset, Extent, File, Group, H5Type, Hyperslab, Location, ObjectReference1, SimpleExtents, SliceOrIndex,
};
use ndarray::ArrayViewD;
use youquanti_actors::dice::Dice;
use youquanti_actors::session_file::{CameraFacts, TextEntry};
use youquanti_models::head_pose::quaternion;
use youquanti_models::{BLENDSHAPE_COUNT, LANDMARK_COUNT, blendshapes};

use super::walk::{Progress, analysed};
use super::{ExportError, ExportedFile, Source, Targets};

/// Written by `tools/nwb_specifications.py`.
const SPECIFICATIONS: &str = include_str!("nwb/specifications.json");

pub(super) fn export(
    source: &Source<'_>,
    targets: &Targets,
    progress: &mut Progress<'_>,
) -> Result<Vec<ExportedFile>, ExportError> {
    let people = &source.inspection.participants;
    if people.is_empty() {
        return Err(ExportError::Nobody { path: source.reader.path().to_owned() });
    }
    let names: Vec<_> = people.iter().map(|person| format!("{}_P{}.nwb", targets.stem, person.id)).collect();
    let mut made = Vec::new();
    for (person, target) in people.iter().zip(targets.claim(&names)?) {
        let mut writer = NwbFile::create(&target.unfinished, source, person.id)?;
        writer.header(source, person.id, &person.name)?;
        for (camera, facts) in source.reader.cameras().iter().enumerate() {
            let is_seen = source.inspection.cameras[camera].participants.contains(&person.id);
            if is_seen {
                writer.faces(source, person.id, camera, facts, progress)?;
            }
        }
        writer.session(source)?;
        // HDF5 closes a file when the last of its handles goes, and it has its name only once it is whole.
        let NwbFile { file, behavior, rows, .. } = writer;
        drop(behavior);
        file.close().map_err(failed_to("close", target.path.display().to_string()))?;
        made.push(target.finish(rows)?);
    }
    Ok(made)
}

fn failed_to(action: &'static str, object: impl Into<String>) -> impl FnOnce(hdf5::Error) -> ExportError {
    move |source| ExportError::Hdf5 { action, object: object.into(), source }
}

struct NwbFile {
    file: File,
    behavior: Group,
    ids: Dice,
    rows: Vec<(String, u64)>,
}

impl NwbFile {
    fn create(path: &Path, source: &Source<'_>, participant: u32) -> Result<Self, ExportError> {
        let file = File::create(path).map_err(failed_to("create", path.display().to_string()))?;
        let seed = format!("{} {participant}", source.reader.header().session_id);
        let ids = Dice::new(fnv1a(seed.as_bytes()));
        let processing = group(&file, "processing")?;
        let behavior = group(&processing, "behavior")?;
        Ok(Self { file, behavior, ids, rows: Vec::new() })
    }

    /// Marks a group or dataset as an object of a type.
    fn typed(&mut self, at: &Location, namespace: &str, kind: &str) -> Result<(), ExportError> {
        attribute(at, "namespace", namespace)?;
        attribute(at, "neurodata_type", kind)?;
        let id = uuid(&mut self.ids);
        attribute(at, "object_id", &id)
    }

    fn object(&mut self, parent: &Group, name: &str, kind: &str) -> Result<Group, ExportError> {
        let object = group(parent, name)?;
        self.typed(&object, "core", kind)?;
        Ok(object)
    }

    /// What the file, the session and the subject are.
    fn header(&mut self, source: &Source<'_>, participant: u32, name: &str) -> Result<(), ExportError> {
        #[derive(serde::Deserialize)]
        struct Specifications {
            nwb_version: String,
            specifications: BTreeMap<String, String>,
        }
        let Specifications { nwb_version, specifications } = serde_json::from_str(SPECIFICATIONS)
            .unwrap_or(Specifications { nwb_version: String::new(), specifications: BTreeMap::new() });
        let root = self.file.group("/").map_err(failed_to("open", "/"))?;
        self.typed(&root, "core", "NWBFile")?;
        attribute(&root, "nwb_version", &nwb_version)?;
        let cached = group(&root, "specifications")?;
        for (path, json) in &specifications {
            let (folder, _) = path.rsplit_once('/').unwrap_or_default();
            if cached.group(folder).is_err() {
                cached.create_group(folder).map_err(failed_to("create", folder))?;
            }
            text(&cached, path, json)?;
        }
        let place = self
            .file
            .reference::<ObjectReference1>("specifications")
            .map_err(failed_to("refer to", "specifications"))?;
        root.new_attr::<ObjectReference1>()
            .create(".specloc")
            .and_then(|attribute| attribute.write_scalar(&place))
            .map_err(failed_to("write attribute", ".specloc"))?;

        let header = source.reader.header();
        let start = utc(header.utc_start_ns);
        let id = format!("P{participant}");
        text(&root, "identifier", &format!("{}_{id}", header.session_id))?;
        text(
            &root,
            "session_description",
            &format!("Faces of participant {id} in session {:?}, by {}.", header.name, header.software),
        )?;
        text(&root, "session_start_time", &start)?;
        text(&root, "timestamps_reference_time", &start)?;
        texts(&root, "file_create_date", &[&utc(jiff::Timestamp::now().as_nanosecond() as i64)])?;
        for empty in ["acquisition", "analysis", "stimulus", "stimulus/presentation", "stimulus/templates"] {
            group(&root, empty)?;
        }
        let general = group(&root, "general")?;
        text(&general, "session_id", &header.session_id)?;
        text(&general, "notes", &format!("Configuration, TOML:\n{}", header.config))?;
        let models: Vec<_> =
            header.models.iter().map(|(id, sha256)| format!("{id} (SHA-256 {sha256})")).collect();
        let how = format!(
            "{} on {}, {}; networks: {}",
            header.backend,
            header.backend_device,
            header.backend_runtime,
            models.join(", ")
        );
        text(&general, "data_collection", &how)?;
        let subject = self.object(&general, "subject", "Subject")?;
        text(&subject, "subject_id", &id)?;
        text(&subject, "species", "Homo sapiens")?;
        // NWB wants an age, as a duration of ISO 8601 or a range of them: from nothing to whatever.
        text(&subject, "age", "P0D/")?;
        text(&subject, "sex", "U")?;
        let person = if name.is_empty() { id } else { name.to_owned() };
        text(
            &subject,
            "description",
            &format!("Called {person:?} in the configuration; age and sex were not asked."),
        )?;
        let devices = group(&general, "devices")?;
        for facts in source.reader.cameras() {
            let device = self.object(&devices, &facts.name, "Device")?;
            let CameraFacts { width, height, pixel_format, device: what, stamp_source, .. } = facts;
            let offset = match &facts.stamp_offset {
                Some(offset) => format!(
                    "stamps are {:.6} s later than the light (median), not subtracted",
                    offset.median_s
                ),
                None => "how much later than the light its stamps are was never measured".to_owned(),
            };
            let description =
                format!("{what}; {width} x {height} {pixel_format}; stamps: {stamp_source}; {offset}");
            attribute(&device, "description", &description)?;
        }
        self.typed(&self.behavior.clone(), "core", "ProcessingModule")?;
        attribute(
            &self.behavior,
            "description",
            "Faces: blendshapes, landmarks and head pose, a row for each frame in which the face was seen.",
        )
    }

    /// A participant's series in one camera.
    fn faces(
        &mut self,
        source: &Source<'_>,
        participant: u32,
        camera: usize,
        facts: &CameraFacts,
        progress: &mut Progress<'_>,
    ) -> Result<(), ExportError> {
        let name = &facts.name;
        let behavior = self.behavior.clone();
        let face = self.object(&behavior, &format!("face_{name}"), "BehavioralTimeSeries")?;
        let position = self.object(&behavior, &format!("head_{name}"), "Position")?;
        let names = blendshapes::NAMES.join(", ");
        let scores = self.series(&face, "blendshapes", "TimeSeries", "a.u.", &[BLENDSHAPE_COUNT])?;
        describe(&scores, &format!("Scores of 0 to 1. Columns: {names}"))?;
        let landmarks = if source.landmarks {
            let series = self.series(&face, "landmarks", "TimeSeries", "pixels", &[LANDMARK_COUNT, 3])?;
            describe(
                &series,
                "478 points of MediaPipe's face mesh, each x (right), y (down), z (negative is nearer), pixels of the camera picture.",
            )?;
            Some(series)
        } else {
            None
        };
        let orientation = self.series(&face, "head_orientation", "TimeSeries", "a.u.", &[4])?;
        describe(
            &orientation,
            "Unit quaternion (a, b, c, d), a the real part: turns the canonical face into the camera's axes, which are right-handed, y up, looking along -z.",
        )?;
        let quality = self.series(&face, "quality", "TimeSeries", "a.u.", &[3])?;
        describe(
            &quality,
            "Columns: confidence of the landmark network, 0 to 1; score of the detection that began or last confirmed the track, 0 to 1; sharpness of the face, the variance of its Laplacian, NaN if it was not measured.",
        )?;
        let bbox = self.series(&face, "bounding_box", "TimeSeries", "pixels", &[4])?;
        describe(&bbox, "Around the landmarks: x0, y0, x1, y1, pixels of the camera picture.")?;
        let head = self.series(&position, "head_position", "SpatialSeries", "meters", &[3])?;
        describe(
            &head,
            "Position of the head. The distance holds for a vertical field of view of 63 degrees.",
        )?;
        text(
            &head.group,
            "reference_frame",
            "The camera: x right in the picture, y up, the camera looks along -z; (0, 0, 0) is the camera.",
        )?;

        let mut count = 0;
        analysed(source.reader, camera, source.landmarks, |block| {
            let mine: Vec<_> =
                block.of(participant).filter_map(|(result, face)| Some((result, face?))).collect();
            let times: Vec<f64> =
                mine.iter().map(|(result, _)| source.seconds(result.captured_at_ns)).collect();
            let faces = &block.faces;
            let put = |series: &Series, values: Vec<f32>| series.append(&times, &values);
            put(&scores, mine.iter().flat_map(|&(_, at)| faces.blendshapes[at]).collect())?;
            if let Some(series) = &landmarks {
                put(
                    series,
                    mine.iter().flat_map(|&(_, at)| faces.landmarks[at].as_flattened().to_vec()).collect(),
                )?;
            }
            put(&orientation, mine.iter().flat_map(|&(_, at)| quaternion(&faces.poses[at])).collect())?;
            let row = |at: usize| &faces.rows[at];
            put(
                &quality,
                mine.iter()
                    .flat_map(|&(_, at)| [row(at).presence, row(at).score, row(at).sharpness as f32])
                    .collect(),
            )?;
            put(&bbox, mine.iter().flat_map(|&(_, at)| row(at).bbox).collect())?;
            put(
                &head,
                mine.iter().flat_map(|&(_, at)| [0, 1, 2].map(|axis| faces.poses[at][axis][3])).collect(),
            )?;
            count += times.len() as u64;
            progress.add(block.results.len());
            Ok(())
        })?;
        self.rows.push((format!("face_{name}"), count));
        Ok(())
    }

    /// What is of the session and not of a face: gaps, markers, events, clocks.
    fn session(&mut self, source: &Source<'_>) -> Result<(), ExportError> {
        let acquisition = self.file.group("acquisition").map_err(failed_to("open", "acquisition"))?;
        let markers = source.reader.markers(u64::MAX)?;
        self.annotations(
            source,
            &acquisition,
            "markers",
            "What happened in the experiment, JSON.",
            &markers,
        )?;
        let events = source.reader.events(u64::MAX)?;
        self.annotations(
            source,
            &acquisition,
            "events",
            "What happened to the recording itself, JSON.",
            &events,
        )?;

        let pairs = source.reader.clock_pairs()?;
        let start = source.reader.header();
        let times: Vec<f64> = pairs.iter().map(|&(time_ns, _)| source.seconds(time_ns)).collect();
        let offsets: Vec<f64> = pairs
            .iter()
            .map(|&(time_ns, utc_ns)| {
                utc_ns.wrapping_sub(start.utc_start_ns) as f64 / 1e9 - source.seconds(time_ns)
            })
            .collect();
        let clock = self.object(&acquisition, "utc_offset", "TimeSeries")?;
        let description = "Calendar time minus (session_start_time + timestamp): how far UTC has moved against the clock of all timestamps.";
        attribute(&clock, "description", description)?;
        attribute(&clock, "comments", "no comments")?;
        let data = numbers(&clock, "data", &offsets)?;
        data_attributes(&data, "seconds")?;
        timestamps_attributes(&numbers(&clock, "timestamps", &times)?)?;
        self.rows.push(("utc_offset".to_owned(), times.len() as u64));
        self.gaps(source)
    }

    fn annotations(
        &mut self,
        source: &Source<'_>,
        parent: &Group,
        name: &str,
        description: &str,
        entries: &[TextEntry],
    ) -> Result<(), ExportError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|entry| entry.time_ns);
        let series = self.object(parent, name, "AnnotationSeries")?;
        attribute(&series, "description", description)?;
        attribute(&series, "comments", "no comments")?;
        let told: Vec<_> = entries
            .iter()
            .map(|entry| {
                let detail: serde_json::Value = serde_json::from_str(&entry.text)
                    .unwrap_or_else(|_| serde_json::Value::String(entry.text.clone()));
                serde_json::json!({ "source": entry.source, "kind": entry.kind, "detail": detail })
                    .to_string()
            })
            .collect();
        let data = texts(&series, "data", &told.iter().map(String::as_str).collect::<Vec<_>>())?;
        data_attributes(&data, "n/a")?;
        let times: Vec<f64> = entries.iter().map(|entry| source.seconds(entry.time_ns)).collect();
        timestamps_attributes(&numbers(&series, "timestamps", &times)?)?;
        self.rows.push((name.to_owned(), times.len() as u64));
        Ok(())
    }

    /// Times in which a camera was away, as a table of intervals.
    fn gaps(&mut self, source: &Source<'_>) -> Result<(), ExportError> {
        let gaps = &source.inspection.gaps;
        if gaps.is_empty() {
            return Ok(());
        }
        let intervals = group(&self.file, "intervals")?;
        let table = self.object(&intervals, "gaps", "TimeIntervals")?;
        attribute(
            &table,
            "description",
            "Times in which a camera was away; one that was away to the end stops with the file.",
        )?;
        let columns = ["start_time", "stop_time", "camera", "cause"].map(varlen);
        table
            .new_attr_builder()
            .with_data(&columns)
            .create("colnames")
            .map_err(failed_to("write attribute", "colnames"))?;
        let ids: Vec<i64> = (0..gaps.len() as i64).collect();
        let id =
            table.new_dataset_builder().with_data(&ids).create("id").map_err(failed_to("write", "id"))?;
        self.typed(&id, "hdmf-common", "ElementIdentifiers")?;
        let starts: Vec<f64> = gaps.iter().map(|gap| source.seconds(gap.start_ns)).collect();
        let stops: Vec<f64> = gaps.iter().zip(&starts).map(|(gap, start)| start + gap.duration_s).collect();
        let cameras: Vec<&str> = gaps.iter().map(|gap| &*gap.source).collect();
        let causes: Vec<&str> = gaps.iter().map(|gap| &*gap.cause).collect();
        let columns = [
            (numbers(&table, "start_time", &starts)?, "Stamp of the last good frame, seconds."),
            (numbers(&table, "stop_time", &stops)?, "Stamp of the first frame after, seconds."),
            (texts(&table, "camera", &cameras)?, "Which camera."),
            (texts(&table, "cause", &causes)?, "What it said when it failed."),
        ];
        for (column, description) in columns {
            self.typed(&column, "hdmf-common", "VectorData")?;
            attribute(&column, "description", description)?;
        }
        self.rows.push(("gaps".to_owned(), gaps.len() as u64));
        Ok(())
    }

    /// A series that grows; a row has this shape.
    fn series(
        &mut self,
        parent: &Group,
        name: &str,
        kind: &str,
        unit: &str,
        row: &[usize],
    ) -> Result<Series, ExportError> {
        let group = self.object(parent, name, kind)?;
        attribute(&group, "comments", "no comments")?;
        let data = growing::<f32>(&group, "data", row)?;
        data_attributes(&data, unit)?;
        let timestamps = growing::<f64>(&group, "timestamps", &[])?;
        timestamps_attributes(&timestamps)?;
        Ok(Series { group, data, timestamps, row: row.to_vec() })
    }
}

/// A time series that is being written.
struct Series {
    group: Group,
    data: Dataset,
    timestamps: Dataset,
    row: Vec<usize>,
}

impl Series {
    fn append(&self, times: &[f64], values: &[f32]) -> Result<(), ExportError> {
        if times.is_empty() {
            return Ok(());
        }
        grow(&self.timestamps, times, &[]).map_err(failed_to("write", "timestamps"))?;
        grow(&self.data, values, &self.row).map_err(failed_to("write", self.data.name()))
    }
}

/// Rows that are written and compressed as one.
const CHUNK: usize = 256;

fn growing<T: H5Type>(parent: &Group, name: &str, row: &[usize]) -> Result<Dataset, ExportError> {
    let mut extents = vec![Extent::resizable(0)];
    extents.extend(row.iter().map(|&n| Extent::fixed(n)));
    let chunk: Vec<usize> = std::iter::once(CHUNK).chain(row.iter().copied()).collect();
    parent
        .new_dataset_builder()
        .chunk(chunk)
        .shuffle()
        .deflate(1)
        .empty::<T>()
        .shape(SimpleExtents::from_vec(extents))
        .create(name)
        .map_err(failed_to("create", name))
}

fn grow<T: H5Type>(dataset: &Dataset, values: &[T], row: &[usize]) -> Result<(), hdf5::Error> {
    let start = dataset.shape().first().copied().unwrap_or(0);
    let rows = values.len() / row.iter().product::<usize>().max(1);
    let shape = |rows: usize| std::iter::once(rows).chain(row.iter().copied()).collect::<Vec<_>>();
    dataset.resize(shape(start + rows))?;
    let mut selection = vec![SliceOrIndex::from(start..start + rows)];
    selection.extend(row.iter().map(|_| SliceOrIndex::from(..)));
    dataset.write_slice(ArrayViewD::from_shape(shape(rows), values)?, Hyperslab::from(selection))
}

fn describe(series: &Series, description: &str) -> Result<(), ExportError> {
    attribute(&series.group, "description", description)
}

fn data_attributes(data: &Dataset, unit: &str) -> Result<(), ExportError> {
    attribute(data, "unit", unit)?;
    for (name, value) in [("conversion", 1.0), ("offset", 0.0), ("resolution", -1.0)] {
        data.new_attr::<f64>()
            .create(name)
            .and_then(|attribute| attribute.write_scalar(&value))
            .map_err(failed_to("write attribute", name))?;
    }
    Ok(())
}

fn timestamps_attributes(timestamps: &Dataset) -> Result<(), ExportError> {
    attribute(timestamps, "unit", "seconds")?;
    timestamps
        .new_attr::<i32>()
        .create("interval")
        .and_then(|attribute| attribute.write_scalar(&1))
        .map_err(failed_to("write attribute", "interval"))
}

fn group(parent: &Group, name: &str) -> Result<Group, ExportError> {
    parent.create_group(name).map_err(failed_to("create", name))
}

/// A text as HDF5 has those of any length: without zero bytes.
fn varlen(text: &str) -> VarLenUnicode {
    text.replace('\0', "\u{fffd}").parse().unwrap_or_default()
}

fn attribute(at: &Location, name: &str, value: &str) -> Result<(), ExportError> {
    at.new_attr::<VarLenUnicode>()
        .create(name)
        .and_then(|attribute| attribute.write_scalar(&varlen(value)))
        .map_err(failed_to("write attribute", name))
}

fn text(parent: &Group, name: &str, value: &str) -> Result<(), ExportError> {
    parent
        .new_dataset::<VarLenUnicode>()
        .create(name)
        .and_then(|dataset| dataset.write_scalar(&varlen(value)))
        .map_err(failed_to("write", name))
}

fn texts(parent: &Group, name: &str, values: &[&str]) -> Result<Dataset, ExportError> {
    let values: Vec<VarLenUnicode> = values.iter().map(|value| varlen(value)).collect();
    parent.new_dataset_builder().with_data(&values).create(name).map_err(failed_to("write", name))
}

fn numbers(parent: &Group, name: &str, values: &[f64]) -> Result<Dataset, ExportError> {
    parent.new_dataset_builder().with_data(values).create(name).map_err(failed_to("write", name))
}

/// Nanoseconds since 1970 as ISO 8601.
fn utc(nanos: i64) -> String {
    let utc = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    utc.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}

/// Version 4 of RFC 9562. The dice begin from session and participant, so that objects keep their ids when a session is exported
/// again.
fn uuid(dice: &mut Dice) -> String {
    let (high, low) = (dice.roll(), dice.roll());
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0x0fff);
    let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

/// The hash of Fowler, Noll and Vo, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_4_and_none_is_given_twice() {
        let mut dice = Dice::new(fnv1a(b"session 1"));
        let ids: Vec<_> = (0..1000).map(|_| uuid(&mut dice)).collect();
        for id in &ids {
            let parts: Vec<_> = id.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
            assert!(parts[2].starts_with('4') && "89ab".contains(&parts[3][..1]), "{id}");
        }
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
    }

    #[test]
    fn the_specifications_are_there() {
        let told: serde_json::Value = serde_json::from_str(SPECIFICATIONS).unwrap();
        let specifications = told["specifications"].as_object().unwrap();
        let version = told["nwb_version"].as_str().unwrap();
        assert!(specifications.contains_key(&format!("core/{version}/namespace")));
        for text in specifications.values() {
            assert!(serde_json::from_str::<serde_json::Value>(text.as_str().unwrap()).is_ok());
        }
    }

    #[test]
    fn times_are_as_the_schema_wants_them() {
        assert_eq!(utc(1_767_225_599_123_456_789), "2025-12-31T23:59:59.123456+00:00");
    }
}
