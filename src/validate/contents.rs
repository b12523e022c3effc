//! What the slots hold: tombstones where blocks are held, and whether all can be read.

use super::map::taken;
use super::{Check, Subject};
use crate::block::buffer::AlignedBuffer;
use crate::engine::Observer;
use crate::format::tombstone::is_tombstone;
use crate::units::{Range, SECTOR_SIZE, Sectors};

/// Sectors of one request.
const CHUNK: Sectors = Sectors(2048);

/// Whether the held blocks on this spare have their tombstones. One that has none was written since: that is no mistake.
pub(super) fn tombstones(subject: &Subject<'_>) -> Check {
    let (metadata, disk) = (&subject.copy.metadata, subject.disk);
    let map = &metadata.map;
    let mut check = Check::new("tombstones", "");
    let (mut found, mut written) = (0u64, 0u64);
    let held = map.losses().iter().filter(|loss| loss.fate.is_held());
    for extent in held.flat_map(|loss| map.extents_in(loss.range)).filter(|e| Some(e.slot.spare) == subject.index) {
        let Some(slot) = extent.slot_range().filter(|slot| slot.end() <= disk.size()) else {
            check.error(format!("sectors {}: their slot is beyond the end of the device", extent.range));
            continue;
        };
        each_block(subject, slot, &mut |at, data| match data {
            Ok(data) => {
                for (sector, offset) in data.chunks_exact(SECTOR_SIZE).zip(0..) {
                    let inside = Sectors(at.0.saturating_add(offset).saturating_sub(slot.start().0));
                    let of = extent.range.start().checked_add(inside);
                    let there = of.is_some_and(|of| is_tombstone(sector, metadata.setup, of));
                    *(if there { &mut found } else { &mut written }) += 1;
                }
            }
            Err(error) => check.error(error),
        });
    }
    check.summary = format!("{found} held sectors have their tombstones here");
    if written > 0 {
        let text = format!("{written} held sectors were written since: they become ordinary with the next command");
        check.warn(text);
    }
    check
}

/// Reads every slot in use.
pub(super) fn slots(subject: &Subject<'_>, observer: &dyn Observer) -> Check {
    let (map, disk) = (&subject.copy.metadata.map, subject.disk);
    let mut check = Check::new("readable", "");
    let Some(index) = subject.index else { return check };
    let used: Vec<_> = map.extents_by_slot(index).filter_map(|e| Some((e.range, taken(map, &e)?))).collect();
    let total = used.iter().map(|(_, slot)| slot.len().0).fold(0, u64::saturating_add);
    let mut done = 0u64;
    observer.step("reading slots");
    for (range, slot) in used {
        let Some(slot) = Range::between(slot.start(), slot.end().min(disk.size())) else {
            check.error(format!("sectors {slot} (for {range}) are beyond the end of the device"));
            continue;
        };
        each_block(subject, slot, &mut |at, data| {
            done = done.saturating_add(data.as_ref().map_or(disk.logical_block().0, |data| sectors_of(data).0));
            observer.progress(done, total);
            if let Err(error) = data {
                check.error(format!("sector {at} (for {range}): {error}"));
            }
        });
    }
    check.summary = format!("{total} sectors in slots were read");
    check
}

fn sectors_of(data: &[u8]) -> Sectors {
    Sectors(u64::try_from(data.len() / SECTOR_SIZE).unwrap_or(u64::MAX))
}

/// What is told of a run of sectors: where it begins, and its data or why there is none.
type Take<'t> = &'t mut dyn FnMut(Sectors, Result<&[u8], String>);

/// Reads a range in large requests; where one fails, block by block.
fn each_block(subject: &Subject<'_>, range: Range, take: Take<'_>) {
    let disk = subject.disk;
    let block = disk.logical_block();
    let mut at = range.start();
    while at < range.end() {
        let len = CHUNK.min(range.end().saturating_sub(at));
        // What is no whole number of this device's blocks cannot be asked for: the map does not fit it.
        let Some(part) =
            Range::new(at, len).filter(|r| r.start().is_multiple_of(block) && r.len().is_multiple_of(block))
        else {
            return take(at, Err(format!("sectors {range} are not whole blocks of the device")));
        };
        let mut buffer = AlignedBuffer::new(part.len().to_usize_bytes().unwrap_or(0));
        match disk.read(part.start(), &mut buffer) {
            Ok(()) => take(part.start(), Ok(&buffer)),
            Err(_) => single_blocks(subject, part, take),
        }
        at = part.end();
    }
}

fn single_blocks(subject: &Subject<'_>, range: Range, take: Take<'_>) {
    let block = subject.disk.logical_block();
    let mut buffer = AlignedBuffer::new(block.to_usize_bytes().unwrap_or(0));
    let mut at = range.start();
    while at < range.end() {
        match subject.disk.read(at, &mut buffer) {
            Ok(()) => take(at, Ok(&buffer)),
            Err(error) => take(at, Err(error.to_string())),
        }
        let Some(next) = at.checked_add(block) else { return };
        at = next;
    }
}
