//! Where liblsl is looked for, and the one copy that this process loads.
//!
//! Never downloads anything, and never takes a library that was named but cannot be used for an excuse to look elsewhere.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::raw::Api;

/// Names one library file and rules out every other.
pub const LIBRARY_VARIABLE: &str = "YOUQUANTI_LIBLSL";

/// Names of the library, most wanted first.
const NAMES: [&str; 2] = ["liblsl.so", "liblsl.so.2"];

/// The oldest version that is used: what came before has no `lsl_create_outlet_ex`.
const OLDEST: i32 = 115;

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

/// Why liblsl is not available.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// [`LIBRARY_VARIABLE`] names a file, and that file cannot be used.
    #[error("liblsl cannot be loaded from {}, which {LIBRARY_VARIABLE} names: {reason}", path.display())]
    Named {
        /// What it names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is in none of the places where it is looked for.
    #[error("{}", not_found_text(.0))]
    NotFound(Vec<Tried>),
}

fn not_found_text(tried: &[Tried]) -> String {
    let mut text = format!(
        "liblsl 1.15 or newer was not found: run `make setup`, or `pip install pylsl` in a virtual environment that \
         is active, or name the file in {LIBRARY_VARIABLE}; looked at"
    );
    for Tried { place, because, outcome } in tried {
        text.push_str(&format!("\n  {} ({because}): {outcome}", place.display()));
    }
    text
}

/// The library as it was loaded.
pub(crate) struct Loaded {
    pub(crate) api: Api,
    /// The bare library name when the system's loader found it.
    pub(crate) path: PathBuf,
}

/// Loads liblsl, once in a process; later calls return the same. A failure is not remembered.
pub(crate) fn load() -> Result<&'static Loaded, LoadError> {
    static LOADED: Mutex<Option<&'static Loaded>> = Mutex::new(None);

    let mut place = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = *place {
        return Ok(loaded);
    }
    let loaded: &'static Loaded = Box::leak(Box::new(find(&Surroundings::of_this_process())?));
    *place = Some(loaded);
    Ok(loaded)
}

fn find(around: &Surroundings) -> Result<Loaded, LoadError> {
    if let Some(path) = around.library.clone().map(PathBuf::from) {
        return open(path.clone()).map_err(|reason| LoadError::Named { path, reason });
    }
    let mut tried = Vec::new();
    for (folder, because) in around.folders() {
        let Some(file) = NAMES.iter().map(|name| folder.join(name)).find(|file| file.exists()) else {
            tried.push(Tried { place: folder, because, outcome: "not there".to_owned() });
            continue;
        };
        match open(file.clone()) {
            Ok(loaded) => return Ok(loaded),
            Err(outcome) => tried.push(Tried { place: file, because, outcome }),
        }
    }
    for name in NAMES {
        match open(PathBuf::from(name)) {
            Ok(loaded) => return Ok(loaded),
            Err(outcome) => {
                tried.push(Tried { place: PathBuf::from(name), because: "system's loader", outcome });
            }
        }
    }
    Err(LoadError::NotFound(tried))
}

fn open(path: PathBuf) -> Result<Loaded, String> {
    let api = Api::open(&path).map_err(|error| error.to_string())?;
    match crate::version_of(&api) {
        version if version < OLDEST => {
            Err(format!("is version {}.{}, too old", version / 100, version % 100))
        }
        _ => Ok(Loaded { api, path }),
    }
}

/// What the search depends on, apart from the file system.
struct Surroundings {
    library: Option<OsString>,
    virtual_env: Option<OsString>,
    executable: Option<PathBuf>,
    current_folder: Option<PathBuf>,
}

impl Surroundings {
    fn of_this_process() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            library: set(LIBRARY_VARIABLE),
            virtual_env: set("VIRTUAL_ENV"),
            executable: env::current_exe().ok(),
            current_folder: env::current_dir().ok(),
        }
    }

    /// Folders that may hold the library, most wanted first. Of Python environments that are not there only the most
    /// wanted are listed, as an answer to who wonders.
    fn folders(&self) -> Vec<(PathBuf, &'static str)> {
        let mut folders = Vec::new();
        let executable_folder = self.executable.as_deref().and_then(Path::parent);
        if let Some(folder) = executable_folder {
            folders.push((folder.to_owned(), "beside the executable"));
            folders.push((folder.join("../lib"), "beside the executable"));
        }
        let active = self.virtual_env.iter().map(|root| (PathBuf::from(root), "VIRTUAL_ENV"));
        let above = |folder: Option<&Path>| -> Vec<PathBuf> {
            folder.iter().flat_map(|folder| folder.ancestors()).map(|at| at.join(".venv")).collect()
        };
        let here = above(self.current_folder.as_deref()).into_iter();
        let beside = above(executable_folder).into_iter();
        let environments = active
            .chain(here.map(|root| (root, "current folder and above")))
            .chain(beside.map(|root| (root, "above the executable")));
        for (at, (root, because)) in environments.enumerate() {
            let found = packages(&root);
            let places = if found.is_empty() && at < 2 { vec![root] } else { found };
            for place in places {
                if folders.iter().all(|(known, _)| *known != place) {
                    folders.push((place, because));
                }
            }
        }
        folders
    }
}

/// The folders of `pylsl`'s library in a Python environment, one for each version of Python.
fn packages(environment: &Path) -> Vec<PathBuf> {
    let pythons = fs::read_dir(environment.join("lib")).into_iter().flatten();
    let mut folders: Vec<PathBuf> = pythons
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .map(|python| python.join("site-packages/pylsl/lib"))
        .collect();
    folders.sort();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(root: &Path) -> Surroundings {
        Surroundings {
            library: None,
            virtual_env: None,
            executable: Some(root.join("target/release/program")),
            current_folder: Some(root.join("elsewhere")),
        }
    }

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"not a library").unwrap();
    }

    #[test]
    fn a_named_file_rules_out_every_other() {
        let around = Surroundings { library: Some("/a.so".into()), ..surroundings(Path::new("/nowhere")) };
        let text = find(&around).err().unwrap().to_string();
        assert!(text.contains("/a.so") && text.contains(LIBRARY_VARIABLE), "{text}");
    }

    #[test]
    fn an_active_environment_comes_before_the_one_above_the_executable() {
        let root = tempfile::tempdir().unwrap();
        let library = "lib/python3.11/site-packages/pylsl/lib";
        for environment in ["active", ".venv"] {
            touch(&root.path().join(environment).join(library).join("liblsl.so"));
        }
        let active = root.path().join("active");
        let around = Surroundings { virtual_env: Some(active.clone().into()), ..surroundings(root.path()) };
        let folders: Vec<_> = around.folders().into_iter().map(|(folder, _)| folder).collect();
        let place = |environment: PathBuf| {
            folders.iter().position(|folder| *folder == environment.join(library)).unwrap()
        };
        assert!(place(active) < place(root.path().join(".venv")), "{folders:?}");
    }

    #[test]
    fn not_found_lists_every_place_and_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("target/release/liblsl.so"));
        // A machine whose own loader knows the library is no place to test its absence.
        let Err(error) = find(&surroundings(root.path())) else { return };
        let text = error.to_string();
        for part in [
            "make setup",
            "pip install pylsl",
            "target/release/liblsl.so",
            "../lib",
            ".venv",
            "system's loader",
        ] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}
