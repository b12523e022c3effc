//! What the battery runs on: two disks under a fake or a kernel.

use dm_remap::block::buffer::AlignedBuffer;
use dm_remap::block::ram::RamDisk;
use dm_remap::block::{Disk, DiskError, Operation};
use dm_remap::dm::fake::FakeDm;
use dm_remap::dm::kernel::Kernel;
use dm_remap::dm::{DeviceMapper, DmError};
use dm_remap::segments::{Target, TargetKind};
use dm_remap::units::{DevNo, Sectors};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Two disks and a device-mapper. Devices of the battery are called `t-…` and are removed at the end.
pub struct Bench {
    pub dm: Box<dyn DeviceMapper>,
    pub disk: [DevNo; 2],
    /// Sectors of the first disk.
    pub size: u64,
    fake: Option<FakeDm>,
}

impl Bench {
    pub fn fake() -> Bench {
        let fake = FakeDm::new();
        let disk = [DevNo { major: 8, minor: 0 }, DevNo { major: 8, minor: 16 }];
        for number in disk {
            let name = number.to_string();
            fake.register(number, Arc::new(RamDisk::new(&name, Sectors(32768))));
        }
        Bench { dm: Box::new(fake.clone()), disk, size: 32768, fake: Some(fake) }
    }

    /// `None`, and a line that says so, when there is no device-mapper to use.
    pub fn kernel() -> Option<Bench> {
        Some(Bench::over(Self::real()?))
    }

    /// The kernel's device-mapper, where we are meant to use it.
    pub fn real() -> Option<Kernel> {
        if std::env::var_os("DM_REMAP_GUEST").is_none() {
            println!("skipped: not in a guest (DM_REMAP_GUEST is not set)");
            return None;
        }
        Some(Kernel::open().unwrap())
    }

    pub fn over(kernel: Kernel) -> Bench {
        let disk = ["GUEST_DISK0", "GUEST_DISK1"].map(|name| {
            let path = std::env::var(name).unwrap();
            devno(Path::new(&path)).unwrap()
        });
        let path = std::env::var("GUEST_DISK0").unwrap();
        let sys = format!("/sys/class/block/{}/size", path.trim_start_matches("/dev/"));
        let size = std::fs::read_to_string(sys).unwrap().trim().parse().unwrap();
        Bench { dm: Box::new(kernel), disk, size, fake: None }
    }

    /// The dm device `name` as a disk.
    pub fn open(&self, name: &str) -> Box<dyn Disk> {
        match &self.fake {
            Some(fake) => Box::new(fake.disk(name)),
            None => Box::new(NodeDisk::open(name)),
        }
    }

    /// Creates, loads and activates.
    pub fn up(&self, name: &str, table: &[Target]) -> DevNo {
        let devno = self.dm.create(name, &format!("DMREMAPTEST-{name}")).unwrap().devno;
        self.dm.load(name, table, false).unwrap();
        self.dm.activate(name, false).unwrap();
        devno
    }

    pub fn linear(&self, start: u64, len: u64, disk: usize, offset: u64) -> Target {
        linear(start, len, self.disk[disk], offset)
    }

    pub fn send(&self, name: &str, text: &str) -> Result<Option<String>, DmError> {
        self.dm.message(name, Sectors(0), text)
    }

    /// Whether the target type exists here: a kernel may lack `dust`, or `flakey`'s error_reads.
    pub fn has(&self, kind: TargetKind) -> bool {
        self.dm.create("t-probe", "").unwrap();
        let loaded = self.dm.load("t-probe", &[piece(0, 8, kind.clone())], false);
        self.dm.remove("t-probe").unwrap();
        if loaded.is_err() {
            println!("skipped: no usable {} here", kind.name());
        }
        loaded.is_ok()
    }

    pub fn has_dust(&self) -> bool {
        let (device, offset) = (self.disk[0], Sectors(0));
        self.has(TargetKind::Dust { device, offset, block_bytes: 512 })
    }

    /// A message that must succeed.
    pub fn tell(&self, name: &str, text: &str) -> Option<String> {
        self.send(name, text).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Upper devices hold lower ones open: several rounds.
        for _ in 0..4 {
            for (name, _) in self.dm.list().unwrap_or_default() {
                if name.starts_with("t-") {
                    let _still_open = self.dm.remove(&name);
                }
            }
        }
    }
}

pub fn linear(start: u64, len: u64, device: DevNo, offset: u64) -> Target {
    piece(start, len, TargetKind::Linear { device, offset: Sectors(offset) })
}

pub fn piece(start: u64, len: u64, kind: TargetKind) -> Target {
    Target { start: Sectors(start), len: Sectors(len), kind }
}

/// The block device that a path leads to.
pub fn devno(path: &Path) -> Option<DevNo> {
    let rdev = std::fs::metadata(path).ok()?.rdev();
    let number = |n: u64| u32::try_from(n).ok();
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    Some(DevNo { major: number(major)?, minor: number(minor)? })
}

/// A node in /dev/mapper, opened for direct I/O.
#[derive(Debug)]
struct NodeDisk {
    name: Arc<str>,
    file: File,
}

impl NodeDisk {
    fn open(name: &str) -> NodeDisk {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(nix::libc::O_DIRECT);
        let file = options.open(format!("/dev/mapper/{name}")).unwrap();
        NodeDisk { name: name.into(), file }
    }

    fn result(
        &self,
        operation: Operation,
        start: Sectors,
        bytes: usize,
        done: std::io::Result<()>,
    ) -> Result<(), DiskError> {
        done.map_err(|e| DiskError {
            device: self.name.clone(),
            operation,
            start,
            len: Sectors(bytes as u64 / 512),
            errno: Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)),
        })
    }
}

impl Disk for NodeDisk {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
    fn size(&self) -> Sectors {
        Sectors(std::io::Seek::seek(&mut &self.file, std::io::SeekFrom::End(0)).unwrap() / 512)
    }
    fn logical_block(&self) -> Sectors {
        Sectors(1)
    }
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        let mut aligned = AlignedBuffer::new(buf.len());
        let done = self.file.read_exact_at(&mut aligned, start.0 * 512);
        buf.copy_from_slice(&aligned);
        self.result(Operation::Read, start, buf.len(), done)
    }
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        let mut aligned = AlignedBuffer::new(buf.len());
        aligned.copy_from_slice(buf);
        let done = self.file.write_all_at(&aligned, start.0 * 512);
        self.result(Operation::Write, start, buf.len(), done)
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.result(Operation::Flush, Sectors::ZERO, 0, self.file.sync_all())
    }
}
