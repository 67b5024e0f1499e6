//! Free space for one session file: a reserve that is set aside at the start, and the check before writing.
//!
//! HDF5 cannot close a file on a full disk, so recording stops while as much as the reserve is still free,
//! and the reserve itself is given back before closing. It has no name, so a killed program leaves nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::SessionFileError;

/// Free bytes of the disk of a file, for users without privileges.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stat = statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(super) struct DiskSpace {
    path: PathBuf,
    reserve_bytes: u64,
    reserve: Option<File>,
}

impl DiskSpace {
    /// Sets `reserve_bytes` aside on the disk that `path` is on. On file systems that cannot allocate ahead
    /// only the check of free space remains.
    pub(super) fn set_aside(path: &Path, reserve_bytes: u64) -> Result<Self, SessionFileError> {
        let mut space = Self { path: path.to_owned(), reserve_bytes, reserve: None };
        space.check()?;
        let mut name = path.as_os_str().to_owned();
        name.push(".reserve");
        let name = PathBuf::from(name);
        let create = |source| SessionFileError::Create { path: name.clone(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&name).map_err(create)?;
        fs::remove_file(&name).map_err(create)?;
        match fallocate(&file, FallocateFlags::empty(), 0, reserve_bytes) {
            Ok(()) => space.reserve = Some(file),
            Err(Errno::NOSPC) => return Err(space.full(space.free()?)),
            Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(create(errno.into())),
        }
        Ok(space)
    }

    /// Fails when less than the reserve is free beside it.
    pub(super) fn check(&self) -> Result<u64, SessionFileError> {
        let free = self.free()?;
        if free < self.reserve_bytes { Err(self.full(free)) } else { Ok(free) }
    }

    /// Gives the reserve back, for closing.
    pub(super) fn release(&mut self) {
        self.reserve = None;
    }

    /// Bytes that must stay free.
    pub(super) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    fn free(&self) -> Result<u64, SessionFileError> {
        free_bytes(&self.path)
            .map_err(|source| SessionFileError::FreeSpace { path: self.path.clone(), source })
    }

    /// The error that says so.
    pub(super) fn full(&self, free: u64) -> SessionFileError {
        SessionFileError::DiskFull { path: self.path.clone(), free, reserve: self.reserve_bytes }
    }
}
