//! How the session carries out what it is told to: markers, names, cameras, its end.
//!
//! Owns which command is possible in which state. What a command changes is said as an event, so that file, log and listeners
//! have it. Never waits where it could hold up the session: closing a camera is waited for aside.

use actix::prelude::*;
use serde_json::json;
use tokio::sync::oneshot;
use tracing::warn;
use youquanti_models::{CameraId, ParticipantId, Timestamp, TrackId};

use super::{PATIENCE, RecordingError, SessionActor, StartRecording, State, StopRecording, child_name};
use crate::control::{
    CameraState, Command, CommandError, Done, Order, Person, Phase, check_name, check_start, check_text,
    check_time, find_camera,
};
use crate::messages::{ChildId, Event, EventKind};
use crate::recorder::{Override, RecordingRequest, can_name_a_file};
use crate::supervisor::ReviveChild;
use crate::verdict::ReasonCode;

type Answer = Result<Done, CommandError>;

impl SessionActor {
    /// Where the session stands, for whoever looks at the board.
    pub(super) fn show_phase(&self) {
        let phase = match self.state {
            State::Arming => Phase::Arming,
            State::Running => Phase::Running,
            State::Stopping => Phase::Stopping,
        };
        self.board.update(|status| status.phase = phase);
    }

    /// Where a camera stands. What is being paused stays so, whatever is heard of it meanwhile.
    pub(super) fn show_camera(&self, camera: CameraId, state: CameraState) {
        self.board.update(|status| {
            let Some(shown) = status.cameras.get_mut(usize::from(camera.0)) else { return };
            let is_held = matches!(shown, CameraState::Pausing | CameraState::Paused);
            if !is_held {
                *shown = state;
            }
        });
    }

    fn set_camera(&self, camera: CameraId, state: CameraState) {
        self.board.update(|status| status.cameras[usize::from(camera.0)] = state);
    }

    fn camera_state(&self, camera: CameraId) -> CameraState {
        self.board.status().cameras[usize::from(camera.0)]
    }

    /// Notes who was seen where, from the event that says so.
    pub(super) fn note_participant(&self, event: &Event) {
        let number = |key: &str| event.detail[key].as_u64();
        let id = event.detail["participant"].as_str().and_then(|id| id.parse().ok());
        let (Some(id), Some(camera), Some(track)) = (id, number("camera"), number("track")) else { return };
        let seen = Some((CameraId(camera as u16), TrackId(track as u32)));
        self.board.update(|status| match status.people.binary_search_by_key(&id, |person| person.id) {
            Ok(at) => status.people[at].seen = seen,
            Err(at) => status.people.insert(at, Person { id, name: id.to_string(), seen }),
        });
    }

    fn require_running(&self, command: &'static str) -> Result<(), CommandError> {
        if self.state == State::Running {
            return Ok(());
        }
        let (whose, state) = ("the session".to_owned(), self.board.status().phase.to_string());
        Err(CommandError::NotNow { command, whose, state, allowed: Vec::new() })
    }

    /// The camera that a command is about, if the command is possible in its state.
    fn require_camera(&self, command: &'static str, name: &str) -> Result<CameraId, CommandError> {
        self.require_running(command)?;
        let camera = find_camera(&self.plane, command, name)?;
        let state = self.camera_state(camera);
        let allowed = state.allowed();
        if allowed.contains(&command) {
            return Ok(camera);
        }
        Err(CommandError::NotNow {
            command,
            whose: child_name(&self.plane, ChildId::Camera(camera)),
            state: state.name().to_owned(),
            allowed: allowed.to_vec(),
        })
    }

    fn mark_from_outside(
        &mut self,
        ctx: &mut Context<Self>,
        received_at: Timestamp,
        text: String,
        lsl_time: Option<f64>,
    ) -> Answer {
        self.require_running("mark")?;
        check_text("mark", "text", &text)?;
        let at = lsl_time.map_or(Ok(received_at), |time| check_time("mark", time, received_at))?;
        self.mark(ctx, at, text);
        Ok(Done::Marked { at_ns: at.0 })
    }

    fn rename(&mut self, ctx: &mut Context<Self>, participant: &str, name: &str) -> Answer {
        const COMMAND: &str = "rename_participant";
        self.require_running(COMMAND)?;
        let name = check_name(COMMAND, name)?;
        let people = self.board.status().people;
        let id = participant.parse::<ParticipantId>().ok();
        let Some(person) = people.iter().find(|person| Some(person.id) == id) else {
            let what = format!("participant {participant:?}");
            let known = people.iter().map(|person| person.id.to_string()).collect();
            return Err(CommandError::Unknown { command: COMMAND, what, known });
        };
        if let Some(other) = people.iter().find(|other| other.id != person.id && other.name == name) {
            let wrong = format!("= {name:?} is the name of {} already", other.id);
            return Err(CommandError::Invalid { command: COMMAND, key: "name", wrong });
        }
        let detail = json!({
            "participant": person.id.to_string(),
            "name": name,
            "before": person.name,
            "camera": person.seen.map(|(camera, _)| camera.0),
            "track": person.seen.map(|(_, track)| track.0),
        });
        self.board.update(|status| {
            if let Some(shown) = status.people.iter_mut().find(|shown| shown.id == person.id) {
                shown.name.clone_from(&name);
            }
        });
        self.emit(ctx, "operator", EventKind::ParticipantRenamed, detail);
        Ok(Done::Renamed { participant: person.id.to_string(), name })
    }

    /// Closes a camera; with `then_back`, opens it again at once.
    fn close_camera(
        &mut self,
        ctx: &mut Context<Self>,
        camera: CameraId,
        then_back: bool,
    ) -> ResponseActFuture<Self, Answer> {
        let now = self.plane.clock.now();
        let cause = if then_back { "restarted by the operator" } else { "paused by the operator" };
        self.set_camera(camera, CameraState::Pausing);
        self.open_gap(ctx, camera, now, cause);
        let name = child_name(&self.plane, ChildId::Camera(camera));
        if !then_back {
            self.emit(ctx, &name, EventKind::CameraPaused, json!({}));
        }
        let cast = self.cast.clone();
        let closing = async move {
            let stopped = match &cast {
                Some(cast) => cast.stop_child(ChildId::Camera(camera), PATIENCE).await,
                None => Ok(Ok(())),
            };
            stopped.unwrap_or_else(|gone| Err(gone.to_string()))
        };
        Box::pin(actix::fut::wrap_future::<_, Self>(closing).map(move |stopped, session, ctx| {
            if let Err(trouble) = stopped {
                warn!(camera = name, trouble, "closing the camera on request");
                session.degrade(ReasonCode::StopFailed, format!("{name} {trouble}"));
            }
            session.set_camera(camera, CameraState::Paused);
            let camera_name = session.plane.camera(camera).plan.name.to_string();
            if then_back && session.state == State::Running {
                session.revive(ctx, camera);
                return Ok(Done::Restarting { camera: camera_name });
            }
            Ok(Done::Paused { camera: camera_name })
        }))
    }

    /// Opens a camera that was closed on request.
    fn revive(&mut self, ctx: &mut Context<Self>, camera: CameraId) {
        self.set_camera(camera, CameraState::Returning);
        if let Some(cast) = &self.cast {
            let reviving = cast.supervisor.send(ReviveChild(ChildId::Camera(camera)));
            ctx.spawn(actix::fut::wrap_future::<_, Self>(reviving).map(|_, _, _| ()));
        }
    }

    fn begin_recording(
        &mut self,
        ctx: &mut Context<Self>,
        request: RecordingRequest,
    ) -> ResponseActFuture<Self, Answer> {
        const COMMAND: &str = "start_recording";
        let refusal = match self.scheduled {
            Some(_) => Err(already_scheduled(COMMAND)),
            None => self.check_request(COMMAND, &request),
        };
        if let Err(refusal) = refusal {
            return Box::pin(actix::fut::ready(Err(refusal)));
        }
        let (answer, answered) = oneshot::channel();
        self.start_recording(ctx, StartRecording { request, answer });
        Box::pin(actix::fut::wrap_future::<_, Self>(answered).map(|started, session, _| {
            let started = started.unwrap_or(Err(RecordingError::Ended));
            let started = started.map_err(|error| session.recording_refused(COMMAND, error))?;
            let path = started.path.display().to_string();
            Ok(Done::RecordingStarted { path, number: started.number, at_ns: started.at.0 })
        }))
    }

    /// What a client says of a recording that can never become one.
    fn check_request(&self, command: &'static str, request: &RecordingRequest) -> Result<(), CommandError> {
        // That one is being recorded is said first.
        if self.plane.recording().is_some() {
            return Ok(());
        }
        let invalid = |key, wrong: String| Err(CommandError::Invalid { command, key, wrong });
        for (key, text) in [("notes", &request.notes), ("by", &request.by)] {
            if text.contains('\0') {
                return invalid(key, "has a character that no file can hold".to_owned());
            }
        }
        if let Some(overridden) = &request.overridden {
            check_text(command, "override", &overridden.reason)?;
            if overridden.by.is_empty() {
                return invalid("by", "is empty: say who decides to do without what is required".to_owned());
            }
        }
        let Some(name) = &request.name else { return Ok(()) };
        let directory = &self.plan.recording.directory;
        if !can_name_a_file(name) {
            let wrong = format!(
                "= {name:?} cannot name a file: write a name, or folders and a name, at most 200 bytes each, relative to {}",
                directory.display()
            );
            return invalid("name", wrong);
        }
        if directory.join(format!("{name}.h5")).exists() {
            return invalid(
                "name",
                format!("= {name:?} is there already: recordings are never written over"),
            );
        }
        Ok(())
    }

    /// Has a recording begin later. Until then, or until it is called off, no other can begin.
    fn schedule(
        &mut self,
        ctx: &mut Context<Self>,
        now: Timestamp,
        request: RecordingRequest,
        lsl_time: f64,
    ) -> Answer {
        const COMMAND: &str = "start_recording";
        self.require_running(COMMAND)?;
        let at = check_start(COMMAND, lsl_time, now)?;
        self.check_request(COMMAND, &request)?;
        if self.scheduled.is_some() {
            return Err(already_scheduled(COMMAND));
        }
        if let Some(recording) = self.plane.recording() {
            let error = RecordingError::AlreadyRecording { path: recording.path };
            return Err(self.recording_refused(COMMAND, error));
        }
        let wait = at.saturating_since(self.plane.clock.now());
        self.scheduled = Some(ctx.run_later(wait, move |session, ctx| {
            session.scheduled = None;
            session.board.update(|status| status.recording_at = None);
            let begun = session.begin_recording(ctx, request);
            ctx.spawn(begun.map(|begun, _, _| {
                if let Err(error) = begun {
                    warn!(%error, "the recording that was to begin now did not");
                }
            }));
        }));
        self.board.update(|status| status.recording_at = Some(at));
        Ok(Done::RecordingScheduled { at_ns: at.0 })
    }

    fn end_recording(&mut self, ctx: &mut Context<Self>) -> ResponseActFuture<Self, Answer> {
        const COMMAND: &str = "stop_recording";
        if let Some(timer) = self.scheduled.take() {
            ctx.cancel_future(timer);
            self.board.update(|status| status.recording_at = None);
            return Box::pin(actix::fut::ready(Ok(Done::RecordingCalledOff)));
        }
        let (answer, answered) = oneshot::channel();
        self.stop_recording(ctx, StopRecording(answer));
        Box::pin(actix::fut::wrap_future::<_, Self>(answered).map(|stopped, session, _| {
            let stopped = stopped.unwrap_or(Err(RecordingError::Ended));
            let summary = stopped.map_err(|error| session.recording_refused(COMMAND, error))?;
            Ok(Done::RecordingStopped {
                path: summary.path.display().to_string(),
                bytes: summary.file_bytes,
                complete: summary.complete,
                frames: summary.frames.iter().sum(),
                faces: summary.faces.iter().sum(),
            })
        }))
    }

    /// The same refusal as of every command.
    fn recording_refused(&self, command: &'static str, error: RecordingError) -> CommandError {
        let (state, allowed) = match error {
            RecordingError::Failed { cause } => return CommandError::Failed { command, cause },
            RecordingError::Missing { missing } => return CommandError::Missing { command, missing },
            RecordingError::NotRunning { .. } => (self.board.status().phase.to_string(), Vec::new()),
            RecordingError::Ended => (Phase::Ended.to_string(), Vec::new()),
            RecordingError::AlreadyRecording { path } => {
                (format!("recording to {}", path.display()), vec!["stop_recording", "mark"])
            }
            RecordingError::NotRecording => ("not recording".to_owned(), vec!["start_recording"]),
            RecordingError::Busy { doing } => (format!("busy: its file is being {doing}"), vec!["mark"]),
        };
        CommandError::NotNow { command, whose: "the session".to_owned(), state, allowed }
    }

    fn carry_out(&mut self, ctx: &mut Context<Self>, order: Order) -> ResponseActFuture<Self, Answer> {
        let command = order.command.name();
        let answer = match order.command {
            Command::Mark { text, lsl_time } => {
                self.mark_from_outside(ctx, order.received_at, text, lsl_time)
            }
            Command::RenameParticipant { participant, name } => self.rename(ctx, &participant, &name),
            Command::PauseCamera { camera } => match self.require_camera(command, &camera) {
                Ok(camera) => return self.close_camera(ctx, camera, false),
                Err(error) => Err(error),
            },
            Command::RestartCamera { camera } => match self.require_camera(command, &camera) {
                Ok(camera) => return self.close_camera(ctx, camera, true),
                Err(error) => Err(error),
            },
            Command::ResumeCamera { camera } => self.require_camera(command, &camera).map(|id| {
                self.resumed.insert(id);
                self.revive(ctx, id);
                Done::Resuming { camera }
            }),
            Command::StartRecording { name, notes, by, lsl_time, override_reason } => {
                let decided = |reason| Override { reason, by: by.clone(), missing: Vec::new() };
                let overridden = override_reason.map(decided);
                let request = RecordingRequest { name, notes, by, overridden };
                match lsl_time.map(|time| self.schedule(ctx, order.received_at, request.clone(), time)) {
                    None => return self.begin_recording(ctx, request),
                    Some(answer) => answer,
                }
            }
            Command::StopRecording => return self.end_recording(ctx),
            Command::Stop { reason } => self
                .require_running(command)
                .and_then(|()| check_text(command, "reason", &reason))
                .map(|()| {
                    self.begin_stop(ctx, &reason);
                    Done::Stopping
                }),
        };
        Box::pin(actix::fut::ready(answer))
    }
}

fn already_scheduled(command: &'static str) -> CommandError {
    CommandError::NotNow {
        command,
        whose: "the session".to_owned(),
        state: "about to record, at the time it was told".to_owned(),
        allowed: vec!["stop_recording", "mark"],
    }
}

impl Handler<Order> for SessionActor {
    type Result = ResponseActFuture<Self, Answer>;

    fn handle(&mut self, order: Order, ctx: &mut Self::Context) -> Self::Result {
        tracing::debug!(command = ?order.command, "told to");
        self.carry_out(ctx, order)
    }
}
