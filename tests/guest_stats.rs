// guest: --disk 64M --disk 64M --disk 64M --disk 64M
//! Requests are counted by the kernel, through splices, for the setup and for its spares, and their times are true.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod guest_support;

use guest_support::{Guest, dm_remap, sh, shell};
use serde_json::Value;

const CONFIG: &str = "/tmp/work-stats.yaml";

/// A device whose reads take 20 ms longer than those of `disk`.
fn slow(disk: &str) -> String {
    sh(&format!("dmsetup create slow --table \"0 $(blockdev --getsz {disk}) delay {disk} 0 20 {disk} 0 0\""));
    "/dev/mapper/slow".into()
}

fn stats() -> Value {
    dm_remap("stats data --json").ok().json()["setups"][0].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The bound that a latency in JSON says, in milliseconds.
fn at_most_ms(latency: &Value) -> u64 {
    number(&latency["at_most"]) / 1_000_000
}

/// Reads blocks of 4 KiB from /dev/mapper/data, one after the other.
fn read(first_block: u64, blocks: u64) {
    sh(&format!(
        "dd if=/dev/mapper/data of=/dev/null bs=4k skip={first_block} count={blocks} iflag=direct status=none"
    ));
}

fn regions(device: &str) -> String {
    sh(&format!("dmsetup message {device} 0 @stats_list dm-remap-stats"))
}

#[test]
fn requests_are_counted_with_true_times_through_splices() {
    let Some(guest) = Guest::begin() else { return };
    let main = slow(&guest.disks[0]);
    let (spare, second) = (&guest.disks[1], &guest.disks[2]);
    dm_remap(&format!("create data --main {main} --spare {spare}")).ok();

    // Nobody has asked for it yet. To look does not begin it.
    dm_remap("stats data").ok().says(&["not counted", "dm-remap stats data --enable"]);
    assert_eq!(dm_remap("stats --json").ok().json()["setups"][0]["counted"], false);
    dm_remap("stats data --watch --count 1").exits(4).complains(&["not counted"]);
    assert_eq!(regions("data"), "");
    dm_remap("stats nothing").exits(4).complains(&["no active setup 'nothing'"]);

    dm_remap("stats data --enable").ok().says(&["counted from now on"]);
    dm_remap("stats data --enable").ok().says(&["counted already"]);
    let region = regions("data");
    assert_eq!(region.lines().count(), 1, "{region}");

    // Udev and the like do not run here: what is counted is what is read below.
    read(0, 10);
    let counted = stats();
    let setup = &counted["setup"];
    assert_eq!((number(&setup["reads"]), number(&setup["read_sectors"])), (10, 80), "{counted:#}");
    let mean = number(&setup["read_ns"]) / 10 / 1_000_000;
    assert!((18..60).contains(&mean), "a read took {mean} ms");
    assert!((15..=70).contains(&at_most_ms(&setup["latency"]["p50"])), "{counted:#}");
    assert_eq!(number(&setup["writes"]), 0);
    assert_eq!(counted["spares"][0]["counted"], false, "nothing lives on it");

    // What is spliced while it is counted is counted on, and from then on at the spare, too; and it is faster there.
    dm_remap("remap data 8+8").ok();
    assert!(regions("data").starts_with(&region), "the region is the same as before the splice");
    assert!(regions("data").contains(": 8+8 8 dm-remap-stats "), "{}", regions("data"));
    (0..5).for_each(|_| read(1, 1));
    let counted = stats();
    assert_eq!(number(&counted["setup"]["reads"]), 15, "{counted:#}");
    assert_eq!(number(&counted["spares"][0]["reads"]), 5, "{counted:#}");
    assert!(at_most_ms(&counted["spares"][0]["latency"]["p50"]) < 15, "{counted:#}");
    assert!(at_most_ms(&counted["setup"]["latency"]["p50"]) >= 15, "{counted:#}");
    sh("dd if=/dev/zero of=/dev/mapper/data bs=4k seek=4 count=3 oflag=direct status=none");
    assert_eq!((number(&stats()["setup"]["writes"]), number(&stats()["setup"]["written_sectors"])), (3, 24));

    // What goes to another spare is counted there, and what comes to it later, too; nothing of the setup is lost.
    dm_remap(&format!("spare add data {second}")).ok();
    dm_remap("spare evacuate data 0").ok();
    dm_remap("remap data 160+16").ok();
    let counted = stats();
    assert_eq!(counted["spares"][0]["counted"], false, "{counted:#}");
    assert_eq!(number(&counted["spares"][1]["counted_sectors"]), 24, "{counted:#}");
    assert_eq!(number(&counted["spares"][1]["reads"]), 0, "{counted:#}");
    assert_eq!((number(&counted["setup"]["reads"]), number(&counted["setup"]["writes"])), (15, 3), "{counted:#}");
    read(1, 1);
    assert_eq!(number(&stats()["spares"][1]["reads"]), 1);

    let text = dm_remap("stats data").ok().says(&["DEVICE", "spare 1", "TIME UP TO", "####"]).out;
    assert!(!dm_remap("stats data --no-histogram").ok().out.contains("TIME UP TO"), "{text}");

    // Intervals show what happened in them.
    let lines = shell(
        "(sleep 0.5; dd if=/dev/mapper/data of=/dev/null bs=4k skip=100 count=20 iflag=direct status=none) & \
         $DMR stats data --watch=3s --count 1 --json; wait",
    );
    let line: Value = serde_json::from_str(lines.ok().out.trim()).unwrap();
    assert_eq!(number(&line["setups"][0]["setup"]["reads"]), 20, "{line:#}");
    assert!((2.9..6.0).contains(&line["seconds"].as_f64().unwrap()), "{line:#}");
    let lines = dm_remap("stats data --watch=100ms --count 2").ok().out;
    // A heading, then the setup and the spare that something lives on, twice.
    assert_eq!(lines.lines().count(), 5, "{lines}");
    // A signal ends it cleanly, and so does a reader that has seen enough.
    shell("$DMR stats data --watch=100ms >/tmp/work-watch & sleep 1; kill -INT $!; wait $!").ok();
    assert!(sh("wc -l </tmp/work-watch").trim().parse::<u64>().unwrap() > 3);
    shell("set -o pipefail; $DMR stats data --watch=100ms | head -n 2 >/dev/null").ok();

    // A suspended setup is not touched, and can be looked at.
    sh("dmsetup suspend data");
    dm_remap("stats data --reset").exits(4).complains(&["'data' is suspended"]);
    assert_eq!(stats()["counted"], true);
    sh("dmsetup resume data");

    dm_remap("stats data --reset").ok();
    assert_eq!(number(&stats()["setup"]["reads"]), 0);
    dm_remap("stats data --disable").ok().says(&["not counted any more"]);
    dm_remap("stats data --disable").ok().says(&["were not counted"]);
    assert_eq!(regions("data"), "");

    // By configuration it begins with the setup, and metrics have it.
    dm_remap("deactivate data").ok();
    sh(&format!("printf 'defaults:\n  metrics:\n    latency: true\n' >{CONFIG}"));
    dm_remap(&format!("--config {CONFIG} activate data --main {main} --spare {spare} {second}")).ok();
    read(0, 4);
    let page = dm_remap("metrics data").ok().out;
    for line in [
        "dm_remap_setup_request_seconds_count{setup=\"data\"} 4",
        "dm_remap_setup_request_seconds_bucket{setup=\"data\",le=\"+Inf\"} 4",
        "dm_remap_setup_reads_total{setup=\"data\"} 4",
        "dm_remap_setup_read_bytes_total{setup=\"data\"} 16384",
        "dm_remap_spare_reads_total{setup=\"data\",spare=\"1\"} 1",
        "# TYPE dm_remap_setup_request_seconds histogram",
        "# TYPE dm_remap_setup_reads_total counter",
    ] {
        assert!(page.lines().any(|l| l == line), "no '{line}' in\n{page}");
    }
    let promtool = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/promtool");
    assert_eq!(shell(&format!("set -o pipefail; $DMR metrics | {promtool} check metrics 2>&1")).ok().out, "");
    dm_remap("deactivate data").ok();
    sh("dmsetup remove slow");
}

/// What counting costs, if it cannot be begun: nothing but a word.
#[test]
fn counting_that_is_not_possible_fails_no_command() {
    let Some(guest) = Guest::begin() else { return };
    sh(&format!("printf 'defaults:\n  metrics:\n    latency: true\n' >{CONFIG}"));
    dm_remap(&format!("--config {CONFIG} create data --main {} --spare {}", guest.disks[3], guest.disks[1])).ok();
    assert_eq!(stats()["counted"], true);
    // Another command is at work, as far as anybody can tell.
    let uuid = dm_remap("status data --json").ok().json()["setups"][0]["uuid"].as_str().unwrap().to_string();
    shell(&format!("flock /run/dm-remap/{uuid}.lock $DMR stats data --reset"))
        .exits(4)
        .complains(&["another dm-remap command"]);
    shell(&format!("flock /run/dm-remap/{uuid}.lock $DMR stats data")).ok();
    dm_remap("deactivate data").ok();
}
