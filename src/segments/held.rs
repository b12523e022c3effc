//! The private device over a spare that answers EIO for held blocks.
//!
//! Invariant: sector N of it is sector N of the spare, whatever is held. So the table of the setup and the table of the
//! private device can be changed one after the other: data is never in two places.

use super::{Target, TargetKind};
use crate::units::{DevNo, Range, Sectors};

/// Which target answers EIO for held blocks; in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldKind {
    /// `dust`: a write makes the block readable at once.
    Dust,
    /// `flakey` with `error_reads` (kernels from 6.5): writes pass, and the block becomes readable when the next
    /// command finds that it was written.
    Flakey,
    /// `error`: writes fail too. Every kernel has it.
    Error,
}

impl HeldKind {
    /// All kinds, best first.
    pub const ALL: [HeldKind; 3] = [HeldKind::Dust, HeldKind::Flakey, HeldKind::Error];

    /// The kind that an existing table was made with; `None` when it holds nothing.
    pub fn of(table: &[Target]) -> Option<HeldKind> {
        table.iter().find_map(|target| match target.kind {
            TargetKind::Dust { .. } => Some(HeldKind::Dust),
            TargetKind::FlakeyErrorReads { .. } => Some(HeldKind::Flakey),
            TargetKind::Error => Some(HeldKind::Error),
            _ => None,
        })
    }
}

/// The table of the private device over `spare` (of `size` sectors) that holds the `held` runs (sorted, disjoint
/// sectors of the spare). For [`HeldKind::Dust`] the blocks are told by messages, and `block` is their size.
pub fn held_table(kind: HeldKind, spare: DevNo, size: Sectors, block: Sectors, held: &[Range]) -> Vec<Target> {
    let linear = |range: Range| Target {
        start: range.start(),
        len: range.len(),
        kind: TargetKind::Linear { device: spare, offset: range.start() },
    };
    if kind == HeldKind::Dust {
        let block_bytes = block.to_bytes().and_then(|b| u32::try_from(b.0).ok()).unwrap_or(512);
        let kind = TargetKind::Dust { device: spare, offset: Sectors::ZERO, block_bytes };
        return vec![Target { start: Sectors::ZERO, len: size, kind }];
    }
    let mut table = Vec::new();
    let mut at = Sectors::ZERO;
    for range in held {
        table.extend(Range::between(at, range.start()).map(linear));
        let kind = match kind {
            HeldKind::Flakey => TargetKind::FlakeyErrorReads { device: spare, offset: range.start() },
            _ => TargetKind::Error,
        };
        table.push(Target { start: range.start(), len: range.len(), kind });
        at = range.end();
    }
    table.extend(Range::between(at, size).map(linear));
    table
}
