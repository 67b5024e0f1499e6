//! Draws real faces on a plain background, by the formulas of `tests/golden/README.md`.

use std::f32::consts::TAU;
use std::path::PathBuf;

use serde_json::Value;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use super::Rgb;
use super::golden::read_png;

/// A face to draw: portrait 0 is `astronaut.png`, 1 `grace_hopper.jpg`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Face {
    pub(crate) portrait: usize,
    pub(crate) mirrored: bool,
    /// Midpoint and distance of the outer eye corners, pixels; turn, radians.
    pub(crate) cx: f32,
    pub(crate) cy: f32,
    pub(crate) eye: f32,
    pub(crate) angle: f32,
}

struct Portrait {
    picture: Rgb,
    /// Midpoint and distance of the outer eye corners.
    eyes: [f32; 3],
}

pub(crate) struct Scene {
    portraits: [Portrait; 2],
}

/// Extent of what is pasted, in eye distances: half axes and how much lower than the eyes its centre is.
pub(crate) type Ellipse = [f32; 3];

/// The head alone.
pub(crate) const HEAD: Ellipse = [1.5, 1.6, 0.3];

impl Scene {
    pub(crate) fn load() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/portraits");
        let jpeg = std::fs::read(folder.join("grace_hopper.jpg")).unwrap();
        let mut decoder = JpegDecoder::new(ZCursor::new(&jpeg));
        let bytes = decoder.decode().unwrap();
        let (width, height) = decoder.dimensions().unwrap();
        let hopper = Rgb { width: width as u32, height: height as u32, bytes };
        Self {
            portraits: [
                Portrait { picture: read_png(&folder.join("astronaut.png")), eyes: [225.43, 102.40, 60.82] },
                Portrait { picture: hopper, eyes: [263.92, 189.19, 115.44] },
            ],
        }
    }

    pub(crate) fn draw(&self, width: u32, height: u32, ellipse: Ellipse, faces: &[Face]) -> Rgb {
        let mut picture = background(width, height);
        for face in faces {
            self.paste(&mut picture, ellipse, face);
        }
        picture
    }

    fn paste(&self, picture: &mut Rgb, [ew, eh, ey]: Ellipse, face: &Face) {
        let Portrait { picture: portrait, eyes: [sx, sy, sr] } = &self.portraits[face.portrait];
        let (pw, ph) = (portrait.width as usize, portrait.height as usize);
        let scale = face.eye / sr;
        let (sin, cos) = face.angle.sin_cos();
        let reach = 3.0 * face.eye;
        let range = |centre: f32, side: u32| {
            ((centre - reach).max(0.0) as usize, ((centre + reach) as usize + 1).min(side as usize))
        };
        let (columns, rows) = (range(face.cx, picture.width), range(face.cy, picture.height));
        for y in rows.0..rows.1 {
            for x in columns.0..columns.1 {
                let (dx, dy) = (x as f32 - face.cx, y as f32 - face.cy);
                let (right, down) = (dx * cos + dy * sin, -dx * sin + dy * cos);
                let (u, v) = (right / (ew * face.eye), (down - ey * face.eye) / (eh * face.eye));
                let alpha = ((1.0 - u.hypot(v)) * 8.0).clamp(0.0, 1.0);
                if alpha == 0.0 {
                    continue;
                }
                let from_x = if face.mirrored { sx - right / scale } else { sx + right / scale };
                let from_y = sy + down / scale;
                let (left, top) = (from_x.floor(), from_y.floor());
                let (fx, fy) = (from_x - left, from_y - top);
                let at = |x: f32, y: f32, channel: usize| {
                    let (x, y) = ((x.max(0.0) as usize).min(pw - 1), (y.max(0.0) as usize).min(ph - 1));
                    f32::from(portrait.bytes[(y * pw + x) * 3 + channel])
                };
                for channel in 0..3 {
                    let upper = at(left, top, channel) * (1.0 - fx) + at(left + 1.0, top, channel) * fx;
                    let lower =
                        at(left, top + 1.0, channel) * (1.0 - fx) + at(left + 1.0, top + 1.0, channel) * fx;
                    let value = (upper * (1.0 - fy) + lower * fy).round();
                    let to = &mut picture.bytes[(y * picture.width as usize + x) * 3 + channel];
                    *to = (f32::from(*to) + alpha * (value - f32::from(*to))) as u8;
                }
            }
        }
    }
}

/// Faces in a grid, turned and mirrored this way and that; `eye` is as in [`Face`].
pub(crate) fn crowd(columns: usize, rows: usize, width: u32, height: u32, eye: f32) -> Vec<Face> {
    let face = |at: usize| Face {
        portrait: at % 2,
        mirrored: at.is_multiple_of(3),
        cx: width as f32 * ((at % columns) as f32 + 0.5) / columns as f32,
        cy: height as f32 * ((at / columns) as f32 + 0.4) / rows as f32,
        eye,
        angle: 0.2 * (at as f32).sin(),
    };
    (0..columns * rows).map(face).collect()
}

pub(crate) fn background(width: u32, height: u32) -> Rgb {
    // Of each column and each row, as trigonometry for each pixel takes long.
    let columns: Vec<_> =
        (0..width).map(|x| x as f32).map(|x| (40.0 * (x / 190.0).sin(), (x / 140.0).sin_cos())).collect();
    let mut bytes = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        let y = y as f32;
        let (red_of_row, blue) = (90.0 + 20.0 * (y / 70.0).cos(), 120.0 + 35.0 * (y / 120.0).sin());
        let (sin_y, cos_y) = (y / 210.0).sin_cos();
        for &(red_of_column, (sin_x, cos_x)) in &columns {
            let green = 100.0 + 30.0 * (cos_x * cos_y - sin_x * sin_y);
            bytes.extend([red_of_row + red_of_column, green, blue].map(|v| v as u8));
        }
    }
    Rgb { width, height, bytes }
}

/// A clip of the golden data.
pub(crate) struct Clip {
    pub(crate) ellipse: Ellipse,
    pub(crate) frames: usize,
    fps: f32,
    paths: Vec<Value>,
}

impl Clip {
    pub(crate) fn new(clip: &Value) -> Self {
        let number = |value: &Value| value.as_f64().unwrap() as f32;
        let ellipse = clip["ellipse"].as_array().unwrap();
        Self {
            ellipse: [number(&ellipse[0]), number(&ellipse[1]), number(&ellipse[2])],
            frames: clip["frames"].as_u64().unwrap() as usize,
            fps: number(&clip["fps"]),
            paths: clip["paths"].as_array().unwrap().clone(),
        }
    }

    pub(crate) fn faces(&self, frame: usize) -> Vec<Face> {
        let t = frame as f32 / self.fps;
        let face = |path: &Value| {
            let number = |name: &str| path[name].as_f64().unwrap() as f32;
            let wave = |hertz: f32, phase: usize| {
                (TAU * hertz * t + path["phase"][phase].as_f64().unwrap() as f32).sin()
            };
            Face {
                portrait: usize::from(path["portrait"] == "grace_hopper.jpg"),
                mirrored: path["mirrored"].as_bool().unwrap(),
                cx: number("x0") + number("ax") * wave(0.13, 0),
                cy: number("y0") + number("ay") * wave(0.11, 1),
                eye: number("base") * (1.0 + number("zoom") * wave(0.17, 2)),
                angle: 20f32.to_radians() * wave(0.23, 3),
            }
        };
        self.paths.iter().map(face).collect()
    }
}
