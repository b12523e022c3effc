//! Block devices of this machine, found by path or number and described from sysfs.
//!
//! Invariants:
//! - a [`BlockDevice`] has a size above zero, and its logical block is a power of two of at least one sector;
//! - its physical block is never smaller than its logical block;
//! - it is a description of one instant: whoever opens the path checks the device number again.

use super::host::{self, Host};
use super::identify;
use super::links::Links;
use crate::identity::Identity;
use crate::units::{Bytes, DevNo, Range, Sectors};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A block device as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its node, symlinks followed (`/dev/sda1`, `/dev/dm-3`).
    pub path: PathBuf,
    /// The kernel's number for it.
    pub devno: DevNo,
    /// The kernel's name for it (`sda1`, `dm-3`, `cciss!c0d0`): the name of its folder in sysfs.
    pub name: String,
    /// Size in sectors of 512 bytes, above zero.
    pub size: Sectors,
    /// The smallest request that it takes, in sectors; a partition has that of its disk.
    pub logical_block: Sectors,
    /// The smallest write that it does without reading first, in sectors; at least the logical block.
    pub physical_block: Sectors,
    /// Whether the kernel refuses writes to it.
    pub read_only: bool,
    /// Whether it, or the disk it is on, has moving parts, as far as the kernel knows.
    pub rotational: bool,
    /// Whether the medium can be taken out (the kernel says so of card readers and some USB sticks).
    pub removable: bool,
    /// What it is a partition of; `None` for whole disks and everything virtual.
    pub partition: Option<Partition>,
    /// What it says of itself.
    pub identity: Identity,
}

/// Where a partition lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The disk.
    pub disk: DevNo,
    /// Its first sector on the disk, in sectors of 512 bytes.
    pub start: Sectors,
    /// Its number in the partition table.
    pub number: u32,
}

/// Why a path or number is no usable block device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The path cannot be followed.
    #[error("{}: {source}; `lsblk -p` lists the block devices", path.display())]
    NotFound {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path names something that is not a block device.
    #[error("{} is {found}, not a block device; `lsblk -p` lists the block devices", path.display())]
    NotABlockDevice {
        /// As given.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// The kernel has no such device: a stale node, or the disk has been taken away.
    #[error("{} (device number {devno}) is not known to the kernel: the disk is gone or its node is stale", path.display())]
    Unknown {
        /// Path, as far as it is known.
        path: PathBuf,
        /// The number.
        devno: DevNo,
    },
    /// It has no sectors: an empty card reader, a loop device without a file.
    #[error("{} has size 0: insert a medium, or attach something to it", path.display())]
    Empty {
        /// Its node.
        path: PathBuf,
    },
    /// A file in sysfs does not hold what it should.
    #[error("{}: the kernel's {} holds {found}, which cannot be right; nothing was assumed in its place", path.display(), file.display())]
    BadAttribute {
        /// The device's node.
        path: PathBuf,
        /// The file in sysfs.
        file: PathBuf,
        /// What it holds.
        found: String,
    },
}

impl BlockDevice {
    /// All of its sectors, counted from its own start.
    pub fn range(&self) -> Option<Range> {
        Range::new(Sectors::ZERO, self.size)
    }

    /// The number of the whole disk that it is or lies on, and which sectors of that it is.
    pub fn on_disk(&self) -> (DevNo, Option<Range>) {
        match self.partition {
            Some(part) => (part.disk, Range::new(part.start, self.size)),
            None => (self.devno, self.range()),
        }
    }
}

/// A device's folders in sysfs.
pub(super) struct Folders {
    /// Its own.
    pub(super) own: PathBuf,
    /// That of the disk that it is or lies on.
    pub(super) disk: PathBuf,
}

impl Host {
    /// Describes the block device that `path` names, symlinks followed.
    ///
    /// Fails when the path leads nowhere or to something else, when the device is empty or gone, and when
    /// sysfs says something that cannot be right.
    pub fn device(&self, path: &Path) -> Result<BlockDevice, DeviceError> {
        let not_found = |source| DeviceError::NotFound { path: path.to_path_buf(), source };
        let real = fs::canonicalize(path).map_err(not_found)?;
        let devno = self
            .block_number(&real)
            .map_err(not_found)?
            .ok_or(DeviceError::NotABlockDevice { path: path.to_path_buf(), found: kind_of(&real) })?;
        self.describe(devno, Some(real), &Links::load(self))
    }

    /// The same, taken from `known`, which were described just now, if it is one of them: for many devices that are named
    /// one by one.
    pub fn device_among(&self, path: &Path, known: &[BlockDevice]) -> Result<BlockDevice, DeviceError> {
        let real = fs::canonicalize(path).ok();
        let number = real.as_ref().and_then(|real| self.block_number(real).ok().flatten());
        let is_it = |device: &&BlockDevice| Some(device.devno) == number && Some(&device.path) == real.as_ref();
        known.iter().find(is_it).map_or_else(|| self.device(path), |device| Ok(device.clone()))
    }

    /// Describes the block device with the given number. Fails as [`Host::device`] does.
    pub fn device_by_number(&self, devno: DevNo) -> Result<BlockDevice, DeviceError> {
        self.describe(devno, None, &Links::load(self))
    }

    /// Describes every block device that can be, partitions included, sorted by kernel name.
    ///
    /// Left out are RAM disks (`ram0`…), empty devices, and what cannot be described.
    pub fn all_devices(&self) -> Vec<BlockDevice> {
        let links = Links::load(self);
        host::names(&self.sys().join("class/block"))
            .iter()
            .filter(|name| !is_ram_disk(name))
            .filter_map(|name| self.number_of(name))
            .filter_map(|devno| self.describe(devno, None, &links).ok())
            .collect()
    }

    /// The number of a block device, from its kernel name.
    pub(crate) fn number_of(&self, name: &str) -> Option<DevNo> {
        let file = self.sys().join("class/block").join(name).join("dev");
        host::text(&file)?.parse().ok()
    }

    fn describe(&self, devno: DevNo, path: Option<PathBuf>, links: &Links) -> Result<BlockDevice, DeviceError> {
        let unknown = |path: Option<PathBuf>| DeviceError::Unknown {
            path: path.unwrap_or_else(|| self.dev().join(format!("block/{devno}"))),
            devno,
        };
        let Some(own) = self.sys_folder(devno) else {
            return Err(unknown(path));
        };
        let Some(name) = own.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            return Err(unknown(path));
        };
        let path = path.unwrap_or_else(|| self.node(&name));
        let folders = Folders { disk: disk_folder(&own), own };
        let size = Sectors(needed(&path, &folders.own.join("size"))?);
        if size == Sectors::ZERO {
            return Err(DeviceError::Empty { path });
        }
        let logical_block = block_size(&path, &folders.disk.join("queue/logical_block_size"))?;
        let physical_block = block_size(&path, &folders.disk.join("queue/physical_block_size"))?.max(logical_block);
        let mut device = BlockDevice {
            devno,
            size,
            logical_block,
            physical_block,
            read_only: host::flag(&folders.own.join("ro")),
            rotational: host::flag(&folders.disk.join("queue/rotational")),
            removable: host::flag(&folders.disk.join("removable")),
            partition: partition(&path, &folders)?,
            identity: Identity::default(),
            path,
            name,
        };
        device.identity = identify::identity(self, &device, &folders, links);
        Ok(device)
    }
}

/// The folder of the whole disk: a partition's lies in that of its disk.
fn disk_folder(own: &Path) -> PathBuf {
    match own.parent() {
        Some(parent) if own.join("partition").exists() => parent.to_path_buf(),
        _ => own.to_path_buf(),
    }
}

fn partition(path: &Path, folders: &Folders) -> Result<Option<Partition>, DeviceError> {
    if folders.own == folders.disk {
        return Ok(None);
    }
    let number_file = folders.own.join("partition");
    let number = needed(path, &number_file)?;
    let disk_file = folders.disk.join("dev");
    let disk = host::text(&disk_file).unwrap_or_default();
    Ok(Some(Partition {
        disk: disk.parse().map_err(|_| bad(path, &disk_file, Some(disk)))?,
        start: Sectors(needed(path, &folders.own.join("start"))?),
        number: u32::try_from(number).map_err(|_| bad(path, &number_file, Some(number.to_string())))?,
    }))
}

fn needed(path: &Path, file: &Path) -> Result<u64, DeviceError> {
    host::number(file).ok_or_else(|| bad(path, file, host::text(file)))
}

/// Reads a block size in bytes; in sectors.
fn block_size(path: &Path, file: &Path) -> Result<Sectors, DeviceError> {
    let bytes = needed(path, file)?;
    if bytes < 512 || !bytes.is_power_of_two() {
        return Err(bad(path, file, Some(bytes.to_string())));
    }
    Ok(Bytes(bytes).to_sectors_down())
}

fn bad(path: &Path, file: &Path, found: Option<String>) -> DeviceError {
    DeviceError::BadAttribute {
        path: path.to_path_buf(),
        file: file.to_path_buf(),
        found: match found {
            Some(text) => format!("'{}'", text.chars().take(80).collect::<String>()),
            None => "nothing".into(),
        },
    }
}

fn is_ram_disk(name: &str) -> bool {
    name.strip_prefix("ram").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// What a path that is no block device is, with its article.
fn kind_of(path: &Path) -> &'static str {
    let Ok(meta) = fs::metadata(path) else {
        return "something else";
    };
    let kind = meta.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_file() {
        "a regular file (attach it with losetup to use it)"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a socket or a pipe"
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
