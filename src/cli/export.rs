//! `youquanti export`: a session file in other forms.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use youquanti::actors::session_file::SessionReader;
use youquanti::export::{ExportError, ExportedFile, Form, Request, export};

use super::table::bytes;
use super::{Exit, fail};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session file, HDF5; also one that is still written, or was cut off.
    file: PathBuf,
    /// In which form.
    #[arg(long, value_name = "FORM")]
    to: Form,
    /// The folder for what is made; without it, that of the session file.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write over files that are there.
    #[arg(long)]
    force: bool,
    /// Leave out the 478 landmarks of each face: nine tenths of the data.
    #[arg(long)]
    no_landmarks: bool,
    /// Print what was made as JSON; progress stays on standard error.
    #[arg(long)]
    json: bool,
}

pub(crate) const AFTER_HELP: &str = "\
What is made, of a session file S.h5:
  nwb      S_P1.nwb, S_P2.nwb, …: one for each participant
  xdf      S.xdf: the streams as Lab Streaming Layer carries them
  csv      S_csv/frames.csv, faces.csv, blendshapes.csv, …
  parquet  S_parquet/frames.parquet, …: the same tables";

pub(crate) fn execute(args: &Args) -> Exit {
    let request =
        Request { form: args.to, out: args.out.clone(), force: args.force, landmarks: !args.no_landmarks };
    let mut line = ProgressLine::new();
    let made = SessionReader::open(&args.file)
        .map_err(ExportError::from)
        .and_then(|reader| export(&reader, &request, &mut |share| line.show(share)));
    line.end();
    match made {
        Err(error) => {
            let exit = match error {
                ExportError::Hdf5 { .. } | ExportError::Parquet { .. } => Exit::Internal,
                _ => Exit::Usage,
            };
            fail(exit, &error)
        }
        Ok(files) => {
            print(args, &files);
            Exit::Fine
        }
    }
}

fn print(args: &Args, files: &[ExportedFile]) {
    if args.json {
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                let rows: serde_json::Map<_, _> =
                    file.rows.iter().map(|(name, rows)| (name.clone(), json!(rows))).collect();
                json!({ "path": file.path, "bytes": file.bytes, "rows": rows })
            })
            .collect();
        outln!("{:#}", json!({ "form": args.to, "files": files }));
        return;
    }
    for file in files {
        let rows: Vec<_> = file.rows.iter().map(|(name, rows)| format!("{rows} {name}")).collect();
        outln!("{}  {}  {}", file.path.display(), bytes(file.bytes), rows.join(", "));
    }
}

/// A line on standard error that says how far it is, once it has taken two seconds.
struct ProgressLine {
    started: Instant,
    told: Option<Instant>,
    is_terminal: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { started: now(), told: None, is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, share: f64) {
        let pause = Duration::from_millis(if self.is_terminal { 200 } else { 5000 });
        let waited = self.told.unwrap_or(self.started).elapsed();
        if self.started.elapsed() < Duration::from_secs(2) || (self.told.is_some() && waited < pause) {
            return;
        }
        self.told = Some(now());
        let text = format!("exported {:.0} %", share * 100.0);
        let (before, after) = if self.is_terminal { ("\r", "") } else { ("", "\n") };
        // Progress that nobody can read is no reason to stop.
        write!(io::stderr(), "{before}{text}{after}").ok();
    }

    fn end(&self) {
        if self.told.is_some() && self.is_terminal {
            eprintln!();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "how long somebody has waited is no time of a session")]
fn now() -> Instant {
    Instant::now()
}
