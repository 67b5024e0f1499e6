//! Values whose type admits exactly what the file may hold: numbers within a range, durations, sizes, names.
//!
//! Owns the spelling of each value and its range. Knows no key that uses it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeInteger, DeValue};
use youquanti_models::CameraName;
use youquanti_models::blendshapes::NAMES;

use crate::table::{At, Leaf, Misfit, Problems, Value, nearest, type_name};

/// Why a text is not the value that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{written:?} {phrase}; write {allowed}")]
pub struct ValueError {
    written: String,
    phrase: String,
    allowed: String,
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Int<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Int<MIN, MAX> {
    /// The number, `MIN..=MAX`.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Leaf for Int<MIN, MAX> {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let number = whole(value.as_integer().ok_or(Misfit::Type)?);
        let fits = number.and_then(|number| u32::try_from(number).ok()).filter(|n| (MIN..=MAX).contains(n));
        fits.map(Self).ok_or_else(|| outside(MIN, MAX))
    }

    fn allowed() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// The number that decides everything that is random. Any whole number of TOML that is not negative.
impl Leaf for u64 {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let number = whole(value.as_integer().ok_or(Misfit::Type)?);
        let fits = number.and_then(|number| i64::try_from(number).ok()).and_then(|n| u64::try_from(n).ok());
        fits.ok_or_else(|| outside(0, i64::MAX))
    }

    fn allowed() -> String {
        format!("a whole number from 0 to {}", i64::MAX)
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX })
    }
}

impl Leaf for bool {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        value.as_bool().ok_or(Misfit::Type)
    }

    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

/// A part of a whole, 0 to 1, both included.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Fraction(f32);

impl Fraction {
    /// The number, 0 to 1.
    pub const fn get(self) -> f32 {
        self.0
    }
}

impl Leaf for Fraction {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let number = real(value)?;
        if (0.0..=1.0).contains(&number) { Ok(Self(number as f32)) } else { Err(outside(0, 1)) }
    }

    fn allowed() -> String {
        "a number from 0 to 1".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

/// An exposure time, 0.01 to 10 000 milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Milliseconds(f64);

impl Milliseconds {
    /// Milliseconds, 0.01 to 10 000.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl Leaf for Milliseconds {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let number = real(value)?;
        if (0.01..=10_000.0).contains(&number) { Ok(Self(number)) } else { Err(outside(0.01, 10_000)) }
    }

    fn allowed() -> String {
        "a number of milliseconds from 0.01 to 10000".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0.01, "maximum": 10_000 })
    }
}

/// The camera's own choice, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// The camera chooses, all the time.
    Auto,
    /// This value.
    Fixed(T),
}

impl<T: Leaf> Leaf for AutoOr<T> {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        match value.as_str() {
            Some("auto") => Ok(Self::Auto),
            Some(_) => Err(Misfit::Value(format!("is neither \"auto\" nor {}", T::allowed()))),
            None => T::parse(value).map(Self::Fixed),
        }
    }

    fn allowed() -> String {
        format!("\"auto\" or {}", T::allowed())
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, T::schema()] })
    }
}

/// The value of a control that only the driver knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlValue {
    /// A number; of a menu, the number of its entry.
    Number(i64),
    /// On or off.
    Switch(bool),
    /// An entry of a menu, by its name.
    Entry(String),
}

impl Leaf for ControlValue {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        match value {
            DeValue::Boolean(switch) => Ok(Self::Switch(*switch)),
            DeValue::Integer(number) => whole(number)
                .and_then(|number| i64::try_from(number).ok())
                .map(Self::Number)
                .ok_or_else(|| outside(i64::MIN, i64::MAX)),
            _ => line_of_text(value, "names no entry of a menu").map(|entry| Self::Entry(entry.to_owned())),
        }
    }

    fn allowed() -> String {
        "a whole number, true, false, or the name of an entry of a menu".to_owned()
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "integer" }, { "type": "boolean" }, { "type": "string", "minLength": 1 }] })
    }
}

/// Frames a second, 1 to 1000 in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRate {
    thousandths: u32,
}

impl FrameRate {
    /// Frames a second, 1 to 1000.
    pub fn get(self) -> f64 {
        f64::from(self.thousandths) / 1000.0
    }

    /// Frames in 1000 seconds, 1000 to 1 000 000: exact.
    pub const fn thousandths(self) -> u32 {
        self.thousandths
    }
}

impl Leaf for FrameRate {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let number = real(value)?;
        if !(1.0..=1000.0).contains(&number) {
            return Err(outside(1, 1000));
        }
        Ok(Self { thousandths: (number * 1000.0).round() as u32 })
    }

    fn allowed() -> String {
        "a number from 1 to 1000".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 1, "maximum": 1000 })
    }
}

/// A length of time from `MIN_MS` to `MAX_MS` milliseconds, written `"500ms"`, `"20s"`, `"5min"` or `"2h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period<const MIN_MS: u64, const MAX_MS: u64> {
    milliseconds: u64,
}

/// Units of time with their milliseconds.
const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000)];

/// Units of memory with their bytes.
const SIZE_UNITS: [(&str, u64); 3] = [("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];

impl<const MIN_MS: u64, const MAX_MS: u64> Period<MIN_MS, MAX_MS> {
    /// The length of time, `MIN_MS` to `MAX_MS` milliseconds.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    fn new(text: &str) -> Result<Self, Misfit> {
        let milliseconds =
            quantity(text, &TIME_UNITS).ok_or_else(|| Misfit::Value("is not a duration".to_owned()))?;
        if (MIN_MS..=MAX_MS).contains(&milliseconds) {
            Ok(Self { milliseconds })
        } else {
            Err(outside(in_units(MIN_MS, &TIME_UNITS), in_units(MAX_MS, &TIME_UNITS)))
        }
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> fmt::Display for Period<MIN_MS, MAX_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(self.milliseconds, &TIME_UNITS))
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> Leaf for Period<MIN_MS, MAX_MS> {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        Self::new(value.as_str().ok_or(Misfit::Type)?)
    }

    fn allowed() -> String {
        let (min, max) = (in_units(MIN_MS, &TIME_UNITS), in_units(MAX_MS, &TIME_UNITS));
        format!("a duration from \"{min}\" to \"{max}\" (units ms, s, min, h)")
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^[0-9]+(ms|s|min|h)$" })
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> FromStr for Period<MIN_MS, MAX_MS> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::new(text).map_err(|misfit| explain::<Self>(text, misfit))
    }
}

/// A size of files in bytes, 1 MB to 1000 TB, written `"500MB"`, `"2GB"` or `"1TB"`; 1 MB is 1 000 000 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Largest [`ByteSize`] in bytes.
const LARGEST_SIZE: u64 = 1_000_000_000_000_000;

impl ByteSize {
    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Leaf for ByteSize {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let text = value.as_str().ok_or(Misfit::Type)?;
        let bytes = quantity(text, &SIZE_UNITS).ok_or_else(|| Misfit::Value("is not a size".to_owned()))?;
        if (SIZE_UNITS[0].1..=LARGEST_SIZE).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(outside("1MB", "1000TB"))
        }
    }

    fn allowed() -> String {
        "a size from \"1MB\" to \"1000TB\" (units MB, GB, TB)".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^[0-9]+(MB|GB|TB)$" })
    }
}

/// A session's name: 1 to 64 of `a-z A-Z 0-9 _ -`, beginning with a letter. It names the session's file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionName(String);

impl SessionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn new(text: &str) -> Result<Self, Misfit> {
        if is_name(text, 64) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Misfit::Value("is not a name".to_owned()))
        }
    }
}

impl Leaf for SessionName {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        Self::new(value.as_str().ok_or(Misfit::Type)?)
    }

    fn allowed() -> String {
        name_rule(64)
    }

    fn schema() -> Json {
        name_schema(64)
    }
}

impl FromStr for SessionName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::new(text).map_err(|misfit| explain::<Self>(text, misfit))
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Leaf for CameraName {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let text = value.as_str().ok_or(Misfit::Type)?;
        text.parse().map_err(|_| Misfit::Value("is not a name".to_owned()))
    }

    fn allowed() -> String {
        name_rule(32)
    }

    fn schema() -> Json {
        name_schema(32)
    }
}

/// A person's name as it stands in the session file: 1 to 64 characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParticipantName(String);

impl ParticipantName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for ParticipantName {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let text = value.as_str().ok_or(Misfit::Type)?;
        let good = (1..=64).contains(&text.chars().count())
            && !text.chars().any(char::is_control)
            && text.trim() == text;
        if good { Ok(Self(text.to_owned())) } else { Err(Misfit::Value("is not a person's name".to_owned())) }
    }

    fn allowed() -> String {
        "1 to 64 characters without line breaks or blanks at the ends".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "maxLength": 64 })
    }
}

/// Most participants of a session.
const MOST_NAMES: usize = 64;

impl Value for Vec<ParticipantName> {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(list) = at.value.get_ref().as_array() else {
            let phrase = format!("is {}, not a list of names", type_name(at.value.get_ref()));
            problems.misfit(
                at,
                &phrase,
                Some("a list of names".to_owned()),
                format!("write {} = [\"…\", \"…\"]", at.key),
            );
            return None;
        };
        if list.len() > MOST_NAMES {
            let allowed = format!("at most {MOST_NAMES} names");
            problems.misfit(
                at,
                &format!("has {} names", list.len()),
                Some(allowed.clone()),
                format!("write {allowed}"),
            );
            return None;
        }
        let read_one = |(index, value): (usize, &Spanned<DeValue<'_>>)| {
            ParticipantName::read(
                At { table: at.table, key: &format!("{}[{index}]", at.key), value },
                problems,
            )
        };
        let names: Vec<_> = list.iter().enumerate().map(read_one).collect();
        names.into_iter().collect()
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": <ParticipantName as Leaf>::schema(), "maxItems": MOST_NAMES, "uniqueItems": true })
    }
}

/// A text that a stream's name, type or `source_id` must be; `*` in it stands for any text, `?` for any character. 1 to 256
/// characters on one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamPattern(String);

impl StreamPattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for StreamPattern {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let text = line_of_text(value, "fits no stream")?;
        if text.chars().count() <= 256 {
            Ok(Self(text.to_owned()))
        } else {
            Err(Misfit::Value("is too long".to_owned()))
        }
    }

    fn allowed() -> String {
        "1 to 256 characters, * for any text and ? for any character".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "maxLength": 256 })
    }
}

/// Blendshapes that are compared as one, by their mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynchronyGroup {
    name: String,
    channels: Vec<usize>,
}

impl SynchronyGroup {
    /// Its name: 1 to 32 of `a-z A-Z 0-9 _ -`, beginning with a letter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its blendshapes by their places in `youquanti_models::blendshapes::NAMES`: 1 to 52, none twice.
    pub fn channels(&self) -> &[usize] {
        &self.channels
    }

    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let mut wrong = |phrase: &str, remedy: String| {
            problems.misfit(at, phrase, Some(BLENDSHAPES.to_owned()), remedy);
            None
        };
        if !is_name(at.key, 32) {
            return wrong("has no name for a group", format!("call it by {}", name_rule(32)));
        }
        let list = match at.value.get_ref().as_array() {
            Some(list) if !list.is_empty() => list,
            Some(_) => return wrong("names no blendshape", format!("write {BLENDSHAPES}, or remove it")),
            None => {
                let phrase = format!("is {}, not a list", type_name(at.value.get_ref()));
                return wrong(&phrase, format!("write {BLENDSHAPES}"));
            }
        };
        let mut channels = Vec::new();
        for value in list {
            let Some(written) = value.get_ref().as_str() else {
                return wrong("has something that is no name", format!("write {BLENDSHAPES}"));
            };
            let Some(channel) = NAMES.iter().position(|name| *name == written) else {
                let near = nearest(written, NAMES.iter().copied());
                let remedy =
                    near.map_or(format!("write {BLENDSHAPES}"), |near| format!("did you mean {near:?}?"));
                return wrong(&format!("has {written:?}, which is no blendshape"), remedy);
            };
            if channels.contains(&channel) {
                return wrong(&format!("has {written:?} twice"), "write each blendshape once".to_owned());
            }
            channels.push(channel);
        }
        Some(Self { name: at.key.to_owned(), channels })
    }
}

/// What a group may be.
const BLENDSHAPES: &str = "a list of blendshapes, such as [\"jawOpen\"]";

/// Most groups of blendshapes.
const MOST_GROUPS: usize = 16;

impl Value for Vec<SynchronyGroup> {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let allowed = format!("a table of 1 to {MOST_GROUPS} names, each with {BLENDSHAPES}");
        let Some(table) = at.value.get_ref().as_table() else {
            let phrase = format!("is {}, not a table", type_name(at.value.get_ref()));
            problems.misfit(at, &phrase, Some(allowed.clone()), format!("write {allowed}"));
            return None;
        };
        if !(1..=MOST_GROUPS).contains(&table.len()) {
            let phrase = format!("has {} groups, outside 1..={MOST_GROUPS}", table.len());
            problems.misfit(at, &phrase, Some(allowed.clone()), format!("write {allowed}"));
            return None;
        }
        let label = at.label();
        let read_one = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            SynchronyGroup::read(At { table: &label, key, value }, problems)
        };
        let groups: Vec<_> = table.iter().map(read_one).collect();
        groups.into_iter().collect()
    }

    fn schema() -> Json {
        let channels = json!({
            "type": "array", "items": { "enum": NAMES.to_vec() }, "minItems": 1, "uniqueItems": true,
        });
        json!({
            "type": "object", "additionalProperties": channels, "propertyNames": name_schema(32),
            "minProperties": 1, "maxProperties": MOST_GROUPS,
        })
    }
}

impl Leaf for PathBuf {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        line_of_text(value, "is not a path").map(PathBuf::from)
    }

    fn allowed() -> String {
        "a path".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl Leaf for IpAddr {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let DeValue::String(text) = value else { return Err(Misfit::Type) };
        text.parse().map_err(|_| Misfit::Value("is no IP address".to_owned()))
    }

    fn allowed() -> String {
        "an IP address, such as \"127.0.0.1\", or \"0.0.0.0\" for all of this machine".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
    }
}

/// A video's file, a folder of pictures, or an address that FFmpeg opens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MediaAddress(String);

impl MediaAddress {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, unless it is an address of the form `scheme://…`.
    pub fn path(&self) -> Option<&Path> {
        if self.0.contains("://") { None } else { Some(Path::new(&self.0)) }
    }
}

impl Leaf for MediaAddress {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        line_of_text(value, "is neither a path nor an address").map(|text| Self(text.to_owned()))
    }

    fn allowed() -> String {
        "a path, or an address such as \"rtsp://camera.local/stream\"".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// Which of the computer's cameras is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeviceSelector {
    /// A path, `/dev/video0` or `/dev/v4l/by-id/…`.
    Path(PathBuf),
    /// Anything else: where the camera is plugged in (`usb-0000:00:14.0-2`), or its name under
    /// `/dev/v4l/by-id` or `/dev/v4l/by-path`.
    Id(String),
}

impl Leaf for DeviceSelector {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let text = line_of_text(value, "names no camera")?;
        Ok(if text.starts_with('/') { Self::Path(PathBuf::from(text)) } else { Self::Id(text.to_owned()) })
    }

    fn allowed() -> String {
        "what `youquanti cameras` shows, or a path such as \"/dev/video0\"".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl fmt::Display for DeviceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Id(id) => f.write_str(id),
        }
    }
}

/// Threads of a worker on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Threads {
    /// As many as measure best on this machine.
    Auto,
    /// This many, 1 to 64.
    Fixed(Int<1, 64>),
}

impl Leaf for Threads {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        auto_or(value, Self::Auto, Self::Fixed)
    }

    fn allowed() -> String {
        "\"auto\" or a whole number from 1 to 64".to_owned()
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, <Int<1, 64> as Leaf>::schema()] })
    }
}

/// Width of the picture that the detector looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetectorSize {
    /// Wide enough to find the smallest face wanted.
    Auto,
    /// Pixels, 64 to 4096, a multiple of 32.
    Width(Int<64, 4096>),
}

impl Leaf for DetectorSize {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        match auto_or(value, Self::Auto, Self::Width)? {
            Self::Width(width) if width.get() % 32 != 0 => {
                let below = width.get() / 32 * 32;
                Err(Misfit::Value(format!(
                    "is no multiple of 32; the nearest are {below} and {}",
                    below + 32
                )))
            }
            size => Ok(size),
        }
    }

    fn allowed() -> String {
        "\"auto\" or a multiple of 32 from 64 to 4096".to_owned()
    }

    fn schema() -> Json {
        let mut width = <Int<64, 4096> as Leaf>::schema();
        width["multipleOf"] = json!(32);
        json!({ "anyOf": [{ "const": "auto" }, width] })
    }
}

/// A GPU's place among those that the driver sees, from 0.
pub type Ordinal = Int<0, 63>;

/// Which of the computer's GPUs are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// All that the driver sees.
    All,
    /// These, at least one, each once.
    Listed(Vec<Ordinal>),
}

impl Leaf for Gpus {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        let list = match value.as_str() {
            Some("all") => return Ok(Self::All),
            Some(_) => return Err(Misfit::Value(format!("is neither \"all\" nor {LIST_OF_GPUS}"))),
            None => value.as_array().ok_or(Misfit::Type)?,
        };
        if list.is_empty() {
            return Err(Misfit::Value("names no GPU".to_owned()));
        }
        let mut listed = Vec::new();
        for (index, value) in list.iter().enumerate() {
            let ordinal = Ordinal::parse(value.get_ref())
                .map_err(|_| Misfit::Value(format!("names no GPU at [{index}]")))?;
            if listed.contains(&ordinal) {
                return Err(Misfit::Value(format!("names GPU {} twice", ordinal.get())));
            }
            listed.push(ordinal);
        }
        Ok(Self::Listed(listed))
    }

    fn allowed() -> String {
        format!("\"all\" or {LIST_OF_GPUS}")
    }

    fn schema() -> Json {
        let list = json!({
            "type": "array", "items": <Ordinal as Leaf>::schema(), "minItems": 1, "uniqueItems": true,
        });
        json!({ "anyOf": [{ "const": "all" }, list] })
    }
}

const LIST_OF_GPUS: &str = "a list of numbers from 0 to 63, such as [0, 1]";

/// The version of the file format: 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FormatVersion;

impl Leaf for FormatVersion {
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit> {
        match whole(value.as_integer().ok_or(Misfit::Type)?) {
            Some(1) => Ok(Self),
            _ => Err(Misfit::Value("is a format that this program does not read".to_owned())),
        }
    }

    fn allowed() -> String {
        "1".to_owned()
    }

    fn schema() -> Json {
        json!({ "const": 1 })
    }
}

/// `"auto"`, or a number within its range.
fn auto_or<T, const MIN: u32, const MAX: u32>(
    value: &DeValue<'_>,
    auto: T,
    fixed: impl Fn(Int<MIN, MAX>) -> T,
) -> Result<T, Misfit> {
    match value.as_str() {
        Some("auto") => Ok(auto),
        Some(_) => Err(Misfit::Value(format!("is neither \"auto\" nor a whole number from {MIN} to {MAX}"))),
        None => Int::parse(value).map(fixed),
    }
}

/// The number of a TOML integer, unless it is beyond anything sensible.
fn whole(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The number of a TOML integer or float.
fn real(value: &DeValue<'_>) -> Result<f64, Misfit> {
    match value {
        DeValue::Integer(number) => Ok(whole(number).map_or(f64::INFINITY, |number| number as f64)),
        DeValue::Float(number) => number.as_str().parse().map_err(|_| Misfit::Type),
        _ => Err(Misfit::Type),
    }
}

/// A text of one line that is not blank.
fn line_of_text<'a>(value: &'a DeValue<'_>, phrase: &str) -> Result<&'a str, Misfit> {
    let text = value.as_str().ok_or(Misfit::Type)?;
    let good = !text.trim().is_empty() && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(Misfit::Value(phrase.to_owned())) }
}

/// `"20s"` as a multiple of the smallest unit: digits, then a unit.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    digits.parse::<u64>().ok().map(|number| number.saturating_mul(factor))
}

/// A quantity in the largest unit that needs no fraction, none at all in the smallest.
fn in_units(number: u64, units: &[(&str, u64)]) -> String {
    let whole = |(_, factor): &&(&str, u64)| number >= *factor && number.is_multiple_of(*factor);
    let (unit, factor) = units.iter().rev().find(whole).unwrap_or(&units[0]);
    format!("{}{unit}", number / factor)
}

fn outside(min: impl fmt::Display, max: impl fmt::Display) -> Misfit {
    Misfit::Value(format!("is outside {min}..={max}"))
}

/// The same message for a value that came from elsewhere than the file.
fn explain<T: Leaf>(text: &str, misfit: Misfit) -> ValueError {
    let phrase = match misfit {
        Misfit::Value(phrase) => phrase,
        Misfit::Type | Misfit::Near(_) => "does not fit".to_owned(),
    };
    ValueError { written: text.to_owned(), phrase, allowed: T::allowed() }
}

/// The alphabet of names that become part of file names and streams.
fn is_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn name_rule(longest: usize) -> String {
    format!("1 to {longest} of a-z, A-Z, 0-9, _ and -, beginning with a letter")
}

fn name_schema(longest: usize) -> Json {
    json!({ "type": "string", "pattern": format!("^[a-zA-Z][a-zA-Z0-9_-]{{0,{}}}$", longest - 1) })
}
