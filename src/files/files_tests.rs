//! What is asked where, and what is said when nothing can be asked.

use super::*;
use crate::block::Disk;
use crate::block::fake_tree::Tree;
use crate::block::ram::RamDisk;

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn told(tree: &Tree, name: &str, ranges: &[Range]) -> Vec<String> {
    let owned = owners(&tree.host(), &tree.device(name), ranges);
    owned.iter().map(|owned| format!("{}: {owned}", owned.range)).collect()
}

#[test]
fn nothing_is_looked_up_where_nothing_was_lost() {
    let tree = Tree::new();
    tree.ata_disk();
    assert!(told(&tree, "sda1", &[]).is_empty());
}

#[test]
fn what_cannot_be_found_out_is_told_with_the_reason() {
    let tree = Tree::new();
    let dm = tree.disk("dm-0", "253:0", 5000);
    tree.write(&format!("{dm}/dm/suspended"), "1\n");
    assert_eq!(told(&tree, "dm-0", &[range(8, 2)]), ["8+2: unknown: not looked up: the device is suspended"]);
    tree.write(&format!("{dm}/dm/suspended"), "0\n");
    tree.write("proc/self/mountinfo", "30 22 253:0 / /srv rw - f2fs /dev/dm-0 rw\n");
    assert_eq!(told(&tree, "dm-0", &[range(8, 2)]), ["8+2: unknown: files cannot be looked up on f2fs"]);
    let none = owners_within(&tree.host(), &tree.device("dm-0"), &[range(8, 2)], Duration::ZERO);
    assert_eq!(none[0].to_string(), "unknown: not looked up");
}

#[test]
fn a_search_is_bounded_and_says_what_it_left_out() {
    let tree = Tree::new();
    tree.disk("dm-0", "253:0", 100_000);
    let ranges: Vec<Range> = (0..1500).map(|n| range(n * 16, 8)).collect();
    let answer = owners(&tree.host(), &tree.device("dm-0"), &ranges);
    let left_out = answer.iter().filter(|owned| owned.to_string().contains("only the first 1000 runs"));
    assert_eq!((answer.len(), left_out.count()), (1500, 500));
}

fn classified(fill: impl Fn(&RamDisk), ranges: Vec<Range>) -> (Option<String>, Vec<String>) {
    let disk = RamDisk::new("disk", Sectors(4096));
    fill(&disk);
    let mut search = Search::new(ranges);
    let kind = classify(&disk, &mut search);
    (kind, search.finish(None).iter().map(Owned::to_string).collect())
}

fn write(disk: &RamDisk, at: usize, bytes: &[u8]) {
    let mut image = vec![0; 4096 * 512];
    image[at..at + bytes.len()].copy_from_slice(bytes);
    disk.write(Sectors::ZERO, &image).unwrap();
}

#[test]
fn content_decides_what_is_asked() {
    let far = || vec![range(3000, 8)];
    let (kind, _) = classified(|disk| write(disk, 0, b"XFSB"), far());
    assert_eq!(kind.as_deref(), Some("xfs"));
    let (kind, _) = classified(|disk| write(disk, 65_600, b"_BHRfS_M"), far());
    assert_eq!(kind.as_deref(), Some("btrfs"));
    let (kind, told) = classified(|disk| write(disk, 4086, b"SWAPSPACE2"), far());
    assert_eq!((kind, told), (None, vec!["no filesystem, but swap space".to_string()]));
    let (kind, told) = classified(|disk| write(disk, 0, b"LUKS\xba\xbe\x00\x02"), far());
    assert_eq!(kind, None);
    assert_eq!(told, ["unknown: on the device is: LUKS2 encrypted volume; what is inside is not followed"]);
    let (kind, told) = classified(|_| {}, far());
    assert_eq!((kind, told), (None, vec!["no filesystem is known there".to_string()]));
}

#[test]
fn where_the_superblock_may_be_lost_nothing_is_claimed() {
    // Zeroed: it reads, but what it was is gone.
    let (_, told) = classified(|_| {}, vec![range(2, 2), range(3000, 8)]);
    assert!(
        told.iter().all(|line| line.contains("its beginning, where a filesystem would say so, is damaged")),
        "{told:?}"
    );
    // Held: it does not read.
    let (_, told) = classified(
        |disk| disk.set_bad(range(130, 1), crate::block::ram::Bad::Reads(nix::errno::Errno::ENODATA)),
        vec![range(3000, 8)],
    );
    assert!(told[0].contains("is damaged"), "{told:?}");
}
