//! Real devices and image files, read and written past the page cache.
//!
//! Invariants:
//! - `O_DIRECT` always, because device-mapper changes a device behind the back of its page cache. The one
//!   exception is an image file on a filesystem that refuses it ([`DirectDisk::is_direct`] tells);
//! - nothing is created, truncated or discarded, and nothing beyond the device's end is asked for;
//! - a request from an [`AlignedBuffer`], and every flush, allocates nothing and touches no other file: the root
//!   filesystem may be suspended. Other memory is copied through a buffer of its own;
//! - the errno of a failed request is the one that the kernel gave for the sectors that failed.

use super::buffer::{ALIGNMENT, AlignedBuffer};
use super::device::{BlockDevice, DeviceError};
use super::host::{self, Host};
use super::{Disk, DiskError, Operation, check_request};
use crate::units::{Bytes, DevNo, SECTOR_SIZE, Sectors};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest piece, in bytes, in which unaligned memory is copied.
const BOUNCE: usize = 1 << 20;

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading only; writes fail with `EBADF`.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// A block device or an image file.
#[derive(Debug)]
pub struct DirectDisk {
    name: Arc<str>,
    file: File,
    size: Sectors,
    logical_block: Sectors,
    /// Bytes in a logical block: memory and position of a direct request must be multiples of it.
    block_bytes: usize,
    direct: bool,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not a block device that can be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel refused.
    #[error("cannot open {} for {}: {source}{}", path.display(), purpose(*mode), advice(source))]
    Refused {
        /// Device or file.
        path: PathBuf,
        /// What for.
        mode: Mode,
        /// What the kernel said.
        source: io::Error,
    },
    /// Between looking it up and opening it, the node has become another device.
    #[error("{} was device {expected} a moment ago and is {found} now: was a disk replaced? Look again, and repeat", path.display())]
    Replaced {
        /// Its node.
        path: PathBuf,
        /// The number that was looked up.
        expected: DevNo,
        /// The number of what was opened.
        found: DevNo,
    },
    /// An image file does not hold a single block.
    #[error("{} is smaller than one block of {block} sectors: give a larger file", path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// The block size asked for.
        block: Sectors,
    },
}

fn purpose(mode: Mode) -> &'static str {
    match mode {
        Mode::ReadOnly => "reading",
        Mode::ReadWrite => "writing",
    }
}

fn advice(source: &io::Error) -> &'static str {
    match errno_of(source) {
        Errno::EACCES | Errno::EPERM => " (run this as root)",
        Errno::EROFS => " (it is write-protected: see `blockdev --getro`)",
        Errno::EBUSY => " (something else has claimed it: see `lsblk`)",
        Errno::EINVAL => " (it may not support O_DIRECT)",
        _ => "",
    }
}

impl DirectDisk {
    /// Opens what `path` names: a block device, or a regular file as an image with blocks of 512 bytes.
    ///
    /// Fails when it is neither, is empty, or cannot be opened for `mode`.
    pub fn open(host: &Host, path: &Path, mode: Mode) -> Result<DirectDisk, OpenError> {
        let is_file = fs::metadata(path).is_ok_and(|meta| meta.is_file());
        if is_file && !host.is_fake() {
            return DirectDisk::open_image(path, Sectors(1), mode);
        }
        DirectDisk::open_device(&host.device(path)?, mode)
    }

    /// Opens a block device, and makes sure that the node still is the device described. It is not claimed.
    ///
    /// Fails when the kernel refuses, or the node has become another device.
    pub fn open_device(device: &BlockDevice, mode: Mode) -> Result<DirectDisk, OpenError> {
        let refused = refused(&device.path, mode);
        let file = open_file(&device.path, mode, libc::O_DIRECT).map_err(&refused)?;
        let found = host::devno(file.metadata().map_err(&refused)?.rdev());
        if found != device.devno {
            return Err(OpenError::Replaced { path: device.path.clone(), expected: device.devno, found });
        }
        DirectDisk::new(&device.path, file, device.size, device.logical_block, true)
            .ok_or_else(|| refused(Errno::EINVAL.into()))
    }

    /// Opens a regular file as a disk with the given logical block size (sectors, a power of two). What is left
    /// beyond the last whole block is not used.
    ///
    /// Where the filesystem refuses `O_DIRECT` (some refuse it, others refuse the block size), the page cache is
    /// used: pages are dropped before each read, so that what is read comes from the disk as far as the kernel
    /// lets it, and only [`Disk::flush`] makes writes durable, as always.
    pub fn open_image(path: &Path, block: Sectors, mode: Mode) -> Result<DirectDisk, OpenError> {
        let refused = refused(path, mode);
        let meta = fs::metadata(path).map_err(&refused)?;
        if !meta.is_file() || !block.0.is_power_of_two() {
            return Err(refused(Errno::EINVAL.into()));
        }
        let size = Bytes(meta.len()).to_sectors_down().align_down(block);
        if size == Sectors::ZERO {
            let path = path.to_path_buf();
            return Err(OpenError::TooSmall { path, block });
        }
        let bytes = block.to_usize_bytes().unwrap_or(usize::MAX);
        let direct = match open_file(path, mode, libc::O_DIRECT) {
            Ok(file) if takes_direct(&file, bytes) => Some(file),
            Ok(_) => None,
            Err(error) if errno_of(&error) == Errno::EINVAL => None,
            Err(error) => return Err(refused(error)),
        };
        let is_direct = direct.is_some();
        let file = match direct {
            Some(file) => file,
            None => open_file(path, mode, 0).map_err(&refused)?,
        };
        DirectDisk::new(path, file, size, block, is_direct).ok_or_else(|| refused(Errno::EINVAL.into()))
    }

    fn new(path: &Path, file: File, size: Sectors, block: Sectors, direct: bool) -> Option<Self> {
        Some(DirectDisk {
            name: path.to_string_lossy().into(),
            file,
            size,
            logical_block: block,
            block_bytes: block.to_usize_bytes().filter(|bytes| *bytes > 0)?,
            direct,
        })
    }

    /// Whether the page cache is bypassed: always for devices, and for image files where the filesystem can.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether requests from this memory can go to the kernel as they are.
    fn takes(&self, memory: *const u8) -> bool {
        // Blocks larger than that need kernels which ask only for the controller's alignment, which is less.
        let alignment = self.block_bytes.min(ALIGNMENT);
        !self.direct || memory.addr().is_multiple_of(alignment)
    }

    /// What to do next after the kernel moved `moved` of `left` bytes: bytes done, always whole blocks, so that the
    /// rest is a valid request again and gives the errno of the sector that stopped this one.
    fn progress(&self, moved: usize, left: usize, at_end: Errno) -> Result<usize, Errno> {
        if moved >= left {
            return Ok(left);
        }
        match moved - moved % self.block_bytes {
            0 if moved == 0 => Err(at_end),
            0 => Err(Errno::EIO),
            whole => Ok(whole),
        }
    }

    fn read_aligned(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let (mut offset, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let moved = match self.file.read_at(rest, offset) {
                Ok(moved) => moved,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(errno_of(&error)),
            };
            // Nothing more to read although the request lies inside: the device has shrunk.
            let done = self.progress(moved, rest.len(), Errno::ENXIO)?;
            rest = rest.get_mut(done..).unwrap_or_default();
            offset = advance(offset, done)?;
        }
        Ok(())
    }

    fn write_aligned(&self, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        let (mut offset, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let moved = match self.file.write_at(rest, offset) {
                Ok(moved) => moved,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(errno_of(&error)),
            };
            let done = self.progress(moved, rest.len(), Errno::ENOSPC)?;
            rest = rest.get(done..).unwrap_or_default();
            offset = advance(offset, done)?;
        }
        Ok(())
    }

    /// A buffer for copying `len` bytes piece by piece: a whole number of blocks.
    fn bounce(&self, len: usize) -> AlignedBuffer {
        let piece = BOUNCE.next_multiple_of(self.block_bytes);
        AlignedBuffer::new(len.min(piece))
    }

    fn read_any(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if !self.direct {
            self.drop_cache(offset, buf.len());
        }
        if self.takes(buf.as_ptr()) {
            return self.read_aligned(offset, buf);
        }
        let mut bounce = self.bounce(buf.len());
        let mut offset = offset;
        for piece in buf.chunks_mut(bounce.len()) {
            let Some(copy) = bounce.get_mut(..piece.len()) else {
                return Err(Errno::EINVAL);
            };
            self.read_aligned(offset, copy)?;
            piece.copy_from_slice(copy);
            offset = advance(offset, piece.len())?;
        }
        Ok(())
    }

    fn write_any(&self, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        if self.takes(buf.as_ptr()) {
            return self.write_aligned(offset, buf);
        }
        let mut bounce = self.bounce(buf.len());
        let mut offset = offset;
        for piece in buf.chunks(bounce.len()) {
            let Some(copy) = bounce.get_mut(..piece.len()) else {
                return Err(Errno::EINVAL);
            };
            copy.copy_from_slice(piece);
            self.write_aligned(offset, copy)?;
            offset = advance(offset, piece.len())?;
        }
        Ok(())
    }

    /// Drops clean pages, so that a buffered read asks the disk. A hint: it cannot fail in a way that matters.
    fn drop_cache(&self, offset: u64, len: usize) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
            return;
        };
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        let _ = posix_fadvise(&self.file, offset, len, advice);
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

impl AsFd for DirectDisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Disk for DirectDisk {
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
        check_request(self, Operation::Read, start, buf.len())?;
        let len = buf.len();
        byte_offset(start)
            .and_then(|offset| self.read_any(offset, buf))
            .map_err(|errno| self.error(Operation::Read, start, len, errno))
    }

    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        check_request(self, Operation::Write, start, buf.len())?;
        byte_offset(start)
            .and_then(|offset| self.write_any(offset, buf))
            .map_err(|errno| self.error(Operation::Write, start, buf.len(), errno))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (self.direct && self.block_bytes <= ALIGNMENT).then(|| self.file.as_fd())
    }

    fn flush(&self) -> Result<(), DiskError> {
        // On a block device fdatasync sends a flush to the drive even when no page is dirty (blkdev_fsync).
        loop {
            match self.file.sync_data() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let errno = errno_of(&error);
                    return Err(self.error(Operation::Flush, Sectors::ZERO, 0, errno));
                }
            }
        }
    }
}

fn open_file(path: &Path, mode: Mode, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(mode == Mode::ReadWrite).custom_flags(flags | libc::O_CLOEXEC).open(path)
}

fn refused(path: &Path, mode: Mode) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Refused { path: path.clone(), mode, source }
}

/// Whether the first block can be read directly. Only a refusal of the request counts: a bad sector is none.
fn takes_direct(file: &File, block_bytes: usize) -> bool {
    let mut buf = AlignedBuffer::new(block_bytes);
    match file.read_at(&mut buf, 0) {
        Ok(_) => true,
        Err(error) => errno_of(&error) != Errno::EINVAL,
    }
}

fn byte_offset(start: Sectors) -> Result<u64, Errno> {
    start.to_bytes().map(|bytes| bytes.0).ok_or(Errno::EINVAL)
}

fn advance(offset: u64, by: usize) -> Result<u64, Errno> {
    u64::try_from(by).ok().and_then(|by| offset.checked_add(by)).ok_or(Errno::EINVAL)
}

/// The errno of an error; `EIO` for those that the standard library makes itself.
fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
