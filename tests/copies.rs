//! Copies: every subset of damaged copies, every kind of damage: the right verdict and the right choice.
//!
//! The oracle is a model that knows only what was done to each copy, not how a copy is judged.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::needless_range_loop
)]

#[path = "format_support/mod.rs"]
mod support;

use dm_remap::block::ram::{Bad, Image};
use dm_remap::format::choose::{ChooseError, Expected};
use dm_remap::format::copy::{Damage, Encoded, Judge, Verdict, encode};
use dm_remap::format::metadata::Metadata;
use dm_remap::format::{COMMIT_GROUP_B, COPY_STARTS};
use dm_remap::store::{SpareReading, read_copies};
use nix::errno::Errno;
use support::{Random, blank_spare, commit, metadata, put, range, scatter, spare_uuid, spare_with};
use support::{stamped, valid};
use uuid::Uuid;

/// A generation of a setup, ready to be written.
struct Version {
    metadata: Metadata,
    encoded: Encoded,
    spare: Uuid,
}

impl Version {
    fn new(metadata: Metadata) -> Version {
        let encoded = encode(&metadata).unwrap();
        let spare = metadata.spares[0].uuid;
        Version { metadata, encoded, spare }
    }

    /// The next generation of the same setup: some extents more, and a copy of that many blocks of 4096 bytes.
    fn next(&self, blocks: usize) -> Version {
        let mut metadata = self.metadata.next(1_700_000_500, self.encoded.digest());
        let generation = metadata.generation;
        for number in 0..10 {
            let to = support::slot(0, 20_000 + (generation * 10 + number) * 16);
            let place = range((generation * 1000 + number * 7) * 8, 8);
            metadata.map.insert(place, to).unwrap();
        }
        let mut filler = vec![0; (blocks - 1) * 4096];
        Random::new(generation).fill(&mut filler);
        metadata.unknown_sections = vec![(1000, filler)];
        let version = Version::new(metadata);
        assert_eq!(version.encoded.len(), blocks * 4096);
        version
    }

    fn bytes(&self, index: usize) -> Vec<u8> {
        stamped(&self.encoded, self.spare, index as u32)
    }

    fn image(&self) -> Image {
        let disk = blank_spare();
        let report = commit(&disk, self.spare, &self.encoded);
        assert!(report.complete() && report.stands());
        disk.image()
    }
}

/// What was done to one copy.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Zeroed,
    Random(u64),
    Flipped(usize),
    /// The first `sectors` sectors are of one generation, the rest of the other.
    Torn {
        sectors: usize,
        newer_first: bool,
    },
    OtherIndex(usize),
    OtherSetup,
    Unreadable(u64),
}

/// What a copy must be found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Valid(u64),
    Blank,
    Foreign,
    Damaged,
    Misplaced(u32),
    Unreadable,
}

fn seen(verdict: &Verdict) -> Option<Want> {
    Some(match verdict {
        Verdict::Valid(copy) => Want::Valid(copy.metadata.generation),
        Verdict::Blank => Want::Blank,
        Verdict::Foreign(_) => Want::Foreign,
        Verdict::Damaged(Damage::Misplaced(index)) => Want::Misplaced(*index),
        Verdict::Damaged(_) => Want::Damaged,
        Verdict::Unreadable { .. } => Want::Unreadable,
        Verdict::Unsupported(_) => return None,
    })
}

/// The generations that the cases are made of.
struct Cast {
    older: Version,
    own: Version,
    newer: Version,
    other: Version,
}

impl Cast {
    /// Three generations of one setup of different lengths, and another setup.
    fn new() -> Cast {
        let older = Version::new(metadata(1, 1));
        let own = older.next(2);
        let newer = own.next(3);
        let mut other = metadata(2, 1);
        other.generation = 99;
        let other = Version::new(other);
        let lens = [&older, &own, &newer].map(|v| v.encoded.len());
        assert!(lens[0] < lens[1] && lens[1] < lens[2], "{lens:?}");
        Cast { older, own, newer, other }
    }

    /// The bytes of a torn copy, `before` being what stood there.
    fn torn(&self, before: &Version, index: usize, sectors: usize, newer_first: bool) -> Vec<u8> {
        let (old, new) = (before.bytes(index), self.newer.bytes(index));
        let mut bytes = vec![0; old.len().max(new.len())];
        let cut = sectors * 512;
        bytes[..old.len()].copy_from_slice(&old);
        if newer_first {
            bytes[..cut.min(new.len())].copy_from_slice(&new[..cut.min(new.len())]);
        } else if cut < new.len() {
            bytes[cut..new.len()].copy_from_slice(&new[cut..]);
        }
        bytes
    }

    /// What torn bytes must be found to be: valid only if they are, byte for byte, a whole copy.
    fn want_torn(&self, before: &Version, index: usize, bytes: &[u8]) -> Want {
        for version in [before, &self.newer] {
            let whole = version.bytes(index);
            if bytes[..whole.len()] == whole {
                return Want::Valid(version.metadata.generation);
            }
        }
        Want::Damaged
    }

    /// Does the harm to the copies in `subset` (a bit each) of a spare that holds `image`, whose copy `n` is
    /// `before(n)`; checks every verdict and the choice, with and without an expectation.
    fn check<'a>(
        &'a self,
        image: &Image,
        before: impl Fn(usize) -> &'a Version,
        subset: u32,
        harm: impl Fn(usize) -> Harm,
    ) {
        let mut image = image.clone();
        let mut bad = Vec::new();
        let mut wants = Vec::new();
        for index in 0..5 {
            let standing = before(index);
            if subset >> index & 1 == 0 {
                wants.push(Want::Valid(standing.metadata.generation));
                continue;
            }
            let mut bytes = standing.bytes(index);
            wants.push(match harm(index) {
                Harm::Zeroed => {
                    bytes.fill(0);
                    Want::Blank
                }
                Harm::Random(seed) => {
                    Random::new(seed).fill(&mut bytes);
                    Want::Foreign
                }
                Harm::Flipped(bit) => {
                    let bit = bit % (bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    Want::Damaged
                }
                Harm::Torn { sectors, newer_first } => {
                    bytes = self.torn(standing, index, sectors, newer_first);
                    self.want_torn(standing, index, &bytes)
                }
                Harm::OtherIndex(shift) => {
                    let from = (index + shift) % 5;
                    bytes = standing.bytes(from);
                    Want::Misplaced(from as u32)
                }
                Harm::OtherSetup => {
                    bytes = self.other.bytes(index);
                    Want::Foreign
                }
                Harm::Unreadable(sector) => {
                    let used = bytes.len() as u64 / 512;
                    bad.push((COPY_STARTS[index].0 + sector % used, index));
                    Want::Unreadable
                }
            });
            put(&mut image, index, &bytes);
        }
        let disk = spare_with(image);
        for (sector, _) in &bad {
            disk.set_bad(range(*sector, 1), Bad::Reads(Errno::ENODATA));
        }
        let what = || {
            let harms: Vec<Harm> = (0..5).filter(|i| subset >> i & 1 == 1).map(&harm).collect();
            format!("subset {subset:05b}, {harms:?}")
        };

        let own = Expected { setup: Some(self.own.metadata.setup), spare: Some(self.own.spare) };
        let reading = read_copies(&disk, own);
        for (index, want) in wants.iter().enumerate() {
            let verdict = &reading.verdicts[index];
            assert_eq!(seen(verdict), Some(*want), "copy {index}, {}", what());
            if let Some(copy) = valid(verdict) {
                let version = [&self.older, &self.own, &self.newer]
                    .into_iter()
                    .find(|v| v.metadata.generation == copy.metadata.generation);
                assert_eq!(copy.metadata, version.unwrap().metadata, "{}", what());
            }
        }
        self.check_choice(&reading, &wants, &what);

        // Without an expectation, copies of another setup are refused, unless there are no others.
        let others: Vec<usize> =
            (0..5).filter(|i| subset >> i & 1 == 1 && matches!(harm(*i), Harm::OtherSetup)).collect();
        if others.is_empty() {
            return;
        }
        let choice = read_copies(&disk, Expected::default()).choose();
        if wants.iter().any(|want| matches!(want, Want::Valid(_))) {
            assert!(matches!(choice, Err(ChooseError::Mixed(ref all)) if all.len() == 2));
        } else {
            let choice = choice.unwrap();
            assert_eq!(choice.copy.metadata, self.other.metadata, "{}", what());
            assert_eq!(choice.current, others);
        }
    }

    /// The newest valid generation is chosen, and the copies are told apart.
    fn check_choice(&self, reading: &SpareReading, wants: &[Want], what: &dyn Fn() -> String) {
        let newest = wants.iter().filter_map(|want| match want {
            Want::Valid(generation) => Some(*generation),
            _ => None,
        });
        let Some(newest) = newest.max() else {
            assert_eq!(reading.choose(), Err(ChooseError::NoneValid), "{}", what());
            return;
        };
        let (current, lagging): (Vec<usize>, Vec<usize>) = (0..5).partition(|i| wants[*i] == Want::Valid(newest));
        let chosen = reading.choose().unwrap();
        assert_eq!(chosen.copy.metadata.generation, newest, "{}", what());
        assert_eq!((chosen.current, chosen.lagging), (current, lagging), "{}", what());
    }

    /// All 31 subsets, on a spare in order and on one where a commit was cut off between its two groups.
    fn check_all(&self, harm: impl Fn(usize) -> Harm) {
        let whole = self.own.image();
        let mut halfway = whole.clone();
        for index in COMMIT_GROUP_B {
            let mut bytes = self.own.bytes(index);
            let old = self.older.bytes(index);
            bytes[..old.len()].copy_from_slice(&old);
            put(&mut halfway, index, &bytes);
        }
        for subset in 1..32 {
            self.check(&whole, |_| &self.own, subset, &harm);
            let half = |index| {
                if COMMIT_GROUP_B.contains(&index) { &self.older } else { &self.own }
            };
            self.check(&halfway, half, subset, &harm);
        }
    }
}

#[test]
fn zeroed_copies_are_blank_in_all_31_subsets() {
    Cast::new().check_all(|_| Harm::Zeroed);
}

#[test]
fn random_bytes_are_foreign_in_all_31_subsets() {
    let cast = Cast::new();
    for seed in 0..8 {
        cast.check_all(|index| Harm::Random(seed * 5 + index as u64));
    }
}

#[test]
fn one_flipped_bit_is_damage_in_all_31_subsets() {
    let cast = Cast::new();
    let mut random = Random::new(3);
    for _ in 0..20 {
        let bits: [u64; 5] = std::array::from_fn(|_| random.next() >> 8);
        cast.check_all(|index| Harm::Flipped(bits[index] as usize));
    }
}

#[test]
fn copies_torn_at_each_sector_are_damage_in_all_31_subsets() {
    let cast = Cast::new();
    for newer_first in [true, false] {
        for sectors in 0..=cast.newer.encoded.len() / 512 {
            cast.check_all(|_| Harm::Torn { sectors, newer_first });
        }
    }
}

#[test]
fn copies_pasted_from_another_index_are_misplaced_in_all_31_subsets() {
    let cast = Cast::new();
    for shift in 1..5 {
        cast.check_all(|_| Harm::OtherIndex(shift));
    }
}

#[test]
fn copies_pasted_from_another_setup_are_foreign_in_all_31_subsets() {
    Cast::new().check_all(|_| Harm::OtherSetup);
}

#[test]
fn copies_with_an_unreadable_sector_are_unreadable_in_all_31_subsets() {
    let cast = Cast::new();
    for sector in 0..cast.own.encoded.len() as u64 / 512 {
        cast.check_all(|_| Harm::Unreadable(sector));
    }
}

#[test]
fn different_damage_to_each_copy_is_told_apart() {
    let cast = Cast::new();
    let mut random = Random::new(5);
    for _ in 0..60 {
        let harms: [Harm; 5] = std::array::from_fn(|_| match random.below(7) {
            0 => Harm::Zeroed,
            1 => Harm::Random(random.next()),
            2 => Harm::Flipped((random.next() >> 8) as usize),
            3 => Harm::Torn { sectors: random.below(20) as usize, newer_first: random.below(2) == 0 },
            4 => Harm::OtherIndex(1 + random.below(4) as usize),
            5 => Harm::OtherSetup,
            _ => Harm::Unreadable(random.below(100)),
        });
        cast.check_all(|index| harms[index]);
    }
}

#[test]
fn a_torn_copy_is_valid_only_if_it_is_byte_for_byte_a_whole_one() {
    let first = Version::new(metadata(1, 1));
    let long = first.next(4);
    let as_long = long.next(4);
    let short = long.next(1);
    let pairs = [(&first, &long), (&long, &short), (&long, &as_long), (&first, &first.next(1))];
    let (mut torn, mut whole) = (0, 0);
    for (older, newer) in pairs {
        let image = older.image();
        for index in 0..5 {
            let (old, new) = (older.bytes(index), newer.bytes(index));
            let longest = old.len().max(new.len());
            for (sectors, newer_first) in (0..=longest / 512).flat_map(|n| [(n, true), (n, false)]) {
                let mut bytes = vec![0; longest];
                bytes[..old.len()].copy_from_slice(&old);
                for at in 0..new.len() {
                    if (at < sectors * 512) == newer_first {
                        bytes[at] = new[at];
                    }
                }
                let want = if bytes[..new.len()] == new {
                    Want::Valid(newer.metadata.generation)
                } else if bytes[..old.len()] == old {
                    Want::Valid(older.metadata.generation)
                } else {
                    Want::Damaged
                };
                let mut image = image.clone();
                put(&mut image, index, &bytes);
                let reading = read_copies(&spare_with(image), Expected::default());
                assert_eq!(seen(&reading.verdicts[index]), Some(want), "{sectors} {newer_first}");
                if want == Want::Damaged {
                    torn += 1;
                } else {
                    whole += 1;
                }
            }
        }
    }
    assert!(torn > 200 && whole > 100, "{torn} torn, {whole} whole");
}

#[test]
fn unreadable_sectors_outside_the_used_part_do_not_matter() {
    let cast = Cast::new();
    let used = cast.own.encoded.len() as u64 / 512;
    let disk = spare_with(cast.own.image());
    for start in COPY_STARTS {
        disk.set_bad(range(start.0 + used, 1024 - used), Bad::Reads(Errno::ENODATA));
    }
    disk.set_bad(range(3072, 1024), Bad::Reads(Errno::ENODATA));
    let chosen = read_copies(&disk, Expected::default()).choose().unwrap();
    assert_eq!(chosen.current, [0, 1, 2, 3, 4]);
    assert_eq!(chosen.copy.metadata, cast.own.metadata);
}

#[test]
fn a_misplaced_copy_of_another_setup_is_not_believed_either() {
    let cast = Cast::new();
    let mut image = cast.own.image();
    put(&mut image, 3, &cast.other.bytes(0));
    let reading = read_copies(&spare_with(image), Expected::default());
    assert_eq!(seen(&reading.verdicts[3]), Some(Want::Misplaced(0)));
    assert_eq!(reading.choose().unwrap().current, [0, 1, 2, 4]);
}

#[test]
fn a_copy_of_another_spare_of_the_same_setup_is_foreign() {
    let two = Version::new(metadata(1, 2));
    let second = spare_uuid(1, 1);
    let mut image = two.image();
    put(&mut image, 2, &stamped(&two.encoded, second, 2));
    let disk = spare_with(image);
    let reading = read_copies(&disk, Expected::default());
    assert!(matches!(reading.choose(), Err(ChooseError::Mixed(_))));
    let expected = Expected { setup: None, spare: Some(two.spare) };
    let reading = read_copies(&disk, expected);
    assert_eq!(seen(&reading.verdicts[2]), Some(Want::Foreign));
    assert_eq!(reading.choose().unwrap().lagging, [2]);
}

#[test]
fn one_generation_with_two_contents_is_divergent_unless_a_newer_one_is_there() {
    let cast = Cast::new();
    let mut forked = cast.own.metadata.clone();
    scatter(&mut forked, 1, 77);
    let fork = Version::new(forked);
    for index in 0..5 {
        let mut image = cast.own.image();
        put(&mut image, index, &fork.bytes(index));
        let choice = read_copies(&spare_with(image.clone()), Expected::default()).choose();
        let generation = cast.own.metadata.generation;
        assert_eq!(choice, Err(ChooseError::Divergent(generation)));
        let newer = (index + 1) % 5;
        put(&mut image, newer, &cast.newer.bytes(newer));
        let choice = read_copies(&spare_with(image), Expected::default()).choose();
        assert_eq!(choice.unwrap().current, [newer]);
    }
}

#[test]
fn a_device_that_is_too_small_or_gone_gets_a_verdict_for_every_copy() {
    let cast = Cast::new();
    let mut image = cast.own.image();
    image.retain(|sector, _| *sector < 2500);
    let size = dm_remap::units::Sectors(2500);
    let power = dm_remap::block::ram::Power::new();
    let block = dm_remap::units::Sectors(1);
    let disk = dm_remap::block::ram::RamDisk::from_image("small", size, block, power, image);
    let verdicts: Vec<_> = read_copies(&disk, Expected::default()).verdicts;
    let seen_all: Vec<_> = verdicts.iter().filter_map(seen).collect();
    let own = Want::Valid(cast.own.metadata.generation);
    assert_eq!(seen_all, [own, own, own, Want::Foreign, Want::Foreign]);
    disk.set_failing(Some(Errno::ENODEV));
    let reading = read_copies(&disk, Expected::default());
    assert_eq!(seen(&reading.verdicts[0]), Some(Want::Unreadable));
    assert_eq!(reading.choose(), Err(ChooseError::NoneValid));
    assert!(!reading.has_traces());
}

/// One who has judged other copies must say of each what one who has seen none says: also of those that differ from the
/// last one in nothing but the map, and of damaged ones, which must not be remembered as good.
#[test]
fn having_judged_others_changes_no_verdict() {
    let cast = Cast::new();
    let mut versions = vec![cast.older, cast.own, cast.newer, cast.other];
    for seed in 0..6 {
        let mut metadata = metadata(1, 1);
        scatter(&mut metadata, 30, seed);
        versions.push(Version::new(metadata));
    }
    let mut random = Random::new(17);
    let mut judge = Judge::default();
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let version = &versions[random.below(versions.len() as u64) as usize];
        let index = random.below(5) as usize;
        let mut bytes = version.bytes(index);
        if random.below(3) == 0 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        let verdict = judge.judge(&bytes, index as u32);
        assert_eq!(verdict, dm_remap::format::copy::judge(&bytes, index as u32));
        match valid(&verdict) {
            Some(copy) => {
                assert_eq!(copy.metadata, version.metadata);
                good += 1;
            }
            None => bad += 1,
        }
    }
    assert!(good > 1000 && bad > 500, "{good} {bad}");
}
