//! Extents that leave bad slots, on a made-up machine: from slot to slot with everything that the slot holds.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::Disk;
use dm_remap::block::ram::{Bad, Power, RamDisk};
use dm_remap::dm::fake::Op;
use dm_remap::engine::EngineError;
use dm_remap::engine::splice::record_bad_slots;
use dm_remap::format::metadata::UnreadablePolicy::{Hold, Leave, Zero};
use dm_remap::map::Fate;
use dm_remap::plan::Refusal;
use dm_remap::plan::moves::OnSpares;
use dm_remap::units::{Range, Sectors};
use nix::errno::Errno;
use std::sync::Arc;
use support::{Machine, pattern, range, spare};

const DATA: u64 = 10_240;
const KINDS: [&[&str]; 2] = [&["linear", "switch", "error", "dust"], &["linear", "switch", "error", "flakey"]];

/// Sectors 96 to 119 live in the first slot of the only spare, or of the first of two.
fn machine(spares: &[u64]) -> Machine {
    let machine = Machine::new(Power::new(), 400, spares);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(96, 24)], Hold).unwrap();
    machine
}

fn on_first(runs: &[Range]) -> OnSpares {
    OnSpares::from([(spare(0), runs.to_vec())])
}

fn slots(machine: &Machine) -> Vec<(Range, u8, u64)> {
    let map = machine.session().unwrap().metadata.map;
    map.extents().map(|e| (e.range, e.slot.spare.0, e.slot.start.0)).collect()
}

fn losses(machine: &Machine) -> Vec<(Range, Fate)> {
    machine.session().unwrap().metadata.map.losses().iter().map(|l| (l.range, l.fate)).collect()
}

/// All sectors hold what was written first, but for some.
fn assert_data(machine: &Machine, other: &[(u64, Result<u8, Errno>)]) {
    for sector in 0..400 {
        let expected = other.iter().find(|(s, _)| *s == sector).map_or(Ok(0), |(_, value)| *value);
        assert_eq!(machine.read(sector), expected.map(|v| pattern(sector, v).to_vec()), "sector {sector}");
    }
    assert!(machine.dm.violations().is_empty());
}

#[test]
fn only_the_units_with_bad_sectors_leave_and_no_slot_is_put_there_again() {
    for spares in [&[DATA + 800][..], &[DATA + 24, DATA + 80]] {
        let machine = machine(spares);
        machine.write(105, 4);
        machine.main.set_bad(range(96, 24), Bad::ReadsAndWrites(Errno::ENODATA));
        let before = machine.session().unwrap().metadata;
        let outcome = machine.evacuate(&on_first(&[range(DATA + 9, 1)]), Hold).unwrap();
        assert_eq!(outcome.moved.iter().map(|m| m.range).collect::<Vec<_>>(), [range(104, 8)]);
        let after = machine.session().unwrap().metadata;
        assert_eq!(after.generation, before.generation + 1, "one commit");
        assert_eq!(after.bad_blocks[&spare(0)], [range(DATA + 9, 1)]);
        assert_eq!(after.health.sectors_moved, before.health.sectors_moved + 8);
        let to = if spares.len() == 1 { (0, DATA + 24) } else { (1, DATA) };
        let expected = [(range(96, 8), 0, DATA), (range(104, 8), to.0, to.1), (range(112, 8), 0, DATA + 16)];
        assert_eq!(slots(&machine), expected);
        machine.spares[0].set_bad(range(DATA + 8, 8), Bad::ReadsAndWrites(Errno::ENODATA));
        assert_data(&machine, &[(105, Ok(4))]);
        machine.remap(&[range(200, 8)], Hold).unwrap();
        assert!(slots(&machine).iter().all(|(_, on, start)| *on != 0 || *start != DATA + 8));
        machine.deactivate().unwrap();
        machine.activate().unwrap();
        assert_data(&machine, &[(105, Ok(4))]);
    }
}

#[test]
fn what_cannot_be_read_from_its_slot_is_held_until_it_is_written() {
    for kinds in KINDS {
        let machine = machine(&[DATA + 800]);
        machine.dm.set_supported(kinds);
        machine.spares[0].set_bad(range(DATA + 5, 2), Bad::Reads(Errno::ENODATA));
        let outcome = machine.evacuate(&on_first(&[range(DATA + 5, 2)]), Hold).unwrap();
        assert_eq!(
            outcome.lost.iter().map(|l| (l.range, l.fate)).collect::<Vec<_>>(),
            [(range(101, 2), Fate::HeldStale)]
        );
        assert_data(&machine, &[(101, Err(Errno::EIO)), (102, Err(Errno::EIO))]);
        machine.write(101, 3);
        machine.deactivate().unwrap();
        machine.activate().unwrap();
        assert_data(&machine, &[(101, Ok(3)), (102, Err(Errno::EIO))]);
        assert_eq!(losses(&machine), [(range(101, 1), Fate::Rewritten), (range(102, 1), Fate::HeldStale)]);
    }
}

#[test]
fn what_was_lost_on_a_spare_never_comes_back_as_it_was_before_on_main() {
    let machine = machine(&[DATA + 800]);
    machine.write(101, 3);
    machine.spares[0].set_bad(range(DATA + 5, 1), Bad::Reads(Errno::ENODATA));
    machine.evacuate(&on_first(&[range(DATA + 5, 1)]), Hold).unwrap();
    // Main reads there, and has what was before the write.
    for policy in [Hold, Leave] {
        let refused = machine.restore(None, policy).unwrap_err();
        assert!(
            matches!(refused, EngineError::Refused(Refusal::HeldStale(lost)) if lost == range(101, 1)),
            "{refused}"
        );
        assert_data(&machine, &[(101, Err(Errno::EIO))]);
    }
    machine.deactivate().unwrap();
    machine.activate().unwrap();
    assert!(machine.restore(None, Hold).is_err());
    machine.restore(Some(&[range(104, 8)]), Hold).unwrap();
    machine.write(101, 4);
    machine.restore(None, Hold).unwrap();
    assert_data(&machine, &[(101, Ok(4))]);
    assert_eq!(slots(&machine), []);
    // A held block that does not read from its slot may have been written in between.
    machine.main.set_bad(range(101, 1), Bad::Reads(Errno::ENODATA));
    machine.remap(&[range(96, 8)], Hold).unwrap();
    assert_eq!(losses(&machine), [(range(101, 1), Fate::Held)]);
    let slot = slots(&machine)[0].2 + 5;
    machine.write(101, 5);
    machine.spares[0].set_bad(range(slot, 1), Bad::Reads(Errno::ENODATA));
    machine.main.clear_bad();
    machine.evacuate(&on_first(&[range(slot, 1)]), Hold).unwrap();
    assert_eq!(losses(&machine), [(range(101, 1), Fate::HeldStale)]);
    assert!(matches!(machine.restore(None, Hold), Err(EngineError::Refused(Refusal::HeldStale(_)))));
}

#[test]
fn zero_and_leave_do_what_they_say_and_never_to_what_was_held() {
    for policy in [Zero, Leave] {
        let machine = Machine::new(Power::new(), 400, &[DATA + 800]);
        machine.fill_main();
        machine.create().unwrap();
        machine.main.set_bad(range(98, 2), Bad::Reads(Errno::ENODATA));
        machine.remap(&[range(96, 24)], Hold).unwrap();
        // Of the two held blocks one cannot be read from its slot; nor can an ordinary one, in another unit.
        for bad in [DATA + 2, DATA + 20] {
            machine.spares[0].set_bad(range(bad, 1), Bad::Reads(Errno::ENODATA));
        }
        let outcome = machine.evacuate(&on_first(&[range(DATA, 24)]), policy).unwrap();
        let held = [(98, Err(Errno::EIO)), (99, Err(Errno::EIO))];
        match policy {
            Zero => {
                let lost = [(range(98, 1), Fate::HeldStale), (range(99, 1), Fate::Held)];
                assert_eq!(losses(&machine), [lost[0], lost[1], (range(116, 1), Fate::Zeroed)]);
                assert_eq!(slots(&machine), [(range(96, 24), 0, DATA + 24)]);
                assert_eq!(machine.read(116).unwrap(), [0; 512]);
                machine.write(116, 0);
                assert_data(&machine, &held);
            }
            _ => {
                assert_eq!(losses(&machine), [(range(98, 1), Fate::HeldStale), (range(99, 1), Fate::Held)]);
                assert_eq!(outcome.dropped.len(), 1);
                assert_eq!(outcome.dropped[0].0, range(112, 8));
                assert_eq!(slots(&machine), [(range(96, 16), 0, DATA + 24), (range(112, 8), 0, DATA + 16)]);
                assert_data(&machine, &[held[0], held[1], (116, Err(Errno::ENODATA))]);
            }
        }
    }
}

#[test]
fn with_leave_bad_sectors_are_recorded_even_if_nothing_can_leave() {
    let machine = machine(&[DATA + 800]);
    machine.spares[0].set_bad(range(DATA + 5, 1), Bad::Reads(Errno::ENODATA));
    let outcome = machine.evacuate(&on_first(&[range(DATA + 5, 1)]), Leave).unwrap();
    assert!(outcome.moved.is_empty());
    assert_eq!(machine.session().unwrap().metadata.bad_blocks[&spare(0)], [range(DATA + 5, 1)]);
    assert_data(&machine, &[(101, Err(Errno::ENODATA))]);
}

#[test]
fn held_blocks_stay_held_in_the_new_slot_and_what_was_written_to_them_stays() {
    for kinds in KINDS {
        let machine = Machine::new(Power::new(), 400, &[DATA + 800]);
        machine.dm.set_supported(kinds);
        machine.fill_main();
        machine.create().unwrap();
        machine.main.set_bad(range(98, 4), Bad::Reads(Errno::ENODATA));
        machine.remap(&[range(96, 8)], Hold).unwrap();
        machine.write(99, 5);
        // The tombstone of 101 cannot be read any more: it stays held all the same.
        machine.spares[0].set_bad(range(DATA + 5, 1), Bad::Reads(Errno::ENODATA));
        let outcome = machine.evacuate(&on_first(&[range(DATA + 5, 1)]), Hold).unwrap();
        assert_eq!(outcome.rewritten, [range(99, 1)]);
        assert_eq!(slots(&machine), [(range(96, 8), 0, DATA + 8)]);
        let held = |sector| (sector, Err(Errno::EIO));
        assert_data(&machine, &[held(98), (99, Ok(5)), held(100), held(101)]);
        machine.write(101, 6);
        machine.deactivate().unwrap();
        machine.activate().unwrap();
        assert_data(&machine, &[held(98), (99, Ok(5)), held(100), (101, Ok(6))]);
    }
}

/// Writes one sector through the setup the `nth` time that the operation is asked for.
fn write_at(machine: &Machine, op: Op, nth: usize, sector: u64, version: u8) {
    let mut count = 0;
    machine.dm.on(
        op,
        Box::new(move |dm| {
            count += 1;
            if count == nth {
                // While the device is suspended it waits: here, it fails.
                let _ = dm.disk(support::NAME).write(Sectors(sector), &pattern(sector, version));
            }
        }),
    );
}

#[test]
fn what_is_written_during_the_move_is_in_the_new_slot() {
    let mut written = 0;
    for kinds in KINDS {
        for op in [Op::Table, Op::Message, Op::Load, Op::Window, Op::Suspend] {
            for nth in 1..6 {
                // An ordinary sector, a held one, one that cannot be read from its slot, and one that is both.
                for sector in [97, 98, 101, 103] {
                    let machine = Machine::new(Power::new(), 400, &[DATA + 800]);
                    machine.dm.set_supported(kinds);
                    machine.fill_main();
                    machine.create().unwrap();
                    for bad in [98, 103] {
                        machine.main.set_bad(range(bad, 1), Bad::Reads(Errno::ENODATA));
                    }
                    machine.remap(&[range(96, 8)], Hold).unwrap();
                    let bad = [range(DATA + 5, 1), range(DATA + 7, 1)];
                    for bad in bad {
                        machine.spares[0].set_bad(bad, Bad::UntilWritten(Errno::ENODATA));
                    }
                    write_at(&machine, op, nth, sector, 9);
                    machine.evacuate(&on_first(&bad), Hold).unwrap();
                    machine.dm.clear_hooks();
                    let context = format!("{kinds:?}: {sector} written at {op:?} number {nth}");
                    let mut expected = vec![(98, Err(Errno::EIO)), (101, Err(Errno::EIO)), (103, Err(Errno::EIO))];
                    let has = machine.spares[0].image().values().any(|data| *data == pattern(sector, 9));
                    assert_eq!(slots(&machine), [(range(96, 8), 0, DATA + 8)], "{context}");
                    // With flakey what was written to a held block reads after the next command only.
                    if kinds.contains(&"dust") && has {
                        assert_eq!(machine.read(sector), Ok(pattern(sector, 9).to_vec()), "{context}");
                    }
                    if has {
                        written += 1;
                        expected.retain(|(s, _)| *s != sector);
                        expected.push((sector, Ok(9)));
                    }
                    machine.deactivate().unwrap();
                    machine.activate().unwrap();
                    assert_data(&machine, &expected);
                }
            }
        }
    }
    assert!(written > 100, "only {written} writes were made");
}

#[test]
fn a_transport_error_or_a_spare_that_fails_as_a_whole_moves_nothing() {
    let machine = machine(&[DATA + 800]);
    let before = machine.session().unwrap().metadata;
    let bad = on_first(&[range(DATA + 5, 1)]);
    machine.spares[0].set_bad(range(DATA + 5, 1), Bad::Reads(Errno::ETIMEDOUT));
    assert!(matches!(machine.evacuate(&bad, Hold), Err(EngineError::Transport(_))));
    machine.spares[0].set_bad(range(DATA, 800), Bad::Reads(Errno::EIO));
    machine.spares[0].set_bad(range(9000, DATA - 9000), Bad::Reads(Errno::EIO));
    for probe in 1..8 {
        machine.spares[0].set_bad(range((DATA + 800) / 8 * probe, 1), Bad::Reads(Errno::EIO));
    }
    let failed = machine.evacuate(&bad, Hold).unwrap_err();
    assert!(matches!(failed, EngineError::NotTheMedium { .. }), "{failed}");
    machine.spares[0].clear_bad();
    assert_eq!(machine.session().unwrap().metadata, before);
    assert_data(&machine, &[]);
}

#[test]
fn a_new_slot_that_is_bad_too_is_replaced_by_one_that_nobody_uses() {
    let machine = machine(&[DATA + 64]);
    machine.remap(&[range(200, 8)], Hold).unwrap();
    // Slots at 0, 8 and 16 and at 24 are in use; 32 is the first that is free, and bad.
    machine.spares[0].set_bad(range(DATA + 33, 1), Bad::ReadsAndWrites(Errno::EIO));
    let outcome = machine.evacuate(&on_first(&[range(DATA + 1, 1), range(DATA + 17, 1)]), Hold).unwrap();
    assert_eq!(outcome.bad_slots, [(spare(0), range(DATA + 33, 1))]);
    let recorded = &machine.session().unwrap().metadata.bad_blocks[&spare(0)];
    assert_eq!(*recorded, [range(DATA + 1, 1), range(DATA + 17, 1), range(DATA + 33, 1)]);
    let expected = [
        (range(96, 8), 0, DATA + 48),
        (range(104, 8), 0, DATA + 8),
        (range(112, 8), 0, DATA + 40),
        (range(200, 8), 0, DATA + 24),
    ];
    assert_eq!(slots(&machine), expected);
    assert_data(&machine, &[]);
}

#[test]
fn a_block_of_main_is_lost_whole_where_the_spare_has_smaller_ones() {
    let power = Power::new();
    let mut machine = Machine::with_blocks(power.clone(), 8, 400, &[DATA + 800], vec![Default::default(); 2]);
    machine.spares[0] = Arc::new(RamDisk::with_power("spare0", Sectors(DATA + 800), Sectors(1), power));
    machine.dm.register(support::spare_number(0), machine.spares[0].clone());
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(96, 16)], Hold).unwrap();
    machine.spares[0].set_bad(range(DATA + 5, 1), Bad::Reads(Errno::ENODATA));
    machine.evacuate(&on_first(&[range(DATA + 5, 1)]), Hold).unwrap();
    assert_eq!(losses(&machine), [(range(96, 8), Fate::HeldStale)]);
    for sector in 96..112 {
        assert_eq!(machine.read(sector).is_ok(), sector >= 104, "sector {sector}");
    }
    let block: Vec<u8> = (96..104).flat_map(|sector| pattern(sector, 2)).collect();
    machine.dm.disk(support::NAME).write(Sectors(96), &block).unwrap();
    machine.deactivate().unwrap();
    machine.activate().unwrap();
    assert_eq!(losses(&machine), [(range(96, 8), Fate::Rewritten)]);
    assert_eq!(machine.read(101).unwrap(), pattern(101, 2));
}

#[test]
fn bad_sectors_in_free_space_are_recorded_once() {
    let machine = machine(&[DATA + 800]);
    let mut session = machine.session().unwrap();
    let before = session.metadata.generation;
    let bad = on_first(&[range(DATA + 100, 2), range(700, 1)]);
    assert!(record_bad_slots(&mut session, &bad).unwrap());
    assert!(!record_bad_slots(&mut session, &bad).unwrap());
    assert!(!record_bad_slots(&mut session, &OnSpares::new()).unwrap());
    let refused = record_bad_slots(&mut session, &on_first(&[range(DATA + 799, 2)])).unwrap_err();
    assert!(matches!(refused, EngineError::Refused(Refusal::NotOnSpare { .. })), "{refused}");
    let found = machine.session().unwrap().metadata;
    assert_eq!((found.generation, &found.bad_blocks), (before + 1, &session.metadata.bad_blocks));
    assert_eq!(found.bad_blocks[&spare(0)], [range(700, 1), range(DATA + 100, 2)]);
    // A plan without moves does the same.
    machine.evacuate(&on_first(&[range(DATA + 102, 1)]), Hold).unwrap();
    assert_eq!(machine.session().unwrap().metadata.bad_blocks[&spare(0)][1], range(DATA + 100, 3));
    assert_eq!(machine.session().unwrap().metadata.generation, before + 2);
}
