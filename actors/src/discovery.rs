//! The file by which other programs find a session's shared memory: which cameras, which segments, whose.
//!
//! Owns that file, one a session, and says by an exclusive `flock` on it that the session is alive: the lock ends with
//! the process, however that ends. It is always replaced as a whole. A session goes on without it: what keeps it from being
//! written is logged.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use serde_json::json;
use tracing::warn;
use youquanti_models::{Timestamp, UtcNanos};

use crate::plane::DataPlane;

/// Version of the file's format.
const VERSION: u32 = 1;

/// Where sessions of this user are announced: `youquanti` in `$XDG_RUNTIME_DIR`, or without that
/// `/dev/shm/youquanti-<user id>`.
pub fn default_folder() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|folder| folder.is_absolute() && folder.is_dir()) {
        Some(folder) => folder.join("youquanti"),
        None => PathBuf::from(format!("/dev/shm/youquanti-{}", rustix::process::getuid().as_raw())),
    }
}

/// A session's announcement.
#[derive(Debug)]
pub struct Discovery {
    path: PathBuf,
    started: Timestamp,
    started_utc: UtcNanos,
    /// Open and locked since it was last written; none before the first time and after the end.
    file: Mutex<Option<File>>,
}

impl Discovery {
    /// The announcement of a session of this name in `folder`, which is made for this user alone if it is not there.
    /// Announcements whose programs are gone are removed.
    ///
    /// # Errors
    /// When the folder cannot be made or read, or is another user's.
    pub fn new(folder: &Path, session: &str, started: Timestamp, started_utc: UtcNanos) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let there = std::fs::symlink_metadata(folder)?;
        if !there.is_dir() || there.uid() != rustix::process::getuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a folder of this user"));
        }
        remove_stale(folder)?;
        let path = folder.join(format!("{session}.json"));
        Ok(Self { path, started, started_utc, file: Mutex::new(None) })
    }

    fn file(&self) -> MutexGuard<'_, Option<File>> {
        // A handle, whole at all times: poison means nothing here.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what there is now.
    pub(crate) fn announce(&self, plane: &DataPlane) {
        let mut file = self.file();
        match self.write(plane) {
            Ok(written) => *file = Some(written),
            Err(error) => {
                let path = self.path.display();
                warn!(%path, %error, "other programs cannot find this session's shared memory: its announcement cannot be written");
            }
        }
    }

    fn write(&self, plane: &DataPlane) -> io::Result<File> {
        let cameras = plane.cameras.iter().map(|line| {
            let [frames, preview] = line.segments();
            json!({ "name": line.plan.name.as_str(), "frames": frames, "preview": preview })
        });
        let text = json!({
            "version": VERSION,
            "session": plane.session_name(),
            "pid": std::process::id(),
            "started_ns": self.started.0,
            "started_utc_ns": self.started_utc.0,
            "cameras": cameras.collect::<Vec<_>>(),
        });
        let draft = self.path.with_extension(format!("{}.draft", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        writeln!(file, "{text:#}")?;
        std::fs::rename(&draft, &self.path)?;
        Ok(file)
    }

    /// Takes the announcement away: the session has ended.
    pub(crate) fn withdraw(&self) {
        if let Some(file) = self.file().take() {
            remove_if_at(&file, &self.path);
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Removes the file if `path` still names it. What cannot be removed now is stale once the lock goes.
fn remove_if_at(file: &File, path: &Path) {
    let id = |metadata: io::Result<std::fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    let here = id(file.metadata());
    if here.is_some() && here == id(std::fs::symlink_metadata(path)) {
        std::fs::remove_file(path).ok();
    }
}

/// Removes announcements, and drafts of them, that no living program holds locked.
fn remove_stale(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == "json" || extension == "draft");
        // What cannot be opened is left where it is: whoever looks for sessions cannot read it either.
        let Some(file) = is_ours.then(|| File::open(&path).ok()).flatten() else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_if_at(&file, &path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use youquanti_models::Clock;
    use youquanti_models::time::FakeClock;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn an_announcement_is_private_locked_and_gone_with_its_session_and_those_of_the_dead_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("youquanti");
        let clock = Arc::new(FakeClock::default());
        let plane =
            DataPlane::new(Arc::<FakeClock>::clone(&clock), "demo".into(), "/nowhere".into(), vec![], 8);
        let make = |session| Discovery::new(&folder, session, clock.now(), clock.utc()).unwrap();

        let demo = make("demo");
        demo.announce(&plane);
        demo.announce(&plane);
        let path = folder.join("demo.json");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&text["session"], &text["version"]), (&json!("demo"), &json!(1)));

        std::fs::write(folder.join("killed.json"), "{}").unwrap();
        std::fs::write(folder.join("killed.77.draft"), "").unwrap();
        std::fs::write(folder.join("notes.txt"), "").unwrap();
        let other = make("other");
        let mut left = names(&folder);
        left.sort();
        assert_eq!(left, ["demo.json", "notes.txt"], "the living one and what is not ours stay");
        drop((demo, other));
        assert_eq!(names(&folder), ["notes.txt"]);
    }

    #[test]
    fn a_folder_that_is_none_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for folder in [file.as_path(), &dir.path().join("missing/deeper")] {
            assert!(Discovery::new(folder, "demo", Timestamp(0), UtcNanos(0)).is_err());
        }
    }
}
