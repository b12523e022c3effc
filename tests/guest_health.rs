//! How disks are doing, by smartctl, from the disks that QEMU emulates and from scsi_debug: ATA, NVMe and SCSI, end to end.
// guest: --kernel qemu --disk 16M --disk 64M --disk-as ata --disk 64M --disk-as nvme --disk 64M --disk-as scsi --module ahci --module nvme --module virtio_scsi --module sd_mod
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod guest_support;

use guest_support::{Guest, dm_remap, sh};
use serde_json::Value;

/// The disk with this serial number, which is the kind and the place that scripts/guest has given it.
fn disk(serial: &str) -> String {
    let name =
        sh(&format!("udevadm settle 2>/dev/null; lsblk -dno NAME,SERIAL | awk '$2 == \"{serial}\" {{ print $1 }}'"));
    let name = if name.trim().is_empty() {
        // Without udev lsblk does not know those of SCSI and ATA: smartctl does.
        sh(&format!(
            "for d in /sys/block/sd*; do d=${{d##*/}}; smartctl -i /dev/$d | grep -q 'Serial [Nn]umber: *{serial}' && echo $d; done; true"
        ))
    } else {
        name
    };
    assert!(!name.trim().is_empty(), "no disk {serial}");
    format!("/dev/{}", name.trim())
}

fn judged(device: &str) -> Value {
    dm_remap(&format!("health --device {device} --json")).ok().json()["setups"][0]["disks"][0].clone()
}

fn history_lines() -> usize {
    sh("cat /var/lib/dm-remap/history/*.jsonl 2>/dev/null | wc -l").trim().parse().unwrap()
}

#[test]
fn emulated_disks_say_how_they_are() {
    let Some(guest) = Guest::begin() else { return };
    let (ata, nvme, scsi) = (disk("ATA1"), disk("NVME2"), disk("SCSI3"));
    for (device, protocol) in [(&ata, "ata"), (&nvme, "nvme")] {
        let disk = judged(device);
        assert_eq!((&disk["score"], &disk["band"]), (&100.into(), &"good".into()), "{disk:#}");
        assert_eq!(
            (&disk["smart"]["protocol"], &disk["smart"]["passed"]),
            (&protocol.into(), &true.into()),
            "{disk:#}"
        );
        assert!(disk["smart"]["temperature"].as_i64().is_some_and(|t| (10..90).contains(&t)), "{disk:#}");
    }
    assert_eq!(judged(&ata)["smart"]["counters"]["reallocated"], 0);
    assert_eq!(judged(&nvme)["smart"]["counters"]["media_errors"], 0);
    // One that keeps no account of itself is unknown, and not well.
    let mute = judged(&scsi);
    assert_eq!((&mute["score"], &mute["band"]), (&Value::Null, &"unknown".into()), "{mute:#}");
    assert!(mute["silent"].as_str().is_some(), "{mute:#}");
    dm_remap(&format!("health --device {scsi} --nagios")).exits(3).says(&["DM_REMAP UNKNOWN - "]);
    dm_remap(&format!("health --device {ata} --nagios")).ok().says(&["DM_REMAP OK - ", "=100"]);
    dm_remap("health --device /dev/null").exits(1);

    // A setup of them, on a partition: the disk below it is asked. The history is kept by the scan from cron, once a day.
    sh(&format!("printf 'label: gpt\\nstart=2048\\n' | sfdisk -q {ata}"));
    let part = format!("{ata}1");
    dm_remap(&format!("create data --main {part} --spare {nvme} {}", guest.disks[0])).ok();
    let text =
        dm_remap("health data").ok().says(&["main", "spare0", "spare1", "good", "it says nothing of itself"]).out;
    assert!(text.contains("QEMU HARDDISK"), "{text}");
    let before = history_lines();
    dm_remap("health --history").ok();
    assert_eq!(history_lines(), before, "looking records nothing");
    dm_remap("scan --cron --rate max").ok();
    let after = history_lines();
    dm_remap("scan --cron --rate max").ok();
    let records = dm_remap("health data --history --json").ok().json()["setups"][0]["records"].clone();
    let disks: Vec<&Value> = records.as_array().unwrap().iter().filter(|record| record["kind"] == "disk").collect();
    assert!(after >= before + 2, "{records:#}");
    assert_eq!(disks.len(), 2, "each disk that says something, once: {records:#}");
    assert_eq!((&disks[0]["device"], &disks[1]["device"]), (&"main".into(), &"spare0".into()), "{records:#}");
    assert_eq!(disks[0]["score"], 100);
    dm_remap("health data --history --format csv").ok().says(&[",main,counters.reallocated,0"]);
    dm_remap("health data --history --format xml").ok().says(&[
        "<record time=",
        "of=\"spare0\"",
        "name=\"model\">QEMU NVMe Ctrl<",
    ]);
    dm_remap("health data --nagios").ok().says(&["DM_REMAP OK - nothing speaks against any disk | 'data main'=100"]);
    dm_remap("deactivate data").ok();
}

#[test]
fn what_a_scan_finds_counts_against_the_disk() {
    let Some(guest) = Guest::begin() else { return };
    let main = guest.scsi_debug(16, "");
    dm_remap(&format!("create data --main {} --spare {}", main.device, guest.disks[0])).ok();
    dm_remap("health data").ok().says(&["100", "good", "scsi_debug"]);
    main.bad(8000, 64);
    dm_remap("scan --cron --rate max").exits(3);
    let ended = dm_remap("health data").exits(3);
    ended.says(&[
        "the last scan could not read 64 sectors",
        "64 sectors had to be moved off it",
        "PASSED all the same",
    ]);
    dm_remap("health data --nagios")
        .exits(1)
        .says(&["DM_REMAP WARNING - data main is poor (the last scan could not read 64 sectors)"]);
    let records = dm_remap("health data --history --json").ok().json()["setups"][0]["records"].clone();
    let disk = records.as_array().unwrap().iter().rfind(|record| record["kind"] == "disk").unwrap().clone();
    assert!(disk["device"] == "main" && disk["score"].as_u64().unwrap() < 70, "{disk:#}");
    dm_remap("deactivate data").ok();
}
