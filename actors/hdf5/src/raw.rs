//! HDF5's structures of a file driver, as `H5FDdevelop.h` of HDF5 2 has them. Those of `hdf5-metno-sys` 0.12 lack fields.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

use hdf5_sys::h5::{haddr_t, herr_t, hsize_t};
use hdf5_sys::h5i::hid_t;

/// Version of [`Class`]. HDF5 refuses to register any other.
pub(crate) const CLASS_VERSION: c_uint = 1;

/// Numbers of drivers from 256 to 511 are free for programs that do not share them with others.
pub(crate) const VALUE: c_int = 511;

/// `H5FD_mem_t`: what a piece of a file is for. Pieces of rows are `DRAW`, and those of `GHEAP` come as such.
pub(crate) mod mem {
    use std::ffi::c_int;

    pub(crate) const SUPER: c_int = 1;
    pub(crate) const DRAW: c_int = 3;
    pub(crate) const GHEAP: c_int = 4;
    pub(crate) const COUNT: usize = 7;
}

/// `H5FD_FEAT_…`: those of HDF5's own driver of plain files, but for the one that says that there is a descriptor.
pub(crate) mod feature {
    use std::ffi::c_ulong;

    const AGGREGATE_METADATA: c_ulong = 0x1;
    const ACCUMULATE_METADATA: c_ulong = 0x2 | 0x4;
    const DATA_SIEVE: c_ulong = 0x8;
    const AGGREGATE_SMALLDATA: c_ulong = 0x10;
    const SUPPORTS_SWMR_IO: c_ulong = 0x1000;
    const DEFAULT_VFD_COMPATIBLE: c_ulong = 0x8000;

    pub(crate) const ALL: c_ulong = AGGREGATE_METADATA
        | ACCUMULATE_METADATA
        | DATA_SIEVE
        | AGGREGATE_SMALLDATA
        | SUPPORTS_SWMR_IO
        | DEFAULT_VFD_COMPATIBLE;
}

/// `H5FD_t`: what HDF5 keeps of an open file; a driver's own fields follow it.
#[repr(C)]
pub(crate) struct File {
    driver_id: hid_t,
    class: *const Class,
    fileno: c_ulong,
    access_flags: c_uint,
    feature_flags: c_ulong,
    maxaddr: haddr_t,
    base_addr: haddr_t,
    threshold: hsize_t,
    alignment: hsize_t,
    paged_aggr: bool,
}

impl File {
    /// Before HDF5 has filled it in.
    pub(crate) fn empty() -> Self {
        Self {
            driver_id: 0,
            class: std::ptr::null(),
            fileno: 0,
            access_flags: 0,
            feature_flags: 0,
            maxaddr: 0,
            base_addr: 0,
            threshold: 0,
            alignment: 0,
            paged_aggr: false,
        }
    }
}

/// A function that no driver of ours has.
pub(crate) type Absent = Option<unsafe extern "C" fn()>;

/// `H5FD_class_t`: what a driver can do.
#[repr(C)]
pub(crate) struct Class {
    pub(crate) version: c_uint,
    pub(crate) value: c_int,
    pub(crate) name: *const c_char,
    pub(crate) maxaddr: haddr_t,
    pub(crate) fc_degree: c_int,
    pub(crate) terminate: Absent,
    pub(crate) sb_size: Absent,
    pub(crate) sb_encode: Absent,
    pub(crate) sb_decode: Absent,
    pub(crate) fapl_size: usize,
    pub(crate) fapl_get: Absent,
    pub(crate) fapl_copy: Absent,
    pub(crate) fapl_free: Absent,
    pub(crate) dxpl_size: usize,
    pub(crate) dxpl_copy: Absent,
    pub(crate) dxpl_free: Absent,
    pub(crate) open: unsafe extern "C" fn(*const c_char, c_uint, hid_t, haddr_t) -> *mut File,
    pub(crate) close: unsafe extern "C" fn(*mut File) -> herr_t,
    pub(crate) cmp: Absent,
    pub(crate) query: unsafe extern "C" fn(*const File, *mut c_ulong) -> herr_t,
    pub(crate) get_type_map: Absent,
    pub(crate) alloc: Absent,
    pub(crate) free: Absent,
    pub(crate) get_eoa: unsafe extern "C" fn(*const File, c_int) -> haddr_t,
    pub(crate) set_eoa: unsafe extern "C" fn(*mut File, c_int, haddr_t) -> herr_t,
    pub(crate) get_eof: unsafe extern "C" fn(*const File, c_int) -> haddr_t,
    pub(crate) get_handle: Absent,
    pub(crate) read: unsafe extern "C" fn(*mut File, c_int, hid_t, haddr_t, usize, *mut c_void) -> herr_t,
    pub(crate) write: unsafe extern "C" fn(*mut File, c_int, hid_t, haddr_t, usize, *const c_void) -> herr_t,
    pub(crate) read_vector: Absent,
    pub(crate) write_vector: Absent,
    pub(crate) read_selection: Absent,
    pub(crate) write_selection: Absent,
    pub(crate) flush: Absent,
    pub(crate) truncate: unsafe extern "C" fn(*mut File, hid_t, bool) -> herr_t,
    pub(crate) lock: unsafe extern "C" fn(*mut File, bool) -> herr_t,
    pub(crate) unlock: unsafe extern "C" fn(*mut File) -> herr_t,
    pub(crate) del: Absent,
    pub(crate) ctl: Absent,
    pub(crate) fl_map: [c_int; mem::COUNT],
}
