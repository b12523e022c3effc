//! A commit to sixteen real devices at once: all copies are right, and a fault on one leaves the others alone.
// guest: --disk 16M --timeout 300
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

#[path = "format_support/mod.rs"]
mod format;
mod guest_support;

use dm_remap::block::buffer::AlignedBuffer;
use dm_remap::block::direct::{DirectDisk, Mode};
use dm_remap::block::host::Host;
use dm_remap::block::{Disk, Operation};
use dm_remap::format::copy::encode;
use dm_remap::format::metadata::Metadata;
use dm_remap::format::{COPY_STARTS, DATA_START};
use dm_remap::store::{Commit, CommitTarget, read_copies};
use dm_remap::units::Sectors;
use guest_support::{Guest, sh};
use nix::errno::Errno;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const SPARES: usize = 16;

/// Contexts of AIO on this machine, in requests; `None` without AIO.
fn in_use() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/aio-nr").ok()?.trim().parse().ok()
}

fn open(path: &str) -> Arc<dyn Disk> {
    let device = Host::real().device(Path::new(path)).unwrap();
    Arc::new(DirectDisk::open_device(&device, Mode::ReadWrite).unwrap())
}

fn targets(metadata: &Metadata, paths: &[String]) -> Vec<CommitTarget> {
    let pairs = metadata.spares.iter().zip(paths);
    pairs.map(|(spare, path)| CommitTarget { disk: open(path), uuid: spare.uuid, data_start: DATA_START }).collect()
}

/// The generations of a spare's copies.
fn generations(target: &CommitTarget) -> Vec<Option<u64>> {
    let reading = read_copies(&*target.disk, Default::default());
    reading.verdicts.iter().map(|v| format::valid(v).map(|copy| copy.metadata.generation)).collect()
}

/// Sixteen loop devices, and metadata for them with so many extents.
fn begin(extents: u64) -> Option<(Guest, Metadata, Vec<String>)> {
    let guest = Guest::begin()?;
    let paths = (0..SPARES).map(|_| guest.loop_device("8M", "")).collect();
    let mut metadata = format::metadata(1, SPARES as u8);
    format::scatter(&mut metadata, extents, 7);
    Some((guest, metadata, paths))
}

#[test]
fn sixteen_spares_take_a_commit_at_once() {
    let Some((_guest, metadata, paths)) = begin(3000) else { return };
    let before = in_use();
    let first = encode(&metadata).unwrap();
    assert!(first.len() > 8192, "a body beside the head");
    let mut commit = Commit::new(targets(&metadata, &paths), first.clone());
    match before {
        Some(before) => assert!(in_use() > Some(before), "the kernel has AIO, and it is not used"),
        None => println!("this kernel has no AIO: one after the other"),
    }
    for _ in 0..2 {
        let report = commit.run();
        assert!(report.complete() && report.stands(), "{:?}", report.first_error());
    }
    drop(commit);
    assert_eq!(in_use(), before, "a context was left");
    for target in targets(&metadata, &paths) {
        assert_eq!(generations(&target), [Some(1); 5], "{:?}", target.disk);
    }
    // The same bytes as one after the other.
    let len = first.len();
    let contents = || -> Vec<Vec<u8>> {
        let read = |(target, start): (&CommitTarget, Sectors)| {
            let mut copy = AlignedBuffer::new(len);
            target.disk.read(start, &mut copy).unwrap();
            copy.to_vec()
        };
        let targets = targets(&metadata, &paths);
        targets.iter().flat_map(|target| COPY_STARTS.map(|start| read((target, start)))).collect()
    };
    let before = contents();
    assert!(Commit::one_after_the_other(targets(&metadata, &paths), first).run().complete());
    assert!(contents() == before);
}

#[test]
fn faults_on_one_spare_leave_the_others_alone() {
    let Some((_guest, metadata, mut paths)) = begin(3000) else { return };
    let first = encode(&metadata).unwrap();
    assert!(Commit::new(targets(&metadata, &paths), first.clone()).run().complete());
    let mut next = metadata.next(1_700_000_100, first.digest());
    // Under one copy of one spare, and a spare of which nothing can be written.
    let spare = paths[5].clone();
    sh(&format!(
        "printf '0 1024 linear {spare} 0\\n1024 8 error\\n1032 15352 linear {spare} 1032\\n' | dmsetup create hole && \
         dmsetup mknodes && echo '0 16384 error' | dmsetup create dead && dmsetup mknodes"
    ));
    paths[5] = "/dev/mapper/hole".into();
    paths[9] = "/dev/mapper/dead".into();
    let targets = targets(&metadata, &paths);
    let encoded = encode(&next).unwrap();
    let report = Commit::new(targets.clone(), encoded).run();
    assert!(report.stands() && !report.complete());
    for (number, target) in targets.iter().enumerate() {
        let state = report.target(number).unwrap();
        match number {
            5 => {
                let error = state.error.as_ref().unwrap();
                assert_eq!((error.operation, error.start, error.errno), (Operation::Write, COPY_STARTS[1], Errno::EIO));
                assert!(error.device.contains("hole") && error.len > Sectors(8), "{error}");
                assert_eq!(state.durable, [true, false, true, true, true]);
                assert_eq!(generations(target), [Some(2), None, Some(2), Some(2), Some(2)]);
            }
            9 => {
                assert_eq!((state.durable, state.error.as_ref().unwrap().errno), ([false; 5], Errno::EIO));
            }
            _ => {
                assert_eq!((state.durable, &state.error), ([true; 5], &None));
                assert_eq!(generations(target), [Some(2); 5]);
            }
        }
    }
    next.generation = 3;
    drop(targets);
    sh("dmsetup remove --retry hole; dmsetup remove --retry dead");
}

/// By hand: how long a commit takes when each write and each flush of a spare takes 20 ms.
#[test]
#[ignore = "a measurement"]
fn one_after_the_other_against_all_at_once() {
    for extents in [100, 3000] {
        let Some((_guest, metadata, mut paths)) = begin(extents) else { return };
        for (number, path) in paths.iter_mut().enumerate() {
            sh(&format!(
                "echo '0 16384 delay {path} 0 0 {path} 0 20 {path} 0 20' | dmsetup create slow{number} && dmsetup mknodes"
            ));
            *path = format!("/dev/mapper/slow{number}");
        }
        let encoded = encode(&metadata).unwrap();
        let bytes = encoded.len();
        for spares in [1, 4, 16] {
            let time = |mut commit: Commit| {
                let begun = Instant::now();
                assert!(commit.run().complete());
                let took = begun.elapsed();
                let begun = Instant::now();
                drop(commit);
                (took, begun.elapsed())
            };
            let all = || targets(&metadata, &paths[..spares]);
            let (slow, _) = time(Commit::one_after_the_other(all(), encoded.clone()));
            let begun = Instant::now();
            let commit = Commit::new(all(), encoded.clone());
            let made = begun.elapsed();
            let (fast, dropped) = time(commit);
            println!(
                "{spares} spares, {bytes} bytes: {slow:?} one after the other, {fast:?} at once (made in {made:?}, dropped in {dropped:?})"
            );
        }
        sh("for n in $(seq 0 15); do dmsetup remove --retry slow$n; done");
    }
}
