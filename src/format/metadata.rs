//! What a spare knows of its setup: configuration, spares, map, health and bad blocks.
//!
//! Invariant: every copy on every spare holds all of it; copies differ only in spare UUID, copy index and checksums.

use super::header::{self, kind};
use super::samples::MainSamples;
use super::{DATA_START, MAX_SPARES};
use crate::identity::Identity;
use crate::map::{Fate, Map, SpareIndex};
use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Keys of a JSON object that this version does not know; they are written back unchanged.
pub type UnknownKeys = BTreeMap<String, serde_json::Value>;

/// How far the life of a setup has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetupState {
    /// `create` has begun to write, and not on all spares yet: there is no setup.
    Forming,
    /// In use.
    #[default]
    Ready,
    /// `destroy` has begun to erase: there is no setup any more.
    Dissolved,
}

/// What to do with blocks that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnreadablePolicy {
    /// Move the block; reads answer EIO until it is written again.
    #[default]
    Hold,
    /// Move the block and fill it with zeros, recorded as lost.
    Zero,
    /// Leave the block on main, recorded as lost.
    Leave,
}

/// Where on the spares the next extent goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllocationPolicy {
    /// The first spare with room, the lowest place on it.
    #[default]
    FirstFit,
    /// The smallest free run on any spare that has room.
    BestFit,
    /// One spare after the other.
    RoundRobin,
    /// The spare with the largest free share.
    LeastUsed,
    /// The spare that is best in health.
    Health,
}

impl AllocationPolicy {
    /// Whether this is what a setup has unless it says otherwise.
    pub fn is_default(&self) -> bool {
        *self == AllocationPolicy::default()
    }
}

/// Choices that the administrator made for a setup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What to do with blocks that cannot be read.
    #[serde(default)]
    pub unreadable: UnreadablePolicy,
    /// Where the next extent goes. Left out when it is the default: so older metadata encodes to the same bytes.
    #[serde(default, skip_serializing_if = "AllocationPolicy::is_default")]
    pub allocation: AllocationPolicy,
    /// Keys of later versions.
    #[serde(flatten)]
    pub unknown: UnknownKeys,
}

/// The mark that activation leaves and deactivation clears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// /etc/machine-id of the machine that has it active; empty when that machine has none.
    pub machine_id: String,
    /// /proc/sys/kernel/random/boot_id at that time.
    pub boot_id: String,
    /// UUID of the board (DMI product_uuid); empty when it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hardware_id: String,
    /// Seconds since 1970.
    pub time: u64,
}

/// The configuration section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the setup and of its device.
    pub name: String,
    /// How far its life has come.
    pub state: SetupState,
    /// When it was created, seconds since 1970.
    pub created: u64,
    /// What main says of itself.
    pub main: Identity,
    /// Choices of the administrator.
    #[serde(default)]
    pub policy: Policy,
    /// Set while some machine has the setup active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Activation>,
    /// What main held when the setup was last taken down; while it is up, what main holds under extents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<MainSamples>,
    /// Keys of later versions.
    #[serde(flatten)]
    pub unknown: UnknownKeys,
}

/// What part a spare has in its setup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpareState {
    /// In use.
    #[default]
    Present,
    /// A commit to it failed; what it holds may be older than the rest.
    Failed,
    /// In use, and being emptied: it gets no new extents.
    Draining,
    /// No member any more. The record keeps the place, so that the indexes of the others do not change, and the UUID, so
    /// that the device is recognised when it comes back.
    Removed,
}

impl SpareState {
    /// Whether it belongs to the setup.
    pub fn is_member(self) -> bool {
        self != SpareState::Removed
    }

    /// Whether commits go to it.
    pub fn takes_commits(self) -> bool {
        matches!(self, SpareState::Present | SpareState::Draining)
    }
}

/// One spare in the spares section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareRecord {
    /// The spare's own UUID.
    pub uuid: Uuid,
    /// First sector of its data area.
    pub data_start: Sectors,
    /// What part it has in the setup.
    #[serde(default)]
    pub state: SpareState,
    /// The generation that it holds at least, where it failed: the last but one before it was marked. One that holds an
    /// older one was put back to an earlier state, and its slots with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<u64>,
    /// The generation that removed it; only where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
    /// What it says of itself.
    pub identity: Identity,
    /// Keys of later versions.
    #[serde(flatten)]
    pub unknown: UnknownKeys,
}

/// How many sectors lived on spares from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedSample(u64, Sectors);

impl UsedSample {
    /// From when on, seconds since 1970.
    pub fn time(&self) -> u64 {
        self.0
    }

    /// Sectors that lived on spares.
    pub fn sectors(&self) -> Sectors {
        self.1
    }
}

/// The most samples of used sectors that are kept.
pub const MAX_USED_SAMPLES: usize = 32;

/// Times before this (September 2001) come from a clock that was never set.
const CLOCK_IS_SET: u64 = 1_000_000_000;

impl SpareRecord {
    /// The generation that this spare of `metadata` holds at least, unless its device was put back to an earlier state. A
    /// member that is not marked as failed can have missed the end of one interrupted command, which makes two commits at
    /// most at a time, and no more.
    pub fn least_generation(&self, metadata: &Metadata) -> Option<u64> {
        match self.state {
            SpareState::Failed => self.holds,
            SpareState::Present | SpareState::Draining => {
                metadata.lineage.iter().rev().nth(1).map(|ancestor| ancestor.generation)
            }
            SpareState::Removed => None,
        }
    }
}

/// The health section: what happened over the life of the setup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Table swaps that moved extents.
    pub splices: u64,
    /// Sectors that were moved to a spare.
    pub sectors_moved: u64,
    /// Sectors that were moved back to main.
    pub sectors_restored: u64,
    /// Sectors that read only after a retry.
    pub sectors_recovered: u64,
    /// Sectors that could not be read.
    pub sectors_lost: u64,
    /// How many sectors lived on spares, each time that it changed, oldest first; thinned out to
    /// [`MAX_USED_SAMPLES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<UsedSample>,
    /// Keys of later versions.
    #[serde(flatten)]
    pub unknown: UnknownKeys,
}

impl Health {
    /// Takes note that from `time` on `sectors` live on spares.
    fn note_used_from(&mut self, time: u64, sectors: Sectors) {
        let last = self.used.last().map_or(0, UsedSample::time);
        let time = if time < CLOCK_IS_SET { time.max(last) } else { time };
        // The later ones are from a clock that was ahead, and has been put right.
        self.used.retain(|sample| sample.time() < time);
        self.used.push(UsedSample(time, sectors));
        while self.used.len() > MAX_USED_SAMPLES {
            // What is missed least: neither the first nor the last, and close to its neighbours.
            let gap = |w: &[UsedSample]| match w {
                [before, _, after] => after.time().saturating_sub(before.time()),
                _ => u64::MAX,
            };
            let closest = self.used.windows(3).map(gap).enumerate().min_by_key(|(_, gap)| *gap);
            self.used.remove(closest.map_or(0, |(place, _)| place.saturating_add(1)));
        }
    }
}

/// An earlier commit of the same setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its generation.
    pub generation: u64,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
}

/// How many ancestors a copy remembers.
pub const MAX_LINEAGE: usize = 32;

/// Everything that a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// UUID of the setup.
    pub setup: Uuid,
    /// Raised by every commit.
    pub generation: u64,
    /// Time of the commit, seconds since 1970.
    pub committed: u64,
    /// Compatible feature flags, known and unknown.
    pub compatible: u64,
    /// Incompatible feature flags that do not follow from the contents; all of them are known, or the copy was refused.
    pub incompatible: u64,
    /// Name, main, policy.
    pub config: Config,
    /// The spares, in order of their index.
    pub spares: Vec<SpareRecord>,
    /// Which sectors live where, and what was lost.
    pub map: Map,
    /// What happened so far.
    pub health: Health,
    /// Sectors of the spares that failed and are never used again, by spare.
    pub bad_blocks: BTreeMap<SpareIndex, Vec<Range>>,
    /// The commits before this one, oldest first, at most [`MAX_LINEAGE`]: a spare that holds an older generation is
    /// stale if it is among them, and divergent if another content is.
    pub lineage: Vec<Ancestor>,
    /// Sections that this version does not know (kind, bytes).
    pub unknown_sections: Vec<(u32, Vec<u8>)>,
}

/// Metadata that cannot be right although its checksums are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// No spare, or too many.
    #[error("{0} spares are recorded; a setup has 1 to 16")]
    SpareCount(usize),
    /// An extent, or bad blocks, of a spare that was removed.
    #[error("spare {0} was removed, and something is recorded for it all the same")]
    OnRemoved(SpareIndex),
    /// Main's size and the map disagree.
    #[error("main has {main} sectors, but the map is for {map}")]
    MainLength {
        /// As recorded for main.
        main: Sectors,
        /// As recorded in the map.
        map: Sectors,
    },
    /// The data area would touch metadata.
    #[error("the data area of spare {spare} starts at sector {data_start}, inside the metadata")]
    DataStart {
        /// Which spare.
        spare: SpareIndex,
        /// Its data area.
        data_start: Sectors,
    },
    /// An extent outside the data area of its spare.
    #[error("extent {range} lives at {slot}, which is outside that spare's data area")]
    SlotOutside {
        /// The extent.
        range: Range,
        /// Its slot.
        slot: crate::map::Slot,
    },
    /// More extents or losses than a map may have.
    #[error("the map has {0} rows, which is more than a table can have")]
    TooManyRows(usize),
    /// An empty or impossible name.
    #[error("'{0}' is not a name that a setup can have")]
    Name(String),
    /// Two spares with one UUID.
    #[error("two spares have the UUID {0}")]
    DuplicateSpare(Uuid),
    /// Bad blocks of a spare that is not in the list.
    #[error("bad blocks are recorded for spare {0}, which this setup does not have")]
    BadBlocksOfNoSpare(SpareIndex),
    /// Held sectors outside every extent.
    #[error("sectors {0} are marked as held, but no extent serves them")]
    HeldOutside(Range),
    /// More ancestors than a copy may have.
    #[error("{0} ancestors are recorded; at most 32 are possible")]
    Lineage(usize),
    /// A section of a kind that is not unknown at all.
    #[error("section kind {0} is not one of a later version")]
    SectionKind(u32),
}

impl Metadata {
    /// The record of one spare, removed ones included.
    pub fn spare(&self, index: SpareIndex) -> Option<&SpareRecord> {
        self.spares.get(index.as_usize())
    }

    /// The spares that belong to the setup: all but those that were removed.
    pub fn members(&self) -> impl Iterator<Item = (SpareIndex, &SpareRecord)> {
        (0u8..).map(SpareIndex).zip(&self.spares).filter(|(_, record)| record.state.is_member())
    }

    /// Whether a spare belongs to the setup.
    pub fn is_member(&self, index: SpareIndex) -> bool {
        self.spare(index).is_some_and(|record| record.state.is_member())
    }

    /// The index of the spare with this UUID.
    pub fn spare_index(&self, uuid: Uuid) -> Option<SpareIndex> {
        let position = self.spares.iter().position(|s| s.uuid == uuid)?;
        u8::try_from(position).ok().map(SpareIndex)
    }

    /// Checks what no checksum can: that the parts fit each other.
    ///
    /// # Errors
    /// The first [`Inconsistency`] found.
    pub fn check(&self) -> Result<(), Inconsistency> {
        if self.members().next().is_none() || self.spares.len() > MAX_SPARES {
            return Err(Inconsistency::SpareCount(self.spares.len()));
        }
        check_name(&self.config.name)?;
        let rows = self.map.len().max(self.map.losses().len());
        if u64::try_from(rows).unwrap_or(u64::MAX) > super::map_section::MAX_ROWS {
            return Err(Inconsistency::TooManyRows(rows));
        }
        if self.config.main.size != self.map.main_len() {
            return Err(Inconsistency::MainLength { main: self.config.main.size, map: self.map.main_len() });
        }
        for (index, spare) in (0u8..).zip(&self.spares) {
            if spare.data_start < DATA_START {
                let spare_index = SpareIndex(index);
                return Err(Inconsistency::DataStart { spare: spare_index, data_start: spare.data_start });
            }
        }
        for extent in self.map.extents() {
            let inside = self.spare(extent.slot.spare).is_some_and(|spare| {
                let area = Range::between(spare.data_start, spare.identity.size);
                let slot = extent.slot_range();
                area.zip(slot).is_some_and(|(area, slot)| area.encloses(slot))
            });
            if !inside {
                return Err(Inconsistency::SlotOutside { range: extent.range, slot: extent.slot });
            }
            if !self.is_member(extent.slot.spare) {
                return Err(Inconsistency::OnRemoved(extent.slot.spare));
            }
        }
        self.check_lists()
    }

    /// The incompatible feature flags that a copy of it has.
    pub fn incompatible_flags(&self) -> u64 {
        let stale = self.map.losses().iter().any(|loss| loss.fate == Fate::HeldStale);
        self.incompatible | if stale { header::INCOMPATIBLE_STALE } else { 0 }
    }

    fn check_lists(&self) -> Result<(), Inconsistency> {
        let mut uuids = BTreeSet::new();
        if let Some(twice) = self.spares.iter().find(|s| !uuids.insert(s.uuid)) {
            return Err(Inconsistency::DuplicateSpare(twice.uuid));
        }
        let mut indexes = self.bad_blocks.keys();
        if let Some(index) = indexes.find(|index| self.spare(**index).is_none()) {
            return Err(Inconsistency::BadBlocksOfNoSpare(*index));
        }
        if let Some(index) = self.bad_blocks.keys().find(|index| !self.is_member(**index)) {
            return Err(Inconsistency::OnRemoved(*index));
        }
        let mut held = self.map.losses().iter().filter(|l| l.fate.is_held());
        if let Some(loss) = held.find(|loss| !self.map.serves(loss.range)) {
            return Err(Inconsistency::HeldOutside(loss.range));
        }
        if self.lineage.len() > MAX_LINEAGE {
            return Err(Inconsistency::Lineage(self.lineage.len()));
        }
        let mut kinds = self.unknown_sections.iter().map(|(kind, _)| *kind);
        match kinds.find(|kind| *kind == 0 || kind::is_known(*kind)) {
            Some(kind) => Err(Inconsistency::SectionKind(kind)),
            None => Ok(()),
        }
    }

    /// Takes note of how many sectors live on spares, if that is not what it was `before` this commit.
    pub fn note_used(&mut self, before: &Metadata) {
        let (then, used) = (before.map.remapped(), self.map.remapped());
        if then == used {
            return;
        }
        if self.health.used.is_empty() {
            self.health.note_used_from(before.committed, then);
        }
        self.health.note_used_from(self.committed, used);
    }

    /// Marks a spare as failed in what will be the next commit: it is not reached, and what it holds grows older.
    pub fn mark_failed(&mut self, index: SpareIndex) {
        // The commit before this one may not have reached it either; the one before that did.
        let before = self.lineage.iter().rev().nth(1).map_or(0, |ancestor| ancestor.generation);
        if let Some(record) = self.spares.get_mut(index.as_usize())
            && record.state != SpareState::Failed
        {
            record.state = SpareState::Failed;
            record.holds = Some(before);
        }
    }

    /// How many commits a spare has missed that holds this older generation. Commits are counted by the lineage where that
    /// reaches back far enough: generations may be left out.
    pub fn commits_since(&self, generation: u64) -> u64 {
        let since = self.lineage.iter().filter(|a| a.generation >= generation).count();
        let reaches = self.lineage.iter().any(|a| a.generation <= generation);
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        if reaches { since } else { self.generation.saturating_sub(generation) }
    }

    /// Keeps of the samples of main only those that hold while the setup is up: see [`MainSamples::under_extents`].
    pub fn forget_open_samples(&mut self) {
        self.config.samples = self.config.samples.take().and_then(|samples| samples.under_extents(&self.map));
    }

    /// The same content as the next generation, committed at `now` (seconds since 1970). `digest` is the digest of
    /// this one as it was committed.
    pub fn next(&self, now: u64, digest: [u8; 32]) -> Metadata {
        let mut next = self.clone();
        next.descend_from(Ancestor { generation: self.generation, digest });
        next.generation = self.generation.saturating_add(1);
        next.committed = now;
        next
    }

    /// Makes a generation that others have made from the same ancestors, and that is given up for this one, an ancestor, too:
    /// who still has it is behind, and does not tell another truth. This one becomes newer.
    pub fn supersede(&mut self, other: Ancestor) {
        if self.lineage.iter().all(|ancestor| ancestor.generation < other.generation) {
            self.descend_from(other);
        }
        self.generation = self.generation.max(other.generation.saturating_add(1));
    }

    fn descend_from(&mut self, ancestor: Ancestor) {
        self.lineage.push(ancestor);
        let surplus = self.lineage.len().saturating_sub(MAX_LINEAGE);
        self.lineage.drain(..surplus);
    }
}

/// The longest name of a setup in bytes: leaves room for the names of private devices under dm's limit of 127.
pub const MAX_NAME: usize = 100;

/// Checks a setup's name: letters, digits and `+ _ . -`, not beginning with `-` or `.`, at most [`MAX_NAME`] bytes,
/// not `control` (which /dev/mapper has already).
///
/// # Errors
/// [`Inconsistency::Name`].
pub fn check_name(name: &str) -> Result<(), Inconsistency> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '.' | '-');
    let fine = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.chars().all(good)
        && !name.starts_with(['-', '.'])
        && name != "control";
    if fine { Ok(()) } else { Err(Inconsistency::Name(name.chars().take(MAX_NAME).collect())) }
}
