//! Which file was hit: on ext4, ext3, XFS and btrfs, mounted and not, for sectors that are known by other means.
//!
//! Every sector of every file is written with a pattern that tells the file and the place in it, and the raw disk is
//! searched for these: so where a file lies is known without any tool of its filesystem.
// guest: --disk 24M --mem 1536 --timeout 1500
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

const MNT: &str = "/tmp/mnt";
const SETUP: &str = "/dev/mapper/data";
const MEGABYTES: u32 = 160;

/// The files, each with all its names.
const FILES: [&[&str]; 5] = [
    &["plain"],
    &["sub dir/deep/Größe von \"x\".txt", "sub dir/second name"],
    &["fragmented a"],
    &["fragmented b"],
    &["two\nlines"],
];
/// Was deleted before the losses.
const DELETED: usize = 9;

/// What a sector of a file is filled with.
fn mark(file: usize, sector: u64) -> Vec<u8> {
    let mut out = format!("file {file} sector {sector:8} of a test of dm-remap\n").into_bytes();
    out.resize(512, b'.');
    out
}

fn marks(file: usize, from: u64, count: u64) -> Vec<u8> {
    (from..from + count).flat_map(|sector| mark(file, sector)).collect()
}

fn write(name: &str, file: usize, sectors: u64) {
    let path = format!("{MNT}/{name}");
    fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
    fs::write(&path, marks(file, 0, sectors)).unwrap();
}

/// What is to be lost, and what must be told of it.
#[derive(Debug)]
struct Target {
    start: u64,
    count: u64,
    owner: &'static str,
    /// Paths from the root of the filesystem, for files and directories; a part of the description for metadata.
    names: Vec<String>,
    inode: Option<u64>,
    policy: &'static str,
}

struct Filesystem {
    kind: &'static str,
    mkfs: &'static str,
    mount: &'static str,
}

const EXT4: Filesystem = Filesystem {
    kind: "ext4",
    mkfs: "mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0",
    mount: "noatime",
};
const EXT3: Filesystem = Filesystem { kind: "ext3", mkfs: "mkfs.ext3 -q -F -b 1024", mount: "noatime" };
const XFS: Filesystem = Filesystem { kind: "xfs", mkfs: "mkfs.xfs -q -f --unsupported", mount: "noatime" };
const XFS_RMAP: Filesystem =
    Filesystem { kind: "xfs", mkfs: "mkfs.xfs -q -f --unsupported -m rmapbt=1", mount: "noatime" };
const BTRFS: Filesystem = Filesystem { kind: "btrfs", mkfs: "mkfs.btrfs -q -f", mount: "noatime" };

/// Makes the filesystem and its files, and gives the inode of each.
fn populate(device: &str, filesystem: &Filesystem) -> BTreeMap<String, u64> {
    sh(&format!("{} {device} >/dev/null 2>&1 && mount -o {} {device} {MNT}", filesystem.mkfs, filesystem.mount));
    write(FILES[0][0], 0, 800);
    write(FILES[1][0], 1, 200);
    fs::hard_link(format!("{MNT}/{}", FILES[1][0]), format!("{MNT}/{}", FILES[1][1])).unwrap();
    let mut parts: Vec<fs::File> =
        [2, 3].iter().map(|file| fs::File::create(format!("{MNT}/{}", FILES[*file][0])).unwrap()).collect();
    for turn in 0..40 {
        for (index, part) in parts.iter_mut().enumerate() {
            part.write_all(&marks(2 + index, turn * 16, 16)).unwrap();
            part.sync_all().unwrap();
        }
    }
    drop(parts);
    write(FILES[4][0], 4, 64);
    write("deleted", DELETED, 400);
    for n in 0..400 {
        write(&format!("many/an entry with a rather long name {n}"), 100, 0);
    }
    if filesystem.kind == "btrfs" {
        sh(&format!("btrfs -q subvolume create {MNT}/volume"));
        write("volume/inside/it", 5, 200);
        write("shared", 6, 200);
        sh(&format!("cp --reflink=always {MNT}/shared {MNT}/volume/shared\\ too"));
    }
    sh(&format!("sync; rm {MNT}/deleted; sync"));
    let names = FILES.iter().map(|names| names[0]).chain(["many", "shared", "volume/inside/it", "volume/shared too"]);
    let inode = |name: &str| Some((name.to_string(), fs::metadata(format!("{MNT}/{name}")).ok()?.ino()));
    let inodes = names.filter_map(inode).collect();
    sh(&format!("umount {MNT}"));
    inodes
}

/// Where the sectors of a file lie: sector of the file, sector of the disk.
fn find(image: &[u8], file: usize) -> Vec<(u64, u64)> {
    let start = format!("file {file} sector ").into_bytes();
    let sectors = image.chunks(512).enumerate().filter(|(_, sector)| sector.starts_with(&start));
    let within = |sector: &[u8]| -> u64 {
        let text = std::str::from_utf8(&sector[start.len()..start.len() + 8]).unwrap();
        text.trim().parse().unwrap()
    };
    let mut out: Vec<(u64, u64)> = sectors.map(|(at, sector)| (within(sector), at as u64)).collect();
    out.sort_unstable();
    out
}

/// Where a run of `count` sectors of a file lies, the first one in one piece from `within` on.
fn run_of(image: &[u8], file: usize, within: u64, count: u64) -> u64 {
    let places: BTreeMap<u64, u64> = find(image, file).into_iter().collect();
    let whole = |first: u64| (0..count).all(|n| places.get(&(first + n)) == Some(&(places[&first] + n)));
    places[places.range(within..).map(|(first, _)| first).find(|first| whole(**first)).expect("a run in one piece")]
}

fn paths(names: &[&str]) -> Vec<String> {
    let mut out: Vec<String> = names.iter().map(|name| format!("/{name}")).collect();
    out.sort();
    out
}

/// The sector numbers of all blocks that begin with these bytes, at `at`.
fn blocks_with(image: &[u8], block: usize, at: usize, bytes: &[u8]) -> Vec<u64> {
    let blocks =
        image.chunks(block).enumerate().filter(|(_, b)| b.len() >= at + bytes.len() && b[at..].starts_with(bytes));
    blocks.map(|(n, _)| (n * block / 512) as u64).collect()
}

/// The sector of an XFS directory's block that holds this text; in the log it lies behind another header.
fn blocks_with_text(image: &[u8], text: &str) -> u64 {
    let sectors =
        image.chunks(4096).enumerate().filter(|(_, block)| block.starts_with(b"XDD3") || block.starts_with(b"XDB3"));
    let within = |block: &[u8]| block.windows(text.len()).position(|part| part == text.as_bytes());
    let mut found = sectors.filter_map(|(n, block)| Some(n as u64 * 8 + within(block)? as u64 / 512));
    found.next().expect("a block of a directory")
}

fn targets(device: &str, image: &[u8], filesystem: &Filesystem, inodes: &BTreeMap<String, u64>) -> Vec<Target> {
    let file = |file: usize, names: &[&str], within: u64, count: u64| Target {
        start: run_of(image, file, within, count),
        count,
        owner: "file",
        names: paths(names),
        inode: Some(inodes[names[0]]),
        policy: "hold",
    };
    let metadata = |start: u64, what: &str| Target {
        start,
        count: 1,
        owner: "metadata",
        names: vec![what.into()],
        inode: None,
        policy: "zero",
    };
    let plain = |start: u64, count: u64, owner: &'static str| Target {
        start,
        count,
        owner,
        names: Vec::new(),
        inode: None,
        policy: "zero",
    };
    let mut out = vec![
        file(0, FILES[0], 0, 1),
        file(0, FILES[0], 501, 20),
        file(1, FILES[1], 99, 3),
        file(2, FILES[2], 16 * 7 + 3, 2),
        file(3, FILES[3], 16 * 7 + 3, 2),
        file(2, FILES[2], 16 * 31, 1),
        file(4, FILES[4], 33, 1),
        plain(run_of(image, DELETED, 100, 5), 5, "free_space"),
    ];
    match filesystem.kind {
        "ext3" | "ext4" => {
            let block = if filesystem.kind == "ext3" { 1024 } else { 4096 };
            let many = sh(&format!("debugfs -R 'blocks /many' {device} 2>/dev/null"));
            let many: u64 = many.split_ascii_whitespace().nth(2).unwrap().parse().unwrap();
            let journal = blocks_with(image, block, 0, &[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4]);
            assert_eq!(journal.len(), 1, "one superblock of a journal");
            let backups = blocks_with(image, block, 56, &[0x53, 0xef]);
            let tables = sh(&format!("dumpe2fs {device} 2>/dev/null | grep -o 'Inode table at [0-9]*'"));
            let table: u64 = tables.lines().last().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            out.push(Target {
                start: many * (block as u64 / 512) + 1,
                count: 1,
                owner: "directory",
                names: paths(&["many"]),
                inode: Some(inodes["many"]),
                policy: "hold",
            });
            out.push(plain(journal[0] + 100 * block as u64 / 512, 2, "journal"));
            // The journal holds copies of it, too, but lies in the first groups.
            out.push(metadata(*backups.last().unwrap(), "backup of the superblock"));
            out.push(metadata((table + 3) * (block as u64 / 512), "inode table"));
        }
        "xfs" => {
            let log = blocks_with(image, 512, 0, &[0xfe, 0xed, 0xba, 0xbe]);
            out.push(plain(log[0], 1, "journal"));
            let entry = blocks_with_text(image, "an entry with a rather long name 7");
            let many = Target {
                start: entry,
                names: paths(&["many"]),
                inode: Some(inodes["many"]),
                owner: "directory",
                count: 1,
                policy: "hold",
            };
            out.push(many);
            // An inode that is free, beside others that are not.
            let free = |s: &[u8]| s.starts_with(b"IN") && s[4] == 3 && s[2..4] == [0, 0];
            let used = |s: &[u8]| s.starts_with(b"IN") && s[2..4] != [0, 0];
            let mixed = |(n, block): (usize, &[u8])| {
                let free = block.chunks(512).position(free).filter(|_| block.chunks(512).any(used))?;
                Some(n * 8 + free)
            };
            let inode = image.chunks(4096).enumerate().find_map(mixed);
            out.push(metadata(inode.expect("an inode that is free") as u64, "inodes"));
            let headers = blocks_with(image, 512, 0, b"XAGF");
            // Of a group in which no file lies: the others could not be found any more.
            out.push(metadata(headers[3], "headers of an allocation group"));
        }
        _ => {
            // A block of a tree begins with a checksum; its number is at 48, the UUID of the filesystem at 32.
            let fsid = image[65_536 + 32..][..16].to_vec();
            let trees = blocks_with(image, 16_384, 32, &fsid);
            let trees: Vec<u64> = trees.into_iter().filter(|s| *s > 2048).collect();
            // The oldest generation: nothing refers to it any more.
            out.push(metadata(live_tree(image, &trees), "tree"));
            let name = |path: &str| (paths(&[path]), inodes[path]);
            let (names, inode) = name("volume/inside/it");
            out.push(Target {
                start: run_of(image, 5, 10, 2),
                count: 2,
                owner: "file",
                names,
                inode: Some(inode),
                policy: "hold",
            });
        }
    }
    out
}

/// A block of the subvolume tree of the highest generation: level 0, owner 5.
fn live_tree(image: &[u8], trees: &[u64]) -> u64 {
    let field =
        |sector: u64, at: usize| u64::from_le_bytes(image[sector as usize * 512 + at..][..8].try_into().unwrap());
    let fs_trees = trees.iter().copied().filter(|s| field(*s, 88) == 5);
    fs_trees.max_by_key(|s| field(*s, 80)).expect("the tree of the files")
}

/// The owners that are told for a target, of a list of losses in JSON.
fn owners_of(losses: &Value, target: &Target) -> Vec<Value> {
    let inside = |owner: &&Value| {
        let start = owner["range"]["start"].as_u64().unwrap();
        (target.start..target.start + target.count).contains(&start)
    };
    let all = losses.as_array().unwrap().iter().flat_map(|loss| loss["owners"].as_array().unwrap());
    all.filter(inside).cloned().collect()
}

fn check(losses: &Value, target: &Target, filesystem: &Filesystem, mounted: bool) {
    let owners = owners_of(losses, target);
    let told = format!("{target:?}\n{owners:#?}\n{losses:#}");
    assert_eq!(owners.len(), 1, "{told}");
    let owner = &owners[0];
    assert_eq!(owner["owner"], target.owner, "{told}");
    assert_eq!(owner["range"]["start"], target.start, "{told}");
    assert_eq!(owner["range"]["count"], target.count, "{told}");
    assert_eq!(owner["filesystem"], filesystem.kind, "{told}");
    assert_eq!(owner["mount_point"].as_str(), mounted.then_some(MNT), "{told}");
    match target.owner {
        "metadata" => assert!(owner["what"].as_str().unwrap().contains(&target.names[0]), "{told}"),
        "file" | "directory" => {
            let list = |field: &str| {
                let list = owner[field].as_array().unwrap().iter();
                let mut list: Vec<String> = list.map(|v| v.as_str().unwrap().to_string()).collect();
                list.sort();
                list
            };
            if filesystem.kind == "xfs" && !mounted && target.names.len() > 1 {
                // xfs_db knows one name of each file.
                assert!(list("paths").len() == 1 && target.names.contains(&list("paths")[0]), "{told}");
                assert!(owner["note"].as_str().unwrap().contains("other names"), "{told}");
                return;
            }
            assert_eq!(list("paths"), target.names, "{told}");
            let seen: Vec<String> = target.names.iter().map(|name| format!("{MNT}{name}")).collect();
            assert_eq!(list("seen_at"), if mounted { seen } else { Vec::new() }, "{told}");
            assert_eq!(owner["inode"].as_u64(), target.inode, "{told}");
        }
        _ => {}
    }
}

/// All targets are lost one after the other, each is told at once, and all of them afterwards.
fn files_are_named(filesystem: &Filesystem, mounted: bool) {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(MEGABYTES, "");
    let inodes = populate(&disk.device, filesystem);
    let image = Direct::open(&disk.device).image();
    let targets = targets(&disk.device, &image, filesystem, &inodes);
    dm_remap(&format!("create data --main {} --spare {}", disk.device, guest.disks[0])).ok();
    if mounted {
        sh(&format!("mount -o {} {SETUP} {MNT}", filesystem.mount));
    }
    for target in &targets {
        disk.bad(target.start, target.count);
        let spec = format!("{}+{}", target.start, target.count);
        let ran = dmr(&["--json", "remap", "data", &spec, "--unreadable", target.policy]).exits(3);
        check(&ran.json()["lost"], target, filesystem, mounted);
    }
    disk.good();
    let sums = || {
        sh(&format!(
            "for d in {SETUP} {}; do dd if=$d bs=1M iflag=direct conv=noerror status=none 2>/dev/null | sha256sum; done",
            guest.disks[0]
        ))
    };
    let before = (!mounted).then(sums);
    let report = dm_remap("--json status data").exits(3).json();
    for target in &targets {
        check(&report["setups"][0]["losses"], target, filesystem, mounted);
    }
    let text = dm_remap("status data").exits(3);
    if mounted {
        let at = format!("{MNT}/plain (inode {}, {} mounted at {MNT}", inodes["plain"], filesystem.kind);
        text.says(&[&at, "second name", "two\\nlines"]);
    } else {
        text.says(&["in /plain (inode", "not mounted", "two\\nlines", "free space"]);
    }
    let none = dm_remap("--json status data --file-search 0").exits(3).json();
    assert!(none["setups"][0]["losses"].as_array().unwrap().iter().all(|l| l["owners"] == serde_json::json!([])));
    if let Some(before) = before {
        assert_eq!(before, sums(), "status has written");
    }
}

#[test]
fn on_ext4() {
    files_are_named(&EXT4, false);
}

#[test]
fn on_ext4_mounted() {
    files_are_named(&EXT4, true);
}

#[test]
fn on_ext3_with_small_blocks() {
    files_are_named(&EXT3, false);
    files_are_named(&EXT3, true);
}

#[test]
fn on_xfs() {
    files_are_named(&XFS, false);
}

#[test]
fn on_xfs_mounted() {
    files_are_named(&XFS, true);
}

#[test]
fn on_xfs_with_a_reverse_map() {
    files_are_named(&XFS_RMAP, false);
    files_are_named(&XFS_RMAP, true);
}

#[test]
fn on_btrfs() {
    files_are_named(&BTRFS, false);
}

#[test]
fn on_btrfs_mounted() {
    files_are_named(&BTRFS, true);
}

#[test]
fn where_it_cannot_be_told_the_reason_is_and_nothing_hangs() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(MEGABYTES, "");
    let lose = |sector: u64| {
        disk.bad(sector, 1);
        dm_remap(&format!("--json remap data {sector}")).exits(3).json()["lost"][0]["owners"][0].clone()
    };
    dm_remap(&format!("create data --main {} --spare {}", disk.device, guest.disks[0])).ok();
    assert_eq!(lose(200_000)["owner"], "no_filesystem");

    // The device is suspended by somebody: no tool is started that would wait for it.
    sh("dmsetup suspend --noflush --nolockfs data");
    let report = dm_remap("--json status data").exits(3).json();
    sh("dmsetup resume data");
    let owner = &report["setups"][0]["losses"][0]["owners"][0];
    assert!(owner["why"].as_str().unwrap().contains("is suspended"), "{report}");

    // The superblock itself is lost.
    sh(&format!("mkfs.ext4 -q -F -b 4096 {SETUP}"));
    let owner = lose(2);
    assert_eq!(owner["owner"], "unknown", "{owner}");
    assert!(owner["why"].as_str().unwrap().contains("is damaged"), "{owner}");
    sh(&format!("dd if=/dev/zero of={SETUP} bs=4096 count=1 oflag=direct status=none"));
    sh(&format!("mkfs.ext4 -q -F -b 4096 {SETUP}"));

    // A block of the table of inodes is lost, and e2fsprogs cannot go over all inodes any more.
    let table = sh(&format!("dumpe2fs {SETUP} 2>/dev/null | grep -o 'Inode table at [0-9]*' | head -1"));
    let table: u64 = table.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let owner = lose(table * 8);
    assert_eq!(owner["what"], "inode table", "{owner}");

    // What is inside of something else is not followed.
    disk.good();
    sh(&format!("wipefs -qa {SETUP}; echo 'start=2048, type=83' | sfdisk -q --no-reread --no-tell-kernel {SETUP}"));
    let owner = lose(210_000);
    assert!(owner["why"].as_str().unwrap().contains("partition table"), "{owner}");
}
