//! `youquanti cameras`: what is plugged in, as configurations name it.

use serde_json::json;
use youquanti::actors::capture::v4l2::{CameraListing, list_cameras};

use super::Exit;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let cameras = list_cameras();
    if args.json {
        outln!("{:#}", json!({ "cameras": cameras }));
    } else if cameras.is_empty() {
        outln!("no camera is plugged in (no /dev/video* that can capture)");
        outln!("to try without one: youquanti run");
    } else {
        cameras.iter().for_each(|camera| out!("{}", to_text(camera)));
    }
    Exit::Fine
}

fn to_text(camera: &CameraListing) -> String {
    let mut text = format!("{}\n  device = {:?}\n", camera.name, camera.id);
    let serial = camera.serial.as_ref().map_or(String::new(), |serial| format!(", serial {serial}"));
    text.push_str(&format!(
        "  now {}, driver {}, at {}{serial}\n",
        camera.path.display(),
        camera.driver,
        camera.bus
    ));
    for format in &camera.formats {
        let usable = if format.format.is_some() { "" } else { "  (not usable)" };
        text.push_str(&format!("  {}{usable}\n", format.fourcc));
        for size in &format.sizes {
            let rates: Vec<_> = size.rates.iter().map(|rate| format!("{rate:.4}")).collect();
            let rates: Vec<_> =
                rates.iter().map(|rate| rate.trim_end_matches('0').trim_end_matches('.')).collect();
            text.push_str(&format!("    {}x{} at {} fps\n", size.width, size.height, rates.join(", ")));
        }
    }
    text
}
