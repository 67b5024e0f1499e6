//! A session of eight cameras at 1080p30 with two faces each, in real time: how much of a core each of its threads takes.
//!
//! Cameras draw nothing and networks do not run: frames are slots that are handed on, faces are put in where the networks would
//! find them. All else is the session as it is. Then once more with the cameras' own JPEG kept as video.

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
use youquanti_actors::video::{Codec, VideoPlan};
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
            Some(bytes) if self.picture.is_empty() => (FrameFlags::default(), bytes.len()),
            Some(bytes) => {
                bytes[..self.picture.len()].copy_from_slice(&self.picture);
                (FrameFlags::default(), self.picture.len())
            }
            None => (FrameFlags::NO_SLOT, 0),
        };
        self.frames += 1;
        let driver_seq = self.frames - 1;
        Poll::Ready(Ok(Captured { driver_seq, captured_at: now, received_at: now, bytes_used, flags }))
    }
}

fn camera(name: String, picture: Arc<[u8]>, video: Option<Codec>) -> CameraPlan {
    let format = if picture.is_empty() { PixelFormat::Yuyv } else { PixelFormat::Mjpg };
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
        video: video.map(|codec| VideoPlan { codec, ffmpeg: None }),
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

fn plan(setup: &Setup, rings: &Path, picture: &Arc<[u8]>, video: Option<Codec>) -> SessionPlan {
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
        cameras: (0..CAMERAS).map(|k| camera(format!("cam{k}"), Arc::clone(picture), video)).collect(),
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

/// A picture as such cameras send it: smooth, with the noise of a sensor.
fn jpeg() -> Arc<[u8]> {
    let mut dice = Dice::new(1);
    let pixels = (0..1920 * 1080).flat_map(|at| {
        let (x, y) = (at % 1920, at / 1920);
        let noise = dice.below(25);
        [x / 8 + noise, y / 5 + noise, (x + y) / 12 + noise].map(|value| value.min(255) as u8)
    });
    let picture = image::RgbImage::from_vec(1920, 1080, pixels.collect()).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner().into()
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
    let jpeg = jpeg();
    let mut shares = BTreeMap::new();
    let mut counts = Vec::new();
    let cases = [("no video", None), ("own JPEG kept", Some(Codec::Mjpeg))];
    for (case, video) in cases {
        let picture = if video.is_some() { Arc::clone(&jpeg) } else { Arc::default() };
        let idle: Vec<_> = (0..CAMERAS).map(|_| Source::new(Pace::Real)).collect();
        let mut setup = Setup::new(&idle.iter().collect::<Vec<_>>(), Stub::free());
        let rings = tempfile::tempdir_in("/dev/shm").unwrap();
        setup.plan = plan(&setup, rings.path(), &picture, video);
        let session = setup.start();
        std::thread::sleep(WARM_UP);
        let (began, before) = (now(), threads());
        std::thread::sleep(Duration::from_secs_f64(seconds / 10.0));
        let early = resident_bytes();
        std::thread::sleep(Duration::from_secs_f64(seconds * 0.9));
        let (after, late) = (threads(), resident_bytes());
        let wall = now().saturating_since(began).as_secs_f64();
        for (name, time) in after {
            let used = time.saturating_sub(before.get(&name).copied().unwrap_or_default()).as_secs_f64();
            shares.entry(name).or_insert([0.0; 2])[usize::from(video.is_some())] = 100.0 * used / wall;
        }
        let (report, inspection) = setup.finish(session);
        let sum = |consumer: Consumer| -> u64 {
            report.cameras.iter().map(|it| it.ledger.consumers[consumer as usize].delivered).sum()
        };
        let captured: u64 = report.cameras.iter().map(|it| it.ledger.captured).sum();
        let expected = (CAMERAS as f64 * FPS * (wall + WARM_UP.as_secs_f64())).round();
        let faces: u64 = report.cameras.iter().map(|it| it.face_rows).sum();
        assert!(inspection.is_some_and(|it| it.ledger_closes));
        counts.push(vec![
            json!(case),
            json!(expected as u64),
            json!(captured),
            json!(sum(Consumer::Index)),
            json!(sum(Consumer::Pipeline)),
            json!(faces),
            json!(sum(Consumer::Video)),
            json!(early as f64 / 1e6),
            json!(late as f64 / 1e6),
        ]);
    }
    let recorder = shares["yq-recorder"];
    let mut shares: Vec<_> = shares.into_iter().filter(|(_, [off, on])| off + on > 0.05).collect();
    shares.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]));
    let rows: Vec<_> =
        shares.into_iter().map(|(name, [off, on])| vec![json!(name), json!(off), json!(on)]).collect();
    show("cameras_threads", &["thread", "% of a core, no video", "% of a core, own JPEG kept"], &rows);
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
    let met = if recorder[0] < GOAL_PERCENT { "met" } else { "NOT met" };
    println!(
        "\nrecorder, which writes results and index: {:.2} % of a core; goal below {GOAL_PERCENT} %: {met}. A JPEG has {} kB.",
        recorder[0],
        jpeg.len() / 1000
    );
}
