//! HDF5 files whose bytes go where the caller says: a file driver for HDF5, whose substance is a [`Storage`] in safe Rust.
//!
//! Owns the structures that HDF5 wants of a driver, and all unsafe code of them. Never opens a file, never decides what becomes of
//! a byte. HDF5 tells a driver of each piece whether it is rows or what HDF5 knows of them; that is what it is for.
#![allow(unsafe_code, reason = "leaf crate for a C interface")]

mod driver;
mod raw;

use std::ffi::{CString, c_char};
use std::io;
use std::sync::{Arc, Mutex};

use hdf5::plist::{FileAccess, FileCreate};
use hdf5_sys::h5f::{H5F_ACC_RDONLY, H5F_ACC_TRUNC, H5Fcreate, H5Fopen};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5p::H5Pset_driver;

use driver::Shared;

/// What a piece of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Elements of datasets.
    Rows,
    /// Everything else: superblock, groups, attributes, shapes, where chunks lie.
    Metadata,
}

/// Where the bytes of one HDF5 file are. All places are bytes from its beginning. Errors become part of HDF5's own, in their words.
pub trait Storage: Send {
    /// Fills `into`; with zeros beyond the end.
    ///
    /// # Errors
    /// What the operating system says; so, too, the following.
    fn read(&mut self, piece: Piece, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Takes bytes, which may lie beyond the end so far.
    ///
    /// # Errors
    /// HDF5 may try again, or give up.
    fn write(&mut self, piece: Piece, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Where it ends, with all that was written.
    fn length(&self) -> u64;

    /// Makes it longer, with zeros, or cuts it off.
    ///
    /// # Errors
    /// HDF5 gives up what it was doing.
    fn set_length(&mut self, length: u64) -> io::Result<()>;

    /// Keeps other programs from opening it: all, or only those that write. Never waits.
    ///
    /// # Errors
    /// When somebody holds it; HDF5 does not open it then.
    fn lock(&mut self, is_exclusive: bool) -> io::Result<()>;

    /// Gives up the lock.
    ///
    /// # Errors
    /// HDF5 gives up what it was doing.
    fn unlock(&mut self) -> io::Result<()>;

    /// HDF5 has closed the file. May come more than once, also before anything was written.
    ///
    /// # Errors
    /// Closing the file fails with it.
    fn close(&mut self) -> io::Result<()>;
}

/// Makes an HDF5 file in an empty storage. `name` is what errors call it.
///
/// # Errors
/// As those of `hdf5::FileBuilder::create`.
pub fn create<S: Storage + 'static>(
    storage: &Arc<Mutex<S>>,
    name: &str,
    access: &FileAccess,
    creation: &FileCreate,
) -> Result<hdf5::File, hdf5::Error> {
    with_driver(storage, name, access, |name, access| {
        // SAFETY: name and lists live until the call returns.
        unsafe { H5Fcreate(name, H5F_ACC_TRUNC, creation.id(), access) }
    })
}

/// Opens the HDF5 file in a storage for reading. `name` is what errors call it.
///
/// # Errors
/// As those of `hdf5::FileBuilder::open`.
pub fn open<S: Storage + 'static>(storage: &Arc<Mutex<S>>, name: &str) -> Result<hdf5::File, hdf5::Error> {
    with_driver(storage, name, &FileAccess::try_new()?, |name, access| {
        // SAFETY: name and list live until the call returns.
        unsafe { H5Fopen(name, H5F_ACC_RDONLY, access) }
    })
}

/// Calls HDF5 with a list that leads to the storage.
fn with_driver<S: Storage + 'static>(
    storage: &Arc<Mutex<S>>,
    name: &str,
    access: &FileAccess,
    call: impl FnOnce(*const c_char, hid_t) -> hid_t,
) -> Result<hdf5::File, hdf5::Error> {
    let name = CString::new(name).map_err(|error| hdf5::Error::from(error.to_string()))?;
    let shared: Shared = Arc::clone(storage) as Shared;
    // HDF5 copies the pointer into its list and gives it to `open`, which is over when this function is.
    let info: *const Shared = &raw const shared;
    let access = access.copy();
    hdf5::sync::sync(|| {
        let driver = *driver::NUMBER;
        // SAFETY: the list is open; HDF5 copies `fapl_size` bytes from the address, which is that of a pointer.
        let is_set =
            driver >= 0 && unsafe { H5Pset_driver(access.id(), driver, (&raw const info).cast()) } >= 0;
        let file = if is_set { call(name.as_ptr(), access.id()) } else { -1 };
        if file < 0 {
            let (Ok(error) | Err(error)) = hdf5::Error::query();
            return Err(error);
        }
        // SAFETY: the file was just opened, and this is its only handle.
        unsafe { hdf5::from_id(file) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory, and what was said about it.
    #[derive(Default)]
    struct InMemory {
        bytes: Vec<u8>,
        /// For each byte whether it is rows.
        is_row: Vec<bool>,
        refuses: bool,
        panics: bool,
        closed: u32,
    }

    impl Storage for InMemory {
        fn read(&mut self, _: Piece, at: u64, into: &mut [u8]) -> io::Result<()> {
            let there = self.bytes.get(at as usize..).unwrap_or_default();
            let length = there.len().min(into.len());
            into[..length].copy_from_slice(&there[..length]);
            into[length..].fill(0);
            Ok(())
        }

        fn write(&mut self, piece: Piece, at: u64, bytes: &[u8]) -> io::Result<()> {
            assert!(!self.panics, "asked for");
            if self.refuses {
                return Err(io::Error::other("the dog ate it"));
            }
            let (start, end) = (at as usize, at as usize + bytes.len());
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.is_row.resize(self.bytes.len(), false);
            self.bytes[start..end].copy_from_slice(bytes);
            self.is_row[start..end].fill(piece == Piece::Rows);
            Ok(())
        }

        fn length(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn set_length(&mut self, length: u64) -> io::Result<()> {
            self.bytes.resize(length as usize, 0);
            self.is_row.resize(length as usize, false);
            Ok(())
        }

        fn lock(&mut self, _: bool) -> io::Result<()> {
            Ok(())
        }

        fn unlock(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn close(&mut self) -> io::Result<()> {
            self.closed += 1;
            Ok(())
        }
    }

    const ROWS: [u32; 1000] = [0x5a5a_a5a5; 1000];

    /// A storage with a file of one dataset, still open.
    fn made() -> (Arc<Mutex<InMemory>>, hdf5::File, hdf5::Dataset) {
        let storage = Arc::new(Mutex::new(InMemory::default()));
        let access = FileAccess::build().libver_v110().finish().expect("a list");
        let creation = FileCreate::try_new().expect("a list");
        let file = create(&storage, "x", &access, &creation).expect("a file");
        let dataset = file.new_dataset::<u32>().chunk([100]).shape([0..]).create("rows").expect("a dataset");
        dataset.resize([ROWS.len()]).expect("longer");
        dataset.write_slice(&ROWS, ..).expect("written");
        (storage, file, dataset)
    }

    #[test]
    fn a_file_is_what_plain_hdf5_makes_and_rows_are_told_from_the_rest() {
        let (storage, file, dataset) = made();
        drop((file, dataset));
        {
            let storage = storage.lock().expect("nobody panicked");
            assert!(storage.closed > 0);
            let (rows, rest): (Vec<_>, Vec<_>) =
                storage.bytes.iter().zip(&storage.is_row).partition(|(_, row)| **row);
            assert_eq!(rows.len(), size_of_val(&ROWS));
            assert!(rows.iter().all(|(byte, _)| [0x5a, 0xa5].contains(*byte)));
            assert!(!rest.is_empty());
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("x.h5"), &storage.bytes).expect("written");
            let plain = hdf5::File::open(folder.path().join("x.h5")).expect("opened");
            assert_eq!(plain.dataset("rows").and_then(|rows| rows.read_raw::<u32>()).expect("read"), ROWS);
        }
        let again = open(&storage, "x").expect("opened");
        assert_eq!(again.dataset("rows").and_then(|rows| rows.read_raw::<u32>()).expect("read"), ROWS);
        assert!(again.create_group("new").is_err(), "it was opened for reading");
    }

    #[test]
    fn what_fails_is_an_error_of_hdf5_in_its_own_words() {
        for panics in [false, true] {
            let (storage, file, dataset) = made();
            {
                let mut storage = storage.lock().expect("nobody panicked");
                (storage.refuses, storage.panics) = (true, panics);
            }
            let error =
                dataset.write_slice(&ROWS[..5], 0..5).and_then(|()| file.flush()).expect_err("refused");
            let said = error.to_string();
            assert!(said.contains(if panics { "panic" } else { "the dog ate it" }), "{said}");
            {
                let mut storage = storage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                (storage.refuses, storage.panics) = (false, false);
            }
            file.flush().expect("a second attempt");
        }
    }

    #[test]
    fn a_storage_without_a_file_is_refused() {
        let storage = Arc::new(Mutex::new(InMemory { bytes: vec![7; 5000], ..InMemory::default() }));
        assert!(open(&storage, "x").is_err());
        assert!(open(&storage, "x\0y").is_err());
    }
}
