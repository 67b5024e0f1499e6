//! The networks of a pipeline: their bytes, from inside the program or from a folder, held against the manifest.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use youquanti_models::{ModelId, manifest};

use crate::SetupError;
use crate::options::Detector;

/// For what a network was written: the same weights, in the operations that are fast there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Gpu,
}

/// A network's bytes, which are what the manifest says.
pub(crate) struct NetworkBytes {
    pub(crate) id: ModelId,
    pub(crate) onnx: Cow<'static, [u8]>,
}

/// What a pipeline runs.
pub(crate) struct Networks {
    pub(crate) detector: NetworkBytes,
    pub(crate) landmarks: NetworkBytes,
    pub(crate) blendshapes: NetworkBytes,
}

impl Networks {
    /// Reads the networks from `folder`, or takes those inside the program.
    pub(crate) fn load(
        processor: Processor,
        detector: Detector,
        folder: Option<&Path>,
    ) -> Result<Self, SetupError> {
        let [detector, landmarks, blendshapes] = Self::ids(processor, detector);
        Ok(Self {
            detector: read(detector, folder)?,
            landmarks: read(landmarks, folder)?,
            blendshapes: read(blendshapes, folder)?,
        })
    }

    /// Everything that keeps the networks in `folder` from being used.
    pub(crate) fn problems(processor: Processor, detector: Detector, folder: &Path) -> Vec<SetupError> {
        Self::ids(processor, detector).into_iter().filter_map(|id| read(id, Some(folder)).err()).collect()
    }

    /// Detector, landmarks, blendshapes.
    fn ids(processor: Processor, detector: Detector) -> [ModelId; 3] {
        let detector = match detector {
            Detector::YuNet => ModelId::FaceDetectMulti,
            Detector::BlazeFaceShort => ModelId::FaceDetectShort,
            Detector::BlazeFaceFull => ModelId::FaceDetectFull,
        };
        let landmarks = match processor {
            Processor::Cpu => ModelId::FaceLandmarksCpu,
            Processor::Gpu => ModelId::FaceLandmarks,
        };
        [detector, landmarks, ModelId::FaceBlendshapes]
    }

    /// Name and SHA-256 of each.
    pub(crate) fn identities(&self) -> Vec<(String, String)> {
        [&self.detector, &self.landmarks, &self.blendshapes]
            .map(|network| network.id.file())
            .map(|file| (file.name.to_owned(), file.sha256.to_owned()))
            .to_vec()
    }
}

pub(crate) fn read(id: ModelId, folder: Option<&Path>) -> Result<NetworkBytes, SetupError> {
    let Some(folder) = folder else {
        return Ok(NetworkBytes { id, onnx: Cow::Borrowed(id.file().bytes) });
    };
    let path = folder.join(id.file().file);
    let bytes =
        fs::read(&path).map_err(|source| SetupError::ModelFile { model: id, path: path.clone(), source })?;
    manifest::verify(id, &bytes).map_err(|source| SetupError::Model { path, source })?;
    Ok(NetworkBytes { id, onnx: Cow::Owned(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_must_hold_every_network_and_the_right_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let load = || Networks::load(Processor::Cpu, Detector::YuNet, Some(folder.path()));
        assert!(matches!(load(), Err(SetupError::ModelFile { model: ModelId::FaceDetectMulti, .. })));

        for id in [ModelId::FaceDetectMulti, ModelId::FaceLandmarksCpu, ModelId::FaceBlendshapes] {
            fs::write(folder.path().join(id.file().file), id.file().bytes).unwrap();
        }
        let networks = load().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(networks.identities().len(), 3);

        let landmarks = folder.path().join(ModelId::FaceLandmarksCpu.file().file);
        let mut bytes = fs::read(&landmarks).unwrap();
        bytes[1000] ^= 1;
        fs::write(&landmarks, bytes).unwrap();
        let Err(SetupError::Model { path, .. }) = load() else { panic!("damaged network was taken") };
        assert_eq!(path, landmarks);
    }

    #[test]
    fn the_embedded_networks_need_no_folder() {
        for detector in [Detector::YuNet, Detector::BlazeFaceShort, Detector::BlazeFaceFull] {
            for processor in [Processor::Cpu, Processor::Gpu] {
                let networks =
                    Networks::load(processor, detector, None).unwrap_or_else(|error| panic!("{error}"));
                assert!(manifest::verify(networks.detector.id, &networks.detector.onnx).is_ok());
                assert!(manifest::verify(networks.landmarks.id, &networks.landmarks.onnx).is_ok());
            }
        }
    }
}
