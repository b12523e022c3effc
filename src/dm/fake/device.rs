//! A dm device of the fake and its tables.

use super::dust::Dust;
use super::stats::Stats;
use crate::segments::{Target, TargetKind};
use crate::units::{DevNo, Sectors};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// A table that was loaded: contiguous from sector 0, not empty.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) targets: Vec<Target>,
    pub(super) read_only: bool,
    /// The `dust` targets by their first sector.
    pub(super) dust: BTreeMap<u64, Dust>,
    pub(super) len: u64,
}

impl Table {
    /// Checks what the kernel checks at LOAD without looking at the devices.
    pub(super) fn new(targets: &[Target], read_only: bool) -> Result<Table, Errno> {
        let mut dust = BTreeMap::new();
        let mut next = Sectors::ZERO;
        for target in targets {
            if target.start != next || target.len == Sectors::ZERO {
                return Err(Errno::EINVAL);
            }
            next = next.checked_add(target.len).ok_or(Errno::EINVAL)?;
            match target.kind {
                TargetKind::Dust { block_bytes, .. } => {
                    dust.insert(target.start.0, Dust::new(block_bytes)?);
                }
                TargetKind::Other(_) => return Err(Errno::EINVAL),
                _ => (),
            }
        }
        if targets.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(Table { targets: targets.to_vec(), read_only, dust, len: next.0 })
    }

    /// The target that serves `sector`.
    pub(super) fn find(&self, sector: Sectors) -> Option<&Target> {
        let after = self.targets.partition_point(|t| t.start <= sector);
        let target = self.targets.get(after.checked_sub(1)?)?;
        (sector.0 < self.len).then_some(target)
    }

    /// Every device that it names, once.
    pub(super) fn devices(&self) -> BTreeSet<DevNo> {
        self.targets.iter().filter_map(|t| place(&t.kind)).map(|(device, _)| device).collect()
    }

    /// Those that a flush goes to, each once: `switch` asks for none.
    pub(super) fn flushed_devices(&self) -> BTreeSet<DevNo> {
        let asks = self.targets.iter().filter(|t| !matches!(t.kind, TargetKind::Switch { .. }));
        asks.filter_map(|t| place(&t.kind)).map(|(device, _)| device).collect()
    }
}

/// The device and first sector that a target passes I/O to.
pub(super) fn place(kind: &TargetKind) -> Option<(DevNo, Sectors)> {
    match kind {
        TargetKind::Linear { device, offset }
        | TargetKind::FlakeyErrorReads { device, offset }
        | TargetKind::Dust { device, offset, .. }
        | TargetKind::Switch { device, offset } => Some((*device, *offset)),
        TargetKind::Error | TargetKind::Other(_) => None,
    }
}

/// A dm device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) uuid: String,
    pub(super) devno: DevNo,
    pub(super) suspended: bool,
    pub(super) active: Option<Table>,
    pub(super) inactive: Option<Table>,
    /// Whether a table was ever loaded: the first one is checked at LOAD.
    pub(super) had_table: bool,
    /// Opens by others than tables.
    pub(super) held: u32,
    pub(super) stats: Stats,
}

impl Device {
    /// A device without a table.
    pub(super) fn new(uuid: &str, devno: DevNo) -> Device {
        Device {
            uuid: uuid.into(),
            devno,
            suspended: false,
            active: None,
            inactive: None,
            had_table: false,
            held: 0,
            stats: Stats::default(),
        }
    }

    /// Size in sectors: that of the active table.
    pub(super) fn len(&self) -> u64 {
        self.active.as_ref().map_or(0, |table| table.len)
    }

    /// Whether either table names `devno`.
    pub(super) fn uses(&self, devno: DevNo) -> bool {
        [&self.active, &self.inactive]
            .into_iter()
            .flatten()
            .any(|table| table.targets.iter().any(|t| place(&t.kind).is_some_and(|p| p.0 == devno)))
    }
}
