//! Slots that go bad on a real kernel: a spare with medium errors, a mounted filesystem, and a program that writes all
//! the time. No command does this yet, so the library is called; all else is the real program.
// guest: --disk 64M --timeout 300
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use dm_remap::block::direct::{DirectDisk, Mode};
use dm_remap::block::host::Host;
use dm_remap::dm::kernel::Kernel;
use dm_remap::engine::salvage::BlockOutcome;
use dm_remap::engine::splice::{MOVES_AT_ONCE, SpliceOptions, SpliceOutcome, record_bad_slots, splice};
use dm_remap::engine::window::Unguarded;
use dm_remap::engine::{DiskSource, EngineError, Member, Session, Silent};
use dm_remap::format::metadata::UnreadablePolicy;
use dm_remap::map::{Fate, SpareIndex};
use dm_remap::plan::moves::{OnSpares, plan_evacuate};
use dm_remap::units::{DevNo, Range, Sectors};
use guest_support::*;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MNT: &str = "/tmp/mnt";
const SETUP: &str = "/dev/mapper/data";

#[derive(Debug)]
struct Devices;

impl DiskSource for Devices {
    fn open(&self, devno: DevNo, write: bool) -> Result<Option<Member>, EngineError> {
        let device = Host::real().device_by_number(devno).unwrap();
        let mode = if write { Mode::ReadWrite } else { Mode::ReadOnly };
        Ok(Some(Member { devno, disk: Arc::new(DirectDisk::open_device(&device, mode).unwrap()) }))
    }
}

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn on_spare(runs: &[Range]) -> OnSpares {
    OnSpares::from([(SpareIndex(0), runs.to_vec())])
}

fn evacuate(dm: &Kernel, bad: &[Range]) -> SpliceOutcome {
    let mut session = Session::open(dm, &Devices, "data", true).unwrap();
    let plan = plan_evacuate(&session.metadata, &on_spare(bad), UnreadablePolicy::Hold, |_| true).unwrap();
    let options =
        SpliceOptions { retries: 1, runner: &Unguarded, observer: &Silent, suspects: &[], at_once: MOVES_AT_ONCE };
    splice(&mut session, plan, &options).unwrap()
}

/// Where on the spare a sector of the setup lives.
fn slot(dm: &Kernel, sector: u64) -> u64 {
    let session = Session::open(dm, &Devices, "data", false).unwrap();
    let extent = session.metadata.map.extent_at(Sectors(sector)).unwrap();
    extent.slot.start.0 + sector - extent.range.start().0
}

/// A file of `sectors` in one piece, filled with random bytes: these, and its first sector on the disk.
fn make_file(name: &str, sectors: u64, random: &mut Random) -> (Vec<u8>, u64) {
    let content = random.bytes(sectors as usize * 512);
    std::fs::write(format!("{MNT}/{name}"), &content).unwrap();
    sh("sync");
    let list = sh(&format!("debugfs -R 'blocks /{name}' {SETUP} 2>/dev/null"));
    let blocks: Vec<u64> = list.split_ascii_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(blocks.windows(2).all(|w| w[1] == w[0] + 1), "{name} is in pieces: {blocks:?}");
    (content, blocks[0] * 8)
}

/// The file is as it was, but for `lost` sectors of it.
fn check(name: &str, content: &[u8], lost: std::ops::Range<u64>) {
    let file = Direct::open(&format!("{MNT}/{name}"));
    for (sector, data) in (0..).zip(content.chunks(512)) {
        let read = file.read(sector, 1);
        if lost.contains(&sector) {
            assert_eq!(read, Err(Errno::EIO), "{name}, sector {sector}");
        } else {
            assert!(read.unwrap() == data, "{name} differs in sector {sector}");
        }
    }
}

#[test]
fn extents_leave_slots_that_go_bad_under_a_live_filesystem() {
    let Some(guest) = Guest::begin() else { return };
    let mut random = Random::new();
    let spare = guest.scsi_debug(32, "");
    dmr(&["create", "data", "--main", &guest.disks[0], "--spare", &spare.device]).ok();
    sh(&format!("mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0 {SETUP} && mount -o noatime {SETUP} {MNT}"));
    let (content, first) = make_file("read", 256, &mut random);
    let (mut rewritten, written) = make_file("written", 64, &mut random);
    dmr(&["remap", "data", &format!("{first}+256"), &format!("{written}+64")]).ok();
    let dm = Kernel::open().unwrap();

    // Three sectors of a slot go bad; of the file that is being written a slot is said to be.
    let bad = slot(&dm, first + 100);
    spare.bad(bad, 3);
    let suspect = slot(&dm, written + 20);
    assert_eq!(Direct::open(&format!("{MNT}/read")).read(100, 1), Err(Errno::ENODATA));
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let file = Direct::open(&format!("{MNT}/written"));
            let mut version = 0;
            while !stop.load(Ordering::SeqCst) {
                version = count.fetch_add(1, Ordering::SeqCst) + 1;
                file.write(0, &patterns(0, 64, (version % 251) as u8)).unwrap();
            }
            version
        });
        while count.load(Ordering::SeqCst) < 20 {
            std::thread::yield_now();
        }
        let outcome = evacuate(&dm, &[range(bad, 3), range(suspect, 1)]);
        let before = count.load(Ordering::SeqCst);
        while count.load(Ordering::SeqCst) < before + 20 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        let version = writer.join().unwrap();
        rewritten = patterns(0, 64, (version % 251) as u8);
        outcome
    });
    println!("{} writes meanwhile, {:?}", count.load(Ordering::SeqCst), outcome.moved);
    let unit = |sector: u64| range(sector / 8 * 8, 8);
    let mut expected = vec![unit(first + 100), unit(written + 20)];
    expected.sort();
    assert_eq!(outcome.moved.iter().map(|m| m.range).collect::<Vec<_>>(), expected);
    let lost: Vec<_> = outcome.lost.iter().map(|l| (l.range, l.fate)).collect();
    assert_eq!(lost, [(range(first + 100, 3), Fate::HeldStale)]);
    let blocks: Vec<_> = outcome.blocks.iter().map(|b| (b.range, b.outcome)).collect();
    let attempts = BlockOutcome::Lost { attempts: 2, errno: Errno::ENODATA };
    assert_eq!(blocks, [(range(first + 100, 3), attempts)]);
    assert_ne!(slot(&dm, first + 100), bad);
    check("read", &content, 100..103);
    check("written", &rewritten, 0..0);

    // A write heals, also if the new slot goes bad in another place, and the extent leaves that one too.
    let mut content = content;
    content[101 * 512..102 * 512].copy_from_slice(&patterns(101, 1, 7));
    Direct::open(&format!("{MNT}/read")).write(101, &content[101 * 512..102 * 512]).unwrap();
    assert!(Direct::open(&format!("{MNT}/read")).read(101, 1).unwrap() == content[101 * 512..102 * 512]);
    let second = slot(&dm, first + 103);
    spare.bad(second, 1);
    let outcome = evacuate(&dm, &[range(second, 1)]);
    assert_eq!(outcome.rewritten, [range(first + 101, 1)]);
    assert_eq!(outcome.moved.len(), 1);
    let file = Direct::open(&format!("{MNT}/read"));
    for (sector, expected) in [(99, true), (100, false), (101, true), (102, false), (103, false), (104, true)] {
        let read = file.read(sector, 1);
        assert_eq!(read.is_ok(), expected, "sector {sector}: {:?}", read.err());
    }
    drop(file);
    // What was left is never used again, nor is what is recorded in free space.
    let mut session = Session::open(&dm, &Devices, "data", true).unwrap();
    assert!(record_bad_slots(&mut session, &on_spare(&[range(20_000, 2)])).unwrap());
    let recorded = &session.metadata.bad_blocks[&SpareIndex(0)];
    let mut expected = vec![range(bad, 3), range(suspect, 1), range(second, 1), range(20_000, 2)];
    expected.sort();
    assert_eq!(*recorded, expected);
    drop(session);
    drop(dm);
    sh(&format!("umount {MNT}"));
    dm_remap("deactivate data").ok();
    assert_eq!(sh("dmsetup ls"), "No devices found\n");
    dmr(&["activate", "data", "--main", &guest.disks[0]]).ok();
    sh(&format!("mount -o noatime {SETUP} {MNT}"));
    content[102 * 512..104 * 512].copy_from_slice(&patterns(102, 2, 9));
    content[100 * 512..101 * 512].copy_from_slice(&patterns(100, 1, 9));
    Direct::open(&format!("{MNT}/read")).write(100, &content[100 * 512..104 * 512]).unwrap();
    check("read", &content, 0..0);
    check("written", &rewritten, 0..0);
    sh(&format!("umount {MNT} && e2fsck -fn {SETUP}"));
    dm_remap("restore data --all").ok();
    sh(&format!("mount -o noatime {SETUP} {MNT}"));
    check("read", &content, 0..0);
    sh(&format!("umount {MNT}"));
    dm_remap("deactivate data").ok();
}
