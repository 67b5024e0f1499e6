//! The networks' bytes and what they have to be.
//!
//! Each network is embedded, so that the program runs from one file. A back end may be given other bytes, read
//! from a folder by whoever does I/O: [`verify`] says whether they are what they are taken for.

use std::fmt;

use sha2::{Digest, Sha256};

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelId {
    /// YuNet: many faces, any size of input. The default detector. Rewritten to be fast on CPUs.
    FaceDetectMulti,
    /// BlazeFace, short range.
    FaceDetectShort,
    /// BlazeFace, full range.
    FaceDetectFull,
    /// 478 landmarks, as published: the faster one on GPUs.
    FaceLandmarks,
    /// 478 landmarks. Rewritten to be fast on CPUs.
    FaceLandmarksCpu,
    /// 52 blendshapes. Rewritten to be fast on CPUs.
    FaceBlendshapes,
    /// BlazePose's person detector.
    PoseDetect,
    /// BlazePose: 33 points of a body.
    PoseLandmarks,
}

/// What is known of a network's file. `onnx/models.toml` has where it comes from, its
/// shapes and its licence; `onnx/rewritten.toml` which file a rewritten one was made from.
#[derive(Clone, Copy, Debug)]
pub struct ModelFile {
    /// Which network.
    pub id: ModelId,
    /// Its id in `models.toml` or `rewritten.toml`, and in session files.
    pub name: &'static str,
    /// Name of its file.
    pub file: &'static str,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: &'static str,
    /// The embedded file.
    pub bytes: &'static [u8],
}

macro_rules! model {
    ($id:ident, $name:literal, $file:literal, $sha256:literal) => {
        ModelFile {
            id: ModelId::$id,
            name: $name,
            file: $file,
            sha256: $sha256,
            bytes: include_bytes!(concat!("../onnx/", $file)),
        }
    };
}

/// All networks, in the order of [`ModelId`]. Not a constant: of that each crate's code would have its own copy of the bytes.
#[rustfmt::skip]
pub static MODELS: [ModelFile; 8] = [
    model!(FaceDetectMulti, "face_detect_multi_v2", "yunet_v2.onnx", "71eae219380041f22c46a0e8d3630d2d69e60ccd9987d4a07dd7bcd91b6923f9"),
    model!(FaceDetectShort, "face_detect_short", "blazeface_short_128.onnx", "5a304520ce934dd9bc9bda726a47999a346a0ca8fcbe388080a3fc5a87326e8f"),
    model!(FaceDetectFull, "face_detect_full", "blazeface_full_192.onnx", "ca8c203b58efd316942f0570f25d59acb9f782b4fbfcfce6462e715021f9a29e"),
    model!(FaceLandmarks, "face_landmarks", "face_landmarks_478.onnx", "b3df5718dbd864bbb9b4b3ff9148c39629f7f14106b3be2bd39fc7803f69325d"),
    model!(FaceLandmarksCpu, "face_landmarks_cpu_v2", "face_landmarks_478_cpu_v2.onnx", "88e3ceac3a9b7ca8d51d4763a270e3fc5abd1ac39ae382322814809f325fe94a"),
    model!(FaceBlendshapes, "face_blendshapes_v2", "face_blendshapes_52_v2.onnx", "47f66eb36627571945daaaa944252eefca06a6b5cf179130d4fe21cb27f724fb"),
    model!(PoseDetect, "pose_detect", "pose_detect_224.onnx", "c6f319ce3b0c4d954354fc3f99b6ea8e5c66bc8e82d50a3b9d1504cfdd5b4cf6"),
    model!(PoseLandmarks, "pose_landmarks", "pose_landmarks_33.onnx", "5961a649283ad0b7e5283d35cbf02c888967abefd3fa73c08ce5d72c02b69881"),
];

/// Why bytes are not the network they are taken for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// They are something else, or damaged.
    #[error(
        "model {model} ({file}): checksum is {got} over {bytes} bytes, expected {expected}: \
         copy the file again, or leave the models folder away to use the embedded one"
    )]
    Checksum {
        /// Which network.
        model: ModelId,
        /// The name its file should have.
        file: &'static str,
        /// SHA-256 that it should have.
        expected: &'static str,
        /// SHA-256 that the bytes have.
        got: String,
        /// How many bytes there are.
        bytes: usize,
    },
}

impl ModelId {
    /// What is known of the network's file, and the embedded bytes.
    pub const fn file(self) -> &'static ModelFile {
        &MODELS[self as usize]
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file().name)
    }
}

/// Holds bytes against the manifest.
///
/// # Errors
/// [`ManifestError::Checksum`] where they are not the network's.
pub fn verify(id: ModelId, bytes: &[u8]) -> Result<(), ManifestError> {
    let ModelFile { file, sha256: expected, .. } = *id.file();
    let got: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if got == expected {
        return Ok(());
    }
    Err(ManifestError::Checksum { model: id, file, expected, got, bytes: bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_network_is_what_it_should_be() {
        for (at, model) in MODELS.iter().enumerate() {
            assert_eq!(model.id as usize, at, "{} is out of order", model.name);
            assert_eq!(verify(model.id, model.bytes), Ok(()));
        }
    }

    #[test]
    fn the_table_agrees_with_the_lists_beside_the_files() {
        let lists = [include_str!("../onnx/models.toml"), include_str!("../onnx/rewritten.toml")];
        let lists = lists.map(|text| toml::from_str::<toml::Table>(text).unwrap());
        let listed: Vec<_> = lists.iter().flat_map(|list| list["model"].as_array().unwrap()).collect();
        for model in &MODELS {
            let of = listed.iter().find(|of| of["id"].as_str() == Some(model.name)).unwrap();
            assert_eq!(of["file"].as_str(), Some(model.file));
            assert_eq!(of["sha256"].as_str(), Some(model.sha256));
            assert_eq!(of["bytes"].as_integer(), Some(model.bytes.len() as i64));
        }
    }

    #[test]
    fn a_damaged_file_is_named_with_what_to_do() {
        let mut bytes = ModelId::FaceDetectMulti.file().bytes.to_vec();
        bytes[1000] ^= 1;
        let error = verify(ModelId::FaceDetectMulti, &bytes).unwrap_err().to_string();
        for part in ["face_detect_multi_v2", "yunet_v2.onnx", "71eae219", "bytes", "embedded"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(verify(ModelId::FaceBlendshapes, &[]).is_err());
    }
}
