//! `youquanti calibrate` on this machine: a video of the code in place of a camera, what is kept of it and who reads that, and what
//! is said of everything that cannot be measured.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};

use common::{Scratch, config, make_video, unique};
use rustix::process::Signal;
use youquanti::actors::calibration::code;
use youquanti::models::Timestamp;
use youquanti::offsets::Offsets;

/// Nothing flashes there, in real time.
const SCENE: &str = "scene = { width = 64, height = 48 }";

/// Where the program keeps offsets in a test.
const OFFSETS: &str = "data/youquanti/offsets.toml";

/// A scratch folder with `c.toml`, a camera `eye`.
fn with_camera(source: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch
        .write("c.toml", config(&unique("calibrate"), &[("eye", source)], "[pipeline]\nbackend = \"none\""));
    scratch
}

#[test]
fn a_film_of_the_code_is_measured_and_kept() {
    let scratch = with_camera("[camera.file]\npath = \"code.mkv\"");
    // Frame k as it was 40 ms · k after the clock's start; 20 s of it.
    let frames = (0..500).flat_map(|k| {
        let is_white = code::is_white(Timestamp(k * 40_000_000));
        [if is_white { 200u8 } else { 40 }; 64 * 48]
    });
    scratch.write("code.raw", frames.collect::<Vec<u8>>());
    let raw = scratch.path("code.raw");
    let words = format!(
        "-f rawvideo -pixel_format gray -video_size 64x48 -framerate 25 -i {} -c:v ffv1",
        raw.to_str().unwrap()
    );
    make_video(&words, &scratch.path("code.mkv"));
    let measure = ["calibrate", "eye", "--config", "c.toml", "--screen", "external", "--duration", "16s"];
    let ended = scratch
        .run(&[&measure[..], &["--screen-delay", "12.5ms", "--save", "film.csv", "--json"]].concat())
        .with(0);
    let found = ended.json();
    let number = |key: &str| found[key].as_f64().unwrap();
    assert_eq!((found["camera"].as_str(), found["screen_delay_s"].as_f64()), (Some("eye"), Some(0.0125)));
    assert!(number("correlation") > 0.9 && number("standard_error_s") < 0.01, "{found}");
    assert!(
        (number("contrast") - 160.0).abs() < 25.0 && (number("measured_fps") - 25.0).abs() < 0.1,
        "{found}"
    );
    assert!(found["offset"]["count"].as_u64().unwrap() >= 25, "{found}");
    ended.says(&["filming the code for 16s", "changes of the screen", "stored in ", "offsets.toml"]);

    let saved = fs::read_to_string(scratch.path("film.csv")).unwrap();
    let (header, lines) = saved.split_once('\n').unwrap();
    assert_eq!((header, lines.lines().count() as u64), ("stamp_ns,luma", found["frames"].as_u64().unwrap()));

    let kept = Offsets::read(&scratch.path(OFFSETS)).unwrap();
    let [kept] = &*kept.known() else { panic!("{kept:?}") };
    assert_eq!((kept.width, kept.height, kept.fps), (64, 48, 25.0));
    assert!(
        (kept.offset.mean_s - found["offset"]["mean_s"].as_f64().unwrap()).abs() < 1e-9,
        "{kept:?} {found}"
    );
    assert_eq!(Some(kept.device.as_str()), found["device"].as_str());

    scratch.run(&["run", "c.toml", "--duration", "1s"]).with(0);
    let told = scratch.run(&["inspect", scratch.session().to_str().unwrap()]).with(0).out;
    let light = format!("light   {:.2} ms before the stamp", kept.offset.median_s * 1e3);
    assert!(told.contains(&light), "{light:?} is not in\n{told}");
}

#[test]
fn where_nothing_flashes_nothing_is_kept() {
    let scratch = with_camera(SCENE);
    let ended = scratch.run(&[
        "calibrate",
        "eye",
        "--config",
        "c.toml",
        "--screen",
        "external",
        "--duration",
        "15s",
        "--json",
    ]);
    let ended = ended.with(4);
    let error = ended.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("the picture changes"), "{error}");
    ended.says(&["screen", "error: the picture changes"]);
    assert!(!scratch.path(OFFSETS).exists());
}

#[test]
fn what_cannot_be_filmed_with_is_told_at_once() {
    #[track_caller]
    fn check(source: &str, args: &[&str], code: i32, parts: &[&str]) {
        let scratch = with_camera(source);
        let ended = scratch.run(&[&["calibrate"], args].concat()).with(code);
        ended.says(parts);
        assert!(ended.out.is_empty() && !scratch.path(OFFSETS).exists(), "{ended:?}");
    }
    let external = ["--config", "c.toml", "--screen", "external"];
    let with = |name: &'static str| [&[name][..], &external[..]].concat();
    check(SCENE, &with("nose"), 2, &["no camera \"nose\" in the configuration, which has \"eye\""]);
    check(
        "v4l2 = { device = \"/dev/video-none\" }",
        &with("eye"),
        3,
        &["camera \"eye\" cannot be used", "video-none"],
    );
    check("scene = { pace = \"fast\" }", &with("eye"), 2, &["does not run in real time", "pace = \"real\""]);
    check("scene = { fps = 0 }", &with("eye"), 2, &["c.toml:", "fps"]);
    check(SCENE, &["eye", "--config", "c.toml", "--yes"], 2, &["standard error is no terminal", "--screen"]);
    check(SCENE, &[&with("eye")[..], &["--lsl"]].concat(), 2, &["--lsl", "another program shows the code"]);
    check(
        SCENE,
        &["no \"such\" device", "--screen", "external"],
        3,
        &["no \"such\" device is not connected"],
    );
    check(
        SCENE,
        &["x", "--width", "0", "--height", "9", "--screen", "external"],
        2,
        &["width = 0", "command line"],
    );
    for wrong in [
        &["--duration", "14s"][..],
        &["--screen-delay", "2s"],
        &["--format", "H264"],
        &["--width", "640"],
        &["--config", "c.toml", "--fps", "30"],
    ] {
        check(SCENE, &[&["x"], wrong].concat(), 2, &[wrong[wrong.len() - 2]]);
    }
}

#[test]
fn a_broken_file_of_offsets_is_named_before_anything_begins() {
    let scratch = with_camera(SCENE);
    fs::create_dir_all(scratch.path(OFFSETS).parent().unwrap()).unwrap();
    fs::write(scratch.path(OFFSETS), "version = 1\n[[camera]]\ndevice = 7\n").unwrap();
    let path = scratch.path(OFFSETS);
    let parts = [path.to_str().unwrap(), "invalid type"];
    scratch.run(&["calibrate", "eye", "--config", "c.toml", "--screen", "external"]).with(3).says(&parts);
    for command in ["check", "run"] {
        let ended = scratch.run(&[command, "c.toml"]).with(3);
        ended.says(&parts);
        ended.says(&["remedy: correct the file, or move it away and run `youquanti calibrate` again"]);
    }
}

#[test]
fn a_signal_ends_it_without_a_result() {
    let scratch = with_camera(SCENE);
    let mut running = scratch.start(&["calibrate", "eye", "--config", "c.toml", "--screen", "external"]);
    running.wait_for("frames, contrast");
    running.signal(Signal::TERM);
    running.end().with(4).says(&["interrupted: nothing was measured"]);
    assert!(!scratch.path(OFFSETS).exists());
}

/// The program in a terminal, played by `script`, until what it wrote contains all of `until`; then `keys` are typed. Its exit code
/// and everything it wrote; `None`, with a word about it, where there is no `script`.
fn in_terminal(scratch: &Scratch, args: &str, until: &[&str], keys: &[u8]) -> Option<(Option<i32>, String)> {
    // In the shell's place, which some shells would keep while the program runs, and then Ctrl-C would end the shell.
    let program = format!("exec {} calibrate {args}", env!("CARGO_BIN_EXE_youquanti"));
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &program, "/dev/null"]).env("XDG_DATA_HOME", scratch.path("data"));
    script.env("SHELL", "/bin/sh");
    let played = script.current_dir(scratch.path("")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut played = match played {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("skipped: there is no program `script`");
            return None;
        }
        played => played.unwrap(),
    };
    let (mut typed, mut screen) = (played.stdin.take().unwrap(), played.stdout.take().unwrap());
    let mut written = Vec::new();
    let mut part = [0; 4096];
    while !until.iter().all(|text| String::from_utf8_lossy(&written).contains(text)) {
        let bytes = screen.read(&mut part).unwrap();
        assert!(bytes > 0, "ended without {until:?}: {}", String::from_utf8_lossy(&written));
        written.extend_from_slice(&part[..bytes]);
    }
    typed.write_all(keys).unwrap();
    screen.read_to_end(&mut written).unwrap();
    Some((played.wait().unwrap().code(), String::from_utf8(written).unwrap()))
}

#[test]
fn the_terminal_warns_before_it_flashes() {
    let scratch = with_camera(SCENE);
    let ended = in_terminal(&scratch, "eye --config c.toml", &["photosensitive epilepsy", "[y/N]"], b"n\n");
    let Some((code, written)) = ended else { return };
    assert_eq!(code, Some(2), "{written}");
    assert!(written.contains("nothing was measured") && !written.contains("[?1049h"), "{written}");
}

#[test]
fn the_terminal_flashes_and_is_given_back_after_ctrl_c() {
    let scratch = with_camera(SCENE);
    let flashes = ["\x1b[?1049h", "\x1b[48;5;231m", "\x1b[48;5;16m", "of 60 s"];
    let ended = in_terminal(&scratch, "eye --config c.toml --yes", &flashes, b"\x03");
    let Some((code, written)) = ended else { return };
    assert_eq!(code, Some(4), "{written:?}");
    let (_, after) = written.split_once("\x1b[?1049l").expect("the terminal is given back");
    assert!(after.contains("interrupted: nothing was measured") && !after.contains("48;5"), "{after:?}");
}
