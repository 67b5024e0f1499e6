//! Windowed cross-correlation of two series with missing samples, and how likely chance alone is to give as much.
//!
//! Pure. For each lag, Pearson's r of a window of the first series with the window of the second that lies that much later, over
//! the instants at which both are there: windowed cross-correlation after Boker, Xu, Rotondo and King, "Windowed
//! cross-correlation and peak picking for the analysis of variability in the association between behavioral time series",
//! Psychological Methods 7 (2002) 338–355. What counts is the lag at which |r| is largest.
//!
//! Chance is what remains when the second series is turned round in a circle over its whole history, which leaves its own
//! rhythm as it is and only its alignment is lost; such surrogates are discussed by Moulder, Boker, Ramseyer and Tschacher,
//! "Determining synchrony between behavioral time series", Psychological Methods 23 (2018) 757–773. Each turn is searched over the
//! same lags, so p accounts for the search (the maximum statistic of Westfall and Young, 1993). With turns drawn at random
//! without repetition, p = (1 + number of turns that give at least as much) / (1 + number of turns) is exact as far as the
//! second series may be turned: Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010) 39;
//! Hemerik and Goeman, TEST 27 (2018) 811–825. Neighbouring turns share most of their lags, so p cannot be less than about
//! (2 max_lag + 1) / history, all in samples.

use crate::dice::Dice;

/// Variance below which a series stands still and has no correlation; blendshapes go from 0 to 1.
const LEAST_VARIANCE: f64 = 1e-10;

/// A series around its mean, with what sums over it take: 1 or 0 for there or not, the sample, and its square; 0 where it is
/// missing. The beginning follows once more after the end, so that a window may reach over it.
#[derive(Debug, Default)]
pub(super) struct Series {
    there: Vec<f64>,
    value: Vec<f64>,
    square: Vec<f64>,
}

impl Series {
    /// Room for so many samples, and as many of them again as a window has.
    pub(super) fn with_capacity(samples: usize) -> Self {
        let room = || Vec::with_capacity(samples);
        Self { there: room(), value: room(), square: room() }
    }

    /// Takes the place of what it held; the first `again` samples follow once more. NaN is missing.
    pub(super) fn load(&mut self, samples: impl Iterator<Item = f32> + Clone, again: usize) {
        let there = samples.clone().filter(|sample| !sample.is_nan());
        let (count, sum) = there.fold((0_usize, 0.0), |(n, sum), sample| (n + 1, sum + f64::from(sample)));
        // Pearson's r does not change with it, and sums of squares are exact without it.
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        self.there.clear();
        self.value.clear();
        self.square.clear();
        for sample in samples {
            let value = if sample.is_nan() { 0.0 } else { f64::from(sample) - mean };
            self.there.push(f64::from(u8::from(!sample.is_nan())));
            self.value.push(value);
            self.square.push(value * value);
        }
        let again = again.min(self.there.len());
        for list in [&mut self.there, &mut self.value, &mut self.square] {
            list.extend_from_within(..again);
        }
    }
}

/// Additions side by side, in the order in which a processor can do them at once.
const LANES: usize = 4;

/// Σ a·b.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// Pearson's r of `window` samples of x from `x_from` on with those of y from `y_from` on, over the instants at which both are
/// there, and how many that are. NaN with fewer than `least`, and where one of them stands still.
fn pearson(
    x: &Series,
    x_from: usize,
    y: &Series,
    y_from: usize,
    window: usize,
    least: usize,
) -> (f64, usize) {
    let (xs, ys) = (x_from..x_from + window, y_from..y_from + window);
    let sum = |a: &[f64], b: &[f64]| dot(&a[xs.clone()], &b[ys.clone()]);
    let n = sum(&x.there, &y.there);
    let common = n as usize;
    if common < least.max(2) {
        return (f64::NAN, common);
    }
    let (mean_x, mean_y) = (sum(&x.value, &y.there) / n, sum(&x.there, &y.value) / n);
    let var_x = sum(&x.square, &y.there) / n - mean_x * mean_x;
    let var_y = sum(&x.there, &y.square) / n - mean_y * mean_y;
    if var_x < LEAST_VARIANCE || var_y < LEAST_VARIANCE {
        return (f64::NAN, common);
    }
    let covariance = sum(&x.value, &y.value) / n - mean_x * mean_y;
    ((covariance / (var_x * var_y).sqrt()).clamp(-1.0, 1.0), common)
}

/// Lengths of a search, in samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Of the window.
    pub(super) window: usize,
    /// Lags go from minus to plus this.
    pub(super) max_lag: usize,
    /// Samples both must have in common.
    pub(super) least: usize,
    /// Of both series; at least `window + 2 max_lag`.
    pub(super) history: usize,
}

impl Extent {
    /// Where the first series' window begins: so that the second has its largest lag at the newest sample.
    pub(super) fn window_from(&self) -> usize {
        self.history - self.max_lag - self.window
    }

    /// Lags, beginning with the smallest.
    fn lags(&self) -> usize {
        2 * self.max_lag + 1
    }

    /// Where the second series' window begins after a turn by `turn` samples, at the smallest lag plus `step`.
    fn turned(&self, turn: usize, step: usize) -> usize {
        (self.window_from() - self.max_lag + turn + step) % self.history
    }
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    /// Pearson's r at the lag where its absolute value is largest; NaN where no lag has one.
    pub(super) r: f64,
    /// That lag, samples; positive: the second series follows the first.
    pub(super) lag: i64,
    /// How likely at least that |r| is at some lag by chance, above 0 to 1; NaN without turns that can be compared.
    pub(super) p: f64,
    /// Samples that both have in common: at that lag, or at lag 0 where no lag has an r.
    pub(super) common: usize,
}

/// A search that is under way. Its memory is used again by the next.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// r and common samples with the second series' window beginning at each place of its history, as far as it is known.
    found: Vec<(f64, u32)>,
    done: usize,
}

impl Search {
    /// Room for so many samples of history.
    pub(super) fn with_capacity(history: usize) -> Self {
        Self { found: Vec::with_capacity(history), done: 0 }
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        self.found.clear();
        self.done = 0;
    }

    /// Looks at up to `places` further windows of y; whether all are done. Without turns only those of the lags are needed.
    pub(super) fn advance(
        &mut self,
        x: &Series,
        y: &Series,
        extent: &Extent,
        turned: bool,
        places: usize,
    ) -> bool {
        let count = if turned { extent.history } else { extent.lags() };
        self.found.resize(extent.history, (f64::NAN, 0));
        let end = count.min(self.done + places);
        for step in self.done..end {
            let place = extent.turned(0, step);
            let (r, common) = pearson(x, extent.window_from(), y, place, extent.window, extent.least);
            self.found[place] = (r, common as u32);
        }
        self.done = end;
        end == count
    }

    /// What was found, once all is done; `turns` are numbers of samples, none 0 and none twice.
    pub(super) fn peak(&self, extent: &Extent, turns: &[usize]) -> Peak {
        let at = |turn, step| self.found[extent.turned(turn, step)];
        let lag_of = |step: usize| step as i64 - extent.max_lag as i64;
        let best = (0..extent.lags())
            .map(|step| (at(0, step), lag_of(step)))
            .filter(|((r, _), _)| !r.is_nan())
            .max_by(|((a, _), a_lag), ((b, _), b_lag)| {
                a.abs().total_cmp(&b.abs()).then(b_lag.abs().cmp(&a_lag.abs()))
            });
        let Some(((r, common), lag)) = best else {
            let (_, common) = at(0, extent.max_lag);
            return Peak { r: f64::NAN, lag: 0, p: f64::NAN, common: common as usize };
        };
        let largest =
            |&turn: &usize| (0..extent.lags()).map(|step| at(turn, step).0.abs()).fold(f64::NAN, f64::max);
        let (mut compared, mut as_much) = (0_u32, 0_u32);
        for by_chance in turns.iter().map(largest).filter(|largest| !largest.is_nan()) {
            compared += 1;
            as_much += u32::from(by_chance >= r.abs());
        }
        let p = if compared == 0 { f64::NAN } else { f64::from(1 + as_much) / f64::from(1 + compared) };
        Peak { r, lag, p, common: common as usize }
    }
}

/// `count` turns of a circle of `history` samples, by chance, none 0 and none twice; all there are if that is fewer.
/// Writes them to the front of `turns`, whose memory it uses, and cuts it there (the shuffle of Fisher and Yates, stopped early).
pub(super) fn draw_turns(dice: &mut Dice, history: usize, count: usize, turns: &mut Vec<usize>) {
    turns.clear();
    turns.extend(1..history.max(1));
    let count = count.min(turns.len());
    for place in 0..count {
        let other = place + dice.below(turns.len() - place);
        turns.swap(place, other);
    }
    turns.truncate(count);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(samples: &[f32], again: usize) -> Series {
        let mut series = Series::with_capacity(samples.len() + again);
        series.load(samples.iter().copied(), again);
        series
    }

    fn search(x: &[f32], y: &[f32], extent: &Extent, turns: &[usize], portion: usize) -> Peak {
        let [x, y] = [x, y].map(|samples| series(samples, extent.window));
        let mut search = Search::with_capacity(extent.history);
        search.restart();
        while !search.advance(&x, &y, extent, !turns.is_empty(), portion) {}
        search.peak(extent, turns)
    }

    /// Pearson's r as the textbook has it, over the pairs that are complete.
    fn naive_r(x: &[f32], y: &[f32], least: usize) -> Option<f64> {
        let both: Vec<_> = x
            .iter()
            .zip(y)
            .filter(|(x, y)| !x.is_nan() && !y.is_nan())
            .map(|(&x, &y)| (f64::from(x), f64::from(y)))
            .collect();
        let n = both.len() as f64;
        let (mean_x, mean_y) =
            (both.iter().map(|(x, _)| x).sum::<f64>() / n, both.iter().map(|(_, y)| y).sum::<f64>() / n);
        let sum =
            |of: &dyn Fn(f64, f64) -> f64| both.iter().map(|&(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>();
        let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
        (both.len() >= least.max(2) && xx / n > 1e-9 && yy / n > 1e-9).then(|| xy / (xx * yy).sqrt())
    }

    /// The whole search, word by word: y is turned, then looked at with every lag. r, and p at least and at most, because a turn
    /// that gives the same but for rounding may or may not count.
    fn naive_search(x: &[f32], y: &[f32], extent: &Extent, turns: &[usize]) -> Option<(f64, [f64; 2])> {
        let &Extent { window, max_lag, least, history } = extent;
        let from = history - max_lag - window;
        let largest = |turn: usize| {
            let mut turned = y.to_vec();
            turned.rotate_left(turn);
            (0..=2 * max_lag)
                .filter_map(|lag| {
                    naive_r(&x[from..from + window], &turned[from + lag - max_lag..][..window], least)
                })
                .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        };
        let found = largest(0)?;
        let by_chance: Vec<_> = turns.iter().filter_map(|&turn| largest(turn)).collect();
        let p = |slack: f64| {
            let as_much = by_chance.iter().filter(|r| r.abs() >= found.abs() + slack).count();
            (1 + as_much) as f64 / (1 + by_chance.len()) as f64
        };
        Some((found, if by_chance.is_empty() { [f64::NAN; 2] } else { [p(1e-9), p(-1e-9)] }))
    }

    #[test]
    fn nothing_is_said_of_too_few_samples_and_of_what_stands_still() {
        const NO: f32 = f32::NAN;
        let extent = Extent { window: 4, max_lag: 1, least: 2, history: 6 };
        let check = |x: [f32; 6], y: [f32; 6], r: f64, common: usize| {
            let peak = search(&x, &y, &extent, &[], 1000);
            assert!(peak.r == r || (peak.r.is_nan() && r.is_nan()), "{x:?} {y:?}: {peak:?}");
            assert_eq!((peak.p.is_nan(), peak.common), (true, common), "{x:?} {y:?}: {peak:?}");
        };
        let up = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        check(up, [0.5; 6], f64::NAN, 4);
        check([0.5; 6], up, f64::NAN, 4);
        check([0.5; 6], [0.5; 6], f64::NAN, 4);
        check([NO; 6], up, f64::NAN, 0);
        check(up, [NO, NO, NO, 0.3, NO, NO], f64::NAN, 1);
        let peak = search(&up, &[NO, NO, NO, 0.3, 0.4, NO], &extent, &[], 1000);
        assert!((peak.r - 1.0).abs() < 1e-9 && peak.lag == 0 && peak.common == 2, "{peak:?}");
    }

    #[test]
    fn turns_are_different_and_repeatable() {
        let drawn = |seed, history, count| {
            let mut turns = vec![77; 3];
            draw_turns(&mut Dice::new(seed), history, count, &mut turns);
            turns
        };
        assert_eq!(drawn(1, 3600, 199), drawn(1, 3600, 199));
        assert_ne!(drawn(1, 3600, 199), drawn(2, 3600, 199));
        assert_eq!(drawn(1, 0, 5), [0; 0]);
        for (history, count) in [(1, 5), (2, 5), (10, 0), (10, 4), (10, 9), (10, 400)] {
            let mut turns = drawn(3, history, count);
            turns.sort_unstable();
            turns.dedup();
            assert_eq!(turns.len(), count.min(history - 1));
            assert!(turns.iter().all(|turn| (1..history).contains(turn)));
        }
    }

    fn samples(most: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(
            prop_oneof![4 => (0_u8..100).prop_map(|n| f32::from(n) / 100.0), 1 => Just(f32::NAN)],
            most,
        )
    }

    proptest! {
        #[test]
        fn as_the_naive_search(
            window in 2_usize..12,
            max_lag in 0_usize..6,
            longer in 0_usize..20,
            seed in any::<u64>(),
            portion in 1_usize..50,
            (x, y) in (samples(50), samples(50)),
        ) {
            let history = window + 2 * max_lag + longer;
            let extent = Extent { window, max_lag, least: window.div_ceil(2), history };
            let mut turns = Vec::new();
            draw_turns(&mut Dice::new(seed), history, 7, &mut turns);
            let (x, y) = (&x[..history], &y[..history]);
            let peak = search(x, y, &extent, &turns, portion);
            match naive_search(x, y, &extent, &turns) {
                None => prop_assert!(peak.r.is_nan() && peak.p.is_nan()),
                Some((r, [least, most])) => {
                    prop_assert!((peak.r.abs() - r.abs()).abs() < 1e-9, "{:?}, not {}", peak, r);
                    prop_assert_eq!(peak.p.is_nan(), most.is_nan());
                    prop_assert!(peak.p.is_nan() || (least..=most).contains(&peak.p), "{:?}, not {}", peak, most);
                    let from = extent.window_from();
                    let y_from = from.checked_add_signed(peak.lag as isize).unwrap();
                    let there = naive_r(&x[from..from + window], &y[y_from..][..window], extent.least).unwrap();
                    prop_assert!((there - peak.r).abs() < 1e-9, "r is that of its lag");
                }
            }
            let without = search(x, y, &extent, &[], portion);
            prop_assert_eq!((without.r.to_bits(), without.lag), (peak.r.to_bits(), peak.lag));
        }
    }

    /// A movement without end, never the same for two seeds: many waves of 0.05 to 1 Hz, at 30 samples a second.
    fn movement(seed: u64) -> impl Fn(f64) -> f32 {
        let mut dice = Dice::new(seed);
        let waves: Vec<_> = (0..40)
            .map(|_| {
                [0.05 + 0.95 * dice.unit(), dice.unit(), 0.5 + dice.unit()].map(|x| x * std::f64::consts::TAU)
            })
            .collect();
        move |sample: f64| {
            let sum: f64 =
                waves.iter().map(|[w, phase, size]| size * (w * sample / 30.0 + phase).sin()).sum();
            (0.4 + sum / 400.0) as f32
        }
    }

    fn noise(dice: &mut Dice) -> f32 {
        ((0..12).map(|_| dice.unit()).sum::<f64>() - 6.0) as f32
    }

    const EXTENT: Extent = Extent { window: 300, max_lag: 10, least: 150, history: 3600 };

    /// How many of so many pairs of people have p up to `alpha`; the second is the first, later, to the part `shared`.
    fn rejected(trials: u64, alpha: f64, shared: f32) -> u64 {
        let mut turns = Vec::new();
        let is_rejected = |&trial: &u64| {
            let mut dice = Dice::new(trial ^ 0x5eed);
            let (first, own) = (movement(2 * trial + 1), movement(2 * trial + 2));
            let x: Vec<_> = (0..3600).map(|k| first(f64::from(k)) + 0.01 * noise(&mut dice)).collect();
            let follows = |k: i32| shared * first(f64::from(k - 4)) + (1.0 - shared) * own(f64::from(k));
            let y: Vec<_> = (0..3600).map(|k| follows(k) + 0.01 * noise(&mut dice)).collect();
            draw_turns(&mut dice, EXTENT.history, 199, &mut turns);
            search(&x, &y, &EXTENT, &turns, usize::MAX).p <= alpha
        };
        (0..trials).filter(is_rejected).count() as u64
    }

    /// Where nothing is shared, p is up to 0.05 in 5 % of all windows. Of 400, 20; outside 8 to 33 one in 500 times.
    #[test]
    fn the_null_is_kept_where_people_move_on_their_own() {
        let rejected = rejected(400, 0.05, 0.0);
        assert!((8..=33).contains(&rejected), "{rejected} of 400 windows have p up to 0.05");
    }

    #[test]
    fn the_null_is_rejected_where_one_follows_the_other() {
        let rejected = rejected(40, 0.05, 0.6);
        assert_eq!(rejected, 40);
    }
}
