//! Live pictures of a camera for browsers: the newest preview as JPEG, with what was found in exactly that picture.
//!
//! Owns the newest encoded picture of each camera: encoded once, however many look, and only when somebody asks. A client asks for each
//! picture when it has room for it, so none is sent faster than it takes them, and one that is gone costs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use jpeg_encoder::{ColorType, Encoder, EncodingError};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;
use youquanti_actors::control::Control;
use youquanti_frames::FrameHandle;
use youquanti_frames::results::Results;
use youquanti_models::{CameraId, Frame, PixelFormat};

use super::Shared;
use super::views::problem;

/// How long a client waits for a newer picture than it has. It keeps one of the few connections that a browser has.
const NEWER_WITHIN: Duration = Duration::from_millis(500);

/// Quality of the pictures, 1 to 100.
const QUALITY: u8 = 75;

/// Which picture a client has.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct After {
    /// Its `seq`; a newer one is wanted. Without it, any.
    after: Option<i64>,
}

/// A picture as it is sent.
struct Encoded {
    seq: u64,
    /// What was found in it, JSON.
    facts: String,
    jpeg: web::Bytes,
}

/// The newest encoded picture of each camera.
#[derive(Default)]
pub(crate) struct Pictures(HashMap<CameraId, Mutex<Option<Arc<Encoded>>>>);

impl Pictures {
    /// Places for so many cameras.
    pub(crate) fn new(cameras: usize) -> Self {
        let ids = (0..cameras).filter_map(|index| u16::try_from(index).ok()).map(CameraId);
        Self(ids.map(|id| (id, Mutex::default())).collect())
    }
}

#[derive(Serialize)]
struct Facts {
    seq: u64,
    captured_at_s: f64,
    previewed_at_s: f64,
    width: u32,
    height: u32,
    camera_size: [u32; 2],
    analysed: bool,
    faces: Vec<Face>,
}

#[derive(Serialize)]
struct Face {
    participant: Option<String>,
    name: Option<String>,
    track: u32,
    score: f32,
    bbox: [f32; 4],
    head_pose: [[f32; 4]; 4],
    landmarks: Vec<[f32; 2]>,
}

/// `/api/v1/cameras/{name}/preview.jpg`: the newest picture.
pub(crate) async fn jpeg(shared: web::Data<Shared>, name: web::Path<String>) -> HttpResponse {
    match newest(&shared, &name, None).await {
        Ok(picture) => HttpResponse::Ok().content_type("image/jpeg").body(picture.jpeg.clone()),
        Err(answer) => answer,
    }
}

/// `/api/v1/cameras/{name}/preview`: a newer picture than the client has, with what was found in it: the length of the JSON, four
/// bytes, little-endian; the JSON; the JPEG.
pub(crate) async fn preview(
    shared: web::Data<Shared>,
    name: web::Path<String>,
    after: web::Query<After>,
) -> HttpResponse {
    match newest(&shared, &name, after.after).await {
        Ok(picture) => {
            let mut body = Vec::with_capacity(4 + picture.facts.len() + picture.jpeg.len());
            body.extend_from_slice(&(picture.facts.len() as u32).to_le_bytes());
            body.extend_from_slice(picture.facts.as_bytes());
            body.extend_from_slice(&picture.jpeg);
            HttpResponse::Ok().content_type("application/octet-stream").body(body)
        }
        Err(answer) => answer,
    }
}

/// The newest picture, once it is newer than the one that the client has.
async fn newest(shared: &Shared, name: &str, after: Option<i64>) -> Result<Arc<Encoded>, HttpResponse> {
    let Some(session) = shared.session.get() else {
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "arming", "the session is still being started"));
    };
    let unknown = |words: &str| problem(StatusCode::NOT_FOUND, "unknown", words);
    let Some(camera) = session.camera(name) else { return Err(unknown("there is no such camera")) };
    if session.plane().preview().is_none() {
        return Err(unknown("this session makes no previews: [preview] is switched off"));
    }
    let mut newest = session.plane().camera(camera).watch_preview();
    let is_newer = |handle: &Option<FrameHandle>| {
        handle.as_ref().is_some_and(|handle| after.is_none_or(|after| handle.meta().seq as i64 > after))
    };
    let waited = timeout(NEWER_WITHIN, newest.wait_for(is_newer)).await;
    let handle = match waited {
        Ok(Ok(handle)) => handle.clone(),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(handle) = handle else { return Err(HttpResponse::NoContent().finish()) };
    let Some(place) =
        shared.pictures.get_or_init(|| Pictures::new(session.plane().cameras.len())).0.get(&camera)
    else {
        return Err(unknown("there is no such camera"));
    };
    // Whoever comes second finds it encoded.
    let mut kept = place.lock().await;
    if let Some(kept) = kept.as_ref().filter(|kept| kept.seq >= handle.meta().seq) {
        return Ok(Arc::clone(kept));
    }
    let session = session.clone();
    let encoded = web::block(move || encode(&session, &handle)).await;
    let words = match encoded {
        Ok(Ok(encoded)) => {
            let encoded = Arc::new(encoded);
            *kept = Some(Arc::clone(&encoded));
            return Ok(encoded);
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", &words))
}

fn encode(session: &Control, handle: &FrameHandle) -> Result<Encoded, EncodingError> {
    let (meta, picture) = (handle.meta(), handle.picture());
    let layout = picture.layout;
    let status = session.status();
    let found = Results::of(handle.results());
    let faces = found.iter().flat_map(Results::faces).map(|face| Face {
        participant: face.participant().map(|id| id.to_string()),
        name: face.participant().map(|id| status.name_of(id)),
        track: face.track().0,
        score: face.score(),
        bbox: face.bbox(),
        head_pose: face.head_pose(),
        landmarks: face.landmarks().map(|[x, y, _]| [x, y].map(|at| (at * 10.0).round() / 10.0)).collect(),
    });
    let facts = Facts {
        seq: meta.seq,
        captured_at_s: meta.captured_at.0 as f64 / 1e9,
        previewed_at_s: found.as_ref().map_or(0.0, |found| found.previewed_at().0 as f64 / 1e9),
        width: layout.width,
        height: layout.height,
        camera_size: found.as_ref().map_or([0; 2], Results::camera_size),
        analysed: found.as_ref().is_some_and(Results::is_analysed),
        faces: faces.collect(),
    };
    let colours = if layout.format == PixelFormat::Bgr24 { ColorType::Bgr } else { ColorType::Rgb };
    let mut jpeg = Vec::with_capacity(128 << 10);
    let (width, height) = (layout.width as u16, layout.height as u16);
    Encoder::new(&mut jpeg, QUALITY).encode(picture.bytes, width, height, colours)?;
    // Only maps with keys that are no text cannot be written.
    let facts = serde_json::to_string(&facts).unwrap_or_default();
    Ok(Encoded { seq: meta.seq, facts, jpeg: jpeg.into() })
}
