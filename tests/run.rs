//! Sessions of the program from start to end: what they leave behind, however they end and whatever their cameras
//! show.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Scratch, config, make_video, python, repository, unique};
use rustix::process::Signal;
use serde_json::Value;
use youquanti::actors::session_file::{Opened, SessionReader};

/// One face, one frame after the other until the session is ended from outside, or, if that fails, the test.
const ENDLESS: &str = "scene = { width = 640, height = 360, fps = 25 }";

/// Segments in shared memory of a session.
fn segments(session: &str) -> Vec<String> {
    let names =
        fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&format!("youquanti.{session}."))).collect()
}

/// A session file through h5py, by the description of its layout.
#[track_caller]
fn with_h5py(file: &Path, options: &[&str]) -> Value {
    let script = repository("actors/tests/python/check_session.py");
    let output = Command::new(python()).arg(script).arg(file).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A trace, by the rules that Perfetto has for it: how many spans it has.
#[track_caller]
fn spans(trace: &Path) -> usize {
    let trace: Value = serde_json::from_str(&fs::read_to_string(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let spans = events.iter().filter(|event| event["ph"] == "X");
    spans.inspect(|span| assert!(span["ts"].is_number() && span["dur"].is_number(), "{span}")).count()
}

#[test]
fn without_a_back_end_frames_are_recorded_and_none_is_analysed() {
    let (scratch, name) = (Scratch::new(), unique("unseen"));
    let camera = "scene = { width = 64, height = 48, pace = \"fast\", frames = 40 }";
    let pipeline = "[pipeline]\nbackend = \"none\"\n";
    scratch.write("unseen.toml", config(&name, &[("left", camera)], pipeline));
    let mut program = scratch.program(&["run", "unseen.toml", "--json"]);
    let output = program.env("YOUQUANTI_ONNXRUNTIME", "/nonexistent").output().unwrap();
    let report = common::Ended::from(output).with(0).json();
    let left = &report["cameras"][0];
    let pipeline = &left["consumers"]["pipeline"];
    assert_eq!((&report["backend"]["name"], &report["ledger_closes"]), (&"none".into(), &true.into()));
    assert_eq!((&left["captured"], &pipeline["delivered"]), (&40.into(), &0.into()), "{report}");
    let count = |reason: &str| pipeline["dropped"][reason].as_u64().unwrap();
    assert_eq!(count("replaced") + count("unfinished"), 40, "{report}");
    let reader = SessionReader::open(&scratch.session()).unwrap();
    assert_eq!([reader.frame_count(0), reader.result_count(0), reader.face_count(0)], [40, 0, 0]);
    assert_eq!(reader.header().backend, "none");
}

#[test]
fn a_session_leaves_a_file_a_report_and_nothing_else() {
    let (scratch, name) = (Scratch::new(), unique("whole"));
    let cameras = [
        ("left", "scene = { width = 640, height = 360, pace = \"lossless\", frames = 20 }"),
        (
            "right",
            "scene = { width = 640, height = 360, pace = \"fast\", frames = 30, faces = 2, format = \"RGB24\" }",
        ),
    ];
    scratch.write("whole.toml", config(&name, &cameras, ""));
    let ended = scratch.run(&["run", "whole.toml", "--json", "--trace", "trace.json"]).with(0);
    let file = scratch.session();
    ended.says(&[
        &format!("session \"{name}\" runs until"),
        "recording to sessions/",
        "trace of the last minute: trace.json",
    ]);

    let report = ended.json();
    let [left, right] = [&report["cameras"][0], &report["cameras"][1]];
    assert_eq!((&report["state"], &report["ledger_closes"]), (&"ok".into(), &true.into()), "{report}");
    assert_eq!(report["stop_reason"], "every source came to its end");
    assert_eq!((&left["captured"], &right["captured"]), (&20.into(), &30.into()));
    assert_eq!(left["consumers"]["pipeline"]["delivered"], 20);
    assert_eq!(report["recording"]["frames"], serde_json::json!([20, 30]));
    let faces = [left, right].map(|camera| camera["face_rows"].as_u64().unwrap());
    assert_eq!(faces[0], 20);
    assert_eq!(faces[1], 2 * right["consumers"]["pipeline"]["delivered"].as_u64().unwrap());

    let reader = SessionReader::open(&file).unwrap();
    assert_eq!(reader.opened(), Opened::Plain);
    let rows = |camera| (reader.frame_count(camera), reader.face_count(camera));
    assert_eq!([rows(0), rows(1)], [(20, faces[0]), (30, faces[1])]);
    let seen = with_h5py(&file, &[]);
    assert_eq!(seen["config"], fs::read_to_string(scratch.path("whole.toml")).unwrap());
    assert_eq!((&seen["stopped"], &seen["cameras"]["right"]["frames"]), (&true.into(), &30.into()));
    assert!(spans(&scratch.path("trace.json")) >= 50);

    let inspected = scratch.run(&["inspect", "--json", file.to_str().unwrap()]).with(0).json();
    assert_eq!((&inspected["ledger_closes"], &inspected["cameras"][1]["frames"]), (&true.into(), &30.into()));
    assert_eq!(inspected["events_by_kind"]["camera_ended"], 2);
    let text = scratch.run(&["inspect", file.to_str().unwrap()]).with(0).out;
    for part in [&*name, "640×360 YUYV", "640×360 RGB24", "20 captured = 20 delivered + 0 dropped closes"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }

    assert_eq!(segments(&name), Vec::<String>::new());
    assert_eq!(fs::read_dir(scratch.path("sessions")).unwrap().count(), 1);
}

#[test]
fn ctrl_c_ends_a_session_in_good_order_and_a_second_one_of_its_name_is_refused() {
    let (scratch, name) = (Scratch::new(), unique("ctrl-c"));
    scratch.write("endless.toml", config(&name, &[("one", ENDLESS)], ""));
    let args = ["run", "endless.toml", "--duration", "60s"];
    let mut running = scratch.start(&args);
    running.wait_for("recording to");

    let second = scratch.run(&["run", "endless.toml", "--record", "second"]).with(3);
    second.says(&[&name, "another", "running"]);
    assert!(scratch.sessions("second").is_empty());

    running.signal(Signal::USR1);
    running.wait_for("trace of the last minute: youquanti-1.trace.json");
    assert!(spans(&scratch.path("youquanti-1.trace.json")) > 0);

    running.signal(Signal::INT);
    let ended = running.end().with(0);
    for part in [": ok after", "(interrupted)", "ledger: closes", "youquanti inspect sessions/", "p50 ms"] {
        assert!(ended.out.contains(part), "{part:?} is not in\n{}", ended.out);
    }
    let reader = SessionReader::open(&scratch.session()).unwrap();
    assert_eq!(reader.opened(), Opened::Plain);
    assert!(reader.frame_count(0) > 0);
    assert_eq!(segments(&name), Vec::<String>::new());
}

#[test]
fn sigterm_ends_a_session_that_records_nothing() {
    let (scratch, name) = (Scratch::new(), unique("sigterm"));
    scratch.write("endless.toml", config(&name, &[("one", ENDLESS)], ""));
    let mut running = scratch.start(&["run", "endless.toml", "--no-record", "--json", "--duration", "60s"]);
    running.wait_for("runs for 1min");
    running.signal(Signal::TERM);
    let report = running.end().with(0).json();
    assert_eq!((&report["state"], &report["stop_reason"]), (&"ok".into(), &"interrupted".into()));
    assert_eq!(report["recording"], Value::Null);
    assert_eq!(fs::read_dir(scratch.path(".")).unwrap().count(), 1);
    assert_eq!(segments(&name), Vec::<String>::new());
}

#[test]
fn a_killed_session_leaves_a_file_to_read_and_no_obstacle() {
    let (scratch, name) = (Scratch::new(), unique("killed"));
    scratch.write("endless.toml", config(&name, &[("one", ENDLESS)], ""));
    let mut running = scratch.start(&["run", "endless.toml", "--duration", "60s"]);
    running.wait_for("recording to");
    let file = scratch.session();
    // Another process may look at a session's file while it runs.
    let live = loop {
        let seen = scratch.run(&["inspect", "--json", file.to_str().unwrap()]).with(0).json();
        assert_eq!((&seen["opened"], &seen["stop"]), (&"swmr".into(), &Value::Null));
        if seen["cameras"][0]["faces"].as_u64().unwrap() > 0 {
            break seen;
        }
    };
    running.signal(Signal::KILL);
    assert_eq!(running.end().code, None);

    let reader = SessionReader::open(&file).unwrap();
    assert_eq!(reader.opened(), Opened::Swmr);
    let (frames, faces) = (reader.frame_count(0), reader.face_count(0));
    let before = |key: &str| live["cameras"][0][key].as_u64().unwrap();
    assert!(frames >= before("frames") && faces >= before("faces"), "{frames} frames, {faces} faces");
    let seqs: Vec<_> = reader.frames(0, 0..frames).unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (0..frames).collect::<Vec<_>>());
    assert_eq!(reader.landmarks(0, 0..faces).unwrap().len() as u64, faces);
    assert_eq!(with_h5py(&file, &["--swmr"])["cameras"]["one"]["frames"], frames);

    drop(reader);

    let args = ["recover", file.to_str().unwrap(), "--to", "copy.h5", "--json"];
    let saved = scratch.run(&args).with(0).json();
    assert_eq!((&saved["lost"], &saved["to"]), (&Value::Array(Vec::new()), &"copy.h5".into()));
    assert_eq!(with_h5py(&scratch.path("copy.h5"), &[])["cameras"]["one"]["frames"], frames);
    scratch.run(&args).with(2).says(&["copy.h5 exists already"]);

    // The next session in the same folder makes a finished copy by itself.
    let mut running = scratch.start(&["run", "endless.toml", "--duration", "600s"]);
    running.wait_for("recovered, nothing is lost");
    running.signal(Signal::INT);
    running.end().with(0);
    let copy = file.with_extension("recovered.h5");
    assert_eq!(with_h5py(&copy, &[])["cameras"]["one"]["faces"], faces);
    assert_eq!(segments(&name), Vec::<String>::new());
}

#[test]
fn a_disk_that_fills_ends_a_session_loudly_with_what_is_safe() {
    let (scratch, name) = (Scratch::new(), unique("disk"));
    let scene = "scene = { faces = 16, pace = \"lossless\", frames = 2000 }";
    scratch.write("crowd.toml", config(&name, &[("one", scene)], "[pipeline]\nmax_faces = 16"));
    let args = ["run", "crowd.toml", "--json", "--record", "disk"];
    let Some(ended) = scratch.run_on_disk("size=6m", &args) else { return };
    let ended = ended.with(4);
    let report = ended.json();
    assert_eq!(report["state"], "degraded");
    let reasons = report["degraded"].to_string();
    assert!(reasons.contains("recorder failed for good") && reasons.contains("disk"), "{reasons}");
    assert_eq!((&report["recording"]["complete"], &report["ledger_closes"]), (&false.into(), &true.into()));
    ended.says(&["ERROR", "failed for good"]);

    let [file] = &scratch.sessions("saved")[..] else { panic!("{:?}", scratch.sessions("saved")) };
    let reader = SessionReader::open(file).unwrap();
    assert_eq!(reader.opened(), Opened::Plain);
    let (frames, faces) = (reader.frame_count(0), reader.face_count(0));
    assert!((10..2000).contains(&frames) && faces > 10 * frames / 2, "{frames} frames, {faces} faces");
    assert_eq!(reader.landmarks(0, 0..faces).unwrap().len() as u64, faces);
    with_h5py(file, &[]);
}

#[test]
fn what_is_missing_is_refused_or_recorded_with_who_decided_so() {
    let (scratch, name) = (Scratch::new(), unique("missing"));
    let gone = "v4l2 = { device = \"usb-nobody-has-this\" }";
    let text = config(&name, &[("one", ENDLESS), ("gone", gone)], "");
    scratch.write("missing.toml", text);
    scratch.run(&["run", "missing.toml", "--json"]).with(3);
    scratch.run(&["run", "missing.toml", "--override", "it is being repaired"]).with(2).says(&["--by"]);
    let args = ["run", "missing.toml", "--json", "--override", "it is being repaired", "--by", "Ada"];
    let ended = scratch.run(&[&args[..], &["--duration", "3s"]].concat()).with(4);
    ended.says(&["missing: ", "usb-nobody-has-this"]);
    let report = ended.json();
    let codes: Vec<_> = report["verdict"]["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| reason["code"].as_str().unwrap())
        .collect();
    assert!(codes.contains(&"overridden") && codes.contains(&"camera_failed"), "{codes:?}");

    let found = SessionReader::open(&scratch.session()).unwrap().inspect(1000).unwrap();
    let overridden = found.header.overridden.as_ref().unwrap();
    assert_eq!((&*overridden.by, &*overridden.reason), ("Ada", "it is being repaired"));
    assert!(overridden.missing[0].contains("usb-nobody-has-this"), "{overridden:?}");
    assert_eq!(found.events_by_kind["overridden"], 1);
    assert!(found.cameras[0].frames > 0 && found.cameras[1].frames == 0);
    assert!(found.gaps.iter().any(|gap| gap.source == "gone"), "{:?}", found.gaps);
    let verdict: Value = serde_json::from_str(&found.stop.unwrap().verdict).unwrap();
    assert_eq!(
        (&verdict["state"], &verdict["reasons"][0]["code"]),
        (&"degraded".into(), &"overridden".into())
    );
    with_h5py(&scratch.session(), &[]);
}

#[test]
fn a_disk_that_is_too_small_for_the_duration_or_may_not_be_written() {
    let scratch = Scratch::new();
    scratch.write("long.toml", config(&unique("long"), &[("one", ENDLESS)], ""));
    let args = ["run", "long.toml", "--record", "disk", "--duration", "8h"];
    let Some(ended) = scratch.run_on_disk("size=64m", &args) else { return };
    ended.with(3).says(&["of disk with 4 faces in each camera", "--override starts all the same"]);

    let scratch = Scratch::new();
    scratch.write("long.toml", config(&unique("ro"), &[("one", ENDLESS)], ""));
    let Some(ended) = scratch.run_on_disk("ro,size=64m", &args) else { return };
    ended.with(3).says(&["cannot be written", "Read-only file system"]);
}

#[test]
fn a_disk_that_is_full_from_the_start() {
    let scratch = Scratch::new();
    let text = config(&unique("full"), &[("one", ENDLESS)], "");
    scratch.write("full.toml", text.replace("1MB", "4MB"));
    let Some(ended) = scratch.run_on_disk("size=3m", &["run", "full.toml", "--record", "disk"]) else {
        return;
    };
    ended.with(3).says(&[
        "recording: reserve = \"4MB\" needs twice its size",
        "are free in disk",
        "remedy: free some space",
    ]);
    assert!(scratch.sessions("saved").is_empty());
}

#[test]
fn videos_that_end_early_are_cut_off_change_size_or_show_nobody() {
    let (scratch, name) = (Scratch::new(), unique("videos"));
    let video = |words: &str, file: &str| make_video(words, &scratch.path(file));
    video("-f lavfi -i testsrc=size=320x240:rate=25 -frames:v 5 -c:v ffv1", "early.mkv");
    video("-f lavfi -i testsrc=size=320x240:rate=25 -frames:v 30 -c:v mjpeg", "cut.mkv");
    let cut = fs::read(scratch.path("cut.mkv")).unwrap();
    scratch.write("cut.mkv", &cut[..cut.len() / 2]);
    let mut resized = Vec::new();
    for size in ["320x240", "160x120"] {
        video(&format!("-f lavfi -i testsrc=size={size}:rate=25 -frames:v 6 -c:v mjpeg -f mjpeg"), size);
        resized.extend(fs::read(scratch.path(size)).unwrap());
    }
    scratch.write("resized.mjpeg", resized);
    for folder in ["nobody", "odd"] {
        fs::create_dir(scratch.path(folder)).unwrap();
    }
    video("-f lavfi -i testsrc=size=640x480 -frames:v 3", "nobody/%d.png");
    for picture in 0..4 {
        fs::copy(repository("tests/golden/odd.png"), scratch.path(&format!("odd/{picture}.png"))).unwrap();
    }
    let camera = |path: &str| format!("file = {{ path = \"{path}\", pace = \"lossless\" }}");
    let paths = ["early.mkv", "cut.mkv", "resized.mjpeg", "nobody", "odd"];
    let sources = paths.map(camera);
    let cameras: Vec<_> = ["early", "cut", "resized", "nobody", "odd"]
        .into_iter()
        .zip(sources.iter().map(String::as_str))
        .collect();
    scratch.write("videos.toml", config(&name, &cameras, ""));

    let ended = scratch.run(&["run", "videos.toml", "--json"]).with(0);
    let report = ended.json();
    assert_eq!(report["stop_reason"], "every source came to its end");
    let reader = SessionReader::open(&scratch.session()).unwrap();
    let seen: Vec<_> = (0..5)
        .map(|at| {
            let facts = &reader.cameras()[at];
            (&*facts.name, [facts.width, facts.height], reader.frame_count(at), reader.face_count(at))
        })
        .collect();
    let frames_of_cut = seen[1].2;
    assert!((5..25).contains(&frames_of_cut), "{frames_of_cut}");
    let expected = [
        ("early", [320, 240], 5, 0),
        ("cut", [320, 240], frames_of_cut, 0),
        ("resized", [320, 240], 12, 0),
        ("nobody", [640, 480], 3, 0),
        ("odd", [640, 478], 4, 4),
    ];
    assert_eq!(seen, expected);
    // That a file was cut off is said, not hidden.
    let events = reader.events(100).unwrap();
    let cut =
        events.iter().find(|event| event.kind == "camera_ended" && event.source == "camera cut").unwrap();
    assert!(cut.text.contains("note"), "{cut:?}");
}

#[test]
fn pictures_tiny_huge_and_crowded() {
    let (scratch, name) = (Scratch::new(), unique("pictures"));
    let scene = |what: &str| format!("slots = 2\nscene = {{ {what}, pace = \"lossless\" }}");
    let [tiny, huge, crowd] = [
        "width = 64, height = 48, frames = 5",
        "width = 3840, height = 2160, faces = 4, frames = 3",
        "faces = 16, frames = 5",
    ]
    .map(scene);
    let cameras = [("tiny", &*tiny), ("huge", &huge), ("crowd", &crowd)];
    let more = "[pipeline]\nmax_faces = 16\nsmallest_face = 60";
    scratch.write("pictures.toml", config(&name, &cameras, more));
    let report = scratch.run(&["run", "pictures.toml", "--json"]).with(0).json();
    let rows = |at: usize| {
        let camera = &report["cameras"][at];
        (camera["captured"].as_u64().unwrap(), camera["face_rows"].as_u64().unwrap())
    };
    assert_eq!(rows(0).0, 5);
    assert_eq!((rows(1), rows(2)), ((3, 12), (5, 80)));
}
