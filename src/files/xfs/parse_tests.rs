//! The samples are what the tools of xfsprogs 6.1.0 printed for filesystems made for it.

use super::*;
use proptest::prelude::*;

const SUPERBLOCK: &str = "blocksize = 4096\nagblocks = 4096\nagblklog = 12\nagcount = 4\ninopblog = 3\nlogstart = 8198\n\
                          logblocks = 1368\ndblocks = 16384\nrootino = 128\nsectsize = 512\n";

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

#[test]
fn the_superblock_tells_where_things_are() {
    let geometry = geometry(SUPERBLOCK).unwrap();
    // xfs_logprint of the same filesystem: log device daddr 65584, length 10944.
    assert_eq!(geometry.log(), Some(range(65584, 10944)));
    assert_eq!(geometry.root, 128);
    assert_eq!(geometry.block((1, 24)), Some(range(32960, 8)));
    // Inode 32897 was in group 1, whose inodes began at sector 32896.
    assert_eq!(geometry.inode(32897), Some(range(32896, 8)));
    assert_eq!(geometry.inode(131), Some(range(128, 8)));
    assert_eq!(geometry.headers(range(32000, 1000)), [range(0, 4), range(32768, 4)]);
    assert_eq!(geometry.behind().unwrap().start(), Sectors(131_072));
    assert_eq!(geometry.parts(range(32765, 20)), [(Sectors(32760), 1), (Sectors(32768), 3)]);
    assert_eq!(super::geometry(&SUPERBLOCK.replace("4096", "0")), None);
    assert_eq!(super::geometry("xfs_db: cannot init perag data"), None);
}

#[test]
fn fsmap_tells_owners() {
    let owner = |text: &str| fsmap(&format!("3,98,0,40,47,{text},,,8")).unwrap();
    assert_eq!(owner("special_0:1"), (range(40, 8), MapOwner::Free));
    assert_eq!(owner("special_0:2").1, MapOwner::Unknown);
    assert_eq!(owner("special_88:2").1, MapOwner::Log);
    assert_eq!(owner("special_88:5").1, MapOwner::Metadata("inodes"));
    assert_eq!(owner("inode_132_data").1, MapOwner::Content(132));
    assert_eq!(owner("inode_132_attr").1, MapOwner::Part("extended attributes", 132));
    assert_eq!(owner("inode_132_data_bmbt").1, MapOwner::Part("map of blocks", 132));
    assert_eq!(fsmap("EXT,MAJOR,MINOR,PSTART,PEND,OWNER,OSTART,OEND,LENGTH"), None);
}

#[test]
fn blockuse_tells_owners() {
    let data = Use::Content { inode: 32897, directory: false, shared: false };
    assert_eq!(blockuse("block 4120 (1/24) type data inode 32897 link"), Some(((1, 24), data)));
    let shared = Use::Content { inode: 2037, directory: false, shared: true };
    assert_eq!(blockuse("block 24 (0/24) type rldata inode 2037"), Some(((0, 24), shared)));
    assert_eq!(blockuse("block 7500 (1/3404) type free2"), Some(((1, 3404), Use::Free)));
    assert_eq!(
        blockuse("block 0 (0/0) type sb").unwrap().1,
        Use::Metadata("superblock and headers of an allocation group")
    );
    assert_eq!(blockuse("block 1 (0/1) type strange").unwrap().1, Use::Unknown("strange".into()));
    assert_eq!(blockuse("block 0/12 expected type unknown got free1"), None);
}

#[test]
fn ncheck_tells_all_names_also_those_of_two_lines() {
    let text = "        131 sub dir/.\n        132 small\n        133 new\nline\n        134 fragA\n      32896 sub dir/deep/.\n\
                \x20     32897 link\n      32897 sub dir/deep/my büch.txt\n12345678901234 far";
    let mut names = Names::default();
    for line in text.lines() {
        names.feed(line, |inode| inode != 132 && inode != 134);
    }
    let found: Vec<(u64, String, bool)> = names.done().collect();
    let entry = |inode, path: &str, directory| (inode, path.to_string(), directory);
    assert_eq!(
        found,
        [
            entry(131, "/sub dir", true),
            entry(133, "/new\nline", false),
            entry(32896, "/sub dir/deep", true),
            entry(32897, "/link", false),
            entry(32897, "/sub dir/deep/my büch.txt", false),
            entry(12_345_678_901_234, "/far", false),
        ]
    );
}

const BMAP: &str = "\
/tmp/m/d/f1:
 EXT: FILE-OFFSET      BLOCK-RANGE      AG AG-OFFSET        TOTAL FLAGS
   0: [0..63]:         192..255          0 (192..255)          64 100000
/tmp/m/d/sparse:
 EXT: FILE-OFFSET      BLOCK-RANGE      AG AG-OFFSET        TOTAL FLAGS
   0: [0..799]:        hole                                   800
   1: [800..807]:      80..87            0 (80..87)             8 010000
   2: [808..2047]:     hole                                  1240
/tmp/m/d: no extents
";

#[test]
fn bmap_tells_the_extents_of_each_file() {
    let files = ["/tmp/m/d/f1", "/tmp/m/d/sparse", "/tmp/m/d"].map(String::from);
    let extents = bmap(BMAP, &files).unwrap();
    assert_eq!(extents[0], [Extent { range: range(192, 64), unwritten: false, shared: true }]);
    assert_eq!(extents[1], [Extent { range: range(80, 8), unwritten: true, shared: false }]);
    assert!(extents[2].is_empty());
    assert_eq!(bmap(BMAP, &["/other".to_string()]), None);
    let odd = BMAP.replace("/tmp/m/d/sparse", "/tmp/m/d/a\n/b: no extents");
    let files = ["/tmp/m/d/f1", "/tmp/m/d/a\n/b: no extents", "/tmp/m/d"].map(String::from);
    assert_eq!(bmap(&odd, &files).unwrap()[1].len(), 1, "a name may hold anything");
    let realtime = BMAP.replace("   BLOCK-RANGE", "RT-BLOCK-RANGE");
    let files = ["/tmp/m/d/f1", "/tmp/m/d/sparse", "/tmp/m/d"].map(String::from);
    assert!(bmap(&realtime, &files).unwrap().iter().all(Vec::is_empty), "these are on another device");
}

proptest! {
    #[test]
    fn no_text_is_too_strange(
        text in "(?s).{0,200}",
        lines in "(block |\\) type |data|inode |[0-9]{1,20}|/|\\(|,|special_88:|inode_|_data|\\.\\.|\\]:| |\n| = ){0,40}",
        fields in prop::collection::vec(any::<u64>(), 10),
        numbers in (any::<u64>(), any::<u64>()),
    ) {
        for text in [&text, &lines] {
            geometry(text);
            fsmap(text);
            blockuse(text);
            let mut names = Names::default();
            text.lines().for_each(|line| names.feed(line, |_| true));
            names.done().for_each(drop);
            bmap(text, &[String::new(), "/".into()]);
            bmap(&format!("/a:\n EXT: FILE-OFFSET{text}"), &["/a".into()]);
        }
        let superblock: String =
            Geometry::FIELDS.iter().zip(&fields).map(|(field, n)| format!("{field} = {}\n", n >> (n % 64))).collect();
        if let Some(geometry) = geometry(&superblock) {
            geometry.log();
            geometry.inode(numbers.0);
            geometry.block(numbers);
            geometry.behind();
        }
    }
}
