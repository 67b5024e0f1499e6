//! What each step of the CPU pipeline takes, on the thread that asks: 1280 × 720, a face of about 200 px.
//!
//! Compare steps within one run: absolute times vary with what else the machine does.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run has nothing better to do than panic"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use youquanti_gpu::cpu::colour::{self, Jpeg, Part};
use youquanti_gpu::cpu::network::Network;
use youquanti_gpu::cpu::pose::PoseSeeker;
use youquanti_gpu::cpu::preview::Previewer;
use youquanti_gpu::cpu::shrink::Shrink;
use youquanti_gpu::cpu::{crop, worker};
use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{CameraInput, CpuOptions, CpuPipeline, FaceOptions, runtime};
use youquanti_models::blazeface::{BlazeFace, Letterbox};
use youquanti_models::geometry::landmarks_to_picture;
use youquanti_models::head_pose::head_pose;
use youquanti_models::nms::{Nms, NmsMode};
use youquanti_models::time::FakeClock;
use youquanti_models::yunet::DetectorPlan;
use youquanti_models::{
    Affine2, CameraId, Frame, FrameFaces, LANDMARK_COUNT, ModelId, PictureLayout, Pipeline, PixelFormat, Roi,
};

#[path = "../tests/common/mod.rs"]
mod common;

use common::golden::{self, Golden};

const FORMATS: [PixelFormat; 5] =
    [PixelFormat::Rgb24, PixelFormat::Bgr24, PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Grey];

fn before_the_networks(c: &mut Criterion) {
    let picture = golden::picture("one.png");
    let golden = Golden::load();
    let [cx, cy, width, height, rotation] = golden.rows::<5>("one/short/rects")[0];
    let roi = Roi { cx, cy, width, height, rotation };
    let mut group = c.benchmark_group("before");
    for format in FORMATS {
        let frame = picture.as_format(format, 0);
        let picture = frame.picture();
        let mut scratch = Vec::new();
        let (map, input) = (Affine2::image_from_crop(&roi, worker::CROP), worker::landmark_input());
        let mut out = vec![0.0; 3 * input.width * input.height];
        group.bench_function(format!("crop_256/{}", format.name()), |b| {
            b.iter(|| {
                let part = crop::part_seen(&map, &input, &picture.layout);
                let view = colour::rgb_part(&picture, part, &mut scratch).unwrap();
                crop::sample(&view, &picture.layout, black_box(&map), &input, &mut out);
            });
        });
        let plan = DetectorPlan::new(1280, 720, 60.0, 1280);
        let mut shrink = Shrink::new(&plan, &plan.tiles[0], [1280, 720]);
        let mut out = vec![0.0; 3 * (plan.input_width * plan.input_height) as usize];
        group.bench_function(format!("yunet_input/{}", format.name()), |b| {
            b.iter(|| shrink.run(black_box(&picture), &mut scratch, &mut out).unwrap());
        });
        let preview = PictureLayout::packed(960, 540, PixelFormat::Bgr24);
        let (mut previewer, mut shown) = (Previewer::default(), vec![0; preview.max_bytes()]);
        group.bench_function(format!("preview_540p/{}", format.name()), |b| {
            b.iter(|| previewer.draw(&picture, black_box(&preview), &mut shown).unwrap());
        });
        group.bench_function(format!("to_rgb_720p/{}", format.name()), |b| {
            b.iter(|| {
                colour::rgb_part(black_box(&picture), Part::whole(&picture.layout), &mut scratch)
                    .unwrap()
                    .stride
            });
        });
    }
    let frame = picture.frame(0);
    let picture_rgb = frame.picture();
    let (input, mut scratch) = (worker::letterbox_input(128), Vec::new());
    let map = Letterbox::new(1280, 720, 128).image_from_input();
    let mut out = vec![0.0; 3 * input.width * input.height];
    group.bench_function("letterbox_128/RGB24", |b| {
        b.iter(|| {
            let view =
                colour::rgb_part(&picture_rgb, Part::whole(&picture_rgb.layout), &mut scratch).unwrap();
            crop::sample(&view, &picture_rgb.layout, black_box(&map), &input, &mut out);
        });
    });
    let (jpeg, mut decoder) = (picture.as_format(PixelFormat::Mjpg, 0), Jpeg::default());
    group.bench_function("jpeg_720p", |b| {
        b.iter(|| decoder.decode(black_box(&jpeg.picture())).unwrap().bytes.len())
    });
    group.finish();
}

fn networks(c: &mut Criterion) {
    let runtime = runtime::load().unwrap();
    let plan = DetectorPlan::new(1280, 720, 60.0, 1280);
    let (width, height) = (i64::from(plan.input_width), i64::from(plan.input_height));
    let mut group = c.benchmark_group("network");
    for (id, sizes, output) in [
        (ModelId::FaceLandmarksCpu, vec![("N", 1)], "landmarks"),
        (ModelId::FaceBlendshapes, vec![("N", 1)], "blendshapes"),
        (ModelId::FaceDetectShort, vec![("N", 1)], "scores"),
        (ModelId::FaceDetectFull, vec![("N", 1)], "scores"),
        (
            ModelId::FaceDetectMulti,
            vec![("N", 1), ("W", width), ("H", height), ("A8", width * height / 64)],
            "cls_8",
        ),
    ] {
        let mut network = Network::load(&runtime, id, id.file().bytes, &sizes, &[output]).unwrap();
        for (at, value) in network.input().iter_mut().enumerate() {
            *value = (at % 97) as f32 / 97.0;
        }
        group.bench_function(id.file().name, |b| b.iter(|| network.run().unwrap().get(0).unwrap()[0]));
    }
    group.finish();
}

fn after_the_networks(c: &mut Criterion) {
    let golden = Golden::load();
    let mut group = c.benchmark_group("after");
    let decoder = BlazeFace::short();
    let letterbox = Letterbox::new(1280, 720, 128);
    let (regressors, scores) =
        (golden.array("row4/short/raw_regressors"), golden.array("row4/short/raw_scores"));
    let (mut found, mut nms) = (Vec::new(), Nms::default());
    group.bench_function("blazeface_decode_nms", |b| {
        b.iter(|| {
            found.clear();
            decoder.decode(black_box(regressors), scores, 0.5, &letterbox, &mut found);
            nms.run(NmsMode::Weighted, 0.5, &mut found);
            found.len()
        });
    });
    let roi = Roi { cx: 640.0, cy: 360.0, width: 300.0, height: 300.0, rotation: 0.2 };
    let crop: Vec<f32> = (0..LANDMARK_COUNT * 3).map(|at| (at * 7 % 256) as f32).collect();
    let mut out = [[0.0; 3]; LANDMARK_COUNT];
    group.bench_function("landmarks_to_picture", |b| {
        b.iter(|| landmarks_to_picture(black_box(&crop), &roi, 256, &mut out));
    });
    let mesh = golden.meshes("one/short/landmarks")[0];
    group.bench_function("head_pose", |b| b.iter(|| head_pose(black_box(&mesh), 1280, 720, 1.0)));
    group.finish();
}

fn whole_pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    for (file, faces) in [("one.png", 1), ("grid4.png", 4)] {
        for threads in [1, 2] {
            for format in [PixelFormat::Rgb24, PixelFormat::Yuyv] {
                let frame = golden::picture(file).as_format(format, 0);
                let layout: PictureLayout = frame.picture().layout;
                let mut options = FaceOptions::new(vec![CameraInput { camera: CameraId(0), layout }]);
                options.tracker.max_faces = faces;
                let options = CpuOptions { faces: options, threads, reason: "bench".to_owned() };
                let mut pipeline = CpuPipeline::new(&options, Arc::new(FakeClock::default())).unwrap();
                let mut out = FrameFaces::with_capacity(faces);
                let mut frame: Option<OwnedFrame> = Some(frame);
                let mut seq = 0;
                group.bench_function(format!("{faces}_faces/{threads}_threads/{}", format.name()), |b| {
                    b.iter(|| {
                        seq += 1;
                        pipeline.submit(frame.take().unwrap().with_seq(seq));
                        let (back, result) = pipeline.collect(&mut out).unwrap();
                        result.unwrap();
                        frame = Some(back);
                        out.faces.len()
                    });
                });
            }
        }
    }
    group.finish();
}

/// A body that is followed, and one that is looked for anew on each frame, because as many seconds pass.
fn pose(c: &mut Criterion) {
    let mut group = c.benchmark_group("pose");
    for (what, step) in [("followed", 1), ("detected", 1000)] {
        let mut seeker = PoseSeeker::new(None).unwrap();
        let mut frame = Some(golden::picture("photographer.png").frame(0));
        let mut seq = 0;
        group.bench_function(what, |b| {
            b.iter(|| {
                seq += step;
                let shown = frame.take().unwrap().with_seq(seq);
                let found = seeker.look(&shown).unwrap();
                frame = Some(shown);
                found.body.is_some()
            });
        });
    }
    group.finish();
}

criterion_group!(steps, before_the_networks, networks, after_the_networks, whole_pipeline, pose);
criterion_main!(steps);
