//! What writing a session file costs, and whether it stays so. One part each, as a table and as JSON:
//!
//!     cargo bench -p youquanti-actors --bench session_file -- PART [ARGUMENT…]
//!
//!     cameras [SECONDS]        processor time of a session of 8 cameras at 1080p30 with 2 faces each, by thread
//!     rates [SESSION.h5]       rows a second, beside h5py doing the same work
//!     layouts [SESSION.h5]     filter and chunk size against bytes, processor time, longest wait
//!     flushes                  how long a flush takes, with and without waiting for the disk
//!     hours [HOURS [deflate]]  the recorder on an accelerated clock: size, memory, flushes, first tenth and last
//!
//! Without a part: all but `hours`. Rows are those of a recorded session, over and over, if one is given, else made up.
//! Files go to the folder for temporary files (`TMPDIR`), whose disk is what is measured.
#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod cameras;
mod flushes;
mod hours;
mod layouts;
mod measure;
mod rates;
mod rows;
#[path = "../../tests/session_rows/mod.rs"]
mod session_rows;
#[path = "../../tests/session_stub/mod.rs"]
mod session_stub;

use std::path::Path;

use rows::Rows;

fn main() {
    // Cargo says `--bench` to every bench.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no number"));
    match arguments[..] {
        [] => {
            cameras::run(20.0);
            rates::run(&Rows::made_up());
            layouts::run(&Rows::made_up());
            flushes::run();
        }
        ["cameras"] => cameras::run(60.0),
        ["cameras", seconds] => cameras::run(number(seconds)),
        ["rates"] => rates::run(&Rows::made_up()),
        ["rates", session] => rates::run(&Rows::of(Path::new(session))),
        ["layouts"] => layouts::run(&Rows::made_up()),
        ["layouts", session] => layouts::run(&Rows::of(Path::new(session))),
        ["flushes"] => flushes::run(),
        ["hours"] => hours::run(8.0, false),
        ["hours", hours] => hours::run(number(hours), false),
        ["hours", hours, "deflate"] => hours::run(number(hours), true),
        _ => panic!("unknown: {arguments:?}; the parts are cameras, rates, layouts, flushes, hours"),
    }
}
