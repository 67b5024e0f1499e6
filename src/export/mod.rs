//! Exports: a session file in the forms that analysis programs read. Made from the file alone, and never written to it.
//!
//! Owns what the exports have in common: which files there will be, that none is written over without leave, and that a file has
//! its name only once it is whole.

mod csv;
mod nwb;
mod parquet;
mod tables;
mod walk;
mod xdf;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use youquanti_actors::session_file::{Inspection, SessionFileError, SessionReader};

use walk::Progress;

/// What a session becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Neurodata Without Borders: a file for each participant.
    Nwb,
    /// Extensible Data Format: the streams as LabRecorder would have recorded them.
    Xdf,
    /// A folder of tidy tables.
    Csv,
    /// The same tables, for pandas, R, Polars and DuckDB.
    Parquet,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// In which form.
    pub form: Form,
    /// The folder, which is made if need be; without it that of the session file.
    pub out: Option<PathBuf>,
    /// Write over files that are there.
    pub force: bool,
    /// With the 478 landmarks of each face, which are nine tenths of the data.
    pub landmarks: bool,
}

/// A file that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Where.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Rows of each table, series or stream in it, by name.
    pub rows: Vec<(String, u64)>,
}

/// Why an export failed. Files that were made before stay.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The session file cannot be read.
    #[error(transparent)]
    Session(#[from] SessionFileError),
    /// Nothing was written: `--force` writes over it.
    #[error("{path} exists already; `--force` writes over it")]
    Exists {
        /// The first of them.
        path: PathBuf,
    },
    /// There is nothing that a file of this form could be about.
    #[error("nobody was seen in {path}, and a file of NWB is about somebody: export csv, parquet or xdf")]
    Nobody {
        /// The session file.
        path: PathBuf,
    },
    /// A file or folder cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file of HDF5 cannot be written.
    #[error("cannot {action} {object} of the NWB file")]
    Hdf5 {
        /// What was attempted.
        action: &'static str,
        /// The group, dataset or attribute.
        object: String,
        /// HDF5's own error.
        source: hdf5::Error,
    },
    /// A file of Parquet cannot be written.
    #[error("Parquet file {path} cannot be written")]
    Parquet {
        /// Which.
        path: PathBuf,
        /// What the library says.
        source: ::parquet::errors::ParquetError,
    },
}

/// Exports a session; `progress` is told the share that is done, 0 to 1, many times a second.
///
/// # Errors
/// All of [`ExportError`].
pub fn export(
    reader: &SessionReader,
    request: &Request,
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<ExportedFile>, ExportError> {
    let inspection = reader.inspect(0)?;
    let source = Source { reader, inspection: &inspection, landmarks: request.landmarks };
    let session = reader.path();
    let folder = request.out.clone().unwrap_or_else(|| session.parent().unwrap_or(Path::new("")).to_owned());
    let stem = session.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let targets = Targets { folder, stem, force: request.force };
    let mut progress = Progress::new(source.rows(request.form), progress);
    match request.form {
        Form::Csv => csv::export(&source, &targets, &mut progress),
        Form::Parquet => parquet::export(&source, &targets, &mut progress),
        Form::Xdf => xdf::export(&source, &targets, &mut progress),
        Form::Nwb => nwb::export(&source, &targets, &mut progress),
    }
}

/// What is exported.
struct Source<'a> {
    reader: &'a SessionReader,
    inspection: &'a Inspection,
    landmarks: bool,
}

impl Source<'_> {
    /// Seconds since the session's start.
    fn seconds(&self, time_ns: u64) -> f64 {
        time_ns.wrapping_sub(self.reader.header().clock_start_ns).cast_signed() as f64 / 1e9
    }

    /// Rows of large tables that will be read.
    fn rows(&self, form: Form) -> u64 {
        let cameras = 0..self.reader.cameras().len();
        let faces: u64 = cameras.clone().map(|camera| self.reader.face_count(camera)).sum();
        let frames: u64 = cameras.clone().map(|camera| self.reader.frame_count(camera)).sum();
        let results: u64 = cameras.map(|camera| self.reader.result_count(camera)).sum();
        match form {
            Form::Csv | Form::Parquet => faces * (3 + u64::from(self.landmarks)) + frames + results,
            Form::Xdf => frames + results * self.inspection.participants.len() as u64,
            Form::Nwb => results * self.inspection.participants.len() as u64,
        }
    }
}

/// Where files go.
struct Targets {
    folder: PathBuf,
    /// Name of the session file without its ending.
    stem: String,
    force: bool,
}

impl Targets {
    /// Files of these names, none of which may be there unless they may be written over; their folder is made.
    fn claim(&self, names: &[String]) -> Result<Vec<Target>, ExportError> {
        let paths: Vec<_> = names.iter().map(|name| self.folder.join(name)).collect();
        if let Some(path) = paths.iter().find(|path| !self.force && path.exists()) {
            return Err(ExportError::Exists { path: path.clone() });
        }
        paths
            .into_iter()
            .map(|path| {
                let folder = path.parent().unwrap_or(Path::new(""));
                fs::create_dir_all(folder)
                    .map_err(|source| ExportError::Write { path: folder.to_owned(), source })?;
                Ok(Target::new(path))
            })
            .collect()
    }
}

/// A file to be made: it has another name until it is whole.
struct Target {
    path: PathBuf,
    unfinished: PathBuf,
}

impl Target {
    fn new(path: PathBuf) -> Self {
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".part");
        Self { path, unfinished: unfinished.into() }
    }

    fn create(&self) -> Result<fs::File, ExportError> {
        fs::File::create(&self.unfinished).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> ExportError {
        ExportError::Write { path: self.path.clone(), source }
    }

    /// The file is whole and gets its name.
    fn finish(self, rows: Vec<(String, u64)>) -> Result<ExportedFile, ExportError> {
        fs::rename(&self.unfinished, &self.path).map_err(|source| self.failed(source))?;
        let bytes = fs::metadata(&self.path).map_err(|source| self.failed(source))?.len();
        Ok(ExportedFile { path: self.path.clone(), bytes, rows })
    }
}

impl Drop for Target {
    /// What was not finished is of no use to anybody; after `finish` there is nothing of that name.
    fn drop(&mut self) {
        fs::remove_file(&self.unfinished).ok();
    }
}
