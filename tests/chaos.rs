//! Campaigns: a session that is broken on purpose goes on, loses nothing of its other cameras, and accounts for every
//! frame; what does not go as expected is said.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::sync::atomic::AtomicBool;

use common::{Scratch, make_video, unique};
use youquanti::chaos::{self, Campaign, Progress};

/// Three cameras, slow enough for a busy machine, that nothing is recorded of.
fn session(name: &str) -> String {
    let camera = |name: &str| {
        format!(
            "[[config.camera]]\nname = \"{name}\"\nscene = {{ width = 64, height = 48, fps = 15, faces = 0 }}\n"
        )
    };
    let cameras: String = ["left", "right", "room"].map(camera).concat();
    format!(
        "[config]\nversion = 1\n[config.session]\nname = \"{}\"\n{cameras}\
         [config.pipeline]\nbackend = \"none\"\n\
         [config.recording]\nenabled = false\n\
         [config.supervision]\nrestarts_per_minute = 600\nbackoff_first = \"10ms\"\nbackoff_longest = \"50ms\"\n",
        unique(name)
    )
}

fn campaign(name: &str, faults: &str) -> String {
    format!("version = 1\nseed = 5\npause = \"50ms\"\n{faults}\n{}", session(name))
}

/// One of each way in which faults are brought about and noticed.
const FAULTS: &str = r#"
fault = [
    { kind = "streaming-error" },
    { kind = "streamon-error" },
    { kind = "qbuf-error" },
    { kind = "panic", camera = "right" },
    { kind = "unplug", for = "100ms", repeat = 3 },
    { kind = "unplug", name = "unbind", camera = "all", for = "100ms" },
    { kind = "error-flag", for = "300ms" },
    { kind = "stall", for = "400ms", expect = "drops" },
    { kind = "sequence-wrap", for = "300ms" },
    { kind = "stamp-wrap", for = "300ms" },
    { kind = "junk", for = "200ms" },
    { kind = "hang" },
    { kind = "pipeline-panic" },
    { kind = "pipeline-error" },
    { kind = "pipeline-lost" },
    { name = "command", camera = "left", run = "true", undo = "true", for = "100ms", expect = "nothing" },
]
"#;

#[test]
fn a_session_survives_a_campaign() {
    let campaign = Campaign::from_toml(&campaign("chaos", FAULTS), "test.toml").unwrap();
    let run = || {
        let mut begun = Vec::new();
        let matrix = chaos::run(&campaign, &AtomicBool::new(false), &mut |progress| {
            if let Progress::Begins { fault, target, .. } = progress {
                begun.push((fault.to_owned(), target.to_owned()));
            }
        });
        (begun, matrix.unwrap())
    };
    let harmless = |name: &str| ["sequence-wrap", "stamp-wrap", "junk", "command"].contains(&name);
    let ((begun, matrix), tells) = common::in_time(run, |(_, matrix)| {
        let mut rows = matrix.outcomes.iter();
        rows.all(|row| row.problems.is_empty() && (row.lost == 0 || !harmless(&row.fault)))
    });

    let scheduled: Vec<_> = campaign.schedule().into_iter().map(|(_, fault)| fault.name).collect();
    let names = |begun: &[(String, String)]| begun.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&begun), scheduled, "the seed decides the order");
    let rows = matrix.outcomes.iter().map(|row| (row.fault.clone(), row.target.clone()));
    assert_eq!(rows.collect::<Vec<_>>(), begun);
    for row in &matrix.outcomes {
        assert_eq!(row.ledger_closed, Some(true), "{row:?}");
    }
    if !tells {
        return;
    }
    for row in &matrix.outcomes {
        assert_eq!((&row.problems[..], row.lost_by_others), (&[][..], 0), "{row:?}");
        assert!(row.recovered_after_ms.is_some(), "{row:?}");
    }
    let row = |name: &str| matrix.outcomes.iter().find(|row| row.fault == name).unwrap();
    assert_eq!(row("unplug").repeat, 3);
    assert_eq!(row("unbind").target, "all");
    assert!(row("error-flag").lost > 0 && row("stall").lost > 0);
    for row in matrix.outcomes.iter().filter(|row| harmless(&row.fault)) {
        assert_eq!((row.lost, row.detected_after_ms), (0, None), "{row:?}");
    }
    assert_eq!(matrix.before.segments, 6, "a ring and its preview for each camera");
}

#[test]
fn a_camera_pulled_out_again_and_again_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let faults = "[[fault]]\nkind = \"unplug\"\ncamera = \"left\"\nfor = \"20ms\"\nrepeat = 20\n";
    scratch.write("pull.toml", campaign("pull", faults));
    scratch.write("matrix.md", "# Matrix\n\n## pull.toml\n\nold\n\n## Other\n\nkept\n");
    let run = || {
        let mut program = scratch.program(&["chaos", "pull.toml", "--json", "--markdown", "matrix.md"]);
        // Nothing is sought, so nothing that seeks is asked for.
        let output = program.env("YOUQUANTI_ONNXRUNTIME", "/nonexistent").output().unwrap();
        common::Ended::from(output)
    };
    let (ended, tells) = common::in_time(run, |ended| ended.code == Some(0));
    let ended = if tells { ended.with(0) } else { ended.with(4) };
    let matrix = ended.json();
    assert_eq!(matrix["problems"], serde_json::json!([]), "{matrix}");
    let [row] = &matrix["outcomes"].as_array().unwrap()[..] else { panic!("{matrix}") };
    assert_eq!(&row["repeat"], &20, "{matrix}");
    assert!(!tells || row["lost_by_others"] == 0, "{matrix}");
    assert_eq!((&row["expected"], &row["ledger_closed"]), (&"gap".into(), &true.into()));
    ended.says(&["[ 1/1] unplug on left: noticed after"]);
    let markdown = fs::read_to_string(scratch.path("matrix.md")).unwrap();
    for part in ["## pull.toml\n", "| unplug × 20 | left | gap |", "## Other\n\nkept\n"] {
        assert!(markdown.contains(part), "{part:?} is not in\n{markdown}");
    }
    assert!(!markdown.contains("old"));
}

#[test]
fn what_does_not_go_as_expected_is_said() {
    let scratch = Scratch::new();
    let faults = r#"
patience = "300ms"
order = "given"
fault = [
    { kind = "junk", camera = "left", for = "100ms", expect = "gap" },
    { kind = "streaming-error", camera = "right", expect = "nothing" },
    { kind = "error-flag", camera = "left", for = "100ms", expect = "nothing" },
    { name = "no such command", camera = "left", run = "exit 7", expect = "nothing" },
    { name = "a command for ever", camera = "left", run = "sleep 1000", timeout = "100ms", expect = "nothing" },
    { kind = "flip", camera = "left", for = "100ms", expect = "stop" },
]
"#;
    scratch.write("surprise.toml", campaign("surprise", faults));
    let ended = scratch.run(&["chaos", "surprise.toml"]).with(4);
    ended.says(&[
        "camera left did not fail, or nobody noticed",
        "camera right failed: VIDIOC_DQBUF failed",
        "camera left lost frames",
        "command `exit 7` ended with 7",
        "command `sleep 1000` took longer than 100ms",
        "the session did not stop",
    ]);
    assert!(ended.out.contains("NOT as expected:\n"), "{}", ended.out);
}

#[test]
fn a_session_that_ends_is_reported_and_the_rest_gets_another() {
    let scratch = Scratch::new();
    make_video(
        "-f lavfi -i testsrc=size=64x48:rate=15:duration=1 -pix_fmt yuv420p",
        &scratch.path("short.mp4"),
    );
    let session = session("ends");
    let (before, after) = session.split_once("[[config.camera]]").unwrap();
    let after = &after[after.find("[config.pipeline]").unwrap()..];
    let camera = "[[config.camera]]\nname = \"clip\"\nfile = { path = \"short.mp4\" }\n";
    let faults =
        "fault = [{ kind = \"stall\", for = \"1h\" }, { kind = \"stall\", for = \"1h\", expect = \"stop\" }]";
    scratch.write("ends.toml", format!("version = 1\norder = \"given\"\n{faults}\n{before}{camera}{after}"));
    let matrix = scratch.run(&["chaos", "ends.toml", "--json"]).with(4).json();
    let rows = matrix["outcomes"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{matrix}");
    let said = rows[0]["problems"].to_string();
    assert!(said.contains("the session stopped: every source came to its end"), "{said}");
    assert_eq!(rows[1]["problems"], serde_json::json!([]), "{matrix}");
    for row in rows {
        assert_eq!(row["ledger_closed"], true, "{matrix}");
    }
}

#[test]
fn a_campaign_that_cannot_be_run_ends_with_2() {
    let scratch = Scratch::new();
    #[track_caller]
    fn check(scratch: &Scratch, text: &str, parts: &[&str]) {
        scratch.write("bad.toml", text);
        scratch.run(&["chaos", "bad.toml"]).with(2).says(parts);
    }
    let with = |fault: &str| campaign("bad", &format!("fault = [{{ {fault} }}]"));
    check(
        &scratch,
        &with("kind = \"stall\", camera = \"lef\""),
        &["bad.toml:4: camera = \"lef\" is no camera"],
    );
    check(&scratch, &with("kind = \"staal\""), &["bad.toml:4: kind = \"staal\" is no fault", "stall"]);
    check(&scratch, &with("kind = \"stall\", for = \"soon\""), &["for = \"soon\" is not a duration"]);
    check(&scratch, &with("kind = \"stall\", camra = \"left\""), &["unknown field `camra`"]);
    check(&scratch, "version = 1\nconfig = \"none.toml\"\nfault = []", &["none.toml", "cannot be read"]);
    let config = campaign("bad", "fault = []").replace("fps = 15", "fps = 0");
    check(&scratch, &config, &["camera \"left\", scene: fps = 0"]);
    check(&scratch, "no toml", &["bad.toml is no campaign", "line 1"]);
    scratch.run(&["chaos", "missing.toml"]).with(2).says(&["missing.toml", "No such file"]);
}

#[test]
fn the_help_teaches_campaigns() {
    let scratch = Scratch::new();
    let help = scratch.run(&["chaos", "--help"]).with(0).out;
    let faults = scratch.run(&["chaos", "--faults"]).with(0).out;
    for kind in chaos::Kind::all() {
        assert!(faults.contains(kind.name()) && faults.contains(kind.about()), "{faults}");
    }
    // The campaign in the help is one, with the example's own session in it.
    let example = help.split_once("version = 1").unwrap().1.split_once("\nAlso:").unwrap().0;
    let example = format!("version = 1{}", example.replacen("config = \"my-experiment.toml\"", "", 1));
    let campaign = Campaign::from_toml(&format!("{example}\n{}", session("help")), "help").unwrap();
    assert_eq!((campaign.faults.len(), campaign.faults[1].repeat), (2, 50));
}
