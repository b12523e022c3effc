//! Asks a drive to read sectors without sending them: SCSI VERIFY (which a SATA disk gets as READ VERIFY), NVMe Verify.
//!
//! Proves less than a read does. A drive, a bridge or an emulation may say "good" without looking (scsi_debug does):
//! trust it only where it has failed on a sector that a read fails on.
//!
//! Invariants:
//! - no data goes either way, and nothing on the drive changes;
//! - `ENODATA` stands for what the drive itself calls an unrecovered read error, and for nothing else;
//! - sectors are those of the device that was opened, also where it is a partition.

mod ioctl;
mod nvme;
mod scsi;

use super::device::BlockDevice;
use super::direct::{DirectDisk, Mode, OpenError};
use super::host::Host;
use super::{Disk, DiskError, Operation};
use crate::units::{DevNo, Range, Sectors};
use nix::errno::Errno;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

/// How often a command is repeated that the drive did not carry out: after a reset it says so to the first one.
const TRIES: u32 = 3;

/// Something that can look at sectors without sending them. May be used by several threads at a time.
pub trait Verify: Send + Sync + fmt::Debug {
    /// Whether all sectors of `range` (whole logical blocks) can be read, according to the drive.
    ///
    /// # Errors
    /// [`DiskError`] of the request that failed, which may be a part of the range, with the errno: `ENODATA` for an
    /// unrecovered read error, `EIO` for an internal error of an NVMe drive, which may be one, `EOPNOTSUPP` when the drive
    /// does not know the command, `EINVAL` when the range is not whole blocks inside the device; all others say nothing
    /// about a sector.
    fn verify(&self, range: Range) -> Result<(), DiskError>;
}

/// Which commands a drive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Scsi,
    Nvme { namespace: u32 },
}

/// A drive, or a partition of one, that can be asked.
#[derive(Debug)]
pub struct VerifyDisk {
    disk: DirectDisk,
    protocol: Protocol,
    /// First sector of the partition on its disk.
    offset: Sectors,
}

/// Why a device cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is no SCSI, SATA, USB or NVMe disk, or partition of one.
    #[error("{} cannot be verified: '{disk}' is neither a SCSI (SATA, USB) nor an NVMe disk. Read it instead", path.display())]
    NotADrive {
        /// Its node.
        path: PathBuf,
        /// The kernel's name of the whole disk.
        disk: String,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel does not tell its namespace.
    #[error("{} does not tell its NVMe namespace: {}. Read it instead", path.display(), errno.desc())]
    NoNamespace {
        /// Its node.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
}

impl VerifyDisk {
    /// Opens a disk or partition for reading, without claiming it. Sends no command to the drive.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn open(host: &Host, device: &BlockDevice) -> Result<VerifyDisk, VerifyError> {
        let whole = device.partition.map_or(device.devno, |partition| partition.disk);
        let name = disk_name(host, whole).unwrap_or_else(|| device.name.clone());
        let path = || device.path.clone();
        let (is_scsi, is_nvme) = (is_scsi(&name), is_nvme(&name));
        if !is_scsi && !is_nvme {
            return Err(VerifyError::NotADrive { path: path(), disk: name });
        }
        let disk = DirectDisk::open_device(device, Mode::ReadOnly)?;
        let protocol = if is_scsi {
            Protocol::Scsi
        } else {
            let namespace = ioctl::namespace(disk.as_fd().as_raw_fd());
            let namespace = namespace.map_err(|errno| VerifyError::NoNamespace { path: path(), errno })?;
            Protocol::Nvme { namespace }
        };
        let offset = device.partition.map_or(Sectors::ZERO, |partition| partition.start);
        Ok(VerifyDisk { disk, protocol, offset })
    }

    /// One command for a run of at most as many blocks as the protocol's `MOST_BLOCKS`.
    fn ask(&self, part: Range) -> Result<(), Errno> {
        let block = self.disk.logical_block();
        let blocks = blocks_of(part, self.offset, block).ok_or(Errno::EINVAL)?;
        let fd = self.disk.as_fd().as_raw_fd();
        let mut answer = Err(Errno::EIO);
        for _ in 0..TRIES {
            answer = match self.protocol {
                Protocol::Scsi => ioctl::scsi(fd, &scsi::verify(blocks)).map_err(not_taken)?.judge(),
                Protocol::Nvme { namespace } => {
                    nvme::judge(ioctl::nvme(fd, nvme::verify(namespace, blocks)).map_err(not_taken)?)
                }
            };
            // EAGAIN: it was not carried out.
            if answer != Err(Errno::EAGAIN) {
                return answer;
            }
        }
        answer.map_err(|_| Errno::ENOLINK)
    }
}

impl Verify for VerifyDisk {
    fn verify(&self, range: Range) -> Result<(), DiskError> {
        let block = self.disk.logical_block();
        let error = |part: Range, errno| DiskError {
            device: self.disk.name().clone(),
            operation: Operation::Verify,
            start: part.start(),
            len: part.len(),
            errno,
        };
        let whole = range.start().is_multiple_of(block) && range.len().is_multiple_of(block);
        if !whole || range.end() > self.disk.size() {
            return Err(error(range, Errno::EINVAL));
        }
        let most = match self.protocol {
            Protocol::Scsi => scsi::MOST_BLOCKS,
            Protocol::Nvme { .. } => nvme::MOST_BLOCKS,
        };
        for part in range.chunks(Sectors(block.0.saturating_mul(most))) {
            self.ask(part).map_err(|errno| error(part, errno))?;
        }
        Ok(())
    }
}

/// A run of logical blocks of a whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    first: u64,
    count: u32,
}

/// The blocks of the disk that sectors of a partition are; `None` unless they are whole ones.
fn blocks_of(part: Range, offset: Sectors, block: Sectors) -> Option<Blocks> {
    let start = part.start().checked_add(offset)?;
    if !start.is_multiple_of(block) || !part.len().is_multiple_of(block) {
        return None;
    }
    let count = u32::try_from(part.len().0.checked_div(block.0)?).ok()?;
    Some(Blocks { first: start.0.checked_div(block.0)?, count })
}

/// What the kernel says when a device takes no such command at all.
fn not_taken(errno: Errno) -> Errno {
    match errno {
        Errno::ENOTTY | Errno::ENOSYS | Errno::EINVAL => Errno::EOPNOTSUPP,
        other => other,
    }
}

fn disk_name(host: &Host, disk: DevNo) -> Option<String> {
    Some(host.sys_folder(disk)?.file_name()?.to_string_lossy().into_owned())
}

/// `sda`, `sdab`: everything that the kernel's SCSI disk driver has.
fn is_scsi(name: &str) -> bool {
    name.strip_prefix("sd").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase()))
}

/// `nvme0n1`.
fn is_nvme(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let rest = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
    rest.is_some_and(|(controller, namespace)| digits(controller) && digits(namespace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::fake_tree::Tree;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn sectors_of_a_partition_become_blocks_of_its_disk() {
        let blocks = |start, len, offset, block| {
            blocks_of(range(start, len), Sectors(offset), Sectors(block)).map(|b| (b.first, b.count))
        };
        assert_eq!(blocks(10, 5, 0, 1), Some((10, 5)));
        assert_eq!(blocks(10, 5, 2048, 1), Some((2058, 5)));
        assert_eq!(blocks(16, 64, 2048, 8), Some((258, 8)));
        assert_eq!(blocks(16, 60, 2048, 8), None);
        assert_eq!(blocks(16, 64, 2047, 8), None);
        assert_eq!(blocks(u64::MAX - 8, 8, 8, 8), None);
    }

    #[test]
    fn only_disks_that_know_such_commands_are_asked() {
        for name in ["sda", "sdz", "sdaab"] {
            assert!(is_scsi(name) && !is_nvme(name), "{name}");
        }
        for name in ["nvme0n1", "nvme12n3"] {
            assert!(is_nvme(name) && !is_scsi(name), "{name}");
        }
        for name in ["sd", "sda1", "sr0", "dm-0", "loop0", "vda", "nvme0", "nvme0c0n1", "nvme0n1p1", "nbd0", "md0", ""]
        {
            assert!(!is_scsi(name) && !is_nvme(name), "{name}");
        }
        let tree = Tree::new();
        tree.disk("dm-0", "254:0", 1000);
        let refused = VerifyDisk::open(&tree.host(), &tree.device("dm-0")).unwrap_err();
        assert!(matches!(refused, VerifyError::NotADrive { .. }), "{refused}");
        assert!(refused.to_string().contains("'dm-0' is neither"), "{refused}");
        // Of a partition the disk decides; here its node cannot be opened.
        tree.ata_disk();
        let refused = VerifyDisk::open(&tree.host(), &tree.device("sda1")).unwrap_err();
        assert!(matches!(refused, VerifyError::Open(_)), "{refused}");
    }
}
