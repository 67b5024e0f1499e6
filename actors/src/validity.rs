//! The validity card: for each participant in each camera, how far the rows of an interval, a minute of a session, can be trusted.
//!
//! Owns the sums over one interval. Pure: reads no clock and no pixels, judges nobody, and allocates only when somebody is
//! seen in a camera for the first time. Percentiles come from histograms of bins 2 % wide, so they are right to 1 %.
//!
//! **Repeatability noise** is what a landmark or a score does while the head does nothing: of three analysed frames in
//! succession, the middle one minus the straight line through the other two. Of white noise of variance σ² that pseudo-residual
//! has the variance σ² · (1 + a² + b²), a and b being the line's weights: Gasser, Sroka and Jennen-Steinmetz 1986, "Residual
//! variance and residual pattern in nonlinear regression", Biometrika 73. Of each three frames in which the head is still, the
//! root mean square over the landmarks that move least with expression, or over the scores, gives one value; the median
//! of these is the noise, so that a blink or a word does not move it.

use std::f64::consts::PI;

use youquanti_models::head_pose::RIGID_LANDMARKS;
use youquanti_models::{BLENDSHAPE_COUNT, CameraId, Face, FrameFaces, ParticipantId, TrackId};

/// Beyond this angle from the camera's axis the far half of a face is mostly hidden: the first bound of the usual split of
/// test sets into yaws of 0–30°, 30–60° and 60–90° (Zhu et al. 2016, "Face alignment across large poses", CVPR).
pub const YAW_LIMIT_DEGREES: f64 = 30.0;

/// Scores that hardly respond, whatever a face does: reported of the network by its users (issues 4436 and 4450 of
/// google-ai-edge/mediapipe), places in [`blendshapes::NAMES`](youquanti_models::blendshapes::NAMES).
pub const WEAK_BLENDSHAPES: [usize; 5] = [6, 21, 22, 50, 51];

/// Three frames lie so close that a straight line is a fair guess for the middle one.
const TRIPLE_NANOS: u64 = 250_000_000;

/// The head is still if its middle moves by less than this share of the face's size over three frames …
const STILL_SHIFT: f32 = 0.01;

/// … and it turns by less than this, degrees.
const STILL_TURN_DEGREES: f64 = 1.0;

/// One interval of one participant in one camera; `None` where too little was seen for a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// Who.
    pub participant: ParticipantId,
    /// In which camera.
    pub camera: CameraId,
    /// Frames of the camera that were analysed.
    pub analysed: u64,
    /// Of these, frames with the participant's face.
    pub faces: u64,
    /// Longer side of the box around the landmarks, pixels: median and 5th percentile.
    pub size_px: Option<[f64; 2]>,
    /// [`Face::sharpness`]: median and 5th percentile.
    pub sharpness: Option<[f64; 2]>,
    /// Share of the faces that are turned by more than [`YAW_LIMIT_DEGREES`] to either side.
    pub yaw_beyond: Option<f64>,
    /// Noise of x or y of a landmark, pixels, standard deviation.
    pub noise_px: Option<f64>,
    /// Noise of a blendshape's score, standard deviation.
    pub noise_score: Option<f64>,
    /// Three frames in succession with a still head: what the noise was computed from.
    pub still: u64,
    /// 95th minus 5th percentile of each of [`WEAK_BLENDSHAPES`].
    pub weak_range: [Option<f64>; WEAK_BLENDSHAPES.len()],
}

impl Card {
    /// Share of the analysed frames with the participant's face, 0 to 1.
    pub fn presence(&self) -> Option<f64> {
        (self.analysed > 0).then(|| self.faces as f64 / self.analysed as f64)
    }
}

/// The cards of a session.
#[derive(Default)]
pub struct Validity {
    /// Analysed frames of each camera in this interval.
    analysed: Vec<u64>,
    people: Vec<Person>,
}

impl Validity {
    /// Takes in an analysed frame, `participants[i]` being who `faces[i]` is. Those of a camera come in their order.
    pub fn frame(&mut self, frame: &FrameFaces, participants: &[Option<ParticipantId>]) {
        let camera = frame.meta.camera;
        let place = usize::from(camera.0);
        self.analysed.resize(self.analysed.len().max(place + 1), 0);
        self.analysed[place] += 1;
        for (face, participant) in frame.faces.iter().zip(participants) {
            let Some(participant) = *participant else { continue };
            let known = self
                .people
                .iter()
                .position(|person| (person.participant, person.camera) == (participant, camera));
            let at = known.unwrap_or_else(|| {
                self.people.push(Person::new(participant, camera));
                self.people.len() - 1
            });
            self.people[at].face(frame.meta.captured_at.0, face);
        }
    }

    /// The cards since the last call, of everybody who was ever seen, by participant and camera; the next interval begins.
    pub fn take(&mut self) -> Vec<Card> {
        self.people.sort_by_key(|person| (person.participant, person.camera));
        let analysed = &self.analysed;
        let cards = self
            .people
            .iter_mut()
            .map(|person| person.take(analysed[usize::from(person.camera.0)]))
            .collect();
        self.analysed.fill(0);
        cards
    }
}

struct Person {
    participant: ParticipantId,
    camera: CameraId,
    faces: u64,
    turned: u64,
    still: u64,
    size: Histogram,
    sharpness: Histogram,
    noise_px: Histogram,
    noise_score: Histogram,
    weak: [Scores; WEAK_BLENDSHAPES.len()],
    /// The two faces before, the newer one first.
    before: [Option<Sight>; 2],
}

impl Person {
    fn new(participant: ParticipantId, camera: CameraId) -> Self {
        Self {
            participant,
            camera,
            faces: 0,
            turned: 0,
            still: 0,
            size: Histogram::default(),
            sharpness: Histogram::default(),
            noise_px: Histogram::default(),
            noise_score: Histogram::default(),
            weak: std::array::from_fn(|_| Scores::default()),
            before: [None, None],
        }
    }

    fn face(&mut self, at_nanos: u64, face: &Face) {
        self.faces += 1;
        let [x0, y0, x1, y1] = face.bbox;
        let size = (x1 - x0).max(y1 - y0);
        self.size.add(f64::from(size));
        if let Some(sharpness) = face.sharpness {
            self.sharpness.add(f64::from(sharpness));
        }
        self.turned += u64::from(yaw_degrees(&face.head_pose).abs() > YAW_LIMIT_DEGREES);
        for (scores, place) in self.weak.iter_mut().zip(WEAK_BLENDSHAPES) {
            scores.add(face.blendshapes[place]);
        }
        let sight = Sight::of(at_nanos, face);
        if let [Some(middle), Some(first)] = &self.before
            && let Some([px, score]) = noise(first, middle, &sight, size)
        {
            self.still += 1;
            self.noise_px.add(px);
            self.noise_score.add(score);
        }
        self.before = [Some(sight), self.before[0].take()];
    }

    /// What came before stays: noise does not mind the end of an interval.
    fn take(&mut self, analysed: u64) -> Card {
        let Self { participant, camera, .. } = *self;
        let faces = std::mem::take(&mut self.faces);
        let turned = std::mem::take(&mut self.turned);
        let pair = |histogram: &mut Histogram| {
            let figures = [histogram.percentile(0.5), histogram.percentile(0.05)];
            histogram.clear();
            if let [Some(median), Some(low)] = figures { Some([median, low]) } else { None }
        };
        let (size_px, sharpness) = (pair(&mut self.size), pair(&mut self.sharpness));
        Card {
            participant,
            camera,
            analysed,
            faces,
            size_px,
            sharpness,
            yaw_beyond: (faces > 0).then(|| turned as f64 / faces as f64),
            noise_px: pair(&mut self.noise_px).map(|[median, _]| median),
            noise_score: pair(&mut self.noise_score).map(|[median, _]| median),
            still: std::mem::take(&mut self.still),
            weak_range: self.weak.each_mut().map(Scores::take),
        }
    }
}

/// What of a face the noise is computed from.
#[derive(Clone)]
struct Sight {
    at_nanos: u64,
    track: TrackId,
    points: [[f32; 2]; RIGID_LANDMARKS.len()],
    scores: [f32; BLENDSHAPE_COUNT],
    pose: [[f32; 4]; 4],
}

impl Sight {
    fn of(at_nanos: u64, face: &Face) -> Self {
        let points = RIGID_LANDMARKS.map(|place| {
            let [x, y, _] = face.landmarks[place];
            [x, y]
        });
        Self { at_nanos, track: face.track, points, scores: face.blendshapes, pose: face.head_pose }
    }

    fn middle(&self) -> [f32; 2] {
        let count = self.points.len() as f32;
        [0, 1].map(|axis| self.points.iter().map(|point| point[axis]).sum::<f32>() / count)
    }
}

/// Noise of a landmark's coordinate, pixels, and of a score, from three faces in succession with a still head.
fn noise(first: &Sight, middle: &Sight, last: &Sight, size: f32) -> Option<[f64; 2]> {
    let same = first.track == middle.track && middle.track == last.track;
    let (before, span) =
        (middle.at_nanos.checked_sub(first.at_nanos)?, last.at_nanos.checked_sub(first.at_nanos)?);
    if !same || before == 0 || before >= span || span > TRIPLE_NANOS {
        return None;
    }
    let ([x0, y0], [x1, y1]) = (first.middle(), last.middle());
    if (x1 - x0).hypot(y1 - y0) >= STILL_SHIFT * size
        || turn_degrees(&first.pose, &last.pose) >= STILL_TURN_DEGREES
    {
        return None;
    }
    let of_last = before as f64 / span as f64;
    let of_first = 1.0 - of_last;
    let per_variance = 1.0 + of_first * of_first + of_last * of_last;
    let deviation = |values: &mut dyn Iterator<Item = [f32; 3]>| {
        let (mut squares, mut count) = (0.0, 0.0);
        for [first, middle, last] in values {
            let residual = f64::from(middle) - of_first * f64::from(first) - of_last * f64::from(last);
            squares += residual * residual;
            count += 1.0;
        }
        (squares / (count * per_variance)).sqrt()
    };
    let points = |sight: &Sight| sight.points;
    let (a, b, c) = (points(first), points(middle), points(last));
    let px = deviation(&mut (0..2 * a.len()).map(|i| [a[i / 2][i % 2], b[i / 2][i % 2], c[i / 2][i % 2]]));
    // `_neutral` is no score of a movement.
    let score =
        deviation(&mut (1..BLENDSHAPE_COUNT).map(|i| [first.scores[i], middle.scores[i], last.scores[i]]));
    (px.is_finite() && score.is_finite()).then_some([px, score])
}

/// How far a head is turned to the side from the camera's axis, degrees: of the face's own z axis seen from above.
pub fn yaw_degrees(pose: &[[f32; 4]; 4]) -> f64 {
    f64::from(pose[0][2]).atan2(f64::from(pose[2][2])).to_degrees()
}

/// Angle of the rotation between two poses, degrees.
fn turn_degrees(a: &[[f32; 4]; 4], b: &[[f32; 4]; 4]) -> f64 {
    let trace: f64 = (0..3)
        .flat_map(|row| (0..3).map(move |column| (row, column)))
        .map(|(r, c)| f64::from(a[r][c]) * f64::from(b[r][c]))
        .sum();
    ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos() * 180.0 / PI
}

/// Positive values from 1e-6 to 1e6, in bins 2 % wide; what lies beyond counts as the first or the last of them.
struct Histogram {
    bins: Box<[u32; Histogram::BINS]>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: Box::new([0; Self::BINS]), count: 0 }
    }
}

impl Histogram {
    const LEAST: f64 = 1e-6;
    /// Natural logarithm of the ratio of neighbours.
    const STEP: f64 = 0.02;
    /// ln(10¹²) / 0.02.
    const BINS: usize = 1382;

    fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        // `as` saturates: nothing and less are in the first bin.
        let place = ((value / Self::LEAST).ln() / Self::STEP) as usize;
        self.bins[place.min(Self::BINS - 1)] += 1;
        self.count += 1;
    }

    /// The value that this share of all is at most, by nearest rank.
    fn percentile(&self, share: f64) -> Option<f64> {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let place = rank_place(&*self.bins, rank)?;
        Some(Self::LEAST * ((place as f64 + 0.5) * Self::STEP).exp())
    }

    fn clear(&mut self) {
        self.bins.fill(0);
        self.count = 0;
    }
}

/// Scores of 0 to 1 in 1/200.
struct Scores {
    bins: [u32; Scores::BINS],
    count: u64,
}

impl Default for Scores {
    fn default() -> Self {
        Self { bins: [0; Self::BINS], count: 0 }
    }
}

impl Scores {
    const BINS: usize = 201;

    fn add(&mut self, score: f32) {
        let place = (score * (Self::BINS - 1) as f32).round() as usize;
        self.bins[place.min(Self::BINS - 1)] += 1;
        self.count += 1;
    }

    /// 95th minus 5th percentile; begins anew.
    fn take(&mut self) -> Option<f64> {
        let rank = |share: f64| ((self.count as f64 * share).ceil() as u64).max(1);
        let range = rank_place(&self.bins, rank(0.95)).zip(rank_place(&self.bins, rank(0.05)));
        *self = Self::default();
        range.map(|(high, low)| (high - low) as f64 / (Self::BINS - 1) as f64)
    }
}

/// The bin that the value of this rank, from 1, is in.
fn rank_place(bins: &[u32], rank: u64) -> Option<usize> {
    let mut sum = 0;
    bins.iter().position(|&count| {
        sum += u64::from(count);
        sum >= rank
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use youquanti_models::{LANDMARK_COUNT, Timestamp, blendshapes};

    use super::*;
    use crate::dice::Dice;

    const PERIOD: u64 = 33_333_333;

    /// A frame of camera 0 with these faces.
    fn frame(seq: u64, faces: Vec<Face>) -> FrameFaces {
        let mut frame = FrameFaces::with_capacity(4);
        frame.meta.captured_at = Timestamp(1_000_000_000 + seq * PERIOD);
        frame.faces = faces;
        frame
    }

    fn face(size: f32, yaw: f32, wobble: &mut dyn FnMut() -> f32) -> Face {
        let (sin, cos) = yaw.to_radians().sin_cos();
        Face {
            track: TrackId(1),
            score: 0.9,
            bbox: [10.0, 20.0, 10.0 + size, 20.0 + size / 2.0],
            presence: 1.0,
            sharpness: Some(50.0),
            landmarks: std::array::from_fn::<_, LANDMARK_COUNT, _>(|i| [i as f32 + wobble(), wobble(), 0.0]),
            blendshapes: std::array::from_fn(|_| 0.5 + wobble() / 10.0),
            head_pose: [
                [cos, 0.0, sin, 0.0],
                [0.0, 1.0, 0.0, 0.0],
                [-sin, 0.0, cos, -0.5],
                [0.0, 0.0, 0.0, 1.0],
            ],
        }
    }

    const P1: Option<ParticipantId> = Some(ParticipantId(1));

    fn near(found: Option<f64>, expected: f64, share: f64) {
        let found = found.unwrap();
        assert!((found / expected - 1.0).abs() <= share, "{found} is not {expected}");
    }

    #[test]
    fn presence_size_sharpness_and_yaw() {
        let mut validity = Validity::default();
        for seq in 0..100 {
            let yaw = if seq % 4 == 0 { -31.0 } else { 29.0 };
            let faces = if seq < 80 { vec![face(100.0 + seq as f32, yaw, &mut || 0.0)] } else { Vec::new() };
            let who = vec![P1; faces.len()];
            validity.frame(&frame(seq, faces), &who);
        }
        let card = validity.take().remove(0);
        assert_eq!(
            (card.participant, card.camera, card.analysed, card.faces),
            (ParticipantId(1), CameraId(0), 100, 80)
        );
        assert_eq!(card.presence(), Some(0.8));
        near(card.size_px.map(|[median, _]| median), 139.0, 0.011);
        near(card.size_px.map(|[_, low]| low), 103.0, 0.011);
        near(card.sharpness.map(|[median, _]| median), 50.0, 0.011);
        assert_eq!(card.yaw_beyond, Some(0.25));
        assert_eq!(card.weak_range, [Some(0.0); 5]);
    }

    #[test]
    fn somebody_who_is_away_has_a_card_and_no_figures() {
        let mut validity = Validity::default();
        validity.frame(&frame(0, vec![face(100.0, 0.0, &mut || 0.0)]), &[P1]);
        validity.take();
        validity.frame(&frame(1, Vec::new()), &[]);
        let card = validity.take().remove(0);
        assert_eq!((card.analysed, card.faces, card.presence()), (1, 0, Some(0.0)));
        assert_eq!((card.size_px, card.sharpness, card.yaw_beyond, card.noise_px), (None, None, None, None));
        assert_eq!(validity.take().remove(0).presence(), None, "nothing was analysed");
    }

    #[test]
    fn faces_of_nobody_and_nobody_at_all_have_no_card() {
        let mut validity = Validity::default();
        validity.frame(&frame(0, vec![face(100.0, 0.0, &mut || 0.0)]), &[None]);
        assert_eq!(validity.take(), []);
    }

    /// Frames of a head that drifts by `drift` px a frame, with white noise of deviation `sigma` px and a tenth of it as score.
    fn noisy(sigma: f32, drift: f32, skip: impl Fn(u64) -> bool) -> Card {
        let mut dice = Dice::new(7);
        // The sum of twelve even numbers is near enough to a normal one of deviation 1.
        let mut normal = || (0..12).map(|_| dice.unit() as f32).sum::<f32>() - 6.0;
        let mut validity = Validity::default();
        for seq in (0..400).filter(|&seq| !skip(seq)) {
            let mut face = face(200.0, 0.0, &mut || sigma * normal());
            face.landmarks.iter_mut().for_each(|point| point[0] += drift * seq as f32);
            validity.frame(&frame(seq, vec![face]), &[P1]);
        }
        validity.take().remove(0)
    }

    #[test]
    fn noise_is_found_whatever_the_drift_and_the_frames_that_are_missing() {
        for skip in [|_| false, |seq: u64| seq % 5 == 3] {
            let card = noisy(0.2, 0.3, skip);
            near(card.noise_px, 0.2, 0.05);
            near(card.noise_score, 0.02, 0.05);
        }
    }

    #[test]
    fn a_moving_head_and_frames_far_apart_tell_no_noise() {
        assert_eq!(noisy(0.2, 5.0, |_| false).noise_px, None);
        assert_eq!(noisy(0.2, 0.0, |seq| seq % 8 != 0).still, 0);
    }

    #[test]
    fn a_turn_and_another_track_are_no_stillness() {
        let mut validity = Validity::default();
        for seq in 0..50 {
            validity.frame(&frame(seq, vec![face(100.0, seq as f32, &mut || 0.0)]), &[P1]);
        }
        assert_eq!(validity.take().remove(0).still, 0);
        for seq in 0..50 {
            let mut face = face(100.0, 0.0, &mut || 0.0);
            face.track = TrackId(seq as u32 % 2);
            validity.frame(&frame(seq, vec![face]), &[P1]);
        }
        assert_eq!(validity.take().remove(0).still, 0);
    }

    #[test]
    fn the_weak_ones_are_those_that_are_named() {
        let names = WEAK_BLENDSHAPES.map(|place| blendshapes::NAMES[place]);
        assert_eq!(names, ["cheekPuff", "eyeWideLeft", "eyeWideRight", "noseSneerLeft", "noseSneerRight"]);
    }

    proptest! {
        #[test]
        fn percentiles_are_right_to_one_percent(mut values in prop::collection::vec(1e-5f64..1e5, 1..200), share in 0.0f64..1.0) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.add(value));
            values.sort_by(f64::total_cmp);
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            let found = histogram.percentile(share).unwrap();
            prop_assert!((found / values[rank - 1] - 1.0).abs() <= 0.0101);
        }

        #[test]
        fn no_numbers_break_nothing(bits in prop::collection::vec(any::<u32>(), 16)) {
            let mut validity = Validity::default();
            for (seq, &bits) in bits.iter().enumerate() {
                let value = f32::from_bits(bits);
                let mut face = face(value, 0.0, &mut || value);
                face.sharpness = Some(value);
                face.head_pose = [[value; 4]; 4];
                validity.frame(&frame(seq as u64, vec![face]), &[P1]);
            }
            let card = validity.take().remove(0);
            let figures = [card.noise_px, card.noise_score, card.yaw_beyond, card.size_px.map(|pair| pair[0])];
            prop_assert!(figures.into_iter().flatten().all(f64::is_finite));
        }
    }
}
