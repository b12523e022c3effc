//! One flipped bit anywhere in a copy is always found: every bit of small copies, many of the largest one.

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

use dm_remap::format::copy::{Damage, EncodeError, Verdict, encode, judge};
use dm_remap::format::metadata::{Ancestor, MAX_LINEAGE, Metadata};
use dm_remap::format::{COPY_MAX_BYTES, MAX_SPARES};
use dm_remap::map::Fate;
use dm_remap::store::read_copies;
use dm_remap::units::Sectors;
use support::{Random, blank_spare, commit, metadata, range, scatter, stamped, valid};

/// What damage to a byte of this sound copy must be called.
fn part_of(copy: &[u8], byte: usize) -> Damage {
    let word = |at: usize| u32::from_le_bytes(copy[at..at + 4].try_into().unwrap());
    let count = word(92) as usize;
    let mut entries = (0..count).map(|n| 128 + n * 16);
    let inside = |at: &usize| (word(at + 4)..word(at + 4) + word(at + 8)).contains(&(byte as u32));
    match (byte, entries.find(inside)) {
        (0..8, _) => Damage::Magic,
        (8..512, _) => Damage::Header,
        (_, Some(entry)) => Damage::Section(word(entry)),
        _ => Damage::Padding,
    }
}

/// Flips the bit and back; whether the damage was found, and where it is.
fn flip_is_found(copy: &mut [u8], index: u32, bit: usize) -> bool {
    let part = part_of(copy, bit / 8);
    copy[bit / 8] ^= 1 << (bit % 8);
    let verdict = judge(copy, index);
    copy[bit / 8] ^= 1 << (bit % 8);
    verdict == Verdict::Damaged(part)
}

fn lineage(count: usize) -> Vec<Ancestor> {
    let mut random = Random::new(9);
    (0..count)
        .map(|n| {
            let mut digest = [0; 32];
            random.fill(&mut digest);
            Ancestor { generation: 100 + n as u64, digest }
        })
        .collect()
}

/// Metadata as large as a setup can have it: 16 spares whose identities fill every field, the longest name, a full
/// lineage, bad blocks on every spare, some losses, and `extents` scattered extents.
fn largest(extents: u64) -> Metadata {
    let mut all = metadata(1, MAX_SPARES as u8);
    all.config.name = "n".repeat(100);
    let main_size = Sectors(48_000_000_000);
    all.config.main.size = main_size;
    all.map = dm_remap::map::Map::new(main_size, Sectors(8)).unwrap();
    let long = |what: &str| Some(format!("{what:-<64}"));
    for record in &mut all.spares {
        let known = &mut record.identity;
        known.wwn = long("naa");
        known.serial = long("serial");
        known.model = long("model");
        known.partition_uuid = long("partition");
        known.partition_start = Some(Sectors(u64::MAX / 1024));
        known.virtual_uuid = long("LVM");
        known.path = Some(format!("/dev/disk/by-id/{:-<200}", "path"));
    }
    scatter(&mut all, extents, 4);
    for spare in 0..MAX_SPARES as u8 {
        let runs = (0..4).map(|n| range(3_000_000 + n * 1000, 8)).collect();
        all.bad_blocks.insert(dm_remap::map::SpareIndex(spare), runs);
    }
    let lost: Vec<_> = all.map.extents().step_by(2000).map(|e| e.range).collect();
    for at in lost {
        all.map.record_loss(at, Fate::Held).unwrap();
    }
    all.lineage = lineage(MAX_LINEAGE);
    all.generation = 1000;
    all
}

#[test]
fn every_flipped_bit_of_small_copies_is_found() {
    let plain = metadata(1, 1);
    let mut busy = metadata(1, 3);
    scatter(&mut busy, 700, 1);
    let first = busy.map.extents().next().unwrap().range;
    busy.map.record_loss(first, Fate::Held).unwrap();
    busy.lineage = lineage(5);
    busy.compatible = 1 << 40;
    busy.unknown_sections = vec![(77, b"from a later version".to_vec()), (78, Vec::new())];
    busy.bad_blocks.insert(dm_remap::map::SpareIndex(2), vec![range(50_000, 9)]);
    let mut flips = 0;
    for (metadata, index, blocks) in [(&plain, 0, 1), (&plain, 4, 1), (&busy, 3, 2)] {
        let encoded = encode(metadata).unwrap();
        let mut copy = stamped(&encoded, metadata.spares[0].uuid, index);
        assert_eq!(copy.len(), blocks * 4096);
        assert!(valid(&judge(&copy, index)).is_some());
        for bit in 0..copy.len() * 8 {
            assert!(flip_is_found(&mut copy, index, bit), "copy {index}, bit {bit}");
            flips += 1;
        }
        assert!(valid(&judge(&copy, index)).is_some());
    }
    assert_eq!(flips, (1 + 1 + 2) * 4096 * 8);
}

#[test]
fn a_hundred_thousand_extents_with_everything_else_fit_and_read_back_from_disk_and_flips_are_found() {
    let all = largest(100_000);
    assert_eq!(all.map.len(), 100_000);
    let encoded = encode(&all).unwrap();
    assert!(encoded.len() > 400_000 && encoded.len() <= COPY_MAX_BYTES);
    let disk = blank_spare();
    let spare = all.spares[7].uuid;
    assert!(commit(&disk, spare, &encoded).complete());
    let chosen = read_copies(&*disk, Default::default()).choose().unwrap();
    assert_eq!(chosen.current, [0, 1, 2, 3, 4]);
    assert_eq!(chosen.copy.metadata, all);
    assert_eq!(chosen.copy.spare, spare);

    let mut copy = stamped(&encoded, spare, 2);
    let mut random = Random::new(6);
    let bits = copy.len() as u64 * 8;
    for _ in 0..1500 {
        let bit = random.below(bits) as usize;
        assert!(flip_is_found(&mut copy, 2, bit), "bit {bit}");
    }
    // And wherever one of the 4096-byte blocks begins or ends.
    for edge in (0..copy.len()).step_by(4096) {
        for bit in [edge * 8, (edge + 4096) * 8 - 1] {
            assert!(flip_is_found(&mut copy, 2, bit), "bit {bit}");
        }
    }
    assert!(valid(&judge(&copy, 2)).is_some());
}

#[test]
fn a_map_that_does_not_fit_is_refused_with_the_size_that_it_needs() {
    match encode(&largest(130_000)) {
        Err(EncodeError::Full { needed }) => assert!(needed > COPY_MAX_BYTES),
        other => panic!("{:?}", other.map(|e| e.len())),
    }
}

#[test]
fn every_truncation_is_damage() {
    let encoded = encode(&metadata(1, 1)).unwrap();
    let copy = stamped(&encoded, metadata(1, 1).spares[0].uuid, 1);
    for len in 1..copy.len() {
        assert!(matches!(judge(&copy[..len], 1), Verdict::Damaged(_)), "{len}");
    }
    assert_eq!(judge(&[], 1), Verdict::Blank);
}
