//! The loop that waits for reports, gathers them for each setup, and has them acted upon.
//!
//! Invariants:
//! - the loop is one thread, and those that a probe reads with have ended with it: the guardian of a swap is forked from
//!   this process;
//! - what was read but not acted upon is read again after a restart ([`super::position`]);
//! - reports that our own probing caused do not make us probe again;
//! - nothing is probed twice in a row without a pause, whatever the kernel reports;
//! - each setup has one watcher: a lock says so.

use super::debounce::{Batch, Debounce, Suspect};
use super::handler::{Event, Handler, Options, Outcome, WatchError};
use super::kmsg::{Kmsg, Log, reports_since};
use super::position::{self, Position};
use super::report::ErrorReport;
use super::setups::{Stacks, Watched, find, holds, stacks, writes_ended};
use super::stack::{number_of, with_name};
use super::suspects::{Suspects, beyond, concerned, explained, may_mean_bad_sectors};
use super::trace::Trace;
use super::unseen::Blind;
use crate::block::FaultClass;
use crate::block::host::Host;
use crate::dm::DeviceMapper;
use crate::engine::EngineError;
use crate::engine::lock::{self, Lock};
use crate::engine::session::spare_device_name;
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::units::{DevNo, Range, coalesce};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How often setups that come and go, and held blocks that were written, are looked for.
const TICK: Duration = Duration::from_secs(2);

/// How often setups are read anew although no device came or went.
const REREAD: Duration = Duration::from_secs(30);

/// How long the description of a stack of devices is used: while reports come in by the thousand.
const STACKS_LAST: Duration = Duration::from_secs(1);

/// How often the position is kept while there is nothing to do.
const SAVE_IDLE: Duration = Duration::from_secs(60);

/// The first pause when another command works on the setup; it doubles.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const BUSY_LONGEST: Duration = Duration::from_secs(5);

/// The first pause after a failure or trouble on the way to a disk; it doubles.
const TROUBLE_PAUSE: Duration = Duration::from_secs(60);
/// The longest such pause.
const TROUBLE_LONGEST: Duration = Duration::from_secs(900);

/// The least time between two lines about the same trouble.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// The longest pause between two looks at held blocks, when writes go on near them and nothing is found.
const SETTLE_LONGEST: Duration = Duration::from_secs(60);

/// How long a lock may take to be let go: the guardian of a killed watcher ends its swap first.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A setup under watch.
#[derive(Debug)]
struct Entry {
    watched: Watched,
    _lock: Lock,
    debounce: Debounce,
    /// Up to here the log was read for this setup.
    read: u64,
    /// Whether it was told what the log had before it was watched.
    caught_up: bool,
    /// The position that is in the file.
    saved: Option<u64>,
    stacks: Option<(Duration, Stacks)>,
    pause: Option<Duration>,
    /// Whether it pauses because its disk did not answer.
    unreachable: bool,
    /// What was probed when reports came that the probe did not explain.
    unexplained: Vec<Range>,
    writes: BTreeMap<SpareIndex, u64>,
    settle_at: Duration,
    settle_pause: Duration,
}

impl Entry {
    /// All devices that its own lie on, as far as is known at the moment.
    fn disks(&self) -> impl Iterator<Item = DevNo> + '_ {
        let stacks = self.stacks.iter().map(|(_, stacks)| stacks);
        stacks
            .flat_map(|s| std::iter::once(&s.main).chain(s.spares.iter().map(|(_, stack)| stack)))
            .flat_map(|stack| stack.nodes.keys().copied())
    }

    fn lies_on(&self, disk: DevNo) -> bool {
        self.disks().any(|known| known == disk)
    }
}

/// The watcher.
#[derive(Debug)]
pub struct Watcher<'a, H: Handler> {
    dm: &'a dyn DeviceMapper,
    host: &'a Host,
    options: Options,
    handler: H,
    begun: Instant,
    boot: String,
    signals: SignalFd,
    kmsg: Kmsg,
    trace: Option<Trace>,
    entries: Vec<Entry>,
    devices: Vec<(String, DevNo)>,
    reread: Duration,
    saved_at: Duration,
    elsewhere: Vec<String>,
    /// While the kernel log may leave failed requests out.
    blind: Option<Blind>,
    told: BTreeMap<String, Duration>,
}

impl<'a, H: Handler> Watcher<'a, H> {
    /// Takes the locks of the setups that are up, blocks the signals that end it, and opens its sources.
    ///
    /// # Errors
    /// [`Refusal::Watched`] when one of the setups has a watcher already; [`WatchError`] when there is no kernel log.
    pub fn begin(
        dm: &'a dyn DeviceMapper,
        host: &'a Host,
        options: Options,
        handler: H,
    ) -> Result<Watcher<'a, H>, WatchError> {
        let signals = take_signals().map_err(|errno| WatchError::System { what: "take signals", errno })?;
        let trace = match options.trace.then(Trace::open) {
            Some(opened) => opened.map_err(|error| error.to_string()),
            None => Err("as asked for".to_string()),
        };
        let tracepoint = trace.as_ref().map(|trace| trace.tracepoint().name).map_err(Clone::clone);
        // What the log has now each setup reads for itself.
        let mut kmsg = Kmsg::open(&host.dev().join("kmsg"), None)?;
        kmsg.drain()?;
        let boot = position::boot_id(host);
        position::clean(&options.positions, &boot);
        let mut watcher = Watcher {
            dm,
            host,
            options,
            handler,
            begun: Instant::now(),
            boot,
            signals,
            kmsg,
            trace: trace.ok(),
            entries: Vec::new(),
            devices: Vec::new(),
            reread: Duration::ZERO,
            saved_at: Duration::ZERO,
            elsewhere: Vec::new(),
            blind: None,
            told: BTreeMap::new(),
        };
        watcher.refresh(true)?;
        let setups = watcher.entries.len();
        watcher.handler.tell(Event::Begins { tracepoint, setups });
        for name in watcher.options.names.clone() {
            if !watcher.entries.iter().any(|e| e.watched.name == name) {
                watcher.handler.tell(Event::Note(format!("'{name}' is not up; waiting for it")));
            }
        }
        Ok(watcher)
    }

    /// Watches until a signal asks it to end.
    ///
    /// # Errors
    /// [`WatchError`] when the sources fail.
    pub fn run(&mut self) -> Result<(), WatchError> {
        let mut tick = self.now().saturating_add(TICK);
        loop {
            let due = self.entries.iter().filter_map(|e| e.debounce.due()).chain(self.blind.as_ref().map(|b| b.until));
            let due = due.min().map_or(tick, |due| due.min(tick));
            if self.wait(due)? {
                self.save_positions();
                self.handler.tell(Event::Ends);
                return Ok(());
            }
            self.read_sources()?;
            self.look_for_unseen();
            self.act()?;
            if self.now() >= tick {
                if let Err(error) = self.refresh(false) {
                    self.tell_now_and_then("refresh".into(), Event::Note(error.to_string()));
                }
                self.settle();
                if self.now().saturating_sub(self.saved_at) >= SAVE_IDLE {
                    self.save_positions();
                }
                tick = self.now().saturating_add(TICK);
            }
        }
    }

    /// Since it began.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits for a source or until `due`; whether a signal came.
    fn wait(&self, due: Duration) -> Result<bool, WatchError> {
        let left = due.saturating_sub(self.now());
        // Rounded up: a millisecond too late is better than a loop that spins for its rest.
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.kmsg.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.trace.as_ref().and_then(Trace::fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(WatchError::System { what: "wait for events", errno }),
        }
        Ok(matches!(self.signals.read_signal(), Ok(Some(_))))
    }

    /// Takes in what the kernel has reported since.
    fn read_sources(&mut self) -> Result<(), WatchError> {
        let (reports, hidden) = self.drain()?;
        self.take_in(&reports, hidden, None);
        Ok(())
    }

    /// Everything that the sources have; whether there may have been more.
    fn drain(&mut self) -> Result<(Vec<ErrorReport>, bool), WatchError> {
        let log = self.kmsg.drain()?;
        if log.overwritten > 0 {
            self.missed(None, log.overwritten);
        }
        let (mut reports, mut hidden) = (log.reports, log.hidden);
        if let Some(trace) = &mut self.trace {
            match trace.drain() {
                Ok(traced) => {
                    reports.extend(traced.reports.into_iter().map(|report| with_name(self.host, report)));
                    // The tracepoint leaves nothing out, but its buffer may run over.
                    hidden = traced.lost;
                }
                Err(error) => {
                    self.trace = None;
                    let text = format!("the tracepoint cannot be read any more, the kernel log is used: {error}");
                    self.handler.tell(Event::Note(text));
                }
            }
        }
        Ok((reports, hidden))
    }

    fn missed(&mut self, setup: Option<String>, records: u64) {
        let text = format!("{records} records of the kernel log were overwritten before they were read");
        self.handler.tell(Event::Missed { setup, text });
    }

    /// Hands reports to the setups that they concern. `probed` is what was probed while they came: those of them that lie
    /// in there are ours, or have been judged.
    fn take_in(&mut self, reports: &[ErrorReport], hidden: bool, probed: Option<(usize, &Suspects)>) {
        let mut foreign = false;
        for report in reports {
            let Some(disk) = number_of(self.host, &report.device) else { continue };
            if let Some(blind) = &mut self.blind {
                blind.reported(disk);
            }
            for at in 0..self.entries.len() {
                let exclude = probed.filter(|(entry, _)| *entry == at).map(|(_, suspects)| suspects);
                foreign |= self.offer(at, report, disk, exclude);
            }
        }
        if hidden && (foreign || probed.is_none()) {
            let now = self.now();
            self.entries.iter_mut().for_each(|entry| entry.debounce.hidden(now));
        }
    }

    /// Gives a report to a setup; whether it concerns sectors of it that were not probed this moment.
    fn offer(&mut self, at: usize, report: &ErrorReport, disk: DevNo, probed: Option<&Suspects>) -> bool {
        let now = self.now();
        // What the tracepoint tells is in the log as well, which is read for the numbers of its records.
        let told_twice = self.trace.is_some() && report.sequence.is_some();
        let Some(entry) = self.entries.get_mut(at) else { return false };
        if report.sequence.is_some_and(|sequence| sequence <= entry.read) {
            return false;
        }
        let old = entry.stacks.take().filter(|(made, _)| now.saturating_sub(*made) < STACKS_LAST);
        let (made, stacks) = old.unwrap_or_else(|| (now, stacks(self.dm, self.host, &entry.watched)));
        let concerned = concerned(&stacks, report, disk, probed);
        entry.stacks = Some((made, stacks));
        match (report.class, concerned) {
            (_, None) => false,
            (FaultClass::Transport, Some(_)) => {
                let (setup, report) = (entry.watched.name.clone(), report.to_string());
                self.tell_now_and_then(format!("{setup} {disk}"), Event::Transport { setup, report });
                false
            }
            (_, Some(suspects)) if !may_mean_bad_sectors(report) || suspects.is_empty() => false,
            (class, Some(suspects)) => {
                for suspect in suspects {
                    let reports = if told_twice && entry.caught_up { 0 } else { suspect.reports };
                    entry.debounce.add(now, Suspect { reports, ..suspect });
                }
                // The disk answers, so whatever was wrong with the way to it is over.
                if class == FaultClass::Medium && std::mem::take(&mut entry.unreachable) {
                    entry.pause = None;
                    entry.debounce.hurry(now);
                }
                true
            }
        }
    }

    fn tell_now_and_then(&mut self, key: String, event: Event) {
        let now = self.now();
        if self.told.get(&key).is_none_or(|told| now.saturating_sub(*told) >= TOLD_AGAIN) {
            self.told.retain(|_, told| now.saturating_sub(*told) < TOLD_AGAIN);
            self.told.insert(key, now);
            self.handler.tell(event);
        }
    }

    /// Has the batches acted upon whose time has come.
    fn act(&mut self) -> Result<(), WatchError> {
        for at in 0..self.entries.len() {
            let now = self.now();
            let Some(entry) = self.entries.get_mut(at) else { break };
            let Some(batch) = entry.debounce.take(now) else { continue };
            let suspects = Suspects::of(&entry.watched, &batch);
            let outcome = self.handler.suspects(&entry.watched, &suspects);
            // First of all: what fails from now on is not ours, and must not be taken for it.
            let noted = self.after(at, batch, &suspects, outcome);
            self.handler.pass_on();
            noted?;
        }
        Ok(())
    }

    /// Takes note of how a batch went.
    fn after(&mut self, at: usize, batch: Batch, suspects: &Suspects, outcome: Outcome) -> Result<(), WatchError> {
        let (reports, hidden) = self.drain()?;
        // When nothing was probed, nothing of it is ours.
        let now = self.now();
        let Some(entry) = self.entries.get_mut(at) else { return Ok(()) };
        let ours = match &outcome {
            // A report of a place that was probed and read may tell of an error right after that. It is probed once more,
            // and not again for what is reported meanwhile: a place that fails now and then would go on for ever.
            Outcome::Done(bad) => {
                let mut known = std::mem::take(&mut entry.unexplained);
                known.extend(explained(bad));
                if !reports.is_empty() {
                    entry.unexplained = suspects.main.clone();
                }
                Suspects { main: coalesce(known), ..suspects.clone() }
            }
            _ => suspects.clone(),
        };
        let probed = (outcome != Outcome::Busy).then_some((at, &ours));
        let mut again = |batch, first: Duration, longest| {
            let pause = entry.pause.map_or(first, |p| p.saturating_mul(2)).clamp(first, longest);
            entry.pause = Some(pause);
            entry.debounce.put_back(batch, now.saturating_add(pause));
        };
        entry.unreachable = matches!(outcome, Outcome::Transport(_));
        let trouble = match outcome {
            Outcome::Done(bad) => {
                entry.pause = None;
                let more = beyond(suspects, &bad, entry.watched.size, batch.first);
                entry.debounce.done(now, batch);
                more.into_iter().for_each(|suspect| entry.debounce.add(now, suspect));
                None
            }
            Outcome::Nothing => {
                entry.pause = None;
                entry.debounce.done(now, batch);
                None
            }
            Outcome::Busy => {
                again(batch, BUSY_PAUSE, BUSY_LONGEST);
                None
            }
            Outcome::Transport(text) | Outcome::Failed(text) => {
                again(batch, TROUBLE_PAUSE, TROUBLE_LONGEST);
                Some(text)
            }
        };
        let setup = entry.watched.name.clone();
        if let Some(text) = trouble {
            self.tell_now_and_then(format!("{setup} {text}"), Event::Trouble { setup, text });
        }
        self.take_in(&reports, hidden, probed);
        if self.trace.is_none() && (hidden || suspects.hidden) {
            let disks = self.entries.iter().flat_map(Entry::disks);
            self.blind = Some(Blind::begin(self.host, now, disks));
        }
        self.save_positions();
        Ok(())
    }

    /// After the kernel log has left requests out, by what our probing used up: did any fail that nobody saw?
    fn look_for_unseen(&mut self) {
        let now = self.now();
        let Some(blind) = self.blind.take_if(|blind| blind.until <= now) else { return };
        for (disk, unseen) in blind.unseen(self.host) {
            for at in 0..self.entries.len() {
                let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.lies_on(disk)) else { continue };
                entry.debounce.unseen(now);
                let setup = Some(entry.watched.name.clone());
                let path = self.host.device_by_number(disk).map_or_else(|_| disk.to_string(), |d| d.name);
                let text = format!("{path} has failed {unseen} more requests than the kernel log names");
                self.handler.tell(Event::Missed { setup, text });
            }
        }
    }

    /// Keeps for each setup how far the log was dealt with.
    fn save_positions(&mut self) {
        self.saved_at = self.now();
        let last = self.kmsg.last();
        let mut failed = None;
        for entry in &mut self.entries {
            let read = last.unwrap_or(0).max(entry.read);
            let sequence = entry.debounce.first_waiting().map_or(read, |first| first.saturating_sub(1));
            if entry.saved == Some(sequence) {
                continue;
            }
            let position = Position { boot: self.boot.clone(), sequence };
            match position::save(&self.options.positions, entry.watched.setup, &position) {
                Ok(()) => entry.saved = Some(sequence),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            let folder = self.options.positions.display();
            let text = format!(
                "the position in the kernel log cannot be kept in {folder}: {error}. After a restart the log is gone through again"
            );
            self.tell_now_and_then("position".into(), Event::Note(text));
        }
    }

    /// Finds setups that came or went. At the beginning a setup that has a watcher is an error, later it is told.
    fn refresh(&mut self, beginning: bool) -> Result<(), WatchError> {
        let now = self.now();
        let devices = self.dm.list()?;
        if !beginning && devices == self.devices && now.saturating_sub(self.reread) < REREAD {
            return Ok(());
        }
        (self.devices, self.reread) = (devices, now);
        let found = find(self.dm, self.host, &self.options.names)?;
        let gone: Vec<usize> = (0..self.entries.len())
            .filter(|at| self.entries.get(*at).is_none_or(|e| !found.iter().any(|w| w.setup == e.watched.setup)))
            .collect();
        if !gone.is_empty() {
            self.save_positions();
        }
        for at in gone.into_iter().rev() {
            let entry = self.entries.remove(at);
            self.handler.tell(Event::Down(entry.watched.name));
        }
        self.elsewhere.retain(|name| found.iter().any(|w| w.name == *name));
        for watched in found {
            match self.entries.iter_mut().find(|e| e.watched.setup == watched.setup) {
                Some(entry) if entry.watched == watched => {}
                Some(entry) => (entry.watched, entry.stacks) = (watched, None),
                None => self.enter(watched, beginning)?,
            }
        }
        Ok(())
    }

    /// Begins to watch a setup: its lock, and what the log has since it was last watched.
    fn enter(&mut self, watched: Watched, beginning: bool) -> Result<(), WatchError> {
        let lock = match self.lock(&watched, beginning) {
            Ok(lock) => lock,
            Err(EngineError::Refused(Refusal::Busy { .. })) if !beginning => {
                if !self.elsewhere.contains(&watched.name) {
                    self.elsewhere.push(watched.name.clone());
                    self.handler.tell(Event::Elsewhere(watched.name));
                }
                return Ok(());
            }
            Err(EngineError::Refused(Refusal::Busy { name, pid })) => {
                return Err(EngineError::from(Refusal::Watched { name, pid }).into());
            }
            Err(error) => return Err(error.into()),
        };
        let old = position::load(&self.options.positions, watched.setup).filter(|p| p.boot == self.boot);
        let (log, read) = reports_since(&self.host.dev().join("kmsg"), old.as_ref(), &self.boot)?;
        let name = watched.name.clone();
        self.entries.push(Entry {
            debounce: Debounce::new(self.options.settle),
            watched,
            _lock: lock,
            read: 0,
            caught_up: false,
            saved: old.as_ref().map(|p| p.sequence),
            stacks: None,
            pause: None,
            unreachable: false,
            unexplained: Vec::new(),
            writes: BTreeMap::new(),
            settle_at: Duration::ZERO,
            settle_pause: TICK,
        });
        if !beginning {
            self.handler.tell(Event::Up(name.clone()));
        }
        self.catch_up(name, log, read.sequence);
        Ok(())
    }

    /// Takes in what the log had before the setup was watched. Trouble on the way to a disk is past, and not told.
    fn catch_up(&mut self, name: String, log: Log, read: u64) {
        if log.overwritten > 0 {
            self.missed(Some(name), log.overwritten);
        }
        let Some(at) = self.entries.len().checked_sub(1) else { return };
        for report in log.reports.iter().filter(|r| r.class != FaultClass::Transport) {
            if let Some(disk) = number_of(self.host, &report.device) {
                self.offer(at, report, disk, None);
            }
        }
        let now = self.now();
        if let Some(entry) = self.entries.get_mut(at) {
            if log.hidden {
                entry.debounce.hidden(now);
                if self.trace.is_none() {
                    // Perhaps lines are left out this very moment.
                    self.blind = Some(Blind::begin(self.host, now, entry.disks()));
                }
            }
            (entry.read, entry.caught_up) = (read, true);
        }
    }

    fn lock(&self, watched: &Watched, patient: bool) -> Result<Lock, EngineError> {
        let begun = Instant::now();
        loop {
            match lock::take(&self.options.locks, &format!("{}.watch", watched.setup), &watched.name) {
                Err(EngineError::Refused(Refusal::Busy { .. })) if patient && begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    }

    /// Makes held blocks ordinary that were written, where a private device that holds blocks has seen writes since it
    /// was last looked at.
    fn settle(&mut self) {
        for at in 0..self.entries.len() {
            let now = self.now();
            let Some(entry) = self.entries.get_mut(at).filter(|e| e.settle_at <= now) else { continue };
            let mut seen = BTreeMap::new();
            let mut written = false;
            for spare in &entry.watched.spares {
                let name = spare_device_name(&entry.watched.name, spare.index);
                // Counted first: a write that ends meanwhile is seen the next time.
                let writes = writes_ended(self.host, spare.private);
                let news = writes.is_none() || writes.as_ref() != entry.writes.get(&spare.index);
                written |= news && holds(self.dm, &name);
                seen.extend(writes.map(|writes| (spare.index, writes)));
            }
            let outcome = if written { self.handler.settle(&entry.watched) } else { Outcome::Nothing };
            match outcome {
                Outcome::Busy => continue,
                Outcome::Done(_) => entry.settle_pause = TICK,
                Outcome::Nothing if !written => entry.settle_pause = TICK,
                _ => entry.settle_pause = entry.settle_pause.saturating_mul(2).min(SETTLE_LONGEST),
            }
            entry.writes = seen;
            // A little less, so that it is not put off by a whole tick.
            let pause = entry.settle_pause.saturating_sub(TICK / 2);
            entry.settle_at = now.saturating_add(pause);
            let setup = entry.watched.name.clone();
            if let Outcome::Transport(text) | Outcome::Failed(text) = outcome {
                self.tell_now_and_then(format!("{setup} {text}"), Event::Trouble { setup, text });
            }
        }
    }
}

/// Blocks the signals that people and service managers send, and makes them readable.
fn take_signals() -> Result<SignalFd, Errno> {
    let mut wanted = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| wanted.add(signal));
    wanted.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}
