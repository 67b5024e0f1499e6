//! The code that a screen flashes: black and white by the clock alone.
//!
//! Owns the sequence and what of it is shown when. A pure function of `CLOCK_MONOTONIC`, so that any program on the same
//! machine can be the screen without being told anything. Draws nothing.

use std::time::Duration;

use youquanti_models::Timestamp;

/// Bits before the sequence begins again.
pub const BITS: usize = 127;

/// Time that a bit is shown. Two changes make a flash, so there are at most 2.35 flashes a second, below the three
/// that WCAG 2.3.1 allows. No multiple of usual frame times (25, 30, 60 a second divide 200 ms): changes fall
/// at all phases of a camera's frames, which is what makes the measurement finer than a frame.
pub const BIT: Duration = Duration::from_millis(213);

/// Time after which the sequence begins again, 27 s: offsets that differ by it cannot be told apart.
pub const PERIOD: Duration = Duration::from_millis(213 * BITS as u64);

const BIT_NS: i64 = BIT.as_nanos() as i64;

/// A sequence of maximal length, of the shift register with x⁷ + x + 1: shifted against itself by anything but whole
/// periods, it does not correlate.
const SEQUENCE: [bool; BITS] = {
    let mut bits = [true; BITS];
    let mut k = 7;
    while k < BITS {
        bits[k] = bits[k - 7] != bits[k - 6];
        k += 1;
    }
    bits
};

/// White bits before each bit, and of the whole sequence.
const WHITE_BEFORE: [i64; BITS + 1] = {
    let mut counts = [0; BITS + 1];
    let mut k = 0;
    while k < BITS {
        counts[k + 1] = counts[k] + SEQUENCE[k] as i64;
        k += 1;
    }
    counts
};

/// Whether the screen is white at a time.
pub fn is_white(at: Timestamp) -> bool {
    SEQUENCE[(at.0 / BIT_NS as u64 % BITS as u64) as usize]
}

/// The first change after a time.
pub fn next_change(after: Timestamp) -> Timestamp {
    let mut bit = after.0 / BIT_NS as u64 + 1;
    while SEQUENCE[(bit % BITS as u64) as usize] == SEQUENCE[((bit - 1) % BITS as u64) as usize] {
        bit += 1;
    }
    Timestamp(bit * BIT_NS as u64)
}

/// Share of the time from `from` to `to`, nanoseconds of the monotonic clock, in which the screen is white: 0 to 1. Of an empty
/// time, what is shown at its start.
pub(super) fn white_share(from: i64, to: i64) -> f64 {
    if to > from {
        (white_until(to) - white_until(from)) as f64 / (to - from) as f64
    } else {
        f64::from(u8::from(SEQUENCE[from.div_euclid(BIT_NS).rem_euclid(BITS as i64) as usize]))
    }
}

/// White time from 0 to `at`, nanoseconds; negative before 0.
fn white_until(at: i64) -> i64 {
    let (bit, rest) = (at.div_euclid(BIT_NS), at.rem_euclid(BIT_NS));
    let (round, bit) = (bit.div_euclid(BITS as i64), bit.rem_euclid(BITS as i64) as usize);
    (round * WHITE_BEFORE[BITS] + WHITE_BEFORE[bit]) * BIT_NS + i64::from(SEQUENCE[bit]) * rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_correlates_with_nothing_but_itself() {
        assert_eq!(WHITE_BEFORE[BITS], 64);
        for shift in 1..BITS {
            let equal = (0..BITS).filter(|&k| SEQUENCE[k] == SEQUENCE[(k + shift) % BITS]).count();
            assert_eq!(equal, 63, "{shift}");
        }
    }

    #[test]
    fn flashes_stay_below_three_a_second() {
        // Any second holds at most this many changes, two of which are a flash.
        let changes_in_a_second = Duration::from_secs(1).as_nanos().div_ceil(BIT.as_nanos());
        assert!(changes_in_a_second < 2 * 3);
    }

    #[test]
    fn changes_fall_at_all_phases_of_usual_frame_times() {
        for fps in [10.0, 15.0, 24.0, 25.0, 30.0, 50.0, 60.0, 90.0, 120.0] {
            let frame = 1.0 / fps;
            let mut phases: Vec<f64> =
                (0..2 * BITS).map(|bit| (bit as f64 * BIT.as_secs_f64() + 1e-9) % frame).collect();
            phases.sort_by(f64::total_cmp);
            let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
            assert!(widest < 0.0015, "{fps}: {widest}");
        }
    }

    #[test]
    fn shares_agree_with_what_is_shown() {
        let step = 7_100_000;
        for from in (0..60).map(|k| k * 457_000_003) {
            let to = from + 300 * step;
            let seen = (0..300).filter(|k| is_white(Timestamp((from + k * step) as u64))).count();
            assert!((white_share(from, to) - seen as f64 / 300.0).abs() < 0.03, "{from}");
            assert_eq!(white_share(from, from), f64::from(u8::from(is_white(Timestamp(from as u64)))));
            let period = PERIOD.as_nanos() as i64;
            assert_eq!(white_share(from, to), white_share(from - 9 * period, to - 9 * period));
        }
    }

    #[test]
    fn the_next_change_is_one_and_none_is_before_it() {
        let mut at = Timestamp(0);
        for _ in 0..200 {
            let change = next_change(at);
            assert!(change > at);
            assert_ne!(is_white(change), is_white(Timestamp(change.0 - 1)));
            assert_eq!(is_white(at), is_white(Timestamp(change.0 - 1)));
            assert!(change.saturating_since(at) <= 7 * BIT);
            at = change;
        }
    }
}
