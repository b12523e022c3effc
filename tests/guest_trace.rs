//! `dm-remap watch` on a kernel that traces failed requests: Debian's stock one, emulated.
// One processor: emulated, several of them trip over code that the kernel patches when a tracepoint is switched on.
// guest: --kernel qemu --smp 1 --disk 24M --disk 24M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest_support;
mod watching;

use dm_remap::block::{FaultClass, Operation};
use dm_remap::units::Sectors;
use dm_remap::watch::Request;
use dm_remap::watch::trace::{TRACEPOINTS, Trace};
use guest_support::*;
use nix::errno::Errno;
use std::time::{Duration, Instant};
use watching::*;

fn instances() -> String {
    sh("ls /sys/kernel/tracing/instances")
}

#[test]
fn failed_requests_are_traced_and_none_is_missed() {
    let Some(guest) = Guest::begin() else { return };
    sh("mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing");
    let disk = guest.scsi_debug(64, "num_parts=1");
    let part = format!("{}1", disk.device);
    let name = part.trim_start_matches("/dev/").to_string();
    let start: u64 = sh(&format!("cat /sys/class/block/{name}/start")).trim().parse().unwrap();

    // Both tracepoints name the sector of the whole disk and the error.
    for tracepoint in TRACEPOINTS {
        let mut trace = Trace::open_one_of(&[tracepoint]).unwrap();
        assert_eq!(trace.tracepoint(), tracepoint);
        disk.bad(start + 500, 1);
        let part = Direct::open(&part);
        assert_eq!(part.read(500, 1).err(), Some(Errno::ENODATA));
        disk.good();
        part.read(500, 8).unwrap();
        let begun = Instant::now();
        let mut reports = Vec::new();
        while reports.is_empty() && begun.elapsed() < Duration::from_secs(5) {
            let traced = trace.drain().unwrap();
            assert!(!traced.lost);
            reports.extend(traced.reports);
        }
        assert_eq!(reports.len(), 1, "{tracepoint:?}: {reports:?}");
        assert_eq!(reports[0].range.start(), Sectors(start + 500), "{tracepoint:?}");
        assert_eq!(reports[0].request, Request::Known(Operation::Read));
        assert_eq!(reports[0].class, FaultClass::Medium);
    }
    assert_eq!(instances(), "");

    create(&part, &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    assert_eq!(watch.events()[0]["tracepoint"], "block_rq_error");
    assert!(instances().starts_with("dm-remap-"));
    // One after the other, far more than the kernel log would name.
    for turn in 0..5 {
        let sector = 3000 + turn * 9000;
        disk.bad(start + sector, 1);
        let begun = Instant::now();
        assert_eq!(Direct::open(SETUP).read(sector, 1).err(), Some(Errno::ENODATA));
        let event = watch.wait("remapped", Duration::from_secs(20));
        println!("from the first failing read to the splice: {:?}", begun.elapsed());
        assert_eq!(ranges(&event["lost"]), [(sector, 1)], "{event}");
        assert!(event["cause"].as_str().unwrap().contains(&format!("on {}", disk.device.trim_start_matches("/dev/"))));
    }
    assert_eq!(watch.events().iter().filter(|e| e["event"] == "missed").count(), 0);
    // What a killed one leaves, the next one removes, and it finds what happened meanwhile in the kernel log.
    watch.kill();
    let left = instances();
    assert!(left.starts_with("dm-remap-"), "{left}");
    std::thread::sleep(Duration::from_millis(5200));
    disk.bad(start + 90_000, 2);
    assert!(Direct::open(SETUP).read(90_000, 1).is_err());
    let mut watch = Watching::begin(&[]);
    let event = watch.wait("remapped", Duration::from_secs(20));
    assert_eq!(ranges(&event["lost"]), [(90_000, 2)], "{event}");
    assert_eq!(instances().lines().count(), 1);
    assert_ne!(instances(), left);
    watch.ends();
}
