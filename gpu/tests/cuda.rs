//! The CUDA back end: the conformance suite, and what is its own. On a machine without a GPU, or without what a pipeline on it
//! needs, only that is said.
#![cfg(feature = "cuda")]
#![allow(unsafe_code, reason = "faults are made with kernels that nobody else would launch")]
#![allow(clippy::unwrap_used, reason = "test code, which clippy knows by its attribute only")]

mod common;

use std::process::Command;
use std::sync::Arc;

use common::conformance::run;
use common::scene::{Clip, Scene};
use common::{Ticks, golden, options};
use youquanti_frames::{FrameHandle, FrameRing, RingOptions};
use youquanti_gpu::cuda::launch::{Module, argument};
use youquanti_gpu::cuda::network::Precision;
use youquanti_gpu::cuda::provider::Provider;
use youquanti_gpu::cuda::{
    self, CudaOptions, CudaPipeline, DeviceBuffer, DeviceError, DevicePtr, Nvrtc, Stream,
};
use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{CameraInput, CpuOptions, CpuPipeline, FaceOptions, SetupError};
use youquanti_models::{
    CameraId, Face, Frame, FrameFaces, FrameFlags, FrameMeta, LANDMARK_COUNT, PictureLayout, Pipeline,
    PipelineError, PixelFormat, Timestamp, TrackIds, with_causes,
};

fn missing() -> Option<String> {
    cuda::check(&Provider::Cuda).err().map(|error| with_causes(&error))
}

fn by_name(faces: &FaceOptions) -> CudaOptions {
    CudaOptions { reason: "asked for by name".to_owned(), ..CudaOptions::new(faces.clone(), 0) }
}

fn open<F: Frame>(options: &CudaOptions, ring_of: cuda::RingOf<F>) -> CudaPipeline<F> {
    CudaPipeline::new(options, Arc::new(Ticks::default()), ring_of)
        .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

fn on_gpu(faces: &FaceOptions) -> CudaPipeline<OwnedFrame> {
    open(&by_name(faces), |_| None)
}

conformance!(on_gpu, missing);

fn on_processor(faces: &FaceOptions) -> CpuPipeline<OwnedFrame> {
    let options = CpuOptions { faces: faces.clone(), threads: 4, reason: "for comparison".to_owned() };
    CpuPipeline::new(&options, Arc::new(Ticks::default())).unwrap()
}

fn distances<'a>(a: &'a Face, b: &'a Face) -> impl Iterator<Item = f32> + 'a {
    let pairs = a.landmarks.iter().zip(&b.landmarks);
    pairs.map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]))
}

/// Frames of a clip of the scene.
fn clip(name: &str, format: PixelFormat, frames: usize) -> Vec<OwnedFrame> {
    let (golden, scene) = (golden::Golden::load(), Scene::load());
    let clip = Clip::new(&golden.index["clips"][name]);
    let draw = |frame: usize| scene.draw(1280, 720, clip.ellipse, &clip.faces(frame));
    (0..frames).map(|frame| draw(frame).as_format(format, 0).with_seq(frame as u64)).collect()
}

#[test]
fn landmarks_are_those_of_the_processor() {
    if let Some(missing) = missing() {
        return println!("not tried here: {missing}");
    }
    let frames = clip("row4", PixelFormat::Yuyv, 24);
    let faces = options(frames[0].picture().layout, 4);
    let mut cpu = on_processor(&faces);
    let expected: Vec<_> = frames.iter().map(|frame| run(&mut cpu, frame.clone())).collect();
    for (precision, most_mean, most) in [(Precision::Fp32, 0.1, 0.5), (Precision::Tf32, 0.3, 1.5)] {
        // Without its own numbers of tracks they would go on counting.
        let faces = FaceOptions { track_ids: Arc::new(TrackIds::new(1)), ..faces.clone() };
        let mut gpu = open(&CudaOptions { precision, ..by_name(&faces) }, |_: &OwnedFrame| None);
        let (mut sum, mut count, mut worst, mut blendshapes, mut sharpness) =
            (0.0, 0, 0.0_f32, 0.0_f32, 0.0_f32);
        for (frame, expected) in frames.iter().zip(&expected) {
            let got = run(&mut gpu, frame.clone());
            assert_eq!(got.detector_ran, expected.detector_ran);
            assert_eq!(got.faces.len(), expected.faces.len(), "{precision}, frame {}", got.meta.seq);
            for (got, expected) in got.faces.iter().zip(&expected.faces) {
                assert_eq!(got.track, expected.track);
                for distance in distances(got, expected) {
                    (sum, worst) = (sum + distance, worst.max(distance));
                }
                count += LANDMARK_COUNT;
                let pairs = got.blendshapes.iter().zip(&expected.blendshapes);
                blendshapes = pairs.map(|(a, b)| (a - b).abs()).fold(blendshapes, f32::max);
                let [got, expected] = [got, expected].map(|face| face.sharpness.unwrap());
                sharpness = sharpness.max((got / expected - 1.0).abs());
            }
        }
        let mean = sum / count as f32;
        println!(
            "{precision}: landmarks {mean:.4} px, at most {worst:.4} px; blendshapes at most {blendshapes:.4}; \
             sharpness at most {:.1} %",
            sharpness * 100.0
        );
        assert!(
            count > 90 * LANDMARK_COUNT && mean <= most_mean && worst <= most,
            "{precision}: {mean}, {worst}"
        );
        assert!(blendshapes < 0.05 && sharpness < 0.1, "{precision}: {blendshapes}, {sharpness}");
    }
}

#[test]
fn frames_of_several_cameras_are_computed_together_and_come_back_in_order() {
    if let Some(missing) = missing() {
        return println!("not tried here: {missing}");
    }
    const CAMERAS: u16 = 5;
    let formats =
        [PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Rgb24, PixelFormat::Mjpg, PixelFormat::Bgr24];
    let clips: Vec<Vec<OwnedFrame>> = formats.iter().map(|&format| clip("grid4", format, 12)).collect();
    let of_camera = |camera: u16, seq: usize| {
        let frame = &clips[usize::from(camera)][seq];
        let picture = frame.picture();
        OwnedFrame::new(CameraId(camera), seq as u64, picture.layout, picture.bytes.to_vec())
    };
    let inputs = (0..CAMERAS).map(|camera| {
        let layout = clips[usize::from(camera)][0].picture().layout;
        CameraInput { camera: CameraId(camera), layout }
    });
    let faces = FaceOptions::new(inputs.collect());
    let alone: Vec<Vec<FrameFaces>> = (0..CAMERAS)
        .map(|camera| {
            let faces = FaceOptions::new(vec![faces.cameras[usize::from(camera)]]);
            let mut pipeline = on_gpu(&faces);
            (0..12).map(|seq| run(&mut pipeline, of_camera(camera, seq))).collect()
        })
        .collect();
    let mut pipeline = on_gpu(&faces);
    // Camera 4 is two frames behind, so that batches are not alike.
    let order = (0..14).flat_map(|round: usize| (0..CAMERAS).map(move |camera| (camera, round)));
    let order: Vec<(u16, usize)> = order
        .filter_map(|(camera, round)| match camera {
            4 => Some((camera, round.checked_sub(2)?)),
            _ => Some((camera, round)),
        })
        .filter(|&(_, seq)| seq < 12)
        .collect();
    let (mut submitted, mut most_inside) = (order.iter(), 0);
    let mut out = FrameFaces::with_capacity(4);
    for (collected, &(camera, seq)) in order.iter().enumerate() {
        while pipeline.has_room()
            && let Some(&(camera, seq)) = submitted.next()
        {
            pipeline.submit(of_camera(camera, seq));
        }
        most_inside = most_inside.max(order.len() - submitted.len() - collected);
        let (frame, result) = pipeline.collect(&mut out).unwrap();
        result.unwrap();
        assert_eq!((frame.meta().camera, frame.meta().seq), (CameraId(camera), seq as u64));
        assert_eq!((out.meta.camera, out.meta.seq), (CameraId(camera), seq as u64));
        let expected = &alone[usize::from(camera)][seq];
        assert_eq!(out.faces.len(), expected.faces.len(), "camera {camera}, frame {seq}");
        assert_eq!(out.detector_ran, expected.detector_ran);
        for (got, expected) in out.faces.iter().zip(&expected.faces) {
            // Other batch sizes are other algorithms.
            let worst = distances(got, expected).fold(0.0, f32::max);
            assert!(worst < 0.5, "camera {camera}, frame {seq}: {worst} px");
        }
    }
    assert!(most_inside >= usize::from(CAMERAS), "{most_inside}");
    assert!(pipeline.collect(&mut out).is_none());
    // What is still inside when it ends is given up.
    pipeline.submit(of_camera(0, 0));
    drop(pipeline);
}

#[test]
fn frames_go_up_from_their_ring() {
    if let Some(missing) = missing() {
        return println!("not tried here: {missing}");
    }
    let frames = clip("grid4", PixelFormat::Yuyv, 6);
    let layout = frames[0].picture().layout;
    let faces = options(layout, 4);
    let mut cpu = on_processor(&faces);
    let name = format!("test-pipeline-{}", std::process::id());
    let ring = FrameRing::create(&RingOptions::new(name, layout)).unwrap();
    let mut gpu = open(&by_name(&faces), |frame: &FrameHandle| Some(frame.memory()));
    let mut out = FrameFaces::with_capacity(4);
    for frame in frames {
        let mut slot = ring.try_acquire().unwrap();
        slot.bytes_mut().copy_from_slice(frame.picture().bytes);
        let at = Timestamp(1);
        let meta = FrameMeta {
            camera: CameraId(0),
            seq: frame.meta().seq,
            driver_seq: 0,
            captured_at: at,
            received_at: at,
            flags: FrameFlags::default(),
        };
        gpu.submit(slot.freeze(meta, layout.max_bytes()));
        let (frame_back, result) = gpu.collect(&mut out).unwrap();
        result.unwrap();
        drop(frame_back);
        let expected = run(&mut cpu, frame);
        assert_eq!(out.faces.len(), expected.faces.len());
        for (got, expected) in out.faces.iter().zip(&expected.faces) {
            assert!(distances(got, expected).fold(0.0, f32::max) < 1.5);
        }
    }
    let times = gpu.stage_times().unwrap();
    println!("{times:?}");
    assert!(times.upload > 0.0 && times.landmarks > 0.0 && times.crop > 0.0);
    assert_eq!(ring.in_use(), 0, "every slot is free again");
}

#[test]
fn pipelines_that_end_leave_nothing_on_the_device() {
    if let Some(missing) = missing() {
        return println!("not tried here: {missing}");
    }
    let rounds = std::env::var("YOUQUANTI_RESTARTS").map_or(4, |text| text.parse().unwrap());
    let picture = golden::picture("one.png");
    let faces = options(picture.layout(), 1);
    let mut free = Vec::new();
    for _ in 0..rounds {
        let mut pipeline = on_gpu(&faces);
        assert_eq!(run(&mut pipeline, picture.frame(0)).faces.len(), 1);
        free.push(pipeline.device().memory().unwrap().free);
    }
    println!("free after each of {rounds} starts: {:?} … {:?}", &free[..2.min(rounds)], free.last());
    // The first start of a process loads code that stays.
    let later = &free[1..];
    let (least, most) = (later.iter().min().unwrap(), later.iter().max().unwrap());
    assert!(most - least < 16 << 20, "{free:?}");
}

#[test]
fn what_can_be_recovered_from_costs_one_pipeline() {
    if let Some(missing) = missing() {
        return println!("not tried here: {missing}");
    }
    let picture = golden::picture("one.png");
    let faces = options(picture.layout(), 1);
    let mut pipeline = on_gpu(&faces);
    let expected = run(&mut pipeline, picture.frame(0)).faces;
    let free = pipeline.device().memory().unwrap().free as usize;
    let hog = DeviceBuffer::<u8>::new(pipeline.device(), "all but a little", free - (96 << 20)).unwrap();
    let large = PictureLayout::packed(8192, 8192, PixelFormat::Rgb24);
    pipeline.submit(OwnedFrame::new(CameraId(0), 1, large, vec![0; large.max_bytes()]));
    let mut out = FrameFaces::with_capacity(1);
    let error = pipeline.collect(&mut out).unwrap().1.unwrap_err();
    println!("{error}: {:?}", std::error::Error::source(&error));
    assert!(matches!(error, PipelineError::Stage { stage: "upload", .. }), "{error}");
    assert_eq!(pipeline.device().lost(), None);
    drop((hog, pipeline));
    let faces = FaceOptions { track_ids: Arc::new(TrackIds::new(1)), ..faces };
    assert!(run(&mut on_gpu(&faces), picture.frame(2)).faces[0].landmarks == expected[0].landmarks);
}

/// Set in the process that loses its device.
const LOSES_DEVICE: &str = "YOUQUANTI_TEST_LOSES_DEVICE";

fn lose_device() {
    let picture = golden::picture("one.png");
    let faces = options(picture.layout(), 1);
    let mut pipeline = on_gpu(&faces);
    let expected = run(&mut pipeline, picture.frame(0)).faces;
    let device = pipeline.device();
    let poke = "extern \"C\" __global__ void poke(int *at) { *at = 7; }";
    let program = Nvrtc::load(device.info().driver).unwrap();
    let program = program.compile(poke, &device.info().architecture()).unwrap();
    let (module, stream) = (Module::load(device, &program).unwrap(), Stream::new(device).unwrap());
    let address = DevicePtr::<u32>::new(8);
    let poke = module.function(c"poke").unwrap();
    // SAFETY: not at all, which is what is tested: in a process that ends with it.
    unsafe { module.launch(&stream, poke, ([1, 1, 1], 1), [argument(&address)]) }.unwrap();
    let mut out = FrameFaces::with_capacity(1);
    let error = (1..1000).find_map(|seq| {
        pipeline.submit(picture.frame(seq));
        let (frame, result) = pipeline.collect(&mut out).unwrap();
        assert_eq!(frame.meta().seq, seq);
        // What is still published is right.
        assert!(result.is_err() || out.faces[0].landmarks == expected[0].landmarks);
        result.err()
    });
    let error = error.unwrap();
    println!("{error}: {:?}", std::error::Error::source(&error));
    assert!(matches!(error, PipelineError::DeviceLost { .. }));
    pipeline.submit(picture.frame(1000));
    let (frame, again) = pipeline.collect(&mut out).unwrap();
    assert!(frame.meta().seq == 1000 && again.is_err());
    drop((module, stream, pipeline));
    let again = CudaPipeline::<OwnedFrame>::new(&by_name(&faces), Arc::new(Ticks::default()), |_| None);
    assert!(matches!(again.err(), Some(SetupError::Device(DeviceError::Lost { ordinal: 0 }))));
    let mut cpu = on_processor(&faces);
    assert_eq!(run(&mut cpu, picture.frame(1001)).faces.len(), 1);
    println!("as expected");
}

#[test]
fn a_lost_device_ends_the_pipeline_and_nothing_of_it_is_published() {
    if std::env::var_os(LOSES_DEVICE).is_some() {
        return lose_device();
    }
    if let Some(missing) = missing() {
        return println!("not tried here: {missing}");
    }
    let name = "a_lost_device_ends_the_pipeline_and_nothing_of_it_is_published";
    let mut test = Command::new(std::env::current_exe().unwrap());
    let output = test.args(["--exact", name, "--nocapture"]).env(LOSES_DEVICE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("as expected"), "{text}{said}");
}
