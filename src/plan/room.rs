//! Whether the metadata has room for a plan: the one rule for all that make it larger.
//!
//! Invariants:
//! - no plan fills a copy to its brim: [`RESERVE`] bytes stay free for what commits add that nobody plans (see there), so
//!   that a setup that took a plan can also be taken down, brought up and have its plan reverted;
//! - metadata that has grown into the reserve is no trap: a plan that does not make it larger is always allowed.

use super::Refusal;
use super::moves::{Home, MovePlan, apply};
use crate::format::COPY_MAX_BYTES;
use crate::format::copy::content_len;
use crate::format::metadata::{MAX_LINEAGE, Metadata};

/// Bytes of a copy that no plan may use. They are for the lineage (up to 32 commits of 40 bytes), samples of main (about
/// 2 KiB), the mark of who has the setup up, the forecast's samples, fates of sectors that turn out to be unreadable
/// while they move, extents that a swap has to leave out in their middle, and growing numbers.
pub const RESERVE: usize = 8 * 1024;

/// Bytes that a plan may bring the metadata to.
pub const ROOM: usize = COPY_MAX_BYTES - RESERVE;

const _: () = assert!(MAX_LINEAGE * 40 + 4096 < RESERVE);

/// Whether `before` may become `after`.
///
/// # Errors
/// [`Refusal::MetadataFull`] when it would grow into the reserve; [`Refusal::Metadata`] when it contradicts itself.
pub fn check_growth(before: &Metadata, after: &Metadata) -> Result<(), Refusal> {
    let unlikely = |what: String| Refusal::Metadata { device: before.config.name.clone(), what };
    let needed = content_len(after).map_err(|error| unlikely(error.to_string()))?;
    if needed <= ROOM || content_len(before).is_ok_and(|len| needed <= len) {
        return Ok(());
    }
    Err(Refusal::MetadataFull { needed, room: COPY_MAX_BYTES, reserve: RESERVE })
}

/// Whether the metadata has room for what a plan moves, and for the bad sectors that it records.
///
/// # Errors
/// As [`check_growth`].
pub(super) fn check_moves(metadata: &Metadata, plan: &MovePlan) -> Result<(), Refusal> {
    let unlikely = |what: String| Refusal::Metadata { device: metadata.config.name.clone(), what };
    let mut map = apply(&metadata.map, &plan.moves, &[]).map_err(|e| unlikely(e.to_string()))?;
    // What goes back to main is held no longer; whether it may is for the engine to find out.
    plan.moves.iter().filter(|step| step.to == Home::Main).for_each(|step| map.clear_loss(step.range));
    let bad_blocks = super::moves::bad_blocks_with(metadata, &plan.bad_slots)?;
    check_growth(metadata, &Metadata { map, bad_blocks, ..metadata.clone() })
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
