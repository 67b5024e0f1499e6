//! Writers that are killed at random moments: every file opens as it is with a stock reader, holds all that was
//! flushed, and opens plainly once it has been recovered. `KILLS=1000` does it a thousand times.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_rows;

use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use session_rows::*;
use youquanti_actors::clock::SystemClock;
use youquanti_actors::dice::Dice;
use youquanti_actors::session_file::{Compression, SessionReader, recover, recovered_path};
use youquanti_models::time::{Clock, Timestamp};

/// Names the file to a process that is to be killed.
const VICTIM: &str = "YOUQUANTI_TEST_VICTIM";

/// Between two flushes of the victim.
const FLUSH_EVERY: Duration = Duration::from_millis(20);

/// Not a test, but what is killed: writes rows until then, and says of each flush when it began and what is safe after it.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let compression = match std::env::var_os("DEFLATE") {
        Some(_) => Compression::Deflate,
        None => Compression::None,
    };
    write_for_ever(Path::new(&path), compression, FLUSH_EVERY, std::io::stdout()).unwrap();
}

/// What a kill left.
struct Killed {
    path: PathBuf,
    /// Frames that the victim had been told were safe.
    safe: u64,
    /// From when to when each flush took; the last one may not have ended.
    flushes: Vec<(Timestamp, Option<Timestamp>)>,
    killed_at: Timestamp,
}

impl Killed {
    /// Milliseconds, from the last row that is in the file to the kill, in which the disk was waited for.
    fn waited_ms(&self, last_row: Timestamp) -> f64 {
        let of = |&(from, to): &(Timestamp, Option<Timestamp>)| {
            to.unwrap_or(self.killed_at).min(self.killed_at).saturating_since(from.max(last_row))
        };
        self.flushes.iter().map(of).sum::<Duration>().as_secs_f64() * 1e3
    }
}

/// Starts a victim and kills it after so many milliseconds.
fn kill(path: PathBuf, after_ms: u64, is_compressed: bool) -> Killed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["victim", "--exact", "--nocapture"]).env(VICTIM, &path);
    if is_compressed {
        command.env("DEFLATE", "1");
    }
    let mut victim = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(victim.stdout.take().unwrap());
    std::thread::park_timeout(Duration::from_millis(after_ms));
    let killed_at = SystemClock.now();
    victim.kill().unwrap();
    assert_eq!(victim.wait().unwrap().code(), None, "it was killed, and did not end by itself");
    let mut killed = Killed { path, safe: 0, flushes: Vec::new(), killed_at };
    for line in out.lines() {
        let line = line.unwrap();
        let nanos = |word: Option<&str>| Some(Timestamp(word?.parse().ok()?));
        let mut words = line.split(' ');
        match (words.next(), killed.flushes.last_mut()) {
            (Some("flush"), _) => {
                killed.flushes.extend(nanos(words.next()).map(|began| (began, None)));
            }
            (Some("safe"), Some((_, ended))) => {
                killed.safe = words.next().unwrap().parse().unwrap();
                *ended = nanos(words.next());
            }
            _ => {}
        }
    }
    killed
}

/// Has h5py look at each file, opened plainly or with `swmr=True`; frames of each camera by file.
fn check_with_h5py(how: &str, files: &[(PathBuf, u64)]) -> Vec<Vec<u64>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make test`, or `tools/setup.sh` once", python.display());
    let mut checker = Command::new(python)
        .arg(root.join("tests/python/check_rows.py"))
        .arg(how)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let list: String = files.iter().map(|(path, least)| format!("{}\t{least}\n", path.display())).collect();
    checker.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let output = checker.wait_with_output().unwrap();
    assert!(output.status.success(), "check_rows.py {how} found a file that is not whole");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(' ').map(|count| count.parse().unwrap()).collect()).collect()
}

#[test]
fn killed_at_any_moment_a_file_opens_and_holds_what_was_flushed() {
    let kills: usize = std::env::var("KILLS").map_or(50, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("SEED").map_or(1, |text| text.parse().unwrap());
    let mut dice = Dice::new(seed);
    let (mut without_file, mut rows) = (0, 0);
    let (mut lost_ms, mut working_ms, mut flush_ms) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    while done < kills {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let batch: Vec<_> = (done..kills.min(done + 25))
            .map(|n| kill(folder.path().join(format!("{n}.h5")), dice.below(400) as u64, n % 5 == 4))
            .collect();
        done += batch.len();
        let (killed, none): (Vec<_>, Vec<_>) = batch.into_iter().partition(|killed| killed.path.exists());
        assert!(none.iter().all(|killed| killed.safe == 0));
        without_file += none.len();

        let files: Vec<_> = killed.iter().map(|killed| (killed.path.clone(), killed.safe)).collect();
        let counts = check_with_h5py("swmr", &files);
        // Of each frame there are a result and a row of video, too.
        rows += counts.iter().map(|counts| 3 * (counts[0] + counts[1]) + counts[2]).sum::<u64>();

        for Killed { path, .. } in &killed {
            let before = std::fs::read(path).unwrap();
            let recovery =
                recover(path, &recovered_path(path), &mut |_, _| ControlFlow::Continue(())).unwrap();
            assert_eq!(recovery.lost, [""; 0], "nothing that was committed is lost");
            assert!(std::fs::read(path).unwrap() == before, "the original is as it was");
        }
        let copies: Vec<_> = files.iter().map(|(path, safe)| (recovered_path(path), *safe)).collect();
        // A flush that was in its journal, and not yet in the file, is in the copy.
        for (copy, file) in check_with_h5py("plain", &copies).iter().zip(&counts) {
            assert!(copy.iter().zip(file).all(|(copy, file)| copy >= file), "{copy:?} of {file:?}");
        }

        for killed in &killed {
            let reader = SessionReader::open(&killed.path).unwrap();
            let frames = reader.frame_count(0);
            assert!(frames >= killed.safe);
            if let Some(last) = frames.checked_sub(1) {
                let last = Timestamp(reader.frames(0, last..frames).unwrap()[0].captured_at_ns);
                let lost = killed.killed_at.saturating_since(last).as_secs_f64() * 1e3;
                lost_ms.push(lost);
                working_ms.push(lost - killed.waited_ms(last));
            }
            let ended = killed.flushes.iter().filter_map(|&(from, to)| Some(to?.saturating_since(from)));
            flush_ms.extend(ended.map(|took| took.as_secs_f64() * 1e3));
        }
    }
    println!(
        "{kills} kills: {without_file} before there was a file, all others open as they are and plainly after \
         recover; {rows} rows checked, none missing that had been flushed; flushed every {} ms; in ms: from the last row to \
         the kill {}, of that outside of flushes {}; flushes took {}",
        FLUSH_EVERY.as_millis(),
        spread(lost_ms),
        spread(working_ms),
        spread(flush_ms)
    );
}

/// Figures in words; none of nothing.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let Some(most) = values.last() else { return "none".to_owned() };
    let share = |p: usize| values[(values.len() * p / 100).min(values.len() - 1)];
    format!("p50 {:.0}, p99 {:.0}, max {most:.0}", share(50), share(99))
}
