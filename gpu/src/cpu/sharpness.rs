//! How sharp the landmark network's picture of a face is. Pure; never changes the picture and never allocates.

/// Share of the crop's width and height that is looked at, in the middle: the face's own box, because the region around it
/// is half as large again.
const FACE_SHARE: f32 = 2.0 / 3.0;

/// Variance of the Laplacian of one plane of a crop of `side` × `side` pixels, as brightness of 0 to 255; 0 for a plane
/// without detail. It falls with blur of lens and motion, with noise filters, and with enlargement of a small face; it rises
/// with sensor noise and contrast, so compare it within one camera and light.
///
/// Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR, with the kernel
/// [0 1 0; 1 −4 1; 0 1 0].
pub fn sharpness(plane: &[f32], side: usize) -> f32 {
    let margin = ((side as f32 * (1.0 - FACE_SHARE) / 2.0) as usize).max(1);
    let end = side.saturating_sub(margin);
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for row in margin..end {
        let line =
            |row: usize, shift: usize| &plane[row * side + margin + shift - 1..row * side + end + shift - 1];
        let (above, below) = (line(row - 1, 1), line(row + 1, 1));
        let (left, here, right) = (line(row, 0), line(row, 1), line(row, 2));
        // Sums of one row in f32, of which several fit into a register.
        let (mut row_sum, mut row_squares) = ([0.0f32; LANES], [0.0f32; LANES]);
        for at in 0..here.len() {
            let laplacian = above[at] + below[at] + left[at] + right[at] - 4.0 * here[at];
            row_sum[at % LANES] += laplacian;
            row_squares[at % LANES] += laplacian * laplacian;
        }
        sum += f64::from(row_sum.iter().sum::<f32>());
        squares += f64::from(row_squares.iter().sum::<f32>());
        count += here.len() as f64;
    }
    if count == 0.0 {
        return 0.0;
    }
    let mean = sum / count;
    ((squares / count - mean * mean).max(0.0) * 255.0 * 255.0) as f32
}

/// Sums that are kept side by side.
const LANES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 48;

    fn plane(pixel: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        (0..SIDE * SIDE).map(|at| pixel(at % SIDE, at / SIDE)).collect()
    }

    fn blurred(plane: &[f32]) -> Vec<f32> {
        let at = |x: usize, y: usize| plane[y.min(SIDE - 1) * SIDE + x.min(SIDE - 1)];
        let mean = |x: usize, y: usize| {
            (0..9).map(|k| at((x + k % 3).saturating_sub(1), (y + k / 3).saturating_sub(1))).sum::<f32>()
                / 9.0
        };
        (0..SIDE * SIDE).map(|i| mean(i % SIDE, i / SIDE)).collect()
    }

    #[test]
    fn planes_without_detail_are_not_sharp() {
        for flat in [plane(|_, _| 0.5), plane(|x, y| x as f32 / 96.0 + y as f32 / 96.0)] {
            assert!(sharpness(&flat, SIDE) < 1e-3, "{}", sharpness(&flat, SIDE));
        }
        assert_eq!(sharpness(&[], 0), 0.0);
        assert_eq!(sharpness(&[1.0], 1), 0.0);
    }

    #[test]
    fn a_known_picture_has_the_known_variance() {
        // Of a chessboard of 0 and 1 each Laplacian is +4 or −4: the variance is 16, in levels of 255.
        let board = plane(|x, y| ((x + y) % 2) as f32);
        assert!((sharpness(&board, SIDE) / (16.0 * 255.0 * 255.0) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn blur_lowers_it_and_what_is_beside_the_face_does_not_count() {
        let picture = plane(|x, y| ((x * 7 + y * 13) % 11) as f32 / 10.0);
        let (once, twice) = (blurred(&picture), blurred(&blurred(&picture)));
        assert!(sharpness(&picture, SIDE) > 2.0 * sharpness(&once, SIDE));
        assert!(sharpness(&once, SIDE) > sharpness(&twice, SIDE));
        let beside = plane(|x, y| if y < 6 { 1.0 } else { picture[y * SIDE + x] });
        assert_eq!(sharpness(&beside, SIDE), sharpness(&picture, SIDE));
    }
}
