//! Bringing extents together: every batch is right and better, it comes to an end, and the second run does nothing.

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
use dm_remap::format::metadata::{Metadata, SpareState};
use dm_remap::map::{Fate, Map, Slot, SpareIndex};
use dm_remap::plan::MoveKind;
use dm_remap::plan::compact::{BATCH, plan_all, plan_compact, shape, still_apart};
use dm_remap::plan::moves::{Home, apply};
use dm_remap::pool::Pool;
use dm_remap::units::{Range, RangeSet, Sectors};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Instant;
use support::{metadata, range, slot};

const DATA: u64 = DATA_START.0;
const UNIT: u64 = 8;

/// Extents given as (unit of main, units, spare, unit of the spare), on spares of `room` units.
fn setup(room: &[u64], extents: &[(u64, u64, u8, u64)]) -> Metadata {
    let mut setup = metadata(1, room.len() as u8);
    for (record, units) in setup.spares.iter_mut().zip(room) {
        record.identity.size = Sectors(DATA + units * UNIT);
    }
    for (at, len, spare, to) in extents {
        setup.map.insert(range(at * UNIT, len * UNIT), slot(*spare, DATA + to * UNIT)).unwrap();
    }
    setup.check().unwrap();
    setup
}

fn all(_: SpareIndex) -> bool {
    true
}

fn none() -> RangeSet {
    RangeSet::default()
}

/// Extents as they were given to [`setup`].
fn extents(map: &Map) -> Vec<(u64, u64, u8, u64)> {
    let row = |e: dm_remap::map::Extent| {
        let to = (e.slot.start.0 - DATA) / UNIT;
        (e.range.start().0 / UNIT, e.range.len().0.div_ceil(UNIT), e.slot.spare.0, to)
    };
    map.extents().map(row).collect()
}

#[test]
fn neighbours_gather_around_the_largest_when_there_is_room() {
    let setup = setup(&[40, 10], &[(10, 1, 1, 4), (11, 4, 0, 8), (15, 2, 0, 30)]);
    let (plans, after) = plan_all(&setup, all, BATCH).unwrap();
    assert_eq!(plans[0].moves.len(), 2, "{:?}", plans[0].moves);
    assert_eq!(plans[0].kind, MoveKind::Compact);
    // Then it is packed.
    assert_eq!(extents(&after.map), [(10, 7, 0, 0)]);
    assert_eq!(shape(&after, all).free_runs, 2);
    assert_eq!(shape(&after, all).longest_free, Sectors(33 * UNIT));
}

#[test]
fn without_room_beside_the_largest_all_move_into_one_run() {
    // Behind units 8 and 9, which stay, is somebody else.
    let setup = setup(&[16, 20], &[(10, 1, 0, 3), (11, 2, 0, 8), (13, 1, 0, 13), (50, 1, 0, 10), (60, 8, 1, 12)]);
    let plan = plan_compact(&setup, all, BATCH, &none()).unwrap();
    let to: Vec<String> = plan.moves.iter().map(ToString::to_string).collect();
    let map = apply(&setup.map, &plan.moves, &[]).unwrap();
    assert_eq!(map.extents_in(range(80, 32)).count(), 1, "{to:?}");
}

#[test]
fn what_cannot_be_joined_is_named_with_the_reason() {
    // Spare 0 is full but for one unit, and spare 1 is not there.
    let mut setup = setup(&[6, 8], &[(10, 2, 0, 0), (12, 2, 0, 3), (20, 1, 1, 0), (30, 1, 1, 4), (31, 1, 1, 2)]);
    setup.map.insert(range(80 * UNIT, UNIT), slot(0, DATA + 2 * UNIT)).unwrap();
    let only_first = |index: SpareIndex| index.0 == 0;
    let (plans, after) = plan_all(&setup, only_first, BATCH).unwrap();
    assert!(plans.is_empty(), "{plans:?}");
    assert_eq!(after, setup);
    let apart = still_apart(&setup, only_first, BATCH, &none());
    assert_eq!(apart.len(), 2);
    assert_eq!((apart[0].range, apart[0].extents), (range(80, 32), 2));
    assert!(apart[0].why.contains("no free run of 32 sectors"), "{}", apart[0].why);
    assert!(apart[1].why.contains("spare 1 is not there"), "{}", apart[1].why);
    // With the other spare there is room, but not for more than a batch, nor for what is to be left alone.
    assert!(plan_compact(&setup, all, Sectors(8), &none()).unwrap().moves.len() == 1, "the single units");
    let avoid = RangeSet::from(vec![range(81, 1), range(248, 1)]);
    let moves = plan_compact(&setup, all, BATCH, &avoid).unwrap().moves;
    assert!(moves.iter().all(|step| !step.range.overlaps(range(80, 16)) && !step.range.overlaps(range(248, 8))));
    assert!(still_apart(&setup, all, BATCH, &avoid)[0].why.contains("could not be moved"));
    let why = &still_apart(&setup, all, Sectors(8), &none())[0].why;
    assert!(why.contains("more than 8 sectors"), "{why}");
}

#[test]
fn a_long_chain_takes_several_batches_and_little_is_moved_twice() {
    let count = 200u64;
    // In reverse order on the spare, so that no two of them continue each other.
    let rows: Vec<_> = (0..count).map(|n| (100 + n, 1, 0, 2 * (count - n))).collect();
    let setup = setup(&[1000], &rows);
    let (plans, after) = plan_all(&setup, all, Sectors(20 * UNIT)).unwrap();
    assert_eq!(after.map.len(), 1);
    let moved: u64 = plans.iter().map(|plan| plan.sectors().0 / UNIT).sum();
    assert!(plans.iter().all(|plan| plan.sectors().0 <= 20 * UNIT && !plan.moves.is_empty()));
    assert!(moved <= 2 * count, "{moved} units moved for {count}");
}

#[derive(Clone, Debug)]
struct Case {
    setup: Metadata,
    batch: Sectors,
    /// Spares that are not there.
    missing: BTreeSet<u8>,
}

fn cases() -> impl Strategy<Value = Case> {
    let spares = prop::collection::vec((8u64..80, 0u8..8), 1..=4);
    let extents = prop::collection::vec((0u64..60, 1u64..5, 0usize..4, 0u64..80), 0..60);
    let bad = prop::collection::vec((0usize..4, 0u64..80), 0..6);
    let held = prop::collection::vec(0u64..60, 0..4);
    (spares, extents, bad, held, 1u64..40, 0u64..8).prop_map(|(spares, extents, bad, held, batch, tail)| {
        let room: Vec<u64> = spares.iter().map(|s| s.0).collect();
        let mut setup = setup(&room, &[]);
        // The last unit of main may be a short one.
        let main = Sectors(60 * UNIT + tail);
        setup.config.main.size = main;
        setup.map = Map::new(main, Sectors(UNIT)).unwrap();
        for (at, len, spare, to) in extents {
            let spare = (spare % room.len()) as u8;
            let end = Sectors((at + len) * UNIT).min(main);
            let Some(wanted) = Range::between(Sectors(at * UNIT), end) else { continue };
            let before = setup.clone();
            let _ = setup.map.insert(wanted, slot(spare, DATA + to * UNIT));
            if setup.check().is_err() {
                setup = before;
            }
        }
        for (spare, unit) in bad {
            let spare = SpareIndex((spare % room.len()) as u8);
            setup.bad_blocks.entry(spare).or_default().push(range(DATA + unit * UNIT, 1));
        }
        for at in held {
            let _ = setup.map.record_loss(range(at * UNIT, 1), Fate::Held);
        }
        for (record, (_, state)) in setup.spares.iter_mut().zip(&spares) {
            if *state == 0 {
                record.state = SpareState::Failed;
            }
        }
        let missing = (0u8..).zip(&spares).filter(|(_, s)| s.1 == 1).map(|(index, _)| index).collect();
        Case { setup, batch: Sectors(batch * UNIT), missing }
    })
}

/// Sum of the places of all slots.
fn height(map: &Map) -> u64 {
    map.extents().map(|extent| extent.slot.start.0).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_batch_is_right_and_better_and_the_second_run_does_nothing(case in cases()) {
        let Case { mut setup, batch, missing } = case;
        let usable = |index: SpareIndex| !missing.contains(&index.0);
        let before = setup.clone();
        let runs = shape(&before, usable).runs;
        let (foreseen, end) = plan_all(&setup, usable, batch).unwrap();
        for plan in &foreseen {
            prop_assert_eq!(&plan_compact(&setup, usable, batch, &none()).unwrap().moves, &plan.moves);
            prop_assert!(plan.sectors() <= batch && !plan.moves.is_empty());
            prop_assert!(plan.moves.windows(2).all(|w| w[0].range.end() <= w[1].range.start()));
            let mut free: Vec<(SpareIndex, Range)> = Pool::new(&setup, usable).free_runs().collect();
            for step in &plan.moves {
                let (Home::Slot(from), Home::Slot(to)) = (step.from, step.to) else { panic!("{step}") };
                let old = setup.map.extent_at(step.range.start()).unwrap();
                prop_assert_eq!((old.range, old.slot), (step.range, from), "extents move whole");
                prop_assert!(usable(from.spare) && setup.spare(from.spare).unwrap().state == SpareState::Present);
                // Into what is free now, and nobody else moves to.
                let len = setup.map.slot_len(step.range.len()).unwrap();
                let taken = Range::new(to.start, len).unwrap();
                let run = free.iter().position(|(spare, run)| *spare == to.spare && run.encloses(taken));
                let (spare, run) = free.swap_remove(run.expect("a place that is not free"));
                free.extend(run.without(&[taken]).into_iter().map(|rest| (spare, rest)));
            }
            let map = apply(&setup.map, &plan.moves, &[]).unwrap();
            let better = map.len() < setup.map.len()
                || (map.len() == setup.map.len() && height(&map) < height(&setup.map));
            prop_assert!(better, "{:?} -> {:?}", extents(&setup.map), extents(&map));
            setup.map = map;
            setup.check().unwrap();
        }
        prop_assert_eq!(&setup, &end);
        prop_assert!(plan_compact(&setup, usable, batch, &none()).unwrap().moves.is_empty());
        // The same sectors are served, the same are held, and nothing else has changed.
        let served = |map: &Map| -> RangeSet { map.extents().map(|e| e.range).collect() };
        prop_assert_eq!(served(&setup.map), served(&before.map));
        prop_assert_eq!(setup.map.losses(), before.map.losses());
        prop_assert_eq!(shape(&setup, usable).runs, runs);
        // Less is free where a slot was left that has a bad sector.
        prop_assert!(shape(&setup, usable).free <= shape(&before, usable).free);
        let apart: usize = still_apart(&setup, usable, batch, &none()).iter().map(|a| a.extents - 1).sum();
        prop_assert_eq!(setup.map.len(), runs + apart, "what is still apart is said");
    }

    #[test]
    fn with_room_for_everything_each_run_becomes_one_extent(case in cases()) {
        let mut setup = case.setup;
        setup.spares.iter_mut().for_each(|record| record.state = SpareState::Present);
        setup.spares[0].identity.size = Sectors(DATA + 10_000 * UNIT);
        let (_, after) = plan_all(&setup, all, BATCH).unwrap();
        prop_assert_eq!(after.map.len(), shape(&setup, all).runs);
        prop_assert!(still_apart(&after, all, BATCH, &none()).is_empty());
    }
}

/// By hand: `cargo test --release --test compact -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_extents() {
    let mut setup = metadata(1, 16);
    let main = Sectors(1_000_000 * UNIT);
    setup.config.main.size = main;
    setup.map = Map::new(main, Sectors(UNIT)).unwrap();
    setup.spares.iter_mut().for_each(|record| record.identity.size = Sectors(DATA + 20_000 * UNIT));
    for n in 0..100_000u64 {
        // Ten neighbours on main, on ten spares.
        let to = Slot { spare: SpareIndex((n % 16) as u8), start: Sectors(DATA + (n / 16) * 2 * UNIT) };
        setup.map.insert(range((n + n / 10 * 5) * UNIT, UNIT), to).unwrap();
    }
    let time = |what: &str, begun: Instant| println!("{what}: {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut pool = Pool::new(&setup, all);
    time("pool made", begun);
    let wanted: Vec<Range> = (0..10_000).map(|n| range((200_000 + n * 3) * UNIT, UNIT)).collect();
    let begun = Instant::now();
    assert_eq!(pool.allocate_all(&wanted).unwrap().len(), 10_000);
    time("10,000 ranges allocated", begun);
    let begun = Instant::now();
    let plan = plan_compact(&setup, all, BATCH, &none()).unwrap();
    time(&format!("one batch planned, {} moves", plan.moves.len()), begun);
    let begun = Instant::now();
    let (plans, after) = plan_all(&setup, all, BATCH).unwrap();
    time(&format!("all {} batches planned, {} -> {} extents", plans.len(), setup.map.len(), after.map.len()), begun);
}
