//! What is taken in, how units are composed, and what is refused.

use super::*;
use crate::format::foreign_module::{Ground, Standing, judge};
use crate::format::metadata::Policy;
use crate::identity::Identity;
use crate::plan::create::{Contents, DeviceFacts, SpareFacts};
use crate::units::DevNo;
use proptest::prelude::*;
use uuid::Uuid;

const MAIN: u64 = 1003;

fn device(path: &str, size: u64, block: u64) -> DeviceFacts {
    let identity = Identity {
        serial: Some(path.into()),
        size: Sectors(size),
        logical_block: Sectors(block),
        physical_block: Sectors(block),
        ..Identity::default()
    };
    DeviceFacts { path: path.into(), devno: DevNo { major: 1, minor: 0 }, identity, uses: Vec::new(), read_only: false }
}

fn facts(rows: &[(u64, u64)]) -> ImportFacts {
    let entry = |(index, (original, slot)): (usize, &(u64, u64))| Entry {
        index,
        original: Sectors(*original),
        slot: Sectors(*slot),
        time: 0,
        standing: Standing::default(),
    };
    let module = ModuleMetadata {
        layout: Layout::V4,
        copy: (0, Sectors(0)),
        main_sectors: Sectors(MAIN),
        spare_sectors: Sectors(9000),
        names: Vec::new(),
        entries: rows.iter().enumerate().map(entry).collect(),
        metadata_end: Sectors(1280),
        notes: Vec::new(),
    };
    let ground = Ground { main: Sectors(MAIN), spare: Sectors(9000), in_place: false };
    ImportFacts {
        judged: judge(&module, &ground),
        module,
        accept: Vec::new(),
        old: "/dev/old".into(),
        old_uses: Vec::new(),
        old_block: Sectors(1),
        other_size: false,
        create: CreateFacts {
            name: "data".into(),
            name_taken: None,
            main: device("/dev/main", MAIN, 1),
            main_is_spare: None,
            spares: vec![SpareFacts { device: device("/dev/new", 12_000, 1), contents: Contents::Nothing }],
            overlaps: Vec::new(),
            force_signature: false,
            policy: Policy::default(),
            now: 1,
            setup: Uuid::from_u128(1),
            spare_uuids: vec![Uuid::from_u128(2)],
        },
    }
}

/// start, length, the old slot if it comes from there
fn copies(plan: &ImportPlan) -> Vec<(u64, u64, Option<u64>)> {
    let row = |copy: &ImportCopy| {
        let from = match copy.from {
            Origin::Main => None,
            Origin::Old(sector) => Some(sector.0),
        };
        (copy.range.start().0, copy.range.len().0, from)
    };
    plan.copies.iter().map(row).collect()
}

#[test]
fn a_unit_is_composed_of_old_slots_and_of_main_around_them() {
    let plan = plan(facts(&[(18, 2000), (19, 2001), (22, 2002), (31, 3000), (1002, 2005)])).unwrap();
    assert_eq!(
        copies(&plan),
        [
            (16, 2, None),
            (18, 2, Some(2000)),
            (20, 2, None),
            (22, 1, Some(2002)),
            (23, 8, None),
            (31, 1, Some(3000)),
            // The last unit of main is short.
            (1000, 2, None),
            (1002, 1, Some(2005)),
        ]
    );
    assert_eq!(plan.imported, Sectors(5));
    let extents: Vec<(u64, u64)> = plan.map.extents().map(|e| (e.range.start().0, e.range.len().0)).collect();
    assert_eq!(extents, [(16, 16), (1000, 3)]);
    // What is copied goes to where the map has it.
    for copy in &plan.copies {
        let extent = plan.map.extents_in(copy.range).next().unwrap();
        assert_eq!((extent.range, extent.slot), (copy.range, copy.to));
    }
}

#[test]
fn what_is_in_doubt_is_left_out_unless_every_doubt_is_accepted() {
    let mut facts = facts(&[(5, 100), (6, 2000), (7, 2000), (8, 2001)]);
    facts.judged[0].doubts.push(Doubt::Blank);
    let taken = |accept: &[Doubt]| select(&facts.judged, accept).0.iter().map(|e| e.original.0).collect::<Vec<_>>();
    assert_eq!(taken(&[]), [8]);
    assert_eq!(taken(&[Doubt::Shared]), [6, 7, 8]);
    assert_eq!(taken(&[Doubt::Blank]), [8]);
    assert_eq!(taken(&[Doubt::Blank, Doubt::ModuleMetadata]), [5, 8]);
    // Beyond an end nothing can be taken in, and a replaced entry is no entry.
    facts.judged[3].doubts = vec![Doubt::BeyondMain];
    let (taken, left) = select(&facts.judged, &Doubt::ALL);
    assert_eq!((taken.len(), left.len()), (3, 1));
}

#[test]
fn an_import_that_makes_no_sense_is_refused() {
    let refusal = |change: &dyn Fn(&mut ImportFacts)| {
        let mut facts = facts(&[(18, 2000)]);
        change(&mut facts);
        plan(facts).unwrap_err().to_string()
    };
    assert!(refusal(&|f| f.module.layout = Layout::Helper).contains("nothing to import"));
    assert!(refusal(&|f| f.judged.clear()).contains("none of its 0 entries"));
    assert!(refusal(&|f| f.judged[0].doubts.push(Doubt::Pending)).contains("none of its 1 entries"));
    assert!(refusal(&|f| f.old_uses.push("mounted".into())).contains("/dev/old is in use: mounted"));
    assert!(refusal(&|f| f.module.main_sectors = Sectors(MAIN + 1)).contains("--other-size"));
    assert!(refusal(&|f| f.old_block = Sectors(8)).contains("/dev/old: its logical blocks have 8 sectors"));
    assert!(refusal(&|f| f.create.main.identity.logical_block = Sectors(8)).contains("/dev/main: its logical blocks"));
    assert!(refusal(&|f| f.create.spares[0].contents = Contents::Signature("x".into())).contains("--force-signature"));
    let many: Vec<(u64, u64)> = (0..1003).map(|n| (n, 2000 + n)).collect();
    assert!(matches!(plan(facts(&many)), Err(Refusal::WholeMain)));
    let mut little = facts(&many[..1000]);
    little.create.spares[0].device.identity.size = Sectors(10_240 + 8);
    assert!(matches!(plan(little), Err(Refusal::NoFreeSlot { .. })));
    // Said to be right all the same, or not recorded.
    for (sectors, other_size) in [(MAIN + 1, true), (0, false)] {
        let mut facts = facts(&[(18, 2000)]);
        (facts.module.main_sectors, facts.other_size) = (Sectors(sectors), other_size);
        assert!(plan(facts).is_ok());
    }
}

proptest! {
    /// Every sector of every unit is copied once: from the old slot that its entry names, else from main.
    #[test]
    fn units_are_composed_completely(rows in prop::collection::btree_map(0..MAIN, 1280u64..9000, 1..60)) {
        let rows: Vec<(u64, u64)> = rows.into_iter().collect();
        let facts = facts(&rows);
        let (taken, _) = select(&facts.judged, &[]);
        prop_assume!(!taken.is_empty());
        let plan = plan(facts).unwrap();
        let mut seen = std::collections::BTreeMap::new();
        for copy in &plan.copies {
            for offset in 0..copy.range.len().0 {
                let from = match copy.from { Origin::Main => None, Origin::Old(at) => Some(at.0 + offset) };
                prop_assert!(seen.insert(copy.range.start().0 + offset, (from, copy.to.start.0 + offset)).is_none());
            }
        }
        let wanted: std::collections::BTreeMap<u64, u64> = taken.iter().map(|e| (e.original.0, e.slot.0)).collect();
        for (sector, (from, to)) in &seen {
            prop_assert_eq!(wanted.get(sector).copied(), *from);
            let extent = plan.map.extent_at(Sectors(*sector)).unwrap();
            prop_assert_eq!(extent.slot.start.0 + sector - extent.range.start().0, *to);
        }
        prop_assert!(wanted.keys().all(|sector| seen.contains_key(sector)));
        prop_assert_eq!(plan.map.remapped().0, seen.len() as u64);
    }
}
