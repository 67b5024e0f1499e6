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
const FLUSH_NANOS: u64 = 20_000_000;

/// Faces of each frame, cameras.
const FACES: u32 = 2;
const CAMERAS: [&str; 2] = ["left", "right"];

/// Not a test, but what is killed: writes rows until then, and says after each flush how many frames are safe.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let compression = match std::env::var_os("DEFLATE") {
        Some(_) => Compression::Deflate,
        None => Compression::None,
    };
    let mut writer = create(Path::new(&path), &CAMERAS, options(compression)).unwrap();
    let clock = SystemClock;
    let mut flushed_at = clock.now();
    let mut out = std::io::stdout();
    for seq in 0.. {
        for camera in 0..CAMERAS.len() as u16 {
            let now = clock.now();
            let mut found = found(camera, seq, FACES);
            (found.meta.captured_at, found.meta.received_at) = (now, now);
            writer.append_frame(&found.meta, None).unwrap();
            writer.append_faces(&found, &participants(FACES)).unwrap();
        }
        writer.append_event(clock.now(), "victim", "event", &format!("{{\"n\":{seq}}}")).unwrap();
        let now = clock.now();
        if now.0 - flushed_at.0 >= FLUSH_NANOS {
            flushed_at = now;
            writer.flush(now).unwrap();
            writeln!(out, "safe {}", seq + 1).unwrap();
        }
        // About as many rows as many cameras bring.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// What a kill left.
struct Killed {
    path: PathBuf,
    is_compressed: bool,
    /// Frames that the victim had been told were safe.
    safe: u64,
    killed_at: Timestamp,
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
    let safe = out.lines().filter_map(|line| line.unwrap().strip_prefix("safe ")?.parse().ok()).last();
    Killed { path, is_compressed, safe: safe.unwrap_or(0), killed_at }
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
    let (mut without_file, mut lost_ms, mut rows) = (0, Vec::new(), 0);
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

        // Faces of an incomplete compressed chunk wait on; frames do not.
        let plain = killed.iter().filter(|killed| !killed.is_compressed);
        let plain: Vec<_> = plain.map(|killed| (killed.path.clone(), killed.safe)).collect();
        let counts = check_with_h5py("swmr", &plain);
        rows += counts.iter().flatten().sum::<u64>() * (2 + u64::from(FACES));

        for Killed { path, .. } in &killed {
            let before = std::fs::read(path).unwrap();
            let recovery =
                recover(path, &recovered_path(path), &mut |_, _| ControlFlow::Continue(())).unwrap();
            assert_eq!(recovery.lost, [""; 0], "nothing that was committed is lost");
            assert!(std::fs::read(path).unwrap() == before, "the original is as it was");
        }
        let plain_copies: Vec<_> = plain.iter().map(|(path, safe)| (recovered_path(path), *safe)).collect();
        assert_eq!(check_with_h5py("plain", &plain_copies), counts, "the copy has as many rows");

        for killed in &killed {
            let reader = SessionReader::open(&killed.path).unwrap();
            let frames = reader.frame_count(0);
            assert!(frames >= killed.safe);
            if let Some(last) = frames.checked_sub(1) {
                let last = reader.frames(0, last..frames).unwrap()[0].captured_at_ns;
                lost_ms.push(killed.killed_at.0.saturating_sub(last) as f64 / 1e6);
            }
        }
    }
    lost_ms.sort_unstable_by(f64::total_cmp);
    let share = |p: usize| lost_ms.get((lost_ms.len() * p / 100).min(lost_ms.len().saturating_sub(1)));
    println!(
        "{kills} kills: {without_file} before there was a file, all others open as they are and plainly after \
         recover; {rows} rows checked, none missing that had been flushed; time between the last row and the kill, ms: \
         p50 {:.0?}, p99 {:.0?}, max {:.0?} (flushed every {} ms)",
        share(50).unwrap(),
        share(99).unwrap(),
        lost_ms.last().unwrap(),
        FLUSH_NANOS / 1_000_000
    );
}
