//! Holds every network on the GPU against the processor, and measures it there.
//!
//! `cuda-networks MODELS_FOLDER PORTRAIT_PNG [HALF_PRECISION_FOLDER] [SECONDS]` prints one JSON object per network, file,
//! precision, layout, batch and way of launching: largest error relative to the largest value, landmarks' error in
//! pixels of the crop, and milliseconds (p50, p99) to enqueue, to the end by the host's clock, and by CUDA's events.
#![allow(unsafe_code, reason = "the contract of networks on the device")]
#![allow(clippy::disallowed_methods, reason = "measures time")]
#![allow(clippy::unwrap_used, reason = "a measurement ends at the first thing that is wrong")]

#[cfg(feature = "cuda")]
use std::path::{Path, PathBuf};
#[cfg(feature = "cuda")]
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
fn main() {
    gpu::main();
}

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("built without the feature cuda");
    std::process::exit(2);
}

#[cfg(feature = "cuda")]
mod gpu {
    use youquanti_gpu::cpu::network::Network as CpuNetwork;
    use youquanti_gpu::cuda::network::{DeviceTensor, Model, Network, OrtNetwork, OrtOptions, Precision};
    use youquanti_gpu::cuda::{Device, DeviceBuffer, Event, Stream};
    use youquanti_gpu::runtime::{self, Runtime};
    use youquanti_models::{ModelId, blendshapes};

    use super::*;

    const WARM: usize = 100;
    const ROUNDS: usize = 500;

    struct Subject {
        id: ModelId,
        reference: &'static str,
        files: &'static [&'static str],
        input: &'static str,
        /// Without the batch.
        shape: &'static [usize],
        sizes: &'static [(&'static str, i64)],
        outputs: &'static [(&'static str, &'static [usize])],
    }

    const SUBJECTS: [Subject; 5] = [
        Subject {
            id: ModelId::FaceLandmarksCpu,
            reference: "face_landmarks_478_cpu_v2",
            files: &["face_landmarks_478", "face_landmarks_478_cpu_v2", "face_landmarks_478_fp16"],
            input: "image",
            shape: &[3, 256, 256],
            sizes: &[],
            outputs: &[("landmarks", &[478, 3]), ("presence", &[1])],
        },
        Subject {
            id: ModelId::FaceBlendshapes,
            reference: "face_blendshapes_52_v2",
            files: &["face_blendshapes_52", "face_blendshapes_52_v2", "face_blendshapes_52_fp16"],
            input: "points",
            shape: &[146, 2],
            sizes: &[],
            outputs: &[("blendshapes", &[52])],
        },
        Subject {
            id: ModelId::FaceDetectMulti,
            reference: "yunet_v2",
            files: &["yunet", "yunet_v2", "yunet_fp16"],
            input: "image",
            shape: &[3, 384, 640],
            sizes: &[("H", 384), ("W", 640)],
            outputs: &[
                ("cls_8", &[3840, 1]),
                ("cls_16", &[960, 1]),
                ("cls_32", &[240, 1]),
                ("obj_8", &[3840, 1]),
                ("obj_16", &[960, 1]),
                ("obj_32", &[240, 1]),
                ("bbox_8", &[3840, 4]),
                ("bbox_16", &[960, 4]),
                ("bbox_32", &[240, 4]),
                ("kps_8", &[3840, 10]),
                ("kps_16", &[960, 10]),
                ("kps_32", &[240, 10]),
            ],
        },
        Subject {
            id: ModelId::FaceDetectShort,
            reference: "blazeface_short_128",
            files: &["blazeface_short_128", "blazeface_short_128_fp16"],
            input: "image",
            shape: &[3, 128, 128],
            sizes: &[],
            outputs: &[("regressors", &[896, 16]), ("scores", &[896, 1])],
        },
        Subject {
            id: ModelId::FaceDetectFull,
            reference: "blazeface_full_192",
            files: &["blazeface_full_192", "blazeface_full_192_fp16"],
            input: "image",
            shape: &[3, 192, 192],
            sizes: &[],
            outputs: &[("regressors", &[2304, 16]), ("scores", &[2304, 1])],
        },
    ];

    struct Picture {
        width: usize,
        height: usize,
        rgb: Vec<u8>,
    }

    fn picture(path: &Path) -> Picture {
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        Picture { width: info.width as usize, height: info.height as usize, rgb }
    }

    impl Picture {
        /// A planar picture of `[height, width]` that shows from `(x, y)` on, one of its pixels being `step` of ours.
        fn view(
            &self,
            [height, width]: [usize; 2],
            x: f32,
            y: f32,
            step: f32,
            planes: [usize; 3],
            map: fn(f32) -> f32,
        ) -> Vec<f32> {
            let mut out = Vec::with_capacity(3 * height * width);
            let at = |row: usize, column: usize, plane: usize| {
                f32::from(
                    self.rgb
                        [(row.min(self.height - 1) * self.width + column.min(self.width - 1)) * 3 + plane],
                )
            };
            for plane in planes {
                for row in 0..height {
                    for column in 0..width {
                        let (u, v) = ((x + column as f32 * step).max(0.0), (y + row as f32 * step).max(0.0));
                        let (fu, fv) = (u.fract(), v.fract());
                        let (u, v) = (u as usize, v as usize);
                        let top = at(v, u, plane) * (1.0 - fu) + at(v, u + 1, plane) * fu;
                        let bottom = at(v + 1, u, plane) * (1.0 - fu) + at(v + 1, u + 1, plane) * fu;
                        out.push(map(top * (1.0 - fv) + bottom * fv));
                    }
                }
            }
            out
        }
    }

    /// Input for `batch` items, each shown a little differently; blendshapes get the landmarks.
    fn input(subject: &Subject, picture: &Picture, landmarks: &[f32], batch: usize) -> Vec<f32> {
        let mut values = Vec::new();
        for item in 0..batch {
            let by = item as f32;
            match subject.id {
                ModelId::FaceLandmarksCpu => {
                    values.extend(picture.view(
                        [256, 256],
                        135.0 + by,
                        28.0 + 0.5 * by,
                        180.0 / 256.0,
                        [0, 1, 2],
                        |v| v / 255.0,
                    ));
                }
                ModelId::FaceBlendshapes => {
                    let points = landmarks[item * 1434..][..1434].as_chunks::<3>().0.try_into().unwrap();
                    let mut gathered = [0.0; 292];
                    blendshapes::gather(points, &mut gathered);
                    values.extend(gathered);
                }
                ModelId::FaceDetectMulti => {
                    values.extend(picture.view([384, 640], by, by, 1.3, [2, 1, 0], |v| v));
                }
                _ => {
                    let side = subject.shape[1];
                    let step = 512.0 / side as f32;
                    values.extend(picture.view([side, side], by, by, step, [0, 1, 2], |v| v / 127.5 - 1.0));
                }
            }
        }
        values
    }

    fn on_processor(
        runtime: &Runtime,
        subject: &Subject,
        onnx: &[u8],
        input: &[f32],
        batch: usize,
    ) -> Vec<Vec<f32>> {
        let mut sizes = subject.sizes.to_vec();
        sizes.push(("N", batch as i64));
        let names: Vec<&str> = subject.outputs.iter().map(|&(name, _)| name).collect();
        let mut network = CpuNetwork::load(runtime, subject.id, onnx, &sizes, &names).unwrap();
        network.input().copy_from_slice(input);
        let outputs = network.run().unwrap();
        (0..names.len()).map(|at| outputs.get(at).unwrap().to_vec()).collect()
    }

    struct Gpu {
        events: [Event; 2],
        stream: Stream,
        device: Device,
    }

    impl Gpu {
        fn open() -> Self {
            let device = Device::open(0).unwrap_or_else(|error| panic!("{error}"));
            let event = || Event::new(&device).unwrap();
            Self { events: [event(), event()], stream: Stream::new(&device).unwrap(), device }
        }

        fn buffer(&self, len: usize) -> DeviceBuffer<f32> {
            DeviceBuffer::new(&self.device, "tensor", len).unwrap()
        }

        /// Milliseconds to enqueue, to the end by the host, and on the device: sorted.
        fn time(&self, mut run: impl FnMut()) -> [Vec<f64>; 3] {
            let mut times = [vec![], vec![], vec![]];
            for round in 0..WARM + ROUNDS {
                self.stream.record(&self.events[0]).unwrap();
                let start = Instant::now();
                run();
                let enqueued = start.elapsed();
                self.stream.record(&self.events[1]).unwrap();
                self.stream.synchronize().unwrap();
                let ended = start.elapsed();
                let device = self.events[1].millis_since(&self.events[0]).unwrap();
                if round >= WARM {
                    times[0].push(enqueued.as_secs_f64() * 1e3);
                    times[1].push(ended.as_secs_f64() * 1e3);
                    times[2].push(f64::from(device));
                }
            }
            times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
            times
        }
    }

    /// A network with its memory.
    struct Loaded {
        // First: it uses the memory.
        network: OrtNetwork,
        input: DeviceBuffer<f32>,
        outputs: Vec<DeviceBuffer<f32>>,
    }

    fn quantiles(times: &[f64]) -> serde_json::Value {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        serde_json::json!([round(times[times.len() / 2]), round(times[times.len() * 99 / 100])])
    }

    fn report(times: &[Vec<f64>; 3]) -> serde_json::Value {
        serde_json::json!({
            "enqueue": quantiles(&times[0]), "host": quantiles(&times[1]), "device": quantiles(&times[2]),
        })
    }

    /// Largest difference in relation to the largest value; NaN counts as infinite.
    fn relative_error(got: &[f32], wanted: &[f32]) -> f32 {
        let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let differences = got.iter().zip(wanted).map(|(got, wanted)| (got - wanted).abs());
        let worst =
            differences.fold(0.0_f32, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) });
        worst / largest
    }

    /// Mean and largest distance in the picture plane, pixels of the crop.
    fn pixel_error(got: &[f32], wanted: &[f32]) -> [f32; 2] {
        let distances = got.as_chunks::<3>().0.iter().zip(wanted.as_chunks::<3>().0);
        let distances: Vec<f32> = distances.map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1])).collect();
        [distances.iter().sum::<f32>() / distances.len() as f32, distances.iter().fold(0.0, |a, &b| a.max(b))]
    }

    fn load(
        runtime: &Runtime,
        gpu: &Gpu,
        options: &OrtOptions,
        subject: &Subject,
        onnx: &[u8],
        values: &[f32],
    ) -> Result<Loaded, Box<dyn std::error::Error>> {
        let batch = values.len() / subject.shape.iter().product::<usize>();
        let tensor = |name, shape: &[usize], buffer: &DeviceBuffer<f32>| DeviceTensor {
            name,
            pointer: buffer.ptr(),
            shape: [&[batch], shape].concat(),
        };
        let mut input = gpu.buffer(values.len());
        // Nothing of what it is loaded with may come out later.
        input.write(&values.iter().map(|value| 0.5 - value).collect::<Vec<f32>>())?;
        let mut outputs = Vec::new();
        for (_, shape) in subject.outputs {
            outputs.push(gpu.buffer(batch * shape.iter().product::<usize>()));
        }
        let reads = tensor(subject.input, subject.shape, &input);
        let writes = subject.outputs.iter().zip(&outputs);
        let writes = writes.map(|(&(name, shape), buffer)| tensor(name, shape, buffer)).collect();
        let model = Model { id: subject.id, onnx, sizes: subject.sizes };
        // SAFETY: stream and memory are dropped after the network.
        let network = unsafe { OrtNetwork::load(runtime, options, &gpu.stream, &model, reads, writes)? };
        Ok(Loaded { network, input, outputs })
    }

    fn text(error: &dyn std::error::Error) -> String {
        std::iter::successors(Some(error), |error| error.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    }

    pub(super) fn main() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let folders: Vec<PathBuf> =
            [0, 2].iter().filter_map(|&at| arguments.get(at)).map(PathBuf::from).collect();
        let until =
            Instant::now() + Duration::from_secs(arguments.get(3).map_or(300, |text| text.parse().unwrap()));
        let picture = picture(Path::new(&arguments[1]));
        let file = |name: &str| {
            folders.iter().find_map(|folder| std::fs::read(folder.join(format!("{name}.onnx"))).ok())
        };
        let runtime = runtime::load().unwrap_or_else(|error| panic!("{error}"));
        println!("{}", serde_json::json!({"runtime": runtime.path(), "version": runtime.version()}));
        let gpu = Gpu::open();

        let subject = &SUBJECTS[0];
        let pictures = input(subject, &picture, &[], 16);
        let landmarks =
            on_processor(&runtime, subject, &file(subject.reference).unwrap(), &pictures, 16).remove(0);
        chain(&runtime, &gpu, &file, &picture, &landmarks);
        for subject in SUBJECTS.iter().rev() {
            for (batch, variants) in
                [(1, variants(subject, true)), (16, variants(subject, true)), (4, variants(subject, false))]
            {
                let input = input(subject, &picture, &landmarks, batch);
                let wanted =
                    on_processor(&runtime, subject, &file(subject.reference).unwrap(), &input, batch);
                for (name, options) in variants {
                    if Instant::now() > until {
                        println!("{}", serde_json::json!({"ended": "out of time"}));
                        return;
                    }
                    if let Some(onnx) = file(name) {
                        let mut line = serde_json::json!({
                            "file": name, "precision": options.precision.to_string(), "nhwc": options.channels_last,
                            "graph": options.graph, "batch": batch,
                        });
                        measure(&mut line, &runtime, &gpu, &options, subject, &onnx, &input, &wanted);
                        println!("{line}");
                    }
                }
            }
        }
    }

    /// What to compare: everything that could be the fastest, or only what is taken.
    fn variants(subject: &Subject, all: bool) -> Vec<(&'static str, OrtOptions)> {
        let taken = OrtOptions { channels_last: true, ..OrtOptions::new(0, subject.id) };
        let original = subject.files[0];
        let mut variants = vec![(original, taken.clone())];
        if all {
            let precise = OrtOptions { precision: Precision::Fp32, ..taken.clone() };
            variants.push((original, OrtOptions { channels_last: false, ..taken.clone() }));
            variants.push((original, OrtOptions { channels_last: false, ..precise.clone() }));
            variants.push((original, OrtOptions { graph: false, ..taken.clone() }));
            for &file in &subject.files[1..] {
                let precision = if file.ends_with("fp16") { Precision::Fp16 } else { Precision::Tf32 };
                variants.push((file, OrtOptions { precision, ..taken.clone() }));
                variants.push((file, OrtOptions { precision, channels_last: false, ..taken.clone() }));
            }
        }
        variants
    }

    #[allow(clippy::too_many_arguments, reason = "what is measured, and where the figures go")]
    fn measure(
        line: &mut serde_json::Value,
        runtime: &Runtime,
        gpu: &Gpu,
        options: &OrtOptions,
        subject: &Subject,
        onnx: &[u8],
        input: &[f32],
        wanted: &[Vec<f32>],
    ) {
        let begun = Instant::now();
        let mut loaded = match load(runtime, gpu, options, subject, onnx, input) {
            Ok(loaded) => loaded,
            Err(error) => {
                line["error"] = text(&*error).into();
                return;
            }
        };
        line["load_s"] = ((begun.elapsed().as_secs_f64() * 100.0).round() / 100.0).into();
        loaded.input.write(input).unwrap();
        for output in &mut loaded.outputs {
            output.write(&vec![f32::NAN; output.len()]).unwrap();
        }
        loaded.network.run(&gpu.stream).unwrap();
        let read = |output: &DeviceBuffer<f32>| {
            let mut values = vec![0.0; output.len()];
            output.read(&mut values).unwrap();
            values
        };
        let got: Vec<Vec<f32>> = loaded.outputs.iter().map(read).collect();
        let errors = got.iter().zip(wanted).map(|(got, wanted)| relative_error(got, wanted));
        line["error_relative"] = errors.fold(0.0_f32, f32::max).into();
        if subject.id == ModelId::FaceLandmarksCpu {
            line["error_px"] = pixel_error(&got[0], &wanted[0]).to_vec().into();
        }
        if subject.id == ModelId::FaceBlendshapes {
            let worst = got[0].iter().zip(&wanted[0]).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            line["error_absolute"] = worst.into();
        }
        line["ms"] = report(&gpu.time(|| loaded.network.run(&gpu.stream).unwrap()));
    }

    /// Landmarks and blendshapes recorded into one graph by the caller.
    fn chain(
        runtime: &Runtime,
        gpu: &Gpu,
        file: &dyn Fn(&str) -> Option<Vec<u8>>,
        picture: &Picture,
        landmarks: &[f32],
    ) {
        for batch in [1, 16] {
            let load = |subject: &Subject| {
                let onnx = file(subject.files[0]).unwrap();
                let input = input(subject, picture, landmarks, batch);
                load(runtime, gpu, &OrtOptions::new(0, subject.id), subject, &onnx, &input).unwrap()
            };
            let mut both: Vec<Loaded> = SUBJECTS[..2].iter().map(load).collect();
            let mut run = |stream: &Stream| both.iter_mut().try_for_each(|loaded| loaded.network.run(stream));
            let separate = gpu.time(|| run(&gpu.stream).unwrap());
            let graph = gpu.stream.capture(&mut run).unwrap();
            // SAFETY: the networks and their memory live.
            let together = gpu.time(|| unsafe { graph.launch(&gpu.stream) }.unwrap());
            let line = serde_json::json!({
                "chain": "landmarks + blendshapes", "batch": batch,
                "two_graphs": report(&separate), "one_graph": report(&together),
            });
            println!("{line}");
        }
    }
}
