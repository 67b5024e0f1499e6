//! Faces for the benches: those of a recorded session, or made-up ones whose numbers are about as hard to compress.

use std::path::Path;

use youquanti_actors::dice::Dice;
use youquanti_actors::session_file::SessionReader;
use youquanti_models::{BLENDSHAPE_COUNT, CameraId, Face, FrameFaces, LANDMARK_COUNT, Timestamp, TrackId};

use super::session_rows;

/// How many are kept in memory: 6 MB.
const MOST: u64 = 1024;

/// Faces that come over and over.
pub(crate) struct Rows {
    pub(crate) faces: Vec<Face>,
    pub(crate) what: String,
}

impl Rows {
    /// A face that moves slowly about the picture, with a noise of about a tenth of a pixel.
    pub(crate) fn made_up() -> Self {
        let mut dice = Dice::new(1);
        let shape: Vec<[f64; 3]> = (0..LANDMARK_COUNT)
            .map(|_| [200.0, 240.0, 60.0].map(|size| size * (dice.unit() - 0.5)))
            .collect();
        let mean: Vec<f64> = (0..BLENDSHAPE_COUNT).map(|_| dice.unit().powi(4)).collect();
        let faces = (0..MOST as u32).map(|n| {
            let turn = f64::from(n) * std::f64::consts::TAU / MOST as f64;
            let centre = [960.0 + 50.0 * turn.cos(), 540.0 + 30.0 * (3.0 * turn).sin(), 0.0];
            let mut noise = |size: f64| size * (dice.unit() - dice.unit());
            let mut face = session_rows::face(0, 0);
            for (point, shape) in face.landmarks.iter_mut().zip(&shape) {
                *point = std::array::from_fn(|axis| (centre[axis] + shape[axis] + noise(0.25)) as f32);
            }
            for (score, mean) in face.blendshapes.iter_mut().zip(&mean) {
                *score = (mean * (1.0 + noise(0.1)) * (1.5 + turn.sin()) / 2.5) as f32;
            }
            face.head_pose = std::array::from_fn(|_| std::array::from_fn(|_| noise(1.0) as f32));
            let corners = [-100.0, -120.0, 100.0, 120.0];
            face.bbox = std::array::from_fn(|at| (centre[at % 2] + corners[at] + noise(1.0)) as f32);
            face.presence = (0.99 + noise(0.01)) as f32;
            face.sharpness = Some((150.0 + noise(20.0)) as f32);
            face
        });
        Self { faces: faces.collect(), what: "made-up rows".to_owned() }
    }

    /// The first faces of the camera of a session that has most.
    pub(crate) fn of(session: &Path) -> Self {
        let reader = SessionReader::open(session).unwrap();
        let camera = (0..reader.cameras().len()).max_by_key(|&camera| reader.face_count(camera)).unwrap();
        let rows = 0..reader.face_count(camera).min(MOST);
        assert!(!rows.is_empty(), "{} has no faces", session.display());
        let landmarks = reader.landmarks(camera, rows.clone()).unwrap();
        let blendshapes = reader.blendshapes(camera, rows.clone()).unwrap();
        let head_poses = reader.head_poses(camera, rows.clone()).unwrap();
        let faces = reader.faces(camera, rows).unwrap();
        let faces = faces.iter().zip(landmarks.iter().zip(blendshapes.iter().zip(&head_poses)));
        let faces = faces.map(|(row, (landmarks, (blendshapes, head_pose)))| Face {
            track: TrackId(row.track),
            score: row.score,
            bbox: row.bbox,
            presence: row.presence,
            sharpness: Some(row.sharpness as f32),
            landmarks: *landmarks,
            blendshapes: *blendshapes,
            head_pose: *head_pose,
        });
        Self { faces: faces.collect(), what: format!("rows of {}", session.display()) }
    }

    /// Puts faces of a frame into `found`: tracks are the camera's own, the same in every frame.
    pub(crate) fn fill(&self, found: &mut FrameFaces, faces: u32) {
        let CameraId(camera) = found.meta.camera;
        found.faces.clear();
        for k in 0..faces {
            // Each camera and face elsewhere in them.
            let at = found.meta.seq as usize + 97 * usize::from(camera) + 411 * k as usize;
            let mut face = self.faces[at % self.faces.len()].clone();
            face.track = TrackId(u32::from(camera) * 100 + k);
            // Two people are not in one place.
            let aside = 400.0 * k as f32;
            face.bbox = [face.bbox[0] + aside, face.bbox[1], face.bbox[2] + aside, face.bbox[3]];
            found.faces.push(face);
        }
    }

    /// A frame with so many of them, as a back end gives it.
    pub(crate) fn frame(&self, camera: u16, seq: u64, faces: u32) -> FrameFaces {
        let mut found = session_rows::found(camera, seq, 0);
        self.fill(&mut found, faces);
        found
    }
}

/// The time of frame `seq` of the made-up frames.
pub(crate) fn time_of(seq: u64) -> Timestamp {
    session_rows::meta(0, seq).captured_at
}
