//! `youquanti inspect`: what is in a session file, for people, as JSON, or as a picture.

use std::path::PathBuf;

use youquanti::actors::session_file::SessionReader;
use youquanti::plot::{Form, PlotError, write};

use super::{Exit, fail};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session file, HDF5.
    file: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Also draw it: cameras with gaps, faces, blendshapes, latencies, losses. An existing picture is written over.
    #[arg(long, value_name = "PNG or SVG")]
    plot: Option<PathBuf>,
    /// Show this many of the newest events.
    #[arg(long, value_name = "N", default_value_t = 10)]
    events: u64,
}

pub(crate) fn execute(args: &Args) -> Exit {
    match inspect(args) {
        Ok(()) => Exit::Fine,
        Err(error) => {
            let exit = if matches!(error, PlotError::Draw(_)) { Exit::Internal } else { Exit::Usage };
            fail(exit, &error)
        }
    }
}

fn inspect(args: &Args) -> Result<(), PlotError> {
    // A name that asks for no known form is wrong before anything is read.
    args.plot.as_deref().map(Form::of).transpose()?;
    let reader = SessionReader::open(&args.file)?;
    let inspection = reader.inspect(args.events)?;
    if let Some(path) = &args.plot {
        write(&reader, &inspection, path)?;
    }
    if args.json {
        outln!("{:#}", inspection.to_json());
    } else {
        out!("{inspection}");
    }
    Ok(())
}
