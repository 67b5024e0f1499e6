//! What people are told: one test for each rule, on the messages as they are printed.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use proptest::prelude::*;
use youquanti_config::{Config, ConfigErrors};

/// A camera that is fine, for tests of everything else.
const CAMERA: &str = "[[camera]]\nname = \"left\"\nscene = {}\n";

/// Checks that exactly these problems are reported, each as `line:column table: message | remedy`.
fn check(text: &str, expected: &[&str]) {
    let problems = match Config::from_toml(text, "test.toml") {
        Ok(_) => Vec::new(),
        Err(errors) => lines(&errors),
    };
    assert_eq!(problems, expected, "\n{text}");
}

/// As [`check`], for tables that stand below a version and a good camera.
fn check_tables(text: &str, expected: &[&str]) {
    check(&format!("version = 1\n{CAMERA}{text}"), expected);
}

/// As [`check`], for keys of the scene of an otherwise good camera; they begin on line 5.
fn check_scene(keys: &str, expected: &[&str]) {
    check(&format!("version = 1\n[[camera]]\nname = \"left\"\n[camera.scene]\n{keys}"), expected);
}

fn lines(errors: &ConfigErrors) -> Vec<String> {
    let line = |p: &youquanti_config::Problem| {
        let at = p.position.unwrap();
        let table = if p.table.is_empty() { String::new() } else { format!("{}: ", p.table) };
        format!("{}:{} {table}{} | {}", at.line, at.column, p.message, p.remedy)
    };
    errors.problems().iter().map(line).collect()
}

#[test]
fn the_least_that_is_needed() {
    check_tables("", &[]);
    check(
        "",
        &[
            "1:1 version is missing | add version = …: Version of this file's format",
            "1:1 camera is missing | add camera = …: A camera: one `[[camera]]` for each, 1 to 64",
        ],
    );
    check(
        &format!("version = 2\n{CAMERA}"),
        &["1:11 version = 2 is a format that this program does not read | write 1"],
    );
    check(
        "version = 1\ncamera = []",
        &["2:10 there are 0 cameras, outside 1..=64 | write 1 to 64 [[camera]] tables"],
    );
}

#[test]
fn at_most_64_cameras() {
    let cameras = |count: usize| -> String {
        (0..count).map(|n| format!("[[camera]]\nname = \"c{n}\"\nscene = {{}}\n")).collect()
    };
    check(&format!("version = 1\n{}", cameras(64)), &[]);
    let errors = Config::from_toml(&format!("version = 1\n{}", cameras(65)), "test.toml").unwrap_err();
    assert_eq!(errors.problems()[0].message, "there are 65 cameras, outside 1..=64");
}

#[test]
fn unknown_keys() {
    check_scene("fsp = 30", &["5:1 camera \"left\", scene: there is no key fsp | did you mean fps?"]);
    check_tables("[pipelin]\nworkers = 1", &["5:2 there is no key pipelin | did you mean pipeline?"]);
    check_tables(
        "[log]\n\"a b\" = 1",
        &["6:1 log: there is no key \"a b\" | remove it; the keys here are level, format"],
    );
    // A misspelt key is not reported as missing too.
    check(&format!("verson = 1\n{CAMERA}"), &["1:1 there is no key verson | did you mean version?"]);
}

#[test]
fn wrong_types() {
    check_scene(
        "faces = \"2\"",
        &[
            "5:9 camera \"left\", scene: faces = \"2\" is a text, not a whole number from 0 to 16 | write a whole number from 0 to 16",
        ],
    );
    check_scene(
        "faces = 2.0",
        &[
            "5:9 camera \"left\", scene: faces = 2.0 is a number with a point, not a whole number from 0 to 16 | write a whole number from 0 to 16",
        ],
    );
    check_tables(
        "[recording]\nenabled = 1",
        &["6:11 recording: enabled = 1 is a whole number, not true or false | write true or false"],
    );
    check(
        "version = 1\nlog = 3\n[camera]\nname = \"left\"",
        &[
            "2:7 log = 3 is a whole number, not a table | write [log] on a line of its own, its keys below",
            "3:1 camera = [camera] is a table, not a list of cameras | write [[camera]], with two brackets, above each camera",
        ],
    );
    check(
        "version = 1\ncamera = [1]",
        &[
            "2:11 camera[0] = 1 is a whole number, not a table | write [[camera]], with two brackets, above each camera",
        ],
    );
    check_tables(
        "[participants]\nnames = \"Anna\"",
        &["6:9 participants: names = \"Anna\" is a text, not a list of names | write names = [\"…\", \"…\"]"],
    );
}

#[test]
fn numbers_out_of_range() {
    for (key, bad, range, kind) in [
        ("faces", "17", "0..=16", "a whole number"),
        ("faces", "-1", "0..=16", "a whole number"),
        ("faces", "99999999999999999999", "0..=16", "a whole number"),
        ("frames", "0", "1..=4294967295", "a whole number"),
        ("fps", "0.5", "1..=1000", "a number"),
        ("fps", "nan", "1..=1000", "a number"),
        ("seed", "-1", "0..=9223372036854775807", "a whole number"),
    ] {
        let column = key.len() + 4;
        let words = range.replace("..=", " to ");
        check_scene(
            &format!("{key} = {bad}"),
            &[&format!(
                "5:{column} camera \"left\", scene: {key} = {bad} is outside {range} | write {kind} from {words}"
            )],
        );
    }
    check_tables(
        "[pipeline]\nscore_threshold = 1.01",
        &["6:19 pipeline: score_threshold = 1.01 is outside 0..=1 | write a number from 0 to 1"],
    );
    check(
        "version = 1\n[[camera]]\nname = \"left\"\nslots = 1\nscene = {}",
        &["4:9 camera \"left\": slots = 1 is outside 2..=64 | write a whole number from 2 to 64"],
    );
}

#[test]
fn words_to_choose_from() {
    check_scene(
        "pace = \"Real\"",
        &[
            "5:8 camera \"left\", scene: pace = \"Real\" is not \"real\", \"fast\" or \"lossless\" | did you mean \"real\"?",
        ],
    );
    check_scene(
        "format = \"H264\"",
        &[
            "5:10 camera \"left\", scene: format = \"H264\" is not \"YUYV\", \"NV12\", \"RGB24\", \"BGR24\", \"GREY\" or \"MJPG\" | write \"YUYV\", \"NV12\", \"RGB24\", \"BGR24\", \"GREY\" or \"MJPG\"",
        ],
    );
}

#[test]
fn durations_and_sizes() {
    let wanted = "write a duration from \"100ms\" to \"1min\" (units ms, s, min, h)";
    for (bad, phrase) in [
        ("1", "is not a duration"),
        ("s", "is not a duration"),
        ("-1s", "is not a duration"),
        ("1 s", "is not a duration"),
        ("1.5s", "is not a duration"),
        ("1days", "is not a duration"),
        ("99ms", "is outside 100ms..=1min"),
        ("61s", "is outside 100ms..=1min"),
        ("9999999999999999999h", "is outside 100ms..=1min"),
    ] {
        check_tables(
            &format!("[recording]\nflush_interval = \"{bad}\""),
            &[&format!("6:18 recording: flush_interval = \"{bad}\" {phrase} | {wanted}")],
        );
    }
    let wanted = "write a size from \"1MB\" to \"1000TB\" (units MB, GB, TB)";
    for (bad, phrase) in [("5kB", "is not a size"), ("0GB", "is outside 1MB..=1000TB")] {
        check_tables(
            &format!("[recording]\nreserve = \"{bad}\""),
            &[&format!("6:11 recording: reserve = \"{bad}\" {phrase} | {wanted}")],
        );
    }
}

#[test]
fn names_and_texts() {
    check(
        &format!("version = 1\n{}", CAMERA.replace("left", "left eye")),
        &[
            "3:8 camera[0]: name = \"left eye\" is not a name | write 1 to 32 of a-z, A-Z, 0-9, _ and -, beginning with a letter",
        ],
    );
    check_tables(
        "[session]\nname = \"../x\"\ndirectory = \"\"",
        &[
            "6:8 session: name = \"../x\" is not a name | write 1 to 64 of a-z, A-Z, 0-9, _ and -, beginning with a letter",
            "7:13 session: directory = \"\" is not a path | write a path",
        ],
    );
    check_tables(
        "[participants]\nnames = [\"Anna\", \"\", 3]",
        &[
            "6:18 participants: names[1] = \"\" is not a person's name | write 1 to 64 characters without line breaks or blanks at the ends",
            "6:22 participants: names[2] = 3 is a whole number, not 1 to 64 characters without line breaks or blanks at the ends | write 1 to 64 characters without line breaks or blanks at the ends",
        ],
    );
    check(
        "version = 1\n[[camera]]\nname = \"a\"\nfile = { path = \" \" }\n[[camera]]\nname = \"b\"\nv4l2 = { device = \"\" }",
        &[
            "4:17 camera \"a\", file: path = \" \" is neither a path nor an address | write a path, or an address such as \"rtsp://camera.local/stream\"",
            "7:19 camera \"b\", v4l2: device = \"\" names no camera | write what `youquanti cameras` shows, or a path such as \"/dev/video0\"",
        ],
    );
}

#[test]
fn exactly_one_source() {
    check(
        "version = 1\n[[camera]]\nname = \"left\"",
        &[
            "2:1 camera \"left\": it has no source | add one of [camera.scene], [camera.file] and [camera.v4l2] below it",
        ],
    );
    // What is wrong within each of several sources is reported too.
    check(
        "version = 1\n[[camera]]\nname = \"left\"\nscene = { faces = 17 }\nfile = {}",
        &[
            "2:1 camera \"left\": it has 2 sources: scene, file | keep one of them; another camera needs a [[camera]] of its own",
            "4:19 camera \"left\", scene: faces = 17 is outside 0..=16 | write a whole number from 0 to 16",
            "5:8 camera \"left\", file: path is missing | add path = …: A file or address that FFmpeg opens, or a folder of pictures, shown in the order of their names",
        ],
    );
}

#[test]
fn cameras_are_told_apart() {
    let two = |first: &str, second: &str| {
        format!("version = 1\n{}{}", CAMERA.replace("left", first), CAMERA.replace("left", second))
    };
    check(
        &two("left", "left"),
        &[
            "6:8 camera \"left\": name = \"left\" is the name of another camera too, on line 3 | give every camera a name of its own",
        ],
    );
    check(
        &two("left", "Left"),
        &[
            "6:8 camera \"Left\": name = \"Left\" differs from \"left\" on line 3 only in upper and lower case: their files would be the same | give every camera a name of its own",
        ],
    );
    check(
        "version = 1\n[[camera]]\nname = \"a\"\nv4l2 = { device = \"/dev/video0\" }\n[[camera]]\nname = \"b\"\nv4l2 = { device = \"/dev/video0\" }",
        &[
            "7:19 camera \"b\", v4l2: device = \"/dev/video0\" is the device of another camera too, on line 4 | choose another device: `youquanti cameras` lists them",
        ],
    );
}

#[test]
fn width_and_height_together() {
    check_scene("width = 641\nheight = 481", &[]);
    check_scene(
        "width = 640",
        &["5:9 camera \"left\", scene: width = 640 stands without height | add height = …"],
    );
    check(
        "version = 1\n[[camera]]\nname = \"a\"\nv4l2 = { device = \"x\", height = 480 }",
        &["4:33 camera \"a\", v4l2: height = 480 stands without width | add width = …"],
    );
}

#[test]
fn nobody_waits_for_a_pipeline_that_takes_no_frames() {
    check_tables("[pipeline]\nbackend = \"none\"", &[]);
    let with = |camera: &str, backend: &str| {
        format!("version = 1\n[[camera]]\nname = \"left\"\n{camera}\n[pipeline]\nbackend = \"{backend}\"")
    };
    check(&with("scene = { pace = \"lossless\" }", "cpu"), &[]);
    check(&with("scene = { pace = \"fast\" }", "none"), &[]);
    check(
        &with("scene = { pace = \"lossless\" }", "none"),
        &[
            "4:18 camera \"left\", scene: pace = \"lossless\" waits for a pipeline, and backend = \"none\" has none | write pace = \"real\" or \"fast\", or another backend",
        ],
    );
    check(
        &with("file = { path = \"a.mp4\", pace = \"lossless\" }", "none"),
        &[
            "4:33 camera \"left\", file: pace = \"lossless\" waits for a pipeline, and backend = \"none\" has none | write pace = \"real\" or \"fast\", or another backend",
        ],
    );
}

#[test]
fn gpus_are_chosen() {
    check_tables(
        "[gpu]\ndevices = \"all\"\nprecision = \"fp32\"\nbatch_wait = \"0ms\"\non_fatal = \"stop\"",
        &[],
    );
    check_tables("[gpu]\ndevices = [3, 0]\nbatch_wait = \"50ms\"", &[]);
    let with = |devices: &str, wrong: &str| {
        let said = format!(
            "6:11 gpu: devices = {devices} {wrong} | write \"all\" or a list of numbers from 0 to 63, such as [0, 1]"
        );
        check_tables(&format!("[gpu]\ndevices = {devices}"), &[&said]);
    };
    with("[]", "names no GPU");
    with("[0, 64]", "names no GPU at [1]");
    with("[1, \"0\"]", "names no GPU at [1]");
    with("[1, 0, 1]", "names GPU 1 twice");
    with("\"0\"", "is neither \"all\" nor a list of numbers from 0 to 63, such as [0, 1]");
    with("0", "is a whole number, not \"all\" or a list of numbers from 0 to 63, such as [0, 1]");
    check_tables(
        "[gpu]\nbatch_wait = \"51ms\"\non_fatal = \"cup\"",
        &[
            "6:14 gpu: batch_wait = \"51ms\" is outside 0ms..=50ms | write a duration from \"0ms\" to \"50ms\" (units ms, s, min, h)",
            "7:12 gpu: on_fatal = \"cup\" is not \"cpu\" or \"stop\" | did you mean \"cpu\"?",
        ],
    );
}

#[test]
fn cameras_are_placed_on_gpus_that_are_used() {
    let placed =
        |gpu: &str, devices: &str| format!("version = 1\n{CAMERA}gpu = {gpu}\n[gpu]\ndevices = {devices}");
    check(&placed("1", "[0, 1]"), &[]);
    check(&placed("63", "\"all\""), &[]);
    check(
        &placed("2", "[0, 1]"),
        &[
            "5:7 camera \"left\": gpu = 2 is none of the devices of [gpu], on line 7 | choose one of those, or add it there",
        ],
    );
    check(
        &placed("64", "[0, 1]"),
        &["5:7 camera \"left\": gpu = 64 is outside 0..=63 | write a whole number from 0 to 63"],
    );
}

#[test]
fn half_precision_is_for_tensorrt() {
    let with = |backend: &str| format!("[gpu]\nprecision = \"fp16\"\n[pipeline]\nbackend = \"{backend}\"");
    check_tables(&with("tensorrt"), &[]);
    for backend in ["auto", "cuda", "cpu"] {
        check_tables(
            &with(backend),
            &[
                "6:13 gpu: precision = \"fp16\" goes with backend = \"tensorrt\" only: ONNX Runtime's CUDA kernels gained nothing from it | write \"tf32\" or \"fp32\", or backend = \"tensorrt\" in [pipeline]",
            ],
        );
    }
}

#[test]
fn controls_of_a_camera() {
    let with = |controls: &str, expected: &[&str]| {
        let camera = "version = 1\n[[camera]]\nname = \"a\"\n[camera.v4l2]\ndevice = \"x\"\n";
        check(&format!("{camera}[camera.v4l2.controls]\n{controls}"), expected);
    };
    with("exposure = \"auto\"\ngain = 0\nfocus = 30\nwhite_balance = 4600\npower_line = \"50Hz\"", &[]);
    with("exposure = 8.33\nslow_in_dark = true\nbrightness = -3\nhdr = true\nmode = \"Wide\"", &[]);
    with(
        "exposure = 0\ngain = \"high\"\nwhite_balance = 999\npower_line = 50\nbrightness = 1.5\nmode = \" \"",
        &[
            "7:12 camera \"a\", v4l2, controls: exposure = 0 is outside 0.01..=10000 | write \"auto\" or a number of milliseconds from 0.01 to 10000",
            "8:8 camera \"a\", v4l2, controls: gain = \"high\" is neither \"auto\" nor a whole number from 0 to 2147483647 | write \"auto\" or a whole number from 0 to 2147483647",
            "9:17 camera \"a\", v4l2, controls: white_balance = 999 is outside 1000..=20000 | write \"auto\" or a whole number from 1000 to 20000",
            "10:14 camera \"a\", v4l2, controls: power_line = 50 is a whole number, not \"off\", \"50Hz\", \"60Hz\" or \"auto\" | write \"off\", \"50Hz\", \"60Hz\" or \"auto\"",
            "11:14 camera \"a\", v4l2, controls: brightness = 1.5 is a number with a point, not a whole number, true, false, or the name of an entry of a menu | write a whole number, true, false, or the name of an entry of a menu",
            "12:8 camera \"a\", v4l2, controls: mode = \" \" names no entry of a menu | write a whole number, true, false, or the name of an entry of a menu",
        ],
    );
    check(
        "version = 1\n[[camera]]\nname = \"a\"\nv4l2 = { device = \"x\", controls = \"auto\" }",
        &[
            "4:35 camera \"a\", v4l2: controls = \"auto\" is a text, not a table | write [controls] on a line of its own, its keys below",
        ],
    );
}

#[test]
fn size_of_the_detector() {
    check_tables("[pipeline]\ndetector_size = 640", &[]);
    check_tables("[pipeline]\ndetector = \"blazeface-full\"\ndetector_size = \"auto\"", &[]);
    check_tables(
        "[pipeline]\ndetector_size = 650",
        &[
            "6:17 pipeline: detector_size = 650 is no multiple of 32; the nearest are 640 and 672 | write \"auto\" or a multiple of 32 from 64 to 4096",
        ],
    );
    check_tables(
        "[pipeline]\ndetector_size = \"640\"",
        &[
            "6:17 pipeline: detector_size = \"640\" is neither \"auto\" nor a whole number from 64 to 4096 | write \"auto\" or a multiple of 32 from 64 to 4096",
        ],
    );
    check_tables(
        "[pipeline]\ndetector = \"blazeface-short\"\ndetector_size = 640",
        &[
            "7:17 pipeline: detector_size = 640 does not go with detector = \"blazeface-short\", whose size is fixed | remove it, or write detector = \"yunet\"",
        ],
    );
    check_tables(
        "[pipeline]\ndetector_size = 640\nsmallest_face = 60",
        &[
            "7:17 pipeline: smallest_face = 60 has no effect: detector_size = 640 is what it would decide | remove one of the two",
        ],
    );
}

#[test]
fn no_worker_without_a_camera() {
    check_tables(
        "[pipeline]\nworkers = 2",
        &["6:11 pipeline: workers = 2 is more than there are cameras (1) | write a whole number from 1 to 1"],
    );
}

#[test]
fn participants_agree() {
    check_tables("[participants]\nexpected = 4\nnames = [\"Anna\", \"Ben\"]", &[]);
    check_tables(
        "[participants]\nexpected = 5",
        &[
            "6:12 participants: expected = 5 is more than can be seen: max_faces = 4 in each camera, 4 in all | raise max_faces of [pipeline], or expect fewer",
        ],
    );
    check_tables(
        "[participants]\nexpected = 1\nnames = [\"Anna\", \"Ben\"]",
        &[
            "7:9 participants: names = [\"Anna\", \"Ben\"] has 2 names for 1 participants | remove names, or write expected = 2",
        ],
    );
    check_tables(
        "[participants]\nnames = [\"Anna\", \"Anna\"]",
        &["6:18 participants: names[1] = \"Anna\" is names[0] too | write each name once"],
    );
}

#[test]
fn streams_are_made_for_those_who_are_expected() {
    check_tables("[lsl]\nenabled = false\nmesh = true", &[]);
    check_tables("[participants]\nexpected = 1\n[lsl]\nenabled = true", &[]);
    check_tables(
        "[lsl]\nenabled = true",
        &[
            "6:11 lsl: enabled = true needs to know how many participants there are: their streams are made at the start | add expected = … to [participants]",
        ],
    );
    check_tables(
        "[lsl]\nprofile = \"youquantipi\"",
        &[
            "6:11 lsl: profile = \"youquantipi\" is not \"youquanti\", \"youquantipy\" or \"both\" | did you mean \"youquantipy\"?",
        ],
    );
}

#[test]
fn quality_is_of_youquantipys_streams_with_a_mesh() {
    check_tables("[lsl]\nprofile = \"both\"\nmesh = true\nquality = true", &[]);
    check_tables(
        "[lsl]\nmesh = true\nquality = true",
        &[
            "7:11 lsl: quality = true is of YouQuantiPy's streams, which profile = \"youquanti\" does not send | remove it, or write profile = \"youquantipy\" or \"both\"",
        ],
    );
    check_tables(
        "[lsl]\nprofile = \"youquantipy\"\nquality = true",
        &["7:11 lsl: quality = true does not go without the mesh | add mesh = true"],
    );
}

#[test]
fn streams_of_markers() {
    check_tables(
        "[[lsl.markers]]\n[[lsl.markers]]\ntype = \"Trigger*\"\nname = \"?\"\nsource_id = \"a\"",
        &[],
    );
    check_tables(
        "[lsl]\nmarkers = \"all\"",
        &[
            "6:11 lsl: markers = \"all\" is a text, not a list of tables | write [[lsl.markers]], with two brackets, above each",
        ],
    );
    check_tables(
        "[[lsl.markers]]\nname = \" \"",
        &[
            "6:8 lsl, markers[0]: name = \" \" fits no stream | write 1 to 256 characters, * for any text and ? for any character",
        ],
    );
    let long = format!("version = 1\n{CAMERA}[[lsl.markers]]\nsource_id = \"{}\"", "x".repeat(257));
    let problems = Config::from_toml(&long, "test.toml").unwrap_err();
    assert!(problems.problems()[0].message.ends_with("is too long"), "{problems}");
    let many = "[[lsl.markers]]\n".repeat(33);
    let problems = Config::from_toml(&format!("version = 1\n{CAMERA}{many}"), "test.toml").unwrap_err();
    let problem = &problems.problems()[0];
    assert_eq!(problem.message, "there are 33 tables of markers, more than 32");
    assert_eq!(problem.remedy, "let one stand for several: * is any text");
}

#[test]
fn what_recordings_require_can_be_seen() {
    check_tables(
        "[recording]\nrequire_faces = true\nrequire_within = \"2min\"\n[participants]\nexpected = 2",
        &[],
    );
    check_tables(
        "[lsl]\nenabled = true\n[[lsl.markers]]\nrequired = true\n[participants]\nexpected = 1",
        &[],
    );
    check_tables("[[lsl.markers]]\n[[lsl.markers]]\nrequired = false", &[]);
    check_tables(
        "[recording]\nrequire_faces = true\n[pipeline]\nbackend = \"none\"",
        &[
            "6:17 recording: require_faces = true needs participants.expected | write how many people take part: expected = 2 or so in [participants]",
            "6:17 recording: require_faces = true needs a pipeline, and backend = \"none\" seeks no faces | choose another backend in [pipeline], or remove it",
        ],
    );
    check_tables(
        "[[lsl.markers]]\n[[lsl.markers]]\nrequired = true",
        &[
            "7:12 lsl, markers[1]: required = true needs LSL, which is switched off | write enabled = true in [lsl], or remove it",
        ],
    );
}

#[test]
fn waits_grow() {
    check_tables(
        "[supervision]\nbackoff_first = \"6s\"",
        &["6:17 supervision: backoff_first = \"6s\" is longer than backoff_longest = \"5s\" | shorten it"],
    );
    check_tables(
        "[supervision]\nbackoff_longest = \"50ms\"",
        &[
            "6:19 supervision: backoff_longest = \"50ms\" is shorter than backoff_first = \"100ms\" | lengthen it",
        ],
    );
}

#[test]
fn text_that_is_no_toml() {
    // Each such line is reported once, what follows is still read, and nothing is called missing.
    check(
        "[session\nname = \"x\"\n[pipeline]\ndetector =\nworkers = 0\n",
        &[
            "1:9 not valid TOML: unclosed table, expected `]` | correct the marked text; https://toml.io/en/v1.0.0 has the rules",
            "4:11 not valid TOML: string values must be quoted, expected literal string | correct the marked text; https://toml.io/en/v1.0.0 has the rules",
            "5:11 pipeline: workers = 0 is outside 1..=16 | write a whole number from 1 to 16",
        ],
    );
    check_tables(
        "[log]\nlevel = \"info\"\nlevel = \"warn\"",
        &[
            "7:1 not valid TOML: duplicate key | correct the marked text; https://toml.io/en/v1.0.0 has the rules",
        ],
    );
}

/// Ten mistakes of ten kinds, in five tables.
const TEN: &str = r#"version = 1
[session]
name = "demo session"
[[camera]]
name = "left"
slots = 1
[camera.scene]
fsp = 25
pace = "slow"
[[camera]]
name = "Left"
[pipeline]
workers = "two"
detector = "blazeface-full"
detector_size = 320
[recording]
flush_interval = "2min"
[supervision]
backoff_first = "10s"
"#;

#[test]
fn ten_mistakes_at_once() {
    check(
        TEN,
        &[
            "3:8 session: name = \"demo session\" is not a name | write 1 to 64 of a-z, A-Z, 0-9, _ and -, beginning with a letter",
            "6:9 camera \"left\": slots = 1 is outside 2..=64 | write a whole number from 2 to 64",
            "8:1 camera \"left\", scene: there is no key fsp | did you mean fps?",
            "9:8 camera \"left\", scene: pace = \"slow\" is not \"real\", \"fast\" or \"lossless\" | write \"real\", \"fast\" or \"lossless\"",
            "10:1 camera \"Left\": it has no source | add one of [camera.scene], [camera.file] and [camera.v4l2] below it",
            "11:8 camera \"Left\": name = \"Left\" differs from \"left\" on line 5 only in upper and lower case: their files would be the same | give every camera a name of its own",
            "13:11 pipeline: workers = \"two\" is a text, not a whole number from 1 to 16 | write a whole number from 1 to 16",
            "15:17 pipeline: detector_size = 320 does not go with detector = \"blazeface-full\", whose size is fixed | remove it, or write detector = \"yunet\"",
            "17:18 recording: flush_interval = \"2min\" is outside 100ms..=1min | write a duration from \"100ms\" to \"1min\" (units ms, s, min, h)",
            "19:17 supervision: backoff_first = \"10s\" is longer than backoff_longest = \"5s\" | shorten it",
        ],
    );
}

#[test]
fn printed_with_the_line_underlined() {
    let errors =
        Config::from_toml("version = 1\n[[camera]]\n\tname = \"ö\x1b\"\nscene = {}", "a.toml").unwrap_err();
    let first = errors.problems()[0].to_string();
    // A raw control character is no TOML; it must not reach the terminal either.
    assert!(!errors.to_string().contains('\x1b'), "{first:?}");
    let errors =
        Config::from_toml(&format!("version = 1\r\n{CAMERA}\tslots =\t65 # ö"), "a.toml").unwrap_err();
    let expected = "\
error: camera \"left\": slots = 65 is outside 2..=64
 --> a.toml:5:10
  |
5 |  slots = 65 # ö
  |          ^^
  = remedy: write a whole number from 2 to 64

1 problem in the configuration";
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn told_to_programs() {
    let errors = Config::from_toml(&format!("version = 1\n{CAMERA}slots = 65"), "a.toml").unwrap_err();
    let expected: serde_json::Value = serde_json::json!({ "problems": [{
        "file": "a.toml",
        "position": { "line": 5, "column": 9 },
        "table": "camera \"left\"",
        "key": "slots",
        "value": "65",
        "message": "slots = 65 is outside 2..=64",
        "allowed": "a whole number from 2 to 64",
        "remedy": "write a whole number from 2 to 64",
    }] });
    assert_eq!(errors.to_json(), expected);
}

/// TOML-like text: what the format knows, in any order, with values that may or may not fit.
fn almost_toml() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "version",
        "camera",
        "scene",
        "name",
        "fps",
        "=",
        "=",
        "\"left\"",
        "1",
        "-7",
        "0.5",
        "\n",
        "\n",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ".",
        ",",
        "\"",
        "'''",
        "#",
        "é",
        "\u{feff}",
        "\r\n",
        "names",
        "v4l2",
        "1979-05-27",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC*") {
        if let Err(errors) = Config::from_toml(&text, "any") {
            prop_assert!(!errors.problems().is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn almost_toml_is_answered(text in almost_toml()) {
        if let Err(errors) = Config::from_toml(&text, "any") {
            prop_assert!(!errors.problems().is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn a_damaged_file_is_answered(at in 0..TEN.len(), with in any::<char>()) {
        let damaged: String = TEN.chars().enumerate().map(|(i, c)| if i == at { with } else { c }).collect();
        prop_assert!(Config::from_toml(&damaged, "any").is_err());
    }
}

#[test]
fn synchrony() {
    let two = "[participants]\nexpected = 2\n[synchrony]\n";
    check_tables(&format!("{two}enabled = true\ngroups = {{ cheek = [\"cheekPuff\"] }}"), &[]);
    check_tables(
        "[synchrony]\nenabled = true",
        &[
            "6:11 synchrony: enabled = true needs participants.expected | write how many people take part: expected = 2 or \
           more in [participants]",
        ],
    );
    check_tables(
        "[participants]\nexpected = 1\n[synchrony]\nenabled = true",
        &[
            "8:11 synchrony: enabled = true needs two participants, and one is expected | write how many people take part: \
           expected = 2 or more in [participants]",
        ],
    );
    check_tables(
        &format!("{two}history = \"11s\""),
        &[
            "8:11 synchrony: history = \"11s\" is too little: window and twice max_lag are 12 s | lengthen it, ten times \
           that or more",
        ],
    );
    check_tables(
        &format!("{two}window = \"60s\"\nmax_lag = \"10s\"\nhistory = \"10s\""),
        &[
            "10:11 synchrony: history = \"10s\" is too little: window and twice max_lag are 80 s | lengthen it, ten times \
           that or more",
        ],
    );
    let list = "a list of blendshapes, such as [\"jawOpen\"]";
    check_tables(
        &format!(
            "{two}groups = {{ a = [], b = 3, c = [\"jawopen\"], d = [\"x\"], e = [7], f = [\"jawOpen\", \"jawOpen\"] }}"
        ),
        &[
            &format!("8:16 synchrony, groups: a = [] names no blendshape | write {list}, or remove it"),
            &format!("8:24 synchrony, groups: b = 3 is a whole number, not a list | write {list}"),
            "8:31 synchrony, groups: c = [\"jawopen\"] has \"jawopen\", which is no blendshape | did you mean \"jawOpen\"?",
            &format!("8:48 synchrony, groups: d = [\"x\"] has \"x\", which is no blendshape | write {list}"),
            &format!("8:59 synchrony, groups: e = [7] has something that is no name | write {list}"),
            "8:68 synchrony, groups: f = [\"jawOpen\", \"jawOpen\"] has \"jawOpen\" twice | write each blendshape once",
        ],
    );
    check_tables(
        &format!("{two}groups = {{}}"),
        &[
            "8:10 synchrony: groups = {} has 0 groups, outside 1..=16 | write a table of 1 to 16 names, each with a list of \
           blendshapes, such as [\"jawOpen\"]",
        ],
    );
}
