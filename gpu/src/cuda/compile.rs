//! From the kernels' sources to a program for one GPU, by NVIDIA's compiler library, NVRTC, kept on disk between starts.
//!
//! Owns the folder `kernels` of the cache; [`super::library`] finds NVRTC. A cache that cannot be used costs time and is
//! said once; it never keeps anything from working. Never touches a device.

#![allow(unsafe_code, reason = "the compiler is C, opened at run time")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::device::DriverVersion;
use super::library::{CudaLibrary, Functions, LibraryError};

/// The compiler's library.
pub static NVRTC: CudaLibrary = CudaLibrary {
    name: "NVRTC",
    purpose: "the compiler of GPU kernels",
    file: "libnvrtc.so",
    variable: "YOUQUANTI_NVRTC",
    package: "nvidia-cuda-nvrtc",
    folder: "cuda_nvrtc",
};

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
    /// There is no compiler.
    #[error(transparent)]
    Library(#[from] LibraryError),
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
    /// Loads the compiler, once in a process; later calls return the same. [`CudaLibrary`] says where it is looked for.
    ///
    /// # Errors
    /// [`CompileError::Library`]. A failure is not remembered.
    pub fn load(driver: DriverVersion) -> Result<Self, CompileError> {
        static LOADED: Mutex<Option<Nvrtc>> = Mutex::new(None);

        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nvrtc) = &*loaded {
            return Ok(nvrtc.clone());
        }
        let nvrtc = NVRTC.find(driver, Self::open)?;
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
        let library = Functions::open(NVRTC.name, path)?;
        // SAFETY: the types are those of NVRTC's header, unchanged since CUDA 11.1.
        let calls = unsafe {
            Calls {
                create: library.get("nvrtcCreateProgram")?,
                compile: library.get("nvrtcCompileProgram")?,
                cubin_size: library.get("nvrtcGetCUBINSize")?,
                cubin: library.get("nvrtcGetCUBIN")?,
                log_size: library.get("nvrtcGetProgramLogSize")?,
                log: library.get("nvrtcGetProgramLog")?,
                destroy: library.get("nvrtcDestroyProgram")?,
            }
        };
        // SAFETY: as above.
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
            unsafe { library.get("nvrtcVersion") }?;
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
        Self { folder: crate::cache::folder("kernels") }
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
