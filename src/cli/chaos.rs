//! `youquanti chaos`: a session that is broken on purpose, and the matrix of what that cost.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use youquanti::chaos::{self, Campaign, CampaignError, Matrix, Outcome, Progress};
use youquanti::server::Server;
use youquanti::{Config, Control};
use youquanti_config::LogLevel;

use super::doors::{self, DoorError};
use super::run::{Signals, start_log};
use super::{Exit, exit_of, fail, fail_config, table};

pub(crate) const AFTER_HELP: &str = "\
A campaign is a TOML file: a session's configuration, and faults to try on it.

  version = 1
  config = \"my-experiment.toml\"        # or the configuration itself, as [config]

  [[fault]]                            # simulated: `youquanti chaos --faults` lists the kinds
  kind = \"stall\"
  camera = \"left\"                      # or \"all\" at once; without it, one that the seed decides
  for = \"3s\"
  expect = \"gap\"                       # or \"drops\" (counted losses, no failure), \"nothing\", \"stop\"

  [[fault]]                            # real: what makes a real camera fail, and what ends that
  name = \"hub port off\"
  camera = \"left\"
  run = \"uhubctl -l 1-1 -p 2 -a off\"
  undo = \"uhubctl -l 1-1 -p 2 -a on\"
  for = \"2s\"
  repeat = 50

Also: title, seed, pause and patience for all faults, order = \"given\" instead of shuffled by the seed, and timeout
of a command. A fault has held when what was expected came about, no other camera lost a frame, and every captured
frame is accounted for.

Examples:
  youquanti chaos                                        every simulated fault on four simulated cameras, two minutes
  youquanti chaos --seed 7 --markdown fault-matrix.md    in another order, and the table into a file
  youquanti chaos my-campaign.toml --ui                  and watch it in a browser
  youquanti chaos my-campaign.toml --json";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The campaign, a TOML file; without it, the built-in one on simulated cameras.
    campaign: Option<PathBuf>,
    /// Decides order, pauses and which camera fails, whatever the campaign says.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the matrix as JSON; progress stays on standard error.
    #[arg(long)]
    json: bool,
    /// Write the matrix into this file, in place of its section of the same title or at its end.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Serve the dashboard meanwhile, at the port that `[server]` of the campaign's configuration names.
    #[arg(long)]
    ui: bool,
    /// List the faults that can be simulated, and do nothing else.
    #[arg(long, exclusive = true)]
    faults: bool,
}

pub(crate) fn execute(args: &Args) -> Exit {
    if args.faults {
        chaos::Kind::all().for_each(|kind| outln!("{:<16} {}", kind.name(), kind.about()));
        return Exit::Fine;
    }
    let campaign = match &args.campaign {
        Some(path) => Campaign::load(path),
        None => Campaign::built_in(),
    };
    let mut campaign = match campaign {
        Ok(campaign) => campaign,
        Err(CampaignError::Config(errors)) => return fail_config(Exit::Usage, &errors, args.json),
        Err(error) => return fail(Exit::Usage, &error),
    };
    campaign.seed = args.seed.unwrap_or(campaign.seed);
    // Failures are what is wanted here, and the matrix tells of them.
    campaign.config.log.level = LogLevel::Error;
    start_log(&campaign.config);
    leave_injected_panics_out();
    let signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => return fail(Exit::Internal, &error),
    };
    let mut window = match Window::open(args.ui.then_some(&campaign.config)) {
        Ok(window) => window,
        Err(error) => return fail(Exit::Usage, &error),
    };
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Runs(session) => window.show(session),
        Progress::Begins { number, of, fault, target } => eprint!("[{number:>2}/{of}] {fault} on {target}: "),
        Progress::Over(outcome) => tell_outcome(outcome),
    };
    let matrix = match chaos::run(&campaign, signals.end(), &mut tell) {
        Ok(matrix) => matrix,
        Err(youquanti::SessionError::Preflight(errors)) => {
            return fail_config(Exit::Missing, &errors, args.json);
        }
        Err(error) => return fail(exit_of(&error), &error),
    };
    if args.json {
        match serde_json::to_string_pretty(&matrix) {
            Ok(text) => outln!("{text}"),
            Err(error) => return fail(Exit::Internal, &error),
        }
    } else {
        out!("{}", to_text(&matrix));
    }
    if let Some(path) = &args.markdown
        && let Err(error) = write_markdown(&matrix, path)
    {
        eprintln!("error: {} cannot be written: {error}", path.display());
        return Exit::Usage;
    }
    if matrix.complaints().is_empty() { Exit::Fine } else { Exit::Degraded }
}

/// Panics that are wanted are no news; a trace of each would cost more memory than all faults together.
fn leave_injected_panics_out() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload_as_str().is_some_and(|text| text.starts_with("injected panic")) {
            usual(info);
        }
    }));
}

/// The dashboard of a campaign, if it is wanted.
struct Window<'a> {
    config: Option<&'a Config>,
    server: Option<Server>,
    /// The server shows a session already, and a server shows one only.
    is_taken: bool,
}

impl<'a> Window<'a> {
    fn open(config: Option<&'a Config>) -> Result<Self, DoorError> {
        let server = config.map(doors::open).transpose()?.flatten();
        Ok(Self { config, server, is_taken: false })
    }

    fn show(&mut self, session: &Control) {
        if self.is_taken
            && let Some(config) = self.config
        {
            // The port is free only once the server before has closed it.
            self.server = None;
            match doors::open(config) {
                Ok(server) => self.server = server,
                Err(error) => eprintln!("warning: no dashboard of this session: {error}"),
            }
        }
        self.is_taken = true;
        if let Some(server) = &self.server {
            server.attach(session.clone());
        }
    }
}

fn tell_outcome(outcome: &Outcome) {
    if !outcome.problems.is_empty() {
        return eprintln!("NOT AS EXPECTED: {}", outcome.problems.join("; "));
    }
    let millis = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.0} ms"));
    eprintln!(
        "noticed after {}, back after {}, {} lost",
        millis(outcome.detected_after_ms),
        millis(outcome.recovered_after_ms),
        outcome.lost
    );
}

fn to_text(matrix: &Matrix) -> String {
    let rows: Vec<Vec<String>> = matrix.outcomes.iter().map(|outcome| outcome.cells().to_vec()).collect();
    let (before, after) = (matrix.before, matrix.after);
    let mut text =
        format!("\n{}, seed {}\n\n{}", matrix.title, matrix.seed, table::render(&Outcome::HEADS, &rows));
    text.push_str(
        "\n  detected: from the fault's beginning to the failure or the first counted loss; recovered: from its\n  \
         end, or from its beginning if it strikes once, to the first good frame; others: frames lost by all other\n  \
         cameras, which must be 0\n",
    );
    text.push_str(&format!(
        "\nbefore: {} threads, {} descriptors, {} of memory, {} shared segments\n after: {} threads, {} descriptors, {} of memory, {} shared segments\n",
        before.threads,
        before.descriptors,
        table::bytes(before.resident_bytes),
        before.segments,
        after.threads,
        after.descriptors,
        table::bytes(after.resident_bytes),
        after.segments
    ));
    for file in &matrix.files {
        text.push_str(&format!("recorded: {}\n", file.display()));
    }
    let complaints = matrix.complaints();
    if complaints.is_empty() {
        text.push_str(&format!("\nall {} faults went as expected\n", matrix.outcomes.len()));
    } else {
        text.push_str("\nNOT as expected:\n");
        complaints.iter().for_each(|complaint| text.push_str(&format!("  {complaint}\n")));
    }
    text
}

fn write_markdown(matrix: &Matrix, path: &Path) -> std::io::Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    fs::write(path, matrix.put_into(&before))
}
