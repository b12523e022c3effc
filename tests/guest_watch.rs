//! `dm-remap watch` on a real kernel, with real medium errors, by way of the kernel log (this kernel does not trace).
// guest: --disk 24M --disk 24M --timeout 900
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;
mod watching;

use guest_support::*;
use nix::errno::Errno;
use std::time::{Duration, Instant};
use watching::*;

/// The kernel prints ten lines on failed requests in five seconds; what earlier tests used up must be over.
fn guest() -> Option<Guest> {
    let guest = Guest::begin()?;
    std::thread::sleep(Duration::from_millis(5200));
    Some(guest)
}

#[test]
fn a_failing_read_is_spliced_in_no_time() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    let mut times = Vec::new();
    for turn in 0..4 {
        let sector = 10_000 + turn * 5003;
        let taken = splice_time(&mut watch, &disk, sector);
        println!("from the first failing read of sector {sector} to its splice: {taken:?}");
        times.push(taken);
        // Long enough for the kernel to print again.
        std::thread::sleep(Duration::from_millis(5200));
    }
    // By itself each takes 80 to 150 ms or so; the suite runs beside another guest, which makes it twice as long.
    assert!(times.iter().min().unwrap() < &Duration::from_millis(400), "{times:?}");
    assert!(times.iter().max().unwrap() < &Duration::from_secs(5), "{times:?}");
    watch.ends();
}

#[test]
fn a_burst_of_errors_gives_few_swaps() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    let mut watch = Watching::begin(&["--retries", "0"]);
    let before = generation();
    disk.bad(30_000, 3000);
    let setup = Direct::open(SETUP);
    let failed = (30_000..33_000).step_by(3).filter(|s| setup.read(*s, 1).is_err()).count();
    assert_eq!(failed, 1000);
    watch.wait("remapped", Duration::from_secs(20));
    watch.quiet(Duration::from_secs(4));
    let moved = || -> u64 {
        let map = dm_remap("--json map data").ok().json();
        ranges(&map["extents"]).iter().map(|(_, count)| count).sum()
    };
    let events = watch.events();
    let swaps = events.iter().filter(|e| e["event"] == "remapped").count();
    let generations = generation() - before;
    println!("1000 failing reads: {swaps} swaps, {generations} generations, {} lines", events.len());
    assert!(swaps <= 5 && generations <= 10, "{events:#?}");
    assert_eq!(moved(), 3000);
    watch.ends();
}

#[test]
fn main_may_be_a_partition_or_a_volume() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "num_parts=2");
    let part = format!("{}2", disk.device);
    let start: u64 =
        sh(&format!("cat /sys/class/block/{}/start", part.trim_start_matches("/dev/"))).trim().parse().unwrap();
    create(&part, &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    disk.bad(start + 777, 1);
    assert_eq!(Direct::open(SETUP).read(777, 1).err(), Some(Errno::ENODATA));
    let event = watch.wait("remapped", Duration::from_secs(10));
    assert_eq!(ranges(&event["lost"]), [(777, 1)], "{event}");
    assert_eq!(event["guessed"], false);
    watch.ends();
    dm_remap("destroy data --discard-extents").ok();
    std::thread::sleep(Duration::from_millis(5200));

    // A volume whose second half comes first, over two disks: sectors 0 to 19999 lie on the partition from 3000 on.
    disk.good();
    let other = &guest.disks[1];
    sh(&format!(
        "printf '0 20000 linear {part} 3000\\n20000 10000 linear {other} 100\\n' | dmsetup create vol -u LVM-{}",
        "a".repeat(64)
    ));
    create("/dev/mapper/vol", &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    disk.bad(start + 3000 + 555, 2);
    assert!(Direct::open(SETUP).read(555, 1).is_err());
    let event = watch.wait("remapped", Duration::from_secs(10));
    assert_eq!(ranges(&event["lost"]), [(555, 2)], "{event}");
    watch.ends();
    dm_remap("deactivate data").ok();
}

#[test]
fn what_happens_while_it_is_down_is_found() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    // Before it ever ran: the log of this boot tells.
    disk.bad(5000, 1);
    assert!(Direct::open(SETUP).read(5000, 1).is_err());
    let mut watch = Watching::begin(&["data"]);
    watch.wait("remapped", Duration::from_secs(10));
    watch.kill();
    std::thread::sleep(Duration::from_millis(5200));
    disk.bad(40_000, 3);
    assert!(Direct::open(SETUP).read(40_001, 1).is_err());
    let mut watch = Watching::begin(&["data"]);
    let event = watch.wait("remapped", Duration::from_secs(10));
    assert_eq!(ranges(&event["lost"]), [(40_000, 3)], "{event}");
    watch.ends();
    // What was dealt with is not gone through again.
    let mut watch = Watching::begin(&["data"]);
    watch.quiet(Duration::from_secs(1));
    assert_eq!(watch.events().len(), 1, "{:#?}", watch.events());
    watch.ends();
    assert_eq!(sh("ls /var/lib/dm-remap/watch | wc -l").trim(), "1");
}

#[test]
fn killed_in_the_middle_of_its_work_it_forgets_nothing() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    for (turn, wait) in [5u64, 45, 90].into_iter().enumerate() {
        let sector = 20_000 + turn as u64 * 8000;
        let mut watch = Watching::begin(&["data"]);
        disk.bad(sector, 1);
        assert!(Direct::open(SETUP).read(sector, 1).is_err());
        std::thread::sleep(Duration::from_millis(wait));
        watch.kill();
        let mut watch = Watching::begin(&["data"]);
        let begun = Instant::now();
        let mapped = || {
            ranges(&dm_remap("--json map data").ok().json()["extents"])
                .iter()
                .any(|(s, n)| (*s..s + n).contains(&sector))
        };
        while !mapped() {
            assert!(begun.elapsed() < Duration::from_secs(10), "killed after {wait} ms: {:#?}", watch.events());
            std::thread::sleep(Duration::from_millis(50));
        }
        watch.ends();
        std::thread::sleep(Duration::from_millis(5200));
    }
}

#[test]
fn what_the_kernel_log_leaves_out_is_noticed() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    disk.bad(5000, 8);
    assert!(Direct::open(SETUP).read(5000, 1).is_err());
    watch.wait("remapped", Duration::from_secs(10));
    // The lines of these five seconds are used up: the kernel says nothing of this one, which is near.
    disk.bad(20_000, 1);
    assert_eq!(Direct::open(SETUP).read(20_000, 1).err(), Some(Errno::ENODATA));
    let event = watch.wait("missed", Duration::from_secs(40));
    assert!(event["text"].as_str().unwrap().contains("has failed 1 more request"), "{event}");
    let event = watch.wait("remapped", Duration::from_secs(10));
    assert_eq!((ranges(&event["lost"]), &event["guessed"]), (vec![(20_000, 1)], &true.into()), "{event}");
    watch.quiet(Duration::from_secs(6));
    assert_eq!(watch.events().last().unwrap()["event"], "remapped", "{:#?}", watch.events());
    watch.ends();
}

#[test]
fn trouble_on_the_way_to_the_disk_moves_nothing() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    let name = disk.device.trim_start_matches("/dev/").to_string();
    create(&disk.device, &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    let before = generation();
    sh(&format!("echo offline > /sys/block/{name}/device/state"));
    for sector in 0..20 {
        assert!(Direct::open(SETUP).read(sector * 100, 1).is_err());
    }
    // This kernel calls it an I/O error in its log; that the disk is gone shows when it is probed.
    let event = watch.wait("trouble", Duration::from_secs(10));
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("main") || text.contains("this is trouble with the device"), "{event}");
    watch.quiet(Duration::from_secs(2));
    sh(&format!("echo running > /sys/block/{name}/device/state"));
    let events = watch.events();
    assert_eq!(events.iter().filter(|e| e["event"] == "trouble").count(), 1, "{events:#?}");
    assert!(events.iter().all(|e| e["event"] != "remapped"), "{events:#?}");
    assert_eq!(generation(), before);

    // Data that are not protected as they should be: an error of its own class, which is not about the medium.
    std::thread::sleep(Duration::from_millis(5200));
    let debug = "/sys/bus/pseudo/drivers/scsi_debug";
    sh(&format!("echo 1 > {debug}/every_nth; echo 0x20 > {debug}/opts"));
    assert_eq!(Direct::open(SETUP).read(3000, 1).err(), Some(Errno::EILSEQ));
    assert!(Direct::open(SETUP).read(3001, 1).is_err());
    let event = watch.wait("transport", Duration::from_secs(10));
    assert!(event["cause"].as_str().unwrap().contains("on sda at sector 3000"), "{event}");
    watch.quiet(Duration::from_secs(2));
    sh(&format!("echo 0 > {debug}/opts; echo 0 > {debug}/every_nth"));
    let events = watch.events();
    assert_eq!(events.iter().filter(|e| e["event"] == "transport").count(), 1, "once a minute is enough: {events:#?}");
    assert!(events.iter().all(|e| e["event"] != "remapped"), "{events:#?}");
    assert_eq!(generation(), before);

    // And it still works.
    disk.bad(50_000, 1);
    assert!(Direct::open(SETUP).read(50_000, 1).is_err());
    watch.wait("remapped", Duration::from_secs(10));
    watch.ends();
}

#[test]
fn held_blocks_that_are_written_become_ordinary_by_themselves() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    let mut watch = Watching::begin(&["data"]);
    disk.bad(6000, 2);
    let setup = Direct::open(SETUP);
    assert!(setup.read(6000, 2).is_err());
    watch.wait("remapped", Duration::from_secs(10));
    assert_eq!(setup.read(6000, 1).err(), Some(Errno::EIO));
    setup.write(6000, &pattern(6000, 1)).unwrap();
    let begun = Instant::now();
    let event = watch.wait("settled", Duration::from_secs(10));
    println!("a held block was ordinary {:?} after it was written", begun.elapsed());
    assert_eq!(ranges(&event["sectors"]), [(6000, 1)], "{event}");
    assert_eq!(setup.read(6000, 1).unwrap(), pattern(6000, 1));
    assert_eq!(setup.read(6001, 1).err(), Some(Errno::EIO), "the other is held as before");
    let status = dm_remap("status data").exits(3);
    assert!(status.out.contains("6001"), "{}", status.out);
    setup.write(6001, &pattern(6001, 1)).unwrap();
    watch.wait("settled", Duration::from_secs(10));
    assert_eq!(sh("dmsetup table data-spare0 | awk '{print $3}'").trim(), "linear");
    let lines = watch.events().len();
    watch.quiet(Duration::from_secs(5));
    assert_eq!(watch.events().len(), lines, "it says nothing while there is nothing to say");
    watch.ends();
}

#[test]
fn a_setup_has_one_watcher_and_may_come_and_go() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    let mut watch = Watching::begin(&[]);
    create(&disk.device, &guest.disks[0]);
    watch.wait("up", Duration::from_secs(10));
    for args in ["watch", "watch data"] {
        dm_remap(args).exits(4).complains(&["'data' is watched already by process"]);
    }
    disk.bad(7000, 1);
    assert!(Direct::open(SETUP).read(7000, 1).is_err());
    watch.wait("remapped", Duration::from_secs(10));
    dm_remap("deactivate data").ok();
    watch.wait("down", Duration::from_secs(10));
    watch.ends();
    // A name that is not up is waited for.
    let mut watch = Watching::begin(&["data"]);
    watch.wait("note", Duration::from_secs(5));
    dm_remap("activate data").ok();
    watch.wait("up", Duration::from_secs(10));
    watch.ends();
}

#[test]
fn what_has_no_place_to_go_is_not_read_again_and_again() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&disk.device, &guest.disks[0]);
    let spares = dm_remap("--json spare list data").ok().json();
    let free = spares["setups"][0]["spares"][0]["free_sectors"].as_u64().unwrap();
    dm_remap(&format!("remap data 0+{free}")).ok();
    let mut watch = Watching::begin(&["data"]);
    disk.bad(100_003, 1);
    let setup = Direct::open(SETUP);
    // Somebody who tries it again all the time.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert!(setup.read(100_003, 1).is_err());
        std::thread::sleep(Duration::from_millis(300));
    }
    let about = |event: &serde_json::Value| event["bad"].to_string().contains("100003");
    let probed = watch.events().iter().filter(|event| about(event)).count();
    assert_eq!(probed, 1, "{:#?}", watch.events());
    let event = watch.wait("trouble", Duration::from_secs(1));
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("100003") && text.contains("not moved") && text.contains("no free slot"), "{event}");
    watch.ends();
}

#[test]
fn an_error_on_a_spare_is_told_with_what_it_means() {
    let Some(guest) = guest() else { return };
    let disk = guest.scsi_debug(64, "");
    create(&guest.disks[0], &disk.device);
    dm_remap("remap data 800+8").ok();
    let map = dm_remap("--json map data").ok().json();
    let slot = map["extents"][0]["slot"].as_u64().unwrap();
    let mut watch = Watching::begin(&["data"]);
    disk.bad(slot + 3, 1);
    assert!(Direct::open(SETUP).read(803, 1).is_err());
    // The log may still speak of the errors of earlier tests, on disks of the same name.
    let mut event = watch.wait("spare", Duration::from_secs(10));
    while ranges(&event["serves"]).is_empty() {
        event = watch.wait("spare", Duration::from_secs(10));
    }
    assert_eq!((ranges(&event["serves"]), event["spare"].as_u64()), (vec![(803, 1)], Some(0)), "{event}");
    // It was the only copy: what can be read of it moves to another slot, and the rest is held.
    let event = watch.wait("slots", Duration::from_secs(10));
    assert_eq!((ranges(&event["moves"]), ranges(&event["lost"])), (vec![(800, 8)], vec![(803, 1)]), "{event}");
    let read = |sector| Direct::open(SETUP).read(sector, 1);
    assert!(read(802).is_ok() && read(803) == Err(Errno::EIO) && read(804).is_ok());
    disk.bad(1030, 1);
    assert!(Direct::open(&disk.device).read(1030, 1).is_err());
    // Who reads the whole copy of the metadata meanwhile has an error at its beginning, told as well.
    let mut event = watch.wait("spare", Duration::from_secs(10));
    while !ranges(&event["sectors"]).contains(&(1030, 1)) {
        event = watch.wait("spare", Duration::from_secs(10));
    }
    assert!(ranges(&event["sectors"]).iter().all(|&(start, count)| start >= 1024 && start + count <= 1032), "{event}");
    assert!(event["text"].as_str().unwrap().contains("metadata"), "{event}");
    watch.ends();
}
