//! Every allocation policy keeps its promise, neighbours stay together, and a request of many ranges is all or nothing.

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

use dm_remap::format::DATA_START;
use dm_remap::format::copy::encode;
use dm_remap::format::metadata::{AllocationPolicy, Metadata, Policy, SpareState};
use dm_remap::map::{Map, Slot, SpareIndex};
use dm_remap::pool::{Allocation, Available, Pool, Scores, recorded_scores};
use dm_remap::units::{Range, Sectors};
use proptest::prelude::*;
use support::{metadata, range, slot};

const DATA: u64 = DATA_START.0;
const UNIT: u64 = 8;

/// A setup with spares of so many units, all free.
fn setup(policy: AllocationPolicy, units: &[u64]) -> Metadata {
    let mut setup = metadata(1, units.len() as u8);
    setup.config.policy.allocation = policy;
    for (record, units) in setup.spares.iter_mut().zip(units) {
        record.identity.size = Sectors(DATA + units * UNIT);
    }
    setup
}

/// Marks units of a spare as bad.
fn bad(setup: &mut Metadata, spare: u8, units: &[u64]) {
    let runs = setup.bad_blocks.entry(SpareIndex(spare)).or_default();
    runs.extend(units.iter().map(|unit| range(DATA + unit * UNIT, 1)));
    runs.sort_unstable();
}

/// Spare and unit of a slot.
fn place(slot: Slot) -> (u8, u64) {
    assert!((slot.start.0 - DATA).is_multiple_of(UNIT));
    (slot.spare.0, (slot.start.0 - DATA) / UNIT)
}

/// Places of one request.
fn places(pool: &mut Pool<'_>, ranges: &[(u64, u64)]) -> Vec<(u8, u64)> {
    let ranges: Vec<Range> = ranges.iter().map(|(at, len)| range(at * UNIT, len * UNIT)).collect();
    pool.allocate_all(&ranges).unwrap().iter().map(|a| place(a.slot)).collect()
}

#[test]
fn first_fit_takes_the_first_spare_and_best_fit_the_smallest_run() {
    // Spare 0: runs of 20 and 5 units, spare 1: of 4 and 9.
    let make = |policy| {
        let mut setup = setup(policy, &[26, 14]);
        bad(&mut setup, 0, &[20]);
        bad(&mut setup, 1, &[4]);
        setup
    };
    let first = make(AllocationPolicy::FirstFit);
    let mut pool = Pool::new(&first, |_| true);
    assert_eq!([4, 4].map(|len| places(&mut pool, &[(len * 100, len)])), [[(0, 0)], [(0, 4)]]);
    let best = make(AllocationPolicy::BestFit);
    let mut pool = Pool::new(&best, |_| true);
    let got = [(100, 4), (200, 5), (300, 6), (400, 3)];
    let got = got.map(|request| places(&mut pool, &[request]));
    assert_eq!(got, [[(1, 0)], [(0, 21)], [(1, 5)], [(1, 11)]]);
    // In pieces: the longest run, and for the rest the smallest that fits.
    assert_eq!(places(&mut Pool::new(&best, |_| true), &[(100, 22)]), [(0, 0), (1, 0)]);
}

#[test]
fn round_robin_goes_on_where_the_last_command_left_off() {
    let mut setup = setup(AllocationPolicy::RoundRobin, &[40, 40, 40]);
    for n in 0..6u64 {
        let parts = Pool::new(&setup, |_| true).allocate(range(n * 80, UNIT)).unwrap();
        let again = Pool::new(&setup, |_| true).allocate(range(n * 80, UNIT)).unwrap();
        assert_eq!(parts, again, "it must follow from the metadata");
        assert_eq!(u64::from(parts[0].slot.spare.0), n % 3);
        setup.map.insert(parts[0].range, parts[0].slot).unwrap();
        setup.health.splices += 1;
    }
    let mut pool = Pool::new(&setup, |_| true);
    let spares = [0, 1, 2].map(|n| places(&mut pool, &[(1000 + n * 10, 1)])[0].0);
    assert_eq!(spares, [0, 1, 2], "requests of one pool take turns, too");
    // A spare that is full is passed over.
    setup.spares[0].identity.size = Sectors(DATA + 16);
    assert_eq!(places(&mut Pool::new(&setup, |_| true), &[(2000, 4)]), [(1, 2)]);
}

#[test]
fn least_used_goes_by_the_share_and_not_by_the_sectors() {
    let mut setup = setup(AllocationPolicy::LeastUsed, &[100, 10]);
    setup.map.insert(range(0, 30 * UNIT), slot(0, DATA)).unwrap();
    // 70 of 100 against 10 of 10, then 9 of 10, 8, 7 (equal: the first).
    let mut pool = Pool::new(&setup, |_| true);
    let spares = [0, 1, 2, 3].map(|n| places(&mut pool, &[(1000 + n * 10, 1)])[0].0);
    assert_eq!(spares, [1, 1, 1, 0]);
}

#[test]
fn health_goes_by_bad_sectors_and_by_scores_that_are_handed_in() {
    let mut setup = setup(AllocationPolicy::Health, &[40, 40, 40]);
    bad(&mut setup, 0, &[1, 2]);
    bad(&mut setup, 1, &[30]);
    bad(&mut setup, 2, &[30, 31, 32]);
    setup.spares[2].state = SpareState::Failed;
    let scores: Vec<u8> = recorded_scores(&setup).into_values().collect();
    assert_eq!(scores, [80, 90, 0]);
    assert_eq!(places(&mut Pool::new(&setup, |_| true), &[(1000, 1)]), [(1, 0)]);
    let handed: Scores = [(SpareIndex(0), 50), (SpareIndex(1), 49)].into();
    assert_eq!(places(&mut Pool::new(&setup, Disks(handed)), &[(1000, 1)]), [(0, 0)]);
    // Among equals the one with more room.
    let equal: Scores = [(SpareIndex(0), 50), (SpareIndex(1), 50)].into();
    assert_eq!(places(&mut Pool::new(&setup, Disks(equal)), &[(1000, 1)]), [(1, 0)]);
    bad(&mut setup, 1, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    setup.bad_blocks.entry(SpareIndex(0)).or_default().push(range(DATA + 200, 5_000_000));
    assert_eq!(recorded_scores(&setup)[&SpareIndex(1)], 50);
    assert_eq!(recorded_scores(&setup)[&SpareIndex(0)], 0);
}

/// Spares that are all there, on disks with these scores.
struct Disks(Scores);

impl Available for Disks {
    fn is_usable(&self, _: SpareIndex) -> bool {
        true
    }
    fn disk_score(&self, spare: SpareIndex) -> Option<u8> {
        self.0.get(&spare).copied()
    }
}

#[test]
fn health_goes_by_the_disks_too_and_leaves_neighbours_where_a_disk_is_far_worse() {
    let mut setup = setup(AllocationPolicy::Health, &[40, 40, 40]);
    bad(&mut setup, 1, &[30]);
    let disks = |scores: [u8; 2]| Disks([(SpareIndex(0), scores[0]), (SpareIndex(1), scores[1])].into());
    // Of spare 2 nothing is known, which is no reason against it.
    assert_eq!(places(&mut Pool::new(&setup, disks([40, 100])), &[(1000, 1)]), [(2, 0)]);
    assert_eq!(places(&mut Pool::new(&setup, disks([95, 100])), &[(1000, 1)]), [(2, 0)]);
    let known = |scores: [u8; 3]| Disks((0u8..).map(SpareIndex).zip(scores).collect());
    assert_eq!(
        places(&mut Pool::new(&setup, known([95, 100, 80])), &[(1000, 1)]),
        [(0, 0)],
        "spare 1 has a bad sector: 90"
    );
    setup.map.insert(range(0, UNIT), slot(0, DATA)).unwrap();
    let beside = |scores| places(&mut Pool::new(&setup, known(scores)), &[(1, 1)]);
    assert_eq!(beside([80, 100, 100]), [(0, 1)], "a little worse: neighbours stay together");
    assert_eq!(beside([79, 85, 100]), [(2, 0)]);
    // Where no other has room it stays the best there is.
    let full = setup.spares.iter_mut().skip(1);
    full.for_each(|spare| spare.identity.size = spare.data_start);
    assert_eq!(places(&mut Pool::new(&setup, known([5, 100, 100])), &[(1, 1)]), [(0, 1)]);
}

#[test]
fn neighbours_are_put_beside_each_other_whatever_the_policy() {
    use AllocationPolicy::{BestFit, FirstFit, Health, LeastUsed, RoundRobin};
    for policy in [FirstFit, BestFit, RoundRobin, LeastUsed, Health] {
        let mut setup = setup(policy, &[40, 40]);
        setup.map.insert(range(100 * UNIT, 2 * UNIT), slot(1, DATA + 20 * UNIT)).unwrap();
        let mut pool = Pool::new(&setup, |_| true);
        assert_eq!(places(&mut pool, &[(98, 2), (102, 3)]), [(1, 18), (1, 22)], "{policy:?}");
        // What was just given out counts as well.
        assert_eq!(places(&mut pool, &[(105, 1)]), [(1, 25)], "{policy:?}");
        let parts = pool.allocate(range(95 * UNIT, 3 * UNIT)).unwrap();
        assert_eq!(place(parts[0].slot), (1, 15), "{policy:?}");
        // Not where the place is taken.
        setup.map.insert(range(300 * UNIT, UNIT), slot(1, DATA + 22 * UNIT)).unwrap();
        assert_ne!(places(&mut Pool::new(&setup, |_| true), &[(102, 1)]), [(1, 22)], "{policy:?}");
    }
}

#[test]
fn the_ranges_of_one_request_follow_each_other() {
    use AllocationPolicy::{BestFit, FirstFit, Health, LeastUsed, RoundRobin};
    for policy in [FirstFit, BestFit, RoundRobin, LeastUsed, Health] {
        let mut setup = setup(policy, &[40, 40]);
        bad(&mut setup, 0, &[1, 3, 5]);
        bad(&mut setup, 1, &[1, 3, 5]);
        let got = places(&mut Pool::new(&setup, |_| true), &[(10, 1), (20, 2), (30, 1), (40, 3)]);
        let (spare, first) = got[0];
        assert_eq!(got, [(spare, first), (spare, first + 1), (spare, first + 3), (spare, first + 4)], "{policy:?}");
        assert_eq!(first, 6, "{policy:?}: the run with room for all");
    }
}

#[test]
fn the_choice_is_kept_and_what_is_older_encodes_to_the_same_bytes() {
    let default = serde_json::to_string(&Policy::default()).unwrap();
    assert_eq!(default, r#"{"unreadable":"hold"}"#);
    let mut setup = setup(AllocationPolicy::RoundRobin, &[40]);
    let copy = encode(&setup).unwrap();
    let json = serde_json::to_string(&setup.config.policy).unwrap();
    assert_eq!(json, r#"{"unreadable":"hold","allocation":"round-robin"}"#);
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), setup.config.policy);
    setup.config.policy.allocation = AllocationPolicy::FirstFit;
    assert_ne!(copy.digest(), encode(&setup).unwrap().digest());
}

/// Units that are free on each spare.
fn free_units(setup: &Metadata) -> Vec<Vec<bool>> {
    let mut free: Vec<Vec<bool>> =
        setup.spares.iter().map(|s| vec![true; ((s.identity.size.0 - DATA) / UNIT) as usize]).collect();
    for (spare, runs) in &setup.bad_blocks {
        for run in runs {
            free[spare.as_usize()][((run.start().0 - DATA) / UNIT) as usize] = false;
        }
    }
    for extent in setup.map.extents() {
        for n in 0..extent.range.len().0.div_ceil(UNIT) {
            free[extent.slot.spare.as_usize()][((extent.slot.start.0 - DATA) / UNIT + n) as usize] = false;
        }
    }
    free
}

/// Runs of free units: spare, first, length.
fn runs(free: &[Vec<bool>]) -> Vec<(u8, u64, u64)> {
    let mut out = Vec::new();
    for (spare, units) in (0u8..).zip(free) {
        let mut at = 0;
        for group in units.chunk_by(|a, b| a == b) {
            if group[0] {
                out.push((spare, at, group.len() as u64));
            }
            at += group.len() as u64;
        }
    }
    out
}

fn share(free: &[Vec<bool>], spare: u8) -> (u64, u64) {
    let units = &free[usize::from(spare)];
    (units.iter().filter(|f| **f).count() as u64, units.len() as u64)
}

#[derive(Clone, Debug)]
struct Case {
    setup: Metadata,
    /// Unit and length of each range of each request; no two neighbour each other or an extent.
    requests: Vec<Vec<Range>>,
}

fn cases() -> impl Strategy<Value = Case> {
    use AllocationPolicy::{BestFit, FirstFit, Health, LeastUsed, RoundRobin};
    let policy = prop::sample::select(vec![FirstFit, BestFit, RoundRobin, LeastUsed, Health]);
    let spares = prop::collection::vec(1u64..60, 1..=6);
    let bad_units = prop::collection::vec((0usize..6, 0u64..60), 0..30);
    let extents = prop::collection::vec((0u64..100, 1u64..4, 0usize..6, 0u64..60), 0..20);
    let requests = prop::collection::vec(prop::collection::vec(1u64..9, 1..6), 1..12);
    (policy, spares, bad_units, extents, requests, 0u64..9).prop_map(
        |(policy, spares, bad_units, extents, lengths, splices)| {
            let mut setup = setup(policy, &spares);
            setup.health.splices = splices;
            setup.map = Map::new(setup.config.main.size, Sectors(UNIT)).unwrap();
            for (spare, unit) in bad_units {
                let spare = spare % spares.len();
                if unit < spares[spare] {
                    bad(&mut setup, spare as u8, &[unit]);
                }
            }
            for (at, len, spare, unit) in extents {
                let spare = (spare % spares.len()) as u8;
                let before = setup.clone();
                let to = slot(spare, DATA + unit * UNIT);
                let _ = setup.map.insert(range(at * 5 * UNIT, len * UNIT), to);
                if setup.check().is_err() {
                    setup = before;
                }
            }
            let mut at = 1000;
            let requests = lengths.into_iter().map(|lens| {
                let mut next = |len: u64| {
                    at += len + 2;
                    range((at - len) * UNIT, len * UNIT)
                };
                lens.into_iter().map(&mut next).collect()
            });
            Case { requests: requests.collect(), setup }
        },
    )
}

/// Whether the place of a single range in one piece is what the policy promises.
fn keeps_its_promise(setup: &Metadata, free: &[Vec<bool>], turn: u64, len: u64, got: (u8, u64)) -> Result<(), String> {
    let fitting: Vec<(u8, u64, u64)> = runs(free).into_iter().filter(|run| run.2 >= len).collect();
    let run = fitting.iter().find(|r| (r.0, r.1) == got).ok_or(format!("{got:?} begins no run that fits"))?;
    let spares: Vec<u8> = fitting.iter().map(|r| r.0).collect();
    let count = setup.spares.len() as u64;
    let scores = recorded_scores(setup);
    let better = |a: u8, b: u8| {
        let ((free_a, all_a), (free_b, all_b)) = (share(free, a), share(free, b));
        let score = |s: u8| scores[&SpareIndex(s)];
        match setup.config.policy.allocation {
            AllocationPolicy::FirstFit => a < b,
            AllocationPolicy::BestFit => false,
            AllocationPolicy::RoundRobin => {
                let rank = |s: u8| (u64::from(s) + count - turn % count) % count;
                rank(a) < rank(b)
            }
            AllocationPolicy::LeastUsed => free_a * all_b > free_b * all_a,
            AllocationPolicy::Health => {
                score(a) > score(b) || (score(a) == score(b) && free_a * all_b > free_b * all_a)
            }
        }
    };
    if let Some(other) = spares.iter().find(|s| better(**s, got.0)) {
        return Err(format!("spare {other} comes before {}", got.0));
    }
    if setup.config.policy.allocation == AllocationPolicy::BestFit {
        let smallest = fitting.iter().map(|r| r.2).min();
        return (smallest == Some(run.2)).then_some(()).ok_or(format!("{run:?}, and there is {smallest:?}"));
    }
    let lowest = fitting.iter().filter(|r| r.0 == got.0).map(|r| r.1).min();
    (lowest == Some(got.1)).then_some(()).ok_or(format!("{got:?} is not the lowest place"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_policy_keeps_its_promise_and_takes_nothing_that_is_not_free(case in cases()) {
        let Case { setup, requests } = case;
        let mut free = free_units(&setup);
        let mut pool = Pool::new(&setup, |_| true);
        let mut turn = setup.health.splices;
        for request in requests {
            let units: u64 = request.iter().map(|r| r.len().0 / UNIT).sum();
            let total: u64 = runs(&free).iter().map(|r| r.2).sum();
            prop_assert_eq!(pool.free().0, total * UNIT);
            prop_assert_eq!(pool.longest_free().0, runs(&free).iter().map(|r| r.2).max().unwrap_or(0) * UNIT);
            let before = format!("{pool:?}");
            let parts: Vec<Allocation> = match pool.allocate_all(&request) {
                Ok(parts) => parts,
                Err(full) => {
                    prop_assert!(units > total && full.free.0 == total * UNIT);
                    prop_assert_eq!(format!("{:?}", pool), before);
                    continue;
                }
            };
            prop_assert!(units <= total);
            // In order, all of it and nothing else.
            let mut pieces = parts.iter().flat_map(|part| part.range.chunks(Sectors(UNIT)));
            let mut wanted = request.iter().flat_map(|range| range.chunks(Sectors(UNIT)));
            prop_assert!(pieces.by_ref().eq(wanted.by_ref()));
            let whole = runs(&free).iter().any(|run| run.2 >= units);
            if whole {
                let result = keeps_its_promise(&setup, &free, turn, units, place(parts[0].slot));
                prop_assert!(result.is_ok(), "{:?}: {:?}", setup.config.policy.allocation, result);
                let slots: Vec<u64> = parts.iter().map(|part| part.slot.start.0).collect();
                let mut at = slots[0];
                for part in &parts {
                    prop_assert_eq!(part.slot, Slot { start: Sectors(at), ..parts[0].slot });
                    at += part.range.len().0;
                }
            } else if let Some(part) = parts.first().filter(|part| part.range == request[0]) {
                let result = keeps_its_promise(&setup, &free, turn, part.range.len().0 / UNIT, place(part.slot));
                prop_assert!(result.is_ok(), "{:?}: {:?}", setup.config.policy.allocation, result);
            }
            for part in &parts {
                let (spare, first) = place(part.slot);
                for unit in first..first + part.range.len().0 / UNIT {
                    let unit = &mut free[usize::from(spare)][unit as usize];
                    prop_assert!(*unit, "{:?} is not free", part);
                    *unit = false;
                }
            }
            turn += 1;
        }
    }
}
