//! A session without hardware and without networks: cameras that do what a test tells them, and a pipeline
//! that finds faces where the test put them. Nothing here waits for time: cameras deliver what is on their
//! list and then nothing, the pipeline can be held at a gate.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tempfile::TempDir;
use youquanti_actors::capture::{
    Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, StampSource,
};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::ledger::{CameraSnapshot, Consumer, ConsumerSnapshot, DropReason};
use youquanti_actors::messages::Delivery;
use youquanti_actors::pipeline::{BuildError, PipelinePlan};
use youquanti_actors::plane::CameraPlan;
use youquanti_actors::preview::PreviewPlan;
use youquanti_actors::recorder::{OnFailure, RecordingPlan, RecordingRequest};
use youquanti_actors::session::{Required, SessionHandle, SessionPlan, SessionReport, StartError};
use youquanti_actors::session_file::{Inspection, SessionOptions, SessionReader};
use youquanti_actors::supervision::{RestartPolicy, WhenExhausted};
use youquanti_models::face::{BLENDSHAPE_COUNT, Face, LANDMARK_COUNT};
use youquanti_models::{
    BackendInfo, CameraId, Clock, Frame, FrameFaces, FrameFlags, PictureLayout, Pipeline, PipelineError,
    PixelFormat, Timestamp, TrackId,
};

/// Pictures of all cameras, unless a test says otherwise.
pub(crate) const LAYOUT: PictureLayout = PictureLayout::packed(64, 48, PixelFormat::Grey);

/// How long a test waits for what must come. Never a measure of anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Faces of every frame.
pub(crate) const FACES: usize = 2;

/// What a camera does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// So many good frames.
    Frames(u64),
    /// So many good frames, each stamped so many nanoseconds away from its receipt.
    Stamped(u64, i64),
    /// A frame that the driver marks as damaged.
    Damaged,
    /// The driver loses so many frames.
    Lose(u32),
    /// The device fails.
    Fail(&'static str),
    /// The source comes to its end.
    End,
    /// The device's code panics.
    Panic,
    /// The device's code does not come back before the gate is opened.
    Hang(Arc<Gate>),
}

/// Something that is shut until it is opened; each passage uses up one opening, unless it is open for good.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    openings: Mutex<u64>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open(&self, passages: u64) {
        let mut openings = lock(&self.openings);
        *openings = openings.saturating_add(passages);
        self.opened.notify_all();
    }

    pub(crate) fn open_for_good(&self) {
        self.open(u64::MAX);
    }

    /// Blocks until it is open.
    pub(crate) fn pass(&self) {
        let mut openings = lock(&self.openings);
        while *openings == 0 {
            openings = self.opened.wait(openings).unwrap_or_else(PoisonError::into_inner);
        }
        if *openings < u64::MAX {
            *openings -= 1;
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A camera's list of things to do. Outlives the devices that are opened on it.
pub(crate) struct Source {
    script: Mutex<Script>,
    pace: Pace,
    layout: PictureLayout,
    is_live: bool,
}

#[derive(Default)]
struct Script {
    acts: VecDeque<Act>,
    /// Times that opening fails before it works again.
    closed: u32,
    opened: u32,
    waker: Option<Waker>,
}

impl Source {
    pub(crate) fn new(pace: Pace) -> Arc<Self> {
        Self::with_layout(pace, LAYOUT)
    }

    pub(crate) fn with_layout(pace: Pace, layout: PictureLayout) -> Arc<Self> {
        Arc::new(Self { script: Mutex::default(), pace, layout, is_live: false })
    }

    /// A camera that sends frames whether or not anybody asks.
    pub(crate) fn live() -> Arc<Self> {
        Arc::new(Self { script: Mutex::default(), pace: Pace::Real, layout: LAYOUT, is_live: true })
    }

    /// Puts one more thing on the list.
    pub(crate) fn does(&self, act: Act) {
        let mut script = lock(&self.script);
        script.acts.push_back(act);
        if let Some(waker) = script.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn frames(&self, count: u64) {
        self.does(Act::Frames(count));
    }

    /// Lets the next openings fail.
    pub(crate) fn refuses(&self, times: u32) {
        lock(&self.script).closed = times;
    }

    /// How often it was opened or tried to be.
    pub(crate) fn times_opened(&self) -> u32 {
        lock(&self.script).opened
    }

    fn open(self: &Arc<Self>, clock: Arc<dyn Clock>) -> Result<Box<dyn CaptureDevice>, CaptureError> {
        let mut script = lock(&self.script);
        script.opened += 1;
        if script.closed > 0 {
            script.closed -= 1;
            return Err(CaptureError::Disconnected { device: "scripted".to_owned(), source: None });
        }
        let info = DeviceInfo {
            driver: "scripted".to_owned(),
            name: "scripted".to_owned(),
            id: "0".to_owned(),
            asked: Asked::default(),
            layout: self.layout,
            fps: 30.0,
            stamps: StampSource::Computed,
            stamp_resolution: Duration::from_nanos(1),
            pace: self.pace,
            is_live: self.is_live,
            controls: Vec::new(),
        };
        Ok(Box::new(Device { source: Arc::clone(self), info, clock, frames: 0, last: Timestamp(0) }))
    }

    pub(crate) fn plan(self: &Arc<Self>, name: &str) -> CameraPlan {
        let source = Arc::clone(self);
        CameraPlan {
            name: name.parse().unwrap(),
            open: Arc::new(move |clock| source.open(clock)),
            slots: 4,
            lossless: self.pace == Pace::Lossless,
            offsets: Arc::default(),
            video: None,
        }
    }
}

struct Device {
    source: Arc<Source>,
    info: DeviceInfo,
    clock: Arc<dyn Clock>,
    frames: u32,
    last: Timestamp,
}

impl Device {
    fn frame(&mut self, slot: Option<&mut [u8]>, flags: FrameFlags, ahead: i64) -> Captured {
        // A device's clock is finer than its frames: no two have the same stamp.
        let received_at = self.clock.now().max(self.last + Duration::from_nanos(1));
        self.last = received_at;
        let driver_seq = self.frames;
        self.frames = driver_seq.wrapping_add(1);
        let (flags, bytes_used) = match slot {
            Some(bytes) => {
                bytes[..8].copy_from_slice(&received_at.0.to_le_bytes());
                (flags, self.info.layout.max_bytes())
            }
            None => (flags.with(FrameFlags::NO_SLOT), 0),
        };
        let captured_at = Timestamp(received_at.0.saturating_add_signed(ahead));
        Captured { driver_seq, captured_at, received_at, bytes_used, flags }
    }
}

impl CaptureDevice for Device {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        loop {
            let mut script = lock(&self.source.script);
            let Some(act) = script.acts.front_mut() else {
                if !script.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    script.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            if let Act::Frames(left) | Act::Stamped(left, _) = act
                && *left > 1
            {
                *left -= 1;
                let ahead = if let Act::Stamped(_, ahead) = act { *ahead } else { 0 };
                drop(script);
                return Poll::Ready(Ok(self.frame(slot, FrameFlags::default(), ahead)));
            }
            let Some(act) = script.acts.pop_front() else { continue };
            drop(script);
            match act {
                Act::Frames(0) | Act::Stamped(0, _) => {}
                Act::Frames(_) => return Poll::Ready(Ok(self.frame(slot, FrameFlags::default(), 0))),
                Act::Stamped(_, ahead) => {
                    return Poll::Ready(Ok(self.frame(slot, FrameFlags::default(), ahead)));
                }
                Act::Damaged => return Poll::Ready(Ok(self.frame(slot, FrameFlags::DAMAGED, 0))),
                Act::Lose(frames) => self.frames = self.frames.wrapping_add(frames),
                Act::Fail(why) => {
                    let source = std::io::Error::other(why);
                    return Poll::Ready(Err(CaptureError::Driver { call: "dequeue", source }));
                }
                Act::End => {
                    let frames = u64::from(self.frames);
                    return Poll::Ready(Err(CaptureError::Ended { frames, note: None }));
                }
                Act::Panic => panic!("scripted"),
                Act::Hang(gate) => gate.pass(),
            }
        }
    }
}

/// What the pipeline makes of a frame that is not simply good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The picture cannot be decoded.
    Picture,
    /// The back end fails.
    Stage,
    /// The back end panics.
    Panic,
    /// The back end's device cannot be used any more.
    DeviceLost,
}

/// What all lives of the stub pipelines share.
#[derive(Default)]
pub(crate) struct Stub {
    /// Shut: each frame waits here inside `collect`.
    pub(crate) gate: Option<Gate>,
    /// Frames that the pipeline works on at a time.
    pub(crate) depth: usize,
    /// What is made after the device was lost: another back end of this name, or nothing ever.
    pub(crate) after_loss: Option<&'static str>,
    is_lost: AtomicBool,
    trouble: Mutex<BTreeMap<(u16, u64), Trouble>>,
    /// Frames that have come into `collect`.
    entered: Mutex<u64>,
    forgotten: Mutex<Vec<CameraId>>,
}

impl Stub {
    pub(crate) fn free() -> Arc<Self> {
        Arc::new(Self { depth: 1, ..Self::default() })
    }

    pub(crate) fn deep(depth: usize) -> Arc<Self> {
        Arc::new(Self { depth, ..Self::default() })
    }

    pub(crate) fn going_over_to(after_loss: &'static str) -> Arc<Self> {
        Arc::new(Self { depth: 1, after_loss: Some(after_loss), ..Self::default() })
    }

    pub(crate) fn gated(depth: usize) -> Arc<Self> {
        Arc::new(Self { gate: Some(Gate::default()), depth, ..Self::default() })
    }

    pub(crate) fn trouble(&self, camera: u16, seq: u64, trouble: Trouble) {
        lock(&self.trouble).insert((camera, seq), trouble);
    }

    pub(crate) fn entered(&self) -> u64 {
        *lock(&self.entered)
    }

    pub(crate) fn gate(&self) -> &Gate {
        self.gate.as_ref().unwrap()
    }
}

struct StubPipeline {
    stub: Arc<Stub>,
    info: BackendInfo,
    frames: VecDeque<Delivery>,
}

impl Pipeline<Delivery> for StubPipeline {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn has_room(&self) -> bool {
        self.frames.len() < self.stub.depth
    }

    fn submit(&mut self, frame: Delivery) {
        self.frames.push_back(frame);
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        let frame = self.frames.pop_front()?;
        *lock(&self.stub.entered) += 1;
        if let Some(gate) = &self.stub.gate {
            gate.pass();
        }
        let meta = *frame.meta();
        let trouble = lock(&self.stub.trouble).remove(&(meta.camera.0, meta.seq));
        let outcome = match trouble {
            Some(Trouble::Picture) => {
                let reason = "scripted".to_owned();
                Err(PipelineError::Picture { camera: meta.camera, seq: meta.seq, reason })
            }
            Some(Trouble::Stage) => Err(PipelineError::Stage { stage: "detect", source: "scripted".into() }),
            Some(Trouble::Panic) => panic!("scripted"),
            Some(Trouble::DeviceLost) => {
                self.stub.is_lost.store(true, Ordering::Relaxed);
                Err(PipelineError::DeviceLost { stage: "landmarks", source: "scripted".into() })
            }
            None => {
                let stamped = frame.picture().bytes[..8] == meta.received_at.0.to_le_bytes();
                assert!(stamped, "the picture of another frame");
                out.meta = meta;
                out.faces.clear();
                out.faces.extend((0..FACES).map(|k| face(meta.camera, k)));
                Ok(())
            }
        };
        Some((frame, outcome))
    }

    fn forget(&mut self, camera: CameraId) {
        lock(&self.stub.forgotten).push(camera);
    }
}

/// Face `k` of a camera: always the same track at the same place.
pub(crate) fn face(camera: CameraId, k: usize) -> Face {
    let x = 400.0 * k as f32;
    Face {
        track: TrackId(u32::from(camera.0) * 100 + k as u32),
        score: 0.9,
        bbox: [x, 0.0, x + 100.0, 100.0],
        presence: 1.0,
        sharpness: None,
        landmarks: [[x, 1.0, 0.0]; LANDMARK_COUNT],
        blendshapes: [0.5; BLENDSHAPE_COUNT],
        head_pose: [[0.0; 4]; 4],
    }
}

/// A session in the making, and where it leaves its things.
pub(crate) struct Setup {
    pub(crate) dir: TempDir,
    pub(crate) plan: SessionPlan,
    pub(crate) stub: Arc<Stub>,
}

/// Quick restarts, tried for ever.
pub(crate) const RESTARTS: RestartPolicy = RestartPolicy {
    max_restarts: 3,
    window: Duration::from_secs(60),
    first_backoff: Duration::from_millis(1),
    longest_backoff: Duration::from_millis(8),
    when_exhausted: WhenExhausted::Degrade,
};

impl Setup {
    /// One pipeline worker for all cameras, called `cam0`, `cam1`, …; the session is recorded.
    pub(crate) fn new(sources: &[&Arc<Source>], stub: Arc<Stub>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["rings", "traces"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let cameras: Vec<_> = sources.iter().enumerate().map(|(k, s)| s.plan(&format!("cam{k}"))).collect();
        let building = Arc::clone(&stub);
        let pipeline = PipelinePlan {
            cameras: (0..cameras.len()).map(|k| CameraId(u16::try_from(k).unwrap())).collect(),
            build: Arc::new(move |_, _| {
                let (backend, reason) = match (building.is_lost.load(Ordering::Relaxed), building.after_loss)
                {
                    (false, _) => ("stub", "a test asked for it"),
                    (true, Some(other)) => (other, "the device was lost"),
                    (true, None) => return Err(BuildError::ForGood("the device was lost".into())),
                };
                let info = BackendInfo {
                    backend,
                    device: "none".to_owned(),
                    runtime: "stub".to_owned(),
                    models: Vec::new(),
                    reason: reason.to_owned(),
                };
                let frames = VecDeque::with_capacity(8);
                Ok(Box::new(StubPipeline { stub: Arc::clone(&building), info, frames }))
            }),
            what: "stub".to_owned(),
            built_within: PATIENCE,
            batch_wait: Duration::ZERO,
            core: None,
            max_faces: FACES,
        };
        let recording = RecordingPlan {
            directory: dir.path().to_owned(),
            session_id: "0123".to_owned(),
            session_name: "test".to_owned(),
            config_text: String::new(),
            software: "youquanti 0.0.0".to_owned(),
            flush_interval: Duration::from_millis(10),
            options: SessionOptions { reserve_bytes: 1 << 20, ..SessionOptions::default() },
            on_failure: OnFailure::Stop,
            overridden: None,
        };
        let plan = SessionPlan {
            name: "test".to_owned(),
            cameras,
            pipelines: vec![pipeline],
            expected_participants: None,
            synchrony: None,
            participant_names: vec!["Ada".to_owned()],
            recording,
            record_from_start: Some(named("session")),
            required: Required::default(),
            lsl: None,
            preview: Some(preview()),
            pose: None,
            discovery_dir: Some(dir.path().join("discovery")),
            restarts: RESTARTS,
            pipeline_timeout: Duration::from_secs(2),
            ring_dir: dir.path().join("rings"),
            trace_dir: Some(dir.path().join("traces")),
            duration: None,
        };
        Self { dir, plan, stub }
    }

    pub(crate) fn unrecorded(mut self) -> Self {
        self.plan.record_from_start = None;
        self
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("session.h5")
    }

    pub(crate) fn try_start(&self) -> Result<SessionHandle, StartError> {
        SessionHandle::start(self.plan.clone(), Arc::new(SystemClock))
    }

    pub(crate) fn start(&self) -> SessionHandle {
        self.try_start().unwrap()
    }

    /// Names in the folder of rings, but for those of previews, which are made when the first is drawn.
    pub(crate) fn rings(&self) -> Vec<String> {
        names_in(&self.plan.ring_dir).into_iter().filter(|name| !name.contains(".preview")).collect()
    }

    /// Stops a session, and checks what must hold however it went: it ends, its ledger closes, nothing is
    /// left in shared memory, and its file, if one was finished, says the same as the report.
    pub(crate) fn finish(&self, mut session: SessionHandle) -> (SessionReport, Option<Inspection>) {
        session.stop("test over");
        let report = session.wait(PATIENCE).expect("the session ends");
        assert_eq!(report.imbalances, []);
        assert_eq!(
            names_in(&self.plan.ring_dir),
            [""; 0],
            "the handle is still there, but the session is over"
        );
        let whole = report.recordings.last().filter(|recording| recording.outcome.is_ok());
        let inspection = whole.map(|recording| {
            let inspection = SessionReader::open(&recording.path).unwrap().inspect(1000).unwrap();
            assert!(inspection.ledger_closes, "{:?}", inspection.ledger);
            for (found, camera) in inspection.cameras.iter().zip(&report.cameras) {
                let [_, index, ..] = camera.ledger.consumers;
                if report.recordings.len() == 1 && found.facts.first_seq == 0 {
                    assert_eq!(found.frames, index.delivered, "{}", camera.name);
                }
                assert!(found.missing_in_index <= index.dropped_total(), "{}", camera.name);
                assert!(found.stamps_ascend, "{}", camera.name);
            }
            inspection
        });
        drop(session);
        (report, inspection)
    }
}

/// A recording that is called so.
pub(crate) fn named(name: &str) -> RecordingRequest {
    RecordingRequest { name: Some(name.to_owned()), ..RecordingRequest::default() }
}

/// Previews of as many pixels as the picture, whose first bytes are the picture's.
fn preview() -> PreviewPlan {
    PreviewPlan {
        width: 16384,
        height: 16384,
        format: PixelFormat::Bgr24,
        max_fps: 1e6,
        slots: PreviewPlan::SLOTS,
        max_faces: FACES,
        draw: Arc::new(|| {
            Box::new(|picture, _, out| {
                let bytes = picture.bytes.len().min(out.len());
                out[..bytes].copy_from_slice(&picture.bytes[..bytes]);
                Ok(())
            })
        }),
    }
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until `holds`, for what no reply tells of.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() {
        if holds() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    panic!("waited in vain until {what}");
}

pub(crate) fn camera(session: &SessionHandle, id: usize) -> CameraSnapshot {
    session.plane().ledger.snapshot().cameras[id]
}

/// What became of a camera's frames at the consumers that every frame is meant for.
pub(crate) fn offered(camera: &CameraSnapshot) -> impl Iterator<Item = &ConsumerSnapshot> {
    Consumer::ALWAYS.iter().map(|&consumer| &camera.consumers[consumer as usize])
}

/// Fault points and thread names are the process's: one session at a time.
pub(crate) fn serially() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a camera frames one by one, each when the one before has its result: none can be replaced.
#[track_caller]
pub(crate) fn one_by_one(session: &SessionHandle, source: &Source, id: usize, frames: u64) {
    for _ in 0..frames {
        let captured = camera(session, id).captured;
        source.frames(1);
        settled(session, id, captured + 1);
    }
}

/// Waits until so many frames of a camera were captured and none is under way.
#[track_caller]
pub(crate) fn settled(session: &SessionHandle, id: usize, captured: u64) {
    until("all captured frames are settled", || {
        let now = camera(session, id);
        let preview = &now.consumers[Consumer::Preview as usize];
        now.captured == captured
            && offered(&now).all(|c| c.settled() == captured)
            && preview.settled() == preview.captured
    });
}

/// Waits until a camera has been restarted so many times.
#[track_caller]
pub(crate) fn restarted(session: &SessionHandle, id: usize, times: u32) {
    until("the camera works again", || session.plane().stats[id].restarts.load(Ordering::Relaxed) == times);
}

pub(crate) fn dropped(consumer: &ConsumerSnapshot, reason: DropReason) -> u64 {
    let place = DropReason::ALL.iter().position(|&r| r == reason).unwrap();
    consumer.dropped[place]
}

/// Threads of this process whose name begins so.
pub(crate) fn threads_named(prefix: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end while it is looked at.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with(prefix)).collect()
}
