//! Takes frames from one camera and keeps them, byte for byte, with what was known of each.
//!
//!     grab CAMERA WIDTHxHEIGHT FORMAT FPS FRAMES [FOLDER] [NAME=VALUE ...]
//!     grab usb-0000:00:14.0-1 1280x720 MJPG 30 100 pictures exposure_time_absolute=100
//!
//! CAMERA is any name that `youquanti cameras` shows; NAME=VALUE sets a control. In the folder: `frames.jsonl`, one line
//! a frame, and the pictures, `frames.raw` one after another or, of MJPG, `0000.jpg` and so on. Without a folder the
//! lines are printed. The first line is what was opened.

use std::error::Error;
use std::fs::{self, File};
use std::future::poll_fn;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use youquanti_actors::capture::CaptureDevice;
use youquanti_actors::capture::v4l2::{ControlValue, Setting, V4l2Options, V4l2Source};
use youquanti_actors::clock::SystemClock;
use youquanti_models::{FrameFlags, PixelFormat};

const USAGE: &str = "usage: grab CAMERA WIDTHxHEIGHT FORMAT FPS FRAMES [FOLDER] [NAME=VALUE ...]";

/// Flags of a frame and what they are called here.
const FLAGS: [(FrameFlags, &str); 5] = [
    (FrameFlags::STAMP_REPLACED, "stamp_replaced"),
    (FrameFlags::STAMP_IS_RECEIPT, "stamp_is_receipt"),
    (FrameFlags::STAMP_IS_EXPOSURE_START, "stamp_is_exposure_start"),
    (FrameFlags::DAMAGED, "damaged"),
    (FrameFlags::NO_SLOT, "no_slot"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [camera, size, format, fps, frames, rest @ ..] = &args[..] else { return Err(USAGE.into()) };
    let (width, height) = size.split_once('x').ok_or(USAGE)?;
    let (controls, folders): (Vec<_>, Vec<_>) = rest.iter().partition(|arg| arg.contains('='));
    let options = V4l2Options {
        camera: camera.clone(),
        width: width.parse()?,
        height: height.parse()?,
        format: PixelFormat::ALL.into_iter().find(|known| known.name() == format).ok_or("unknown format")?,
        fps: Some(fps.parse()?),
        controls: controls.into_iter().filter_map(|arg| setting(arg)).collect(),
        ..V4l2Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(grab(options, frames.parse()?, folders.first().map(Path::new)))
}

fn setting(arg: &str) -> Option<Setting> {
    let (name, value) = arg.split_once('=')?;
    let value = value.parse().map_or_else(|_| ControlValue::Entry(value.to_owned()), ControlValue::Number);
    Some(Setting::Named(name.to_owned(), value))
}

async fn grab(options: V4l2Options, frames: usize, folder: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let mut device = V4l2Source::open(options, Arc::new(SystemClock))?;
    let layout = device.layout();
    let mut lines: Box<dyn Write> = match folder {
        Some(folder) => {
            fs::create_dir_all(folder)?;
            Box::new(BufWriter::new(File::create(folder.join("frames.jsonl"))?))
        }
        None => Box::new(io::stdout().lock()),
    };
    let raw = folder.filter(|_| layout.format != PixelFormat::Mjpg).map(|folder| folder.join("frames.raw"));
    let mut raw = raw.map(File::create).transpose()?.map(BufWriter::new);
    let info = device.describe();
    writeln!(
        lines,
        "{}",
        json!({
            "id": info.id, "name": info.name, "driver": info.driver, "fps": info.fps,
            "width": layout.width, "height": layout.height, "format": layout.format.name(),
            "stride": layout.stride, "controls": info.controls,
        })
    )?;
    let mut slot = vec![0; layout.max_bytes()];
    for index in 0..frames {
        let captured = poll_fn(|cx| device.poll_capture(cx, Some(&mut slot))).await?;
        let picture = &slot[..captured.bytes_used];
        let flags = FLAGS.iter().filter(|(flag, _)| captured.flags.contains(*flag));
        writeln!(
            lines,
            "{}",
            json!({
                "index": index, "driver_seq": captured.driver_seq, "captured_at": captured.captured_at.0,
                "received_at": captured.received_at.0, "bytes": captured.bytes_used,
                "flags": flags.map(|(_, name)| name).collect::<Vec<_>>(),
            })
        )?;
        match (&mut raw, folder) {
            (Some(raw), _) => raw.write_all(picture)?,
            (None, Some(folder)) => fs::write(folder.join(format!("{index:04}.jpg")), picture)?,
            (None, None) => {}
        }
    }
    if let Some(raw) = &mut raw {
        raw.flush()?;
    }
    Ok(lines.flush()?)
}
