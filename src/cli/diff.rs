//! `youquanti diff`: how two sessions of the same frames differ.

use std::path::PathBuf;

use serde_json::json;
use youquanti::diff::{Diff, Spread, diff};

use super::{Exit, fail, table};

pub(crate) const AFTER_HELP: &str = "\
Cameras are matched by name, frames by stamp, faces by overlap. Exit code 4 when the sessions differ by more than the bounds.

Examples:
  youquanti diff a.h5 b.h5                                  the same landmarks in the same faces of the same frames?
  youquanti diff live.h5 replayed.h5 --bound 3 --unmatched 0.01";

/// What difference is allowed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Bounds {
    /// Greatest distance of a landmark from its twin that is allowed, pixels.
    #[arg(long, value_name = "PX", default_value_t = 0.0)]
    bound: f64,
    /// Greatest share of frames, and of faces, that may be in one session only, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    unmatched: f64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A session file.
    first: PathBuf,
    /// Another of the same frames.
    second: PathBuf,
    #[command(flatten)]
    bounds: Bounds,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let diff = match diff(&args.first, &args.second) {
        Ok(diff) => diff,
        Err(error) => return fail(Exit::Usage, &error),
    };
    if args.json {
        outln!("{:#}", to_json(&diff, &args.bounds));
    } else {
        out!("{}", to_text(&diff, &args.bounds));
    }
    exit(&diff, &args.bounds)
}

impl Bounds {
    fn hold(&self, diff: &Diff) -> bool {
        diff.is_within(self.bound, self.unmatched)
    }
}

pub(super) fn exit(diff: &Diff, bounds: &Bounds) -> Exit {
    if bounds.hold(diff) { Exit::Fine } else { Exit::Degraded }
}

pub(super) fn to_json(diff: &Diff, bounds: &Bounds) -> serde_json::Value {
    json!({
        "within_bounds": bounds.hold(diff), "bound_px": bounds.bound, "unmatched": bounds.unmatched,
        "cameras": diff.cameras, "unmatched_cameras": diff.unmatched_cameras,
    })
}

pub(super) fn to_text(diff: &Diff, bounds: &Bounds) -> String {
    let of = |spread: &Spread, digits: usize| format!("{:.digits$} / {:.digits$}", spread.mean, spread.max);
    let rows: Vec<Vec<String>> = diff
        .cameras
        .iter()
        .map(|camera| {
            vec![
                camera.camera.clone(),
                camera.frames.to_string(),
                format!("-{} +{}", camera.frames_missing, camera.frames_extra),
                camera.faces.to_string(),
                format!("-{} +{}", camera.faces_missing, camera.faces_extra),
                of(&camera.landmarks_px, 3),
                of(&camera.blendshapes, 4),
                of(&camera.head_angle_deg, 3),
                of(&camera.head_distance_m, 5),
                if camera.same_bytes { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    let header = [
        "camera",
        "frames",
        "",
        "faces",
        "",
        "landmarks px",
        "blendshapes",
        "head deg",
        "head m",
        "same bytes",
    ];
    let mut text = table::render(&header, &rows);
    text.push_str("\n  mean / max over matched faces; -n +n: in the first, in the second session only\n");
    for camera in &diff.unmatched_cameras {
        text.push_str(&format!("camera {camera}: in one session only\n"));
    }
    let verdict = if bounds.hold(diff) { "within" } else { "NOT within" };
    text.push_str(&format!("{verdict} {} px and a share of {} unmatched\n", bounds.bound, bounds.unmatched));
    text
}
