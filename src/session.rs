//! The embedding API: a running session and what it shows of itself.
//!
//! Owns nothing but the handle; the session runs on threads of its own. Dropped, it ends the session in
//! good order, waiting for it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{error, info, warn};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::control::Control;
use youquanti_actors::ledger::CameraSnapshot;
use youquanti_actors::live::Stream;
use youquanti_actors::messages::{Event, FacesNamed};
use youquanti_actors::recorder::{Override, RecordingRequest, RecordingStarted};
use youquanti_actors::session::{RecordingError, SessionHandle, SessionPlan, SessionReport, StartError};
use youquanti_actors::session_file::{SessionFileError, Summary, abandoned_files, recover, recovered_path};
use youquanti_actors::stats::LatencySnapshot;
use youquanti_config::{Config, ConfigErrors};
use youquanti_models::{CameraName, Clock, Timestamp, TrackIds, with_causes};

use crate::backend::Backend;
use crate::offsets::{Offsets, OffsetsError};
use crate::{preflight, wiring};

/// Why a session did not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The configuration asks for something that is not there.
    #[error(transparent)]
    Preflight(#[from] ConfigErrors),
    /// A part of the session failed while it was being started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What was measured of cameras cannot be read.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// The folder for the session's file cannot be made.
    #[error("folder {folder} for the session's file cannot be made")]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A running session.
pub struct Session {
    handle: SessionHandle,
    rescue: Option<Rescue>,
}

/// Makes finished copies of files that earlier programs left unfinished, while a session runs.
struct Rescue {
    is_broken_off: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Rescue {
    /// Looks into the folder of recordings; nothing to do, nobody to do it.
    fn start(folder: &Path) -> Option<Self> {
        let files = match abandoned_files(folder) {
            Ok(files) => files,
            Err(error) => {
                warn!(folder = %folder.display(), %error, "no look for files that were never closed");
                return None;
            }
        };
        if files.is_empty() {
            return None;
        }
        let is_broken_off = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_broken_off);
        let thread = std::thread::Builder::new().name("yq-rescue".to_owned());
        let spawned = thread.spawn(move || files.iter().for_each(|file| rescue(file, &flag)));
        let thread = spawned.map_err(|error| warn!(%error, "no thread to recover files with")).ok()?;
        Some(Self { is_broken_off, thread })
    }

    /// What is half done is left for another time.
    fn end(self) {
        self.is_broken_off.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            error!("recovering files of earlier sessions panicked");
        }
    }
}

fn rescue(file: &Path, is_broken_off: &AtomicBool) {
    let (path, to) = (file.display(), recovered_path(file));
    warn!(%path, "a program was ended while it wrote this file: making a finished copy");
    let go_on = || match is_broken_off.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    match recover(file, &to, &mut |_, _| go_on()) {
        Ok(recovery) if recovery.lost.is_empty() => info!(copy = %to.display(), "recovered, nothing is lost"),
        Ok(recovery) => warn!(copy = %to.display(), lost = ?recovery.lost, "recovered in part"),
        Err(error @ SessionFileError::Interrupted) => info!(%path, %error, "the next session will try again"),
        Err(error) => warn!(%path, error = with_causes(&error), "could not be recovered"),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(rescue) = self.rescue.take() {
            rescue.end();
        }
    }
}

/// Figures of one camera at one moment. The difference of two is what happened between.
#[derive(Clone, Debug)]
pub struct CameraProgress {
    /// Which camera.
    pub name: CameraName,
    /// When these figures were taken.
    pub at: Timestamp,
    /// Faces in the newest result.
    pub faces: u32,
    /// Frames with a result so far.
    pub results: u64,
    /// What became of its frames so far.
    pub ledger: CameraSnapshot,
    /// Capture to result so far.
    pub latency: LatencySnapshot,
    /// Times it was restarted.
    pub restarts: u32,
}

/// Everything that a session is made from; the folder of its files is there if it starts with a recording.
pub(crate) fn prepare(
    config: &Config,
    backend: &Backend,
    track_ids: &Arc<TrackIds>,
    clock: &dyn Clock,
) -> Result<SessionPlan, SessionError> {
    let mut plan = wiring::plan(config, backend, track_ids, clock);
    let offsets = Offsets::load()?.known();
    for camera in &mut plan.cameras {
        camera.offsets = Arc::clone(&offsets);
    }
    if plan.record_from_start.is_some() {
        let folder = &plan.recording.directory;
        std::fs::create_dir_all(folder)
            .map_err(|source| SessionError::Folder { folder: folder.clone(), source })?;
    }
    Ok(plan)
}

impl Session {
    /// Checks the configuration against this machine, starts everything, and returns when all cameras deliver.
    ///
    /// # Errors
    /// Everything that [`preflight::check`] finds, or the first part that fails to start. Nothing is
    /// left running or lying about.
    pub fn start(config: &Config) -> Result<Self, SessionError> {
        Self::start_checked(config, &preflight::check(config)?)
    }

    /// The same with what [`preflight::check`] has just decided on for this configuration.
    ///
    /// # Errors
    /// The first part that fails to start. Nothing is left running or lying about.
    pub fn start_checked(config: &Config, backend: &Backend) -> Result<Self, SessionError> {
        Self::launch(config, backend, None)
    }

    /// Starts although something that the session requires is missing: cameras, which are then tried for ever, and disk
    /// space for the planned duration. The file and the report say who decided so and why, and the session ends degraded.
    ///
    /// # Errors
    /// What no decision helps against: see [`preflight::check_overridden`].
    pub fn start_overridden(config: &Config, reason: &str, by: &str) -> Result<Self, SessionError> {
        let (backend, missing) = preflight::check_overridden(config)?;
        let overridden = Override { reason: reason.to_owned(), by: by.to_owned(), missing };
        Self::launch(config, &backend, Some(overridden))
    }

    fn launch(
        config: &Config,
        backend: &Backend,
        overridden: Option<Override>,
    ) -> Result<Self, SessionError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut plan = prepare(config, backend, &wiring::track_ids(config), clock.as_ref())?;
        plan.recording.overridden = overridden;
        let folder = plan.record_from_start.is_some().then(|| plan.recording.directory.clone());
        let handle = SessionHandle::start(plan, clock)?;
        Ok(Self { handle, rescue: folder.and_then(|folder| Rescue::start(&folder)) })
    }

    /// A session that has been started.
    pub(crate) fn of(handle: SessionHandle) -> Self {
        Self { handle, rescue: None }
    }

    /// The session's newest file, written or being written; `None` when nothing was recorded yet.
    pub fn file(&self) -> Option<PathBuf> {
        self.handle.plane().newest_file()
    }

    /// Creates a file and records to it from now on; returns when it is open.
    ///
    /// # Errors
    /// See [`RecordingError`]: a second recording is refused while one runs.
    pub fn start_recording(&self, request: RecordingRequest) -> Result<RecordingStarted, RecordingError> {
        self.handle.start_recording(request)
    }

    /// Closes the file that is being written; returns when any reader can open it. The session goes on.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn stop_recording(&self) -> Result<Summary, RecordingError> {
        self.handle.stop_recording()
    }

    /// Figures of every camera, now. Never waits for the session.
    pub fn progress(&self) -> Vec<CameraProgress> {
        let plane = self.handle.plane();
        let (at, ledger) = (plane.clock.now(), plane.ledger.snapshot());
        let cameras = plane.cameras.iter().zip(plane.stats.iter()).zip(ledger.cameras);
        cameras
            .map(|((line, stats), ledger)| CameraProgress {
                name: line.plan.name.clone(),
                at,
                faces: stats.faces.load(Ordering::Relaxed),
                results: stats.results.load(Ordering::Relaxed),
                ledger,
                latency: stats.latency.snapshot(),
                restarts: stats.restarts.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Every event of the session from now on: gaps, restarts, markers, participants. A subscriber that leaves
    /// 1024 of them waiting misses the next.
    pub fn subscribe(&self) -> Receiver<Event> {
        self.handle.subscribe()
    }

    /// A handle for whoever steers or watches the session from elsewhere: commands, their answers, live results and events.
    /// Clones of it keep nothing alive.
    pub fn control(&self) -> Control {
        self.handle.control()
    }

    /// Every analysed frame from now on, with its faces and who they are. A listener that falls 256 of them behind misses the
    /// oldest, is told how many, and holds nobody up.
    pub fn results(&self) -> Stream<FacesNamed> {
        self.handle.control().results()
    }

    /// Sets a marker, stamped now, with the source `operator`.
    pub fn mark(&self, text: &str) {
        self.handle.mark(text);
    }

    /// Asks the session to end in good order. Returns at once; [`wait`](Self::wait) tells when it has.
    pub fn stop(&self, reason: &str) {
        self.handle.stop(reason);
    }

    /// Waits up to `patience` for the session's end. `None` while it runs; the report once.
    pub fn wait(&mut self, patience: Duration) -> Option<SessionReport> {
        self.handle.wait(patience)
    }

    /// Whether the session has ended. When it has and [`wait`](Self::wait) gives no report, it was lost to a
    /// failure of this program.
    pub fn has_ended(&self) -> bool {
        self.handle.has_ended()
    }

    /// Writes what happened to each frame of the last minute as a trace that Perfetto opens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_trace(&self, to: &Path) -> std::io::Result<()> {
        self.handle.write_trace(to)
    }
}
