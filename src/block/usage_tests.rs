use super::*;
use crate::block::fake_tree::Tree;

fn told(tree: &Tree, name: &str) -> Vec<String> {
    let uses = tree.host().usage(&tree.device(name));
    uses.iter().map(Use::to_string).collect()
}

#[test]
fn a_free_disk_has_no_users() {
    let tree = Tree::new();
    tree.ata_disk();
    tree.write("proc/self/mountinfo", "22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n");
    assert!(told(&tree, "sda").is_empty());
    assert!(told(&tree, "sda1").is_empty());
    assert!(tree.host().claim_check(&tree.device("sda")).is_ok());
}

#[test]
fn mounts_are_found_by_number_and_through_partitions() {
    let tree = Tree::new();
    let (disk, _) = tree.ata_disk();
    tree.partition(&disk, ("sda2", "8:2"), 2, (1_100_000, 1000));
    tree.write(
        "proc/self/mountinfo",
        "30 22 8:1 / /mnt/my\\040disk rw,noatime shared:5 master:2 - ext4 /dev/sda1 rw\n\
         broken line\n",
    );
    assert_eq!(told(&tree, "sda1"), ["mounted at /mnt/my disk (ext4)"]);
    assert_eq!(told(&tree, "sda"), ["in use: its partition sda1 is mounted at /mnt/my disk (ext4)"]);
    assert!(told(&tree, "sda2").is_empty(), "a neighbour is free");
}

#[test]
fn a_btrfs_mount_is_found_by_source_and_membership() {
    let tree = Tree::new();
    tree.ata_disk();
    let other = tree.disk("sdb", "8:16", 1000);
    tree.write("proc/self/mountinfo", "30 22 0:45 /@ /data rw - btrfs /dev/sda1 rw,subvol=/@\n")
        .link("sys/fs/btrfs/0b5c-77/devices/sdb", tree.path(&other))
        .link("sys/fs/btrfs/0b5c-77/devices/sda1", tree.path(&other));
    assert_eq!(told(&tree, "sda1"), ["mounted at /data (btrfs)"]);
    assert_eq!(told(&tree, "sdb"), ["part of the mounted btrfs filesystem 0b5c-77"]);
}

#[test]
fn mount_points_tell_what_is_seen_and_what_is_hidden() {
    let tree = Tree::new();
    tree.ata_disk();
    tree.write(
        "proc/self/mountinfo",
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
         30 22 8:1 / /srv/a rw - xfs /dev/sda1 rw\n\
         31 22 8:1 /in\\040side /srv/b rw - xfs /dev/sda1 rw\n\
         32 22 0:40 / /srv/a rw - tmpfs tmpfs rw\n",
    );
    let points = tree.host().mount_points(&tree.device("sda1"));
    let point =
        |at: &str, root: &str, hidden| MountPoint { at: at.into(), root: root.into(), kind: "xfs".into(), hidden };
    assert_eq!(points, [point("/srv/a", "/", true), point("/srv/b", "/in side", false)]);
    assert!(tree.host().mount_points(&tree.device("sda")).is_empty());
}

#[test]
fn a_suspended_device_is_told() {
    let tree = Tree::new();
    let dm = tree.disk("dm-0", "253:0", 5000);
    assert!(!tree.host().is_suspended(&tree.device("dm-0")));
    tree.write(&format!("{dm}/dm/suspended"), "1\n");
    assert!(tree.host().is_suspended(&tree.device("dm-0")));
}

#[test]
fn swap_holders_and_loops_are_found() {
    let tree = Tree::new();
    let (disk, part) = tree.ata_disk();
    tree.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda1  partition\t1000\t0\t-2\n");
    assert_eq!(told(&tree, "sda1"), ["in use as swap"]);
    tree.write("proc/swaps", "");

    let dm = tree.disk("dm-0", "253:0", 5000);
    tree.write(&format!("{dm}/dm/name"), "vg-root\n").write(&format!("{dm}/dm/uuid"), "LVM-abc\n");
    tree.stack(&dm, &part);
    let md = tree.disk("md0", "9:0", 5000);
    tree.write(&format!("{md}/md/level"), "raid1\n");
    tree.stack(&md, &disk);
    assert_eq!(
        told(&tree, "sda1"),
        ["held by device-mapper device 'vg-root'", "in use: its disk sda is held by RAID array md0"]
    );
    assert_eq!(
        tree.host().usage(&tree.device("sda1"))[0],
        Use::Holder {
            name: "dm-0".into(),
            description: "device-mapper device 'vg-root'".into(),
            dm_uuid: Some("LVM-abc".into()),
        }
    );

    tree.disk("sdb", "8:16", 1000);
    let loop3 = tree.disk("loop3", "7:3", 1000);
    tree.write(&format!("{loop3}/loop/backing_file"), "/dev/sdb\n");
    assert_eq!(told(&tree, "sdb"), ["attached to loop device loop3"]);
}
