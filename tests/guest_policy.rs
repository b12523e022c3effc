//! Acting on how the disks are doing, as far as the configuration asks for it: what is moved ahead, what is read more often, where it goes,
//! and what is asked for.
// guest: --disk 64M --disk 32M --disk 32M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest_support;

use guest_support::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

const FILE: &str = "/tmp/policy.yaml";

fn configured(text: &str) {
    fs::write(FILE, text).unwrap();
}

fn run(line: &str) -> Ran {
    dm_remap(&format!("--config {FILE} {line}"))
}

fn status() -> Value {
    dm_remap("--json status data").json()["setups"][0].clone()
}

/// Adds lines to the setup's history, each of so many days ago.
fn records(what: impl IntoIterator<Item = (u64, Value)>) {
    let uuid = status()["uuid"].as_str().unwrap().to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    fs::create_dir_all("/var/lib/dm-remap/history").unwrap();
    let path = format!("/var/lib/dm-remap/history/{uuid}.jsonl");
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    for (days_ago, mut what) in what {
        what["time"] = json!(now - days_ago * 86_400);
        writeln!(file, "{what}").unwrap();
    }
}

fn record(days_ago: u64, what: Value) {
    records([(days_ago, what)]);
}

/// What a disk might have said of itself.
fn disk(device: &str, pending: u64) -> Value {
    json!({ "kind": "disk", "device": device, "serial": "made up", "rotates": true, "counters": { "pending": pending } })
}

fn moved() -> Vec<(u64, u64)> {
    ranges(&dm_remap("--json map data").ok().json()["extents"])
}

/// The spares that sectors live on.
fn spares() -> Vec<u64> {
    let map = dm_remap("--json map data").ok().json();
    map["extents"].as_array().unwrap().iter().map(|extent| extent["spare"].as_u64().unwrap()).collect()
}

#[test]
fn neighbours_of_bad_sectors_move_ahead_while_main_does_badly_and_there_is_room() {
    let Some(guest) = Guest::begin() else { return };
    let main = guest.scsi_debug(64, "");
    dm_remap(&format!("create data --main {} --spare {}", main.device, guest.disks[1])).ok();
    configured("defaults: {health: {move_ahead: true, margin: 64}}\n");
    main.bad(1000, 1);
    run("scan data --range 0+4096").exits(3);
    assert_eq!(moved(), [(1000, 8)], "nothing is known of main: that calls for nothing");
    record(2, disk("main", 0));
    main.bad(3000, 1);
    run("scan data --range 0+4096").exits(3);
    assert_eq!(moved(), [(1000, 8), (3000, 8)], "it does well");
    record(1, disk("main", 500));
    main.bad(5000, 1);
    run("scan data --range 4096+4096").exits(3);
    assert_eq!(moved(), [(1000, 8), (3000, 8), (4936, 136)], "it does badly");
    main.bad(7000, 1);
    dm_remap("scan data --range 4096+4096").exits(3);
    assert_eq!(moved().last(), Some(&(7000, 8)), "nobody has asked for it");
    // So does the watcher. The kernel prints ten lines on failed requests in five seconds: those of the scans must be over.
    sh("sleep 5.2");
    let mut watch = std::process::Command::new(&*PROGRAM).args(["--config", FILE, "watch", "data"]).spawn().unwrap();
    main.bad(9001, 1);
    sh("sleep 1; dd if=/dev/mapper/data of=/dev/null bs=512 skip=9001 count=1 iflag=direct 2>/dev/null; sleep 2");
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(moved().last(), Some(&(8936, 136)));
    // What the kernel says of the disk is evidence.
    let disks = dm_remap("--json health data").json()["setups"][0]["disks"].clone();
    let reasons = |at: usize| disks[at]["reasons"].to_string();
    assert!(reasons(0).contains("requests that failed for its sectors"), "{disks:#}");
    assert!(!reasons(1).contains("requests that failed"), "{disks:#}");
    // What has failed does not lose its room to what may fail: more than half of the room is used.
    let free = status()["room"]["sectors"].as_u64().unwrap();
    let used = status()["remapped_sectors"].as_u64().unwrap();
    dm_remap(&format!("remap data 20000+{}", (free - used) / 2 + 64)).exits(0);
    main.bad(11_000, 1);
    run("scan data --range 8192+4096").exits(3);
    assert!(moved().contains(&(11_000, 8)), "{:?}", moved());
    main.good();
    dm_remap("deactivate data").ok();
}

#[test]
fn regions_around_what_was_bad_are_read_more_often_than_the_rest() {
    let Some(guest) = Guest::begin() else { return };
    let main = guest.scsi_debug(64, "");
    dm_remap(&format!("create data --main {} --spare {}", main.device, guest.disks[1])).ok();
    configured("defaults: {scan: {interval: 1year, rate: 1G}, health: {suspect_interval: 1s}}\n");
    main.bad(1000, 1);
    run("scan --cron").exits(3);
    assert_eq!(moved(), [(1000, 8)]);
    // One near it, and one that is far away: the whole pass is not due for a year.
    sh("sleep 1.1");
    main.bad(1000 + 32_000, 1);
    run("scan --cron").exits(3).says(&["33000"]);
    assert_eq!(moved(), [(1000, 8), (33_000, 8)]);
    sh("sleep 1.1");
    main.bad(110_000, 1);
    run("scan --cron").ok();
    assert_eq!(moved(), [(1000, 8), (33_000, 8)]);
    // Without the key the same is not read before its time.
    main.bad(2000, 1);
    sh("sleep 1.1");
    configured("defaults: {scan: {interval: 1year, rate: 1G}}\n");
    run("scan --cron").ok();
    assert_eq!(moved(), [(1000, 8), (33_000, 8)]);
    assert_eq!(status()["scan"]["percent"], 100, "what 'status' tells of is the whole pass");
    // They never take all of the time that there is.
    configured("defaults: {scan: {interval: 1s, rate: 2M}, health: {suspect_interval: 1s}}\n");
    main.good();
    run("scan --cron --time-budget 4s").ok();
    let percent = status()["scan"]["percent"].as_u64().unwrap();
    assert!((1..50).contains(&percent), "{percent}");
    main.good();
    dm_remap("deactivate data").ok();
}

#[test]
fn spares_are_chosen_by_their_disks_and_a_replacement_is_asked_for() {
    let Some(guest) = Guest::begin() else { return };
    let (main, first, second) = (&guest.disks[0], &guest.disks[1], &guest.disks[2]);
    dm_remap(&format!("create data --main {main} --spare {first} {second} --allocation health")).ok();
    dm_remap("remap data 1000+8").ok();
    assert_eq!(spares(), [0], "of equals the first");
    record(1, disk("spare0", 40));
    record(1, disk("spare1", 0));
    dm_remap("remap data 5000+8").ok();
    assert_eq!(spares(), [0, 1]);
    dm_remap("remap data 1008+8").ok();
    assert_eq!(spares(), [0, 1, 1], "not beside its neighbour, whose disk is far worse");
    assert_eq!(status()["state"], "healthy");
    let mut failing = disk("spare0", 4000);
    failing["passed"] = json!(false);
    record(0, failing);
    let said = dm_remap("status data").exits(3).out;
    assert!(said.contains("is failing") && said.contains("'dm-remap spare replace data 0 NEW'"), "{said}");
    assert!(said.contains("DMR-12"), "{said}");
    dm_remap("deactivate data").ok();
}

#[test]
fn room_that_will_be_used_up_is_told_before_it_is() {
    let Some(guest) = Guest::begin() else { return };
    dm_remap(&format!("create data --main {} --spare {}", guest.disks[0], guest.disks[1])).ok();
    fs::write("/tmp/hook", "#!/bin/sh\ncat >>/tmp/told; echo >>/tmp/told\n").unwrap();
    sh("chmod 755 /tmp/hook; : >/tmp/told");
    let told = || fs::read_to_string("/tmp/told").unwrap().lines().filter(|l| l.contains("\"space\"")).count();
    // A year of growth, of which the room is not used up before some months have passed.
    dm_remap("remap data 1000+20000").ok();
    let moved = |day| json!({ "kind": "setup", "state": "healthy", "remapped_sectors": 20_000 - day * 100 });
    records((1..=200u64).rev().map(|day| (day, moved(day))));
    let lasts = status()["foresight"]["at_least"].as_u64().unwrap();
    assert!((30..3000).contains(&lasts), "{lasts}");
    configured("defaults: {alerts: {program: /tmp/hook}, pool: {warn_free_percent: 0}}\n");
    run("remap data 30000+8").ok();
    assert_eq!(told(), 0, "nobody has asked for it");
    configured("defaults: {alerts: {program: /tmp/hook}, pool: {warn_free_percent: 0, warn_days: 3650}}\n");
    run("remap data 31000+8").ok();
    run("remap data 32000+8").ok();
    assert_eq!(told(), 1, "once");
    assert!(sh("cat /tmp/told").contains("the room on the spares may be used up in "));
    let said = dm_remap("status data").out;
    assert!(said.contains("lasts for about") && said.contains("(80 %: "), "{said}");
    dm_remap("deactivate data").ok();
}
