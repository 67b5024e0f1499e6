//! `youquanti replay`: a recorded session's frames, or videos, through the same actors once more.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use youquanti::actors::capture::Pace;
use youquanti::actors::ledger::Consumer;
use youquanti::diff::{Diff, diff};
use youquanti::replay::{CannotReplay, Replay, ReplayRequest};
use youquanti::{Config, SessionReport};

use super::diff::Bounds;
use super::run::{CLEAR_LINE, Signals, start_log};
use super::{Exit, exit_of, fail, fail_config, run};

pub(crate) const AFTER_HELP: &str = "\
Without --config, faces are found as the session says that is recorded in its file; cameras, streams and video of a
configuration are of no effect here. Frames keep their stamps; latencies in the new file mean nothing.

Examples:
  youquanti replay sessions/pilot.h5 --diff                 the same results as then? exit code 4 if not
  youquanti replay sessions/pilot.h5 --config other.toml    the same frames, found otherwise, flat out
  youquanti replay left.mp4 right.mp4 --record analysed     videos, each a camera";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A session file with its video beside it, or videos.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// How faces are found, whatever the session's own configuration says.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// When the next frame comes: when all have taken the one before, as fast as possible, or as it was then.
    #[arg(long, value_name = "PACE", default_value = "lossless")]
    pace: PaceArg,
    /// Show frames, too, that the session had captured and not analysed.
    #[arg(long)]
    all_frames: bool,
    /// Record into this folder.
    #[arg(long, value_name = "DIR", default_value = "replays")]
    record: PathBuf,
    /// Compare with the session that is replayed; exit code 4 when they differ by more than the bounds.
    #[arg(long)]
    diff: bool,
    #[command(flatten)]
    bounds: Bounds,
    /// Print the report as JSON; progress and log stay on standard error.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PaceArg {
    /// No frame is lost; the same results each time on the processor.
    Lossless,
    /// Flat out: who is too slow loses frames.
    Fast,
    /// By the stamps: who is too slow loses frames.
    Real,
}

/// How often progress is shown on a terminal, and otherwise.
const PROGRESS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// How long the main thread waits before it looks at its signals again.
const GLANCE: Duration = Duration::from_millis(100);

pub(crate) fn execute(args: &Args) -> Exit {
    let signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => return fail(Exit::Internal, &error),
    };
    // Read as a configuration first, so that what is wrong with it is told with its place.
    let (log, given) = match &args.config {
        Some(path) => match Config::load(path) {
            Ok(config) => {
                let given = (config.source_text().to_owned(), config.file().to_owned());
                (config, Some(given))
            }
            Err(errors) => return fail_config(Exit::Usage, &errors, args.json),
        },
        None => match Config::demo() {
            Ok(config) => (config, None),
            Err(errors) => return fail_config(Exit::Internal, &errors, args.json),
        },
    };
    start_log(&log);
    let request = ReplayRequest {
        inputs: args.inputs.clone(),
        config: given,
        pace: match args.pace {
            PaceArg::Lossless => Pace::Lossless,
            PaceArg::Fast => Pace::Fast,
            PaceArg::Real => Pace::Real,
        },
        directory: args.record.clone(),
        all_frames: args.all_frames,
    };
    let mut replay = match Replay::start(&request) {
        Ok(replay) => replay,
        Err(error) => {
            if args.json {
                outln!("{:#}", json!({ "state": "not started", "error": error.to_string() }));
            }
            return match &error {
                CannotReplay::Config(errors) => {
                    eprintln!("{errors}");
                    Exit::Usage
                }
                CannotReplay::Session(error) => fail(exit_of(error), error),
                _ => fail(Exit::Usage, &error),
            };
        }
    };
    if args.diff && replay.original.is_none() {
        eprintln!("warning: --diff compares with a session, and videos are none");
    }
    let Some(report) = attend(&mut replay, &signals) else {
        eprintln!(
            "error: the replay was lost to a failure of this program; what had been committed to its file is safe"
        );
        return Exit::Internal;
    };
    let file =
        report.recordings.last().filter(|recording| recording.outcome.is_ok()).map(|it| it.path.clone());
    let compared = match (&replay.original, &file) {
        (Some(original), Some(file)) if args.diff => match diff(original, file) {
            Ok(diff) => Some(diff),
            Err(error) => return fail(Exit::Internal, &error),
        },
        _ => None,
    };
    let troubles = replay.troubles.list();
    if args.json {
        outln!("{:#}", to_json(&replay, &report, &troubles, compared.as_ref(), &args.bounds));
    } else {
        out!("{}", to_text(&replay, &report, &troubles, compared.as_ref(), &args.bounds, file.as_deref()));
    }
    let all_is_well = troubles.is_empty() && report.degraded.is_empty();
    match compared {
        _ if !report.imbalances.is_empty() => Exit::Internal,
        _ if !all_is_well || file.is_none() => Exit::Degraded,
        Some(diff) => super::diff::exit(&diff, &args.bounds),
        None => Exit::Fine,
    }
}

/// Frames that were shown so far, and those of them that were analysed.
fn done(replay: &Replay) -> (u64, u64) {
    let cameras = replay.session.progress();
    (
        cameras.iter().map(|camera| camera.ledger.captured).sum(),
        cameras.iter().map(|camera| camera.results).sum(),
    )
}

/// Shows progress and obeys signals until the replay has ended.
fn attend(replay: &mut Replay, signals: &Signals) -> Option<SessionReport> {
    let on_terminal = std::io::stderr().is_terminal();
    let every = PROGRESS[usize::from(!on_terminal)].as_millis() / GLANCE.as_millis();
    let (mut asked_to_stop, mut shown) = (false, (0, 0));
    for glance in 1u128.. {
        let has_ended = replay.session.has_ended();
        let report = replay.session.wait(GLANCE);
        if report.is_some() || has_ended {
            if on_terminal {
                eprint!("{CLEAR_LINE}");
            }
            return report;
        }
        if glance % every == 0 {
            let now = done(replay);
            let seconds = GLANCE.as_secs_f64() * every as f64;
            let line = progress_line(now.0, replay.total, (now.1 - shown.1) as f64 / seconds);
            if on_terminal {
                eprint!("{CLEAR_LINE}{line}");
                std::io::stderr().flush().ok();
            } else {
                eprintln!("{line}");
            }
            shown = now;
        }
        if signals.end().load(Ordering::Relaxed) && !asked_to_stop {
            asked_to_stop = true;
            replay.session.stop("interrupted");
        }
    }
    None
}

/// `[#####.....] 50 of 100 frames, 31 analysed a second, 2 s left`.
fn progress_line(done: u64, total: Option<u64>, rate: f64) -> String {
    const WIDTH: u64 = 30;
    let Some(total) = total.filter(|total| *total > 0) else {
        return format!("{done} frames, {rate:.0} analysed a second");
    };
    let filled = (WIDTH * done / total).min(WIDTH);
    let bar: String = (0..WIDTH).map(|at| if at < filled { '#' } else { '.' }).collect();
    let left = if rate > 0.0 {
        format!(", {:.0} s left", (total - done.min(total)) as f64 / rate)
    } else {
        String::new()
    };
    format!("[{bar}] {done} of {total} frames, {rate:.0} analysed a second{left}")
}

fn seconds(report: &SessionReport) -> f64 {
    report.stopped_at.saturating_since(report.started_at).as_secs_f64()
}

fn to_text(
    replay: &Replay,
    report: &SessionReport,
    troubles: &[String],
    compared: Option<&Diff>,
    bounds: &Bounds,
    file: Option<&Path>,
) -> String {
    let sum = |of: &dyn Fn(&youquanti::CameraReport) -> u64| report.cameras.iter().map(of).sum::<u64>();
    let analysed = sum(&|camera| camera.ledger.consumers[Consumer::Pipeline as usize].delivered);
    let (frames, seconds) = (sum(&|camera| camera.ledger.captured), seconds(report));
    let mut text = format!(
        "\nreplayed {frames} frames of {} cameras in {seconds:.1} s ({:.1} a second): {analysed} analysed, {} faces\n",
        report.cameras.len(),
        frames as f64 / seconds.max(1e-9),
        sum(&|camera| camera.face_rows),
    );
    if replay.left_out > 0 {
        text.push_str(&format!(
            "left out: {} frames that were not analysed then, or are in no video\n",
            replay.left_out
        ));
    }
    for trouble in troubles.iter().chain(&report.degraded) {
        text.push_str(&format!("degraded: {trouble}\n"));
    }
    if let Some(file) = file {
        text.push_str(&format!("file: {}\n", file.display()));
    }
    if let Some(diff) = compared {
        text.push_str(&format!("\n{}", super::diff::to_text(diff, bounds)));
    }
    text
}

fn to_json(
    replay: &Replay,
    report: &SessionReport,
    troubles: &[String],
    compared: Option<&Diff>,
    bounds: &Bounds,
) -> serde_json::Value {
    json!({
        "original": replay.original, "left_out": replay.left_out, "troubles": troubles, "seconds": seconds(report),
        "session": run::to_json(report), "diff": compared.map(|diff| super::diff::to_json(diff, bounds)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_a_bar_where_the_end_is_known() {
        assert_eq!(progress_line(7, None, 3.2), "7 frames, 3 analysed a second");
        assert_eq!(
            progress_line(50, Some(100), 25.0),
            "[###############...............] 50 of 100 frames, 25 analysed a second, 2 s left"
        );
        assert_eq!(
            progress_line(0, Some(9), 0.0),
            "[..............................] 0 of 9 frames, 0 analysed a second"
        );
    }
}
