//! What the kernel counts of a device's I/O, and which disks a device lies on.
//!
//! Source: Documentation/block/stat.rst and Documentation/ABI/stable/sysfs-block (`inflight`).
//!
//! Invariant: a file that does not look as documented counts as absent: unknown is said to be unknown.

use super::host::{self, Host};
use crate::units::{DevNo, Sectors};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// What a device has done since it appeared, and is doing now. Requests of everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads that were completed.
    pub reads: u64,
    /// Sectors of them.
    pub sectors_read: Sectors,
    /// Milliseconds that reads have waited and run, added up over all of them. Counted modulo 2^32.
    pub read_ticks: u64,
    /// Writes that were completed.
    pub writes: u64,
    /// Sectors of them.
    pub sectors_written: Sectors,
    /// Milliseconds that writes have waited and run, added up over all of them. Counted modulo 2^32.
    pub write_ticks: u64,
    /// Requests in flight now, reads and writes.
    pub in_flight: u64,
    /// Milliseconds in which at least one request was in flight. Counted modulo 2^32.
    pub io_ticks: u64,
}

impl Counters {
    /// What was counted since `earlier`; in flight is what is so now. `None` when a counter went backwards: then it is
    /// another device, or it was taken away and put back.
    pub fn since(&self, earlier: &Counters) -> Option<Counters> {
        // The kernel prints times with 32 bits.
        let ticks = |now: u64, then: u64| now.wrapping_sub(then) & 0xffff_ffff;
        Some(Counters {
            reads: self.reads.checked_sub(earlier.reads)?,
            sectors_read: self.sectors_read.checked_sub(earlier.sectors_read)?,
            read_ticks: ticks(self.read_ticks, earlier.read_ticks),
            writes: self.writes.checked_sub(earlier.writes)?,
            sectors_written: self.sectors_written.checked_sub(earlier.sectors_written)?,
            write_ticks: ticks(self.write_ticks, earlier.write_ticks),
            in_flight: self.in_flight,
            io_ticks: ticks(self.io_ticks, earlier.io_ticks),
        })
    }

    /// How long a read took on average; `None` when there was none.
    pub fn mean_read(&self) -> Option<Duration> {
        self.read_ticks.saturating_mul(1000).checked_div(self.reads).map(Duration::from_micros)
    }

    /// How long a write took on average; `None` when there was none.
    pub fn mean_write(&self) -> Option<Duration> {
        self.write_ticks.saturating_mul(1000).checked_div(self.writes).map(Duration::from_micros)
    }
}

/// Reads the text of a device's `stat` file, and of its `inflight` file where there is one. `None` when `stat` has less
/// than the eleven numbers that every kernel writes, or either has anything but numbers.
pub fn parse(stat: &str, inflight: Option<&str>) -> Option<Counters> {
    let numbers = |text: &str| text.split_whitespace().map(|n| n.parse().ok()).collect::<Option<Vec<u64>>>();
    let stat = numbers(stat)?;
    let [reads, _, sectors_read, read_ticks, writes, _, sectors_written, write_ticks, in_flight, io_ticks, _, ..] =
        stat.as_slice()
    else {
        return None;
    };
    let in_flight = match inflight.map(numbers) {
        None => *in_flight,
        Some(now) => match now?.as_slice() {
            [reads, writes] => reads.saturating_add(*writes),
            _ => return None,
        },
    };
    Some(Counters {
        reads: *reads,
        sectors_read: Sectors(*sectors_read),
        read_ticks: *read_ticks,
        writes: *writes,
        sectors_written: Sectors(*sectors_written),
        write_ticks: *write_ticks,
        in_flight,
        io_ticks: *io_ticks,
    })
}

impl Host {
    /// What the kernel counts of a device; `None` when it is not there or does not say. A partition has counters of its
    /// own: those of its disk are those of [`Host::lowest_disks`].
    pub fn counters(&self, devno: DevNo) -> Option<Counters> {
        let folder = self.sys_folder(devno)?;
        let inflight = host::text(&folder.join("inflight"));
        parse(&host::text(&folder.join("stat"))?, inflight.as_deref())
    }

    /// The whole disks that a device lies on: of a partition its disk, of dm and md devices those of all that they are
    /// made of. A disk lies on itself, as does everything that names nothing below it (a loop device). In order of
    /// number, each once; none when the kernel does not know the device.
    pub fn lowest_disks(&self, devno: DevNo) -> Vec<DevNo> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut queue = vec![devno];
        while let Some(devno) = queue.pop() {
            if !seen.insert(devno) {
                continue;
            }
            let Some(folder) = self.sys_folder(devno) else { continue };
            let number = |folder: &Path| host::text(&folder.join("dev")).and_then(|text| text.parse::<DevNo>().ok());
            if folder.join("partition").exists() {
                queue.extend(folder.parent().and_then(number));
                continue;
            }
            let slaves = folder.join("slaves");
            let below: Vec<DevNo> = host::names(&slaves).iter().filter_map(|name| number(&slaves.join(name))).collect();
            if below.is_empty() {
                found.insert(devno);
            }
            queue.extend(below);
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::fake_tree::Tree;
    use proptest::prelude::*;

    /// Of a laptop's disk; the numbers of fields are those of kernels from 5.5, from 4.18, and before.
    const STAT: &str = "  125432    18765  9876543    54321   234567    34567 12345678   987654        2   345678  1042000     1234        0   987654      321    45678    12345";

    fn devno(text: &str) -> DevNo {
        text.parse().unwrap()
    }

    #[test]
    fn every_kernel_s_stat_is_read() {
        let expected = Counters {
            reads: 125_432,
            sectors_read: Sectors(9_876_543),
            read_ticks: 54_321,
            writes: 234_567,
            sectors_written: Sectors(12_345_678),
            write_ticks: 987_654,
            in_flight: 2,
            io_ticks: 345_678,
        };
        let words: Vec<&str> = STAT.split_whitespace().collect();
        for fields in [17, 15, 11] {
            let text = words[..fields].join(" ");
            assert_eq!(parse(&text, None), Some(expected), "{fields} fields");
            assert_eq!(parse(&text, Some("       3        4\n")), Some(Counters { in_flight: 7, ..expected }));
        }
        assert_eq!(parse(&words[..10].join(" "), None), None);
        for inflight in ["", "3", "3 4 5", "-1 2", "a b"] {
            assert_eq!(parse(STAT, Some(inflight)), None, "'{inflight}'");
        }
    }

    #[test]
    fn differences_survive_the_wrap_of_times_and_find_out_another_device() {
        let earlier = Counters { reads: 10, read_ticks: 0xffff_fff0, in_flight: 9, ..Counters::default() };
        let now = Counters { reads: 14, read_ticks: 0x10, in_flight: 1, ..Counters::default() };
        let since = now.since(&earlier).unwrap();
        assert_eq!((since.reads, since.read_ticks, since.in_flight), (4, 0x20, 1));
        assert_eq!((since.mean_read(), since.mean_write()), (Some(Duration::from_millis(8)), None));
        assert_eq!(earlier.since(&now), None);
    }

    #[test]
    fn counters_are_those_of_the_device_that_was_asked_for() {
        let tree = Tree::new();
        let (disk, part) = tree.ata_disk();
        tree.write(&format!("{disk}/stat"), STAT).write(&format!("{disk}/inflight"), "       5        6\n");
        tree.write(&format!("{part}/stat"), "1 0 8 3 2 0 16 4 0 5 6\n");
        let host = tree.host();
        assert_eq!(host.counters(devno("8:0")).unwrap().in_flight, 11);
        let part = host.counters(devno("8:1")).unwrap();
        assert_eq!((part.reads, part.sectors_read, part.writes, part.in_flight), (1, Sectors(8), 2, 0));
        assert_eq!(host.counters(devno("8:16")), None);
        tree.write(&format!("{disk}/stat"), "no numbers\n");
        assert_eq!(host.counters(devno("8:0")), None);
    }

    #[test]
    fn the_disks_below_are_found_through_partitions_dm_and_md() {
        let tree = Tree::new();
        let (sda, sda1) = tree.ata_disk();
        let sdb = tree.disk("sdb", "8:16", 1000);
        let sdc = tree.disk("sdc", "8:32", 1000);
        let raid = tree.disk("md0", "9:0", 1000);
        let raid_part = tree.partition(&raid, ("md0p1", "259:0"), 1, (8, 900));
        let volume = tree.disk("dm-0", "254:0", 1000);
        let setup = tree.disk("dm-1", "254:1", 1000);
        tree.disk("loop0", "7:0", 1000);
        tree.stack(&raid, &sda1);
        tree.stack(&raid, &sdb);
        tree.stack(&volume, &raid_part);
        tree.stack(&setup, &volume);
        tree.stack(&setup, &sdc);
        // The same disk by another way.
        tree.stack(&setup, &sda);
        let host = tree.host();
        let below = |text: &str| host.lowest_disks(devno(text)).iter().map(DevNo::to_string).collect::<Vec<_>>();
        assert_eq!(below("254:1"), ["8:0", "8:16", "8:32"]);
        assert_eq!(below("254:0"), ["8:0", "8:16"]);
        assert_eq!(below("259:0"), ["8:0", "8:16"]);
        assert_eq!(below("8:1"), ["8:0"]);
        assert_eq!(below("8:16"), ["8:16"]);
        assert_eq!(below("7:0"), ["7:0"]);
        assert_eq!(below("1:1"), Vec::<String>::new());
    }

    #[test]
    fn a_tree_that_leads_in_a_circle_ends() {
        let tree = Tree::new();
        let (one, two) = (tree.disk("dm-0", "254:0", 1000), tree.disk("dm-1", "254:1", 1000));
        tree.stack(&one, &two);
        tree.stack(&two, &one);
        assert_eq!(tree.host().lowest_disks(devno("254:0")), []);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fall_over(stat in "[0-9 a-z\n-]{0,200}", inflight in "[0-9 \n]{0,40}") {
            let _ = parse(&stat, Some(&inflight));
            let _ = parse(&stat, None);
        }
    }
}
