//! The device-mapper tables of a map, and the way back.
//!
//! Invariants (checked here, because the kernel does not):
//! - a table is contiguous from sector 0 and exactly as long as main;
//! - every piece lies inside its device, aligned to the logical block size of main;
//! - no two pieces share a sector of a spare, and none touches metadata;
//! - adjacent pieces that continue each other are merged;
//! - pieces other than `linear` never stand in such a table, except `error` where a spare is missing or a commit is
//!   unsettled: held blocks sit behind a `linear` piece over a private device, because kernels from 6.11 merge flushes
//!   only for tables that are all linear.
//!
//! There are two layouts. In the flat one the table of a map is the setup's own; in the switched one it is the table of
//! a private device behind it (`switched.rs`). Neither the map nor the metadata know of layouts.

mod flat;
mod held;
mod layout;
mod switched;
mod target;

pub use held::{HeldKind, held_table};
pub use layout::{Layout, LayoutRule};
pub use switched::{
    Backing, Joined, Overlay, PART_LINES, PartLines, anchor_table, flattened, front_table, in_setup_sectors,
    is_anchored, is_front_of, linear_devices, overlay_ranges, overlay_tables, overlays_of,
};
pub use target::{OtherTarget, Target, TargetKind, TargetParseError};

use crate::map::{Extent, Map, MapError, SpareIndex};
use crate::units::{DevNo, Range, Sectors};

/// A spare as the tables need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareDevice {
    /// Its number; `None` while it is missing: its extents then answer EIO.
    pub device: Option<DevNo>,
    /// The private device over it that answers EIO for held blocks, where there is one.
    pub held: Option<DevNo>,
    /// Its size.
    pub size: Sectors,
    /// First sector of its data area.
    pub data_start: Sectors,
}

/// The devices under a setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Main.
    pub main: DevNo,
    /// Logical block size of main in sectors.
    pub logical_block: Sectors,
    /// The spares by index.
    pub spares: Vec<SpareDevice>,
}

/// A map that cannot become a table, or a table that is no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// A piece outside its device.
    #[error("extent {range} would lie outside the data area of spare {spare}")]
    Outside {
        /// The extent.
        range: Range,
        /// Its spare.
        spare: SpareIndex,
    },
    /// A piece that is not a whole number of logical blocks.
    #[error("piece {0} is not a whole number of logical blocks")]
    Unaligned(Range),
    /// An extent on a spare that the setup does not have.
    #[error("an extent lives on spare {0}, which this setup does not have")]
    NoSuchSpare(SpareIndex),
    /// Held blocks, and no device to hold them.
    #[error("spare {0} has held blocks, and no private device to answer EIO for them")]
    NoHeldDevice(SpareIndex),
    /// A table that the kernel gave back with a hole, an overlap or another length.
    #[error("the table is not contiguous at sector {0}")]
    NotContiguous(Sectors),
    /// A target that we would not have made.
    #[error("sectors {range} go to a target that is not ours: {line}")]
    NotOurs {
        /// The piece.
        range: Range,
        /// The table line.
        line: String,
    },
    /// The pieces contradict each other.
    #[error("the table contradicts itself: {0}")]
    Contradiction(#[from] MapError),
}

/// Where a piece of a table leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the same sector of main.
    Main,
    /// To a spare.
    Spare {
        /// Which one.
        spare: SpareIndex,
        /// First sector on it.
        start: Sectors,
        /// Through the private device that answers EIO for held blocks.
        through_held: bool,
    },
    /// Nowhere: EIO.
    Nowhere,
}

/// A piece of a table, as the map sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Sectors of the setup.
    pub range: Range,
    /// Where they lead.
    pub place: Place,
}

/// The flat table of a map.
///
/// # Errors
/// [`SegmentError`] when an invariant of this module would be broken.
pub fn setup_table(map: &Map, devices: &Devices) -> Result<Vec<Target>, SegmentError> {
    flat::unsettled_table(map, devices, &[])
}

/// Its lines, made one after another: those of a large map are much memory together. What follows an error means nothing.
pub fn setup_lines<'a>(map: &'a Map, devices: &'a Devices) -> impl Iterator<Item = Result<Target, SegmentError>> + 'a {
    flat::lines(map, devices, Vec::new())
}

/// The flat table with the given ranges answering EIO: for extents whose commit is unsettled.
///
/// # Errors
/// As [`setup_table`].
pub fn unsettled_table(map: &Map, devices: &Devices, unsettled: &[Range]) -> Result<Vec<Target>, SegmentError> {
    flat::unsettled_table(map, devices, unsettled)
}

/// Reads a flat table that the kernel gave back.
///
/// # Errors
/// [`SegmentError`] when it is not one that this module makes.
pub fn read_back(table: &[Target], devices: &Devices) -> Result<Vec<Piece>, SegmentError> {
    pieces_from(table, devices, Sectors::ZERO).collect()
}

/// The same, piece by piece, of a table or of the part of one that begins at `start`. What follows an error means nothing.
pub fn pieces_from<'a>(
    table: &'a [Target],
    devices: &'a Devices,
    start: Sectors,
) -> impl Iterator<Item = Result<Piece, SegmentError>> + 'a {
    flat::pieces(table, devices, start)
}

/// The map that pieces describe. Losses cannot be told from a table; they are empty.
///
/// # Errors
/// [`SegmentError::Contradiction`] when the pieces overlap on a spare, [`SegmentError::NotContiguous`] when they end
/// before or after main.
pub fn map_of(pieces: &[Piece], main_len: Sectors, unit: Sectors) -> Result<Map, SegmentError> {
    let mut map = Map::new(main_len, unit)?;
    for piece in pieces {
        if let Place::Spare { spare, start, .. } = piece.place {
            map.insert(piece.range, crate::map::Slot { spare, start })?;
        }
    }
    let end = pieces.last().map_or(Sectors::ZERO, |p| p.range.end());
    if end != main_len {
        return Err(SegmentError::NotContiguous(end.min(main_len)));
    }
    Ok(map)
}

/// Checks an extent against its spare; the number of the device that serves it, `None` when the spare is missing.
fn serving_device(extent: Extent, through_held: bool, devices: &Devices) -> Result<Option<DevNo>, SegmentError> {
    let index = extent.slot.spare;
    let spare = devices.spares.get(index.as_usize()).ok_or(SegmentError::NoSuchSpare(index))?;
    let area = Range::between(spare.data_start, spare.size);
    let inside = area.zip(extent.slot_range()).is_some_and(|(area, slot)| area.encloses(slot));
    if !inside {
        return Err(SegmentError::Outside { range: extent.range, spare: index });
    }
    let block = devices.logical_block;
    let aligned = [extent.range.start(), extent.range.len(), extent.slot.start].iter().all(|s| s.is_multiple_of(block));
    if !aligned {
        return Err(SegmentError::Unaligned(extent.range));
    }
    match (spare.device, through_held) {
        (None, _) => Ok(None),
        (Some(device), false) => Ok(Some(device)),
        (Some(_), true) => spare.held.map(Some).ok_or(SegmentError::NoHeldDevice(index)),
    }
}
