//! Clock health of cameras, and the phase between them, from the stamps of their frames alone.
//!
//! Owns the sums over one interval, a minute of a session. Pure: reads no clock, decides nothing, and allocates
//! nothing for a frame. Differences are taken in whole nanoseconds before they become `f64`, so that stamps of
//! months of uptime cost no digit.
//!
//! **Drift.** A frame's delay is its time of receipt minus its stamp. If the driver's clock gains, delays shrink.
//! Receipt can be late by any amount but never early, so the truth lies at the lower edge of the delays: each
//! second of stamps gives one point (tᵢ, dᵢ), its least delay. Their slope is the median of
//! (dⱼ − dᵢ) / (tⱼ − tᵢ) over all pairs (Theil 1950, Sen 1968), which a second in which every frame came late does
//! not move. With that slope s the driver's clock runs 1/(1 + s) − 1 faster than `CLOCK_MONOTONIC`.
//!
//! **Phase.** The stamp of each frame minus that of the nearest frame of the other camera is an angle on a circle
//! of one period: mean and spread are those of directions, so a phase about half a period has a mean there too.

use std::collections::VecDeque;
use std::f64::consts::TAU;

use youquanti_models::{FrameFlags, FrameMeta};

/// A camera that sent nothing for so long, or for three of its frames, has had a gap.
const GAP_NANOS: f64 = 1e9;

/// Stamps of one point of the drift.
const BIN_NANOS: u64 = 1_000_000_000;

/// Newest points that a drift is computed from: twice those of a minute.
const POINTS: usize = 120;

/// Pairs of points that a drift takes at least: those of ten seconds in a row.
const LEAST_PAIRS: usize = 45;

/// Cameras whose rates differ by at most this share of the rate have a phase.
const SAME_RATE: f64 = 0.01;

/// Stamps of a camera that wait for another's: more than can wait in one camera's index while another's is empty.
const STAMPS_KEPT: usize = 2048;

/// What the frames of one camera add up to over one interval. Times in seconds; `None` where too few frames
/// came, or their stamps do not tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Frames that were taken in.
    pub frames: u64,
    /// Frames whose stamp was replaced by the time of receipt; they count for nothing below.
    pub stamps_replaced: u64,
    /// Frames that the driver lost, from jumps of its counter.
    pub driver_lost: u64,
    /// Mean interval of frames that the driver numbered in succession.
    pub interval_mean_s: Option<f64>,
    /// Standard deviation of these intervals.
    pub interval_jitter_s: Option<f64>,
    /// Longest interval of any two frames in succession, gaps included.
    pub interval_max_s: Option<f64>,
    /// Mean of receipt − stamp. Like the next three `None` if the stamps are the times of receipt.
    pub delay_mean_s: Option<f64>,
    /// The least delay.
    pub delay_min_s: Option<f64>,
    /// Standard deviation of the delay.
    pub delay_std_s: Option<f64>,
    /// How much faster the driver's clock runs than `CLOCK_MONOTONIC`, parts per million. Needs ten seconds.
    pub clock_drift_ppm: Option<f64>,
    /// Against the first camera of the same rate; `None` for that camera itself.
    pub phase: Option<Phase>,
}

/// How far a camera's stamps are from those of another camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Index of the other camera.
    pub to: usize,
    /// Circular mean of stamp minus the other's nearest stamp, seconds, within ± half a declared period;
    /// positive: this camera is later.
    pub mean_s: f64,
    /// Circular standard deviation, seconds; half a period at most, which says that there is no phase.
    pub spread_s: f64,
}

/// The timing of all cameras of a session.
pub struct Timing {
    cameras: Vec<CameraTiming>,
    pairs: Vec<Pair>,
}

impl Timing {
    /// For cameras of these rates, frames a second as they declare them; `None` for one that was never opened.
    pub fn new(rates: &[Option<f64>]) -> Self {
        let pairs = (0..rates.len()).filter_map(|camera| {
            let rate = rates[camera]?;
            let same =
                |other: &Option<f64>| other.is_some_and(|other| (other - rate).abs() <= SAME_RATE * other);
            let first = rates.iter().position(same)?;
            (first < camera).then(|| Pair::new(first, camera, 1e9 / rate))
        });
        Self {
            pairs: pairs.collect(),
            cameras: rates
                .iter()
                .map(|rate| CameraTiming::new(rate.map_or(0.0, |rate| 1e9 / rate)))
                .collect(),
        }
    }

    /// Takes in a frame: those of one camera in their order, those of different cameras as they come. A frame of a
    /// camera that there is not is left out.
    pub fn frame(&mut self, meta: &FrameMeta) {
        let index = usize::from(meta.camera.0);
        let Some(camera) = self.cameras.get_mut(index) else { return };
        camera.frame(meta);
        if !meta.flags.contains(FrameFlags::STAMP_REPLACED) {
            self.pairs.iter_mut().for_each(|pair| pair.frame(index, meta.captured_at.0));
        }
    }

    /// The figures since the last call, in the order of the cameras; the next interval begins.
    pub fn take(&mut self) -> Vec<Figures> {
        let mut all: Vec<_> = self.cameras.iter_mut().map(CameraTiming::take).collect();
        for pair in &mut self.pairs {
            all[pair.camera].phase = pair.take();
        }
        all
    }
}

/// Frames that a driver lost between two that it numbered so. A number that went back is a driver that began
/// anew, not four billion lost frames.
pub fn frames_lost(before: u32, after: u32) -> u64 {
    let lost = after.wrapping_sub(before).wrapping_sub(1);
    if lost < u32::MAX / 2 { lost.into() } else { 0 }
}

struct CameraTiming {
    /// A longer interval is a gap, nanoseconds.
    gap_nanos: f64,
    previous: Option<FrameMeta>,
    frames: u64,
    stamps_replaced: u64,
    driver_lost: u64,
    interval: Moments,
    longest_nanos: Option<u64>,
    delay: Moments,
    least_delay_nanos: Option<i64>,
    drift: Drift,
}

impl CameraTiming {
    fn new(period_nanos: f64) -> Self {
        Self {
            gap_nanos: GAP_NANOS.max(3.0 * period_nanos),
            previous: None,
            frames: 0,
            stamps_replaced: 0,
            driver_lost: 0,
            interval: Moments::default(),
            longest_nanos: None,
            delay: Moments::default(),
            least_delay_nanos: None,
            drift: Drift::new(),
        }
    }

    fn frame(&mut self, meta: &FrameMeta) {
        self.frames += 1;
        let previous = self.previous.replace(*meta);
        if let Some(before) = previous {
            // Frames that the index lost were not lost by the driver.
            let not_seen = meta.seq.saturating_sub(before.seq).saturating_sub(1);
            self.driver_lost += frames_lost(before.driver_seq, meta.driver_seq).saturating_sub(not_seen);
        }
        if meta.flags.contains(FrameFlags::STAMP_REPLACED) {
            self.stamps_replaced += 1;
            return;
        }
        let before = previous.filter(|before| !before.flags.contains(FrameFlags::STAMP_REPLACED));
        let interval = before.and_then(|before| meta.captured_at.0.checked_sub(before.captured_at.0));
        if let (Some(before), Some(nanos)) = (before, interval) {
            self.longest_nanos = self.longest_nanos.max(Some(nanos));
            if nanos as f64 > self.gap_nanos {
                self.drift.restart();
            } else if meta.driver_seq == before.driver_seq.wrapping_add(1) {
                self.interval.add(nanos as f64);
            }
        }
        if !meta.flags.contains(FrameFlags::STAMP_IS_RECEIPT) {
            let delay = meta.received_at.0.wrapping_sub(meta.captured_at.0).cast_signed();
            self.delay.add(delay as f64);
            self.least_delay_nanos = Some(self.least_delay_nanos.map_or(delay, |least| least.min(delay)));
            self.drift.add(meta.captured_at.0, delay);
        }
    }

    fn take(&mut self) -> Figures {
        let (interval, delay) = (std::mem::take(&mut self.interval), std::mem::take(&mut self.delay));
        Figures {
            frames: std::mem::take(&mut self.frames),
            stamps_replaced: std::mem::take(&mut self.stamps_replaced),
            driver_lost: std::mem::take(&mut self.driver_lost),
            interval_mean_s: interval.mean().map(seconds),
            interval_jitter_s: interval.deviation().map(seconds),
            interval_max_s: self.longest_nanos.take().map(|nanos| seconds(nanos as f64)),
            delay_mean_s: delay.mean().map(seconds),
            delay_min_s: self.least_delay_nanos.take().map(|nanos| seconds(nanos as f64)),
            delay_std_s: delay.deviation().map(seconds),
            clock_drift_ppm: self.drift.take(),
            phase: None,
        }
    }
}

fn seconds(nanos: f64) -> f64 {
    nanos / 1e9
}

/// Mean and variance in one pass (Welford 1962).
#[derive(Default)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let from_old_mean = value - self.mean;
        self.mean += from_old_mean / self.count as f64;
        self.squares += from_old_mean * (value - self.mean);
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    fn deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt())
    }
}

/// The least delay of a second.
#[derive(Clone, Copy)]
struct Point {
    /// Points are compared within a run only: a camera that was away may come back with another delay.
    run: u32,
    stamp: u64,
    delay: i64,
}

/// The slope of the lower edge of the delays.
struct Drift {
    run: u32,
    /// Where the seconds of this run begin.
    run_start: Option<u64>,
    /// The second that still goes on, counted in its run, and its least delay so far.
    open: Option<(u64, Point)>,
    points: VecDeque<Point>,
}

impl Drift {
    fn new() -> Self {
        Self { run: 0, run_start: None, open: None, points: VecDeque::with_capacity(POINTS) }
    }

    fn restart(&mut self) {
        self.run = self.run.wrapping_add(1);
        self.run_start = None;
        self.open = None;
    }

    fn add(&mut self, stamp: u64, delay: i64) {
        let bin = stamp.saturating_sub(*self.run_start.get_or_insert(stamp)) / BIN_NANOS;
        let point = Point { run: self.run, stamp, delay };
        match &mut self.open {
            Some((of, least)) if *of == bin => {
                if delay < least.delay {
                    *least = point;
                }
            }
            open => {
                if let Some((_, done)) = open.replace((bin, point)) {
                    if self.points.len() == POINTS {
                        self.points.pop_front();
                    }
                    self.points.push_back(done);
                }
            }
        }
    }

    /// Parts per million by which the driver's clock gains.
    fn take(&mut self) -> Option<f64> {
        let mut slopes = Vec::with_capacity(self.points.len() * self.points.len() / 2);
        for (i, later) in self.points.iter().enumerate() {
            for earlier in self.points.range(..i).filter(|earlier| earlier.run == later.run) {
                let apart = later.stamp.saturating_sub(earlier.stamp).max(1);
                slopes.push(later.delay.saturating_sub(earlier.delay) as f64 / apart as f64);
            }
        }
        self.points.clear();
        if slopes.len() < LEAST_PAIRS {
            return None;
        }
        let middle = slopes.len() / 2;
        let (_, &mut slope, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
        Some((1.0 / (1.0 + slope) - 1.0) * 1e6)
    }
}

/// A camera and the first camera of its rate.
struct Pair {
    to: usize,
    camera: usize,
    period_nanos: f64,
    /// Newest stamps of `to`, ascending.
    others: VecDeque<u64>,
    /// Stamps of `camera` whose neighbours among `others` are not all there yet.
    waiting: VecDeque<u64>,
    count: u64,
    cosines: f64,
    sines: f64,
}

impl Pair {
    fn new(to: usize, camera: usize, period_nanos: f64) -> Self {
        let [others, waiting] = std::array::from_fn(|_| VecDeque::with_capacity(STAMPS_KEPT));
        Self { to, camera, period_nanos, others, waiting, count: 0, cosines: 0.0, sines: 0.0 }
    }

    fn frame(&mut self, index: usize, stamp: u64) {
        let stamps = match index {
            index if index == self.to => &mut self.others,
            index if index == self.camera => &mut self.waiting,
            _ => return,
        };
        if stamps.back().is_some_and(|&before| before >= stamp) {
            return;
        }
        if stamps.len() == STAMPS_KEPT {
            stamps.pop_front();
        }
        stamps.push_back(stamp);
        self.settle();
    }

    /// Compares the stamps that have a later one of the other camera.
    fn settle(&mut self) {
        let Some(&newest) = self.others.back() else { return };
        while let Some(stamp) = self.waiting.pop_front_if(|stamp| *stamp <= newest) {
            let next = self.others.partition_point(|&other| other < stamp);
            let until_next = (self.others[next] - stamp) as f64;
            let since_last = next.checked_sub(1).map(|last| (stamp - self.others[last]) as f64);
            let difference = since_last.filter(|&since| since <= until_next).unwrap_or(-until_next);
            // Where the other camera was away there is nothing to compare with.
            if difference.abs() <= self.period_nanos {
                let (sine, cosine) = (TAU * difference / self.period_nanos).sin_cos();
                self.count += 1;
                self.cosines += cosine;
                self.sines += sine;
            }
        }
    }

    fn take(&mut self) -> Option<Phase> {
        let [count, cosines, sines] = [
            std::mem::take(&mut self.count) as f64,
            std::mem::take(&mut self.cosines),
            std::mem::take(&mut self.sines),
        ];
        let seconds_per_radian = seconds(self.period_nanos) / TAU;
        // Mardia and Jupp, Directional Statistics, 2.2.1 and 2.3.1: √(2 ln 1/R̄), R̄ the length of the mean direction.
        let length = (cosines.hypot(sines) / count).min(1.0);
        (count > 0.0).then(|| Phase {
            to: self.to,
            mean_s: sines.atan2(cosines) * seconds_per_radian,
            spread_s: ((2.0 * length.recip().ln()).sqrt() * seconds_per_radian)
                .min(seconds(self.period_nanos) / 2.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use youquanti_models::{CameraId, Timestamp};

    use super::*;

    /// Half a year of uptime: `f64` has steps of 2 ns there, and none for the square.
    const UPTIME: u64 = 180 * 86_400 * 1_000_000_000;

    fn meta(camera: u16, seq: u64, captured_at: u64, received_at: u64) -> FrameMeta {
        FrameMeta {
            camera: CameraId(camera),
            seq,
            driver_seq: seq as u32,
            captured_at: Timestamp(captured_at),
            received_at: Timestamp(received_at),
            flags: FrameFlags::default(),
        }
    }

    /// Numbers from 0 to 1 that only look like chance.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Most are small, a few are not: what waiting for a processor looks like.
        fn lateness_nanos(&mut self) -> u64 {
            (-2e6 * (1.0 - self.next()).ln()) as u64
        }
    }

    /// One camera of 30 fps over 60 s whose clock gains `ppm`, received 5 ms after each stamp, and `late` more.
    fn drifting(start: u64, ppm: f64, mut late: impl FnMut(u64) -> u64) -> Figures {
        let mut timing = Timing::new(&[Some(30.0)]);
        for seq in 0..1800 {
            let real = seq * 33_333_333;
            let stamp = (real as f64 * (1.0 + ppm * 1e-6)).round() as u64;
            timing.frame(&meta(0, seq, start + stamp, start + 5_000_000 + real + late(seq)));
        }
        timing.take().remove(0)
    }

    #[track_caller]
    fn check_near(found: Option<f64>, expected: f64, tolerance: f64) {
        assert!(
            found.is_some_and(|found| (found - expected).abs() <= tolerance),
            "{found:?}, not {expected}"
        );
    }

    #[test]
    fn a_known_drift_is_found_whatever_the_uptime() {
        for start in [1_000_000_000, UPTIME, u64::MAX / 2] {
            for ppm in [0.0, 50.0, -50.0, 1000.0, -0.5] {
                check_near(drifting(start, ppm, |_| 0).clock_drift_ppm, ppm, 1e-3);
            }
        }
    }

    #[test]
    fn lateness_of_receipt_is_no_drift() {
        for (seed, ppm) in [(1, 50.0), (2, -50.0), (3, 0.0), (4, 200.0)] {
            let mut noise = Noise(seed);
            check_near(drifting(UPTIME, ppm, |_| noise.lateness_nanos()).clock_drift_ppm, ppm, 3.0);
            // Nothing is received in time for the last five seconds, and for some in between.
            let stalled = |seq: u64| (1650..1800).contains(&seq) || (300..390).contains(&seq);
            let late = |seq| noise.lateness_nanos() + if stalled(seq) { 100_000_000 } else { 0 };
            check_near(drifting(UPTIME, ppm, late).clock_drift_ppm, ppm, 5.0);
        }
    }

    #[test]
    fn less_than_ten_seconds_have_no_drift() {
        let mut timing = Timing::new(&[Some(10.0)]);
        for seq in 0..=100 {
            timing.frame(&meta(0, seq, seq * 100_000_000, seq * 100_000_000));
        }
        assert_eq!(timing.take()[0].clock_drift_ppm, Some(0.0));
        for seq in 101..191 {
            timing.frame(&meta(0, seq, seq * 100_000_000, seq * 100_000_000));
        }
        assert_eq!(timing.take()[0].clock_drift_ppm, None);
    }

    #[test]
    fn a_gap_restarts_the_drift() {
        let mut timing = Timing::new(&[Some(30.0)]);
        for seq in 0..900_u64 {
            // Away for 10 s after 15 s, and 30 ms slower from then on.
            let (away, slower) = if seq < 450 { (0, 0) } else { (10_000_000_000, 30_000_000) };
            let real = UPTIME + seq * 33_333_333 + away;
            let stamp = real + (seq * 33_333_333 + away) / 20_000;
            timing.frame(&meta(0, seq, stamp, real + 5_000_000 + slower));
        }
        let found = timing.take().remove(0);
        check_near(found.clock_drift_ppm, 50.0, 0.01);
        check_near(found.interval_max_s, 10.033_333_333 * 1.000_05, 1e-8);
        check_near(found.interval_mean_s, 0.033_333_333 * 1.000_05, 1e-8);
    }

    #[test]
    fn intervals_and_delays_of_half_a_year_of_uptime() {
        let mut timing = Timing::new(&[Some(100.0)]);
        // Intervals of 9 and 11 ms, delays of 2 and 4 ms.
        for seq in 0..1001_u64 {
            let stamp = UPTIME + seq * 10_000_000 + (seq % 2) * 1_000_000;
            timing.frame(&meta(0, seq, stamp, stamp + 2_000_000 + (seq % 2) * 2_000_000));
        }
        let found = timing.take().remove(0);
        assert_eq!((found.frames, found.stamps_replaced, found.driver_lost), (1001, 0, 0));
        check_near(found.interval_mean_s, 0.01, 1e-12);
        check_near(found.interval_jitter_s, 0.001 * (1000.0_f64 / 999.0).sqrt(), 1e-12);
        check_near(found.interval_max_s, 0.011, 1e-15);
        check_near(found.delay_mean_s, 0.003, 1e-5);
        check_near(found.delay_min_s, 0.002, 1e-15);
        check_near(found.delay_std_s, 0.001, 1e-6);
    }

    #[test]
    fn an_interval_without_frames_is_empty_and_the_next_begins_with_the_last_frame_before() {
        let mut timing = Timing::new(&[Some(30.0)]);
        timing.frame(&meta(0, 0, UPTIME, UPTIME));
        assert_eq!(timing.take()[0].frames, 1);
        assert_eq!(timing.take()[0], Figures::default());
        timing.frame(&meta(0, 1, UPTIME + 30_000_000, UPTIME));
        let found = timing.take().remove(0);
        check_near(found.interval_mean_s, 0.03, 1e-15);
        // A stamp ahead of its receipt is a delay too.
        check_near(found.delay_min_s, -0.03, 1e-15);
        assert_eq!(found.interval_jitter_s, None);
    }

    #[test]
    fn what_the_driver_lost() {
        let check = |before, after, expected| assert_eq!(frames_lost(before, after), expected);
        check(0, 1, 0);
        check(7, 11, 3);
        check(u32::MAX, 0, 0);
        check(u32::MAX - 1, 2, 3);
        check(100, 0, 0);
        check(100, 100, 0);

        let mut timing = Timing::new(&[Some(30.0)]);
        // The driver loses 2 frames, then the index loses 3.
        for (seq, driver_seq) in [(0, u32::MAX - 1), (1, 1), (5, 5), (6, 6)] {
            let stamp = u64::from(driver_seq.wrapping_add(2)) * 33_333_333;
            timing.frame(&FrameMeta { driver_seq, ..meta(0, seq, stamp, stamp) });
        }
        let found = timing.take().remove(0);
        assert_eq!(found.driver_lost, 2);
        check_near(found.interval_mean_s, 0.033_333_333, 1e-15);
        check_near(found.interval_max_s, 4.0 * 0.033_333_333, 1e-15);
    }

    #[test]
    fn stamps_that_are_not_the_drivers_tell_nothing_of_its_clock() {
        let check = |flags, expected: Figures| {
            let mut timing = Timing::new(&[Some(10.0)]);
            for seq in 0..200 {
                let stamp = seq * 100_000_000;
                timing.frame(&FrameMeta { flags, ..meta(0, seq, stamp, stamp) });
            }
            assert_eq!(timing.take(), [expected]);
        };
        check(
            FrameFlags::STAMP_REPLACED,
            Figures { frames: 200, stamps_replaced: 200, ..Figures::default() },
        );
        let intervals = Figures {
            frames: 200,
            interval_mean_s: Some(0.1),
            interval_jitter_s: Some(0.0),
            interval_max_s: Some(0.1),
            ..Figures::default()
        };
        check(FrameFlags::STAMP_IS_RECEIPT, intervals);
    }

    #[test]
    fn cameras_of_the_same_rate_have_a_phase() {
        let check = |rates: &[Option<f64>], expected: &[Option<usize>]| {
            let mut timing = Timing::new(rates);
            for seq in 0..100 {
                for camera in 0..rates.len() {
                    timing.frame(&meta(camera as u16, seq, seq * 40_000_000, 0));
                }
            }
            let found: Vec<_> =
                timing.take().iter().map(|figures| figures.phase.map(|phase| phase.to)).collect();
            assert_eq!(found, expected);
        };
        check(&[Some(25.0), Some(25.0), Some(25.0)], &[None, Some(0), Some(0)]);
        check(&[Some(30.0), Some(29.97)], &[None, Some(0)]);
        check(&[Some(30.0), Some(25.0), None, Some(25.0), Some(30.0)], &[None, None, None, Some(1), Some(0)]);
        check(&[None, None], &[None, None]);
    }

    /// The phase of two cameras of 30 fps over 60 s, the second `phase` nanoseconds later and its clock `ppm` faster,
    /// minute for minute.
    fn phases(minutes: u64, phase: i64, ppm: f64, jitter: f64) -> Vec<Phase> {
        let (mut timing, mut noise) = (Timing::new(&[Some(30.0), Some(30.0)]), Noise(5));
        let mut found = Vec::new();
        for minute in 0..minutes {
            for seq in minute * 1800..(minute + 1) * 1800 {
                let real = UPTIME + seq * 33_333_333;
                let gained = (seq * 33_333_333) as f64 * ppm * 1e-6 + (noise.next() - 0.5) * jitter;
                timing.frame(&meta(0, seq, real, real));
                timing.frame(&meta(1, seq, real.saturating_add_signed(phase + gained.round() as i64), real));
            }
            found.push(timing.take()[1].phase.unwrap());
        }
        found
    }

    #[test]
    fn a_phase_is_found_around_half_a_period_too() {
        const HALF: i64 = 16_666_666;
        for phase in [0, 1_000_000, -7_000_000, HALF, -HALF, HALF - 100_000, 100_000 - HALF] {
            let found = phases(1, phase, 0.0, 1e6)[0];
            let apart = (found.mean_s - phase as f64 / 1e9).abs();
            assert!(apart.min(1.0 / 30.0 - apart) < 30e-6, "{phase}: {found:?}");
            // Evenly spread over 1 ms.
            assert!((found.spread_s - 1e-3 / 12_f64.sqrt()).abs() < 20e-6, "{phase}: {found:?}");
        }
        assert!(phases(1, 3_000_000, 0.0, 0.0)[0].spread_s < 1e-6);
    }

    #[test]
    fn a_phase_that_drifts_differs_from_minute_to_minute() {
        let found = phases(3, 1_000_000, 50.0, 1e5);
        for (minute, phase) in (0..).zip(&found) {
            // 3 ms a minute, 1.5 in the middle of the first.
            let expected = 0.0025 + 0.003 * f64::from(minute);
            assert!((phase.mean_s - expected).abs() < 50e-6, "{found:?}");
            assert!((phase.spread_s - 0.003 / 12_f64.sqrt()).abs() < 50e-6, "{found:?}");
        }
    }

    #[test]
    fn cameras_without_a_common_rhythm_have_no_phase() {
        // 20 ms a second: round the circle many times.
        let found = phases(1, 0, 20_000.0, 0.0)[0];
        assert!(found.spread_s > 0.012, "{found:?}");
        let mut timing = Timing::new(&[Some(30.0), Some(30.0)]);
        for seq in 0..100 {
            timing.frame(&meta(1, seq, UPTIME + seq * 33_333_333, 0));
        }
        timing.frame(&meta(0, 0, UPTIME + 10_000_000_000, 0));
        assert_eq!(timing.take()[1].phase, None, "the other camera was away");
    }

    #[test]
    fn what_is_kept_never_outgrows_its_place() {
        let mut timing = Timing::new(&[Some(1.0), Some(1.0)]);
        let room = |timing: &Timing| {
            let [pair] = &timing.pairs[..] else { panic!("two cameras of one rate are a pair") };
            let points = timing.cameras[1].drift.points.capacity();
            (pair.others.capacity(), pair.waiting.capacity(), points)
        };
        let before = room(&timing);
        // First one camera alone, then the other, each for longer than anything is kept.
        for camera in [1, 0] {
            for seq in 0..3 * STAMPS_KEPT as u64 {
                timing.frame(&meta(camera, seq, UPTIME + seq * 1_000_000_000, UPTIME));
            }
        }
        assert_eq!(room(&timing), before);
    }

    proptest! {
        #[test]
        fn a_phase_does_not_depend_on_who_comes_first(
            phase in -16_000_000..16_000_000_i64,
            lost in prop::collection::btree_set(0..400_u64, 0..40),
            backlog in prop::collection::vec(1..1000_usize, 1..8),
        ) {
            let stamps = |by: i64| (0..400).map(move |seq: u64| (seq, (UPTIME + seq * 33_333_333).saturating_add_signed(by)));
            let mut streams = [
                stamps(0).filter(|(seq, _)| !lost.contains(seq)).collect::<VecDeque<_>>(),
                stamps(phase).collect(),
            ];
            let mut timing = Timing::new(&[Some(30.0), Some(30.0)]);
            for (turn, batch) in backlog.iter().chain([&1000, &1000]).enumerate() {
                let camera = turn % 2;
                for _ in 0..*batch {
                    let Some((seq, stamp)) = streams[camera].pop_front() else { break };
                    timing.frame(&meta(camera as u16, seq, stamp, stamp));
                }
            }
            let found = timing.take()[1].phase.unwrap();
            prop_assert!((found.mean_s - phase as f64 / 1e9).abs() < 1e-6, "{:?}", found);
            prop_assert!(found.spread_s < 1e-6);
        }

        #[test]
        fn whatever_comes_the_figures_are_numbers(
            frames in prop::collection::vec((0..4_u16, any::<(u32, u64, u64, u16)>()), 0..300),
            rates in prop::collection::vec(prop::option::of(1e-3..1e3), 0..4),
        ) {
            let mut timing = Timing::new(&rates);
            for (seq, (camera, (driver_seq, captured, received, flags))) in (0..).zip(frames) {
                let flags = FrameFlags(flags);
                timing.frame(&FrameMeta { driver_seq, flags, ..meta(camera, seq, captured, received) });
            }
            for figures in timing.take() {
                let Figures { interval_mean_s, interval_jitter_s, delay_mean_s, delay_std_s, clock_drift_ppm, .. } = figures;
                let phase = figures.phase.map(|phase| phase.mean_s + phase.spread_s);
                for value in [interval_mean_s, interval_jitter_s, delay_mean_s, delay_std_s, clock_drift_ppm, phase] {
                    prop_assert!(value.is_none_or(f64::is_finite), "{:?}", figures);
                }
            }
        }
    }
}
