//! The metadata of the golden images, spelled out.

use super::{range, slot};
use dm_remap::format::metadata::{
    Activation, Ancestor, Config, Health, Metadata, Policy, SetupState, SpareRecord, SpareState, UnknownKeys,
    UnreadablePolicy,
};
use dm_remap::identity::Identity;
use dm_remap::map::{Fate, Map, SpareIndex};
use dm_remap::units::Sectors;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::{Uuid, uuid};

/// One image: its name, which copy of which spare it is, and what it says.
pub struct Golden {
    pub name: &'static str,
    pub copy: u32,
    pub spare: usize,
    pub metadata: Metadata,
}

impl Golden {
    pub fn path(&self) -> PathBuf {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        dir.join(format!("{}.copy{}.img", self.name, self.copy))
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
}

/// All images.
pub fn all() -> Vec<Golden> {
    vec![
        Golden { name: "empty", copy: 0, spare: 0, metadata: empty() },
        Golden { name: "extents-held", copy: 3, spare: 1, metadata: extents_held() },
        Golden { name: "unknown-parts", copy: 1, spare: 0, metadata: unknown_parts() },
    ]
}

fn main_identity() -> Identity {
    Identity {
        wwn: Some("naa.5000c500a1b2c3d4".into()),
        serial: Some("WD-1".into()),
        size: Sectors(2_000_003),
        logical_block: Sectors(1),
        physical_block: Sectors(8),
        path: Some("/dev/sda".into()),
        ..Identity::default()
    }
    .with_fingerprint()
}

fn spare(uuid: Uuid, serial: &str) -> SpareRecord {
    SpareRecord {
        uuid,
        data_start: Sectors(10_240),
        state: SpareState::Present,
        holds: None,
        removed: None,
        identity: Identity {
            serial: Some(serial.into()),
            size: Sectors(20_480),
            logical_block: Sectors(1),
            physical_block: Sectors(1),
            ..Identity::default()
        }
        .with_fingerprint(),
        unknown: UnknownKeys::new(),
    }
}

/// One spare, nothing remapped yet.
fn empty() -> Metadata {
    Metadata {
        setup: uuid!("11111111-2222-4333-8444-555555555555"),
        generation: 1,
        committed: 1_700_000_000,
        compatible: 0,
        incompatible: 0,
        config: Config {
            name: "demo".into(),
            state: SetupState::Ready,
            created: 1_700_000_000,
            main: main_identity(),
            policy: Policy::default(),
            active: None,
            samples: None,
            unknown: UnknownKeys::new(),
        },
        spares: vec![spare(uuid!("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeee00"), "S-0")],
        map: Map::new(Sectors(2_000_003), Sectors(8)).unwrap(),
        health: Health::default(),
        bad_blocks: BTreeMap::new(),
        lineage: Vec::new(),
        unknown_sections: Vec::new(),
    }
}

/// Two spares, extents on both, losses of three fates, a bad run, an ancestor, an activation mark.
fn extents_held() -> Metadata {
    let mut all = empty();
    all.generation = 2;
    all.committed = 1_700_000_600;
    all.config.policy.unreadable = UnreadablePolicy::Zero;
    all.config.active = Some(Activation {
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        boot_id: "5e0f6c0e-6a0c-4f6e-9a53-0d7f3c1f2b1a".into(),
        hardware_id: String::new(),
        time: 1_700_000_500,
    });
    let second = uuid!("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeee01");
    all.spares.push(spare(second, "S-1"));
    all.map.insert(range(16, 8), slot(0, 10_240)).unwrap();
    all.map.insert(range(1000, 24), slot(0, 10_256)).unwrap();
    all.map.insert(range(200_000, 8), slot(0, 10_248)).unwrap();
    all.map.insert(range(2_000_000, 3), slot(1, 10_240)).unwrap();
    all.map.record_loss(range(16, 1), Fate::Zeroed).unwrap();
    all.map.record_loss(range(300, 1), Fate::Left).unwrap();
    all.map.record_loss(range(1004, 2), Fate::Held).unwrap();
    all.health.splices = 1;
    all.health.sectors_moved = 43;
    all.health.sectors_lost = 4;
    all.bad_blocks = BTreeMap::from([(SpareIndex(1), vec![range(10_300, 2)])]);
    all.lineage = vec![Ancestor { generation: 1, digest: std::array::from_fn(|n| 0xE0 + n as u8 % 16) }];
    all
}

/// What a later version may add.
fn unknown_parts() -> Metadata {
    let mut all = empty();
    all.compatible = 1 << 33 | 1;
    all.config.unknown.insert("colour".into(), json!("blue"));
    let limits = json!({ "per_day": 100, "never": null });
    all.config.policy.unknown.insert("limits".into(), limits);
    all.config.main.unknown.insert("nguid".into(), json!("00ff"));
    all.spares[0].unknown.insert("shelf".into(), json!([1, 2]));
    all.health.unknown.insert("spins".into(), json!(u64::MAX));
    all.unknown_sections = vec![(7, b"seven".to_vec()), (0x8000_0000, Vec::new()), (7, vec![0, 255])];
    all
}
