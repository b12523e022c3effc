//! An import that is cut off at any request leaves no setup, or a whole one with the right data; the old spare is never
//! written.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::Disk;
use dm_remap::block::ram::{Bad, Image, Power, RamDisk};
use dm_remap::engine::create::CreateOptions;
use dm_remap::engine::import::{ImportDevices, import, look_at_slots};
use dm_remap::engine::{DiskSource, EngineError, Silent};
use dm_remap::format::foreign_module::{Doubt, Entry, Ground, Layout, ModuleMetadata, Standing, judge};
use dm_remap::format::metadata::SetupState;
use dm_remap::plan::import::{ImportFacts, ImportPlan, plan};
use dm_remap::segments::LayoutRule;
use dm_remap::units::Sectors;
use nix::errno::Errno;
use std::sync::Arc;
use support::{MAIN, Machine, mark, pattern, range, spare_number};

const MAIN_SECTORS: u64 = 96;
const SPARE: [u64; 1] = [10_240 + 128];
const ROWS: [(u64, u64); 4] = [(10, 2000), (11, 2001), (41, 2005), (90, 2006)];

fn old_spare() -> Arc<RamDisk> {
    let old = RamDisk::new("old", Sectors(4096));
    for (original, slot) in ROWS {
        old.write(Sectors(slot), &pattern(original, 7)).unwrap();
    }
    Arc::new(old)
}

fn facts(machine: &Machine) -> ImportFacts {
    let entry = |(index, (original, slot)): (usize, (u64, u64))| {
        let (original, slot) = (Sectors(original), Sectors(slot));
        Entry { index, original, slot, time: 0, standing: Standing::default() }
    };
    let module = ModuleMetadata {
        layout: Layout::V4,
        copy: (0, Sectors(0)),
        main_sectors: Sectors(MAIN_SECTORS),
        spare_sectors: Sectors(4096),
        names: Vec::new(),
        entries: ROWS.into_iter().enumerate().map(entry).collect(),
        metadata_end: Sectors(1280),
        notes: Vec::new(),
    };
    ImportFacts {
        judged: judge(&module, &Ground { main: Sectors(MAIN_SECTORS), spare: Sectors(4096), in_place: false }),
        module,
        accept: vec![Doubt::Unreadable],
        old: "/dev/old".into(),
        old_uses: Vec::new(),
        old_block: Sectors(1),
        other_size: false,
        create: machine.facts(),
    }
}

fn run(machine: &Machine, plan: &ImportPlan, old: &Arc<RamDisk>) -> Result<Vec<(u64, u64)>, EngineError> {
    let member = |devno| machine.open(devno, true).map(Option::unwrap);
    let devices = ImportDevices { main: member(MAIN)?, spare: member(spare_number(0))?, old: old.clone() };
    let options = CreateOptions { mark: &mark(), layout: LayoutRule::Keep, recheck: &|| Ok(()), observer: &Silent };
    let made = import(&machine.dm, plan, devices, 1, &options)?;
    Ok(made.lost.iter().map(|lost| (lost.start().0, lost.len().0)).collect())
}

fn blank() -> Machine {
    let machine = Machine::new(Power::new(), MAIN_SECTORS, &SPARE);
    machine.fill_main();
    machine
}

/// What sector of the setup must hold, where it can be read.
fn expected(sector: u64) -> Vec<u8> {
    let imported = ROWS.iter().any(|(original, _)| *original == sector);
    pattern(sector, if imported { 7 } else { 0 }).to_vec()
}

#[test]
fn a_power_cut_at_any_request_leaves_no_setup_or_a_whole_one() {
    let main = blank().main.image();
    let old = old_spare();
    let before = old.image();
    let (mut whole, mut none) = (0, 0);
    for cut in 0.. {
        let power = Power::cut_at(cut);
        let machine = Machine::with_images(power, MAIN_SECTORS, &SPARE, vec![main.clone(), Image::new()]);
        let done = run(&machine, &plan(facts(&machine)).unwrap(), &old).is_ok();
        for seed in 0..4u64 {
            let mut state = cut * 31 + seed;
            let spare = machine.spares[0].after_power_cut(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed != 0 && (seed == 1 || state >> 40 & 1 == 0)
            });
            assert!(machine.main.after_power_cut(|_| true) == main, "main was written");
            let after = Machine::with_images(Power::new(), MAIN_SECTORS, &SPARE, vec![main.clone(), spare]);
            let ready = after.load().filter(|choice| choice.newest.metadata.config.state == SetupState::Ready);
            if ready.is_none() {
                assert!(!done);
                assert!(after.activate().is_err());
                none += 1;
                continue;
            }
            whole += 1;
            after.activate().unwrap();
            for sector in 0..MAIN_SECTORS {
                assert!(after.read(sector).unwrap() == expected(sector), "cut at {cut}: sector {sector}");
            }
        }
        if done {
            break;
        }
    }
    assert!(old.image() == before, "the old spare was written");
    assert!(whole > 8 && none > 20, "{whole} {none}");
}

#[test]
fn what_cannot_be_read_is_held_and_not_taken_from_an_older_place() {
    let machine = blank();
    let old = old_spare();
    // One sector of main beside an entry, one under an entry (which does not matter), and one old slot.
    machine.main.set_bad(range(40, 2), Bad::Reads(Errno::ENODATA));
    old.set_bad(range(2006, 1), Bad::Reads(Errno::ENODATA));
    let mut facts = facts(&machine);
    look_at_slots(&*old, &*machine.main, &mut facts.judged, &Silent).unwrap();
    assert_eq!(facts.judged[3].doubts, [Doubt::Unreadable]);
    let lost = run(&machine, &plan(facts).unwrap(), &old).unwrap();
    assert_eq!(lost, [(40, 1), (90, 1)]);
    for sector in 0..MAIN_SECTORS {
        match sector {
            40 | 90 => assert!(machine.read(sector).is_err(), "sector {sector}"),
            _ => assert!(machine.read(sector).unwrap() == expected(sector), "sector {sector}"),
        }
    }
}

#[test]
fn slots_of_zeros_are_in_doubt_unless_main_has_zeros_too() {
    let machine = blank();
    let old = old_spare();
    old.write(Sectors(2000), &[0; 512]).unwrap();
    old.write(Sectors(2001), &[0; 512]).unwrap();
    old.write(Sectors(2005), &[0; 512]).unwrap();
    machine.main.write(Sectors(11), &[0; 512]).unwrap();
    machine.main.set_bad(range(41, 1), Bad::Reads(Errno::ENODATA));
    let mut judged = facts(&machine).judged;
    look_at_slots(&*old, &*machine.main, &mut judged, &Silent).unwrap();
    let doubts: Vec<_> = judged.iter().map(|one| one.doubts.clone()).collect();
    assert_eq!(doubts, [vec![Doubt::Blank], vec![], vec![Doubt::Blank], vec![]]);
    // Trouble that is not about sectors ends it.
    old.set_failing(Some(Errno::ENXIO));
    assert!(matches!(look_at_slots(&*old, &*machine.main, &mut judged, &Silent), Err(EngineError::Transport(_))));
}

#[test]
fn a_new_spare_that_fails_leaves_no_setup() {
    let old = old_spare();
    let machine = blank();
    machine.spares[0].set_bad(range(10_240, 8), Bad::ReadsAndWrites(Errno::EIO));
    let error = run(&machine, &plan(facts(&machine)).unwrap(), &old).unwrap_err();
    assert!(error.to_string().contains("take another device"), "{error}");
    assert!(machine.load().is_none() && machine.suspended().is_empty());
}
