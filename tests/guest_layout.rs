//! The layouts on a real kernel: what a flush costs on the disks below and that it reaches all of them, the change while
//! somebody reads and writes, and commands that are killed in it.
// guest: --disk 24M --disk 24M --disk 24M --timeout 900
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use dm_remap::dm::{DeviceMapper, TableSlot};
use dm_remap::units::DevNo;
use live::load::{Load, fill, reads_right};
use live::{LONGEST_GAP, Setup, disk, dm_remap, in_guest, kernel, must, nobody_left, program, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const WRITES: u64 = 40;

/// Requests to flush its cache that a disk has had (Documentation/block/stat.rst).
fn flushes(disk: &Path) -> u64 {
    let name = disk.file_name().unwrap().to_str().unwrap().to_string();
    let text = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    text.split_ascii_whitespace().nth(15).expect("a kernel from 5.5").parse().unwrap()
}

/// A setup with `count` extents of one unit on two spares, in turns, as scattered as can be.
fn scattered(name: &str, layout: &str, count: u64) -> Setup {
    let main = disk(0);
    fill(&main, live::sectors(&main));
    let setup = Setup { name: name.into(), sectors: live::sectors(&main), main, spares: vec![disk(1), disk(2)] };
    let mut args: Vec<&str> = setup.create_args();
    args.extend(["--layout", layout, "--allocation", "round-robin"]);
    dm_remap(&args).expect(&[0]);
    let sectors: Vec<String> = (0..count).map(|n| format!("{}+8", 800 + n * 32)).collect();
    let (first, second) = sectors.split_at(sectors.len() / 2);
    for part in [first, second] {
        setup.command("remap", &part.iter().map(String::as_str).collect::<Vec<_>>()).expect(&[0]);
    }
    setup
}

fn layout_of(setup: &Setup) -> String {
    let out = setup.command("layout", &["--json"]).expect(&[0]).out;
    let json: Value = serde_json::from_str(&out).unwrap();
    json["layout"].as_str().unwrap().to_string()
}

fn destroy(setup: &Setup) {
    setup.command("deactivate", &[]).expect(&[0]);
    let main = setup.main.to_str().unwrap();
    dm_remap(&["activate", &setup.name, "--main", main]).expect(&[0]);
    setup.command("destroy", &["--merge-back"]).expect(&[0]);
    let left: Vec<String> = kernel().list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(!left.iter().any(|name| name.starts_with(&setup.name)), "{left:?}");
}

/// Flushes that `WRITES` writes with O_DSYNC, each on another extent, and as many calls of fsync cost each disk.
fn cost(setup: &Setup, how: &str) -> [u64; 3] {
    let disks = [&setup.main, &setup.spares[0], &setup.spares[1]];
    let before = disks.map(|d| flushes(d));
    let flags = if how == "dsync" { nix::libc::O_DIRECT | nix::libc::O_DSYNC } else { nix::libc::O_DIRECT };
    let node = OpenOptions::new().write(true).custom_flags(flags).open(setup.node()).unwrap();
    let mut data = dm_remap::block::buffer::AlignedBuffer::new(4096);
    for n in 0..WRITES {
        data.fill(n as u8 + 1);
        // On main, on the one spare, on the other.
        let sector = if n % 4 == 3 { 8 + n * 8 } else { 800 + n * 32 };
        node.write_all_at(&data, sector * 512).unwrap();
        if how == "fsync" {
            node.sync_all().unwrap();
        }
    }
    let mut after = disks.map(|d| flushes(d));
    after.iter_mut().zip(before).for_each(|(a, b)| *a -= b);
    after
}

#[test]
fn a_flush_reaches_every_disk_and_costs_one_however_many_extents_there_are() {
    if !in_guest() {
        return;
    }
    let count = 200;
    for how in ["fsync", "dsync"] {
        let setup = scattered("flush", "switched", count);
        assert_eq!(layout_of(&setup), "switched");
        setup.table_is(&setup.extents());
        let switched = cost(&setup, how);
        setup.command("layout", &["flat"]).expect(&[0]);
        assert_eq!(layout_of(&setup), "flat");
        setup.table_is(&setup.extents());
        let flat = cost(&setup, how);
        println!("{how}: {WRITES} writes, {count} extents: main/spare/spare switched {switched:?}, flat {flat:?}");
        for (disk, (switched, flat)) in switched.into_iter().zip(flat).enumerate() {
            // fsync: one each; a write with O_DSYNC: what comes before and after it, at most.
            let most = if how == "fsync" { WRITES } else { 2 * WRITES };
            assert!((WRITES / 2..=most + 4).contains(&switched), "disk {disk}: {switched}");
            assert!(how != "fsync" || switched >= WRITES, "disk {disk}: {switched}");
            assert!(switched <= flat, "disk {disk}: {switched}, flat {flat}");
        }
        destroy(&setup);
    }
}

#[test]
fn the_layout_changes_under_load_and_nobody_waits_long() {
    if !in_guest() {
        return;
    }
    let setup = scattered("online", "flat", 20);
    let hot: Vec<(u64, u64)> = vec![(780, 700)];
    let load = Load::start(&setup.node(), setup.sectors, &hot, &[]);
    for turn in 0..6 {
        let (to, mapped) = (["switched", "flat"][turn % 2], setup.extents());
        setup.command("layout", &[to]).expect(&[0]);
        assert_eq!(layout_of(&setup), to);
        setup.table_is(&mapped);
        let sector = format!("{}+8", 8000 + turn * 64);
        setup.command("remap", &[&sector]).expect(&[0]);
        setup.table_is(&setup.extents());
        assert!(!setup.suspended() && !setup.has_inactive());
    }
    assert!(load.longest() < LONGEST_GAP, "{:?}", load.longest());
    load.check();
    println!("{} requests meanwhile", load.finish());
    assert_eq!(setup.extents().len(), 26);
    setup.command("layout", &["switched"]).expect(&[0]);
    // A status asks by the layout that there is, and a setup that comes up has the one that it is told.
    assert!(setup.command("status", &[]).expect(&[0]).out.contains("switched"));
    setup.command("deactivate", &[]).expect(&[0]);
    let main = setup.main.to_str().unwrap();
    dm_remap(&["activate", "online", "--main", main, "--layout", "switched"]).expect(&[0]);
    assert_eq!(layout_of(&setup), "switched");
    setup.table_is(&setup.extents());
    dm_remap(&["deactivate", "online"]).expect(&[0]);
    dm_remap(&["reassemble", "--setup", "online", "--main", main, "--read-only", "--layout", "switched"]).expect(&[0]);
    assert_eq!(layout_of(&setup), "switched");
    assert!(
        run("dd", &["if=/dev/zero", &format!("of={}", setup.node().display()), "bs=4k", "count=1", "oflag=direct"])
            .code
            != Some(0)
    );
    must("dd", &[&format!("if={}", setup.node().display()), "of=/dev/null", "bs=1M"]);
    dm_remap(&["deactivate", "online"]).expect(&[0]);
    dm_remap(&["activate", "online", "--main", main, "--layout", "flat"]).expect(&[0]);
    destroy(&setup);
}

/// Killed at any of its calls to device-mapper, `layout` leaves a setup that runs, and the next one puts all in order.
#[test]
fn a_killed_change_leaves_one_of_the_two_layouts() {
    if !in_guest() {
        return;
    }
    let setup = scattered("killed", "flat", 12);
    let mapped = setup.extents();
    let (mut kills, mut seen) = (0, BTreeSet::new());
    for to in ["switched", "flat"] {
        let from = if to == "flat" { "switched" } else { "flat" };
        // A sample, other calls in the one direction than in the other.
        let first = if to == "flat" { 1 } else { 4 };
        for call in (first..400).step_by(20) {
            setup.command("layout", &[from]).expect(&[0]);
            let inject = format!("inject=ioctl:signal=SIGKILL:when={call}");
            let args = ["-o", "/dev/null", "-e", "trace=ioctl", "-e", &inject, &program(), "layout", "killed", to];
            let ended = run("strace", &args);
            nobody_left();
            if ended.code == Some(0) {
                break;
            }
            kills += 1;
            assert!(!setup.suspended(), "call {call}");
            setup.table_is(&mapped);
            let table = kernel().table(&setup.name, TableSlot::Active).unwrap();
            seen.insert(table.len() == 2);
            setup.command("layout", &[to]).expect(&[0]);
            assert!(!setup.has_inactive(), "call {call}");
            setup.table_is(&mapped);
            let devices = kernel().list().unwrap().len();
            assert_eq!(devices, if to == "flat" { 3 } else { 5 }, "call {call}: {:?}", kernel().list());
        }
    }
    println!("{kills} kills, switched after them: {seen:?}");
    assert!(kills > 20, "{kills}");
    assert_eq!(seen.len(), 2);
    destroy(&setup);
}

/// The overlays of the setup: number, and lines of the table.
fn overlays(setup: &Setup) -> BTreeMap<DevNo, usize> {
    let begin = format!("{}-overlay", setup.name);
    let listed = kernel().list().unwrap().into_iter().filter(|(name, _)| name.starts_with(&begin));
    listed.map(|(name, number)| (number, kernel().table(&name, TableSlot::Active).unwrap().len())).collect()
}

#[test]
fn a_large_table_lies_in_several_overlays_and_a_splice_makes_one_anew() {
    if !in_guest() {
        return;
    }
    let setup = scattered("large", "switched", 12);
    let units: String = (0..2990).map(|n| format!("{}\n", 2 * n + 1)).collect();
    fs::write("/tmp/units", units).unwrap();
    setup.command("remap", &["--from-badblocks", "/tmp/units", "--block-size", "4096"]).expect(&[0]);
    let before = overlays(&setup);
    assert!(before.len() >= 3 && before.values().all(|lines| *lines <= 4096), "{before:?}");
    reads_right(&setup.node());
    setup.command("remap", &["6000+8"]).expect(&[0]);
    let after = overlays(&setup);
    let kept = before.iter().filter(|(number, lines)| after.get(number) == Some(lines)).count();
    assert_eq!((after.len(), kept), (before.len(), before.len() - 1), "{before:?} {after:?}");
    reads_right(&setup.node());
    assert_eq!(layout_of(&setup), "switched");
    setup.command("layout", &["flat"]).expect(&[0]);
    assert_eq!(overlays(&setup).len(), 0);
    reads_right(&setup.node());
    setup.command("layout", &["switched"]).expect(&[0]);
    setup.command("restore", &["--all"]).expect(&[0]);
    reads_right(&setup.node());
    assert!(overlays(&setup).len() <= 2, "{:?}", overlays(&setup));
    destroy(&setup);
}
