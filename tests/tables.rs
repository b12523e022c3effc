//! Tables: every sector goes where the map says, by walking the table that the kernel gives back; and table to map to
//! table is the identity. The kernel is the fake here; tests/support/walk.rs serves a real one just as well.

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

use dm_remap::block::ram::{Power, RamDisk};
use dm_remap::dm::fake::FakeDm;
use dm_remap::dm::{DeviceMapper, TableSlot};
use dm_remap::map::{Fate, Map, SpareIndex};
use dm_remap::segments::{
    Backing, Devices, HeldKind, Joined, Overlay, PartLines, SegmentError, SpareDevice, Target, TargetKind,
    anchor_table, flattened, front_table, held_table, linear_devices, map_of, overlay_ranges, overlay_tables,
    overlays_of, read_back, setup_table, unsettled_table,
};
use dm_remap::units::{DevNo, Range, Sectors};
use proptest::prelude::*;
use std::sync::Arc;
use support::walk::{Goes, assert_leads_as_the_map_says, assert_sound, lead};
use support::{range, slot};

const DATA: u64 = 10_240;
const SPARE_SIZE: u64 = DATA + 6000;
const MAIN: DevNo = DevNo { major: 8, minor: 0 };

fn spare_devno(spare: u8) -> DevNo {
    DevNo { major: 65, minor: u32::from(spare) * 16 }
}

fn held_devno(spare: u8) -> DevNo {
    DevNo { major: 254, minor: u32::from(spare) }
}

fn devices(spares: u8, block: u64) -> Devices {
    let spares = (0..spares).map(|n| SpareDevice {
        device: Some(spare_devno(n)),
        held: Some(held_devno(n)),
        size: Sectors(SPARE_SIZE),
        data_start: Sectors(DATA),
    });
    Devices { main: MAIN, logical_block: Sectors(block), spares: spares.collect() }
}

const ANCHOR: DevNo = DevNo { major: 253, minor: 41 };

fn ranges_of(flat: &[Target], begins: &[Sectors], lines: PartLines) -> Vec<Range> {
    let end = flat.last().map_or(Sectors(0), |last| Sectors(last.start.0 + last.len.0));
    overlay_ranges(flat.iter().cloned().map(Ok), end, begins, lines).unwrap()
}

/// The private devices for a flat table, with the tables of the overlays: so many lines in each.
fn backing(flat: &[Target], begins: &[Sectors], lines: PartLines) -> (Backing, Vec<Vec<Target>>) {
    let ranges = ranges_of(flat, begins, lines);
    let overlay =
        |(at, range): (usize, &Range)| Overlay { device: DevNo { major: 252, minor: at as u32 }, range: *range };
    let overlays = ranges.iter().enumerate().map(overlay).collect();
    let tables = overlay_tables(flat.iter().cloned().map(Ok), ranges.iter().copied());
    let (again, tables): (Vec<Range>, Vec<Vec<Target>>) = tables.map(Result::unwrap).unzip();
    assert_eq!(again, ranges);
    (Backing { overlays, anchor: ANCHOR }, tables)
}

fn joined(backing: &Backing, tables: &[Vec<Target>]) -> Vec<Target> {
    let mut joined = Joined::default();
    for (overlay, table) in backing.overlays.iter().zip(tables) {
        joined.push(overlay.range, table.clone()).unwrap();
    }
    joined.into_table()
}

fn part_lines() -> impl Strategy<Value = (PartLines, Vec<Sectors>)> {
    let begins = prop::collection::vec((0u64..5000).prop_map(Sectors), 0..6);
    (1usize..8, 1usize..3, begins).prop_map(|(fill, more, begins)| (PartLines { fill, most: fill * more }, begins))
}

/// The device of a linear line.
fn linear(target: &Target) -> Option<DevNo> {
    if let TargetKind::Linear { device, .. } = target.kind { Some(device) } else { None }
}

/// The spare under a private device that holds blocks; others are what they are.
fn raw(devices: &Devices, device: DevNo) -> DevNo {
    let under = devices.spares.iter().find(|s| s.held == Some(device)).and_then(|s| s.device);
    under.unwrap_or(device)
}

/// Where a sector goes through front, anchor and overlay.
fn through(front: &[Target], anchor: &[Target], overlays: &[Vec<Target>], sector: u64) -> Option<Goes> {
    let mut goes = lead(front, sector);
    for _ in 0..2 {
        match goes {
            Some(Goes::To(ANCHOR, at)) => goes = lead(anchor, at),
            Some(Goes::To(DevNo { major: 252, minor }, at)) => goes = lead(&overlays[minor as usize], at),
            _ => {}
        }
    }
    goes
}

fn size_of(devno: DevNo, main_len: u64) -> u64 {
    if devno == MAIN { main_len } else { SPARE_SIZE }
}

/// Loads the table into the (fake) kernel, swaps it in, and gives what the kernel then says it is.
fn through_kernel(table: &[Target], devices: &Devices, main_len: u64) -> Vec<Target> {
    let dm = FakeDm::new();
    let disk = |name: &str, size| {
        let size = Sectors(size);
        Arc::new(RamDisk::with_power(name, size, devices.logical_block, Power::new()))
    };
    dm.register(MAIN, disk("main", main_len));
    for spare in 0..16 {
        dm.register(spare_devno(spare), disk("spare", SPARE_SIZE));
        dm.register(held_devno(spare), disk("held", SPARE_SIZE));
    }
    dm.create("setup", "DMREMAP-test").unwrap();
    dm.load("setup", table, false).unwrap();
    assert_eq!(dm.table("setup", TableSlot::Inactive).unwrap(), table);
    dm.activate("setup", false).unwrap();
    let back = dm.table("setup", TableSlot::Active).unwrap();
    // As text and back too: that is how a kernel tells it.
    for target in &back {
        let text = target.kind.params();
        assert_eq!(TargetKind::parse(target.kind.name(), &text).unwrap(), target.kind);
    }
    back
}

/// Walks the table and compares each sector with the map.
fn assert_leads(table: &[Target], map: &Map, devices: &Devices, unsettled: &[Range]) {
    let size_of = |devno| size_of(devno, map.main_len().0);
    assert_leads_as_the_map_says(table, map, devices, unsettled, size_of);
}

#[derive(Clone, Debug)]
struct Case {
    map: Map,
    devices: Devices,
    unsettled: Vec<Range>,
}

fn cases() -> impl Strategy<Value = Case> {
    let extents = prop::collection::vec((0u64..1200, 1u64..9, 0u8..16, 0u64..370), 0..120);
    let losses = prop::collection::vec((0usize..120, 0u64..64, 1u64..9, 0usize..5), 0..12);
    let unsettled = prop::collection::vec((0u64..1200, 1u64..30), 0..6);
    // Either full of extents or nearly empty; small or with a long tail that nothing is remapped in.
    let shape = (1u8..=16, 0u32..5, 0u64..16, any::<bool>());
    (extents, losses, unsettled, shape).prop_map(|(extents, losses, unsettled, (spares, shift, tail, long))| {
        let unit = 1u64 << shift;
        let block = if unit >= 8 { 8 } else { 1 };
        let tail = tail % unit / block * block;
        let main = 1200 * unit + tail + if long { 1 << 40 } else { 0 };
        let mut map = Map::new(Sectors(main), Sectors(unit)).unwrap();
        for (start, len, spare, at) in extents {
            let end = ((start + len) * unit).min(main);
            let Some(part) = Range::between(Sectors(start * unit), Sectors(end)) else {
                continue;
            };
            let to = slot(spare % spares, (DATA / unit + at) * unit);
            if to.start.0 + part.len().0 <= SPARE_SIZE {
                let _ = map.insert(part, to);
            }
        }
        let fates = [Fate::Held, Fate::HeldStale, Fate::Zeroed, Fate::Left, Fate::Rewritten];
        for (extent, offset, len, fate) in losses {
            let Some(extent) = map.extents().nth(extent) else {
                continue;
            };
            let at = extent.range.start().0 + offset % extent.range.len().0;
            if let Some(part) = range(at, len).intersect(extent.range) {
                map.record_loss(part, fates[fate]).unwrap();
            }
        }
        let end = map.main_len();
        let unsettled = unsettled
            .into_iter()
            .map(|(start, len)| range(start * unit, len * unit))
            .filter_map(|r| Range::between(r.start(), r.end().min(end)))
            .collect();
        let devices = devices(spares, block);
        Case { map, devices, unsettled }
    })
}

fn without_losses(map: &Map) -> Map {
    let mut out = map.clone();
    if let Some(all) = Range::new(Sectors::ZERO, map.main_len()) {
        out.clear_loss(all);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_sector_goes_where_the_map_says(case in cases()) {
        let Case { map, devices, .. } = case;
        let made = setup_table(&map, &devices).unwrap();
        let table = through_kernel(&made, &devices, map.main_len().0);
        assert_leads(&table, &map, &devices, &[]);
        prop_assert!(table.iter().all(|t| t.kind.name() == "linear"));
    }

    #[test]
    fn table_to_map_to_table_is_the_identity(case in cases()) {
        let Case { map, devices, .. } = case;
        let (len, unit) = (map.main_len(), map.unit());
        let made = setup_table(&map, &devices).unwrap();
        let table = through_kernel(&made, &devices, len.0);
        let pieces = read_back(&table, &devices).unwrap();
        let read = map_of(&pieces, len, unit).unwrap();
        let plain = without_losses(&map);
        prop_assert_eq!(&read, &plain);
        let again = setup_table(&read, &devices).unwrap();
        prop_assert_eq!(&again, &setup_table(&plain, &devices).unwrap());
        let holds = map.losses().iter().any(|l| l.fate.is_held());
        prop_assert!(holds || again == table);
        // The pieces are the table, line by line.
        prop_assert_eq!(pieces.len(), table.len());
        prop_assert!(pieces.iter().zip(&table).all(|(p, t)| p.range.start() == t.start && p.range.len() == t.len));
    }

    #[test]
    fn exactly_the_unsettled_sectors_answer_eio(case in cases()) {
        let Case { map, devices, unsettled } = case;
        let len = map.main_len().0;
        let made = unsettled_table(&map, &devices, &unsettled).unwrap();
        let table = through_kernel(&made, &devices, len);
        assert_leads(&table, &map, &devices, &unsettled);
        if unsettled.is_empty() {
            prop_assert_eq!(table, setup_table(&map, &devices).unwrap());
        }
    }

    #[test]
    fn extents_on_missing_spares_answer_eio_and_never_lead_to_main(
        case in cases(), missing in any::<u16>(), no_held in any::<bool>(),
    ) {
        let Case { map, mut devices, unsettled } = case;
        for (n, spare) in devices.spares.iter_mut().enumerate() {
            if missing >> n & 1 == 1 {
                spare.device = None;
                spare.held = spare.held.filter(|_| !no_held);
            }
        }
        for cut in [&unsettled[..], &[]] {
            let made = unsettled_table(&map, &devices, cut).unwrap();
            let table = through_kernel(&made, &devices, map.main_len().0);
            assert_leads(&table, &map, &devices, cut);
        }
    }

    #[test]
    fn the_switched_layout_leads_and_flushes_as_the_flat_one_does(
        case in cases(), missing in any::<u16>(), (lines, begins) in part_lines(),
    ) {
        let Case { map, mut devices, unsettled } = case;
        for (n, spare) in devices.spares.iter_mut().enumerate() {
            spare.device = spare.device.filter(|_| missing >> n & 3 != 3);
        }
        let (len, unit) = (map.main_len().0, map.unit());
        let overlay = setup_table(&map, &devices).unwrap();
        let block = devices.logical_block.0;
        let begins: Vec<Sectors> = begins.iter().map(|at| Sectors(at.0 / block * block)).collect();
        let (backing, tables) = backing(&overlay, &begins, lines);
        // No part is too large, unless it has lines that begin before it or end after it.
        for table in &tables {
            prop_assert!(table.len() <= lines.most.max(lines.fill + 1));
            let first = table.first().map(|t| t.start);
            prop_assert_eq!(first, Some(Sectors(0)));
        }
        prop_assert_eq!(&joined(&backing, &tables), &overlay);
        // What is there stays, as long as nothing changes.
        let starts: Vec<Sectors> = backing.overlays.iter().map(|one| one.range.start()).collect();
        let again: Vec<Range> = ranges_of(&overlay, &starts, PartLines { fill: 0, ..lines });
        prop_assert!(lines.most < lines.fill * 2 || again == backing.overlays.iter().map(|o| o.range).collect::<Vec<_>>());
        let anchor = anchor_table(&backing.overlays, &linear_devices(&overlay), &devices, map.main_len(), unit);
        prop_assert_eq!(overlays_of(&anchor), Some(backing.overlays.clone()));
        for cut in [&unsettled[..], &[]] {
            let front = front_table(&backing, map.main_len(), unit, cut).unwrap();
            assert_sound(&front, len, devices.logical_block.0, |_| u64::MAX);
            // Sector by sector at every place where anything changes.
            let flat = unsettled_table(&map, &devices, cut).unwrap();
            for target in flat.iter().chain(&front).chain(&anchor[..backing.overlays.len()]) {
                for sector in [target.start.0, target.start.0 + target.len.0 - 1] {
                    let goes = through(&front, &anchor, &tables, sector);
                    prop_assert_eq!(goes, lead(&flat, sector), "sector {}", sector);
                }
            }
            prop_assert_eq!(&flattened(&front, &backing, overlay.clone()).unwrap(), &flat);
            // A flush goes once to each device that a write can go to, and to no other.
            let anchored = front.iter().filter(|t| t.kind == TargetKind::Linear { device: ANCHOR, offset: t.start });
            let settled = map.main_len().0 / unit.0 > cut.iter().map(|r| r.len().0.div_ceil(unit.0) + 2).sum::<u64>();
            prop_assert!(anchored.count() == 1 || !settled);
            let flushed: Vec<DevNo> = anchor.iter().skip(backing.overlays.len()).filter_map(linear).collect();
            let mut written: Vec<DevNo> = overlay.iter().filter_map(linear).map(|d| raw(&devices, d)).collect();
            written.sort();
            written.dedup();
            let mut sorted = flushed.clone();
            sorted.sort();
            prop_assert_eq!(sorted, written);
        }
    }

    #[test]
    fn a_front_with_anything_else_in_it_is_nobody_s(
        case in cases(), at in any::<prop::sample::Index>(), how in 0..5, (lines, _) in part_lines(),
    ) {
        let Case { map, devices, unsettled } = case;
        let overlay = setup_table(&map, &devices).unwrap();
        let (backing, _) = backing(&overlay, &[], lines);
        let mut front = front_table(&backing, map.main_len(), map.unit(), &unsettled).unwrap();
        let at = at.index(front.len());
        let target = &mut front[at];
        match (how, &mut target.kind) {
            (0, TargetKind::Linear { offset, .. } | TargetKind::Switch { offset, .. }) => offset.0 += 1,
            (1, TargetKind::Linear { device, .. } | TargetKind::Switch { device, .. }) => *device = MAIN,
            (2, kind) => *kind = TargetKind::other("zero", ""),
            (3, _) => target.len.0 += 1,
            _ => drop(front.remove(at)),
        }
        let changed_nothing = how < 2 && front == front_table(&backing, map.main_len(), map.unit(), &unsettled).unwrap();
        let read = flattened(&front, &backing, overlay.clone()).and_then(|flat| read_back(&flat, &devices));
        let whole = read.is_ok_and(|pieces| pieces.last().is_some_and(|p| p.range.end() == map.main_len()));
        prop_assert!(!whole || changed_nothing);
    }

    #[test]
    fn the_private_device_is_the_identity_whatever_is_held(
        holes in prop::collection::vec((1u64..300, 1u64..60), 0..20), last in 0u64..2, block in 0u32..4,
    ) {
        let block = 1 << block;
        let (mut at, mut held) = (0, Vec::new());
        for (gap, len) in holes {
            held.push(range((at + gap) * block, len * block));
            at += gap + len;
        }
        // The last run may end at the end of the device.
        let size = (at + last).max(1) * block;
        let spare = spare_devno(3);
        for kind in HeldKind::ALL {
            let table = held_table(kind, spare, Sectors(size), Sectors(block), &held);
            assert_sound(&table, size, block, |_| size);
            for sector in 0..size {
                let is_held = held.iter().any(|r| r.contains(Sectors(sector)));
                let want = match kind {
                    HeldKind::Flakey if is_held => Goes::ReadsFail(spare, sector),
                    HeldKind::Error if is_held => Goes::Nowhere,
                    _ => Goes::To(spare, sector),
                };
                prop_assert_eq!(lead(&table, sector), Some(want));
            }
            let expected = (kind == HeldKind::Dust || !held.is_empty()).then_some(kind);
            prop_assert_eq!(HeldKind::of(&table), expected);
        }
    }
}

#[test]
fn held_runs_that_touch_and_reach_both_ends_leave_no_empty_lines() {
    let held = [range(0, 8), range(8, 8), range(24, 8)];
    for kind in [HeldKind::Flakey, HeldKind::Error] {
        let table = held_table(kind, spare_devno(0), Sectors(32), Sectors(8), &held);
        let lens: u64 = table.iter().map(|t| t.len.0).sum();
        assert_eq!(lens, 32);
        assert!(table.iter().all(|t| t.len.0 > 0));
        assert_eq!(lead(&table, 20), Some(Goes::To(spare_devno(0), 20)));
    }
}

#[test]
fn a_map_without_extents_is_one_line() {
    let map = Map::new(Sectors(1 << 45), Sectors(8)).unwrap();
    let table = setup_table(&map, &devices(1, 1)).unwrap();
    assert_eq!(table.len(), 1);
    assert_eq!(table[0].to_string(), format!("0 {} linear 8:0 0", 1u64 << 45));
}

#[test]
fn unsettled_ranges_beyond_main_or_inside_a_block_make_no_bad_table() {
    let map = Map::new(Sectors(1000), Sectors(8)).unwrap();
    let beyond = unsettled_table(&map, &devices(1, 8), &[range(992, 16)]);
    assert_sound(&beyond.unwrap(), 1000, 8, |_| 20_000);
    let outside = unsettled_table(&map, &devices(1, 8), &[range(1000, 16)]);
    assert_sound(&outside.unwrap(), 1000, 8, |_| 20_000);
    let inside = unsettled_table(&map, &devices(1, 8), &[range(3, 8)]);
    assert!(matches!(inside, Err(SegmentError::Unaligned(_))), "{inside:?}");
}

#[test]
fn maps_that_would_break_a_table_are_refused() {
    let with = |part: Range, to| {
        let mut map = Map::new(Sectors(1004), Sectors(1)).unwrap();
        map.insert(part, to).unwrap();
        map
    };
    let make = |map: &Map, devices: &Devices| setup_table(map, devices);
    let plain = devices(2, 1);
    let inside_metadata = make(&with(range(0, 8), slot(0, DATA - 1)), &plain);
    assert!(matches!(inside_metadata, Err(SegmentError::Outside { .. })));
    let beyond_end = make(&with(range(0, 8), slot(1, SPARE_SIZE - 7)), &plain);
    assert!(matches!(beyond_end, Err(SegmentError::Outside { .. })));
    let no_spare = make(&with(range(0, 8), slot(2, DATA)), &plain);
    assert_eq!(no_spare, Err(SegmentError::NoSuchSpare(SpareIndex(2))));
    for (part, to) in [(range(4, 8), slot(0, DATA)), (range(8, 4), slot(0, DATA)), (range(8, 8), slot(0, DATA + 4))] {
        let unaligned = make(&with(part, to), &devices(2, 8));
        assert_eq!(unaligned, Err(SegmentError::Unaligned(part)));
    }
    let mut held = with(range(0, 8), slot(0, DATA));
    held.record_loss(range(3, 1), Fate::Held).unwrap();
    let mut without = devices(1, 1);
    without.spares[0].held = None;
    let refused = make(&held, &without);
    assert_eq!(refused, Err(SegmentError::NoHeldDevice(SpareIndex(0))));
}

#[test]
fn tables_that_are_not_ours_are_refused() {
    let devices = devices(2, 1);
    let linear = |start, len, device, offset| Target {
        start: Sectors(start),
        len: Sectors(len),
        kind: TargetKind::Linear { device, offset: Sectors(offset) },
    };
    let kind = |kind| Target { kind, ..linear(0, 1000, MAIN, 0) };
    let other = TargetKind::other("thin", "253:1 7");
    let flakey = TargetKind::FlakeyErrorReads { device: MAIN, offset: Sectors(0) };
    let stranger = DevNo { major: 9, minor: 9 };
    let map = |table: &[Target]| {
        let pieces = read_back(table, &devices)?;
        map_of(&pieces, Sectors(1000), Sectors(8))
    };
    let spare = spare_devno(0);
    assert!(map(&[linear(0, 1000, MAIN, 0)]).is_ok());
    for (what, table) in [
        ("shifted main", vec![linear(0, 1000, MAIN, 8)]),
        ("unknown device", vec![linear(0, 1000, stranger, 0)]),
        ("unknown target", vec![kind(other)]),
        ("flakey", vec![kind(flakey)]),
        ("late start", vec![linear(8, 992, MAIN, 8)]),
        ("hole", vec![linear(0, 8, MAIN, 0), linear(16, 984, MAIN, 16)]),
        ("overlap", vec![linear(0, 16, MAIN, 0), linear(8, 992, MAIN, 8)]),
        ("too short", vec![linear(0, 992, MAIN, 0)]),
        ("too long", vec![linear(0, 1008, MAIN, 0)]),
        ("empty", vec![]),
        ("unaligned", vec![linear(0, 8, MAIN, 0), linear(8, 4, spare, DATA), linear(12, 988, MAIN, 12)]),
        (
            "slot used twice",
            vec![
                linear(0, 8, spare, DATA),
                linear(8, 8, MAIN, 8),
                linear(16, 8, spare, DATA),
                linear(24, 976, MAIN, 24),
            ],
        ),
    ] {
        assert!(map(&table).is_err(), "{what}");
    }
}

#[test]
fn a_hundred_thousand_extents_become_a_table_and_a_map_again() {
    let mut metadata = support::metadata(1, 16);
    support::scatter(&mut metadata, 100_000, 5);
    let mut devices = devices(16, 1);
    for spare in &mut devices.spares {
        spare.size = Sectors(support::SPARE_SIZE);
    }
    let table = setup_table(&metadata.map, &devices).unwrap();
    let pieces = read_back(&table, &devices).unwrap();
    let (len, unit) = (metadata.map.main_len(), metadata.map.unit());
    assert_eq!(map_of(&pieces, len, unit).unwrap(), metadata.map);
}

#[test]
fn an_error_among_the_lines_comes_out_of_the_overlays() {
    let line = |start, len| {
        let kind = TargetKind::Linear { device: MAIN, offset: Sectors(start) };
        Ok(Target { start: Sectors(start), len: Sectors(len), kind })
    };
    let bad = || Err(SegmentError::NotContiguous(Sectors(7)));
    let sizes = PartLines { fill: 2, most: 4 };
    for at in 0..4 {
        let lines = || (0..4).map(move |n| if n == at { bad() } else { line(n * 8, 8) });
        for begins in [&[][..], &[Sectors(12)], &[Sectors(8), Sectors(16)]] {
            assert_eq!(
                overlay_ranges(lines(), Sectors(32), begins, sizes),
                Err(SegmentError::NotContiguous(Sectors(7)))
            );
        }
        let ranges = [(0, 12), (12, 20)].map(|(start, len)| Range::new(Sectors(start), Sectors(len)).unwrap());
        let tables: Result<Vec<_>, _> = overlay_tables(lines(), ranges.into_iter()).collect();
        assert_eq!(tables, Err(SegmentError::NotContiguous(Sectors(7))), "{at}");
    }
}
