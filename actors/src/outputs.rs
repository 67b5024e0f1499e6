//! Who gets results, events and gaps: every child that records, streams or shows them, in one list.
//!
//! Owns the ports of those children, and no thread. Never decides what is sent, and never drops anything: each send waits for room
//! in the receiver's bounded mailbox. A child that may fall behind takes what it is sent at once and drops for itself, counted.

use actix::prelude::*;
use tracing::debug;

use crate::child::Port;
use crate::messages::{CameraGap, Event, FacesNamed};
use crate::recorder::RecorderActor;

/// The children that take what a session finds. Clones share the ports.
#[derive(Clone, Default)]
pub struct Outputs {
    /// The session file.
    pub recorder: Port<RecorderActor>,
}

impl Outputs {
    /// Hands one frame's named faces to everybody, in turn, waiting for each.
    pub async fn faces(self, faces: FacesNamed) {
        if let Some(recorder) = self.recorder.get()
            && recorder.send(faces).await.is_err()
        {
            debug!("the recorder is gone; the session is being stopped");
        }
    }

    /// Everybody who wants events.
    pub fn of_events(&self) -> impl Iterator<Item = Recipient<Event>> {
        self.recorder.get().map(Addr::recipient).into_iter()
    }

    /// Everybody who wants gaps.
    pub fn of_gaps(&self) -> impl Iterator<Item = Recipient<CameraGap>> {
        self.recorder.get().map(Addr::recipient).into_iter()
    }
}
