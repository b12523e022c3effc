//! Shared by the integration tests: metadata with known contents, spares in memory, reproducible randomness.

#![allow(dead_code, unreachable_pub)] // every test uses a part of it

pub mod golden;
pub mod walk;

use dm_remap::block::Disk;
use dm_remap::block::ram::{Image, Power, RamDisk};
use dm_remap::format::copy::{Encoded, ValidCopy, Verdict};
use dm_remap::format::metadata::{Config, Health, Metadata, Policy, SetupState, SpareRecord, SpareState, UnknownKeys};
use dm_remap::format::{COPY_STARTS, DATA_START};
use dm_remap::identity::Identity;
use dm_remap::map::{Map, Slot, SpareIndex};
use dm_remap::store::{Commit, CommitReport, CommitTarget};
use dm_remap::units::{Range, Sectors};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Size of the spares that [`metadata`] describes.
pub const SPARE_SIZE: u64 = 4_000_000;

/// Size of the main that [`metadata`] describes.
pub const MAIN_SIZE: u64 = 100_000_003;

/// A small random number generator (xorshift64), the same on every run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next().to_le_bytes()[3];
        }
    }
}

pub fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

pub fn slot(spare: u8, start: u64) -> Slot {
    Slot { spare: SpareIndex(spare), start: Sectors(start) }
}

pub fn identity(serial: &str, size: u64) -> Identity {
    Identity {
        serial: Some(serial.into()),
        size: Sectors(size),
        logical_block: Sectors(1),
        physical_block: Sectors(8),
        ..Identity::default()
    }
    .with_fingerprint()
}

/// UUID of spare `index` of the setup with this number.
pub fn spare_uuid(setup: u128, index: u8) -> Uuid {
    Uuid::from_u128(setup << 8 | u128::from(index) | 1 << 127)
}

pub fn spare_record(setup: u128, index: u8, size: u64) -> SpareRecord {
    SpareRecord {
        uuid: spare_uuid(setup, index),
        data_start: DATA_START,
        state: SpareState::Present,
        holds: None,
        removed: None,
        identity: identity(&format!("SPARE-{setup}-{index}"), size),
        unknown: UnknownKeys::new(),
    }
}

/// Metadata of generation 1 of setup number `setup`, with that many spares and an empty map.
pub fn metadata(setup: u128, spares: u8) -> Metadata {
    Metadata {
        setup: Uuid::from_u128(setup),
        generation: 1,
        committed: 1_700_000_000,
        compatible: 0,
        incompatible: 0,
        config: Config {
            name: format!("disk{setup}"),
            state: SetupState::Ready,
            created: 1_600_000_000,
            main: identity(&format!("MAIN-{setup}"), MAIN_SIZE),
            policy: Policy::default(),
            active: None,
            samples: None,
            unknown: UnknownKeys::new(),
        },
        spares: (0..spares).map(|index| spare_record(setup, index, SPARE_SIZE)).collect(),
        map: Map::new(Sectors(MAIN_SIZE), Sectors(8)).unwrap(),
        health: Health::default(),
        bad_blocks: BTreeMap::new(),
        lineage: Vec::new(),
        unknown_sections: Vec::new(),
    }
}

/// Adds `count` extents of one unit in random places, slots in random order over all spares.
pub fn scatter(metadata: &mut Metadata, count: u64, seed: u64) {
    let mut random = Random::new(seed);
    let spares = metadata.spares.len() as u64;
    let units = metadata.map.main_len().0 / 8;
    let mut slots: Vec<u64> = (0..count).collect();
    for i in (1..slots.len()).rev() {
        slots.swap(i, random.below(i as u64 + 1) as usize);
    }
    for number in slots {
        let to = slot((number % spares) as u8, 10_240 + number / spares * 16);
        while metadata.map.insert(range(random.below(units) * 8, 8), to).is_err() {}
    }
}

/// A copy as bytes.
pub fn stamped(encoded: &Encoded, spare: Uuid, index: u32) -> Vec<u8> {
    let mut bytes = vec![0; encoded.len()];
    encoded.stamp(&mut bytes, spare, DATA_START, index);
    bytes
}

/// A zeroed spare.
pub fn blank_spare() -> Arc<RamDisk> {
    Arc::new(RamDisk::new("spare", Sectors(SPARE_SIZE)))
}

/// A spare that holds `image`.
pub fn spare_with(image: Image) -> RamDisk {
    RamDisk::from_image("spare", Sectors(SPARE_SIZE), Sectors(1), Power::new(), image)
}

/// Commits to one spare.
pub fn commit(disk: &Arc<RamDisk>, spare: Uuid, encoded: &Encoded) -> CommitReport {
    let target = CommitTarget { disk: disk.clone(), uuid: spare, data_start: DATA_START };
    Commit::new(vec![target], encoded.clone()).run()
}

/// Replaces the beginning of copy `index` by `bytes` (whole sectors).
pub fn put(image: &mut Image, index: usize, bytes: &[u8]) {
    for (sector, chunk) in (COPY_STARTS[index].0..).zip(bytes.chunks_exact(512)) {
        image.insert(sector, chunk.try_into().unwrap());
    }
}

/// `bytes` bytes from the beginning of copy `index`.
pub fn get(disk: &dyn Disk, index: usize, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    disk.read(COPY_STARTS[index], &mut out).unwrap();
    out
}

/// The copy, if the verdict is valid.
pub fn valid(verdict: &Verdict) -> Option<&ValidCopy> {
    match verdict {
        Verdict::Valid(copy) => Some(copy),
        _ => None,
    }
}
