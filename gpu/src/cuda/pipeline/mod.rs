//! The pipeline on an NVIDIA GPU: one thread, one device, and pictures that go up once and never come down.
//!
//! A frame is uploaded when it is submitted, from the camera's ring where that can be page-locked, while earlier frames are
//! still computed. Frames of several cameras are computed as one batch, at most one of each camera, because where to look in
//! a frame depends on what was seen in the camera's frame before. Two batches of different cameras may be under way, so that
//! the device works while the host judges. In a batch the detector and a look at the faces already followed run side by
//! side; a second look follows only for faces that the detector found anew. Down come detections, landmarks and blendshapes.
//!
//! Owns the device and everything on it, streams, graphs, networks, the page-locked rings. Trackers are those of every back
//! end. After an error nothing of it is of use: drop it and make another, which fails where the device is lost.

mod detect;
mod look;
mod upload;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use youquanti_frames::RingMemory;
use youquanti_models::head_pose::{head_pose, mediapipe_depth_scale};
use youquanti_models::{
    BackendInfo, CameraId, Clock, Detection, DetectorKind, Frame, FrameFaces, ModelId, Pipeline,
    PipelineError, Roi, Stamps, Timestamp,
};

use self::detect::{DetectOptions, Finder, Found};
use self::look::{LookPlan, Looked, Looker};
use self::upload::{Slot, Uploader};
use super::compile::Nvrtc;
use super::device::{self, CallError, Device, DeviceInfo};
use super::launch::{Event, Kernels, Stream};
use super::memory::{DevicePlan, MemoryError};
use super::network::{NetworkError, OrtOptions, Precision, batches_up_to};
use super::provider::{self, Provider};
use crate::SetupError;
use crate::follow::{Followed, Seen};
use crate::networks::{Networks, Processor};
use crate::options::{Detector, FaceOptions};
use crate::runtime::{self, Runtime};

/// Frames, and faces, of one batch at most.
const MAX_BATCH: usize = 16;

/// Batches under way at once.
const LANES: usize = 2;

/// Device memory that a network takes for itself for one batch size, weights, work space of cuDNN and all: 20 of them took
/// 4.7 GiB on an H100, those for large batches more than their share.
const NETWORK_BYTES: u64 = 240 << 20;

const REMEDY: &str =
    "place cameras on another GPU, lower `pipeline.max_faces`, or close other programs that use this GPU";

/// Which ring a frame lies in, so that it can be page-locked; `None` for a frame that lies in none.
pub type RingOf<F> = fn(&F) -> Option<RingMemory>;

/// Options of the pipeline on a GPU.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// What to look for.
    pub faces: FaceOptions,
    /// Which GPU, as the driver counts, from 0.
    pub ordinal: usize,
    /// Whose kernels compute the networks.
    pub provider: Provider,
    /// With how many bits.
    pub precision: Precision,
    /// Why this back end was chosen, one sentence, for logs and the session file.
    pub reason: String,
}

impl CudaOptions {
    /// ONNX Runtime's CUDA kernels at the default precision.
    pub fn new(faces: FaceOptions, ordinal: usize) -> Self {
        Self {
            faces,
            ordinal,
            provider: Provider::Cuda,
            precision: Precision::default(),
            reason: String::new(),
        }
    }
}

/// The GPUs that a pipeline with this provider can be made on: at least one. Makes no context on them, and does not look at
/// their memory.
///
/// # Errors
/// What of driver, GPU, compiler, runtime or the provider's libraries is missing, and where it was looked for.
pub fn check(provider: &Provider) -> Result<Vec<DeviceInfo>, SetupError> {
    let devices = device::devices()?;
    let driver = devices.first().map(|device| device.driver);
    Nvrtc::load(driver.unwrap_or(device::OLDEST_DRIVER))?;
    provider::ensure(&runtime::load()?, provider)?;
    Ok(devices)
}

/// What the parts of the pipeline are made with.
struct Maker<'a> {
    device: &'a Device,
    kernels: &'a Kernels,
    runtime: &'a Runtime,
    options: &'a CudaOptions,
}

impl Maker<'_> {
    /// How this network is loaded.
    fn network(&self, network: ModelId) -> OrtOptions {
        OrtOptions {
            provider: self.options.provider.clone(),
            precision: self.options.precision,
            // The pipeline's own graphs hold the networks.
            graph: false,
            ..OrtOptions::new(self.options.ordinal as i32, network)
        }
    }
}

/// What went wrong, where neither the driver nor a network says it.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the GPU's results are not those of the faces that were asked for")]
    NoAnswer,
    #[error("the pipeline failed on an earlier frame")]
    Broken,
}

/// Where the time of the newest batch went on the device, milliseconds. Detector and faces run side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageTimes {
    /// Of the newest frame: from the first byte to the last.
    pub upload: f32,
    /// Detector, from its input to detections on the host; 0 if it did not run.
    pub detect: f32,
    /// Regions cut out of pictures.
    pub crop: f32,
    /// The landmark network.
    pub landmarks: f32,
    /// Projection and the blendshape network.
    pub blendshapes: f32,
    /// Results to the host.
    pub download: f32,
}

/// See the module.
pub struct CudaPipeline<F: Frame> {
    info: BackendInfo,
    clock: Arc<dyn Clock>,
    options: CudaOptions,
    networks: Networks,
    runtime: Runtime,
    followed: Followed,
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    /// Submitted, in order; the first are collected first.
    order: VecDeque<usize>,
    /// Of these, those that are in no batch yet.
    waiting: VecDeque<usize>,
    /// Cameras that are to be forgotten before their next frame.
    to_forget: Vec<CameraId>,
    under_way: VecDeque<Batch>,
    spare: Vec<Batch>,
    /// The most frames of a batch.
    most_frames: usize,
    is_broken: bool,
    detections: Vec<Detection>,
    uploader: Uploader<F>,
    finder: Finder,
    looker: Looker,
    kernels: Kernels,
    detecting: Stream,
    looking: Stream,
    device: Device,
}

/// Frames that are computed together.
struct Batch {
    /// Index of each frame's slot.
    slots: Vec<usize>,
    /// Places in `slots` of the frames that the detector sees.
    searched: Vec<usize>,
    found: Found,
    looks: Vec<Look>,
    looked: Vec<Looked>,
    /// Of `looked`, those that are in use.
    used: usize,
    done: Event,
}

/// A region, and where what was seen in it is.
struct Look {
    /// Place in the batch's `slots`.
    frame: usize,
    roi: Roi,
    /// Index in the batch's `looked`, and which of its faces.
    at: (usize, usize),
    presence: f32,
    head_pose: [[f32; 4]; 4],
}

impl<F: Frame> CudaPipeline<F> {
    /// Opens the GPU on this thread, loads kernels and networks and captures graphs, for as many faces at a time as the
    /// cameras can have: seconds to a minute. `clock` gives the stamps of the results.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(options: &CudaOptions, clock: Arc<dyn Clock>, ring_of: RingOf<F>) -> Result<Self, SetupError> {
        let faces = &options.faces;
        let runtime = runtime::load()?;
        provider::ensure(&runtime, &options.provider)?;
        let networks = Networks::load(Processor::Gpu, faces.detector, faces.model_dir.as_deref())?;
        let device = Device::open(options.ordinal)?;
        let program = Nvrtc::load(device.info().driver)?.kernels(&device.info().architecture())?;
        let kernels = Kernels::load(&device, &program)?;

        let cameras = faces.cameras.len().max(1);
        let most_frames = cameras.min(MAX_BATCH);
        let most_faces = (most_frames * faces.tracker.max_faces.max(1)).min(MAX_BATCH);
        let mut plan = DevicePlan::default();
        let look_plan = LookPlan::new(&mut plan, most_faces);
        let slot_bytes = upload::slot_bytes(faces);
        let slots: Vec<_> = (0..2 * most_frames).map(|_| plan.add("frames", slot_bytes)).collect();
        let pictures: BTreeSet<_> =
            faces.cameras.iter().map(|input| (input.layout.width, input.layout.height)).collect();
        let networks_made =
            2 * batches_up_to(most_faces).count() + pictures.len() * batches_up_to(most_frames).count();
        plan.reserve("ONNX Runtime and the networks", networks_made as u64 * NETWORK_BYTES);
        let mut made = plan.allocate(&device, REMEDY)?;

        let [uploads, detecting, looking] =
            [Stream::new(&device)?, Stream::new(&device)?, Stream::new(&device)?];
        let maker = Maker { device: &device, kernels: &kernels, runtime: &runtime, options };
        let looker = Looker::new(&maker, &looking, &networks, look_plan, &mut made)?;
        let mut finder = Finder::new(
            &device,
            DetectOptions {
                detector: faces.detector,
                size: faces.detector_size,
                max_side: faces.detector_max_side,
                score_threshold: faces.score_threshold,
                most_pictures: most_frames,
            },
        )?;
        let mut followed = Followed::new(faces.tracker, Arc::clone(&faces.track_ids));
        for input in &faces.cameras {
            let picture = [input.layout.width, input.layout.height];
            finder.prepare(&maker, &detecting, &networks.detector, picture)?;
            followed.camera(input.camera, picture);
        }
        let slots = slots
            .into_iter()
            .map(|planned| Ok(Slot::new(&device, made.take(planned)?, faces.tracker.max_faces)?))
            .collect::<Result<Vec<_>, MemoryError>>()?;
        let batch = || Batch::new(&device, most_frames, faces.tracker.max_faces.max(1), looker.most());
        let spare = (0..LANES).map(|_| batch()).collect::<Result<_, _>>()?;
        tracing::debug!(memory = ?device.memory()?, "the GPU's memory once all is made");
        Ok(Self {
            info: info(options, &device, &runtime, &networks),
            clock,
            options: options.clone(),
            followed,
            free: (0..slots.len()).rev().collect(),
            order: VecDeque::with_capacity(slots.len()),
            waiting: VecDeque::with_capacity(slots.len()),
            slots,
            to_forget: Vec::new(),
            under_way: VecDeque::with_capacity(LANES),
            spare,
            most_frames,
            is_broken: false,
            detections: Vec::with_capacity(super::abi::MAX_DETECTIONS),
            uploader: Uploader::new(uploads, ring_of),
            finder,
            looker,
            kernels,
            detecting,
            looking,
            networks,
            runtime,
            device,
        })
    }

    /// The GPU that it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where the time of the newest batch that is done went.
    ///
    /// # Errors
    /// What the driver says.
    pub fn stage_times(&self) -> Result<StageTimes, CallError> {
        let (Some(batch), Some([crop, landmarks, all])) = (self.spare.last(), self.looker.last_events())
        else {
            return Ok(StageTimes::default());
        };
        let Some(slot) = batch.slots.last().and_then(|&at| self.slots.get(at)) else {
            return Ok(StageTimes::default());
        };
        let detect = match batch.searched.is_empty() {
            true => 0.0,
            false => batch.found.done.millis_since(&batch.found.begun)?,
        };
        Ok(StageTimes {
            upload: slot.uploaded.millis_since(&slot.begun)?,
            detect,
            crop: crop.millis_since(&slot.uploaded)?,
            landmarks: landmarks.millis_since(crop)?,
            blendshapes: all.millis_since(landmarks)?,
            download: batch.done.millis_since(all)?,
        })
    }

    /// Makes progress on the batch that is the oldest, and gives the device another one first if there is one to give.
    fn advance(&mut self) -> Result<(), PipelineError> {
        while !self.spare.is_empty() && self.launch()? {}
        let Some(mut batch) = self.under_way.pop_front() else { return Ok(()) };
        let finished = self.finish(&mut batch);
        self.spare.push(batch);
        finished
    }

    /// Begins a batch with the oldest waiting frame of each camera that has none under way. False if there is none.
    fn launch(&mut self) -> Result<bool, PipelineError> {
        let Some(mut batch) = self.spare.pop() else { return Ok(false) };
        batch.clear();
        let Self { slots, waiting, under_way, most_frames, .. } = self;
        waiting.retain(|&at| {
            let camera = slots[at].meta.camera;
            let is_of = |&other: &usize| slots[other].meta.camera == camera;
            // A frame that stays behind keeps those behind it of its camera back, too: they are busy as well.
            let is_busy = under_way.iter().any(|batch| batch.slots.iter().any(is_of))
                || batch.slots.iter().any(is_of)
                || batch.slots.len() == *most_frames;
            if !is_busy {
                batch.slots.push(at);
            }
            is_busy
        });
        if batch.slots.is_empty() {
            self.spare.push(batch);
            return Ok(false);
        }
        let begun = self.begin(&mut batch);
        // Also when that failed: what was enqueued uses its memory.
        self.under_way.push_back(batch);
        begun.map(|()| true)
    }

    /// Enqueues all that can be enqueued without knowing what the detector says.
    fn begin(&mut self, batch: &mut Batch) -> Result<(), PipelineError> {
        for place in 0..batch.slots.len() {
            let at = batch.slots[place];
            let (meta, picture) = (self.slots[at].meta, self.slots[at].size());
            if !self.finder.is_prepared(picture) {
                self.prepare(picture)?;
            }
            if self.slots[at].forgets {
                self.followed.forget(meta.camera);
            }
            let camera = self.followed.camera(meta.camera, picture);
            let slot = &mut self.slots[at];
            slot.camera = camera;
            slot.result.detector_ran = self.followed.tracker(camera).begin(meta.seq);
            slot.result.over_limit = 0;
            if slot.result.detector_ran {
                batch.searched.push(place);
                self.detecting.wait_for(&slot.uploaded).map_err(|error| error.in_stage("detector"))?;
            }
            self.looking.wait_for(&slot.uploaded).map_err(|error| error.in_stage("landmarks"))?;
        }
        if !batch.searched.is_empty() {
            let mut pictures = [self.slots[batch.slots[0]].picture; MAX_BATCH];
            for (picture, &place) in pictures.iter_mut().zip(&batch.searched) {
                *picture = self.slots[batch.slots[place]].picture;
            }
            let pictures = &pictures[..batch.searched.len()];
            let launched = self.finder.launch(&self.detecting, &self.kernels, pictures, &mut batch.found);
            launched.map_err(|error| error.in_stage("detector"))?;
        }
        self.look(batch)?;
        self.looking.record(&batch.done).map_err(|error| error.in_stage("landmarks"))
    }

    /// Enqueues a look at every region of the batch's trackers that was not looked at yet. False if there was none.
    fn look(&mut self, batch: &mut Batch) -> Result<bool, PipelineError> {
        let first = batch.looks.len();
        for (frame, &at) in batch.slots.iter().enumerate() {
            for track in self.followed.tracker(self.slots[at].camera).tracks() {
                let roi = *track.roi();
                if !batch.looks[..first].iter().any(|look| look.frame == frame && look.roi == roi) {
                    batch.looks.push(Look {
                        frame,
                        roi,
                        at: (0, 0),
                        presence: 0.0,
                        head_pose: [[0.0; 4]; 4],
                    });
                }
            }
        }
        let mut pictures = [self.slots[batch.slots[0]].picture; MAX_BATCH];
        for (picture, &at) in pictures.iter_mut().zip(&batch.slots) {
            *picture = self.slots[at].picture;
        }
        let failed = |error: CallError| error.in_stage("landmarks");
        let Batch { slots, looks, looked, used, .. } = batch;
        for looks in looks[first..].chunks_mut(self.looker.most().max(1)) {
            if *used == looked.len() {
                let more = Looked::new(&self.device).map_err(|error| stage("landmarks", error))?;
                looked.push(more);
            }
            for (face, look) in looks.iter_mut().enumerate() {
                look.at = (*used, face);
            }
            let regions = looks.iter().map(|look| (look.roi, look.frame));
            let pictures = &pictures[..slots.len()];
            self.looker.launch(&self.looking, pictures, regions, &mut looked[*used]).map_err(failed)?;
            *used += 1;
        }
        Ok(looks.len() > first)
    }

    /// Waits for a batch and writes its frames' results.
    fn finish(&mut self, batch: &mut Batch) -> Result<(), PipelineError> {
        if !batch.searched.is_empty() {
            batch.found.done.synchronize().map_err(|error| error.in_stage("detector"))?;
            let kind = match self.options.faces.detector {
                Detector::YuNet => DetectorKind::YuNet,
                Detector::BlazeFaceShort | Detector::BlazeFaceFull => DetectorKind::BlazeFace,
            };
            for (picture, &place) in batch.searched.iter().enumerate() {
                self.detections.clear();
                batch.found.read(picture, kind, &mut self.detections);
                let slot = &mut self.slots[batch.slots[place]];
                slot.result.over_limit = self.followed.tracker(slot.camera).merge(&self.detections);
            }
            // Otherwise it would be done only when the batch behind it is.
            if self.look(batch)? {
                self.looking.record(&batch.done).map_err(|error| error.in_stage("landmarks"))?;
            }
        }
        batch.done.synchronize().map_err(|error| error.in_stage("landmarks"))?;
        if !batch.looked[..batch.used].iter().all(Looked::is_answered) {
            return Err(stage("landmarks", Fault::NoAnswer));
        }
        for (frame, &at) in batch.slots.iter().enumerate() {
            let slot = &mut self.slots[at];
            let [width, height] = slot.size();
            let threshold = self.options.faces.tracker.presence_threshold;
            for look in batch.looks.iter_mut().filter(|look| look.frame == frame) {
                let (looked, face) = (&batch.looked[look.at.0], look.at.1);
                look.presence = looked.presence(face);
                if look.presence >= threshold {
                    let depth_scale = mediapipe_depth_scale(look.roi.rotation, width, height);
                    match head_pose(looked.landmarks(face), width, height, depth_scale) {
                        Some(pose) => look.head_pose = pose,
                        // Points that are not finite, or all in one place, are no face.
                        None => look.presence = 0.0,
                    }
                }
            }
            let find =
                |roi: &Roi| batch.looks.iter().position(|look| look.frame == frame && look.roi == *roi);
            let seen = |at: usize| {
                let Look { at: (looked, face), presence, head_pose, .. } = &batch.looks[at];
                let looked = &batch.looked[*looked];
                let (landmarks, blendshapes) = (looked.landmarks(*face), looked.blendshapes(*face));
                let sharpness = Some(looked.sharpness(*face));
                Seen { presence: *presence, sharpness, landmarks, blendshapes, head_pose }
            };
            self.followed.publish(slot.camera, find, seen, &mut slot.result.faces);
            slot.result.meta = slot.meta;
            let times = slot.times(batch).map_err(|error| error.in_stage("landmarks"))?;
            slot.result.stamps = times.before(self.clock.now(), slot.submitted);
            slot.is_done = true;
        }
        Ok(())
    }

    /// Loads what pictures of an unannounced size need.
    fn prepare(&mut self, picture: [u32; 2]) -> Result<(), PipelineError> {
        let Self { finder, detecting, networks, device, kernels, runtime, options, .. } = self;
        let maker = Maker { device, kernels, runtime, options };
        let prepared = finder.prepare(&maker, detecting, &networks.detector, picture);
        prepared.map_err(|error| self.network_failed(error))
    }

    /// What a network's error means: another library's errors do not say whether the device is lost, the device does.
    fn network_failed(&self, error: NetworkError) -> PipelineError {
        match (error, self.device.synchronize()) {
            (NetworkError::Driver(error), _) | (_, Err(error)) => error.in_stage("detector"),
            (error, Ok(())) => stage("detector", error),
        }
    }
}

impl<F: Frame> Pipeline<F> for CudaPipeline<F> {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Begins the upload. A frame for which there is no room is given up.
    fn submit(&mut self, frame: F) {
        let Some(at) = self.free.pop() else { return };
        let slot = &mut self.slots[at];
        slot.begin(&frame, self.clock.now());
        match self.uploader.upload(&self.device, &frame, slot) {
            Ok(()) => {
                // Not with a frame that cannot be used: its camera is forgotten before the next one that can.
                let camera = slot.meta.camera;
                if let Some(place) = self.to_forget.iter().position(|&known| known == camera) {
                    self.to_forget.swap_remove(place);
                    slot.forgets = true;
                }
                self.waiting.push_back(at);
            }
            Err(error) => {
                slot.failed = Some(error);
                slot.is_done = true;
            }
        }
        slot.frame = Some(frame);
        self.order.push_back(at);
    }

    fn collect(&mut self, out: &mut FrameFaces) -> Option<(F, Result<(), PipelineError>)> {
        let &at = self.order.front()?;
        let mut result = Ok(());
        while result.is_ok() && !self.slots[at].is_done {
            result = match self.is_broken {
                true => Err(stage("landmarks", Fault::Broken)),
                false => self.advance(),
            };
            self.is_broken |= result.is_err();
        }
        self.order.pop_front();
        let slot = &mut self.slots[at];
        if let Some(error) = slot.failed.take() {
            result = Err(error);
        }
        if matches!(result, Err(PipelineError::Stage { .. } | PipelineError::DeviceLost { .. })) {
            self.is_broken = true;
            // The frame goes back to its camera: its upload must not be under way any more.
            wait_for_the_end(&self.device);
        } else {
            self.free.push(at);
        }
        std::mem::swap(out, &mut slot.result);
        Some((slot.frame.take()?, result))
    }

    fn forget(&mut self, camera: CameraId) {
        if !self.to_forget.contains(&camera) {
            self.to_forget.push(camera);
        }
    }
}

impl<F: Frame> Drop for CudaPipeline<F> {
    fn drop(&mut self) {
        // Frames go back to their rings after this: nothing may read them any more.
        wait_for_the_end(&self.device);
    }
}

/// Waits for all work, which nobody asks for any more. A device that is lost reads nothing.
fn wait_for_the_end(device: &Device) {
    if let Err(error) = device.synchronize() {
        tracing::debug!(%error, "the GPU's work ended with an error");
    }
}

impl Batch {
    fn new(
        device: &Device,
        most_frames: usize,
        max_faces: usize,
        at_a_time: usize,
    ) -> Result<Self, MemoryError> {
        // Every track may be looked at where it was and again where the detector saw it.
        let most_looks = most_frames * max_faces * 2;
        let looked = (0..most_looks.div_ceil(at_a_time.max(1)) + 1).map(|_| Looked::new(device));
        Ok(Self {
            slots: Vec::with_capacity(most_frames),
            searched: Vec::with_capacity(most_frames),
            found: Found::new(device)?,
            looks: Vec::with_capacity(most_looks),
            looked: looked.collect::<Result<_, _>>()?,
            used: 0,
            done: Event::new(device)?,
        })
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.searched.clear();
        self.looks.clear();
        self.used = 0;
    }
}

/// How long before its results were on the host a frame passed the stages on the device, milliseconds.
struct Times {
    uploaded: f32,
    detected: f32,
}

impl<F> Slot<F> {
    fn times(&self, batch: &Batch) -> Result<Times, CallError> {
        let uploaded = batch.done.millis_since(&self.uploaded)?;
        let detected = match self.result.detector_ran {
            true => batch.done.millis_since(&batch.found.done)?,
            false => uploaded,
        };
        Ok(Times { uploaded, detected })
    }
}

impl Times {
    /// The stages on the clock of the host, which noticed the last of them `now`.
    fn before(&self, now: Timestamp, submitted: Timestamp) -> Stamps {
        let ago = |millis: f32| {
            let stamp = now - std::time::Duration::from_nanos((f64::from(millis.max(0.0)) * 1e6) as u64);
            stamp.max(submitted)
        };
        let uploaded = ago(self.uploaded);
        Stamps {
            submitted,
            uploaded,
            detected: ago(self.detected).max(uploaded),
            landmarks: now,
            ..Stamps::default()
        }
    }
}

fn stage(stage: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PipelineError {
    PipelineError::Stage { stage, source: source.into() }
}

fn info(options: &CudaOptions, device: &Device, runtime: &Runtime, networks: &Networks) -> BackendInfo {
    let of = device.info();
    let (backend, provider) = match options.provider {
        Provider::Cuda => ("cuda", "CUDA"),
        Provider::TensorRt { .. } => ("tensorrt", "TensorRT"),
    };
    BackendInfo {
        backend,
        device: format!("{} (GPU {}, driver for CUDA {})", of.name, of.ordinal, of.driver),
        runtime: format!("ONNX Runtime {} ({provider}, {})", runtime.version(), options.precision),
        models: networks.identities(),
        reason: options.reason.clone(),
    }
}
