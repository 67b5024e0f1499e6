//! The networks' bytes and what they have to be.
//!
//! Each network is embedded, so that the program runs from one file. A back end may be given other bytes, read
//! from a folder by whoever does I/O: [`verify`] says whether they are what they are taken for.

use std::fmt;

use sha2::{Digest, Sha256};

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelId {
    /// YuNet: many faces, any size of input. The default detector.
    FaceDetectMulti,
    /// BlazeFace, short range.
    FaceDetectShort,
    /// BlazeFace, full range.
    FaceDetectFull,
    /// 478 landmarks, for GPUs.
    FaceLandmarks,
    /// The same network written for CPUs.
    FaceLandmarksCpu,
    /// 52 blendshapes.
    FaceBlendshapes,
}

/// What is known of a network's file. `onnx/models.toml` has where it comes from, its shapes and its licence.
#[derive(Clone, Copy, Debug)]
pub struct ModelFile {
    /// Which network.
    pub id: ModelId,
    /// Its id in `models.toml`, configuration and session files.
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

/// All networks, in the order of [`ModelId`].
#[rustfmt::skip]
pub const MODELS: [ModelFile; 6] = [
    model!(FaceDetectMulti, "face_detect_multi", "yunet.onnx", "287aa5457916f3ee46e4b4a7844371f9f5693d2debbdf0a23ad59a98fdc9b009"),
    model!(FaceDetectShort, "face_detect_short", "blazeface_short_128.onnx", "5a304520ce934dd9bc9bda726a47999a346a0ca8fcbe388080a3fc5a87326e8f"),
    model!(FaceDetectFull, "face_detect_full", "blazeface_full_192.onnx", "ca8c203b58efd316942f0570f25d59acb9f782b4fbfcfce6462e715021f9a29e"),
    model!(FaceLandmarks, "face_landmarks", "face_landmarks_478.onnx", "b3df5718dbd864bbb9b4b3ff9148c39629f7f14106b3be2bd39fc7803f69325d"),
    model!(FaceLandmarksCpu, "face_landmarks_cpu", "face_landmarks_478_cpu.onnx", "063887afc76a9ca18e51182de15206467acef5def4b26bb023264d5f3a88d756"),
    model!(FaceBlendshapes, "face_blendshapes", "face_blendshapes_52.onnx", "f7a1d809832556113fcbfb6e8727fd1d4ff859df2e6aa952996ccc94822847c9"),
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
    fn the_table_agrees_with_models_toml() {
        let listed: toml::Table = toml::from_str(include_str!("../onnx/models.toml")).unwrap();
        let text = |of: &toml::Value, key: &str| of[key].as_str().unwrap().to_owned();
        let mut listed: Vec<_> = listed["model"].as_array().unwrap().iter().collect();
        for model in &MODELS {
            let at = listed.iter().position(|of| text(of, "id") == model.name).unwrap();
            let of = listed.remove(at);
            assert_eq!((&*text(of, "file"), &*text(of, "sha256")), (model.file, model.sha256));
            assert_eq!(of["bytes"].as_integer(), Some(model.bytes.len() as i64));
        }
        assert!(listed.is_empty(), "not in the table: {listed:?}");
    }

    #[test]
    fn a_damaged_file_is_named_with_what_to_do() {
        let mut bytes = ModelId::FaceDetectMulti.file().bytes.to_vec();
        bytes[1000] ^= 1;
        let error = verify(ModelId::FaceDetectMulti, &bytes).unwrap_err().to_string();
        for part in ["face_detect_multi", "yunet.onnx", "287aa545", "227897 bytes", "embedded"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(verify(ModelId::FaceBlendshapes, &[]).is_err());
    }
}
