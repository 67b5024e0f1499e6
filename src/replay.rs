//! Replay: the actors of a session on frames that were recorded.
//!
//! Owns what becomes of a configuration for that: its cameras are the videos, nothing is streamed, nothing is filmed. With pace
//! `lossless` on the processor the results are the same bytes each time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use youquanti_actors::capture::file::{FileOptions, FileSource};
use youquanti_actors::capture::replay::{
    RecordedCamera, ReplayError, ReplaySource, Troubles, recorded_cameras,
};
use youquanti_actors::capture::{CaptureDevice, Pace};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::plane::OpenDevice;
use youquanti_actors::recorder::RecordingRequest;
use youquanti_actors::session::SessionHandle;
use youquanti_actors::session_file::SessionReader;
use youquanti_config::{Config, ConfigErrors};
use youquanti_models::{Clock, Timestamp};

use crate::session::{Session, SessionError, prepare};
use crate::{preflight, wiring};

/// What is replayed, and how.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// One session file whose video lies beside it, or videos, each a camera of its own.
    pub inputs: Vec<PathBuf>,
    /// How faces are found, as TOML with the name of its file; without it as in the session, or as by default.
    pub config: Option<(String, String)>,
    /// What drives it.
    pub pace: Pace,
    /// Folder of the new session file.
    pub directory: PathBuf,
    /// Whether frames are shown, too, that the session had dropped.
    pub all_frames: bool,
}

/// Why nothing is replayed.
#[derive(Debug, thiserror::Error)]
pub enum CannotReplay {
    /// The recorded session cannot be replayed.
    #[error(transparent)]
    Recorded(#[from] ReplayError),
    /// The configuration that goes with it is none.
    #[error("its configuration cannot be used")]
    Config(#[from] ConfigErrors),
    /// The text of the configuration is no TOML.
    #[error("{file} cannot be used: {cause}")]
    NoToml {
        /// Which.
        file: String,
        /// Why.
        cause: String,
    },
    /// The session does not start.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// A replay that runs.
pub struct Replay {
    /// The session.
    pub session: Session,
    /// The recorded session, if it is one.
    pub original: Option<PathBuf>,
    /// Frames that are to be shown, where that is known.
    pub total: Option<u64>,
    /// Frames of the recorded session that are not shown.
    pub left_out: u64,
    /// What went wrong with the videos.
    pub troubles: Troubles,
}

impl Replay {
    /// Starts everything; returns when frames are shown.
    ///
    /// # Errors
    /// [`CannotReplay`]; nothing is left running.
    pub fn start(request: &ReplayRequest) -> Result<Self, CannotReplay> {
        let original = match &request.inputs[..] {
            [only] if only.extension().is_some_and(|ending| ending == "h5") => Some(only.clone()),
            _ => None,
        };
        let recorded = match &original {
            Some(session) => recorded_cameras(session, request.all_frames)?,
            None => Vec::new(),
        };
        let cameras: Vec<(String, PathBuf)> = match &original {
            Some(_) => recorded
                .iter()
                .map(|camera| {
                    (camera.name.to_string(), camera.first_file().unwrap_or(Path::new("")).to_owned())
                })
                .collect(),
            None => names_of(&request.inputs).into_iter().zip(request.inputs.iter().cloned()).collect(),
        };
        let (text, file, notes) = match (&original, &request.config) {
            (Some(session), given) => {
                let reader = SessionReader::open(session).map_err(ReplayError::from)?;
                let header = reader.header();
                let notes = format!("replay of session {} in {}", header.session_id, session.display());
                let recorded = || (header.config.clone(), format!("configuration in {}", session.display()));
                let (text, file) = given.clone().unwrap_or_else(recorded);
                (text, file, notes)
            }
            (None, given) => {
                let (text, file) =
                    given.clone().unwrap_or_else(|| ("version = 1".to_owned(), "defaults".to_owned()));
                let names: Vec<_> = request.inputs.iter().map(|input| input.display().to_string()).collect();
                (text, file, format!("replay of {}", names.join(", ")))
            }
        };
        let config = config_for(&text, &file, &cameras, request)?;
        let backend = preflight::check(&config).map_err(SessionError::Preflight)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut plan = prepare(&config, &backend, &wiring::track_ids(&config), clock.as_ref())?;
        let troubles = Troubles::default();
        for (at, camera) in plan.cameras.iter_mut().enumerate() {
            camera.lossless = request.pace == Pace::Lossless;
            camera.offsets = Arc::default();
            camera.open = match recorded.get(at) {
                Some(recorded) => opens_recorded(recorded.clone(), request.pace, troubles.clone()),
                None => opens_video(&cameras[at].1, request.pace),
            };
        }
        plan.record_from_start =
            Some(RecordingRequest { notes, by: "replay".to_owned(), ..RecordingRequest::default() });
        let session = Session::of(SessionHandle::start(plan, clock).map_err(SessionError::Start)?);
        Ok(Self {
            session,
            original,
            total: (!recorded.is_empty()).then(|| recorded.iter().map(|camera| camera.frames).sum()),
            left_out: recorded.iter().map(|camera| camera.left_out).sum(),
            troubles,
        })
    }
}

/// Opens a recorded camera, once: what has failed in its middle is not begun anew.
fn opens_recorded(camera: RecordedCamera, pace: Pace, troubles: Troubles) -> OpenDevice {
    let opened = AtomicBool::new(false);
    Arc::new(move |clock| {
        let source = match opened.swap(true, Ordering::Relaxed) {
            false => ReplaySource::open(&camera, pace, troubles.clone(), clock),
            true => ReplaySource::ended(&camera, troubles.clone(), clock),
        };
        Ok(Box::new(source) as Box<dyn CaptureDevice>)
    })
}

/// Stamp of a video's first frame: the same for every replay.
const FIRST_STAMP: Timestamp = Timestamp(1_000_000_000);

fn opens_video(path: &Path, pace: Pace) -> OpenDevice {
    let start = (pace == Pace::Lossless).then_some(FIRST_STAMP);
    let options = FileOptions { pace, start, ..FileOptions::new(path.to_string_lossy()) };
    Arc::new(move |clock| {
        let source = FileSource::open(options.clone(), clock)?;
        Ok(Box::new(source) as Box<dyn CaptureDevice>)
    })
}

/// A name for the camera of each video: that of its file, as far as a camera can have it, and no name twice.
fn names_of(videos: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for video in videos {
        let stem = video.file_stem().unwrap_or_default().to_string_lossy();
        let plain: String = stem
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .take(24)
            .collect();
        let named = if plain.starts_with(|c: char| c.is_ascii_alphabetic()) {
            plain
        } else {
            format!("video{plain}")
        };
        let is_new = |name: &String| !names.iter().any(|other| other.eq_ignore_ascii_case(name));
        let numbered = (2..).map(|n| format!("{named}-{n}"));
        let name = std::iter::once(named.clone()).chain(numbered).find(is_new);
        names.push(name.unwrap_or(named));
    }
    names
}

/// The configuration of a replay: that of `text`, with the videos for cameras. Goes through the rules that all have to keep.
fn config_for(
    text: &str,
    file: &str,
    cameras: &[(String, PathBuf)],
    request: &ReplayRequest,
) -> Result<Config, CannotReplay> {
    let no_toml = |cause: String| CannotReplay::NoToml { file: file.to_owned(), cause };
    let mut root: toml::Table = text.parse().map_err(|error: toml::de::Error| no_toml(error.to_string()))?;
    let before = root.remove("camera");
    let of_camera = |name: &str, key: &str| {
        let all = before.as_ref()?.as_array()?;
        let camera =
            all.iter().find(|camera| camera.get("name").and_then(toml::Value::as_str) == Some(name))?;
        camera.get(key).cloned()
    };
    let pace = match request.pace {
        Pace::Real => "real",
        Pace::Fast => "fast",
        Pace::Lossless => "lossless",
    };
    let cameras = cameras.iter().map(|(name, path)| {
        let mut source = toml::Table::new();
        source.insert("path".to_owned(), path.to_string_lossy().into_owned().into());
        source.insert("pace".to_owned(), pace.into());
        let mut camera = toml::Table::new();
        camera.insert("name".to_owned(), name.clone().into());
        camera.insert("file".to_owned(), source.into());
        for key in ["slots", "gpu"] {
            camera.extend(of_camera(name, key).map(|value| (key.to_owned(), value)));
        }
        toml::Value::from(camera)
    });
    let cameras = cameras.collect::<Vec<_>>();
    let count = cameras.len() as i64;
    root.insert("camera".to_owned(), cameras.into());
    for others in ["lsl", "labrecorder"] {
        root.remove(others);
    }
    let mut table = |name: &str, change: &dyn Fn(&mut toml::Table)| {
        let entry = root.entry(name).or_insert_with(|| toml::Table::new().into());
        if let Some(table) = entry.as_table_mut() {
            change(table);
        }
    };
    table("session", &|session| {
        session.remove("duration");
        session.insert("directory".to_owned(), request.directory.to_string_lossy().into_owned().into());
        // Not that of a session that runs: its rings are named after it.
        let name = session.get("name").and_then(toml::Value::as_str).unwrap_or("session");
        let name = format!("{}-replay", name.chars().take(57).collect::<String>());
        session.insert("name".to_owned(), name.into());
    });
    table("recording", &|recording| {
        recording.insert("enabled".to_owned(), true.into());
        recording.remove("video");
        recording.remove("derived_only");
    });
    for watched in ["preview", "server"] {
        table(watched, &|watched| {
            watched.clear();
            watched.insert("enabled".to_owned(), false.into());
        });
    }
    table("pipeline", &|pipeline| {
        // No more workers than cameras.
        let workers = pipeline.get("workers").and_then(toml::Value::as_integer);
        if workers.is_some_and(|workers| workers > count) {
            pipeline.remove("workers");
        }
    });
    let text = toml::to_string(&root).map_err(|error| no_toml(error.to_string()))?;
    Ok(Config::from_toml(&text, file)?)
}
