//! One GPU: its primary context, owned by the thread that opened it, and what the driver's error codes mean for it.
//!
//! Owns the rules that a device is open at most once in a process, that it is opened, used and closed on one thread, and that
//! after a fatal error nothing of it touches the driver again. Never panics on a machine without a driver.

#![allow(unsafe_code, reason = "the driver is C")]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys;
use libloading::Library;
use youquanti_models::PipelineError;

use super::library::loader_text;

/// The oldest driver that is used.
pub const OLDEST_DRIVER: DriverVersion = DriverVersion { major: 12, minor: 0 };

/// Devices that a process can use, by ordinal.
const MAX_DEVICES: usize = 64;

/// Devices that are open, and devices that were lost, in this process.
static OPEN: Ordinals = Ordinals(AtomicU64::new(0));
static LOST: Ordinals = Ordinals(AtomicU64::new(0));

/// Functions of the driver that are called: `cudarc` panics where one is missing.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxGetState",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuStreamIsCapturing",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventRecordWithFlags",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
];

/// What a failed call means for its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The call had no effect; the device works on. What was built on it may be built anew.
    Recoverable,
    /// This process cannot use the device again, whatever it does.
    Fatal,
}

/// A call of the driver that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The driver's function.
    pub call: &'static str,
    /// A `CUresult`.
    pub code: u32,
}

/// What is known of an error code.
struct Known {
    code: u32,
    name: &'static str,
    meaning: &'static str,
    severity: Severity,
}

const fn recoverable(code: u32, name: &'static str, meaning: &'static str) -> Known {
    Known { code, name, meaning, severity: Severity::Recoverable }
}

const fn fatal(code: u32, name: &'static str, meaning: &'static str) -> Known {
    Known { code, name, meaning, severity: Severity::Fatal }
}

/// The codes that the calls made here can give, by the driver's documentation: an error after which "the process must be
/// terminated and relaunched" is fatal.
const KNOWN: &[Known] = &[
    recoverable(1, "CUDA_ERROR_INVALID_VALUE", "invalid value"),
    recoverable(2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    recoverable(3, "CUDA_ERROR_NOT_INITIALIZED", "the driver is not initialised"),
    fatal(4, "CUDA_ERROR_DEINITIALIZED", "the driver is shutting down"),
    recoverable(34, "CUDA_ERROR_STUB_LIBRARY", "this libcuda is a stub for linking, not the driver"),
    recoverable(46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "the device is in use or not available"),
    recoverable(100, "CUDA_ERROR_NO_DEVICE", "the driver sees no GPU"),
    recoverable(101, "CUDA_ERROR_INVALID_DEVICE", "no such device"),
    recoverable(102, "CUDA_ERROR_DEVICE_NOT_LICENSED", "the device is not licensed"),
    recoverable(200, "CUDA_ERROR_INVALID_IMAGE", "the kernels' program cannot be read"),
    recoverable(201, "CUDA_ERROR_INVALID_CONTEXT", "invalid context"),
    recoverable(208, "CUDA_ERROR_ALREADY_MAPPED", "already mapped"),
    recoverable(209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "the kernels' program is not for this GPU"),
    fatal(214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable memory error"),
    recoverable(218, "CUDA_ERROR_INVALID_PTX", "the kernels' program is invalid"),
    fatal(220, "CUDA_ERROR_NVLINK_UNCORRECTABLE", "uncorrectable NVLink error"),
    recoverable(221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "the driver's compiler is missing"),
    recoverable(222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the kernels' program is too new for the driver"),
    fatal(226, "CUDA_ERROR_CONTAINED", "memory error, contained to this process"),
    recoverable(302, "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", "a library of the driver lacks a function"),
    recoverable(303, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", "a library of the driver does not start"),
    recoverable(304, "CUDA_ERROR_OPERATING_SYSTEM", "the operating system refused a call"),
    recoverable(400, "CUDA_ERROR_INVALID_HANDLE", "invalid handle"),
    recoverable(401, "CUDA_ERROR_ILLEGAL_STATE", "not possible in this state"),
    recoverable(500, "CUDA_ERROR_NOT_FOUND", "not found"),
    recoverable(600, "CUDA_ERROR_NOT_READY", "not ready"),
    fatal(700, "CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel used an illegal address"),
    recoverable(701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "launch with too many threads or registers"),
    fatal(702, "CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel ran too long"),
    recoverable(703, "CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", "incompatible texturing"),
    recoverable(704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is on already"),
    recoverable(705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access is not on"),
    recoverable(708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "the primary context is active"),
    fatal(709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "the context was destroyed"),
    fatal(710, "CUDA_ERROR_ASSERT", "an assertion failed in a kernel"),
    recoverable(712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "this memory is page-locked already"),
    recoverable(713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "this memory is not page-locked"),
    fatal(714, "CUDA_ERROR_HARDWARE_STACK_ERROR", "a kernel's stack was damaged"),
    fatal(715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "a kernel met an illegal instruction"),
    fatal(716, "CUDA_ERROR_MISALIGNED_ADDRESS", "a kernel used a misaligned address"),
    fatal(717, "CUDA_ERROR_INVALID_ADDRESS_SPACE", "a kernel used an address of the wrong space"),
    fatal(718, "CUDA_ERROR_INVALID_PC", "a kernel's program counter left its program"),
    fatal(719, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed while it ran"),
    recoverable(720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "cooperative launch with too many blocks"),
    recoverable(800, "CUDA_ERROR_NOT_PERMITTED", "not permitted"),
    recoverable(801, "CUDA_ERROR_NOT_SUPPORTED", "not supported on this system"),
    recoverable(
        802,
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "the system is not ready: is the fabric manager running?",
    ),
    recoverable(
        803,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "libcuda and the kernel's driver have different versions",
    ),
    recoverable(
        804,
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "this libcuda is too new for the kernel's driver",
    ),
    recoverable(805, "CUDA_ERROR_MPS_CONNECTION_FAILED", "the MPS server cannot be reached"),
    recoverable(807, "CUDA_ERROR_MPS_SERVER_NOT_READY", "the MPS server is not ready"),
    recoverable(808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", "the MPS server has too many clients"),
    fatal(810, "CUDA_ERROR_MPS_CLIENT_TERMINATED", "the MPS server ended this client"),
    recoverable(900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "not possible while a graph is captured"),
    recoverable(901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "the capture was broken by an earlier error"),
    recoverable(902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "two captures would become one"),
    recoverable(903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture began on another stream"),
    recoverable(904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "the capture has a branch that was not joined"),
    recoverable(905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "the capture would depend on work outside of it"),
    recoverable(906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "the capture would depend on the default stream"),
    recoverable(907, "CUDA_ERROR_CAPTURED_EVENT", "the event was recorded in a capture"),
    recoverable(908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "the capture began on another thread"),
    recoverable(909, "CUDA_ERROR_TIMEOUT", "timed out"),
    fatal(911, "CUDA_ERROR_EXTERNAL_DEVICE", "a device outside of CUDA failed"),
    fatal(999, "CUDA_ERROR_UNKNOWN", "unknown error"),
];

/// What an error code of the driver, or of the CUDA runtime, which shares those of running kernels, means for the device. A
/// code that is not known is fatal: results of a device in doubt are not published.
pub fn severity(code: u32) -> Severity {
    known(code).map_or(Severity::Fatal, |known| known.severity)
}

fn known(code: u32) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.code == code)
}

impl CallError {
    /// What it means for the device.
    pub fn severity(&self) -> Severity {
        severity(self.code)
    }

    /// What it means for a pipeline that was at `stage`: [`PipelineError::DeviceLost`] if fatal, else
    /// [`PipelineError::Stage`].
    pub fn in_stage(self, stage: &'static str) -> PipelineError {
        match self.severity() {
            Severity::Fatal => PipelineError::DeviceLost { stage, source: Box::new(self) },
            Severity::Recoverable => PipelineError::Stage { stage, source: Box::new(self) },
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, code } = self;
        match known(*code) {
            Some(Known { name, meaning, .. }) => write!(f, "{call}: {meaning} ({name}, {code})"),
            None => write!(f, "{call}: error {code}, which this program does not know"),
        }
    }
}

impl std::error::Error for CallError {}

/// A version of CUDA, as the driver counts: `13.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion {
    /// Programs made for another major version may not run.
    pub major: u32,
    /// Programs made for a newer minor version run.
    pub minor: u32,
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why there is no device to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The driver's library is in none of the places where it is looked for.
    #[error(
        "the NVIDIA driver was not found; the system's loader says {reason} (LD_LIBRARY_PATH: {search_path}); install \
         NVIDIA's driver for CUDA {OLDEST_DRIVER} or newer, and give a container access to it"
    )]
    NoDriver {
        /// What the loader says to `libcuda.so.1`.
        reason: String,
        /// `LD_LIBRARY_PATH`.
        search_path: String,
    },
    /// The library lacks a function.
    #[error("the NVIDIA driver {library} lacks {function}: install CUDA {OLDEST_DRIVER} or newer's driver")]
    Incomplete {
        /// The library that was opened.
        library: String,
        /// The first function that it lacks.
        function: &'static str,
    },
    /// The driver is older than [`OLDEST_DRIVER`].
    #[error("the NVIDIA driver is too old: it is for CUDA {found}, and {OLDEST_DRIVER} or newer is needed")]
    DriverTooOld {
        /// What there is.
        found: DriverVersion,
    },
    /// The driver works and sees no GPU.
    #[error("the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES: {visible}); `nvidia-smi -L` lists them")]
    NoDevice {
        /// `CUDA_VISIBLE_DEVICES`.
        visible: String,
    },
    /// There are fewer GPUs.
    #[error("there is no GPU {ordinal}: the driver sees {count}, counted from 0")]
    Ordinal {
        /// Which was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// This process has the device open.
    #[error("GPU {ordinal} is open in this process already: one thread owns a device")]
    InUse {
        /// Which.
        ordinal: usize,
    },
    /// This thread has a device open.
    #[error(
        "this thread has a GPU open already, and cannot open GPU {ordinal}: each has a thread of its own"
    )]
    ThreadInUse {
        /// Which was asked for.
        ordinal: usize,
    },
    /// A fatal error happened on the device: only a new process can use it.
    #[error("GPU {ordinal} was lost after a fatal error: restart this program to use it again")]
    Lost {
        /// Which.
        ordinal: usize,
    },
    /// The driver refuses.
    #[error("the NVIDIA driver refuses")]
    Driver(#[from] CallError),
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its place among those that the driver sees, from 0.
    pub ordinal: usize,
    /// E.g. `NVIDIA H200`.
    pub name: String,
    /// Compute capability: 9.0 is `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Bytes.
    pub total_memory: u64,
    /// The driver's version.
    pub driver: DriverVersion,
}

impl DeviceInfo {
    /// The name of its architecture for compilers, `sm_90`.
    pub fn architecture(&self) -> String {
        let (major, minor) = self.compute_capability;
        format!("sm_{major}{minor}")
    }
}

/// Memory of a device, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Not used by anybody.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// One GPU, open on the thread that holds this. The primary context, which the CUDA runtime and with it ONNX Runtime
/// use as well. Not `Send`: closed where it was opened, after everything made on it.
pub struct Device {
    context: Rc<Context>,
    info: DeviceInfo,
}

/// Invariant: `raw` is retained and current on the thread that made it, until drop.
pub(crate) struct Context {
    raw: sys::CUdevice,
    ordinal: usize,
    /// The fatal error that ended it.
    lost: Cell<Option<CallError>>,
    _claim: Claim,
    _not_send: PhantomData<*mut ()>,
}

/// A set of ordinals below [`MAX_DEVICES`].
struct Ordinals(AtomicU64);

impl Ordinals {
    /// Whether it is new.
    fn insert(&self, ordinal: usize) -> bool {
        self.0.fetch_or(1 << ordinal, Ordering::AcqRel) & 1 << ordinal == 0
    }

    fn remove(&self, ordinal: usize) {
        self.0.fetch_and(!(1 << ordinal), Ordering::AcqRel);
    }

    fn contains(&self, ordinal: usize) -> bool {
        self.0.load(Ordering::Acquire) & 1 << ordinal != 0
    }
}

thread_local! {
    static THREAD_HAS_DEVICE: Cell<bool> = const { Cell::new(false) };
}

/// That a device belongs to this thread.
struct Claim {
    ordinal: usize,
}

impl Claim {
    fn new(ordinal: usize) -> Result<Self, DeviceError> {
        if THREAD_HAS_DEVICE.get() {
            return Err(DeviceError::ThreadInUse { ordinal });
        }
        if !OPEN.insert(ordinal) {
            return Err(DeviceError::InUse { ordinal });
        }
        THREAD_HAS_DEVICE.set(true);
        Ok(Self { ordinal })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        THREAD_HAS_DEVICE.set(false);
        OPEN.remove(self.ordinal);
    }
}

/// What a call of the driver gave.
pub(crate) fn result(call: &'static str, code: sys::CUresult) -> Result<(), CallError> {
    match code as u32 {
        0 => Ok(()),
        code => Err(CallError { call, code }),
    }
}

/// Every GPU that the driver sees; at least one. Makes no context.
///
/// # Errors
/// See [`DeviceError`].
pub fn devices() -> Result<Vec<DeviceInfo>, DeviceError> {
    let driver = start_driver()?;
    (0..device_count()?).map(|ordinal| Ok(info(ordinal, raw_device(ordinal)?, driver)?)).collect()
}

/// Checks that the driver can be used, and starts it.
fn start_driver() -> Result<DriverVersion, DeviceError> {
    check_library()?;
    let mut version = 0;
    // SAFETY: the function may be called at any time; the pointer is to an integer.
    result("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    let version = version.unsigned_abs();
    let found = DriverVersion { major: version / 1000, minor: version % 1000 / 10 };
    if found < OLDEST_DRIVER {
        return Err(DeviceError::DriverTooOld { found });
    }
    // SAFETY: starting the driver more than once is allowed, on any thread.
    match result("cuInit", unsafe { sys::cuInit(0) }) {
        Err(CallError { code: 100, .. }) => Err(no_device()),
        other => Ok(other.map(|()| found)?),
    }
}

fn no_device() -> DeviceError {
    DeviceError::NoDevice { visible: variable("CUDA_VISIBLE_DEVICES") }
}

fn variable(name: &str) -> String {
    std::env::var_os(name).map_or_else(|| "not set".to_owned(), |value| format!("{value:?}"))
}

/// Finds out whether `cudarc` will find the driver's library and all functions in it.
fn check_library() -> Result<(), DeviceError> {
    let candidates = cudarc::get_lib_name_candidates("cuda");
    // SAFETY: opens the library that `cudarc` opens next; NVIDIA's has initialisers that any program may run.
    let opened = candidates.iter().find_map(|name| Some((name, unsafe { Library::new(name) }.ok()?)));
    let Some((name, library)) = opened else {
        // SAFETY: as above; all names failed, and this is the one that every driver has.
        let reason = match unsafe { Library::new("libcuda.so.1") } {
            Ok(_) => "nothing".to_owned(),
            Err(error) => loader_text(&error),
        };
        return Err(DeviceError::NoDriver { reason, search_path: variable("LD_LIBRARY_PATH") });
    };
    for &function in FUNCTIONS {
        // SAFETY: the symbol is looked up and not called.
        if unsafe { library.get::<*const ()>(function.as_bytes()) }.is_err() {
            return Err(DeviceError::Incomplete { library: name.clone(), function });
        }
    }
    Ok(())
}

fn device_count() -> Result<usize, DeviceError> {
    let mut count = 0;
    // SAFETY: the driver was started; the pointer is to an integer.
    result("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    match usize::try_from(count) {
        Ok(0) | Err(_) => Err(no_device()),
        Ok(count) => Ok(count.min(MAX_DEVICES)),
    }
}

fn raw_device(ordinal: usize) -> Result<sys::CUdevice, CallError> {
    let mut device = 0;
    // SAFETY: the driver was started; the pointer is to a device.
    result("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal as c_int) })?;
    Ok(device)
}

fn info(ordinal: usize, device: sys::CUdevice, driver: DriverVersion) -> Result<DeviceInfo, CallError> {
    let mut name = [0 as c_char; 256];
    // SAFETY: the driver writes at most 255 bytes and a zero.
    let code = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device) };
    result("cuDeviceGetName", code)?;
    // SAFETY: the name ends with a zero: the driver's, or else the array's last byte, which it leaves.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: the device is the driver's; the pointer is to an integer.
        result("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) })?;
        Ok(value.unsigned_abs())
    };
    let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let mut total = 0;
    // SAFETY: the device is the driver's; the pointer is to a size.
    result("cuDeviceTotalMem_v2", unsafe { sys::cuDeviceTotalMem_v2(&raw mut total, device) })?;
    let (compute_capability, total_memory) = ((major, minor), total as u64);
    Ok(DeviceInfo { ordinal, name, compute_capability, total_memory, driver })
}

impl Device {
    /// Opens a GPU on this thread.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        if ordinal < MAX_DEVICES && LOST.contains(ordinal) {
            return Err(DeviceError::Lost { ordinal });
        }
        let driver = start_driver()?;
        let count = device_count()?;
        if ordinal >= count {
            return Err(DeviceError::Ordinal { ordinal, count });
        }
        let claim = Claim::new(ordinal)?;
        let raw = raw_device(ordinal)?;
        let info = info(ordinal, raw, driver)?;
        let mut primary = std::ptr::null_mut();
        // SAFETY: the device is the driver's; it is released when `context` is dropped.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut primary, raw) };
        result("cuDevicePrimaryCtxRetain", code)?;
        let context =
            Rc::new(Context { raw, ordinal, lost: Cell::new(None), _claim: claim, _not_send: PhantomData });
        // SAFETY: the context was just retained.
        context.call("cuCtxSetCurrent", || unsafe { sys::cuCtxSetCurrent(primary) })?;
        Ok(Self { context, info })
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Its memory at this moment; other programs take from it too.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<DeviceMemory, CallError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current; the pointers are to sizes.
        let ask = || unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        self.context.call("cuMemGetInfo_v2", ask)?;
        Ok(DeviceMemory { free: free as u64, total: total as u64 })
    }

    /// Waits for everything on the device.
    ///
    /// # Errors
    /// Also the errors of what ran: kernels, and whatever another library ran in this context.
    pub fn synchronize(&self) -> Result<(), CallError> {
        // SAFETY: the context is current.
        self.context.call("cuCtxSynchronize", || unsafe { sys::cuCtxSynchronize() })
    }

    /// Whether the primary context is there, in the driver's own words.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_active(&self) -> Result<bool, CallError> {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: the device is the driver's; the pointers are to integers.
        self.context.call("cuDevicePrimaryCtxGetState", || unsafe {
            sys::cuDevicePrimaryCtxGetState(self.context.raw, &raw mut flags, &raw mut active)
        })?;
        Ok(active != 0)
    }

    /// The fatal error after which it cannot be used.
    pub fn lost(&self) -> Option<CallError> {
        self.context.lost.get()
    }

    /// Takes note of an error that another library met on this device. A fatal one ends it.
    pub fn note(&self, error: CallError) {
        self.context.note(error);
    }

    pub(crate) fn context(&self) -> &Rc<Context> {
        &self.context
    }
}

impl Context {
    /// Calls the driver, unless the device is lost: then its fatal error is what every call gives.
    pub(crate) fn call(
        &self,
        name: &'static str,
        call: impl FnOnce() -> sys::CUresult,
    ) -> Result<(), CallError> {
        if let Some(error) = self.lost.get() {
            return Err(error);
        }
        result(name, call()).inspect_err(|&error| self.note(error))
    }

    /// Gives something back to the driver: `call` runs unless the device is lost, and then `what` is left as it is. Says so
    /// if it is not given back. True if it was.
    pub(crate) fn give_back(
        &self,
        what: &'static str,
        name: &'static str,
        call: impl FnOnce() -> sys::CUresult,
    ) -> bool {
        match self.call(name, call) {
            Ok(()) => true,
            Err(error) => {
                let ordinal = self.ordinal;
                tracing::warn!(gpu = ordinal, %error, "{what} is left to the driver until this program ends");
                false
            }
        }
    }

    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    fn note(&self, error: CallError) {
        if error.severity() == Severity::Fatal && self.lost.get().is_none() {
            self.lost.set(Some(error));
            LOST.insert(self.ordinal);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: no context may be current on a thread.
        self.give_back("the thread's context", "cuCtxSetCurrent", || unsafe {
            sys::cuCtxSetCurrent(std::ptr::null_mut())
        });
        // SAFETY: retained when this was made, and everything made in it holds this.
        self.give_back("the device's context", "cuDevicePrimaryCtxRelease_v2", || unsafe {
            sys::cuDevicePrimaryCtxRelease_v2(self.raw)
        });
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("info", &self.info).field("lost", &self.lost()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_what_they_mean() {
        for code in [1, 2, 200, 209, 304, 500, 600, 701, 704, 712, 713, 720, 901, 908] {
            assert_eq!(severity(code), Severity::Recoverable, "{code}");
        }
        for code in [4, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 810, 911, 999] {
            assert_eq!(severity(code), Severity::Fatal, "{code}");
        }
        // Codes of drivers to come.
        assert_eq!(severity(799), Severity::Fatal);
        assert!(KNOWN.windows(2).all(|pair| pair[0].code < pair[1].code), "in order, each once");
    }

    #[test]
    fn names_are_the_drivers() {
        use sys::CUresult::*;
        for code in [
            CUDA_ERROR_OUT_OF_MEMORY,
            CUDA_ERROR_STUB_LIBRARY,
            CUDA_ERROR_CONTAINED,
            CUDA_ERROR_ILLEGAL_ADDRESS,
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
            CUDA_ERROR_LAUNCH_FAILED,
            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            CUDA_ERROR_UNKNOWN,
        ] {
            assert_eq!(known(code as u32).unwrap().name, format!("{code:?}"));
        }
    }

    #[test]
    fn every_function_that_is_called_is_looked_for_first() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
        let mut called = 0;
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        for file in files.filter(|path| path.is_file()) {
            let text = std::fs::read_to_string(file).unwrap();
            for call in text.split("sys::cu").skip(1) {
                let Some((name, _)) = call.split_once('(') else { continue };
                let name = format!("cu{name}");
                if name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
                    assert!(FUNCTIONS.contains(&name.as_str()), "{name}");
                    called += 1;
                }
            }
        }
        assert!(called >= 40, "{called}");
    }

    #[test]
    fn what_a_pipeline_hears() {
        let short = CallError { call: "cuMemAlloc_v2", code: 2 };
        assert_eq!(short.to_string(), "cuMemAlloc_v2: out of memory (CUDA_ERROR_OUT_OF_MEMORY, 2)");
        assert!(matches!(short.in_stage("start"), PipelineError::Stage { stage: "start", .. }));
        let broken = CallError { call: "cuStreamSynchronize", code: 700 };
        let text = "cuStreamSynchronize: a kernel used an illegal address (CUDA_ERROR_ILLEGAL_ADDRESS, 700)";
        assert_eq!(broken.to_string(), text);
        assert!(matches!(broken.in_stage("crop"), PipelineError::DeviceLost { stage: "crop", .. }));
        let new = CallError { call: "cuInit", code: 4711 };
        assert_eq!(new.to_string(), "cuInit: error 4711, which this program does not know");
    }

    #[test]
    fn what_is_missing_is_named() {
        let reason = "libcuda.so.1: no such file".to_owned();
        let text = DeviceError::NoDriver { reason, search_path: "not set".to_owned() }.to_string();
        assert!(text.contains("libcuda.so.1") && text.contains("LD_LIBRARY_PATH: not set"), "{text}");
        let found = DriverVersion { major: 11, minor: 4 };
        let text = DeviceError::DriverTooOld { found }.to_string();
        assert!(text.contains("11.4") && text.contains("12.0"), "{text}");
        let text = DeviceError::Ordinal { ordinal: 3, count: 2 }.to_string();
        assert_eq!(text, "there is no GPU 3: the driver sees 2, counted from 0");
    }

    #[test]
    fn whatever_the_machine_has_asking_gives_an_answer() {
        match devices() {
            Ok(devices) => assert!(!devices.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert!(Device::open(MAX_DEVICES).is_err());
    }

    #[test]
    fn a_device_belongs_to_one_thread_and_a_thread_to_one_device() {
        // Ordinals that no test machine has.
        let claim = Claim::new(61).unwrap();
        assert_eq!(Claim::new(62).err(), Some(DeviceError::ThreadInUse { ordinal: 62 }));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| Claim::new(61).err());
            assert_eq!(other.join().unwrap(), Some(DeviceError::InUse { ordinal: 61 }));
        });
        drop(claim);
        drop(Claim::new(61).unwrap());
        LOST.insert(60);
        assert_eq!(Device::open(60).err(), Some(DeviceError::Lost { ordinal: 60 }));
    }

    #[test]
    fn an_architecture_has_a_name() {
        let info = DeviceInfo {
            ordinal: 0,
            name: "GPU".to_owned(),
            compute_capability: (9, 0),
            total_memory: 0,
            driver: OLDEST_DRIVER,
        };
        assert_eq!(info.architecture(), "sm_90");
    }
}
