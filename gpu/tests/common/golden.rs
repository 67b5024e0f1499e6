//! `tests/golden` of the repository: see its README.

use std::path::PathBuf;

use serde_json::Value;
use youquanti_models::LANDMARK_COUNT;

use super::Rgb;

pub(crate) struct Golden {
    pub(crate) index: Value,
    floats: Vec<f32>,
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

impl Golden {
    pub(crate) fn load() -> Self {
        let index = std::fs::read(folder().join("golden.json")).unwrap();
        let bytes = std::fs::read(folder().join("golden.bin")).unwrap();
        Self {
            index: serde_json::from_slice(&index).unwrap(),
            floats: bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
        }
    }

    pub(crate) fn array(&self, name: &str) -> &[f32] {
        let entry = &self.index["arrays"][name];
        let offset = entry["offset"].as_u64().unwrap_or_else(|| panic!("no array {name}")) as usize;
        let length: u64 = entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        &self.floats[offset..offset + length as usize]
    }

    pub(crate) fn rows<const N: usize>(&self, name: &str) -> &[[f32; N]] {
        self.array(name).as_chunks::<N>().0
    }

    /// Landmarks of each face.
    pub(crate) fn meshes(&self, name: &str) -> &[[[f32; 3]; LANDMARK_COUNT]] {
        self.rows::<3>(name).as_chunks::<LANDMARK_COUNT>().0
    }
}

pub(crate) fn picture(file: &str) -> Rgb {
    read_png(&folder().join(file))
}

pub(crate) fn read_png(path: &std::path::Path) -> Rgb {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    Rgb { width: info.width, height: info.height, bytes }
}
