//! From the kernels' sources to a program for one GPU, by NVIDIA's compiler library, NVRTC, kept on disk between starts.
//!
//! Owns the search for NVRTC and the cache, `$XDG_CACHE_HOME/youquanti/kernels`. A cache that cannot be used costs time and is
//! said once; it never keeps anything from working. Never touches a device.

#![allow(unsafe_code, reason = "the compiler is C, opened at run time")]

use std::env;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;
use sha2::{Digest, Sha256};

use super::device::DriverVersion;
use crate::runtime::{self, Tried};

/// Names one file of NVRTC and rules out every other.
pub const NVRTC_VARIABLE: &str = "YOUQUANTI_NVRTC";

/// Major versions of NVRTC that are looked for, the newest first.
const MAJORS: [u32; 2] = [13, 12];

/// The program: these files as one text, in this order.
const SOURCES: [(&str, &str); 6] = [
    ("types.cu", include_str!("../../kernels/types.cu")),
    ("colour.cu", include_str!("../../kernels/colour.cu")),
    ("crop.cu", include_str!("../../kernels/crop.cu")),
    ("shrink.cu", include_str!("../../kernels/shrink.cu")),
    ("detect.cu", include_str!("../../kernels/detect.cu")),
    ("faces.cu", include_str!("../../kernels/faces.cu")),
];

/// Without contraction, so that the kernels round as their twins on the processor do; line numbers for profilers.
const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "-lineinfo"];

/// First bytes of a file of the cache.
const MAGIC: [u8; 8] = *b"YQCUBIN1";

/// Why there are no kernels.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// [`NVRTC_VARIABLE`] names a file, and that file cannot be used.
    #[error("NVRTC cannot be loaded from {}, which {NVRTC_VARIABLE} names: {reason}", path.display())]
    Named {
        /// What it names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// NVRTC is in none of the places where it is looked for.
    #[error("{}", not_found_text(*driver, tried))]
    NotFound {
        /// The driver's version, which NVRTC's must not exceed.
        driver: DriverVersion,
        /// Where it was looked for.
        tried: Vec<Tried>,
    },
    /// The compiler refuses the program.
    #[error("NVRTC {version} ({}) cannot compile the kernels for {architecture} ({reason}):\n{log}", path.display())]
    Refused {
        /// Its version.
        version: String,
        /// Its file.
        path: PathBuf,
        /// What was asked for, `sm_90`.
        architecture: String,
        /// Its error.
        reason: String,
        /// What it printed.
        log: String,
    },
}

fn not_found_text(driver: DriverVersion, tried: &[Tried]) -> String {
    let major = driver.major.min(MAJORS[0]);
    let package = if major == 12 { "nvidia-cuda-nvrtc-cu12" } else { "nvidia-cuda-nvrtc" };
    let mut text = format!(
        "NVRTC, the compiler of GPU kernels (libnvrtc.so.{major} for this driver, CUDA {driver}), was not found: \
         `pip install {package}` in a virtual environment that is active, or install the CUDA toolkit, or name the \
         file in {NVRTC_VARIABLE}; looked at"
    );
    for Tried { place, because, outcome } in tried {
        text.push_str(&format!("\n  {} ({because}): {outcome}", place.display()));
    }
    text
}

/// What the system's loader says, which the error itself keeps to its cause.
pub(crate) fn loader_text(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Opaque.
type Program = *mut c_void;

/// The compiler, loaded. The library stays loaded until the process ends.
#[derive(Clone)]
pub struct Nvrtc {
    path: PathBuf,
    version: (u32, u32),
    calls: Calls,
}

/// Functions of the library. Each gives 0 or an error.
#[derive(Clone, Copy)]
struct Calls {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

impl Nvrtc {
    /// Loads the compiler, once in a process; later calls return the same.
    ///
    /// Looked for in this order, versions newer than the driver's left out because it could not load their programs:
    /// 1. the file named by `YOUQUANTI_NVRTC`, which rules out the rest;
    /// 2. the system's loader;
    /// 3. `$CUDA_HOME`, `$CUDA_PATH`, `/usr/local/cuda`;
    /// 4. NVIDIA's packages in the Python environments in which ONNX Runtime is looked for.
    ///
    /// # Errors
    /// [`CompileError::Named`] and [`CompileError::NotFound`]. A failure is not remembered.
    pub fn load(driver: DriverVersion) -> Result<Self, CompileError> {
        static LOADED: Mutex<Option<Nvrtc>> = Mutex::new(None);

        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nvrtc) = &*loaded {
            return Ok(nvrtc.clone());
        }
        let named = env::var_os(NVRTC_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let nvrtc = find(named, driver, &folders())?;
        tracing::info!(path = %nvrtc.path.display(), version = nvrtc.version(), "loaded NVRTC");
        *loaded = Some(nvrtc.clone());
        Ok(nvrtc)
    }

    /// The file that was loaded; the bare library name when the system's loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, `13.0`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: NVRTC's initialisers do nothing that a program may not do.
        let library = unsafe { Library::new(path) }.map_err(|error| loader_text(&error))?;
        // For good: functions of it are kept.
        let library: &'static Library = Box::leak(Box::new(library));
        /// A function by its name, whose type the caller knows from NVRTC's header.
        unsafe fn function<T: Copy>(library: &'static Library, name: &str) -> Result<T, String> {
            // SAFETY: the type is the caller's promise.
            let found = unsafe { library.get::<T>(name.as_bytes()) };
            found.map(|function| *function).map_err(|_| format!("it is not NVRTC: it has no {name}"))
        }
        // SAFETY: the types are those of NVRTC's header, unchanged since CUDA 11.1.
        let calls = unsafe {
            Calls {
                create: function(library, "nvrtcCreateProgram")?,
                compile: function(library, "nvrtcCompileProgram")?,
                cubin_size: function(library, "nvrtcGetCUBINSize")?,
                cubin: function(library, "nvrtcGetCUBIN")?,
                log_size: function(library, "nvrtcGetProgramLogSize")?,
                log: function(library, "nvrtcGetProgramLog")?,
                destroy: function(library, "nvrtcDestroyProgram")?,
            }
        };
        // SAFETY: as above.
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
            unsafe { function(library, "nvrtcVersion") }?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are to integers.
        match unsafe { version(&raw mut major, &raw mut minor) } {
            0 => Ok(Self {
                path: path.to_owned(),
                version: (major.unsigned_abs(), minor.unsigned_abs()),
                calls,
            }),
            error => Err(format!("nvrtcVersion: {}", error_text(error))),
        }
    }

    /// The kernels for an architecture, `sm_90`: from the cache if they are there, else compiled (seconds) and kept.
    ///
    /// # Errors
    /// [`CompileError::Refused`].
    pub fn kernels(&self, architecture: &str) -> Result<Cubin, CompileError> {
        let text = SOURCES.map(|(name, text)| format!("#line 1 \"{name}\"\n{text}")).concat();
        self.cached(&Cache::of_this_user(), &text, architecture)
    }

    fn cached(&self, cache: &Cache, text: &str, architecture: &str) -> Result<Cubin, CompileError> {
        let key = Key::new([&OPTIONS.concat(), &self.version(), architecture, text]);
        if let Some(cubin) = cache.get(&key) {
            return Ok(cubin);
        }
        let cubin = self.compile(text, architecture)?;
        cache.put(&key, &cubin);
        Ok(cubin)
    }

    /// Compiles a text of CUDA C for an architecture.
    ///
    /// # Errors
    /// [`CompileError::Refused`].
    pub fn compile(&self, text: &str, architecture: &str) -> Result<Cubin, CompileError> {
        self.try_compile(text, architecture).map_err(|(reason, log)| CompileError::Refused {
            version: self.version(),
            path: self.path.clone(),
            architecture: architecture.to_owned(),
            reason,
            log,
        })
    }

    /// The error has the reason and the compiler's log.
    fn try_compile(&self, text: &str, architecture: &str) -> Result<Cubin, (String, String)> {
        let plain = |reason: String| (reason, String::new());
        let c_string = |text: &str| CString::new(text).map_err(|error| plain(error.to_string()));
        let text = c_string(text)?;
        let mut options = vec![c_string(&format!("--gpu-architecture={architecture}"))?];
        for option in OPTIONS {
            options.push(c_string(option)?);
        }
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = Compiling { calls: self.calls, program: std::ptr::null_mut() };
        let none = std::ptr::null();
        // SAFETY: the text ends with a zero; it has a name, and no headers.
        check(unsafe {
            (self.calls.create)(
                &raw mut program.program,
                text.as_ptr(),
                c"kernels.cu".as_ptr(),
                0,
                none,
                none,
            )
        })
        .map_err(plain)?;
        // SAFETY: the program was made; there are this many options, each ending with a zero.
        check(unsafe { (self.calls.compile)(program.program, options.len() as c_int, options.as_ptr()) })
            .map_err(|reason| (reason, program.log()))?;
        let bytes = program.read(self.calls.cubin_size, self.calls.cubin).map_err(plain)?;
        Ok(Cubin(bytes))
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc").field("path", &self.path).field("version", &self.version()).finish()
    }
}

/// A program in the compiler, or null.
struct Compiling {
    calls: Calls,
    program: Program,
}

impl Compiling {
    fn log(&self) -> String {
        let bytes = self.read(self.calls.log_size, self.calls.log);
        bytes.map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\0', '\n']).to_owned(),
        )
    }

    /// What two functions give, of which one says how long it is.
    fn read(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: the program lives; the pointer is to a size.
        check(unsafe { size(self.program, &raw mut len) })?;
        let mut bytes = vec![0; len];
        // SAFETY: the program lives, and there is room for as many bytes as it said.
        check(unsafe { get(self.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by this compiler, and not used again. It fails for no other reason than a bad handle.
            unsafe { (self.calls.destroy)(&raw mut self.program) };
        }
    }
}

fn check(code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(error_text(code)) }
}

fn error_text(code: c_int) -> String {
    let name = match code {
        1 => "NVRTC_ERROR_OUT_OF_MEMORY",
        3 => "NVRTC_ERROR_INVALID_INPUT",
        5 => "NVRTC_ERROR_INVALID_OPTION",
        6 => "NVRTC_ERROR_COMPILATION",
        7 => "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE: is libnvrtc-builtins beside it?",
        _ => return format!("error {code}"),
    };
    name.to_owned()
}

/// Folders that may hold NVRTC, most wanted first, and why.
fn folders() -> Vec<(PathBuf, &'static str)> {
    let mut folders = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = env::var_os(variable).filter(|root| !root.is_empty()) {
            folders.push((PathBuf::from(root).join("lib64"), variable));
        }
    }
    folders.push((PathBuf::from("/usr/local/cuda/lib64"), "CUDA toolkit"));
    for (root, because) in runtime::environments().into_iter().filter(|(root, _)| root.is_dir()) {
        for packages in runtime::site_packages(&root) {
            folders.push((packages.join("nvidia/cu13/lib"), because));
            folders.push((packages.join("nvidia/cuda_nvrtc/lib"), because));
        }
    }
    folders
}

fn find(
    named: Option<PathBuf>,
    driver: DriverVersion,
    folders: &[(PathBuf, &'static str)],
) -> Result<Nvrtc, CompileError> {
    if let Some(path) = named {
        return Nvrtc::open(&path).map_err(|reason| CompileError::Named { path, reason });
    }
    let names =
        MAJORS.iter().filter(|&&major| major <= driver.major).map(|major| format!("libnvrtc.so.{major}"));
    let names: Vec<_> = names.collect();
    let mut tried = Vec::new();
    let mut look = |place: PathBuf, because| match Nvrtc::open(&place) {
        Ok(nvrtc) => Some(nvrtc),
        Err(outcome) => {
            tried.push(Tried { place, because, outcome });
            None
        }
    };
    for name in &names {
        if let Some(nvrtc) = look(PathBuf::from(name), "system's loader") {
            return Ok(nvrtc);
        }
    }
    for (folder, because) in folders {
        let files = names.iter().map(|name| folder.join(name)).filter(|file| file.exists());
        for file in files {
            if let Some(nvrtc) = look(file, because) {
                return Ok(nvrtc);
            }
        }
    }
    for (folder, because) in folders {
        if !tried.iter().any(|tried| tried.place.starts_with(folder)) {
            tried.push(Tried { place: folder.clone(), because, outcome: "not there".to_owned() });
        }
    }
    Err(CompileError::NotFound { driver, tried })
}

/// A program for one architecture, as the driver loads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Cubin(Vec<u8>);

impl Cubin {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Cubin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cubin({} bytes)", self.0.len())
    }
}

/// What a program depends on, hashed.
struct Key([u8; 32]);

impl Key {
    fn new(parts: [&str; 4]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two lists of parts are one text.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    fn file_name(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}.cubin")
    }

    /// Binds a program to this key, so that a file of another name is not taken for it, nor a damaged one.
    fn seal(&self, cubin: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.0).chain_update(cubin).finalize().into()
    }
}

/// The folder of compiled programs: each [`MAGIC`], 32 bytes of [`Key::seal`], the program.
struct Cache {
    /// None: there is no place for one.
    folder: Option<PathBuf>,
}

impl Cache {
    fn of_this_user() -> Self {
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let root = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Self { folder: root.map(|root| root.join("youquanti/kernels")) }
    }

    /// The program of that key, if it is there and whole.
    fn get(&self, key: &Key) -> Option<Cubin> {
        let file = self.folder.as_ref()?.join(key.file_name());
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "compiled kernels cannot be read: compiling anew");
                return None;
            }
        };
        let whole = bytes.strip_prefix(&MAGIC).and_then(|rest| rest.split_first_chunk::<32>());
        match whole {
            Some((seal, cubin)) if *seal == key.seal(cubin) => Some(Cubin(cubin.to_vec())),
            _ => {
                tracing::warn!(file = %file.display(), "compiled kernels are damaged: compiling anew");
                None
            }
        }
    }

    /// Keeps a program, whole or not at all. Where that fails it is compiled again at the next start.
    fn put(&self, key: &Key, cubin: &Cubin) {
        let Some(folder) = &self.folder else {
            tracing::warn!("compiled kernels are not kept: set HOME, or XDG_CACHE_HOME to an absolute path");
            return;
        };
        if let Err(error) = Self::write(folder, key, cubin) {
            tracing::warn!(folder = %folder.display(), %error, "compiled kernels cannot be kept");
        }
    }

    fn write(folder: &Path, key: &Key, Cubin(cubin): &Cubin) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        // Of this process and thread alone.
        let unfinished = folder.join(format!(
            "{}.{}.{:?}",
            key.file_name(),
            std::process::id(),
            std::thread::current().id()
        ));
        let written = fs::File::create(&unfinished).and_then(|mut file| {
            file.write_all(&MAGIC)?;
            file.write_all(&key.seal(cubin))?;
            file.write_all(cubin)?;
            fs::rename(&unfinished, folder.join(key.file_name()))
        });
        written.inspect_err(|_| {
            // What is left of it is in nobody's way.
            fs::remove_file(&unfinished).unwrap_or_default();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: DriverVersion = DriverVersion { major: 13, minor: 0 };

    fn key(architecture: &str) -> Key {
        Key::new(["options", "13.0", architecture, "text"])
    }

    fn cache_in(folder: &Path) -> Cache {
        Cache { folder: Some(folder.join("a/b")) }
    }

    #[test]
    fn what_is_kept_is_found_under_its_own_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache_in(folder.path());
        let cubin = Cubin(vec![1, 2, 3]);
        assert_eq!(cache.get(&key("sm_90")), None);
        cache.put(&key("sm_90"), &cubin);
        assert_eq!(cache.get(&key("sm_90")), Some(cubin.clone()));
        assert_eq!(cache.get(&key("sm_80")), None);
        let files = fs::read_dir(folder.path().join("a/b")).unwrap().count();
        assert_eq!(files, 1, "nothing unfinished is left");
    }

    #[test]
    fn damaged_and_foreign_files_are_not_taken_and_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache_in(folder.path());
        let cubin = Cubin((0..=255).collect());
        cache.put(&key("sm_90"), &cubin);
        let file = folder.path().join("a/b").join(key("sm_90").file_name());
        let good = fs::read(&file).unwrap();
        let mut bits = good.clone();
        bits[100] ^= 1;
        // A flipped bit, cut off at every length, longer, empty, something else.
        let mut bad = vec![bits, [good.as_slice(), b"x"].concat(), b"#!/bin/sh".to_vec()];
        bad.extend((0..good.len()).map(|len| good[..len].to_vec()));
        for bytes in bad {
            fs::write(&file, &bytes).unwrap();
            assert_eq!(cache.get(&key("sm_90")), None, "{} bytes", bytes.len());
        }
        // Another key's file under this name.
        cache.put(&key("sm_80"), &cubin);
        fs::rename(folder.path().join("a/b").join(key("sm_80").file_name()), &file).unwrap();
        assert_eq!(cache.get(&key("sm_90")), None);
        cache.put(&key("sm_90"), &cubin);
        assert_eq!(cache.get(&key("sm_90")), Some(cubin));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), b"a file where a folder should be").unwrap();
        let cache = cache_in(folder.path());
        cache.put(&key("sm_90"), &Cubin(vec![1]));
        assert_eq!(cache.get(&key("sm_90")), None);
        let nowhere = Cache { folder: None };
        nowhere.put(&key("sm_90"), &Cubin(vec![1]));
        assert_eq!(nowhere.get(&key("sm_90")), None);
    }

    #[test]
    fn keys_differ_wherever_the_parts_do() {
        let keys = [["a", "b", "c", "d"], ["ab", "", "c", "d"], ["a", "b", "cd", ""], ["a", "b", "c", "e"]];
        let names: std::collections::BTreeSet<_> = keys.map(|parts| Key::new(parts).file_name()).into();
        assert_eq!(names.len(), keys.len());
    }

    #[test]
    fn a_named_file_rules_out_every_other_and_says_what_is_wrong() {
        let error = find(Some("/nowhere/libnvrtc.so".into()), DRIVER, &[]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libnvrtc.so") && error.contains(NVRTC_VARIABLE), "{error}");
        // A library that is not NVRTC.
        let error = find(Some("libm.so.6".into()), DRIVER, &[]).unwrap_err().to_string();
        assert!(error.contains("nvrtcCreateProgram"), "{error}");
    }

    #[test]
    fn every_place_is_named_and_none_newer_than_the_driver_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libnvrtc.so.13"), b"not a library").unwrap();
        fs::write(folder.path().join("libnvrtc.so.12"), b"not a library").unwrap();
        let driver = DriverVersion { major: 12, minor: 4 };
        let folders = [(folder.path().to_owned(), "test"), (folder.path().join("none"), "test")];
        // Where the machine has it for everybody, there is no error to look at.
        let Err(error) = find(None, driver, &folders) else { return };
        let text = error.to_string();
        assert!(text.contains("libnvrtc.so.12 (test)") && text.contains("none (test): not there"), "{text}");
        assert!(text.contains("nvidia-cuda-nvrtc-cu12") && !text.contains("libnvrtc.so.13"), "{text}");
    }

    /// Where there is an NVRTC.
    #[test]
    fn the_kernels_compile_and_errors_come_with_the_compilers_log() {
        let nvrtc = match Nvrtc::load(DRIVER) {
            Ok(nvrtc) => nvrtc,
            Err(error) => return println!("not run: {error}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let cache = cache_in(folder.path());
        let text = "extern \"C\" __global__ void nothing() {}";
        let cubin = nvrtc.cached(&cache, text, "sm_90").unwrap();
        assert!(cubin.bytes().starts_with(b"\x7fELF"));
        assert_eq!(nvrtc.cached(&cache, text, "sm_90").unwrap(), cubin);
        assert!(nvrtc.kernels("sm_90").unwrap().bytes().len() > 10_000);
        let text = nvrtc.compile("#line 7 \"shrink.cu\"\nint f( { }", "sm_90").unwrap_err().to_string();
        assert!(text.contains("shrink.cu(7)") && text.contains("NVRTC_ERROR_COMPILATION"), "{text}");
        let text = nvrtc.compile("", "sm_1").unwrap_err().to_string();
        assert!(text.contains("sm_1") && text.contains("architecture"), "{text}");
    }
}
