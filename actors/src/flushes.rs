//! How long rows of a session file wait until a loss of power cannot take them: what a kill would have cost.
//!
//! Pure: is told when rows come and when flushes begin and end, and never reads a clock.

use std::time::Duration;

use youquanti_models::Timestamp;

/// Since the figures before. Rows of an incomplete compressed chunk wait on, and do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushFigures {
    /// Flushes.
    pub(crate) flushes: u64,
    /// Mean time that one took: writing, and waiting for the disk.
    pub(crate) took_mean: Duration,
    /// Longest of these.
    pub(crate) took_max: Duration,
    /// Longest time from the moment the recorder got a row until it was safe: a flush interval, what the recorder came late, and
    /// the flush itself.
    pub(crate) row_age_max: Duration,
}

/// The flushes of one file.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    oldest_row: Option<Timestamp>,
    took: Duration,
    figures: FlushFigures,
}

impl Flushes {
    /// Rows come; only of the first since a flush the time is asked for.
    pub(crate) fn row(&mut self, now: impl FnOnce() -> Timestamp) {
        self.oldest_row.get_or_insert_with(now);
    }

    /// A flush made safe what had come.
    pub(crate) fn flushed(&mut self, began: Timestamp, ended: Timestamp) {
        let took = ended.saturating_since(began);
        // The first row may be one that came with the flush itself.
        let oldest = self.oldest_row.take().map_or(began, |oldest| oldest.min(began));
        let age = ended.saturating_since(oldest);
        self.took += took;
        self.figures.flushes += 1;
        self.figures.took_max = self.figures.took_max.max(took);
        self.figures.row_age_max = self.figures.row_age_max.max(age);
    }

    /// Figures since the last time; none without a flush.
    pub(crate) fn take(&mut self) -> Option<FlushFigures> {
        let (figures, took) = (std::mem::take(&mut self.figures), std::mem::take(&mut self.took));
        let flushes = u32::try_from(figures.flushes).unwrap_or(u32::MAX);
        let took_mean = took.checked_div(flushes)?;
        Some(FlushFigures { took_mean, ..figures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_row_of_each_flush_counts() {
        let mut flushes = Flushes::default();
        assert_eq!(flushes.take(), None);
        let at = |ms: u64| Timestamp(ms * 1_000_000);
        for (rows, began, ended) in
            [(&[10, 20, 100][..], 1000, 1040), (&[1041], 2000, 2010), (&[], 3000, 3010)]
        {
            rows.iter().for_each(|&row| flushes.row(|| at(row)));
            flushes.flushed(at(began), at(ended));
        }
        let ms = Duration::from_millis;
        let expected =
            FlushFigures { flushes: 3, took_mean: ms(20), took_max: ms(40), row_age_max: ms(1030) };
        assert_eq!(flushes.take(), Some(expected));
        assert_eq!(flushes.take(), None, "each counts once");
        // Rows that came before the figures were taken are safe with the flush after it.
        flushes.row(|| at(3500));
        assert_eq!(flushes.take(), None);
        flushes.flushed(at(4000), at(4001));
        assert_eq!(flushes.take().unwrap().row_age_max, ms(501));
    }
}
