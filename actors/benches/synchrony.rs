//! What a window of synchrony costs: all pairs of two, six and sixteen people with four groups of blendshapes and the usual
//! lengths, computed in one go as for lossless sources; and a frame of six people that is taken on the way.
#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use youquanti_actors::synchrony::{Group, Synchrony, SynchronyOptions};
use youquanti_models::{
    BLENDSHAPE_COUNT, Face, FrameFaces, LANDMARK_COUNT, ParticipantId, Timestamp, TrackId,
};

const PERIOD_NANOS: u64 = 33_333_333;

fn options(participants: u16) -> SynchronyOptions {
    let group = |name: &str, channels: &[usize]| Group { name: name.to_owned(), channels: channels.to_vec() };
    SynchronyOptions {
        participants,
        rate: 30,
        window: Duration::from_secs(10),
        step: Duration::from_secs(1),
        max_lag: Duration::from_secs(1),
        history: Duration::from_secs(120),
        shifts: 199,
        seed: 1,
        groups: vec![
            group("smile", &[44, 45]),
            group("brow", &[3, 4, 5]),
            group("eye", &[9, 10]),
            group("jaw", &[25]),
        ],
    }
}

fn frame(people: u16) -> FrameFaces {
    let mut frame = FrameFaces::with_capacity(usize::from(people));
    frame.faces.extend((0..people).map(|person| Face {
        track: TrackId(person.into()),
        score: 0.9,
        bbox: [0.0; 4],
        presence: 1.0,
        sharpness: None,
        landmarks: [[0.0; 3]; LANDMARK_COUNT],
        blendshapes: [0.0; BLENDSHAPE_COUNT],
        head_pose: [[0.0; 4]; 4],
    }));
    frame
}

/// People who move on from one window to the next, with two minutes of them at hand.
struct Session {
    synchrony: Synchrony,
    who: Vec<Option<ParticipantId>>,
    frame: FrameFaces,
    seq: u64,
}

impl Session {
    fn new(people: u16) -> Self {
        let who = (1..=people).map(|id| Some(ParticipantId(id))).collect();
        let synchrony = Synchrony::new(options(people));
        let mut session = Self { synchrony, who, frame: frame(people), seq: 0 };
        while session.seq < 3700 {
            session.one_more_frame();
        }
        session
    }

    fn one_more_frame(&mut self) {
        self.seq += 1;
        self.frame.meta.captured_at = Timestamp(1_000_000_000 + self.seq * PERIOD_NANOS);
        for (person, face) in (1..).zip(&mut self.frame.faces) {
            face.blendshapes.fill(0.5 + 0.4 * (self.seq as f32 * 0.1 * person as f32).sin());
        }
        while self.synchrony.is_due(self.frame.meta.captured_at) {
            self.synchrony.skip();
        }
        self.synchrony.take(&self.frame, &self.who);
    }
}

fn bench(c: &mut Criterion) {
    for people in [2, 6, 16] {
        let session = &mut Session::new(people);
        c.bench_function(&format!("window_of_{people}"), |b| {
            b.iter(|| {
                session.one_more_frame();
                session.synchrony.open();
                loop {
                    if let Some(window) = session.synchrony.advance() {
                        break black_box(window);
                    }
                }
            });
        });
    }
    let session = &mut Session::new(6);
    c.bench_function("portion", |b| {
        b.iter(|| {
            if !session.synchrony.is_at_work() {
                session.one_more_frame();
                session.synchrony.open();
            }
            black_box(session.synchrony.advance())
        });
    });
    let session = &mut Session::new(6);
    c.bench_function("frame_of_6", |b| b.iter(|| session.one_more_frame()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = bench
}
criterion_main!(benches);
