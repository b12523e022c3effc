//! Seeing that others use a disk, from the kernel's counters of it.
//!
//! The device of a setup counts what goes through it, and a scan reads past it: whatever is counted there is of others.
//! A disk counts the scan's own reads, too: all writes are of others, and reads are compared with the scan's own at
//! moments when it has none in flight.
//!
//! Invariant: what cannot be counted counts as nobody.

use super::pace::Others;
use crate::block::counters::Counters;
use crate::block::host::Host;
use crate::units::{DevNo, Sectors};

/// Looks at the counters.
#[derive(Debug)]
pub struct Neighbours {
    host: Host,
    /// Devices that the scan does not read through.
    apart: Vec<Counted>,
    /// Disks that it does read.
    shared: Vec<Counted>,
    /// What it had read itself when the reads of the disks were last compared.
    own: Option<Sectors>,
}

#[derive(Debug)]
struct Counted {
    devno: DevNo,
    last: Option<Counters>,
    /// Reads when nothing of the scan's own was in flight.
    settled: Option<Counters>,
}

impl Neighbours {
    /// Neighbours of a scan of `device`, who come through the devices `apart` or straight to its disks.
    pub fn new(host: &Host, device: DevNo, apart: &[DevNo]) -> Neighbours {
        let counted = |devno: DevNo| Counted { devno, last: host.counters(devno), settled: None };
        let disks = host.lowest_disks(device);
        // What comes through the setup to a whole disk is seen there already.
        let shared = if disks == [device] && !apart.is_empty() { Vec::new() } else { disks };
        Neighbours {
            host: host.clone(),
            apart: apart.iter().copied().map(counted).collect(),
            shared: shared.into_iter().map(counted).collect(),
            own: None,
        }
    }
}

impl Others for Neighbours {
    fn seen(&mut self, own: Sectors, in_flight: Sectors) -> bool {
        let mut seen = false;
        for device in &mut self.apart {
            let now = self.host.counters(device.devno);
            if let (Some(now), Some(last)) = (&now, &device.last) {
                let since = now.since(last);
                seen |= now.in_flight > 0 || since.is_some_and(|s| s.reads > 0 || s.writes > 0);
            }
            device.last = now;
        }
        let quiet = in_flight == Sectors::ZERO;
        let own_since = self.own.and_then(|before| own.checked_sub(before));
        for device in &mut self.shared {
            let now = self.host.counters(device.devno);
            if let (Some(now), Some(last)) = (&now, &device.last) {
                seen |= now.since(last).is_some_and(|since| since.writes > 0);
            }
            if quiet {
                if let (Some(now), Some(before), Some(own)) = (&now, &device.settled, own_since) {
                    seen |= now.since(before).is_some_and(|since| since.sectors_read > own);
                }
                device.settled = now;
            }
            device.last = now;
        }
        if quiet {
            self.own = Some(own);
        }
        seen
    }

    fn needs_quiet(&self) -> bool {
        !self.shared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const DISK: DevNo = DevNo { major: 8, minor: 0 };
    const SETUP: DevNo = DevNo { major: 253, minor: 0 };

    fn device(root: &Path, name: &str, number: DevNo) {
        let folder = root.join("sys/devices").join(name);
        fs::create_dir_all(folder.join("slaves")).unwrap();
        fs::create_dir_all(root.join("sys/dev/block")).unwrap();
        fs::create_dir_all(root.join("sys/class/block")).unwrap();
        fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
        std::os::unix::fs::symlink(&folder, root.join("sys/dev/block").join(number.to_string())).unwrap();
        std::os::unix::fs::symlink(&folder, root.join("sys/class/block").join(name)).unwrap();
        count(root, name, (0, 0), 0, 0);
    }

    fn count(root: &Path, name: &str, (reads, sectors): (u64, u64), writes: u64, in_flight: u64) {
        let folder = root.join("sys/devices").join(name);
        fs::write(folder.join("stat"), format!("{reads} 0 {sectors} 0 {writes} 0 {} 0 {in_flight} 0 0\n", writes * 8))
            .unwrap();
        fs::write(folder.join("inflight"), format!("{in_flight} 0\n")).unwrap();
    }

    #[test]
    fn what_goes_through_the_setup_is_of_others() {
        let dir = tempfile::tempdir().unwrap();
        device(dir.path(), "sda", DISK);
        device(dir.path(), "dm-0", SETUP);
        let host = Host::under(dir.path());
        let mut neighbours = Neighbours::new(&host, DISK, &[SETUP]);
        assert!(!neighbours.needs_quiet());
        count(dir.path(), "sda", (10, 20_480), 0, 4);
        assert!(!neighbours.seen(Sectors(1), Sectors(8192)), "its own reads are not of others");
        count(dir.path(), "dm-0", (1, 8), 0, 0);
        assert!(neighbours.seen(Sectors(1), Sectors(8192)));
        assert!(!neighbours.seen(Sectors(1), Sectors(8192)));
        count(dir.path(), "dm-0", (1, 8), 0, 1);
        assert!(neighbours.seen(Sectors(1), Sectors(8192)), "one that hangs");
    }

    #[test]
    fn reads_of_the_disk_that_are_not_the_scans_own_are_of_others() {
        let dir = tempfile::tempdir().unwrap();
        device(dir.path(), "sda", DISK);
        let host = Host::under(dir.path());
        let mut neighbours = Neighbours::new(&host, DISK, &[]);
        assert!(neighbours.needs_quiet());
        assert!(!neighbours.seen(Sectors(0), Sectors(0)));
        count(dir.path(), "sda", (4, 8192), 0, 0);
        assert!(!neighbours.seen(Sectors(8192), Sectors(0)));
        count(dir.path(), "sda", (9, 16_400), 0, 4);
        assert!(!neighbours.seen(Sectors(12_000), Sectors(8192)), "with reads in flight nothing can be said");
        assert!(neighbours.seen(Sectors(16_384), Sectors(0)));
        count(dir.path(), "sda", (9, 16_400), 1, 0);
        assert!(neighbours.seen(Sectors(16_384), Sectors(2048)), "a write is never its own");
    }

    #[test]
    fn without_counters_there_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut neighbours = Neighbours::new(&Host::under(dir.path()), DISK, &[SETUP]);
        assert!(!neighbours.seen(Sectors(0), Sectors(0)));
        assert!(!neighbours.seen(Sectors(100), Sectors(0)));
    }
}
