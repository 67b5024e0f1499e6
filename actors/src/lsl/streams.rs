//! The session's outlets and what is sent through them.
//!
//! Owns the outlets, from the session's start to its end: neither a restart of a camera, of a pipeline nor of the LSL actor
//! makes a receiver see another stream. Each participant's rows follow the frames of its home camera: one for each frame,
//! in the order of capture; a row that would go back in time is dropped and counted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tracing::info;
use youquanti_lsl::{Lsl, Outlet, StreamInfo};
use youquanti_models::{BLENDSHAPE_COUNT, BodyPose, CameraId, Face, FrameMeta, FramePose, Timestamp};

use super::describe::{StreamKey, declare, first_home};
use super::markers::MarkerInlets;
use super::order::{FrameOrder, Place};
use super::quality::Quality;
use super::{LslPlan, MarkerSinks, rows};
use crate::messages::{Event, FacesNamed};
use crate::plane::DataPlane;
use crate::session::SessionPlan;
use crate::synchrony::comodulation::Comodulation;
use crate::synchrony::{LONGEST_GAP, SynchronyWindow};

/// Seconds that wait for a receiver that does not read; older samples are lost to it, and to it alone.
const BUFFERED_SECONDS: f64 = 60.0;

/// The same for streams without a rate, samples.
const BUFFERED_SAMPLES: u32 = 16_384;

/// The first of a body's points.
const NOSE: usize = 0;

/// How long a face is where it was: bodies are found before or after the faces of the same frame.
const FACE_HOLDS: Duration = Duration::from_millis(500);

/// Why streams cannot be made or sent.
#[derive(Debug, thiserror::Error)]
pub enum LslError {
    /// liblsl is not there.
    #[error(transparent)]
    Library(#[from] youquanti_lsl::LoadError),
    /// A stream cannot be made.
    #[error("LSL stream {stream} cannot be made")]
    Make {
        /// Its name.
        stream: String,
        /// What liblsl says.
        source: youquanti_lsl::LslError,
    },
    /// A sample cannot be sent.
    #[error("a sample of the LSL stream {stream} cannot be sent")]
    Push {
        /// Which stream.
        stream: String,
        /// What liblsl says.
        source: youquanti_lsl::LslError,
    },
    /// Streams of others cannot be looked for.
    #[error("streams of markers cannot be looked for")]
    Markers {
        /// What liblsl or the system says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier life of the actor hangs in liblsl.
    #[error("an earlier life still holds the streams")]
    Held,
}

/// The session's streams. Clones share them; they outlive every life of the actor that sends them.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Option<Open>>>);

impl Streams {
    /// Makes all streams, unless an earlier life has.
    pub(super) fn open(
        &self,
        session: &SessionPlan,
        plan: &Arc<LslPlan>,
        plane: &DataPlane,
        sinks: &MarkerSinks,
    ) -> Result<(), LslError> {
        let mut place = self.lock()?;
        if place.is_none() {
            *place = Some(Open::new(session, plan, plane, sinks)?);
            plane.wants_stream_facts.store(true, Relaxed);
            plane.wants_stream_poses.store(plan.youquantipy && plane.pose().is_some(), Relaxed);
        }
        Ok(())
    }

    /// Does `work` with them; nothing before they are made or after they have ended.
    pub(super) fn with(&self, work: impl FnOnce(&mut Open) -> Result<(), LslError>) -> Result<(), LslError> {
        self.lock()?.as_mut().map_or(Ok(()), work)
    }

    /// Whether anybody receives any of them.
    pub(super) fn has_consumers(&self) -> bool {
        let has_consumers = |open: &Open| open.out.outlets.values().any(|(outlet, _)| outlet.has_consumers());
        self.lock().is_ok_and(|place| place.as_ref().is_some_and(has_consumers))
    }

    /// Ends them: receivers see them go. What a thread that hangs holds ends with the program.
    pub(crate) fn close(&self) {
        if let Ok(mut place) = self.lock() {
            place.take();
        }
    }

    /// Never waits: only a thread that hangs keeps it from the one that has taken its place. Poisoned by a life that
    /// panicked in it, what was made is as good as before.
    fn lock(&self) -> Result<MutexGuard<'_, Option<Open>>, LslError> {
        match self.0.try_lock() {
            Ok(place) => Ok(place),
            Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => Err(LslError::Held),
        }
    }
}

/// The streams while they are there.
pub(super) struct Open {
    orders: Vec<FrameOrder>,
    /// The same for bodies, where they are streamed.
    pose_orders: Option<Vec<FrameOrder>>,
    out: Sender,
    markers: Option<MarkerInlets>,
}

/// A participant as the streams know it.
struct Person {
    home: CameraId,
    last_at: Timestamp,
    quality: Quality,
    /// When their face was last seen in the home camera, and its box.
    face: Option<(Timestamp, [f32; 4])>,
    pose_at: Timestamp,
}

/// What rows are made from and go through.
struct Sender {
    plan: Arc<LslPlan>,
    outlets: BTreeMap<StreamKey, (Outlet, String)>,
    people: Vec<Person>,
    pair: Pair,
    row: Vec<f32>,
}

/// P1 and P2 as YouQuantiPy compares them.
#[derive(Default)]
struct Pair {
    comodulation: Comodulation,
    /// P2's newest row, if it has a face.
    second: Option<(Timestamp, [f32; BLENDSHAPE_COUNT])>,
}

impl Pair {
    /// A row at a row of P1: what each channel holds; 0 where it is off, until there are 60 frames before this one, and without
    /// either face.
    fn row(&mut self, at: Timestamp, first: Option<&Face>) -> [f32; BLENDSHAPE_COUNT] {
        let newest = self.second.as_ref().filter(|(seen_at, _)| at.saturating_since(*seen_at) <= LONGEST_GAP);
        match first.zip(newest) {
            Some((first, (_, second))) => {
                self.comodulation.take([&first.blendshapes, second]).unwrap_or([0.0; BLENDSHAPE_COUNT])
            }
            None => {
                self.comodulation.lose();
                [0.0; BLENDSHAPE_COUNT]
            }
        }
    }
}

impl Open {
    fn new(
        session: &SessionPlan,
        plan: &Arc<LslPlan>,
        plane: &DataPlane,
        sinks: &MarkerSinks,
    ) -> Result<Self, LslError> {
        let lsl = Lsl::load()?;
        quiet(lsl);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let declared = declare(session, plan, plane, &host);
        let own: Vec<String> = declared.values().map(|stream| stream.source_id.clone()).collect();
        let mut outlets = BTreeMap::new();
        for (key, declaration) in declared {
            let stream = declaration.name.clone();
            let buffered = match declaration.rate {
                rate if rate > 0.0 => (rate * BUFFERED_SECONDS).ceil() as u32,
                _ => BUFFERED_SAMPLES,
            };
            let outlet = StreamInfo::new(lsl, &declaration).and_then(|info| Outlet::new(&info, buffered));
            let outlet = outlet.map_err(|source| LslError::Make { stream: stream.clone(), source })?;
            outlets.insert(key, (outlet, stream));
        }
        info!(streams = outlets.len(), library = %lsl.path().display(), version = lsl.version(), "streaming over LSL");
        let cameras = plane.cameras.len();
        let person = |participant| Person {
            home: first_home(participant, cameras),
            last_at: Timestamp(0),
            quality: Quality::default(),
            face: None,
            pose_at: Timestamp(0),
        };
        let markers = match plan.markers.is_empty() {
            true => None,
            false => {
                let counts = Arc::clone(&plane.stream_counts);
                Some(MarkerInlets::start(
                    lsl,
                    plan.markers.clone(),
                    own,
                    sinks.clone(),
                    Arc::clone(&plane.clock),
                    counts,
                )?)
            }
        };
        Ok(Self {
            orders: plane.cameras.iter().map(|_| FrameOrder::new()).collect(),
            pose_orders: (plan.youquantipy && plane.pose().is_some())
                .then(|| plane.cameras.iter().map(|_| FrameOrder::new()).collect()),
            out: Sender {
                plan: Arc::clone(plan),
                outlets,
                people: (0..session.expected_participants.unwrap_or(0)).map(person).collect(),
                pair: Pair::default(),
                row: Vec::with_capacity(rows::MESH + 64),
            },
            markers,
        })
    }

    /// A frame was captured.
    pub(super) fn frame(&mut self, plane: &DataPlane, meta: &FrameMeta) -> Result<(), LslError> {
        self.out.frame(plane, meta)?;
        let (camera, now) = (usize::from(meta.camera.0), plane.clock.now());
        self.orders[camera].captured(*meta, now);
        if let Some(orders) = &mut self.pose_orders {
            orders[camera].captured(*meta, now);
        }
        Ok(())
    }

    /// A frame was analysed. Whether its rows say so.
    pub(super) fn faces(&mut self, plane: &DataPlane, named: &FacesNamed) -> Result<Place, LslError> {
        let (meta, out) = (&named.faces.meta, &mut self.out);
        let mut outcome = Ok(());
        let mut missing = |missing: &FrameMeta| {
            if outcome.is_ok() {
                outcome = out.rows(plane, missing, None);
            }
        };
        let place = self.orders[usize::from(meta.camera.0)].analysed(meta, &mut missing);
        outcome?;
        if place == Place::Late {
            plane.stream_counts.late.fetch_add(1, Relaxed);
            return Ok(place);
        }
        for change in &named.update.changes {
            if let Some(person) = self.out.people.get_mut(usize::from(change.participant.0).wrapping_sub(1)) {
                person.home = change.camera;
                person.face = None;
            }
        }
        self.out.rows(plane, meta, Some(named))?;
        Ok(place)
    }

    /// A frame was looked at for a body. Whether its rows say what was found, where bodies are streamed.
    pub(super) fn pose(&mut self, plane: &DataPlane, found: &FramePose) -> Result<Place, LslError> {
        let (meta, out) = (&found.meta, &mut self.out);
        let Some(orders) = &mut self.pose_orders else { return Ok(Place::Next) };
        let mut outcome = Ok(());
        let place = orders[usize::from(meta.camera.0)].analysed(meta, |missing| {
            if outcome.is_ok() {
                outcome = out.poses(plane, missing, None);
            }
        });
        outcome?;
        if place == Place::Late {
            plane.stream_counts.late.fetch_add(1, Relaxed);
            return Ok(place);
        }
        self.out.poses(plane, meta, found.body.as_ref())?;
        Ok(place)
    }

    /// Time has passed.
    pub(super) fn overdue(&mut self, plane: &DataPlane) -> Result<(), LslError> {
        let now = plane.clock.now();
        self.without_result(plane, |order, missing| order.overdue(now, missing))
    }

    /// The session ends: frames that wait get their rows, and streams of others are left.
    pub(super) fn finish(&mut self, plane: &DataPlane) -> Result<(), LslError> {
        self.markers = None;
        self.without_result(plane, |order, missing| order.finish(missing))
    }

    fn without_result(
        &mut self,
        plane: &DataPlane,
        take: impl Fn(&mut FrameOrder, &mut dyn FnMut(&FrameMeta)),
    ) -> Result<(), LslError> {
        let Self { orders, pose_orders, out, .. } = self;
        let mut outcome = Ok(());
        for order in orders {
            take(order, &mut |missing| {
                if outcome.is_ok() {
                    outcome = out.rows(plane, missing, None);
                }
            });
        }
        for order in pose_orders.iter_mut().flatten() {
            take(order, &mut |missing| {
                if outcome.is_ok() {
                    outcome = out.poses(plane, missing, None);
                }
            });
        }
        outcome
    }

    /// A window of synchrony is computed.
    pub(super) fn synchrony(&mut self, window: &SynchronyWindow) -> Result<(), LslError> {
        self.out.row.clear();
        rows::synchrony(&mut self.out.row, window);
        self.out
            .push(StreamKey::Synchrony, |outlet| outlet.push_f32(&self.out.row, rows::seconds(window.end)))
    }

    /// Something happened.
    pub(super) fn event(&mut self, event: &Event) -> Result<(), LslError> {
        let text = serde_json::json!(event).to_string();
        self.out.push(StreamKey::Events, |outlet| outlet.push_text(&text, rows::seconds(event.at)))
    }
}

impl Sender {
    fn push(
        &self,
        key: StreamKey,
        push: impl FnOnce(&Outlet) -> Result<(), youquanti_lsl::LslError>,
    ) -> Result<(), LslError> {
        let Some((outlet, stream)) = self.outlets.get(&key) else { return Ok(()) };
        push(outlet).map_err(|source| LslError::Push { stream: stream.clone(), source })
    }

    /// What is known of a frame, analysed or not.
    fn frame(&mut self, plane: &DataPlane, meta: &FrameMeta) -> Result<(), LslError> {
        let (camera, at) = (meta.camera, rows::seconds(meta.captured_at));
        let row = rows::frame(meta, plane.ledger.without_result(camera));
        self.push(StreamKey::Frames(camera), |outlet| outlet.push_f64(&row, at))?;
        if self.plan.youquantipy {
            let now = plane.clock.now();
            let utc = Duration::from_nanos(u64::try_from(plane.clock.utc().0).unwrap_or(0));
            let since_epoch = utc.saturating_sub(now.saturating_since(meta.captured_at));
            let first = Timestamp(plane.camera(camera).first_captured_at.load(Relaxed));
            let row = rows::video_frame(meta, since_epoch, first);
            self.push(StreamKey::VideoFrames(camera), |outlet| outlet.push_f64(&row, at))?;
        }
        Ok(())
    }

    /// The rows of all whose home is the frame's camera.
    fn rows(
        &mut self,
        plane: &DataPlane,
        meta: &FrameMeta,
        named: Option<&FacesNamed>,
    ) -> Result<(), LslError> {
        let (now, at) = (plane.clock.now(), rows::seconds(meta.captured_at));
        let picture = plane.camera(meta.camera).opened_layout();
        let mut row = std::mem::take(&mut self.row);
        let mut outcome = Ok(());
        // P1's face of this row, if it has one; P2's own row may follow.
        let mut first = None;
        for index in 0..self.people.len() {
            let person = &mut self.people[index];
            if person.home != meta.camera {
                continue;
            }
            if meta.captured_at <= person.last_at {
                plane.stream_counts.late.fetch_add(1, Relaxed);
                continue;
            }
            person.last_at = meta.captured_at;
            let participant = index as u16;
            let face = named.and_then(|named| {
                let is_them = |id: &Option<youquanti_models::ParticipantId>| {
                    id.is_some_and(|id| id.0 == participant + 1)
                };
                named.faces.faces.get(named.update.participants.iter().position(is_them)?)
            });
            if let Some(face) = face {
                person.face = Some((meta.captured_at, face.bbox));
            }
            let quality = match face {
                Some(face) => person.quality.of(face, &picture),
                None => {
                    person.quality.lose();
                    [0.0; 3]
                }
            };
            match participant {
                0 => first = Some(face),
                1 => self.pair.second = face.map(|face| (meta.captured_at, face.blendshapes)),
                _ => {}
            }
            let keys = [
                StreamKey::Blendshapes(participant),
                StreamKey::HeadPose(participant),
                StreamKey::Mesh(participant),
                StreamKey::Landmarks(participant),
            ];
            for key in keys.into_iter().filter(|key| self.outlets.contains_key(key)) {
                row.clear();
                match key {
                    StreamKey::Blendshapes(_) => rows::blendshapes(&mut row, face, meta, now),
                    StreamKey::HeadPose(_) => rows::head_pose(&mut row, face),
                    StreamKey::Mesh(_) => rows::mesh(&mut row, face),
                    _ => rows::landmarks(&mut row, face, &self.plan, &picture, quality),
                }
                outcome = self.push(key, |outlet| outlet.push_f32(&row, at));
                if outcome.is_err() {
                    break;
                }
            }
            plane.stream_counts.rows.fetch_add(1, Relaxed);
        }
        if outcome.is_ok()
            && let Some(face) = first
            && self.outlets.contains_key(&StreamKey::Comodulation)
        {
            let row = self.pair.row(meta.captured_at, face);
            outcome = self.push(StreamKey::Comodulation, |outlet| outlet.push_f32(&row, at));
        }
        self.row = row;
        plane.stream_counts.row_time.record(plane.clock.now().saturating_since(now));
        outcome
    }
}

impl Sender {
    /// The rows of bodies of all whose home is the frame's camera: at most one of them has the body that was found.
    fn poses(
        &mut self,
        plane: &DataPlane,
        meta: &FrameMeta,
        body: Option<&BodyPose>,
    ) -> Result<(), LslError> {
        let (at, picture) = (rows::seconds(meta.captured_at), plane.camera(meta.camera).opened_layout());
        let owner = body.and_then(|body| owner(&self.people, meta, body));
        let mut row = std::mem::take(&mut self.row);
        let mut outcome = Ok(());
        for index in 0..self.people.len() {
            let person = &mut self.people[index];
            if person.home != meta.camera || outcome.is_err() {
                continue;
            }
            if meta.captured_at <= person.pose_at {
                plane.stream_counts.late.fetch_add(1, Relaxed);
                continue;
            }
            person.pose_at = meta.captured_at;
            row.clear();
            rows::pose(&mut row, body.filter(|_| owner == Some(index)), &picture);
            outcome = self.push(StreamKey::Pose(index as u16), |outlet| outlet.push_f32(&row, at));
        }
        self.row = row;
        outcome
    }
}

/// Whose body it is: that of the only one whose home the camera is, else of the one in whose face its nose is.
fn owner(people: &[Person], meta: &FrameMeta, body: &BodyPose) -> Option<usize> {
    let mut at_home = (0..people.len()).filter(|&index| people[index].home == meta.camera);
    let first = at_home.clone().next();
    if at_home.clone().nth(1).is_none() {
        return first;
    }
    let [x, y, ..] = body.points[NOSE];
    at_home.find(|&index| {
        people[index].face.is_some_and(|(seen_at, [x0, y0, x1, y1])| {
            let apart =
                meta.captured_at.saturating_since(seen_at).max(seen_at.saturating_since(meta.captured_at));
            apart <= FACE_HOLDS && (x0..=x1).contains(&x) && (y0..=y1).contains(&y)
        })
    })
}

/// Where people configure liblsl themselves, theirs holds; else it is quiet, for its log is not ours.
pub fn quiet(lsl: Lsl) {
    let home = std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join("lsl_api/lsl_api.cfg"));
    let files = ["lsl_api.cfg".into(), "/etc/lsl_api/lsl_api.cfg".into()].into_iter().chain(home);
    if std::env::var_os("LSLAPICFG").is_none() && !files.into_iter().any(|file| file.exists()) {
        lsl.configure("[log]\nlevel = -2\n");
    }
}
