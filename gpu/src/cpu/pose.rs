//! One body in each camera's pictures, by BlazePose on the processor.
//!
//! Owns networks, buffers, and where each camera's body was last. As in MediaPipe's graphs the detector runs on frames without a known
//! body alone, and where a body is lost the next frame has the detector. Runs on the thread that made it. After the first frames of
//! each size nothing is allocated per frame, but for what ONNX Runtime and the JPEG decoder do inside.

use std::path::Path;
use std::time::Duration;

use youquanti_models::blazeface::{BlazeFace, Letterbox};
use youquanti_models::nms::{Nms, NmsMode};
use youquanti_models::pose::{self, CROP, NMS_IOU, PRESENCE_THRESHOLD, SCORE_THRESHOLD};
use youquanti_models::{
    Affine2, BodyPose, Detection, Frame, FramePose, ModelId, POSE_POINT_COUNT, Picture, PipelineError,
    PixelFormat, Roi, Timestamp,
};

use super::colour::{self, ColourError, Jpeg};
use super::crop;
use super::network::Network;
use super::worker::{WorkError, landmark_input, letterbox_input};
use crate::networks::read;
use crate::{SetupError, runtime};

/// The networks that it runs.
const NETWORKS: [ModelId; 2] = [ModelId::PoseDetect, ModelId::PoseLandmarks];

/// A pause in a camera's frames after which a body is not where it was.
const BODY_OUTLIVES: Duration = Duration::from_secs(1);

/// Id and SHA-256 of each network, as session files have them.
pub fn networks() -> Vec<(String, String)> {
    NETWORKS.map(|id| (id.file().name.to_owned(), id.file().sha256.to_owned())).to_vec()
}

/// Everything that keeps the networks in `folder` from being used.
pub fn check_networks(folder: &Path) -> Vec<SetupError> {
    NETWORKS.into_iter().filter_map(|id| read(id, Some(folder)).err()).collect()
}

/// Looks for a body.
pub struct PoseSeeker {
    detector: Network,
    decoder: BlazeFace,
    landmarks: Network,
    jpeg: Jpeg,
    rgb: Vec<u8>,
    nms: Nms,
    candidates: Vec<Detection>,
    /// By camera.
    bodies: Vec<Followed>,
}

/// What is known of a camera's body.
#[derive(Clone, Copy, Default)]
struct Followed {
    /// The region for the next frame and the score of its detection.
    body: Option<(Roi, f32)>,
    seen_at: Timestamp,
}

impl PoseSeeker {
    /// Loads runtime and networks, from `folder` or those inside the program.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(folder: Option<&Path>) -> Result<Self, SetupError> {
        let runtime = runtime::load()?;
        let load = |id: ModelId, outputs: &[&str]| -> Result<Network, SetupError> {
            Ok(Network::load(&runtime, id, &read(id, folder)?.onnx, &[("N", 1)], outputs)?)
        };
        let [detector, landmarks] = NETWORKS;
        Ok(Self {
            detector: load(detector, &["regressors", "scores"])?,
            decoder: BlazeFace::person(),
            landmarks: load(landmarks, &["landmarks", "presence"])?,
            jpeg: Jpeg::default(),
            rgb: Vec::new(),
            nms: Nms::default(),
            candidates: Vec::new(),
            bodies: Vec::new(),
        })
    }

    /// Looks at a frame. Frames of one camera must come in ascending order; gaps are fine. `found_at` is left to the caller.
    ///
    /// # Errors
    /// [`PipelineError::Picture`] or [`PipelineError::Stage`].
    pub fn look(&mut self, frame: &impl Frame) -> Result<FramePose, PipelineError> {
        let meta = *frame.meta();
        let camera = usize::from(meta.camera.0);
        if self.bodies.len() <= camera {
            self.bodies.resize(camera + 1, Followed::default());
        }
        let followed = &mut self.bodies[camera];
        if meta.captured_at.saturating_since(followed.seen_at) > BODY_OUTLIVES {
            followed.body = None;
        }
        let before = followed.body.take();
        followed.seen_at = meta.captured_at;
        let mut found = FramePose { meta, ..FramePose::nothing() };
        self.bodies[camera].body = self.see(frame, before, &mut found).map_err(|error| match error {
            WorkError::Colour(error) => {
                PipelineError::Picture { camera: meta.camera, seq: meta.seq, reason: error.to_string() }
            }
            error => PipelineError::Stage { stage: "body pose", source: Box::new(error) },
        })?;
        Ok(found)
    }

    /// Where the body will be in the next frame.
    fn see(
        &mut self,
        frame: &impl Frame,
        before: Option<(Roi, f32)>,
        found: &mut FramePose,
    ) -> Result<Option<(Roi, f32)>, WorkError> {
        let Self { detector, decoder, landmarks, jpeg, rgb, nms, candidates, .. } = self;
        let picture = readable(frame, jpeg)?;
        found.detector_ran = before.is_none();
        let region = match before {
            Some(region) => Some(region),
            None => detect(&picture, detector, decoder, rgb, nms, candidates)?,
        };
        let Some((roi, score)) = region else { return Ok(None) };

        sample(&picture, &Affine2::image_from_crop(&roi, CROP), &landmark_input(), rgb, landmarks)?;
        let seen = landmarks.run()?;
        // The network's own sigmoid is in it already.
        found.presence = seen.get(1)?.first().copied().filter(|presence| presence.is_finite()).unwrap_or(0.0);
        if found.presence < PRESENCE_THRESHOLD {
            return Ok(None);
        }
        let mut points = [[0.0; _]; POSE_POINT_COUNT];
        let next = pose::read_landmarks(seen.get(0)?, &roi, &mut points);
        found.body = next.map(|_| BodyPose { score, points });
        Ok(next.map(|next| (next, score)))
    }
}

/// The frame's pixels, decoded.
fn readable<'a>(frame: &'a impl Frame, jpeg: &'a mut Jpeg) -> Result<Picture<'a>, ColourError> {
    let picture = frame.picture();
    colour::check(&picture)?;
    if picture.layout.format == PixelFormat::Mjpg { jpeg.decode(&picture) } else { Ok(picture) }
}

/// The region of the person that the detector is surest of, and its score.
fn detect(
    picture: &Picture<'_>,
    network: &mut Network,
    decoder: &BlazeFace,
    rgb: &mut Vec<u8>,
    nms: &mut Nms,
    candidates: &mut Vec<Detection>,
) -> Result<Option<(Roi, f32)>, WorkError> {
    let letterbox = Letterbox::new(picture.layout.width, picture.layout.height, decoder.input_size());
    sample(picture, &letterbox.image_from_input(), &letterbox_input(decoder.input_size()), rgb, network)?;
    let seen = network.run()?;
    candidates.clear();
    decoder.decode(seen.get(0)?, seen.get(1)?, SCORE_THRESHOLD, &letterbox, candidates);
    nms.run(NmsMode::Weighted, NMS_IOU, candidates);
    let best = candidates.first().map(|person| (person.roi(), person.score));
    Ok(best.filter(|(roi, _)| pose::is_usable(roi)))
}

/// Puts what `map` shows of the picture into a network's input.
fn sample(
    picture: &Picture<'_>,
    map: &Affine2,
    input: &crop::Input,
    rgb: &mut Vec<u8>,
    network: &mut Network,
) -> Result<(), WorkError> {
    let part = crop::part_seen(map, input, &picture.layout);
    let view = colour::rgb_part(picture, part, rgb)?;
    crop::sample(&view, &picture.layout, map, input, network.input());
    Ok(())
}
