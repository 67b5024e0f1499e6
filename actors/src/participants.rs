//! Participants actor: turns each camera's face tracks into participants of the session.
//!
//! Owns who is who, by place in the picture: a new track takes over the participant who was last seen
//! where it begins, else a new number. Of C cameras, the j-th person of camera k is P(1 + k + jC), so
//! that numbers depend on no race between cameras; only where that is more than are expected, it is the
//! highest free one, which leaves the first person of each camera their own. An id never changes hands silently: every change is a [`ParticipantChange`] and an
//! event. Never looks at pixels and never drops a result.

use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;
use serde_json::json;
use youquanti_models::{CameraId, Face, FrameFaces, ParticipantId, Timestamp, TrackId};

use crate::child::{Lifeline, tell};
use crate::fault;
use crate::messages::{Event, EventKind, FacesFound, FacesNamed, ParticipantChange, Shutdown};
use crate::outputs::Outputs;

/// How far a face may move, in its own sizes, while nobody follows it, and still be the same person.
const REACH_IN_FACES: f32 = 1.5;

#[derive(Clone, Copy, Debug)]
struct Seen {
    camera: CameraId,
    track: TrackId,
    centre: [f32; 2],
    size: f32,
}

/// Who is who. Pure: sees results, never a clock.
#[derive(Debug)]
pub struct Roster {
    expected: Option<usize>,
    /// Last sight of each participant, none of a number that nobody has; `P1` is at 0.
    seen: Vec<Option<Seen>>,
    /// Participants that were first seen in each camera.
    newcomers: Vec<usize>,
}

/// What one frame changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RosterUpdate {
    /// The participant of each face of the frame, none when there are more people than expected.
    pub participants: Vec<Option<ParticipantId>>,
    /// Who got which track.
    pub changes: Vec<ParticipantChange>,
}

impl Roster {
    /// A roster of at most `expected` participants, without it of any number, in so many cameras.
    pub fn new(expected: Option<u16>, cameras: usize) -> Self {
        Self { expected: expected.map(usize::from), seen: Vec::new(), newcomers: vec![0; cameras] }
    }

    /// Names the faces of one frame. Frames of a camera come in order.
    pub fn name(&mut self, frame: &FrameFaces) -> RosterUpdate {
        let mut update = RosterUpdate::default();
        for face in &frame.faces {
            let here = sight(frame, face);
            let known = self.seen.iter().position(|seen| seen.is_some_and(|seen| seen.track == face.track));
            let index = known.or_else(|| {
                let (index, why) = self.place_for(frame, here)?;
                update.changes.push(ParticipantChange {
                    at: frame.meta.captured_at,
                    participant: participant(index),
                    camera: here.camera,
                    track: here.track,
                    why,
                });
                Some(index)
            });
            if let Some(index) = index {
                self.seen.resize(self.seen.len().max(index + 1), None);
                self.seen[index] = Some(here);
            }
            update.participants.push(index.map(participant));
        }
        update
    }

    /// The participant that a new track belongs to: index and why.
    fn place_for(&mut self, frame: &FrameFaces, here: Seen) -> Option<(usize, &'static str)> {
        let is_away = |seen: &Seen| {
            seen.camera == here.camera && frame.faces.iter().all(|other| other.track != seen.track)
        };
        let distance = |seen: &Seen| {
            let [dx, dy] = [seen.centre[0] - here.centre[0], seen.centre[1] - here.centre[1]];
            dx.hypot(dy) / seen.size.max(here.size)
        };
        let away = self
            .seen
            .iter()
            .enumerate()
            .filter_map(|(index, seen)| seen.filter(is_away).map(|seen| (index, seen)));
        let nearest = away.map(|(index, seen)| (index, distance(&seen))).min_by(|a, b| a.1.total_cmp(&b.1));
        match nearest {
            Some((index, distance)) if distance <= REACH_IN_FACES => Some((index, "seen again")),
            _ => match (self.new_number(here.camera), nearest) {
                (Some(index), _) => Some((index, "first seen")),
                (None, Some((index, _))) => Some((index, "seen again")),
                (None, None) => None,
            },
        }
    }

    /// A number that nobody has, for somebody who is first seen in this camera.
    fn new_number(&mut self, camera: CameraId) -> Option<usize> {
        let cameras = self.newcomers.len();
        let newcomers = &mut self.newcomers[usize::from(camera.0)];
        let own = usize::from(camera.0) + *newcomers * cameras;
        let is_free = |index: &usize| self.seen.get(*index).is_none_or(Option::is_none);
        let index = match self.expected {
            Some(expected) if own >= expected => (0..expected).rfind(is_free)?,
            _ if is_free(&own) => own,
            // Somebody of another camera, for whom no number was left, has taken it.
            _ => (0..self.expected?).rfind(is_free)?,
        };
        *newcomers += 1;
        Some(index)
    }
}

fn participant(index: usize) -> ParticipantId {
    ParticipantId(u16::try_from(index + 1).unwrap_or(u16::MAX))
}

fn sight(frame: &FrameFaces, face: &Face) -> Seen {
    let [x0, y0, x1, y1] = face.bbox;
    Seen {
        camera: frame.meta.camera,
        track: face.track,
        centre: [(x0 + x1) / 2.0, (y0 + y1) / 2.0],
        size: (x1 - x0).max(y1 - y0),
    }
}

/// The session's participants.
pub struct ParticipantsActor {
    /// Outlives the actor: a life that follows another knows who is who.
    roster: Arc<Mutex<Roster>>,
    /// Whether the last frame of each camera had more faces than were expected, to say so once.
    over_limit: Vec<bool>,
    outputs: Outputs,
    events: Recipient<Event>,
    lifeline: Lifeline,
}

impl ParticipantsActor {
    /// An actor for the participants of `roster` in `cameras` cameras.
    pub fn new(
        roster: Arc<Mutex<Roster>>,
        cameras: usize,
        outputs: Outputs,
        events: Recipient<Event>,
        lifeline: Lifeline,
    ) -> Self {
        Self { roster, over_limit: vec![false; cameras], outputs, events, lifeline }
    }

    fn announce(&mut self, ctx: &mut Context<Self>, frame: &FrameFaces, update: &RosterUpdate) {
        for change in &update.changes {
            let detail = json!({
                "participant": change.participant.to_string(),
                "camera": change.camera.0,
                "track": change.track.0,
                "why": change.why,
            });
            tell::<Self, _>(ctx, &self.events, event(change.at, EventKind::Participant, detail));
        }
        let unnamed = update.participants.iter().filter(|named| named.is_none()).count();
        let over = unnamed + usize::from(frame.over_limit);
        let was_over = &mut self.over_limit[usize::from(frame.meta.camera.0)];
        if over > 0 && !*was_over {
            let detail = json!({ "camera": frame.meta.camera.0, "faces_over_limit": over });
            tell::<Self, _>(ctx, &self.events, event(frame.meta.captured_at, EventKind::OverLimit, detail));
        }
        *was_over = over > 0;
    }
}

fn event(at: Timestamp, kind: EventKind, detail: serde_json::Value) -> Event {
    Event { at, source: "participants".to_owned(), kind, detail }
}

impl Actor for ParticipantsActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.lifeline.started();
    }
}

impl Handler<FacesFound> for ParticipantsActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, FacesFound(faces): FacesFound, ctx: &mut Self::Context) -> Self::Result {
        fault::point("participants:found");
        // Poisoned by a life that panicked in it: what it had named is still so.
        let update = self.roster.lock().unwrap_or_else(PoisonError::into_inner).name(&faces);
        self.announce(ctx, &faces, &update);
        Box::pin(self.outputs.clone().faces(FacesNamed { faces, update: Arc::new(update) }))
    }
}

impl Handler<Shutdown> for ParticipantsActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.lifeline.ended();
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use youquanti_models::LANDMARK_COUNT;

    use super::*;

    /// Names one frame with faces at these places: (track, x), each 100 px wide.
    fn name(roster: &mut Roster, camera: u16, faces: &[(u32, f32)]) -> Vec<Option<u16>> {
        let mut frame = FrameFaces::with_capacity(4);
        frame.meta.camera = CameraId(camera);
        frame.faces.extend(faces.iter().map(|&(track, x)| Face {
            track: TrackId(track),
            score: 0.9,
            bbox: [x, 0.0, x + 100.0, 100.0],
            presence: 1.0,
            sharpness: None,
            landmarks: [[0.0; 3]; LANDMARK_COUNT],
            blendshapes: [0.0; 52],
            head_pose: [[0.0; 4]; 4],
        }));
        roster.name(&frame).participants.iter().map(|named| named.map(|id| id.0)).collect()
    }

    #[test]
    fn a_face_that_comes_back_where_it_left_keeps_its_participant() {
        let mut roster = Roster::new(None, 2);
        assert_eq!(name(&mut roster, 0, &[(1, 0.0), (2, 500.0)]), [Some(1), Some(3)]);
        assert_eq!(name(&mut roster, 0, &[(2, 510.0)]), [Some(3)]);
        assert_eq!(name(&mut roster, 0, &[(7, 60.0), (2, 510.0)]), [Some(1), Some(3)]);
    }

    #[test]
    fn elsewhere_or_in_another_camera_a_new_track_is_a_new_participant() {
        let mut roster = Roster::new(None, 2);
        assert_eq!(name(&mut roster, 0, &[(1, 0.0)]), [Some(1)]);
        assert_eq!(name(&mut roster, 1, &[(2, 0.0)]), [Some(2)]);
        assert_eq!(name(&mut roster, 0, &[(3, 900.0)]), [Some(3)]);
    }

    #[test]
    fn numbers_do_not_depend_on_which_camera_is_first() {
        let (left, right): (&[_], &[_]) = (&[(1, 0.0), (2, 500.0)], &[(3, 0.0), (4, 500.0)]);
        let mut roster = Roster::new(Some(4), 2);
        assert_eq!(name(&mut roster, 0, left), [Some(1), Some(3)]);
        assert_eq!(name(&mut roster, 1, right), [Some(2), Some(4)]);
        let mut roster = Roster::new(Some(4), 2);
        assert_eq!(name(&mut roster, 1, right), [Some(2), Some(4)]);
        assert_eq!(name(&mut roster, 0, left), [Some(1), Some(3)]);
    }

    #[test]
    fn with_one_expected_more_than_cameras_the_free_number_is_taken() {
        let mut roster = Roster::new(Some(3), 2);
        assert_eq!(name(&mut roster, 1, &[(1, 0.0), (2, 500.0)]), [Some(2), Some(3)]);
        assert_eq!(name(&mut roster, 0, &[(3, 0.0)]), [Some(1)]);
    }

    #[test]
    fn nobody_gets_a_number_beyond_those_expected() {
        let mut roster = Roster::new(Some(2), 2);
        assert_eq!(name(&mut roster, 0, &[(1, 0.0), (2, 300.0), (3, 600.0)]), [Some(1), Some(2), None]);
        assert_eq!(
            name(&mut roster, 0, &[(2, 300.0), (3, 600.0)]),
            [Some(2), Some(1)],
            "the free one is taken over"
        );
    }

    #[test]
    fn every_change_is_said() {
        let mut roster = Roster::new(None, 2);
        let mut frame = FrameFaces::with_capacity(1);
        frame.meta.captured_at = Timestamp(77);
        assert_eq!(roster.name(&frame), RosterUpdate::default());
        name(&mut roster, 0, &[(1, 0.0)]);
        name(&mut roster, 0, &[]);
        let mut again = FrameFaces::with_capacity(1);
        again.meta.captured_at = Timestamp(99);
        again.faces.push(Face {
            track: TrackId(5),
            score: 0.9,
            bbox: [10.0, 0.0, 110.0, 100.0],
            presence: 1.0,
            sharpness: None,
            landmarks: [[0.0; 3]; LANDMARK_COUNT],
            blendshapes: [0.0; 52],
            head_pose: [[0.0; 4]; 4],
        });
        let change = roster.name(&again).changes.remove(0);
        assert_eq!(
            (change.participant, change.track, change.why),
            (ParticipantId(1), TrackId(5), "seen again")
        );
        assert_eq!(change.at, Timestamp(99));
    }
}
