//! The on-disk layout of a spare: encode, decode, checksums, choosing among copies. Normative text: docs/FORMAT.md.
//!
//! Invariants:
//! - pure: nothing here does I/O or knows a device;
//! - all integers are little-endian, whatever the host;
//! - decoding never panics and never allocates more than the input justifies;
//! - what was decoded from unknown compatible parts is written back unchanged.

mod bits;
pub mod choose;
pub mod copy;
pub mod foreign_module;
pub mod header;
pub mod lists;
pub mod map_section;
pub mod metadata;
pub mod samples;
pub mod signature;
pub mod tombstone;

use crate::units::{Range, Sectors};

/// Where the five copies start on every spare.
pub const COPY_STARTS: [Sectors; 5] = [Sectors(0), Sectors(1024), Sectors(2048), Sectors(4096), Sectors(8192)];

/// Sectors reserved for each copy.
pub const COPY_RESERVED: Sectors = Sectors(1024);

/// The most bytes that one copy can take: [`COPY_RESERVED`] in bytes.
pub const COPY_MAX_BYTES: usize = 524_288;

/// Copies are padded to a multiple of this, so that they are whole logical blocks on every device.
pub const COPY_ALIGNMENT: usize = 4096;

/// First sector of the data area.
pub const DATA_START: Sectors = Sectors(10_240);

/// The copies that a commit writes first; then a flush, then [`COMMIT_GROUP_B`], then a flush.
pub const COMMIT_GROUP_A: [usize; 3] = [0, 2, 4];

/// The copies that a commit writes second.
pub const COMMIT_GROUP_B: [usize; 2] = [1, 3];

/// The most spares that a setup can have.
pub const MAX_SPARES: usize = 16;

/// The sectors reserved for copy `index`; `None` when there is no such copy.
pub fn copy_range(index: usize) -> Option<Range> {
    Range::new(*COPY_STARTS.get(index)?, COPY_RESERVED)
}

const _: () = {
    assert!(COPY_MAX_BYTES == 1024 * 512);
    assert!(DATA_START.0 >= 8192 + 1024);
    assert!(DATA_START.0.is_multiple_of(crate::map::MAX_UNIT.0));
};
