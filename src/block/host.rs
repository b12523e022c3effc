//! Where the kernel's view of this machine is read: /sys, /proc, /dev and /run, under a root that tests choose.
//!
//! Invariants:
//! - nothing here writes, and a file that is absent, unreadable or too long counts as absent;
//! - every path that comes out names a place on this machine as the program would open it.
//!
//! Under a fake root (see [`Host::under`]) there are no device nodes, so that tests need not be root: a regular
//! file that holds `b MAJOR:MINOR` stands for a block special file, and one that holds `f MAJOR:MINOR` for a file
//! on the filesystem with that device number.

use crate::units::DevNo;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// Attributes in sysfs are at most a page; tables in /proc are longer. Nothing of interest is beyond this.
const LONGEST_FILE: u64 = 8 << 20;

/// The machine whose devices are looked at.
#[derive(Clone, Debug)]
pub struct Host {
    sys: PathBuf,
    proc: PathBuf,
    dev: PathBuf,
    run: PathBuf,
    fake: bool,
}

impl Host {
    /// This machine.
    pub fn real() -> Host {
        Host { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), run: "/run".into(), fake: false }
    }

    /// A made-up machine: `sys`, `proc`, `dev` and `run` are folders of `root`.
    pub fn under(root: &Path) -> Host {
        // Canonical, so that what symlinks resolve to can be compared with it.
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
        Host {
            sys: root.join("sys"),
            proc: root.join("proc"),
            dev: root.join("dev"),
            run: root.join("run"),
            fake: true,
        }
    }

    /// The root of sysfs.
    pub fn sys(&self) -> &Path {
        &self.sys
    }

    /// The root of procfs.
    pub fn proc(&self) -> &Path {
        &self.proc
    }

    /// The folder of device nodes.
    pub fn dev(&self) -> &Path {
        &self.dev
    }

    /// The folder of run-time state.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Whether this is a made-up machine, whose device nodes cannot be opened.
    pub fn is_fake(&self) -> bool {
        self.fake
    }

    /// The number of the block device that `path` names, symlinks followed; `Ok(None)` when it is something else.
    pub(super) fn block_number(&self, path: &Path) -> io::Result<Option<DevNo>> {
        let meta = fs::metadata(path)?;
        if self.fake {
            return Ok(stand_in(path, "b "));
        }
        Ok(meta.file_type().is_block_device().then(|| devno(meta.rdev())))
    }

    /// The number of the device that the filesystem of the file at `path` says it lies on.
    pub(super) fn filesystem_number(&self, path: &Path) -> Option<DevNo> {
        if self.fake {
            return stand_in(path, "f ");
        }
        fs::metadata(path).ok().map(|meta| devno(meta.dev()))
    }

    /// A path that a file of the kernel names (`/dev/sda`), as this program would open it.
    pub(super) fn local(&self, path: &Path) -> PathBuf {
        if !self.fake {
            return path.to_path_buf();
        }
        let root = self.dev.parent().unwrap_or(&self.dev);
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The node that the kernel gives a device, from its kernel name (in which `!` stands for `/`).
    pub(super) fn node(&self, kernel_name: &str) -> PathBuf {
        self.dev.join(kernel_name.replace('!', "/"))
    }

    /// The sysfs folder of a block device, canonical; `None` when the kernel knows of no such device.
    pub(crate) fn sys_folder(&self, number: DevNo) -> Option<PathBuf> {
        fs::canonicalize(self.sys.join(format!("dev/block/{number}"))).ok()
    }
}

/// Splits a device number as `stat` gives it.
pub(crate) fn devno(raw: u64) -> DevNo {
    // The C library defines both as 32 bits; what does not fit could not be looked up either.
    DevNo {
        major: u32::try_from(nix::sys::stat::major(raw)).unwrap_or(u32::MAX),
        minor: u32::try_from(nix::sys::stat::minor(raw)).unwrap_or(u32::MAX),
    }
}

fn stand_in(path: &Path, kind: &str) -> Option<DevNo> {
    text(path)?.strip_prefix(kind)?.parse().ok()
}

/// The bytes of a small file; `None` when it cannot be read.
pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    // Opening a FIFO or a terminal could block: only plain files are of interest.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut out = Vec::new();
    File::open(path).ok()?.take(LONGEST_FILE).read_to_end(&mut out).ok()?;
    Some(out)
}

/// The text of a small file without blanks at either end; `None` when it is empty or cannot be read.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = bytes(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_string())
}

/// The decimal number in a small file.
pub(crate) fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Whether a small file says `1`.
pub(super) fn flag(path: &Path) -> bool {
    number(path) == Some(1)
}

/// The names in a folder, sorted; none when it cannot be read.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut out: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    out.sort_unstable();
    out
}

/// The kernel name that a symlink such as `/dev/disk/by-id/…` → `../../cciss/c0d0` leads to.
pub(super) fn link_target_name(target: &Path) -> String {
    let parts: Vec<String> = target
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    let parts = match parts.split_first() {
        Some((first, rest)) if first == "dev" => rest.to_vec(),
        _ => parts,
    };
    parts.join("!")
}

/// Undoes the octal escapes (`\040` for a blank) of /proc/self/mountinfo and /proc/swaps.
pub(super) fn unescape(text: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if let (b'\\', [a, b, c, tail @ ..]) = (first, after)
            && let Some(byte) = octal(*a, *b, *c)
        {
            out.push(byte);
            rest = tail;
            continue;
        }
        out.push(first);
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn octal(a: u8, b: u8, c: u8) -> Option<u8> {
    let digit = |d: u8| d.checked_sub(b'0').filter(|d| *d < 8);
    digit(a)?.checked_mul(64)?.checked_add(digit(b)? * 8)?.checked_add(digit(c)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        assert_eq!(unescape(r"plain\9"), r"plain\9");
        assert_eq!(unescape("\\"), "\\");
    }

    #[test]
    fn link_targets_become_kernel_names() {
        assert_eq!(link_target_name(Path::new("../../sda1")), "sda1");
        assert_eq!(link_target_name(Path::new("../../cciss/c0d0")), "cciss!c0d0");
        assert_eq!(link_target_name(Path::new("/dev/vda")), "vda");
    }

    #[test]
    fn numbers_split_as_the_kernel_counts() {
        let raw = nix::sys::stat::makedev(259, 1_048_575);
        assert_eq!(devno(raw), DevNo { major: 259, minor: 1_048_575 });
    }
}
