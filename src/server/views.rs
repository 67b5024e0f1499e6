//! What clients see of a session, as JSON.
//!
//! Owns the shape of every answer but the metrics'. Reads figures and the session's board; never waits for the session.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;
use serde_json::{Value as Json, json};
use youquanti_actors::control::{CameraState, CommandError, Control, Phase, Status};
use youquanti_actors::ledger::{CameraSnapshot, Consumer, DropReason};
use youquanti_actors::messages::FacesNamed;
use youquanti_actors::stats::LatencySnapshot;
use youquanti_models::blendshapes::NAMES;

use super::Shared;
use crate::preflight::free_space;

/// Version of everything under `/api/v1`.
pub(crate) const API_VERSION: u32 = 1;

/// An answer that says what is wrong: a code for programs, words for people.
pub(crate) fn problem(status: StatusCode, code: &str, words: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({ "error": { "code": code, "message": words } }))
}

/// A command's refusal as JSON, with the status that goes with it.
pub(crate) fn command_error(error: &CommandError) -> (StatusCode, Json) {
    let message = error.to_string();
    let (status, code, more) = match error {
        CommandError::NotNow { state, allowed, .. } => {
            (StatusCode::CONFLICT, "not_now", json!({ "state": state, "allowed": allowed }))
        }
        CommandError::Unknown { known, .. } => (StatusCode::NOT_FOUND, "unknown", json!({ "known": known })),
        CommandError::Invalid { key, .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "invalid", json!({ "key": key }))
        }
        CommandError::Missing { missing, .. } => {
            (StatusCode::CONFLICT, "missing", json!({ "missing": missing }))
        }
        CommandError::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "failed", json!({})),
    };
    let mut error = json!({ "code": code, "message": message });
    if let (Json::Object(error), Json::Object(more)) = (&mut error, more) {
        error.extend(more);
    }
    (status, json!({ "error": error }))
}

/// Seconds of `CLOCK_MONOTONIC`, which is what `lsl_local_clock()` gives.
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// `/api/v1/state`.
pub(crate) fn state(shared: &Shared) -> Json {
    let session = shared.session.get();
    let status = session.map(Control::status).unwrap_or_default();
    let plane = session.map(Control::plane);
    let recording = plane.and_then(|plane| plane.recording());
    let names = plane.into_iter().flat_map(|plane| plane.camera_names());
    let cameras: serde_json::Map<_, _> =
        names.zip(&status.cameras).map(|(name, state)| (name.to_string(), json!(state))).collect();
    let state = match (status.phase, &recording) {
        (Phase::Running, Some(_)) => "recording",
        (phase, _) => phase.name(),
    };
    json!({
        "api": API_VERSION,
        "software": concat!("youquanti ", env!("CARGO_PKG_VERSION")),
        "session": shared.options.session,
        "state": state,
        "allowed": allowed(&status, recording.is_some()),
        "now_s": plane.map(|plane| seconds(plane.clock.now().0)),
        "started_at_s": plane.and_then(|plane| plane.started_at()).map(|at| seconds(at.0)),
        "recording": recording.map(|recording| json!({
            "path": recording.path,
            "number": recording.number,
            "started_at_s": seconds(recording.started_at.0),
            "rows": recording.rows,
            "bytes": recording.file_bytes,
            "free_bytes": recording.free_bytes,
        })),
        "free_bytes": free_space(&shared.options.recordings).ok(),
        "recording_at_s": status.recording_at.map(|at| seconds(at.0)),
        "verdict": plane.map(|plane| plane.findings.of_session()),
        "cameras": cameras,
    })
}

/// Commands that would be carried out now, of cameras if there is one for which they would.
fn allowed(status: &Status, is_recording: bool) -> Vec<&'static str> {
    if status.phase != Phase::Running {
        return Vec::new();
    }
    let mut allowed = vec!["mark", "rename_participant", "stop"];
    let is_scheduled = status.recording_at.is_some();
    if !is_recording && !is_scheduled {
        allowed.push("start_recording");
    }
    if is_recording || is_scheduled {
        allowed.push("stop_recording");
    }
    for command in status.cameras.iter().flat_map(|state: &CameraState| state.allowed()) {
        if !allowed.contains(command) {
            allowed.push(command);
        }
    }
    allowed
}

/// `/api/v1/cameras`.
pub(crate) fn cameras(session: &Control) -> Json {
    let (plane, status) = (session.plane(), session.status());
    let ledger = plane.ledger.snapshot();
    let cameras = plane.cameras.iter().zip(plane.stats.iter()).zip(&ledger.cameras).zip(&status.cameras);
    let cameras: Vec<_> = cameras
        .map(|(((line, stats), ledger), state)| {
            let opened = line.opened();
            let info = opened.as_ref().map(|opened| &opened.info);
            let layout = opened.as_ref().map(|opened| opened.layout);
            let last = line.last_good_at.load(std::sync::atomic::Ordering::Relaxed);
            json!({
                "name": line.plan.name.as_str(),
                "state": state,
                "device": info.map(|info| json!({ "driver": info.driver, "name": info.name, "id": info.id })),
                "width": layout.map(|layout| layout.width),
                "height": layout.map(|layout| layout.height),
                "format": layout.map(|layout| layout.format.name()),
                "fps": info.map(|info| info.fps),
                "captured": ledger.captured,
                "driver_lost": ledger.driver_lost,
                "results": stats.results.load(std::sync::atomic::Ordering::Relaxed),
                "faces": stats.faces.load(std::sync::atomic::Ordering::Relaxed),
                "restarts": stats.restarts.load(std::sync::atomic::Ordering::Relaxed),
                "last_frame_s": (last > 0).then(|| seconds(last)),
                "latency_ms": quantiles(&stats.latency.snapshot()),
            })
        })
        .collect();
    json!({ "cameras": cameras })
}

/// `/api/v1/participants`.
pub(crate) fn participants(session: &Control) -> Json {
    let names = session.plane().camera_names();
    let people: Vec<_> = session
        .status()
        .people
        .iter()
        .map(|person| {
            let camera = person.seen.and_then(|(camera, _)| names.get(usize::from(camera.0)));
            json!({
                "participant": person.id.to_string(),
                "name": person.name,
                "camera": camera.map(ToString::to_string),
                "track": person.seen.map(|(_, track)| track.0),
            })
        })
        .collect();
    json!({ "participants": people })
}

/// `/api/v1/ledger`.
pub(crate) fn ledger(session: &Control) -> Json {
    let snapshot = session.plane().ledger.snapshot();
    let names = session.plane().camera_names();
    let cameras: serde_json::Map<_, _> = names
        .iter()
        .zip(&snapshot.cameras)
        .map(|(name, camera)| (name.to_string(), counts(camera)))
        .collect();
    json!({ "cameras": cameras })
}

fn counts(camera: &CameraSnapshot) -> Json {
    let consumers = Consumer::ALL.into_iter().zip(&camera.consumers).map(|(consumer, counts)| {
        let dropped: serde_json::Map<_, _> = DropReason::ALL
            .into_iter()
            .zip(counts.dropped)
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect();
        let under_way = camera.captured.saturating_sub(counts.delivered + counts.dropped_total());
        let counts = json!({ "delivered": counts.delivered, "dropped": dropped, "under_way": under_way });
        (consumer.name().to_owned(), counts)
    });
    json!({
        "captured": camera.captured,
        "driver_lost": camera.driver_lost,
        "consumers": consumers.collect::<serde_json::Map<_, _>>(),
    })
}

/// `/api/v1/latency`.
pub(crate) fn latency(session: &Control) -> Json {
    let plane = session.plane();
    let cameras: serde_json::Map<_, _> = plane
        .cameras
        .iter()
        .zip(plane.stats.iter())
        .map(|(line, stats)| {
            let snapshot = stats.latency.snapshot();
            let doublings: Vec<_> = snapshot
                .doublings()
                .map(|(up_to, count)| json!({ "up_to_ms": up_to.as_secs_f64() * 1e3, "frames": count }))
                .collect();
            let latency = json!({ "capture_to_result_ms": quantiles(&snapshot), "histogram": doublings });
            (line.plan.name.to_string(), latency)
        })
        .collect();
    json!({ "cameras": cameras })
}

fn quantiles(snapshot: &LatencySnapshot) -> Json {
    let at = |share| snapshot.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0) })
}

/// What a socket says first: what the numbers of its results mean.
pub(crate) fn hello(shared: &Shared) -> Json {
    let session = shared.session.get();
    let cameras: Vec<_> = session
        .into_iter()
        .flat_map(|session| session.plane().cameras.iter())
        .map(|line| {
            let layout = line.opened().map(|opened| opened.layout);
            json!({
                "name": line.plan.name.as_str(),
                "width": layout.map(|layout| layout.width),
                "height": layout.map(|layout| layout.height),
            })
        })
        .collect();
    json!({
        "type": "hello",
        "api": API_VERSION,
        "session": shared.options.session,
        "cameras": cameras,
        "blendshapes": &NAMES[..],
    })
}

/// Which parts of a face a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) blendshapes: bool,
    pub(crate) head_pose: bool,
    pub(crate) landmarks: bool,
}

#[derive(Serialize)]
struct ResultView<'a> {
    r#type: &'static str,
    camera: &'a str,
    seq: u64,
    /// The frame's stamp: seconds of `CLOCK_MONOTONIC`.
    captured_at_s: f64,
    /// Capture to result.
    latency_ms: f64,
    faces: Vec<FaceView<'a>>,
}

#[derive(Serialize)]
struct FaceView<'a> {
    participant: Option<String>,
    name: Option<String>,
    track: u32,
    score: f32,
    presence: f32,
    bbox: [f32; 4],
    #[serde(skip_serializing_if = "Option::is_none")]
    head_pose: Option<&'a [[f32; 4]; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blendshapes: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    landmarks: Option<Vec<[f32; 3]>>,
}

/// One frame's faces as a socket sends them: boxes and landmarks in pixels of the camera's picture (landmarks to a hundredth), the
/// head pose in metres.
pub(crate) fn result(named: &FacesNamed, camera: &str, status: &Status, parts: Parts) -> String {
    let frame = &named.faces;
    let faces =
        frame.faces.iter().zip(named.update.participants.iter().copied()).map(|(face, id)| FaceView {
            participant: id.map(|id| id.to_string()),
            name: id.map(|id| status.name_of(id)),
            track: face.track.0,
            score: face.score,
            presence: face.presence,
            bbox: face.bbox,
            head_pose: parts.head_pose.then_some(&face.head_pose),
            blendshapes: parts.blendshapes.then_some(&face.blendshapes[..]),
            landmarks: parts.landmarks.then(|| {
                face.landmarks.iter().map(|point| point.map(|x| (x * 100.0).round() / 100.0)).collect()
            }),
        });
    let view = ResultView {
        r#type: "result",
        camera,
        seq: frame.meta.seq,
        captured_at_s: seconds(frame.meta.captured_at.0),
        latency_ms: frame.stamps.published.saturating_since(frame.meta.captured_at).as_secs_f64() * 1e3,
        faces: faces.collect(),
    };
    // Only maps with keys that are no text, and failing writers, cannot be written.
    serde_json::to_string(&view).unwrap_or_default()
}
