//! Many setups on one machine: one command line for all of them, in sensible time and memory, and a device that does not
//! answer holds nobody up.
// guest: --disk 768M --disk 768M --timeout 600
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod guest_support;

use guest_support::{Guest, dm_remap, shell};
use std::time::{Duration, Instant};

/// How many: all 128 with `DM_REMAP_MANY=128` (`scripts/guest --env`), in CI fewer, which take a fourth of the time.
fn setups() -> usize {
    std::env::var("DM_REMAP_MANY").ok().and_then(|many| many.parse().ok()).unwrap_or(32)
}

/// Seconds and peak memory (KiB) of one run, with its end.
fn measured(line: &str) -> (f64, u64, guest_support::Ran) {
    let begun = Instant::now();
    let ran = dm_remap(line);
    let seconds = begun.elapsed().as_secs_f64();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    (seconds, u64::try_from(usage.max_rss()).unwrap(), ran)
}

#[test]
fn one_command_line_manages_many_setups_and_one_that_hangs_holds_nobody_up() {
    let Some(guest) = Guest::begin() else { return };
    let many = setups();
    // Mains of 64 KiB and spares of 5.5 MiB, cut out of two disks.
    let (main, spare) = (&guest.disks[0], &guest.disks[1]);
    let make = format!(
        "table=''
        for ((n = 0; n < {many}; n++)); do
            table+=\"m$n,,,rw,0 128 linear {main} $((n * 128));s$n,,,rw,0 11264 linear {spare} $((n * 11264));\"
        done
        dmsetup create --concise \"$table\" || exit 1
        for ((n = 0; n < {many}; n++)); do
            printf -v name 'vol%03d' $n
            $DMR --quiet create $name --main /dev/mapper/m$n --spare /dev/mapper/s$n >/dev/null || exit 1
        done"
    );
    let begun = Instant::now();
    shell(&make).ok();
    println!("{many} setups made in {:.1} s", begun.elapsed().as_secs_f64());

    let (seconds, memory, list) = measured("list");
    assert_eq!(list.ok().out.lines().count(), many + 1);
    println!("list: {seconds:.2} s, {memory} KiB");
    let (seconds, memory, status) = measured("status");
    let status = status.ok().out;
    assert_eq!(status.lines().count(), many + 2, "{status}");
    assert!(status.ends_with(&format!("{many} setups, all healthy\n")), "{status}");
    println!("status: {seconds:.2} s, {memory} KiB");
    let (seconds, memory, metrics) = measured("metrics");
    let metrics = metrics.ok().out;
    let count = |text: &str, word: &str| text.lines().filter(|line| line.contains(word)).count();
    assert_eq!(count(&metrics, "state=\"healthy\"} 1"), many);
    assert_eq!(count(&metrics, "dm_remap_setup_scan_end"), 0);
    println!("metrics: {seconds:.2} s, {memory} KiB, {} bytes", metrics.len());
    let (seconds, memory, scan) = measured("scan --cron --rate max");
    assert_eq!(scan.ok().out, "");
    println!("scan --cron: {seconds:.2} s, {memory} KiB");
    assert!(memory < 256 << 10, "{memory} KiB at most for any command so far");
    let json = dm_remap("--json status").ok().json();
    let scanned = json["setups"].as_array().unwrap().iter().filter(|s| s["scan"]["finished"].is_u64());
    assert_eq!(scanned.count(), many);

    // Some by a pattern.
    assert_eq!(dm_remap("list vol00*").ok().out.lines().count(), 11);
    let ten = dm_remap("status vol00*").ok().out;
    assert!(ten.lines().count() <= 23 && ten.lines().all(|line| line.chars().count() <= 80), "{ten}");
    dm_remap("policy vol01? --allocation round-robin").ok();
    for name in ["vol009", "vol010", "vol019"] {
        let allocation = dm_remap(&format!("--json policy {name}")).ok().json()["allocation"].clone();
        assert_eq!(allocation == "round-robin", name != "vol009", "{name}: {allocation}");
    }
    dm_remap("status x*").exits(2).complains(&["'x*' fits no setup that is up", "vol000"]);

    // The device below one of the spares does not answer.
    shell("dmsetup suspend --noflush --nolockfs s5").ok();
    let (seconds, _, status) = measured("status --timeout 6s --file-search 0");
    let status = status.exits(3).out;
    println!("status with one that hangs: {seconds:.2} s");
    assert!(status.contains("does not answer") && status.contains("DMR-04"), "{status}");
    assert!(status.contains(&format!("{many} setups, {} healthy", many - 1)), "{status}");
    let (seconds, _, metrics) = measured("metrics vol00* --timeout 3s");
    let metrics = metrics.exits(3).complains(&["vol005: a device of it has not answered in time"]).out;
    println!("metrics of ten with one that hangs: {seconds:.2} s");
    assert!(metrics.contains("dm_remap_setup_state{setup=\"vol005\",state=\"silent\"} 1"), "{metrics}");
    assert_eq!(count(&metrics, "dm_remap_scrape_error"), 12);
    assert_eq!(count(&metrics, "dm_remap_scrape_error{setup=\"vol005\"} 1"), 1);
    assert_eq!(count(&metrics, "dm_remap_setup_scan_end"), 11);
    // A cron scan goes on with the others, and leaves that one behind. ('--' must not make it start itself for ever.)
    let begun = Instant::now();
    shell("rm -rf /var/lib/dm-remap/scan").ok();
    dm_remap("scan --cron --rate max --give-up 4s -- vol00*")
        .exits(1)
        .complains(&["vol005: its disk has not answered"]);
    println!("scan --cron of ten, one of which hangs: {:.2} s", begun.elapsed().as_secs_f64());
    shell("dmsetup resume s5").ok();
    let finished = || {
        let json = dm_remap("--json status vol00*").ok().json();
        json["setups"].as_array().unwrap().iter().filter(|s| s["scan"]["finished"].is_u64()).count()
    };
    assert!(finished() >= 9);
    assert!(begun.elapsed() < Duration::from_secs(60));
    shell("dmsetup ls | grep -c '^vol' && $DMR --quiet deactivate --all >/dev/null").ok();
}
