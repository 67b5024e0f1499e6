//! The functions of liblsl that are used, as the C header declares them.
//!
//! Owns the signatures and nothing else. Every pointer in [`Api`] is of a library that is never unloaded.

#![allow(unsafe_code, reason = "looks functions of a C library up by name")]

use std::ffi::{c_char, c_double, c_float, c_ulong, c_void};
use std::path::Path;

use libloading::Library;

/// `lsl_streaminfo`, `lsl_outlet`, `lsl_inlet`, `lsl_continuous_resolver` and `lsl_xml_ptr`.
pub(crate) type Handle = *mut c_void;

/// Declares the table of functions and how it is filled.
macro_rules! api {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?,)+) => {
        /// liblsl, loaded.
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
            /// Never unloaded: an [`Api`] lives as long as the process.
            _library: Library,
        }

        impl Api {
            /// Opens a library and looks every function up.
            pub(crate) fn open(file: &Path) -> Result<Self, libloading::Error> {
                // SAFETY: loading runs the initialisers of the library that was asked for; liblsl's have no requirements.
                let library = unsafe { Library::new(file) }?;
                Ok(Self {
                    // SAFETY: the signatures are those of liblsl's headers, whose ABI is stable within major version 1.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }?,)+
                    _library: library,
                })
            }
        }
    };
}

api! {
    lsl_library_version: fn() -> i32,
    lsl_local_clock: fn() -> c_double,
    lsl_last_error: fn() -> *const c_char,
    lsl_set_config_content: fn(*const c_char),
    lsl_destroy_string: fn(*mut c_char),

    lsl_create_streaminfo: fn(*const c_char, *const c_char, i32, c_double, i32, *const c_char) -> Handle,
    lsl_destroy_streaminfo: fn(Handle),
    lsl_get_name: fn(Handle) -> *const c_char,
    lsl_get_type: fn(Handle) -> *const c_char,
    lsl_get_source_id: fn(Handle) -> *const c_char,
    lsl_get_hostname: fn(Handle) -> *const c_char,
    lsl_get_uid: fn(Handle) -> *const c_char,
    lsl_get_channel_count: fn(Handle) -> i32,
    lsl_get_channel_format: fn(Handle) -> i32,
    lsl_get_nominal_srate: fn(Handle) -> c_double,
    lsl_get_desc: fn(Handle) -> Handle,
    lsl_append_child: fn(Handle, *const c_char) -> Handle,
    lsl_append_child_value: fn(Handle, *const c_char, *const c_char) -> Handle,

    lsl_create_outlet_ex: fn(Handle, i32, i32, i32) -> Handle,
    lsl_destroy_outlet: fn(Handle),
    lsl_push_sample_ft: fn(Handle, *const c_float, c_double) -> i32,
    lsl_push_sample_dt: fn(Handle, *const c_double, c_double) -> i32,
    lsl_push_sample_buft: fn(Handle, *const *const c_char, *const u32, c_double) -> i32,
    lsl_have_consumers: fn(Handle) -> i32,

    lsl_create_inlet_ex: fn(Handle, i32, i32, i32, i32) -> Handle,
    lsl_destroy_inlet: fn(Handle),
    lsl_open_stream: fn(Handle, c_double, *mut i32),
    lsl_get_fullinfo: fn(Handle, c_double, *mut i32) -> Handle,
    lsl_pull_chunk_d: fn(Handle, *mut c_double, *mut c_double, c_ulong, c_ulong, c_double, *mut i32) -> c_ulong,
    lsl_pull_chunk_buf: fn(Handle, *mut *mut c_char, *mut u32, *mut c_double, c_ulong, c_ulong, c_double, *mut i32) -> c_ulong,
    lsl_time_correction_ex: fn(Handle, *mut c_double, *mut c_double, c_double, *mut i32) -> c_double,

    lsl_create_continuous_resolver_bypred: fn(*const c_char, c_double) -> Handle,
    lsl_resolver_results: fn(Handle, *mut Handle, u32) -> i32,
    lsl_destroy_continuous_resolver: fn(Handle),
}
