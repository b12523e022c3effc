//! Where sectors really go: the tables that the kernel gives back, walked by this test's own reader, against the map.
// guest: --disk 96M --disk 64M --disk 16M --disk 16M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;

const SETUP: &str = "/dev/mapper/data";

/// Number of a device, as tables have it.
fn number(path: &str) -> String {
    let rdev = std::fs::metadata(path).unwrap().rdev();
    format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// A piece of a table.
#[derive(Debug, Clone)]
struct Piece {
    start: u64,
    len: u64,
    device: String,
    offset: u64,
}

/// All tables of the kernel: those of device-mapper devices by their number.
struct Walk {
    tables: BTreeMap<String, Vec<Piece>>,
}

impl Walk {
    fn new() -> Walk {
        let mut tables = BTreeMap::new();
        for line in sh("dmsetup info -c --noheadings --separator ' ' -o name,major,minor").lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let mut end = 0;
            let mut pieces = Vec::new();
            for row in sh(&format!("dmsetup table {}", words[0])).lines() {
                let row: Vec<&str> = row.split_ascii_whitespace().collect();
                let (start, len) = (row[0].parse().unwrap(), row[1].parse().unwrap());
                assert_eq!(start, end, "a hole or an overlap in the table of {}", words[0]);
                end = start + len;
                let (device, offset) = match row[2] {
                    // Both lead sector N of the piece to sector offset+N.
                    "linear" | "dust" => (row[3].to_string(), row[4].parse().unwrap()),
                    // One path, and no optional arguments.
                    "switch" if (row[3], row[5], row.len()) == ("1", "0", 8) => {
                        (row[6].to_string(), row[7].parse().unwrap())
                    }
                    other => panic!("unexpected target {other}"),
                };
                pieces.push(Piece { start, len, device, offset });
            }
            tables.insert(format!("{}:{}", words[1], words[2]), pieces);
        }
        Walk { tables }
    }

    /// The pieces of a device, followed down to devices that are not device-mapper's.
    fn pieces(&self, device: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        for piece in &self.tables[device] {
            let mut done = 0;
            if !self.tables.contains_key(&piece.device) {
                out.push(piece.clone());
                continue;
            }
            for below in self.pieces(&piece.device) {
                let (from, to) =
                    (piece.offset.max(below.start), (piece.offset + piece.len).min(below.start + below.len));
                if from < to {
                    let offset = below.offset + from - below.start;
                    out.push(Piece { start: piece.start + done, len: to - from, device: below.device.clone(), offset });
                    done += to - from;
                }
            }
            assert_eq!(done, piece.len, "a piece leads beyond the end of {}", piece.device);
        }
        out
    }
}

/// Where every sector that is not on main lives, by the map: device and sector there.
fn by_the_map(spares: &[String]) -> BTreeMap<u64, (String, u64)> {
    let json = dm_remap("--json map data").ok().json();
    let mut out = BTreeMap::new();
    for extent in json["extents"].as_array().unwrap() {
        let get = |field: &str| extent[field].as_u64().unwrap();
        for n in 0..get("count") {
            out.insert(get("start") + n, (spares[get("spare") as usize].clone(), get("slot") + n));
        }
    }
    out
}

/// The same by the tables. Main's own sectors must be themselves.
fn by_the_tables(main: &str, main_sectors: u64) -> BTreeMap<u64, (String, u64)> {
    let mut out = BTreeMap::new();
    let mut end = 0;
    for piece in Walk::new().pieces(&number(SETUP)) {
        assert_eq!(piece.start, end);
        end += piece.len;
        if piece.device == main {
            assert_eq!(piece.offset, piece.start, "main's sectors are where they are");
            continue;
        }
        out.extend((0..piece.len).map(|n| (piece.start + n, (piece.device.clone(), piece.offset + n))));
    }
    assert_eq!(end, main_sectors);
    out
}

/// The map and the tables agree, no slot is used twice, and none touches a copy of the metadata.
fn agree(main: &str, spares: &[&str], main_sectors: u64) -> BTreeMap<u64, (String, u64)> {
    let numbers: Vec<String> = spares.iter().map(|s| number(s)).collect();
    let map = by_the_map(&numbers);
    let tables = by_the_tables(&number(main), main_sectors);
    assert!(map == tables, "the map and the tables differ");
    let slots: BTreeSet<&(String, u64)> = tables.values().collect();
    assert_eq!(slots.len(), tables.len(), "two sectors share a slot");
    assert!(slots.iter().all(|(_, sector)| *sector >= 10_240));
    tables
}

/// The two numbers of a refusal for want of free slots.
fn needed_and_free(text: &str) -> (u64, u64) {
    let numbers: Vec<u64> = text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(text.contains("no free slot") && numbers.len() >= 2, "{text}");
    (numbers[0], numbers[1])
}

#[test]
fn for_random_maps_every_sector_goes_where_the_map_says() {
    let Some(guest) = Guest::begin() else { return };
    let mut random = Random::new();
    let loops: Vec<String> = ["12M", "7M", "8M", "6M", "9M"].iter().map(|s| guest.loop_device(s, "")).collect();
    let main = loops[0].as_str();
    let main_disk = Direct::open(main);
    let size = main_disk.sectors();
    for spares in 1..=4usize {
        let spares: Vec<&str> = loops[1..=spares].iter().map(String::as_str).collect();
        main_disk.fill(&patterns(0, size, 1));
        dmr(&[&["create", "data", "--main", main, "--spare"], &spares[..]].concat()).ok();
        let setup = Direct::open(SETUP);
        // What every sector of the setup must hold.
        let mut model = patterns(0, size, 1);
        for step in 0..5u8 {
            let restoring = step > 1 && random.below(2) == 0;
            let wanted: Vec<String> = if restoring {
                let extents = ranges(&dm_remap("--json map data").ok().json()["extents"]);
                // Parts of extents too.
                let part = |(start, count): (u64, u64), random: &mut Random| {
                    let first = random.below(count);
                    format!("{}+{}", start + first, 1 + random.below(count - first))
                };
                let chosen: Vec<_> = extents.into_iter().filter(|_| random.below(3) > 0).collect();
                chosen.into_iter().map(|extent| part(extent, &mut random)).collect()
            } else {
                let one = |random: &mut Random| {
                    let start = random.below(size);
                    let most = if random.below(4) == 0 { 300 } else { 20 };
                    format!("{start}+{}", 1 + random.below(most.min(size - start)))
                };
                (0..15).map(|_| one(&mut random)).collect()
            };
            if wanted.is_empty() {
                continue;
            }
            let verb = if restoring { "restore" } else { "remap" };
            let ran = if restoring {
                dmr(&[&[verb, "data"][..], &wanted.iter().map(String::as_str).collect::<Vec<_>>()].concat()).ok()
            } else {
                // As a list, so that what is mapped already is passed over.
                let mut list = String::new();
                for spec in &wanted {
                    let (start, count) = spec.split_once('+').unwrap();
                    let (start, count): (u64, u64) = (start.parse().unwrap(), count.parse().unwrap());
                    (start..start + count).for_each(|s| writeln!(list, "{s}").unwrap());
                }
                std::fs::write("/tmp/mnt/list", list).unwrap();
                let map = || dm_remap("--json map data").ok().json();
                let before = map();
                let ran = dm_remap("remap data --from-badblocks /tmp/mnt/list --block-size 512");
                if ran.code == 4 {
                    // Fifteen ranges may be more than the first spare has room for: then all or nothing.
                    let (needed, free) = needed_and_free(&ran.err);
                    assert!(needed > free, "{}", ran.err);
                    assert!(map() == before, "refused, and moved something");
                    continue;
                }
                ran.ok()
            };
            assert_eq!(ran.err, "");
            let places = agree(main, &spares, size);
            assert!(setup.differences(&model).is_empty(), "moving changed data");
            // New data in places of all kinds, to tell a slot from the old copy on main.
            for _ in 0..40 {
                let any = random.below(size);
                let at = places.range(any..).next().map_or(any, |(s, _)| if random.below(4) == 0 { any } else { *s });
                let data = pattern(at, 10 + step);
                setup.write(at, &data).unwrap();
                model[at as usize * 512..][..512].copy_from_slice(&data);
            }
            // Every sector, read from where the tables lead, without device-mapper.
            let images: BTreeMap<String, Vec<u8>> =
                spares.iter().map(|s| (number(s), Direct::open(s).image())).collect();
            let main_image = main_disk.image();
            for sector in 0..size {
                let (image, at) = match places.get(&sector) {
                    Some((device, at)) => (&images[device], *at),
                    None => (&main_image, sector),
                };
                let here = &image[at as usize * 512..][..512];
                assert!(here == &model[sector as usize * 512..][..512], "sector {sector} is not where the map says");
            }
            assert!(setup.differences(&model).is_empty());
        }
        // Also when it comes up again.
        drop(setup);
        let before = by_the_tables(&number(main), size);
        dm_remap("deactivate data").ok();
        dm_remap(&format!("activate data --main {main}")).ok();
        assert!(agree(main, &spares, size) == before);
        dm_remap("destroy data --merge-back").ok();
        assert!(main_disk.differences(&model).is_empty(), "all is back on main");
    }
}

/// How often any device-mapper device was resumed: the kernel sends one uevent for each.
fn uevents() -> u64 {
    sh("cat /sys/kernel/uevent_seqnum").trim().parse().unwrap()
}

#[test]
fn with_10000_extents_one_call_that_adds_1000_more_does_one_table_swap() {
    let Some(guest) = Guest::begin() else { return };
    let (main, spare) = (guest.disks[0].as_str(), guest.disks[1].as_str());
    let mut random = Random::new();
    let size = Direct::open(main).sectors();
    flat(&format!("create data --main {main} --spare {spare}")).ok();
    // Every second unit of 4096 bytes, in an order of its own.
    let mut units: Vec<u64> = (0..11_000).map(|n| n * 2).collect();
    (1..units.len()).rev().for_each(|n| units.swap(n, random.below(n as u64 + 1) as usize));
    assert!(22_000 * 8 < size);
    let list = |units: &[u64], path: &str| {
        std::fs::write(path, units.iter().map(|u| format!("{u}\n")).collect::<String>()).unwrap();
    };
    list(&units[..10_000], "/tmp/mnt/first");
    list(&units[10_000..], "/tmp/mnt/second");
    let clock = std::time::Instant::now();
    flat("-q remap data --from-badblocks /tmp/mnt/first --block-size 4096").ok().says(&["in 10000 extents"]);
    println!("10000 extents: {:.1} s", clock.elapsed().as_secs_f32());

    // A swap is a resume of a device that has a table in its inactive slot, so there are no more swaps than loads and
    // no more than resumes. Both are counted as system calls; resumes also by the kernel itself, from its uevents.
    let strace = shell("command -v strace").code == 0;
    let tracer = if strace { "strace -f -v -o /tmp/mnt/trace -e trace=ioctl " } else { "" };
    let before = uevents();
    let clock = std::time::Instant::now();
    shell(&format!(
        "{tracer}$DMR --config /tmp/flat.yaml -q remap data --from-badblocks /tmp/mnt/second --block-size 4096"
    ))
    .ok()
    .says(&["in 1000 extents"]);
    println!("1000 more: {:.1} s{}", clock.elapsed().as_secs_f32(), if strace { ", under strace" } else { "" });
    assert_eq!(uevents() - before, 1, "resumes of any device-mapper device");
    if strace {
        let trace = std::fs::read_to_string("/tmp/mnt/trace").unwrap();
        let loads = trace.lines().filter(|l| l.contains("DM_TABLE_LOAD")).count();
        let suspends = |resume: bool| {
            let lines = trace.lines().filter(|l| l.contains("DM_DEV_SUSPEND"));
            lines.filter(|l| l.contains("DM_SUSPEND_FLAG") != resume).count()
        };
        assert_eq!((loads, suspends(false), suspends(true)), (1, 1, 1), "loads, suspends, resumes");
    }
    let json = flat("--json map data").ok().json();
    assert_eq!(json["extents"].as_array().unwrap().len(), 11_000);
    let tables = agree(main, &[spare], size);
    assert_eq!(tables.len(), 88_000);
    assert!(units.iter().all(|u| tables.contains_key(&(u * 8))));
}

/// Runs a command with the flat layout: what is counted and compared here is that table.
fn flat(line: &str) -> Ran {
    std::fs::write("/tmp/flat.yaml", "defaults:\n  remap:\n    layout: flat\n").unwrap();
    dm_remap(&format!("--config /tmp/flat.yaml {line}"))
}
