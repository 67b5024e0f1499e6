//! The mathematics against golden data: what a reference pipeline and MediaPipe find in the same pictures.
//! See `tests/golden/README.md`.

use crate::blazeface::{self, BlazeFace, Letterbox};
use crate::detection::Detection;
use crate::face::LANDMARK_COUNT;
use crate::head_pose::{head_pose, mediapipe_depth_scale};
use crate::nms::{Nms, NmsMode};
use crate::yunet::{self, DetectorPlan, StrideOutput};

struct Golden {
    index: serde_json::Value,
    floats: Vec<f32>,
}

impl Golden {
    fn load() -> Self {
        let index = serde_json::from_str(include_str!("../../tests/golden/golden.json")).unwrap();
        let bytes: &[u8] = include_bytes!("../../tests/golden/golden.bin");
        let floats = bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
        Self { index, floats }
    }

    fn array(&self, name: &str) -> &[f32] {
        let entry = &self.index["arrays"][name];
        let offset = entry["offset"].as_u64().unwrap_or_else(|| panic!("no array {name}")) as usize;
        let shape = entry["shape"].as_array().unwrap();
        let length: u64 = shape.iter().map(|n| n.as_u64().unwrap()).product();
        &self.floats[offset..offset + length as usize]
    }

    fn rows<const N: usize>(&self, name: &str) -> &[[f32; N]] {
        self.array(name).as_chunks::<N>().0
    }

    /// Landmarks of each face.
    fn meshes(&self, name: &str) -> Vec<[[f32; 3]; LANDMARK_COUNT]> {
        let (points, _) = self.rows::<3>(name).as_chunks::<LANDMARK_COUNT>();
        points.to_vec()
    }
}

#[track_caller]
fn assert_near(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (at, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "number {at}: {a}, expected {b}");
    }
}

/// Score, box and keypoints as the golden rows have them.
fn row(detection: &Detection) -> Vec<f32> {
    let bbox = detection.bbox;
    let keypoints = &detection.keypoints[..detection.kind.keypoint_count()];
    let mut row = vec![detection.score, bbox.x0, bbox.y0, bbox.x1, bbox.y1];
    row.extend(keypoints.as_flattened());
    row
}

#[test]
fn blazeface_finds_what_the_reference_finds() {
    let golden = Golden::load();
    for (name, net) in [("short", BlazeFace::short()), ("full", BlazeFace::full())] {
        let array = |part: &str| golden.array(&format!("row4/{name}/{part}"));
        let letterbox = Letterbox::new(1280, 720, net.input_size());
        let mut found = Vec::new();
        let (values, logits) = (array("raw_regressors"), array("raw_scores"));
        net.decode(values, logits, blazeface::SCORE_THRESHOLD, &letterbox, &mut found);
        Nms::default().run(NmsMode::Weighted, blazeface::NMS_IOU, &mut found);

        let expected = golden.rows::<17>(&format!("row4/{name}/detections"));
        let rois = golden.rows::<5>(&format!("row4/{name}/rects"));
        assert_eq!((found.len(), found.len()), (expected.len(), rois.len()), "{name}");
        for ((found, expected), roi) in found.iter().zip(expected).zip(rois) {
            assert_near(&row(found), expected, 0.01);
            let got = found.roi();
            assert_near(&[got.cx, got.cy, got.width, got.height], &roi[..4], 0.01);
            assert_near(&[got.rotation], &roi[4..], 1e-4);
        }
    }
}

#[test]
fn yunet_finds_what_the_reference_finds() {
    let golden = Golden::load();
    let plan = DetectorPlan::new(1280, 720, 40.0, yunet::MAX_INPUT_SIDE);
    let outputs = yunet::STRIDES.map(|stride| {
        let array = |part: &str| golden.array(&format!("row4/yunet/raw_{part}_{stride}"));
        StrideOutput {
            class: array("cls"),
            object: array("obj"),
            bbox: array("bbox"),
            keypoints: array("kps"),
        }
    });
    let mut found = Vec::new();
    yunet::decode(&outputs, &plan, &plan.tiles[0], yunet::SCORE_THRESHOLD, &mut found);
    Nms::default().run(NmsMode::Plain, yunet::NMS_IOU, &mut found);
    let expected = golden.rows::<15>("row4/yunet/detections");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        // The golden rows are scaled by 2 without regard to pixel centres.
        let expected: Vec<_> =
            expected.iter().enumerate().map(|(at, v)| v + if at > 0 { 0.5 } else { 0.0 }).collect();
        assert_near(&row(found), &expected, 0.01);
    }
}

/// Angle in degrees between two poses, and distance of their origins as a part of the second's distance. The
/// second is in centimetres.
fn difference(pose: &[[f32; 4]; 4], reference: &[f32; 16]) -> (f64, f64) {
    let a = pose.map(|row| row.map(f64::from));
    let b: [[f64; 4]; 4] = std::array::from_fn(|i| std::array::from_fn(|j| f64::from(reference[4 * i + j])));
    // Of the rotation that is left between the two, the sine and the cosine.
    let left = |i: usize, j: usize| (0..3).map(|k| a[i][k] * b[j][k]).sum::<f64>();
    let sine = [left(2, 1) - left(1, 2), left(0, 2) - left(2, 0), left(1, 0) - left(0, 1)];
    let sine = sine.iter().map(|v| v * v).sum::<f64>().sqrt() / 2.0;
    let cosine = (left(0, 0) + left(1, 1) + left(2, 2) - 1.0) / 2.0;
    let length = |v: [f64; 3]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let apart = length([0, 1, 2].map(|i| a[i][3] * 100.0 - b[i][3]));
    (sine.atan2(cosine).to_degrees(), apart / length([0, 1, 2].map(|i| b[i][3])))
}

const PICTURES: [(&str, u32, u32); 4] =
    [("one", 1280, 720), ("grid4", 1280, 720), ("row4", 1280, 720), ("odd", 641, 479)];

#[test]
fn head_pose_of_mediapipes_landmarks_is_mediapipes() {
    let golden = Golden::load();
    for (picture, width, height) in PICTURES {
        let [w, h] = [width, height].map(|v| v as f32);
        let meshes = golden.meshes(&format!("{picture}/mediapipe/normalised"));
        let matrices = golden.rows::<16>(&format!("{picture}/mediapipe/matrices"));
        assert!(!meshes.is_empty() && meshes.len() == matrices.len());
        for (mesh, matrix) in meshes.iter().zip(matrices) {
            let pixels = mesh.map(|[x, y, z]| [x * w, y * h, z * w]);
            let (angle, apart) = difference(&head_pose(&pixels, width, height, 1.0).unwrap(), matrix);
            assert!(angle < 0.001 && apart < 1e-5, "{picture}: {angle} degrees, {apart}");
        }
    }
}

#[test]
fn head_pose_of_the_references_landmarks_is_mediapipes_within_a_tenth_of_a_degree() {
    let golden = Golden::load();
    for (picture, width, height) in PICTURES {
        let matrices = golden.rows::<16>(&format!("{picture}/mediapipe/matrices"));
        let meshes = golden.meshes(&format!("{picture}/short/landmarks"));
        let rois = golden.rows::<5>(&format!("{picture}/short/rects"));
        assert_eq!((meshes.len(), rois.len()), (matrices.len(), matrices.len()));
        for (mesh, roi) in meshes.iter().zip(rois) {
            let scale = mediapipe_depth_scale(roi[4], width, height);
            let pose = head_pose(mesh, width, height, scale).unwrap();
            // Order is the finder's own.
            let nearest =
                matrices.iter().map(|matrix| difference(&pose, matrix)).min_by(|a, b| a.1.total_cmp(&b.1));
            let (angle, apart) = nearest.unwrap();
            assert!(angle < 0.1 && apart < 0.001, "{picture}: {angle} degrees, {apart}");
        }
    }
}
