//! The engine on a made-up machine: what a setup does for those who use it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::Disk;
use dm_remap::block::ram::{Bad, Power};
use dm_remap::dm::DeviceMapper;
use dm_remap::dm::fake::Op;
use dm_remap::engine::destroy::destroy;
use dm_remap::engine::{EngineError, activate};
use dm_remap::format::metadata::SetupState;
use dm_remap::format::metadata::UnreadablePolicy::{Hold, Leave, Zero};
use dm_remap::map::Fate;
use dm_remap::plan::Refusal;
use dm_remap::units::Sectors;
use nix::errno::Errno;
use support::{Machine, pattern, range};

const SPARE: u64 = 10_240 + 800;

fn machine() -> Machine {
    let machine = Machine::new(Power::new(), 400, &[SPARE]);
    machine.fill_main();
    machine.create().unwrap();
    machine
}

#[test]
fn remapped_sectors_keep_their_data_and_live_on_the_spare() {
    let machine = machine();
    let outcome = machine.remap(&[range(100, 1), range(200, 20)], Hold).unwrap();
    assert_eq!(outcome.moved.iter().map(|m| m.range).collect::<Vec<_>>(), [range(96, 8), range(200, 24)]);
    machine.main.set_bad(range(96, 8), Bad::ReadsAndWrites(Errno::ENODATA));
    for sector in 0..400 {
        assert_eq!(machine.read(sector).unwrap(), pattern(sector, 0), "sector {sector}");
    }
    machine.write(100, 1);
    assert_eq!(machine.read(100).unwrap(), pattern(100, 1));
    assert!(machine.dm.violations().is_empty());
    assert_eq!(machine.session().unwrap().metadata.map.len(), 2);
}

#[test]
fn a_held_block_that_was_written_before_a_crash_reads_after_it_while_its_neighbour_stays_held() {
    for kinds in [&["linear", "switch", "error", "dust"][..], &["linear", "switch", "error", "flakey"]] {
        let machine = machine();
        machine.dm.set_supported(kinds);
        machine.main.set_bad(range(101, 2), Bad::Reads(Errno::ENODATA));
        machine.remap(&[range(101, 2)], Hold).unwrap();
        machine.write(101, 7);
        // No command comes to record it: the devices vanish.
        machine.dm.remove(support::NAME).unwrap();
        for private in ["anchor0", "overlay0", "anchor1", "overlay1", "spare0"] {
            let _ = machine.dm.remove(&format!("{}-{private}", support::NAME));
        }
        assert!(machine.dm.list().unwrap().is_empty());
        assert!(machine.activate().unwrap().unclean.is_some());
        assert_eq!(machine.read(101).unwrap(), pattern(101, 7), "{kinds:?}");
        assert_eq!(machine.read(102), Err(Errno::EIO));
        assert_eq!(machine.read(100).unwrap(), pattern(100, 0));
        assert!(machine.dm.violations().is_empty());
    }
}

#[test]
fn a_lost_block_answers_eio_until_it_is_written() {
    for kinds in [&["linear", "switch", "error", "dust"][..], &["linear", "switch", "error", "flakey"]] {
        let machine = machine();
        machine.dm.set_supported(kinds);
        machine.main.set_bad(range(101, 2), Bad::Reads(Errno::ENODATA));
        let outcome = machine.remap(&[range(101, 2)], Hold).unwrap();
        assert_eq!(outcome.lost.iter().map(|l| (l.range, l.fate)).collect::<Vec<_>>(), [(range(101, 2), Fate::Held)]);
        assert_eq!(machine.read(101), Err(Errno::EIO));
        assert_eq!(machine.read(102), Err(Errno::EIO));
        assert_eq!(machine.read(100).unwrap(), pattern(100, 0));
        machine.write(101, 7);
        if kinds.contains(&"flakey") {
            // The next command finds it.
            machine.remap(&[range(0, 1)], Hold).unwrap();
        }
        assert_eq!(machine.read(101).unwrap(), pattern(101, 7), "{kinds:?}");
        assert_eq!(machine.read(102), Err(Errno::EIO));
        let mut session = machine.session().unwrap();
        activate::deactivate(&mut session, String::new).unwrap();
        let up = machine.activate().unwrap();
        assert!(up.unclean.is_none());
        assert_eq!(machine.read(101).unwrap(), pattern(101, 7));
        assert_eq!(machine.read(102), Err(Errno::EIO));
        assert_eq!(up.session.metadata.map.losses().at(dm_remap::units::Sectors(101)).unwrap().fate, Fate::Rewritten);
        assert!(machine.dm.violations().is_empty());
    }
}

#[test]
fn zero_and_leave_do_what_they_say() {
    let machine = machine();
    machine.main.set_bad(range(17, 1), Bad::Reads(Errno::ENODATA));
    machine.main.set_bad(range(33, 1), Bad::Reads(Errno::ENODATA));
    machine.remap(&[range(17, 1)], Zero).unwrap();
    assert_eq!(machine.read(17).unwrap(), [0; 512]);
    assert_eq!(machine.read(16).unwrap(), pattern(16, 0));
    let outcome = machine.remap(&[range(24, 24)], Leave).unwrap();
    assert_eq!(outcome.moved.iter().map(|m| m.range).collect::<Vec<_>>(), [range(24, 8), range(40, 8)]);
    assert_eq!(machine.read(33), Err(Errno::ENODATA));
    assert_eq!(machine.read(41).unwrap(), pattern(41, 0));
    let losses: Vec<_> = machine.session().unwrap().metadata.map.losses().iter().map(|l| (l.range, l.fate)).collect();
    assert_eq!(losses, [(range(17, 1), Fate::Zeroed), (range(33, 1), Fate::Left)]);
}

#[test]
fn restored_sectors_come_back_with_their_newest_data() {
    let machine = machine();
    machine.remap(&[range(96, 24)], Hold).unwrap();
    machine.write(97, 5);
    machine.write(110, 6);
    let outcome = machine.restore(Some(&[range(104, 8)]), Hold).unwrap();
    assert_eq!(outcome.moved.len(), 1);
    assert_eq!(machine.session().unwrap().metadata.map.len(), 2);
    machine.restore(None, Hold).unwrap();
    assert!(machine.session().unwrap().metadata.map.is_empty());
    for sector in 90..130 {
        let version = match sector {
            97 => 5,
            110 => 6,
            _ => 0,
        };
        assert_eq!(machine.read(sector).unwrap(), pattern(sector, version));
    }
}

#[test]
fn held_blocks_are_restored_only_if_main_can_answer_for_them() {
    let machine = machine();
    machine.main.set_bad(range(101, 1), Bad::Reads(Errno::ENODATA));
    machine.remap(&[range(101, 1)], Hold).unwrap();
    let refused = machine.restore(None, Hold).unwrap_err();
    assert!(matches!(refused, EngineError::Refused(Refusal::HeldUnreadable(_))), "{refused}");
    machine.main.clear_bad();
    machine.restore(None, Hold).unwrap();
    assert_eq!(machine.read(101).unwrap(), pattern(101, 0));
    assert!(machine.session().unwrap().metadata.map.losses().is_empty());
}

#[test]
fn a_transport_error_remaps_nothing() {
    for errno in [Errno::ETIMEDOUT, Errno::ENOLINK, Errno::ENXIO] {
        let machine = machine();
        machine.main.set_bad(range(101, 1), Bad::Reads(errno));
        assert!(matches!(machine.remap(&[range(101, 1)], Hold), Err(EngineError::Transport(_))));
        assert!(machine.session().unwrap().metadata.map.is_empty());
    }
    let machine = machine();
    machine.main.set_bad(range(0, 400), Bad::Reads(Errno::EIO));
    assert!(matches!(machine.remap(&[range(101, 1)], Hold), Err(EngineError::NotTheMedium { .. })));
}

#[test]
fn a_bad_slot_is_recorded_and_another_is_taken() {
    let machine = machine();
    machine.spares[0].set_bad(range(10_241, 1), Bad::ReadsAndWrites(Errno::EIO));
    let outcome = machine.remap(&[range(100, 1)], Hold).unwrap();
    assert_eq!(outcome.bad_slots.len(), 1);
    assert_eq!(machine.read(100).unwrap(), pattern(100, 0));
    let session = machine.session().unwrap();
    assert_eq!(session.metadata.bad_blocks[&support::spare(0)], [range(10_241, 1)]);
    assert_eq!(session.metadata.map.extents().next().unwrap().slot.start.0, 10_248);
}

/// Writes one sector through the setup the first time that the operation is asked for.
fn write_once_at(machine: &Machine, op: Op, sector: u64, version: u8) {
    let mut done = false;
    machine.dm.on(
        op,
        Box::new(move |dm| {
            if !std::mem::replace(&mut done, true) {
                dm.disk(support::NAME).write(Sectors(sector), &pattern(sector, version)).unwrap();
            }
        }),
    );
}

#[test]
fn a_held_block_that_is_written_while_it_is_restored_keeps_what_was_written() {
    for op in [Op::Load, Op::Suspend, Op::Table] {
        let machine = machine();
        machine.main.set_bad(range(101, 1), Bad::Reads(Errno::ENODATA));
        machine.remap(&[range(101, 1)], Hold).unwrap();
        // Main reads again, so the restore takes place; its old data must not come back over the new.
        machine.main.clear_bad();
        write_once_at(&machine, op, 101, 9);
        machine.restore(None, Hold).unwrap();
        machine.dm.clear_hooks();
        assert_eq!(machine.read(101).unwrap(), pattern(101, 9), "written at {op:?}");
        assert!(machine.session().unwrap().metadata.map.is_empty());
    }
}

#[test]
fn a_salvaged_block_is_not_given_up_because_a_neighbour_was_written() {
    for op in [Op::Load, Op::Suspend] {
        let machine = machine();
        write_once_at(&machine, op, 100, 3);
        let main = machine.main.clone();
        // By now it is salvaged; the disk cannot read it a second time.
        machine.dm.on(op, Box::new(move |_| main.set_bad(range(8, 8), Bad::Reads(Errno::ENODATA))));
        let outcome = machine.remap(&[range(8, 8), range(200, 8)], Hold).unwrap();
        machine.dm.clear_hooks();
        assert!(outcome.lost.is_empty(), "{:?}", outcome.lost);
        assert_eq!(machine.read(9).unwrap(), pattern(9, 0));
        assert_eq!(machine.read(100).unwrap(), pattern(100, 3));
    }
}

#[test]
fn a_block_that_was_written_and_cannot_be_read_any_more_is_lost_and_never_stale() {
    let machine = machine();
    write_once_at(&machine, Op::Suspend, 8, 3);
    let main = machine.main.clone();
    machine.dm.on(Op::Suspend, Box::new(move |_| main.set_bad(range(8, 1), Bad::Reads(Errno::ENODATA))));
    let outcome = machine.remap(&[range(8, 8)], Hold).unwrap();
    machine.dm.clear_hooks();
    assert_eq!(outcome.lost.iter().map(|l| l.range).collect::<Vec<_>>(), [range(8, 1)]);
    assert_eq!(machine.read(8), Err(Errno::EIO));
    assert_eq!(machine.read(9).unwrap(), pattern(9, 0));
}

#[test]
fn a_remap_that_would_leave_nothing_on_main_is_refused() {
    let machine = machine();
    let refused = machine.remap(&[range(0, 400)], Hold).unwrap_err();
    assert!(matches!(refused, EngineError::Refused(Refusal::WholeMain)), "{refused}");
}

#[test]
fn a_spare_that_cannot_be_told_of_the_destruction_leaves_the_others_as_witnesses() {
    let machine = Machine::new(Power::new(), 400, &[SPARE, SPARE]);
    machine.fill_main();
    machine.create().unwrap();
    machine.spares[1].set_failing(Some(Errno::EIO));
    let mut session = machine.session().unwrap();
    let error = destroy(&mut session, false, String::new, || ()).unwrap_err();
    drop(session);
    let text = error.to_string();
    assert!(text.contains("spare 1 could not be told") && text.contains("destroy"), "{text}");
    assert!(machine.dm.list().unwrap().is_empty());
    // Whoever looks finds a setup that was destroyed, not one with a spare missing.
    machine.spares[1].set_failing(None);
    let (found, _) = machine.assembled().unwrap();
    assert_eq!(found.newest.metadata.config.state, SetupState::Dissolved);
    // One that does not know is erased before the others, so that none is left alone.
    let machine = Machine::new(Power::new(), 400, &[SPARE, SPARE]);
    machine.fill_main();
    machine.create().unwrap();
    destroy(&mut machine.session().unwrap(), false, String::new, || ()).unwrap();
    assert!(machine.assembled().is_err());
}
