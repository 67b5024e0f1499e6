//! Looking at faces on the device: from regions of pictures to landmarks, boxes and blendshapes, sixteen regions at a time.
//!
//! Owns the landmark and blendshape networks, one of each for every batch size, and one graph for each size that runs crop,
//! landmarks, projection and blendshapes without the host. All sizes share one set of buffers: they run one after another, on
//! one stream. Never knows whose face it is.

#![allow(
    unsafe_code,
    reason = "kernels and networks follow device addresses, which are this module's own buffers"
)]

use youquanti_models::{BLENDSHAPE_COUNT, LANDMARK_COUNT, Roi, blendshapes};

use super::super::abi::{
    BLENDSHAPE_POINTS, CROP, FaceHead, FaceSlot, FacesHeader, FacesOut, Frame, LANDMARKS,
};
use super::super::device::{CallError, Device};
use super::super::launch::{Event, Graph, Stream};
use super::super::memory::{
    Allocation, DeviceBuffer, DevicePlan, DevicePtr, MemoryError, PinnedBuffer, Plain, Planned,
};
use super::super::network::{DeviceTensor, Model, Network, NetworkError, OrtNetwork, batches_up_to};
use super::{MAX_BATCH, Maker};
use crate::networks::{NetworkBytes, Networks};

/// Numbers of a face in the results: head, landmarks, blendshapes.
const HEAD: usize = size_of::<FaceHead>() / size_of::<f32>();
const POINTS: usize = LANDMARKS * 3;
/// Numbers before the first head.
const HEADER: usize = size_of::<FacesHeader>() / size_of::<f32>();

/// Numbers that come down for a batch: header, heads, landmarks, blendshapes, sharpness, each for all faces.
const fn result_len(batch: usize) -> usize {
    sharpness_at(batch) + batch
}

/// Where sharpness begins in them.
const fn sharpness_at(batch: usize) -> usize {
    HEADER + batch * (HEAD + POINTS + BLENDSHAPE_COUNT)
}

/// What the host says of a batch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct FaceTables {
    frames: [Frame; MAX_BATCH],
    slots: [FaceSlot; MAX_BATCH],
}

// SAFETY: structs of numbers and device addresses, with no gaps.
unsafe impl Plain for FaceTables {}

/// Buffers of a [`Looker`] before they are made.
pub(super) struct LookPlan {
    most_faces: usize,
    tables: Planned<FaceTables>,
    crops: Planned<f32>,
    landmarks: Planned<f32>,
    presence: Planned<f32>,
    next: Planned<FaceSlot>,
    points: Planned<f32>,
    subset: Planned<u32>,
    results: Planned<f32>,
}

impl LookPlan {
    /// For at most `most_faces` in one go, 1 to [`MAX_BATCH`].
    pub(super) fn new(plan: &mut DevicePlan, most_faces: usize) -> Self {
        let largest = batches_up_to(most_faces).next_back().unwrap_or(1);
        Self {
            most_faces,
            tables: plan.add("tables", 1),
            crops: plan.add("crops of faces", largest * 3 * CROP * CROP),
            landmarks: plan.add("landmarks", largest * POINTS),
            presence: plan.add("presence", largest),
            next: plan.add("regions", largest),
            points: plan.add("points for blendshapes", largest * BLENDSHAPE_POINTS * 2),
            subset: plan.add("names of points", BLENDSHAPE_POINTS),
            results: plan.add("results", result_len(largest)),
        }
    }
}

/// See the module.
pub(super) struct Looker {
    // Before the buffers that their work uses.
    by_batch: Vec<Batch>,
    memory: Memory,
    last: Option<usize>,
}

struct Memory {
    tables: DeviceBuffer<FaceTables>,
    crops: DeviceBuffer<f32>,
    landmarks: DeviceBuffer<f32>,
    presence: DeviceBuffer<f32>,
    next: DeviceBuffer<FaceSlot>,
    points: DeviceBuffer<f32>,
    subset: DeviceBuffer<u32>,
    results: DeviceBuffer<f32>,
}

/// One batch size.
struct Batch {
    size: usize,
    // Before the networks, whose memory its work uses.
    graph: Graph,
    /// When crops, landmarks and everything were done, at the last launch.
    done: [Event; 3],
    _networks: [Box<dyn Network>; 2],
}

impl Looker {
    /// Takes its buffers, loads the networks and captures the graphs: seconds for each batch size.
    pub(super) fn new(
        maker: &Maker<'_>,
        stream: &Stream,
        networks: &Networks,
        plan: LookPlan,
        made: &mut Allocation,
    ) -> Result<Self, NetworkError> {
        let &Maker { device, kernels, runtime, options } = maker;
        let presence_threshold = options.faces.tracker.presence_threshold;
        let most_faces = plan.most_faces;
        let mut memory = Memory::take(plan, made)?;
        memory.subset.write(&blendshapes::SUBSET_146.map(|point| point as u32))?;
        let (beside, cropped, measured) = (Stream::new(device)?, Event::new(device)?, Event::new(device)?);
        let mut by_batch = Vec::new();
        for size in batches_up_to(most_faces) {
            let out = memory.out(size);
            let coefficients = memory.results.ptr().add(sharpness_at(size) - size * BLENDSHAPE_COUNT);
            let sharpness = memory.results.ptr().add(sharpness_at(size));
            let tensor =
                |name, pointer, shape: &[usize]| DeviceTensor { name, pointer, shape: shape.to_vec() };
            // SAFETY: the buffers are dropped after the networks and hold as many values; the stream outlives them all.
            let load = |network: &NetworkBytes, input, outputs| unsafe {
                let model = Model { id: network.id, onnx: &network.onnx, sizes: &[] };
                OrtNetwork::load(runtime, &maker.network(network.id), stream, &model, input, outputs)
            };
            let mut landmark_network: Box<dyn Network> = Box::new(load(
                &networks.landmarks,
                tensor("image", memory.crops.ptr(), &[size, 3, CROP, CROP]),
                vec![
                    tensor("landmarks", memory.landmarks.ptr(), &[size, LANDMARKS, 3]),
                    tensor("presence", memory.presence.ptr(), &[size, 1]),
                ],
            )?);
            let mut blendshape_network: Box<dyn Network> = Box::new(load(
                &networks.blendshapes,
                tensor("points", out.blendshape_points, &[size, BLENDSHAPE_POINTS, 2]),
                vec![tensor("blendshapes", coefficients, &[size, BLENDSHAPE_COUNT])],
            )?);
            let done = [Event::new(device)?, Event::new(device)?, Event::new(device)?];
            let count = size as u32;
            let graph = stream.capture(|stream| -> Result<(), NetworkError> {
                let (frames, slots) = memory.tables();
                // SAFETY: the kernels' memory is `memory`, made for at least `size` faces.
                unsafe { kernels.crop_faces(stream, frames, slots, count, memory.crops.ptr()) }?;
                stream.mark(&done[0])?;
                // Beside the network, which takes longer.
                stream.record(&cropped)?;
                beside.wait_for(&cropped)?;
                // SAFETY: as above.
                unsafe { kernels.sharpness(&beside, memory.crops.ptr(), slots, count, sharpness) }?;
                beside.record(&measured)?;
                landmark_network.run(stream)?;
                stream.mark(&done[1])?;
                let seen = [memory.landmarks.ptr(), memory.presence.ptr()];
                let subset = memory.subset.ptr();
                // SAFETY: as above.
                unsafe { kernels.faces(stream, seen, slots, count, presence_threshold, subset, out) }?;
                blendshape_network.run(stream)?;
                stream.wait_for(&measured)?;
                Ok(stream.mark(&done[2])?)
            })?;
            by_batch.push(Batch { size, graph, done, _networks: [landmark_network, blendshape_network] });
        }
        Ok(Self { by_batch, memory, last: None })
    }

    /// The most regions that [`Self::launch`] takes.
    pub(super) fn most(&self) -> usize {
        self.by_batch.last().map_or(0, |batch| batch.size)
    }

    /// Enqueues a look at these regions, at least one and at most [`Self::most`], each in the frame with that index in
    /// `frames`. `out` is complete when the stream is past this, and is not touched until then.
    pub(super) fn launch(
        &mut self,
        stream: &Stream,
        frames: &[Frame],
        regions: impl ExactSizeIterator<Item = (Roi, usize)>,
        out: &mut Looked,
    ) -> Result<(), CallError> {
        let count = regions.len();
        let Some(at) = self.by_batch.iter().position(|batch| batch.size >= count) else {
            return Err(CallError { call: "cuGraphLaunch", code: 1 });
        };
        let tables = &mut out.tables[0];
        tables.frames[..frames.len()].copy_from_slice(frames);
        tables.slots.fill(FaceSlot::PADDING);
        for (slot, (roi, frame)) in tables.slots.iter_mut().zip(regions) {
            *slot = FaceSlot::new(&roi, frame as u32);
        }
        let batch = &self.by_batch[at];
        // SAFETY: the tables are page-locked and belong to a look that is under way, which leaves them alone; they fit.
        unsafe { stream.upload(&out.tables, self.memory.tables.ptr()) }?;
        // SAFETY: the graph's memory is this one's, and all of it is used on one stream.
        unsafe { batch.graph.launch(stream) }?;
        // SAFETY: `results` has room for the largest batch, and `out` is left alone until the caller has waited.
        unsafe { stream.download(self.memory.results.ptr(), &mut out.results, result_len(batch.size)) }?;
        (out.size, out.count) = (batch.size, count);
        self.last = Some(at);
        Ok(())
    }

    /// When the last launch was done with crops, with landmarks, and with everything but the way down.
    pub(super) fn last_events(&self) -> Option<&[Event; 3]> {
        Some(&self.by_batch.get(self.last?)?.done)
    }
}

impl Memory {
    fn take(plan: LookPlan, made: &mut Allocation) -> Result<Self, MemoryError> {
        Ok(Self {
            tables: made.take(plan.tables)?,
            crops: made.take(plan.crops)?,
            landmarks: made.take(plan.landmarks)?,
            presence: made.take(plan.presence)?,
            next: made.take(plan.next)?,
            points: made.take(plan.points)?,
            subset: made.take(plan.subset)?,
            results: made.take(plan.results)?,
        })
    }

    fn tables(&self) -> (DevicePtr<Frame>, DevicePtr<FaceSlot>) {
        let frames = self.tables.ptr().cast::<Frame>();
        (frames, frames.add(MAX_BATCH).cast())
    }

    /// Where a batch's results go.
    fn out(&self, size: usize) -> FacesOut {
        let start = self.results.ptr();
        FacesOut {
            header: start.cast(),
            next: self.next.ptr(),
            heads: start.add(HEADER).cast(),
            landmarks: start.add(HEADER + size * HEAD),
            blendshape_points: self.points.ptr(),
        }
    }
}

/// A look at up to [`MAX_BATCH`] regions: what went up for it, and what came down.
pub(super) struct Looked {
    tables: PinnedBuffer<FaceTables>,
    results: PinnedBuffer<f32>,
    size: usize,
    count: usize,
}

impl Looked {
    pub(super) fn new(device: &Device) -> Result<Self, MemoryError> {
        Ok(Self {
            tables: PinnedBuffer::new(device, "tables", 1)?,
            results: PinnedBuffer::new(device, "results", result_len(MAX_BATCH))?,
            size: 0,
            count: 0,
        })
    }

    /// Whether what came down is the answer to what went up.
    pub(super) fn is_answered(&self) -> bool {
        let [slots, active] = [0, 1].map(|at| self.results[at].to_bits() as usize);
        slots == self.size && active == self.count
    }

    /// 0 to 1, or NaN.
    pub(super) fn presence(&self, face: usize) -> f32 {
        self.results[HEADER + face * HEAD]
    }

    /// See [`youquanti_models::Face::sharpness`].
    pub(super) fn sharpness(&self, face: usize) -> f32 {
        self.results[sharpness_at(self.size) + face]
    }

    /// Picture pixels.
    pub(super) fn landmarks(&self, face: usize) -> &[[f32; 3]; LANDMARK_COUNT] {
        let start = HEADER + self.size * HEAD + face * POINTS;
        let (points, _) = self.results[start..start + POINTS].as_chunks::<3>();
        points.first_chunk().unwrap_or(&[[f32::NAN; 3]; LANDMARK_COUNT])
    }

    /// 0 to 1.
    pub(super) fn blendshapes(&self, face: usize) -> &[f32; BLENDSHAPE_COUNT] {
        let start = HEADER + self.size * (HEAD + POINTS) + face * BLENDSHAPE_COUNT;
        self.results[start..].first_chunk().unwrap_or(&[f32::NAN; BLENDSHAPE_COUNT])
    }
}
