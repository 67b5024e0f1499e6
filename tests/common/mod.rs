//! What the tests of the program share: a folder of its own for each, and the program as people run it.
//!
//! Nothing here waits for a time: tests wait for lines that the program prints, and for its end. Sessions have
//! names of their own, because tests run beside each other.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part of it, and tests may fail")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use youquanti::actors::clock::SystemClock;
use youquanti::models::Clock;

/// A path below the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The Python that `make setup-test` installs, with h5py.
pub(crate) fn python() -> PathBuf {
    let python = repository(".venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make test`, or `tools/setup.sh --test` once",
        python.display()
    );
    python
}

fn ffmpeg() -> PathBuf {
    env::var_os("YOUQUANTI_FFMPEG").map_or_else(|| repository(".venv/bin/ffmpeg"), PathBuf::from)
}

/// Has FFmpeg make `output` from what `words` say.
pub(crate) fn make_video(words: &str, output: &Path) {
    let made = Command::new(ffmpeg())
        .args("-hide_banner -loglevel error -nostdin -y".split(' '))
        .args(words.split(' '))
        .arg(output)
        .output()
        .unwrap();
    assert!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
}

/// The name of a session that no other test runs.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A configuration with these cameras, each written in lines of its own, that reserves little of the disk.
pub(crate) fn config(session: &str, cameras: &[(&str, &str)], more: &str) -> String {
    let cameras: String =
        cameras.iter().map(|(name, lines)| format!("[[camera]]\nname = \"{name}\"\n{lines}\n")).collect();
    let recording = "[recording]\nreserve = \"1MB\"\nflush_interval = \"100ms\"";
    format!("version = 1\n[session]\nname = \"{session}\"\n{cameras}{more}\n{recording}\n")
}

/// Runs something that a computer has to be quick enough for, until its result is sound or the computer was quick enough: a
/// thread that keeps waking up witnesses that. The last result, and whether it tells anything: a session on a computer that stood
/// still loses frames and has cameras that count as silent, rightly.
pub(crate) fn in_time<T>(mut run: impl FnMut() -> T, is_sound: impl Fn(&T) -> bool) -> (T, bool) {
    const ATTEMPTS: u32 = 4;
    // One and a half frames of the slowest camera in these tests.
    const STANDSTILL: Duration = Duration::from_millis(100);
    let mut attempt = || {
        thread::scope(|scope| {
            // Dropped at the end, also of a panic, which ends the witness.
            let (runs, ended) = mpsc::sync_channel::<()>(0);
            let witness = scope.spawn(move || longest_wait(&ended));
            let result = run();
            drop(runs);
            (result, witness.join().unwrap())
        })
    };
    let (mut result, mut standstill) = attempt();
    for _ in 1..ATTEMPTS {
        if is_sound(&result) || standstill < STANDSTILL {
            break;
        }
        println!("again: the computer stood still for {standstill:?}");
        (result, standstill) = attempt();
    }
    let tells = is_sound(&result) || standstill < STANDSTILL;
    if !tells {
        println!("only in part: the computer stood still for {standstill:?}, each time");
    }
    (result, tells)
}

/// The longest that a wait of 20 ms took beyond that, until the channel's other end is dropped.
fn longest_wait(ended: &mpsc::Receiver<()>) -> Duration {
    const WAIT: Duration = Duration::from_millis(20);
    let (mut longest, mut since) = (Duration::ZERO, SystemClock.now());
    loop {
        let has_ended = ended.recv_timeout(WAIT) != Err(RecvTimeoutError::Timeout);
        let now = SystemClock.now();
        longest = longest.max(now.saturating_since(since).saturating_sub(WAIT));
        if has_ended {
            return longest;
        }
        since = now;
    }
}

/// A folder in which the program runs, and which is gone afterwards.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, which the program finds under its name.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The session files in a folder.
    pub(crate) fn sessions(&self, folder: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "h5"));
        paths.sort();
        paths
    }

    /// The one session file in the folder where sessions go if nothing else is said.
    #[track_caller]
    pub(crate) fn session(&self) -> PathBuf {
        let [path] = &self.sessions("sessions")[..] else { panic!("{:?}", self.sessions("sessions")) };
        path.clone()
    }

    /// The program in this folder.
    pub(crate) fn program(&self, args: &[&str]) -> Command {
        self.prepare(Command::new(env!("CARGO_BIN_EXE_youquanti")), args)
    }

    /// The same below a small file system of its own at `disk`, in a mount namespace, so that nothing is left
    /// mounted. What is in it afterwards is copied to `saved`. None, with a word about it, where that is not permitted.
    pub(crate) fn run_on_disk(&self, options: &str, args: &[&str]) -> Option<Ended> {
        const NOT_PERMITTED: i32 = 77;
        fs::create_dir(self.path("disk")).unwrap();
        fs::create_dir(self.path("saved")).unwrap();
        let script = format!(
            "mount -t tmpfs -o {options} none disk || exit {NOT_PERMITTED}; \
             \"$@\"; ended=$?; cp -r disk/. saved; exit $ended"
        );
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--mount",
            "--map-root-user",
            "sh",
            "-c",
            &script,
            "sh",
            env!("CARGO_BIN_EXE_youquanti"),
        ]);
        let ended: Ended = match self.prepare(unshare, args).output() {
            Ok(output) => output.into(),
            Err(error) => {
                println!("skipped: unshare cannot be run: {error}");
                return None;
            }
        };
        if ended.code == Some(NOT_PERMITTED) || ended.err.starts_with("unshare:") {
            println!("skipped: mounting a tmpfs is not permitted: {}", ended.err);
            return None;
        }
        Some(ended)
    }

    fn prepare(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .args(args)
            .current_dir(self.0.path())
            .env("YOUQUANTI_FFMPEG", ffmpeg())
            .env_remove("YOUQUANTI_LOG")
            // Offsets that were measured on this computer are none of the tests' business.
            .env("XDG_DATA_HOME", self.path("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if env::var_os("VIRTUAL_ENV").is_none() {
            command.env("VIRTUAL_ENV", repository(".venv"));
        }
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.program(args).output().unwrap().into()
    }

    /// Starts the program.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut child = self.program(args).spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Running { child, err, said: String::new() }
    }
}

/// How the program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// Holds the exit code against the one expected.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n{}\n{}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Whether the program said all this on standard error.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in\n{}", self.err);
        }
    }
}

/// The program, running. Killed if the test fails.
pub(crate) struct Running {
    child: Child,
    err: BufReader<ChildStderr>,
    said: String,
}

impl Running {
    /// Waits for a line on standard error that contains `text`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        loop {
            let from = self.said.len();
            let bytes = self.err.read_line(&mut self.said).unwrap();
            assert!(bytes > 0, "ended without {text:?}:\n{}", self.said);
            if self.said[from..].contains(text) {
                return;
            }
        }
    }

    /// The same; what follows `text` in that line.
    #[track_caller]
    pub(crate) fn wait_for_rest(&mut self, text: &str) -> Option<String> {
        self.wait_for(text);
        let line = self.said.lines().rfind(|line| line.contains(text))?;
        line.split_once(text).map(|(_, rest)| rest.trim().to_owned())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let mut out = String::new();
        self.err.read_to_string(&mut self.said).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let code = self.child.wait().unwrap().code();
        Ended { code, out, err: std::mem::take(&mut self.said) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
