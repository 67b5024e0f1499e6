//! What a recording requires, beside cameras and disk: it is refused, waits, or is somebody's decision. Cameras and pipeline
//! are stubs; the rest is real. Streams of markers are in `tests/lsl`, with real ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::time::Duration;

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::control::{Command, CommandError, Done};
use youquanti_actors::messages::EventKind;
use youquanti_actors::recorder::{Override, RecordingRequest};
use youquanti_actors::session::{RecordingError, Required, SessionHandle};
use youquanti_actors::session_file::Inspection;
use youquanti_actors::verdict::{ReasonCode, Verdict, VerdictState};

/// More than any wait of a test.
const LONG: Duration = Duration::from_secs(3600);

fn verdict(inspection: &Inspection) -> Verdict {
    serde_json::from_str(&inspection.stop.as_ref().unwrap().verdict).unwrap()
}

fn decided(missing: &[&str]) -> Override {
    let missing = missing.iter().map(ToString::to_string).collect();
    Override { reason: "the other one is ill".to_owned(), by: "Ada".to_owned(), missing }
}

/// Waits until the faces of a frame are known.
#[track_caller]
fn seen(session: &SessionHandle, source: &Source) {
    let captured = camera(session, 0).captured;
    source.frames(1);
    settled(session, 0, captured + 1);
    until("its faces are known", || {
        session.plane().stats[0].faces.load(std::sync::atomic::Ordering::Relaxed) == FACES as u32
    });
}

#[test]
fn a_recording_without_the_faces_that_it_requires_is_refused_unless_somebody_decides_otherwise() {
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free()).unrecorded();
    setup.plan.required = Required { faces: FACES as u32, within: LONG };
    let session = setup.start();
    let events = session.subscribe();
    let none = "0 of 2 faces in view";
    let refused = RecordingError::Missing { missing: vec![none.to_owned()] };
    assert_eq!(session.start_recording(named("refused")), Err(refused));

    // The same by the command that all doors have, which says what can be done.
    let command = |by: &str, reason: Option<&str>| Command::StartRecording {
        name: Some("decided".to_owned()),
        notes: String::new(),
        by: by.to_owned(),
        lsl_time: None,
        override_reason: reason.map(str::to_owned),
    };
    let execute = |command| session.control().execute_and_wait(command);
    let error = execute(command("Ada", None)).unwrap_err();
    assert!(matches!(&error, CommandError::Missing { missing, .. } if *missing == [none]), "{error:?}");
    assert!(error.to_string().contains(none) && error.to_string().contains("override"), "{error}");
    for (by, reason, key) in [("", "the other one is ill", "by"), ("Ada", "", "override")] {
        let error = execute(command(by, Some(reason))).unwrap_err();
        assert!(matches!(error, CommandError::Invalid { key: wrong, .. } if wrong == key), "{error:?}");
    }
    let done = execute(command("Ada", Some("the other one is ill"))).unwrap();
    assert!(matches!(done, Done::RecordingStarted { number: 1, .. }), "{done:?}");
    let said = events.iter().find(|event| event.kind == EventKind::Overridden).unwrap();
    assert_eq!(said.detail["missing"][0], none);
    session.stop_recording().unwrap();

    seen(&session, &source);
    session.start_recording(named("plain")).unwrap();
    session.stop_recording().unwrap();
    // Nothing is missing, so nothing is decided.
    let needless = RecordingRequest { overridden: Some(decided(&[])), ..named("needless") };
    session.start_recording(needless).unwrap();
    let (report, needless) = setup.finish(session);

    let [decided_file, plain_file, _] = &report.recordings[..] else { panic!("{:?}", report.recordings) };
    let inspect =
        |path| youquanti_actors::session_file::SessionReader::open(path).unwrap().inspect(9).unwrap();
    let (with, plain, needless) = (inspect(&decided_file.path), inspect(&plain_file.path), needless.unwrap());
    assert_eq!(with.header.overridden, Some(decided(&[none])));
    assert_eq!(verdict(&with).reasons[0].code, ReasonCode::Overridden);
    assert!(with.to_string().contains(none), "{with}");
    for found in [&plain, &needless] {
        assert_eq!((&found.header.overridden, verdict(found).state), (&None, VerdictState::Ok));
    }
    assert_eq!(report.verdict.reasons[0].code, ReasonCode::Overridden);
    assert!(!setup.dir.path().join("refused.h5").exists());
}

#[test]
fn the_recording_of_a_session_waits_for_faces() {
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.required = Required { faces: FACES as u32, within: LONG };
    let session = setup.start();
    let events = session.subscribe();
    assert!(session.plane().recording().is_none() && !setup.file().exists());
    seen(&session, &source);
    events.iter().find(|event| event.kind == EventKind::RecordingStarted).unwrap();
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_eq!((verdict(&inspection).state, inspection.cameras[0].facts.first_seq), (VerdictState::Ok, 1));
    assert_eq!((report.verdict.state, inspection.header.overridden), (VerdictState::Ok, None));
}

#[test]
fn a_session_whose_faces_never_come_ends_without_a_file_and_says_why() {
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.required = Required { faces: 3, within: Duration::from_millis(1) };
    let mut session = setup.start();
    let report = session.wait(PATIENCE).expect("it ends by itself");
    let [reason] = &report.verdict.reasons[..] else { panic!("{:?}", report.verdict) };
    assert_eq!(reason.code, ReasonCode::RequiredMissing);
    assert!(reason.text.contains("of 3 faces in view"), "{reason:?}");
    assert_eq!(report.stop_reason, reason.text);
    assert!(report.recordings.is_empty() && !setup.file().exists());
}

#[test]
fn a_session_that_somebody_decided_on_waits_for_nobody() {
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.required = Required { faces: 3, within: LONG };
    setup.plan.recording.overridden = Some(decided(&["camera left"]));
    let session = setup.start();
    seen(&session, &source);
    session.stop_recording().unwrap();
    session.start_recording(named("second")).unwrap();
    let (report, second) = setup.finish(session);
    let first =
        youquanti_actors::session_file::SessionReader::open(&setup.file()).unwrap().inspect(9).unwrap();
    assert_eq!(first.header.overridden, Some(decided(&["camera left", "3 faces in view: not waited for"])));
    assert_eq!(first.cameras[0].frames, 1, "from the first frame on");
    assert_eq!(second.unwrap().header.overridden, Some(decided(&["camera left", "2 of 3 faces in view"])));
    assert_eq!(report.recordings.len(), 2);
}
