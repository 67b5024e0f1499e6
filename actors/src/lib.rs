//! Messages, supervision and actors of YouQuanti.
//!
//! Owns who runs on which thread, what travels between them, and what happens when one of them
//! fails. Knows no back end: a pipeline is anything that implements `youquanti_models::Pipeline`,
//! plugged in by the caller, so every actor is tested without a GPU and without networks.

pub mod calibration;
pub mod camera;
pub mod capture;
pub mod child;
pub mod clock;
pub mod control;
pub mod dice;
pub mod discovery;
pub mod fault;
pub mod ffmpeg;
pub mod flight;
mod flushes;
pub mod ledger;
pub mod live;
pub mod lsl;
pub mod messages;
pub mod outputs;
pub mod participants;
pub mod pipeline;
pub mod plane;
pub mod pose;
pub mod preview;
pub mod recorder;
pub mod session;
pub mod session_file;
mod stall;
pub mod stats;
pub mod supervision;
pub mod supervisor;
pub mod synchrony;
pub mod timing;
pub mod validity;
pub mod verdict;
pub mod video;
