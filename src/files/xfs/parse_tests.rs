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
    assert_eq!(geometry.widened(range(3188, 5)), range(3184, 24));
    assert_eq!(geometry.behind().unwrap().start(), Sectors(131_072));
    assert_eq!(geometry.numbers(range(32765, 20)).collect::<Vec<_>>(), [4095, 4096, 4097, 4098]);
    let odd = super::geometry(&SUPERBLOCK.replace("agblocks = 4096", "agblocks = 4000")).unwrap();
    assert_eq!(odd.numbers(range(31999, 2)).collect::<Vec<_>>(), [3999, 4096], "groups begin at powers of two");
    assert_eq!(odd.block((1, 0)), Some(range(32000, 8)));
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
fn blockget_tells_owners() {
    let text = "setting block 0/10 to free1\nsetting block 0/10 to free2\nsetting block 0/24 to rldata\n\
                inode 131 mode 040755 fmt extents afmt extents nex 4 anex 0 nblk 4 sz 12288\nsetting block 0/13 to dir\n\
                setting inode to 131 for block 0/13\ndir 131 block 1 entry long-name-of-file-118 318\n\
                setting block 0/24 to data\nsetting inode to 132 for block 0/24\nsetting block 0/24 to data\n\
                setting inode to 135 for block 0/24\nsetting block 2/6 to log\nsetting block 1/1 to strange\nsetting sail\n";
    let mut uses = Uses::default();
    let lines = text.lines().filter(|line| uses.feed(line)).count();
    assert_eq!(lines, 12);
    let kinds: Vec<((u64, u64), Kind)> = uses.found.iter().map(|(place, found)| (*place, found.kind())).collect();
    assert_eq!(
        kinds,
        [
            ((0, 10), Kind::Free),
            ((0, 13), Kind::Content { directory: true }),
            ((0, 24), Kind::Content { directory: false }),
            ((1, 1), Kind::Unknown),
            ((2, 6), Kind::Log),
        ]
    );
    assert_eq!(uses.found[&(0, 24)].inodes, [132, 135].into());
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
        lines in "(setting block | to |setting inode to | for block |data|inode |[0-9]{1,20}|/|\\(|,|special_88:|inode_|_data|\\.\\.|\\]:| |\n| = ){0,40}",
        fields in prop::collection::vec(any::<u64>(), 10),
        numbers in (any::<u64>(), any::<u64>()),
    ) {
        for text in [&text, &lines] {
            geometry(text);
            fsmap(text);
            let mut uses = Uses::default();
            text.lines().for_each(|line| {
                uses.feed(line);
            });
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
            geometry.numbers(range(numbers.0 >> 1, 5)).for_each(drop);
            geometry.headers(range(numbers.0 >> 1, 5));
        }
    }
}
