//! What this machine has for the pipeline: processor, ONNX Runtime, NVIDIA driver and GPUs.
//!
//! For `doctor` and for logs. Asks, and changes nothing; anything missing is an answer, not an error.

use std::fs;

#[cfg(feature = "cuda")]
use youquanti_models::with_causes;

use crate::runtime::{self, Runtime, RuntimeError};

/// The NVIDIA driver, as far as it can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cuda {
    /// This program was built without the feature `cuda`.
    NotBuilt,
    /// There is no driver, no GPU, or one that cannot be used: what is missing and where it was looked for.
    Missing(String),
    /// The driver works.
    Found(CudaFound),
}

/// A driver that works, and what it needs beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaFound {
    /// The newest CUDA that the driver is for, e.g. `13.0`.
    pub driver: String,
    /// At least one.
    pub gpus: Vec<Gpu>,
    /// NVRTC, the compiler of kernels: its version and where it is; or what is missing and where it was looked for.
    pub compiler: Result<String, String>,
    /// Whether ONNX Runtime's CUDA provider can be used; or what is missing and where it was looked for.
    pub provider: Result<(), String>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// E.g. `NVIDIA H200`.
    pub name: String,
    /// E.g. `sm_90`.
    pub architecture: String,
    /// Bytes.
    pub memory: u64,
}

/// How busy a GPU is, with all programs that use it.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuLoad {
    /// E.g. `NVIDIA H200`.
    pub name: String,
    /// The driver's own name for this very device, `GPU-…`.
    pub uuid: String,
    /// Bytes that are taken, those that the driver keeps for itself among them.
    pub memory_used: u64,
    /// Bytes.
    pub memory_total: u64,
    /// Share of the newest sixth of a second to second, as the device measures, in which any kernel ran, 0 to 1. `None` where
    /// that is not measured.
    pub utilisation: Option<f64>,
}

/// What the machine has.
#[derive(Debug)]
pub struct Machine {
    /// The processor's name, e.g. `AMD EPYC`.
    pub processor: String,
    /// How many threads run at once.
    pub cores: usize,
    /// ONNX Runtime, or where it was looked for.
    pub runtime: Result<Runtime, RuntimeError>,
    /// The NVIDIA driver.
    pub cuda: Cuda,
}

/// Looks at this machine. Loads ONNX Runtime if it can.
pub fn machine() -> Machine {
    let runtime = runtime::load();
    Machine {
        processor: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        cuda: cuda(runtime.as_ref().ok()),
        runtime,
    }
}

/// How busy each GPU is now. Takes milliseconds, more where a driver wakes up.
///
/// # Errors
/// What is missing: without NVIDIA's driver there is nobody to ask.
#[cfg(feature = "cuda")]
pub fn gpu_loads() -> Result<Vec<GpuLoad>, String> {
    crate::cuda::nvml::loads()
}

/// Nobody is asked.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn gpu_loads() -> Result<Vec<GpuLoad>, String> {
    Err("this program was built without CUDA".to_owned())
}

/// The processor's name from `/proc/cpuinfo`.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor_name(&text).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn processor_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: Option<&Runtime>) -> Cuda {
    Cuda::NotBuilt
}

#[cfg(feature = "cuda")]
fn cuda(runtime: Option<&Runtime>) -> Cuda {
    use crate::cuda::provider::{self, Provider};
    use crate::cuda::{Nvrtc, device};

    let devices = match device::devices() {
        Ok(devices) => devices,
        Err(error) => return Cuda::Missing(with_causes(&error)),
    };
    let Some(driver) = devices.first().map(|device| device.driver) else {
        return Cuda::Missing("the NVIDIA driver sees no GPU".to_owned());
    };
    let compiler = match Nvrtc::load(driver) {
        Ok(nvrtc) => Ok(format!("{} from {}", nvrtc.version(), nvrtc.path().display())),
        Err(error) => Err(with_causes(&error)),
    };
    let provider = match runtime {
        Some(runtime) => provider::ensure(runtime, &Provider::Cuda).map_err(|error| with_causes(&error)),
        None => Err("it is part of ONNX Runtime, which cannot be loaded".to_owned()),
    };
    let gpu = |info: &device::DeviceInfo| Gpu {
        name: info.name.clone(),
        architecture: info.architecture(),
        memory: info.total_memory,
    };
    let gpus = devices.iter().map(gpu).collect();
    Cuda::Found(CudaFound { driver: driver.to_string(), gpus, compiler, provider })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_processor() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t: fpu\n";
        assert_eq!(processor_name(cpuinfo).as_deref(), Some("AMD EPYC 7763"));
        assert_eq!(processor_name(""), None);
        assert!(!processor().is_empty());
    }

    #[test]
    fn a_machine_without_a_driver_says_so() {
        // Whatever the machine has: asking must not panic.
        let answer = cuda(None);
        assert_eq!(answer == Cuda::NotBuilt, !cfg!(feature = "cuda"));
        match answer {
            Cuda::NotBuilt => {}
            Cuda::Missing(text) => assert!(text.contains("NVIDIA driver"), "{text}"),
            Cuda::Found(found) => assert!(!found.gpus.is_empty() && found.provider.is_err()),
        }
    }
}
