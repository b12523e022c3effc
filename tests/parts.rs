//! Plans that take several swaps.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use dm_remap::block::ram::{Bad, Power};
use dm_remap::engine::splice::{SpliceOptions, SpliceOutcome, splice};
use dm_remap::engine::{EngineError, Observer};
use dm_remap::format::metadata::UnreadablePolicy::{Hold, Leave};
use dm_remap::plan::moves::{AlreadyMapped, MovePlan, OnSpares, plan_evacuate, plan_remap, plan_restore};
use dm_remap::units::{Range, Sectors};
use nix::errno::Errno;
use std::num::NonZeroUsize;
use support::{Machine, Told, options, pattern, range, spare};

/// Five extents, none beside another.
const WANTED: [(u64, u64); 5] = [(8, 8), (40, 16), (80, 8), (120, 8), (160, 24)];

fn wanted() -> Vec<Range> {
    WANTED.iter().map(|(start, len)| range(*start, *len)).collect()
}

fn machine(spares: &[u64]) -> Machine {
    let machine = Machine::new(Power::new(), 400, spares);
    machine.fill_main();
    machine.create().unwrap();
    machine
}

/// Runs a plan with two moves in each swap.
fn by_twos(
    machine: &Machine,
    plan: impl Fn(&dm_remap::format::metadata::Metadata) -> MovePlan,
    observer: &dyn Observer,
) -> Result<SpliceOutcome, EngineError> {
    let mut session = machine.session()?;
    let plan = plan(&session.metadata);
    let at_once = NonZeroUsize::new(2).unwrap();
    splice(&mut session, plan, &SpliceOptions { at_once, observer, ..options() })
}

fn remap(machine: &Machine, observer: &dyn Observer) -> Result<SpliceOutcome, EngineError> {
    let plan = |metadata: &_| plan_remap(metadata, &wanted(), AlreadyMapped::Refuse, Hold, |_| true).unwrap();
    by_twos(machine, plan, observer)
}

fn splices(machine: &Machine) -> u64 {
    machine.session().unwrap().metadata.health.splices
}

fn assert_data(machine: &Machine) {
    for sector in 0..400 {
        assert_eq!(machine.read(sector).unwrap(), pattern(sector, 0), "sector {sector}");
    }
    assert!(machine.dm.violations().is_empty());
    assert!(machine.suspended().is_empty());
}

#[test]
fn all_of_a_plan_is_done_in_several_swaps_and_told_as_one() {
    let machine = machine(&[10_240 + 800]);
    let told = Told::default();
    let outcome = remap(&machine, &told).unwrap();
    assert_eq!(outcome.moved.iter().map(|m| m.range).collect::<Vec<_>>(), wanted());
    assert_eq!(splices(&machine), 3);
    let told = told.progress.into_inner().unwrap();
    assert!(told.is_sorted() && told.iter().all(|(_, total)| *total == 64), "{told:?}");
    assert_eq!(told.last(), Some(&(64, 64)));
    for (start, len) in WANTED {
        machine.main.set_bad(range(start, len), Bad::ReadsAndWrites(Errno::ENODATA));
    }
    assert_data(&machine);
    machine.main.clear_bad();
    let plan = |metadata: &_| plan_restore(metadata, None, Hold).unwrap();
    assert_eq!(by_twos(&machine, plan, &Told::default()).unwrap().moved.len(), 5);
    assert_eq!((splices(&machine), machine.session().unwrap().metadata.map.len()), (6, 0));
    assert_data(&machine);
}

#[test]
fn a_slot_that_is_bad_is_not_replaced_by_one_that_a_later_part_is_to_have() {
    let machine = machine(&[10_240 + 800]);
    let plan = |metadata: &_| plan_remap(metadata, &wanted(), AlreadyMapped::Refuse, Hold, |_| true).unwrap();
    let planned = plan(&machine.session().unwrap().metadata).moves;
    let dm_remap::plan::Home::Slot(first) = planned[0].to else { panic!("{planned:?}") };
    machine.spares[0].set_bad(range(first.start.0, 1), Bad::ReadsAndWrites(Errno::EIO));
    let outcome = by_twos(&machine, plan, &Told::default()).unwrap();
    assert!(!outcome.bad_slots.is_empty());
    let homes: Vec<_> = outcome.moved.iter().map(|step| step.to).collect();
    let later: Vec<_> = planned[1..].iter().map(|step| step.to).collect();
    assert!(later.iter().all(|home| homes.contains(home)), "{homes:?}, planned {later:?}");
    assert_eq!(machine.session().unwrap().metadata.map.len(), 5);
    assert_data(&machine);
}

#[test]
fn bad_sectors_of_a_spare_are_recorded_when_what_lived_there_leaves_in_parts() {
    let machine = machine(&[10_240 + 800, 10_240 + 800]);
    remap(&machine, &Told::default()).unwrap();
    let mut bad = OnSpares::new();
    for extent in machine.session().unwrap().metadata.map.extents() {
        bad.entry(extent.slot.spare).or_default().push(range(extent.slot.start.0, 1));
    }
    let outcome =
        by_twos(&machine, |metadata| plan_evacuate(metadata, &bad, Hold, |_| true).unwrap(), &Told::default()).unwrap();
    assert!(outcome.moved.len() > 2, "{outcome:?}");
    let recorded = machine.session().unwrap().metadata.bad_blocks;
    for (index, runs) in &bad {
        for run in runs {
            assert!(recorded[index].iter().any(|known| known.overlaps(*run)), "{run} of spare {index}");
        }
    }
    assert_data(&machine);
}

#[test]
fn what_was_moved_before_an_error_stays_so_and_the_error_says_how_much() {
    let machine = machine(&[10_240 + 800]);
    machine.main.set_bad(range(124, 1), Bad::Reads(Errno::ETIMEDOUT));
    let error = remap(&machine, &Told::default()).unwrap_err();
    let EngineError::Partway { moved: 2, of: 5, done, .. } = &error else { panic!("{error}") };
    assert_eq!(done.moved.iter().map(|m| m.range).collect::<Vec<_>>(), wanted()[..2]);
    assert!(matches!(error.cause(), EngineError::Transport(_)), "{error}");
    assert_eq!(splices(&machine), 1);
    machine.main.clear_bad();
    assert_data(&machine);
    let left = |metadata: &_| plan_remap(metadata, &wanted(), AlreadyMapped::Skip, Hold, |_| true).unwrap();
    assert_eq!(by_twos(&machine, left, &Told::default()).unwrap().moved.len(), 3);
    assert_data(&machine);
    // When nothing was moved it is the error itself.
    let machine = self::machine(&[10_240 + 800]);
    machine.main.set_bad(range(8, 1), Bad::Reads(Errno::ETIMEDOUT));
    assert!(matches!(remap(&machine, &Told::default()), Err(EngineError::Transport(_))));
}

#[test]
fn a_part_of_which_nothing_can_move_does_not_end_the_plan() {
    let machine = machine(&[10_240 + 800]);
    machine.main.set_bad(range(8, 8), Bad::Reads(Errno::ENODATA));
    machine.main.set_bad(range(40, 16), Bad::Reads(Errno::ENODATA));
    let plan = |metadata: &_| plan_remap(metadata, &wanted(), AlreadyMapped::Refuse, Leave, |_| true).unwrap();
    let outcome = by_twos(&machine, plan, &Told::default()).unwrap();
    assert_eq!(outcome.moved.iter().map(|m| m.range).collect::<Vec<_>>(), wanted()[2..]);
    assert_eq!(outcome.lost.iter().map(|loss| loss.range).collect::<Vec<_>>(), wanted()[..2]);
    let map = machine.session().unwrap().metadata.map;
    assert!(map.extent_at(Sectors(8)).is_none() && map.extent_at(Sectors(160)).unwrap().slot.spare == spare(0));
}

#[test]
fn an_evacuation_that_stops_on_its_way_has_recorded_what_is_bad_in_the_slots_that_were_left() {
    let machine = machine(&[10_240 + 800]);
    remap(&machine, &Told::default()).unwrap();
    let map = machine.session().unwrap().metadata.map;
    let bad_in = |extent: &dm_remap::map::Extent| range(extent.slot.start.0, 1);
    let bad: OnSpares = [(spare(0), map.extents().map(|extent| bad_in(&extent)).collect())].into_iter().collect();
    let third = map.extents().nth(2).unwrap().slot.start.0;
    machine.spares[0].set_bad(range(third + 1, 1), Bad::Reads(Errno::ETIMEDOUT));
    let plan = |metadata: &_| plan_evacuate(metadata, &bad, Hold, |_| true).unwrap();
    let error = by_twos(&machine, plan, &Told::default()).unwrap_err();
    assert!(matches!(error, EngineError::Partway { moved: 2, .. }), "{error}");
    machine.spares[0].clear_bad();
    let metadata = machine.session().unwrap().metadata;
    for extent in map.extents().take(2) {
        assert!(metadata.bad_blocks[&spare(0)].iter().any(|known| known.overlaps(bad_in(&extent))), "{extent:?}");
        assert_ne!(metadata.map.extent_at(extent.range.start()).unwrap().slot, extent.slot);
    }
    assert_data(&machine);
}

#[test]
fn a_spare_that_fails_is_told_of_once_and_all_parts_go_to_others() {
    for index in 0..2 {
        let machine = machine(&[10_240 + 128, 10_240 + 128]);
        let told = Told::default();
        let plan = |metadata: &_| {
            let plan = plan_remap(metadata, &wanted(), AlreadyMapped::Refuse, Hold, |_| true).unwrap();
            machine.spares[index].fail_operations(0, 1 << 40, Errno::ENXIO);
            plan
        };
        let outcome = by_twos(&machine, plan, &told).unwrap();
        assert_eq!((outcome.moved.len(), outcome.bad_slots.len()), (5, 0));
        let away = spare(u8::try_from(index).unwrap());
        let session = machine.session().unwrap();
        assert!(session.metadata.map.extents().all(|extent| extent.slot.spare != away));
        let notes = told.notes.into_inner().unwrap();
        assert!(notes.iter().filter(|note| note.contains("Other spares are used instead")).count() <= 1, "{notes:?}");
        // One for each part that was planned for it.
        assert!(notes.iter().filter(|note| note.contains("takes no extents")).count() <= 2, "{notes:?}");
        assert_data(&machine);
    }
}

#[test]
fn a_bad_slot_on_the_spare_that_is_taken_instead_is_replaced_there() {
    // Whichever comes first: one takes nothing, and the first slot of the other is bad.
    for index in 0..2 {
        let machine = machine(&[10_240 + 128, 10_240 + 128]);
        machine.spares[index].set_bad(range(10_240, 128), Bad::ReadsAndWrites(Errno::ENODATA));
        machine.spares[1 - index].set_bad(range(10_240, 1), Bad::ReadsAndWrites(Errno::ENODATA));
        let outcome = remap(&machine, &Told::default()).unwrap();
        assert_eq!(outcome.moved.len(), 5, "{outcome:?}");
        assert_data(&machine);
    }
}
