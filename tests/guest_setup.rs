//! The life of a setup, end to end: the real program, a real kernel, real medium errors.
// guest: --disk 8M --disk 10M --disk 10M --disk 10M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MNT: &str = "/tmp/mnt";
const SETUP: &str = "/dev/mapper/data";
const FILE_SECTORS: u64 = 4096;

/// A filesystem on a disk: its files, what they hold, and where their blocks of 4096 bytes are.
struct Files {
    content: Vec<Vec<u8>>,
    blocks: Vec<Vec<u64>>,
}

fn path(file: usize) -> String {
    format!("{MNT}/file{file}")
}

impl Files {
    fn make(device: &str, random: &mut Random, count: usize) -> Files {
        sh(&format!(
            "mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 {device} && mount -o noatime {device} {MNT}"
        ));
        let content: Vec<Vec<u8>> = (0..count).map(|_| random.bytes(FILE_SECTORS as usize * 512)).collect();
        for (file, content) in content.iter().enumerate() {
            fs::write(path(file), content).unwrap();
        }
        sh(&format!("umount {MNT}"));
        let blocks = |file| {
            let list = sh(&format!("debugfs -D -R 'blocks /file{file}' {device} 2>/dev/null"));
            list.split_ascii_whitespace().map(|n| n.parse().unwrap()).collect()
        };
        Files { blocks: (0..count).map(blocks).collect(), content }
    }

    /// A run of sectors of the disk that belongs to one file: the file, the sector in the file, the sector of the disk.
    fn choose(&self, random: &mut Random, count: u64) -> (usize, u64, u64) {
        loop {
            let file = random.below(self.content.len() as u64) as usize;
            let within = random.below(FILE_SECTORS - count);
            let blocks = &self.blocks[file];
            let (first, last) = (within / 8, (within + count - 1) / 8);
            if blocks[last as usize] - blocks[first as usize] == last - first {
                return (file, within, blocks[first as usize] * 8 + within % 8);
            }
        }
    }

    /// Every sector of every file is as it was; those in `lost` answer EIO.
    fn check(&self, lost: &BTreeSet<(usize, u64)>) {
        sh("echo 3 > /proc/sys/vm/drop_caches");
        for (file, content) in self.content.iter().enumerate() {
            let disk = Direct::open(&path(file));
            for at in (0..FILE_SECTORS).step_by(64) {
                let part = &content[at as usize * 512..(at + 64) as usize * 512];
                if lost.range((file, at)..(file, at + 64)).next().is_none() {
                    assert!(disk.read(at, 64).unwrap() == part, "file {file} differs in sectors {at}+64");
                    continue;
                }
                for (sector, part) in (at..).zip(part.chunks(512)) {
                    let read = disk.read(sector, 1);
                    if lost.contains(&(file, sector)) {
                        assert_eq!(read.err(), Some(Errno::EIO), "file {file}, sector {sector}");
                    } else {
                        assert!(read.unwrap() == part, "file {file} differs in sector {sector}");
                    }
                }
            }
        }
    }
}

fn up_and_down_again(activate: &str) {
    sh(&format!("umount {MNT}"));
    dm_remap("deactivate data").ok();
    assert_eq!(sh("dmsetup ls"), "No devices found\n");
    dm_remap(activate).ok().says(&["'data' is up: /dev/mapper/data"]);
    sh(&format!("mount -o noatime {SETUP} {MNT}"));
}

/// The heart of it. Medium errors inside files, the filesystem mounted and being written all the time.
fn medium_errors_under_a_live_filesystem(guest: &Guest, spares: usize) {
    let mut random = Random::new();
    let disk = guest.scsi_debug(48, "");
    let main = disk.device.as_str();
    let mut files = Files::make(main, &mut random, 10);
    let spares: Vec<&str> = guest.disks[1..=spares].iter().map(String::as_str).collect();
    let create = dmr(&[&["create", "data", "--main", main, "--spare"], &spares[..]].concat()).ok();
    assert_eq!(create.err, "");
    sh(&format!("mount -o noatime {SETUP} {MNT}; sync"));
    let golden = Direct::open(SETUP).image();

    // First, nobody writes, and the whole device can be compared.
    let mut lost = BTreeSet::new();
    let mut lost_sectors = BTreeSet::new();
    let mut held = Vec::new();
    for _ in 0..2 {
        let count = 1 + random.below(20);
        let (file, within, sector) = files.choose(&mut random, count);
        if (sector..sector + count).any(|s| held.iter().any(|(h, n)| s / 8 >= h / 8 && s / 8 <= (h + n - 1) / 8)) {
            continue;
        }
        disk.bad(sector, count);
        assert_eq!(Direct::open(&path(file)).read(within, count).err(), Some(Errno::ENODATA));
        let spec = format!("{sector}+{count}");
        let ran = dmr(&["--json", "remap", "data", &spec]).exits(3);
        let json = ran.json();
        assert_eq!(ranges(&json["lost"]), [(sector, count)], "{json}");
        assert_eq!(json["lost"][0]["fate"], "held");
        held.push((sector, count));
        lost.extend((within..within + count).map(|s| (file, s)));
        lost_sectors.extend(sector..sector + count);
    }
    let differences: BTreeSet<u64> = Direct::open(SETUP).differences(&golden).into_iter().collect();
    assert_eq!(differences, lost_sectors, "healthy data must be the same to the byte");
    files.check(&lost);

    // Healthy sectors all over the device move while a program writes and syncs.
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut log = fs::File::create(format!("{MNT}/log")).unwrap();
            while !stop.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                std::io::Write::write_all(&mut log, &pattern(n, 1)).unwrap();
                log.sync_data().unwrap();
                written.store(n + 1, Ordering::SeqCst);
            }
        });
        for _ in 0..3 {
            let count = 1 + random.below(20);
            let (file, within, sector) = files.choose(&mut random, count);
            disk.bad(sector, count);
            let mut lines = format!("{sector}\n");
            for _ in 0..60 {
                lines += &format!("{}\n", random.below(48 * 2048));
            }
            fs::write("/tmp/mnt-list", lines + &(sector..sector + count).map(|s| format!("{s}\n")).collect::<String>())
                .unwrap();
            let ran = dm_remap("--json remap data --from-badblocks /tmp/mnt-list --block-size 512");
            let already_held = lost_sectors.iter().filter(|s| (sector..sector + count).contains(s)).count();
            if already_held == 0 {
                assert!(ran.code == 3 || ran.json()["lost"].as_array().unwrap().is_empty(), "{ran:?}");
            }
            for (start, count) in ranges(&ran.json()["lost"]) {
                assert!(start >= sector && start + count <= sector + 20, "{start}+{count} is not bad");
                lost.extend((start..start + count).map(|s| (file, within + (s - sector))));
                lost_sectors.extend(start..start + count);
            }
        }
        stop.store(true, Ordering::SeqCst);
        writer.join().unwrap();
    });
    let written = written.load(Ordering::SeqCst);
    assert!(written > 3, "the writer wrote {written} records");
    files.check(&lost);
    let log = fs::read(format!("{MNT}/log")).unwrap();
    assert!(log == patterns(0, written, 1)[..], "what was written during the swaps is not what is read");

    // Some of what was lost is written again: that holds, the rest stays EIO, also when it comes up again.
    let report = dm_remap("--json status data").exits(3).json();
    assert_eq!(report["setups"][0]["held_sectors"], lost_sectors.len() as u64);
    let half: Vec<(usize, u64)> = lost.iter().copied().filter(|_| random.below(2) == 0).collect();
    let rewrite = |files: &mut Files, lost: &mut BTreeSet<(usize, u64)>, what: &[(usize, u64)], random: &mut Random| {
        for (file, sector) in what {
            let data = random.bytes(512);
            Direct::open(&path(*file)).write(*sector, &data).unwrap();
            files.content[*file][*sector as usize * 512..][..512].copy_from_slice(&data);
            lost.remove(&(*file, *sector));
        }
    };
    rewrite(&mut files, &mut lost, &half, &mut random);
    files.check(&lost);
    up_and_down_again("activate data");
    files.check(&lost);
    let log = fs::read(format!("{MNT}/log")).unwrap();
    assert!(log == patterns(0, written, 1)[..]);
    let report = dm_remap("--json status data").json();
    assert_eq!(report["setups"][0]["held_sectors"], lost.len() as u64, "{report}");
    let rest: Vec<(usize, u64)> = lost.iter().copied().collect();
    rewrite(&mut files, &mut lost, &rest, &mut random);
    files.check(&lost);
    let uuid = report["setups"][0]["uuid"].as_str().unwrap().to_string();
    up_and_down_again(&format!("activate {uuid}"));
    files.check(&lost);
    up_and_down_again(&format!("activate --spare {}", spares[0]));
    files.check(&lost);

    // The losses are told until they are acknowledged; then all is well.
    dm_remap("status data").exits(3).says(&["acknowledge data", "rewritten"]);
    dm_remap("acknowledge data").ok();
    dm_remap("status data").ok().says(&["state: healthy"]);
    sh(&format!("umount {MNT} && e2fsck -fn {SETUP}"));

    // Main reads again, and gets everything back.
    disk.good();
    dm_remap("destroy data --merge-back").ok();
    sh(&format!("mount -o ro,noatime {main} {MNT}"));
    files.check(&lost);
}

#[test]
fn under_a_live_filesystem_healthy_data_stays_the_same_and_lost_sectors_answer_eio_until_written() {
    let Some(guest) = Guest::begin() else { return };
    medium_errors_under_a_live_filesystem(&guest, 1);
}

#[test]
fn the_same_with_three_spares() {
    let Some(guest) = Guest::begin() else { return };
    medium_errors_under_a_live_filesystem(&guest, 3);
}

/// Fills a device with patterns, and gives the image.
fn fill(device: &str) -> Vec<u8> {
    let disk = Direct::open(device);
    let image = patterns(0, disk.sectors(), 1);
    disk.fill(&image);
    image
}

#[test]
fn every_policy_does_with_unreadable_sectors_what_it_says() {
    let Some(guest) = Guest::begin() else { return };
    let mut random = Random::new();
    let disk = guest.scsi_debug(8, "");
    let golden = fill(&disk.device);
    dm_remap(&format!("create data --main {} --spare {} --unreadable zero", disk.device, guest.disks[1])).ok();
    let read = |sector| Direct::open(SETUP).read(sector, 1);
    let at = |turn: u64, random: &mut Random| 2000 * turn + random.below(1900);

    // The setup's own policy.
    let zeroed = at(0, &mut random);
    disk.bad(zeroed, 2);
    let json = dm_remap(&format!("--json remap data {zeroed}+2")).exits(3).json();
    assert_eq!((ranges(&json["lost"]), &json["lost"][0]["fate"]), (vec![(zeroed, 2)], &"zeroed".into()));
    assert_eq!(read(zeroed + 1), Ok(vec![0; 512]));

    // Left: the unit stays on main, and nothing that reads is lost.
    let left = at(1, &mut random);
    disk.bad(left, 1);
    let (first, last) = (left / 8 * 8 - 8, left / 8 * 8 + 15);
    let ran = dm_remap(&format!("remap data {first}-{last} --unreadable leave")).exits(3);
    ran.says(&["LOST", "left on main, unreadable"]);
    assert_eq!(read(left), Err(Errno::ENODATA));
    let extents = ranges(&dm_remap("--json map data").ok().json()["extents"]);
    assert!(extents.contains(&(first, 8)) && extents.contains(&(first + 16, 8)), "{extents:?}");
    assert!(!extents.iter().any(|(s, n)| (*s..s + n).contains(&left)));

    // Held, against the setup's policy.
    let held = at(2, &mut random);
    disk.bad(held, 1);
    dm_remap(&format!("remap data {held} --unreadable hold")).exits(3).says(&["LOST", "held: reads answer EIO"]);
    assert_eq!(read(held), Err(Errno::EIO));
    disk.bad(left, 1);
    let differences = Direct::open(SETUP).differences(&golden);
    assert_eq!(differences, [zeroed, zeroed + 1, left, held]);
    dm_remap("status data").exits(3).says(&["needs attention", "zeroed", "left on main", "held"]);
    dm_remap("deactivate data").ok();
    dm_remap("activate data").ok();
    assert_eq!(Direct::open(SETUP).differences(&golden), [zeroed, zeroed + 1, left, held]);
    assert_eq!((read(zeroed), read(held)), (Ok(vec![0; 512]), Err(Errno::EIO)));

    // What is held and main can still not read is not brought back silently.
    disk.bad(held, 1);
    dm_remap(&format!("restore data {held}")).exits(4).complains(&["held", "--unreadable leave"]);
    assert_eq!(read(held), Err(Errno::EIO));
    dm_remap(&format!("restore data {held} --unreadable leave")).exits(3);
    assert_eq!(read(held), Err(Errno::ENODATA));
    disk.good();
    assert_eq!(Direct::open(SETUP).differences(&golden), [zeroed, zeroed + 1]);
    // The written one is ordinary: its data goes back with it.
    Direct::open(SETUP).write(zeroed, &golden[zeroed as usize * 512..][..1024]).unwrap();
    dm_remap("restore data --all").ok();
    assert_eq!(Direct::open(&disk.device).differences(&golden), Vec::<u64>::new());
    assert_eq!(Direct::open(SETUP).differences(&golden), Vec::<u64>::new());
}

/// The range of a JSON extent as the other helper gives those of losses.
fn json_extents() -> Vec<(u64, u64)> {
    ranges(&dm_remap("--json map data").ok().json()["extents"])
}

/// Runs a command with `--dry-run` in both formats: it ends as told, and changes nothing at all.
fn dry(still: &Still, line: &str) {
    for format in ["", "--json "] {
        let ran = dm_remap(&format!("{format}{line} --dry-run")).ok();
        if format.is_empty() {
            assert!(ran.out.contains("would") || ran.out.contains("nothing to settle"), "{ran:?}");
        } else {
            assert_eq!(ran.json()["dry_run"], true, "{ran:?}");
        }
    }
    still.check(&format!("{line} --dry-run"));
}

/// A command that only reads: it ends as told in both formats, and changes nothing at all.
fn reads(still: &Still, line: &str, code: i32) {
    let text = dm_remap(line).exits(code);
    assert!(!text.out.is_empty() && text.err.is_empty(), "{text:?}");
    dm_remap(&format!("--json {line}")).exits(code).json();
    still.check(line);
}

#[test]
fn dry_runs_and_reports_change_nothing_and_are_valid_json() {
    let Some(guest) = Guest::begin() else { return };
    let [main, a, b] = [0, 1, 2].map(|n| guest.disks[n].as_str());
    let golden = fill(main);
    let mut still = Still::new(&[main, a, b]);
    let create = format!("create data --main {main} --spare {a} {b}");
    reads(&still, "list", 0);
    reads(&still, "status", 0);
    dry(&still, &create);
    let ran = dm_remap(&format!("--json {create}")).ok();
    let json = ran.json();
    assert_eq!((&json["device"], &json["unit"]), (&SETUP.into(), &8.into()));
    assert!(ran.err.contains("note: ") && ran.err.contains("will need --main"), "{ran:?}");
    let uuid = json["uuid"].as_str().unwrap().to_string();

    still.renew();
    dry(&still, "remap data 100 200+20 1000-1100");
    let json = dm_remap("--json remap data 100 200+20 1000-1100").ok().json();
    assert_eq!(json["moves"].as_array().unwrap().len(), 3);
    assert_eq!(json_extents(), [(96, 8), (200, 24), (1000, 104)]);
    // What a dry run says is what is done.
    let planned = dm_remap("--json remap data 5000 --dry-run").ok().json();
    let done = dm_remap("--json remap data 5000").ok().json();
    assert_eq!(planned["moves"], done["moves"]);
    still.renew();
    dry(&still, "restore data 100");
    dm_remap("restore data 100").ok().says(&["moved 8 sectors"]);
    assert_eq!(json_extents(), [(200, 24), (1000, 104), (5000, 8)]);
    still.renew();
    dry(&still, "restore data --all");
    dry(&still, "recover data");
    dry(&still, "acknowledge data");
    dry(&still, "deactivate data");
    dry(&still, "destroy data --merge-back");
    dry(&still, "destroy data --discard-extents");
    for line in [
        "list",
        "status",
        "status data",
        "map data",
        "map data --format json",
        "metadata check data",
        "metadata check /dev/mapper/../ubdb",
    ] {
        let known = if line.contains("ubdb") { format!("metadata check {a}") } else { line.to_string() };
        reads(&still, &known, 0);
    }
    reads(&still, &format!("metadata dump {a}"), 0);
    for (format, words) in [
        ("table", &["SECTOR", "200", "whole"][..]),
        ("csv", &["sector,count,spare,slot,held_sectors,lost_sectors\n200,24,"]),
        ("dmsetup", &["0 200 linear "]),
        ("badblocks", &["100\n101\n"]),
        ("mapfile", &["0x00000000"]),
    ] {
        dm_remap(&format!("map data --format {format}")).ok().says(words);
    }
    let table = dm_remap("map data --format dmsetup").ok().out;
    assert_eq!(table, sh("dmsetup table data"), "--format dmsetup is what dmsetup table prints");

    // The kernel tells the open device from the closed one.
    dm_remap("recover data").ok().says(&["nothing to settle"]);
    dm_remap("deactivate data").ok();
    still.renew();
    dry(&still, &format!("activate data --main {main}"));
    dry(&still, &format!("activate {uuid} --main {main}"));
    dry(&still, &format!("activate --spare {a} --main {main}"));
    dm_remap(&format!("--json activate {uuid} --main {main}")).ok().json();
    assert_eq!(Direct::open(SETUP).differences(&golden), Vec::<u64>::new());
    dm_remap("destroy data --merge-back").ok().says(&["dissolved"]);
    assert_eq!(Direct::open(main).differences(&golden), Vec::<u64>::new());
    dm_remap("list").ok().says(&["no active setups"]);
    dm_remap(&format!("metadata check {a}")).exits(1);
    // The same name and the same spares are free again.
    dm_remap(&create).ok();
    dm_remap("destroy data").ok();
}

#[test]
fn a_main_without_identity_is_asked_for_and_must_fit() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, other] = [0, 1, 2].map(|n| guest.disks[n].as_str());
    let create = dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
    create.complains(&[main, "no WWN, serial number or partition UUID", "--main"]);
    dm_remap("remap data 100").ok();
    dm_remap("deactivate data").ok();
    for line in ["activate data".to_string(), format!("activate --spare {spare}")] {
        let still = Still::new(&[main, spare]);
        dm_remap(&line).exits(4).complains(&["'data'", main, "cannot be proven", "--main"]);
        still.check(&line);
    }
    let wrong = dm_remap(&format!("activate data --main {other}")).exits(4);
    wrong.complains(&[other, "is not the main of 'data'", "size is 20480 sectors, not 16384"]);
    dm_remap(&format!("activate data --main {main}")).ok();
    assert_eq!(json_extents(), [(96, 8)]);
}

#[test]
fn lists_of_badblocks_and_ddrescue_go_in_and_out() {
    let Some(guest) = Guest::begin() else { return };
    let mut random = Random::new();
    let disk = guest.scsi_debug(8, "");
    let main = disk.device.as_str();
    fill(main);
    let bad = 64 + random.below(8000);
    let count = 1 + random.below(12);
    disk.bad(bad, count);
    let units = |step: u64| (bad / step * step, (bad + count).div_ceil(step) * step);
    let (first, end) = units(8);
    let spare = guest.disks[1].as_str();

    // badblocks(8), with its usual block size and with ours.
    for block in [1024, 4096] {
        let list = sh(&format!("badblocks -b {block} {main} 2>/dev/null"));
        assert!(!list.is_empty());
        fs::write("/tmp/mnt/list", &list).unwrap();
        dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
        dm_remap(&format!("remap data --from-badblocks /tmp/mnt/list --block-size {block}")).exits(3);
        let covered: BTreeSet<u64> = json_extents().iter().flat_map(|(s, n)| *s..s + n).collect();
        assert!((bad..bad + count).all(|s| covered.contains(&s)));
        assert_eq!(covered, (first..end).collect());
        // A second time there is nothing to do, and that is no error.
        let again = dm_remap(&format!("remap data --from-badblocks /tmp/mnt/list --block-size {block}")).ok();
        again.says(&["already remapped"]);
        // What comes out is what main's bad places are, in the units that moved.
        let out = dm_remap(&format!("map data --format badblocks --block-size {block}")).ok().out;
        let expected: String = (first * 512 / block..(end * 512).div_ceil(block)).map(|n| format!("{n}\n")).collect();
        assert_eq!(out, expected);
        dm_remap("destroy data --discard-extents").ok();
    }

    // GNU ddrescue, there and back.
    let missing = shell("command -v ddrescue").code != 0;
    if missing {
        println!("ddrescue is not installed: left out");
        return;
    }
    sh(&format!("rm -f /tmp/mnt/image /tmp/mnt/map; ddrescue -q -d -r1 {main} /tmp/mnt/image /tmp/mnt/map"));
    let seen: u64 = sh("ddrescuelog -l- -b512 /tmp/mnt/map").lines().count() as u64;
    assert_eq!(seen, count);
    dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
    let json = dm_remap("--json remap data --from-mapfile /tmp/mnt/map").exits(3).json();
    assert_eq!(ranges(&json["lost"]), [(bad, count)]);
    let mapfile = dm_remap("map data --format mapfile").ok().out;
    fs::write("/tmp/mnt/out", &mapfile).unwrap();
    let blocks: Vec<u64> = sh("ddrescuelog -l- -b512 /tmp/mnt/out").lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(blocks, (first..end).collect::<Vec<_>>(), "ddrescue reads our mapfile");
    // e2fsck reads our list, ddrescue's status line is understood, standard input works.
    dm_remap("destroy data --discard-extents").ok();
    dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
    let piped = shell("cat /tmp/mnt/out | $DMR --json remap data --from-mapfile -").exits(3);
    assert_eq!(ranges(&piped.json()["lost"]), [(bad, count)]);
    assert_eq!(dm_remap("map data --format mapfile").ok().out, mapfile);
}

#[test]
fn metadata_check_finds_damage_and_the_next_commit_mends_it() {
    let Some(guest) = Guest::begin() else { return };
    let [main, a, b] = [0, 1, 2].map(|n| guest.disks[n].as_str());
    dm_remap(&format!("create data --main {main} --spare {a} {b}")).ok();
    dm_remap("remap data 100").ok();
    let spare = Direct::open(a);
    spare.write(2048, &[0x55; 4096]).unwrap();
    spare.write(8192, &[0; 512 * 16]).unwrap();
    let check = dm_remap(&format!("metadata check {a}")).exits(3);
    check.says(&["copy 2", "copy 4", "2 of 5 copies are not current"]);
    let json = dm_remap(&format!("--json metadata check {a}")).exits(3).json();
    let verdicts: Vec<_> =
        json["spares"][0]["copies"].as_array().unwrap().iter().map(|c| c["verdict"].as_str()).collect();
    assert_eq!([verdicts[0], verdicts[1], verdicts[3]], [Some("valid"); 3]);
    assert!(verdicts[2] != Some("valid") && verdicts[4] != Some("valid"), "{verdicts:?}");
    dm_remap("status data").exits(3).says(&["3/5", "not current"]);
    // Four of five copies gone on one spare, all on the other: one copy tells everything.
    for start in [0, 1024, 4096] {
        spare.write(start, &[0xee; 4096]).unwrap();
    }
    dm_remap(&format!("metadata check {a}")).exits(1);
    dm_remap("status data").exits(3).says(&["degraded", "unreadable"]);
    let dump = dm_remap(&format!("metadata dump {b}")).ok().json();
    assert_eq!(dump["extents"][0]["start"], 96);
    dm_remap("remap data 1000").ok();
    dm_remap(&format!("metadata check {a}")).ok();
    dm_remap("status data").ok();
}
