//! The reserve of the metadata.

use super::*;
use crate::format::copy::encode;
use crate::format::metadata::{Ancestor, Config, Health, SetupState, SpareRecord, UnreadablePolicy};
use crate::format::samples::{MainSamples, Sample};
use crate::identity::Identity;
use crate::map::{Fate, Map, Slot, SpareIndex};
use crate::plan::compact::plan_compact;
use crate::plan::moves::{AlreadyMapped, plan_remap, plan_restore};
use crate::units::{Range, RangeSet, Sectors};
use uuid::Uuid;

const UNKNOWN: u32 = 0x7fff_0000;

/// A setup with two neighbouring extents in slots apart, whose content takes `len` bytes.
fn metadata(len: usize) -> Metadata {
    let identity = |size: u64| Identity {
        size: Sectors(size),
        logical_block: Sectors(1),
        physical_block: Sectors(1),
        ..Identity::default()
    };
    let mut map = Map::new(Sectors(409_600), Sectors(8)).unwrap();
    for (at, slot) in [(800, 10_240), (808, 10_400)] {
        map.insert(range(at, 8), Slot { spare: SpareIndex(0), start: Sectors(slot) }).unwrap();
    }
    let mut metadata = Metadata {
        setup: Uuid::from_u128(7),
        generation: 100,
        committed: 1,
        compatible: 0,
        incompatible: 0,
        config: Config {
            name: "data".into(),
            state: SetupState::Ready,
            created: 1,
            main: identity(409_600),
            policy: Default::default(),
            active: None,
            samples: None,
            unknown: Default::default(),
        },
        spares: vec![SpareRecord {
            uuid: Uuid::from_u128(1),
            data_start: Sectors(10_240),
            state: Default::default(),
            holds: None,
            removed: None,
            identity: identity(200_000),
            unknown: Default::default(),
        }],
        map,
        health: Health::default(),
        bad_blocks: Default::default(),
        lineage: Vec::new(),
        unknown_sections: vec![(UNKNOWN, Vec::new())],
    };
    let padding = len - content_len(&metadata).unwrap().next_multiple_of(8);
    metadata.unknown_sections = vec![(UNKNOWN, vec![0; padding])];
    assert!(content_len(&metadata).unwrap().abs_diff(len) < 8);
    metadata
}

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn remap(metadata: &Metadata, at: u64) -> Result<MovePlan, Refusal> {
    plan_remap(metadata, &[range(at, 8)], AlreadyMapped::Refuse, UnreadablePolicy::Hold, |_| true)
}

#[test]
fn the_length_is_that_of_the_encoding() {
    for len in [4096, 5000, 70_000] {
        let metadata = metadata(len);
        assert_eq!(encode(&metadata).unwrap().len(), content_len(&metadata).unwrap().next_multiple_of(4096));
    }
}

#[test]
fn what_every_commit_adds_still_fits_when_plans_are_refused() {
    let mut full = metadata(ROOM - 256);
    let mut refusal = None;
    for at in (0..200).map(|n| 80_000 + n * 1600) {
        match remap(&full, at) {
            Ok(plan) => full.map = apply(&full.map, &plan.moves, &[]).unwrap(),
            Err(why) => {
                refusal = Some(why);
                break;
            }
        }
    }
    assert!(matches!(refusal, Some(Refusal::MetadataFull { .. })), "{refusal:?}");
    assert!(full.map.len() > 10);
    // A long life, a take-down, and losses that nobody foresaw.
    full.lineage = (60..92).map(|generation| Ancestor { generation, digest: [7; 32] }).collect();
    full.config.samples = Some(MainSamples {
        taken: u64::MAX,
        units: (0..64).map(|n| Sample { at: Sectors(n * 6400), crc: u32::MAX }).collect(),
        filesystem: None,
    });
    full.map.record_loss(range(800, 8), Fate::Held).unwrap();
    assert!(encode(&full).is_ok());
}

#[test]
fn who_is_in_the_reserve_already_gets_out_but_no_deeper() {
    for len in [ROOM + 1024, COPY_MAX_BYTES - 64] {
        let deep = metadata(len);
        assert!(matches!(remap(&deep, 80_000), Err(Refusal::MetadataFull { .. })), "{len}");
        assert!(plan_restore(&deep, Some(&[range(800, 8)]), UnreadablePolicy::Hold).is_ok());
        assert!(plan_restore(&deep, None, UnreadablePolicy::Hold).is_ok());
        let joined = plan_compact(&deep, |_| true, Sectors(1024), &RangeSet::default()).unwrap();
        assert_eq!(joined.moves.len(), 1);
    }
}
