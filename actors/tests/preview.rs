//! Previews of real sessions: each shows what was found in its own frame, and whatever happens to it costs nobody
//! anything. Cameras and pipeline are stubs.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::path::Path;
use std::sync::Arc;

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::fault;
use youquanti_actors::ledger::{Consumer, DropReason};
use youquanti_actors::preview::PreviewPlan;
use youquanti_actors::session::SessionHandle;
use youquanti_frames::FrameHandle;
use youquanti_frames::results::Results;
use youquanti_models::{CameraId, Frame, ParticipantId, Timestamp};

/// Gives a camera frames one by one, each when all have done with the one before.
#[track_caller]
fn one_by_one(session: &SessionHandle, source: &Source, frames: u64) {
    for _ in 0..frames {
        let captured = camera(session, 0).captured;
        source.frames(1);
        settled(session, 0, captured + 1);
    }
}

fn newest(session: &SessionHandle) -> Option<FrameHandle> {
    session.plane().camera(CameraId(0)).watch_preview().borrow().clone()
}

#[test]
fn every_preview_shows_its_own_frame_with_its_own_faces_and_their_names() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    for seq in 0..20 {
        one_by_one(&session, &source, 1);
        let preview = newest(&session).unwrap();
        let (meta, results) = (*preview.meta(), Results::of(preview.results()).unwrap());
        assert_eq!(meta.seq, seq);
        assert_eq!(
            preview.picture().bytes[..8],
            meta.received_at.0.to_le_bytes(),
            "the picture of another frame"
        );
        assert!(results.is_analysed());
        let named: Vec<_> = results.faces().map(|face| (face.track().0, face.participant())).collect();
        assert_eq!(named, [(0, Some(ParticipantId(1))), (1, Some(ParticipantId(2)))]);
        let stamps = results.stamps();
        let way =
            [meta.captured_at, meta.received_at, stamps.submitted, stamps.published, results.previewed_at()];
        assert!(way.is_sorted() && way[0] > Timestamp(0), "{way:?}");
    }
    let (report, _) = setup.finish(session);
    assert_eq!(report.degraded, [""; 0]);
    assert_eq!(report.cameras[0].ledger.consumers[Consumer::Preview as usize].delivered, 20);
}

#[test]
fn without_results_pictures_go_on_and_say_so() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let stub = Stub::gated(1);
    let setup = Setup::new(&[&source], Arc::clone(&stub));
    let session = setup.start();
    source.frames(1);
    until("the pipeline hangs on a frame", || stub.entered() == 1);
    for frames in 2..10 {
        source.frames(1);
        // The newest waits for the pipeline; the one before it never will have a result.
        let shown = || newest(&session).is_some_and(|preview| preview.meta().seq == frames - 2);
        until("the frame before the newest is shown", || frames == 2 || shown());
    }
    let preview = newest(&session).unwrap();
    let results = Results::of(preview.results()).unwrap();
    assert_eq!((results.is_analysed(), results.faces().len()), (false, 0));
    stub.gate().open_for_good();
    drop(preview);
    setup.finish(session);
}

#[test]
fn a_crash_of_the_preview_costs_nobody_else_a_frame() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    one_by_one(&session, &source, 5);
    let armed = fault::arm("preview:frame", 0);
    one_by_one(&session, &source, 1);
    assert!(!armed.is_armed());
    one_by_one(&session, &source, 5);
    until("its next life shows the newest frame", || {
        newest(&session).is_some_and(|preview| preview.meta().seq + 1 == camera(&session, 0).captured) || {
            one_by_one(&session, &source, 1);
            false
        }
    });
    let captured = camera(&session, 0).captured;
    let (report, _) = setup.finish(session);
    assert!(
        report.degraded.iter().any(|reason| reason.contains("preview failed: panic")),
        "{:?}",
        report.degraded
    );
    let [pipeline, index, _, preview, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, index.delivered), (captured, captured));
    assert_eq!(dropped(&preview, DropReason::Crashed), 1);
}

#[test]
fn viewers_that_keep_every_preview_cost_previews_alone() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    let mut kept = Vec::new();
    for _ in 0..PreviewPlan::SLOTS + 3 {
        one_by_one(&session, &source, 1);
        kept.extend(newest(&session));
    }
    let [pipeline, index, _, preview, ..] = camera(&session, 0).consumers;
    let (frames, slots) = (PreviewPlan::SLOTS as u64 + 3, PreviewPlan::SLOTS as u64);
    assert_eq!((pipeline.delivered, index.delivered, preview.delivered), (frames, frames, slots));
    assert_eq!(dropped(&preview, DropReason::NoSlot), 3);
    kept.clear();
    one_by_one(&session, &source, 1);
    assert_eq!(newest(&session).unwrap().meta().seq, frames);
    setup.finish(session);
}

#[test]
fn without_previews_nothing_is_offered_to_them() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.preview = None;
    let session = setup.start();
    one_by_one(&session, &source, 5);
    assert!(newest(&session).is_none());
    let (report, _) = setup.finish(session);
    let preview = report.cameras[0].ledger.consumers[Consumer::Preview as usize];
    assert_eq!((preview.captured, preview.delivered + preview.dropped_total()), (0, 0));
}

#[test]
fn other_programs_find_both_segments_while_the_session_runs() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free());
    let session = setup.start();
    one_by_one(&session, &source, 1);
    let folder = setup.plan.discovery_dir.clone().unwrap();
    let text = std::fs::read(folder.join("test.json")).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&said["session"], &said["pid"]), (&"test".into(), &std::process::id().into()));
    let path = |kind: &str| said["cameras"][0][kind].as_str().unwrap().to_owned();
    for (kind, name) in [("frames", "youquanti.test.cam0"), ("preview", "youquanti.test.cam0.preview")] {
        assert_eq!(Path::new(&path(kind)), setup.plan.ring_dir.join(name));
        assert!(Path::new(&path(kind)).exists());
    }
    let kept = newest(&session);
    setup.finish(session);
    assert_eq!(names_in(&folder), [""; 0]);
    assert!(kept.is_some(), "what a viewer holds stays readable");
}
