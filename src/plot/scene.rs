//! A drawing as a list of shapes, and its two forms: SVG, whose texts stay texts, and PNG.
//!
//! Coordinates are units of a page, x right, y down. Owns the one embedded font, with which texts are measured and, for PNG,
//! drawn; what it has no glyph for is drawn as an empty box.

use std::fmt::Write;

use tiny_skia::{
    FillRule, IntSize, Paint, PathBuilder, Pixmap, PixmapPaint, Rect, Stroke, StrokeDash, Transform,
};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

use crate::xml::escaped;

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// How thick letters are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Regular,
    Medium,
}

/// Which point of a text its place is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

pub(super) struct Text {
    pub(super) x: f32,
    /// Of the baseline.
    pub(super) y: f32,
    pub(super) text: String,
    pub(super) size: f32,
    pub(super) weight: Weight,
    pub(super) anchor: Anchor,
    pub(super) colour: Colour,
}

/// One thing that is drawn; later ones lie over earlier ones.
pub(super) enum Shape {
    /// A rectangle with corners rounded by `radius`.
    Box {
        x: f32,
        y: f32,
        width: f32,
        height: f32,
        radius: f32,
        colour: Colour,
        opacity: f32,
    },
    /// Straight lines through these points.
    Line {
        points: Vec<[f32; 2]>,
        width: f32,
        dash: Option<[f32; 2]>,
        colour: Colour,
    },
    /// The inside of a polygon.
    Area {
        points: Vec<[f32; 2]>,
        colour: Colour,
        opacity: f32,
    },
    Text(Text),
    /// Rows of cells of equal size, from the top.
    Cells {
        x: f32,
        y: f32,
        width: f32,
        height: f32,
        columns: usize,
        colours: Vec<Colour>,
    },
}

/// A drawing on a white page.
pub(super) struct Scene {
    pub(super) width: f32,
    pub(super) height: f32,
    shapes: Vec<Shape>,
    fonts: Fonts,
}

impl Scene {
    pub(super) fn new(width: f32) -> Self {
        Self { width, height: 0.0, shapes: Vec::new(), fonts: Fonts::embedded() }
    }

    pub(super) fn add(&mut self, shape: Shape) {
        self.shapes.push(shape);
    }

    pub(super) fn fill(&mut self, [x, y, width, height]: [f32; 4], colour: Colour) {
        self.add(Shape::Box { x, y, width, height, radius: 0.0, colour, opacity: 1.0 });
    }

    pub(super) fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, colour: Colour) {
        self.add(Shape::Line { points: vec![from, to], width, dash: None, colour });
    }

    /// A text in the regular weight; its width.
    pub(super) fn text(
        &mut self,
        [x, y]: [f32; 2],
        text: &str,
        size: f32,
        anchor: Anchor,
        colour: Colour,
    ) -> f32 {
        self.write(Text { x, y, text: text.to_owned(), size, weight: Weight::Regular, anchor, colour })
    }

    /// A text; its width.
    pub(super) fn write(&mut self, text: Text) -> f32 {
        let width = self.fonts.of(text.weight).width(&text.text, text.size);
        self.shapes.push(Shape::Text(text));
        width
    }

    pub(super) fn measure(&self, text: &str, size: f32, weight: Weight) -> f32 {
        self.fonts.of(weight).width(text, size)
    }

    /// The longest beginning of a text that fits into this width, with an ellipsis where it was cut.
    pub(super) fn fitting(&self, text: &str, size: f32, width: f32) -> String {
        let font = self.fonts.of(Weight::Regular);
        if font.width(text, size) <= width {
            return text.to_owned();
        }
        let mut cut: String = text.to_owned();
        while cut.pop().is_some() && font.width(&cut, size) + font.width("…", size) > width {}
        cut + "…"
    }

    /// The drawing as an SVG document.
    pub(super) fn svg(&self) -> Result<String, DrawError> {
        let (width, height) = (self.width, self.height);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"Roboto, Helvetica, Arial, sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for shape in &self.shapes {
            // Writing into a text cannot fail.
            write_shape(&mut out, shape)?;
        }
        out.push_str("</svg>\n");
        Ok(out)
    }

    /// The drawing as a PNG file of `scale` pixels a unit.
    pub(super) fn png(&self, scale: f32) -> Result<Vec<u8>, DrawError> {
        let [width, height] = [self.width, self.height].map(|side| (side * scale).ceil() as u32);
        let mut page = Pixmap::new(width, height).ok_or(DrawError::Page { width, height })?;
        page.fill(tiny_skia::Color::WHITE);
        let transform = Transform::from_scale(scale, scale);
        for shape in &self.shapes {
            self.paint(&mut page, shape, transform)?;
        }
        page.encode_png().map_err(|source| DrawError::Png { reason: source.to_string() })
    }

    fn paint(&self, page: &mut Pixmap, shape: &Shape, transform: Transform) -> Result<(), DrawError> {
        let nonzero = FillRule::Winding;
        match shape {
            Shape::Box { x, y, width, height, radius, colour, opacity } => {
                if let Some(path) = rounded(*x, *y, *width, *height, *radius) {
                    page.fill_path(&path, &paint(*colour, *opacity), nonzero, transform, None);
                }
            }
            Shape::Line { points, width, dash, colour } => {
                if let Some(path) = polygon(points, false) {
                    let dash = dash.and_then(|[on, off]| StrokeDash::new(vec![on, off], 0.0));
                    let stroke = Stroke {
                        width: *width,
                        dash,
                        line_join: tiny_skia::LineJoin::Round,
                        ..Stroke::default()
                    };
                    page.stroke_path(&path, &paint(*colour, 1.0), &stroke, transform, None);
                }
            }
            Shape::Area { points, colour, opacity } => {
                if let Some(path) = polygon(points, true) {
                    page.fill_path(&path, &paint(*colour, *opacity), nonzero, transform, None);
                }
            }
            Shape::Text(text) => {
                if let Some(path) = self.fonts.of(text.weight).outline(text) {
                    page.fill_path(&path, &paint(text.colour, 1.0), nonzero, transform, None);
                }
            }
            Shape::Cells { x, y, width, height, columns, colours } => {
                if let Some(cells) = pixmap(*columns, colours)? {
                    let stretch = [width / cells.width() as f32, height / cells.height() as f32];
                    let place = transform.pre_translate(*x, *y).pre_scale(stretch[0], stretch[1]);
                    page.draw_pixmap(0, 0, cells.as_ref(), &PixmapPaint::default(), place, None);
                }
            }
        }
        Ok(())
    }
}

/// Why a drawing cannot be made into a file.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// Too large, or without extent.
    #[error("a picture of {width} × {height} pixels cannot be made")]
    Page {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The PNG encoder failed.
    #[error("the picture cannot be encoded as PNG: {reason}")]
    Png {
        /// What it says.
        reason: String,
    },
    /// The text of the SVG could not be put together.
    #[error("the picture cannot be written as SVG")]
    Svg(#[from] std::fmt::Error),
}

fn paint([r, g, b]: Colour, opacity: f32) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, (opacity * 255.0).round() as u8);
    paint.anti_alias = true;
    paint
}

fn rounded(x: f32, y: f32, width: f32, height: f32, radius: f32) -> Option<tiny_skia::Path> {
    let rect = Rect::from_xywh(x, y, width, height)?;
    if radius == 0.0 {
        return Some(PathBuilder::from_rect(rect));
    }
    let r = radius.min(width / 2.0).min(height / 2.0);
    let (right, bottom) = (x + width, y + height);
    let mut path = PathBuilder::new();
    path.move_to(x + r, y);
    path.line_to(right - r, y);
    path.quad_to(right, y, right, y + r);
    path.line_to(right, bottom - r);
    path.quad_to(right, bottom, right - r, bottom);
    path.line_to(x + r, bottom);
    path.quad_to(x, bottom, x, bottom - r);
    path.line_to(x, y + r);
    path.quad_to(x, y, x + r, y);
    path.close();
    path.finish()
}

fn polygon(points: &[[f32; 2]], closed: bool) -> Option<tiny_skia::Path> {
    let ([x, y], rest) = points.split_first()?;
    let mut path = PathBuilder::new();
    path.move_to(*x, *y);
    rest.iter().for_each(|[x, y]| path.line_to(*x, *y));
    if closed {
        path.close();
    }
    path.finish()
}

fn pixmap(columns: usize, colours: &[Colour]) -> Result<Option<Pixmap>, DrawError> {
    let Some(rows) = colours.len().checked_div(columns).filter(|&rows| rows > 0) else { return Ok(None) };
    let bytes: Vec<u8> = colours[..rows * columns].iter().flat_map(|[r, g, b]| [*r, *g, *b, 255]).collect();
    let [width, height] = [columns, rows].map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    let size = IntSize::from_wh(width, height).ok_or(DrawError::Page { width, height })?;
    Ok(Pixmap::from_vec(bytes, size))
}

fn hex([r, g, b]: Colour) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn write_shape(out: &mut String, shape: &Shape) -> Result<(), DrawError> {
    let path = |points: &[[f32; 2]]| {
        points.iter().map(|[x, y]| format!("{x:.2},{y:.2}")).collect::<Vec<_>>().join(" ")
    };
    match shape {
        Shape::Box { x, y, width, height, radius, colour, opacity } => writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" rx=\"{radius}\" fill=\"{}\" \
             fill-opacity=\"{opacity}\"/>",
            hex(*colour)
        )?,
        Shape::Line { points, width, dash, colour } => {
            let dash = dash.map_or(String::new(), |[on, off]| format!(" stroke-dasharray=\"{on} {off}\""));
            writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
                 stroke-linejoin=\"round\"{dash}/>",
                path(points),
                hex(*colour)
            )?;
        }
        Shape::Area { points, colour, opacity } => writeln!(
            out,
            "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{opacity}\"/>",
            path(points),
            hex(*colour)
        )?,
        Shape::Text(Text { x, y, text, size, weight, anchor, colour }) => {
            let weight = if *weight == Weight::Medium { " font-weight=\"500\"" } else { "" };
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            writeln!(
                out,
                "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" fill=\"{}\"{weight}{anchor}>{}</text>",
                hex(*colour),
                escaped(text)
            )?;
        }
        Shape::Cells { x, y, width, height, columns, colours } => {
            let Some(cells) = pixmap(*columns, colours)? else { return Ok(()) };
            let png = cells.encode_png().map_err(|source| DrawError::Png { reason: source.to_string() })?;
            writeln!(
                out,
                "<image x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" preserveAspectRatio=\"none\" \
                 style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                base64(&png)
            )?;
        }
    }
    Ok(())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let bits =
                chunk.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
            (0..4).map(move |i| {
                if i > chunk.len() { '=' } else { char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]) }
            })
        })
        .collect()
}

struct Fonts {
    regular: Font,
    medium: Font,
}

impl Fonts {
    fn embedded() -> Self {
        Self {
            regular: Font::new(include_bytes!("fonts/Roboto-Regular.ttf")),
            medium: Font::new(include_bytes!("fonts/Roboto-Medium.ttf")),
        }
    }

    fn of(&self, weight: Weight) -> &Font {
        match weight {
            Weight::Regular => &self.regular,
            Weight::Medium => &self.medium,
        }
    }
}

struct Font(Face<'static>);

impl Font {
    fn new(bytes: &'static [u8]) -> Self {
        Self(Face::parse(bytes, 0).expect("the embedded font is one"))
    }

    fn glyph(&self, character: char) -> GlyphId {
        self.0.glyph_index(character).unwrap_or(GlyphId(0))
    }

    fn scale(&self, size: f32) -> f32 {
        size / f32::from(self.0.units_per_em())
    }

    fn width(&self, text: &str, size: f32) -> f32 {
        let units: u32 =
            text.chars().map(|c| u32::from(self.0.glyph_hor_advance(self.glyph(c)).unwrap_or(0))).sum();
        units as f32 * self.scale(size)
    }

    fn outline(&self, text: &Text) -> Option<tiny_skia::Path> {
        let shift = match text.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => -self.width(&text.text, text.size) / 2.0,
            Anchor::End => -self.width(&text.text, text.size),
        };
        let scale = self.scale(text.size);
        let mut pen = Pen { path: PathBuilder::new(), x: text.x + shift, y: text.y, scale };
        for character in text.text.chars() {
            let glyph = self.glyph(character);
            // None for a glyph without ink, such as a space.
            self.0.outline_glyph(glyph, &mut pen);
            pen.x += f32::from(self.0.glyph_hor_advance(glyph).unwrap_or(0)) * scale;
        }
        pen.path.finish()
    }
}

/// Puts glyphs at a place.
struct Pen {
    path: PathBuilder,
    x: f32,
    y: f32,
    scale: f32,
}

impl Pen {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.scale, self.y - y * self.scale)
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn texts_of_a_file_break_no_xml() {
        assert_eq!(escaped("a<b>&\u{0}\u{1b}ä"), "a&lt;b&gt;&amp;\u{fffd}\u{fffd}ä");
    }

    #[test]
    fn texts_are_measured_cut_and_drawn() {
        let mut scene = Scene::new(200.0);
        scene.height = 40.0;
        let whole = scene.text([10.0, 30.0], "Grüße · ±3 µs", 16.0, Anchor::Start, [0; 3]);
        assert!(whole > 80.0 && whole < 120.0, "{whole}");
        assert_eq!(scene.fitting("Grüße", 16.0, 200.0), "Grüße");
        let cut = scene.fitting("Grüße an alle, die da sind", 16.0, 90.0);
        assert!(cut.ends_with('…') && cut.starts_with("Grüße"), "{cut}");
        let drawn = Pixmap::decode_png(&scene.png(2.0).unwrap()).unwrap();
        assert_eq!((drawn.width(), drawn.height()), (400, 80));
        let inked = drawn.pixels().iter().filter(|pixel| pixel.red() < 128).count();
        assert!(inked > 300 && inked < 5000, "{inked}");
        assert!(scene.svg().unwrap().contains(">Grüße · ±3 µs</text>"));
    }
}
