//! What a session file holds, in as many columns of time as a picture has room for. Reads rows in blocks, so that memory does not
//! grow with the session. Draws nothing.

use serde_json::Value;
use youquanti_actors::session_file::{
    FaceRow, Inspection, LATENCY_STAGES, NOT_RUN, SessionFileError, SessionReader, TextEntry,
};
use youquanti_models::BLENDSHAPE_COUNT;

/// Rows that are read in one go.
const BLOCK: u64 = 16384;

/// Time in columns of equal width, from the session's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    start_ns: u64,
    pub(super) count: usize,
    pub(super) seconds: f64,
}

impl Columns {
    /// At most `most` columns for `duration_s`, none shorter than `least_s`.
    fn new(start_ns: u64, duration_s: f64, most: usize, least_s: f64) -> Self {
        let count = (duration_s / least_s).floor().clamp(1.0, most as f64) as usize;
        Self { start_ns, count, seconds: duration_s / count as f64 }
    }

    fn of(&self, time_ns: u64) -> Option<usize> {
        let column = (time_ns.checked_sub(self.start_ns)? as f64 / 1e9 / self.seconds) as usize;
        // The newest rows may be a little newer than the commit that they came with.
        Some(column.min(self.count - 1))
    }

    /// Counts something of this time in its column.
    fn add(&self, counts: &mut [u32], time_ns: u64) {
        if let Some(column) = self.of(time_ns) {
            counts[column] += 1;
        }
    }
}

/// A camera over time.
pub(super) struct CameraTrack {
    pub(super) columns: Columns,
    /// Frames captured in each column.
    pub(super) captured: Vec<u32>,
    /// Of these, analysed.
    pub(super) analysed: Vec<u32>,
    /// Stamps of its first and its last frame.
    pub(super) span: Option<[u64; 2]>,
    /// Frames by the time from capture to result: bins of [`latency_bin`].
    pub(super) latency: Vec<u32>,
}

/// A participant in a camera over time.
pub(super) struct PersonTrack {
    pub(super) participant: u32,
    /// Its place in the file.
    pub(super) camera: usize,
    /// Faces in each column.
    pub(super) faces: Vec<u32>,
    /// Sums of the scores in each column.
    scores: Vec<[f32; BLENDSHAPE_COUNT]>,
}

impl PersonTrack {
    /// Share of the analysed frames of a column in which the participant was seen; none if none were analysed.
    pub(super) fn share(&self, looked: &[u32], column: usize) -> Option<f32> {
        (looked[column] > 0).then(|| (self.faces[column] as f32 / looked[column] as f32).min(1.0))
    }

    /// Mean score of a column; none without a face.
    pub(super) fn score(&self, blendshape: usize, column: usize) -> Option<f32> {
        (self.faces[column] > 0).then(|| self.scores[column][blendshape] / self.faces[column] as f32)
    }
}

/// A session over time.
pub(super) struct Timeline {
    /// Columns of people and of what was analysed.
    pub(super) fine: Columns,
    /// In the order of their ids.
    pub(super) cameras: Vec<CameraTrack>,
    /// Frames of each camera that were analysed, in the fine columns.
    pub(super) looked: Vec<Vec<u32>>,
    /// By participant and camera.
    pub(super) people: Vec<PersonTrack>,
    /// In the order of their times.
    pub(super) markers: Vec<Marker>,
}

/// What happened in the experiment.
pub(super) struct Marker {
    /// Since the session's start.
    pub(super) seconds: f64,
    /// What an operator wrote, or what a stream sent.
    pub(super) label: String,
}

impl Marker {
    fn of(entry: &TextEntry, start: u64) -> Self {
        let detail: Value = serde_json::from_str(&entry.text).unwrap_or_default();
        let said = [&detail["text"], &detail["value"]].into_iter().find(|value| !value.is_null());
        let label = said
            .map_or_else(String::new, |said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
        Self { seconds: entry.time_ns.saturating_sub(start) as f64 / 1e9, label }
    }
}

/// Bins of a factor of 1.1 from 1 ms on.
const LATENCY_STEP: f64 = 0.095_310_18;
/// Up to 10 s.
pub(super) const LATENCY_BINS: usize = 97;

/// The bin of a latency in milliseconds.
pub(super) fn latency_bin(millis: f64) -> usize {
    ((millis.max(1.0).ln() / LATENCY_STEP) as usize).min(LATENCY_BINS - 1)
}

/// The lower edge of a bin, milliseconds.
pub(super) fn latency_edge(bin: usize) -> f64 {
    (bin as f64 * LATENCY_STEP).exp()
}

impl Timeline {
    /// Reads the whole file; `room` is how many columns may be told apart.
    pub(super) fn read(
        reader: &SessionReader,
        inspection: &Inspection,
        room: usize,
    ) -> Result<Self, SessionFileError> {
        let start = reader.header().clock_start_ns;
        let duration = inspection.duration_s.max(1e-3);
        let rates: Vec<f64> = inspection
            .cameras
            .iter()
            .map(|camera| camera.facts.fps.filter(|&fps| fps > 0.0).unwrap_or(camera.rate_hz).max(0.1))
            .collect();
        let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min).min(1000.0);
        // A column that holds a frame more or less by chance would look like a fault: ten frames for counts, two for shares.
        let fine = Columns::new(start, duration, room, 2.4 / slowest);
        let mut markers: Vec<_> =
            reader.markers(u64::MAX)?.iter().map(|entry| Marker::of(entry, start)).collect();
        markers.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let mut timeline = Self {
            fine,
            cameras: Vec::new(),
            looked: vec![vec![0; fine.count]; rates.len()],
            people: Vec::new(),
            markers,
        };
        for (camera, rate) in rates.into_iter().enumerate() {
            let columns = Columns::new(start, duration, room / 2, 10.0 / rate);
            let empty = || vec![0; columns.count];
            let mut track = CameraTrack {
                columns,
                captured: empty(),
                analysed: empty(),
                span: None,
                latency: vec![0; LATENCY_BINS],
            };
            for rows in blocks(reader.frame_count(camera)) {
                for row in reader.frames(camera, rows)? {
                    columns.add(&mut track.captured, row.captured_at_ns);
                    track.span.get_or_insert([row.captured_at_ns; 2])[1] = row.captured_at_ns;
                }
            }
            for rows in blocks(reader.result_count(camera)) {
                for row in reader.results(camera, rows)? {
                    columns.add(&mut track.analysed, row.captured_at_ns);
                    fine.add(&mut timeline.looked[camera], row.captured_at_ns);
                }
            }
            let mut frame = None;
            for rows in blocks(reader.face_count(camera)) {
                let scores = reader.blendshapes(camera, rows.clone())?;
                for (row, scores) in reader.faces(camera, rows)?.iter().zip(&scores) {
                    let published = row.latency_us[LATENCY_STAGES.len() - 1];
                    if frame.replace(row.frame_seq) != Some(row.frame_seq) && published != NOT_RUN {
                        track.latency[latency_bin(f64::from(published) / 1e3)] += 1;
                    }
                    timeline.face(camera, row, scores);
                }
            }
            timeline.cameras.push(track);
        }
        timeline.people.sort_by_key(|person| (person.participant, person.camera));
        Ok(timeline)
    }

    fn face(&mut self, camera: usize, row: &FaceRow, scores: &[f32; BLENDSHAPE_COUNT]) {
        let Some(column) = self.fine.of(row.captured_at_ns).filter(|_| row.participant != 0) else { return };
        let is_known =
            |person: &PersonTrack| (person.participant, person.camera) == (row.participant, camera);
        let at = self.people.iter().position(is_known).unwrap_or_else(|| {
            let count = self.fine.count;
            self.people.push(PersonTrack {
                participant: row.participant,
                camera,
                faces: vec![0; count],
                scores: vec![[0.0; BLENDSHAPE_COUNT]; count],
            });
            self.people.len() - 1
        });
        let person = &mut self.people[at];
        person.faces[column] += 1;
        for (sum, score) in person.scores[column].iter_mut().zip(scores) {
            *sum += score;
        }
    }

    /// The blendshapes that differ most over time and between people, the liveliest first; of a left and a right one only the
    /// livelier, and never `_neutral`.
    pub(super) fn liveliest(&self, names: &[&str], count: usize) -> Vec<usize> {
        let mut ranges: Vec<(f32, usize)> = (1..names.len())
            .map(|blendshape| {
                let mut means: Vec<f32> = self
                    .people
                    .iter()
                    .flat_map(|person| {
                        (0..self.fine.count).filter_map(|column| person.score(blendshape, column))
                    })
                    .collect();
                means.sort_by(f32::total_cmp);
                let at =
                    |share: f32| means.get((means.len() as f32 * share) as usize).copied().unwrap_or(0.0);
                (at(0.97) - at(0.03), blendshape)
            })
            .collect();
        ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let stem = |blendshape: usize| names[blendshape].trim_end_matches("Left").trim_end_matches("Right");
        let mut chosen: Vec<usize> = Vec::new();
        for (_, blendshape) in ranges {
            if chosen.len() < count && chosen.iter().all(|&other| stem(other) != stem(blendshape)) {
                chosen.push(blendshape);
            }
        }
        chosen
    }
}

fn blocks(rows: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..rows).step_by(BLOCK as usize).map(move |start| start..rows.min(start + BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_called_what_an_operator_wrote_or_a_stream_sent() {
        let check = |text: &str, expected: &str| {
            let (source, kind) = (String::new(), String::new());
            let entry = TextEntry { time_ns: 3_500_000_000, source, kind, text: text.to_owned() };
            let marker = Marker::of(&entry, 2_000_000_000);
            assert_eq!((marker.seconds, &*marker.label), (1.5, expected), "{text}");
        };
        check(r#"{"text":"stimulus on"}"#, "stimulus on");
        check(r#"{"value":"trial 3","stream":"Stim"}"#, "trial 3");
        check(r#"{"value":[1,2.5]}"#, "[1,2.5]");
        check(r#"{"value":7.0}"#, "7.0");
        check("{}", "");
        check("no JSON", "");
    }

    #[test]
    fn columns_hold_all_times() {
        let check = |duration: f64, most, least, count| {
            let columns = Columns::new(1_000, duration, most, least);
            assert_eq!(columns.count, count);
            assert_eq!(columns.of(999), None);
            assert_eq!(columns.of(1_000), Some(0));
            assert_eq!(columns.of(u64::MAX), Some(count - 1));
        };
        check(20.0, 400, 0.1, 200);
        check(20.0, 100, 0.1, 100);
        check(0.001, 100, 0.1, 1);
    }

    #[test]
    fn latencies_are_in_their_bins() {
        for millis in [1.0, 3.3, 17.0, 250.0, 9000.0] {
            let bin = latency_bin(millis);
            assert!(latency_edge(bin) <= millis * 1.0001 && millis <= latency_edge(bin + 1), "{millis}");
        }
        assert_eq!((latency_bin(0.0), latency_bin(1e9)), (0, LATENCY_BINS - 1));
    }
}
