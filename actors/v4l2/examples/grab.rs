//! Captures frames from one node and says what came: `grab /dev/video0 640 480 YUYV 30 100`.
//!
//! For trying the layer on a driver; waits with `poll`, as the camera actor does with `epoll`.

use std::error::Error;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use youquanti_v4l2::{Device, FourCc, Fraction};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [node, width, height, format, fps, frames] = &args[..] else {
        return Err("usage: grab NODE WIDTH HEIGHT FOURCC FPS FRAMES".into());
    };
    let fourcc = FourCc(format.as_bytes().try_into()?);
    let device = Device::open(Path::new(node))?;
    println!("{:?}", device.capability()?);
    println!("{:?}", device.formats()?.iter().map(|f| String::from_utf8_lossy(&f.0)).collect::<Vec<_>>());
    println!("sizes {:?}", device.frame_sizes(fourcc));
    println!("intervals {:?}", device.frame_intervals(fourcc, width.parse()?, height.parse()?));
    println!("{:?}", device.set_format(width.parse()?, height.parse()?, fourcc)?);
    let wanted = Fraction { numerator: 1, denominator: fps.parse()? };
    println!("interval {:?}", device.set_interval(Some(wanted))?);
    let mut stream = device.stream(4)?;
    let mut slot = vec![0; 64 << 20];
    for _ in 0..frames.parse()? {
        let frame = loop {
            if let Some(frame) = stream.dequeue()? {
                break (frame.sequence, frame.stamp, frame.copy_to(&mut slot), frame.damaged());
            }
            let mut waited = [PollFd::new(&stream, PollFlags::IN)];
            if poll(&mut waited, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }))? == 0 {
                return Err("no frame for two seconds".into());
            }
        };
        println!("{frame:?} {:?}", &slot[..8]);
    }
    Ok(())
}
