//! Gathers reports, so that many of them lead to few probes and few swaps. Pure: the time is given.
//!
//! Invariants:
//! - the first report after a quiet time is acted upon after the settle time;
//! - while reports go on, the time from one batch to the next doubles up to [`LONGEST`]: N reports within T seconds
//!   give at most about `7 + T / 2` batches, whatever N is;
//! - every sector that was reported is in exactly one batch, unless it was reported again;
//! - what is gathered stays small: runs that touch are joined.

use crate::map::SpareIndex;
use crate::units::{Range, Sectors, coalesce};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the first report after a quiet time is kept, so that those that come with it are dealt with at once.
pub const SETTLE: Duration = Duration::from_millis(30);

/// The longest time between two batches while reports go on, and the quiet time after which the next counts as a first.
pub const LONGEST: Duration = Duration::from_secs(2);

/// What is probed around a reported sector: the aligned mebibyte. Bad sectors come in groups, and a failed request is
/// longer than the one sector that the kernel log names.
const AROUND: Sectors = Sectors(2048);

/// What is probed where the kernel left reports out.
const AROUND_HIDDEN: Sectors = Sectors(32_768);

/// The most runs that are kept for each device before the gaps between them are given up.
const MOST_RUNS: usize = 4096;

/// Which device of a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Main: sectors of main are sectors of the setup.
    Main,
    /// A spare.
    Spare(SpareIndex),
}

/// A report, as far as it concerns a setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The device.
    pub place: Place,
    /// Sectors of it.
    pub ranges: Vec<Range>,
    /// Whether these are but a guess.
    pub guessed: bool,
    /// The report in words.
    pub cause: String,
    /// Number of the log record, if it came from there.
    pub sequence: Option<u64>,
    /// How many reports this counts for: 0 when another source has told it already.
    pub reports: u64,
}

/// What to act upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Sectors that were reported, by device: sorted, disjoint.
    pub reported: BTreeMap<Place, Vec<Range>>,
    /// How many reports these were.
    pub reports: u64,
    /// Whether there may have been reports that the kernel left out.
    pub hidden: bool,
    /// Whether sectors of main are among them that are but a guess.
    pub guessed: bool,
    /// The first of the reports, in words.
    pub cause: String,
    /// The lowest number among the log records that are in it.
    pub first: Option<u64>,
}

impl Batch {
    /// The reported sectors of a device with what is to be probed around them, inside its `size`: sorted, disjoint.
    pub fn around(&self, place: Place, size: Sectors) -> Vec<Range> {
        let unit = if self.hidden { AROUND_HIDDEN } else { AROUND };
        let reported = self.reported.get(&place).map(Vec::as_slice).unwrap_or_default();
        coalesce(reported.iter().filter_map(|r| r.widen_to(unit, size)).collect())
    }

    fn join(&mut self, other: Batch) {
        for (place, ranges) in other.reported {
            let here = self.reported.entry(place).or_default();
            here.extend(ranges);
            if here.len() > MOST_RUNS {
                *here = thinned(std::mem::take(here));
            }
        }
        self.reports = self.reports.saturating_add(other.reports);
        self.hidden |= other.hidden;
        self.guessed |= other.guessed;
        if self.cause.is_empty() {
            self.cause = other.cause;
        }
        self.first = [self.first, other.first].into_iter().flatten().min();
    }
}

/// The same sectors in fewer runs; where that does not help, some more sectors.
fn thinned(ranges: Vec<Range>) -> Vec<Range> {
    let mut out = coalesce(ranges);
    let mut unit = AROUND;
    while out.len() > MOST_RUNS / 2 {
        out = coalesce(out.iter().filter_map(|r| r.widen_to(unit, Sectors(u64::MAX))).collect());
        unit = unit.checked_mul(2).unwrap_or(unit);
    }
    out
}

/// Gathers the reports for one setup.
#[derive(Clone, Debug)]
pub struct Debounce {
    settle: Duration,
    waiting: Batch,
    /// What was acted upon a moment ago.
    recent: Batch,
    due: Option<Duration>,
    /// When the last batch was done with.
    last: Option<Duration>,
    /// The least time from then to the next batch.
    pace: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Debounce::new(SETTLE)
    }
}

impl Debounce {
    /// One that keeps the first report for `settle`.
    pub fn new(settle: Duration) -> Debounce {
        let (waiting, recent) = Default::default();
        Debounce { settle, waiting, recent, due: None, last: None, pace: settle }
    }

    /// Takes in a report at time `now`.
    pub fn add(&mut self, now: Duration, suspect: Suspect) {
        let Suspect { place, ranges, guessed, cause, sequence, reports } = suspect;
        let reported = BTreeMap::from([(place, ranges)]);
        self.waiting.join(Batch { reported, reports, hidden: false, guessed, cause, first: sequence });
        self.plan(now);
    }

    /// What waits for the end of some trouble need not wait any longer than other batches.
    pub fn hurry(&mut self, now: Duration) {
        self.due = self.due.map(|due| due.min(now.saturating_add(LONGEST)));
    }

    /// Takes in that the kernel may have left reports out. It tells so late: what was acted upon a moment ago is acted
    /// upon again, more widely.
    pub fn hidden(&mut self, now: Duration) {
        let long_ago = self.last.is_none_or(|last| now.saturating_sub(last) > LONGEST);
        // What was probed widely needs no second time.
        if !long_ago && !self.recent.hidden {
            self.recent_again();
        }
        if !self.waiting.reported.is_empty() {
            self.waiting.hidden = true;
            self.plan(now);
        }
    }

    /// Requests have failed since, and it is not known where: around what was acted upon last is the best guess.
    pub fn unseen(&mut self, now: Duration) {
        self.recent_again();
        if !self.waiting.reported.is_empty() {
            (self.waiting.hidden, self.waiting.guessed) = (true, true);
            self.plan(now);
        }
    }

    fn recent_again(&mut self) {
        let again = Batch { reports: 0, ..std::mem::take(&mut self.recent) };
        self.waiting.join(again);
    }

    fn plan(&mut self, now: Duration) {
        if self.due.is_some() {
            return;
        }
        let quiet = self.last.is_none_or(|last| now.saturating_sub(last) > LONGEST);
        if quiet {
            self.pace = self.settle;
        }
        let earliest = self.last.filter(|_| !quiet).map(|last| last.saturating_add(self.pace));
        self.due = Some(now.saturating_add(self.settle).max(earliest.unwrap_or_default()));
    }

    /// When the next batch is to be taken; `None` when nothing waits.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// The batch, if it is time for it.
    pub fn take(&mut self, now: Duration) -> Option<Batch> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        let mut batch = std::mem::take(&mut self.waiting);
        for ranges in batch.reported.values_mut() {
            *ranges = coalesce(std::mem::take(ranges));
        }
        Some(batch)
    }

    /// A batch was done with at `now`.
    pub fn done(&mut self, now: Duration, batch: Batch) {
        self.pace = self.pace.saturating_mul(2).min(LONGEST);
        self.last = Some(now);
        self.recent = batch;
        if let Some(due) = &mut self.due {
            *due = (*due).max(now.saturating_add(self.pace));
        }
    }

    /// A batch could not be acted upon: it waits, with what has come since, until `when`.
    pub fn put_back(&mut self, batch: Batch, when: Duration) {
        self.waiting.join(batch);
        self.due = Some(when);
    }

    /// The lowest number among the log records that wait.
    pub fn first_waiting(&self) -> Option<u64> {
        self.waiting.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    fn suspect(place: Place, sector: u64, sequence: Option<u64>) -> Suspect {
        let ranges = vec![range(sector, 1)];
        Suspect { place, ranges, guessed: false, cause: format!("sector {sector}"), sequence, reports: 1 }
    }

    fn add(debounce: &mut Debounce, at: u64, sector: u64) {
        debounce.add(ms(at), suspect(Place::Main, sector, Some(sector)));
    }

    /// Runs to the end of time; each batch takes `work`. Returns when they were taken, and the sectors in them.
    fn run(reports: &[(u64, u64)], work: u64) -> Vec<(u64, Batch)> {
        let mut debounce = Debounce::default();
        let mut reports = reports.iter().peekable();
        let (mut now, mut out) = (0, Vec::new());
        loop {
            let next = reports.peek().map(|(at, _)| *at);
            let due = debounce.due().map(|d| u64::try_from(d.as_millis()).unwrap());
            now = match (next, due) {
                (None, None) => return out,
                (a, b) => a.unwrap_or(u64::MAX).min(b.unwrap_or(u64::MAX)).max(now),
            };
            while let Some((at, sector)) = reports.next_if(|(at, _)| *at <= now) {
                add(&mut debounce, (*at).max(now), *sector);
            }
            if let Some(batch) = debounce.take(ms(now)) {
                out.push((now, batch.clone()));
                now += work;
                debounce.done(ms(now), batch);
            }
        }
    }

    #[test]
    fn the_first_report_is_acted_upon_at_once() {
        let batches = run(&[(1000, 5), (1010, 6), (60_000, 9)], 40);
        let times: Vec<u64> = batches.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [1030, 60_030]);
        assert_eq!(batches[0].1.reported[&Place::Main], [range(5, 2)]);
        assert_eq!((batches[0].1.reports, batches[0].1.first), (2, Some(5)));
    }

    #[test]
    fn a_thousand_reports_give_few_batches() {
        for (gap, most) in [(0, 1), (1, 7), (10, 12), (100, 58)] {
            let reports: Vec<(u64, u64)> = (0..1000).map(|n| (n * gap, n * 5000)).collect();
            let batches = run(&reports, 50);
            let sectors: usize = batches.iter().map(|(_, b)| b.reported[&Place::Main].len()).sum();
            assert_eq!(sectors, 1000, "one every {gap} ms");
            assert!(batches.len() <= most, "one every {gap} ms: {} batches", batches.len());
        }
    }

    #[test]
    fn neighbours_are_probed_and_more_of_them_where_reports_are_missing() {
        let mut debounce = Debounce::default();
        add(&mut debounce, 0, 5000);
        debounce.add(ms(1), suspect(Place::Spare(SpareIndex(1)), 9, None));
        let batch = debounce.take(ms(30)).unwrap();
        assert_eq!(batch.around(Place::Main, Sectors(1 << 20)), [range(4096, 2048)]);
        assert_eq!(batch.around(Place::Main, Sectors(5001)), [range(4096, 905)]);
        assert_eq!(batch.around(Place::Spare(SpareIndex(1)), Sectors(100)), [range(0, 100)]);
        assert_eq!(batch.around(Place::Spare(SpareIndex(0)), Sectors(100)), []);
        debounce.done(ms(60), batch);
        // The kernel tells only now.
        debounce.hidden(ms(70));
        let batch = debounce.take(debounce.due().unwrap()).unwrap();
        assert_eq!(batch.around(Place::Main, Sectors(1 << 20)), [range(0, 32_768)]);
        assert_eq!(batch.reports, 0);
        debounce.done(ms(200), batch);
        debounce.hidden(ms(210));
        assert_eq!(debounce.due(), None, "once is enough");
        debounce.unseen(ms(220));
        let batch = debounce.take(debounce.due().unwrap()).unwrap();
        assert_eq!(batch.around(Place::Main, Sectors(1 << 20)), [range(0, 32_768)]);
        assert!(batch.guessed && batch.hidden);
        debounce.done(ms(230), batch);
        add(&mut debounce, 300, 5000);
        let batch = debounce.take(ms(2000)).unwrap();
        debounce.done(ms(2000), batch);
        debounce.hidden(ms(60_000));
        assert_eq!(debounce.due(), None, "that was long ago");
        let mut never = Debounce::default();
        never.unseen(ms(1));
        assert_eq!(never.due(), None, "there is nothing to guess from");
    }

    #[test]
    fn what_could_not_be_done_waits() {
        let mut debounce = Debounce::default();
        add(&mut debounce, 0, 7);
        let batch = debounce.take(ms(30)).unwrap();
        assert_eq!((debounce.take(ms(31)), debounce.first_waiting()), (None, None));
        debounce.put_back(batch, ms(500));
        add(&mut debounce, 40, 8);
        assert_eq!((debounce.due(), debounce.first_waiting()), (Some(ms(500)), Some(7)));
        let batch = debounce.take(ms(500)).unwrap();
        assert_eq!((batch.reported[&Place::Main].as_slice(), batch.cause.as_str()), (&[range(7, 2)][..], "sector 7"));
        debounce.put_back(batch, ms(60_000));
        debounce.hurry(ms(1000));
        assert_eq!(debounce.due(), Some(ms(3000)));
    }

    proptest! {
        #[test]
        fn every_report_is_acted_upon_once(
            gaps in prop::collection::vec(0u64..3000, 1..60), work in 0u64..500
        ) {
            let mut at = 0;
            let reports: Vec<(u64, u64)> = gaps.iter().zip(0u64..).map(|(gap, n)| {
                at += gap;
                (at, n * 10)
            }).collect();
            let batches = run(&reports, work);
            let all: Vec<Range> = batches.iter().flat_map(|(_, b)| b.reported[&Place::Main].clone()).collect();
            prop_assert_eq!(coalesce(all.clone()), reports.iter().map(|(_, s)| range(*s, 1)).collect::<Vec<_>>());
            prop_assert_eq!(all.len(), reports.len());
            // Nothing waits longer than the longest pace and the work before it.
            for (at, sector) in &reports {
                let taken = batches.iter().find(|(_, b)| b.reported[&Place::Main].contains(&range(*sector, 1))).unwrap().0;
                prop_assert!(taken <= at + 2000 + work + 30, "{sector} at {at} was taken at {taken}");
            }
        }

        #[test]
        fn thinning_loses_no_sector(starts in prop::collection::vec(0u64..1_000_000_000, 0..9000)) {
            let ranges: Vec<Range> = starts.iter().map(|s| range(*s, 1)).collect();
            let thin = thinned(ranges.clone());
            prop_assert!(thin.len() <= MOST_RUNS);
            for range in ranges {
                let at = thin.partition_point(|t| t.end() <= range.start());
                prop_assert!(thin.get(at).is_some_and(|t| t.encloses(range)));
            }
        }
    }
}
