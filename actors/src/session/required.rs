//! What must be there for a recording to begin, beside cameras and disk: faces in view, and streams of markers.
//!
//! Owns the refusal, the wait of the recording that the session starts with, and what an override makes of both. Looks at
//! what cameras and inlets have told last, and never at the network or a picture itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::info;
use youquanti_models::Timestamp;

use super::{Recording, RecordingError, SessionActor, SessionPlan, StartRecording, State};
use crate::control::CameraState;
use crate::recorder::RecordingRequest;
use crate::verdict::ReasonCode;

/// How often it is looked whether what was missing has come.
const LOOK: Duration = Duration::from_millis(100);

/// What a recording requires, beside the streams of markers that are said to be `required`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Required {
    /// Faces in view, of all cameras together.
    pub faces: u32,
    /// How long the recording that the session starts with waits for everything that is required.
    pub within: Duration,
}

/// The recording that a session starts with, while it waits.
pub(super) struct Waiting {
    request: RecordingRequest,
    until: Timestamp,
    /// What was missing when that was last said.
    said: Vec<String>,
}

impl SessionPlan {
    /// Streams of markers that are required, with their places among all, in words.
    fn required_markers(&self) -> impl Iterator<Item = (usize, String)> {
        let queries = self.lsl.iter().flat_map(|lsl| lsl.markers.iter().enumerate());
        queries
            .filter(|(_, query)| query.required)
            .map(|(place, query)| (place, format!("a stream of markers with {query}")))
    }

    /// The recording that begins with the session's first frame. One that waits for something begins later, and one
    /// that somebody has decided on does not wait.
    pub(super) fn recording_at_start(&self) -> Option<RecordingRequest> {
        let request = self.record_from_start.clone()?;
        let faces = (self.required.faces > 0).then(|| format!("{} faces in view", self.required.faces));
        let required: Vec<_> =
            faces.into_iter().chain(self.required_markers().map(|(_, words)| words)).collect();
        let overridden = self.recording.overridden.clone().map(|mut overridden| {
            overridden.missing.extend(required.iter().map(|words| format!("{words}: not waited for")));
            overridden
        });
        (required.is_empty() || overridden.is_some()).then_some(RecordingRequest { overridden, ..request })
    }
}

impl Waiting {
    /// From now on.
    pub(super) fn new(request: RecordingRequest, session: &SessionActor) -> Self {
        let until = session.plane.clock.now() + session.plan.required.within;
        Self { request, until, said: Vec::new() }
    }
}

impl SessionActor {
    /// What is required and not there now, in words.
    fn missing(&self) -> Vec<String> {
        let (required, cameras) = (self.plan.required.faces, self.board.status().cameras);
        let running =
            self.plane.stats.iter().zip(cameras).filter(|(_, state)| *state == CameraState::Running);
        let seen: u32 = running.map(|(stats, _)| stats.faces.load(Ordering::Relaxed)).sum();
        let faces = (seen < required).then(|| format!("{seen} of {required} faces in view"));
        let there = self.plane.stream_counts.marker_streams.load(Ordering::Relaxed);
        let markers = self.plan.required_markers().filter(|(place, _)| there & (1 << place) == 0);
        faces.into_iter().chain(markers.map(|(_, words)| format!("no sign of {words}"))).collect()
    }

    /// The request as it is carried out: refused if something is missing that nobody has decided to do without.
    pub(super) fn admit(&self, mut request: RecordingRequest) -> Result<RecordingRequest, RecordingError> {
        let (missing, of_session) = (self.missing(), self.plan.recording.overridden.as_ref());
        let Some(mut given) = request.overridden.take().or_else(|| of_session.cloned()) else {
            return if missing.is_empty() { Ok(request) } else { Err(RecordingError::Missing { missing }) };
        };
        given.missing =
            of_session.iter().flat_map(|overridden| overridden.missing.clone()).chain(missing).collect();
        // A decision to do without what is there is none.
        request.overridden = Some(given).filter(|given| of_session.is_some() || !given.missing.is_empty());
        Ok(request)
    }

    /// Begins the session's first recording when everything that it requires is there; if that does not come, the session
    /// ends. Somebody who starts another recording meanwhile has decided otherwise.
    pub(super) fn begin_when_ready(&mut self, ctx: &mut Context<Self>, mut waiting: Waiting) {
        let is_undecided = matches!(self.recording, Recording::Off) && self.recordings.is_empty();
        if self.state != State::Running || !is_undecided {
            return;
        }
        let missing = self.missing();
        if missing.is_empty() {
            // That it began is said by its event.
            let (answer, answered) = oneshot::channel();
            self.start_recording(ctx, StartRecording { request: waiting.request, answer });
            ctx.spawn(actix::fut::wrap_future::<_, Self>(answered).map(|begun, session, ctx| {
                if let Ok(Err(error)) = begun {
                    session.degrade(ReasonCode::RecordingFailed, error.to_string());
                    session.begin_stop(ctx, &error.to_string());
                }
            }));
        } else if self.plane.clock.now() >= waiting.until {
            let refusal = RecordingError::Missing { missing }.to_string();
            self.degrade(ReasonCode::RequiredMissing, refusal.clone());
            self.begin_stop(ctx, &refusal);
        } else {
            if waiting.said != missing {
                info!(session = self.plan.name, ?missing, "the recording waits for what it requires");
                waiting.said = missing;
            }
            ctx.run_later(LOOK, move |session, ctx| session.begin_when_ready(ctx, waiting));
        }
    }
}
