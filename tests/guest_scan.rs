//! `scan`, end to end: what it finds, what it moves, and what it leaves alone.
// guest: --disk 64M --disk 32M --disk 32M --timeout 900
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;
use nix::errno::Errno;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// A device over `lower` on which some sectors answer EIO, as many bad ones of a disk do behind a USB bridge.
fn device_with_errors(name: &str, lower: &str, bad: &[(u64, u64)]) -> String {
    let size: u64 = sh(&format!("blockdev --getsz {lower}")).trim().parse().unwrap();
    let mut table = String::new();
    let mut at = 0;
    for (start, count) in bad {
        if *start > at {
            writeln!(table, "{at} {} linear {lower} {at}", start - at).unwrap();
        }
        writeln!(table, "{start} {count} error").unwrap();
        at = start + count;
    }
    if at < size {
        writeln!(table, "{at} {} linear {lower} {at}", size - at).unwrap();
    }
    std::fs::write("/tmp/work-table", table).unwrap();
    sh(&format!("dmsetup create --noudevsync {name} /tmp/work-table && dmsetup mknodes {name}"));
    format!("/dev/mapper/{name}")
}

/// Scattered single sectors and clusters, none touching another.
fn scattered(random: &mut Random, size: u64, singles: usize, clusters: usize) -> Vec<(u64, u64)> {
    let mut taken = BTreeSet::new();
    let mut out = Vec::new();
    let mut place = |random: &mut Random, count: u64| loop {
        let start = random.below(size - count - 1) + 1;
        if (start - 1..=start + count).any(|s| taken.contains(&s)) {
            continue;
        }
        taken.extend(start..start + count);
        return (start, count);
    };
    for _ in 0..clusters {
        let count = 20 + random.below(300);
        out.push(place(random, count));
    }
    for _ in 0..singles {
        out.push(place(random, 1));
    }
    out.sort_unstable();
    out
}

fn bad_of(json: &Value) -> Vec<(u64, u64)> {
    ranges(&json["areas"][0]["bad"])
}

/// Counts the reads of a program that fail, between it and the kernel.
const COUNTER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
static long failed;
static ssize_t counted(ssize_t got) {
    if (got < 0 && (errno == EIO || errno == ENODATA)) __atomic_add_fetch(&failed, 1, __ATOMIC_SEQ_CST);
    return got;
}
ssize_t read(int fd, void *buf, size_t len) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    return counted(real(fd, buf, len));
}
ssize_t pread64(int fd, void *buf, size_t len, off64_t at) {
    ssize_t (*real)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    return counted(real(fd, buf, len, at));
}
__attribute__((destructor)) static void tell(void) {
    FILE *file = fopen("/tmp/work-count", "w");
    if (file) { fprintf(file, "%ld", failed); fclose(file); }
}
"#;

fn failed_reads(command: &str) -> u64 {
    std::fs::write("/tmp/work-count.c", COUNTER).unwrap();
    sh(
        "[ -e /tmp/work-count.so ] || cc -shared -fPIC -o /tmp/work-count.so /tmp/work-count.c -ldl; rm -f /tmp/work-count",
    );
    shell(&format!("LD_PRELOAD=/tmp/work-count.so {command} >/tmp/work-out 2>/tmp/work-err"));
    std::fs::read_to_string("/tmp/work-count").unwrap().parse().unwrap()
}

#[test]
fn medium_errors_of_a_live_disk_are_found_and_moved_in_one_swap() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(48, "");
    let main = disk.device.as_str();
    dmr(&["create", "data", "--main", main, "--spare", &guest.disks[1]]).ok();
    dm_remap("scan data").ok().says(&["read 98304 sectors", "nothing wrong was found"]);
    disk.bad(50_001, 13);

    let mut still = Still::new(&[main, &guest.disks[1]]);
    let json = dmr(&["--json", "scan", "data", "--report-only"]).exits(3).json();
    still.check("--report-only");
    assert_eq!(bad_of(&json), [(50_001, 13)]);
    assert_eq!(json["moves"].as_array().unwrap().len(), 0);

    let before = dm_remap("--json status data").json()["setups"][0]["generation"].as_u64().unwrap();
    let json = dmr(&["--json", "scan", "data"]).exits(3).json();
    assert_eq!(bad_of(&json), [(50_001, 13)]);
    assert_eq!(ranges(&json["lost"]), [(50_001, 13)]);
    assert_eq!(ranges(&json["moves"]), [(50_000, 16)]);
    let after = dm_remap("--json status data").json()["setups"][0]["generation"].as_u64().unwrap();
    assert_eq!(after, before + 1, "one commit, one swap");
    assert_eq!(Direct::open("/dev/mapper/data").read(50_001, 1).err(), Some(Errno::EIO));

    // What was moved is not read again, and nothing else is wrong.
    dm_remap("scan data").ok().says(&["nothing wrong was found"]);
    still.renew();
    for line in ["scan data --range 98304+1", "scan data --rate 5Q", "scan", "scan data --resume", "scan a b"] {
        dm_remap(line).exits(2);
    }
    dm_remap("scan nothing").exits(4);
    dm_remap("scan --device /dev/null").exits(1);
    still.check("bad usage");
    dm_remap("destroy data --discard-extents").ok();
}

#[test]
fn five_thousand_scattered_and_twenty_clustered_are_found_exactly_and_with_fewer_bad_reads_than_badblocks() {
    let Some(guest) = Guest::begin() else { return };
    let mut random = Random::new();
    let size = 64 * 2048;
    let bad = scattered(&mut random, size, 5_000, 20);
    let device = device_with_errors("weary", &guest.disks[0], &bad);
    let json = dmr(&["--json", "scan", "--device", &device, "--retries", "0"]).exits(3).json();
    assert_eq!(bad_of(&json), bad, "none missed, none invented");
    let own = failed_reads(&format!("$DMR scan --device {device} --retries 0"));
    // A few probes of known-good places may have hit bad ones.
    let told = json["areas"][0]["failed_reads"].as_u64().unwrap();
    assert!((told..told + told / 50).contains(&own), "{own} failed reads, {told} told of");
    let badblocks = failed_reads(&format!("badblocks -b 512 -o /tmp/work-bad {device}"));
    let listed: BTreeSet<u64> =
        std::fs::read_to_string("/tmp/work-bad").unwrap().lines().map(|l| l.parse().unwrap()).collect();
    // It reads through the page cache here, and takes a page for bad as a whole.
    assert!(bad.iter().flat_map(|(start, count)| *start..start + count).all(|sector| listed.contains(&sector)));
    println!("failed reads: scan {own}, badblocks -b 512 {badblocks}; it lists {} sectors", listed.len());
    assert!(own < badblocks, "{own} failed reads, badblocks {badblocks}");
}

#[test]
fn a_killed_scan_goes_on_and_ends_the_same() {
    let Some(guest) = Guest::begin() else { return };
    let mut random = Random::new();
    let bad = scattered(&mut random, 64 * 2048, 200, 20);
    let device = device_with_errors("weary", &guest.disks[0], &bad);
    dmr(&["scan", "--device", &device, "--resume"]).exits(2).complains(&["no scan was stopped"]);
    let checkpoint = || sh("cat /var/lib/dm-remap/scan/*.json 2>/dev/null || true");
    let mut resume = "";
    for turn in 0..6 {
        // At any moment, before the first checkpoint too; every other time a while after a checkpoint was saved.
        let known = checkpoint();
        let scan = format!("exec $DMR --json scan --device {device} --rate 3M --retries 0 {resume} > /tmp/work-json");
        let mut scan = Command::new("bash").args(["-c", &scan]).env("DMR", &*PROGRAM).spawn().unwrap();
        if turn % 2 == 1 {
            let begun = Instant::now();
            while checkpoint() == known {
                assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        std::thread::sleep(Duration::from_millis(20 + 50 * random.below(40)));
        assert!(scan.try_wait().unwrap().is_none(), "the scan ended before it was killed");
        scan.kill().unwrap();
        scan.wait().unwrap();
        if checkpoint().is_empty() {
            continue;
        }
        // Without a word it does not throw away what is known.
        dmr(&["scan", "--device", &device]).exits(2).complains(&["--resume", "--restart"]);
        resume = "--resume";
    }
    assert_eq!(resume, "--resume", "never killed after a checkpoint");
    shell(&format!("$DMR --json scan --device {device} --rate max --retries 0 --resume > /tmp/work-json")).exits(3);
    let json: Value = serde_json::from_str(&std::fs::read_to_string("/tmp/work-json").unwrap()).unwrap();
    assert_eq!(bad_of(&json), bad);
}

#[test]
fn trouble_that_is_not_of_the_medium_moves_nothing() {
    let Some(guest) = Guest::begin() else { return };
    // Everything fails with EIO from some place on: a controller that has lost its mind.
    let size = 64 * 2048;
    let all = device_with_errors("dead", &guest.disks[0], &[]);
    dmr(&["create", "data", "--main", &all, "--spare", &guest.disks[1]]).ok();
    sh(&format!(
        "dmsetup suspend --nolockfs dead && dmsetup load dead --table '0 {size} error' && dmsetup resume dead"
    ));
    let mut still = Still::new(&[&guest.disks[1]]);
    let ran = dm_remap("scan data").exits(1);
    ran.clone().complains(&["trouble with the device"]).says(&["stopped by trouble"]);
    still.check("a controller that fails everywhere");
    sh(&format!(
        "dmsetup suspend --nolockfs dead && dmsetup load dead --table '0 {size} linear {} 0' && dmsetup resume dead",
        guest.disks[0]
    ));
    dm_remap("scan data --resume").ok().says(&["nothing wrong was found"]);
    dm_remap("destroy data").ok();
    sh("dmsetup remove --noudevsync dead");

    // A disk that is gone, and one that the kernel has taken offline.
    let disk = guest.scsi_debug(48, "");
    let name = disk.device.trim_start_matches("/dev/");
    dmr(&["create", "data", "--main", &disk.device, "--spare", &guest.disks[1]]).ok();
    still.renew();
    sh(&format!("echo offline > /sys/block/{name}/device/state"));
    dm_remap("scan data").exits(1).complains(&["trouble with the device"]);
    sh(&format!("echo running > /sys/block/{name}/device/state"));
    dm_remap("scan data --resume").ok();
    sh(&format!("(sleep 0.7; echo 1 > /sys/block/{name}/device/delete) & $DMR scan data --rate 20M; [ $? = 1 ]"));
    still.check("a disk that goes away");
    assert_eq!(dm_remap("--json map data").json()["extents"].as_array().unwrap().len(), 0);
    dm_remap("deactivate data");
}

#[test]
fn slow_places_are_found_and_moved_while_they_can_be_read() {
    let Some(guest) = Guest::begin() else { return };
    let size: u64 = 48 * 2048;
    let lower = &guest.disks[0];
    Direct::open(lower).write(20_000, &patterns(20_000, 32, 3)).unwrap();
    let table = format!(
        "0 20008 linear {lower} 0\\n20008 8 delay {lower} 20008 500\\n20016 {} linear {lower} 20016\\n",
        size - 20_016
    );
    sh(&format!("printf '{table}' | dmsetup create --noudevsync slow && dmsetup mknodes slow"));
    dmr(&["create", "data", "--main", "/dev/mapper/slow", "--spare", &guest.disks[1]]).ok();
    let json = dmr(&["--json", "scan", "data", "--slow-ms", "250"]).ok().json();
    let weak = &json["areas"][0]["weak"];
    assert_eq!(ranges(weak), [(20_008, 8)], "{json}");
    assert!(weak[0]["milliseconds"].as_u64().unwrap() >= 500);
    assert_eq!(json["moves"].as_array().unwrap().len(), 0, "not without being told");
    let json = dmr(&["--json", "scan", "data", "--slow-ms", "250", "--move-weak", "--margin", "8"]).ok().json();
    assert_eq!(ranges(&json["moves"]), [(20_000, 24)]);
    assert_eq!(json["lost"].as_array().unwrap().len(), 0);
    assert!(Direct::open("/dev/mapper/data").read(20_000, 32).unwrap() == patterns(20_000, 32, 3));
    dm_remap("scan data --slow-ms 250").ok().says(&["nothing wrong was found"]);
    dm_remap("destroy data --discard-extents").ok();
}

#[test]
fn bad_slots_on_a_spare_are_left() {
    let Some(guest) = Guest::begin() else { return };
    let main = Direct::open(&guest.disks[0]);
    main.write(1_000, &patterns(1_000, 64, 5)).unwrap();
    let spare = guest.scsi_debug(48, "");
    dmr(&["create", "data", "--main", &guest.disks[0], "--spare", &spare.device, &guest.disks[1]]).ok();
    dm_remap("remap data 1000+64").ok();
    let extents = dm_remap("--json map data").json()["extents"].clone();
    assert_eq!(extents[0]["spare"], 0, "{extents}");
    let slot = extents[0]["slot"].as_u64().unwrap();
    spare.bad(slot + 16, 1);
    let json = dmr(&["--json", "scan", "data"]).exits(3).json();
    assert_eq!(json["areas"][1]["spare"], 0);
    assert_eq!(ranges(&json["areas"][1]["bad"]), [(slot + 16, 1)]);
    assert_eq!(ranges(&json["moves"]), [(1_016, 8)]);
    assert_eq!(ranges(&json["lost"]), [(1_016, 1)]);
    let setup = Direct::open("/dev/mapper/data");
    for sector in 1_000..1_064 {
        let read = setup.read(sector, 1);
        if sector == 1_016 {
            assert_eq!(read.err(), Some(Errno::EIO));
        } else {
            assert!(read.unwrap() == patterns(sector, 1, 5), "sector {sector}");
        }
    }
    drop(setup);
    dm_remap("scan data").ok().says(&["nothing wrong was found"]);
    dm_remap("destroy data --discard-extents").ok();
}

#[test]
fn a_scan_that_is_told_to_stop_says_so_and_goes_on_later() {
    let Some(guest) = Guest::begin() else { return };
    let device = &guest.disks[0];
    dmr(&["scan", "--device", device, "--rate", "4M", "--time-budget", "1s"])
        .ok()
        .says(&["the time is up", "--resume"]);
    let ran = shell(&format!(
        "timeout -s TERM 1 $DMR scan --device {device} --rate 4M --resume; [ $? = 124 ] && cat /dev/null"
    ));
    ran.ok().says(&["interrupted"]);
    dmr(&["scan", "--device", device, "--resume"]).ok().says(&["read 131072 sectors", "nothing wrong was found"]);
    let second = shell(&format!(
        "$DMR scan --device {device} --rate 4M --time-budget 8s & sleep 3; $DMR scan --device {device}; echo $?; wait"
    ));
    second.ok().says(&["4\n"]);
}

#[test]
fn cron_is_quiet_until_something_changes_and_looks_first_at_what_the_kernel_has_reported() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(64, "");
    dmr(&["create", "data", "--main", &disk.device, "--spare", &guest.disks[1]]).ok();
    dmr(&["create", "other", "--main", &guest.disks[0], "--spare", &guest.disks[2]]).ok();
    // Nothing wrong: nothing is said, and the next one is not due before the interval is over.
    let quiet = |line: &str| {
        let ran = dm_remap(line).ok();
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""), "{line}");
    };
    quiet("scan --cron --rate max");
    let scan = |name: &str| dm_remap(&format!("--json status {name}")).json()["setups"][0]["scan"].clone();
    let first = scan("data");
    assert!(first["finished"].is_u64() && first["percent"] == 100, "{first}");
    quiet("scan --cron --rate max");
    assert_eq!(scan("data"), first, "no pass is due");

    // An error that a program met is probed at once, although no pass is due.
    disk.bad(90_000, 3);
    assert!(Direct::open("/dev/mapper/data").read(90_000, 8).is_err());
    let ran = dm_remap("scan --cron --rate max").exits(3);
    ran.says(&["data: 3 sectors bad, 8 moved, 3 lost", "medium error", "90000"]);
    quiet("scan --cron --rate max");

    // What nobody has met yet is found by the next pass: a budget at a time, each going on where the last has stopped.
    disk.bad(130_001, 2);
    let mut percents = Vec::new();
    let mut found = Vec::new();
    loop {
        let ran = dm_remap("scan data --cron --interval 1s --rate 20M --time-budget 1s");
        percents.push(scan("data")["percent"].as_u64().unwrap());
        if ran.code != 0 {
            found.push(ran.exits(3));
        } else {
            assert_eq!(ran.out, "");
        }
        if percents.len() > 20 || (!found.is_empty() && percents.last() == Some(&100)) {
            break;
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    // A run whose budget ends at the bad place leaves it to the next, which learns of it from the kernel's report.
    let by_report = found[0].out.contains("after medium error");
    let words = if by_report {
        &["data: 2 sectors bad, 8 moved, 2 lost"][..]
    } else {
        // Also at its last sector.
        &["BAD 130001", "LOST 130001+2", "moved 8 sectors"]
    };
    found[0].clone().says(words);
    // On a fast machine the first runs come before a pass is due.
    let going: Vec<u64> = percents.iter().copied().skip_while(|percent| *percent == 100).collect();
    assert!(going.len() > 2 && going[0] > 0 && going.is_sorted(), "{percents:?}");
    dm_remap("status data").exits(3).says(&["scan: finished"]);

    // While one run is at work, the next leaves it alone.
    let both = shell(
        "$DMR scan data --cron --interval 1s --rate 10M & sleep 1; $DMR scan data --cron --interval 1s; echo second $?; wait; echo first $?",
    );
    both.ok().says(&["second 0\n", "first 0\n"]);
    // Trouble with one is no reason to forget the other.
    let name = disk.device.trim_start_matches("/dev/");
    sh(&format!("echo offline > /sys/block/{name}/device/state"));
    let before = scan("other");
    dm_remap("scan --cron --interval 1s --rate max").exits(1).complains(&["data: ", "trouble with the device"]);
    assert_ne!(scan("other"), before);
    sh(&format!("echo running > /sys/block/{name}/device/state"));
    let begun = std::time::Instant::now();
    dm_remap("scan data --cron --interval 24h --jitter 1s --rate max").ok();
    assert!(begun.elapsed().as_secs() < 20);
    // A name that is not up is told, and the others are scanned all the same.
    let before = scan("other");
    dm_remap("scan nothing other --cron --interval 1s --rate max").exits(1).complains(&["nothing: "]);
    assert_ne!(scan("other"), before);
}

#[test]
fn verify_is_trusted_only_where_it_tells_the_truth() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(48, "");
    disk.bad(50_001, 13);
    // scsi_debug says of every sector that it is good.
    let ran = dmr(&["--json", "scan", "--device", &disk.device, "--method", "verify", "--retries", "0"]).exits(3);
    assert_eq!(bad_of(&ran.json()), [(50_001, 13)]);
    let ran = dmr(&["scan", "--device", &disk.device, "--method", "verify", "--retries", "0"]).exits(3);
    ran.complains(&["reading instead of verifying", "no bad sector is known"]);
    dmr(&["create", "data", "--main", &disk.device, "--spare", &guest.disks[1]]).ok();
    dmr(&["scan", "data"]).exits(3);
    dmr(&["scan", "data", "--method", "verify"])
        .ok()
        .complains(&["reading instead of verifying", "a sector is good which cannot be read"])
        .says(&["nothing wrong was found"]);
    dm_remap("destroy data --discard-extents").ok();
}
