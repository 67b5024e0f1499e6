//! How a session, or one recording of it, went: `ok`, or `degraded` and why, for people and for programs.
//!
//! Owns the list of what went wrong so far, each thing once, in the order in which it was first said. Decides
//! nothing, and writes nothing: whoever closes a file or ends a session asks for the verdict.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use youquanti_models::Timestamp;

/// Reasons that a verdict lists; a camera that fails differently each time must not fill it.
const MOST_REASONS: usize = 64;

/// What kind of thing went wrong. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// The session, or the recording, was started although something that it requires is missing.
    Overridden,
    /// What a recording requires did not come, and the session ended for it.
    RequiredMissing,
    /// A camera failed; it is tried again for ever.
    CameraFailed,
    /// A camera was away when the recording began.
    CameraAway,
    /// A pipeline, the participants or the recorder failed.
    PartFailed,
    /// A part failed so often, or in such a way, that the session had to end.
    PartGivenUp,
    /// A pipeline works with something else than at the start, such as the processor after its GPU was lost.
    BackendChanged,
    /// A part did not end in good order.
    StopFailed,
    /// A file could not be written, or not to its end.
    RecordingFailed,
    /// A camera's video ended before the recording did.
    VideoFailed,
    /// The ledger does not add up: an error of this program.
    LedgerImbalance,
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of thing.
    pub code: ReasonCode,
    /// What happened, in words.
    pub text: String,
    /// When it was first noticed, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// Whether all was well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictState {
    /// All was well.
    Ok,
    /// Not all was well.
    Degraded,
}

/// How a session or a recording went. In the session file it is the JSON text of the row of `/stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether all was well.
    pub state: VerdictState,
    /// What was not, at most 64 things.
    pub reasons: Vec<Reason>,
    /// Reasons beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_reasons: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Verdict {
    /// The reasons in words.
    pub fn texts(&self) -> Vec<String> {
        let more = self.more_reasons;
        let beyond = (more > 0).then(|| format!("and {more} more, see the events"));
        self.reasons.iter().map(|reason| reason.text.clone()).chain(beyond).collect()
    }

    /// As the session file has it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Reasons {
    listed: Vec<Reason>,
    beyond: u64,
}

impl Reasons {
    fn add(&mut self, reason: &Reason) {
        if self.listed.iter().any(|known| known.text == reason.text) {
            return;
        }
        if self.listed.len() < MOST_REASONS {
            self.listed.push(reason.clone());
        } else {
            self.beyond += 1;
        }
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            state: if self.listed.is_empty() { VerdictState::Ok } else { VerdictState::Degraded },
            reasons: self.listed.clone(),
            more_reasons: self.beyond,
        }
    }
}

/// What went wrong in a session so far, and in the recording that runs.
#[derive(Debug, Default)]
pub struct Findings(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    session: Reasons,
    recording: Reasons,
}

impl Findings {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong.
    pub fn add(&self, code: ReasonCode, at: Timestamp, text: String) {
        let reason = Reason { code, text, at_ns: at.0 };
        let mut found = self.found();
        found.session.add(&reason);
        found.recording.add(&reason);
    }

    /// Something is wrong for the recording alone: it was so before it began.
    pub fn add_to_recording(&self, code: ReasonCode, at: Timestamp, text: String) {
        self.found().recording.add(&Reason { code, text, at_ns: at.0 });
    }

    /// A recording begins: what went wrong before is none of its own.
    pub fn recording_begins(&self) {
        self.found().recording = Reasons::default();
    }

    /// How the session went so far.
    pub fn of_session(&self) -> Verdict {
        self.found().session.verdict()
    }

    /// How the present recording, or the last one, went so far.
    pub fn of_recording(&self) -> Verdict {
        self.found().recording.verdict()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once_and_a_flood_is_counted() {
        let findings = Findings::default();
        assert_eq!(findings.of_session().to_json(), r#"{"state":"ok","reasons":[]}"#);
        for n in 0..100 {
            let text = format!("camera left failed: {}", n % 70);
            findings.add(ReasonCode::CameraFailed, Timestamp(n), text);
        }
        let verdict = findings.of_session();
        assert_eq!((verdict.state, verdict.reasons.len()), (VerdictState::Degraded, 64));
        assert_eq!(verdict.texts().last().map(String::as_str), Some("and 6 more, see the events"));
        let json = verdict.to_json();
        assert!(json.starts_with(
            r#"{"state":"degraded","reasons":[{"code":"camera_failed","text":"camera left failed: 0","at_ns":0}"#
        ));
        assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    }

    #[test]
    fn a_recording_answers_for_its_own_time() {
        let findings = Findings::default();
        findings.add(ReasonCode::CameraFailed, Timestamp(1), "before".to_owned());
        findings.recording_begins();
        assert_eq!(findings.of_recording().state, VerdictState::Ok);
        findings.add_to_recording(ReasonCode::CameraAway, Timestamp(2), "away".to_owned());
        findings.add(ReasonCode::BackendChanged, Timestamp(3), "during".to_owned());
        assert_eq!(findings.of_recording().texts(), ["away", "during"]);
        assert_eq!(findings.of_session().texts(), ["before", "during"]);
    }
}
