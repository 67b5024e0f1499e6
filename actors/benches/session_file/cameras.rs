//! A session of eight cameras at 1080p30 with two faces each, in real time: how much of a core each of its threads takes.
//!
//! Cameras draw nothing and networks do not run: frames are slots that are handed on, faces are put in where the networks would
//! find them. All else is the session as it is. Then with the cameras' own JPEG kept as video, and with FFmpeg's H.264, which takes
//! more than a small machine has: what happens then is in the counts.

use std::collections::{BTreeMap, VecDeque};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Interval, interval};
use youquanti_actors::capture::{
    Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource,
};
use youquanti_actors::dice::Dice;
use youquanti_actors::ledger::Consumer;
use youquanti_actors::messages::Delivery;
use youquanti_actors::plane::CameraPlan;
use youquanti_actors::recorder::RecordingPlan;
use youquanti_actors::session::SessionPlan;
use youquanti_actors::session_file::SessionOptions;
use youquanti_actors::video::{Codec, VideoPlan, find_encoder};
use youquanti_models::{
    BackendInfo, Clock, Frame, FrameFaces, FrameFlags, PictureLayout, Pipeline, PipelineError, PixelFormat,
};

use super::measure::{now, processor_time, resident_bytes, show};
use super::rows::Rows;
use super::session_stub::{Setup, Source, Stub};

const CAMERAS: usize = 8;
const FACES: u32 = 2;
const FPS: f64 = 30.0;
/// Goal for the recorder, video off.
const GOAL_PERCENT: f64 = 5.0;
/// Bytes of a picture that tell it from an empty slot.
const HEAD: usize = 1024;
/// Before anything is measured: files are made, threads are up.
const WARM_UP: Duration = Duration::from_secs(2);

/// A camera that gives the same picture on time.
struct Camera {
    info: DeviceInfo,
    ticks: Interval,
    picture: Arc<[u8]>,
    clock: Arc<dyn Clock>,
    frames: u32,
}

impl CaptureDevice for Camera {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        ready!(self.ticks.poll_tick(cx));
        let now = self.clock.now();
        let (flags, bytes_used) = match slot {
            Some(bytes) => {
                // A driver writes by itself: a slot that has the picture is left alone.
                let slot = &mut bytes[..self.picture.len()];
                if slot[..HEAD] != self.picture[..HEAD] {
                    slot.copy_from_slice(&self.picture);
                }
                (FrameFlags::default(), self.picture.len())
            }
            None => (FrameFlags::NO_SLOT, 0),
        };
        self.frames += 1;
        let driver_seq = self.frames - 1;
        Poll::Ready(Ok(Captured { driver_seq, captured_at: now, received_at: now, bytes_used, flags }))
    }
}

fn camera(name: String, case: &Case) -> CameraPlan {
    let (format, picture) = (case.format, Arc::clone(&case.picture));
    CameraPlan {
        name: name.parse().unwrap(),
        open: Arc::new(move |clock| {
            let info = DeviceInfo {
                driver: "bench".to_owned(),
                name: "bench".to_owned(),
                id: "0".to_owned(),
                asked: Asked::default(),
                layout: PictureLayout::packed(1920, 1080, format),
                fps: FPS,
                stamps: StampSource::Computed,
                stamp_resolution: Duration::from_nanos(1),
                pace: Pace::Real,
                is_live: true,
                controls: Vec::new(),
            };
            let ticks = interval(Duration::from_secs_f64(1.0 / FPS));
            Ok(Box::new(Camera { info, ticks, picture: Arc::clone(&picture), clock, frames: 0 }))
        }),
        slots: 6,
        lossless: false,
        offsets: Arc::default(),
        video: case.video.clone(),
    }
}

/// A back end that knows the faces beforehand.
struct Injected {
    info: BackendInfo,
    rows: Arc<Rows>,
    frames: VecDeque<Delivery>,
}

impl Pipeline<Delivery> for Injected {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn has_room(&self) -> bool {
        self.frames.len() < CAMERAS
    }

    fn submit(&mut self, frame: Delivery) {
        self.frames.push_back(frame);
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        let frame = self.frames.pop_front()?;
        out.meta = *frame.meta();
        self.rows.fill(out, FACES);
        Some((frame, Ok(())))
    }

    fn forget(&mut self, _: youquanti_models::CameraId) {}
}

fn plan(setup: &Setup, rings: &Path, case: &Case) -> SessionPlan {
    let rows = Arc::new(Rows::made_up());
    let mut pipeline = setup.plan.pipelines[0].clone();
    pipeline.max_faces = FACES as usize;
    pipeline.build = Arc::new(move |_, _| {
        let info = BackendInfo {
            backend: "injected",
            device: "none".to_owned(),
            runtime: "none".to_owned(),
            models: Vec::new(),
            reason: "nothing is to be measured but the rest".to_owned(),
        };
        Ok(Box::new(Injected { info, rows: Arc::clone(&rows), frames: VecDeque::with_capacity(CAMERAS) }))
    });
    SessionPlan {
        cameras: (0..CAMERAS).map(|k| camera(format!("cam{k}"), case)).collect(),
        pipelines: vec![pipeline],
        recording: RecordingPlan {
            flush_interval: Duration::from_secs(1),
            options: SessionOptions::default(),
            ..setup.plan.recording.clone()
        },
        preview: None,
        ring_dir: rings.to_owned(),
        ..setup.plan.clone()
    }
}

/// What is done with the pictures.
struct Case {
    name: &'static str,
    format: PixelFormat,
    picture: Arc<[u8]>,
    video: Option<VideoPlan>,
}

fn cases() -> [Case; 3] {
    let mut dice = Dice::new(1);
    let mut pixel = |at: usize, of_height: usize| {
        // Smooth, with the noise of a sensor.
        (((at % 1920) / 8 + (at / 1920) / of_height) / 2 + dice.below(25)).min(255) as u8
    };
    let pixels = (0..1920 * 1080).flat_map(|at| [5, 7, 9].map(|of_height| pixel(at, of_height))).collect();
    let mut jpeg = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_vec(1920, 1080, pixels).unwrap();
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let yuyv: Arc<[u8]> = (0..1920 * 1080).flat_map(|at| [pixel(at, 5), 128]).collect();
    let case = |name, format, picture, video| Case { name, format, picture, video };
    let kept = VideoPlan { codec: Codec::Mjpeg, ffmpeg: None };
    let encoded = VideoPlan { codec: Codec::H264, ffmpeg: Some(find_encoder(Codec::H264, false).unwrap()) };
    [
        case("no video", PixelFormat::Yuyv, Arc::clone(&yuyv), None),
        case("own JPEG kept", PixelFormat::Mjpg, jpeg.into_inner().into(), Some(kept)),
        case("H.264", PixelFormat::Yuyv, yuyv, Some(encoded)),
    ]
}

/// Processor time of FFmpeg and whatever else was started and has ended.
fn children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name in brackets, which may hold anything: cutime and cstime, in hundredths of a second.
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    [14, 15].iter().map(|&at| Duration::from_millis(10 * fields[at].parse::<u64>().unwrap())).sum()
}

/// Processor time of every thread of this process so far, by its name without the number in it.
fn threads() -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // A thread may end while it is looked at.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        let Some(time) = processor_time(&task) else { continue };
        let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit());
        *times.entry(name.to_owned()).or_default() += time;
    }
    times
}

pub(crate) fn run(seconds: f64) {
    println!(
        "{CAMERAS} cameras, 1920x1080 at {FPS} fps, {FACES} faces each, for {seconds} s; per cent of one core"
    );
    let cases = cases();
    let (mut shares, mut counts) = (BTreeMap::new(), Vec::new());
    for (at, case) in cases.iter().enumerate() {
        let seconds = if case.video.is_some() { seconds / 3.0 } else { seconds };
        let idle: Vec<_> = (0..CAMERAS).map(|_| Source::new(Pace::Real)).collect();
        let mut setup = Setup::new(&idle.iter().collect::<Vec<_>>(), Stub::free());
        let rings = tempfile::tempdir_in("/dev/shm").unwrap();
        setup.plan = plan(&setup, rings.path(), case);
        let others = children();
        let session = setup.start();
        std::thread::sleep(WARM_UP);
        let (began, before) = (now(), threads());
        std::thread::sleep(Duration::from_secs_f64(seconds / 10.0));
        let early = resident_bytes();
        std::thread::sleep(Duration::from_secs_f64(seconds * 0.9));
        let (after, late) = (threads(), resident_bytes());
        let wall = now().saturating_since(began).as_secs_f64();
        let mut add = |name: String, used: Duration, wall: f64| {
            shares.entry(name).or_insert([0.0; 3])[at] = 100.0 * used.as_secs_f64() / wall;
        };
        for (name, time) in after {
            let used = time.saturating_sub(before.get(&name).copied().unwrap_or_default());
            add(name, used, wall);
        }
        let (report, inspection) = setup.finish(session);
        add("FFmpeg".to_owned(), children() - others, wall + WARM_UP.as_secs_f64());
        assert!(inspection.is_some_and(|it| it.ledger_closes));
        let sum = |consumer: Consumer| -> u64 {
            report.cameras.iter().map(|it| it.ledger.consumers[consumer as usize].delivered).sum()
        };
        let due = (CAMERAS as f64 * FPS * (wall + WARM_UP.as_secs_f64())).round() as u64;
        let captured: u64 = report.cameras.iter().map(|it| it.ledger.captured).sum();
        let faces: u64 = report.cameras.iter().map(|it| it.face_rows).sum();
        counts.push(vec![
            json!(case.name),
            json!(due),
            json!(captured),
            json!(sum(Consumer::Index)),
            json!(sum(Consumer::Pipeline)),
            json!(faces),
            json!(sum(Consumer::Video)),
            json!(early as f64 / 1e6),
            json!(late as f64 / 1e6),
        ]);
    }
    let recorder = shares["yq-recorder"][0];
    let mut shares: Vec<_> =
        shares.into_iter().filter(|(_, shares)| shares.iter().sum::<f64>() > 0.05).collect();
    shares.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]));
    let rows: Vec<_> = shares
        .into_iter()
        .map(|(name, shares)| std::iter::once(json!(name)).chain(shares.map(|share| json!(share))).collect())
        .collect();
    show("cameras_threads", &["thread", cases[0].name, cases[1].name, cases[2].name], &rows);
    let columns = [
        "case",
        "due",
        "captured",
        "in the index",
        "analysed",
        "faces",
        "in the video",
        "MB resident at 10 %",
        "MB resident at the end",
    ];
    show("cameras_counts", &columns, &counts);
    let met = if recorder < GOAL_PERCENT { "met" } else { "NOT met" };
    println!(
        "\nrecorder, which writes results and index, without video: {recorder:.2} % of a core; goal below {GOAL_PERCENT} %: {met}. \
         A JPEG has {} kB.",
        cases[1].picture.len() / 1000
    );
}
