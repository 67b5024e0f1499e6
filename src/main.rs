//! The program `youquanti`: reads the command line, and turns what happens into an exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::Cli::parse().execute().into()
}
