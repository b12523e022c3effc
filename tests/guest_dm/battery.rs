//! What the fake and the kernel must do alike.

use super::bench::{Bench, linear, piece};
use dm_remap::dm::{DmError, TableSlot};
use dm_remap::segments::TargetKind;
use dm_remap::units::{DevNo, Sectors};
use nix::errno::Errno;

pub fn errno<T: std::fmt::Debug>(result: Result<T, DmError>) -> Option<Errno> {
    result.unwrap_err().errno()
}

pub fn a_device_from_birth_to_removal(b: &Bench) {
    let born = b.dm.create("t-a", "DMREMAPTEST-birth").unwrap();
    assert_eq!((born.name.as_str(), born.uuid.as_str()), ("t-a", "DMREMAPTEST-birth"));
    assert!(!born.active && !born.inactive && !born.suspended && born.open_count == 0);
    assert!(b.dm.list().unwrap().contains(&("t-a".into(), born.devno)));
    b.dm.load("t-a", &[b.linear(0, 100, 0, 0)], false).unwrap();
    let loaded = b.dm.state("t-a").unwrap().unwrap();
    assert!(!loaded.active && loaded.inactive);
    let activation = b.dm.activate("t-a", false).unwrap();
    assert_eq!(activation.node, std::path::Path::new("/dev/mapper/t-a"));
    assert_eq!(activation.warning, None);
    let up = b.dm.state("t-a").unwrap().unwrap();
    assert!(up.active && !up.inactive && !up.suspended && !up.read_only);
    assert_eq!(up.devno, born.devno);
    let disk = b.open("t-a");
    assert_eq!(disk.size(), Sectors(100));
    disk.write(Sectors(7), &[5; 512]).unwrap();
    disk.flush().unwrap();
    let mut back = [0; 1024];
    disk.read(Sectors(7), &mut back).unwrap();
    assert_eq!((back[0], back[511]), (5, 5));
    drop(disk);
    b.dm.remove("t-a").unwrap();
    assert_eq!(b.dm.state("t-a").unwrap(), None);
    assert!(b.dm.list().unwrap().iter().all(|(name, _)| name != "t-a"));
}

pub fn tables_read_back_as_they_were_loaded(b: &Bench) {
    let mut table = vec![b.linear(0, 10, 0, 0), piece(10, 3, TargetKind::Error), b.linear(13, 7, 1, 1000)];
    let (device, offset) = (b.disk[1], Sectors(8));
    let dust = TargetKind::Dust { device, offset, block_bytes: 4096 };
    let flakey = TargetKind::FlakeyErrorReads { device, offset };
    let mut start = 20;
    for kind in [dust, flakey] {
        if b.has(kind.clone()) {
            table.push(piece(start, 80, kind));
            start += 80;
        }
    }
    b.up("t-a", &table);
    assert_eq!(b.dm.table("t-a", TableSlot::Active).unwrap(), table);
    assert_eq!(b.dm.table("t-a", TableSlot::Inactive).unwrap(), []);
    let many: Vec<_> = (0..2000).map(|n| b.linear(n, 1, (n % 2) as usize, n + n % 2)).collect();
    b.dm.load("t-a", &many, false).unwrap();
    assert_eq!(b.dm.table("t-a", TableSlot::Inactive).unwrap(), many);
    assert_eq!(b.dm.table("t-a", TableSlot::Active).unwrap(), table);
    b.dm.clear("t-a").unwrap();
    b.dm.clear("t-a").unwrap();
    assert_eq!(b.dm.table("t-a", TableSlot::Inactive).unwrap(), []);
    assert!(!b.dm.state("t-a").unwrap().unwrap().inactive);
}

pub fn what_load_refuses(b: &Bench) {
    b.dm.create("t-new", "").unwrap();
    let nowhere = DevNo { major: 77, minor: 77 };
    let nosuch = TargetKind::other("nosuchtarget", "1");
    let long = TargetKind::other("x".repeat(16), "");
    for (table, why) in [
        (vec![], Errno::EINVAL),
        (vec![b.linear(5, 10, 0, 0)], Errno::EINVAL),
        (vec![b.linear(0, 10, 0, 0), b.linear(20, 10, 0, 0)], Errno::EINVAL),
        (vec![b.linear(0, 0, 0, 0)], Errno::EINVAL),
        (vec![piece(0, 10, nosuch)], Errno::EINVAL),
        (vec![piece(0, 10, long)], Errno::EINVAL),
        (vec![linear(0, 10, nowhere, 0)], Errno::ENXIO),
        // Bounds count for a device's first table only.
        (vec![b.linear(0, 10, 0, b.size)], Errno::EINVAL),
    ] {
        let error = b.dm.load("t-new", &table, false).unwrap_err();
        assert!(matches!(error, DmError::Refused { operation: "load", errno, .. } if errno == why), "{error:?}");
    }
    assert!(!b.dm.state("t-new").unwrap().unwrap().inactive);
}

pub fn a_refused_resume_leaves_it_suspended(b: &Bench) {
    let good = [b.linear(0, 100, 0, 0)];
    b.up("t-a", &good);
    b.dm.load("t-a", &[b.linear(0, 100, 0, b.size - 50)], false).unwrap();
    assert_eq!(errno(b.dm.resume("t-a")), Some(Errno::EINVAL));
    let state = b.dm.state("t-a").unwrap().unwrap();
    assert!(state.suspended && state.active && !state.inactive);
    assert_eq!(b.dm.table("t-a", TableSlot::Active).unwrap(), good);
    b.dm.clear("t-a").unwrap();
    b.dm.resume("t-a").unwrap();
    assert!(!b.dm.state("t-a").unwrap().unwrap().suspended);
    b.open("t-a").write(Sectors(99), &[1; 512]).unwrap();
}

pub fn the_window_suspends_and_swaps(b: &Bench) {
    b.up("t-a", &[b.linear(0, 100, 0, 0)]);
    b.open("t-a").write(Sectors(3), &[1; 512]).unwrap();
    b.dm.load("t-a", &[b.linear(0, 100, 1, 0)], false).unwrap();
    let window = b.dm.window("t-a", None).unwrap();
    assert_eq!((window.suspended(), window.has_inactive()), (Ok(false), Ok(true)));
    window.suspend().unwrap();
    window.suspend().unwrap();
    assert_eq!(window.suspended(), Ok(true));
    assert_eq!(window.load_prepared(), Err(Errno::ENODATA));
    window.resume().unwrap();
    window.resume().unwrap();
    assert_eq!((window.suspended(), window.has_inactive()), (Ok(false), Ok(false)));
    assert_eq!(b.dm.table("t-a", TableSlot::Active).unwrap(), [b.linear(0, 100, 1, 0)]);
    b.open("t-a").write(Sectors(3), &[2; 512]).unwrap();
    b.dm.load("t-a", &[b.linear(0, 100, 0, 0)], false).unwrap();
    window.suspend().unwrap();
    window.clear().unwrap();
    window.resume().unwrap();
    let mut back = [0; 512];
    b.open("t-a").read(Sectors(3), &mut back).unwrap();
    assert_eq!(back, [2; 512]);
    // A resume that has to suspend by itself.
    b.dm.load("t-a", &[b.linear(0, 100, 0, 0)], false).unwrap();
    b.dm.resume("t-a").unwrap();
    b.open("t-a").read(Sectors(3), &mut back).unwrap();
    assert_eq!(back, [1; 512]);
}

pub fn the_last_resort_is_loaded_while_suspended(b: &Bench) {
    let now = [b.linear(0, 100, 0, 0)];
    let emergency = [b.linear(0, 10, 0, 0), piece(10, 1, TargetKind::Error), b.linear(11, 89, 0, 11)];
    b.up("t-a", &now);
    let window = b.dm.window("t-a", Some(&emergency)).unwrap();
    for _ in 0..2 {
        window.suspend().unwrap();
        window.load_prepared().unwrap();
        assert_eq!(window.has_inactive(), Ok(true));
        window.resume().unwrap();
        assert_eq!(b.dm.table("t-a", TableSlot::Active).unwrap(), emergency);
    }
    let disk = b.open("t-a");
    assert_eq!(disk.read(Sectors(8), &mut [0; 2048]).unwrap_err().errno, Errno::EIO);
    assert_eq!(disk.write(Sectors(10), &[0; 512]).unwrap_err().errno, Errno::EIO);
    disk.write(Sectors(11), &[0; 512]).unwrap();
    disk.flush().unwrap();
}

pub fn names_and_uuids_are_unique(b: &Bench) {
    b.dm.create("t-a", "DMREMAPTEST-u").unwrap();
    assert_eq!(errno(b.dm.create("t-a", "DMREMAPTEST-v")), Some(Errno::EBUSY));
    assert_eq!(errno(b.dm.create("t-b", "DMREMAPTEST-u")), Some(Errno::EBUSY));
    let long = "t".repeat(128);
    for bad in ["", "a/b", "control", "..", &long] {
        assert_eq!(errno(b.dm.create(bad, "")), Some(Errno::EINVAL), "{bad}");
    }
    let uuid = "u".repeat(129);
    assert_eq!(errno(b.dm.create("t-b", &uuid)), Some(Errno::EINVAL));
    b.dm.create("t-b", &uuid[1..]).unwrap();
    assert_eq!(b.dm.state("t-b").unwrap().unwrap().uuid, uuid[1..]);
}

pub fn tables_hold_their_devices_open(b: &Bench) {
    let lower = b.up("t-low", &[b.linear(0, 100, 0, 0)]);
    let open_count = || b.dm.state("t-low").unwrap().unwrap().open_count;
    b.dm.create("t-top", "").unwrap();
    b.dm.load("t-top", &[linear(0, 50, lower, 0)], false).unwrap();
    assert_eq!(open_count(), 1);
    assert_eq!(errno(b.dm.remove("t-low")), Some(Errno::EBUSY));
    b.dm.activate("t-top", true).unwrap();
    b.dm.load("t-top", &[linear(0, 60, lower, 0)], false).unwrap();
    assert_eq!(open_count(), 1);
    b.dm.clear("t-top").unwrap();
    // The lower one may shrink under the upper one, which then fails where nothing is left.
    b.dm.load("t-low", &[b.linear(0, 40, 0, 0)], false).unwrap();
    b.dm.resume("t-low").unwrap();
    let disk = b.open("t-top");
    disk.write(Sectors(39), &[0; 512]).unwrap();
    assert_eq!(disk.write(Sectors(40), &[0; 512]).unwrap_err().errno, Errno::EIO);
    drop(disk);
    b.dm.remove("t-top").unwrap();
    assert_eq!(open_count(), 0);
    b.dm.remove("t-low").unwrap();
}

pub fn a_device_without_a_table(b: &Bench) {
    b.dm.create("t-a", "").unwrap();
    assert_eq!(b.dm.table("t-a", TableSlot::Active).unwrap(), []);
    b.dm.clear("t-a").unwrap();
    b.dm.resume("t-a").unwrap();
    // Linux 6.1 says nothing, 6.12 refuses.
    assert!(!matches!(b.send("t-a", "anything"), Ok(Some(_))));
    b.dm.suspend("t-a").unwrap();
    assert!(b.dm.state("t-a").unwrap().unwrap().suspended);
    assert_eq!(errno(b.dm.resume("t-a")), Some(Errno::EINVAL));
    b.dm.load("t-a", &[b.linear(0, 100, 0, 0)], false).unwrap();
    b.dm.resume("t-a").unwrap();
    assert!(!b.dm.state("t-a").unwrap().unwrap().suspended);
}

pub fn read_only_tables(b: &Bench) {
    b.up("t-a", &[b.linear(0, 100, 0, 0)]);
    let disk = b.open("t-a");
    b.dm.load("t-a", &[b.linear(0, 100, 0, 0)], true).unwrap();
    b.dm.resume("t-a").unwrap();
    assert!(b.dm.state("t-a").unwrap().unwrap().read_only);
    disk.read(Sectors(0), &mut [0; 512]).unwrap();
    assert_eq!(disk.write(Sectors(0), &[0; 512]).unwrap_err().errno, Errno::EPERM);
}

pub fn flakey_fails_reads_and_passes_writes(b: &Bench) {
    let flakey = TargetKind::FlakeyErrorReads { device: b.disk[0], offset: Sectors(50) };
    if !b.has(flakey.clone()) {
        return;
    }
    b.up("t-a", &[piece(0, 100, flakey)]);
    b.up("t-b", &[b.linear(0, 200, 0, 0)]);
    let disk = b.open("t-a");
    disk.write(Sectors(9), &[6; 512]).unwrap();
    disk.flush().unwrap();
    assert_eq!(disk.read(Sectors(9), &mut [0; 512]).unwrap_err().errno, Errno::EIO);
    let mut back = [0; 512];
    b.open("t-b").read(Sectors(59), &mut back).unwrap();
    assert_eq!(back, [6; 512]);
}

pub fn missing_devices(b: &Bench) {
    let dm = &b.dm;
    let no_device = |result: Result<(), DmError>| {
        assert_eq!(result, Err(DmError::NoDevice("t-none".into())));
    };
    assert_eq!(dm.state("t-none").unwrap(), None);
    no_device(dm.load("t-none", &[b.linear(0, 1, 0, 0)], false));
    no_device(dm.clear("t-none"));
    no_device(dm.suspend("t-none"));
    no_device(dm.resume("t-none"));
    no_device(dm.activate("t-none", false).map(drop));
    no_device(dm.remove("t-none"));
    no_device(dm.table("t-none", TableSlot::Active).map(drop));
    no_device(dm.message("t-none", Sectors(0), "x").map(drop));
    let window = dm.window("t-none", None).unwrap();
    assert_eq!(window.suspend(), Err(Errno::ENXIO));
    assert_eq!(window.resume(), Err(Errno::ENXIO));
    assert_eq!(window.clear(), Err(Errno::ENXIO));
    assert_eq!(window.suspended(), Err(Errno::ENXIO));
}
