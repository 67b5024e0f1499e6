//! The bytes of a session file: as HDF5 writes them, and as a loss of power may have left them.
//!
//! HDF5 changes what it knows of a table in place. Half of such a change has a wrong checksum, and all rows of the table are out of
//! reach. So rows go to the file as they come, and everything else waits in memory for a commit. That makes the rows safe, writes
//! what waits to the journal beside the file and makes it safe, and then only writes it to the file, in HDF5's order, for which
//! readers follow. Whenever the power goes, either the file is whole or the journal is, which tells what it was to become. What
//! a commit costs depends on what changed, never on how long the file is.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use youquanti_hdf5::{Piece, Storage};

use super::superblock;

const MAGIC: [u8; 8] = *b"yqjournl";

/// Magic, length of what follows, and the sum of both and that.
const HEAD: usize = 24;

/// Where the journal of a session file lies, from its first commit until it is closed.
pub(super) fn journal_of(session: &Path) -> PathBuf {
    let mut name = session.as_os_str().to_owned();
    name.push(".journal");
    PathBuf::from(name)
}

/// A session file that is being written.
pub(super) struct Journaled {
    file: fs::File,
    /// Where it ends with all that waits.
    length: u64,
    waiting: Log,
    /// Where what waits ends of which the journal tells, and which is on its way into the file. Until it is there the journal must stay.
    applying: Option<usize>,
    /// Whether what is written over rows that were committed waits, too.
    keeps_rows: bool,
    /// Where the file ended at the last commit.
    committed: u64,
    /// The disk said, and says only once, that rows are lost.
    is_lost: bool,
    /// Whether a commit waits for the disk.
    is_durable: bool,
    journal: Option<Journal>,
    /// Why there is no journal any more, until somebody asks.
    lost: Option<io::Error>,
}

struct Journal {
    file: fs::File,
    path: PathBuf,
}

impl Journaled {
    /// An empty file, whose commits do not wait for the disk. With `keeps_rows` a change of rows that were committed waits for the next
    /// commit, too: a compressed chunk, of which a part is worth nothing.
    pub(super) fn new(file: fs::File, keeps_rows: bool) -> Self {
        Self {
            file,
            length: 0,
            waiting: Log::default(),
            applying: None,
            keeps_rows,
            committed: 0,
            is_lost: false,
            is_durable: false,
            journal: None,
            lost: None,
        }
    }

    /// From now on a commit waits until it is safe, and a loss of power tears none. What is left of the journal of an
    /// earlier file of that name goes.
    ///
    /// # Errors
    /// When the journal cannot be made.
    pub(super) fn protect(&mut self, session: &Path) -> io::Result<()> {
        let path = journal_of(session);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        self.journal = Some(Journal { file, path });
        self.is_durable = true;
        Ok(())
    }

    /// Commits no longer wait for the disk from here on, and have no journal.
    #[cfg(feature = "testing")]
    pub(super) fn never_wait(&mut self) {
        self.is_durable = false;
        self.remove_journal();
    }

    /// Puts into the file what HDF5 has written since the last time, all of it or nothing, whatever happens meanwhile.
    ///
    /// # Errors
    /// What the operating system says of the file: what waited still does, and another attempt may succeed; not one after rows were
    /// lost. That the journal fails is no error: see [`journal_lost`](Self::journal_lost).
    pub(super) fn commit(&mut self) -> io::Result<()> {
        // What an earlier attempt left half done, only the journal knows.
        self.apply()?;
        if self.is_lost {
            return Err(io::Error::other("the disk lost rows that it had been given"));
        }
        self.sync().inspect_err(|_| self.is_lost = true)?;
        if self.waiting.is_empty() && self.file.metadata()?.len() == self.length {
            self.committed = self.length;
            return Ok(());
        }
        if let Some(Journal { file, .. }) = &self.journal
            && let Err(error) = file.write_all_at(self.waiting.seal(), 0).and_then(|()| file.sync_data())
        {
            self.lost = Some(error);
            self.remove_journal();
        }
        self.applying = Some(self.waiting.end());
        self.apply()
    }

    /// Puts into the file what is on its way there.
    fn apply(&mut self) -> io::Result<()> {
        let Some(end) = self.applying else { return Ok(()) };
        for (at, bytes) in self.waiting.pieces_to(end) {
            self.file.write_all_at(bytes, at)?;
        }
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        self.sync()?;
        self.waiting.drop_to(end);
        self.applying = None;
        self.committed = self.length;
        Ok(())
    }

    /// Why the journal failed, told once: commits go on without, and a loss of power in the middle of one may cost tables.
    pub(super) fn journal_lost(&mut self) -> Option<io::Error> {
        self.lost.take()
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.is_durable { self.file.sync_data() } else { Ok(()) }
    }

    fn remove_journal(&mut self) {
        if let Some(Journal { path, .. }) = self.journal.take()
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a file that is not needed any more stays");
        }
    }
}

impl Storage for Journaled {
    fn read(&mut self, _: Piece, at: u64, into: &mut [u8]) -> io::Result<()> {
        read_with(&self.file, &self.waiting, at, into)
    }

    fn write(&mut self, piece: Piece, at: u64, bytes: &[u8]) -> io::Result<()> {
        match piece {
            Piece::Rows if !(self.keeps_rows && at < self.committed) => self.file.write_all_at(bytes, at)?,
            Piece::Rows | Piece::Metadata => self.waiting.push(at, bytes),
        }
        self.length = self.length.max(at + bytes.len() as u64);
        Ok(())
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.length = length;
        Ok(())
    }

    fn lock(&mut self, is_exclusive: bool) -> io::Result<()> {
        match if is_exclusive { self.file.try_lock() } else { self.file.try_lock_shared() } {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::ResourceBusy.into()),
            // There are no locks on this file system.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "no lock");
                Ok(())
            }
        }
    }

    fn unlock(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "no lock");
        }
        Ok(())
    }

    /// The last commit. The file is whole then, and needs no journal.
    fn close(&mut self) -> io::Result<()> {
        self.commit()?;
        self.remove_journal();
        Ok(())
    }
}

/// A session file to be read as if its writer had closed it, whatever became of that.
pub(super) struct Restored {
    file: fs::File,
    length: u64,
    log: Log,
}

impl Restored {
    /// A file as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn plain(session: &Path) -> io::Result<Self> {
        Self::with(session, Log::default())
    }

    /// A file with the commit that its journal tells of; none if there is no journal, or nothing whole in it.
    ///
    /// # Errors
    /// When one of both cannot be read.
    pub(super) fn from_journal(session: &Path) -> io::Result<Option<Self>> {
        match fs::read(journal_of(session)) {
            Ok(bytes) => Log::read(bytes).map(|log| Self::with(session, log)).transpose(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn with(session: &Path, mut log: Log) -> io::Result<Self> {
        let file = fs::File::open(session)?;
        let ends = log.pieces().map(|(at, bytes)| at.saturating_add(bytes.len() as u64));
        let length = ends.fold(file.metadata()?.len(), u64::max);
        let mut first = [0; superblock::LENGTH];
        read_with(&file, &log, 0, &mut first)?;
        if let Some(closed) = superblock::closed(&first, length) {
            log.push(0, &closed);
        }
        Ok(Self { file, length, log })
    }
}

impl Storage for Restored {
    fn read(&mut self, _: Piece, at: u64, into: &mut [u8]) -> io::Result<()> {
        read_with(&self.file, &self.log, at, into)
    }

    fn write(&mut self, _: Piece, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn set_length(&mut self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Whoever reads it has locked it before.
    fn lock(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a part of a file as it is with a log; zeros beyond its end.
fn read_with(file: &fs::File, log: &Log, at: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into[done..].fill(0);
    for (place, bytes) in log.pieces() {
        let start = place.max(at);
        let end = place.saturating_add(bytes.len() as u64).min(at + into.len() as u64);
        if start < end {
            let (to, from) = ((start - at) as usize, (start - place) as usize);
            let length = (end - start) as usize;
            into[to..to + length].copy_from_slice(&bytes[from..from + length]);
        }
    }
    Ok(())
}

/// Pieces of a file in the order in which they were written, as they lie in a journal: after the head, of each piece its place,
/// its length and its bytes.
struct Log(Vec<u8>);

impl Default for Log {
    fn default() -> Self {
        Self(vec![0; HEAD])
    }
}

impl Log {
    fn push(&mut self, at: u64, bytes: &[u8]) {
        self.0.extend(at.to_le_bytes());
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
    }

    fn is_empty(&self) -> bool {
        self.0.len() == HEAD
    }

    /// Where the last piece ends so far.
    fn end(&self) -> usize {
        self.0.len()
    }

    /// Forgets the pieces up to an end.
    fn drop_to(&mut self, end: usize) {
        self.0.drain(HEAD..end);
    }

    /// Place and bytes of each; of what is no log, as many as there are.
    fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces_to(self.end())
    }

    fn pieces_to(&self, end: usize) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = &self.0[HEAD..end];
        std::iter::from_fn(move || {
            let (head, after) = rest.split_at_checked(16)?;
            let bytes = after.get(..usize::try_from(word(head, 8)).ok()?)?;
            rest = &after[bytes.len()..];
            Some((word(head, 0), bytes))
        })
    }

    /// Everything, with a head that tells whether it is whole.
    fn seal(&mut self) -> &[u8] {
        let length = (self.0.len() - HEAD) as u64;
        self.0[..8].copy_from_slice(&MAGIC);
        self.0[8..16].copy_from_slice(&length.to_le_bytes());
        let sum = sum_of(&self.0);
        self.0[16..HEAD].copy_from_slice(&sum.to_le_bytes());
        &self.0
    }

    /// What was sealed, if it is whole; what lies beyond it is of an earlier, longer one.
    fn read(mut bytes: Vec<u8>) -> Option<Self> {
        let length = usize::try_from(word(bytes.get(8..16)?, 0)).ok()?;
        let end = HEAD.checked_add(length).filter(|&end| end <= bytes.len())?;
        bytes.truncate(end);
        (bytes[..8] == MAGIC && word(&bytes, 16) == sum_of(&bytes)).then_some(Self(bytes))
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// FNV-1a (Fowler, Noll and Vo) of everything but the sum itself, eight bytes at a time.
fn sum_of(log: &[u8]) -> u64 {
    let words = log[..16].chunks(8).chain(log[HEAD..].chunks(8));
    words.fold(0xcbf2_9ce4_8422_2325, |sum, part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        let mixed = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes of metadata: where, how many bytes, and which.
    fn writes(most: usize) -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
        prop::collection::vec((0..5_000_u64, prop::collection::vec(any::<u8>(), 1..400)), 1..most)
    }

    fn file_of(path: &Path) -> fs::File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    fn apply(writes: &[(u64, Vec<u8>)], to: &mut Vec<u8>) {
        for (at, bytes) in writes {
            let at = *at as usize;
            to.resize(to.len().max(at + bytes.len()), 0);
            to[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), is_marked: bool) {
            let mut bytes = bytes;
            if is_marked && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            prop_assert!(Log::read(bytes.clone()).is_none());
            // Also one whose sum was made to fit has only pieces that are there.
            bytes.splice(0..0, [0; HEAD]);
            let mut log = Log(bytes);
            let sealed = log.seal().to_vec();
            let log = Log::read(sealed).unwrap();
            prop_assert!(log.pieces().map(|(_, bytes)| bytes.len()).sum::<usize>() <= log.0.len());
        }

        /// What was written is read, before a commit and after it; before it the file itself is as it was.
        #[test]
        fn what_waits_is_read_and_not_in_the_file(first in writes(8), second in writes(8)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.h5");
            let mut journaled = Journaled::new(file_of(&path), false);
            let mut expected = Vec::new();
            for writes in [first, second] {
                let before = fs::read(&path).unwrap();
                for (at, bytes) in &writes {
                    journaled.write(Piece::Metadata, *at, bytes).unwrap();
                }
                apply(&writes, &mut expected);
                prop_assert_eq!(journaled.length(), expected.len() as u64);
                let mut found = vec![7; expected.len() + 10];
                journaled.read(Piece::Metadata, 0, &mut found).unwrap();
                prop_assert!(found[..expected.len()] == expected && found[expected.len()..] == [0; 10]);
                prop_assert!(fs::read(&path).unwrap() == before);
                journaled.commit().unwrap();
                prop_assert!(fs::read(&path).unwrap() == expected);
            }
        }

        /// Wherever the power goes: the journal is torn and the file as before, or the journal is whole and the file anything between.
        #[test]
        fn a_torn_commit_is_none_or_all_of_it(
            first in writes(8),
            second in writes(8),
            torn in prop::collection::vec(any::<bool>(), 12),
            is_in_journal: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (path, journal) = (folder.path().join("x.h5"), folder.path().join("x.h5.journal"));
            let mut journaled = Journaled::new(file_of(&path), false);
            journaled.protect(&path).unwrap();
            let mut states = Vec::new();
            for writes in [&first, &second] {
                for (at, bytes) in writes {
                    journaled.write(Piece::Metadata, *at, bytes).unwrap();
                }
                journaled.commit().unwrap();
                states.push([&path, &journal].map(|path| fs::read(path).unwrap()));
            }
            let [[file_before, journal_before], [file_after, journal_after]] = &states[..] else { unreachable!() };
            // Sectors that did not reach the disk are as they were, or zeros.
            let tear = |before: &[u8], after: &[u8]| {
                let mut mixed = after.to_vec();
                for (sector, bytes) in mixed.chunks_mut(512).enumerate() {
                    if torn[sector % torn.len()] {
                        let old = before.get(sector * 512..).unwrap_or_default();
                        let there = old.len().min(bytes.len());
                        bytes[..there].copy_from_slice(&old[..there]);
                        bytes[there..].fill(0);
                    }
                }
                mixed
            };
            if is_in_journal {
                fs::write(&path, file_before).unwrap();
                fs::write(&journal, tear(journal_before, journal_after)).unwrap();
            } else {
                fs::write(&path, tear(file_before, file_after)).unwrap();
            }
            let restored = Restored::from_journal(&path).unwrap();
            let mut restored = restored.unwrap_or_else(|| Restored::plain(&path).unwrap());
            let mut found = vec![0; restored.length() as usize];
            restored.read(Piece::Metadata, 0, &mut found).unwrap();
            let is_after = &found == file_after;
            prop_assert!(is_after || (is_in_journal && &found == file_before));
        }
    }

    #[test]
    fn a_commit_that_stops_halfway_is_finished_before_its_journal_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.h5");
        let mut journaled = Journaled::new(file_of(&path), false);
        journaled.protect(&path).unwrap();
        journaled.write(Piece::Metadata, 0, b"first").unwrap();
        // Nothing can be written through this one.
        let good = std::mem::replace(&mut journaled.file, fs::File::open(&path).unwrap());
        let content = || {
            let mut restored = Restored::from_journal(&path).unwrap().unwrap();
            let mut found = vec![0; restored.length() as usize];
            restored.read(Piece::Metadata, 0, &mut found).unwrap();
            found
        };
        for attempt in 0..3 {
            assert!(journaled.commit().is_err(), "{attempt}");
            assert_eq!(content(), b"first");
            journaled.write(Piece::Metadata, 5, b" and second").unwrap();
        }
        journaled.file = good;
        journaled.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first and second");
        assert_eq!(content(), b"first and second");
        assert!(journaled.journal_lost().is_none());
        journaled.close().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a closed file needs no journal");
    }

    #[test]
    fn rows_that_were_committed_are_kept_until_the_next_commit_where_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.h5");
        let mut journaled = Journaled::new(file_of(&path), true);
        journaled.write(Piece::Rows, 0, b"old").unwrap();
        journaled.commit().unwrap();
        journaled.write(Piece::Rows, 0, b"new").unwrap();
        journaled.write(Piece::Rows, 3, b"more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"oldmore");
        let mut found = [0; 7];
        journaled.read(Piece::Rows, 0, &mut found).unwrap();
        assert_eq!(&found, b"newmore");
        journaled.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newmore");
    }

    #[test]
    fn a_journal_that_fails_is_told_of_and_the_file_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.h5");
        let mut journaled = Journaled::new(file_of(&path), false);
        journaled.protect(&path).unwrap();
        // A device on which there is never space.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        journaled.journal = Some(Journal { file: full, path: folder.path().join("x.h5.journal") });
        journaled.write(Piece::Metadata, 3, b"abc").unwrap();
        journaled.commit().unwrap();
        assert_eq!(journaled.journal_lost().unwrap().kind(), io::ErrorKind::StorageFull);
        assert!(journaled.journal_lost().is_none());
        journaled.write(Piece::Metadata, 0, b"xyz").unwrap();
        journaled.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"xyzabc");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "an old journal would mislead");
    }
}
