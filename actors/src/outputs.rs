//! Who gets results, events and gaps: every child that records, streams or shows them, in one list.
//!
//! Owns the ports of those children, and no thread. Never decides what is sent. The recorder gets everything: each send waits for room
//! in its bounded mailbox, and so does one to synchrony, which takes each frame at once. Nobody waits for the streams: what does not fit
//! into their mailbox is dropped and counted. Whoever only looks on has [`Live`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use actix::prelude::*;
use tracing::debug;
use youquanti_models::CameraId;

use crate::child::Port;
use crate::ledger::{Consumer, DropReason};
use crate::live::Live;
use crate::lsl::LslActor;
use crate::messages::{CameraGap, Event, FacesNamed, PoseFound, Streamed, SynchronyFound};
use crate::plane::DataPlane;
use crate::recorder::RecorderActor;
use crate::stats::StreamCounts;
use crate::synchrony::SynchronyActor;

/// The children that take what a session finds. Clones share the ports.
#[derive(Clone, Default)]
pub struct Outputs {
    /// Whoever looks on; never waited for.
    pub live: Live,
    /// The session file.
    pub recorder: Port<RecorderActor>,
    /// Streams over LSL.
    pub lsl: Port<LslActor>,
    /// Counts what those streams could not take.
    pub stream_counts: Arc<StreamCounts>,
    /// How alike the participants' faces move, if that is asked for.
    pub synchrony: Port<SynchronyActor>,
    /// Where the frames are that the preview shows with what was found in them, and the ledger.
    pub plane: Option<Arc<DataPlane>>,
}

impl Outputs {
    /// Hands one frame's named faces to everybody, in turn. The recorder and synchrony are waited for; what the streams cannot take
    /// is counted, and in the preview a newer one takes the place of what it has not shown.
    pub async fn faces(self, faces: FacesNamed) {
        self.live.result(&faces);
        if let Some(plane) = &self.plane {
            plane.camera(faces.faces.meta.camera).named(&faces);
        }
        self.stream(faces.faces.meta.camera, &faces);
        if let Some(recorder) = self.recorder.get()
            && recorder.send(faces.clone()).await.is_err()
        {
            debug!("the recorder is gone; the session is being stopped");
        }
        if let Some(synchrony) = self.synchrony.get()
            && synchrony.send(faces).await.is_err()
        {
            debug!("synchrony is away and misses a frame");
        }
    }

    /// Hands what was found in a frame to the streams, if there are any. What they cannot take is counted.
    fn stream<T: Clone + Send + 'static>(&self, camera: CameraId, found: &T)
    where
        LslActor: Handler<Streamed<T>>,
    {
        let Some((lsl, plane)) = self.lsl.get().zip(self.plane.as_ref()) else { return };
        let ticket = plane.ledger.offered(camera, Consumer::StreamResults);
        match lsl.try_send(Streamed { found: found.clone(), ticket }) {
            Ok(()) => {}
            Err(SendError::Full(refused)) => refused.ticket.dropped(DropReason::Full),
            // Until its next life comes, or the session's end.
            Err(SendError::Closed(refused)) => refused.ticket.dropped(DropReason::Crashed),
        }
    }

    /// Hands what was found of a body to everybody. The recorder is waited for; what the streams cannot take is counted.
    pub async fn pose(self, found: PoseFound) {
        if self.plane.as_ref().is_some_and(|plane| plane.wants_stream_poses.load(Relaxed)) {
            self.stream(found.0.meta.camera, &found);
        }
        if let Some(recorder) = self.recorder.get()
            && recorder.send(found).await.is_err()
        {
            debug!("the recorder is gone; the session is being stopped");
        }
    }

    /// Everybody who wants windows of synchrony and is waited for.
    pub fn of_synchrony(&self) -> impl Iterator<Item = Recipient<SynchronyFound>> {
        self.recorder.get().map(Addr::recipient).into_iter()
    }

    /// Hands a window of synchrony to those who are not waited for.
    pub fn try_synchrony(&self, found: &SynchronyFound) {
        if let Some(lsl) = self.lsl.get()
            && lsl.try_send(found.clone()).is_err()
        {
            self.stream_counts.windows_lost.fetch_add(1, Relaxed);
        }
    }

    /// Everybody who wants events and is waited for.
    pub fn of_events(&self) -> impl Iterator<Item = Recipient<Event>> {
        self.recorder.get().map(Addr::recipient).into_iter()
    }

    /// Hands an event to those who are not waited for.
    pub fn try_event(&self, event: &Event) {
        if let Some(lsl) = self.lsl.get()
            && lsl.try_send(event.clone()).is_err()
        {
            self.stream_counts.events_lost.fetch_add(1, Relaxed);
        }
    }

    /// Everybody who wants gaps.
    pub fn of_gaps(&self) -> impl Iterator<Item = Recipient<CameraGap>> {
        self.recorder.get().map(Addr::recipient).into_iter()
    }
}
