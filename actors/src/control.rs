//! What a running session can be told to do: one set of commands for the library, the command line and the network.
//!
//! Owns the commands, what they answer, and the board on which the session shows its state. Never carries anything out:
//! [`crate::session`] does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use youquanti_models::{CameraId, CameraName, ParticipantId, Timestamp, TrackId};

use crate::live::{Listen, Stream, wait_for};
use crate::messages::{Event, FacesNamed};
use crate::plane::DataPlane;

/// Longest text of a marker, a note or a reason, bytes.
pub const LONGEST_TEXT: usize = 4096;

/// Longest name of a participant, characters.
pub const LONGEST_NAME: usize = 64;

/// What a session can be told to do. As JSON, `{"command": "mark", "text": "stimulus on"}`; times are seconds of
/// `CLOCK_MONOTONIC`, which is what `lsl_local_clock()` gives.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Set a marker.
    Mark {
        /// What it says, 1 to 4096 bytes.
        text: String,
        /// When it was, on this machine's monotonic clock; not in the future. Without it: when it is received.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lsl_time: Option<f64>,
    },
    /// Give a participant a name, from now on.
    RenameParticipant {
        /// Who: `P1`, `P2`, ….
        participant: String,
        /// 1 to 64 characters, none of them a control character.
        name: String,
    },
    /// Close a camera and open it again: after its settings were changed by another program, say. A gap in its data.
    RestartCamera {
        /// Which.
        camera: String,
    },
    /// Close a camera until it is resumed. A gap in its data.
    PauseCamera {
        /// Which.
        camera: String,
    },
    /// Open a paused camera again.
    ResumeCamera {
        /// Which.
        camera: String,
    },
    /// Make a file and record to it.
    StartRecording {
        /// Name of the file without its ending, also with folders, relative to the session's directory. Without it: session and UTC.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// What is to be known about it; an attribute of the file.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        notes: String,
        /// Who asks for it; an attribute of the file.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        by: String,
        /// When to begin, on this machine's monotonic clock, at most a day ahead; the file is made then. Without it: now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lsl_time: Option<f64>,
        /// Why to record although something that recordings require is missing: faces in view, streams of markers. Needs `by`.
        #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
        override_reason: Option<String>,
    },
    /// Close the file, or call off a recording that has not begun. The session goes on.
    StopRecording,
    /// End the session in good order.
    Stop {
        /// Why, for report and file.
        #[serde(default = "asked_for")]
        reason: String,
    },
}

fn asked_for() -> String {
    "asked for".to_owned()
}

impl Command {
    /// Name in JSON, messages and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::Mark { .. } => "mark",
            Command::RenameParticipant { .. } => "rename_participant",
            Command::RestartCamera { .. } => "restart_camera",
            Command::PauseCamera { .. } => "pause_camera",
            Command::ResumeCamera { .. } => "resume_camera",
            Command::StartRecording { .. } => "start_recording",
            Command::StopRecording => "stop_recording",
            Command::Stop { .. } => "stop",
        }
    }
}

/// What a command did. As JSON, `{"done": "marked", …}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum Done {
    /// The marker is set.
    Marked {
        /// With this stamp, nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
    },
    /// The participant has the name.
    Renamed {
        /// Who.
        participant: String,
        /// The name.
        name: String,
    },
    /// The camera is closed and is being opened again; the event `child_restarted` says when it is back.
    Restarting {
        /// Which.
        camera: String,
    },
    /// The camera is closed.
    Paused {
        /// Which.
        camera: String,
    },
    /// The camera is being opened; the event `camera_resumed` says when it is back.
    Resuming {
        /// Which.
        camera: String,
    },
    /// The file is open, and recorded to.
    RecordingStarted {
        /// The file.
        path: String,
        /// Counts the recordings of the session from 1.
        number: u32,
        /// From when on it covers the session, nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
    },
    /// The recording begins at that time; the event `recording_started` says that it has.
    RecordingScheduled {
        /// When, nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
    },
    /// The recording that was to begin will not.
    RecordingCalledOff,
    /// The file is closed.
    RecordingStopped {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// Whether all that belongs to it is in it.
        complete: bool,
        /// Frames of all cameras.
        frames: u64,
        /// Faces of all cameras.
        faces: u64,
    },
    /// The session is ending.
    Stopping,
}

/// Why a command was refused, or failed. Nothing was changed, unless it says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The session, or the camera that it is about, is not in a state for it.
    #[error("{command}: {whose} is {state}; allowed now: {}", list(allowed))]
    NotNow {
        /// What was asked for.
        command: &'static str,
        /// `the session`, `camera left`.
        whose: String,
        /// What it is.
        state: String,
        /// Commands that would be carried out.
        allowed: Vec<&'static str>,
    },
    /// There is nobody and nothing of that name.
    #[error("{command}: there is no {what}; there {}", are(known))]
    Unknown {
        /// What was asked for.
        command: &'static str,
        /// `camera "lift"`.
        what: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A value that cannot be.
    #[error("{command}: {key} {wrong}")]
    Invalid {
        /// What was asked for.
        command: &'static str,
        /// Which value.
        key: &'static str,
        /// What is wrong with it, and what may stand there.
        wrong: String,
    },
    /// What recordings require is not there, and nobody has decided to do without.
    #[error(
        "{command}: missing: {}; see to it, or give the reason to record all the same as override, with by",
        missing.join(", ")
    )]
    Missing {
        /// What was asked for.
        command: &'static str,
        /// What is missing, in words.
        missing: Vec<String>,
    },
    /// It was tried, and did not work.
    #[error("{command} failed: {cause}")]
    Failed {
        /// What was asked for.
        command: &'static str,
        /// Why.
        cause: String,
    },
}

fn list(allowed: &[&'static str]) -> String {
    if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") }
}

fn are(known: &[String]) -> String {
    if known.is_empty() { "is none yet".to_owned() } else { format!("are {}", known.join(", ")) }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Cameras are being opened, networks loaded.
    #[default]
    Arming,
    /// Cameras run.
    Running,
    /// It is ending: cameras stop, the file is being closed.
    Stopping,
    /// It is over.
    Ended,
}

impl Phase {
    /// Name in JSON and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Arming => "arming",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a camera stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraState {
    /// It is being opened for the first time.
    #[default]
    Opening,
    /// It delivers.
    Running,
    /// It failed, and is tried again and again.
    Away,
    /// It is being closed, to stay so until it is resumed.
    Pausing,
    /// It is closed until it is resumed.
    Paused,
    /// It is being opened again after a pause, or closed and opened on request.
    Returning,
    /// It came to its natural end.
    Ended,
}

impl CameraState {
    /// Name in JSON and messages.
    pub const fn name(self) -> &'static str {
        match self {
            CameraState::Opening => "opening",
            CameraState::Running => "running",
            CameraState::Away => "away",
            CameraState::Pausing => "pausing",
            CameraState::Paused => "paused",
            CameraState::Returning => "returning",
            CameraState::Ended => "ended",
        }
    }

    /// Commands for the camera that would be carried out.
    pub const fn allowed(self) -> &'static [&'static str] {
        match self {
            CameraState::Running | CameraState::Away | CameraState::Returning => {
                &["pause_camera", "restart_camera"]
            }
            CameraState::Paused => &["resume_camera"],
            CameraState::Opening | CameraState::Pausing | CameraState::Ended => &[],
        }
    }
}

/// Somebody who has been seen, or is expected by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub id: ParticipantId,
    /// As people call them; `P1` and so on without a name.
    pub name: String,
    /// Camera and track of the last time that a track was given to them.
    pub seen: Option<(CameraId, TrackId)>,
}

/// Where a session and its parts stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The session.
    pub phase: Phase,
    /// Its cameras, in the order of their ids.
    pub cameras: Vec<CameraState>,
    /// Everybody, in the order of their ids.
    pub people: Vec<Person>,
    /// When a recording begins that was asked for ahead.
    pub recording_at: Option<Timestamp>,
}

impl Status {
    /// A participant's name.
    pub fn name_of(&self, id: ParticipantId) -> String {
        let person = self.people.iter().find(|person| person.id == id);
        person.map_or_else(|| id.to_string(), |person| person.name.clone())
    }
}

/// Where the session shows its state. Clones share it; nobody who reads it holds the session up.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Status>>);

impl Board {
    /// The state now.
    pub fn status(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update<T>(&self, update: impl FnOnce(&mut Status) -> T) -> T {
        update(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A command on its way to the session, with the time at which it was received.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Done, CommandError>")]
pub(crate) struct Order {
    pub(crate) command: Command,
    pub(crate) received_at: Timestamp,
}

/// A handle on a session for whoever steers or watches it: any number of clones, on any thread. Keeps nothing alive.
#[derive(Clone)]
pub struct Control {
    session: Recipient<Order>,
    plane: Arc<DataPlane>,
    board: Board,
    listen: Listen,
}

impl Control {
    pub(crate) fn new(
        session: Recipient<Order>,
        plane: Arc<DataPlane>,
        board: Board,
        listen: Listen,
    ) -> Self {
        Self { session, plane, board, listen }
    }

    /// Has a command carried out; answered when it is.
    ///
    /// # Errors
    /// When it is not carried out, and why.
    pub async fn execute(&self, command: Command) -> Result<Done, CommandError> {
        let name = command.name();
        let order = Order { command, received_at: self.plane.clock.now() };
        self.session.send(order).await.unwrap_or_else(|_| Err(self.over(name)))
    }

    /// The same for threads without an executor.
    ///
    /// # Errors
    /// When it is not carried out, and why.
    pub fn execute_and_wait(&self, command: Command) -> Result<Done, CommandError> {
        let name = command.name();
        wait_for(self.execute(command), None).unwrap_or_else(|| Err(self.over(name)))
    }

    fn over(&self, command: &'static str) -> CommandError {
        let (whose, state) = ("the session".to_owned(), Phase::Ended.to_string());
        CommandError::NotNow { command, whose, state, allowed: Vec::new() }
    }

    /// Where the session and its parts stand. Never waits for the session.
    pub fn status(&self) -> Status {
        self.board.status()
    }

    /// Live figures and ledger.
    pub fn plane(&self) -> &Arc<DataPlane> {
        &self.plane
    }

    /// Results from now on. A listener that falls 256 of them behind misses the oldest, and is told how many.
    pub fn results(&self) -> Stream<FacesNamed> {
        self.listen.results()
    }

    /// Events from now on. A listener that falls 1024 of them behind misses the oldest, and is told how many.
    pub fn events(&self) -> Stream<Event> {
        self.listen.events()
    }

    /// Id of a camera by its name.
    pub fn camera(&self, name: &str) -> Option<CameraId> {
        camera_of(&self.plane, name)
    }
}

/// Id of a camera by its name.
pub(crate) fn camera_of(plane: &DataPlane, name: &str) -> Option<CameraId> {
    plane.camera_ids().find(|&id| plane.camera(id).plan.name.as_str() == name)
}

/// The camera that a command is about.
pub(crate) fn find_camera(
    plane: &DataPlane,
    command: &'static str,
    name: &str,
) -> Result<CameraId, CommandError> {
    camera_of(plane, name).ok_or_else(|| CommandError::Unknown {
        command,
        what: format!("camera {name:?}"),
        known: plane.camera_names().iter().map(CameraName::to_string).collect(),
    })
}

/// A text that a command gives.
pub(crate) fn check_text(command: &'static str, key: &'static str, text: &str) -> Result<(), CommandError> {
    if (1..=LONGEST_TEXT).contains(&text.len()) {
        return Ok(());
    }
    let wrong = format!("has {} bytes: 1 to {LONGEST_TEXT} are possible", text.len());
    Err(CommandError::Invalid { command, key, wrong })
}

/// A name that a command gives, without the space around it.
pub(crate) fn check_name(command: &'static str, name: &str) -> Result<String, CommandError> {
    let name = name.trim();
    let good = (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if good {
        return Ok(name.to_owned());
    }
    let wrong = format!("is not 1 to {LONGEST_NAME} characters without control characters");
    Err(CommandError::Invalid { command, key: "name", wrong })
}

/// A marker's stamp.
pub(crate) fn check_time(
    command: &'static str,
    lsl_time: f64,
    now: Timestamp,
) -> Result<Timestamp, CommandError> {
    let invalid = |wrong: String| CommandError::Invalid { command, key: "lsl_time", wrong };
    if !lsl_time.is_finite() || lsl_time < 0.0 {
        return Err(invalid(format!("= {lsl_time} is no time: seconds of the monotonic clock are expected")));
    }
    let at = Timestamp((lsl_time * 1e9).round() as u64);
    if at > now {
        let ahead = at.saturating_since(now).as_secs_f64();
        let wrong = format!(
            "is {ahead:.3} s in the future; the clock is CLOCK_MONOTONIC of the session's machine, now {:.6} s",
            now.0 as f64 / 1e9
        );
        return Err(invalid(wrong));
    }
    Ok(at)
}

/// When something is to begin: from now to a day ahead.
pub(crate) fn check_start(
    command: &'static str,
    lsl_time: f64,
    now: Timestamp,
) -> Result<Timestamp, CommandError> {
    let ahead = lsl_time - now.0 as f64 / 1e9;
    if (0.0..=86_400.0).contains(&ahead) {
        return Ok(Timestamp((lsl_time * 1e9).round() as u64));
    }
    let wrong = format!(
        "= {lsl_time} is not from now to a day ahead; the clock is CLOCK_MONOTONIC of the session's machine, now {:.6} s",
        now.0 as f64 / 1e9
    );
    Err(CommandError::Invalid { command, key: "lsl_time", wrong })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_json_with_a_name_each() {
        let mark = r#"{"command":"mark","text":"stimulus on"}"#;
        let command: Command = serde_json::from_str(mark).unwrap();
        assert_eq!(command, Command::Mark { text: "stimulus on".to_owned(), lsl_time: None });
        assert_eq!(serde_json::to_string(&command).unwrap(), mark);
        for (wrong, says) in [
            (r#"{"command":"explode"}"#, "unknown variant `explode`"),
            (r#"{"command":"mark"}"#, "missing field `text`"),
            (r#"{"command":"mark","text":"a","at":1}"#, "unknown field `at`"),
            (r#"{"text":"a"}"#, "missing field `command`"),
        ] {
            let error = serde_json::from_str::<Command>(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn errors_say_what_is_allowed_now() {
        let allowed = CameraState::Paused.allowed().to_vec();
        let (whose, state) = ("camera left".to_owned(), CameraState::Paused.name().to_owned());
        let error = CommandError::NotNow { command: "pause_camera", whose, state, allowed };
        assert_eq!(error.to_string(), "pause_camera: camera left is paused; allowed now: resume_camera");
    }

    #[test]
    fn a_time_of_another_clock_is_refused() {
        let now = Timestamp(5_000_000_000);
        assert_eq!(check_time("mark", 4.25, now), Ok(Timestamp(4_250_000_000)));
        for wrong in [f64::NAN, -1.0, f64::INFINITY, 1e300, 6.0] {
            assert!(check_time("mark", wrong, now).is_err(), "{wrong}");
        }
        let text = check_time("mark", 6.5, now).unwrap_err().to_string();
        assert!(text.contains("1.500 s in the future") && text.contains("now 5.000000 s"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_command_or_an_error(text in ".{0,200}") {
            if let Ok(command) = serde_json::from_str::<Command>(&text) {
                let again: Command = serde_json::from_str(&serde_json::to_string(&command).unwrap()).unwrap();
                prop_assert_eq!(again, command);
            }
        }

        #[test]
        fn names_that_pass_are_trimmed_and_short(name in "\\PC{0,80}") {
            if let Ok(good) = check_name("rename_participant", &name) {
                prop_assert_eq!(good.trim(), &good);
                prop_assert!((1..=LONGEST_NAME).contains(&good.chars().count()));
            }
        }
    }
}
