//! Video beside the session file, with a real FFmpeg: which frame of which file is which, whatever fails on the way. Cameras and
//! pipeline are stubs; each picture of theirs begins with the time of its receipt, so that it can be told from all others.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use image::codecs::jpeg::JpegEncoder;
use rustix::process::{Pid, Signal, kill_process};
use session_stub::*;
use youquanti_actors::capture::replay::{ReplaySource, Troubles, recorded_cameras};
use youquanti_actors::capture::{
    Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource,
};
use youquanti_actors::ffmpeg;
use youquanti_actors::ledger::{Consumer, DropReason};
use youquanti_actors::messages::{Delivery, EventKind};
use youquanti_actors::session::SessionHandle;
use youquanti_actors::session_file::{FrameRow, SessionReader, VideoRow};
use youquanti_actors::verdict::ReasonCode;
use youquanti_actors::video::{Codec, VideoPlan, find_encoder, segment_path};
use youquanti_models::{
    BackendInfo, CameraId, Clock, FrameFaces, FrameFlags, PictureLayout, Pipeline, PipelineError,
    PixelFormat, Timestamp,
};

fn plan(codec: Codec) -> Option<VideoPlan> {
    Some(VideoPlan { codec, ffmpeg: Some(find_encoder(codec, false).unwrap()) })
}

/// A session of one camera with video.
fn setup(source: &Arc<Source>, codec: Codec) -> Setup {
    let mut setup = Setup::new(&[source], Stub::free());
    setup.plan.cameras[0].video = plan(codec);
    setup
}

/// What FFmpeg writes to its standard output.
#[track_caller]
fn ffmpeg(input: &Path, words: &str) -> Vec<u8> {
    let output = Command::new(ffmpeg::find().unwrap())
        .args("-hide_banner -loglevel error -nostdin -i".split(' '))
        .arg(input)
        .args(words.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", input.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Presentation times of a video's packets, microseconds, in the order of the file.
fn times(video: &Path) -> Vec<u64> {
    let hashes = String::from_utf8(ffmpeg(video, "-map 0:v:0 -c copy -f framehash -")).unwrap();
    assert!(hashes.contains("#tb 0: 1/1000000\n"), "{hashes}");
    let packets = hashes.lines().filter(|line| !line.starts_with('#'));
    packets.map(|line| line.split(',').nth(2).unwrap().trim().parse().unwrap()).collect()
}

/// Frames that a video decodes to.
fn decoded(video: &Path) -> usize {
    ffmpeg(video, "-map 0:v:0 -fps_mode passthrough -pix_fmt gray -f rawvideo -vf crop=2:2:0:0 -").len() / 4
}

struct Recorded {
    file: PathBuf,
    frames: Vec<FrameRow>,
    video: Vec<VideoRow>,
}

impl Recorded {
    fn read(file: &Path) -> Self {
        let reader = SessionReader::open(file).unwrap();
        Self {
            file: file.to_owned(),
            frames: reader.frames(0, 0..reader.frame_count(0)).unwrap(),
            video: reader.video(0, 0..reader.video_count(0)).unwrap(),
        }
    }

    fn segment(&self, number: u32) -> PathBuf {
        segment_path(&self.file, "cam0", number)
    }

    /// Rows of each segment.
    fn segments(&self) -> BTreeMap<u32, Vec<VideoRow>> {
        let mut segments: BTreeMap<u32, Vec<VideoRow>> = BTreeMap::new();
        for &row in &self.video {
            segments.entry(row.segment).or_default().push(row);
        }
        segments
    }

    /// Every row has its frame in the file, with the stamp and the number that the frame index has, and the time of its
    /// packet is that of its stamp; files have no frames without a row.
    #[track_caller]
    fn check(&self) {
        let by_seq: BTreeMap<u64, &FrameRow> = self.frames.iter().map(|row| (row.seq, row)).collect();
        for (number, rows) in self.segments() {
            let file = self.segment(number);
            let numbers: Vec<_> = rows.iter().map(|row| row.frame).collect();
            assert_eq!(numbers, (0..rows.len() as u32).collect::<Vec<_>>(), "{number}");
            assert!(rows.is_sorted_by(|a, b| a.seq < b.seq), "{number}");
            for row in &rows {
                assert_eq!(by_seq[&row.seq].captured_at_ns, row.captured_at_ns, "{row:?}");
            }
            let origin = rows[0].captured_at_ns;
            let expected: Vec<_> = rows.iter().map(|row| (row.captured_at_ns - origin) / 1000).collect();
            assert_eq!(times(&file), expected, "{}", file.display());
            assert_eq!(decoded(&file), rows.len(), "{}", file.display());
        }
    }

    /// Every picture of a lossless video is the one of its row.
    #[track_caller]
    fn check_pictures(&self, layout: PictureLayout, pixels: &str) {
        let by_seq: BTreeMap<u64, &FrameRow> = self.frames.iter().map(|row| (row.seq, row)).collect();
        for (number, rows) in self.segments() {
            let words = format!("-map 0:v:0 -fps_mode passthrough -pix_fmt {pixels} -f rawvideo -");
            let raw = ffmpeg(&self.segment(number), &words);
            let pictures: Vec<_> = raw.chunks(layout.max_bytes()).collect();
            assert_eq!(pictures.len(), rows.len());
            for (row, picture) in rows.iter().zip(pictures) {
                let received_at = u64::from_le_bytes(picture[..8].try_into().unwrap());
                assert_eq!(received_at, by_seq[&row.seq].received_at_ns, "{layout:?} {row:?}");
            }
        }
    }
}

/// FFmpegs that this process has started and that run.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let all: Vec<i32> = lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    all.into_iter().filter_map(Pid::from_raw).collect()
}

#[track_caller]
fn ffmpeg_child() -> Pid {
    until("there is an FFmpeg", || children().len() == 1);
    children()[0]
}

#[track_caller]
fn video_delivered(session: &SessionHandle, frames: u64) {
    until("so many frames are in the video", || {
        camera(session, 0).consumers[Consumer::Video as usize].delivered >= frames
    });
}

#[test]
fn every_frame_of_a_lossless_video_is_the_one_that_its_row_says() {
    let _serial = serially();
    for (format, pixels) in [
        (PixelFormat::Yuyv, "yuyv422"),
        (PixelFormat::Nv12, "nv12"),
        (PixelFormat::Rgb24, "rgb24"),
        (PixelFormat::Bgr24, "bgr24"),
        (PixelFormat::Grey, "gray"),
    ] {
        let layout = PictureLayout::packed(64, 48, format);
        let source = Source::with_layout(Pace::Lossless, layout);
        source.frames(25);
        source.does(Act::End);
        let setup = setup(&source, Codec::Lossless);
        let mut session = setup.start();
        let report = session.wait(PATIENCE).unwrap();
        assert_eq!((report.degraded, report.imbalances), (vec![], vec![]), "{format:?}");
        let video = report.cameras[0].ledger.consumers[Consumer::Video as usize];
        assert_eq!((video.captured, video.delivered), (25, 25), "{format:?}");
        let recorded = Recorded::read(&setup.file());
        assert_eq!((recorded.video.len(), recorded.segments().len()), (25, 1));
        recorded.check();
        recorded.check_pictures(layout, pixels);
    }
}

#[test]
fn every_codec_gives_a_video_of_all_frames() {
    let _serial = serially();
    for codec in [Codec::H264, Codec::H265, Codec::Mjpeg] {
        // Odd, so that half the colour does not come out even.
        let layout = PictureLayout::packed(321, 241, PixelFormat::Rgb24);
        let source = Source::with_layout(Pace::Lossless, layout);
        source.frames(12);
        source.does(Act::End);
        let setup = setup(&source, codec);
        let report = setup.start().wait(PATIENCE).unwrap();
        assert_eq!(report.degraded, [""; 0], "{codec:?}");
        let recorded = Recorded::read(&setup.file());
        assert_eq!(recorded.video.len(), 12, "{codec:?}");
        recorded.check();
    }
}

#[test]
fn a_camera_that_comes_back_has_a_segment_of_its_own() {
    let _serial = serially();
    let source = Source::with_layout(Pace::Lossless, LAYOUT);
    let setup = setup(&source, Codec::Lossless);
    let session = setup.start();
    source.frames(7);
    settled(&session, 0, 7);
    source.does(Act::Fail("unplugged"));
    restarted(&session, 0, 1);
    source.frames(5);
    settled(&session, 0, 12);
    setup.finish(session);
    let recorded = Recorded::read(&setup.file());
    let lengths: Vec<_> = recorded.segments().values().map(Vec::len).collect();
    assert_eq!(lengths, [7, 5]);
    recorded.check();
    recorded.check_pictures(LAYOUT, "gray");
}

#[test]
fn each_recording_has_videos_of_its_own() {
    let _serial = serially();
    let source = Source::with_layout(Pace::Lossless, LAYOUT);
    let setup = setup(&source, Codec::Lossless).unrecorded();
    let session = setup.start();
    let frames = |total: u64| {
        source.frames(5);
        settled(&session, 0, total);
    };
    frames(5);
    for (name, total) in [("first", 10), ("second", 20)] {
        let file = session.start_recording(named(name)).unwrap().path;
        frames(total);
        session.stop_recording().unwrap();
        assert_eq!(children(), [], "FFmpeg outlives the recording");
        let recorded = Recorded::read(&file);
        let seqs: Vec<_> = recorded.video.iter().map(|row| row.seq).collect();
        assert_eq!(seqs, (total - 5..total).collect::<Vec<_>>());
        recorded.check();
        recorded.check_pictures(LAYOUT, "gray");
        frames(total + 5);
    }
    let (report, _) = setup.finish(session);
    assert_eq!(report.degraded, [""; 0]);
    assert_eq!(report.cameras[0].ledger.consumers[Consumer::Video as usize].captured, 10);
}

#[test]
fn an_ffmpeg_that_is_killed_costs_what_was_on_its_way() {
    let _serial = serially();
    let source = Source::with_layout(Pace::Lossless, LAYOUT);
    let setup = setup(&source, Codec::Lossless);
    let session = setup.start();
    let events = session.subscribe();
    source.frames(10);
    video_delivered(&session, 8);
    kill_process(ffmpeg_child(), Signal::KILL).unwrap();
    until("the video works again", || events.try_iter().any(|event| event.kind == EventKind::ChildRestarted));
    source.frames(10);
    settled(&session, 0, 20);
    let (report, _) = setup.finish(session);
    assert!(report.degraded[0].contains("FFmpeg ended: signal: 9"), "{:?}", report.degraded);
    assert!(report.degraded[0].contains("session.cam0.000.mkv has "), "{:?}", report.degraded);
    let recorded = Recorded::read(&setup.file());
    assert_eq!(recorded.frames.len(), 20, "the index suffers nothing");
    let video = report.cameras[0].ledger.consumers[Consumer::Video as usize];
    let lost = dropped(&video, DropReason::Failed);
    assert_eq!((video.delivered, video.delivered + lost), (recorded.video.len() as u64, 20), "{video:?}");
    assert!((1..=3).contains(&lost), "{video:?}");
    assert_eq!(recorded.segments().len(), 2);
    recorded.check();
    recorded.check_pictures(LAYOUT, "gray");
}

#[test]
fn an_encoder_that_is_too_slow_costs_video_and_nothing_else() {
    let _serial = serially();
    let layout = PictureLayout::packed(640, 480, PixelFormat::Yuyv);
    let source = Source::with_layout(Pace::Real, layout);
    let setup = setup(&source, Codec::H264);
    let session = setup.start();
    let mut captured = 0;
    let mut one_by_one = |frames: u64| {
        for _ in 0..frames {
            captured += 1;
            source.frames(1);
            settled(&session, 0, captured);
        }
    };
    one_by_one(3);
    let child = ffmpeg_child();
    kill_process(child, Signal::STOP).unwrap();
    one_by_one(40);
    kill_process(child, Signal::CONT).unwrap();
    let (report, inspection) = setup.finish(session);
    assert_eq!(report.degraded, [""; 0], "frames left out of a video are in the ledger, and no failure");
    let [pipeline, index, video, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, index.delivered, video.captured), (43, 43, 43));
    let refused = dropped(&video, DropReason::Full);
    // Pipes and mailbox hold a few of 600 kB each.
    assert!(refused >= 25, "{video:?}");
    assert_eq!(video.delivered + refused, 43, "{video:?}");
    let recorded = Recorded::read(&setup.file());
    assert_eq!(recorded.video.len() as u64, video.delivered);
    recorded.check();
    let ledger = inspection.unwrap().ledger;
    let of_video = ledger.iter().find(|row| row.consumer == "video").unwrap();
    assert_eq!((of_video.captured, of_video.delivered), (43, video.delivered));
}

#[test]
fn an_ffmpeg_that_stands_still_is_given_up() {
    let _serial = serially();
    let layout = PictureLayout::packed(640, 480, PixelFormat::Yuyv);
    let source = Source::with_layout(Pace::Real, layout);
    let setup = setup(&source, Codec::H264);
    let session = setup.start();
    let events = session.subscribe();
    source.frames(1);
    settled(&session, 0, 1);
    kill_process(ffmpeg_child(), Signal::STOP).unwrap();
    let mut captured = 1;
    until("the video works again", || {
        if captured < 20 {
            captured += 1;
            source.frames(1);
            settled(&session, 0, captured);
        }
        events.try_iter().any(|event| event.kind == EventKind::ChildRestarted)
    });
    let (report, _) = setup.finish(session);
    assert!(report.degraded[0].contains("FFmpeg stands still"), "{:?}", report.degraded);
    assert_eq!(report.cameras[0].ledger.consumers[Consumer::Index as usize].delivered, captured);
}

#[test]
fn a_video_that_cannot_be_written_ends_no_session() {
    let _serial = serially();
    let source = Source::with_layout(Pace::Lossless, LAYOUT);
    let setup = setup(&source, Codec::Lossless);
    // In the way of the first segment.
    fs::write(setup.dir.path().join("session.cam0.000.mkv"), "somebody's").unwrap();
    let session = setup.start();
    source.frames(10);
    settled(&session, 0, 10);
    let (report, _) = setup.finish(session);
    assert!(report.degraded[0].contains("cannot create"), "{:?}", report.degraded);
    assert!(report.verdict.reasons.iter().any(|reason| reason.code == ReasonCode::PartFailed));
    let video = report.cameras[0].ledger.consumers[Consumer::Video as usize];
    let recorded = Recorded::read(&setup.file());
    assert_eq!((recorded.frames.len(), recorded.video.len() as u64), (10, video.delivered));
    assert_eq!(fs::read(setup.dir.path().join("session.cam0.000.mkv")).unwrap(), b"somebody's");
}

/// A camera that sends JPEG: whole pictures of different lengths, a damaged one among them.
struct JpegCamera {
    info: DeviceInfo,
    pictures: Arc<[Vec<u8>]>,
    next: usize,
}

const DAMAGED: usize = 4;

impl CaptureDevice for JpegCamera {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        _: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        let Some(picture) = self.pictures.get(self.next) else {
            return Poll::Ready(Err(CaptureError::Ended { frames: self.next as u64, note: None }));
        };
        slot.unwrap()[..picture.len()].copy_from_slice(picture);
        let stamp = Timestamp(1_000_000_000 + 33_333_333 * self.next as u64);
        let flags = if self.next == DAMAGED { FrameFlags::DAMAGED } else { FrameFlags::default() };
        self.next += 1;
        Poll::Ready(Ok(Captured {
            driver_seq: self.next as u32,
            captured_at: stamp,
            received_at: stamp,
            bytes_used: picture.len(),
            flags,
        }))
    }
}

/// Looks at nothing.
struct Blind(BackendInfo, Option<Delivery>);

impl Default for Blind {
    fn default() -> Self {
        let info = BackendInfo {
            backend: "blind",
            device: String::new(),
            runtime: String::new(),
            models: Vec::new(),
            reason: String::new(),
        };
        Self(info, None)
    }
}

impl Pipeline<Delivery> for Blind {
    fn info(&self) -> &BackendInfo {
        &self.0
    }

    fn has_room(&self) -> bool {
        self.1.is_none()
    }

    fn submit(&mut self, frame: Delivery) {
        self.1 = Some(frame);
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        use youquanti_models::Frame;
        let frame = self.1.take()?;
        out.meta = *frame.meta();
        out.faces.clear();
        Some((frame, Ok(())))
    }

    fn forget(&mut self, _: CameraId) {}
}

#[test]
fn jpeg_of_a_camera_is_kept_byte_for_byte_without_ffmpeg() {
    let _serial = serially();
    let pictures: Arc<[Vec<u8>]> = (0..9u8)
        .map(|k| {
            let picture =
                image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8 * k, y as u8 * 3, 31 * k]));
            let mut jpeg = Vec::new();
            JpegEncoder::new_with_quality(&mut jpeg, 60 + k).encode_image(&picture).unwrap();
            jpeg
        })
        .collect();
    for codec in [Codec::Mjpeg, Codec::Lossless] {
        let source = Source::new(Pace::Lossless);
        let mut setup = Setup::new(&[&source], Stub::free());
        let sent = Arc::clone(&pictures);
        let info = DeviceInfo {
            driver: "test".to_owned(),
            name: "test".to_owned(),
            id: "0".to_owned(),
            asked: Asked::default(),
            layout: PictureLayout::packed(64, 48, PixelFormat::Mjpg),
            fps: 30.0,
            stamps: StampSource::Computed,
            stamp_resolution: Duration::from_nanos(1),
            pace: Pace::Lossless,
            is_live: false,
            controls: Vec::new(),
        };
        setup.plan.cameras[0].open = Arc::new(move |_: Arc<dyn Clock>| {
            Ok(Box::new(JpegCamera { info: info.clone(), pictures: Arc::clone(&sent), next: 0 }))
        });
        setup.plan.cameras[0].video = Some(VideoPlan { codec, ffmpeg: None });
        setup.plan.pipelines[0].build = Arc::new(|_, _| Ok(Box::new(Blind::default())));
        let report = setup.start().wait(PATIENCE).unwrap();
        assert_eq!(report.degraded, [""; 0]);
        let video = report.cameras[0].ledger.consumers[Consumer::Video as usize];
        assert_eq!((video.delivered, dropped(&video, DropReason::Damaged)), (8, 1));
        let recorded = Recorded::read(&setup.file());
        recorded.check();
        let whole: Vec<_> = (0..pictures.len()).filter(|&k| k != DAMAGED).collect();
        assert_eq!(recorded.video.iter().map(|row| row.seq as usize).collect::<Vec<_>>(), whole);
        let packets = ffmpeg(&recorded.segment(0), "-map 0:v:0 -c copy -f mjpeg -");
        let expected: Vec<u8> = whole.iter().flat_map(|&k| pictures[k].clone()).collect();
        assert!(packets == expected, "{codec:?}: other bytes than the camera's");

        // A replay shows them again as they are, with their stamps: kept once more, they are the same.
        let [camera] = &recorded_cameras(&setup.file(), false).unwrap()[..] else { panic!("one camera") };
        let (camera, troubles) = (camera.clone(), Troubles::default());
        assert_eq!((camera.frames, camera.left_out), (8, 1));
        let mut again = Setup::new(&[&source], Stub::free());
        let troubled = troubles.clone();
        again.plan.cameras[0].open = Arc::new(move |clock: Arc<dyn Clock>| {
            Ok(Box::new(ReplaySource::open(&camera, Pace::Lossless, troubled.clone(), clock)))
        });
        again.plan.cameras[0].video = Some(VideoPlan { codec, ffmpeg: None });
        again.plan.pipelines[0].build = Arc::new(|_, _| Ok(Box::new(Blind::default())));
        let report = again.start().wait(PATIENCE).unwrap();
        assert_eq!((&report.degraded[..], &troubles.list()[..]), (&[][..], &[][..]));
        let replayed = Recorded::read(&again.file());
        replayed.check();
        let stamps = |recorded: &Recorded| -> Vec<u64> {
            recorded.video.iter().map(|row| row.captured_at_ns).collect()
        };
        assert_eq!(stamps(&replayed), stamps(&recorded));
        let packets = ffmpeg(&replayed.segment(0), "-map 0:v:0 -c copy -f mjpeg -");
        assert!(packets == expected, "{codec:?}: replayed, they have other bytes");
    }
}
