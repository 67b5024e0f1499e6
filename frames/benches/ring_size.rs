//! How many slots a ring needs: real rings and mailboxes, consumers that hold each frame for some frame
//! periods, in logical time. Prints the report that justifies `RingOptions::DEFAULT_SLOTS`:
//!
//! `cargo bench -q -p youquanti-frames --bench ring_size > benches/results/ring-size.md`

use std::collections::VecDeque;

use youquanti_frames::{Counted, FrameHandle, FrameRing, Latest, RingError, RingOptions, segment_bytes};
use youquanti_models::{CameraId, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp};

const SIZES: [usize; 12] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16];
const FRAMES: u64 = 1_000;

enum Mailbox {
    Latest(Latest<FrameHandle>),
    Counted(Counted<FrameHandle>),
}

/// A consumer that works on up to `depth` frames at a time, each for as long as `holds` says of its arrival.
struct Consumer {
    mailbox: Mailbox,
    places: usize,
    depth: usize,
    holds: Box<dyn Fn(u64) -> u64>,
    working: VecDeque<(u64, FrameHandle)>,
    delivered: u64,
    refused: u64,
}

impl Consumer {
    fn new(mailbox: Mailbox, places: usize, depth: usize, holds: impl Fn(u64) -> u64 + 'static) -> Self {
        let working = VecDeque::new();
        Self { mailbox, places, depth, holds: Box::new(holds), working, delivered: 0, refused: 0 }
    }

    /// Newest wins, two frames in work: one is computed while the next is uploaded.
    fn pipeline(holds: u64) -> Self {
        Self::new(Mailbox::Latest(Latest::new()), 1, 2, move |_| holds)
    }

    /// Newest wins, one frame in work. Begins to stall later than the pipeline, so as to hold another frame.
    fn preview(holds: u64) -> Self {
        Self::new(Mailbox::Latest(Latest::new()), 1, 1, move |now| if now < 10 { 1 } else { holds })
    }

    /// Every frame, `places` of them waiting. Fast, except that each hundredth frame takes `stall` periods.
    fn video(places: usize, stall: u64) -> Self {
        let holds = move |now| if now % 100 == 50 { stall } else { 1 };
        Self::new(Mailbox::Counted(Counted::new(places)), places, 1, holds)
    }

    fn offer(&mut self, frame: FrameHandle) {
        let lost = match &self.mailbox {
            Mailbox::Latest(mailbox) => mailbox.send(frame),
            Mailbox::Counted(mailbox) => mailbox.send(frame).err(),
        };
        self.refused += u64::from(lost.is_some());
    }

    fn work(&mut self, now: u64) {
        while self.working.front().is_some_and(|(until, _)| *until <= now) {
            self.working.pop_front();
        }
        while self.working.len() < self.depth {
            let next = match &self.mailbox {
                Mailbox::Latest(mailbox) => mailbox.try_recv(),
                Mailbox::Counted(mailbox) => mailbox.try_recv(),
            };
            let Some(frame) = next else { break };
            self.working.push_back((now.saturating_add((self.holds)(now)), frame));
            self.delivered += 1;
        }
    }

    /// Frames that it may keep from the ring whatever the other consumers do, without the newest.
    fn keeps(&self) -> usize {
        match &self.mailbox {
            Mailbox::Latest(_) => self.depth,
            Mailbox::Counted(_) => self.depth + self.places,
        }
    }

    fn waiting(&self) -> u64 {
        match &self.mailbox {
            Mailbox::Latest(mailbox) => mailbox.len() as u64,
            Mailbox::Counted(mailbox) => mailbox.len() as u64,
        }
    }
}

/// What `FRAMES` frames came to.
struct Outcome {
    no_slot: u64,
    delivered: Vec<u64>,
}

/// Runs a camera with `slots` slots. In each period it takes a slot before any consumer lets go of one, and
/// writes until the period's end: the worst order.
fn run(slots: usize, mut consumers: Vec<Consumer>) -> Result<Outcome, RingError> {
    let ring = FrameRing::on_heap(slots, PictureLayout::packed(16, 16, PixelFormat::Grey))?;
    let mut no_slot = 0;
    for now in 0..FRAMES {
        let slot = ring.try_acquire();
        consumers.iter_mut().for_each(|consumer| consumer.work(now));
        let Some(slot) = slot else {
            no_slot += 1;
            continue;
        };
        let meta = FrameMeta {
            camera: CameraId(0),
            seq: now,
            driver_seq: 0,
            captured_at: Timestamp(now),
            received_at: Timestamp(now),
            flags: FrameFlags::default(),
        };
        let frame = slot.freeze(meta, 256);
        consumers.iter_mut().for_each(|consumer| consumer.offer(frame.clone()));
    }
    for consumer in &consumers {
        let accounted = no_slot + consumer.delivered + consumer.refused + consumer.waiting();
        assert_eq!(accounted, FRAMES, "the ledger closes");
    }
    // The slot being written, the newest frame, which all `Latest` mailboxes share, and what each may keep.
    let enough = 2 + consumers.iter().map(Consumer::keeps).sum::<usize>();
    assert!(slots < enough || no_slot == 0, "{slots} slots should be enough");
    Ok(Outcome { no_slot, delivered: consumers.iter().map(|consumer| consumer.delivered).collect() })
}

/// One table: a row for each stall, a column for each ring size, frames per thousand that found no slot
/// and, for the consumer at place `of`, that it worked on.
fn table(
    title: &str,
    stalls: &[u64],
    of: usize,
    consumers: impl Fn(u64) -> Vec<Consumer>,
) -> Result<(), RingError> {
    println!("\n### {title}\n");
    println!("| held for | {} |", SIZES.map(|size| size.to_string()).join(" | "));
    println!("| ---{} |", " | ---".repeat(SIZES.len()));
    for &stall in stalls {
        let mut row = Vec::new();
        for size in SIZES {
            let outcome = run(size, consumers(stall))?;
            row.push(format!("{} / {}", outcome.no_slot, outcome.delivered[of]));
        }
        let stall = if stall == u64::MAX { "for ever".to_owned() } else { stall.to_string() };
        println!("| {stall} | {} |", row.join(" | "));
    }
    Ok(())
}

const FOR_EVER: u64 = u64::MAX;

fn main() -> Result<(), RingError> {
    println!(
        "# Ring size\n\n\
         `cargo bench -q -p youquanti-frames --bench ring_size > benches/results/ring-size.md`\n\n\
         Real rings and mailboxes in logical time: {FRAMES} frames, one a period, each consumer holds a frame for \
         some periods. The columns are slots; an entry is *frames without a slot / frames that the stalled \
         consumer worked on*. A frame without a slot is lost to every consumer; one that is displaced in a \
         `Latest` mailbox, or refused by a `Counted` one, to that consumer only."
    );
    table("Pipeline stalled", &[1, 2, 4, 8, 30, FOR_EVER], 0, |stall| vec![Consumer::pipeline(stall)])?;
    table(
        "Pipeline and preview stalled alike; the pipeline's frames",
        &[1, 2, 4, 8, 30, FOR_EVER],
        0,
        |stall| vec![Consumer::pipeline(stall), Consumer::preview(stall)],
    )?;
    for places in [2, 4, 8] {
        let with =
            format!("a video writer with {places} places that stalls on each hundredth frame; its frames");
        table(&format!("Pipeline and preview take 2, and {with}"), &[1, 2, 4, 8, 30], 2, |stall| {
            vec![Consumer::pipeline(2), Consumer::preview(2), Consumer::video(places, stall)]
        })?;
        table(&format!("Pipeline and preview hang, and {with}"), &[1, 2, 4, 8, 30], 2, |stall| {
            vec![Consumer::pipeline(FOR_EVER), Consumer::preview(FOR_EVER), Consumer::video(places, stall)]
        })?;
    }

    println!("\n### Memory of one ring, MiB\n");
    println!("| picture | {} |", SIZES.map(|size| size.to_string()).join(" | "));
    println!("| ---{} |", " | ---".repeat(SIZES.len()));
    for (width, height, format) in [
        (640, 480, PixelFormat::Yuyv),
        (1280, 720, PixelFormat::Yuyv),
        (1920, 1080, PixelFormat::Yuyv),
        (1920, 1080, PixelFormat::Mjpg),
        (3840, 2160, PixelFormat::Nv12),
        (3840, 2160, PixelFormat::Yuyv),
    ] {
        let layout = PictureLayout::packed(width, height, format);
        let row =
            SIZES.map(|size| format!("{:.1}", segment_bytes(size, &layout) as f64 / f64::from(1 << 20)));
        println!("| {width}x{height} {} | {} |", format.name(), row.join(" | "));
    }
    println!(
        "\n### Conclusion\n\n\
         The default is {} slots. A ring cannot run out, whoever stalls and for however long, if it has 1 slot to \
         write, 1 for the newest frame (which all `Latest` mailboxes share), as many as each consumer works on at a \
         time, and the places of each `Counted` mailbox that carries pictures: the bench asserts it for every \
         entry. For a pipeline (2: one computed, one uploaded), a preview (1) and a video writer (1, with 2 places) \
         that is 1 + 1 + 2 + 1 + 1 + 2 = 8.\n\n\
         - Fewer: with 4 slots or less a pipeline and a preview that hang starve everybody; with 5 to 7 a video \
           writer's stall costs the pipeline frames too. The stalled consumer itself gains nothing from more slots.\n\
         - More: only for a video writer with more places, one slot a place. Slots without places change nothing.\n\
         - A consumer thread that hung and was abandoned keeps for ever what it worked on: each one takes that many \
           slots away, which is why two of them escalate.\n\
         - The recorder's index of frames needs no picture: its mailbox carries `FrameMeta`, which holds no slot, and \
           may be as deep as one likes.",
        RingOptions::DEFAULT_SLOTS
    );
    Ok(())
}
