//! Nodes in /dev/mapper, for machines where udev does not make them.

use crate::units::DevNo;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use nix::unistd::{Gid, Group, chown};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file name of a device's node: as libdevmapper writes it, with every byte outside of letters, digits and
/// `#+-.:=@_` as `\xNN`. What is written so already stays as it is.
pub(super) fn mangle(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
        if plain || (byte == b'\\' && is_mangled(name.as_bytes().get(at..).unwrap_or_default())) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Whether `text` starts with `\xNN`.
fn is_mangled(text: &[u8]) -> bool {
    matches!(text, [b'\\', b'x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

/// A device number from the form that `stat` and device-mapper give it in.
pub(super) fn number(dev: u64) -> Option<DevNo> {
    let (major, minor) = (u32::try_from(major(dev)).ok()?, u32::try_from(minor(dev)).ok()?);
    Some(DevNo { major, minor })
}

/// Whether `path` is, or leads to, the block device `devno`.
fn leads_to(path: &Path, devno: DevNo) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device() && number(meta.rdev()) == Some(devno))
}

/// Makes sure that the node of `name` in `dir` is the device `devno`, removing what is wrong first. Gives its path,
/// and whether it had to be made. Mode 0660 and group `disk` where there is that group, else 0600.
pub(super) fn ensure(dir: &Path, name: &str, devno: DevNo) -> Result<(PathBuf, bool), Errno> {
    let path = dir.join(mangle(name));
    if leads_to(&path, devno) {
        return Ok((path, false));
    }
    fs::create_dir_all(dir).map_err(|e| errno_of(&e))?;
    unlink(&path)?;
    let number = makedev(devno.major.into(), devno.minor.into());
    match mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number) {
        // Somebody was faster; udev, most likely.
        Err(Errno::EEXIST) if leads_to(&path, devno) => return Ok((path, false)),
        made => made?,
    }
    if let Ok(Some(Group { gid, .. })) = Group::from_name("disk") {
        open_to(&path, gid)?;
    }
    Ok((path, true))
}

/// Lets a group read and write a node that nobody but root could use before.
fn open_to(path: &Path, gid: Gid) -> Result<(), Errno> {
    chown(path, None, Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(|e| errno_of(&e))
}

/// Whether the node of `name`, of which no device exists, was a device-mapper device's: a node of that major number, or
/// a link as udev makes them, to a `dm-N` that is gone. What anybody else may have put there is not, nor is a link that
/// still leads to a device.
pub(super) fn is_left(dir: &Path, name: &str, dm_major: u64) -> bool {
    let path = dir.join(mangle(name));
    if let Ok(target) = fs::read_link(&path) {
        let to_dm = target.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(b"dm-"));
        return to_dm && matches!(fs::metadata(&path), Err(error) if error.kind() == io::ErrorKind::NotFound);
    }
    fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device() && major(meta.rdev()) == dm_major)
}

/// Removes the node of `name`, if it is still there. Leaves alone what is neither a link nor a block device.
pub(super) fn remove(dir: &Path, name: &str) -> Result<(), Errno> {
    let path = dir.join(mangle(name));
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_symlink() || meta.file_type().is_block_device() => unlink(&path),
        _ => Ok(()),
    }
}

fn unlink(path: &Path) -> Result<(), Errno> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(errno_of(&e)),
        _ => Ok(()),
    }
}

/// The errno of an I/O error; `EIO` for one that did not come from the kernel.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mangled_as_libdevmapper_does() {
        for (name, file) in [
            ("data-1_a.b:c=d@e#f+g", "data-1_a.b:c=d@e#f+g"),
            ("a b/c", r"a\x20b\x2fc"),
            ("ä", r"\xc3\xa4"),
            (r"a\x20b", r"a\x20b"),
            (r"a\b", r"a\x5cb"),
        ] {
            assert_eq!(mangle(name), file);
        }
    }

    #[test]
    fn a_wrong_node_is_replaced_and_a_right_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let devno = DevNo { major: 253, minor: 300 };
        fs::write(dir.path().join("a"), "stale").unwrap();
        let made = ensure(dir.path(), "a", devno);
        if made == Err(Errno::EPERM) {
            return; // mknod is for root
        }
        let (path, made) = made.unwrap();
        assert!(made && leads_to(&path, devno));
        assert_eq!(ensure(dir.path(), "a", devno), Ok((path.clone(), false)));
        let other = DevNo { major: 253, minor: 301 };
        assert!(ensure(dir.path(), "a", other).unwrap().1 && leads_to(&path, other));
        assert!(is_left(dir.path(), "a", 253) && !is_left(dir.path(), "a", 252));
        remove(dir.path(), "a").unwrap();
        remove(dir.path(), "a").unwrap();
        assert!(!path.exists() && !is_left(dir.path(), "a", 253));
    }

    #[test]
    fn only_a_devices_node_or_udevs_dangling_link_is_left_of_a_device() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "somebody's").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../dm-99", dir.path().join("dangling")).unwrap();
        let left = ["file", "link", "dangling", "nothing"].map(|name| is_left(dir.path(), name, 253));
        assert_eq!(left, [false, false, true, false]);
        std::os::unix::fs::symlink("../sdz", dir.path().join("unplugged")).unwrap();
        assert!(!is_left(dir.path(), "unplugged", 253), "somebody's link to a disk that is away");
        let devno = DevNo { major: 253, minor: 300 };
        if ensure(dir.path(), "dm-300", devno) == Err(Errno::EPERM) {
            return; // mknod is for root
        }
        std::os::unix::fs::symlink("dm-300", dir.path().join("alias")).unwrap();
        assert!(is_left(dir.path(), "dm-300", 253) && !is_left(dir.path(), "alias", 253), "another name of a device");
    }
}
