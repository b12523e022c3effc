//! Walking a table as the kernel would, without any code of the program that made the table.

use dm_remap::map::Map;
use dm_remap::segments::{Devices, Target, TargetKind};
use dm_remap::units::{DevNo, Range, Sectors};

/// Where a sector goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// To this sector of this device.
    To(DevNo, u64),
    /// Reads answer EIO, writes go to this sector of this device.
    ReadsFail(DevNo, u64),
    /// EIO.
    Nowhere,
    /// Into a target that no test expects.
    Elsewhere,
}

/// Where `sector` goes by `table`; `None` when no line covers it.
pub fn lead(table: &[Target], sector: u64) -> Option<Goes> {
    let line = table.partition_point(|t| t.start.0 <= sector).checked_sub(1)?;
    let target = &table[line];
    let into = sector - target.start.0;
    if into >= target.len.0 {
        return None;
    }
    Some(match target.kind {
        TargetKind::Linear { device, offset }
        | TargetKind::Switch { device, offset }
        | TargetKind::Dust { device, offset, .. } => Goes::To(device, offset.0 + into),
        TargetKind::FlakeyErrorReads { device, offset } => Goes::ReadsFail(device, offset.0 + into),
        TargetKind::Error => Goes::Nowhere,
        TargetKind::Other(_) => Goes::Elsewhere,
    })
}

/// Asserts what must hold for every table: it begins at 0, has no hole and no overlap, ends at `len`, every line
/// lies inside its device (`size_of`) on whole blocks of `block` sectors, and no line continues the one before it.
pub fn assert_sound(table: &[Target], len: u64, block: u64, size_of: impl Fn(DevNo) -> u64) {
    let mut end = 0;
    let mut before: Option<&Target> = None;
    for target in table {
        assert_eq!(target.start.0, end, "hole or overlap before {target}");
        assert!(target.len.0 > 0, "empty line {target}");
        end += target.len.0;
        assert_eq!(target.start.0 % block, 0, "{target} starts inside a block");
        assert_eq!(target.len.0 % block, 0, "{target} ends inside a block");
        if let TargetKind::Linear { device, offset } | TargetKind::FlakeyErrorReads { device, offset } = target.kind {
            assert_eq!(offset.0 % block, 0, "{target} leads into a block");
            assert!(offset.0 + target.len.0 <= size_of(device), "{target} leads outside");
        }
        if let Some(before) = before {
            assert!(!continues(before, target), "{target} continues {before}");
        }
        before = Some(target);
    }
    assert_eq!(end, len, "length of the table");
}

fn continues(first: &Target, second: &Target) -> bool {
    match (&first.kind, &second.kind) {
        (TargetKind::Error, TargetKind::Error) => true,
        (TargetKind::Linear { device: a, offset: from }, TargetKind::Linear { device: b, offset: to }) => {
            a == b && from.0 + first.len.0 == to.0
        }
        _ => false,
    }
}

/// The sectors worth looking at in `table` and around the given edges: all of them if there are few, else the first
/// and last sector of every line, their neighbours, and the same for `edges`.
pub fn interesting(table: &[Target], len: u64, edges: impl IntoIterator<Item = u64>) -> Vec<u64> {
    if len <= 20_000 {
        return (0..len).collect();
    }
    let lines = table.iter().flat_map(|t| [t.start.0, t.start.0 + t.len.0 / 2]);
    let mut out: Vec<u64> = lines
        .chain(edges)
        .flat_map(|at| [at.saturating_sub(1), at, at + 1])
        .chain([len - 1])
        .filter(|at| *at < len)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// Where a sector must go by the map.
pub fn wanted(map: &Map, devices: &Devices, unsettled: &[Range], sector: u64) -> Goes {
    let at = Sectors(sector);
    if unsettled.iter().any(|r| r.contains(at)) {
        return Goes::Nowhere;
    }
    let Some(extent) = map.extent_at(at) else {
        return Goes::To(devices.main, sector);
    };
    let spare = devices.spares[extent.slot.spare.as_usize()];
    let through = if held_anywhere(map, extent.range) { spare.held } else { spare.device };
    let place = extent.slot.start.0 + (sector - extent.range.start().0);
    match spare.device.and(through) {
        Some(devno) => Goes::To(devno, place),
        None => Goes::Nowhere,
    }
}

fn held_anywhere(map: &Map, range: Range) -> bool {
    let mut sectors = range.start().0..range.end().0;
    sectors.any(|s| map.losses().at(Sectors(s)).is_some_and(|l| l.fate.is_held()))
}

/// Asserts that `table` is sound and walks it: each sector must go where the map says, `unsettled` ones nowhere.
/// `size_of` tells the size of a device in sectors.
pub fn assert_leads_as_the_map_says(
    table: &[Target],
    map: &Map,
    devices: &Devices,
    unsettled: &[Range],
    size_of: impl Fn(DevNo) -> u64,
) {
    let len = map.main_len().0;
    assert_sound(table, len, devices.logical_block.0, size_of);
    let ranges = map.extents().map(|e| e.range).chain(unsettled.iter().copied());
    let edges = ranges.flat_map(|r| [r.start().0, r.end().0]);
    for sector in interesting(table, len, edges) {
        let found = lead(table, sector);
        assert_eq!(found, Some(wanted(map, devices, unsettled, sector)), "sector {sector}");
    }
    assert_eq!(lead(table, len), None);
}
