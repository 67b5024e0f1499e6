//! The file in which measured offsets of cameras are kept: `$XDG_DATA_HOME/youquanti/offsets.toml`.
//!
//! Owns its place, its format and its safe change: whole or not at all, and one writer at a time. Never measures, and never
//! drops what it does not understand: a file that cannot be read is an error, and is left as it is.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use youquanti_actors::calibration::{KnownOffset, StampOffset};
use youquanti_models::{PixelFormat, UtcNanos};

/// Why offsets cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// The environment does not say where.
    #[error("offsets have no place: set HOME, or XDG_DATA_HOME to an absolute path")]
    NoPlace,
    /// The file cannot be read.
    #[error("offsets in {} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not one of offsets.
    #[error("{} is not a file of offsets that this version reads: correct it, or move it away and calibrate again", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// The file cannot be written.
    #[error("offsets cannot be written to {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// An offset with what else is kept of its measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredOffset {
    /// The offset, and what it was measured for. The screen's delay is subtracted if it was known.
    pub known: KnownOffset,
    /// Standard error of the mean, seconds.
    pub standard_error_s: f64,
    /// Effective exposure while it was measured, seconds.
    pub exposure_s: f64,
    /// Standard error of that, seconds; `None`: measured by a version that did not tell.
    pub exposure_error_s: Option<f64>,
    /// Delay of the screen that was subtracted, seconds; `None`: not known, still contained.
    pub screen_delay_s: Option<f64>,
}

/// All that were measured on this computer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offsets(Vec<StoredOffset>);

const HEADER: &str = "\
# Offsets of cameras' stamps, measured by `youquanti calibrate`: stamp minus the middle of the exposure, seconds.
# Subtract median_s (or mean_s) from a stamp to get the time of the light. Comments are not kept.
";

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "version")]
    version: u32,
    #[serde(default)]
    camera: Vec<WrittenOffset>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOffset {
    device: String,
    width: u32,
    height: u32,
    #[serde(with = "format_name")]
    format: PixelFormat,
    #[serde(deserialize_with = "finite")]
    fps: f64,
    #[serde(deserialize_with = "finite")]
    mean_s: f64,
    #[serde(deserialize_with = "finite")]
    rms_s: f64,
    #[serde(deserialize_with = "finite")]
    median_s: f64,
    #[serde(deserialize_with = "finite")]
    p05_s: f64,
    #[serde(deserialize_with = "finite")]
    p95_s: f64,
    changes: u32,
    #[serde(deserialize_with = "finite")]
    standard_error_s: f64,
    #[serde(deserialize_with = "finite")]
    exposure_s: f64,
    exposure_error_s: Option<f64>,
    screen_delay_s: Option<f64>,
    #[serde(with = "utc")]
    measured_at: UtcNanos,
}

const VERSION: u32 = 1;

fn version<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        VERSION => Ok(VERSION),
        other => Err(D::Error::custom(format_args!("version {other}, where {VERSION} is understood"))),
    }
}

fn finite<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    if number.is_finite() { Ok(number) } else { Err(D::Error::custom("not a finite number")) }
}

mod format_name {
    use super::{Deserialize, Deserializer, Error, PixelFormat, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(format: &PixelFormat, to: S) -> Result<S::Ok, S::Error> {
        format.name().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PixelFormat, D::Error> {
        let name = String::deserialize(from)?;
        let format = PixelFormat::ALL.into_iter().find(|format| format.name() == name);
        format.ok_or_else(|| D::Error::custom(format_args!("no format {name:?}")))
    }
}

/// As people read it: `2026-01-31T23:59:59.123Z`.
mod utc {
    use super::{Deserialize, Deserializer, Error, Serialize, Serializer, UtcNanos};

    pub(super) fn serialize<S: Serializer>(utc: &UtcNanos, to: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::from_nanosecond(i128::from(utc.0)).map_err(serde::ser::Error::custom)?;
        time.to_string().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<UtcNanos, D::Error> {
        let time: jiff::Timestamp = String::deserialize(from)?.parse().map_err(D::Error::custom)?;
        i64::try_from(time.as_nanosecond()).map(UtcNanos).map_err(D::Error::custom)
    }
}

impl Offsets {
    /// Where offsets are kept.
    ///
    /// # Errors
    /// When the environment names neither a home nor a folder for data.
    pub fn path() -> Result<PathBuf, OffsetsError> {
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        Ok(data.ok_or(OffsetsError::NoPlace)?.join("youquanti/offsets.toml"))
    }

    /// All offsets of this computer; none when there is no file, or no place for one.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load() -> Result<Self, OffsetsError> {
        match Self::path() {
            Ok(path) => Self::read(&path),
            Err(_) => Ok(Self::default()),
        }
    }

    /// The offsets in a file; none when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, OffsetsError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::from_toml(&text)
                .map_err(|source| OffsetsError::Format { path: path.to_owned(), source: Box::new(source) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(OffsetsError::Read { path: path.to_owned(), source }),
        }
    }

    /// Puts an offset into a file, in the place of an earlier one for the same device, size, format and rate. All others stay.
    /// Programs that do this at the same time wait for each other; who reads meanwhile finds the old file or the new one.
    ///
    /// # Errors
    /// When the file cannot be read, understood or written: then it is as before.
    pub fn store(path: &Path, offset: StoredOffset) -> Result<(), OffsetsError> {
        let failed = |source| OffsetsError::Write { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let folder = File::open(folder).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        let mut offsets = Self::read(path)?;
        offsets.put(offset);
        let fresh = path.with_extension("toml.new");
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(offsets.to_toml().map_err(io::Error::other)?.as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&fresh, path)).and_then(|()| folder.sync_all()).map_err(failed)
    }

    /// What a session's cameras look themselves up in.
    pub fn known(&self) -> Arc<[KnownOffset]> {
        self.0.iter().map(|stored| stored.known.clone()).collect()
    }

    /// What was measured of a device, by the id that `youquanti cameras` shows; one for each size, format and rate.
    pub fn of_device(&self, device: &str) -> impl Iterator<Item = &StoredOffset> {
        self.0.iter().filter(move |stored| stored.known.device == device)
    }

    fn put(&mut self, offset: StoredOffset) {
        let is_same = |stored: &StoredOffset| {
            let (a, b) = (&stored.known, &offset.known);
            (&a.device, a.width, a.height, a.format) == (&b.device, b.width, b.height, b.format)
                && (a.fps - b.fps).abs() <= 0.01 * a.fps
        };
        self.0.retain(|stored| !is_same(stored));
        self.0.push(offset);
    }

    fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        let written: Written = toml::from_str(text)?;
        Ok(Self(written.camera.into_iter().map(StoredOffset::from).collect()))
    }

    fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let written = Written { version: VERSION, camera: self.0.iter().map(WrittenOffset::from).collect() };
        Ok(format!("{HEADER}{}", toml::to_string(&written)?))
    }
}

impl From<&StoredOffset> for WrittenOffset {
    fn from(stored: &StoredOffset) -> Self {
        let KnownOffset { device, width, height, format, fps, offset } = &stored.known;
        Self {
            device: device.clone(),
            width: *width,
            height: *height,
            format: *format,
            fps: *fps,
            mean_s: offset.mean_s,
            rms_s: offset.rms_s,
            median_s: offset.median_s,
            p05_s: offset.p05_s,
            p95_s: offset.p95_s,
            changes: offset.count,
            standard_error_s: stored.standard_error_s,
            exposure_s: stored.exposure_s,
            exposure_error_s: stored.exposure_error_s,
            screen_delay_s: stored.screen_delay_s,
            measured_at: UtcNanos(offset.measured_at_utc_ns),
        }
    }
}

impl From<WrittenOffset> for StoredOffset {
    fn from(written: WrittenOffset) -> Self {
        Self {
            known: KnownOffset {
                device: written.device,
                width: written.width,
                height: written.height,
                format: written.format,
                fps: written.fps,
                offset: StampOffset {
                    mean_s: written.mean_s,
                    rms_s: written.rms_s,
                    median_s: written.median_s,
                    p05_s: written.p05_s,
                    p95_s: written.p95_s,
                    count: written.changes,
                    measured_at_utc_ns: written.measured_at.0,
                },
            },
            standard_error_s: written.standard_error_s,
            exposure_s: written.exposure_s,
            exposure_error_s: written.exposure_error_s,
            screen_delay_s: written.screen_delay_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(device: &str, fps: f64, median_s: f64) -> StoredOffset {
        StoredOffset {
            known: KnownOffset {
                device: device.to_owned(),
                width: 640,
                height: 480,
                format: PixelFormat::Yuyv,
                fps,
                offset: StampOffset {
                    mean_s: 0.1 + 0.2,
                    rms_s: 1e-5,
                    median_s,
                    p05_s: -0.001,
                    p95_s: 0.3,
                    count: 140,
                    measured_at_utc_ns: 1_790_000_000_123_456_789,
                },
            },
            standard_error_s: 0.0001,
            exposure_s: 0.01,
            exposure_error_s: (fps > 30.0).then_some(0.0002),
            screen_delay_s: (fps > 30.0).then_some(0.012),
        }
    }

    #[test]
    fn what_is_stored_is_read_back_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/offsets.toml");
        assert_eq!(Offsets::read(&path).unwrap(), Offsets::default());
        let (left, right, faster) =
            (stored("left \"one\"", 29.97, 0.03), stored("right", 30.0, 0.04), stored("right", 60.0, 0.02));
        for offset in [&left, &right, &faster] {
            Offsets::store(&path, offset.clone()).unwrap();
        }
        let again = stored("left \"one\"", 30.0, 0.035);
        Offsets::store(&path, again.clone()).unwrap();
        let offsets = Offsets::read(&path).unwrap();
        assert_eq!(offsets.0, [right.clone(), faster.clone(), again.clone()], "30 is 29.97 within 1 %");
        assert_eq!(offsets.of_device("right").collect::<Vec<_>>(), [&right, &faster]);
        assert_eq!(offsets.known()[2], again.known);
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(names, ["offsets.toml"], "nothing is left lying about");
    }

    #[test]
    fn writers_wait_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets.toml");
        std::thread::scope(|scope| {
            for k in 0..8 {
                let path = &path;
                scope.spawn(move || Offsets::store(path, stored(&format!("camera {k}"), 30.0, 0.0)).unwrap());
            }
        });
        assert_eq!(Offsets::read(&path).unwrap().0.len(), 8);
    }

    #[test]
    fn a_broken_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets.toml");
        let sound = Offsets(vec![stored("left", 30.0, 0.03)]).to_toml().unwrap();
        let broken = [
            "half a fi",
            "version = 2\n",
            "camera = []\n",
            &sound.replace("YUYV", "YUY2"),
            &sound.replace("median_s = 0.03", "median_s = nan"),
            &sound.replace("2026", "20x6"),
            &sound.replace("changes", "chances"),
            &sound.replace("rms_s", "# rms_s"),
        ];
        for text in broken {
            assert_ne!(text, sound);
            fs::write(&path, text).unwrap();
            for error in [
                Offsets::read(&path).unwrap_err(),
                Offsets::store(&path, stored("right", 30.0, 0.0)).unwrap_err(),
            ] {
                assert!(
                    matches!(&error, OffsetsError::Format { path: named, .. } if *named == path),
                    "{text}"
                );
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(Offsets::read(&path), Err(OffsetsError::Read { .. })));
        fs::write(&path, sound).unwrap();
        assert_eq!(Offsets::read(&path).unwrap().0, [stored("left", 30.0, 0.03)]);
    }
}
