//! Rows of cameras with different rates and phases, brought to common instants of capture time.
//!
//! Owns the grid and each participant's newest samples on it. A sample is interpolated between the two rows around it, or
//! missing; never invented: nothing is carried on, and no gap longer than [`LONGEST_GAP`] is bridged.

use std::ops::Range;
use std::time::Duration;

use youquanti_models::{BLENDSHAPE_COUNT, CameraId, Timestamp};

use super::Group;

/// Longest time between two rows of a participant across which samples are interpolated.
pub const LONGEST_GAP: Duration = Duration::from_millis(250);

/// Instants that are whole multiples of 1/rate seconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Instants a second.
    pub(super) rate: u32,
}

const SECOND: u128 = 1_000_000_000;

impl Grid {
    /// The last instant at or before `at`.
    pub(super) fn before(self, at: Timestamp) -> u64 {
        // Stamps are rounded down to nanoseconds, so the instant whose stamp this is may be a fraction later.
        ((u128::from(at.0) * u128::from(self.rate) + u128::from(self.rate) - 1) / SECOND) as u64
    }

    /// The stamp of an instant, rounded down.
    pub(super) fn at(self, instant: u64) -> Timestamp {
        Timestamp((u128::from(instant) * SECOND / u128::from(self.rate)) as u64)
    }

    /// Instants in a length of time, rounded to the nearest.
    pub(super) fn count(self, time: Duration) -> usize {
        (time.as_secs_f64() * f64::from(self.rate)).round() as usize
    }
}

/// One participant on the grid: the newest samples of each group of channels.
#[derive(Debug)]
pub(super) struct Line {
    /// Instant k is at `(k % capacity) * groups`; NaN where it is missing.
    samples: Vec<f32>,
    capacity: usize,
    groups: usize,
    /// Every instant before this one has its sample, or is known to be missing.
    next: u64,
    newest: Option<Row>,
    /// Means of the newest row, one for each group, and of the row that is being taken.
    newest_means: Vec<f32>,
    means: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    at: Timestamp,
    camera: CameraId,
    present: bool,
}

impl Line {
    /// A line that begins at the instant `next` and keeps the newest `capacity` samples.
    pub(super) fn new(capacity: usize, groups: usize, next: u64) -> Self {
        Self {
            samples: vec![f32::NAN; capacity * groups],
            capacity,
            groups,
            next,
            newest: None,
            newest_means: vec![f32::NAN; groups],
            means: vec![f32::NAN; groups],
        }
    }

    /// The camera that the participant was last seen in.
    pub(super) fn camera(&self) -> Option<CameraId> {
        self.newest.map(|row| row.camera)
    }

    /// Takes a row of the participant: blendshapes, or none where a frame of their camera does not show them. A row that
    /// is not newer than the last is none.
    pub(super) fn row(
        &mut self,
        grid: Grid,
        groups: &[Group],
        camera: CameraId,
        at: Timestamp,
        blendshapes: Option<&[f32; BLENDSHAPE_COUNT]>,
    ) {
        if self.newest.is_some_and(|newest| at <= newest.at) {
            return;
        }
        for (mean, group) in self.means.iter_mut().zip(groups) {
            *mean = blendshapes.map_or(f32::NAN, |blendshapes| group.mean(blendshapes));
        }
        let bridged = self.newest.filter(|newest| {
            newest.present && blendshapes.is_some() && at.saturating_since(newest.at) <= LONGEST_GAP
        });
        let last = grid.before(at);
        for instant in self.unwritten(last) {
            let here = grid.at(instant);
            let place = (instant % self.capacity as u64) as usize * self.groups;
            for group in 0..self.groups {
                let mean = self.means[group];
                self.samples[place + group] = match bridged {
                    _ if here >= at => mean,
                    Some(from) => {
                        let part = (here.0 - from.at.0) as f64 / (at.0 - from.at.0) as f64;
                        self.newest_means[group] + (mean - self.newest_means[group]) * part as f32
                    }
                    None => f32::NAN,
                };
            }
        }
        self.next = self.next.max(last + 1);
        self.newest = Some(Row { at, camera, present: blendshapes.is_some() });
        std::mem::swap(&mut self.means, &mut self.newest_means);
    }

    /// Waits no longer for samples up to `last`: those that are not there are missing.
    pub(super) fn close(&mut self, last: u64) {
        for instant in self.unwritten(last) {
            let place = (instant % self.capacity as u64) as usize * self.groups;
            self.samples[place..place + self.groups].fill(f32::NAN);
        }
        self.next = self.next.max(last + 1);
    }

    /// Samples of a group at instants that are closed, at most `capacity` of them, none older than that.
    pub(super) fn samples(&self, group: usize, instants: Range<u64>) -> impl Iterator<Item = f32> + Clone {
        instants
            .map(move |instant| self.samples[(instant % self.capacity as u64) as usize * self.groups + group])
    }

    /// Instants up to `last` that have no sample yet, as far as there is room for them.
    fn unwritten(&self, last: u64) -> Range<u64> {
        self.next.max((last + 1).saturating_sub(self.capacity as u64))..last + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAMERA: CameraId = CameraId(0);

    fn jaw() -> Vec<Group> {
        vec![Group { name: "jaw".to_owned(), channels: vec![25] }]
    }

    fn shapes(value: f32) -> [f32; BLENDSHAPE_COUNT] {
        let mut shapes = [0.0; BLENDSHAPE_COUNT];
        shapes[25] = value;
        shapes
    }

    /// The samples at 10 Hz, from 0 s on, that rows (ms, value) leave; NaN is a frame without the participant.
    fn check(rows: &[(u64, f32)], expected: &[f32]) {
        let (grid, groups) = (Grid { rate: 10 }, jaw());
        let mut line = Line::new(64, 1, 0);
        for &(ms, value) in rows {
            let shapes = (!value.is_nan()).then(|| shapes(value));
            line.row(grid, &groups, CAMERA, Timestamp(ms * 1_000_000), shapes.as_ref());
        }
        line.close(expected.len() as u64 - 1);
        let found: Vec<_> = line.samples(0, 0..expected.len() as u64).collect();
        let same = |(a, b): (&f32, &f32)| (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-6;
        assert!(found.iter().zip(expected).all(same), "{rows:?}: {found:?}, not {expected:?}");
    }

    #[test]
    fn samples_lie_between_the_rows_around_them() {
        const NO: f32 = f32::NAN;
        check(&[], &[NO, NO]);
        check(&[(100, 0.5)], &[NO, 0.5, NO]);
        check(&[(50, 0.0), (150, 1.0), (250, 0.0)], &[NO, 0.5, 0.5, NO]);
        check(&[(50, 0.0), (300, 1.0)], &[NO, 0.2, 0.6, 1.0]);
        check(&[(50, 0.0), (301, 1.0)], &[NO, NO, NO, NO]);
        check(&[(50, 0.0), (140, NO), (150, 1.0), (250, 1.0)], &[NO, NO, 1.0]);
        check(&[(50, 0.0), (150, 1.0), (120, 0.3), (250, 0.0)], &[NO, 0.5, 0.5]);
    }

    #[test]
    fn what_was_closed_stays_so() {
        let (grid, groups) = (Grid { rate: 10 }, jaw());
        let mut line = Line::new(4, 1, 0);
        line.row(grid, &groups, CAMERA, Timestamp(50_000_000), Some(&shapes(0.0)));
        line.close(1);
        line.row(grid, &groups, CAMERA, Timestamp(250_000_000), Some(&shapes(1.0)));
        let found: Vec<_> = line.samples(0, 0..3).collect();
        assert!(found[0].is_nan() && found[1].is_nan() && (found[2] - 0.75).abs() < 1e-6, "{found:?}");
    }

    proptest! {
        #[test]
        fn every_instant_is_the_last_before_its_own_stamp(rate in 1_u32..=1000, instant in 0_u64..1 << 33) {
            let grid = Grid { rate };
            let at = grid.at(instant);
            prop_assert_eq!(grid.before(at), instant);
            prop_assert_eq!(grid.before(Timestamp(at.0.saturating_sub(1))), instant.saturating_sub(1));
        }

        /// A straight line of values stays one, whatever the rate and phase of the camera.
        #[test]
        fn no_sample_is_off_the_line(
            rate in 5_u32..=120,
            period_us in 4_000_u64..=250_000,
            phase_us in 0_u64..250_000,
            start_s in 0_u64..10_000_000,
        ) {
            let (grid, groups) = (Grid { rate }, jaw());
            let start = start_s * 1_000_000_000;
            let first = grid.before(Timestamp(start));
            let mut line = Line::new(4096, 1, first);
            let value = |at: u64| (at - start) as f64 / 4e9;
            for row in 0..2_000_000 / period_us {
                let at = start + (phase_us + row * period_us) * 1000;
                line.row(grid, &groups, CAMERA, Timestamp(at), Some(&shapes(value(at) as f32)));
            }
            for (sample, instant) in line.samples(0, first..line.next).zip(first..) {
                let at = grid.at(instant).0;
                prop_assert!(sample.is_nan() || (f64::from(sample) - value(at)).abs() < 1e-5, "{}", sample);
                prop_assert_eq!(sample.is_nan(), at < start + phase_us * 1000);
            }
        }

        /// Any rows, in any order, far apart or not: no panic, and no value that was not between two rows.
        #[test]
        fn nothing_is_invented(rows in prop::collection::vec((0_u64..5_000_000_000, any::<bool>(), 0_f32..1.0), 0..60)) {
            let (grid, groups) = (Grid { rate: 30 }, jaw());
            let mut line = Line::new(50, 1, 0);
            for (at, present, value) in rows {
                line.row(grid, &groups, CAMERA, Timestamp(at), present.then(|| shapes(value)).as_ref());
            }
            let instants = line.next.saturating_sub(50)..line.next;
            prop_assert!(line.samples(0, instants).all(|sample| sample.is_nan() || (0.0..1.0).contains(&sample)));
        }
    }
}
