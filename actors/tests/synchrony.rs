//! Two people with a known lag, seen by cameras of different rates and phases, with noise and stretches in which one is away:
//! what windows of synchrony say of them.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;
use youquanti_actors::child::{Lifeline, Report};
use youquanti_actors::messages::{ChildId, Event, EventKind, FacesNamed, Shutdown};
use youquanti_actors::outputs::Outputs;
use youquanti_actors::participants::RosterUpdate;
use youquanti_actors::synchrony::{
    Group, Likeness, Synchrony, SynchronyActor, SynchronyOptions, SynchronyWindow,
};
use youquanti_models::{
    BLENDSHAPE_COUNT, CameraId, Face, FrameFaces, LANDMARK_COUNT, ParticipantId, Timestamp, TrackId,
};

/// Start of every session here: no round number.
const START_NS: u64 = 86_461_234_567_890;

const JAW_OPEN: usize = 25;

/// Numbers that look random; a test's own, so that it shares no mistake with what it tests.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A jaw that opens and shuts without end, at any time in seconds: many waves of 0.05 to 1 Hz around 0.4, deviation about 0.11.
fn movement(seed: u64) -> impl Fn(f64) -> f64 {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        random.unit();
    }
    let waves: Vec<_> =
        (0..40).map(|_| (0.05 + 0.95 * random.unit(), random.unit() * std::f64::consts::TAU)).collect();
    move |seconds| {
        let sum: f64 =
            waves.iter().map(|(hz, phase)| (std::f64::consts::TAU * hz * seconds + phase).sin()).sum();
        0.4 + 0.025 * sum
    }
}

fn frame(camera: u16, at_s: f64, jaws: &[f64]) -> FrameFaces {
    let mut frame = FrameFaces::with_capacity(jaws.len());
    frame.meta.camera = CameraId(camera);
    frame.meta.captured_at = Timestamp(START_NS + (at_s * 1e9) as u64);
    frame.faces.extend(jaws.iter().map(|&jaw| {
        let mut blendshapes = [0.0; BLENDSHAPE_COUNT];
        blendshapes[JAW_OPEN] = jaw as f32;
        Face {
            track: TrackId(0),
            score: 0.9,
            bbox: [0.0; 4],
            presence: 1.0,
            sharpness: None,
            landmarks: [[0.0; 3]; LANDMARK_COUNT],
            blendshapes,
            head_pose: [[0.0; 4]; 4],
        }
    }));
    frame
}

fn options() -> SynchronyOptions {
    let group = |name: &str, channels: &[usize]| Group { name: name.to_owned(), channels: channels.to_vec() };
    SynchronyOptions {
        participants: 2,
        rate: 30,
        window: Duration::from_secs(10),
        step: Duration::from_secs(1),
        max_lag: Duration::from_secs(1),
        history: Duration::from_secs(120),
        shifts: 199,
        seed: 1,
        groups: vec![group("jaw", &[JAW_OPEN]), group("brow", &[3, 4, 5])],
    }
}

/// What the actor does with a frame, with all the time it takes.
fn take(synchrony: &mut Synchrony, frame: &FrameFaces, who: &[u16], windows: &mut Vec<SynchronyWindow>) {
    while synchrony.is_due(frame.meta.captured_at) {
        synchrony.open();
        while synchrony.is_at_work() {
            windows.extend(synchrony.advance());
        }
    }
    let who: Vec<_> = who.iter().map(|&id| Some(ParticipantId(id))).collect();
    synchrony.take(frame, &who);
}

/// One camera's view of one person.
struct View {
    fps: f64,
    phase_s: f64,
    noise: f64,
    /// From, to: no face is found.
    away_s: Vec<(f64, f64)>,
    jaw: Box<dyn Fn(f64) -> f64>,
}

impl View {
    fn steady(fps: f64, phase_s: f64, jaw: impl Fn(f64) -> f64 + 'static) -> Self {
        Self { fps, phase_s, noise: 0.02, away_s: Vec::new(), jaw: Box::new(jaw) }
    }
}

/// The windows of two people in a camera each; every twentieth frame is lost before it is analysed.
fn watch(options: SynchronyOptions, views: [View; 2], seconds: f64) -> Vec<SynchronyWindow> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut frames = Vec::new();
    for (camera, view) in views.iter().enumerate() {
        for index in 0..(seconds * view.fps) as u32 {
            let at = view.phase_s + f64::from(index) / view.fps;
            let noise = view.noise * (random.unit() + random.unit() - 1.0);
            if random.unit() < 0.05 {
                continue;
            }
            let away = view.away_s.iter().any(|&(from, to)| (from..to).contains(&at));
            frames.push((at, camera, (!away).then(|| (view.jaw)(at) + noise)));
        }
    }
    // Results of different cameras come in the order in which they are ready: up to 0.3 s late.
    frames.sort_by(|a, b| {
        let ready = |&(at, camera, _): &(f64, usize, _)| at + 0.3 * camera as f64;
        ready(a).total_cmp(&ready(b))
    });
    let (mut synchrony, mut windows) = (Synchrony::new(options), Vec::new());
    for (at, camera, jaw) in frames {
        let who: &[u16] = if jaw.is_some() { &[camera as u16 + 1] } else { &[] };
        take(&mut synchrony, &frame(camera as u16, at, jaw.as_slice()), who, &mut windows);
    }
    windows
}

/// Of each window, the group of the jaw.
fn jaws(windows: &[SynchronyWindow]) -> Vec<Likeness> {
    windows.iter().map(|window| window.likeness[0]).collect()
}

#[test]
fn the_lag_is_found_to_one_frame() {
    for (lag_s, rates, invert) in [
        (0.0, (30.0, 30.0), false),
        (0.4, (30.0, 25.0), false),
        (-0.7, (59.94, 24.0), false),
        (0.333, (15.0, 60.0), true),
    ] {
        let leader = movement(7);
        let follower = movement(7);
        let sign = if invert { -1.0 } else { 1.0 };
        let views = [
            View::steady(rates.0, 0.0131, leader),
            View::steady(rates.1, 0.0077, move |at| 0.4 + sign * (follower(at - lag_s) - 0.4)),
        ];
        let windows = watch(options(), views, 60.0);
        // 12 s are needed first, and the last second is waited for.
        assert!((46..=48).contains(&windows.len()), "{}", windows.len());
        let frame = 1.0 / rates.0.min(rates.1);
        for (window, jaw) in windows.iter().zip(jaws(&windows)) {
            assert!((f64::from(jaw.lag_s) - lag_s).abs() <= frame, "{lag_s} {rates:?}: {jaw:?}");
            assert!(f64::from(jaw.r) * sign > 0.9, "{jaw:?}");
            assert!(jaw.common > 0.95, "{jaw:?}");
            assert_eq!(
                (window.end.0 - window.start.0).div_ceil(33_333_333),
                300,
                "ten seconds, both ends counted"
            );
            let still = window.likeness[1];
            assert!(
                still.r.is_nan() && still.lag_s.is_nan() && still.p.is_nan(),
                "nobody's brows move: {still:?}"
            );
            assert!(still.common > 0.95, "{still:?}");
        }
    }
}

#[test]
fn chance_is_told_from_following() {
    let views = |jaw: fn(f64) -> f64| {
        let (first, shared, own) = (movement(21), movement(21), movement(22));
        let share = jaw(0.0);
        [
            View::steady(30.0, 0.0, first),
            View::steady(25.0, 0.01, move |at| share * shared(at - 0.4) + (1.0 - share) * own(at)),
        ]
    };
    // With all of its two minutes at hand; windows overlap by nine tenths, so they are few that count on their own.
    let late = |windows: Vec<SynchronyWindow>| jaws(&windows).split_off(110);
    let follows = late(watch(options(), views(|_| 0.7), 180.0));
    assert!(follows.len() > 50 && follows.iter().all(|jaw| jaw.p <= 0.05), "{follows:?}");
    let alone = late(watch(options(), views(|_| 0.0), 180.0));
    let rejected = alone.iter().filter(|jaw| jaw.p <= 0.05).count();
    assert!(rejected * 4 < alone.len(), "{rejected} of {}", alone.len());
}

#[test]
fn who_is_away_is_not_compared() {
    let (first, second) = (movement(3), movement(3));
    let away = View { away_s: vec![(20.0, 23.0), (30.0, 50.0)], ..View::steady(30.0, 0.004, second) };
    let windows = watch(options(), [View::steady(30.0, 0.0, first), away], 60.0);
    let mut gone = 0;
    for window in &windows {
        let [start, end] = [window.start, window.end].map(|at| (at.0 - START_NS) as f64 / 1e9);
        let overlap = |from: f64, to: f64| (end.min(to) - start.max(from)).max(0.0);
        let there = 1.0 - (overlap(20.0, 23.0) + overlap(30.0, 50.0)) / 10.0;
        let jaw = window.likeness[0];
        // At other lags, up to a second more or less; and what is at both ends of an absence cannot be bridged.
        assert!((f64::from(jaw.common) - there).abs() < 0.12, "{there}: {jaw:?}");
        if there < 0.39 {
            gone += 1;
            assert!(jaw.r.is_nan() && jaw.p.is_nan(), "{there}: {jaw:?}");
        } else if there > 0.61 {
            assert!(jaw.r > 0.9 && jaw.lag_s.abs() < 0.034, "{there}: {jaw:?}");
        }
    }
    assert!(gone >= 15, "{gone}");
}

#[test]
fn a_window_that_is_left_out_is_left_out() {
    let (mut synchrony, mut windows) = (Synchrony::new(options()), Vec::new());
    let jaw = movement(5);
    for index in 0..900 {
        let at = f64::from(index) / 30.0;
        let frame = frame(0, at, &[jaw(at), jaw(at - 0.1)]);
        if synchrony.is_due(frame.meta.captured_at) && (600..700).contains(&index) {
            synchrony.skip();
        }
        take(&mut synchrony, &frame, &[1, 2], &mut windows);
    }
    let ends: Vec<_> = windows.iter().map(|window| window.end.0 / 1_000_000_000).collect();
    let steps: Vec<_> = ends.windows(2).map(|ends| ends[1] - ends[0]).collect();
    assert_eq!(steps.iter().filter(|&&step| step == 1).count(), steps.len() - 1, "{steps:?}");
    assert!(steps.contains(&5) || steps.contains(&4), "{steps:?}");
}

#[test]
fn the_same_frames_give_the_same_windows() {
    let run = |seed| {
        let views = [View::steady(30.0, 0.0, movement(1)), View::steady(25.0, 0.01, movement(2))];
        jaws(&watch(SynchronyOptions { seed, ..options() }, views, 40.0))
    };
    let [first, again, other] = [run(1), run(1), run(2)];
    assert_eq!(first, again);
    let [r, other_r] = [&first, &other].map(|jaws| jaws.iter().map(|jaw| jaw.r).collect::<Vec<_>>());
    assert_eq!(r, other_r);
    assert_ne!(first, other, "other turns, another p");
}

#[test]
fn stamps_that_leap_do_no_harm() {
    let (mut synchrony, mut windows) = (Synchrony::new(options()), Vec::new());
    for at in [0.0, 0.03, 5.0, 3600.0, 3600.02, 20.0, 1e6, 1e6 + 0.1] {
        let frame = frame(0, at, &[0.3, 0.4]);
        for _ in 0..100 {
            if synchrony.is_due(frame.meta.captured_at) {
                synchrony.skip();
            }
        }
        while synchrony.is_due(frame.meta.captured_at) {
            synchrony.skip();
        }
        take(&mut synchrony, &frame, &[1, 2], &mut windows);
    }
    assert!(windows.is_empty());
}

/// Keeps events.
struct Told(SyncSender<Event>);

impl Actor for Told {
    type Context = Context<Self>;
}

impl Handler<Event> for Told {
    type Result = ();

    fn handle(&mut self, event: Event, _: &mut Self::Context) {
        self.0.send(event).unwrap();
    }
}

/// Takes reports that nobody reads.
struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<Report> for Deaf {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Self::Context) {}
}

#[test]
fn windows_that_are_due_while_one_is_computed_are_left_out_and_that_is_said_once_in_a_row() {
    let (told, events) = sync_channel(100);
    System::new().block_on(async {
        let sink = Told(told).start();
        let lifeline = Lifeline::new(Deaf.start().recipient(), ChildId::Synchrony, 0, Arc::default(), false);
        let actor =
            SynchronyActor::new(options(), false, Outputs::default(), sink.clone().recipient(), lifeline)
                .start();
        let see = async |at_s: f64| {
            let update = RosterUpdate {
                participants: vec![Some(ParticipantId(1)), Some(ParticipantId(2))],
                ..RosterUpdate::default()
            };
            let faces = Arc::new(frame(0, at_s, &[0.4 + at_s.sin() / 9.0, 0.4 + at_s.cos() / 9.0]));
            actor.send(FacesNamed { faces, update: Arc::new(update) }).await.unwrap();
        };
        for index in 0..15 * 30 {
            see(f64::from(index) / 30.0).await;
        }
        // Nothing was captured for a while: at the next frame several windows are due at once, twice. Between, there are as many
        // frames as one window needs that is computed a portion a frame.
        for again in [25.0, 60.0] {
            for index in 0..90 {
                see(again + f64::from(index) / 100.0).await;
            }
        }
        actor.send(Shutdown).await.unwrap();
        // What was sent before is taken before.
        let last = Event {
            at: Timestamp(0),
            source: "test".to_owned(),
            kind: EventKind::Marker,
            detail: json!(null),
        };
        sink.send(last).await.unwrap();
    });
    let skipped: Vec<_> = events.try_iter().filter(|event| event.kind == EventKind::WindowSkipped).collect();
    let stamps: Vec<_> = skipped.iter().map(|event| (event.at.0 - START_NS) / 1_000_000_000).collect();
    assert_eq!(stamps, [25, 60], "{skipped:?}");
    assert!(skipped.iter().all(|event| event.source == "synchrony" && event.detail["why"].is_string()));
}
