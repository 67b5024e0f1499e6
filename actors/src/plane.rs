//! The data plane: what outlives every actor of a session.
//!
//! Owns the frame mailboxes, each camera's rings and counters, the ledger, the live figures and the
//! flight recorder. Actors come and go; what is queued here waits for the next life.
//! Never starts anything and never decides anything.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::watch;
use youquanti_frames::{Counted, FrameHandle, FrameRing, Latest, MailboxStream, RingError, RingOptions};
use youquanti_models::{
    BackendInfo, CameraId, CameraName, Clock, Frame, PictureLayout, PixelFormat, Timestamp,
};

use crate::calibration::{KnownOffset, StampOffset};
use crate::capture::{CaptureDevice, CaptureError, DeviceInfo};
use crate::discovery::Discovery;
use crate::flight::FlightRecorder;
use crate::ledger::{DropReason, Ledger};
use crate::messages::{Delivery, FacesNamed, IndexEntry, Preview};
use crate::pose::PosePlan;
use crate::preview::PreviewPlan;
use crate::session_file::FlushReport;
use crate::stats::{SessionStats, StreamCounts};
use crate::verdict::Findings;
use crate::video::{VideoJob, VideoLine, VideoPlan};

/// Opens a camera, on the camera's own thread.
pub type OpenDevice =
    Arc<dyn Fn(Arc<dyn Clock>) -> Result<Box<dyn CaptureDevice>, CaptureError> + Send + Sync>;

/// What a camera is made from.
#[derive(Clone)]
pub struct CameraPlan {
    /// Its name.
    pub name: CameraName,
    /// Opens its device.
    pub open: OpenDevice,
    /// Slots of its ring.
    pub slots: usize,
    /// Whether the source waits for its consumers, so that no frame is dropped.
    pub lossless: bool,
    /// Measured offsets, among which the one of this camera's device and mode is looked up once it is open.
    pub offsets: Arc<[KnownOffset]>,
    /// How its video is made, if there is any.
    pub video: Option<VideoPlan>,
}

/// Slots of a camera's ring of which `own` are for itself and its consumers but these two.
pub fn ring_slots(own: usize, has_preview: bool, has_pose: bool) -> usize {
    let preview = if has_preview { PreviewPlan::HELD } else { 0 };
    let pose = if has_pose { PosePlan::HELD } else { 0 };
    (own + preview + pose).min(RingOptions::MOST_SLOTS)
}

/// Entries of the frame index that may wait for the recorder, and facts for the streams: at 60 fps more than 15 s.
pub(crate) const INDEX_CAPACITY: usize = 1024;

/// Frames that may wait for the pipeline when none may be dropped.
const LOSSLESS_CAPACITY: usize = 2;

/// The way from a camera to its pipeline.
pub enum FrameMailbox {
    /// The newest frame wins.
    Latest(Latest<Delivery>),
    /// Every frame, the camera waits for room.
    Lossless(Counted<Delivery>),
}

impl FrameMailbox {
    /// Puts a frame in; a frame that it displaces is counted, and what the preview is to have of it comes back.
    fn send(&self, delivery: Delivery) -> Option<Preview> {
        let (lost, reason) = match self {
            FrameMailbox::Latest(mailbox) => (mailbox.send(delivery)?, DropReason::Replaced),
            FrameMailbox::Lossless(mailbox) => (mailbox.send(delivery).err()?, DropReason::Full),
        };
        lost.ticket.dropped(reason);
        Some(Preview { frame: lost.frame, result: None, ticket: lost.preview? })
    }

    /// The consumer's end. A restarted consumer takes over what waits here.
    pub fn stream(&self) -> MailboxStream<Delivery> {
        match self {
            FrameMailbox::Latest(mailbox) => mailbox.stream(),
            FrameMailbox::Lossless(mailbox) => mailbox.stream(),
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            FrameMailbox::Latest(_) => Poll::Ready(()),
            FrameMailbox::Lossless(mailbox) => mailbox.poll_ready(cx),
        }
    }

    fn try_recv(&self) -> Option<Delivery> {
        match self {
            FrameMailbox::Latest(mailbox) => mailbox.try_recv(),
            FrameMailbox::Lossless(mailbox) => mailbox.try_recv(),
        }
    }
}

/// What is known of a camera once it has been opened.
#[derive(Clone, Debug)]
pub struct OpenedCamera {
    /// Size, format and stride of its frames.
    pub layout: PictureLayout,
    /// What it is.
    pub info: DeviceInfo,
    /// The offset of its stamps, if it was measured for this device in this mode.
    pub stamp_offset: Option<StampOffset>,
}

/// One camera's part of the data plane.
pub struct CameraLine {
    /// What the camera is made from.
    pub plan: CameraPlan,
    /// To the pipeline. Filled by [`send`](Self::send).
    pub frames: FrameMailbox,
    /// To the pose actor, where there is one.
    pub poses: FrameMailbox,
    /// Frames that have a result, until it is known whose faces they are.
    analysed: Latest<Preview>,
    /// To the preview.
    pub previews: Latest<Preview>,
    /// The newest preview: a small picture with the results of exactly that frame, see
    /// [`FrameHandle::results`]. Whoever shows it holds a handle and waits with [`watch::Receiver::changed`]; a handle that
    /// is held for long is one slot less of the preview's few.
    pub shown: watch::Sender<Option<FrameHandle>>,
    /// To the recorder's index.
    pub index: Counted<IndexEntry>,
    /// To its video, and from there to the recorder.
    pub video: Option<VideoLine>,
    /// To the streams: each frame's facts, while [`DataPlane::wants_stream_facts`]; beyond its room they are counted as lost.
    pub stream_facts: Counted<IndexEntry>,
    /// Sequence number of the next frame; goes on over restarts.
    pub next_seq: AtomicU64,
    /// Stamp of the last frame, nanoseconds; stamps never go back over restarts either.
    pub last_captured_at: AtomicU64,
    /// Stamp of the last frame whose picture was whole, nanoseconds; 0 without one.
    pub last_good_at: AtomicU64,
    /// Stamp of the first frame since the session began, nanoseconds; 0 before it.
    pub first_captured_at: AtomicU64,
    /// Stamp of the first frame since the camera was last opened, nanoseconds; 0 before it.
    pub first_since_opened: AtomicU64,
    /// Times that it was opened.
    pub lives: AtomicU32,
    opened: Mutex<Option<OpenedCamera>>,
    ring: Mutex<RingPlace>,
    preview_ring: Mutex<RingPlace>,
    backend: Mutex<Option<BackendInfo>>,
}

#[derive(Default)]
struct RingPlace {
    ring: Option<FrameRing>,
    made: u32,
}

impl RingPlace {
    /// The ring that it has, if it is for pictures of this layout, else a new one, and the old one gives out no more
    /// slots. A name is used once: readers tell by it whether they have the right one. Whether it is new.
    fn ring_for(&mut self, mut options: RingOptions) -> Result<(FrameRing, bool), RingError> {
        if let Some(ring) = &self.ring {
            if ring.layout() == options.layout {
                return Ok((ring.clone(), false));
            }
            ring.retire();
        }
        if self.made > 0 {
            options.name = format!("{}.{}", options.name, self.made);
        }
        let ring = FrameRing::create(&options)?;
        self.made += 1;
        self.ring = Some(ring.clone());
        Ok((ring, true))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CameraLine {
    fn new(plan: CameraPlan) -> Self {
        let mailbox = || match plan.lossless {
            true => FrameMailbox::Lossless(Counted::new(LOSSLESS_CAPACITY)),
            false => FrameMailbox::Latest(Latest::new()),
        };
        let (frames, poses) = (mailbox(), mailbox());
        let video = plan.video.is_some().then(VideoLine::new);
        Self {
            plan,
            frames,
            poses,
            video,
            analysed: Latest::new(),
            previews: Latest::new(),
            shown: watch::Sender::new(None),
            index: Counted::new(INDEX_CAPACITY),
            stream_facts: Counted::new(INDEX_CAPACITY),
            next_seq: AtomicU64::new(0),
            last_captured_at: AtomicU64::new(0),
            last_good_at: AtomicU64::new(0),
            first_captured_at: AtomicU64::new(0),
            first_since_opened: AtomicU64::new(0),
            lives: AtomicU32::new(0),
            opened: Mutex::new(None),
            ring: Mutex::new(RingPlace::default()),
            preview_ring: Mutex::new(RingPlace::default()),
            backend: Mutex::new(None),
        }
    }

    /// Hands a frame to the pipeline. One that is displaced by it will have no result, which the preview is told.
    pub fn send(&self, delivery: Delivery) {
        if let Some(unanalysed) = self.frames.send(delivery) {
            self.show(unanalysed);
        }
    }

    /// Hands a frame to the pose actor; one that is displaced by it is counted.
    pub fn send_pose(&self, delivery: Delivery) {
        self.poses.send(delivery);
    }

    /// Notes that the pipeline has a result for a frame, which the preview waits for: [`named`](Self::named) follows.
    pub fn found_in(&self, delivery: &mut Delivery) {
        let Some(ticket) = delivery.preview.take() else { return };
        let analysed = Preview { frame: delivery.frame.clone(), result: None, ticket };
        if let Some(unnamed) = self.analysed.send(analysed) {
            unnamed.ticket.dropped(DropReason::Replaced);
        }
    }

    /// Hands a frame to the preview with what was found in it, if anybody wants it shown.
    pub fn named(&self, faces: &FacesNamed) {
        while let Some(analysed) = self.analysed.try_recv() {
            if analysed.frame.meta().seq == faces.faces.meta.seq {
                return self.show(Preview { result: Some(faces.clone()), ..analysed });
            }
            analysed.ticket.dropped(DropReason::Replaced);
        }
    }

    /// Notes that it will never be known whose faces those of the last result are.
    pub fn never_named(&self) {
        while let Some(analysed) = self.analysed.try_recv() {
            analysed.ticket.dropped(DropReason::Failed);
        }
    }

    fn show(&self, preview: Preview) {
        if let Some(displaced) = self.previews.send(preview) {
            displaced.ticket.dropped(DropReason::Replaced);
        }
    }

    /// The newest preview from now on, for viewers in this process.
    pub fn watch_preview(&self) -> watch::Receiver<Option<FrameHandle>> {
        self.shown.subscribe()
    }

    /// Segments that other processes may map now: of the camera's own frames, and of its previews.
    pub fn segments(&self) -> [Option<PathBuf>; 2] {
        [&self.ring, &self.preview_ring].map(|place| Some(lock(place).ring.as_ref()?.path()?.to_owned()))
    }

    /// What the camera was when it was last opened.
    pub fn opened(&self) -> Option<OpenedCamera> {
        lock(&self.opened).clone()
    }

    /// Size and format of its pictures; an empty picture before it was opened.
    pub fn opened_layout(&self) -> PictureLayout {
        let nothing = PictureLayout::packed(0, 0, PixelFormat::Grey);
        lock(&self.opened).as_ref().map_or(nothing, |opened| opened.layout)
    }

    /// The back end that seeks faces in its frames, or did last; `None` until its pipeline was built.
    pub fn backend(&self) -> Option<BackendInfo> {
        lock(&self.backend).clone()
    }

    /// Notes the back end of the camera's pipeline, which has just been built.
    pub fn set_backend(&self, info: &BackendInfo) {
        *lock(&self.backend) = Some(info.clone());
    }

    /// Whether every consumer that must get every frame has room for one more.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let video = match &self.video {
            Some(video) if video.is_wanted() => video.frames.poll_ready(cx),
            _ => Poll::Ready(()),
        };
        let others = [self.frames.poll_room(cx), self.poses.poll_room(cx), self.index.poll_ready(cx)];
        let has_room = video.is_ready() && others.iter().all(Poll::is_ready);
        if has_room { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What outlives every actor of a session.
pub struct DataPlane {
    /// The session's clock.
    pub clock: Arc<dyn Clock>,
    /// What became of every frame.
    pub ledger: Arc<Ledger>,
    /// Live figures.
    pub stats: SessionStats,
    /// What happened in the last minute.
    pub flight: FlightRecorder,
    /// What went wrong so far.
    pub findings: Findings,
    /// What became of the rows of the streams.
    pub stream_counts: Arc<StreamCounts>,
    /// Whether cameras send each frame's facts to the streams: from when those are made.
    pub wants_stream_facts: AtomicBool,
    /// Whether streams want what was found of bodies.
    pub wants_stream_poses: AtomicBool,
    /// In the order of the cameras' ids.
    pub cameras: Box<[CameraLine]>,
    /// The session's t0, nanoseconds: 0 until all cameras stream and the barrier is opened.
    started_at: AtomicU64,
    session_name: String,
    ring_dir: PathBuf,
    preview: OnceLock<PreviewPlan>,
    pose: OnceLock<PosePlan>,
    discovery: OnceLock<Discovery>,
    recording: Mutex<RecordingPlace>,
}

/// The file that is being written, as of its newest flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingStatus {
    /// The file.
    pub path: PathBuf,
    /// Counts the recordings of the session from 1.
    pub number: u32,
    /// From when on it covers the session.
    pub started_at: Timestamp,
    /// Rows of frames, results and faces that are safe.
    pub rows: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Free space of its disk.
    pub free_bytes: u64,
    /// Why its journal failed, if it did: see [`FlushReport::journal_lost`].
    pub journal_lost: Option<String>,
}

#[derive(Default)]
struct RecordingPlace {
    open: Option<RecordingStatus>,
    newest: Option<PathBuf>,
}

impl DataPlane {
    /// A plane for these cameras; rings are made when the cameras are opened, as
    /// `youquanti.<session>.<camera>` in `ring_dir`.
    pub fn new(
        clock: Arc<dyn Clock>,
        session_name: String,
        ring_dir: PathBuf,
        cameras: Vec<CameraPlan>,
        flight_spans: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            ledger: Ledger::new(cameras.len()),
            stats: crate::stats::session_stats(cameras.len()),
            flight: FlightRecorder::new(flight_spans),
            findings: Findings::default(),
            stream_counts: Arc::default(),
            wants_stream_facts: AtomicBool::new(false),
            wants_stream_poses: AtomicBool::new(false),
            cameras: cameras.into_iter().map(CameraLine::new).collect(),
            started_at: AtomicU64::new(0),
            session_name,
            ring_dir,
            preview: OnceLock::new(),
            pose: OnceLock::new(),
            discovery: OnceLock::new(),
            recording: Mutex::default(),
        })
    }

    /// Has previews made of this session's frames. Called once, before any camera runs.
    pub fn with_preview(&self, plan: PreviewPlan) {
        self.preview.get_or_init(|| plan);
    }

    /// How previews are made; none: they are not.
    pub fn preview(&self) -> Option<&PreviewPlan> {
        self.preview.get()
    }

    /// Has bodies looked for in this session's frames. Called once, before any camera runs.
    pub fn with_pose(&self, plan: PosePlan) {
        self.pose.get_or_init(|| plan);
    }

    /// How bodies are sought; none: they are not.
    pub fn pose(&self) -> Option<&PosePlan> {
        self.pose.get()
    }

    /// Has the segments of this session written to a file that other programs find. Called once, before any camera runs.
    pub fn with_discovery(&self, discovery: Discovery) {
        self.discovery.get_or_init(|| discovery);
    }

    fn announce(&self) {
        if let Some(discovery) = self.discovery.get() {
            discovery.announce(self);
        }
    }

    /// What the session is called in the names of its segments.
    pub fn session_name(&self) -> &str {
        &self.session_name
    }

    /// The file that is being written.
    pub fn recording(&self) -> Option<RecordingStatus> {
        lock(&self.recording).open.clone()
    }

    /// The newest file, written or being written.
    pub fn newest_file(&self) -> Option<PathBuf> {
        lock(&self.recording).newest.clone()
    }

    /// Notes that a file is being written from now on, or, without one, that none is.
    pub fn set_recording(&self, file: Option<RecordingStatus>) {
        let mut place = lock(&self.recording);
        if let Some(status) = &file {
            place.newest = Some(status.path.clone());
        }
        place.open = file;
    }

    /// Notes what a flush of the file has made safe.
    pub fn note_flush(&self, report: &FlushReport) {
        if let Some(status) = &mut lock(&self.recording).open {
            status.rows += report.rows;
            (status.file_bytes, status.free_bytes) = (report.file_bytes, report.free_bytes);
            if status.journal_lost.is_none() {
                status.journal_lost.clone_from(&report.journal_lost);
            }
        }
    }

    /// One camera's part.
    pub fn camera(&self, id: CameraId) -> &CameraLine {
        &self.cameras[usize::from(id.0)]
    }

    /// Ids of all cameras.
    pub fn camera_ids(&self) -> impl Iterator<Item = CameraId> + use<> {
        (0..self.cameras.len()).map(|index| CameraId(u16::try_from(index).unwrap_or(u16::MAX)))
    }

    /// Names of all cameras, in the order of their ids.
    pub fn camera_names(&self) -> Vec<CameraName> {
        self.cameras.iter().map(|line| line.plan.name.clone()).collect()
    }

    /// The ring for a camera that has just been opened: the one it had, if its frames still fit,
    /// else a new one, and the old one gives out no more slots.
    ///
    /// # Errors
    /// When no segment can be made.
    pub fn ring_for(&self, id: CameraId, opened: OpenedCamera) -> Result<FrameRing, RingError> {
        let line = self.camera(id);
        let options = RingOptions {
            dir: self.ring_dir.clone(),
            slots: ring_slots(line.plan.slots, self.preview().is_some(), self.pose().is_some()),
            ..RingOptions::new(format!("{}.{}", self.session_name, line.plan.name), opened.layout)
        };
        let (ring, is_new) = lock(&line.ring).ring_for(options)?;
        *lock(&line.opened) = Some(opened);
        if is_new {
            self.announce();
        }
        Ok(ring)
    }

    /// The ring for a camera's previews of this layout, likewise, with room for results.
    ///
    /// # Errors
    /// When no segment can be made.
    pub fn preview_ring_for(
        &self,
        id: CameraId,
        layout: PictureLayout,
        plan: &PreviewPlan,
    ) -> Result<FrameRing, RingError> {
        let line = self.camera(id);
        let mut place = lock(&line.preview_ring);
        if let Some(ring) = place.ring.as_ref().filter(|ring| ring.layout() == layout) {
            return Ok(ring.clone());
        }
        let name = format!("{}.{}.preview", self.session_name, line.plan.name);
        let options = RingOptions {
            dir: self.ring_dir.clone(),
            slots: plan.slots,
            result_faces: Some(plan.max_faces),
            ..RingOptions::new(name, layout)
        };
        let (ring, _) = place.ring_for(options)?;
        drop(place);
        self.announce();
        Ok(ring)
    }

    /// The back end of the session's pipelines as one: that of the first camera, with the devices of all that are of
    /// the same kind. `None` until a pipeline was built.
    pub fn backend(&self) -> Option<BackendInfo> {
        let mut all = self.cameras.iter().filter_map(CameraLine::backend);
        let mut first = all.next()?;
        let mut devices = vec![first.device.clone()];
        for other in all.filter(|other| other.backend == first.backend) {
            if !devices.contains(&other.device) {
                devices.push(other.device);
            }
        }
        first.device = devices.join(", ");
        Some(first)
    }

    /// Settles frames that no pipeline, preview or pose actor came for. Called when all these and the cameras are at rest.
    pub fn settle_frames(&self) {
        for line in &self.cameras {
            for mailbox in [&line.frames, &line.poses] {
                while let Some(rest) = mailbox.try_recv() {
                    rest.dropped(DropReason::Unfinished);
                }
            }
            for mailbox in [&line.analysed, &line.previews] {
                while let Some(rest) = mailbox.try_recv() {
                    rest.ticket.dropped(DropReason::Unfinished);
                }
            }
        }
    }

    /// Has the video of every camera that has one written beside this recording, from now on.
    pub fn begin_video(&self, job: VideoJob) {
        let job = Arc::new(job);
        for video in self.cameras.iter().filter_map(|line| line.video.as_ref()) {
            video.begin(Arc::clone(&job));
        }
    }

    /// No camera offers frames to its video any more; what waits there is still written.
    pub fn end_video(&self) {
        for video in self.cameras.iter().filter_map(|line| line.video.as_ref()) {
            video.refuse();
        }
    }

    /// Settles frames that no video came for. Called when cameras and videos are at rest.
    pub fn settle_video(&self) {
        for video in self.cameras.iter().filter_map(|line| line.video.as_ref()) {
            while let Some(rest) = video.frames.try_recv() {
                rest.ticket.dropped(DropReason::Unfinished);
            }
        }
    }

    /// Settles frames' facts that no streams came for. Called when cameras and streams are at rest.
    pub fn settle_streams(&self) {
        for line in &self.cameras {
            while let Some(rest) = line.stream_facts.try_recv() {
                rest.ticket.dropped(DropReason::Unfinished);
            }
        }
    }

    /// Settles index entries that no recorder came for. Called when the recorder is at rest.
    pub fn settle_index(&self) {
        for line in &self.cameras {
            while let Some(rest) = line.index.try_recv() {
                rest.ticket.dropped(DropReason::Unfinished);
            }
        }
    }

    /// Takes the rings' names away, so that the next session can have them, whoever still holds this plane.
    /// Called at the end: an abandoned thread gets no more slots.
    pub fn retire_rings(&self) {
        for line in &self.cameras {
            line.shown.send_replace(None);
            for place in [&line.ring, &line.preview_ring] {
                if let Some(ring) = &lock(place).ring {
                    ring.retire();
                }
            }
        }
        if let Some(discovery) = self.discovery.get() {
            discovery.withdraw();
        }
    }

    /// The preview rings of a thread that hangs are nobody's: its next life makes its own.
    pub fn retire_preview_rings(&self) {
        for line in &self.cameras {
            if let Some(ring) = lock(&line.preview_ring).ring.take() {
                ring.retire();
            }
        }
    }

    /// Lets cameras deliver from now on, the session's t0, which is returned; each must still be woken.
    pub fn open_barrier(&self) -> Timestamp {
        let now = self.clock.now();
        self.started_at.store(now.0, Ordering::Release);
        now
    }

    /// The session's t0, once the barrier is open. Frames stamped before it are not part of the session.
    pub fn started_at(&self) -> Option<Timestamp> {
        Some(Timestamp(self.started_at.load(Ordering::Acquire))).filter(|&at| at != Timestamp::default())
    }

    /// What the ring of a thread that hangs holds is nobody's: the camera's next life gets a ring of its own.
    pub fn retire_ring(&self, id: CameraId) {
        if let Some(ring) = lock(&self.camera(id).ring).ring.take() {
            ring.retire();
        }
    }
}
