//! What the kernel has counted of a setup's requests: how many, how large, how long they took.
//!
//! Source: Documentation/admin-guide/device-mapper/statistics.rst. Regions are made on the setup's device, with
//! `precise_timestamps` (times in nanoseconds) and a `histogram`: one over all of it, and one over each run that lives on a spare, up
//! to [`MOST_RUNS`]. They live in the kernel until they are deleted or the device is removed, also while tables are swapped.
//!
//! Invariants:
//! - a request that touches a region counts there with its whole time;
//! - what is counted of a spare is of sectors that have lived on it all the time: when some of them do no longer, all regions of that
//!   spare begin anew;
//! - the histogram counts reads and writes together, as the kernel does: a percentile is one of both;
//! - a percentile is the upper bound of the bin that it falls into, never a value between: with [`BOUNDS_NS`] it is at most 1.67
//!   times the truth, and never below it;
//! - counters that are smaller than before were begun anew: the difference is then what they hold now.

use crate::units::{Range, RangeSet, Sectors};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Our mark on regions that people look at. Those of a copy in progress have another, and are removed by the next command.
pub const PROGRAM: &str = "dm-remap-stats";

/// Upper bounds of the bins in nanoseconds: 1, 1.5, 2, 3, 5 and 7 of each power of ten from 10 µs to 70 s. What takes longer has a
/// bin of its own at the end.
#[rustfmt::skip]
pub const BOUNDS_NS: [u64; 42] = [
    10_000, 15_000, 20_000, 30_000, 50_000, 70_000,
    100_000, 150_000, 200_000, 300_000, 500_000, 700_000,
    1_000_000, 1_500_000, 2_000_000, 3_000_000, 5_000_000, 7_000_000,
    10_000_000, 15_000_000, 20_000_000, 30_000_000, 50_000_000, 70_000_000,
    100_000_000, 150_000_000, 200_000_000, 300_000_000, 500_000_000, 700_000_000,
    1_000_000_000, 1_500_000_000, 2_000_000_000, 3_000_000_000, 5_000_000_000, 7_000_000_000,
    10_000_000_000, 15_000_000_000, 20_000_000_000, 30_000_000_000, 50_000_000_000, 70_000_000_000,
];

/// The most sectors that a device can have: the region covers it also when it grows.
const ALL: u64 = i64::MAX.unsigned_abs();

/// The most runs on spares that are counted of a setup. The kernel looks at each region for each request.
pub const MOST_RUNS: usize = 128;

/// What a region is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The setup as a whole.
    Setup,
    /// A run that lives on this spare.
    Spare(u8, Range),
}

/// The message that makes a region, `since` being the time (seconds since 1970) that is kept with it.
pub fn create_message(subject: Subject, since: u64) -> String {
    let bounds: Vec<String> = BOUNDS_NS.iter().map(u64::to_string).collect();
    let bounds = bounds.join(",");
    let (start, len, aux) = match subject {
        Subject::Setup => (0, ALL, since.to_string()),
        Subject::Spare(index, range) => (range.start().0, range.len().0, format!("{since}:{index}")),
    };
    format!("@stats_create {start}+{len} /1 2 precise_timestamps histogram:{bounds} {PROGRAM} {aux}")
}

/// The message that lists our regions.
pub fn list_message() -> String {
    format!("@stats_list {PROGRAM}")
}

/// A region of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its number on the device.
    pub id: u64,
    /// What it is over.
    pub subject: Subject,
    /// When it was made, seconds since 1970; 0 when that is not known.
    pub since: u64,
    /// Upper bounds of the bins of its histogram, in nanoseconds, ascending.
    pub bounds: Vec<u64>,
}

/// The regions of ours in the reply to [`list_message`] that have what we need.
pub fn regions(list: &str) -> Vec<Region> {
    list.lines().filter_map(parse_region).collect()
}

/// The numbers of all regions in the reply to [`list_message`].
pub fn region_ids(list: &str) -> Vec<u64> {
    list.lines().filter_map(|line| line.split_once(':')?.0.trim().parse().ok()).collect()
}

/// From `ID: START+LEN STEP PROGRAM AUX precise_timestamps histogram:N,N,…`.
fn parse_region(line: &str) -> Option<Region> {
    let (id, rest) = line.split_once(": ")?;
    let mut words = rest.split_whitespace();
    let (start, len) = words.next()?.split_once('+')?;
    let range = Range::new(Sectors(start.parse().ok()?), Sectors(len.parse().ok()?))?;
    let mut words = words.skip(1);
    if words.next()? != PROGRAM {
        return None;
    }
    let aux = words.next()?;
    let (since, subject) = match aux.split_once(':') {
        Some((since, index)) => (since, Subject::Spare(index.parse().ok()?, range)),
        None => (aux, Subject::Setup),
    };
    let mut precise = false;
    let mut bounds = Vec::new();
    for word in words {
        precise |= word == "precise_timestamps";
        if let Some(list) = word.strip_prefix("histogram:") {
            bounds = list.split(',').map(|bound| bound.parse().ok()).collect::<Option<Vec<u64>>>()?;
        }
    }
    let ascending = bounds.iter().zip(bounds.iter().skip(1)).all(|(a, b)| a < b);
    let since = since.parse().unwrap_or(0);
    (precise && ascending && !bounds.is_empty()).then_some(Region {
        id: id.trim().parse().ok()?,
        subject,
        since,
        bounds,
    })
}

/// What lives on the spares: by spare, the sectors of the setup.
pub type Runs = BTreeMap<u8, RangeSet>;

/// What has to be done so that the regions are those of the setup and of `runs`: numbers of regions to delete, and what to make
/// then. The longest runs go first where there are more than [`MOST_RUNS`], and every spare gets its share of them.
pub fn changes(existing: &[Region], runs: &Runs) -> (Vec<u64>, Vec<Subject>) {
    let (mut delete, mut create) = (Vec::new(), Vec::new());
    if !existing.iter().any(|region| region.subject == Subject::Setup) {
        create.push(Subject::Setup);
    }
    let of_spare = |region: &&Region, index: u8| matches!(region.subject, Subject::Spare(i, _) if i == index);
    let indexes: BTreeSet<u8> = existing.iter().filter_map(Region::spare).chain(runs.keys().copied()).collect();
    let share = MOST_RUNS.checked_div(runs.values().filter(|set| !set.is_empty()).count()).unwrap_or(0);
    let nothing = RangeSet::default();
    for index in indexes {
        let mut left = runs.get(&index).unwrap_or(&nothing).clone();
        let regions: Vec<&Region> = existing.iter().filter(|region| of_spare(region, index)).collect();
        let ranges = || regions.iter().filter_map(|region| region.range());
        let mut kept = 0;
        if regions.len() <= share && ranges().all(|range| left.within(range).eq([range])) {
            kept = regions.len();
            ranges().for_each(|range| left.remove(range));
        } else {
            delete.extend(regions.iter().map(|region| region.id));
        }
        let mut more: Vec<Range> = left.iter().collect();
        more.sort_by_key(|range| (Reverse(range.len()), range.start()));
        create.extend(more.into_iter().take(share.saturating_sub(kept)).map(|range| Subject::Spare(index, range)));
    }
    (delete, create)
}

impl Region {
    fn spare(&self) -> Option<u8> {
        match self.subject {
            Subject::Spare(index, _) => Some(index),
            Subject::Setup => None,
        }
    }

    fn range(&self) -> Option<Range> {
        match self.subject {
            Subject::Spare(_, range) => Some(range),
            Subject::Setup => None,
        }
    }
}

/// What was counted in a region. Times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Reads that have ended.
    pub reads: u64,
    /// What they read.
    pub read_sectors: Sectors,
    /// How long they took, all added up.
    pub read_ns: u64,
    /// Writes that have ended; discards count among them.
    pub writes: u64,
    /// What they wrote.
    pub written_sectors: Sectors,
    /// How long they took, all added up.
    pub write_ns: u64,
    /// Requests that have begun and not ended.
    pub in_flight: u64,
    /// How long there was at least one request to work on; of a spare's runs added up.
    pub busy_ns: u64,
    /// How many requests took how long.
    pub histogram: Histogram,
}

/// Reads and writes by the time that they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Upper bounds of the bins in nanoseconds; the last bin has none.
    pub bounds_ns: Vec<u64>,
    /// Requests in each bin: one more than there are bounds.
    pub counts: Vec<u64>,
}

/// Where a percentile lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// At or below so many nanoseconds.
    AtMost(u64),
    /// Beyond the last bound, which is so many nanoseconds.
    Above(u64),
}

impl Histogram {
    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }

    /// The time that `permille` of a thousand requests did not exceed; `None` when there was none.
    pub fn percentile(&self, permille: u64) -> Option<Latency> {
        let total = self.total();
        // The rank of the request, from 1, rounded up.
        let rank = u128::from(total).saturating_mul(u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        let bin = self.counts.iter().position(|count| {
            seen = seen.saturating_add(u128::from(*count));
            seen >= rank
        })?;
        Some(self.bounds_ns.get(bin).map_or_else(|| self.above(), |bound| Latency::AtMost(*bound)))
    }

    /// The slowest request's time; `None` when there was none.
    pub fn slowest(&self) -> Option<Latency> {
        self.percentile(1000)
    }

    fn above(&self) -> Latency {
        Latency::Above(self.bounds_ns.last().copied().unwrap_or(0))
    }

    fn since(&self, before: &Histogram) -> Histogram {
        let old = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(old).map(|(now, old)| now.checked_sub(old).unwrap_or(*now)).collect();
        Histogram { bounds_ns: self.bounds_ns.clone(), counts }
    }
}

impl Counters {
    /// Reads what the kernel prints of the region's one area; `None` when it is not what the documentation says.
    pub fn parse(reply: &str, bounds: &[u64]) -> Option<Counters> {
        let mut lines = reply.lines().filter(|line| !line.trim().is_empty());
        let line = lines.next()?;
        if lines.next().is_some() {
            return None;
        }
        let mut words = line.split_whitespace();
        words.next()?.split_once('+')?;
        let words: Vec<&str> = words.collect();
        let (numbers, rest) = words.split_at_checked(13)?;
        let numbers: Vec<u64> = numbers.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [reads, _, read_sectors, read_ns, writes, _, written_sectors, write_ns, in_flight, busy_ns, ..] =
            numbers.as_slice()
        else {
            return None;
        };
        let [bins] = rest else { return None };
        let counts: Vec<u64> = bins.split(':').map(|bin| bin.parse().ok()).collect::<Option<_>>()?;
        if counts.len() != bounds.len().checked_add(1)? {
            return None;
        }
        Some(Counters {
            reads: *reads,
            read_sectors: Sectors(*read_sectors),
            read_ns: *read_ns,
            writes: *writes,
            written_sectors: Sectors(*written_sectors),
            write_ns: *write_ns,
            in_flight: *in_flight,
            busy_ns: *busy_ns,
            histogram: Histogram { bounds_ns: bounds.to_vec(), counts },
        })
    }

    /// Adds what was counted elsewhere, in bins of the same bounds; of other bounds the bins are left out.
    fn add(&mut self, other: &Counters) {
        let pairs = [
            (&mut self.reads, other.reads),
            (&mut self.read_sectors.0, other.read_sectors.0),
            (&mut self.read_ns, other.read_ns),
            (&mut self.writes, other.writes),
            (&mut self.written_sectors.0, other.written_sectors.0),
            (&mut self.write_ns, other.write_ns),
            (&mut self.in_flight, other.in_flight),
            (&mut self.busy_ns, other.busy_ns),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
        if self.histogram.bounds_ns == other.histogram.bounds_ns {
            let bins = self.histogram.counts.iter_mut().zip(&other.histogram.counts);
            bins.for_each(|(sum, more)| *sum = sum.saturating_add(*more));
        }
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Counters) -> Counters {
        let anew = self.reads < before.reads
            || self.writes < before.writes
            || self.histogram.bounds_ns != before.histogram.bounds_ns
            || self.histogram.counts.iter().zip(&before.histogram.counts).any(|(now, old)| now < old);
        if anew {
            return self.clone();
        }
        Counters {
            reads: self.reads.saturating_sub(before.reads),
            read_sectors: self.read_sectors.saturating_sub(before.read_sectors),
            read_ns: self.read_ns.saturating_sub(before.read_ns),
            writes: self.writes.saturating_sub(before.writes),
            written_sectors: self.written_sectors.saturating_sub(before.written_sectors),
            write_ns: self.write_ns.saturating_sub(before.write_ns),
            in_flight: self.in_flight,
            busy_ns: self.busy_ns.saturating_sub(before.busy_ns),
            histogram: self.histogram.since(&before.histogram),
        }
    }

    /// How long a read took on average, in nanoseconds; `None` when there was none.
    pub fn mean_read_ns(&self) -> Option<u64> {
        self.read_ns.checked_div(self.reads)
    }

    /// The same of writes.
    pub fn mean_write_ns(&self) -> Option<u64> {
        self.write_ns.checked_div(self.writes)
    }
}

/// What was counted, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Seconds since 1970; 0 when that is not known.
    pub since: u64,
    /// What.
    pub counters: Counters,
}

/// What was counted of a setup, as far as it is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupStats {
    /// All that its users do. Nothing when it is not counted.
    pub setup: Option<Counted>,
    /// The part of that which touched what lives on each spare.
    pub spares: Vec<SpareStats>,
}

/// What was counted of a spare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareStats {
    /// Which.
    pub index: u8,
    /// Nothing when none of its runs is counted.
    pub counted: Option<Counted>,
    /// How much of what lives on it is counted.
    pub counted_sectors: Sectors,
    /// How much lives on it.
    pub sectors: Sectors,
}

impl SetupStats {
    /// Adds what was counted in a region.
    pub fn add(&mut self, region: &Region, counters: Counters) {
        let since = region.since;
        let Subject::Spare(index, range) = region.subject else {
            self.setup = Some(Counted { since, counters });
            return;
        };
        let Some(spare) = self.spares.iter_mut().find(|spare| spare.index == index) else { return };
        spare.counted_sectors = Sectors(spare.counted_sectors.0.saturating_add(range.len().0));
        match &mut spare.counted {
            Some(counted) => {
                counted.since = counted.since.min(since);
                counted.counters.add(&counters);
            }
            none => *none = Some(Counted { since, counters }),
        }
    }

    /// What was counted since `before`, everywhere.
    #[must_use]
    pub fn since(&self, before: &SetupStats) -> SetupStats {
        let difference = |now: &Option<Counted>, old: Option<&Counted>| {
            let now = now.as_ref()?;
            let counters = match old.filter(|old| old.since == now.since) {
                Some(old) => now.counters.since(&old.counters),
                None => now.counters.clone(),
            };
            Some(Counted { since: now.since, counters })
        };
        let spare = |now: &SpareStats| {
            let old = before.spares.iter().find(|old| old.index == now.index).and_then(|old| old.counted.as_ref());
            SpareStats { counted: difference(&now.counted, old), ..now.clone() }
        };
        SetupStats {
            setup: difference(&self.setup, before.setup.as_ref()),
            spares: self.spares.iter().map(spare).collect(),
        }
    }
}

/// A time for people, with its unit: `15 µs`, `1.5 ms`, `20 s`.
pub fn duration_words(ns: u64) -> String {
    let (unit, name) = match ns {
        0..=999 => return format!("{ns} ns"),
        1_000..=999_999 => (1_000, "µs"),
        1_000_000..=999_999_999 => (1_000_000, "ms"),
        _ => (1_000_000_000u64, "s"),
    };
    let whole = ns / unit;
    let tenth = ns % unit / (unit / 10);
    if whole >= 10 || tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

impl Latency {
    /// For people: `1.5 ms`, or `> 70 s`.
    pub fn words(self) -> String {
        match self {
            Latency::AtMost(ns) => duration_words(ns),
            Latency::Above(ns) => format!("> {}", duration_words(ns)),
        }
    }
}

#[cfg(test)]
mod tests;
