//! The file under a loop device, and making both larger.
//!
//! Invariants:
//! - nothing is ever made smaller;
//! - the file that grows is the one that the loop device has open, by its inode, not what has its name by now;
//! - space is reserved where the filesystem can: a file with holes fails writes when the filesystem is full.

#![allow(unsafe_code)] // ioctls

use super::device::BlockDevice;
use super::host::{self, Host};
use crate::units::{Bytes, Sectors};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Debug)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);

mod sys {
    use super::LoopInfo;
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, LoopInfo);
    nix::ioctl_none_bad!(loop_set_capacity, 0x4C07);
}

/// The file under a loop device.
#[derive(Clone, Debug)]
pub struct LoopFile {
    device: PathBuf,
    path: PathBuf,
    offset: u64,
    limit: u64,
    size: u64,
    block: Sectors,
}

impl Host {
    /// The file that a loop device is attached to.
    ///
    /// # Errors
    /// Why there is none that could grow, in words.
    pub fn loop_file(&self, device: &BlockDevice) -> Result<LoopFile, String> {
        let none = || {
            format!(
                "{} is no loop device over a file; make the device larger by its own means first",
                device.path.display()
            )
        };
        let folder = self.sys_folder(device.devno).ok_or_else(none)?;
        let path = host::text(&folder.join("loop/backing_file")).map(PathBuf::from).ok_or_else(none)?;
        let meta = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if !meta.is_file() {
            return Err(none());
        }
        let number = |name: &str| host::number(&folder.join("loop").join(name)).unwrap_or(0);
        Ok(LoopFile {
            device: device.path.clone(),
            path,
            offset: number("offset"),
            limit: number("sizelimit"),
            size: meta.len(),
            block: device.logical_block,
        })
    }
}

impl LoopFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many sectors the loop device has when its file has so many bytes.
    ///
    /// # Errors
    /// In words, when the file would shrink, or the loop device was told to end before the file does.
    pub fn size_after(&self, bytes: u64) -> Result<Sectors, String> {
        if self.limit != 0 {
            return Err(format!("{} was attached with a limit on its size", self.device.display()));
        }
        if bytes < self.size {
            return Err(format!("{} has {} bytes already, and never shrinks", self.path.display(), self.size));
        }
        Ok(Bytes(bytes.saturating_sub(self.offset)).to_sectors_down().align_down(self.block))
    }

    /// Makes the file so many bytes long, durably, and lets the loop device see it.
    ///
    /// # Errors
    /// What the kernel says; `ESTALE` when the path leads to another file by now than the loop device has.
    pub fn grow(&self, bytes: u64) -> io::Result<()> {
        let device = File::open(&self.device)?;
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let meta = file.metadata()?;
        let info = status(&device)?;
        let same_device = host::devno(info.device) == host::devno(meta.dev());
        if !same_device || info.inode != meta.ino() {
            return Err(Errno::ESTALE.into());
        }
        if bytes > meta.len() {
            let (from, more) = (off(meta.len())?, off(bytes.saturating_sub(meta.len()))?);
            match fallocate(&file, FallocateFlags::empty(), from, more) {
                Err(Errno::EOPNOTSUPP) => file.set_len(bytes)?,
                other => other?,
            }
        }
        // Also what a killed call, or somebody else, has made longer.
        file.sync_all()?;
        // SAFETY: the call takes no argument, and touches no memory of ours.
        unsafe { sys::loop_set_capacity(device.as_raw_fd()) }?;
        Ok(())
    }
}

fn off(bytes: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(bytes).map_err(|_| Errno::EFBIG)
}

fn status(device: &File) -> Result<LoopInfo, Errno> {
    let mut info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: the kernel writes one `struct loop_info64`, which this is, as its size says.
    unsafe { sys::loop_get_status64(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}
