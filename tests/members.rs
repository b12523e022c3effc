//! Changes of the pool's members when things go wrong: the power is cut at every write and flush, every disk fails at
//! every one of its writes, every device-mapper call is refused. The old list of members is in force or the new one, every
//! sector has its data, and what was interrupted can be finished.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::Disk;
use dm_remap::block::ram::{Bad, Power};
use dm_remap::dm::DeviceMapper;
use dm_remap::dm::fake::Op;
use dm_remap::engine::members::{self, check_back};
use dm_remap::engine::recover::Recovered;
use dm_remap::engine::splice::{SpliceOptions, splice};
use dm_remap::engine::{DiskSource, EngineError, Member, Silent};
use dm_remap::format::choose::Expected;
use dm_remap::format::copy::encode;
use dm_remap::format::metadata::UnreadablePolicy::Hold;
use dm_remap::format::metadata::{Metadata, SpareState};
use dm_remap::map::SpareIndex;
use dm_remap::plan::create::{Contents, DeviceFacts, SpareFacts};
use dm_remap::plan::spares::{AddFacts, Destinations, plan_add, plan_grow, plan_leave};
use dm_remap::plan::{MoveKind, Refusal};
use dm_remap::scan::act::{Policy, move_found};
use dm_remap::scan::survey::Found;
use dm_remap::store::{Commit, erase_copies, read_copies};
use dm_remap::units::Sectors;
use nix::errno::Errno;
use support::crash::{Rng, Shape, World, images, kept_randomly};
use support::model::{Value, traffic};
use support::trap::{count_ops, refuse_at};
use support::{Machine, NAME, later_number, options, range, spare, spare_number};
use uuid::Uuid;

/// Sectors that applications write to meanwhile.
const TRAFFIC: [u64; 5] = [10, 26, 30, 62, 80];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Add,
    Leave,
    Remove,
    Readd,
    /// The same under another device number.
    Return,
}

impl What {
    const ALL: [What; 5] = [What::Add, What::Leave, What::Remove, What::Readd, What::Return];

    fn shape() -> Shape {
        Shape { bad: vec![range(57, 2)], ..Shape::new(4) }
    }

    /// Three spares, the extents on the first, and a fourth disk.
    fn start(self, power: std::sync::Arc<Power>) -> World {
        let world = World::new(&What::shape(), power);
        let machine = &world.machine;
        machine.create_with(3).unwrap();
        machine.remap(&[range(8, 8), range(24, 16), range(56, 8)], Hold).unwrap();
        world.model.get().set(range(57, 2), Value::Held);
        match self {
            What::Add | What::Leave => {}
            What::Remove => What::Leave.run(machine).unwrap(),
            What::Readd | What::Return => {
                members::set_state(&mut machine.session().unwrap(), spare(0), SpareState::Failed).unwrap();
                for sector in [8, 24] {
                    world.write(sector);
                }
                members::set_state(&mut machine.session().unwrap(), spare(1), SpareState::Draining).unwrap();
            }
        }
        world.flush();
        traffic(machine, &world.model, &TRAFFIC, 14);
        world
    }

    fn run(self, machine: &Machine) -> Result<(), EngineError> {
        match self {
            What::Add => add(machine, 3),
            What::Leave => {
                members::set_state(&mut machine.session()?, spare(0), SpareState::Draining)?;
                loop {
                    let mut session = machine.session()?;
                    let plan = plan_leave(&session.metadata, spare(0), &Destinations::default(), Hold, |_| true)?;
                    if plan.moves.is_empty() {
                        return Ok(());
                    }
                    splice(&mut session, plan.first_part(Sectors(16), 2, Sectors(8)), &options())?;
                }
            }
            What::Remove => members::remove(&mut machine.session()?, spare(0)).map(|_| ()),
            What::Readd | What::Return => {
                let number = if self == What::Return { later_number(0) } else { spare_number(0) };
                let member = machine.open(number, true)?.unwrap();
                members::readd(&mut machine.session()?, spare(0), member, &|| Ok(()), &Silent)
            }
        }
    }

    fn takes_back(self) -> bool {
        matches!(self, What::Readd | What::Return)
    }

    /// Whether the metadata is what this command is for.
    fn is_done(self, metadata: &Metadata) -> bool {
        let state = |index: usize| metadata.spares.get(index).map(|record| record.state);
        match self {
            What::Add => state(3) == Some(SpareState::Present),
            What::Leave => {
                state(0) != Some(SpareState::Present) && metadata.map.extents_by_slot(spare(0)).next().is_none()
            }
            What::Remove => state(0) == Some(SpareState::Removed),
            What::Readd | What::Return => state(0) == Some(SpareState::Present),
        }
    }
}

fn facts(machine: &Machine, disk: usize) -> AddFacts {
    let device = &machine.spares[disk];
    let device = DeviceFacts {
        path: format!("/dev/{}", device.name()),
        devno: spare_number(disk),
        identity: Machine::identity(device),
        uses: Vec::new(),
        read_only: false,
    };
    AddFacts {
        spares: vec![SpareFacts { device, contents: Contents::Nothing }],
        overlaps: Vec::new(),
        force_signature: false,
        uuids: vec![Uuid::from_u128(0xadd_0000 + disk as u128)],
    }
}

fn add(machine: &Machine, disk: usize) -> Result<(), EngineError> {
    let mut session = machine.session()?;
    let plan = plan_add(&session.metadata, facts(machine, disk))?;
    let (index, record) = &plan.records[0];
    let member = machine.open(spare_number(disk), true)?.unwrap();
    members::add(&mut session, *index, record, member, &|| Ok(()), &Silent)
}

fn states(metadata: &Metadata) -> Vec<SpareState> {
    metadata.spares.iter().map(|record| record.state).collect()
}

/// The setup is in order, every sector has its data, and the command can be finished.
fn finish(world: &World, what: What, acknowledged: bool, context: &str) {
    let machine = &world.machine;
    assert_eq!(machine.suspended(), Vec::<String>::new(), "{context}");
    if machine.session().unwrap().check_live().is_err() && !what.takes_back() {
        machine.recover().unwrap_or_else(|e| panic!("{context}: recover: {e}"));
    }
    // On its way to another number a spare's extents may answer EIO, as they do while it is away.
    if acknowledged || what != What::Return {
        world.model.get().check(machine, context);
    }
    let metadata = machine.session().unwrap().metadata;
    assert!(what.is_done(&metadata) || !acknowledged, "{context}: {:?}", states(&metadata));
    if !what.is_done(&metadata) {
        what.run(machine).unwrap_or_else(|e| panic!("{context}: run again: {e}"));
    }
    let mut session = machine.session().unwrap();
    session.check_live().unwrap_or_else(|e| panic!("{context}: {e}"));
    session.clear_leftovers().unwrap();
    assert!(what.is_done(&session.metadata), "{context}: {:?}", states(&session.metadata));
    for index in (0..4).map(SpareIndex) {
        let private = machine.dm.state(&format!("{NAME}-spare{index}")).unwrap();
        assert_eq!(private.is_some(), session.metadata.is_member(index), "{context}: private device {index}");
    }
    world.model.get().check(machine, &format!("{context}, run again"));
}

/// What a reboot finds after a power cut that left these images.
fn reboot(world: &World, what: What, seed: u64, acknowledged: bool, stale: bool, context: &str) {
    let mut rng = Rng::new(seed);
    let kept = kept_randomly(&world.machine, &mut rng);
    let again = What::shape().machine(Power::new(), images(&world.machine, &kept));
    match again.activate() {
        Ok(up) => {
            assert!(what.is_done(&up.session.metadata) || !acknowledged, "{context}");
            drop(up);
            world.model.get().after_crash().check(&again, context);
        }
        Err(EngineError::Refused(refusal)) if stale => {
            assert!(refusal.to_string().contains("stale"), "{context}: {refusal}");
        }
        Err(error) => panic!("{context}: {error}"),
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_members_or_the_new_ones() {
    let mut cuts = 0;
    for what in What::ALL {
        let world = what.start(Power::new());
        let base = world.machine.power.operations();
        what.run(&world.machine).unwrap();
        let end = world.machine.power.operations();
        for cut in base..end {
            let world = what.start(Power::cut_at(cut));
            let _ = what.run(&world.machine);
            world.quiet();
            assert!(world.machine.power.is_off(), "{what:?}, {cut} of {end}");
            for n in 0..4 {
                let context = format!("{what:?}, cut {} of {}, subset {n}", cut - base, end - base);
                // A spare that is marked as failed is refused as stale until it is back.
                reboot(&world, what, cut * 7 + n, false, what.takes_back(), &context);
                cuts += 1;
            }
        }
    }
    println!("{cuts} states after a power cut");
    assert!(cuts >= 300, "the battery has shrunk to {cuts}");
}

#[test]
fn any_disk_may_fail_at_any_write_once_or_for_good() {
    let mut faults = 0;
    for what in What::ALL {
        for failing in 0..4 {
            let world = what.start(Power::new());
            let before = world.machine.spares[failing].operations().0;
            what.run(&world.machine).unwrap();
            let count = world.machine.spares[failing].operations().0 - before;
            for position in 0..count {
                for times in [1, u64::MAX / 2] {
                    let world = what.start(Power::new());
                    let disk = world.machine.spares[failing].clone();
                    disk.fail_operations(position, times, Errno::EIO);
                    let context =
                        format!("{what:?}, spare {failing} fails {times} times from {position} of {count} on");
                    let result = what.run(&world.machine);
                    world.quiet();
                    reboot(&world, what, position, result.is_ok(), true, &context);
                    disk.fail_operations(0, 0, Errno::EIO);
                    finish(&world, what, result.is_ok(), &context);
                    faults += 1;
                }
            }
        }
    }
    println!("{faults} ways to fail");
    assert!(faults >= 150, "the battery has shrunk to {faults}");
}

#[test]
fn every_call_to_device_mapper_may_be_refused() {
    const OPS: [Op; 6] = [Op::Create, Op::Load, Op::Activate, Op::Resume, Op::Remove, Op::Clear];
    let mut refusals = 0;
    for what in What::ALL {
        let world = what.start(Power::new());
        let counts = count_ops(&world.machine.dm, &OPS, || what.run(&world.machine).unwrap());
        for (op, count) in OPS.into_iter().zip(counts) {
            for position in 0..count {
                let world = what.start(Power::new());
                refuse_at(&world.machine.dm, op, position, 1, Errno::EBUSY);
                let context = format!("{what:?}, {op:?} {position} of {count} refused");
                let result = what.run(&world.machine);
                world.quiet();
                finish(&world, what, result.is_ok(), &context);
                refusals += 1;
            }
        }
    }
    println!("{refusals} refused calls");
    assert!(refusals >= 15, "the battery has shrunk to {refusals}");
}

#[test]
fn places_are_taken_again_only_when_no_other_is_free() {
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128; 18]);
    machine.fill_main();
    machine.create_with(15).unwrap();
    for index in [7, 3, 11] {
        members::remove(&mut machine.session().unwrap(), spare(index)).unwrap();
    }
    let place = |disk: usize| {
        let plan = plan_add(&machine.session().unwrap().metadata, facts(&machine, disk)).unwrap();
        add(&machine, disk).unwrap();
        plan.records[0].0.0
    };
    assert_eq!((place(15), place(16), place(17)), (15, 7, 3));
    // One more, and there are sixteen.
    assert_eq!(place(11), 11);
    let metadata = machine.session().unwrap().metadata;
    let full = plan_add(&metadata, facts(&machine, 3)).unwrap_err();
    assert!(matches!(full, Refusal::TooManySpares { members: 16, more: 1, .. }), "{full}");
    machine.deactivate().unwrap();
    // What was removed is not looked for, and what it holds does not count.
    let choice = machine.load().unwrap();
    assert_eq!((choice.missing.len(), choice.generations.len()), (0, 16));
}

#[test]
fn extents_leave_for_where_they_are_sent_and_only_if_all_of_them_can() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128, 10_240 + 32, 10_240 + 64]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(0, 40), range(80, 16), range(200, 8)], Hold).unwrap();
    let metadata = machine.session().unwrap().metadata;
    let to = |first: &[u8], only| Destinations { first: first.iter().map(|i| spare(*i)).collect(), only };
    let plan = |to: &Destinations| plan_leave(&metadata, spare(0), to, Hold, |_| true);
    let homes = |to: &Destinations| -> Vec<(u64, u64, u8)> {
        let moves = plan(to).unwrap().moves.into_iter();
        let home = |m: dm_remap::plan::Move| match m.to {
            dm_remap::plan::Home::Slot(slot) => (m.range.start().0, m.range.len().0, slot.spare.0),
            other => panic!("{other}"),
        };
        moves.map(home).collect()
    };
    assert_eq!(homes(&to(&[2], true)), [(0, 40, 2), (80, 16, 2), (200, 8, 2)]);
    // What does not fit where it is wanted goes elsewhere, unless it must not.
    assert_eq!(homes(&to(&[1], false)), [(0, 32, 1), (32, 8, 2), (80, 16, 2), (200, 8, 2)]);
    let refused = plan(&to(&[1], true)).unwrap_err();
    assert_eq!(refused, Refusal::NoRoomToLeave { spare: spare(0), needed: Sectors(64), free: Sectors(32) });
    assert!(refused.to_string().contains("32 are missing"), "{refused}");
    assert!(matches!(plan(&to(&[0], true)), Err(Refusal::NoDestination { .. })));
    assert!(matches!(plan(&to(&[9], true)), Err(Refusal::NoDestination { .. })));
    // Parts are bounded, begin at the beginning and lose nothing.
    let whole = plan(&to(&[2], true)).unwrap();
    let part = whole.first_part(Sectors(44), 10, Sectors(8));
    assert_eq!(part.moves.iter().map(|m| (m.range.start().0, m.range.len().0)).collect::<Vec<_>>(), [(0, 40)]);
    assert_eq!(whole.first_part(Sectors(48), 10, Sectors(8)).sectors(), Sectors(48));
    assert_eq!(whole.first_part(Sectors(1), 10, Sectors(8)).sectors(), Sectors(8));
    assert_eq!(whole.first_part(Sectors(4000), 2, Sectors(8)).sectors(), Sectors(56));
}

#[test]
fn what_a_spare_that_is_given_up_cannot_read_is_held() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128, 10_240 + 128]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(0, 40), range(80, 16)], Hold).unwrap();
    machine.spares[0].set_failing(Some(Errno::ENXIO));
    let mut session = machine.session().unwrap();
    let mut plan = plan_leave(&session.metadata, spare(0), &Destinations::default(), Hold, |_| true).unwrap();
    // By itself such an error is trouble, and moves nothing.
    assert!(matches!(splice(&mut session, plan.clone(), &options()), Err(EngineError::Transport(_))));
    plan.kind = MoveKind::GiveUp;
    let given_up = dm_remap::engine::give_up::give_up(session.spare(spare(0)).unwrap());
    session.spares[0] = Some(given_up);
    let outcome = splice(&mut session, plan, &options()).unwrap();
    assert_eq!(outcome.lost.iter().map(|l| l.range.len().0).sum::<u64>(), 56);
    members::remove(&mut session, spare(0)).unwrap();
    drop(session);
    for sector in [0, 39, 80, 95] {
        assert_eq!(machine.read(sector), Err(Errno::EIO), "{sector}");
    }
    machine.write(39, 7);
    assert_eq!(machine.read(39).unwrap(), support::pattern(39, 7));
    assert_eq!(machine.read(40).unwrap(), support::pattern(40, 0));
}

#[test]
fn one_bad_place_of_a_spare_that_is_given_up_takes_nothing_else_along() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128, 10_240 + 128]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(0, 40), range(80, 16)], Hold).unwrap();
    let mut session = machine.session().unwrap();
    let mut plan = plan_leave(&session.metadata, spare(0), &Destinations::default(), Hold, |_| true).unwrap();
    plan.kind = MoveKind::GiveUp;
    let bad = session.metadata.map.extent_at(Sectors(0)).unwrap().slot.start;
    machine.spares[0].set_bad(range(bad.0, 1), Bad::Reads(Errno::ETIMEDOUT));
    session.spares[0] = Some(dm_remap::engine::give_up::give_up(session.spare(spare(0)).unwrap()));
    // As often as the program tries it by itself.
    let options = SpliceOptions { retries: 3, ..options() };
    let outcome = splice(&mut session, plan, &options).unwrap();
    assert_eq!(outcome.lost.iter().map(|l| l.range).collect::<Vec<_>>(), [range(0, 1)]);
    drop(session);
    assert_eq!(machine.read(0), Err(Errno::EIO));
    for sector in [1, 39, 80, 95] {
        assert_eq!(machine.read(sector).unwrap(), support::pattern(sector, 0), "{sector}");
    }
}

#[test]
fn what_is_moved_away_goes_only_where_it_is_sent_also_if_a_slot_there_is_bad() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128, 10_240 + 800, 10_240 + 128]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(8, 8)], Hold).unwrap();
    let from = machine.session().unwrap().metadata.map.extent_at(Sectors(8)).unwrap().slot.spare;
    for to in (0..3).map(spare).filter(|index| *index != from) {
        let mut session = machine.session().unwrap();
        let from = session.metadata.map.extent_at(Sectors(8)).unwrap().slot.spare;
        members::set_state(&mut session, from, SpareState::Draining).unwrap();
        let only = Destinations { first: vec![to], only: true };
        let plan = plan_leave(&session.metadata, from, &only, Hold, |_| true).unwrap();
        let disk = &machine.spares[to.as_usize()];
        disk.set_bad(range(10_240, 3), Bad::ReadsAndWrites(Errno::EIO));
        let outcome = splice(&mut session, plan, &options()).unwrap();
        assert!(outcome.bad_slots.iter().all(|(index, _)| *index == to) && !outcome.bad_slots.is_empty());
        assert_eq!(session.metadata.map.extent_at(Sectors(8)).unwrap().slot.spare, to);
        members::set_state(&mut session, from, SpareState::Present).unwrap();
    }
}

#[test]
fn nothing_moves_to_a_spare_that_has_just_failed() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128; 3]);
    machine.fill_main();
    machine.create().unwrap();
    let mut session = machine.session().unwrap();
    let plan = dm_remap::plan::moves::plan_remap(
        &session.metadata,
        &[range(8, 8)],
        dm_remap::plan::moves::AlreadyMapped::Refuse,
        Hold,
        |_| true,
    );
    let plan = plan.unwrap();
    // Between the plan and the first copy a commit marks the spare, as that which settles held blocks may.
    let dm_remap::plan::Home::Slot(slot) = plan.moves[0].to else { panic!("{plan:?}") };
    members::set_state(&mut session, slot.spare, SpareState::Failed).unwrap();
    let outcome = splice(&mut session, plan, &options()).unwrap();
    let home = session.metadata.map.extent_at(Sectors(8)).unwrap().slot;
    assert_ne!(home.spare, slot.spare);
    assert_eq!(outcome.bad_slots, []);
    drop(session);
    assert_eq!(machine.read(9).unwrap(), support::pattern(9, 0));
}

#[test]
fn a_spare_that_is_gone_is_passed_over() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128; 2]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(8, 8)], Hold).unwrap();
    let mut session = machine.session().unwrap();
    let beside = session.metadata.map.extent_at(Sectors(8)).unwrap().slot.spare;
    let gone = session.spare(beside).unwrap().devno;
    session.spares[beside.as_usize()] = Some(Member::gone("spare", gone));
    let mut found = Found::default();
    found.bad.insert(range(16, 8));
    let acted = move_found(&mut session, &found, &Policy::default(), &options()).unwrap();
    assert!(acted.not_moved.is_empty(), "{acted:?}");
    assert_ne!(session.metadata.map.extent_at(Sectors(16)).unwrap().slot.spare, beside);
}

#[test]
fn a_commit_that_did_not_reach_every_spare_is_finished_by_the_next_command() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128; 2]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(8, 8)], Hold).unwrap();
    // As 'spare add' does when it is killed between the new spare and the others.
    let session = machine.session().unwrap();
    let next = session.next_metadata();
    let only = session.commit_targets().swap_remove(1);
    assert!(Commit::new(vec![only], encode(&next).unwrap()).run().complete());
    let session = machine.session().unwrap();
    assert_eq!((session.metadata.generation, &session.passed_over[..]), (next.generation, &[SpareIndex(0)][..]));
    assert_eq!(machine.recover().unwrap(), Recovered::Finished);
    let session = machine.session().unwrap();
    assert_eq!((session.metadata.generation, session.passed_over.len()), (next.generation, 0));
    for member in session.spares.iter().flatten() {
        let copies = read_copies(&*member.disk, Expected::default()).choose().unwrap();
        assert_eq!((copies.copy.digest, copies.current.len()), (session.digest, 5));
    }
    assert_eq!(machine.recover().unwrap(), Recovered::Nothing);
}

#[test]
fn nothing_leads_to_a_spare_that_comes_back_before_it_holds_the_newest_map() {
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128; 2]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(8, 8)], Hold).unwrap();
    let index = machine.session().unwrap().metadata.map.extent_at(Sectors(8)).unwrap().slot.spare;
    members::set_state(&mut machine.session().unwrap(), index, SpareState::Failed).unwrap();
    machine.session().unwrap().commit(|_| {}).unwrap();
    let newest = machine.session().unwrap().metadata.generation;
    let disk = machine.spares[index.as_usize()].clone();
    let on_disk = move || read_copies(&*disk, Expected::default()).choose().unwrap().copy.metadata.generation;
    assert!(on_disk() < newest);
    let early = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = early.clone();
    let private = later_number(index.as_usize());
    machine.dm.on(
        Op::Resume,
        Box::new(move |dm| {
            let table = dm.table(NAME, dm_remap::dm::TableSlot::Inactive).unwrap_or_default();
            if format!("{table:?}").contains(&format!("{private:?}")) && on_disk() < newest {
                seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }),
    );
    let member = machine.open(private, true).unwrap().unwrap();
    members::readd(&mut machine.session().unwrap(), index, member, &|| Ok(()), &Silent).unwrap();
    assert_eq!(early.load(std::sync::atomic::Ordering::Relaxed), 0);
    machine.dm.clear_hooks();
    assert_eq!(machine.read(9).unwrap(), support::pattern(9, 0));
}

#[test]
fn a_spare_that_is_another_one_once_it_is_claimed_is_let_go_again() {
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128; 2]);
    machine.fill_main();
    machine.create().unwrap();
    members::set_state(&mut machine.session().unwrap(), spare(1), SpareState::Failed).unwrap();
    let before = machine.spares[1].image();
    let member = machine.open(later_number(1), true).unwrap().unwrap();
    let changed = || Err(EngineError::Device("somebody made a filesystem on it".into()));
    let refused = members::readd(&mut machine.session().unwrap(), spare(1), member, &changed, &Silent);
    assert!(refused.unwrap_err().to_string().contains("filesystem"));
    assert!(machine.dm.state(&format!("{NAME}-spare1")).unwrap().is_none(), "its claim is given up");
    assert!(machine.spares[1].image() == before, "nothing was written to it");
}

#[test]
fn states_of_spares_are_written_and_read_and_nonsense_is_refused() {
    use dm_remap::format::copy::{Verdict, encode, judge};
    use dm_remap::format::metadata::Inconsistency;
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128; 3]);
    machine.fill_main();
    machine.create().unwrap();
    machine.remap(&[range(8, 8)], Hold).unwrap();
    let mut metadata = machine.session().unwrap().metadata;
    metadata.spares[1].state = SpareState::Removed;
    metadata.spares[1].removed = Some(7);
    metadata.spares[2].state = SpareState::Draining;
    let encoded = encode(&metadata).unwrap();
    let mut copy = vec![0; encoded.len()];
    encoded.stamp(&mut copy, metadata.spares[0].uuid, metadata.spares[0].data_start, 0);
    let Verdict::Valid(read) = judge(&copy, 0) else { panic!("{:?}", judge(&copy, 0)) };
    assert_eq!(read.metadata, metadata);
    let text = String::from_utf8_lossy(&copy).into_owned();
    assert!(text.contains(r#""state": "removed""#) && text.contains(r#""removed": 7"#), "{text}");
    assert!(text.contains(r#""state": "draining""#), "{text}");
    let members: Vec<u8> = metadata.members().map(|(index, _)| index.0).collect();
    assert_eq!(members, [0, 2]);
    // Nothing can live on a spare that was removed, and one at least has to be left.
    let mut on_removed = metadata.clone();
    on_removed.spares[0].state = SpareState::Removed;
    assert_eq!(on_removed.check(), Err(Inconsistency::OnRemoved(spare(0))));
    let mut bad = metadata.clone();
    bad.bad_blocks.insert(spare(1), vec![range(10_300, 8)]);
    assert_eq!(bad.check(), Err(Inconsistency::OnRemoved(spare(1))));
    let mut none = metadata;
    none.spares.iter_mut().for_each(|record| record.state = SpareState::Removed);
    assert_eq!(none.check(), Err(Inconsistency::SpareCount(3)));
}

#[test]
fn only_the_very_spare_is_taken_back() {
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128; 3]);
    machine.fill_main();
    machine.create_with(2).unwrap();
    members::set_state(&mut machine.session().unwrap(), spare(1), SpareState::Failed).unwrap();
    let back = |disk: usize| check_back(&machine.session().unwrap(), spare(1), &*machine.spares[disk]);
    let why = |disk: usize| back(disk).unwrap_err().to_string();
    back(1).unwrap();
    assert!(why(0).contains("another spare of this setup"), "{}", why(0));
    assert!(why(2).contains("no valid copy"), "{}", why(2));
    // It went its own way: activated elsewhere, by itself.
    let newest = machine.load().unwrap().newest.metadata;
    let own = Metadata { committed: newest.committed + 1, ..newest.clone() };
    let write = |metadata: &Metadata| {
        let encoded = dm_remap::format::copy::encode(metadata).unwrap();
        let target = dm_remap::store::CommitTarget {
            disk: machine.spares[2].clone(),
            uuid: metadata.spares[1].uuid,
            data_start: metadata.spares[1].data_start,
        };
        erase_copies(&*machine.spares[2]).unwrap();
        assert!(dm_remap::store::Commit::new(vec![target], encoded).run().complete());
    };
    write(&own);
    assert!(why(2).contains("changed elsewhere"), "{}", why(2));
    write(&Metadata { generation: newest.generation + 5, ..newest.clone() });
    assert!(why(2).contains("changed elsewhere"), "{}", why(2));
    // So old that nothing proves it.
    for _ in 0..40 {
        machine.session().unwrap().commit(|_| {}).unwrap();
    }
    assert!(why(1).contains("too old"), "{}", why(1));
}

#[test]
fn a_spare_never_shrinks_and_grows_only_as_itself() {
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128, 20_000]);
    machine.fill_main();
    machine.create().unwrap();
    // The second device was smaller when the setup was made.
    machine.session().unwrap().commit(|next| next.spares[1].identity.size = Sectors(10_240 + 128)).unwrap();
    let metadata = machine.session().unwrap().metadata;
    let identity = |size: u64, serial: &str| {
        let mut identity = Machine::identity(&machine.spares[1]);
        (identity.size, identity.serial) = (Sectors(size), Some(serial.into()));
        identity.with_fingerprint()
    };
    let why = |size, serial| plan_grow(&metadata, spare(1), &identity(size, serial)).unwrap_err().to_string();
    assert!(why(10_240 + 128, "spare1").contains("and no more"));
    assert!(why(10_240 + 120, "spare1").contains("shrunk"));
    assert!(why(20_000, "other").contains("not the one that is recorded"));
    let record = plan_grow(&metadata, spare(1), &identity(20_000, "spare1")).unwrap();
    members::grow(&mut machine.session().unwrap(), spare(1), &record, &Silent).unwrap();
    assert_eq!(machine.session().unwrap().metadata.spares[1].identity, identity(20_000, "spare1"));
}

#[test]
fn a_spare_that_is_gone_is_known_as_such() {
    assert!(Member::gone("spare 1", spare_number(1)).is_gone());
    let machine = Machine::new(Power::new(), 96, &[10_240 + 128; 2]);
    assert!(!machine.open(spare_number(1), false).unwrap().unwrap().is_gone());
}

/// Remaps four extents with the given spares in trouble once the plan is made.
fn remap_in_trouble(machine: &Machine, trouble: impl Fn(&Machine)) -> Result<(), EngineError> {
    let mut session = machine.session().unwrap();
    let wanted = [range(8, 8), range(40, 16), range(80, 8), range(120, 8)];
    let already = dm_remap::plan::moves::AlreadyMapped::Refuse;
    let plan = dm_remap::plan::moves::plan_remap(&session.metadata, &wanted, already, Hold, |_| true).unwrap();
    trouble(machine);
    splice(&mut session, plan, &options()).map(|outcome| {
        assert_eq!(outcome.moved.iter().map(|step| step.range.len().0).sum::<u64>(), 40);
        assert_eq!(outcome.bad_slots, [], "trouble condemns nothing");
    })
}

#[test]
fn a_spare_in_trouble_as_a_whole_is_left_out_as_long_as_others_have_room() {
    for errno in [Errno::ENXIO, Errno::EIO] {
        for (index, begins) in (0..2).flat_map(|index| (0..12).map(move |begins| (index, begins))) {
            let machine = Machine::new(Power::new(), 400, &[10_240 + 128; 2]);
            machine.fill_main();
            machine.create().unwrap();
            remap_in_trouble(&machine, |machine| {
                let disk = &machine.spares[index];
                disk.fail_operations(begins, 1 << 40, errno);
                if errno == Errno::EIO {
                    disk.fail_reads(begins, 1 << 40, errno);
                }
            })
            .unwrap_or_else(|error| panic!("{errno}, spare {index} from {begins} on: {error}"));
            for sector in [8, 40, 55, 80, 120, 127, 200] {
                let read = machine.read(sector);
                let slot = machine.session().unwrap().metadata.map.extent_at(Sectors(sector)).map(|e| e.slot.spare);
                // Whatever was there before the trouble began is there.
                if slot != Some(spare(index as u8)) || errno == Errno::ENXIO {
                    assert_eq!(read.unwrap(), support::pattern(sector, 0), "{errno}, spare {index} from {begins} on");
                }
            }
            assert!(machine.dm.violations().is_empty());
        }
    }
}

#[test]
fn spares_that_are_all_in_trouble_move_nothing() {
    let machine = Machine::new(Power::new(), 400, &[10_240 + 128; 2]);
    machine.fill_main();
    machine.create().unwrap();
    let before = machine.session().unwrap().metadata;
    let failed = remap_in_trouble(&machine, |machine| {
        machine.spares.iter().for_each(|disk| disk.set_failing(Some(Errno::ENXIO)));
    });
    assert!(matches!(failed, Err(EngineError::Transport(_))), "{failed:?}");
    machine.spares.iter().for_each(|disk| disk.set_failing(None));
    assert_eq!(machine.session().unwrap().metadata, before);
    assert_eq!(machine.read(8).unwrap(), support::pattern(8, 0));
}
