//! Reads and commits the copies on the spares.
//!
//! Invariants:
//! - the five copies are read one by one, so a bad sector under one cannot hide another;
//! - reading never writes;
//! - a commit writes copies 0, 2, 4, flushes, writes copies 1, 3, flushes: at any instant one whole group is intact.
//!   On a spare whose second group alone needs it (an interrupted or failed commit left it damaged or older), that
//!   group goes first: else a crash now could leave no copy of the newest generation, or none at all;
//! - [`Commit::run`] allocates nothing: it is called while the setup is suspended.

pub mod raw;

use crate::block::buffer::AlignedBuffer;
use crate::block::{Disk, DiskError};
use crate::format::choose::{ChooseError, Chosen, Expected, choose, reject_unexpected};
use crate::format::copy::{Encoded, Verdict, index_u32, judge_header};
use crate::format::{COMMIT_GROUP_A, COMMIT_GROUP_B, COPY_ALIGNMENT, COPY_STARTS, MAX_SPARES};
use crate::units::Sectors;
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
    let mut verdicts: Vec<Verdict> =
        (0..COPY_STARTS.len()).map(|index| RawCopy::read(disk, index).judge(index)).collect();
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

/// A commit that is ready to be written: all memory that it needs is in here.
#[derive(Debug)]
pub struct Commit {
    targets: Vec<CommitTarget>,
    /// For each target: whether group B goes first.
    b_first: [bool; MAX_SPARES],
    /// For each target: the copies to write.
    wanted: [[bool; 5]; MAX_SPARES],
    encoded: Encoded,
    scratch: AlignedBuffer,
}

impl Commit {
    /// Prepares to write `encoded` to `targets` (at most 16; further ones are left out). Reads what the targets hold,
    /// to know which group of copies must be left alone longest.
    pub fn new(mut targets: Vec<CommitTarget>, encoded: Encoded) -> Commit {
        targets.truncate(MAX_SPARES);
        let scratch = AlignedBuffer::new(encoded.len());
        let mut b_first = [false; MAX_SPARES];
        for (target, first) in targets.iter().zip(&mut b_first) {
            let expected = Expected { setup: None, spare: Some(target.uuid) };
            if let Ok(chosen) = read_copies(&*target.disk, expected).choose() {
                *first = is_b_first(|index| chosen.current.contains(&index));
            }
        }
        Commit { targets, b_first, wanted: [[true; 5]; MAX_SPARES], encoded, scratch }
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

    /// Writes one group to all targets, flushes them, then the other, then flushes again. A copy that cannot be written
    /// does not keep the others from being written; but where nothing of the first group became durable, the second is
    /// left alone: it may be all that this spare has. Can be run again: it writes the same bytes.
    pub fn run(&mut self) -> CommitReport {
        let mut report = CommitReport::default();
        for (state, wanted) in report.spares.iter_mut().zip(&self.wanted).take(self.targets.len()) {
            state.durable = wanted.map(|wanted| !wanted);
        }
        for second in [false, true] {
            let mut written = [[false; 5]; MAX_SPARES];
            let targets = self.targets.iter().zip(&self.b_first).zip(&self.wanted);
            for ((((target, b_first), wanted), state), written) in targets.zip(&mut report.spares).zip(&mut written) {
                if second && !state.durable.contains(&true) {
                    continue;
                }
                let group = if *b_first == second { &COMMIT_GROUP_A[..] } else { &COMMIT_GROUP_B[..] };
                for index in group.iter().filter(|index| wanted.get(**index) == Some(&true)) {
                    match write_copy(target, &self.encoded, *index, &mut self.scratch) {
                        Ok(()) => written.iter_mut().skip(*index).take(1).for_each(|w| *w = true),
                        Err(error) => state.note(error),
                    }
                }
            }
            for ((target, state), written) in self.targets.iter().zip(&mut report.spares).zip(&written) {
                if !written.contains(&true) {
                    continue;
                }
                match target.disk.flush() {
                    Ok(()) => state.durable.iter_mut().zip(written).for_each(|(d, w)| *d |= w),
                    Err(error) => state.note(error),
                }
            }
        }
        report
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

fn write_copy(
    target: &CommitTarget,
    encoded: &Encoded,
    index: usize,
    scratch: &mut AlignedBuffer,
) -> Result<(), DiskError> {
    let (Some(start), Some(number)) = (COPY_STARTS.get(index).copied(), index_u32(index)) else {
        return Ok(());
    };
    encoded.stamp(scratch, target.uuid, target.data_start, number);
    target.disk.write(start, scratch)
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
