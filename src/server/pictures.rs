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

/// How long a request waits for a newer picture than its client has; on a WebSocket there is no such end.
const NEWER_WITHIN: Duration = Duration::from_secs(2);

/// Quality of the pictures, 1 to 100.
const QUALITY: u8 = 75;

/// Which picture a client has.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct After {
    /// Its `seq`; a newer one is wanted. Without it, any.
    after: Option<i64>,
}

/// A picture as it is sent.
pub(crate) struct Encoded {
    seq: u64,
    /// With what was found in it: the length of the JSON, four bytes, little-endian; the JSON; the JPEG.
    pub(crate) whole: web::Bytes,
    jpeg: web::Bytes,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPicture {
    /// There is no session yet.
    #[error("the session is still being started")]
    Arming,
    /// No such camera.
    #[error("there is no such camera")]
    Unknown,
    /// None are made.
    #[error("this session makes no previews: [preview] is switched off")]
    Off,
    /// No newer one has come.
    #[error("there is no newer one")]
    NoNewer,
    /// It cannot be encoded.
    #[error("the picture cannot be encoded: {0}")]
    Failed(String),
}

impl NoPicture {
    /// Status and code, as they are in an answer to a request.
    pub(crate) const fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Arming => (StatusCode::SERVICE_UNAVAILABLE, "arming"),
            Self::Unknown | Self::Off => (StatusCode::NOT_FOUND, "unknown"),
            Self::NoNewer => (StatusCode::NO_CONTENT, ""),
            Self::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        }
    }

    fn answer(&self) -> HttpResponse {
        match self.status() {
            (StatusCode::NO_CONTENT, _) => HttpResponse::NoContent().finish(),
            (status, code) => problem(status, code, &self.to_string()),
        }
    }
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
struct Facts<'a> {
    camera: &'a str,
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
    match within_time(&shared, &name, None).await {
        Ok(picture) => HttpResponse::Ok().content_type("image/jpeg").body(picture.jpeg.clone()),
        Err(none) => none.answer(),
    }
}

/// `/api/v1/cameras/{name}/preview`: a newer picture than the client has, with what was found in it.
pub(crate) async fn preview(
    shared: web::Data<Shared>,
    name: web::Path<String>,
    after: web::Query<After>,
) -> HttpResponse {
    match within_time(&shared, &name, after.after).await {
        Ok(picture) => {
            HttpResponse::Ok().content_type("application/octet-stream").body(picture.whole.clone())
        }
        Err(none) => none.answer(),
    }
}

async fn within_time(shared: &Shared, name: &str, after: Option<i64>) -> Result<Arc<Encoded>, NoPicture> {
    timeout(NEWER_WITHIN, newer(shared, name, after)).await.unwrap_or(Err(NoPicture::NoNewer))
}

/// The newest picture, once it is newer than the one that the client has.
pub(crate) async fn newer(
    shared: &Shared,
    name: &str,
    after: Option<i64>,
) -> Result<Arc<Encoded>, NoPicture> {
    let session = shared.session.get().ok_or(NoPicture::Arming)?;
    let camera = session.camera(name).ok_or(NoPicture::Unknown)?;
    if session.plane().preview().is_none() {
        return Err(NoPicture::Off);
    }
    let mut newest = session.plane().camera(camera).watch_preview();
    let is_newer = |handle: &Option<FrameHandle>| {
        handle.as_ref().is_some_and(|handle| after.is_none_or(|after| handle.meta().seq as i64 > after))
    };
    let handle = match newest.wait_for(is_newer).await {
        Ok(handle) => handle.clone().ok_or(NoPicture::NoNewer)?,
        Err(_) => return Err(NoPicture::NoNewer),
    };
    let pictures = shared.pictures.get_or_init(|| Pictures::new(session.plane().cameras.len()));
    let place = pictures.0.get(&camera).ok_or(NoPicture::Unknown)?;
    // Whoever comes second finds it encoded.
    let mut kept = place.lock().await;
    if let Some(kept) = kept.as_ref().filter(|kept| kept.seq >= handle.meta().seq) {
        return Ok(Arc::clone(kept));
    }
    let (session, name) = (session.clone(), name.to_owned());
    let encoded = web::block(move || encode(&session, &name, &handle)).await;
    let failed = |error: &dyn std::fmt::Display| NoPicture::Failed(error.to_string());
    let encoded = encoded.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Arc::clone(kept.insert(Arc::new(encoded))))
}

fn encode(session: &Control, camera: &str, handle: &FrameHandle) -> Result<Encoded, EncodingError> {
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
        camera,
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
    // Only maps with keys that are no text cannot be written.
    let facts = serde_json::to_string(&facts).unwrap_or_default();
    let mut whole = Vec::with_capacity(128 << 10);
    whole.extend_from_slice(&(facts.len() as u32).to_le_bytes());
    whole.extend_from_slice(facts.as_bytes());
    let (width, height) = (layout.width as u16, layout.height as u16);
    Encoder::new(&mut whole, QUALITY).encode(picture.bytes, width, height, colours)?;
    let whole = web::Bytes::from(whole);
    Ok(Encoded { seq: meta.seq, jpeg: whole.slice(4 + facts.len()..), whole })
}
