//! Whether two devices share sectors, or a disk.
//!
//! Invariant: a *yes* is certain, a *no* is not: device-mapper and md devices are known to lie on their slaves,
//! but not on which sectors of them. Two logical volumes of one volume group therefore do not overlap, although
//! both lie on the same disk.

use super::device::BlockDevice;
use super::host::{self, Host};
use crate::units::{DevNo, Range, Sectors};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Stacks deeper than this are not followed: sysfs would have to be broken.
const DEEPEST: usize = 16;

impl Host {
    /// Why data written to one device would show up in the other, as a sentence; `None` when it would not, as far
    /// as can be known.
    ///
    /// Yes: the same device; a disk and its own partition; overlapping partitions; two paths to one disk (same
    /// WWN); a device and another that is built on it, through any number of layers, loop devices over files
    /// included.
    pub fn overlap(&self, a: &BlockDevice, b: &BlockDevice) -> Option<String> {
        if let Some(why) = self.direct_overlap(a, b) {
            return Some(why);
        }
        for (upper, lower) in [(a, b), (b, a)] {
            for beneath in self.beneath(upper) {
                let Some(why) = self.direct_overlap(&beneath, lower) else {
                    continue;
                };
                let upper = upper.path.display();
                return Some(if beneath.devno == lower.devno {
                    format!("{upper} lies on {}", lower.path.display())
                } else {
                    format!("{upper} lies on {}, and {why}", beneath.path.display())
                });
            }
        }
        self.same_file(a, b)
    }

    /// Whether the two lie on a common physical disk, so that one failure could take both.
    pub fn same_disk(&self, a: &BlockDevice, b: &BlockDevice) -> bool {
        let (of_a, of_b) = (self.bottom_disks(a), self.bottom_disks(b));
        of_a.iter().any(|x| of_b.iter().any(|y| self.is_one_disk(x, y)))
    }

    /// Overlap without looking at what the devices are built on.
    fn direct_overlap(&self, a: &BlockDevice, b: &BlockDevice) -> Option<String> {
        let (path_a, path_b) = (a.path.display(), b.path.display());
        if a.devno == b.devno {
            return Some(format!("{path_a} and {path_b} are the same device"));
        }
        let ((disk_a, range_a), (disk_b, range_b)) = (a.on_disk(), b.on_disk());
        if !range_a?.overlaps(range_b?) {
            return None;
        }
        if disk_a != disk_b {
            let (whole_a, whole_b) = (self.whole(a)?, self.whole(b)?);
            return self.is_one_disk(&whole_a, &whole_b).then(|| {
                let wwn = a.identity.wwn.as_deref().unwrap_or_default();
                format!("{path_a} and {path_b} are two paths to one disk (WWN {wwn})")
            });
        }
        Some(match (a.partition.is_some(), b.partition.is_some()) {
            (true, true) => format!("{path_a} and {path_b} are partitions that overlap"),
            (true, false) => format!("{path_a} is a partition of {path_b}"),
            _ => format!("{path_b} is a partition of {path_a}"),
        })
    }

    /// The whole disk that a device is or lies on.
    fn whole(&self, device: &BlockDevice) -> Option<BlockDevice> {
        match device.partition {
            Some(part) => self.device_by_number(part.disk).ok(),
            None => Some(device.clone()),
        }
    }

    /// Whether two whole disks are one: the same number, or the same names seen through two paths.
    fn is_one_disk(&self, a: &BlockDevice, b: &BlockDevice) -> bool {
        if a.devno == b.devno {
            return true;
        }
        let (x, y) = (&a.identity, &b.identity);
        // The serial number must agree too: cheap bridges repeat a WWN.
        x.wwn.is_some() && x.wwn == y.wwn && a.size == b.size && x.serial == y.serial
    }

    /// All devices that a device is built on, through all layers, itself left out.
    fn beneath(&self, device: &BlockDevice) -> Vec<BlockDevice> {
        let mut seen = BTreeSet::from([device.devno]);
        let mut layer = vec![device.clone()];
        let mut out = Vec::new();
        for _ in 0..DEEPEST {
            let next: Vec<BlockDevice> = layer
                .iter()
                .flat_map(|upper| self.directly_beneath(upper))
                .filter(|number| seen.insert(*number))
                .filter_map(|number| self.device_by_number(number).ok())
                .collect();
            if next.is_empty() {
                break;
            }
            out.extend(next.iter().cloned());
            layer = next;
        }
        out
    }

    fn directly_beneath(&self, device: &BlockDevice) -> Vec<DevNo> {
        // A partition has no slaves: what its disk is built on counts for it.
        let (disk, _) = device.on_disk();
        let Some(folder) = self.sys_folder(disk) else {
            return Vec::new();
        };
        let slaves = host::names(&folder.join("slaves"));
        let mut out: Vec<DevNo> = slaves.iter().filter_map(|name| self.number_of(name)).collect();
        if let Some(file) = self.backing_file(&folder) {
            match self.block_number(&file) {
                Ok(Some(number)) => out.push(number),
                _ => out.extend(self.filesystem_device(&file)),
            }
        }
        out
    }

    /// The file or device that a loop device is attached to.
    fn backing_file(&self, folder: &Path) -> Option<PathBuf> {
        let file = host::text(&folder.join("loop/backing_file"))?;
        Some(self.local(Path::new(&file)))
    }

    /// Two loop devices over the same sectors of one file.
    fn same_file(&self, a: &BlockDevice, b: &BlockDevice) -> Option<String> {
        let place = |device: &BlockDevice| {
            let (disk, _) = device.on_disk();
            let folder = self.sys_folder(disk)?;
            let file = self.backing_file(&folder)?;
            let meta = fs::metadata(&file).ok()?;
            let offset = host::number(&folder.join("loop/offset")).unwrap_or(0) / 512;
            let within = device.partition.map_or(Sectors::ZERO, |part| part.start);
            let start = Sectors(offset).checked_add(within)?;
            Some((meta.dev(), meta.ino(), Range::new(start, device.size)?, file))
        };
        let (dev_a, ino_a, range_a, file) = place(a)?;
        let (dev_b, ino_b, range_b, _) = place(b)?;
        let same = dev_a == dev_b && ino_a == ino_b && range_a.overlaps(range_b);
        same.then(|| {
            let (a, b) = (a.path.display(), b.path.display());
            format!("{a} and {b} are loop devices over the same file {}", file.display())
        })
    }

    /// The whole disks at the bottom of a device's stack.
    fn bottom_disks(&self, device: &BlockDevice) -> Vec<BlockDevice> {
        let mut all = self.beneath(device);
        all.push(device.clone());
        all.iter().filter(|one| self.directly_beneath(one).is_empty()).filter_map(|one| self.whole(one)).collect()
    }
}

#[cfg(test)]
#[path = "overlap_tests.rs"]
mod tests;
