//! What seeks faces in a session: decided once, before anything is started.
//!
//! Owns the choice between the back ends and the placement of cameras on GPUs. Asks the machine what it has, and
//! opens nothing; what a back end needs beyond that, its maker says.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value as Json, json};
use youquanti_config as config;
use youquanti_config::{Config, Problem};

/// The back end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What computes.
    pub engine: Engine,
    /// Why it was chosen, one sentence, for logs, `check` and the session file.
    pub reason: String,
}

/// What computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Nothing: no faces are sought.
    None,
    /// The processor.
    Cpu,
    /// GPUs.
    Gpu {
        /// Whose kernels.
        kernels: Kernels,
        /// One for each GPU that has cameras.
        workers: Vec<GpuWorker>,
    },
}

/// Whose kernels compute networks on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// ONNX Runtime's for CUDA.
    Cuda,
    /// TensorRT's, through ONNX Runtime.
    TensorRt {
        /// Folder in which engines are kept from start to start.
        engine_cache: PathBuf,
    },
}

/// A GPU that the driver sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its place among them, from 0.
    pub ordinal: usize,
    /// E.g. `NVIDIA H100`.
    pub name: String,
}

/// A GPU with the cameras that are placed on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuWorker {
    /// Which GPU.
    pub gpu: Gpu,
    /// Places of the cameras in the configuration; at least one.
    pub cameras: Vec<usize>,
}

impl Backend {
    /// As it is called in configurations: `none`, `cpu`, `cuda` or `tensorrt`.
    pub fn name(&self) -> &'static str {
        match &self.engine {
            Engine::None => "none",
            Engine::Cpu => "cpu",
            Engine::Gpu { kernels, .. } => kernels.name(),
        }
    }

    /// What was decided, with the camera's names for every GPU.
    pub fn to_json(&self, config: &Config) -> Json {
        let gpus: Vec<_> = self
            .workers()
            .iter()
            .map(|worker| {
                let Gpu { ordinal, name } = &worker.gpu;
                json!({ "ordinal": ordinal, "name": name, "cameras": worker.camera_names(config) })
            })
            .collect();
        json!({ "name": self.name(), "reason": self.reason, "gpus": gpus })
    }

    /// The GPUs that have cameras; none where the processor computes, or nothing does.
    pub fn workers(&self) -> &[GpuWorker] {
        match &self.engine {
            Engine::Gpu { workers, .. } => workers,
            Engine::None | Engine::Cpu => &[],
        }
    }
}

impl GpuWorker {
    /// Names of its cameras.
    pub fn camera_names<'a>(&self, config: &'a Config) -> Vec<&'a str> {
        self.cameras.iter().map(|&index| config.cameras[index].name.as_str()).collect()
    }
}

impl Kernels {
    /// As it is called in configurations.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::TensorRt { .. } => "tensorrt",
        }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} ({})", self.ordinal, self.name)
    }
}

/// `cpu: asked for by name`, `cuda on GPU 0 (NVIDIA H100): auto: …`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpus: Vec<_> = self.workers().iter().map(|worker| worker.gpu.to_string()).collect();
        let on = if gpus.is_empty() { String::new() } else { format!(" on {}", gpus.join(", ")) };
        write!(f, "{}{on}: {}", self.name(), self.reason)
    }
}

/// Decides what computes in a session.
///
/// # Errors
/// A back end that was asked for by name cannot run here, or a GPU that is named is not there.
pub(crate) fn decide(config: &Config) -> Result<Backend, Vec<Problem>> {
    let by_name = |engine| Backend { engine, reason: "asked for by name".to_owned() };
    let is_auto = config.pipeline.backend == config::Backend::Auto;
    let found = match config.pipeline.backend {
        config::Backend::None => return Ok(by_name(Engine::None)),
        config::Backend::Cpu => return Ok(by_name(Engine::Cpu)),
        config::Backend::Auto | config::Backend::Cuda => usable(Kernels::Cuda),
        config::Backend::Tensorrt => tensorrt().and_then(usable),
    };
    match found {
        Ok((kernels, seen)) => {
            let engine = Engine::Gpu { kernels, workers: place(config, &seen)? };
            Ok(if is_auto { Backend { engine, reason: AUTO_GPU.to_owned() } } else { by_name(engine) })
        }
        Err(missing) if is_auto => Ok(Backend { engine: Engine::Cpu, reason: auto_cpu(&missing) }),
        Err(missing) => {
            let remedy = "see to that, or use \"auto\", which takes the processor where no GPU can be used";
            Err(vec![config.problem("pipeline.backend", &format!("cannot run: {missing}"), remedy)])
        }
    }
}

/// What `auto` would take on this machine, and why: `cpu: auto: …`.
pub fn auto() -> String {
    match usable(Kernels::Cuda) {
        Ok((kernels, seen)) => {
            let seen: Vec<_> = seen.iter().map(Gpu::to_string).collect();
            format!("{} on {}: {AUTO_GPU}", kernels.name(), seen.join(", "))
        }
        Err(missing) => format!("cpu: {}", auto_cpu(&missing)),
    }
}

const AUTO_GPU: &str = "auto: a GPU and all that it needs are there";

/// One clause: what is missing, without what to do about it and the places where it was looked for.
fn auto_cpu(missing: &str) -> String {
    let first = missing.lines().next().unwrap_or_default();
    format!("auto: {}", first.split_once("; ").map_or(first, |(what, _)| what))
}

/// Everything that the driver sees, if a pipeline with these kernels can be made on it; else what is missing.
#[cfg(feature = "cuda")]
fn usable(kernels: Kernels) -> Result<(Kernels, Vec<Gpu>), String> {
    let devices = youquanti_gpu::cuda::check(&kernels.provider())
        .map_err(|error| youquanti_models::with_causes(&error))?;
    let seen = devices.into_iter().map(|device| Gpu { ordinal: device.ordinal, name: device.name });
    Ok((kernels, seen.collect()))
}

#[cfg(not(feature = "cuda"))]
fn usable(_: Kernels) -> Result<(Kernels, Vec<Gpu>), String> {
    Err("this program was built without CUDA".to_owned())
}

#[cfg(feature = "cuda")]
impl Kernels {
    /// As the back end calls it.
    pub(crate) fn provider(&self) -> youquanti_gpu::cuda::provider::Provider {
        use youquanti_gpu::cuda::provider::Provider;

        match self {
            Self::Cuda => Provider::Cuda,
            Self::TensorRt { engine_cache } => Provider::TensorRt { engine_cache: engine_cache.clone() },
        }
    }
}

/// TensorRT with the folder `tensorrt` of the cache.
fn tensorrt() -> Result<Kernels, String> {
    let engine_cache = youquanti_gpu::cache::folder("tensorrt");
    let engine_cache = engine_cache
        .ok_or("TensorRT's engines have no place: set HOME, or XDG_CACHE_HOME to an absolute path")?;
    Ok(Kernels::TensorRt { engine_cache })
}

/// Deals cameras out to GPUs: where the configuration places them, the others in turn.
fn place(config: &Config, seen: &[Gpu]) -> Result<Vec<GpuWorker>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut find = |ordinal: config::Ordinal, path: &str| {
        let found = seen.iter().find(|gpu| gpu.ordinal == ordinal.get() as usize);
        if found.is_none() {
            let there: Vec<_> = seen.iter().map(Gpu::to_string).collect();
            let wrong = format!("is no GPU that the driver sees; there is {}", there.join(", "));
            problems.push(config.problem(path, &wrong, "choose another: `youquanti doctor` lists them"));
        }
        found
    };
    let devices: Vec<&Gpu> = match &config.gpu.devices {
        config::Gpus::All => seen.iter().collect(),
        config::Gpus::Listed(listed) => {
            let listed = listed.iter().enumerate();
            listed.filter_map(|(index, &ordinal)| find(ordinal, &format!("gpu.devices[{index}]"))).collect()
        }
    };
    let mut turns = devices.iter().cycle();
    let mut placed = Vec::new();
    for (index, camera) in config.cameras.iter().enumerate() {
        let gpu = match camera.gpu {
            Some(ordinal) => find(ordinal, &format!("camera[{index}].gpu")),
            None => turns.next().copied(),
        };
        placed.extend(gpu.map(|gpu| (gpu.ordinal, index)));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let worker = |gpu: &Gpu| {
        let cameras = placed.iter().filter(|(ordinal, _)| *ordinal == gpu.ordinal).map(|&(_, index)| index);
        GpuWorker { gpu: gpu.clone(), cameras: cameras.collect() }
    };
    Ok(devices.into_iter().map(worker).filter(|worker| !worker.cameras.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cameras: &[Option<u32>], devices: &str) -> Config {
        let camera = |(index, gpu): (usize, &Option<u32>)| {
            let gpu = gpu.map_or(String::new(), |gpu| format!("gpu = {gpu}\n"));
            format!("[[camera]]\nname = \"c{index}\"\n{gpu}scene = {{}}\n")
        };
        let cameras: String = cameras.iter().enumerate().map(camera).collect();
        Config::from_toml(&format!("version = 1\n{cameras}[gpu]\ndevices = {devices}"), "test.toml").unwrap()
    }

    fn seen(count: usize) -> Vec<Gpu> {
        (0..count).map(|ordinal| Gpu { ordinal, name: format!("G{ordinal}") }).collect()
    }

    #[test]
    fn cameras_go_where_they_are_placed_and_the_others_in_turn() {
        let check = |cameras: &[Option<u32>], devices: &str, gpus, expected: &[(usize, &[usize])]| {
            let workers = place(&config(cameras, devices), &seen(gpus)).unwrap();
            let workers: Vec<_> = workers.iter().map(|w| (w.gpu.ordinal, &*w.cameras)).collect();
            assert_eq!(workers, expected, "{cameras:?} on {devices} of {gpus}");
        };
        check(&[None; 3], "\"all\"", 1, &[(0, &[0, 1, 2])]);
        check(&[None; 5], "\"all\"", 2, &[(0, &[0, 2, 4]), (1, &[1, 3])]);
        check(&[None; 3], "[3, 1]", 4, &[(3, &[0, 2]), (1, &[1])]);
        check(&[None, Some(1), None, Some(1)], "\"all\"", 2, &[(0, &[0]), (1, &[1, 2, 3])]);
        check(&[Some(1), None], "[0, 1]", 2, &[(0, &[1]), (1, &[0])]);
        check(&[None], "\"all\"", 8, &[(0, &[0])]);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_named_where_it_is_asked_for() {
        let check = |cameras: &[Option<u32>], devices: &str, expected: &[&str]| {
            let problems = place(&config(cameras, devices), &seen(2)).unwrap_err();
            let said: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.table, p.message)).collect();
            assert_eq!(said, expected);
        };
        let there = "is no GPU that the driver sees; there is GPU 0 (G0), GPU 1 (G1)";
        check(&[None, Some(2)], "\"all\"", &[&format!("camera \"c1\": gpu = 2 {there}")]);
        check(&[None], "[1, 5]", &[&format!("gpu: devices[1] = 5 {there}")]);
    }

    #[test]
    fn what_is_decided_is_said_in_one_sentence() {
        let check = |missing: &str, expected: &str| assert_eq!(auto_cpu(missing), expected);
        check("no driver was found; install one", "auto: no driver was found");
        check(
            "NVRTC was not found: `pip install x`; looked at\n  /a; b",
            "auto: NVRTC was not found: `pip install x`",
        );
        check("built without CUDA", "auto: built without CUDA");
        let workers = place(&config(&[None, None], "\"all\""), &seen(2)).unwrap();
        let backend =
            Backend { engine: Engine::Gpu { kernels: Kernels::Cuda, workers }, reason: AUTO_GPU.to_owned() };
        assert_eq!(backend.to_string(), format!("cuda on GPU 0 (G0), GPU 1 (G1): {AUTO_GPU}"));
        let said = backend.to_json(&config(&[None, None], "\"all\""));
        assert_eq!(said["gpus"][1], json!({ "ordinal": 1, "name": "G1", "cameras": ["c1"] }));
    }

    #[test]
    fn a_back_end_asked_for_by_name_is_never_replaced() {
        let with = |backend: &str| {
            let text = format!(
                "version = 1\n[[camera]]\nname = \"a\"\nscene = {{}}\n[pipeline]\nbackend = \"{backend}\""
            );
            decide(&Config::from_toml(&text, "test.toml").unwrap())
        };
        for (name, engine) in [("none", Engine::None), ("cpu", Engine::Cpu)] {
            let expected = Backend { engine, reason: "asked for by name".to_owned() };
            assert_eq!(with(name).unwrap(), expected);
        }
        for name in ["cuda", "tensorrt"] {
            match with(name) {
                Ok(decided) => assert_eq!(decided.name(), name),
                Err(problems) => {
                    let [problem] = &problems[..] else { panic!("{problems:?}") };
                    assert!(problem.message.starts_with(&format!("backend = \"{name}\" cannot run: ")));
                }
            }
        }
        let auto = with("auto").unwrap();
        assert!(auto.reason.starts_with("auto: "), "{auto}");
        assert_eq!(
            auto.name() == "cpu",
            with("cuda").is_err(),
            "the processor only where no GPU can be used"
        );
    }
}
