//! The kernel's structures (`linux/videodev2.h`) and calls, with its names shortened.
//!
//! Sizes, and so the calls' numbers, are checked when this is compiled. Only 64-bit targets.

use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::io::{Result, retry_on_intr};
use rustix::ioctl::{Setter, Updater, ioctl, opcode};

/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`
pub(crate) const CAPTURE: u32 = 1;
pub(crate) const MEMORY_MMAP: u32 = 1;
pub(crate) const FIELD_NONE: u32 = 1;
/// `V4L2_FRMSIZE_TYPE_DISCRETE` and `V4L2_FRMIVAL_TYPE_DISCRETE`
pub(crate) const DISCRETE: u32 = 1;
pub(crate) const CAP_VIDEO_CAPTURE: u32 = 0x0000_0001;
pub(crate) const CAP_STREAMING: u32 = 0x0400_0000;
pub(crate) const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
pub(crate) const FLAG_ERROR: u32 = 0x0000_0040;
pub(crate) const FLAG_TIMESTAMP_MASK: u32 = 0x0000_e000;
pub(crate) const FLAG_TIMESTAMP_MONOTONIC: u32 = 0x0000_2000;
pub(crate) const FLAG_TSTAMP_SRC_MASK: u32 = 0x0007_0000;
pub(crate) const FLAG_TSTAMP_SRC_SOE: u32 = 0x0001_0000;
pub(crate) const CTRL_FLAG_NEXT_CTRL: u32 = 0x8000_0000;
pub(crate) const CTRL_FLAG_DISABLED: u32 = 0x0001;
pub(crate) const CTRL_FLAG_GRABBED: u32 = 0x0002;
pub(crate) const CTRL_FLAG_READ_ONLY: u32 = 0x0004;
pub(crate) const CTRL_FLAG_INACTIVE: u32 = 0x0010;
pub(crate) const CTRL_FLAG_WRITE_ONLY: u32 = 0x0040;
pub(crate) const CTRL_FLAG_HAS_PAYLOAD: u32 = 0x0100;

/// `struct v4l2_capability`
#[repr(C)]
#[derive(Default)]
pub(crate) struct Capability {
    pub(crate) driver: [u8; 16],
    pub(crate) card: [u8; 32],
    pub(crate) bus_info: [u8; 32],
    pub(crate) version: u32,
    pub(crate) capabilities: u32,
    pub(crate) device_caps: u32,
    pub(crate) reserved: [u32; 3],
}

/// `struct v4l2_fmtdesc`
#[repr(C)]
#[derive(Default)]
pub(crate) struct FormatDescription {
    pub(crate) index: u32,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) description: [u8; 32],
    pub(crate) pixelformat: u32,
    pub(crate) mbus_code: u32,
    pub(crate) reserved: [u32; 3],
}

/// `struct v4l2_frmsizeenum`; `sizes` is width, height, or min, max, step of the width, then of the height.
#[repr(C)]
#[derive(Default)]
pub(crate) struct FrameSizes {
    pub(crate) index: u32,
    pub(crate) pixel_format: u32,
    pub(crate) kind: u32,
    pub(crate) sizes: [u32; 6],
    pub(crate) reserved: [u32; 2],
}

/// `struct v4l2_frmivalenum`; `intervals` is one fraction, or those of min, max, step.
#[repr(C)]
#[derive(Default)]
pub(crate) struct FrameIntervals {
    pub(crate) index: u32,
    pub(crate) pixel_format: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) kind: u32,
    pub(crate) intervals: [u32; 6],
    pub(crate) reserved: [u32; 2],
}

/// `struct v4l2_pix_format`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct PixFormat {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixelformat: u32,
    pub(crate) field: u32,
    pub(crate) bytesperline: u32,
    pub(crate) sizeimage: u32,
    pub(crate) colorspace: u32,
    pub(crate) private: u32,
    pub(crate) flags: u32,
    pub(crate) ycbcr_enc: u32,
    pub(crate) quantization: u32,
    pub(crate) xfer_func: u32,
}

/// `struct v4l2_format` with the `pix` member of its union, which is 200 bytes aligned to 8.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Format {
    pub(crate) kind: u32,
    pub(crate) padding: u32,
    pub(crate) pix: PixFormat,
    pub(crate) rest: [u64; 19],
}

/// `struct v4l2_streamparm` with the `capture` member of its union, which is 200 bytes.
#[repr(C)]
pub(crate) struct StreamParameters {
    pub(crate) kind: u32,
    pub(crate) capability: u32,
    pub(crate) capturemode: u32,
    pub(crate) interval: [u32; 2],
    pub(crate) rest: [u32; 46],
}

impl Default for StreamParameters {
    fn default() -> Self {
        Self { kind: 0, capability: 0, capturemode: 0, interval: [0; 2], rest: [0; 46] }
    }
}

/// `struct v4l2_requestbuffers`
#[repr(C)]
#[derive(Default)]
pub(crate) struct RequestBuffers {
    pub(crate) count: u32,
    pub(crate) kind: u32,
    pub(crate) memory: u32,
    pub(crate) capabilities: u32,
    pub(crate) flags: u8,
    pub(crate) reserved: [u8; 3],
}

/// `struct v4l2_buffer`; `offset` is the member of its union for mapped buffers.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Buffer {
    pub(crate) index: u32,
    pub(crate) kind: u32,
    pub(crate) bytesused: u32,
    pub(crate) flags: u32,
    pub(crate) field: u32,
    pub(crate) padding: u32,
    pub(crate) seconds: i64,
    pub(crate) microseconds: i64,
    pub(crate) timecode: [u32; 4],
    pub(crate) sequence: u32,
    pub(crate) memory: u32,
    pub(crate) offset: u32,
    pub(crate) offset_high: u32,
    pub(crate) length: u32,
    pub(crate) reserved: [u32; 2],
    pub(crate) padding_end: u32,
}

/// `struct v4l2_query_ext_ctrl`
#[repr(C)]
pub(crate) struct QueryControl {
    pub(crate) id: u32,
    pub(crate) kind: u32,
    pub(crate) name: [u8; 32],
    pub(crate) minimum: i64,
    pub(crate) maximum: i64,
    pub(crate) step: u64,
    pub(crate) default: i64,
    pub(crate) flags: u32,
    pub(crate) elem_size: u32,
    pub(crate) elems: u32,
    pub(crate) nr_of_dims: u32,
    pub(crate) dims: [u32; 4],
    pub(crate) reserved: [u32; 32],
}

impl QueryControl {
    pub(crate) fn after(id: u32) -> Self {
        Self {
            id: id | CTRL_FLAG_NEXT_CTRL,
            kind: 0,
            name: [0; 32],
            minimum: 0,
            maximum: 0,
            step: 0,
            default: 0,
            flags: 0,
            elem_size: 0,
            elems: 0,
            nr_of_dims: 0,
            dims: [0; 4],
            reserved: [0; 32],
        }
    }
}

/// `struct v4l2_querymenu`; `name` is the member of its union for menus, whose first 8 bytes are the number of
/// an entry of an integer menu. The kernel packs it, which changes nothing for bytes.
#[repr(C)]
#[derive(Default)]
pub(crate) struct QueryMenu {
    pub(crate) id: u32,
    pub(crate) index: u32,
    pub(crate) name: [u8; 32],
    pub(crate) reserved: u32,
}

/// `struct v4l2_ext_control`, which the kernel packs; `value` is the member of its union for one number. A
/// 32-bit value is its first half, and it is aligned to 4.
#[repr(C, packed(4))]
struct ExtControl {
    id: u32,
    size: u32,
    reserved: u32,
    value: i64,
}

/// `struct v4l2_ext_controls`, for one control.
#[repr(C)]
struct ExtControls {
    which: u32,
    count: u32,
    error_index: u32,
    request_fd: i32,
    reserved: u32,
    controls: *mut ExtControl,
}

const _: () = assert!(size_of::<usize>() == 8, "the structures are those of 64-bit kernels");

/// One call: a safe function over an ioctl that reads and writes one structure. The number as the
/// kernel has it, which holds the structure's size, is checked against the structure.
macro_rules! call {
    ($name:ident, $opcode:ident, $number:literal, $kernel:literal, $structure:ty) => {
        pub(crate) fn $name(fd: BorrowedFd<'_>, structure: &mut $structure) -> Result<()> {
            const OPCODE: rustix::ioctl::Opcode = opcode::$opcode::<$structure>(b'V', $number);
            const _: () = assert!(OPCODE == $kernel);
            retry_on_intr(|| {
                // SAFETY: the structure is `repr(C)`, has the size that the call's number names, and any
                // bytes are valid for its fields.
                let update = unsafe { Updater::<OPCODE, $structure>::new(structure) };
                // SAFETY: the call reads and writes the structure only; the buffers it speaks of are mapped
                // and unmapped elsewhere, and stay mapped while queued.
                unsafe { ioctl(fd, update) }
            })
        }
    };
}

call!(querycap, read, 0, 0x8068_5600, Capability);
call!(enum_fmt, read_write, 2, 0xc040_5602, FormatDescription);
call!(g_fmt, read_write, 4, 0xc0d0_5604, Format);
call!(s_fmt, read_write, 5, 0xc0d0_5605, Format);
call!(reqbufs, read_write, 8, 0xc014_5608, RequestBuffers);
call!(querybuf, read_write, 9, 0xc058_5609, Buffer);
call!(qbuf, read_write, 15, 0xc058_560f, Buffer);
call!(dqbuf, read_write, 17, 0xc058_5611, Buffer);
call!(g_parm, read_write, 21, 0xc0cc_5615, StreamParameters);
call!(s_parm, read_write, 22, 0xc0cc_5616, StreamParameters);
call!(query_menu, read_write, 37, 0xc02c_5625, QueryMenu);
call!(enum_framesizes, read_write, 74, 0xc02c_564a, FrameSizes);
call!(enum_frameintervals, read_write, 75, 0xc034_564b, FrameIntervals);
call!(query_control, read_write, 103, 0xc0e8_5667, QueryControl);

pub(crate) fn streamon(fd: BorrowedFd<'_>, kind: i32) -> Result<()> {
    const OPCODE: rustix::ioctl::Opcode = opcode::write::<i32>(b'V', 18);
    const _: () = assert!(OPCODE == 0x4004_5612);
    // SAFETY: the call reads one integer.
    let set = unsafe { Setter::<OPCODE, i32>::new(kind) };
    // SAFETY: as above; the queued buffers are mapped.
    unsafe { ioctl(fd, set) }
}

pub(crate) fn streamoff(fd: BorrowedFd<'_>, kind: i32) -> Result<()> {
    const OPCODE: rustix::ioctl::Opcode = opcode::write::<i32>(b'V', 19);
    const _: () = assert!(OPCODE == 0x4004_5613);
    // SAFETY: the call reads one integer.
    let set = unsafe { Setter::<OPCODE, i32>::new(kind) };
    // SAFETY: as above.
    unsafe { ioctl(fd, set) }
}

/// Reads a control (`value` is `None`) or sets it, and returns the driver's value: 64 bits, of which a control of
/// 32 bits uses the lower ones.
pub(crate) fn ext_control(fd: BorrowedFd<'_>, id: u32, value: Option<i64>) -> Result<i64> {
    const GET: rustix::ioctl::Opcode = opcode::read_write::<ExtControls>(b'V', 71);
    const SET: rustix::ioctl::Opcode = opcode::read_write::<ExtControls>(b'V', 72);
    const _: () = assert!(GET == 0xc020_5647 && SET == 0xc020_5648 && size_of::<ExtControl>() == 20);
    let mut control = ExtControl { id, size: 0, reserved: 0, value: value.unwrap_or(0) };
    let mut controls = ExtControls {
        which: 0, // V4L2_CTRL_WHICH_CUR_VAL: of any class
        count: 1,
        error_index: 0,
        request_fd: 0,
        reserved: 0,
        controls: ptr::from_mut(&mut control),
    };
    retry_on_intr(|| match value {
        None => {
            // SAFETY: the structure is the kernel's, its size is in the call's number.
            let update = unsafe { Updater::<GET, ExtControls>::new(&mut controls) };
            // SAFETY: `controls` points at as many controls as it says, one, which outlives the call.
            unsafe { ioctl(fd, update) }
        }
        Some(_) => {
            // SAFETY: as above.
            let update = unsafe { Updater::<SET, ExtControls>::new(&mut controls) };
            // SAFETY: as above.
            unsafe { ioctl(fd, update) }
        }
    })?;
    Ok(control.value)
}
