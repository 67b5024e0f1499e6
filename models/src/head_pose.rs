//! Head pose from landmarks: where the canonical face has to be to look like this, as MediaPipe's face
//! geometry module finds it. Centimetres inside, metres outside. Never allocates.
//!
//! The camera is MediaPipe's assumption, a vertical field of view of 63° about the picture's centre: the angles
//! hold for any camera, the distance is as good as the assumption.

use crate::face::LANDMARK_COUNT;

/// Vertical field of view that is assumed, degrees.
pub const FIELD_OF_VIEW_DEGREES: f64 = 63.0;

/// Landmarks of the mesh; those of the irises follow.
const MESH_COUNT: usize = 468;

/// What is smaller than this part of the canonical face is rounding: no camera has such pixels.
const SMALLEST_SCALE: f64 = 1e-9;

/// Points that the pose is fitted to: landmark, weight, position in the canonical face (centimetres, x right in
/// the picture, y up, z towards the camera). From `face_geometry.json`, which a test compares.
#[rustfmt::skip]
const BASIS: [(usize, f64, [f64; 3]); 33] = [
    (4, 0.0709099397, [0.0, -0.46317, 7.58658]),
    (6, 0.0321001448, [0.0, 2.47325, 5.78863]),
    (10, 0.00844655093, [0.0, 8.26178, 4.48153]),
    (33, 0.0587241687, [-4.44586, 2.66399, 3.17342]),
    (54, 0.00766708003, [-6.27933, 6.61543, 1.42585]),
    (67, 0.00907805935, [-3.52396, 8.00598, 3.72916]),
    (117, 0.00979193766, [-5.25866, 0.945811, 2.97431]),
    (119, 0.0145653682, [-3.30068, 0.861641, 3.87278]),
    (121, 0.0185913611, [-1.82073, 1.46795, 4.22412]),
    (127, 0.00519799441, [-7.74309, 2.365, -2.00517]),
    (129, 0.120625205, [-1.78579, -0.978284, 4.85047]),
    (132, 0.00556001859, [-7.2709, -2.89092, -2.25245]),
    (133, 0.0532861836, [-1.85643, 2.58524, 3.7579]),
    (136, 0.0668904558, [-5.08528, -7.17859, 0.714711]),
    (143, 0.0148165477, [-6.40757, 2.23602, 1.56084]),
    (147, 0.0142628336, [-6.23488, -1.94443, 1.66354]),
    (198, 0.0254621916, [-1.24681, 0.230297, 5.68104]),
    (205, 0.0472522788, [-3.83293, -1.53733, 4.13773]),
    (263, 0.0587241687, [4.44586, 2.66399, 3.17342]),
    (284, 0.00766708003, [6.27933, 6.61543, 1.42585]),
    (297, 0.00907805935, [3.52396, 8.00598, 3.72916]),
    (346, 0.00979193766, [5.25866, 0.945811, 2.97431]),
    (348, 0.0145653682, [3.30068, 0.861641, 3.87278]),
    (350, 0.0185913611, [1.82073, 1.46795, 4.22412]),
    (356, 0.00519799441, [7.74309, 2.365, -2.00517]),
    (358, 0.120625205, [1.78579, -0.978284, 4.85047]),
    (361, 0.00556001859, [7.2709, -2.89092, -2.25245]),
    (362, 0.0532861836, [1.85643, 2.58524, 3.7579]),
    (365, 0.0668904558, [5.08528, -7.17859, 0.714711]),
    (372, 0.0148165477, [6.40757, 2.23602, 1.56084]),
    (376, 0.0142628336, [6.23488, -1.94443, 1.66354]),
    (420, 0.0254621916, [1.24681, 0.230297, 5.68104]),
    (425, 0.0472522788, [3.83293, -1.53733, 4.13773]),
];

/// The landmarks that the pose is fitted to: those that move least with the face's expression.
pub const RIGID_LANDMARKS: [usize; BASIS.len()] = {
    let mut landmarks = [0; BASIS.len()];
    let mut at = 0;
    while at < landmarks.len() {
        landmarks[at] = BASIS[at].0;
        at += 1;
    }
    landmarks
};

/// The unit quaternion of a pose's rotation, real part first and not negative. Of the four ways to divide it takes the one with
/// the largest divisor: S. W. Shepperd 1978, "Quaternion from rotation matrix", J. Guidance and Control 1, 223.
pub fn quaternion(pose: &[[f32; 4]; 4]) -> [f32; 4] {
    let m = |row: usize, column: usize| pose[row][column];
    let trace = m(0, 0) + m(1, 1) + m(2, 2);
    let candidates = [
        [1.0 + trace, m(2, 1) - m(1, 2), m(0, 2) - m(2, 0), m(1, 0) - m(0, 1)],
        [m(2, 1) - m(1, 2), 1.0 + 2.0 * m(0, 0) - trace, m(0, 1) + m(1, 0), m(0, 2) + m(2, 0)],
        [m(0, 2) - m(2, 0), m(0, 1) + m(1, 0), 1.0 + 2.0 * m(1, 1) - trace, m(1, 2) + m(2, 1)],
        [m(1, 0) - m(0, 1), m(0, 2) + m(2, 0), m(1, 2) + m(2, 1), 1.0 + 2.0 * m(2, 2) - trace],
    ];
    let largest = (0..4).max_by(|&a, &b| candidates[a][a].total_cmp(&candidates[b][b])).unwrap_or(0);
    let quaternion = candidates[largest];
    let length = quaternion.iter().map(|part| part * part).sum::<f32>().sqrt();
    let sign = if quaternion[0] < 0.0 { -1.0 } else { 1.0 };
    quaternion.map(|part| sign * part / length)
}

/// By how much MediaPipe's z is longer than x and y for a face whose region (see
/// [`Roi::rotation`](crate::geometry::Roi)) is turned by `rotation`, radians: its z is in picture widths along an axis
/// that lies in the picture, so that it grows with roll in a picture that is not square. 1 for level faces.
pub fn mediapipe_depth_scale(rotation: f32, width: u32, height: u32) -> f64 {
    let (sin, cos) = f64::from(rotation).sin_cos();
    cos.hypot(sin * f64::from(width) / f64::from(height.max(1)))
}

/// The pose of a face in a picture of `width` × `height` pixels.
///
/// `landmarks` are pixels of that picture, z in the same unit, negative is nearer. They are used with z times
/// `depth_scale`: 1 keeps the face's shape, [`mediapipe_depth_scale`] gives MediaPipe's matrix.
///
/// Returns row-major 4×4: canonical face (metres, x right in the picture, y up, z out of the face) to camera
/// (metres, right-handed, x right, y up, looking along −z). The upper 3×3 is a rotation; MediaPipe's matrix is this
/// one with its last column in centimetres. `None` where a landmark is not finite or the points have no extent.
pub fn head_pose(
    landmarks: &[[f32; 3]; LANDMARK_COUNT],
    width: u32,
    height: u32,
    depth_scale: f64,
) -> Option<[[f32; 4]; 4]> {
    // Pixels on a plane at distance 1: MediaPipe's near plane.
    let pixel = 2.0 * (FIELD_OF_VIEW_DEGREES.to_radians() / 2.0).tan() / f64::from(height.max(1));
    let center = [f64::from(width) / 2.0, f64::from(height) / 2.0];
    let on_plane = |[x, y, z]: [f32; 3]| {
        [
            (f64::from(x) - center[0]) * pixel,
            (center[1] - f64::from(y)) * pixel,
            f64::from(z) * pixel * depth_scale,
        ]
    };
    let depth = landmarks[..MESH_COUNT].iter().map(|&p| on_plane(p)[2]).sum::<f64>() / MESH_COUNT as f64;
    let basis = BASIS.map(|(landmark, ..)| on_plane(landmarks[landmark]));

    // Size of the face on the plane, seen from afar.
    let first = Similarity::fit(&basis.map(|[x, y, z]| [x, y, -z]))?;
    // Each point moved along its ray to the depth at which the face is about as large as the canonical one.
    let metric = basis.map(|[x, y, z]| {
        let away = (z - depth + 1.0) / first.scale;
        [x * away, y * away, -away]
    });
    let fit = Similarity::fit(&metric)?;
    // MediaPipe divides the points by this scale and fits once more: the same rotation, with scale 1.
    let metres = fit.translation.map(|t| t / fit.scale / 100.0);
    let row = |i: usize| {
        let [a, b, c] = fit.rotation[i];
        [a, b, c, metres[i]].map(|v| v as f32)
    };
    let pose = [row(0), row(1), row(2), [0.0, 0.0, 0.0, 1.0]];
    pose.as_flattened().iter().all(|v| v.is_finite()).then_some(pose)
}

/// `x → scale · rotation · x + translation`.
#[derive(Clone, Copy, Debug)]
struct Similarity {
    scale: f64,
    rotation: [[f64; 3]; 3],
    translation: [f64; 3],
}

impl Similarity {
    /// The similarity that takes the canonical points to `targets` with the least sum of weighted squares.
    ///
    /// Horn 1987, "Closed-form solution of absolute orientation using unit quaternions": the rotation is the
    /// eigenvector of the largest eigenvalue of a symmetric 4×4 matrix, and so never a mirror image.
    fn fit(targets: &[[f64; 3]; BASIS.len()]) -> Option<Self> {
        let pairs = || {
            BASIS.iter().zip(targets).map(|(&(_, weight, canonical), &target)| (weight, canonical, target))
        };
        let total: f64 = pairs().map(|(weight, ..)| weight).sum();
        let (mut from, mut to) = ([0.0; 3], [0.0; 3]);
        for (weight, canonical, target) in pairs() {
            for axis in 0..3 {
                from[axis] += weight * canonical[axis] / total;
                to[axis] += weight * target[axis] / total;
            }
        }
        // s[i][j] = Σ w · canonical_i · target_j about both means.
        let mut s = [[0.0; 3]; 3];
        let mut extent = 0.0;
        for (weight, canonical, target) in pairs() {
            for i in 0..3 {
                let offset = canonical[i] - from[i];
                extent += weight * offset * offset;
                for j in 0..3 {
                    s[i][j] += weight * offset * (target[j] - to[j]);
                }
            }
        }
        let [[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]] = s;
        let (overlap, [w, x, y, z]) = largest_eigenpair([
            [xx + yy + zz, yz - zy, zx - xz, xy - yx],
            [yz - zy, xx - yy - zz, xy + yx, zx + xz],
            [zx - xz, xy + yx, yy - xx - zz, yz + zy],
            [xy - yx, zx + xz, yz + zy, zz - xx - yy],
        ]);
        // The eigenvalue is Σ w · target · (rotation · canonical): what the best scale is made of.
        let scale = overlap / extent;
        if !(scale.is_finite() && scale > SMALLEST_SCALE) {
            return None;
        }
        let rotation = [
            [w * w + x * x - y * y - z * z, 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), w * w - x * x + y * y - z * z, 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ];
        let turned = rotation.map(|[a, b, c]| a * from[0] + b * from[1] + c * from[2]);
        let translation = [0, 1, 2].map(|axis| to[axis] - scale * turned[axis]);
        Some(Self { scale, rotation, translation })
    }
}

/// The largest eigenvalue of a symmetric matrix and its eigenvector of length 1, by Jacobi's rotations.
fn largest_eigenpair(mut m: [[f64; 4]; 4]) -> (f64, [f64; 4]) {
    // Columns become the eigenvectors.
    let mut v: [[f64; 4]; 4] = std::array::from_fn(|i| std::array::from_fn(|j| f64::from(u8::from(i == j))));
    // Convergence is quadratic: about six sweeps reach the last bit.
    for _ in 0..12 {
        for p in 0..3 {
            for q in p + 1..4 {
                if m[p][q] == 0.0 {
                    continue;
                }
                let theta = (m[q][q] - m[p][p]) / (2.0 * m[p][q]);
                let tan = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cos = 1.0 / tan.hypot(1.0);
                let sin = tan * cos;
                for row in &mut m {
                    (row[p], row[q]) = (cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]);
                }
                let (above, below) = (m[p], m[q]);
                m[p] = std::array::from_fn(|i| cos * above[i] - sin * below[i]);
                m[q] = std::array::from_fn(|i| sin * above[i] + cos * below[i]);
                for row in &mut v {
                    (row[p], row[q]) = (cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]);
                }
            }
        }
    }
    let largest = (1..4).fold(0, |best, i| if m[i][i] > m[best][best] { i } else { best });
    (m[largest][largest], v.map(|row| row[largest]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_agrees_with_face_geometry_json() {
        let geometry: serde_json::Value =
            serde_json::from_str(include_str!("../onnx/face_geometry.json")).unwrap();
        assert_eq!(geometry["vertices"].as_array().unwrap().len(), MESH_COUNT);
        let listed = geometry["procrustes_basis"].as_array().unwrap();
        assert_eq!(listed.len(), BASIS.len());
        for (pair, (landmark, weight, position)) in listed.iter().zip(BASIS) {
            assert_eq!((pair[0].as_u64(), pair[1].as_f64()), (Some(landmark as u64), Some(weight)));
            for (axis, value) in position.into_iter().enumerate() {
                assert_eq!(geometry["vertices"][landmark][axis].as_f64(), Some(value));
            }
        }
    }

    /// Rodrigues' rotation about an axis, by an angle in radians.
    fn rotation(axis: [f64; 3], angle: f64) -> [[f64; 3]; 3] {
        let length = axis.iter().map(|v| v * v).sum::<f64>().sqrt();
        let [x, y, z] = axis.map(|v| v / length);
        let (sin, cos) = angle.sin_cos();
        let rest = 1.0 - cos;
        [
            [cos + x * x * rest, x * y * rest - z * sin, x * z * rest + y * sin],
            [y * x * rest + z * sin, cos + y * y * rest, y * z * rest - x * sin],
            [z * x * rest - y * sin, z * y * rest + x * sin, cos + z * z * rest],
        ]
    }

    fn determinant([a, b, c]: [[f64; 3]; 3]) -> f64 {
        a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
            + a[2] * (b[0] * c[1] - b[1] * c[0])
    }

    #[test]
    fn half_turns_and_their_quaternions() {
        for [a, b, c, d] in [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
            [0.5, -0.5, 0.5, 0.5f32],
        ] {
            let pose = [
                [1.0 - 2.0 * (c * c + d * d), 2.0 * (b * c - a * d), 2.0 * (b * d + a * c), 9.0],
                [2.0 * (b * c + a * d), 1.0 - 2.0 * (b * b + d * d), 2.0 * (c * d - a * b), 9.0],
                [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), 1.0 - 2.0 * (b * b + c * c), 9.0],
                [0.0, 0.0, 0.0, 1.0],
            ];
            assert_eq!(quaternion(&pose), [a, b, c, d]);
        }
    }

    #[test]
    fn a_mirrored_face_gets_a_rotation_and_no_mirror() {
        let fit = Similarity::fit(&BASIS.map(|(_, _, [x, y, z])| [-x, y, z])).unwrap();
        assert!((determinant(fit.rotation) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn no_pose_without_extent_or_with_a_hole() {
        assert_eq!(head_pose(&[[5.0; 3]; LANDMARK_COUNT], 640, 480, 1.0), None);
        let mut landmarks = std::array::from_fn(|i| [i as f32, (i * i % 97) as f32, 0.0]);
        landmarks[33][1] = f32::NAN;
        assert_eq!(head_pose(&landmarks, 640, 480, 1.0), None);
        assert_eq!(head_pose(&[[f32::INFINITY; 3]; LANDMARK_COUNT], 0, 0, 1.0), None);
    }

    #[test]
    fn depth_is_stretched_by_roll_in_wide_pictures() {
        let check = |degrees: f32, width, height, expected: f64| {
            assert!((mediapipe_depth_scale(degrees.to_radians(), width, height) - expected).abs() < 1e-6);
        };
        check(0.0, 1280, 720, 1.0);
        check(90.0, 1280, 720, 16.0 / 9.0);
        check(30.0, 500, 500, 1.0);
    }

    proptest! {
        #[test]
        fn a_known_similarity_is_found(
            axis in prop::array::uniform3(-1f64..1.0), angle in -3.1f64..3.1, scale in 0.001f64..100.0,
            translation in prop::array::uniform3(-200f64..200.0),
        ) {
            prop_assume!(axis.iter().map(|v| v * v).sum::<f64>() > 0.01);
            let r = rotation(axis, angle);
            let place = |[x, y, z]: [f64; 3]| -> [f64; 3] {
                std::array::from_fn(|i| scale * (r[i][0] * x + r[i][1] * y + r[i][2] * z) + translation[i])
            };
            let fit = Similarity::fit(&BASIS.map(|(_, _, canonical)| place(canonical))).unwrap();
            prop_assert!((fit.scale / scale - 1.0).abs() < 1e-9);
            for (got, expected) in fit.translation.iter().zip(translation) {
                prop_assert!((got - expected).abs() < 1e-7 * (1.0 + scale));
            }
            for (got, expected) in fit.rotation.as_flattened().iter().zip(r.as_flattened()) {
                prop_assert!((got - expected).abs() < 1e-9);
            }
        }

        #[test]
        fn whatever_the_landmarks_the_pose_is_finite(values in prop::collection::vec(any::<f32>(), 40)) {
            let landmarks = std::array::from_fn(|i| [0, 1, 2].map(|axis| values[(i * 3 + axis) % values.len()]));
            if let Some(pose) = head_pose(&landmarks, 640, 480, 1.0) {
                prop_assert!(pose.as_flattened().iter().all(|v| v.is_finite()));
            }
        }
    }
}
