//! Walking a table as the kernel would, without any code of the program that made the table.

use dm_remap::segments::{Target, TargetKind};
use dm_remap::units::DevNo;

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
    let line = table
        .partition_point(|t| t.start.0 <= sector)
        .checked_sub(1)?;
    let target = &table[line];
    let into = sector - target.start.0;
    if into >= target.len.0 {
        return None;
    }
    Some(match target.kind {
        TargetKind::Linear { device, offset } | TargetKind::Dust { device, offset, .. } => {
            Goes::To(device, offset.0 + into)
        }
        TargetKind::FlakeyErrorReads { device, offset } => Goes::ReadsFail(device, offset.0 + into),
        TargetKind::Error => Goes::Nowhere,
        TargetKind::Other { .. } => Goes::Elsewhere,
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
        if let TargetKind::Linear { device, offset }
        | TargetKind::FlakeyErrorReads { device, offset } = target.kind
        {
            assert_eq!(offset.0 % block, 0, "{target} leads into a block");
            assert!(
                offset.0 + target.len.0 <= size_of(device),
                "{target} leads outside"
            );
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
        (
            TargetKind::Linear {
                device: a,
                offset: from,
            },
            TargetKind::Linear {
                device: b,
                offset: to,
            },
        ) => a == b && from.0 + first.len.0 == to.0,
        _ => false,
    }
}

/// The sectors worth looking at in `table` and around the given edges: all of them if there are few, else the first
/// and last sector of every line, their neighbours, and the same for `edges`.
pub fn interesting(table: &[Target], len: u64, edges: impl IntoIterator<Item = u64>) -> Vec<u64> {
    if len <= 20_000 {
        return (0..len).collect();
    }
    let lines = table
        .iter()
        .flat_map(|t| [t.start.0, t.start.0 + t.len.0 / 2]);
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
