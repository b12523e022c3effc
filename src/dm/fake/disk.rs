//! A dm device of the fake as a disk: requests go through the active table, split where the kernel splits them.

use super::device::place;
use super::lock;
use super::state::{MAX_DEPTH, State};
use crate::block::{Disk, DiskError, Operation, check_request};
use crate::segments::TargetKind;
use crate::units::{DevNo, Range, Sectors};
use nix::errno::Errno;
use std::sync::{Arc, Mutex};

/// I/O to a dm device of the fake, by name: it follows reloads, and a removed device answers `ENXIO`.
/// A request to a suspended device, at any depth, fails with `EAGAIN` and changes nothing.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
    name: Arc<str>,
}

/// A part of a request: where it goes, or how it fails.
struct Part {
    bytes: usize,
    end: Result<(Arc<dyn Disk>, Sectors), Errno>,
}

impl FakeDisk {
    pub(super) fn new(state: Arc<Mutex<State>>, name: &str) -> FakeDisk {
        FakeDisk { state, name: name.into() }
    }

    fn error(&self, operation: Operation, start: Sectors, bytes: usize, errno: Errno) -> DiskError {
        let len = Sectors(u64::try_from(bytes / 512).unwrap_or(u64::MAX));
        DiskError { device: self.name.clone(), operation, start, len, errno }
    }

    /// The parts of a request, in order. Dust blocks that it writes are healed here, as the kernel does.
    fn parts(&self, operation: Operation, start: Sectors, bytes: usize) -> Result<Vec<Part>, DiskError> {
        let fail = |errno| self.error(operation, start, bytes, errno);
        let write = operation == Operation::Write;
        if !lock(&self.state).exists(&self.name) {
            return Err(fail(Errno::ENXIO));
        }
        let range = check_request(self, operation, start, bytes)?;
        let mut state = lock(&self.state);
        let device = state.devices.get(&*self.name).ok_or_else(|| fail(Errno::ENXIO))?;
        if write && device.active.as_ref().is_some_and(|table| table.read_only) {
            return Err(fail(Errno::EPERM));
        }
        let devno = device.devno;
        // A look ahead first: a request that would have to wait changes nothing.
        let mut parts = Vec::new();
        state.resolve(devno, range, write, false, 0, &mut parts);
        if parts.iter().any(|part| matches!(part.end, Err(Errno::EAGAIN))) {
            return Err(fail(Errno::EAGAIN));
        }
        parts.clear();
        state.resolve(devno, range, write, true, 0, &mut parts);
        Ok(parts)
    }

    /// Counts a request in dm-stats once it has ended, well or badly.
    fn count(&self, start: Sectors, bytes: usize, write: bool) {
        let len = Sectors(u64::try_from(bytes / 512).unwrap_or(u64::MAX));
        if let Some(range) = Range::new(start, len)
            && let Some(device) = lock(&self.state).devices.get_mut(&*self.name)
        {
            device.stats.count(range, write);
        }
    }
}

impl State {
    /// Splits a request to `devno` until every part is on a disk or has failed.
    fn resolve(&mut self, devno: DevNo, range: Range, write: bool, commit: bool, depth: u32, out: &mut Vec<Part>) {
        let whole = |end| Part { bytes: range.len().to_usize_bytes().unwrap_or(0), end };
        let Some(device) = self.devices.values_mut().find(|device| device.devno == devno) else {
            let disk = self.disks.get(&devno).cloned().ok_or(Errno::ENODEV);
            out.push(whole(disk.map(|disk| (disk, range.start()))));
            return;
        };
        if device.suspended {
            out.push(whole(Err(Errno::EAGAIN)));
            return;
        }
        if depth >= MAX_DEPTH || range.end().0 > device.len() {
            out.push(whole(Err(Errno::EIO)));
            return;
        }
        let mut below = Vec::new();
        let mut next = range.start();
        while let Some(rest) = Range::between(next, range.end()) {
            let (part, goes) = device.map(rest, write, commit);
            below.push((part, goes));
            next = part.end();
        }
        for (part, goes) in below {
            match goes {
                Ok((to, start)) => match Range::new(start, part.len()) {
                    Some(there) => self.resolve(to, there, write, commit, depth + 1, out),
                    None => out.push(whole(Err(Errno::EIO))),
                },
                Err(errno) => {
                    out.push(Part { bytes: part.len().to_usize_bytes().unwrap_or(0), end: Err(errno) });
                }
            }
        }
    }

    /// The disks below `devno` that a flush reaches, each once; `EAGAIN` when one on the way is suspended.
    fn flush_ends(&self, devno: DevNo, depth: u32, out: &mut Vec<(DevNo, Arc<dyn Disk>)>) -> Result<(), Errno> {
        let Some(device) = self.devices.values().find(|device| device.devno == devno) else {
            let disk = self.disks.get(&devno).ok_or(Errno::ENODEV)?;
            if !out.iter().any(|(number, _)| *number == devno) {
                out.push((devno, disk.clone()));
            }
            return Ok(());
        };
        if device.suspended {
            return Err(Errno::EAGAIN);
        }
        if depth < MAX_DEPTH
            && let Some(table) = &device.active
        {
            for below in table.flushed_devices() {
                self.flush_ends(below, depth + 1, out)?;
            }
        }
        Ok(())
    }
}

impl super::device::Device {
    /// The first part of `rest` that goes to one place, and that place.
    fn map(&mut self, rest: Range, write: bool, commit: bool) -> (Range, Result<(DevNo, Sectors), Errno>) {
        let Some(table) = &mut self.active else {
            return (rest, Err(Errno::EIO));
        };
        let Some(target) = table.find(rest.start()).cloned() else {
            return (rest, Err(Errno::EIO));
        };
        let within = rest.start().saturating_sub(target.start);
        let mut len = target.len.saturating_sub(within).min(rest.len());
        let goes = place(&target.kind).and_then(|(to, at)| Some((to, at.checked_add(within)?)));
        let mut verdict = Ok(());
        match (&target.kind, goes, table.dust.get_mut(&target.start.0)) {
            (TargetKind::Dust { .. }, Some((_, at)), Some(dust)) => {
                let into_block = within.0.checked_rem(dust.block).unwrap_or(0);
                len = len.min(Sectors(dust.block.saturating_sub(into_block)));
                verdict = dust.judge(at.0, write, commit);
            }
            (TargetKind::FlakeyErrorReads { .. }, ..) if !write => verdict = Err(Errno::EIO),
            _ => (),
        }
        let part = Range::new(rest.start(), len).unwrap_or(rest);
        (part, verdict.and(goes.ok_or(Errno::EIO)))
    }
}

impl Disk for FakeDisk {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn size(&self) -> Sectors {
        Sectors(lock(&self.state).devices.get(&*self.name).map_or(0, |device| device.len()))
    }

    fn logical_block(&self) -> Sectors {
        let state = lock(&self.state);
        let table = state.devices.get(&*self.name).and_then(|device| device.active.as_ref());
        Sectors(table.map_or(1, |table| state.block_of_table(table, 0)))
    }

    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        let len = buf.len();
        let parts = self.parts(Operation::Read, start, len)?;
        let (mut rest, mut result) = (buf, Ok(()));
        for part in parts {
            let (here, later) = rest.split_at_mut_checked(part.bytes).unwrap_or_default();
            let done = part.end.and_then(|(disk, at)| disk.read(at, here).map_err(|e| e.errno));
            result = result.and(done);
            rest = later;
        }
        self.count(start, len, false);
        result.map_err(|errno| self.error(Operation::Read, start, len, errno))
    }

    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        let (mut rest, mut result) = (buf, Ok(()));
        for part in self.parts(Operation::Write, start, buf.len())? {
            let (here, later) = rest.split_at_checked(part.bytes).unwrap_or_default();
            let done = part.end.and_then(|(disk, at)| disk.write(at, here).map_err(|e| e.errno));
            result = result.and(done);
            rest = later;
        }
        self.count(start, buf.len(), true);
        result.map_err(|errno| self.error(Operation::Write, start, buf.len(), errno))
    }

    fn flush(&self) -> Result<(), DiskError> {
        let fail = |errno| self.error(Operation::Flush, Sectors::ZERO, 0, errno);
        let mut ends = Vec::new();
        {
            let state = lock(&self.state);
            let device = state.devices.get(&*self.name).ok_or_else(|| fail(Errno::ENXIO))?;
            state.flush_ends(device.devno, 0, &mut ends).map_err(fail)?;
        }
        let mut result = Ok(());
        for (_, disk) in ends {
            result = result.and(disk.flush().map_err(|e| fail(e.errno)));
        }
        result
    }
}
