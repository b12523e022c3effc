//! The device-mapper table of a map, and the way back.
//!
//! Invariants (checked here, because the kernel does not):
//! - a table is contiguous from sector 0 and exactly as long as main;
//! - every piece lies inside its device, aligned to the logical block size;
//! - no two pieces share a sector of a spare;
//! - adjacent pieces that continue each other are merged.

mod target;

pub use target::{Target, TargetKind, TargetParseError};
