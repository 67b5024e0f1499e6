//! Windows of synchrony: when one is due, what belongs to it, and what its pairs have in common.
//!
//! Pure: time is that of the frames, and what is computed depends on them alone. A window is computed in small portions on copies, so
//! that rows can be taken meanwhile. Beyond the window that it hands out, nothing is allocated after the start.

use std::time::Duration;

use youquanti_models::{BLENDSHAPE_COUNT, FrameFaces, ParticipantId, Timestamp, blendshapes};

use super::correlation::{Extent, Search, Series, draw_turns};
use super::grid::{Grid, Line};
use crate::dice::Dice;

/// How long a window waits for frames of other cameras that were captured at the same time: after that they are missing.
const SETTLE: Duration = Duration::from_secs(1);

/// Samples of a window that both must have, of `MOST`.
const LEAST: usize = 1;
const MOST: usize = 2;

/// Multiplications of a portion: well below a millisecond.
const PORTION: usize = 400_000;

/// Channels whose mean is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// Blendshapes, by their place in `youquanti_models::blendshapes::NAMES`; at least one.
    pub channels: Vec<usize>,
}

impl Group {
    /// Names of its channels.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.channels.iter().map(|&channel| blendshapes::NAMES[channel])
    }

    pub(super) fn mean(&self, blendshapes: &[f32; BLENDSHAPE_COUNT]) -> f32 {
        let sum: f32 = self.channels.iter().map(|&channel| blendshapes[channel]).sum();
        sum / self.channels.len() as f32
    }
}

/// What is compared, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SynchronyOptions {
    /// How many people take part: P1 to PN, at least 2.
    pub participants: u16,
    /// Samples a second to which all cameras are brought.
    pub rate: u32,
    /// Length of a window.
    pub window: Duration,
    /// From one window to the next.
    pub step: Duration,
    /// Lags that are looked at go from minus to plus this.
    pub max_lag: Duration,
    /// The past in which the second person's series is turned to see what chance gives; at least `window + 2 max_lag`.
    pub history: Duration,
    /// Turns that each window is compared with; 0: no p.
    pub shifts: usize,
    /// Decides which turns.
    pub seed: u64,
    /// What is compared.
    pub groups: Vec<Group>,
}

impl SynchronyOptions {
    /// Every pair of participants once, in the order P1–P2, P1–P3, …, P2–P3, …
    pub fn pairs(&self) -> impl Iterator<Item = [ParticipantId; 2]> + '_ {
        (1..=self.participants)
            .flat_map(move |a| (a + 1..=self.participants).map(move |b| [ParticipantId(a), ParticipantId(b)]))
    }
}

/// What two people have in common in one group of channels. NaN where that cannot be said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likeness {
    /// Pearson's r at the lag where its absolute value is largest, −1 to 1. NaN where at no lag both were seen for half of the
    /// window, or where one of them did not move.
    pub r: f32,
    /// That lag, seconds; positive: the second follows the first.
    pub lag_s: f32,
    /// How likely |r| is at least that large at some lag by chance: above 0, to 1.
    pub p: f32,
    /// Part of the window in which both were seen, 0 to 1: at that lag, or at lag 0 where r is NaN.
    pub common: f32,
}

impl Likeness {
    /// Its numbers, in the order of `session_file::LIKENESS_COLUMNS`.
    pub(crate) fn columns(&self) -> [f32; 4] {
        [self.r, self.lag_s, self.p, self.common]
    }
}

/// One window of all pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct SynchronyWindow {
    /// Of the first person's samples: from and to, capture time. Those of the second lie up to the largest lag earlier or later.
    pub start: Timestamp,
    /// See `start`; the last sample is at this instant.
    pub end: Timestamp,
    /// In the order of pairs, and of groups within a pair.
    pub likeness: Vec<Likeness>,
}

/// Everybody's recent past, and the window that is being computed.
pub struct Synchrony {
    options: SynchronyOptions,
    grid: Grid,
    /// For P1 to PN.
    lines: Vec<Line>,
    pairs: Vec<[usize; 2]>,
    step: u64,
    /// As long as the past can be; a window's own is shorter at first.
    extent: Extent,
    /// The first instant of all.
    first: Option<u64>,
    /// The last instant of the window that is due next.
    next: u64,
    work: Work,
}

/// The window that is being computed.
struct Work {
    /// The last instant of it; none while there is nothing to do.
    last: Option<u64>,
    extent: Extent,
    /// Of each participant, group by group.
    series: Vec<Series>,
    turns: Vec<usize>,
    search: Search,
    likeness: Vec<Likeness>,
}

impl Synchrony {
    /// Nothing seen yet. Memory for all that follows: 8 bytes × 3 × (history + window) × rate for each participant and group.
    pub fn new(options: SynchronyOptions) -> Self {
        let grid = Grid { rate: options.rate };
        let window = grid.count(options.window).max(2);
        let max_lag = grid.count(options.max_lag);
        let history = grid.count(options.history).max(window + 2 * max_lag);
        let extent = Extent { window, max_lag, least: (window * LEAST).div_ceil(MOST), history };
        let pairs: Vec<_> =
            options.pairs().map(|pair| pair.map(|person| usize::from(person.0) - 1)).collect();
        let series = usize::from(options.participants) * options.groups.len();
        let work = Work {
            last: None,
            extent,
            series: (0..series).map(|_| Series::with_capacity(history + window)).collect(),
            turns: Vec::with_capacity(history),
            search: Search::with_capacity(history),
            likeness: Vec::with_capacity(pairs.len() * options.groups.len()),
        };
        let step = grid.count(options.step).max(1) as u64;
        Self { options, grid, lines: Vec::new(), pairs, step, extent, first: None, next: 0, work }
    }

    /// Takes a frame with its participants. Frames of a camera come in their order; those of different cameras as they like, as
    /// long as none is a second behind.
    pub fn take(&mut self, frame: &FrameFaces, participants: &[Option<ParticipantId>]) {
        let (camera, at) = (frame.meta.camera, frame.meta.captured_at);
        if self.first.is_none() {
            self.begin(at);
        }
        let (grid, groups) = (self.grid, &self.options.groups);
        for (index, line) in self.lines.iter_mut().enumerate() {
            let is_this = |id: &Option<ParticipantId>| id.is_some_and(|id| usize::from(id.0) == index + 1);
            match participants.iter().position(is_this) {
                Some(face) => line.row(grid, groups, camera, at, Some(&frame.faces[face].blendshapes)),
                None if line.camera() == Some(camera) => line.row(grid, groups, camera, at, None),
                None => {}
            }
        }
    }

    fn begin(&mut self, at: Timestamp) {
        let first = self.grid.before(at);
        // Rows go on coming while a window waits for others.
        let capacity = self.extent.history + self.grid.count(SETTLE) + 1;
        let groups = self.options.groups.len();
        self.lines = (0..self.options.participants).map(|_| Line::new(capacity, groups, first)).collect();
        self.first = Some(first);
        let earliest = first + (self.extent.window + 2 * self.extent.max_lag) as u64 - 1;
        self.next = earliest.next_multiple_of(self.step);
    }

    /// Whether a window is due, now that a frame captured at `at` has come but has not been taken yet.
    pub fn is_due(&self, at: Timestamp) -> bool {
        self.first.is_some() && at >= self.grid.at(self.next) + SETTLE
    }

    /// Whether a window is being computed.
    pub fn is_at_work(&self) -> bool {
        self.work.last.is_some()
    }

    /// Leaves out the window that is due.
    pub fn skip(&mut self) {
        self.next += self.step;
    }

    /// Begins to compute the window that is due; what it needs of the past is copied.
    pub fn open(&mut self) {
        let last = self.next;
        self.next += self.step;
        let Some(first) = self.first else { return };
        let Self { options, lines, extent: longest, work, .. } = self;
        let history = longest.history.min((last + 1 - first) as usize);
        work.extent = Extent { history, ..*longest };
        let past = last + 1 - history as u64..last + 1;
        let mut series = work.series.iter_mut();
        for line in lines {
            line.close(last);
            for (group, series) in (0..options.groups.len()).zip(&mut series) {
                series.load(line.samples(group, past.clone()), longest.window);
            }
        }
        let mut dice = Dice::new(options.seed ^ last.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        draw_turns(&mut dice, history, options.shifts, &mut work.turns);
        work.search.restart();
        work.likeness.clear();
        work.last = Some(last);
    }

    /// Computes a portion of the open window, well below a millisecond of work; the window once it is complete.
    ///
    /// All of a window is pairs × groups × history × window × 6 multiplications, lengths in samples; without shifts, with
    /// 2 max_lag in place of history. N people are N (N − 1) / 2 pairs.
    pub fn advance(&mut self) -> Option<SynchronyWindow> {
        let Work { last, extent, series, turns, search, likeness } = &mut self.work;
        let instant = (*last)?;
        let groups = self.options.groups.len();
        let (pair, group) = (likeness.len() / groups, likeness.len() % groups);
        let [x, y] = self.pairs[pair].map(|person| &series[person * groups + group]);
        let places = (PORTION / (6 * extent.window)).max(1);
        if !search.advance(x, y, extent, self.options.shifts > 0, places) {
            return None;
        }
        let peak = search.peak(extent, turns);
        search.restart();
        likeness.push(Likeness {
            r: peak.r as f32,
            lag_s: if peak.r.is_nan() {
                f32::NAN
            } else {
                (peak.lag as f64 / f64::from(self.grid.rate)) as f32
            },
            p: peak.p as f32,
            common: peak.common as f32 / extent.window as f32,
        });
        if likeness.len() < self.pairs.len() * groups {
            return None;
        }
        *last = None;
        let end = instant - extent.max_lag as u64;
        Some(SynchronyWindow {
            start: self.grid.at(end + 1 - extent.window as u64),
            end: self.grid.at(end),
            likeness: likeness.clone(),
        })
    }
}
