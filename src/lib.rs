//! dm-remap: keep a block device with bad sectors in service, with stock device-mapper targets.
//!
//! The parts and their directions are described in docs/DESIGN.md; `tests/architecture.rs` checks them.
//! Pure: [`units`], [`identity`], [`format`], [`map`], [`segments`], [`pool`], [`plan`].
//! Edges: [`dm`], [`block`], [`store`], [`engine`], [`cli`].

pub mod block;
pub mod dm;
pub mod identity;
pub mod segments;
pub mod units;
