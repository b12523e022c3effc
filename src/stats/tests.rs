use super::*;
use proptest::prelude::*;

#[test]
fn the_bounds_are_those_that_the_comment_says() {
    assert_eq!(BOUNDS_NS[..7], [10_000, 15_000, 20_000, 30_000, 50_000, 70_000, 100_000]);
    assert_eq!(BOUNDS_NS[41], 70_000_000_000);
    for (low, high) in BOUNDS_NS.iter().zip(&BOUNDS_NS[1..]) {
        // A value of `low` is shown as `high`.
        assert!(low < high && high * 3 <= low * 5, "{low} {high}");
    }
}

/// A line as Linux 6.12 prints it.
fn line(counts: &[u64]) -> String {
    let bins: Vec<String> = counts.iter().map(u64::to_string).collect();
    format!("0+2048 7 1 56 7000 3 0 24 900 2 8000 9100 7000 900 {}\n", bins.join(":"))
}

#[test]
fn what_the_kernel_prints_is_read_to_the_last_number() {
    let counters = Counters::parse(&line(&[4, 5, 1]), &[10, 20]).unwrap();
    let wanted = Counters {
        reads: 7,
        read_sectors: Sectors(56),
        read_ns: 7000,
        writes: 3,
        written_sectors: Sectors(24),
        write_ns: 900,
        in_flight: 2,
        busy_ns: 8000,
        histogram: Histogram { bounds_ns: vec![10, 20], counts: vec![4, 5, 1] },
    };
    assert_eq!(counters, wanted);
    assert_eq!((counters.mean_read_ns(), counters.mean_write_ns()), (Some(1000), Some(300)));
    assert_eq!(Counters::default().mean_read_ns(), None);
}

#[test]
fn what_is_not_as_documented_is_not_read() {
    let good = line(&[4, 5, 1]);
    for bad in [
        String::new(),
        good.repeat(2),
        good.replace(":5", ""),
        good.replace("56", "x"),
        good.replace(" 4:5:1", ""),
        good.replace("0+2048", "0"),
        good.replace("7000 900 4", "7000 900 1 4"),
        good.replace("7000 900 4", "7000 4"),
        good.replace("4:5:1", "4:-5:1"),
    ] {
        assert_eq!(Counters::parse(&bad, &[10, 20]), None, "{bad}");
    }
}

#[test]
fn a_region_is_found_by_our_mark_and_only_with_what_we_need() {
    let list = "0: 0+2048 2048 dm-remap 5 precise_timestamps histogram:1,2\n\
                1: 0+2048 2048 dm-remap-stats 6\n\
                2: 0+2048 2048 dm-remap-stats 7 precise_timestamps\n\
                3: 0+2048 2048 dm-remap-stats 8 precise_timestamps histogram:2,1\n\
                4: 0+2048 2048 dm-remap-stats - precise_timestamps histogram:10,20\n\
                5: 16+8 8 dm-remap-stats 9:3 precise_timestamps histogram:10,20\n\
                6: 16+8 8 dm-remap-stats 9:x precise_timestamps histogram:10,20\n\
                7: 0+0 8 dm-remap-stats 9 precise_timestamps histogram:10,20\n";
    let bounds = vec![10, 20];
    let wanted = [
        Region { id: 4, subject: Subject::Setup, since: 0, bounds: bounds.clone() },
        Region { id: 5, subject: Subject::Spare(3, range(16, 8)), since: 9, bounds },
    ];
    assert_eq!(regions(list), wanted);
    assert_eq!(region_ids(list), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(regions(""), []);
}

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn region(id: u64, subject: Subject) -> Region {
    Region { id, subject, since: 1, bounds: BOUNDS_NS.to_vec() }
}

fn runs(of: &[(u8, &[(u64, u64)])]) -> Runs {
    of.iter().map(|(index, set)| (*index, set.iter().map(|(start, len)| range(*start, *len)).collect())).collect()
}

#[test]
fn regions_follow_the_map_and_begin_anew_only_where_they_must() {
    let (a, b) = (Subject::Spare(0, range(8, 8)), Subject::Spare(1, range(32, 8)));
    let map = runs(&[(0, &[(8, 8)]), (1, &[(32, 8)]), (2, &[])]);
    assert_eq!(changes(&[], &map), (vec![], vec![Subject::Setup, a, b]));
    let existing = [region(5, Subject::Setup), region(6, a), region(7, b)];
    assert_eq!(changes(&existing, &map), (vec![], vec![]));
    // A run has grown on both sides, and another has come: what is counted is counted on.
    let map = runs(&[(0, &[(0, 24), (100, 50)]), (1, &[(32, 8)])]);
    let more = [range(100, 50), range(0, 8), range(16, 8)].map(|range| Subject::Spare(0, range));
    assert_eq!(changes(&existing, &map), (vec![], more.to_vec()));
    // A part of it went back to main, or to the other spare.
    let map = runs(&[(0, &[(8, 4)]), (1, &[(12, 4), (32, 8)])]);
    let anew = vec![Subject::Spare(0, range(8, 4)), Subject::Spare(1, range(12, 4))];
    assert_eq!(changes(&existing, &map), (vec![6], anew));
    // A spare has gone.
    assert_eq!(changes(&existing, &runs(&[(0, &[(8, 8)])])), (vec![7], vec![]));
}

#[test]
fn of_too_many_runs_the_longest_are_counted_and_every_spare_has_its_share() {
    let many: Vec<(u64, u64)> = (0..1000).map(|n| (n * 100, 1 + n % 50)).collect();
    let map = runs(&[(0, &many), (1, &[(200_000, 8)])]);
    let (_, create) = changes(&[], &map);
    assert_eq!(create.len(), 1 + MOST_RUNS / 2 + 1);
    let lengths: Vec<u64> = create
        .iter()
        .filter_map(|s| if let Subject::Spare(0, range) = s { Some(range.len().0) } else { None })
        .collect();
    assert!(lengths.iter().all(|length| *length >= 47), "{lengths:?}");
    // Done once, nothing is left to do.
    let existing: Vec<Region> = create.into_iter().zip(0..).map(|(subject, id)| region(id, subject)).collect();
    assert_eq!(changes(&existing, &map), (vec![], vec![]));
}

#[test]
fn a_spare_is_the_sum_of_its_runs() {
    let counters = Counters::parse(&line(&[4, 5, 1]), &[10, 20]).unwrap();
    let mut stats = SetupStats {
        spares: vec![SpareStats { index: 1, sectors: Sectors(20), ..SpareStats::default() }],
        ..SetupStats::default()
    };
    for (start, since) in [(0, 9), (100, 7)] {
        let region = Region { since, ..region(1, Subject::Spare(1, range(start, 8))) };
        stats.add(&region, counters.clone());
    }
    stats.add(&region(3, Subject::Spare(2, range(0, 8))), counters.clone());
    stats.add(&region(4, Subject::Setup), counters.clone());
    let spare = &stats.spares[0];
    assert_eq!((stats.spares.len(), spare.counted_sectors, spare.sectors), (1, Sectors(16), Sectors(20)));
    let counted = spare.counted.clone().unwrap();
    assert_eq!((counted.since, counted.counters.reads), (7, 14));
    assert_eq!(counted.counters.histogram.counts, [8, 10, 2]);
    assert_eq!(stats.setup.clone().unwrap().counters, counters);
    assert_eq!(stats.since(&stats).spares[0].counted.clone().unwrap().counters.reads, 0);
    assert_eq!(stats.since(&SetupStats::default()), stats);
}

#[test]
fn percentiles_are_upper_bounds() {
    let histogram = Histogram { bounds_ns: vec![10, 20, 30], counts: vec![90, 0, 9, 1] };
    let at = |permille| histogram.percentile(permille);
    assert_eq!(at(0), Some(Latency::AtMost(10)));
    assert_eq!(at(500), Some(Latency::AtMost(10)));
    assert_eq!(at(900), Some(Latency::AtMost(10)));
    assert_eq!(at(901), Some(Latency::AtMost(30)));
    assert_eq!(at(990), Some(Latency::AtMost(30)));
    assert_eq!(at(999), Some(Latency::Above(30)));
    assert_eq!(histogram.slowest(), Some(Latency::Above(30)));
    assert_eq!(Histogram { bounds_ns: vec![1], counts: vec![0, 0] }.percentile(500), None);
    assert_eq!(
        Histogram { bounds_ns: vec![1], counts: vec![u64::MAX, u64::MAX] }.percentile(990),
        Some(Latency::AtMost(1))
    );
}

#[test]
fn times_read_as_people_write_them() {
    let words = [10_000, 15_000, 1_500_000, 20_000_000, 1_000_000_000, 1_500_000_000, 70_000_000_000, 999, 0];
    let wanted = ["10 µs", "15 µs", "1.5 ms", "20 ms", "1 s", "1.5 s", "70 s", "999 ns", "0 ns"];
    assert_eq!(words.map(duration_words), wanted);
    assert_eq!(Latency::Above(70_000_000_000).words(), "> 70 s");
}

#[test]
fn counters_that_began_anew_are_taken_as_they_are() {
    let before = Counters::parse(&line(&[4, 5, 1]), &[10, 20]).unwrap();
    assert_eq!(before.since(&before).histogram.total(), 0);
    assert_eq!(before.since(&before).in_flight, 2);
    let fewer = Counters { reads: 6, ..before.clone() };
    assert_eq!(fewer.since(&before), fewer);
    let bins =
        Counters { histogram: Histogram { counts: vec![5, 4, 1], ..before.histogram.clone() }, ..before.clone() };
    assert_eq!(bins.since(&before), bins);
}

proptest! {
    #[test]
    fn a_percentile_is_that_of_the_sorted_requests(times in proptest::collection::vec(0u64..100_000_000_000, 1..200), permille in 1u64..=1000) {
        let mut counts = vec![0; BOUNDS_NS.len() + 1];
        for time in &times {
            counts[BOUNDS_NS.partition_point(|bound| bound <= time)] += 1;
        }
        let histogram = Histogram { bounds_ns: BOUNDS_NS.to_vec(), counts };
        let mut sorted = times.clone();
        sorted.sort_unstable();
        let rank = (times.len() as u64 * permille).div_ceil(1000).max(1) as usize;
        let exact = sorted[rank - 1];
        match histogram.percentile(permille).unwrap() {
            Latency::AtMost(bound) => {
                prop_assert!(exact < bound);
                prop_assert!(bound == 10_000 || exact * 5 >= bound * 3, "{} {}", exact, bound);
            }
            Latency::Above(bound) => prop_assert!(exact >= bound),
        }
    }

    #[test]
    fn nothing_that_a_kernel_could_print_is_a_panic(text in "[ -~\n]{0,200}", bounds in proptest::collection::vec(any::<u64>(), 0..5)) {
        let _ = (Counters::parse(&text, &bounds), regions(&text), region_ids(&text));
    }

    #[test]
    fn what_came_between_is_the_difference(a in proptest::collection::vec(0u64..1000, 3), b in proptest::collection::vec(0u64..1000, 3)) {
        let before = Counters::parse(&line(&a), &[10, 20]).unwrap();
        let sum: Vec<u64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let after = Counters { reads: before.reads + 4, ..Counters::parse(&line(&sum), &[10, 20]).unwrap() };
        let between = after.since(&before);
        prop_assert_eq!(between.histogram.counts, b);
        prop_assert_eq!(between.reads, 4);
    }
}
