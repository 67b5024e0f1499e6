//! Plays a camera that films the coded screen of `youquanti calibrate`, on a v4l2loopback device.
//!
//!   code_feed DEV DELAY_MS EXPOSURE_MS
//!
//! Each picture, 160x120 YUYV, is as bright as the code was in the mean over EXPOSURE_MS, whose middle is DELAY_MS before the
//! picture is written. About 25 pictures a second, each up to 12 ms later than the last would have it, so that changes fall at all phases.
//!
//! Says `ready` after the first picture, and ends with its standard input. Then it prints a line for each picture: the time of
//! the look at the code, nanoseconds of CLOCK_MONOTONIC.
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static ENDS: AtomicBool = AtomicBool::new(false);

extern "C" {
    fn ioctl(fd: i32, request: u64, arg: *mut u8) -> i32;
    fn clock_gettime(clock: i32, to: *mut [i64; 2]) -> i32;
}
const S_FMT: u64 = 0xc0d0_5605;
const S_PARM: u64 = 0xc0cc_5616;
const OUTPUT: u32 = 2;
const WIDTH: u32 = 160;
const HEIGHT: u32 = 120;
const FRAME_NS: u64 = 40_000_000;
const LATEST_NS: u64 = 12_000_000;
const BIT_NS: u64 = 213_000_000;

/// CLOCK_MONOTONIC, nanoseconds.
fn now() -> u64 {
    let mut time = [0; 2];
    // SAFETY: the structure has two 64-bit words; 1 is CLOCK_MONOTONIC, which is always there
    unsafe { clock_gettime(1, &mut time) };
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

/// The code, written down once more: a shift register of seven ones, whose last two bits make the next first one.
fn code() -> Vec<bool> {
    let mut register = 0b111_1111u8;
    (0..127)
        .map(|_| {
            let out = register & 1;
            let next = (register ^ (register >> 1)) & 1;
            register = (register >> 1) | (next << 6);
            out == 1
        })
        .collect()
}

fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    if a.len() != 3 {
        eprintln!("usage: code_feed DEV DELAY_MS EXPOSURE_MS");
        std::process::exit(2);
    }
    let nanos = |i: usize| (a[i].parse::<f64>().expect("a number") * 1e6) as u64;
    let (delay, exposure) = (nanos(1), nanos(2));
    std::thread::spawn(|| {
        let end = std::io::stdin().read_to_end(&mut Vec::new());
        ENDS.store(true, Ordering::Relaxed);
        end.expect("standard input");
    });
    let mut dev = std::fs::OpenOptions::new().read(true).write(true).open(&a[0]).unwrap_or_else(|e| panic!("{}: {e}", a[0]));
    let call = |what: &str, request: u64, words: &[(usize, u32)]| {
        let mut b = [0u8; 208];
        words.iter().for_each(|(at, v)| b[*at..*at + 4].copy_from_slice(&v.to_le_bytes()));
        // SAFETY: the buffer is as large as the larger of the two structures
        if unsafe { ioctl(dev.as_raw_fd(), request, b.as_mut_ptr()) } != 0 {
            eprintln!("code_feed: {what}: {}", std::io::Error::last_os_error());
        }
    };
    let size = WIDTH * HEIGHT * 2;
    let yuyv = u32::from_le_bytes(*b"YUYV");
    call("S_FMT", S_FMT, &[(0, OUTPUT), (8, WIDTH), (12, HEIGHT), (16, yuyv), (20, 1), (24, WIDTH * 2), (28, size), (32, 8)]);
    call("S_PARM", S_PARM, &[(0, OUTPUT), (12, 1), (16, 25)]);
    let mut picture = [0u8, 128].repeat((size / 2) as usize);
    let code = code();
    let is_white = |at: u64| code[(at / BIT_NS % 127) as usize];
    let (start, mut random) = (now(), 1u64);
    let mut written = Vec::new();
    for k in 0.. {
        if ENDS.load(Ordering::Relaxed) {
            break;
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let due = start + k * FRAME_NS + (random >> 33) % LATEST_NS;
        std::thread::sleep(Duration::from_nanos(due.saturating_sub(now())));
        let looked = now();
        // An exposure is shorter than a bit, so it sees one change at most.
        let (from, to) = (looked - delay - exposure / 2, looked - delay + exposure / 2);
        let after_change = (to % BIT_NS).min(to - from);
        let white_ns = if is_white(to) { after_change } else { 0 } + if is_white(from) { to - from - after_change } else { 0 };
        let level = 30 + (190 * white_ns + exposure / 2) / exposure;
        picture.iter_mut().step_by(2).for_each(|luma| *luma = level as u8);
        dev.write_all(&picture).expect("write");
        written.push(looked);
        if k == 0 {
            println!("ready");
        }
    }
    for looked in written {
        println!("{looked}");
    }
    std::io::stdout().flush().expect("standard output");
}
