//! Scene: a camera without a camera. Photographs of two people move, turn and grow on known paths.
//!
//! Owns the mathematics of the paths, the drawing and the ground truth; a frame depends on the options
//! and its index alone. Never copies anything but the background, never allocates per frame: only the
//! faces' places are drawn and converted anew.

use std::f64::consts::{PI, TAU};
use std::io::Cursor;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use youquanti_models::{Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp};

use super::{Asked, CaptureDevice, CaptureError, Captured, DeviceInfo, Pace, Pacer, StampSource};

/// What a scene shows, and how it is delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneOptions {
    /// Pixels, 16 to 16384.
    pub width: u32,
    /// Pixels, 16 to 16384.
    pub height: u32,
    /// Frames a second, more than 0, at most 1000.
    pub fps: f64,
    /// Any uncompressed format. YUYV and NV12 are BT.601 with 16…235, GREY is luminance 0…255.
    pub format: PixelFormat,
    /// How many faces, 0 to 64. With `paths` given, their number counts instead.
    pub faces: usize,
    /// Where they are and how they move.
    pub arrangement: Arrangement,
    /// Seed of the phases of the paths.
    pub seed: u64,
    /// Paths to follow instead of those that `arrangement`, `faces` and `seed` give.
    pub paths: Vec<FacePath>,
    /// Frames until the scene ends; `None` never.
    pub length: Option<u64>,
    /// What drives it.
    pub pace: Pace,
    /// Stamp of frame 0; `None` is the time of the first poll.
    pub start: Option<Timestamp>,
}

impl Default for SceneOptions {
    /// Two faces side by side, 1280×720 YUYV, 30 a second, without end.
    fn default() -> Self {
        Self {
            width: 1280,
            height: 720,
            fps: 30.0,
            format: PixelFormat::Yuyv,
            faces: 2,
            arrangement: Arrangement::Row,
            seed: 3,
            paths: Vec::new(),
            length: None,
            pace: Pace::Real,
            start: None,
        }
    }
}

/// How faces share the picture. Sizes are for 1280×720 and scale with the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrangement {
    /// Side by side; eye distance 120 px for one face, else at most 100.
    #[default]
    Row,
    /// In rows and columns; eye distance 105 px for up to four faces.
    Grid,
    /// In pairs that run across the whole picture against each other: twice in 7.7 s the later one
    /// passes in front of the earlier. An odd last face runs with the last pair.
    Cross,
}

impl Arrangement {
    /// Half width and half height of the visible part of a portrait, and how far its centre lies
    /// below the eyes, in eye distances.
    const fn ellipse(self) -> [f64; 3] {
        match self {
            Self::Row => [1.75, 2.3, 0.23],
            Self::Grid | Self::Cross => [1.5, 1.6, 0.3],
        }
    }
}

/// Whose photograph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Portrait {
    /// Eileen Collins, `astronaut.png`.
    Astronaut,
    /// Grace Hopper, `grace_hopper.jpg`.
    GraceHopper,
}

impl Portrait {
    const ALL: [Portrait; 2] = [Self::Astronaut, Self::GraceHopper];

    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Astronaut => include_bytes!("../../../models/portraits/astronaut.png"),
            Self::GraceHopper => include_bytes!("../../../models/portraits/grace_hopper.jpg"),
        }
    }

    /// Midpoint (x, y) and distance of the outer eye corners in the photograph, pixels.
    /// From `models/portraits/README.md`.
    const fn eyes(self) -> [f64; 3] {
        match self {
            Self::Astronaut => [225.43, 102.40, 60.82],
            Self::GraceHopper => [263.92, 189.19, 115.44],
        }
    }

    /// Angle of the line through the outer eye corners in the photograph, radians, clockwise: the
    /// mean of what the landmark network finds in the photograph and in its mirror image.
    fn tilt(self) -> f64 {
        match self {
            Self::Astronaut => 2.9_f64.to_radians(),
            Self::GraceHopper => -2.8_f64.to_radians(),
        }
    }
}

/// The path of one face. With t = frame / fps:
///
/// ```text
/// cx  = x0 + ax sin(2π·0.13 t + phase[0])     eye   = base (1 + zoom sin(2π·0.17 t + phase[2]))
/// cy  = y0 + ay sin(2π·0.11 t + phase[1])     angle = 20° sin(2π·0.23 t + phase[3])
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FacePath {
    /// Whose face.
    pub portrait: Portrait,
    /// The photograph is flipped left to right.
    pub mirrored: bool,
    /// Middle of the path, pixels.
    pub x0: f64,
    /// Reach to either side, pixels.
    pub ax: f64,
    /// Middle of the path, pixels.
    pub y0: f64,
    /// Reach up and down, pixels.
    pub ay: f64,
    /// Mean distance of the outer eye corners, pixels.
    pub base: f64,
    /// Relative change of that distance.
    pub zoom: f64,
    /// Phases of x, y, size and angle, radians.
    pub phase: [f64; 4],
}

/// Where one face is in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaceTruth {
    /// Which path: the same person has the same number in every frame, and stands before all with lower ones.
    pub person: usize,
    /// Whose face.
    pub portrait: Portrait,
    /// The photograph is flipped left to right.
    pub mirrored: bool,
    /// Midpoint of the outer eye corners, pixels.
    pub eye_mid: [f64; 2],
    /// Distance of the outer eye corners, pixels.
    pub eye_distance: f64,
    /// In-plane turn relative to the photograph, radians, clockwise in the picture.
    pub angle: f64,
    /// Outer eye corner that is on the picture's left when the face is upright, pixels.
    pub eye_left: [f64; 2],
    /// Outer eye corner that is on the picture's right when the face is upright, pixels.
    pub eye_right: [f64; 2],
    /// Part of the face, 0 to 1, that is in the picture and not behind another face.
    pub visible: f64,
}

/// Where a face is drawn: what [`FacePath`] says of one frame, rounded to `f32` as the golden data is.
#[derive(Clone, Copy, Debug)]
struct Pose {
    cx: f64,
    cy: f64,
    eye: f64,
    angle: f64,
}

impl FacePath {
    fn pose(&self, t: f64) -> Pose {
        let wave = |hertz: f64, phase: f64| (TAU * hertz * t + phase).sin();
        let rounded = |v: f64| f64::from(v as f32);
        Pose {
            cx: rounded(self.x0 + self.ax * wave(0.13, self.phase[0])),
            cy: rounded(self.y0 + self.ay * wave(0.11, self.phase[1])),
            eye: rounded(self.base * (1.0 + self.zoom * wave(0.17, self.phase[2]))),
            angle: rounded(20_f64.to_radians() * wave(0.23, self.phase[3])),
        }
    }
}

impl Pose {
    /// Distance of a point from the middle of the visible ellipse, 1 at its rim.
    fn radius(&self, ellipse: [f64; 3], x: f64, y: f64) -> f64 {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = (x - self.cx, y - self.cy);
        let u = (dx * cos + dy * sin) / (ellipse[0] * self.eye);
        let v = (-dx * sin + dy * cos - ellipse[2] * self.eye) / (ellipse[1] * self.eye);
        u.hypot(v)
    }

    /// A point given in eye distances from the eyes' midpoint, right and down along the face.
    fn at(&self, right: f64, down: f64) -> [f64; 2] {
        let (sin, cos) = self.angle.sin_cos();
        [self.cx + self.eye * (right * cos - down * sin), self.cy + self.eye * (right * sin + down * cos)]
    }
}

/// The paths of `n` faces. Row and grid are those of the golden data and the benches.
fn arrange(arrangement: Arrangement, n: usize, width: u32, height: u32, seed: u64) -> Vec<FacePath> {
    let (w, h) = (f64::from(width), f64::from(height));
    let unit = (w / 1280.0).min(h / 720.0);
    let mut random = SplitMix64(seed);
    (0..n)
        .map(|k| {
            let mut phase = [0.0; 4].map(|_: f64| TAU * random.unit());
            let [x0, ax, y0, ay, base, zoom] = match arrangement {
                Arrangement::Row => {
                    let cell = w / n as f64;
                    let base = if n == 1 { 120.0 * unit } else { (0.26 * cell).min(100.0 * unit) };
                    let ax = (cell / 2.0 - base * 2.0).clamp(8.0 * unit, 300.0 * unit);
                    let (ay, zoom) = if n == 1 { (80.0, 0.25) } else { (110.0, 0.1) };
                    [cell * (k as f64 + 0.5), ax, h / 2.0 - 30.0 * unit, ay * unit, base, zoom]
                }
                Arrangement::Grid => {
                    let columns = ((n as f64).sqrt().ceil() as usize).max(2);
                    let rows = n.div_ceil(columns).max(2);
                    let shrink = unit * 2.0 / columns.max(rows) as f64;
                    let x0 = w * ((k % columns) as f64 + 0.5) / columns as f64;
                    let y0 = h * ((k / columns) as f64 + 0.48) / rows as f64;
                    [x0, 130.0 * shrink, y0, 14.0 * shrink, 105.0 * shrink, 0.08]
                }
                Arrangement::Cross => {
                    let lanes = (n / 2).max(1);
                    let lane = (k / 2).min(lanes - 1);
                    let lane_height = h / lanes as f64;
                    phase[0] = [0.0, PI, PI / 2.0][k - 2 * lane];
                    let base = (0.25 * lane_height).min(110.0 * unit);
                    let y0 = lane_height * (lane as f64 + 0.5) - 0.3 * base;
                    [w / 2.0, w / 2.0 - 2.0 * base, y0, 0.05 * lane_height, base, 0.08]
                }
            };
            FacePath { portrait: Portrait::ALL[k % 2], mirrored: k >= 2, x0, ax, y0, ay, base, zoom, phase }
        })
        .collect()
}

/// Steele, Lea and Flood's SplitMix64 (2014): the state grows by the golden ratio, its bits are mixed.
struct SplitMix64(u64);

impl SplitMix64 {
    /// Evenly from 0 to below 1, 53 bits.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Red, green, blue, unused.
type Rgbx = [u8; 4];

/// A photograph at its own size and at halves of it.
struct Pyramid {
    levels: Vec<Level>,
}

struct Level {
    width: usize,
    height: usize,
    /// As floating point, which saves a fifth of the drawing.
    pixels: Vec<[f32; 4]>,
}

impl Pyramid {
    fn decode(portrait: Portrait) -> Result<Self, CaptureError> {
        let unreadable = |error: image::ImageError| CaptureError::Setup {
            what: "portrait",
            asked: format!("{portrait:?}"),
            got: error.to_string(),
        };
        let picture = image::ImageReader::new(Cursor::new(portrait.bytes()))
            .with_guessed_format()
            .map_err(|error| unreadable(error.into()))?
            .decode()
            .map_err(unreadable)?
            .into_rgb8();
        let mut levels = vec![Level {
            width: picture.width() as usize,
            height: picture.height() as usize,
            pixels: picture.pixels().map(|p| [p.0[0], p.0[1], p.0[2], 0].map(f32::from)).collect(),
        }];
        while let Some(last) = levels.last().filter(|l| l.width >= 16 && l.height >= 16) {
            let half = last.halved();
            levels.push(half);
        }
        Ok(Self { levels })
    }

    /// The smallest level that need not be shrunk below half when the photograph is drawn at `scale`,
    /// and its number: its pixels are 2^number wide.
    fn level(&self, scale: f64) -> (i32, &Level) {
        let number = ((1.0 / scale).log2().floor().max(0.0) as usize).min(self.levels.len() - 1);
        (number as i32, &self.levels[number])
    }
}

impl Level {
    /// Means of 2×2 pixels.
    fn halved(&self) -> Level {
        let (width, height) = (self.width / 2, self.height / 2);
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let at = |dx, dy| self.pixels[(2 * y + dy) * self.width + 2 * x + dx];
                let (a, b, c, d) = (at(0, 0), at(1, 0), at(0, 1), at(1, 1));
                pixels.push([0, 1, 2, 3].map(|i| (a[i] + b[i] + c[i] + d[i]) / 4.0));
            }
        }
        Level { width, height, pixels }
    }

    /// The bilinear mean at a point, rounded; outside, the nearest pixel of the edge.
    #[inline(always)]
    fn sample(&self, x: Fixed, y: Fixed) -> Rgbx {
        let x = x.clamp(0, ((self.width as Fixed - 1) << 32) - 1);
        let y = y.clamp(0, ((self.height as Fixed - 1) << 32) - 1);
        let at = (y >> 32) as usize * self.width + (x >> 32) as usize;
        let block = &self.pixels[at..at + self.width + 2];
        let (top, bottom) = ([block[0], block[1]], [block[self.width], block[self.width + 1]]);
        let (fx, fy) = (fraction(x), fraction(y));
        let mix = |a: [f32; 4], b: [f32; 4], f: f32| [0, 1, 2, 3].map(|i| a[i] + f * (b[i] - a[i]));
        let (top, bottom) = (mix(top[0], top[1], fx), mix(bottom[0], bottom[1], fx));
        mix(top, bottom, fy).map(|v| (v + 0.5) as u8)
    }
}

/// A coordinate times 2³², so that steps along a line add up exactly.
type Fixed = i64;

fn fixed(v: f64) -> Fixed {
    (v * (1_u64 << 32) as f64) as Fixed
}

/// What is behind the point, 0 to 1.
#[inline(always)]
fn fraction(v: Fixed) -> f32 {
    ((v as u32) >> 8) as i32 as f32 * (1.0 / (1 << 24) as f32)
}

/// Part of one line, from `.0` to before `.1`.
type Span = (u32, u32);

/// The lines that one face was last drawn on.
#[derive(Clone, Default)]
struct Drawn {
    first: u32,
    spans: Vec<Span>,
}

/// The drawing: everything about the frames but their timing.
pub struct Scene {
    layout: PictureLayout,
    fps: f64,
    ellipse: [f64; 3],
    paths: Vec<FacePath>,
    portraits: [Pyramid; 2],
    /// The empty room: as colours, and as the frame's bytes.
    background: Vec<Rgbx>,
    background_bytes: Vec<u8>,
    /// The room with the faces of the last frame that was drawn, `drawn` says where.
    canvas: Vec<Rgbx>,
    drawn: Vec<Drawn>,
}

impl Scene {
    /// Decodes the portraits and paints the background.
    ///
    /// # Errors
    /// [`CaptureError::Setup`] for options outside their ranges.
    pub fn new(options: &SceneOptions) -> Result<Self, CaptureError> {
        let outside = |what, asked: String, got: &str| {
            Err(CaptureError::Setup { what, asked, got: format!("possible is {got}") })
        };
        let (width, height, size) = (options.width, options.height, 16..=16384);
        if !size.contains(&width) || !size.contains(&height) {
            return outside("size", format!("{width}x{height}"), "16x16 to 16384x16384");
        }
        if !(options.fps > 0.0 && options.fps <= 1000.0) {
            return outside("fps", options.fps.to_string(), "more than 0, at most 1000");
        }
        if options.faces.max(options.paths.len()) > 64 {
            return outside("faces", options.faces.max(options.paths.len()).to_string(), "0 to 64");
        }
        if options.format == PixelFormat::Mjpg {
            return outside("format", options.format.name().into(), "any uncompressed format");
        }
        let paths = if options.paths.is_empty() {
            arrange(options.arrangement, options.faces, width, height, options.seed)
        } else {
            options.paths.clone()
        };
        let layout = PictureLayout::packed(width, height, options.format);
        let background = paint_background(width, height);
        let mut background_bytes = vec![0; layout.max_bytes()];
        for y in (0..height).step_by(2) {
            convert_lines(&background, layout, y, (0, width), &mut background_bytes);
        }
        let no_lines = Drawn { first: 0, spans: Vec::with_capacity(height as usize) };
        Ok(Self {
            layout,
            fps: options.fps,
            ellipse: options.arrangement.ellipse(),
            drawn: paths.iter().map(|_| no_lines.clone()).collect(),
            paths,
            portraits: [Pyramid::decode(Portrait::Astronaut)?, Pyramid::decode(Portrait::GraceHopper)?],
            canvas: background.clone(),
            background,
            background_bytes,
        })
    }

    /// Size and format of what [`Self::render`] writes.
    pub fn layout(&self) -> PictureLayout {
        self.layout
    }

    /// The paths of the faces, back to front.
    pub fn paths(&self) -> &[FacePath] {
        &self.paths
    }

    /// Where every face is in frame `index`, in the order of the paths: back to front.
    pub fn truth(&self, index: u64) -> Vec<FaceTruth> {
        let poses: Vec<Pose> = self.paths.iter().map(|p| p.pose(index as f64 / self.fps)).collect();
        self.paths
            .iter()
            .zip(&poses)
            .enumerate()
            .map(|(person, (path, pose))| {
                let tilt = if path.mirrored { -path.portrait.tilt() } else { path.portrait.tilt() };
                let (right, down) = (0.5 * tilt.cos(), 0.5 * tilt.sin());
                FaceTruth {
                    person,
                    portrait: path.portrait,
                    mirrored: path.mirrored,
                    eye_mid: [pose.cx, pose.cy],
                    eye_distance: pose.eye,
                    angle: pose.angle,
                    eye_left: pose.at(-right, -down),
                    eye_right: pose.at(right, down),
                    visible: self.visible_part(pose, &poses[person + 1..]),
                }
            })
            .collect()
    }

    /// Part of an ellipse from the brows to below the mouth that `in_front` and the edges leave.
    fn visible_part(&self, pose: &Pose, in_front: &[Pose]) -> f64 {
        const STEPS: i32 = 10;
        const HALF_FADED: f64 = 1.0 - 1.0 / 16.0;
        let (mut seen, mut all) = (0, 0);
        for i in -STEPS..=STEPS {
            for j in -STEPS..=STEPS {
                let (right, down) = (f64::from(i) / f64::from(STEPS), f64::from(j) / f64::from(STEPS));
                if right.hypot(down) > 1.0 {
                    continue;
                }
                let [x, y] = pose.at(0.7 * right, 0.5 + 0.9 * down);
                let inside = x >= 0.0
                    && y >= 0.0
                    && x <= f64::from(self.layout.width - 1)
                    && y <= f64::from(self.layout.height - 1);
                all += 1;
                if inside && in_front.iter().all(|f| f.radius(self.ellipse, x, y) >= HALF_FADED) {
                    seen += 1;
                }
            }
        }
        f64::from(seen) / f64::from(all)
    }

    /// Draws frame `index` into `slot`, whose first `layout().max_bytes()` bytes it overwrites.
    pub fn render(&mut self, index: u64, slot: &mut [u8]) {
        self.draw(index);
        slot[..self.background_bytes.len()].copy_from_slice(&self.background_bytes);
        for face in &self.drawn {
            let mut y = face.first;
            for pair in face.spans.chunks(2) {
                let from = pair.iter().map(|s| s.0).min().unwrap_or(0);
                let to = pair.iter().map(|s| s.1).max().unwrap_or(0);
                convert_lines(&self.canvas, self.layout, y, (from, to), slot);
                y += 2;
            }
        }
    }

    /// Draws frame `index` as RGB24 without padding, whatever the scene's format.
    pub fn render_rgb(&mut self, index: u64, rgb: &mut [u8]) {
        self.draw(index);
        for (out, pixel) in rgb.chunks_exact_mut(3).zip(&self.canvas) {
            out.copy_from_slice(&pixel[..3]);
        }
    }

    fn draw(&mut self, index: u64) {
        let width = self.layout.width as usize;
        for face in &self.drawn {
            for (y, &(from, to)) in (face.first as usize..).zip(&face.spans) {
                let line = y * width + from as usize..y * width + (to.max(from)) as usize;
                self.canvas[line.clone()].copy_from_slice(&self.background[line]);
            }
        }
        let t = index as f64 / self.fps;
        for (path, drawn) in self.paths.iter().zip(&mut self.drawn) {
            let pyramid = &self.portraits[path.portrait as usize];
            draw_face(&mut self.canvas, self.layout, pyramid, path, path.pose(t), self.ellipse, drawn);
        }
    }
}

/// Draws one face over what is there, fading over the outer eighth of the ellipse.
fn draw_face(
    canvas: &mut [Rgbx],
    layout: PictureLayout,
    pyramid: &Pyramid,
    path: &FacePath,
    pose: Pose,
    ellipse: [f64; 3],
    drawn: &mut Drawn,
) {
    const FADE: f64 = 8.0;
    let (width, height) = (f64::from(layout.width), f64::from(layout.height));
    let [sx, sy, sr] = path.portrait.eyes();
    let scale = pose.eye / sr;
    let (sin, cos) = pose.angle.sin_cos();
    let (number, level) = pyramid.level(scale);
    // From a point of the whole photograph to one of the level; a flip is a negative step.
    let shrink = 0.5_f64.powi(number);
    let flip = if path.mirrored { -1.0 } else { 1.0 };
    let on_level = |v: f64| (v + 0.5) * shrink - 0.5;
    let (step_x, step_y) = (fixed(flip * cos / scale * shrink), fixed(-sin / scale * shrink));

    let (a, b) = (ellipse[0] * pose.eye, ellipse[1] * pose.eye);
    let reach = a.max(b) + ellipse[2] * pose.eye;
    // Lines come in pairs, as chroma does.
    let first = (pose.cy - reach).floor().clamp(0.0, height) as u32 & !1;
    let last = (pose.cy + reach).ceil().clamp(0.0, height) as u32;
    drawn.first = first;
    drawn.spans.clear();
    for y in first..last {
        // u² + v² on this line is a quadratic of dx; between its roots is the ellipse.
        let dy = f64::from(y) - pose.cy;
        let (u0, v0) = (dy * sin / a, (dy * cos - ellipse[2] * pose.eye) / b);
        let (u1, v1) = (cos / a, -sin / b);
        let (q2, q1, q0) = (u1 * u1 + v1 * v1, u0 * u1 + v0 * v1, u0 * u0 + v0 * v0);
        let chord = |radius: f64| {
            let root = (q1 * q1 - q2 * (q0 - radius * radius)).max(0.0).sqrt();
            let edge = |dx: f64| (pose.cx + dx).ceil().clamp(0.0, width) as u32;
            (edge((-q1 - root) / q2), edge((-q1 + root) / q2))
        };
        let (from, to) = chord(1.0);
        let (full_from, full_to) = chord(1.0 - 1.0 / FADE);
        drawn.spans.push((from, to));

        let dx = f64::from(from) - pose.cx;
        let mut x = fixed(on_level(sx + flip * (dx * cos + dy * sin) / scale));
        let mut y_level = fixed(on_level(sy + (-dx * sin + dy * cos) / scale));
        let line =
            &mut canvas[(y * layout.width + from) as usize..(y * layout.width + to.max(from)) as usize];
        for (i, pixel) in (from..).zip(line) {
            let patch = level.sample(x, y_level);
            (x, y_level) = (x + step_x, y_level + step_y);
            if (full_from..full_to).contains(&i) {
                *pixel = patch;
                continue;
            }
            let dx = f64::from(i) - pose.cx;
            let radius = (q0 + dx * (2.0 * q1 + dx * q2)).max(0.0).sqrt();
            let alpha = ((1.0 - radius) * FADE).clamp(0.0, 1.0) as f32;
            for (below, above) in pixel.iter_mut().zip(patch) {
                *below = (f32::from(*below) + alpha * (f32::from(above) - f32::from(*below))) as u8;
            }
        }
    }
}

/// The empty room: smooth shades, from the golden data's formula.
fn paint_background(width: u32, height: u32) -> Vec<Rgbx> {
    let mut pixels = Vec::with_capacity((width * height) as usize);
    let columns: Vec<(f64, f64)> =
        (0..width).map(f64::from).map(|x| (90.0 + 40.0 * (x / 190.0).sin(), x / 140.0)).collect();
    for y in (0..height).map(f64::from) {
        let (red, blue) = (20.0 * (y / 70.0).cos(), 120.0 + 35.0 * (y / 120.0).sin());
        pixels.extend(
            columns.iter().map(|&(r, x)| {
                [(r + red) as u8, (100.0 + 30.0 * (x + y / 210.0).cos()) as u8, blue as u8, 0]
            }),
        );
    }
    pixels
}

/// BT.601, 16…235.
#[inline(always)]
fn luma(p: Rgbx) -> u8 {
    ((66 * i32::from(p[0]) + 129 * i32::from(p[1]) + 25 * i32::from(p[2]) + 128) / 256 + 16) as u8
}

/// BT.601, 16…240, of the mean of `1 << shift` pixels whose sums are given.
#[inline(always)]
fn chroma([r, g, b]: [i32; 3], shift: u32) -> [u8; 2] {
    let half = 128 << shift;
    let u = ((-38 * r - 74 * g + 112 * b + half) >> (8 + shift)) + 128;
    let v = ((112 * r - 94 * g - 18 * b + half) >> (8 + shift)) + 128;
    [u as u8, v as u8]
}

#[inline(always)]
fn sum<const N: usize>(pixels: [Rgbx; N]) -> [i32; 3] {
    [0, 1, 2].map(|i| pixels.iter().map(|p| i32::from(p[i])).sum())
}

/// Converts the pixels of `span` in lines `y` (even) and `y + 1` into a frame's bytes; where the format
/// has pixels share their chroma, the neighbours at the span's ends are converted too.
fn convert_lines(canvas: &[Rgbx], layout: PictureLayout, y: u32, span: Span, frame: &mut [u8]) {
    let (width, stride) = (layout.width as usize, layout.stride as usize);
    let from = span.0 as usize & !1;
    let to = (span.1 as usize).next_multiple_of(2).min(width);
    if from >= to {
        return;
    }
    let lines = y as usize..(y as usize + 2).min(layout.height as usize);
    for y in lines.clone() {
        let source = &canvas[y * width + from..y * width + to];
        let out = &mut frame[y * stride..(y + 1) * stride];
        match layout.format {
            PixelFormat::Yuyv => {
                let (out, last) = out[from * 2..].as_chunks_mut::<4>().0.split_at_mut(source.len() / 2);
                let (pairs, odd) = source.as_chunks::<2>();
                for (out, &[a, b]) in out.iter_mut().zip(pairs) {
                    let [u, v] = chroma(sum([a, b]), 1);
                    *out = [luma(a), u, luma(b), v];
                }
                if let ([out, ..], &[a]) = (last, odd) {
                    let [u, v] = chroma(sum([a, a]), 1);
                    *out = [luma(a), u, luma(a), v];
                }
            }
            PixelFormat::Nv12 => {
                for (out, &pixel) in out[from..].iter_mut().zip(source) {
                    *out = luma(pixel);
                }
                if width % 2 == 1 && to == width {
                    out[width] = out[width - 1];
                }
            }
            PixelFormat::Rgb24 => {
                for (out, p) in out[from * 3..].chunks_exact_mut(3).zip(source) {
                    out.copy_from_slice(&p[..3]);
                }
            }
            PixelFormat::Bgr24 => {
                for (out, p) in out[from * 3..].chunks_exact_mut(3).zip(source) {
                    out.copy_from_slice(&[p[2], p[1], p[0]]);
                }
            }
            PixelFormat::Grey => {
                for (out, p) in out[from..].iter_mut().zip(source) {
                    let weighed = 77 * u32::from(p[0]) + 150 * u32::from(p[1]) + 29 * u32::from(p[2]);
                    *out = ((weighed + 128) / 256) as u8;
                }
            }
            PixelFormat::Mjpg => {}
        }
    }
    if layout.format == PixelFormat::Nv12 {
        let plane = stride * layout.height as usize;
        let line = plane + stride * (lines.start / 2);
        let out = &mut frame[line + from..line + stride];
        let top = &canvas[lines.start * width + from..lines.start * width + to];
        let bottom = &canvas[(lines.end - 1) * width + from..(lines.end - 1) * width + to];
        for ((out, top), bottom) in out.chunks_exact_mut(2).zip(top.chunks(2)).zip(bottom.chunks(2)) {
            let last = top.len() - 1;
            out.copy_from_slice(&chroma(sum([top[0], top[last], bottom[0], bottom[last]]), 2));
        }
    }
}

/// A [`Scene`] as a camera.
pub struct SceneSource {
    scene: Scene,
    pacer: Pacer,
    info: DeviceInfo,
    length: Option<u64>,
}

impl SceneSource {
    /// Opens a scene. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// [`CaptureError::Setup`] for options outside their ranges.
    pub fn open(options: SceneOptions, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        let scene = Scene::new(&options)?;
        let layout = scene.layout();
        let info = DeviceInfo {
            driver: "scene".into(),
            name: format!("{} faces, {:?}", scene.paths().len(), options.arrangement),
            id: format!("scene:{:?}:{}:{}", options.arrangement, scene.paths().len(), options.seed)
                .to_lowercase(),
            asked: Asked {
                size: Some((options.width, options.height)),
                format: Some(options.format),
                fps: Some(options.fps),
            },
            layout,
            fps: options.fps,
            stamps: StampSource::Computed,
            stamp_resolution: Duration::from_nanos(1),
            pace: options.pace,
            is_live: false,
            controls: Vec::new(),
        };
        let pacer = Pacer::new(options.pace, options.fps, options.start, clock);
        Ok(Self { scene, pacer, info, length: options.length })
    }
}

impl CaptureDevice for SceneSource {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        let index = ready!(self.pacer.poll_next(cx));
        if let Some(frames) = self.length.filter(|&length| index >= length) {
            return Poll::Ready(Err(CaptureError::Ended { frames, note: None }));
        }
        let captured_at = self.pacer.captured_at(index);
        let (bytes_used, flags) = match slot {
            Some(slot) => {
                self.scene.render(index, slot);
                (self.info.layout.max_bytes(), FrameFlags::default())
            }
            None => (0, FrameFlags::NO_SLOT),
        };
        Poll::Ready(Ok(Captured {
            driver_seq: index as u32,
            captured_at,
            received_at: self.pacer.received_at(captured_at),
            bytes_used,
            flags,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use serde_json::Value;
    use youquanti_models::time::FakeClock;

    use super::super::testing::{TokioClock, capture};
    use super::*;

    fn scene(options: &SceneOptions) -> Scene {
        Scene::new(options).unwrap()
    }

    fn rgb(scene: &mut Scene, index: u64) -> Vec<u8> {
        let mut rgb = vec![0; (scene.layout.width * scene.layout.height * 3) as usize];
        scene.render_rgb(index, &mut rgb);
        rgb
    }

    fn render(scene: &mut Scene, index: u64) -> Vec<u8> {
        // A used slot: whatever is not overwritten shows.
        let mut bytes = vec![0x5a; scene.layout.max_bytes()];
        scene.render(index, &mut bytes);
        bytes
    }

    fn options(arrangement: Arrangement, faces: usize) -> SceneOptions {
        SceneOptions { arrangement, faces, ..SceneOptions::default() }
    }

    fn golden_paths(clip: &str) -> Vec<FacePath> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/golden.json");
        let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let face = |v: &Value| {
            let number = |key: &str| v[key].as_f64().unwrap();
            FacePath {
                portrait: if v["portrait"] == "astronaut.png" {
                    Portrait::Astronaut
                } else {
                    Portrait::GraceHopper
                },
                mirrored: v["mirrored"].as_bool().unwrap(),
                x0: number("x0"),
                ax: number("ax"),
                y0: number("y0"),
                ay: number("ay"),
                base: number("base"),
                zoom: number("zoom"),
                phase: [0, 1, 2, 3].map(|i| v["phase"][i].as_f64().unwrap()),
            }
        };
        golden["clips"][clip]["paths"].as_array().unwrap().iter().map(face).collect()
    }

    /// Pictures that another program drew by the same formulas. `worst` is how far a value may be off.
    #[track_caller]
    fn check_golden(name: &str, arrangement: Arrangement, index: u64, worst: u8) {
        let file = format!("{}/../tests/golden/{name}.png", env!("CARGO_MANIFEST_DIR"));
        let golden = image::open(file).unwrap().into_rgb8();
        let paths = golden_paths(name);
        let ours = rgb(&mut scene(&SceneOptions { paths, arrangement, ..SceneOptions::default() }), index);
        let off: Vec<u8> = ours.iter().zip(golden.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
        let (most, differing) = (*off.iter().max().unwrap(), off.iter().filter(|&&d| d > 0).count());
        let share = differing as f64 / off.len() as f64;
        assert!(most <= worst, "{name}: off by {most}, {share} of the values differ");
        assert!(share < if worst == 1 { 0.001 } else { 0.05 }, "{name}: {share} of the values differ");
    }

    #[test]
    fn draws_the_golden_pictures() {
        check_golden("one", Arrangement::Row, 0, 1);
        // With Grace Hopper, whose JPEG no two decoders read quite alike.
        check_golden("grid4", Arrangement::Grid, 54, 4);
        check_golden("row4", Arrangement::Row, 6, 4);
    }

    #[test]
    fn arranges_faces_as_the_golden_clips_do() {
        for (clip, arrangement) in
            [("one", Arrangement::Row), ("row4", Arrangement::Row), ("grid4", Arrangement::Grid)]
        {
            let golden = golden_paths(clip);
            let ours = arrange(arrangement, golden.len(), 1280, 720, 3);
            for (mut ours, golden) in ours.into_iter().zip(golden) {
                ours.phase = golden.phase;
                ours.y0 = f64::from(ours.y0 as f32);
                assert_eq!(ours, FacePath { y0: f64::from(golden.y0 as f32), ..golden }, "{clip}");
            }
        }
    }

    #[test]
    fn a_frame_depends_on_options_and_index_alone() {
        for arrangement in [Arrangement::Row, Arrangement::Grid, Arrangement::Cross] {
            let options = SceneOptions { width: 320, height: 240, ..options(arrangement, 3) };
            let (mut used, mut fresh) = (scene(&options), scene(&options));
            for index in [0, 7, 400, 7] {
                render(&mut used, index);
            }
            assert_eq!(render(&mut used, 30), render(&mut fresh, 30));
            let mut other = scene(&SceneOptions { seed: 4, ..options });
            assert_ne!(render(&mut other, 30), render(&mut fresh, 30));
        }
    }

    #[test]
    fn outside_the_faces_is_the_empty_room() {
        for arrangement in [Arrangement::Row, Arrangement::Grid, Arrangement::Cross] {
            let mut empty = scene(&options(arrangement, 0));
            let mut with = scene(&options(arrangement, 2));
            let (room, ellipse) = (rgb(&mut empty, 0), arrangement.ellipse());
            for index in [0, 45, 99] {
                let picture = rgb(&mut with, index);
                let poses: Vec<Pose> = with.paths.iter().map(|p| p.pose(index as f64 / 30.0)).collect();
                let mut drawn = 0;
                for y in 0..720 {
                    for x in 0..1280 {
                        let same = pixel(&picture, 1280, x, y) == pixel(&room, 1280, x, y);
                        let outside =
                            poses.iter().all(|p| p.radius(ellipse, f64::from(x), f64::from(y)) >= 1.0);
                        assert!(same || !outside, "{arrangement:?} frame {index} at {x}, {y}");
                        drawn += u32::from(!same);
                    }
                }
                assert!(drawn > 50_000, "{arrangement:?} frame {index}: only {drawn} pixels drawn");
            }
        }
    }

    fn pixel(rgb: &[u8], width: u32, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * width + x) * 3) as usize;
        [rgb[at], rgb[at + 1], rgb[at + 2]]
    }

    /// How far from the true eye corner the best match of the photograph's eye corner is, pixels.
    fn eye_off_by(picture: &[u8], face: &FaceTruth, corner: [f64; 2]) -> f64 {
        let pyramid = Pyramid::decode(face.portrait).unwrap();
        let photograph = &pyramid.levels[0];
        let [ex, ey, distance] = face.portrait.eyes();
        let flip = if face.mirrored { -1.0 } else { 1.0 };
        let (scale, (sin, cos)) = (face.eye_distance / distance, face.angle.sin_cos());
        // The eye's own neighbourhood in the photograph, as it would look around a corner at (x, y).
        let difference = |x: f64, y: f64| -> f64 {
            let mut sum = 0.0;
            for dy in -12..=12 {
                for dx in -12..=12 {
                    let (px, py) = (x + f64::from(dx), y + f64::from(dy));
                    let [cx, cy] = [corner[0] - face.eye_mid[0], corner[1] - face.eye_mid[1]];
                    let (rx, ry) = (cx + f64::from(dx), cy + f64::from(dy));
                    let right = (rx * cos + ry * sin) / scale;
                    let down = (-rx * sin + ry * cos) / scale;
                    let expected = photograph.sample(fixed(ex + flip * right), fixed(ey + down));
                    let seen = pixel(picture, 1280, px.round() as u32, py.round() as u32);
                    sum += (0..3).map(|i| (f64::from(expected[i]) - f64::from(seen[i])).powi(2)).sum::<f64>();
                }
            }
            sum
        };
        let mut best = (f64::INFINITY, 0.0);
        for y in -6..=6 {
            for x in -6..=6 {
                let score = difference(corner[0] + f64::from(x), corner[1] + f64::from(y));
                if score < best.0 {
                    best = (score, f64::from(x).hypot(f64::from(y)));
                }
            }
        }
        best.1
    }

    #[test]
    fn eyes_are_where_the_truth_says() {
        for (arrangement, faces) in [(Arrangement::Row, 2), (Arrangement::Grid, 4), (Arrangement::Cross, 2)] {
            let mut scene = scene(&options(arrangement, faces));
            for index in [3, 57] {
                let picture = rgb(&mut scene, index);
                for face in scene.truth(index).iter().filter(|f| f.visible > 0.95) {
                    for corner in [face.eye_left, face.eye_right] {
                        let off = eye_off_by(&picture, face, corner);
                        assert!(off <= 1.5, "{arrangement:?} {index} {face:?}: {off} px");
                    }
                }
            }
        }
    }

    #[test]
    fn the_photographs_eye_corners_are_dark_against_skin() {
        // Guards `tilt` itself: both corners, placed with it, lie on an edge of the photograph.
        for portrait in Portrait::ALL {
            let pyramid = Pyramid::decode(portrait).unwrap();
            let [x, y, distance] = portrait.eyes();
            for side in [-0.5, 0.5] {
                let (cx, cy) = (
                    x + side * distance * portrait.tilt().cos(),
                    y + side * distance * portrait.tilt().sin(),
                );
                let at = |along: f64| {
                    let p = pyramid.levels[0].sample(fixed(cx + along * side.signum()), fixed(cy));
                    f64::from(luma(p))
                };
                let (inside, outside) = ((at(-7.0) + at(-9.0)) / 2.0, (at(5.0) + at(7.0)) / 2.0);
                assert!(inside + 10.0 < outside, "{portrait:?} {side}: {inside} against {outside}");
            }
        }
    }

    #[test]
    fn crossing_faces_cover_each_other_and_part_again() {
        let scene = scene(&options(Arrangement::Cross, 2));
        let visible: Vec<f64> = (0..300).map(|k| scene.truth(k)[0].visible).collect();
        assert!(visible.iter().any(|&v| v < 0.1), "never covered");
        assert!(visible.iter().filter(|&&v| v > 0.99).count() > 100, "hardly ever free");
        assert!((0..300).all(|k| scene.truth(k)[1].visible > 0.99), "the face in front is never covered");
        let order = |k: u64| scene.truth(k)[0].eye_mid[0] < scene.truth(k)[1].eye_mid[0];
        assert!((0..300).any(|k| order(k) != order(0)), "they never pass");
    }

    #[test]
    fn paths_stay_in_the_picture() {
        for arrangement in [Arrangement::Row, Arrangement::Grid, Arrangement::Cross] {
            for faces in [1, 2, 3, 4, 5, 9, 16, 24] {
                for (width, height) in [(1280, 720), (640, 480), (1920, 1080), (320, 180), (480, 640)] {
                    let scene = scene(&SceneOptions { width, height, ..options(arrangement, faces) });
                    for index in (0..900).step_by(30) {
                        for face in scene.truth(index) {
                            for [x, y] in [face.eye_left, face.eye_right] {
                                let inside = (0.0..f64::from(width)).contains(&x)
                                    && (0.0..f64::from(height)).contains(&y);
                                assert!(inside, "{arrangement:?} {faces} {width}x{height} {face:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    /// Colours of a converted frame, by the inverse of the conversion, 0 to 255.
    fn decoded(layout: PictureLayout, bytes: &[u8], x: usize, y: usize) -> [f64; 3] {
        let (stride, height) = (layout.stride as usize, layout.height as usize);
        let yuv = |luma: u8, u: u8, v: u8| {
            let (l, u, v) = (1.164 * (f64::from(luma) - 16.0), f64::from(u) - 128.0, f64::from(v) - 128.0);
            [l + 1.596 * v, l - 0.392 * u - 0.813 * v, l + 2.017 * u]
        };
        let line = &bytes[y * stride..];
        match layout.format {
            PixelFormat::Yuyv => yuv(line[2 * x], line[2 * (x & !1) + 1], line[2 * (x & !1) + 3]),
            PixelFormat::Nv12 => {
                let chroma = &bytes[stride * (height + y / 2)..];
                yuv(line[x], chroma[x & !1], chroma[(x & !1) + 1])
            }
            PixelFormat::Rgb24 => [0, 1, 2].map(|i| f64::from(line[3 * x + i])),
            PixelFormat::Bgr24 => [2, 1, 0].map(|i| f64::from(line[3 * x + i])),
            PixelFormat::Grey => [f64::from(line[x]); 3],
            PixelFormat::Mjpg => unreachable!(),
        }
    }

    #[test]
    fn formats_show_the_same_picture() {
        for (width, height) in [(640, 360), (321, 241)] {
            for format in PixelFormat::ALL.into_iter().filter(|&f| f != PixelFormat::Mjpg) {
                let options = SceneOptions { width, height, format, ..options(Arrangement::Cross, 2) };
                let mut scene = scene(&options);
                render(&mut scene, 11);
                let (colours, bytes) = (rgb(&mut scene, 40), render(&mut scene, 40));
                let mut sum = 0.0;
                for y in 0..height {
                    for x in 0..width {
                        let mut expected = pixel(&colours, width, x, y).map(f64::from);
                        if format == PixelFormat::Grey {
                            let [r, g, b] = expected;
                            expected = [0.299 * r + 0.587 * g + 0.114 * b; 3];
                        }
                        let got = decoded(scene.layout, &bytes, x as usize, y as usize);
                        sum += (0..3).map(|i| (expected[i] - got[i]).abs()).sum::<f64>() / 3.0;
                    }
                }
                let mean = sum / f64::from(width * height);
                assert!(mean < 1.5, "{} {width}x{height}: {mean}", format.name());
                let exact = matches!(format, PixelFormat::Rgb24 | PixelFormat::Bgr24);
                assert!(!exact || mean == 0.0, "{} {width}x{height}: {mean}", format.name());
            }
        }
    }

    #[test]
    fn shrunk_portraits_are_averaged_not_picked() {
        let pyramid = Pyramid::decode(Portrait::GraceHopper).unwrap();
        let number = |scale| pyramid.level(scale).0;
        assert_eq!([1.4, 1.0, 0.51, 0.5, 0.26, 0.25, 0.001].map(number), [0, 0, 0, 1, 1, 2, 6]);
        let mean = |level: &Level| {
            level.pixels.iter().map(|p| f64::from(p[1])).sum::<f64>() / level.pixels.len() as f64
        };
        assert!((mean(&pyramid.levels[0]) - mean(&pyramid.levels[3])).abs() < 1.0);
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut SceneOptions), expected: &str) {
        let mut options = SceneOptions::default();
        change(&mut options);
        let message = Scene::new(&options).err().map(|e| e.to_string());
        assert_eq!(message.as_deref(), Some(expected));
    }

    #[test]
    fn refuses_what_it_cannot_draw() {
        check_refused(
            |o| o.format = PixelFormat::Mjpg,
            "format: asked for MJPG, got possible is any uncompressed format",
        );
        check_refused(|o| o.width = 8, "size: asked for 8x720, got possible is 16x16 to 16384x16384");
        check_refused(|o| o.fps = 0.0, "fps: asked for 0, got possible is more than 0, at most 1000");
        check_refused(|o| o.fps = f64::NAN, "fps: asked for NaN, got possible is more than 0, at most 1000");
        check_refused(|o| o.faces = 65, "faces: asked for 65, got possible is 0 to 64");
    }

    fn small(pace: Pace) -> SceneOptions {
        SceneOptions { width: 64, height: 48, faces: 1, length: Some(5), pace, ..SceneOptions::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn in_real_time_frames_come_on_the_beat() {
        let clock = Arc::new(TokioClock::default());
        let mut source = SceneSource::open(small(Pace::Real), clock.clone()).unwrap();
        let mut slot = vec![0; source.layout().max_bytes()];
        let start = clock.now();
        for k in 0..5_u32 {
            let frame = capture(&mut source, Some(&mut slot)).await.unwrap();
            assert_eq!((frame.driver_seq, frame.bytes_used), (k, slot.len()));
            assert_eq!(
                frame.captured_at,
                start + Duration::from_nanos((f64::from(k) * 1e9 / 30.0).round() as u64)
            );
            assert!(frame.received_at >= frame.captured_at);
        }
        let end = capture(&mut source, Some(&mut slot)).await;
        assert!(matches!(end, Err(CaptureError::Ended { frames: 5, note: None })), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn in_real_time_a_late_caller_misses_frames() {
        let clock = Arc::new(TokioClock::default());
        let options = SceneOptions { length: None, ..small(Pace::Real) };
        let mut source = SceneSource::open(options, clock).unwrap();
        assert_eq!(capture(&mut source, None).await.unwrap().driver_seq, 0);
        tokio::time::advance(Duration::from_millis(1010)).await;
        let mut sequence = Vec::new();
        for _ in 0..4 {
            sequence.push(capture(&mut source, None).await.unwrap().driver_seq);
        }
        assert_eq!(sequence, [28, 29, 30, 31], "three were buffered, the rest is lost");
    }

    #[tokio::test]
    async fn without_a_slot_a_frame_is_counted_and_thrown_away() {
        let mut source = SceneSource::open(small(Pace::Fast), Arc::new(FakeClock::default())).unwrap();
        let frame = capture(&mut source, None).await.unwrap();
        assert_eq!((frame.driver_seq, frame.bytes_used, frame.flags), (0, 0, FrameFlags::NO_SLOT));
        let mut slot = vec![0; source.layout().max_bytes()];
        let frame = capture(&mut source, Some(&mut slot)).await.unwrap();
        assert_eq!((frame.driver_seq, frame.flags), (1, FrameFlags::default()));
        assert_eq!(slot, render(&mut scene(&small(Pace::Fast)), 1));
    }

    #[tokio::test]
    async fn lossless_runs_agree_and_never_wait() {
        let run = || {
            let options = SceneOptions { start: Some(Timestamp(1_000)), ..small(Pace::Lossless) };
            let mut source = SceneSource::open(options, Arc::new(FakeClock::default())).unwrap();
            let mut slot = vec![0; source.layout().max_bytes()];
            let mut frames = Vec::new();
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Ok(frame)) = source.poll_capture(&mut cx, Some(&mut slot)) {
                frames.push((frame, slot.clone()));
            }
            frames
        };
        let frames = run();
        assert_eq!(frames, run());
        let stamps: Vec<u64> = frames.iter().map(|(f, _)| f.captured_at.0).collect();
        assert_eq!(stamps, [1_000, 33_334_333, 66_667_667, 100_001_000, 133_334_333]);
        assert!(frames.iter().all(|(f, _)| f.received_at == f.captured_at));
    }
}
