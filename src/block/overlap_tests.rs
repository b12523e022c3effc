use crate::block::fake_tree::Tree;

fn overlap(tree: &Tree, a: &str, b: &str) -> Option<String> {
    let (a, b) = (tree.device(a), tree.device(b));
    let host = tree.host();
    let why = host.overlap(&a, &b);
    assert_eq!(why.is_some(), host.overlap(&b, &a).is_some(), "symmetric");
    if why.is_some() {
        assert!(host.same_disk(&a, &b));
    }
    // Without the made-up root, as a person would see it.
    why.map(|why| why.replace(&tree.path("").display().to_string(), "/"))
}

fn same_disk(tree: &Tree, a: &str, b: &str) -> bool {
    tree.host().same_disk(&tree.device(a), &tree.device(b))
}

#[test]
fn disks_and_partitions() {
    let tree = Tree::new();
    let (disk, _) = tree.ata_disk();
    tree.partition(&disk, ("sda2", "8:2"), 2, (1_100_000, 1000));
    tree.partition(&disk, ("sda3", "8:3"), 3, (1_000_000, 100_001));
    tree.disk("sdb", "8:16", 2_000_000);
    let same = overlap(&tree, "sda", "sda").unwrap();
    assert_eq!(same, "/dev/sda and /dev/sda are the same device");
    let inside = overlap(&tree, "sda", "sda1").unwrap();
    assert_eq!(inside, "/dev/sda1 is a partition of /dev/sda");
    assert_eq!(overlap(&tree, "sda1", "sda2"), None);
    assert!(overlap(&tree, "sda3", "sda2").unwrap().contains("partitions that overlap"));
    assert_eq!(overlap(&tree, "sda", "sdb"), None);
    assert!(same_disk(&tree, "sda1", "sda2") && !same_disk(&tree, "sda1", "sdb"));
}

#[test]
fn stacked_devices() {
    let tree = Tree::new();
    let (disk, part) = tree.ata_disk();
    tree.partition(&disk, ("sda2", "8:2"), 2, (1_100_000, 1000));
    let md = tree.disk("md0", "9:0", 5000);
    tree.stack(&md, &part);
    let (root, home) = (tree.disk("dm-0", "253:0", 2000), tree.disk("dm-1", "253:1", 2000));
    tree.stack(&root, &md);
    tree.stack(&home, &md);
    assert_eq!(overlap(&tree, "dm-0", "md0").unwrap(), "/dev/dm-0 lies on /dev/md0");
    assert_eq!(overlap(&tree, "sda1", "dm-0").unwrap(), "/dev/dm-0 lies on /dev/sda1");
    assert_eq!(
        overlap(&tree, "dm-0", "sda").unwrap(),
        "/dev/dm-0 lies on /dev/sda1, and /dev/sda1 is a partition of /dev/sda"
    );
    assert_eq!(overlap(&tree, "dm-0", "sda2"), None);
    assert_eq!(overlap(&tree, "dm-0", "dm-1"), None, "two logical volumes");
    assert!(same_disk(&tree, "dm-0", "dm-1") && same_disk(&tree, "dm-0", "sda2"));
}

#[test]
fn a_loop_of_slaves_ends() {
    let tree = Tree::new();
    let (a, b) = (tree.disk("dm-0", "253:0", 2000), tree.disk("dm-1", "253:1", 2000));
    tree.stack(&a, &b);
    tree.stack(&b, &a);
    assert!(tree.host().overlap(&tree.device("dm-0"), &tree.device("dm-1")).is_some());
}

#[test]
fn two_paths_to_one_disk() {
    let tree = Tree::new();
    tree.ata_disk();
    let twin = tree.disk("sdb", "8:16", 2_000_000);
    tree.write(&format!("{twin}/device/wwid"), "naa.5000c500a1b2c3d4\n");
    assert_eq!(overlap(&tree, "sda", "sdb"), None, "another serial");
    tree.write(&format!("{twin}/device/vpd_pg80"), b"\0\x80\0\x08Z1D5ABCD");
    let why = overlap(&tree, "sda1", "sdb").unwrap();
    assert!(why.contains("two paths to one disk (WWN naa.5000c500a1b2c3d4)"), "{why}");
}

#[test]
fn loop_devices() {
    let tree = Tree::new();
    tree.ata_disk();
    let (a, b) = (tree.disk("loop0", "7:0", 100), tree.disk("loop1", "7:1", 100));
    tree.write("srv/one", "f 8:1\n").write("srv/two", "f 8:1\n");
    tree.write(&format!("{a}/loop/backing_file"), "/srv/one\n").write(&format!("{b}/loop/backing_file"), "/srv/two\n");
    assert_eq!(overlap(&tree, "loop0", "sda1").unwrap(), "/dev/loop0 lies on /dev/sda1");
    assert_eq!(overlap(&tree, "loop0", "loop1"), None);
    assert!(same_disk(&tree, "loop0", "loop1"));

    tree.write(&format!("{b}/loop/backing_file"), "/srv/one\n").write(&format!("{b}/loop/offset"), "25600\n");
    let why = overlap(&tree, "loop0", "loop1").unwrap();
    assert!(why.ends_with("over the same file /srv/one"), "{why}");
    tree.write(&format!("{b}/loop/offset"), "51200\n");
    assert_eq!(overlap(&tree, "loop0", "loop1"), None, "another part of it");

    // A file on btrfs, whose number leads nowhere: the mount tells.
    tree.write("srv/one", "f 0:45\n").write(
        "proc/self/mountinfo",
        "1 1 254:0 / / rw - ext4 /dev/vda rw\n30 1 0:44 /@ /srv rw - btrfs /dev/sda1 rw\n",
    );
    assert_eq!(overlap(&tree, "loop0", "sda1").unwrap(), "/dev/loop0 lies on /dev/sda1");
}
