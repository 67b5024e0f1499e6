//! The disk under one session file: what kind it is, the reserve that is set aside at the start, the check of free
//! space before writing, and the file's name.
//!
//! HDF5 cannot close a file on a full disk, so recording stops while as much as the reserve is still free,
//! and the reserve itself is given back before closing. It has no name, so a killed program leaves nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statfs, statvfs};
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
        if let Some(kind) = folder_of(path).and_then(network_file_system) {
            return Err(SessionFileError::NetworkFileSystem { path: path.to_owned(), kind });
        }
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

/// File systems of other machines, by the numbers that `statfs` gives them (Linux `magic.h` and their own sources).
/// A file that is read while it grows needs writes in order and locks, which these do not promise.
const NETWORK: [(u32, &str); 12] = [
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x517B, "SMB"),
    (0x5346_414F, "AFS"),
    (0x00C3_6400, "Ceph"),
    (0x0102_1997, "9P"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x564C, "NCP"),
    (0x7375_7245, "Coda"),
];

/// FUSE, behind which anything may be; the mount's type says more.
const FUSE: u32 = 0x6573_5546;

/// Programs that mount other machines by FUSE, as they call themselves in `/proc/self/mountinfo`.
const FUSE_NETWORK: [&str; 9] =
    ["sshfs", "rclone", "glusterfs", "s3fs", "gcsfuse", "davfs", "smbnetfs", "curlftpfs", "ceph-fuse"];

/// The kind of network file system that a folder is on; none for a local disk, or where it cannot be told.
pub fn network_file_system(folder: &Path) -> Option<String> {
    let magic = statfs(folder).ok()?.f_type as u32;
    if magic == FUSE {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let device = fs::metadata(folder).ok()?.dev();
        return fuse_network(&mounts, rustix::fs::major(device), rustix::fs::minor(device));
    }
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned())
}

/// The network file system that a device number is mounted as by FUSE.
fn fuse_network(mountinfo: &str, major: u32, minor: u32) -> Option<String> {
    let device = format!("{major}:{minor}");
    let mut mounts = mountinfo.lines().filter(|line| line.split(' ').nth(2) == Some(&device));
    let kind = mounts.next()?.split(" - ").nth(1)?.split(' ').next()?;
    let program = kind.strip_prefix("fuse.")?;
    FUSE_NETWORK.contains(&program).then(|| program.to_owned())
}

/// The file on its disk, beside HDF5's own handle: what makes its name durable, and notices that it was removed.
pub(super) struct OnDisk {
    path: PathBuf,
    handle: File,
}

impl OnDisk {
    /// Takes hold of a file that was just made, and makes its name durable. As long as this lives, the file is
    /// locked in common with its readers, so that nobody takes it for one whose writer is gone.
    pub(super) fn hold(path: &Path) -> Result<Self, SessionFileError> {
        let failed = |source| SessionFileError::Sync { path: path.to_owned(), source };
        let handle = File::open(path).map_err(failed)?;
        let on_disk = Self { path: path.to_owned(), handle };
        on_disk.lock();
        on_disk.handle.sync_data().map_err(failed)?;
        if let Some(folder) = folder_of(path) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(on_disk)
    }

    /// A file system without locks has none; what asks for them then takes no file for abandoned.
    fn lock(&self) {
        if let Err(error) = self.handle.try_lock_shared() {
            tracing::debug!(path = %self.path.display(), %error, "no lock");
        }
    }

    /// Fails when the file has no name any more: what is written goes nowhere.
    pub(super) fn check_named(&self) -> Result<(), SessionFileError> {
        let known = self
            .handle
            .metadata()
            .map_err(|source| SessionFileError::Sync { path: self.path.clone(), source })?;
        if known.nlink() == 0 { Err(SessionFileError::Removed { path: self.path.clone() }) } else { Ok(()) }
    }

    /// Gives a removed file its name back, with all that it holds, in a folder made anew.
    pub(super) fn write_again(mut self) -> Result<(), SessionFileError> {
        let failed = |source| SessionFileError::Create { path: self.path.clone(), source };
        if let Some(folder) = folder_of(&self.path) {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut again = OpenOptions::new().write(true).create_new(true).open(&self.path).map_err(failed)?;
        std::io::copy(&mut self.handle, &mut again).map_err(failed)?;
        again.sync_all().map_err(failed)
    }
}

fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// Bytes a second that one camera adds to an uncompressed file, at `fps` frames a second with `faces` faces each:
/// a row of `frames` and of `results` a frame, the four rows of each face, and the two of a body where that is sought.
pub fn bytes_per_second(fps: f64, faces: f64, has_pose: bool) -> f64 {
    use super::schema::{FACE_BYTES, FrameRow, POSE_BYTES, ResultRow};
    let pose = if has_pose { POSE_BYTES } else { 0 };
    fps * ((size_of::<FrameRow>() + size_of::<ResultRow>() + pose) as f64 + faces * FACE_BYTES as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        assert_eq!(network_file_system(Path::new("/proc")), None);
        assert_eq!(network_file_system(&std::env::temp_dir()), None);
        let mounts = "\
22 1 0:20 / /proc rw - proc proc rw
36 22 0:44 / /home/me/lab rw,nosuid shared:3 - fuse.sshfs lab:/data rw
37 22 8:17 / /media/stick rw - fuseblk /dev/sdb1 rw
38 22 0:45 / /mnt/x rw - fuse.mergerfs a:b rw";
        assert_eq!(fuse_network(mounts, 0, 44).as_deref(), Some("sshfs"));
        assert_eq!(fuse_network(mounts, 8, 17), None);
        assert_eq!(fuse_network(mounts, 0, 45), None);
        assert_eq!(fuse_network("garbage", 0, 45), None);
    }

    #[test]
    fn a_face_is_about_six_kilobytes() {
        let found = bytes_per_second(30.0, 2.0, false);
        assert!((360_000.0..380_000.0).contains(&found), "{found}");
        assert_eq!(bytes_per_second(30.0, 2.0, true) - found, 30.0 * 692.0);
    }
}
