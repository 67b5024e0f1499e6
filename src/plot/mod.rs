//! The picture of a session: cameras, faces, blendshapes, latencies and losses on one page.
//!
//! Takes only what was committed, so it shows files that still grow and files that were cut off. Colours are those of Okabe and
//! Ito (2008, "Color universal design"), and nothing is told by colour alone: it can be read in grey.

mod data;
mod scene;

use std::path::{Path, PathBuf};

use youquanti_actors::session_file::{Inspection, SessionFileError, SessionReader};
use youquanti_actors::verdict::VerdictState;
use youquanti_models::blendshapes;

use data::{CameraTrack, Columns, LATENCY_BINS, Timeline, latency_edge};
use scene::{Anchor, Colour, Scene, Shape, Text, Weight};

pub use scene::DrawError;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The session file cannot be read.
    #[error(transparent)]
    File(#[from] SessionFileError),
    /// The picture cannot be made.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// Its name does not say which form it should have.
    #[error("picture {path} has to end in .png or .svg")]
    Ending {
        /// The name that was given.
        path: PathBuf,
    },
    /// The picture's file cannot be written.
    #[error("picture {path} cannot be written")]
    Write {
        /// The name that was given.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// Form of a picture, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Two pixels a unit.
    Png,
    /// Texts stay texts.
    Svg,
}

impl Form {
    /// The form that a name asks for.
    ///
    /// # Errors
    /// `Ending`.
    pub fn of(path: &Path) -> Result<Self, PlotError> {
        match path.extension().map(|ending| ending.to_ascii_lowercase()) {
            Some(ending) if ending == "png" => Ok(Self::Png),
            Some(ending) if ending == "svg" => Ok(Self::Svg),
            _ => Err(PlotError::Ending { path: path.to_owned() }),
        }
    }
}

/// Draws a session into a file, which is written over.
///
/// # Errors
/// All of [`PlotError`].
pub fn write(reader: &SessionReader, inspection: &Inspection, path: &Path) -> Result<(), PlotError> {
    let form = Form::of(path)?;
    let picture = render(reader, inspection, form)?;
    std::fs::write(path, picture).map_err(|source| PlotError::Write { path: path.to_owned(), source })
}

/// The bytes of the picture.
///
/// # Errors
/// `File`, `Draw`.
pub fn render(reader: &SessionReader, inspection: &Inspection, form: Form) -> Result<Vec<u8>, PlotError> {
    let timeline = Timeline::read(reader, inspection, MOST_COLUMNS)?;
    let scene = Page { scene: Scene::new(WIDTH), inspection, timeline, y: 0.0, panels: Vec::new() }.draw();
    Ok(match form {
        Form::Png => scene.png(2.0)?,
        Form::Svg => scene.svg()?.into_bytes(),
    })
}

const WIDTH: f32 = 1120.0;
/// Where time begins and ends on the page.
const LEFT: f32 = 150.0;
const RIGHT: f32 = 880.0;
/// Where what is said of a row stands.
const NOTES: f32 = RIGHT + 14.0;
const MARGIN: f32 = 28.0;
/// Two units each.
const MOST_COLUMNS: usize = 365;

const INK: Colour = [0x1b, 0x1f, 0x27];
const MUTED: Colour = [0x64, 0x6c, 0x7a];
const GRID: Colour = [0xe3, 0xe6, 0xeb];
const PAPER: Colour = [0xf5, 0xf6, 0xf8];
const WHITE: Colour = [0xff; 3];
const BLUE: Colour = [0x00, 0x72, 0xb2];
const ORANGE: Colour = [0xe6, 0x9f, 0x00];
const GREEN: Colour = [0x00, 0x9e, 0x73];
const VERMILION: Colour = [0xd5, 0x5e, 0x00];
const PURPLE: Colour = [0xcc, 0x79, 0xa7];
const SKY: Colour = [0x56, 0xb4, 0xe9];
const NAVY: Colour = [0x0a, 0x2f, 0x5c];
/// Cameras, where their curves lie over each other.
const SERIES: [Colour; 6] = [NAVY, PURPLE, SKY, ORANGE, GREEN, VERMILION];
/// Where nothing was looked for, so that nothing is known.
const UNKNOWN: Colour = [0xd3, 0xd7, 0xde];

/// From nothing to much: one hue that gets darker, so that it is in order in grey, too.
const RAMP: [Colour; 6] = [
    [0xf1, 0xf5, 0xfa],
    [0xc6, 0xdc, 0xee],
    [0x8b, 0xbb, 0xdd],
    [0x46, 0x8f, 0xc0],
    [0x1a, 0x5f, 0x9b],
    [0x0a, 0x2f, 0x5c],
];

struct Page<'a> {
    scene: Scene,
    inspection: &'a Inspection,
    timeline: Timeline,
    /// How far the page is full.
    y: f32,
    /// Top and bottom of what is drawn over time.
    panels: Vec<[f32; 2]>,
}

impl Page<'_> {
    fn draw(mut self) -> Scene {
        self.title();
        let top = self.y;
        // The grid lies under everything; how far down it goes is known afterwards.
        let (_, people, shapes) = self.rows();
        self.y = top;
        self.time_grid(top + 26.0, shapes);
        self.y = top;
        self.cameras();
        if people > 0 {
            self.people();
            self.heat_map();
        }
        self.time_axis();
        self.markers(top + 26.0);
        self.y += 26.0;
        self.bottom();
        self.scene.height = self.y + MARGIN;
        self.scene
    }

    /// Cameras, people, and the bottom of the part over time.
    fn rows(&self) -> (usize, usize, f32) {
        let (cameras, people) = (self.timeline.cameras.len(), self.timeline.people.len());
        let mut bottom = self.y + HEADING + cameras as f32 * CAMERA_PITCH;
        if people > 0 {
            let heat = people as f32 * (self.heat_rows() as f32 * HEAT_ROW + HEAT_GAP);
            bottom += PANEL_GAP + HEADING + people as f32 * PERSON_PITCH + PANEL_GAP + HEADING + heat;
        }
        (cameras, people, bottom)
    }

    /// Blendshapes that are shown of each participant.
    fn heat_rows(&self) -> usize {
        (30 / self.timeline.people.len().max(1)).clamp(3, 10)
    }

    fn title(&mut self) {
        let Inspection { header, stop, .. } = self.inspection;
        let name = Text {
            x: MARGIN,
            y: 48.0,
            text: self.scene.fitting(&header.name, 24.0, 560.0),
            size: 24.0,
            weight: Weight::Medium,
            anchor: Anchor::Start,
            colour: INK,
        };
        let width = self.scene.write(name);
        let (verdict, colour) = match stop {
            Some(stop) => match stop.state {
                Some(VerdictState::Ok) => ("ok".to_owned(), GREEN),
                Some(VerdictState::Degraded) => ("degraded".to_owned(), VERMILION),
                None => ("ended".to_owned(), MUTED),
            },
            None => ("no end: still recorded, or cut off".to_owned(), VERMILION),
        };
        let x = MARGIN + width + 18.0;
        let text = Text {
            x: x + 11.0,
            y: 45.5,
            text: verdict,
            size: 13.0,
            weight: Weight::Medium,
            anchor: Anchor::Start,
            colour: WHITE,
        };
        // The badge goes under its text, whose width is only known once it is written.
        let place = self.scene.fitting(&text.text, 13.0, 400.0);
        let badge = self.scene.measure(&place, 13.0, Weight::Medium);
        self.scene.add(Shape::Box {
            x,
            y: 31.0,
            width: badge + 22.0,
            height: 20.0,
            radius: 10.0,
            colour,
            opacity: 1.0,
        });
        self.scene.write(text);
        let utc = utc_text(header.utc_start_ns);
        let device = self.scene.fitting(&header.backend_device, 12.0, 300.0);
        let line = format!(
            "{utc}   ·   {}   ·   {} on {device}   ·   {}",
            duration_text(self.inspection.duration_s),
            header.backend,
            header.software
        );
        self.scene.text([MARGIN, 72.0], &line, 12.0, Anchor::Start, MUTED);
        let mut y = 72.0;
        for reason in stop.iter().flat_map(|stop| &stop.reasons).take(3) {
            y += 17.0;
            let reason = self.scene.fitting(reason, 12.0, WIDTH - 2.0 * MARGIN);
            self.scene.text([MARGIN, y], &reason, 12.0, Anchor::Start, VERMILION);
        }
        self.y = y + 22.0;
    }

    fn heading(&mut self, text: &str, note: &str) {
        let y = self.y + 14.0;
        let title = Text {
            x: MARGIN,
            y,
            text: text.to_owned(),
            size: 13.0,
            weight: Weight::Medium,
            anchor: Anchor::Start,
            colour: INK,
        };
        let width = self.scene.write(title);
        self.scene.text([MARGIN + width + 12.0, y], note, 11.0, Anchor::Start, MUTED);
        self.y += HEADING;
    }

    fn x(&self, seconds: f64) -> f32 {
        let share = (seconds / self.inspection.duration_s.max(1e-3)).clamp(0.0, 1.0);
        LEFT + (RIGHT - LEFT) * share as f32
    }

    fn ticks(&self) -> (Vec<f64>, f64) {
        let step = time_step(self.inspection.duration_s);
        let count = (self.inspection.duration_s / step + 1e-6) as usize;
        ((0..=count).map(|i| i as f64 * step).collect(), step)
    }

    fn time_grid(&mut self, top: f32, bottom: f32) {
        for second in self.ticks().0 {
            let x = self.x(second);
            self.scene.line([x, top], [x, bottom], 0.75, GRID);
        }
    }

    fn time_axis(&mut self) {
        let (ticks, step) = self.ticks();
        for second in ticks {
            let x = self.x(second);
            self.scene.text([x, self.y + 13.0], &tick_text(second, step), 11.0, Anchor::Middle, MUTED);
        }
        let unit = if step >= 3600.0 {
            "hours"
        } else if step >= 60.0 {
            "minutes"
        } else {
            "seconds"
        };
        self.scene.text(
            [LEFT - 14.0, self.y + 13.0],
            &format!("{unit} since the start"),
            11.0,
            Anchor::End,
            MUTED,
        );
        self.y += 16.0;
    }

    /// What happened in the experiment: a flag with as much of its text as fits before the next one.
    fn markers(&mut self, top: f32) {
        let places: Vec<_> = self.timeline.markers.iter().map(|marker| self.x(marker.seconds)).collect();
        for (index, &x) in places.iter().enumerate() {
            for &[top, bottom] in &self.panels {
                let points = vec![[x, top], [x, bottom]];
                self.scene.add(Shape::Line { points, width: 1.0, dash: Some([4.0, 3.0]), colour: INK });
            }
            let flag = vec![[x, top - 9.0], [x + 8.0, top - 5.0], [x, top - 1.0]];
            self.scene.add(Shape::Area { points: flag, colour: INK, opacity: 1.0 });
            let room = places.get(index + 1).map_or(WIDTH - 8.0, |next| next - 6.0) - (x + 11.0);
            if room > 24.0 {
                let label = self.scene.fitting(&self.timeline.markers[index].label, 10.0, room);
                self.scene.text([x + 11.0, top - 1.5], &label, 10.0, Anchor::Start, INK);
            }
        }
    }

    fn cameras(&mut self) {
        self.heading("Cameras", "");
        let mut x = MARGIN + 74.0;
        for (colour, what) in [(BLUE, "analysed"), (ORANGE, "captured, not analysed"), (VERMILION, "away")] {
            self.scene.add(Shape::Box {
                x,
                y: self.y - 21.0,
                width: 10.0,
                height: 10.0,
                radius: 2.0,
                colour,
                opacity: 1.0,
            });
            x += 15.0 + self.scene.text([x + 15.0, self.y - 12.0], what, 11.0, Anchor::Start, MUTED) + 16.0;
        }
        let above = self.y;
        for index in 0..self.timeline.cameras.len() {
            let camera = &self.inspection.cameras[index];
            let track = &self.timeline.cameras[index];
            let (top, bottom) = (self.y + 3.0, self.y + CAMERA_ROW);
            let full = usual_rate(track).max(1.0);
            let height = |count: u32| (count as f32 / full).min(1.15) * (CAMERA_ROW - 8.0) / 1.15;
            let (captured, analysed) = (
                steps(track.columns, &track.captured, bottom, height),
                steps(track.columns, &track.analysed, bottom, height),
            );
            self.scene.line([LEFT, bottom], [RIGHT, bottom], 0.75, MUTED);
            self.scene.add(Shape::Area { points: captured, colour: ORANGE, opacity: 1.0 });
            self.scene.add(Shape::Area { points: analysed, colour: BLUE, opacity: 1.0 });
            for gap in self.inspection.gaps.iter().filter(|gap| gap.source == camera.facts.name) {
                let start = gap.start_ns.saturating_sub(self.inspection.header.clock_start_ns) as f64 / 1e9;
                let (from, to) = (self.x(start), self.x(start + gap.duration_s));
                let width = (to - from).max(1.5);
                self.scene.add(Shape::Box {
                    x: from,
                    y: top,
                    width,
                    height: bottom - top,
                    radius: 0.0,
                    colour: VERMILION,
                    opacity: 0.22,
                });
                self.scene.line([from, bottom + 1.0], [from + width, bottom + 1.0], 2.5, VERMILION);
                let text = format!("away {:.1} s", gap.duration_s);
                if self.scene.measure(&text, 10.0, Weight::Regular) + 6.0 < width {
                    self.scene.text([from + width / 2.0, bottom - 7.0], &text, 10.0, Anchor::Middle, INK);
                }
            }
            let name = self.scene.fitting(&camera.facts.name, 13.0, LEFT - MARGIN - 14.0);
            self.scene.text([LEFT - 14.0, bottom - 9.0], &name, 13.0, Anchor::End, INK);
            let share = match camera.frames {
                0 => "nothing captured".to_owned(),
                frames => format!("{} analysed", percent(camera.analysed as f64 / frames as f64)),
            };
            let first = format!("{:.1} fps, {share}", self.rate_while_there(index));
            let mut second = format!("{} frames", camera.frames);
            if camera.driver_lost > 0 {
                second += &format!(", {} lost by the driver", camera.driver_lost);
            }
            if !camera.stamps_ascend {
                second += ", stamps NOT ascending";
            }
            self.scene.text([NOTES, bottom - 13.0], &first, 11.0, Anchor::Start, INK);
            let second = self.scene.fitting(&second, 11.0, WIDTH - NOTES - 8.0);
            self.scene.text([NOTES, bottom + 1.0], &second, 11.0, Anchor::Start, MUTED);
            self.y += CAMERA_PITCH;
        }
        self.panels.push([above, self.y - CAMERA_PITCH + CAMERA_ROW]);
        self.y += PANEL_GAP;
    }

    /// Frames a second of a camera from its first to its last frame, without the time in which it was away.
    fn rate_while_there(&self, index: usize) -> f64 {
        let camera = &self.inspection.cameras[index];
        let Some([first, last]) = self.timeline.cameras[index].span else { return camera.rate_hz };
        let gaps = self.inspection.gaps.iter().filter(|gap| gap.source == camera.facts.name);
        let between = gaps.filter(|gap| gap.start_ns >= first && gap.end_ns.is_some_and(|end| end <= last));
        let (away, count) = between.fold((0.0, 0), |(away, count), gap| (away + gap.duration_s, count + 1));
        let intervals = camera.frames.saturating_sub(1 + count);
        let there = camera.duration_s - away;
        if intervals > 0 && there > 0.0 { intervals as f64 / there } else { camera.rate_hz }
    }

    fn people(&mut self) {
        self.heading("Faces", "share of the analysed frames with the participant");
        let above = self.y;
        for index in 0..self.timeline.people.len() {
            let person = &self.timeline.people[index];
            let (top, bottom) = (self.y + 2.0, self.y + PERSON_ROW);
            let looked = &self.timeline.looked[person.camera];
            let fine = self.timeline.fine;
            let share: Vec<_> = (0..fine.count).map(|column| person.share(looked, column)).collect();
            let seen = steps(fine, &share, bottom, |share| share.unwrap_or(0.0) * (bottom - top));
            let unknown =
                steps(fine, &share, bottom, |share| if share.is_none() { bottom - top } else { 0.0 });
            let (number, camera) = (person.participant, &self.inspection.cameras[person.camera].facts.name);
            let name = self
                .inspection
                .participants
                .iter()
                .find(|known| known.id == number)
                .map_or("", |known| &known.name);
            let plain = format!("P{number}");
            let label = if name.is_empty() || name == plain { plain } else { format!("P{number} {name}") };
            let card = self
                .inspection
                .validity
                .iter()
                .find(|card| (card.participant, &card.camera) == (number, camera));
            let mut first = format!("in {camera}");
            let mut second = String::new();
            if let Some(card) = card {
                let whole = &card.whole;
                if let Some(presence) = whole.presence {
                    first += &format!(", present {}", percent(presence));
                }
                let parts = [
                    whole.face_size_p50_px.map(|px| format!("{px:.0} px")),
                    whole.noise_px.map(|px| format!("noise {px:.2} px")),
                    whole
                        .yaw_beyond_30deg
                        .filter(|&share| share >= 0.005)
                        .map(|s| format!("turned away {}", percent(s))),
                ];
                second = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
            }
            self.scene.fill([LEFT, top, RIGHT - LEFT, bottom - top], PAPER);
            self.scene.add(Shape::Area { points: unknown, colour: UNKNOWN, opacity: 1.0 });
            self.scene.add(Shape::Area { points: seen, colour: GREEN, opacity: 1.0 });
            self.scene.line([LEFT, bottom], [RIGHT, bottom], 0.75, MUTED);
            let label = self.scene.fitting(&label, 13.0, LEFT - MARGIN - 14.0);
            self.scene.text([LEFT - 14.0, bottom - 5.0], &label, 13.0, Anchor::End, INK);
            let first = self.scene.fitting(&first, 11.0, WIDTH - NOTES - 8.0);
            self.scene.text([NOTES, bottom - 10.0], &first, 11.0, Anchor::Start, INK);
            let second = self.scene.fitting(&second, 11.0, WIDTH - NOTES - 8.0);
            self.scene.text([NOTES, bottom + 3.0], &second, 11.0, Anchor::Start, MUTED);
            self.y += PERSON_PITCH;
        }
        self.panels.push([above, self.y - PERSON_PITCH + PERSON_ROW]);
        self.y += PANEL_GAP;
    }

    fn heat_map(&mut self) {
        let chosen = self.timeline.liveliest(&blendshapes::NAMES, self.heat_rows());
        let count = self.timeline.fine.count;
        let strongest = self
            .timeline
            .people
            .iter()
            .flat_map(|person| {
                chosen
                    .iter()
                    .flat_map(move |&shape| (0..count).filter_map(move |column| person.score(shape, column)))
            })
            .fold(0.0, f32::max);
        // A scale that ends at a round tenth.
        let top = ((strongest * 10.0).ceil() / 10.0).clamp(0.1, 1.0);
        self.heading("Blendshapes", "the liveliest of this session; white: no face, grey: not analysed");
        let (x, y, width) = (RIGHT - 180.0, self.y - 20.0, 120.0);
        let ramp: Vec<_> = (0..120).map(|i| shade(i as f32 / 119.0)).collect();
        self.scene.add(Shape::Cells { x, y, width, height: 9.0, columns: 120, colours: ramp });
        let above = self.y;
        self.scene.text([x - 6.0, y + 8.5], "0", 11.0, Anchor::End, MUTED);
        self.scene.text([x + width + 6.0, y + 8.5], &format!("{top:.1}"), 11.0, Anchor::Start, MUTED);
        for index in 0..self.timeline.people.len() {
            let person = &self.timeline.people[index];
            let looked = &self.timeline.looked[person.camera];
            let height = chosen.len() as f32 * HEAT_ROW;
            let colours: Vec<Colour> = chosen
                .iter()
                .flat_map(|&shape| (0..count).map(move |column| (shape, column)))
                .map(|(shape, column)| match person.score(shape, column) {
                    Some(score) => shade(score / top),
                    None if looked[column] == 0 => UNKNOWN,
                    None => WHITE,
                })
                .collect();
            let (number, camera) =
                (person.participant, self.inspection.cameras[person.camera].facts.name.clone());
            self.scene.add(Shape::Cells {
                x: LEFT,
                y: self.y,
                width: RIGHT - LEFT,
                height,
                columns: count,
                colours,
            });
            for (row, &shape) in chosen.iter().enumerate() {
                let y = self.y + row as f32 * HEAT_ROW;
                self.scene.text(
                    [LEFT - 14.0, y + HEAT_ROW - 3.0],
                    blendshapes::NAMES[shape],
                    10.0,
                    Anchor::End,
                    MUTED,
                );
                if row > 0 {
                    self.scene.line([LEFT, y], [RIGHT, y], 0.5, WHITE);
                }
            }
            let name = Text {
                x: NOTES,
                y: self.y + height / 2.0 + 4.0,
                text: format!("P{number}"),
                size: 13.0,
                weight: Weight::Medium,
                anchor: Anchor::Start,
                colour: INK,
            };
            let width = self.scene.write(name);
            let at = [NOTES + width + 8.0, self.y + height / 2.0 + 4.0];
            self.scene.text(at, &format!("in {camera}"), 11.0, Anchor::Start, MUTED);
            self.y += height + HEAT_GAP;
        }
        self.panels.push([above, self.y - HEAT_GAP]);
        self.y -= HEAT_GAP - 2.0;
    }

    /// Latencies at the left, what became of the frames at the right.
    fn bottom(&mut self) {
        let top = self.y;
        self.latency();
        let left = self.y;
        self.y = top;
        self.losses();
        self.y = self.y.max(left);
    }

    fn latency(&mut self) {
        self.heading("Latency", "from capture to result, frames with a face");
        let (left, right) = (MARGIN, MARGIN + 420.0);
        let (top, bottom) = (self.y, self.y + 110.0);
        let most =
            self.timeline.cameras.iter().flat_map(|camera| &camera.latency).copied().max().unwrap_or(0);
        if most == 0 {
            self.scene.text([left, top + 14.0], "no face was found", 11.0, Anchor::Start, MUTED);
            self.y = top + 26.0;
            return;
        }
        let used = |bin: &usize| self.timeline.cameras.iter().any(|camera| camera.latency[*bin] > 0);
        let first = (0..LATENCY_BINS).find(used).unwrap_or(0).saturating_sub(2);
        let last = (0..LATENCY_BINS).rfind(used).unwrap_or(0) + 3;
        let (low, high) = (latency_edge(first).ln(), latency_edge(last).ln());
        let x = |millis: f64| left + (right - left) * ((millis.ln() - low) / (high - low)) as f32;
        for decade in [1.0, 10.0, 100.0, 1000.0, 10_000.0] {
            for step in [1.0, 2.0, 5.0] {
                let millis: f64 = decade * step;
                if millis.ln() >= low && millis.ln() <= high {
                    self.scene.line([x(millis), top], [x(millis), bottom], 0.75, GRID);
                    let label = if millis >= 1000.0 {
                        format!("{:.0} s", millis / 1e3)
                    } else {
                        format!("{millis:.0} ms")
                    };
                    self.scene.text([x(millis), bottom + 14.0], &label, 11.0, Anchor::Middle, MUTED);
                }
            }
        }
        let names: Vec<_> = self.inspection.cameras.iter().map(|camera| camera.facts.name.clone()).collect();
        let mut note = top + 10.0;
        for (index, name) in names.iter().enumerate() {
            let colour = SERIES[index % SERIES.len()];
            let bins = &self.timeline.cameras[index].latency;
            let mut points = vec![[x(latency_edge(first)), bottom]];
            for (bin, &count) in bins.iter().enumerate().take(last).skip(first) {
                let y = bottom - (bottom - top - 6.0) * count as f32 / most as f32;
                points.extend([[x(latency_edge(bin)), y], [x(latency_edge(bin + 1)), y]]);
            }
            points.push([x(latency_edge(last)), bottom]);
            self.scene.add(Shape::Area { points: points.clone(), colour, opacity: 0.16 });
            // Cameras are told apart by their dashes, too.
            let dash =
                [None, Some([6.0, 3.0]), Some([2.0, 2.0]), Some([8.0, 3.0]), Some([4.0, 4.0])][index % 5];
            self.scene.add(Shape::Line { points, width: 1.5, dash, colour });
            let published = self.inspection.cameras[index].latency.last();
            if let Some(stage) = published.filter(|_| index < 7) {
                let at = right + 16.0;
                self.scene.add(Shape::Line {
                    points: vec![[at, note - 4.0], [at + 18.0, note - 4.0]],
                    width: 1.5,
                    dash,
                    colour,
                });
                let name = self.scene.fitting(name, 11.0, 90.0);
                let width = self.scene.text([at + 24.0, note], &name, 11.0, Anchor::Start, INK);
                let figures = format!("p50 {:.0}, p99 {:.0} ms", stage.p50_ms, stage.p99_ms);
                let beside = [at + 24.0 + width + 8.0, note];
                self.scene.text(beside, &figures, 11.0, Anchor::Start, MUTED);
                note += 17.0;
            }
        }
        self.scene.line([left, bottom], [right, bottom], 0.75, MUTED);
        self.y = bottom + 18.0;
    }

    fn losses(&mut self) {
        let left = 700.0;
        let title = Text {
            x: left,
            y: self.y + 14.0,
            text: "Where the frames went".to_owned(),
            size: 13.0,
            weight: Weight::Medium,
            anchor: Anchor::Start,
            colour: INK,
        };
        self.scene.write(title);
        self.y += HEADING;
        if self.inspection.ledger.is_empty() {
            let text = "the ledger was not written yet";
            self.scene.text([left, self.y + 12.0], text, 11.0, Anchor::Start, MUTED);
            self.y += 20.0;
            return;
        }
        // The pipeline of each camera, and of the others those that lost something.
        let mut told: Vec<_> = self
            .inspection
            .ledger
            .iter()
            .filter(|entry| entry.consumer == "pipeline" || !entry.dropped.is_empty() || !entry.closes)
            .collect();
        let place = |name: &str| self.inspection.cameras.iter().position(|camera| camera.facts.name == name);
        told.sort_by_key(|entry| place(&entry.camera));
        for entry in told.into_iter().take(8) {
            let width = 200.0;
            let right = WIDTH - MARGIN - width;
            let label = format!("{}, {}", entry.camera, entry.consumer);
            let label = self.scene.fitting(&label, 11.0, right - left - 12.0);
            self.scene.text([right - 12.0, self.y + 11.0], &label, 11.0, Anchor::End, INK);
            let all = entry.captured.max(1) as f32;
            let delivered = width * entry.delivered as f32 / all;
            self.scene.fill([right, self.y + 1.0, width, 12.0], PAPER);
            self.scene.fill([right, self.y + 1.0, delivered.min(width), 12.0], BLUE);
            let mut x = right + delivered;
            let mut parts = vec![format!("{} delivered", percent(f64::from(entry.delivered as f32 / all)))];
            for (index, (reason, &count)) in entry.dropped.iter().enumerate() {
                let part = width * count as f32 / all;
                let colour = [ORANGE, VERMILION, PURPLE, SKY][index % 4];
                self.scene.fill([x, self.y + 1.0, part.max(0.75).min(right + width - x), 12.0], colour);
                x = (x + part.max(0.75)).min(right + width - 0.75);
                parts.push(format!("{count} {}", reason.replace('_', " ")));
            }
            if entry.under_way > 0 {
                parts.push(format!("{} under way at the end", entry.under_way));
            }
            if entry.driver_lost > 0 {
                parts.push(format!("{} lost by the driver", entry.driver_lost));
            }
            if !entry.closes {
                parts.push(
                    if self.inspection.stop.is_some() { "DOES NOT CLOSE" } else { "some under way" }
                        .to_owned(),
                );
            }
            let text = self.scene.fitting(&parts.join(", "), 10.0, WIDTH - MARGIN - left);
            self.scene.text([WIDTH - MARGIN, self.y + 25.0], &text, 10.0, Anchor::End, MUTED);
            self.y += 33.0;
        }
        let (text, colour) = match (self.inspection.ledger_closes, &self.inspection.stop) {
            (true, _) => ("the ledger closes: captured = delivered + dropped", MUTED),
            (false, None) => ("the ledger is of the newest checkpoint", MUTED),
            (false, Some(_)) => ("the ledger does NOT close: an error of the program", VERMILION),
        };
        self.scene.text([WIDTH - MARGIN, self.y + 8.0], text, 11.0, Anchor::End, colour);
        self.y += 18.0;
    }
}

const HEADING: f32 = 26.0;
const CAMERA_ROW: f32 = 34.0;
const CAMERA_PITCH: f32 = 42.0;
const PERSON_ROW: f32 = 20.0;
const PERSON_PITCH: f32 = 31.0;
const HEAT_ROW: f32 = 12.0;
const HEAT_GAP: f32 = 10.0;
const PANEL_GAP: f32 = 12.0;

/// The outline of columns of these values, closed along `bottom`.
fn steps<T: Copy>(columns: Columns, values: &[T], bottom: f32, height: impl Fn(T) -> f32) -> Vec<[f32; 2]> {
    let x = |column: usize| LEFT + (RIGHT - LEFT) * column as f32 / columns.count as f32;
    let mut points = vec![[LEFT, bottom]];
    for (column, &value) in values.iter().enumerate() {
        let y = bottom - height(value);
        points.extend([[x(column), y], [x(column + 1), y]]);
    }
    points.push([RIGHT, bottom]);
    points
}

/// Frames of a column when all is well: the median of those that have any.
fn usual_rate(track: &CameraTrack) -> f32 {
    let mut counts: Vec<u32> = track.captured.iter().copied().filter(|&count| count > 0).collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or(0) as f32
}

fn shade(share: f32) -> Colour {
    // What is no number is shown as nothing.
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let place = share * (RAMP.len() - 1) as f32;
    let at = (place as usize).min(RAMP.len() - 2);
    let part = place - at as f32;
    std::array::from_fn(|i| {
        let (from, to) = (f32::from(RAMP[at][i]), f32::from(RAMP[at + 1][i]));
        (from + (to - from) * part).round() as u8
    })
}

/// A share, with a decimal where a whole number would say all or nothing and be wrong.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if (percent.round() == 100.0 && share < 1.0) || (percent.round() == 0.0 && share > 0.0) {
        format!("{:.1} %", if share < 1.0 { percent.min(99.9) } else { percent })
    } else {
        format!("{percent:.0} %")
    }
}

/// Between two ticks, seconds: at most twelve of them.
fn time_step(duration: f64) -> f64 {
    const STEPS: [f64; 17] = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0,
        43200.0,
    ];
    STEPS.into_iter().find(|step| duration / step <= 12.0).unwrap_or(86400.0)
}

fn tick_text(second: f64, step: f64) -> String {
    match step {
        3600.0.. => format!("{:.0}", second / 3600.0),
        60.0.. => format!("{:.0}", second / 60.0),
        1.0.. => format!("{second:.0}"),
        _ => format!("{second:.1}"),
    }
}

fn duration_text(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..120 => format!("{seconds:.1} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

fn utc_text(nanos: i64) -> String {
    let utc = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    utc.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_the_form() {
        assert_eq!(Form::of("a/b.PNG".as_ref()).unwrap(), Form::Png);
        assert_eq!(Form::of("b.svg".as_ref()).unwrap(), Form::Svg);
        for other in ["b.pdf", "png", ""] {
            assert!(matches!(Form::of(other.as_ref()), Err(PlotError::Ending { .. })));
        }
    }

    #[test]
    fn ticks_are_few_and_round() {
        for (duration, step) in
            [(0.5, 0.1), (20.0, 2.0), (125.0, 30.0), (3600.0, 300.0), (8.0 * 3600.0, 3600.0), (1e7, 86400.0)]
        {
            assert_eq!(time_step(duration), step);
        }
        assert_eq!(
            (&*tick_text(7200.0, 3600.0), &*tick_text(90.0, 30.0), &*tick_text(0.3, 0.1)),
            ("2", "90", "0.3")
        );
    }

    #[test]
    fn nearly_all_is_not_all() {
        for (share, text) in
            [(1.0, "100 %"), (0.9999, "99.9 %"), (0.5, "50 %"), (0.001, "0.1 %"), (0.0, "0 %")]
        {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn shades_get_darker() {
        let light = |share: f32| shade(share).iter().map(|&part| u32::from(part)).sum::<u32>();
        assert!((0..20).all(|i| light(i as f32 / 20.0) > light((i + 1) as f32 / 20.0)));
        assert_eq!(shade(f32::NAN), RAMP[0], "as for nothing");
    }
}
