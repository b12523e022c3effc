//! Tests of the translation from a disk's sectors to those of a device over it.

use super::*;
use proptest::prelude::*;

const SDA: DevNo = DevNo { major: 8, minor: 0 };
const SDB: DevNo = DevNo { major: 8, minor: 16 };
const SDA1: DevNo = DevNo { major: 8, minor: 1 };
const TOP: DevNo = DevNo { major: 253, minor: 0 };
const MIDDLE: DevNo = DevNo { major: 253, minor: 1 };

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn node(size: u64, made: Made) -> Node {
    Node { size: Sectors(size), made }
}

fn stack(top: DevNo, nodes: Vec<(DevNo, Node)>) -> Stack {
    Stack { top, nodes: nodes.into_iter().collect() }
}

fn linear(start: u64, len: u64, device: DevNo, offset: u64) -> Target {
    let kind = TargetKind::Linear { device, offset: Sectors(offset) };
    Target { start: Sectors(start), len: Sectors(len), kind }
}

fn other(len: u64, name: &str, params: &str) -> Target {
    let kind = TargetKind::other(name, params);
    Target { start: Sectors::ZERO, len: Sectors(len), kind }
}

/// Main is a partition from sector 2048 on.
fn partition() -> Stack {
    let part = node(10_000, Made::Partition { of: SDA, start: Sectors(2048) });
    stack(SDA1, vec![(SDA1, part), (SDA, node(100_000, Made::Disk))])
}

#[test]
fn a_disk_is_itself() {
    let disk = stack(SDA, vec![(SDA, node(1000, Made::Disk))]);
    assert_eq!(disk.locate(SDA, range(5, 3)), Located::At(vec![range(5, 3)]));
    assert_eq!(disk.locate(SDA, range(998, 8)), Located::At(vec![range(998, 2)]));
    assert_eq!(disk.locate(SDA, range(1000, 8)), Located::Nowhere);
    assert_eq!(disk.locate(SDB, range(5, 3)), Located::Nowhere);
    assert!(disk.lies_on(SDA) && !disk.lies_on(SDB));
}

#[test]
fn a_partition_begins_later() {
    assert_eq!(partition().locate(SDA, range(2048 + 7, 2)), Located::At(vec![range(7, 2)]));
    assert_eq!(partition().locate(SDA, range(2040, 16)), Located::At(vec![range(0, 8)]));
    assert_eq!(partition().locate(SDA, range(12_047, 16)), Located::At(vec![range(9_999, 1)]));
    assert_eq!(partition().locate(SDA, range(0, 2048)), Located::Nowhere);
    assert_eq!(partition().locate(SDA, range(12_048, 1)), Located::Nowhere);
}

#[test]
fn a_volume_in_pieces_over_partitions_is_put_together() {
    let mut volume = partition();
    let table = [linear(0, 500, SDA1, 1000), linear(500, 300, SDB, 0), linear(800, 200, SDA1, 0)];
    volume.nodes.insert(SDB, node(300, Made::Disk));
    volume.nodes.insert(TOP, node(1000, made_of(&table, &[SDA1, SDB])));
    volume.top = TOP;
    assert_eq!(volume.locate(SDA, range(3048, 10)), Located::At(vec![range(0, 10)]));
    assert_eq!(volume.locate(SDA, range(2048, 1)), Located::At(vec![range(800, 1)]));
    assert_eq!(volume.locate(SDB, range(299, 8)), Located::At(vec![range(799, 1)]));
    assert_eq!(volume.locate(SDA, range(2048 + 200, 800)), Located::Nowhere);
    // A run over both pieces is both.
    assert_eq!(volume.locate(SDA, range(2048, 1500)), Located::At(vec![range(0, 500), range(800, 200)]));
}

#[test]
fn tables_of_many_kinds_are_understood() {
    let piece = |params: &str, name: &str| made_of(&[other(100, name, params)], &[SDA, SDB]);
    let at = |offset: u64| Made::Pieces(vec![Piece { range: range(0, 100), device: SDA, offset: Sectors(offset) }]);
    assert_eq!(piece("8:0 64 500", "delay"), at(64));
    assert_eq!(piece("8:0 64 10 1", "flakey"), at(64));
    assert_eq!(piece("aes-xts-plain64 :64:logon:cryptsetup:x 0 8:0 4096", "crypt"), at(4096));
    assert_eq!(piece("8:0", "snapshot-origin"), at(0));
    assert_eq!(piece("8:0 8:16", "log-writes"), at(0));
    let legs = |a: u64, b: u64| Made::Copies(vec![(SDA, Sectors(a)), (SDB, Sectors(b))]);
    assert_eq!(piece("core 2 1024 nosync 2 8:0 8 8:16 16 1 handle_errors", "mirror"), legs(8, 16));
    assert_eq!(piece("raid1 3 0 region_size 1024 2 - 8:0 - 8:16", "raid"), legs(0, 0));
    assert_eq!(piece("0 0 1 1 service-time 0 2 2 8:0 1 1 8:16 1 1", "multipath"), legs(0, 0));
    let unknown = Made::Unknown(vec![SDA, SDB]);
    for (name, params) in [
        ("thin", "253:5 1"),
        ("raid", "raid5_ls 3 64 region_size 1024 3 - 8:0 - 8:16 - 8:32"),
        ("raid", "raid1 5 0 region_size 8 data_offset 8 2 - 8:0 - 8:16"),
        ("raid", "raid1 x"),
        ("mirror", "core 99999999999999999999 2"),
        ("mirror", "core 18446744073709551615 2"),
        ("striped", "2 0 8:0 0 8:16 0"),
        ("striped", "2 16 8:0 0"),
        ("crypt", "aes key 0"),
        ("delay", "8:99 0 1"),
        ("new", ""),
    ] {
        assert_eq!(piece(params, name), unknown, "{name} {params}");
    }
    // A hole in a table is no reason not to know the rest.
    let hole = Target { start: Sectors(100), len: Sectors(8), kind: TargetKind::Error };
    assert_eq!(made_of(&[linear(0, 100, SDA, 9), hole], &[SDA]), at(9));
}

#[test]
fn stripes_are_put_in_turn() {
    let table = [other(64, "striped", "2 8 8:0 100 8:16 200")];
    let nodes = vec![(SDA, node(1000, Made::Disk)), (SDB, node(1000, Made::Disk))];
    let mut striped = stack(TOP, nodes);
    striped.nodes.insert(TOP, node(64, made_of(&table, &[SDA, SDB])));
    assert_eq!(striped.locate(SDA, range(100, 8)), Located::At(vec![range(0, 8)]));
    assert_eq!(striped.locate(SDB, range(200, 8)), Located::At(vec![range(8, 8)]));
    assert_eq!(striped.locate(SDA, range(106, 4)), Located::At(vec![range(6, 2), range(16, 2)]));
    assert_eq!(striped.locate(SDB, range(231, 9)), Located::At(vec![range(63, 1)]));
    assert_eq!(striped.locate(SDA, range(0, 100)), Located::Nowhere);
}

#[test]
fn copies_all_hold_the_sector() {
    let mut mirror = partition();
    mirror.nodes.insert(SDB, node(20_000, Made::Disk));
    mirror.nodes.insert(TOP, node(9000, Made::Copies(vec![(SDA1, Sectors(16)), (SDB, Sectors(2048))])));
    mirror.top = TOP;
    assert_eq!(mirror.locate(SDA, range(2048 + 16 + 5, 1)), Located::At(vec![range(5, 1)]));
    assert_eq!(mirror.locate(SDB, range(2048 + 5, 1)), Located::At(vec![range(5, 1)]));
    assert_eq!(mirror.locate(SDB, range(5, 1)), Located::Nowhere);
}

#[test]
fn what_cannot_be_translated_is_called_a_guess() {
    let mut raid = partition();
    raid.nodes.insert(SDB, node(10_000_000, Made::Disk));
    raid.nodes.insert(MIDDLE, node(20_000_000, Made::Unknown(vec![SDB])));
    raid.nodes.insert(
        TOP,
        node(
            15_000_000,
            Made::Pieces(vec![Piece { range: range(0, 15_000_000), device: MIDDLE, offset: Sectors(1_000_000) }]),
        ),
    );
    raid.top = TOP;
    let guess = range(9_000_000 - GUESS_AROUND, 2 * GUESS_AROUND + 2);
    assert_eq!(raid.locate(SDB, range(5_000_000, 1)), Located::Somewhere { guess: vec![guess] });
    assert_eq!(raid.locate(SDA, range(5000, 1)), Located::Nowhere);
    // The guess lies outside of the volume.
    assert_eq!(raid.locate(SDB, range(100, 1)), Located::Nowhere);
}

#[test]
fn a_description_that_leads_in_circles_ends() {
    let circle = vec![
        (TOP, node(100, Made::Copies(vec![(MIDDLE, Sectors(0)), (SDA, Sectors(0))]))),
        (MIDDLE, node(100, Made::Partition { of: TOP, start: Sectors(0) })),
        (SDA, node(100, Made::Disk)),
    ];
    assert_eq!(stack(TOP, circle).locate(SDA, range(5, 1)), Located::At(vec![range(5, 1)]));
}

/// Makes a volume out of shuffled pieces of two disks, and remembers for each of its sectors where it is.
fn volume(cuts: &[(u64, bool, u64)]) -> (Stack, BTreeMap<u64, (DevNo, u64)>) {
    let (mut table, mut truth, mut at) = (Vec::new(), BTreeMap::new(), 0);
    for (len, second, gap) in cuts {
        let device = if *second { SDB } else { SDA };
        let used = |d: DevNo| truth.values().filter(|(device, _)| *device == d).map(|(_, s)| s + 1).max().unwrap_or(0);
        let offset = used(device) + gap;
        table.push(linear(at, *len, device, offset));
        truth.extend((0..*len).map(|n| (at + n, (device, offset + n))));
        at += len;
    }
    let nodes = vec![
        (TOP, node(at, made_of(&table, &[SDA, SDB]))),
        (SDA, node(2000, Made::Disk)),
        (SDB, node(2000, Made::Disk)),
    ];
    (stack(TOP, nodes), truth)
}

proptest! {
    #[test]
    fn exactly_the_sectors_that_lead_there_are_found(
        cuts in prop::collection::vec((1u64..40, any::<bool>(), 0u64..9), 1..20),
        start in 0u64..600, len in 1u64..50, second: bool,
    ) {
        let (volume, truth) = volume(&cuts);
        let disk = if second { SDB } else { SDA };
        let asked = range(start, len);
        let found = match volume.locate(disk, asked) {
            Located::Nowhere => Vec::new(),
            Located::At(ranges) => ranges,
            other => panic!("{other:?}"),
        };
        for (sector, (device, at)) in truth {
            let leads_there = device == disk && asked.contains(Sectors(at));
            prop_assert_eq!(found.iter().any(|r| r.contains(Sectors(sector))), leads_there, "sector {}", sector);
        }
    }

    #[test]
    fn stripes_find_exactly_their_sectors(
        legs in 1usize..5, chunk in 1u64..20, chunks in 1u64..10, start in 0u64..300, len in 1u64..60, turn in 0usize..5,
    ) {
        let numbers: Vec<DevNo> = (0u32..).take(legs).map(|n| DevNo { major: 8, minor: 16 * n }).collect();
        let size = chunk * chunks * legs as u64;
        let parts: Vec<String> = numbers.iter().map(|d| format!("{d} 10")).collect();
        let table = [other(size, "striped", &format!("{legs} {chunk} {}", parts.join(" ")))];
        let mut nodes: Vec<(DevNo, Node)> = numbers.iter().map(|d| (*d, node(1000, Made::Disk))).collect();
        nodes.push((TOP, node(size, made_of(&table, &numbers))));
        let turn = turn % legs;
        let found = match stack(TOP, nodes).locate(numbers[turn], range(start, len)) {
            Located::Nowhere => Vec::new(),
            Located::At(ranges) => ranges,
            other => panic!("{other:?}"),
        };
        for sector in 0..size {
            let (number, within) = (sector / chunk, sector % chunk);
            let on_leg = 10 + number / legs as u64 * chunk + within;
            let leads_there = number % legs as u64 == turn as u64 && range(start, len).contains(Sectors(on_leg));
            prop_assert_eq!(found.iter().any(|r| r.contains(Sectors(sector))), leads_there, "sector {}", sector);
        }
    }

    #[test]
    fn nothing_that_a_kernel_may_say_panics(
        name in "striped|mirror|raid|crypt|delay|multipath|log-writes", params in "[ 0-9:a-z-]{0,60}",
        size: u64, start: u64, offset: u64,
    ) {
        let made = made_of(&[other(size, &name, &params)], &[SDA, SDB]);
        let piece = Piece { range: range(7, 9), device: TOP, offset: Sectors(offset) };
        let stack = stack(MIDDLE, vec![
            (SDA, node(size, Made::Disk)),
            (TOP, node(size, made)),
            (MIDDLE, node(size, Made::Pieces(vec![piece]))),
        ]);
        let _ = stack.locate(SDA, range(start.min(u64::MAX - 1), 1));
        let _ = stack.locate(SDB, range(start.min(u64::MAX - 1), 1));
    }
}
