//! Libraries of NVIDIA's that come with CUDA, opened at run time: where they are looked for, and what is said where they are
//! not.
//!
//! A library that was named but cannot be used is no excuse to look elsewhere. Never downloads anything and never touches a
//! device.

#![allow(unsafe_code, reason = "libraries are opened at run time")]

use std::env;
use std::path::{Path, PathBuf};

use libloading::Library;

use super::device::DriverVersion;
use crate::runtime::{self, Tried};

/// Major versions that are looked for, the newest first.
const MAJORS: [u32; 2] = [13, 12];

/// A library that comes with CUDA, and has the major version of CUDA in its file's name.
///
/// Looked for in this order, versions newer than the driver's left out because it could not run their programs:
/// 1. the file named by the library's variable, which rules out the rest;
/// 2. the system's loader;
/// 3. `$CUDA_HOME`, `$CUDA_PATH`, `/usr/local/cuda`;
/// 4. NVIDIA's packages in the Python environments in which ONNX Runtime is looked for.
#[derive(Debug)]
pub struct CudaLibrary {
    /// What it is called, `NVRTC`.
    pub name: &'static str,
    /// What it is, for people.
    pub purpose: &'static str,
    /// Its file without the version, `libnvrtc.so`.
    pub file: &'static str,
    /// Names one file of it and rules out every other.
    pub variable: &'static str,
    /// The Python package that holds it for CUDA 13; the one for CUDA 12 has `-cu12` behind its name.
    pub package: &'static str,
    /// The folder of the Python package for CUDA 12, inside `nvidia`.
    pub folder: &'static str,
}

/// Why a library is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The library's variable names a file, and that file cannot be used.
    #[error("{} cannot be loaded from {}, which {} names: {reason}", library.name, path.display(), library.variable)]
    Named {
        /// Which.
        library: &'static CudaLibrary,
        /// What the variable names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is in none of the places where it is looked for.
    #[error("{}", not_found_text(library, *driver, tried))]
    NotFound {
        /// Which.
        library: &'static CudaLibrary,
        /// The driver's version, which the library's must not exceed.
        driver: DriverVersion,
        /// Where it was looked for.
        tried: Vec<Tried>,
    },
}

fn not_found_text(library: &CudaLibrary, driver: DriverVersion, tried: &[Tried]) -> String {
    let CudaLibrary { name, purpose, file, variable, package, .. } = library;
    let major = driver.major.min(MAJORS[0]);
    let suffix = if major == 12 { "-cu12" } else { "" };
    let mut text = format!(
        "{name}, {purpose} ({file}.{major} for this driver, CUDA {driver}), was not found: `pip install \
         {package}{suffix}` in a virtual environment that is active, or install the CUDA toolkit, or name the file in \
         {variable}; looked at"
    );
    for Tried { place, because, outcome } in tried {
        text.push_str(&format!("\n  {} ({because}): {outcome}", place.display()));
    }
    text
}

impl CudaLibrary {
    /// Gives what `open` makes of the first file that it takes; it says what is wrong with the others.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub(crate) fn find<T>(
        &'static self,
        driver: DriverVersion,
        open: impl Fn(&Path) -> Result<T, String>,
    ) -> Result<T, LibraryError> {
        let named = env::var_os(self.variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.find_in(named, driver, &self.folders(), open)
    }

    fn find_in<T>(
        &'static self,
        named: Option<PathBuf>,
        driver: DriverVersion,
        folders: &[(PathBuf, &'static str)],
        open: impl Fn(&Path) -> Result<T, String>,
    ) -> Result<T, LibraryError> {
        if let Some(path) = named {
            return open(&path).map_err(|reason| LibraryError::Named { library: self, path, reason });
        }
        let majors = MAJORS.iter().filter(|&&major| major <= driver.major);
        let names: Vec<_> = majors.map(|major| format!("{}.{major}", self.file)).collect();
        let by_loader = names.iter().map(|name| (PathBuf::from(name), "system's loader"));
        let in_folders = folders.iter().flat_map(|(folder, because)| {
            let files = names.iter().map(|name| folder.join(name)).filter(|file| file.exists());
            files.map(|file| (file, *because))
        });
        let mut tried = Vec::new();
        for (place, because) in by_loader.chain(in_folders) {
            match open(&place) {
                Ok(opened) => return Ok(opened),
                Err(outcome) => tried.push(Tried { place, because, outcome }),
            }
        }
        for (folder, because) in folders {
            if !tried.iter().any(|tried| tried.place.starts_with(folder)) {
                tried.push(Tried { place: folder.clone(), because, outcome: "not there".to_owned() });
            }
        }
        Err(LibraryError::NotFound { library: self, driver, tried })
    }

    /// Folders that may hold it, most wanted first, and why.
    fn folders(&self) -> Vec<(PathBuf, &'static str)> {
        let mut folders = Vec::new();
        for variable in ["CUDA_HOME", "CUDA_PATH"] {
            if let Some(root) = env::var_os(variable).filter(|root| !root.is_empty()) {
                folders.push((PathBuf::from(root).join("lib64"), variable));
            }
        }
        folders.push((PathBuf::from("/usr/local/cuda/lib64"), "CUDA toolkit"));
        for (root, because) in runtime::environments().into_iter().filter(|(root, _)| root.is_dir()) {
            folders.extend(self.package_folders(&root).into_iter().map(|folder| (folder, because)));
        }
        folders
    }

    /// Where NVIDIA's packages in a Python environment hold it.
    fn package_folders(&self, environment: &Path) -> Vec<PathBuf> {
        let packages =
            runtime::site_packages(environment).into_iter().map(|packages| packages.join("nvidia"));
        packages.flat_map(|nvidia| [nvidia.join("cu13/lib"), nvidia.join(self.folder).join("lib")]).collect()
    }
}

/// A library of C functions. It stays loaded until the process ends.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    name: &'static str,
    library: &'static Library,
}

impl Functions {
    /// Opens the file, which should be the library of that name. The error says what is wrong.
    pub(crate) fn open(name: &'static str, path: &Path) -> Result<Self, String> {
        // SAFETY: the initialisers of NVIDIA's libraries do nothing that a program may not do.
        let library = unsafe { Library::new(path) }.map_err(|error| loader_text(&error))?;
        Ok(Self { name, library: Box::leak(Box::new(library)) })
    }

    /// A function by its name.
    ///
    /// # Safety
    /// `T` is the function's type, or is not called as anything else.
    pub(crate) unsafe fn get<T: Copy>(&self, function: &str) -> Result<T, String> {
        // SAFETY: the type is the caller's promise.
        let found = unsafe { self.library.get::<T>(function.as_bytes()) };
        found.map(|function| *function).map_err(|_| format!("it is not {}: it has no {function}", self.name))
    }
}

/// What the system's loader says, which the error itself keeps to its cause.
pub(crate) fn loader_text(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    static LIBRARY: CudaLibrary = CudaLibrary {
        name: "libtest",
        purpose: "a library for tests",
        file: "libyouquanti-test.so",
        variable: "YOUQUANTI_NO_SUCH_LIBRARY",
        package: "nvidia-test",
        folder: "test",
    };

    fn driver(major: u32) -> DriverVersion {
        DriverVersion { major, minor: 4 }
    }

    /// Takes files that say so.
    fn open(path: &Path) -> Result<PathBuf, String> {
        match fs::read(path).map_err(|error| error.to_string())?.as_slice() {
            b"good" => Ok(path.to_owned()),
            _ => Err("it is no good".to_owned()),
        }
    }

    fn put(folder: &Path, file: &str, text: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(file), text).unwrap();
        folder.join(file)
    }

    #[test]
    fn a_named_file_rules_out_every_other_and_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let good = put(folder.path(), "libyouquanti-test.so.12", "good");
        let folders = [(folder.path().to_owned(), "test")];
        assert_eq!(LIBRARY.find_in(Some(good.clone()), driver(12), &[], open).unwrap(), good);
        let error = LIBRARY.find_in(Some("/nowhere/lib.so".into()), driver(12), &folders, open).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nowhere/lib.so") && text.contains(LIBRARY.variable), "{text}");
    }

    #[test]
    fn it_is_found_in_the_folders_of_nvidias_packages() {
        let environment = tempfile::tempdir().unwrap();
        let nvidia = environment.path().join("lib/python3.12/site-packages/nvidia");
        fs::create_dir_all(&nvidia).unwrap();
        let folders =
            || LIBRARY.package_folders(environment.path()).into_iter().map(|folder| (folder, "test"));
        let find = |major| LIBRARY.find_in(None, driver(major), &folders().collect::<Vec<_>>(), open);
        let LibraryError::NotFound { tried, .. } = find(13).unwrap_err() else { panic!("nothing is named") };
        let places: Vec<_> = tried.iter().map(|tried| tried.place.clone()).collect();
        for folder in ["cu13/lib", "test/lib"] {
            assert!(places.contains(&nvidia.join(folder)), "{places:?}");
        }
        let of_12 = put(&nvidia.join("test/lib"), "libyouquanti-test.so.12", "good");
        assert_eq!(find(13).unwrap(), of_12);
        let of_13 = put(&nvidia.join("cu13/lib"), "libyouquanti-test.so.13", "good");
        assert_eq!(find(13).unwrap(), of_13);
        assert_eq!(find(12).unwrap(), of_12, "a driver for CUDA 12 cannot run programs for 13");
        put(&nvidia.join("cu13/lib"), "libyouquanti-test.so.13", "damaged");
        assert_eq!(find(13).unwrap(), of_12);
    }

    #[test]
    fn every_place_is_named_and_none_newer_than_the_driver_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "libyouquanti-test.so.13", "damaged");
        put(folder.path(), "libyouquanti-test.so.12", "damaged");
        let folders = [(folder.path().to_owned(), "test"), (folder.path().join("none"), "test")];
        let text = LIBRARY.find_in(None, driver(12), &folders, open).unwrap_err().to_string();
        for part in
            ["libyouquanti-test.so.12 (test): it is no good", "none (test): not there", "system's loader"]
        {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        assert!(text.contains("nvidia-test-cu12") && !text.contains(".so.13"), "{text}");
        let text = LIBRARY.find_in(None, driver(14), &folders, open).unwrap_err().to_string();
        assert!(text.contains("nvidia-test`") && text.contains("libyouquanti-test.so.13 (test)"), "{text}");
    }

    #[test]
    fn a_file_that_is_another_library_says_what_it_lacks() {
        let maths = Functions::open("libtest", Path::new("libm.so.6")).unwrap();
        // SAFETY: it is not called.
        assert!(unsafe { maths.get::<*const ()>("cos") }.is_ok());
        // SAFETY: it is not called.
        let error = unsafe { maths.get::<*const ()>("nvrtcCreateProgram") }.unwrap_err();
        assert_eq!(error, "it is not libtest: it has no nvrtcCreateProgram");
        assert!(Functions::open("libtest", Path::new("/nowhere/lib.so")).is_err());
    }
}
