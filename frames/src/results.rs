//! What was found in a frame, as bytes behind its picture: the results area of a preview's slot.
//!
//! Owns the layout of that area, for the writer and for readers in this process; readers in others are told by
//! `docs/shared-memory.md`. Coordinates become those of the picture in the slot, which is smaller than the camera's.
//! Never says when an area may be read: that is the slot's generation, or the handle, as for pixels.
//!
//! # Layout, version 2 of the segment's
//! Little-endian, naturally aligned. Area header, 128 bytes:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | state: 0 none, 1 analysed: what follows is this frame's, 2 no result came for this frame |
//! | 4 | 4 | faces that follow |
//! | 8 | 4 | faces that the detector saw beyond the configured maximum |
//! | 12 | 4 | 1 if the detector ran on this frame, 0 if faces come from tracks alone |
//! | 16 | 8 | submitted: the pipeline took the frame; this and the next five are nanoseconds of `CLOCK_MONOTONIC`, 0 where there is none |
//! | 24 | 8 | uploaded: the picture is where the back end works |
//! | 32 | 8 | detected: boxes are known |
//! | 40 | 8 | landmarks: landmarks, blendshapes and head poses are known |
//! | 48 | 8 | published: the result left the pipeline |
//! | 56 | 8 | previewed: picture and results were complete in this slot |
//! | 64 | 4 | width of the camera's own picture, pixels |
//! | 68 | 4 | height of the camera's own picture, pixels |
//! | 72 | 56 | zero |
//!
//! Face, 6080 bytes at 128 + 6080 × face:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | track, unique in the session |
//! | 4 | 2 | participant: n of `Pn`; 0 without one |
//! | 6 | 2 | zero |
//! | 8 | 4 | score: the detector's, 0 to 1, `f32` as all that follow |
//! | 12 | 4 | presence: the landmark network's, 0 to 1 |
//! | 16 | 16 | box x0, y0, x1, y1, pixels of the picture in this slot |
//! | 32 | 64 | head pose, row-major 4×4: canonical face to camera, metres, right-handed, camera looking along −z |
//! | 96 | 208 | 52 blendshapes, 0 to 1, `_neutral` first |
//! | 304 | 16 | zero |
//! | 320 | 5736 | 478 landmarks x, y, z, pixels of the picture in this slot |
//! | 6056 | 24 | zero |

use youquanti_models::{
    BLENDSHAPE_COUNT, Face, FrameFaces, LANDMARK_COUNT, ParticipantId, Stamps, Timestamp, TrackId,
};

/// Bytes of an area's header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a face.
pub const FACE_BYTES: usize = 6080;

const BOX: usize = 16;
const HEAD_POSE: usize = 32;
const BLENDSHAPES: usize = 96;
const LANDMARKS: usize = 320;

const _: () = {
    assert!(HEAD_POSE + 16 * 4 == BLENDSHAPES && BLENDSHAPES + BLENDSHAPE_COUNT * 4 <= LANDMARKS);
    assert!(LANDMARKS + LANDMARK_COUNT * 12 <= FACE_BYTES && FACE_BYTES.is_multiple_of(64));
};

/// Bytes of an area for so many faces.
pub const fn area_bytes(faces: usize) -> usize {
    HEADER_BYTES + faces * FACE_BYTES
}

/// What is known of a frame.
#[derive(Clone, Copy, Debug)]
pub enum State<'a> {
    /// The pipeline's result.
    Analysed {
        /// What it found, in pixels of the camera's picture.
        faces: &'a FrameFaces,
        /// The participant of each face.
        participants: &'a [Option<ParticipantId>],
    },
    /// The pipeline has no result for it.
    NoResult,
}

/// Writes what is known of a frame of a camera with pictures of `camera` pixels, shown as `shown` pixels. Faces beyond
/// what the area has room for are left out; an area of no bytes stays so. Allocates nothing.
pub fn write(area: &mut [u8], state: State<'_>, camera: [u32; 2], shown: [u32; 2], previewed: Timestamp) {
    let Some((header, room)) = area.split_at_mut_checked(HEADER_BYTES) else { return };
    header.fill(0);
    header[56..64].copy_from_slice(&previewed.0.to_le_bytes());
    header[64..68].copy_from_slice(&camera[0].to_le_bytes());
    header[68..72].copy_from_slice(&camera[1].to_le_bytes());
    let State::Analysed { faces, participants } = state else {
        header[0..4].copy_from_slice(&2_u32.to_le_bytes());
        return;
    };
    let count = faces.faces.len().min(room.len() / FACE_BYTES);
    for (at, value) in
        [(0, 1), (4, count as u32), (8, u32::from(faces.over_limit)), (12, u32::from(faces.detector_ran))]
    {
        header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let Stamps { submitted, uploaded, detected, landmarks, published } = faces.stamps;
    let stamps = [submitted, uploaded, detected, landmarks, published];
    for (to, stamp) in header[16..56].as_chunks_mut().0.iter_mut().zip(stamps) {
        *to = stamp.0.to_le_bytes();
    }
    let scale = [0, 1].map(|axis| shown[axis] as f32 / camera[axis] as f32);
    let participants = participants.iter().copied().chain(std::iter::repeat(None));
    for ((to, face), participant) in room.chunks_exact_mut(FACE_BYTES).zip(&faces.faces).zip(participants) {
        write_face(to, face, participant, scale);
    }
}

/// A coordinate in the smaller picture. Pixel 0 has its centre at 0, so its edge is at −½.
fn scaled(at: f32, scale: f32) -> f32 {
    (at + 0.5) * scale - 0.5
}

fn write_face(to: &mut [u8], face: &Face, participant: Option<ParticipantId>, [sx, sy]: [f32; 2]) {
    to[..4].copy_from_slice(&face.track.0.to_le_bytes());
    to[4..6].copy_from_slice(&participant.map_or(0, |id| id.0).to_le_bytes());
    let [x0, y0, x1, y1] = face.bbox;
    let bbox = [scaled(x0, sx), scaled(y0, sy), scaled(x1, sx), scaled(y1, sy)];
    put(&mut to[8..BOX], [face.score, face.presence]);
    put(&mut to[BOX..HEAD_POSE], bbox);
    put(&mut to[HEAD_POSE..BLENDSHAPES], face.head_pose.iter().flatten().copied());
    put(&mut to[BLENDSHAPES..], face.blendshapes);
    // z has the unit of x.
    let points = face.landmarks.iter().flat_map(|&[x, y, z]| [scaled(x, sx), scaled(y, sy), z * sx]);
    put(&mut to[LANDMARKS..], points);
}

fn put(to: &mut [u8], values: impl IntoIterator<Item = f32>) {
    for (to, value) in to.as_chunks_mut().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
}

/// A results area as readers in this process see it: of a handle's [`results`](crate::FrameHandle::results).
#[derive(Clone, Copy, Debug)]
pub struct Results<'a> {
    header: &'a [u8],
    faces: &'a [u8],
}

/// A face in a results area, in pixels of the picture in the slot.
#[derive(Clone, Copy, Debug)]
pub struct FaceView<'a>(&'a [u8]);

impl<'a> Results<'a> {
    /// What is known of a frame; `None` in an area without anything.
    pub fn of(area: &'a [u8]) -> Option<Self> {
        let (header, room) = area.split_at_checked(HEADER_BYTES)?;
        let results = Self { header, faces: &[] };
        let faces = room.get(..results.u32(4) as usize * FACE_BYTES)?;
        (results.u32(0) != 0).then_some(Self { header, faces })
    }

    fn u32(&self, at: usize) -> u32 {
        self.header
            .get(at..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |&bytes| u32::from_le_bytes(bytes))
    }

    fn stamp(&self, at: usize) -> Timestamp {
        let bytes = self.header.get(at..).and_then(|bytes| bytes.first_chunk());
        Timestamp(bytes.map_or(0, |&bytes| u64::from_le_bytes(bytes)))
    }

    /// Whether the faces are this frame's; without it nothing is known of the frame but its picture.
    pub fn is_analysed(&self) -> bool {
        self.u32(0) == 1
    }

    /// When picture and results were complete in the slot.
    pub fn previewed_at(&self) -> Timestamp {
        self.stamp(56)
    }

    /// When each stage of the pipeline was done with the frame; zeros without a result.
    pub fn stamps(&self) -> Stamps {
        let [submitted, uploaded, detected, landmarks, published] =
            [16, 24, 32, 40, 48].map(|at| self.stamp(at));
        Stamps { submitted, uploaded, detected, landmarks, published }
    }

    /// Width and height of the camera's own picture, pixels.
    pub fn camera_size(&self) -> [u32; 2] {
        [self.u32(64), self.u32(68)]
    }

    /// The faces.
    pub fn faces(&self) -> impl ExactSizeIterator<Item = FaceView<'a>> + use<'a> {
        self.faces.chunks_exact(FACE_BYTES).map(FaceView)
    }
}

impl<'a> FaceView<'a> {
    /// The track, unique in the session.
    pub fn track(&self) -> TrackId {
        TrackId(self.0.first_chunk().map_or(0, |&bytes| u32::from_le_bytes(bytes)))
    }

    /// Whose face it is.
    pub fn participant(&self) -> Option<ParticipantId> {
        let id = self.0[4..].first_chunk().map_or(0, |&bytes| u16::from_le_bytes(bytes));
        (id != 0).then_some(ParticipantId(id))
    }

    fn floats<const N: usize>(&self, at: usize) -> [f32; N] {
        let mut values = [0.0; N];
        for (value, bytes) in values.iter_mut().zip(self.0[at..].as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        values
    }

    /// The detector's score, 0 to 1.
    pub fn score(&self) -> f32 {
        let [score] = self.floats(8);
        score
    }

    /// The landmark network's confidence, 0 to 1.
    pub fn presence(&self) -> f32 {
        let [presence] = self.floats(12);
        presence
    }

    /// x0, y0, x1, y1, pixels of the picture in the slot.
    pub fn bbox(&self) -> [f32; 4] {
        self.floats(BOX)
    }

    /// Row-major 4×4: canonical face to camera, metres.
    pub fn head_pose(&self) -> [[f32; 4]; 4] {
        [0, 1, 2, 3].map(|row| self.floats(HEAD_POSE + row * 16))
    }

    /// 0 to 1, `_neutral` first.
    pub fn blendshapes(&self) -> [f32; BLENDSHAPE_COUNT] {
        self.floats(BLENDSHAPES)
    }

    /// x, y, z of each landmark, pixels of the picture in the slot.
    pub fn landmarks(&self) -> impl ExactSizeIterator<Item = [f32; 3]> + use<'a> {
        let face = *self;
        (0..LANDMARK_COUNT).map(move |point| face.floats(LANDMARKS + point * 12))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Faces that differ in every number.
    pub(super) fn found(count: usize) -> FrameFaces {
        let mut found = FrameFaces::with_capacity(count);
        found.over_limit = 3;
        found.detector_ran = true;
        found.stamps.submitted = Timestamp(11);
        found.stamps.published = Timestamp(15);
        for k in 0..count {
            let base = 1000.0 * (k + 1) as f32;
            found.faces.push(Face {
                track: TrackId(70 + k as u32),
                score: 0.25 + k as f32,
                bbox: [base, base + 1.0, base + 2.0, base + 3.0],
                presence: 0.5 + k as f32,
                sharpness: None,
                landmarks: std::array::from_fn(|n| [base + n as f32, base - n as f32, n as f32]),
                blendshapes: std::array::from_fn(|n| n as f32 / 52.0),
                head_pose: std::array::from_fn(|row| std::array::from_fn(|column| (row * 4 + column) as f32)),
            });
        }
        found
    }

    #[test]
    fn what_is_written_is_read_in_pixels_of_the_smaller_picture() {
        let faces = found(2);
        let participants = [Some(ParticipantId(4)), None];
        let mut area = vec![0xff; area_bytes(2)];
        let state = State::Analysed { faces: &faces, participants: &participants };
        write(&mut area, state, [1280, 720], [640, 360], Timestamp(99));
        let results = Results::of(&area).unwrap();
        assert!(results.is_analysed());
        assert_eq!((results.previewed_at(), results.stamps()), (Timestamp(99), faces.stamps));
        assert_eq!((results.camera_size(), results.u32(8), results.u32(12)), ([1280, 720], 3, 1));
        assert_eq!(results.faces().map(|face| face.participant()).collect::<Vec<_>>(), participants);
        for (face, expected) in results.faces().zip(&faces.faces) {
            assert_eq!(
                (face.track(), face.score(), face.presence()),
                (expected.track, expected.score, expected.presence)
            );
            let half = |at: f32| at / 2.0 - 0.25;
            assert_eq!(face.bbox(), expected.bbox.map(half));
            assert_eq!((face.head_pose(), face.blendshapes()), (expected.head_pose, expected.blendshapes));
            let points: Vec<_> =
                expected.landmarks.iter().map(|&[x, y, z]| [half(x), half(y), z / 2.0]).collect();
            assert_eq!(face.landmarks().collect::<Vec<_>>(), points);
        }
    }

    #[test]
    fn a_frame_without_a_result_has_no_faces_of_an_earlier_one() {
        let faces = found(1);
        let mut area = vec![0; area_bytes(1)];
        assert!(Results::of(&area).is_none(), "nothing was written");
        write(&mut area, State::Analysed { faces: &faces, participants: &[] }, [8, 8], [8, 8], Timestamp(1));
        write(&mut area, State::NoResult, [8, 8], [8, 8], Timestamp(2));
        let results = Results::of(&area).unwrap();
        assert_eq!((results.is_analysed(), results.faces().len()), (false, 0));
        assert_eq!((results.previewed_at(), results.stamps()), (Timestamp(2), Stamps::default()));
    }

    #[test]
    fn faces_beyond_the_room_are_left_out_and_no_room_is_no_error() {
        let faces = found(3);
        let state = State::Analysed { faces: &faces, participants: &[] };
        let mut area = vec![0; area_bytes(2)];
        write(&mut area, state, [8, 8], [8, 8], Timestamp(1));
        assert_eq!(Results::of(&area).unwrap().faces().len(), 2);
        write(&mut [], state, [8, 8], [8, 8], Timestamp(1));
        assert!(Results::of(&[]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(area in prop::collection::vec(any::<u8>(), 0..20_000)) {
            if let Some(results) = Results::of(&area) {
                for face in results.faces() {
                    let _ = (face.track(), face.participant(), face.bbox(), face.head_pose(), face.landmarks().count());
                }
            }
        }
    }
}
