//! Telling somebody: what changed at a setup since it was last told of, and the ways in which it is told.
//!
//! Invariants:
//! - only a change is told: `change` compares what is with what was, and is pure;
//! - one message for each setup and command, whatever happened: [`event::Alert`] holds all of it;
//! - a way that fails or hangs neither fails the command nor keeps the other ways from being tried.

pub mod change;
pub mod deliver;
pub mod event;
pub mod journal;
pub mod mail;
pub mod program;
pub mod state;
