//! A USB webcam in software, for the test VM: speaks the kernel's USB/IP protocol over a socket pair
//! and is plugged into the virtual host controller `vhci_hcd`, so that the kernel's own `uvcvideo`
//! driver makes a /dev/videoN of it, with MJPG (and YUYV when raw frames are given).
//!
//!   uvc_cam PORT W H FPS JPEG... [-- RAW]
//!
//! PORT is the virtual USB port (0..14, one a camera). RAW holds YUYV frames one after another.
//! Lines on standard input make it fail:
//!   unplug | plug     pulls the cable (the node goes away) and puts it back
//!   stall | go        stops sending frames, the device stays; sends again
//!   error N           the next N frames carry the payload header's error bit
//!   cut N             the next N frames end after a third of their bytes
//!   junk N            the next N frames are random bytes instead of a JPEG
//!   proto N           the next N USB transfers fail with -EPROTO
//!   quit
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Unit, selector, bytes, least, greatest, step, default of a control; of the exposure's mode the step is the set of modes.
const CONTROLS: [(u8, u8, usize, u32, u32, u32, u32); 10] = [
    (1, 0x02, 1, 1, 8, 9, 8),             // exposure: manual (1) or aperture priority (8)
    (1, 0x03, 1, 0, 1, 1, 1),             // exposure may lower the rate
    (1, 0x04, 4, 1, 5000, 1, 157),        // exposure time, 100 us
    (1, 0x06, 2, 0, 250, 5, 0),           // focus
    (1, 0x08, 1, 0, 1, 1, 1),             // focus by itself
    (3, 0x02, 2, 0, 255, 1, 128),         // brightness
    (3, 0x04, 2, 0, 100, 1, 10),          // gain
    (3, 0x05, 1, 0, 2, 1, 2),             // power line
    (3, 0x0a, 2, 2800, 6500, 1, 4000),    // white balance, kelvin
    (3, 0x0b, 1, 0, 1, 1, 1),             // white balance by itself
];
/// Controls that a control of the same unit locks, unless it has this value.
const LOCKS: [(u8, u8, u8, u32); 3] = [(1, 0x04, 0x02, 1), (1, 0x06, 0x08, 0), (3, 0x0a, 0x0b, 0)];

const PAYLOAD: usize = 16384; // 32 packets of 512 bytes: one URB of uvcvideo's

struct Cam {
    port: u32,
    w: u16,
    h: u16,
    fps: u32,
    jpegs: Vec<Vec<u8>>,
    raws: Vec<Vec<u8>>,
    m: Mutex<State>,
}
#[derive(Default)]
struct State {
    sock: Option<UnixStream>,
    urbs: VecDeque<(u32, usize)>, // bulk transfers that wait for data: sequence number, room
    probe: [u8; 26],
    stall: bool,
    error: u32,
    cut: u32,
    junk: u32,
    proto: u32,
    sent: u64,
    set: HashMap<(u8, u8), u32>, // controls that were set
}

fn be(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().unwrap())
}
fn reply(s: &mut State, cmd: u32, seq: u32, status: i32, len: usize, data: &[u8]) {
    let mut b = vec![0u8; 48];
    b[0..4].copy_from_slice(&cmd.to_be_bytes());
    b[4..8].copy_from_slice(&seq.to_be_bytes());
    b[20..24].copy_from_slice(&status.to_be_bytes());
    b[24..28].copy_from_slice(&(len as u32).to_be_bytes());
    b.extend_from_slice(data);
    if let Some(k) = &mut s.sock {
        let _ = k.write_all(&b);
    }
}

impl Cam {
    fn formats(&self) -> u8 {
        1 + !self.raws.is_empty() as u8
    }
    fn frame_size(&self) -> u32 {
        let raw = self.w as u32 * self.h as u32 * 2;
        raw.max(self.jpegs.iter().map(|j| j.len() as u32).max().unwrap_or(0))
    }
    fn default_probe(&self) -> [u8; 26] {
        let mut p = [0u8; 26];
        p[2] = 1;
        p[3] = 1;
        p[4..8].copy_from_slice(&(10_000_000 / self.fps).to_le_bytes());
        self.fix(&mut p);
        p
    }
    fn fix(&self, p: &mut [u8; 26]) {
        p[2] = p[2].clamp(1, self.formats());
        p[3] = 1;
        p[4..8].copy_from_slice(&(10_000_000 / self.fps).to_le_bytes());
        p[18..22].copy_from_slice(&self.frame_size().to_le_bytes());
        p[22..26].copy_from_slice(&(PAYLOAD as u32).to_le_bytes());
    }
    fn config(&self) -> Vec<u8> {
        let frame = |sub: u8| {
            let iv = (10_000_000 / self.fps).to_le_bytes();
            let mut f = vec![30, 0x24, sub, 1, 0];
            f.extend(self.w.to_le_bytes());
            f.extend(self.h.to_le_bytes());
            f.extend([0, 0, 0x10, 0, 0, 0, 0x10, 8]); // bit rates
            f.extend(self.frame_size().to_le_bytes());
            f.extend(iv);
            f.push(1);
            f.extend(iv);
            f
        };
        let mut vs = vec![];
        vs.extend([0x0b, 0x24, 0x06, 1, 1, 0, 1, 0, 0, 0, 0]); // MJPEG
        vs.extend(frame(0x07));
        vs.extend([6, 0x24, 0x0d, 1, 1, 4]);
        if self.formats() > 1 {
            vs.extend([0x1b, 0x24, 0x04, 2, 1]);
            vs.extend(b"YUY2\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71");
            vs.extend([16, 1, 0, 0, 0, 0]);
            vs.extend(frame(0x05));
            vs.extend([6, 0x24, 0x0d, 1, 1, 4]);
        }
        let n = self.formats();
        let mut head = vec![13 + n, 0x24, 0x01, n, 0, 0, 0x81, 0, 2, 0, 0, 0, 1];
        head.extend(vec![0; n as usize]);
        let total = (head.len() + vs.len()) as u16;
        head[4..6].copy_from_slice(&total.to_le_bytes());

        let mut vc = vec![13, 0x24, 0x01, 0x00, 0x01, 0, 0, 0x00, 0x6c, 0xdc, 0x02, 1, 1];
        vc.extend([18, 0x24, 0x02, 1, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0x2e, 0, 0x02]); // camera
        vc.extend([11, 0x24, 0x05, 3, 1, 0, 0, 2, 0x41, 0x16, 0]); // brightness, white balance, gain, power line
        vc.extend([9, 0x24, 0x03, 2, 0x01, 0x01, 0, 3, 0]); // to USB
        let total = vc.len() as u16;
        vc[5..7].copy_from_slice(&total.to_le_bytes());

        let mut c = vec![9, 2, 0, 0, 2, 1, 0, 0x80, 50];
        c.extend([8, 0x0b, 0, 2, 0x0e, 3, 0, 2]);
        c.extend([9, 4, 0, 0, 0, 0x0e, 1, 0, 0]);
        c.extend(vc);
        c.extend([9, 4, 1, 0, 1, 0x0e, 2, 0, 0]);
        c.extend(head);
        c.extend(vs);
        c.extend([7, 5, 0x81, 2, 0, 2, 0]); // bulk in, 512 bytes
        let total = c.len() as u16;
        c[2..4].copy_from_slice(&total.to_le_bytes());
        c
    }
    /// What an IN request is answered with, or None for a stall.
    fn control(&self, s: &mut State, setup: &[u8], out: &[u8]) -> Option<Vec<u8>> {
        let (rt, rq, val, _idx) = (setup[0], setup[1], setup[2] as u16 | (setup[3] as u16) << 8, setup[4]);
        let control = CONTROLS.iter().find(|c| setup[4] == 0 && c.0 == setup[5] && u16::from(c.1) == val >> 8);
        if let (Some(&(unit, sel, len, min, max, step, def)), 0x21 | 0xa1) = (control, rt) {
            let now = |s: &State, sel| {
                let def = CONTROLS.iter().find(|c| c.0 == unit && c.1 == sel).map_or(0, |c| c.6);
                s.set.get(&(unit, sel)).copied().unwrap_or(def)
            };
            let answer = |v: u32| Some(v.to_le_bytes()[..len].to_vec());
            return match rq {
                0x01 => {
                    let mut v = [0; 4];
                    v[..len].copy_from_slice(out.get(..len)?);
                    let lock = LOCKS.iter().find(|l| l.0 == unit && l.1 == sel);
                    if lock.is_some_and(|l| now(s, l.2) != l.3) {
                        return None;
                    }
                    s.set.insert((unit, sel), u32::from_le_bytes(v));
                    Some(vec![])
                }
                0x81 => answer(now(s, sel)),
                0x82 => answer(min),
                0x83 => answer(max),
                0x84 => answer(step),
                0x85 => Some(vec![len as u8, 0]),
                0x86 => Some(vec![3]),
                0x87 => answer(def),
                _ => None,
            };
        }
        match (rt, rq) {
            (0x80, 6) => match val >> 8 {
                1 => Some(vec![18, 1, 0, 2, 0xef, 2, 1, 64, 0x09, 0x12, 1, 0, 0, 1, 1, 2, 3, 1]),
                2 => Some(self.config()),
                3 if val & 0xff == 0 => Some(vec![4, 3, 9, 4]),
                3 => {
                    let t = match val & 0xff {
                        1 => "Test".to_string(),
                        2 => format!("Test camera {}", self.port),
                        _ => format!("SN{:04}", self.port),
                    };
                    let mut d = vec![0, 3];
                    t.encode_utf16().for_each(|c| d.extend(c.to_le_bytes()));
                    d[0] = d.len() as u8;
                    Some(d)
                }
                _ => None,
            },
            (0x80..=0x82, 0) => Some(vec![0, 0]),
            (0x80, 8) => Some(vec![1]),
            (0x81, 10) => Some(vec![0]),
            (0x00..=0x02, _) => Some(vec![]),
            (0xa1, 0x86) => Some(vec![3]),
            (0xa1, 0x85) => Some(vec![26, 0]),
            (0xa1, 0x81..=0x87) if setup[4] == 1 => Some(s.probe.to_vec()),
            (0x21, 0x01) if setup[4] == 1 && out.len() >= 26 => {
                s.probe.copy_from_slice(&out[..26]);
                let mut p = s.probe;
                self.fix(&mut p);
                s.probe = p;
                Some(vec![])
            }
            _ => None,
        }
    }
    fn serve(&self, mut k: UnixStream) {
        let mut h = [0u8; 48];
        while k.read_exact(&mut h).is_ok() {
            let (cmd, seq, dir, ep) = (be(&h, 0), be(&h, 4), be(&h, 12), be(&h, 16));
            if cmd == 2 {
                let victim = be(&h, 20);
                let mut s = self.m.lock().unwrap();
                let at = s.urbs.iter().position(|u| u.0 == victim);
                if let Some(i) = at {
                    s.urbs.remove(i);
                }
                reply(&mut s, 4, seq, if at.is_some() { -104 } else { 0 }, 0, &[]);
                continue;
            }
            let len = be(&h, 24) as usize;
            let mut out = vec![];
            if dir == 0 && len > 0 {
                out = vec![0; len];
                if k.read_exact(&mut out).is_err() {
                    break;
                }
            }
            let mut s = self.m.lock().unwrap();
            if ep == 0 {
                match self.control(&mut s, &h[40..48], &out) {
                    None => reply(&mut s, 3, seq, -32, 0, &[]),
                    Some(mut d) => {
                        d.truncate(len);
                        let n = if dir == 0 { len } else { d.len() };
                        reply(&mut s, 3, seq, 0, n, &d);
                    }
                }
            } else {
                s.urbs.push_back((seq, len));
            }
        }
    }
    fn plug(self: &Arc<Self>) {
        for _ in 0..50 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            {
                let mut s = self.m.lock().unwrap();
                s.urbs.clear();
                s.probe = self.default_probe();
                s.sock = Some(ours.try_clone().unwrap());
            }
            // port, socket, device id, speed (3 = high)
            let line = format!("{} {} {} 3", self.port, theirs.as_raw_fd(), self.port + 1);
            match std::fs::write("/sys/devices/platform/vhci_hcd.0/attach", line) {
                Ok(()) => {
                    let me = self.clone();
                    std::thread::spawn(move || me.serve(ours));
                    println!("uvc_cam {}: plugged", self.port);
                    return;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)), // the port is still busy with the last one
            }
        }
        println!("uvc_cam {}: cannot plug", self.port);
    }
    fn unplug(&self) {
        if let Some(k) = self.m.lock().unwrap().sock.take() {
            let _ = k.shutdown(std::net::Shutdown::Both);
        }
        println!("uvc_cam {}: unplugged", self.port);
    }
    /// Sends frames at the set rate to the transfers that wait.
    fn stream(&self) {
        let (mut n, mut fid, mut due) = (0usize, 0u8, Instant::now());
        loop {
            due += Duration::from_secs(1) / self.fps;
            match due.checked_duration_since(Instant::now()) {
                Some(d) => std::thread::sleep(d),
                None => due = Instant::now(),
            }
            let (src, flags) = {
                let mut s = self.m.lock().unwrap();
                if s.stall || s.urbs.is_empty() || s.sock.is_none() {
                    continue;
                }
                let set = if s.probe[2] == 2 { &self.raws } else { &self.jpegs };
                let mut f = set[n % set.len()].clone();
                let mut flags = 0x80 | fid;
                if s.error > 0 {
                    s.error -= 1;
                    flags |= 0x40;
                }
                if s.cut > 0 {
                    s.cut -= 1;
                    f.truncate(f.len() / 3);
                }
                if s.junk > 0 {
                    s.junk -= 1;
                    let mut x = 12345u32;
                    f.iter_mut().for_each(|b| {
                        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
                        *b = (x >> 24) as u8
                    });
                }
                (f, flags)
            };
            n += 1;
            fid ^= 1;
            let mut at = 0;
            let began = Instant::now();
            while at < src.len() {
                let mut s = self.m.lock().unwrap();
                if s.sock.is_none() || began.elapsed() > Duration::from_secs(1) {
                    break; // nobody takes the rest of it
                }
                let Some((seq, room)) = s.urbs.pop_front() else {
                    drop(s);
                    std::thread::sleep(Duration::from_micros(300));
                    continue;
                };
                if s.proto > 0 {
                    s.proto -= 1;
                    reply(&mut s, 3, seq, -71, 0, &[]);
                    continue;
                }
                let take = (room - 2).min(src.len() - at);
                let last = at + take == src.len();
                let mut d = vec![2, flags | if last { 2 } else { 0 }];
                d.extend_from_slice(&src[at..at + take]);
                reply(&mut s, 3, seq, 0, d.len(), &d);
                at += take;
                s.sent += last as u64;
            }
        }
    }
}

fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    if a.len() < 5 {
        eprintln!("usage: uvc_cam PORT W H FPS JPEG... [-- RAW]");
        std::process::exit(2);
    }
    let num = |i: usize| a[i].parse::<u32>().expect("a number");
    let split = a.iter().position(|x| x == "--").unwrap_or(a.len());
    let (w, h) = (num(1), num(2));
    let read = |p: &String| std::fs::read(p).unwrap_or_else(|e| panic!("{p}: {e}"));
    let raws = a
        .get(split + 1)
        .map(|p| read(p).chunks_exact((w * h * 2) as usize).map(|c| c.to_vec()).collect())
        .unwrap_or_default();
    let cam = Arc::new(Cam {
        port: num(0),
        w: w as u16,
        h: h as u16,
        fps: num(3),
        jpegs: a[4..split].iter().map(read).collect(),
        raws,
        m: Mutex::default(),
    });
    let c = cam.clone();
    std::thread::spawn(move || c.stream());
    cam.plug();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (what, n) =
            line.split_once(' ').map(|(w, n)| (w, n.parse().unwrap_or(1))).unwrap_or((line.as_str(), 1));
        match what {
            "unplug" => cam.unplug(),
            "plug" => cam.plug(),
            "quit" => break,
            _ => {
                let mut s = cam.m.lock().unwrap();
                match what {
                    "stall" => s.stall = true,
                    "go" => s.stall = false,
                    "error" => s.error = n,
                    "cut" => s.cut = n,
                    "junk" => s.junk = n,
                    "proto" => s.proto = n,
                    _ => println!("uvc_cam: no command {what}"),
                }
            }
        }
        if !matches!(what, "unplug" | "plug") {
            println!("uvc_cam {}: {line}", cam.port);
        }
    }
    let sent = cam.m.lock().unwrap().sent;
    cam.unplug();
    println!("uvc_cam {}: {sent} frames sent", cam.port);
}
