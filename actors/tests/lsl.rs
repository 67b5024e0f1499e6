//! Streams over LSL through failures: what receivers see, what is lost and what is not. Cameras and pipeline are stubs; liblsl,
//! actors and threads are the real ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::fault;
use youquanti_actors::ledger::DropReason;
use youquanti_actors::lsl::LslPlan;
use youquanti_actors::messages::{Event, EventKind};
use youquanti_actors::session::SessionHandle;
use youquanti_lsl::{Inlet, Lsl, Resolver, Sample, StreamInfo, Values};

/// liblsl, for this process and nobody else: tests that run beside are not heard. Works where multicast does not.
fn alone() -> Lsl {
    let lsl = Lsl::load().unwrap();
    lsl.configure(&format!(
        "[ports]\nIPv6 = disable\n[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {{127.0.0.1}}\nSessionID = test-{}\n\
         [log]\nlevel = -2\n",
        std::process::id()
    ));
    lsl
}

fn streaming(setup: &mut Setup, name: &str, participants: u16) {
    setup.plan.expected_participants = Some(participants);
    setup.plan.recording.session_name = name.to_owned();
    setup.plan.lsl =
        Some(LslPlan { native: true, youquantipy: false, mesh: false, quality: false, markers: Vec::new() });
}

/// The streams of a session by name, once there are so many.
fn streams(resolver: &Resolver, count: usize) -> BTreeMap<String, StreamInfo> {
    let mut found = BTreeMap::new();
    until("all streams are found", || {
        found = resolver.found().into_iter().map(|info| (info.name(), info)).collect();
        found.len() == count
    });
    found
}

fn uids(streams: &BTreeMap<String, StreamInfo>) -> BTreeMap<String, String> {
    streams.iter().map(|(name, info)| (name.clone(), info.uid())).collect()
}

/// Pulls until there are so many samples.
fn pull(inlet: &mut Inlet, samples: &mut Vec<Sample>, count: usize) {
    until("all samples have come", || {
        samples.extend(inlet.pull().unwrap());
        samples.len() >= count
    });
}

fn numbers(sample: &Sample) -> &[f64] {
    match &sample.values {
        Values::Numbers(numbers) => numbers,
        Values::Texts(_) => panic!("a stream of texts"),
    }
}

/// Gives a camera frames one by one, each when the one before has its result.
#[track_caller]
fn one_by_one(session: &SessionHandle, source: &Source, frames: u64) {
    for _ in 0..frames {
        let captured = camera(session, 0).captured;
        source.frames(1);
        settled(session, 0, captured + 1);
    }
}

#[test]
fn a_receiver_sees_the_same_streams_through_all_failures_and_misses_no_frame() {
    let _serial = serially();
    let lsl = alone();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    streaming(&mut setup, "outlast", 2);
    let session = setup.start();
    let resolver = Resolver::new(lsl, "contains(source_id, '_outlast_')", Duration::from_secs(3600)).unwrap();
    let before = streams(&resolver, 6);
    let names: Vec<_> = before.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["P1_blendshapes", "P1_headpose", "P2_blendshapes", "P2_headpose", "cam0_frames", "youquanti_events"]
    );
    let mut inlet = Inlet::open(&before["P1_blendshapes"], 10_000, PATIENCE).unwrap();
    let mut frames = Inlet::open(&before["cam0_frames"], 10_000, PATIENCE).unwrap();

    for restart in 1..=20 {
        one_by_one(&session, &source, 2);
        source.does(Act::Fail("unplugged"));
        restarted(&session, 0, restart);
    }
    for failure in 0..20 {
        let captured = camera(&session, 0).captured;
        setup.stub.trouble(0, captured, Trouble::Panic);
        one_by_one(&session, &source, 1);
        until("the pipeline works again", || {
            let delivered = camera(&session, 0).consumers[0].delivered;
            one_by_one(&session, &source, 1);
            camera(&session, 0).consumers[0].delivered > delivered
        });
        assert!(failure < 20);
    }
    // The streams' actor itself.
    let armed = fault::arm("lsl:faces", 0);
    one_by_one(&session, &source, 1);
    until("the actor has panicked", || !armed.is_armed());
    until("the actor works again", || {
        let rows = session.plane().stream_counts.rows.load(Relaxed);
        one_by_one(&session, &source, 1);
        std::thread::park_timeout(Duration::from_millis(20));
        session.plane().stream_counts.rows.load(Relaxed) > rows
    });
    one_by_one(&session, &source, 2);
    let captured = camera(&session, 0).captured as usize;
    assert_eq!(uids(&streams(&resolver, 6)), uids(&before), "no stream was made anew");
    let plane = Arc::clone(session.plane());
    let (report, _) = setup.finish(session);

    let (mut rows, mut facts) = (Vec::new(), Vec::new());
    pull(&mut inlet, &mut rows, captured);
    pull(&mut frames, &mut facts, captured);
    let stamps = |samples: &[Sample]| samples.iter().map(|sample| sample.at).collect::<Vec<_>>();
    assert_eq!(stamps(&rows), stamps(&facts), "a row for each frame, at its stamp, in order");
    assert!(stamps(&rows).is_sorted_by(|a, b| a < b));
    for (row, fact) in rows.iter().zip(&facts) {
        let (values, fact) = (numbers(row), numbers(fact));
        assert_eq!(row.at, fact[2], "the stamp is the frame's");
        assert_eq!((values.len(), values[55]), (56, 0.0));
        match values[52] {
            1.0 => assert!(values[..52].iter().all(|&value| value == 0.5) && values[53] == 1.0),
            _ => assert!(
                values[52] == 0.0 && values[..52].iter().all(|value| value.is_nan()) && values[53].is_nan()
            ),
        }
    }
    // Without a face: the frames that a pipeline panicked in, and results that found the actor gone.
    let lost = plane.stream_counts.figures(&plane.ledger.snapshot()).results_lost as usize;
    let empty = rows.iter().filter(|row| numbers(row)[52] == 0.0).count();
    let analysed = report.cameras[0].ledger.consumers[0].delivered as usize;
    assert!(
        empty >= captured - analysed && empty <= captured - analysed + lost + 16,
        "{empty} {captured} {analysed} {lost}"
    );
    assert!(
        report.degraded.iter().any(|reason| reason.starts_with("lsl failed: panic")),
        "{:?}",
        report.degraded
    );
}

#[test]
fn the_last_event_that_receivers_see_says_that_the_file_is_closed() {
    let _serial = serially();
    let lsl = alone();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    streaming(&mut setup, "last", 1);
    let session = setup.start();
    let resolver = Resolver::new(lsl, "contains(source_id, '_last_')", Duration::from_secs(3600)).unwrap();
    let mut inlet = Inlet::open(&streams(&resolver, 4)["youquanti_events"], 10_000, PATIENCE).unwrap();
    one_by_one(&session, &source, 3);
    let (report, inspection) = setup.finish(session);

    let mut events: Vec<serde_json::Value> = Vec::new();
    until("the last event has come", || {
        let texts = inlet.pull().unwrap().into_iter().map(|sample| match sample.values {
            Values::Texts(texts) => serde_json::from_str(&texts[0]).unwrap(),
            Values::Numbers(_) => panic!("a stream of numbers"),
        });
        events.extend(texts);
        events.iter().any(|event| event["kind"] == "recording_stopped")
    });
    let (last, before) = events.split_last().unwrap();
    assert_eq!((&last["kind"], &last["detail"]["complete"]), (&"recording_stopped".into(), &true.into()));
    assert!(before.iter().any(|event| event["kind"] == "session_stopping"), "{before:?}");
    assert_eq!(report.lsl.unwrap().events_lost, 0);
    // Rows had ended before: the file has all of the ledger.
    let inspection = inspection.unwrap();
    for consumer in ["streams", "stream_results"] {
        let ledger = inspection.ledger.iter().find(|ledger| ledger.consumer == consumer).unwrap();
        assert_eq!((ledger.captured, ledger.delivered, ledger.under_way), (3, 3, 0), "{consumer}");
    }
}

#[test]
fn a_stream_actor_that_never_comes_back_costs_nothing_but_the_streams() {
    let _serial = serially();
    alone();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    streaming(&mut setup, "gone", 1);
    let session = setup.start();
    one_by_one(&session, &source, 3);
    for _ in 0..4 {
        let armed = fault::arm("lsl:faces", 0);
        until("the actor has panicked", || {
            one_by_one(&session, &source, 1);
            !armed.is_armed()
        });
    }
    one_by_one(&session, &source, 5);
    let captured = camera(&session, 0).captured;
    let (report, inspection) = setup.finish(session);
    assert_eq!(inspection.unwrap().cameras[0].faces, captured * FACES as u64, "all is in the file");
    assert_eq!(report.stop_reason, "test over");
}

#[test]
fn a_stream_actor_that_hangs_is_found_and_costs_nothing_but_rows_which_are_in_the_ledger() {
    let _serial = serially();
    let lsl = alone();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    streaming(&mut setup, "hangs", 1);
    let session = setup.start();
    let events = session.subscribe();
    let resolver = Resolver::new(lsl, "contains(source_id, '_hangs_')", Duration::from_secs(3600)).unwrap();
    let before = streams(&resolver, 4);
    one_by_one(&session, &source, 3);
    let hang = fault::hang("lsl:faces");
    until("it hangs", || {
        one_by_one(&session, &source, 1);
        hang.hangs()
    });
    // Frames are captured, analysed and recorded meanwhile, before it is found and after.
    let is_found = |event: Event| event.source == "lsl" && event.kind == EventKind::ChildAbandoned;
    until("it is found", || {
        one_by_one(&session, &source, 1);
        events.try_iter().any(is_found)
    });
    one_by_one(&session, &source, 20);
    drop(hang);
    until("another life has taken its place", || {
        let rows = session.plane().stream_counts.rows.load(Relaxed);
        one_by_one(&session, &source, 1);
        session.plane().stream_counts.rows.load(Relaxed) > rows
    });
    assert_eq!(uids(&streams(&resolver, 4)), uids(&before), "no stream was made anew");
    let captured = camera(&session, 0).captured;
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_eq!(inspection.cameras[0].faces, captured * FACES as u64, "all is in the file");
    assert!(report.degraded.iter().any(|reason| reason.starts_with("lsl failed: ")), "{:?}", report.degraded);
    let [_, _, _, _, _, frames, results] = report.cameras[0].ledger.consumers;
    assert_eq!((frames.captured, results.captured), (captured, captured));
    assert!(results.dropped_total() > 0 && results.delivered > 0, "{results:?}");
    let lsl = report.lsl.unwrap();
    assert_eq!(
        (lsl.frames_lost, lsl.results_lost + results.dropped_for(DropReason::Late)),
        (frames.dropped_total(), results.dropped_total())
    );
    // The file says the same.
    for (name, counts) in [("streams", frames), ("stream_results", results)] {
        let found = inspection.ledger.iter().find(|ledger| ledger.consumer == name).unwrap();
        assert_eq!((found.captured, found.delivered), (counts.captured, counts.delivered));
        assert_eq!(found.dropped.values().sum::<u64>(), counts.dropped_total());
    }
}

#[test]
fn a_stream_actor_that_hangs_when_the_session_ends_keeps_nothing_from_the_file() {
    let _serial = serially();
    alone();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    streaming(&mut setup, "stuck", 1);
    let session = setup.start();
    one_by_one(&session, &source, 3);
    let hang = fault::hang("lsl:faces");
    until("it hangs", || {
        one_by_one(&session, &source, 1);
        hang.hangs()
    });
    let captured = camera(&session, 0).captured;
    let (report, inspection) = setup.finish(session);
    let inspection = inspection.unwrap();
    assert_eq!(inspection.cameras[0].faces, captured * FACES as u64, "all is in the file");
    assert_eq!(report.abandoned_threads, 1);
    for reasons in [&report.degraded, &inspection.stop.unwrap().reasons] {
        assert!(reasons.iter().any(|reason| reason.starts_with("lsl ")), "{reasons:?}");
    }
}
