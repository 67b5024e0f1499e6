//! What a frame costs on its way: a slot's life on one thread (criterion), and a mailbox's hop from one
//! thread to another that waits for it (p50, p99 and maximum of single hops, printed after criterion's).
//!
//! `cargo bench -p youquanti-frames --bench frames`

use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use futures_core::Stream;
use youquanti_frames::{Counted, FrameHandle, FrameRing, Latest, MailboxStream, RingOptions};
use youquanti_models::{CameraId, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp};

const LAYOUT: PictureLayout = PictureLayout::packed(1280, 720, PixelFormat::Yuyv);
const META: FrameMeta = FrameMeta {
    camera: CameraId(0),
    seq: 0,
    driver_seq: 0,
    captured_at: Timestamp(0),
    received_at: Timestamp(0),
    flags: FrameFlags(0),
};

/// A frame whose pixels are left as they are: what is measured is everything but the pixels.
fn frame(ring: &FrameRing) -> FrameHandle {
    match ring.try_acquire() {
        Some(slot) => slot.freeze(META, 0),
        None => unreachable!("the benches hold fewer frames than the ring has"),
    }
}

fn slots(c: &mut Criterion, name: &str, ring: &FrameRing) {
    let mut group = c.benchmark_group(name);
    group.bench_function("acquire + freeze + drop", |b| b.iter(|| drop(black_box(frame(ring)))));
    let held = frame(ring);
    group.bench_function("clone + drop", |b| b.iter(|| drop(black_box(held.clone()))));
    let all: Vec<_> = (1..ring.slots()).map(|_| frame(ring)).collect();
    group.bench_function("refusal when full", |b| b.iter(|| black_box(ring.try_acquire().is_none())));
    drop(all);
    let (latest, counted) = (Latest::new(), Counted::new(4));
    group.bench_function("acquire + freeze + Latest + receive + drop", |b| {
        b.iter(|| (latest.send(frame(ring)).is_none(), latest.try_recv().is_some()));
    });
    group.bench_function("acquire + freeze + Counted + receive + drop", |b| {
        b.iter(|| (counted.send(frame(ring)).is_ok(), counted.try_recv().is_some()));
    });
    group.finish();
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The next item, waited for on this thread.
fn next<T>(stream: &mut MailboxStream<T>, waker: &Waker) -> Option<T> {
    loop {
        match Pin::new(&mut *stream).poll_next(&mut Context::from_waker(waker)) {
            Poll::Ready(item) => return item,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(std::thread::current())))
}

/// Sends `HOPS` stamps one at a time and prints how long each took to reach the other thread, which waits
/// for it parked, and answers, so that the next finds it parked again.
fn hops(name: &str, send: impl Fn(Instant) -> bool, close: impl Fn(), mut stream: MailboxStream<Instant>) {
    const HOPS: usize = 20_000;
    let answers = Counted::new(1);
    let mut answered = answers.stream();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            let waker = this_thread();
            let mut took = Vec::with_capacity(HOPS);
            while let Some(sent) = next(&mut stream, &waker) {
                took.push(now() - sent);
                answers.send(()).ok();
            }
            took
        });
        let waker = this_thread();
        for _ in 0..HOPS {
            assert!(send(now()), "the place is free once the former hop is answered");
            next(&mut answered, &waker);
        }
        close();
        let mut took: Vec<Duration> = consumer.join().unwrap_or_default();
        took.sort_unstable();
        let percentile = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
        println!(
            "{name} hop to a waiting thread, {} hops: p50 {:?}, p99 {:?}, max {:?}",
            took.len(),
            percentile(0.5),
            percentile(0.99),
            percentile(1.0)
        );
    });
}

fn main() -> Result<(), youquanti_frames::RingError> {
    let mut criterion = Criterion::default().configure_from_args();
    let options = RingOptions::new(format!("bench-{}", std::process::id()), LAYOUT);
    slots(&mut criterion, "heap", &FrameRing::on_heap(options.slots, LAYOUT)?);
    slots(&mut criterion, "shared memory", &FrameRing::create(&options)?);
    criterion.final_summary();

    let latest = Latest::new();
    hops("Latest", |item| latest.send(item).is_none(), || latest.close(), latest.stream());
    let counted = Counted::new(8);
    hops("Counted", |item| counted.send(item).is_ok(), || counted.close(), counted.stream());
    Ok(())
}
