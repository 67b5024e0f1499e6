//! What this process has of the machine, from `/proc` and the rings' folder.
//!
//! Only counts; what may be held is for the matrix to say.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// Threads, descriptors, memory and shared segments of this process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Frame rings of the session in shared memory.
    pub segments: u64,
}

impl Resources {
    /// Those of this process; rings are those of the session of this name in `ring_dir`.
    ///
    /// # Errors
    /// When `/proc` or the folder cannot be read.
    pub fn now(ring_dir: &Path, session: &str) -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let prefix = format!("youquanti.{session}.");
        let is_ours = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        };
        Ok(Self {
            threads: field("Threads:"),
            // One is the descriptor with which the folder is read.
            descriptors: (fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1),
            resident_bytes: field("VmRSS:") * 1024,
            segments: fs::read_dir(ring_dir)?.map(is_ours).filter(|ours| *ours).count() as u64,
        })
    }

    /// Whether these are at most as many threads, descriptors and segments; memory comes back when it likes.
    pub(super) fn has_no_more_than(&self, other: &Self) -> bool {
        self.threads <= other.threads
            && self.descriptors <= other.descriptors
            && self.segments <= other.segments
    }
}
