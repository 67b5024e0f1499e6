//! What every back end must do. `conformance!(make)` makes one test of each point for the back end that
//! `make(&FaceOptions)` returns; `conformance!(make, missing)` does the same where `missing() -> Option<String>` does not say
//! why there is none on this machine. At most one pipeline is open at a time: a device belongs to one.

use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{Detector, DetectorSize, FaceOptions};
use youquanti_models::{
    CameraId, Face, FrameFaces, LANDMARK_COUNT, PictureLayout, Pipeline, PipelineError, PixelFormat,
};

use super::golden::{self, Golden};
use super::scene::{self, Clip, HEAD, Scene};
use super::{Rgb, options, without_huffman_tables};

/// One test of each point, for the back end that the function makes.
#[macro_export]
macro_rules! conformance {
    ($make:path) => {
        fn nothing_is_missing() -> Option<String> {
            None
        }
        conformance!($make, nothing_is_missing);
    };
    ($make:path, $missing:path) => {
        $crate::conformance!(@ $make, $missing:
            agrees_with_the_reference, agrees_with_mediapipe, finds_all_faces_of_the_pictures,
            follows_every_face_of_the_clips, sees_the_same_in_every_format, reads_jpeg_without_tables,
            takes_pictures_of_any_size, finds_sixteen_faces, finds_small_faces_in_4k,
            counts_faces_over_the_limit, survives_bad_frames, does_the_same_twice, keeps_cameras_apart,
            holds_one_frame_and_gives_it_back, accepts_a_change_of_size);
    };
    (@ $make:path, $missing:path: $($name:ident),*) => {
        $(#[test]
        fn $name() {
            match $missing() {
                None => $crate::common::conformance::$name($make),
                Some(missing) => println!("not tried here: {missing}"),
            }
        })*
    };
}

pub(crate) fn run<P: Pipeline<OwnedFrame>>(pipeline: &mut P, frame: OwnedFrame) -> FrameFaces {
    let mut out = FrameFaces::with_capacity(0);
    pipeline.submit(frame);
    pipeline.collect(&mut out).unwrap().1.unwrap_or_else(|error| panic!("{error}: {:?}", error));
    out
}

/// The same, as if the camera had shown nothing before.
fn run_anew<P: Pipeline<OwnedFrame>>(pipeline: &mut P, frame: OwnedFrame) -> FrameFaces {
    pipeline.forget(CameraId(0));
    run(pipeline, frame)
}

fn eye_mid(face: &Face) -> [f32; 2] {
    let ([x0, y0, _], [x1, y1, _]) = (face.landmarks[33], face.landmarks[263]);
    [(x0 + x1) / 2.0, (y0 + y1) / 2.0]
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// The face whose eyes are nearest, and how far away they are.
fn nearest(faces: &[Face], to: [f32; 2]) -> (&Face, f32) {
    let away = |face: &&Face| distance(eye_mid(face), to);
    let face = faces.iter().min_by(|a, b| away(a).total_cmp(&away(b))).expect("no faces");
    (face, away(&face))
}

/// Mean and largest distance in the picture.
fn differences(a: &[[f32; 3]; LANDMARK_COUNT], b: &[[f32; 3]; LANDMARK_COUNT]) -> (f32, f32) {
    let away = a.iter().zip(b).map(|(a, b)| distance([a[0], a[1]], [b[0], b[1]]));
    (away.clone().sum::<f32>() / LANDMARK_COUNT as f32, away.fold(0.0, f32::max))
}

fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}

const PICTURES: [&str; 4] = ["one", "grid4", "row4", "odd"];

pub(crate) fn agrees_with_the_reference<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let golden = Golden::load();
    for (detector, finder) in [(Detector::BlazeFaceShort, "short"), (Detector::BlazeFaceFull, "full")] {
        for name in PICTURES {
            let picture = golden::picture(&format!("{name}.png"));
            let mut pipeline = make(&options(picture.layout(), 4).with_detector(detector));
            let out = run(&mut pipeline, picture.frame(0));
            let meshes = golden.meshes(&format!("{name}/{finder}/landmarks"));
            let blendshapes = golden.rows::<52>(&format!("{name}/{finder}/blendshapes"));
            assert_eq!(out.faces.len(), meshes.len(), "{name}, {finder}");
            for (mesh, expected) in meshes.iter().zip(blendshapes) {
                let mid = [(mesh[33][0] + mesh[263][0]) / 2.0, (mesh[33][1] + mesh[263][1]) / 2.0];
                let (face, _) = nearest(&out.faces, mid);
                let (mean, max) = differences(&face.landmarks, mesh);
                assert!(mean <= 0.1 && max <= 1.0, "{name}, {finder}: {mean} px, at most {max} px");
                let depth =
                    face.landmarks.iter().zip(mesh).map(|(a, b)| (a[2] - b[2]).abs()).fold(0.0, f32::max);
                assert!(depth <= 1.0, "{name}, {finder}: z differs by {depth}");
                let difference =
                    median(face.blendshapes.iter().zip(expected).map(|(a, b)| (a - b).abs()).collect());
                assert!(difference <= 0.003, "{name}, {finder}: blendshapes differ by {difference}");
                println!("{name}, {finder}: landmarks {mean:.4} / {max:.4} px, blendshapes {difference:.5}");
            }
        }
    }
}

pub(crate) fn agrees_with_mediapipe<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let golden = Golden::load();
    for name in PICTURES {
        let picture = golden::picture(&format!("{name}.png"));
        let mut pipeline = make(&options(picture.layout(), 4).with_detector(Detector::BlazeFaceShort));
        let out = run(&mut pipeline, picture.frame(0));
        let matrices = golden.rows::<16>(&format!("{name}/mediapipe/matrices"));
        let meshes = golden.meshes(&format!("{name}/mediapipe/normalised"));
        assert_eq!(out.faces.len(), meshes.len(), "{name}");
        for (mesh, matrix) in meshes.iter().zip(matrices) {
            let mesh = mesh.map(|[x, y, z]| [x * picture.width as f32, y * picture.height as f32, z]);
            let mid = [(mesh[33][0] + mesh[263][0]) / 2.0, (mesh[33][1] + mesh[263][1]) / 2.0];
            let (face, _) = nearest(&out.faces, mid);
            let (mean, _) = differences(&face.landmarks, &mesh);
            assert!(mean <= 0.2, "{name}: {mean} px");
            let (rotation, translation) = pose_difference(&face.head_pose, matrix);
            assert!(rotation <= 1.0 && translation <= 0.02, "{name}: {rotation} degrees, {translation}");
            println!(
                "{name}: landmarks {mean:.4} px, pose {rotation:.4} degrees, {:.4} %",
                translation * 100.0
            );
        }
    }
}

/// Angle between the rotations in degrees, and distance of the positions as a part of the distance itself.
fn pose_difference(ours: &[[f32; 4]; 4], theirs: &[f32; 16]) -> (f32, f32) {
    let theirs = theirs.as_chunks::<4>().0;
    let trace: f32 = (0..3).map(|i| (0..3).map(|j| ours[i][j] * theirs[i][j]).sum::<f32>()).sum();
    let rotation = ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos().to_degrees();
    let (mut away, mut length) = (0.0, 0.0);
    for row in 0..3 {
        let metres = theirs[row][3] / 100.0;
        away += (ours[row][3] - metres).powi(2);
        length += metres.powi(2);
    }
    (rotation, (away / length).sqrt())
}

pub(crate) fn finds_all_faces_of_the_pictures<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let golden = Golden::load();
    for name in PICTURES {
        let picture = golden::picture(&format!("{name}.png"));
        let truth = golden.rows::<4>(&format!("{name}/truth"));
        let mut pipeline = make(&options(picture.layout(), 4));
        for seq in 0..3 {
            let out = run(&mut pipeline, picture.frame(seq));
            assert_eq!(out.faces.len(), truth.len(), "{name}");
            for &[cx, cy, ..] in truth {
                let (face, away) = nearest(&out.faces, [cx, cy]);
                assert!(away < 3.0, "{name}: eyes are {away} px from where they are");
                assert!(face.presence > 0.9 && face.score >= 0.6);
            }
        }
    }
}

pub(crate) fn follows_every_face_of_the_clips<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let golden = Golden::load();
    let scene = Scene::load();
    for (name, count) in [("one", 1), ("grid4", 4), ("row4", 4)] {
        let clip = Clip::new(&golden.index["clips"][name]);
        let layout = PictureLayout::packed(1280, 720, PixelFormat::Rgb24);
        let mut pipeline = make(&options(layout, count));
        let mut away = Vec::new();
        let mut tracks: Option<Vec<_>> = None;
        for frame in 0..clip.frames {
            let faces = clip.faces(frame);
            let picture = scene.draw(1280, 720, clip.ellipse, &faces);
            let out = run(&mut pipeline, picture.frame(frame as u64));
            assert_eq!(out.faces.len(), count, "{name}, frame {frame}");
            let mut ids = Vec::new();
            for face in &faces {
                let (found, distance) = nearest(&out.faces, [face.cx, face.cy]);
                away.push(distance);
                ids.push(found.track);
            }
            assert_eq!(
                *tracks.get_or_insert_with(|| ids.clone()),
                ids,
                "{name}, frame {frame}: tracks swapped"
            );
        }
        let mean = away.iter().sum::<f32>() / away.len() as f32;
        let max = away.iter().copied().fold(0.0, f32::max);
        println!("{name}: eyes are {mean:.3} px from the truth, at most {max:.3}");
        assert!(mean <= 1.5, "{name}: eyes are {mean} px from the truth");
    }
}

pub(crate) fn sees_the_same_in_every_format<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    for name in ["grid4", "odd"] {
        let picture = golden::picture(&format!("{name}.png"));
        // One pipeline for all: a GPU's takes half a minute to make.
        let mut pipeline = make(&options(picture.layout(), 4));
        let expected = run(&mut pipeline, picture.frame(0));
        for format in PixelFormat::ALL {
            for padding in [0, 34] {
                let out = run_anew(&mut pipeline, picture.as_format(format, padding));
                assert_eq!(out.faces.len(), expected.faces.len(), "{name} as {}", format.name());
                for face in &expected.faces {
                    let (mean, max) =
                        differences(&nearest(&out.faces, eye_mid(face)).0.landmarks, &face.landmarks);
                    println!("{name} as {}, padding {padding}: {mean:.3} / {max:.3} px", format.name());
                    let limit = match format {
                        PixelFormat::Rgb24 | PixelFormat::Bgr24 => 0.0,
                        PixelFormat::Grey => 2.5,
                        _ => 1.0,
                    };
                    assert!(mean <= limit, "{name} as {}: {mean} px", format.name());
                }
            }
        }
    }
}

pub(crate) fn reads_jpeg_without_tables<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let picture = golden::picture("one.png");
    let layout = PictureLayout::packed(picture.width, picture.height, PixelFormat::Mjpg);
    let complete = picture.jpeg();
    let stripped = without_huffman_tables(&complete);
    let mut faces = Vec::new();
    for jpeg in [complete, stripped] {
        let mut pipeline = make(&options(layout, 1));
        faces.push(run(&mut pipeline, OwnedFrame::new(CameraId(0), 0, layout, jpeg)).faces);
    }
    assert_eq!(faces[0].len(), 1);
    assert!(faces[0] == faces[1], "the same picture with and without tables");
}

pub(crate) fn takes_pictures_of_any_size<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    for detector in [Detector::YuNet, Detector::BlazeFaceShort] {
        let smallest = scene::background(1, 1).layout();
        let mut pipeline = make(&options(smallest, 1).with_detector(detector));
        for (width, height) in [(1, 1), (2, 3), (64, 48), (161, 97), (33, 720), (3840, 17)] {
            for format in PixelFormat::ALL {
                let out = run_anew(&mut pipeline, scene::background(width, height).as_format(format, 0));
                assert_eq!(out.faces.len(), 0, "{width}x{height} {}: there is no face", format.name());
                assert!(out.detector_ran);
            }
        }
    }
    // The smallest picture with a face in it.
    let scene = Scene::load();
    let face = scene::Face { portrait: 0, mirrored: false, cx: 32.0, cy: 20.0, eye: 15.0, angle: 0.0 };
    let picture = scene.draw(64, 48, HEAD, &[face]);
    let mut options = options(picture.layout(), 1);
    options.detector_size = DetectorSize::Auto { smallest_face_px: 20.0 };
    assert_eq!(run(&mut make(&options), picture.frame(0)).faces.len(), 1);
}

fn check_all_found(out: &FrameFaces, faces: &[scene::Face], limit: f32) {
    assert_eq!(out.faces.len(), faces.len());
    for face in faces {
        let away = nearest(&out.faces, [face.cx, face.cy]).1;
        assert!(away < limit, "eyes are {away} px from {face:?}");
    }
}

pub(crate) fn finds_sixteen_faces<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let faces = scene::crowd(4, 4, 1280, 720, 45.0);
    let picture = Scene::load().draw(1280, 720, HEAD, &faces);
    let mut pipeline = make(&options(picture.layout(), 16));
    for seq in 0..3 {
        check_all_found(&run(&mut pipeline, picture.frame(seq)), &faces, 2.0);
    }
}

pub(crate) fn finds_small_faces_in_4k<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    // YuNet's box is 1.42 times as wide as the outer eye corners are apart, or more: 60 px here, and one of 580.
    let mut faces = scene::crowd(5, 3, 1920, 2160, 42.5);
    faces.iter_mut().for_each(|face| face.cx += 1920.0);
    faces.push(scene::Face { portrait: 1, mirrored: false, cx: 960.0, cy: 1000.0, eye: 410.0, angle: 0.0 });
    let picture = Scene::load().draw(3840, 2160, HEAD, &faces);
    // One input for all of it, and several tiles.
    for max_side in [1280, 640] {
        let mut options = options(picture.layout(), 16);
        options.detector_max_side = max_side;
        options.detector_size = DetectorSize::Auto { smallest_face_px: 60.0 };
        let mut pipeline = make(&options);
        for seq in 0..2 {
            check_all_found(&run(&mut pipeline, picture.frame(seq)), &faces, 12.0);
        }
    }
}

pub(crate) fn counts_faces_over_the_limit<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let picture = golden::picture("row4.png");
    let mut pipeline = make(&options(picture.layout(), 3));
    let out = run(&mut pipeline, picture.frame(0));
    assert_eq!((out.faces.len(), out.over_limit, out.detector_ran), (3, 1, true));
    let out = run(&mut pipeline, picture.frame(1));
    assert_eq!((out.faces.len(), out.over_limit, out.detector_ran), (3, 0, false));
}

pub(crate) fn survives_bad_frames<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let picture = golden::picture("one.png");
    let good = picture.frame(0);
    let jpeg_layout = PictureLayout::packed(picture.width, picture.height, PixelFormat::Mjpg);
    let jpeg = picture.jpeg();
    let mut too_narrow = picture.layout();
    too_narrow.stride -= 1;
    let bad = |layout: PictureLayout, bytes: &[u8]| OwnedFrame::new(CameraId(0), 1, layout, bytes.to_vec());
    let wrong_size = PictureLayout { width: 640, ..jpeg_layout };
    let mut pipeline = make(&options(picture.layout(), 1));
    let expected = run(&mut pipeline, good.clone()).faces;
    for (what, frame) in [
        ("too few bytes", bad(picture.layout(), &picture.bytes[..1000])),
        ("no bytes", bad(picture.layout(), &[])),
        ("stride too short", bad(too_narrow, &picture.bytes)),
        ("no JPEG", bad(jpeg_layout, b"not a JPEG")),
        ("empty JPEG", bad(jpeg_layout, &[])),
        ("JPEG of another size", bad(wrong_size, &jpeg)),
        ("only a JPEG's head", bad(jpeg_layout, &jpeg[..200])),
    ] {
        let mut out = FrameFaces::with_capacity(1);
        pipeline.submit(frame);
        let (_, result) = pipeline.collect(&mut out).unwrap();
        assert!(matches!(result, Err(PipelineError::Picture { seq: 1, .. })), "{what}: {result:?}");
        pipeline.forget(CameraId(0));
        let again = run(&mut pipeline, good.clone()).faces;
        assert_eq!(again.len(), 1, "after {what}");
        assert!(again[0].landmarks == expected[0].landmarks, "after {what}");
    }
}

pub(crate) fn does_the_same_twice<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let golden = Golden::load();
    let scene = Scene::load();
    let clip = Clip::new(&golden.index["clips"]["grid4"]);
    let once = || {
        let layout = PictureLayout::packed(1280, 720, PixelFormat::Rgb24);
        let mut pipeline = make(&options(layout, 4));
        (0..14)
            .map(|frame| scene.draw(1280, 720, clip.ellipse, &clip.faces(frame)).frame(frame as u64))
            .flat_map(|frame| run(&mut pipeline, frame).faces)
            .collect::<Vec<_>>()
    };
    assert!(once() == once());
}

pub(crate) fn keeps_cameras_apart<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let picture = golden::picture("one.png");
    let layout = picture.layout();
    let frame = |camera: u16, seq| OwnedFrame::new(CameraId(camera), seq, layout, picture.bytes.clone());
    let mut options = options(layout, 1);
    options.track_ids = std::sync::Arc::new(youquanti_models::TrackIds::new(2));
    let mut pipeline = make(&options);
    let first = run(&mut pipeline, frame(0, 0));
    let second = run(&mut pipeline, frame(1, 0));
    assert!(second.detector_ran, "the other camera has no track yet");
    assert_ne!(first.faces[0].track, second.faces[0].track);
    let again = run(&mut pipeline, frame(0, 1));
    assert!(!again.detector_ran);
    assert_eq!(again.faces[0].track, first.faces[0].track);
    assert_eq!((again.meta.camera, again.meta.seq), (CameraId(0), 1));

    pipeline.forget(CameraId(0));
    let anew = run(&mut pipeline, frame(0, 2));
    assert!(anew.detector_ran && anew.faces[0].track != first.faces[0].track);
    assert_eq!(run(&mut pipeline, frame(1, 1)).faces[0].track, second.faces[0].track);

    // Also where the next frame is none.
    pipeline.forget(CameraId(0));
    pipeline.submit(OwnedFrame::new(CameraId(0), 3, layout, Vec::new()));
    let mut out = FrameFaces::with_capacity(1);
    assert!(matches!(pipeline.collect(&mut out), Some((_, Err(PipelineError::Picture { seq: 3, .. })))));
    let after = run(&mut pipeline, frame(0, 4));
    assert!(after.detector_ran && after.faces[0].track != anew.faces[0].track);
}

pub(crate) fn holds_one_frame_and_gives_it_back<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let picture = golden::picture("one.png");
    let mut pipeline = make(&options(picture.layout(), 1));
    let mut out = FrameFaces::with_capacity(1);
    assert!(pipeline.has_room());
    assert!(pipeline.collect(&mut out).is_none());
    for seq in 0..4 {
        assert!(pipeline.has_room());
        pipeline.submit(picture.frame(seq));
        let (frame, result) = pipeline.collect(&mut out).unwrap();
        assert!(result.is_ok());
        assert_eq!(youquanti_models::Frame::meta(&frame).seq, seq);
        let stamps = out.stamps;
        assert!(stamps.submitted <= stamps.uploaded && stamps.uploaded <= stamps.detected);
        assert!(stamps.detected <= stamps.landmarks && stamps.submitted < stamps.landmarks);
    }
    let info = pipeline.info();
    assert!(!info.device.is_empty() && !info.runtime.is_empty() && !info.reason.is_empty());
    assert!(
        info.models.len() >= 3 && info.models.iter().all(|(name, sha)| !name.is_empty() && sha.len() == 64)
    );
}

pub(crate) fn accepts_a_change_of_size<P: Pipeline<OwnedFrame>>(make: impl Fn(&FaceOptions) -> P) {
    let (large, small): (Rgb, Rgb) = (golden::picture("grid4.png"), golden::picture("odd.png"));
    let expected = run(&mut make(&options(large.layout(), 4)), large.frame(0));
    let mut pipeline = make(&options(small.layout(), 4));
    assert_eq!(run(&mut pipeline, small.frame(0)).faces.len(), 1);
    let changed = run(&mut pipeline, large.frame(1));
    assert_eq!(changed.faces.len(), 4);
    for (a, b) in changed.faces.iter().zip(&expected.faces) {
        assert!(a.landmarks == b.landmarks);
    }
    assert_eq!(run(&mut pipeline, small.as_format(PixelFormat::Nv12, 0).with_seq(2)).faces.len(), 1);
}
