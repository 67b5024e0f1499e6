//! Campaigns: which faults, on which camera, for how long, and what is expected of each.
//!
//! Owns the format of campaign files, version 1, and the order and the times that a seed gives. Runs nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use youquanti_actors::capture::faulty::CameraFault;
use youquanti_actors::dice::Dice;
use youquanti_config::{CameraConfig, Config, ConfigErrors, Pace, Period, SourceConfig};

use super::pipeline::PipelineFault;

/// The campaign that is run when none is named.
const BUILT_IN: &str = include_str!("../../chaos/simulated.toml");

/// How long a fault lasts if the campaign does not say.
const USUAL_LENGTH: Duration = Duration::from_secs(1);

/// Sound time before a fault if the campaign does not say.
const USUAL_PAUSE: Duration = Duration::from_millis(300);

/// How long a recovery is waited for if the campaign does not say: longer than a thread may take to start.
const USUAL_PATIENCE: Duration = Duration::from_secs(60);

/// How long a command may take if the campaign does not say.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Most repetitions of one fault.
const MOST_REPEATS: u32 = 10_000;

/// Every length of time in a campaign.
type Length = Period<1, 3_600_000>;

/// What is to be broken, and how.
#[derive(Debug)]
pub struct Campaign {
    /// The heading of its matrix: machine and driver.
    pub title: String,
    /// Where it was read from.
    pub file: String,
    /// The session to break.
    pub config: Config,
    /// Decides order, pauses, and which camera where any will do.
    pub seed: u64,
    /// Mean of the sound times before each fault.
    pub pause: Duration,
    /// How long a recovery is waited for.
    pub patience: Duration,
    /// Whether the seed decides the order; else it is that of the file.
    pub is_shuffled: bool,
    /// In the order of the file.
    pub faults: Vec<Fault>,
}

/// One fault of a campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What it is called in the matrix.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// What it is done to.
    pub target: Target,
    /// From its beginning to its end; none for what strikes once.
    pub length: Option<Duration>,
    /// How often it is done.
    pub repeat: u32,
    /// What should come of it.
    pub expect: Expectation,
}

/// What a fault consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A switch is moved.
    Switch(Kind),
    /// `sh` runs a command, and another when the fault's time is over.
    Command {
        /// What brings the fault about.
        run: String,
        /// What ends it.
        undo: Option<String>,
        /// How long each may take.
        timeout: Duration,
    },
}

/// A fault that this program simulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a camera.
    Camera(CameraFault),
    /// Of a pipeline.
    Pipeline(PipelineFault),
}

impl Kind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Camera(fault) => fault.name(),
            Self::Pipeline(fault) => fault.name(),
        }
    }

    /// What it is, a sentence or two.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Camera(fault) => fault.about(),
            Self::Pipeline(fault) => fault.about(),
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Kind> {
        let cameras = CameraFault::ALL.iter().copied().map(Kind::Camera);
        cameras.chain(PipelineFault::ALL.iter().copied().map(Kind::Pipeline))
    }

    fn lasts(self) -> bool {
        matches!(self, Self::Camera(fault) if fault.lasts())
    }

    /// What comes of it, unless it is shorter or longer than usual.
    fn usual_expectation(self) -> Expectation {
        use CameraFault::*;
        match self {
            Self::Camera(ErrorFlag | DroppedBuffers | Cut) => Expectation::Drops,
            Self::Camera(SequenceWrap | StampWrap | ReducedRate | Flip | Junk) => Expectation::Nothing,
            Self::Camera(_) | Self::Pipeline(_) => Expectation::Gap,
        }
    }
}

/// What a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One camera, by its place in the configuration.
    Camera(usize),
    /// One camera, which one the seed decides.
    AnyCamera,
    /// Every camera at once.
    AllCameras,
    /// A pipeline.
    Pipeline,
}

/// What should come of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// A failure that is noticed, and a gap that closes; of a pipeline a restart.
    Gap,
    /// Losses that are counted, and no failure.
    Drops,
    /// No failure and no loss.
    Nothing,
    /// The session ends in good order, saying why.
    Stop,
}

impl Expectation {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Drops => "drops",
            Self::Nothing => "nothing",
            Self::Stop => "stop",
        }
    }
}

/// Why a campaign cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// The file cannot be read.
    #[error("campaign {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no campaign.
    #[error("{file} is no campaign")]
    Format {
        /// Which file.
        file: String,
        /// What is wrong, and where.
        source: toml::de::Error,
    },
    /// The configuration of its session is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// What it says cannot be done.
    #[error("{}", problems.join("\n"))]
    Wrong {
        /// Each with file and line.
        problems: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCampaign {
    version: Spanned<u32>,
    title: Option<String>,
    config: Spanned<toml::Value>,
    seed: Option<u64>,
    pause: Option<Spanned<String>>,
    patience: Option<Spanned<String>>,
    #[serde(default)]
    order: Order,
    fault: Vec<Spanned<RawFault>>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    #[default]
    Shuffled,
    Given,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    name: Option<String>,
    kind: Option<Spanned<String>>,
    run: Option<String>,
    undo: Option<String>,
    timeout: Option<Spanned<String>>,
    camera: Option<Spanned<String>>,
    r#for: Option<Spanned<String>>,
    repeat: Option<Spanned<u32>>,
    expect: Option<Expectation>,
}

/// Finds what is wrong in a campaign's text, and where.
struct Check<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<String>,
}

impl Check<'_> {
    fn wrong(&mut self, at: usize, what: &str) {
        let line = self.text[..at.min(self.text.len())].matches('\n').count() + 1;
        self.problems.push(format!("{}:{line}: {what}", self.file));
    }

    fn length(&mut self, key: &str, written: Option<Spanned<String>>) -> Option<Duration> {
        let written = written?;
        match written.get_ref().parse::<Length>() {
            Ok(length) => Some(length.get()),
            Err(error) => {
                self.wrong(written.span().start, &format!("{key} = {error}"));
                None
            }
        }
    }

    fn kind(&mut self, written: &Spanned<String>) -> Option<Kind> {
        let found = Kind::all().find(|kind| kind.name() == written.get_ref());
        if found.is_none() {
            let known: Vec<_> = Kind::all().map(Kind::name).collect();
            let what = format!("kind = {:?} is no fault; there are {}", written.get_ref(), known.join(", "));
            self.wrong(written.span().start, &what);
        }
        found
    }

    fn target(&mut self, written: &Spanned<String>, config: &Config) -> Option<Target> {
        let named = match written.get_ref().as_str() {
            "all" => return Some(Target::AllCameras),
            "any" => return Some(Target::AnyCamera),
            name => config.cameras.iter().position(|camera| camera.name.as_str() == name),
        };
        if named.is_none() {
            let known: Vec<_> =
                config.cameras.iter().map(|camera| format!("{:?}", camera.name.as_str())).collect();
            let what = format!(
                "camera = {:?} is no camera of the session; write {}, \"all\" or \"any\"",
                written.get_ref(),
                known.join(", ")
            );
            self.wrong(written.span().start, &what);
        }
        named.map(Target::Camera)
    }

    fn fault(&mut self, raw: Spanned<RawFault>, config: &Config) -> Option<Fault> {
        let at = raw.span().start;
        let raw = raw.into_inner();
        if let (Some(timeout), None) = (&raw.timeout, &raw.run) {
            self.wrong(timeout.span().start, "timeout has no effect: it is how long a command may take");
        }
        let timeout = self.length("timeout", raw.timeout).unwrap_or(USUAL_TIMEOUT);
        let written_length = self.length("for", raw.r#for);
        let repeat = raw.repeat.as_ref().map_or(1, |repeat| *repeat.get_ref());
        if !(1..=MOST_REPEATS).contains(&repeat) {
            let at = raw.repeat.map_or(at, |repeat| repeat.span().start);
            self.wrong(at, &format!("repeat = {repeat} is outside 1..={MOST_REPEATS}"));
        }
        let (action, lasts, expect) = match (&raw.kind, raw.run) {
            (Some(kind), None) if raw.undo.is_none() => {
                let kind = self.kind(kind)?;
                (Action::Switch(kind), kind.lasts(), kind.usual_expectation())
            }
            (None, Some(run)) => {
                let lasts = raw.undo.is_some();
                (Action::Command { run, undo: raw.undo, timeout }, lasts, Expectation::Gap)
            }
            _ => {
                self.wrong(at, "a fault is either simulated, with kind, or a command, with run and undo");
                return None;
            }
        };
        if written_length.is_some() && !lasts {
            self.wrong(at, "for has no effect: the fault strikes once, and nothing ends it");
        }
        let target = match (&action, &raw.camera) {
            (Action::Switch(Kind::Pipeline(_)), None) => Target::Pipeline,
            (Action::Switch(Kind::Pipeline(_)), Some(camera)) => {
                self.wrong(camera.span().start, "a pipeline's fault is not a camera's: remove camera");
                return None;
            }
            (_, Some(camera)) => self.target(camera, config)?,
            (Action::Switch(Kind::Camera(_)), None) => Target::AnyCamera,
            (Action::Command { .. }, None) => {
                self.wrong(at, "camera is missing: say whose fault the command brings about, or \"all\"");
                return None;
            }
        };
        if target == Target::AnyCamera && matches!(action, Action::Command { .. }) {
            self.wrong(at, "camera = \"any\" does not go with run: a command is about a certain camera");
        }
        let called = match &action {
            Action::Switch(kind) => kind.name(),
            Action::Command { run, .. } => run,
        };
        Some(Fault {
            name: raw.name.unwrap_or_else(|| called.to_owned()),
            length: lasts.then(|| written_length.unwrap_or(USUAL_LENGTH)),
            repeat,
            expect: raw.expect.unwrap_or(expect),
            action,
            target,
        })
    }
}

/// The configuration that a campaign names or contains.
fn config(written: &toml::Value, campaign: &Path) -> Result<Option<Config>, CampaignError> {
    match written {
        toml::Value::String(path) => {
            let folder = campaign.parent().unwrap_or(Path::new(""));
            Ok(Some(Config::load(&folder.join(path))?))
        }
        toml::Value::Table(table) => {
            let file = format!("{}, [config] as TOML", campaign.display());
            Ok(Some(Config::from_toml(&table.to_string(), &file)?))
        }
        _ => Ok(None),
    }
}

impl Campaign {
    /// Reads a campaign's text. `file` is what it is called in messages; a configuration that it names by a
    /// path is looked for in its folder.
    ///
    /// # Errors
    /// See [`CampaignError`]; of what is wrong with the faults, everything.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, CampaignError> {
        let raw: RawCampaign =
            toml::from_str(text).map_err(|source| CampaignError::Format { file: file.to_owned(), source })?;
        let mut check = Check { file, text, problems: Vec::new() };
        if *raw.version.get_ref() != 1 {
            check.wrong(raw.version.span().start, "version is one that this program does not read; write 1");
        }
        let config = config(raw.config.get_ref(), Path::new(file))?;
        let Some(config) = config else {
            check.wrong(raw.config.span().start, "config is neither a file's name nor a table");
            return Err(CampaignError::Wrong { problems: check.problems });
        };
        let pause = check.length("pause", raw.pause).unwrap_or(USUAL_PAUSE);
        let patience = check.length("patience", raw.patience).unwrap_or(USUAL_PATIENCE);
        let ends = |camera: &&CameraConfig| match &camera.source {
            SourceConfig::Scene(scene) => scene.frames.is_some() || scene.pace != Pace::Real,
            SourceConfig::File(file) => file.pace != Pace::Real,
            SourceConfig::V4l2(_) => false,
        };
        if let Some(camera) = config.cameras.iter().find(ends) {
            let what = format!(
                "camera {:?} of the session comes to an end or does not keep time: write pace = \"real\", and no frames",
                camera.name.as_str()
            );
            check.wrong(raw.config.span().start, &what);
        }
        let mut faults = Vec::new();
        for fault in raw.fault {
            faults.extend(check.fault(fault, &config));
        }
        if !check.problems.is_empty() {
            return Err(CampaignError::Wrong { problems: check.problems });
        }
        Ok(Self {
            title: raw.title.unwrap_or_else(|| file.to_owned()),
            file: file.to_owned(),
            config,
            seed: raw.seed.unwrap_or(1),
            pause,
            patience,
            is_shuffled: raw.order == Order::Shuffled,
            faults,
        })
    }

    /// Reads a campaign's file.
    ///
    /// # Errors
    /// See [`CampaignError`].
    pub fn load(path: &Path) -> Result<Self, CampaignError> {
        let text = fs::read_to_string(path)
            .map_err(|source| CampaignError::Unreadable { path: path.to_owned(), source })?;
        Self::from_toml(&text, &path.display().to_string())
    }

    /// Four simulated cameras with every fault that can be simulated.
    ///
    /// # Errors
    /// None: a test reads it. The type spares a panic in a program that has other things to finish.
    pub fn built_in() -> Result<Self, CampaignError> {
        Self::from_toml(BUILT_IN, "chaos/simulated.toml")
    }

    /// The faults in the order in which they are done, with the pause before each and every target decided. The
    /// same for the same seed.
    pub fn schedule(&self) -> Vec<(Duration, Fault)> {
        let mut dice = Dice::new(self.seed);
        let mut faults = self.faults.clone();
        if self.is_shuffled {
            for last in (1..faults.len()).rev() {
                faults.swap(last, dice.below(last + 1));
            }
        }
        let decided = faults.into_iter().map(|mut fault| {
            if fault.target == Target::AnyCamera {
                fault.target = Target::Camera(dice.below(self.config.cameras.len()));
            }
            (self.pause.mul_f64(0.5 + dice.unit()), fault)
        });
        decided.collect()
    }

    /// Cameras that need a switch, by their places.
    pub(super) fn switched_cameras(schedule: &[(Duration, Fault)], cameras: usize) -> BTreeSet<usize> {
        let simulated = schedule.iter().filter(|(_, fault)| matches!(fault.action, Action::Switch(_)));
        simulated
            .flat_map(|(_, fault)| match fault.target {
                Target::Camera(index) => index..index + 1,
                Target::AllCameras => 0..cameras,
                Target::AnyCamera | Target::Pipeline => 0..0,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str =
        "version = 1\nseed = 7\n[config]\nversion = 1\n[[config.camera]]\nname = \"left\"\nscene = {}\n";

    fn wrong(faults: &str) -> String {
        Campaign::from_toml(&format!("{SESSION}{faults}"), "c.toml").unwrap_err().to_string()
    }

    #[track_caller]
    fn check_wrong(fault: &str, parts: &[&str]) {
        let said = wrong(&format!("[[fault]]\n{fault}\n"));
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        check_wrong("kind = \"stal\"", &["c.toml:9: kind = \"stal\" is no fault", "stall", "pipeline-hang"]);
        check_wrong(
            "kind = \"stall\"\ncamera = \"right\"",
            &["c.toml:10: camera = \"right\" is no camera", "write \"left\", \"all\" or \"any\""],
        );
        check_wrong("kind = \"stall\"\nfor = \"soon\"", &["c.toml:10: for = \"soon\" is not a duration"]);
        check_wrong("kind = \"panic\"\nfor = \"1s\"", &["for has no effect"]);
        check_wrong("kind = \"panic\"\ntimeout = \"1s\"", &["c.toml:10: timeout has no effect"]);
        check_wrong("kind = \"panic\"\nrepeat = 0", &["c.toml:10: repeat = 0 is outside 1..=10000"]);
        check_wrong("kind = \"pipeline-error\"\ncamera = \"left\"", &["not a camera's"]);
        check_wrong("camera = \"left\"", &["c.toml:8: a fault is either simulated"]);
        check_wrong("run = \"true\"", &["camera is missing"]);
        check_wrong("run = \"true\"\ncamera = \"any\"", &["does not go with run"]);
        check_wrong("run = \"true\"\ncamera = \"left\"\nfor = \"1s\"", &["for has no effect"]);
        let both = wrong("[[fault]]\nkind = \"x\"\n[[fault]]\nkind = \"y\"\n");
        assert_eq!(both.lines().count(), 2, "{both}");
    }

    #[test]
    fn what_is_no_campaign_is_said_with_its_place() {
        #[track_caller]
        fn check(text: &str, part: &str) {
            let error = Campaign::from_toml(text, "c.toml").unwrap_err();
            let said = format!(
                "{error}: {}",
                std::error::Error::source(&error).map_or(String::new(), ToString::to_string)
            );
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        check("", "missing field");
        check(&format!("{SESSION}[[fault]]\nkindd = \"stall\""), "kindd");
        check(&format!("{SESSION}[[fault]]\nkind = \"stall\"\nexpect = \"luck\""), "luck");
        check("version = 2\nconfig = 1\nfault = []", "version is one that this program does not read");
        check("version = 1\nconfig = 1\nfault = []", "neither a file's name nor a table");
        check("version = 1\nconfig = \"none.toml\"\nfault = []", "cannot be read");
        check(&format!("{}[[fault]]\nkind = \"stall\"", SESSION.replace("left", "two words")), "two words");
        let lossless = SESSION.replace("scene = {}", "scene = { pace = \"lossless\" }");
        check(
            &format!("{lossless}[[fault]]\nkind = \"stall\""),
            "camera \"left\" of the session comes to an end",
        );
    }

    #[test]
    fn a_seed_decides_the_order() {
        let schedule = |seed| {
            let mut campaign = Campaign::built_in().unwrap();
            campaign.seed = seed;
            campaign.schedule()
        };
        assert_eq!(schedule(3), schedule(3));
        assert_ne!(schedule(3), schedule(4));
        let mut names: Vec<_> = schedule(3).into_iter().map(|(_, fault)| fault.name).collect();
        let mut others: Vec<_> = schedule(4).into_iter().map(|(_, fault)| fault.name).collect();
        names.sort();
        others.sort();
        assert_eq!(names, others);
    }

    #[test]
    fn the_built_in_campaign_has_every_fault() {
        let campaign = Campaign::built_in().unwrap();
        for kind in Kind::all() {
            let is_it = |fault: &Fault| fault.action == Action::Switch(kind);
            assert!(campaign.faults.iter().any(is_it), "{}", kind.name());
        }
    }
}
