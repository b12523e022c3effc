//! The configuration file and the commands that go by it, on a real device-mapper.
// guest: --disk 64M --disk 16M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod guest_support;
use guest_support::{Guest, Ran, dm_remap, sh, tool};

const FILE: &str = "/tmp/work-config.yaml";

fn configured(text: &str) {
    std::fs::write(FILE, text).unwrap();
}

fn run(line: &str) -> Ran {
    dm_remap(&format!("--config {FILE} {line}"))
}

/// What the setup stores.
fn stored(name: &str) -> serde_json::Value {
    let out = dm_remap(&format!("metadata dump {name}")).ok().out;
    serde_json::from_str::<serde_json::Value>(&out).unwrap()["config"]["policy"].clone()
}

/// A sector's data: `zero`, or what cannot be read.
fn read(sector: u64) -> String {
    sh(&format!(
        "dd if=/dev/mapper/data bs=512 skip={sector} count=8 iflag=direct status=none 2>/dev/null | od -An -tx1 | head -1"
    ))
}

#[test]
fn commands_take_what_the_configuration_says() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(32, "");
    let (main, spare) = (&disk.device, &guest.disks[1]);
    sh(&format!("tr '\\0' x </dev/zero | dd of={main} bs=1M count=32 iflag=fullblock oflag=direct status=none"));
    configured("defaults: {remap: {unreadable: leave}, pool: {allocation: best-fit}}\n");
    run(&format!("create data --main {main} --spare {spare}")).ok();
    assert_eq!((&stored("data")["unreadable"], &stored("data")["allocation"]), (&"leave".into(), &"best-fit".into()));
    // What is stored goes before the defaults of today.
    configured("defaults: {remap: {unreadable: zero}, pool: {allocation: health}}\n");
    run("config show data").ok().says(&["stored in the setup", "leave", "best-fit"]);
    disk.bad(1000, 8);
    run("remap data 1000+8").exits(3);
    run("map data --format csv").ok();
    assert_eq!(read(1000), "", "left on main");
    // The setup's own section goes before what is stored.
    configured("setups: {data: {remap: {unreadable: zero}, pool: {allocation: health}}}\n");
    let shown = run("config show data").ok().out;
    assert!(shown.contains("(the setup's own section)") && shown.contains("best-fit"), "{shown}");
    run("remap data 1000+8").exits(3).says(&["1 extent"]);
    assert!(read(1000).starts_with(" 00 00"), "zeros: {}", read(1000));
    // And the command line before all.
    disk.bad(2000, 8);
    run("remap data 2000+8 --unreadable hold").exits(3);
    assert_eq!(read(2000), "", "held");
    disk.bad(3000, 8);
    configured("setups: {data: {scan: {margin: 64}, remap: {unreadable: zero}}}\n");
    run("scan data --no-progress").exits(3);
    run("map data --format csv").ok().says(&["2936,136"]);
    assert!(read(3000).starts_with(" 00 00"), "zeros");
    disk.good();
    dm_remap("destroy data --discard-extents").ok();
}

#[test]
fn a_configuration_with_mistakes_changes_nothing() {
    let Some(guest) = Guest::begin() else { return };
    let (main, spare) = (&guest.disks[0], &guest.disks[1]);
    let before = sh(&format!("cat {main} {spare} | sha256sum"));
    configured("defaults:\n  scan:\n    retrys: 3\n");
    let words =
        &["the configuration has 1 mistake, and nothing was done:", "work-config.yaml:3:5: there is no key 'retrys'"];
    run(&format!("create data --main {main} --spare {spare}")).exits(2).complains(words);
    assert_eq!(before, sh(&format!("cat {main} {spare} | sha256sum")));
    dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
    let copies = sh(&format!("dd if={spare} bs=1M count=5 iflag=direct status=none | sha256sum"));
    for line in
        ["remap data 1000", "remap data 1000 --dry-run", "scan data", "scan --cron", "scan --cron data", "watch data"]
    {
        run(line).exits(2).complains(words);
    }
    assert_eq!(copies, sh(&format!("dd if={spare} bs=1M count=5 iflag=direct status=none | sha256sum")));
    dm_remap("map data --format csv").ok();
    // What does not go by it must not be kept from working by it.
    for line in ["status data", "restore data --all", "recover data", "deactivate data"] {
        run(line).ok();
    }
    tool(&format!("dm-remap-validate --config {FILE}")).exits(1);
    dm_remap("--config /tmp/nowhere.yaml remap data 1000").exits(2).complains(&["/tmp/nowhere.yaml: No such file"]);
}
