//! A pipeline worker's back end on a GPU, and what takes its place when the GPU is lost.
//!
//! Owns what `gpu.on_fatal` means. Knows no session: the pipeline's actor asks for the next back end after every failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use youquanti_actors::messages::Delivery;
use youquanti_actors::pipeline::{BoxedPipeline, BuildCause, BuildError, BuildPipeline};
use youquanti_actors::plane::DataPlane;
use youquanti_config as config;
use youquanti_config::{Config, OnFatal};
use youquanti_gpu::SetupError;
use youquanti_gpu::cuda::network::Precision;
use youquanti_gpu::cuda::{CudaOptions, CudaPipeline, DeviceError};
use youquanti_models::CameraId;

use crate::backend::{Gpu, Kernels};
use crate::wiring::{Built, Seeking};

/// Makes pipelines on this GPU for as long as it can be used.
pub(crate) fn build(
    seeking: Seeking,
    config: &Config,
    kernels: &Kernels,
    gpu: &Gpu,
    reason: &str,
) -> BuildPipeline {
    let (ordinal, provider, reason) = (gpu.ordinal, kernels.provider(), reason.to_owned());
    let precision = match config.gpu.precision {
        config::Precision::Fp32 => Precision::Fp32,
        config::Precision::Tf32 => Precision::Tf32,
        config::Precision::Fp16 => Precision::Fp16,
    };
    let elsewhere = seeking.clone();
    let on_gpu = move |plane: &DataPlane, cameras: &[CameraId]| {
        let options = CudaOptions {
            provider: provider.clone(),
            precision,
            reason: reason.clone(),
            ..CudaOptions::new(seeking.faces(plane, cameras), ordinal)
        };
        let ring_of = |delivery: &Delivery| Some(delivery.frame.memory());
        match CudaPipeline::new(&options, Arc::clone(&plane.clock), ring_of) {
            Ok(pipeline) => Ok(Box::new(pipeline) as BoxedPipeline),
            // What a thread that hangs has open is as good as lost.
            Err(SetupError::Device(error @ (DeviceError::Lost { .. } | DeviceError::InUse { .. }))) => {
                Err(GpuError::Lost(error.into()))
            }
            Err(error) => Err(GpuError::Other(error.into())),
        }
    };
    let on_processor = move |plane: &DataPlane, cameras: &[CameraId], reason: &str| {
        elsewhere.on_processor(plane, cameras, reason)
    };
    or_else(on_gpu, config.gpu.on_fatal, on_processor)
}

/// Why there is no pipeline on a GPU.
enum GpuError {
    /// This process cannot use the GPU again.
    Lost(BuildCause),
    /// The next attempt may succeed.
    Other(BuildCause),
}

/// A pipeline on a GPU for as long as that can be used, and then what was configured: the processor, or the session's
/// end. A GPU that cannot be used from the start is an error: the session was not meant to run without it.
fn or_else(
    on_gpu: impl Fn(&DataPlane, &[CameraId]) -> Result<BoxedPipeline, GpuError> + Send + Sync + 'static,
    on_fatal: OnFatal,
    on_processor: impl Fn(&DataPlane, &[CameraId], &str) -> Built + Send + Sync + 'static,
) -> BuildPipeline {
    let has_run = AtomicBool::new(false);
    Arc::new(move |plane, cameras| {
        let lost = match on_gpu(plane, cameras) {
            Ok(pipeline) => {
                has_run.store(true, Ordering::Relaxed);
                return Ok(pipeline);
            }
            Err(GpuError::Lost(lost)) if has_run.load(Ordering::Relaxed) => lost,
            Err(GpuError::Lost(error) | GpuError::Other(error)) => return Err(BuildError::Failed(error)),
        };
        match on_fatal {
            OnFatal::Cpu => on_processor(plane, cameras, &format!("on_fatal = \"cpu\": {lost}")),
            OnFatal::Stop => Err(BuildError::ForGood(lost)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use youquanti_actors::clock::SystemClock;
    use youquanti_gpu::NoPipeline;

    use super::*;

    /// What one life after the other is given, where the GPU answers so.
    #[track_caller]
    fn check(on_fatal: OnFatal, answers: &[Result<(), &'static str>], expected: &[&str]) {
        let left = Mutex::new(VecDeque::from(answers.to_vec()));
        let on_gpu = move |_: &DataPlane, _: &[CameraId]| match left.lock().unwrap().pop_front().unwrap() {
            Ok(()) => Ok(Box::new(NoPipeline::new("gpu")) as BoxedPipeline),
            Err("lost") => Err(GpuError::Lost("lost".into())),
            Err(other) => Err(GpuError::Other(other.into())),
        };
        let on_processor = |_: &DataPlane, _: &[CameraId], reason: &str| {
            Ok(Box::new(NoPipeline::new(&format!("cpu, {reason}"))) as BoxedPipeline)
        };
        let build = or_else(on_gpu, on_fatal, on_processor);
        let plane =
            DataPlane::new(Arc::new(SystemClock), "test".to_owned(), "/nowhere".into(), Vec::new(), 8);
        let lives: Vec<_> = answers
            .iter()
            .map(|_| match build(&plane, &[]) {
                Ok(pipeline) => pipeline.info().reason.clone(),
                Err(BuildError::Failed(cause)) => format!("failed, {cause}"),
                Err(BuildError::ForGood(cause)) => format!("for good, {cause}"),
            })
            .collect();
        assert_eq!(lives, expected);
    }

    #[test]
    fn the_processor_takes_over_once_the_gpu_is_lost() {
        let answers = [Ok(()), Err("no memory"), Ok(()), Err("lost"), Err("lost")];
        let over = "cpu, on_fatal = \"cpu\": lost";
        check(OnFatal::Cpu, &answers, &["gpu", "failed, no memory", "gpu", over, over]);
    }

    #[test]
    fn or_the_session_ends() {
        check(OnFatal::Stop, &[Ok(()), Err("lost")], &["gpu", "for good, lost"]);
    }

    #[test]
    fn a_gpu_that_was_lost_before_the_session_is_an_error_of_its_start() {
        for on_fatal in [OnFatal::Cpu, OnFatal::Stop] {
            check(on_fatal, &[Err("lost")], &["failed, lost"]);
        }
    }
}
