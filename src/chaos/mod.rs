//! Rehearsed failures: a session is run and broken on purpose, one fault after another, and what it cost is
//! written down.
//!
//! A [`Campaign`] says which faults, [`run`] carries it out on the actors of an ordinary session, and the
//! [`Matrix`] says what came of each. Cameras and pipelines get a switch each; a fault of a real camera is a
//! command that the campaign names. Never changes what a session does when it is not rehearsed.

mod campaign;
mod matrix;
mod pipeline;
mod resources;
mod runner;

pub use campaign::{Action, Campaign, CampaignError, Expectation, Fault, Kind, Target};
pub use matrix::{Matrix, Outcome};
pub use pipeline::PipelineFault;
pub use resources::Resources;
pub use runner::{Progress, run};
