//! A camera that fails on command: any device behind a [`Switch`].
//!
//! Owns what each fault looks like to whoever captures: the errors, flags, numbers and stamps that drivers of
//! real cameras give. For rehearsals; a session that is not rehearsed never has one. Never decides when to fail.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use youquanti_models::{Clock, FrameFlags, PictureLayout, PixelFormat, Timestamp};

use super::{CaptureDevice, CaptureError, Captured, DeviceInfo, Pace};
use crate::dice::Dice;
use crate::plane::OpenDevice;

/// Declares the faults with their names.
macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $fault:ident = $name:literal,)+) => {
        /// What can go wrong with a camera.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CameraFault {
            $($(#[doc = $doc])+ $fault,)+
        }

        impl CameraFault {
            /// All of them.
            pub const ALL: &'static [CameraFault] = &[$(Self::$fault),+];

            /// As it is written in a campaign and in its matrix.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$fault => $name),+ }
            }

            /// What it is, one sentence or two.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$fault => concat!($($doc),+).trim_ascii_start()),+ }
            }
        }
    };
}

faults! {
    /// `VIDIOC_DQBUF` gives EIO for ever, until the camera is reopened.
    StreamingError = "streaming-error",
    /// The same, and the first reopening fails at `VIDIOC_STREAMON`.
    StreamonError = "streamon-error",
    /// The same, and the first reopening fails at `VIDIOC_REQBUFS`.
    ReqbufsError = "reqbufs-error",
    /// `VIDIOC_QBUF` gives EINVAL twice: once is forgiven.
    QbufError = "qbuf-error",
    /// The driver marks every frame as damaged.
    ErrorFlag = "error-flag",
    /// The driver drops three frames of ten, at random.
    DroppedBuffers = "dropped-buffers",
    /// No frames come.
    Stall = "stall",
    /// ENODEV until the camera is closed, then it can be opened again.
    Disconnect = "disconnect",
    /// ENODEV, and nothing to open.
    Unplug = "unplug",
    /// The driver's numbers pass 2³².
    SequenceWrap = "sequence-wrap",
    /// Stamps are those of an hour ago.
    StampWrap = "stamp-wrap",
    /// Every other frame, numbered in succession.
    ReducedRate = "reduced-rate",
    /// Pictures upside down.
    Flip = "flip",
    /// Random bytes instead of the picture.
    Junk = "junk",
    /// The picture ends after a third of its bytes.
    Cut = "cut",
    /// Four damaged frames, then none until the camera is reopened.
    UsbErrors = "usb-errors",
    /// No frames come, and reopening fails at `VIDIOC_S_FMT`: the writer of a loopback device is gone.
    WriterGone = "writer-gone",
    /// The device's code panics.
    Panic = "panic",
    /// The device's code does not come back, until the fault is over.
    Hang = "hang",
    /// EIO, and then opening does not come back, until the fault is over.
    HangInOpen = "hang-in-open",
}

impl CameraFault {
    /// Whether it goes on for as long as it is switched on. The others strike once.
    pub const fn lasts(self) -> bool {
        use CameraFault::*;
        matches!(
            self,
            ErrorFlag
                | DroppedBuffers
                | Stall
                | Unplug
                | SequenceWrap
                | StampWrap
                | ReducedRate
                | Flip
                | Junk
                | Cut
                | WriterGone
        )
    }
}

/// Share of frames that [`CameraFault::DroppedBuffers`] takes.
const DROPPED_SHARE: f64 = 0.3;

/// Frames from a [`CameraFault::SequenceWrap`] to the wrap.
const FRAMES_TO_WRAP: u32 = 8;

/// Damaged frames of [`CameraFault::UsbErrors`].
const DAMAGED_BUFFERS: u32 = 4;

/// How far [`CameraFault::StampWrap`] puts stamps back.
const STAMPS_BACK: Duration = Duration::from_secs(3600);

const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;

/// What the next poll of the device comes to, once.
#[derive(Clone, Copy, Debug)]
enum Strike {
    /// The stream is dead from now on: this call says this.
    Dead(&'static str, i32),
    /// One call fails.
    Once(&'static str, i32),
    Gone,
    DamagedThenSilent,
    Panic,
    Hang,
}

/// What opening comes to.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    Once(&'static str, i32),
    WhileOn(&'static str, i32),
    NotThere,
    Hang,
}

#[derive(Debug)]
struct State {
    strike: Option<Strike>,
    refusal: Option<Refusal>,
    /// What happens to frames.
    distortion: Option<CameraFault>,
    /// How often the switch was moved: whoever hangs waits for the next time.
    moves: u64,
    dice: Dice,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

/// Makes one camera fail, and stop failing. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Switch(Arc<Shared>);

impl Switch {
    /// A switch that is off. `seed` decides which frames are lost and what junk looks like.
    pub fn new(seed: u64) -> Self {
        let state = State { strike: None, refusal: None, distortion: None, moves: 0, dice: Dice::new(seed) };
        Self(Arc::new(Shared { state: Mutex::new(state), moved: Condvar::new() }))
    }

    /// Begins a fault, and ends the one before.
    pub fn begin(&self, fault: CameraFault) {
        use CameraFault::*;
        let broken = Some(Strike::Dead("VIDIOC_DQBUF", EIO));
        let (strike, refusal) = match fault {
            StreamingError => (broken, None),
            StreamonError => (broken, Some(Refusal::Once("VIDIOC_STREAMON", EINVAL))),
            ReqbufsError => (broken, Some(Refusal::Once("VIDIOC_REQBUFS", EINVAL))),
            QbufError => (Some(Strike::Once("VIDIOC_QBUF", EINVAL)), None),
            Disconnect => (Some(Strike::Gone), None),
            Unplug => (Some(Strike::Gone), Some(Refusal::NotThere)),
            UsbErrors => (Some(Strike::DamagedThenSilent), None),
            WriterGone => (None, Some(Refusal::WhileOn("VIDIOC_S_FMT", EINVAL))),
            Panic => (Some(Strike::Panic), None),
            Hang => (Some(Strike::Hang), None),
            HangInOpen => (broken, Some(Refusal::Hang)),
            ErrorFlag | DroppedBuffers | Stall | SequenceWrap | StampWrap | ReducedRate | Flip | Junk
            | Cut => (None, None),
        };
        self.0.turn(strike, refusal, fault.lasts().then_some(fault));
    }

    /// Ends the fault. What hung goes on, and finds that another has taken its place. A stream whose camera was
    /// pulled out is dead, even if it is plugged in again before anybody looks.
    pub fn end(&self) {
        let strike = self.0.state().strike.filter(|strike| matches!(strike, Strike::Gone));
        self.0.turn(strike, None, None);
    }

    /// The same camera behind this switch.
    pub fn wrap(&self, open: OpenDevice) -> OpenDevice {
        let shared = Arc::clone(&self.0);
        Arc::new(move |clock: Arc<dyn Clock>| {
            shared.pass_opening()?;
            let inner = open(clock)?;
            let described = inner.describe().clone();
            // A camera that can stall is one that frames are expected of.
            let info = DeviceInfo { is_live: described.is_live || described.pace == Pace::Real, ..described };
            Ok(Box::new(FaultyDevice {
                inner,
                info,
                shared: Arc::clone(&shared),
                dead: None,
                damaged_left: None,
                hidden: 0,
                added: 0,
                wrapped_at_move: None,
                is_second: false,
            }))
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, strike: Option<Strike>, refusal: Option<Refusal>, distortion: Option<CameraFault>) {
        let mut state = self.state();
        (state.strike, state.refusal, state.distortion) = (strike, refusal, distortion);
        state.moves += 1;
        drop(state);
        self.moved.notify_all();
    }

    /// Waits until the switch has moved on from move `at`.
    fn hang(&self, at: u64) {
        drop(self.moved.wait_while(self.state(), |state| state.moves == at));
    }

    fn pass_opening(&self) -> Result<(), CaptureError> {
        let (refusal, at) = {
            let mut state = self.state();
            let refusal = match state.refusal {
                Some(Refusal::Once(..) | Refusal::Hang) => state.refusal.take(),
                lasting => lasting,
            };
            (refusal, state.moves)
        };
        match refusal {
            None => Ok(()),
            Some(Refusal::Once(call, errno) | Refusal::WhileOn(call, errno)) => Err(driver(call, errno)),
            Some(Refusal::NotThere) => Err(disconnected("the camera", ENOENT)),
            Some(Refusal::Hang) => {
                self.hang(at);
                Ok(())
            }
        }
    }
}

fn driver(call: &'static str, errno: i32) -> CaptureError {
    CaptureError::Driver { call, source: io::Error::from_raw_os_error(errno) }
}

fn disconnected(device: &str, errno: i32) -> CaptureError {
    CaptureError::Disconnected {
        device: device.to_owned(),
        source: Some(io::Error::from_raw_os_error(errno)),
    }
}

struct FaultyDevice {
    inner: Box<dyn CaptureDevice>,
    info: DeviceInfo,
    shared: Arc<Shared>,
    /// What the dead stream says.
    dead: Option<Strike>,
    /// Damaged frames that come before it falls silent for good.
    damaged_left: Option<u32>,
    /// Frames that were taken away without a jump of the numbers.
    hidden: u32,
    /// What is added to the driver's numbers.
    added: u32,
    /// The move of the switch for which the numbers were last made to wrap.
    wrapped_at_move: Option<u64>,
    /// The last frame was given, so the next is one of those that a reduced rate leaves out.
    is_second: bool,
}

impl FaultyDevice {
    fn strike(&mut self) -> Result<(), CaptureError> {
        let (strike, at) = {
            let mut state = self.shared.state();
            (state.strike.take(), state.moves)
        };
        match strike {
            None => {}
            Some(Strike::Once(call, errno)) => return Err(driver(call, errno)),
            Some(Strike::DamagedThenSilent) => self.damaged_left = Some(DAMAGED_BUFFERS),
            Some(Strike::Panic) => panic!("injected panic in the device's code"),
            Some(Strike::Hang) => self.shared.hang(at),
            Some(dead @ (Strike::Dead(..) | Strike::Gone)) => self.dead = Some(dead),
        }
        match self.dead {
            Some(Strike::Dead(call, errno)) => Err(driver(call, errno)),
            Some(_) => Err(disconnected(&self.info.id, ENODEV)),
            None => Ok(()),
        }
    }

    /// What comes of a frame; `None` when nothing does.
    fn distort(&mut self, mut captured: Captured, slot: Option<&mut [u8]>) -> Option<Captured> {
        let mut state = self.shared.state();
        match self.damaged_left {
            Some(0) => return None,
            Some(left) => {
                self.damaged_left = Some(left - 1);
                captured.flags = captured.flags.with(FrameFlags::DAMAGED);
            }
            None => {}
        }
        let picture = slot.map(|slot| &mut slot[..captured.bytes_used]);
        let distortion = state.distortion;
        match distortion {
            Some(CameraFault::ErrorFlag) => captured.flags = captured.flags.with(FrameFlags::DAMAGED),
            Some(CameraFault::DroppedBuffers) if state.dice.unit() < DROPPED_SHARE => return None,
            Some(CameraFault::Stall | CameraFault::WriterGone) => return None,
            Some(CameraFault::SequenceWrap) if self.wrapped_at_move != Some(state.moves) => {
                self.wrapped_at_move = Some(state.moves);
                let number = captured.driver_seq.wrapping_sub(self.hidden);
                self.added = number.wrapping_add(FRAMES_TO_WRAP).wrapping_neg();
            }
            Some(CameraFault::StampWrap) => {
                captured.captured_at = (captured.captured_at - STAMPS_BACK).max(Timestamp(1));
            }
            Some(CameraFault::ReducedRate) => {
                self.is_second = !self.is_second;
                if !self.is_second {
                    self.hidden = self.hidden.wrapping_add(1);
                    return None;
                }
            }
            Some(CameraFault::Flip) => {
                if let Some(picture) = picture {
                    upside_down(picture, self.info.layout);
                }
            }
            Some(CameraFault::Junk) => {
                for part in picture.into_iter().flat_map(|picture| picture.chunks_mut(8)) {
                    part.copy_from_slice(&state.dice.roll().to_ne_bytes()[..part.len()]);
                }
            }
            Some(CameraFault::Cut) => {
                captured.bytes_used /= 3;
                // As a driver's short frame: a JPEG is as long as it is.
                if self.info.layout.format != PixelFormat::Mjpg {
                    captured.flags = captured.flags.with(FrameFlags::DAMAGED);
                }
            }
            _ => {}
        }
        captured.driver_seq = captured.driver_seq.wrapping_sub(self.hidden).wrapping_add(self.added);
        Some(captured)
    }
}

/// Turns the lines of the first plane round; a JPEG, which has none, stays as it is.
fn upside_down(picture: &mut [u8], layout: PictureLayout) {
    let stride = layout.stride as usize;
    let plane = (stride * layout.height as usize).min(picture.len());
    let mut rest = &mut picture[..plane];
    while stride > 0 && rest.len() >= 2 * stride {
        let (first, others) = rest.split_at_mut(stride);
        let (middle, last) = others.split_at_mut(others.len() - stride);
        first.swap_with_slice(last);
        rest = middle;
    }
}

impl CaptureDevice for FaultyDevice {
    fn describe(&self) -> &DeviceInfo {
        &self.info
    }

    fn poll_capture(
        &mut self,
        cx: &mut Context<'_>,
        mut slot: Option<&mut [u8]>,
    ) -> Poll<Result<Captured, CaptureError>> {
        self.strike()?;
        let captured = ready!(self.inner.poll_capture(cx, slot.as_deref_mut()))?;
        self.info.stamps = self.inner.describe().stamps;
        match self.distort(captured, slot) {
            Some(captured) => Poll::Ready(Ok(captured)),
            None => {
                // The device has more to say, and its caller other things to do in between.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::Builder;

    use super::super::scene::{SceneOptions, SceneSource};
    use super::super::testing::TokioClock;
    use super::*;

    const FPS: f64 = 25.0;

    fn scene(pace: Pace) -> OpenDevice {
        Arc::new(move |clock| {
            let options = SceneOptions {
                width: 32,
                height: 16,
                fps: FPS,
                format: PixelFormat::Grey,
                faces: 0,
                pace,
                ..SceneOptions::default()
            };
            Ok(Box::new(SceneSource::open(options, clock)?) as Box<dyn CaptureDevice>)
        })
    }

    struct Rig {
        switch: Switch,
        open: OpenDevice,
        clock: Arc<TokioClock>,
        slot: Vec<u8>,
    }

    impl Rig {
        fn new() -> Self {
            let switch = Switch::new(7);
            let open = switch.wrap(scene(Pace::Real));
            Self { switch, open, clock: Arc::new(TokioClock::default()), slot: vec![0; 32 * 16] }
        }

        fn open(&self) -> Result<Box<dyn CaptureDevice>, CaptureError> {
            (self.open)(Arc::clone(&self.clock) as Arc<dyn Clock>)
        }

        /// What comes of the device within `periods` frames' time.
        async fn frames(&mut self, device: &mut Box<dyn CaptureDevice>, periods: u32) -> Vec<Captured> {
            let time = tokio::time::sleep(Duration::from_secs_f64(f64::from(periods) / FPS));
            tokio::pin!(time);
            let mut taken = Vec::new();
            loop {
                let next = std::future::poll_fn(|cx| device.poll_capture(cx, Some(&mut self.slot)));
                tokio::select! {
                    biased;
                    captured = next => taken.push(captured.unwrap()),
                    () = &mut time => return taken,
                }
            }
        }

        async fn error(&mut self, device: &mut Box<dyn CaptureDevice>) -> String {
            let error = std::future::poll_fn(|cx| device.poll_capture(cx, Some(&mut self.slot))).await;
            youquanti_models::with_causes(&error.unwrap_err())
        }
    }

    fn seqs(frames: &[Captured]) -> Vec<u32> {
        frames.iter().map(|frame| frame.driver_seq).collect()
    }

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        let mut names: Vec<_> = CameraFault::ALL.iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CameraFault::ALL.len());
    }

    #[tokio::test(start_paused = true)]
    async fn faults_that_break_a_stream() {
        async fn check(fault: CameraFault, error: &str, first_reopening: Option<&str>) {
            let mut rig = Rig::new();
            let mut device = rig.open().unwrap();
            rig.frames(&mut device, 2).await;
            rig.switch.begin(fault);
            for _ in 0..2 {
                let said = rig.error(&mut device).await;
                assert!(said.starts_with(error), "{fault:?}: {said}");
            }
            drop(device);
            let reopened = rig.open().err().map(|error| youquanti_models::with_causes(&error));
            let expected = first_reopening.map(str::to_owned);
            assert_eq!(reopened.as_deref().map(|said| said.split(':').next().unwrap().to_owned()), expected);
            if fault.lasts() {
                assert!(rig.open().is_err());
                rig.switch.end();
            }
            let mut device = rig.open().unwrap();
            assert!(!rig.frames(&mut device, 3).await.is_empty(), "{fault:?}");
        }
        check(CameraFault::StreamingError, "VIDIOC_DQBUF failed", None).await;
        check(CameraFault::StreamonError, "VIDIOC_DQBUF failed", Some("VIDIOC_STREAMON failed")).await;
        check(CameraFault::ReqbufsError, "VIDIOC_DQBUF failed", Some("VIDIOC_REQBUFS failed")).await;
        check(CameraFault::Disconnect, "scene", None).await;
        check(CameraFault::Unplug, "scene", Some("the camera is not connected")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_camera_pulled_out_and_put_back_is_gone_all_the_same() {
        let mut rig = Rig::new();
        let mut device = rig.open().unwrap();
        rig.frames(&mut device, 2).await;
        rig.switch.begin(CameraFault::Unplug);
        rig.switch.end();
        assert!(rig.error(&mut device).await.contains("not connected"));
        drop(device);
        let mut device = rig.open().unwrap();
        assert!(!rig.frames(&mut device, 3).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_qbuf_frames_go_on() {
        let mut rig = Rig::new();
        let mut device = rig.open().unwrap();
        rig.switch.begin(CameraFault::QbufError);
        assert!(rig.error(&mut device).await.starts_with("VIDIOC_QBUF failed"));
        assert!(!rig.frames(&mut device, 3).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_frames_look_like() {
        /// Frames of 10 periods with the fault and of 10 without.
        async fn with(fault: CameraFault) -> (Vec<Captured>, Vec<Captured>) {
            let mut rig = Rig::new();
            let mut device = rig.open().unwrap();
            rig.frames(&mut device, 10).await;
            rig.switch.begin(fault);
            let during = rig.frames(&mut device, 10).await;
            rig.switch.end();
            (during, rig.frames(&mut device, 10).await)
        }
        let damaged = |frames: &[Captured]| {
            frames.iter().filter(|frame| frame.flags.contains(FrameFlags::DAMAGED)).count()
        };
        for fault in [CameraFault::ErrorFlag, CameraFault::Cut] {
            let (during, after) = with(fault).await;
            assert!(!during.is_empty() && damaged(&during) == during.len() && damaged(&after) == 0);
        }
        for fault in [CameraFault::Stall, CameraFault::WriterGone] {
            let (during, after) = with(fault).await;
            assert!(during.is_empty() && after.len() >= 9 && after[0].driver_seq >= 19, "{fault:?}");
        }
        let (during, after) = with(CameraFault::DroppedBuffers).await;
        assert!((2..10).contains(&during.len()) && after.len() >= 9, "{}", during.len());
        let (during, after) = with(CameraFault::ReducedRate).await;
        let numbers = seqs(&[during.clone(), after].concat());
        assert!(during.len() <= 6 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        let (during, after) = with(CameraFault::SequenceWrap).await;
        let numbers = seqs(&[during, after].concat());
        assert_eq!(numbers[0], 0u32.wrapping_sub(FRAMES_TO_WRAP));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)) && numbers.contains(&0));
        let (during, after) = with(CameraFault::StampWrap).await;
        assert!(during.iter().all(|frame| frame.captured_at < after[0].captured_at - Duration::from_secs(1)));
        let (during, after) = with(CameraFault::UsbErrors).await;
        assert_eq!((during.len(), damaged(&during), after.len()), (4, 4, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn pictures_are_turned_round_and_filled_with_junk() {
        let mut rig = Rig::new();
        let mut device = rig.open().unwrap();
        rig.frames(&mut device, 1).await;
        let sound = rig.slot.clone();
        rig.switch.begin(CameraFault::Flip);
        rig.frames(&mut device, 1).await;
        let turned: Vec<u8> = rig.slot.chunks(32).rev().flatten().copied().collect();
        assert!(turned == sound && turned != rig.slot);
        rig.switch.begin(CameraFault::Junk);
        rig.frames(&mut device, 1).await;
        assert_ne!(rig.slot, sound);
    }

    #[test]
    fn what_hangs_goes_on_when_the_fault_is_over() {
        for fault in [CameraFault::Hang, CameraFault::HangInOpen] {
            let switch = Switch::new(7);
            let open = switch.wrap(scene(Pace::Fast));
            let is_over = Arc::new(AtomicBool::new(false));
            let (rig, was_over) = (switch.clone(), Arc::clone(&is_over));
            let thread = Builder::new().spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let clock = || Arc::new(TokioClock::default());
                    let mut device = open(clock()).unwrap();
                    rig.begin(fault);
                    let mut slot = vec![0; 32 * 16];
                    let mut poll =
                        async || std::future::poll_fn(|cx| device.poll_capture(cx, Some(&mut slot))).await;
                    match fault {
                        CameraFault::Hang => drop(poll().await.unwrap()),
                        _ => {
                            poll().await.unwrap_err();
                            drop(open(clock()).ok().unwrap());
                        }
                    }
                    assert!(was_over.load(Ordering::SeqCst));
                });
            });
            // It hangs from when it has taken the last part of the fault on.
            while {
                let state = switch.0.state();
                state.moves == 0 || state.strike.is_some() || state.refusal.is_some()
            } {
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::SeqCst);
            switch.end();
            thread.unwrap().join().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "injected panic")]
    async fn panics() {
        let mut rig = Rig::new();
        let mut device = rig.open().unwrap();
        rig.switch.begin(CameraFault::Panic);
        rig.error(&mut device).await;
    }

    #[test]
    fn dice_fall_the_same_way_for_the_same_seed() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            [(); 5].map(|()| dice.below(1000))
        };
        assert_eq!(rolls(1), rolls(1));
        assert_ne!(rolls(1), rolls(2));
        assert_eq!(Dice::new(1).below(0), 0);
    }
}
