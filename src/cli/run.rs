//! `youquanti run`: a session from start to report, with a line of progress a second.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use tracing_subscriber::EnvFilter;
use youquanti::actors::ledger::{Consumer, DropReason};
use youquanti::actors::stats::StreamFigures;
use youquanti::actors::verdict::ReasonCode;
use youquanti::{CameraProgress, Config, RecordingReport, Session, SessionReport, preflight};
use youquanti_config::{LogFormat, Period};

use super::table::{self, bytes};
use super::{ConfigArg, Exit, doors, exit_of, fail, fail_config};

pub(crate) const AFTER_HELP: &str = "\
Examples:
  youquanti run                                  the demo: two simulated cameras with real faces
  youquanti run experiment.toml                  as configured, until its duration or Ctrl-C
  youquanti run experiment.toml --duration 10min
  youquanti run experiment.toml --override 'one camera is being repaired' --by Ada
  kill -USR1 PID                                 write the last minute of every frame as a trace for Perfetto";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// End after this time, e.g. 30s or 2h, whatever the configuration says.
    #[arg(long, value_name = "TIME")]
    duration: Option<Period<100, 2_592_000_000>>,
    /// Record into this folder, whatever the configuration says.
    #[arg(long, value_name = "DIR", conflicts_with = "no_record")]
    record: Option<PathBuf>,
    /// Record nothing, whatever the configuration says.
    #[arg(long)]
    no_record: bool,
    /// Serve nothing: no control, no figures, no dashboard, whatever the configuration says.
    #[arg(long)]
    no_ui: bool,
    /// Start although cameras, or faces and streams that `[recording]` requires, are missing, or the disk is too small for the duration: say why. The file has it, and the
    /// session ends degraded.
    #[arg(long = "override", value_name = "REASON", requires = "by")]
    override_reason: Option<String>,
    /// Who decided so.
    #[arg(long, value_name = "NAME", requires = "override_reason")]
    by: Option<String>,
    /// Print the report as JSON; progress and log stay on standard error.
    #[arg(long)]
    json: bool,
    /// At the end, write what happened to each frame of the last minute as a trace that Perfetto opens.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// How often progress is shown on a terminal, and otherwise.
const PROGRESS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How long the main thread waits before it looks at its signals again.
const GLANCE: Duration = Duration::from_millis(100);

pub(crate) fn execute(args: &Args) -> Exit {
    let mut config = match args.config.load() {
        Ok(config) => config,
        Err(errors) => return fail_config(Exit::Usage, &errors, args.json),
    };
    if let Some(duration) = args.duration {
        config.session.duration = Some(duration);
    }
    if let Some(folder) = &args.record {
        config.recording.enabled = true;
        config.session.directory.clone_from(folder);
    }
    if args.no_record {
        config.recording.enabled = false;
    }
    start_log(&config);
    if config.recording.derived_only
        && let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable)
    {
        eprintln!("warning: a crash of this program may leave a core dump, with pictures in it: {error}");
    }
    let signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => return fail(Exit::Internal, &error),
    };
    let overridden = args.override_reason.as_deref().zip(args.by.as_deref());
    let checked = match overridden {
        None => preflight::check(&config),
        Some(_) => preflight::check_overridden(&config).map(|(backend, missing)| {
            missing.iter().for_each(|missing| eprintln!("missing: {missing}"));
            backend
        }),
    };
    let backend = match checked {
        Ok(backend) => backend,
        Err(errors) => return fail_config(Exit::Missing, &errors, args.json),
    };
    eprintln!("back end {backend}");
    if !backend.workers().is_empty() {
        eprintln!("loading networks on a GPU takes up to a minute, with TensorRT the first time much longer");
    }
    let server = if args.no_ui { Ok(None) } else { doors::open(&config) };
    let server = match server {
        Ok(server) => server,
        Err(error) => return fail(Exit::Usage, &error),
    };
    let started = match overridden {
        None => Session::start_checked(&config, &backend),
        Some((reason, by)) => Session::start_overridden(&config, reason, by),
    };
    let mut session = match started {
        Ok(session) => session,
        Err(error) => {
            if args.json {
                outln!("{:#}", json!({ "state": "not started", "error": error.to_string() }));
            }
            return fail(exit_of(&error), &error);
        }
    };
    if let Some(server) = &server {
        server.attach(session.control());
    }
    let labrecorder = match doors::open_labrecorder(&config, session.control()) {
        Ok(labrecorder) => labrecorder,
        Err(error) => return fail(Exit::Usage, &error),
    };
    announce(&config, &session);
    let report = attend(&mut session, &signals);
    drop((server, labrecorder));
    let Some(report) = report else {
        eprintln!(
            "error: the session was lost to a failure of this program; what had been committed to its file is safe"
        );
        if let Some(file) = session.file() {
            eprintln!("       youquanti inspect {}", file.display());
        }
        return Exit::Internal;
    };
    if let Some(trace) = &args.trace {
        write_trace(&session, trace);
    }
    if args.json {
        outln!("{:#}", to_json(&report));
    } else {
        out!("{}", to_text(&report));
    }
    let never_ready = report.verdict.reasons.iter().any(|reason| reason.code == ReasonCode::RequiredMissing);
    match (report.imbalances.is_empty(), report.degraded.is_empty()) {
        (false, _) => Exit::Internal,
        (true, false) if never_ready => Exit::Missing,
        (true, false) => Exit::Degraded,
        (true, true) => Exit::Fine,
    }
}

pub(super) fn start_log(config: &Config) {
    let filter = EnvFilter::try_from_env("YOUQUANTI_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!("{},ort=warn,actix_server=warn", config.log.level.name()))
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(|| ClearedLine(std::io::stderr()));
    let started = match config.log.format {
        LogFormat::Text => log.compact().try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    if let Err(error) = started {
        eprintln!("warning: no log: {error}");
    }
}

/// Standard error with the progress line out of the way.
struct ClearedLine(std::io::Stderr);

impl Write for ClearedLine {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if self.0.is_terminal() {
            self.0.write_all(CLEAR_LINE.as_bytes())?;
        }
        self.0.write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

pub(super) const CLEAR_LINE: &str = "\r\x1b[K";

/// What the operating system asked for.
pub(super) struct Signals {
    end: Arc<AtomicBool>,
    trace: Arc<AtomicBool>,
}

impl Signals {
    /// The first Ctrl-C or SIGTERM ends the session in good order, the second one the program at once.
    pub(super) fn register() -> std::io::Result<Self> {
        let signals = Self { end: Arc::default(), trace: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&signals.end))?;
            signal_hook::flag::register(signal, Arc::clone(&signals.end))?;
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&signals.trace))?;
        Ok(signals)
    }

    /// Set by the first Ctrl-C or SIGTERM.
    pub(super) fn end(&self) -> &AtomicBool {
        &self.end
    }
}

fn announce(config: &Config, session: &Session) {
    let until =
        config.session.duration.map_or("until its sources end".to_owned(), |time| format!("for {time}"));
    eprintln!("session \"{}\" runs {until}; Ctrl-C ends it in good order", config.session.name);
    if let Some(file) = session.file() {
        eprintln!("recording to {}", file.display());
    } else if config.recording.enabled {
        eprintln!(
            "the recording begins when what it requires is there; the session ends without it after {}",
            config.recording.require_within
        );
    }
}

/// Shows progress and obeys signals until the session has ended.
fn attend(session: &mut Session, signals: &Signals) -> Option<SessionReport> {
    let on_terminal = std::io::stderr().is_terminal();
    let interval = PROGRESS[usize::from(!on_terminal)];
    let mut shown = session.progress();
    let mut asked_to_stop = false;
    let mut traces = 0;
    loop {
        // Looked at first: a report may come between the two.
        let has_ended = session.has_ended();
        let report = session.wait(GLANCE);
        if report.is_some() || has_ended {
            if on_terminal {
                eprint!("{CLEAR_LINE}");
            }
            return report;
        }
        let now = session.progress();
        let since = |figures: &[CameraProgress]| Some((figures.first()?.at, now.first()?.at));
        if since(&shown).is_some_and(|(then, now)| now.saturating_since(then) >= interval) {
            let line = progress_line(&shown, &now);
            if on_terminal {
                eprint!("{CLEAR_LINE}{line}");
            } else {
                eprintln!("{line}");
            }
            shown = now;
        }
        if signals.trace.swap(false, Ordering::Relaxed) {
            traces += 1;
            write_trace(session, &PathBuf::from(format!("youquanti-{traces}.trace.json")));
        }
        if signals.end.load(Ordering::Relaxed) && !asked_to_stop {
            asked_to_stop = true;
            session.stop("interrupted");
        }
    }
}

fn write_trace(session: &Session, to: &Path) {
    match session.write_trace(to) {
        Ok(()) => eprintln!("trace of the last minute: {} (open it in Perfetto)", to.display()),
        Err(error) => eprintln!("warning: trace {} not written: {error}", to.display()),
    }
}

/// What happened between two moments, a few words for each camera.
fn progress_line(before: &[CameraProgress], now: &[CameraProgress]) -> String {
    let cameras = before.iter().zip(now).map(|(before, now)| {
        let seconds = now.at.saturating_since(before.at).as_secs_f64().max(1e-9);
        let fps = (now.ledger.captured - before.ledger.captured) as f64 / seconds;
        let results = (now.results - before.results) as f64 / seconds;
        let latency = now.latency.since(&before.latency).quantile(0.5);
        let latency =
            latency.map_or("-".to_owned(), |latency| format!("{:.0} ms", latency.as_secs_f64() * 1e3));
        let dropped: u64 = now.ledger.consumers[Consumer::Pipeline as usize].dropped_total();
        format!(
            "{}: {fps:.0} fps, {results:.0} analysed, {} {}, {latency}, {dropped} dropped",
            now.name,
            now.faces,
            if now.faces == 1 { "face" } else { "faces" },
        )
    });
    cameras.collect::<Vec<_>>().join(" | ")
}

fn millis(latency: Option<Duration>) -> String {
    latency.map_or("-".to_owned(), |latency| format!("{:.1}", latency.as_secs_f64() * 1e3))
}

fn to_text(report: &SessionReport) -> String {
    let seconds = report.stopped_at.saturating_since(report.started_at).as_secs_f64();
    let state = if report.degraded.is_empty() { "ok" } else { "degraded" };
    let mut text =
        format!("\nsession \"{}\": {state} after {seconds:.1} s ({})\n\n", report.name, report.stop_reason);
    let rows: Vec<Vec<String>> = report
        .cameras
        .iter()
        .map(|camera| {
            let pipeline = &camera.ledger.consumers[Consumer::Pipeline as usize];
            vec![
                camera.name.to_string(),
                camera.ledger.captured.to_string(),
                format!("{:.1}", camera.ledger.captured as f64 / seconds.max(1e-9)),
                pipeline.delivered.to_string(),
                camera.face_rows.to_string(),
                pipeline.dropped_total().to_string(),
                camera.ledger.driver_lost.to_string(),
                camera.restarts.to_string(),
                millis(camera.latency.quantile(0.5)),
                millis(camera.latency.quantile(0.99)),
            ]
        })
        .collect();
    let header =
        ["camera", "captured", "fps", "analysed", "faces", "dropped", "lost", "restarts", "p50 ms", "p99 ms"];
    text.push_str(&table::render(&header, &rows));
    let dropped = match &report.backend {
        Some(backend) if backend.backend == "none" => "captured and recorded, but no faces were sought",
        _ => "captured, but a newer frame was analysed instead",
    };
    text.push_str(&format!(
        "\n  dropped: {dropped}; lost: never reached this program;\n  ms: capture to result\n"
    ));
    if let Some(backend) = &report.backend {
        text.push_str(&format!(
            "\nback end: {} on {}, {} ({})\n",
            backend.backend, backend.device, backend.runtime, backend.reason
        ));
    }
    let ledger = if report.imbalances.is_empty() { "closes" } else { "DOES NOT CLOSE" };
    text.push_str(&format!(
        "ledger: {ledger}; captured = delivered + dropped for every camera and consumer\n"
    ));
    if let Some(lsl) = &report.lsl {
        text.push_str(&streams_line(lsl));
    }
    for camera in &report.cameras {
        let video = &camera.ledger.consumers[Consumer::Video as usize];
        if video.captured > 0 {
            let (name, written, offered) = (&camera.name, video.delivered, video.captured);
            text.push_str(&format!("video of {name}: {written} of {offered} frames\n"));
        }
    }
    for camera in &report.cameras {
        let pose = &camera.ledger.consumers[Consumer::Pose as usize];
        if pose.captured > 0 {
            let (name, looked_at, skipped) = (&camera.name, pose.delivered, pose.dropped_total());
            text.push_str(&format!("pose in {name}: {looked_at} frames looked at, {skipped} skipped\n"));
        }
    }
    for reason in &report.degraded {
        text.push_str(&format!("degraded: {reason}\n"));
    }
    if report.abandoned_threads > 0 {
        let threads = report.abandoned_threads;
        text.push_str(&format!("threads that hang and were left behind: {threads}\n"));
    }
    for trace in &report.traces {
        text.push_str(&format!("trace of the minute before a failure: {}\n", trace.display()));
    }
    for RecordingReport { path, outcome } in &report.recordings {
        let path = path.display();
        match outcome {
            Ok(summary) => {
                let (frames, faces) = (summary.frames.iter().sum::<u64>(), summary.faces.iter().sum::<u64>());
                let size = bytes(summary.file_bytes);
                text.push_str(&format!("file: {path}, {size}: {frames} frames, {faces} faces\n"));
            }
            Err(cause) => {
                text.push_str(&format!("file: {path}, NOT complete: {cause}\n"));
                text.push_str(&format!("  youquanti inspect {path}     what is safe\n"));
            }
        }
    }
    match report.recordings.last() {
        Some(RecordingReport { path, outcome: Ok(_) }) => {
            let path = path.display();
            text.push_str(&format!("\nnext:\n  youquanti inspect {path}\n"));
            text.push_str(&format!("  python3 -c 'import h5py; h5py.File(\"{path}\").visititems(print)'\n"));
            text.push_str("  youquanti cameras                  what is plugged in here\n");
            text.push_str(
                "  youquanti check my-experiment.toml is all ready? examples are in config/examples\n",
            );
        }
        Some(_) => {}
        None => text.push_str("file: none, nothing was recorded\n"),
    }
    text
}

/// What was sent and received over LSL; what was lost only where something was.
fn streams_line(lsl: &StreamFigures) -> String {
    let mut line = format!("lsl: {} rows of participants sent, {} markers received", lsl.rows, lsl.markers);
    let lost = [
        (lsl.late, "rows too late"),
        (lsl.frames_lost, "frames without rows"),
        (lsl.results_lost, "results not sent"),
        (lsl.events_lost, "events not sent"),
        (lsl.windows_lost, "windows of synchrony not sent"),
        (lsl.markers_lost, "markers lost"),
    ];
    for (count, what) in lost.into_iter().filter(|(count, _)| *count > 0) {
        line.push_str(&format!("; {count} {what}"));
    }
    line + "\n"
}

pub(super) fn to_json(report: &SessionReport) -> serde_json::Value {
    let quantile = |camera: &youquanti::CameraReport, share| {
        camera.latency.quantile(share).map(|latency| latency.as_secs_f64() * 1e3)
    };
    let cameras: Vec<_> = report
        .cameras
        .iter()
        .map(|camera| {
            let consumers =
                Consumer::ALL.into_iter().zip(&camera.ledger.consumers).map(|(consumer, counts)| {
                    let dropped: serde_json::Map<_, _> = DropReason::ALL
                        .into_iter()
                        .zip(counts.dropped)
                        .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
                        .collect();
                    (consumer.name().to_owned(), json!({ "delivered": counts.delivered, "dropped": dropped }))
                });
            json!({
                "name": camera.name.as_str(),
                "captured": camera.ledger.captured,
                "driver_lost": camera.ledger.driver_lost,
                "consumers": consumers.collect::<serde_json::Map<_, _>>(),
                "face_rows": camera.face_rows,
                "restarts": camera.restarts,
                "latency_ms": {
                    "p50": quantile(camera, 0.5), "p90": quantile(camera, 0.9), "p99": quantile(camera, 0.99),
                },
            })
        })
        .collect();
    let recordings = report.recordings.iter().map(|RecordingReport { path, outcome }| match outcome {
        Ok(summary) => json!({
            "path": path, "complete": summary.complete, "bytes": summary.file_bytes,
            "frames": summary.frames, "faces": summary.faces,
        }),
        Err(cause) => json!({ "path": path, "complete": false, "error": cause }),
    });
    let recordings: Vec<_> = recordings.collect();
    json!({
        "name": report.name,
        "state": if report.degraded.is_empty() { "ok" } else { "degraded" },
        "degraded": report.degraded,
        "verdict": report.verdict,
        "abandoned_threads": report.abandoned_threads,
        "stop_reason": report.stop_reason,
        "duration_s": report.stopped_at.saturating_since(report.started_at).as_secs_f64(),
        "backend": report.backend.as_ref().map(|backend| json!({
            "name": backend.backend, "device": backend.device, "runtime": backend.runtime,
            "reason": backend.reason,
            "models": backend.models.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })),
        "cameras": cameras,
        "ledger_closes": report.imbalances.is_empty(),
        // The last one, which is the only one unless more were asked for.
        "recording": recordings.last(),
        "recordings": recordings,
        "lsl": report.lsl,
        "traces": report.traces,
    })
}
