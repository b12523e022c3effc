//! Who uses a device already.
//!
//! Invariant: what is reported is really there, but the list may be incomplete: mounts in other namespaces,
//! external journals and ZFS pools leave no trace in these files. All of them claim the device, so
//! [`Host::claim_check`] sees them, and has the last word.

use super::device::BlockDevice;
use super::host::{self, Host};
use crate::units::DevNo;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One thing that uses a device. Displayed it completes "the device is …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// A filesystem on it is mounted.
    Mounted {
        /// Where.
        at: PathBuf,
        /// Type of the filesystem (`ext4`).
        kind: String,
    },
    /// It is one of several devices of a mounted filesystem.
    Member {
        /// Type of the filesystem (`btrfs`).
        kind: &'static str,
        /// UUID of the filesystem.
        uuid: String,
    },
    /// The kernel swaps to it.
    Swap,
    /// Another block device is built on it and has claimed it.
    Holder {
        /// Kernel name of that device (`dm-3`, `md0`).
        name: String,
        /// What it is, in words (`device-mapper device 'vg-root'`).
        description: String,
        /// Its device-mapper UUID (`LVM-…`, `DMREMAP-…`), if it has one.
        dm_uuid: Option<String>,
    },
    /// A loop device is attached to it.
    Loop {
        /// Kernel name of the loop device.
        name: String,
    },
    /// It is a disk, and one of its partitions is in use.
    PartitionInUse {
        /// Kernel name of the partition.
        partition: String,
        /// How.
        usage: Box<Use>,
    },
    /// It is a partition, and its disk as a whole is in use.
    DiskInUse {
        /// Kernel name of the disk.
        disk: String,
        /// How.
        usage: Box<Use>,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Mounted { at, kind } => write!(f, "mounted at {} ({kind})", at.display()),
            Use::Member { kind, uuid } => {
                write!(f, "part of the mounted {kind} filesystem {uuid}")
            }
            Use::Swap => f.write_str("in use as swap"),
            Use::Holder { description, .. } => write!(f, "held by {description}"),
            Use::Loop { name } => write!(f, "attached to loop device {name}"),
            Use::PartitionInUse { partition, usage } => {
                write!(f, "in use: its partition {partition} is {usage}")
            }
            Use::DiskInUse { disk, usage } => write!(f, "in use: its disk {disk} is {usage}"),
        }
    }
}

/// A place where the filesystem of a device is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The folder.
    pub at: PathBuf,
    /// What of the filesystem is seen there: `/` for all of it, a folder or a subvolume otherwise.
    pub root: PathBuf,
    /// Type of the filesystem (`ext4`).
    pub kind: String,
    /// Whether a later mount at the same place, or above it, hides this one.
    pub hidden: bool,
}

/// A line of /proc/self/mountinfo.
struct Mount {
    number: DevNo,
    root: PathBuf,
    at: PathBuf,
    kind: String,
    source: PathBuf,
}

/// A device that is open exclusively.
#[derive(Debug)]
pub struct Claim {
    _file: std::fs::File,
}

/// A block device by the three names that the kernel uses for it.
struct Node {
    name: String,
    number: DevNo,
    folder: PathBuf,
}

impl Host {
    /// Everything that is known to use `device`; empty when it seems free.
    ///
    /// For a disk this includes its partitions; for a partition its disk as a whole, but not its neighbours.
    pub fn usage(&self, device: &BlockDevice) -> Vec<Use> {
        let Some(node) = self.node_of(device.devno) else {
            return Vec::new();
        };
        let mounts = self.mounts();
        let mut out = self.own_uses(&node, &mounts);
        for partition in self.partitions(&node) {
            let uses = self.own_uses(&partition, &mounts).into_iter();
            out.extend(
                uses.map(|usage| Use::PartitionInUse { partition: partition.name.clone(), usage: Box::new(usage) }),
            );
        }
        if let Some(disk) = device.partition.and_then(|part| self.node_of(part.disk)) {
            let uses = self.own_uses(&disk, &mounts).into_iter();
            out.extend(uses.map(|usage| Use::DiskInUse { disk: disk.name.clone(), usage: Box::new(usage) }));
        }
        out
    }

    /// Where the filesystem on the device itself, not on a partition of it, is mounted; empty when it is not, or only
    /// in other namespaces.
    pub fn mount_points(&self, device: &BlockDevice) -> Vec<MountPoint> {
        let mounts = self.mounts();
        let mut out = Vec::new();
        for (index, mount) in mounts.iter().enumerate() {
            if self.is_mount_of(mount, device.devno) {
                // The file lists mounts in the order in which they were made.
                let hidden = mounts.iter().skip(index + 1).any(|later| mount.at.starts_with(&later.at));
                let (at, root, kind) = (mount.at.clone(), mount.root.clone(), mount.kind.clone());
                out.push(MountPoint { at, root, kind, hidden });
            }
        }
        out
    }

    /// Whether the device is a device-mapper device that is suspended: whoever reads it waits.
    pub fn is_suspended(&self, device: &BlockDevice) -> bool {
        self.sys_folder(device.devno).is_some_and(|folder| host::flag(&folder.join("dm/suspended")))
    }

    /// Asks the kernel whether anybody has claimed the device: opens it exclusively for reading, and closes it.
    ///
    /// `EBUSY` when somebody has, `ENXIO` when the node is by now another device, or what else opening gives.
    /// A disk counts as claimed when one of its partitions is.
    pub fn claim_check(&self, device: &BlockDevice) -> Result<(), io::Error> {
        self.claim(device).map(drop)
    }

    /// Claims the device: nobody else opens it exclusively as long as the claim lives. Fails as [`Host::claim_check`] does.
    pub fn claim(&self, device: &BlockDevice) -> Result<Claim, io::Error> {
        let flags = nix::libc::O_EXCL | nix::libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&device.path)?;
        let number = host::devno(file.metadata()?.rdev());
        if !self.is_fake() && number != device.devno {
            return Err(nix::errno::Errno::ENXIO.into());
        }
        Ok(Claim { _file: file })
    }

    fn node_of(&self, number: DevNo) -> Option<Node> {
        let folder = self.sys_folder(number)?;
        let name = folder.file_name()?.to_string_lossy().into_owned();
        Some(Node { name, number, folder })
    }

    /// The partitions of a disk; their folders lie in that of the disk.
    fn partitions(&self, disk: &Node) -> Vec<Node> {
        host::names(&disk.folder)
            .into_iter()
            .filter_map(|name| {
                let folder = disk.folder.join(&name);
                host::number(&folder.join("partition"))?;
                let number = host::text(&folder.join("dev"))?.parse().ok()?;
                Some(Node { name, number, folder })
            })
            .collect()
    }

    fn own_uses(&self, node: &Node, mounts: &[Mount]) -> Vec<Use> {
        let mut out: Vec<Use> = mounts
            .iter()
            .filter(|mount| self.is_mount_of(mount, node.number))
            .map(|mount| Use::Mounted { at: mount.at.clone(), kind: mount.kind.clone() })
            .collect();
        if out.is_empty() {
            out.extend(self.btrfs_member(&node.name));
        }
        if self.is_swap(node.number) {
            out.push(Use::Swap);
        }
        let holders = host::names(&node.folder.join("holders"));
        out.extend(holders.into_iter().map(|name| self.holder(name)));
        out.extend(self.loops_on(node.number));
        out
    }

    fn mounts(&self) -> Vec<Mount> {
        let text = host::text(&self.proc().join("self/mountinfo")).unwrap_or_default();
        text.lines().filter_map(parse_mount).collect()
    }

    /// A filesystem over several devices (btrfs) has a made-up number with major 0: there the source counts.
    fn is_mount_of(&self, mount: &Mount, number: DevNo) -> bool {
        mount.number == number || (mount.number.major == 0 && self.named_number(&mount.source) == Some(number))
    }

    /// The number of the block device under the filesystem that a file is on, as far as it can be known.
    pub(super) fn filesystem_device(&self, file: &Path) -> Option<DevNo> {
        let number = self.filesystem_number(file)?;
        if number.major != 0 {
            return Some(number);
        }
        // btrfs has made-up numbers, one for each subvolume: ask for the source of the mount instead.
        let mounts = self.mounts();
        let holds_file = |mount: &&Mount| file.starts_with(self.local(&mount.at));
        let mount = mounts.iter().filter(holds_file).max_by_key(|mount| mount.at.as_os_str().len())?;
        self.named_number(&mount.source)
    }

    /// The number of the block device that a path in a kernel file names.
    fn named_number(&self, path: &Path) -> Option<DevNo> {
        if !path.is_absolute() {
            return None;
        }
        self.block_number(&self.local(path)).ok().flatten()
    }

    /// A mounted btrfs filesystem lists all its devices, and only one of them in mountinfo.
    fn btrfs_member(&self, name: &str) -> Option<Use> {
        let folder = self.sys().join("fs/btrfs");
        host::names(&folder)
            .into_iter()
            .find(|uuid| folder.join(uuid).join("devices").join(name).exists())
            .map(|uuid| Use::Member { kind: "btrfs", uuid })
    }

    fn is_swap(&self, number: DevNo) -> bool {
        let text = host::text(&self.proc().join("swaps")).unwrap_or_default();
        text.lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .any(|path| self.named_number(Path::new(&host::unescape(path))) == Some(number))
    }

    fn holder(&self, name: String) -> Use {
        let folder = self.sys().join("class/block").join(&name);
        let dm_uuid = host::text(&folder.join("dm/uuid"));
        let description = match host::text(&folder.join("dm/name")) {
            Some(dm_name) => format!("device-mapper device '{dm_name}'"),
            None if folder.join("md").exists() => format!("RAID array {name}"),
            None if folder.join("bcache").exists() => format!("cache device {name}"),
            None => format!("block device {name}"),
        };
        Use::Holder { name, description, dm_uuid }
    }

    /// A loop device does not claim what it is attached to, and is in nobody's list of holders.
    fn loops_on(&self, number: DevNo) -> Vec<Use> {
        let folder = self.sys().join("class/block");
        host::names(&folder)
            .into_iter()
            .filter(|name| name.starts_with("loop"))
            .filter(|name| {
                host::text(&folder.join(name).join("loop/backing_file"))
                    .and_then(|file| self.named_number(Path::new(&file)))
                    == Some(number)
            })
            .map(|name| Use::Loop { name })
            .collect()
    }
}

/// Reads one line of mountinfo (proc_pid_mountinfo(5)): the source comes after a lone `-`, because the number of
/// fields before it varies.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let number = before.nth(2)?.parse().ok()?;
    let root = host::unescape(before.next()?).into();
    let at = before.next()?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let source = after.next()?;
    let (at, source) = (host::unescape(at).into(), host::unescape(source).into());
    Some(Mount { number, root, at, kind: kind.to_string(), source })
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
