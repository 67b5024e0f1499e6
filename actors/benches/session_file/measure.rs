//! What is read of the machine, and how figures are shown.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use youquanti_actors::clock::SystemClock;
use youquanti_models::{Clock, Timestamp};

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// Time that a thread has spent on a processor, by its folder in `/proc`.
pub(crate) fn processor_time(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// The same of this thread, which runs: `schedstat` is as of when a thread last made way.
pub(crate) fn own_processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A number of a file of `/proc/self`, by the name before it.
pub(crate) fn proc_number(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(Path::new("/proc/self").join(file)).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Memory of this process that is not the page cache's, bytes.
pub(crate) fn resident_bytes() -> u64 {
    proc_number("status", "VmRSS:") * 1024
}

/// Durations, sorted.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Milliseconds that `share` of them do not exceed.
    pub(crate) fn millis(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3
    }
}

/// Shows a table in Markdown, and writes what it says as JSON to `target/benches/session_file_<part>.json`.
pub(crate) fn show(part: &str, columns: &[&str], rows: &[Vec<Value>]) {
    println!("\n| {} |", columns.join(" | "));
    println!("|{}", " --- |".repeat(columns.len()));
    for row in rows {
        let cells: Vec<_> = row.iter().map(cell).collect();
        println!("| {} |", cells.join(" | "));
    }
    let records = rows.iter().map(|row| {
        columns
            .iter()
            .map(|&column| column.to_owned())
            .zip(row.iter().cloned())
            .collect::<serde_json::Map<_, _>>()
    });
    let text = serde_json::json!({ "part": part, "rows": records.collect::<Vec<_>>() }).to_string();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("benches");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("session_file_{part}.json"));
    fs::write(&path, text).unwrap();
    println!("\n{}", path.display());
}

fn cell(value: &Value) -> String {
    match (value.as_u64(), value.as_f64(), value.as_str()) {
        (Some(whole), ..) => whole.to_string(),
        (None, Some(number), _) if number.abs() >= 100.0 => format!("{number:.0}"),
        (None, Some(number), _) if number.abs() >= 10.0 => format!("{number:.1}"),
        (None, Some(number), _) => format!("{number:.2}"),
        (_, _, Some(text)) => text.to_owned(),
        _ => String::new(),
    }
}
