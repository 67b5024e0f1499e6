//! Plays pictures into a v4l2loopback device, which then is a camera that shows them.
//!
//!   v4l2_feed DEVICE YUYV|MJPG WIDTH HEIGHT FPS SECONDS FILE...
//!
//! YUYV files hold raw frames one after another, MJPG files are one JPEG each; played in turn, and again.
//! Standard library only: it is built by rustc alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn ioctl(fd: i32, request: u64, argument: *mut u8) -> i32;
}

// <linux/videodev2.h>: the request encodes the size of what it takes.
const VIDIOC_QUERYCAP: u64 = 0x8068_5600;
const VIDIOC_S_FMT: u64 = 0xc0d0_5605;
const VIDIOC_S_PARM: u64 = 0xc0cc_5616;
const LARGEST_ARGUMENT: usize = 208;
const BUF_TYPE_VIDEO_OUTPUT: u32 = 2;
const FIELD_NONE: u32 = 1;
const COLORSPACE_SRGB: u32 = 8;
const USAGE: &str = "usage: v4l2_feed DEVICE YUYV|MJPG WIDTH HEIGHT FPS SECONDS FILE...";

/// Calls the driver with a structure that is zero but for these words, each at its offset in bytes. While a reader
/// has the device open its format stays as it is: the driver refuses, and frames can be written all the same.
fn call(device: &File, request: u64, words: &[(usize, u32)]) {
    let mut argument = [0u8; LARGEST_ARGUMENT];
    for &(at, value) in words {
        argument[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    // SAFETY: the argument is as large as the larger of the two structures.
    let status = unsafe { ioctl(device.as_raw_fd(), request, argument.as_mut_ptr()) };
    if status != 0 {
        eprintln!("v4l2_feed: ioctl {request:#x}: {}", io::Error::last_os_error());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, format, width, height, fps, seconds, files @ ..] = &arguments[..] else { panic!("{USAGE}") };
    let whole = |text: &String| text.parse::<u32>().expect(USAGE);
    let (width, height, fps) = (whole(width), whole(height), fps.parse::<f64>().expect(USAGE));
    let length = Duration::from_secs_f64(seconds.parse().expect(USAGE));
    let raw_bytes = width * height * 2;

    let mut frames: Vec<Vec<u8>> = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        match format.as_str() {
            "MJPG" => frames.push(bytes),
            _ => frames.extend(bytes.chunks_exact(raw_bytes as usize).map(<[u8]>::to_vec)),
        }
    }
    assert!(!frames.is_empty(), "no whole frame in the files");

    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let fourcc = u32::from_le_bytes(format.as_bytes().try_into().expect(USAGE));
    // The driver changes its mind on whether it captures or shows when it is asked, and not before.
    call(&device, VIDIOC_QUERYCAP, &[]);
    call(
        &device,
        VIDIOC_S_FMT,
        &[
            (0, BUF_TYPE_VIDEO_OUTPUT),
            (8, width),
            (12, height),
            (16, fourcc),
            (20, FIELD_NONE),
            (28, raw_bytes),
            (32, COLORSPACE_SRGB),
        ],
    );
    call(&device, VIDIOC_S_PARM, &[(0, BUF_TYPE_VIDEO_OUTPUT), (12, 1000), (16, (fps * 1000.0) as u32)]);

    let began = Instant::now();
    let mut played = 0usize;
    while began.elapsed() < length {
        device.write_all(&frames[played % frames.len()]).expect("the device takes a frame");
        played += 1;
        let due = Duration::from_secs_f64(played as f64 / fps);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    println!("v4l2_feed {path}: {played} frames in {:.2} s", began.elapsed().as_secs_f64());
}
