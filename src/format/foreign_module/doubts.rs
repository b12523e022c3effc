//! What is doubtful about each entry.
//!
//! Invariants:
//! - every entry is judged, in the order of the table; none is dropped here;
//! - an entry without doubts names a sector of main that no other such entry names, and a slot that no entry of another
//!   sector names, on the spare and outside the module's metadata.

use super::{Entry, ModuleMetadata};
use crate::format::DATA_START;
use crate::units::Sectors;
use std::collections::BTreeMap;
use std::fmt;

/// A reason not to believe an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// Its slot lies in the module's own metadata, which was written over whatever was there.
    ModuleMetadata,
    /// Its slot lies where our own metadata is to go; only where the spare is to be used again.
    OurMetadata,
    /// Its slot lies beyond the end of the spare.
    BeyondSpare,
    /// Its sector lies beyond the end of main.
    BeyondMain,
    /// Entries of other sectors have the same slot: only one of them can have its data there.
    Shared,
    /// A later entry of the same sector replaces it.
    Duplicate,
    /// It is marked as pending: its data may never have been copied.
    Pending,
    /// It is counted as in use, but not marked so.
    Inactive,
    /// It is marked as in use, but not counted.
    Uncounted,
    /// Copies of the metadata that may be equally new do not agree about it.
    Disputed,
    /// Metadata of another layout is on the device as well.
    Mixed,
    /// Its slot is full of zeros: its data may never have been copied. (Found by reading the slot.)
    Blank,
    /// Its slot cannot be read. (Found by reading the slot.) Accepted, the sector is held.
    Unreadable,
}

impl Doubt {
    /// All of them.
    pub const ALL: [Doubt; 13] = [
        Doubt::ModuleMetadata,
        Doubt::OurMetadata,
        Doubt::BeyondSpare,
        Doubt::BeyondMain,
        Doubt::Shared,
        Doubt::Duplicate,
        Doubt::Pending,
        Doubt::Inactive,
        Doubt::Uncounted,
        Doubt::Disputed,
        Doubt::Mixed,
        Doubt::Blank,
        Doubt::Unreadable,
    ];

    /// The word for the command line.
    pub fn word(self) -> &'static str {
        match self {
            Doubt::ModuleMetadata => "module-metadata",
            Doubt::OurMetadata => "our-metadata",
            Doubt::BeyondSpare => "beyond-spare",
            Doubt::BeyondMain => "beyond-main",
            Doubt::Shared => "shared",
            Doubt::Duplicate => "duplicate",
            Doubt::Pending => "pending",
            Doubt::Inactive => "inactive",
            Doubt::Uncounted => "uncounted",
            Doubt::Disputed => "disputed",
            Doubt::Mixed => "mixed",
            Doubt::Blank => "blank",
            Doubt::Unreadable => "unreadable",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Doubt::ModuleMetadata => "its slot lies in the module's own metadata",
            Doubt::OurMetadata => "its slot lies where dm-remap's metadata would go",
            Doubt::BeyondSpare => "its slot lies beyond the end of the spare",
            Doubt::BeyondMain => "it lies beyond the end of main",
            Doubt::Shared => "other sectors have the same slot",
            Doubt::Duplicate => "a later entry replaces it",
            Doubt::Pending => "it is marked as pending: its data may never have been copied",
            Doubt::Inactive => "it is counted as in use, but not marked so",
            Doubt::Uncounted => "it is marked as in use, but not counted",
            Doubt::Disputed => "copies of the metadata disagree about it",
            Doubt::Mixed => "metadata of another layout is on the device, too",
            Doubt::Blank => "its slot is all zeros: its data may never have been copied",
            Doubt::Unreadable => "its slot cannot be read",
        }
    }

    /// Whether a person can take an entry in all the same. What lies beyond the end of a device cannot be taken in, nor
    /// what another entry has replaced.
    pub fn can_be_accepted(self) -> bool {
        !matches!(self, Doubt::BeyondSpare | Doubt::BeyondMain | Doubt::Duplicate)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What entries are judged against.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// Size of main.
    pub main: Sectors,
    /// Size of the old spare.
    pub spare: Sectors,
    /// Whether the same spare is to be used by dm-remap.
    pub in_place: bool,
}

/// An entry and what is doubtful about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The entry.
    pub entry: Entry,
    /// The doubts, each once; none when it is to be believed.
    pub doubts: Vec<Doubt>,
}

/// Judges every entry, in the order of the table.
pub fn judge(metadata: &ModuleMetadata, ground: &Ground) -> Vec<Judged> {
    let mut last: BTreeMap<Sectors, (bool, usize)> = BTreeMap::new();
    let mut owners: BTreeMap<Sectors, (Sectors, bool)> = BTreeMap::new();
    for (place, entry) in metadata.entries.iter().enumerate() {
        // What may not be in use at all does not replace what is.
        let rank = (!entry.standing.inactive && !entry.standing.uncounted, place);
        let best = last.entry(entry.original).or_insert(rank);
        *best = rank.max(*best);
        let owner = owners.entry(entry.slot).or_insert((entry.original, false));
        owner.1 |= owner.0 != entry.original;
    }
    let judged = metadata.entries.iter().enumerate().map(|(place, entry)| {
        let standing = entry.standing;
        let found = [
            (entry.slot < metadata.metadata_end, Doubt::ModuleMetadata),
            (ground.in_place && entry.slot < DATA_START, Doubt::OurMetadata),
            (entry.slot >= ground.spare, Doubt::BeyondSpare),
            (entry.original >= ground.main, Doubt::BeyondMain),
            (owners.get(&entry.slot).is_some_and(|(_, shared)| *shared), Doubt::Shared),
            (last.get(&entry.original).is_some_and(|(_, last)| *last != place), Doubt::Duplicate),
            (standing.pending, Doubt::Pending),
            (standing.inactive, Doubt::Inactive),
            (standing.uncounted, Doubt::Uncounted),
            (standing.disputed, Doubt::Disputed),
            (standing.mixed, Doubt::Mixed),
        ];
        let doubts = found.into_iter().filter_map(|(is, doubt)| is.then_some(doubt)).collect();
        Judged { entry: *entry, doubts }
    });
    judged.collect()
}
