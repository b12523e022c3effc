//! What a later version may have written: kept where it is compatible, refused where it is not.

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

use dm_remap::format::choose::{ChooseError, choose_setup};
use dm_remap::format::copy::{Damage, Unsupported, Verdict, encode, judge};
use dm_remap::format::metadata::{Ancestor, Inconsistency, Metadata};
use dm_remap::map::{Fate, SpareIndex};
use dm_remap::store::read_copies;
use serde_json::json;
use support::{blank_spare, commit, metadata, range, slot, spare_with, stamped, valid};

/// The header CRC is computed as docs/FORMAT.md says, not with the program's own code.
fn reseal(copy: &mut [u8], index: u32) {
    let salted = |parts: &[&[u8]]| {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&copy[48..64]);
        crc.update(&index.to_le_bytes());
        parts.iter().for_each(|part| crc.update(part));
        crc.finalize()
    };
    let whole = salted(&[&copy[..504], &copy[512..]]);
    copy[504..508].copy_from_slice(&whole.to_le_bytes());
    let header = crc32fast::Hasher::new();
    let mut header = header;
    header.update(&copy[48..64]);
    header.update(&index.to_le_bytes());
    header.update(&copy[..508]);
    let header = header.finalize();
    copy[508..512].copy_from_slice(&header.to_le_bytes());
}

fn copy_of(metadata: &Metadata, index: u32) -> Vec<u8> {
    stamped(&encode(metadata).unwrap(), metadata.spares[0].uuid, index)
}

/// The fuzzer (target copy) found metadata that was another after writing and reading. These are random fractions that do
/// it, not its input: serde_json gets the last digit of about every sixth wrong unless it is told not to.
#[test]
fn fractions_of_a_later_version_come_back_to_the_last_digit() {
    let texts = ["4.1111433021310636e183", "5.391709936508631e285", "2.1322628229625698e-135", "0.1", "-1.5e-320"];
    let mut written = metadata(1, 2);
    let numbers = texts.map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    for (text, number) in texts.iter().zip(&numbers) {
        assert_eq!(
            number.as_f64().unwrap().to_bits(),
            text.parse::<f64>().unwrap().to_bits(),
            "{text} is read wrongly"
        );
    }
    written.config.unknown.insert("ratios".into(), json!(numbers));
    let mut metadata = written.clone();
    for round in 0..3 {
        metadata = valid(&judge(&copy_of(&metadata, 0), 0)).unwrap().metadata.clone();
        assert_eq!(metadata.config.unknown, written.config.unknown, "changed in round {round}");
    }
}

#[test]
fn resealing_an_unchanged_copy_changes_nothing() {
    let mut copy = copy_of(&metadata(1, 2), 3);
    let before = copy.clone();
    reseal(&mut copy, 3);
    assert_eq!(copy, before);
}

#[test]
fn each_unknown_incompatible_flag_refuses_the_copy() {
    for bit in 1..64 {
        let mut copy = copy_of(&metadata(1, 1), 1);
        copy[24..32].copy_from_slice(&(1u64 << bit).to_le_bytes());
        reseal(&mut copy, 1);
        let features = Unsupported::Features(1 << bit);
        assert_eq!(judge(&copy, 1), Verdict::Unsupported(features));
    }
}

#[test]
fn other_versions_are_refused_and_not_called_damaged() {
    for version in [0u32, 2, 3, u32::MAX] {
        let mut copy = copy_of(&metadata(1, 1), 0);
        copy[8..12].copy_from_slice(&version.to_le_bytes());
        // Whatever a later version does after the fields that never move.
        copy[200..300].fill(0xA5);
        reseal(&mut copy, 0);
        let verdict = Verdict::Unsupported(Unsupported::Version(version));
        assert_eq!(judge(&copy, 0), verdict);
        let mut image = spare_with(Default::default()).image();
        support::put(&mut image, 0, &copy);
        let reading = read_copies(&spare_with(image), Default::default());
        assert!(reading.has_traces());
        assert_eq!(reading.choose(), Err(ChooseError::NoneValid));
    }
}

#[test]
fn compatible_parts_of_later_versions_survive_a_commit_by_this_one() {
    let mut first = metadata(1, 2);
    first.compatible = 1 << 63 | 5;
    first.unknown_sections = vec![(7, vec![1, 2, 3]), (u32::MAX, Vec::new()), (7, vec![4])];
    let note = json!({ "nested": [1, -2, { "deep": null }], "text": "ü" });
    first.config.unknown.insert("note".into(), note.clone());
    first.config.policy.unknown.insert("colour".into(), json!(u64::MAX));
    first.config.main.unknown.insert("nguid".into(), json!("0011"));
    first.spares[1].unknown.insert("shelf".into(), json!(["a"]));
    first.spares[1].identity.unknown.insert("eui".into(), json!(7));
    first.health.unknown.insert("spins".into(), json!(i64::MIN));

    let disk = blank_spare();
    let spare = first.spares[0].uuid;
    assert!(commit(&disk, spare, &encode(&first).unwrap()).complete());
    let read = read_copies(&*disk, Default::default()).choose().unwrap().copy;
    assert_eq!(read.metadata, first);

    let mut next = read.metadata.next(1_700_000_001, read.digest);
    next.map.insert(range(8, 8), slot(1, 10_240)).unwrap();
    assert!(commit(&disk, spare, &encode(&next).unwrap()).complete());
    let again = read_copies(&*disk, Default::default()).choose().unwrap().copy;
    assert_eq!(again.metadata, next);
    assert_eq!(again.metadata.generation, first.generation + 1);
    assert_eq!(again.metadata.compatible, first.compatible);
    assert_eq!(again.metadata.unknown_sections, first.unknown_sections);
    assert_eq!(again.metadata.config.unknown["note"], note);
    assert_eq!(again.metadata.config.main, first.config.main);
    assert_eq!(again.metadata.spares, first.spares);
    assert_eq!(again.metadata.health, first.health);
}

#[test]
fn what_could_not_be_read_again_is_not_encoded() {
    let refused = |change: fn(&mut Metadata)| {
        let mut bad = metadata(1, 2);
        bad.map.insert(range(0, 8), slot(1, 10_240)).unwrap();
        change(&mut bad);
        match encode(&bad) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("encoded: {bad:?}"),
        }
    };
    refused(|m| m.spares.clear());
    refused(|m| m.spares[1].uuid = m.spares[0].uuid);
    refused(|m| m.spares[0].data_start.0 = 8192);
    refused(|m| m.spares[1].identity.size.0 = 10_247);
    refused(|m| m.spares.truncate(1));
    refused(|m| m.config.main.size.0 += 1);
    refused(|m| m.config.name = "a/b".into());
    refused(|m| m.unknown_sections.push((3, vec![1])));
    refused(|m| m.unknown_sections.push((0, vec![1])));
    refused(|m| m.unknown_sections.extend((7..14).map(|kind| (kind, Vec::new()))));
    refused(|m| m.unknown_sections.push((9, vec![0; 600_000])));
    refused(|m| {
        let one = dm_remap::format::metadata::Ancestor { generation: 0, digest: [0; 32] };
        m.lineage = vec![one; 33];
    });
    let held = refused(|m| {
        m.map.record_loss(range(2, 1), Fate::Held).unwrap();
        m.map.remove(range(0, 8)).unwrap();
    });
    assert!(held.contains("held"), "{held}");
    refused(|m| {
        m.bad_blocks.insert(SpareIndex(2), vec![range(0, 1)]);
    });
    assert!(matches!(metadata(1, 17).check(), Err(Inconsistency::SpareCount(17))));
}

#[test]
fn who_does_not_know_that_main_is_older_must_not_read_it() {
    let mut old = metadata(1, 2);
    old.map.insert(range(0, 8), slot(1, 10_240)).unwrap();
    old.map.record_loss(range(2, 1), Fate::Held).unwrap();
    assert_eq!(copy_of(&old, 0)[24..32], [0; 8]);
    let mut stale = old.clone();
    stale.map.record_loss(range(3, 1), Fate::HeldStale).unwrap();
    let copy = copy_of(&stale, 0);
    assert_eq!(copy[24..32], 1u64.to_le_bytes());
    let read = valid(&judge(&copy, 0)).unwrap().metadata.clone();
    assert_eq!(read, stale);
    assert_eq!(read.incompatible_flags(), 1);
    // Once there is no such loss any more, anybody can read it again.
    let mut after = read;
    after.map.record_loss(range(3, 1), Fate::Rewritten).unwrap();
    assert_eq!(copy_of(&after, 0)[24..32], [0; 8]);
    // The flag and the losses agree, or the copy is damaged.
    for (mut copy, flag) in [(copy, 0), (copy_of(&old, 0), 1)] {
        copy[24] = flag;
        reseal(&mut copy, 0);
        assert!(matches!(judge(&copy, 0), Verdict::Damaged(_)));
    }
}

#[test]
fn right_checksums_over_nonsense_are_damage_and_not_a_panic() {
    let sound = copy_of(&metadata(1, 2), 0);
    // Every 32-bit word of the header, with the checksums made right again.
    for at in (8..504).step_by(4) {
        for value in [0u32, 1, 2, 511, 513, 4097, 524_289, u32::MAX] {
            let mut copy = sound.clone();
            copy[at..at + 4].copy_from_slice(&value.to_le_bytes());
            reseal(&mut copy, 0);
            if let Some(read) = valid(&judge(&copy, 0)) {
                assert!(encode(&read.metadata).is_ok(), "word {at} = {value}");
            }
        }
    }
    let mut copy = sound.clone();
    copy[128..132].copy_from_slice(&0u32.to_le_bytes());
    reseal(&mut copy, 0);
    assert!(matches!(judge(&copy, 0), Verdict::Damaged(Damage::Content(_))));
}

/// Makes the checksums of all sections right again, then those of the header.
fn reseal_sections(copy: &mut [u8], index: u32) {
    let word = |copy: &[u8], at: usize| u32::from_le_bytes(copy[at..at + 4].try_into().unwrap());
    for entry in (0..word(copy, 92) as usize).map(|n| 128 + n * 16) {
        let start = word(copy, entry + 4) as usize;
        let end = start + word(copy, entry + 8) as usize;
        let salted = [&copy[48..64], &index.to_le_bytes(), &copy[start..end]].concat();
        let crc = crc32fast::hash(&salted);
        copy[entry + 12..entry + 16].copy_from_slice(&crc.to_le_bytes());
    }
    reseal(copy, index);
}

#[test]
fn whatever_is_read_can_be_written_and_read_again() {
    let mut valid_ones = 0;
    for image in support::golden::all() {
        let sound = image.bytes();
        let used = sound.iter().rposition(|b| *b != 0).unwrap() + 8;
        for at in 512..used {
            for change in [1, 2, 4, 0x10, 0x80, 0xFF] {
                let mut copy = sound.clone();
                copy[at] ^= change;
                reseal_sections(&mut copy, image.copy);
                let Some(read) = valid(&judge(&copy, image.copy)).cloned() else {
                    continue;
                };
                let encoded = encode(&read.metadata);
                let encoded = encoded.unwrap_or_else(|e| panic!("byte {at} ^ {change}: {e}"));
                let written = stamped(&encoded, read.spare, image.copy);
                let again = valid(&judge(&written, image.copy)).cloned();
                let again = again.map(|copy| copy.metadata);
                assert_eq!(again, Some(read.metadata), "byte {at} ^ {change}");
                valid_ones += 1;
            }
        }
    }
    assert!(valid_ones > 2000, "{valid_ones}");
}

/// One spare of a setup as it was read.
fn reading(metadata: &Metadata, spare: usize) -> dm_remap::format::choose::Chosen {
    let disk = blank_spare();
    commit(&disk, metadata.spares[spare].uuid, &encode(metadata).unwrap());
    read_copies(&*disk, Default::default()).choose().unwrap()
}

/// `count` commits after `from`, each with another time.
fn commits(from: &Metadata, count: u64, time: u64) -> Metadata {
    (0..count).fold(from.clone(), |last, n| {
        let digest = encode(&last).unwrap().digest();
        last.next(time + n, digest)
    })
}

#[test]
fn a_spare_that_missed_commits_is_stale_and_says_by_how_much() {
    let start = metadata(1, 3);
    for behind in [1, 2, 31, 32, 33, 60] {
        let newest = commits(&start, behind, 1000);
        let spares = [reading(&start, 0), reading(&newest, 1)];
        for order in [[0, 1], [1, 0]] {
            let spares = order.map(|i| spares[i].clone());
            let choice = choose_setup(&spares).unwrap();
            assert_eq!(choice.newest.metadata, newest);
            assert_eq!(choice.stale(), [(SpareIndex(0), behind)]);
            assert_eq!(choice.missing, [SpareIndex(2)]);
        }
    }
}

#[test]
fn spares_that_went_on_without_each_other_are_divergent_and_not_stale() {
    let start = metadata(1, 2);
    for (one, other) in [(1, 1), (1, 2), (5, 1), (32, 32), (32, 1), (7, 38)] {
        let left = commits(&start, one, 1000);
        let right = commits(&start, other, 2000);
        let choice = choose_setup(&[reading(&left, 0), reading(&right, 1)]);
        let older = start.generation + one.min(other);
        assert_eq!(choice, Err(ChooseError::Divergent(older)), "{one} and {other}");
    }
}

#[test]
fn what_was_given_up_for_another_is_stale_and_its_own_commits_since_are_divergent() {
    let start = metadata(1, 2);
    for away in [1, 17, 40] {
        let mut given_up = start.clone();
        given_up.generation += away;
        let commit = Ancestor { generation: given_up.generation, digest: encode(&given_up).unwrap().digest() };
        let mut after = commits(&start, 1, 2000);
        after.supersede(commit);
        after.supersede(commit);
        assert!(after.generation > given_up.generation && after.lineage.len() == start.lineage.len() + 2);
        for more in [0, 1, 5] {
            let newest = commits(&after, more, 3000);
            let choice = choose_setup(&[reading(&given_up, 0), reading(&newest, 1)]).unwrap();
            assert_eq!(choice.newest.metadata, newest);
            assert_eq!(choice.stale(), [(SpareIndex(0), more + 1)]);
        }
        let newest = commits(&after, 5, 3000);
        let went_on = commits(&given_up, 1, 4000);
        assert!(choose_setup(&[reading(&went_on, 0), reading(&newest, 1)]).is_err());
    }
}

#[test]
fn generations_that_are_left_out_hide_no_divergence() {
    let start = metadata(1, 2);
    // One host could not read a header, and left room; the other could.
    let mut left = commits(&start, 1, 1000);
    left.generation += 16;
    for other in 1..5 {
        let right = commits(&start, other, 2000);
        let choice = choose_setup(&[reading(&left, 0), reading(&right, 1)]);
        assert_eq!(choice, Err(ChooseError::Divergent(start.generation + other)));
    }
    assert!(choose_setup(&[reading(&left, 0), reading(&start, 1)]).is_ok());
}

#[test]
fn spares_of_two_setups_and_the_same_spare_twice_are_refused() {
    let (one, two) = (metadata(1, 2), metadata(2, 2));
    let mixed = choose_setup(&[reading(&one, 0), reading(&two, 1)]);
    assert!(matches!(mixed, Err(ChooseError::Mixed(_))));
    let twice = choose_setup(&[reading(&one, 0), reading(&one, 0)]);
    assert!(matches!(twice, Err(ChooseError::Mixed(_))));
    assert_eq!(choose_setup(&[]), Err(ChooseError::NoneValid));
}

#[test]
fn a_spare_that_was_removed_does_not_count() {
    let before = metadata(1, 2);
    let mut after = commits(&before, 1, 1000);
    after.spares.truncate(1);
    let choice = choose_setup(&[reading(&before, 1), reading(&after, 0)]).unwrap();
    assert_eq!(choice.newest.metadata, after);
    assert!(choice.stale().is_empty() && choice.missing.is_empty());
}

#[test]
fn what_a_removed_spare_went_on_to_say_by_itself_is_no_contradiction_unless_it_is_as_new() {
    let start = metadata(1, 3);
    let mut removal = commits(&start, 1, 1000);
    removal.spares.truncate(2);
    let after = commits(&removal, 4, 1100);
    // The removed one was brought up alone, and has commits of its own under numbers that the others have, too.
    for own in 1..=5 {
        let alone = commits(&start, own, 2000);
        let mut spares = [reading(&after, 0), reading(&alone, 2), reading(&after, 1)];
        for _ in 0..3 {
            spares.rotate_left(1);
            let choice = choose_setup(&spares);
            if own < 5 {
                let choice = choice.unwrap();
                assert_eq!(choice.newest.metadata, after);
                assert_eq!(choice.generations.len(), 2);
            } else {
                assert_eq!(choice, Err(ChooseError::Divergent(after.generation)));
            }
        }
    }
}
