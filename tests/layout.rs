//! The layout of a setup's tables on a fake device-mapper: chosen, changed while the setup is up, and settled when the
//! change is interrupted. (The crash, fault and member tests run once more with DM_REMAP_TEST_LAYOUT=switched.)

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use dm_remap::block::Disk;
use dm_remap::block::ram::Power;
use dm_remap::dm::fake::Op;
use dm_remap::dm::{DeviceMapper, TableSlot};
use dm_remap::engine::recover::{Recovered, recover};
use dm_remap::engine::tables::change_layout;
use dm_remap::engine::{EngineError, Silent};
use dm_remap::format::metadata::UnreadablePolicy;
use dm_remap::plan::Refusal;
use dm_remap::segments::{Layout, LayoutRule, PartLines, Target, TargetKind};
use dm_remap::units::Sectors;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Machine, NAME, range};

const SWITCHED: LayoutRule = LayoutRule::Fixed(Layout::Switched);
const FLAT: LayoutRule = LayoutRule::Fixed(Layout::Flat);
const HOLD: UnreadablePolicy = UnreadablePolicy::Hold;

/// Main full of data with two extents, one on each spare.
fn machine(layout: LayoutRule) -> Machine {
    let mut machine = Machine::new(Power::new(), 400, &[10_240 + 8, 10_240 + 128]);
    machine.layout = layout;
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(40, 8), range(200, 8)], HOLD).unwrap();
    machine
}

fn layout(machine: &Machine) -> Layout {
    machine.session().unwrap().check_live().unwrap()
}

fn devices(machine: &Machine) -> Vec<String> {
    machine.dm.list().unwrap().into_iter().map(|(name, _)| name).collect()
}

fn content(machine: &Machine) -> Vec<u8> {
    let mut data = vec![0; 400 * 512];
    machine.dm.disk(NAME).read(Sectors(0), &mut data).unwrap();
    data
}

#[test]
fn it_changes_while_the_setup_is_up_and_what_is_read_stays() {
    let machine = machine(FLAT);
    let (before, generation) = (content(&machine), machine.session().unwrap().metadata.generation);
    for (rule, want, count) in
        [(SWITCHED, Layout::Switched, 5), (SWITCHED, Layout::Switched, 5), (FLAT, Layout::Flat, 3)]
    {
        let mut session = machine.session().unwrap();
        assert_eq!(change_layout(&mut session, rule).unwrap(), want);
        assert_eq!(layout(&machine), want);
        assert_eq!(content(&machine), before);
        assert_eq!(devices(&machine).len(), count, "{:?}", devices(&machine));
    }
    assert_eq!(machine.session().unwrap().metadata.generation, generation, "the metadata know nothing of it");
    assert_eq!(machine.dm.violations(), Vec::<String>::new());
}

#[test]
fn a_splice_swaps_a_table_of_two_lines_however_many_extents_there_are() {
    let machine = machine(SWITCHED);
    let before = machine.dm.journal().len();
    machine.remap(&[range(80, 16), range(120, 8)], HOLD).unwrap();
    let journal = machine.dm.journal();
    let loads: Vec<&String> = journal[before..].iter().filter(|l| l.starts_with(&format!("load {NAME} "))).collect();
    assert_eq!(loads, [&format!("load {NAME} 2 targets")]);
    assert_eq!(devices(&machine).len(), 5, "{:?}", devices(&machine));
}

#[test]
fn a_flush_of_the_setup_makes_main_and_every_spare_durable() {
    for rule in [FLAT, SWITCHED] {
        let machine = machine(rule);
        let disk = machine.dm.disk(NAME);
        for sector in [10, 41, 201, 399] {
            disk.write(Sectors(sector), &[7; 512]).unwrap();
        }
        let unsafe_writes = |machine: &Machine| -> usize {
            [&machine.main].into_iter().chain(&machine.spares).map(|disk| disk.pending()).sum()
        };
        assert_eq!(unsafe_writes(&machine), 4);
        disk.flush().unwrap();
        assert_eq!(unsafe_writes(&machine), 0, "{rule:?}");
    }
}

#[test]
fn auto_takes_the_switched_layout_once_there_are_enough_extents_and_keeps_it() {
    let machine = machine(LayoutRule::Auto { from: 3 });
    assert_eq!(layout(&machine), Layout::Flat);
    machine.remap(&[range(80, 8)], HOLD).unwrap();
    assert_eq!(layout(&machine), Layout::Switched);
    machine.restore(Some(&[range(80, 8)]), HOLD).unwrap();
    assert_eq!(layout(&machine), Layout::Switched);
    // It is made anew when the setup comes up.
    machine.deactivate().unwrap();
    machine.activate().unwrap();
    assert_eq!(layout(&machine), Layout::Flat);
}

#[test]
fn a_kernel_without_switch_gets_the_flat_layout_and_only_who_asks_for_the_other_is_refused() {
    let mut machine = machine(FLAT);
    machine.dm.set_supported(&["linear", "error"]);
    for rule in [SWITCHED, LayoutRule::Auto { from: 1 }] {
        machine.layout = rule;
        machine.remap(&[range(if rule == SWITCHED { 80 } else { 120 }, 8)], HOLD).unwrap();
        assert_eq!(layout(&machine), Layout::Flat);
    }
    let mut session = machine.session().unwrap();
    let refused = change_layout(&mut session, SWITCHED);
    assert!(matches!(refused, Err(EngineError::Refused(Refusal::NoSwitch(_)))), "{refused:?}");
    assert_eq!(layout(&machine), Layout::Flat);
    assert_eq!(devices(&machine).len(), 3, "{:?}", devices(&machine));
    // Who asks for it when the setup comes up is told.
    for (rule, told) in [(FLAT, false), (LayoutRule::Auto { from: 1 }, false), (SWITCHED, true)] {
        machine.deactivate().unwrap();
        machine.layout = rule;
        machine.told.notes.lock().unwrap().clear();
        machine.activate().unwrap();
        let notes = machine.told.notes.lock().unwrap().clone();
        assert_eq!(notes.iter().any(|note| note.contains("no dm-switch")), told, "{rule:?}: {notes:?}");
    }
}

/// Whatever call of device-mapper fails in a change of the layout: the setup runs in one of the two, with nothing else
/// beside it after the next command.
#[test]
fn every_call_of_a_change_may_be_refused_once() {
    let ops =
        [Op::Create, Op::Load, Op::Clear, Op::Resume, Op::Activate, Op::Remove, Op::Table, Op::State, Op::Message];
    let mut faults = 0;
    for (from, to) in [(FLAT, SWITCHED), (SWITCHED, FLAT), (SWITCHED, SWITCHED)] {
        for op in ops {
            for position in 0..60 {
                let machine = machine(from);
                let before = content(&machine);
                let calls = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
                let seen = calls.clone();
                machine.dm.on(
                    op,
                    Box::new(move |dm| {
                        if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == position {
                            dm.refuse_next(op, Errno::ENOMEM, 1);
                        }
                    }),
                );
                let result = machine.session().and_then(|mut session| change_layout(&mut session, to));
                machine.dm.clear_hooks();
                if calls.load(std::sync::atomic::Ordering::SeqCst) <= position {
                    break;
                }
                faults += 1;
                assert!(!machine.dm.state(NAME).unwrap().unwrap().suspended, "{op:?} {position}: {result:?}");
                assert_eq!(content(&machine), before, "{op:?} {position}");
                let mut session = machine.session().unwrap();
                session.check_live().unwrap();
                session.clear_leftovers().unwrap();
                let count = if layout(&machine) == Layout::Switched { 5 } else { 3 };
                assert_eq!(devices(&machine).len(), count, "{op:?} {position}: {:?}", devices(&machine));
            }
        }
    }
    println!("{faults} calls refused");
    assert!(faults > 100);
}

#[test]
fn an_anchor_that_does_not_flush_every_spare_is_not_taken_for_ours() {
    let machine = machine(SWITCHED);
    let anchor = devices(&machine).into_iter().find(|name| name.contains("-anchor")).unwrap();
    let mut table = machine.dm.table(&anchor, TableSlot::Active).unwrap();
    table.pop();
    machine.dm.load(&anchor, &table, false).unwrap();
    machine.dm.resume(&anchor).unwrap();
    let differs = machine.session().unwrap().check_live();
    assert!(matches!(differs, Err(EngineError::Refused(Refusal::TableDiffers { .. }))), "{differs:?}");
    let mut session = machine.session().unwrap();
    assert!(recover(&mut session, &Silent).is_err());
}

#[test]
fn the_check_of_a_table_reads_each_part_of_it_once() {
    for (rule, reads) in [(FLAT, 1), (SWITCHED, 3)] {
        let machine = machine(rule);
        let session = machine.session().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        machine.dm.on(
            Op::Table,
            Box::new(move |_| {
                seen.fetch_add(1, Ordering::SeqCst);
            }),
        );
        session.check_live().unwrap();
        machine.dm.clear_hooks();
        assert_eq!(count.load(Ordering::SeqCst), reads, "{rule:?}");
    }
}

/// Each line of a table in turn with other sectors behind it, with EIO, and exchanged with the next one; and the table
/// without its last line.
fn changed(table: &[Target]) -> Vec<Vec<Target>> {
    let mut all = vec![table[..table.len() - 1].to_vec()];
    for at in 0..table.len() {
        let mut elsewhere = table.to_vec();
        match &mut elsewhere[at].kind {
            TargetKind::Linear { offset, .. } | TargetKind::Switch { offset, .. } => {
                offset.0 = if offset.0 < 8 { offset.0 + 8 } else { offset.0 - 8 };
            }
            other => panic!("{other:?}"),
        }
        let mut error = table.to_vec();
        error[at].kind = TargetKind::Error;
        all.extend([elsewhere, error]);
        if at + 1 < table.len() {
            let mut exchanged = table.to_vec();
            let kind = exchanged[at].kind.clone();
            exchanged[at].kind = std::mem::replace(&mut exchanged[at + 1].kind, kind);
            all.push(exchanged);
        }
    }
    all
}

#[test]
fn any_line_that_is_not_as_it_was_made_is_seen() {
    let mut machine = Machine::new(Power::new(), 400, &[10_240 + 8, 10_240 + 128]);
    machine.layout = SWITCHED;
    machine.part_lines = PartLines { fill: 2, most: 3 };
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(40, 8), range(200, 8)], HOLD).unwrap();
    let parts = devices(&machine).into_iter().filter(|name| name.contains("-anchor") || name.contains("-overlay"));
    let (session, mut seen, mut kinds) = (machine.session().unwrap(), 0, BTreeMap::new());
    for name in parts.chain([NAME.to_string()]) {
        let right = machine.dm.table(&name, TableSlot::Active).unwrap();
        let mut all = changed(&right);
        if name == NAME {
            // No line that a flush goes through.
            let mut unanchored = right.clone();
            unanchored[0].kind = unanchored[1].kind.clone();
            all.push(unanchored);
        }
        for wrong in all.into_iter().filter(|wrong| !wrong.is_empty()) {
            machine.dm.load(&name, &wrong, false).unwrap();
            if machine.dm.resume(&name).is_err() {
                // The kernel does not take it; it goes on with what it had.
                machine.dm.resume(&name).unwrap();
                continue;
            }
            let live = session.check_live();
            assert!(live.is_err(), "{name}: {wrong:?} was taken for {right:?}");
            seen += 1;
        }
        machine.dm.load(&name, &right, false).unwrap();
        machine.dm.resume(&name).unwrap();
        *kinds.entry(name.split('-').nth(1).map_or(0, str::len)).or_insert(0) += right.len();
        assert_eq!(layout(&machine), Layout::Switched);
    }
    assert!(seen > 30 && kinds.len() == 3, "{seen} {kinds:?}");
}

#[test]
fn a_private_device_that_somebody_left_suspended_is_let_go_by_recover() {
    let machine = machine(SWITCHED);
    let overlay = devices(&machine).into_iter().find(|name| name.contains("-overlay")).unwrap();
    machine.dm.suspend(&overlay).unwrap();
    let mut session = machine.session().unwrap();
    assert_eq!(recover(&mut session, &Silent).unwrap(), Recovered::Nothing);
    assert!(!machine.dm.state(&overlay).unwrap().unwrap().suspended);
}

/// The overlays of the setup with their tables.
fn overlays(machine: &Machine) -> BTreeMap<String, usize> {
    let names = devices(machine).into_iter().filter(|name| name.contains("-overlay"));
    names.map(|name| (name.clone(), machine.dm.table(&name, TableSlot::Active).unwrap().len())).collect()
}

#[test]
fn a_splice_makes_only_the_overlays_anew_whose_lines_change() {
    let mut machine = Machine::new(Power::new(), 4000, &[10_240 + 2000]);
    machine.layout = SWITCHED;
    machine.part_lines = PartLines { fill: 16, most: 32 };
    machine.fill_main();
    machine.create().unwrap();
    let many: Vec<_> = (0..60).map(|n| range(n * 64, 8)).collect();
    machine.remap(&many, HOLD).unwrap();
    let before = overlays(&machine);
    assert_eq!(before.values().sum::<usize>(), 120, "{before:?}");
    assert!(before.len() == 8 && before.values().all(|lines| *lines <= 16), "{before:?}");
    assert_eq!(devices(&machine).iter().filter(|name| name.contains("-anchor")).count(), 1);
    let calls = machine.dm.journal().len();
    machine.remap(&[range(2024, 8)], HOLD).unwrap();
    let after = overlays(&machine);
    let kept = before.keys().filter(|name| after.get(*name) == before.get(*name)).count();
    assert_eq!((after.len(), kept), (8, 7), "{before:?} {after:?}");
    let journal = machine.dm.journal();
    let loads = journal[calls..].iter().filter(|call| call.starts_with("load "));
    let lines: Vec<usize> = loads.map(|call| call.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|lines| *lines <= 18), "{journal:?}");
    // Where they get too large they are parted, and where they get small they are put together.
    let more: Vec<_> = (0..30).map(|n| range(2064 + n * 64, 8)).collect();
    machine.remap(&more, HOLD).unwrap();
    assert!(overlays(&machine).values().all(|lines| *lines <= 32), "{:?}", overlays(&machine));
    machine.restore(None, HOLD).unwrap();
    let left = overlays(&machine);
    assert!(left.len() <= 2 && left.values().all(|lines| *lines == 1), "{left:?}");
    let mut data = vec![0; 4000 * 512];
    machine.dm.disk(NAME).read(Sectors(0), &mut data).unwrap();
    for (sector, data) in data.chunks_exact(512).enumerate() {
        assert_eq!(data, support::pattern(sector as u64, 0), "sector {sector}");
    }
    assert!(machine.dm.violations().is_empty());
}
