//! What this machine has for the pipeline: processor, ONNX Runtime, NVIDIA driver and GPUs.
//!
//! For `doctor` and for logs. Asks, and changes nothing; anything missing is an answer, not an error.

use std::fs;

use crate::runtime::{self, Runtime, RuntimeError};

/// The NVIDIA driver, as far as it can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cuda {
    /// This program was built without the feature `cuda`.
    NotBuilt,
    /// The driver's library (`libcuda`) is not installed.
    NoDriver,
    /// The driver is there but refuses.
    Refuses(String),
    /// The driver works; names of its GPUs, by index.
    Gpus(Vec<String>),
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
    Machine {
        processor: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        runtime: runtime::load(),
        cuda: cuda(),
    }
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
fn cuda() -> Cuda {
    Cuda::NotBuilt
}

#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "the driver's library is opened by the operating system's loader")]
fn cuda() -> Cuda {
    use cudarc::driver::{result, sys};

    // SAFETY: only opens the library and closes it again; NVIDIA's has initialisers that any program may run.
    if !unsafe { sys::is_culib_present() } {
        return Cuda::NoDriver;
    }
    // A driver that lacks a function makes cudarc panic when it is first called.
    let asked = std::panic::catch_unwind(|| {
        result::init()?;
        (0..result::device::get_count()?)
            .map(|ordinal| result::device::get_name(result::device::get(ordinal)?))
            .collect::<Result<Vec<_>, _>>()
    });
    match asked {
        Ok(Ok(names)) => Cuda::Gpus(names),
        Ok(Err(error)) => Cuda::Refuses(error.to_string()),
        Err(_) => Cuda::Refuses("the driver is too old for this program".to_owned()),
    }
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
        let answer = cuda();
        assert_eq!(answer == Cuda::NotBuilt, !cfg!(feature = "cuda"));
    }
}
