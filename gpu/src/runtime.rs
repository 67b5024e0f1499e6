//! ONNX Runtime: where its library is looked for, and the one copy that this process loads.
//!
//! The library is opened at run time, so that a program without it still starts and can say what is
//! missing. Never downloads anything and never takes a library that was named but cannot be used
//! for an excuse to look elsewhere.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

/// Names one library file and rules out every other.
pub const LIBRARY_VARIABLE: &str = "YOUQUANTI_ONNXRUNTIME";

/// The same, as `ort` and programs built on it name it.
pub const ORT_VARIABLE: &str = "ORT_DYLIB_PATH";

const LIBRARY: &str = "libonnxruntime.so";

/// ONNX Runtime, loaded. Cheap to clone; the library stays loaded until the process ends.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: String,
}

impl Runtime {
    /// The file that was loaded; the bare library name when the system's loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sessions that compute on the thread that runs them, and on no other; `sizes` gives named dimensions of inputs and
    /// outputs their values, e.g. `("H", 384)`.
    pub(crate) fn one_thread(&self, sizes: &[(&str, i64)]) -> ort::Result<SessionBuilder> {
        let mut builder = SessionBuilder::new(&self.environment)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        for &(name, size) in sizes {
            builder = builder.with_dimension_override(name, size)?;
        }
        Ok(builder)
    }

    /// The folder of the library: where the runtime looks for its providers.
    #[cfg(feature = "cuda")]
    pub(crate) fn folder(&self) -> PathBuf {
        let loaded = if self.path.is_absolute() { None } else { mapped_library() };
        let file = loaded.unwrap_or_else(|| self.path.clone());
        let file = fs::canonicalize(&file).unwrap_or(file);
        file.parent().unwrap_or(Path::new("")).to_owned()
    }

    /// Its version, e.g. `1.32.0`; what it says of its build where the file's name has none.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("path", &self.path)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A place where the library was looked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// File or folder.
    pub place: PathBuf,
    /// Why it was looked at.
    pub because: &'static str,
    /// What was wrong with it.
    pub outcome: String,
}

/// Why ONNX Runtime is not available.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A variable names a file, and that file cannot be used.
    #[error("ONNX Runtime cannot be loaded from {}, which {variable} names: {reason}", path.display())]
    Named {
        /// [`LIBRARY_VARIABLE`] or [`ORT_VARIABLE`].
        variable: &'static str,
        /// What it names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is in none of the places where it is looked for.
    #[error("{}", not_found_text(.0))]
    NotFound(Vec<Tried>),
    /// The library was loaded but does not start.
    #[error("ONNX Runtime from {} does not start", path.display())]
    Start {
        /// The file that was loaded.
        path: PathBuf,
        /// Its own error.
        source: ort::Error,
    },
}

fn not_found_text(tried: &[Tried]) -> String {
    let mut text = format!(
        "ONNX Runtime ({LIBRARY}, 1.{} or newer) was not found: run `make setup`, or `pip install onnxruntime` \
         in a virtual environment that is active, or name the file in {LIBRARY_VARIABLE}; looked at",
        ort::MINOR_VERSION
    );
    for Tried { place, because, outcome } in tried {
        text.push_str(&format!("\n  {} ({because}): {outcome}", place.display()));
    }
    text
}

/// Loads ONNX Runtime, once in a process; later calls return the same.
///
/// Looked for in this order:
/// 1. the file named by `YOUQUANTI_ONNXRUNTIME`, else the one named by `ORT_DYLIB_PATH`: either rules out the rest;
/// 2. the executable's folder, and `../lib` from there;
/// 3. the Python environments `$VIRTUAL_ENV`, `.venv` of the current folder and of each above it, and
///    of each folder above the executable: the library inside the package `onnxruntime`;
/// 4. the system's loader.
///
/// # Errors
/// See [`RuntimeError`]. A failure is not remembered: a later call looks again.
pub fn load() -> Result<Runtime, RuntimeError> {
    static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        return Ok(runtime.clone());
    }
    let runtime = find(&Surroundings::of_this_process())?;
    tracing::info!(path = %runtime.path.display(), version = runtime.version, "loaded ONNX Runtime");
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

fn find(around: &Surroundings) -> Result<Runtime, RuntimeError> {
    if let Some((variable, path)) = around.named() {
        return match ort::init_from(&path) {
            Ok(builder) => start(builder, path),
            Err(error) => Err(RuntimeError::Named { variable, path, reason: error.to_string() }),
        };
    }
    let mut tried = Vec::new();
    for (folder, because) in around.folders() {
        let Some(file) = newest_library(&folder) else {
            tried.push(Tried { place: folder, because, outcome: "not there".to_owned() });
            continue;
        };
        match ort::init_from(&file) {
            Ok(builder) => return start(builder, file),
            Err(error) => tried.push(Tried { place: file, because, outcome: error.to_string() }),
        }
    }
    for name in [LIBRARY, "libonnxruntime.so.1"] {
        match ort::init_from(name) {
            Ok(builder) => return start(builder, PathBuf::from(name)),
            Err(error) => tried.push(Tried {
                place: PathBuf::from(name),
                because: "system's loader",
                outcome: error.to_string(),
            }),
        }
    }
    Err(RuntimeError::NotFound(tried))
}

fn start(builder: ort::environment::EnvironmentBuilder, path: PathBuf) -> Result<Runtime, RuntimeError> {
    match builder.with_name("youquanti").with_telemetry(false).build() {
        Ok(environment) => {
            environment.set_log_level(ort::logging::LogLevel::Error);
            let version = version_of(&path, ort::info());
            Ok(Runtime { environment, path, version })
        }
        Err(source) => Err(RuntimeError::Start { path, source }),
    }
}

/// The version in the file's name, `libonnxruntime.so.1.32.0`, links followed; where that has none, what the
/// library says of how it was built.
fn version_of(path: &Path, build_info: &str) -> String {
    let file = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.strip_prefix("libonnxruntime.so.") {
        Some(version) => version.to_owned(),
        None => build_info.to_owned(),
    }
}

/// What the search depends on, apart from the file system.
struct Surroundings {
    library: Option<OsString>,
    ort_library: Option<OsString>,
    virtual_env: Option<OsString>,
    executable: Option<PathBuf>,
    current_folder: Option<PathBuf>,
}

impl Surroundings {
    fn of_this_process() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            library: set(LIBRARY_VARIABLE),
            ort_library: set(ORT_VARIABLE),
            virtual_env: set("VIRTUAL_ENV"),
            executable: env::current_exe().ok(),
            current_folder: env::current_dir().ok(),
        }
    }

    fn named(&self) -> Option<(&'static str, PathBuf)> {
        let ours = self.library.as_ref().map(|file| (LIBRARY_VARIABLE, PathBuf::from(file)));
        ours.or_else(|| self.ort_library.as_ref().map(|file| (ORT_VARIABLE, PathBuf::from(file))))
    }

    /// Python environments that may hold the library, most wanted first, there or not.
    fn environments(&self) -> Vec<(PathBuf, &'static str)> {
        let executable_folder = self.executable.as_deref().and_then(Path::parent);
        let in_active = self.virtual_env.iter().map(|root| (PathBuf::from(root), "VIRTUAL_ENV"));
        let here = self.current_folder.iter().flat_map(|folder| folder.ancestors());
        let here = here.map(|folder| (folder.join(".venv"), "current folder and above"));
        let above = executable_folder.into_iter().flat_map(Path::ancestors);
        let above = above.map(|folder| (folder.join(".venv"), "above the executable"));
        in_active.chain(here).chain(above).collect()
    }

    /// Folders that may hold the library, most wanted first.
    fn folders(&self) -> Vec<(PathBuf, &'static str)> {
        let mut folders = Vec::new();
        let executable_folder = self.executable.as_deref().and_then(Path::parent);
        if let Some(folder) = executable_folder {
            folders.push((folder.to_owned(), "beside the executable"));
            folders.push((folder.join("../lib"), "beside the executable"));
        }
        for (at, (root, because)) in self.environments().into_iter().enumerate() {
            if root.is_dir() {
                for folder in
                    site_packages(&root).into_iter().map(|packages| packages.join("onnxruntime/capi"))
                {
                    if folders.iter().all(|(known, _)| *known != folder) {
                        folders.push((folder, because));
                    }
                }
            } else if at < 2 {
                folders.push((root, because));
            }
        }
        folders
    }
}

/// Python environments of this process that may hold libraries, most wanted first, there or not.
#[cfg(feature = "cuda")]
pub(crate) fn environments() -> Vec<(PathBuf, &'static str)> {
    Surroundings::of_this_process().environments()
}

/// The file that the system's loader took for a bare library name.
#[cfg(feature = "cuda")]
fn mapped_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let files = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    let mut libraries =
        files.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY)));
    libraries.next().map(Path::to_owned)
}

/// The packages of each Python version of an environment.
pub(crate) fn site_packages(environment: &Path) -> Vec<PathBuf> {
    let lib = environment.join("lib");
    let mut versions: Vec<PathBuf> = fs::read_dir(&lib)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .map(|python| python.join("site-packages"))
        .collect();
    versions.sort();
    if versions.is_empty() {
        versions.push(lib.join("python3/site-packages"));
    }
    versions
}

/// `libonnxruntime.so` or the highest `libonnxruntime.so.*` of a folder.
fn newest_library(folder: &Path) -> Option<PathBuf> {
    let version = |path: &Path| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?;
        let suffix = name.strip_prefix(LIBRARY)?;
        if suffix.is_empty() {
            return Some(Vec::new());
        }
        suffix.strip_prefix('.')?.split('.').map(|part| part.parse().ok()).collect()
    };
    fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((version(&path)?, path)))
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"not a library").unwrap();
    }

    fn surroundings(root: &Path) -> Surroundings {
        Surroundings {
            library: None,
            ort_library: None,
            virtual_env: None,
            executable: Some(root.join("target/release/program")),
            current_folder: Some(root.join("elsewhere")),
        }
    }

    #[test]
    fn a_named_file_rules_out_every_other() {
        let around = Surroundings {
            library: Some("/a.so".into()),
            ort_library: Some("/b.so".into()),
            ..surroundings(Path::new("/nowhere"))
        };
        assert_eq!(around.named(), Some((LIBRARY_VARIABLE, PathBuf::from("/a.so"))));
        let text = find(&around).unwrap_err().to_string();
        assert!(text.contains("/a.so") && text.contains(LIBRARY_VARIABLE), "{text}");
    }

    #[test]
    fn the_highest_version_of_a_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime_providers_shared.so",
            "x.so",
        ] {
            touch(&folder.path().join(name));
        }
        assert_eq!(newest_library(folder.path()), Some(folder.path().join("libonnxruntime.so.1.32.0")));
        assert_eq!(newest_library(Path::new("/does/not/exist")), None);
    }

    #[test]
    fn an_active_environment_comes_before_the_one_above_the_executable() {
        let root = tempfile::tempdir().unwrap();
        let capi = "lib/python3.11/site-packages/onnxruntime/capi";
        touch(&root.path().join("active").join(capi).join("libonnxruntime.so.1.30.0"));
        touch(&root.path().join(".venv").join(capi).join("libonnxruntime.so.1.31.0"));
        let around = Surroundings {
            virtual_env: Some(root.path().join("active").into_os_string()),
            ..surroundings(root.path())
        };
        let found: Vec<PathBuf> =
            around.folders().iter().filter_map(|(folder, _)| newest_library(folder)).collect();
        assert_eq!(
            found,
            [
                root.path().join("active").join(capi).join("libonnxruntime.so.1.30.0"),
                root.path().join(".venv").join(capi).join("libonnxruntime.so.1.31.0"),
            ]
        );
    }

    #[test]
    fn not_found_lists_every_place_and_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("target/release/libonnxruntime.so"));
        let error =
            find(&Surroundings { current_folder: Some(root.path().to_owned()), ..surroundings(root.path()) });
        // A machine whose own loader knows the library is no place to test its absence.
        let Err(RuntimeError::NotFound(tried)) = error else { return };
        let text = RuntimeError::NotFound(tried).to_string();
        for part in ["make setup", "target/release/libonnxruntime.so", "../lib", ".venv", "system's loader"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn the_version_is_in_the_name_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libonnxruntime.so.1.32.0");
        touch(&file);
        let link = folder.path().join("libonnxruntime.so");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(version_of(&file, "built somehow"), "1.32.0");
        assert_eq!(version_of(&link, "built somehow"), "1.32.0");
        assert_eq!(version_of(Path::new("libonnxruntime.so"), "built somehow"), "built somehow");
    }
}
