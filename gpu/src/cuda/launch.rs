//! Work for the device: streams, events, the kernels with typed arguments, and graphs of them.
//!
//! Nothing here waits unless it says so, and nothing allocates once it is made. Launching is unsafe: what a kernel reads and
//! writes is known only to who made its tables.

#![allow(unsafe_code, reason = "the driver is C, and kernels follow the pointers that they are given")]

use std::ffi::{CStr, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use cudarc::driver::sys;

use super::abi::{
    Candidates, Detections, DetectorTile, FaceSlot, FacesOut, Frame, MAX_CANDIDATES, ShrinkTile, YunetOutputs,
};
use super::compile::Cubin;
use super::device::{CallError, Context, Device};
use super::memory::{DevicePtr, PinnedBuffer, Plain};

/// Work that is done in the order in which it is given. Independent of other streams, the default one included.
pub struct Stream {
    context: Rc<Context>,
    raw: sys::CUstream,
}

impl Stream {
    /// A new one.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self, CallError> {
        let context = Rc::clone(device.context());
        let (mut raw, flags) = (std::ptr::null_mut(), sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32);
        // SAFETY: the context is current; the pointer is to a stream.
        context.call("cuStreamCreate", || unsafe { sys::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Self { context, raw })
    }

    /// The driver's handle, for a runtime that works on this stream. Lives as long as this.
    pub fn raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// Whether what it is given is being taken down for a graph.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_captured(&self) -> Result<bool, CallError> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream lives.
        let ask = || unsafe { sys::cuStreamIsCapturing(self.raw, &raw mut status) };
        self.context.call("cuStreamIsCapturing", ask)?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Waits for all work given so far.
    ///
    /// # Errors
    /// Also those of the work.
    pub fn synchronize(&self) -> Result<(), CallError> {
        // SAFETY: the stream lives.
        self.context.call("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Holds what is given from now on back until the event has happened.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait_for(&self, event: &Event) -> Result<(), CallError> {
        // SAFETY: both live.
        self.context.call("cuStreamWaitEvent", || unsafe { sys::cuStreamWaitEvent(self.raw, event.raw, 0) })
    }

    /// Lets the event happen when all work given so far is done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self, event: &Event) -> Result<(), CallError> {
        // SAFETY: both live.
        self.context.call("cuEventRecord", || unsafe { sys::cuEventRecord(event.raw, self.raw) })
    }

    /// Like [`Self::record`], and while a graph is captured the event belongs to the graph: it happens at each launch of it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn mark(&self, event: &Event) -> Result<(), CallError> {
        let external = match self.is_captured()? {
            true => sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32,
            false => 0,
        };
        // SAFETY: both live.
        self.context.call("cuEventRecordWithFlags", || unsafe {
            sys::cuEventRecordWithFlags(event.raw, self.raw, external)
        })
    }

    /// Copies to the device, without waiting where `from` is page-locked.
    ///
    /// # Safety
    /// `to` has room for all of `from`, which is neither written nor freed until this stream is past the copy.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn upload<T: Plain>(&self, from: &[T], to: DevicePtr<T>) -> Result<(), CallError> {
        // SAFETY: as the caller promised.
        self.context.call("cuMemcpyHtoDAsync_v2", || unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.address(), from.as_ptr().cast(), size_of_val(from), self.raw)
        })
    }

    /// Copies the first `count` values to the host, without waiting.
    ///
    /// # Safety
    /// `from` holds `count` values; `to` is neither read, written nor dropped until this stream is past the copy.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Panics
    /// If `to` is shorter.
    pub unsafe fn download<T: Plain>(
        &self,
        from: DevicePtr<T>,
        to: &mut PinnedBuffer<T>,
        count: usize,
    ) -> Result<(), CallError> {
        let to = &mut to[..count];
        // SAFETY: as the caller promised.
        self.context.call("cuMemcpyDtoHAsync_v2", || unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.address(), size_of_val(to), self.raw)
        })
    }

    /// Takes what `work` gives to this stream down as a graph, instead of doing it. Streams that `work` joins by events
    /// belong to it; anything else of the driver that it calls must be allowed meanwhile.
    ///
    /// # Errors
    /// The error of `work`, or of the driver; the stream can be used again.
    pub fn capture<E: From<CallError>>(&self, work: impl FnOnce(&Self) -> Result<(), E>) -> Result<Graph, E> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives and is not captured: a capture ends in the call that began it.
        let begin = || unsafe { sys::cuStreamBeginCapture_v2(self.raw, mode) };
        self.context.call("cuStreamBeginCapture_v2", begin)?;
        let worked = work(self);
        let mut captured = std::ptr::null_mut();
        // SAFETY: the capture began above.
        let ended = self
            .context
            .call("cuStreamEndCapture", || unsafe { sys::cuStreamEndCapture(self.raw, &raw mut captured) });
        let template = NonNull::new(captured).map(|raw| Template { context: Rc::clone(&self.context), raw });
        worked?;
        ended?;
        let Some(template) = template else {
            return Err(CallError { call: "cuStreamEndCapture", code: 901 }.into());
        };
        Ok(template.instantiate()?)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream lives; its work is done all the same.
        self.context
            .give_back("a stream", "cuStreamDestroy_v2", || unsafe { sys::cuStreamDestroy_v2(self.raw) });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:p})", self.raw)
    }
}

/// A moment in a stream's work.
pub struct Event {
    context: Rc<Context>,
    raw: sys::CUevent,
}

impl Event {
    /// One that knows when it happened.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self, CallError> {
        let context = Rc::clone(device.context());
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the pointer is to an event.
        context.call("cuEventCreate", || unsafe { sys::cuEventCreate(&raw mut raw, 0) })?;
        Ok(Self { context, raw })
    }

    /// Waits until it has happened.
    ///
    /// # Errors
    /// Also those of the work before it.
    pub fn synchronize(&self) -> Result<(), CallError> {
        // SAFETY: the event lives.
        self.context.call("cuEventSynchronize", || unsafe { sys::cuEventSynchronize(self.raw) })
    }

    /// Whether it has happened, or was never recorded.
    ///
    /// # Errors
    /// Also those of the work before it.
    pub fn has_happened(&self) -> Result<bool, CallError> {
        // SAFETY: the event lives.
        match self.context.call("cuEventQuery", || unsafe { sys::cuEventQuery(self.raw) }) {
            Ok(()) => Ok(true),
            Err(CallError { code: 600, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Milliseconds on the device from `earlier` to this, with a resolution of about half a microsecond. Both have happened.
    ///
    /// # Errors
    /// What the driver says.
    pub fn millis_since(&self, earlier: &Self) -> Result<f32, CallError> {
        let mut millis = 0.0;
        // SAFETY: both live; the pointer is to a number.
        self.context.call("cuEventElapsedTime", || unsafe {
            sys::cuEventElapsedTime(&raw mut millis, earlier.raw, self.raw)
        })?;
        Ok(millis)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event lives.
        self.context
            .give_back("an event", "cuEventDestroy_v2", || unsafe { sys::cuEventDestroy_v2(self.raw) });
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({:p})", self.raw)
    }
}

/// What a capture took down.
struct Template {
    context: Rc<Context>,
    raw: NonNull<sys::CUgraph_st>,
}

impl Template {
    fn instantiate(self) -> Result<Graph, CallError> {
        let context = Rc::clone(&self.context);
        let mut raw = std::ptr::null_mut();
        // SAFETY: the graph lives; the pointer is to an executable one.
        context.call("cuGraphInstantiateWithFlags", || unsafe {
            sys::cuGraphInstantiateWithFlags(&raw mut raw, self.raw.as_ptr(), 0)
        })?;
        Ok(Graph { context, raw })
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // SAFETY: the graph lives; what was made of it does not need it.
        self.context
            .give_back("a graph", "cuGraphDestroy", || unsafe { sys::cuGraphDestroy(self.raw.as_ptr()) });
    }
}

/// Work that is given to a stream as one. It uses the addresses that were given when it was captured.
pub struct Graph {
    context: Rc<Context>,
    raw: sys::CUgraphExec,
}

impl Graph {
    /// Gives all of the work to a stream.
    ///
    /// # Safety
    /// What the work reads and writes lives, and is nobody else's, until the stream is past it.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), CallError> {
        // SAFETY: both live, and the rest is the caller's promise.
        self.context.call("cuGraphLaunch", || unsafe { sys::cuGraphLaunch(self.raw, stream.raw) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the graph lives; where it runs, it runs on.
        self.context
            .give_back("a graph", "cuGraphExecDestroy", || unsafe { sys::cuGraphExecDestroy(self.raw) });
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({:p})", self.raw)
    }
}

/// A program on the device.
pub struct Module {
    context: Rc<Context>,
    raw: sys::CUmodule,
}

/// One kernel of a module.
#[derive(Clone, Copy)]
pub struct Function(sys::CUfunction);

/// Blocks along x, y, z, and threads of a block.
pub type Shape = ([u32; 3], u32);

impl Module {
    /// Loads a program.
    ///
    /// # Errors
    /// What the driver says, e.g. 209 for another architecture's.
    pub fn load(device: &Device, program: &Cubin) -> Result<Self, CallError> {
        let context = Rc::clone(device.context());
        let (mut raw, image) = (std::ptr::null_mut(), program.bytes().as_ptr());
        // SAFETY: the context is current; a cubin says how long it is, and its compiler made it whole.
        context.call("cuModuleLoadData", || unsafe { sys::cuModuleLoadData(&raw mut raw, image.cast()) })?;
        Ok(Self { context, raw })
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// What the driver says: 500 where there is none.
    pub fn function(&self, name: &CStr) -> Result<Function, CallError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module lives; the pointer is to a function, and the name ends with a zero.
        self.context.call("cuModuleGetFunction", || unsafe {
            sys::cuModuleGetFunction(&raw mut raw, self.raw, name.as_ptr())
        })?;
        Ok(Function(raw))
    }

    /// Gives a kernel of this module to a stream.
    ///
    /// # Safety
    /// `arguments` point to values of the types that the kernel takes, and what these point to lives, and is as large as
    /// the kernel takes it for, until the stream is past it.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn launch<const N: usize>(
        &self,
        stream: &Stream,
        function: Function,
        ([x, y, z], threads): Shape,
        mut arguments: [*mut c_void; N],
    ) -> Result<(), CallError> {
        // SAFETY: the function is of a module that lives; the rest is the caller's promise. Arguments are read at once.
        self.context.call("cuLaunchKernel", || unsafe {
            sys::cuLaunchKernel(
                function.0,
                x,
                y,
                z,
                threads,
                1,
                1,
                0,
                stream.raw,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the module lives, and what runs of it is waited for.
        self.context.give_back("a program", "cuModuleUnload", || unsafe { sys::cuModuleUnload(self.raw) });
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({:p})", self.raw)
    }
}

/// A kernel's argument, as it is handed over.
pub fn argument<T: Copy>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// The kernels of `gpu/kernels`, loaded. Their arguments and what these mean are said there.
///
/// Every launch has the same contract: pointers are to device memory of at least the size that the kernel takes it for,
/// tables name only such memory, and all of it lives until the stream is past the kernel.
#[derive(Debug)]
pub struct Kernels {
    module: Module,
    crop_faces: Function,
    letterbox: Function,
    shrink: Function,
    decode_yunet: Function,
    decode_blazeface: Function,
    suppress: Function,
    faces: Function,
    sharpness: Function,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({:p})", self.0)
    }
}

/// Threads of a block, where a kernel does not say better.
const THREADS: u32 = 128;

/// The greatest number of blocks along z.
const MAX_BLOCKS_Z: u32 = 65535;

/// One thread a pixel: a line by x, lines by y, pictures by z.
fn over_pixels(width: u32, height: u32, count: u32) -> Shape {
    ([width.div_ceil(THREADS), height.clamp(1, 65535), count.clamp(1, MAX_BLOCKS_Z)], THREADS)
}

/// One thread an item: items by x, pictures by z.
fn over_items(items: u32, count: u32) -> Shape {
    ([items.div_ceil(THREADS).max(1), 1, count.clamp(1, MAX_BLOCKS_Z)], THREADS)
}

impl Kernels {
    /// Loads the kernels.
    ///
    /// # Errors
    /// What the driver says.
    pub fn load(device: &Device, program: &Cubin) -> Result<Self, CallError> {
        let module = Module::load(device, program)?;
        let function = |name| module.function(name);
        Ok(Self {
            crop_faces: function(c"crop_faces")?,
            letterbox: function(c"letterbox")?,
            shrink: function(c"shrink")?,
            decode_yunet: function(c"decode_yunet")?,
            decode_blazeface: function(c"decode_blazeface")?,
            suppress: function(c"suppress")?,
            faces: function(c"faces")?,
            sharpness: function(c"sharpness")?,
            module,
        })
    }

    /// The landmark network's input, `count × 3 × CROP × CROP`.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn crop_faces(
        &self,
        stream: &Stream,
        frames: DevicePtr<Frame>,
        slots: DevicePtr<FaceSlot>,
        count: u32,
        out: DevicePtr<f32>,
    ) -> Result<(), CallError> {
        let arguments = [argument(&frames), argument(&slots), argument(&count), argument(&out)];
        let side = super::abi::CROP as u32;
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.crop_faces, over_pixels(side, side, count), arguments) }
    }

    /// BlazeFace's input, `count × 3 × size × size`.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn letterbox(
        &self,
        stream: &Stream,
        frames: DevicePtr<Frame>,
        count: u32,
        size: u32,
        out: DevicePtr<f32>,
    ) -> Result<(), CallError> {
        let arguments = [argument(&frames), argument(&count), argument(&size), argument(&out)];
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.letterbox, over_pixels(size, size, count), arguments) }
    }

    /// YuNet's input, `count × 3 × height × width`.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn shrink(
        &self,
        stream: &Stream,
        frames: DevicePtr<Frame>,
        tiles: DevicePtr<ShrinkTile>,
        count: u32,
        [width, height]: [u32; 2],
        out: DevicePtr<f32>,
    ) -> Result<(), CallError> {
        let arguments = [
            argument(&frames),
            argument(&tiles),
            argument(&count),
            argument(&width),
            argument(&height),
            argument(&out),
        ];
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.shrink, over_pixels(width, height, count), arguments) }
    }

    /// Candidates from YuNet's outputs for `count` tiles of an input of this size.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    #[expect(clippy::too_many_arguments, reason = "the kernel's")]
    pub unsafe fn decode_yunet(
        &self,
        stream: &Stream,
        outputs: YunetOutputs,
        tiles: DevicePtr<DetectorTile>,
        count: u32,
        [width, height]: [u32; 2],
        score_threshold: f32,
        out: Candidates,
    ) -> Result<(), CallError> {
        let arguments = [
            argument(&outputs),
            argument(&tiles),
            argument(&count),
            argument(&width),
            argument(&height),
            argument(&score_threshold),
            argument(&out),
        ];
        let cells = (width / 8) * (height / 8) / 16 * 21;
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.decode_yunet, over_items(cells, count), arguments) }
    }

    /// Candidates from BlazeFace's outputs for `count` pictures; `anchors` are `anchor_count` pairs.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    #[expect(clippy::too_many_arguments, reason = "the kernel's")]
    pub unsafe fn decode_blazeface(
        &self,
        stream: &Stream,
        [regressors, scores]: [DevicePtr<f32>; 2],
        anchors: DevicePtr<f32>,
        anchor_count: u32,
        frames: DevicePtr<Frame>,
        count: u32,
        size: u32,
        score_threshold: f32,
        out: Candidates,
    ) -> Result<(), CallError> {
        let arguments = [
            argument(&regressors),
            argument(&scores),
            argument(&anchors),
            argument(&anchor_count),
            argument(&frames),
            argument(&count),
            argument(&size),
            argument(&score_threshold),
            argument(&out),
        ];
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe {
            self.module.launch(stream, self.decode_blazeface, over_items(anchor_count, count), arguments)
        }
    }

    /// Detections from the candidates of `count` frames.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn suppress(
        &self,
        stream: &Stream,
        candidates: Candidates,
        count: u32,
        weighted: bool,
        iou_threshold: f32,
        out: DevicePtr<Detections>,
    ) -> Result<(), CallError> {
        let weighted = u32::from(weighted);
        let arguments = [
            argument(&candidates),
            argument(&count),
            argument(&weighted),
            argument(&iou_threshold),
            argument(&out),
        ];
        let shape = ([count.max(1), 1, 1], MAX_CANDIDATES as u32 / 4);
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.suppress, shape, arguments) }
    }

    /// Faces from the landmark network's outputs for `count` slots.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    #[expect(clippy::too_many_arguments, reason = "the kernel's")]
    pub unsafe fn faces(
        &self,
        stream: &Stream,
        [crop_landmarks, presence]: [DevicePtr<f32>; 2],
        slots: DevicePtr<FaceSlot>,
        count: u32,
        presence_threshold: f32,
        points: DevicePtr<u32>,
        out: FacesOut,
    ) -> Result<(), CallError> {
        let arguments = [
            argument(&crop_landmarks),
            argument(&presence),
            argument(&slots),
            argument(&count),
            argument(&presence_threshold),
            argument(&points),
            argument(&out),
        ];
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.faces, ([count.max(1), 1, 1], THREADS), arguments) }
    }

    /// How sharp the crops of `count` slots are.
    ///
    /// # Safety
    /// See [`Kernels`].
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn sharpness(
        &self,
        stream: &Stream,
        crops: DevicePtr<f32>,
        slots: DevicePtr<FaceSlot>,
        count: u32,
        out: DevicePtr<f32>,
    ) -> Result<(), CallError> {
        let arguments = [argument(&crops), argument(&slots), argument(&count), argument(&out)];
        // A crop is one block's: with many threads it is quick.
        let shape = ([count.max(1), 1, 1], 4 * THREADS);
        // SAFETY: the types are the kernel's; the rest is the caller's promise.
        unsafe { self.module.launch(stream, self.sharpness, shape, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_the_work_and_stay_within_the_drivers_limits() {
        assert_eq!(over_pixels(256, 256, 16), ([2, 256, 16], 128));
        assert_eq!(over_pixels(1, 1, 0), ([1, 1, 1], 128));
        assert_eq!(over_items(896, 1), ([7, 1, 1], 128));
        assert_eq!(over_items(0, 70_000), ([1, 1, 65535], 128));
    }
}
