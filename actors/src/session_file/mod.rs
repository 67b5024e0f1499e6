//! The session file: everything a session found, in one HDF5 file that a stock reader opens.
//!
//! Owns the file's layout, its writer and its reader; synchronous, without threads and without a clock.
//! Never stores variable-length data (a killed writer leaves it unreadable), never overwrites a file, and
//! never rewrites a row: tables only grow, and the newest row of `/committed` says how far each is whole.

mod card;
mod disk;
mod inspect;
mod journal;
mod reader;
mod recover;
mod schema;
mod superblock;
mod table;
mod writer;

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use youquanti_models::ids::CameraId;

pub use card::{ValidityFigures, ValidityInspection};
pub(crate) use disk::free_bytes;
pub use disk::{bytes_per_second, network_file_system};
pub use inspect::{
    CameraInspection, GapInspection, Inspection, LatencyInspection, LedgerInspection, LikenessInspection,
    ModelInspection, ParticipantInspection, QualitySeries, StopInspection, SynchronyInspection,
};
pub use reader::{
    CameraFacts, HeaderFacts, Opened, ParticipantEntry, Recovered, SessionReader, SynchronyFacts, TextEntry,
};
pub use recover::{Recovery, TableRecovery, abandoned_files, recover, recovered_path};
pub use schema::{
    AskedMode, FLUSH_SOURCE, FORMAT, FaceRow, FrameRow, LATENCY_STAGES, LIKENESS_CHANNELS, LIKENESS_COLUMNS,
    NOT_RUN, PoseRow, ResultRow, VERSION, VideoRow, WindowRow, flush_item, ledger_item, quality_item,
    validity_item, validity_parts, validity_source,
};
pub use writer::{
    CameraHeader, Compression, FlushReport, Gap, Participant, SessionHeader, SessionOptions, SessionWriter,
    Summary,
};

/// Why a session file cannot be made, written or read. The variant says what may be done about it.
#[derive(Debug, thiserror::Error)]
pub enum SessionFileError {
    /// Choose another name; nothing was touched.
    #[error("session file {path} exists already and is never overwritten")]
    AlreadyExists {
        /// The existing file.
        path: PathBuf,
    },
    /// The folder is missing, read-only or not a folder.
    #[error("session file {path} cannot be created")]
    Create {
        /// The file that was asked for.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Free space ran out. What was appended before is in the file; call `finish` to close it.
    #[error(
        "disk of {path} is full: {free} bytes are free, recording needs {reserve} to spare; \
         free some space or record to another disk"
    )]
    DiskFull {
        /// The session file.
        path: PathBuf,
        /// Bytes that were free when the check failed.
        free: u64,
        /// Bytes that must stay free while recording.
        reserve: u64,
    },
    /// Free space cannot be asked for.
    #[error("free space beside {path} cannot be read")]
    FreeSpace {
        /// The session file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The folder is on another machine.
    #[error(
        "session file {path} would be on a network file system ({kind}), which does not keep the order of writes; \
         record to a local disk and copy the file afterwards"
    )]
    NetworkFileSystem {
        /// The file that was asked for.
        path: PathBuf,
        /// Which kind.
        kind: String,
    },
    /// The disk did not take what was written. What an earlier flush made safe is safe.
    #[error("session file {path} cannot be made safe on its disk")]
    Sync {
        /// The session file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Somebody removed the file or its folder; `finish` writes it again.
    #[error("session file {path} was removed while it was being written")]
    Removed {
        /// The session file.
        path: PathBuf,
    },
    /// An earlier write failed; the writer takes no more rows.
    #[error("session file {path} takes no rows after a failed write")]
    Broken {
        /// The session file.
        path: PathBuf,
    },
    /// A call of the HDF5 library failed.
    #[error("cannot {action} {object} of the session file")]
    Hdf5 {
        /// What was attempted.
        action: &'static str,
        /// The file, group, table or attribute.
        object: String,
        /// HDF5's own error.
        source: hdf5::Error,
    },
    /// A text of the header is not the JSON it should be.
    #[error("cannot {action} attribute {attribute} of the session file as JSON")]
    Json {
        /// What was attempted.
        action: &'static str,
        /// The attribute.
        attribute: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A text of the header is longer than an attribute can hold.
    #[error("attribute {attribute} has {bytes} bytes, at most {limit} fit into the session file")]
    HeaderTooLong {
        /// The attribute.
        attribute: String,
        /// Its length.
        bytes: usize,
        /// The longest possible.
        limit: usize,
    },
    /// A row names a camera that the header does not have.
    #[error("camera {camera} is not in the session file's header")]
    UnknownCamera {
        /// The camera of the row.
        camera: CameraId,
    },
    /// Rows of a table that was not asked for when the file was made.
    #[error("table {table} was not asked for when the session file was made")]
    NotAsked {
        /// Which table.
        table: &'static str,
    },
    /// Faces and the participants they belong to must come in the same number.
    #[error("{faces} faces came with {participants} participants")]
    ParticipantCount {
        /// Faces of the frame.
        faces: usize,
        /// Participants given for them.
        participants: usize,
    },
    /// The file is missing or may not be read.
    #[error("session file {path} cannot be read")]
    Unreadable {
        /// The file that was asked for.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is no HDF5 file, or a broken one.
    #[error("{path} cannot be opened as an HDF5 file")]
    Open {
        /// The file that was asked for.
        path: PathBuf,
        /// HDF5's own error.
        source: hdf5::Error,
    },
    /// It is an HDF5 file, but not one of this format or version.
    #[error("{path} is not a session file: {reason}")]
    NotASession {
        /// The file that was asked for.
        path: PathBuf,
        /// What is missing or different.
        reason: String,
    },
    /// A table is shorter than it was committed: the file was cut or changed.
    #[error("{path} is damaged: {table} has {found} rows, {committed} were committed")]
    Damaged {
        /// The file that was asked for.
        path: PathBuf,
        /// The table.
        table: String,
        /// Rows there should be.
        committed: u64,
        /// Rows there are.
        found: u64,
    },
    /// Somebody writes or reads it now.
    #[error("{path} is in use: wait until whoever writes or reads it has closed it")]
    InUse {
        /// The file that was asked for.
        path: PathBuf,
    },
    /// Whoever asked for it broke it off.
    #[error("interrupted: nothing was left behind")]
    Interrupted,
    /// Rows beyond the committed ones were asked for.
    #[error("rows {}..{} of {table} were asked for, {committed} are committed", asked.start, asked.end)]
    OutOfRange {
        /// The table.
        table: String,
        /// The rows that were asked for.
        asked: Range<u64>,
        /// The rows there are.
        committed: u64,
    },
}

/// Gives an HDF5 error its place: what was attempted with which object.
fn failed_to(
    action: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(hdf5::Error) -> SessionFileError {
    move |source| SessionFileError::Hdf5 { action, object: object.into(), source }
}
