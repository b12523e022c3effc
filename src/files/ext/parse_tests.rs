//! The samples are what the tools of e2fsprogs 1.47.0 printed for filesystems made for it, shortened.

use super::*;
use proptest::prelude::*;

const DUMPE2FS: &str = include_str!("../../../tests/data/files/dumpe2fs.txt");
const STAT: &str = include_str!("../../../tests/data/files/debugfs-stat-extents.txt");
const STAT_BLOCKS: &str = include_str!("../../../tests/data/files/debugfs-stat-blocks.txt");

fn fed(text: &str) -> (Layout, Vec<(Range, Item)>) {
    let mut layout = Layout::default();
    let items = text.lines().flat_map(|line| layout.feed(line, |_| true)).collect();
    (layout, items)
}

fn at(items: &[(Range, Item)], sector: u64) -> Option<Item> {
    items.iter().find(|(range, _)| range.contains(Sectors(sector))).map(|(_, item)| *item)
}

#[test]
fn dumpe2fs_tells_what_lies_where() {
    let (layout, items) = fed(DUMPE2FS);
    // Blocks of 1024 bytes: two sectors each.
    assert_eq!((layout.block_bytes, layout.block_count, layout.journal), (1024, 65536, Some(8)));
    assert!(layout.needs_recovery);
    let metadata = |what| Some(Item::Metadata(what));
    assert_eq!(at(&items, 2), metadata("superblock"));
    assert_eq!(at(&items, 4), metadata("group descriptors"));
    assert_eq!(at(&items, 6), metadata("reserved for group descriptors"));
    assert_eq!(at(&items, 519), metadata("block bitmap"));
    assert_eq!(at(&items, 534), metadata("inode bitmap"));
    assert_eq!(at(&items, 2 * 786 + 1), metadata("inode table"));
    assert_eq!(at(&items, 2 * 8193), metadata("backup of the superblock"));
    assert_eq!(at(&items, 2 * 8823), Some(Item::Free));
    assert_eq!(at(&items, 2 * 8825), None, "in use");
    assert_eq!(at(&items, 2 * 4401 + 1), None, "the last one in use before free ones");
    assert_eq!(at(&items, 2 * 4402), Some(Item::Free));
    assert_eq!((layout.block_of(Sectors(519)), layout.sectors(9, 9)), (Some(259), Range::new(Sectors(18), Sectors(2))));
    let mut layout = Layout::default();
    let items: Vec<_> = DUMPE2FS.lines().flat_map(|line| layout.feed(line, |_| false)).collect();
    assert!(!items.iter().any(|(_, item)| *item == Item::Free));
}

#[test]
fn debugfs_tells_places_where_dumpe2fs_fails() {
    let text = "Block count:              65536\nBlock size:               1024\nInode blocks per group:   512\n\
                \x20Group  0: block bitmap at 259, inode bitmap at 267, inode table at 275\n           3791 free blocks, 1729 free inodes\n";
    let mut layout = Layout::default();
    let items: Vec<_> = text.lines().flat_map(|line| layout.feed_stats(line)).collect();
    assert_eq!(at(&items, 519), Some(Item::Metadata("block bitmap")));
    assert_eq!(at(&items, 2 * 786 + 1), Some(Item::Metadata("inode table")));
    assert_eq!((at(&items, 2 * 787), items.len()), (None, 3));
}

#[test]
fn inodes_that_are_nobodys_are_known() {
    let (layout, _) = fed("First inode: 11\nUser quota inode: 3\nOrphan file inode: 12\n");
    assert_eq!(layout.special(3), Some("quota"));
    assert_eq!(layout.special(12), Some("list of orphans"));
    assert_eq!(layout.special(7), Some("reserved for group descriptors"));
    assert_eq!((layout.special(2), layout.special(11)), (None, None));
}

#[test]
fn stat_tells_the_blocks_of_an_inode() {
    let file = stat(STAT);
    assert_eq!((file.directory, file.links), (false, 1));
    assert_eq!(file.blocks[0], (8744, 8744, Part::Map));
    assert_eq!(file.blocks[1], (9223, 9230, Part::Content));
    assert!(file.blocks.contains(&(8745, 8768, Part::Content)));
    let file = stat(STAT_BLOCKS);
    assert_eq!(file.blocks[0], (9239, 9246, Part::Content));
    assert!(file.blocks.contains(&(8969, 8969, Part::Map)));
    let pre = stat(
        "Inode: 13   Type: regular    Mode:  0644\nFile ACL: 77\nLinks: 2   Blockcount: 8\nEXTENTS:\n(0-255[u]):2065-2320\n",
    );
    assert_eq!(pre.blocks, [(77, 77, Part::Attributes), (2065, 2320, Part::Unwritten)]);
    assert_eq!(pre.links, 2);
    assert!(stat("Inode: 2   Type: directory    Mode:  0755   Flags: 0x80000\n").directory);
}

#[test]
fn icheck_tells_the_inodes_of_blocks() {
    let text = "Block\tInode number\n2112\t<block not found>\n40\t7\n20000\t8\n";
    assert_eq!(icheck(text), [(40, 7), (20000, 8)].into());
}

#[test]
fn ncheck_tells_all_names_also_those_of_two_lines() {
    let text = "Inode\tPathname\n12\t//sub dir\n14\t//link\n16\t//new\nline\n13\t/sub dir/deep\n14\t/sub dir/deep/my büch.txt\n";
    let names = ncheck(text, |inode| inode != 12);
    assert_eq!(names[&14], ["/link", "/sub dir/deep/my büch.txt"]);
    assert_eq!(names[&13], ["/sub dir/deep"]);
    assert_eq!(names[&16], ["/new\nline"]);
    assert!(!names.contains_key(&12));
    assert!(ncheck("Inode\tPathname\n", |_| true).is_empty());
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "(?s).{0,200}", lines in "((Block size|Group 0): ?|\\(Blocks|[0-9]{1,20}|-|, |\\)| at |\\t|\\(|:|\n|Free blocks:|EXTENTS:\n){0,40}") {
        for text in [&text, &lines] {
            fed(text);
            fed(&format!("Block size: 4096\nBlock count: 18446744073709551615\nGroup 0: (Blocks 0-18446744073709551615)\n{text}"));
            text.lines().for_each(|line| drop(Layout::default().feed_stats(line)));
            stat(text);
            icheck(text);
            ncheck(text, |_| true);
        }
    }
}
