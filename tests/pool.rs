//! The pool: no slot touches what it must not, nothing is taken when there is not enough, and it is fast.

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
use dm_remap::format::metadata::UnreadablePolicy::Hold;
use dm_remap::format::metadata::{Metadata, SpareState};
use dm_remap::map::{Map, Slot, SpareIndex};
use dm_remap::plan::Refusal;
use dm_remap::plan::moves::{Home, apply, bad_blocks_with, plan_evacuate};
use dm_remap::pool::{Allocation, Pool};
use dm_remap::units::{Range, Sectors};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use support::{metadata, range, slot};

const DATA: u64 = DATA_START.0;

/// A setup with spares of the given sizes, and units of `unit` sectors.
fn setup(sizes: &[u64], unit: u64) -> Metadata {
    let mut setup = metadata(1, sizes.len() as u8);
    setup.map = Map::new(setup.config.main.size, Sectors(unit)).unwrap();
    for (record, size) in setup.spares.iter_mut().zip(sizes) {
        record.identity.size = Sectors(*size);
    }
    setup
}

/// What no slot may touch, sector by sector, found in the plainest way.
fn forbidden(metadata: &Metadata, spare: u8) -> BTreeSet<u64> {
    let record = &metadata.spares[usize::from(spare)];
    let unit = metadata.map.unit().0;
    let mut out: BTreeSet<u64> = (0..record.data_start.0).collect();
    for bad in metadata.bad_blocks.get(&SpareIndex(spare)).into_iter().flatten() {
        out.extend(bad.start().0..bad.end().0);
    }
    for extent in metadata.map.extents().filter(|e| e.slot.spare.0 == spare) {
        let len = extent.range.len().0.div_ceil(unit) * unit;
        out.extend(extent.slot.start.0..extent.slot.start.0 + len);
    }
    out
}

/// Units that could be taken on a spare, found in the plainest way.
fn free_units(metadata: &Metadata, spare: u8) -> BTreeSet<u64> {
    let record = &metadata.spares[usize::from(spare)];
    let unit = metadata.map.unit().0;
    let taken = forbidden(metadata, spare);
    (0..record.identity.size.0 / unit)
        .filter(|n| (n * unit..(n + 1) * unit).all(|sector| !taken.contains(&sector)))
        .collect()
}

/// The longest run of units.
fn longest(units: &BTreeSet<u64>) -> u64 {
    let (mut best, mut run, mut before) = (0, 0, None);
    for unit in units {
        run = if before == unit.checked_sub(1) && before.is_some() { run + 1 } else { 1 };
        before = Some(*unit);
        best = best.max(run);
    }
    best
}

/// The pieces follow each other and cover the request.
fn assert_covers(parts: &[Allocation], wanted: Range) {
    let mut at = wanted.start();
    for part in parts {
        assert_eq!(part.range.start(), at);
        at = part.range.end();
    }
    assert_eq!(at, wanted.end());
}

/// Where `wanted` would continue what is in the map or was given out, found in the plainest way.
fn beside(metadata: &Metadata, given: &[Allocation], wanted: Range) -> Vec<Slot> {
    let unit = metadata.map.unit().0;
    let len = wanted.len().0.div_ceil(unit) * unit;
    let known = metadata.map.extents().map(|e| (e.range, e.slot)).chain(given.iter().map(|a| (a.range, a.slot)));
    let mut out = Vec::new();
    for (range, slot) in known {
        if range.end() == wanted.start() {
            let start = Sectors(slot.start.0 + range.len().0);
            out.push(Slot { start, ..slot });
        }
        if range.start() == wanted.end() && slot.start.0 >= len {
            out.push(Slot { start: Sectors(slot.start.0 - len), ..slot });
        }
    }
    out
}

#[derive(Clone, Debug)]
struct Case {
    metadata: Metadata,
    requests: Vec<Range>,
}

fn cases() -> impl Strategy<Value = Case> {
    let spares = prop::collection::vec((0u64..700, 0u64..40, any::<bool>()), 1..=16);
    let extents = prop::collection::vec((0u64..400, 1u64..9, 0u8..16, 0u64..90), 0..60);
    let bad = prop::collection::vec((0u8..16, 0u64..11_200, 1u64..30), 0..30);
    let requests = prop::collection::vec((500u64..900, 1u64..20), 1..40);
    (spares, extents, bad, requests, 0u32..5, 0u64..16).prop_map(|(spares, extents, bad, requests, shift, tail)| {
        let unit = 1u64 << shift;
        let sizes: Vec<u64> = spares.iter().map(|s| DATA + s.0).collect();
        let mut metadata = setup(&sizes, unit);
        let main = Sectors(900 * unit + tail % unit);
        metadata.config.main.size = main;
        metadata.map = Map::new(main, Sectors(unit)).unwrap();
        for (record, (_, later, present)) in metadata.spares.iter_mut().zip(&spares) {
            record.data_start = Sectors(DATA + later);
            if !present {
                record.state = SpareState::Failed;
            }
        }
        for (start, len, spare, at) in extents {
            let spare = spare % sizes.len() as u8;
            let to = slot(spare, (DATA / unit + at) * unit);
            let before = metadata.clone();
            let _ = metadata.map.insert(range(start * unit, len * unit), to);
            if metadata.check().is_err() {
                metadata = before;
            }
        }
        for (spare, start, len) in bad {
            let spare = SpareIndex(spare % sizes.len() as u8);
            let runs = metadata.bad_blocks.entry(spare).or_default();
            runs.push(range(start, len));
        }
        let requests = requests
            .into_iter()
            .filter_map(|(start, len)| {
                let end = Sectors(((start + len) * unit).min(main.0));
                Range::between(Sectors(start * unit), end)
            })
            .collect();
        Case { metadata, requests }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn slots_touch_nothing_that_they_must_not_and_exhaustion_is_exact(case in cases()) {
        let Case { metadata, requests } = case;
        let unit = metadata.map.unit().0;
        let spares = 0..metadata.spares.len() as u8;
        let present = |s: u8| metadata.spares[usize::from(s)].state == SpareState::Present;
        let usable: Vec<u8> = spares.filter(|s| present(*s)).collect();
        let mut free: Vec<(u8, BTreeSet<u64>)> =
            usable.iter().map(|s| (*s, free_units(&metadata, *s))).collect();
        let mut pool = Pool::new(&metadata, |_| true);
        let mut given: Vec<Allocation> = Vec::new();
        for wanted in requests {
            let total: u64 = free.iter().map(|(_, units)| units.len() as u64).sum();
            prop_assert_eq!(pool.free(), Sectors(total * unit));
            for (spare, units) in &free {
                prop_assert_eq!(pool.free_on(SpareIndex(*spare)).0, units.len() as u64 * unit);
            }
            let units = wanted.len().0.div_ceil(unit);
            let fits_whole = free.iter().find(|(_, f)| longest(f) >= units).map(|(s, _)| *s);
            let beside = beside(&metadata, &given, wanted);
            match pool.allocate(wanted) {
                Ok(parts) => {
                    assert_covers(&parts, wanted);
                    prop_assert!(units <= total);
                    // One piece whenever that is possible, and then on the first spare that has room for it.
                    prop_assert_eq!(parts.len() == 1, fits_whole.is_some());
                    let kept_together = parts.len() == 1 && beside.contains(&parts[0].slot);
                    prop_assert!(kept_together || fits_whole.is_none_or(|s| parts[0].slot.spare.0 == s));
                    given.extend(parts.iter().copied());
                    for part in parts {
                        prop_assert!(part.slot.start.is_multiple_of(Sectors(unit)));
                        let first = part.slot.start.0 / unit;
                        let list = free.iter_mut().find(|(s, _)| *s == part.slot.spare.0);
                        let (_, list) = list.expect("a slot on a spare that is not in use");
                        for taken in first..first + part.range.len().0.div_ceil(unit) {
                            prop_assert!(list.remove(&taken), "unit {} is not free", taken);
                        }
                    }
                }
                Err(full) => {
                    prop_assert!(units > total);
                    prop_assert_eq!((full.range, full.free), (wanted, Sectors(total * unit)));
                }
            }
        }
    }

    #[test]
    fn what_the_pool_gives_can_be_inserted_and_encoded(case in cases()) {
        let Case { mut metadata, requests } = case;
        for wanted in requests {
            if metadata.map.extents_in(wanted).next().is_some() {
                continue;
            }
            // Built anew each time, as by one command after another.
            let Ok(parts) = Pool::new(&metadata, |_| true).allocate(wanted) else { continue };
            for part in parts {
                metadata.map.insert(part.range, part.slot).unwrap();
            }
            metadata.check().unwrap();
        }
        encode(&metadata).unwrap();
    }

    #[test]
    fn an_evacuation_moves_every_unit_that_touches_a_bad_sector_and_no_other(
        case in cases(),
        bad in prop::collection::vec((0u8..16, DATA..DATA + 700, 1u64..40), 0..12),
    ) {
        let metadata = case.metadata;
        let unit = metadata.map.unit();
        let mut on_spares: BTreeMap<SpareIndex, Vec<Range>> = BTreeMap::new();
        for (spare, start, len) in bad {
            let spare = spare % metadata.spares.len() as u8;
            let end = (start + len).min(metadata.spares[usize::from(spare)].identity.size.0);
            let run = Range::between(Sectors(start), Sectors(end));
            on_spares.entry(SpareIndex(spare)).or_default().extend(run);
        }
        let is_bad = |spare: SpareIndex, at: u64| {
            on_spares.get(&spare).into_iter().flatten().any(|run| run.contains(Sectors(at)))
        };
        // Units of main that must go, found in the plainest way.
        let mut leaving = BTreeSet::new();
        for extent in metadata.map.extents() {
            for part in extent.range.chunks(unit) {
                let slot = extent.clip(part).unwrap().slot;
                if (slot.start.0..slot.start.0 + part.len().0).any(|at| is_bad(slot.spare, at)) {
                    leaving.insert(part.start());
                }
            }
        }
        let plan = match plan_evacuate(&metadata, &on_spares, Hold, |_| true) {
            Ok(plan) => plan,
            Err(Refusal::NoFreeSlot { needed, free }) => {
                prop_assert!(needed > free, "{} needed, {} free", needed, free);
                return Ok(());
            }
            Err(other) => panic!("{other}"),
        };
        let moved: BTreeSet<Sectors> =
            plan.moves.iter().flat_map(|step| step.range.chunks(unit)).map(|part| part.start()).collect();
        prop_assert_eq!(&moved, &leaving);
        prop_assert!(plan.moves.windows(2).all(|w| w[0].range.end() <= w[1].range.start()));
        // The new slots are free of everything that is in use, was bad, or is known to be bad now.
        let bad_blocks = bad_blocks_with(&metadata, &on_spares).unwrap();
        let view = Metadata { bad_blocks, ..metadata.clone() };
        for step in &plan.moves {
            let (Home::Slot(from), Home::Slot(to)) = (step.from, step.to) else { panic!("{step}") };
            let old = metadata.map.extents_in(step.range).next().unwrap();
            prop_assert_eq!((old.range, old.slot), (step.range, from));
            let taken = forbidden(&view, to.spare.0);
            prop_assert!((to.start.0..to.start.0 + step.range.len().0).all(|at| !taken.contains(&at)));
            prop_assert_eq!(view.spares[to.spare.as_usize()].state, SpareState::Present);
        }
        // What it leads to is a right map that serves the same sectors.
        let map = apply(&view.map, &plan.moves, &[]).unwrap();
        let after = Metadata { map, ..view };
        after.check().unwrap();
        prop_assert_eq!(after.map.remapped(), metadata.map.remapped());
        prop_assert!(metadata.map.extents().all(|e| after.map.serves(e.range)));
        // Nothing is left to do.
        let again = plan_evacuate(&after, &on_spares, Hold, |_| true).unwrap();
        prop_assert!(again.moves.is_empty(), "{:?}", again.moves);
    }
}

#[test]
fn the_lowest_place_that_fits_is_taken() {
    let mut setup = setup(&[DATA + 800], 8);
    setup.map.insert(range(0, 8), slot(0, DATA + 16)).unwrap();
    setup.map.insert(range(8, 8), slot(0, DATA + 56)).unwrap();
    let mut pool = Pool::new(&setup, |_| true);
    let mut start = |len| pool.allocate(range(1000, len)).unwrap()[0].slot.start.0 - DATA;
    // Free: 0+16, 24+32, 64+736.
    assert_eq!([start(24), start(8), start(16), start(8)], [24, 0, 64, 8]);
}

#[test]
fn exhaustion_changes_nothing() {
    let setup = setup(&[DATA + 80, DATA + 80], 8);
    let mut pool = Pool::new(&setup, |_| true);
    pool.allocate(range(0, 72)).unwrap();
    let before = format!("{pool:?}");
    let full = pool.allocate(range(1000, 96)).unwrap_err();
    assert_eq!((full.free, full.range), (Sectors(88), range(1000, 96)));
    assert_eq!(format!("{pool:?}"), before);
    assert!(full.to_string().contains("88 sectors are free"));
    assert_eq!(pool.allocate(range(1000, 88)).unwrap().len(), 2);
    assert_eq!(pool.free(), Sectors(0));
    assert!(pool.allocate(range(0, 1)).is_err());
}

#[test]
fn sixteen_spares_are_filled_in_order_and_split_over_only_when_needed() {
    let setup = setup(&[DATA + 16; 16], 8);
    let mut pool = Pool::new(&setup, |_| true);
    for spare in 0..15 {
        let parts = pool.allocate(range(u64::from(spare) * 100 * 8, 16)).unwrap();
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].slot, slot(spare, DATA));
    }
    let mut pool = Pool::new(&setup, |_| true);
    let parts = pool.allocate(range(8, 256)).unwrap();
    assert_eq!(parts.len(), 16);
    assert_covers(&parts, range(8, 256));
}

#[test]
fn spares_that_are_not_usable_give_nothing() {
    let mut failed = setup(&[DATA + 80; 3], 8);
    failed.spares[1].state = SpareState::Failed;
    let pool = Pool::new(&failed, |index| index != SpareIndex(0));
    let free = [0, 1, 2].map(|n| pool.free_on(SpareIndex(n)).0);
    assert_eq!(free, [0, 0, 80]);
}

#[test]
fn the_short_last_unit_of_main_takes_a_whole_slot() {
    let mut setup = setup(&[DATA + 17], 8);
    let end = setup.map.main_len().0;
    let last = range(end - end % 8, end % 8);
    assert_eq!(last.len(), Sectors(3));
    let mut pool = Pool::new(&setup, |_| true);
    let parts = pool.allocate(last).unwrap();
    assert_eq!((parts.len(), parts[0].range), (1, last));
    assert_eq!(pool.free(), Sectors(8));
    setup.map.insert(last, parts[0].slot).unwrap();
    assert_eq!(Pool::new(&setup, |_| true).free(), Sectors(8));
}

#[test]
fn one_bad_sector_takes_its_unit_out_of_use() {
    let mut setup = setup(&[DATA + 24], 8);
    setup.bad_blocks.insert(SpareIndex(0), vec![range(DATA + 15, 1), range(0, 3)]);
    let mut pool = Pool::new(&setup, |_| true);
    assert_eq!(pool.free(), Sectors(16));
    let parts = pool.allocate(range(0, 16)).unwrap();
    let starts: Vec<u64> = parts.iter().map(|p| p.slot.start.0 - DATA).collect();
    assert_eq!(starts, [0, 16]);
}

/// Time for `count` allocations of one unit and as many vain searches for two, out of `count` single free units.
fn time_fragmented(count: u64) -> Duration {
    let mut setup = setup(&[DATA + count * 16 + 16], 8);
    for n in 0..count {
        let bad = range(DATA + n * 16, 8);
        setup.bad_blocks.entry(SpareIndex(0)).or_default().push(bad);
    }
    let mut pool = Pool::new(&setup, |_| true);
    let before = Instant::now();
    let mut pieces = 0;
    for n in 0..count / 2 {
        pieces += pool.allocate(range(n * 8, 16)).unwrap().len();
    }
    assert!(pieces as u64 >= count - 2, "{pieces}");
    before.elapsed()
}

#[test]
fn a_hundred_thousand_allocations_from_a_fragmented_spare_take_no_quadratic_time() {
    let small = time_fragmented(10_000).max(Duration::from_millis(1));
    let large = time_fragmented(100_000);
    // Ten times the work: linear is a factor of 10, quadratic one of 100.
    assert!(large < small * 45, "{small:?} for 10,000, {large:?} for 100,000");
}

#[test]
fn an_evacuation_is_refused_when_a_spare_is_missing_or_does_not_have_the_sectors() {
    let mut setup = setup(&[DATA + 80; 2], 8);
    setup.map.insert(range(0, 8), slot(0, DATA)).unwrap();
    let bad = |spare, start| BTreeMap::from([(SpareIndex(spare), vec![range(start, 2)])]);
    for (spare, start, size) in [(0, DATA + 79, DATA + 80), (2, 100, 0)] {
        let refused = plan_evacuate(&setup, &bad(spare, start), Hold, |_| true).unwrap_err();
        let size = Sectors(size);
        assert_eq!(refused, Refusal::NotOnSpare { spare: SpareIndex(spare), range: range(start, 2), size });
    }
    let refused = plan_evacuate(&setup, &bad(0, DATA + 7), Hold, |index: SpareIndex| index.0 == 1).unwrap_err();
    assert!(matches!(refused, Refusal::SpareMissing { index: SpareIndex(0), .. }), "{refused}");
    // In free space of the same spare nothing has to move.
    assert!(plan_evacuate(&setup, &bad(0, DATA + 8), Hold, |index: SpareIndex| index.0 == 1).unwrap().moves.is_empty());
}
