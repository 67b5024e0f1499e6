//! Makes a finished file from one whose writer was killed, or that was damaged since: everything that can be read,
//! and a list of what cannot. The original is never changed.
//!
//! Copies tables chunk by chunk, up to the rows that were committed. Rows of a chunk that is gone are left out, of
//! all tables that belong together, so that row i of one stays with row i of the others. The file's journal, if there is one,
//! brings back a flush in whose middle the power went.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hdf5::types::{FloatSize, IntSize, TypeDescriptor};
use hdf5::{Dataset, File, Group, H5Type, Location};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use youquanti_hdf5::Storage;
use youquanti_models::time::Timestamp;

use super::journal::{Restored, journal_of};
use super::reader::{Commit, read_list, read_number, read_rows, read_text, whole_commit};
use super::schema::*;
use super::table::{Table, TableLayout};
use super::writer::{array_attribute, number, text_attribute};
use super::{SessionFileError, failed_to, superblock};

/// What was saved of a file, and what was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// The original.
    pub from: PathBuf,
    /// The copy that any reader opens.
    pub to: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Every table with rows, in the order of their paths.
    pub tables: Vec<TableRecovery>,
    /// What is missing in the copy, in words; empty if nothing that was committed is.
    pub lost: Vec<String>,
}

/// What was saved of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableRecovery {
    /// Its path.
    pub table: String,
    /// Rows in the copy.
    pub rows: u64,
    /// Rows that had been committed and are not in it.
    pub lost: u64,
}

/// Where the copy of a file goes unless something else is asked for: `x.h5` becomes `x.recovered.h5` beside it.
pub fn recovered_path(from: &Path) -> PathBuf {
    from.with_extension("recovered.h5")
}

/// Files of a folder whose writer is gone without having closed them, or in the middle of that, and that have no copy yet, in the
/// order of their names. Folders below are not looked into.
///
/// # Errors
/// When the folder cannot be read.
pub fn abandoned_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_session = path.extension().is_some_and(|extension| extension == "h5");
        // A file that vanishes or cannot be read meanwhile is not for us to save.
        if is_session
            && !recovered_path(&path).exists()
            && (superblock::is_open(&path).unwrap_or(false) || journal_of(&path).exists())
            && !has_writer(&path)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether somebody holds a lock on the file, as its writer does for as long as it lives.
pub(super) fn has_writer(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock))
}

/// Copies all that can be read of `from` into the new file `to`. `progress` hears of rows done and rows in all, and
/// may break off, which leaves nothing behind.
///
/// # Errors
/// `AlreadyExists`, `InUse`, `Unreadable`, `Open`, `NotASession`, `Interrupted`, `Create`, `Hdf5`.
pub fn recover(
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Recovery, SessionFileError> {
    let unreadable = |source| SessionFileError::Unreadable { path: from.to_owned(), source };
    if to.exists() {
        return Err(SessionFileError::AlreadyExists { path: to.to_owned() });
    }
    let claim = fs::File::open(from).map_err(unreadable)?;
    match claim.try_lock() {
        Err(fs::TryLockError::WouldBlock) => return Err(SessionFileError::InUse { path: from.to_owned() }),
        // A lock that HDF5's own goes with: another who would recover the file finds it in use.
        Ok(()) => claim.lock_shared().map_err(unreadable)?,
        // There are no locks on this file system.
        Err(fs::TryLockError::Error(_)) => {}
    }
    let (part, second_part) = (beside(to, ".part"), beside(to, ".part2"));
    for left_behind in [&part, &second_part] {
        match fs::remove_file(left_behind) {
            Ok(()) => {
                tracing::info!(path = %left_behind.display(), "removed what was left of an earlier attempt")
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(SessionFileError::Create { path: to.to_owned(), source }),
        }
    }
    let plain = Source::open(Restored::plain(from).map_err(unreadable)?, from);
    let journal = Restored::from_journal(from).unwrap_or_else(|error| {
        tracing::warn!(path = %journal_of(from).display(), %error, "a journal cannot be read: recovering without it");
        None
    });
    let journal = journal.map(|restored| Source::open(restored, from));
    // The later commit first: a journal may be an old one, if somebody copied it and the file at different times.
    let (first, second) = match journal {
        Some(journal) if time_of(&plain) <= time_of(&journal) => (journal, Some(plain)),
        journal => (plain, journal),
    };
    let mut made = first.and_then(|source| copy_all(&source, &part, progress));
    let is_interrupted = matches!(made, Err(SessionFileError::Interrupted));
    let is_whole = made.as_ref().is_ok_and(|(_, lost)| lost.is_empty());
    if !is_whole
        && !is_interrupted
        && let Some(second) = second
    {
        let second = second.and_then(|source| copy_all(&source, &second_part, progress));
        if is_better(&second, &made) {
            let failed = |source| SessionFileError::Create { path: to.to_owned(), source };
            fs::rename(&second_part, &part).map_err(failed)?;
            made = second;
        } else if let Err(error) = fs::remove_file(&second_part) {
            tracing::debug!(%error, "there was no second copy");
        }
    }
    let recovery = made.and_then(|(tables, lost)| {
        let failed = |source| SessionFileError::Create { path: to.to_owned(), source };
        fs::File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
        renameat_with(CWD, &part, CWD, to, RenameFlags::NOREPLACE).map_err(|errno| failed(errno.into()))?;
        let bytes = fs::metadata(to).map_err(failed)?.len();
        Ok(Recovery { from: from.to_owned(), to: to.to_owned(), bytes, tables, lost })
    });
    drop(claim);
    recovery.inspect_err(|_| {
        // The error that is returned says more than a failure to remove half a copy.
        fs::remove_file(&part).ok();
    })
}

/// Whether a second attempt saved more than the first.
fn is_better(second: &Result<Saved, SessionFileError>, first: &Result<Saved, SessionFileError>) -> bool {
    let rows = |(tables, _): &Saved| tables.iter().map(|table| table.rows).sum::<u64>();
    match (second, first) {
        (Ok(second), Ok(first)) => {
            let is_whole = second.1.is_empty();
            is_whole || (rows(second), first.1.len()) > (rows(first), second.1.len())
        }
        (Ok(_), Err(_)) | (Err(SessionFileError::Interrupted), _) => true,
        (Err(_), _) => false,
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// The damaged file, open.
struct Source {
    file: File,
    path: PathBuf,
    /// Bytes that there really are: HDF5 takes what lies beyond for zeros.
    length: u64,
    /// The newest row of `/committed` that can be read; without one, tables are taken to their ends.
    commit: Option<Commit>,
}

impl Source {
    /// Opens what is restored of the file at `path`.
    fn open(restored: Restored, path: &Path) -> Result<Self, SessionFileError> {
        let length = restored.length();
        let file = youquanti_hdf5::open(&Arc::new(Mutex::new(restored)), &path.display().to_string())
            .map_err(|source| SessionFileError::Open { path: path.to_owned(), source })?;
        let commit = newest_commit(&file, length);
        Ok(Self { file, path: path.to_owned(), length, commit })
    }
}

/// When its newest commit was; nothing is before any.
fn time_of(source: &Result<Source, SessionFileError>) -> Option<Timestamp> {
    source.as_ref().ok()?.commit.as_ref().map(|(time, _)| *time)
}

type Saved = (Vec<TableRecovery>, Vec<String>);

fn copy_all(
    source: &Source,
    part: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Saved, SessionFileError> {
    let refuse =
        |reason: &str| SessionFileError::NotASession { path: source.path.clone(), reason: reason.to_owned() };
    let format = read_text(&source.file, "format").map_err(|_| refuse("attribute format is missing"))?;
    if format != FORMAT {
        return Err(refuse(&format!("its format is {format:?}, not {FORMAT:?}")));
    }
    let create = |action: &'static str| failed_to(action, part.display().to_string());
    let target = File::with_options()
        .with_fapl(|access| access.libver_v110())
        .create_excl(part)
        .map_err(create("create"))?;
    let mut lost = Vec::new();
    if source.commit.is_none() {
        lost.push(
            "what had been committed is not known: every table is taken as far as it can be read".to_owned(),
        );
    }
    let mut copy = Copy { source, lost, bundles: Vec::new() };
    copy.attributes(&source.file, &target, "/")?;
    copy.group(&source.file, &target, "")?;
    let Copy { mut lost, mut bundles, .. } = copy;
    let total = bundles.iter().map(|bundle| bundle.rows).sum();
    let mut done = 0;
    let mut rows_saved = BTreeMap::new();
    for bundle in &mut bundles {
        bundle.run(&mut |rows| {
            done += rows;
            progress(done, total).is_break()
        })?;
        for table in &bundle.tables {
            rows_saved.insert(table.path().to_owned(), (table.rows(), bundle.rows - bundle.saved));
        }
        let gone = bundle.rows - bundle.saved;
        if gone > 0 {
            let names: Vec<_> = bundle.tables.iter().map(|table| table.path()).collect();
            lost.push(format!("{gone} of {} rows of {} cannot be read", bundle.rows, names.join(", ")));
        }
    }
    let rows = rows_saved.iter().map(|(path, (rows, _))| (path.clone(), *rows)).collect();
    write_commit(&target, source, &rows)?;
    let note = serde_json::json!({
        "from": source.path.file_name().map(|name| name.to_string_lossy()),
        "lost": lost,
    });
    text_attribute(&target, recording_attribute::RECOVERED, &note.to_string())?;
    drop(bundles);
    target.close().map_err(create("close"))?;
    let tables = rows_saved.into_iter().filter(|(_, (rows, lost))| rows + lost > 0);
    let tables = tables.map(|(table, (rows, lost))| TableRecovery { table, rows, lost }).collect();
    Ok((tables, lost))
}

/// Makes `/committed` in the copy, with one row that counts what was saved.
fn write_commit(
    target: &File,
    source: &Source,
    rows: &BTreeMap<String, u64>,
) -> Result<(), SessionFileError> {
    let columns = source.file.dataset(COMMITTED).map_err(failed_to("open", COMMITTED));
    let columns: Vec<Label> = match columns.and_then(|dataset| read_list(&dataset, COLUMNS)) {
        Ok(columns) => columns,
        Err(_) => std::iter::once(TIME_COLUMN).chain(rows.keys().map(String::as_str)).map(fixed).collect(),
    };
    let time_ns = source.commit.as_ref().map_or(0, |(time, _)| time.0);
    let row: Vec<u64> = columns
        .iter()
        .map(|column| {
            let column = text_of(column);
            if column == TIME_COLUMN { time_ns } else { rows.get(&column).copied().unwrap_or(0) }
        })
        .collect();
    let layout = TableLayout {
        name: COMMITTED,
        row_shape: &[row.len()],
        chunk_rows: chunk_rows::SMALL,
        deflate: false,
    };
    let mut committed = Table::<u64>::create(target, layout).map_err(failed_to("create", COMMITTED))?;
    array_attribute(committed.dataset(), COLUMNS, &columns)?;
    committed.append(&row).and_then(|()| committed.write_out()).map_err(failed_to("append to", COMMITTED))
}

/// The newest row of `/committed` that can be read, of a file with so many bytes.
fn newest_commit(file: &File, length: u64) -> Option<Commit> {
    let dataset = file.dataset(COMMITTED).ok()?;
    let good = good_chunks(&dataset, length);
    let rows = dataset.shape().first().copied().unwrap_or(0);
    let readable = (0..rows).rev().filter(|row| good.get(row / chunk_rows::SMALL).copied().unwrap_or(false));
    // A row of an unreadable chunk is as unreadable as its neighbours: few are tried.
    let mut tried = readable.take(2 * chunk_rows::SMALL);
    tried.find_map(|row| whole_commit(&dataset, row).ok())
}

/// For each chunk along the rows, whether it is in the file.
fn good_chunks(dataset: &Dataset, length: u64) -> Vec<bool> {
    let rows = dataset.chunk().and_then(|chunk| chunk.first().copied()).unwrap_or(1).max(1) as u64;
    let mut good = Vec::new();
    // Chunks that come before the index itself is damaged are known all the same.
    let visited = dataset.chunks_visit(|chunk| {
        let place = chunk.offset.first().map_or(0, |&row| (row / rows) as usize);
        // Beyond this, the place itself is damage.
        if place < 1 << 32 {
            good.resize(good.len().max(place + 1), false);
            good[place] = chunk.addr.checked_add(chunk.size).is_some_and(|end| end <= length);
        }
        0
    });
    if let Err(error) = visited {
        tracing::debug!(table = dataset.name(), %error, "the index of chunks is damaged");
    }
    good
}

/// Walks through the damaged file and makes the same groups and tables in the copy.
struct Copy<'a> {
    source: &'a Source,
    lost: Vec<String>,
    bundles: Vec<Bundle>,
}

impl Copy<'_> {
    fn group(&mut self, from: &Group, to: &Group, path: &str) -> Result<(), SessionFileError> {
        let names = match from.member_names() {
            Ok(names) => names,
            Err(error) => {
                self.lost.push(format!("what is in {path}/ cannot be read: {error}"));
                return Ok(());
            }
        };
        // By the table that counts their rows.
        let mut together = BTreeMap::<String, Bundle>::new();
        for name in names {
            let ruler = ruler_of(&name).map(|ruler| format!("{path}/{ruler}"));
            let path = format!("{path}/{name}");
            if let Ok(group) = from.group(&name) {
                let made = to.create_group(&name).map_err(failed_to("create", &*path))?;
                self.attributes(&group, &made, &path)?;
                self.group(&group, &made, &path)?;
            } else if path == format!("/{COMMITTED}") {
                // Written anew.
            } else if let Ok(dataset) = from.dataset(&name) {
                let Some(table) = self.table(&dataset, to, &name, &path)? else {
                    self.lost.push(format!("{path} has rows of a type that is not known"));
                    continue;
                };
                let counted = ruler.as_ref().unwrap_or(&path);
                let rows = self.source.commit.as_ref().and_then(|(_, rows)| rows.get(counted).copied());
                let there = dataset.shape().first().map_or(0, |&rows| rows as u64);
                let rows = rows.unwrap_or(there);
                if let Some(ruler) = ruler {
                    let bundle = together.entry(ruler).or_default();
                    bundle.rows = bundle.rows.max(rows);
                    bundle.tables.push(table);
                } else {
                    self.bundles.push(Bundle { tables: vec![table], rows, saved: 0 });
                }
            } else {
                self.lost.push(format!("{path} cannot be opened"));
            }
        }
        self.bundles.extend(together.into_values());
        Ok(())
    }

    /// The same table in the copy, empty, with its attributes; none for rows of an unknown type.
    fn table(
        &mut self,
        from: &Dataset,
        to: &Group,
        name: &str,
        path: &str,
    ) -> Result<Option<Box<dyn TableCopy>>, SessionFileError> {
        let failed = |error| failed_to("read the type of", path)(error);
        let dtype = from.dtype().map_err(failed)?;
        let length = self.source.length;
        if path == format!("/{TEXT}") {
            return Ok(Some(Box::new(Typed::<u8>::create(from, to, name, path, length, Some(b' '))?)));
        }
        if name == FRAMES {
            // Of earlier builds it has one column more.
            return Ok(Some(Box::new(Typed::<FrameRow>::create(from, to, name, path, length, None)?)));
        }
        macro_rules! first_of {
            ($($row:ty),+) => { $(if dtype.is::<$row>() {
                let table = Typed::<$row>::create(from, to, name, path, length, None)?;
                self.attributes(from, table.target.dataset(), path)?;
                return Ok(Some(Box::new(table)));
            })+ };
        }
        first_of!(
            VideoRow,
            ResultRow,
            FaceRow,
            PoseRow,
            ParticipantRow,
            TextRow,
            GapRow,
            LedgerRow,
            QualityRow,
            ClockRow,
            StopRow,
            PairRow,
            WindowRow,
            f32,
            f64,
            u8,
            u16,
            u32,
            u64,
            i64
        );
        Ok(None)
    }

    /// Copies the attributes of a file, group or table.
    fn attributes(&mut self, from: &Location, to: &Location, path: &str) -> Result<(), SessionFileError> {
        for name in from.attr_names().unwrap_or_default() {
            if let Err(error) = copy_attribute(from, to, &name) {
                self.lost.push(format!("attribute {name} of {path}: {error}"));
            }
        }
        Ok(())
    }
}

/// The table whose committed rows count for one of those whose row i belongs together.
fn ruler_of(table: &str) -> Option<&'static str> {
    match table {
        WINDOWS | VALUES => Some(WINDOWS),
        POSE | POSE_POINTS => Some(POSE),
        face if FACE_TABLES.contains(&face) => Some(FACES),
        _ => None,
    }
}

fn copy_attribute(from: &Location, to: &Location, name: &str) -> Result<(), SessionFileError> {
    let failed = failed_to("read attribute", name);
    let attribute = from.attr(name).map_err(failed)?;
    let failed = failed_to("read attribute", name);
    let descriptor = attribute.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(failed)?;
    macro_rules! copied {
        ($type:ty) => {
            number::<$type>(to, name, read_number(from, name)?)
        };
    }
    match (descriptor, attribute.is_scalar()) {
        (TypeDescriptor::FixedUnicode(_), true) => text_attribute(to, name, &read_text(from, name)?),
        (TypeDescriptor::FixedUnicode(_), false) => {
            array_attribute::<Label>(to, name, &read_list(from, name)?)
        }
        (TypeDescriptor::Compound(_), false) => {
            array_attribute::<ModelEntry>(to, name, &read_list(from, name)?)
        }
        (TypeDescriptor::Unsigned(IntSize::U1), true) => copied!(u8),
        (TypeDescriptor::Unsigned(IntSize::U2), true) => copied!(u16),
        (TypeDescriptor::Unsigned(IntSize::U4), true) => copied!(u32),
        (TypeDescriptor::Unsigned(IntSize::U8), true) => copied!(u64),
        (TypeDescriptor::Integer(IntSize::U8), true) => copied!(i64),
        (TypeDescriptor::Float(FloatSize::U8), true) => copied!(f64),
        (other, _) => Err(failed_to("copy attribute", name)(format!("its type {other} is not known").into())),
    }
}

/// Tables whose row i belongs together.
#[derive(Default)]
struct Bundle {
    tables: Vec<Box<dyn TableCopy>>,
    /// Rows to copy.
    rows: u64,
    /// Rows copied.
    saved: u64,
}

impl Bundle {
    /// Copies block by block; `is_broken_off` hears of rows that are done.
    fn run(&mut self, is_broken_off: &mut dyn FnMut(u64) -> bool) -> Result<(), SessionFileError> {
        let block = self.tables.iter().map(|table| table.chunk_rows()).min().unwrap_or(1).max(1) as u64;
        let mut start = 0;
        while start < self.rows {
            let end = self.rows.min((start / block + 1) * block);
            let rows = start as usize..end as usize;
            let all_read = self.tables.iter_mut().all(|table| table.read(rows.clone()));
            for table in &mut self.tables {
                if all_read { table.write()? } else { table.fill(rows.len())? }
            }
            if all_read {
                self.saved += end - start;
            }
            if is_broken_off(end - start) {
                return Err(SessionFileError::Interrupted);
            }
            start = end;
        }
        self.tables.iter_mut().try_for_each(|table| table.finish())
    }
}

/// One table on its way.
trait TableCopy {
    fn path(&self) -> &str;
    fn chunk_rows(&self) -> usize;
    /// Reads a block; false if a part of it is gone.
    fn read(&mut self, rows: Range<usize>) -> bool;
    /// Adds the block that was read last.
    fn write(&mut self) -> Result<(), SessionFileError>;
    /// Adds something in the place of so many rows that cannot be read, where they must keep their place.
    fn fill(&mut self, rows: usize) -> Result<(), SessionFileError>;
    fn finish(&mut self) -> Result<(), SessionFileError>;
    /// Rows in the copy.
    fn rows(&self) -> u64;
}

struct Typed<T> {
    from: Dataset,
    target: Table<T>,
    path: String,
    chunk_rows: usize,
    row_len: usize,
    good: Vec<bool>,
    block: Vec<T>,
    /// Stands in for elements that cannot be read, where others say where in this table something is.
    filler: Option<T>,
}

impl<T: H5Type + core::marker::Copy> Typed<T> {
    fn create(
        from: &Dataset,
        to: &Group,
        name: &str,
        path: &str,
        length: u64,
        filler: Option<T>,
    ) -> Result<Self, SessionFileError> {
        let row_shape = from.shape().split_off(1.min(from.ndim()));
        let chunk_rows = from.chunk().and_then(|chunk| chunk.first().copied()).unwrap_or(1).max(1);
        let layout =
            TableLayout { name, row_shape: &row_shape, chunk_rows, deflate: !from.filters().is_empty() };
        Ok(Self {
            target: Table::create(to, layout).map_err(failed_to("create", path))?,
            path: path.to_owned(),
            chunk_rows,
            row_len: row_shape.iter().product(),
            good: good_chunks(from, length),
            from: from.clone(),
            block: Vec::new(),
            filler,
        })
    }
}

impl<T: H5Type + core::marker::Copy> TableCopy for Typed<T> {
    fn path(&self) -> &str {
        &self.path
    }

    fn chunk_rows(&self) -> usize {
        self.chunk_rows
    }

    fn read(&mut self, rows: Range<usize>) -> bool {
        let chunks = rows.start / self.chunk_rows..rows.end.div_ceil(self.chunk_rows);
        if !self.good.get(chunks).is_some_and(|chunks| chunks.iter().all(|&good| good)) {
            return false;
        }
        match read_rows(&self.from, rows) {
            Ok(block) => {
                self.block = block;
                true
            }
            Err(error) => {
                tracing::debug!(table = self.path, %error, "a chunk cannot be read");
                false
            }
        }
    }

    fn write(&mut self) -> Result<(), SessionFileError> {
        self.target.append(&self.block).map_err(failed_to("append to", &*self.path))
    }

    fn fill(&mut self, rows: usize) -> Result<(), SessionFileError> {
        let Some(filler) = self.filler else { return Ok(()) };
        self.block = vec![filler; rows * self.row_len];
        self.write()
    }

    fn finish(&mut self) -> Result<(), SessionFileError> {
        self.target.write_out().map_err(failed_to("write rows to", &*self.path))
    }

    fn rows(&self) -> u64 {
        self.target.rows()
    }
}
