//! The data plane and the supervision against a model: random captures, faults and commands drive the real
//! ledger, mailboxes, rings and restart policy, and a plain list of what became of every frame says what each
//! of them must say after every step.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use proptest::prelude::*;
use youquanti_actors::capture::CaptureError;
use youquanti_actors::ledger::{Consumer, DropReason, Ticket};
use youquanti_actors::messages::{Delivery, IndexEntry};
use youquanti_actors::plane::{CameraLine, CameraPlan, DataPlane};
use youquanti_actors::supervision::{
    ChildState, ChildSupervision, Effect, Input, MOST_ABANDONED, RestartPolicy, WATCH_PERIOD, WatchPolicy,
    WhenExhausted, WhenHung,
};
use youquanti_frames::{FrameRing, MailboxStream, SlotMut};
use youquanti_models::time::FakeClock;
use youquanti_models::{
    CameraId, Clock, Frame, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp,
};

const CAMERAS: usize = 3;
const SLOTS: usize = 3;
const PIPELINE: usize = CAMERAS;
const CHILDREN: usize = CAMERAS + 1;
/// What the index of a camera holds while nobody takes from it.
const INDEX_CAPACITY: usize = 1024;
/// What a lossless camera's mailbox holds.
const LOSSLESS_CAPACITY: usize = 2;

/// How children are watched.
const WATCH: WatchPolicy = WatchPolicy {
    start_within: Duration::from_secs(20),
    silent_for: Duration::from_millis(900),
    when_hung: WhenHung::Suspend,
};

/// What became of a frame at one consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    UnderWay,
    Delivered,
    Dropped(DropReason),
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    /// A camera takes a slot for its next frame, if one is free.
    Acquire(usize),
    /// A frame arrives, in the slot that the camera has, or thrown away.
    Capture(usize),
    /// A frame arrives that the driver marks as damaged.
    CaptureDamaged(usize),
    /// So many frames arrive in a row.
    Burst(usize, u16),
    /// The driver loses frames.
    DriverLoses(usize, u8),
    /// The pipeline takes the next frame of a camera.
    Take(usize),
    /// The pipeline is done with its oldest frame.
    Publish,
    /// The pipeline cannot decode its oldest frame.
    Undecodable,
    /// The pipeline fails on its oldest frame and says so.
    Fail,
    /// The recorder takes so many entries of a camera.
    Record(usize, u16),
    /// The recorder is gone, with the entry in its hand.
    RecorderCrash(usize),
    /// The recorder fails on an entry and says so.
    RecorderFail(usize),
    /// A child crashes with all it holds.
    Crash(usize),
    /// The pipeline hangs with all it holds.
    Hang,
    /// The pipeline that hung first comes back, and drops what it holds.
    Return,
    /// A camera comes to its end.
    End(usize),
    /// A word of an earlier life arrives late.
    LateWord(usize, u8),
    /// The session wants a child no more.
    Stop(usize),
    /// Time passes, milliseconds.
    Pass(u32),
}

fn ops() -> impl Strategy<Value = Op> {
    let camera = 0..CAMERAS;
    prop_oneof![
        48 => camera.clone().prop_map(Op::Acquire),
        64 => camera.clone().prop_map(Op::Capture),
        8 => camera.clone().prop_map(Op::CaptureDamaged),
        2 => (camera.clone(), 1..700_u16).prop_map(|(c, n)| Op::Burst(c, n)),
        8 => (camera.clone(), 1..9_u8).prop_map(|(c, n)| Op::DriverLoses(c, n)),
        48 => camera.clone().prop_map(Op::Take),
        32 => Just(Op::Publish),
        8 => Just(Op::Undecodable),
        8 => Just(Op::Fail),
        24 => (camera.clone(), 1..900_u16).prop_map(|(c, n)| Op::Record(c, n)),
        8 => camera.clone().prop_map(Op::RecorderCrash),
        8 => camera.clone().prop_map(Op::RecorderFail),
        24 => (0..CHILDREN).prop_map(Op::Crash),
        8 => Just(Op::Hang),
        4 => Just(Op::Return),
        1 => camera.prop_map(Op::End),
        8 => (0..CHILDREN, 1..4_u8).prop_map(|(c, n)| Op::LateWord(c, n)),
        1 => (0..CHILDREN).prop_map(Op::Stop),
        40 => (1..4000_u32).prop_map(Op::Pass),
    ]
}

/// A camera's life: what it holds is dropped when it ends.
struct Camera {
    ring: FrameRing,
    slot: Option<SlotMut>,
    next_seq: u64,
    /// What became of each frame, by consumer.
    fates: Vec<[Fate; 2]>,
    driver_lost: u64,
    /// Frames that wait for the pipeline, oldest first.
    queued: VecDeque<usize>,
    /// Frames that wait for the recorder, oldest first.
    indexed: VecDeque<usize>,
}

/// What the pipeline holds of a life that hangs.
struct Hung {
    held: VecDeque<Delivery>,
    streams: Vec<MailboxStream<Delivery>>,
}

/// A child's life as a reference keeps it: no window, no state machine, only what happened when.
struct Child {
    policy: RestartPolicy,
    supervision: ChildSupervision,
    /// The life that works, by its number.
    alive: Option<u32>,
    lives: u32,
    failures: Vec<Timestamp>,
    /// Restarts that were not slowed down.
    restarts: Vec<Timestamp>,
    wanted: bool,
    retry_at: Option<Timestamp>,
    /// Lives that hang.
    hung: usize,
}

struct System {
    clock: Arc<FakeClock>,
    plane: Arc<DataPlane>,
    cameras: Vec<Camera>,
    streams: Vec<MailboxStream<Delivery>>,
    recorders: Vec<MailboxStream<IndexEntry>>,
    held: VecDeque<Delivery>,
    hung: Vec<Hung>,
    children: Vec<Child>,
    lossless: bool,
}

fn poll<T>(stream: &mut MailboxStream<T>) -> Poll<Option<T>> {
    Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop()))
}

impl Child {
    fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            supervision: ChildSupervision::new(policy, WATCH, 1),
            alive: None,
            lives: 0,
            failures: Vec::new(),
            restarts: Vec::new(),
            wanted: false,
            retry_at: None,
            hung: 0,
        }
    }

    /// Gives the supervision its input and checks what it wants done against the reference.
    fn input(&mut self, now: Timestamp, input: Input) -> Option<Effect> {
        let effect = self.supervision.on(now, input);
        match effect {
            Some(Effect::Spawn { generation }) => {
                assert_eq!(self.alive, None, "two lives at once");
                assert!(self.wanted, "nobody wants it");
                assert!(self.retry_at.is_none_or(|at| now >= at), "too early");
                assert_eq!(generation, self.lives + 1, "lives are numbered in turn");
                self.retry_at = None;
                self.lives = generation;
                self.alive = Some(generation);
            }
            Some(Effect::RetryAt { at, degraded }) => {
                assert_eq!(degraded, self.budget_is_used_up(now));
                let wait = at.saturating_since(now);
                let longest = self.policy.longest_backoff;
                let least = |backoff: Duration| backoff.mul_f64(0.75);
                assert!(wait <= longest && wait >= least(self.policy.first_backoff.min(longest)), "{wait:?}");
                assert!(!degraded || wait >= least(longest), "degraded children are tried slowly");
                if !degraded {
                    self.restarts.push(now);
                    let in_window = |at: &&Timestamp| now.saturating_since(**at) < self.policy.window;
                    let spent = self.restarts.iter().filter(in_window).count();
                    assert!(spent <= self.policy.max_restarts, "beyond the budget");
                }
                self.retry_at = Some(at);
            }
            Some(Effect::Escalate) => {
                assert_eq!(self.policy.when_exhausted, WhenExhausted::Escalate);
                assert!(self.budget_is_used_up(now), "given up too early");
                self.wanted = false;
            }
            Some(Effect::Shutdown { generation }) => assert_eq!(self.alive, Some(generation)),
            Some(Effect::Suspend) => assert!(self.hung >= MOST_ABANDONED, "one may hang"),
            None => {}
        }
        effect
    }

    fn budget_is_used_up(&self, now: Timestamp) -> bool {
        // The failure that is being dealt with is the last of the list and does not count.
        let earlier = &self.failures[..self.failures.len() - 1];
        let recent = earlier.iter().filter(|at| now.saturating_since(**at) < self.policy.window);
        recent.count() >= self.policy.max_restarts
    }

    fn fail(&mut self, now: Timestamp) {
        let Some(generation) = self.alive.take() else { return };
        self.failures.push(now);
        let effect = self.input(now, Input::Failed { generation });
        assert!(matches!(effect, Some(Effect::RetryAt { .. } | Effect::Escalate)), "{effect:?}");
        let again = self.supervision.on(now, Input::Failed { generation });
        assert_eq!(again, None, "one end of a life is one failure");
    }

    /// Its heart stops: after some looks it is given up, and its budget knows of it unless it is suspended.
    fn hang(&mut self, now: Timestamp) {
        self.hung += 1;
        self.alive = None;
        self.failures.push(now);
        let looks = WATCH.silent_for.as_millis() / WATCH_PERIOD.as_millis();
        let effect = (0..=looks).find_map(|_| self.input(now, Input::Watch { beats: 0 }));
        assert!(effect.is_some(), "not noticed in {looks} looks");
        if effect == Some(Effect::Suspend) {
            self.failures.pop();
        }
    }

    /// A life that hung has ended after all.
    fn come_back(&mut self, now: Timestamp) {
        self.hung -= 1;
        let was_suspended = self.supervision.state() == ChildState::Suspended;
        let effect = self.supervision.on(now, Input::Returned);
        assert_eq!(effect.is_some(), was_suspended);
        if let Some(Effect::RetryAt { at, .. }) = effect {
            self.retry_at = Some(at);
        }
    }

    /// What must hold whatever happened.
    fn check(&self, now: Timestamp) {
        let state = self.supervision.state();
        let is_alive = matches!(state, ChildState::Starting | ChildState::Running);
        assert_eq!(is_alive, self.alive.is_some(), "{state:?}");
        assert!(state != ChildState::Suspended || self.hung >= MOST_ABANDONED);
        if self.wanted && !is_alive && !matches!(state, ChildState::Ended | ChildState::Suspended) {
            let ChildState::Waiting { until, .. } = state else { panic!("{state:?} is for ever") };
            assert!(until <= now + self.policy.longest_backoff, "it will be tried again");
        }
    }
}

impl System {
    fn new(policy: RestartPolicy, lossless: bool) -> Self {
        let clock = Arc::new(FakeClock::default());
        clock.advance(Duration::from_secs(1));
        let plans = (0..CAMERAS).map(|k| CameraPlan {
            name: format!("cam{k}").parse().unwrap(),
            open: Arc::new(|_| Err(CaptureError::Disconnected { device: String::new(), source: None })),
            slots: SLOTS,
            lossless,
            offsets: Arc::default(),
            video: None,
        });
        let dyn_clock: Arc<dyn Clock> = Arc::<FakeClock>::clone(&clock);
        let plane = DataPlane::new(dyn_clock, "model".to_owned(), "/nowhere".into(), plans.collect(), 64);
        let layout = PictureLayout::packed(16, 16, PixelFormat::Grey);
        let cameras = (0..CAMERAS).map(|_| Camera {
            ring: FrameRing::on_heap(SLOTS, layout).unwrap(),
            slot: None,
            next_seq: 0,
            fates: Vec::new(),
            driver_lost: 0,
            queued: VecDeque::new(),
            indexed: VecDeque::new(),
        });
        let mut system = Self {
            streams: plane.cameras.iter().map(|line| line.frames.stream()).collect(),
            recorders: plane.cameras.iter().map(|line| line.index.stream()).collect(),
            clock,
            cameras: cameras.collect(),
            plane,
            held: VecDeque::new(),
            hung: Vec::new(),
            children: (0..CHILDREN).map(|_| Child::new(policy)).collect(),
            lossless,
        };
        for child in 0..CHILDREN {
            system.children[child].wanted = true;
            system.feed(child, Input::Start);
        }
        system
    }

    /// Gives a child its input; a child that is made says at once that it works.
    fn feed(&mut self, child: usize, input: Input) {
        let now = self.clock.now();
        if let Some(Effect::Spawn { generation }) = self.children[child].input(now, input) {
            assert_eq!(self.children[child].input(now, Input::Started { generation }), None);
            if child == PIPELINE {
                self.streams = self.plane.cameras.iter().map(|line| line.frames.stream()).collect();
            }
        }
    }

    fn works(&self, child: usize) -> bool {
        self.children[child].alive.is_some()
    }

    fn line(&self, camera: usize) -> &CameraLine {
        &self.plane.cameras[camera]
    }

    /// The camera's part of the way of a frame, as the camera actor does it.
    fn capture(&mut self, id: usize, flags: FrameFlags) {
        let plane = Arc::clone(&self.plane);
        let line = &plane.cameras[id];
        if self.lossless && line.poll_room(&mut Context::from_waker(Waker::noop())).is_pending() {
            let model = &self.cameras[id];
            let is_full = model.queued.len() == LOSSLESS_CAPACITY || model.indexed.len() == INDEX_CAPACITY;
            assert!(is_full, "a lossless camera waits for nothing");
            return;
        }
        let camera = &mut self.cameras[id];
        let now = self.clock.now();
        let index = camera.fates.len();
        let camera_id = CameraId(u16::try_from(id).unwrap());
        let meta = FrameMeta {
            camera: camera_id,
            seq: camera.next_seq,
            driver_seq: 0,
            captured_at: now,
            received_at: now,
            flags,
        };
        camera.next_seq += 1;
        let [to_pipeline, to_index] = plane.ledger.captured(camera_id);
        let mut fates = [Fate::UnderWay; 2];
        match line.index.send(IndexEntry { meta, ticket: to_index }) {
            Ok(()) => camera.indexed.push_back(index),
            Err(refused) => {
                refused.ticket.dropped(DropReason::Full);
                fates[1] = Fate::Dropped(DropReason::Full);
                assert_eq!(camera.indexed.len(), INDEX_CAPACITY);
            }
        }
        let mut drop_now = |ticket: Ticket, reason| {
            ticket.dropped(reason);
            fates[0] = Fate::Dropped(reason);
        };
        if flags.contains(FrameFlags::DAMAGED) {
            drop_now(to_pipeline, DropReason::Damaged);
        } else if let Some(slot) = camera.slot.take() {
            line.send(Delivery { frame: slot.freeze(meta, 256), ticket: to_pipeline, preview: None });
            camera.queued.push_back(index);
            if !self.lossless && camera.queued.len() > 1 {
                let displaced = camera.queued.pop_front().unwrap();
                camera.fates[displaced][0] = Fate::Dropped(DropReason::Replaced);
            }
        } else {
            drop_now(to_pipeline, DropReason::NoSlot);
        }
        camera.fates.push(fates);
    }

    fn settle(&mut self, delivery: Delivery, fate: Fate) {
        let meta = *delivery.meta();
        let fates = &mut self.cameras[usize::from(meta.camera.0)].fates[meta.seq as usize];
        assert_eq!(fates[0], Fate::UnderWay, "settled before");
        fates[0] = fate;
        match fate {
            Fate::Delivered => delivery.ticket.delivered(),
            Fate::Dropped(DropReason::Crashed) => drop(delivery),
            Fate::Dropped(reason) => delivery.ticket.dropped(reason),
            Fate::UnderWay => unreachable!(),
        }
    }

    /// Takes one index entry as the recorder does; it must be the oldest.
    fn record(&mut self, id: usize) -> Option<IndexEntry> {
        let Poll::Ready(entry) = poll(&mut self.recorders[id]) else {
            assert_eq!(self.cameras[id].indexed.len(), 0);
            return None;
        };
        let entry = entry.unwrap();
        let oldest = self.cameras[id].indexed.pop_front().unwrap();
        assert_eq!(entry.meta.seq as usize, oldest, "out of order");
        Some(entry)
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Acquire(id) if self.works(id) => {
                let camera = &mut self.cameras[id];
                if camera.slot.is_none() {
                    camera.slot = camera.ring.try_acquire();
                }
            }
            Op::Capture(id) if self.works(id) => self.capture(id, FrameFlags::default()),
            Op::CaptureDamaged(id) if self.works(id) => self.capture(id, FrameFlags::DAMAGED),
            Op::Burst(id, frames) if self.works(id) => {
                for _ in 0..frames {
                    self.apply(Op::Acquire(id));
                    self.capture(id, FrameFlags::default());
                }
            }
            Op::DriverLoses(id, frames) => {
                self.plane.ledger.driver_lost(CameraId(u16::try_from(id).unwrap()), frames.into());
                self.cameras[id].driver_lost += u64::from(frames);
            }
            Op::Take(id) if self.works(PIPELINE) => match poll(&mut self.streams[id]) {
                Poll::Ready(delivery) => {
                    let delivery = delivery.unwrap();
                    let oldest = self.cameras[id].queued.pop_front().unwrap();
                    assert_eq!(delivery.meta().seq as usize, oldest, "out of order");
                    self.held.push_back(delivery);
                }
                Poll::Pending => assert_eq!(self.cameras[id].queued.len(), 0),
            },
            Op::Publish => self.settle_oldest(Fate::Delivered),
            Op::Undecodable => self.settle_oldest(Fate::Dropped(DropReason::Undecodable)),
            Op::Fail if !self.held.is_empty() => {
                self.settle_oldest(Fate::Dropped(DropReason::Failed));
                self.crash(PIPELINE);
            }
            Op::Record(id, entries) => {
                for _ in 0..entries {
                    let Some(entry) = self.record(id) else { break };
                    self.cameras[id].fates[entry.meta.seq as usize][1] = Fate::Delivered;
                    entry.ticket.delivered();
                }
            }
            Op::RecorderCrash(id) => {
                if let Some(entry) = self.record(id) {
                    self.cameras[id].fates[entry.meta.seq as usize][1] = Fate::Dropped(DropReason::Crashed);
                }
                self.recorders[id] = self.line(id).index.stream();
            }
            Op::RecorderFail(id) => {
                if let Some(entry) = self.record(id) {
                    self.cameras[id].fates[entry.meta.seq as usize][1] = Fate::Dropped(DropReason::Failed);
                    entry.ticket.dropped(DropReason::Failed);
                }
            }
            Op::Crash(child) => self.crash(child),
            Op::Hang if self.works(PIPELINE) => {
                // Abandoned: the policy hears of a failure, but what the thread holds is not dropped.
                let (held, streams) = (std::mem::take(&mut self.held), std::mem::take(&mut self.streams));
                self.hung.push(Hung { held, streams });
                self.children[PIPELINE].hang(self.clock.now());
            }
            Op::Return if !self.hung.is_empty() => {
                let Hung { held, .. } = self.hung.remove(0);
                held.into_iter().for_each(|d| self.settle(d, Fate::Dropped(DropReason::Crashed)));
                self.children[PIPELINE].come_back(self.clock.now());
            }
            Op::End(id) => {
                if let Some(generation) = self.children[id].alive.take() {
                    self.cameras[id].slot = None;
                    self.feed(id, Input::Ended { generation });
                    assert_eq!(self.children[id].supervision.state(), ChildState::Ended);
                    self.children[id].wanted = false;
                }
            }
            Op::LateWord(id, ago) => {
                let child = &mut self.children[id];
                if let Some(generation) = child.lives.checked_sub(u32::from(ago)).filter(|&g| g > 0) {
                    let (before, now) = (child.supervision.state(), self.clock.now());
                    for input in [
                        Input::Started { generation },
                        Input::Failed { generation },
                        Input::Ended { generation },
                    ] {
                        assert_eq!(child.input(now, input), None);
                    }
                    assert_eq!(child.supervision.state(), before);
                }
            }
            Op::Stop(child) => {
                self.children[child].wanted = false;
                self.children[child].retry_at = None;
                self.feed(child, Input::Stop);
                if self.children[child].alive.take().is_some() {
                    self.let_go(child);
                }
            }
            Op::Pass(millis) => {
                self.clock.advance(Duration::from_millis(millis.into()));
                for child in 0..CHILDREN {
                    let due = self.children[child].retry_at.is_some_and(|at| at <= self.clock.now());
                    self.feed(child, Input::Tick);
                    assert!(!due || self.works(child), "due, but not made again");
                }
            }
            // Of a child that is not there.
            _ => {}
        }
    }

    fn settle_oldest(&mut self, fate: Fate) {
        if let Some(delivery) = self.held.pop_front() {
            self.settle(delivery, fate);
        }
    }

    fn crash(&mut self, child: usize) {
        if self.works(child) {
            self.let_go(child);
            self.children[child].fail(self.clock.now());
        }
    }

    /// What a child holds is dropped with it.
    fn let_go(&mut self, child: usize) {
        if child == PIPELINE {
            for delivery in std::mem::take(&mut self.held) {
                self.settle(delivery, Fate::Dropped(DropReason::Crashed));
            }
        } else {
            self.cameras[child].slot = None;
        }
    }

    fn check(&mut self) {
        for child in &self.children {
            child.check(self.clock.now());
        }
        let snapshot = self.plane.ledger.snapshot();
        for (id, (camera, counts)) in self.cameras.iter().zip(&snapshot.cameras).enumerate() {
            assert_eq!(counts.captured, camera.fates.len() as u64);
            assert_eq!(counts.driver_lost, camera.driver_lost);
            for (k, counts) in counts.consumers.iter().enumerate().take(Consumer::ALWAYS.len()) {
                let (mut under_way, mut delivered, mut dropped) = (0, 0, [0; DropReason::ALL.len()]);
                for fates in &camera.fates {
                    match fates[k] {
                        Fate::UnderWay => under_way += 1,
                        Fate::Delivered => delivered += 1,
                        Fate::Dropped(reason) => dropped[reason as usize] += 1,
                    }
                }
                let consumer = Consumer::ALL[k];
                assert_eq!((counts.delivered, counts.dropped), (delivered, dropped), "{consumer:?}");
                assert_eq!(camera.fates.len() as u64, delivered + counts.dropped_total() + under_way);
            }
            let of_this = |delivery: &&Delivery| usize::from(delivery.meta().camera.0) == id;
            let held = self.held.iter().filter(of_this).count()
                + self.hung.iter().flat_map(|hung| &hung.held).filter(of_this).count();
            let written = usize::from(camera.slot.is_some());
            assert_eq!(camera.ring.in_use(), written + camera.queued.len() + held, "a slot leaked");
        }
        for stream in self.hung.iter_mut().flat_map(|hung| &mut hung.streams) {
            // Until the next life has taken over, the former consumer still is one.
            if self.children[PIPELINE].alive.is_some() {
                assert!(matches!(poll(stream), Poll::Ready(None)), "a hung consumer takes frames");
            }
        }
    }

    /// The session's end: cameras, pipeline, what is left.
    fn end(mut self) {
        (0..CHILDREN).for_each(|child| self.apply(Op::Stop(child)));
        self.plane.settle_frames();
        let still_hung: Vec<_> =
            std::mem::take(&mut self.hung).into_iter().flat_map(|hung| hung.held).collect();
        for delivery in &still_hung {
            let meta = delivery.meta();
            self.cameras[usize::from(meta.camera.0)].fates[meta.seq as usize][0] =
                Fate::Dropped(DropReason::Crashed);
        }
        self.plane.ledger.give_up(Consumer::Pipeline);
        // They come back after all was settled: they count no more.
        drop(still_hung);
        self.plane.settle_index();
        for camera in &mut self.cameras {
            for (k, queue) in [&mut camera.queued, &mut camera.indexed].into_iter().enumerate() {
                for frame in queue.drain(..) {
                    camera.fates[frame][k] = Fate::Dropped(DropReason::Unfinished);
                }
            }
        }
        self.check();
        assert_eq!(self.plane.ledger.snapshot().imbalances(), []);
        self.apply(Op::Pass(1_000_000));
        assert!((0..CHILDREN).all(|child| !self.works(child)), "a stopped child came back");
    }
}

fn policies() -> impl Strategy<Value = RestartPolicy> {
    let when = prop_oneof![Just(WhenExhausted::Degrade), Just(WhenExhausted::Escalate)];
    (0..5_usize, 1..20_u64, 1..800_u64, 1..6000_u64, when).prop_map(
        |(max_restarts, window, first, longest, when_exhausted)| RestartPolicy {
            max_restarts,
            window: Duration::from_secs(window),
            first_backoff: Duration::from_millis(first),
            longest_backoff: Duration::from_millis(longest),
            when_exhausted,
        },
    )
}

proptest! {
    #[test]
    fn whatever_happens_every_frame_is_counted_once_and_every_child_has_one_life(
        policy in policies(),
        lossless: bool,
        ops in prop::collection::vec(ops(), 1..600),
    ) {
        let mut system = System::new(policy, lossless);
        for op in ops {
            system.apply(op);
            system.check();
        }
        system.end();
    }
}
