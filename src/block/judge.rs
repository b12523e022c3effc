//! Judging failed reads: is it the sector, or the device as a whole?
//!
//! An EIO may come from a bad sector or from anything between the platter and us (a USB bridge says EIO for all of it).
//! It is believed to be about its sector only while sectors elsewhere on the device read.
//!
//! Invariants:
//! - nothing is written, and each probe is read once, one logical block;
//! - without a probe that can be read there is no proof that the device works: that counts as a failure.

use super::buffer::AlignedBuffer;
use super::{Disk, DiskError, FaultClass, Operation};
use crate::units::{Range, SECTOR_SIZE, Sectors};
use nix::errno::Errno;

/// How many probes are enough for one judgement.
pub const PROBES: u32 = 8;

/// Reads the first logical block of each probe. `None` when more than half of them can be read: the device works.
/// Else the first probe that failed, and its error; one that failed for the cable, the controller or the like is enough.
///
/// Without probes nothing can be known: then the range is the first block of the device, which was not read, and the
/// errno `ENXIO`.
pub fn known_good_fails(disk: &dyn Disk, probes: &[Range]) -> Option<(Range, DiskError)> {
    let block = disk.logical_block();
    let mut buf = AlignedBuffer::new(block.to_usize_bytes().unwrap_or(SECTOR_SIZE));
    let (mut good, mut first) = (0usize, None);
    for probe in probes {
        match disk.read(probe.start().align_down(block), &mut buf) {
            Ok(()) => good = good.saturating_add(1),
            // Trouble on the way to the disk is never outvoted.
            Err(error) if error.class() == FaultClass::Transport => return Some((*probe, error)),
            Err(error) => {
                first.get_or_insert((*probe, error));
            }
        }
    }
    if probes.is_empty() {
        let probe = Range::new(Sectors::ZERO, block).unwrap_or(Range::MAX);
        let (device, operation) = (disk.name().clone(), Operation::Read);
        return Some((probe, DiskError { device, operation, start: Sectors::ZERO, len: block, errno: Errno::ENXIO }));
    }
    first.filter(|_| good.saturating_mul(2) <= probes.len())
}

/// At most `count` blocks spread evenly over the device, without those that touch a range of `avoid`. Fewer, or none,
/// when `avoid` covers their places or the device is small.
pub fn spread_probes(disk: &dyn Disk, avoid: &[Range], count: u32) -> Vec<Range> {
    let block = disk.logical_block();
    let step = disk.size().0.checked_div(u64::from(count)).unwrap_or(0);
    let places = (0..u64::from(count)).map(|n| Sectors(step.saturating_mul(n)).align_down(block));
    let mut probes: Vec<Range> = places.filter_map(|at| Range::new(at, block)).collect();
    probes.dedup();
    probes.retain(|probe| probe.end() <= disk.size() && !avoid.iter().any(|range| range.overlaps(*probe)));
    probes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ram::{Bad, Power, RamDisk};

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn probes_are_spread_and_stay_away_from_what_is_suspected() {
        let disk = RamDisk::new("d", Sectors(800));
        let starts =
            |avoid: &[Range]| -> Vec<u64> { spread_probes(&disk, avoid, PROBES).iter().map(|p| p.start().0).collect() };
        assert_eq!(starts(&[]), [0, 100, 200, 300, 400, 500, 600, 700]);
        assert_eq!(starts(&[range(0, 1), range(250, 151), range(701, 9)]), [100, 200, 500, 600, 700]);
        assert_eq!(starts(&[range(0, 800)]), Vec::<u64>::new());
        assert_eq!(spread_probes(&disk, &[], 0), []);
    }

    #[test]
    fn probes_are_whole_blocks_inside_the_device_and_all_different() {
        for size in [8, 16, 24, 80, 1000] {
            let disk = RamDisk::with_power("d", Sectors(size), Sectors(8), Power::new());
            let probes = spread_probes(&disk, &[], PROBES);
            assert!(!probes.is_empty());
            assert!(probes.windows(2).all(|w| w[0].end() <= w[1].start()), "{probes:?}");
            assert!(probes.iter().all(|p| p.len() == Sectors(8) && p.end() <= Sectors(size)), "{probes:?}");
            assert_eq!(known_good_fails(&disk, &probes), None);
        }
    }

    #[test]
    fn a_device_fails_when_half_of_its_probes_do() {
        let disk = RamDisk::new("d", Sectors(800));
        let probes = spread_probes(&disk, &[], PROBES);
        for bad in 0..=8 {
            disk.clear_bad();
            for probe in probes.iter().skip(1).take(bad) {
                disk.set_bad(*probe, Bad::Reads(Errno::EIO));
            }
            if bad == 8 {
                disk.set_bad(probes[0], Bad::Reads(Errno::ENODATA));
            }
            let failed = known_good_fails(&disk, &probes).map(|(probe, error)| (probe, error.start, error.errno));
            let expected = match bad {
                0..4 => None,
                8 => Some((probes[0], Sectors(0), Errno::ENODATA)),
                _ => Some((probes[1], Sectors(100), Errno::EIO)),
            };
            assert_eq!(failed, expected, "{bad} bad probes");
        }
    }

    #[test]
    fn without_probes_nothing_is_proven_and_nothing_is_read() {
        let disk = RamDisk::new("d", Sectors(800));
        let (probe, error) = known_good_fails(&disk, &[]).unwrap();
        assert_eq!((probe, error.errno), (range(0, 1), Errno::ENXIO));
        assert_eq!(disk.sectors_read(), 0);
    }
}
