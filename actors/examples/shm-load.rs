//! Writes made-up previews as fast as asked, for tests and benches of readers in other processes.
//!
//!     shm-load SESSION WIDTHxHEIGHT FPS FRAMES
//!
//! Camera `load` of a session that is announced as a real one is; 0 frames: until it is killed. The picture's first eight bytes
//! are the frame's number, the next eight the sum of all other words, which differ in every frame. Each frame has one face,
//! whose numbers all are the frame's: exact in `f32` up to 16 million.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use youquanti_actors::capture::CaptureError;
use youquanti_actors::clock::SystemClock;
use youquanti_actors::discovery::{self, Discovery};
use youquanti_actors::plane::{CameraPlan, DataPlane};
use youquanti_actors::preview::PreviewPlan;
use youquanti_frames::{remove_stale, results};
use youquanti_models::{
    CameraId, Clock, Face, FrameFaces, FrameFlags, FrameMeta, ParticipantId, PictureLayout, PixelFormat,
    TrackId,
};

const USAGE: &str = "usage: shm-load SESSION WIDTHxHEIGHT FPS FRAMES";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [session, size, fps, frames] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (width, height) = size.split_once('x').ok_or(USAGE)?;
    let layout = PictureLayout::packed(width.parse()?, height.parse()?, PixelFormat::Bgr24);
    let (period, frames) = (Duration::from_secs_f64(1.0 / fps.parse::<f64>()?), frames.parse::<u64>()?);

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let camera = CameraPlan {
        name: "load".parse()?,
        open: Arc::new(|_| Err(CaptureError::Disconnected { device: "load".to_owned(), source: None })),
        slots: PreviewPlan::SLOTS,
        lossless: false,
        offsets: Arc::default(),
        video: None,
    };
    remove_stale("/dev/shm".as_ref(), &format!("{session}."))?;
    let plane = DataPlane::new(
        Arc::clone(&clock),
        session.clone(),
        "/dev/shm".into(),
        vec![camera],
        PreviewPlan::SLOTS,
    );
    plane.with_discovery(Discovery::new(&discovery::default_folder(), session, clock.now(), clock.utc())?);
    let plan = PreviewPlan {
        width: layout.width,
        height: layout.height,
        format: layout.format,
        max_fps: 1.0,
        slots: PreviewPlan::SLOTS,
        max_faces: 2,
        draw: Arc::new(|| Box::new(|_, _, _| Ok(()))),
    };
    let ring = plane.preview_ring_for(CameraId(0), layout, &plan)?;
    let (mut found, mut due) = (FrameFaces::with_capacity(1), clock.now());
    for seq in (0..).take_while(|&seq| frames == 0 || seq < frames) {
        let mut slot = ring.try_acquire().ok_or("no slot is free")?;
        let (pixels, area) = slot.areas_mut();
        paint(pixels, seq);
        found.faces.clear();
        found.faces.push(face(seq));
        let state = results::State::Analysed { faces: &found, participants: &[Some(ParticipantId(1))] };
        let size = [layout.width, layout.height];
        results::write(area, state, size, size, clock.now());
        let now = clock.now();
        let meta = FrameMeta {
            camera: CameraId(0),
            seq,
            driver_seq: 0,
            captured_at: now,
            received_at: now,
            flags: FrameFlags::default(),
        };
        drop(slot.freeze(meta, layout.max_bytes()));
        due = due + period;
        thread::sleep(due.saturating_since(clock.now()));
    }
    drop(ring);
    plane.retire_rings();
    Ok(())
}

fn paint(pixels: &mut [u8], seq: u64) {
    let (head, words) = pixels.split_at_mut(16);
    let mut sum = 0_u64;
    for (k, word) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = (seq + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ k as u64;
        sum = sum.wrapping_add(value);
        *word = value.to_le_bytes();
    }
    head[..8].copy_from_slice(&seq.to_le_bytes());
    head[8..].copy_from_slice(&sum.to_le_bytes());
}

fn face(seq: u64) -> Face {
    let value = seq as f32;
    Face {
        track: TrackId(seq as u32),
        score: value,
        bbox: [value; 4],
        presence: value,
        sharpness: None,
        landmarks: [[value; 3]; youquanti_models::LANDMARK_COUNT],
        blendshapes: [value; youquanti_models::BLENDSHAPE_COUNT],
        head_pose: [[value; 4]; 4],
    }
}
