//! A program of its own with a session inside: `cargo run --release --example embed -- [CONFIG] [SECONDS]`.
//!
//! Shows who is seen and how wide their mouths are open, sets a marker, and ends by letting go of the session.

#![allow(clippy::disallowed_methods, reason = "a program of its own has a clock of its own")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use youquanti::models::blendshapes::NAMES;
use youquanti::{Command, Config, Next, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().map_or_else(|| PathBuf::from("config/examples/demo.toml"), PathBuf::from);
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let mut config = Config::load(&path)?;
    config.recording.enabled = false;

    // Returns when all cameras deliver. Everything runs on threads of the session's own.
    let session = Session::start(&config)?;
    let mut results = session.results();
    session.control().execute_and_wait(Command::Mark { text: "hello".to_owned(), lsl_time: None })?;

    let jaw = NAMES.iter().position(|&name| name == "jawOpen").ok_or("no such blendshape")?;
    let (begun_at, mut frames, mut faces) = (Instant::now(), 0, 0);
    while begun_at.elapsed() < Duration::from_secs(seconds) {
        match results.next(Duration::from_millis(200)) {
            Next::Item(result) => {
                frames += 1;
                for (face, who) in result.faces.faces.iter().zip(&result.update.participants) {
                    faces += 1;
                    if let Some(who) = who {
                        println!(
                            "{who} in camera {}: jaw {:.2}",
                            result.faces.meta.camera, face.blendshapes[jaw]
                        );
                    }
                }
            }
            Next::TimedOut => {}
            Next::Ended => break,
        }
    }
    println!(
        "{frames} frames with {faces} faces; {} results came faster than they were printed",
        results.missed()
    );
    drop(session); // ends it in good order; a thread that hangs in a driver is left behind after some seconds
    println!("ended");
    Ok(())
}
