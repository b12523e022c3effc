//! Layout C: version 3, one header at sector 0 and up to 252 entries from sector 8.
//!
//! Invariant: its CRC covers its own field and so never fits; it is not looked at. What must be right is checked instead:
//! the version, the counts, and that sizes are there.

use super::{Entry, Layout, ModuleError, ModuleMetadata, ReadBytes, Standing, le32, le64};
use crate::units::Sectors;
use std::collections::BTreeSet;

/// First eight bytes.
pub const MAGIC: [u8; 8] = *b"DMREMAP3";
/// Entries that it has room for.
pub const MAX_ENTRIES: u32 = 252;
/// First sector behind the metadata: eight sectors of header, eight of entries.
pub const METADATA_END: Sectors = Sectors(16);

const ENTRIES_AT: u64 = 8 * 512;
const ENTRY_BYTES: usize = 16;

/// Reads this layout.
///
/// # Errors
/// [`ModuleError::None`] without the magic, [`ModuleError::Unusable`] when the header makes no sense.
pub fn read(read: ReadBytes<'_>) -> Result<ModuleMetadata, ModuleError> {
    let Ok(head) = read(0, 512) else { return Err(ModuleError::None) };
    if !head.starts_with(&MAGIC) {
        return Err(ModuleError::None);
    }
    let unusable = |why: String| ModuleError::Unusable { layout: Layout::V3, why: vec![why] };
    let (version, count, max) = (le32(&head, 8), le32(&head, 32), le32(&head, 36));
    let (main_sectors, spare_sectors) = (Sectors(le64(&head, 40)), Sectors(le64(&head, 48)));
    if version != 1 {
        return Err(unusable(format!("structure version {version}, and only 1 is known")));
    }
    if max > MAX_ENTRIES || count > max {
        return Err(unusable(format!("{count} entries of at most {max}; there is room for {MAX_ENTRIES}")));
    }
    if main_sectors == Sectors::ZERO || spare_sectors == Sectors::ZERO {
        return Err(unusable("the sizes of main and spare are not recorded".into()));
    }
    let count = usize::try_from(count).unwrap_or(0);
    let bytes = count.saturating_mul(ENTRY_BYTES).next_multiple_of(512);
    let table = if count == 0 { Vec::new() } else { read(ENTRIES_AT, bytes).map_err(unusable)? };
    let rows = table.chunks_exact(ENTRY_BYTES).take(count).enumerate();
    let entries: Vec<Entry> = rows
        .map(|(index, row)| {
            let (original, slot) = (Sectors(le64(row, 0)), Sectors(le64(row, 8)));
            Entry { index, original, slot, time: 0, standing: Standing::default() }
        })
        .collect();
    if entries.len() != count {
        return Err(unusable(format!("{count} entries, and the device ends after {}", entries.len())));
    }
    let mut notes = vec!["its CRC cannot be checked: the module computed it over its own field".to_string()];
    // The module never wrote a sector twice in this layout: a table that has one was damaged or written by halves.
    let mut seen = BTreeSet::new();
    let twice = entries.iter().filter(|entry| !seen.insert(entry.original)).count();
    if twice > 0 {
        notes.push(format!("{twice} of its entries name a sector that another one names too: it may be damaged"));
    }
    Ok(ModuleMetadata {
        layout: Layout::V3,
        copy: (0, Sectors::ZERO),
        main_sectors,
        spare_sectors,
        names: Vec::new(),
        entries,
        metadata_end: METADATA_END,
        notes,
    })
}
