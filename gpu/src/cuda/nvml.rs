//! How busy GPUs are, by NVIDIA's management library, which comes with the driver.
//!
//! Owns the library once it is opened, for the whole process. Needs no CUDA and no context, so it may be asked from any thread and
//! after a device was lost; a call may take milliseconds, so no thread that frames pass asks. Changes nothing on a device.

#![allow(unsafe_code, reason = "the driver is C")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use super::library::Functions;
use crate::probe::GpuLoad;

const FILE: &str = "libnvidia-ml.so.1";
const SUCCESS: c_int = 0;
/// `NVML_ERROR_NOT_SUPPORTED`: utilisation, on a device that is divided (MIG) and on some that are shared.
const NOT_SUPPORTED: c_int = 3;
/// Enough for names and UUIDs, by the header's `NVML_DEVICE_NAME_V2_BUFFER_SIZE` and `NVML_DEVICE_UUID_V2_BUFFER_SIZE`.
const LONGEST_TEXT: usize = 96;

/// `nvmlDevice_t`.
type Device = *mut c_void;
type TextOf = unsafe extern "C" fn(Device, *mut c_char, c_uint) -> c_int;

/// `nvmlMemory_t`, bytes.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlUtilization_t`, per cent.
#[repr(C)]
#[derive(Default)]
struct Utilisation {
    gpu: c_uint,
    memory: c_uint,
}

/// The library. Invariant: it is initialised, and stays so until the process ends; each function has the type that `nvml.h` gives it.
struct Nvml {
    count: unsafe extern "C" fn(*mut c_uint) -> c_int,
    device: unsafe extern "C" fn(c_uint, *mut Device) -> c_int,
    name: TextOf,
    uuid: TextOf,
    memory: unsafe extern "C" fn(Device, *mut Memory) -> c_int,
    utilisation: unsafe extern "C" fn(Device, *mut Utilisation) -> c_int,
}

/// All devices that the driver shows to this process, in the order of their place on the bus. The error says what is missing.
pub(crate) fn loads() -> Result<Vec<GpuLoad>, String> {
    static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();
    NVML.get_or_init(|| Nvml::open(Path::new(FILE))).as_ref().map_err(String::clone)?.loads()
}

fn check(call: &str, code: c_int) -> Result<(), String> {
    if code == SUCCESS { Ok(()) } else { Err(format!("{call} failed with NVML's error {code}")) }
}

impl Nvml {
    fn open(path: &Path) -> Result<Self, String> {
        let library = Functions::open("NVML", path)
            .map_err(|why| format!("the NVIDIA driver's {} was not found: {why}", path.display()))?;
        // SAFETY: `nvmlInit_v2` is declared so in nvml.h.
        let init: unsafe extern "C" fn() -> c_int = unsafe { library.get("nvmlInit_v2") }?;
        // SAFETY: may be called at any time, from any thread.
        check("nvmlInit_v2", unsafe { init() })?;
        // SAFETY: each is declared so in nvml.h.
        unsafe {
            Ok(Self {
                count: library.get("nvmlDeviceGetCount_v2")?,
                device: library.get("nvmlDeviceGetHandleByIndex_v2")?,
                name: library.get("nvmlDeviceGetName")?,
                uuid: library.get("nvmlDeviceGetUUID")?,
                memory: library.get("nvmlDeviceGetMemoryInfo")?,
                utilisation: library.get("nvmlDeviceGetUtilizationRates")?,
            })
        }
    }

    fn loads(&self) -> Result<Vec<GpuLoad>, String> {
        let mut count = 0;
        // SAFETY: initialised, by the invariant; the number is written to a place that is ours.
        check("nvmlDeviceGetCount_v2", unsafe { (self.count)(&raw mut count) })?;
        let load = |index| self.load(index).map_err(|why| format!("GPU {index}: {why}"));
        (0..count).map(load).collect()
    }

    fn load(&self, index: c_uint) -> Result<GpuLoad, String> {
        let mut device = ptr::null_mut();
        // SAFETY: initialised, by the invariant; the handle is written to a place that is ours.
        check("nvmlDeviceGetHandleByIndex_v2", unsafe { (self.device)(index, &raw mut device) })?;
        let mut memory = Memory::default();
        // SAFETY: the handle was given by the library; the structure is laid out as the library's.
        check("nvmlDeviceGetMemoryInfo", unsafe { (self.memory)(device, &raw mut memory) })?;
        let mut busy = Utilisation::default();
        // SAFETY: the handle was given by the library; the structure is laid out as the library's.
        let utilisation = match unsafe { (self.utilisation)(device, &raw mut busy) } {
            NOT_SUPPORTED => None,
            code => {
                check("nvmlDeviceGetUtilizationRates", code)?;
                Some(f64::from(busy.gpu) / 100.0)
            }
        };
        Ok(GpuLoad {
            name: text("nvmlDeviceGetName", self.name, device)?,
            uuid: text("nvmlDeviceGetUUID", self.uuid, device)?,
            memory_used: memory.used,
            memory_total: memory.total,
            utilisation,
        })
    }
}

/// What one of the library's functions says in words about a device whose handle the library gave.
fn text(call: &str, function: TextOf, device: Device) -> Result<String, String> {
    let mut buffer = [0u8; LONGEST_TEXT];
    // SAFETY: the function writes at most as many bytes as it is told to, with a zero at the end.
    check(call, unsafe { function(device, buffer.as_mut_ptr().cast(), LONGEST_TEXT as c_uint) })?;
    CStr::from_bytes_until_nul(&buffer)
        .map(|text| text.to_string_lossy().into_owned())
        .map_err(|_| format!("{call} gave no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let missing = Nvml::open(Path::new("/nowhere/libnvidia-ml.so.1")).err().unwrap();
        assert!(missing.contains("/nowhere/libnvidia-ml.so.1 was not found"), "{missing}");
        let other = Nvml::open(Path::new("libm.so.6")).err().unwrap();
        assert_eq!(other, "it is not NVML: it has no nvmlInit_v2");
    }

    #[test]
    fn whatever_the_machine_has_asking_twice_is_the_same() {
        match (loads(), loads()) {
            (Ok(first), Ok(second)) => {
                let uuids = |loads: &[GpuLoad]| loads.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>();
                assert_eq!(uuids(&first), uuids(&second));
                for gpu in first.iter().chain(&second) {
                    assert!(gpu.memory_used <= gpu.memory_total && !gpu.name.is_empty(), "{gpu:?}");
                    assert!(gpu.utilisation.is_none_or(|share| (0.0..=1.0).contains(&share)), "{gpu:?}");
                }
            }
            (Err(first), Err(second)) => assert_eq!(first, second),
            answers => panic!("{answers:?}"),
        }
    }
}
