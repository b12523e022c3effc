use super::*;
use crate::block::fake_tree::Tree;
use crate::identity::Match;
use std::os::unix::fs::symlink;

const UUID: &str = "0b5c7c5e-1111-4222-8333-444455556666";

#[test]
fn a_sata_disk_and_its_partition() {
    let tree = Tree::new();
    let (_, part) = tree.ata_disk();
    tree.write(&format!("{part}/uevent"), format!("DEVNAME=sda1\nPARTUUID={UUID}\n"))
        .link("dev/disk/by-id/wwn-0x5000c500a1b2c3d4", "../../sda")
        .link("dev/disk/by-id/ata-ST1000_Z1D5ABCD", "../../sda");
    let disk = tree.device("sda");
    assert_eq!((disk.size, disk.logical_block, disk.physical_block), (Sectors(2_000_000), Sectors(1), Sectors(8)));
    assert!(disk.rotational && !disk.removable && !disk.read_only && disk.partition.is_none());
    let id = &disk.identity;
    assert_eq!(id.wwn.as_deref(), Some("naa.5000c500a1b2c3d4"));
    assert_eq!(id.serial.as_deref(), Some("Z1D5ABCD"));
    assert_eq!(id.model.as_deref(), Some("ST1000DM003-1ER1"));
    assert!(id.path.as_deref().unwrap().ends_with("/dev/disk/by-id/ata-ST1000_Z1D5ABCD"));
    assert_eq!(id.fingerprint, id.compute_fingerprint());

    let part = tree.device("sda1");
    assert_eq!(part.partition, Some(Partition { disk: disk.devno, start: Sectors(2048), number: 1 }));
    assert_eq!(part.physical_block, Sectors(8), "the disk's");
    assert_eq!(part.identity.partition_uuid.as_deref(), Some(UUID));
    assert_eq!(part.identity.serial, id.serial);
    assert_eq!(part.on_disk(), (disk.devno, Range::new(Sectors(2048), Sectors(1_000_000))));
    assert_eq!(tree.host().device_by_number(part.devno).unwrap(), part);
}

#[test]
fn a_partition_uuid_comes_from_udev_on_older_kernels() {
    let tree = Tree::new();
    tree.ata_disk();
    assert_eq!(tree.device("sda1").identity.partition_uuid, None);
    tree.link("dev/disk/by-partuuid/deadbeef-01", "../../sda1");
    assert_eq!(tree.device("sda1").identity.partition_uuid.as_deref(), Some("deadbeef-01"));
    let upper = UUID.to_uppercase();
    tree.write("run/udev/data/b8:1", format!("S:disk/x\nE:ID_PART_ENTRY_UUID={upper}\n"));
    assert_eq!(tree.device("sda1").identity.partition_uuid.as_deref(), Some(UUID));
}

#[test]
fn names_of_other_buses() {
    let tree = Tree::new();
    let nvme = tree.disk("nvme0n1", "259:0", 5000);
    tree.write(&format!("{nvme}/wwid"), "eui.0025385b71b00a1c\n")
        .write(&format!("{nvme}/device/serial"), "S5GXNX0R123456      \n")
        .write(&format!("{nvme}/device/model"), "Samsung SSD 980 PRO 1TB   \n");
    let id = tree.device("nvme0n1").identity;
    assert_eq!(id.wwn.as_deref(), Some("eui.0025385b71b00a1c"));
    assert_eq!(id.serial.as_deref(), Some("S5GXNX0R123456"));
    assert_eq!(id.model.as_deref(), Some("Samsung SSD 980 PRO 1TB"));

    let virtio = tree.disk("vda", "254:0", 5000);
    tree.write(&format!("{virtio}/serial"), "data-7").write(&format!("{virtio}/device/vendor"), "0x1af4\n");
    let id = tree.device("vda").identity;
    assert_eq!((id.wwn, id.serial.as_deref(), id.model), (None, Some("data-7"), None));

    let mmc = tree.disk("mmcblk0", "179:0", 5000);
    tree.write(&format!("{mmc}/device/cid"), "035344534333324780aabbccdd011400\n")
        .write(&format!("{mmc}/device/serial"), "0xaabbccdd\n")
        .write(&format!("{mmc}/device/name"), "SC32G\n");
    let id = tree.device("mmcblk0").identity;
    assert_eq!(id.serial.as_deref(), Some("035344534333324780aabbccdd011400"));
    assert_eq!(id.model.as_deref(), Some("SC32G"));

    let usb = tree.disk("sdz", "65:0", 5000);
    tree.write(&format!("{usb}/device/vpd_pg80"), b"\0\x80\0\x0a0000000000")
        .write(&format!("{usb}/device/vendor"), "Generic \n")
        .write(&format!("{usb}/device/model"), "Flash Disk\n");
    let id = tree.device("sdz").identity;
    assert_eq!((id.serial.as_deref(), id.model.as_deref()), (None, Some("Generic Flash Disk")));
}

#[test]
fn what_has_no_name_is_unproven() {
    let tree = Tree::new();
    let ubd = tree.disk("ubda", "98:0", 5000);
    tree.write(&format!("{ubd}/serial"), "(null)");
    let loop0 = tree.disk("loop0", "7:0", 5000);
    tree.write(&format!("{loop0}/loop/backing_file"), "/srv/image\n");
    for name in ["ubda", "loop0"] {
        let id = tree.device(name).identity;
        assert!(!id.has_stable_name());
        assert_eq!(id.matches(&id.clone()), Match::Unproven);
        assert!(id.path.unwrap().ends_with(name));
    }
}

#[test]
fn virtual_devices_have_their_uuid() {
    let tree = Tree::new();
    let dm = tree.disk("dm-0", "253:0", 5000);
    tree.write(&format!("{dm}/dm/uuid"), "LVM-AbCdEf\n")
        .write(&format!("{dm}/dm/name"), "vg-root\n")
        .write("dev/mapper/vg-root", "b 253:0\n");
    let device = tree.device("mapper/vg-root");
    assert_eq!(device.identity.virtual_uuid.as_deref(), Some("LVM-AbCdEf"));
    assert_eq!(device.name, "dm-0");
    assert!(device.identity.path.unwrap().ends_with("/dev/mapper/vg-root"));

    let hex = "0123456789abcdef0123456789abcde0";
    tree.write(&format!("{dm}/dm/uuid"), format!("CRYPT-LUKS2-{hex}-home"));
    let id = tree.device("dm-0").identity;
    assert_eq!(id.virtual_uuid, Some(format!("CRYPT-LUKS2-{hex}")));
    tree.write(&format!("{dm}/dm/uuid"), "CRYPT-PLAIN-home");
    assert_eq!(tree.device("dm-0").identity.virtual_uuid, None);

    let md = tree.disk("md0", "9:0", 5000);
    tree.write(&format!("{md}/md/level"), "raid1\n")
        .link("dev/disk/by-id/md-uuid-01234567:89abcdef:01234567:89abcde0", "../../md0");
    let id = tree.device("md0").identity;
    assert_eq!(id.virtual_uuid, Some(format!("MD-{hex}")));
}

#[test]
fn odd_devices_are_described_as_they_are() {
    let tree = Tree::new();
    let disk = tree.disk("sdb", "8:16", 8000);
    tree.write(&format!("{disk}/ro"), "1\n")
        .write(&format!("{disk}/removable"), "1\n")
        .write(&format!("{disk}/queue/rotational"), "0\n")
        .write(&format!("{disk}/queue/logical_block_size"), "4096\n")
        .write(&format!("{disk}/queue/physical_block_size"), "512\n");
    let device = tree.device("sdb");
    assert!(device.read_only && device.removable && !device.rotational);
    assert_eq!((device.size, device.logical_block, device.physical_block), (Sectors(8000), Sectors(8), Sectors(8)));
}

#[test]
fn errors_say_what_was_found() {
    let tree = Tree::new();
    let disk = tree.disk("sda", "8:0", 0);
    let host = tree.host();
    let error = |name: &str| host.device(&tree.path(name)).unwrap_err();
    assert!(matches!(error("dev/nothing"), DeviceError::NotFound { .. }));
    assert!(error("dev").to_string().contains("is a directory, not a block device"));
    tree.write("dev/file", "text");
    assert!(error("dev/file").to_string().contains("losetup"));
    assert!(matches!(error("dev/sda"), DeviceError::Empty { .. }));
    tree.write(&format!("{disk}/size"), "100").write(&format!("{disk}/queue/logical_block_size"), "513");
    assert!(error("dev/sda").to_string().contains("logical_block_size holds '513'"));
    tree.write("dev/stale", "b 8:99");
    let stale = error("dev/stale");
    assert!(matches!(stale, DeviceError::Unknown { .. }) && stale.to_string().contains("8:99"));
}

#[test]
fn all_devices_leaves_out_what_cannot_be_used() {
    let tree = Tree::new();
    tree.ata_disk();
    tree.disk("ram0", "1:0", 100);
    tree.disk("loop0", "7:0", 0);
    let broken = tree.disk("sdb", "8:16", 100);
    tree.write(&format!("{broken}/size"), "junk");
    tree.disk("cciss!c0d0", "104:0", 100);
    let all = tree.host().all_devices();
    let names: Vec<&str> = all.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["cciss!c0d0", "sda", "sda1"]);
    assert!(all[0].path.ends_with("dev/cciss/c0d0"));
    assert!(Host::under(Path::new("/nonexistent")).all_devices().is_empty());
}

#[test]
fn symlinks_are_followed() {
    let tree = Tree::new();
    tree.ata_disk();
    symlink("sda", tree.path("dev/mydisk")).unwrap();
    assert_eq!(tree.device("mydisk"), tree.device("sda"));
}
