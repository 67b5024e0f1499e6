//! A real session that is told what to do while it runs. Cameras and pipeline are stubs; actors, threads and files are the
//! real ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::sync::Arc;
use std::time::Duration;

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::control::{CameraState, Command, CommandError, Control, Done, Phase};
use youquanti_actors::live::Next;
use youquanti_actors::messages::EventKind;
use youquanti_models::ParticipantId;

const LONG: Duration = Duration::from_secs(60);

fn pause(camera: &str) -> Command {
    Command::PauseCamera { camera: camera.to_owned() }
}

fn resume(camera: &str) -> Command {
    Command::ResumeCamera { camera: camera.to_owned() }
}

fn mark(text: &str) -> Command {
    Command::Mark { text: text.to_owned(), lsl_time: None }
}

#[track_caller]
fn refused(control: &Control, command: Command, says: &str) {
    let error = control.execute_and_wait(command).unwrap_err().to_string();
    assert!(error.contains(says), "{error:?} does not say {says:?}");
}

#[test]
fn a_camera_is_paused_resumed_and_restarted_and_the_other_loses_nothing() {
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    let control = session.control();
    let mut events = control.events();
    let mut wait_for = |kind: EventKind| loop {
        match events.next(LONG) {
            Next::Item(event) if event.kind == kind => return event,
            Next::Item(_) => {}
            other => panic!("{other:?} while waiting for {kind:?}"),
        }
    };
    one_by_one(&session, &left, 0, 3);

    refused(&control, resume("cam0"), "resume_camera: camera cam0 is running; allowed now: pause_camera");
    refused(&control, pause("lift"), "there is no camera \"lift\"; there are cam0, cam1");
    assert_eq!(control.execute_and_wait(pause("cam0")), Ok(Done::Paused { camera: "cam0".to_owned() }));
    assert_eq!(wait_for(EventKind::GapOpened).detail["cause"], "paused by the operator");
    assert_eq!(wait_for(EventKind::CameraPaused).source, "camera cam0");
    assert_eq!(control.status().cameras, [CameraState::Paused, CameraState::Running]);
    refused(&control, pause("cam0"), "camera cam0 is paused; allowed now: resume_camera");
    one_by_one(&session, &right, 1, 5);

    assert_eq!(control.execute_and_wait(resume("cam0")), Ok(Done::Resuming { camera: "cam0".to_owned() }));
    wait_for(EventKind::GapClosed);
    wait_for(EventKind::CameraResumed);
    until("the board shows it", || control.status().cameras[0] == CameraState::Running);
    one_by_one(&session, &left, 0, 3);

    let restart = Command::RestartCamera { camera: "cam0".to_owned() };
    assert_eq!(control.execute_and_wait(restart), Ok(Done::Restarting { camera: "cam0".to_owned() }));
    wait_for(EventKind::ChildRestarted);
    one_by_one(&session, &left, 0, 3);
    assert_eq!(left.times_opened(), 3);

    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_eq!(report.degraded, [""; 0], "what was asked for is no failure");
    assert_eq!((report.cameras[0].ledger.captured, report.cameras[1].ledger.captured), (9, 5));
    let causes: Vec<_> = inspection.gaps.iter().map(|gap| &*gap.cause).collect();
    assert_eq!(causes, ["paused by the operator", "restarted by the operator"]);
    assert_eq!(control.status().phase, Phase::Ended);
    refused(&control, mark("too late"), "the session is ended; allowed now: nothing");
}

#[test]
fn a_session_with_a_paused_camera_ends_like_any_other() {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    let control = session.control();
    control.execute_and_wait(pause("cam0")).unwrap();
    assert_eq!(control.execute_and_wait(Command::Stop { reason: "enough".to_owned() }), Ok(Done::Stopping));
    let (report, _) = setup.finish(session);
    assert_eq!((&*report.stop_reason, report.degraded), ("enough", vec![]));
}

#[test]
fn markers_have_the_time_that_they_say_and_names_are_kept() {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    let control = session.control();
    one_by_one(&session, &source, 0, 2);
    until("both were seen", || control.status().people.len() == FACES);
    assert_eq!(control.status().name_of(ParticipantId(1)), "Ada");

    let rename = |participant: &str, name: &str| Command::RenameParticipant {
        participant: participant.to_owned(),
        name: name.to_owned(),
    };
    let renamed = Done::Renamed { participant: "P2".to_owned(), name: "Grace".to_owned() };
    assert_eq!(control.execute_and_wait(rename("P2", " Grace ")), Ok(renamed));
    refused(&control, rename("P9", "Nobody"), "there is no participant \"P9\"; there are P1, P2");
    refused(&control, rename("P2", "Ada"), "is the name of P1 already");
    refused(&control, rename("P2", "\n"), "name is not 1 to 64 characters");
    assert_eq!(control.status().name_of(ParticipantId(2)), "Grace");

    let now = session.plane().clock.now();
    let earlier = Command::Mark { text: "earlier".to_owned(), lsl_time: Some(now.0 as f64 / 1e9 - 0.25) };
    let Ok(Done::Marked { at_ns }) = control.execute_and_wait(earlier) else { panic!() };
    assert!((now.0 - at_ns).abs_diff(250_000_000) < 1000, "{at_ns}");
    let later = Command::Mark { text: "later".to_owned(), lsl_time: Some(now.0 as f64 / 1e9 + 3600.0) };
    assert!(matches!(control.execute_and_wait(later), Err(CommandError::Invalid { key: "lsl_time", .. })));
    refused(&control, mark(""), "text has 0 bytes");

    let (_, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_eq!(inspection.events_by_kind.get("marker"), Some(&1));
    let names: Vec<_> = inspection.participants.iter().map(|person| &*person.name).collect();
    assert_eq!(names, ["Ada", "Grace"]);
}

#[test]
fn a_listener_that_never_reads_costs_the_session_nothing_and_a_reader_gets_every_result() {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    let (mut idle, mut reader) = (session.control().results(), session.control().results());
    for seq in 0..600 {
        one_by_one(&session, &source, 0, 1);
        let Next::Item(result) = reader.next(LONG) else { panic!() };
        assert_eq!((result.faces.meta.seq, result.faces.faces.len()), (seq, FACES));
        assert_eq!(Arc::as_ptr(&result.faces), Arc::as_ptr(&result.clone().faces), "shared, not copied");
    }
    let (report, _) = setup.finish(session);
    assert_eq!(report.cameras[0].ledger.captured, 600);
    assert_eq!((reader.missed(), reader.next(LONG).is_end()), (0, true));
    let mut read = 0;
    while let Next::Item(_) = idle.next(LONG) {
        read += 1;
    }
    assert!(idle.missed() > 0 && read > 0);
    assert_eq!(idle.missed() + read, 600, "what was missed is counted");
}

fn start(name: &str, lsl_time: Option<f64>) -> Command {
    let (notes, by) = ("a test".to_owned(), "tester".to_owned());
    Command::StartRecording { name: Some(name.to_owned()), notes, by, lsl_time, override_reason: None }
}

#[test]
fn of_two_who_start_a_recording_one_wins_and_both_learn_it() {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    let outcomes = std::thread::scope(|scope| {
        let ask = |name: &'static str| {
            let control = session.control();
            std::thread::Builder::new()
                .spawn_scoped(scope, move || control.execute_and_wait(start(name, None)))
                .unwrap()
        };
        ["one", "other"].map(ask).map(|asking| asking.join().unwrap())
    });
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Done::RecordingStarted { .. }))).count();
    assert_eq!(won, 1, "{outcomes:?}");
    let lost = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).unwrap();
    assert!(matches!(lost, CommandError::NotNow { command: "start_recording", .. }), "{lost:?}");
    one_by_one(&session, &source, 0, 4);
    let control = session.control();
    let stopped = control.execute_and_wait(Command::StopRecording);
    assert!(matches!(stopped, Ok(Done::RecordingStopped { complete: true, frames: 4, .. })), "{stopped:?}");
    refused(&control, Command::StopRecording, "the session is not recording; allowed now: start_recording");
    refused(&control, start("../escape", None), "cannot name a file");
    setup.finish(session);
}

#[test]
fn a_recording_begins_at_the_time_it_was_told_unless_it_is_called_off() {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    let control = session.control();
    let now = || session.plane().clock.now().0 as f64 / 1e9;
    refused(&control, start("late", Some(now() - 1.0)), "is not from now to a day ahead");

    let called_off = control.execute_and_wait(start("never", Some(now() + 3600.0)));
    assert!(matches!(called_off, Ok(Done::RecordingScheduled { .. })), "{called_off:?}");
    assert!(control.status().recording_at.is_some());
    refused(&control, start("now", None), "about to record, at the time it was told");
    refused(&control, start("then", Some(now() + 60.0)), "about to record, at the time it was told");
    assert_eq!(control.execute_and_wait(Command::StopRecording), Ok(Done::RecordingCalledOff));

    let at = now() + 0.2;
    let Ok(Done::RecordingScheduled { at_ns }) = control.execute_and_wait(start("then", Some(at))) else {
        panic!()
    };
    until("the recording has begun", || session.plane().recording().is_some());
    let recording = session.plane().recording().unwrap();
    assert!(recording.started_at.0 >= at_ns && recording.path.ends_with("then.h5"), "{recording:?}");
    assert_eq!(control.status().recording_at, None);
    setup.finish(session);
}
