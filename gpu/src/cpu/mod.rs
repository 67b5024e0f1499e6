//! The CPU back end: ONNX Runtime, with faces and detector shared out over lanes.
//!
//! Holds one frame and computes in `collect`. What it finds does not depend on the number of threads.
//! After the first frames of each size nothing is allocated per frame, but for what ONNX Runtime and
//! the JPEG decoder do inside.

pub mod colour;
pub mod crop;
pub mod lanes;
pub mod network;
pub mod pose;
pub mod preview;
pub mod sharpness;
pub mod shrink;
pub mod worker;

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use youquanti_models::nms::{Nms, NmsMode};
use youquanti_models::{
    BackendInfo, CameraId, Clock, Detection, Face, Frame, FrameFaces, FrameMeta, Pipeline, PipelineError,
    PixelFormat, Roi, Stamps, Timestamp, blazeface, yunet,
};

use crate::follow::{Followed, Seen};
use crate::networks::{Networks, Processor};
use crate::options::{CpuOptions, Detector, FaceOptions};
use crate::{SetupError, probe, runtime};
use colour::{ColourError, Jpeg};
use lanes::{LaneError, Lanes};
use worker::{Current, DetectTask, FaceTask, LaneWorker, Task, WorkError, WorkerOptions, YuNetViews};

/// Candidates of a frame that buffers have room for from the start.
const CANDIDATES: usize = 1024;

/// The pipeline on the processor.
pub struct CpuPipeline<F: Frame + Send + Sync + 'static> {
    info: BackendInfo,
    clock: Arc<dyn Clock>,
    current: Arc<RwLock<Current<F>>>,
    lanes: Lanes<LaneWorker<F>>,
    detector: Detector,
    views: YuNetViews,
    followed: Followed,
    /// Width and height of pictures, and the detector's tiles for them. Few.
    tiles: Vec<([u32; 2], usize)>,
    /// Facts of the submitted frame.
    submitted: Option<(FrameMeta, Timestamp)>,
    nms: Nms,
    detections: Vec<Detection>,
    /// Finished in this frame, in no particular order.
    looked_at: Vec<Box<FaceTask>>,
    spare_faces: Vec<Box<FaceTask>>,
    spare_detects: Vec<DetectTask>,
}

impl<F: Frame + Send + Sync + 'static> CpuPipeline<F> {
    /// Loads runtime and networks and starts the lanes. `clock` gives the stamps of the results.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(options: &CpuOptions, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let runtime = runtime::load()?;
        let faces = &options.faces;
        let networks = Arc::new(Networks::load(Processor::Cpu, faces.detector, faces.model_dir.as_deref())?);
        let views = YuNetViews { size: faces.detector_size, max_side: faces.detector_max_side };
        let mut pictures: Vec<[u32; 2]> = sizes(faces).collect();
        pictures.sort_unstable();
        pictures.dedup();
        let most_tiles =
            pictures.iter().map(|&picture| tiles(faces.detector, &views, picture)).max().unwrap_or(1);
        let current = Arc::new(RwLock::new(Current { frame: None, jpeg: Jpeg::default() }));
        let worker_options = WorkerOptions {
            runtime: &runtime,
            networks: &networks,
            detector: faces.detector,
            views,
            pictures: &pictures,
            score_threshold: faces.score_threshold,
            presence_threshold: faces.tracker.presence_threshold,
            rgb_bytes: rgb_bytes(faces),
        };
        let worker = || LaneWorker::new(&current, &worker_options);
        let helpers = (1..options.threads.max(1)).map(|_| worker()).collect::<Result<Vec<_>, _>>()?;
        let max_faces = faces.tracker.max_faces.max(1);
        let lanes = Lanes::start(worker()?, helpers, max_faces + most_tiles).map_err(SetupError::Thread)?;
        let mut pipeline = Self {
            info: BackendInfo {
                backend: "cpu",
                device: probe::processor(),
                runtime: format!("ONNX Runtime {}", runtime.version()),
                models: networks.identities(),
                reason: options.reason.clone(),
            },
            clock,
            current,
            lanes,
            detector: faces.detector,
            views,
            followed: Followed::new(faces.tracker, Arc::clone(&faces.track_ids)),
            tiles: Vec::new(),
            submitted: None,
            nms: Nms::with_capacity(CANDIDATES),
            detections: Vec::with_capacity(CANDIDATES),
            looked_at: Vec::with_capacity(max_faces * 2),
            spare_faces: (0..max_faces * 2).map(|_| Box::default()).collect(),
            spare_detects: (0..most_tiles)
                .map(|_| DetectTask { tile: 0, found: Vec::with_capacity(CANDIDATES / most_tiles) })
                .collect(),
        };
        for input in &faces.cameras {
            let picture = [input.layout.width, input.layout.height];
            pipeline.followed.camera(input.camera, picture);
            pipeline.tiles(picture);
        }
        Ok(pipeline)
    }

    fn process(
        &mut self,
        meta: &FrameMeta,
        stamps: &mut Stamps,
        out: &mut FrameFaces,
    ) -> Result<(), PipelineError> {
        let picture = self.prepare().map_err(|error| PipelineError::Picture {
            camera: meta.camera,
            seq: meta.seq,
            reason: error.to_string(),
        })?;
        stamps.uploaded = self.clock.now();

        let at = self.followed.camera(meta.camera, picture);
        out.detector_ran = self.followed.tracker(at).begin(meta.seq);
        out.over_limit = 0;
        if out.detector_ran {
            self.detect(at, picture)?;
            out.over_limit = self.followed.tracker(at).merge(&self.detections);
        }
        stamps.detected = self.clock.now();

        self.look_at_tracks(at)?;
        self.run_all("landmarks")?;
        self.publish(at, &mut out.faces);
        stamps.landmarks = self.clock.now();
        Ok(())
    }

    /// Makes the frame readable for the lanes; width and height of its picture.
    fn prepare(&mut self) -> Result<[u32; 2], ColourError> {
        let mut current = self.lock();
        let Current { frame, jpeg } = &mut *current;
        let Some(frame) = frame else { return Err(ColourError::Conversion("no frame".to_owned())) };
        let picture = frame.picture();
        colour::check(&picture)?;
        if picture.layout.format == PixelFormat::Mjpg {
            jpeg.decode(&picture)?;
        }
        Ok([picture.layout.width, picture.layout.height])
    }

    /// Runs the detector. What it found is left in `detections`, best first.
    ///
    /// With lanes to spare, the regions of live tracks are looked at meanwhile: mostly the detector
    /// confirms them, and then they are done.
    fn detect(&mut self, at: usize, picture: [u32; 2]) -> Result<(), PipelineError> {
        for tile in 0..self.tiles(picture) {
            let mut task = self.spare_detects.pop().unwrap_or_default();
            task.tile = tile;
            task.found.clear();
            self.submit(Task::Detect(task), "detector")?;
        }
        if self.lanes.count() > 1 {
            self.look_at_tracks(at)?;
        }
        self.detections.clear();
        self.run_all("detector")?;
        let (mode, iou) = match self.detector {
            Detector::YuNet => (NmsMode::Plain, yunet::NMS_IOU),
            Detector::BlazeFaceShort | Detector::BlazeFaceFull => (NmsMode::Weighted, blazeface::NMS_IOU),
        };
        // Lanes finish in any order; what is found must not depend on it.
        self.detections
            .sort_unstable_by(|a, b| order(b).partial_cmp(&order(a)).unwrap_or(std::cmp::Ordering::Equal));
        self.nms.run(mode, iou, &mut self.detections);
        Ok(())
    }

    /// Hands over the regions of tracks that have not been looked at in this frame.
    fn look_at_tracks(&mut self, at: usize) -> Result<(), PipelineError> {
        for track in 0..self.followed.tracker(at).tracks().len() {
            let roi = *self.followed.tracker(at).tracks()[track].roi();
            if self.looked_at.iter().any(|face| face.roi == roi) {
                continue;
            }
            let mut task = self.spare_faces.pop().unwrap_or_default();
            task.roi = roi;
            self.submit(Task::Face(task), "landmarks")?;
        }
        Ok(())
    }

    fn submit(&mut self, mut task: Task, stage: &'static str) -> Result<(), PipelineError> {
        // Full only for a picture of a size that nobody announced: then finish something first.
        while let Err(back) = self.lanes.submit(task) {
            task = back;
            match self.lanes.finish_one() {
                Some(done) => self.take(done, stage)?,
                None => return Err(failed(stage, LaneError::Ended)),
            }
        }
        Ok(())
    }

    /// Waits for all tasks. All of them are over even when one failed.
    fn run_all(&mut self, stage: &'static str) -> Result<(), PipelineError> {
        let mut result = Ok(());
        while let Some(done) = self.lanes.finish_one() {
            let taken = self.take(done, stage);
            result = result.and(taken);
        }
        result
    }

    fn take(
        &mut self,
        done: Result<Task, LaneError<WorkError>>,
        stage: &'static str,
    ) -> Result<(), PipelineError> {
        match done {
            Ok(Task::Detect(mut task)) => {
                self.detections.append(&mut task.found);
                self.spare_detects.push(task);
                Ok(())
            }
            Ok(Task::Face(task)) => {
                self.looked_at.push(task);
                Ok(())
            }
            Err(error) => Err(failed(stage, error)),
        }
    }

    /// Lets the tracker judge what was seen, and writes what are faces.
    fn publish(&mut self, at: usize, faces: &mut Vec<Face>) {
        let Self { followed, looked_at, .. } = self;
        let find = |roi: &Roi| looked_at.iter().position(|face| face.roi == *roi);
        let seen = |at: usize| {
            let FaceTask { presence, sharpness, landmarks, blendshapes, head_pose, .. } = &*looked_at[at];
            Seen { presence: *presence, sharpness: Some(*sharpness), landmarks, blendshapes, head_pose }
        };
        followed.publish(at, find, seen, faces);
    }

    /// The detector's tiles for pictures of this width and height.
    fn tiles(&mut self, picture: [u32; 2]) -> usize {
        let known = self.tiles.iter().find(|(known, _)| *known == picture);
        known.map(|&(_, count)| count).unwrap_or_else(|| {
            let count = tiles(self.detector, &self.views, picture);
            self.tiles.push((picture, count));
            count
        })
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Current<F>> {
        // What a panic while decoding leaves behind is overwritten by the next frame.
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Frame + Send + Sync + 'static> Pipeline<F> for CpuPipeline<F> {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn has_room(&self) -> bool {
        self.submitted.is_none()
    }

    fn submit(&mut self, frame: F) {
        self.submitted = Some((*frame.meta(), self.clock.now()));
        self.lock().frame = Some(frame);
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(F, Result<(), PipelineError>)> {
        let (meta, submitted) = self.submitted.take()?;
        let mut stamps = Stamps { submitted, ..Stamps::default() };
        out.faces.clear();
        let mut result = self.process(&meta, &mut stamps, out);
        if result.is_err() {
            // Tasks handed over before the failure still read the frame.
            result = result.and(self.run_all("landmarks"));
        }
        self.spare_faces.append(&mut self.looked_at);
        out.meta = meta;
        out.stamps = stamps;
        let frame = self.lock().frame.take()?;
        Some((frame, result))
    }

    fn forget(&mut self, camera: CameraId) {
        self.followed.forget(camera);
    }
}

fn failed(stage: &'static str, error: LaneError<WorkError>) -> PipelineError {
    PipelineError::Stage { stage, source: Box::new(error) }
}

/// By what detections are put in an order that is the same for every order in which they were found.
fn order(detection: &Detection) -> (f32, f32, f32) {
    (detection.score, detection.bbox.x0, detection.bbox.y0)
}

fn tiles(detector: Detector, views: &YuNetViews, picture: [u32; 2]) -> usize {
    match detector {
        Detector::YuNet => views.plan(picture).tiles.len(),
        Detector::BlazeFaceShort | Detector::BlazeFaceFull => 1,
    }
}

fn sizes(options: &FaceOptions) -> impl Iterator<Item = [u32; 2]> {
    options.cameras.iter().map(|input| [input.layout.width, input.layout.height])
}

/// Room for the largest picture that has to be converted, chroma of odd sides included.
fn rgb_bytes(options: &FaceOptions) -> usize {
    let converted =
        options.cameras.iter().map(|input| input.layout).filter(|layout| {
            matches!(layout.format, PixelFormat::Yuyv | PixelFormat::Nv12 | PixelFormat::Grey)
        });
    converted
        .map(|layout| {
            layout.width.next_multiple_of(2) as usize * layout.height.next_multiple_of(2) as usize * 3
        })
        .max()
        .unwrap_or(0)
}
