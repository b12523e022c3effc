//! A commit that fails or is cut off leaves one whole group of copies on every spare.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

#[path = "format_support/mod.rs"]
mod support;

use dm_remap::block::ram::{Bad, Power, RamDisk};
use dm_remap::format::copy::{Encoded, encode};
use dm_remap::format::metadata::Metadata;
use dm_remap::format::{COMMIT_GROUP_A, COMMIT_GROUP_B, COPY_STARTS, DATA_START};
use dm_remap::store::{Commit, CommitTarget, SpareReading, erase_copies, read_copies};
use dm_remap::units::Sectors;
use nix::errno::Errno;
use std::sync::Arc;
use support::{blank_spare, commit, metadata, range, spare_with, valid};

fn two_generations() -> (Metadata, Encoded, Encoded) {
    let old = metadata(1, 2);
    let encoded = encode(&old).unwrap();
    let mut next = old.next(1_700_000_100, encoded.digest());
    support::scatter(&mut next, 20, 1);
    (old, encoded, encode(&next).unwrap())
}

/// The generation of each copy that is valid.
fn generations(reading: &SpareReading) -> Vec<Option<u64>> {
    let of = |v| valid(v).map(|copy| copy.metadata.generation);
    reading.verdicts.iter().map(of).collect()
}

fn whole(found: &[Option<u64>], group: &[usize]) -> bool {
    let first = found[group[0]];
    first.is_some() && group.iter().all(|index| found[*index] == first)
}

#[test]
fn a_commit_writes_the_five_copies_and_nothing_else() {
    let (old, encoded, _) = two_generations();
    let disk = blank_spare();
    let report = commit(&disk, old.spares[0].uuid, &encoded);
    assert!(report.complete() && report.stands());
    assert_eq!(disk.pending(), 0);
    let sectors = encoded.len() as u64 / 512;
    let mut written: Vec<u64> = disk.image().into_keys().collect();
    written.sort_unstable();
    let expected: Vec<u64> = COPY_STARTS.iter().flat_map(|start| start.0..start.0 + sectors).collect();
    assert_eq!(written, expected);
}

#[test]
fn a_spare_that_fails_once_keeps_a_whole_group_whichever_request_fails() {
    let (old, first, second) = two_generations();
    let spare = old.spares[0].uuid;
    // Three writes, a flush, two writes, a flush. Only a failed first flush leaves nothing of the new generation, and
    // then the second group must not be touched; after a failed write of one copy the rest must still be written, or a
    // single bad sector under a copy would end the spare.
    for failing in 0..7 {
        let disk = blank_spare();
        commit(&disk, spare, &first);
        disk.fail_operations(failing, 1, Errno::EIO);
        let report = commit(&disk, spare, &second);
        let state = report.target(0).unwrap();
        assert!(state.error.is_some());
        assert_eq!(report.stands(), failing != 3, "{failing}");
        let durable = spare_with(disk.after_power_cut(|_| false));
        let live = spare_with(disk.image());
        for found in [durable, live].map(|d| generations(&read_copies(&d, Default::default()))) {
            let (safe, generation) = match failing {
                0..=2 => (&COMMIT_GROUP_B[..], 2),
                3 => (&COMMIT_GROUP_B[..], 1),
                _ => (&COMMIT_GROUP_A[..], 2),
            };
            assert!(whole(&found, safe), "request {failing}: {found:?}");
            assert_eq!(found[safe[0]], Some(generation), "request {failing}: {found:?}");
        }
    }
}

#[test]
fn a_power_cut_at_any_request_leaves_a_whole_group_and_one_of_the_two_generations() {
    let (old, first, second) = two_generations();
    let spare = old.spares[0].uuid;
    for cut in 0..8 {
        let before = blank_spare();
        commit(&before, spare, &first);
        let disk = Arc::new(RamDisk::from_image(
            "spare",
            Sectors(support::SPARE_SIZE),
            Sectors(8),
            Power::cut_at(cut),
            before.image(),
        ));
        let report = commit(&disk, spare, &second);
        assert_eq!(report.complete(), cut == 7);
        for seed in 0..40 {
            let mut random = support::Random::new(cut * 100 + seed);
            let after = match seed {
                0 => disk.after_power_cut(|_| false),
                1 => disk.after_power_cut(|_| true),
                _ => disk.after_power_cut(|_| random.below(2) == 0),
            };
            let reading = read_copies(&spare_with(after), Default::default());
            let found = generations(&reading);
            assert!(whole(&found, &COMMIT_GROUP_A) || whole(&found, &COMMIT_GROUP_B), "{found:?}");
            let chosen = reading.choose().unwrap();
            let generation = chosen.copy.metadata.generation;
            assert!(generation == 2 || (generation == 1 && !report.stands()), "{cut} {found:?}");
        }
    }
}

#[test]
fn one_failing_spare_does_not_stop_the_others() {
    let (old, first, second) = two_generations();
    for bad in COPY_STARTS {
        let disks = [blank_spare(), blank_spare()];
        let targets: Vec<CommitTarget> = (0..2)
            .map(|n| CommitTarget { disk: disks[n].clone(), uuid: old.spares[n].uuid, data_start: DATA_START })
            .collect();
        assert!(Commit::new(targets.clone(), first.clone()).run().complete());
        disks[0].set_bad(range(bad.0 + 3, 1), Bad::ReadsAndWrites(Errno::EIO));
        let report = Commit::new(targets, second.clone()).run();
        assert!(report.stands() && !report.complete());
        assert_eq!(report.target(1).unwrap().error, None);
        assert_eq!(report.first_error().unwrap().start, bad);
        let other = read_copies(&*disks[1], Default::default()).choose().unwrap();
        assert_eq!(other.copy.metadata.generation, 2);
        assert_eq!(other.current.len(), 5);
    }
}

#[test]
fn a_commit_that_is_run_again_heals_the_spare() {
    let (old, first, second) = two_generations();
    let disk = blank_spare();
    commit(&disk, old.spares[0].uuid, &first);
    let target = CommitTarget { disk: disk.clone(), uuid: old.spares[0].uuid, data_start: DATA_START };
    disk.fail_operations(3, 1, Errno::EIO);
    let mut both = Commit::new(vec![target], second);
    assert!(!both.run().stands());
    assert!(both.run().complete());
    let chosen = read_copies(&*disk, Default::default()).choose().unwrap();
    assert_eq!(chosen.current, [0, 1, 2, 3, 4]);
    assert_eq!(chosen.copy.metadata.generation, 2);
}

#[test]
fn reading_writes_nothing_and_erased_copies_leave_no_trace() {
    let (old, first, _) = two_generations();
    let disk = blank_spare();
    commit(&disk, old.spares[0].uuid, &first);
    let before = disk.image();
    let reading = read_copies(&*disk, Default::default());
    assert!(reading.has_traces());
    assert_eq!((disk.image() == before, disk.pending()), (true, 0));
    // A write that fails does not keep the other copies from being erased.
    disk.fail_operations(1, 1, Errno::EIO);
    assert!(erase_copies(&*disk).is_err());
    let found = generations(&read_copies(&*disk, Default::default()));
    assert_eq!(found, [None, Some(1), None, None, None]);
    erase_copies(&*disk).unwrap();
    assert!(!read_copies(&*disk, Default::default()).has_traces());
}
