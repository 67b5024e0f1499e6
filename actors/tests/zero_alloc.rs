//! A running session allocates nothing for a frame: counted by the global allocator, for each thread by name.
//!
//! What is excepted is counted as what it is: a result is a message of its own (an `Arc` with the faces, its
//! envelope and its future), made on the pipeline's thread and freed behind it.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_stub;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::flight::{FlightRecorder, Span, Stage};
use youquanti_actors::ledger::{Consumer, DropReason, Ledger};
use youquanti_actors::synchrony::{Group, Synchrony, SynchronyOptions};
use youquanti_models::{CameraId, FrameFaces, ParticipantId, Timestamp};

const THREADS: usize = 256;

/// Allocations of a thread, by the order in which threads first allocated.
struct Tally {
    thread: AtomicU64,
    allocations: AtomicU64,
}

static TALLIES: [Tally; THREADS] =
    [const { Tally { thread: AtomicU64::new(0), allocations: AtomicU64::new(0) } }; THREADS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn count() {
    let mut mine = MINE.get();
    if mine == usize::MAX {
        mine = NEXT.fetch_add(1, Ordering::Relaxed).min(THREADS - 1);
        MINE.set(mine);
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        TALLIES[mine].thread.store(u64::from(id.unsigned_abs()), Ordering::Release);
    }
    TALLIES[mine].allocations.fetch_add(1, Ordering::Relaxed);
}

struct CountingAllocator;

// SAFETY: hands everything to the system allocator unchanged; counting needs neither allocation nor
// destruction.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations so far of the one thread of this name.
fn allocations_of(name: &str) -> u64 {
    let ids: Vec<u64> = names_in("/proc/self/task".as_ref())
        .into_iter()
        .filter(|id| {
            std::fs::read_to_string(format!("/proc/self/task/{id}/comm"))
                .is_ok_and(|comm| comm.trim() == name)
        })
        .map(|id| id.parse().unwrap())
        .collect();
    let [id] = ids[..] else { panic!("{} threads are called {name}", ids.len()) };
    // The newest, should the system have used a number again.
    let tally = TALLIES.iter().rev().find(|tally| tally.thread.load(Ordering::Acquire) == id);
    tally.map_or(0, |tally| tally.allocations.load(Ordering::Relaxed))
}

fn allocations_of_this_thread(work: impl FnOnce()) -> u64 {
    let mine = || TALLIES[MINE.get().min(THREADS - 1)].allocations.load(Ordering::Relaxed);
    drop(std::hint::black_box(Box::new(1)));
    let before = mine();
    work();
    mine() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_of_this_thread(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

/// Rows are taken and windows computed in memory that is there from the first frame on; a window that is handed out is one list.
#[test]
fn synchrony_allocates_a_list_a_window() {
    let mut synchrony = Synchrony::new(SynchronyOptions {
        participants: 2,
        rate: 30,
        window: Duration::from_secs(1),
        step: Duration::from_secs(1),
        max_lag: Duration::from_millis(100),
        history: Duration::from_secs(4),
        shifts: 19,
        seed: 1,
        groups: vec![Group { name: "jaw".to_owned(), channels: vec![25] }],
    });
    let mut frame = FrameFaces::with_capacity(FACES);
    frame.faces.extend((0..FACES).map(|k| face(CameraId(0), k)));
    let who = [Some(ParticipantId(1)), Some(ParticipantId(2))];
    let mut windows = 0;
    let mut run = |seconds: std::ops::Range<u64>| {
        for at in seconds.flat_map(|second| (0..30).map(move |k| second * 1_000_000_000 + k * 33_000_000)) {
            frame.meta.captured_at = Timestamp(at);
            while synchrony.is_due(frame.meta.captured_at) {
                synchrony.open();
                while synchrony.is_at_work() {
                    windows += u64::from(synchrony.advance().is_some());
                }
            }
            synchrony.take(&frame, &who);
        }
        std::mem::take(&mut windows)
    };
    run(10..12);
    let mut computed = 0;
    let allocations = allocations_of_this_thread(|| computed = run(12..30));
    assert_eq!(allocations, computed);
    assert!(computed > 10, "{computed}");
}

#[test]
fn ledger_and_flight_recorder_allocate_nothing() {
    let ledger = Ledger::new(2);
    let flight = FlightRecorder::new(64);
    let count = allocations_of_this_thread(|| {
        for n in 0..10_000 {
            let [a, b] = ledger.captured(CameraId(u16::from(n % 2 == 0)));
            a.delivered();
            b.dropped(DropReason::Full);
            let (start, end) = (Timestamp(n), Timestamp(n + 1));
            flight.record(Span { stage: Stage::Detect, camera: CameraId(0), seq: n, start, end });
        }
    });
    assert_eq!(count, 0);
}

const WARM_UP: u64 = 2_000;
const FRAMES: u64 = 5_000;

/// Allocations of a camera's, the pipeline's and the preview's thread for `FRAMES` frames after the warm-up; results and
/// previews of these.
fn per_session(pace: Pace) -> ([u64; 3], u64, u64) {
    let _serial = serially();
    let source = if pace == Pace::Real {
        let s = Source::live();
        s.frames(1);
        s
    } else {
        Source::new(pace)
    };
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    source.frames(WARM_UP);
    settled(&session, 0, WARM_UP);
    let counts = || ["yq-cam-cam0", "yq-pipeline-0", "yq-preview"].map(allocations_of);
    let previews = || camera(&session, 0).consumers[Consumer::Preview as usize].delivered;
    let results = || session.plane().stats[0].results.load(Ordering::Relaxed);
    let (before, results_before, previews_before) = (counts(), results(), previews());
    source.frames(FRAMES);
    settled(&session, 0, WARM_UP + FRAMES);
    let (after, results_after, previews_after) = (counts(), results(), previews());
    setup.finish(session);
    let spent = [0, 1, 2].map(|thread| after[thread] - before[thread]);
    (spent, results_after - results_before, previews_after - previews_before)
}

#[test]
fn a_live_camera_and_its_preview_allocate_nothing_for_a_frame() {
    let ([camera, _, preview], results, previews) = per_session(Pace::Real);
    assert!(results > 0 && previews > 0);
    assert_eq!((camera, preview), (0, 0), "in {FRAMES} frames, {results} of them processed");
}

#[test]
fn a_lossless_camera_allocates_nothing_for_a_frame_and_the_pipeline_only_its_result() {
    let ([camera, pipeline, preview], results, _) = per_session(Pace::Lossless);
    assert_eq!(results, FRAMES, "every frame was processed");
    assert_eq!((camera, preview), (0, 0), "in {FRAMES} frames");
    // Faces, `Arc`, future, envelope, the reply's channel: the same for every result.
    println!("{:.3} allocations a result", pipeline as f64 / results as f64);
    assert!(pipeline >= 2 * results && pipeline <= ALLOCATIONS_OF_A_RESULT * results, "{pipeline}");
}

/// Faces, their `Arc`, the future that hands them over, its envelope in the mailbox, the channel of the reply
/// and what the sender parks in.
const ALLOCATIONS_OF_A_RESULT: u64 = 8;

#[test]
fn a_frame_that_is_dropped_allocates_nothing_anywhere() {
    let _serial = serially();
    let source = Source::new(Pace::Real);
    let stub = Stub::gated(1);
    let setup = Setup::new(&[&source], Arc::clone(&stub)).unrecorded();
    let session = setup.start();
    source.frames(WARM_UP);
    until("all are captured", || camera(&session, 0).captured == WARM_UP);
    until("the pipeline is busy", || stub.entered() == 1);
    let before = (allocations_of("yq-cam-cam0"), allocations_of("yq-pipeline-0"));
    source.frames(FRAMES);
    until("all are captured and indexed", || {
        let now = camera(&session, 0);
        now.captured == WARM_UP + FRAMES && {
            let [_, index, ..] = now.consumers;
            index.delivered + index.dropped_total() == now.captured
        }
    });
    let after = (allocations_of("yq-cam-cam0"), allocations_of("yq-pipeline-0"));
    assert_eq!(after, before);
    stub.gate().open_for_good();
    setup.finish(session);
}
