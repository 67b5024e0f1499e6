//! Live figures per camera, for progress lines and reports. Written with relaxed atomics on the
//! per-frame path, read by anybody at any time; never waited for and never exact to the frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

use crate::ledger::{Consumer, DropReason, LedgerSnapshot};

const BUCKETS: usize = 128;
const BUCKETS_PER_DOUBLING: f64 = 6.0;

/// A histogram of durations from 50 µs to two minutes, in steps of 12 %, for percentiles without allocation.
#[derive(Debug)]
pub struct LatencyHistogram {
    counts: [AtomicU64; BUCKETS],
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl LatencyHistogram {
    const FIRST_MICROS: f64 = 50.0;

    /// Counts one duration.
    pub fn record(&self, latency: Duration) {
        let ratio = (latency.as_secs_f64() * 1e6 / Self::FIRST_MICROS).max(1.0);
        let bucket = (ratio.log2() * BUCKETS_PER_DOUBLING) as usize;
        self.counts[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    /// The counts now.
    pub fn snapshot(&self) -> LatencySnapshot {
        LatencySnapshot(std::array::from_fn(|k| self.counts[k].load(Relaxed)))
    }
}

/// A histogram at one moment. The difference of two is the histogram of the time between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencySnapshot([u64; BUCKETS]);

impl LatencySnapshot {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &LatencySnapshot) -> LatencySnapshot {
        LatencySnapshot(std::array::from_fn(|k| self.0[k].saturating_sub(earlier.0[k])))
    }

    /// The same by doublings: how many were counted up to each bound, without those up to the bound before. The last bound takes
    /// all that were longer, too.
    pub fn doublings(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.0.chunks(BUCKETS_PER_DOUBLING as usize).enumerate().map(|(doubling, counts)| {
            let micros = LatencyHistogram::FIRST_MICROS * (doubling as f64 + 1.0).exp2();
            (Duration::from_secs_f64(micros / 1e6), counts.iter().sum())
        })
    }

    /// The sum of all that was counted, to within 12 %.
    pub fn sum(&self) -> Duration {
        let micros =
            self.0.iter().enumerate().map(|(k, &count)| count as f64 * middle_micros(k)).sum::<f64>();
        Duration::from_secs_f64(micros / 1e6)
    }

    /// The `share` quantile (0 to 1) to within 12 %, or `None` when nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (k, &count) in self.0.iter().enumerate() {
            seen += count;
            if count > 0 && seen >= wanted {
                return Some(Duration::from_secs_f64(middle_micros(k) / 1e6));
            }
        }
        None
    }
}

/// The middle of a bucket on its logarithmic scale.
fn middle_micros(bucket: usize) -> f64 {
    LatencyHistogram::FIRST_MICROS * ((bucket as f64 + 0.5) / BUCKETS_PER_DOUBLING).exp2()
}

/// What became of the rows of the LSL streams and of the markers of others, as far as the ledger, which counts frames and results, does
/// not say it.
#[derive(Debug, Default)]
pub struct StreamCounts {
    /// Rows of participants that were sent, each once for all streams of the participant.
    pub rows: AtomicU64,
    /// What a frame's rows took, from the making of the first to the sending of the last.
    pub row_time: LatencyHistogram,
    /// Rows that came too late to be sent in order.
    pub late: AtomicU64,
    /// Events that were not sent, because the actor's mailbox was full.
    pub events_lost: AtomicU64,
    /// Windows of synchrony that were not sent, for the same reason.
    pub windows_lost: AtomicU64,
    /// Which streams of markers have been seen within the last seconds: bit i is set for the plan's i-th query, of at most 32.
    pub marker_streams: AtomicU32,
    /// Markers of others that were handed to the recorder.
    pub markers: AtomicU64,
    /// Markers of others that came faster than they could be recorded.
    pub markers_lost: AtomicU64,
}

impl StreamCounts {
    /// The counts now, with those of the ledger.
    pub fn figures(&self, ledger: &LedgerSnapshot) -> StreamFigures {
        let of =
            |consumer: Consumer| ledger.cameras.iter().map(move |camera| camera.consumers[consumer as usize]);
        let results = of(Consumer::StreamResults);
        StreamFigures {
            rows: self.rows.load(Relaxed),
            late: self.late.load(Relaxed),
            frames_lost: of(Consumer::Streams).map(|frames| frames.dropped_total()).sum(),
            results_lost: results.map(|r| r.dropped_total() - r.dropped_for(DropReason::Late)).sum(),
            events_lost: self.events_lost.load(Relaxed),
            windows_lost: self.windows_lost.load(Relaxed),
            markers: self.markers.load(Relaxed),
            markers_lost: self.markers_lost.load(Relaxed),
        }
    }
}

/// [`StreamCounts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamFigures {
    /// Rows of participants that were sent.
    pub rows: u64,
    /// Rows that came too late to be sent in order.
    pub late: u64,
    /// Frames that have no rows.
    pub frames_lost: u64,
    /// Results, of faces or bodies, whose rows say that there was none; without those that came too late.
    pub results_lost: u64,
    /// Events that were not sent.
    pub events_lost: u64,
    /// Windows of synchrony that were not sent.
    pub windows_lost: u64,
    /// Markers of others that were handed to the recorder.
    pub markers: u64,
    /// Markers of others that came faster than they could be recorded.
    pub markers_lost: u64,
}

/// Live figures of one camera.
#[derive(Debug, Default)]
pub struct CameraStats {
    /// Faces in the newest result.
    pub faces: AtomicU32,
    /// Results published.
    pub results: AtomicU64,
    /// Rows of faces published.
    pub face_rows: AtomicU64,
    /// Capture to result handed to the actors.
    pub latency: LatencyHistogram,
    /// Times the camera was restarted.
    pub restarts: AtomicU32,
}

/// Figures of all cameras, in the order of their ids.
pub type SessionStats = Arc<[CameraStats]>;

/// Figures for `cameras` cameras, all zero.
pub fn session_stats(cameras: usize) -> SessionStats {
    (0..cameras).map(|_| CameraStats::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let histogram = LatencyHistogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let before = histogram.snapshot();
        for (share, want) in [(0.5, 50.0), (0.99, 99.0), (0.0, 1.0), (1.0, 100.0)] {
            let got = before.quantile(share).unwrap().as_secs_f64() * 1e3;
            assert!((got / want).log2().abs() <= 1.0 / BUCKETS_PER_DOUBLING, "{share}: {got} for {want}");
        }
        histogram.record(Duration::from_secs(7));
        let since = histogram.snapshot().since(&before).quantile(0.5).unwrap();
        assert!((since.as_secs_f64() / 7.0).log2().abs() <= 1.0 / BUCKETS_PER_DOUBLING);
    }

    #[test]
    fn doublings_hold_all_that_was_counted_each_below_its_bound() {
        let histogram = LatencyHistogram::default();
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.doublings().map(|(_, count)| count).sum::<u64>(), 100);
        let below_51 = snapshot.doublings().take_while(|(bound, _)| *bound <= Duration::from_micros(51_200));
        assert_eq!(below_51.map(|(_, count)| count).sum::<u64>(), 51);
        assert!((snapshot.sum().as_secs_f64() / 5.05 - 1.0).abs() < 0.06);
    }

    #[test]
    fn durations_beyond_the_scale_land_in_the_end_buckets() {
        let histogram = LatencyHistogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_secs(1_000_000));
        assert!(histogram.snapshot().quantile(0.1).unwrap() < Duration::from_micros(60));
        assert!(histogram.snapshot().quantile(1.0).unwrap() > Duration::from_secs(2));
    }
}
