//! Faults: every disk request and every device-mapper call of an operation fails once, processes die at every step of
//! the window. The device runs, every sector is right (or answers EIO where nobody can know), metadata and live table
//! agree or `recover` makes them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::ram::{Bad, Power};
use dm_remap::dm::DeviceMapper;
use dm_remap::dm::fake::Op;
use dm_remap::engine::EngineError;
use dm_remap::engine::recover::Recovered;
use dm_remap::engine::window::WindowRunner;
use dm_remap::format::metadata::SpareState;
use dm_remap::format::metadata::UnreadablePolicy::Hold;
use dm_remap::segments::PART_LINES;
use dm_remap::units::Range;
use nix::errno::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use support::crash::{Rng, Shape, World, disks, images, kept_randomly, loaded};
use support::model::{Value, traffic};
use support::trap::{Died, Dying, count_ops, refuse_at};
use support::{Machine, NAME, range};

const ERRNOS: [Errno; 4] = [Errno::EIO, Errno::ENODATA, Errno::ENXIO, Errno::ETIMEDOUT];

/// Sectors that applications write to meanwhile: inside what moves, beside it, and elsewhere.
const TRAFFIC: [u64; 7] = [40, 10, 62, 25, 47, 80, 33];

#[derive(Clone, Copy, Debug)]
enum What {
    Remap,
    RemapHeld,
    Restore,
    /// From slot to slot, with held sectors.
    Evacuate,
}

impl What {
    const ALL: [What; 4] = [What::Remap, What::RemapHeld, What::Restore, What::Evacuate];

    fn shape(self, spares: usize) -> Shape {
        let bad = match self {
            What::RemapHeld => vec![range(65, 2)],
            What::Evacuate => vec![range(57, 2)],
            _ => Vec::new(),
        };
        Shape { bad, ..Shape::new(spares) }
    }

    /// A setup with extents and held sectors, and an application at work.
    fn start(self, spares: usize) -> World {
        let world = World::new(&self.shape(spares), Power::new());
        world.machine.create().unwrap();
        world.machine.remap(&[range(8, 8), range(24, 16)], Hold).unwrap();
        if let What::Evacuate = self {
            world.machine.remap(&[range(56, 8)], Hold).unwrap();
            world.model.get().set(range(57, 2), Value::Held);
        }
        if let What::Remap = self {
            support::enlarge_copies(&world.machine);
        }
        world.write(10);
        world.write(33);
        world.flush();
        traffic(&world.machine, &world.model, &TRAFFIC, 20);
        world
    }

    /// The ranges that move.
    fn moves(self) -> Vec<Range> {
        match self {
            What::Remap => vec![range(40, 8), range(56, 8)],
            What::RemapHeld => vec![range(40, 8), range(64, 8)],
            What::Restore => vec![range(8, 8), range(24, 8)],
            What::Evacuate => vec![range(24, 8), range(56, 8)],
        }
    }

    fn run(self, world: &World, runner: &dyn WindowRunner) -> Result<(), EngineError> {
        for bad in self.shape(1).bad {
            world.model.get().may_be(bad, Value::Held);
        }
        let machine = &world.machine;
        match self {
            What::Restore => machine.restore_with(Some(&self.moves()), Hold, runner).map(|_| ()),
            What::Evacuate => machine.evacuate_with(&machine.slots_of(&self.moves())?, Hold, runner).map(|_| ()),
            _ => machine.remap_with(&self.moves(), Hold, runner).map(|_| ()),
        }
    }

    fn run_plainly(self, world: &World) -> Result<(), EngineError> {
        self.run(world, &dm_remap::engine::window::Unguarded)
    }
}

/// What an error leaves in force must be in its text; unless it says otherwise, that is the old map.
fn says_what_is_in_force(error: &EngineError, moved: bool, context: &str) {
    let text = error.to_string();
    let says_moved = text.contains("is made");
    assert_eq!(says_moved, moved, "{context}: the new map is in force: {moved}, but the error says: {text}");
}

/// After a fault that has passed: everything runs and is right. Returns whether `recover` had anything to do.
fn all_is_well(
    world: &World,
    what: What,
    result: &Result<(), EngineError>,
    before: &support::crash::Loaded,
    context: &str,
) -> Recovered {
    let machine = &world.machine;
    world.quiet();
    assert_eq!(machine.suspended(), Vec::<String>::new(), "{context}: {result:?}");
    assert_eq!(machine.dm.violations(), Vec::<String>::new(), "{context}");
    let mut model = world.model.get().clone();
    let recovered = if let Err(EngineError::Unsettled { .. }) = result {
        model.check_except(machine, &what.moves(), context);
        assert!(machine.session().unwrap().check_live().is_err(), "{context}");
        let recovered = machine.recover().unwrap_or_else(|e| panic!("{context}: recover: {e}"));
        assert_eq!(recovered, Recovered::Settled, "{context}");
        recovered
    } else {
        let session = machine.session().unwrap_or_else(|e| panic!("{context}: {e}"));
        session.check_live().unwrap_or_else(|e| panic!("{context}: after {result:?}: {e}"));
        if let Err(error) = result {
            says_what_is_in_force(error, &loaded(machine) != before, context);
        }
        Recovered::Nothing
    };
    model.check(machine, context);
    assert_eq!(machine.recover().unwrap(), Recovered::Nothing, "{context}");
    survives(world, &mut model, what, context);
    recovered
}

/// Writes, a flush, a power cut: all that was flushed is there.
fn survives(world: &World, model: &mut support::model::Model, what: What, context: &str) {
    let machine = &world.machine;
    for sector in TRAFFIC {
        assert!(model.write(machine, sector), "{context}: write of sector {sector}");
    }
    model.flush(&machine.dm);
    let none = disks(machine).iter().map(|d| vec![false; d.pending()]).collect();
    let again = what.shape(machine.spares.len()).machine(Power::new(), images(machine, &none));
    again.activate().unwrap_or_else(|e| panic!("{context}: activate after a power cut: {e}"));
    model.clone().check(&again, &format!("{context}, after a power cut"));
}

#[test]
fn every_disk_request_of_a_splice_may_fail_once() {
    let mut faults = 0u32;
    for what in What::ALL {
        for spares in [1, 2] {
            let world = what.start(spares);
            let before: Vec<_> = disks(&world.machine).iter().map(|d| d.operations()).collect();
            what.run_plainly(&world).unwrap();
            let after: Vec<_> = disks(&world.machine).iter().map(|d| d.operations()).collect();
            for disk in 0..before.len() {
                let counts = [after[disk].0 - before[disk].0, after[disk].1 - before[disk].1];
                for (reads, count) in [false, true].into_iter().zip(counts) {
                    for position in 0..count {
                        let errnos = if spares == 1 { &ERRNOS[..] } else { &ERRNOS[position as usize % 4..][..1] };
                        for errno in errnos {
                            let world = what.start(spares);
                            let old = loaded(&world.machine);
                            let target = disks(&world.machine)[disk];
                            if reads {
                                target.fail_reads(position, 1, *errno);
                            } else {
                                target.fail_operations(position, 1, *errno);
                            }
                            let kind = if reads { "read" } else { "write or flush" };
                            let context = format!(
                                "{what:?}, {spares} spares, {errno:?} at {kind} {position} of {count} of disk {disk}"
                            );
                            let result = what.run_plainly(&world);
                            all_is_well(&world, what, &result, &old, &context);
                            faults += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{faults} disk faults");
    assert!(faults >= 600, "the battery has shrunk to {faults}");
}

const OPS: [Op; 12] = [
    Op::State,
    Op::Create,
    Op::Load,
    Op::Clear,
    Op::Suspend,
    Op::Resume,
    Op::Activate,
    Op::Table,
    Op::Message,
    Op::Window,
    Op::List,
    Op::EmergencyLoad,
];

#[test]
fn every_device_mapper_call_of_a_splice_may_be_refused_once() {
    let mut faults = 0u32;
    for what in What::ALL {
        for kinds in [&[][..], &["linear", "switch", "error", "flakey"][..]] {
            let start = || {
                let world = what.start(1);
                if !kinds.is_empty() {
                    world.machine.dm.set_supported(kinds);
                    world.model.get().held_lingers = true;
                }
                world
            };
            let world = start();
            let counts = count_ops(&world.machine.dm, &OPS, || what.run_plainly(&world).unwrap());
            for (op, count) in OPS.into_iter().zip(counts) {
                for position in 0..count {
                    for errno in [Errno::EINVAL, Errno::ENOMEM] {
                        let world = start();
                        let old = loaded(&world.machine);
                        refuse_at(&world.machine.dm, op, position, 1, errno);
                        let result = what.run_plainly(&world);
                        let context =
                            format!("{what:?}, {kinds:?}, {op:?} number {position} of {count} refused with {errno:?}");
                        all_is_well(&world, what, &result, &old, &context);
                        if result.is_err() && matches!(what, What::RemapHeld) && loaded(&world.machine) == old {
                            // What the refusal left half-made must not harm the next attempt.
                            what.run_plainly(&world).unwrap_or_else(|e| panic!("{context}, again: {e}"));
                            assert_eq!(world.machine.read(65), Err(Errno::EIO), "{context}, again");
                            assert_eq!(world.machine.read(66), Err(Errno::EIO), "{context}, again");
                        }
                        faults += 1;
                    }
                }
            }
        }
    }
    println!("{faults} refusals");
    assert!(faults >= 200, "the battery has shrunk to {faults}");
}

#[test]
fn a_kernel_that_refuses_the_new_table_leaves_the_old_map_as_a_newer_generation() {
    for what in What::ALL {
        let world = what.start(1);
        let old = world.machine.load().unwrap();
        refuse_at(&world.machine.dm, Op::Resume, 0, 1, Errno::EINVAL);
        let result = what.run_plainly(&world);
        assert!(matches!(result, Err(EngineError::Undone { .. })), "{what:?}: {result:?}");
        let new = world.machine.load().unwrap();
        assert_eq!(new.newest.metadata.generation, old.newest.metadata.generation + 2);
        assert_eq!(new.newest.metadata.map, old.newest.metadata.map);
        all_is_well(&world, what, &result, &loaded(&world.machine), &format!("{what:?}"));
    }
}

/// The only spare takes no write from a position in the commit on, so that nobody can know what it holds.
#[test]
fn an_unknowable_commit_makes_the_moved_sectors_answer_eio_until_recover() {
    let (mut unsettled, mut all) = (0, 0);
    for what in What::ALL {
        // (Refusals of resumes and loads of the emergency table are tried on top.)
        for refused in [None, Some(Op::Resume), Some(Op::EmergencyLoad), Some(Op::Clear), Some(Op::State)] {
            let world = what.start(1);
            let before = world.machine.spares[0].operations().0;
            what.run_plainly(&world).unwrap();
            let count = world.machine.spares[0].operations().0 - before;
            for position in 0..count {
                let world = what.start(1);
                let old = loaded(&world.machine);
                let spare = world.machine.spares[0].clone();
                spare.fail_operations(position, u64::MAX / 2, Errno::EIO);
                if let Some(op) = refused {
                    let mut armed = false;
                    world.machine.dm.on(
                        Op::Suspend,
                        Box::new(move |dm| {
                            if !std::mem::replace(&mut armed, true) {
                                dm.refuse_next(op, Errno::ENOMEM, 1);
                            }
                        }),
                    );
                }
                let context = format!("{what:?}, {refused:?} refused, no write from {position} of {count} on");
                let result = what.run_plainly(&world);
                world.quiet();
                // A refusal that was not used up must not hit somebody else.
                let _ = (
                    world.machine.dm.clear("nobody"),
                    world.machine.dm.resume("nobody"),
                    world.machine.dm.state("nobody"),
                );
                if let Err(EngineError::Unsettled { .. }) = result {
                    unsettled += 1;
                    world.model.get().check_except(&world.machine, &what.moves(), &context);
                    assert!(world.machine.recover().is_err(), "{context}: nothing can be settled yet");
                    world.model.get().check_except(&world.machine, &what.moves(), &context);
                    // A power cut instead of recover: either map, and the right data.
                    let mut rng = Rng::new(position);
                    for n in 0..4 {
                        let kept = kept_randomly(&world.machine, &mut rng);
                        let again = what.shape(1).machine(Power::new(), images(&world.machine, &kept));
                        let context = format!("{context}, power cut, subset {n}");
                        again.activate().unwrap_or_else(|e| panic!("{context}: {e}"));
                        world.model.get().after_crash().check(&again, &context);
                        all += 1;
                    }
                }
                spare.fail_operations(0, 0, Errno::EIO);
                all_is_well(&world, what, &result, &old, &context);
                all += 1;
            }
        }
    }
    println!("{all} ways to fail for good, {unsettled} of them unsettled");
    assert!(unsettled >= 60, "the battery has shrunk to {unsettled}");
}

#[test]
fn one_of_three_spares_may_fail_for_good_at_any_write() {
    let (mut faults, mut marked) = (0, 0);
    for what in [What::Remap, What::Restore, What::Evacuate] {
        for failing in 0..3 {
            let world = what.start(3);
            let before = world.machine.spares[failing].operations().0;
            what.run_plainly(&world).unwrap();
            let count = world.machine.spares[failing].operations().0 - before;
            for position in 0..count {
                let world = what.start(3);
                let old = loaded(&world.machine);
                let spare = world.machine.spares[failing].clone();
                spare.fail_operations(position, u64::MAX / 2, Errno::EIO);
                let context = format!("{what:?}, spare {failing} fails from {position} of {count} on");
                let result = what.run_plainly(&world);
                let machine = &world.machine;
                world.quiet();
                assert_eq!(machine.suspended(), Vec::<String>::new(), "{context}");
                let session = machine.session().unwrap();
                session.check_live().unwrap_or_else(|e| panic!("{context}: {e}"));
                world.model.get().check(machine, &context);
                let found = loaded(machine);
                assert!(result.is_err() || found != old, "{context}: an acknowledged move is lost");
                let state = session.metadata.spares[failing].state;
                let holds = dm_remap::store::read_copies(&*spare, dm_remap::format::choose::Expected::default());
                let behind = holds.choose().unwrap().copy.metadata.generation < session.metadata.generation;
                if result.is_ok() && behind {
                    assert_eq!(state, SpareState::Failed, "{context}");
                    marked += 1;
                }
                drop(session);
                // It comes back after a power cut: taken, or refused, but never with another map or other data.
                let mut rng = Rng::new(position);
                for n in 0..3 {
                    let kept = kept_randomly(machine, &mut rng);
                    let again = what.shape(3).machine(Power::new(), images(machine, &kept));
                    let context = format!("{context}, power cut, subset {n}");
                    if loaded(&again) != found {
                        assert!(result.is_err(), "{context}: an acknowledged move is lost");
                    }
                    match again.activate() {
                        Ok(_) => world.model.get().after_crash().check(&again, &context),
                        Err(EngineError::Refused(refusal)) => {
                            assert!(refusal.to_string().contains("stale"), "{context}: {refusal}");
                        }
                        Err(other) => panic!("{context}: {other}"),
                    }
                    faults += 1;
                }
            }
        }
    }
    println!("{faults} states with a failing spare, {marked} times marked as failed");
    assert!(faults >= 200 && marked >= 20, "the battery has shrunk");
}

/// Faults on top of the death, so that all phases are reached.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    RefusedResume,
    FailingSpare,
}

fn make_trouble(machine: &Machine, trouble: Trouble) {
    match trouble {
        Trouble::None => {}
        Trouble::RefusedResume => refuse_at(&machine.dm, Op::Resume, 0, 1, Errno::EINVAL),
        Trouble::FailingSpare => {
            let spare = machine.spares[0].clone();
            machine.dm.on(Op::Suspend, Box::new(move |_| spare.fail_operations(3, u64::MAX / 2, Errno::EIO)));
        }
    }
}

#[test]
fn whoever_dies_in_the_window_leaves_a_device_that_can_be_settled() {
    let mut deaths = 0;
    let mut phases = std::collections::BTreeMap::new();
    let mut outcomes = std::collections::BTreeMap::new();
    for what in What::ALL {
        for trouble in [Trouble::None, Trouble::RefusedResume, Trouble::FailingSpare] {
            for (guardian, after) in [(true, false), (true, true), (false, false), (false, true)] {
                for at in 1.. {
                    let world = what.start(1);
                    let machine = &world.machine;
                    let old = loaded(machine);
                    make_trouble(machine, trouble);
                    machine.trap.set(at, after);
                    let runner = Dying::new(machine, guardian);
                    let context = format!(
                        "{what:?}, {trouble:?}, guardian {guardian}, died {} step {at}",
                        if after { "after" } else { "before" }
                    );
                    let end = catch_unwind(AssertUnwindSafe(|| what.run(&world, &runner)));
                    world.quiet();
                    let Err(payload) = end else { break };
                    assert!(payload.is::<Died>(), "{context}");
                    deaths += 1;
                    *phases.entry(runner.died_in.load(Ordering::SeqCst)).or_insert(0) += 1;
                    machine.spares[0].fail_operations(0, 0, Errno::EIO);
                    let found = settled_by_hand(&world, what, guardian, &context);
                    *outcomes.entry(format!("{found:?}")).or_insert(0) += 1;
                    let _ = old;
                }
            }
        }
    }
    println!("{deaths} deaths; in phase: {phases:?}; recover: {outcomes:?}");
    assert!(deaths >= 300, "the battery has shrunk to {deaths}");
    for phase in [1, 2, 3, 4, 5, 6, 7] {
        assert!(phases.contains_key(&phase), "nobody died in phase {phase}");
    }
    for outcome in ["Nothing", "Resumed", "Completed", "Settled"] {
        assert!(outcomes.contains_key(outcome), "recover never said {outcome}");
    }
}

/// Runs `recover`, and checks everything.
fn settled_by_hand(world: &World, what: What, guardian: bool, context: &str) -> Recovered {
    let machine = &world.machine;
    if guardian {
        assert_eq!(machine.suspended(), Vec::<String>::new(), "{context}: the guardian left it so");
    }
    let recovered = machine.recover().unwrap_or_else(|e| panic!("{context}: recover: {e}"));
    assert_eq!(machine.suspended(), Vec::<String>::new(), "{context}");
    machine.session().unwrap().check_live().unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut model = world.model.get().clone();
    model.check(machine, context);
    survives(world, &mut model, what, context);
    // The next command works.
    machine.remap(&[range(88, 8)], Hold).unwrap_or_else(|e| panic!("{context}: the next command: {e}"));
    model.check(machine, context);
    recovered
}

#[test]
fn a_slot_that_does_not_keep_what_is_written_is_found_out() {
    for what in [What::Remap, What::RemapHeld] {
        let world = what.start(1);
        let lies = range(10_240 + 26, 1);
        world.machine.spares[0].set_bad(lies, Bad::Lies);
        let result = what.run_plainly(&world);
        let old = None;
        result.as_ref().unwrap();
        let session = world.machine.session().unwrap();
        assert_eq!(session.metadata.bad_blocks[&support::spare(0)], [lies]);
        drop(session);
        all_is_well(&world, what, &result, &old, &format!("{what:?} onto a slot that forgets"));
    }
}

#[test]
fn without_its_emergency_table_an_unsettled_device_waits_for_recover() {
    for what in What::ALL {
        // The spare fails in the commit. What was written meanwhile is copied again before it, and flushed.
        let waits = |first| {
            let world = what.start(1);
            let spare = world.machine.spares[0].clone();
            world.machine.dm.refuse_next(Op::EmergencyLoad, Errno::ENOMEM, 100);
            let failing = spare.clone();
            world
                .machine
                .dm
                .on(Op::Suspend, Box::new(move |_| failing.fail_operations(first, u64::MAX / 2, Errno::EIO)));
            let result = what.run_plainly(&world);
            if !matches!(result, Err(EngineError::StillSuspended { .. })) {
                return false;
            }
            assert_eq!(world.machine.suspended(), [NAME], "{what:?}: neither table may go on");
            world.quiet();
            spare.fail_operations(0, 0, Errno::EIO);
            settled_by_hand(&world, what, false, &format!("{what:?} without an emergency table"));
            true
        };
        assert!((3..9).any(waits), "{what:?}");
    }
}

/// The old map that is being committed again may be in the spare's cache only, and a flush of a setup without extents
/// does not reach the spare.
#[test]
fn recover_makes_durable_what_it_resumes_with() {
    let shape = Shape::new(1);
    let mut deaths = 0;
    for at in 1..60 {
        let world = World::new(&shape, Power::new());
        let machine = &world.machine;
        machine.create().unwrap();
        refuse_at(&machine.dm, Op::Resume, 0, 1, Errno::EINVAL);
        machine.trap.set(at, true);
        let runner = Dying::new(machine, false);
        let end = catch_unwind(AssertUnwindSafe(|| machine.remap_with(&[range(40, 8)], Hold, &runner)));
        if end.is_ok() {
            continue;
        }
        world.quiet();
        machine.recover().unwrap_or_else(|e| panic!("died after step {at}: recover: {e}"));
        world.write(41);
        world.flush();
        let none = disks(machine).iter().map(|d| vec![false; d.pending()]).collect();
        let again = shape.machine(Power::new(), images(machine, &none));
        again.activate().unwrap();
        world.model.get().check(&again, &format!("died after step {at}"));
        deaths += 1;
    }
    assert!(deaths >= 15, "{deaths}");
}

#[test]
fn many_extents_are_moved_in_one_swap() {
    let world = World::new(&Shape { main: 8, ..Shape::new(1) }, Power::new());
    drop(world);
    let mut machine = Machine::new(Power::new(), 11_000 * 16, &[10_240 + 11_000 * 8]);
    machine.part_lines = PART_LINES;
    machine.create().unwrap();
    let ranges: Vec<Range> = (0..10_000).map(|n| range(n * 16, 8)).collect();
    machine.remap(&ranges, Hold).unwrap();
    assert_eq!(machine.session().unwrap().metadata.map.len(), 10_000);
    machine.write(16, 9);
    let before = machine.dm.journal().len();
    let more: Vec<Range> = (10_000..11_000).map(|n| range(n * 16, 8)).collect();
    machine.remap(&more, Hold).unwrap();
    let swaps = |verb: &str| {
        let wanted = format!("{verb} {NAME}");
        machine.dm.journal()[before..].iter().filter(|line| **line == wanted).count()
    };
    assert_eq!((swaps("suspend"), swaps("resume")), (1, 1));
    let none = disks(&machine).iter().map(|d| vec![false; d.pending()]).collect();
    machine.dm.disk(NAME);
    let found = loaded(&machine).unwrap();
    assert_eq!(found.len(), 11_000);
    let again = Machine::with_images(Power::new(), 11_000 * 16, &[10_240 + 11_000 * 8], images(&machine, &none));
    again.activate().unwrap();
    assert_eq!(loaded(&again).unwrap(), found);
    let tables = again.session().unwrap().tables(dm_remap::dm::TableSlot::Active).unwrap();
    assert_eq!(tables.flat.len(), 22_000);
    println!("11000 extents, 1 swap");
}
