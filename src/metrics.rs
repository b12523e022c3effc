//! What monitoring reads: the metrics of all setups as a page in Prometheus' text format.
//!
//! Source: the text exposition format 0.0.4, <https://prometheus.io/docs/instrumenting/exposition_formats/>, and the naming
//! rules, <https://prometheus.io/docs/practices/naming/>.
//!
//! Invariants:
//! - a metric keeps its name, labels and meaning for good: [`METRICS`] is all there is, and monitoring/ uses nothing else;
//! - sizes are bytes and times are seconds since 1970; what is not known has no sample, which is not a zero;
//! - a page is the same for the same facts, and the samples of a metric stand together.

use crate::stats::{Counters, SetupStats};
use crate::units::Sectors;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A metric.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// `gauge`, `counter` or `histogram`.
    pub kind: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $kind:literal $name:literal $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, help: $help, kind: $kind };
        )*
        /// All metrics, in the order of the page.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO "gauge" "dm_remap_build_info" "The program that wrote this; always 1.";
    SETUPS "gauge" "dm_remap_setups" "Setups that this page tells of.";
    SCRAPE_ERROR "gauge" "dm_remap_scrape_error" "1 when the setup could not be looked at, 0 when it could.";
    SETUP_INFO "gauge" "dm_remap_setup_info" "The setup and its devices; always 1.";
    SETUP_STATE "gauge" "dm_remap_setup_state" "1 for the state that the setup is in, 0 for the others.";
    SETUP_TROUBLE "gauge" "dm_remap_setup_trouble" "1 when this is the matter with the setup (codes: dm-remap(7)), 0 when it is not.";
    SETUP_SIZE "gauge" "dm_remap_setup_size_bytes" "Size of the setup.";
    SETUP_REMAPPED "gauge" "dm_remap_setup_remapped_bytes" "What lives on spares.";
    SETUP_EXTENTS "gauge" "dm_remap_setup_extents" "Runs of sectors that live on spares.";
    SETUP_HELD "gauge" "dm_remap_setup_held_bytes" "What could not be read when it was moved, and answers EIO until it is written.";
    SETUP_LOST "gauge" "dm_remap_setup_lost_bytes" "Data that is gone, held or not, and was not acknowledged.";
    SETUP_GENERATION "gauge" "dm_remap_setup_generation" "Generation of the metadata; it grows with each change.";
    ROOM "gauge" "dm_remap_setup_room_bytes" "Room for further extents on all spares.";
    ROOM_LONGEST "gauge" "dm_remap_setup_room_longest_run_bytes" "The longest run of free space on a spare.";
    ROOM_EXHAUSTED "gauge" "dm_remap_setup_room_exhausted_timestamp_seconds" "When no room is left at the present rate; absent when nothing grows.";
    SCAN_START "gauge" "dm_remap_setup_scan_start_timestamp_seconds" "When the last scan began.";
    SCAN_END "gauge" "dm_remap_setup_scan_end_timestamp_seconds" "When the last scan ended; absent while it is not through.";
    SCAN_PROGRESS "gauge" "dm_remap_setup_scan_progress_ratio" "How far the last scan is, from 0 to 1.";
    SCAN_BAD "gauge" "dm_remap_setup_scan_bad_bytes" "What the last scan could not read.";
    SCAN_TROUBLE "gauge" "dm_remap_setup_scan_trouble" "1 when the last scan was ended by trouble, 0 when not.";
    SETUP_READS "counter" "dm_remap_setup_reads_total" "Reads of the setup, while they are counted: see 'stats' in dm-remap(8).";
    SETUP_READ_BYTES "counter" "dm_remap_setup_read_bytes_total" "What they read.";
    SETUP_WRITES "counter" "dm_remap_setup_writes_total" "Writes to the setup, while they are counted.";
    SETUP_WRITTEN_BYTES "counter" "dm_remap_setup_written_bytes_total" "What they wrote.";
    SETUP_IN_FLIGHT "gauge" "dm_remap_setup_requests_in_flight" "Requests to the setup that have begun and not ended.";
    SETUP_REQUEST_SECONDS "histogram" "dm_remap_setup_request_seconds" "How long reads and writes of the setup took.";
    DISK_SCORE "gauge" "dm_remap_disk_health_score" "How the disk was judged to be doing when it was last asked, from 0 to 100: see dm-remap-health(8).";
    DISK_RISK "gauge" "dm_remap_disk_failure_probability" "How likely the disk is to fail within 30 days, 0 to 1; only for hard disks on ATA: see dm-remap-health(8).";
    DISK_ASKED "gauge" "dm_remap_disk_health_timestamp_seconds" "When the disk was last asked.";
    SPARE_INFO "gauge" "dm_remap_spare_info" "A spare and its device; always 1.";
    SPARE_STATE "gauge" "dm_remap_spare_state" "1 for the state that the spare is in, 0 for the others.";
    SPARE_USED "gauge" "dm_remap_spare_used_bytes" "What lives on the spare.";
    SPARE_FREE "gauge" "dm_remap_spare_free_bytes" "Room for further extents on the spare.";
    SPARE_BAD "gauge" "dm_remap_spare_bad_bytes" "Bad places of the spare, which are not used.";
    SPARE_COPIES "gauge" "dm_remap_spare_copies_current" "Copies of the metadata on the spare that are whole and current; 5 when all is well.";
    SPARE_GENERATION "gauge" "dm_remap_spare_generation" "Generation of the newest metadata on the spare.";
    SPARE_READS "counter" "dm_remap_spare_reads_total" "Reads of the setup that touched what lives on the spare, while they are counted.";
    SPARE_READ_BYTES "counter" "dm_remap_spare_read_bytes_total" "What they read.";
    SPARE_WRITES "counter" "dm_remap_spare_writes_total" "Writes to the setup that touched what lives on the spare, while they are counted.";
    SPARE_WRITTEN_BYTES "counter" "dm_remap_spare_written_bytes_total" "What they wrote.";
    SPARE_SECONDS "counter" "dm_remap_spare_request_seconds_total" "How long these reads and writes took, all added up.";
}

/// The states that a setup can be in, as `status --json` names them.
pub const SETUP_STATES: [&str; 7] =
    ["healthy", "attention", "degraded", "suspended", "unsettled", "unreadable", "silent"];

/// The states that a spare can be in.
pub const SPARE_STATES: [&str; 7] = ["online", "draining", "failed", "stale", "unreadable", "missing", "removed"];

/// What was learnt of a setup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// How it is doing.
    Seen(Box<Setup>),
    /// It did not answer in time.
    Silent(String),
    /// It could not be looked at.
    Failed(String),
}

/// How a setup is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its device.
    pub device: String,
    /// Its main.
    pub main: String,
    /// One of [`SETUP_STATES`].
    pub state: String,
    /// Codes of what is the matter.
    pub troubles: Vec<String>,
    /// Its size.
    pub size: Sectors,
    /// What the metadata say; nothing when they cannot be read.
    pub contents: Option<Contents>,
    /// The last scan.
    pub scan: Option<Scan>,
    /// Its spares.
    pub spares: Vec<Spare>,
    /// What was counted of its requests.
    pub stats: SetupStats,
    /// Its disks, as far as anything is on record of them.
    pub disks: Vec<Disk>,
}

/// How a disk is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What it is to the setup: `main`, or `spare` and its number.
    pub role: String,
    /// From 0 to 100.
    pub score: u8,
    /// When it was asked, seconds since 1970.
    pub recorded: u64,
    /// How likely it is to fail within 30 days, in parts of a billion; nothing where that is not known.
    pub risk: Option<u64>,
}

/// What the metadata say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// What lives on spares.
    pub remapped: Sectors,
    /// In how many runs.
    pub extents: u64,
    /// What answers EIO until it is written.
    pub held: Sectors,
    /// What is on the list of losses, `held` included.
    pub lost: Sectors,
    /// Generation of the metadata.
    pub generation: u64,
    /// Room for further extents.
    pub room: Sectors,
    /// The longest run of free space.
    pub longest_run: Sectors,
    /// When no room is left at the present rate, seconds since 1970.
    pub exhausted_at: Option<u64>,
}

/// The last scan; times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// When it began.
    pub started: u64,
    /// When it ended.
    pub finished: Option<u64>,
    /// How far it is.
    pub percent: u64,
    /// What it could not read.
    pub bad: Sectors,
    /// Whether trouble ended it.
    pub trouble: bool,
}

/// A spare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// Its number.
    pub index: u8,
    /// Its device, where it is there.
    pub device: Option<String>,
    /// Its UUID; empty when it cannot be read.
    pub uuid: String,
    /// One of [`SPARE_STATES`].
    pub state: String,
    /// Whether the numbers below are known.
    pub known: bool,
    /// What lives on it.
    pub used: Sectors,
    /// Room for more.
    pub free: Sectors,
    /// Bad places.
    pub bad: Sectors,
    /// Copies of the metadata that are current.
    pub copies_current: u64,
    /// Generation of the newest.
    pub generation: Option<u64>,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Whole(u64),
    Percent(u64),
    Nanoseconds(u64),
}

#[derive(Debug)]
struct Sample {
    metric: &'static str,
    /// What follows the name: a histogram has samples of three kinds.
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: Value,
}

/// The samples of a page.
#[derive(Debug, Default)]
struct Page(Vec<Sample>);

type Labels<'a> = [(&'static str, &'a str)];

impl Page {
    fn add(&mut self, metric: &Metric, labels: &Labels<'_>, value: Value) {
        self.add_part(metric, "", labels, value);
    }

    fn add_part(&mut self, metric: &Metric, suffix: &'static str, labels: &Labels<'_>, value: Value) {
        let labels = labels.iter().map(|(name, text)| (*name, (*text).to_string())).collect();
        self.0.push(Sample { metric: metric.name, suffix, labels, value });
    }

    fn whole(&mut self, metric: &Metric, labels: &Labels<'_>, value: impl Into<Option<u64>>) {
        if let Some(value) = value.into() {
            self.add(metric, labels, Value::Whole(value));
        }
    }

    fn bytes(&mut self, metric: &Metric, labels: &Labels<'_>, sectors: Sectors) {
        self.whole(metric, labels, sectors.to_bytes().map(|bytes| bytes.0));
    }

    /// One sample for each of `all`, 1 for those that hold.
    fn one_of<'a>(
        &mut self,
        metric: &Metric,
        labels: &Labels<'_>,
        label: &'static str,
        all: impl IntoIterator<Item = &'a str>,
        holds: impl Fn(&str) -> bool,
    ) {
        for word in all {
            let mut labels = labels.to_vec();
            labels.push((label, word));
            self.whole(metric, &labels, u64::from(holds(word)));
        }
    }

    fn reading(&mut self, reading: &Reading, codes: &[&str]) {
        let (name, failed) = match reading {
            Reading::Seen(setup) => (&setup.name, 0),
            Reading::Silent(name) | Reading::Failed(name) => (name, 1),
        };
        let labels = [("setup", name.as_str())];
        self.whole(&SCRAPE_ERROR, &labels, failed);
        match reading {
            Reading::Seen(setup) => self.setup(setup, codes),
            Reading::Silent(_) => self.one_of(&SETUP_STATE, &labels, "state", SETUP_STATES, |state| state == "silent"),
            Reading::Failed(_) => {}
        }
    }

    fn setup(&mut self, setup: &Setup, codes: &[&str]) {
        let labels = [("setup", setup.name.as_str())];
        let devices = [labels[0], ("uuid", &setup.uuid), ("device", &setup.device), ("main", &setup.main)];
        self.whole(&SETUP_INFO, &devices, 1);
        self.one_of(&SETUP_STATE, &labels, "state", SETUP_STATES, |state| state == setup.state);
        let is_there = |code: &str| setup.troubles.iter().any(|trouble| trouble == code);
        self.one_of(&SETUP_TROUBLE, &labels, "code", codes.iter().copied(), is_there);
        self.bytes(&SETUP_SIZE, &labels, setup.size);
        if let Some(contents) = &setup.contents {
            self.bytes(&SETUP_REMAPPED, &labels, contents.remapped);
            self.whole(&SETUP_EXTENTS, &labels, contents.extents);
            self.bytes(&SETUP_HELD, &labels, contents.held);
            self.bytes(&SETUP_LOST, &labels, contents.lost);
            self.whole(&SETUP_GENERATION, &labels, contents.generation);
            self.bytes(&ROOM, &labels, contents.room);
            self.bytes(&ROOM_LONGEST, &labels, contents.longest_run);
            self.whole(&ROOM_EXHAUSTED, &labels, contents.exhausted_at);
        }
        if let Some(scan) = &setup.scan {
            self.whole(&SCAN_START, &labels, scan.started);
            self.whole(&SCAN_END, &labels, scan.finished);
            self.add(&SCAN_PROGRESS, &labels, Value::Percent(scan.percent));
            self.bytes(&SCAN_BAD, &labels, scan.bad);
            self.whole(&SCAN_TROUBLE, &labels, u64::from(scan.trouble));
        }
        if let Some(counted) = &setup.stats.setup {
            self.requests(&labels, &counted.counters);
        }
        for disk in &setup.disks {
            let labels = [labels[0], ("disk", disk.role.as_str())];
            self.whole(&DISK_SCORE, &labels, u64::from(disk.score));
            if let Some(risk) = disk.risk {
                // In billionths, as nanoseconds are.
                self.add(&DISK_RISK, &labels, Value::Nanoseconds(risk));
            }
            self.whole(&DISK_ASKED, &labels, disk.recorded);
        }
        setup.spares.iter().for_each(|spare| self.spare(&setup.name, spare));
        for spare in &setup.stats.spares {
            let number = spare.index.to_string();
            if let Some(counted) = &spare.counted {
                self.spare_requests(&[labels[0], ("spare", &number)], &counted.counters);
            }
        }
    }

    fn requests(&mut self, labels: &Labels<'_>, counters: &Counters) {
        self.whole(&SETUP_READS, labels, counters.reads);
        self.bytes(&SETUP_READ_BYTES, labels, counters.read_sectors);
        self.whole(&SETUP_WRITES, labels, counters.writes);
        self.bytes(&SETUP_WRITTEN_BYTES, labels, counters.written_sectors);
        self.whole(&SETUP_IN_FLIGHT, labels, counters.in_flight);
        let histogram = &counters.histogram;
        let mut below = 0u64;
        for (bound, count) in histogram.bounds_ns.iter().zip(&histogram.counts) {
            below = below.saturating_add(*count);
            if is_exported(*bound) {
                let bound = seconds(*bound);
                let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
                self.add_part(&SETUP_REQUEST_SECONDS, "_bucket", &labels, Value::Whole(below));
            }
        }
        let all: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.add_part(&SETUP_REQUEST_SECONDS, "_bucket", &all, Value::Whole(histogram.total()));
        let sum = counters.read_ns.saturating_add(counters.write_ns);
        self.add_part(&SETUP_REQUEST_SECONDS, "_sum", labels, Value::Nanoseconds(sum));
        self.add_part(&SETUP_REQUEST_SECONDS, "_count", labels, Value::Whole(histogram.total()));
    }

    fn spare_requests(&mut self, labels: &Labels<'_>, counters: &Counters) {
        self.whole(&SPARE_READS, labels, counters.reads);
        self.bytes(&SPARE_READ_BYTES, labels, counters.read_sectors);
        self.whole(&SPARE_WRITES, labels, counters.writes);
        self.bytes(&SPARE_WRITTEN_BYTES, labels, counters.written_sectors);
        self.add(&SPARE_SECONDS, labels, Value::Nanoseconds(counters.read_ns.saturating_add(counters.write_ns)));
    }

    fn spare(&mut self, setup: &str, spare: &Spare) {
        let number = spare.index.to_string();
        let labels = [("setup", setup), ("spare", number.as_str())];
        let device = spare.device.as_deref().unwrap_or_default();
        self.whole(&SPARE_INFO, &[labels[0], labels[1], ("device", device), ("uuid", &spare.uuid)], 1);
        self.one_of(&SPARE_STATE, &labels, "state", SPARE_STATES, |state| state == spare.state);
        if spare.known {
            self.bytes(&SPARE_USED, &labels, spare.used);
            self.bytes(&SPARE_FREE, &labels, spare.free);
            self.bytes(&SPARE_BAD, &labels, spare.bad);
            self.whole(&SPARE_COPIES, &labels, spare.copies_current);
            self.whole(&SPARE_GENERATION, &labels, spare.generation);
        }
    }
}

/// The page of these setups. `codes` are all that there can be the matter with one.
pub fn render(version: &str, readings: &[Reading], codes: &[&str]) -> String {
    let mut page = Page::default();
    page.whole(&BUILD_INFO, &[("version", version)], 1);
    page.whole(&SETUPS, &[], u64::try_from(readings.len()).ok());
    readings.iter().for_each(|reading| page.reading(reading, codes));
    let mut out = String::new();
    for metric in METRICS {
        let mut samples = page.0.iter().filter(|sample| sample.metric == metric.name).peekable();
        if samples.peek().is_some() {
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} {2}", metric.name, metric.help, metric.kind);
            samples.for_each(|sample| write_sample(&mut out, sample));
        }
    }
    out
}

fn write_sample(out: &mut String, sample: &Sample) {
    out.push_str(sample.metric);
    out.push_str(sample.suffix);
    if !sample.labels.is_empty() {
        let labels: Vec<String> =
            sample.labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escaped(text))).collect();
        let _ = write!(out, "{{{}}}", labels.join(","));
    }
    let _ = match sample.value {
        Value::Whole(value) => writeln!(out, " {value}"),
        Value::Percent(value) => writeln!(out, " {}.{:02}", value / 100, value % 100),
        Value::Nanoseconds(value) => writeln!(out, " {}", seconds(value)),
    };
}

/// Seconds, exact and no longer than needed.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Whether a bin's bound is on the page: 1, 2 and 5 of each power of ten. All of them would be many series for little.
fn is_exported(bound: u64) -> bool {
    let text = bound.to_string();
    matches!(text.trim_end_matches('0'), "1" | "2" | "5")
}

/// A label's value as the format wants it: `\`, `"` and the end of a line have a backslash before them.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Counted, Histogram, SpareStats};

    fn setup() -> Setup {
        let spare = |index, state: &str, known: bool| Spare {
            index,
            device: known.then(|| "/dev/sdb".to_string()),
            state: state.into(),
            known,
            free: Sectors(100),
            copies_current: 5,
            generation: Some(7),
            ..Spare::default()
        };
        Setup {
            name: "data".into(),
            main: "/dev/disk \"one\"\\\n".into(),
            state: "degraded".into(),
            troubles: vec!["DMR-05".into()],
            size: Sectors(2048),
            contents: Some(Contents { remapped: Sectors(16), extents: 2, generation: 7, ..Contents::default() }),
            scan: Some(Scan { started: 1000, percent: 42, ..Scan::default() }),
            spares: vec![spare(0, "online", true), spare(1, "missing", false)],
            ..Setup::default()
        }
    }

    #[test]
    fn requests_are_counters_and_a_histogram() {
        let bounds_ns = vec![10_000, 15_000, 1_500_000_000, 2_000_000_000];
        let histogram = Histogram { bounds_ns, counts: vec![1, 2, 3, 4, 5] };
        let counters = Counters { reads: 10, read_ns: 1_500_000_000, write_ns: 1, histogram, ..Counters::default() };
        let counted = Some(Counted { since: 1, counters });
        let spare = |index, counted| SpareStats { index, counted, ..SpareStats::default() };
        let stats = SetupStats { setup: counted.clone(), spares: vec![spare(0, counted), spare(1, None)] };
        let page = render("1.2", &[Reading::Seen(Box::new(Setup { stats, ..setup() }))], &[]);
        let wanted = "# TYPE dm_remap_setup_request_seconds histogram\n\
            dm_remap_setup_request_seconds_bucket{setup=\"data\",le=\"0.00001\"} 1\n\
            dm_remap_setup_request_seconds_bucket{setup=\"data\",le=\"2\"} 10\n\
            dm_remap_setup_request_seconds_bucket{setup=\"data\",le=\"+Inf\"} 15\n\
            dm_remap_setup_request_seconds_sum{setup=\"data\"} 1.500000001\n\
            dm_remap_setup_request_seconds_count{setup=\"data\"} 15\n";
        assert!(page.contains(wanted), "{page}");
        assert!(
            page.contains("# TYPE dm_remap_setup_reads_total counter\ndm_remap_setup_reads_total{setup=\"data\"} 10\n")
        );
        assert!(page.contains("dm_remap_spare_request_seconds_total{setup=\"data\",spare=\"0\"} 1.500000001\n"));
        assert!(!page.contains("dm_remap_spare_reads_total{setup=\"data\",spare=\"1\"}"), "it is not counted");
        assert_eq!(
            [0, 1, 10_000, 1_000_000_000, 70_000_000_000].map(seconds),
            ["0", "0.000000001", "0.00001", "1", "70"]
        );
    }

    #[test]
    fn a_page_says_what_is_known_and_nothing_else() {
        let readings =
            [Reading::Seen(Box::new(setup())), Reading::Silent("slow".into()), Reading::Failed("gone".into())];
        let page = render("1.2", &readings, &["DMR-04", "DMR-05"]);
        for line in [
            "# TYPE dm_remap_setup_state gauge",
            "dm_remap_build_info{version=\"1.2\"} 1",
            "dm_remap_setups 3",
            "dm_remap_scrape_error{setup=\"data\"} 0",
            "dm_remap_scrape_error{setup=\"slow\"} 1",
            "dm_remap_scrape_error{setup=\"gone\"} 1",
            "dm_remap_setup_state{setup=\"data\",state=\"degraded\"} 1",
            "dm_remap_setup_state{setup=\"data\",state=\"healthy\"} 0",
            "dm_remap_setup_state{setup=\"slow\",state=\"silent\"} 1",
            "dm_remap_setup_trouble{setup=\"data\",code=\"DMR-05\"} 1",
            "dm_remap_setup_trouble{setup=\"data\",code=\"DMR-04\"} 0",
            "dm_remap_setup_remapped_bytes{setup=\"data\"} 8192",
            "dm_remap_setup_scan_progress_ratio{setup=\"data\"} 0.42",
            "dm_remap_spare_free_bytes{setup=\"data\",spare=\"0\"} 51200",
            "dm_remap_spare_state{setup=\"data\",spare=\"1\",state=\"missing\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "no '{line}' in\n{page}");
        }
        assert!(page.contains(r#"main="/dev/disk \"one\"\\\n"} 1"#), "{page}");
        for absent in ["scan_end", "exhausted", "state{setup=\"gone\"", "free_bytes{setup=\"data\",spare=\"1\""] {
            assert!(!page.contains(absent), "'{absent}' in\n{page}");
        }
        assert_eq!(page, render("1.2", &readings, &["DMR-04", "DMR-05"]));
    }

    #[test]
    fn the_samples_of_a_metric_stand_together_below_its_heading() {
        let page = render("1", &[Reading::Seen(Box::new(setup())), Reading::Seen(Box::new(setup()))], &[]);
        let mut seen = Vec::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                seen.push(rest.split(' ').next().unwrap());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(seen.last(), Some(&name));
            }
        }
        let mut unique = seen.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), seen.len());
    }
}
