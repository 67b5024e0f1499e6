//! The back end that seeks no faces: for recordings that are analysed later, and for machines that cannot.
//!
//! Never has room for a frame, so frames stay where newer ones take their place, and none of them is ever
//! written down as analysed. Needs no ONNX Runtime.

use youquanti_models::{BackendInfo, CameraId, Frame, FrameFaces, Pipeline, PipelineError};

/// A pipeline that takes no frames.
#[derive(Clone, Debug)]
pub struct NoPipeline {
    info: BackendInfo,
}

impl NoPipeline {
    /// `reason` says why no faces are sought, one sentence, for logs and the session file.
    pub fn new(reason: &str) -> Self {
        let info = BackendInfo {
            backend: "none",
            device: "no device".to_owned(),
            runtime: "no networks".to_owned(),
            models: Vec::new(),
            reason: reason.to_owned(),
        };
        Self { info }
    }
}

impl<F: Frame> Pipeline<F> for NoPipeline {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn has_room(&self) -> bool {
        false
    }

    /// Never called, because there is never room; a frame that comes all the same is given up.
    fn submit(&mut self, _: F) {}

    fn collect(&mut self, _: &mut FrameFaces) -> Option<(F, Result<(), PipelineError>)> {
        None
    }

    fn forget(&mut self, _: CameraId) {}
}
