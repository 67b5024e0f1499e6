//! `youquanti recover`: a finished copy of a session file that was never closed, or that was damaged.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::json;
use youquanti::actors::session_file::{Recovery, SessionFileError, recover, recovered_path};

use super::run::Signals;
use super::table::bytes;
use super::{Exit, fail};

pub(crate) const AFTER_HELP: &str = "\
The original is never changed. A file whose program was killed loses nothing that had been flushed. Of a file that
was cut off or damaged, all that can be read is saved, and the rest is named.

Examples:
  youquanti recover sessions/pilot_20260131T235959.123Z.h5
  youquanti recover damaged.h5 --to saved.h5 --json";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session file, HDF5.
    file: PathBuf,
    /// Where the copy goes; must not exist. Without it: beside the original, as NAME.recovered.h5.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Print what was saved and what was lost as JSON; progress stays on standard error.
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let to = args.to.clone().unwrap_or_else(|| recovered_path(&args.file));
    let signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => return fail(Exit::Internal, &error),
    };
    let on_terminal = std::io::stderr().is_terminal();
    let mut shown = 0;
    let recovered = recover(&args.file, &to, &mut |done, of| {
        let percent = (done * 100).checked_div(of).unwrap_or(100);
        // A line for people who wait, ten for a log.
        if percent != shown && (on_terminal || percent % 10 == 0) {
            shown = percent;
            let start = if on_terminal { "\r" } else { "" };
            eprint!("{start}recovering: {percent:3} % of {of} rows{}", if on_terminal { "" } else { "\n" });
            std::io::stderr().flush().ok();
        }
        if signals.end().load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if on_terminal && shown > 0 {
        eprintln!();
    }
    match recovered {
        Ok(recovery) => {
            if args.json {
                outln!("{:#}", json!(recovery));
            } else {
                out!("{}", to_text(&recovery));
            }
            if recovery.lost.is_empty() { Exit::Fine } else { Exit::Degraded }
        }
        Err(error) => {
            if args.json {
                outln!("{:#}", json!({ "from": args.file, "error": error.to_string() }));
            }
            let exit = match error {
                SessionFileError::Hdf5 { .. } => Exit::Internal,
                _ => Exit::Usage,
            };
            fail(exit, &error)
        }
    }
}

fn to_text(recovery: &Recovery) -> String {
    let rows: u64 = recovery.tables.iter().map(|table| table.rows).sum();
    let mut text = format!("{}, {}: {rows} rows\n", recovery.to.display(), bytes(recovery.bytes));
    if recovery.lost.is_empty() {
        text.push_str("nothing that had been committed is lost\n");
    }
    for lost in &recovery.lost {
        text.push_str(&format!("lost: {lost}\n"));
    }
    text
}
