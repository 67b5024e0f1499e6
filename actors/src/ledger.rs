//! The ledger: what became of every captured frame, for every camera and every consumer.
//!
//! Owns the rule `captured = delivered + Σ dropped[reason]`. It holds by construction: a captured
//! frame gets one [`Ticket`] for each consumer, and a ticket is settled exactly once, at the latest
//! when it is dropped. Counting is atomic and allocation-free. Never decides what is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use youquanti_models::CameraId;

/// Who consumes a camera's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumer {
    /// The face pipeline: the newest frame wins.
    Pipeline,
    /// The recorder's frame index: every frame.
    Index,
    /// The camera's video, while one is recorded.
    Video,
    /// The live preview, where it is made: the newest analysed frame wins.
    Preview,
    /// What looks for bodies, where it is asked for: the newest frame wins.
    Pose,
    /// Streams over LSL, once they are made: every frame has its rows.
    Streams,
    /// The same for what was found in frames, faces and bodies each by themselves: it is in the frame's rows.
    StreamResults,
}

impl Consumer {
    /// All consumers, in the order of the file.
    pub const ALL: [Consumer; 7] = [
        Consumer::Pipeline,
        Consumer::Index,
        Consumer::Video,
        Consumer::Preview,
        Consumer::Pose,
        Consumer::Streams,
        Consumer::StreamResults,
    ];

    /// Those that every captured frame is meant for.
    pub const ALWAYS: [Consumer; 2] = [Consumer::Pipeline, Consumer::Index];

    /// Name in the session file, metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Consumer::Pipeline => "pipeline",
            Consumer::Index => "index",
            Consumer::Video => "video",
            Consumer::Preview => "preview",
            Consumer::Pose => "pose",
            Consumer::Streams => "streams",
            Consumer::StreamResults => "stream_results",
        }
    }
}

/// Why a captured frame did not reach a consumer, or left it without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Every slot of the ring was in use: the picture was never stored.
    NoSlot,
    /// A newer frame took its place before the consumer came for it.
    Replaced,
    /// The consumer's bounded mailbox was full.
    Full,
    /// The driver marked the picture as damaged.
    Damaged,
    /// The picture could not be decoded.
    Undecodable,
    /// The consumer failed on it and said so.
    Failed,
    /// The consumer crashed, or was abandoned, while it held the frame.
    Crashed,
    /// The session ended before the consumer came for it.
    Unfinished,
    /// The consumer takes fewer frames a second than the camera sends.
    NotWanted,
    /// It came after the consumer had to go on without it.
    Late,
}

impl DropReason {
    /// All reasons, in the order of the file.
    pub const ALL: [DropReason; 10] = [
        DropReason::NoSlot,
        DropReason::Replaced,
        DropReason::Full,
        DropReason::Damaged,
        DropReason::Undecodable,
        DropReason::Failed,
        DropReason::Crashed,
        DropReason::Unfinished,
        DropReason::NotWanted,
        DropReason::Late,
    ];

    /// Name in the session file, metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::NoSlot => "no_slot",
            DropReason::Replaced => "replaced",
            DropReason::Full => "full",
            DropReason::Damaged => "damaged",
            DropReason::Undecodable => "undecodable",
            DropReason::Failed => "failed",
            DropReason::Crashed => "crashed",
            DropReason::Unfinished => "unfinished",
            DropReason::NotWanted => "not_wanted",
            DropReason::Late => "late",
        }
    }
}

#[derive(Debug, Default)]
struct ConsumerCounts {
    /// Tickets given.
    captured: AtomicU64,
    /// Tickets that are not settled.
    under_way: AtomicU64,
    delivered: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

#[derive(Debug, Default)]
struct CameraCounts {
    captured: AtomicU64,
    driver_lost: AtomicU64,
    consumers: [ConsumerCounts; Consumer::ALL.len()],
}

/// Counts of a whole session. Shared by all actors; every method may be called from any thread.
#[derive(Debug)]
pub struct Ledger {
    cameras: Box<[CameraCounts]>,
}

impl Ledger {
    /// A ledger for cameras 0 to `cameras − 1`.
    pub fn new(cameras: usize) -> Arc<Self> {
        Arc::new(Self { cameras: (0..cameras).map(|_| CameraCounts::default()).collect() })
    }

    /// Counts one captured frame and gives its tickets, one for each consumer in the order of
    /// [`Consumer::ALWAYS`].
    pub fn captured(self: &Arc<Self>, camera: CameraId) -> [Ticket; Consumer::ALWAYS.len()] {
        self.cameras[usize::from(camera.0)].captured.fetch_add(1, Relaxed);
        Consumer::ALWAYS.map(|consumer| self.offered(camera, consumer))
    }

    /// Counts a captured frame for a consumer that wants some frames only, and gives its ticket.
    pub fn offered(self: &Arc<Self>, camera: CameraId, consumer: Consumer) -> Ticket {
        let ticket = Ticket { ledger: Arc::clone(self), camera, consumer, settled: false };
        ticket.counts().captured.fetch_add(1, Relaxed);
        ticket.counts().under_way.fetch_add(1, Relaxed);
        ticket
    }

    /// Settles every ticket that is still under way to `consumer` as [`DropReason::Crashed`]: called at the
    /// session's end when a thread that hangs was left behind with what it held. Should that come back, its
    /// tickets count no more. Without such a thread a ticket under way is an error of this program, and stays one.
    pub fn give_up(&self, consumer: Consumer) {
        for camera in &self.cameras {
            let counts = &camera.consumers[consumer as usize];
            let held = counts.under_way.swap(0, Relaxed);
            counts.dropped[DropReason::Crashed as usize].fetch_add(held, Relaxed);
        }
    }

    /// Counts frames that the driver itself lost (a jump of its sequence number).
    pub fn driver_lost(&self, camera: CameraId, frames: u64) {
        self.cameras[usize::from(camera.0)].driver_lost.fetch_add(frames, Relaxed);
    }

    /// Frames of a camera that have no result so far and will have none: dropped in front of the pipeline or in it, or lost by
    /// the driver.
    pub fn without_result(&self, camera: CameraId) -> u64 {
        let counts = &self.cameras[usize::from(camera.0)];
        let dropped = counts.consumers[Consumer::Pipeline as usize].dropped.iter();
        counts.driver_lost.load(Relaxed) + dropped.map(|dropped| dropped.load(Relaxed)).sum::<u64>()
    }

    /// The counts now. While frames are under way, `captured` may exceed the sum of the rest.
    pub fn snapshot(&self) -> LedgerSnapshot {
        let cameras = self.cameras.iter().map(|camera| CameraSnapshot {
            captured: camera.captured.load(Relaxed),
            driver_lost: camera.driver_lost.load(Relaxed),
            consumers: std::array::from_fn(|k| ConsumerSnapshot {
                captured: camera.consumers[k].captured.load(Relaxed),
                delivered: camera.consumers[k].delivered.load(Relaxed),
                dropped: std::array::from_fn(|r| camera.consumers[k].dropped[r].load(Relaxed)),
            }),
        });
        LedgerSnapshot { cameras: cameras.collect() }
    }
}

/// One captured frame on its way to one consumer. Dropped without a word, it counts as
/// [`DropReason::Crashed`]: whoever held it did not come back.
#[derive(Debug)]
pub struct Ticket {
    ledger: Arc<Ledger>,
    camera: CameraId,
    consumer: Consumer,
    settled: bool,
}

impl Ticket {
    fn counts(&self) -> &ConsumerCounts {
        &self.ledger.cameras[usize::from(self.camera.0)].consumers[self.consumer as usize]
    }

    /// The consumer has done with the frame what it exists for.
    pub fn delivered(mut self) {
        self.settle(|counts| &counts.delivered);
    }

    /// The consumer will never have the frame, or has no result for it.
    pub fn dropped(mut self, reason: DropReason) {
        self.settle(|counts| &counts.dropped[reason as usize]);
    }

    fn settle(&mut self, place: impl FnOnce(&ConsumerCounts) -> &AtomicU64) {
        self.settled = true;
        let counts = self.counts();
        // None is under way when this one was given up already.
        if counts.under_way.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
            place(counts).fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(|counts| &counts.dropped[DropReason::Crashed as usize]);
        }
    }
}

/// The ledger at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// In the order of the cameras' ids.
    pub cameras: Vec<CameraSnapshot>,
}

/// One camera's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CameraSnapshot {
    /// Frames that reached this process.
    pub captured: u64,
    /// Frames that the driver lost before they reached this process.
    pub driver_lost: u64,
    /// In the order of [`Consumer::ALL`].
    pub consumers: [ConsumerSnapshot; Consumer::ALL.len()],
}

/// What one consumer got of one camera's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerSnapshot {
    /// Captured frames that were meant for the consumer: all, of one of [`Consumer::ALWAYS`].
    pub captured: u64,
    /// Frames that the consumer has dealt with.
    pub delivered: u64,
    /// Frames that it did not get, in the order of [`DropReason::ALL`].
    pub dropped: [u64; DropReason::ALL.len()],
}

impl ConsumerSnapshot {
    /// Frames that the consumer has dealt with or will never have.
    pub fn settled(&self) -> u64 {
        self.delivered + self.dropped_total()
    }

    /// Frames dropped for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Frames dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

/// The ledger does not add up for one consumer of one camera: an error of this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger of camera {camera} for {}: {captured} captured, but {accounted} accounted for", consumer.name())]
pub struct Imbalance {
    /// Which camera.
    pub camera: CameraId,
    /// Which consumer.
    pub consumer: Consumer,
    /// Frames captured for it.
    pub captured: u64,
    /// Frames delivered or dropped.
    pub accounted: u64,
}

impl LedgerSnapshot {
    /// Every place where `captured ≠ delivered + Σ dropped`. Empty once all frames are settled.
    pub fn imbalances(&self) -> Vec<Imbalance> {
        let mut found = Vec::new();
        for (index, camera) in self.cameras.iter().enumerate() {
            for (consumer, counts) in Consumer::ALL.into_iter().zip(&camera.consumers) {
                let accounted = counts.settled();
                if accounted != counts.captured {
                    let id = CameraId(u16::try_from(index).unwrap_or(u16::MAX));
                    found.push(Imbalance { camera: id, consumer, captured: counts.captured, accounted });
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_counts_once_whatever_happens_to_it() {
        let ledger = Ledger::new(1);
        let [a, b] = ledger.captured(CameraId(0));
        assert_eq!(ledger.snapshot().imbalances().len(), 2, "both are under way");
        a.delivered();
        b.dropped(DropReason::Full);
        let [a, b] = ledger.captured(CameraId(0));
        drop(a);
        let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = b;
            panic!("consumer");
        }));
        assert!(crashed.is_err());
        let snapshot = ledger.snapshot();
        assert_eq!(snapshot.imbalances(), []);
        let [pipeline, index, ..] = snapshot.cameras[0].consumers;
        assert_eq!((pipeline.delivered, pipeline.dropped[DropReason::Crashed as usize]), (1, 1));
        assert_eq!((index.delivered, index.dropped_total()), (0, 2));
    }

    #[test]
    fn what_a_hung_thread_holds_counts_once_even_if_it_comes_back() {
        let ledger = Ledger::new(1);
        let [held, index] = ledger.captured(CameraId(0));
        index.delivered();
        ledger.give_up(Consumer::Pipeline);
        let given_up = ledger.snapshot();
        assert_eq!(given_up.imbalances(), []);
        assert_eq!(given_up.cameras[0].consumers[0].dropped[DropReason::Crashed as usize], 1);
        held.delivered();
        assert_eq!(ledger.snapshot(), given_up);
    }

    #[test]
    fn an_imbalance_names_camera_consumer_and_both_sums() {
        let ledger = Ledger::new(2);
        let [a, b] = ledger.captured(CameraId(1));
        b.delivered();
        let text = ledger.snapshot().imbalances()[0].to_string();
        assert_eq!(text, "ledger of camera #1 for pipeline: 1 captured, but 0 accounted for");
        a.delivered();
        assert_eq!(ledger.snapshot().imbalances(), []);
    }
}
