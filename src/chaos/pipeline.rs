//! A pipeline that fails on command: any back end behind a [`PipelineSwitch`].
//!
//! Owns what each fault looks like to the pipeline's actor. Takes a frame only to fail on it; everything else
//! goes to the back end unchanged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use youquanti_actors::messages::Delivery;
use youquanti_actors::pipeline::{BoxedPipeline, BuildPipeline};
use youquanti_models::{BackendInfo, CameraId, FrameFaces, Pipeline, PipelineError};

/// What can go wrong with a pipeline. Each strikes one worker, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineFault {
    /// The back end's code panics.
    Panic,
    /// The back end says that it cannot go on.
    Error,
    /// The back end says that its device cannot be used again; the next one does without.
    DeviceLost,
    /// The back end does not come back, until the fault is over.
    Hang,
}

impl PipelineFault {
    /// All of them.
    pub const ALL: &'static [PipelineFault] = &[Self::Panic, Self::Error, Self::DeviceLost, Self::Hang];

    /// As it is written in a campaign and in its matrix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "pipeline-panic",
            Self::Error => "pipeline-error",
            Self::DeviceLost => "pipeline-lost",
            Self::Hang => "pipeline-hang",
        }
    }

    /// What it is, one sentence.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Panic => "The back end's code panics.",
            Self::Error => "The back end says that it cannot go on.",
            Self::DeviceLost => {
                "The back end's GPU cannot be used again: the processor takes over, to the session's end."
            }
            Self::Hang => "The back end does not come back, until the fault is over.",
        }
    }
}

#[derive(Default)]
struct State {
    fault: Option<PipelineFault>,
    /// How often the switch was moved: whoever hangs waits for the next time.
    moves: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one of the session's pipelines fail. Clones are the same switch.
#[derive(Clone, Default)]
pub(super) struct PipelineSwitch(Arc<Shared>);

impl PipelineSwitch {
    /// The next worker that looks for a frame fails.
    pub(super) fn begin(&self, fault: PipelineFault) {
        self.turn(Some(fault));
    }

    /// Ends the fault. What hung goes on, and finds that another has taken its place.
    pub(super) fn end(&self) {
        self.turn(None);
    }

    fn turn(&self, fault: Option<PipelineFault>) {
        let mut state = self.0.state();
        state.fault = fault;
        state.moves += 1;
        drop(state);
        self.0.moved.notify_all();
    }

    /// The same pipeline behind this switch, and `stand_in` once its device was lost.
    pub(super) fn wrap(&self, build: BuildPipeline, stand_in: BuildPipeline) -> BuildPipeline {
        let shared = Arc::clone(&self.0);
        let is_lost = Arc::new(AtomicBool::new(false));
        Arc::new(move |plane, cameras| {
            let build = if is_lost.load(Ordering::Relaxed) { &stand_in } else { &build };
            let inner = build(plane, cameras)?;
            let (shared, is_lost) = (Arc::clone(&shared), Arc::clone(&is_lost));
            Ok(Box::new(FaultyPipeline { inner, shared, held: None, is_lost }))
        })
    }
}

struct FaultyPipeline {
    inner: BoxedPipeline,
    shared: Arc<Shared>,
    /// The frame to fail on, and how.
    held: Option<(Delivery, PipelineError)>,
    /// Of all lives of this pipeline.
    is_lost: Arc<AtomicBool>,
}

/// How a frame is failed on; nothing where the fault is of another kind.
fn failure(fault: PipelineFault) -> Option<PipelineError> {
    let stage = "rehearsal";
    match fault {
        PipelineFault::Error => Some(PipelineError::Stage { stage, source: "injected error".into() }),
        PipelineFault::DeviceLost => {
            Some(PipelineError::DeviceLost { stage, source: "injected error".into() })
        }
        PipelineFault::Panic | PipelineFault::Hang => None,
    }
}

impl Pipeline<Delivery> for FaultyPipeline {
    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    /// Asked at every turn of the worker, whether there are frames or not: here the fault strikes.
    fn has_room(&self) -> bool {
        let (fault, at) = {
            let mut state = self.shared.state();
            let strikes = state.fault.filter(|&fault| failure(fault).is_none());
            state.fault = state.fault.filter(|_| strikes.is_none());
            (strikes.or(state.fault), state.moves)
        };
        match fault {
            Some(PipelineFault::Panic) => panic!("injected panic in the back end"),
            Some(PipelineFault::Hang) => {
                drop(self.shared.moved.wait_while(self.shared.state(), |state| state.moves == at));
                self.inner.has_room()
            }
            Some(PipelineFault::Error | PipelineFault::DeviceLost) => self.held.is_none(),
            None => self.inner.has_room(),
        }
    }

    fn submit(&mut self, frame: Delivery) {
        match self.shared.state().fault.take().and_then(failure) {
            Some(error) => self.held = Some((frame, error)),
            None => self.inner.submit(frame),
        }
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        let Some((frame, error)) = self.held.take() else { return self.inner.collect(out) };
        self.is_lost.fetch_or(matches!(error, PipelineError::DeviceLost { .. }), Ordering::Relaxed);
        Some((frame, Err(error)))
    }

    fn forget(&mut self, camera: CameraId) {
        self.inner.forget(camera);
    }
}
