//! One camera's frames in order: which row is due next, with a face or without.
//!
//! Owns which frames still wait for their result. A frame whose result does not come, because a newer one was analysed
//! instead or because it takes too long, gets its row all the same, in its place. Pure: sees facts and times, never a clock.

use std::collections::VecDeque;
use std::time::Duration;

use youquanti_models::{FrameMeta, Timestamp};

/// How long a frame may wait for its result. Longer than any pipeline that works takes; results that come later are late.
pub(super) const HOLD: Duration = Duration::from_secs(5);

/// Frames that may wait: [`HOLD`] at 120 frames a second, and more.
const MOST_WAITING: usize = 1024;

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next row.
    Next,
    /// Its frame has had its row: it came too late.
    Late,
}

/// The frames of one camera.
#[derive(Debug)]
pub(super) struct FrameOrder {
    /// Frames without a result and when their facts came, in ascending order.
    waiting: VecDeque<(FrameMeta, Timestamp)>,
    /// The number that the next row has at least.
    next_seq: u64,
}

impl FrameOrder {
    /// No frame yet.
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::with_capacity(MOST_WAITING), next_seq: 0 }
    }

    /// A frame was captured. Frames come in ascending order; one whose row was sent with its result is passed over.
    pub(super) fn captured(&mut self, meta: FrameMeta, now: Timestamp) {
        let is_new = self.waiting.back().is_none_or(|(last, _)| last.seq < meta.seq);
        if meta.seq >= self.next_seq && is_new {
            self.waiting.push_back((meta, now));
        }
    }

    /// The result of a frame has come: `missing` gets the frames before it, which have none.
    pub(super) fn analysed(&mut self, meta: &FrameMeta, mut missing: impl FnMut(&FrameMeta)) -> Place {
        if meta.seq < self.next_seq {
            return Place::Late;
        }
        while let Some((waiting, _)) = self.waiting.pop_front_if(|(waiting, _)| waiting.seq <= meta.seq) {
            if waiting.seq < meta.seq {
                missing(&waiting);
            }
        }
        self.next_seq = meta.seq + 1;
        Place::Next
    }

    /// Time has passed: `missing` gets the frames that have waited for too long, and those beyond what may wait.
    pub(super) fn overdue(&mut self, now: Timestamp, mut missing: impl FnMut(&FrameMeta)) {
        while let Some((meta, since)) = self.waiting.front() {
            if now.saturating_since(*since) < HOLD && self.waiting.len() < MOST_WAITING {
                return;
            }
            missing(meta);
            self.next_seq = meta.seq + 1;
            self.waiting.pop_front();
        }
    }

    /// Nothing more comes: `missing` gets all that wait.
    pub(super) fn finish(&mut self, mut missing: impl FnMut(&FrameMeta)) {
        for (meta, _) in self.waiting.drain(..) {
            self.next_seq = meta.seq + 1;
            missing(&meta);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use youquanti_models::{CameraId, FrameFlags};

    use super::*;

    fn frame(seq: u64) -> FrameMeta {
        FrameMeta {
            camera: CameraId(0),
            seq,
            driver_seq: 0,
            captured_at: Timestamp(seq),
            received_at: Timestamp(seq),
            flags: FrameFlags::default(),
        }
    }

    #[test]
    fn frames_between_two_results_have_rows_without_a_face_before_the_second() {
        let mut order = FrameOrder::new();
        let mut missing = Vec::new();
        for seq in 0..5 {
            order.captured(frame(seq), Timestamp(0));
        }
        assert_eq!(order.analysed(&frame(3), |meta| missing.push(meta.seq)), Place::Next);
        assert_eq!(missing, [0, 1, 2]);
        assert_eq!(order.analysed(&frame(2), |_| panic!("has its row")), Place::Late);
        order.finish(|meta| missing.push(meta.seq));
        assert_eq!(missing, [0, 1, 2, 4]);
    }

    #[test]
    fn a_result_may_come_before_its_facts() {
        let mut order = FrameOrder::new();
        assert_eq!(order.analysed(&frame(0), |_| panic!("is the first")), Place::Next);
        order.captured(frame(0), Timestamp(0));
        order.finish(|_| panic!("has its row"));
    }

    #[test]
    fn who_waits_too_long_gets_a_row_and_is_late_then() {
        let mut order = FrameOrder::new();
        order.captured(frame(0), Timestamp(0));
        order.captured(frame(1), Timestamp(1));
        let mut missing = Vec::new();
        order.overdue(Timestamp(0) + HOLD - Duration::from_nanos(1), |meta| missing.push(meta.seq));
        assert_eq!(missing, [0; 0]);
        order.overdue(Timestamp(0) + HOLD, |meta| missing.push(meta.seq));
        assert_eq!(missing, [0]);
        assert_eq!(order.analysed(&frame(0), |_| panic!("late")), Place::Late);
        assert_eq!(order.analysed(&frame(1), |_| panic!("none before")), Place::Next);
    }

    proptest! {
        /// Whatever comes in whatever order: rows ascend, and each frame that was captured has exactly one.
        #[test]
        fn every_frame_has_one_row_and_rows_ascend(
            steps in proptest::collection::vec((0u8..4, 0u64..60, 0u64..9_000_000_000), 1..300),
        ) {
            let (mut order, mut rows, mut now, mut captured) = (FrameOrder::new(), Vec::new(), 0, 0);
            for (what, seq, wait) in steps {
                match what {
                    0 | 1 => {
                        order.captured(frame(captured), Timestamp(now));
                        captured += 1;
                    }
                    2 if seq < captured => {
                        if order.analysed(&frame(seq), |meta| rows.push(meta.seq)) == Place::Next {
                            rows.push(seq);
                        }
                    }
                    2 => {}
                    _ => {
                        now += wait;
                        order.overdue(Timestamp(now), |meta| rows.push(meta.seq));
                    }
                }
            }
            order.finish(|meta| rows.push(meta.seq));
            prop_assert_eq!(rows, (0..captured).collect::<Vec<_>>());
        }
    }
}
