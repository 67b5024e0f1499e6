//! The device layer on a real GPU: memory, kernels against their twins on the processor, graphs, faults of both kinds.
//! Where there is no GPU each test says so and does nothing.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "test code, which clippy knows by its attribute only")]
#![allow(unsafe_code, reason = "launches promise that what kernels follow lives to the end of each test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use common::golden;
use common::random::Random;
use jpeg_encoder::SamplingFactor;
use youquanti_frames::{FrameHandle, FrameRing, RingOptions};
use youquanti_gpu::cpu::colour::{self, Jpeg, Part};
use youquanti_gpu::cpu::crop::{self, Input};
use youquanti_gpu::cpu::worker;
use youquanti_gpu::cuda::abi::{
    BLENDSHAPE_POINTS, CROP, Candidates, Detection, Detections, DetectorTile, FaceHead, FaceSlot,
    FacesHeader, FacesOut, Frame, LANDMARKS, MAX_CANDIDATES, NO_FRAME, ShrinkAxis, ShrinkTile, YunetOutputs,
};
use youquanti_gpu::cuda::jpeg::{JpegDecoder, JpegError, Nvjpeg};
use youquanti_gpu::cuda::launch::Module;
use youquanti_gpu::cuda::memory::Plain;
use youquanti_gpu::cuda::{
    CallError, Device, DeviceBuffer, DeviceError, DevicePlan, DevicePtr, Event, Kernels, MemoryError, Nvrtc,
    PinnedBuffer, RegisteredRing, Severity, Stream,
};
use youquanti_gpu::probe::{self, Cuda};
use youquanti_models::blazeface::{self, BlazeFace, Letterbox};
use youquanti_models::blendshapes::SUBSET_146;
use youquanti_models::geometry::landmarks_to_picture;
use youquanti_models::nms::{Nms, NmsMode};
use youquanti_models::roi::roi_from_landmarks;
use youquanti_models::yunet::{self, DetectorPlan, StrideOutput};
use youquanti_models::{
    Affine2, CameraId, Frame as _, FrameFlags, FrameMeta, LANDMARK_COUNT, Picture, PictureLayout,
    PixelFormat, Roi, Timestamp,
};

/// Set in processes in which a test breaks the device.
const FAULT: &str = "YOUQUANTI_TEST_FAULT";

/// Runs a test where there is a GPU, one at a time: a device is open once in a process.
fn on_device(test: impl FnOnce(Device)) {
    static ONE: Mutex<()> = Mutex::new(());

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match Device::open(0) {
        Ok(device) => test(device),
        Err(error @ (DeviceError::NoDriver { .. } | DeviceError::NoDevice { .. })) => {
            println!("not run: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

fn nvrtc(device: &Device) -> Nvrtc {
    Nvrtc::load(device.info().driver).unwrap_or_else(|error| panic!("{error}"))
}

fn kernels(device: &Device) -> Kernels {
    let program =
        nvrtc(device).kernels(&device.info().architecture()).unwrap_or_else(|error| panic!("{error}"));
    Kernels::load(device, &program).unwrap()
}

fn buffer<T: Plain>(device: &Device, values: &[T]) -> DeviceBuffer<T> {
    let mut buffer = DeviceBuffer::new(device, "a test's input", values.len()).unwrap();
    buffer.write(values).unwrap();
    buffer
}

/// A buffer of what no kernel writes.
fn poisoned(device: &Device, len: usize) -> DeviceBuffer<f32> {
    buffer(device, &vec![f32::NAN; len])
}

fn read<T: Plain>(buffer: &DeviceBuffer<T>, fill: T) -> Vec<T> {
    let mut values = vec![fill; buffer.len()];
    buffer.read(&mut values).unwrap();
    values
}

// ---- memory ----

/// A frame in shared memory.
fn ring_with_frame(name: &str, layout: PictureLayout) -> (FrameRing, FrameHandle) {
    let ring =
        FrameRing::create(&RingOptions::new(format!("test-{name}-{}", std::process::id()), layout)).unwrap();
    let mut slot = ring.try_acquire().unwrap();
    slot.bytes_mut().copy_from_slice(&Random(1).picture(&layout));
    let meta = FrameMeta {
        camera: CameraId(0),
        seq: 0,
        driver_seq: 0,
        captured_at: Timestamp(1),
        received_at: Timestamp(2),
        flags: FrameFlags::default(),
    };
    let frame = slot.freeze(meta, layout.max_bytes());
    (ring, frame)
}

#[test]
fn a_slot_of_a_page_locked_ring_goes_up_as_it_is() {
    on_device(|device| {
        let layout = PictureLayout::packed(1920, 1080, PixelFormat::Yuyv);
        let (ring, frame) = ring_with_frame("upload", layout);
        let registered = RegisteredRing::new(&device, ring.memory()).unwrap();
        assert_eq!(RegisteredRing::new(&device, ring.memory()).err(), Some(MemoryError::Registered));
        let picture = frame.picture();
        assert!(registered.contains(picture.bytes) && !registered.contains(&[0; 16]));
        let on_device = DeviceBuffer::<u8>::new(&device, "a frame", layout.max_bytes()).unwrap();
        let stream = Stream::new(&device).unwrap();
        let (start, end) = (Event::new(&device).unwrap(), Event::new(&device).unwrap());
        let mut millis = Vec::new();
        for _ in 0..50 {
            stream.record(&start).unwrap();
            // SAFETY: both live on, and nobody writes the frame.
            unsafe { stream.upload(picture.bytes, on_device.ptr()) }.unwrap();
            stream.record(&end).unwrap();
            end.synchronize().unwrap();
            assert!(end.has_happened().unwrap());
            millis.push(end.millis_since(&start).unwrap());
        }
        millis.sort_by(f32::total_cmp);
        println!(
            "upload of {} bytes: p50 {:.4} ms, max {:.4} ms",
            layout.max_bytes(),
            millis[25],
            millis[49]
        );
        assert!(read(&on_device, 0) == picture.bytes);
        let mut down = PinnedBuffer::<u8>::new(&device, "a download", layout.max_bytes()).unwrap();
        assert!(down.iter().all(|&byte| byte == 0));
        // SAFETY: both live on, and the host waits.
        unsafe { stream.download(on_device.ptr(), &mut down, layout.max_bytes()) }.unwrap();
        stream.synchronize().unwrap();
        assert!(*down == *picture.bytes);
        // Given back, it can be registered again, and it outlives its ring's other owners.
        drop(registered);
        let registered = RegisteredRing::new(&device, ring.memory()).unwrap();
        drop((frame, ring));
        drop(registered);
    });
}

#[test]
fn a_plan_is_held_against_what_is_free_and_its_buffers_are_zeros() {
    on_device(|device| {
        let free = device.memory().unwrap().free;
        let mut plan = DevicePlan::default();
        let small = plan.add::<f32>("small", 1000);
        let large = plan.add::<u8>("large", 1 << 20);
        let mut buffers = plan.allocate(&device, "-").unwrap();
        let small = buffers.take(small).unwrap();
        assert_eq!((small.len(), buffers.take(large).unwrap().len()), (1000, 1 << 20));
        assert!(read(&small, 1.0).iter().all(|&value| value == 0.0));
        plan.reserve("too much", free);
        let error = plan.allocate(&device, "lower something").unwrap_err();
        assert!(matches!(error, MemoryError::TooLittle { ordinal: 0, .. }), "{error}");
    });
}

// ---- kernels ----

fn cpu_sample(picture: &Picture<'_>, map: &Affine2, input: &Input) -> Vec<f32> {
    let mut out = vec![f32::NAN; 3 * input.width * input.height];
    let (part, mut scratch) = (crop::part_seen(map, input, &picture.layout), Vec::new());
    let view = colour::rgb_part(picture, part, &mut scratch).unwrap();
    crop::sample(&view, &picture.layout, map, input, &mut out);
    out
}

/// At most this far apart, and all but a share of `rare` the same to the bit.
#[track_caller]
fn assert_near(got: &[f32], expected: &[f32], bound: f32, rare: f64, what: &dyn std::fmt::Debug) {
    assert_eq!(got.len(), expected.len());
    let pairs = || got.iter().zip(expected);
    let worst = pairs()
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst: f32, far| if far <= worst { worst } else { far });
    let different = pairs().filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert!(worst <= bound, "{what:?}: {worst} apart");
    assert!(different as f64 <= rare * got.len() as f64, "{what:?}: {different} of {} differ", got.len());
}

#[test]
fn crops_and_letterboxes_are_the_cpus() {
    on_device(|device| {
        let (kernels, stream) = (kernels(&device), Stream::new(&device).unwrap());
        let formats =
            [PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Rgb24, PixelFormat::Bgr24, PixelFormat::Grey];
        for format in formats {
            let layout = PictureLayout::packed(640, 480, format);
            let bytes = Random(2).picture(&layout);
            let picture = Picture { layout, bytes: &bytes };
            let is_yuv = matches!(format, PixelFormat::Yuyv | PixelFormat::Nv12);
            let pixels = buffer(&device, &bytes);
            let frames = buffer(&device, &[Frame::new(pixels.ptr(), &layout).unwrap()]);
            let rois = [
                Roi { cx: 320.0, cy: 200.0, width: 180.0, height: 180.0, rotation: 0.0 },
                Roi { cx: 10.0, cy: 470.0, width: 300.0, height: 260.0, rotation: 0.7 },
            ];
            let slots = [FaceSlot::new(&rois[0], 0), FaceSlot::PADDING, FaceSlot::new(&rois[1], 0)];
            let slots = buffer(&device, &slots);
            let out = poisoned(&device, 3 * 3 * CROP * CROP);
            // SAFETY: all of it lives on, as large as the kernel takes it for.
            unsafe { kernels.crop_faces(&stream, frames.ptr(), slots.ptr(), 3, out.ptr()) }.unwrap();
            let crops = read(&out, 0.0);
            let crops: Vec<_> = crops.chunks_exact(3 * CROP * CROP).collect();
            let twin = |roi| {
                cpu_sample(&picture, &Affine2::image_from_crop(roi, worker::CROP), &worker::landmark_input())
            };
            // One level of colour; a sine that is rounded otherwise moves a sample by 1/64 pixel.
            let level = 1.01 / 255.0;
            let (upright, rare) = if is_yuv { (level, 0.1) } else { (0.0, 0.0) };
            assert_near(crops[0], &twin(&rois[0]), upright, rare, &(format, "upright"));
            assert!(crops[1].iter().all(|&value| value == 0.0), "padding is black");
            assert_near(crops[2], &twin(&rois[1]), 5.0 * level, rare + 0.01, &(format, "rotated"));
            let out = poisoned(&device, 3 * 128 * 128);
            // SAFETY: as above.
            unsafe { kernels.letterbox(&stream, frames.ptr(), 1, 128, out.ptr()) }.unwrap();
            let roi = Roi { cx: 320.0, cy: 240.0, width: 640.0, height: 640.0, rotation: 0.0 };
            let map = Affine2::image_from_crop(&roi, 128);
            let expected = cpu_sample(&picture, &map, &worker::letterbox_input(128));
            assert_near(&read(&out, 0.0), &expected, 2.0 * upright, rare, &(format, "letterbox"));
        }
    });
}

#[test]
fn shrinking_by_nothing_gives_the_picture() {
    on_device(|device| {
        let (kernels, stream) = (kernels(&device), Stream::new(&device).unwrap());
        let layout = PictureLayout::packed(96, 64, PixelFormat::Rgb24);
        let bytes = Random(3).picture(&layout);
        let pixels = buffer(&device, &bytes);
        let frames = buffer(&device, &[Frame::new(pixels.ptr(), &layout).unwrap()]);
        let (first, weights) =
            (buffer(&device, &(0..96).collect::<Vec<u32>>()), buffer(&device, &[256_u16; 96]));
        let axis = |len| ShrinkAxis { first: first.ptr(), weights: weights.ptr(), taps: 1, len };
        let tile = |frame| ShrinkTile { columns: axis(96), rows: axis(64), frame, reserved: 0 };
        let tiles = buffer(&device, &[tile(0), tile(NO_FRAME)]);
        let out = poisoned(&device, 2 * 3 * 128 * 96);
        // SAFETY: all of it lives on, as large as the kernel takes it for.
        unsafe { kernels.shrink(&stream, frames.ptr(), tiles.ptr(), 2, [128, 96], out.ptr()) }.unwrap();
        let got = read(&out, 0.0);
        let view =
            colour::rgb_part(&Picture { layout, bytes: &bytes }, Part::whole(&layout), &mut Vec::new())
                .map(|view| view.bytes.to_vec())
                .unwrap();
        for (at, value) in got[..3 * 128 * 96].iter().enumerate() {
            let (plane, y, x) = (at / (128 * 96), at / 128 % 96, at % 128);
            let inside = x < 96 && y < 64;
            let expected = if inside { f32::from(view[(y * 96 + x) * 3 + 2 - plane]) } else { 0.0 };
            assert_eq!(*value, expected, "{plane} {y} {x}");
        }
        assert!(got[3 * 128 * 96..].iter().all(|&value| value == 0.0));
    });
}

/// Candidates for `frames` frames.
struct Lists {
    counts: DeviceBuffer<u32>,
    items: DeviceBuffer<Detection>,
}

impl Lists {
    fn new(device: &Device, frames: usize) -> Self {
        Self {
            counts: buffer(device, &vec![0; frames]),
            items: DeviceBuffer::new(device, "candidates", frames * MAX_CANDIDATES).unwrap(),
        }
    }

    fn on_device(&self) -> Candidates {
        Candidates { counts: self.counts.ptr(), items: self.items.ptr() }
    }
}

/// What suppression leaves is the CPU's.
fn check_detections(
    (kernels, stream, device): (&Kernels, &Stream, &Device),
    lists: &Lists,
    (mode, iou_threshold): (NmsMode, f32),
    mut expected: Vec<youquanti_models::Detection>,
) {
    assert!((50..MAX_CANDIDATES).contains(&expected.len()), "{} to compare", expected.len());
    let nothing =
        Detections { stored: 0, found: 0, candidates: 0, reserved: 0, items: [Detection::default(); 64] };
    let out = buffer(device, &[nothing]);
    let weighted = matches!(mode, NmsMode::Weighted);
    // SAFETY: all of it lives on, as large as the kernel takes it for.
    unsafe { kernels.suppress(stream, lists.on_device(), 1, weighted, iou_threshold, out.ptr()) }.unwrap();
    let got = read(&out, nothing)[0];
    let candidates = expected.len();
    let order = |d: &youquanti_models::Detection| (d.score, d.bbox.x0, d.bbox.y0);
    expected.sort_by(|a, b| order(b).partial_cmp(&order(a)).unwrap());
    Nms::default().run(mode, iou_threshold, &mut expected);
    assert_eq!((got.candidates as usize, got.found as usize), (candidates, expected.len()));
    for (got, expected) in got.items[..got.stored as usize].iter().zip(&expected) {
        assert_eq!(got.score, expected.score);
        let edges = [expected.bbox.x0, expected.bbox.y0, expected.bbox.x1, expected.bbox.y1];
        assert_near(&got.bbox, &edges, 1e-3, 1.0, &"box");
        assert_near(got.keypoints.as_flattened(), expected.keypoints.as_flattened(), 1e-3, 1.0, &"keypoints");
    }
    assert_eq!(read(&lists.counts, 9), [0], "ready for the next frame");
}

#[test]
fn detections_are_the_cpus() {
    on_device(|device| {
        let (kernels, stream) = (kernels(&device), Stream::new(&device).unwrap());
        let mut random = Random(4);
        let plan = DetectorPlan::new(320, 240, 20.0, 1280);
        let [width, height] = [plan.input_width, plan.input_height];
        let seen = &plan.tiles[0];
        let source = [seen.source.x0, seen.source.y0, seen.source.x1, seen.source.y1];
        let tiles =
            buffer(&device, &[DetectorTile { source, content: seen.content, cut: 0, frame: 0, index: 0 }]);
        let cells = yunet::STRIDES.map(|stride| ((width / stride) * (height / stride)) as usize);
        let mut make = |values, low, high| cells.map(|cells| random.list(cells * values, low, high));
        let host = [make(1, 0.0, 0.75), make(1, 0.0, 0.75), make(4, -1.0, 2.0), make(10, -2.0, 2.0)];
        let held = host.each_ref().map(|kind| kind.each_ref().map(|values| buffer(&device, values)));
        let [class, object, bbox, keypoints] =
            held.each_ref().map(|kind| kind.each_ref().map(DeviceBuffer::ptr));
        let (outputs, lists) = (YunetOutputs { class, object, bbox, keypoints }, Lists::new(&device, 1));
        let size = [width, height];
        // SAFETY: all of it lives on, as large as the kernel takes it for.
        unsafe { kernels.decode_yunet(&stream, outputs, tiles.ptr(), 1, size, 0.6, lists.on_device()) }
            .unwrap();
        let by_stride: [_; 3] = std::array::from_fn(|at| StrideOutput {
            class: &host[0][at],
            object: &host[1][at],
            bbox: &host[2][at],
            keypoints: &host[3][at],
        });
        let mut expected = Vec::new();
        yunet::decode(&by_stride, &plan, seen, 0.6, &mut expected);
        check_detections((&kernels, &stream, &device), &lists, (NmsMode::Plain, yunet::NMS_IOU), expected);

        let net = BlazeFace::short();
        let (anchors, size) = (net.anchor_count(), net.input_size());
        let (regressors, scores) = (random.list(anchors * 16, -10.0, 60.0), random.list(anchors, -5.0, 1.0));
        let layout = PictureLayout::packed(131, 77, PixelFormat::Grey);
        let frames = buffer(&device, &[Frame::new(DevicePtr::NULL, &layout).unwrap()]);
        let held = [
            buffer(&device, &regressors),
            buffer(&device, &scores),
            buffer(&device, net.anchors().as_flattened()),
        ];
        let [values, logits, centres] = held.each_ref().map(DeviceBuffer::ptr);
        // SAFETY: as above; no pixel of the frame is read.
        unsafe {
            kernels.decode_blazeface(
                &stream,
                [values, logits],
                centres,
                anchors as u32,
                frames.ptr(),
                1,
                size,
                0.5,
                lists.on_device(),
            )
        }
        .unwrap();
        let mut expected = Vec::new();
        net.decode(&regressors, &scores, 0.5, &Letterbox::new(131, 77, size), &mut expected);
        check_detections(
            (&kernels, &stream, &device),
            &lists,
            (NmsMode::Weighted, blazeface::NMS_IOU),
            expected,
        );
    });
}

#[test]
fn faces_are_the_cpus() {
    on_device(|device| {
        let (kernels, stream) = (kernels(&device), Stream::new(&device).unwrap());
        let mut random = Random(5);
        let roi = Roi { cx: 700.0, cy: 300.0, width: 200.0, height: 240.0, rotation: 0.3 };
        let slots = buffer(&device, &[FaceSlot::new(&roi, 2), FaceSlot::PADDING, FaceSlot::new(&roi, 5)]);
        let crops = random.list(3 * 3 * LANDMARKS, -40.0, 296.0);
        let held = [buffer(&device, &crops), buffer(&device, &[3.0, 3.0, -3.0])];
        let points = buffer(&device, &SUBSET_146.map(|point| point as u32));
        let header = buffer(&device, &[FacesHeader::default()]);
        let next = buffer(&device, &[FaceSlot::PADDING; 3]);
        let heads = buffer(&device, &[FaceHead::default(); 3]);
        let (landmarks, gathered) =
            (poisoned(&device, 9 * LANDMARKS), poisoned(&device, 6 * BLENDSHAPE_POINTS));
        let out = FacesOut {
            header: header.ptr(),
            next: next.ptr(),
            heads: heads.ptr(),
            landmarks: landmarks.ptr(),
            blendshape_points: gathered.ptr(),
        };
        let inputs = held.each_ref().map(DeviceBuffer::ptr);
        // SAFETY: all of it lives on, as large as the kernel takes it for.
        unsafe { kernels.faces(&stream, inputs, slots.ptr(), 3, 0.5, points.ptr(), out) }.unwrap();
        let header = read(&header, FacesHeader::default())[0];
        assert_eq!(header, FacesHeader { slots: 3, active: 2, reserved: [0; 2] });
        let (all, gathered) = (read(&landmarks, 0.0), read(&gathered, 0.0));
        let (next, heads) = (read(&next, FaceSlot::PADDING), read(&heads, FaceHead::default()));
        for at in 0..3 {
            let got: [[f32; 3]; LANDMARK_COUNT] =
                std::array::from_fn(|i| std::array::from_fn(|axis| all[(at * LANDMARKS + i) * 3 + axis]));
            let mut expected = [[0.0; 3]; LANDMARK_COUNT];
            if at != 1 {
                landmarks_to_picture(
                    &crops[at * 3 * LANDMARKS..][..3 * LANDMARKS],
                    &roi,
                    worker::CROP,
                    &mut expected,
                );
            }
            assert_near(got.as_flattened(), expected.as_flattened(), 1e-3, 1.0, &at);
            for (pair, point) in gathered[at * 2 * BLENDSHAPE_POINTS..].chunks_exact(2).zip(SUBSET_146) {
                assert_eq!(pair, &got[point][..2]);
            }
            match roi_from_landmarks(&got).filter(|_| at == 0) {
                Some(region) => {
                    let expected = FaceSlot::new(&region, 2);
                    assert_near(&next[at].roi, &expected.roi, 1e-3, 1.0, &"region");
                    assert_eq!(next[at].frame, 2);
                }
                None => assert_eq!(next[at], FaceSlot::PADDING),
            }
        }
        assert!(heads[0].presence > 0.9 && heads[1].presence == 0.0 && heads[2].presence < 0.1, "{heads:?}");
    });
}

// ---- JPEG ----

/// Runs a test where there is a GPU with nvJPEG.
fn with_jpeg_decoder(test: impl FnOnce(&Device, JpegDecoder)) {
    on_device(|device| match Nvjpeg::load(device.info().driver) {
        Ok(nvjpeg) => {
            println!("{nvjpeg:?}");
            let decoder = JpegDecoder::new(&nvjpeg, &device).unwrap_or_else(|error| panic!("{error}"));
            test(&device, decoder);
        }
        Err(error) => println!("not run: {error}"),
    });
}

/// The left upper part of a portrait, and it as a JPEG.
fn jpeg(width: u32, height: u32, sampling: SamplingFactor) -> (PictureLayout, Vec<u8>) {
    let portrait = golden::picture("one.png");
    let mut rgb = Vec::new();
    for y in 0..height {
        let row = (y % portrait.height * portrait.width) as usize;
        for x in 0..width {
            rgb.extend(&portrait.bytes[(row + (x % portrait.width) as usize) * 3..][..3]);
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.set_sampling_factor(sampling);
    encoder.encode(&rgb, width as u16, height as u16, jpeg_encoder::ColorType::Rgb).unwrap();
    (PictureLayout::packed(width, height, PixelFormat::Mjpg), bytes)
}

/// How far the device's levels are from the processor's, mean over the picture.
fn far_from_cpu(device: &Device, decoder: &mut JpegDecoder, layout: PictureLayout, bytes: &[u8]) -> f64 {
    let picture = Picture { layout, bytes };
    let (stream, len) = (Stream::new(device).unwrap(), (layout.width * layout.height * 3) as usize);
    // More than the picture, to see that no more is written.
    let out = buffer(device, &vec![0x5a_u8; len + 256]);
    // SAFETY: the room is there, and lives until it was read.
    unsafe { decoder.decode(&picture, out.ptr(), &stream) }.unwrap_or_else(|error| panic!("{error}"));
    let got = read(&out, 0);
    assert!(got[len..].iter().all(|&byte| byte == 0x5a), "written behind the picture");
    let mut cpu = Jpeg::default();
    let expected = cpu.decode(&picture).unwrap().bytes;
    got.iter().zip(expected).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / len as f64
}

#[test]
fn jpegs_are_decoded_as_on_the_processor() {
    with_jpeg_decoder(|device, mut decoder| {
        for sampling in [SamplingFactor::F_2_2, SamplingFactor::F_2_1, SamplingFactor::F_1_1] {
            for (width, height) in [(640, 480), (1920, 1080), (333, 251)] {
                let (layout, plain) = jpeg(width, height, sampling);
                let padded = [&plain[..], &[0; 999]].concat();
                for bytes in [&plain, &common::without_huffman_tables(&plain), &padded] {
                    let far = far_from_cpu(device, &mut decoder, layout, bytes);
                    println!("{width}x{height}, {sampling:?}: {far:.3} levels");
                    assert!(far <= 2.0, "{width}x{height}, {sampling:?}: {far}");
                }
            }
        }
    });
}

#[test]
fn jpegs_that_are_cut_or_of_another_size_are_that_pictures_error() {
    with_jpeg_decoder(|device, mut decoder| {
        let stream = Stream::new(device).unwrap();
        let (layout, whole) = jpeg(640, 480, SamplingFactor::F_2_1);
        let out = DeviceBuffer::<u8>::new(device, "a picture", 640 * 480 * 3).unwrap();
        let shorter = PictureLayout { height: 472, ..layout };
        let head_alone = [&whole[..700], &[0xff, 0xd9]].concat();
        let cases = [
            (layout, &whole[..whole.len() / 2]),
            (layout, &whole[..whole.len() - 2]),
            (layout, &whole[..200]),
            (layout, &whole[whole.len() / 2..]),
            (layout, &[]),
            (shorter, &whole),
        ];
        for (at, (announced, bytes)) in cases.into_iter().enumerate() {
            let picture = Picture { layout: announced, bytes };
            // SAFETY: nothing is decoded; the room would be there.
            let error = unsafe { decoder.decode(&picture, out.ptr(), &stream) }.unwrap_err();
            assert!(matches!(error, JpegError::Picture(_)), "case {at}: {error}");
            assert!(far_from_cpu(device, &mut decoder, layout, &whole) <= 2.0);
        }
        // What has an end and too little before it may be taken for a picture, and does no harm.
        // SAFETY: the room is there, and the host waits.
        let taken = unsafe { decoder.decode(&Picture { layout, bytes: &head_alone }, out.ptr(), &stream) };
        println!("a head with an end: {taken:?}");
        stream.synchronize().unwrap();
        assert_eq!(device.lost(), None);
    });
}

/// Cameras on bad cables send such pictures for hours.
#[test]
fn damaged_jpegs_do_no_harm() {
    with_jpeg_decoder(|device, mut decoder| {
        let (stream, mut random) = (Stream::new(device).unwrap(), Random(6));
        let (layout, whole) = jpeg(640, 480, SamplingFactor::F_2_1);
        let len = 640 * 480 * 3;
        let out = buffer(device, &vec![0x5a_u8; len + 256]);
        let (mut decoded, mut refused) = (0, 0);
        for _ in 0..500 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.next() % 20 {
                let at = random.next() as usize % bytes.len();
                bytes[at] = random.next() as u8;
            }
            // A part that did not arrive.
            let missing = random.next() as usize % 2000;
            let at = random.next() as usize % (bytes.len() - missing);
            bytes.drain(at..at + missing);
            // SAFETY: the room is there for the size that is announced, and the host waits.
            match unsafe { decoder.decode(&Picture { layout, bytes: &bytes }, out.ptr(), &stream) } {
                Ok(()) => decoded += 1,
                Err(error) => {
                    assert_eq!(error.severity(), Severity::Recoverable, "{error}");
                    refused += 1;
                }
            }
            stream.synchronize().unwrap();
        }
        println!("{decoded} were decoded, {refused} refused");
        assert!(decoded > 0 && refused > 0);
        assert!(read(&out, 0)[len..].iter().all(|&byte| byte == 0x5a), "written behind the picture");
        assert!(far_from_cpu(device, &mut decoder, layout, &whole) <= 2.0);
    });
}

#[test]
fn decoding_jpegs_goes_on_without_new_memory_and_gives_all_back() {
    with_jpeg_decoder(|device, mut decoder| {
        let (stream, nvjpeg) = (Stream::new(device).unwrap(), Nvjpeg::load(device.info().driver).unwrap());
        let jpegs = [SamplingFactor::F_2_1, SamplingFactor::F_2_2].map(|by| jpeg(1920, 1080, by));
        let outs = [(); 2].map(|()| DeviceBuffer::<u8>::new(device, "a picture", 1920 * 1080 * 3).unwrap());
        let (start, end) = (Event::new(device).unwrap(), Event::new(device).unwrap());
        let run = |decoder: &mut JpegDecoder, times: usize| {
            let mut millis = Vec::new();
            for at in 0..times {
                let (layout, bytes) = &jpegs[at / 2 % 2];
                stream.record(&start).unwrap();
                // SAFETY: the room is there, and lives on.
                unsafe { decoder.decode(&Picture { layout: *layout, bytes }, outs[at % 2].ptr(), &stream) }
                    .unwrap();
                stream.record(&end).unwrap();
                end.synchronize().unwrap();
                millis.push(end.millis_since(&start).unwrap());
            }
            millis.sort_by(f32::total_cmp);
            millis
        };
        run(&mut decoder, 8);
        let before = device.memory().unwrap().free;
        let millis = run(&mut decoder, 200);
        println!("1920x1080: p50 {:.3} ms, max {:.3} ms", millis[100], millis[199]);
        assert_eq!(device.memory().unwrap().free, before, "memory is taken for each picture");
        drop(decoder);
        let mut free = Vec::new();
        for _ in 0..20 {
            let mut decoder = JpegDecoder::new(&nvjpeg, device).unwrap();
            run(&mut decoder, 4);
            drop(decoder);
            free.push(device.memory().unwrap().free);
        }
        assert!(free[19] + (8 << 20) >= free[2], "{} then {}", free[2], free[19]);
    });
}

// ---- graphs ----

#[test]
fn a_graph_does_what_its_launches_do() {
    on_device(|device| {
        let (kernels, stream) = (kernels(&device), Stream::new(&device).unwrap());
        let layout = PictureLayout::packed(1280, 720, PixelFormat::Yuyv);
        let (ring, frame) = ring_with_frame("graph", layout);
        let _registered = RegisteredRing::new(&device, ring.memory()).unwrap();
        let picture = frame.picture();
        let pixels = DeviceBuffer::<u8>::new(&device, "a frame", layout.max_bytes()).unwrap();
        let frames = buffer(&device, &[Frame::new(pixels.ptr(), &layout).unwrap()]);
        let roi = Roi { cx: 640.0, cy: 360.0, width: 300.0, height: 300.0, rotation: 0.2 };
        let slots = buffer(&device, &[FaceSlot::new(&roi, 0)]);
        let len = 3 * CROP * CROP;
        let mut crop = poisoned(&device, len);
        let mut down = PinnedBuffer::<f32>::new(&device, "a download", len).unwrap();
        let work = |stream: &Stream, down: &mut PinnedBuffer<f32>| -> Result<(), CallError> {
            // SAFETY: all of it lives on, as large as the kernel takes it for, and the host waits before it reads.
            unsafe {
                stream.upload(picture.bytes, pixels.ptr())?;
                kernels.crop_faces(stream, frames.ptr(), slots.ptr(), 1, crop.ptr())?;
                stream.download(crop.ptr(), down, len)
            }
        };
        work(&stream, &mut down).unwrap();
        stream.synchronize().unwrap();
        let expected = down.to_vec();
        assert!(expected.iter().all(|value| value.is_finite()));
        let graph = stream.capture(|stream| work(stream, &mut down)).unwrap();
        let (start, end) = (Event::new(&device).unwrap(), Event::new(&device).unwrap());
        for _ in 0..3 {
            crop.write(&vec![f32::NAN; len]).unwrap();
            down.fill(f32::NAN);
            stream.record(&start).unwrap();
            // SAFETY: as above.
            unsafe { graph.launch(&stream) }.unwrap();
            stream.record(&end).unwrap();
            stream.synchronize().unwrap();
            assert!(down.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        println!("graph of upload, crop, download: {:.4} ms", end.millis_since(&start).unwrap());
        // Work that fails leaves a stream that works.
        let failed = stream.capture(|_| Err(CallError { call: "none", code: 1 }));
        assert_eq!(failed.err(), Some(CallError { call: "none", code: 1 }));
        stream.synchronize().unwrap();
        // SAFETY: as above.
        unsafe { graph.launch(&stream) }.unwrap();
        stream.synchronize().unwrap();
    });
}

// ---- opening, closing, faults ----

#[test]
fn what_doctor_says_of_the_device_is_so() {
    on_device(|device| {
        let Cuda::Found(found) = probe::machine().cuda else { panic!("there is a device") };
        println!("{found:?}");
        let (gpu, info) = (&found.gpus[0], device.info());
        assert_eq!((&gpu.name, gpu.memory), (&info.name, info.total_memory));
        assert_eq!((gpu.architecture.clone(), found.driver), (info.architecture(), info.driver.to_string()));
        assert!(found.compiler.unwrap().starts_with(&nvrtc(&device).version()));
    });
}

#[test]
fn one_thread_owns_the_device() {
    on_device(|device| {
        println!("{:?}, {:?}", device.info(), device.memory().unwrap());
        assert!(device.is_active().unwrap());
        assert_eq!(Device::open(0).err(), Some(DeviceError::ThreadInUse { ordinal: 0 }));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| Device::open(0).err());
            assert_eq!(other.join().unwrap(), Some(DeviceError::InUse { ordinal: 0 }));
        });
        let error = std::thread::scope(|scope| scope.spawn(|| Device::open(63).err()).join().unwrap());
        assert!(matches!(error, Some(DeviceError::Ordinal { ordinal: 63, .. })), "{error:?}");
        // Whatever holds a part of the device keeps it open.
        let stream = Stream::new(&device).unwrap();
        drop(device);
        assert_eq!(Device::open(0).err(), Some(DeviceError::ThreadInUse { ordinal: 0 }));
        drop(stream);
        assert!(Device::open(0).is_ok());
    });
}

#[test]
fn two_hundred_openings_leak_nothing() {
    on_device(|device| {
        drop(device);
        let layout = PictureLayout::packed(1280, 720, PixelFormat::Yuyv);
        let (ring, frame) = ring_with_frame("leak", layout);
        let (mut free, mut files) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let device = Device::open(0).unwrap();
            free.push(device.memory().unwrap().free);
            let (kernels, stream) = (kernels(&device), Stream::new(&device).unwrap());
            let _registered = RegisteredRing::new(&device, ring.memory()).unwrap();
            let pixels = DeviceBuffer::<u8>::new(&device, "frames", 64 << 20).unwrap();
            let _pinned = PinnedBuffer::<f32>::new(&device, "results", 1 << 20).unwrap();
            let (_event, frames) = (
                Event::new(&device).unwrap(),
                buffer(&device, &[Frame::new(pixels.ptr(), &layout).unwrap()]),
            );
            let out = poisoned(&device, 3 * 128 * 128);
            let graph = stream
                .capture::<CallError>(|stream| {
                    // SAFETY: all of it lives on, as large as the kernel takes it for.
                    unsafe {
                        stream.upload(frame.picture().bytes, pixels.ptr())?;
                        kernels.letterbox(stream, frames.ptr(), 1, 128, out.ptr())
                    }
                })
                .unwrap();
            // SAFETY: as above.
            unsafe { graph.launch(&stream) }.unwrap();
            stream.synchronize().unwrap();
            files.push(fs::read_dir("/proc/self/fd").unwrap().count());
        }
        let kinds: BTreeSet<_> = free.iter().map(|bytes| bytes >> 20).collect();
        println!("free at opening, MiB: {kinds:?}; files {:?}", files.iter().collect::<BTreeSet<_>>());
        // The first few may still find something of an earlier test; the leak of one buffer would be 12 GiB.
        assert!(free[199] + (8 << 20) >= free[10], "{} then {}", free[10], free[199]);
        assert!(files[199] <= files[10] + 2, "{} then {}", files[10], files[199]);
    });
}

#[test]
fn too_much_memory_and_impossible_launches_are_recoverable() {
    on_device(|device| {
        let total = device.info().total_memory as usize;
        match DeviceBuffer::<u8>::new(&device, "everything", 2 * total) {
            Err(MemoryError::Refused { what: "everything", source, .. }) => {
                assert_eq!((source.code, source.severity()), (2, Severity::Recoverable));
            }
            other => panic!("{other:?}"),
        }
        let program = nvrtc(&device).compile(POKE, &device.info().architecture()).unwrap();
        let (module, stream) = (Module::load(&device, &program).unwrap(), Stream::new(&device).unwrap());
        let touch = module.function(c"touch").unwrap();
        // SAFETY: the kernel takes no argument.
        let error = unsafe { module.launch(&stream, touch, ([1, 1, 1], 4096), []) }.unwrap_err();
        assert_eq!(error.severity(), Severity::Recoverable, "{error}");
        println!("launch with 4096 threads: {error}");
        assert_eq!(module.function(c"no such kernel").unwrap_err().code, 500);
        let error = Module::load(&device, &nvrtc(&device).compile(POKE, "sm_75").unwrap()).unwrap_err();
        println!("program for another architecture: {error}");
        assert_eq!((device.lost(), error.severity()), (None, Severity::Recoverable));
        // All goes on.
        // SAFETY: the kernel takes no argument.
        unsafe { module.launch(&stream, touch, ([1, 1, 1], 1), []) }.unwrap();
        stream.synchronize().unwrap();
        DeviceBuffer::<u8>::new(&device, "a little", 1 << 20).unwrap();
    });
}

const POKE: &str = "
    extern \"C\" __global__ void touch() {}
    extern \"C\" __global__ void poke(int *at) { *at = 7; }
    extern \"C\" __global__ void trap() { __trap(); }
";

/// In a process of its own: a broken device stays broken for all of it.
fn break_device(fault: &str) {
    let device = Device::open(0).unwrap();
    let layout = PictureLayout::packed(320, 240, PixelFormat::Grey);
    let (ring, _frame) = ring_with_frame(fault, layout);
    let registered = RegisteredRing::new(&device, ring.memory()).unwrap();
    let program = nvrtc(&device).compile(POKE, &device.info().architecture()).unwrap();
    let (module, stream) = (Module::load(&device, &program).unwrap(), Stream::new(&device).unwrap());
    let values = buffer(&device, &[1_u32; 16]);
    let address = DevicePtr::<u32>::new(8);
    let launched = match fault {
        // SAFETY: not at all, which is what is tested: in a process that ends with it.
        "illegal" => unsafe {
            let poke = module.function(c"poke").unwrap();
            module.launch(&stream, poke, ([1, 1, 1], 1), [youquanti_gpu::cuda::launch::argument(&address)])
        },
        // SAFETY: as above.
        _ => unsafe { module.launch(&stream, module.function(c"trap").unwrap(), ([1, 1, 1], 1), []) },
    };
    launched.unwrap();
    let error = stream.synchronize().unwrap_err();
    println!("{fault}: {error}");
    assert_eq!(error.severity(), Severity::Fatal);
    if fault == "illegal" {
        assert_eq!(error.code, 700);
    }
    let pipeline = error.in_stage("test");
    assert!(matches!(pipeline, youquanti_models::PipelineError::DeviceLost { stage: "test", .. }));
    // From now on every call gives that error, and none is made.
    assert_eq!(device.lost(), Some(error));
    assert_eq!(device.memory(), Err(error));
    assert_eq!(values.read(&mut [0; 16]), Err(error));
    assert!(matches!(DeviceBuffer::<u8>::new(&device, "more", 1), Err(MemoryError::Refused { .. })));
    drop((values, registered, module, stream));
    assert_eq!(RegisteredRing::new(&device, ring.memory()).err(), Some(MemoryError::Registered));
    drop(device);
    assert_eq!(Device::open(0).err(), Some(DeviceError::Lost { ordinal: 0 }));
    let path = ring.path().unwrap().to_owned();
    drop(ring);
    assert!(!path.exists(), "the ring's name is free, though its memory stays");
    println!("{fault}: as expected");
}

#[test]
fn an_illegal_address_and_a_trap_end_the_device_for_the_process() {
    if let Ok(fault) = std::env::var(FAULT) {
        return break_device(&fault);
    }
    on_device(|device| {
        drop(device);
        for fault in ["illegal", "trap"] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "an_illegal_address_and_a_trap_end_the_device_for_the_process",
                    "--nocapture",
                ])
                .env(FAULT, fault)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            println!("{text}");
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            assert!(text.contains(&format!("{fault}: as expected")), "{text}");
        }
        // Another process is not harmed.
        assert!(Device::open(0).is_ok());
    });
}
