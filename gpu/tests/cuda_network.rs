//! Networks on the GPU against the same on the processor, and what is said where there is no GPU to run them on.
//!
//! On a machine without a GPU or without a runtime for it only the errors are tested.
#![cfg(feature = "cuda")]
#![allow(unsafe_code, reason = "the contract of networks on the device")]
#![allow(clippy::unwrap_used, reason = "test code, which clippy knows by its attribute only")]

use youquanti_gpu::cpu::network::Network as CpuNetwork;
use youquanti_gpu::cuda::network::{
    DeviceTensor, Model, Network, NetworkError, OrtNetwork, OrtOptions, Precision,
};
use youquanti_gpu::cuda::provider::{self, Provider, ProviderError};
use youquanti_gpu::cuda::{Device, DeviceBuffer, DevicePtr, Stream};
use youquanti_gpu::runtime::{self, Runtime};
use youquanti_models::ModelId;

const ID: ModelId = ModelId::FaceDetectShort;

fn model() -> Model<'static> {
    Model { id: ID, onnx: ID.file().bytes, sizes: &[] }
}

fn options() -> OrtOptions {
    OrtOptions { channels_last: false, ..OrtOptions::new(0, ID) }
}

fn tensor(name: &'static str, pointer: DevicePtr<f32>, shape: &[usize]) -> DeviceTensor {
    DeviceTensor { name, pointer, shape: shape.to_vec() }
}

/// Waves in pictures that are all different, -1 to 1.
fn pictures(batch: usize, seed: usize) -> Vec<f32> {
    let of = |item: usize, at: usize| {
        let (x, y) = ((at % 128) as f32 / 128.0, (at / 128 % 128) as f32 / 128.0);
        let by = (item * 7 + seed * 3 + at / 16384) as f32;
        0.5 * ((9.0 * x + by).sin() + (7.0 * y - 0.5 * by).cos())
    };
    (0..batch).flat_map(|item| (0..3 * 16384).map(move |at| of(item, at))).collect()
}

fn on_processor(runtime: &Runtime, batch: usize, pictures: &[f32]) -> Vec<f32> {
    let sizes = [("N", batch as i64)];
    let mut network = CpuNetwork::load(runtime, ID, model().onnx, &sizes, &["regressors"]).unwrap();
    network.input().copy_from_slice(pictures);
    network.run().unwrap().get(0).unwrap().to_vec()
}

/// A network with its memory.
struct Loaded {
    // First: it uses the memory.
    network: OrtNetwork,
    input: DeviceBuffer<f32>,
    output: DeviceBuffer<f32>,
    batch: usize,
}

impl Loaded {
    fn new(runtime: &Runtime, device: &Device, stream: &Stream, options: &OrtOptions, batch: usize) -> Self {
        let mut input = DeviceBuffer::new(device, "input", batch * 3 * 16384).unwrap();
        let mut output = DeviceBuffer::new(device, "output", batch * 896 * 16).unwrap();
        input.write(&pictures(batch, 0)).unwrap();
        output.write(&vec![f32::NAN; output.len()]).unwrap();
        let reads = tensor("image", input.ptr(), &[batch, 3, 128, 128]);
        let writes = vec![tensor("regressors", output.ptr(), &[batch, 896, 16])];
        // SAFETY: stream and memory are dropped after the network.
        let network = unsafe { OrtNetwork::load(runtime, options, stream, &model(), reads, writes) }.unwrap();
        Self { network, input, output, batch }
    }

    /// Largest difference from what the processor makes of pictures other than those it was loaded with, in relation to
    /// the largest value, when `run` has run it.
    fn error(&mut self, runtime: &Runtime, seed: usize, run: impl FnOnce(&mut OrtNetwork)) -> f32 {
        let pictures = pictures(self.batch, seed);
        self.input.write(&pictures).unwrap();
        self.output.write(&vec![f32::NAN; self.output.len()]).unwrap();
        run(&mut self.network);
        let mut got = vec![0.0; self.output.len()];
        self.output.read(&mut got).unwrap();
        let wanted = on_processor(runtime, self.batch, &pictures);
        let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let differences = got.iter().zip(&wanted).map(|(got, wanted)| (got - wanted).abs());
        differences.fold(0.0_f32, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) }) / largest
    }
}

#[test]
fn networks_on_a_gpu() {
    let runtime = runtime::load().unwrap();
    if let Err(error) = provider::ensure(&runtime, &Provider::Cuda) {
        return eprintln!("not tried here: {error}");
    }
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return eprintln!("not tried here: {error}"),
    };
    let stream = Stream::new(&device).unwrap();
    gives_what_the_processor_gives(&runtime, &device, &stream);
    is_recorded_into_a_graph_that_is_being_captured(&runtime, &device, &stream);
    runs_on_another_stream_only_with_a_graph(&runtime, &device, &stream);
    refuses_the_wrong_shape_and_a_device_that_is_not_there(&runtime, &device, &stream);
}

fn gives_what_the_processor_gives(runtime: &Runtime, device: &Device, stream: &Stream) {
    for (precision, bound) in [(Precision::Fp32, 2e-5), (Precision::Tf32, 2e-2)] {
        for (batch, graph) in [(1, true), (4, true), (4, false)] {
            let options = OrtOptions { precision, graph, ..options() };
            let mut loaded = Loaded::new(runtime, device, stream, &options, batch);
            for seed in [1, 2] {
                let error = loaded.error(runtime, seed, |network| network.run(stream).unwrap());
                eprintln!("{precision}, batch {batch}, graph {graph}: {error:e}");
                assert!(error < bound, "{precision}, batch {batch}, graph {graph}: {error}");
            }
        }
    }
}

fn is_recorded_into_a_graph_that_is_being_captured(runtime: &Runtime, device: &Device, stream: &Stream) {
    let mut loaded = Loaded::new(runtime, device, stream, &options(), 1);
    let graph = stream.capture(|stream| loaded.network.run(stream)).unwrap();
    let error = loaded.error(runtime, 5, |_| {
        // SAFETY: its memory is that of `loaded`.
        unsafe { graph.launch(stream) }.unwrap();
    });
    assert!(error < 2e-2, "{error}");
}

fn runs_on_another_stream_only_with_a_graph(runtime: &Runtime, device: &Device, stream: &Stream) {
    let other = Stream::new(device).unwrap();
    let mut loaded = Loaded::new(runtime, device, stream, &options(), 1);
    let error = loaded.error(runtime, 3, |network| network.run(&other).unwrap());
    assert!(error < 2e-2, "{error}");
    let plain = OrtOptions { graph: false, ..options() };
    let mut loaded = Loaded::new(runtime, device, stream, &plain, 1);
    assert!(matches!(loaded.network.run(&other), Err(NetworkError::OtherStream { network: ID })));
}

fn refuses_the_wrong_shape_and_a_device_that_is_not_there(
    runtime: &Runtime,
    device: &Device,
    stream: &Stream,
) {
    let memory = DeviceBuffer::new(device, "memory", 3 * 192 * 192).unwrap();
    let load = |options: &OrtOptions, input: &[usize], name, output: &[usize]| {
        let (input, outputs) =
            (tensor("image", memory.ptr(), input), vec![tensor(name, memory.ptr(), output)]);
        // SAFETY: stream and memory outlive it; it is large enough for every shape here.
        unsafe { OrtNetwork::load(runtime, options, stream, &model(), input, outputs) }.err()
    };
    let wrong = [
        load(&options(), &[1, 3, 192, 192], "regressors", &[1, 896, 16]),
        load(&options(), &[1, 3, 128, 128], "regressors", &[1, 896, 17]),
        load(&options(), &[1, 3, 128, 128], "no_such", &[1, 896, 16]),
    ];
    for error in wrong {
        assert!(matches!(error, Some(NetworkError::Unexpected { .. })), "{error:?}");
    }
    let nowhere = OrtOptions { device: 99, ..options() };
    let error = load(&nowhere, &[1, 3, 128, 128], "regressors", &[1, 896, 16]);
    assert!(matches!(error, Some(NetworkError::Runtime { .. })), "{error:?}");
}

#[test]
fn what_a_provider_misses_is_named() {
    let runtime = runtime::load().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for provider in [Provider::Cuda, Provider::TensorRt { engine_cache: folder.path().join("engines") }] {
        // A machine that has everything is no place to test its absence.
        let Err(error) = provider::ensure(&runtime, &provider) else { continue };
        let text = error.to_string();
        eprintln!("{text}");
        match &error {
            ProviderError::NotInRuntime { missing, .. } => {
                for part in [missing, "onnxruntime-gpu", runtime.version(), runtime::LIBRARY_VARIABLE] {
                    assert!(text.contains(part), "{part} is missing in: {text}");
                }
            }
            ProviderError::Missing { library, tried, .. } => {
                assert!(text.contains(library.as_str()) && tried.len() > 1, "{text}");
                assert!(text.contains("LD_LIBRARY_PATH"), "{text}");
            }
            ProviderError::Unusable { .. } => panic!("{text}"),
        }
        assert!(!folder.path().join("engines").exists(), "nothing is made before it can be used");
    }
}
