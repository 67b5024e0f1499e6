//! The program's ports as clients use and abuse them, on sessions that run meanwhile and must not notice.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Ended, Running, Scratch, config, unique};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A deadline for what takes no time on a machine with nothing else to do.
const LONG: Duration = Duration::from_secs(120);

/// Nothing is sought in these frames: what counts is that none is missing from the file's index.
const CAMERAS: [(&str, &str); 2] = [
    ("left", "scene = { width = 64, height = 48, fps = 50 }"),
    ("right", "scene = { width = 64, height = 48, fps = 50, seed = 2 }"),
];

/// Faces are sought in these, with the networks that every session has.
const SEEKING: [(&str, &str); 2] = [
    ("left", "scene = { width = 320, height = 240, fps = 15, faces = 1, seed = 7 }"),
    ("right", "scene = { width = 320, height = 240, fps = 15, faces = 1, seed = 8 }"),
];

/// Sessions of one process have names of their own.
static COUNT: AtomicU32 = AtomicU32::new(0);

struct Service {
    scratch: Scratch,
    running: Running,
    at: SocketAddr,
    token: Option<String>,
    labrecorder: Option<SocketAddr>,
}

/// An answer to a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&at, LONG).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream
}

/// Sends bytes as they are and reads the answer to its end.
fn send(at: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = connect(at);
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // Closed with bytes of ours unread: what was answered before that is there.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => body.split("\r\n").skip(1).step_by(2).collect(),
        false => body.to_owned(),
    };
    Answer { status, head: head.to_owned(), body }
}

impl Service {
    /// With these keys of `[server]`, and tables after them.
    fn start(more: &str) -> Self {
        Self::with(&CAMERAS, "backend = \"none\"", more)
    }

    /// The same with other cameras, and other keys of `[pipeline]`.
    fn with(cameras: &[(&str, &str)], pipeline: &str, more: &str) -> Self {
        let (scratch, name) =
            (Scratch::new(), unique(&format!("served{}", COUNT.fetch_add(1, Ordering::Relaxed))));
        let more = format!("[pipeline]\n{pipeline}\n[server]\nport = 0\n{more}");
        scratch.write("a.toml", config(&name, cameras, &more));
        let mut running = scratch.start(&["run", "a.toml", "--no-record", "--duration", "10min", "--json"]);
        let mut token = None;
        if more.contains("0.0.0.0") {
            token = running.wait_for_rest("token for everybody who connects, new each time: ");
        }
        let at = running.wait_for_rest("control and figures at http://").unwrap();
        let at = at.trim_end_matches('/').parse().unwrap();
        let mut labrecorder = None;
        if more.contains("labrecorder") {
            labrecorder = running.wait_for_rest("LabRecorder's clients at ").map(|at| at.parse().unwrap());
        }
        running.wait_for("runs for");
        Self { scratch, running, at, token, labrecorder }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            text += &format!("Host: {}\r\n", self.at);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        send(self.at, format!("{text}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "")
    }

    fn command(&self, command: &Value) -> Answer {
        let json = [("Content-Type", "application/json")];
        self.request("POST", "/api/v1/commands", &json, &command.to_string())
    }

    /// Ends the session, whose report must be without blemish, and no frame be lost.
    fn end(self) -> (Scratch, Value) {
        let (scratch, report) = self.end_busy();
        for camera in report["cameras"].as_array().unwrap() {
            assert_eq!(camera["driver_lost"], 0);
        }
        (scratch, report)
    }

    /// The same of a session that needs the computer for itself: a simulated camera whose thread stands still for two frames has lost
    /// one before this program has it.
    fn end_busy(self) -> (Scratch, Value) {
        self.running.signal(Signal::INT);
        let ended: Ended = self.running.end().with(0);
        let report = ended.json();
        assert_eq!((&report["state"], &report["ledger_closes"]), (&"ok".into(), &true.into()), "{report}");
        for camera in report["cameras"].as_array().unwrap() {
            let [index, pipeline] = ["index", "pipeline"].map(|consumer| &camera["consumers"][consumer]);
            assert_eq!(index["delivered"], camera["captured"], "a frame is missing: {report}");
            assert_eq!(pipeline["dropped"]["no_slot"], 0, "{report}");
        }
        (self.scratch, report)
    }

    /// Waits until this holds of the frames of both cameras, captured and with a result.
    fn wait_until(&self, holds: impl Fn((u64, u64)) -> bool) {
        // Seldom enough that it does not count as too many requests.
        while !["left", "right"].iter().all(|camera| holds(self.frames(camera))) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Frames of a camera so far: captured, and with a result.
    fn frames(&self, camera: &str) -> (u64, u64) {
        let cameras = self.get("/api/v1/cameras").json();
        let of = |camera: &Value, count: &str| camera[count].as_u64().unwrap();
        let mut all = cameras["cameras"].as_array().unwrap().iter();
        let camera = all.find(|found| found["name"] == camera).unwrap();
        (of(camera, "captured"), of(camera, "results"))
    }
}

#[test]
fn everything_that_is_described_is_there_and_says_what_it_should() {
    let service = Service::start("");
    let document = service.get("/api/v1/openapi.json").is(200).json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let name = if path.contains("/cameras/") { "none" } else { "none.h5" };
        let path = path.replace("{name}", name);
        for method in operations.as_object().unwrap().keys() {
            let answer = service.request(&method.to_uppercase(), &path, &[], "");
            let expected = match (&*path, &**method) {
                (path, _) if path.contains("/none") => 404,
                ("/api/v1/live", _) => 400,
                ("/api/v1/commands", _) => 415,
                _ => 200,
            };
            assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
            let known = operations[method]["responses"].as_object().unwrap();
            assert!(known.contains_key(&answer.status.to_string()), "{method} {path}");
        }
        let other = if operations.get("post").is_some() { "GET" } else { "POST" };
        let refused = service.request(other, &path, &[], "").is(405);
        assert!(refused.head.to_lowercase().contains("allow: "), "{refused:?}");
    }
    for header in [
        "content-security-policy",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "cache-control: no-store",
    ] {
        assert!(service.get("/nothing").is(404).head.to_lowercase().contains(header), "{header}");
    }

    let state = service.get("/api/v1/state").json();
    assert_eq!(
        (&state["state"], &state["cameras"]["left"]),
        (&"running".into(), &"running".into()),
        "{state}"
    );
    let marked = service.command(&json!({ "command": "mark", "text": "one", "id": "m1" })).is(200).json();
    let again = service.command(&json!({ "command": "mark", "text": "one", "id": "m1" })).is(200).json();
    assert_eq!(marked, again, "carried out once");
    service.command(&json!({ "command": "mark", "text": "two", "id": "m1" })).is(409);
    service.command(&json!({ "command": "mark", "text": "" })).is(422);
    service.command(&json!({ "command": "stop_recording" })).is(409);
    let unknown = service.command(&json!({ "command": "pause_camera", "camera": "lift" })).is(404).json();
    assert_eq!(unknown["error"]["known"], json!(["left", "right"]));

    let start = json!({ "command": "start_recording", "name": "sub/one", "by": "me" });
    service.command(&start).is(200);
    let refused = service.command(&start).is(409).json();
    assert!(refused["error"]["allowed"].as_array().unwrap().contains(&"stop_recording".into()), "{refused}");
    assert_eq!(service.get("/api/v1/state").json()["state"], "recording");
    let stopped = service.command(&json!({ "command": "stop_recording" })).is(200).json();
    assert_eq!(stopped["ok"]["complete"], true);
    assert_eq!(service.get("/api/v1/sessions").json()["sessions"][0]["name"], "sub/one.h5");
    for name in ["sub/one.h5", "sub%2Fone.h5"] {
        let inside = service.get(&format!("/api/v1/sessions/{name}")).is(200).json();
        assert_eq!(inside["ledger_closes"], true);
    }

    let metrics = service.get("/metrics").is(200).body;
    let mut families = BTreeSet::new();
    for line in metrics.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(family) => assert!(families.insert(family.split(' ').next().unwrap()), "{line}"),
            None if line.starts_with('#') => {}
            None => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok() && name.starts_with("youquanti_"), "{line}");
            }
        }
    }
    for family in
        ["frames_captured_total", "frames_dropped_total", "latency_seconds", "disk_free_bytes", "faces"]
    {
        assert!(families.contains(&*format!("youquanti_{family}")), "{family}");
    }
    service.end();
}

#[test]
fn web_pages_of_others_and_paths_to_elsewhere_are_refused() {
    let service = Service::start("");
    let own = format!("http://{}", service.at);
    for (headers, status) in [
        (vec![("Host", "evil.example")], 403),
        (vec![("Host", "127.0.0.1.evil.example:80")], 403),
        (vec![("Origin", "http://evil.example")], 403),
        (vec![("Origin", "null")], 403),
        (vec![("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Sec-Fetch-Site", "same-site")], 403),
        (vec![("Origin", &own), ("Sec-Fetch-Site", "same-origin")], 200),
    ] {
        assert_eq!(service.request("GET", "/api/v1/state", &headers, "").status, status, "{headers:?}");
    }
    let upgrade = |origin: &str| {
        let headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Origin", origin),
        ];
        service.request("GET", "/api/v1/live", &headers, "")
    };
    assert_eq!(upgrade("http://evil.example").status, 403);
    // A form of another site can send this type without asking.
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let mark = json!({ "command": "mark", "text": "x" }).to_string();
        service.request("POST", "/api/v1/commands", &[("Content-Type", kind)], &mark).is(415);
    }
    service.scratch.write("secret.h5", "x");
    std::fs::create_dir_all(service.scratch.path("sessions")).unwrap();
    for name in
        ["../secret.h5", "..%2Fsecret.h5", "%2e%2e/secret.h5", "%2Fetc%2Fpasswd", "..%5Csecret.h5", "a%00.h5"]
    {
        let status = service.get(&format!("/api/v1/sessions/{name}")).status;
        assert!([404, 400].contains(&status), "{name}: {status}");
    }
    for name in ["../x", "/tmp/x", "a/../../x", "x\u{0}"] {
        service.command(&json!({ "command": "start_recording", "name": name })).is(422);
    }
    let long = "x".repeat(20_000);
    service.command(&json!({ "command": "mark", "text": long })).is(413);
    assert_eq!(
        service.request("GET", &format!("/{long}"), &[("X-Long", &long.repeat(10))], "").status / 100,
        4
    );
    let (scratch, _) = service.end();
    assert!(
        scratch.sessions(".").iter().all(|path| path.ends_with("secret.h5")),
        "{:?}",
        scratch.sessions(".")
    );
}

#[test]
fn beyond_this_machine_nothing_is_said_without_the_token() {
    let service = Service::start("address = \"0.0.0.0\"\n");
    let token = service.token.clone().unwrap();
    let bearer = |token: &str| format!("Bearer {token}");
    service.get("/healthz").is(200);
    for path in ["/api/v1/state", "/metrics", "/api/v1/live", "/api/v1/config", "/api/v1/sessions/x.h5"] {
        service.get(path).is(401);
    }
    service.request("GET", "/api/v1/state", &[("Authorization", &bearer("wrong"))], "").is(401);
    let with =
        |token: &str| service.request("GET", "/api/v1/state", &[("Authorization", &bearer(token))], "");
    with(&token).is(200);
    // Many wrong ones make the next wait, whoever sends them.
    let statuses: BTreeSet<_> = (0..30).map(|_| with("guess").status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    with(&token).is(200);
    service.end();
}

#[test]
fn a_token_file_that_others_can_read_and_a_port_that_is_taken_are_errors_before_the_start() {
    let scratch = Scratch::new();
    scratch.write("token", "0123456789abcdef0123456789abcdef");
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(scratch.path("token"), mode).unwrap();
    let more = "[pipeline]\nbackend = \"none\"\n[server]\ntoken_file = \"token\"\nport = 0\n";
    scratch.write("a.toml", config(&unique("open"), &CAMERAS, more));
    scratch.run(&["run", "a.toml", "--no-record"]).with(2).says(&["token file token", "chmod 600"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let more = format!("[pipeline]\nbackend = \"none\"\n[server]\nport = {port}\n");
    scratch.write("b.toml", config(&unique("taken"), &CAMERAS, &more));
    scratch.run(&["run", "b.toml", "--no-record"]).with(2).says(&["cannot listen at 127.0.0.1", "--no-ui"]);
    scratch.run(&["run", "b.toml", "--no-record", "--no-ui", "--duration", "200ms"]).with(0);
    let key = format!("port = {port} cannot be had: 127.0.0.1:{port}: Address already in use");
    scratch.run(&["check", "b.toml"]).with(3).says(&[&key, "--> b.toml:", "ss -ltnp", "1 problem"]);
    drop(taken);
    scratch.run(&["check", "b.toml"]).with(0);

    // Two of them cannot have the same port, even one that is free.
    let more = format!("{more}token_file = \"token\"\n[labrecorder]\nenabled = true\nport = {port}\n");
    scratch.write("c.toml", config(&unique("twice"), &CAMERAS, &more));
    let ended = scratch.run(&["check", "c.toml", "--json"]).with(3);
    let problems = ended.json()["problems"].clone();
    let of: Vec<_> =
        problems.as_array().unwrap().iter().map(|problem| [&problem["table"], &problem["key"]]).collect();
    assert_eq!(json!(of), json!([["server", "token_file"], ["labrecorder", "port"]]), "{problems}");
}

#[test]
fn two_hundred_clients_garbage_and_one_byte_a_second_cost_no_frame() {
    let service = Service::start("");
    let (before, _) = service.frames("right");
    abuse(&service);
    service.wait_until(|(frames, _)| frames >= before + 50);
    service.end();
}

#[test]
fn nor_do_they_cost_one_while_faces_are_sought() {
    let service = Service::with(&SEEKING, "backend = \"cpu\"\nthreads = 1\nsmallest_face = 40", "");
    service.wait_until(|(_, results)| results > 0);
    abuse(&service);
    let (before, results_before) = service.frames("left");
    service.wait_until(|(frames, results)| frames >= before + 20 && results >= results_before + 5);
    let (_, report) = service.end_busy();
    for camera in report["cameras"].as_array().unwrap() {
        assert!(camera["face_rows"].as_u64().unwrap() > 0, "{report}");
    }
}

/// A client that asks for every result, as large as they are, and has not read anything yet.
fn subscribe(at: SocketAddr) -> TcpStream {
    let mut client = connect(at);
    let request = format!(
        "GET /api/v1/live HTTP/1.1\r\nHost: {at}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.write_all(request.as_bytes()).unwrap();
    let subscribe = br#"{"type":"subscribe","results":{"landmarks":true}}"#;
    let mut frame = vec![0x81, 0x80 | subscribe.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(subscribe);
    client.write_all(&frame).unwrap();
    client
}

/// Two hundred clients at once, a quarter of them with garbage, twenty that send a byte at a time, and one that never reads.
fn abuse(service: &Service) {
    // Clients that never end what they begin, and one that never reads what it asked for.
    let mut slow: Vec<_> = (0..20).map(|_| connect(service.at)).collect();
    let _deaf = subscribe(service.at);
    std::thread::scope(|scope| {
        for client in 0..200 {
            let asking = move || match client % 4 {
                0 => drop(service.get("/api/v1/state").is(200)),
                1 => drop(service.get("/metrics").is(200)),
                2 => {
                    drop(service.command(&json!({ "command": "mark", "text": format!("{client}") })).is(200))
                }
                _ => {
                    let garbage: Vec<_> =
                        (0..4000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
                    assert!([0, 400].contains(&send(service.at, &garbage).status));
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, asking).unwrap();
        }
        // Each byte comes before any time-out for a byte could, and yet the request must end in time.
        let mut is_closed = vec![false; slow.len()];
        for byte in "GET /api/v1/state HTTP/1.1\r\nX: ".bytes().chain(std::iter::repeat(b'x')) {
            for (stream, is_closed) in slow.iter_mut().zip(&mut is_closed) {
                stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                let ended = match stream.read(&mut [0; 256]) {
                    Ok(count) => count == 0,
                    Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                };
                *is_closed |= ended || stream.write_all(&[byte]).is_err();
            }
            if is_closed.iter().all(|&closed| closed) {
                break;
            }
        }
    });
}

#[test]
fn what_a_client_missed_that_was_let_go_because_it_took_nothing_is_counted() {
    let service = Service::with(&SEEKING, "backend = \"cpu\"\nthreads = 1\nsmallest_face = 40", "");
    let figure = |name: &str| -> u64 {
        let page = service.get("/metrics").is(200).body;
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("youquanti_{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in {page}")).parse().unwrap()
    };
    let wait_for_sockets = |count: u64| {
        while figure("websockets") != count {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    };
    let leaves = subscribe(service.at);
    wait_for_sockets(1);
    drop(leaves);
    wait_for_sockets(0);
    assert_eq!(figure("websocket_missed_total"), 0, "one that leaves by itself has missed nothing");

    let _deaf = subscribe(service.at);
    wait_for_sockets(1);
    wait_for_sockets(0);
    let results = ["left", "right"].map(|camera| service.frames(camera).1).iter().sum::<u64>();
    let missed = figure("websocket_missed_total");
    assert!((1..=results).contains(&missed), "{missed} of {results} results");
    service.end_busy();
}

#[test]
fn the_command_line_steers_a_session_and_says_why_not() {
    let service = Service::start("");
    let at = service.at.to_string();
    let control = |words: &[&str]| service.scratch.run(&[&["control", "--at", &at], words].concat());
    assert_eq!(control(&["state"]).with(0).json()["state"], "running");
    assert_eq!(control(&["mark", "stimulus on"]).with(0).json()["done"], "marked");
    let file = control(&["record", "a/b", "--by", "me"]).with(0).json();
    assert_eq!((&file["done"], &file["number"]), (&"recording_started".into(), &1.into()));
    control(&["record"]).with(4).says(&["the session is recording to", "allowed now: stop_recording"]);
    control(&["pause-camera", "left"]).with(0);
    control(&["resume-camera", "left"]).with(0);
    control(&["stop-recording"]).with(0);
    control(&["pause-camera", "lift"]).with(4).says(&["there are left, right"]);
    service.scratch.run(&["control", "--at", "127.0.0.1:1", "state"]).with(3).says(&["no session answers"]);
    control(&["stop", "enough"]).with(0);
    let ended = service.running.end().with(0);
    assert_eq!(ended.json()["stop_reason"], "enough");
}

#[test]
fn a_client_of_labrecorder_drives_a_whole_recording() {
    let service = Service::start("[labrecorder]\nenabled = true\nport = 0\n");
    let mut client = connect(service.labrecorder.unwrap());
    let mut say = |line: &str, expected: &str| {
        client.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = [0; 400];
        let count = client.read(&mut answer).unwrap();
        let answer = std::str::from_utf8(&answer[..count]).unwrap();
        assert!(
            answer == expected || expected.starts_with("error") && answer.starts_with(expected),
            "{line}: {answer:?}"
        );
    };
    say("update", "OK");
    say("select all", "OK");
    say("stop", "error: stop_recording: the session is not recording; allowed now: start_recording");
    say("filename {root:/etc} {participant:P007}", "error: root: \"/etc\" is not in");
    say(
        "filename {root:study} {template:sub-%p/%p_%b_run%r.xdf} {participant:P007} {task:../../x} {run:3}",
        "OK",
    );
    say("start", "OK");
    say("start", "error: start_recording: the session is recording to");
    say("sing", "error: unknown: select all");
    say("stop", "OK");
    let mut web = connect(service.labrecorder.unwrap());
    web.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nstart\n").unwrap();
    let mut answer = Vec::new();
    // Closed with bytes unread, it may be reset.
    web.read_to_end(&mut answer).ok();
    assert_eq!(answer, b"", "a browser is not obeyed");
    assert_eq!(service.get("/api/v1/state").json()["recording"], Value::Null);
    let (scratch, report) = service.end();
    let file = scratch.path("sessions/study/sub-P007/P007_______x_run003.h5");
    assert!(file.exists(), "{report}");
    assert_eq!(report["recordings"].as_array().map(Vec::len), Some(1), "{report}");
}

#[test]
fn of_two_that_start_at_once_one_does_and_both_know() {
    let service = Service::start("[labrecorder]\nenabled = true\nport = 0\n");
    let mut labrecorder = connect(service.labrecorder.unwrap());
    let mut say = |line: &str| {
        labrecorder.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = [0; 400];
        let count = labrecorder.read(&mut answer).unwrap();
        String::from_utf8(answer[..count].to_vec()).unwrap()
    };
    for round in 0..10 {
        let start = json!({ "command": "start_recording", "name": format!("at-once/{round}") });
        let both = Barrier::new(2);
        let (answer, said) = std::thread::scope(|scope| {
            let by_web = scope.spawn(|| {
                both.wait();
                service.command(&start)
            });
            both.wait();
            let said = say("start");
            (by_web.join().unwrap(), said)
        });
        let recording = service.get("/api/v1/state").json()["recording"]["path"].clone();
        let path = recording.as_str().unwrap();
        match answer.status {
            200 => {
                assert_eq!(answer.json()["ok"]["path"], recording);
                assert!(said.starts_with("error: start_recording: the session is "), "{said}");
                assert!(said.contains(path) || said.contains("busy"), "{said}");
            }
            409 => {
                assert_eq!(said, "OK");
                let error = answer.json()["error"].clone();
                let state = error["state"].as_str().unwrap();
                assert!(state.contains(path) || state.contains("busy"), "{error}");
            }
            _ => panic!("{answer:?}"),
        }
        service.command(&json!({ "command": "stop_recording" })).is(200);
    }
    let (_, report) = service.end();
    assert_eq!(report["recordings"].as_array().map(Vec::len), Some(10), "{report}");
}
