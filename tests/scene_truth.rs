//! The scene, whose faces are where its ground truth says, through the CPU pipeline: are all of them found, where
//! they are, and does each track stay with its person? Frame by frame and without a clock: the same on any machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use youquanti::actors::capture::scene::{Arrangement, FacePath, FaceTruth, Portrait, Scene, SceneOptions};
use youquanti::actors::clock::SystemClock;
use youquanti::gpu::{CameraInput, CpuOptions, CpuPipeline, DetectorSize, FaceOptions};
use youquanti::models::{
    CameraId, Face, Frame, FrameFaces, FrameFlags, FrameMeta, Picture, PictureLayout, Pipeline, Timestamp,
    TrackId,
};

/// Landmarks at the outer corners of the eyes: on the picture's left, and right, of an upright face.
const EYE_CORNERS: [usize; 2] = [33, 263];

/// A frame in memory of its own.
struct Drawn {
    meta: FrameMeta,
    layout: PictureLayout,
    bytes: Vec<u8>,
}

impl Frame for Drawn {
    fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    fn picture(&self) -> Picture<'_> {
        Picture { layout: self.layout, bytes: &self.bytes }
    }
}

/// Has the pipeline, with the options of a configuration that says nothing, look at every `step`th frame.
fn watch(
    options: &SceneOptions,
    (frames, step): (u64, usize),
    mut each: impl FnMut(u64, &[FaceTruth], &FrameFaces),
) {
    let mut scene = Scene::new(options).unwrap();
    let (camera, layout) = (CameraId(0), scene.layout());
    let faces = FaceOptions {
        detector_size: DetectorSize::Auto { smallest_face_px: 80.0 },
        ..FaceOptions::new(vec![CameraInput { camera, layout }])
    };
    let options = CpuOptions { faces, threads: 2, reason: "asked for by name".to_owned() };
    let mut pipeline = CpuPipeline::new(&options, Arc::new(SystemClock)).unwrap();
    let mut bytes = vec![0; layout.max_bytes()];
    let mut found = FrameFaces::with_capacity(4);
    for seq in (0..frames).step_by(step) {
        scene.render(seq, &mut bytes);
        let at = Timestamp(1 + seq * 33_333_333);
        let flags = FrameFlags::default();
        let meta = FrameMeta { camera, seq, driver_seq: seq as u32, captured_at: at, received_at: at, flags };
        pipeline.submit(Drawn { meta, layout, bytes });
        let (frame, outcome) = pipeline.collect(&mut found).unwrap();
        outcome.unwrap();
        bytes = frame.bytes;
        each(seq, &scene.truth(seq), &found);
    }
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn eye_corners(face: &Face) -> [[f64; 2]; 2] {
    EYE_CORNERS.map(|at| [0, 1].map(|axis| f64::from(face.landmarks[at][axis])))
}

/// The person whose eyes are nearest to a face's, if they are its eyes.
fn person_of<'a>(face: &Face, truth: &'a [FaceTruth]) -> Option<&'a FaceTruth> {
    let [left, right] = eye_corners(face);
    let middle = [(left[0] + right[0]) / 2.0, (left[1] + right[1]) / 2.0];
    let away = |truth: &FaceTruth| distance(middle, truth.eye_mid);
    let nearest = truth.iter().min_by(|a, b| away(a).total_cmp(&away(b)))?;
    (away(nearest) < nearest.eye_distance / 3.0).then_some(nearest)
}

/// What was found in some frames, held against the truth.
#[derive(Debug, Default)]
struct Tally {
    frames: u64,
    /// Faces in each frame.
    counts: Vec<usize>,
    /// Distance of each eye corner from where it is, pixels.
    errors: Vec<f64>,
    /// Whose each track was when it began.
    person_of_track: BTreeMap<TrackId, usize>,
    /// Times that a person was all but whole in the picture, and how often of these not found.
    in_sight: u64,
    missed: u64,
    /// Faces that are nobody's.
    astray: u64,
    /// What must not be.
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, seq: u64, truth: &[FaceTruth], found: &FrameFaces) {
        self.frames += 1;
        self.counts.push(found.faces.len());
        let mut seen = Vec::new();
        for face in &found.faces {
            let Some(person) = person_of(face, truth) else {
                self.astray += 1;
                continue;
            };
            if seen.contains(&person.person) {
                self.wrong.push(format!("frame {seq}: two faces on person {}", person.person));
            }
            seen.push(person.person);
            let was = *self.person_of_track.entry(face.track).or_insert(person.person);
            if was != person.person {
                let (track, now) = (face.track, person.person);
                self.wrong.push(format!("frame {seq}: track {track} jumped from person {was} to {now}"));
            }
            if person.visible > 0.99 {
                let [left, right] = eye_corners(face);
                self.errors.push(distance(left, person.eye_left));
                self.errors.push(distance(right, person.eye_right));
            }
        }
        for person in truth.iter().filter(|person| person.visible > 0.99) {
            self.in_sight += 1;
            self.missed += u64::from(!seen.contains(&person.person));
        }
    }

    fn of(options: &SceneOptions, frames: (u64, usize)) -> Self {
        let mut tally = Self::default();
        watch(options, frames, |seq, truth, found| tally.add(seq, truth, found));
        println!(
            "{} frames, eye corners {:.2} px off, {} tracks, {} of {} missed, {} astray",
            tally.frames,
            tally.mean_error(),
            tally.person_of_track.len(),
            tally.missed,
            tally.in_sight,
            tally.astray
        );
        tally
    }

    fn mean_error(&self) -> f64 {
        self.errors.iter().sum::<f64>() / self.errors.len() as f64
    }

    #[track_caller]
    fn check(&self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        assert!(self.mean_error() <= 1.5, "eye corners are {:.2} px off", self.mean_error());
    }
}

/// A clip of the golden data: its scene, and the faces that the reference finds with the full-range detector.
fn golden_clip(name: &str) -> (SceneOptions, Vec<usize>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/golden.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let clip = &golden["clips"][name];
    let number = |value: &Value| value.as_f64().unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let paths = list(&clip["paths"])
        .iter()
        .map(|path| FacePath {
            portrait: match path["portrait"].as_str().unwrap() {
                "astronaut.png" => Portrait::Astronaut,
                "grace_hopper.jpg" => Portrait::GraceHopper,
                other => panic!("{other}"),
            },
            mirrored: path["mirrored"].as_bool().unwrap(),
            x0: number(&path["x0"]),
            ax: number(&path["ax"]),
            y0: number(&path["y0"]),
            ay: number(&path["ay"]),
            base: number(&path["base"]),
            zoom: number(&path["zoom"]),
            phase: [0, 1, 2, 3].map(|at| number(&path["phase"][at])),
        })
        .collect();
    let narrow = number(&clip["ellipse"][0]) < 1.6;
    let options = SceneOptions {
        fps: number(&clip["fps"]),
        arrangement: if narrow { Arrangement::Grid } else { Arrangement::Row },
        paths,
        ..SceneOptions::default()
    };
    let counts = list(&clip["counts"]["reference_full"]);
    (options, counts.iter().map(|count| count.as_u64().unwrap() as usize).collect())
}

#[track_caller]
fn check_clip(name: &str, frames: u64) -> Tally {
    let (options, reference) = golden_clip(name);
    let tally = Tally::of(&options, (frames, 1));
    tally.check();
    for (frame, (&ours, &theirs)) in tally.counts.iter().zip(&reference).enumerate() {
        assert!(ours >= theirs, "frame {frame}: {ours} faces, the reference finds {theirs}");
    }
    tally
}

#[test]
fn one_face_is_found_in_every_frame_where_it_is() {
    let tally = check_clip("one", 90);
    assert_eq!((tally.missed, tally.astray, tally.person_of_track.len()), (0, 0, 1));
}

#[test]
fn four_faces_are_found_in_every_frame_where_they_are() {
    let tally = check_clip("grid4", 90);
    assert_eq!((tally.missed, tally.astray, tally.person_of_track.len()), (0, 0, 4));
}

#[test]
fn four_small_faces_are_found_in_almost_every_frame() {
    let tally = check_clip("row4", 300);
    let whole = tally.counts.iter().filter(|&&count| count == 4).count();
    assert!(whole as f64 >= 0.99 * tally.frames as f64, "4 faces in {whole} of {} frames", tally.frames);
}

/// People who pass in front of each other: in 8 s each pair does it twice.
#[track_caller]
fn check_crossing(faces: usize, seed: u64, step: usize) {
    let options = SceneOptions { faces, seed, arrangement: Arrangement::Cross, ..SceneOptions::default() };
    let tally = Tally::of(&options, (240, step));
    tally.check();
    // Who comes out from behind another is found when all of the face is in sight, or soon after; and of a face half
    // hidden hardly a frame is drawn from parts of both.
    let limit = 0.01 * tally.in_sight as f64;
    assert!(tally.missed as f64 <= limit, "{} of {} missed", tally.missed, tally.in_sight);
    assert!(tally.astray as f64 <= limit, "{} of {} astray", tally.astray, tally.in_sight);
}

#[test]
fn no_track_jumps_when_two_people_cross() {
    check_crossing(2, 1, 1);
}

#[test]
fn no_track_jumps_when_two_pairs_cross() {
    check_crossing(4, 5, 1);
}

#[test]
fn no_track_jumps_where_only_every_third_frame_is_looked_at() {
    check_crossing(2, 2, 3);
}

#[test]
fn faces_are_found_again_at_once_after_any_gap() {
    let options = SceneOptions { arrangement: Arrangement::Grid, seed: 1, ..SceneOptions::default() };
    for gap in [1, 10, 20, 25, 30, 40] {
        let tally = Tally::of(&options, (gap + 1, gap as usize));
        assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
        assert_eq!((&tally.counts[..], tally.astray), (&[2, 2][..], 0), "after {gap} frames");
        // The first look, at the detector's region, is coarser than those that follow.
        assert!(tally.mean_error() < 2.5, "{:.2} px after {gap} frames", tally.mean_error());
    }
}
