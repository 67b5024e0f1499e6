//! Segments as the rest of the system sees them: their files, their locks, a full file system, owners that
//! are killed, and readers in other processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use youquanti_frames::{FrameRing, RingError, RingOptions, remove_stale, segment_bytes};
use youquanti_models::{CameraId, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp};

const LAYOUT: PictureLayout = PictureLayout::packed(64, 48, PixelFormat::Yuyv);

fn shm() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn options(dir: &Path, name: &str) -> RingOptions {
    RingOptions { dir: dir.to_owned(), slots: 4, ..RingOptions::new(name, LAYOUT) }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn meta(seq: u64) -> FrameMeta {
    FrameMeta {
        camera: CameraId(7),
        seq,
        driver_seq: 4_000_000_000,
        captured_at: Timestamp(1_000 + seq),
        received_at: Timestamp(2_000 + seq),
        flags: FrameFlags::STAMP_IS_EXPOSURE_START,
    }
}

#[test]
fn a_segment_is_private_whole_and_gone_with_its_ring() {
    let dir = shm();
    let ring = FrameRing::create(&options(dir.path(), "demo.left")).unwrap();
    let path = dir.path().join("youquanti.demo.left");
    assert_eq!(ring.path(), Some(path.as_path()));
    let file = std::fs::metadata(&path).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    assert_eq!(file.len(), segment_bytes(4, &LAYOUT));
    assert_eq!(file.blocks() * 512, segment_bytes(4, &LAYOUT), "every page is allocated");
    let clone = ring.clone();
    drop(ring);
    assert!(path.exists());
    drop(clone);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn a_segment_is_gone_after_a_panic() {
    let dir = shm();
    let outcome = std::panic::catch_unwind(|| {
        let _ring = FrameRing::create(&options(dir.path(), "a")).unwrap();
        panic!("camera thread");
    });
    assert!(outcome.is_err());
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn a_ring_that_lost_its_name_leaves_the_next_owner_alone() {
    let dir = shm();
    let former = FrameRing::create(&options(dir.path(), "a")).unwrap();
    former.retire();
    let next = FrameRing::create(&options(dir.path(), "a")).unwrap();
    drop(former);
    assert!(next.path().unwrap().exists());

    // The same when somebody else removed the file by hand.
    std::fs::remove_file(next.path().unwrap()).unwrap();
    let third = FrameRing::create(&options(dir.path(), "a")).unwrap();
    drop(next);
    assert!(third.path().unwrap().exists());
}

#[test]
fn bad_names_are_refused() {
    let dir = shm();
    for bad in ["", "a/b", "..\0", "ä", "a b", &"x".repeat(129)] {
        let error = FrameRing::create(&options(dir.path(), bad)).unwrap_err();
        assert!(matches!(error, RingError::Name { .. }), "{bad:?}: {error}");
    }
    let missing = FrameRing::create(&options(&dir.path().join("missing"), "a")).unwrap_err();
    assert!(matches!(missing, RingError::System { call: "open", .. }), "{missing}");
}

#[test]
fn what_is_not_a_segment_is_left_alone() {
    let dir = shm();
    let path = dir.path().join("youquanti.notes");
    std::fs::write(&path, "shopping list").unwrap();
    std::fs::create_dir(dir.path().join("youquanti.folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("youquanti.link")).unwrap();
    for name in ["notes", "folder", "link"] {
        let error = FrameRing::create(&options(dir.path(), name)).unwrap_err();
        assert!(matches!(error, RingError::Foreign { .. }), "{name}: {error}");
    }
    assert_eq!(remove_stale(dir.path(), "").unwrap(), Vec::<std::path::PathBuf>::new());
    assert_eq!(files(dir.path()), ["youquanti.folder", "youquanti.link", "youquanti.notes"]);
}

#[test]
fn an_owner_that_died_while_making_its_segment_is_stale() {
    let dir = shm();
    std::fs::write(dir.path().join("youquanti.empty"), "").unwrap();
    std::fs::write(dir.path().join("youquanti.zeros"), [0; 4096]).unwrap();
    assert_eq!(remove_stale(dir.path(), "").unwrap().len(), 2);
}

#[test]
fn a_live_name_is_refused_in_this_process_too() {
    let dir = shm();
    let ring = FrameRing::create(&options(dir.path(), "a")).unwrap();
    let error = FrameRing::create(&options(dir.path(), "a")).unwrap_err();
    assert!(matches!(&error, RingError::Live { path } if path == ring.path().unwrap()), "{error}");
    assert_eq!(remove_stale(dir.path(), "").unwrap(), Vec::<std::path::PathBuf>::new());
    assert!(ring.path().unwrap().exists());
}

const CHILD_DIR: &str = "YOUQUANTI_TEST_SEGMENT_DIR";

/// Not a test by itself: another process that owns rings until it is killed.
#[test]
#[ignore = "the other process of tests that start it"]
fn owner_process() {
    let dir = std::env::var_os(CHILD_DIR).expect("set by the test that starts this one");
    let rings = ["s1.left", "s1.right", "s2.left"]
        .map(|name| FrameRing::create(&options(Path::new(&dir), name)).unwrap());
    println!("\nready");
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().for_each(drop); // until killed
    drop(rings);
}

fn start_owner(dir: &Path) -> Child {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_process", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "the other process did not start");
    owner
}

#[test]
fn a_killed_owner_leaves_stale_segments_which_the_next_start_removes() {
    let dir = shm();
    let mut owner = start_owner(dir.path());
    let live = FrameRing::create(&options(dir.path(), "s1.left")).unwrap_err();
    assert!(matches!(live, RingError::Live { .. }), "{live}");
    assert!(live.to_string().contains("belongs to a running session"), "{live}");
    assert!(remove_stale(dir.path(), "").unwrap().is_empty());

    owner.kill().unwrap(); // SIGKILL
    owner.wait().unwrap();
    assert_eq!(files(dir.path()).len(), 3, "nobody could clean up");
    let expected = ["left", "right"].map(|camera| dir.path().join(format!("youquanti.s1.{camera}")));
    assert_eq!(remove_stale(dir.path(), "s1.").unwrap(), expected);

    // A stale segment of the wanted name is replaced without being asked.
    let ring = FrameRing::create(&options(dir.path(), "s2.left")).unwrap();
    assert_eq!(files(dir.path()), ["youquanti.s2.left"]);
    assert!(ring.try_acquire().is_some());
}

const READER: &str = r#"
import mmap, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
u16, u32, u64 = (lambda o: struct.unpack_from("<H", m, o)[0], lambda o: struct.unpack_from("<I", m, o)[0],
                 lambda o: struct.unpack_from("<Q", m, o)[0])
assert m[:8] == b"YQFRAMES" and u32(8) == 2, m[:16]
print("state", u32(12), "slots", u32(48), "picture", u32(52), u32(56), u32(60), m[64:72].rstrip(b"\0").decode())
print("published", u64(72), "frame", u64(40), "zero", any(m[80:128]))
heads = [u32(16) + i * u32(20) for i in range(u32(48))]
print("generations", *(u64(h) for h in heads))
slot, head = max(((i, h) for i, h in enumerate(heads) if u64(h) and u64(h) % 2 == 0), key=lambda s: u64(s[1] + 8))
before = u64(head)
start = u64(24) + slot * u64(32)
pixels = m[start:start + u64(head + 32)]
assert u64(head) == before, "written meanwhile"
print("seq", u64(head + 8), "captured", u64(head + 16), "received", u64(head + 24), "driver", u32(head + 40),
      "flags", u16(head + 44), "camera", u16(head + 46))
print("pixels", len(pixels), all(p == (k * 7 + u64(head + 8)) % 256 for k, p in enumerate(pixels)))
"#;

fn read_elsewhere(path: &Path) -> String {
    let output = Command::new("python3").arg("-c").arg(READER).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn another_process_reads_the_newest_whole_frame() {
    let dir = shm();
    let layout = PictureLayout { stride: 160, ..PictureLayout::packed(67, 5, PixelFormat::Yuyv) };
    let ring = FrameRing::create(&RingOptions { layout, ..options(dir.path(), "a") }).unwrap();
    for seq in 0..6 {
        let mut slot = ring.try_acquire().unwrap();
        for (byte, k) in slot.bytes_mut().iter_mut().zip(0_u64..) {
            *byte = ((k * 7 + seq) % 256) as u8;
        }
        drop(slot.freeze(meta(seq), 800 - seq as usize));
    }
    let mut writing = ring.try_acquire().unwrap(); // slot 2, which held frame 2
    writing.bytes_mut().fill(0xff);
    let expected = "state 1 slots 4 picture 67 5 160 YUYV\n\
                    published 6 frame 800 zero False\n\
                    generations 4 4 3 2\n\
                    seq 5 captured 1005 received 2005 driver 4000000000 flags 4 camera 7\n\
                    pixels 795 True\n";
    assert_eq!(read_elsewhere(ring.path().unwrap()), expected);
    drop(writing);
    assert_eq!(read_elsewhere(ring.path().unwrap()), expected, "an abandoned slot holds no frame");
}

#[test]
fn a_reader_that_stays_learns_that_the_ring_is_closed() {
    let dir = shm();
    let ring = FrameRing::create(&options(dir.path(), "a")).unwrap();
    let reader = std::fs::File::open(ring.path().unwrap()).unwrap();
    let state = || {
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&reader, &mut bytes, 12).unwrap();
        u32::from_le_bytes(bytes)
    };
    assert_eq!(state(), 1);
    drop(ring);
    assert_eq!(state(), 2);
}

/// Not a test by itself: runs with `CHILD_DIR` on a file system of 1 MiB.
#[test]
#[ignore = "needs a small file system, which the test that starts it makes"]
fn on_a_small_file_system() {
    let dir = std::env::var_os(CHILD_DIR).expect("set by the test that starts this one");
    let dir = Path::new(&dir);
    let layout = PictureLayout::packed(640, 480, PixelFormat::Yuyv);
    let error = FrameRing::create(&RingOptions { layout, ..options(dir, "big") }).unwrap_err();
    let text = error.to_string();
    let RingError::NoSpace { need, have, .. } = error else { panic!("{text}") };
    assert_eq!(need, segment_bytes(4, &layout));
    assert!((1..=1 << 20).contains(&have), "{have}");
    for part in [&need.to_string(), &have.to_string(), "youquanti.big", "fewer slots", "remount,size="] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    assert_eq!(files(dir), [""; 0], "nothing is left behind");

    // What was promised can be written to the last byte, though somebody else fills the rest.
    let layout = PictureLayout::packed(320, 240, PixelFormat::Grey);
    let ring = FrameRing::create(&RingOptions { layout, ..options(dir, "fits") }).unwrap();
    let rest = std::fs::write(dir.join("hog"), vec![1; 1 << 20]);
    assert!(rest.is_err(), "the file system should be full");
    let frames: Vec<_> = std::iter::from_fn(|| {
        let mut slot = ring.try_acquire()?;
        slot.bytes_mut().fill(9);
        Some(slot.freeze(meta(0), layout.max_bytes()))
    })
    .collect();
    assert_eq!(frames.len(), 4);
}

#[test]
fn a_full_file_system_is_a_clear_error() {
    // In a mount namespace of its own, so that nothing is left mounted however this ends.
    const NOT_PERMITTED: i32 = 77;
    let dir = shm();
    let script = format!(
        "mount -t tmpfs -o size=1m none \"${CHILD_DIR}\" || exit {NOT_PERMITTED}; \
         exec \"$0\" --exact on_a_small_file_system --ignored --nocapture"
    );
    let run = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIR, dir.path())
        .output();
    let Ok(run) = run else { return println!("skipped: unshare cannot be run: {run:?}") };
    let said = String::from_utf8_lossy(&run.stderr);
    match run.status.code() {
        Some(0) => {}
        Some(NOT_PERMITTED) => println!("skipped: mounting a tmpfs is not permitted: {said}"),
        _ if said.starts_with("unshare:") => println!("skipped: no mount namespace to be had: {said}"),
        _ => panic!("{}{said}", String::from_utf8_lossy(&run.stdout)),
    }
}

/// Lines of the tables in a module's header.
fn documented(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| line.strip_prefix("//! ")).filter(|line| line.starts_with("| "))
}

#[test]
fn the_page_for_readers_in_other_languages_is_current() {
    let page = include_str!("../../docs/shared-memory.md");
    let sources = [include_str!("../src/region.rs"), include_str!("../src/results.rs")];
    let mut rows = 0;
    for row in sources.into_iter().flat_map(documented) {
        assert!(page.contains(&format!("\n{row}\n")), "docs/shared-memory.md lacks: {row}");
        rows += 1;
    }
    assert!(rows > 50, "{rows} rows of tables were found");
}
