//! Recordings that start and stop while a session runs: each file stands alone, answers for its own time, and a
//! file that fails ends no session that may go on without. Cameras and pipeline are stubs; the rest is real.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::sync::Arc;

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::clock::SystemClock;
use youquanti_actors::fault;
use youquanti_actors::messages::EventKind;
use youquanti_actors::recorder::{OnFailure, RecordingRequest};
use youquanti_actors::session::{RecordingError, SessionHandle};
use youquanti_actors::session_file::{FLUSH_SOURCE, Inspection, SessionReader, flush_item};
use youquanti_actors::verdict::{ReasonCode, Verdict, VerdictState};
use youquanti_models::{Clock, Timestamp, UtcNanos};

/// Waits until all rows of so many frames, each with its result and faces, are safe in the file.
#[track_caller]
fn recorded(session: &SessionHandle, frames: u64) {
    let rows = frames * (2 + FACES as u64);
    until("all rows are safe", || session.plane().recording().is_some_and(|status| status.rows == rows));
}

fn inspect(setup: &Setup, name: &str) -> Inspection {
    SessionReader::open(&setup.dir.path().join(name)).unwrap().inspect(1000).unwrap()
}

fn verdict(inspection: &Inspection) -> Verdict {
    serde_json::from_str(&inspection.stop.as_ref().unwrap().verdict).unwrap()
}

#[test]
fn each_recording_of_a_session_stands_alone() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    one_by_one(&session, &source, 0, 3);
    assert_eq!(session.stop_recording(), Err(RecordingError::NotRecording));

    let request = RecordingRequest {
        notes: "calibrated at 9".to_owned(),
        by: "Ada".to_owned(),
        ..named("pilot/first")
    };
    let started = session.start_recording(request).unwrap();
    assert_eq!((&started.path, started.number), (&setup.dir.path().join("pilot/first.h5"), 1));
    let refused = session.start_recording(named("other"));
    assert_eq!(refused, Err(RecordingError::AlreadyRecording { path: started.path.clone() }));
    one_by_one(&session, &source, 0, 5);
    recorded(&session, 5);
    let summary = session.stop_recording().unwrap();
    assert_eq!(
        (&summary.path, &summary.frames[..], &summary.faces[..]),
        (&started.path, &[5][..], &[10][..])
    );
    assert!(session.plane().recording().is_none());

    one_by_one(&session, &source, 0, 2);
    session.mark("between");
    session.start_recording(named("second")).unwrap();
    one_by_one(&session, &source, 0, 4);
    let (report, _) = setup.finish(session);
    let files: Vec<_> =
        report.recordings.iter().map(|recording| recording.outcome.as_ref().unwrap()).collect();
    assert_eq!([&files[0].frames, &files[1].frames], [&vec![5], &vec![4]]);

    for (name, number, first_seq, frames) in [("pilot/first.h5", 1, 3, 5), ("second.h5", 2, 10, 4)] {
        let found = inspect(&setup, name);
        let camera = &found.cameras[0];
        assert_eq!((found.header.recording, camera.facts.first_seq), (number, first_seq), "{name}");
        assert_eq!((camera.frames, camera.missing_in_index, camera.analysed), (frames, 0, frames), "{name}");
        assert_eq!(camera.faces, frames * FACES as u64, "{name}");
        assert!(found.ledger_closes, "{:?}", found.ledger);
        for entry in &found.ledger {
            assert_eq!((entry.captured, entry.delivered), (frames, frames), "{name}: {entry:?}");
        }
        assert_eq!(found.participants.len(), FACES, "{name}: who is present is said at its start");
        assert_eq!(found.participants[0].name, "Ada");
        assert_eq!(found.events_by_kind["recording_started"], 1, "{name}");
        assert_eq!(found.markers, 0, "{name}: the marker was set between");
        assert_eq!(verdict(&found).state, VerdictState::Ok, "{name}");
        assert!(found.clock_drift_ppm.is_some(), "{name}: a pair of clocks at its start and one later");
        let flushes = &found.quality[FLUSH_SOURCE];
        let of = |item| flushes[item].value[0];
        assert!(of(flush_item::FLUSHES) >= 1.0 && of(flush_item::TOOK_MEAN) > 0.0, "{name}: {flushes:?}");
        assert!(of(flush_item::TOOK_MAX) >= of(flush_item::TOOK_MEAN), "{name}: {flushes:?}");
        assert!(
            of(flush_item::ROW_AGE_MAX) >= of(flush_item::TOOK_MAX),
            "{name}: a row waited for the flush, too"
        );
        assert!(found.to_string().contains("rows were safe"), "{found}");
    }
    let header = inspect(&setup, "pilot/first.h5").header;
    assert_eq!((&*header.notes, &*header.recorded_by), ("calibrated at 9", "Ada"));
}

#[test]
fn a_recording_that_begins_while_a_camera_is_away_says_so_and_answers_for_its_own_time() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free()).unrecorded();
    let session = setup.start();
    let events = session.subscribe();
    left.does(Act::Fail("loose plug"));
    restarted(&session, 0, 1);
    one_by_one(&session, &left, 0, 1);
    session.start_recording(named("sound")).unwrap();
    one_by_one(&session, &left, 0, 2);
    session.stop_recording().unwrap();

    left.refuses(u32::MAX);
    left.does(Act::Fail("pulled out"));
    events.iter().find(|event| {
        event.kind == EventKind::GapOpened && event.detail["cause"].to_string().contains("pulled")
    });
    session.start_recording(named("lame")).unwrap();
    one_by_one(&session, &right, 1, 2);
    left.refuses(0);
    restarted(&session, 0, 2);
    one_by_one(&session, &left, 0, 2);
    let (report, _) = setup.finish(session);

    assert_eq!(verdict(&inspect(&setup, "sound.h5")).state, VerdictState::Ok, "that was before");
    let lame = inspect(&setup, "lame.h5");
    let said = verdict(&lame);
    assert_eq!(said.reasons[0].code, ReasonCode::CameraAway, "{said:?}");
    assert!(said.reasons[0].text.contains("cam0") && said.reasons[0].text.contains("pulled out"), "{said:?}");
    let [gap] = &lame.gaps[..] else { panic!("{:?}", lame.gaps) };
    assert!(gap.end_ns.is_some() && gap.start_ns < lame.header.clock_start_ns, "{gap:?}");
    assert!(report.verdict.reasons.iter().any(|reason| reason.text.contains("loose plug")));
}

#[test]
fn a_file_that_fails_ends_no_session_that_may_go_on_and_another_can_be_started() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.recording.on_failure = OnFailure::Continue;
    let session = setup.start();
    let events = session.subscribe();
    one_by_one(&session, &source, 0, 3);
    recorded(&session, 3);
    let armed = fault::arm("recorder:before-flush", 0);
    let failed = events.iter().find(|event| event.kind == EventKind::RecordingFailed).unwrap();
    assert!(failed.detail["cause"].to_string().contains("injected fault"), "{failed:?}");
    assert!(!armed.is_armed());
    assert_eq!(session.stop_recording(), Err(RecordingError::NotRecording));
    one_by_one(&session, &source, 0, 4);
    session.start_recording(named("next")).unwrap();
    one_by_one(&session, &source, 0, 2);
    let (report, _) = setup.finish(session);
    assert_eq!(report.stop_reason, "test over");
    assert_eq!(report.verdict.reasons[0].code, ReasonCode::RecordingFailed);
    assert!(report.recordings[0].outcome.is_err() && report.recordings[1].outcome.is_ok());
    let (first, next) = (inspect(&setup, "session.h5"), inspect(&setup, "next.h5"));
    assert_eq!((first.cameras[0].frames, first.stop), (3, None), "it does not claim a good end");
    assert_eq!((next.cameras[0].frames, verdict(&next).state), (2, VerdictState::Ok));
}

#[test]
fn a_recording_that_cannot_begin_changes_nothing() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    std::fs::write(setup.file(), "precious").unwrap();
    let refused = |name: &str| session.start_recording(named(name)).unwrap_err().to_string();
    assert!(refused("session").contains("exists already"));
    assert!(refused("../elsewhere").contains("cannot name a file"));
    let armed = fault::arm("recorder:create", 0);
    assert!(refused("other").contains("injected fault"));
    drop(armed);
    one_by_one(&session, &source, 0, 2);
    session.start_recording(named("other")).unwrap();
    let (report, inspection) = setup.finish(session);
    assert_eq!(report.degraded, [""; 0]);
    assert_eq!(inspection.unwrap().header.recording, 1, "what never was does not count");
    assert_eq!(std::fs::read_to_string(setup.file()).unwrap(), "precious");
}

#[test]
fn a_folder_that_is_removed_while_it_is_recorded_to_is_written_again() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free()).unrecorded();
    setup.plan.recording.on_failure = OnFailure::Continue;
    let session = setup.start();
    let events = session.subscribe();
    session.start_recording(named("gone/first")).unwrap();
    one_by_one(&session, &source, 0, 4);
    recorded(&session, 4);
    std::fs::remove_dir_all(setup.dir.path().join("gone")).unwrap();
    let failed = events.iter().find(|event| event.kind == EventKind::RecordingFailed).unwrap();
    assert!(
        failed.detail["cause"].to_string().contains("was removed while it was being written"),
        "{failed:?}"
    );
    let found = inspect(&setup, "gone/first.h5");
    assert_eq!((found.cameras[0].frames, verdict(&found).state), (4, VerdictState::Degraded));
    assert_eq!(verdict(&found).reasons[0].code, ReasonCode::RecordingFailed);

    // Also when nothing was written since.
    session.start_recording(named("gone/second")).unwrap();
    one_by_one(&session, &source, 0, 2);
    std::fs::remove_file(setup.dir.path().join("gone/second.h5")).unwrap();
    session.stop_recording().ok();
    setup.finish(session);
    assert_eq!(inspect(&setup, "gone/second.h5").cameras[0].frames, 2);
}

#[test]
fn a_disk_that_will_soon_be_full_is_said_once() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    let disk = setup.dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
        .arg(&disk)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    }
    setup.plan.recording.directory = disk.clone();
    let session = setup.start();
    let events = session.subscribe();
    // 12 kB each: at that rate the disk lasts for minutes, and not for ten.
    one_by_one(&session, &source, 0, 100);
    recorded(&session, 100);
    let said = events.iter().find(|event| event.kind == EventKind::DiskLow).unwrap();
    let status = session.plane().recording().unwrap();
    assert_eq!(said.detail["path"], status.path.to_str().unwrap());
    assert_eq!(said.detail["free_bytes"], status.free_bytes);
    assert!(said.detail["seconds_left"].as_f64().unwrap() < 600.0, "{said:?}");
    let (report, inspection) = setup.finish(session);
    assert_eq!((report.degraded, inspection.unwrap().events_by_kind["disk_low"]), (vec![], 1));
    // Lazily: HDF5 may have it open in a test beside.
    std::process::Command::new("umount").arg("-l").arg(&disk).status().unwrap();
}

#[test]
fn a_journal_that_cannot_be_written_is_said_and_the_recording_goes_on() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    std::os::unix::fs::symlink("/dev/full", setup.dir.path().join("session.h5.journal")).unwrap();
    let session = setup.start();
    let events = session.subscribe();
    one_by_one(&session, &source, 0, 100);
    recorded(&session, 100);
    let said = events.iter().find(|event| event.kind == EventKind::JournalLost).unwrap();
    assert!(said.detail["cause"].as_str().unwrap().contains("No space left"), "{said:?}");
    one_by_one(&session, &source, 0, 3);
    assert_eq!(session.stop_recording().unwrap().frames, [103]);
    setup.finish(session);
    let found = inspect(&setup, "session.h5");
    assert_eq!((found.cameras[0].frames, found.events_by_kind["journal_lost"]), (103, 1));
    assert_eq!(verdict(&found).state, VerdictState::Ok);
}

/// Monotonic as ever, and a calendar that is set back by an hour each time that it is looked at.
struct SetBack(std::sync::atomic::AtomicI64);

impl Clock for SetBack {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn utc(&self) -> UtcNanos {
        UtcNanos(self.0.fetch_sub(3_600_000_000_000, std::sync::atomic::Ordering::Relaxed))
    }
}

#[test]
fn a_calendar_that_is_set_back_changes_no_stamp_and_names_no_file_twice() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.record_from_start = Some(RecordingRequest::default());
    let clock = Arc::new(SetBack(1_790_000_000_000_000_000.into()));
    let session = SessionHandle::start(setup.plan.clone(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    one_by_one(&session, &source, 0, 3);
    let first = session.stop_recording().unwrap().path;
    // As if the calendar had been set back to exactly when the first file was begun.
    clock.0.store(1_790_000_000_000_000_000, std::sync::atomic::Ordering::Relaxed);
    let second = session.start_recording(RecordingRequest::default()).unwrap().path;
    assert_ne!(first, second);
    one_by_one(&session, &source, 0, 3);
    let (report, inspection) = setup.finish(session);
    assert_eq!(report.degraded, [""; 0]);
    let inspection = inspection.unwrap();
    assert!(inspection.cameras[0].stamps_ascend && inspection.duration_s >= 0.0);
    assert!(inspection.clock_drift_ppm.unwrap() < -1e6, "the file tells it");
}

#[test]
fn orders_after_the_end_are_answered() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let mut session = setup.start();
    session.stop("test over");
    let report = session.wait(PATIENCE).unwrap();
    assert_eq!(report.recordings.len(), 1);
    assert_eq!(session.start_recording(named("late")), Err(RecordingError::Ended));
    assert_eq!(session.stop_recording(), Err(RecordingError::Ended));
}
