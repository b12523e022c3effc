use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(900);

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn shape() -> Shape {
    Shape { chunk: Sectors(64), step: Sectors(1), block: Sectors(1), unit: Sectors(8), slow_ms: 500, retries: 0 }
}

/// A disk that counts.
#[derive(Default)]
struct Platter {
    bad: RangeSet,
    /// Fail with EIO that many times, then read.
    doubtful: BTreeMap<u64, u32>,
    slow: RangeSet,
    reads: u64,
    bad_reads: u64,
    large_bad_reads: u64,
    order: Vec<Request>,
}

impl Platter {
    fn read(&mut self, request: Request) -> Answer {
        self.reads += 1;
        self.order.push(request);
        if self.bad.overlaps(request.range) {
            self.bad_reads += 1;
            self.large_bad_reads += u64::from(request.phase <= Phase::Rest);
            return Answer::Medium;
        }
        let sectors = request.range.start().0..request.range.end().0;
        if let Some((_, left)) = self.doubtful.range_mut(sectors).find(|(_, left)| **left > 0) {
            *left -= 1;
            return Answer::Doubtful;
        }
        Answer::Read(if self.slow.overlaps(request.range) { SLOW } else { FAST })
    }
}

/// Runs a survey to its end, or for so many reads, with `depth` requests in flight that are answered in order.
fn run(survey: &mut Survey, disk: &mut Platter, depth: usize, reads: u64) -> bool {
    let until = disk.reads + reads;
    let mut queue = VecDeque::new();
    loop {
        let mut done = false;
        while queue.len() < depth {
            match survey.next(Sectors(64)) {
                Next::Read(request) => queue.push_back(request),
                Next::Wait => {
                    assert!(!queue.is_empty(), "it waits for nothing");
                    break;
                }
                Next::Done => {
                    done = true;
                    break;
                }
            }
        }
        if done && queue.is_empty() {
            return true;
        }
        if disk.reads >= until {
            return false;
        }
        if let Some(request) = queue.pop_front() {
            let answer = disk.read(request);
            survey.answer(request, answer);
        }
    }
}

fn surveyed(area: RangeSet, shape: Shape, disk: &mut Platter, depth: usize) -> Found {
    let mut survey = Survey::new(area, shape);
    assert!(run(&mut survey, disk, depth, u64::MAX / 2));
    assert_eq!(survey.settled(), survey.area().sectors());
    survey.into_found()
}

#[test]
fn a_good_disk_is_read_once_in_large_requests() {
    let mut disk = Platter::default();
    let found = surveyed([range(0, 1000)].into_iter().collect(), shape(), &mut disk, 4);
    assert!(found.is_clean());
    assert_eq!(disk.reads, 1000u64.div_ceil(64));
    assert!(disk.order.windows(2).all(|w| w[0].range.end() == w[1].range.start()), "in order");
}

#[test]
fn one_bad_sector_costs_two_failed_reads() {
    let mut disk = Platter { bad: [range(500, 1)].into_iter().collect(), ..Platter::default() };
    let found = surveyed([range(0, 1000)].into_iter().collect(), shape(), &mut disk, 4);
    assert_eq!(found.bad.iter().collect::<Vec<_>>(), [range(500, 1)]);
    assert_eq!(disk.bad_reads, 2);
    // The good half of the failed chunk was left until the whole rest was read.
    let first_small = disk.order.iter().position(|r| r.phase == Phase::Trim).unwrap();
    assert_eq!(first_small as u64, 1000u64.div_ceil(64));
}

#[test]
fn a_large_bad_region_is_jumped_over_and_approached_from_both_sides() {
    let mut disk = Platter { bad: [range(20_000, 5_000)].into_iter().collect(), ..Platter::default() };
    let found = surveyed([range(0, 100_000)].into_iter().collect(), shape(), &mut disk, 4);
    assert_eq!(found.bad.iter().collect::<Vec<_>>(), [range(20_000, 5_000)]);
    // 5,000 / 64 chunks touch it; all other reads of it are of single blocks, once each.
    assert!(disk.bad_reads <= 5_000 + 80, "{}", disk.bad_reads);
    let reads_until_end = disk.order.iter().position(|r| r.range.end() == Sectors(100_000)).unwrap();
    let bad_before = disk.order[..reads_until_end].iter().filter(|r| disk.bad.overlaps(r.range)).count();
    assert!(bad_before < 25, "{bad_before} failed reads before the good end was read");
}

#[test]
fn physical_blocks_are_read_whole_and_then_split() {
    let shape = Shape { step: Sectors(8), ..shape() };
    let mut disk = Platter { bad: [range(80, 8), range(203, 1)].into_iter().collect(), ..Platter::default() };
    let found = surveyed([range(0, 640)].into_iter().collect(), shape, &mut disk, 2);
    assert_eq!(found.bad, disk.bad);
    assert!(disk.order.iter().all(|r| r.range.len() != Sectors(1) || r.phase == Phase::Split));
}

#[test]
fn an_eio_that_does_not_repeat_is_no_bad_sector() {
    let mut disk = Platter::default();
    // The chunk and the block fail, then it reads; the other fails every time it is asked.
    disk.doubtful.insert(300, 2);
    disk.doubtful.insert(310, u32::MAX);
    let found = surveyed([range(0, 1000)].into_iter().collect(), shape(), &mut disk, 4);
    assert_eq!(found.bad.iter().collect::<Vec<_>>(), [range(310, 1)]);
    assert_eq!(found.transient, Sectors(1));
}

#[test]
fn of_many_that_fail_with_eio_a_sample_is_asked_again_and_all_when_one_of_it_reads() {
    let area: RangeSet = [range(0, 100_000)].into_iter().collect();
    let failing = || (0..2_000u64).map(|n| (n * 50 + 7, u32::MAX)).collect::<BTreeMap<_, _>>();
    let mut disk = Platter { doubtful: failing(), ..Platter::default() };
    let confirmed = |disk: &Platter| disk.order.iter().filter(|r| r.phase == Phase::Confirm).count();
    let found = surveyed(area.clone(), shape(), &mut disk, 4);
    assert_eq!(found.bad.sectors(), Sectors(2_000));
    assert!(confirmed(&disk) <= SAMPLE, "{}", confirmed(&disk));

    // Every one of these fails twice, in the chunk and by itself, and then reads.
    let mut disk = Platter { doubtful: failing(), ..Platter::default() };
    let honest = disk.doubtful.iter_mut().skip(500).step_by(2);
    honest.for_each(|(_, left)| *left = 2);
    let mut survey = Survey::new(area, Shape { chunk: Sectors(50), ..shape() });
    // Killed in the middle of it, it does not forget that EIO means nothing here.
    while survey.found().transient == Sectors::ZERO {
        assert!(!run(&mut survey, &mut disk, 1, 10));
        survey = survey.saved();
    }
    let text = serde_json::to_string(&survey.saved()).unwrap();
    let mut survey: Survey = serde_json::from_str(&text).unwrap();
    let area = survey.area().clone();
    survey.fit(Shape { chunk: Sectors(50), ..shape() }, &area);
    assert!(run(&mut survey, &mut disk, 1, u64::MAX / 2));
    assert_eq!(survey.found().bad.sectors(), Sectors(1_250));
    assert_eq!(survey.found().transient, Sectors(750));
}

#[test]
fn retries_tell_on_which_try_a_block_has_read() {
    let mut disk = Platter { bad: [range(10, 1)].into_iter().collect(), ..Platter::default() };
    // Chunk, block, confirmation, first retry; the second retry reads.
    disk.doubtful.insert(300, 4);
    let shape = Shape { retries: 3, ..shape() };
    let found = surveyed([range(0, 1000)].into_iter().collect(), shape, &mut disk, 1);
    assert_eq!(found.recovered, [Recovered { range: range(300, 1), retry: 2 }]);
    assert_eq!(found.bad.iter().collect::<Vec<_>>(), [range(10, 1)]);
}

#[test]
fn slow_units_are_told_from_slow_times() {
    let slow: RangeSet = [range(400, 8), range(705, 2)].into_iter().collect();
    let mut disk = Platter { slow, ..Platter::default() };
    let found = surveyed([range(0, 1000)].into_iter().collect(), shape(), &mut disk, 4);
    assert_eq!(found.weak.iter().map(|w| w.range).collect::<Vec<_>>(), [range(400, 8), range(704, 8)]);
    assert_eq!(found.weak[0].milliseconds, 900);
    // When everything is slow, nothing is weak: the disk is busy.
    let mut disk = Platter { slow: [range(0, 1000)].into_iter().collect(), ..Platter::default() };
    let found = surveyed([range(0, 1000)].into_iter().collect(), shape(), &mut disk, 4);
    assert!(found.is_clean());
    // And with no limit nothing is measured.
    let mut disk = Platter { slow: [range(400, 8)].into_iter().collect(), ..Platter::default() };
    let found = surveyed([range(0, 1000)].into_iter().collect(), Shape { slow_ms: 0, ..shape() }, &mut disk, 4);
    assert!(found.is_clean() && disk.reads == 16);
}

#[test]
fn what_is_taken_back_is_asked_again() {
    let mut survey = Survey::new([range(0, 100)].into_iter().collect(), shape());
    let Next::Read(first) = survey.next(Sectors(64)) else { panic!() };
    survey.cancel(first);
    assert_eq!(survey.next(Sectors(64)), Next::Read(first));
    assert_eq!(survey.next(Sectors(16)), Next::Read(Request { range: range(64, 16), phase: Phase::Forward }));
}

fn runs(most: usize) -> impl Strategy<Value = RangeSet> {
    let run = (0u64..4000, prop_oneof![Just(1u64), 1u64..8, 1u64..300]);
    prop::collection::vec(run, 0..most).prop_map(|runs| {
        let clipped = runs.into_iter().filter_map(|(s, l)| range(s, l).intersect(range(0, 4000)));
        clipped.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// None missed, none invented, and each bad sector is asked for no more than once in a large request, once in a
    /// physical block and once by itself.
    #[test]
    fn all_bad_sectors_are_found_and_no_others(
        bad in runs(30), holes in runs(4), depth in 1usize..6, step in prop_oneof![Just(1u64), Just(8)],
    ) {
        let area: RangeSet = range(0, 4000).without(&holes.iter().collect::<Vec<_>>()).into_iter().collect();
        let mut disk = Platter { bad: bad.clone(), ..Platter::default() };
        let shape = Shape { step: Sectors(step), ..shape() };
        let found = surveyed(area.clone(), shape, &mut disk, depth);
        let expected: RangeSet = area.iter().flat_map(|run| bad.within(run).collect::<Vec<_>>()).collect();
        prop_assert_eq!(&found.bad, &expected);
        prop_assert!(disk.order.iter().all(|r| area.within(r.range).map(|p| p.len().0).sum::<u64>() == r.range.len().0));
        let times = |small: bool| {
            let mut times = BTreeMap::new();
            for r in disk.order.iter().filter(|r| (r.phase > Phase::Rest) == small) {
                (r.range.start().0..r.range.end().0).for_each(|s| *times.entry(s).or_insert(0) += 1);
            }
            times.into_values().max().unwrap_or(0)
        };
        prop_assert!(times(false) <= 1);
        let most = if step == 1 { 1 } else { 2 };
        prop_assert!(times(true) <= most);
    }

    /// Killed after any number of reads and gone on from what was saved: the same result, and little is read twice.
    #[test]
    fn an_interrupted_survey_ends_the_same(
        bad in runs(30), stops in prop::collection::vec(1u64..200, 0..6), depth in 1usize..5,
    ) {
        let area: RangeSet = [range(0, 4000)].into_iter().collect();
        let mut whole = Platter { bad: bad.clone(), ..Platter::default() };
        let found = surveyed(area.clone(), shape(), &mut whole, depth);
        let mut disk = Platter { bad, ..Platter::default() };
        let mut survey = Survey::new(area, shape());
        for reads in &stops {
            if run(&mut survey, &mut disk, depth, *reads) {
                break;
            }
            let text = serde_json::to_string(&survey.saved()).unwrap();
            survey = serde_json::from_str(&text).unwrap();
        }
        run(&mut survey, &mut disk, depth, u64::MAX / 2);
        prop_assert_eq!(survey.found().bad.clone(), found.bad);
        let most = whole.reads + (stops.len() * depth) as u64 + stops.len() as u64;
        prop_assert!(disk.reads <= most + whole.reads / 4, "{} reads, {} without a stop", disk.reads, whole.reads);
    }
}
