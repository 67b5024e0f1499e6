//! Typed, validated configuration of YouQuanti.
//!
//! Owns the file format: which tables and keys there are, what they may hold, and how mistakes are
//! reported, all of them at once with line and remedy. Reads the configuration's own file and nothing else: whether
//! devices, clips and models exist is for others to check, who report through [`Config::problem`].
//!
//! Parse, don't validate: every field's type admits exactly the values that the file may hold, so a
//! [`Config`] needs no further checks. Each key, its type, default and description stand in one
//! place, `format.rs`, from which reader, documentation and JSON schema are made.

mod choices;
mod format;
mod problem;
mod rules;
mod schema;
mod table;
mod values;

pub use choices::{
    Backend, Compression, Detector, Layout, LogFormat, LogLevel, LslProfile, OnFatal, OnRecordingFailure,
    Pace, PowerLine, Precision, PreviewFormat, VideoCodec,
};
pub use format::{
    CameraConfig, Config, ControlsConfig, FileSource, GpuConfig, LabRecorderConfig, LogConfig, LslConfig,
    MarkersConfig, ParticipantsConfig, PipelineConfig, PreviewConfig, RecordingConfig, SceneSource,
    ServerConfig, SessionConfig, SourceConfig, SupervisionConfig, SynchronyConfig, UsualControls, V4l2Source,
    VideoConfig,
};
pub use problem::{ConfigErrors, Position, Problem};
pub use schema::schema;
pub use values::{
    AutoOr, ByteSize, ControlValue, DetectorSize, DeviceSelector, Fraction, FrameRate, Gpus, Int,
    MediaAddress, Milliseconds, Ordinal, ParticipantName, Period, SessionName, StreamPattern, SynchronyGroup,
    Threads, ValueError,
};
