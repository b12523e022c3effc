//! Disks as the rest of the program sees them: sized, sector-addressed, with typed errors.
//!
//! Invariants:
//! - every request is a whole number of logical blocks, inside the device;
//! - a read either fills the whole buffer or fails: there are no short reads;
//! - a write is durable only after a later [`Disk::flush`] has succeeded;
//! - errors keep the errno, so that a caller can tell a bad sector from a bad cable.

pub mod buffer;
pub mod counters;
pub mod device;
pub mod direct;
#[cfg(test)]
pub(crate) mod fake_tree;
pub mod foreign;
pub mod host;
mod identify;
pub mod judge;
mod links;
pub mod loop_file;
mod openers;
mod overlap;
pub mod parallel;
mod partition_table;
pub mod priority;
pub mod ram;
pub mod smartctl;
pub(crate) mod tool;
pub mod usage;
pub mod verify;
pub mod workers;

use crate::units::{Range, Sectors};
use nix::errno::Errno;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What a request was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Flushing the device's write cache.
    Flush,
    /// Reading without sending the data (see [`verify`]).
    Verify,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Verify => "verify",
        })
    }
}

/// What an errno says about the place where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// The drive itself says that the sector is bad (`ENODATA`).
    Medium,
    /// Could be a bad sector or anything else (`EIO`): believed only when it repeats and known-good sectors read.
    Ambiguous,
    /// Cable, controller, time-out, removal: says nothing about the sector, and must never cause a remap.
    Transport,
    /// A mistake in the request (alignment, bounds, permission).
    Request,
}

impl FaultClass {
    /// What an errno says about the sector. The classes are those of the kernel's block layer
    /// (`blk_errors[]` in block/blk-core.c): `ENODATA` is BLK_STS_MEDIUM, `EIO` BLK_STS_IOERR.
    pub fn of(errno: Errno) -> FaultClass {
        match errno {
            Errno::ENODATA => FaultClass::Medium,
            Errno::EIO => FaultClass::Ambiguous,
            Errno::EINVAL | Errno::EBADF | Errno::EPERM | Errno::EACCES | Errno::EFAULT => FaultClass::Request,
            _ => FaultClass::Transport,
        }
    }
}

/// A request that failed: on which device, where, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} of sectors {start}+{len} on {device}: {} ({errno:?})", errno.desc())]
pub struct DiskError {
    /// Device, as a person would name it.
    pub device: Arc<str>,
    /// What was tried.
    pub operation: Operation,
    /// First sector of the request.
    pub start: Sectors,
    /// Length of the request in sectors.
    pub len: Sectors,
    /// What the kernel said.
    pub errno: Errno,
}

impl DiskError {
    /// What the errno says about the sector.
    pub fn class(&self) -> FaultClass {
        FaultClass::of(self.errno)
    }
}

/// A block device, or something that behaves like one.
///
/// Buffers must be a whole number of logical blocks long; real devices are opened with `O_DIRECT`, so the
/// memory must come from [`buffer::AlignedBuffer`].
pub trait Disk: Send + Sync + fmt::Debug {
    /// The name to use in messages.
    fn name(&self) -> &Arc<str>;
    /// Size in sectors.
    fn size(&self) -> Sectors;
    /// Logical block size in sectors, at least 1.
    fn logical_block(&self) -> Sectors;
    /// Fills `buf` from `start`. Fails as a whole if any sector of it cannot be read.
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError>;
    /// Writes all of `buf` at `start`. On failure any part of it may have been written.
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError>;
    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), DiskError>;
    /// The descriptor that takes requests from [`buffer::AlignedBuffer`]s as they are, in multiples of 4096 bytes, for
    /// [`parallel`]; `None` when there is no such thing.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Checks bounds and block alignment of a request; the range that it covers, or the error to give.
pub fn check_request(disk: &dyn Disk, operation: Operation, start: Sectors, bytes: usize) -> Result<Range, DiskError> {
    let len = Sectors(u64::try_from(bytes).unwrap_or(u64::MAX) / 512);
    let bad = || DiskError { device: disk.name().clone(), operation, start, len, errno: Errno::EINVAL };
    let range = Range::new(start, len).ok_or_else(bad)?;
    let block = disk.logical_block();
    if !bytes.is_multiple_of(512)
        || range.end() > disk.size()
        || !start.is_multiple_of(block)
        || !len.is_multiple_of(block)
    {
        return Err(bad());
    }
    Ok(range)
}
