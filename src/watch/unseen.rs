//! Failed requests that the kernel log does not name, noticed by the disk's own count of them.
//!
//! The kernel prints ten lines on failed requests in five seconds, for all disks together, and probing a few bad sectors
//! uses these up. A SCSI disk counts its failures in sysfs all the same (`ioerr_cnt`, drivers/scsi/scsi_sysfs.c): where the
//! count has grown by more than was reported, requests failed unseen.
//!
//! Invariant: a disk that does not count is never accused.

use super::kmsg::LINES_INTERVAL;
use crate::block::host::{self, Host};
use crate::units::DevNo;
use std::collections::BTreeMap;
use std::time::Duration;

/// A time in which the kernel log may leave failed requests out.
#[derive(Clone, Debug)]
pub struct Blind {
    /// When the kernel prints again.
    pub until: Duration,
    disks: BTreeMap<DevNo, Counts>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    failed: u64,
    reported: u64,
}

/// How many requests a disk has failed; `None` when it does not count them.
fn failed(host: &Host, disk: DevNo) -> Option<u64> {
    let text = host::text(&host.sys_folder(disk)?.join("device/ioerr_cnt"))?;
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

impl Blind {
    /// Begins `now`, for these disks.
    pub fn begin(host: &Host, now: Duration, disks: impl Iterator<Item = DevNo>) -> Blind {
        let count = |disk| Some((disk, Counts { failed: failed(host, disk)?, reported: 0 }));
        Blind { until: now.saturating_add(LINES_INTERVAL), disks: disks.filter_map(count).collect() }
    }

    /// A failed request was reported after all.
    pub fn reported(&mut self, disk: DevNo) {
        if let Some(counts) = self.disks.get_mut(&disk) {
            counts.reported = counts.reported.saturating_add(1);
        }
    }

    /// The disks that have failed more requests than were reported, and how many more.
    pub fn unseen(&self, host: &Host) -> Vec<(DevNo, u64)> {
        let more = |(disk, counts): (&DevNo, &Counts)| {
            let grown = failed(host, *disk)?.saturating_sub(counts.failed);
            Some((*disk, grown.checked_sub(counts.reported).filter(|unseen| *unseen > 0)?))
        };
        self.disks.iter().filter_map(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::fake_tree::Tree;

    #[test]
    fn what_is_failed_and_not_reported_is_unseen() {
        let tree = Tree::new();
        let (disk, _) = tree.ata_disk();
        tree.disk("vda", "254:0", 1000);
        let host = tree.host();
        let (sda, vda): (DevNo, DevNo) = ("8:0".parse().unwrap(), "254:0".parse().unwrap());
        let count = |n: &str| {
            tree.write(&format!("{disk}/device/ioerr_cnt"), n);
        };
        count("0x1a\n");
        let mut blind = Blind::begin(&host, Duration::from_secs(7), [sda, vda].into_iter());
        assert_eq!(blind.until, Duration::from_secs(12));
        assert_eq!(blind.unseen(&host), []);
        count("0x1d\n");
        assert_eq!(blind.unseen(&host), [(sda, 3)]);
        blind.reported(sda);
        blind.reported(vda);
        assert_eq!(blind.unseen(&host), [(sda, 2)]);
        (0..5).for_each(|_| blind.reported(sda));
        assert_eq!(blind.unseen(&host), []);
    }
}
