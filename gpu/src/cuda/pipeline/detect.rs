//! Looking for faces on the device: from whole pictures to detections, up to sixteen pictures at a time.
//!
//! Owns the detector's networks, and for each batch size and size of input one graph that runs input, network and decoding
//! without the host; suppression follows once for all pictures. All of it runs on one stream. Never knows cameras or tracks.

#![allow(
    unsafe_code,
    reason = "kernels and networks follow device addresses, which are this module's own buffers"
)]

use youquanti_models::blazeface::BlazeFace;
use youquanti_models::yunet::{self, DetectorPlan, STRIDES};
use youquanti_models::{Box2, Detection, DetectorKind, blazeface};

use super::super::abi::{
    self, Candidates, Detections, DetectorTile, Frame, MAX_CANDIDATES, NO_FRAME, ShrinkAxis, ShrinkTile,
    YunetOutputs,
};
use super::super::device::{CallError, Device};
use super::super::launch::{Event, Graph, Kernels, Stream};
use super::super::memory::{DeviceBuffer, DevicePtr, MemoryError, PinnedBuffer, Plain};
use super::super::network::{DeviceTensor, Model, Network, NetworkError, OrtNetwork, batches_up_to};
use super::{MAX_BATCH, Maker};
use crate::cpu::shrink::{Axis, Shrink};
use crate::networks::NetworkBytes;
use crate::options::{Detector, DetectorSize};

/// What the host says of a batch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct DetectTables {
    frames: [Frame; MAX_BATCH],
    shrinks: [ShrinkTile; MAX_BATCH],
    tiles: [DetectorTile; MAX_BATCH],
}

// SAFETY: structs of numbers and device addresses; what lies between them at the end is nobody's.
unsafe impl Plain for DetectTables {}

/// A view that shows nothing.
const NO_TILE: (ShrinkTile, DetectorTile) = {
    let axis = ShrinkAxis { first: DevicePtr::NULL, weights: DevicePtr::NULL, taps: 0, len: 0 };
    (
        ShrinkTile { columns: axis, rows: axis, frame: NO_FRAME, reserved: 0 },
        DetectorTile { source: [0.0; 4], content: [0; 2], cut: 0, frame: NO_FRAME, index: 0 },
    )
};

/// What to look for, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct DetectOptions {
    pub(super) detector: Detector,
    pub(super) size: DetectorSize,
    /// Longest side of an input, pixels.
    pub(super) max_side: u32,
    pub(super) score_threshold: f32,
    /// Pictures in one go, at most [`MAX_BATCH`].
    pub(super) most_pictures: usize,
}

/// See the module.
pub(super) struct Finder {
    options: DetectOptions,
    // Before the buffers that their work uses.
    inputs: Vec<Input>,
    views: Vec<Views>,
    blazeface: BlazeFace,
    anchors: DeviceBuffer<f32>,
    tables: DeviceBuffer<DetectTables>,
    counts: DeviceBuffer<u32>,
    candidates: DeviceBuffer<abi::Detection>,
    detections: DeviceBuffer<Detections>,
}

/// How pictures of one size are looked at.
struct Views {
    picture: [u32; 2],
    /// Index of the input that its tiles are shrunk to.
    input: usize,
    tiles: Vec<(ShrinkTile, DetectorTile)>,
    _axes: Vec<(DeviceBuffer<u32>, DeviceBuffer<u16>)>,
}

/// A size of the network's input, for which networks are loaded.
struct Input {
    /// Width and height, pixels.
    size: [u32; 2],
    by_batch: Vec<(usize, Graph, Box<dyn Network>)>,
    _memory: Vec<DeviceBuffer<f32>>,
}

impl Finder {
    /// Makes its buffers; networks are loaded by [`Self::prepare`].
    pub(super) fn new(device: &Device, options: DetectOptions) -> Result<Self, MemoryError> {
        let blazeface = match options.detector {
            Detector::BlazeFaceFull => BlazeFace::full(),
            Detector::BlazeFaceShort | Detector::YuNet => BlazeFace::short(),
        };
        let mut anchors = DeviceBuffer::new(device, "anchors", blazeface.anchor_count() * 2)?;
        anchors.write(blazeface.anchors().as_flattened())?;
        Ok(Self {
            options,
            inputs: Vec::new(),
            views: Vec::new(),
            blazeface,
            anchors,
            tables: DeviceBuffer::new(device, "the detector's tables", 1)?,
            counts: DeviceBuffer::new(device, "counts of candidates", MAX_BATCH)?,
            candidates: DeviceBuffer::new(device, "candidates", MAX_BATCH * MAX_CANDIDATES)?,
            detections: DeviceBuffer::new(device, "detections", MAX_BATCH)?,
        })
    }

    /// Whether pictures of this width and height can be looked at.
    pub(super) fn is_prepared(&self, picture: [u32; 2]) -> bool {
        match self.options.detector {
            Detector::YuNet => self.views.iter().any(|views| views.picture == picture),
            Detector::BlazeFaceShort | Detector::BlazeFaceFull => !self.inputs.is_empty(),
        }
    }

    /// Loads what is needed to look at pictures of this width and height: seconds for each batch size of a new size of
    /// input. Waits for the device.
    pub(super) fn prepare(
        &mut self,
        maker: &Maker<'_>,
        stream: &Stream,
        network: &NetworkBytes,
        picture: [u32; 2],
    ) -> Result<(), NetworkError> {
        if self.is_prepared(picture) {
            return Ok(());
        }
        // Work under way reads what may move now.
        stream.synchronize()?;
        if self.options.detector != Detector::YuNet {
            let input = self.blazeface_input(maker, stream, network)?;
            self.inputs.push(input);
            return Ok(());
        }
        let device = maker.device;
        let smallest = self.options.size.smallest_face(picture[0]);
        let plan = DetectorPlan::new(picture[0], picture[1], smallest, self.options.max_side);
        let size = [plan.input_width, plan.input_height];
        let input = match self.inputs.iter().position(|input| input.size == size) {
            Some(known) => known,
            None => {
                let most = plan.tiles.len() * self.options.most_pictures;
                let input = self.yunet_input(maker, stream, network, size, most)?;
                self.inputs.push(input);
                self.inputs.len() - 1
            }
        };
        let (mut tiles, mut axes) = (Vec::new(), Vec::new());
        for (index, tile) in plan.tiles.iter().enumerate() {
            let shrink = Shrink::new(&plan, tile, picture);
            let mut axis = |axis: &Axis| -> Result<ShrinkAxis, MemoryError> {
                let len = axis.first().len();
                let mut first = DeviceBuffer::new(device, "the detector's columns and rows", len)?;
                let mut weights = DeviceBuffer::new(device, "the detector's weights", axis.weights().len())?;
                first.write(axis.first())?;
                weights.write(axis.weights())?;
                let (taps, len) = (axis.taps() as u32, len as u32);
                let made = ShrinkAxis { first: first.ptr(), weights: weights.ptr(), taps, len };
                axes.push((first, weights));
                Ok(made)
            };
            let (columns, rows) = (axis(shrink.columns())?, axis(shrink.rows())?);
            let Box2 { x0, y0, x1, y1 } = tile.source;
            let cut = tile.cut.iter().enumerate().map(|(bit, &cut)| u32::from(cut) << bit).sum();
            tiles.push((
                ShrinkTile { columns, rows, frame: NO_FRAME, reserved: 0 },
                DetectorTile {
                    source: [x0, y0, x1, y1],
                    content: tile.content,
                    cut,
                    frame: NO_FRAME,
                    index: index as u32,
                },
            ));
        }
        self.views.push(Views { picture, input, tiles, _axes: axes });
        Ok(())
    }

    fn yunet_input(
        &self,
        maker: &Maker<'_>,
        stream: &Stream,
        network: &NetworkBytes,
        [width, height]: [u32; 2],
        most_tiles: usize,
    ) -> Result<Input, NetworkError> {
        const KINDS: [([&str; 3], usize); 4] = [
            (["cls_8", "cls_16", "cls_32"], 1),
            (["obj_8", "obj_16", "obj_32"], 1),
            (["bbox_8", "bbox_16", "bbox_32"], 4),
            (["kps_8", "kps_16", "kps_32"], 10),
        ];
        let &Maker { device, kernels, runtime, .. } = maker;
        let largest = batches_up_to(most_tiles).next_back().unwrap_or(1);
        let [columns, rows] = [width, height].map(|side| side as usize);
        let mut memory =
            vec![DeviceBuffer::new(device, "the detector's input", largest * 3 * rows * columns)?];
        let mut outputs = [[DevicePtr::NULL; 3]; 4];
        let cells = STRIDES.map(|stride| (columns / stride as usize) * (rows / stride as usize));
        for (kind, (_, values)) in KINDS.iter().enumerate() {
            for (at, cells) in cells.iter().enumerate() {
                let output = DeviceBuffer::new(device, "the detector's outputs", largest * cells * values)?;
                outputs[kind][at] = output.ptr();
                memory.push(output);
            }
        }
        let [class, object, bbox, keypoints] = outputs;
        let decoded = YunetOutputs { class, object, bbox, keypoints };
        let sizes = [
            ("W", i64::from(width)),
            ("H", i64::from(height)),
            ("A8", cells[0] as i64),
            ("A16", cells[1] as i64),
            ("A32", cells[2] as i64),
        ];
        let (frames, shrinks, tiles) = self.tables();
        let mut by_batch = Vec::new();
        for batch in batches_up_to(most_tiles) {
            let mut tensors = Vec::new();
            for (kind, (names, values)) in KINDS.iter().enumerate() {
                for (at, name) in names.iter().enumerate() {
                    let shape = vec![batch, cells[at], *values];
                    tensors.push(DeviceTensor { name, pointer: outputs[kind][at], shape });
                }
            }
            let pointer = memory[0].ptr();
            let input = DeviceTensor { name: "image", pointer, shape: vec![batch, 3, rows, columns] };
            let model = Model { id: network.id, onnx: &network.onnx, sizes: &sizes };
            let options = maker.network(network.id);
            // SAFETY: `memory` is dropped after the network and was made for the largest batch; the stream outlives both.
            let loaded = unsafe { OrtNetwork::load(runtime, &options, stream, &model, input, tensors) };
            let mut network: Box<dyn Network> = Box::new(loaded?);
            let (count, size) = (batch as u32, [width, height]);
            let graph = stream.capture(|stream| -> Result<(), NetworkError> {
                // SAFETY: the tables name views of pictures on the device only, or none; the rest is `memory`.
                unsafe { kernels.shrink(stream, frames, shrinks, count, size, pointer) }?;
                network.run(stream)?;
                let (threshold, to) = (self.options.score_threshold, self.candidates());
                // SAFETY: as above, and the lists of candidates are this one's.
                unsafe { kernels.decode_yunet(stream, decoded, tiles, count, size, threshold, to) }?;
                Ok(())
            })?;
            by_batch.push((batch, graph, network));
        }
        Ok(Input { size: [width, height], by_batch, _memory: memory })
    }

    fn blazeface_input(
        &self,
        maker: &Maker<'_>,
        stream: &Stream,
        network: &NetworkBytes,
    ) -> Result<Input, NetworkError> {
        let &Maker { device, kernels, runtime, .. } = maker;
        let largest = batches_up_to(self.options.most_pictures).next_back().unwrap_or(1);
        let (side, anchors) = (self.blazeface.input_size(), self.blazeface.anchor_count());
        let pixels = (side * side) as usize;
        let memory = vec![
            DeviceBuffer::new(device, "the detector's input", largest * 3 * pixels)?,
            DeviceBuffer::new(device, "the detector's boxes", largest * anchors * 16)?,
            DeviceBuffer::new(device, "the detector's scores", largest * anchors)?,
        ];
        let [input, regressors, scores] = [0, 1, 2].map(|at: usize| memory[at].ptr());
        let (frames, ..) = self.tables();
        let mut by_batch = Vec::new();
        for batch in batches_up_to(self.options.most_pictures) {
            let tensor =
                |name, pointer, shape: &[usize]| DeviceTensor { name, pointer, shape: shape.to_vec() };
            let sides = [batch, 3, side as usize, side as usize];
            let outputs = vec![
                tensor("regressors", regressors, &[batch, anchors, 16]),
                tensor("scores", scores, &[batch, anchors, 1]),
            ];
            let model = Model { id: network.id, onnx: &network.onnx, sizes: &[] };
            let (options, input_tensor) = (maker.network(network.id), tensor("image", input, &sides));
            // SAFETY: `memory` is dropped after the network and was made for the largest batch; the stream outlives both.
            let loaded =
                unsafe { OrtNetwork::load(runtime, &options, stream, &model, input_tensor, outputs) };
            let mut network: Box<dyn Network> = Box::new(loaded?);
            let count = batch as u32;
            let graph = stream.capture(|stream| -> Result<(), NetworkError> {
                // SAFETY: the table names pictures on the device; the rest is `memory`.
                unsafe { kernels.letterbox(stream, frames, count, side, input) }?;
                network.run(stream)?;
                // SAFETY: as above, and the lists of candidates are this one's.
                unsafe {
                    kernels.decode_blazeface(
                        stream,
                        [regressors, scores],
                        self.anchors.ptr(),
                        anchors as u32,
                        frames,
                        count,
                        side,
                        self.options.score_threshold,
                        self.candidates(),
                    )
                }?;
                Ok(())
            })?;
            by_batch.push((batch, graph, network));
        }
        Ok(Input { size: [side; 2], by_batch, _memory: memory })
    }

    fn tables(&self) -> (DevicePtr<Frame>, DevicePtr<ShrinkTile>, DevicePtr<DetectorTile>) {
        let frames = self.tables.ptr().cast::<Frame>();
        let shrinks = frames.add(MAX_BATCH).cast::<ShrinkTile>();
        (frames, shrinks, shrinks.add(MAX_BATCH).cast())
    }

    fn candidates(&self) -> Candidates {
        Candidates { counts: self.counts.ptr(), items: self.candidates.ptr() }
    }

    /// Enqueues a search of these pictures, at least one and at most [`MAX_BATCH`], all of them prepared for. `out` is
    /// complete when its event has happened, and is not touched until then.
    pub(super) fn launch(
        &mut self,
        stream: &Stream,
        kernels: &Kernels,
        pictures: &[Frame],
        out: &mut Found,
    ) -> Result<(), CallError> {
        out.used = 0;
        stream.record(&out.begun)?;
        let searched = match self.options.detector {
            Detector::YuNet => {
                for input in 0..self.inputs.len() {
                    self.launch_yunet(input, stream, pictures, out)?;
                }
                pictures.len()
            }
            Detector::BlazeFaceShort | Detector::BlazeFaceFull => {
                self.launch_blazeface(stream, pictures, out)?
            }
        };
        let (weighted, iou) = match self.options.detector {
            Detector::YuNet => (false, yunet::NMS_IOU),
            Detector::BlazeFaceShort | Detector::BlazeFaceFull => (true, blazeface::NMS_IOU),
        };
        let (from, to) = (self.candidates(), self.detections.ptr());
        // SAFETY: there are lists for `MAX_BATCH` pictures.
        unsafe { kernels.suppress(stream, from, searched as u32, weighted, iou, to) }?;
        // SAFETY: as above, and `out` is left alone until the caller has waited for its event.
        unsafe { stream.download(to, &mut out.detections, pictures.len()) }?;
        stream.record(&out.done)
    }

    /// Runs all tiles of the pictures that are shrunk to this input.
    fn launch_yunet(
        &self,
        input: usize,
        stream: &Stream,
        pictures: &[Frame],
        out: &mut Found,
    ) -> Result<(), CallError> {
        let most = self.inputs[input].by_batch.last().map_or(1, |&(batch, ..)| batch);
        let mut filled = 0;
        for (index, picture) in pictures.iter().enumerate() {
            let size = [picture.width, picture.height];
            let views = self.views.iter().find(|views| views.input == input && views.picture == size);
            for &(mut shrink, mut tile) in views.map_or(&[][..], |views| &views.tiles) {
                (shrink.frame, tile.frame) = (index as u32, index as u32);
                let tables = out.tables(stream, pictures)?;
                (tables.shrinks[filled], tables.tiles[filled]) = (shrink, tile);
                filled += 1;
                if filled == most {
                    self.launch_batch(input, filled, stream, out)?;
                    filled = 0;
                }
            }
        }
        if filled > 0 { self.launch_batch(input, filled, stream, out) } else { Ok(()) }
    }

    /// How many lists of candidates were written, padding included.
    fn launch_blazeface(
        &self,
        stream: &Stream,
        pictures: &[Frame],
        out: &mut Found,
    ) -> Result<usize, CallError> {
        let tables = out.tables(stream, pictures)?;
        // Padding is a picture like others; nobody reads what is found in it.
        tables.frames[pictures.len()..].fill(pictures[0]);
        self.launch_batch(0, pictures.len(), stream, out)?;
        Ok(MAX_BATCH)
    }

    /// Uploads the tables that are being filled and runs the network on `count` views.
    fn launch_batch(
        &self,
        input: usize,
        count: usize,
        stream: &Stream,
        out: &mut Found,
    ) -> Result<(), CallError> {
        let Some((batch, graph, _)) = self.inputs[input].by_batch.iter().find(|(batch, ..)| *batch >= count)
        else {
            return Err(CallError { call: "cuGraphLaunch", code: 1 });
        };
        let at = out.used;
        let tables = &mut out.tables[at];
        for index in count..*batch {
            (tables.shrinks[index], tables.tiles[index]) = NO_TILE;
        }
        out.used += 1;
        // SAFETY: the tables are page-locked, fit, and are left alone until the caller has waited for `out.done`.
        unsafe { stream.upload(&out.tables[at..=at], self.tables.ptr()) }?;
        // SAFETY: the graph's memory is this one's and that of pictures, which stay where they are while they are searched.
        unsafe { graph.launch(stream) }
    }
}

/// A search of up to [`MAX_BATCH`] pictures: what went up for it, and what came down.
pub(super) struct Found {
    /// One for each batch.
    tables: PinnedBuffer<DetectTables>,
    /// Those that were given to the stream.
    used: usize,
    detections: PinnedBuffer<Detections>,
    /// On the device: when the search began, and when everything was down.
    pub(super) begun: Event,
    pub(super) done: Event,
}

/// Batches of a search that tables are made for; more are possible, and wait for the device.
const TABLES: usize = 16;

impl Found {
    pub(super) fn new(device: &Device) -> Result<Self, MemoryError> {
        Ok(Self {
            tables: PinnedBuffer::new(device, "the detector's tables", TABLES)?,
            used: 0,
            detections: PinnedBuffer::new(device, "detections", MAX_BATCH)?,
            begun: Event::new(device)?,
            done: Event::new(device)?,
        })
    }

    /// The tables to be filled next.
    fn tables(&mut self, stream: &Stream, pictures: &[Frame]) -> Result<&mut DetectTables, CallError> {
        if self.used == TABLES {
            stream.synchronize()?;
            self.used = 0;
        }
        let tables = &mut self.tables[self.used];
        tables.frames[..pictures.len()].copy_from_slice(pictures);
        Ok(tables)
    }

    /// What was found in a picture, best first, appended to `to`.
    pub(super) fn read(&self, picture: usize, kind: DetectorKind, to: &mut Vec<Detection>) {
        let found = &self.detections[picture];
        let items = &found.items[..(found.stored as usize).min(found.items.len())];
        to.extend(items.iter().map(|item| {
            let [x0, y0, x1, y1] = item.bbox;
            Detection { kind, score: item.score, bbox: Box2 { x0, y0, x1, y1 }, keypoints: item.keypoints }
        }));
    }
}
