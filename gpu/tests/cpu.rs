//! The CPU back end: the conformance suite, and what is its own.

mod common;

use std::sync::Arc;

use common::conformance::run;
use common::scene::{Clip, Scene};
use common::{Ticks, golden, options};
use youquanti_gpu::cpu::colour::{self, Part};
use youquanti_gpu::cpu::{crop, worker};
use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{CpuOptions, CpuPipeline, Detector, FaceOptions};
use youquanti_models::blazeface::Letterbox;
use youquanti_models::{Affine2, Frame, PictureLayout, PixelFormat, Roi};

fn with_threads(faces: &FaceOptions, threads: usize) -> CpuPipeline<OwnedFrame> {
    let options = CpuOptions { faces: faces.clone(), threads, reason: "asked for by name".to_owned() };
    CpuPipeline::new(&options, Arc::new(Ticks::default()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

fn two_threads(faces: &FaceOptions) -> CpuPipeline<OwnedFrame> {
    with_threads(faces, 2)
}

conformance!(two_threads);

#[test]
fn any_number_of_threads_finds_the_same() {
    let golden = golden::Golden::load();
    let scene = Scene::load();
    let clip = Clip::new(&golden.index["clips"]["row4"]);
    for detector in [Detector::YuNet, Detector::BlazeFaceFull] {
        let found = |threads: usize| {
            let layout = PictureLayout::packed(1280, 720, PixelFormat::Rgb24);
            let mut faces = options(layout, 4).with_detector(detector);
            faces.tracker.detect_every = 3;
            faces.detector_max_side = 256;
            let mut pipeline = with_threads(&faces, threads);
            (0..10)
                .map(|frame| scene.draw(1280, 720, clip.ellipse, &clip.faces(frame)).frame(frame as u64))
                .map(|frame| run(&mut pipeline, frame))
                .map(|out| (out.detector_ran, out.over_limit, out.faces))
                .collect::<Vec<_>>()
        };
        let expected = found(1);
        assert!(expected.iter().all(|(_, _, faces)| faces.len() == 4));
        for threads in [2, 3] {
            assert!(found(threads) == expected, "{threads} threads");
        }
    }
}

/// Mean difference to a golden picture, in grey levels.
fn difference(planar: &[f32], back: impl Fn(f32) -> f32, file: &str) -> f32 {
    let expected = golden::picture(file);
    let plane = (expected.width * expected.height) as usize;
    let sum: f32 = expected
        .bytes
        .iter()
        .enumerate()
        .map(|(at, &byte)| (back(planar[at % 3 * plane + at / 3]) - f32::from(byte)).abs())
        .sum();
    sum / expected.bytes.len() as f32
}

#[test]
fn crops_are_those_of_the_reference() {
    let golden = golden::Golden::load();
    let picture = golden::picture("one.png").frame(0);
    let input = worker::landmark_input();
    let (mut out, mut scratch) = (vec![0.0; 3 * input.width * input.height], Vec::new());
    for (at, &[cx, cy, width, height, rotation]) in golden.rows::<5>("one/roi/rects").iter().enumerate() {
        let map = Affine2::image_from_crop(&Roi { cx, cy, width, height, rotation }, 256);
        let view = colour::rgb_part(&picture.picture(), Part::whole(&picture.picture().layout), &mut scratch)
            .unwrap_or_else(|error| panic!("{error}"));
        crop::sample(&view, &picture.picture().layout, &map, &input, &mut out);
        let levels = difference(&out, |v| v * 255.0, &format!("one_crop_{at}.png"));
        assert!(levels < 0.3, "crop {at} differs by {levels} levels");
    }
}

#[test]
fn letterboxes_are_those_of_the_reference() {
    let picture = golden::picture("row4.png").frame(0);
    let layout = picture.picture().layout;
    for size in [128, 192] {
        let input = worker::letterbox_input(size);
        let map = Letterbox::new(layout.width, layout.height, size).image_from_input();
        let (mut out, mut scratch) = (vec![0.0; 3 * input.width * input.height], Vec::new());
        let view = colour::rgb_part(&picture.picture(), Part::whole(&layout), &mut scratch)
            .unwrap_or_else(|error| panic!("{error}"));
        crop::sample(&view, &layout, &map, &input, &mut out);
        let levels = difference(&out, |v| (v + 1.0) * 127.5, &format!("row4_letterbox_{size}.png"));
        assert!(levels < 0.3, "letterbox {size} differs by {levels} levels");
    }
}
