//! What is known of the time between light and stamp of a camera, and how it is measured.
//!
//! Owns the type of a measured offset, the code that a screen flashes for it, and the estimate. Never applies an offset: stamps
//! stay as the driver gave them, and whoever reads them subtracts.

pub mod code;
pub mod estimate;

use serde::{Deserialize, Serialize};
use youquanti_models::PixelFormat;

use crate::capture::DeviceInfo;

/// Measured offset of a camera's stamps: stamp minus the middle of the exposure, seconds. Readers subtract
/// `median_s` (or `mean_s`) from stamps to get the time of the light.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StampOffset {
    /// Mean.
    pub mean_s: f64,
    /// Root of the mean square around the mean.
    pub rms_s: f64,
    /// Median.
    pub median_s: f64,
    /// 5th percentile.
    pub p05_s: f64,
    /// 95th percentile.
    pub p95_s: f64,
    /// Single measurements that these figures come from.
    pub count: u32,
    /// When it was measured, nanoseconds since 1970-01-01 UTC.
    pub measured_at_utc_ns: i64,
}

/// A measured offset and what it was measured for: another size, format or rate has another offset.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownOffset {
    /// The device's stable identity, as [`DeviceInfo::id`] has it.
    pub device: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pixel format.
    pub format: PixelFormat,
    /// Frames a second.
    pub fps: f64,
    /// What was measured.
    pub offset: StampOffset,
}

impl KnownOffset {
    /// Whether it was measured for this device in this mode; rates may differ by 1 %.
    pub fn is_of(&self, info: &DeviceInfo) -> bool {
        self.device == info.id
            && (self.width, self.height) == (info.layout.width, info.layout.height)
            && self.format == info.layout.format
            && (self.fps - info.fps).abs() <= 0.01 * self.fps
    }
}

/// The offset of this device in this mode, if one is known.
pub fn find<'a>(known: &'a [KnownOffset], info: &DeviceInfo) -> Option<&'a KnownOffset> {
    known.iter().find(|known| known.is_of(info))
}
