//! What only the fake has: I/O, hooks, refusals, the journal. What it shares with a kernel is in
//! `tests/guest_dm.rs`.

use super::*;
use crate::block::ram::{Bad, RamDisk};
use crate::segments::TargetKind;
use crate::units::Range;

const MAIN: DevNo = DevNo { major: 8, minor: 0 };
const SPARE: DevNo = DevNo { major: 8, minor: 16 };

fn linear(start: u64, len: u64, device: DevNo, offset: u64) -> Target {
    let kind = TargetKind::Linear { device, offset: Sectors(offset) };
    Target { start: Sectors(start), len: Sectors(len), kind }
}

fn piece(start: u64, len: u64, kind: TargetKind) -> Target {
    Target { start: Sectors(start), len: Sectors(len), kind }
}

struct World {
    dm: FakeDm,
    main: Arc<RamDisk>,
    spare: Arc<RamDisk>,
}

fn world() -> World {
    let dm = FakeDm::new();
    let main = Arc::new(RamDisk::new("main", Sectors(1000)));
    let spare = Arc::new(RamDisk::new("spare", Sectors(500)));
    dm.register(MAIN, main.clone());
    dm.register(SPARE, spare.clone());
    World { dm, main, spare }
}

fn up(dm: &FakeDm, name: &str, table: &[Target]) -> DevNo {
    let state = dm.create(name, &format!("TEST-{name}")).unwrap();
    dm.load(name, table, false).unwrap();
    dm.activate(name, false).unwrap();
    state.devno
}

fn sector(image: &crate::block::ram::Image, n: u64) -> u8 {
    image.get(&n).map_or(0, |data| data[0])
}

#[test]
fn requests_are_split_at_the_edges_of_pieces() {
    let w = world();
    let table = [linear(0, 10, MAIN, 0), linear(10, 5, SPARE, 100), linear(15, 85, MAIN, 15)];
    up(&w.dm, "a", &table);
    let disk = w.dm.disk("a");
    assert_eq!(disk.size(), Sectors(100));
    let mut data = vec![0; 20 * 512];
    for (n, chunk) in (1..).zip(data.chunks_exact_mut(512)) {
        chunk.fill(n);
    }
    disk.write(Sectors(0), &data).unwrap();
    let mut back = vec![0; data.len()];
    disk.read(Sectors(0), &mut back).unwrap();
    assert_eq!(data, back);
    assert_eq!((sector(&w.main.image(), 9), sector(&w.main.image(), 10)), (10, 0));
    assert_eq!(sector(&w.spare.image(), 100), 11);
    assert_eq!(sector(&w.main.image(), 15), 16);
    assert!(w.spare.pending() > 0 && w.main.pending() > 0);
    disk.flush().unwrap();
    assert_eq!((w.spare.pending(), w.main.pending()), (0, 0));
    w.spare.set_bad(Range::new(Sectors(102), Sectors(1)).unwrap(), Bad::Reads(Errno::ENODATA));
    let error = disk.read(Sectors(9), &mut back[..5 * 512]).unwrap_err();
    assert_eq!((error.errno, &*error.device, error.start), (Errno::ENODATA, "a", Sectors(9)));
}

#[test]
fn failing_pieces_fail_as_in_the_kernel() {
    let w = world();
    let flakey = TargetKind::FlakeyErrorReads { device: MAIN, offset: Sectors(10) };
    up(&w.dm, "a", &[linear(0, 10, MAIN, 0), piece(10, 1, TargetKind::Error), piece(11, 9, flakey)]);
    let disk = w.dm.disk("a");
    let mut buf = [0; 512];
    assert_eq!(disk.write(Sectors(10), &buf).unwrap_err().errno, Errno::EIO);
    assert_eq!(disk.read(Sectors(11), &mut buf).unwrap_err().errno, Errno::EIO);
    disk.write(Sectors(11), &[7; 512]).unwrap();
    assert_eq!(sector(&w.main.image(), 10), 7);
    disk.flush().unwrap();
}

#[test]
fn dust_splits_and_heals_by_block() {
    let w = world();
    let dust = TargetKind::Dust { device: MAIN, offset: Sectors(80), block_bytes: 4096 };
    up(&w.dm, "a", &[piece(0, 200, dust)]);
    let disk = w.dm.disk("a");
    let send = |text: &str| w.dm.message("a", Sectors(0), text);
    send("addbadblock 11").unwrap();
    let mut buf = vec![0; 24 * 512];
    disk.read(Sectors(0), &mut buf).unwrap();
    send("enable").unwrap();
    assert_eq!(disk.read(Sectors(0), &mut buf).unwrap_err().errno, Errno::EIO);
    for (at, bad) in [(7, false), (8, true), (15, true), (16, false)] {
        assert_eq!(disk.read(Sectors(at), &mut buf[..512]).is_err(), bad, "{at}");
    }
    disk.write(Sectors(6), &buf[..1024]).unwrap();
    assert!(disk.read(Sectors(9), &mut buf[..512]).is_err());
    disk.write(Sectors(10), &buf[..512]).unwrap();
    disk.read(Sectors(0), &mut buf).unwrap();
}

#[test]
fn a_dust_part_that_straddles_two_blocks_is_judged_by_the_first() {
    let w = world();
    let dust = TargetKind::Dust { device: MAIN, offset: Sectors(83), block_bytes: 4096 };
    up(&w.dm, "a", &[piece(0, 200, dust)]);
    let disk = w.dm.disk("a");
    w.dm.message("a", Sectors(0), "addbadblock 11").unwrap();
    w.dm.message("a", Sectors(0), "enable").unwrap();
    let mut buf = vec![0; 8 * 512];
    assert!(disk.read(Sectors(5), &mut buf[..512]).is_err());
    disk.read(Sectors(0), &mut buf).unwrap();
    assert!(disk.read(Sectors(8), &mut buf).is_err());
}

#[test]
fn a_suspended_device_is_flagged_and_changes_nothing() {
    let w = world();
    let lower = up(&w.dm, "low", &[linear(0, 100, MAIN, 0)]);
    up(&w.dm, "top", &[linear(0, 50, SPARE, 0), linear(50, 50, lower, 50)]);
    let disk = w.dm.disk("top");
    w.dm.suspend("low").unwrap();
    let error = disk.write(Sectors(49), &[1; 1024]).unwrap_err();
    assert_eq!(error.errno, Errno::EAGAIN);
    assert_eq!(disk.flush().unwrap_err().errno, Errno::EAGAIN);
    assert!(w.spare.image().is_empty());
    disk.write(Sectors(0), &[1; 512]).unwrap();
    w.dm.resume("low").unwrap();
    disk.write(Sectors(49), &[1; 1024]).unwrap();
    assert_eq!((sector(&w.spare.image(), 49), sector(&w.main.image(), 50)), (1, 1));
}

#[test]
fn hooks_run_before_the_operation_and_may_use_the_fake() {
    let w = world();
    up(&w.dm, "a", &[linear(0, 100, MAIN, 0)]);
    let main = w.main.clone();
    let mut left = 1;
    w.dm.on(
        Op::Suspend,
        Box::new(move |dm| {
            if left > 0 {
                left -= 1;
                dm.disk("a").write(Sectors(3), &[9; 512]).unwrap();
                dm.load("a", &[linear(0, 100, SPARE, 0)], false).unwrap();
                assert_eq!(sector(&main.image(), 3), 9);
            }
        }),
    );
    w.dm.suspend("a").unwrap();
    assert_eq!(w.dm.disk("a").write(Sectors(3), &[1; 512]).unwrap_err().errno, Errno::EAGAIN);
    w.dm.resume("a").unwrap();
    w.dm.disk("a").write(Sectors(3), &[1; 512]).unwrap();
    assert_eq!((sector(&w.main.image(), 3), sector(&w.spare.image(), 3)), (9, 1));
    assert!(w.dm.violations().is_empty());
}

#[test]
fn refusals_are_counted_and_leave_what_the_kernel_leaves() {
    let w = world();
    up(&w.dm, "a", &[linear(0, 100, MAIN, 0)]);
    w.dm.refuse_next(Op::Suspend, Errno::EINTR, 1);
    assert_eq!(w.dm.suspend("a").unwrap_err().errno(), Some(Errno::EINTR));
    let window = w.dm.window("a", Some(&[piece(0, 100, TargetKind::Error)])).unwrap();
    assert_eq!(window.suspended(), Ok(false));
    w.dm.load("a", &[linear(0, 100, SPARE, 0)], false).unwrap();
    window.suspend().unwrap();
    w.dm.refuse_next(Op::Resume, Errno::EINVAL, 1);
    assert_eq!(window.resume(), Err(Errno::EINVAL));
    assert_eq!((window.suspended(), window.has_inactive()), (Ok(true), Ok(false)));
    window.load_prepared().unwrap();
    window.resume().unwrap();
    assert_eq!(w.dm.table("a", TableSlot::Active).unwrap()[0].kind, TargetKind::Error);
    window.suspend().unwrap();
    w.dm.load("a", &[linear(0, 100, MAIN, 0)], false).unwrap();
    assert_eq!(w.dm.violations(), ["load a while a is suspended"]);
    let journal = w.dm.journal();
    for line in ["suspend a: EINTR", "resume a: EINVAL", "emergency load a 1 targets"] {
        assert!(journal.iter().any(|l| l == line), "{line} in {journal:?}");
    }
}

#[test]
fn unsupported_target_types_are_refused_at_load() {
    let w = world();
    up(&w.dm, "a", &[linear(0, 100, MAIN, 0)]);
    w.dm.set_supported(&["linear", "error"]);
    let flakey = TargetKind::FlakeyErrorReads { device: MAIN, offset: Sectors(0) };
    let error = w.dm.load("a", &[piece(0, 10, flakey)], false).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL));
    w.dm.load("a", &[piece(0, 10, TargetKind::Error)], false).unwrap();
}

#[test]
fn blocks_of_4096_bytes_cannot_follow_an_odd_piece() {
    let w = world();
    let big = DevNo { major: 8, minor: 32 };
    let power = crate::block::ram::Power::new();
    w.dm.register(big, Arc::new(RamDisk::with_power("big", Sectors(800), Sectors(8), power)));
    up(&w.dm, "a", &[linear(0, 100, MAIN, 0)]);
    for (table, fits) in [
        (vec![linear(0, 3, MAIN, 0), linear(3, 80, big, 0)], false),
        (vec![linear(0, 8, MAIN, 3), linear(8, 80, big, 0)], true),
        (vec![linear(0, 80, big, 1)], false),
        (vec![linear(0, 81, big, 0)], false),
    ] {
        w.dm.load("a", &table, false).unwrap();
        assert_eq!(w.dm.resume("a").is_ok(), fits, "{table:?}");
        w.dm.resume("a").unwrap();
    }
    assert_eq!(w.dm.disk("a").logical_block(), Sectors(8));
}
