//! Crash: disks that know live from durable, cut at every write and every flush of every operation, with reordering
//! between flushes and torn writes. What a reboot finds is the old or the new setup, with the right data in every sector.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::ram::{Bad, Power};
use dm_remap::dm::fake::Op;
use dm_remap::engine::EngineError;
use dm_remap::engine::destroy::destroy;
use dm_remap::format::choose::Expected;
use dm_remap::format::metadata::UnreadablePolicy::{Hold, Zero};
use dm_remap::store::read_copies;
use dm_remap::units::Range;
use nix::errno::Errno;
use support::crash::{Scenario, Shape, Tally, World, crash_everywhere};
use support::model::Value;
use support::range;

/// What is cut.
type Operate = fn(&World) -> Result<(), EngineError>;

const FLAKEY: &[&str] = &["linear", "switch", "error", "flakey"];

/// Runs the scenario with each number of spares, and with 4096-byte blocks.
fn on_all_shapes(scenario: impl Fn(Shape) -> Scenario, shapes: Vec<Shape>, least: u64) {
    let mut all = Tally::default();
    for shape in shapes {
        let mut tally = Tally::default();
        let scenario = scenario(shape);
        let (spares, block) = (scenario.shape.spares.len(), scenario.shape.block);
        crash_everywhere(&scenario, 2, &mut tally);
        println!("{}, {spares} spare(s), blocks of {block} sectors: {tally:?}", scenario.name);
        all.images += tally.images + tally.second;
    }
    assert!(all.images >= least, "the battery has shrunk to {} states", all.images);
}

fn shapes() -> Vec<Shape> {
    let large = Shape { block: 8, ..Shape::new(1) };
    vec![Shape::new(1), Shape::new(2), Shape::new(3), large]
}

fn held_shapes() -> Vec<Shape> {
    let bad = vec![range(41, 2), range(45, 1)];
    let wide = vec![range(40, 8)];
    vec![
        Shape { bad: bad.clone(), ..Shape::new(1) },
        Shape { bad: bad.clone(), ..Shape::new(2) },
        Shape { bad, kinds: FLAKEY, ..Shape::new(1) },
        Shape { bad: wide, block: 8, ..Shape::new(1) },
    ]
}

fn create(world: &World) {
    world.machine.create().unwrap();
}

/// A setup with extents on every spare, and some history.
fn with_extents(world: &World) {
    create(world);
    // Slots are given from the first spare on: fill it, so that others are used as well.
    world.machine.remap(&[range(8, 8), range(24, 16)], Hold).unwrap();
    world.write(10);
    world.write(25);
    world.flush();
    world.write(32);
}

fn with_held(world: &World) {
    create(world);
    world.machine.remap(&[range(40, 8)], Hold).unwrap();
    for bad in held_ranges(world) {
        world.model.get().set(bad, Value::Held);
    }
}

fn held_ranges(world: &World) -> Vec<Range> {
    let map = world.machine.session().unwrap().metadata.map;
    map.losses().iter().map(|l| l.range).collect()
}

#[test]
fn an_interrupted_create_leaves_no_setup_or_a_whole_one() {
    let scenario = |shape| Scenario {
        name: "create",
        shape,
        prepare: |_| {},
        operate: |world| world.machine.create().map(|_| ()),
        traffic: &[3, 50],
    };
    on_all_shapes(scenario, shapes(), 100);
}

#[test]
fn an_interrupted_remap_leaves_the_old_map_or_the_new_one() {
    let scenario = |shape| Scenario {
        name: "remap",
        shape,
        prepare: with_extents,
        operate: |world| world.machine.remap(&[range(40, 8), range(60, 1)], Hold).map(|_| ()),
        traffic: &[40, 25, 64, 61, 80, 47],
    };
    on_all_shapes(scenario, shapes(), 500);
}

/// As [`with_extents`], with copies of which most is not head: it is written before the device is suspended.
fn with_large_copies(world: &World) {
    with_extents(world);
    support::enlarge_copies(&world.machine);
}

#[test]
fn an_interrupted_remap_with_large_copies_leaves_the_old_map_or_the_new_one() {
    let scenario = |shape| Scenario {
        name: "remap, large copies",
        shape,
        prepare: with_large_copies,
        operate: |world| world.machine.remap(&[range(40, 8), range(60, 1)], Hold).map(|_| ()),
        traffic: &[40, 25, 64, 61, 80, 47],
    };
    on_all_shapes(scenario, shapes(), 500);
}

/// The copies that were to become the new map's are put back; cut anywhere in between, the others count.
#[test]
fn an_interrupted_remap_that_is_undone_leaves_the_old_map() {
    let operate: Operate = |world| {
        world.machine.dm.refuse_next(Op::Suspend, Errno::EINTR, 1);
        let before = world.machine.load().map(|choice| choice.newest.metadata.generation);
        let end = world.machine.remap(&[range(40, 8)], Hold);
        if world.machine.power.is_off() {
            return end.map(|_| ());
        }
        assert!(matches!(end, Err(EngineError::NotSuspended { .. })), "{end:?}");
        assert_eq!(world.machine.load().map(|choice| choice.newest.metadata.generation), before);
        for spare in &world.machine.spares {
            let chosen = read_copies(&**spare, Expected::default()).choose().unwrap();
            assert_eq!(chosen.current, [0, 1, 2, 3, 4]);
        }
        Ok(())
    };
    let scenario = |shape| Scenario {
        name: "remap undone, large copies",
        shape,
        prepare: with_large_copies,
        operate,
        traffic: &[40, 25, 64],
    };
    on_all_shapes(scenario, shapes(), 300);
}

#[test]
fn what_is_acknowledged_during_a_move_survives_it() {
    for (operate, sector) in [
        ((|world| world.machine.remap(&[range(40, 8)], Hold).map(|_| ())) as Operate, &[41][..]),
        (|world| world.machine.restore(Some(&[range(24, 16)]), Hold).map(|_| ()), &[25]),
    ] {
        let scenario =
            |shape| Scenario { name: "move under load", shape, prepare: with_extents, operate, traffic: sector };
        on_all_shapes(scenario, vec![Shape::new(1)], 200);
    }
}

#[test]
fn an_interrupted_remap_of_unreadable_sectors_never_shows_anything_but_eio() {
    let scenario = |shape| Scenario {
        name: "remap held",
        shape,
        prepare: |world| {
            create(world);
            world.machine.remap(&[range(8, 8)], Hold).unwrap();
        },
        operate: |world| {
            let bad: Vec<Range> = bad_of(world);
            for range in &bad {
                world.model.get().may_be(*range, Value::Held);
            }
            world.machine.remap(&[range(40, 8)], Hold).map(|_| ())
        },
        traffic: &[80, 9, 20],
    };
    on_all_shapes(scenario, held_shapes(), 300);
}

fn bad_of(world: &World) -> Vec<Range> {
    let model = world.model.get();
    let bad = (0u64..).zip(&model.cells).filter(|(_, c)| c.now.contains(&Value::Bad));
    bad.map(|(s, _)| range(s, 1)).collect()
}

#[test]
fn an_interrupted_restore_leaves_the_old_map_or_the_new_one() {
    let scenario = |shape| Scenario {
        name: "restore",
        shape,
        prepare: with_extents,
        operate: |world| world.machine.restore(Some(&[range(8, 8), range(24, 8)]), Hold).map(|_| ()),
        traffic: &[10, 25, 33, 80],
    };
    on_all_shapes(scenario, shapes(), 500);
}

#[test]
fn slots_freed_by_a_restore_are_used_again_safely() {
    let scenario = |shape| Scenario {
        name: "restore, remap",
        shape,
        prepare: with_extents,
        operate: |world| {
            world.machine.restore(Some(&[range(8, 8)]), Hold)?;
            world.checkpoint();
            world.machine.remap(&[range(64, 8)], Hold).map(|_| ())
        },
        traffic: &[10, 66, 25],
    };
    on_all_shapes(scenario, shapes(), 500);
}

/// Moves away what lives in the first sector of each slot of `window`.
fn evacuate(world: &World, window: Range) -> Result<(), EngineError> {
    world.machine.evacuate(&world.machine.slots_of(&[window])?, Hold).map(|_| ())
}

#[test]
fn an_interrupted_evacuation_leaves_the_old_map_or_the_new_one() {
    let scenario = |shape| Scenario {
        name: "evacuate",
        shape,
        prepare: with_extents,
        operate: |world| evacuate(world, range(0, 96)),
        traffic: &[10, 25, 33, 80, 12],
    };
    on_all_shapes(scenario, shapes(), 500);
}

#[test]
fn held_sectors_survive_every_cut_of_an_evacuation_with_what_was_written_to_them() {
    let scenario = |shape| Scenario {
        name: "evacuate held",
        shape,
        prepare: |world| {
            with_held(world);
            // One flushed, one not; a third one stays held.
            world.write(41);
            world.flush();
            world.write(42);
        },
        operate: |world| evacuate(world, range(40, 8)),
        traffic: &[47, 80],
    };
    on_all_shapes(scenario, held_shapes(), 300);
}

#[test]
fn an_interrupted_destroy_leaves_the_setup_or_none() {
    let scenario = |shape| Scenario {
        name: "destroy",
        shape,
        prepare: create,
        operate: |world| destroy(&mut world.machine.session()?, false, String::new, || ()),
        traffic: &[3],
    };
    on_all_shapes(scenario, shapes(), 100);
}

#[test]
fn an_interrupted_merge_back_and_destroy_keeps_the_data() {
    let scenario = |shape| Scenario {
        name: "merge back, destroy",
        shape,
        prepare: with_extents,
        operate: |world| {
            world.machine.restore(None, Hold)?;
            world.checkpoint();
            destroy(&mut world.machine.session()?, false, String::new, || ())
        },
        traffic: &[10, 25, 33, 80],
    };
    on_all_shapes(scenario, shapes(), 500);
}

#[test]
fn an_interrupted_deactivation_and_activation_change_nothing() {
    let scenario = |shape| Scenario {
        name: "deactivate, activate",
        shape,
        prepare: with_extents,
        operate: |world| {
            world.machine.deactivate()?;
            world.machine.activate().map(|_| ())
        },
        traffic: &[10, 25, 33],
    };
    on_all_shapes(scenario, shapes(), 300);
}

#[test]
fn held_sectors_that_were_written_survive_every_way_of_settling_them() {
    let ways: [(&'static str, Operate); 2] = [
        ("settle by remap", |world| world.machine.remap(&[range(64, 8)], Hold).map(|_| ())),
        ("settle by deactivate", |world| {
            world.machine.deactivate()?;
            world.machine.activate().map(|_| ())
        }),
    ];
    for (name, operate) in ways {
        let scenario = |shape| Scenario {
            name,
            shape,
            prepare: |world| {
                with_held(world);
                // One flushed, one not.
                world.write(41);
                world.flush();
                world.write(42);
            },
            operate,
            traffic: &[45, 80],
        };
        on_all_shapes(scenario, held_shapes(), 300);
    }
}

#[test]
fn zeroed_sectors_stay_zero_and_nothing_else_changes() {
    let power = Power::new();
    let shape = Shape { bad: vec![range(41, 1)], ..Shape::new(1) };
    let world = World::new(&shape, power);
    create(&world);
    world.machine.remap(&[range(40, 8)], Zero).unwrap();
    world.machine.main.set_bad(range(40, 8), Bad::ReadsAndWrites(Errno::ENODATA));
    assert_eq!(world.machine.read(41).unwrap(), [0; 512]);
}

/// The header of a commit that was begun and lost is on the spare: were its number used again, with other content, a
/// second torn write could make the lost copy whole beside the new one.
#[test]
fn activation_never_uses_the_number_of_a_lost_commit() {
    let shape = Shape::new(1);
    let world = World::new(&shape, Power::new());
    with_extents(&world);
    let base = world.machine.power.operations();
    let old = world.machine.load().unwrap().newest.metadata.generation;
    // Slot write, flush, then three copies, of which all is head.
    let world = World::new(&shape, Power::cut_at(base + 5));
    with_extents(&world);
    let _ = world.machine.remap(&[range(64, 8)], Hold);
    assert!(world.machine.power.is_off());
    let spare = &world.machine.spares[0];
    let first = (0..spare.pending()).find(|n| {
        let image = spare.after_power_cut(|order| order == *n);
        image.get(&0) != spare.after_power_cut(|_| false).get(&0)
    });
    let first = first.expect("the cut is in the commit");
    let keep = vec![vec![false; world.machine.main.pending()], (0..spare.pending()).map(|n| n == first).collect()];
    let again = shape.machine(Power::new(), support::crash::images(&world.machine, &keep));
    assert_eq!(again.load().unwrap().newest.metadata.generation, old);
    again.activate().unwrap();
    assert_eq!(again.load().unwrap().newest.metadata.generation, old + 2);
}

/// A spare that has missed one commit is brought up to date before there is another: else a power cut in that one would
/// leave it two behind, and the setup refused.
#[test]
fn a_spare_that_is_one_behind_is_never_left_two_behind() {
    let shape = Shape::new(2);
    let world = World::new(&shape, Power::new());
    with_extents(&world);
    let base = world.machine.power.operations();
    world.machine.remap(&[range(64, 8)], Hold).unwrap();
    let end = world.machine.power.operations();
    let only = |machine: &support::Machine, kept: usize| {
        let disks = support::crash::disks(machine);
        let keep: Vec<Vec<bool>> = (0..disks.len()).map(|d| vec![kept & (1 << d) != 0; disks[d].pending()]).collect();
        support::crash::images(machine, &keep)
    };
    let mut states = 0;
    for cut in base..end {
        let world = World::new(&shape, Power::cut_at(cut));
        with_extents(&world);
        let _ = world.machine.remap(&[range(64, 8)], Hold);
        for kept in [0, 2, 4, 6] {
            let images = only(&world.machine, kept);
            let first = shape.machine(Power::new(), images.clone());
            if first.load().unwrap().stale().is_empty() {
                continue;
            }
            first.activate().unwrap();
            for again in 0..first.power.operations() {
                let second = shape.machine(Power::cut_at(again), images.clone());
                let _ = second.activate();
                for kept in [0, 2, 4, 6] {
                    let third = shape.machine(Power::new(), only(&second, kept));
                    third.activate().unwrap_or_else(|e| panic!("cut {cut}, then {again}, disks {kept:b}: {e}"));
                    states += 1;
                }
            }
        }
    }
    println!("{states} states with a spare behind");
    assert!(states >= 100, "{states}");
}
