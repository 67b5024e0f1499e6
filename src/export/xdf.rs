//! XDF 1.0: the streams that the session sends over Lab Streaming Layer, with the same names, types, labels, units and stamps, as
//! LabRecorder would have recorded them on the same machine: stamps are of one clock, so every stream's clock offset is 0.
//!
//! A participant's streams follow the frames of one camera, their home: here the one that saw them most. `age_ms` is the time from
//! capture to result that the file has, which is a little less than that of a row that was sent. Not in the file, and so not here:
//! the streams of the profile `youquantipy`. Other programs' streams of markers are there under their own names, with stamps of this
//! machine's clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::Value;
use youquanti_actors::lsl::channels::{self, Channel};
use youquanti_actors::session_file::{
    CameraFacts, LATENCY_STAGES, LIKENESS_CHANNELS, LIKENESS_COLUMNS, NOT_RUN,
};
use youquanti_config::Config;
use youquanti_models::head_pose::quaternion;
use youquanti_models::{BLENDSHAPE_COUNT, LANDMARK_COUNT};

use super::walk::{Progress, analysed, blocks};
use super::{ExportError, ExportedFile, Source, Target, Targets};
use crate::wiring;
use crate::xml::escaped;

/// Tags of chunks, as the specification numbers them.
mod tag {
    pub(super) const FILE_HEADER: u16 = 1;
    pub(super) const STREAM_HEADER: u16 = 2;
    pub(super) const SAMPLES: u16 = 3;
    pub(super) const CLOCK_OFFSET: u16 = 4;
    pub(super) const STREAM_FOOTER: u16 = 6;
}

struct Stream {
    name: String,
    kind: String,
    /// Frames a second; 0: irregular.
    rate: f64,
    /// `float32`, `double64` or `string`.
    format: &'static str,
    channels: Vec<Channel>,
    /// More elements of the description, XML.
    desc: String,
}

pub(super) fn export(
    source: &Source<'_>,
    targets: &Targets,
    progress: &mut Progress<'_>,
) -> Result<Vec<ExportedFile>, ExportError> {
    let mut made = Vec::new();
    for target in targets.claim(&[format!("{}.xdf", targets.stem)])? {
        let mut file = XdfFile::create(&target, source)?;
        for person in &source.inspection.participants {
            if let Some(camera) = home(source, person.id)? {
                people(source, &mut file, person.id, &person.name, camera, progress)?;
            }
        }
        for (camera, facts) in source.reader.cameras().iter().enumerate() {
            frames(source, &mut file, camera, facts, progress)?;
        }
        synchrony(source, &mut file)?;
        events(source, &mut file)?;
        markers(source, &mut file)?;
        let rows = file.finish()?;
        made.push(target.finish(rows)?);
    }
    Ok(made)
}

/// The camera that saw a participant most.
pub(super) fn home(source: &Source<'_>, participant: u32) -> Result<Option<usize>, ExportError> {
    let mut best = None;
    for camera in 0..source.reader.cameras().len() {
        let mut seen = 0u64;
        for rows in blocks(source.reader.face_count(camera)) {
            let rows = source.reader.faces(camera, rows)?;
            seen += rows.iter().filter(|row| row.participant == participant).count() as u64;
        }
        if seen > best.map_or(0, |(most, _)| most) {
            best = Some((seen, camera));
        }
    }
    Ok(best.map(|(_, camera)| camera))
}

/// The streams of a participant, sample by sample beside each other.
fn people(
    source: &Source<'_>,
    file: &mut XdfFile,
    participant: u32,
    name: &str,
    camera: usize,
    progress: &mut Progress<'_>,
) -> Result<(), ExportError> {
    let facts = &source.reader.cameras()[camera];
    let rate = facts.fps.unwrap_or(source.inspection.cameras[camera].rate_hz);
    let desc = format!(
        "<participant><id>P{participant}</id><name>{}</name></participant>{}{}",
        escaped(name),
        synchronization(facts),
        camera_element(camera, facts)
    );
    let stream = |what: &str, kind: &str, channels| Stream {
        name: format!("P{participant}_{what}"),
        kind: kind.to_owned(),
        rate,
        format: "float32",
        channels,
        desc: desc.clone(),
    };
    let scores = file.open(&stream("blendshapes", "Face", channels::blendshapes()))?;
    let pose = file.open(&stream("headpose", "MoCap", channels::head_pose()))?;
    let mesh = if source.landmarks {
        Some(file.open(&stream("mesh", "MoCap", channels::mesh("pixels").collect()))?)
    } else {
        None
    };
    analysed(source.reader, camera, source.landmarks, |block| {
        let [mut of_scores, mut of_pose, mut of_mesh] = [(); 3].map(|()| Samples::default());
        for (result, face) in block.of(participant) {
            let at = result.captured_at_ns;
            of_scores.begin(at);
            of_pose.begin(at);
            match face {
                Some(face) => {
                    let row = &block.faces.rows[face];
                    let micros = row.latency_us[LATENCY_STAGES.len() - 1];
                    let age = if micros == NOT_RUN { f32::NAN } else { micros as f32 / 1e3 };
                    of_scores.floats(&block.faces.blendshapes[face]);
                    of_scores.floats(&[1.0, row.presence, age, camera as f32]);
                    let matrix = &block.faces.poses[face];
                    of_pose.floats(&[matrix[0][3], matrix[1][3], matrix[2][3]]);
                    of_pose.floats(&quaternion(matrix));
                    of_pose.floats(&[row.presence]);
                }
                None => {
                    of_scores.nothing(BLENDSHAPE_COUNT);
                    of_scores.floats(&[0.0, f32::NAN, f32::NAN, camera as f32]);
                    of_pose.nothing(7);
                    of_pose.floats(&[0.0]);
                }
            }
            if mesh.is_some() {
                of_mesh.begin(at);
                match face {
                    Some(face) => of_mesh.floats(block.faces.landmarks[face].as_flattened()),
                    None => of_mesh.nothing(3 * LANDMARK_COUNT),
                }
            }
        }
        file.samples(scores, &of_scores)?;
        file.samples(pose, &of_pose)?;
        if let Some(mesh) = mesh {
            file.samples(mesh, &of_mesh)?;
        }
        progress.add(of_scores.count);
        Ok(())
    })
}

/// `<camera>_frames`: what is known of each captured frame.
fn frames(
    source: &Source<'_>,
    file: &mut XdfFile,
    camera: usize,
    facts: &CameraFacts,
    progress: &mut Progress<'_>,
) -> Result<(), ExportError> {
    let stream = file.open(&Stream {
        name: format!("{}_frames", facts.name),
        kind: "VideoExternal".to_owned(),
        rate: 0.0,
        format: "double64",
        channels: channels::FRAMES.map(channels::owned).to_vec(),
        desc: synchronization(facts) + &camera_element(camera, facts),
    })?;
    // Frames without a result so far; both tables are in the order of `seq`.
    let mut results = blocks(source.reader.result_count(camera));
    let mut known = Vec::new().into_iter().peekable();
    let mut dropped = 0u64;
    for rows in blocks(source.reader.frame_count(camera)) {
        let rows = source.reader.frames(camera, rows)?;
        let mut samples = Samples::default();
        for row in &rows {
            while known.peek().is_none_or(|&seq| seq < row.seq) {
                if known.next().is_some() {
                    continue;
                }
                let Some(range) = results.next() else { break };
                let seqs: Vec<u64> =
                    source.reader.results(camera, range)?.iter().map(|row| row.frame_seq).collect();
                known = seqs.into_iter().peekable();
            }
            dropped += u64::from(known.peek() != Some(&row.seq));
            let at = seconds(row.captured_at_ns);
            samples.begin(row.captured_at_ns);
            for value in [row.seq as f64, f64::from(row.driver_seq), at, dropped as f64] {
                samples.bytes.extend(value.to_le_bytes());
            }
        }
        file.samples(stream, &samples)?;
        progress.add(rows.len());
    }
    Ok(())
}

/// `Synchrony`: each window, stamped with its end.
fn synchrony(source: &Source<'_>, file: &mut XdfFile) -> Result<(), ExportError> {
    let Some(facts) = source.reader.synchrony()? else { return Ok(()) };
    let mut channels: Vec<Channel> = Vec::new();
    for [first, second] in &facts.pairs {
        for group in &facts.groups {
            for (column, (unit, kind)) in LIKENESS_COLUMNS.iter().zip(LIKENESS_CHANNELS) {
                channels.push((format!("P{first}-P{second}_{group}_{column}"), unit, kind));
            }
        }
    }
    // How it was computed is in the session's configuration alone, which another version may not read.
    let header = source.reader.header();
    let options =
        Config::from_toml(&header.config, "configuration").ok().map(|config| wiring::synchrony(&config));
    let method = options.as_ref().map_or_else(String::new, |options| {
        let lengths = [
            ("window", options.window),
            ("step", options.step),
            ("max_lag", options.max_lag),
            ("history", options.history),
        ];
        let lengths = lengths.map(|(name, length)| format!("<{name}>{}</{name}>", length.as_secs_f64()));
        format!("{}<shifts>{}</shifts>", lengths.concat(), options.shifts)
    });
    let groups: String = facts
        .groups
        .iter()
        .zip(&facts.channels)
        .map(|(name, channels)| {
            let (name, channels) = (escaped(name), escaped(&channels.join(" ")));
            format!("<group><name>{name}</name><blendshapes>{channels}</blendshapes></group>")
        })
        .collect();
    let stream = file.open(&Stream {
        name: "Synchrony".to_owned(),
        kind: "Synchrony".to_owned(),
        rate: options.map_or(0.0, |options| options.step.as_secs_f64().recip()),
        format: "float32",
        desc: format!(
            "<method>{method}<positive_lag>the second of the pair follows the first</positive_lag><groups>{groups}</groups></method>\
             <synchronization><can_drop_samples>true</can_drop_samples></synchronization>"
        ),
        channels,
    })?;
    let compared = facts.pairs.len() * facts.groups.len();
    for range in blocks(source.reader.window_count()) {
        let windows = source.reader.windows(range.clone())?;
        let likeness = source.reader.likeness(range)?;
        let mut samples = Samples::default();
        for (window, likeness) in windows.iter().zip(likeness.chunks_exact(compared)) {
            samples.begin(window.end_ns);
            samples.floats(likeness.as_flattened());
        }
        file.samples(stream, &samples)?;
    }
    Ok(())
}

/// `youquanti_events`: events and markers, one JSON text each.
fn events(source: &Source<'_>, file: &mut XdfFile) -> Result<(), ExportError> {
    let stream = file.open(&Stream {
        name: "youquanti_events".to_owned(),
        kind: "Markers".to_owned(),
        rate: 0.0,
        format: "string",
        channels: vec![channels::owned(channels::EVENT)],
        desc: String::new(),
    })?;
    let mut events = source.reader.events(u64::MAX)?;
    events.sort_by_key(|event| event.time_ns);
    let mut samples = Samples::default();
    for event in &events {
        let detail: Value =
            serde_json::from_str(&event.text).unwrap_or_else(|_| Value::String(event.text.clone()));
        let text = serde_json::json!({
            "at": event.time_ns, "source": event.source, "kind": event.kind, "detail": detail,
        });
        let text = text.to_string();
        samples.begin(event.time_ns);
        samples.text(&text);
    }
    file.samples(stream, &samples)
}

/// The markers that other programs sent, a stream for each of theirs. Those of an operator are events.
fn markers(source: &Source<'_>, file: &mut XdfFile) -> Result<(), ExportError> {
    let mut streams: BTreeMap<[String; 4], Vec<(u64, String)>> = BTreeMap::new();
    for marker in source.reader.markers(u64::MAX)? {
        let detail: Value = serde_json::from_str(&marker.text).unwrap_or_default();
        let of = |key: &str| detail[key].as_str().unwrap_or_default().to_owned();
        let value = &detail["value"];
        if detail["stream"].is_string() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let key = [of("stream"), of("type"), of("source_id"), of("host")];
            streams.entry(key).or_default().push((marker.time_ns, text));
        }
    }
    for ([name, kind, source_id, host], mut markers) in streams {
        markers.sort_by_key(|&(time_ns, _)| time_ns);
        let stream = file.open(&Stream {
            name,
            kind,
            rate: 0.0,
            format: "string",
            channels: vec![channels::owned(("marker", "text or JSON", "Marker"))],
            desc: format!(
                "<source><source_id>{}</source_id><host>{}</host></source>",
                escaped(&source_id),
                escaped(&host)
            ),
        })?;
        let mut samples = Samples::default();
        for (time_ns, text) in &markers {
            samples.begin(*time_ns);
            samples.text(text);
        }
        file.samples(stream, &samples)?;
    }
    Ok(())
}

/// How stamps relate to light: readers subtract `offset_mean` from the stamps.
fn synchronization(facts: &CameraFacts) -> String {
    let measured = facts.stamp_offset.as_ref();
    let figures = measured.map_or([0.0; 5], |offset| {
        [offset.mean_s, offset.rms_s, offset.median_s, offset.p05_s, offset.p95_s]
    });
    let names = ["offset_mean", "offset_rms", "offset_median", "offset_5_centile", "offset_95_centile"];
    let figures: String =
        names.iter().zip(figures).map(|(name, value)| format!("<{name}>{value:.9}</{name}>")).collect();
    let calibrated = measured.is_some();
    format!(
        "<synchronization>{figures}<can_drop_samples>true</can_drop_samples><calibrated>{calibrated}</calibrated></synchronization>"
    )
}

fn camera_element(index: usize, facts: &CameraFacts) -> String {
    let CameraFacts { name, width, height, pixel_format, device, stamp_source, .. } = facts;
    format!(
        "<camera><name>{}</name><index>{index}</index><device>{}</device><width>{width}</width><height>{height}</height>\
         <pixel_format>{}</pixel_format><stamps>{}</stamps></camera>",
        escaped(name),
        escaped(device),
        escaped(pixel_format),
        escaped(stamp_source)
    )
}

/// A stamp as LSL writes it.
fn seconds(time_ns: u64) -> f64 {
    time_ns as f64 / 1e9
}

/// Samples of one stream as the file has them.
#[derive(Default)]
struct Samples {
    first: f64,
    last: f64,
    count: usize,
    bytes: Vec<u8>,
}

impl Samples {
    /// Begins a sample; its values follow.
    fn begin(&mut self, time_ns: u64) {
        let at = seconds(time_ns);
        if self.count == 0 {
            self.first = at;
        }
        self.last = at;
        self.count += 1;
        self.bytes.push(8);
        self.bytes.extend(at.to_le_bytes());
    }

    fn floats(&mut self, values: &[f32]) {
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn text(&mut self, text: &str) {
        put_length(&mut self.bytes, text.len());
        self.bytes.extend(text.as_bytes());
    }

    fn nothing(&mut self, values: usize) {
        (0..values).for_each(|_| self.floats(&[f32::NAN]));
    }
}

/// What is known of a stream that is open.
struct Opened {
    name: String,
    first: Option<f64>,
    last: f64,
    samples: u64,
}

/// An XDF file, chunk by chunk.
struct XdfFile<'a> {
    out: BufWriter<File>,
    target: &'a Target,
    software: String,
    session: String,
    streams: Vec<Opened>,
}

impl<'a> XdfFile<'a> {
    fn create(target: &'a Target, source: &Source<'_>) -> Result<Self, ExportError> {
        let header = source.reader.header();
        let mut file = Self {
            out: BufWriter::new(target.create()?),
            target,
            software: header.software.clone(),
            session: header.name.clone(),
            streams: Vec::new(),
        };
        let utc = jiff::Timestamp::from_nanosecond(i128::from(header.utc_start_ns))
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let text =
            format!("<?xml version=\"1.0\"?><info><version>1.0</version><datetime>{utc}</datetime></info>");
        file.put(b"XDF:")?;
        file.chunk(tag::FILE_HEADER, &[text.as_bytes()])?;
        Ok(file)
    }

    /// Begins a stream; its number.
    fn open(&mut self, stream: &Stream) -> Result<u32, ExportError> {
        let mut xml = String::from("<?xml version=\"1.0\"?><info>");
        // Writing into a text cannot fail.
        let mut add = |name: &str, value: &str| write!(xml, "<{name}>{}</{name}>", escaped(value)).ok();
        add("name", &stream.name);
        add("type", &stream.kind);
        add("channel_count", &stream.channels.len().to_string());
        add("nominal_srate", &stream.rate.to_string());
        add("channel_format", stream.format);
        add("source_id", &format!("{}_{}", self.session, stream.name));
        let channels: String = stream
            .channels
            .iter()
            .map(|(label, unit, kind)| {
                format!(
                    "<channel><label>{}</label><unit>{unit}</unit><type>{kind}</type></channel>",
                    escaped(label)
                )
            })
            .collect();
        let software = escaped(&self.software);
        let session = escaped(&self.session);
        let desc = format!(
            "<desc><channels>{channels}</channels>{}<acquisition><manufacturer>YouQuanti</manufacturer><software>{software}</software>\
             <session>{session}</session></acquisition></desc></info>",
            stream.desc
        );
        let number = self.streams.len() as u32 + 1;
        self.chunk(tag::STREAM_HEADER, &[&number.to_le_bytes(), xml.as_bytes(), desc.as_bytes()])?;
        self.streams.push(Opened { name: stream.name.clone(), first: None, last: 0.0, samples: 0 });
        Ok(number)
    }

    /// Adds samples.
    fn samples(&mut self, stream: u32, samples: &Samples) -> Result<(), ExportError> {
        let Samples { first, last, count, bytes } = samples;
        if *count == 0 {
            return Ok(());
        }
        let opened = &mut self.streams[stream as usize - 1];
        opened.first.get_or_insert(*first);
        opened.last = *last;
        opened.samples += *count as u64;
        let mut head = stream.to_le_bytes().to_vec();
        put_length(&mut head, *count);
        self.chunk(tag::SAMPLES, &[&head, bytes])
    }

    /// Ends all streams; their samples by name.
    fn finish(mut self) -> Result<Vec<(String, u64)>, ExportError> {
        let streams = std::mem::take(&mut self.streams);
        for (number, stream) in (1u32..).zip(&streams) {
            let (first, last, samples) = (stream.first.unwrap_or(0.0), stream.last, stream.samples);
            for collected_at in [first, last] {
                let offset = 0.0f64;
                let parts = [&number.to_le_bytes()[..], &collected_at.to_le_bytes(), &offset.to_le_bytes()];
                self.chunk(tag::CLOCK_OFFSET, &parts)?;
            }
            let text = format!(
                "<?xml version=\"1.0\"?><info><first_timestamp>{first}</first_timestamp><last_timestamp>{last}</last_timestamp>\
                 <sample_count>{samples}</sample_count><clock_offsets></clock_offsets></info>"
            );
            self.chunk(tag::STREAM_FOOTER, &[&number.to_le_bytes(), text.as_bytes()])?;
        }
        self.out.flush().map_err(|source| self.target.failed(source))?;
        Ok(streams.into_iter().map(|stream| (stream.name, stream.samples)).collect())
    }

    fn chunk(&mut self, tag: u16, parts: &[&[u8]]) -> Result<(), ExportError> {
        let mut head = Vec::new();
        put_length(&mut head, parts.iter().map(|part| part.len()).sum::<usize>() + size_of::<u16>());
        head.extend(tag.to_le_bytes());
        self.put(&head)?;
        parts.iter().try_for_each(|part| self.put(part))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.out.write_all(bytes).map_err(|source| self.target.failed(source))
    }
}

/// A length as the specification has it: how many bytes it takes, 1, 4 or 8, then these.
fn put_length(out: &mut Vec<u8>, length: usize) {
    match (u8::try_from(length), u32::try_from(length)) {
        (Ok(length), _) => out.extend([1, length]),
        (_, Ok(length)) => {
            out.push(4);
            out.extend(length.to_le_bytes());
        }
        _ => {
            out.push(8);
            out.extend((length as u64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_one_four_or_eight_bytes() {
        let check = |length: usize, expected: &[u8]| {
            let mut out = Vec::new();
            put_length(&mut out, length);
            assert_eq!(out, expected);
        };
        check(0, &[1, 0]);
        check(255, &[1, 255]);
        check(256, &[4, 0, 1, 0, 0]);
        check(1 << 32, &[8, 0, 0, 0, 0, 1, 0, 0, 0]);
    }
}
