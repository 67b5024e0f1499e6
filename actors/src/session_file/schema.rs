//! Names, row types and units of the session file, version 1. The one place where the layout is written down.
//!
//! Every row type is `repr(C)` without padding and without pointers, so a row in memory is a row on disk.
//! Texts inside rows are UTF-8 of fixed width, padded with zero bytes and cut at a character if longer.

use hdf5::H5Type;
use hdf5::types::FixedUnicode;
use serde::{Deserialize, Serialize};
use youquanti_models::face::{BLENDSHAPE_COUNT, LANDMARK_COUNT};
use youquanti_models::pose::{POINT_VALUES, POSE_POINT_COUNT};

use crate::capture::Asked;
use crate::synchrony::SynchronyOptions;

/// Attribute `format` of every session file.
pub const FORMAT: &str = "youquanti-session";

/// Attribute `version`: readers refuse a version they do not know.
pub const VERSION: u32 = 1;

/// Columns of `latency_us`: microseconds from the frame's `captured_at` until the stage was done.
pub const LATENCY_STAGES: [&str; 6] =
    ["received", "submitted", "uploaded", "detected", "landmarks", "published"];

/// In `latency_us`: the stage did not run on this frame.
pub const NOT_RUN: u32 = u32::MAX;

/// Values of `item` in the ledger, which counts from the file's beginning. For every camera and consumer
/// `captured = delivered + Σ dropped + under_way`; frames lost by the driver are beside that sum.
pub mod ledger_item {
    /// Frames that the camera handed out, and those that were on their way to this consumer when the file began.
    pub const CAPTURED: &str = "captured";
    /// Frames that the consumer got.
    pub const DELIVERED: &str = "delivered";
    /// Frames that never reached this process, from jumps of the driver's counter.
    pub const DRIVER_LOST: &str = "driver_lost";
    /// Frames that were still on their way to the consumer when the file was closed, while the session ran on.
    pub const UNDER_WAY: &str = "under_way";
    /// Beginning of the items that count dropped frames; the reason follows.
    pub const DROPPED_PREFIX: &str = "dropped:";
}

/// Values of `item` in the quality of a camera. Each minute, and at the session's end, brings a row of each for
/// the time since the row before; what too few frames came for, or what the stamps do not tell, has none.
/// `timing.rs` says how they are computed.
pub mod quality_item {
    /// Frames in the index, count.
    pub const FRAMES: &str = "frames";
    /// Frames that the driver lost, count, from jumps of its counter.
    pub const DRIVER_LOST: &str = "driver_lost";
    /// Frames whose stamp was replaced by the time of receipt, count. They are left out of all that follows.
    pub const STAMPS_REPLACED: &str = "stamps_replaced";
    /// Mean interval of frames that the driver numbered in succession, seconds.
    pub const INTERVAL_MEAN: &str = "interval_mean_s";
    /// Standard deviation of these intervals, seconds.
    pub const INTERVAL_JITTER: &str = "interval_jitter_s";
    /// Longest interval of two frames in succession, gaps included, seconds.
    pub const INTERVAL_MAX: &str = "interval_max_s";
    /// Mean of receipt − stamp, seconds.
    pub const DELAY_MEAN: &str = "delay_mean_s";
    /// Least receipt − stamp, seconds.
    pub const DELAY_MIN: &str = "delay_min_s";
    /// Standard deviation of receipt − stamp, seconds.
    pub const DELAY_STD: &str = "delay_std_s";
    /// How much faster the driver's clock runs than `CLOCK_MONOTONIC`, parts per million.
    pub const CLOCK_DRIFT: &str = "clock_drift_ppm";

    /// Circular mean of this camera's stamps minus the nearest of `camera`, the first of the same declared rate
    /// (within 1 %), seconds, within ± half a period; positive: this camera is later. Stamps are taken as they are:
    /// measured offsets of the two cameras come on top.
    pub fn phase_to(camera: &str) -> String {
        format!("{PHASE_PREFIX}{camera}_s")
    }

    /// Circular standard deviation of the same, seconds; half a period where there is no phase.
    pub fn phase_spread_to(camera: &str) -> String {
        format!("phase_spread_to:{camera}_s")
    }

    /// The camera that an item of [`phase_to`] is about.
    pub fn phase_camera(item: &str) -> Option<&str> {
        item.strip_prefix(PHASE_PREFIX)?.strip_suffix("_s")
    }

    const PHASE_PREFIX: &str = "phase_to:";
}

/// The `source` of the recorder's rows of quality, which say how long rows waited until they were safe. No camera's name has a
/// space in it.
pub const FLUSH_SOURCE: &str = "session file";

/// Values of `item` in the quality of the file itself. Each minute, and the recording's end, brings a row of each for the time since
/// the row before. `flushes.rs` says how they are computed.
pub mod flush_item {
    /// Flushes, count.
    pub const FLUSHES: &str = "flushes";
    /// Mean time that a flush took, seconds.
    pub const TOOK_MEAN: &str = "flush_mean_s";
    /// Longest time that a flush took, seconds.
    pub const TOOK_MAX: &str = "flush_max_s";
    /// Longest time from a row's arrival at the recorder until it was safe, seconds: what a kill or a loss of power would have cost.
    pub const ROW_AGE_MAX: &str = "row_age_max_s";
}

/// Last dimension of `/synchrony/values`: see [`Likeness`](crate::synchrony::Likeness).
pub const LIKENESS_COLUMNS: [&str; 4] = ["r", "lag_s", "p", "common"];

/// Unit and type of each of them as a channel of a stream.
pub const LIKENESS_CHANNELS: [(&str, &str); 4] = [
    ("normalized", "Correlation"),
    ("seconds", "Lag"),
    ("probability", "Probability"),
    ("fraction", "Fraction"),
];

/// Values of `item` in the quality of a participant in a camera, whose `source` is [`validity_source`]: the validity card.
/// Each minute, and the session's end, brings a row of each for the time since the row before, for everybody seen so far; what
/// too little was seen for has none. `validity.rs` says how they are computed.
pub mod validity_item {
    /// Frames of the camera that were analysed, count.
    pub const ANALYSED: &str = "analysed";
    /// Of these, frames with the participant's face, count.
    pub const FACES: &str = "faces";
    /// The same as a share of the analysed frames, 0 to 1.
    pub const PRESENCE: &str = "presence";
    /// Longer side of the box around the landmarks, pixels, median.
    pub const SIZE_P50: &str = "face_size_p50_px";
    /// 5th percentile of the same.
    pub const SIZE_P05: &str = "face_size_p05_px";
    /// Sharpness of the face: see [`FaceRow::sharpness`](super::FaceRow), median.
    pub const SHARPNESS_P50: &str = "sharpness_p50";
    /// 5th percentile of the same.
    pub const SHARPNESS_P05: &str = "sharpness_p05";
    /// Share of the faces whose yaw is beyond ± 30°, 0 to 1.
    pub const YAW_BEYOND: &str = "yaw_beyond_30deg";
    /// Repeatability of x or y of a landmark while the head is still, pixels, standard deviation.
    pub const NOISE_PX: &str = "noise_px";
    /// Repeatability of a blendshape while the head is still, standard deviation.
    pub const NOISE_SCORE: &str = "noise_score";
    /// Three frames in succession with a still head, count: what the noise is computed from.
    pub const STILL: &str = "still";

    /// 95th minus 5th percentile of a blendshape that is known to respond weakly.
    pub fn weak_range(blendshape: &str) -> String {
        format!("{WEAK_PREFIX}{blendshape}")
    }

    /// The blendshape of an item of [`weak_range`].
    pub fn weak_blendshape(item: &str) -> Option<&str> {
        item.strip_prefix(WEAK_PREFIX)
    }

    const WEAK_PREFIX: &str = "weak_range:";
}

/// The `source` of a participant's rows of quality in a camera: `P1 in left`. No camera's name has a space in it.
pub fn validity_source(participant: impl std::fmt::Display, camera: &str) -> String {
    format!("{participant}{VALIDITY_IN}{camera}")
}

/// Participant's number and camera of a source of [`validity_source`].
pub fn validity_parts(source: &str) -> Option<(u32, &str)> {
    let (participant, camera) = source.split_once(VALIDITY_IN)?;
    Some((participant.strip_prefix('P')?.parse().ok()?, camera))
}

const VALIDITY_IN: &str = " in ";

/// What was asked of a camera, JSON in its attribute `asked`; `None` was left to the camera.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AskedMode {
    /// Width and height, pixels.
    pub size: Option<(u32, u32)>,
    /// Name of the pixel format.
    pub format: Option<String>,
    /// Frames a second.
    pub fps: Option<f64>,
}

impl From<Asked> for AskedMode {
    fn from(asked: Asked) -> Self {
        let format = asked.format.map(|format| format.name().to_owned());
        Self { size: asked.size, format, fps: asked.fps }
    }
}

/// Names of the file's attributes that say which recording of its session it is.
pub(super) mod recording_attribute {
    /// Counts the recordings of a session from 1.
    pub(crate) const NUMBER: &str = "recording";
    /// What whoever started it wrote about it.
    pub(crate) const NOTES: &str = "notes";
    /// Who started it; empty if nobody said.
    pub(crate) const BY: &str = "recorded_by";
    /// Where the session was started although something is missing, JSON: `reason`, `by`, `missing`.
    pub(crate) const OVERRIDE: &str = "override";
    /// In a recovered copy alone, JSON: the name of the original, and what of it is lost, in words.
    pub(crate) const RECOVERED: &str = "recovered";
}

/// Names of a camera's attributes beside those of its picture. A camera that was never opened has no `fps`, one
/// without a measured offset has `calibrated` 0 and none of those that follow it.
pub(super) mod camera_attribute {
    /// JSON, an [`AskedMode`](super::AskedMode).
    pub(crate) const ASKED: &str = "asked";
    /// `seq` of the first frame that belongs to the file; 0 where a session began with it.
    pub(crate) const FIRST_SEQ: &str = "first_seq";
    /// Frames a second as the camera declared them.
    pub(crate) const FPS: &str = "fps";
    /// JSON, a list of [`ControlReading`](crate::capture::ControlReading).
    pub(crate) const CONTROLS: &str = "controls";
    /// Codec and encoder of its video, `none` without.
    pub(crate) const VIDEO: &str = "video";
    /// 1: the offset of its stamps was measured.
    pub(crate) const CALIBRATED: &str = "calibrated";
    /// Stamp minus light, seconds: readers subtract it. Like the next four of
    /// [`StampOffset`](crate::calibration::StampOffset).
    pub(crate) const OFFSET_MEAN: &str = "stamp_offset_mean_s";
    pub(crate) const OFFSET_RMS: &str = "stamp_offset_rms_s";
    pub(crate) const OFFSET_MEDIAN: &str = "stamp_offset_median_s";
    pub(crate) const OFFSET_P05: &str = "stamp_offset_p05_s";
    pub(crate) const OFFSET_P95: &str = "stamp_offset_p95_s";
    /// Single measurements.
    pub(crate) const OFFSET_COUNT: &str = "stamp_offset_count";
    /// Nanoseconds since 1970.
    pub(crate) const OFFSET_MEASURED: &str = "stamp_offset_measured_utc";
}

/// Width of names of cameras, consumers and roles.
pub(super) type Name = FixedUnicode<32>;
/// Width of everything else that is short.
pub(super) type Label = FixedUnicode<64>;

pub(super) const CAMERAS: &str = "cameras";
pub(super) const FRAMES: &str = "frames";
pub(super) const RESULTS: &str = "results";
pub(super) const FACES: &str = "faces";
pub(super) const VIDEO: &str = "video";
pub(super) const LANDMARKS: &str = "landmarks";
pub(super) const BLENDSHAPES: &str = "blendshapes";
pub(super) const HEAD_POSE: &str = "head_pose";
/// The tables that have a row for each face: row i of one belongs to row i of the others.
pub(super) const FACE_TABLES: [&str; 4] = [FACES, LANDMARKS, BLENDSHAPES, HEAD_POSE];
/// Where bodies are sought. Row i of one belongs to row i of the other.
pub(super) const POSE: &str = "pose";
pub(super) const POSE_POINTS: &str = "pose_points";
pub(super) const PARTICIPANTS: &str = "participants";
pub(super) const MARKERS: &str = "markers";
pub(super) const EVENTS: &str = "events";
pub(super) const GAPS: &str = "gaps";
pub(super) const TEXT: &str = "text";
pub(super) const LEDGER: &str = "ledger";
pub(super) const QUALITY: &str = "quality";
pub(super) const CLOCK: &str = "clock";
pub(super) const STOP: &str = "stop";
pub(super) const SYNCHRONY: &str = "synchrony";
/// Tables of [`SYNCHRONY`], which is there only where it was asked for.
pub(super) const PAIRS: &str = "pairs";
pub(super) const WINDOWS: &str = "windows";
pub(super) const VALUES: &str = "values";
pub(super) const COMMITTED: &str = "committed";

/// Attribute of [`COMMITTED`]: the paths of the tables whose row counts its columns are.
pub(super) const COLUMNS: &str = "columns";
/// First column of [`COMMITTED`].
pub(super) const TIME_COLUMN: &str = "time_ns";

/// Longest text that an attribute holds; HDF5's own limit for one is just below 64 KiB.
pub(super) const ATTRIBUTE_LIMIT: usize = 60 << 10;

/// Rows of a chunk: the unit in which a table grows on disk, is compressed, and is buffered in memory.
pub(super) mod chunk_rows {
    use crate::synchrony::SynchronyOptions;

    pub(crate) const FRAMES: usize = 256;
    /// Faces, landmarks, blendshapes and head poses: 92 kB of landmarks. Larger ones are written anew more often, because each
    /// flush writes the chunk at the end whole: at 64 rows three times. Compressed, only whole chunks are written, and
    /// larger ones keep their rows waiting for longer.
    pub(crate) const FACES: usize = 16;
    pub(crate) const SMALL: usize = 64;
    pub(crate) const TEXT: usize = 16384;

    /// Windows of synchrony: as many as 64 kB hold, at least one.
    pub(crate) fn synchrony(options: &SynchronyOptions) -> usize {
        ((64 << 10) / super::synchrony_row_bytes(options)).clamp(1, SMALL)
    }
}

/// Bytes of a row of `/synchrony/values`.
pub(super) fn synchrony_row_bytes(options: &SynchronyOptions) -> usize {
    options.pairs().count() * options.groups.len() * LIKENESS_COLUMNS.len() * size_of::<f32>()
}

/// A row of `/cameras/<name>/frames`. Which frames are in a video says the table `video`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub struct FrameRow {
    /// Counts captured frames of the camera from 0.
    pub seq: u64,
    /// The driver's own counter; a jump is a frame that the driver lost.
    pub driver_seq: u32,
    /// Bits of `FrameFlags`.
    pub flags: u32,
    /// The source's stamp, nanoseconds of `CLOCK_MONOTONIC`.
    pub captured_at_ns: u64,
    /// When the frame reached the process, same clock.
    pub received_at_ns: u64,
}

/// A row of `/cameras/<name>/results`: a frame that was analysed, also when no face was in it. A frame of the
/// index without such a row was dropped before the pipeline; the ledger says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub struct ResultRow {
    /// `seq` of the frame.
    pub frame_seq: u64,
    /// The frame's stamp, nanoseconds of `CLOCK_MONOTONIC`.
    pub captured_at_ns: u64,
    /// Faces found: so many rows of `faces` belong to the frame.
    pub faces: u32,
    /// Faces seen beyond the configured maximum, which have no rows.
    pub over_limit: u16,
    /// 1 if the detector ran on the frame; 0 if faces come from tracks alone.
    pub detector_ran: u16,
}

/// A row of `/cameras/<name>/faces`.
#[derive(Clone, Copy, Debug, PartialEq, H5Type)]
#[repr(C)]
pub struct FaceRow {
    /// `seq` of the frame that the face is in.
    pub frame_seq: u64,
    /// The frame's stamp, nanoseconds of `CLOCK_MONOTONIC`.
    pub captured_at_ns: u64,
    /// Unique in the session.
    pub track: u32,
    /// 1 is `P1`; 0: no participant is known for the track.
    pub participant: u32,
    /// The score, 0 to 1, of the detection that began or last confirmed the track; the same until the next one.
    pub score: f32,
    /// x0, y0, x1, y1, pixels of the camera picture.
    pub bbox: [f32; 4],
    /// The landmark network's confidence, 0 to 1.
    pub presence: f32,
    /// Variance of the Laplacian of the picture that the landmark network saw of the face, in levels of 0 to 255; NaN where
    /// the back end does not measure it.
    pub sharpness: f64,
    /// See [`LATENCY_STAGES`] and [`NOT_RUN`].
    pub latency_us: [u32; 6],
}

/// A row of `/cameras/<name>/video`: a frame that is in the camera's video. The file of a segment is called like the session
/// file, with `.<name>.<segment, three digits>.mkv` in place of its ending. Written after the frame: each row has its frame in
/// the file; a file that was cut off by a kill may have a few frames more than rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub struct VideoRow {
    /// `seq` of the frame.
    pub seq: u64,
    /// The frame's stamp, nanoseconds of `CLOCK_MONOTONIC`. Times in the file are microseconds from that of its first frame.
    pub captured_at_ns: u64,
    /// Which file, counted from 0: a new one each time that the camera was opened or its encoder began anew.
    pub segment: u32,
    /// Which frame of the file, counted from 0, in its order, which is that of decoding too.
    pub frame: u32,
}

/// Bytes of a face in all four of its tables.
pub(super) const FACE_BYTES: usize =
    size_of::<FaceRow>() + (LANDMARK_COUNT * 3 + BLENDSHAPE_COUNT + 16) * size_of::<f32>();

/// A row of `/cameras/<name>/pose`: a frame that was looked at for a body, also when there was none; there the points are NaN.
#[derive(Clone, Copy, Debug, PartialEq, H5Type)]
#[repr(C)]
pub struct PoseRow {
    /// `seq` of the frame.
    pub frame_seq: u64,
    /// The frame's stamp, nanoseconds of `CLOCK_MONOTONIC`.
    pub captured_at_ns: u64,
    /// 1 if there is a body, else 0.
    pub valid: u16,
    /// 1 if the detector ran on the frame; 0 if the body was followed from the frame before.
    pub detector_ran: u16,
    /// Microseconds from `captured_at_ns` until the result was there.
    pub latency_us: u32,
    /// The landmark network's confidence, 0 to 1, that there is a body where it looked; 0 where there was nothing to look at.
    pub presence: f32,
    /// The detector's score, 0 to 1, of the detection that began the body's track; NaN without a body.
    pub score: f32,
}

/// Bytes of a body in both its tables.
pub(super) const POSE_BYTES: usize =
    size_of::<PoseRow>() + POSE_POINT_COUNT * POINT_VALUES.len() * size_of::<f32>();

/// A row of `/participants`: from `time_ns` on, `track` of `camera` is this participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct ParticipantRow {
    pub(super) time_ns: u64,
    pub(super) id: u32,
    pub(super) track: u32,
    pub(super) name: Label,
    pub(super) role: Name,
    pub(super) camera: Name,
    pub(super) why: Label,
}

/// A row of `/events` and `/markers`; the text is JSON in `/text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct TextRow {
    pub(super) time_ns: u64,
    pub(super) text_offset: u64,
    pub(super) text_length: u64,
    pub(super) source: Label,
    pub(super) kind: Label,
}

/// A row of `/gaps`: written when a gap is noticed, with `end_ns` 0, and again when it has ended. Of the rows of
/// one source with the same `time_ns` the newest counts. The text is JSON: `cause` in full, `noticed_ns`,
/// `last_good_ns`, `first_missing_seq`, and `missed`, the frames that would have come, which is null at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct GapRow {
    pub(super) time_ns: u64,
    pub(super) end_ns: u64,
    pub(super) text_offset: u64,
    pub(super) text_length: u64,
    pub(super) source: Label,
    pub(super) cause: Label,
}

/// A row of `/ledger`: the newest row of each (camera, consumer, item) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct LedgerRow {
    pub(super) time_ns: u64,
    pub(super) count: u64,
    pub(super) camera: Name,
    pub(super) consumer: Name,
    pub(super) item: Label,
}

/// A row of `/quality`: a measure of the time since the row before of the same (source, item). All rows count.
#[derive(Clone, Copy, Debug, PartialEq, H5Type)]
#[repr(C)]
pub(super) struct QualityRow {
    pub(super) time_ns: u64,
    pub(super) value: f64,
    pub(super) source: Label,
    pub(super) item: Label,
}

/// A row of `/clock`: the same instant on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct ClockRow {
    pub(super) time_ns: u64,
    pub(super) utc_ns: i64,
}

/// The one row of `/stop`, written when the session ended as meant; the text is the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct StopRow {
    pub(super) time_ns: u64,
    pub(super) utc_ns: i64,
    pub(super) text_offset: u64,
    pub(super) text_length: u64,
}

/// A row of `/synchrony/pairs`: two participants, 1 is `P1`. All are written at the session's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct PairRow {
    pub(super) first: u32,
    pub(super) second: u32,
}

/// A row of `/synchrony/windows`: the window of the first one's samples. Row i of `values` belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub struct WindowRow {
    /// Capture time of its first sample, nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Capture time of its last sample.
    pub end_ns: u64,
}

/// A network: an element of the attribute `models`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, H5Type)]
#[repr(C)]
pub(super) struct ModelEntry {
    pub(super) id: Label,
    pub(super) sha256: Label,
}

/// The text in fixed width, cut at the last character that fits.
pub(super) fn fixed<const N: usize>(text: &str) -> FixedUnicode<N> {
    text[..text.floor_char_boundary(N)].parse().unwrap_or_default()
}

/// The text of a row that came from a file, which may hold any bytes.
pub(super) fn text_of<const N: usize>(fixed: &FixedUnicode<N>) -> String {
    String::from_utf8_lossy(fixed.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdf5::types::TypeDescriptor;

    #[test]
    fn rows_have_no_padding_and_no_pointers() {
        fn check<T: H5Type>() {
            let TypeDescriptor::Compound(compound) = T::type_descriptor() else { panic!("not a compound") };
            let fields: usize = compound.fields.iter().map(|f| f.ty.size()).sum();
            assert_eq!(fields, size_of::<T>(), "{}", std::any::type_name::<T>());
            let text = format!("{:?}", compound);
            assert!(!text.contains("VarLen"), "{text}");
        }
        check::<FrameRow>();
        check::<ResultRow>();
        check::<FaceRow>();
        check::<VideoRow>();
        check::<PoseRow>();
        check::<ParticipantRow>();
        check::<TextRow>();
        check::<GapRow>();
        check::<LedgerRow>();
        check::<QualityRow>();
        check::<ClockRow>();
        check::<StopRow>();
        check::<PairRow>();
        check::<WindowRow>();
        check::<ModelEntry>();
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let check = |input: &str, expected: &str| assert_eq!(text_of(&fixed::<4>(input)), expected);
        check("", "");
        check("abcd", "abcd");
        check("abcde", "abcd");
        check("abcä", "abc");
        check("aä€", "aä");
    }
}
