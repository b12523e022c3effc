//! Layout A: version 4, five copies of 84,288 bytes in blocks of 128 KiB from the start of the spare.
//!
//! Invariants: a copy counts only with the right CRC; the highest sequence wins, then the later time. The sequence begins
//! anew whenever the module is loaded, so a lower one with a later time may be the newer: what the two do not agree
//! about is marked as disputed.

use super::{Entry, Layout, ModuleError, ModuleMetadata, ReadBytes, Standing, le16, le32, le64, text};
use crate::units::Sectors;
use std::collections::BTreeMap;

/// First four bytes of layouts A and B.
pub const MAGIC: u32 = 0x444D_5234;
/// Bytes of the structure, as its own size field has them.
pub const STRUCT_BYTES: usize = 84_288;
/// Copies of it.
pub const COPIES: usize = 5;
/// Sectors of the block that each copy has.
pub const COPY_SECTORS: u64 = 256;
/// First sector behind the copies.
pub const METADATA_END: Sectors = Sectors(1280);
/// Entries that it has room for.
pub const MAX_ENTRIES: usize = 2048;

const VERSION: u32 = 4;
const CRC_AT: usize = 24;
const AFTER_CRC: usize = 28;
const ENTRIES_AT: usize = 312;
const ENTRY_BYTES: usize = 40;
const PENDING: u16 = 1;
const ACTIVE: u16 = 2;

/// A copy that passed every check.
#[derive(Clone, Debug)]
struct Copy {
    index: usize,
    sequence: u64,
    timestamp: u64,
    bytes: Vec<u8>,
}

/// The module's CRC: the polynomial of CRC-32 with initial value 0 and no inversion at the end, over all but its own
/// field. Linux calls that `crc32_le(0, …)`; with the usual CRC it is `crc32(data, from !0) ^ !0`.
pub fn crc(copy: &[u8]) -> u32 {
    let before = copy.get(..CRC_AT).unwrap_or_default();
    let after = copy.get(AFTER_CRC..).unwrap_or_default();
    // The usual CRC inverts its state before and after, so !0 stands for a state of 0.
    let mut hash = crc32fast::Hasher::new_with_initial(u32::MAX);
    hash.update(before);
    hash.update(after);
    hash.finalize() ^ u32::MAX
}

/// What is at one copy's place: nothing of this layout, or something that cannot be used, or a copy.
fn copy_at(read: ReadBytes<'_>, index: usize) -> Result<Option<Copy>, String> {
    let offset = u64::try_from(index).unwrap_or(0).saturating_mul(COPY_SECTORS * 512);
    let bytes = read(offset, STRUCT_BYTES)?;
    if le32(&bytes, 0) != MAGIC || usize::try_from(le32(&bytes, 32)) == Ok(super::helper::STRUCT_BYTES) {
        return Ok(None);
    }
    if bytes.len() != STRUCT_BYTES {
        return Err("it ends beyond the device".into());
    }
    let (version, size) = (le32(&bytes, 4), le32(&bytes, 32));
    let (active, score) = (le32(&bytes, 296), le32(&bytes, 256));
    if version != VERSION {
        return Err(format!("version {version}, and only 4 is known"));
    }
    if usize::try_from(size) != Ok(STRUCT_BYTES) {
        return Err(format!("a structure of {size} bytes, and it should have {STRUCT_BYTES}"));
    }
    let (stored, computed) = (le32(&bytes, CRC_AT), crc(&bytes));
    if stored != computed {
        return Err(format!("its CRC is {computed:08x} and should be {stored:08x}"));
    }
    if usize::try_from(active).unwrap_or(usize::MAX) > MAX_ENTRIES {
        return Err(format!("{active} entries in use, and there is room for {MAX_ENTRIES}"));
    }
    if score > 100 {
        return Err(format!("a health score of {score}, and 100 is the most"));
    }
    Ok(Some(Copy { index, sequence: le64(&bytes, 8), timestamp: le64(&bytes, 16), bytes }))
}

/// Reads this layout. `wanted` is the copy to take instead of the newest.
///
/// # Errors
/// [`ModuleError::None`] when no copy has the magic, [`ModuleError::Unusable`] when none passes.
pub fn read(read: ReadBytes<'_>, wanted: Option<usize>) -> Result<ModuleMetadata, ModuleError> {
    let mut copies = Vec::new();
    let mut wrong: Vec<(usize, String)> = Vec::new();
    let mut seen = false;
    for index in 0..COPIES {
        match copy_at(read, index) {
            Ok(Some(copy)) => copies.push(copy),
            Ok(None) => wrong.push((index, "no metadata of this layout".into())),
            Err(why) => {
                seen |= magic_at(read, index);
                wrong.push((index, why));
            }
        }
    }
    let newest = copies.iter().max_by_key(|copy| (copy.sequence, copy.timestamp, usize::MAX - copy.index));
    let Some(newest) = newest else {
        let why = wrong.into_iter().map(|(index, why)| format!("copy {index}: {why}")).collect();
        return Err(if seen { ModuleError::Unusable { layout: Layout::V4, why } } else { ModuleError::None });
    };
    let taken = match wanted {
        None => newest,
        Some(index) => copies.iter().find(|copy| copy.index == index).ok_or_else(|| {
            let why = wrong.iter().find(|(wrong, _)| *wrong == index).map(|(_, why)| why.clone());
            ModuleError::Copy { layout: Layout::V4, index, why: why.unwrap_or_else(|| "there is no such copy".into()) }
        })?,
    };
    let mut metadata = decode(taken);
    for (index, why) in wrong {
        metadata.notes.push(format!("copy {index}: {why}"));
    }
    // A person who names a copy has settled which one is right.
    let rivals: Vec<&Copy> =
        copies.iter().filter(|copy| wanted.is_none() && copy.index != taken.index && rivals(taken, copy)).collect();
    for rival in rivals {
        let what = if rival.sequence < taken.sequence { "a lower sequence, but a later time" } else { "the same age" };
        metadata.notes.push(format!(
            "copy {} (sequence {}, time {}) has {what} than copy {} that was taken (sequence {}, time {}): it may be the newer one. --from-copy takes it",
            rival.index, rival.sequence, rival.timestamp, taken.index, taken.sequence, taken.timestamp
        ));
        dispute(&mut metadata.entries, &entries_of(rival));
    }
    Ok(metadata)
}

fn magic_at(read: ReadBytes<'_>, index: usize) -> bool {
    let offset = u64::try_from(index).unwrap_or(0).saturating_mul(COPY_SECTORS * 512);
    // Where the whole copy cannot be read, its first sector may.
    read(offset, 512).is_ok_and(|head| le32(&head, 0) == MAGIC && le32(&head, 32) != 2048)
}

/// Whether another copy may be as new as the one that was taken, or newer, and says something else.
fn rivals(taken: &Copy, other: &Copy) -> bool {
    let later = other.sequence < taken.sequence && other.timestamp > taken.timestamp;
    let same_age = other.sequence == taken.sequence && other.timestamp == taken.timestamp;
    later || (same_age && entries_of(taken) != entries_of(other))
}

/// Marks what the other copy does not have, or has elsewhere; and adds what only it has.
fn dispute(entries: &mut Vec<Entry>, others: &[Entry]) {
    let place = |entries: &[Entry]| -> BTreeMap<Sectors, Sectors> {
        entries.iter().map(|entry| (entry.original, entry.slot)).collect()
    };
    let (mine, theirs) = (place(entries), place(others));
    for entry in entries.iter_mut().filter(|entry| theirs.get(&entry.original) != mine.get(&entry.original)) {
        entry.standing.disputed = true;
    }
    let missing = others.iter().filter(|other| !mine.contains_key(&other.original)).copied();
    let disputed: Vec<Entry> =
        missing.map(|entry| Entry { standing: Standing { disputed: true, ..entry.standing }, ..entry }).collect();
    entries.extend(disputed);
}

fn entries_of(copy: &Copy) -> Vec<Entry> {
    let active = usize::try_from(le32(&copy.bytes, 296)).unwrap_or(0);
    let table = copy.bytes.get(ENTRIES_AT..).unwrap_or_default();
    let rows = table.chunks_exact(ENTRY_BYTES).take(MAX_ENTRIES).enumerate();
    rows.filter_map(|(index, row)| {
        let flags = le16(row, 34);
        let marked = flags & (PENDING | ACTIVE) != 0;
        let standing = Standing {
            pending: flags & PENDING != 0,
            inactive: index < active && !marked,
            uncounted: index >= active && marked,
            ..Standing::default()
        };
        let (original, slot) = (Sectors(le64(row, 0)), Sectors(le64(row, 8)));
        let entry = Entry { index, original, slot, time: le64(row, 16), standing };
        (index < active || marked).then_some(entry)
    })
    .collect()
}

fn decode(copy: &Copy) -> ModuleMetadata {
    let bytes = &copy.bytes;
    let names = [("main UUID", 40, 37), ("spare UUID", 77, 37), ("model", 176, 64)];
    let start = u64::try_from(copy.index).unwrap_or(0).saturating_mul(COPY_SECTORS);
    let mut notes = Vec::new();
    if le32(bytes, 136) != 512 {
        notes.push(format!("it records sectors of {} bytes; the module knew only 512", le32(bytes, 136)));
    }
    ModuleMetadata {
        layout: Layout::V4,
        copy: (copy.index, Sectors(start)),
        main_sectors: Sectors(le64(bytes, 120)),
        spare_sectors: Sectors(le64(bytes, 128)),
        names: names.into_iter().filter_map(|(name, at, len)| Some((name, text(bytes, at, len)?))).collect(),
        entries: entries_of(copy),
        metadata_end: METADATA_END,
        notes,
    }
}
