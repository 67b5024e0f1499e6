//! Two sessions of the same frames, compared: what one found and the other did not, and how far apart they are.
//!
//! Cameras are matched by name, frames by their stamp, faces of a frame by how much their boxes overlap. Reads two files, a block of
//! frames at a time; changes nothing.

use std::path::Path;

use serde::Serialize;
use youquanti_actors::session_file::{FaceRow, ResultRow, SessionFileError, SessionReader};
use youquanti_models::face::{BLENDSHAPE_COUNT, LANDMARK_COUNT};

/// How two sessions differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Cameras that both have, by name.
    pub cameras: Vec<CameraDiff>,
    /// Cameras that only one has.
    pub unmatched_cameras: Vec<String>,
}

/// How what was found in one camera's frames differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CameraDiff {
    /// Which camera.
    pub camera: String,
    /// Analysed frames that both have.
    pub frames: u64,
    /// Analysed frames that only the first has.
    pub frames_missing: u64,
    /// Analysed frames that only the second has.
    pub frames_extra: u64,
    /// Faces that both found in a frame of both.
    pub faces: u64,
    /// Faces that only the first found there.
    pub faces_missing: u64,
    /// Faces that only the second found there.
    pub faces_extra: u64,
    /// Whether every number of all matched faces has the same bytes: landmarks, scores, poses, boxes, presence.
    pub same_bytes: bool,
    /// Distance of a landmark from its twin in the picture, pixels.
    pub landmarks_px: Spread,
    /// Difference of a blendshape's score.
    pub blendshapes: Spread,
    /// Angle between two head poses, degrees.
    pub head_angle_deg: Spread,
    /// Distance of two heads, metres.
    pub head_distance_m: Spread,
}

/// Mean and greatest of many values; 0 of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Greatest.
    pub max: f64,
    #[serde(skip)]
    count: u64,
}

impl Spread {
    fn add(&mut self, value: f64) {
        // What is no number is as far away as can be.
        let value = if value.is_nan() { f64::INFINITY } else { value };
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
        self.max = self.max.max(value);
    }
}

/// Overlap of two boxes, as the area of both by that of either, from which on they may be the same face.
const LEAST_OVERLAP: f32 = 0.3;

impl Diff {
    /// Whether no landmark is further than `bound_px` from its twin, and of all frames and faces no greater share than
    /// `unmatched`, 0 to 1, is in one session only.
    pub fn is_within(&self, bound_px: f64, unmatched: f64) -> bool {
        self.unmatched_cameras.is_empty()
            && self.cameras.iter().all(|camera| {
                let share = |single: u64, both: u64| single as f64 <= unmatched * (single + both) as f64;
                camera.landmarks_px.max <= bound_px
                    && share(camera.frames_missing + camera.frames_extra, camera.frames)
                    && share(camera.faces_missing + camera.faces_extra, camera.faces)
            })
    }
}

/// Compares two session files.
///
/// # Errors
/// When one of them cannot be read.
pub fn diff(first: &Path, second: &Path) -> Result<Diff, SessionFileError> {
    let (first, second) = (SessionReader::open(first)?, SessionReader::open(second)?);
    let names = |reader: &SessionReader| -> Vec<String> {
        reader.cameras().iter().map(|facts| facts.name.clone()).collect()
    };
    let (first_names, second_names) = (names(&first), names(&second));
    let mut cameras = Vec::new();
    let mut unmatched_cameras = Vec::new();
    for (at, name) in first_names.iter().enumerate() {
        match second_names.iter().position(|other| other == name) {
            Some(other) => {
                cameras.push(diff_cameras(name, Camera::read(&first, at)?, Camera::read(&second, other)?)?)
            }
            None => unmatched_cameras.push(name.clone()),
        }
    }
    unmatched_cameras.extend(second_names.into_iter().filter(|name| !first_names.contains(name)));
    Ok(Diff { cameras, unmatched_cameras })
}

/// One camera of a file: all analysed frames, and where the rows of their faces are.
struct Camera<'r> {
    reader: &'r SessionReader,
    camera: usize,
    results: Vec<ResultRow>,
}

/// The faces of one frame.
struct Faces {
    rows: Vec<FaceRow>,
    landmarks: Vec<[[f32; 3]; LANDMARK_COUNT]>,
    blendshapes: Vec<[f32; BLENDSHAPE_COUNT]>,
    head_poses: Vec<[[f32; 4]; 4]>,
}

impl<'r> Camera<'r> {
    fn read(reader: &'r SessionReader, camera: usize) -> Result<Self, SessionFileError> {
        let results = reader.results(camera, 0..reader.result_count(camera))?;
        Ok(Self { reader, camera, results })
    }

    /// The rows of faces that belong to a frame come after those of all frames before.
    fn faces(&self, from: u64, count: u32) -> Result<Faces, SessionFileError> {
        // A file that was cut off may have fewer.
        let there = self.reader.face_count(self.camera);
        let rows = from.min(there)..(from + u64::from(count)).min(there);
        Ok(Faces {
            rows: self.reader.faces(self.camera, rows.clone())?,
            landmarks: self.reader.landmarks(self.camera, rows.clone())?,
            blendshapes: self.reader.blendshapes(self.camera, rows.clone())?,
            head_poses: self.reader.head_poses(self.camera, rows)?,
        })
    }
}

fn diff_cameras(name: &str, first: Camera<'_>, second: Camera<'_>) -> Result<CameraDiff, SessionFileError> {
    let mut diff = CameraDiff { camera: name.to_owned(), same_bytes: true, ..CameraDiff::default() };
    let (mut a, mut b) = (first.results.iter().peekable(), second.results.iter().peekable());
    let (mut a_face, mut b_face) = (0, 0);
    loop {
        let (stamp_a, stamp_b) =
            (a.peek().map(|row| row.captured_at_ns), b.peek().map(|row| row.captured_at_ns));
        let (takes_a, takes_b) = match (stamp_a, stamp_b) {
            (None, None) => return Ok(diff),
            (Some(a), Some(b)) => (a <= b, b <= a),
            (a, b) => (a.is_some(), b.is_some()),
        };
        let row_a = a.next_if(|_| takes_a);
        let row_b = b.next_if(|_| takes_b);
        match (row_a, row_b) {
            (Some(row_a), Some(row_b)) => {
                diff.frames += 1;
                let (of_a, of_b) = (first.faces(a_face, row_a.faces)?, second.faces(b_face, row_b.faces)?);
                diff_frame(&mut diff, &of_a, &of_b);
            }
            (Some(_), None) => diff.frames_missing += 1,
            (None, _) => diff.frames_extra += 1,
        }
        a_face += row_a.map_or(0, |row| u64::from(row.faces));
        b_face += row_b.map_or(0, |row| u64::from(row.faces));
    }
}

fn diff_frame(diff: &mut CameraDiff, first: &Faces, second: &Faces) {
    let pairs = matches(
        &first.rows.iter().map(|row| row.bbox).collect::<Vec<_>>(),
        &second.rows.iter().map(|row| row.bbox).collect::<Vec<_>>(),
    );
    diff.faces += pairs.len() as u64;
    diff.faces_missing += (first.rows.len() - pairs.len()) as u64;
    diff.faces_extra += (second.rows.len() - pairs.len()) as u64;
    for (a, b) in pairs {
        for (one, other) in first.landmarks[a].iter().zip(&second.landmarks[b]) {
            let (x, y) = (f64::from(one[0]) - f64::from(other[0]), f64::from(one[1]) - f64::from(other[1]));
            diff.landmarks_px.add(x.hypot(y));
        }
        for (one, other) in first.blendshapes[a].iter().zip(&second.blendshapes[b]) {
            diff.blendshapes.add((f64::from(*one) - f64::from(*other)).abs());
        }
        let (one, other) = (&first.head_poses[a], &second.head_poses[b]);
        diff.head_angle_deg.add(angle_deg(one, other));
        diff.head_distance_m.add(distance(one, other));
        let (row_a, row_b) = (&first.rows[a], &second.rows[b]);
        let numbers = |row: &FaceRow| {
            let [x0, y0, x1, y1] = row.bbox;
            [x0, y0, x1, y1, row.score, row.presence].map(f32::to_bits)
        };
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        diff.same_bytes &= numbers(row_a) == numbers(row_b)
            && bits(first.landmarks[a].as_flattened()) == bits(second.landmarks[b].as_flattened())
            && bits(&first.blendshapes[a]) == bits(&second.blendshapes[b])
            && bits(one.as_flattened()) == bits(other.as_flattened());
    }
}

/// Which boxes of the first list belong to which of the second: those that overlap most first.
fn matches(first: &[[f32; 4]], second: &[[f32; 4]]) -> Vec<(usize, usize)> {
    let mut candidates: Vec<(f32, usize, usize)> = Vec::new();
    for (a, one) in first.iter().enumerate() {
        for (b, other) in second.iter().enumerate() {
            let overlap = overlap(one, other);
            if overlap >= LEAST_OVERLAP {
                candidates.push((overlap, a, b));
            }
        }
    }
    candidates.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (_, a, b) in candidates {
        if pairs.iter().all(|&(x, y)| x != a && y != b) {
            pairs.push((a, b));
        }
    }
    pairs
}

/// Intersection over union.
fn overlap(one: &[f32; 4], other: &[f32; 4]) -> f32 {
    let side = |low: usize, high: usize| (one[high].min(other[high]) - one[low].max(other[low])).max(0.0);
    let area = |rect: &[f32; 4]| (rect[2] - rect[0]).max(0.0) * (rect[3] - rect[1]).max(0.0);
    let both = side(0, 2) * side(1, 3);
    let either = area(one) + area(other) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

/// Angle of the rotation from one pose to the other: acos((trace(R₁ᵀR₂) − 1) / 2), degrees. Poses have no scale.
fn angle_deg(one: &[[f32; 4]; 4], other: &[[f32; 4]; 4]) -> f64 {
    let trace: f64 = (0..3)
        .flat_map(|row| (0..3).map(move |column| f64::from(one[row][column]) * f64::from(other[row][column])))
        .sum();
    // Rounding makes a little of nothing where the angle is 0: the bits decide there.
    if one == other { 0.0 } else { ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos().to_degrees() }
}

fn distance(one: &[[f32; 4]; 4], other: &[[f32; 4]; 4]) -> f64 {
    (0..3).map(|row| (f64::from(one[row][3]) - f64::from(other[row][3])).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_that_overlap_most_belong_together() {
        let a = [0.0, 0.0, 10.0, 10.0];
        let near_a = [1.0, 0.0, 11.0, 10.0];
        let b = [4.0, 0.0, 14.0, 10.0];
        let far = [50.0, 50.0, 60.0, 60.0];
        assert_eq!(matches(&[a, b], &[b, near_a]), [(1, 0), (0, 1)]);
        // near_a overlaps with both, and is nearer to a.
        assert_eq!(matches(&[b, a], &[near_a]), [(1, 0)]);
        assert_eq!(matches(&[a], &[far]), []);
        assert_eq!(matches(&[[0.0; 4]], &[[0.0; 4]]), []);
    }

    #[test]
    fn poses_differ_by_angle_and_distance() {
        let mut one = [[0.0f32; 4]; 4];
        (0..4).for_each(|k| one[k][k] = 1.0);
        let mut other = one;
        let (sin, cos) = 30f32.to_radians().sin_cos();
        (other[0][0], other[0][1], other[1][0], other[1][1]) = (cos, -sin, sin, cos);
        (other[0][3], other[2][3]) = (0.3, -0.4);
        assert!((angle_deg(&one, &other) - 30.0).abs() < 1e-4);
        assert!((distance(&one, &other) - 0.5).abs() < 1e-6);
        assert_eq!((angle_deg(&one, &one), distance(&one, &one)), (0.0, 0.0));
    }

    #[test]
    fn bounds_hold_for_distances_and_for_what_one_session_alone_has() {
        let camera = CameraDiff {
            frames: 99,
            frames_missing: 1,
            faces: 100,
            landmarks_px: Spread { mean: 0.1, max: 0.5, count: 478 },
            ..CameraDiff::default()
        };
        let diff = Diff { cameras: vec![camera], unmatched_cameras: Vec::new() };
        assert!(diff.is_within(0.5, 0.01));
        assert!(!diff.is_within(0.49, 0.01));
        assert!(!diff.is_within(0.5, 0.009));
        let lacks = Diff { unmatched_cameras: vec!["left".to_owned()], ..diff };
        assert!(!lacks.is_within(0.5, 0.01));
    }

    #[test]
    fn what_is_no_number_is_far_away() {
        let mut spread = Spread::default();
        [1.0, 3.0].into_iter().for_each(|value| spread.add(value));
        assert_eq!((spread.mean, spread.max), (2.0, 3.0));
        spread.add(f64::NAN);
        assert_eq!(spread.max, f64::INFINITY);
    }
}
