//! The channels of every stream: label, unit, type. Whoever sends a stream, and whoever writes one to a file, has them from here.
//!
//! Values stand in `rows.rs`, in the same order.

use youquanti_models::LANDMARK_COUNT;

use super::LslPlan;

/// A channel: label, unit, type.
pub type Channel = (String, &'static str, &'static str);

/// The same, known beforehand.
pub type Named = (&'static str, &'static str, &'static str);

/// `youquanti_events`.
pub const EVENT: Named = ("event", "JSON", "Event");

/// The blendshapes alone; also those of `CoModulation`.
pub(super) fn scores() -> impl Iterator<Item = Channel> {
    youquanti_models::blendshapes::NAMES.iter().map(|name| owned((name, "fraction", "Blendshape")))
}

/// `PN_blendshapes`.
pub fn blendshapes() -> Vec<Channel> {
    let rest = [
        ("valid", "boolean", "Valid"),
        ("confidence", "fraction", "Confidence"),
        ("age_ms", "milliseconds", "Latency"),
        ("camera", "index", "Camera"),
    ];
    scores().chain(rest.map(owned)).collect()
}

/// `PN_headpose`. Labels as XDF's specification of MoCap has them; there a channel's type is its label.
pub fn head_pose() -> Vec<Channel> {
    let position = [("PositionX", "meters"), ("PositionY", "meters"), ("PositionZ", "meters")];
    let orientation =
        ["OrientationA", "OrientationB", "OrientationC", "OrientationD"].map(|label| (label, "quaternion"));
    let named = position.into_iter().chain(orientation).chain([("Confidence", "normalized")]);
    named.map(|(label, unit)| (label.to_owned(), unit, label)).collect()
}

/// `PN_mesh`, and the mesh of YouQuantiPy's landmarks, in another unit.
pub fn mesh(unit: &'static str) -> impl Iterator<Item = Channel> {
    let axes = [("x", "PositionX"), ("y", "PositionY"), ("z", "PositionZ")];
    (0..LANDMARK_COUNT)
        .flat_map(move |point| axes.map(|(axis, kind)| (format!("{point}_{axis}"), unit, kind)))
}

/// `PN_landmarks`, YouQuantiPy's.
pub(super) fn landmarks(plan: &LslPlan) -> Vec<Channel> {
    let mut channels: Vec<_> = scores().collect();
    if plan.mesh {
        channels.extend(mesh("normalized"));
    }
    if plan.quality {
        let quality = ["quality_size", "quality_frontal", "quality_stability"];
        channels.extend(quality.map(|label| owned((label, "fraction", "Quality"))));
    }
    channels
}

/// `PN_pose`, YouQuantiPy's.
pub(super) fn pose() -> Vec<Channel> {
    let values = [
        ("x", "normalized", "PositionX"),
        ("y", "normalized", "PositionY"),
        ("z", "normalized", "PositionZ"),
    ];
    let values = values.into_iter().chain([("visibility", "probability", "Visibility")]);
    let of_point = |point: &&str| {
        let point = (*point).to_owned();
        values.clone().map(move |(label, unit, kind)| (format!("{point}_{label}"), unit, kind))
    };
    youquanti_models::pose::NAMES.iter().flat_map(of_point).collect()
}

/// `<camera>_frames`.
pub const FRAMES: [Named; 4] = [
    ("frame", "count", "FrameIndex"),
    ("driver_sequence", "count", "FrameIndex"),
    ("captured_at", "seconds", "Time"),
    ("dropped", "count", "Dropped"),
];

/// `camera_N_video_frames`, YouQuantiPy's.
pub(super) const VIDEO_FRAMES: [Named; 4] = [
    ("frame_number", "count", "FrameIndex"),
    ("unix_time", "seconds", "Time"),
    ("lsl_time", "seconds", "Time"),
    ("video_time", "seconds", "Time"),
];

/// A channel with a label of its own.
pub fn owned((label, unit, kind): Named) -> Channel {
    (label.to_owned(), unit, kind)
}
