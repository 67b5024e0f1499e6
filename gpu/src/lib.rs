//! The face pipeline's back ends, behind `youquanti_models::Pipeline`: frames in, faces out.
//!
//! [`cpu::CpuPipeline`] is the one of this version; [`NoPipeline`] seeks no faces. Options are plain structs; configuration files,
//! actors and recording are unknown here. [`runtime`] finds ONNX Runtime, [`probe`] says what the machine has.

pub mod cache;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod follow;
mod networks;
mod none;
mod options;
pub mod probe;
pub mod runtime;
#[cfg(feature = "testing")]
pub mod testing;

use std::io;
use std::path::PathBuf;

use youquanti_models::{ManifestError, ModelId};

pub use cpu::CpuPipeline;
pub use networks::Processor;
pub use none::NoPipeline;
pub use options::{CameraInput, CpuOptions, Detector, DetectorSize, FaceOptions};
pub use runtime::{Runtime, RuntimeError};

/// Why a pipeline cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// ONNX Runtime is not there or cannot be used.
    #[error("no runtime for the networks")]
    Runtime(#[from] RuntimeError),
    /// A network's file cannot be read.
    #[error("model {model}: {} cannot be read", path.display())]
    ModelFile {
        /// Which network.
        model: ModelId,
        /// Its file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A network's file is damaged, or not the one that this version was made for.
    #[error("{} cannot be used", path.display())]
    Model {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The runtime refuses a network.
    #[error("a network cannot be loaded")]
    Network(#[from] cpu::network::NetworkError),
    /// The system refuses a thread.
    #[error("a lane's thread cannot be started")]
    Thread(#[source] io::Error),
    /// There is no GPU that can be used.
    #[cfg(feature = "cuda")]
    #[error("the GPU cannot be used")]
    Device(#[from] cuda::DeviceError),
    /// The kernels cannot be compiled.
    #[cfg(feature = "cuda")]
    #[error("no kernels for the GPU")]
    Kernels(#[from] cuda::CompileError),
    /// ONNX Runtime has no part for GPUs, or that misses something.
    #[cfg(feature = "cuda")]
    #[error("networks cannot run on the GPU")]
    Provider(#[from] cuda::provider::ProviderError),
    /// The GPU's memory does not suffice.
    #[cfg(feature = "cuda")]
    #[error("no memory on the GPU")]
    Memory(#[from] cuda::MemoryError),
    /// The runtime refuses a network on the GPU.
    #[cfg(feature = "cuda")]
    #[error("a network cannot be loaded on the GPU")]
    DeviceNetwork(#[from] cuda::network::NetworkError),
    /// The driver refuses a call.
    #[cfg(feature = "cuda")]
    #[error("the GPU cannot be set up")]
    Driver(#[from] cuda::CallError),
}

/// Everything that keeps the networks in `folder` from being used by a pipeline with this detector.
pub fn check_networks(processor: Processor, detector: Detector, folder: &std::path::Path) -> Vec<SetupError> {
    networks::Networks::problems(processor, detector, folder)
}
