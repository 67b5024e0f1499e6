//! Which node is meant by a camera's name, and what is plugged in.
//!
//! Owns the names that a camera goes by and the choice among nodes. Opens no more nodes than it must: those of USB
//! cameras tell their names without being opened, so a camera that hangs is no hindrance to finding another. Never
//! streams.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use rustix::io::Errno;
use serde::Serialize;
use youquanti_models::PixelFormat;
use youquanti_v4l2::{Capability, Control, ControlKind, Device, FourCc, FrameInterval, FrameSize};

use super::{controls, fourcc, letters, rate};
use crate::capture::CaptureError;

/// A camera's node, as `youquanti cameras` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraListing {
    /// Stable over restarts and re-plugging, and usable as [`super::V4l2Options::camera`].
    pub id: String,
    /// The card's name.
    pub name: String,
    /// The driver's name, where the node could be opened.
    pub driver: Option<String>,
    /// Where it is plugged in: `usb-0000:00:14.0-1`.
    pub bus: Option<String>,
    /// Serial number of a USB camera.
    pub serial: Option<String>,
    /// The node now; may be another one after the next start.
    pub path: PathBuf,
    /// Whether it can be used.
    pub state: CameraState,
    /// Why it cannot be used.
    pub reason: Option<String>,
    /// What it offers.
    pub formats: Vec<FormatListing>,
    /// What can be set.
    pub controls: Vec<ControlListing>,
}

/// Whether a camera can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraState {
    /// Nobody streams from it.
    Free,
    /// Another program streams from it.
    InUse,
    /// This user may not open it.
    NoPermission,
    /// It delivers something else than pictures, or no pictures now.
    NoCapture,
    /// It answers with an error.
    Failed,
}

/// A pixel format that a camera offers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FormatListing {
    /// The driver's four letters.
    pub fourcc: String,
    /// The same as a format that can be asked for, if it is one.
    #[serde(serialize_with = "format_name")]
    pub format: Option<PixelFormat>,
    /// Its sizes. Of a range the usual ones.
    pub sizes: Vec<SizeListing>,
}

/// A size that a camera offers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeListing {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames a second, highest first. Of a range its ends.
    pub rates: Vec<f64>,
}

/// A control that a camera has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ControlListing {
    /// The name to write: `exposure_time_absolute`.
    pub name: String,
    /// `integer`, `boolean`, `menu`, `integer64`, `bitmask` or `integer_menu`.
    pub kind: &'static str,
    /// Least value.
    pub min: i64,
    /// Greatest value.
    pub max: i64,
    /// Values are `min` plus a multiple of it.
    pub step: u64,
    /// Value that the driver begins with.
    pub default: i64,
    /// Value now; `None` when it cannot be read.
    pub value: Option<i64>,
    /// What it takes, for people.
    pub takes: String,
    /// Names of a menu's entries, each with its value.
    pub menu: Vec<(i64, String)>,
    /// Its value is kept but has no effect: an automatic has taken over.
    pub inactive: bool,
    /// It cannot be set.
    pub read_only: bool,
}

/// Sizes that are listed of a range.
const USUAL_SIZES: [(u32, u32); 6] =
    [(320, 240), (640, 360), (640, 480), (1280, 720), (1920, 1080), (3840, 2160)];

/// Every device, by node. Of a device's nodes, those beyond the first are there if they deliver pictures: the second
/// one of a USB camera delivers metadata.
pub fn list_cameras() -> Vec<CameraListing> {
    let nodes = nodes();
    let listed = nodes.iter().filter(|node| node.index == 0 || node.may_capture());
    listed.map(|node| node.listing(stable_id(node, &nodes))).collect()
}

/// The node that a configuration's `camera` means now, which is free; streams nothing.
///
/// # Errors
/// [`CaptureError::Disconnected`] when nothing that captures answers to it, [`CaptureError::Setup`] when
/// several do, [`CaptureError::Unavailable`] when it is in use or this user may not open it.
pub fn locate(camera: &str) -> Result<PathBuf, CaptureError> {
    let Found { path, capability, .. } = find(camera)?;
    match Device::open(&path).and_then(|device| is_taken(&device, &capability)) {
        Ok(false) => Ok(path),
        Ok(true) => Err(unavailable(&path, in_use(&path))),
        Err(error) => Err(fault(&path, error)),
    }
}

/// The node that answers to `camera` and delivers pictures, and its stable id.
pub(super) fn find(camera: &str) -> Result<Found, CaptureError> {
    let mut nodes = nodes();
    // A node may have been given another name than the kernel's, in a container for instance.
    if let Ok(path) = fs::canonicalize(camera)
        && camera.starts_with('/')
        && nodes.iter().all(|node| node.path != path)
    {
        nodes.push(Node::at(path));
    }
    let index = choose(camera, &nodes)?;
    let id = stable_id(&nodes[index], &nodes);
    let Node { path, capability, .. } = nodes.swap_remove(index);
    match capability.into_inner().unwrap_or_else(|| ask(&path)) {
        Ok(capability) if capability.captures() => Ok(Found { path, id, capability }),
        Ok(capability) => Err(unavailable(&path, why_no_capture(&capability).to_owned())),
        Err(error) => Err(fault(&path, error)),
    }
}

/// A node that delivers pictures.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Stable over restarts and re-plugging.
    pub(super) id: String,
    pub(super) capability: Capability,
}

fn ask(path: &Path) -> Result<Capability, youquanti_v4l2::Error> {
    Device::open(path).and_then(|device| device.capability())
}

/// What a failed call on a node means.
pub(super) fn fault(path: &Path, error: youquanti_v4l2::Error) -> CaptureError {
    match (Errno::from_io_error(&error.source), error.call) {
        (Some(Errno::NODEV | Errno::NXIO | Errno::NOENT), _) => {
            CaptureError::Disconnected { device: path.display().to_string(), source: Some(error.source) }
        }
        (Some(Errno::BUSY), _) => unavailable(path, in_use(path)),
        (Some(Errno::ACCESS | Errno::PERM), "open") => unavailable(path, no_permission(path)),
        _ => CaptureError::Driver { call: error.call, source: error.source },
    }
}

fn unavailable(path: &Path, why: String) -> CaptureError {
    CaptureError::Unavailable { device: path.display().to_string(), why }
}

/// The driver of loopback devices, as it calls itself.
const LOOPBACK: &str = "v4l2 loopback";

/// Whether another program streams from a node, as far as it may be asked.
fn is_taken(device: &Device, capability: &Capability) -> Result<bool, youquanti_v4l2::Error> {
    if capability.driver == LOOPBACK { Ok(false) } else { device.is_taken() }
}

/// Says which programs have a node open, as far as this user may know.
fn in_use(path: &Path) -> String {
    let opens = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|file| fs::read_link(file).is_ok_and(|target| target == path))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let names: Vec<_> = processes
        .filter(|process| opens(process))
        .filter_map(|process| {
            let name = fs::read_to_string(process.join("comm")).ok()?;
            let number = process.file_name()?.to_str()?.parse::<u32>().ok()?;
            (number != std::process::id()).then(|| format!("{} (process {number})", name.trim()))
        })
        .collect();
    let users = if names.is_empty() { "another program".to_owned() } else { names.join(" and ") };
    format!("is in use by {users}")
}

/// Says who may open a node.
fn no_permission(path: &Path) -> String {
    let Ok(about) = fs::metadata(path) else { return "may not be opened by this user".to_owned() };
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let of_group = format!("{}", about.gid());
    let group = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == of_group).then(|| name.to_owned())
    });
    match (about.mode() & 0o060 == 0o060, group) {
        (true, Some(group)) if about.gid() != 0 => format!(
            "may be opened by members of the group {group} only: run `sudo usermod -aG {group} $USER` and log in again"
        ),
        _ => format!("may not be opened by this user: its mode is {:03o}", about.mode() & 0o777),
    }
}

/// A video node, and the names it goes by.
struct Node {
    path: PathBuf,
    /// Counts the nodes of one device; 0 is the one that captures, as far as that can be known without opening it.
    index: u32,
    /// Names below `/dev/v4l/by-id`, also those of the same node of a camera that cannot be told apart by them.
    by_id: Vec<String>,
    /// Names below `/dev/v4l/by-path`.
    by_path: Vec<String>,
    /// The system's name of it, for most drivers the card's.
    name: String,
    usb: Option<Usb>,
    capability: OnceCell<Result<Capability, youquanti_v4l2::Error>>,
}

/// What the system knows of a USB device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Usb {
    vendor_product: String,
    serial: Option<String>,
    /// The socket, as the USB video driver writes it.
    bus: String,
}

impl Node {
    /// What the system knows of the node at a path, without opening it.
    fn at(path: PathBuf) -> Self {
        let device = fs::metadata(&path).map_or(0, |about| about.rdev());
        let system = PathBuf::from(format!("/sys/dev/char/{}:{}", major(device), minor(device)));
        let text = |file: &str| fs::read_to_string(system.join(file)).map(|text| text.trim().to_owned()).ok();
        Self {
            index: text("index").and_then(|text| text.parse().ok()).unwrap_or(0),
            by_id: Vec::new(),
            by_path: Vec::new(),
            name: text("name").unwrap_or_default(),
            usb: fs::canonicalize(system.join("device")).ok().and_then(|device| usb(&device)),
            capability: OnceCell::new(),
            path,
        }
    }

    fn capability(&self) -> Result<&Capability, &youquanti_v4l2::Error> {
        self.capability.get_or_init(|| ask(&self.path)).as_ref()
    }

    /// Opens the node, unless that was done before. One that cannot be opened is not hidden: it may be the one.
    fn may_capture(&self) -> bool {
        self.capability().map_or(self.index == 0, Capability::captures)
    }

    fn bus(&self) -> Option<&str> {
        let of_driver = || self.capability().ok().map(|capability| capability.bus.as_str());
        self.usb.as_ref().map(|usb| usb.bus.as_str()).or_else(of_driver)
    }

    fn serial(&self) -> Option<&str> {
        self.usb.as_ref()?.serial.as_deref()
    }

    /// Opens only nodes that are not on USB.
    fn answers_to(&self, name: &str) -> bool {
        let is_card =
            || self.usb.is_none() && self.capability().is_ok_and(|capability| capability.card == name);
        self.path == Path::new(name)
            || self.by_id.iter().chain(&self.by_path).any(|id| id == name)
            || self.serial() == Some(name)
            || self.name == name
            || self.bus() == Some(name)
            || is_card()
    }

    fn listing(&self, id: String) -> CameraListing {
        let capability = self.capability();
        let mut listing = CameraListing {
            id,
            name: capability.map_or(self.name.clone(), |capability| capability.card.clone()),
            driver: capability.ok().map(|capability| capability.driver.clone()),
            bus: self.bus().map(str::to_owned),
            serial: self.serial().map(str::to_owned),
            path: self.path.clone(),
            state: CameraState::Failed,
            reason: None,
            formats: Vec::new(),
            controls: Vec::new(),
        };
        (listing.state, listing.reason) = match capability {
            Ok(capability) if !capability.captures() => {
                (CameraState::NoCapture, Some(why_no_capture(capability).to_owned()))
            }
            Ok(capability) => match Device::open(&self.path) {
                Ok(device) => {
                    list_offers(&device, &mut listing);
                    is_taken(&device, capability).map_or_else(
                        |error| self.state_of(&error),
                        |taken| {
                            let state = if taken { CameraState::InUse } else { CameraState::Free };
                            (state, taken.then(|| in_use(&self.path)))
                        },
                    )
                }
                Err(error) => self.state_of(&error),
            },
            Err(error) => self.state_of(error),
        };
        listing
    }

    fn state_of(&self, error: &youquanti_v4l2::Error) -> (CameraState, Option<String>) {
        match (Errno::from_io_error(&error.source), error.call) {
            (Some(Errno::BUSY), _) => (CameraState::InUse, Some(in_use(&self.path))),
            (Some(Errno::ACCESS | Errno::PERM), "open") => {
                (CameraState::NoPermission, Some(no_permission(&self.path)))
            }
            _ => (CameraState::Failed, Some(format!("{error}: {}", error.source))),
        }
    }
}

/// Why a node has no pictures.
fn why_no_capture(capability: &Capability) -> &'static str {
    if capability.driver == LOOPBACK {
        "has no pictures as long as no program writes to it"
    } else {
        "does not deliver pictures, single-plane and by memory mapping"
    }
}

fn list_offers(device: &Device, listing: &mut CameraListing) {
    let formats = device.formats().unwrap_or_default();
    listing.formats = formats.into_iter().map(|fourcc| list_format(device, fourcc)).collect();
    listing.controls = device.controls().unwrap_or_default().into_iter().map(list_control).collect();
}

fn list_control(control: Control) -> ControlListing {
    ControlListing {
        takes: controls::range(&control),
        inactive: control.is_inactive(),
        read_only: control.is_read_only(),
        name: control.name,
        kind: match control.kind {
            ControlKind::Integer => "integer",
            ControlKind::Boolean => "boolean",
            ControlKind::Menu => "menu",
            ControlKind::Integer64 => "integer64",
            ControlKind::Bitmask => "bitmask",
            ControlKind::IntegerMenu => "integer_menu",
        },
        min: control.min,
        max: control.max,
        step: control.step,
        default: control.default,
        value: control.value,
        menu: control.menu.into_iter().map(|entry| (entry.value, entry.name)).collect(),
    }
}

fn format_name<S: serde::Serializer>(format: &Option<PixelFormat>, serializer: S) -> Result<S::Ok, S::Error> {
    format.map(PixelFormat::name).serialize(serializer)
}

fn list_format(device: &Device, code: FourCc) -> FormatListing {
    let offered = device.frame_sizes(code).unwrap_or_default().into_iter().flat_map(usual_sizes);
    let sizes = offered.map(|(width, height)| {
        let intervals = device.frame_intervals(code, width, height).unwrap_or_default();
        let mut rates: Vec<f64> = intervals
            .into_iter()
            .flat_map(|interval| match interval {
                FrameInterval::One(f) => vec![rate(f)],
                FrameInterval::Range(shortest, longest) => vec![rate(shortest), rate(longest)],
            })
            .filter(|r| r.is_finite() && *r > 0.0)
            .collect();
        rates.sort_by(|a, b| b.total_cmp(a));
        SizeListing { width, height, rates }
    });
    FormatListing {
        fourcc: letters(code),
        format: PixelFormat::ALL.into_iter().find(|&f| fourcc(f) == code),
        sizes: sizes.collect(),
    }
}

fn usual_sizes(size: FrameSize) -> Vec<(u32, u32)> {
    match size {
        FrameSize::One(width, height) => vec![(width, height)],
        FrameSize::Range { min, max, step } => {
            let fits = |v: u32, min: u32, max: u32, step: u32| {
                (min..=max).contains(&v) && (v - min).is_multiple_of(step.max(1))
            };
            USUAL_SIZES
                .into_iter()
                .filter(|s| fits(s.0, min.0, max.0, step.0) && fits(s.1, min.1, max.1, step.1))
                .collect()
        }
    }
}

const BY_ID: &str = "/dev/v4l/by-id";
const BY_PATH: &str = "/dev/v4l/by-path";

fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The names in a folder of links, each with the node it leads to.
fn links_in(folder: &str) -> Vec<(String, PathBuf)> {
    let target = |name: &String| fs::canonicalize(Path::new(folder).join(name)).ok();
    names_in(folder).into_iter().filter_map(|name| target(&name).map(|path| (name, path))).collect()
}

fn nodes() -> Vec<Node> {
    let mut numbers: Vec<u32> =
        names_in("/dev").iter().filter_map(|n| n.strip_prefix("video")?.parse().ok()).collect();
    numbers.sort_unstable();
    let paths = numbers.into_iter().map(|number| PathBuf::from(format!("/dev/video{number}")));
    let mut nodes: Vec<Node> = paths.map(Node::at).collect();
    for (name, target) in links_in(BY_PATH) {
        nodes.iter_mut().filter(|node| node.path == target).for_each(|node| node.by_path.push(name.clone()));
    }
    name_by_id(&mut nodes, &links_in(BY_ID));
    nodes
}

/// Gives nodes their names by id. Cameras with the same serial number, as cheap ones have, share one link, which leads
/// to whichever was plugged in last: both answer to it, so that neither is taken for the other.
fn name_by_id(nodes: &mut [Node], links: &[(String, PathBuf)]) {
    for (name, target) in links {
        let key = |node: &Node| {
            let usb = node.usb.as_ref()?;
            Some((usb.vendor_product.clone(), usb.serial.clone(), node.index))
        };
        let twins = nodes.iter().find(|node| node.path == *target).and_then(key);
        for node in nodes.iter_mut() {
            if node.path == *target || (twins.is_some() && key(node) == twins) {
                node.by_id.push(name.clone());
            }
        }
    }
}

/// What the system knows of the USB device to which an interface, a folder of sysfs, belongs.
fn usb(interface: &Path) -> Option<Usb> {
    let device = interface.parent()?;
    let text = |file: &str| fs::read_to_string(device.join(file)).map(|text| text.trim().to_owned()).ok();
    let root = device.ancestors().find(|folder| {
        let name = folder.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix("usb")).is_some_and(|bus| bus.parse::<u32>().is_ok())
    })?;
    let controller = root.parent()?.file_name()?.to_str()?;
    Some(Usb {
        vendor_product: format!("{}:{}", text("idVendor")?, text("idProduct")?),
        serial: text("serial").filter(|serial| !serial.is_empty()),
        bus: format!("usb-{controller}-{}", text("devpath")?),
    })
}

/// The index of the one node that answers to `camera`.
fn choose(camera: &str, nodes: &[Node]) -> Result<usize, CaptureError> {
    // The name may be one that only the camera itself tells.
    let closed = |node: &&Node| {
        let errno = node.capability().err().and_then(|error| Errno::from_io_error(&error.source));
        matches!(errno, Some(Errno::ACCESS | Errno::PERM))
    };
    let gone = || CaptureError::Disconnected {
        device: format!("camera {camera}"),
        source: nodes.iter().find(closed).map(|node| {
            io::Error::other(format!("but {} {}", node.path.display(), no_permission(&node.path)))
        }),
    };
    let link = [BY_ID, BY_PATH].iter().find_map(|folder| camera.strip_prefix(folder)?.strip_prefix('/'));
    let name = match link {
        Some(link) => link.to_owned(),
        None if camera.starts_with('/') => {
            let target = fs::canonicalize(camera).unwrap_or_else(|_| camera.into());
            target.to_string_lossy().into_owned()
        }
        None => camera.to_owned(),
    };
    let answering: Vec<usize> = (0..nodes.len()).filter(|&index| nodes[index].answers_to(&name)).collect();
    let fitting: Vec<usize> = answering.iter().copied().filter(|&index| nodes[index].may_capture()).collect();
    match fitting[..] {
        [index] => Ok(index),
        // What answers and does not capture says why.
        [] => answering.first().copied().ok_or_else(gone),
        _ => {
            let choices: Vec<String> = fitting
                .iter()
                .map(|&index| {
                    format!("{} ({})", stable_id(&nodes[index], nodes), nodes[index].path.display())
                })
                .collect();
            Err(CaptureError::Setup {
                what: "camera",
                asked: camera.into(),
                got: format!("{} that answer to it: {}", choices.len(), choices.join(", ")),
            })
        }
    }
}

/// The most telling name to which only this node answers; its path, which changes, when there is none.
fn stable_id(node: &Node, nodes: &[Node]) -> String {
    let own = node.path.to_str();
    let names = node.by_id.iter().map(String::as_str).chain(node.bus());
    let mut names = names.chain(node.by_path.iter().map(String::as_str)).chain(own);
    let is_only = |name: &&str| {
        let others = nodes.iter().filter(|other| other.path != node.path && other.answers_to(name));
        others.filter(|other| other.may_capture()).count() == 0
    };
    names.find(is_only).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURES: u32 = 0x0420_0001;
    const METADATA: u32 = 0x04a0_0000;

    fn capability(driver: &str, card: &str, bus: &str, flags: u32) -> Capability {
        Capability { driver: driver.into(), card: card.into(), bus: bus.into(), flags }
    }

    fn node(number: u32, name: &str, answer: Result<Capability, i32>) -> Node {
        let answer = answer.map_err(|errno| youquanti_v4l2::Error {
            call: "open",
            source: std::io::Error::from_raw_os_error(errno),
        });
        Node {
            path: format!("/dev/video{number}").into(),
            index: 0,
            by_id: Vec::new(),
            by_path: Vec::new(),
            name: name.into(),
            usb: None,
            capability: OnceCell::from(answer),
        }
    }

    /// A USB camera's two nodes: pictures and metadata.
    fn usb_camera(number: u32, name: &str, serial: &str, socket: u32) -> [Node; 2] {
        let usb = Usb {
            vendor_product: "046d:082d".into(),
            serial: Some(serial.into()).filter(|serial: &String| !serial.is_empty()),
            bus: format!("usb-0000:00:14.0-{socket}"),
        };
        let one = |index: u32, flags| Node {
            index,
            usb: Some(usb.clone()),
            by_path: vec![format!("pci-0000:00:14.0-usb-0:{socket}:1.0-video-index{index}")],
            ..node(number + index, name, Ok(capability("uvcvideo", name, &usb.bus, flags)))
        };
        [one(0, CAPTURES), one(1, METADATA)]
    }

    fn link(name: &str, number: u32) -> (String, PathBuf) {
        (name.to_owned(), format!("/dev/video{number}").into())
    }

    /// A camera alone, two that cannot be told apart by their serial number, and a test driver.
    fn desk() -> Vec<Node> {
        let mut nodes: Vec<Node> = usb_camera(0, "C920", "A1", 1).into();
        nodes.extend(usb_camera(2, "Cheap", "0001", 2));
        nodes.extend(usb_camera(4, "Cheap", "0001", 3));
        nodes.push(node(
            6,
            "vivid-000-vid-cap",
            Ok(capability("vivid", "vivid", "platform:vivid-000", CAPTURES)),
        ));
        name_by_id(
            &mut nodes,
            &[
                link("usb-C920_A1-video-index0", 0),
                link("usb-C920_A1-video-index1", 1),
                link("usb-Cheap_0001-video-index0", 4),
                link("usb-Cheap_0001-video-index1", 5),
            ],
        );
        nodes
    }

    #[track_caller]
    fn check_found(name: &str, nodes: &[Node], expected: Result<(&str, &str), &str>) {
        let found = choose(name, nodes).map_err(|error| error.to_string());
        let found =
            found.map(|index| (nodes[index].path.display().to_string(), stable_id(&nodes[index], nodes)));
        let expected = expected.map(|(path, id)| (path.to_owned(), id.to_owned())).map_err(str::to_owned);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_camera_answers_to_all_its_names() {
        let c920 = Ok(("/dev/video0", "usb-C920_A1-video-index0"));
        for name in [
            "C920",
            "A1",
            "usb-0000:00:14.0-1",
            "usb-C920_A1-video-index0",
            "/dev/v4l/by-id/usb-C920_A1-video-index0",
            "pci-0000:00:14.0-usb-0:1:1.0-video-index0",
            "/dev/video0",
        ] {
            check_found(name, &desk(), c920);
        }
        for name in ["vivid", "vivid-000-vid-cap", "platform:vivid-000"] {
            check_found(name, &desk(), Ok(("/dev/video6", "platform:vivid-000")));
        }
        check_found("C930", &desk(), Err("camera C930 is not connected"));
        check_found("/dev/video9", &desk(), Err("camera /dev/video9 is not connected"));
    }

    #[test]
    fn twins_are_told_apart_by_their_sockets() {
        let choices =
            "2 that answer to it: usb-0000:00:14.0-2 (/dev/video2), usb-0000:00:14.0-3 (/dev/video4)";
        for name in
            ["Cheap", "0001", "usb-Cheap_0001-video-index0", "/dev/v4l/by-id/usb-Cheap_0001-video-index0"]
        {
            check_found(name, &desk(), Err(&format!("camera: asked for {name}, got {choices}")));
        }
        check_found("usb-0000:00:14.0-3", &desk(), Ok(("/dev/video4", "usb-0000:00:14.0-3")));
    }

    #[test]
    fn a_camera_that_cannot_be_opened_is_not_hidden() {
        let mut nodes = desk();
        for node in &mut nodes[..2] {
            let source = std::io::Error::from_raw_os_error(13);
            node.capability = OnceCell::from(Err(youquanti_v4l2::Error { call: "open", source }));
        }
        check_found("A1", &nodes, Ok(("/dev/video0", "usb-C920_A1-video-index0")));
        let listing = nodes[0].listing("x".into());
        assert_eq!((listing.state, listing.name.as_str()), (CameraState::NoPermission, "C920"));
        assert_eq!(listing.bus.as_deref(), Some("usb-0000:00:14.0-1"));
    }

    #[test]
    fn two_cameras_of_one_device_go_by_their_path() {
        let mut nodes: Vec<Node> = usb_camera(0, "Depth", "", 1).into();
        nodes[1].capability =
            OnceCell::from(Ok(capability("uvcvideo", "Depth", "usb-0000:00:14.0-1", CAPTURES)));
        check_found(
            "usb-0000:00:14.0-1",
            &nodes,
            Err("camera: asked for usb-0000:00:14.0-1, got 2 that answer to it: \
                 pci-0000:00:14.0-usb-0:1:1.0-video-index0 (/dev/video0), \
                 pci-0000:00:14.0-usb-0:1:1.0-video-index1 (/dev/video1)"),
        );
    }

    #[test]
    fn what_the_system_knows_of_a_usb_device() {
        let system = tempfile::tempdir().unwrap();
        let device = system.path().join("pci0000:00/0000:00:14.0/usb1/1-2/1-2.4");
        let interface = device.join("1-2.4:1.0");
        fs::create_dir_all(&interface).unwrap();
        for (file, text) in
            [("idVendor", "046d\n"), ("idProduct", "082d\n"), ("devpath", "2.4\n"), ("serial", "A1\n")]
        {
            fs::write(device.join(file), text).unwrap();
        }
        let expected = Usb {
            vendor_product: "046d:082d".into(),
            serial: Some("A1".into()),
            bus: "usb-0000:00:14.0-2.4".into(),
        };
        assert_eq!(usb(&interface), Some(expected));
        assert_eq!(usb(&system.path().join("vivid.0/video4linux")), None);
    }

    #[test]
    fn of_a_range_the_usual_sizes_are_listed() {
        let range = |step| FrameSize::Range { min: (320, 180), max: (1920, 1080), step: (step, step) };
        assert_eq!(usual_sizes(FrameSize::One(800, 600)), [(800, 600)]);
        assert_eq!(usual_sizes(range(1)), USUAL_SIZES[..5]);
        assert_eq!(usual_sizes(range(180)), [(1280 - 780, 720)][..0]);
        assert_eq!(usual_sizes(range(0)), USUAL_SIZES[..5], "a driver that leaves the step out");
    }
}
