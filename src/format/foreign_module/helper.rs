//! Layout B: what the module's shell helper wrote: 512 bytes in five places, without entries and without a CRC.
//!
//! Invariant: it is told from layout A, whose magic it has, by the size field. Sector 1024 is a place of both.

use super::{Layout, ModuleError, ModuleMetadata, ReadBytes, le32, le64, text, v4};
use crate::units::Sectors;

/// What its size field says.
pub const STRUCT_BYTES: usize = 2048;
/// Where its copies are.
pub const STARTS: [Sectors; 5] = [Sectors(0), Sectors(1024), Sectors(2048), Sectors(4096), Sectors(8192)];

/// Whether a copy of this layout begins at a sector.
pub(super) fn is_at(read: ReadBytes<'_>, sector: u64) -> bool {
    head_at(read, Sectors(sector)).is_ok_and(|head| head.is_some())
}

fn head_at(read: ReadBytes<'_>, start: Sectors) -> Result<Option<Vec<u8>>, String> {
    let offset = start.to_bytes().map_or(u64::MAX, |bytes| bytes.0);
    let head = read(offset, 512)?;
    let ours = head.len() == 512 && le32(&head, 0) == v4::MAGIC && usize::try_from(le32(&head, 32)) == Ok(STRUCT_BYTES);
    Ok(ours.then_some(head))
}

/// Reads this layout. `wanted` is the copy to take instead of the first.
///
/// # Errors
/// [`ModuleError::None`] when no copy is there, [`ModuleError::Copy`] when the wanted one is not.
pub fn read(read: ReadBytes<'_>, wanted: Option<usize>) -> Result<ModuleMetadata, ModuleError> {
    let mut copies = Vec::new();
    let mut notes = Vec::new();
    for (index, start) in STARTS.into_iter().enumerate() {
        match head_at(read, start) {
            Ok(Some(head)) => copies.push((index, start, head)),
            Ok(None) => notes.push(format!("copy {index}: no metadata of this layout")),
            Err(why) => notes.push(format!("copy {index}: {why}")),
        }
    }
    let Some((_, _, first)) = copies.first().cloned() else { return Err(ModuleError::None) };
    let taken = copies.iter().find(|(index, _, _)| wanted.is_none_or(|wanted| wanted == *index));
    let Some((index, start, head)) = taken else {
        let (index, why) = (wanted.unwrap_or(0), "it is not there".into());
        return Err(ModuleError::Copy { layout: Layout::Helper, index, why });
    };
    if copies.iter().any(|(_, _, head)| head != &first) {
        notes.push("its copies differ, and it has no CRC that could tell which is right".into());
    }
    let names = [("main UUID", 40, 37), ("spare UUID", 77, 37), ("main path", 144, 128), ("spare path", 272, 128)];
    Ok(ModuleMetadata {
        layout: Layout::Helper,
        copy: (*index, *start),
        main_sectors: Sectors(le64(head, 114)),
        spare_sectors: Sectors(le64(head, 122)),
        names: names.into_iter().filter_map(|(name, at, len)| Some((name, text(head, at, len)?))).collect(),
        entries: Vec::new(),
        metadata_end: Sectors(8193),
        notes,
    })
}
