//! The first bytes of an HDF5 file: whether its writer closed it, and how long it says it is.
//!
//! Owns what is known of HDF5's superblock, version 3, which session files have ("HDF5 File Format Specification
//! 3.0", II.A). Changes no file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";
pub(super) const LENGTH: usize = 48;
const VERSION: usize = 8;
const FLAGS: usize = 11;
const END: std::ops::Range<usize> = 28..36;
const CHECKSUM: std::ops::Range<usize> = 44..48;

/// Set while a file is open for writing; the second one while readers may follow.
const BEING_WRITTEN: u8 = 0b101;

/// Whether a file is a session file's kind of HDF5 file, and is being written or was never closed.
///
/// # Errors
/// When it cannot be read.
pub(super) fn is_open(path: &Path) -> io::Result<bool> {
    let mut bytes = [0; LENGTH];
    match File::open(path)?.read_exact(&mut bytes) {
        Ok(()) => Ok(is_known(&bytes) && bytes[FLAGS] & BEING_WRITTEN != 0),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a superblock is when it says that its file was closed and how long that is, so that HDF5 opens it and refuses what lies
/// beyond. None if it is no superblock of a session file's kind.
pub(super) fn closed(superblock: &[u8; LENGTH], length: u64) -> Option<[u8; LENGTH]> {
    let mut bytes = is_known(superblock).then_some(*superblock)?;
    bytes[FLAGS] &= !BEING_WRITTEN;
    bytes[END].copy_from_slice(&length.to_le_bytes());
    let checksum = lookup3(&bytes[..CHECKSUM.start]);
    bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    Some(bytes)
}

fn is_known(bytes: &[u8; LENGTH]) -> bool {
    bytes[..8] == SIGNATURE && bytes[VERSION] == 3
}

/// Bob Jenkins's hash of 2006 with the initial value 0, which HDF5 sums its metadata with.
fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |part: &[u8], k: usize| {
        (0..4).fold(0, |word, i| word | u32::from(part.get(4 * k + i).copied().unwrap_or(0)) << (8 * i))
    };
    let mut rest = bytes;
    while rest.len() > 12 {
        let (now, later) = rest.split_at(12);
        a = a.wrapping_add(word(now, 0));
        b = b.wrapping_add(word(now, 1));
        c = c.wrapping_add(word(now, 2));
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = later;
    }
    if rest.is_empty() {
        return c;
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 1));
    c = c.wrapping_add(word(rest, 2));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_its_author() {
        // From the driver of lookup3.c, with the initial value 0.
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn what_is_no_session_file_is_never_taken_for_an_open_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h5");
        for bytes in [&b""[..], b"precious", &[0; 100], &[SIGNATURE.as_slice(), &[0; 60]].concat()] {
            std::fs::write(&path, bytes).unwrap();
            assert!(!is_open(&path).unwrap());
            assert!(bytes.first_chunk().is_none_or(|bytes| closed(bytes, 100).is_none()));
        }
        assert!(is_open(&dir.path().join("nothing")).is_err());
    }
}
