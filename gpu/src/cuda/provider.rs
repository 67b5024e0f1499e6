//! ONNX Runtime's CUDA and TensorRT providers: whether they can be used, found out before a session is made.
//!
//! Each is a library beside the runtime's own and needs libraries of NVIDIA's (cuBLAS, cuDNN, TensorRT), which Python
//! packages keep where the system's loader does not look. They are sought there and opened for good, so that the
//! runtime finds them. What is missing is named with the places looked at; nothing is downloaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::runtime::{Runtime, Tried, environments};

/// An execution provider of ONNX Runtime for NVIDIA's GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The CUDA provider: kernels of the runtime, cuDNN and cuBLAS.
    Cuda,
    /// The TensorRT provider: engines built for this GPU at the first start, minutes each, and kept.
    TensorRt {
        /// Folder for the engines. Made if it is not there.
        engine_cache: PathBuf,
    },
}

/// The part of the runtime that all its providers need.
const SHARED: &str = "libonnxruntime_providers_shared.so";

/// Where cuDNN begins; the CUDA provider asks for it by this name at its first convolution, not when it is loaded.
const CUDNN: &str = "libcudnn.so.9";

impl Provider {
    /// Name of its library file.
    const fn library(&self) -> &'static str {
        match self {
            Self::Cuda => "libonnxruntime_providers_cuda.so",
            Self::TensorRt { .. } => "libonnxruntime_providers_tensorrt.so",
        }
    }

    /// What it is called in messages.
    const fn title(&self) -> &'static str {
        match self {
            Self::Cuda => "CUDA",
            Self::TensorRt { .. } => "TensorRT",
        }
    }
}

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The runtime that was loaded has none: a build for the processor.
    #[error(
        "ONNX Runtime {version} from {} has no {provider} provider ({missing} is not in {}): `pip install \
         onnxruntime-gpu` in place of onnxruntime, or name the library of a build with CUDA in {}",
        runtime.display(), folder.display(), crate::runtime::LIBRARY_VARIABLE
    )]
    NotInRuntime {
        /// `CUDA` or `TensorRT`.
        provider: &'static str,
        /// The runtime's file.
        runtime: PathBuf,
        /// Its version.
        version: String,
        /// Name of the file that is not there.
        missing: &'static str,
        /// Where it was looked for: it has to lie beside the runtime.
        folder: PathBuf,
    },
    /// A library that the provider needs is nowhere.
    #[error("{}", missing_text(provider, library, tried))]
    Missing {
        /// `CUDA` or `TensorRT`.
        provider: &'static str,
        /// Name of the file, e.g. `libcudnn.so.9`.
        library: String,
        /// Where it was looked for.
        tried: Vec<Tried>,
    },
    /// The provider's library is there with all it needs, and cannot be opened.
    #[error("ONNX Runtime's {provider} provider {} cannot be opened: {reason}", path.display())]
    Unusable {
        /// `CUDA` or `TensorRT`.
        provider: &'static str,
        /// Its file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
}

fn missing_text(provider: &str, library: &str, tried: &[Tried]) -> String {
    let remedy = match package_of(library) {
        Some(package) => format!("`pip install {package}` beside ONNX Runtime"),
        None => "install the package that holds it".to_owned(),
    };
    let mut text = format!(
        "ONNX Runtime's {provider} provider needs {library}, which was not found: {remedy}, or add its folder to \
         LD_LIBRARY_PATH; looked at"
    );
    for Tried { place, because, outcome } in tried {
        text.push_str(&format!("\n  {} ({because}): {outcome}", place.display()));
    }
    text
}

/// PyPI's package with a library of NVIDIA's, by the major version in the library's name.
fn package_of(library: &str) -> Option<&'static str> {
    let packages = [
        ("libcublas.so.13", "nvidia-cublas"),
        ("libcublasLt.so.13", "nvidia-cublas"),
        ("libcudart.so.13", "nvidia-cuda-runtime"),
        ("libcurand.so.10", "nvidia-curand"),
        ("libcufft.so.12", "nvidia-cufft"),
        ("libcudnn.so.9", "nvidia-cudnn-cu13"),
        ("libcublas.so.12", "nvidia-cublas-cu12"),
        ("libcublasLt.so.12", "nvidia-cublas-cu12"),
        ("libcudart.so.12", "nvidia-cuda-runtime-cu12"),
        ("libnvinfer.so.10", "tensorrt-cu13-libs"),
        ("libnvonnxparser.so.10", "tensorrt-cu13-libs"),
    ];
    packages.into_iter().find(|&(name, _)| name == library).map(|(_, package)| package)
}

/// Makes sure that `runtime` can use `provider`: its library is there and everything it needs is loaded. What was
/// found stays loaded until the process ends; calling again is cheap enough for every start.
///
/// Says nothing of the driver or the GPU: a session with the provider fails where those do not work.
///
/// # Errors
/// See [`ProviderError`].
pub fn ensure(runtime: &Runtime, provider: &Provider) -> Result<(), ProviderError> {
    // Two threads that open the same libraries would be fine; two that report on it would be confusing.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let title = provider.title();
    let folder = runtime.folder();
    // TensorRT's provider leaves to CUDA's what it cannot do.
    for missing in [SHARED, Provider::Cuda.library(), provider.library()] {
        if !folder.join(missing).is_file() {
            return Err(ProviderError::NotInRuntime {
                provider: title,
                runtime: runtime.path().to_owned(),
                version: runtime.version().to_owned(),
                missing,
                folder,
            });
        }
    }
    let places = places(&folder);
    open_needed(title, &folder.join(Provider::Cuda.library()), &places)?;
    open(title, CUDNN, &places)?;
    if *provider != Provider::Cuda {
        open_needed(title, &folder.join(provider.library()), &places)?;
    }
    Ok(())
}

/// Folders that may hold libraries of NVIDIA's, most wanted first.
fn places(runtime_folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut places = vec![(runtime_folder.to_owned(), "beside ONNX Runtime")];
    let own_packages =
        runtime_folder.ancestors().nth(2).map(|packages| (packages.to_owned(), "ONNX Runtime's packages"));
    let others = environments().into_iter().flat_map(|(root, because)| {
        crate::runtime::site_packages(&root).into_iter().map(move |packages| (packages, because))
    });
    for (packages, because) in own_packages.into_iter().chain(others) {
        let mut folders = vec![packages.join("tensorrt_libs")];
        folders.extend(folders_of(&packages.join("nvidia")).into_iter().map(|package| package.join("lib")));
        for folder in folders {
            if folder.is_dir() && places.iter().all(|(known, _)| *known != folder) {
                places.push((folder, because));
            }
        }
    }
    for folder in ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"] {
        places.push((PathBuf::from(folder), "CUDA toolkit"));
    }
    places
}

fn folders_of(folder: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    folders
}

/// Opens everything that the library at `path` needs and the loader does not find.
fn open_needed(
    provider: &'static str,
    path: &Path,
    places: &[(PathBuf, &'static str)],
) -> Result<(), ProviderError> {
    let mut last_missing = None;
    loop {
        let reason = match ort::util::preload_dylib(path) {
            Ok(()) => return Ok(()),
            Err(error) => full_text(&error),
        };
        // The provider is linked against the runtime, which opens it only once it has bound itself to it: with this
        // complaint the loader has gone past all the libraries that the provider needs.
        if reason.contains("Provider_GetHost") {
            return Ok(());
        }
        match missing_library(&reason) {
            Some(library) if last_missing.as_deref() != Some(library) => {
                open(provider, library, places)?;
                last_missing = Some(library.to_owned());
            }
            _ => return Err(ProviderError::Unusable { provider, path: path.to_owned(), reason }),
        }
    }
}

/// Opens the first of the libraries of this name that can be opened, first where the loader finds it.
fn open(
    provider: &'static str,
    library: &str,
    places: &[(PathBuf, &'static str)],
) -> Result<(), ProviderError> {
    let mut tried = Vec::new();
    match ort::util::preload_dylib(library) {
        Ok(()) => return Ok(()),
        Err(error) => tried.push(Tried {
            place: PathBuf::from(library),
            because: "system's loader",
            outcome: full_text(&error),
        }),
    }
    for (folder, because) in places {
        let file = folder.join(library);
        let outcome = if !file.is_file() {
            "not there".to_owned()
        } else {
            match open_needed(provider, &file, places) {
                Ok(()) => {
                    tracing::debug!(path = %file.display(), "opened");
                    return Ok(());
                }
                Err(error @ ProviderError::Missing { .. }) => return Err(error),
                Err(error) => error.to_string(),
            }
        };
        tried.push(Tried { place: folder.clone(), because, outcome });
    }
    Err(ProviderError::Missing { provider, library: library.to_owned(), tried })
}

/// What the loader says; the crate's own text leaves it to the cause.
fn full_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The library that the loader misses: `libx.so.1: cannot open shared object file: No such file or directory`.
fn missing_library(reason: &str) -> Option<&str> {
    let (before, _) = reason.split_once(": cannot open shared object file")?;
    let name = before.rsplit([' ', '/']).next()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_complaint_names_the_library() {
        let check = |reason, expected| assert_eq!(missing_library(reason), expected, "{reason}");
        check(
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            Some("libcublasLt.so.13"),
        );
        check("/a/b.so: cannot open shared object file: No such file or directory", Some("b.so"));
        check("/a/b.so: undefined symbol: Provider_GetHost", None);
        check("", None);
    }

    #[test]
    fn a_library_that_is_nowhere_is_named_with_every_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libcudnn_none.so.9"), b"no library").unwrap();
        let places = [(folder.path().to_owned(), "for the test"), (PathBuf::from("/nowhere"), "never")];
        let text = open("CUDA", "libcudnn_none.so.9", &places).unwrap_err().to_string();
        let place = folder.path().to_string_lossy();
        for part in
            ["libcudnn_none.so.9", "LD_LIBRARY_PATH", "system's loader", "/nowhere", "not there", &place]
        {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn known_libraries_come_with_their_package() {
        let error = |library: &str| {
            ProviderError::Missing { provider: "TensorRT", library: library.to_owned(), tried: vec![] }
                .to_string()
        };
        assert!(error("libnvinfer.so.10").contains("pip install tensorrt-cu13-libs"));
        assert!(error("libcudnn.so.9").contains("pip install nvidia-cudnn-cu13"));
        assert!(error("libother.so.1").contains("package that holds it"));
    }

    #[test]
    fn python_packages_beside_the_runtime_are_searched() {
        let root = tempfile::tempdir().unwrap();
        let packages = root.path().join("lib/python3.12/site-packages");
        let runtime = packages.join("onnxruntime/capi");
        for folder in ["nvidia/cudnn/lib", "nvidia/cu13/lib", "tensorrt_libs", "onnxruntime/capi"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        let places = places(&runtime);
        assert_eq!(places[0].0, runtime);
        for folder in ["nvidia/cudnn/lib", "nvidia/cu13/lib", "tensorrt_libs"] {
            assert!(
                places.iter().any(|(place, _)| *place == packages.join(folder)),
                "{folder} is not in {places:?}"
            );
        }
    }
}
