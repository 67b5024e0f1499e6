//! From configuration to actors: the one place where both are known.
//!
//! Turns a valid [`Config`] and the [`Backend`] that was decided on into a [`SessionPlan`]: which source each camera
//! opens, what each worker builds, what is recorded where. Opens nothing itself.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use youquanti_actors::capture::file::{FileOptions, FileSource};
use youquanti_actors::capture::scene::{Arrangement, SceneOptions, SceneSource};
use youquanti_actors::capture::v4l2::{ControlValue, Setting, Usual, V4l2Options, V4l2Source};
use youquanti_actors::capture::{CaptureDevice, Pace};
use youquanti_actors::discovery;
use youquanti_actors::lsl::{LslPlan, MarkerQuery};
use youquanti_actors::pipeline::{BoxedPipeline, BuildError, BuildPipeline, PipelinePlan};
use youquanti_actors::plane::{CameraPlan, DataPlane, OpenDevice};
use youquanti_actors::pose::{PosePlan, Seek};
use youquanti_actors::preview::PreviewPlan;
use youquanti_actors::recorder::{OnFailure, RecordingPlan, RecordingRequest};
use youquanti_actors::session::{Required, SessionPlan};
use youquanti_actors::session_file::{Compression, SessionOptions};
use youquanti_actors::supervision::{RestartPolicy, WhenExhausted};
use youquanti_actors::synchrony::{Group, SynchronyOptions};
use youquanti_actors::video::{Codec, VideoPlan, find_encoder};
use youquanti_config as config;
use youquanti_config::{AutoOr, Config, SourceConfig};
use youquanti_gpu as gpu;
use youquanti_models::{CameraId, Clock, PixelFormat, TrackIds, TrackerOptions};

#[cfg(not(feature = "cuda"))]
use crate::backend::Gpu;
use crate::backend::{Backend, Engine, GpuWorker, Kernels};
#[cfg(feature = "cuda")]
use crate::on_gpu;

/// Where frame rings are made.
pub(crate) const RING_DIR: &str = "/dev/shm";

/// Program and version, as files and streams name them.
const SOFTWARE: &str = concat!("youquanti ", env!("CARGO_PKG_VERSION"));

/// Numbers for the tracks of a session: they go on counting whatever becomes of its pipelines.
pub(crate) fn track_ids(config: &Config) -> Arc<TrackIds> {
    Arc::new(TrackIds::new(config.cameras.len()))
}

/// Everything that the session is made from.
pub(crate) fn plan(
    config: &Config,
    backend: &Backend,
    track_ids: &Arc<TrackIds>,
    clock: &dyn Clock,
) -> SessionPlan {
    SessionPlan {
        name: config.session.name.to_string(),
        cameras: config
            .cameras
            .iter()
            .map(|wanted| CameraPlan { video: video(config, wanted), ..camera(wanted) })
            .collect(),
        pipelines: pipelines(config, backend, track_ids),
        expected_participants: config.participants.expected.map(|n| n.get() as u16),
        participant_names: participant_names(config),
        trace_dir: config.recording.enabled.then(|| config.session.directory.clone()),
        recording: recording(config, clock),
        record_from_start: config.recording.enabled.then(RecordingRequest::default),
        required: Required {
            faces: match (config.recording.require_faces, config.participants.expected) {
                (true, Some(expected)) => expected.get(),
                _ => 0,
            },
            within: config.recording.require_within.get(),
        },
        lsl: config.lsl.enabled.then(|| lsl(config)),
        synchrony: config.synchrony.enabled.then(|| synchrony(config)),
        preview: config.preview.enabled.then(|| preview(config)),
        pose: config.pose.enabled.then(|| pose(config)),
        discovery_dir: Some(discovery::default_folder()),
        restarts: RestartPolicy {
            max_restarts: config.supervision.restarts_per_minute.get() as usize,
            window: Duration::from_secs(60),
            first_backoff: config.supervision.backoff_first.get(),
            longest_backoff: config.supervision.backoff_longest.get(),
            when_exhausted: WhenExhausted::Degrade,
        },
        pipeline_timeout: config.supervision.pipeline_timeout.get(),
        ring_dir: PathBuf::from(RING_DIR),
        duration: config.session.duration.map(|duration| duration.get()),
    }
}

/// What is sent and received over LSL.
fn lsl(config: &Config) -> LslPlan {
    let lsl = &config.lsl;
    let pattern =
        |pattern: &Option<config::StreamPattern>| pattern.as_ref().map(|text| text.as_str().to_owned());
    let query = |markers: &config::MarkersConfig| MarkerQuery {
        kind: markers.r#type.as_str().to_owned(),
        name: pattern(&markers.name),
        source_id: pattern(&markers.source_id),
        required: markers.required,
    };
    LslPlan {
        native: lsl.profile != config::LslProfile::Youquantipy,
        youquantipy: lsl.profile != config::LslProfile::Youquanti,
        mesh: lsl.mesh,
        quality: lsl.quality,
        markers: lsl.markers.iter().flatten().map(query).collect(),
    }
}

/// How live pictures are made.
pub(crate) fn preview(config: &Config) -> PreviewPlan {
    PreviewPlan {
        width: config.preview.width.get(),
        height: config.preview.height.get(),
        format: match config.preview.format {
            config::PreviewFormat::Bgr => PixelFormat::Bgr24,
            config::PreviewFormat::Rgb => PixelFormat::Rgb24,
        },
        max_fps: config.preview.fps.get(),
        slots: PreviewPlan::SLOTS,
        max_faces: config.pipeline.max_faces.get() as usize,
        draw: Arc::new(|| {
            let mut previewer = gpu::cpu::preview::Previewer::default();
            Box::new(move |picture, to, out| Ok(previewer.draw(picture, to, out)?))
        }),
    }
}

/// How bodies are sought: on the processor, whatever seeks faces.
fn pose(config: &Config) -> PosePlan {
    let folder = config.pipeline.model_dir.clone();
    PosePlan {
        networks: gpu::cpu::pose::networks(),
        seek: Arc::new(move || {
            let mut seeker = gpu::cpu::pose::PoseSeeker::new(folder.as_deref())?;
            let seek: Seek = Box::new(move |frame| seeker.look(frame));
            Ok(seek)
        }),
    }
}

/// What one camera is made from.
pub(crate) fn camera(camera: &config::CameraConfig) -> CameraPlan {
    let (open, lossless): (OpenDevice, bool) = match &camera.source {
        SourceConfig::Scene(scene) => {
            let options = scene_options(scene);
            let lossless = options.pace == Pace::Lossless;
            let open = move |clock| {
                let source = SceneSource::open(options.clone(), clock)?;
                Ok(Box::new(source) as Box<dyn CaptureDevice>)
            };
            (Arc::new(open), lossless)
        }
        SourceConfig::File(file) => {
            let options = FileOptions {
                fps: file.fps.map(|fps| fps.get()),
                repeat: file.r#loop,
                pace: pace(file.pace),
                ..FileOptions::new(file.path.as_str())
            };
            let lossless = options.pace == Pace::Lossless;
            let open = move |clock| {
                let source = FileSource::open(options.clone(), clock)?;
                Ok(Box::new(source) as Box<dyn CaptureDevice>)
            };
            (Arc::new(open), lossless)
        }
        SourceConfig::V4l2(camera) => {
            let options = V4l2Options {
                camera: camera.device.to_string(),
                width: camera.width.get(),
                height: camera.height.get(),
                format: camera.format,
                fps: Some(camera.fps.get()),
                accept_other: camera.accept_other,
                controls: control_settings(&camera.controls),
                ..V4l2Options::default()
            };
            // A node's number may be another camera's once ours was unplugged: it is looked for by its id then.
            let id = OnceLock::new();
            let open = move |clock| {
                let mut options = options.clone();
                if options.camera.starts_with("/dev/video") {
                    options.camera = id.get().unwrap_or(&options.camera).clone();
                }
                let source = V4l2Source::open(options, clock)?;
                id.get_or_init(|| source.describe().id.clone());
                Ok(Box::new(source) as Box<dyn CaptureDevice>)
            };
            (Arc::new(open), false)
        }
    };
    CameraPlan {
        name: camera.name.clone(),
        open,
        slots: camera.slots.get() as usize,
        lossless,
        offsets: Arc::default(),
        video: None,
    }
}

/// How a camera's video is made. Without an encoder only a camera's own pictures can be kept; [`preflight`](crate::preflight)
/// has seen to it that no other is needed.
fn video(config: &Config, camera: &config::CameraConfig) -> Option<VideoPlan> {
    let codec = codec(config.video_of(camera))?;
    let hardware = config.recording.video.hardware;
    let ffmpeg = needs_encoder(camera, codec).then(|| find_encoder(codec, hardware).ok()).flatten();
    Some(VideoPlan { codec, ffmpeg })
}

/// The codec that a configuration names, if it names one.
pub(crate) fn codec(codec: config::VideoCodec) -> Option<Codec> {
    Some(match codec {
        config::VideoCodec::None => return None,
        config::VideoCodec::H264 => Codec::H264,
        config::VideoCodec::H265 => Codec::H265,
        config::VideoCodec::Mjpeg => Codec::Mjpeg,
        config::VideoCodec::Lossless => Codec::Lossless,
    })
}

/// Whether a camera's video may need FFmpeg.
pub(crate) fn needs_encoder(camera: &config::CameraConfig, codec: Codec) -> bool {
    match &camera.source {
        SourceConfig::V4l2(source) => source.accept_other || !codec.keeps(source.format),
        SourceConfig::Scene(_) | SourceConfig::File(_) => true,
    }
}

/// What a camera is set to, in the units of its driver.
fn control_settings(controls: &config::ControlsConfig) -> Vec<Setting> {
    fn usual<T>(usual: Usual, value: &Option<AutoOr<T>>, unit: impl Fn(&T) -> i64) -> Option<Setting> {
        Some(match value.as_ref()? {
            AutoOr::Auto => Setting::Automatic(usual),
            AutoOr::Fixed(value) => Setting::Fixed(usual, unit(value)),
        })
    }
    let of = &controls.usual;
    let power_line = of.power_line.map(|power_line| {
        let entry = match power_line {
            config::PowerLine::Off => 0,
            config::PowerLine::Hz50 => 1,
            config::PowerLine::Hz60 => 2,
            config::PowerLine::Auto => 3,
        };
        Setting::Fixed(Usual::PowerLine, entry)
    });
    let others = controls.others.iter().map(|(name, value)| {
        let value = match value {
            config::ControlValue::Number(number) => ControlValue::Number(*number),
            config::ControlValue::Switch(on) => ControlValue::Switch(*on),
            config::ControlValue::Entry(name) => ControlValue::Entry(name.clone()),
        };
        Setting::Named(name.clone(), value)
    });
    let usual = [
        usual(Usual::Exposure, &of.exposure, |ms| (ms.get() * 10.0).round().max(1.0) as i64),
        usual(Usual::Gain, &of.gain, |gain| i64::from(gain.get())),
        usual(Usual::Focus, &of.focus, |focus| i64::from(focus.get())),
        usual(Usual::WhiteBalance, &of.white_balance, |kelvin| i64::from(kelvin.get())),
        power_line,
        Some(Setting::SlowInDark(of.slow_in_dark)),
    ];
    usual.into_iter().flatten().chain(others).collect()
}

fn pace(pace: config::Pace) -> Pace {
    match pace {
        config::Pace::Real => Pace::Real,
        config::Pace::Fast => Pace::Fast,
        config::Pace::Lossless => Pace::Lossless,
    }
}

fn scene_options(scene: &config::SceneSource) -> SceneOptions {
    SceneOptions {
        width: scene.width.get(),
        height: scene.height.get(),
        fps: scene.fps.get(),
        format: scene.format,
        faces: scene.faces.get() as usize,
        arrangement: match scene.layout {
            config::Layout::Row => Arrangement::Row,
            config::Layout::Grid => Arrangement::Grid,
            config::Layout::Cross => Arrangement::Cross,
        },
        seed: scene.seed,
        length: scene.frames.map(|frames| u64::from(frames.get())),
        pace: pace(scene.pace),
        ..SceneOptions::default()
    }
}

/// How long a pipeline may be built: networks are searched for their fastest algorithms, TensorRT builds engines.
const BUILT_WITHIN: Duration = Duration::from_secs(5 * 60);
const ENGINES_BUILT_WITHIN: Duration = Duration::from_secs(60 * 60);

/// The session's pipeline workers: one for each GPU that has cameras, else as many as are configured.
fn pipelines(config: &Config, backend: &Backend, track_ids: &Arc<TrackIds>) -> Vec<PipelinePlan> {
    let cameras = config.cameras.len();
    let count = match &backend.engine {
        Engine::Gpu { workers, .. } => workers.len(),
        Engine::None | Engine::Cpu => (config.pipeline.workers.get() as usize).min(cameras),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let seeking = Seeking {
        options: config.pipeline.clone(),
        threads: match config.pipeline.threads {
            config::Threads::Fixed(threads) => threads.get() as usize,
            config::Threads::Auto => (cores / count).max(1),
        },
        track_ids: Arc::clone(track_ids),
    };
    let worker = |worker: usize| {
        let dealt = (worker..cameras).step_by(count).collect();
        let (places, build, what, built_within) = match &backend.engine {
            Engine::None => {
                let reason = backend.reason.clone();
                let build: BuildPipeline = Arc::new(move |_, _| Ok(Box::new(gpu::NoPipeline::new(&reason))));
                (dealt, build, "none".to_owned(), BUILT_WITHIN)
            }
            Engine::Cpu => {
                let (seeking, reason) = (seeking.clone(), backend.reason.clone());
                let build: BuildPipeline =
                    Arc::new(move |plane, cameras| seeking.on_processor(plane, cameras, &reason));
                (dealt, build, "cpu".to_owned(), BUILT_WITHIN)
            }
            Engine::Gpu { kernels, workers } => {
                let GpuWorker { gpu, cameras } = &workers[worker];
                let build = on_gpu::build(seeking.clone(), config, kernels, gpu, &backend.reason);
                let built_within = match kernels {
                    Kernels::Cuda => BUILT_WITHIN,
                    Kernels::TensorRt { .. } => ENGINES_BUILT_WITHIN,
                };
                (cameras.clone(), build, format!("{} on {gpu}", kernels.name()), built_within)
            }
        };
        PipelinePlan {
            cameras: places.into_iter().map(|index| CameraId(index as u16)).collect(),
            build,
            what,
            built_within,
            batch_wait: match backend.engine {
                Engine::Gpu { .. } => config.gpu.batch_wait.get(),
                Engine::None | Engine::Cpu => Duration::ZERO,
            },
            core: (backend.engine != Engine::None && cores > count).then(|| cores - 1 - worker),
            max_faces: config.pipeline.max_faces.get() as usize,
        }
    };
    (0..count).map(worker).collect()
}

/// How faces are sought, whatever computes.
#[derive(Clone)]
pub(crate) struct Seeking {
    options: config::PipelineConfig,
    /// On the processor.
    threads: usize,
    track_ids: Arc<TrackIds>,
}

impl Seeking {
    /// What to look for in the pictures of these cameras, which are open.
    pub(crate) fn faces(&self, plane: &DataPlane, cameras: &[CameraId]) -> gpu::FaceOptions {
        let options = &self.options;
        let inputs = cameras.iter().filter_map(|&camera| {
            let opened = plane.camera(camera).opened()?;
            Some(gpu::CameraInput { camera, layout: opened.layout })
        });
        gpu::FaceOptions {
            detector: detector(options),
            detector_size: match options.detector_size {
                config::DetectorSize::Auto => {
                    gpu::DetectorSize::Auto { smallest_face_px: options.smallest_face.get() as f32 }
                }
                config::DetectorSize::Width(width) => gpu::DetectorSize::Width(width.get()),
            },
            score_threshold: options.score_threshold.get(),
            tracker: TrackerOptions {
                max_faces: options.max_faces.get() as usize,
                detect_every: u64::from(options.detect_every.get()),
                presence_threshold: options.presence_threshold.get(),
                ..TrackerOptions::default()
            },
            model_dir: options.model_dir.clone(),
            track_ids: Arc::clone(&self.track_ids),
            ..gpu::FaceOptions::new(inputs.collect())
        }
    }

    /// A pipeline on the processor for these cameras.
    pub(crate) fn on_processor(&self, plane: &DataPlane, cameras: &[CameraId], reason: &str) -> Built {
        let faces = self.faces(plane, cameras);
        let options = gpu::CpuOptions { faces, threads: self.threads, reason: reason.to_owned() };
        match gpu::CpuPipeline::new(&options, Arc::clone(&plane.clock)) {
            Ok(pipeline) => Ok(Box::new(pipeline)),
            Err(error) => Err(BuildError::Failed(error.into())),
        }
    }
}

/// A pipeline, or why there is none.
pub(crate) type Built = Result<BoxedPipeline, BuildError>;

/// Never asked: without CUDA no GPU is chosen.
#[cfg(not(feature = "cuda"))]
mod on_gpu {
    use super::*;

    pub(super) fn build(_: Seeking, _: &Config, _: &Kernels, _: &Gpu, _: &str) -> BuildPipeline {
        Arc::new(|_, _| Err(BuildError::ForGood("this program was built without CUDA".into())))
    }
}

/// What a pipeline goes over to when the loss of its device is rehearsed: the processor, or nothing where nothing sought.
pub(crate) fn stand_in(config: &Config, backend: &Backend, track_ids: &Arc<TrackIds>) -> BuildPipeline {
    let engine = if backend.engine == Engine::None { Engine::None } else { Engine::Cpu };
    let reason = "rehearsal: the device was lost".to_owned();
    let mut plans = pipelines(config, &Backend { engine, reason }, track_ids);
    plans.swap_remove(0).build
}

/// The detector that a configuration names.
pub(crate) fn detector(pipeline: &config::PipelineConfig) -> gpu::Detector {
    match pipeline.detector {
        config::Detector::Yunet => gpu::Detector::YuNet,
        config::Detector::BlazefaceShort => gpu::Detector::BlazeFaceShort,
        config::Detector::BlazefaceFull => gpu::Detector::BlazeFaceFull,
    }
}

pub(crate) fn synchrony(config: &Config) -> SynchronyOptions {
    let of = &config.synchrony;
    SynchronyOptions {
        participants: config.participants.expected.map_or(0, |expected| expected.get() as u16),
        rate: of.rate.get(),
        window: of.window.get(),
        step: of.step.get(),
        max_lag: of.max_lag.get(),
        history: of.history.get(),
        shifts: of.shifts.get() as usize,
        seed: of.seed,
        groups: of
            .groups
            .iter()
            .map(|group| Group { name: group.name().to_owned(), channels: group.channels().to_vec() })
            .collect(),
    }
}

fn recording(config: &Config, clock: &dyn Clock) -> RecordingPlan {
    let utc = clock.utc();
    RecordingPlan {
        directory: config.session.directory.clone(),
        session_id: format!("{}-{:x}", config.session.name, utc.0),
        session_name: config.session.name.to_string(),
        config_text: config.source_text().to_owned(),
        software: SOFTWARE.to_owned(),
        flush_interval: config.recording.flush_interval.get(),
        options: SessionOptions {
            compression: match config.recording.compression {
                config::Compression::None => Compression::None,
                config::Compression::Deflate => Compression::Deflate,
            },
            reserve_bytes: config.recording.reserve.get(),
        },
        on_failure: match config.recording.on_failure {
            config::OnRecordingFailure::Stop => OnFailure::Stop,
            config::OnRecordingFailure::Continue => OnFailure::Continue,
        },
        overridden: None,
    }
}

/// Names of P1, P2, …, as far as they are given.
fn participant_names(config: &Config) -> Vec<String> {
    config.participants.names.iter().flatten().map(|name| name.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_set_in_the_units_of_drivers() {
        let check = |text: &str, expected: &[Setting]| {
            let text = format!(
                "version = 1\n[[camera]]\nname = \"a\"\n[camera.v4l2]\ndevice = \"x\"\n[camera.v4l2.controls]\n{text}"
            );
            let config = Config::from_toml(&text, "test.toml").unwrap();
            let SourceConfig::V4l2(camera) = &config.cameras[0].source else { panic!() };
            assert_eq!(control_settings(&camera.controls), expected);
        };
        check("", &[Setting::SlowInDark(false)]);
        check(
            "exposure = 8.33\nfocus = \"auto\"\nwhite_balance = 4600\npower_line = \"50Hz\"\nslow_in_dark = true\nhdr = true",
            &[
                Setting::Fixed(Usual::Exposure, 83),
                Setting::Automatic(Usual::Focus),
                Setting::Fixed(Usual::WhiteBalance, 4600),
                Setting::Fixed(Usual::PowerLine, 1),
                Setting::SlowInDark(true),
                Setting::Named("hdr".to_owned(), ControlValue::Switch(true)),
            ],
        );
    }
}
