//! From how bright a camera saw the coded screen to the offset of its stamps.
//!
//! Owns the model and the fit: the brightness of a frame with stamp s is black + (white − black) · the share of the exposure
//! [s − d − e/2, s − d + e/2] in which the code is white, where d is the offset and e the exposure. Pure: no device, no clock.
//!
//! With a rolling shutter the mean over a part of the picture is the mean over its lines: d is then the offset of the middle
//! line of that part, and e holds the time in which its lines are read, too. A camera's gamma curve and a screen that falls
//! slower than it rises move rising and falling changes against each other and cancel in d, of which there are equally many.

use std::f64::consts::TAU;
use std::ops::RangeInclusive;

use youquanti_models::{Timestamp, UtcNanos};

use super::StampOffset;
use super::code::{BIT, PERIOD, next_change, white_share};

/// Parts into which pictures are divided in each direction.
pub const GRID: usize = 8;

/// Mean luminance, 0 to 255, of each part of a picture, row by row.
pub type Parts = [f32; GRID * GRID];

/// How bright a frame was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The frame's stamp.
    pub stamp: Timestamp,
    /// Mean luminance, 0 to 255.
    pub luma: f32,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The offset. Its count is that of changes of the screen. A change that no exposure saw half done proves only between
    /// which bounds the offset is: it counts with the point next to that of all changes together, so that the spread is
    /// what was proven, not the time between frames.
    pub offset: StampOffset,
    /// How well the mean is known: standard error, seconds. About the time between frames over the number of changes
    /// for a very short exposure, less for a long one. As much as a third of the time between frames if that divides a bit:
    /// then all changes are seen at the same point of an exposure, and what is between such points is never seen.
    pub standard_error_s: f64,
    /// Effective exposure, seconds: with what it takes to read the part's lines, and distorted by gamma.
    pub exposure_s: f64,
    /// How well that is known: standard error, seconds. Stamps that are off by differing amounts, as those of a busy computer that
    /// takes the time of receipt, make it larger.
    pub exposure_error_s: f64,
    /// White minus black, levels of 255.
    pub contrast: f64,
    /// Correlation of the brightness with the code, −1 to 1.
    pub correlation: f64,
    /// Frames that were used.
    pub frames: usize,
    /// Their median rate, a second.
    pub fps: f64,
}

/// Why no offset was found.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum EstimateError {
    /// Not enough was seen.
    #[error("{frames} frames of {seconds:.1} s show too little of the code: measure for {} s at least", SHORTEST.as_secs())]
    TooShort {
        /// Frames there are.
        frames: usize,
        /// From the first to the last, seconds.
        seconds: f64,
    },
    /// Frames are further apart than the code allows.
    #[error("{fps:.1} frames a second are too few to see the code: choose a rate of 8 or more")]
    TooSlow {
        /// Median rate.
        fps: f64,
    },
    /// The picture hardly changes.
    #[error(
        "the picture changes by {contrast:.1} of 255 levels only, {LEAST_CONTRAST} are needed: point the camera at the flashing \
         screen, closer, in a darker room, and fix its exposure so that white is not far too bright"
    )]
    LowContrast {
        /// White minus black, levels of 255.
        contrast: f64,
    },
    /// The picture changes, but not as the code does.
    #[error(
        "the picture changes, but not as the code does (correlation {correlation:.2}, {LEAST_CORRELATION} is needed): \
         see that the screen flashes, fills the picture, and that nothing else there flickers or moves"
    )]
    NotFound {
        /// The best of all offsets, −1 to 1.
        correlation: f64,
    },
}

/// Shortest measurement.
pub const SHORTEST: std::time::Duration = std::time::Duration::from_secs(15);

/// Least difference of white and black, levels of 255.
const LEAST_CONTRAST: f64 = 8.0;

/// Least correlation. Chance, with the best of all offsets, reaches 0.3 in 15 s.
const LEAST_CORRELATION: f64 = 0.6;

/// Longest time between frames, as a share of a bit.
const LONGEST_INTERVAL: f64 = 0.6;

/// Time around a frame in which black and white levels are sought: longer than the code goes without either.
const LEVELS_WITHIN_S: f64 = 2.5;

/// Offsets of the first search are this far apart.
const COARSE_STEP_S: f64 = 0.004;

/// Offsets of the fit's first look are this far apart.
const ROUGH_STEP_S: f64 = 0.0004;

/// Offsets of the fit are this far apart.
const FINE_STEP_S: f64 = 0.0001;

/// Exposures of the fit: this many steps up to the time between frames, and a quarter beyond for a rolling shutter.
const EXPOSURE_STEPS: usize = 24;

/// Noise of the brightness below which the fit does not trust itself, as a share of the contrast.
const LEAST_NOISE: f64 = 0.02;

/// Stamps are never taken to be more exact, seconds.
const LEAST_JITTER_S: f64 = 0.00002;

/// Jitter reaches so many standard deviations: as when everything up to there is equally likely, the root of 3.
const WIDEST_JITTER: f64 = 1.732;

/// Shares of the irregularity of the stamps that the fit tries as jitter.
const JITTER_SHARES: [f64; 4] = [0.0, 0.1, 0.3, 1.0];

/// Share of stamps that may be off by any amount: those of a computer that was busy when a frame came.
const STRAYS: f64 = 0.05;

/// Share of the time between frames after which, if no frame saw a change there, another group of frames begins.
const GROUP_GAP: f64 = 1.0 / 20.0;

/// Mean gaps by which a gap exceeds the widest that frames leave by chance, to mean something: that happens once in e^3 films.
const BY_CHANCE: f64 = 3.0;

/// Least share of the variance of a group of stamps that is not jitter. Less is not known well enough.
const LEAST_LIGHT: f64 = 0.5;

/// Pairs of offset and exposure that are less likely than this, with the likeliest as 1, do not count.
const LEAST_WEIGHT: f64 = 1e-6;

/// The series of the part of the picture that flashes: the mean of the parts that change at least half as much as the one that
/// changes most.
pub fn flashing_part(frames: &[(Timestamp, Parts)]) -> Vec<Sample> {
    let swings: Vec<f64> = (0..GRID * GRID)
        .map(|part| swing(frames.iter().map(|(_, parts)| f64::from(parts[part])).collect()))
        .collect();
    let least = swings.iter().fold(0.0, |most, &swing| f64::max(most, swing)) / 2.0;
    let flashing: Vec<usize> = (0..GRID * GRID).filter(|&part| swings[part] >= least).collect();
    let mean = |parts: &Parts| flashing.iter().map(|&part| parts[part]).sum::<f32>() / flashing.len() as f32;
    frames.iter().map(|(stamp, parts)| Sample { stamp: *stamp, luma: mean(parts) }).collect()
}

/// By how much a series changes, levels of 255: its 95th minus its 5th percentile.
pub fn contrast(series: &[Sample]) -> f64 {
    swing(series.iter().map(|sample| f64::from(sample.luma)).collect())
}

/// Finds the offset in a series whose stamps ascend. All offsets from −13 to 13 s are tried; beyond, the code is ambiguous.
///
/// # Errors
/// See [`EstimateError`], each of which says what to do.
pub fn estimate(series: &[Sample], measured_at: UtcNanos) -> Result<Estimate, EstimateError> {
    let (Some(first), Some(last)) = (series.first(), series.last()) else {
        return Err(EstimateError::TooShort { frames: 0, seconds: 0.0 });
    };
    let seconds = last.stamp.saturating_since(first.stamp).as_secs_f64();
    let intervals =
        series.windows(2).map(|pair| pair[1].stamp.saturating_since(pair[0].stamp).as_secs_f64()).collect();
    let interval = quantile(sorted(intervals), 0.5);
    if seconds < SHORTEST.as_secs_f64() {
        return Err(EstimateError::TooShort { frames: series.len(), seconds });
    }
    if interval > LONGEST_INTERVAL * BIT.as_secs_f64() {
        return Err(EstimateError::TooSlow { fps: 1.0 / interval });
    }
    let contrast = contrast(series);
    if contrast < LEAST_CONTRAST {
        return Err(EstimateError::LowContrast { contrast });
    }
    let (near, correlation) = search(&frames_of(series, &rough_levels(series)), interval);
    if correlation < LEAST_CORRELATION {
        return Err(EstimateError::NotFound { correlation });
    }
    let frames = frames_of(series, &levels(series, near, interval));
    let sights = sights(&frames, near);
    let blur = Blur { jitter_s: jitter(series, interval), noise: noise(&frames, near, interval) };
    let fit = fit(&sights, &blur, near, interval);
    let changes = sights.chunk_by(|one, next| one.change == next.change);
    let single = sorted(changes.filter_map(|sights| one_change(sights, &blur, &fit, interval)).collect());
    if single.is_empty() {
        return Err(EstimateError::TooShort { frames: series.len(), seconds });
    }
    let count = single.len() as f64;
    let mean_s = single.iter().sum::<f64>() / count;
    let rms_s = rms(single.iter().map(|offset| offset - mean_s));
    Ok(Estimate {
        offset: StampOffset {
            mean_s,
            rms_s,
            median_s: quantile_of(&single, 0.5),
            p05_s: quantile_of(&single, 0.05),
            p95_s: quantile_of(&single, 0.95),
            count: u32::try_from(single.len()).unwrap_or(u32::MAX),
            measured_at_utc_ns: measured_at.0,
        },
        standard_error_s: fit.offset_error_s.hypot(rms_s / count.sqrt()),
        exposure_s: fit.exposure_s,
        exposure_error_s: fit.exposure_error_s,
        contrast,
        correlation,
        frames: series.len(),
        fps: 1.0 / interval,
    })
}

/// A frame as the model sees it.
#[derive(Clone, Copy)]
struct Frame {
    /// Stamp, nanoseconds.
    stamp: i64,
    /// Brightness between the black level, 0, and the white level, 1.
    lit: f64,
}

impl Frame {
    /// Brightness by the model, for an offset and an exposure in seconds.
    fn expected(&self, offset: f64, exposure: f64) -> f64 {
        let (middle, half) = (self.stamp - nanos(offset), nanos(exposure / 2.0));
        white_share(middle - half, middle + half)
    }
}

/// A frame near a change of the screen. The offset turns this around: rising or falling, all changes are seen alike.
struct Sight {
    /// When the screen changed, nanoseconds.
    change: i64,
    /// From the change to the stamp, seconds.
    since_s: f64,
    /// How far the frame went from the brightness before the change, 0, to the one after it, 1.
    after: f64,
}

/// The frames that are within half a bit of a change if the offset is `near`.
fn sights(frames: &[Frame], near: f64) -> Vec<Sight> {
    let half_bit = BIT.as_nanos() as i64 / 2;
    let sights = frames.iter().filter_map(|frame| {
        let seen = frame.stamp - nanos(near);
        let change = next_change(Timestamp((seen - half_bit).try_into().ok()?)).0 as i64;
        let rises = white_share(change, change) == 1.0;
        (change <= seen + half_bit).then(|| Sight {
            change,
            since_s: (frame.stamp - change) as f64 * 1e-9,
            after: if rises { frame.lit } else { 1.0 - frame.lit },
        })
    });
    sights.collect()
}

fn nanos(seconds: f64) -> i64 {
    (seconds * 1e9).round() as i64
}

/// Black and white level at the time of each frame.
type Levels = Vec<(f64, f64)>;

fn frames_of(series: &[Sample], levels: &Levels) -> Vec<Frame> {
    let frames = series.iter().zip(levels).map(|(sample, &(black, white))| {
        let lit = (f64::from(sample.luma) - black) / (white - black).max(1e-3);
        Frame { stamp: sample.stamp.0 as i64, lit: lit.clamp(-0.5, 1.5) }
    });
    frames.collect()
}

/// Indices of the frames within [`LEVELS_WITHIN_S`] of each frame. At the ends, where there are none on one side, there are the
/// more on the other: a line through the few frames of a single bit would point anywhere.
fn surroundings(series: &[Sample]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let within = (LEVELS_WITHIN_S * 1e9) as u64;
    let (earliest, latest) = (series[0].stamp.0 + within, series[series.len() - 1].stamp.0 - within);
    let (mut from, mut to) = (0, 0);
    series.iter().map(move |sample| {
        let middle = sample.stamp.0.min(latest).max(earliest);
        while series[from].stamp.0 + within < middle {
            from += 1;
        }
        while to < series.len() && series[to].stamp.0 <= middle + within {
            to += 1;
        }
        from..to
    })
}

/// Levels before anything is known: around each frame, the 10th and 90th percentile.
fn rough_levels(series: &[Sample]) -> Levels {
    surroundings(series)
        .map(|around| {
            let luma = sorted(series[around].iter().map(|sample| f64::from(sample.luma)).collect());
            (quantile_of(&luma, 0.1), quantile_of(&luma, 0.9))
        })
        .collect()
}

/// Levels once the offset is roughly known: lines through those frames around each that saw nothing but black, or nothing
/// but white. They follow a camera that adjusts itself.
fn levels(series: &[Sample], near: f64, interval: f64) -> Levels {
    let margin = interval + COARSE_STEP_S;
    let states: Vec<f64> = series
        .iter()
        .map(|sample| Frame { stamp: sample.stamp.0 as i64, lit: 0.0 }.expected(near, interval + margin))
        .collect();
    let states = &states;
    let certain = |range: std::ops::Range<usize>, state: f64| {
        let frames = range.filter(move |&k| states[k] == state);
        frames.map(|k| (series[k].stamp.0 as f64 * 1e-9, f64::from(series[k].luma)))
    };
    let overall = |state| {
        let luma = sorted(certain(0..series.len(), state).map(|(_, luma)| luma).collect());
        quantile_of(&luma, 0.5)
    };
    let (black, white) = (overall(0.0), overall(1.0));
    let around = surroundings(series).zip(series);
    around
        .map(|(around, sample)| {
            let at = sample.stamp.0 as f64 * 1e-9;
            (
                line_at(at, certain(around.clone(), 0.0)).unwrap_or(black),
                line_at(at, certain(around, 1.0)).unwrap_or(white),
            )
        })
        .collect()
}

/// The value at `at` of the line that fits the points best in the sense of least squares; `None` of fewer than three.
fn line_at(at: f64, points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut n, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (px, py) in points.map(|(px, py)| (px - at, py)) {
        n += 1.0;
        x += px;
        y += py;
        xx += px * px;
        xy += px * py;
    }
    let scale = n * xx - x * x;
    (n > 2.0 && scale > 0.0).then(|| (y * xx - x * xy) / scale)
}

/// The offset of all that correlates best, and its correlation.
fn search(frames: &[Frame], interval: f64) -> (f64, f64) {
    const ENOUGH: usize = 1500;
    let some: Vec<Frame> = frames.iter().step_by(frames.len().div_ceil(ENOUGH)).copied().collect();
    let half = (PERIOD.as_secs_f64() / 2.0 / COARSE_STEP_S) as i64;
    let offsets = (-half..half).map(|step| step as f64 * COARSE_STEP_S);
    let tried = offsets.map(|offset| {
        let pairs = some.iter().map(|frame| (frame.lit, frame.expected(offset, interval / 2.0)));
        (offset, correlation(pairs))
    });
    tried.fold((0.0, -1.0), |best, now| if now.1 > best.1 { now } else { best })
}

fn correlation(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut n, mut x, mut y, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (a, b) in pairs {
        n += 1.0;
        x += a;
        y += b;
        xx += a * a;
        yy += b * b;
        xy += a * b;
    }
    let scale = ((n * xx - x * x) * (n * yy - y * y)).sqrt();
    if scale > 0.0 { (n * xy - x * y) / scale } else { 0.0 }
}

/// How exact stamps and brightness are: standard deviations.
struct Blur {
    /// Of a stamp at most, seconds: the camera itself may be irregular, and its stamps right.
    jitter_s: f64,
    /// Of the brightness, as a share of the contrast.
    noise: f64,
}

/// How noisy the brightness is while the screen does not change: standard deviation, as a share of the contrast.
fn noise(frames: &[Frame], near: f64, interval: f64) -> f64 {
    let certain = frames.iter().filter_map(|frame| {
        let state = frame.expected(near, 2.0 * interval + COARSE_STEP_S);
        (state == 0.0 || state == 1.0).then_some(frame.lit - state)
    });
    rms(certain).max(LEAST_NOISE)
}

/// How irregular stamps are: standard deviation, seconds. A steady camera's stamp is in the middle of those before and after it.
fn jitter(series: &[Sample], interval: f64) -> f64 {
    let bends = series.windows(3).map(|three| {
        let before = three[1].stamp.saturating_since(three[0].stamp).as_secs_f64();
        let after = three[2].stamp.saturating_since(three[1].stamp).as_secs_f64();
        after - before
    });
    // The bend has the stamp twice and those beside it once: six times the variance of one.
    (rms(bends.filter(|bend| bend.abs() < interval / 2.0)) / 6f64.sqrt()).max(LEAST_JITTER_S)
}

/// Root of the mean square; 0 of nothing.
fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut sum) = (0.0, 0.0);
    for value in values {
        count += 1.0;
        sum += value * value;
    }
    (sum / f64::max(count, 1.0)).sqrt()
}

/// What the fit explains: one sight, or the mean of several.
struct Point {
    /// As in [`Sight`], but for the jitter that could be removed, seconds.
    since_s: f64,
    /// What that may be off by at most: standard deviation, seconds.
    jitter_s: f64,
    /// As in [`Sight`].
    after: f64,
    /// What that may be off by: standard deviation.
    noise: f64,
    /// How likely the stamp is one that may be off by any amount.
    strays: f64,
}

impl Point {
    /// Minus twice the logarithm of how likely this is, but for a constant, by offset, exposure and jitter of a cell of a grid
    /// whose middles of exposures are known to `grain_s` only.
    ///
    /// Exposures are at all phases, and the error of a stamp does not depend on the phase. A frame that saw the change half
    /// done tells when it was exposed, so its stamp's error is known, and that is what has a likelihood. Errors of stamps so
    /// widen the line of brightness over stamp, and neither tilt it nor pass for another exposure.
    fn misfit(&self, cell: &Cell, grain_s: f64) -> f64 {
        let (exposure, noise) = (cell.exposure_s, self.noise);
        let jitter = (cell.jitter_share * self.jitter_s).max(LEAST_JITTER_S).hypot(grain_s);
        let since = self.since_s - cell.offset_s;
        let before = bell(self.after / noise) * below(-(since + exposure / 2.0) / jitter);
        let after = bell((self.after - 1.0) / noise) * below((since - exposure / 2.0) / jitter);
        // The share that is after the change, by the stamp and by the light: together they have to be between 0 and 1.
        let expected = since + exposure / 2.0;
        let spread = jitter.hypot(noise * exposure);
        let (by_stamp, by_light) = ((noise * exposure / spread).powi(2), (jitter / spread).powi(2));
        let share = by_stamp * expected + by_light * self.after * exposure;
        let error = jitter * noise * exposure / spread;
        let inside = below((exposure - share) / error) - below(-share / error);
        let density = exposure * noise / spread * bell((expected - self.after * exposure) / spread);
        let partly = if exposure > 0.0 { density * inside } else { 0.0 };
        let likely = (1.0 - self.strays) * (before + partly + after) + self.strays * noise * TAU.sqrt();
        -2.0 * likely.max(f64::MIN_POSITIVE).ln()
    }
}

/// The normal distribution's density, with 1 at its middle.
fn bell(at: f64) -> f64 {
    (-at * at / 2.0).exp()
}

/// How much of the normal distribution is below a place, to 0.0002.
/// Bowling and others, "A logistic approximation to the cumulative normal distribution", J. Ind. Eng. Manag. 2 (2009).
fn below(at: f64) -> f64 {
    1.0 / (1.0 + (-(1.5976 * at + 0.070_56 * at * at * at)).exp())
}

/// The sights within `reach` of `near`, without the error that jitter makes in an exposure.
///
/// A camera whose time between frames divides a bit sees all changes at the same points of its exposures. Its stamps differ
/// there by jitter alone, and brightness that does not follow them must not be taken for that of a long exposure. So
/// the stamps of a group without gaps are drawn together by as much of their spread as is jitter, and one that is mostly jitter
/// becomes a single point. A camera that sees changes at all points makes one group, and nothing moves.
fn points(sights: &[Sight], blur: &Blur, near: f64, reach: f64, interval: f64) -> Vec<Point> {
    let mut sights: Vec<&Sight> =
        sights.iter().filter(|sight| (sight.since_s - near).abs() < reach).collect();
    sights.sort_by(|one, next| one.since_s.total_cmp(&next.since_s));
    let mut points = Vec::new();
    let count = sights.len().max(1) as f64;
    // Where frames fall anywhere, the widest gap is the logarithm of their number times the mean one, and seldom much more.
    let gap_s = (GROUP_GAP * interval).max(2.0 * reach / count * (count.ln() + BY_CHANCE));
    for group in sights.chunk_by(|one, next| next.since_s - one.since_s < gap_s) {
        let count = group.len() as f64;
        let since_s = group.iter().map(|sight| sight.since_s).sum::<f64>() / count;
        let spread = rms(group.iter().map(|sight| sight.since_s - since_s)).max(LEAST_JITTER_S);
        // Share of the variance that is not jitter. By linear regression also the share of a stamp's distance from the mean
        // by which the light was away from it.
        let light = if group.len() < sights.len() { 1.0 - (blur.jitter_s / spread).powi(2) } else { 1.0 };
        if light > LEAST_LIGHT {
            let jitter_s = blur.jitter_s * light.sqrt();
            points.extend(group.iter().map(|sight| Point {
                since_s: since_s + light * (sight.since_s - since_s),
                jitter_s,
                after: sight.after,
                noise: blur.noise,
                strays: STRAYS,
            }));
        } else {
            let after = group.iter().map(|sight| sight.after).sum::<f64>() / count;
            let noise = rms(group.iter().map(|sight| sight.after - after)).max(blur.noise);
            points.push(Point {
                since_s,
                jitter_s: spread / count.sqrt(),
                after,
                noise: noise / count.sqrt(),
                strays: STRAYS.powf(count),
            });
        }
    }
    points
}

/// Offset and exposure that explain all frames.
struct Fit {
    offset_s: f64,
    offset_error_s: f64,
    exposure_s: f64,
    exposure_error_s: f64,
}

/// A possible result.
#[derive(Clone, Copy)]
struct Cell {
    offset_s: f64,
    exposure_s: f64,
    /// Share of the irregularity of the stamps that is jitter: the rest is the camera's own.
    jitter_share: f64,
    /// How likely it is, the likeliest being 1.
    weight: f64,
}

/// Of a very short exposure a whole interval of offsets fits equally well, and of frames that all saw changes at the same point
/// a whole line of offsets and exposures does. Their middle is wanted: so every pair on a grid is weighted with its
/// likelihood, and the weighted mean is taken.
fn fit(sights: &[Sight], blur: &Blur, near: f64, interval: f64) -> Fit {
    let reach = interval / 2.0 + 2.0 * COARSE_STEP_S;
    let longest = 1.25 * interval;
    let points = points(sights, blur, near, longest / 2.0 + reach, interval);
    let rough = likely(&points, near - reach..=near + reach, ROUGH_STEP_S, 0.0..=longest);
    // Exposures between those of the grid may be far likelier still, with other offsets.
    let step = longest / EXPOSURE_STEPS as f64;
    let offsets = range(rough.iter().map(|cell| cell.offset_s), step / 2.0);
    let exposures = range(rough.iter().map(|cell| cell.exposure_s), step);
    let exposures = exposures.start().max(0.0)..=*exposures.end();
    let exposure_step_s = step_of(&exposures);
    let cells = likely(&points, offsets, FINE_STEP_S, exposures);
    let weights: f64 = cells.iter().map(|cell| cell.weight).sum();
    let mean = |value: &dyn Fn(&Cell) -> f64| {
        cells.iter().map(|cell| cell.weight * value(cell)).sum::<f64>() / weights
    };
    let (offset_s, exposure_s) = (mean(&|cell| cell.offset_s), mean(&|cell| cell.exposure_s));
    // The offset comes from the frames that may have seen the change half done. The mean of their stamps has jitter, too.
    let half = exposure_s / 2.0 + WIDEST_JITTER * blur.jitter_s;
    let deciding = sights.iter().filter(|sight| (sight.since_s - offset_s).abs() < half).count();
    let jitter_s = blur.jitter_s / (deciding.max(1) as f64).sqrt();
    let weighted_s = mean(&|cell| (cell.offset_s - offset_s).powi(2)).sqrt();
    let offset_error_s = weighted_s.hypot(jitter_s).hypot(FINE_STEP_S / 12f64.sqrt());
    let weighted_s = mean(&|cell| (cell.exposure_s - exposure_s).powi(2)).sqrt();
    let exposure_error_s = weighted_s.hypot(exposure_step_s / 12f64.sqrt());
    Fit { offset_s, offset_error_s, exposure_s, exposure_error_s }
}

/// From the least to the greatest value, and `more` on both sides.
fn range(values: impl Iterator<Item = f64>, more: f64) -> RangeInclusive<f64> {
    let (least, greatest) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), value| {
        (least.min(value), greatest.max(value))
    });
    least - more..=greatest + more
}

/// Distance of the exposures of a grid.
fn step_of(exposures: &RangeInclusive<f64>) -> f64 {
    (exposures.end() - exposures.start()) / EXPOSURE_STEPS as f64
}

/// The pairs of a grid that are not all too unlikely.
fn likely(
    points: &[Point],
    offsets: RangeInclusive<f64>,
    step_s: f64,
    exposures: RangeInclusive<f64>,
) -> Vec<Cell> {
    let exposure_step_s = step_of(&exposures);
    let grain_s = step_s.hypot(exposure_step_s / 2.0) / 12f64.sqrt();
    let misfit = |cell: Cell| points.iter().map(|point| point.misfit(&cell, grain_s)).sum::<f64>();
    let (first, steps) = (*offsets.start(), ((offsets.end() - offsets.start()) / step_s) as usize);
    let mut cells: Vec<(Cell, f64)> = (0..=EXPOSURE_STEPS)
        .map(|step| exposures.start() + step as f64 * exposure_step_s)
        .flat_map(|exposure_s| (0..=steps).map(move |k| (first + k as f64 * step_s, exposure_s)))
        .flat_map(|(offset_s, exposure_s)| {
            JITTER_SHARES.map(|jitter_share| Cell { offset_s, exposure_s, jitter_share, weight: 1.0 })
        })
        .map(|cell| (cell, misfit(cell)))
        .collect();
    let least = cells.iter().map(|(_, misfit)| *misfit).fold(f64::INFINITY, f64::min);
    // What the model does not know, a gamma curve for one, makes everything less certain.
    let scale = (least / points.len().max(1) as f64).max(1.0);
    for (cell, misfit) in &mut cells {
        cell.weight = (-(*misfit - least) / (2.0 * scale)).exp();
    }
    cells.into_iter().map(|(cell, _)| cell).filter(|cell| cell.weight > LEAST_WEIGHT).collect()
}

/// The offset by one change, from the frames around it: stamp minus the time of the change, seconds, and the share of the exposure
/// after the change. `None` when no frame saw it half done and frames are missing on either side.
fn one_change(sights: &[Sight], blur: &Blur, fit: &Fit, interval: f64) -> Option<f64> {
    let unclear = (4.0 * blur.noise).clamp(0.05, 0.4);
    let half = fit.exposure_s / 2.0;
    let (mut at_least, mut at_most) = (f64::NEG_INFINITY, f64::INFINITY);
    let (mut sum, mut partly) = (0.0, 0.0);
    // The little that an unclear frame seems to have seen may be noise or the change: the bounds allow for both.
    for &Sight { since_s: stamp, after, .. } in sights {
        if after <= unclear {
            at_least = at_least.max(stamp + half - after.max(0.0) * fit.exposure_s);
        } else if after >= 1.0 - unclear {
            at_most = at_most.min(stamp - half + (1.0 - after).max(0.0) * fit.exposure_s);
        } else if (stamp - fit.offset_s).abs() < interval {
            sum += stamp + half - after * fit.exposure_s;
            partly += 1.0;
        }
    }
    if partly > 0.0 {
        Some(sum / partly)
    } else if at_least == f64::NEG_INFINITY || at_most == f64::INFINITY {
        None
    } else if at_least <= at_most {
        Some(fit.offset_s.clamp(at_least, at_most))
    } else {
        // The exposure was taken a little too long.
        Some((at_least + at_most) / 2.0)
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn quantile(sorted: Vec<f64>, share: f64) -> f64 {
    quantile_of(&sorted, share)
}

/// Of ascending values; 0 of none.
fn quantile_of(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (sorted.get(place.floor() as usize), sorted.get(place.ceil() as usize));
    match (below, above) {
        (Some(below), Some(above)) => below + (above - below) * place.fract(),
        _ => 0.0,
    }
}

fn swing(values: Vec<f64>) -> f64 {
    let values = sorted(values);
    quantile_of(&values, 0.95) - quantile_of(&values, 0.05)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// A camera that films the coded screen.
    #[derive(Clone, Copy, Debug)]
    struct Camera {
        fps: f64,
        /// Share of the time between frames.
        exposure: f64,
        offset_s: f64,
        /// Stamps are off by up to this, seconds.
        jitter_s: f64,
        /// Standard deviation, levels.
        noise: f64,
        /// Gain goes up and down by this share.
        drift: f64,
        /// Share of frames that get lost.
        lost: f64,
        seconds: f64,
        seed: u64,
    }

    const PLAIN: Camera = Camera {
        fps: 30.0,
        exposure: 0.3,
        offset_s: 0.037,
        jitter_s: 0.0,
        noise: 0.0,
        drift: 0.0,
        lost: 0.0,
        seconds: 60.0,
        seed: 1,
    };

    /// SplitMix64, as numbers from 0 to 1.
    fn chance(state: &mut u64) -> f64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    impl Camera {
        fn film(&self) -> Vec<Sample> {
            self.film_screen(white_share)
        }

        fn film_screen(&self, screen: impl Fn(i64, i64) -> f64) -> Vec<Sample> {
            let mut random = self.seed;
            let interval = 1.0 / self.fps;
            let begin = 1000.0 + 30.0 * chance(&mut random);
            let mut frames = Vec::new();
            for k in 0..(self.seconds * self.fps) as u32 {
                let middle = begin + f64::from(k) * interval;
                let half = self.exposure * interval / 2.0;
                let light = screen(nanos(middle - half), nanos(middle + half));
                let gain = 1.0 + self.drift * (middle * 0.3).sin();
                // Four of twelve make a bell that is good enough.
                let noise =
                    self.noise * 3f64.sqrt() * ((0..4).map(|_| chance(&mut random)).sum::<f64>() - 2.0);
                let stamp = middle + self.offset_s + self.jitter_s * (2.0 * chance(&mut random) - 1.0);
                if chance(&mut random) >= self.lost {
                    let luma = (gain * (30.0 + 120.0 * light) + noise).clamp(0.0, 255.0) as f32;
                    // Drivers stamp in microseconds.
                    frames.push(Sample { stamp: Timestamp((stamp * 1e6) as u64 * 1000), luma });
                }
            }
            frames
        }

        fn measure(&self) -> Result<Estimate, EstimateError> {
            estimate(&self.film(), UtcNanos(7))
        }

        /// The longest time, seconds, before or after changes in which no frame was ever taken: all frames taken together, and
        /// at most the time between frames, which is that of a camera that sees all changes at the same point.
        fn unseen_s(&self) -> f64 {
            let interval = 1.0 / self.fps;
            let half = nanos(interval / 2.0);
            let light = Camera { jitter_s: 0.0, ..*self }.film();
            let seen = light.iter().filter_map(|sample| {
                let at = sample.stamp.0 as i64 - nanos(self.offset_s);
                let since = at - next_change(Timestamp((at - half) as u64)).0 as i64;
                (since >= -half).then_some(since as f64 * 1e-9)
            });
            let seen = sorted(seen.collect());
            let around = seen[0] + interval - seen[seen.len() - 1];
            seen.windows(2).map(|pair| pair[1] - pair[0]).fold(around, f64::max)
        }
    }

    #[track_caller]
    fn check(camera: Camera, within_s: f64) -> Estimate {
        let found = camera.measure().unwrap_or_else(|error| panic!("{camera:?}: {error}"));
        let error = found.offset.mean_s - camera.offset_s;
        assert!(error.abs() <= within_s, "{camera:?}: off by {:.2} ms, {found:?}", error * 1e3);
        let median = found.offset.median_s - camera.offset_s;
        assert!(median.abs() <= within_s, "{camera:?}: median off by {:.2} ms, {found:?}", median * 1e3);
        let (claimed_s, unseen_s) = (found.standard_error_s, camera.unseen_s());
        assert!(
            error.abs() <= 5.0 * claimed_s + unseen_s / 8.0,
            "{camera:?}: off by {:.2} ms, far more than claimed, {found:?}",
            error * 1e3
        );
        assert!(claimed_s <= 0.0008 + unseen_s / 2.0, "{camera:?}: known better than claimed, {found:?}");
        let error = found.exposure_s - camera.exposure / camera.fps;
        assert!(
            error.abs() <= 5.0 * found.exposure_error_s,
            "{camera:?}: exposure off by {:.2} ms, far more than claimed, {found:?}",
            error * 1e3
        );
        found
    }

    #[test]
    fn a_plain_camera() {
        let found = check(PLAIN, 0.0002);
        assert!((found.exposure_s - 0.01).abs() < 0.001, "{found:?}");
        assert!((found.contrast - 120.0).abs() < 1.0, "{found:?}");
        assert!((found.fps - 30.0).abs() < 0.1, "{found:?}");
        assert!(found.correlation > 0.9 && found.offset.rms_s < 0.0005, "{found:?}");
        assert!((130..160).contains(&found.offset.count), "{found:?}");
        assert_eq!((found.frames, found.offset.measured_at_utc_ns), (1800, 7));
    }

    #[test]
    fn the_spread_is_that_of_the_stamps() {
        let found = check(Camera { exposure: 0.9, jitter_s: 0.003, ..PLAIN }, 0.0008);
        // Of a uniform distribution from −3 to 3 ms.
        assert!((found.offset.rms_s - 0.003 / 3f64.sqrt()).abs() < 0.0005, "{found:?}");
        assert!((found.offset.p95_s - found.offset.p05_s - 0.0054).abs() < 0.0012, "{found:?}");
        let found = check(Camera { exposure: 0.0, ..PLAIN }, 0.001);
        assert!(found.offset.rms_s < 0.0002, "the time between frames is no spread: {found:?}");
    }

    #[test]
    fn gamma_and_a_slow_screen_cancel() {
        let gamma = |from, to| white_share(from, to).powf(1.0 / 2.2);
        let camera = Camera { exposure: 0.8, ..PLAIN };
        let found = estimate(&camera.film_screen(gamma), UtcNanos(0)).unwrap();
        assert!((found.offset.mean_s - camera.offset_s).abs() < 0.001, "{found:?}");
    }

    #[test]
    fn a_rolling_shutter_is_measured_at_its_middle_line() {
        // Lines are read over 20 ms, each exposed for 5.
        let lines = |from: i64, to: i64| {
            let read = |line: i64| (line - 50) * 200_000;
            (0..=100).map(|line| white_share(from + read(line), to + read(line))).sum::<f64>() / 101.0
        };
        let camera = Camera { exposure: 0.15, ..PLAIN };
        let found = estimate(&camera.film_screen(lines), UtcNanos(0)).unwrap();
        assert!((found.offset.mean_s - camera.offset_s).abs() < 0.0005, "{found:?}");
        assert!((0.018..0.025).contains(&found.exposure_s), "{found:?}");
    }

    #[test]
    fn what_cannot_be_measured_says_so() {
        let mut random = 3;
        let mut flicker = |_, _| f64::from(u8::from(chance(&mut random) > 0.5));
        let flicker: Vec<Sample> =
            PLAIN.film().iter().map(|s| Sample { luma: 200.0 * flicker(0, 0) as f32, ..*s }).collect();
        let check = |series: &[Sample], expected: fn(EstimateError) -> bool| {
            let error = estimate(series, UtcNanos(0)).unwrap_err();
            assert!(expected(error), "{error:?}: {error}");
        };
        check(&[], |error| matches!(error, EstimateError::TooShort { frames: 0, .. }));
        let short = Camera { seconds: 14.0, ..PLAIN };
        check(&short.film(), |error| matches!(error, EstimateError::TooShort { frames: 420, .. }));
        check(&Camera { fps: 6.0, ..PLAIN }.film(), |error| matches!(error, EstimateError::TooSlow { .. }));
        let dark: Vec<Sample> = PLAIN.film().iter().map(|s| Sample { luma: s.luma / 20.0, ..*s }).collect();
        check(&dark, |error| matches!(error, EstimateError::LowContrast { contrast } if contrast < 7.0));
        check(
            &flicker,
            |error| matches!(error, EstimateError::NotFound { correlation } if correlation < 0.4),
        );
        let other = |from: i64, to: i64| white_share(2 * from, 2 * to);
        check(&PLAIN.film_screen(other), |error| matches!(error, EstimateError::NotFound { .. }));
    }

    #[test]
    fn only_the_part_that_flashes_counts() {
        let film = PLAIN.film();
        let frames: Vec<(Timestamp, Parts)> = film
            .iter()
            .enumerate()
            .map(|(k, sample)| {
                let mut parts = [90.0; GRID * GRID];
                parts[10..14].fill(sample.luma);
                // Somebody moves.
                parts[40] = 60.0 + (k % 50) as f32;
                (sample.stamp, parts)
            })
            .collect();
        assert_eq!(flashing_part(&frames), film);
    }

    #[test]
    fn frames_may_come_irregularly() {
        let mut random = 5;
        let series: Vec<Sample> = (0..1500)
            .map(|k| {
                let middle = 1000.0 + 0.04 * f64::from(k) + 0.012 * chance(&mut random);
                let light = white_share(nanos(middle - 0.005), nanos(middle + 0.005));
                Sample { stamp: Timestamp(nanos(middle + 0.03) as u64), luma: 30.0 + 190.0 * light as f32 }
            })
            .collect();
        let found = estimate(&series, UtcNanos(0)).unwrap();
        assert!((found.offset.mean_s - 0.03).abs() < 0.001 && found.standard_error_s < 0.001, "{found:?}");
        assert!((found.exposure_s - 0.01).abs() < 0.002, "{found:?}");
    }

    /// A camera whose pictures a computer stamps when it receives them: mostly soon, now and then much later. What the stamps
    /// are off by moves the offset, and must not pass for a short exposure or a long one.
    #[test]
    fn stamps_of_a_busy_computer() {
        for (usually_s, strays) in [(0.0003, 0.0), (0.001, 0.05), (0.002, 0.1), (0.003, 0.2)] {
            for (exposure, seed) in [(0.030, 1), (0.012, 2)] {
                let mut random = seed;
                let mut all_late = Vec::new();
                let series: Vec<Sample> = (0..1500)
                    .map(|k| {
                        let middle = 1000.0 + 0.04 * f64::from(k) + 0.012 * chance(&mut random);
                        let light =
                            white_share(nanos(middle - exposure / 2.0), nanos(middle + exposure / 2.0));
                        let stray = f64::from(u8::from(chance(&mut random) < strays));
                        let late = 0.0002 - usually_s * chance(&mut random).ln()
                            + stray * 0.02 * chance(&mut random);
                        all_late.push(late);
                        let stamp = Timestamp(nanos(middle + 0.03 + late) as u64);
                        Sample { stamp, luma: (30.0 + 190.0 * light).round() as f32 }
                    })
                    .collect();
                let found = estimate(&series, UtcNanos(0)).unwrap();
                let (off, error) = (found.exposure_s - exposure, found.exposure_error_s);
                assert!(off.abs() <= 3.0 * error, "off by {:.2} ms, {found:?}", off * 1e3);
                assert!(error <= 0.0003 + 0.5 * usually_s, "known better than claimed: {found:?}");
                let late = sorted(all_late);
                let sigma = (quantile_of(&late, 0.84) - quantile_of(&late, 0.16)) / 2.0;
                let median = found.offset.median_s - 0.03 - quantile_of(&late, 0.5);
                assert!(
                    median.abs() <= 0.0005 + 4.0 * sigma / f64::from(found.offset.count).sqrt(),
                    "off by {:.2} ms, {found:?}",
                    median * 1e3
                );
            }
        }
    }

    /// The bit is 25 times the time between frames: every change is seen at the same point of an exposure, which only jitter moves.
    /// Offset and exposure cannot be told apart, and that is what has to come out, not a long exposure that is sure.
    #[test]
    fn a_camera_in_step_with_the_code_is_not_sure() {
        let camera = Camera {
            fps: 117.37069758031885,
            exposure: 0.7873000115170394,
            offset_s: 0.09352968815779564,
            jitter_s: 0.00019946488875622356,
            noise: 3.2626933283804402,
            drift: 0.04630073918370541,
            lost: 0.08572544770203187,
            seconds: 60.0,
            seed: 13_040_987_427_698_806_960,
        };
        assert!(camera.unseen_s() > 0.95 / camera.fps);
        let found = check(camera, 0.001);
        assert!((0.0005..0.002).contains(&found.standard_error_s), "{found:?}");
    }

    /// Of the white level, the first frames see a single bit that is far ahead.
    #[test]
    fn levels_at_the_ends_are_sound() {
        let camera = Camera {
            fps: 61.034888670904444,
            exposure: 0.09501558454416492,
            offset_s: 0.26271606654613255,
            jitter_s: 0.0003218901455577522,
            noise: 1.75526171086227,
            drift: 0.14192330838815936,
            lost: 0.05609238528460913,
            seconds: 60.0,
            seed: 721_545_234_771_224_192,
        };
        check(camera, 0.001 + camera.unseen_s() / 2.0);
    }

    fn cameras(fps: impl Strategy<Value = f64>) -> impl Strategy<Value = Camera> {
        let ways = (fps, 0.0..=1.0, -0.05..0.3, 0.0..0.001);
        let troubles = (0.0..4.0, 0.0..0.2, 0.0..0.1, any::<u64>());
        (ways, troubles).prop_map(|((fps, exposure, offset_s, jitter_s), (noise, drift, lost, seed))| {
            Camera { fps, exposure, offset_s, jitter_s, noise, drift, lost, seconds: 60.0, seed }
        })
    }

    /// Rates at which changes are seen at one to four points of the time between frames, or nearly so.
    fn rates_in_step() -> impl Strategy<Value = f64> {
        (1..=4u32, 0.0..1.0, -0.0003..0.0003).prop_map(|(points, place, slip): (u32, f64, f64)| {
            let bits = f64::from(points) * BIT.as_secs_f64();
            let (least, most) = ((10.0 * bits).ceil(), (120.0 * bits).floor());
            (least + place * (most - least)).round() / bits * (1.0 + slip)
        })
    }

    proptest! {
        // An error of five standard errors is rare, not impossible: the same cameras each time.
        #![proptest_config(ProptestConfig { cases: 32, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        /// ±1 ms, and half of the time around changes in which no frame was taken: what happened there was not seen.
        #[test]
        fn offsets_are_recovered(camera in cameras(10.0..120.0)) {
            check(camera, 0.001 + camera.unseen_s() / 2.0);
        }

        #[test]
        fn offsets_are_recovered_in_step_with_the_code(camera in cameras(rates_in_step())) {
            check(camera, 0.001 + camera.unseen_s() / 2.0);
        }
    }
}
