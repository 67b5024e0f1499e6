//! The code as markers over Lab Streaming Layer: for recorders that shall see with what the camera was measured.
//!
//! Owns one outlet while the screen flashes. Never waits for a receiver but at its end, for the last marker to arrive.

use std::thread;
use std::time::Duration;

use youquanti::actors::lsl::quiet;
use youquanti::models::Timestamp;
use youquanti_lsl::{Declaration, Element, Format, Lsl, Outlet, StreamInfo};

/// Name of the stream.
const STREAM: &str = "youquanti_calibration";

/// Markers that wait for a receiver that does not read: an hour of the code and more.
const BUFFERED: u32 = 16_384;

/// How long the last marker has to reach its receivers: liblsl does not say when it has.
const LINGER: Duration = Duration::from_millis(250);

/// A stream of what the screen shows.
pub(super) struct Marker(Outlet);

impl Marker {
    /// Makes the stream.
    pub(super) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let lsl = Lsl::load()?;
        quiet(lsl);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let channel = [("label", "screen"), ("unit", "colour"), ("type", "Screen")];
        let channel =
            Element::tree("channel", channel.map(|(name, text)| Element::text(name, text)).to_vec());
        let stamps =
            "when the change had been written to the terminal; the screen lights up later by its own delay";
        let declaration = Declaration {
            name: STREAM.to_owned(),
            kind: "Markers".to_owned(),
            channels: 1,
            rate: 0.0,
            format: Format::Text,
            source_id: format!("{host}_{STREAM}"),
            desc: vec![Element::tree("channels", vec![channel]), Element::text("stamps", stamps)],
        };
        Ok(Self(Outlet::new(&StreamInfo::new(lsl, &declaration)?, BUFFERED)?))
    }

    /// Sends that the screen is white or black from now on.
    pub(super) fn send(&self, is_white: bool, at: Timestamp) -> Result<(), youquanti_lsl::LslError> {
        self.0.push_text(if is_white { "white" } else { "black" }, at.0 as f64 / 1e9)
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        if self.0.has_consumers() {
            thread::sleep(LINGER);
        }
    }
}
