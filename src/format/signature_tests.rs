use super::*;

const SIZE: u64 = 64 << 20;

/// What `probe` says of a device of `size` bytes that is zero but for these pieces.
fn of_size(size: u64, pieces: &[(u64, &[u8])]) -> Option<(String, u64)> {
    let mut head = vec![0; HEAD_BYTES.min(size as usize)];
    let mut tail = vec![0; TAIL_BYTES.min(size as usize)];
    let tail_start = size - tail.len() as u64;
    for (offset, bytes) in pieces {
        let at = *offset as usize;
        if at + bytes.len() <= head.len() {
            head[at..][..bytes.len()].copy_from_slice(bytes);
        }
        if *offset >= tail_start {
            tail[(offset - tail_start) as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    let signature = probe(&head, &tail, Bytes(size))?;
    Some((signature.name.into_owned(), signature.offset.unwrap().0))
}

fn of(pieces: &[(u64, &[u8])]) -> Option<(String, u64)> {
    of_size(SIZE, pieces)
}

fn name(pieces: &[(u64, &[u8])]) -> String {
    of(pieces).map(|(name, _)| name).unwrap_or_default()
}

#[test]
fn nothing_is_recognised_in_zeros_and_short_input() {
    assert_eq!(of(&[]), None);
    for size in [0, 1, 512, 511, 4096, 65_536] {
        assert_eq!(of_size(size, &[]), None);
    }
    assert_eq!(probe(b"XFS", b"", Bytes(3)), None);
    assert_eq!(probe(&[], &[0; 600], Bytes(10)), None, "a tail longer than the device");
}

#[test]
fn every_fixed_magic_is_found_where_it_is() {
    for (offset, magic, kind, what) in FIXED {
        let mut head = vec![0; HEAD_BYTES];
        head[*offset..][..magic.len()].copy_from_slice(magic);
        let found = probe(&head, &[], Bytes(SIZE)).unwrap();
        assert_eq!((found.kind, found.name.as_ref()), (*kind, *what));
        assert_eq!(found.offset, Some(Bytes(*offset as u64)));
        assert!(offset + magic.len() <= HEAD_BYTES);
    }
}

#[test]
fn our_own_magic_is_not_foreign() {
    assert_eq!(of(&[(0, b"dm-remap"), (512, b"EFI PART"), (1024, b"OCFSV2")]), None);
    assert!(of(&[(8, b"dm-remap"), (512, b"EFI PART")]).is_some());
}

/// An ext superblock with the given feature words.
fn ext(compatible: u32, incompatible: u32, read_only: u32) -> Vec<u8> {
    let mut block = vec![0; 1024];
    for (offset, value) in
        [(0, 128), (4, 1000), (24, 2), (32, 8192), (76, 1), (92, compatible), (96, incompatible), (100, read_only)]
    {
        block[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    block[56..58].copy_from_slice(&[0x53, 0xef]);
    block
}

#[test]
fn ext_filesystems_are_told_apart() {
    let tell = |features: Vec<u8>| name(&[(1024, &features)]);
    assert_eq!(tell(ext(0x38, 0x2, 0x3)), "ext2 filesystem");
    assert_eq!(tell(ext(0x3c, 0x6, 0x3)), "ext3 filesystem");
    assert_eq!(tell(ext(0x3c, 0x2c2, 0x46b)), "ext4 filesystem");
    assert_eq!(tell(ext(0, 0x8, 0)), "ext4 external journal");
    // Two bytes that happen to be there are not enough.
    assert_eq!(of(&[(1080, &[0x53, 0xef])]), None);
    let mut wild = ext(0, 0, 0);
    wild[24] = 7;
    assert_eq!(tell(wild), "");
}

#[test]
fn swap_is_found_for_every_page_size() {
    for page in [4096, 8192, 16_384, 32_768, 65_536] {
        assert_eq!(of(&[(page - 10, b"SWAPSPACE2")]), Some(("swap space".into(), page - 10)));
    }
    assert!(name(&[(4086, b"S1SUSPEND\0")]).starts_with("hibernated"));
}

#[test]
fn lvm_labels_may_be_in_four_sectors() {
    for sector in 0..4 {
        let at = sector * 512;
        let found = of(&[(at, b"LABELONE"), (at + 24, b"LVM2 001")]);
        assert_eq!(found, Some(("LVM2 physical volume".into(), at)));
    }
    assert_eq!(of(&[(512, b"LABELONE")]), None);
}

#[test]
fn md_is_found_at_all_its_places() {
    let v1 = [0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0];
    assert!(name(&[(0, &v1)]).ends_with("1.1"));
    assert!(name(&[(4096, &v1)]).ends_with("1.2"));
    // On a size that is no multiple of 4 KiB, nor of 64 KiB.
    let size = SIZE + 5 * 512;
    let v1_0 = SIZE - 8192;
    assert_eq!(of_size(size, &[(v1_0, &v1)]).unwrap(), ("md RAID member, metadata 1.0".into(), v1_0));
    let v0 = SIZE - 65_536;
    for magic in [[0xfc, 0x4e, 0x2b, 0xa9], [0xa9, 0x2b, 0x4e, 0xfc]] {
        assert_eq!(of_size(size, &[(v0, &magic)]).unwrap(), ("md RAID member, metadata 0.90".into(), v0));
    }
}

#[test]
fn partition_tables_and_their_backups() {
    assert!(name(&[(512, b"EFI PART"), (510, &[0x55, 0xaa])]).starts_with("GPT"));
    assert!(name(&[(4096, b"EFI PART")]).starts_with("GPT"));
    for block in [512, 4096] {
        let at = SIZE - block;
        assert_eq!(of(&[(at, b"EFI PART")]).unwrap(), ("GPT partition table (backup)".into(), at));
    }
    assert_eq!(of(&[(510, &[0x55, 0xaa])]).unwrap(), ("MBR partition table".into(), 510));
    assert_eq!(of(&[(510, &[0x55, 0xaa]), (446, &[0x42])]), None, "not an entry");
}

#[test]
fn fat_is_not_taken_for_a_partition_table() {
    let mut boot = [0u8; 512];
    boot[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    boot[11..14].copy_from_slice(&[0, 2, 4]);
    boot[14] = 1;
    boot[16] = 2;
    boot[21] = 0xf8;
    boot[22] = 100;
    boot[54..62].copy_from_slice(b"FAT16   ");
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(name(&[(0, &boot)]), "FAT16 filesystem");
    boot[54..62].copy_from_slice(b"FAT12   ");
    assert_eq!(name(&[(0, &boot)]), "FAT12 filesystem");
    boot[22] = 0;
    assert_eq!(name(&[(0, &boot)]), "FAT32 filesystem");
    boot[13] = 3;
    assert_eq!(name(&[(0, &boot)]), "MBR partition table");
}

#[test]
fn metadata_at_the_end() {
    let drbd = (SIZE - 4096 + 60, &[0x83, 0x74, 0x02, 0x6d][..]);
    assert_eq!(name(&[drbd]), "DRBD device");
    assert_eq!(name(&[(SIZE - 1024, b"Intel Raid ISM Cfg Sig. ")]), "Intel firmware RAID member");
    assert_eq!(name(&[(SIZE - 512, &[0xde, 0x11, 0xde, 0x11])]), "DDF firmware RAID member");
}

#[test]
fn zfs_in_either_byte_order() {
    for (slot, magic) in [(0, [0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]), (127, [0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c])] {
        let at = 131_072 + slot * 1024;
        assert_eq!(of(&[(at, &magic)]).unwrap(), ("ZFS pool member".into(), at));
    }
}

#[test]
fn layouts_of_the_kernel_module() {
    let magic = [0x34, 0x52, 0x4d, 0x44];
    let size = 84_288u32.to_le_bytes();
    assert!(name(&[(0, &magic), (32, &size)]).ends_with("version 4"));
    assert!(name(&[(131_072, &magic), (131_104, &size)]).ends_with("version 4"));
    assert!(name(&[(0, &magic), (32, &2048u32.to_le_bytes())]).ends_with("shell helper"));
    assert_eq!(of(&[(0, b"DMREMAP3")]).unwrap().0, "metadata of the dm-remap kernel module, version 3");
    let signature = probe(b"DMREMAP3", &[], Bytes(SIZE)).unwrap();
    assert_eq!(signature.kind, Kind::RemapModule);
    assert!(signature.to_string().ends_with("version 3 (signature at byte 0)"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(head in proptest::collection::vec(0u8.., 0..9000), tail in proptest::collection::vec(0u8.., 0..9000), size in 0u64..) {
        let _ = probe(&head, &tail, Bytes(size));
    }
}
