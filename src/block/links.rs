//! The names that udev gives devices under /dev/disk.
//!
//! Invariant: these are hints. Nothing is proven by a symlink but the partition UUID, which udev has read from
//! the partition table.

use super::host::{self, Host};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The symlinks of /dev/disk/by-id and /dev/disk/by-partuuid, by the kernel name that they lead to.
pub(super) struct Links {
    by_id: HashMap<String, String>,
    by_partuuid: HashMap<String, String>,
    folder: PathBuf,
}

impl Links {
    /// Reads both folders; empty ones when there is no udev.
    pub(super) fn load(host: &Host) -> Links {
        let folder = host.dev().join("disk");
        let mut by_id: HashMap<String, String> = HashMap::new();
        for (link, name) in read(&folder.join("by-id")) {
            match by_id.get(&name) {
                Some(known) if rank(known) <= rank(&link) => {}
                _ => {
                    by_id.insert(name, link);
                }
            }
        }
        let by_partuuid = read(&folder.join("by-partuuid")).into_iter().map(|(link, name)| (name, link)).collect();
        Links { by_id, by_partuuid, folder }
    }

    /// The best symlink in /dev/disk/by-id that leads to the device.
    pub(super) fn best_path(&self, kernel_name: &str) -> Option<PathBuf> {
        let link = self.by_id.get(kernel_name)?;
        Some(self.folder.join("by-id").join(link))
    }

    /// The partition UUID under which udev lists the device.
    pub(super) fn partition_uuid(&self, kernel_name: &str) -> Option<&str> {
        self.by_partuuid.get(kernel_name).map(String::as_str)
    }

    /// The rest of the name of a by-id link to the device that starts with `prefix`.
    pub(super) fn id_with_prefix(host: &Host, kernel_name: &str, prefix: &str) -> Option<String> {
        read(&host.dev().join("disk/by-id"))
            .into_iter()
            .filter(|(_, name)| name == kernel_name)
            .find_map(|(link, _)| link.strip_prefix(prefix).map(String::from))
    }
}

/// Pairs of symlink name and kernel name, sorted by the former.
fn read(folder: &Path) -> Vec<(String, String)> {
    host::names(folder)
        .into_iter()
        .filter_map(|link| {
            let target = fs::read_link(folder.join(&link)).ok()?;
            Some((link, host::link_target_name(&target)))
        })
        .collect()
}

/// Lower is better: a name that a person can compare with the label on the disk comes first.
fn rank(link: &str) -> (usize, usize) {
    const WORST_FIRST: [&str; 4] = ["dm-uuid-", "md-uuid-", "lvm-pv-uuid-", "wwn-"];
    // The numeric twins of names that carry model and serial.
    const NUMERIC: [&str; 6] = ["nvme-eui.", "nvme-nvme.", "nvme-uuid.", "scsi-0", "scsi-1", "scsi-3"];
    let class = if WORST_FIRST.iter().any(|p| link.starts_with(p)) {
        2
    } else if NUMERIC.iter().any(|p| link.starts_with(p)) {
        1
    } else {
        0
    };
    (class, link.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_names_come_first() {
        let mut links = ["dm-uuid-LVM-abc", "wwn-0x5000", "scsi-35000", "nvme-eui.0025", "ata-ST1000_Z1"];
        links.sort_by_key(|link| rank(link));
        assert_eq!(links[0], "ata-ST1000_Z1");
        assert!(links[1] == "scsi-35000" || links[1] == "nvme-eui.0025");
    }
}
