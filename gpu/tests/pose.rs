//! Body pose on the processor against MediaPipe's own, `tests/golden/pose.json`.
//!
//! The two differ for two reasons: MediaPipe refines each point with a heat map, which the converted network does not have, and samples
//! pictures at 1/32 of a pixel, which moves the region by a pixel. Regions here are about 950 pixels long.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Rgb;
use common::golden::{self, folder, read_png};
use serde_json::Value;
use youquanti_gpu::cpu::pose::PoseSeeker;
use youquanti_gpu::testing::OwnedFrame;
use youquanti_models::{BodyPose, CameraId, FramePose, PictureLayout, PipelineError, PixelFormat};

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("pose.json")).unwrap()).unwrap()
}

fn seeker() -> PoseSeeker {
    PoseSeeker::new(None).unwrap_or_else(|error| panic!("{error}"))
}

fn look(seeker: &mut PoseSeeker, picture: &Rgb, seq: u64) -> FramePose {
    seeker.look(&picture.frame(seq)).unwrap_or_else(|error| panic!("{error}"))
}

/// A visibility above which a point is in plain view. What is hidden or outside is guessed, and moves a lot for a little.
const PLAIN: f32 = 0.9;

/// Points in plain view: largest and mean distance in the picture, largest difference of depth (pixels) and of visibility.
fn differences(ours: &BodyPose, theirs: &Value) -> [f32; 4] {
    let theirs: Vec<[f32; 4]> = serde_json::from_value(theirs.clone()).unwrap();
    let (mut most, mut sum, mut depth, mut visibility, mut seen) = (0f32, 0.0, 0f32, 0f32, 0.0);
    for (ours, theirs) in ours.points.iter().zip(&theirs).filter(|(_, theirs)| theirs[3] > PLAIN) {
        let distance = (ours[0] - theirs[0]).hypot(ours[1] - theirs[1]);
        (most, sum, seen) = (most.max(distance), sum + distance, seen + 1.0);
        depth = depth.max((ours[2] - theirs[2]).abs());
        visibility = visibility.max((ours[3] - theirs[3]).abs());
    }
    assert!(seen >= 10.0);
    [most, sum / seen, depth, visibility]
}

#[track_caller]
fn assert_near(what: &str, ours: &BodyPose, theirs: &Value) {
    let [most, mean, depth, visibility] = differences(ours, theirs);
    println!(
        "{what}: {mean:.1} px mean, {most:.1} px max; depth {depth:.0} px, visibility {visibility:.3} max"
    );
    assert!(mean < 14.0 && most < 26.0, "{what}: {mean} px mean, {most} px max");
    assert!(depth < 115.0 && visibility < 0.06, "{what}: depth {depth} px, visibility {visibility}");
}

#[test]
fn bodies_are_where_mediapipe_sees_them() {
    let expected = expected();
    let pictures = [
        ("photographer", golden::picture("photographer.png")),
        ("astronaut", read_png(&folder().join("../../models/portraits/astronaut.png"))),
        ("grid4", golden::picture("grid4.png")),
    ];
    for (name, picture) in pictures {
        let found = look(&mut seeker(), &picture, 0);
        let theirs = &expected["pictures"][name];
        assert!(found.detector_ran);
        assert_eq!(found.body.is_some(), !theirs.is_null(), "{name}");
        if let Some(body) = &found.body {
            assert!(found.presence > 0.9 && (0.5..=1.0).contains(&body.score), "{found:?}");
            assert_near(name, body, theirs);
        }
    }
}

/// The picture on grey, with its corner at (x, y).
fn moved(picture: &Rgb, [width, height]: [u32; 2], [x, y]: [usize; 2]) -> Rgb {
    let mut canvas = Rgb { width, height, bytes: vec![128; (width * height * 3) as usize] };
    let length = picture.width as usize * 3;
    for (row, from) in picture.bytes.chunks_exact(length).enumerate() {
        let to = ((row + y) * width as usize + x) * 3;
        canvas.bytes[to..to + length].copy_from_slice(from);
    }
    canvas
}

#[test]
fn a_body_that_moves_is_found_and_followed_on_the_frames_on_which_mediapipe_does() {
    let expected = &expected()["moving"];
    let picture = golden::picture("photographer.png");
    let (mut seeker, mut is_followed) = (seeker(), false);
    for (k, theirs) in expected["frames"].as_array().unwrap().iter().enumerate() {
        let found = look(&mut seeker, &moved(&picture, [640, 544], [8 * k, 2 * k]), k as u64);
        assert_eq!(found.body.is_some(), !theirs.is_null(), "frame {k}");
        assert_eq!(found.detector_ran, !is_followed, "frame {k}");
        if let Some(body) = &found.body {
            assert_near(&format!("frame {k}"), body, theirs);
        }
        is_followed = found.body.is_some();
    }
    assert!(is_followed);
    // Somebody else's picture: the body is lost, and looked for from the next frame on.
    let empty = Rgb { width: 640, height: 544, bytes: vec![128; 640 * 544 * 3] };
    let lost: Vec<_> = (20..22).map(|seq| look(&mut seeker, &empty, seq)).collect();
    assert!(lost.iter().all(|found| found.body.is_none()));
    assert_eq!(lost.iter().map(|found| found.detector_ran).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn every_format_shows_the_same_body_and_a_bad_picture_costs_itself_alone() {
    let picture = golden::picture("photographer.png");
    let mut seeker = seeker();
    let first = look(&mut seeker, &picture, 0).body.unwrap();
    for format in
        [PixelFormat::Bgr24, PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Grey, PixelFormat::Mjpg]
    {
        let mut seeker = self::seeker();
        let found = seeker.look(&picture.as_format(format, 0)).unwrap_or_else(|error| panic!("{error}"));
        let body = found.body.unwrap();
        let apart = |(a, b): (&[f32; 5], &[f32; 5])| (a[0] - b[0]).hypot(a[1] - b[1]);
        let plain = first.points.iter().zip(&body.points).filter(|(first, _)| first[3] > PLAIN);
        let most = plain.map(apart).fold(0.0, f32::max);
        println!("{}: {most:.1} px", format.name());
        assert!(most < 45.0, "{}: {most} px", format.name());
    }
    let layout = PictureLayout::packed(picture.width, picture.height, PixelFormat::Mjpg);
    let cut = OwnedFrame::new(CameraId(0), 1, layout, picture.jpeg()[..1000].to_vec());
    let error = seeker.look(&cut).unwrap_err();
    assert!(matches!(error, PipelineError::Picture { .. }), "{error}");
    let again = look(&mut seeker, &picture, 2);
    assert!(again.detector_ran && again.body.unwrap() == first);
}
