//! What a lane does: one tile of the detector, or one face from crop to head pose.
//!
//! A worker owns its networks and buffers; it shares only the frame, which it reads.

use std::sync::{Arc, PoisonError, RwLock};

use youquanti_models::blazeface::{BlazeFace, Letterbox, sigmoid};
use youquanti_models::geometry::{Affine2, landmarks_to_picture};
use youquanti_models::head_pose::{head_pose, mediapipe_depth_scale};
use youquanti_models::yunet::{self, DetectorPlan, StrideOutput};
use youquanti_models::{
    BLENDSHAPE_COUNT, Detection, Frame, LANDMARK_COUNT, Picture, PictureLayout, PixelFormat, Roi, blendshapes,
};

use super::colour::{self, ColourError, Jpeg};
use super::crop::{self, Border, Input};
use super::lanes::Worker;
use super::network::{Network, NetworkError};
use super::sharpness::sharpness;
use super::shrink::Shrink;
use crate::networks::Networks;
use crate::options::{Detector, DetectorSize};
use crate::runtime::Runtime;

/// Side of the landmark network's input, pixels.
pub const CROP: u32 = 256;

/// The frame that all lanes work on.
pub(super) struct Current<F> {
    /// `None` between frames.
    pub(super) frame: Option<F>,
    /// Its picture, if that came as JPEG.
    pub(super) jpeg: Jpeg,
}

impl<F: Frame> Current<F> {
    /// The frame's pixels, decoded.
    fn picture(&self) -> Result<Picture<'_>, WorkError> {
        let picture = self.frame.as_ref().ok_or(WorkError::NoFrame)?.picture();
        let layout = picture.layout;
        Ok(match layout.format {
            PixelFormat::Mjpg => self.jpeg.last(layout.width, layout.height),
            _ => picture,
        })
    }
}

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A network failed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The picture's colours could not be converted.
    #[error(transparent)]
    Colour(#[from] ColourError),
    /// A task ran without a frame.
    #[error("no frame to work on")]
    NoFrame,
}

/// One thing to do with the current frame.
pub(super) enum Task {
    /// Look for faces.
    Detect(DetectTask),
    /// Look at a face.
    Face(Box<FaceTask>),
}

/// A view for the detector.
#[derive(Default)]
pub(super) struct DetectTask {
    /// Which tile of YuNet's plan for the picture; BlazeFace has one only.
    pub(super) tile: usize,
    /// Result: candidates, overlapping.
    pub(super) found: Vec<Detection>,
}

/// A region in which a face should be, and what was seen there.
pub(super) struct FaceTask {
    pub(super) roi: Roi,
    /// Result: 0 to 1.
    pub(super) presence: f32,
    /// Result: of the crop; see [`Face::sharpness`](youquanti_models::Face::sharpness).
    pub(super) sharpness: f32,
    /// Result: picture pixels.
    pub(super) landmarks: [[f32; 3]; LANDMARK_COUNT],
    /// Result, if `presence` reaches the threshold.
    pub(super) blendshapes: [f32; BLENDSHAPE_COUNT],
    /// Result, if `presence` reaches the threshold.
    pub(super) head_pose: [[f32; 4]; 4],
}

impl Default for FaceTask {
    fn default() -> Self {
        Self {
            roi: Roi { cx: 0.0, cy: 0.0, width: 1.0, height: 1.0, rotation: 0.0 },
            presence: 0.0,
            sharpness: 0.0,
            landmarks: [[0.0; 3]; LANDMARK_COUNT],
            blendshapes: [0.0; BLENDSHAPE_COUNT],
            head_pose: [[0.0; 4]; 4],
        }
    }
}

/// A lane's networks and buffers.
pub(super) struct LaneWorker<F> {
    current: Arc<RwLock<Current<F>>>,
    detector: LaneDetector,
    landmarks: Network,
    blendshapes: Network,
    score_threshold: f32,
    presence_threshold: f32,
    /// RGB of the part of the picture that is looked at.
    rgb: Vec<u8>,
}

/// What all workers of a pipeline have in common.
pub(super) struct WorkerOptions<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) networks: &'a Arc<Networks>,
    pub(super) detector: Detector,
    pub(super) views: YuNetViews,
    /// Widths and heights of pictures that are known in advance.
    pub(super) pictures: &'a [[u32; 2]],
    pub(super) score_threshold: f32,
    pub(super) presence_threshold: f32,
    /// Bytes of the largest picture in RGB that has to be converted.
    pub(super) rgb_bytes: usize,
}

impl<F> LaneWorker<F> {
    pub(super) fn new(
        current: &Arc<RwLock<Current<F>>>,
        options: &WorkerOptions<'_>,
    ) -> Result<Self, NetworkError> {
        let WorkerOptions { runtime, networks, .. } = options;
        let one = [("N", 1)];
        Ok(Self {
            current: Arc::clone(current),
            detector: LaneDetector::new(options)?,
            landmarks: Network::load(
                runtime,
                networks.landmarks.id,
                &networks.landmarks.onnx,
                &one,
                &["landmarks", "presence"],
            )?,
            blendshapes: Network::load(
                runtime,
                networks.blendshapes.id,
                &networks.blendshapes.onnx,
                &one,
                &["blendshapes"],
            )?,
            score_threshold: options.score_threshold,
            presence_threshold: options.presence_threshold,
            rgb: vec![0; options.rgb_bytes],
        })
    }

    fn look_at(&mut self, picture: &Picture<'_>, task: &mut FaceTask) -> Result<(), WorkError> {
        let map = Affine2::image_from_crop(&task.roi, CROP);
        let input = landmark_input();
        let part = crop::part_seen(&map, &input, &picture.layout);
        let view = colour::rgb_part(picture, part, &mut self.rgb)?;
        crop::sample(&view, &picture.layout, &map, &input, self.landmarks.input());
        // Green stands for brightness.
        let plane = input.width * input.height;
        task.sharpness = sharpness(&self.landmarks.input()[plane..2 * plane], input.width);
        let seen = self.landmarks.run()?;
        task.presence = seen.get(1)?.first().copied().map_or(0.0, sigmoid);
        landmarks_to_picture(seen.get(0)?, &task.roi, CROP, &mut task.landmarks);
        if task.presence < self.presence_threshold {
            return Ok(());
        }
        let PictureLayout { width, height, .. } = picture.layout;
        let depth_scale = mediapipe_depth_scale(task.roi.rotation, width, height);
        let Some(head_pose) = head_pose(&task.landmarks, width, height, depth_scale) else {
            // Points that are not finite, or all in one place, are no face.
            task.presence = 0.0;
            return Ok(());
        };
        task.head_pose = head_pose;
        if let Some(points) = self.blendshapes.input().first_chunk_mut() {
            blendshapes::gather(&task.landmarks, points);
        }
        let coefficients = self.blendshapes.run()?;
        for (to, &from) in task.blendshapes.iter_mut().zip(coefficients.get(0)?) {
            *to = from;
        }
        Ok(())
    }
}

impl<F: Frame + Send + Sync + 'static> Worker for LaneWorker<F> {
    type Task = Task;
    type Error = WorkError;

    fn work(&mut self, task: &mut Task) -> Result<(), WorkError> {
        let current = Arc::clone(&self.current);
        // Only the pipeline's own thread writes, between frames; a panic there leaves nothing half done.
        let current = current.read().unwrap_or_else(PoisonError::into_inner);
        let picture = current.picture()?;
        match task {
            Task::Detect(task) => self.detector.run(&picture, task, self.score_threshold, &mut self.rgb),
            Task::Face(task) => self.look_at(&picture, task),
        }
    }
}

enum LaneDetector {
    YuNet {
        runtime: Runtime,
        networks: Arc<Networks>,
        views: YuNetViews,
        /// One for each size of picture; few.
        by_picture: Vec<YuNet>,
    },
    BlazeFace {
        decoder: BlazeFace,
        network: Network,
    },
}

impl LaneDetector {
    fn new(options: &WorkerOptions<'_>) -> Result<Self, NetworkError> {
        let (runtime, networks) = (options.runtime, options.networks);
        let blaze_face = |decoder: BlazeFace| {
            let (id, onnx) = (networks.detector.id, &networks.detector.onnx);
            let network = Network::load(runtime, id, onnx, &[("N", 1)], &["regressors", "scores"])?;
            Ok(Self::BlazeFace { decoder, network })
        };
        match options.detector {
            Detector::BlazeFaceShort => blaze_face(BlazeFace::short()),
            Detector::BlazeFaceFull => blaze_face(BlazeFace::full()),
            Detector::YuNet => {
                let by_picture = options
                    .pictures
                    .iter()
                    .map(|&picture| YuNet::load(runtime, networks, picture, &options.views))
                    .collect::<Result<_, _>>()?;
                let (runtime, networks) = (runtime.clone(), Arc::clone(networks));
                Ok(Self::YuNet { runtime, networks, views: options.views, by_picture })
            }
        }
    }

    fn run(
        &mut self,
        picture: &Picture<'_>,
        task: &mut DetectTask,
        score_threshold: f32,
        rgb: &mut Vec<u8>,
    ) -> Result<(), WorkError> {
        match self {
            Self::YuNet { runtime, networks, views, by_picture } => {
                let size = [picture.layout.width, picture.layout.height];
                let at = match by_picture.iter().position(|yunet| yunet.picture == size) {
                    Some(at) => at,
                    // A picture of a size that nobody announced.
                    None => {
                        by_picture.push(YuNet::load(runtime, networks, size, views)?);
                        by_picture.len() - 1
                    }
                };
                by_picture[at].run(picture, task, score_threshold, rgb)
            }
            Self::BlazeFace { decoder, network } => {
                let size = decoder.input_size();
                let letterbox = Letterbox::new(picture.layout.width, picture.layout.height, size);
                let map = letterbox.image_from_input();
                let input = letterbox_input(size);
                let part = crop::part_seen(&map, &input, &picture.layout);
                let view = colour::rgb_part(picture, part, rgb)?;
                crop::sample(&view, &picture.layout, &map, &input, network.input());
                let outputs = network.run()?;
                decoder.decode(
                    outputs.get(0)?,
                    outputs.get(1)?,
                    score_threshold,
                    &letterbox,
                    &mut task.found,
                );
                Ok(())
            }
        }
    }
}

/// What a BlazeFace network of this size wants to see.
pub fn letterbox_input(size: u32) -> Input {
    let size = size as usize;
    Input { width: size, height: size, scale: 1.0 / 127.5, offset: -1.0, border: Border::Black }
}

/// What the landmark network wants to see.
pub fn landmark_input() -> Input {
    let size = CROP as usize;
    Input { width: size, height: size, scale: 1.0 / 255.0, offset: 0.0, border: Border::Replicate }
}

/// How YuNet looks at pictures.
#[derive(Clone, Copy, Debug)]
pub(super) struct YuNetViews {
    pub(super) size: DetectorSize,
    pub(super) max_side: u32,
}

impl YuNetViews {
    /// The plan for a picture of this width and height.
    pub(super) fn plan(&self, [width, height]: [u32; 2]) -> DetectorPlan {
        DetectorPlan::new(width, height, self.size.smallest_face(width), self.max_side)
    }
}

/// YuNet for pictures of one size.
struct YuNet {
    picture: [u32; 2],
    plan: DetectorPlan,
    /// One for each tile of the plan.
    shrinks: Vec<Shrink>,
    network: Network,
}

impl YuNet {
    fn load(
        runtime: &Runtime,
        networks: &Networks,
        picture: [u32; 2],
        views: &YuNetViews,
    ) -> Result<Self, NetworkError> {
        const OUTPUTS: [&str; 12] = [
            "cls_8", "cls_16", "cls_32", "obj_8", "obj_16", "obj_32", "bbox_8", "bbox_16", "bbox_32",
            "kps_8", "kps_16", "kps_32",
        ];
        let plan = views.plan(picture);
        let [width, height] = [plan.input_width, plan.input_height].map(i64::from);
        let cells = |stride: i64| (width / stride) * (height / stride);
        let sizes =
            [("N", 1), ("W", width), ("H", height), ("A8", cells(8)), ("A16", cells(16)), ("A32", cells(32))];
        let network =
            Network::load(runtime, networks.detector.id, &networks.detector.onnx, &sizes, &OUTPUTS)?;
        let shrinks = plan.tiles.iter().map(|tile| Shrink::new(&plan, tile, picture)).collect();
        Ok(Self { picture, plan, shrinks, network })
    }

    fn run(
        &mut self,
        picture: &Picture<'_>,
        task: &mut DetectTask,
        score_threshold: f32,
        rgb: &mut Vec<u8>,
    ) -> Result<(), WorkError> {
        let tile = &self.plan.tiles[task.tile];
        self.shrinks[task.tile].run(picture, rgb, self.network.input())?;
        let outputs = self.network.run()?;
        let stride = |at: usize| -> Result<StrideOutput<'_>, NetworkError> {
            let of = |kind: usize| outputs.get(kind * yunet::STRIDES.len() + at);
            Ok(StrideOutput { class: of(0)?, object: of(1)?, bbox: of(2)?, keypoints: of(3)? })
        };
        let by_stride = [stride(0)?, stride(1)?, stride(2)?];
        yunet::decode(&by_stride, &self.plan, tile, score_threshold, &mut task.found);
        Ok(())
    }
}
