//! How fast the pipeline on a GPU is: `cuda-bench [SECONDS] > h100.json`, progress on standard error.
//!
//! One process, one pipeline, 64 cameras of 1920 × 1080 YUYV whose frames lie in page-locked rings: filled once and published
//! again, so that making pictures costs nothing. Latency is from handing a frame over to its result in host memory.
#![allow(clippy::disallowed_methods, reason = "measures time")]
#![allow(clippy::unwrap_used, reason = "a measurement ends at the first thing that is wrong")]

#[cfg(feature = "cuda")]
#[path = "../tests/common/mod.rs"]
mod common;

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("built without the feature cuda");
    std::process::exit(2);
}

#[cfg(feature = "cuda")]
fn main() {
    bench::main();
}

#[cfg(feature = "cuda")]
mod bench {
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};
    use youquanti_frames::{FrameHandle, FrameRing, RingOptions};
    use youquanti_gpu::cuda::{CudaOptions, CudaPipeline, StageTimes};
    use youquanti_gpu::{CameraInput, FaceOptions};
    use youquanti_models::{
        CameraId, Clock, FrameFaces, FrameFlags, FrameMeta, PictureLayout, Pipeline, PixelFormat, Timestamp,
        UtcNanos,
    };

    use super::common::Rgb;
    use super::common::scene::{HEAD, Scene, crowd};

    const CAMERAS: u16 = 64;
    const SLOTS: usize = 3;
    /// Frames that are not counted.
    const WARM: usize = 100;

    struct Monotonic;

    impl Clock for Monotonic {
        fn now(&self) -> Timestamp {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            Timestamp(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
        }

        fn utc(&self) -> UtcNanos {
            UtcNanos(0)
        }
    }

    /// A camera whose pictures are there already.
    struct Camera {
        id: CameraId,
        seq: u64,
        faces: usize,
        ring: FrameRing,
        bytes: usize,
    }

    impl Camera {
        fn new(id: u16, picture: &Rgb, faces: usize) -> Self {
            let frame = picture.as_format(PixelFormat::Yuyv, 0);
            let picture = youquanti_models::Frame::picture(&frame);
            let mut options = RingOptions::new(format!("bench-{}-{id}", std::process::id()), picture.layout);
            options.slots = SLOTS;
            let ring = FrameRing::create(&options).unwrap();
            let mut slots: Vec<_> = (0..SLOTS).map(|_| ring.try_acquire().unwrap()).collect();
            slots.iter_mut().for_each(|slot| slot.bytes_mut().copy_from_slice(picture.bytes));
            drop(slots);
            Self { id: CameraId(id), seq: 0, faces, ring, bytes: picture.bytes.len() }
        }

        /// The next frame, unless all slots are in use.
        fn frame(&mut self) -> Option<FrameHandle> {
            let slot = self.ring.try_acquire()?;
            let at = Monotonic.now();
            let meta = FrameMeta {
                camera: self.id,
                seq: self.seq,
                driver_seq: self.seq as u32,
                captured_at: at,
                received_at: at,
                flags: FrameFlags::default(),
            };
            self.seq += 1;
            Some(slot.freeze(meta, self.bytes))
        }
    }

    /// What `nvidia-smi` says of the GPU's use, twice a second.
    struct Watch(Option<Child>);

    impl Watch {
        fn start() -> Self {
            let what = [
                "--query-gpu=utilization.gpu,clocks.sm,power.draw",
                "--format=csv,noheader,nounits",
                "-lms",
                "500",
            ];
            Self(Command::new("nvidia-smi").args(what).stdout(Stdio::piped()).spawn().ok())
        }

        /// Means of use in percent, clock in MHz, power in W.
        fn end(self) -> Value {
            let Some(mut child) = self.0 else { return Value::Null };
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let rows: Vec<Vec<f64>> = text
                .lines()
                .map(|line| {
                    line.split(", ").filter_map(|value| value.trim().parse().ok()).collect::<Vec<f64>>()
                })
                .filter(|row| row.len() == 3)
                .collect();
            let mean = |at: usize| rows.iter().map(|row| row[at]).sum::<f64>() / rows.len().max(1) as f64;
            json!({"gpu_use_percent": round(mean(0)), "clock_mhz": round(mean(1)), "power_w": round(mean(2))})
        }
    }

    /// Seconds of processor time that this process has had.
    fn processor_s() -> f64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }

    fn round(value: f64) -> f64 {
        (value * 1e4).round() / 1e4
    }

    fn quantile(sorted: &[f64], q: f64) -> f64 {
        round(sorted[((sorted.len() - 1) as f64 * q).round() as usize])
    }

    type Gpu = CudaPipeline<FrameHandle>;

    fn milliseconds(times: &StageTimes) -> [f64; 6] {
        let StageTimes { upload, detect, crop, landmarks, blendshapes, download } = *times;
        [upload, detect, crop, landmarks, blendshapes, download].map(f64::from)
    }

    /// One frame after the other, each when it is due, or when the one before is done.
    fn latency(gpu: &mut Gpu, camera: &mut Camera, frames: usize, every: Option<Duration>) -> Value {
        let mut out = FrameFaces::with_capacity(16);
        let (mut all, mut tracked, mut detected) = (Vec::new(), Vec::new(), Vec::new());
        let mut stages: [Vec<f64>; 6] = Default::default();
        let mut due = Instant::now();
        for k in 0..frames + WARM {
            if let Some(every) = every {
                due += every;
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
            }
            let frame = camera.frame().unwrap();
            let start = Instant::now();
            gpu.submit(frame);
            let (frame, result) = gpu.collect(&mut out).unwrap();
            let millis = start.elapsed().as_secs_f64() * 1e3;
            result.unwrap();
            drop(frame);
            if k < WARM {
                continue;
            }
            assert_eq!(out.faces.len(), camera.faces, "frame {k}");
            all.push(millis);
            if out.detector_ran {
                detected.push(millis)
            } else {
                tracked.push(millis)
            }
            let times = milliseconds(&gpu.stage_times().unwrap());
            for (stage, time) in stages.iter_mut().zip(times) {
                if time > 0.0 {
                    stage.push(time);
                }
            }
        }
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        let (all, tracked, detected) = (sorted(all), sorted(tracked), sorted(detected));
        let names = ["upload", "detect", "crop", "landmarks", "blendshapes", "download"];
        let stages = names.into_iter().zip(stages).filter(|(_, times)| !times.is_empty());
        let stages: serde_json::Map<String, Value> =
            stages.map(|(name, times)| (name.to_owned(), quantile(&sorted(times), 0.5).into())).collect();
        json!({
            "frames": all.len(), "p50_ms": quantile(&all, 0.5), "p99_ms": quantile(&all, 0.99), "max_ms": quantile(&all, 1.0),
            "tracked_p50_ms": quantile(&tracked, 0.5),
            "detecting_p50_ms": if detected.is_empty() { Value::Null } else { quantile(&detected, 0.5).into() },
            "stages": stages,
        })
    }

    /// Cameras whose next frame is there as soon as a slot is free.
    fn throughput(gpu: &mut Gpu, cameras: &mut [Camera], seconds: f64) -> Value {
        let mut out = FrameFaces::with_capacity(16);
        let (mut turn, mut count, mut faces) = (0, 0_u64, 0_u64);
        let watch = Watch::start();
        let (mut start, mut processor) = (Instant::now(), processor_s());
        let mut warm = cameras.len() as u64 * 20;
        loop {
            // A round over all cameras without a frame means that all of them wait for their slots.
            let mut without = 0;
            while gpu.has_room() && without < cameras.len() {
                match cameras[turn].frame() {
                    Some(frame) => {
                        gpu.submit(frame);
                        without = 0;
                    }
                    None => without += 1,
                }
                turn = (turn + 1) % cameras.len();
            }
            let (frame, result) = gpu.collect(&mut out).unwrap();
            result.unwrap();
            drop(frame);
            if warm > 0 {
                warm -= 1;
                (start, processor) = (Instant::now(), processor_s());
                continue;
            }
            count += 1;
            faces += out.faces.len() as u64;
            if start.elapsed().as_secs_f64() > seconds {
                break;
            }
        }
        let (elapsed, processor) = (start.elapsed().as_secs_f64(), processor_s() - processor);
        while let Some((_, result)) = gpu.collect(&mut out) {
            result.unwrap();
        }
        json!({
            "fps": round(count as f64 / elapsed), "fps_per_camera": round(count as f64 / elapsed / cameras.len() as f64),
            "faces_per_frame": round(faces as f64 / count as f64), "host_cores": round(processor / elapsed),
            "host_ms_per_frame": round(processor * 1e3 / count as f64), "gpu": watch.end(),
        })
    }

    /// Cameras at 60 frames a second, a little apart; the newest frame of each wins, as in a session.
    fn paced(gpu: &mut Gpu, cameras: &mut [Camera], seconds: f64) -> Value {
        let mut out = FrameFaces::with_capacity(16);
        let (period, n) = (Duration::from_secs(1) / 60, cameras.len() as u32);
        let start = Instant::now();
        let mut due: Vec<Instant> = (0..n).map(|k| start + period * k / n).collect();
        let mut waiting: Vec<Option<(Instant, FrameHandle)>> = (0..n).map(|_| None).collect();
        let mut inside = std::collections::VecDeque::new();
        let (mut captured, mut dropped, mut latency, mut turn) = (0_u64, 0_u64, Vec::new(), 0);
        while start.elapsed().as_secs_f64() < seconds {
            for (at, camera) in cameras.iter_mut().enumerate() {
                if due[at] <= Instant::now() {
                    due[at] += period;
                    captured += 1;
                    // A frame that is replaced gives its slot back first, as a session's mailbox does.
                    dropped += u64::from(waiting[at].take().is_some());
                    match camera.frame() {
                        Some(frame) => waiting[at] = Some((Instant::now(), frame)),
                        None => dropped += 1,
                    }
                }
            }
            for _ in 0..n {
                if !gpu.has_room() {
                    break;
                }
                if let Some((since, frame)) = waiting[turn].take() {
                    inside.push_back(since);
                    gpu.submit(frame);
                }
                turn = (turn + 1) % waiting.len();
            }
            if let Some(since) = inside.pop_front() {
                gpu.collect(&mut out).unwrap().1.unwrap();
                latency.push(since.elapsed().as_secs_f64() * 1e3);
            }
        }
        while let Some((_, result)) = gpu.collect(&mut out) {
            result.unwrap();
        }
        latency.sort_by(f64::total_cmp);
        json!({
            "captured": captured, "dropped": dropped, "p50_ms": quantile(&latency, 0.5), "p99_ms": quantile(&latency, 0.99),
            "max_ms": quantile(&latency, 1.0),
        })
    }

    pub(super) fn main() {
        let seconds: f64 = std::env::args().nth(1).map_or(5.0, |text| text.parse().unwrap());
        let scene = Scene::load();
        let draw = |[width, height]: [u32; 2], side: usize, eye: f32| {
            scene.draw(width, height, HEAD, &crowd(side, side, width, height, eye))
        };
        let (hd, uhd) = ([1920, 1080], [3840, 2160]);
        let one = draw(hd, 1, 150.0);
        let mut cameras: Vec<Camera> = (0..CAMERAS).map(|id| Camera::new(id, &one, 1)).collect();
        let mut others = [
            Camera::new(CAMERAS, &draw(hd, 2, 90.0), 4),
            Camera::new(CAMERAS + 1, &draw(hd, 4, 60.0), 16),
            Camera::new(CAMERAS + 2, &draw(uhd, 1, 300.0), 1),
        ];
        let inputs = cameras
            .iter()
            .chain(&others)
            .map(|camera| CameraInput { camera: camera.id, layout: camera.ring.layout() });
        let mut faces = FaceOptions::new(inputs.collect());
        faces.tracker.max_faces = 16;
        let options = CudaOptions { reason: "measured".to_owned(), ..CudaOptions::new(faces, 0) };
        eprintln!("loading the networks");
        let begun = Instant::now();
        let mut gpu = Gpu::new(&options, Arc::new(Monotonic), |frame| Some(frame.memory()))
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        let load_s = round(begun.elapsed().as_secs_f64());
        let memory = gpu.device().memory().unwrap();
        eprintln!("loaded in {load_s} s, {memory:?}; one camera");
        let flat_out = latency(&mut gpu, &mut cameras[0], 3000, None);
        eprintln!("{flat_out:#}\nat 60 frames a second");
        let at_60 =
            latency(&mut gpu, &mut cameras[0], (60.0 * seconds) as usize, Some(Duration::from_secs(1) / 60));
        let names = ["1080p_4_faces", "1080p_16_faces", "2160p_1_face"];
        let more: serde_json::Map<String, Value> = names
            .into_iter()
            .zip(&mut others)
            .map(|(name, camera)| {
                eprintln!("{name}");
                (name.to_owned(), latency(&mut gpu, camera, 1000, None))
            })
            .collect();
        let (mut by_count, mut at_pace) = (serde_json::Map::new(), serde_json::Map::new());
        for count in [1, 4, 16, 64] {
            eprintln!("{count} cameras");
            by_count.insert(count.to_string(), throughput(&mut gpu, &mut cameras[..count], seconds));
            at_pace.insert(count.to_string(), paced(&mut gpu, &mut cameras[..count], seconds));
        }
        let info = gpu.info();
        let result = json!({
            "device": info.device, "runtime": info.runtime, "layout": PictureLayout::packed(1920, 1080, PixelFormat::Yuyv).max_bytes(),
            "load_s": load_s, "device_memory_used_mib": (memory.total - memory.free) >> 20,
            "p50_ms": flat_out["p50_ms"], "p99_ms": flat_out["p99_ms"], "max_ms": flat_out["max_ms"], "stages": flat_out["stages"],
            "flat_out": flat_out, "at_60_fps": at_60, "more": more, "cameras": by_count, "cameras_at_60_fps": at_pace,
        });
        println!("{result:#}");
    }
}
