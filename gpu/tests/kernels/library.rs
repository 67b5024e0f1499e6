//! The kernels of `gpu/kernels`, compiled for this processor with the system's C++ compiler and loaded: what a kernel
//! would do on the device, it does here, with any number of blocks and threads.

#![allow(unsafe_code, reason = "the kernels are C: they are called with pointers, as on the device")]

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;
use youquanti_gpu::cuda::DevicePtr;
use youquanti_gpu::cuda::abi::{
    Candidates, Detection, Detections, DetectorTile, FaceSlot, FacesOut, Frame, MAX_DETECTIONS, ShrinkTile,
    YunetOutputs,
};
use youquanti_models::{Affine2, Picture, Roi};

/// Where a kernel finds something that it reads.
pub(crate) fn address<T>(of: &[T]) -> DevicePtr<T> {
    DevicePtr::new(of.as_ptr() as u64)
}

/// Where a kernel finds something that it writes.
pub(crate) fn address_mut<T>(of: &mut [T]) -> DevicePtr<T> {
    DevicePtr::new(of.as_mut_ptr() as u64)
}

/// The picture must outlive what is done with the frame.
fn frame_of(picture: &Picture<'_>) -> Frame {
    Frame::new(address(picture.bytes), &picture.layout).unwrap()
}

/// How a kernel is started: blocks along x, y, z, and threads of a block.
pub(crate) type Shape = ([u32; 3], u32);

/// One thread; more blocks than one; more threads than one; both, and more of either than there is to do.
pub(crate) const SHAPES: [Shape; 4] = [([1, 1, 1], 1), ([3, 2, 2], 1), ([1, 1, 1], 5), ([2, 3, 20], 3)];

/// The library, built when it is first asked for.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.so");
        let gpu = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let output = Command::new(&compiler)
            .args(["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread"])
            // Every operation is rounded, as `--fmad=false` says to NVRTC.
            .arg("-ffp-contract=off")
            // What is undefined ends the test.
            .args(["-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error"])
            .args(["-Wall", "-Wextra", "-Werror"])
            .arg("-I")
            .arg(gpu.join("kernels"))
            .arg(gpu.join("tests/kernels/host.cpp"))
            .arg("-o")
            .arg(&path)
            .output()
            .unwrap_or_else(|error| panic!("the kernels' tests need a C++ compiler, {compiler}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: the library was just built from our own sources; it runs nothing when it is loaded.
        unsafe { Library::new(&path) }.unwrap()
    })
}

/// What a kernel's arguments are handed over as: a pointer to each.
fn pointer<T>(argument: &T) -> *mut c_void {
    std::ptr::from_ref(argument).cast_mut().cast()
}

/// Starts a kernel and waits for it.
///
/// # Safety
/// The arguments are of the kernel's types, and what they point to is as large as the kernel takes it for.
unsafe fn launch<const N: usize>(kernel: &str, (grid, threads): Shape, mut arguments: [*mut c_void; N]) {
    type Launch = unsafe extern "C" fn(*const u32, *const u32, *mut *mut c_void);
    let name = format!("launch_{kernel}");
    // SAFETY: `host.cpp` gives each of these functions this type.
    let launch = unsafe { library().get::<Launch>(name.as_bytes()) }.unwrap();
    // SAFETY: both shapes have three numbers, and the arguments are as the caller promised.
    unsafe { launch(grid.as_ptr(), [threads, 1, 1].as_ptr(), arguments.as_mut_ptr()) };
}

/// All pixels of a picture as RGB24 without padding.
pub(crate) fn read_frame(picture: &Picture<'_>) -> Vec<u8> {
    let mut out = vec![0; (picture.layout.width * picture.layout.height * 3) as usize];
    // SAFETY: `host.cpp` gives the function this type.
    let read =
        unsafe { library().get::<unsafe extern "C" fn(*const Frame, *mut u8)>(b"read_frame") }.unwrap();
    // SAFETY: the picture is borrowed, and `out` holds all of its pixels.
    unsafe { read(&frame_of(picture), out.as_mut_ptr()) };
    out
}

/// The map by which a region is cropped.
pub(crate) fn map_of_roi(roi: &Roi) -> Affine2 {
    let mut map = Affine2 { m: [[0.0; 3]; 2] };
    let slot = FaceSlot::new(roi, 0);
    type Map = unsafe extern "C" fn(*const FaceSlot, *mut [[f32; 3]; 2]);
    // SAFETY: `host.cpp` gives the function this type; a slot begins with its region.
    let map_of_roi = unsafe { library().get::<Map>(b"map_of_roi") }.unwrap();
    // SAFETY: both live here.
    unsafe { map_of_roi(&raw const slot, &raw mut map.m) };
    map
}

/// The input for `slots`; frames by their pictures.
pub(crate) fn crop_faces(pictures: &[Picture<'_>], slots: &[FaceSlot], shape: Shape) -> Vec<f32> {
    let frames: Vec<_> = pictures.iter().map(frame_of).collect();
    let mut out = vec![f32::NAN; slots.len() * 3 * 256 * 256];
    let (table, places, count) = (frames.as_ptr(), slots.as_ptr(), slots.len() as u32);
    let to = address_mut(&mut out);
    let arguments = [pointer(&table), pointer(&places), pointer(&count), pointer(&to)];
    // SAFETY: the types are the kernel's; slots name frames of the table or none.
    unsafe { launch("crop_faces", shape, arguments) };
    out
}

pub(crate) fn letterbox(pictures: &[Picture<'_>], size: u32, shape: Shape) -> Vec<f32> {
    let frames: Vec<_> = pictures.iter().map(frame_of).collect();
    let mut out = vec![f32::NAN; pictures.len() * (3 * size * size) as usize];
    let (table, count, to) = (frames.as_ptr(), frames.len() as u32, address_mut(&mut out));
    // SAFETY: the types are the kernel's; `out` holds three planes for each frame.
    unsafe { launch("letterbox", shape, [pointer(&table), pointer(&count), pointer(&size), pointer(&to)]) };
    out
}

/// `tiles` point to tables that live on.
pub(crate) fn shrink(
    pictures: &[Picture<'_>],
    tiles: &[ShrinkTile],
    [width, height]: [u32; 2],
    shape: Shape,
) -> Vec<f32> {
    let frames: Vec<_> = pictures.iter().map(frame_of).collect();
    let mut out = vec![f32::NAN; tiles.len() * (3 * width * height) as usize];
    let (table, views, count) = (frames.as_ptr(), tiles.as_ptr(), tiles.len() as u32);
    let to = address_mut(&mut out);
    let arguments =
        [pointer(&table), pointer(&views), pointer(&count), pointer(&width), pointer(&height), pointer(&to)];
    // SAFETY: the types are the kernel's; tiles name frames of the table, for whose size their tables are made.
    unsafe { launch("shrink", shape, arguments) };
    out
}

/// `outputs` point to a row for each cell of each tile, and `out` to a list for each frame that tiles name.
pub(crate) fn decode_yunet(
    outputs: YunetOutputs,
    tiles: &[DetectorTile],
    [width, height]: [u32; 2],
    score_threshold: f32,
    out: Candidates,
    shape: Shape,
) {
    let (table, count) = (tiles.as_ptr(), tiles.len() as u32);
    let arguments = [
        pointer(&outputs),
        pointer(&table),
        pointer(&count),
        pointer(&width),
        pointer(&height),
        pointer(&score_threshold),
        pointer(&out),
    ];
    // SAFETY: the types are the kernel's.
    unsafe { launch("decode_yunet", shape, arguments) };
}

/// `regressors` and `scores` hold 16 and 1 numbers for each anchor of each picture.
pub(crate) fn decode_blazeface(
    [regressors, scores]: [&[f32]; 2],
    anchors: &[[f32; 2]],
    pictures: &[Picture<'_>],
    size: u32,
    score_threshold: f32,
    out: Candidates,
    shape: Shape,
) {
    let frames: Vec<_> = pictures.iter().map(frame_of).collect();
    let (values, logits, centres) = (regressors.as_ptr(), scores.as_ptr(), anchors.as_ptr());
    let (anchor_count, table, count) = (anchors.len() as u32, frames.as_ptr(), frames.len() as u32);
    let arguments = [
        pointer(&values),
        pointer(&logits),
        pointer(&centres),
        pointer(&anchor_count),
        pointer(&table),
        pointer(&count),
        pointer(&size),
        pointer(&score_threshold),
        pointer(&out),
    ];
    // SAFETY: the types are the kernel's.
    unsafe { launch("decode_blazeface", shape, arguments) };
}

/// `candidates` point to lists for `count` frames.
pub(crate) fn suppress(
    candidates: Candidates,
    count: u32,
    weighted: bool,
    iou_threshold: f32,
    shape: Shape,
) -> Vec<Detections> {
    // Nothing that a kernel would leave.
    let item = Detection { place: 0xdead, ..Detection::default() };
    let nothing = Detections {
        stored: 0xdead,
        found: 0xdead,
        candidates: 0xdead,
        reserved: 1,
        items: [item; MAX_DETECTIONS],
    };
    let mut out = vec![nothing; count as usize];
    let (weighted, to) = (u32::from(weighted), address_mut(&mut out));
    let arguments =
        [pointer(&candidates), pointer(&count), pointer(&weighted), pointer(&iou_threshold), pointer(&to)];
    // SAFETY: the types are the kernel's; `out` has a place for each frame.
    unsafe { launch("suppress", shape, arguments) };
    out
}

/// `out` points to room for `slots.len()` faces.
pub(crate) fn faces(
    crop_landmarks: &[f32],
    presence: &[f32],
    slots: &[FaceSlot],
    presence_threshold: f32,
    points: &[u32],
    out: FacesOut,
    shape: Shape,
) {
    let (from, logits, places) = (crop_landmarks.as_ptr(), presence.as_ptr(), slots.as_ptr());
    let (count, gathered) = (slots.len() as u32, points.as_ptr());
    let arguments = [
        pointer(&from),
        pointer(&logits),
        pointer(&places),
        pointer(&count),
        pointer(&presence_threshold),
        pointer(&gathered),
        pointer(&out),
    ];
    // SAFETY: the types are the kernel's.
    unsafe { launch("faces", shape, arguments) };
}

/// `crops` holds three planes for each slot.
pub(crate) fn sharpness(crops: &[f32], slots: &[FaceSlot], shape: Shape) -> Vec<f32> {
    let mut out = vec![f32::NAN; slots.len()];
    let (from, places, count) = (crops.as_ptr(), slots.as_ptr(), slots.len() as u32);
    let to = address_mut(&mut out);
    // SAFETY: the types are the kernel's; there is a number for each slot.
    unsafe { launch("sharpness", shape, [pointer(&from), pointer(&places), pointer(&count), pointer(&to)]) };
    out
}
