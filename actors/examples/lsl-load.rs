//! A session under load that streams over LSL: real actors, simulated cameras, faces made of numbers that a reader can check.
//!
//!     lsl-load [--participants 6] [--cameras 2] [--fps 60] [--seconds 60] [--drop 0.05] [--mesh] [--quality]
//!              [--profile youquanti|youquantipy|both] [--name load] [--readers 1] [--truth FILE] [--restarts N]
//!
//! Face k of frame s has blendshape i = ((7 s + i + 100 k) mod 1000) / 1000, and is away in every third second of frames.
//! `--drop` loses frames at random before they reach this program, as a driver does. `--readers` starts that many processes
//! that take every stream of the faces; what they miss of the frames from their first to the session's last is counted. `--restarts` fails each camera so often on the way. `--truth` writes each camera's
//! stamps as its device gave them, JSON. At the end figures are printed, JSON: what was sent, lost and received, how long a
//! frame's rows took, and the share of one processor.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde_json::json;
use youquanti_actors::capture::scene::{SceneOptions, SceneSource};
use youquanti_actors::capture::{CaptureDevice, CaptureError, Captured, DeviceInfo};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::dice::Dice;
use youquanti_actors::lsl::LslPlan;
use youquanti_actors::messages::Delivery;
use youquanti_actors::pipeline::PipelinePlan;
use youquanti_actors::plane::CameraPlan;
use youquanti_actors::recorder::{OnFailure, RecordingPlan};
use youquanti_actors::session::{SessionHandle, SessionPlan};
use youquanti_actors::session_file::SessionOptions;
use youquanti_actors::supervision::{RestartPolicy, WhenExhausted};
use youquanti_lsl::{Inlet, Lsl, Resolver};
use youquanti_models::{
    BLENDSHAPE_COUNT, BackendInfo, CameraId, Clock, Face, Frame, FrameFaces, LANDMARK_COUNT, Pipeline,
    PipelineError, PixelFormat, TrackId,
};

/// First stamp, last stamp (seconds) and number of the samples of each stream.
type Received = BTreeMap<String, (f64, f64, u64)>;

/// Stamps of each camera: the driver's number and nanoseconds.
type Truth = Arc<Mutex<BTreeMap<String, Vec<(u32, u64)>>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--participants" => options.participants = value()?.parse()?,
            "--cameras" => options.cameras = value()?.parse()?,
            "--fps" => options.fps = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--drop" => options.drop = value()?.parse()?,
            "--mesh" => options.mesh = true,
            "--quality" => options.quality = true,
            "--profile" => options.profile = value()?,
            "--name" => options.name = value()?,
            "--readers" => options.readers = value()?.parse()?,
            "--restarts" => options.restarts = value()?.parse()?,
            "--truth" => options.truth = Some(value()?.into()),
            "--read" => return read(&value()?, options.participants, options.seconds),
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    options.run()
}

#[derive(Clone)]
struct Options {
    participants: u16,
    cameras: u16,
    fps: f64,
    seconds: u64,
    drop: f64,
    mesh: bool,
    quality: bool,
    profile: String,
    name: String,
    readers: usize,
    restarts: u32,
    truth: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            participants: 6,
            cameras: 2,
            fps: 60.0,
            seconds: 60,
            drop: 0.0,
            mesh: false,
            quality: false,
            profile: "youquanti".to_owned(),
            name: "load".to_owned(),
            readers: 0,
            restarts: 0,
            truth: None,
        }
    }
}

impl Options {
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let dir = std::env::temp_dir().join(format!("lsl-load-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        let truth = Truth::default();
        let mut session = SessionHandle::start(self.plan(dir.clone(), &truth), Arc::new(SystemClock))?;
        println!("streaming");
        let mut readers = self.start_readers()?;
        let cpu_before = cpu_seconds()?;
        let began = session.plane().clock.now();
        let report = loop {
            if let Some(report) = session.wait(Duration::from_millis(100)) {
                break report;
            }
            let elapsed = session.plane().clock.now().saturating_since(began).as_secs();
            if elapsed >= self.seconds {
                session.stop("time is up");
            }
        };
        let cpu = cpu_seconds()? - cpu_before;
        let wall = report.stopped_at.saturating_since(began).as_secs_f64();
        let counts = &session.plane().stream_counts;
        let figures = counts.figures(&session.plane().ledger.snapshot());
        let received: Vec<Received> = readers
            .iter_mut()
            .map(|reader| Ok(serde_json::from_str(&line_of(reader)?)?))
            .collect::<Result<_, Box<dyn Error>>>()?;
        let missing: Vec<u64> = received.iter().map(|received| self.missing(received, &truth)).collect();
        let quantile =
            |share| counts.row_time.snapshot().quantile(share).map(|time| time.as_secs_f64() * 1e3);
        println!(
            "{:#}",
            json!({
                "rows_sent": figures.rows,
                "samples_received": received.iter().map(|all| all.values().map(|of| of.2).sum::<u64>()).collect::<Vec<_>>(),
                "samples_missing": missing,
                "late": figures.late,
                "frames_lost": figures.frames_lost,
                "results_lost": figures.results_lost,
                "events_lost": figures.events_lost,
                "frame_ms": { "p50": quantile(0.5), "p99": quantile(0.99), "max": quantile(1.0) },
                "cpu_share": cpu / wall,
                "seconds": wall,
                "degraded": report.degraded,
                "restarts": report.cameras.iter().map(|camera| camera.restarts).collect::<Vec<_>>(),
                "driver_lost": report.cameras.iter().map(|camera| camera.ledger.driver_lost).collect::<Vec<_>>(),
            })
        );
        if let Some(file) = &self.truth {
            std::fs::write(
                file,
                serde_json::to_string(&*truth.lock().unwrap_or_else(PoisonError::into_inner))?,
            )?;
        }
        std::fs::remove_dir_all(dir)?;
        Ok(())
    }

    fn plan(&self, dir: PathBuf, truth: &Truth) -> SessionPlan {
        let faces = usize::from(self.participants.div_ceil(self.cameras));
        let cameras: Vec<_> = (0..self.cameras).map(|camera| self.camera(camera, truth)).collect();
        let pipeline = PipelinePlan {
            cameras: (0..self.cameras).map(CameraId).collect(),
            build: Arc::new(move |_, _| Ok(Box::new(Numbers::new(faces)))),
            what: "numbers".to_owned(),
            built_within: Duration::from_secs(60),
            batch_wait: Duration::ZERO,
            core: None,
            max_faces: faces,
        };
        let lsl = LslPlan {
            native: self.profile != "youquantipy",
            youquantipy: self.profile != "youquanti",
            mesh: self.mesh,
            quality: self.quality,
            markers: Vec::new(),
        };
        SessionPlan {
            name: format!("{}-{}", self.name, std::process::id()),
            cameras,
            pipelines: vec![pipeline],
            expected_participants: Some(self.participants),
            recording: RecordingPlan {
                directory: dir.clone(),
                session_id: "load".to_owned(),
                session_name: self.name.clone(),
                config_text: String::new(),
                software: "lsl-load".to_owned(),
                flush_interval: Duration::from_secs(1),
                options: SessionOptions::default(),
                on_failure: OnFailure::Stop,
                overridden: None,
            },
            record_from_start: None,
            required: Default::default(),
            lsl: Some(lsl),
            synchrony: None,
            participant_names: Vec::new(),
            restarts: RestartPolicy {
                max_restarts: 1000,
                window: Duration::from_secs(60),
                first_backoff: Duration::from_millis(10),
                longest_backoff: Duration::from_millis(50),
                when_exhausted: WhenExhausted::Degrade,
            },
            pipeline_timeout: Duration::from_secs(10),
            preview: None,
            pose: None,
            discovery_dir: None,
            ring_dir: dir,
            trace_dir: None,
            duration: None,
        }
    }

    fn camera(&self, camera: u16, truth: &Truth) -> CameraPlan {
        let (options, truth, fails) = (self.clone(), Arc::clone(truth), Arc::new(Mutex::new(self.restarts)));
        CameraPlan {
            name: format!("cam{camera}").parse().unwrap_or_else(|error| panic!("{error}")),
            open: Arc::new(move |clock| {
                let scene = SceneOptions {
                    width: 64,
                    height: 48,
                    fps: options.fps,
                    format: PixelFormat::Grey,
                    faces: 0,
                    ..SceneOptions::default()
                };
                Ok(Box::new(Lossy {
                    scene: SceneSource::open(scene, clock)?,
                    name: format!("cam{camera}"),
                    dice: Dice::new(u64::from(camera)),
                    drop: options.drop,
                    truth: Arc::clone(&truth),
                    fails: Arc::clone(&fails),
                    frames: 0,
                    life: (options.fps * options.seconds as f64 * 0.8 / f64::from(options.restarts + 1))
                        as u32,
                }))
            }),
            slots: 8,
            lossless: false,
            offsets: Arc::default(),
            video: None,
        }
    }

    /// Samples that a reader should have had from its first one on.
    fn missing(&self, received: &Received, truth: &Truth) -> u64 {
        let truth = truth.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = received.iter().map(|(name, &(first, _, count))| {
            let person: u16 = name[1..].split('_').next().and_then(|number| number.parse().ok()).unwrap_or(1);
            let stamps = &truth[&format!("cam{}", (person - 1) % self.cameras)];
            // A stamp in seconds is exact to a microsecond.
            let frames = stamps.iter().filter(|(_, at)| *at as f64 / 1e9 > first - 1e-6).count() as u64;
            frames.abs_diff(count)
        });
        missing.sum()
    }

    fn start_readers(&self) -> Result<Vec<Child>, Box<dyn Error>> {
        let mut readers = Vec::new();
        for _ in 0..self.readers {
            let (participants, seconds) = (self.participants.to_string(), self.seconds.to_string());
            let mut reader = Command::new(std::env::current_exe()?)
                .args(["--participants", &participants, "--seconds", &seconds, "--read", &self.name])
                .stdout(Stdio::piped())
                .spawn()?;
            // The first line says that it is connected.
            line_of(&mut reader)?;
            readers.push(reader);
        }
        Ok(readers)
    }
}

/// A line that a reader has printed.
fn line_of(reader: &mut Child) -> Result<String, Box<dyn Error>> {
    let out = reader.stdout.as_mut().ok_or("no pipe")?;
    // One byte at a time: nothing may be read ahead.
    let mut line = String::new();
    BufReader::with_capacity(1, out).read_line(&mut line)?;
    Ok(line)
}

/// Seconds of processor time of this process.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("/proc/self/stat")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Takes all samples of all participants until the streams end; prints a line when connected, and what came at the end.
fn read(session: &str, participants: u16, seconds: u64) -> Result<(), Box<dyn Error>> {
    let lsl = Lsl::load()?;
    let patience = Duration::from_secs(10);
    let resolver = Resolver::new(lsl, &format!("contains(source_id, '_{session}_P')"), patience)?;
    let (clock, mut found, mut looks) = (SystemClock, Vec::new(), 0);
    // Streams answer one after the other: complete when two looks find the same, and somebody of each participant.
    while looks < 2 || found.len() < usize::from(participants) {
        std::thread::sleep(Duration::from_millis(1000));
        let now = resolver.found();
        looks = if now.len() == found.len() { looks + 1 } else { 0 };
        found = now;
    }
    let mut inlets = Vec::new();
    for info in &found {
        inlets.push((info.name(), Inlet::open(info, 100_000, patience)?));
    }
    println!("connected");
    let mut received = Received::new();
    let began = clock.now();
    let mut last = began;
    while clock.now().saturating_since(last) < Duration::from_secs(2)
        && clock.now().saturating_since(began) < Duration::from_secs(seconds + 60)
    {
        for (name, inlet) in &mut inlets {
            while let Ok(samples) = inlet.pull()
                && let (Some(first), Some(newest)) = (samples.first(), samples.last())
            {
                let of = received.entry(name.clone()).or_insert((first.at, newest.at, 0));
                (of.1, of.2) = (newest.at, of.2 + samples.len() as u64);
                last = clock.now();
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{}", serde_json::to_string(&received)?);
    Ok(())
}

/// A scene whose driver loses frames at random, and which fails now and then.
struct Lossy {
    scene: SceneSource,
    name: String,
    dice: Dice,
    drop: f64,
    truth: Truth,
    fails: Arc<Mutex<u32>>,
    frames: u32,
    /// Frames until it fails.
    life: u32,
}

impl CaptureDevice for Lossy {
    fn describe(&self) -> &DeviceInfo {
        self.scene.describe()
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        mut slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        loop {
            let captured = ready!(self.scene.poll_capture(cx, slot.as_deref_mut()))?;
            if self.dice.unit() < self.drop {
                continue;
            }
            self.frames += 1;
            let mut fails = self.fails.lock().unwrap_or_else(PoisonError::into_inner);
            if *fails > 0 && self.frames > self.life {
                *fails -= 1;
                let source = std::io::Error::other("asked for");
                return Poll::Ready(Err(CaptureError::Driver { call: "dequeue", source }));
            }
            let mut truth = self.truth.lock().unwrap_or_else(PoisonError::into_inner);
            truth.entry(self.name.clone()).or_default().push((captured.driver_seq, captured.captured_at.0));
            return Poll::Ready(Ok(captured));
        }
    }
}

/// A pipeline whose faces are numbers.
struct Numbers {
    info: BackendInfo,
    faces: usize,
    frames: VecDeque<Delivery>,
}

impl Numbers {
    fn new(faces: usize) -> Self {
        let info = BackendInfo {
            backend: "numbers",
            device: "none".to_owned(),
            runtime: "none".to_owned(),
            models: vec![("numbers".to_owned(), "0".repeat(64))],
            reason: "asked for".to_owned(),
        };
        Self { info, faces, frames: VecDeque::new() }
    }
}

impl Pipeline<Delivery> for Numbers {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn has_room(&self) -> bool {
        self.frames.is_empty()
    }

    fn submit(&mut self, frame: Delivery) {
        self.frames.push_back(frame);
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        let frame = self.frames.pop_front()?;
        out.meta = *frame.meta();
        out.faces.clear();
        let (camera, seq) = (out.meta.camera, out.meta.seq);
        if seq / 60 % 3 != 2 {
            out.faces.extend((0..self.faces).map(|k| face(camera, k, seq)));
        }
        Some((frame, Ok(())))
    }

    fn forget(&mut self, _: CameraId) {}
}

/// Face `k` of a frame: always the same track at the same place, turned a little.
fn face(camera: CameraId, k: usize, seq: u64) -> Face {
    let (x, (sin, cos)) = (400.0 * k as f32, 0.2_f32.sin_cos());
    let value = |i: usize| ((7 * seq + i as u64 + 100 * k as u64) % 1000) as f32 / 1000.0;
    Face {
        track: TrackId(u32::from(camera.0) * 100 + k as u32),
        score: 0.9,
        bbox: [x, 0.0, x + 100.0, 100.0],
        presence: 0.75,
        sharpness: None,
        landmarks: std::array::from_fn::<_, LANDMARK_COUNT, _>(|point| [x + point as f32, 1.0, -1.0]),
        blendshapes: std::array::from_fn::<_, BLENDSHAPE_COUNT, _>(value),
        head_pose: [
            [cos, 0.0, sin, 0.01],
            [0.0, 1.0, 0.0, 0.02],
            [-sin, 0.0, cos, -0.6],
            [0.0, 0.0, 0.0, 1.0],
        ],
    }
}
