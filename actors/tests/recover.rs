//! Files that were never closed, or were damaged afterwards: what `recover` saves of them, and what it says.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod session_rows;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use session_rows::*;
use youquanti_actors::dice::Dice;
use youquanti_actors::session_file::{
    Compression, Gap, Opened, Participant, Recovery, SessionFileError, SessionReader, SessionWriter,
    abandoned_files, quality_item, recover, recovered_path,
};
use youquanti_models::ids::{CameraId, ParticipantId, TrackId};
use youquanti_models::time::Timestamp;

/// Something in every table; two faces a frame, a flush each 100 frames.
fn write(path: &Path, compression: Compression, frames: u64) -> SessionWriter {
    let mut writer = create(path, &["right", "left"], options(compression)).unwrap();
    for seq in 0..frames {
        append(&mut writer, seq);
        if seq % 100 == 99 {
            writer.flush(Timestamp(START.0 + seq)).unwrap();
        }
    }
    writer.append_marker(START, "operator", "marker", "{\"ü\":1}").unwrap();
    let gap = Gap { start: START, end: None, source: "left", cause: "pulled out", json: "{}" };
    writer.append_gap(&gap).unwrap();
    writer.append_ledger(START, "left", "index", "captured", frames).unwrap();
    writer.append_quality(START, "left", quality_item::CLOCK_DRIFT, 12.5).unwrap();
    writer
        .append_participant(&Participant {
            time: START,
            id: ParticipantId(1),
            name: "Ada",
            role: "",
            camera: "left",
            track: TrackId(1),
            why: "first seen",
        })
        .unwrap();
    writer
}

/// A frame of each camera, and what comes with it.
fn append(writer: &mut SessionWriter, seq: u64) {
    for camera in 0..2 {
        writer.append_frame(&meta(camera, seq)).unwrap();
        writer.append_faces(&found(camera, seq, 2), &participants(2)).unwrap();
        let at = meta(camera, seq).captured_at;
        writer.append_video(CameraId(camera), video(seq, at)).unwrap();
    }
    writer.append_synchrony(&window(seq)).unwrap();
    writer.append_event(START, "session", "event", &format!("{{\"n\":{seq}}}")).unwrap();
}

/// As a killed program leaves it: what HDF5 holds back is never written.
fn abandon(mut writer: SessionWriter) {
    writer.flush(Timestamp(START.0 + 1_000_000)).unwrap();
    // In another place: this process still has the original open.
    std::mem::forget(writer);
}

/// A copy of a file whose writer is in this process, where nobody holds it.
fn killed(folder: &Path, compression: Compression, frames: u64) -> PathBuf {
    let (live, path) = (folder.join("live.h5"), folder.join("killed.h5"));
    abandon(write(&live, compression, frames));
    std::fs::copy(&live, &path).unwrap();
    path
}

fn save(path: &Path) -> Result<Recovery, SessionFileError> {
    recover(path, &recovered_path(path), &mut |_, _| ControlFlow::Continue(()))
}

/// Every row of both cameras is the one that it must be, as far as there are rows; frames and faces of the first.
#[track_caller]
fn check_rows(path: &Path) -> [u64; 2] {
    let reader = SessionReader::open(path).unwrap();
    assert_eq!(reader.opened(), Opened::Plain);
    for camera in 0..2 {
        let all = 0..reader.face_count(camera);
        let faces = reader.faces(camera, all.clone()).unwrap();
        let landmarks = reader.landmarks(camera, all.clone()).unwrap();
        let shapes = reader.blendshapes(camera, all.clone()).unwrap();
        let poses = reader.head_poses(camera, all).unwrap();
        for (k, row) in faces.iter().enumerate() {
            let expected = face(row.frame_seq, row.track - 1);
            assert_eq!(row.bbox, expected.bbox, "row {k}");
            assert!(landmarks[k] == expected.landmarks && shapes[k] == expected.blendshapes, "row {k}");
            assert_eq!(poses[k], expected.head_pose, "row {k}");
        }
        let frames = reader.frames(camera, 0..reader.frame_count(camera)).unwrap();
        for row in &frames {
            assert_eq!(row.captured_at_ns, meta(camera as u16, row.seq).captured_at.0);
        }
        assert!(frames.is_sorted_by(|a, b| a.seq < b.seq));
        let videos = reader.video(camera, 0..reader.video_count(camera)).unwrap();
        for row in &videos {
            assert_eq!(*row, video(row.seq, meta(camera as u16, row.seq).captured_at));
        }
        assert!(videos.is_sorted_by(|a, b| a.seq < b.seq));
    }
    let windows = reader.windows(0..reader.window_count()).unwrap();
    let likeness = reader.likeness(0..reader.window_count()).unwrap();
    assert_eq!(likeness.len(), 6 * windows.len(), "row i of values belongs to row i of windows");
    for (row, values) in windows.iter().zip(likeness.chunks(6)) {
        let n = (row.start_ns - START.0) / 1_000_000_000;
        assert_eq!((row.start_ns, row.end_ns), (window(n).start.0, window(n).end.0));
        for (found, put) in values.iter().zip(window(n).likeness) {
            assert_eq!(found.map(f32::to_bits), [put.r, put.lag_s, put.p, put.common].map(f32::to_bits));
        }
    }
    reader.inspect(10).unwrap();
    [reader.frame_count(0), reader.face_count(0)]
}

#[test]
fn a_killed_file_becomes_one_that_any_reader_opens_with_all_of_it() {
    for compression in [Compression::None, Compression::Deflate] {
        let folder = tempfile::tempdir().unwrap();
        let path = killed(folder.path(), compression, 150);
        let before = std::fs::read(&path).unwrap();
        let mut was = SessionReader::open(&path).unwrap().inspect(1000).unwrap();
        assert_eq!(was.opened, Opened::Swmr);
        let mut told = Vec::new();
        let recovery = recover(&path, &recovered_path(&path), &mut |done, of| {
            told.push((done, of));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(recovery.lost, [""; 0]);
        assert!(told.is_sorted() && told.last().is_some_and(|(done, of)| done == of), "{told:?}");
        assert!(std::fs::read(&path).unwrap() == before, "the original is untouched");
        assert_eq!(check_rows(&recovery.to)[0], 150);
        let all = |table: &str| recovery.tables.iter().find(|found| found.table == table).unwrap().rows;
        for table in ["/cameras/left/video", "/synchrony/windows", "/synchrony/values"] {
            assert_eq!(all(table), 150, "{table}");
        }

        let copy = SessionReader::open(&recovery.to).unwrap();
        let mut is = copy.inspect(1000).unwrap();
        assert_eq!(is.header.recovered.take().unwrap().from, "killed.h5");
        assert_eq!((is.opened, is.stop.is_none()), (Opened::Plain, true), "it does not claim a good end");
        (was.path, was.opened, was.file_bytes) = (is.path.clone(), is.opened, is.file_bytes);
        assert_eq!(is, was, "all else is as it was");
        let tables: u64 = recovery.tables.iter().map(|table| table.rows).sum();
        assert!(tables > 150 * 2 * 4 && recovery.tables.iter().all(|table| table.lost == 0), "{recovery:?}");
        assert!(matches!(save(&path), Err(SessionFileError::AlreadyExists { .. })));
    }
}

#[test]
fn a_file_that_is_being_written_is_left_alone_and_one_that_was_abandoned_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live.h5");
    let mut writer = write(&live, Compression::None, 10);
    writer.flush(START).unwrap();
    assert!(matches!(save(&live), Err(SessionFileError::InUse { .. })));
    let abandoned = folder.path().join("abandoned.h5");
    std::fs::copy(&live, &abandoned).unwrap();
    std::fs::write(folder.path().join("other.h5"), "no HDF5").unwrap();
    std::fs::write(folder.path().join("notes.txt"), "notes").unwrap();
    assert_eq!(abandoned_files(folder.path()).unwrap(), [abandoned.as_path()]);
    save(&abandoned).unwrap();
    assert_eq!(abandoned_files(folder.path()).unwrap(), [""; 0].map(PathBuf::from), "it has a copy now");
    writer.finish(START, UTC_START, &[], "{}").unwrap();
    assert_eq!(abandoned_files(folder.path()).unwrap(), [""; 0].map(PathBuf::from));
    // As a power that goes while a file is being closed may leave it: it says that it was.
    std::fs::write(folder.path().join("live.h5.journal"), "").unwrap();
    assert_eq!(abandoned_files(folder.path()).unwrap(), [live]);
}

#[test]
fn a_journal_that_cannot_be_read_keeps_nothing_from_being_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path(), Compression::None, 100);
    std::fs::create_dir(folder.path().join("killed.h5.journal")).unwrap();
    assert_eq!(save(&path).unwrap().lost, [""; 0]);
}

#[test]
fn broken_off_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path(), Compression::None, 150);
    let broken_off = recover(&path, &recovered_path(&path), &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(broken_off, Err(SessionFileError::Interrupted)));
    let mut left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["killed.h5", "live.h5", "live.h5.journal"]);
}

/// Of a file that was cut to a share of its length, what is there is saved, and what is not is said.
fn check_cut(finished: bool, share: f64) -> [u64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = if finished {
        let path = folder.path().join("finished.h5");
        write(&path, Compression::None, 300).finish(START, UTC_START, &[], "{}").unwrap();
        path
    } else {
        killed(folder.path(), Compression::None, 300)
    };
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((file.metadata().unwrap().len() as f64 * share) as u64).unwrap();
    drop(file);
    let recovery = save(&path).unwrap();
    assert!(!recovery.lost.is_empty(), "{recovery:?}");
    let lost: u64 = recovery.tables.iter().map(|table| table.lost).sum();
    assert!(lost > 0, "{recovery:?}");
    let reader = SessionReader::open(&recovery.to).unwrap();
    assert_eq!(reader.header().recovered.clone().unwrap().lost, recovery.lost);
    if share > 0.8 {
        assert!(reader.window_count() > 0 && reader.video_count(1) > 0, "{recovery:?}");
    }
    check_rows(&recovery.to)
}

#[test]
fn of_a_truncated_file_what_is_there_is_saved_and_the_rest_is_named() {
    for finished in [true, false] {
        let [mut frames_before, mut faces_before] = [0; 2];
        for share in [0.4, 0.6, 0.9] {
            let [frames, faces] = check_cut(finished, share);
            assert!(faces >= faces_before && frames >= frames_before, "{finished} {share}: {frames} {faces}");
            assert!(faces > 0, "{finished} {share}: nothing was saved");
            [frames_before, faces_before] = [frames, faces];
        }
    }
}

/// What a disk may hold of a file whose power goes while it is being changed: any of its sectors as they were before, any as they
/// are after it.
fn torn(before: &[u8], after: &[u8], kept: f64, dice: &mut Dice) -> Vec<u8> {
    let mut mixed = after.to_vec();
    for (sector, bytes) in mixed.chunks_mut(512).enumerate() {
        if dice.unit() >= kept {
            let old = before.get(sector * 512..).unwrap_or_default();
            let there = old.len().min(bytes.len());
            bytes[..there].copy_from_slice(&old[..there]);
            bytes[there..].fill(0);
        }
    }
    mixed
}

/// A file after a flush, but for what the flush's journal says of it, which is as it was before: what is on the disk when the
/// journal is written.
fn without_metadata(before: &[u8], after: &[u8], journal: &[u8]) -> Vec<u8> {
    let word = |at: usize| u64::from_le_bytes(journal[at..at + 8].try_into().unwrap()) as usize;
    let (mut at, end) = (24, 24 + word(8));
    let mut file = after.to_vec();
    while at < end {
        let (place, length) = (word(at), word(at + 8));
        let old = before.get(place..).unwrap_or_default();
        let there = old.len().min(length);
        file[place..place + there].copy_from_slice(&old[..there]);
        file[place + there..place + length].fill(0);
        at += 16 + length;
    }
    file
}

#[test]
fn a_flush_that_a_loss_of_power_tears_costs_no_row_of_the_one_before() {
    let mut dice = Dice::new(1);
    let (mut torn_tables, mut files) = (0, 0);
    for compression in [Compression::None, Compression::Deflate] {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live.h5");
        let read =
            || [&live, &folder.path().join("live.h5.journal")].map(|path| std::fs::read(path).unwrap());
        let rows = || {
            let reader = SessionReader::open(&live).unwrap();
            [reader.frame_count(0), reader.face_count(0)]
        };
        let mut writer = write(&live, compression, 100);
        for flushed in (120..200_u64).step_by(20) {
            writer.flush(Timestamp(START.0 + flushed)).unwrap();
            let ([before, old_journal], rows_before) = (read(), rows());
            (rows_before[0]..flushed + 20).for_each(|seq| append(&mut writer, seq));
            writer.flush(Timestamp(START.0 + flushed + 1)).unwrap();
            let ([after, new_journal], rows_after) = (read(), rows());
            let rows_alone = without_metadata(&before, &after, &new_journal);
            for kept in [0.1, 0.5, 0.9] {
                let states = [
                    // While rows are made safe, while the journal is, while the file is.
                    (torn(&before, &rows_alone, kept, &mut dice), old_journal.clone(), rows_before),
                    (rows_alone.clone(), torn(&old_journal, &new_journal, kept, &mut dice), rows_before),
                    (torn(&rows_alone, &after, kept, &mut dice), new_journal.clone(), rows_after),
                ];
                for (stage, (bytes, journal, [frames, faces])) in states.into_iter().enumerate() {
                    files += 1;
                    if stage == 2 {
                        let alone = folder.path().join(format!("alone{files}.h5"));
                        std::fs::write(&alone, &bytes).unwrap();
                        torn_tables +=
                            usize::from(!save(&alone).is_ok_and(|recovery| recovery.lost.is_empty()));
                    }
                    let path = folder.path().join(format!("torn{files}.h5"));
                    std::fs::write(&path, &bytes).unwrap();
                    std::fs::write(folder.path().join(format!("torn{files}.h5.journal")), &journal).unwrap();
                    let recovery = save(&path).unwrap();
                    assert_eq!(recovery.lost, [""; 0], "{path:?}");
                    let saved = check_rows(&recovery.to);
                    assert!(saved[0] >= frames && saved[1] >= faces, "{saved:?} of {frames}, {faces}");
                    assert!(std::fs::read(&path).unwrap() == bytes, "the original is untouched");
                }
            }
        }
    }
    println!("{files} torn flushes; without a journal {torn_tables} would have cost tables");
    assert!(torn_tables > 0, "nothing was torn: the test shows nothing");
}

#[test]
fn what_is_no_session_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.h5");
    for bytes in [&b""[..], b"\x89HDF\r\n\x1a\n", &[7; 5000]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(save(&path), Err(SessionFileError::Open { .. })));
    }
    assert!(matches!(save(&folder.path().join("nothing.h5")), Err(SessionFileError::Unreadable { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A file that was cut off anywhere: every row of its copy is the one that it must be, and what is missing is said.
    #[test]
    fn a_cut_leaves_whole_rows_of_every_table(
        share in 0.0..1.0f64,
        compression in prop_oneof![Just(Compression::None), Just(Compression::Deflate)],
        finished: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = if finished {
            let path = folder.path().join("finished.h5");
            write(&path, compression, 120).finish(START, UTC_START, &[], "{}").unwrap();
            path
        } else {
            killed(folder.path(), compression, 120)
        };
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len((file.metadata().unwrap().len() as f64 * share) as u64).unwrap();
        match save(&path) {
            // Without its own pairs it has no synchrony, and without a camera's tables not that camera: it then says so.
            Ok(recovery) if SessionReader::open(&recovery.to).is_ok() => {
                prop_assert!(!recovery.lost.is_empty(), "{recovery:?}");
                check_rows(&recovery.to);
            }
            Ok(recovery) => prop_assert!(!recovery.lost.is_empty(), "{recovery:?}"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    /// Whatever happens to a file, there is a copy that can be read, or an error that says why there is none.
    #[test]
    fn damage_of_any_kind_is_survived(at in 0.0..1.0f64, bytes in 1..20_000usize, cut in 0.3..1.5f64) {
        let folder = tempfile::tempdir().unwrap();
        let path = killed(folder.path(), Compression::Deflate, 60);
        let mut content = std::fs::read(&path).unwrap();
        let start = (at * content.len() as f64) as usize;
        let end = content.len().min(start + bytes);
        // As a disk returns a sector that it cannot read.
        content[start..end].fill(0);
        content.truncate((content.len() as f64 * cut) as usize);
        std::fs::write(&path, content).unwrap();
        match save(&path) {
            Ok(recovery) => {
                let reader = SessionReader::open(&recovery.to);
                prop_assert!(reader.is_ok() || !recovery.lost.is_empty(), "{recovery:?}");
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
