//! FFmpeg as a child process: where it is, and what is heard of it.
//!
//! Owns the child from its start to its reaping. Never leaves a process behind, never waits for one without an end.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::Receiver;

use crate::capture::CaptureError;

/// Bytes that a pipe may hold: fewer switches between the two processes. What Linux allows anybody.
pub(crate) const PIPE_BYTES: usize = 1 << 20;

/// What FFmpeg writes on its error output, of which its last complaints are kept.
#[derive(Debug, Default)]
pub(crate) struct Log {
    line: Vec<u8>,
    complaints: Vec<String>,
}

impl Log {
    /// Complaints and bytes of a line that are kept.
    const LINES: usize = 5;
    const LINE_BYTES: usize = 500;

    /// Takes bytes as they come, and gives each whole line to `each` without its level.
    pub(crate) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for &byte in bytes {
            if byte != b'\n' && byte != b'\r' {
                if self.line.len() < Self::LINE_BYTES {
                    self.line.push(byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            each(&line);
            let complaint = ["[error] ", "[fatal] "].into_iter().find_map(|level| line.split_once(level));
            if let Some((_, complaint)) = complaint
                && !self.complaints.iter().any(|c| c == complaint)
            {
                if self.complaints.len() == Self::LINES {
                    self.complaints.remove(0);
                }
                self.complaints.push(complaint.to_owned());
            }
        }
    }

    pub(crate) fn text(&self) -> Option<String> {
        (!self.complaints.is_empty()).then(|| self.complaints.join("; "))
    }
}

/// The child. Invariant: killed and reaped when dropped.
pub(crate) struct Ffmpeg(pub(crate) Child);

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        // Both fail only on a child that was reaped already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Ffmpeg {
    /// Starts the first of the programs that is there; `prepare` gives it arguments and pipes.
    pub(crate) fn start(
        programs: &[PathBuf],
        mut prepare: impl FnMut(&mut Command),
    ) -> Result<Self, CaptureError> {
        let mut missing = Vec::new();
        for program in programs {
            let mut command = Command::new(program);
            prepare(&mut command);
            match command.spawn() {
                Ok(child) => return Ok(Self(child)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing.push(program.display().to_string());
                }
                Err(source) => return Err(CaptureError::Driver { call: "ffmpeg", source }),
            }
        }
        Err(no_ffmpeg(&missing))
    }
}

/// Where FFmpeg may be, best first.
pub(crate) fn programs(named: Option<&Path>) -> Vec<PathBuf> {
    match (named, env::var_os("YOUQUANTI_FFMPEG")) {
        (Some(program), _) => vec![program.to_owned()],
        (None, Some(program)) => vec![program.into()],
        (None, None) => {
            let executable = env::current_exe().unwrap_or_default();
            let environments = executable.ancestors().skip(1).map(|folder| folder.join(".venv/bin/ffmpeg"));
            let environments = environments.filter(|program| program.exists());
            ["ffmpeg".into(), ".venv/bin/ffmpeg".into()].into_iter().chain(environments).collect()
        }
    }
}

pub(crate) fn no_ffmpeg(missing: &[String]) -> CaptureError {
    CaptureError::Setup {
        what: "ffmpeg",
        asked: missing.join(" or "),
        got: "no such program: install FFmpeg, or name it in YOUQUANTI_FFMPEG".into(),
    }
}

/// The FFmpeg that sources and video run, found as they find it.
///
/// # Errors
/// [`CaptureError::Setup`] when there is none that starts.
pub fn find() -> Result<PathBuf, CaptureError> {
    let programs = programs(None);
    let starts = |program: &&PathBuf| {
        let version = Command::new(program).arg("-version").stdin(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success())
    };
    programs.iter().find(starts).cloned().ok_or_else(|| {
        no_ffmpeg(&programs.iter().map(|program| program.display().to_string()).collect::<Vec<_>>())
    })
}

/// Bytes that are in the pipe, into `target`; 0 at its end.
pub(crate) fn poll_read(
    pipe: &mut Receiver,
    cx: &mut Context<'_>,
    target: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut target = ReadBuf::new(target);
    ready!(Pin::new(pipe).poll_read(cx, &mut target))?;
    Poll::Ready(Ok(target.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaints_are_kept_once_each() {
        let mut log = Log::default();
        for n in [1, 1, 2, 3, 4, 5, 6, 7] {
            log.take(format!("[mov @ 0x1] [error] fault {n}\n[info] chatter\n").as_bytes(), |_| {});
        }
        assert_eq!(log.text().as_deref(), Some("fault 3; fault 4; fault 5; fault 6; fault 7"));
        log.take(&vec![b'x'; 100_000], |_| {});
        assert!(log.line.len() <= Log::LINE_BYTES);
    }
}
