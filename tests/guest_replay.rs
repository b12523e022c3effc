//! Power cuts on a real kernel: dm-log-writes below main and spares records every write and flush, and what a cut would
//! have left is put together from that.
//!
//! - What fsync, or a write with O_DSYNC, has acknowledged is on the disk below, in both layouts.
//! - After a cut at any recorded write of any command, the setup comes up with every acknowledged byte.
// guest: --disk 8M --disk 64M --disk 8M --disk 64M --disk 40M --disk 200M --timeout 1200
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;
#[path = "guest_replay/log.rs"]
mod log;
mod support;

use dm_remap::block::Disk;
use dm_remap::block::buffer::AlignedBuffer;
use dm_remap::block::ram::{Image, Power};
use dm_remap::engine::session::Session;
use dm_remap::units::Sectors;
use live::{Random, Setup, disk, dm_remap, in_guest, must, nobody_left, sectors};
use log::Entry;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use support::{Machine, NAME, pattern};

/// Sectors of a unit, and of each write.
const UNIT: u64 = 8;

fn dmsetup(args: &[&str]) {
    must("dmsetup", args);
}

/// A device that passes everything to `disk` and records it in `log`.
fn recorded(name: &str, disk: &Path, log: &Path) -> PathBuf {
    let zeros = vec![0; 1 << 20];
    OpenOptions::new().write(true).open(log).unwrap().write_all_at(&zeros, 0).unwrap();
    let table = format!("0 {} log-writes {} {}", sectors(disk), disk.display(), log.display());
    dmsetup(&["create", name, "--table", &table]);
    Path::new("/dev/mapper").join(name)
}

fn mark(name: &str, text: &str) {
    dmsetup(&["message", name, "0", "mark", text]);
}

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_DIRECT | flags).open(path).unwrap()
}

/// Writes a unit in a version.
fn write_unit(file: &File, at: u64, version: u8) {
    let mut data = AlignedBuffer::new(UNIT as usize * 512);
    for (sector, room) in (at..).zip(data.chunks_exact_mut(512)) {
        room.copy_from_slice(&pattern(sector, version));
    }
    file.write_all_at(&data, at * 512).unwrap();
}

/// Fills a device with zeros.
fn blank(device: &Path, len: u64) {
    let device = open(device, 0);
    device.write_all_at(&AlignedBuffer::new(len as usize * 512), 0).unwrap();
    device.sync_all().unwrap();
}

/// Puts an entry on an image.
fn apply(image: &mut Image, entry: &Entry) {
    match entry {
        Entry::Write { sector, data, .. } => {
            for (at, content) in (*sector..).zip(data.chunks_exact(512)) {
                // What an image does not have is zero.
                if content.iter().all(|byte| *byte == 0) {
                    image.remove(&at);
                } else {
                    image.insert(at, content.try_into().unwrap());
                }
            }
        }
        Entry::Discard { sector, sectors } => image.retain(|at, _| !(*sector..sector + sectors).contains(at)),
        Entry::Mark(_) => {}
    }
}

/// The image at each mark.
fn at_marks(entries: &[Entry]) -> HashMap<String, Image> {
    let (mut image, mut found) = (Image::new(), HashMap::new());
    for entry in entries {
        apply(&mut image, entry);
        if let Entry::Mark(text) = entry {
            found.insert(text.clone(), image.clone());
        }
    }
    found
}

#[test]
fn what_is_acknowledged_is_on_the_disk_below_in_both_layouts() {
    if !in_guest() {
        return;
    }
    let mut checked = 0;
    for layout in ["flat", "switched"] {
        for how in ["fsync", "dsync"] {
            blank(&disk(2), sectors(&disk(2)));
            let main = recorded("lmain", &disk(0), &disk(1));
            let spare = recorded("lspare", &disk(2), &disk(3));
            let setup = Setup { name: "ack".into(), sectors: sectors(&main), main, spares: vec![spare] };
            let mut args = setup.create_args();
            args.extend(["--layout", layout]);
            dm_remap(&args).expect(&[0]);
            let moved: Vec<u64> = (0..30).map(|n| 64 + n * 24).collect();
            let list: Vec<String> = moved.iter().map(|s| format!("{s}+{UNIT}")).collect();
            setup.command("remap", &list.iter().map(String::as_str).collect::<Vec<_>>()).expect(&[0]);
            let extents = setup.extents();
            let node = open(&setup.node(), if how == "dsync" { nix::libc::O_DSYNC } else { 0 });
            let mut versions: HashMap<u64, u8> = HashMap::new();
            let mut expected = Vec::new();
            for turn in 1..=12u8 {
                // One on a spare, the next on main, another on the spare.
                let first = u64::from(turn) * 2;
                for at in [moved[first as usize], 2000 + first * UNIT, moved[first as usize + 1]] {
                    write_unit(&node, at, turn);
                    versions.insert(at, turn);
                }
                if how == "fsync" {
                    node.sync_all().unwrap();
                }
                for device in ["lmain", "lspare"] {
                    mark(device, &format!("turn{turn}"));
                }
                expected.push((format!("turn{turn}"), versions.clone()));
            }
            drop(node);
            setup.command("deactivate", &[]).expect(&[0]);
            dmsetup(&["remove", "lmain"]);
            dmsetup(&["remove", "lspare"]);
            let [on_main, on_spare] = [1, 3].map(|n| at_marks(&log::read(&disk(n))));
            for (mark, versions) in &expected {
                for (at, version) in versions {
                    for sector in *at..at + UNIT {
                        let extent = extents.iter().find(|e| e.start <= sector && sector < e.start + e.count);
                        let found = match extent {
                            Some(extent) => on_spare[mark].get(&(extent.slot + sector - extent.start)),
                            None => on_main[mark].get(&sector),
                        };
                        assert!(
                            found.is_some_and(|data| *data == pattern(sector, *version)),
                            "{layout} {how} {mark}: sector {sector} is not on {extent:?} (none: main)"
                        );
                        checked += 1;
                    }
                }
            }
        }
    }
    println!("{checked} acknowledged sectors found on the disks below");
    assert!(checked > 5000);
}

/// The parts of the one recorded disk: main, three spares.
const MAIN_SECTORS: u64 = 2048;
const SPARE_SECTORS: u64 = 10_240 + 1024;
const PARTS: [(&str, u64, u64); 4] = [
    ("pmain", 0, MAIN_SECTORS),
    ("pspare0", MAIN_SECTORS, SPARE_SECTORS),
    ("pspare1", MAIN_SECTORS + SPARE_SECTORS, SPARE_SECTORS),
    ("pspare2", MAIN_SECTORS + 2 * SPARE_SECTORS, SPARE_SECTORS),
];

/// What each sector may hold: the version that was acknowledged, and those that were written since.
type Versions = Vec<Vec<u8>>;

/// The images of the parts.
fn parts(whole: &Image) -> Vec<Image> {
    let part = |(_, start, len): &(&str, u64, u64)| {
        let inside = whole.iter().filter(|(at, _)| (*start..start + len).contains(*at));
        inside.map(|(at, data)| (at - start, *data)).collect()
    };
    PARTS.iter().map(part).collect()
}

/// Brings up what a cut has left, as the next start would, and reads all of it. Without a setup, main is asked.
fn check(whole: &Image, versions: &Versions, what: &dyn Fn() -> String) -> bool {
    let images = parts(whole);
    let machine = Machine::with_images(Power::new(), MAIN_SECTORS, &[SPARE_SECTORS; 3], images);
    let mut data = vec![0; MAIN_SECTORS as usize * 512];
    let up = machine
        .load()
        .is_some_and(|choice| choice.newest.metadata.config.state == dm_remap::format::metadata::SetupState::Ready);
    if up {
        let activated = machine.activate_whatever_was();
        activated.unwrap_or_else(|error| panic!("{}: it does not come up: {error}", what()));
        machine.dm.disk(NAME).read(Sectors(0), &mut data).unwrap_or_else(|error| panic!("{}: {error}", what()));
        let _: Session<'_> = machine.session().unwrap();
    } else {
        machine.main.read(Sectors(0), &mut data).unwrap();
    }
    for (sector, (found, allowed)) in (0..).zip(data.chunks_exact(512).zip(versions)) {
        let right = allowed.iter().any(|version| found == pattern(sector, *version));
        assert!(right, "{}: sector {sector} holds none of its versions {allowed:?}; up: {up}", what());
    }
    up
}

/// A step of a setup's life.
struct Life {
    node: PathBuf,
    versions: Versions,
    next: u8,
    /// What each sector may hold from each mark on.
    known: Vec<(String, Versions)>,
    random: Random,
}

impl Life {
    /// Runs a command that has to succeed. Its mark says from where on it has begun.
    fn run(&mut self, args: &[&str]) {
        let label = format!("{}:{}", self.known.len(), args.join("_").replace("/dev/mapper/", ""));
        let label: String = label.chars().take(100).collect();
        self.known.push((label.clone(), self.versions.clone()));
        mark("whole", &label);
        dm_remap(args).expect(&[0]);
        nobody_left();
    }

    /// Writes some units, without a flush, then makes them durable: two marks.
    fn write(&mut self) {
        let node = open(&self.node, 0);
        self.next += 1;
        let version = self.next;
        let units: Vec<u64> = (0..6).map(|_| self.random.below(MAIN_SECTORS / UNIT) * UNIT).collect();
        for unit in &units {
            (*unit..unit + UNIT).for_each(|sector| self.versions[sector as usize].push(version));
        }
        let label = format!("{}:write", self.known.len());
        self.known.push((label.clone(), self.versions.clone()));
        mark("whole", &label);
        units.iter().for_each(|unit| write_unit(&node, *unit, version));
        node.sync_all().unwrap();
        for unit in &units {
            (*unit..unit + UNIT).for_each(|sector| self.versions[sector as usize] = vec![version]);
        }
        let label = format!("{}:written", self.known.len());
        self.known.push((label.clone(), self.versions.clone()));
        mark("whole", &label);
    }
}

/// One life of a setup with all commands that change it.
fn live_it(layout: &str, seed: u64) -> Life {
    let [main, s0, s1, s2] = PARTS.map(|(name, ..)| format!("/dev/mapper/{name}"));
    let versions = vec![vec![0]; MAIN_SECTORS as usize];
    let node = Path::new("/dev/mapper").join(NAME);
    let mut life = Life { node, versions, next: 0, known: Vec::new(), random: Random(seed) };
    life.run(&["create", NAME, "--main", &main, "--spare", &s0, "--spare", &s1, "--layout", layout]);
    life.write();
    let mut ranges = Vec::new();
    for batch in 0..4u64 {
        let list: Vec<String> =
            (0..3).map(|n| format!("{}+{UNIT}", (batch * 60 + n * 17 + life.random.below(9)) * UNIT)).collect();
        let mut args = vec!["remap", NAME];
        args.extend(list.iter().map(String::as_str));
        life.run(&args);
        ranges.extend(list);
        life.write();
    }
    life.run(&["restore", NAME, &ranges[1], &ranges[4]]);
    life.write();
    life.run(&["layout", NAME, if layout == "flat" { "switched" } else { "flat" }]);
    life.write();
    life.run(&["spare", "add", NAME, &s2]);
    life.run(&["remap", NAME, &format!("{}+{UNIT}", 250 * UNIT)]);
    life.run(&["spare", "evacuate", NAME, "0"]);
    life.write();
    life.run(&["spare", "remove", NAME, "0"]);
    life.run(&["spare", "replace", NAME, "1", &s0]);
    life.write();
    life.run(&["metadata", "repair", NAME]);
    life.run(&["compact", NAME]);
    life.run(&["policy", NAME, "--allocation", "least-used"]);
    life.run(&["deactivate", NAME]);
    life.run(&["activate", NAME, "--main", &main, "--layout", layout]);
    life.write();
    life.run(&["restore", NAME, "--all"]);
    life.run(&["destroy", NAME]);
    life.known.push(("end".into(), life.versions.clone()));
    mark("whole", "end");
    life
}

#[test]
fn a_cut_at_any_recorded_write_of_any_command_loses_nothing_that_was_acknowledged() {
    if !in_guest() {
        return;
    }
    let seed: u64 = std::env::var("DM_REMAP_SEED").map_or(1, |text| text.parse().unwrap());
    let subsets: u32 = std::env::var("DM_REMAP_SUBSETS").map_or(1, |text| text.parse().unwrap());
    let (mut states, mut up) = (0u32, 0u32);
    for layout in ["flat", "switched"] {
        let whole = recorded("whole", &disk(4), &disk(5));
        for (name, start, len) in PARTS {
            dmsetup(&["create", name, "--table", &format!("0 {len} linear {} {start}", whole.display())]);
        }
        // What main holds is recorded, too; the blank spares may hold an earlier life.
        let main = open(Path::new("/dev/mapper/pmain"), 0);
        (0..MAIN_SECTORS / UNIT).for_each(|unit| write_unit(&main, unit * UNIT, 0));
        main.sync_all().unwrap();
        drop(main);
        for (name, _, len) in &PARTS[1..] {
            blank(&Path::new("/dev/mapper").join(name), *len);
        }
        let life = live_it(layout, seed);
        for (name, ..) in PARTS {
            dmsetup(&["remove", name]);
        }
        dmsetup(&["remove", "whole"]);
        let entries = log::read(&disk(5));
        let (more, came_up) = replay(&entries, &life, seed, subsets);
        println!("{layout}, seed {seed}: {} entries, {more} states, {came_up} of them a setup", entries.len());
        (states, up) = (states + more, up + came_up);
    }
    println!("{states} states");
    assert!(states > 1000 && up > 500, "{states} states, {up} up");
}

/// Checks the state after every entry, and after random parts of what one flush made durable.
fn replay(entries: &[Entry], life: &Life, seed: u64, subsets: u32) -> (u32, u32) {
    let mut random = Random(seed ^ 0x5eed);
    let (mut states, mut up) = (0, 0);
    let mut image = Image::new();
    let mut known: Option<&(String, Versions)> = None;
    // What was durable at the last flush, and what came since.
    let (mut durable, mut since): (Image, Vec<&Entry>) = (Image::new(), Vec::new());
    for (number, entry) in entries.iter().enumerate() {
        if let Entry::Mark(text) = entry {
            known = life.known.iter().find(|(label, _)| label == text);
            assert!(known.is_some() || text.starts_with("dm-log-writes-end"), "{text}");
            continue;
        }
        apply(&mut image, entry);
        since.push(entry);
        let last = matches!(entry, Entry::Write { last: true, .. });
        let Some((label, versions)) = known else {
            if last {
                (durable, since) = (image.clone(), Vec::new());
            }
            continue;
        };
        let what = |how: &str| format!("{label}, entry {number}, seed {seed}{how}");
        up += u32::from(check(&image, versions, &|| what("")));
        states += 1;
        if !last {
            continue;
        }
        for _ in 0..if since.len() > 1 { subsets } else { 0 } {
            let mut torn = durable.clone();
            since.iter().filter(|_| random.below(2) == 0).for_each(|entry| apply(&mut torn, entry));
            up += u32::from(check(&torn, versions, &|| what(", a random part of the last flush")));
            states += 1;
        }
        (durable, since) = (image.clone(), Vec::new());
    }
    (states, up)
}
