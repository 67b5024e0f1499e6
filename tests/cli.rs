//! The commands of the program: what they print, as text and as JSON, with which exit code they end, and what they
//! say of everything that is wrong or missing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{Ended, Scratch, config, repository, unique};
use serde_json::Value;
use youquanti::models::ModelId;

const SCENE: &str = "scene = { width = 64, height = 48, pace = \"lossless\", frames = 1 }";

#[test]
fn every_example_is_ready_or_says_what_is_missing() {
    #[track_caller]
    fn check(file: &str, code: i32, parts: &[&str]) {
        let path = repository("config/examples").join(file);
        let ended = Scratch::new().run(&["check", path.to_str().unwrap()]).with(code);
        ended.says(parts);
        let is_ready =
            ended.out.contains(": ready (") && ended.out.contains("\nback end ") && ended.err.is_empty();
        assert_eq!(code == 0, is_ready, "{ended:?}");
    }
    let scratch = Scratch::new();
    let plugged_in = scratch.run(&["cameras"]).with(0).out;
    let remedy = "remedy: plug it in, or name one that `youquanti cameras` shows";
    let files = fs::read_dir(repository("config/examples")).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    for file in files {
        match &*file {
            "demo.toml"
            | "four-cameras-gpu.toml"
            | "lossless.toml"
            | "lsl.toml"
            | "synchrony.toml"
            | "video-and-replay.toml" => check(&file, 0, &[]),
            "4k-small-faces.toml" => {
                let device = "device = \"/dev/v4l/by-id/usb-4K_Camera_0001-video-index0\"";
                check(
                    &file,
                    3,
                    &["camera \"room\", v4l2", device, "is not connected", "4k-small-faces.toml:", remedy],
                );
            }
            "two-webcams.toml" => {
                // Whoever has cameras on these sockets may run this.
                if plugged_in.contains("usb-0000:00:14.0-1") {
                    println!("two-webcams.toml skipped: there are cameras");
                    continue;
                }
                let (first, second) = ("device = \"usb-0000:00:14.0-1\"", "device = \"usb-0000:00:14.0-2\"");
                check(&file, 3, &["camera \"anna\", v4l2", first, "camera \"ben\", v4l2", second, remedy]);
            }
            "network-camera.toml" => {
                let path = "path = \"rtsp://camera.local:554/stream1\"";
                check(&file, 3, &["camera \"door\", file", path, "remedy: switch the camera on"]);
            }
            "video-file.toml" => {
                let path = "path = \"interview.mp4\" does not exist";
                check(&file, 3, &["camera \"clip\", file", path, "remedy: correct the path"]);
            }
            other => panic!("say here what `check` says of {other}"),
        }
    }
}

/// Ten mistakes in nine tables.
const TEN_MISTAKES: &str = r#"version = 2
[session]
name = "two words"
duration = "soon"
[[camera]]
name = "left"
slots = 1
scene = { faces = 17 }
[[camera]]
name = "LEFT"
scene = { fps = 0 }
[pipeline]
backend = "tpu"
max_face = 4
score_threshold = 1.5
[log]
level = "loud"
"#;

#[test]
fn ten_mistakes_are_reported_at_once() {
    let scratch = Scratch::new();
    scratch.write("wrong.toml", TEN_MISTAKES);
    let mistakes = [
        ("version", 1),
        ("name", 3),
        ("duration", 4),
        ("slots", 7),
        ("faces", 8),
        ("name", 10),
        ("fps", 11),
        ("backend", 13),
        ("max_face", 14),
        ("score_threshold", 15),
        ("level", 17),
    ];
    let told = scratch.run(&["check", "--json", "wrong.toml"]).with(2).json();
    let problems = told["problems"].as_array().unwrap();
    let mut found: Vec<_> = problems
        .iter()
        .map(|problem| {
            assert!(!problem["remedy"].as_str().unwrap().is_empty(), "{problem}");
            assert_eq!(problem["file"], "wrong.toml");
            (problem["key"].as_str().unwrap(), problem["position"]["line"].as_u64().unwrap())
        })
        .collect();
    found.sort_by_key(|&(_, line)| line);
    assert_eq!(found, mistakes);
    for command in ["check", "run"] {
        let ended = scratch.run(&[command, "wrong.toml"]).with(2);
        for (_, line) in mistakes {
            ended.says(&[&format!("wrong.toml:{line}:")]);
        }
        ended.says(&["max_faces", "11 problems in the configuration\n"]);
        assert!(ended.out.is_empty(), "{}", ended.out);
    }
    assert!(!scratch.path("sessions").exists());
}

#[test]
fn what_is_typed_wrong_ends_with_2() {
    let scratch = Scratch::new();
    scratch.write("text.h5", "no HDF5");
    #[track_caller]
    fn check(scratch: &Scratch, args: &[&str], parts: &[&str]) {
        scratch.run(args).with(2).says(parts);
    }
    check(&scratch, &[], &["Usage:"]);
    check(&scratch, &["rum"], &["'run'"]);
    check(&scratch, &["run", "--duration", "soon"], &["\"soon\" is not a duration"]);
    check(&scratch, &["run", "--record", "here", "--no-record"], &["--no-record"]);
    check(&scratch, &["run", "none.toml"], &["cannot be read", "none.toml", "remedy: check the path"]);
    check(&scratch, &["inspect", "none.h5"], &["none.h5", "No such file"]);
    check(&scratch, &["inspect", "text.h5"], &["text.h5"]);
}

#[test]
fn what_programs_read_is_json() {
    let scratch = Scratch::new();
    scratch.write("fine.toml", config(&unique("json"), &[("one", SCENE)], ""));
    assert_eq!(
        scratch.run(&["check", "--json", "fine.toml"]).with(0).json()["problems"],
        Value::Array(Vec::new())
    );
    assert!(scratch.run(&["cameras", "--json"]).with(0).json()["cameras"].is_array());
    let doctor = scratch.run(&["doctor", "--json"]).with(0).json();
    assert_eq!(doctor["ONNX Runtime"]["works"], true);
    let checked = scratch.run(&["check", "--json", "fine.toml"]).with(0).json()["backend"].clone();
    let (name, reason) = (checked["name"].as_str().unwrap(), checked["reason"].as_str().unwrap());
    let auto = doctor["backend auto"]["is"].as_str().unwrap();
    assert!(auto.starts_with(name) && auto.ends_with(reason) && reason.starts_with("auto: "), "{auto}");
    assert_eq!(checked["gpus"].as_array().unwrap().is_empty(), name == "cpu", "{checked}");
    assert!(doctor["FFmpeg"]["is"].as_str().unwrap().ends_with("ffmpeg"), "{doctor}");
    let shipped: Value =
        serde_json::from_str(&fs::read_to_string(repository("config/youquanti.schema.json")).unwrap())
            .unwrap();
    assert_eq!(scratch.run(&["schema"]).with(0).json(), shipped);
}

#[test]
fn the_help_teaches() {
    let scratch = Scratch::new();
    #[track_caller]
    fn check(ended: Ended, parts: &[&str]) {
        for part in parts {
            assert!(ended.out.contains(part), "{part:?} is not in\n{}", ended.out);
        }
    }
    check(scratch.run(&["--help"]).with(0), &["Exit codes:", "YOUQUANTI_ONNXRUNTIME", "inspect", "doctor"]);
    check(scratch.run(&["run", "--help"]).with(0), &["Examples:", "--duration", "--no-record"]);
    check(scratch.run(&["--version"]).with(0), &[env!("CARGO_PKG_VERSION")]);
    check(scratch.run(&["doctor"]).with(0), &["ONNX Runtime  ok", "shared memory  ok"]);
    for shell in ["bash", "zsh", "fish"] {
        check(scratch.run(&["completions", shell]).with(0), &["youquanti", "no-record"]);
    }
}

/// What `check` says of a configuration, `run` says too, and leaves nothing behind.
#[track_caller]
fn check_missing(scratch: &Scratch, text: &str, parts: &[&str]) {
    scratch.write("missing.toml", text);
    for command in ["check", "run"] {
        let ended = scratch.run(&[command, "missing.toml"]).with(3);
        ended.says(parts);
        ended.says(&["missing.toml:", "remedy: "]);
        assert!(ended.out.is_empty(), "{}", ended.out);
    }
    assert!(!scratch.path("sessions").exists());
}

#[test]
fn networks_that_are_damaged_or_missing_are_named() {
    let scratch = Scratch::new();
    let models = scratch.path("models");
    fs::create_dir(&models).unwrap();
    let [detector, landmarks, blendshapes] =
        [ModelId::FaceDetectMulti, ModelId::FaceLandmarksCpu, ModelId::FaceBlendshapes].map(ModelId::file);
    fs::write(models.join(detector.file), detector.bytes).unwrap();
    let mut damaged = landmarks.bytes.to_vec();
    damaged[5000] ^= 1;
    fs::write(models.join(landmarks.file), damaged).unwrap();
    let text = config(&unique("models"), &[("one", SCENE)], "[pipeline]\nmodel_dir = \"models\"");
    check_missing(
        &scratch,
        &text,
        &[
            "pipeline: model_dir = \"models\" cannot be used",
            landmarks.file,
            "checksum is",
            landmarks.sha256,
            blendshapes.file,
            "No such file",
            "2 problems",
        ],
    );
    fs::write(models.join(landmarks.file), landmarks.bytes).unwrap();
    fs::write(models.join(blendshapes.file), blendshapes.bytes).unwrap();
    scratch.run(&["check", "missing.toml"]).with(0);
    scratch.run(&["run", "missing.toml"]).with(0);
}

#[test]
fn a_gpu_that_is_asked_for_and_cannot_be_used_ends_with_3() {
    let scratch = Scratch::new();
    let doctor = scratch.run(&["doctor", "--json"]).with(0).json();
    if !doctor["backend auto"]["is"].as_str().unwrap().starts_with("cpu") {
        println!("skipped: there is a GPU");
        return;
    }
    for backend in ["cuda", "tensorrt"] {
        let pipeline = format!("[pipeline]\nbackend = \"{backend}\"");
        let cannot = format!("pipeline: backend = \"{backend}\" cannot run: ");
        let text = config(&unique("named"), &[("one", SCENE)], &pipeline);
        check_missing(&scratch, &text, &[&cannot, "or use \"auto\""]);
    }
    let text = config(&unique("auto"), &[("one", SCENE)], "[pipeline]\nbackend = \"auto\"");
    scratch.write("auto.toml", text);
    let ended = scratch.run(&["run", "--json", "auto.toml"]).with(0);
    let report = ended.json();
    let reason = report["backend"]["reason"].as_str().unwrap();
    assert_eq!(report["backend"]["name"], "cpu");
    ended.says(&[&format!("back end cpu: {reason}"), "building a pipeline: cpu"]);
    assert!(reason.starts_with("auto: ") && reason.len() > "auto: ".len(), "{reason}");
}

#[test]
fn without_the_runtime_nothing_is_started() {
    let scratch = Scratch::new();
    scratch.write("fine.toml", config(&unique("runtime"), &[("one", SCENE)], ""));
    for args in [&["check", "fine.toml"][..], &["run", "fine.toml"], &["doctor"]] {
        let run = scratch.program(args).env("YOUQUANTI_ONNXRUNTIME", "/nonexistent").output().unwrap();
        let ended = Ended::from(run).with(3);
        let said = format!("{}{}", ended.out, ended.err);
        let parts = ["ONNX Runtime cannot be loaded from /nonexistent", "YOUQUANTI_ONNXRUNTIME"];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    assert!(!scratch.path("sessions").exists());
}

#[test]
fn without_ffmpeg_a_video_cannot_be_played() {
    let scratch = Scratch::new();
    scratch.write("clip.mp4", "anything");
    scratch.write("clip.toml", config(&unique("ffmpeg"), &[("one", "file = { path = \"clip.mp4\" }")], ""));
    let run =
        scratch.program(&["check", "clip.toml"]).env("YOUQUANTI_FFMPEG", "/nonexistent").output().unwrap();
    Ended::from(run).with(3).says(&["needs FFmpeg", "/nonexistent", "YOUQUANTI_FFMPEG"]);
    // What is in a file shows when it is opened.
    let ended = scratch.run(&["run", "clip.toml"]).with(3);
    ended.says(&["camera \"one\" cannot be opened", "video: asked for clip.mp4", "Invalid data"]);
    assert!(scratch.sessions("sessions").is_empty());
}

#[test]
fn more_memory_than_there_is() {
    let huge = "slots = 64\nscene = { width = 16384, height = 16384 }";
    let cameras: Vec<_> =
        ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().map(|name| (name, huge)).collect();
    let scratch = Scratch::new();
    let text = config(&unique("memory"), &cameras, "");
    check_missing(&scratch, &text, &["bytes of shared memory in /dev/shm", "fewer slots"]);
}

#[test]
fn more_reserve_than_there_is() {
    let scratch = Scratch::new();
    let text = config(&unique("reserve"), &[("one", SCENE)], "").replace("1MB", "1000TB");
    check_missing(
        &scratch,
        &text,
        &["recording: reserve = \"1000TB\" needs twice its size", "lower the reserve"],
    );
}

#[test]
fn a_folder_that_cannot_be_made() {
    let scratch = Scratch::new();
    scratch.write("file", "no folder");
    let text = config(&unique("folder"), &[("one", SCENE)], "")
        .replace("[session]", "[session]\ndirectory = \"file/below\"");
    check_missing(
        &scratch,
        &text,
        &["session: directory = \"file/below\" cannot be made: file is not a folder", "--record"],
    );
    // Two within a second have two files.
    for files in [1, 2] {
        scratch.run(&["run", "missing.toml", "--record", "elsewhere"]).with(0);
        assert_eq!(scratch.sessions("elsewhere").len(), files);
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let scratch = Scratch::new();
    scratch.write("fine.toml", config(&unique("readonly"), &[("one", SCENE)], ""));
    for args in [["check", "fine.toml"], ["run", "fine.toml"]] {
        let scratch = Scratch::new();
        let text = config(&unique("readonly"), &[("one", SCENE)], "");
        scratch.write("fine.toml", text.replace("[session]", "[session]\ndirectory = \"disk/sessions\""));
        let Some(ended) = scratch.run_on_disk("ro,size=1m", &args) else { return };
        ended
            .with(3)
            .says(&["directory = \"disk/sessions\" cannot be written: disk: ", "Read-only file system"]);
    }
}
