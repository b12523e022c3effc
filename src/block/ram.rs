//! A disk in memory for tests: it knows live from durable, has bad sectors, and can lose power at any instant.
//!
//! Invariants:
//! - what a reader sees is the *live* state; what survives a power cut is the *durable* state plus any subset of
//!   the sectors written since the last flush ([`RamDisk::after_power_cut`]);
//! - once the shared [`Power`] is off, no request on any disk succeeds or changes anything;
//! - storage is sparse: a disk of many tebibytes costs what was written to it.

use super::{Disk, DiskError, Operation, check_request};
use crate::units::{Range, SECTOR_SIZE, Sectors};
use nix::errno::Errno;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a bad sector behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Reads fail with the errno until the sector is written, as on a drive that reallocates.
    UntilWritten(Errno),
    /// Reads fail with the errno for ever, writes seem to succeed (scsi_debug does this).
    Reads(Errno),
    /// Reads and writes fail with the errno.
    ReadsAndWrites(Errno),
    /// Nothing fails, and writes are forgotten.
    Lies,
}

/// Power that several disks share: it goes off at a chosen write or flush.
#[derive(Debug, Default)]
pub struct Power {
    state: Mutex<PowerState>,
}

#[derive(Debug, Default)]
struct PowerState {
    /// Writes and flushes so far, on all disks.
    operations: u64,
    /// The operation at which the power goes off: it is the first that does not complete.
    cut_at: Option<u64>,
    off: bool,
}

impl Power {
    /// Power that stays on.
    pub fn new() -> Arc<Power> {
        Arc::default()
    }

    /// Power that goes off at write or flush number `operation`, counted from 0 over all disks.
    pub fn cut_at(operation: u64) -> Arc<Power> {
        let power = Power::default();
        lock(&power.state).cut_at = Some(operation);
        Arc::new(power)
    }

    /// Writes and flushes that were asked for so far.
    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        lock(&self.state).off
    }

    /// Takes note of a write or flush; what to do with it.
    fn step(&self) -> Step {
        let mut state = lock(&self.state);
        if state.off {
            return Step::Off;
        }
        let now = state.operations;
        state.operations += 1;
        if state.cut_at == Some(now) {
            state.off = true;
            return Step::Cut;
        }
        Step::On
    }
}

enum Step {
    /// Do it.
    On,
    /// The power goes off during this one.
    Cut,
    /// The power is off already.
    Off,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type SectorData = [u8; SECTOR_SIZE];

/// Sectors by number; absent ones are zero.
pub type Image = HashMap<u64, SectorData>;

#[derive(Debug, Default)]
struct State {
    live: Image,
    durable: Image,
    /// Sectors written since the last flush, in order.
    pending: Vec<(u64, SectorData)>,
    bad: BTreeMap<u64, Bad>,
    /// Errno that every request fails with, as when the device is gone.
    failing: Option<Errno>,
    /// Requests that fail from the given count of writes and flushes of this disk on, for a number of times.
    fail_operations: Option<(u64, u64, Errno)>,
    operations: u64,
    /// Reads that fail, counted as above.
    fail_reads: Option<(u64, u64, Errno)>,
    read_operations: u64,
    /// Sectors that any read has asked for.
    reads: u64,
}

/// A disk in memory.
#[derive(Debug)]
pub struct RamDisk {
    name: Arc<str>,
    size: Sectors,
    logical_block: Sectors,
    power: Arc<Power>,
    state: Mutex<State>,
}

impl RamDisk {
    /// A zeroed disk of `size` sectors with 512-byte blocks and power of its own.
    pub fn new(name: &str, size: Sectors) -> RamDisk {
        RamDisk::with_power(name, size, Sectors(1), Power::new())
    }

    /// A zeroed disk with the given logical block size (sectors), sharing `power` with others.
    pub fn with_power(name: &str, size: Sectors, block: Sectors, power: Arc<Power>) -> RamDisk {
        RamDisk { name: name.into(), size, logical_block: block, power, state: Mutex::default() }
    }

    /// A disk that holds `image`, all of it durable.
    pub fn from_image(name: &str, size: Sectors, block: Sectors, power: Arc<Power>, image: Image) -> RamDisk {
        let disk = RamDisk::with_power(name, size, block, power);
        {
            let mut state = lock(&disk.state);
            state.live = image.clone();
            state.durable = image;
        }
        disk
    }

    /// Makes all sectors of `range` bad.
    pub fn set_bad(&self, range: Range, kind: Bad) {
        let mut state = lock(&self.state);
        for sector in range.start().0..range.end().0 {
            state.bad.insert(sector, kind);
        }
    }

    /// Makes all sectors good again.
    pub fn clear_bad(&self) {
        lock(&self.state).bad.clear();
    }

    /// Makes every request fail with `errno`, or lets them succeed again.
    pub fn set_failing(&self, errno: Option<Errno>) {
        lock(&self.state).failing = errno;
    }

    /// Makes `count` writes or flushes of this disk fail with `errno`, from the `first` one on (counted from now).
    pub fn fail_operations(&self, first: u64, count: u64, errno: Errno) {
        let mut state = lock(&self.state);
        let from = state.operations.saturating_add(first);
        state.fail_operations = Some((from, from.saturating_add(count), errno));
    }

    /// Makes `count` reads of this disk fail with `errno`, from the `first` one on (counted from now).
    pub fn fail_reads(&self, first: u64, count: u64, errno: Errno) {
        let mut state = lock(&self.state);
        let from = state.read_operations.saturating_add(first);
        state.fail_reads = Some((from, from.saturating_add(count), errno));
    }

    /// Writes and flushes, and reads, that this disk was asked for so far.
    pub fn operations(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.operations, state.read_operations)
    }

    /// What a reader sees now, as sparse sectors.
    pub fn image(&self) -> Image {
        lock(&self.state).live.clone()
    }

    /// Sectors asked for by reads so far.
    pub fn sectors_read(&self) -> u64 {
        lock(&self.state).reads
    }

    /// Number of sectors written since the last flush.
    pub fn pending(&self) -> usize {
        lock(&self.state).pending.len()
    }

    /// What is on the platter after a power cut: everything durable, and of the sectors written since the last
    /// flush those for which `keep` (given their order) says yes.
    pub fn after_power_cut(&self, mut keep: impl FnMut(usize) -> bool) -> Image {
        let state = lock(&self.state);
        let mut image = state.durable.clone();
        for (order, (sector, data)) in state.pending.iter().enumerate() {
            if keep(order) {
                image.insert(*sector, *data);
            }
        }
        image
    }

    fn error(&self, operation: Operation, start: Sectors, bytes: usize, errno: Errno) -> DiskError {
        DiskError {
            device: self.name.clone(),
            operation,
            start,
            len: Sectors(u64::try_from(bytes / SECTOR_SIZE).unwrap_or(u64::MAX)),
            errno,
        }
    }
}

impl State {
    /// The injected failure of a write or flush, if this one is to fail; counts it.
    fn injected(&mut self) -> Option<Errno> {
        let now = self.operations;
        self.operations += 1;
        if self.failing.is_some() {
            return self.failing;
        }
        match self.fail_operations {
            Some((from, to, errno)) if (from..to).contains(&now) => Some(errno),
            _ => None,
        }
    }

    fn put(&mut self, sector: u64, data: &[u8]) {
        if let Some(Bad::Lies) = self.bad.get(&sector) {
            return;
        }
        let mut copy = [0; SECTOR_SIZE];
        for (to, from) in copy.iter_mut().zip(data) {
            *to = *from;
        }
        self.live.insert(sector, copy);
        self.pending.push((sector, copy));
        if let Some(Bad::UntilWritten(_)) = self.bad.get(&sector) {
            self.bad.remove(&sector);
        }
    }
}

impl Disk for RamDisk {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn size(&self) -> Sectors {
        self.size
    }

    fn logical_block(&self) -> Sectors {
        self.logical_block
    }

    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = check_request(self, Operation::Read, start, buf.len())?;
        let fail = |errno| Err(self.error(Operation::Read, start, buf.len(), errno));
        if self.power.is_off() {
            return fail(Errno::ENODEV);
        }
        let mut state = lock(&self.state);
        state.reads = state.reads.saturating_add(range.len().0);
        let now = state.read_operations;
        state.read_operations += 1;
        if let Some(errno) = state.failing {
            return fail(errno);
        }
        if let Some((from, to, errno)) = state.fail_reads
            && (from..to).contains(&now)
        {
            return fail(errno);
        }
        let broken = state.bad.range(range.start().0..range.end().0).find_map(|(_, kind)| match kind {
            Bad::UntilWritten(errno) | Bad::Reads(errno) | Bad::ReadsAndWrites(errno) => Some(*errno),
            Bad::Lies => None,
        });
        if let Some(errno) = broken {
            return fail(errno);
        }
        for (sector, chunk) in (range.start().0..).zip(buf.chunks_exact_mut(SECTOR_SIZE)) {
            match state.live.get(&sector) {
                Some(data) => chunk.copy_from_slice(data),
                None => chunk.fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        let range = check_request(self, Operation::Write, start, buf.len())?;
        let fail = |errno| Err(self.error(Operation::Write, start, buf.len(), errno));
        let step = self.power.step();
        let mut state = lock(&self.state);
        if matches!(step, Step::Off) {
            return fail(Errno::ENODEV);
        }
        if let Some(errno) = state.injected() {
            return fail(errno);
        }
        let broken = state.bad.range(range.start().0..range.end().0).find_map(|(sector, kind)| match kind {
            Bad::ReadsAndWrites(errno) => Some((*sector, *errno)),
            _ => None,
        });
        for (sector, chunk) in (range.start().0..).zip(buf.chunks_exact(SECTOR_SIZE)) {
            if let Some((bad, errno)) = broken
                && sector >= bad
            {
                return fail(errno);
            }
            state.put(sector, chunk);
        }
        // A write that the power cut interrupts is pending: any part of it may have landed.
        if matches!(step, Step::Cut) { fail(Errno::ENODEV) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), DiskError> {
        let step = self.power.step();
        let mut state = lock(&self.state);
        if !matches!(step, Step::On) {
            return Err(self.error(Operation::Flush, Sectors::ZERO, 0, Errno::ENODEV));
        }
        if let Some(errno) = state.injected() {
            return Err(self.error(Operation::Flush, Sectors::ZERO, 0, errno));
        }
        let State { durable, pending, .. } = &mut *state;
        for (sector, data) in pending.drain(..) {
            durable.insert(sector, data);
        }
        Ok(())
    }
}

impl<T: Disk + ?Sized> Disk for Arc<T> {
    fn name(&self) -> &Arc<str> {
        (**self).name()
    }
    fn size(&self) -> Sectors {
        (**self).size()
    }
    fn logical_block(&self) -> Sectors {
        (**self).logical_block()
    }
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        (**self).read(start, buf)
    }
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        (**self).write(start, buf)
    }
    fn flush(&self) -> Result<(), DiskError> {
        (**self).flush()
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (**self).descriptor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn only_flushed_sectors_are_sure_to_survive() {
        let disk = RamDisk::new("ram", Sectors(100));
        disk.write(Sectors(1), &[1; 512]).unwrap();
        disk.flush().unwrap();
        disk.write(Sectors(1), &[2; 1024]).unwrap();
        assert_eq!(disk.after_power_cut(|_| false)[&1], [1; 512]);
        let second_only = disk.after_power_cut(|order| order == 1);
        assert_eq!((second_only[&1], second_only[&2]), ([1; 512], [2; 512]));
    }

    #[test]
    fn nothing_works_after_the_cut() {
        let power = Power::cut_at(1);
        let disk = RamDisk::with_power("ram", Sectors(10), Sectors(1), power);
        disk.write(Sectors(0), &[1; 512]).unwrap();
        assert!(disk.flush().is_err());
        assert!(disk.write(Sectors(0), &[3; 512]).is_err());
        assert!(disk.read(Sectors(0), &mut [0; 512]).is_err());
        assert_eq!(disk.pending(), 1);
    }

    #[test]
    fn bad_sectors_behave_as_told() {
        let disk = RamDisk::new("ram", Sectors(100));
        disk.set_bad(range(5, 1), Bad::UntilWritten(Errno::ENODATA));
        disk.set_bad(range(6, 1), Bad::Reads(Errno::EIO));
        disk.set_bad(range(7, 1), Bad::ReadsAndWrites(Errno::EIO));
        let mut buf = [0; 512];
        assert_eq!(disk.read(Sectors(5), &mut buf).unwrap_err().errno, Errno::ENODATA);
        disk.write(Sectors(5), &buf).unwrap();
        disk.read(Sectors(5), &mut buf).unwrap();
        disk.write(Sectors(6), &buf).unwrap();
        assert!(disk.read(Sectors(6), &mut buf).is_err());
        assert!(disk.write(Sectors(7), &buf).is_err());
        assert!(disk.write(Sectors(100), &buf).is_err(), "beyond the end");
    }
}
