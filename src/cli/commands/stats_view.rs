//! How `stats` looks: a table and a histogram, or lines for an interval.

use super::Output;
use super::assembly::time_of;
use crate::stats::{Counters, Histogram, Latency, SetupStats, duration_words};
use crate::units::Sectors;
use std::time::{Duration, SystemTime};

/// Characters of the longest bar.
const BAR: u64 = 40;

/// A span of time that was watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    /// When it ended.
    pub(super) time: SystemTime,
    /// How long it was.
    pub(super) length: Duration,
    /// Whether it is the first, which has the heading.
    pub(super) first: bool,
}

pub(super) fn setup_text(out: &mut Output, name: &str, stats: &SetupStats, histogram: bool) {
    let Some(setup) = &stats.setup else {
        out.line(format!("{name}: requests are not counted; 'dm-remap stats {name} --enable' begins"));
        return;
    };
    let since = match setup.since {
        0 => String::new(),
        since => format!(" since {}", humantime::format_rfc3339_seconds(time_of(since))),
    };
    out.line(format!("{name}: requests{since}"));
    let heading =
        ["DEVICE", "READS", "READ", "WRITES", "WRITTEN", "MEAN READ", "MEAN WRITE", "P50", "P99", "P99.9", "SLOWEST"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.push(row("setup".into(), Some(&setup.counters)));
    for spare in &stats.spares {
        rows.push(row(format!("spare {}", spare.index), spare.counted.as_ref().map(|counted| &counted.counters)));
    }
    out.table(2, &rows);
    for spare in stats.spares.iter().filter(|spare| spare.counted_sectors < spare.sectors) {
        out.line(format!(
            "  of spare {}: {} of the {} sectors that live on it",
            spare.index, spare.counted_sectors, spare.sectors
        ));
    }
    if histogram && setup.counters.histogram.total() > 0 {
        out.line("");
        histogram_lines(out, &setup.counters.histogram);
    }
}

fn row(device: String, counters: Option<&Counters>) -> Vec<String> {
    let Some(c) = counters else { return vec![device, "-".into()] };
    let time = |ns: Option<u64>| ns.map_or("-".to_string(), duration_words);
    let at = |permille| c.histogram.percentile(permille).map_or("-".to_string(), Latency::words);
    vec![
        device,
        c.reads.to_string(),
        amount(c.read_sectors),
        c.writes.to_string(),
        amount(c.written_sectors),
        time(c.mean_read_ns()),
        time(c.mean_write_ns()),
        at(500),
        at(990),
        at(999),
        at(1000),
    ]
}

fn amount(sectors: Sectors) -> String {
    sectors.to_bytes().map_or("-".to_string(), |bytes| indicatif::BinaryBytes(bytes.0).to_string())
}

/// The bins from the first to the last that has requests.
fn histogram_lines(out: &mut Output, histogram: &Histogram) {
    let counts = &histogram.counts;
    let Some(first) = counts.iter().position(|count| *count > 0) else { return };
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(first);
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let mut rows = vec![["TIME UP TO", "REQUESTS", ""].map(String::from).to_vec()];
    for (bin, count) in counts.iter().enumerate().take(last.saturating_add(1)).skip(first) {
        let bound = match histogram.bounds_ns.get(bin) {
            Some(bound) => duration_words(*bound),
            None => format!("> {}", duration_words(histogram.bounds_ns.last().copied().unwrap_or(0))),
        };
        // Whatever is there can be seen.
        let length = u128::from(*count).saturating_mul(u128::from(BAR)).div_ceil(u128::from(most));
        rows.push(vec![bound, count.to_string(), "#".repeat(usize::try_from(length).unwrap_or(0))]);
    }
    out.table(2, &rows);
}

const HEADING: &str = "TIME                  DEVICE               READS/S      READ/S  WRITES/S   WRITTEN/S  MEAN READ  MEAN WRITE      P50      P99  SLOWEST  IN FLIGHT\n";

pub(super) fn interval_lines(
    names: &[String],
    before: &[SetupStats],
    after: &[SetupStats],
    interval: Interval,
) -> String {
    let mut text = if interval.first { HEADING.to_string() } else { String::new() };
    for (name, (before, after)) in names.iter().zip(before.iter().zip(after)) {
        let between = after.since(before);
        if let Some(setup) = &between.setup {
            text.push_str(&interval_line(name, &setup.counters, interval));
        }
        for spare in &between.spares {
            if let Some(counted) = &spare.counted {
                text.push_str(&interval_line(&format!("{name} spare {}", spare.index), &counted.counters, interval));
            }
        }
    }
    text
}

fn interval_line(device: &str, c: &Counters, interval: Interval) -> String {
    let millis = interval.length.as_millis().max(1);
    let per_second = |number: u64| {
        let rate = u128::from(number).saturating_mul(1000).checked_div(millis).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    let time = |ns: Option<u64>| ns.map_or("-".to_string(), duration_words);
    let at = |permille| c.histogram.percentile(permille).map_or("-".to_string(), Latency::words);
    format!(
        "{:<20}  {device:<18} {:>9}  {:>10}  {:>8}  {:>10}  {:>9}  {:>10}  {:>7}  {:>7}  {:>7}  {:>9}\n",
        humantime::format_rfc3339_seconds(interval.time),
        per_second(c.reads),
        amount(Sectors(per_second(c.read_sectors.0))),
        per_second(c.writes),
        amount(Sectors(per_second(c.written_sectors.0))),
        time(c.mean_read_ns()),
        time(c.mean_write_ns()),
        at(500),
        at(990),
        at(1000),
        c.in_flight,
    )
}
