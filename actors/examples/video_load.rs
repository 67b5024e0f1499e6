//! How much video this machine can write, and what happens beyond: a table in Markdown, as in `benches/results/video.md`.
//!
//!     cargo run --release -p youquanti-actors --example video_load [SECONDS] > benches/results/video.md
//!
//! Real actors, rings, recorder, FFmpeg and disk; nothing is sought in the pictures. The cameras show 30 pictures of two faces in
//! motion, made beforehand, in turn and in real time, so that what is measured is video: processor time is that of the whole
//! process and of its FFmpegs.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use image::codecs::jpeg::JpegEncoder;
use tokio::time::{Instant, Sleep};
use youquanti_actors::capture::scene::{SceneOptions, SceneSource};
use youquanti_actors::capture::{
    Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource,
};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::ledger::Consumer;
use youquanti_actors::messages::Delivery;
use youquanti_actors::pipeline::PipelinePlan;
use youquanti_actors::plane::CameraPlan;
use youquanti_actors::recorder::{OnFailure, RecordingPlan, RecordingRequest};
use youquanti_actors::session::{SessionHandle, SessionPlan};
use youquanti_actors::session_file::SessionOptions;
use youquanti_actors::supervision::{RestartPolicy, WhenExhausted};
use youquanti_actors::video::{Codec, VideoPlan, find_encoder};
use youquanti_models::{
    BackendInfo, CameraId, Clock, FrameFaces, FrameFlags, PictureLayout, Pipeline, PipelineError, PixelFormat,
};

/// Different pictures of a camera.
const PICTURES: u64 = 30;

/// Shows pictures in turn, in real time.
struct Reel {
    info: DeviceInfo,
    pictures: Arc<[Vec<u8>]>,
    clock: Arc<dyn Clock>,
    due: std::pin::Pin<Box<Sleep>>,
    next: u64,
    began: Option<Instant>,
}

impl CaptureDevice for Reel {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        let began = *self.began.get_or_insert_with(|| self.due.deadline());
        self.due.as_mut().reset(began + Duration::from_secs_f64(self.next as f64 / self.info.fps));
        std::task::ready!(self.due.as_mut().poll(cx));
        let picture = &self.pictures[(self.next % PICTURES) as usize];
        let (flags, bytes_used) = match slot {
            Some(slot) => {
                slot[..picture.len()].copy_from_slice(picture);
                (FrameFlags::default(), picture.len())
            }
            None => (FrameFlags::NO_SLOT, 0),
        };
        self.next += 1;
        let now = self.clock.now();
        Poll::Ready(Ok(Captured {
            driver_seq: self.next as u32,
            captured_at: now,
            received_at: now,
            bytes_used,
            flags,
        }))
    }
}

/// Looks at nothing.
struct Blind(BackendInfo);

impl Pipeline<Delivery> for Blind {
    fn info(&self) -> &BackendInfo {
        &self.0
    }

    fn has_room(&self) -> bool {
        false
    }

    fn submit(&mut self, _: Delivery) {}

    fn collect(&mut self, _: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        None
    }

    fn forget(&mut self, _: CameraId) {}
}

fn blind() -> BackendInfo {
    BackendInfo {
        backend: "none",
        device: String::new(),
        runtime: String::new(),
        models: Vec::new(),
        reason: "video alone is measured".to_owned(),
    }
}

/// The pictures of a scene, each made once.
fn pictures(width: u32, height: u32, format: PixelFormat) -> Result<Arc<[Vec<u8>]>, Box<dyn Error>> {
    let is_jpeg = format == PixelFormat::Mjpg;
    let options = SceneOptions {
        width,
        height,
        format: if is_jpeg { PixelFormat::Rgb24 } else { format },
        faces: 2,
        length: Some(PICTURES),
        pace: Pace::Lossless,
        ..SceneOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut scene = SceneSource::open(options, Arc::new(SystemClock))?;
        let mut all = Vec::new();
        for _ in 0..PICTURES {
            let mut picture = vec![0; scene.layout().max_bytes()];
            std::future::poll_fn(|cx| scene.poll_capture(cx, Some(&mut picture))).await?;
            if is_jpeg {
                let mut jpeg = Vec::new();
                JpegEncoder::new_with_quality(&mut jpeg, 85).encode(
                    &picture,
                    width,
                    height,
                    image::ColorType::Rgb8.into(),
                )?;
                picture = jpeg;
            }
            all.push(picture);
        }
        Ok(all.into())
    })
}

/// Processor time of this process and of its children that have ended, seconds: `utime` to `cstime` of proc(5).
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").ok_or("no stat")?.1.split(' ');
    let ticks: f64 = fields.skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

struct Load {
    codec: Codec,
    format: PixelFormat,
    size: (u32, u32),
    fps: f64,
    cameras: u16,
}

/// One row of the table.
fn measure(load: &Load, reel: &Arc<[Vec<u8>]>, length: Duration) -> Result<String, Box<dyn Error>> {
    let Load { codec, format, size: (width, height), fps, cameras } = *load;
    let folder = tempfile::Builder::new().prefix("video-load").tempdir_in(".")?;
    let rings = tempfile::tempdir_in("/dev/shm")?;
    let layout = PictureLayout::packed(width, height, format);
    let ffmpeg = if codec.keeps(format) { None } else { Some(find_encoder(codec, true)?) };
    let how = ffmpeg.as_ref().map_or("kept", |(_, encoder)| encoder.name);
    let plans = (0..cameras).map(|camera| {
        let (reel, info) = (
            Arc::clone(reel),
            DeviceInfo {
                driver: "reel".into(),
                name: "reel".into(),
                id: camera.to_string(),
                asked: Asked::default(),
                layout,
                fps,
                stamps: StampSource::Receipt,
                stamp_resolution: Duration::from_nanos(1),
                pace: Pace::Real,
                is_live: false,
                controls: Vec::new(),
            },
        );
        Ok(CameraPlan {
            name: format!("cam{camera}").parse()?,
            open: Arc::new(move |clock| {
                let due = Box::pin(tokio::time::sleep(Duration::ZERO));
                Ok(Box::new(Reel {
                    info: info.clone(),
                    pictures: Arc::clone(&reel),
                    clock,
                    due,
                    next: 0,
                    began: None,
                }))
            }),
            slots: 8,
            lossless: false,
            offsets: Arc::default(),
            video: Some(VideoPlan { codec, ffmpeg: ffmpeg.clone() }),
        })
    });
    let plan = SessionPlan {
        name: format!("load-{}", std::process::id()),
        cameras: plans.collect::<Result<_, Box<dyn Error>>>()?,
        pipelines: vec![PipelinePlan {
            cameras: (0..cameras).map(CameraId).collect(),
            build: Arc::new(|_, _| Ok(Box::new(Blind(blind())))),
            what: "none".to_owned(),
            built_within: Duration::from_secs(60),
            batch_wait: Duration::ZERO,
            core: None,
            max_faces: 1,
        }],
        expected_participants: None,
        recording: RecordingPlan {
            directory: folder.path().to_owned(),
            session_id: "load".to_owned(),
            session_name: "load".to_owned(),
            config_text: String::new(),
            software: "video_load".to_owned(),
            participant_names: Vec::new(),
            flush_interval: Duration::from_secs(1),
            options: SessionOptions::default(),
            on_failure: OnFailure::Stop,
        },
        record_from_start: Some(RecordingRequest {
            name: Some("load".to_owned()),
            ..RecordingRequest::default()
        }),
        synchrony: None,
        participant_names: Vec::new(),
        lsl: None,
        preview: None,
        discovery_dir: None,
        restarts: RestartPolicy {
            max_restarts: 3,
            window: Duration::from_secs(60),
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(1),
            when_exhausted: WhenExhausted::Degrade,
        },
        pipeline_timeout: Duration::from_secs(30),
        ring_dir: rings.path().to_owned(),
        trace_dir: None,
        duration: Some(length),
    };
    let before = processor_seconds()?;
    let mut session = SessionHandle::start(plan, Arc::new(SystemClock))?;
    let report = session.wait(length + Duration::from_secs(120)).ok_or("the session does not end")?;
    drop(session);
    let processor = processor_seconds()? - before;
    let seconds = report.stopped_at.saturating_since(report.started_at).as_secs_f64();
    let sum = |of: &dyn Fn(&youquanti_actors::session::CameraReport) -> u64| {
        report.cameras.iter().map(of).sum::<u64>()
    };
    let captured = sum(&|camera| camera.ledger.captured);
    let in_video = sum(&|camera| camera.ledger.consumers[Consumer::Video as usize].delivered);
    let index = sum(&|camera| camera.ledger.consumers[Consumer::Index as usize].delivered);
    let bytes: u64 = std::fs::read_dir(folder.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "mkv"))
        .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()))
        .sum();
    if !report.degraded.is_empty() {
        eprintln!("degraded: {:?}", report.degraded);
    }
    Ok(format!(
        "| {} | {how} | {} | {width}×{height} | {fps:.0} | {cameras} | {captured} | {in_video} ({:.0} %) | {:.2} | {:.1} | {} |",
        codec.name(),
        format.name(),
        100.0 * in_video as f64 / captured.max(1) as f64,
        processor / seconds,
        bytes as f64 / 1e6 / seconds,
        if index == captured { "complete" } else { "NOT complete" },
    ))
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(5.0), |text| text.parse::<f64>())?;
    println!(
        "| codec | encoder | camera sends | size | fps | cameras | captured | in the video | cores | MB/s | frame index |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let sizes = [(640, 480), (1280, 720), (1920, 1080)];
    for size in sizes {
        for format in [PixelFormat::Yuyv, PixelFormat::Mjpg] {
            let reel = pictures(size.0, size.1, format)?;
            let codecs: &[Codec] = match format {
                PixelFormat::Mjpg => &[Codec::Mjpeg, Codec::H264],
                _ => &[Codec::H264, Codec::H265, Codec::Mjpeg, Codec::Lossless],
            };
            for &codec in codecs {
                let many: &[u16] = if codec.keeps(format) { &[1, 8] } else { &[1, 2, 4] };
                for &cameras in many {
                    let load = Load { codec, format, size, fps: 30.0, cameras };
                    println!("{}", measure(&load, &reel, Duration::from_secs_f64(seconds))?);
                }
            }
        }
    }
    Ok(())
}
