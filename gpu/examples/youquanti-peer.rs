//! Times the CPU pipeline on a clip, for the comparison with other programs (`benches/peers`).
//!
//!     youquanti-peer --raw frames.rgb --width 1280 --height 720 --faces 4 --threads 2 --warmup 10 --out out.json
//!
//! All frames are read into memory first; what is timed is from handing a frame over to having its faces.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::sync::Arc;

use serde_json::json;
use youquanti_gpu::testing::OwnedFrame;
use youquanti_gpu::{CameraInput, CpuOptions, CpuPipeline, Detector, DetectorSize, FaceOptions};
use youquanti_models::{
    CameraId, Clock, FrameFaces, PictureLayout, Pipeline, PixelFormat, Timestamp, UtcNanos,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::read(std::env::args().skip(1))?;
    let (width, height) = (arguments.number("width", 1280)?, arguments.number("height", 720)?);
    let layout = PictureLayout::packed(width, height, PixelFormat::Rgb24);
    let max_faces = arguments.number("faces", 1)?;
    let warmup = arguments.number("warmup", 10)?;
    let detector = match arguments.text("detector").unwrap_or("yunet") {
        "yunet" => Detector::YuNet,
        "short" => Detector::BlazeFaceShort,
        "full" => Detector::BlazeFaceFull,
        other => return Err(format!("--detector {other} is not yunet, short or full").into()),
    };
    let mut faces =
        FaceOptions::new(vec![CameraInput { camera: CameraId(0), layout }]).with_detector(detector);
    faces.tracker.max_faces = max_faces;
    faces.tracker.detect_every = arguments.number("every", faces.tracker.detect_every)?;
    if let Some(width) = arguments.text("detector-width") {
        faces.detector_size = DetectorSize::Width(width.parse()?);
    }
    let options = CpuOptions {
        faces,
        threads: arguments.number("threads", 1)?,
        reason: "asked for by name".to_owned(),
    };
    let mut pipeline = CpuPipeline::new(&options, Arc::new(Monotonic))?;

    let raw = fs::read(arguments.text("raw").ok_or("--raw FILE is missing")?)?;
    let frames: Vec<OwnedFrame> = (0..)
        .zip(raw.chunks_exact(layout.max_bytes()))
        .map(|(seq, bytes)| OwnedFrame::new(CameraId(0), seq, layout, bytes.to_vec()))
        .collect();
    drop(raw);
    if frames.len() <= warmup {
        return Err(format!("{} frames are too few for a warm-up of {warmup}", frames.len()).into());
    }

    let mut out = FrameFaces::with_capacity(max_faces);
    let mut wall_ms = Vec::with_capacity(frames.len());
    let mut faces_per_frame = BTreeMap::<usize, usize>::new();
    let mut eye_mid = Vec::with_capacity(frames.len());
    let mut cpu_at_start = 0.0;
    let count = frames.len() - warmup;
    for (at, frame) in frames.into_iter().enumerate() {
        if at == warmup {
            cpu_at_start = cpu_seconds();
        }
        let before = Monotonic.now();
        pipeline.submit(frame);
        let (_, result) = pipeline.collect(&mut out).ok_or("nothing was submitted")?;
        let wall = Monotonic.now().saturating_since(before);
        result?;
        if at >= warmup {
            wall_ms.push(wall.as_secs_f64() * 1e3);
            *faces_per_frame.entry(out.faces.len()).or_default() += 1;
            eye_mid.push(
                out.faces
                    .iter()
                    .map(|face| {
                        let ([x0, y0, _], [x1, y1, _]) = (face.landmarks[33], face.landmarks[263]);
                        [(x0 + x1) / 2.0, (y0 + y1) / 2.0]
                    })
                    .collect::<Vec<_>>(),
            );
        }
    }
    let cpu = (cpu_seconds() - cpu_at_start) / count as f64;
    let mean = wall_ms.iter().sum::<f64>() / count as f64;
    wall_ms.sort_by(f64::total_cmp);
    let quantile = |q: f64| wall_ms[((count - 1) as f64 * q).round() as usize];
    let mut result = json!({
        "peer": format!("youquanti {} ({})", env!("CARGO_PKG_VERSION"), Pipeline::<OwnedFrame>::info(&pipeline).runtime),
        "median_ms": quantile(0.5),
        "p95_ms": quantile(0.95),
        "mean_ms": mean,
        "cpu_s_per_frame": cpu,
        "fps": 1e3 / mean,
        "frames": count,
        "faces_per_frame": faces_per_frame,
    });
    println!("{result}");
    if let Some(path) = arguments.text("out") {
        result["eye_mid"] = json!(eye_mid);
        fs::write(path, result.to_string())?;
    }
    Ok(())
}

/// CPU seconds of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> Timestamp {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Timestamp(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn utc(&self) -> UtcNanos {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        UtcNanos(time.tv_sec * 1_000_000_000 + time.tv_nsec)
    }
}

/// `--name value` pairs.
struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let arguments: Vec<String> = arguments.collect();
        let mut pairs = BTreeMap::new();
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} has no value", pair[0]).into()) };
            let name = name.strip_prefix("--").ok_or_else(|| format!("{name} is not an option"))?;
            pairs.insert(name.to_owned(), value.clone());
        }
        Ok(Self(pairs))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, Box<dyn Error>>
    where
        T::Err: Error + 'static,
    {
        Ok(match self.text(name) {
            Some(text) => text.parse().map_err(|error| format!("--{name} {text}: {error}"))?,
            None => default,
        })
    }
}
