//! fio with verification runs throughout, and at least 500 extents are moved there and back under it without an error;
//! the same under a filesystem.
//!
//! ```text
//! scripts/guest --disk 64M … --env DM_REMAP_GUEST=1 -- target/debug/deps/guest_fio-… --test-threads=1 --nocapture
//! ```
// guest: --disk 32M --disk 32M --disk 32M --disk 64M --timeout 900
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use live::fio::Fio;
use live::load::{Load, fill};
use live::{Random, Setup, disk, in_guest, must, sectors};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Extents that are moved in each direction, at least.
const WANTED: usize = 500;

/// What fio works on, in sectors; the rest of the device belongs to our own load.
const FIO_SECTORS: u64 = 32_768;

fn ranges(setup: &Setup) -> Vec<String> {
    setup.extents().iter().map(|e| format!("{}+{}", e.start, e.count)).collect()
}

/// Moves extents there and back until `wanted` went each way: single ones, and many in one swap.
fn move_extents(
    setup: &Setup,
    limit: u64,
    wanted: usize,
    per_batch: u64,
    mut go_on: impl FnMut() -> bool,
) -> (usize, usize, usize) {
    let mut random = Random(0x51CE_D0FF);
    let (mut there, mut back, mut swaps) = (0, 0, 0);
    while there < wanted || back < wanted {
        assert!(go_on(), "the load ended after {there} extents there and {back} back");
        // One alone, then a batch of scattered ones, never next to each other: each is an extent.
        for size in [1, per_batch] {
            let taken: BTreeSet<u64> = setup.extents().iter().map(|e| e.start / 32).collect();
            let mut starts = BTreeSet::new();
            while (starts.len() as u64) < size {
                let block = random.below(limit / 32);
                if !taken.contains(&block) {
                    starts.insert(block);
                }
            }
            let args: Vec<String> = starts.iter().map(|b| format!("{}+{}", b * 32, 8 * (1 + b % 2))).collect();
            let before = setup.extents().len();
            setup.command("remap", &args.iter().map(String::as_str).collect::<Vec<_>>()).expect(&[0]);
            let after = setup.extents().len();
            assert_eq!(after, before + size as usize);
            there += size as usize;
            swaps += 1;
        }
        let mut all = ranges(setup);
        // One alone, some, then the rest.
        let alone = all.remove(random.below(all.len() as u64) as usize);
        setup.command("restore", &[&alone]).expect(&[0]);
        let some: Vec<&str> = all.iter().step_by(3).map(String::as_str).collect();
        setup.command("restore", &some).expect(&[0]);
        setup.command("restore", &["--all"]).expect(&[0]);
        assert!(setup.extents().is_empty());
        back += all.len() + 1;
        swaps += 3;
    }
    assert!(!setup.has_inactive() && !setup.suspended());
    assert_eq!(setup.stats_regions().trim(), "");
    (there, back, swaps)
}

#[test]
fn extents_move_under_fio() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    let main = disk(0);
    let size = sectors(&main);
    fill(&main, size);
    let setup = Setup::create("fio", main, vec![disk(1), disk(2)]);
    // Our own load verifies its part to the sector, and keeps away from fio's.
    let rest = size - FIO_SECTORS;
    let tail = vec![(FIO_SECTORS, rest)];
    let limit = format!("--size={}", FIO_SECTORS * 512);
    let mut fio = Fio::start("raw", setup.node().to_str().unwrap(), &[&limit, "--ioengine=libaio", "--iodepth=4"], 600);
    let load = Load::start_within(&setup.node(), size, FIO_SECTORS, &tail);
    let (there, back, swaps) = move_extents(&setup, size, WANTED, 63, || fio.runs());
    let (total, longest) = fio.interrupt();
    let gap = load.longest();
    // With extents on the spares, through a restart, and on main by itself, the device is the same to the byte.
    setup.command("remap", &["64+8", "4096+256", "40000+64"]).expect(&[0]);
    let own = load.finish();
    let sum = checksum(&setup.node());
    setup.command("deactivate", &[]).expect(&[0]);
    setup.command("activate", &["--main", setup.main.to_str().unwrap()]).expect(&[0]);
    assert_eq!(checksum(&setup.node()), sum);
    setup.command("destroy", &["--merge-back"]).expect(&[0]);
    assert_eq!(checksum(&setup.main), sum);
    println!(
        "under fio: {there} extents there and {back} back in {swaps} swaps; fio made {total} I/Os, longest completion {longest:?}; \
         our own load {own}, longest {gap:?}; {:?}",
        begun.elapsed()
    );
    assert!(longest < live::LONGEST_GAP && gap < live::LONGEST_GAP);
}

/// Of a whole device.
fn checksum(path: &Path) -> String {
    let out = must("sh", &["-c", &format!("blockdev --flushbufs {0}; sha256sum <{0}", path.display())]);
    out.split_whitespace().next().unwrap().to_string()
}

#[test]
fn extents_move_under_a_filesystem() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    let setup = Setup::create("fiofs", disk(3), vec![disk(1), disk(2)]);
    let node = setup.node();
    let node = node.to_str().unwrap();
    must("mkfs.ext4", &["-q", "-F", node]);
    std::fs::create_dir_all("/tmp/mnt").unwrap();
    must("mount", &[node, "/tmp/mnt"]);
    let options = ["--size=16m", "--ioengine=psync", "--fsync=16", "--fallocate=none"];
    let mut fio = Fio::start("fs", "/tmp/mnt/file", &options, 600);
    std::thread::sleep(Duration::from_secs(1));
    let (there, back, swaps) = move_extents(&setup, setup.sectors, 100, 49, || fio.runs());
    let (total, longest) = fio.interrupt();
    must("umount", &["/tmp/mnt"]);
    must("e2fsck", &["-fn", node]);
    println!(
        "under ext4: {there} extents there and {back} back in {swaps} swaps; fio made {total} I/Os, longest completion \
         {longest:?}; {:?}",
        begun.elapsed()
    );
    assert!(longest < live::LONGEST_GAP);
    setup.destroy();
    // Main by itself is whole: nothing of the filesystem stayed on the spares.
    must("e2fsck", &["-fn", Path::new(&setup.main).to_str().unwrap()]);
}
