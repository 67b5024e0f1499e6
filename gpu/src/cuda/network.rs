//! Networks on the device: the seam between the pipeline and whatever computes a network, and ONNX Runtime behind it.
//!
//! A network reads and writes device memory at addresses that are fixed when it is made, and running it only enqueues
//! work on a stream: the host never waits here, and no tensor passes through it. Owns the runtime's session and the
//! graph captured from it; the memory belongs to the caller.
#![allow(unsafe_code, reason = "device addresses and the driver's handles are handed to C libraries")]

use std::ffi::{CString, c_void};
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use ort::AsPointer;
use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ArenaExtendStrategy, ExecutionProviderDispatch,
};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ort::value::{Outlet, Shape, TensorRefMut};
use youquanti_models::ModelId;

use super::device::CallError;
use super::launch::{Graph, Stream};
use super::memory::{DevicePtr, MemoryError};
use super::provider::{self, Provider, ProviderError};
use crate::runtime::Runtime;

/// Batch sizes that networks are made for; a batch in between is padded to the next.
pub const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

/// The smallest of [`BATCHES`] that holds `count` items; `None` for more than the largest.
pub fn batch_for(count: usize) -> Option<usize> {
    BATCHES.into_iter().find(|&batch| batch >= count)
}

/// The batch sizes that are needed for up to `count` items, ascending; at least one, and no more than there are.
pub fn batches_up_to(count: usize) -> impl DoubleEndedIterator<Item = usize> {
    let largest = batch_for(count).unwrap_or(BATCHES[BATCHES.len() - 1]);
    BATCHES.into_iter().filter(move |&batch| batch <= largest)
}

/// Float32 values in device memory, row-major, of fixed shape. Only an address: whoever allocated it frees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceTensor {
    /// The network's name of it, e.g. `landmarks`.
    pub name: &'static str,
    /// Where it begins.
    pub pointer: DevicePtr<f32>,
    /// Its sides; the first is the batch.
    pub shape: Vec<usize>,
}

impl DeviceTensor {
    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A network on the device, for one batch size.
pub trait Network {
    /// Which network.
    fn id(&self) -> ModelId;

    /// What it reads; the first side of its shape is the batch size.
    fn input(&self) -> &DeviceTensor;

    /// What it writes, in the order in which they were asked for. Rows of padding hold what the padding gave.
    fn outputs(&self) -> &[DeviceTensor];

    /// Enqueues one pass over the input on `stream`. Returns before it is computed: the outputs are there for whatever
    /// is enqueued on the same stream afterwards. Never waits for the device and allocates nothing.
    ///
    /// While `stream` is being captured the pass is recorded into that graph instead.
    ///
    /// # Errors
    /// See [`NetworkError`]. Errors of the computation itself appear at a later call or synchronisation.
    fn run(&mut self, stream: &Stream) -> Result<(), NetworkError>;
}

/// With how many bits a network multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision throughout.
    Fp32,
    /// Single precision, products of convolutions and matrices on tensor cores with 10 bits of mantissa.
    #[default]
    Tf32,
    /// Half precision inside; inputs and outputs stay single. ONNX Runtime's CUDA provider computes in the types of
    /// the file, so it has to be given a half-precision one; TensorRT converts by itself.
    Fp16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
        })
    }
}

/// How ONNX Runtime runs networks on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrtOptions {
    /// The device's index, as CUDA counts.
    pub device: i32,
    /// Whose kernels.
    pub provider: Provider,
    /// See [`Precision`].
    pub precision: Precision,
    /// Whether the CUDA provider lets channels vary fastest in its convolutions.
    pub channels_last: bool,
    /// Whether a pass is captured once and then launched as one graph.
    pub graph: bool,
}

impl OrtOptions {
    /// The CUDA provider of this device, as it is fastest for this network at the default precision.
    pub fn new(device: i32, network: ModelId) -> Self {
        // Tensor cores want channels last; where a network has few convolutions the reordering costs more.
        let channels_last = !matches!(network, ModelId::FaceDetectMulti | ModelId::FaceBlendshapes);
        Self { device, provider: Provider::Cuda, precision: Precision::default(), channels_last, graph: true }
    }
}

/// Why a network cannot be loaded or run on a device.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// ONNX Runtime's provider is not there.
    #[error("networks cannot run on the GPU")]
    Provider(#[from] ProviderError),
    /// The runtime refuses the network or fails in it.
    #[error("network {network}: {action} failed")]
    Runtime {
        /// Which network.
        network: ModelId,
        /// What was attempted.
        action: &'static str,
        /// The runtime's error.
        source: ort::Error,
    },
    /// The driver fails; the cause says whether the device is lost.
    #[error("a network on the GPU fails")]
    Driver(#[from] CallError),
    /// There is no memory for what it reads and writes.
    #[error("no memory for a network on the GPU")]
    Memory(#[from] MemoryError),
    /// It is not the network that it should be.
    #[error("network {network} has no {wanted}")]
    Unexpected {
        /// Which network.
        network: ModelId,
        /// What is missing.
        wanted: String,
    },
    /// Without a graph of its own, or into a graph that is being captured, it runs on the stream it was made with.
    #[error("network {network} was asked to run on another stream than the one it was made with")]
    OtherStream {
        /// Which network.
        network: ModelId,
    },
    /// The folder for TensorRT's engines cannot be made.
    #[error("folder for TensorRT engines {} cannot be made", path.display())]
    EngineCache {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A network's file and what is open in it.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// Which network.
    pub id: ModelId,
    /// The file's bytes.
    pub onnx: &'a [u8],
    /// Values of its named dimensions other than the batch, e.g. `("H", 384)`.
    pub sizes: &'a [(&'a str, i64)],
}

/// A network that ONNX Runtime computes.
///
/// Belongs to the thread that made it: the runtime keeps per-thread state of the device.
pub struct OrtNetwork {
    id: ModelId,
    // Before the session, whose kernels it launches.
    graph: Option<Graph>,
    // Before the tensors it points to.
    binding: IoBinding,
    session: Session,
    run_options: RunOptions<NoSelectedOutputs>,
    /// Address of the stream that the session works on.
    stream: *mut c_void,
    input: DeviceTensor,
    outputs: Vec<DeviceTensor>,
    _tensors: Vec<TensorRefMut<'static, f32>>,
}

impl OrtNetwork {
    /// Loads a network for the batch size that is the first side of `input`; `outputs` are those wanted, by name. Runs
    /// it on what is in `input`, so that everything is chosen, allocated and, with `options.graph`, captured. Takes
    /// seconds, and waits for the device.
    ///
    /// # Safety
    /// `stream` is one of the device in `options`, whose context is current, and outlives the network. `input` and every tensor of `outputs` begin at memory of that device for
    /// [`DeviceTensor::len`] floats which stays allocated and is not written by others while the network runs.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub unsafe fn load(
        runtime: &Runtime,
        options: &OrtOptions,
        stream: &Stream,
        model: &Model<'_>,
        input: DeviceTensor,
        outputs: Vec<DeviceTensor>,
    ) -> Result<Self, NetworkError> {
        let id = model.id;
        provider::ensure(runtime, &options.provider)?;
        if let Provider::TensorRt { engine_cache } = &options.provider {
            fs::create_dir_all(engine_cache)
                .map_err(|source| NetworkError::EngineCache { path: engine_cache.clone(), source })?;
        }
        let failed = |action| move |source| NetworkError::Runtime { network: id, action, source };
        let batch = input.shape.first().copied().unwrap_or(0);
        let session = session_builder(runtime, options, stream.raw(), batch, model.sizes)
            .map_err(failed("setting up the provider"))?
            .commit_from_memory(model.onnx)
            .map_err(failed("loading"))?;

        let [outlet] = session.inputs() else {
            return Err(NetworkError::Unexpected { network: id, wanted: "single input".to_owned() });
        };
        check_shape(id, outlet, &input)?;
        for output in &outputs {
            let outlet = session.outputs().iter().find(|outlet| outlet.name() == output.name);
            let outlet = outlet.ok_or_else(|| NetworkError::Unexpected {
                network: id,
                wanted: format!("output {}", output.name),
            })?;
            check_shape(id, outlet, output)?;
        }

        let mut binding = session.create_binding().map_err(failed("binding"))?;
        let mut tensors = Vec::with_capacity(1 + outputs.len());
        // SAFETY: the caller vouches for addresses and sizes.
        let tensor = |of: &DeviceTensor| unsafe { device_tensor(options.device, of) };
        let input_name = session.inputs()[0].name().to_owned();
        tensors.push(tensor(&input).map_err(failed("binding"))?);
        bind(&mut binding, &input_name, &tensors[0], Side::Input).map_err(failed("binding"))?;
        for output in &outputs {
            let tensor = tensor(output).map_err(failed("binding"))?;
            bind(&mut binding, output.name, &tensor, Side::Output).map_err(failed("binding"))?;
            tensors.push(tensor);
        }
        let mut run_options = RunOptions::new().map_err(failed("options"))?;
        run_options.disable_device_sync().map_err(failed("options"))?;

        let mut network = Self {
            id,
            graph: None,
            binding,
            session,
            run_options,
            stream: stream.raw(),
            input,
            outputs,
            _tensors: tensors,
        };
        // The first run chooses algorithms and fills the runtime's memory pool, the second finds both settled.
        for _ in 0..2 {
            network.enqueue()?;
        }
        stream.synchronize()?;
        if options.graph {
            // The runtime's own graphs are of no use here: replaying one waits for the device.
            network.graph = Some(stream.capture(|_| network.enqueue())?);
            network.run(stream)?;
            stream.synchronize()?;
        }
        Ok(network)
    }

    /// One pass through the runtime, on the stream it was made with.
    fn enqueue(&mut self) -> Result<(), NetworkError> {
        self.session
            .run_binding_with_options(&self.binding, &self.run_options)
            .map(drop)
            .map_err(|source| NetworkError::Runtime { network: self.id, action: "run", source })
    }
}

impl Network for OrtNetwork {
    fn id(&self) -> ModelId {
        self.id
    }

    fn input(&self) -> &DeviceTensor {
        &self.input
    }

    fn outputs(&self) -> &[DeviceTensor] {
        &self.outputs
    }

    fn run(&mut self, stream: &Stream) -> Result<(), NetworkError> {
        match &self.graph {
            Some(graph) if !stream.is_captured()? => {
                // SAFETY: the graph's memory is the session's, and the caller's by the contract of `load`.
                Ok(unsafe { graph.launch(stream) }?)
            }
            _ if stream.raw() == self.stream => self.enqueue(),
            _ => Err(NetworkError::OtherStream { network: self.id }),
        }
    }
}

fn session_builder(
    runtime: &Runtime,
    options: &OrtOptions,
    stream: *mut c_void,
    batch: usize,
    sizes: &[(&str, i64)],
) -> ort::Result<SessionBuilder> {
    let builder = runtime
        .one_thread(sizes)?
        .with_dimension_override("N", batch as i64)?
        // A node on the processor would copy its tensors down and up again.
        .with_config_entry("session.disable_cpu_ep_fallback", "1")?;
    Ok(builder.with_execution_providers(providers(options, stream))?)
}

fn providers(options: &OrtOptions, stream: *mut c_void) -> Vec<ExecutionProviderDispatch> {
    let cuda = ep::CUDA::default()
        .with_device_id(options.device)
        .with_tf32(options.precision != Precision::Fp32)
        .with_prefer_nhwc(options.channels_last)
        // One of cuDNN 9's two ways to guess the best. `Exhaustive` is the other, not a trial: it gives the same speed.
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    // SAFETY: the stream outlives the session by the contract of `OrtNetwork::load`.
    let cuda = unsafe { cuda.with_compute_stream(stream.cast()) }.build().error_on_failure();
    let Provider::TensorRt { engine_cache } = &options.provider else { return vec![cuda] };
    let folder = engine_cache.display();
    let tensorrt = ep::TensorRT::default()
        .with_device_id(options.device)
        .with_fp16(options.precision == Precision::Fp16)
        .with_engine_cache(true)
        .with_engine_cache_path(&folder)
        .with_timing_cache(true)
        .with_timing_cache_path(&folder)
        .with_arbitrary_config("trt_engine_cache_prefix", format!("youquanti_{}", options.precision));
    // SAFETY: as above.
    let tensorrt = unsafe { tensorrt.with_compute_stream(stream.cast()) }.build().error_on_failure();
    vec![tensorrt, cuda]
}

/// Holds the network's shape against the memory's.
fn check_shape(id: ModelId, outlet: &Outlet, memory: &DeviceTensor) -> Result<(), NetworkError> {
    let shape = outlet.dtype().tensor_shape();
    let same = shape.is_some_and(|shape| {
        // A side that the runtime could not work out is the caller's to know.
        shape.len() == memory.shape.len()
            && shape.iter().zip(&memory.shape).all(|(&is, &wanted)| is < 0 || is as usize == wanted)
    });
    if same {
        return Ok(());
    }
    let wanted = format!("{} of shape {:?}; it is {shape:?}", outlet.name(), memory.shape);
    Err(NetworkError::Unexpected { network: id, wanted })
}

/// # Safety
/// The memory is the device's and large enough.
unsafe fn device_tensor(device: i32, of: &DeviceTensor) -> ort::Result<TensorRefMut<'static, f32>> {
    let info = MemoryInfo::new(AllocationDevice::CUDA, device, AllocatorType::Device, MemoryType::Default)?;
    let shape: Shape = of.shape.iter().map(|&side| side as i64).collect();
    // SAFETY: as above; the lifetime is the caller's promise to `OrtNetwork::load`.
    unsafe { TensorRefMut::from_raw(info, of.pointer.address() as *mut _, shape) }
}

enum Side {
    Input,
    Output,
}

/// Binds a tensor by its address. The crate's own `bind_input` would bind a copy of memory that it does not own, and
/// its `bind_output` would make every run allocate a list of outputs.
fn bind(
    binding: &mut IoBinding,
    name: &str,
    tensor: &TensorRefMut<'static, f32>,
    side: Side,
) -> ort::Result<()> {
    let name = CString::new(name).map_err(ort::Error::wrap)?;
    let (binding, value) = (binding.ptr_mut(), tensor.ptr());
    // SAFETY: three live objects of the runtime; it copies the name and keeps its own reference to the value.
    unsafe {
        let status = match side {
            Side::Input => (ort::api().BindInput)(binding, name.as_ptr(), value),
            Side::Output => (ort::api().BindOutput)(binding, name.as_ptr(), value),
        };
        ort::Error::result_from_status(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_padded_to_the_next_size() {
        let check = |count, expected| assert_eq!(batch_for(count), expected, "{count}");
        check(0, Some(1));
        check(1, Some(1));
        check(3, Some(4));
        check(9, Some(16));
        check(16, Some(16));
        check(17, None);
        let sizes = |count| batches_up_to(count).collect::<Vec<_>>();
        assert_eq!((sizes(1), sizes(3), sizes(40)), (vec![1], vec![1, 2, 4], BATCHES.to_vec()));
    }

    #[test]
    fn a_tensor_counts_its_values() {
        let tensor = DeviceTensor { name: "landmarks", pointer: DevicePtr::NULL, shape: vec![4, 478, 3] };
        assert_eq!(tensor.len(), 5736);
        assert!(!tensor.is_empty());
    }
}
