//! The kernel's error reports: reading them, finding the sectors of a setup that they speak of, and acting in time.
//!
//! Invariants:
//! - a report is a hint, never proof: it makes sectors be probed, and nothing else;
//! - a report about the way to a disk (cable, controller, removal) is told, and makes nothing be probed;
//! - where it is not known which sectors are meant, that is said, and what is probed is called a guess;
//! - a report counts as dealt with only after what it asked for is done, so a killed watcher forgets none.

pub mod debounce;
pub mod handler;
pub mod kmsg;
pub mod locate;
pub mod position;
pub mod report;
pub mod setups;
pub mod stack;
pub mod suspects;
pub mod trace;
pub mod unseen;
pub mod watcher;

pub use report::{ErrorReport, Reported, Request};
