//! Bodies in real sessions: each row is of its own frame, and whatever what looks for them does costs faces nothing. Cameras,
//! pipeline and what looks are stubs.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::fault;
use youquanti_actors::ledger::{Consumer, ConsumerSnapshot, DropReason};
use youquanti_actors::pose::{PosePlan, Seek};
use youquanti_actors::session::{SessionHandle, StartError};
use youquanti_actors::session_file::{Opened, SessionReader, recover};
use youquanti_models::{BodyPose, Frame, FramePose, POSE_POINT_COUNT, PipelineError};

/// What looks for bodies: on frames with an even number there is one, all of whose values are that number. The picture of frame 7
/// cannot be decoded.
#[derive(Default)]
struct Seeker {
    gate: Gate,
    entered: AtomicU64,
}

impl Seeker {
    fn free() -> Arc<Self> {
        let seeker = Arc::new(Self::default());
        seeker.gate.open_for_good();
        seeker
    }

    fn plan(self: &Arc<Self>) -> PosePlan {
        let seeker = Arc::clone(self);
        let seek = move || {
            let seeker = Arc::clone(&seeker);
            let seek: Seek = Box::new(move |frame| {
                seeker.entered.fetch_add(1, Ordering::SeqCst);
                seeker.gate.pass();
                let meta = *frame.meta();
                if meta.seq == 7 {
                    let reason = "scripted".to_owned();
                    return Err(PipelineError::Picture { camera: meta.camera, seq: meta.seq, reason });
                }
                let points = [[meta.seq as f32; 5]; POSE_POINT_COUNT];
                let body = (meta.seq % 2 == 0).then_some(BodyPose { score: 0.5, points });
                Ok(FramePose { meta, presence: 0.75, body, ..FramePose::nothing() })
            });
            Ok(seek)
        };
        PosePlan { networks: vec![("pose".to_owned(), "0".repeat(64))], seek: Arc::new(seek) }
    }
}

fn of_pose(session: &SessionHandle) -> ConsumerSnapshot {
    camera(session, 0).consumers[Consumer::Pose as usize]
}

/// Gives a camera frames one by one, each when all have done with the one before.
#[track_caller]
fn one_by_one(session: &SessionHandle, source: &Source, frames: u64) {
    for _ in 0..frames {
        let captured = camera(session, 0).captured;
        source.frames(1);
        settled(session, 0, captured + 1);
        until("the pose is settled", || of_pose(session).settled() == captured + 1);
    }
}

#[test]
fn every_frame_that_was_looked_at_has_a_row_with_a_body_or_without() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.pose = Some(Seeker::free().plan());
    let session = setup.start();
    one_by_one(&session, &source, 20);
    let (report, inspection) = setup.finish(session);
    assert_eq!(report.degraded, [""; 0]);
    let pose = report.cameras[0].ledger.consumers[Consumer::Pose as usize];
    assert_eq!((pose.captured, pose.delivered, dropped(&pose, DropReason::Undecodable)), (20, 19, 1));
    assert!(inspection.unwrap().header.models.contains_key("pose"));

    let file = SessionReader::open(&setup.file()).unwrap();
    let (rows, points) = (file.poses(0, 0..19).unwrap(), file.pose_points(0, 0..19).unwrap());
    assert_eq!(file.pose_count(0), 19);
    let frames: Vec<_> = file.frames(0, 0..20).unwrap().into_iter().filter(|frame| frame.seq != 7).collect();
    for ((row, points), frame) in rows.iter().zip(points).zip(frames) {
        assert_eq!((row.frame_seq, row.captured_at_ns), (frame.seq, frame.captured_at_ns));
        assert_eq!((row.presence, row.detector_ran), (0.75, 0));
        assert!(row.latency_us > 0);
        let flat = points.as_flattened();
        if row.frame_seq % 2 == 0 {
            assert_eq!((row.valid, row.score), (1, 0.5));
            assert!(flat.iter().all(|&value| value == row.frame_seq as f32));
        } else {
            assert_eq!(row.valid, 0);
            assert!(row.score.is_nan() && flat.iter().all(|value| value.is_nan()));
        }
    }
}

#[test]
fn bodies_of_a_file_that_was_cut_off_are_recovered() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.pose = Some(Seeker::free().plan());
    let session = setup.start();
    one_by_one(&session, &source, 7);
    let committed = || SessionReader::open(&setup.file()).map_or(0, |file| file.pose_count(0));
    until("all is safe", || committed() == 7);
    // As a kill leaves it.
    let cut_off = setup.dir.path().join("cut.h5");
    std::fs::copy(setup.file(), &cut_off).unwrap();
    let finished = setup.dir.path().join("finished.h5");
    let recovery = recover(&cut_off, &finished, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(recovery.lost, [""; 0]);
    let (before, after) =
        (SessionReader::open(&setup.file()).unwrap(), SessionReader::open(&finished).unwrap());
    assert_eq!((after.opened(), after.has_pose(), after.pose_count(0)), (Opened::Plain, true, 7));
    let even =
        |file: &SessionReader| file.pose_points(0, 0..7).unwrap().into_iter().step_by(2).collect::<Vec<_>>();
    assert_eq!(even(&after), even(&before));
    drop((before, after));
    setup.finish(session);
}

/// A session whose seeker holds the first of so many frames back until its gate is opened.
fn holding_back(source: &Arc<Source>, frames: u64) -> (Setup, Arc<Seeker>, SessionHandle) {
    let mut setup = Setup::new(&[source], Stub::free());
    let seeker = Arc::new(Seeker::default());
    setup.plan.pose = Some(seeker.plan());
    let session = setup.start();
    source.frames(frames);
    until("it is at work", || seeker.entered.load(Ordering::SeqCst) == 1);
    (setup, seeker, session)
}

#[test]
fn what_takes_long_skips_frames_and_faces_do_not_wait_for_it() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let (setup, seeker, session) = holding_back(&source, 1);
    settled(&session, 0, 1);
    for captured in 2..=20 {
        source.frames(1);
        settled(&session, 0, captured);
    }
    let [pipeline, ..] = camera(&session, 0).consumers;
    assert_eq!((pipeline.delivered, of_pose(&session).dropped_total()), (20, 18));
    seeker.gate.open_for_good();
    until("the newest is looked at", || of_pose(&session).delivered == 2);
    let (report, _) = setup.finish(session);
    let pose = report.cameras[0].ledger.consumers[Consumer::Pose as usize];
    assert_eq!(dropped(&pose, DropReason::Replaced), 18);
    let file = SessionReader::open(&setup.file()).unwrap();
    let rows: Vec<_> = file.poses(0, 0..2).unwrap().iter().map(|row| row.frame_seq).collect();
    assert_eq!(rows, [0, 19]);
}

#[test]
fn a_source_that_may_lose_no_frame_waits_for_it() {
    let _serial = serially();
    let source = Source::new(Pace::Lossless);
    let (setup, seeker, session) = holding_back(&source, 30);
    seeker.gate.open_for_good();
    until("all frames are looked at", || of_pose(&session).settled() == 30);
    source.does(Act::End);
    let (report, _) = setup.finish(session);
    let pose = report.cameras[0].ledger.consumers[Consumer::Pose as usize];
    assert_eq!((pose.delivered, dropped(&pose, DropReason::Undecodable)), (29, 1));
    assert_eq!(SessionReader::open(&setup.file()).unwrap().pose_count(0), 29);
}

#[test]
fn a_crash_costs_its_frame_and_nobody_else_one() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.pose = Some(Seeker::free().plan());
    let session = setup.start();
    one_by_one(&session, &source, 3);
    let armed = fault::arm("pose:frame", 0);
    one_by_one(&session, &source, 1);
    assert!(!armed.is_armed());
    one_by_one(&session, &source, 3);
    let (report, _) = setup.finish(session);
    assert!(
        report.degraded.iter().any(|reason| reason.starts_with("pose failed: panic")),
        "{:?}",
        report.degraded
    );
    let [pipeline, index, _, _, pose, ..] = report.cameras[0].ledger.consumers;
    assert_eq!((pipeline.delivered, index.delivered, pose.delivered), (7, 7, 6));
    assert_eq!(dropped(&pose, DropReason::Crashed), 1);
}

#[test]
fn one_that_hangs_at_the_end_is_left_behind_and_its_frame_accounted_for() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let (setup, seeker, session) = holding_back(&source, 1);
    settled(&session, 0, 1);
    let (report, inspection) = setup.finish(session);
    assert_eq!((report.abandoned_threads, inspection.unwrap().cameras[0].frames), (1, 1));
    let pose = report.cameras[0].ledger.consumers[Consumer::Pose as usize];
    assert_eq!(dropped(&pose, DropReason::Crashed), 1);
    seeker.gate.open_for_good();
    until("the thread that hung has ended", || threads_named("yq-").is_empty());
}

#[test]
fn networks_that_cannot_be_loaded_end_the_start_and_nothing_is_left() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free());
    setup.plan.pose =
        Some(PosePlan { networks: Vec::new(), seek: Arc::new(|| Err("the network is damaged".into())) });
    let Err(StartError::Pose { cause }) = setup.try_start() else { panic!("it started") };
    assert_eq!(cause, "the network is damaged");
    assert_eq!(names_in(&setup.plan.ring_dir), [""; 0]);
}
