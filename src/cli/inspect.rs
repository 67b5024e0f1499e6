//! `youquanti inspect`: what is in a session file, for people or as JSON.

use std::path::PathBuf;

use youquanti::actors::session_file::SessionReader;

use super::{Exit, fail};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session file, HDF5.
    file: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Show this many of the newest events.
    #[arg(long, value_name = "N", default_value_t = 10)]
    events: u64,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let inspected = SessionReader::open(&args.file).and_then(|reader| reader.inspect(args.events));
    match inspected {
        Err(error) => fail(Exit::Usage, &error),
        Ok(inspection) if args.json => match serde_json::to_string_pretty(&inspection) {
            Ok(text) => {
                outln!("{text}");
                Exit::Fine
            }
            Err(error) => fail(Exit::Internal, &error),
        },
        Ok(inspection) => {
            out!("{inspection}");
            Exit::Fine
        }
    }
}
