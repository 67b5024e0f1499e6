//! Real sessions in which one thing goes wrong: what is lost, what is not, and what the report and the file
//! say about it. Cameras and pipeline are stubs; actors, threads, rings and files are the real ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::fault;
use youquanti_actors::ledger::{Consumer, DropReason};
use youquanti_actors::messages::{Event, EventKind};
use youquanti_actors::pipeline::BuildError;
use youquanti_actors::plane::{CameraLine, FrameMailbox};
use youquanti_actors::session::{SessionReport, StartError};
use youquanti_actors::session_file::{Inspection, SessionReader};
use youquanti_actors::supervision::WhenExhausted;
use youquanti_actors::synchrony::{Group, SynchronyOptions};
use youquanti_models::{PictureLayout, PixelFormat};

fn says(report: &SessionReport, text: &str) -> bool {
    report.degraded.iter().any(|reason| reason.contains(text))
}

#[track_caller]
fn assert_says(report: &SessionReport, text: &str) {
    assert!(says(report, text), "{:?} does not say {text:?}", report.degraded);
}

fn verdict(inspection: &Inspection) -> serde_json::Value {
    serde_json::from_str(&inspection.stop.as_ref().unwrap().verdict).unwrap()
}

fn gaps_of<'a>(inspection: &'a Inspection, source: &str) -> Vec<&'a str> {
    inspection.gaps.iter().filter(|gap| gap.source == source).map(|gap| &*gap.cause).collect()
}

/// Sequence numbers of a camera's frames, as the file has them.
fn seqs(setup: &Setup, camera: usize) -> Vec<u64> {
    let reader = SessionReader::open(&setup.file()).unwrap();
    let rows = reader.frames(camera, 0..reader.frame_count(camera)).unwrap();
    rows.iter().map(|row| row.seq).collect()
}

#[test]
fn a_session_without_faults_delivers_everything_and_says_so() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    one_by_one(&session, &left, 0, 20);
    one_by_one(&session, &right, 1, 20);
    assert_eq!(setup.rings(), ["youquanti.test.cam0", "youquanti.test.cam1"]);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_eq!((&*report.stop_reason, &report.degraded[..]), ("test over", &[][..]));
    assert_eq!(verdict(&inspection)["state"], "ok");
    for (camera, found) in report.cameras.iter().zip(&inspection.cameras) {
        assert!(offered(&camera.ledger).all(|c| c.delivered == 20 && c.dropped_total() == 0));
        assert_eq!((found.frames, found.faces), (20, 20 * FACES as u64));
    }
    assert_eq!(inspection.gaps.len(), 0);
    assert_eq!(inspection.participants.len(), 2 * FACES, "two places in each of two cameras");
    assert_eq!((&*inspection.participants[0].name, &*inspection.participants[1].name), ("Ada", "P2"));
    assert_eq!(names_in(&setup.dir.path().join("traces")), [""; 0]);
}

#[test]
fn no_thread_is_left_after_the_end() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    for name in ["yq-session", "yq-cam-cam0", "yq-pipeline-0", "yq-participants", "yq-recorder"] {
        assert_eq!(threads_named(name).len(), 1, "{name}");
    }
    setup.finish(session);
    until("all threads have ended", || threads_named("yq-").is_empty());
}

/// A camera fails as `act` says, and comes back; the other camera does not notice.
#[track_caller]
fn check_camera_fault(cause: &str, arm: impl FnOnce(&Source) -> Option<fault::Armed>) {
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    one_by_one(&session, &left, 0, 5);
    one_by_one(&session, &right, 1, 5);
    let armed = arm(&left);
    one_by_one(&session, &right, 1, 5);
    restarted(&session, 0, 1);
    drop(armed);
    one_by_one(&session, &left, 0, 5);
    one_by_one(&session, &right, 1, 5);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_says(&report, &format!("camera cam0 failed: {cause}"));
    assert_eq!(verdict(&inspection)["state"], "degraded");
    assert!(verdict(&inspection)["reasons"].to_string().contains(cause));
    assert_eq!((report.cameras[0].restarts, report.cameras[1].restarts), (1, 0));
    assert_eq!(report.cameras[1].ledger.captured, 15);
    assert_eq!(report.cameras[1].ledger.driver_lost, 0);
    assert!(offered(&report.cameras[1].ledger).all(|c| c.delivered == 15));
    assert_eq!(seqs(&setup, 1), (0..15).collect::<Vec<_>>());
    assert_eq!(seqs(&setup, 0), (0..10).collect::<Vec<_>>(), "numbers go on over a restart");
    let [gap] = &inspection.gaps[..] else { panic!("{:?}", inspection.gaps) };
    assert_eq!((&*gap.source, gap.cause.contains(cause)), ("cam0", true), "{gap:?}");
    let reader = SessionReader::open(&setup.file()).unwrap();
    let frames = reader.frames(0, 0..10).unwrap();
    assert_eq!(gap.start_ns, frames[4].captured_at_ns, "the last good frame");
    let end = gap.start_ns as f64 + gap.duration_s * 1e9;
    assert!(gap.duration_s > 0.0 && end <= frames[5].captured_at_ns as f64 + 1e3, "{gap:?}");
    for kind in ["child_failed", "child_restarted"] {
        assert_eq!(inspection.events_by_kind.get(kind), Some(&1), "{kind}");
    }
    assert_eq!(report.traces.len(), 1);
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report.traces[0]).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 5);
}

#[test]
fn a_device_that_fails_is_opened_again() {
    let _serial = serially();
    check_camera_fault("dequeue failed: usb gone", |left| {
        left.does(Act::Fail("usb gone"));
        None
    });
}

#[test]
fn a_device_that_panics_is_opened_again() {
    let _serial = serially();
    check_camera_fault("panic: scripted", |left| {
        left.does(Act::Panic);
        None
    });
}

#[test]
fn a_panic_after_capture_costs_that_frame_alone() {
    let _serial = serially();
    check_camera_fault("panic: injected fault at camera:captured", |left| {
        let armed = fault::arm("camera:captured", 0);
        left.frames(1);
        // Disarmed by the panic itself, before the other camera gets a frame.
        until("the point has panicked", || !armed.is_armed());
        Some(armed)
    });
}

#[test]
fn a_camera_that_cannot_be_opened_again_at_once_is_tried_until_it_can() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    one_by_one(&session, &source, 0, 3);
    let tries = 2 * RESTARTS.max_restarts as u32 + 4;
    source.refuses(tries);
    let armed = fault::arm("camera:open", 1);
    source.does(Act::Fail("usb gone"));
    restarted(&session, 0, 1);
    assert!(!armed.is_armed(), "one of the openings panicked");
    assert_eq!(source.times_opened(), 1 + tries + 1);
    one_by_one(&session, &source, 0, 3);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    for cause in ["usb gone", "scripted is not connected", "panic: injected fault at camera:open"] {
        assert_says(&report, cause);
    }
    assert_eq!(gaps_of(&inspection, "cam0"), ["dequeue failed: usb gone"], "one gap in all");
    assert_eq!(inspection.events_by_kind["child_failed"], RESTARTS.max_restarts as u64);
    assert!(inspection.events_by_kind["child_degraded"] > 1);
    assert_eq!(seqs(&setup, 0), (0..6).collect::<Vec<_>>());
}

#[test]
fn a_camera_that_is_still_away_at_the_end_has_its_gap_in_the_file() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    one_by_one(&session, &left, 0, 3);
    left.refuses(u32::MAX);
    left.does(Act::Fail("usb gone"));
    until("it was tried again", || left.times_opened() > 5);
    one_by_one(&session, &right, 1, 3);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_says(&report, "usb gone");
    assert_eq!(gaps_of(&inspection, "cam0"), ["dequeue failed: usb gone"]);
    let last_of_left = SessionReader::open(&setup.file()).unwrap().frames(0, 2..3).unwrap()[0];
    assert_eq!(inspection.gaps[0].start_ns, last_of_left.captured_at_ns);
}

#[test]
fn a_camera_that_never_delivered_has_a_gap_from_the_start() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    source.does(Act::Fail("usb gone"));
    restarted(&session, 0, 1);
    let (report, inspection) = setup.finish(session);
    let gap = &inspection.unwrap().gaps[0];
    assert!(gap.start_ns >= report.started_at.0, "not from the beginning of time: {gap:?}");
}

#[test]
fn a_camera_may_come_back_with_other_pictures() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let mut plan = setup.plan.clone();
    let other =
        Source::with_layout(Pace::Real, PictureLayout::packed(80, 60, PixelFormat::Grey)).plan("cam0").open;
    let (first, times) = (Arc::clone(&plan.cameras[0].open), Mutex::new(0));
    plan.cameras[0].open = Arc::new(move |clock| {
        *times.lock().unwrap() += 1;
        if *times.lock().unwrap() == 1 { first(clock) } else { other(clock) }
    });
    let setup = Setup { plan, ..setup };
    let session = setup.start();
    one_by_one(&session, &source, 0, 3);
    source.does(Act::Fail("mode changed"));
    restarted(&session, 0, 1);
    assert_eq!(setup.rings(), ["youquanti.test.cam0.1"], "the former ring has lost its name");
    setup.finish(session);
}

#[test]
fn what_a_driver_loses_damages_or_stamps_wrongly_is_counted_and_marked() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    one_by_one(&session, &source, 0, 2);
    source.does(Act::Lose(7));
    one_by_one(&session, &source, 0, 1);
    source.does(Act::Damaged);
    settled(&session, 0, 4);
    // One stamp an hour ahead, one an hour ago: both are replaced, and neither spoils those that follow.
    for ahead in [3_600_000_000_000, -3_600_000_000_000] {
        let captured = camera(&session, 0).captured;
        source.does(Act::Stamped(1, ahead));
        settled(&session, 0, captured + 1);
    }
    one_by_one(&session, &source, 0, 2);
    // Some drivers name the moment at which a frame should end: that far ahead is sound.
    source.does(Act::Stamped(1, 10_000_000));
    settled(&session, 0, 9);
    let (report, inspection) = setup.finish(session);
    let found = &inspection.unwrap().cameras[0];
    assert_eq!((report.cameras[0].ledger.driver_lost, found.driver_lost), (7, 7));
    assert_eq!(dropped(&report.cameras[0].ledger.consumers[0], DropReason::Damaged), 1);
    assert_eq!(found.stamps_replaced, 2, "those that are wrong, and no others");
    assert_eq!(report.degraded, [""; 0], "a camera's weakness is no failure of the session");
}

#[test]
fn a_source_that_ends_ends_the_session() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Lossless), Source::new(Pace::Lossless));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let mut session = setup.start();
    left.frames(50);
    left.does(Act::End);
    until("the first source has ended", || camera(&session, 0).captured == 50);
    right.frames(50);
    right.does(Act::End);
    let report = session.wait(PATIENCE).expect("nobody asked it to end");
    assert_eq!(&*report.stop_reason, "every source came to its end");
    assert_eq!((report.degraded.len(), report.imbalances.len()), (0, 0));
    for camera in &report.cameras {
        assert!(offered(&camera.ledger).all(|c| c.delivered == 50), "{:?}", camera.ledger);
    }
    let inspection = SessionReader::open(&setup.file()).unwrap().inspect(100).unwrap();
    assert_eq!(inspection.events_by_kind["camera_ended"], 2);
    assert_eq!(inspection.cameras[1].faces, 50 * FACES as u64);
}

#[test]
fn sources_without_frames_end_the_session_too() {
    let _serial = serially();
    let sources = [(); 3].map(|()| Source::new(Pace::Lossless));
    sources.iter().for_each(|source| source.does(Act::End));
    let setup = Setup::new(&sources.each_ref(), Stub::free()).unrecorded();
    let report = setup.start().wait(PATIENCE).expect("it ends by itself");
    assert_eq!(&*report.stop_reason, "every source came to its end");
}

#[test]
fn what_ends_a_session_before_it_is_up_ends_it_once_it_is() {
    let _serial = serially();
    let (failing, slow) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let mut setup = Setup::new(&[&failing, &slow], Stub::free());
    setup.plan.restarts.max_restarts = 0;
    setup.plan.restarts.when_exhausted = WhenExhausted::Escalate;
    failing.does(Act::Fail("usb gone"));
    // The second camera's thread is busy, so the barrier opens for the first one alone, which fails for good
    // while the session still waits for the second.
    let (gate, open) = (Arc::new(Gate::default()), Arc::clone(&setup.plan.cameras[1].open));
    let busy = Arc::clone(&gate);
    setup.plan.cameras[1].open = Arc::new(move |clock| {
        let busy = Arc::clone(&busy);
        actix_rt::spawn(async move { busy.pass() });
        open(clock)
    });
    let traces = setup.dir.path().join("traces");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the session has heard of the failure", || names_in(&traces).len() == 1);
            gate.open_for_good();
        });
        let report = setup.start().wait(PATIENCE).expect("it ends by itself");
        assert_eq!(&*report.stop_reason, "camera cam0 failed for good");
    });
}

#[test]
fn a_lossless_session_with_a_slow_pipeline_loses_nothing() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Lossless), Source::new(Pace::Lossless));
    let stub = Stub::gated(2);
    let setup = Setup::new(&[&left, &right], Arc::clone(&stub));
    let mut session = setup.start();
    for source in [&left, &right] {
        source.frames(100);
        source.does(Act::End);
    }
    for passed in 1..=30 {
        until("a frame waits at the gate", || stub.entered() == passed);
        let under_way = |id| camera(&session, id).captured - camera(&session, id).consumers[0].delivered;
        assert!(under_way(0) <= 4 && under_way(1) <= 4, "no more than there are slots");
        stub.gate().open(1);
    }
    stub.gate().open_for_good();
    let report = session.wait(PATIENCE).expect("it ends by itself");
    for camera in &report.cameras {
        assert!(offered(&camera.ledger).all(|c| c.delivered == 100), "{:?}", camera.ledger);
    }
    assert_eq!(report.degraded, [""; 0]);
}

#[test]
fn a_slow_pipeline_costs_a_live_camera_old_frames_and_the_index_none() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let stub = Stub::gated(1);
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    source.frames(1);
    until("the pipeline is busy", || stub.entered() == 1);
    source.frames(50);
    until("all are captured", || camera(&session, 0).captured == 51);
    stub.gate().open_for_good();
    settled(&session, 0, 51);
    let (report, inspection) = setup.finish(session);
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, dropped(&pipeline, DropReason::Replaced)), (2, 49), "first and newest");
    assert_eq!(index.delivered, 51);
    assert_eq!(report.degraded, [""; 0], "that is what live means");
    let reader = SessionReader::open(&setup.file()).unwrap();
    let faces = reader.faces(0, 0..inspection.unwrap().cameras[0].faces).unwrap();
    assert_eq!(faces.iter().map(|row| row.frame_seq).collect::<Vec<_>>(), [0, 0, 50, 50]);
}

#[test]
fn without_a_free_slot_frames_are_counted_and_indexed() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    // Four slots; a pipeline that holds four frames leaves none.
    let stub = Stub::gated(4);
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    source.frames(1);
    until("the pipeline is busy", || stub.entered() == 1);
    stub.gate().open(1);
    source.frames(1);
    until("the next frame is at the gate", || stub.entered() == 2);
    source.frames(20);
    until("all are captured", || camera(&session, 0).captured == 22);
    stub.gate().open_for_good();
    settled(&session, 0, 22);
    let (report, _) = setup.finish(session);
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert_eq!(pipeline.delivered + pipeline.dropped_total(), 22);
    assert_eq!(index.delivered, 22, "a frame without a picture is a frame");
}

#[test]
fn a_pipeline_that_panics_loses_what_it_holds_and_nothing_else() {
    let _serial = serially();
    let source = Source::new(Pace::Lossless);
    let stub = Stub::free();
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    stub.trouble(0, 3, Trouble::Panic);
    stub.trouble(0, 5, Trouble::Picture);
    stub.trouble(0, 7, Trouble::Stage);
    source.frames(12);
    settled(&session, 0, 12);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    let of = |reason| dropped(&pipeline, reason);
    assert_eq!(
        (of(DropReason::Crashed), of(DropReason::Undecodable), of(DropReason::Failed)),
        (1, 1, 1),
        "{pipeline:?}"
    );
    assert_eq!((pipeline.delivered, index.delivered, report.cameras[0].restarts), (9, 12, 0));
    assert_says(&report, "pipeline 0 failed: panic: scripted");
    assert_says(&report, "pipeline 0 failed: pipeline stage detect failed: scripted");
    assert_eq!(inspection.gaps.len(), 0, "the camera was never away");
    assert_eq!(inspection.events_by_kind["child_restarted"], 2);
    assert_eq!(inspection.participants.len(), FACES, "tracks and participants survive");
}

#[test]
fn a_pipeline_that_fails_with_several_frames_inside_accounts_for_each() {
    let _serial = serially();
    let sources = [(); 3].map(|()| Source::new(Pace::Lossless));
    let stub = Stub::gated(6);
    let setup = Setup::new(&sources.each_ref(), Arc::clone(&stub));
    let session = setup.start();
    let events = session.subscribe();
    // The first frame waits at the gate, and what comes meanwhile fills the back end when it is through.
    sources[0].frames(1);
    until("the first frame is being worked on", || stub.entered() == 1);
    stub.trouble(1, 0, Trouble::Stage);
    sources.iter().for_each(|source| source.frames(2));
    until("all wait", || {
        let waiting =
            |line: &CameraLine| matches!(&line.frames, FrameMailbox::Lossless(frames) if frames.len() == 2);
        session.plane().cameras.iter().all(waiting)
    });
    stub.gate().open(2);
    event(&events, EventKind::ChildRestarted);
    stub.gate().open_for_good();
    (0..3).for_each(|id| settled(&session, id, 2 + u64::from(id == 0)));
    let (report, _) = setup.finish(session);
    let pipelines = report.cameras.iter().map(|camera| camera.ledger.consumers[0]);
    let counts: Vec<_> = pipelines
        .map(|p| (p.delivered, dropped(&p, DropReason::Failed), dropped(&p, DropReason::Crashed)))
        .collect();
    // Each camera in its turn, beginning with the second: that one's frame fails, and five are inside with it.
    assert_eq!(counts, [(1, 0, 2), (0, 1, 1), (0, 0, 2)]);
    assert_says(&report, "pipeline 0 failed: pipeline stage detect failed: scripted");
}

#[test]
fn a_pipeline_that_loses_its_device_goes_on_with_another() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let stub = Stub::going_over_to("other");
    let setup = Setup::new(&[&left, &right], Arc::clone(&stub));
    let session = setup.start();
    let events = session.subscribe();
    stub.trouble(0, 2, Trouble::DeviceLost);
    one_by_one(&session, &left, 0, 3);
    let changed = event(&events, EventKind::BackendChanged);
    assert_eq!((&*changed.source, &changed.detail["cameras"]), ("pipeline 0", &json!(["cam0", "cam1"])));
    let [from, to] = ["from", "to"].map(|key| changed.detail[key].clone());
    assert_eq!(
        (&from["backend"], &to["backend"], &to["device"]),
        (&json!("stub"), &json!("other"), &json!("none"))
    );
    assert_eq!((&to["reason"], &to["models"]), (&json!("the device was lost"), &json!({})));
    one_by_one(&session, &left, 0, 4);
    one_by_one(&session, &right, 1, 4);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, dropped(&pipeline, DropReason::Failed), index.delivered), (6, 1, 7));
    assert_eq!(report.cameras[1].ledger.consumers[0].delivered, 4);
    assert_says(&report, "pipeline 0 failed: device lost in pipeline stage landmarks: scripted");
    assert_says(&report, "pipeline 0 went over from stub on none to other on none: the device was lost");
    assert_eq!(report.backend.unwrap().backend, "stub", "what the session began with, as in its file");
    assert_eq!(
        (&*inspection.header.backend, verdict(&inspection)["state"].as_str()),
        ("stub", Some("degraded"))
    );
    assert_eq!(inspection.events_by_kind["backend_changed"], 1);
    assert_eq!(inspection.gaps.len(), 0, "no camera was away");
}

#[test]
fn a_pipeline_that_nothing_can_replace_ends_the_session_with_a_whole_file() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let stub = Stub::free();
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let mut session = setup.start();
    one_by_one(&session, &source, 0, 3);
    stub.trouble(0, 3, Trouble::DeviceLost);
    source.frames(1);
    let report = session.wait(PATIENCE).expect("it ends by itself");
    assert_eq!(report.stop_reason, "pipeline 0 failed for good");
    assert_says(&report, "pipeline 0 failed for good: the device was lost");
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, dropped(&pipeline, DropReason::Failed), index.delivered), (3, 1, 4));
    assert_eq!(report.imbalances, []);
    assert!(report.recordings[0].outcome.as_ref().unwrap().complete);
    let inspection = SessionReader::open(&setup.file()).unwrap().inspect(100).unwrap();
    assert_eq!((inspection.events_by_kind["child_given_up"], inspection.cameras[0].frames), (1, 4));
}

#[test]
fn a_pipeline_that_can_never_be_built_is_an_error_of_the_start() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.pipelines[0].build = Arc::new(|_, _| Err(BuildError::ForGood("no such device".into())));
    let error = check_no_start(&setup);
    assert_eq!(error.to_string(), "pipeline 0 cannot be built: no such device");
}

#[test]
fn frames_of_several_cameras_wait_for_each_other_but_not_at_the_end() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let stub = Stub::deep(4);
    let mut setup = Setup::new(&[&left, &right], Arc::clone(&stub));
    // Longer than any test: what is computed was not waited for.
    setup.plan.pipelines[0].batch_wait = Duration::from_secs(86_400);
    let session = setup.start();
    for n in 1..=5 {
        left.frames(1);
        until("it is captured", || camera(&session, 0).captured == n);
        right.frames(1);
        settled(&session, 0, n);
        settled(&session, 1, n);
    }
    left.frames(1);
    until("it is captured", || camera(&session, 0).captured == 6);
    let (report, _) = setup.finish(session);
    let delivered = report.cameras.iter().map(|camera| camera.ledger.consumers[0].delivered);
    assert_eq!(delivered.collect::<Vec<_>>(), [6, 5]);
    assert_eq!(report.degraded, [""; 0]);
}

#[test]
fn a_panic_between_pipeline_and_result_costs_one_frame() {
    let _serial = serially();
    let source = Source::new(Pace::Lossless);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    let armed = fault::arm("pipeline:collected", 4);
    source.frames(10);
    settled(&session, 0, 10);
    assert!(!armed.is_armed());
    let (report, _) = setup.finish(session);
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, dropped(&pipeline, DropReason::Crashed)), (9, 1));
    assert_eq!(index.delivered, 10);
    assert_says(&report, "pipeline 0 failed: panic: injected fault at pipeline:collected");
}

#[test]
fn a_pipeline_that_cannot_be_built_again_at_once_is_tried_until_it_can() {
    let _serial = serially();
    let source = Source::new(Pace::Lossless);
    let stub = Stub::free();
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    let armed = fault::arm("pipeline:build", 0);
    stub.trouble(0, 2, Trouble::Stage);
    source.frames(6);
    settled(&session, 0, 6);
    assert!(!armed.is_armed());
    let (report, _) = setup.finish(session);
    assert_eq!(report.cameras[0].ledger.consumers[0].delivered, 5);
    assert_says(&report, "panic: injected fault at pipeline:build");
}

#[test]
fn a_panic_of_the_participants_loses_no_result_and_nobody_changes_their_number() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Lossless), Source::new(Pace::Lossless));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    one_by_one(&session, &left, 0, 3);
    one_by_one(&session, &right, 1, 3);
    let armed = fault::arm("participants:found", 0);
    // With an empty memory everybody would be announced again.
    one_by_one(&session, &right, 1, 3);
    assert!(!armed.is_armed());
    one_by_one(&session, &left, 0, 3);
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_says(&report, "participants failed: panicked");
    let reader = SessionReader::open(&setup.file()).unwrap();
    for (camera, people) in [[1, 3], [2, 4]].into_iter().enumerate() {
        let rows = reader.faces(camera, 0..6 * FACES as u64).unwrap();
        assert_eq!(reader.face_count(camera), rows.len() as u64, "each result once");
        for (k, row) in rows.iter().enumerate() {
            let (seq, who) = ((k / FACES) as u64, people[k % FACES]);
            assert_eq!((row.frame_seq, row.participant), (seq, who), "camera {camera}, row {k}");
        }
    }
    assert_eq!(inspection.events_by_kind["participant"], 2 * FACES as u64, "nobody is announced twice");
}

#[test]
fn a_panic_of_synchrony_costs_no_result() {
    let _serial = serially();
    let camera = Source::new(Pace::Lossless);
    let mut setup = Setup::new(&[&camera], Stub::free());
    let groups = vec![Group { name: "jaw".to_owned(), channels: vec![25] }];
    setup.plan.synchrony = Some(SynchronyOptions {
        participants: 2,
        rate: 30,
        window: Duration::from_secs(1),
        step: Duration::from_secs(1),
        max_lag: Duration::ZERO,
        history: Duration::from_secs(2),
        shifts: 19,
        seed: 1,
        groups,
    });
    let session = setup.start();
    assert_eq!(threads_named("yq-synchrony").len(), 1);
    let events = session.subscribe();
    one_by_one(&session, &camera, 0, 3);
    let armed = fault::arm("synchrony:faces", 0);
    one_by_one(&session, &camera, 0, 3);
    let back = |event: Event| event.source == "synchrony" && event.kind == EventKind::ChildRestarted;
    while !back(events.recv_timeout(PATIENCE).unwrap()) {}
    assert!(!armed.is_armed());
    one_by_one(&session, &camera, 0, 3);
    let (report, inspection) = setup.finish(session);
    assert_says(&report, "synchrony failed: panicked");
    let inspection = inspection.unwrap();
    assert_eq!((inspection.cameras[0].faces, inspection.gaps.len()), (9 * FACES as u64, 0));
    assert_eq!(
        inspection.synchrony.unwrap().likeness.len(),
        1,
        "the tables are there, with or without a window"
    );
}

#[test]
fn a_result_that_ends_every_receiver_is_given_up_and_the_next_ones_go_on() {
    let _serial = serially();
    let camera = Source::new(Pace::Lossless);
    let setup = Setup::new(&[&camera], Stub::free());
    let session = setup.start();
    one_by_one(&session, &camera, 0, 3);
    let armed = [(); 3].map(|()| fault::arm("participants:found", 0));
    one_by_one(&session, &camera, 0, 1);
    assert!(!armed[0].is_armed());
    one_by_one(&session, &camera, 0, 3);
    let (report, _) = setup.finish(session);
    let pipeline = report.cameras[0].ledger.consumers[Consumer::Pipeline as usize];
    assert_eq!((pipeline.delivered, pipeline.dropped[DropReason::Failed as usize]), (6, 1));
}

/// The recorder fails at `point` after ten frames were written: the session stops by itself, and those frames
/// are in the file.
#[track_caller]
fn check_recorder_fault(point: &'static str, passes: u32) {
    let source = Source::new(Pace::Lossless);
    let setup = Setup::new(&[&source], Stub::free());
    let mut session = setup.start();
    one_by_one(&session, &source, 0, 10);
    let flushes = fault::arm("recorder:before-flush", u32::MAX);
    until("a whole flush has passed", || flushes.passes_left() < Some(u32::MAX - 1));
    drop(flushes);
    let armed = fault::arm(point, passes);
    source.frames(200);
    let report = session.wait(PATIENCE).expect("it stops by itself");
    assert!(!armed.is_armed());
    assert_eq!(&*report.stop_reason, "recorder failed for good");
    assert_says(&report, &format!("recorder failed for good: panic: injected fault at {point}"));
    assert_eq!(report.imbalances, []);
    assert!(report.recordings[0].outcome.is_err(), "{:?}", report.recordings);
    let reader = SessionReader::open(&setup.file()).unwrap();
    let rows = reader.frames(0, 0..reader.frame_count(0)).unwrap();
    assert!(rows.len() >= 10, "{} rows", rows.len());
    assert!(rows.iter().enumerate().all(|(k, row)| row.seq == k as u64));
    let inspection = reader.inspect(100).unwrap();
    assert!(inspection.stop.is_none(), "the file does not claim a good end");
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert!(pipeline.delivered >= 10 && index.delivered >= 10);
}

#[test]
fn a_recorder_that_panics_at_a_flush_stops_the_session_and_keeps_what_was_written() {
    let _serial = serially();
    check_recorder_fault("recorder:before-flush", 0);
}

#[test]
fn a_recorder_that_panics_at_a_result_stops_the_session_and_keeps_what_was_written() {
    let _serial = serially();
    check_recorder_fault("recorder:faces", 20);
}

/// What must hold when a session does not start.
#[track_caller]
fn check_no_start(setup: &Setup) -> StartError {
    let error = setup.try_start().err().expect("it must not start");
    assert_eq!(setup.rings(), [""; 0], "nothing is left behind");
    until("all threads have ended", || threads_named("yq-").is_empty());
    error
}

#[test]
fn a_camera_that_never_opens_is_named_and_nothing_is_left() {
    let _serial = serially();
    let (good, bad) = (Source::new(Pace::Real), Source::new(Pace::Real));
    bad.refuses(u32::MAX);
    let setup = Setup::new(&[&good, &bad], Stub::free());
    let error = check_no_start(&setup);
    assert_eq!(error.to_string(), "camera \"cam1\" cannot be opened: scripted is not connected");
    assert!(!setup.file().exists());
    assert_eq!(bad.times_opened(), 1, "whoever starts a session wants to know at once");
}

#[test]
fn a_panic_while_starting_is_an_error_of_the_start() {
    let _serial = serially();
    let check = |point, expected: &str| {
        let _armed = fault::arm(point, 0);
        let source = Source::new(Pace::Real);
        let setup = Setup::new(&[&source], Stub::free());
        let error = check_no_start(&setup);
        assert_eq!(error.to_string(), format!("{expected}: panic: injected fault at {point}"));
        assert!(!setup.file().exists());
    };
    check("camera:open", "camera \"cam0\" cannot be opened");
    check("pipeline:build", "pipeline 0 cannot be built");
    check("recorder:create", "recording cannot start");
}

#[test]
fn an_existing_file_is_never_touched() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    std::fs::write(setup.file(), "precious").unwrap();
    let error = check_no_start(&setup);
    assert!(matches!(error, StartError::Recording { .. }), "{error}");
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(std::fs::read_to_string(setup.file()).unwrap(), "precious");
}

#[test]
fn a_second_session_of_the_same_name_is_refused_and_the_first_goes_on() {
    let _serial = serially();
    let (first_source, second_source) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let first = Setup::new(&[&first_source], Stub::free());
    let session = first.start();
    let mut second = Setup::new(&[&second_source], Stub::free());
    second.plan.ring_dir.clone_from(&first.plan.ring_dir);
    let error = second.try_start().err().unwrap().to_string();
    assert!(error.contains("belongs to a running session"), "{error}");
    one_by_one(&session, &first_source, 0, 5);
    let (report, _) = first.finish(session);
    assert_eq!(report.degraded, [""; 0]);
    let session = second.start();
    second.finish(session);
}

#[test]
fn a_dropped_handle_ends_the_session_and_closes_its_file() {
    let _serial = serially();
    let source = Source::new(Pace::Lossless);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    one_by_one(&session, &source, 0, 5);
    // More marks than any mailbox holds must not make the order to stop go lost.
    (0..1000).for_each(|n| session.mark(&n.to_string()));
    drop(session);
    assert_eq!(setup.rings(), [""; 0]);
    until("all threads have ended", || threads_named("yq-").is_empty());
    let inspection = SessionReader::open(&setup.file()).unwrap().inspect(2000).unwrap();
    assert_eq!(verdict(&inspection)["state"], "ok");
    assert_eq!((inspection.cameras[0].frames, inspection.markers), (5, 1000));
    let last = inspection.events.last().unwrap();
    assert_eq!((&*last.kind, last.text.contains("dropped")), ("session_stopping", true));
}

#[test]
fn a_mark_lands_in_the_file_with_its_time_and_text() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    let before = session.plane().clock.now();
    session.mark("stimulus \"A\"");
    let (_, inspection) = setup.finish(session);
    assert_eq!(inspection.unwrap().markers, 1);
    let marker = &SessionReader::open(&setup.file()).unwrap().markers(10).unwrap()[0];
    assert_eq!((&*marker.source, &*marker.kind), ("operator", "marker"));
    assert_eq!(marker.text, r#"{"text":"stimulus \"A\""}"#);
    assert!(marker.time_ns >= before.0);
}

#[test]
fn a_failure_while_stopping_is_in_report_and_file() {
    let _serial = serially();
    let source = Source::new(Pace::Lossless);
    let stub = Stub::gated(1);
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    source.frames(2);
    until("the pipeline is busy", || stub.entered() == 1);
    until("the second frame waits", || camera(&session, 0).captured == 2);
    stub.trouble(0, 0, Trouble::Panic);
    session.stop("test over");
    until("the camera is closed", || threads_named("yq-cam").is_empty());
    stub.gate().open_for_good();
    let (report, inspection) = setup.finish(session);
    assert_says(&report, "pipeline 0 failed: panic: scripted");
    assert_eq!(verdict(&inspection.unwrap())["state"], "degraded");
    let [pipeline, _, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((dropped(&pipeline, DropReason::Crashed), dropped(&pipeline, DropReason::Unfinished)), (1, 1));
}

/// The next event of a kind, waited for.
#[track_caller]
fn event(events: &Receiver<Event>, kind: EventKind) -> Event {
    loop {
        let event = events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("waited in vain for {kind:?}"));
        if event.kind == kind {
            return event;
        }
    }
}

#[test]
fn a_camera_that_hangs_is_left_behind_and_opened_anew() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    let events = session.subscribe();
    one_by_one(&session, &left, 0, 3);
    let gate = Arc::new(Gate::default());
    left.does(Act::Hang(Arc::clone(&gate)));
    one_by_one(&session, &right, 1, 3);
    let abandoned = event(&events, EventKind::ChildAbandoned);
    assert!(abandoned.detail["cause"].to_string().contains("no sign of life"), "{}", abandoned.detail);
    event(&events, EventKind::ChildRestarted);
    assert_eq!(setup.rings(), ["youquanti.test.cam0.1", "youquanti.test.cam1"], "never used again");
    assert_eq!(threads_named("yq-cam-cam0").len(), 2);
    one_by_one(&session, &left, 0, 3);
    one_by_one(&session, &right, 1, 3);
    gate.open_for_good();
    until("the thread that hung has ended", || threads_named("yq-cam-cam0").len() == 1);
    one_by_one(&session, &left, 0, 3);
    let (report, inspection) = setup.finish(session);
    assert_eq!((report.abandoned_threads, report.cameras[0].restarts), (0, 1));
    assert_eq!(gaps_of(&inspection.unwrap(), "cam0").len(), 1);
    assert_eq!(seqs(&setup, 0), (0..9).collect::<Vec<_>>());
    assert_eq!(seqs(&setup, 1), (0..6).collect::<Vec<_>>());
}

#[test]
fn what_comes_back_after_a_hang_hands_nothing_on() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    // The second life gets a script of its own, so that the first finds its frames when it comes back.
    let (first, next) = (Arc::clone(&setup.plan.cameras[0].open), Source::new(Pace::Real));
    let (second, times) = (next.plan("cam0").open, Mutex::new(0));
    setup.plan.cameras[0].open = Arc::new(move |clock| {
        *times.lock().unwrap() += 1;
        if *times.lock().unwrap() == 1 { first(clock) } else { second(clock) }
    });
    let session = setup.start();
    let gate = Arc::new(Gate::default());
    source.does(Act::Hang(Arc::clone(&gate)));
    source.frames(5);
    restarted(&session, 0, 1);
    one_by_one(&session, &next, 0, 2);
    gate.open_for_good();
    until("the thread that hung has ended", || threads_named("yq-cam-cam0").len() == 1);
    let (report, _) = setup.finish(session);
    assert_eq!(report.cameras[0].ledger.captured, 2);
}

#[test]
fn a_camera_that_hangs_again_is_left_alone_until_a_thread_comes_back() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    let events = session.subscribe();
    let gates = [(); 2].map(|()| Arc::new(Gate::default()));
    for gate in &gates {
        left.does(Act::Hang(Arc::clone(gate)));
        event(&events, EventKind::ChildAbandoned);
    }
    assert_eq!(left.times_opened(), 2);
    one_by_one(&session, &right, 1, 3);
    gates[0].open_for_good();
    event(&events, EventKind::ChildRestarted);
    one_by_one(&session, &left, 0, 3);
    let (report, inspection) = setup.finish(session);
    assert_eq!(report.abandoned_threads, 1, "the second still hangs");
    assert_eq!(inspection.unwrap().events_by_kind["child_abandoned"], 2);
    gates[1].open_for_good();
    until("the thread that hung has ended", || threads_named("yq-").is_empty());
}

#[test]
fn a_camera_that_hangs_at_the_end_is_left_behind_and_the_session_ends() {
    let _serial = serially();
    let (left, right) = (Source::new(Pace::Real), Source::new(Pace::Real));
    let setup = Setup::new(&[&left, &right], Stub::free());
    let session = setup.start();
    one_by_one(&session, &left, 0, 3);
    let gate = Arc::new(Gate::default());
    session.stop("test over");
    left.does(Act::Hang(Arc::clone(&gate)));
    one_by_one(&session, &right, 1, 0);
    let (report, inspection) = setup.finish(session);
    assert!(report.abandoned_threads <= 1, "the order to stop may have come first");
    assert!(inspection.is_some());
    gate.open_for_good();
    until("the thread that hung has ended", || threads_named("yq-").is_empty());
}

#[test]
fn an_opening_that_hangs_ends_the_start_and_not_the_program() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    let gate = Arc::new(Gate::default());
    let (open, held) = (Arc::clone(&setup.plan.cameras[0].open), Arc::clone(&gate));
    setup.plan.cameras[0].open = Arc::new(move |clock| {
        held.pass();
        open(clock)
    });
    let error = setup.try_start().err().expect("it must not start");
    assert!(error.to_string().contains("was not at work within 20s"), "{error}");
    assert_eq!(setup.rings(), [""; 0]);
    gate.open_for_good();
    until("the thread that hung has ended", || threads_named("yq-").is_empty());
}

#[test]
fn a_pipeline_that_hangs_is_replaced_and_its_frame_accounted_for() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let stub = Stub::gated(1);
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    let events = session.subscribe();
    source.frames(1);
    let abandoned = event(&events, EventKind::ChildAbandoned);
    assert_eq!(abandoned.source, "pipeline 0");
    event(&events, EventKind::ChildRestarted);
    source.frames(1);
    until("the next pipeline has the next frame", || stub.entered() == 2);
    let (report, inspection) = setup.finish(session);
    let [pipeline, index, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((dropped(&pipeline, DropReason::Crashed), index.delivered), (2, 2), "both hang at the end");
    assert_eq!(report.abandoned_threads, 2);
    assert_eq!(inspection.unwrap().cameras[0].frames, 2);
    stub.gate().open_for_good();
    until("the threads that hung have ended", || threads_named("yq-").is_empty());
}

/// A part that everything else depends on panics: the session is lost, what it recorded is not.
#[track_caller]
fn check_lost_session(point: &'static str, strike: impl FnOnce(&Source)) {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let mut session = setup.start();
    one_by_one(&session, &source, 0, 5);
    let armed = fault::arm(point, 0);
    strike(&source);
    until("the point has panicked", || !armed.is_armed());
    assert!(session.wait(PATIENCE).is_none(), "nobody is left to report");
    until("the session's threads have ended", || threads_named("yq-").is_empty());
    assert!(session.has_ended());
    let reader = SessionReader::open(&setup.file()).unwrap();
    assert_eq!(reader.frame_count(0), 5);
}

#[test]
fn a_panic_of_the_supervisor_ends_the_session_and_keeps_what_was_written() {
    let _serial = serially();
    check_lost_session("supervisor:look", |_| {});
}

#[test]
fn a_panic_of_the_session_ends_it_and_keeps_what_was_written() {
    let _serial = serially();
    check_lost_session("session:changed", |source| source.does(Act::Fail("usb gone")));
}

#[test]
fn a_live_camera_is_at_work_with_its_first_frame_and_what_comes_before_the_start_is_no_part_of_it() {
    let _serial = serially();
    let (early, late) = (Source::live(), Source::live());
    let setup = Setup::new(&[&early, &late], Stub::free());
    early.frames(7);
    let starting = {
        let late = Arc::clone(&late);
        std::thread::Builder::new().spawn(move || {
            until("both were opened", || late.times_opened() == 1);
            late.frames(1);
        })
    };
    let session = setup.start();
    starting.unwrap().join().unwrap();
    let events = session.subscribe();
    for (id, source) in [(0, &early), (1, &late)] {
        assert_eq!(camera(&session, id).captured, 0);
        one_by_one(&session, source, id, 2);
    }
    let first = event(&events, EventKind::FirstFrames);
    let (report, _) = setup.finish(session);
    let spread = first.detail["spread_ms"].as_f64().unwrap();
    let after = |name: &str| first.detail["ms_after_start"][name].as_f64().unwrap();
    assert!(after("cam0") >= 0.0 && (after("cam1") - after("cam0") - spread).abs() < 1e-6, "{first:?}");
    assert_eq!(report.cameras[0].ledger.driver_lost, 0);
}

#[test]
fn a_live_camera_that_falls_silent_is_opened_anew_and_its_gap_ends_with_its_first_frame() {
    let _serial = serially();
    let source = Source::live();
    let setup = Setup::new(&[&source], Stub::free());
    source.frames(1);
    let session = setup.start();
    let events = session.subscribe();
    one_by_one(&session, &source, 0, 3);
    let opened = event(&events, EventKind::GapOpened);
    assert_eq!(opened.detail["first_missing_seq"], 3);
    assert_eq!(opened.detail["cause"], "no frame within 1s");
    until("it was opened anew", || source.times_opened() == 2);
    one_by_one(&session, &source, 0, 1);
    let closed = event(&events, EventKind::GapClosed);
    let (_, inspection) = setup.finish(session);
    let reader = SessionReader::open(&setup.file()).unwrap();
    let frames = reader.frames(0, 0..4).unwrap();
    assert_eq!(opened.detail["last_good_ns"], frames[2].captured_at_ns);
    assert_eq!(closed.at.0, frames[3].captured_at_ns);
    assert_eq!(inspection.unwrap().gaps.len(), 1);
}

#[test]
fn a_session_ends_when_its_time_is_up() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free()).unrecorded();
    setup.plan.duration = Some(std::time::Duration::from_millis(1));
    let report = setup.start().wait(PATIENCE).expect("nobody asked it to end");
    assert_eq!(&*report.stop_reason, "duration reached");
    assert!(report.recordings.is_empty());
}

#[test]
fn live_figures_agree_with_the_ledger() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    one_by_one(&session, &source, 0, 10);
    let stats = &session.plane().stats[0];
    assert_eq!(stats.results.load(Ordering::Relaxed), 10);
    assert_eq!(stats.face_rows.load(Ordering::Relaxed), 10 * FACES as u64);
    let spans = session.plane().flight.spans();
    assert_eq!(spans.len(), 10 * 3, "capture, wait and publish: the stub stamps nothing in between");
    let to = setup.dir.path().join("by-hand.json");
    session.write_trace(&to).unwrap();
    assert!(to.metadata().unwrap().len() > 1000);
    setup.finish(session);
}
