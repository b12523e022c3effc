//! A made-up machine for tests: /sys, /proc, /dev and /run in a temporary folder.

use super::device::BlockDevice;
use super::host::Host;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The folder tree, deleted at the end.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: TempDir,
}

impl Tree {
    /// A machine without devices.
    pub(crate) fn new() -> Tree {
        let tree = Tree { dir: tempfile::tempdir().unwrap() };
        for folder in ["sys/dev/block", "sys/class/block", "proc/self", "dev", "run"] {
            fs::create_dir_all(tree.path(folder)).unwrap();
        }
        tree
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(path)
    }

    pub(crate) fn host(&self) -> Host {
        Host::under(self.dir.path())
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Tree {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) -> &Tree {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    fn register(&self, folder: &str, name: &str, devno: &str, sectors: u64) {
        self.write(&format!("{folder}/dev"), format!("{devno}\n"))
            .write(&format!("{folder}/size"), format!("{sectors}\n"))
            .write(&format!("{folder}/ro"), "0\n")
            .write(&format!("{folder}/uevent"), format!("DEVNAME={name}\n"))
            .write(&format!("dev/{name}"), format!("b {devno}\n"))
            .link(&format!("sys/dev/block/{devno}"), self.path(folder))
            .link(&format!("sys/class/block/{name}"), self.path(folder));
        fs::create_dir_all(self.path(&format!("{folder}/holders"))).unwrap();
        fs::create_dir_all(self.path(&format!("{folder}/slaves"))).unwrap();
    }

    /// A disk of 512-byte logical and 4096-byte physical blocks; its folder, for more attributes.
    pub(crate) fn disk(&self, name: &str, devno: &str, sectors: u64) -> String {
        let folder = format!("sys/devices/{name}-bus/block/{name}");
        self.register(&folder, name, devno, sectors);
        self.write(&format!("{folder}/removable"), "0\n")
            .write(&format!("{folder}/queue/logical_block_size"), "512\n")
            .write(&format!("{folder}/queue/physical_block_size"), "4096\n")
            .write(&format!("{folder}/queue/rotational"), "1\n");
        folder
    }

    /// A partition of a disk; its folder.
    pub(crate) fn partition(
        &self,
        disk_folder: &str,
        (name, devno): (&str, &str),
        number: u32,
        (start, sectors): (u64, u64),
    ) -> String {
        let folder = format!("{disk_folder}/{name}");
        self.register(&folder, name, devno, sectors);
        self.write(&format!("{folder}/partition"), format!("{number}\n"))
            .write(&format!("{folder}/start"), format!("{start}\n"));
        folder
    }

    /// Makes `upper` hold `lower`, both given by folder.
    pub(crate) fn stack(&self, upper: &str, lower: &str) {
        let name = |folder: &str| folder.rsplit('/').next().unwrap().to_string();
        self.link(&format!("{lower}/holders/{}", name(upper)), self.path(upper))
            .link(&format!("{upper}/slaves/{}", name(lower)), self.path(lower));
    }

    /// The device with the given kernel name.
    pub(crate) fn device(&self, name: &str) -> BlockDevice {
        let path = self.path(&format!("dev/{name}"));
        self.host().device(&path).unwrap()
    }

    /// A SATA disk `sda` (8:0) with a GPT partition `sda1` (8:1, from sector 2048); both folders.
    pub(crate) fn ata_disk(&self) -> (String, String) {
        let disk = self.disk("sda", "8:0", 2_000_000);
        self.write(&format!("{disk}/device/wwid"), "naa.5000c500a1b2c3d4\n")
            .write(&format!("{disk}/device/vpd_pg80"), b"\0\x80\0\x14            Z1D5ABCD")
            .write(&format!("{disk}/device/vendor"), "ATA     \n")
            .write(&format!("{disk}/device/model"), "ST1000DM003-1ER1\n");
        let part = self.partition(&disk, ("sda1", "8:1"), 1, (2048, 1_000_000));
        (disk, part)
    }
}
