//! The command line: what can be asked for, and how it ended.
//!
//! Owns the commands, their help and the exit codes. Each command is a module that prints its findings to
//! standard output and everything else to standard error.

/// Prints to standard output as `print!` does, but takes a reader that ends early for no error.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::write_out(format_args!($($text)*)) };
}

/// The same with a line's end.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::write_out(format_args!("{}\n", format_args!($($text)*))) };
}

mod calibrate;
mod cameras;
mod chaos;
mod check;
mod control;
mod diff;
mod doctor;
mod doors;
mod export;
mod inspect;
mod recover;
mod replay;
mod run;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use youquanti::models::with_causes;
use youquanti::{ConfigErrors, SessionError, StartError};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Fine = 0,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A camera, a GPU, a model or a library is missing.
    Missing = 3,
    /// The session ran, but not all was well.
    Degraded = 4,
    /// This program failed.
    Internal = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Captures cameras, finds every face, and records what it finds.
///
/// Start with `youquanti run`: without a configuration it runs a demo with two simulated cameras.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  fine
  2  the command line or the configuration is wrong
  3  a camera, a GPU, a model or a library is missing
  4  the session ran, but ended degraded: its report says why; of chaos: not all went as expected;
     of calibrate: nothing could be measured; of diff and replay: sessions differ beyond the bounds;
     of control: the session refuses; of recover: something is lost
  5  an error of this program

Environment:
  YOUQUANTI_ONNXRUNTIME  file of libonnxruntime.so, instead of searching for it
  YOUQUANTI_NVRTC        file of libnvrtc.so, the compiler of GPU kernels, instead of searching for it
  YOUQUANTI_NVJPEG       file of libnvjpeg.so, which decodes JPEG on a GPU, instead of searching for it
  YOUQUANTI_FFMPEG       the ffmpeg program, instead of searching for it
  YOUQUANTI_TOKEN        what clients have to show, where a token is required, or what `control` shows
  YOUQUANTI_LOG          what is logged, e.g. `debug` or `youquanti_actors=debug`; overrides [log]";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a session until its duration is over, its sources end, or Ctrl-C.
    #[command(after_help = run::AFTER_HELP)]
    Run(run::Args),
    /// Check a configuration against this machine, without starting anything.
    ///
    /// Reports everything that is wrong at once, each with file, line, key, value and remedy: the
    /// configuration itself, cameras and files that are not there, GPUs, models, libraries, disk and memory. When all is
    /// well, says what would seek faces and why, and which camera goes to which GPU.
    Check(check::Args),
    /// List the cameras of this computer: stable id, state, formats, sizes, rates and controls.
    Cameras(cameras::Args),
    /// Measure how far a camera's stamps are from the light, with a coded screen that it films.
    #[command(after_help = calibrate::AFTER_HELP)]
    Calibrate(calibrate::Args),
    /// Say what is in a session file: contents, rates, gaps, ledger, latencies.
    ///
    /// Opens files of a session that still runs, and of one that was killed.
    Inspect(inspect::Args),
    /// Send a recorded session's frames, or videos, through the same actors once more.
    ///
    /// The same results as then, on the processor byte for byte, if the video is lossless; or those of other networks, another
    /// configuration, another back end.
    #[command(after_help = replay::AFTER_HELP)]
    Replay(replay::Args),
    /// Say how two sessions of the same frames differ: faces, landmarks, scores, head poses.
    #[command(after_help = diff::AFTER_HELP)]
    Diff(diff::Args),
    /// Make other forms of a session file: NWB, XDF, CSV, Parquet.
    ///
    /// The session file is only read. Nothing is written over without `--force`.
    #[command(after_help = export::AFTER_HELP)]
    Export(export::Args),
    /// Make a finished copy of a session file that was never closed, or was damaged.
    ///
    /// Exit code 4 when something of it is lost. The next session in the same folder does this by itself for files that
    /// were never closed.
    #[command(after_help = recover::AFTER_HELP)]
    Recover(recover::Args),
    /// Say what this machine has, and what is missing to run here.
    Doctor(doctor::Args),
    /// Break a session on purpose, one fault after another, and say what each cost.
    ///
    /// Without a campaign, four simulated cameras suffer every fault that can be simulated. With one, it is the cameras
    /// of a lab that are stalled, unplugged or switched off, by commands that the campaign names. Exit code 4 when
    /// something did not go as expected.
    #[command(after_help = chaos::AFTER_HELP)]
    Chaos(chaos::Args),
    /// Tell a session that runs what to do: marks, recordings, cameras, its end.
    #[command(after_help = control::AFTER_HELP)]
    Control(control::Args),
    /// Print completions for a shell, e.g. `youquanti completions bash > /etc/bash_completion.d/youquanti`.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the JSON schema of configuration files, for editors.
    Schema,
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn execute(self) -> Exit {
        match self.command {
            Command::Run(args) => run::execute(&args),
            Command::Check(args) => check::execute(&args),
            Command::Cameras(args) => cameras::execute(&args),
            Command::Calibrate(args) => calibrate::execute(&args),
            Command::Inspect(args) => inspect::execute(&args),
            Command::Replay(args) => replay::execute(&args),
            Command::Diff(args) => diff::execute(&args),
            Command::Export(args) => export::execute(&args),
            Command::Recover(args) => recover::execute(&args),
            Command::Doctor(args) => doctor::execute(&args),
            Command::Chaos(args) => chaos::execute(&args),
            Command::Control(args) => control::execute(&args),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "youquanti", &mut script);
                out!("{}", String::from_utf8_lossy(&script));
                Exit::Fine
            }
            Command::Schema => {
                outln!("{:#}", youquanti_config::schema());
                Exit::Fine
            }
        }
    }
}

/// Where a configuration is, when one may be left out.
#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration, a TOML file; without it, the built-in demo.
    config: Option<PathBuf>,
}

impl ConfigArg {
    fn load(&self) -> Result<youquanti::Config, ConfigErrors> {
        match &self.config {
            Some(path) => youquanti::Config::load(path),
            None => youquanti::Config::demo(),
        }
    }
}

fn write_out(text: std::fmt::Arguments<'_>) {
    // In one piece: standard output writes line by line, and a long list on a slow file system would take minutes.
    if let Err(error) = std::io::stdout().write_all(text.to_string().as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("error: standard output cannot be written: {error}");
    }
}

/// Prints an error with its causes; returns the exit code that goes with it.
fn fail(exit: Exit, error: &dyn std::error::Error) -> Exit {
    eprintln!("error: {}", with_causes(error));
    exit
}

/// Prints what is wrong with a configuration, all of it.
fn fail_config(exit: Exit, errors: &ConfigErrors, json: bool) -> Exit {
    if json {
        outln!("{:#}", errors.to_json());
    } else {
        eprintln!("{errors}");
    }
    exit
}

fn exit_of(error: &SessionError) -> Exit {
    match error {
        SessionError::Preflight(_)
        | SessionError::Offsets(_)
        | SessionError::Start(
            StartError::Camera { .. }
            | StartError::Pipeline { .. }
            | StartError::Pose { .. }
            | StartError::Streams { .. },
        ) => Exit::Missing,
        SessionError::Folder { .. }
        | SessionError::Start(StartError::Recording { .. } | StartError::Rings { .. }) => Exit::Usage,
        SessionError::Start(StartError::Internal { .. }) => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
