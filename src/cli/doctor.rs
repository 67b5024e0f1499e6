//! `youquanti doctor`: what this machine has, and what is missing to run here.

use std::path::Path;

use serde_json::json;
use youquanti::backend;
use youquanti::gpu::probe::{self, Cuda, CudaFound, Gpu};

use super::Exit;
use super::table::bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    /// Whether sessions can run; `None` when they can without it.
    works: Option<bool>,
    is: String,
}

pub(crate) fn execute(args: &Args) -> Exit {
    let machine = probe::machine();
    let mut findings = vec![
        Finding {
            what: "processor",
            works: None,
            is: format!("{}, {} threads", machine.processor, machine.cores),
        },
        match &machine.runtime {
            Ok(runtime) => Finding {
                what: "ONNX Runtime",
                works: Some(true),
                is: format!("{} from {}", runtime.version(), runtime.path().display()),
            },
            Err(error) => Finding {
                what: "ONNX Runtime",
                works: Some(false),
                is: format!("{error}\nneeded unless no faces are sought: backend = \"none\""),
            },
        },
    ];
    findings.extend(cuda(&machine.cuda));
    findings.push(Finding { what: "backend auto", works: None, is: backend::auto() });
    findings.push(match youquanti::actors::ffmpeg::find() {
        Ok(path) => Finding { what: "FFmpeg", works: None, is: path.display().to_string() },
        Err(error) => Finding { what: "FFmpeg", works: None, is: format!("{error}; needed for video files") },
    });
    findings.push(match youquanti::lsl::Lsl::load() {
        Ok(lsl) => {
            let is = format!("{} from {}", lsl.version(), lsl.path().display());
            Finding { what: "liblsl", works: None, is }
        }
        Err(error) => {
            Finding { what: "liblsl", works: None, is: format!("{error}\nneeded for [lsl] enabled = true") }
        }
    });
    for (what, folder) in [("shared memory", "/dev/shm"), ("disk of this folder", ".")] {
        let (works, is) = match youquanti::preflight::free_space(Path::new(folder)) {
            Ok(free) => (true, format!("{} free in {folder}", bytes(free))),
            Err(error) => (false, format!("{folder}: {error}")),
        };
        findings.push(Finding { what, works: Some(works), is });
    }
    if args.json {
        let all = findings.iter().map(|found| (found.what, json!({ "works": found.works, "is": found.is })));
        outln!("{:#}", json!(all.collect::<std::collections::BTreeMap<_, _>>()));
    } else {
        for Finding { what, works, is } in &findings {
            let mark = match works {
                Some(true) => "ok",
                Some(false) => "MISSING",
                None => "",
            };
            outln!("{what:>20}  {mark:<8} {}", is.replace('\n', "\n                               "));
        }
    }
    if findings.iter().any(|found| found.works == Some(false)) { Exit::Missing } else { Exit::Fine }
}

/// Sessions run without any of it, on the processor.
fn cuda(cuda: &Cuda) -> Vec<Finding> {
    let finding = |what, is| Finding { what, works: None, is };
    match cuda {
        Cuda::NotBuilt => {
            vec![finding("NVIDIA driver", "not looked for: this program was built without CUDA".to_owned())]
        }
        Cuda::Missing(why) => {
            vec![finding("NVIDIA driver", format!("{why}\neverything runs on the processor"))]
        }
        Cuda::Found(CudaFound { driver, gpus, compiler, provider }) => {
            let gpu = |(ordinal, Gpu { name, architecture, memory }): (usize, &Gpu)| {
                format!("{ordinal}: {name}, {architecture}, {}", bytes(*memory))
            };
            let gpus: Vec<_> = gpus.iter().enumerate().map(gpu).collect();
            let needed = |why: &String| {
                format!("{why}\nneeded for the GPU; without it everything runs on the processor")
            };
            let compiler = compiler.clone().unwrap_or_else(|why| needed(&why));
            let provider = match provider {
                Ok(()) => "ONNX Runtime's CUDA provider can be used".to_owned(),
                Err(why) => needed(why),
            };
            vec![
                finding("NVIDIA driver", format!("for CUDA {driver}")),
                finding("GPU", gpus.join("\n")),
                finding("NVRTC", compiler),
                finding("networks on the GPU", provider),
            ]
        }
    }
}
