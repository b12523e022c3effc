//! Reads and commits the copies on the spares.
//!
//! Invariants:
//! - the five copies are read one by one, so a bad sector under one cannot hide another;
//! - reading never writes;
//! - a commit writes copies 0, 2, 4, flushes, writes copies 1, 3, flushes: at any instant one whole group is intact.
//!   On a spare whose second group alone needs it (an interrupted or failed commit left it damaged or older), that
//!   group goes first: else a crash now could leave no copy of the newest generation, or none at all;
//! - what of the first group is not its heads may be written ahead ([`Commit::write_bodies`]): its copies are damaged then
//!   until the heads follow, and the other group is what counts, as in the middle of any commit;
//! - within a group all spares are written at once where the kernel can do that; what it did not take is written one
//!   after the other. They are flushed one after the other by this process itself: see `block/parallel.rs`;
//! - [`Commit::run`] allocates nothing, and what it writes was made ready before: it is called while the setup is
//!   suspended.

pub mod raw;

use crate::block::buffer::AlignedBuffer;
use crate::block::parallel::{Outcome, Parallel, Request};
use crate::block::{Disk, DiskError, Operation, check_request};
use crate::format::choose::{ChooseError, Chosen, Expected, choose, reject_unexpected};
use crate::format::copy::{Encoded, Judge, Verdict, index_u32, judge_header};
use crate::format::{COMMIT_GROUP_A, COMMIT_GROUP_B, COPY_ALIGNMENT, COPY_STARTS, MAX_SPARES};
use crate::units::{Bytes, Sectors};
use nix::errno::Errno;
use raw::RawCopy;
use std::sync::Arc;
use uuid::Uuid;

/// What stands on a device where copies would be.
#[derive(Clone, Debug)]
pub struct SpareReading {
    /// Name of the device.
    pub device: Arc<str>,
    /// One verdict for each copy.
    pub verdicts: Vec<Verdict>,
}

impl SpareReading {
    /// The copy to go by.
    ///
    /// # Errors
    /// See [`choose`].
    pub fn choose(&self) -> Result<Chosen, ChooseError> {
        choose(&self.verdicts)
    }

    /// Whether any copy is, or once was, metadata of ours.
    pub fn has_traces(&self) -> bool {
        self.verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::Valid(_) | Verdict::Damaged(_) | Verdict::Unsupported(_)))
    }
}

/// Reads all five copies of a device and judges each.
pub fn read_copies(disk: &dyn Disk, expected: Expected) -> SpareReading {
    read_copies_by(&mut Judge::default(), disk, expected)
}

/// The same, by one who has judged the copies of other spares.
pub fn read_copies_by(judge: &mut Judge, disk: &dyn Disk, expected: Expected) -> SpareReading {
    let mut verdicts: Vec<Verdict> =
        (0..COPY_STARTS.len()).map(|index| RawCopy::read(disk, index).judge_by(judge, index)).collect();
    reject_unexpected(&mut verdicts, expected);
    SpareReading { device: disk.name().clone(), verdicts }
}

/// A generation above all that were ever begun for this setup on the device, as far as its headers tell: a torn copy may
/// become whole when the same generation is written over it with other content and torn again, so none may be used
/// twice. Where a header cannot be read, room is left for what it may say (one command begins two at most). At least
/// `least`.
pub fn unused_generation(disk: &dyn Disk, setup: Uuid, least: u64) -> u64 {
    const ROOM: u64 = 16;
    let mut head = AlignedBuffer::new(COPY_ALIGNMENT);
    let (mut next, mut hidden) = (least, false);
    for (index, start) in COPY_STARTS.into_iter().enumerate() {
        if disk.read(start, &mut head).is_err() {
            hidden = true;
            continue;
        }
        let header = index_u32(index).and_then(|number| judge_header(&head, number).ok());
        if let Some(header) = header.filter(|h| h.setup == *setup.as_bytes()) {
            next = next.max(header.generation.get().saturating_add(1));
        }
    }
    if hidden { next.saturating_add(ROOM) } else { next }
}

/// A spare that takes part in a commit.
#[derive(Clone, Debug)]
pub struct CommitTarget {
    /// The device.
    pub disk: Arc<dyn Disk>,
    /// The spare's UUID.
    pub uuid: Uuid,
    /// First sector of its data area.
    pub data_start: Sectors,
}

impl CommitTarget {
    /// The error for a request of so many bytes; allocates nothing.
    fn error(&self, operation: Operation, start: Sectors, bytes: usize, errno: Errno) -> DiskError {
        let len = Bytes(u64::try_from(bytes).unwrap_or(u64::MAX)).to_sectors_down();
        DiskError { device: self.disk.name().clone(), operation, start, len, errno }
    }
}

/// How a commit went on one spare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpareCommit {
    /// Which copies are durable.
    pub durable: [bool; 5],
    /// The first error.
    pub error: Option<DiskError>,
}

impl SpareCommit {
    /// Whether all copies of a group are durable.
    fn holds(&self, group: &[usize]) -> bool {
        group.iter().all(|index| self.durable.get(*index) == Some(&true))
    }

    /// Whether at least one whole group is durable.
    pub fn holds_a_group(&self) -> bool {
        self.holds(&COMMIT_GROUP_A) || self.holds(&COMMIT_GROUP_B)
    }

    fn note(&mut self, error: DiskError) {
        self.error.get_or_insert(error);
    }
}

/// How a commit went.
#[derive(Clone, Debug, Default)]
pub struct CommitReport {
    spares: [SpareCommit; MAX_SPARES],
}

impl CommitReport {
    /// Whether the commit stands: at least one spare holds a whole group of it, durably.
    pub fn stands(&self) -> bool {
        self.spares.iter().any(SpareCommit::holds_a_group)
    }

    /// Whether every target took all five copies.
    pub fn complete(&self) -> bool {
        self.first_error().is_none()
    }

    /// The first error, if any.
    pub fn first_error(&self) -> Option<&DiskError> {
        self.spares.iter().find_map(|s| s.error.as_ref())
    }

    /// How it went on target number `index`.
    pub fn target(&self, index: usize) -> Option<&SpareCommit> {
        self.spares.get(index)
    }
}

/// Copies on a spare.
const COPIES: usize = COPY_STARTS.len();

/// One flag for each copy on each spare.
type Copies = [[bool; COPIES]; MAX_SPARES];

/// Which bytes of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of it, or the head alone where the rest was written ahead.
    Rest,
    /// All but the head.
    Body,
}

/// The most copies of a group on all spares.
const MOST_AT_ONCE: usize = MAX_SPARES * COMMIT_GROUP_A.len();

/// A commit that is ready to be written: all memory that it needs is in here.
#[derive(Debug)]
pub struct Commit {
    targets: Vec<CommitTarget>,
    /// For each target: whether group B goes first.
    b_first: [bool; MAX_SPARES],
    /// For each target: the copies to write.
    wanted: Copies,
    /// For each target: the copies of which all but the head is durable already.
    ahead: Copies,
    encoded: Encoded,
    /// The first [`COPY_ALIGNMENT`] bytes of each copy for each target: only these differ.
    heads: Vec<[AlignedBuffer; COPIES]>,
    /// A whole copy; the same for all but for its head.
    scratch: AlignedBuffer,
    /// For several spares at once.
    parallel: Option<Parallel>,
}

impl Commit {
    /// Prepares to write `encoded` to `targets` (at most 16; further ones are left out). Reads what the targets hold,
    /// to know which group of copies must be left alone longest.
    pub fn new(targets: Vec<CommitTarget>, encoded: Encoded) -> Commit {
        let mut commit = Commit::one_after_the_other(targets, encoded);
        let able = commit.targets.iter().filter(|target| target.disk.descriptor().is_some()).count();
        if able > 1 {
            commit.parallel = Parallel::new(MOST_AT_ONCE);
        }
        commit
    }

    /// The same, to be written to one spare after the other.
    pub fn one_after_the_other(mut targets: Vec<CommitTarget>, encoded: Encoded) -> Commit {
        targets.truncate(MAX_SPARES);
        let mut b_first = [false; MAX_SPARES];
        let mut judge = Judge::default();
        for (target, first) in targets.iter().zip(&mut b_first) {
            let expected = Expected { setup: None, spare: Some(target.uuid) };
            if let Ok(chosen) = read_copies_by(&mut judge, &*target.disk, expected).choose() {
                *first = is_b_first(|index| chosen.current.contains(&index));
            }
        }
        Commit::prepared(targets, b_first, encoded)
    }

    fn prepared(targets: Vec<CommitTarget>, b_first: [bool; MAX_SPARES], encoded: Encoded) -> Commit {
        let mut scratch = AlignedBuffer::new(encoded.len());
        let mut head = |target: &CommitTarget, index: usize| {
            let mut head = AlignedBuffer::new(COPY_ALIGNMENT);
            if let Some(number) = index_u32(index) {
                encoded.stamp(&mut scratch, target.uuid, target.data_start, number);
                head.iter_mut().zip(scratch.iter()).for_each(|(to, from)| *to = *from);
            }
            head
        };
        let heads = targets.iter().map(|target| std::array::from_fn(|index| head(target, index))).collect();
        let (wanted, ahead) = ([[true; COPIES]; MAX_SPARES], [[false; COPIES]; MAX_SPARES]);
        Commit { targets, b_first, wanted, ahead, encoded, heads, scratch, parallel: None }
    }

    /// Prepares to write other content to the same targets, which hold what they held when this one was prepared.
    pub fn beside(&self, encoded: Encoded) -> Commit {
        let mut commit = Commit::prepared(self.targets.clone(), self.b_first, encoded);
        commit.parallel = self.parallel.as_ref().and_then(|_| Parallel::new(MOST_AT_ONCE));
        commit
    }

    /// Has target number `index` lose these copies last: a person has chosen them.
    pub fn keep_longest(&mut self, index: usize, good: &[usize]) {
        if let Some(first) = self.b_first.get_mut(index).filter(|_| !good.is_empty()) {
            *first = is_b_first(|copy| good.contains(&copy));
        }
    }

    /// Has only these copies of target number `index` written. The others count as durable: they are good.
    pub fn write_only(&mut self, index: usize, copies: &[usize]) {
        if let Some(wanted) = self.wanted.get_mut(index) {
            *wanted = std::array::from_fn(|copy| copies.contains(&copy));
        }
    }

    /// Takes note that `before` was written since this commit was prepared.
    pub fn follows(&mut self, before: &CommitReport) {
        for (state, first) in before.spares.iter().zip(&mut self.b_first) {
            if state.durable.contains(&true) {
                *first = is_b_first(|index| state.durable.get(index) == Some(&true));
            }
        }
    }

    /// What is to be written.
    pub fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// Has only the copies of the group written that goes first, on each target.
    pub fn write_first_group_only(&mut self) {
        self.wanted = self.wanted_first();
    }

    /// What is to be written of the group that goes first.
    fn wanted_first(&self) -> Copies {
        let mut wanted = self.wanted;
        for (wanted, b_first) in wanted.iter_mut().zip(&self.b_first) {
            *wanted = in_group(wanted, first_group(*b_first));
        }
        wanted
    }

    /// Writes one group to all targets, flushes them, then the other, then flushes again. A copy that cannot be written
    /// does not keep the others from being written; but where nothing of the first group became durable, the second is
    /// left alone: it may be all that this spare has. Can be run again: it writes the same bytes.
    pub fn run(&mut self) -> CommitReport {
        let mut report = self.run_first();
        self.run_second(&mut report);
        report
    }

    /// Writes all but the heads of the first group, and flushes: what is left of it for [`Commit::run_first`] is small. What
    /// cannot be written now is tried again there.
    pub fn write_bodies(&mut self) {
        if self.scratch.len() <= COPY_ALIGNMENT {
            return;
        }
        let mut report = CommitReport::default();
        let written = self.write(Part::Body, &self.wanted_first(), &mut report);
        self.flush(&written, &mut report);
        for (ahead, state) in self.ahead.iter_mut().zip(&report.spares) {
            *ahead = state.durable;
        }
    }

    /// Writes the first group and flushes. The commit may stand then.
    pub fn run_first(&mut self) -> CommitReport {
        let mut report = CommitReport::default();
        for (state, wanted) in report.spares.iter_mut().zip(&self.wanted).take(self.targets.len()) {
            state.durable = wanted.map(|wanted| !wanted);
        }
        self.run_group(false, &mut report);
        report
    }

    /// Writes the second group where the first became durable, and flushes.
    pub fn run_second(&mut self, report: &mut CommitReport) {
        self.run_group(true, report);
    }

    fn run_group(&mut self, second: bool, report: &mut CommitReport) {
        let mut wanted = [[false; COPIES]; MAX_SPARES];
        let targets = self.targets.iter().zip(&self.b_first).zip(&self.wanted).zip(&report.spares);
        for ((((_, b_first), asked), state), wanted) in targets.zip(&mut wanted) {
            if !second || state.durable.contains(&true) {
                *wanted = in_group(asked, first_group(*b_first != second));
            }
        }
        let written = self.write(Part::Rest, &wanted, report);
        self.flush(&written, report);
    }

    /// Writes the wanted copies of each target; which were written.
    fn write(&mut self, part: Part, wanted: &Copies, report: &mut CommitReport) -> Copies {
        let outcomes = self.write_at_once(part, wanted);
        let mut written = [[false; COPIES]; MAX_SPARES];
        let all = self.targets.iter().zip(&self.heads).zip(wanted).zip(&outcomes).zip(&self.ahead);
        for (((((target, heads), wanted), outcomes), ahead), (state, written)) in
            all.zip(report.spares.iter_mut().zip(&mut written))
        {
            let copies = COPY_STARTS.iter().zip(heads).zip(outcomes).zip(ahead).zip(written).enumerate();
            for (_, ((((start, head), outcome), ahead), written)) in
                copies.filter(|(index, _)| wanted.get(*index) == Some(&true))
            {
                let (skipped, bytes) = span(part, *ahead, self.scratch.len());
                let at = Sectors(start.0.saturating_add(skipped.to_sectors_down().0));
                let result = match outcome {
                    Outcome::Done => Ok(()),
                    Outcome::Failed(errno) => Err(target.error(Operation::Write, at, bytes.len(), *errno)),
                    Outcome::Untried => {
                        self.scratch.iter_mut().zip(head.iter()).for_each(|(to, from)| *to = *from);
                        target.disk.write(at, self.scratch.get(bytes).unwrap_or_default())
                    }
                };
                match result {
                    Ok(()) => *written = true,
                    Err(error) => state.note(error),
                }
            }
        }
        written
    }

    /// Writes the wanted copies to all targets at once, as far as the kernel takes that.
    fn write_at_once(&mut self, part: Part, wanted: &Copies) -> [[Outcome; COPIES]; MAX_SPARES] {
        let mut outcomes = [[Outcome::Untried; COPIES]; MAX_SPARES];
        let Some(parallel) = &mut self.parallel else { return outcomes };
        let body = self.scratch.get(COPY_ALIGNMENT..).unwrap_or_default();
        let mut places = [(0, 0); MOST_AT_ONCE];
        let mut requests: [Option<Request<'_>>; MOST_AT_ONCE] = [None; MOST_AT_ONCE];
        let mut free = places.iter_mut().zip(&mut requests);
        let targets = self.targets.iter().zip(&self.heads).zip(wanted).zip(&self.ahead).enumerate();
        for (number, (((target, heads), wanted), ahead)) in targets {
            let Some(device) = target.disk.descriptor() else { continue };
            let copies = COPY_STARTS.iter().zip(heads).zip(ahead).enumerate();
            for (index, ((start, head), ahead)) in copies.filter(|(index, _)| wanted.get(*index) == Some(&true)) {
                let (skipped, bytes) = span(part, *ahead, self.scratch.len());
                let at = Sectors(start.0.saturating_add(skipped.to_sectors_down().0));
                // A request that the disk itself would refuse is left to it.
                let fits = check_request(&*target.disk, Operation::Write, at, bytes.len()).is_ok();
                let Some(offset) = at.to_bytes().filter(|_| fits) else { continue };
                let Some((place, request)) = free.next() else { continue };
                *place = (number, index);
                let pieces = match part {
                    Part::Body => [body, &[]],
                    Part::Rest if *ahead => [&**head, &[][..]],
                    Part::Rest => [&**head, body],
                };
                *request = Some(Request { device, offset: offset.0, pieces, outcome: Outcome::Untried });
            }
        }
        parallel.run(&mut requests);
        for ((number, index), request) in places.iter().zip(&requests) {
            let outcome = outcomes.get_mut(*number).and_then(|copies| copies.get_mut(*index));
            if let (Some(outcome), Some(request)) = (outcome, request) {
                *outcome = request.outcome;
            }
        }
        outcomes
    }

    /// Flushes the targets of which something was written. What was written is durable where that succeeded.
    fn flush(&self, written: &Copies, report: &mut CommitReport) {
        let targets = self.targets.iter().zip(written).zip(&mut report.spares);
        for ((target, written), state) in targets.filter(|((_, written), _)| written.contains(&true)) {
            match target.disk.flush() {
                Ok(()) => state.durable.iter_mut().zip(written).for_each(|(d, w)| *d |= w),
                Err(error) => state.note(error),
            }
        }
    }
}

/// The copies of a group: of B when it goes first, else of A.
fn first_group(b: bool) -> &'static [usize] {
    if b { &COMMIT_GROUP_B } else { &COMMIT_GROUP_A }
}

/// Those of the copies that are in the group.
fn in_group(copies: &[bool; COPIES], group: &[usize]) -> [bool; COPIES] {
    let mut both = [false; COPIES];
    let asked = copies.iter().enumerate().map(|(index, asked)| *asked && group.contains(&index));
    both.iter_mut().zip(asked).for_each(|(both, one)| *both = one);
    both
}

/// Where in a copy of so many bytes a write begins, and which of its bytes it has.
fn span(part: Part, ahead: bool, len: usize) -> (Bytes, std::ops::Range<usize>) {
    let head = COPY_ALIGNMENT.min(len);
    match part {
        Part::Body => (Bytes(u64::try_from(head).unwrap_or(0)), head..len),
        Part::Rest if ahead => (Bytes(0), 0..head),
        Part::Rest => (Bytes(0), 0..len),
    }
}

/// Whether group B is the one to write first: when it holds less of what is current than group A does. So what is
/// current is never overwritten before something newer is durable.
fn is_b_first(current: impl Fn(usize) -> bool) -> bool {
    let whole = |group: &[usize]| group.iter().all(|index| current(*index));
    let any = |group: &[usize]| group.iter().any(|index| current(*index));
    match (any(&COMMIT_GROUP_A), any(&COMMIT_GROUP_B)) {
        (true, false) => true,
        (true, true) => whole(&COMMIT_GROUP_A) && !whole(&COMMIT_GROUP_B),
        (false, _) => false,
    }
}

/// Erases all five copies: the first block of each is zeroed, then flushed. For `destroy`, after the commit that
/// says so, and for a `create` that failed. Copies that are not the newest go first: else a crash in between could leave
/// an older one, and the setup would be back.
///
/// # Errors
/// The first [`DiskError`]; the remaining copies are tried all the same.
pub fn erase_copies(disk: &dyn Disk) -> Result<(), DiskError> {
    let zeros = AlignedBuffer::new(COPY_ALIGNMENT);
    let current = read_copies(disk, Expected::default()).choose().map(|chosen| chosen.current).unwrap_or_default();
    let mut result = Ok(());
    for newest in [false, true] {
        let mut starts =
            COPY_STARTS.iter().enumerate().filter(|(index, _)| current.contains(index) == newest).peekable();
        if starts.peek().is_none() {
            continue;
        }
        for (_, start) in starts {
            result = result.and(disk.write(*start, &zeros));
        }
        result = result.and(disk.flush());
    }
    result
}
