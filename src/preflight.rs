//! What would go wrong, found before anything is started.
//!
//! Looks at everything that a configuration names: files, cameras, networks, libraries, folders, disk and
//! shared memory. Finds all problems at once, each with its place in the configuration. Streams from
//! no camera (of those on a network it only asks whether they answer) and changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use youquanti_actors::capture::{CaptureError, v4l2};
use youquanti_actors::ffmpeg;
use youquanti_actors::plane::ring_slots;
use youquanti_actors::session_file::{self, network_file_system};
use youquanti_actors::video::find_encoder;
use youquanti_config::{self as config, Config, ConfigErrors, OnFatal, Problem, SourceConfig};
use youquanti_frames::{segment_bytes, segment_bytes_with_results};
use youquanti_gpu as gpu;
use youquanti_models::{PictureLayout, with_causes};

use crate::backend::{self, Backend, Engine};
use crate::offsets::Offsets;
use crate::server::{Port, ServerError, Token, listen};
use crate::wiring::{self, RING_DIR};

/// Checks everything that `config` names against this machine, and decides what a session with it computes on.
///
/// # Errors
/// All problems, in the order of the configuration's file.
pub fn check(config: &Config) -> Result<Backend, ConfigErrors> {
    let Findings { backend, mut problems, missing } = look(config);
    problems.extend(missing);
    ConfigErrors::check(backend, problems)
}

/// The same, and whether the ports and the token of `[server]` and `[labrecorder]` can be had, which a session itself does not need.
///
/// # Errors
/// All problems, in the order of the configuration's file.
pub fn check_with_doors(config: &Config) -> Result<Backend, ConfigErrors> {
    let Findings { backend, mut problems, missing } = look(config);
    problems.extend(missing);
    doors(config, &mut problems);
    ConfigErrors::check(backend, problems)
}

/// The same for a session that is to start although something that it requires is missing: cameras, and disk space
/// for the planned duration. Returns what is, in words.
///
/// # Errors
/// All problems that no decision helps against.
pub fn check_overridden(config: &Config) -> Result<(Backend, Vec<String>), ConfigErrors> {
    let Findings { backend, problems, missing } = look(config);
    let missing = missing.iter().map(|problem| problem.message.clone()).collect();
    Ok((ConfigErrors::check(backend, problems)?, missing))
}

/// What was found.
struct Findings {
    backend: Option<Backend>,
    /// Problems that prevent any session.
    problems: Vec<Problem>,
    /// Problems that somebody may decide to start in spite of.
    missing: Vec<Problem>,
}

fn look(config: &Config) -> Findings {
    let (mut problems, mut missing) = (Vec::new(), Vec::new());
    sources(config, &mut problems, &mut missing);
    offsets(config, &mut problems);
    shared_memory(config, &mut problems);
    let backend = backend::decide(config).map_err(|found| problems.extend(found)).ok();
    if let Some(backend) = &backend {
        networks(config, backend, &mut problems);
    }
    if config.recording.enabled {
        folder(config, &mut problems, &mut missing);
    }
    video(config, &mut problems);
    if config.recording.derived_only {
        swap(config, &mut problems);
    }
    if config.lsl.enabled {
        lsl(config, &mut problems);
    }
    Findings { backend, problems, missing }
}

/// Bytes that a user without privileges may still write to the file system of `path`, or of its nearest
/// ancestor that exists.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(existing_ancestor(path).as_path())?;
    Ok(stat.f_bavail * stat.f_frsize)
}

fn existing_ancestor(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.exists());
    found.filter(|found| !found.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn sources(config: &Config, problems: &mut Vec<Problem>, missing: &mut Vec<Problem>) {
    // Nodes that cameras before have: a camera has several names.
    let mut nodes = Vec::new();
    for (index, camera) in config.cameras.iter().enumerate() {
        match &camera.source {
            SourceConfig::Scene(_) => {}
            SourceConfig::File(source) => {
                let key = format!("camera[{index}].file.path");
                if source.path.path().is_some_and(|path| !path.exists()) {
                    problems.push(config.problem(
                        &key,
                        "does not exist",
                        "correct the path; it is relative to the folder in which the program runs",
                    ));
                } else if let Err(error) = ffmpeg::find() {
                    let wrong = format!("needs FFmpeg, which cannot be used: {error}");
                    let remedy = "install ffmpeg, run `make setup`, or name it in YOUQUANTI_FFMPEG";
                    problems.push(config.problem(&key, &wrong, remedy));
                } else if let Err(error) = knock(source.path.as_str()) {
                    let wrong = format!("cannot be reached: {error}");
                    let remedy = "switch the camera on, and check its address and the network";
                    missing.push(config.problem(&key, &wrong, remedy));
                }
            }
            SourceConfig::V4l2(source) => {
                let key = format!("camera[{index}].v4l2.device");
                let mut problem = |wrong: &str, remedy| missing.push(config.problem(&key, wrong, remedy));
                match v4l2::locate(&source.device.to_string()) {
                    Ok(path) if nodes.contains(&path) => problems.push(config.problem(
                        &key,
                        &format!("is {}, the device of another camera too", path.display()),
                        "choose another device: `youquanti cameras` lists them",
                    )),
                    Ok(path) => nodes.push(path),
                    Err(error @ CaptureError::Unavailable { .. }) => problem(
                        &format!("cannot be used: {error}"),
                        "see to that, or name another that `youquanti cameras` shows",
                    ),
                    Err(error) => problem(
                        &format!("cannot be used: {error}"),
                        "plug it in, or name one that `youquanti cameras` shows",
                    ),
                }
            }
        }
    }
}

/// Every video that is asked for can be made.
fn video(config: &Config, problems: &mut Vec<Problem>) {
    let mut missing = BTreeSet::new();
    for (index, camera) in config.cameras.iter().enumerate() {
        let Some(codec) = wiring::codec(config.video_of(camera)) else { continue };
        if !wiring::needs_encoder(camera, codec) {
            continue;
        }
        let Err(error) = find_encoder(codec, config.recording.video.hardware) else { continue };
        let key = match camera.video {
            Some(_) => format!("camera[{index}].video"),
            None => "recording.video.codec".to_owned(),
        };
        if missing.insert(key.clone()) {
            let remedy =
                "install ffmpeg, run `make setup`, name another one in YOUQUANTI_FFMPEG, or write \"none\"";
            problems.push(config.problem(&key, &format!("cannot be recorded: {error}"), remedy));
        }
    }
}

/// Memory that is swapped out is on a disk, pictures and all.
fn swap(config: &Config, problems: &mut Vec<Problem>) {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let disks: Vec<_> = swap_on_disks(&swaps).collect();
    if !disks.is_empty() {
        let wrong =
            format!("cannot be promised: memory may be written to the swap space {}", disks.join(", "));
        let remedy = "switch it off (`swapoff -a`), or remove derived_only, which then is no promise";
        problems.push(config.problem("recording.derived_only", &wrong, remedy));
    }
}

/// Swap spaces, from the text of `/proc/swaps`, but those that are memory themselves.
fn swap_on_disks(swaps: &str) -> impl Iterator<Item = &str> {
    let spaces = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    spaces.filter(|space| !space.starts_with("/dev/zram"))
}

/// What was measured of cameras is looked up when a session starts.
fn offsets(config: &Config, problems: &mut Vec<Problem>) {
    if let Err(error) = Offsets::load() {
        let wrong = format!("has offsets of stamps that cannot be used: {}", with_causes(&error));
        let remedy = "correct the file, or move it away and run `youquanti calibrate` again";
        problems.push(config.problem("camera", &wrong, remedy));
    }
}

/// How long a camera on the network may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Whether anybody answers at an address, where it is of a kind that is connected to.
fn knock(address: &str) -> io::Result<()> {
    let Some((host, port)) = host_and_port(address) else { return Ok(()) };
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for socket in (host, port).to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&socket, ANSWER_WITHIN).map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Host and port of an address `scheme://user:password@host:port/…`; `None` for schemes that are not known to be TCP.
fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = address.split_once("://")?;
    let usual = match scheme {
        "rtsp" => 554,
        "http" => 80,
        "https" => 443,
        "rtmp" => 1935,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let with_port = place.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = with_port.unwrap_or((place, usual));
    Some((host.trim_matches(['[', ']']), port))
}

/// What a camera's frames will look like as far as the configuration says.
fn expected_layout(source: &SourceConfig) -> Option<PictureLayout> {
    match source {
        SourceConfig::Scene(scene) => {
            Some(PictureLayout::packed(scene.width.get(), scene.height.get(), scene.format))
        }
        SourceConfig::V4l2(camera) => {
            Some(PictureLayout::packed(camera.width.get(), camera.height.get(), camera.format))
        }
        SourceConfig::File(_) => None,
    }
}

fn shared_memory(config: &Config, problems: &mut Vec<Problem>) {
    let preview = config.preview.enabled.then(|| wiring::preview(config));
    let need: u64 = config
        .cameras
        .iter()
        .filter_map(|camera| {
            let layout = expected_layout(&camera.source)?;
            let previews = preview.as_ref().map_or(0, |plan| {
                segment_bytes_with_results(plan.slots, &plan.layout_for(&layout), plan.max_faces)
            });
            let slots = ring_slots(camera.slots.get() as usize, preview.is_some(), config.pose.enabled);
            Some(segment_bytes(slots, &layout) + previews)
        })
        .sum();
    if let Ok(have) = free_space(Path::new(RING_DIR))
        && have < need
    {
        let wrong = format!(
            "needs {need} bytes of shared memory in {RING_DIR} for all rings and previews, {have} are free"
        );
        let remedy =
            "give cameras fewer slots or smaller pictures, switch previews off, or enlarge the file system";
        problems.push(config.problem("camera", &wrong, remedy));
    }
}

/// What runs the networks on the processor, and the networks themselves; what GPUs need was looked at when they were chosen.
fn networks(config: &Config, backend: &Backend, problems: &mut Vec<Problem>) {
    if let Err(error) = gpu::runtime::load() {
        if backend.engine == Engine::Cpu {
            let remedy = "run `make setup`, name the library in YOUQUANTI_ONNXRUNTIME, or record without seeking \
                          faces: backend = \"none\"";
            problems.push(config.problem("pipeline.backend", &format!("cannot run: {error}"), remedy));
        } else if config.pose.enabled {
            let remedy =
                "run `make setup`, name the library in YOUQUANTI_ONNXRUNTIME, or do without: enabled = false";
            problems.push(config.problem("pose.enabled", &format!("cannot be: {error}"), remedy));
        }
    }
    let Some(models) = &config.pipeline.model_dir else { return };
    let detector = wiring::detector(&config.pipeline);
    let checked = processors(config, backend).into_iter();
    let errors = checked.flat_map(|processor| gpu::check_networks(processor, detector, models));
    let of_pose = config.pose.enabled.then(|| gpu::cpu::pose::check_networks(models));
    let errors = errors.chain(of_pose.into_iter().flatten());
    // Processors have networks in common.
    for error in errors.map(|error| with_causes(&error)).collect::<BTreeSet<_>>() {
        let remedy = "put the right file there, or remove model_dir to use the networks inside the program";
        problems.push(config.problem("pipeline.model_dir", &format!("cannot be used: {error}"), remedy));
    }
}

/// Whose networks a session may come to need.
fn processors(config: &Config, backend: &Backend) -> Vec<gpu::Processor> {
    match backend.engine {
        Engine::None => vec![],
        Engine::Cpu => vec![gpu::Processor::Cpu],
        Engine::Gpu { .. } => match config.gpu.on_fatal {
            OnFatal::Cpu => vec![gpu::Processor::Gpu, gpu::Processor::Cpu],
            OnFatal::Stop => vec![gpu::Processor::Gpu],
        },
    }
}

/// Streaming needs liblsl.
fn lsl(config: &Config, problems: &mut Vec<Problem>) {
    if let Err(error) = youquanti_lsl::Lsl::load() {
        let remedy =
            "run `make setup`, name the library in YOUQUANTI_LIBLSL, or do without streams: enabled = false";
        problems.push(config.problem("lsl.enabled", &format!("cannot be: {error}"), remedy));
    }
}

/// Everything that would be listened at. Ports are taken and let go of again; whoever runs already, and has them, keeps them.
fn doors(config: &Config, problems: &mut Vec<Problem>) {
    let cannot = |at: SocketAddr, error: &io::Error| format!("cannot be had: {at}: {error}");
    let server = &config.server;
    // Kept until the other one is looked at: both may be the same.
    let mut taken = None;
    if server.enabled {
        let key = if server.port.is_some() { "server.port" } else { "server.address" };
        match listen(server.address, Port::wanted(config)) {
            Ok(listener) => taken = Some(listener),
            Err(ServerError::Listen { at, source }) => problems.push(config.problem(
                key,
                &cannot(at, &source),
                "end what uses it (`ss -ltnp` says what does; perhaps another session), choose another port or 0 for any that \
                 is free, or do without: --no-ui",
            )),
            Err(_) => {}
        }
        if let Some(Err(error)) = server.token_file.as_deref().map(Token::load) {
            let wrong = format!("cannot be used: {}", with_causes(&error));
            let remedy = "correct that, or remove token_file: a token is then made where one is needed";
            problems.push(config.problem("server.token_file", &wrong, remedy));
        }
    }
    if config.labrecorder.enabled {
        let at = SocketAddr::new(config.labrecorder.address, config.labrecorder.port.get() as u16);
        if let Err(error) = TcpListener::bind(at) {
            let remedy = "close LabRecorder, which has the same usual port (`ss -ltnp` says what uses it), or choose another";
            problems.push(config.problem("labrecorder.port", &cannot(at, &error), remedy));
        }
    }
    drop(taken);
}

fn folder(config: &Config, problems: &mut Vec<Problem>, missing: &mut Vec<Problem>) {
    let directory = &config.session.directory;
    let existing = existing_ancestor(directory);
    let remedy = "choose a folder that can be written, here or with --record";
    let mut wrong = |wrong: &str, remedy| problems.push(config.problem("session.directory", wrong, remedy));
    if !existing.is_dir() {
        wrong(&format!("cannot be made: {} is not a folder", existing.display()), remedy);
        return;
    }
    if let Err(error) = rustix::fs::access(&existing, rustix::fs::Access::WRITE_OK) {
        wrong(&format!("cannot be written: {}: {error}", existing.display()), remedy);
    }
    if let Some(kind) = network_file_system(&existing) {
        let what = format!("is on a network file system ({kind}), which does not keep the order of writes");
        wrong(&what, "record to a local disk, and copy the file afterwards");
    }
    let free = match free_space(&existing) {
        Ok(free) => free,
        Err(error) => return wrong(&format!("cannot be asked for free space: {error}"), remedy),
    };
    // Set aside for closing the file, and as much that has to stay free.
    let reserve = 2 * config.recording.reserve.get();
    if free <= reserve {
        problems.push(config.problem(
            "recording.reserve",
            &format!("needs twice its size, and {free} bytes are free in {}", existing.display()),
            "free some space, record elsewhere, or lower the reserve",
        ));
    } else if let Some(duration) = config.session.duration {
        let need = (bytes_per_second(config) * duration.get().as_secs_f64()) as u64;
        if need > free - reserve {
            let faces = faces_per_camera(config);
            let what = format!(
                "needs about {} MB of disk with {faces} {} in each camera, and {} MB are free in {} beside the reserve",
                need / 1_000_000,
                if faces == 1 { "face" } else { "faces" },
                (free - reserve) / 1_000_000,
                existing.display()
            );
            let remedy = "free some space, record elsewhere, or say how many people there are (participants.expected, \
                          pipeline.max_faces); --override starts all the same";
            missing.push(config.problem("session.duration", &what, remedy));
        }
    }
}

/// Most faces that one camera can show for long: those that are followed, or the people that are expected.
fn faces_per_camera(config: &Config) -> u32 {
    let followed = config.pipeline.max_faces.get();
    config.participants.expected.map_or(followed, |expected| expected.get().min(followed))
}

/// How fast a session's file grows, from the rows that each camera brings when every face is there all the time. What
/// compression saves is not counted on. Videos that do not say how fast they are count as 30 frames a second.
fn bytes_per_second(config: &Config) -> f64 {
    let seeks = config.pipeline.backend != config::Backend::None;
    let faces = if seeks { f64::from(faces_per_camera(config)) } else { 0.0 };
    let fps = |source: &SourceConfig| match source {
        SourceConfig::Scene(scene) => scene.fps.get(),
        SourceConfig::File(file) => file.fps.map_or(30.0, |fps| fps.get()),
        SourceConfig::V4l2(camera) => camera.fps.get(),
    };
    let pose = config.pose.enabled;
    config.cameras.iter().map(|camera| session_file::bytes_per_second(fps(&camera.source), faces, pose)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_space_in_memory_is_no_disk() {
        let check = |swaps: &str, expected: &[&str]| {
            assert_eq!(swap_on_disks(swaps).collect::<Vec<_>>(), expected, "{swaps}");
        };
        let head = "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        check("", &[]);
        check(head, &[]);
        check(&format!("{head}/dev/zram0 partition 8388604 0 100\n"), &[]);
        check(&format!("{head}/dev/zram0 partition 1 0 100\n/swapfile file 2 0 -2\n"), &["/swapfile"]);
    }

    #[test]
    fn a_file_grows_with_cameras_rates_and_people() {
        let rate = |text: &str| {
            let text = format!("version = 1\n[[camera]]\nname = \"a\"\n{text}");
            bytes_per_second(&Config::from_toml(&text, "test.toml").unwrap())
        };
        let one = rate("scene = { fps = 30 }\n[pipeline]\nmax_faces = 1");
        assert!((180_000.0..190_000.0).contains(&one), "{one}");
        let two = rate("scene = { fps = 60 }\n[participants]\nexpected = 1");
        assert_eq!(two, 2.0 * one);
        let four = rate("scene = { fps = 30 }\n[pipeline]\nmax_faces = 4");
        assert!((3.9 * one..4.0 * one).contains(&four), "four faces are followed: {four}");
    }

    #[test]
    fn addresses_have_hosts_and_ports() {
        let check = |address: &str, expected| assert_eq!(host_and_port(address), expected, "{address}");
        check("rtsp://camera.local/stream", Some(("camera.local", 554)));
        check("rtsp://camera.local:8554/stream", Some(("camera.local", 8554)));
        check("http://me:p@ss:word@10.0.0.7?quality=1", Some(("10.0.0.7", 80)));
        check("https://[fe80::1]/video", Some(("fe80::1", 443)));
        check("rtmp://[fe80::1]:19350/video", Some(("fe80::1", 19350)));
        check("udp://@:1234", None);
        check("srt://camera.local:9000", None);
        check("interview.mp4", None);
    }
}
