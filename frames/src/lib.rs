//! Shared-memory frame ring and allocation-free frame mailboxes.
//!
//! Owns the bytes of every frame from capture until its last consumer lets go, and the two mailboxes
//! that carry frame handles. Never copies a pixel, never allocates once a session runs, and never makes
//! a producer wait for a consumer that did not ask for it.
//!
//! ```
//! use youquanti_frames::{FrameRing, Latest};
//! use youquanti_models::{CameraId, Frame, FrameFlags, FrameMeta, PictureLayout, PixelFormat, Timestamp};
//!
//! let layout = PictureLayout::packed(64, 48, PixelFormat::Grey);
//! let ring = FrameRing::on_heap(3, layout)?; // `FrameRing::create` for shared memory
//! let pipeline = Latest::new();
//!
//! let mut slot = ring.try_acquire().expect("nobody holds a slot yet");
//! slot.bytes_mut().fill(7);
//! let bytes_used = layout.max_bytes();
//! let meta = FrameMeta {
//!     camera: CameraId(0),
//!     seq: 0,
//!     driver_seq: 0,
//!     captured_at: Timestamp(1),
//!     received_at: Timestamp(2),
//!     flags: FrameFlags::default(),
//! };
//! assert!(pipeline.send(slot.freeze(meta, bytes_used)).is_none()); // nothing was displaced
//!
//! let frame = pipeline.try_recv().expect("just sent");
//! assert_eq!(frame.picture().bytes[0], 7);
//! drop(frame);
//! assert_eq!(ring.in_use(), 0);
//! # Ok::<(), youquanti_frames::RingError>(())
//! ```

mod generation;
mod mailbox;
mod region;
pub mod results;
mod ring;
mod segment;
mod slots;
mod sync;

pub use mailbox::{Counted, Latest, MailboxStream};
pub use region::{segment_bytes, segment_bytes_with_results};
pub use ring::{FrameHandle, FrameRing, RingMemory, RingOptions, SlotMut};
pub use segment::{RingError, remove_stale};
