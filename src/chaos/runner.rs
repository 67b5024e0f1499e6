//! The runner of campaigns: brings each fault about, watches what follows, and writes it down.
//!
//! Owns the session that is broken. Learns of failures as everybody else does, from the session's events, and of
//! losses from its ledger. Times are of the session's clock; waits end with an event or a few milliseconds later.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use youquanti_actors::capture::faulty::Switch;
use youquanti_actors::clock::SystemClock;
use youquanti_actors::control::Control;
use youquanti_actors::ledger::{CameraSnapshot, Consumer, DropReason};
use youquanti_actors::messages::{Event, EventKind};
use youquanti_actors::session::{SessionHandle, SessionReport};
use youquanti_models::{Clock, Timestamp};

use super::campaign::{Action, Campaign, Expectation, Fault, Kind, Target};
use super::matrix::{Matrix, Outcome};
use super::pipeline::PipelineSwitch;
use super::resources::Resources;
use crate::wiring::{self, RING_DIR};
use crate::{SessionError, preflight, session};

/// How long an event is waited for before the ledger is looked at again.
const GLANCE: Duration = Duration::from_millis(5);

/// Frames of each camera that make a session sound again.
const SOUND_FRAMES: u64 = 3;

/// What is told while a campaign runs.
#[derive(Clone, Copy)]
pub enum Progress<'a> {
    /// A session runs: the first one, or one in place of that which a fault has ended.
    Runs(&'a Control),
    /// A fault begins.
    Begins {
        /// Its place in the campaign, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// What it is called.
        fault: &'a str,
        /// What it is done to.
        target: &'a str,
    },
    /// It is over, and the session is sound again or is given up.
    Over(&'a Outcome),
}

/// Runs a campaign. `stop`, when set, ends it before its next step. A session that ends because of a fault is a
/// row of the matrix, and the faults that follow get a session of their own.
///
/// # Errors
/// When a session cannot be started at all.
pub fn run(
    campaign: &Campaign,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Matrix, SessionError> {
    let schedule = campaign.schedule();
    let mut stage = Stage::open(campaign, &schedule)?;
    tell(Progress::Runs(&stage.handle.control()));
    let mut matrix = Matrix {
        title: campaign.title.clone(),
        campaign: campaign.file.clone(),
        seed: campaign.seed,
        cameras: campaign.config.cameras.len(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        outcomes: Vec::new(),
        before: Resources::default(),
        after: Resources::default(),
        problems: Vec::new(),
        files: stage.file.iter().cloned().collect(),
    };
    if !stage.becomes_sound(campaign.patience, stop) {
        matrix
            .problems
            .push(format!("the session was not sound before the first fault: {}", stage.unsound()));
    }
    matrix.before = resources(campaign, &mut matrix.problems);
    let mut rows_of_stage = 0;
    for (number, (pause, fault)) in schedule.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            matrix.problems.push(format!("interrupted after {number} of {} faults", schedule.len()));
            break;
        }
        if stage.has_ended {
            stage.close(&mut matrix, rows_of_stage);
            rows_of_stage = matrix.outcomes.len();
            stage = Stage::open(campaign, &schedule)?;
            tell(Progress::Runs(&stage.handle.control()));
            matrix.files.extend(stage.file.clone());
            stage.becomes_sound(campaign.patience, stop);
        }
        let target = target_name(campaign, fault.target);
        tell(Progress::Begins {
            number: number + 1,
            of: schedule.len(),
            fault: &fault.name,
            target: &target,
        });
        let mut outcome = Outcome {
            fault: fault.name.clone(),
            target,
            repeat: fault.repeat,
            expected: fault.expect,
            detected_after_ms: None,
            recovered_after_ms: None,
            lost: 0,
            lost_by_others: 0,
            ledger_closed: None,
            problems: Vec::new(),
        };
        for _ in 0..fault.repeat {
            stage.wait(*pause, stop);
            stage.trial(fault, campaign.patience, stop, &mut outcome);
            if stage.has_ended || stop.load(Ordering::Relaxed) {
                break;
            }
        }
        tell(Progress::Over(&outcome));
        matrix.outcomes.push(outcome);
    }
    if !stage.has_ended {
        matrix.after = stage.settled_resources(campaign, stop, matrix.before, &mut matrix.problems);
        matrix.problems.extend(Matrix::leaks(matrix.before, matrix.after));
    }
    stage.close(&mut matrix, rows_of_stage);
    Ok(matrix)
}

fn resources(campaign: &Campaign, problems: &mut Vec<String>) -> Resources {
    Resources::now(Path::new(RING_DIR), campaign.config.session.name.as_str()).unwrap_or_else(|error| {
        problems.push(format!("resources cannot be counted: {error}"));
        Resources::default()
    })
}

fn target_name(campaign: &Campaign, target: Target) -> String {
    match target {
        Target::Camera(index) => campaign.config.cameras[index].name.to_string(),
        Target::AllCameras => "all".to_owned(),
        Target::AnyCamera => "any".to_owned(),
        Target::Pipeline => "pipeline".to_owned(),
    }
}

/// What is watched of one camera, or of the pipelines, during a fault.
#[derive(Default)]
struct Watched {
    /// When its failure was noticed, and what it was.
    failed_at: Option<Timestamp>,
    cause: Option<String>,
    /// Stamp of the first frame after its gap; of a pipeline, when it was at work again.
    back_at: Option<Timestamp>,
    /// Frames that its gaps have cost.
    missed: u64,
    /// When the first loss was counted.
    lost_at: Option<Timestamp>,
    /// Stamp of the first good frame after the fault was over.
    good_at: Option<Timestamp>,
}

/// A session on which faults are tried.
struct Stage {
    handle: SessionHandle,
    events: Receiver<Event>,
    clock: Arc<dyn Clock>,
    /// Of every camera; those without simulated faults have one that is connected to nothing.
    switches: Vec<Switch>,
    pipeline: PipelineSwitch,
    /// Event sources of the cameras.
    sources: Vec<String>,
    /// In the order of the cameras; the last is that of the pipelines.
    watched: Vec<Watched>,
    /// Cameras that are away.
    away: BTreeSet<usize>,
    has_ended: bool,
    stop_reason: Option<String>,
    file: Option<PathBuf>,
}

impl Drop for Stage {
    /// Nothing hangs any longer, so that the session's end waits for nobody.
    fn drop(&mut self) {
        self.end_switches();
    }
}

impl Stage {
    fn open(campaign: &Campaign, schedule: &[(Duration, Fault)]) -> Result<Self, SessionError> {
        let config = &campaign.config;
        let backend = preflight::check(config)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let track_ids = wiring::track_ids(config);
        let mut plan = session::prepare(config, &backend, &track_ids, clock.as_ref())?;
        // The campaign ends it, and a trace after each failure would only cost time.
        (plan.duration, plan.trace_dir) = (None, None);
        let cameras = plan.cameras.len();
        let switches: Vec<_> = (0..cameras).map(|index| Switch::new(campaign.seed ^ index as u64)).collect();
        for index in Campaign::switched_cameras(schedule, cameras) {
            let camera = &mut plan.cameras[index];
            camera.open = switches[index].wrap(Arc::clone(&camera.open));
        }
        let pipeline = PipelineSwitch::default();
        for worker in &mut plan.pipelines {
            let stand_in = wiring::stand_in(config, &backend, &track_ids);
            worker.build = pipeline.wrap(Arc::clone(&worker.build), stand_in);
        }
        let sources = plan.cameras.iter().map(|camera| format!("camera {}", camera.name)).collect();
        let handle = SessionHandle::start(plan, Arc::clone(&clock))?;
        let (events, file) = (handle.subscribe(), handle.plane().newest_file());
        let watched = (0..=cameras).map(|_| Watched::default()).collect();
        Ok(Self {
            handle,
            events,
            clock,
            switches,
            pipeline,
            sources,
            watched,
            away: BTreeSet::new(),
            has_ended: false,
            stop_reason: None,
            file,
        })
    }

    fn cameras(&self) -> usize {
        self.switches.len()
    }

    /// Waits for an event, or a glance long, and takes in everything that has happened.
    fn look(&mut self) {
        match self.events.recv_timeout(GLANCE) {
            Ok(event) => self.note(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.has_ended = true,
        }
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
    }

    fn note(&mut self, event: Event) {
        let cause = || event.detail["cause"].as_str().map(str::to_owned);
        if event.kind == EventKind::SessionStopping {
            self.stop_reason = event.detail["reason"].as_str().map(str::to_owned);
            return;
        }
        let camera = self.sources.iter().position(|source| *source == event.source);
        let is_pipeline = event.source.starts_with("pipeline ");
        let Some(index) = camera.or(is_pipeline.then_some(self.cameras())) else { return };
        let watched = &mut self.watched[index];
        match event.kind {
            EventKind::GapOpened => {
                self.away.insert(index);
                watched.failed_at.get_or_insert(event.at);
                watched.cause = cause();
            }
            EventKind::GapClosed => {
                self.away.remove(&index);
                watched.back_at = Some(event.at);
                watched.missed += event.detail["frames_missed"].as_u64().unwrap_or(0);
            }
            EventKind::ChildFailed | EventKind::ChildDegraded | EventKind::ChildAbandoned if is_pipeline => {
                watched.failed_at.get_or_insert(event.at);
                watched.cause = cause();
                watched.back_at = None;
            }
            EventKind::ChildRestarted if is_pipeline => watched.back_at = Some(event.at),
            _ => {}
        }
    }

    fn wait(&mut self, time: Duration, stop: &AtomicBool) {
        let until = self.clock.now() + time;
        while self.clock.now() < until && !self.has_ended && !stop.load(Ordering::Relaxed) {
            self.look();
        }
    }

    fn ledger(&self) -> Vec<CameraSnapshot> {
        self.handle.plane().ledger.snapshot().cameras
    }

    /// Waits until every camera has sent a few frames and none is away.
    fn becomes_sound(&mut self, patience: Duration, stop: &AtomicBool) -> bool {
        let (since, until) = (self.ledger(), self.clock.now() + patience);
        loop {
            self.look();
            let all_send = || {
                let now = self.ledger();
                since.iter().zip(now).all(|(since, now)| now.captured >= since.captured + SOUND_FRAMES)
            };
            if self.away.is_empty() && all_send() {
                return true;
            }
            if self.has_ended || self.clock.now() > until || stop.load(Ordering::Relaxed) {
                return false;
            }
        }
    }

    /// Why the session is not sound.
    fn unsound(&self) -> String {
        let away: Vec<_> = self.away.iter().map(|&index| self.sources[index].as_str()).collect();
        match (&self.stop_reason, away.as_slice()) {
            (Some(reason), _) => format!("the session stopped: {reason}"),
            (None, []) if self.has_ended => "the session ended without a word".to_owned(),
            (None, []) => "a camera sends no frames".to_owned(),
            (None, away) => format!("{} is away", away.join(", ")),
        }
    }

    fn end_switches(&self) {
        self.switches.iter().for_each(Switch::end);
        self.pipeline.end();
    }

    /// Brings one fault about, waits for what is expected of it, ends it, and adds what it cost to `outcome`.
    fn trial(&mut self, fault: &Fault, patience: Duration, stop: &AtomicBool, outcome: &mut Outcome) {
        self.watched.iter_mut().for_each(|watched| *watched = Watched::default());
        let targets: Vec<usize> = match fault.target {
            Target::Camera(index) => vec![index],
            Target::AllCameras | Target::AnyCamera => (0..self.cameras()).collect(),
            Target::Pipeline => vec![self.cameras()],
        };
        let before = self.ledger();
        let begun_at = self.clock.now();
        if let Err(problem) = self.begin(fault, &targets) {
            outcome.problems.push(problem);
        }
        let mut over_at = fault.length.is_none().then_some(begun_at);
        loop {
            self.look();
            self.look_at_frames(&before, over_at);
            let (now, is_stopped) = (self.clock.now(), self.has_ended || stop.load(Ordering::Relaxed));
            let length = fault.length.unwrap_or_default();
            if over_at.is_none() && (is_stopped || now >= begun_at + length) {
                over_at = Some(now);
                if let Err(problem) = self.end(fault, &targets) {
                    outcome.problems.push(problem);
                }
            }
            let Some(over_at) = over_at else { continue };
            if is_stopped || self.is_answered(fault, &targets) || now > over_at + patience {
                break;
            }
        }
        // What strikes once has only to be let go of.
        self.end_switches();
        let is_sound = self.becomes_sound(patience, stop);
        self.judge(fault, &targets, &before, (begun_at, over_at.unwrap_or(begun_at)), outcome);
        if fault.expect == Expectation::Stop {
            if !self.has_ended {
                outcome.problems.push("the session did not stop".to_owned());
            }
        } else if !is_sound && !stop.load(Ordering::Relaxed) {
            outcome.problems.push(self.unsound());
        }
    }

    fn begin(&mut self, fault: &Fault, targets: &[usize]) -> Result<(), String> {
        match &fault.action {
            Action::Switch(Kind::Camera(kind)) => {
                targets.iter().for_each(|&index| self.switches[index].begin(*kind));
                Ok(())
            }
            Action::Switch(Kind::Pipeline(kind)) => {
                self.pipeline.begin(*kind);
                Ok(())
            }
            Action::Command { run, timeout, .. } => self.shell(run, *timeout),
        }
    }

    fn end(&mut self, fault: &Fault, targets: &[usize]) -> Result<(), String> {
        match &fault.action {
            Action::Switch(_) => {
                targets.iter().filter_map(|&index| self.switches.get(index)).for_each(Switch::end);
                Ok(())
            }
            Action::Command { undo: Some(undo), timeout, .. } => self.shell(undo, *timeout),
            Action::Command { undo: None, .. } => Ok(()),
        }
    }

    /// Has `sh` run a command, watching the session meanwhile.
    fn shell(&mut self, command: &str, timeout: Duration) -> Result<(), String> {
        let failed = |what: &dyn std::fmt::Display| Err(format!("command `{command}` {what}"));
        let mut shell = Command::new("sh");
        // In a group of its own, so that a time-out ends all that it started.
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut child = match shell.spawn() {
            Ok(child) => child,
            Err(error) => return failed(&format_args!("cannot be run: {error}")),
        };
        let until = self.clock.now() + timeout;
        loop {
            self.look();
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return failed(&ended(status)),
                Ok(None) if self.clock.now() < until => {}
                Ok(None) => {
                    kill(&mut child);
                    return failed(&format_args!("took longer than {timeout:?}"));
                }
                Err(error) => return failed(&format_args!("cannot be waited for: {error}")),
            }
        }
    }

    /// Notes when each camera first lost a frame, and its first good one after the fault was over.
    fn look_at_frames(&mut self, before: &[CameraSnapshot], over_at: Option<Timestamp>) {
        let (ledger, now) = (self.ledger(), self.clock.now());
        let lines = &self.handle.plane().cameras;
        for (index, watched) in self.watched.iter_mut().enumerate() {
            let (Some(line), Some(over_at)) = (lines.get(index), over_at) else {
                // A pipeline is not known by its frames.
                watched.good_at = over_at.filter(|_| index == lines.len());
                continue;
            };
            let newest = Timestamp(line.last_good_at.load(Ordering::Relaxed));
            watched.good_at = watched.good_at.or(Some(newest).filter(|&stamp| stamp > over_at));
        }
        for ((watched, before), after) in self.watched.iter_mut().zip(before).zip(&ledger) {
            if watched.lost_at.is_none() && Losses::between(before, after).total() > 0 {
                watched.lost_at = Some(now);
            }
        }
    }

    /// Whether what is expected of a fault has come about for all its targets.
    fn is_answered(&self, fault: &Fault, targets: &[usize]) -> bool {
        targets.iter().all(|&index| {
            let watched = &self.watched[index];
            match fault.expect {
                Expectation::Stop => false,
                Expectation::Gap => {
                    watched.failed_at.is_some() && watched.back_at.is_some() && !self.away.contains(&index)
                }
                Expectation::Drops => watched.lost_at.is_some() && watched.good_at.is_some(),
                Expectation::Nothing => watched.good_at.is_some(),
            }
        })
    }

    /// Holds what happened against what was expected.
    fn judge(
        &self,
        fault: &Fault,
        targets: &[usize],
        before: &[CameraSnapshot],
        (begun_at, over_at): (Timestamp, Timestamp),
        outcome: &mut Outcome,
    ) {
        let longest = |before: Option<f64>, from: Timestamp, to: Option<Timestamp>| {
            let millis = to.map(|to| to.saturating_since(from).as_secs_f64() * 1e3);
            before.into_iter().chain(millis).reduce(f64::max)
        };
        for &index in targets {
            let watched = &self.watched[index];
            let back_at = if watched.failed_at.is_some() { watched.back_at } else { watched.good_at };
            let noticed_at = watched.failed_at.or(watched.lost_at);
            outcome.detected_after_ms = longest(outcome.detected_after_ms, begun_at, noticed_at);
            // Who is back before the end was not away for as long as the fault lasted.
            let over_at = if back_at.is_some_and(|back_at| back_at < over_at) { begun_at } else { over_at };
            outcome.recovered_after_ms = longest(outcome.recovered_after_ms, over_at, back_at);
            let name = self.sources.get(index).map_or("the pipeline", String::as_str);
            let cause = watched.cause.as_deref().unwrap_or("no cause");
            let problem = match (fault.expect, watched.failed_at) {
                (Expectation::Gap, None) => Some(format!("{name} did not fail, or nobody noticed")),
                (Expectation::Drops | Expectation::Nothing, Some(_)) => {
                    Some(format!("{name} failed: {cause}"))
                }
                (Expectation::Drops, None) if watched.lost_at.is_none() => {
                    Some(format!("{name} lost no frame"))
                }
                (Expectation::Nothing, None) if watched.lost_at.is_some() => {
                    Some(format!("{name} lost frames"))
                }
                (Expectation::Stop, _) => None,
                _ if back_at.is_none() => Some(format!("{name} sent no good frame afterwards")),
                _ => None,
            };
            outcome.problems.extend(problem);
        }
        let mut lost_by_others = 0;
        for (index, (before, after)) in before.iter().zip(self.ledger()).enumerate() {
            let (losses, watched) = (Losses::between(before, &after), &self.watched[index]);
            let away = watched.failed_at.is_some();
            if targets.contains(&index) {
                // Damaged frames just before a gap are among those that it missed.
                let damaged = if away { 0 } else { losses.damaged };
                outcome.lost += losses.before_us + damaged + losses.in_pipeline + watched.missed;
            } else if fault.target == Target::Pipeline {
                outcome.lost += losses.in_pipeline;
                lost_by_others += losses.before_us + losses.damaged + watched.missed;
            } else {
                lost_by_others += losses.total() + watched.missed;
            }
            if away && !targets.contains(&index) {
                let cause = watched.cause.as_deref().unwrap_or("no cause");
                outcome.problems.push(format!("{} failed too: {cause}", self.sources[index]));
            }
        }
        if lost_by_others > 0 {
            outcome.problems.push(format!("other cameras lost {lost_by_others} frames"));
        }
        outcome.lost_by_others += lost_by_others;
    }

    /// Resources once all that ended has gone: threads take a moment.
    fn settled_resources(
        &mut self,
        campaign: &Campaign,
        stop: &AtomicBool,
        before: Resources,
        problems: &mut Vec<String>,
    ) -> Resources {
        let until = self.clock.now() + campaign.patience;
        loop {
            let now = resources(campaign, problems);
            if now.has_no_more_than(&before)
                || self.clock.now() > until
                || self.has_ended
                || stop.load(Ordering::Relaxed)
            {
                return now;
            }
            self.look();
        }
    }

    /// Ends the session and writes down what its report says of the rows from `first_row` on.
    fn close(&mut self, matrix: &mut Matrix, first_row: usize) {
        self.end_switches();
        self.handle.stop("the campaign is over");
        let report = loop {
            let has_ended = self.handle.has_ended();
            let report: Option<SessionReport> = self.handle.wait(GLANCE);
            if report.is_some() || has_ended {
                break report;
            }
        };
        let Some(report) = report else {
            matrix.problems.push("the session ended without a report".to_owned());
            return;
        };
        for row in &mut matrix.outcomes[first_row..] {
            row.ledger_closed = Some(report.imbalances.is_empty());
        }
        matrix.problems.extend(report.imbalances.iter().map(ToString::to_string));
        for recording in report.recordings {
            if let Err(cause) = recording.outcome {
                matrix.problems.push(format!("recording: {cause}"));
            }
        }
    }
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or("was ended by a signal".to_owned(), |code| format!("ended with {code}"))
}

fn kill(child: &mut Child) {
    // Both fail only when it has ended meanwhile.
    kill_process_group(Pid::from_child(child), Signal::KILL).ok();
    child.wait().ok();
}

/// Frames of one camera that were lost between two moments.
struct Losses {
    /// Lost by the driver, without a slot, or without a place in the index.
    before_us: u64,
    /// Marked by the driver as damaged.
    damaged: u64,
    /// Without a result because the pipeline failed on them.
    in_pipeline: u64,
}

impl Losses {
    fn between(before: &CameraSnapshot, after: &CameraSnapshot) -> Self {
        let dropped = |consumer: Consumer, reasons: &[DropReason]| -> u64 {
            let (before, after) =
                (&before.consumers[consumer as usize].dropped, &after.consumers[consumer as usize].dropped);
            reasons.iter().map(|&reason| after[reason as usize] - before[reason as usize]).sum()
        };
        let in_index: Vec<_> =
            DropReason::ALL.into_iter().filter(|&reason| reason != DropReason::Unfinished).collect();
        Self {
            before_us: after.driver_lost - before.driver_lost
                + dropped(Consumer::Pipeline, &[DropReason::NoSlot, DropReason::Full])
                + dropped(Consumer::Index, &in_index),
            damaged: dropped(Consumer::Pipeline, &[DropReason::Damaged, DropReason::Undecodable]),
            in_pipeline: dropped(Consumer::Pipeline, &[DropReason::Failed, DropReason::Crashed]),
        }
    }

    fn total(&self) -> u64 {
        self.before_us + self.damaged + self.in_pipeline
    }
}
