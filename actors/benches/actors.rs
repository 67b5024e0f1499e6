//! What the actors cost: hops between threads, books and flight recorder for each frame, and a restart.
//!
//! A plain program, because p50, p99 and max of a hop say more than a mean. Prints a table and writes it, with
//! the command and the machine, to `benches/results/actors.md`. Hops are given beside one through a channel of
//! the standard library between two threads of the same kind, so that a busy machine can be told from a
//! slow program: compare ratios.
#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

#[path = "../tests/session_stub/mod.rs"]
mod session_stub;

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use actix::prelude::*;
use session_stub::*;
use youquanti_actors::capture::Pace;
use youquanti_actors::clock::SystemClock;
use youquanti_actors::flight::{FlightRecorder, Span, Stage};
use youquanti_actors::ledger::Ledger;
use youquanti_actors::messages::FacesFound;
use youquanti_models::{CameraId, Clock, FrameFaces, Timestamp};

const HOPS: u64 = 3_000;
const RESTARTS_MEASURED: u32 = 300;
const LOOPS: u64 = 2_000_000;
/// Between two hops, so that both sides have gone to sleep, as between two frames.
const REST: Duration = Duration::from_millis(1);

fn now() -> Timestamp {
    SystemClock.now()
}

/// A row of the table.
struct Figures {
    what: &'static str,
    sorted: Vec<Duration>,
}

impl Figures {
    fn new(what: &'static str, mut all: Vec<Duration>) -> Self {
        // The first ones warm up.
        all.drain(..all.len() / 10);
        all.sort_unstable();
        Self { what, sorted: all }
    }

    fn quantile(&self, share: f64) -> Duration {
        self.sorted[((self.sorted.len() - 1) as f64 * share).round() as usize]
    }
}

/// One way through a channel of the standard library, receiver asleep.
fn channel_hops() -> Figures {
    let (to, from) = sync_channel::<Timestamp>(1);
    let (reply_to, reply) = sync_channel(1);
    let receiver = std::thread::Builder::new().spawn(move || {
        for sent in from {
            reply_to.send(now().saturating_since(sent)).unwrap();
        }
    });
    let hops = (0..HOPS).map(|_| {
        std::thread::park_timeout(REST);
        to.send(now()).unwrap();
        reply.recv().unwrap()
    });
    let figures = Figures::new("std channel, thread to thread (the yardstick)", hops.collect());
    drop(to);
    receiver.unwrap().join().unwrap();
    figures
}

/// From a device's receipt of a frame to the pipeline's taking it, in a session at rest between frames.
fn frame_hops() -> Figures {
    let source = Source::new(Pace::Real);
    let setup = Setup::new(&[&source], Stub::free()).unrecorded();
    let session = setup.start();
    for n in 1..=HOPS {
        source.frames(1);
        settled(&session, 0, n);
    }
    let spans = session.plane().flight.spans();
    let waits = spans.iter().filter(|span| span.stage == Stage::Wait);
    let hops = waits.map(|span| span.end.saturating_since(span.start)).collect();
    setup.finish(session);
    Figures::new("frame: device to pipeline", hops)
}

/// Stamps each result's arrival.
struct Receiver;

impl Actor for Receiver {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Timestamp")]
struct Timed(FacesFound);

impl Handler<Timed> for Receiver {
    type Result = MessageResult<Timed>;

    fn handle(&mut self, Timed(result): Timed, _: &mut Self::Context) -> Self::Result {
        black_box(&result);
        MessageResult(now())
    }
}

/// A result as a message from one actor thread to another, and the way back of the reply.
fn result_hops() -> [Figures; 2] {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let receiver = Receiver::start_in_arbiter(&arbiter.handle(), |_| Receiver);
        let faces = Arc::new(FrameFaces::with_capacity(1));
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for _ in 0..HOPS {
            actix_rt::time::sleep(REST).await;
            let sent = now();
            let arrived = receiver.send(Timed(FacesFound(Arc::clone(&faces)))).await.unwrap();
            there.push(arrived.saturating_since(sent));
            back.push(now().saturating_since(sent));
        }
        arbiter.stop();
        [
            Figures::new("result: message, actor to actor", there),
            Figures::new("result: message and its reply", back),
        ]
    })
}

/// From the order to panic to the first frame of the next life, without the wait that the policy adds.
fn restarts() -> Figures {
    std::panic::set_hook(Box::new(|_| {}));
    let source = Source::new(Pace::Real);
    let mut setup = Setup::new(&[&source], Stub::free()).unrecorded();
    setup.plan.trace_dir = None;
    setup.plan.restarts.max_restarts = usize::MAX;
    setup.plan.restarts.first_backoff = Duration::ZERO;
    let session = setup.start();
    let mut all = Vec::new();
    for n in 1..=RESTARTS_MEASURED {
        let start = now();
        source.does(Act::Panic);
        source.frames(1);
        settled(&session, 0, n.into());
        restarted(&session, 0, n);
        let last = session.plane().cameras[0].last_captured_at.load(std::sync::atomic::Ordering::Relaxed);
        all.push(Timestamp(last).saturating_since(start));
    }
    setup.finish(session);
    drop(std::panic::take_hook());
    Figures::new("camera: panic to the next frame", all)
}

/// Nanoseconds of one of many turns.
fn nanos_each(mut turn: impl FnMut(u64)) -> f64 {
    (0..LOOPS / 10).for_each(&mut turn);
    let start = now();
    (0..LOOPS).for_each(&mut turn);
    now().saturating_since(start).as_secs_f64() * 1e9 / LOOPS as f64
}

fn main() {
    let yardstick = channel_hops();
    let [there, back] = result_hops();
    let hops = [yardstick, frame_hops(), there, back, restarts()];

    let flight = FlightRecorder::new(60 * 60 * Stage::PER_FRAME);
    let span = |n| Span {
        stage: Stage::Detect,
        camera: CameraId(0),
        seq: n,
        start: Timestamp(n),
        end: Timestamp(n + 1),
    };
    let span_nanos = nanos_each(|n| flight.record(span(n)));
    let ledger = Ledger::new(1);
    let ledger_nanos = nanos_each(|_| {
        let [a, b] = black_box(&ledger).captured(CameraId(0));
        a.delivered();
        b.delivered();
    });
    let clock_nanos = nanos_each(|_| {
        black_box(now());
    });

    let mut text = String::from("# Cost of the actors\n\n");
    writeln!(text, "`cargo bench -p youquanti-actors --bench actors` on {}\n", machine()).unwrap();
    writeln!(text, "| hop or restart | n | p50 µs | p99 µs | max µs | p50 to the yardstick |").unwrap();
    writeln!(text, "| --- | --: | --: | --: | --: | --: |").unwrap();
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    let reference = micros(hops[0].quantile(0.5));
    for row in &hops {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| micros(row.quantile(share)));
        let (n, ratio) = (row.sorted.len(), p50 / reference);
        writeln!(text, "| {} | {n} | {p50:.1} | {p99:.1} | {max:.1} | {ratio:.2} |", row.what).unwrap();
    }
    writeln!(text, "\n| for each frame | ns | reads of the clock |\n| --- | --: | --: |").unwrap();
    for (what, nanos) in [
        ("flight recorder, a span", span_nanos),
        ("ledger, a frame with its three tickets", ledger_nanos),
        ("one read of the clock (the yardstick)", clock_nanos),
    ] {
        writeln!(text, "| {what} | {nanos:.1} | {:.2} |", nanos / clock_nanos).unwrap();
    }
    text.push_str(
        "\nHops are measured with both threads asleep before each, as between two frames of a camera. The way \
         of a frame is everything from the device's receipt stamp to the pipeline's: stamping, ledger, flight \
         recorder, index, mailbox, waking the thread. A restart is everything from the order to panic: the \
         device's thread wakes, unwinds, the supervisor hears of it, a new thread opens the device, a frame \
         comes; the policy's own wait is set to 0.\n",
    );
    print!("{text}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/results/actors.md");
    std::fs::write(path, text).unwrap();
}

/// Processor, cores and how busy the machine is.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let busy =
        if load.parse::<f64>().is_ok_and(|load| load < 1.5) { "quiet" } else { "busy with other work" };
    format!(
        "{}, {cores} cores, load {load} when this was written: the machine was {busy}",
        model.unwrap_or("an unknown processor")
    )
}
