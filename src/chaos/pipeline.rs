//! A pipeline that fails on command: any back end behind a [`PipelineSwitch`].
//!
//! Owns what each fault looks like to the pipeline's actor. Takes a frame only to fail on it; everything else
//! goes to the back end unchanged.

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
    /// The back end does not come back, until the fault is over.
    Hang,
}

impl PipelineFault {
    /// All of them.
    pub const ALL: &'static [PipelineFault] = &[Self::Panic, Self::Error, Self::Hang];

    /// As it is written in a campaign and in its matrix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "pipeline-panic",
            Self::Error => "pipeline-error",
            Self::Hang => "pipeline-hang",
        }
    }

    /// What it is, one sentence.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Panic => "The back end's code panics.",
            Self::Error => "The back end says that it cannot go on.",
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

    /// The same pipeline behind this switch.
    pub(super) fn wrap(&self, build: BuildPipeline) -> BuildPipeline {
        let shared = Arc::clone(&self.0);
        Arc::new(move |plane, cameras| {
            let inner = build(plane, cameras)?;
            Ok(Box::new(FaultyPipeline { inner, shared: Arc::clone(&shared), held: None }))
        })
    }
}

struct FaultyPipeline {
    inner: BoxedPipeline,
    shared: Arc<Shared>,
    /// The frame to fail on.
    held: Option<Delivery>,
}

impl Pipeline<Delivery> for FaultyPipeline {
    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    /// Asked at every turn of the worker, whether there are frames or not: here the fault strikes.
    fn has_room(&self) -> bool {
        let (fault, at) = {
            let mut state = self.shared.state();
            let strikes = state.fault.filter(|&fault| fault != PipelineFault::Error);
            state.fault = state.fault.filter(|_| strikes.is_none());
            (strikes.or(state.fault), state.moves)
        };
        match fault {
            Some(PipelineFault::Panic) => panic!("injected panic in the back end"),
            Some(PipelineFault::Hang) => {
                drop(self.shared.moved.wait_while(self.shared.state(), |state| state.moves == at));
                self.inner.has_room()
            }
            Some(PipelineFault::Error) => self.held.is_none(),
            None => self.inner.has_room(),
        }
    }

    fn submit(&mut self, frame: Delivery) {
        let fault = self.shared.state().fault.take();
        if fault == Some(PipelineFault::Error) {
            self.held = Some(frame);
        } else {
            self.inner.submit(frame);
        }
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(Delivery, Result<(), PipelineError>)> {
        let Some(frame) = self.held.take() else { return self.inner.collect(out) };
        Some((frame, Err(PipelineError::Stage { stage: "rehearsal", source: "injected error".into() })))
    }

    fn forget(&mut self, camera: CameraId) {
        self.inner.forget(camera);
    }
}
