//! Makes the reads that a survey asks for, several at a time, and judges how they ended.
//!
//! Invariants:
//! - a failure that is not about a sector ends the run, and leaves the survey as if that read had not been made;
//! - an EIO is taken for a failed sector only while known-good sectors read;
//! - all threads have ended when [`run`] returns: what follows may fork.

use super::pace::{Admission, Manners, Pacer};
use super::survey::{Answer, Next, Phase, Request, Survey};
use crate::block::buffer::AlignedBuffer;
use crate::block::judge::{PROBES, known_good_fails, spread_probes};
use crate::block::priority::set_idle_io_class;
use crate::block::{Disk, DiskError, FaultClass};
use crate::units::{Range, Sectors};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Requests in flight where the disk is healthy.
pub const DEPTH: u32 = 4;

/// Sectors of a large request (1 MiB).
pub const CHUNK: Sectors = Sectors(2048);

/// Bytes of stack of a reading thread. The C library keeps stacks for the next thread, and what is mapped when a swap
/// begins is locked into memory: the usual 8 MiB each would be felt.
const STACK: usize = 256 << 10;

/// How often the caller is told how it goes.
const TICK: Duration = Duration::from_millis(100);

/// How long an idle thread sleeps before it looks for work again.
const NAP: Duration = Duration::from_millis(20);

/// How long known-good sectors that were read vouch for the disk.
const VOUCHED: Duration = Duration::from_secs(1);

/// How many places that have read are remembered as known to be good.
const REMEMBERED: usize = 64;

/// Asks the drive to read a range without sending the data.
pub type Verify<'a> = dyn Fn(Range) -> Result<(), DiskError> + Sync + 'a;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    Go,
    /// No: end as soon as the reads in flight have ended.
    Stop,
}

/// How far a survey is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Sectors of which it is known whether they read.
    pub settled: Sectors,
    /// What it is doing.
    pub phase: Phase,
    /// Blocks found bad so far, in sectors.
    pub bad: Sectors,
    /// Whether it is giving way to others.
    pub gives_way: bool,
}

/// Who is told how a run goes. Called from the thread that called [`run`].
pub trait Monitor {
    /// Ten times a second.
    fn tick(&mut self, standing: Standing) -> Flow;
    /// Whether the survey should be saved now.
    fn wants_to_save(&mut self, standing: Standing) -> bool;
    /// Saves the survey.
    fn save(&mut self, survey: Survey);
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The survey is done.
    Finished,
    /// The monitor has stopped it.
    Stopped,
}

/// Why a run ended early: nothing is said of any sector.
#[derive(Debug, thiserror::Error)]
pub enum RunFault {
    /// Trouble with the way to the disk.
    #[error("{0}. This is trouble with the device, its cable or its controller, and says nothing about single sectors")]
    Transport(DiskError),
    /// Trouble with the way to the disk, right after a request had failed.
    #[error(
        "{error}, and then {trouble}. This is trouble with the device, its cable or its controller, and says nothing about single sectors"
    )]
    TransportAfter {
        /// The error that was to be judged.
        error: DiskError,
        /// The one at a known-good place.
        trouble: DiskError,
    },
    /// The disk fails everywhere.
    #[error(
        "{error}. Sectors that were or should be good ({probe}) cannot be read either: this is trouble with the device, its cable or its controller, and says nothing about single sectors"
    )]
    NotTheMedium {
        /// The error that was to be judged.
        error: DiskError,
        /// A known-good place that failed, too.
        probe: Range,
    },
    /// The kernel refuses the request itself.
    #[error("{0}")]
    Request(DiskError),
    /// No thread could be started.
    #[error("cannot start a thread to read with: {0}")]
    Threads(io::Error),
}

impl RunFault {
    /// The request that the trouble began with, when it is trouble with the way to the disk.
    pub fn began_with(&self) -> Option<&DiskError> {
        match self {
            RunFault::Transport(error)
            | RunFault::TransportAfter { error, .. }
            | RunFault::NotTheMedium { error, .. } => Some(error),
            RunFault::Request(_) | RunFault::Threads(_) => None,
        }
    }
}

/// What the threads share.
struct Shared<'a, 'p> {
    survey: &'a mut Survey,
    pacer: &'a mut Pacer<'p>,
    fault: Option<RunFault>,
    stop: bool,
    done: bool,
    /// Places that have read, to be read again when a failure is doubted.
    good: Vec<Range>,
    vouched: Option<Instant>,
    answered: usize,
}

struct Crew<'a, 'p> {
    disk: &'a dyn Disk,
    verify: Option<&'a Verify<'a>>,
    /// Whether the reads come last in the disk's queue, where there is one that knows of ranks.
    yields: bool,
    /// Sectors of the largest request.
    chunk: Sectors,
    begun: Instant,
    shared: Mutex<Shared<'a, 'p>>,
    /// Wakes who attends.
    changed: Condvar,
    /// Wakes threads that wait for the moment when nothing is in flight.
    silence: Condvar,
}

/// Runs a survey of `disk` until it is done, stopped, or something is wrong that is not about sectors.
///
/// With `verify` large reads are made with it; what it reports is always looked at with reads.
///
/// # Errors
/// [`RunFault`]; the survey can go on from where it is.
pub fn run(
    disk: &dyn Disk,
    verify: Option<&Verify<'_>>,
    survey: &mut Survey,
    pacer: &mut Pacer<'_>,
    monitor: &mut dyn Monitor,
) -> Result<End, RunFault> {
    let yields = pacer.manners() != Manners::None;
    let depth = pacer.depth();
    let chunk = survey.shape().chunk.min(CHUNK);
    let shared =
        Shared { survey, pacer, fault: None, stop: false, done: false, good: Vec::new(), vouched: None, answered: 0 };
    let crew = Crew {
        disk,
        verify,
        yields,
        chunk,
        begun: Instant::now(),
        shared: Mutex::new(shared),
        changed: Condvar::new(),
        silence: Condvar::new(),
    };
    // One memory for all threads: large enough for huge pages, which halve what a read costs.
    let each = chunk.to_usize_bytes().unwrap_or(0).max(1);
    let mut memory = AlignedBuffer::roomy(each.saturating_mul(usize::try_from(depth).unwrap_or(1)));
    thread::scope(|scope| -> Result<(), RunFault> {
        let mut started_threads = Vec::new();
        for (number, buffer) in memory.chunks_mut(each).enumerate() {
            let crew = &crew;
            let started = thread::Builder::new()
                .name(format!("read-{number}"))
                .stack_size(STACK)
                .spawn_scoped(scope, move || crew.work(buffer));
            match started {
                Ok(thread) => started_threads.push(thread),
                // One thread is enough to go on with.
                Err(_) if number > 0 => break,
                Err(error) => return Err(RunFault::Threads(error)),
            }
        }
        crew.attend(monitor);
        // The end of the scope waits for what the threads do, and joining for the threads themselves. What panicked in one
        // has left the survey unfinished: nothing of it is believed.
        for thread in started_threads {
            if thread.join().is_err() {
                crew.lock().done = false;
            }
        }
        Ok(())
    })?;
    let shared = crew.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    match shared.fault {
        Some(fault) => Err(fault),
        None if shared.done => Ok(End::Finished),
        None => Ok(End::Stopped),
    }
}

impl<'a, 'p> Crew<'a, 'p> {
    fn lock(&self) -> MutexGuard<'_, Shared<'a, 'p>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the monitor how it goes, until it is over.
    fn attend(&self, monitor: &mut dyn Monitor) {
        let mut shared = self.lock();
        while !shared.is_over() {
            shared = self.changed.wait_timeout(shared, TICK).unwrap_or_else(PoisonError::into_inner).0;
            let standing = shared.standing(self.begun.elapsed());
            let saved = monitor.wants_to_save(standing).then(|| shared.survey.saved());
            drop(shared);
            // Outside the lock: saving may take its time, and reading goes on.
            if let Some(survey) = saved {
                // It may be saved on the very disk that is scanned: that is nobody else.
                self.lock().pacer.look_away(true);
                monitor.save(survey);
                self.lock().pacer.look_away(false);
            }
            let flow = monitor.tick(standing);
            shared = self.lock();
            shared.stop |= flow == Flow::Stop;
        }
    }

    /// One thread: takes requests and makes them, until it is over.
    fn work(&self, buffer: &mut [u8]) {
        // Some schedulers heed it; the thread ends with the run, and takes it along. Refused, it is done without.
        if self.yields {
            let _ = set_idle_io_class();
        }
        // The clock is looked at once for each read: where that is a system call, it would cost as much as the read.
        let mut now = self.begun.elapsed();
        while let Some(request) = self.take(&mut now) {
            let result = self.read(request, buffer);
            let begun = std::mem::replace(&mut now, self.begun.elapsed());
            self.answer(request, result, now, now.saturating_sub(begun));
        }
        self.changed.notify_all();
        self.silence.notify_all();
    }

    /// The next request to make; waits for it, and then sets `now`.
    fn take(&self, now: &mut Duration) -> Option<Request> {
        let mut shared = self.lock();
        loop {
            if shared.is_over() {
                return None;
            }
            let nap = match shared.pacer.admit(*now) {
                Admission::Wait(wait) => wait,
                Admission::Go(limit) => match shared.survey.next(limit.min(self.chunk)) {
                    Next::Read(request) => {
                        shared.pacer.begin(request.range.len());
                        return Some(request);
                    }
                    Next::Wait => NAP,
                    Next::Done => {
                        shared.done = true;
                        return None;
                    }
                },
            };
            shared = self.silence.wait_timeout(shared, nap).unwrap_or_else(PoisonError::into_inner).0;
            *now = self.begun.elapsed();
        }
    }

    fn read(&self, request: Request, buffer: &mut [u8]) -> Result<(), DiskError> {
        if let Some(verify) = self.verify.filter(|_| self.verifies(request)) {
            return verify(request.range);
        }
        let bytes = request.range.len().to_usize_bytes().unwrap_or(usize::MAX);
        self.disk.read(request.range.start(), buffer.get_mut(..bytes).unwrap_or_default())
    }

    fn verifies(&self, request: Request) -> bool {
        self.verify.is_some() && request.phase <= Phase::Rest
    }

    fn answer(&self, request: Request, result: Result<(), DiskError>, now: Duration, took: Duration) {
        let mut shared = self.lock();
        shared.pacer.end(now, request.range.len(), took);
        if shared.pacer.hears(now) {
            self.silence.notify_all();
        }
        // What the drive verifies is not in the kernel's counters.
        if self.verifies(request) {
            shared.pacer.discounts(request.range.len());
        }
        let answer = match result {
            Ok(()) => {
                shared.remember(request.range);
                Answer::Read(took)
            }
            Err(error) => match error.class() {
                FaultClass::Medium => Answer::Medium,
                FaultClass::Ambiguous => match shared.doubt(self.disk, error, request) {
                    Ok(()) => Answer::Doubtful,
                    Err(fault) => return shared.give_up(request, fault),
                },
                FaultClass::Transport => return shared.give_up(request, RunFault::Transport(error)),
                FaultClass::Request => return shared.give_up(request, RunFault::Request(error)),
            },
        };
        shared.survey.answer(request, answer);
    }
}

impl Shared<'_, '_> {
    fn is_over(&self) -> bool {
        self.stop || self.done || self.fault.is_some()
    }

    fn standing(&self, now: Duration) -> Standing {
        Standing {
            settled: self.survey.settled(),
            phase: self.survey.phase(),
            bad: self.survey.found().bad.sectors(),
            gives_way: self.pacer.gives_way(now),
        }
    }

    fn give_up(&mut self, request: Request, fault: RunFault) {
        self.survey.cancel(request);
        self.fault.get_or_insert(fault);
    }

    /// Remembers places that have read, spread over all that was read so far.
    fn remember(&mut self, range: Range) {
        self.answered = self.answered.wrapping_add(1);
        if self.good.len() < REMEMBERED {
            self.good.push(range);
        } else if let Some(old) = self.good.get_mut(self.answered.wrapping_mul(7) % REMEMBERED)
            && self.answered.is_multiple_of(5)
        {
            *old = range;
        }
    }

    /// Whether an EIO can be about its sector: known-good places must read. Before a block is condemned they are read
    /// each time.
    fn doubt(&mut self, disk: &dyn Disk, error: DiskError, request: Request) -> Result<(), RunFault> {
        let last_word = matches!(request.phase, Phase::Confirm | Phase::Retry);
        if !last_word && self.vouched.is_some_and(|at| at.elapsed() < VOUCHED) {
            return Ok(());
        }
        let enough = usize::try_from(PROBES).unwrap_or(usize::MAX);
        let turn = self.answered;
        let every = (self.good.len() / enough).max(1);
        let mut probes: Vec<Range> = self
            .good
            .iter()
            .cycle()
            .skip(turn % every)
            .step_by(every)
            .take(enough.min(self.good.len()))
            .copied()
            .collect();
        if probes.len() < enough {
            let mut avoid: Vec<Range> = self.survey.found().bad.iter().collect();
            avoid.push(request.range);
            probes.extend(spread_probes(disk, &avoid, PROBES));
        }
        for probe in &probes {
            self.pacer.counts(disk.logical_block().min(probe.len()));
        }
        match known_good_fails(disk, &probes) {
            Some((_, trouble)) if trouble.class() == FaultClass::Transport => {
                Err(RunFault::TransportAfter { error, trouble })
            }
            Some((probe, _)) => Err(RunFault::NotTheMedium { error, probe }),
            None => {
                self.vouched = Some(Instant::now());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
