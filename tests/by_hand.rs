//! Writing copies by hand, as `metadata repair` and `metadata restore` do: what is refused, what is written, and that
//! whatever is good survives a power cut at every request.
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

use dm_remap::block::Disk;
use dm_remap::block::ram::{Image, Power, RamDisk};
use dm_remap::engine::rewrite::{Rewrite, rewrite};
use dm_remap::format::copy::{Encoded, Verdict, encode, judge_detached};
use dm_remap::format::metadata::{Metadata, SetupState, SpareState};
use dm_remap::format::{COPY_STARTS, DATA_START};
use dm_remap::map::SpareIndex;
use dm_remap::plan::repair::{RepairFacts, RepairPlan, plan as plan_repair};
use dm_remap::plan::restore::{Allowed, AsSpare, Found, RestoreFacts, plan as plan_restore};
use dm_remap::plan::{DeviceFacts, Refusal};
use dm_remap::store::{CommitTarget, read_copies};
use dm_remap::units::{DevNo, Sectors};
use std::sync::Arc;
use support::{SPARE_SIZE, blank_spare, commit, metadata, spare_with};
use uuid::Uuid;

/// A setup with two spares, and what follows it: a child, and another child with the same generation.
struct Family {
    parent: Metadata,
    child: Metadata,
    twin: Metadata,
}

fn family() -> Family {
    let mut parent = metadata(1, 2);
    support::scatter(&mut parent, 20, 1);
    let digest = encode(&parent).unwrap().digest();
    let mut child = parent.next(1_700_000_100, digest);
    child.health.splices += 1;
    let mut twin = parent.next(1_700_000_200, digest);
    twin.health.splices += 1;
    Family { parent, child, twin }
}

fn encoded(metadata: &Metadata) -> Encoded {
    encode(metadata).unwrap()
}

fn saved(metadata: &Metadata) -> dm_remap::format::copy::ValidCopy {
    let encoded = encoded(metadata);
    let mut bytes = vec![0; encoded.len()];
    encoded.stamp(&mut bytes, metadata.spares[0].uuid, DATA_START, 3);
    match judge_detached(&bytes) {
        Verdict::Valid(copy) => *copy,
        other => panic!("{other:?}"),
    }
}

/// A spare that has `one` in the copies of `which`, and `other` in the rest.
fn spare_of(index: usize, one: &Metadata, which: &[usize], other: Option<&Metadata>) -> Arc<RamDisk> {
    let disk = blank_spare();
    if let Some(other) = other {
        commit(&disk, other.spares[index].uuid, &encoded(other));
    }
    let all = blank_spare();
    commit(&all, one.spares[index].uuid, &encoded(one));
    let mut buf = vec![0; encoded(one).len()];
    for copy in which {
        all.read(COPY_STARTS[*copy], &mut buf).unwrap();
        disk.write(COPY_STARTS[*copy], &buf).unwrap();
    }
    disk.flush().unwrap();
    disk
}

fn found(disk: &RamDisk, metadata: &Metadata, index: usize) -> Found {
    let device = DeviceFacts {
        path: format!("/dev/spare{index}"),
        devno: DevNo { major: 8, minor: index as u32 },
        identity: metadata.spares[index].identity.clone(),
        uses: Vec::new(),
        read_only: false,
    };
    Found { device, verdicts: read_copies(disk, Default::default()).verdicts, signature: None }
}

fn repair_facts(spares: Vec<Found>) -> RepairFacts {
    RepairFacts {
        spares,
        others: Vec::new(),
        from_copy: None,
        from_spare: None,
        force_signature: false,
        unused: 50,
        now: 9,
    }
}

fn run(plan: &RepairPlan, disk: &Arc<RamDisk>) -> Result<(), dm_remap::engine::EngineError> {
    for step in &plan.steps {
        let target = CommitTarget { disk: disk.clone(), uuid: step.spare, data_start: step.data_start };
        let one = Rewrite { target, copies: step.copies.clone(), good: step.good.clone() };
        rewrite(&step.metadata, &[one])?;
    }
    Ok(())
}

/// The disk again, with a power that goes off at a request; and what it holds after that, in several ways.
fn cut(image: &Image, plan: &RepairPlan, at: u64, mut check: impl FnMut(Vec<Verdict>)) -> bool {
    let disk =
        Arc::new(RamDisk::from_image("spare", Sectors(SPARE_SIZE), Sectors(1), Power::cut_at(at), image.clone()));
    let done = run(plan, &disk).is_ok();
    for seed in 0..6 {
        let mut random = support::Random::new(at * 100 + seed);
        let after = match seed {
            0 => disk.after_power_cut(|_| false),
            1 => disk.after_power_cut(|_| true),
            _ => disk.after_power_cut(|_| random.below(2) == 0),
        };
        check(read_copies(&spare_with(after), Default::default()).verdicts);
    }
    done
}

fn refusal(facts: &RepairFacts) -> String {
    plan_repair(facts).unwrap_err().to_string()
}

/// Numbers of the copies in a set of them.
fn members(set: u32) -> Vec<usize> {
    (0..5).filter(|copy| set & (1 << copy) != 0).collect()
}

#[test]
fn whichever_copies_are_good_they_mend_the_others_and_survive_a_power_cut() {
    let family = family();
    let whole = spare_of(0, &family.child, &[0, 1, 2, 3, 4], None).image();
    // The others are blank, or of the generation before.
    for (set, other) in (1..31).flat_map(|set| [(set, None), (set, Some(&family.parent))]) {
        let good = members(set);
        let disk = spare_of(0, &family.child, &good, other);
        let plan = plan_repair(&repair_facts(vec![found(&disk, &family.child, 0)])).unwrap();
        assert_eq!((plan.steps.len(), plan.new_generation), (1, false));
        assert!(plan.steps[0].copies.iter().all(|copy| !good.contains(copy)));
        let mut at = 0;
        loop {
            let done = cut(&disk.image(), &plan, at, |verdicts| {
                let chosen = dm_remap::format::choose::choose(&verdicts).unwrap();
                assert_eq!(chosen.copy.metadata, family.child, "{set:05b} cut at {at}");
                assert!(good.iter().all(|copy| chosen.current.contains(copy)), "{set:05b} cut at {at}");
            });
            if done {
                break;
            }
            at += 1;
        }
        run(&plan, &disk).unwrap();
        assert!(disk.image() == whole, "{set:05b}");
    }
}

#[test]
fn what_a_person_chose_survives_a_power_cut_until_the_new_generation_is_durable() {
    let family = family();
    let (right, wrong) = (encoded(&family.child).digest(), encoded(&family.twin).digest());
    for set in 1..31u32 {
        let good = members(set);
        let disk = spare_of(0, &family.child, &good, Some(&family.twin));
        let mut facts = repair_facts(vec![found(&disk, &family.child, 0)]);
        assert!(refusal(&facts).contains("--from-copy"), "{}", refusal(&facts));
        facts.from_copy = Some(good[0]);
        let plan = plan_repair(&facts).unwrap();
        assert!(plan.new_generation && plan.steps[0].metadata.generation == 50);
        let mut at = 0;
        loop {
            let done = cut(&disk.image(), &plan, at, |verdicts| {
                let kept = verdicts.iter().any(|verdict| match verdict {
                    Verdict::Valid(copy) => {
                        copy.digest == right || copy.metadata.lineage.iter().any(|a| a.digest == right)
                    }
                    _ => false,
                });
                assert!(kept, "{set:05b} cut at {at}: what was chosen is lost");
            });
            if done {
                break;
            }
            at += 1;
        }
        run(&plan, &disk).unwrap();
        let chosen = read_copies(&*disk, Default::default()).choose().unwrap();
        assert_eq!((chosen.current.len(), chosen.copy.metadata.generation), (5, 50));
        assert!(chosen.copy.metadata.lineage.iter().all(|ancestor| ancestor.digest != wrong));
    }
}

#[test]
fn a_failing_write_leaves_the_good_copies_alone() {
    let family = family();
    for failing in 0..7 {
        let disk = spare_of(0, &family.child, &[1], None);
        let plan = plan_repair(&repair_facts(vec![found(&disk, &family.child, 0)])).unwrap();
        disk.fail_operations(failing, 1, nix::errno::Errno::EIO);
        let _ = run(&plan, &disk);
        let after = spare_with(disk.after_power_cut(|_| false));
        assert_eq!(read_copies(&after, Default::default()).choose().unwrap().copy.metadata, family.child);
    }
}

#[test]
fn a_device_that_loses_writes_is_found_out() {
    let family = family();
    let disk = spare_of(0, &family.child, &[1, 3], None);
    let plan = plan_repair(&repair_facts(vec![found(&disk, &family.child, 0)])).unwrap();
    disk.set_bad(support::range(COPY_STARTS[2].0, 8), dm_remap::block::ram::Bad::Lies);
    let error = run(&plan, &disk).unwrap_err().to_string();
    assert!(error.contains("copy 2 does not read back"), "{error}");
}

#[test]
fn repair_refuses_what_a_person_must_decide() {
    let family = family();
    let all = [0, 1, 2, 3, 4];
    let one = |disk: &RamDisk| repair_facts(vec![found(disk, &family.child, 0)]);
    assert!(refusal(&one(&blank_spare())).contains("metadata restore"));
    // Remains of a setup that never was, or is no more.
    for (state, word) in [(SetupState::Forming, "interrupted"), (SetupState::Dissolved, "destroyed")] {
        let mut remains = family.child.clone();
        remains.config.state = state;
        let disk = spare_of(0, &remains, &[0, 1], None);
        assert!(refusal(&one(&disk)).contains(word));
        let chosen = RepairFacts { from_copy: Some(0), ..one(&disk) };
        assert!(refusal(&chosen).contains(word));
    }
    // Copies of two setups.
    let stranger = metadata(2, 2);
    let mixed = spare_of(0, &family.child, &[0, 2, 4], Some(&stranger));
    assert!(refusal(&one(&mixed)).contains("--from-copy (0: 'disk1' generation 2"), "{}", refusal(&one(&mixed)));
    let plan = plan_repair(&RepairFacts { from_copy: Some(0), ..one(&mixed) }).unwrap();
    assert_eq!((plan.new_generation, &plan.steps[0].copies[..]), (false, &[1, 3][..]));
    assert!(refusal(&RepairFacts { from_copy: Some(7), ..one(&mixed) }).contains("copy 7 is not valid"));
    // Somebody's data, known or not; a version that nobody here can judge; in use; read-only.
    let disk = spare_of(0, &family.child, &[0, 1], None);
    let with = |change: fn(&mut Found)| {
        let mut facts = one(&disk);
        change(&mut facts.spares[0]);
        facts
    };
    let known = with(|found| found.signature = Some("ext4 filesystem".into()));
    assert!(matches!(plan_repair(&known), Err(Refusal::Signature { signature, .. }) if signature.contains("ext4")));
    let unknown = with(|found| found.verdicts[3] = Verdict::Foreign("x".into()));
    assert!(matches!(plan_repair(&unknown), Err(Refusal::Signature { .. })));
    for facts in [known, unknown] {
        assert!(plan_repair(&RepairFacts { force_signature: true, ..facts }).is_ok());
    }
    let later = with(|found| {
        found.verdicts[4] = Verdict::Unsupported(dm_remap::format::copy::Unsupported::Version(2));
    });
    assert!(refusal(&RepairFacts { force_signature: true, ..later }).contains("format version 2"));
    assert!(refusal(&with(|found| found.device.uses.push("mounted".into()))).contains("in use: mounted"));
    assert!(refusal(&with(|found| found.device.read_only = true)).contains("read-only"));
    // In order: nothing to do.
    assert!(plan_repair(&one(&spare_of(0, &family.child, &all, None))).unwrap().steps.is_empty());
}

#[test]
fn repair_of_one_spare_heeds_the_others() {
    let family = family();
    let all = [0, 1, 2, 3, 4];
    let damaged = |metadata: &Metadata| found(&spare_of(0, metadata, &[0, 1], None), metadata, 0);
    let other = |metadata: &Metadata| vec![found(&spare_of(1, metadata, &all, None), metadata, 1)];
    // Behind: mended as it is, and told.
    let plan =
        plan_repair(&RepairFacts { others: other(&family.child), ..repair_facts(vec![damaged(&family.parent)]) });
    let plan = plan.unwrap();
    assert_eq!(plan.steps[0].metadata, family.parent);
    assert!(plan.notes[0].contains("stale against the others"));
    // Divergent: not by itself, whatever was chosen.
    let facts = RepairFacts { others: other(&family.twin), ..repair_facts(vec![damaged(&family.child)]) };
    assert!(refusal(&facts).contains("--from-spare"));
    assert!(refusal(&RepairFacts { from_copy: Some(0), ..facts }).contains("another spare here holds generation 2"));
    // Contradicting copies, one of which the other spare has as well: that needs no new generation.
    let both = found(&spare_of(0, &family.child, &[1, 3], Some(&family.twin)), &family.child, 0);
    let facts = RepairFacts { others: other(&family.child), ..repair_facts(vec![both]) };
    let plan = plan_repair(&RepairFacts { from_copy: Some(1), ..facts.clone() }).unwrap();
    assert_eq!((plan.new_generation, &plan.steps[0].copies[..]), (false, &[0, 2, 4][..]));
    assert!(refusal(&RepairFacts { from_copy: Some(0), ..facts }).contains("another spare here holds"));
    // The whole setup, with a choice: all of it, as a new generation.
    let spares = vec![
        found(&spare_of(0, &family.child, &all, None), &family.child, 0),
        found(&spare_of(1, &family.twin, &all, None), &family.twin, 1),
    ];
    let facts = repair_facts(spares);
    assert!(refusal(&facts).contains("--from-spare"));
    assert!(refusal(&RepairFacts { from_copy: Some(0), ..facts.clone() }).contains("several spares"));
    for choice in [AsSpare::Index(SpareIndex(1)), AsSpare::Uuid(family.twin.spares[1].uuid)] {
        let plan = plan_repair(&RepairFacts { from_spare: Some(choice), ..facts.clone() }).unwrap();
        assert!(plan.new_generation && plan.steps.len() == 2);
        let next = &plan.steps[0].metadata;
        assert_eq!((next.generation, next.lineage.last().unwrap().digest), (50, encoded(&family.twin).digest()));
        assert_eq!((plan.steps[0].good.len(), plan.steps[1].good.len()), (0, 5));
    }
    let nobody = AsSpare::Uuid(Uuid::from_u128(77));
    assert!(refusal(&RepairFacts { from_spare: Some(nobody), ..facts }).contains("is not here"));
}

fn restore_facts(backup: &Metadata, targets: Vec<Found>) -> RestoreFacts {
    RestoreFacts {
        backup: saved(backup),
        active: false,
        targets,
        others: Vec::new(),
        as_spare: None,
        allowed: Allowed::default(),
        unused: 60,
        now: 9,
    }
}

fn restore_refusal(facts: &RestoreFacts) -> String {
    plan_restore(facts).unwrap_err().to_string()
}

#[test]
fn one_backup_makes_one_generation_on_all_spares() {
    let family = family();
    let holds = |index: usize, what: &Metadata| found(&spare_of(index, what, &[0, 1, 2, 3, 4], None), what, index);
    let blank = |index: usize| found(&blank_spare(), &family.parent, index);
    let first = plan_restore(&restore_facts(&family.parent, vec![blank(0)])).unwrap().metadata;
    // The next spare, in a call of its own, and the same one again.
    let next =
        RestoreFacts { others: vec![holds(0, &first)], now: 99, ..restore_facts(&family.parent, vec![blank(1)]) };
    assert_eq!(plan_restore(&next).unwrap().metadata, first);
    let again = restore_facts(&family.parent, vec![holds(0, &first)]);
    assert_eq!(plan_restore(&again).unwrap().metadata, first);
    // Once something was done with it, it is another story.
    let mut used = first.next(100, encoded(&first).digest());
    used.health.splices += 1;
    let late = RestoreFacts { others: vec![holds(0, &used)], ..next };
    assert!(restore_refusal(&late).contains("newer than the backup"), "{}", restore_refusal(&late));
    let meant = RestoreFacts { allowed: Allowed { over_newer: true, ..Allowed::default() }, ..late };
    let metadata = plan_restore(&meant).unwrap().metadata;
    // Who has what was given up is behind, and does not tell another truth.
    assert!(metadata.generation > used.generation);
    let last = metadata.lineage.last().unwrap();
    assert_eq!((last.generation, last.digest), (used.generation, encoded(&used).digest()));
    assert_eq!(metadata.map, family.parent.map);
}

#[test]
fn a_backup_goes_only_onto_its_own_spares() {
    let family = family();
    let blank = |index: usize| found(&blank_spare(), &family.child, index);
    let plan = plan_restore(&restore_facts(&family.child, vec![blank(1), blank(0)])).unwrap();
    assert_eq!(plan.spares, [SpareIndex(1), SpareIndex(0)]);
    assert_eq!(plan.metadata.generation, 60);
    assert_eq!(plan.metadata.lineage.last().unwrap().digest, encoded(&family.child).digest());
    assert_eq!(plan.metadata.map, family.child.map);
    assert!(plan.warnings.iter().any(|warning| warning.contains("only the map")), "{:?}", plan.warnings);
    assert!(plan.warnings.iter().any(|warning| warning.contains("nothing here tells")), "{:?}", plan.warnings);
    // The same device twice, another disk, one without a name.
    assert!(restore_refusal(&restore_facts(&family.child, vec![blank(1), blank(1)])).contains("spare 1 already"));
    let with = |change: &dyn Fn(&mut Found)| {
        let mut one = blank(0);
        change(&mut one);
        restore_facts(&family.child, vec![one])
    };
    let stranger = with(&|found| found.device.identity.serial = Some("OTHER".into()));
    assert!(restore_refusal(&stranger).contains("it fits no spare"));
    let named = RestoreFacts { as_spare: Some(AsSpare::Index(SpareIndex(0))), ..stranger };
    assert!(restore_refusal(&named).contains("serial is OTHER, not SPARE-1-0"), "{}", restore_refusal(&named));
    let nameless = with(&|found| found.device.identity.serial = None);
    assert!(restore_refusal(&nameless).contains("may be 0 or 1"));
    for named in [AsSpare::Index(SpareIndex(1)), AsSpare::Uuid(family.child.spares[1].uuid)] {
        let plan = plan_restore(&RestoreFacts { as_spare: Some(named), ..nameless.clone() }).unwrap();
        assert_eq!(plan.spares, [SpareIndex(1)]);
    }
    let smaller = with(&|found| {
        found.device.identity.serial = None;
        found.device.identity.size = Sectors(SPARE_SIZE - 8);
    });
    let named = RestoreFacts { as_spare: Some(AsSpare::Index(SpareIndex(0))), ..smaller };
    assert!(restore_refusal(&named).contains("size is"));
    for bad in [AsSpare::Index(SpareIndex(2)), AsSpare::Uuid(Uuid::nil())] {
        let facts = RestoreFacts { as_spare: Some(bad), ..restore_facts(&family.child, vec![blank(0)]) };
        assert!(restore_refusal(&facts).contains("the backup has no spare"));
    }
    // Removed before the backup was made.
    let mut fewer = family.child.clone();
    fewer.map = dm_remap::map::Map::new(fewer.map.main_len(), fewer.map.unit()).unwrap();
    fewer.spares[0].state = dm_remap::format::metadata::SpareState::Removed;
    assert!(restore_refusal(&restore_facts(&fewer, vec![blank(0)])).contains("it fits no spare"));
    let named = Some(AsSpare::Index(SpareIndex(0)));
    let facts = RestoreFacts { as_spare: named, ..restore_facts(&fewer, vec![blank(0)]) };
    assert!(restore_refusal(&facts).contains("was removed"));
    // In use, read-only, up, nothing given, of a setup that is no more.
    assert!(restore_refusal(&with(&|found| found.device.uses.push("mounted".into()))).contains("in use"));
    assert!(restore_refusal(&with(&|found| found.device.read_only = true)).contains("read-only"));
    let facts = restore_facts(&family.child, vec![blank(0)]);
    assert!(restore_refusal(&RestoreFacts { active: true, ..facts.clone() }).contains("it is active"));
    assert!(plan_restore(&RestoreFacts { targets: Vec::new(), ..facts }).is_err());
    let mut gone = family.child.clone();
    gone.config.state = SetupState::Dissolved;
    assert!(restore_refusal(&restore_facts(&gone, vec![blank(0)])).contains("was destroyed"));
}

#[test]
fn a_backup_goes_over_nothing_newer_or_of_others_unasked() {
    let family = family();
    let all = [0, 1, 2, 3, 4];
    let holding = |index: usize, metadata: &Metadata| found(&spare_of(index, metadata, &all, None), metadata, index);
    let allow = |facts: &RestoreFacts, allowed: Allowed| RestoreFacts { allowed, ..facts.clone() };
    let (newer, divergent, signature) = (
        Allowed { over_newer: true, ..Allowed::default() },
        Allowed { over_divergent: true, ..Allowed::default() },
        Allowed { force_signature: true, ..Allowed::default() },
    );
    // Older, and the same: fine.
    assert!(plan_restore(&restore_facts(&family.child, vec![holding(0, &family.parent)])).is_ok());
    assert!(plan_restore(&restore_facts(&family.child, vec![holding(0, &family.child)])).is_ok());
    // Newer, on the target itself or on another spare that is here.
    let on_target = restore_facts(&family.parent, vec![holding(0, &family.child)]);
    let elsewhere = RestoreFacts {
        others: vec![holding(1, &family.child)],
        ..restore_facts(&family.parent, vec![found(&blank_spare(), &family.parent, 0)])
    };
    for facts in [on_target, elsewhere] {
        assert!(restore_refusal(&facts).contains("newer than the backup's 1"));
        assert!(plan_restore(&allow(&facts, divergent)).is_err());
        assert_eq!(plan_restore(&allow(&facts, newer)).unwrap().metadata.generation, 60);
    }
    // Another way: the same generation, or one that the backup remembers otherwise.
    let twin = restore_facts(&family.child, vec![holding(0, &family.twin)]);
    let grandchild = family.twin.next(1, encoded(&family.twin).digest());
    let cousin = restore_facts(&grandchild, vec![holding(0, &family.child)]);
    let torn = found(&spare_of(0, &family.child, &[0, 1], Some(&family.twin)), &family.child, 0);
    for facts in [twin, cousin, restore_facts(&family.child, vec![torn])] {
        assert!(restore_refusal(&facts).contains("--over-divergent"), "{}", restore_refusal(&facts));
        assert!(plan_restore(&allow(&facts, newer)).is_err());
        assert!(plan_restore(&allow(&facts, divergent)).is_ok());
    }
    // Another setup's spare, whatever is said.
    let stranger = restore_facts(
        &family.child,
        vec![Found { device: holding(0, &family.child).device, ..holding(0, &metadata(2, 2)) }],
    );
    let everything = Allowed { over_newer: true, over_divergent: true, force_signature: true };
    assert!(matches!(plan_restore(&allow(&stranger, everything)), Err(Refusal::SpareOfSetup { .. })));
    // Not ours at all.
    let mut blank = found(&blank_spare(), &family.child, 0);
    blank.signature = Some("XFS filesystem".into());
    let facts = restore_facts(&family.child, vec![blank.clone()]);
    assert!(restore_refusal(&facts).contains("XFS"));
    assert!(plan_restore(&allow(&facts, signature)).is_ok());
    blank.signature = None;
    blank.verdicts[2] = Verdict::Foreign("x".into());
    let facts = restore_facts(&family.child, vec![blank.clone()]);
    assert!(matches!(plan_restore(&facts), Err(Refusal::Signature { .. })));
    blank.verdicts[2] = Verdict::Unsupported(dm_remap::format::copy::Unsupported::Features(8));
    assert!(plan_restore(&allow(&restore_facts(&family.child, vec![blank]), everything)).is_err());
}

#[test]
fn a_spare_that_was_removed_is_not_mended() {
    let before = metadata(1, 2);
    let mut after = before.next(1_700_000_100, encode(&before).unwrap().digest());
    after.spares[1].state = SpareState::Removed;
    after.spares[1].removed = Some(1_700_000_100);
    let member = found(&spare_of(0, &after, &[0, 1, 2, 3, 4], None), &after, 0);
    // Its copies were erased all but one.
    let removed = found(&spare_of(1, &before, &[3], None), &before, 1);
    let plan = plan_repair(&repair_facts(vec![member.clone(), removed.clone()])).unwrap();
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert!(
        plan.notes.iter().any(|note| note.contains("/dev/spare1") && note.contains("left alone")),
        "{:?}",
        plan.notes
    );
    // Named by itself, it is no other.
    let alone = RepairFacts { others: vec![member], ..repair_facts(vec![removed]) };
    assert!(plan_repair(&alone).unwrap().steps.is_empty());
}
