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
use crate::format::tombstone;
use crate::map::{Fate, Map, SpareIndex};
use crate::plan::Refusal;
use crate::segments::{HeldKind, Target, TargetKind, held_table};
use crate::units::{DevNo, Range, SECTOR_SIZE, Sectors, coalesce};
use std::collections::BTreeSet;

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
        block: session.main.disk.logical_block(),
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
        return device.swap(session.dm, &current, &device.plain()).map(|_| ());
    }
    match HeldKind::of(&current) {
        Some(HeldKind::Dust) => update_dust(session.dm, &device, before, held),
        Some(kind) => {
            let table = held_table(kind, device.spare, device.size, device.block, held);
            device.swap(session.dm, &current, &table).map(|_| ())
        }
        None => device.begin_holding(session.dm, &current, held, observer),
    }
}

struct SpareDeviceSpec {
    name: String,
    spare: DevNo,
    size: Sectors,
    block: Sectors,
}

impl SpareDeviceSpec {
    fn plain(&self) -> Vec<Target> {
        let kind = TargetKind::Linear { device: self.spare, offset: Sectors::ZERO };
        vec![Target { start: Sectors::ZERO, len: self.size, kind }]
    }

    /// Loads and swaps in a table unless it is in force already. `false` when the kernel does not have its targets.
    fn swap(&self, dm: &dyn DeviceMapper, current: &[Target], table: &[Target]) -> Result<bool, EngineError> {
        if current != table {
            match dm.load(&self.name, table, false) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(nix::errno::Errno::EINVAL) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            dm.activate(&self.name, true)?;
        }
        Ok(true)
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
        // EINVAL: it is listed already.
        let _ = dm.message(&device.name, Sectors::ZERO, &format!("addbadblock {new}"));
    }
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

/// Takes down the private devices of all spares.
///
/// # Errors
/// What device-mapper says; `EBUSY` while the setup's device is up.
pub fn remove_all(dm: &dyn DeviceMapper, name: &str, spares: usize) -> Result<(), EngineError> {
    for (index, _) in (0u8..).map(SpareIndex).zip(0..spares) {
        let private = spare_device_name(name, index);
        if dm.state(&private)?.is_some() {
            dm.remove(&private)?;
        }
    }
    Ok(())
}

/// Held sectors of the setup that were written since: their tombstones are gone. In whole logical blocks.
///
/// # Errors
/// [`crate::block::DiskError`] when a slot cannot be read; a held block that cannot be read stays held.
pub fn rewritten(session: &Session<'_>) -> Result<Vec<Range>, EngineError> {
    let mut found = Vec::new();
    for loss in session.metadata.map.losses().iter().filter(|l| l.fate == Fate::Held) {
        for extent in session.metadata.map.extents_in(loss.range) {
            let Some(member) = session.spare(extent.slot.spare) else { continue };
            find_rewritten(session, &*member.disk, extent.range, extent.slot.start, &mut found);
        }
    }
    Ok(coalesce(found))
}

fn find_rewritten(session: &Session<'_>, disk: &dyn Disk, range: Range, slot: Sectors, found: &mut Vec<Range>) {
    let block = session.main.disk.logical_block();
    let mut buf = AlignedBuffer::new(block.to_usize_bytes().unwrap_or(SECTOR_SIZE));
    let mut at = range.start();
    while let Some(part) = Range::between(at, range.end()) {
        let from = Sectors(slot.0.saturating_add(at.saturating_sub(range.start()).0));
        // A slot that cannot be read answers EIO as well: it may stay held.
        if disk.read(from, &mut buf).is_ok() {
            let mut sectors = (at.0..).zip(buf.chunks_exact(SECTOR_SIZE));
            let held = sectors.any(|(sector, data)| tombstone::is_tombstone(data, session.setup(), Sectors(sector)));
            if !held {
                found.extend(Range::new(at, part.len().min(block)));
            }
        }
        at = Sectors(at.0.saturating_add(block.0));
    }
}
