//! The GPU's kernels against their twins in the CPU back end and the models crate, on this processor: see
//! `gpu/kernels/host.h`. Every kernel is started in several shapes, which must not matter.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "test code, which clippy knows by its attribute only")]

mod common;
#[path = "kernels/library.rs"]
mod library;

use proptest::prelude::*;
use youquanti_gpu::cpu::colour::{self, Part};
use youquanti_gpu::cpu::crop::{self, Input};
use youquanti_gpu::cpu::sharpness::sharpness;
use youquanti_gpu::cpu::shrink::{Axis, Shrink};
use youquanti_gpu::cpu::worker;
use youquanti_gpu::cuda::abi::{
    self, Candidates, DetectorTile, FaceHead, FaceSlot, FacesHeader, FacesOut, MAX_CANDIDATES,
    MAX_DETECTIONS, NO_FRAME, ShrinkAxis, ShrinkTile, YunetOutputs,
};
use youquanti_models::blazeface::{self, BlazeFace, Letterbox, sigmoid};
use youquanti_models::blendshapes::{self, POINT_COUNT, SUBSET_146};
use youquanti_models::geometry::landmarks_to_picture;
use youquanti_models::nms::{Nms, NmsMode};
use youquanti_models::roi::{landmark_box, roi_from_landmarks};
use youquanti_models::yunet::{self, DetectorPlan, StrideOutput};
use youquanti_models::{
    Affine2, Box2, Detection, DetectorKind, Frame as _, LANDMARK_COUNT, Picture, PictureLayout, PixelFormat,
    Roi,
};

use common::random::Random;
use common::{Rgb, golden};
use library::{SHAPES, Shape, address, address_mut};

const FORMATS: [PixelFormat; 5] =
    [PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Rgb24, PixelFormat::Bgr24, PixelFormat::Grey];

/// RGB of all of a picture, as the CPU back end sees it.
fn cpu_rgb(picture: &Picture<'_>) -> Vec<u8> {
    let mut scratch = Vec::new();
    let whole = Part::whole(&picture.layout);
    let view = colour::rgb_part(picture, whole, &mut scratch).unwrap();
    let mut rgb = Vec::new();
    for row in view.bytes.chunks(view.stride).take(whole.height) {
        for pixel in row[..whole.width * 3].as_chunks::<3>().0 {
            rgb.extend(if view.is_bgr { [pixel[2], pixel[1], pixel[0]] } else { *pixel });
        }
    }
    rgb
}

/// A picture of random bytes, which are also colours that no camera sends.
fn noise(
    width: u32,
    height: u32,
    format: PixelFormat,
    padding: u32,
    random: &mut Random,
) -> (PictureLayout, Vec<u8>) {
    let packed = PictureLayout::packed(width, height, format);
    let layout = PictureLayout { stride: packed.stride + padding, ..packed };
    (layout, random.bytes(layout.max_bytes()))
}

// ---- colour ----

/// The greatest difference of levels for each Y, over all U and V, and how many pixels differ at all.
fn level_differences(format: PixelFormat) -> ([u8; 256], usize) {
    // The converter works on 64 pixels at a time and does the rest by another formula: the first 256 of each
    // line are the former, the last 64 the latter.
    const WIDTH: usize = 320;
    let luma = |column: usize| if column < 256 { column as u8 } else { (column as u8).wrapping_mul(4) };
    let (mut worst, mut different) = ([0; 256], 0);
    for u in 0..=255 {
        let layout =
            PictureLayout::packed(WIDTH as u32, if format == PixelFormat::Nv12 { 512 } else { 256 }, format);
        let mut bytes = Vec::with_capacity(layout.max_bytes());
        if format == PixelFormat::Nv12 {
            (0..512).for_each(|_| bytes.extend((0..WIDTH).map(luma)));
            (0..=255)
                .for_each(|v| bytes.extend((0..WIDTH).map(|column| if column % 2 == 0 { u } else { v })));
        } else {
            for v in 0..=255 {
                (0..WIDTH / 2).for_each(|pair| bytes.extend([luma(2 * pair), u, luma(2 * pair + 1), v]));
            }
        }
        let picture = Picture { layout, bytes: &bytes };
        let (expected, got) = (cpu_rgb(&picture), library::read_frame(&picture));
        for (at, (a, b)) in expected.iter().zip(&got).enumerate() {
            let worst = &mut worst[usize::from(luma(at / 3 % WIDTH))];
            *worst = (*worst).max(a.abs_diff(*b));
            different += usize::from(a != b && at / 3 % WIDTH < 256);
        }
    }
    (worst, different)
}

#[test]
fn levels_of_all_yuv_are_the_cpus_or_next_to_them() {
    for format in [PixelFormat::Yuyv, PixelFormat::Nv12] {
        let (worst, different) = level_differences(format);
        assert!(worst[16..].iter().all(|&levels| levels <= 1), "{format:?}: {worst:?}");
        // Below black the plain formula of the converter goes on.
        assert!(worst[..16].iter().all(|&levels| levels <= 19), "{format:?}: {worst:?}");
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            assert_eq!(different, 0, "{format:?}: the vector formulas are followed exactly");
        }
    }
}

#[test]
fn every_format_is_read_at_odd_sizes_and_strides() {
    let mut random = Random(1);
    for format in FORMATS {
        for (width, height, padding) in [(1, 1, 0), (2, 2, 0), (7, 5, 0), (7, 5, 3), (33, 4, 2), (66, 3, 4)] {
            let (layout, bytes) = noise(width, height, format, padding, &mut random);
            let picture = Picture { layout, bytes: &bytes };
            let pairs = cpu_rgb(&picture).into_iter().zip(library::read_frame(&picture));
            let bound = match format {
                PixelFormat::Yuyv | PixelFormat::Nv12 => 19,
                _ => 0,
            };
            let worst = pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap();
            assert!(worst <= bound, "{layout:?}: {worst}");
        }
    }
}

// ---- crops ----

/// What the CPU back end's sampler makes of RGB.
fn cpu_sample(rgb: &Rgb, map: &Affine2, input: &Input) -> Vec<f32> {
    let picture = Picture { layout: rgb.layout(), bytes: &rgb.bytes };
    sample_part(&picture, map, input)
}

/// What the CPU back end makes of a picture in whichever format.
fn sample_part(picture: &Picture<'_>, map: &Affine2, input: &Input) -> Vec<f32> {
    let mut out = vec![f32::NAN; 3 * input.width * input.height];
    let (part, mut scratch) = (crop::part_seen(map, input, &picture.layout), Vec::new());
    let view = colour::rgb_part(picture, part, &mut scratch).unwrap();
    crop::sample(&view, &picture.layout, map, input, &mut out);
    out
}

/// The picture as the kernels see it.
fn kernel_rgb(picture: &Picture<'_>) -> Rgb {
    Rgb { width: picture.layout.width, height: picture.layout.height, bytes: library::read_frame(picture) }
}

#[track_caller]
fn assert_same_bits(got: &[f32], expected: &[f32], what: &dyn std::fmt::Debug) {
    assert_eq!(got.len(), expected.len());
    let different = got.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let first = got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(different, 0, "{what:?}: {} numbers, first at {first:?}", got.len());
}

/// The crops of these regions are bit for bit those of the CPU's sampler with the same map on the same levels.
fn check_crops(picture: &Picture<'_>, rois: &[Roi], shape: Shape) {
    let rgb = kernel_rgb(picture);
    let slots: Vec<_> = rois.iter().map(|roi| FaceSlot::new(roi, 0)).collect();
    let got = library::crop_faces(&[*picture], &slots, shape);
    for (got, roi) in got.chunks_exact(3 * 256 * 256).zip(rois) {
        let expected = cpu_sample(&rgb, &library::map_of_roi(roi), &worker::landmark_input());
        assert_same_bits(got, &expected, &(picture.layout, roi, shape));
    }
}

const ROIS: [Roi; 6] = [
    Roi { cx: 640.0, cy: 360.0, width: 300.0, height: 300.0, rotation: 0.0 },
    Roi { cx: 500.5, cy: 200.25, width: 128.0, height: 90.0, rotation: 0.7 },
    Roi { cx: 30.0, cy: 40.0, width: 400.0, height: 380.0, rotation: -2.5 },
    Roi { cx: 5000.0, cy: -3000.0, width: 100.0, height: 100.0, rotation: 1.0 },
    Roi { cx: 640.0, cy: 360.0, width: 4000.0, height: 4000.0, rotation: 3.1 },
    Roi { cx: 200.0, cy: 300.0, width: 1.5, height: 2.5, rotation: 0.1 },
];

#[test]
fn crops_of_a_portrait_are_the_cpus() {
    let portrait = golden::picture("one.png");
    for (format, padding) in FORMATS.into_iter().zip([0, 6, 5, 0, 1]) {
        let frame = portrait.as_format(format, padding);
        for shape in SHAPES {
            check_crops(&frame.picture(), &ROIS, shape);
        }
    }
}

/// A portrait's colours have no Y below 16, and so the CPU's own conversion differs by a level at most.
#[test]
fn crops_are_within_a_level_of_the_cpus_own_conversion() {
    let portrait = golden::picture("one.png");
    for format in [PixelFormat::Yuyv, PixelFormat::Nv12] {
        let frame = portrait.as_format(format, 0);
        let slots = ROIS.each_ref().map(|roi| FaceSlot::new(roi, 0));
        let crops = library::crop_faces(&[frame.picture()], &slots, SHAPES[2]);
        for (got, roi) in crops.chunks_exact(3 * 256 * 256).zip(&ROIS) {
            let expected =
                sample_part(&frame.picture(), &library::map_of_roi(roi), &worker::landmark_input());
            let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1.001 / 255.0, "{format:?}, {roi:?}: {worst}");
        }
    }
}

#[test]
fn faces_of_several_frames_are_one_launch_and_padding_is_black() {
    let mut random = Random(2);
    let (first, second) =
        (noise(61, 43, PixelFormat::Bgr24, 1, &mut random), noise(40, 90, PixelFormat::Grey, 0, &mut random));
    let pictures = [&first, &second].map(|(layout, bytes)| Picture { layout: *layout, bytes });
    let roi = Roi { cx: 20.0, cy: 20.0, width: 50.0, height: 40.0, rotation: -0.4 };
    let padding = Roi { cx: f32::NAN, ..roi };
    let slots = [(roi, 1), (padding, NO_FRAME), (roi, 0)].map(|(roi, frame)| FaceSlot::new(&roi, frame));
    for shape in SHAPES {
        let got = library::crop_faces(&pictures, &slots, shape);
        let expect = |at: usize| {
            cpu_sample(&kernel_rgb(&pictures[at]), &library::map_of_roi(&roi), &worker::landmark_input())
        };
        let got: Vec<_> = got.chunks_exact(3 * 256 * 256).collect();
        assert_same_bits(got[0], &expect(1), &shape);
        assert_same_bits(got[1], &vec![0.0; 3 * 256 * 256], &shape);
        assert_same_bits(got[2], &expect(0), &shape);
    }
}

#[test]
fn letterboxes_are_the_cpus() {
    let mut random = Random(3);
    let odd = noise(131, 77, PixelFormat::Rgb24, 2, &mut random);
    let tall = noise(19, 240, PixelFormat::Yuyv, 0, &mut random);
    let portrait = golden::picture("one.png").as_format(PixelFormat::Nv12, 10);
    let noise = [&odd, &tall].map(|(layout, bytes)| Picture { layout: *layout, bytes });
    let pictures = [noise[0], portrait.picture(), noise[1]];
    for size in [128, 192] {
        for shape in SHAPES {
            let got = library::letterbox(&pictures, size, shape);
            for (got, picture) in got.chunks_exact((3 * size * size) as usize).zip(&pictures) {
                let PictureLayout { width, height, .. } = picture.layout;
                let map = Letterbox::new(width, height, size).image_from_input();
                let expected = cpu_sample(&kernel_rgb(picture), &map, &worker::letterbox_input(size));
                assert_same_bits(got, &expected, &(size, picture.layout, shape));
            }
        }
    }
}

/// Regions that no tracker makes must do no harm: what they show does not matter.
#[test]
fn regions_that_are_no_regions_are_cropped_without_harm() {
    let mut random = Random(4);
    let (layout, bytes) = noise(17, 9, PixelFormat::Nv12, 0, &mut random);
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e13, -0.0, 1e-40];
    let mut pick = || strange[random.next() as usize % strange.len()];
    let slots: [FaceSlot; 16] =
        std::array::from_fn(|_| FaceSlot { roi: std::array::from_fn(|_| pick()), frame: 0 });
    let crops = library::crop_faces(&[Picture { layout, bytes: &bytes }], &slots, SHAPES[0]);
    assert!(crops.iter().all(|level| (0.0..=1.0).contains(level)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_region_of_any_picture_is_cropped_as_on_the_cpu(
        (width, height, padding, seed) in (1u32..150, 1u32..150, 0u32..9, any::<u64>()),
        format in 0..FORMATS.len(),
        center in (-300f32..450.0, -300f32..450.0),
        sides in (0.5f32..600.0, 0.5f32..600.0),
        rotation in -7f32..7.0,
    ) {
        let (layout, bytes) = noise(width, height, FORMATS[format], padding, &mut Random(seed));
        let roi = Roi { cx: center.0, cy: center.1, width: sides.0, height: sides.1, rotation };
        check_crops(&Picture { layout, bytes: &bytes }, &[roi], SHAPES[1]);
        let (map, twin) = (library::map_of_roi(&roi), Affine2::image_from_crop(&roi, worker::CROP));
        for (a, b) in map.m.as_flattened().iter().zip(twin.m.as_flattened()) {
            prop_assert!((a - b).abs() <= 1e-4, "{map:?} {twin:?}");
        }
    }
}

// ---- shrink ----

fn axis_on_device(axis: &Axis) -> ShrinkAxis {
    let (first, weights) = (address(axis.first()), address(axis.weights()));
    ShrinkAxis { first, weights, taps: axis.taps() as u32, len: axis.first().len() as u32 }
}

/// All tiles of the plan for this picture are those of the CPU, in one launch, and a tile without a frame is black.
fn check_shrink(picture: &Picture<'_>, smallest_face: f32, max_side: u32, shape: Shape) {
    let PictureLayout { width, height, .. } = picture.layout;
    let plan = DetectorPlan::new(width, height, smallest_face, max_side);
    let mut shrinks: Vec<_> =
        plan.tiles.iter().map(|tile| Shrink::new(&plan, tile, [width, height])).collect();
    let tile = |shrink: &Shrink, frame| ShrinkTile {
        columns: axis_on_device(shrink.columns()),
        rows: axis_on_device(shrink.rows()),
        frame,
        reserved: 0,
    };
    let mut tiles: Vec<_> = shrinks.iter().map(|shrink| tile(shrink, 0)).collect();
    tiles.push(tile(&shrinks[0], NO_FRAME));
    let got = library::shrink(&[*picture], &tiles, [plan.input_width, plan.input_height], shape);
    let rgb = kernel_rgb(picture);
    let seen = Picture { layout: rgb.layout(), bytes: &rgb.bytes };
    let mut got = got.chunks_exact((3 * plan.input_width * plan.input_height) as usize);
    for shrink in &mut shrinks {
        let got = got.next().unwrap();
        let mut expected = vec![f32::NAN; got.len()];
        shrink.run(&seen, &mut Vec::new(), &mut expected).unwrap();
        assert_same_bits(got, &expected, &(picture.layout, smallest_face, shape));
    }
    assert!(got.next().unwrap().iter().all(|&level| level == 0.0));
}

#[test]
fn shrunk_pictures_are_the_cpus() {
    let portrait = golden::picture("one.png");
    let mut random = Random(5);
    for (format, padding) in FORMATS.into_iter().zip([8, 0, 0, 1, 3]) {
        let portrait = portrait.as_format(format, padding);
        check_shrink(&portrait.picture(), 60.0, 1280, SHAPES[2]);
        for (width, height, smallest_face, max_side) in
            [(641, 479, 50.0, 1280), (300, 200, 20.0, 128), (33, 7, 400.0, 1280), (1, 1, 20.0, 64)]
        {
            let (layout, bytes) = noise(width, height, format, padding, &mut random);
            for shape in SHAPES {
                check_shrink(&Picture { layout, bytes: &bytes }, smallest_face, max_side, shape);
            }
        }
    }
}

// ---- detection ----

/// Lists of candidates for frames.
struct Lists {
    counts: Vec<u32>,
    items: Vec<abi::Detection>,
}

impl Lists {
    fn new(frames: usize) -> Self {
        Self { counts: vec![0; frames], items: vec![abi::Detection::default(); frames * MAX_CANDIDATES] }
    }

    fn on_device(&mut self) -> Candidates {
        Candidates { counts: address_mut(&mut self.counts), items: address_mut(&mut self.items) }
    }

    /// The candidates of a frame in the order of their places.
    fn of(&self, frame: usize) -> Vec<abi::Detection> {
        let count = (self.counts[frame] as usize).min(MAX_CANDIDATES);
        let mut all = self.items[frame * MAX_CANDIDATES..][..count].to_vec();
        all.sort_by_key(|candidate| candidate.place);
        all
    }
}

/// A detection as kernels give it.
fn device_detection(detection: &Detection, place: usize) -> abi::Detection {
    let Box2 { x0, y0, x1, y1 } = detection.bbox;
    let (score, keypoints) = (detection.score, detection.keypoints);
    abi::Detection { score, bbox: [x0, y0, x1, y1], keypoints, place: place as u32 }
}

/// Where everything is, whatever the order of candidates, `ulps` apart at most in the box.
#[track_caller]
fn assert_same_detections(got: &[abi::Detection], expected: &[Detection], ulps: f32) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        let expected = device_detection(expected, got.place as usize);
        assert_eq!((got.score, got.keypoints), (expected.score, expected.keypoints));
        // The box is made of four additions of numbers up to the largest of its own.
        let largest = expected.bbox.iter().fold(1.0, |largest: f32, edge| largest.max(edge.abs()));
        for (a, b) in got.bbox.iter().zip(expected.bbox) {
            assert!((a - b).abs() <= ulps * f32::EPSILON * largest, "{got:?} {expected:?}");
        }
    }
}

/// What the CPU back end does between decoding and tracking.
fn cpu_suppress(mode: NmsMode, iou_threshold: f32, mut detections: Vec<Detection>) -> Vec<Detection> {
    let order = |d: &Detection| (d.score, d.bbox.x0, d.bbox.y0);
    detections.sort_by(|a, b| order(b).partial_cmp(&order(a)).unwrap());
    Nms::default().run(mode, iou_threshold, &mut detections);
    detections
}

/// Random numbers, some of them none: what no network should say must not harm.
fn outputs(len: usize, low: f32, high: f32, random: &mut Random) -> Vec<f32> {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0, -0.0, 100.0];
    let mut number = || match random.next() % 64 {
        0 => strange[random.next() as usize % strange.len()],
        _ => random.between(low, high),
    };
    (0..len).map(|_| number()).collect()
}

fn on_device(tile: &yunet::Tile, frame: u32, index: usize) -> DetectorTile {
    let Box2 { x0, y0, x1, y1 } = tile.source;
    let cut = (0..4).fold(0, |bits, edge| bits | u32::from(tile.cut[edge]) << edge);
    DetectorTile { source: [x0, y0, x1, y1], content: tile.content, cut, frame, index: index as u32 }
}

#[test]
fn yunets_outputs_are_decoded_and_suppressed_as_on_the_cpu() {
    let mut random = Random(6);
    // One tile; nine of a picture that is cut.
    for (width, height, max_side) in [(640, 480, 1280), (900, 500, 256)] {
        let plan = DetectorPlan::new(width, height, 20.0, max_side);
        let input = [plan.input_width, plan.input_height];
        // Two pictures, and padding in between.
        let first = (0..plan.tiles.len()).map(|at| on_device(&plan.tiles[at], 0, at));
        let second = (0..plan.tiles.len()).map(|at| on_device(&plan.tiles[at], 1, at));
        let padding = on_device(&plan.tiles[0], NO_FRAME, 0);
        let tiles: Vec<_> = first.chain([padding]).chain(second).collect();
        // By kind of output, then by stride.
        let cells = yunet::STRIDES.map(|stride| ((input[0] / stride) * (input[1] / stride)) as usize);
        let mut make = |values: usize, low: f32, high: f32| {
            cells.map(|cells| outputs(tiles.len() * cells * values, low, high, &mut random))
        };
        let (class, object) = (make(1, 0.0, 0.68), make(1, 0.0, 0.68));
        let (bbox, keypoints) = (make(4, -1.0, 2.0), make(10, -2.0, 2.0));
        let pointers = YunetOutputs {
            class: class.each_ref().map(|values| address(values)),
            object: object.each_ref().map(|values| address(values)),
            bbox: bbox.each_ref().map(|values| address(values)),
            keypoints: keypoints.each_ref().map(|values| address(values)),
        };
        let mut expected = [Vec::new(), Vec::new()];
        for (at, tile) in tiles.iter().enumerate().filter(|(_, tile)| tile.frame != NO_FRAME) {
            let by_stride: [_; 3] = std::array::from_fn(|stride| {
                let row = |values: usize| at * cells[stride] * values..(at + 1) * cells[stride] * values;
                StrideOutput {
                    class: &class[stride][row(1)],
                    object: &object[stride][row(1)],
                    bbox: &bbox[stride][row(4)],
                    keypoints: &keypoints[stride][row(10)],
                }
            });
            let (seen, frame) = (&plan.tiles[tile.index as usize], tile.frame as usize);
            yunet::decode(&by_stride, &plan, seen, 0.6, &mut expected[frame]);
        }
        assert!(expected.iter().all(|all| (100..MAX_CANDIDATES).contains(&all.len())), "enough to compare");
        for shape in SHAPES {
            let mut lists = Lists::new(2);
            library::decode_yunet(pointers, &tiles, input, 0.6, lists.on_device(), shape);
            for (frame, expected) in expected.iter().enumerate() {
                // exp() of a float may be rounded otherwise by the C library.
                assert_same_detections(&lists.of(frame), expected, 4.0);
            }
            let found = library::suppress(lists.on_device(), 2, false, yunet::NMS_IOU, shape);
            for (found, expected) in found.iter().zip(&expected) {
                let left = cpu_suppress(NmsMode::Plain, yunet::NMS_IOU, expected.clone());
                assert_eq!((found.found, found.candidates), (left.len() as u32, expected.len() as u32));
                assert_eq!(found.stored as usize, left.len().min(MAX_DETECTIONS));
                let stored = found.stored as usize;
                assert_same_detections(&found.items[..stored], &left[..stored], 4.0);
            }
            assert_eq!(lists.counts, [0, 0], "ready for the next frame");
        }
    }
}

#[test]
fn blazefaces_outputs_are_decoded_and_suppressed_as_on_the_cpu() {
    let mut random = Random(7);
    let (wide, tall) = (
        noise(131, 77, PixelFormat::Grey, 0, &mut random),
        noise(20, 33, PixelFormat::Rgb24, 0, &mut random),
    );
    let pictures = [&wide, &tall].map(|(layout, bytes)| Picture { layout: *layout, bytes });
    for net in [BlazeFace::short(), BlazeFace::full()] {
        let (anchors, size, count) = (net.anchors(), net.input_size(), net.anchor_count());
        let regressors = outputs(2 * count * 16, -10.0, 60.0, &mut random);
        let scores = outputs(2 * count, -5.0, 1.0, &mut random);
        let expected: [Vec<_>; 2] = std::array::from_fn(|at| {
            let PictureLayout { width, height, .. } = pictures[at].layout;
            let mut out = Vec::new();
            let (values, logits) = (&regressors[at * count * 16..], &scores[at * count..]);
            net.decode(values, logits, 0.5, &Letterbox::new(width, height, size), &mut out);
            out
        });
        assert!(expected.iter().all(|all| (100..MAX_CANDIDATES).contains(&all.len())), "enough to compare");
        for shape in SHAPES {
            let mut lists = Lists::new(2);
            let out = lists.on_device();
            library::decode_blazeface([&regressors, &scores], anchors, &pictures, size, 0.5, out, shape);
            for (frame, expected) in expected.iter().enumerate() {
                assert_same_detections(&lists.of(frame), expected, 0.0);
            }
            let found = library::suppress(lists.on_device(), 2, true, blazeface::NMS_IOU, shape);
            for (found, expected) in found.iter().zip(&expected) {
                let left = cpu_suppress(NmsMode::Weighted, blazeface::NMS_IOU, expected.clone());
                assert_eq!((found.found, found.candidates), (left.len() as u32, expected.len() as u32));
                let stored = found.stored as usize;
                assert_same_detections(&found.items[..stored], &left[..stored], 0.0);
            }
        }
    }
}

#[test]
fn too_many_candidates_and_too_many_faces_are_counted() {
    let far_apart = |i: usize| {
        let bbox = Box2 { x0: 20.0 * i as f32, y0: 0.0, x1: 20.0 * i as f32 + 10.0, y1: 10.0 };
        let score = 0.9 - i as f32 * 1e-4;
        Detection { kind: DetectorKind::YuNet, score, bbox, keypoints: [[1.0; 2]; 6] }
    };
    let mut lists = Lists::new(1);
    for (i, item) in lists.items.iter_mut().enumerate() {
        *item = device_detection(&far_apart(i), i);
    }
    lists.counts[0] = 5000;
    let found = library::suppress(lists.on_device(), 1, false, 0.3, SHAPES[2])[0];
    assert_eq!((found.candidates, found.found, found.stored), (5000, 1024, 64));
    let expected: Vec<_> = (0..64).map(far_apart).collect();
    assert_same_detections(&found.items, &expected, 0.0);
    let none = library::suppress(lists.on_device(), 1, true, 0.3, SHAPES[0])[0];
    assert_eq!((none.candidates, none.found, none.stored), (0, 0, 0));
}

#[test]
fn candidates_without_room_are_counted_and_written_nowhere() {
    let net = BlazeFace::full();
    let (anchors, count) = (net.anchors(), net.anchor_count());
    assert!(count > 2 * MAX_CANDIDATES);
    let (layout, bytes) = noise(30, 20, PixelFormat::Grey, 0, &mut Random(9));
    let picture = Picture { layout, bytes: &bytes };
    for shape in SHAPES {
        // The second list is for a frame that is not looked at.
        let mut lists = Lists::new(2);
        let out = lists.on_device();
        let outputs = [vec![30.0; count * 16], vec![9.0; count]];
        library::decode_blazeface(
            outputs.each_ref().map(Vec::as_slice),
            anchors,
            &[picture],
            192,
            0.5,
            out,
            shape,
        );
        assert_eq!(lists.counts, [count as u32, 0]);
        assert!(lists.items[..MAX_CANDIDATES].iter().all(|candidate| candidate.score > 0.5));
        assert!(
            lists.items[MAX_CANDIDATES..].iter().all(|candidate| *candidate == abi::Detection::default())
        );
        let found = library::suppress(lists.on_device(), 1, true, blazeface::NMS_IOU, shape)[0];
        assert_eq!(found.candidates as usize, count);
        assert!(found.found > 1 && found.stored <= found.found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Scores and edges are coarse, so that many are equal.
    #[test]
    fn suppression_is_the_cpus_in_whatever_order_candidates_come(
        given in prop::collection::vec((6u32..20, 0u32..30, 0u32..6, 1u32..12), 0..90),
        threshold in 0f32..0.9,
        weighted: bool,
        seed: u64,
    ) {
        let all: Vec<_> = given.iter().enumerate().map(|(at, &(score, x, y, side))| {
            let (x, y) = (x as f32 * 3.0, y as f32 * 3.0);
            let bbox = Box2 { x0: x, y0: y, x1: x + 2.0 * side as f32 + 0.1, y1: y + side as f32 };
            let keypoints = std::array::from_fn(|k| [x + k as f32 * 0.3, at as f32]);
            Detection { kind: DetectorKind::YuNet, score: score as f32 / 20.0, bbox, keypoints }
        }).collect();
        let (mut lists, mut random) = (Lists::new(1), Random(seed));
        let mut shuffled: Vec<_> = all.iter().enumerate().map(|(at, d)| device_detection(d, at)).collect();
        shuffled.sort_by_cached_key(|_| random.next());
        lists.items[..all.len()].copy_from_slice(&shuffled);
        let mode = if weighted { NmsMode::Weighted } else { NmsMode::Plain };
        let expected = cpu_suppress(mode, threshold, all);
        for shape in SHAPES {
            lists.counts[0] = given.len() as u32;
            let found = library::suppress(lists.on_device(), 1, weighted, threshold, shape)[0];
            prop_assert_eq!(found.found as usize, expected.len());
            let stored = found.stored as usize;
            prop_assert_eq!(stored, expected.len().min(MAX_DETECTIONS));
            assert_same_detections(&found.items[..stored], &expected[..stored], 0.0);
        }
    }
}

// ---- faces ----

/// One buffer with everything that comes down from a batch of faces, laid out as the host does it: header, next regions,
/// heads, landmarks, blendshapes, each at a multiple of 256 bytes.
struct Results {
    words: Vec<u32>,
    slots: usize,
    blendshape_points: Vec<f32>,
}

impl Results {
    fn new(slots: usize) -> Self {
        let words = vec![0xdead_beef; Self::starts(slots)[5] / 4];
        Self { words, slots, blendshape_points: vec![f32::NAN; slots * POINT_COUNT * 2] }
    }

    /// Where each part begins, and where the last ends; bytes.
    fn starts(slots: usize) -> [usize; 6] {
        let sizes =
            [size_of::<FacesHeader>(), 24 * slots, 20 * slots, 12 * LANDMARK_COUNT * slots, 4 * 52 * slots];
        let mut at = 0;
        std::array::from_fn(|part| {
            let start = at;
            at = (at + sizes.get(part).copied().unwrap_or(0)).next_multiple_of(256);
            start
        })
    }

    fn on_device(&mut self) -> FacesOut {
        let base = address_mut(&mut self.words).cast::<u8>();
        let [header, next, heads, landmarks, ..] = Self::starts(self.slots).map(|start| base.add(start));
        FacesOut {
            header: header.cast(),
            next: next.cast(),
            heads: heads.cast(),
            landmarks: landmarks.cast(),
            blendshape_points: address_mut(&mut self.blendshape_points),
        }
    }

    fn words<const N: usize>(&self, part: usize, at: usize) -> [u32; N] {
        let first = Self::starts(self.slots)[part] / 4 + at * N;
        std::array::from_fn(|i| self.words[first + i])
    }

    fn header(&self) -> FacesHeader {
        let [slots, active, a, b] = self.words(0, 0);
        FacesHeader { slots, active, reserved: [a, b] }
    }

    fn next(&self, at: usize) -> FaceSlot {
        let words: [u32; 6] = self.words(1, at);
        FaceSlot { roi: std::array::from_fn(|i| f32::from_bits(words[i])), frame: words[5] }
    }

    fn head(&self, at: usize) -> FaceHead {
        let [presence, bbox @ ..] = self.words::<5>(2, at).map(f32::from_bits);
        FaceHead { presence, bbox }
    }

    fn landmarks(&self, at: usize) -> [[f32; 3]; LANDMARK_COUNT] {
        let words: [u32; 3 * LANDMARK_COUNT] = self.words(3, at);
        std::array::from_fn(|i| std::array::from_fn(|axis| f32::from_bits(words[3 * i + axis])))
    }
}

/// Equal to within 1e-4 pixels, or two roundings of numbers of this size, by which a sine of the C library may shift a
/// large region; both may be no number.
fn near(a: f32, b: f32, size: f32) -> bool {
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= (2.0 * f32::EPSILON * size).max(1e-4)
}

/// Landmarks, regions and inputs of these faces are those of the CPU. `None` is padding.
fn check_faces(given: &[(Option<Roi>, Vec<f32>, f32)], shape: Shape) {
    let slots = given.iter().enumerate().map(|(at, (roi, ..))| match roi {
        Some(roi) => FaceSlot::new(roi, at as u32 * 3),
        None => FaceSlot { roi: [f32::NAN; 5], frame: NO_FRAME },
    });
    let slots: Vec<_> = slots.collect();
    let crops: Vec<f32> = given.iter().flat_map(|(_, points, _)| points.iter().copied()).collect();
    let logits: Vec<f32> = given.iter().map(|&(.., logit)| logit).collect();
    let mut results = Results::new(given.len());
    let points = SUBSET_146.map(|point| point as u32);
    library::faces(&crops, &logits, &slots, 0.5, &points, results.on_device(), shape);
    let active = given.iter().filter(|(roi, ..)| roi.is_some()).count() as u32;
    let header = FacesHeader { slots: given.len() as u32, active, reserved: [0; 2] };
    assert_eq!(results.header(), header);
    for (at, (roi, crop, logit)) in given.iter().enumerate() {
        let (landmarks, head, next) = (results.landmarks(at), results.head(at), results.next(at));
        let mut expected = [[0.0; 3]; LANDMARK_COUNT];
        if let Some(roi) = roi {
            landmarks_to_picture(crop, roi, worker::CROP, &mut expected);
        }
        let size = roi.map_or(0.0, |roi| roi.cx.abs() + roi.cy.abs() + roi.width + roi.height);
        for (got, expected) in landmarks.as_flattened().iter().zip(expected.as_flattened()) {
            assert!(near(*got, *expected, size), "{at}, {roi:?}: {got} {expected}");
        }
        let mut gathered = [f32::NAN; POINT_COUNT * 2];
        blendshapes::gather(&landmarks, &mut gathered);
        let from = at * POINT_COUNT * 2;
        assert_same_bits(&results.blendshape_points[from..][..POINT_COUNT * 2], &gathered, &at);
        let presence = roi.map_or(0.0, |_| sigmoid(*logit));
        assert!(
            head.presence.to_bits() == presence.to_bits() || (head.presence.is_nan() && presence.is_nan())
        );
        // From the kernel's own landmarks, so that nothing but the rule is compared.
        let bbox = roi.map_or(Box2::default(), |_| landmark_box(&landmarks));
        let edges = [bbox.x0, bbox.y0, bbox.x1, bbox.y1];
        assert!(
            head.bbox.iter().zip(edges).all(|(a, b)| *a == b || (a.is_nan() && b.is_nan())),
            "{head:?} {bbox:?}"
        );
        let region = roi_from_landmarks(&landmarks).filter(|_| presence >= 0.5);
        match region {
            Some(region) => {
                let expected = FaceSlot::new(&region, slots[at].frame);
                assert_eq!(
                    (next.frame, next.roi[..4].to_vec()),
                    (expected.frame, expected.roi[..4].to_vec())
                );
                assert!((next.roi[4] - region.rotation).abs() < 1e-6, "{next:?} {region:?}");
            }
            None => assert_eq!(next, FaceSlot { roi: [0.0; 5], frame: NO_FRAME }),
        }
    }
}

fn crop_points(random: &mut Random) -> Vec<f32> {
    (0..3 * LANDMARK_COUNT).map(|_| random.between(-40.0, 296.0)).collect()
}

#[test]
fn faces_with_and_without_points_and_presence() {
    let mut random = Random(8);
    let roi = Roi { cx: 700.0, cy: 300.0, width: 200.0, height: 240.0, rotation: 0.3 };
    let mut damaged = crop_points(&mut random);
    damaged[477 * 3 + 1] = f32::NAN;
    let mut endless = crop_points(&mut random);
    endless[0] = f32::INFINITY;
    let one_point = vec![3.0; 3 * LANDMARK_COUNT];
    let given = [
        (Some(roi), crop_points(&mut random), 3.0),
        (None, crop_points(&mut random), 3.0),
        (Some(roi), crop_points(&mut random), -0.1),
        (Some(roi), crop_points(&mut random), f32::NAN),
        (Some(roi), damaged, 3.0),
        (Some(roi), endless, 3.0),
        (Some(roi), one_point, 3.0),
        (Some(Roi { cx: f32::NAN, ..roi }), crop_points(&mut random), 3.0),
        (Some(roi), crop_points(&mut random), f32::INFINITY),
    ];
    for shape in SHAPES {
        check_faces(&given, shape);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_faces_are_the_cpus(
        faces in prop::collection::vec(
            (-100f32..3000.0, -100f32..2000.0, 5f32..1500.0, 5f32..1500.0, -7f32..7.0, -20f32..20.0),
            1..17,
        ),
        seed: u64,
    ) {
        let mut random = Random(seed);
        let faces: Vec<_> = faces.into_iter().map(|(cx, cy, width, height, rotation, logit)| {
            (Some(Roi { cx, cy, width, height, rotation }), crop_points(&mut random), logit)
        }).collect();
        check_faces(&faces, SHAPES[seed as usize % SHAPES.len()]);
    }
}

// ---- sharpness ----

#[test]
fn crops_are_as_sharp_as_on_the_cpu() {
    let (mut random, side) = (Random(11), worker::CROP as usize);
    let plane = side * side;
    let crops: Vec<f32> = (0..5 * 3 * plane)
        .map(|at| match at / (3 * plane) {
            // As good as it gets, smooth, flat, noise in all of it, noise in padding.
            0 => ((at % side + at / side) % 2) as f32,
            1 => (at % side) as f32 / 255.0,
            2 => 0.7,
            _ => random.between(0.0, 1.0),
        })
        .collect();
    let roi = Roi { cx: 0.0, cy: 0.0, width: 1.0, height: 1.0, rotation: 0.0 };
    let slots: Vec<_> =
        (0..5).map(|at| if at < 4 { FaceSlot::new(&roi, at) } else { FaceSlot::PADDING }).collect();
    for shape in SHAPES {
        let got = library::sharpness(&crops, &slots, shape);
        for (at, &got) in got.iter().enumerate() {
            let green = &crops[(at * 3 + 1) * plane..][..plane];
            let expected = if at < 4 { sharpness(green, side) } else { 0.0 };
            let off = (got - expected).abs();
            assert!(off <= 1e-3 + 1e-5 * expected, "{at}: {got} {expected}");
        }
    }
}
