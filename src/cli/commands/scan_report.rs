//! What a scan has found and done, for people and for programs.

use super::Output;
use super::scan::Stopped;
use crate::cli::report::{count, loss_words, move_rows, sizes};
use crate::map::Loss;
use crate::plan::Move;
use crate::scan::act::Acted;
use crate::scan::pass::{Pass, Place};
use crate::scan::survey::Found;
use crate::units::{Bytes, Range, Sectors};
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

    fn lost(&self) -> Vec<Loss> {
        self.acted.iter().flat_map(|acted| acted.outcome.lost.iter().copied()).collect()
    }

    /// Whether a person has something to do: data was lost, or something bad was left where it is.
    pub(super) fn needs_attention(&self) -> bool {
        let left = self.pass.order.report_only && self.found().iter().any(|(_, found)| !found.is_clean());
        left || self.pass.result.lost > Sectors::ZERO || !self.pass.result.not_moved.is_empty()
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
            "seconds": self.pass.seconds,
            "areas": areas,
            "moves": move_rows(&self.moved()),
            "lost": self.lost(),
            "not_moved": not_moved,
            "bad_slots": bad_slots,
            "sectors_moved": self.pass.result.moved,
            "sectors_lost": self.pass.result.lost,
        }));
    }

    fn text(&self, out: &mut Output) {
        let name = self.name();
        let (done, total) = self.pass.standing();
        let time = humantime::format_duration(Duration::from_secs(self.pass.seconds.max(1)));
        let speed = Bytes(done.to_bytes().unwrap_or(Bytes(0)).0 / self.pass.seconds.max(1));
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
            let sectors = Sectors(moved.iter().map(|m| m.range.len().0).fold(0, u64::saturating_add));
            out.line(format!("  moved {} in {}", sizes(sectors), count(moved.len(), "extent")));
        }
        bounded(out, &moved, |step| format!("    {step}"));
        let recovered = self.acted.iter().map(|acted| acted.outcome.recovered.0).fold(0, u64::saturating_add);
        if recovered > 0 {
            out.line(format!("  {} read only after a retry", sizes(Sectors(recovered))));
        }
        bounded(out, &self.lost(), |loss| format!("  LOST {}", loss_words(loss)));
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
        bounded(out, &runs, |range| format!("    BAD {range}"));
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
