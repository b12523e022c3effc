//! A spare that is given up: what it cannot read any more counts as lost, whatever the reason.
//!
//! Invariant: used only where a person has said so by name. Everywhere else trouble with a device, its cable or its
//! controller says nothing about sectors, and never becomes a remap.
//!
//! Invariant: what still reads is read, unless the device is gone, or neither several places in a row answer nor those
//! that did before.

use super::Member;
use crate::block::buffer::AlignedBuffer;
use crate::block::judge::spread_probes;
use crate::block::{Disk, DiskError, FaultClass, Operation};
use crate::units::{SECTOR_SIZE, Sectors};
use nix::errno::Errno;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places in a row that may fail for reasons that are not about sectors before it is asked whether the device is there at
/// all: each request can take as long as the kernel waits for a disk. A place that is tried again is one place.
const PATIENCE: usize = 4;

/// Places that are asked then, spread over the device; beside them the one that read last.
const PROBES: u32 = 4;

/// The device of a spare that is given up.
#[derive(Debug)]
struct GivenUp {
    inner: Arc<dyn Disk>,
    state: Mutex<State>,
}

/// Made in full beforehand: reads in the window allocate nothing.
#[derive(Debug)]
struct State {
    /// First sectors of the places that failed in a row.
    failed: [Option<Sectors>; PATIENCE],
    /// The place that read last, and then places spread over the device.
    probes: Vec<Sectors>,
    /// One logical block.
    block: AlignedBuffer,
    /// Nothing answers any more: no request is made.
    dead: bool,
}

/// The same member, its unreadable sectors as if its disk had called them bad.
pub fn give_up(member: &Member) -> Member {
    let spread = spread_probes(&*member.disk, &[], PROBES).into_iter().map(|probe| probe.start());
    let state = State {
        failed: [None; PATIENCE],
        probes: std::iter::once(Sectors::ZERO).chain(spread).collect(),
        block: AlignedBuffer::new(member.disk.logical_block().to_usize_bytes().unwrap_or(SECTOR_SIZE)),
        dead: false,
    };
    let disk = GivenUp { inner: member.disk.clone(), state: Mutex::new(state) };
    Member { devno: member.devno, disk: Arc::new(disk) }
}

impl State {
    fn has_read(&mut self, start: Sectors) {
        self.failed = [None; PATIENCE];
        if let Some(last) = self.probes.first_mut() {
            *last = start;
        }
    }

    fn has_failed(&mut self, disk: &dyn Disk, error: &DiskError, start: Sectors) {
        if matches!(error.errno, Errno::ENXIO | Errno::ENODEV) {
            self.dead = true;
        }
        if error.class() != FaultClass::Transport || self.failed.contains(&Some(start)) {
            return;
        }
        if let Some(place) = self.failed.iter_mut().find(|place| place.is_none()) {
            *place = Some(start);
        }
        if self.failed.iter().all(Option::is_some) {
            // Whatever a sector elsewhere says, the device answers.
            let State { probes, block, .. } = self;
            let answers = probes.iter().any(|at| match disk.read(*at, block) {
                Ok(()) => true,
                Err(error) => error.class() != FaultClass::Transport,
            });
            self.dead |= !answers;
            self.failed = [None; PATIENCE];
        }
    }
}

impl GivenUp {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, start: Sectors, bytes: usize) -> DiskError {
        let len = Sectors(u64::try_from(bytes).unwrap_or(u64::MAX) / 512);
        DiskError { device: self.name().clone(), operation: Operation::Read, start, len, errno: Errno::ENODATA }
    }
}

impl Disk for GivenUp {
    fn name(&self) -> &Arc<str> {
        self.inner.name()
    }
    fn size(&self) -> Sectors {
        self.inner.size()
    }
    fn logical_block(&self) -> Sectors {
        self.inner.logical_block()
    }
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        let mut state = self.state();
        if state.dead {
            return Err(self.lost(start, buf.len()));
        }
        match self.inner.read(start, buf) {
            Ok(()) => {
                state.has_read(start);
                Ok(())
            }
            Err(error) => {
                state.has_failed(&*self.inner, &error, start);
                Err(self.lost(start, buf.len()))
            }
        }
    }
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        self.inner.write(start, buf)
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ram::{Bad, RamDisk};
    use crate::units::{DevNo, Range};

    #[test]
    fn what_reads_is_read_and_nobody_waits_for_the_dead() {
        let disk = Arc::new(RamDisk::new("spare", Sectors(100)));
        let bad = |errno| disk.set_bad(Range::new(Sectors(10), Sectors(2)).unwrap(), Bad::Reads(errno));
        let member = Member { devno: DevNo { major: 8, minor: 16 }, disk: disk.clone() };
        let given_up = give_up(&member).disk;
        let mut buf = [0; 512];
        let mut read = |sector| given_up.read(Sectors(sector), &mut buf).map_err(|e| e.errno);
        bad(Errno::ETIMEDOUT);
        for _ in 0..10 {
            assert_eq!((read(10), read(9)), (Err(Errno::ENODATA), Ok(())), "one bad place is not the end");
        }
        bad(Errno::EIO);
        for _ in 0..10 {
            assert_eq!(read(10), Err(Errno::ENODATA));
        }
        assert_eq!(read(9), Ok(()), "nor is a place that fails again and again by itself");
        bad(Errno::ENXIO);
        assert_eq!((read(10), read(9)), (Err(Errno::ENODATA), Err(Errno::ENODATA)), "gone is gone");
        let gone = give_up(&Member::gone("spare 1", DevNo { major: 8, minor: 16 })).disk;
        assert_eq!(gone.read(Sectors(5), &mut buf).map_err(|e| e.errno), Err(Errno::ENODATA));
        assert_eq!(gone.write(Sectors(5), &buf).map_err(|e| e.errno), Err(Errno::ENXIO));
    }

    #[test]
    fn many_bad_places_are_not_the_end_and_a_device_that_says_nothing_is() {
        let disk = Arc::new(RamDisk::new("spare", Sectors(400)));
        let member = Member { devno: DevNo { major: 8, minor: 16 }, disk: disk.clone() };
        let mut buf = [0; 512];
        disk.set_bad(Range::new(Sectors(20), Sectors(60)).unwrap(), Bad::Reads(Errno::ETIMEDOUT));
        let given_up = give_up(&member).disk;
        for sector in 0..400 {
            for _ in 0..4 {
                let bad = (20..80).contains(&sector);
                assert_eq!(given_up.read(Sectors(sector), &mut buf).is_err(), bad, "{sector}");
            }
        }
        disk.set_failing(Some(Errno::ETIMEDOUT));
        for sector in 100..104 {
            assert!(given_up.read(Sectors(sector), &mut buf).is_err());
        }
        disk.set_failing(None);
        assert!(given_up.read(Sectors(104), &mut buf).is_err(), "it is asked no more");
    }
}
