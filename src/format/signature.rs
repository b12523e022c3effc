//! What else lives on a device, told from its first and last bytes.
//!
//! Invariants:
//! - pure: bytes in, verdict out. Bytes that could not be read may be given as zeros;
//! - a weak magic number (two bytes) counts only together with plausible fields around it;
//! - a device that starts with our own magic is ours: nothing foreign is reported, the caller knows more.
//!
//! The magic numbers are those in the headers of the kernel or of the tools that own the format, named beside each.

use super::header::MAGIC;
use crate::units::Bytes;
use std::borrow::Cow;
use std::fmt;

/// Bytes from the start of a device that [`probe`] wants to see: all of a ZFS label.
pub const HEAD_BYTES: usize = 256 * 1024;

/// Bytes from the end of a device that [`probe`] wants to see: md 0.90 lies up to 128 KiB before it.
pub const TAIL_BYTES: usize = 128 * 1024;

/// What sort of thing a signature belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A filesystem, or a journal of one.
    Filesystem,
    /// A partition table.
    PartitionTable,
    /// A member of a RAID array, a volume group, a pool or a cache.
    Member,
    /// Encrypted data.
    Encryption,
    /// Swap space, or a hibernated system.
    Swap,
    /// Metadata of the out-of-tree dm-remap kernel module.
    RemapModule,
    /// Recognised by `blkid`, which does not say what sort it is.
    Other,
}

/// Something that was recognised on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What sort of thing it is.
    pub kind: Kind,
    /// What it is, in words without an article (`ext4 filesystem`).
    pub name: Cow<'static, str>,
    /// Where its magic number lies, in bytes from the start of the device; `None` when only `blkid` knows.
    pub offset: Option<Bytes>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(Bytes(offset)) => write!(f, "{} (signature at byte {offset})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Whether a device that starts with `head` has our own magic where a spare has it.
pub fn is_own(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// Recognises what is on a device of `size` bytes whose first bytes are `head` and whose last bytes are `tail`.
///
/// Give [`HEAD_BYTES`] and [`TAIL_BYTES`], or the whole device twice when it is smaller; less finds less.
/// The strongest signature is given when there are several.
pub fn probe(head: &[u8], tail: &[u8], size: Bytes) -> Option<Signature> {
    if is_own(head) {
        return None;
    }
    remap_module(head)
        .or_else(|| gpt(head, tail, size))
        .or_else(|| md(head, tail, size))
        .or_else(|| at_end(tail, size))
        .or_else(|| lvm(head))
        .or_else(|| fixed(head))
        .or_else(|| ext(head))
        .or_else(|| swap(head))
        .or_else(|| zfs(head))
        .or_else(|| fat(head))
        .or_else(|| mbr(head))
}

fn found(kind: Kind, name: &'static str, offset: u64) -> Option<Signature> {
    Some(Signature { kind, name: Cow::Borrowed(name), offset: Some(Bytes(offset)) })
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

fn byte(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    let chunk = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_le_bytes(*chunk))
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    let chunk = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*chunk))
}

/// A magic number that is strong enough alone, at a fixed place: offset, bytes, sort, name.
type Magic = (usize, &'static [u8], Kind, &'static str);

/// Sources: include/uapi/linux/magic.h and the headers under fs/ and drivers/md/ of the kernel that the lines name;
/// for the others the project.
#[rustfmt::skip] // one line each reads better
const FIXED: &[Magic] = &[
    (0, b"LUKS\xba\xbe\x00\x01", Kind::Encryption, "LUKS1 encrypted volume"), // cryptsetup luks1
    (0, b"LUKS\xba\xbe\x00\x02", Kind::Encryption, "LUKS2 encrypted volume"), // cryptsetup luks2
    (16_384, b"SKUL\xba\xbe\x00\x02", Kind::Encryption, "LUKS2 backup header"),
    (3, b"-FVE-FS-", Kind::Encryption, "BitLocker volume"), // dislocker
    (0, b"XFSB", Kind::Filesystem, "XFS filesystem"), // xfs_format.h
    (65_600, b"_BHRfS_M", Kind::Filesystem, "btrfs filesystem"), // btrfs_tree.h
    (1024, &0xf2f5_2010_u32.to_le_bytes(), Kind::Filesystem, "f2fs filesystem"), // f2fs_fs.h
    (1024, &0xe0f5_e1e2_u32.to_le_bytes(), Kind::Filesystem, "EROFS filesystem"), // erofs_fs.h
    (1024, b"H+\0\x04", Kind::Filesystem, "HFS+ filesystem"), // hfsplus_raw.h: letters and version
    (1024, b"HX\0\x05", Kind::Filesystem, "HFSX filesystem"),
    (0, b"hsqs", Kind::Filesystem, "squashfs filesystem"), // squashfs_fs.h
    (32_768, b"JFS1", Kind::Filesystem, "JFS filesystem"), // jfs_superblock.h
    (65_588, b"ReIsEr", Kind::Filesystem, "ReiserFS filesystem"), // reiserfs.h
    (8_244, b"ReIsEr", Kind::Filesystem, "ReiserFS filesystem"),
    (65_536, b"ReIsEr4", Kind::Filesystem, "Reiser4 filesystem"),
    (65_536, &0x0116_1970_u32.to_be_bytes(), Kind::Filesystem, "GFS2 filesystem"), // gfs2_ondisk.h
    (1024, b"OCFSV2", Kind::Filesystem, "OCFS2 filesystem"), // ocfs2_fs.h, in the third block of any size
    (2048, b"OCFSV2", Kind::Filesystem, "OCFS2 filesystem"),
    (4096, b"OCFSV2", Kind::Filesystem, "OCFS2 filesystem"),
    (8192, b"OCFSV2", Kind::Filesystem, "OCFS2 filesystem"),
    (32, b"NXSB", Kind::Filesystem, "APFS container"), // Apple File System Reference
    (3, b"NTFS    ", Kind::Filesystem, "NTFS filesystem"), // ntfs3/ntfs.h
    (3, b"EXFAT   ", Kind::Filesystem, "exFAT filesystem"), // exfat_raw.h
    (32_769, b"CD001", Kind::Filesystem, "ISO 9660 filesystem"), // iso_fs.h
    (32_769, b"BEA01", Kind::Filesystem, "UDF filesystem"), // udf/ecma_167.h
    (516, b"!Stra0tis\x86\xff\x02^Arh", Kind::Member, "Stratis pool member"), // stratisd
    (4120, &BCACHE, Kind::Member, "bcache device"), // bcache_ondisk.h
    (4120, &BCACHEFS, Kind::Filesystem, "bcachefs filesystem"), // bcachefs_format.h
    (0, b"SnAp", Kind::Member, "device-mapper snapshot store"), // dm-snap-persistent.c
    (0, b"integrt\0", Kind::Member, "dm-integrity device"), // dm-integrity.c
    (0, b"verity\0\0", Kind::Member, "dm-verity hash device"), // cryptsetup
    (0, b"dmvdo001", Kind::Member, "VDO volume"), // dm-vdo/encodings.c
    (0, b"bluestore block device", Kind::Member, "Ceph BlueStore device"), // ceph
    (32, &27_022_010_u64.to_le_bytes(), Kind::Member, "dm-thin pool metadata"), // dm-thin-metadata.c
    (32, &6_142_003_u64.to_le_bytes(), Kind::Member, "dm-cache metadata"), // dm-cache-metadata.c
    (32, &2_126_579_579_u64.to_le_bytes(), Kind::Member, "dm-era metadata"), // dm-era-target.c
    (0, b"ER\x02\x00", Kind::PartitionTable, "Apple partition map"), // block/partitions/mac.h
    (512, b"WEV\x82", Kind::PartitionTable, "BSD disklabel"), // block/partitions/msdos.c
];

#[rustfmt::skip]
const BCACHE: [u8; 16] = [
    0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
];

#[rustfmt::skip]
const BCACHEFS: [u8; 16] = [
    0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef,
];

fn fixed(head: &[u8]) -> Option<Signature> {
    let (offset, _, kind, name) = FIXED.iter().find(|(offset, magic, ..)| has(head, *offset, magic))?;
    found(*kind, name, u64::try_from(*offset).ok()?)
}

/// lvm2, lib/label/label.h: a label in any of the first four sectors.
fn lvm(head: &[u8]) -> Option<Signature> {
    (0u16..4).map(|sector| sector * 512).find_map(|offset| {
        let at = usize::from(offset);
        let label = has(head, at, b"LABELONE") && has(head, at + 24, b"LVM2 001");
        label.then(|| found(Kind::Member, "LVM2 physical volume", u64::from(offset)))?
    })
}

/// The three layouts of the out-of-tree kernel module, as its disks have them.
fn remap_module(head: &[u8]) -> Option<Signature> {
    const V4_MAGIC: u32 = 0x444d_5234;
    const V3: &str = "metadata of the dm-remap kernel module, version 3";
    const V4: &str = "metadata of the dm-remap kernel module, version 4";
    const HELPER: &str = "metadata of the dm-remap kernel module's shell helper";
    if has(head, 0, b"DMREMAP3") {
        return found(Kind::RemapModule, V3, 0);
    }
    // Its first copy may be unreadable or overwritten: the second one lies in the head too.
    for offset in [0u32, 131_072] {
        let at = usize::try_from(offset).ok()?;
        if le32(head, at) == Some(V4_MAGIC) {
            // The size of the structure tells the two apart.
            let name = match le32(head, at + 32) {
                Some(2048) => HELPER,
                _ => V4,
            };
            return found(Kind::RemapModule, name, u64::from(offset));
        }
    }
    None
}

/// What `tail` holds from a place on, which is given in bytes from the start of the device.
fn in_tail(tail: &[u8], size: Bytes, offset: u64) -> Option<&[u8]> {
    let start = size.0.checked_sub(u64::try_from(tail.len()).ok()?)?;
    tail.get(usize::try_from(offset.checked_sub(start)?).ok()?..)
}

/// The UEFI specification, 5.3: a header in the second and in the last logical block.
fn gpt(head: &[u8], tail: &[u8], size: Bytes) -> Option<Signature> {
    const HEADER: &[u8] = b"EFI PART";
    for block in [512u16, 4096] {
        if has(head, usize::from(block), HEADER) {
            return found(Kind::PartitionTable, "GPT partition table", block.into());
        }
    }
    for block in [512, 4096] {
        let offset = size.0.checked_sub(block)?;
        if in_tail(tail, size, offset).is_some_and(|bytes| bytes.starts_with(HEADER)) {
            return found(Kind::PartitionTable, "GPT partition table (backup)", offset);
        }
    }
    None
}

/// include/uapi/linux/raid/md_p.h, and the places in drivers/md/md.c (super_90_load, super_1_load).
fn md(head: &[u8], tail: &[u8], size: Bytes) -> Option<Signature> {
    const MD: u32 = 0xa92b_4efc;
    let is_v1 = |bytes: &[u8], at: usize| le32(bytes, at) == Some(MD) && le32(bytes, at + 4) == Some(1);
    if is_v1(head, 0) {
        return found(Kind::Member, "md RAID member, metadata 1.1", 0);
    }
    if is_v1(head, 4096) {
        return found(Kind::Member, "md RAID member, metadata 1.2", 4096);
    }
    let sectors = size.0 / 512;
    let v1_0 = (sectors.checked_sub(16)? & !7) * 512;
    if in_tail(tail, size, v1_0).is_some_and(|bytes| is_v1(bytes, 0)) {
        return found(Kind::Member, "md RAID member, metadata 1.0", v1_0);
    }
    // 0.90 is in the byte order of the machine that made it.
    let v0_90 = (sectors & !127).checked_sub(128)? * 512;
    let bytes = in_tail(tail, size, v0_90)?;
    if bytes.starts_with(&MD.to_le_bytes()) || bytes.starts_with(&MD.to_be_bytes()) {
        return found(Kind::Member, "md RAID member, metadata 0.90", v0_90);
    }
    None
}

/// Metadata that counts from the end of the device: bytes before the end, magic number, name.
#[rustfmt::skip]
const AT_END: [(u64, &[u8], &str); 4] = [
    // drbd-utils drbdmeta.c: 60 bytes into the last 4 KiB, for the formats of 8 and 9.
    (4036, &0x8374_026b_u32.to_be_bytes(), "DRBD device"),
    (4036, &0x8374_026d_u32.to_be_bytes(), "DRBD device"),
    (1024, b"Intel Raid ISM Cfg Sig. ", "Intel firmware RAID member"), // mdadm super-intel.c
    (512, &0xde11_de11_u32.to_be_bytes(), "DDF firmware RAID member"), // mdadm super-ddf.c
];

fn at_end(tail: &[u8], size: Bytes) -> Option<Signature> {
    AT_END.iter().find_map(|(from_end, magic, name)| {
        let offset = size.0.checked_sub(*from_end)?;
        let hit = in_tail(tail, size, offset)?.starts_with(magic);
        hit.then(|| found(Kind::Member, name, offset))?
    })
}

/// fs/ext4/ext4.h: the superblock at 1024. Its magic has two bytes, so the fields around it must make sense.
fn ext(head: &[u8]) -> Option<Signature> {
    const BASE: usize = 1024;
    let field = |offset| le32(head, BASE + offset);
    let plausible = le16(head, BASE + 56)? == 0xef53
        && field(24)? <= 6 // logarithm of the block size, less 10
        && field(76)? <= 1 // revision
        && field(4)? > 0 // blocks
        && field(32)? > 0; // blocks in a group
    if !plausible {
        return None;
    }
    let (compatible, incompatible, read_only) = (field(92)?, field(96)?, field(100)?);
    let name = if incompatible & 0x8 != 0 {
        "ext4 external journal"
    } else if incompatible & !0x16 != 0 || read_only & !0x7 != 0 {
        // More than ext3 knows: filetype, recovery and meta_bg; sparse_super, large_file and btree_dir.
        "ext4 filesystem"
    } else if compatible & 0x4 != 0 {
        "ext3 filesystem"
    } else {
        "ext2 filesystem"
    };
    found(Kind::Filesystem, name, 1080)
}

/// include/linux/swap.h and kernel/power/swap.c: the last ten bytes of the first page, whatever its size.
fn swap(head: &[u8]) -> Option<Signature> {
    const ENDINGS: [(&[u8], &str); 5] = [
        (b"SWAPSPACE2", "swap space"),
        (b"SWAP-SPACE", "swap space"),
        (b"S1SUSPEND\0", "hibernated system in swap space"),
        (b"S2SUSPEND\0", "hibernated system in swap space"),
        (b"ULSUSPEND\0", "hibernated system in swap space"),
    ];
    for page in [4096u32, 8192, 16_384, 32_768, 65_536] {
        let at = usize::try_from(page - 10).ok()?;
        for (magic, name) in ENDINGS {
            if has(head, at, magic) {
                return found(Kind::Swap, name, u64::from(page - 10));
            }
        }
    }
    None
}

/// OpenZFS, include/sys/uberblock_impl.h: the ring of uberblocks is the second half of the first label.
fn zfs(head: &[u8]) -> Option<Signature> {
    const UBERBLOCK: u64 = 0x00ba_b10c;
    (0u32..128).map(|slot| 131_072 + slot * 1024).find_map(|offset| {
        let at = usize::try_from(offset).ok()?;
        let hit = has(head, at, &UBERBLOCK.to_le_bytes()) || has(head, at, &UBERBLOCK.to_be_bytes());
        hit.then(|| found(Kind::Member, "ZFS pool member", u64::from(offset)))?
    })
}

fn ends_as_boot_sector(head: &[u8]) -> bool {
    has(head, 510, &[0x55, 0xaa])
}

/// include/uapi/linux/msdos_fs.h: a jump and a parameter block that makes sense. The text in it is only a label.
fn fat(head: &[u8]) -> Option<Signature> {
    let sector = le16(head, 11)?;
    let (cluster, fats, media) = (byte(head, 13)?, byte(head, 16)?, byte(head, 21)?);
    let plausible = ends_as_boot_sector(head)
        && matches!(byte(head, 0)?, 0xeb | 0xe9)
        && sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && cluster.is_power_of_two()
        && le16(head, 14)? > 0 // reserved sectors
        && (1..=2).contains(&fats)
        && matches!(media, 0xf0 | 0xf8..);
    if !plausible {
        return None;
    }
    // Only FAT32 has no 16-bit length of a FAT.
    if le16(head, 22)? == 0 {
        return found(Kind::Filesystem, "FAT32 filesystem", 510);
    }
    let name = match head.get(54..62)? {
        b"FAT12   " => "FAT12 filesystem",
        b"FAT16   " => "FAT16 filesystem",
        _ => "FAT filesystem",
    };
    found(Kind::Filesystem, name, 510)
}

/// block/partitions/msdos.c: four entries, each marked as active or not, and nothing else.
fn mbr(head: &[u8]) -> Option<Signature> {
    if !ends_as_boot_sector(head) {
        return None;
    }
    let mut entries = head.get(446..510)?.chunks(16);
    if !entries.all(|entry| matches!(entry.first(), Some(0 | 0x80))) {
        return None;
    }
    found(Kind::PartitionTable, "MBR partition table", 510)
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
