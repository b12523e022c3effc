//! A spare that is given up: what it cannot read any more counts as lost, whatever the reason.
//!
//! Invariant: used only where a person has said so by name. Everywhere else trouble with a device, its cable or its
//! controller says nothing about sectors, and never becomes a remap.

use super::Member;
use crate::block::{Disk, DiskError, FaultClass, Operation};
use crate::units::Sectors;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Requests that may fail one after the other, for reasons that are not about sectors, before no more are made: each can
/// take as long as the kernel waits for a disk.
const PATIENCE: u32 = 4;

/// The device of a spare that is given up.
#[derive(Debug)]
struct GivenUp {
    inner: Arc<dyn Disk>,
    /// Failures in a row that were not about sectors.
    failures: AtomicU32,
}

/// The same member, its unreadable sectors as if its disk had called them bad.
pub fn give_up(member: &Member) -> Member {
    let disk = GivenUp { inner: member.disk.clone(), failures: AtomicU32::new(0) };
    Member { devno: member.devno, disk: Arc::new(disk) }
}

impl GivenUp {
    fn is_dead(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= PATIENCE
    }

    fn count(&self, error: &DiskError) {
        match error.errno {
            Errno::ENXIO | Errno::ENODEV => self.failures.store(PATIENCE, Ordering::Relaxed),
            _ if error.class() == FaultClass::Transport => drop(self.failures.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
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
        if self.is_dead() {
            return Err(self.lost(start, buf.len()));
        }
        match self.inner.read(start, buf) {
            Ok(()) => {
                self.failures.store(0, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.count(&error);
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
}
