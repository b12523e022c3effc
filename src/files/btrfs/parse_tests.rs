//! The samples are what btrfs-progs 6.2 printed for a filesystem made for it.

use super::*;
use proptest::prelude::*;

const SUPER: &str = include_str!("../../../tests/data/files/btrfs-super.txt");
const CHUNK: &str = include_str!("../../../tests/data/files/btrfs-chunk.txt");
const ROOT: &str = include_str!("../../../tests/data/files/btrfs-root.txt");
const EXTENT: &str = include_str!("../../../tests/data/files/btrfs-extent.txt");
const FS_TREE: &str = include_str!("../../../tests/data/files/btrfs-fs-tree.txt");

fn run(start: u64, len: u64) -> Run {
    Run::new(start, len).unwrap()
}

fn stripes(device: u64) -> Vec<Stripe> {
    let mut chunks = Chunks::new(device);
    CHUNK.lines().for_each(|line| chunks.feed(line));
    chunks.stripes
}

fn extents(wanted: &[Run]) -> Extents {
    let mut extents = Extents::new(wanted.to_vec(), 16_384);
    EXTENT.lines().for_each(|line| extents.feed(line));
    extents
}

fn fs_tree(extents: &[u64]) -> Tree {
    let mut tree = Tree::new(extents.iter().copied().collect(), BTreeSet::new());
    FS_TREE.lines().for_each(|line| tree.feed(line));
    tree
}

#[test]
fn the_superblock_tells_the_device_and_the_sizes() {
    assert_eq!(superblock(SUPER), Some((1, 4096, 16_384)));
    assert_eq!(superblock("ERROR: bad magic"), None);
}

#[test]
fn chunks_lead_from_the_device_to_addresses() {
    assert!(stripes(2).is_empty(), "no other device has any");
    let stripes = stripes(1);
    assert_eq!(stripes.len(), 5, "one of data, two each of system and metadata");
    let metadata: Vec<&Stripe> = stripes.iter().filter(|s| s.content == Content::Metadata).collect();
    let second = Range::new(Sectors(72_351_744 / 512), Sectors(33_554_432 / 512)).unwrap();
    assert_eq!((metadata[1].range, metadata[1].logical), (second, Some(30_408_704)));
    // There and back.
    let sectors = Range::new(second.start().checked_add(Sectors(8)).unwrap(), Sectors(16)).unwrap();
    let address = logical(metadata[1], sectors).unwrap();
    assert_eq!(address, run(30_408_704 + 4096, 8192));
    assert_eq!(on_device(metadata[1], address), Some(sectors));
    let before = Range::new(Sectors(0), second.start()).unwrap();
    assert_eq!(logical(metadata[1], before), None);
    let spread = CHUNK.replace("DATA|single", "DATA|RAID0").replace("num_stripes 1 ", "num_stripes 2 ");
    let mut chunks = Chunks::new(1);
    spread.lines().for_each(|line| chunks.feed(line));
    assert_eq!((chunks.stripes[0].logical, chunks.stripes[0].range.len()), (None, Sectors(8_388_608 / 2 / 512)));
}

#[test]
fn extents_tell_their_users() {
    let found =
        extents(&[run(13_635_584, 4096), run(31_703_040, 512), run(14_045_184, 1), run(20_000_000, 4096)]).found;
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [13_631_488, 14_036_992, 31_703_040]);
    assert_eq!(found[&13_631_488].files, [(5, 259), (257, 259)].into());
    assert_eq!(found[&13_631_488].tree, None);
    assert_eq!(found[&14_036_992].files, [(5, 264), (5, 265)].into());
    assert_eq!(found[&31_703_040].tree.as_deref(), Some("EXTENT_TREE"));
}

#[test]
fn references_that_do_not_fit_follow_as_items() {
    let text = "\titem 0 key (1000 EXTENT_ITEM 8192) itemoff 1 itemsize 2\n\t\trefs 3 gen 7 flags DATA\n\
                \t\t(178 0x1) shared data backref parent 5000 count 1\n\
                \titem 1 key (1000 EXTENT_DATA_REF 99) itemoff 1 itemsize 2\n\t\textent data backref root 300 objectid 7 offset 0 count 1\n\
                \titem 2 key (1000 SHARED_DATA_REF 6000) itemoff 1 itemsize 2\n\t\tshared data backref count 1\n\
                \titem 3 key (9192 EXTENT_DATA_REF 99) itemoff 1 itemsize 2\n\t\textent data backref root 301 objectid 7 offset 0 count 1\n";
    let mut extents = Extents::new(vec![run(1000, 1)], 16_384);
    text.lines().for_each(|line| extents.feed(line));
    assert_eq!(extents.found[&1000].files, [(300, 7)].into());
    assert_eq!(extents.found[&1000].leaves, [5000, 6000].into());
}

#[test]
fn trees_tell_pieces_and_names() {
    let tree = fs_tree(&[13_631_488, 13_942_784, 14_036_992]);
    let pieces: Vec<(u64, Run)> = tree.pieces.iter().map(|p| (p.inode, p.run)).collect();
    // Of the extent of inode 262 the second half was overwritten, and is not part of the file any more.
    let expected = [
        (259, run(13_631_488, 303_104)),
        (262, run(13_942_784, 4096)),
        (264, run(14_036_992, 40_960)),
        (265, run(14_036_992, 40_960)),
    ];
    assert_eq!(pieces, expected);
    assert_eq!(tree.owner, Some(5));
    let mut tree = Tree::new(BTreeSet::new(), [259, 261, 265].into());
    FS_TREE.lines().for_each(|line| tree.feed(line));
    assert_eq!(tree.paths(259), ["link", "sub dir/deep/my büch.txt"]);
    assert_eq!(tree.paths(261), ["new\nline"]);
    assert_eq!(tree.paths(265), ["after2"]);
    assert!(tree.paths(260).is_empty(), "nobody asked for it");
    assert_eq!((tree.folder(256).as_deref(), tree.folder(258).as_deref()), (Some(""), Some("sub dir/deep")));
}

#[test]
fn compressed_and_unwritten_extents_are_pieces_too() {
    let text = "\titem 6 key (260 EXTENT_DATA 0) itemoff 14427 itemsize 53\n\t\tgeneration 7 type 1 (regular)\n\
                \t\textent data disk byte 1000 nr 4096\n\t\textent data offset 8192 nr 4096 ram 131072\n\t\textent compression 3 (zstd)\n\
                \titem 7 key (261 EXTENT_DATA 0) itemoff 14427 itemsize 53\n\t\tgeneration 7 type 2 (prealloc)\n\
                \t\tprealloc data disk byte 9000 nr 8192\n\t\tprealloc data offset 4096 nr 4096\n";
    let mut tree = Tree::new([1000, 9000].into(), BTreeSet::new());
    text.lines().for_each(|line| tree.feed(line));
    let piece = |inode, run, unwritten| Piece { run, inode, unwritten };
    assert_eq!(tree.pieces, [piece(260, run(1000, 4096), false), piece(261, run(13_096, 4096), true)]);
}

#[test]
fn subvolumes_tell_where_they_are() {
    let mut volumes = Subvolumes::default();
    ROOT.lines().for_each(|line| volumes.feed(line));
    let entry = |name: &str| (5, 256, name.to_string());
    assert_eq!(volumes.found, [(256, entry("vol")), (257, entry("snap"))].into());
}

#[test]
fn what_the_kernel_resolves_is_read() {
    let text = "inode 265 offset 0 root 5\ninode 264 offset 4096 root 257\n";
    assert_eq!(resolved(text), [(5, 265), (257, 264)].into());
    assert!(resolved("ERROR: logical ino ioctl: No such file or directory\n").is_empty());
}

proptest! {
    #[test]
    fn no_text_is_too_strange(
        text in "(?s).{0,200}",
        lines in "( key \\(|CHUNK_ITEM|EXTENT_ITEM|EXTENT_DATA|INODE_REF|INODE_ITEM|ROOT_BACKREF| |\\)|[0-9]{1,20}|\n|length|type DATA\\|RAID5|stripe|devid|offset|num_stripes|extent data disk byte |extent data offset |nr|name: |namelen| name |dirid|extent compression ){0,60}",
    ) {
        for text in [&text, &lines] {
            superblock(text);
            resolved(text);
            let (mut chunks, mut extents) = (Chunks::new(1), Extents::new(vec![run(0, u64::MAX)], u64::MAX));
            let (mut tree, mut volumes) = (Tree::new([0, 1].into(), [1].into()), Subvolumes::default());
            for line in text.lines() {
                chunks.feed(line);
                extents.feed(line);
                tree.feed(line);
                volumes.feed(line);
            }
            tree.paths(1);
        }
    }
}
