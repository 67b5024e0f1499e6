//! Writes a session file with rows of every kind until it is killed, and says after each flush how many frames of each
//! camera are safe. What the rows hold follows from their numbers: `actors/tests/python/check_rows.py` checks them.
//!
//!     session-rows FILE MILLISECONDS_BETWEEN_FLUSHES [deflate]
#![allow(clippy::unwrap_used, reason = "a tool of tests")]

#[path = "../tests/session_rows/mod.rs"]
mod session_rows;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use youquanti_actors::session_file::Compression;

const USAGE: &str = "usage: session-rows FILE MILLISECONDS_BETWEEN_FLUSHES [deflate]";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, flush_ms, rest @ ..] = &args[..] else { return Err(USAGE.into()) };
    let compression = match rest {
        [] => Compression::None,
        [word] if word == "deflate" => Compression::Deflate,
        _ => return Err(USAGE.into()),
    };
    let flush_every = Duration::from_millis(flush_ms.parse()?);
    Ok(session_rows::write_for_ever(Path::new(path), compression, flush_every, std::io::stdout())?)
}
