//! YouQuanti: captures cameras, finds every face, records it, and never lets one failing camera end a run.
//!
//! The library is what the program is made of: [`Session`] runs a configured session on threads of its own,
//! [`preflight`] says beforehand what would go wrong. Sets no signal handler and no panic hook, prints
//! nothing, and keeps no global state beyond the one loaded copy of ONNX Runtime and of liblsl, and, with the feature `cuda`, the CUDA libraries
//! and which GPUs are open or lost.
//!
//! ```no_run
//! use std::time::Duration;
//! use youquanti::{Config, Session};
//!
//! let config = Config::load("experiment.toml".as_ref())?;
//! let mut session = Session::start(&config)?;
//! session.mark("stimulus on");
//! session.stop("experiment over");
//! let report = session.wait(Duration::from_secs(30)).ok_or("still running")?;
//! println!("{} frames", report.cameras[0].ledger.captured);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod backend;
pub mod calibrate;
pub mod chaos;
pub mod diff;
pub mod export;
pub mod labrecorder;
pub mod offsets;
#[cfg(feature = "cuda")]
mod on_gpu;
pub mod plot;
pub mod preflight;
pub mod replay;
pub mod server;
mod session;
mod wiring;
mod xml;

pub use session::{CameraProgress, Session, SessionError};
pub use youquanti_actors as actors;
pub use youquanti_actors::control::{Command, CommandError, Control, Done};
pub use youquanti_actors::live::{Next, Stream};
pub use youquanti_actors::messages::FacesNamed;
pub use youquanti_actors::recorder::{Override, RecordingRequest, RecordingStarted};
pub use youquanti_actors::session::{
    CameraReport, RecordingError, RecordingReport, SessionReport, StartError,
};
pub use youquanti_config::{Config, ConfigErrors};
pub use youquanti_gpu as gpu;
pub use youquanti_lsl as lsl;
pub use youquanti_models as models;
