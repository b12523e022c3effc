//! What a scan has found and done, for people and for programs.

use super::Output;
use super::moves::{block_row, block_words};
use super::scanner::Stopped;
use crate::cli::nagios::{Answer, Scanned};
use crate::cli::report::{LossRow, count, loss_rows, move_rows, sizes};
use crate::engine::salvage::BlockRecord;
use crate::files::Owned;
use crate::map::Loss;
use crate::plan::Move;
use crate::plan::moves::sectors_of;
use crate::scan::act::Acted;
use crate::scan::pass::{Pass, Place};
use crate::scan::survey::Found;
use crate::units::{Bytes, Range, Sectors};
use std::fmt::Write as _;
use std::time::Duration;

/// The most lines of one kind; a disk with thousands of bad sectors must not flood the terminal.
const MOST: usize = 50;

/// What was scanned, as a person calls it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// A setup.
    Setup(&'a str),
    /// A device.
    Device(&'a str),
}

/// A scan that has ended.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) shown: Subject<'a>,
    pub(super) pass: &'a Pass,
    pub(super) acted: &'a [Acted],
    pub(super) stopped: Option<Stopped>,
    /// What the lost sectors, or on a device the bad ones, belong to.
    pub(super) owners: &'a [Owned],
}

impl Report<'_> {
    fn name(&self) -> &str {
        match self.shown {
            Subject::Setup(name) | Subject::Device(name) => name,
        }
    }

    fn found(&self) -> Vec<(Place, Found)> {
        self.pass.areas.iter().map(|area| (area.place, area.found_so_far())).collect()
    }

    fn moved(&self) -> Vec<Move> {
        self.acted.iter().flat_map(|acted| acted.outcome.moved.iter().copied()).collect()
    }

    fn lost(&self) -> Vec<LossRow> {
        let lost: Vec<Loss> = self.acted.iter().flat_map(|acted| acted.outcome.lost.iter().copied()).collect();
        loss_rows(&lost, self.owners)
    }

    fn blocks(&self) -> Vec<BlockRecord> {
        self.acted.iter().flat_map(|acted| acted.outcome.blocks.iter().cloned()).collect()
    }

    /// Whether a person has something to do: data was lost, or something bad was left where it is.
    pub(super) fn needs_attention(&self) -> bool {
        let left = self.pass.order.report_only && self.found().iter().any(|(_, found)| !found.is_clean());
        left || self.unmoved() > Sectors::ZERO
            || self.pass.areas.iter().any(|area| area.absent || !area.unread.is_empty())
            || self.pass.result.lost > Sectors::ZERO
            || !self.pass.result.not_moved.is_empty()
    }

    /// Bad sectors of the zone at hand, which was not finished: they are moved when the scan goes on.
    pub(super) fn unmoved(&self) -> Sectors {
        if self.pass.order.report_only {
            return Sectors::ZERO;
        }
        let at_hand = self.pass.areas.iter().filter_map(|area| area.survey.as_ref());
        Sectors(at_hand.map(|survey| survey.found().bad.sectors().0).fold(0, u64::saturating_add))
    }

    /// The same for Nagios; `trouble` is what ended it.
    pub(super) fn answer(&self, trouble: Option<&str>) -> Answer {
        let (read, _) = self.pass.standing();
        let sum = |part: &dyn Fn(&Found) -> u64| {
            Sectors(self.found().iter().map(|(_, found)| part(found)).fold(0, u64::saturating_add))
        };
        let weak = |found: &Found| found.weak.iter().map(|weak| weak.range.len().0).fold(0, u64::saturating_add);
        let scanned = Scanned {
            read,
            bad: sum(&|found| found.bad.sectors().0),
            weak: sum(&weak),
            moved: self.pass.result.moved,
            lost: self.pass.result.lost,
            left: self.needs_attention() && self.pass.result.lost == Sectors::ZERO,
            trouble,
            interrupted: self.stopped == Some(Stopped::Interrupted),
        };
        Answer::scan(self.name(), &scanned)
    }

    pub(super) fn render(&self, out: &mut Output) {
        if out.is_json() { self.json(out) } else { self.text(out) }
    }

    fn json(&self, out: &mut Output) {
        let (done, total) = self.pass.standing();
        let areas: Vec<_> = self
            .found()
            .into_iter()
            .map(|(place, found)| {
                let spare = match place {
                    Place::Main => None,
                    Place::Spare(spare) => Some(spare),
                };
                serde_json::json!({
                    "spare": spare,
                    "bad": found.bad,
                    "weak": found.weak,
                    "recovered": found.recovered,
                    "transient_sectors": found.transient,
                    "failed_reads": found.failed_reads,
                    "unread": self.pass.areas.iter().find(|area| area.place == place).map(|area| &area.unread),
                    "absent": self.pass.areas.iter().any(|area| area.place == place && area.absent),
                })
            })
            .collect();
        let not_moved: Vec<_> = self
            .pass
            .result
            .not_moved
            .iter()
            .map(|(range, why)| serde_json::json!({ "range": range, "why": why }))
            .collect();
        let bad_slots: Vec<_> = self
            .acted
            .iter()
            .flat_map(|acted| &acted.outcome.bad_slots)
            .map(|(spare, range)| serde_json::json!({ "spare": spare, "range": range }))
            .collect();
        out.json(&serde_json::json!({
            "subject": match self.shown { Subject::Setup(_) => "setup", Subject::Device(_) => "device" },
            "name": self.name(),
            "finished": self.pass.finished.is_some(),
            "stopped": self.stopped.map(|stopped| match stopped {
                Stopped::Interrupted => "interrupted",
                Stopped::Budget => "time budget",
            }),
            "trouble": self.pass.result.trouble,
            "report_only": self.pass.order.report_only,
            "sectors_done": done,
            "sectors_total": total,
            "milliseconds": self.pass.milliseconds,
            "areas": areas,
            "moves": move_rows(&self.moved()),
            "lost": self.lost(),
            "blocks": self.blocks().iter().map(block_row).collect::<Vec<_>>(),
            "owners": self.owners,
            "not_moved": not_moved,
            "bad_slots": bad_slots,
            "sectors_moved": self.pass.result.moved,
            "sectors_lost": self.pass.result.lost,
        }));
    }

    fn text(&self, out: &mut Output) {
        let name = self.name();
        let (done, total) = self.pass.standing();
        let spent = self.pass.milliseconds.max(1);
        let time = match spent {
            0..60_000 => format!("{}.{} s", spent / 1000, spent % 1000 / 100),
            _ => humantime::format_duration(Duration::from_secs(spent / 1000)).to_string(),
        };
        let bytes = u128::from(done.to_bytes().unwrap_or(Bytes(0)).0);
        let speed = Bytes(u64::try_from(bytes * 1000 / u128::from(spent)).unwrap_or(u64::MAX));
        let found = self.found();
        if self.pass.finished.is_some() {
            out.line(format!("{name}: read {} in {time} ({speed}/s)", sizes(total)));
        } else {
            let percent = self.pass.percent();
            let why = match self.stopped {
                Some(Stopped::Interrupted) => "interrupted",
                Some(Stopped::Budget) => "the time is up",
                None => "stopped by trouble",
            };
            out.line(format!("{name}: read {} of {}, {percent} %: {why}; --resume goes on", sizes(done), sizes(total)));
        }
        if found.iter().all(|(_, found)| found.is_clean()) {
            out.line("  nothing wrong was found");
        }
        for (place, found) in &found {
            self.found_text(*place, found, out);
        }
        let moved = self.moved();
        if !moved.is_empty() {
            let sectors = sectors_of(&moved);
            out.line(format!("  moved {} in {}", sizes(sectors), count(moved.len(), "extent")));
        }
        bounded(out, &moved, |step| format!("    {step}"));
        let recovered = self.acted.iter().map(|acted| acted.outcome.recovered.0).fold(0, u64::saturating_add);
        if recovered > 0 {
            out.line(format!("  {} read only after a retry", sizes(Sectors(recovered))));
        }
        bounded(out, &self.blocks(), |record| format!("    {}", block_words(record)));
        for (number, line) in self.lost().iter().take(MOST).flat_map(|row| row.lines().into_iter().enumerate()) {
            out.line(format!("  {}{line}", if number == 0 { "LOST " } else { "     " }));
        }
        if self.lost().len() > MOST {
            out.line(format!("  … and {} more losses; see --json", self.lost().len() - MOST));
        }
        if self.unmoved() > Sectors::ZERO {
            out.line(format!("  {} found bad and not moved yet: --resume does it", sizes(self.unmoved())));
        }
        for area in &self.pass.areas {
            if let (true, Place::Spare(spare)) = (area.absent, area.place) {
                out.line(format!("  spare {spare} is not there: its slots were not read"));
            }
            for range in area.unread.iter().take(MOST) {
                out.line(format!("  NOT READ {range}: trouble with the device there, twice"));
            }
        }
        bounded(out, &self.pass.result.not_moved, |(range, why)| format!("  NOT MOVED {range}: {why}"));
    }

    fn found_text(&self, place: Place, found: &Found, out: &mut Output) {
        let on = match place {
            Place::Main => String::new(),
            Place::Spare(spare) => format!(" on spare {spare}"),
        };
        let runs: Vec<Range> = found.bad.iter().collect();
        if !runs.is_empty() {
            let bad = sizes(found.bad.sectors());
            out.line(format!("  {bad} bad{on}, in {}; {} failed", count(runs.len(), "run"), reads(found.failed_reads)));
        }
        bounded(out, &runs, |range| {
            let inside = |one: &&Owned| matches!(self.shown, Subject::Device(_)) && one.range.overlaps(*range);
            let owners: Vec<String> = self.owners.iter().filter(inside).take(3).map(ToString::to_string).collect();
            let of = if owners.is_empty() { String::new() } else { format!("  in {}", owners.join(", ")) };
            format!("    BAD {range}{of}")
        });
        bounded(out, &found.recovered, |recovered| {
            format!("    FAILED{on} {}, and has read on retry {}", recovered.range, recovered.retry)
        });
        bounded(out, &found.weak, |weak| format!("    WEAK{on} {}: {} ms to read", weak.range, weak.milliseconds));
        if found.transient > Sectors::ZERO {
            out.line(format!("  {} failed once{on} and then read: not taken for bad", sizes(found.transient)));
        }
    }
}

fn reads(number: u64) -> String {
    if number == 1 { "1 read".into() } else { format!("{number} reads") }
}

fn bounded<T>(out: &mut Output, rows: &[T], words: impl Fn(&T) -> String) {
    rows.iter().take(MOST).for_each(|row| out.line(words(row)));
    if rows.len() > MOST {
        out.line(format!("    … and {} more; see --json", rows.len() - MOST));
    }
}

/// How long the rest of a pass takes to read, if it goes on as it has.
fn left(pass: &Pass) -> String {
    let (done, total) = pass.standing();
    let rest = u128::from(total.0.saturating_sub(done.0));
    let milliseconds = u128::from(pass.milliseconds).saturating_mul(rest).checked_div(u128::from(done.0));
    match milliseconds.map(|time| u64::try_from(time / 1000).unwrap_or(u64::MAX)) {
        Some(seconds) if seconds > 0 => {
            format!("; about {} of reading left", humantime::format_duration(Duration::from_secs(seconds)))
        }
        _ => String::new(),
    }
}

/// How a pass went, in one line: for `status` and the system's log.
pub(super) fn summary(pass: &Pass) -> String {
    let when = |seconds: u64| {
        let time = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let mut text = String::new();
        if let Some(time) = time {
            // A year with five digits, from a damaged file, has no such form.
            let _ = write!(text, "{}", humantime::format_rfc3339_seconds(time));
        }
        text
    };
    let bad = Sectors(pass.areas.iter().map(|area| area.found_so_far().bad.sectors().0).fold(0, u64::saturating_add));
    let weak = pass.areas.iter().map(|area| area.found_so_far().weak.len()).fold(0, usize::saturating_add);
    let mut found = match bad.0 {
        0 => "nothing bad found".to_string(),
        _ => format!("{} bad", sizes(bad)),
    };
    if weak > 0 {
        found.push_str(&format!(", {} slow", count(weak, "place")));
    }
    if pass.result.moved > Sectors::ZERO {
        found.push_str(&format!(", {} moved", sizes(pass.result.moved)));
    }
    if pass.result.lost > Sectors::ZERO {
        found.push_str(&format!(", {} lost", sizes(pass.result.lost)));
    }
    if !pass.result.not_moved.is_empty() {
        found.push_str(&format!(", {} not moved", count(pass.result.not_moved.len(), "range")));
    }
    match (pass.finished, &pass.result.trouble) {
        (Some(time), _) => format!("finished {}: {found}", when(time)),
        (None, Some(trouble)) => format!("stopped at {} %, {}: {trouble}", pass.percent(), when(pass.updated)),
        (None, None) => format!("at {} %, {}: {found} so far{}", pass.percent(), when(pass.updated), left(pass)),
    }
}
