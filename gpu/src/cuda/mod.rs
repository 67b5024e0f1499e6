//! What the pipeline needs of an NVIDIA GPU: the device and its errors, kernels, memory, streams and graphs.
//!
//! A thin layer over the driver's own calls, loaded at run time: a machine without the driver starts and says what is missing.
//! Everything here belongs to the thread that opened the [`Device`] and calls the driver no more once the device is lost.
//! [`network`] runs the networks on it, [`provider`] finds the runtime that does. Never knows cameras or faces.

pub mod abi;
pub mod compile;
pub mod device;
pub mod jpeg;
pub mod launch;
pub mod library;
pub mod memory;
pub mod network;
pub(crate) mod nvml;
pub mod pipeline;
pub mod provider;

pub use compile::{CompileError, Cubin, Nvrtc};
pub use device::{CallError, Device, DeviceError, DeviceInfo, Severity};
pub use launch::{Event, Graph, Kernels, Stream};
pub use memory::{DeviceBuffer, DevicePlan, DevicePtr, MemoryError, PinnedBuffer, RegisteredRing};
pub use pipeline::{CudaOptions, CudaPipeline, RingOf, StageTimes, check};
