//! What the scans of setups and devices have in common: when to stop, how fast to go, what was saved.

use super::Context;
use crate::block::buffer::AlignedBuffer;
use crate::block::verify::{Verify as _, VerifyDisk};
use crate::block::{Disk, DiskError, FaultClass};
use crate::cli::args::{Method, Scan};
use crate::cli::choices::ScanChoices;
use crate::cli::context::Usage;
use crate::cli::signals::Signals;
use crate::config::Rate;
use crate::engine::{EngineError, Observer, now};
use crate::scan::checkpoint;
use crate::scan::conduct::{Pace, Progress};
use crate::scan::pace::Manners;
use crate::scan::pass::{Order, Pass, Place, Subject};
use crate::scan::run::{Flow, Verify};
use crate::units::{DevNo, Range, RangeSet, Sectors};
use anyhow::Result;
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The slowest that a scan is spread over its interval: 1 MiB a second.
const SLOWEST: u64 = 1 << 20;

/// What stays the same over all zones of a scan.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    pub(super) context: &'a Context,
    pub(super) args: &'a Scan,
    pub(super) choices: &'a ScanChoices,
    signals: &'a RefCell<Signals>,
    deadline: Option<Instant>,
    /// Why it was told to stop.
    pub(super) stopped: Option<Stopped>,
    /// Whether somebody was told that VERIFY is not used.
    told: bool,
    directory: PathBuf,
    saving: bool,
}

/// Why a scan stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A signal.
    Interrupted,
    /// The time budget.
    Budget,
}

impl<'a> Scanner<'a> {
    /// A scanner that stops after `budget`.
    pub(super) fn new(
        context: &'a Context,
        args: &'a Scan,
        choices: &'a ScanChoices,
        signals: &'a RefCell<Signals>,
        budget: Option<Duration>,
    ) -> Scanner<'a> {
        let deadline = budget.and_then(|budget| Instant::now().checked_add(budget));
        let directory = context.state().join("scan");
        Scanner { context, args, choices, signals, deadline, stopped: None, told: false, directory, saving: true }
    }

    /// How fast to go.
    pub(super) fn pace(&self, pass: &Pass) -> Pace {
        let rate = match self.choices.rate {
            Some(Rate::Bytes(rate)) => Some(rate),
            Some(Rate::Max) => None,
            // A whole pass takes the interval, so that a run of a few minutes takes a few of its sectors.
            None if self.args.cron => Some(spread(pass.standing().1, self.interval(&pass.subject))),
            None => None,
        };
        let manners = match (self.choices.rate, self.choices.idle) {
            (Some(Rate::Max), false) => Manners::None,
            (_, true) => Manners::IdleOnly,
            _ => Manners::GiveWay,
        };
        Pace { rate, manners }
    }

    /// After what time a pass begins anew (with --cron).
    fn interval(&self, subject: &Subject) -> Duration {
        match (subject, self.choices.suspect_interval) {
            (Subject::Suspects(_), Some(interval)) => interval,
            _ => self.choices.interval,
        }
    }

    /// What was asked for. In a setup the moving makes its own retries.
    pub(super) fn order(&self, report_only: bool) -> Order {
        Order {
            ranges: (!self.args.ranges.is_empty()).then(|| self.args.ranges.iter().copied().collect()),
            full: self.args.full,
            report_only,
            slow_ms: self.choices.slow_ms,
            retries: if report_only { self.choices.retries } else { 0 },
        }
    }

    /// The pass to go on with, or a new one. `None` when none is due yet (with --cron).
    pub(super) fn pass(
        &self,
        subject: Subject,
        report_only: bool,
        begin: impl FnOnce() -> Pass,
    ) -> Result<Option<Pass>> {
        let (last, ended) = match checkpoint::load(&self.directory, &subject) {
            Ok(Some(pass)) if pass.finished.is_none() => (Some(pass), None),
            Ok(pass) => (None, pass),
            Err(error) if self.args.resume => {
                return Err(EngineError::system("the last scan cannot be gone on with", error).into());
            }
            Err(error) => {
                self.context.note(&format!("what is known of the last scan cannot be read: {error}"));
                (None, None)
            }
        };
        // A part is what was asked for where that are the suspect regions.
        let is_part = |pass: &Pass| pass.order.ranges.is_some() && !matches!(subject, Subject::Suspects(_));
        let usage = |text: String| -> Result<Option<Pass>> { Err(Usage(text).into()) };
        match last {
            // What was only reported was not moved, and would not be now.
            Some(pass) if self.args.cron && (pass.order.report_only || is_part(&pass)) => Ok(Some(begin())),
            Some(pass) if self.args.cron => Ok(Some(pass)),
            None if self.args.cron => {
                // A scan of a part, or one that changed nothing, is no substitute.
                let whole = ended.filter(|pass| !is_part(pass) && !pass.order.report_only);
                let next = |pass: Pass| pass.started.saturating_add(self.interval(&subject).as_secs());
                // A start in the future comes from a clock that was wrong.
                let due = whole.is_none_or(|pass| now() < pass.started || now() >= next(pass));
                Ok(due.then(begin))
            }
            Some(pass) if self.args.resume && pass.order.report_only && !report_only => usage(
                "--resume: that scan only reported what it found; add --report-only, or begin anew with --restart"
                    .into(),
            ),
            Some(pass) if self.args.resume => Ok(Some(pass)),
            None if self.args.resume => {
                usage("--resume: no scan was stopped before its end; leave --resume away to begin one".into())
            }
            Some(pass) if !self.args.restart => usage(format!(
                "a scan was stopped at {} %: go on with --resume, or begin anew with --restart",
                pass.percent()
            )),
            _ => Ok(Some(begin())),
        }
    }

    /// A way to ask the drive without getting the data. It must have been seen to tell the truth: to fail on a sector that
    /// a read fails on, one of `bad`.
    pub(super) fn verify(&mut self, devno: DevNo, disk: &dyn Disk, bad: &RangeSet) -> Option<Box<Verify<'static>>> {
        if self.choices.method != Method::Verify {
            return None;
        }
        let result = self.trusted_verify(devno, disk, bad);
        if let Err(why) = &result
            && !std::mem::replace(&mut self.told, true)
        {
            self.context.note(&format!("{}: reading instead of verifying: {why}", disk.name()));
        }
        result.ok()
    }

    fn trusted_verify(&self, devno: DevNo, disk: &dyn Disk, bad: &RangeSet) -> Result<Box<Verify<'static>>, String> {
        let device = self.context.host.device_by_number(devno).map_err(|e| e.to_string())?;
        let drive = VerifyDisk::open(&self.context.host, &device).map_err(|e| e.to_string())?;
        let block = disk.logical_block();
        let mut buffer = AlignedBuffer::new(block.to_usize_bytes().unwrap_or(0));
        let medium = |result: Result<(), DiskError>| matches!(result, Err(e) if e.class() == FaultClass::Medium);
        const TRIES: usize = 4;
        let mut tried = false;
        for run in bad.iter().take(TRIES) {
            let Some(sector) = Range::new(run.start().align_down(block), block) else { continue };
            if !medium(disk.read(sector.start(), &mut buffer)) {
                continue;
            }
            tried = true;
            if medium(drive.verify(sector)) {
                return Ok(Box::new(move |range| drive.verify(range)));
            }
        }
        Err(if tried {
            "the drive says that a sector is good which cannot be read".into()
        } else {
            "no bad sector is known on which the drive could be put to the test".into()
        })
    }

    pub(super) fn tick(&mut self, progress: Progress) -> Flow {
        if !self.args.no_progress && !self.args.cron {
            let place = match progress.place {
                Place::Main => "reading".to_string(),
                Place::Spare(spare) => format!("reading spare {spare}"),
            };
            let words = match progress.standing.bad {
                _ if progress.standing.gives_way => format!("{place}, giving way"),
                Sectors::ZERO => place,
                bad => format!("{place}, {bad} bad"),
            };
            self.context.progress.step(&words);
            self.context.progress.progress(progress.done.0, progress.total.0);
        }
        if self.signals.borrow_mut().came() {
            self.stopped = Some(Stopped::Interrupted);
        } else if self.deadline.is_some_and(|at| Instant::now() >= at) {
            self.stopped = Some(Stopped::Budget);
        }
        if self.stopped.is_some() { Flow::Stop } else { Flow::Go }
    }

    pub(super) fn save(&mut self, pass: &Pass) {
        if !self.saving {
            return;
        }
        if let Err(error) = checkpoint::save(&self.directory, pass) {
            self.saving = false;
            let directory = self.directory.display();
            self.context.note(&format!("this scan cannot be resumed: nothing can be saved in {directory}: {error}"));
        }
    }
}

/// Bytes a second that take `interval` for all of `len`.
fn spread(len: Sectors, interval: Duration) -> u64 {
    let bytes = len.to_bytes().map_or(u64::MAX, |bytes| bytes.0);
    (bytes / interval.as_secs().max(1)).max(SLOWEST)
}

/// The order with ranges of whole blocks; what a person named must be inside.
pub(super) fn widened(order: Order, block: Sectors, size: Sectors) -> Result<Order> {
    if let Some(range) = order.ranges.iter().flat_map(RangeSet::iter).find(|range| range.end() > size) {
        return Err(Usage(format!("--range {range}: there are {size} sectors")).into());
    }
    let ranges = order.ranges.map(|ranges| ranges.iter().filter_map(|range| range.widen_to(block, size)).collect());
    Ok(Order { ranges, ..order })
}
