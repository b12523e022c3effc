//! dm-remap: keep a block device with bad sectors in service, with stock device-mapper targets.
//!
//! The parts and their directions are described in docs/DESIGN.md; `tests/architecture.rs` checks them.
//! Pure: [`units`], [`identity`], [`format`](mod@format), [`map`], [`segments`], [`pool`], [`plan`], [`config`], [`messages`],
//! [`metrics`], [`stats`], [`report`], [`smart`], [`health`].
//! Edges: [`alert`], [`history`], [`dm`], [`block`], [`store`], [`files`], [`engine`], [`scan`], [`watch`], [`validate`], [`cli`].

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::manual_is_multiple_of))]

pub mod alert;
pub mod block;
// No fuzz target needs it, and it would double the time that the instrumented build takes.
#[cfg(not(fuzzing))]
// Nothing of it is fuzzed, and it takes half of the time to build.
#[cfg(not(fuzzing))]
pub mod cli;
pub mod config;
pub mod dm;
pub mod engine;
pub mod files;
pub mod flock;
pub mod forecast;
pub mod format;
pub mod health;
pub mod history;
pub mod identity;
pub mod map;
pub mod messages;
pub mod metrics;
pub mod plan;
pub mod pool;
pub mod report;
pub mod risk;
pub mod scan;
pub mod segments;
pub mod smart;
pub mod stats;
pub mod store;
pub mod units;
pub mod validate;
pub mod watch;
