//! `watch`: reacts to the kernel's error reports, until a signal ends it. One line for each event, at once.

use super::ahead::with_health;
use super::probe::{ActOptions, Probed, plain_policy, probe_and_act};
use super::{Context, Exit, Output};
use crate::cli::args::Watch;
use crate::cli::choices::{settle, watched};
use crate::cli::output::SCHEMA_VERSION;
use crate::cli::report::{count, move_rows, sizes};
use crate::cli::syslog::{self, Severity};
use crate::config::Config;
use crate::engine::splice::settle_held;
use crate::engine::{EngineError, Observer};
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::scan::pass::Place;
use crate::units::{Range, Sectors};
use crate::watch::handler::{Event, Handler, Options, Outcome, WatchError};
use crate::watch::setups::Watched;
use crate::watch::suspects::{Suspects, around_slots};
use crate::watch::watcher::Watcher;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

pub(super) fn watch(context: &Context, args: &Watch, out: &mut Output) -> Result<Exit> {
    // A mistake in it must be told now, not when a disk fails.
    let settings = context.settings(None)?;
    let options = Options {
        names: args.names.clone(),
        positions: context.state().join("watch"),
        locks: context.host.run().join("dm-remap"),
        settle: settle(args, settings),
        trace: !args.no_trace,
    };
    let teller = Teller {
        context,
        args,
        config: &context.loaded()?.config,
        json: out.is_json(),
        alerted: Cell::new(None),
        held: RefCell::new(None),
    };
    let mut watcher = Watcher::begin(context.dm()?, &context.host, options, teller).map_err(plain)?;
    watcher.run().map_err(plain)?;
    Ok(Exit::Done)
}

/// A refusal inside keeps its exit code.
fn plain(error: WatchError) -> anyhow::Error {
    match error {
        WatchError::Engine(error) => error.into(),
        other => other.into(),
    }
}

/// Acts, and tells.
#[derive(Debug)]
struct Teller<'a> {
    context: &'a Context,
    args: &'a Watch,
    config: &'a Config,
    json: bool,
    /// When changes were last told by program and mail.
    alerted: Cell<Option<Instant>>,
    /// While suspects are dealt with: the lines about it, which wait.
    held: RefCell<Option<Vec<String>>>,
}

/// A disk that dies gives new bad sectors every few seconds: nobody wants as many messages.
const QUIET: Duration = Duration::from_secs(60);

/// Keeps what is noted while something is done. Nothing is drawn: this may run for months.
#[derive(Debug, Default)]
struct Notes(RefCell<Vec<String>>);

impl Notes {
    /// The most that are kept.
    const MOST: usize = 20;
}

impl Observer for Notes {
    fn step(&self, _what: &str) {}
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, text: &str) {
        let mut notes = self.0.borrow_mut();
        if notes.len() < Notes::MOST && !notes.iter().any(|n| n == text) {
            notes.push(text.to_string());
        }
    }
}

/// Ranges in words; long lists are cut.
fn words(ranges: &[Range]) -> String {
    const MOST: usize = 8;
    let mut words: Vec<String> = ranges.iter().take(MOST).map(ToString::to_string).collect();
    if ranges.len() > MOST {
        words.push(format!("… and {} more", ranges.len() - MOST));
    }
    words.join(" ")
}

fn total(ranges: impl Iterator<Item = Range>) -> Sectors {
    Sectors(ranges.map(|r| r.len().0).fold(0, u64::saturating_add))
}

impl Teller<'_> {
    /// Writes an event, or keeps it for later. Nobody may be reading any more: the watch goes on all the same.
    fn event(&self, kind: &str, setup: Option<&str>, text: &str, more: Value) {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let line = if self.json {
            let mut object = Map::new();
            object.insert("schema_version".into(), json!(SCHEMA_VERSION));
            object.insert("time".into(), json!(time.to_string()));
            object.insert("event".into(), json!(kind));
            object.insert("name".into(), json!(setup));
            object.insert("text".into(), json!(text));
            if let Value::Object(more) = more {
                object.extend(more);
            }
            Value::Object(object).to_string()
        } else {
            let setup = setup.map(|name| format!("{name}: ")).unwrap_or_default();
            format!("{time} {setup}{text}")
        };
        match self.held.borrow_mut().as_mut() {
            Some(held) => held.push(line),
            None => Self::print(&line),
        }
    }

    fn print(line: &str) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }

    /// Tells what was noted, but for what speaks of ranges that were told.
    fn tell_notes(&self, setup: &Watched, notes: &Notes, told: &[Range]) {
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        for note in notes.0.borrow().iter() {
            if !note.split_ascii_whitespace().any(|word| told.iter().any(|range| range == word)) {
                self.event("note", Some(&setup.name), note, json!({}));
            }
        }
    }

    fn tell_probed(&self, setup: &Watched, suspects: &Suspects, result: &Probed) {
        let probed = total(suspects.main.iter().copied());
        let (bad, outcome) = (&result.found.bad, result.outcome());
        let mut cause = suspects.cause.clone();
        if cause.is_empty() {
            cause = "errors that the kernel does not name".to_string();
        }
        if suspects.reports > 1 {
            cause = format!("{cause}, the first of {}", count_reports(suspects.reports));
        }
        if suspects.guessed {
            cause.push_str("; its place on main is not known, and was guessed");
        }
        let facts = json!({
            "cause": suspects.cause, "reports": suspects.reports, "guessed": suspects.guessed,
            "hidden": suspects.hidden, "probed": suspects.main, "bad": bad,
            "moves": move_rows(&outcome.moved), "lost": outcome.lost,
        });
        if bad.is_empty() {
            let text = format!("nothing bad in {} probed after {cause}", sizes(probed));
            return self.event("probed", Some(&setup.name), &text, facts);
        }
        let moved: Vec<Range> = outcome.moved.iter().map(|m| m.range).collect();
        let lost: Vec<Range> = outcome.lost.iter().map(|l| l.range).collect();
        let mut text = format!(
            "moved {} in {} ({}) after {cause}",
            sizes(total(moved.iter().copied())),
            count(moved.len(), "extent"),
            words(&moved)
        );
        if !lost.is_empty() {
            let lost_sectors = sizes(total(lost.iter().copied()));
            text.push_str(&format!("; {lost_sectors} could not be read ({}): see 'dm-remap status'", words(&lost)));
        }
        let not_moved: Vec<_> = result.acted.not_moved.iter().chain(&outcome.dropped).collect();
        for (range, why) in &not_moved {
            text.push_str(&format!("; not moved {range}: {why}"));
        }
        self.event("remapped", Some(&setup.name), &text, facts);
        let fine = lost.is_empty() && not_moved.is_empty();
        syslog::log(if fine { Severity::Notice } else { Severity::Warning }, &format!("{}: {text}", setup.name));
    }

    /// Says what an error on a spare means for the setup.
    fn tell_spare(&self, setup: &Watched, index: SpareIndex, ranges: &[Range], cause: &str) -> Result<()> {
        let session = self.context.reading_session(&setup.name)?;
        let mut served = Vec::new();
        for extent in session.metadata.map.extents_by_slot(index) {
            let slots = extent.slot_range().into_iter();
            for hit in slots.flat_map(|slot| ranges.iter().filter_map(move |r| r.intersect(slot))) {
                let skipped = hit.start().saturating_sub(extent.slot.start);
                let start = extent.range.start().checked_add(skipped);
                served.extend(start.and_then(|start| Range::new(start, hit.len())));
            }
        }
        let data = session.metadata.spare(index).map_or(Sectors::ZERO, |record| record.data_start);
        let meaning = if !served.is_empty() {
            format!("it serves sectors {} of the setup: their only copy", words(&served))
        } else if ranges.iter().any(|range| range.start() < data) {
            "its metadata lies there: 'dm-remap metadata check' judges the copies".to_string()
        } else {
            "nothing of the setup lies there".to_string()
        };
        let text = format!("spare {index} has trouble at {}: {meaning}. {cause}", words(ranges));
        let facts = json!({ "spare": index, "sectors": ranges, "serves": served, "cause": cause });
        self.event("spare", Some(&setup.name), &text, facts);
        syslog::log(Severity::Warning, &format!("{}: {text}", setup.name));
        Ok(())
    }

    /// Moves what lives in bad slots to others; the trouble that kept the spare from being judged, if there was any.
    fn leave_slots(&self, setup: &Watched, index: SpareIndex, ranges: &[Range]) -> Result<Option<Outcome>> {
        let around = around_slots(ranges);
        let notes = Notes::default();
        let options = self.options(setup, &notes);
        let result = probe_and_act(self.context, &setup.name, Place::Spare(index), &around, &options)?;
        self.tell_notes(setup, &notes, &[]);
        if let Some(text) = result.transport {
            return Ok(Some(Outcome::Transport(text)));
        }
        let stuck = stuck(&result);
        for (range, why) in &result.acted.not_moved {
            let text = format!("sectors {range} of spare {index} are bad, and what lives there was not moved: {why}");
            self.event("slots", Some(&setup.name), &text, json!({ "spare": index, "sectors": [range] }));
            syslog::log(Severity::Warning, &format!("{}: {text}", setup.name));
        }
        let moved: Vec<Range> = result.outcome().moved.iter().map(|m| m.range).collect();
        if moved.is_empty() {
            return Ok(stuck);
        }
        let lost: Vec<Range> = result.outcome().lost.iter().map(|l| l.range).collect();
        let mut text = format!("moved sectors {} away from bad slots of spare {index}", words(&moved));
        if !lost.is_empty() {
            text.push_str(&format!("; {} could not be read: see 'dm-remap status'", words(&lost)));
        }
        let facts =
            json!({ "spare": index, "moves": move_rows(&result.outcome().moved), "lost": result.outcome().lost });
        self.event("slots", Some(&setup.name), &text, facts);
        syslog::log(
            if lost.is_empty() { Severity::Notice } else { Severity::Warning },
            &format!("{}: {text}", setup.name),
        );
        Ok(stuck)
    }

    /// Probes main, and moves what is bad.
    fn main(&self, setup: &Watched, suspects: &Suspects) -> Outcome {
        if suspects.main.is_empty() {
            return Outcome::Nothing;
        }
        let notes = Notes::default();
        let result =
            probe_and_act(self.context, &setup.name, Place::Main, &suspects.main, &self.options(setup, &notes));
        let mut told = Vec::new();
        let outcome = match result {
            Ok(Probed { transport: Some(text), .. }) => Outcome::Transport(text),
            Ok(result) => {
                self.tell_probed(setup, suspects, &result);
                told = result.outcome().lost.iter().map(|loss| loss.range).collect();
                stuck(&result).unwrap_or_else(|| Outcome::Done(result.found.bad.iter().collect()))
            }
            Err(error) => outcome_of(&error),
        };
        self.tell_notes(setup, &notes, &told);
        outcome
    }

    fn options<'n>(&self, setup: &Watched, notes: &'n Notes) -> ActOptions<'n> {
        let (retries, unreadable) = watched(self.args, self.config.settings(Some(&setup.name)));
        let policy = with_health(self.context, &setup.name, plain_policy(unreadable));
        ActOptions { policy, retries, observer: notes }
    }

    fn settle_now(&self, setup: &Watched, notes: &Notes) -> Result<Vec<Range>> {
        let (_lock, mut session) = self.context.locked_session(&setup.name)?;
        session.check_live()?;
        let generation = session.metadata.generation;
        let result = settle_held(&mut session, notes);
        if session.metadata.generation != generation {
            self.context.keep_backup(&session.metadata);
        }
        super::moves::tell_failed(self.context, &session);
        Ok(result?)
    }
}

fn count_reports(reports: u64) -> String {
    format!("{reports} reports")
}

/// What was found bad and has no place to go is not read again and again meanwhile: each such read may take seconds.
fn stuck(probed: &Probed) -> Option<Outcome> {
    let (range, why) = probed.acted.not_moved.first()?;
    Some(Outcome::Failed(format!("sectors {range} are bad and were not moved: {why}")))
}

/// What an error of the engine means for the watcher.
fn outcome_of(error: &anyhow::Error) -> Outcome {
    let text = format!("{error:#}");
    match error.downcast_ref().map(EngineError::cause) {
        Some(EngineError::Refused(Refusal::Busy { .. })) => Outcome::Busy,
        // It went down meanwhile: the watcher notices by itself, and reads these reports again when it is back.
        Some(EngineError::Refused(Refusal::NotActive(_))) => Outcome::Busy,
        Some(EngineError::Transport(_) | EngineError::NotTheMedium { .. }) => Outcome::Transport(text),
        _ => Outcome::Failed(text),
    }
}

impl Teller<'_> {
    /// Tells what has changed, at most once in [`QUIET`]: what is left out is told with what comes next, or at the end.
    fn alert(&self) {
        if self.alerted.get().is_none_or(|last| last.elapsed() >= QUIET) {
            super::tell_changes(self.context);
            self.alerted.set(Some(Instant::now()));
        }
    }

    fn judge(&self, setup: &Watched, suspects: &Suspects) -> Outcome {
        // Main first: trouble with a spare is no reason to leave it alone.
        let main = self.main(setup, suspects);
        for (index, ranges) in &suspects.spares {
            let told = self.tell_spare(setup, *index, ranges, &suspects.cause);
            match told.and_then(|()| self.leave_slots(setup, *index, ranges)) {
                Ok(None) => {}
                Ok(Some(trouble)) => return trouble,
                Err(error) => return outcome_of(&error),
            }
        }
        main
    }

    fn settle_and_tell(&self, setup: &Watched) -> Outcome {
        let notes = Notes::default();
        let settled = self.settle_now(setup, &notes);
        self.tell_notes(setup, &notes, &[]);
        match settled {
            Ok(rewritten) if rewritten.is_empty() => Outcome::Nothing,
            Ok(rewritten) => {
                let text = format!("held sectors {} were written, and are ordinary now", words(&rewritten));
                self.event("settled", Some(&setup.name), &text, json!({ "sectors": rewritten }));
                syslog::log(Severity::Notice, &format!("{}: {text}", setup.name));
                Outcome::Done(Vec::new())
            }
            Err(error) => outcome_of(&error),
        }
    }
}

impl Handler for Teller<'_> {
    fn suspects(&mut self, setup: &Watched, suspects: &Suspects) -> Outcome {
        self.held.replace(Some(Vec::new()));
        self.judge(setup, suspects)
    }

    fn pass_on(&mut self) {
        for line in self.held.take().into_iter().flatten() {
            Self::print(&line);
        }
        self.alert();
    }

    fn settle(&mut self, setup: &Watched) -> Outcome {
        let outcome = self.settle_and_tell(setup);
        self.alert();
        outcome
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Begins { tracepoint, setups } => {
                let source = match &tracepoint {
                    Ok(name) => format!("the tracepoint block:{name} and the kernel log"),
                    Err(why) => format!(
                        "the kernel log alone, in which the kernel names at most 10 failed requests in 5 seconds ({why})"
                    ),
                };
                let text = format!("watching {} by {source}", count(setups, "setup"));
                self.event("begins", None, &text, json!({ "setups": setups, "tracepoint": tracepoint.ok() }));
            }
            Event::Up(name) => self.event("up", Some(&name), "is up, and watched from now on", json!({})),
            Event::Down(name) => self.event("down", Some(&name), "is not up any more", json!({})),
            Event::Elsewhere(name) => {
                self.event("elsewhere", Some(&name), "has another watcher, and is left to it", json!({}));
            }
            Event::Transport { setup, report } => {
                let text = format!("{report}: trouble on the way to the disk; nothing is moved because of it");
                self.event("transport", Some(&setup), &text, json!({ "cause": report }));
                syslog::log(Severity::Warning, &format!("{setup}: {text}"));
            }
            Event::Trouble { setup, text } => {
                let text = format!("{text}; it will be tried again");
                self.event("trouble", Some(&setup), &text, json!({}));
                syslog::log(Severity::Error, &format!("{setup}: {text}"));
            }
            Event::Missed { setup, text } => {
                let text = format!("{text}: errors may have been missed; 'dm-remap scan' finds them");
                self.event("missed", setup.as_deref(), &text, json!({}));
            }
            Event::Note(text) => self.event("note", None, &text, json!({})),
            Event::Ends => self.event("ends", None, "asked to end", json!({})),
        }
    }
}
