use super::*;
use crate::block::ram::{Bad, RamDisk};
use nix::errno::Errno;

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

/// A disk of 4 MiB with XFS at the start, and an md superblock of version 1.0 at the end.
fn disk(md: bool) -> RamDisk {
    let disk = RamDisk::new("ram", Sectors(8192));
    let mut sector = [0; 512];
    sector[..4].copy_from_slice(b"XFSB");
    disk.write(Sectors(0), &sector).unwrap();
    if md {
        sector[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        disk.write(Sectors(8192 - 16), &sector).unwrap();
    }
    disk
}

fn name(disk: &RamDisk) -> Option<String> {
    let signature = read_signature(disk).unwrap();
    signature.map(|signature| signature.name.into_owned())
}

#[test]
fn both_ends_are_looked_at() {
    assert_eq!(name(&disk(false)).as_deref(), Some("XFS filesystem"));
    assert_eq!(name(&disk(true)).as_deref(), Some("md RAID member, metadata 1.0"));
    assert_eq!(name(&RamDisk::new("ram", Sectors(8192))), None);
    assert_eq!(name(&RamDisk::new("tiny", Sectors(1))), None);
}

#[test]
fn bad_sectors_hide_only_themselves() {
    let disk = disk(false);
    disk.set_bad(range(1, 5), Bad::Reads(Errno::ENODATA));
    disk.set_bad(range(300, 1), Bad::Reads(Errno::EIO));
    assert_eq!(name(&disk).as_deref(), Some("XFS filesystem"));
}

#[test]
fn a_hopeless_disk_is_not_asked_for_ever() {
    let disk = disk(false);
    disk.set_bad(range(0, 8192), Bad::Reads(Errno::ENODATA));
    assert_eq!(read_signature(&disk).unwrap_err().errno, Errno::ENODATA);
    assert!(disk.sectors_read() < 2000);
    disk.clear_bad();
    disk.set_failing(Some(Errno::ENODEV));
    assert_eq!(read_signature(&disk).unwrap_err().errno, Errno::ENODEV);
}

#[test]
fn our_own_spare_is_nothing_foreign() {
    let disk = disk(true);
    let mut sector = [0; 512];
    sector[..8].copy_from_slice(b"dm-remap");
    disk.write(Sectors(0), &sector).unwrap();
    assert_eq!(name(&disk), None);
}

#[test]
fn blkid_is_understood() {
    let text = |code, text: &str| interpret(code, text).map(|s| (s.kind, s.name.into_owned()));
    let ext4 = "DEVNAME=/dev/sda1\nLABEL=x\nUUID=1-2\nTYPE=ext4\nUSAGE=filesystem\nPART_ENTRY_TYPE=0x83\n";
    assert_eq!(text(0, ext4), Some((Kind::Filesystem, "ext4 filesystem".into())));
    let member = "TYPE=linux_raid_member\nUSAGE=raid\n";
    assert_eq!(text(0, member), Some((Kind::Member, "linux_raid_member".into())));
    let only_entry = "DEVNAME=/dev/sda1\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_TYPE=0fc6\n";
    assert_eq!(text(0, only_entry), None);
    assert_eq!(text(0, "PTUUID=1\nPTTYPE=gpt\n"), Some((Kind::PartitionTable, "gpt partition table".into())));
    assert_eq!(text(2, ""), None);
    assert!(text(8, "").unwrap().1.contains("wipefs"));
}

#[test]
fn a_child_that_hangs_is_left() {
    let started = Instant::now();
    let child = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(finish(child, Duration::from_millis(100)), None);
    assert!(started.elapsed() < Duration::from_secs(5));
    let child = Command::new("echo").arg("TYPE=x").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(finish(child, PATIENCE), Some((0, "TYPE=x\n".into())));
}
