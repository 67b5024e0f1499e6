//! A ring's file in shared memory: made, allocated in full, locked, found stale, unlinked.
//!
//! The exclusive `flock` says who owns a segment: it ends with its process, however that ends, and cannot
//! be mistaken for another process's as a recycled process id can. Never looks at the pixels.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use youquanti_models::PictureLayout;

use crate::region::MAGIC;

/// What every segment's file name begins with.
const PREFIX: &str = "youquanti.";
const MAX_NAME: usize = 128;

/// Why a ring could not be made, or stale ones not removed.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The name cannot stand in a file name.
    #[error("{name:?} is not a ring's name: use 1 to {MAX_NAME} of a-z, A-Z, 0-9, '.', '_' and '-'")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// Too few or too many slots.
    #[error("a ring of {slots} slots: use 2 to 64")]
    Slots {
        /// What was asked for.
        slots: usize,
    },
    /// A picture that no camera has.
    #[error(
        "{} pictures of {}x{} pixels with a line stride of {} bytes: sides are 1 to 16384, a stride is 0 for \
         MJPG and otherwise 1 to 4 times the bytes of a line",
        layout.format.name(), layout.width, layout.height, layout.stride
    )]
    Layout {
        /// What was asked for.
        layout: PictureLayout,
    },
    /// The file system is full.
    #[error(
        "{} needs {need} bytes and {} has {have} left: use fewer slots or smaller pictures, remove what else is \
         there, or enlarge it (mount -o remount,size=... on it; docker run --shm-size=...)",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    NoSpace {
        /// The segment that was to be made.
        path: PathBuf,
        /// Bytes of the segment.
        need: u64,
        /// Bytes free in its file system.
        have: u64,
    },
    /// Another owner, in this process or another one, is alive.
    #[error("{} belongs to a running session: stop that one, or give this one another name", path.display())]
    Live {
        /// The segment.
        path: PathBuf,
    },
    /// The name is taken by something that is not a segment.
    #[error("{} is in the way and is not a frame ring: remove it, or choose another name", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{call} failed on {}", path.display())]
    System {
        /// The system call, or what it was for.
        call: &'static str,
        /// The segment or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn system(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> RingError {
    let path = path.to_owned();
    move |errno| RingError::System { call, path, source: errno.into() }
}

/// A segment's file. Invariant: `file` is open for reading and writing and holds the exclusive lock.
pub(crate) struct Segment {
    path: PathBuf,
    file: File,
    unlinked: AtomicBool,
}

impl Segment {
    /// Makes `youquanti.<name>` in `dir` with `bytes` bytes, all of them allocated and zero, readable and
    /// writable by this user only. A stale segment of that name is replaced.
    pub(crate) fn create(dir: &Path, name: &str, bytes: usize) -> Result<Self, RingError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(good) {
            return Err(RingError::Name { name: name.to_owned() });
        }
        let path = dir.join(format!("{PREFIX}{name}"));
        let file = loop {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    let file = File::from(fd);
                    // Somebody who looks for stale segments may hold the lock for a moment, and then the file
                    // is gone: once more.
                    retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
                        .map_err(system("flock", &path))?;
                    if is_at(&file, &path) {
                        break file;
                    }
                }
                Err(Errno::EXIST) => match take_stale(&path)? {
                    Found::Live => return Err(RingError::Live { path }),
                    Found::Foreign => return Err(RingError::Foreign { path }),
                    Found::Removed | Found::Gone => {}
                },
                Err(errno) => return Err(system("open", &path)(errno)),
            }
        };
        let segment = Self { path, file, unlinked: AtomicBool::new(false) };
        segment.allocate(bytes as u64)?;
        Ok(segment)
    }

    /// Allocates every page now: a write into a page that a full file system cannot give is a SIGBUS.
    fn allocate(&self, need: u64) -> Result<(), RingError> {
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, need)) {
            Ok(()) => Ok(()),
            Err(Errno::NOSPC | Errno::FBIG | Errno::NOMEM) => {
                let have = rustix::fs::fstatvfs(&self.file).map_err(system("fstatvfs", &self.path))?;
                Err(RingError::NoSpace { path: self.path.clone(), need, have: have.f_bavail * have.f_frsize })
            }
            Err(errno) => Err(system("fallocate", &self.path)(errno)),
        }
    }

    /// Maps the whole segment, with all pages present, so that no frame waits for a page fault.
    pub(crate) fn map(&self, bytes: usize) -> Result<(MmapRaw, NonNull<u8>), RingError> {
        let failed = |source| RingError::System { call: "mmap", path: self.path.clone(), source };
        let mapping = MmapOptions::new().len(bytes).populate().map_raw(&self.file).map_err(failed)?;
        let base =
            NonNull::new(mapping.as_mut_ptr()).ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
        Ok((mapping, base))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file's name away, once. A file of that name which is another's is left alone.
    pub(crate) fn unlink(&self) {
        if !self.unlinked.swap(true, Ordering::AcqRel) && is_at(&self.file, &self.path) {
            // What cannot be removed now is stale once the lock goes, and the next start removes it.
            rustix::fs::unlink(&self.path).ok();
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Removes the segments in `dir` whose names begin with `name_prefix` and whose owners are gone. Gives the
/// paths of those removed. Segments of other users, and files that are not segments, are left alone.
pub fn remove_stale(dir: &Path, name_prefix: &str) -> Result<Vec<PathBuf>, RingError> {
    let read_dir = |source| RingError::System { call: "readdir", path: dir.to_owned(), source };
    let prefix = format!("{PREFIX}{name_prefix}");
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read_dir)? {
        let path = entry.map_err(read_dir)?.path();
        let named_so = path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(&prefix));
        if named_so && matches!(take_stale(&path)?, Found::Removed) {
            removed.push(path);
        }
    }
    removed.sort();
    Ok(removed)
}

enum Found {
    Live,
    Foreign,
    Removed,
    Gone,
}

/// Removes the segment at `path` if nobody owns it.
fn take_stale(path: &Path) -> Result<Found, RingError> {
    // NONBLOCK: opening a pipe must not wait for a writer.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(Found::Gone),
        Err(Errno::ACCESS | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Ok(Found::Foreign),
        Err(errno) => return Err(system("open", path)(errno)),
    };
    if !looks_like_segment(&mut file) {
        return Ok(Found::Foreign);
    }
    match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Found::Live),
        Err(errno) => return Err(system("flock", path)(errno)),
    }
    // With the lock held the name cannot change hands: whoever makes a segment locks it first, then looks
    // whether it is still there.
    if !is_at(&file, path) {
        return Ok(Found::Gone);
    }
    match rustix::fs::unlink(path) {
        Ok(()) => Ok(Found::Removed),
        Err(Errno::NOENT) => Ok(Found::Gone),
        Err(errno) => Err(system("unlink", path)(errno)),
    }
}

/// A segment begins with the magic number, or with zeros or nothing if its owner died while making it.
fn looks_like_segment(file: &mut File) -> bool {
    let mut start = [0; 8];
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    is_file && file.read(&mut start).is_ok() && [MAGIC, 0].contains(&u64::from_le_bytes(start))
}

/// Whether the open file is the one that `path` names.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: io::Result<std::fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    let here = id(file.metadata());
    here.is_some() && here == id(std::fs::symlink_metadata(path))
}
