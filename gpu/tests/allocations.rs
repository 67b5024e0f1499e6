//! After warm-up the pipeline allocates nothing per frame, on any of its threads.
//!
//! On the processor what ONNX Runtime's binding allocates inside a run is its own affair and not counted. (Its C++ part
//! does not use this allocator at all.) On a GPU the runtime is not called for a frame, and memory of the device is counted, too, so
//! that nothing else may use it meanwhile.
//! In a binary of its own: the counter sees the whole process.

mod common;

use std::sync::Arc;

use common::counting::{self, Counting};
use common::{golden, options};
use youquanti_gpu::cpu::pose::PoseSeeker;
use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{CpuOptions, CpuPipeline};
use youquanti_models::time::FakeClock;
use youquanti_models::{Frame, FrameFaces, Pipeline, PixelFormat};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_per_frame() {
    let _alone = counting::alone();
    let picture = golden::picture("grid4.png");
    for format in
        [PixelFormat::Rgb24, PixelFormat::Bgr24, PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Grey]
    {
        for threads in [1, 2] {
            let frames: Vec<OwnedFrame> =
                (0..30).map(|seq| picture.as_format(format, 0).with_seq(seq)).collect();
            let mut faces = options(frames[0].picture().layout, 2);
            faces.tracker.detect_every = 4;
            let options = CpuOptions { faces, threads, reason: "asked for by name".to_owned() };
            let mut pipeline = CpuPipeline::new(&options, Arc::new(FakeClock::default()))
                .unwrap_or_else(|error| panic!("{error}"));
            let mut out = FrameFaces::with_capacity(2);
            let mut detected = 0;
            for (seq, frame) in frames.into_iter().enumerate() {
                let begun = counting::begin(seq >= 10);
                pipeline.submit(frame);
                let (frame, result) = pipeline.collect(&mut out).unwrap();
                // The frame's own memory is not the pipeline's: freed after counting.
                drop(begun);
                assert!(result.is_ok() && out.faces.len() == 2);
                detected += usize::from(out.detector_ran);
                drop(frame);
            }
            assert!(detected > 5, "the detector is part of it");
            assert_eq!(counting::taken(), 0, "{}, {threads} threads", format.name());
        }
    }
}

#[test]
fn nothing_is_allocated_per_frame_that_is_looked_at_for_a_body() {
    let _alone = counting::alone();
    let picture = golden::picture("photographer.png");
    for format in [PixelFormat::Rgb24, PixelFormat::Yuyv] {
        let mut seeker = PoseSeeker::new(None).unwrap_or_else(|error| panic!("{error}"));
        let mut detected = 0;
        for index in 0..20 {
            // Now and then so much time passes that the body is looked for anew.
            let frame = picture.as_format(format, 0).with_seq(index + index / 4 * 100);
            let begun = counting::begin(index >= 8);
            let found = seeker.look(&frame);
            drop(begun);
            let found = found.unwrap_or_else(|error| panic!("{error}"));
            assert!(found.body.is_some());
            detected += usize::from(found.detector_ran);
        }
        assert_eq!(detected, 5);
        assert_eq!(counting::taken(), 0, "{}", format.name());
    }
}

#[cfg(feature = "cuda")]
#[test]
fn nothing_is_allocated_per_frame_on_a_gpu() {
    use common::Ticks;
    use youquanti_gpu::CameraInput;
    use youquanti_gpu::cuda::provider::Provider;
    use youquanti_gpu::cuda::{self, CudaOptions, CudaPipeline};
    use youquanti_models::CameraId;

    if let Err(error) = cuda::check(&Provider::Cuda) {
        return println!("not tried here: {error}");
    }
    let _alone = counting::alone();
    let picture = golden::picture("grid4.png");
    for format in [PixelFormat::Rgb24, PixelFormat::Yuyv] {
        let layout = picture.as_format(format, 0).picture().layout;
        let cameras = [0, 1, 2].map(|camera| CameraInput { camera: CameraId(camera), layout });
        let mut faces = youquanti_gpu::FaceOptions::new(cameras.to_vec());
        faces.tracker.max_faces = 2;
        faces.tracker.detect_every = 4;
        let options = CudaOptions { reason: "asked for by name".to_owned(), ..CudaOptions::new(faces, 0) };
        let mut pipeline = CudaPipeline::new(&options, Arc::new(Ticks::default()), |_: &OwnedFrame| None)
            .unwrap_or_else(|error| panic!("{error}"));
        let mut out = FrameFaces::with_capacity(2);
        let mut free = 0;
        for seq in 0..40 {
            if seq == 10 {
                free = pipeline.device().memory().unwrap().free;
            }
            let frames = cameras.map(|input| {
                let bytes = picture.as_format(format, 0).picture().bytes.to_vec();
                OwnedFrame::new(input.camera, seq, layout, bytes)
            });
            let begun = counting::begin(seq >= 10);
            frames.into_iter().for_each(|frame| pipeline.submit(frame));
            let collected = cameras.map(|_| pipeline.collect(&mut out).unwrap());
            drop(begun);
            assert!(collected.iter().all(|(_, result)| result.is_ok()) && out.faces.len() == 2);
        }
        assert_eq!(counting::taken(), 0, "{}", format.name());
        assert_eq!(pipeline.device().memory().unwrap().free, free, "{}", format.name());
    }
}
