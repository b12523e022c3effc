//! The members of the pool on a real kernel: spares are added, emptied, replaced, removed, lost, taken back and grown.
// guest: --disk 8M --disk 8M --disk 8M --disk 8M --timeout 300
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;
use nix::errno::Errno;
use serde_json::Value;

const SETUP: &str = "/dev/mapper/data";

/// Fills main, and makes a setup of it with these spares.
fn setup(guest: &Guest, spares: &[&str]) -> Direct {
    let main = Direct::open(&guest.disks[0]);
    main.fill(&patterns(0, main.sectors(), 1));
    let mut args = vec!["create", "data", "--main", &guest.disks[0], "--spare"];
    args.extend(spares);
    dmr(&args).ok();
    Direct::open(SETUP)
}

/// The row of a spare in `spare list --json`.
fn spare(index: u64) -> Value {
    let list = dm_remap("spare list data --json").ok().json();
    let spares = list["setups"][0]["spares"].as_array().unwrap().clone();
    spares.into_iter().find(|row| row["index"] == index).unwrap_or(Value::Null)
}

/// The indexes and states of the spares.
fn states() -> Vec<(u64, String)> {
    let list = dm_remap("spare list data --json").ok().json();
    let spares = list["setups"][0]["spares"].as_array().unwrap().clone();
    spares.iter().map(|row| (row["index"].as_u64().unwrap(), row["state"].as_str().unwrap().to_string())).collect()
}

fn pool(expected: &[(u64, &str)]) {
    let states = states();
    let states: Vec<(u64, &str)> = states.iter().map(|(index, state)| (*index, state.as_str())).collect();
    assert_eq!(states, expected);
}

/// On which spares the extents live: `(first sector, count, spare)`.
fn homes() -> Vec<(u64, u64, u64)> {
    let map = dm_remap("map data --format json").ok().json();
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let rows = map["extents"].as_array().unwrap();
    rows.iter().map(|row| (number(row, "start"), number(row, "count"), number(row, "spare"))).collect()
}

/// All of the setup is as it was filled, but for what was written later and what is lost.
#[track_caller]
fn whole(device: &Direct, written: &[(u64, u64, u8)], lost: &[u64]) {
    let size = device.sectors();
    let version = |s: u64| written.iter().rev().find(|(at, n, _)| (*at..at + n).contains(&s)).map_or(1, |w| w.2);
    let image: Vec<u8> = (0..size).flat_map(|sector| pattern(sector, version(sector))).collect();
    assert_eq!(device.differences(&image), lost);
}

#[test]
fn spares_come_and_go() {
    let Some(guest) = Guest::begin() else { return };
    let [_, one, two, three] = &guest.disks[..] else { panic!("{:?}", guest.disks) };
    let device = setup(&guest, &[one]);
    dm_remap("remap data 96+64 4096+256 9000+8").ok();
    device.write(4100, &patterns(4100, 8, 2)).unwrap();
    let written = [(4100, 8, 2)];

    // What cannot be a spare is refused, and nothing is changed.
    let devices: Vec<&str> = guest.disks.iter().map(String::as_str).collect();
    sh(&format!("mkfs.ext4 -q -F {two} 4M"));
    let mut still = Still::new(&devices);
    for (device, words) in
        [(one, "is spare 0 of 'data' already"), (&guest.disks[0], "share sectors"), (two, "--force-signature")]
    {
        for dry in ["", "--dry-run"] {
            dm_remap(&format!("spare add data {device} {dry}")).exits(4).complains(&[words]);
        }
    }
    dm_remap("spare add data /dev/mapper/data").exits(4);
    dm_remap(&format!("spare add data {two} {three}")).exits(4);
    dm_remap(&format!("spare add data {three} {three}")).exits(4).complains(&["share sectors"]);
    dm_remap("spare remove data 0").exits(4).complains(&["only one"]);
    dm_remap("spare evacuate data 0").exits(4).complains(&["328 are missing"]);
    dm_remap("spare evacuate data 7").exits(2).complains(&["names no spare of 'data'", one]);
    dm_remap("spare evacuate data 0 --to 0").exits(4).complains(&["nothing can move to spare 0"]);
    dm_remap(&format!("spare readd data {three}")).exits(2);
    dm_remap(&format!("spare add data {two} --force-signature --dry-run")).ok().says(&["would add", "spare 1"]);
    dm_remap(&format!("spare replace data 0 {three} --dry-run")).ok().says(&["add, evacuate, remove: 3 moves"]);
    still.check("a refusal or a dry run");

    dm_remap(&format!("spare add data {two} --force-signature")).ok().says(&["new spare 1"]);
    pool(&[(0, "online"), (1, "online")]);
    still.renew();
    dm_remap("spare evacuate data 0 --dry-run").ok().says(&["would evacuate: 3 moves of 328 sectors"]);
    still.check("a dry run");
    let report = dm_remap("spare evacuate data 0 --json").ok().json();
    assert_eq!((&report["moved_sectors"], &report["interrupted"]), (&328.into(), &false.into()));
    assert!(homes().iter().all(|(_, _, spare)| *spare == 1), "{:?}", homes());
    pool(&[(0, "draining"), (1, "online")]);
    whole(&device, &written, &[]);
    // Nothing new comes to it, and status says why.
    dm_remap("remap data 12000+8").ok();
    assert_eq!(spare(0)["extents"], 0);
    dm_remap("status data").exits(3).says(&["spare 0 is being emptied", "nothing lives on it"]);
    // Taken back, and emptied again.
    dm_remap("spare readd data 0").ok();
    pool(&[(0, "online"), (1, "online")]);
    dm_remap("spare evacuate data 1 --to 0").ok();
    assert!(homes().iter().all(|(_, _, spare)| *spare == 0), "{:?}", homes());
    dm_remap("spare readd data 1").ok();
    dm_remap("status data").ok();

    // Removed: its copies are erased, its device is free, and the setup starts without it.
    dm_remap(&format!("spare remove data {one}")).ok().says(&["spare 0", "is removed"]);
    pool(&[(1, "online")]);
    assert!(!sh("dmsetup ls").contains("data-spare0"));
    sh(&format!("dmsetup create probe --table '0 100 linear {one} 0' && dmsetup remove probe"));
    dm_remap(&format!("metadata check {one}")).exits(1);
    for spare in ["0", one] {
        dm_remap(&format!("spare remove data {spare}")).exits(4).complains(&["was removed"]);
    }
    dm_remap("spare readd data 0").exits(4).complains(&["was removed"]);
    whole(&device, &written, &[]);
    drop(device);
    dm_remap("deactivate data").ok();
    dm_remap(&format!("activate data --main {}", guest.disks[0])).ok();
    let device = Direct::open(SETUP);
    whole(&device, &written, &[]);

    // Another one takes its work; the place that was left is not taken while others are free.
    dm_remap(&format!("spare replace data 1 {three}")).ok().says(&["new spare 2", "spare 1", "is removed"]);
    pool(&[(2, "online")]);
    assert!(homes().iter().all(|(_, _, spare)| *spare == 2), "{:?}", homes());
    dm_remap(&format!("spare replace data 1 {three}")).ok().says(&["was replaced already"]);
    whole(&device, &written, &[]);
    // A disk that was removed may come back as a new spare, also with its old copies on it.
    dm_remap(&format!("spare add data {one} {two}")).ok();
    pool(&[(2, "online"), (3, "online"), (4, "online")]);
    let old = Direct::open(one).read(0, 10_240).unwrap();
    dm_remap("spare remove data 3").ok();
    Direct::open(one).write(0, &old).unwrap();
    dm_remap(&format!("spare readd data {one}")).exits(4).complains(&["was removed"]);
    drop(device);
    dm_remap("deactivate data").ok();
    dm_remap(&format!("activate data --main {}", guest.disks[0])).ok();
    pool(&[(2, "online"), (4, "online")]);
    dm_remap(&format!("spare add data {one}")).ok().says(&["new spare 5"]);
    let device = Direct::open(SETUP);
    whole(&device, &written, &[]);
    dm_remap("restore data --all").ok();
    whole(&device, &written, &[]);
    drop(device);
    dm_remap("destroy data").ok();
    assert_eq!(sh("dmsetup ls"), "No devices found\n");
}

/// Takes the disk of `scsi_debug` away, or brings it back, perhaps under another name.
fn plug(device: &str, there: bool) -> String {
    let name = device.trim_start_matches("/dev/");
    if there {
        sh(
            "for host in /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*; do echo '- - -' > /sys/class/scsi_host/${host##*/}/scan; done",
        );
        let disks = "ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/* 2>/dev/null";
        let found =
            sh(&format!("for i in $(seq 100); do {disks} >/dev/null && break; sleep 0.05; done; {disks} | head -1"));
        let device = format!("/dev/{}", found.trim().rsplit('/').next().unwrap());
        sh(&format!("for i in $(seq 100); do [ -b {device} ] && break; sleep 0.05; done; [ -b {device} ]"));
        device
    } else {
        sh(&format!("echo 1 > /sys/block/{name}/device/delete"));
        String::new()
    }
}

#[test]
fn a_spare_that_was_away_is_taken_back() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(8, "");
    let device = setup(&guest, &[&guest.disks[1], &disk.device]);
    // Onto the spare that will go, with held blocks among them.
    dm_remap("spare evacuate data 0").ok();
    dm_remap("remap data 96+64 4096+256").ok();
    dm_remap("spare readd data 0").ok();
    assert!(homes().iter().all(|(_, _, spare)| *spare == 1), "{:?}", homes());
    device.write(100, &patterns(100, 8, 2)).unwrap();
    let written = [(100, 8, 2)];

    plug(&disk.device, false);
    assert_eq!(device.read(96, 8), Err(Errno::EIO));
    assert!(device.write(4096, &patterns(4096, 8, 3)).is_err());
    pool(&[(0, "online"), (1, "missing")]);
    // What needs it is refused; what does not goes on, and marks it as failed.
    dm_remap("spare evacuate data 1").exits(4).complains(&["gone", "--give-up-unreadable"]);
    dm_remap("spare remove data 1").exits(4).complains(&["gone", "2 extents"]);
    dm_remap("remap data 9000+8").exits(3);
    dm_remap("status data").exits(3).says(&["degraded", "spare 1 is missing", "spare readd"]);
    dm_remap("spare readd data 1").exits(4).complains(&["no device here holds its copies"]);

    let back = plug(&disk.device, true);
    assert_ne!(back, disk.device, "the old number is still in use");
    // Not another disk, nor a copy of it.
    Direct::open(&guest.disks[2]).write(0, &Direct::open(&back).read(0, 10_240).unwrap()).unwrap();
    dm_remap(&format!("spare readd data {}", guest.disks[2])).exits(4).complains(&["no name that could prove"]);
    sh(&format!("dd if=/dev/zero of={} bs=1M count=6 oflag=direct status=none", guest.disks[2]));
    dm_remap(&format!("spare readd data {back} --dry-run")).ok().says(&["would take"]);
    dm_remap(&format!("spare readd data {back}")).ok().says(&["back in service"]);
    pool(&[(0, "online"), (1, "online")]);
    whole(&device, &written, &[]);
    device.write(4096, &patterns(4096, 8, 4)).unwrap();
    let written = [(100, 8, 2), (4096, 8, 4)];
    dm_remap("spare remove data 1").ok();
    whole(&device, &written, &[]);
    drop(device);
    dm_remap("destroy data --merge-back").ok();
}

#[test]
fn a_spare_that_is_gone_for_good_is_given_up() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(8, "");
    let device = setup(&guest, &[&guest.disks[1], &disk.device]);
    dm_remap("spare evacuate data 0").ok();
    dm_remap("remap data 96+16 4096+8").ok();
    dm_remap("spare readd data 0").ok();
    plug(&disk.device, false);
    dm_remap("spare remove data 1").exits(4);
    let done = dm_remap("spare remove data 1 --give-up-unreadable --json --file-search 0").exits(3).json();
    assert_eq!(done["moved_sectors"], 24, "{done}");
    assert_eq!(ranges(&done["lost"]), [(96, 16), (4096, 8)], "{done}");
    pool(&[(0, "online")]);
    let lost: Vec<u64> = (96..112).chain(4096..4104).collect();
    whole(&device, &[], &lost);
    // A write heals, as with any held block.
    device.write(4096, &patterns(4096, 8, 5)).unwrap();
    device.write(96, &patterns(96, 16, 5)).unwrap();
    let written = [(96, 16, 5), (4096, 8, 5)];
    whole(&device, &written, &[]);
    // The disk comes back: it is recognised, and does not count.
    let back = plug(&disk.device, true);
    drop(device);
    dm_remap("deactivate data").ok();
    dm_remap(&format!("activate data --main {}", guest.disks[0])).ok();
    pool(&[(0, "online")]);
    dm_remap(&format!("spare readd data {back}")).exits(4).complains(&["was removed"]);
    let device = Direct::open(SETUP);
    whole(&device, &written, &[]);
    drop(device);
    dm_remap("destroy data --merge-back").ok();
}

#[test]
fn a_setup_that_came_up_without_a_spare_gets_it_back_or_goes_on_without() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(8, "");
    let device = setup(&guest, &[&guest.disks[1], &disk.device]);
    dm_remap("spare evacuate data 0").ok();
    dm_remap("remap data 96+16 4096+8").ok();
    dm_remap("spare readd data 0").ok();
    drop(device);
    let restart = || {
        dm_remap("deactivate data").ok();
        plug(&disk.device, false);
        let up = dmr(&["reassemble", "--setup", "data", "--main", &guest.disks[0], "--degraded"]);
        up.exits(3);
        pool(&[(0, "online"), (1, "missing")]);
        Direct::open(SETUP)
    };
    let device = restart();
    let away: Vec<u64> = (96..112).chain(4096..4104).collect();
    whole(&device, &[], &away);
    dm_remap("spare evacuate data 1").exits(4).complains(&["gone", "2 extents"]);
    plug(&disk.device, true);
    dm_remap("spare readd data 1").ok().says(&["back in service"]);
    pool(&[(0, "online"), (1, "online")]);
    whole(&device, &[], &[]);
    dm_remap("status data").ok();
    drop(device);
    let device = restart();
    let done = dm_remap("spare remove data 1 --give-up-unreadable --json --file-search 0").exits(3).json();
    assert_eq!(ranges(&done["lost"]), [(96, 16), (4096, 8)], "{done}");
    pool(&[(0, "online")]);
    whole(&device, &[], &away);
    device.write(96, &patterns(96, 16, 5)).unwrap();
    whole(&device, &[(96, 16, 5)], &away[16..]);
    drop(device);
    dm_remap("destroy data --discard-extents").ok();
}

#[test]
fn held_blocks_move_along_and_stay_held() {
    let Some(guest) = Guest::begin() else { return };
    let main = guest.scsi_debug(8, "");
    let one = &guest.disks[1];
    dmr(&["create", "data", "--main", &main.device, "--spare", one]).ok();
    Direct::open(SETUP).fill(&patterns(0, 16_384, 1));
    main.bad(1000, 3);
    dm_remap("remap data 992+24 --file-search 0").exits(3);
    main.good();
    let device = Direct::open(SETUP);
    let written = [(1001, 1, 2)];
    whole(&device, &[], &[1000, 1001, 1002]);
    device.write(1001, &patterns(1001, 1, 2)).unwrap();
    dm_remap(&format!("spare replace data 0 {} --file-search 0", guest.disks[2])).ok();
    pool(&[(1, "online")]);
    whole(&device, &written, &[1000, 1002]);
    drop(device);
    dm_remap("deactivate data").ok();
    dmr(&["activate", "data"]).ok();
    let device = Direct::open(SETUP);
    whole(&device, &written, &[1000, 1002]);
    // While it holds blocks with dust a spare cannot grow.
    dm_remap("spare grow data 1").exits(4);
    drop(device);
    dm_remap("destroy data --discard-extents").ok();
}

#[test]
fn a_spare_grows_with_its_device() {
    let Some(guest) = Guest::begin() else { return };
    let spare_loop = guest.loop_device("6M", "");
    let device = setup(&guest, &[&spare_loop]);
    let room = spare(0)["free_sectors"].as_u64().unwrap();
    dm_remap(&format!("remap data 0+{room}")).ok();
    dm_remap(&format!("remap data {}+8", room + 64)).exits(4).complains(&["no free slot"]);
    let mut still = Still::new(&[&guest.disks[0], &spare_loop]);
    dm_remap("spare grow data 0").exits(4).complains(&["and no more"]);
    dm_remap("spare grow data 0 --size 5M").exits(4).complains(&["never shrinks"]);
    dm_remap("spare grow data 0 --size 8M --dry-run").ok().says(&["from 12288", "to 16384"]);
    still.check("a refusal or a dry run");
    dm_remap("spare grow data 0 --size 8M").ok().says(&["to 16384"]);
    still.renew();
    assert_eq!(spare(0)["sectors"], 16_384);
    dm_remap(&format!("remap data {}+4096", room + 64)).ok();
    whole(&device, &[], &[]);
    assert!(sh("dmsetup table data-spare0").starts_with("0 16384 linear"));
    // Grown by somebody else, while the setup is up, and while it is down.
    let file = sh(&format!("losetup -n -O BACK-FILE {spare_loop}"));
    sh(&format!("truncate -s 10M {0} && losetup -c {spare_loop}", file.trim()));
    dm_remap(&format!("spare grow data {spare_loop}")).ok().says(&["to 20480"]);
    drop(device);
    dm_remap("deactivate data").ok();
    sh(&format!("truncate -s 12M {0} && losetup -c {spare_loop}", file.trim()));
    dmr(&["activate", "data", "--main", &guest.disks[0], "--spare", &spare_loop]).ok();
    dm_remap("spare grow data 0").ok().says(&["to 24576"]);
    let device = Direct::open(SETUP);
    whole(&device, &[], &[]);
    drop(device);
    dm_remap("destroy data --merge-back").ok();
    // A disk cannot be told to grow.
    setup(&guest, &[&guest.disks[1]]);
    dm_remap("spare grow data 0 --size 1G").exits(4).complains(&["no loop device"]);
    dm_remap("destroy data").ok();
}

#[test]
fn what_somebody_formatted_is_neither_taken_back_nor_added() {
    let Some(guest) = Guest::begin() else { return };
    let (one, two) = (&guest.disks[1], &guest.disks[2]);
    let device = setup(&guest, &[one, two]);
    dm_remap("remap data 96+8").ok();
    dm_remap("spare evacuate data 1").ok();
    // A superblock over the first copy; our magic before it stays, as some programs leave it.
    sh("truncate -s 8M /run/made && mkfs.ext4 -q -F /run/made");
    let disk = Direct::open(two);
    let mut head = disk.read(0, 8).unwrap();
    head[1024..].copy_from_slice(&std::fs::read("/run/made").unwrap()[1024..4096]);
    disk.write(0, &head).unwrap();
    let still = Still::new(&[one, two, &guest.disks[0]]);
    for dry in ["", "--dry-run"] {
        dm_remap(&format!("spare readd data 1 {dry}")).exits(4).complains(&["ext", "made over its copies"]);
    }
    still.check("a refusal");
    pool(&[(0, "online"), (1, "draining")]);

    // Removed, with all of that still on it.
    let old = disk.read(0, 10_240).unwrap();
    dm_remap("spare remove data 1").ok();
    disk.write(0, &old).unwrap();
    let still = Still::new(&[one, two, &guest.disks[0]]);
    for dry in ["", "--dry-run"] {
        dm_remap(&format!("spare add data {two} {dry}")).exits(4).complains(&["ext"]);
        dm_remap(&format!("spare replace data 0 {two} {dry}")).exits(4).complains(&["ext"]);
    }
    still.check("a refusal");
    dm_remap(&format!("spare add data {two} --force-signature")).ok();
    whole(&device, &[], &[]);
}

#[test]
fn an_error_after_the_first_commit_is_no_refusal_and_the_lock_of_claims_is_kept() {
    let Some(guest) = Guest::begin() else { return };
    let scsi = guest.scsi_debug(8, "");
    let device = setup(&guest, &[&guest.disks[1]]);
    dm_remap("remap data 4096+4000").ok();
    dm_remap(&format!("spare add data {}", scsi.device)).ok();
    // Where it is to go nothing can be kept, and there is no other room: that is found when it is draining already.
    scsi.bad(10_240, 6_000);
    let report = dm_remap("spare evacuate data 0 --json").exits(1).json();
    assert_eq!((&report["exit_code"], &report["moved_sectors"]), (&1.into(), &0.into()));
    assert!(report["error"].is_string(), "{report}");
    pool(&[(0, "draining"), (1, "online")]);
    // Now it is draining, and nothing is changed before the error.
    dm_remap("spare evacuate data 0").exits(4);
    dm_remap("spare readd data 0").ok();
    dm_remap("spare evacuate data 0").exits(1).says(&["FAILED", "are left on spare 0", "to go on"]);
    scsi.good();
    whole(&device, &[], &[]);

    let still = Still::new(&[&guest.disks[2]]);
    let add = format!("flock /run/dm-remap/claim.lock {} spare add data {}", *PROGRAM, guest.disks[2]);
    let ran = sh(&format!("{add} 2>&1; echo exit $?"));
    assert!(ran.contains("is taking devices into use") && ran.contains("exit 4"), "{ran}");
    still.check("a refusal");
    dm_remap(&format!("spare add data {}", guest.disks[2])).ok();
}
