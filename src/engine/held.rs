//! The private device over each spare: it claims the spare, and answers EIO for held blocks.
//!
//! Invariants:
//! - sector N of the private device is sector N of the spare, so nothing depends on when its table changes;
//! - a block is added before the setup's table leads to it, and taken out after it does no longer;
//! - a held block is one whose slot holds its tombstone: [`rewritten`] asks the spare, never the kernel.

use super::session::{Session, spare_device_name, spare_device_uuid};
use super::{EngineError, Observer};
use crate::block::Disk;
use crate::block::buffer::AlignedBuffer;
use crate::dm::{DeviceMapper, TableSlot};
use crate::format::copy::{EncodeError, encode};
use crate::format::metadata::Metadata;
use crate::format::tombstone;
use crate::format::{COPY_ALIGNMENT, COPY_MAX_BYTES};
use crate::map::{Extent, Fate, Map, SpareIndex};
use crate::plan::Refusal;
use crate::segments::{HeldKind, Target, TargetKind, held_table};
use crate::units::{DevNo, Range, SECTOR_SIZE, Sectors, coalesce};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// Makes the private device over a spare, or makes an existing one hold `held` (sorted runs of the spare) instead of
/// `before`. A block that is in both is not touched: it may have been written in this very moment.
fn sync_spare_device(
    session: &Session<'_>,
    index: SpareIndex,
    before: &[Range],
    held: &[Range],
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    let (Some(member), Some(record)) = (session.spare(index), session.metadata.spare(index)) else {
        return Ok(());
    };
    let device = SpareDeviceSpec {
        name: spare_device_name(&session.name, index),
        spare: member.devno,
        size: record.identity.size,
        block: session.block(),
        read_only: session.read_only,
    };
    let uuid = spare_device_uuid(session.setup(), index);
    match session.dm.state(&device.name)? {
        None => drop(session.dm.create(&device.name, &uuid)?),
        Some(state) if state.uuid == uuid => {}
        Some(_) => {
            let by = "a device-mapper device has it, and the setup needs it for its spare".into();
            return Err(Refusal::NameTaken { name: device.name, by }.into());
        }
    }
    let current = session.dm.table(&device.name, TableSlot::Active)?;
    if held.is_empty() {
        return device.swap_or_fail(session.dm, &current, &device.plain());
    }
    match HeldKind::of(&current) {
        Some(HeldKind::Dust) => update_dust(session.dm, &device, before, held),
        Some(kind) => {
            let table = held_table(kind, device.spare, device.size, device.block, held);
            device.swap_or_fail(session.dm, &current, &table)
        }
        None => device.begin_holding(session.dm, &current, held, observer),
    }
}

/// Claims a device for a place that has no private device yet. Nothing is left behind when it fails.
///
/// # Errors
/// [`Refusal::NameTaken`], or what device-mapper says: the device may be in use.
pub(super) fn claim(session: &Session<'_>, index: SpareIndex, spare: DevNo, size: Sectors) -> Result<(), EngineError> {
    let name = spare_device_name(&session.name, index);
    let device = SpareDeviceSpec { name, spare, size, block: session.block(), read_only: session.read_only };
    if session.dm.state(&device.name)?.is_some() {
        let by = "a device-mapper device has it, and the setup needs it for its spare".into();
        return Err(Refusal::NameTaken { name: device.name, by }.into());
    }
    session.dm.create(&device.name, &spare_device_uuid(session.setup(), index))?;
    let result = device.swap_or_fail(session.dm, &[], &device.plain());
    if result.is_err() {
        let _ = session.dm.remove(&device.name);
    }
    result
}

/// Makes the private device of one spare hold all that the map holds on it, whatever it held before. Only while nothing
/// leads there: blocks that were written since would be held again.
///
/// # Errors
/// What device-mapper says.
pub(super) fn hold_anew(session: &Session<'_>, index: SpareIndex, observer: &dyn Observer) -> Result<(), EngineError> {
    sync_spare_device(session, index, &[], &coalesce(session.metadata.map.held_slots(index)), observer)
}

struct SpareDeviceSpec {
    name: String,
    spare: DevNo,
    size: Sectors,
    block: Sectors,
    read_only: bool,
}

impl SpareDeviceSpec {
    fn plain(&self) -> Vec<Target> {
        let kind = TargetKind::Linear { device: self.spare, offset: Sectors::ZERO };
        vec![Target { start: Sectors::ZERO, len: self.size, kind }]
    }

    /// Loads and swaps in a table unless it is in force already. `false` when the kernel does not have its targets.
    fn swap(&self, dm: &dyn DeviceMapper, current: &[Target], table: &[Target]) -> Result<bool, EngineError> {
        if current != table {
            match dm.load(&self.name, table, self.read_only) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if let Err(error) = dm.activate(&self.name, true) {
                // The kernel has thrown the table away and left the device suspended: the old one must go on.
                let _ = dm.resume(&self.name);
                return Err(error.into());
            }
        }
        Ok(true)
    }

    /// The same, for targets that every kernel has or this one has shown to have.
    fn swap_or_fail(&self, dm: &dyn DeviceMapper, current: &[Target], table: &[Target]) -> Result<(), EngineError> {
        if self.swap(dm, current, table)? { Ok(()) } else { Err(EngineError::TableNotTaken(self.name.clone())) }
    }

    /// Takes the first kind of target that the kernel has.
    fn begin_holding(
        &self,
        dm: &dyn DeviceMapper,
        current: &[Target],
        held: &[Range],
        observer: &dyn Observer,
    ) -> Result<(), EngineError> {
        for kind in HeldKind::ALL {
            let table = held_table(kind, self.spare, self.size, self.block, held);
            if self.swap(dm, current, &table)? {
                if kind == HeldKind::Dust {
                    for number in dust_blocks(held, self.block) {
                        let add = format!("addbadblock {number}");
                        dm.message(&self.name, Sectors::ZERO, &add)?;
                    }
                    dm.message(&self.name, Sectors::ZERO, "enable")?;
                }
                if kind == HeldKind::Error {
                    observer.note(
                        "this kernel has neither dust nor flakey with error_reads: held blocks fail writes too, until they are restored",
                    );
                }
                return Ok(());
            }
        }
        Err(EngineError::Device(format!("'{}' takes no table that can hold blocks", self.name)))
    }
}

/// Block numbers of `dust` count on the underlying device in units of its block size.
fn dust_blocks(held: &[Range], block: Sectors) -> impl Iterator<Item = u64> + '_ {
    let size = block.0.max(1);
    held.iter().flat_map(move |r| r.start().0 / size..r.end().0.div_ceil(size))
}

/// Adds to a live dust target what is held from now on, and takes out what is held no longer: all that is listed and not
/// wanted, where the kernel can list (from 5.10), else what was held before.
fn update_dust(
    dm: &dyn DeviceMapper,
    device: &SpareDeviceSpec,
    before: &[Range],
    held: &[Range],
) -> Result<(), EngineError> {
    let known: BTreeSet<u64> = dust_blocks(before, device.block).collect();
    let wanted: BTreeSet<u64> = dust_blocks(held, device.block).collect();
    for new in wanted.difference(&known) {
        match dm.message(&device.name, Sectors::ZERO, &format!("addbadblock {new}")) {
            // It is listed already.
            Err(error) if error.errno() == Some(Errno::EINVAL) => {}
            other => other.map(|_| ())?,
        }
    }
    // Whoever made this table may have died before it was enabled.
    dm.message(&device.name, Sectors::ZERO, "enable")?;
    let listed = dm.message(&device.name, Sectors::ZERO, "listbadblocks");
    let listed: BTreeSet<u64> = match listed {
        Ok(list) => list.iter().flat_map(|l| l.lines()).filter_map(|n| n.trim().parse().ok()).collect(),
        Err(_) => known,
    };
    for gone in listed.difference(&wanted) {
        let _ = dm.message(&device.name, Sectors::ZERO, &format!("removebadblock {gone}"));
    }
    Ok(())
}

/// Makes the private devices of all spares hold what the `after` maps together hold on them. `before` is the map that
/// they were last synchronised with, if they exist already.
///
/// # Errors
/// What device-mapper says.
pub fn sync_all(
    session: &Session<'_>,
    before: Option<&Map>,
    after: &[&Map],
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    for (index, _) in (0u8..).map(SpareIndex).zip(&session.metadata.spares) {
        let before = before.map(|map| map.held_slots(index)).unwrap_or_default();
        let held = coalesce(after.iter().flat_map(|map| map.held_slots(index)).collect());
        sync_spare_device(session, index, &before, &held, observer)?;
    }
    Ok(())
}

/// Held sectors of the setup that were written since: their tombstones are gone, durably. In whole logical blocks.
/// A held block that cannot be read, or on a spare that cannot be flushed, stays held: a commit that calls it rewritten
/// must not survive a crash that the new data does not.
pub fn rewritten(session: &Session<'_>) -> Vec<Range> {
    let mut found = Vec::new();
    for (index, ranges) in without_tombstone(session) {
        if session.spare(index).is_some_and(|member| member.disk.flush().is_ok()) {
            found.extend(ranges);
        }
    }
    coalesce(found)
}

/// Held sectors of the setup whose tombstones are gone, by spare; perhaps not durably. Only reads.
pub fn without_tombstone(session: &Session<'_>) -> BTreeMap<SpareIndex, Vec<Range>> {
    let mut by_spare: BTreeMap<SpareIndex, Vec<Range>> = BTreeMap::new();
    let mut buf = AlignedBuffer::new(READ_CHUNK);
    for loss in session.metadata.map.losses().iter().filter(|l| l.fate.is_held()) {
        for extent in session.metadata.map.extents_in(loss.range) {
            let Some(member) = session.spare(extent.slot.spare) else { continue };
            let here = scan_tombstones(session, &*member.disk, extent, &mut buf);
            if !here.is_empty() {
                by_spare.entry(extent.slot.spare).or_default().extend(here);
            }
        }
    }
    by_spare
}

/// Bytes read at once when tombstones are looked for.
const READ_CHUNK: usize = 65_536;

/// The sectors of a held run that have no tombstone: in large reads, and block by block where one fails. A slot that
/// cannot be read answers EIO as well: it may stay held.
fn scan_tombstones(session: &Session<'_>, disk: &dyn Disk, extent: Extent, buf: &mut AlignedBuffer) -> Vec<Range> {
    let setup = session.setup();
    let block = session.block();
    let chunk = Sectors(u64::try_from(READ_CHUNK / SECTOR_SIZE).unwrap_or(1)).align_down(block).max(block);
    let mut found = Vec::new();
    let mut look = |part: Range, whole: bool| -> bool {
        let from = Sectors(extent.slot.start.0.saturating_add(part.start().saturating_sub(extent.range.start()).0));
        let data = buf.get_mut(..part.len().to_usize_bytes().unwrap_or(0)).unwrap_or_default();
        if disk.read(from, data).is_err() {
            return !whole;
        }
        let written = (part.start().0..).zip(data.chunks_exact(SECTOR_SIZE)).filter_map(|(sector, data)| {
            let gone = !tombstone::is_tombstone(data, setup, Sectors(sector));
            Range::new(Sectors(sector), Sectors(1)).filter(|_| gone)
        });
        found.extend(written);
        true
    };
    for part in extent.range.chunks(chunk) {
        if !look(part, true) {
            part.chunks(block).for_each(|block| {
                look(block, false);
            });
        }
    }
    // Blocks are written whole; one that has lost some of its tombstones only is a torn write and stays held.
    let gone = coalesce(found);
    let whole = |r: &Range| Range::between(r.start().align_up(block).unwrap_or(r.end()), r.end().align_down(block));
    gone.iter().filter_map(whole).collect()
}

/// The map with these sectors as rewritten. Where that does not fit into the metadata any more they stay held: their
/// missing tombstones tell the truth all the same.
///
/// # Errors
/// When a range is no part of the map.
pub fn map_with(metadata: &Metadata, rewritten: &[Range]) -> Result<Map, EngineError> {
    let mut map = metadata.map.clone();
    for range in rewritten {
        map.record_loss(*range, Fate::Rewritten)?;
    }
    let after = Metadata { map, ..metadata.clone() };
    // The lineage grows with the commit.
    match encode(&after) {
        Err(EncodeError::Full { .. }) => Ok(metadata.map.clone()),
        Ok(encoded) if encoded.len() + COPY_ALIGNMENT > COPY_MAX_BYTES => Ok(metadata.map.clone()),
        _ => Ok(after.map),
    }
}

/// Lists again blocks that a dust target has forgotten although they still hold their tombstones: it forgets a block
/// when a write is begun, also if the spare then fails it, and on a discard.
///
/// # Errors
/// What device-mapper says.
pub fn list_again(session: &Session<'_>) -> Result<(), EngineError> {
    let block = session.block();
    for (index, _) in (0u8..).map(SpareIndex).zip(&session.metadata.spares) {
        let (name, held) = (spare_device_name(&session.name, index), session.metadata.map.held_slots(index));
        let Some(member) = session.spare(index).filter(|_| !held.is_empty()) else { continue };
        let table = session.dm.table(&name, TableSlot::Active)?;
        if HeldKind::of(&table) != Some(HeldKind::Dust) {
            continue;
        }
        let Ok(Some(list)) = session.dm.message(&name, Sectors::ZERO, "listbadblocks") else { continue };
        let listed: BTreeSet<u64> = list.lines().filter_map(|n| n.trim().parse().ok()).collect();
        for number in dust_blocks(&held, block).filter(|number| !listed.contains(number)) {
            if holds_tombstone(session, &*member.disk, index, Sectors(number.saturating_mul(block.0))) {
                session.dm.message(&name, Sectors::ZERO, &format!("addbadblock {number}"))?;
                // It may have been written in between.
                if !holds_tombstone(session, &*member.disk, index, Sectors(number.saturating_mul(block.0))) {
                    session.dm.message(&name, Sectors::ZERO, &format!("removebadblock {number}"))?;
                }
            }
        }
    }
    Ok(())
}

/// Whether the block at `slot` of the spare still holds the tombstone of the sector that lives there.
fn holds_tombstone(session: &Session<'_>, disk: &dyn Disk, index: SpareIndex, slot: Sectors) -> bool {
    let mut buf = AlignedBuffer::new(session.block().to_usize_bytes().unwrap_or(SECTOR_SIZE));
    let map = &session.metadata.map;
    let sector = map.extents_by_slot(index).find_map(|e| {
        let inside = e.slot_range()?.contains(slot);
        let skipped = slot.checked_sub(e.slot.start)?;
        e.range.start().checked_add(skipped).filter(|_| inside)
    });
    let Some(sector) = sector else { return false };
    disk.read(slot, &mut buf).is_ok()
        && buf.get(..SECTOR_SIZE).is_some_and(|data| tombstone::is_tombstone(data, session.setup(), sector))
}
