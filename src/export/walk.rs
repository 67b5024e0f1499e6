//! Goes through the large tables of a camera in blocks, so that an export's memory does not grow with the session.

use std::ops::Range;

use youquanti_actors::session_file::{FaceRow, ResultRow, SessionReader};
use youquanti_models::{BLENDSHAPE_COUNT, LANDMARK_COUNT};

use super::ExportError;

/// Rows that are read in one go: 12 MB of landmarks.
pub(super) const BLOCK: u64 = 2048;

/// How much is done.
pub(super) struct Progress<'a> {
    rows: u64,
    done: u64,
    tell: &'a mut dyn FnMut(f64),
}

impl<'a> Progress<'a> {
    pub(super) fn new(rows: u64, tell: &'a mut dyn FnMut(f64)) -> Self {
        Self { rows: rows.max(1), done: 0, tell }
    }

    pub(super) fn add(&mut self, rows: usize) {
        self.done += rows as u64;
        (self.tell)((self.done as f64 / self.rows as f64).min(1.0));
    }
}

/// A table's rows in blocks.
pub(super) fn blocks(rows: u64) -> impl Iterator<Item = Range<u64>> {
    (0..rows).step_by(BLOCK as usize).map(move |start| start..rows.min(start + BLOCK))
}

/// Faces in succession, with all that belongs to them.
pub(super) struct Faces {
    pub(super) rows: Vec<FaceRow>,
    pub(super) blendshapes: Vec<[f32; BLENDSHAPE_COUNT]>,
    pub(super) poses: Vec<[[f32; 4]; 4]>,
    /// Empty unless asked for.
    pub(super) landmarks: Vec<[[f32; 3]; LANDMARK_COUNT]>,
}

impl Faces {
    pub(super) fn read(
        reader: &SessionReader,
        camera: usize,
        rows: Range<u64>,
        landmarks: bool,
    ) -> Result<Self, ExportError> {
        Ok(Self {
            blendshapes: reader.blendshapes(camera, rows.clone())?,
            poses: reader.head_poses(camera, rows.clone())?,
            landmarks: if landmarks { reader.landmarks(camera, rows.clone())? } else { Vec::new() },
            rows: reader.faces(camera, rows)?,
        })
    }
}

/// Analysed frames in succession, and the faces in them.
pub(super) struct Analysed {
    pub(super) results: Vec<ResultRow>,
    pub(super) faces: Faces,
}

impl Analysed {
    /// Each frame, and the place among the faces of the one who is this participant.
    pub(super) fn of(&self, participant: u32) -> impl Iterator<Item = (&ResultRow, Option<usize>)> {
        let mut next = 0;
        self.results.iter().map(move |result| {
            let here = next..(next + result.faces as usize).min(self.faces.rows.len());
            next = here.end;
            (result, here.into_iter().find(|&at| self.faces.rows[at].participant == participant))
        })
    }
}

/// Gives `each` a camera's analysed frames, block after block. Of a compressed file that was cut off, the last frames may have
/// lost their faces; those are left out.
pub(super) fn analysed(
    reader: &SessionReader,
    camera: usize,
    landmarks: bool,
    mut each: impl FnMut(Analysed) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let (mut next, all) = (0, reader.face_count(camera));
    for rows in blocks(reader.result_count(camera)) {
        let mut results = reader.results(camera, rows)?;
        let mut end = next;
        let whole = results
            .iter()
            .take_while(|result| {
                let is_there = end + u64::from(result.faces) <= all;
                end += if is_there { u64::from(result.faces) } else { 0 };
                is_there
            })
            .count();
        let is_last = whole < results.len();
        results.truncate(whole);
        each(Analysed { results, faces: Faces::read(reader, camera, next..end, landmarks)? })?;
        next = end;
        if is_last {
            break;
        }
    }
    Ok(())
}
