//! Follows the faces of one camera from frame to frame. Pure and deterministic: what it does depends on
//! frame numbers, detections and landmarks alone, so that a replay agrees with the recording.
//!
//! Per frame: [`Tracker::begin`] says whether to run the detector, [`Tracker::merge`] takes its detections,
//! [`Tracker::tracks`] are the regions to run the landmark network on, [`Tracker::update`] takes the
//! landmarks and says which of them are faces. Never publishes a face that the network did not see in this frame.
//!
//! A live track is kept, and a detection is used only where no track is: the reverse, MediaPipe's way, loses
//! faces at the detector's limit. A track without a face is carried on at its last speed for a few frames,
//! unseen, while the detector looks for it. Of two tracks on one face the one that moved steadily is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::detection::Detection;
use crate::face::LANDMARK_COUNT;
use crate::geometry::{Box2, Roi};
use crate::ids::{CameraId, TrackId};
use crate::roi::{landmark_box, roi_from_landmarks};

/// How far from a track's expected centre, in face sizes, a detection may be to belong to it.
const GATE: f32 = 0.5;
/// By how much the gate opens with each frame without a face, up to twice its width.
const GATE_GROWTH: f32 = 0.1;
/// A detection this near to a live track's centre, in face sizes, is that track's face.
const COVERED: f32 = 0.35;
/// Beyond this distance from where it was expected after skipped frames, in face sizes, a face is looked at where the
/// detector sees it.
const MOVED_ON: f32 = 0.2;
/// A detection and its track differ in size by at most this factor.
const SIZE_RATIO_OF_DETECTION: f32 = 2.0;
/// A face's size changes by at most this factor from one frame to the next.
const SIZE_RATIO: f32 = 1.5;
/// Landmark boxes of two tracks that overlap by more than this are one face: of two faces that far behind
/// each other the hinder one cannot be seen.
const SAME_FACE_IOU: f32 = 0.5;
/// Where they overlap by more than this, the hinder face is partly hidden, and the landmark network may draw one face
/// from parts of both.
const HIDING_IOU: f32 = 0.2;
/// A partly hidden face is not published with more doubt than this; see [`Tracker::doubt`].
const DOUBT_OF_HIDDEN: f32 = 0.15;
/// Beside another track a face may be this far from where it was expected, in face sizes, or have grown by as
/// large a part: beyond, it is the other's. Far from others there is no such limit, as the region itself reaches no further than 0.75.
const JUMP: f32 = 0.25;
/// Another track is near if its centre is within this many face sizes.
const NEAR: f32 = 1.5;
/// What it counts against a track that it just lost its face, in face sizes.
const DOUBT_OF_MISSING: f32 = 0.1;
/// Weight of the newest frame in a track's speed and in how steadily it moves.
const NEWEST: f32 = 0.3;
/// Frames over which a speed is trusted.
const MAX_COAST: u64 = 20;

/// Gives each track of a session its number. One for the whole session, shared by the trackers of all
/// cameras, so that a number is not used again when a pipeline is rebuilt.
///
/// A camera's numbers are its index, plus the number of cameras for each further track: they depend on that
/// camera's frames alone.
#[derive(Debug)]
pub struct TrackIds {
    /// How many tracks each camera had.
    used: Box<[AtomicU32]>,
}

impl TrackIds {
    /// For a session of so many cameras, at least one.
    pub fn new(cameras: usize) -> Self {
        Self { used: (0..cameras.max(1)).map(|_| AtomicU32::new(0)).collect() }
    }

    /// A number that no other track of the session has, until `u32` is used up.
    pub fn next(&self, camera: CameraId) -> TrackId {
        let at = usize::from(camera.0) % self.used.len();
        let nth = self.used[at].fetch_add(1, Ordering::Relaxed);
        TrackId((at as u32).wrapping_add(nth.wrapping_mul(self.used.len() as u32)))
    }
}

/// How a camera's faces are followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackerOptions {
    /// Faces followed at most, at least 1.
    pub max_faces: usize,
    /// The detector runs once in each run of so many frame numbers, at least 1, even if all is well.
    pub detect_every: u64,
    /// Presence from which on landmarks are a face, 0 to 1.
    pub presence_threshold: f32,
    /// Frame numbers for which a track lives on without a face. Meanwhile the detector runs on each frame.
    pub grace_frames: u64,
    /// The same for a track whose face is hidden by that of another track.
    pub hidden_frames: u64,
}

impl Default for TrackerOptions {
    fn default() -> Self {
        Self { max_faces: 4, detect_every: 10, presence_threshold: 0.5, grace_frames: 5, hidden_frames: 20 }
    }
}

/// A face that is followed, or a detection of this frame that may become one.
#[derive(Clone, Debug)]
pub struct Track {
    /// None until its first landmarks are accepted.
    id: Option<TrackId>,
    score: f32,
    /// Where the landmark network has to look.
    roi: Roi,
    /// Whether `roi` is a detection of this frame.
    detected: bool,
    /// Centre of the last landmarks' box, or of the detection that it began with; pixels.
    center: [f32; 2],
    /// Longer side of that box, pixels.
    size: f32,
    /// Pixels for each frame number.
    velocity: [f32; 2],
    /// Running mean of [`Found::surprise`].
    unsteadiness: f32,
    /// Number of the frame with the last accepted landmarks.
    seen: u64,
    /// Whether the landmarks of the last frame were not accepted.
    missing: bool,
    /// Whether, when last missing, another track had its face.
    hidden: bool,
}

impl Track {
    fn begin(detection: &Detection, seq: u64) -> Self {
        Self {
            id: None,
            score: detection.score,
            roi: detection.roi(),
            detected: true,
            center: detection.bbox.center(),
            size: longer_side(&detection.bbox),
            velocity: [0.0; 2],
            unsteadiness: 0.0,
            seen: seq,
            missing: false,
            hidden: false,
        }
    }

    /// The region for the landmark network, picture pixels.
    pub fn roi(&self) -> &Roi {
        &self.roi
    }

    /// Score of the detection that began or last confirmed the track, 0 to 1.
    pub fn score(&self) -> f32 {
        self.score
    }

    /// Whether this is a detection that has not become a track yet.
    pub fn is_new(&self) -> bool {
        self.id.is_none()
    }

    /// Where the face should be in a frame, at its last speed.
    fn expected(&self, seq: u64) -> [f32; 2] {
        if self.detected {
            return [self.roi.cx, self.roi.cy];
        }
        let frames = seq.saturating_sub(self.seen).min(MAX_COAST) as f32;
        [self.center[0] + self.velocity[0] * frames, self.center[1] + self.velocity[1] * frames]
    }

    /// Distance from the expected centre, in face sizes.
    fn distance(&self, seq: u64, to: [f32; 2]) -> f32 {
        distance(self.expected(seq), to) / self.size
    }

    fn accept(&mut self, found: &Found, seq: u64) {
        let frames = seq.saturating_sub(self.seen).max(1) as f32;
        let center = found.bbox.center();
        if self.id.is_some() {
            for (axis, velocity) in self.velocity.iter_mut().enumerate() {
                let newest = (center[axis] - self.center[axis]) / frames;
                *velocity += NEWEST * (newest - *velocity);
            }
            self.unsteadiness += NEWEST * (found.surprise - self.unsteadiness);
        }
        self.center = center;
        self.size = longer_side(&found.bbox);
        self.roi = found.roi;
        self.detected = false;
        self.seen = seq;
        self.missing = false;
    }
}

/// Landmarks that may be a track's face.
#[derive(Clone, Copy, Debug)]
struct Found {
    bbox: Box2,
    /// For the next frame.
    roi: Roi,
    /// Distance from where it was expected, in face sizes, and logarithm of its growth, as one length.
    surprise: f32,
}

/// A face of this frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackedFace {
    /// Whose it is.
    pub track: TrackId,
    /// The detector's score, 0 to 1, of the detection that began or last confirmed the track.
    pub score: f32,
    /// Box around the landmarks, picture pixels.
    pub bbox: Box2,
}

/// What the landmark network says of one region.
#[derive(Clone, Copy, Debug)]
pub struct LandmarkResult<'a> {
    /// 0 to 1, after the sigmoid.
    pub presence: f32,
    /// Picture pixels.
    pub landmarks: &'a [[f32; 3]; LANDMARK_COUNT],
}

/// The faces of one camera. See the module.
#[derive(Debug)]
pub struct Tracker {
    camera: CameraId,
    ids: Arc<TrackIds>,
    options: TrackerOptions,
    /// In the order of their ids, new ones last.
    tracks: Vec<Track>,
    seq: u64,
    last_detection: Option<u64>,
    /// Whether a track ended in the last frame.
    lost: bool,
    /// Scratch: whether a detection is taken, whether a track has one, and what was found for each track.
    taken: Vec<bool>,
    confirmed: Vec<bool>,
    found: Vec<Option<Found>>,
}

impl Tracker {
    /// A tracker without tracks.
    pub fn new(camera: CameraId, ids: Arc<TrackIds>, options: TrackerOptions) -> Self {
        let options = TrackerOptions {
            max_faces: options.max_faces.max(1),
            detect_every: options.detect_every.max(1),
            ..options
        };
        let room = options.max_faces;
        Self {
            camera,
            ids,
            options,
            tracks: Vec::with_capacity(room),
            seq: 0,
            last_detection: None,
            lost: false,
            taken: Vec::with_capacity(64),
            confirmed: Vec::with_capacity(room),
            found: Vec::with_capacity(room),
        }
    }

    /// Begins a frame; whether it needs the detector: without any track, on the frames after a track lost its
    /// face, and where a multiple of `detect_every` lies between the detector's last frame and this one.
    pub fn begin(&mut self, seq: u64) -> bool {
        self.seq = seq;
        for at in 0..self.tracks.len() {
            // Elsewhere the region stays where the face was last, as in MediaPipe.
            if self.tracks[at].missing || self.near_another(at) {
                let expected = self.tracks[at].expected(seq);
                [self.tracks[at].roi.cx, self.tracks[at].roi.cy] = expected;
            }
        }
        let every = self.options.detect_every;
        self.tracks.is_empty()
            || std::mem::take(&mut self.lost)
            || self.tracks.iter().any(|track| track.missing)
            || self.last_detection.is_none_or(|last| seq / every != last / every)
    }

    /// Takes the detector's faces of this frame, best first and free of overlaps. Returns how many of them are
    /// neither a track's face nor became a track, for want of room.
    pub fn merge(&mut self, detections: &[Detection]) -> u16 {
        self.last_detection = Some(self.seq);
        self.taken.clear();
        self.taken.resize(detections.len(), false);
        self.confirmed.clear();
        self.confirmed.resize(self.tracks.len(), false);
        // Tracks with a face first, so that a track that passes unseen behind another does not get its face.
        self.assign(detections, false);
        for (detection, taken) in detections.iter().zip(&mut self.taken) {
            let center = detection.bbox.center();
            let mut live = self.tracks.iter().filter(|track| !track.missing);
            *taken |= live.any(|track| track.distance(self.seq, center) < COVERED);
        }
        self.assign(detections, true);
        let mut over_limit = 0u16;
        for (detection, taken) in detections.iter().zip(&self.taken) {
            if *taken {
                continue;
            }
            if self.tracks.len() >= self.options.max_faces {
                // A face that is there is worth more than one that may come back.
                let unseen = self.tracks.iter().position(|track| track.missing && !track.detected);
                let Some(unseen) = unseen else {
                    over_limit = over_limit.saturating_add(1);
                    continue;
                };
                self.tracks.remove(unseen);
            }
            self.tracks.push(Track::begin(detection, self.seq));
        }
        over_limit
    }

    /// Gives detections that are left to tracks that are or are not missing their face, nearest pair first.
    fn assign(&mut self, detections: &[Detection], missing: bool) {
        while let Some((track, detection)) = self.nearest_pair(detections, missing) {
            self.taken[detection] = true;
            self.confirmed[track] = true;
            let (track, detection) = (&mut self.tracks[track], &detections[detection]);
            track.score = detection.score;
            // Over skipped frames a face may have left its track's region, or stand at its edge.
            let skipped = track.seen + 1 < self.seq;
            let moved_on = skipped && track.distance(self.seq, detection.bbox.center()) > MOVED_ON;
            if missing || moved_on {
                track.roi = detection.roi();
                track.detected = true;
            }
        }
    }

    fn nearest_pair(&self, detections: &[Detection], missing: bool) -> Option<(usize, usize)> {
        let mut nearest = None;
        let mut least = f32::INFINITY;
        for (i, track) in self.tracks.iter().enumerate() {
            if self.confirmed[i] || track.missing != missing {
                continue;
            }
            let unseen_frames = self.seq.saturating_sub(track.seen + 1).min(MAX_COAST) as f32;
            let gate = GATE * (1.0 + GATE_GROWTH * unseen_frames).min(2.0);
            for (j, detection) in detections.iter().enumerate() {
                let away = track.distance(self.seq, detection.bbox.center());
                let sizes_fit = ratio(track.size, longer_side(&detection.bbox)) <= SIZE_RATIO_OF_DETECTION;
                if !self.taken[j] && sizes_fit && away < gate && away < least {
                    (nearest, least) = (Some((i, j)), away);
                }
            }
        }
        nearest
    }

    /// Tracks and new detections whose regions the landmark network is to see in this frame, at most
    /// `max_faces`.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Takes the network's results, one for each of [`Self::tracks`] in their order (those left out count as
    /// no face), and writes to `faces` for each of them the face to publish, if it is one.
    pub fn update<'a>(
        &mut self,
        results: impl IntoIterator<Item = LandmarkResult<'a>>,
        faces: &mut Vec<Option<TrackedFace>>,
    ) {
        let mut results = results.into_iter();
        self.found.clear();
        for i in 0..self.tracks.len() {
            let found = results.next().and_then(|result| self.judge(i, &result));
            self.found.push(found);
        }
        self.end_duplicates();
        faces.clear();
        let (seq, options) = (self.seq, self.options);
        for (track, found) in self.tracks.iter_mut().zip(&self.found) {
            let face = found.as_ref().map(|found| {
                track.accept(found, seq);
                let id = *track.id.get_or_insert_with(|| self.ids.next(self.camera));
                TrackedFace { track: id, score: track.score, bbox: found.bbox }
            });
            if face.is_none() {
                track.detected = false;
                track.missing = true;
            }
            faces.push(face);
        }
        let mut lost = false;
        self.tracks.retain(|track| {
            let grace = if track.hidden { options.hidden_frames } else { options.grace_frames };
            let lives = !track.missing || (!track.is_new() && seq.saturating_sub(track.seen) <= grace);
            // A detection that never was a face is no loss.
            lost |= !lives && !track.is_new();
            lives
        });
        self.lost = lost;
    }

    /// Whether a result can be the face of its track.
    fn judge(&mut self, at: usize, result: &LandmarkResult<'_>) -> Option<Found> {
        let seq = self.seq;
        let track = &self.tracks[at];
        // Written so that NaN is no face.
        let present = result.presence >= self.options.presence_threshold;
        let roi = roi_from_landmarks(result.landmarks).filter(|_| present);
        let Some(roi) = roi else {
            // A face that was hidden stays so while nothing is seen of it.
            self.tracks[at].hidden &= self.tracks[at].missing;
            return None;
        };
        let bbox = landmark_box(result.landmarks);
        let growth = ratio(track.size, longer_side(&bbox));
        let away = track.distance(seq, bbox.center());
        // A detector's box differs from the landmarks' in size, but hardly in its centre.
        let (surprise, limit) = if track.detected {
            (away, SIZE_RATIO_OF_DETECTION)
        } else {
            (away.hypot(growth.ln()), SIZE_RATIO)
        };
        let near_another = self.near_another(at);
        let size_fits = growth <= limit;
        let jumped = surprise > JUMP && near_another;
        let plausible = size_fits && !jumped;
        self.tracks[at].hidden = !plausible && near_another;
        plausible.then_some(Found { bbox, roi, surprise })
    }

    /// Whether a track's face may be mistaken for that of another, or the other way round.
    fn near_another(&self, at: usize) -> bool {
        let center = self.tracks[at].expected(self.seq);
        let reach = NEAR * self.tracks[at].size;
        let mut tracks = self.tracks.iter().enumerate();
        tracks.any(|(i, other)| i != at && distance(other.expected(self.seq), center) < reach)
    }

    /// Of tracks on one face leaves the one that is it, and of tracks on faces that hide each other those that can
    /// be believed.
    fn end_duplicates(&mut self) {
        for i in 0..self.tracks.len() {
            for j in i + 1..self.tracks.len() {
                let (Some(a), Some(b)) = (self.found[i], self.found[j]) else { continue };
                let overlap = a.bbox.iou(&b.bbox);
                let wrong = if self.doubt(j) < self.doubt(i) { i } else { j };
                let is_mixture = overlap > HIDING_IOU && self.doubt(wrong).1 > DOUBT_OF_HIDDEN;
                if overlap > SAME_FACE_IOU || is_mixture {
                    self.found[wrong] = None;
                    self.tracks[wrong].hidden = true;
                }
            }
        }
    }

    /// How little a track is to be believed among others on the same face: those that had one before come
    /// first, then those that move steadily.
    fn doubt(&self, at: usize) -> (bool, f32) {
        let track = &self.tracks[at];
        let surprise = self.found[at].map_or(f32::INFINITY, |found| found.surprise);
        let missing = if track.missing { DOUBT_OF_MISSING } else { 0.0 };
        (track.is_new(), surprise + track.unsteadiness + missing)
    }

    /// Ends all tracks, e.g. after a gap in the camera's frames.
    pub fn forget(&mut self) {
        self.tracks.clear();
        self.last_detection = None;
        self.lost = false;
    }
}

fn longer_side(bbox: &Box2) -> f32 {
    bbox.width().max(bbox.height())
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// The larger by the smaller.
fn ratio(a: f32, b: f32) -> f32 {
    (a / b).max(b / a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::DetectorKind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A face on a straight path. Of the faces of a scene later ones are in front.
    #[derive(Clone, Copy, Debug)]
    struct Path {
        from: [f32; 2],
        velocity: [f32; 2],
        size: f32,
        /// Frame numbers in which it is there.
        there: (u64, u64),
    }

    const ALWAYS: (u64, u64) = (0, u64::MAX);

    impl Path {
        fn still(x: f32, y: f32) -> Self {
            Self { from: [x, y], velocity: [0.0; 2], size: 100.0, there: ALWAYS }
        }

        fn at(&self, seq: u64) -> Box2 {
            let [x, y] = [0, 1].map(|axis| self.from[axis] + self.velocity[axis] * seq as f32);
            Box2::from_center(x, y, self.size * 0.8, self.size)
        }
    }

    /// Stands in for both networks.
    struct Scene {
        paths: Vec<Path>,
        /// Frame numbers in which neither network sees a thing.
        dark: Vec<u64>,
        /// Pixels by which a landmark box's edges are off, at most.
        noise: f32,
    }

    impl Scene {
        fn new(paths: &[Path]) -> Self {
            Self { paths: paths.to_vec(), dark: Vec::new(), noise: 0.0 }
        }

        /// The faces that are there: which, where, and how much of it is behind which other one.
        fn faces(&self, seq: u64) -> Vec<(usize, Box2, f32, Box2)> {
            let there =
                |path: &&Path| !self.dark.contains(&seq) && (path.there.0..path.there.1).contains(&seq);
            let mut faces = Vec::new();
            for (at, path) in self.paths.iter().enumerate().filter(|(_, path)| there(path)) {
                let face = path.at(seq);
                let mut behind = (0.0, face);
                for front in self.paths[at + 1..].iter().filter(there).map(|path| path.at(seq)) {
                    let width = face.x1.min(front.x1) - face.x0.max(front.x0);
                    let height = face.y1.min(front.y1) - face.y0.max(front.y0);
                    let covered = width.max(0.0) * height.max(0.0) / (face.width() * face.height());
                    if covered > behind.0 {
                        behind = (covered, front);
                    }
                }
                faces.push((at, face, behind.0, behind.1));
            }
            faces
        }

        fn detect(&self, seq: u64) -> Vec<Detection> {
            let seen = self.faces(seq).into_iter().filter(|&(_, _, covered, _)| covered < 0.5);
            seen.map(|(_, bbox, covered, _)| {
                let [cx, cy] = bbox.center();
                let mut keypoints = [[0.0; 2]; 6];
                keypoints[0] = [cx - 20.0, cy - 10.0];
                keypoints[1] = [cx + 20.0, cy - 10.0];
                Detection { kind: DetectorKind::YuNet, score: 0.9 - covered / 2.0, bbox, keypoints }
            })
            .collect()
        }

        /// Landmarks of the face that the region shows best. Those of a face half hidden are drawn towards
        /// the one in front of it, and with more than half of it hidden the network sees only that one.
        fn landmarks(&self, roi: &Roi, seq: u64) -> (f32, [[f32; 3]; LANDMARK_COUNT]) {
            let size = roi.width / 1.5;
            let mut best: Option<(f32, Box2)> = None;
            for (_, face, covered, front) in self.faces(seq) {
                let pull = (covered - 0.2).clamp(0.0, 0.3);
                let pull = if covered >= 0.5 { 1.0 } else { pull };
                let mix = |edge: f32, a: f32, b: f32| {
                    let random = ((seq as f32 * 12.9898 + edge * 78.233 + a).sin() * 43758.547).fract();
                    a + (b - a) * pull + random * self.noise
                };
                let drawn = Box2 {
                    x0: mix(0.0, face.x0, front.x0),
                    y0: mix(1.0, face.y0, front.y0),
                    x1: mix(2.0, face.x1, front.x1),
                    y1: mix(3.0, face.y1, front.y1),
                };
                let away = distance(drawn.center(), [roi.cx, roi.cy]) / size + covered * 0.3;
                if best.is_none_or(|(least, _)| away < least) {
                    best = Some((away, drawn));
                }
            }
            match best {
                Some((away, drawn)) if away < 0.6 => (0.99, mesh(&drawn)),
                _ => (0.02, mesh(&roi.unrotated())),
            }
        }
    }

    fn mesh(bbox: &Box2) -> [[f32; 3]; LANDMARK_COUNT] {
        let [cx, cy] = bbox.center();
        let mut points = [[cx, cy, 0.0]; LANDMARK_COUNT];
        points[0] = [bbox.x0, bbox.y0, 0.0];
        points[1] = [bbox.x1, bbox.y1, 0.0];
        points[33][0] -= 20.0;
        points[263][0] += 20.0;
        points
    }

    fn tracker(options: TrackerOptions) -> Tracker {
        Tracker::new(CameraId(0), Arc::new(TrackIds::new(1)), options)
    }

    /// One frame: whether the detector ran, and the faces.
    fn step(tracker: &mut Tracker, scene: &Scene, seq: u64) -> (bool, Vec<TrackedFace>) {
        let detected = tracker.begin(seq);
        if detected {
            tracker.merge(&scene.detect(seq));
        }
        assert!(tracker.tracks().len() <= tracker.options.max_faces);
        let seen: Vec<_> = tracker.tracks().iter().map(|track| scene.landmarks(track.roi(), seq)).collect();
        let mut faces = Vec::new();
        tracker.update(
            seen.iter().map(|(presence, landmarks)| LandmarkResult { presence: *presence, landmarks }),
            &mut faces,
        );
        assert_eq!(faces.len(), seen.len());
        let faces: Vec<_> = faces.into_iter().flatten().collect();
        assert!(faces.is_sorted_by_key(|face| face.track));
        (detected, faces)
    }

    /// Runs a scene and gives for each frame whether the detector ran and the faces' track numbers.
    fn check(options: TrackerOptions, scene: &Scene, seqs: &[u64], expected: &[(bool, &[u32])]) {
        let mut tracker = tracker(options);
        for (&seq, &(detector, tracks)) in seqs.iter().zip(expected) {
            let (ran, faces) = step(&mut tracker, scene, seq);
            let got: Vec<_> = faces.iter().map(|face| face.track.0).collect();
            assert_eq!((ran, &got[..]), (detector, tracks), "frame {seq}");
        }
    }

    fn every(detect_every: u64) -> TrackerOptions {
        TrackerOptions { detect_every, ..TrackerOptions::default() }
    }

    #[test]
    fn the_detector_runs_by_frame_number_also_over_gaps() {
        let scene = Scene::new(&[Path::still(200.0, 200.0)]);
        let seqs = [3, 4, 5, 9, 10, 11, 17, 31, 32, 39, 40];
        let runs = [true, false, false, false, true, false, false, true, false, false, true];
        let expected: Vec<_> = runs.iter().map(|&ran| (ran, &[0u32][..])).collect();
        check(every(10), &scene, &seqs, &expected);
    }

    #[test]
    fn without_a_face_the_detector_runs_always() {
        let scene = Scene::new(&[]);
        check(every(10), &scene, &[0, 1, 2], &[(true, &[]), (true, &[]), (true, &[])]);
    }

    #[test]
    fn a_newcomer_is_found_when_the_detector_runs_and_others_stay() {
        let late = Path { there: (2, 9), ..Path::still(600.0, 200.0) };
        let scene = Scene::new(&[Path::still(200.0, 200.0), late]);
        check(
            every(4),
            &scene,
            &[0, 1, 2, 3, 4, 5],
            &[(true, &[0]), (false, &[0]), (false, &[0]), (false, &[0]), (true, &[0, 1]), (false, &[0, 1])],
        );
    }

    #[test]
    fn a_face_lost_for_a_moment_comes_back_as_itself() {
        let mut scene = Scene::new(&[Path { velocity: [12.0, 0.0], ..Path::still(200.0, 200.0) }]);
        scene.dark = vec![12, 13, 14];
        let mut tracker = tracker(every(10));
        let mut runs = Vec::new();
        for seq in 0..20 {
            let (ran, faces) = step(&mut tracker, &scene, seq);
            runs.extend(ran.then_some(seq));
            let expected: &[TrackId] = if scene.dark.contains(&seq) { &[] } else { &[TrackId(0)] };
            assert_eq!(faces.iter().map(|face| face.track).collect::<Vec<_>>(), expected, "frame {seq}");
        }
        assert_eq!(runs, [0, 10, 13, 14, 15], "on the frames after the loss");
    }

    #[test]
    fn a_face_that_moved_far_while_frames_were_skipped_is_found_where_the_detector_sees_it() {
        let scene = Scene::new(&[Path { velocity: [4.0, 0.0], ..Path::still(200.0, 200.0) }]);
        check(every(10), &scene, &[0, 16, 17], &[(true, &[0]), (true, &[0]), (false, &[0])]);
    }

    #[test]
    fn after_the_grace_it_is_a_new_track() {
        let mut scene = Scene::new(&[Path::still(200.0, 200.0)]);
        scene.dark = (2..8).collect();
        let options = TrackerOptions { grace_frames: 3, ..every(100) };
        let none: (bool, &[u32]) = (true, &[]);
        let expected =
            [(true, &[0u32][..]), (false, &[0]), (false, &[]), none, none, none, none, none, (true, &[1])];
        check(options, &scene, &(0..9).collect::<Vec<_>>(), &expected);
    }

    #[test]
    fn after_a_track_ended_beside_others_the_detector_looks_once_more() {
        let brief = Path { there: (0, 2), ..Path::still(600.0, 200.0) };
        let scene = Scene::new(&[Path::still(200.0, 200.0), brief]);
        let options = TrackerOptions { grace_frames: 2, ..every(100) };
        let only = |ran| (ran, &[0u32][..]);
        let expected = [
            (true, &[0, 1][..]),
            (false, &[0, 1]),
            only(false),
            only(true),
            only(true),
            only(true),
            only(false),
        ];
        check(options, &scene, &(0..7).collect::<Vec<_>>(), &expected);
    }

    #[test]
    fn more_faces_than_wanted_are_counted() {
        let scene = Scene::new(&[0, 1, 2, 3, 4].map(|at| Path::still(200.0 * at as f32, 200.0)));
        let mut tracker = tracker(TrackerOptions { max_faces: 3, ..every(1) });
        for seq in 0..3 {
            assert!(tracker.begin(seq));
            assert_eq!(tracker.merge(&scene.detect(seq)), 2);
            step(&mut tracker, &scene, seq);
        }
        assert_eq!(tracker.tracks().len(), 3);
    }

    #[test]
    fn with_no_room_a_seen_face_replaces_an_unseen_one() {
        let first = Path { there: (0, 2), ..Path::still(200.0, 200.0) };
        let second = Path { there: (2, 9), ..Path::still(600.0, 200.0) };
        let options = TrackerOptions { max_faces: 1, ..every(100) };
        let expected = [(true, &[0u32][..]), (false, &[0]), (false, &[]), (true, &[1]), (false, &[1])];
        check(options, &Scene::new(&[first, second]), &[0, 1, 2, 3, 4], &expected);
    }

    #[test]
    fn a_detection_without_a_face_is_no_track() {
        let mut tracker = tracker(every(10));
        let scene = Scene::new(&[Path::still(200.0, 200.0)]);
        step(&mut tracker, &scene, 0);
        assert!(tracker.begin(10));
        let elsewhere = Scene::new(&[Path::still(600.0, 200.0)]).detect(10);
        assert_eq!(tracker.merge(&elsewhere), 0);
        assert!(tracker.tracks()[1].is_new());
        let seen: Vec<_> = tracker.tracks().iter().map(|track| scene.landmarks(track.roi(), 10)).collect();
        let mut faces = Vec::new();
        let results =
            seen.iter().map(|(presence, landmarks)| LandmarkResult { presence: *presence, landmarks });
        tracker.update(results, &mut faces);
        assert!(faces[0].is_some() && faces[1].is_none(), "{faces:?}");
        assert_eq!(tracker.tracks().len(), 1);
        assert!(!tracker.begin(11), "a detection that was no face does not call the detector");
    }

    #[test]
    fn forgetting_ends_all() {
        let mut tracker = tracker(every(10));
        let scene = Scene::new(&[Path::still(200.0, 200.0)]);
        step(&mut tracker, &scene, 0);
        tracker.forget();
        assert!(tracker.tracks().is_empty());
        let (ran, faces) = step(&mut tracker, &scene, 1);
        assert!(ran && faces[0].track == TrackId(1));
    }

    #[test]
    fn numbers_are_unique_in_the_session() {
        let ids = TrackIds::new(2);
        let given: Vec<_> = [0, 1, 1, 0, 0].map(|camera| ids.next(CameraId(camera)).0).into();
        assert_eq!(given, [0, 1, 3, 2, 4]);
        // More cameras than said share numbers' source, so that they are still unique.
        assert_eq!((ids.next(CameraId(2)).0, ids.next(CameraId(0)).0), (6, 8));
    }

    /// Two faces cross at a speed relative to each other, the first behind the second. Whatever is
    /// published, a track stays on its face, and faces in full sight are published, after the first frame
    /// at the latest `detect_every` frames later.
    fn crossing(scene: &Scene, detect_every: u64, frames: u64) -> Result<(), TestCaseError> {
        let mut tracker = tracker(every(detect_every));
        let mut face_of = BTreeMap::new();
        let mut missed = 0;
        for seq in 0..frames {
            let (_, faces) = step(&mut tracker, scene, seq);
            let there = scene.faces(seq);
            for face in &faces {
                let overlap = |at: &&(usize, Box2, f32, Box2)| face.bbox.iou(&at.1);
                let seen = there.iter().filter(|(_, _, covered, _)| *covered < 0.5);
                let nearest = seen.max_by(|a, b| overlap(a).total_cmp(&overlap(b))).unwrap();
                let was = *face_of.entry(face.track).or_insert(nearest.0);
                prop_assert_eq!(was, nearest.0, "track {} in frame {}", face.track, seq);
            }
            let in_sight = there.iter().filter(|(_, _, covered, _)| *covered == 0.0).count();
            missed = if faces.len() < in_sight { missed + 1 } else { 0 };
            prop_assert!(missed <= detect_every, "frame {}: {} of {} faces", seq, faces.len(), in_sight);
        }
        prop_assert_eq!(tracker.tracks().len(), scene.paths.len());
        Ok(())
    }

    #[test]
    fn who_passes_behind_another_comes_out_as_himself() {
        let behind = Path { velocity: [8.0, 0.0], ..Path::still(200.0, 200.0) };
        let front = Path { velocity: [-8.0, 0.0], ..Path::still(600.0, 210.0) };
        let scene = Scene::new(&[behind, front]);
        crossing(&scene, 10, 50).unwrap();
        let mut tracker = tracker(every(10));
        let mut last = Vec::new();
        for seq in 0..50 {
            last = step(&mut tracker, &scene, seq).1;
        }
        assert_eq!(last.iter().map(|face| face.track.0).collect::<Vec<_>>(), [0, 1]);
        assert!(last[0].bbox.x0 > last[1].bbox.x1, "{last:?}");
    }

    proptest! {
        #[test]
        fn crossing_faces_keep_their_tracks(
            speeds in (4f32..14.0, -14f32..-4.0), heights in (-25f32..25.0, -0.8f32..0.8),
            sizes in (80f32..130.0, 80f32..130.0), swapped in any::<bool>(), detect_every in 1u64..20,
            noise in 0f32..1.5,
        ) {
            let left = Path {
                from: [-speeds.0 * 30.0, 200.0], velocity: [speeds.0, 0.0], size: sizes.0, there: ALWAYS,
            };
            let right = Path {
                from: [-speeds.1 * 30.0, 200.0 + heights.0], velocity: [speeds.1, heights.1],
                size: sizes.1, there: ALWAYS,
            };
            let paths = if swapped { [right, left] } else { [left, right] };
            crossing(&Scene { noise, ..Scene::new(&paths) }, detect_every, 60)?;
        }

        #[test]
        fn nothing_that_networks_say_breaks_it(
            frames in prop::collection::vec(
                (prop::collection::vec((any::<f32>(), any::<[f32; 4]>()), 0..6),
                 prop::collection::vec((any::<f32>(), any::<f32>()), 0..6)), 1..30),
        ) {
            let mut tracker = tracker(every(3));
            for (seq, (detections, results)) in frames.iter().enumerate() {
                tracker.begin(seq as u64);
                let detections: Vec<_> = detections.iter().map(|&(score, [x0, y0, x1, y1])| Detection {
                    kind: DetectorKind::YuNet, score, bbox: Box2 { x0, y0, x1, y1 }, keypoints: [[x0; 2]; 6],
                }).collect();
                tracker.merge(&detections);
                prop_assert!(tracker.tracks().len() <= 4);
                let meshes: Vec<_> = results.iter().map(|&(_, x)| mesh(&Box2 { x0: 0.0, y0: 0.0, x1: x, y1: x })).collect();
                let mut faces = Vec::new();
                tracker.update(
                    results.iter().zip(&meshes).map(|(&(presence, _), landmarks)| LandmarkResult { presence, landmarks }),
                    &mut faces,
                );
                prop_assert!(faces.iter().flatten().all(|face| face.bbox.is_sound()));
            }
        }
    }
}
