//! `youquanti cameras`: what is plugged in, as configurations name it.

use serde_json::json;
use youquanti::actors::capture::v4l2::{CameraListing, CameraState, ControlListing, list_cameras};

use super::Exit;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let nodes = list_cameras();
    if args.json {
        outln!("{:#}", json!({ "cameras": nodes }));
        return Exit::Fine;
    }
    let (others, cameras): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|node| node.state == CameraState::NoCapture);
    if cameras.is_empty() {
        outln!("no camera is plugged in (no /dev/video* that can capture)");
        outln!("to try without one: youquanti run");
    }
    cameras.into_iter().for_each(|camera| out!("{}", to_text(camera)));
    for node in others {
        let reason = node.reason.as_deref().unwrap_or_default();
        outln!("{} ({}) {reason}", node.path.display(), node.name);
    }
    Exit::Fine
}

fn to_text(camera: &CameraListing) -> String {
    let mut text = format!("{}\n  device = {:?}\n", camera.name, camera.id);
    let mut facts = vec![format!("now {}", camera.path.display())];
    facts.extend(camera.driver.as_ref().map(|driver| format!("driver {driver}")));
    facts.extend(camera.bus.as_ref().map(|bus| format!("at {bus}")));
    facts.extend(camera.serial.as_ref().map(|serial| format!("serial {serial}")));
    text.push_str(&format!("  {}\n", facts.join(", ")));
    let state = match camera.state {
        CameraState::Free => "free",
        CameraState::InUse => "in use",
        CameraState::NoPermission => "no permission",
        CameraState::NoCapture => "no capture",
        CameraState::Failed => "failed",
    };
    let reason = camera.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    text.push_str(&format!("  {state}{reason}\n"));
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
    if !camera.controls.is_empty() {
        text.push_str("  controls, for [camera.v4l2.controls]\n");
    }
    let longest = camera.controls.iter().map(|control| control.name.len()).max().unwrap_or_default();
    for control in &camera.controls {
        text.push_str(&format!("    {:longest$} = {}\n", control.name, control_text(control)));
    }
    text
}

/// Value, range, default and what stands in the way: `157  # 1 to 5000, default 250, inactive`.
fn control_text(control: &ControlListing) -> String {
    let value = |value: i64| {
        let entry = control.menu.iter().find(|(entry, _)| *entry == value);
        match (entry, control.kind) {
            (Some((_, name)), _) => format!("{name:?}"),
            (None, "boolean") => (value != 0).to_string(),
            (None, _) => value.to_string(),
        }
    };
    let now = control.value.map_or("?".to_owned(), value);
    let mut notes = vec![control.takes.clone(), format!("default {}", value(control.default))];
    notes.extend(control.inactive.then(|| "inactive: an automatic has taken over".to_owned()));
    notes.extend(control.read_only.then(|| "read-only".to_owned()));
    format!("{now}  # {}", notes.join(", "))
}
