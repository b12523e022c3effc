//! The state of the fake: what each call does, once hooks and injected refusals have had their turn.

use super::Op;
use super::device::{Device, Table, place};
use crate::block::Disk;
use crate::dm::{DeviceState, TableSlot};
use crate::segments::Target;
use crate::units::{DevNo, Sectors};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Major number of the fake's devices.
const MAJOR: u32 = 253;

/// Deepest stack of dm devices that the fake follows: a table may name its own device.
pub(super) const MAX_DEPTH: u32 = 8;

/// Everything that the fake kernel knows.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) disks: BTreeMap<DevNo, Arc<dyn Disk>>,
    pub(super) devices: BTreeMap<String, Device>,
    /// Target types that exist; all when `None`.
    pub(super) supported: Option<BTreeSet<String>>,
    pub(super) refusals: Vec<(Op, Errno, u32)>,
    pub(super) journal: Vec<String>,
    pub(super) violations: Vec<String>,
}

impl State {
    pub(super) fn register(&mut self, number: DevNo, disk: Arc<dyn Disk>) {
        self.disks.insert(number, disk);
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.devices.contains_key(name)
    }

    pub(super) fn hold(&mut self, name: &str, count: u32) {
        if let Some(device) = self.devices.get_mut(name) {
            device.held = count;
        }
    }

    /// The injected refusal of this operation, if there is one; counts it.
    pub(super) fn refusal(&mut self, op: Op) -> Option<Errno> {
        let refusal = self.refusals.iter_mut().find(|(of, _, times)| *of == op && *times > 0)?;
        refusal.2 -= 1;
        Some(refusal.1)
    }

    /// What a refused operation leaves behind.
    pub(super) fn refused(&mut self, op: Op, name: &str) {
        if let (Op::Resume | Op::Activate, Some(device)) = (op, self.devices.get_mut(name))
            && device.inactive.take().is_some()
        {
            device.suspended = true;
        }
    }

    /// Adds to the journal, unless the operation is a mere query.
    pub(super) fn note(&mut self, op: Op, name: &str, detail: &str, errno: Option<Errno>) {
        if matches!(op, Op::Version | Op::List | Op::State | Op::Table | Op::Window) {
            return;
        }
        let mut line = format!("{} {name}", op.name());
        if !detail.is_empty() {
            line.push(' ');
            line.push_str(detail);
        }
        if let Some(errno) = errno {
            line.push_str(&format!(": {errno:?}"));
        }
        self.journal.push(line);
    }

    pub(super) fn list(&self) -> Vec<(String, DevNo)> {
        self.devices.iter().map(|(name, device)| (name.clone(), device.devno)).collect()
    }

    pub(super) fn info(&self, name: &str) -> Option<DeviceState> {
        let device = self.devices.get(name)?;
        let tables = self.devices.values().filter(|other| other.uses(device.devno)).count();
        Some(DeviceState {
            name: name.into(),
            uuid: device.uuid.clone(),
            devno: device.devno,
            suspended: device.suspended,
            active: device.active.is_some(),
            inactive: device.inactive.is_some(),
            open_count: u32::try_from(tables).unwrap_or(u32::MAX).saturating_add(device.held),
            read_only: device.active.as_ref().is_some_and(|table| table.read_only),
        })
    }

    pub(super) fn create(&mut self, name: &str, uuid: &str) -> Result<DeviceState, Errno> {
        let reserved = ["control", ".", ".."].contains(&name) || name.contains('/');
        if name.is_empty() || name.len() > 127 || reserved || uuid.len() > 128 {
            return Err(Errno::EINVAL);
        }
        let uuid_taken = !uuid.is_empty() && self.devices.values().any(|d| d.uuid == uuid);
        if self.exists(name) || uuid_taken {
            return Err(Errno::EBUSY);
        }
        let taken: BTreeSet<u32> = self.devices.values().map(|d| d.devno.minor).collect();
        let minor = (0..).find(|minor| !taken.contains(minor)).ok_or(Errno::EBUSY)?;
        self.devices.insert(name.into(), Device::new(uuid, DevNo { major: MAJOR, minor }));
        self.info(name).ok_or(Errno::ENXIO)
    }

    /// Notes a LOAD that comes while a device is suspended: it needs memory, and reclaim may need that device.
    pub(super) fn check_load(&mut self, name: &str) {
        if let Some((suspended, _)) = self.devices.iter().find(|(_, d)| d.suspended) {
            self.violations.push(format!("load {name} while {suspended} is suspended"));
        }
    }

    pub(super) fn load(&mut self, name: &str, targets: &[Target], ro: bool) -> Result<(), Errno> {
        let first = !self.devices.get(name).ok_or(Errno::ENXIO)?.had_table;
        let known = |t: &Target| self.supported.as_ref().is_none_or(|s| s.contains(t.kind.name()));
        if !targets.iter().all(known) {
            return Err(Errno::EINVAL);
        }
        let table = Table::new(targets, ro)?;
        if !table.devices().iter().all(|devno| self.size_of(*devno).is_some()) {
            return Err(Errno::ENXIO);
        }
        if first {
            self.check_limits(&table)?;
        }
        let device = self.devices.get_mut(name).ok_or(Errno::ENXIO)?;
        device.inactive = Some(table);
        device.had_table = true;
        Ok(())
    }

    pub(super) fn clear(&mut self, name: &str) -> Result<(), Errno> {
        self.devices.get_mut(name).ok_or(Errno::ENXIO)?.inactive = None;
        Ok(())
    }

    pub(super) fn suspend(&mut self, name: &str) -> Result<(), Errno> {
        self.devices.get_mut(name).ok_or(Errno::ENXIO)?.suspended = true;
        Ok(())
    }

    pub(super) fn resume(&mut self, name: &str) -> Result<(), Errno> {
        let device = self.devices.get_mut(name).ok_or(Errno::ENXIO)?;
        if let Some(table) = device.inactive.take() {
            device.suspended = true;
            self.check_limits(&table)?;
            let device = self.devices.get_mut(name).ok_or(Errno::ENXIO)?;
            device.active = Some(table);
            device.suspended = false;
            return Ok(());
        }
        if device.suspended && device.active.is_none() {
            return Err(Errno::EINVAL);
        }
        device.suspended = false;
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Errno> {
        if self.info(name).ok_or(Errno::ENXIO)?.open_count > 0 {
            return Err(Errno::EBUSY);
        }
        self.devices.remove(name);
        Ok(())
    }

    pub(super) fn table(&self, name: &str, slot: TableSlot) -> Result<Vec<Target>, Errno> {
        let device = self.devices.get(name).ok_or(Errno::ENXIO)?;
        let table = match slot {
            TableSlot::Active => &device.active,
            TableSlot::Inactive => &device.inactive,
        };
        Ok(table.as_ref().map(|table| table.targets.clone()).unwrap_or_default())
    }

    pub(super) fn message(&mut self, name: &str, sector: Sectors, text: &str) -> Result<Option<String>, Errno> {
        let device = self.devices.get(name).ok_or(Errno::ENXIO)?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let first = words.first().ok_or(Errno::EINVAL)?;
        let target = device.active.as_ref().map(|table| table.find(sector).cloned());
        let size = match &target {
            _ if first.starts_with('@') => device.len(),
            None => return Err(Errno::EINVAL),
            Some(target) => {
                let (below, _) = target.as_ref().and_then(|t| place(&t.kind)).ok_or(Errno::EINVAL)?;
                self.size_of(below).unwrap_or(0)
            }
        };
        let device = self.devices.get_mut(name).ok_or(Errno::ENXIO)?;
        if first.starts_with('@') {
            return device.stats.message(&words, size);
        }
        let start = target.flatten().map(|t| t.start.0).ok_or(Errno::EINVAL)?;
        let dust = device.active.as_mut().and_then(|table| table.dust.get_mut(&start));
        dust.ok_or(Errno::EINVAL)?.message(&words, size)
    }

    /// Size in sectors of a disk or dm device; 0 without a table, `None` when there is none of that number.
    pub(super) fn size_of(&self, devno: DevNo) -> Option<u64> {
        let dm = self.devices.values().find(|device| device.devno == devno).map(Device::len);
        dm.or_else(|| self.disks.get(&devno).map(|disk| disk.size().0))
    }

    /// Logical block in sectors of a disk, or of everything below a dm device.
    pub(super) fn block_of(&self, devno: DevNo, depth: u32) -> u64 {
        if let Some(disk) = self.disks.get(&devno) {
            return disk.logical_block().0;
        }
        let device = self.devices.values().find(|device| device.devno == devno);
        match device.and_then(|d| d.active.as_ref()) {
            Some(table) if depth < MAX_DEPTH => self.block_of_table(table, depth),
            _ => 1,
        }
    }

    /// The largest logical block of the devices of a table.
    pub(super) fn block_of_table(&self, table: &Table, depth: u32) -> u64 {
        table.devices().iter().map(|d| self.block_of(*d, depth + 1)).max().unwrap_or(1)
    }

    /// What the kernel checks in `dm_calculate_queue_limits` (drivers/md/dm-table.c): every target inside its
    /// device and aligned to that device's logical block, and no block of the whole spread over two targets.
    fn check_limits(&self, table: &Table) -> Result<(), Errno> {
        let whole_block = self.block_of_table(table, 0);
        let (mut next, mut remaining) = (0, 0);
        for target in &table.targets {
            let mut block = 1;
            if let Some((device, offset)) = place(&target.kind) {
                block = self.block_of(device, 0);
                let size = self.size_of(device).ok_or(Errno::EINVAL)?;
                let end = offset.checked_add(target.len).ok_or(Errno::EINVAL)?;
                let unit = Sectors(block);
                let aligned = offset.is_multiple_of(unit) && target.len.is_multiple_of(unit);
                // The kernel lets a device of size 0 pass: it may get its size later.
                if size != 0 && (end.0 > size || !aligned) {
                    return Err(Errno::EINVAL);
                }
            }
            if remaining < target.len.0 && !Sectors(remaining).is_multiple_of(Sectors(block)) {
                return Err(Errno::EINVAL);
            }
            next = target.len.0.saturating_add(next).checked_rem(whole_block).unwrap_or(0);
            remaining = if next == 0 { 0 } else { whole_block.saturating_sub(next) };
        }
        if remaining == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
