//! The functions that HDF5 calls: each hands its work to the file's [`Storage`].
//!
//! A panic goes no further than here, and an error becomes part of HDF5's own.

use std::ffi::{CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use hdf5_sys::h5::{haddr_t, herr_t};
use hdf5_sys::h5e::{H5E_DEFAULT, H5E_ERR_CLS, H5E_IO, H5E_VFL, H5Epush2};
use hdf5_sys::h5i::hid_t;
use hdf5_sys::h5p::H5Pget_driver_info;

use crate::{Piece, Storage, raw};

pub(crate) type Shared = Arc<Mutex<dyn Storage>>;

/// An open file, as HDF5 knows it.
#[repr(C)]
struct Driven {
    public: raw::File,
    storage: Shared,
    /// Where HDF5's addresses end.
    end: haddr_t,
}

/// The driver's number in HDF5, for as long as the program runs; negative if HDF5 would not have it.
pub(crate) static NUMBER: LazyLock<hid_t> = LazyLock::new(|| {
    let class = raw::Class {
        version: raw::CLASS_VERSION,
        value: raw::VALUE,
        name: c"youquanti".as_ptr(),
        maxaddr: i64::MAX as haddr_t,
        // Weak: a file is closed when the last handle of anything in it is.
        fc_degree: 1,
        terminate: None,
        sb_size: None,
        sb_encode: None,
        sb_decode: None,
        fapl_size: size_of::<*const Shared>(),
        fapl_get: None,
        fapl_copy: None,
        fapl_free: None,
        dxpl_size: 0,
        dxpl_copy: None,
        dxpl_free: None,
        open,
        close,
        cmp: None,
        query,
        get_type_map: None,
        alloc: None,
        free: None,
        get_eoa,
        set_eoa,
        get_eof,
        get_handle: None,
        read,
        write,
        read_vector: None,
        write_vector: None,
        read_selection: None,
        write_selection: None,
        flush: None,
        truncate,
        lock,
        unlock,
        del: None,
        ctl: None,
        // Free space of rows and of everything else is kept apart, as in plain files.
        fl_map: std::array::from_fn(|kind| match kind as c_int {
            raw::mem::DRAW | raw::mem::GHEAP => raw::mem::DRAW,
            _ => raw::mem::SUPER,
        }),
    };
    // SAFETY: the structure is what HDF5 2 expects, of the version that it says; HDF5 copies it and checks the version.
    hdf5::sync::sync(|| unsafe { H5FDregister(&raw const class) })
});

unsafe extern "C" {
    fn H5FDregister(class: *const raw::Class) -> hid_t;
}

/// Does something with a file's storage; what fails becomes part of HDF5's error.
///
/// # Safety
/// `file` is one that `open` made and `close` has not ended; HDF5 uses it from one thread at a time.
unsafe fn with<R>(file: *const raw::File, act: impl FnOnce(&mut dyn Storage) -> io::Result<R>) -> Option<R> {
    // SAFETY: a `Driven` begins with what HDF5 knows of it.
    let storage = unsafe { &(*file.cast::<Driven>()).storage };
    let acted = catch_unwind(AssertUnwindSafe(|| {
        // A panic while it was locked left it as good as an error does.
        act(&mut *storage.lock().unwrap_or_else(PoisonError::into_inner))
    }));
    let error = match acted {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(error)) => error,
        Err(_) => io::Error::other("a panic in the file driver"),
    };
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    // SAFETY: all texts end with zero and live until the call returns; `%s` takes one text.
    unsafe {
        H5Epush2(
            H5E_DEFAULT,
            c"youquanti".as_ptr(),
            c"driver".as_ptr(),
            0,
            *H5E_ERR_CLS,
            *H5E_VFL,
            *H5E_IO,
            c"%s".as_ptr(),
            text.as_ptr(),
        );
    }
    None
}

fn status(done: Option<()>) -> herr_t {
    if done.is_some() { 0 } else { -1 }
}

fn piece(kind: c_int) -> Piece {
    if kind == raw::mem::DRAW { Piece::Rows } else { Piece::Metadata }
}

unsafe extern "C" fn open(_: *const c_char, _: c_uint, access: hid_t, _: haddr_t) -> *mut raw::File {
    // SAFETY: the list is the one of `with_driver`, whose information is the address of a pointer to a `Shared` that
    // lives until HDF5 has returned from there.
    let storage = unsafe {
        let info = H5Pget_driver_info(access).cast::<*const Shared>();
        if info.is_null() {
            return ptr::null_mut();
        }
        Arc::clone(&**info)
    };
    Box::into_raw(Box::new(Driven { public: raw::File::empty(), storage, end: 0 })).cast()
}

unsafe extern "C" fn close(file: *mut raw::File) -> herr_t {
    // SAFETY: HDF5 closes a file that `open` made, once, and does not use it afterwards, whatever comes of it.
    unsafe {
        let closed = with(file, |storage| storage.close());
        drop(Box::from_raw(file.cast::<Driven>()));
        status(closed)
    }
}

unsafe extern "C" fn query(_: *const raw::File, flags: *mut c_ulong) -> herr_t {
    // SAFETY: HDF5 wants the flags there, if anywhere.
    if let Some(flags) = unsafe { flags.as_mut() } {
        *flags = raw::feature::ALL;
    }
    0
}

unsafe extern "C" fn get_eoa(file: *const raw::File, _: c_int) -> haddr_t {
    // SAFETY: as in `with`.
    unsafe { (*file.cast::<Driven>()).end }
}

unsafe extern "C" fn set_eoa(file: *mut raw::File, _: c_int, end: haddr_t) -> herr_t {
    // SAFETY: as in `with`.
    unsafe { (*file.cast::<Driven>()).end = end };
    0
}

unsafe extern "C" fn get_eof(file: *const raw::File, _: c_int) -> haddr_t {
    // SAFETY: as HDF5 promises.
    unsafe { with(file, |storage| Ok(storage.length())) }.unwrap_or(haddr_t::MAX)
}

unsafe extern "C" fn read(
    file: *mut raw::File,
    kind: c_int,
    _: hid_t,
    at: haddr_t,
    bytes: usize,
    into: *mut c_void,
) -> herr_t {
    // SAFETY: HDF5 gives a buffer of so many bytes, which nobody else uses; they are zeroed before they are Rust's.
    unsafe {
        ptr::write_bytes(into.cast::<u8>(), 0, bytes);
        let into = slice::from_raw_parts_mut(into.cast::<u8>(), bytes);
        status(with(file, |storage| storage.read(piece(kind), at, into)))
    }
}

unsafe extern "C" fn write(
    file: *mut raw::File,
    kind: c_int,
    _: hid_t,
    at: haddr_t,
    bytes: usize,
    from: *const c_void,
) -> herr_t {
    // SAFETY: HDF5 gives a buffer of so many bytes, which nobody changes meanwhile.
    unsafe {
        let from = slice::from_raw_parts(from.cast::<u8>(), bytes);
        status(with(file, |storage| storage.write(piece(kind), at, from)))
    }
}

unsafe extern "C" fn truncate(file: *mut raw::File, _: hid_t, _: bool) -> herr_t {
    // SAFETY: as in `with`.
    unsafe {
        let end = (*file.cast::<Driven>()).end;
        status(with(file, |storage| storage.set_length(end)))
    }
}

unsafe extern "C" fn lock(file: *mut raw::File, is_exclusive: bool) -> herr_t {
    // SAFETY: as HDF5 promises.
    unsafe { status(with(file, |storage| storage.lock(is_exclusive))) }
}

unsafe extern "C" fn unlock(file: *mut raw::File) -> herr_t {
    // SAFETY: as HDF5 promises.
    unsafe { status(with(file, |storage| storage.unlock())) }
}
