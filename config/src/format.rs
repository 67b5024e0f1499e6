//! The file format, version 1: every table and key with its type, default and description.
//!
//! Owns the types that a valid file becomes, [`Config`] first. Rules that tie several keys together are in
//! `rules.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use youquanti_models::{CameraName, PixelFormat};

use crate::choices::{
    Backend, Compression, Detector, Layout, LogFormat, LogLevel, LslProfile, OnFatal, OnRecordingFailure,
    Pace, PowerLine, Precision, PreviewFormat, VideoCodec,
};
use crate::problem::{ConfigErrors, Position, Problem, Source, What};
use crate::rules;
use crate::table::{At, Leaf, Problems, Value, table, type_name};
use crate::values::{
    AutoOr, ByteSize, ControlValue, DetectorSize, DeviceSelector, FormatVersion, Fraction, FrameRate, Gpus,
    Int, MediaAddress, Milliseconds, Ordinal, ParticipantName, Period, SessionName, StreamPattern,
    SynchronyGroup, Threads,
};

table! {
    /// Configuration of a YouQuanti session.
    struct Tables {
        /// Version of this file's format.
        version: FormatVersion,
        /// What the session is called, where it goes and how long it lasts.
        session: SessionConfig = {},
        /// A camera: one `[[camera]]` for each, 1 to 64.
        camera: Vec<CameraConfig>,
        /// How faces are found.
        pipeline: PipelineConfig = {},
        /// How NVIDIA GPUs are used, where the pipeline's back end is "cuda", "tensorrt", or "auto" and finds some.
        gpu: GpuConfig = {},
        /// The people that are expected.
        participants: ParticipantsConfig = {},
        /// How alike the participants' faces move.
        synchrony: SynchronyConfig = {},
        /// The session's file.
        recording: RecordingConfig = {},
        /// What is sent and received over Lab Streaming Layer (LSL).
        lsl: LslConfig = {},
        /// Bodies.
        pose: PoseConfig = {},
        /// Live pictures in shared memory, for windows and browsers.
        preview: PreviewConfig = {},
        /// What happens when a part fails.
        supervision: SupervisionConfig = {},
        /// The port for programs and browsers: control, live results, figures for Prometheus.
        server: ServerConfig = {},
        /// The port for programs that steer LabRecorder.
        labrecorder: LabRecorderConfig = {},
        /// What is logged.
        log: LogConfig = {},
    }
}

table! {
    /// What the session is called, where it goes and how long it lasts.
    pub struct SessionConfig {
        /// Name of the session and of its file.
        name: SessionName = "session",
        /// Folder for recordings; relative to the folder in which the program runs.
        directory: PathBuf = "sessions",
        /// How long the session lasts, "100ms" to "720h". Without it: until it is stopped or all sources have ended.
        duration: Option<Period<100, 2_592_000_000>>,
    }
}

table! {
    /// A camera, with exactly one of `scene`, `file` and `v4l2`.
    struct RawCamera {
        /// The camera's name in files, streams and logs.
        name: CameraName,
        /// Frames that its memory holds. More slots forgive longer stalls of a consumer and take more memory.
        slots: Int<2, 64> = 8,
        /// The GPU that computes its frames, by its number in `youquanti doctor`. Without it: the GPUs of `[gpu]` in turn. Of no effect on the processor.
        gpu: Option<Ordinal>,
        /// What its pictures are recorded as, whatever `[recording.video]` says.
        video: Option<VideoCodec>,
        /// A simulated camera that shows real faces in motion.
        scene: Option<SceneSource>,
        /// A video, a folder of pictures, or a network camera.
        file: Option<FileSource>,
        /// A camera of this computer.
        v4l2: Option<V4l2Source>,
    }
}

table! {
    /// A simulated camera: real portraits moving on known paths, the same for the same seed.
    pub struct SceneSource {
        /// Faces in the picture.
        faces: Int<0, 16> = 1,
        /// Width of the picture in pixels. Written together with height.
        width: Int<16, 16384> = 1280,
        /// Height of the picture in pixels. Written together with width.
        height: Int<16, 16384> = 720,
        /// Frames a second.
        fps: FrameRate = 30,
        /// Decides all that is random: who moves where, how fast.
        seed: u64 = 1,
        /// Format of the pixels.
        format: PixelFormat = "YUYV",
        /// How the faces are arranged.
        layout: Layout = "grid",
        /// When the next frame comes.
        pace: Pace = "real",
        /// Frames after which the camera ends. Without it: never.
        frames: Option<Int<1, { u32::MAX }>>,
    }
}

table! {
    /// A video, a folder of pictures, or a network camera.
    pub struct FileSource {
        /// A file or address that FFmpeg opens, or a folder of pictures, shown in the order of their names.
        path: MediaAddress,
        /// When the next frame comes. A network camera keeps its own pace with "real".
        pace: Pace = "real",
        /// Begin again at the end.
        r#loop: bool = false,
        /// Frames a second. Without it: the video's own rate, 30 for a folder.
        fps: Option<FrameRate>,
    }
}

table! {
    /// A camera of this computer.
    pub struct V4l2Source {
        /// Which camera, as `youquanti cameras` shows it: its id, where it is plugged in, serial number, name, or a path.
        device: DeviceSelector,
        /// Width of the picture in pixels. Written together with height.
        width: Int<16, 16384> = 1280,
        /// Height of the picture in pixels. Written together with width.
        height: Int<16, 16384> = 720,
        /// Frames a second.
        fps: FrameRate = 30,
        /// Format in which the camera sends. Most cameras reach their full rate with MJPG only.
        format: PixelFormat = "MJPG",
        /// Go on with what the camera gives when that is another format, size, rate or control than asked for. Log and session file say what it was.
        accept_other: bool = false,
        /// What the camera is set to before it starts.
        controls: ControlsConfig = {},
    }
}

table! {
    /// Controls that most cameras have, in the same units for all. What is not written stays as the camera has it.
    pub struct UsualControls {
        /// Exposure time in milliseconds, or "auto". Longer than a frame is, it lowers the rate.
        exposure: Option<AutoOr<Milliseconds>>,
        /// Amplification in the camera's own unit, or "auto".
        gain: Option<AutoOr<Int<0, { i32::MAX as u32 }>>>,
        /// Where the lens is focused, in the camera's own unit, or "auto".
        focus: Option<AutoOr<Int<0, { i32::MAX as u32 }>>>,
        /// White balance in kelvin, or "auto".
        white_balance: Option<AutoOr<Int<1000, 20_000>>>,
        /// Filter against the flicker of lamps: the mains' frequency.
        power_line: Option<PowerLine>,
        /// Whether automatic exposure may lower the frame rate when it is dark, as most webcams do unless they are told. Switched off even if it is not written; cameras without such a switch are left alone.
        slow_in_dark: bool = false,
    }
}

/// What a camera is set to: the usual controls, and others by the driver's names.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlsConfig {
    /// Those that have a key of their own.
    pub usual: UsualControls,
    /// Others in the order of their names, with the driver's name as `youquanti cameras` and `v4l2-ctl` write it.
    pub others: Vec<(String, ControlValue)>,
}

impl Value for ControlsConfig {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let is_usual = |key: &str| UsualControls::KEYS.iter().any(|known| known.name == key);
        // Who else would read it as one says what is wrong with what is no table.
        let Some(table) = at.value.get_ref().as_table() else {
            UsualControls::read(at, problems);
            return None;
        };
        let (usual, others): (Vec<_>, Vec<_>) =
            table.iter().partition(|(key, _)| is_usual(key.get_ref().as_ref()));
        let usual = usual.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let usual = Spanned::new(at.value.span(), DeValue::Table(usual));
        let usual = UsualControls::read(At { value: &usual, ..at }, problems);
        let label = at.label();
        let others: Vec<_> = others
            .into_iter()
            .map(|(key, value)| {
                let key = key.get_ref().as_ref();
                let value = ControlValue::read(At { table: &label, key, value }, problems)?;
                Some((key.to_owned(), value))
            })
            .collect();
        Some(Self { usual: usual?, others: others.into_iter().collect::<Option<_>>()? })
    }

    fn schema() -> Json {
        let mut schema = UsualControls::schema();
        schema["additionalProperties"] = <ControlValue as Leaf>::schema();
        schema
    }
}

table! {
    /// How faces are found.
    pub struct PipelineConfig {
        /// What the networks run on. "auto" takes "cuda" where a GPU and all that it needs are there, else "cpu", and says why in log and session file; what is asked for by name and cannot run is an error. With "none" no faces are sought: frames are stamped and recorded, none has a result, and the ledger counts them as replaced by newer ones.
        backend: Backend = "auto",
        /// Workers on the processor, each on a thread and core of its own; cameras are dealt out to them in turn. On GPUs there is one worker for each GPU that has cameras, whatever is written here.
        workers: Int<1, 16> = 1,
        /// Threads of each worker on the processor. Of no effect on GPUs.
        threads: Threads = "auto",
        /// Most faces followed in one camera.
        max_faces: Int<1, 16> = 4,
        /// The network that finds faces in the whole picture.
        detector: Detector = "yunet",
        /// Width in pixels of the picture that the detector looks at. Only "yunet" has a choice.
        detector_size: DetectorSize = "auto",
        /// Width in pixels of the smallest face wanted, in the camera's picture; decides the detector's size when that is "auto".
        smallest_face: Int<16, 2048> = 80,
        /// The detector looks at every n-th frame, and wherever a face is missing.
        detect_every: Int<1, 1000> = 10,
        /// Least score of a detection.
        score_threshold: Fraction = 0.6,
        /// Least presence, by the landmark network, for a face to be followed.
        presence_threshold: Fraction = 0.5,
        /// Folder of the networks, each as ONNX. Without it: those in the program.
        model_dir: Option<PathBuf>,
    }
}

table! {
    /// How NVIDIA GPUs are used.
    pub struct GpuConfig {
        /// Which ones, as a list of their numbers in `youquanti doctor`; "all" that the driver sees. Cameras without a `gpu` of their own are dealt out to them in turn.
        devices: Gpus = "all",
        /// How exactly the networks compute. "tf32" and "fp32" go with both back ends on GPUs, "fp16" with "tensorrt" only.
        precision: Precision = "tf32",
        /// How long a frame waits, "0ms" to "50ms", for frames of the other cameras on its GPU, so that they are computed together: more frames a second for later results. It ends as soon as every camera has sent one.
        batch_wait: Period<0, 50> = "0ms",
        /// What follows an error after which this program cannot use a GPU again. "cpu": the processor takes that GPU's cameras over, and the session ends degraded. "stop": the session stops and closes its file.
        on_fatal: OnFatal = "cpu",
    }
}

table! {
    /// The people that are expected.
    pub struct ParticipantsConfig {
        /// How many. Without it: as many as are seen.
        expected: Option<Int<1, 64>>,
        /// Their names, given in the order in which they are first seen.
        names: Option<Vec<ParticipantName>>,
    }
}

table! {
    /// How alike the participants' faces move: for each pair of participants and group of blendshapes, the correlation over a window at the lag where it is strongest, and how likely chance alone gives as much.
    pub struct SynchronyConfig {
        /// Whether it is computed. Needs `participants.expected`.
        enabled: bool = false,
        /// Samples a second to which the rows of all cameras are brought; lags are whole samples.
        rate: Int<5, 120> = 30,
        /// Length of a window. In half of it both must be seen.
        window: Period<1_000, 60_000> = "10s",
        /// From one window to the next.
        step: Period<100, 60_000> = "1s",
        /// Lags from minus to plus this are looked at.
        max_lag: Period<0, 10_000> = "1s",
        /// The past in which one of the two is shifted in a circle to see what chance gives; at least a window and twice the largest lag. p cannot be less than about 2 × max_lag / history.
        history: Period<2_000, 600_000> = "2min",
        /// Circular shifts that each window is compared with. 0: no p, and far less to compute.
        shifts: Int<0, 100_000> = 199,
        /// Decides which shifts.
        seed: u64 = 1,
        /// What is compared: names, each with the blendshapes whose mean it is. Written, it takes the place of all of these.
        groups: Vec<SynchronyGroup> = { smile = ["mouthSmileLeft", "mouthSmileRight"], brow = ["browInnerUp", "browOuterUpLeft", "browOuterUpRight"], eye = ["eyeBlinkLeft", "eyeBlinkRight"], jaw = ["jawOpen"] },
    }
}

table! {
    /// The session's file.
    pub struct RecordingConfig {
        /// Whether the session starts with a recording. Others can be started and stopped while it runs.
        enabled: bool = true,
        /// Longest time between two flushes: what a power failure can cost.
        flush_interval: Period<100, 60_000> = "1s",
        /// Compression of the file.
        compression: Compression = "none",
        /// Free space on the disk below which recording stops and the file is closed properly.
        reserve: ByteSize = "500MB",
        /// What follows a file that cannot be written to its end, because the disk is full, failed or was taken away. "stop": the session stops. "continue": the session goes on without a file and ends degraded; another recording can be started. In both cases what could be saved is in the file.
        on_failure: OnRecordingFailure = "stop",
        /// Whether a recording begins only while as many faces are in view, in all cameras together, as `participants.expected` says.
        require_faces: bool = false,
        /// How long the recording that a session starts with waits for what is required: those faces, and the streams of markers that are `required`. What has not come by then ends the session.
        require_within: Period<0, 3_600_000> = "30s",
        /// Only what is derived from pictures is recorded: no picture ever reaches a disk. No camera may have video then, and the computer no swap space that is a disk's.
        derived_only: bool = false,
        /// The cameras' pictures, in files beside the session's.
        video: VideoConfig = {},
    }
}

table! {
    /// The cameras' pictures, in files beside the session's.
    pub struct VideoConfig {
        /// What pictures are recorded as; a camera's `video` comes first. Everything but a camera's own JPEG needs FFmpeg. When encoder or disk cannot keep up, frames are left out of the video and counted, and nothing else suffers.
        codec: VideoCodec = "none",
        /// Whether an encoder of a graphics processor is used for "h264" and "h265" where one works.
        hardware: bool = true,
    }
}

table! {
    /// What is sent and received over Lab Streaming Layer (LSL).
    pub struct LslConfig {
        /// Whether streams are sent, and markers received. Needs `expected` of `[participants]`: the streams of all are made at the start and last as long as the session.
        enabled: bool = false,
        /// Which streams are sent, beside `youquanti_events`.
        profile: LslProfile = "youquanti",
        /// Whether landmarks are sent: as streams `PN_mesh`, and in those of YouQuantiPy behind the scores. 1434 numbers a face and frame.
        mesh: bool = false,
        /// Whether YouQuantiPy's `PN_landmarks` end with `quality_size`, `quality_frontal` and `quality_stability`. Only with `mesh`.
        quality: bool = false,
        /// Streams of other programs whose samples are recorded as markers: one `[[lsl.markers]]` for each, at most 32.
        markers: Option<Vec<MarkersConfig>>,
    }
}

table! {
    /// Streams of another program that are recorded as markers. A stream with a regular rate never is. In all three keys `*` stands for any text and `?` for any character.
    pub struct MarkersConfig {
        /// The stream's type.
        r#type: StreamPattern = "Markers",
        /// The stream's name. Without it: any.
        name: Option<StreamPattern>,
        /// The stream's `source_id`. Without it: any.
        source_id: Option<StreamPattern>,
        /// Whether a recording begins only while there is such a stream.
        required: bool = false,
    }
}

/// Most tables of markers.
const MOST_MARKERS: usize = 32;

impl Value for Vec<MarkersConfig> {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let remedy = "write [[lsl.markers]], with two brackets, above each".to_owned();
        let Some(list) = at.value.get_ref().as_array() else {
            let phrase = format!("is {}, not a list of tables", type_name(at.value.get_ref()));
            problems.misfit(at, &phrase, None, remedy);
            return None;
        };
        if list.len() > MOST_MARKERS {
            let message = format!("there are {} tables of markers, more than {MOST_MARKERS}", list.len());
            let remedy = "let one stand for several: * is any text".to_owned();
            problems.wrong(&at.value.span(), at.table, Some(at.key), message, remedy);
        }
        let read_one = |(index, value): (usize, &Spanned<DeValue<'_>>)| {
            let key = format!("{}[{index}]", at.key);
            MarkersConfig::read(At { table: at.table, key: &key, value }, problems)
        };
        let markers: Vec<_> = list.iter().enumerate().map(read_one).collect();
        markers.into_iter().collect()
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": MarkersConfig::schema(), "maxItems": MOST_MARKERS })
    }
}

table! {
    /// Bodies, by MediaPipe's BlazePose on the processor: one in each camera's picture, on as many frames as one thread can take.
    pub struct PoseConfig {
        /// Whether they are sought: 33 points of each go to the session's file and, with `lsl.profile = "youquantipy"`, to streams.
        enabled: bool = false,
    }
}

table! {
    /// Live pictures in shared memory, for windows and browsers.
    pub struct PreviewConfig {
        /// Whether they are made.
        enabled: bool = true,
        /// Most pixels across. The picture keeps its proportions and is never enlarged.
        width: Int<16, 16384> = 960,
        /// Most pixels down.
        height: Int<16, 16384> = 540,
        /// Order of the colours.
        format: PreviewFormat = "BGR24",
        /// Most pictures a second, of each camera.
        fps: FrameRate = 30,
    }
}

table! {
    /// What happens when a part of the session fails.
    pub struct SupervisionConfig {
        /// Restarts of one part within a minute before it is given up.
        restarts_per_minute: Int<0, 600> = 5,
        /// Wait before the first restart; doubled with each that follows.
        backoff_first: Period<10, 60_000> = "100ms",
        /// Longest wait before a restart.
        backoff_longest: Period<10, 600_000> = "5s",
        /// How long a pipeline may work on one frame before its thread counts as hung and is replaced.
        pipeline_timeout: Period<1_000, 600_000> = "10s",
    }
}

table! {
    /// The port for programs and browsers: control, live results, figures for Prometheus.
    pub struct ServerConfig {
        /// Whether there is one.
        enabled: bool = true,
        /// The address to listen at. Beyond this machine a token is required from everybody.
        address: IpAddr = "127.0.0.1",
        /// The port; 0 is any that is free. Without it: 8478, or the next that is free.
        port: Option<Int<0, 65_535>>,
        /// File that holds the token, 16 to 256 visible characters, readable by its owner alone. Without it, where a token is required: a new one each time, shown at the start.
        token_file: Option<PathBuf>,
    }
}

table! {
    /// The port for programs that steer LabRecorder. Its protocol knows no token: whoever reaches the port can start and stop recordings.
    pub struct LabRecorderConfig {
        /// Whether there is one.
        enabled: bool = false,
        /// The address to listen at.
        address: IpAddr = "127.0.0.1",
        /// The port; 0 is any that is free.
        port: Int<0, 65_535> = 22345,
    }
}

table! {
    /// What is logged.
    pub struct LogConfig {
        /// The least important events that are logged.
        level: LogLevel = "info",
        /// Form of the lines.
        format: LogFormat = "text",
    }
}

/// A camera of the session.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraConfig {
    /// The camera's name, unique in the session even where upper and lower case are the same.
    pub name: CameraName,
    /// Frames that its memory holds. Default: 8.
    pub slots: Int<2, 64>,
    /// The GPU that computes its frames. Without it: those of [`GpuConfig::devices`] in turn.
    pub gpu: Option<Ordinal>,
    /// What its pictures are recorded as. Without it: as [`VideoConfig::codec`].
    pub video: Option<VideoCodec>,
    /// Where its pictures come from.
    pub source: SourceConfig,
}

/// Where a camera's pictures come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceConfig {
    /// A simulated camera.
    Scene(SceneSource),
    /// A video, a folder of pictures, or a network camera.
    File(FileSource),
    /// A camera of this computer.
    V4l2(V4l2Source),
}

/// Keys of a camera that say where its pictures come from.
const SOURCES: [&str; 3] = ["scene", "file", "v4l2"];

/// What to do where a camera is no table of its own.
const TWO_BRACKETS: &str = "write [[camera]], with two brackets, above each camera";

/// Most cameras of a session.
const MOST_CAMERAS: usize = 64;

impl CameraConfig {
    fn read(index: usize, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) -> Option<Self> {
        let at = At { table: "", key: &format!("camera[{index}]"), value };
        let Some(table) = value.get_ref().as_table() else {
            let phrase = format!("is {}, not a table", type_name(value.get_ref()));
            problems.misfit(at, &phrase, Some("a table".to_owned()), TWO_BRACKETS.to_owned());
            return None;
        };
        let label = camera_label(index, value.get_ref());
        let written: Vec<_> = SOURCES.iter().copied().filter(|source| table.contains_key(*source)).collect();
        match written.as_slice() {
            [_] => {}
            [] => {
                let remedy = "add one of [camera.scene], [camera.file] and [camera.v4l2] below it";
                problems.missing(
                    &value.span(),
                    &label,
                    None,
                    "it has no source".to_owned(),
                    remedy.to_owned(),
                );
            }
            several => {
                let message = format!("it has {} sources: {}", several.len(), several.join(", "));
                let remedy = "keep one of them; another camera needs a [[camera]] of its own";
                problems.wrong(&value.span(), &label, None, message, remedy.to_owned());
            }
        }
        let raw = RawCamera::read_as(&label, at, problems)?;
        let source = match (raw.scene, raw.file, raw.v4l2) {
            (Some(scene), None, None) => SourceConfig::Scene(scene),
            (None, Some(file), None) => SourceConfig::File(file),
            (None, None, Some(v4l2)) => SourceConfig::V4l2(v4l2),
            _ => return None,
        };
        Some(Self { name: raw.name, slots: raw.slots, gpu: raw.gpu, video: raw.video, source })
    }
}

impl Value for Vec<CameraConfig> {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(list) = at.value.get_ref().as_array() else {
            let phrase = format!("is {}, not a list of cameras", type_name(at.value.get_ref()));
            problems.misfit(at, &phrase, None, TWO_BRACKETS.to_owned());
            return None;
        };
        if !(1..=MOST_CAMERAS).contains(&list.len()) {
            let message = format!("there are {} cameras, outside 1..={MOST_CAMERAS}", list.len());
            let remedy = format!("write 1 to {MOST_CAMERAS} [[camera]] tables");
            problems.wrong(&at.value.span(), at.table, Some(at.key), message, remedy);
        }
        let cameras: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(index, value)| CameraConfig::read(index, value, problems))
            .collect();
        cameras.into_iter().collect()
    }

    fn schema() -> Json {
        let mut camera = RawCamera::schema();
        camera["oneOf"] = SOURCES.iter().map(|source| json!({ "required": [source] })).collect();
        json!({ "type": "array", "items": camera, "minItems": 1, "maxItems": MOST_CAMERAS })
    }
}

/// What people are told a camera is: its name, or its number in the file when it has none.
pub(crate) fn camera_label(index: usize, camera: &DeValue<'_>) -> String {
    let name = camera.as_table().and_then(|table| table.get("name")?.get_ref().as_str());
    match name.and_then(|name| name.parse::<CameraName>().ok()) {
        Some(name) => format!("camera \"{name}\""),
        None => format!("camera[{index}]"),
    }
}

/// A session's configuration, valid by its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    source: Source,
    /// What the session is called, where it goes and how long it lasts.
    pub session: SessionConfig,
    /// The cameras, in the order of the file: 1 to 64, with different names.
    pub cameras: Vec<CameraConfig>,
    /// How faces are found.
    pub pipeline: PipelineConfig,
    /// How NVIDIA GPUs are used.
    pub gpu: GpuConfig,
    /// The people that are expected.
    pub participants: ParticipantsConfig,
    /// How alike the participants' faces move.
    pub synchrony: SynchronyConfig,
    /// The session's file.
    pub recording: RecordingConfig,
    /// What is sent and received over LSL.
    pub lsl: LslConfig,
    /// What happens when a part fails.
    pub supervision: SupervisionConfig,
    /// Bodies.
    pub pose: PoseConfig,
    /// Live pictures in shared memory.
    pub preview: PreviewConfig,
    /// What is logged.
    pub log: LogConfig,
    /// The port for programs and browsers.
    pub server: ServerConfig,
    /// The port for programs that steer LabRecorder.
    pub labrecorder: LabRecorderConfig,
}

/// The configuration that runs when none is given.
const DEMO: &str = include_str!("../examples/demo.toml");

/// Longest file that is read, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

impl Config {
    /// What a camera's pictures are recorded as.
    pub fn video_of(&self, camera: &CameraConfig) -> VideoCodec {
        camera.video.unwrap_or(self.recording.video.codec)
    }

    /// Reads a configuration; `file` is the name that messages use.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Source { file: file.to_owned(), text: text.to_owned() };
        let (document, syntax) = DeTable::parse_recoverable(text);
        let root = Spanned::new(0..0, DeValue::Table(document.into_inner()));
        let mut problems = Problems::new(&source, &syntax);
        let tables = Tables::read_as("", At { table: "", key: "", value: &root }, &mut problems);
        rules::check(&root, &mut problems);
        let tables = ConfigErrors::check(tables, problems.into_inner())?;
        Ok(Self {
            source,
            session: tables.session,
            cameras: tables.camera,
            pipeline: tables.pipeline,
            gpu: tables.gpu,
            participants: tables.participants,
            synchrony: tables.synchrony,
            recording: tables.recording,
            lsl: tables.lsl,
            supervision: tables.supervision,
            pose: tables.pose,
            preview: tables.preview,
            log: tables.log,
            server: tables.server,
            labrecorder: tables.labrecorder,
        })
    }

    /// Reads a configuration's file.
    ///
    /// # Errors
    /// The file cannot be read, is longer than 1 MiB or not UTF-8; or as [`Config::from_toml`].
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        let unreadable = |message: String, remedy: &str| {
            let source = Source { file: file.clone(), text: String::new() };
            let what = What { message, remedy: remedy.to_owned(), ..What::default() };
            ConfigErrors::from(source.problem(None, what))
        };
        let bytes = read_file(path).map_err(|error| {
            unreadable(format!("cannot be read: {error}"), "check the path and its permissions")
        })?;
        let bytes = bytes.ok_or_else(|| {
            unreadable("is longer than 1 MiB".to_owned(), "name a configuration, not another file")
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|error| unreadable(format!("is no text: {error}"), "save it as UTF-8"))?;
        Self::from_toml(&text, &file)
    }

    /// The configuration that runs when none is given: two simulated cameras, 20 seconds.
    ///
    /// # Errors
    /// None: a test reads it. The type spares a panic in a program that has other things to finish.
    pub fn demo() -> Result<Self, ConfigErrors> {
        Self::from_toml(DEMO, "demo.toml")
    }

    /// The name of the file, as it was given.
    pub fn file(&self) -> &str {
        &self.source.file
    }

    /// The text that was read, for the session's file.
    pub fn source_text(&self) -> &str {
        &self.source.text
    }

    /// Where something stands, by its path, e.g. `camera[0].file.path`: the value's own position, that
    /// of its table when the key was not written, and `None` when the table was not written either.
    pub fn position_of(&self, path: &str) -> Option<Position> {
        let (document, _) = DeTable::parse_recoverable(&self.source.text);
        let root = Spanned::new(0..0, DeValue::Table(document.into_inner()));
        find_or_table(&root, path).map(|value| self.source.position(value.span().start))
    }

    /// A problem that shows only outside of the file, e.g. that a device is not there, reported like
    /// those within it. `path` as for [`Config::position_of`]; `wrong` is the end of a sentence that begins with
    /// key and value, e.g. `is not a file`.
    pub fn problem(&self, path: &str, wrong: &str, remedy: &str) -> Problem {
        let (document, _) = DeTable::parse_recoverable(&self.source.text);
        let root = Spanned::new(0..0, DeValue::Table(document.into_inner()));
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        let written = find(&root, path).map(|value| self.source.written(&value.span()));
        let message = match &written {
            Some(value) => format!("{key} = {value} {wrong}"),
            None => format!("{key} {wrong}"),
        };
        let what = What {
            table: table_label(&root, table),
            key: Some(key.to_owned()),
            value: written,
            message,
            allowed: None,
            remedy: remedy.to_owned(),
        };
        self.source.problem(find_or_table(&root, path).map(|value| value.span()).as_ref(), what)
    }
}

/// The value at a path such as `camera[0].file.path`.
pub(crate) fn find<'a>(root: &'a Spanned<DeValue<'a>>, path: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    path.split('.').filter(|step| !step.is_empty()).try_fold(root, |value, step| {
        let (key, index) = match step.strip_suffix(']').and_then(|step| step.split_once('[')) {
            Some((key, index)) => (key, Some(index.parse::<usize>().ok()?)),
            None => (step, None),
        };
        let value = value.get_ref().as_table()?.get(key)?;
        match index {
            Some(index) => value.get_ref().as_array()?.get(index),
            None => Some(value),
        }
    })
}

/// The value at a path, or the table in which it could stand.
fn find_or_table<'a>(root: &'a Spanned<DeValue<'a>>, path: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    find(root, path).or_else(|| path.rsplit_once('.').and_then(|(table, _)| find(root, table)))
}

/// What people are told a table is, by its path.
pub(crate) fn table_label(root: &Spanned<DeValue<'_>>, path: &str) -> String {
    let label = |step: &str| {
        let index = step.strip_prefix("camera[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        let camera = find(root, step).zip(index);
        camera.map_or(step.to_owned(), |(camera, index)| camera_label(index, camera.get_ref()))
    };
    path.split('.').map(label).collect::<Vec<_>>().join(", ")
}

/// A file's bytes; `None` when there are too many.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= LONGEST_FILE))
}

/// The JSON schema of the whole file, without its frame.
pub(crate) fn tables_schema() -> Json {
    Tables::schema()
}
