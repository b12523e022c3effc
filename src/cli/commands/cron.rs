//! `scan --cron`: what a timer runs. It says nothing unless something changed.
//!
//! Invariants:
//! - a setup that another run is at work on is left to that one;
//! - trouble with one setup does not keep the others from being scanned;
//! - the place in the kernel log is kept only after what was reported up to there was probed.

use super::cron_each;
use super::probe::{Probed, is_busy, probe_and_act, scan_options};
use super::scan::signals;
use super::scan_report::{Report, Subject, summary};
use super::scan_setup::{self, Ended, Part};
use super::scanner::{Scanner, Stopped};
use super::{Context, Exit, Output};
use crate::cli::args::Scan;
use crate::cli::choices::ScanChoices;
use crate::cli::output::complain;
use crate::cli::selection::select;
use crate::cli::settings::BadConfig;
use crate::cli::signals::Signals;
use crate::cli::syslog::{self, Severity};
use crate::cli::worse;
use crate::config::SCAN_TIME_BUDGET;
use crate::engine::session::find_active;
use crate::map::{Loss, SpareIndex};
use crate::plan::moves::sectors_of;
use crate::scan::pass::Place;
use crate::units::{Range, Sectors};
use crate::watch::position;
use crate::watch::setups;
use crate::watch::suspects::{around_slots, reported_since};
use anyhow::Result;
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// Scans the named setups, or all that are active, as far as the time allows.
pub(super) fn cron(context: &Context, args: &Scan, out: &mut Output) -> Result<Exit> {
    let run = ScanChoices::new(args, context.settings(None)?);
    context.set_disks_due();
    let signals = signals()?;
    if let Some(name) = &args.only {
        let exit = scan_these(context, args, std::slice::from_ref(name), run.time_budget, &signals, out);
        // The one that started this writes them, once.
        context.set_metrics_due(false);
        return exit;
    }
    if !wait(jitter(run.jitter), &signals) {
        return Ok(Exit::Done);
    }
    let names = select(context, &args.names)?;
    if names.len() > 1 {
        // What the setup's own section says is the most for this setup.
        let own = |name: String| {
            let most = context.settings(Some(&name))?.own(&SCAN_TIME_BUDGET).flatten();
            Ok((name, most.filter(|_| args.time_budget.is_none())))
        };
        let shares: Vec<_> = names.into_iter().map(own).collect::<Result<_, BadConfig>>()?;
        let exit = cron_each::scan(&shares, run.time_budget, args.give_up, &signals);
        context.set_metrics_due(true);
        return exit;
    }
    let exit = scan_these(context, args, &names, run.time_budget, &signals, out);
    // Also when there is no setup any more: a file that nobody writes looks like a machine that nobody looks after.
    context.set_metrics_due(true);
    exit
}

/// Scans one after the other.
fn scan_these(
    context: &Context,
    args: &Scan,
    names: &[String],
    time: Option<Duration>,
    signals: &RefCell<Signals>,
    out: &mut Output,
) -> Result<Exit> {
    let begun = Instant::now();
    let mut worst = Exit::Done;
    let mut interrupted = false;
    for (number, name) in names.iter().enumerate() {
        // What one setup leaves of its share is for those after it.
        let left = u32::try_from(names.len() - number).unwrap_or(u32::MAX);
        let share = time.map(|budget| budget.saturating_sub(begun.elapsed()) / left);
        let settings = context.settings(Some(name))?;
        let choices = ScanChoices::new(args, settings);
        // What the setup's own section says is the most for this setup.
        let most = settings.own(&SCAN_TIME_BUDGET).flatten().filter(|_| args.time_budget.is_none());
        let budget = share.into_iter().chain(most).min();
        let mut job = Job { context, args, choices: &choices, name, signals, out };
        let exit = match job.run(budget) {
            Ok((exit, stopped)) => {
                interrupted |= stopped == Some(Stopped::Interrupted);
                exit
            }
            Err(error) if is_busy(&error) => Exit::Done,
            Err(error) => {
                complain(&format!("{name}: {error:#}"));
                syslog::log(Severity::Error, &format!("{name}: scan failed: {error:#}"));
                Exit::Failed
            }
        };
        worst = worse(worst, exit);
        if interrupted {
            break;
        }
    }
    Ok(worst)
}

/// One setup.
struct Job<'a> {
    context: &'a Context,
    args: &'a Scan,
    choices: &'a ScanChoices,
    name: &'a str,
    signals: &'a RefCell<Signals>,
    out: &'a mut Output,
}

impl Job<'_> {
    fn run(&mut self, budget: Option<Duration>) -> Result<(Exit, Option<Stopped>)> {
        find_active(self.context.dm()?, self.name)?;
        let begun = Instant::now();
        let mut exit = self.reported()?;
        let mut stopped = None;
        // The suspects first, because they may not wait, and in half of the time, because the rest may not wait for ever.
        let parts = self.choices.suspect_interval.map(|_| (Part::Suspects, 2)).into_iter().chain([(Part::Whole, 1)]);
        for (part, share) in parts {
            let left = budget.map(|budget| budget.saturating_sub(begun.elapsed()) / share);
            let scanner = Scanner::new(self.context, self.args, self.choices, self.signals, left);
            let Some(ended) = scan_setup::run(scanner, self.name, part)? else { continue };
            exit = worse(exit, self.scanned(&ended, part));
            stopped = ended.stopped;
            if stopped == Some(Stopped::Interrupted) || ended.trouble.is_some() {
                break;
            }
        }
        Ok((exit, stopped))
    }

    fn scanned(&mut self, ended: &Ended, part: Part) -> Exit {
        let exit = self.tell(ended);
        let what = if part == Part::Suspects { " of suspect regions" } else { "" };
        syslog::log(severity(exit), &format!("{}: scan{what} {}", self.name, summary(&ended.pass)));
        if let Some(trouble) = ended.trouble.as_ref().filter(|error| !is_busy(error)) {
            complain(&format!("{}: {trouble:#}", self.name));
        }
        exit
    }

    /// Looks first at what the kernel has reported since the last run.
    fn reported(&mut self) -> Result<Exit> {
        let context = self.context;
        let dm = context.dm()?;
        let folder = context.state().join("cron");
        let Some(watched) = setups::find(dm, &context.host, &[self.name.to_string()])?.into_iter().next() else {
            return Ok(Exit::Done);
        };
        let last = position::load(&folder, watched.setup);
        let past = match reported_since(dm, &context.host, &watched, last.as_ref()) {
            Ok(past) => past,
            Err(error) => {
                context.note(&format!("what the kernel has reported is not known: {error}"));
                return Ok(Exit::Done);
            }
        };
        let spares = past.suspects.spares.iter().map(|(index, ranges)| (Place::Spare(*index), around_slots(ranges)));
        let mut exit = Exit::Done;
        for (place, suspects) in std::iter::once((Place::Main, past.suspects.main.clone())).chain(spares) {
            if !suspects.is_empty() {
                exit = worse(exit, self.probe(place, &suspects, &past.suspects.cause)?);
            }
        }
        if past.overwritten > 0 {
            let text = format!(
                "{}: the kernel log has lost {} records since the last run; a whole pass finds what they told",
                self.name, past.overwritten
            );
            context.note(&text);
            syslog::log(Severity::Warning, &text);
        }
        // What could not be judged is looked at again.
        if exit == Exit::Failed {
            return Ok(exit);
        }
        if let Err(error) = position::save(&folder, watched.setup, &past.position) {
            context.note(&format!("the place in the kernel log cannot be kept: {error}"));
        }
        Ok(exit)
    }

    fn probe(&mut self, place: Place, suspects: &[Range], cause: &str) -> Result<Exit> {
        let options = scan_options(self.context, self.name, self.choices);
        let probed = probe_and_act(self.context, self.name, place, suspects, &options)?;
        if let Some(trouble) = &probed.transport {
            complain(&format!("{}: {trouble}", self.name));
            return Ok(Exit::Failed);
        }
        if probed.found.is_clean() {
            return Ok(Exit::Done);
        }
        let text = told(&probed, place);
        let attention = !probed.outcome().lost.is_empty() || !probed.acted.not_moved.is_empty();
        let exit = if attention { Exit::Attention } else { Exit::Done };
        syslog::log(severity(exit), &format!("{}: {text} after {cause}", self.name));
        if self.out.is_json() {
            self.out.json(&serde_json::json!({
                "name": self.name, "cause": cause, "bad": probed.found.bad, "lost": probed.outcome().lost,
                "moves": crate::cli::report::move_rows(&probed.outcome().moved),
            }));
        } else {
            self.out.line(format!("{}: {text} after {cause}", self.name));
        }
        Ok(exit)
    }

    /// Reports a scan that changed something; the exit code for it.
    fn tell(&mut self, ended: &Ended) -> Exit {
        let lost: Vec<Loss> = ended.acted.iter().flat_map(|acted| acted.outcome.lost.iter().copied()).collect();
        let left = ended.acted.iter().any(|acted| !acted.not_moved.is_empty() || !acted.outcome.dropped.is_empty());
        let moved = ended.acted.iter().any(|acted| !acted.outcome.moved.is_empty());
        let changed = moved || left || !lost.is_empty();
        let owners = self.context.owners(self.name, &lost, self.choices.patience);
        let shown = Subject::Setup(self.name);
        let report = Report { shown, pass: &ended.pass, acted: &ended.acted, stopped: ended.stopped, owners: &owners };
        let changed = changed || report.unmoved() > Sectors::ZERO;
        if changed || (self.out.is_json() && ended.trouble.is_none()) {
            report.render(self.out);
        }
        match &ended.trouble {
            Some(error) if is_busy(error) => Exit::Done,
            Some(_) => Exit::Failed,
            // What an earlier part of the pass has found was told then.
            None if changed && (report.needs_attention() || left || !lost.is_empty()) => Exit::Attention,
            None => Exit::Done,
        }
    }
}

/// What a probe has found and done, in words.
fn told(probed: &Probed, place: Place) -> String {
    let on = match place {
        Place::Main => String::new(),
        Place::Spare(SpareIndex(index)) => format!(" on spare {index}"),
    };
    let bad = probed.found.bad.sectors();
    let moved = sectors_of(&probed.outcome().moved).0;
    let lost = probed.outcome().lost.iter().map(|l| l.range.len().0).fold(0, u64::saturating_add);
    format!("{bad} sectors bad{on}, {moved} moved, {lost} lost")
}

fn severity(exit: Exit) -> Severity {
    match exit {
        Exit::Done => Severity::Notice,
        Exit::Attention => Severity::Warning,
        _ => Severity::Error,
    }
}

/// A random time up to `most`.
fn jitter(most: Duration) -> Duration {
    // The standard library seeds its hashers from the system's random numbers; a delay needs no better ones.
    let random = RandomState::new().build_hasher().finish();
    let most_ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(most_ms.checked_add(1).map_or(random, |span| random % span))
}

/// Waits; `false` when a signal has ended it.
fn wait(time: Duration, signals: &RefCell<Signals>) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if signals.borrow_mut().came() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100).min(time.saturating_sub(begun.elapsed())));
    }
    true
}
