//! What happens between SUSPEND and RESUME, as a job that two processes can run: the command, and its guardian if the
//! command dies.
//!
//! Invariants:
//! - nothing in here allocates, logs or touches a filesystem: all memory is in the [`WindowJob`];
//! - the phase is stored before the step that it names, so whoever takes over knows the most that can have happened;
//! - before [`Phase::Committing`] everything can be undone; from there on it is finished, or the old map is
//!   committed as a newer generation;
//! - a step that is run twice does the same as run once.

use super::dirty::DirtyWatch;
use super::salvage::Copy;
use crate::block::buffer::AlignedBuffer;
use crate::block::{Disk, DiskError, FaultClass};
use crate::dm::Window;
use crate::format::tombstone;
use crate::store::{Commit, CommitReport};
use crate::units::{Range, SECTOR_SIZE, Sectors};
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use uuid::Uuid;

/// How often a call is tried without which the device would stay suspended.
const TRIES: u32 = 3;

/// How far the window has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The new table is loaded; the device is not suspended.
    Armed = 0,
    /// Still so; of one group of copies, all but the heads is being written.
    Preparing = 1,
    /// SUSPEND was asked for.
    Suspending = 2,
    /// Sectors that were written meanwhile are copied again.
    Copying = 3,
    /// The new map is being committed.
    Committing = 4,
    /// The new map is durable.
    Committed = 5,
    /// The old map is being committed as a newer generation.
    Reverting = 6,
    /// The old map is durable.
    Reverted = 7,
    /// Neither is known to be durable.
    Unsettled = 8,
    /// The device runs.
    Done = 9,
}

impl Phase {
    /// The phase with this number; unknown numbers are [`Phase::Done`].
    pub fn from_u8(number: u8) -> Phase {
        const ALL: [Phase; 9] = [
            Phase::Armed,
            Phase::Preparing,
            Phase::Suspending,
            Phase::Copying,
            Phase::Committing,
            Phase::Committed,
            Phase::Reverting,
            Phase::Reverted,
            Phase::Unsettled,
        ];
        ALL.into_iter().find(|p| *p as u8 == number).unwrap_or(Phase::Done)
    }
}

/// Why sectors are left out of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The source cannot read them.
    Unreadable,
    /// The slot holds their tombstones.
    Tombstone,
}

/// A copy that may have to be repeated in the window.
#[derive(Debug)]
pub struct Recopy {
    /// What is copied where.
    pub copy: Copy,
    /// Sectors of the setup inside it that are known to have no data.
    pub gaps: Vec<(Range, Gap)>,
    /// Areas of the watch that it touches.
    pub areas: std::ops::Range<usize>,
}

/// Why the window was undone before the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndoCause {
    /// A device failed.
    Disk(DiskError),
    /// Sectors became readable or unreadable since they were copied: they must be looked at again.
    Unsteady(Range),
    /// A copy did not read back as it was written.
    Differs(Range),
}

/// How the window ended. Unless it says otherwise, the device runs.
#[derive(Debug)]
pub enum WindowEnd {
    /// The new table is in force, its map durable.
    Swapped(CommitReport),
    /// SUSPEND failed; nothing has changed.
    NotSuspended(Errno),
    /// Undone before the commit; the old table and map are in force.
    Undone(UndoCause),
    /// The kernel refused the new table: the old map was committed as a newer generation, the old table is in force.
    Refused(Errno),
    /// No spare took the new map: the old one was committed as a newer generation, the old table is in force.
    CommitFailed(CommitReport),
    /// Nobody knows which map is durable; the moved sectors answer EIO.
    Unsettled,
    /// The device could not be resumed.
    StillSuspended(Errno),
}

/// Everything that the window needs.
#[derive(Debug)]
pub struct WindowJob<'a> {
    /// The device.
    pub window: Box<dyn Window + 'a>,
    /// The new map.
    pub commit: Commit,
    /// The old map as the generation after that.
    pub revert: Commit,
    /// The group of copies that the commit writes first, as it is now: puts it back when the window ends before the commit.
    /// Without it nothing is written before SUSPEND.
    pub undo: Option<Commit>,
    /// What may have to be copied again.
    pub copies: Vec<Recopy>,
    /// Counts writes; without it everything is copied again.
    pub watch: Option<DirtyWatch<'a>>,
    /// One flag for each area of the watch.
    pub changed: Vec<bool>,
    /// Devices that the copies went to.
    pub destinations: Vec<Arc<dyn Disk>>,
    /// UUID of the setup, for tombstones.
    pub setup: Uuid,
    /// Logical block of the setup in sectors: gaps are whole ones.
    pub block: Sectors,
    /// Room for a chunk of data.
    pub data: AlignedBuffer,
    /// Room to read it back.
    pub check: AlignedBuffer,
}

impl WindowJob<'_> {
    /// Runs the window from the start.
    pub fn run(&mut self, phase: &AtomicU8) -> WindowEnd {
        if self.undo.is_some() {
            enter(phase, Phase::Preparing);
            self.commit.write_bodies();
        }
        enter(phase, Phase::Suspending);
        if let Err(errno) = self.window.suspend() {
            return self.undone(phase, WindowEnd::NotSuspended(errno));
        }
        enter(phase, Phase::Copying);
        if let Err(cause) = self.make_current() {
            return self.undone(phase, WindowEnd::Undone(cause));
        }
        self.finish(phase)
    }

    /// Takes over from a process that died in `phase`.
    pub fn take_over(&mut self, died_in: Phase, phase: &AtomicU8) -> WindowEnd {
        match died_in {
            Phase::Armed | Phase::Preparing | Phase::Suspending | Phase::Copying => {
                self.undone(phase, WindowEnd::NotSuspended(Errno::EINTR))
            }
            Phase::Committing => self.finish(phase),
            Phase::Committed => self.swap(phase, CommitReport::default()),
            Phase::Reverting => self.revert(phase, None, CommitReport::default()),
            Phase::Reverted => self.reverted(phase, None, CommitReport::default()),
            Phase::Unsettled => self.unsettled(phase),
            Phase::Done => WindowEnd::NotSuspended(Errno::EINTR),
        }
    }

    /// Lets the old table go on, then puts back the copies that were to become the new map's.
    fn undone(&mut self, phase: &AtomicU8, end: WindowEnd) -> WindowEnd {
        if let Err(stuck) = self.let_go() {
            return WindowEnd::StillSuspended(stuck);
        }
        if let Some(undo) = &mut self.undo {
            // Where it fails, the copies of the other group are what counts, and the next commit writes all of them.
            let _ = undo.run();
        }
        enter(phase, Phase::Done);
        end
    }

    /// Commits and swaps.
    fn finish(&mut self, phase: &AtomicU8) -> WindowEnd {
        enter(phase, Phase::Committing);
        let report = self.commit.run_first();
        if !report.stands() {
            return self.revert(phase, None, report);
        }
        enter(phase, Phase::Committed);
        self.swap(phase, report)
    }

    /// The device runs with the new table: what is left of the commit, which nobody has to wait for.
    fn swapped(&mut self, phase: &AtomicU8, mut report: CommitReport) -> WindowEnd {
        enter(phase, Phase::Done);
        self.commit.run_second(&mut report);
        WindowEnd::Swapped(report)
    }

    fn swap(&mut self, phase: &AtomicU8, report: CommitReport) -> WindowEnd {
        if matches!(self.window.suspended(), Ok(false)) {
            // Whoever died had resumed it already.
            return self.swapped(phase, report);
        }
        if !matches!(self.window.has_inactive(), Ok(true)) {
            // The kernel has refused the table before, and thrown it away.
            return self.revert(phase, Some(Errno::EINVAL), report);
        }
        match self.window.resume() {
            Ok(()) => self.swapped(phase, report),
            Err(errno) => self.revert(phase, Some(errno), report),
        }
    }

    /// Commits the old map as a newer generation, then lets the old table go on.
    fn revert(&mut self, phase: &AtomicU8, refused: Option<Errno>, report: CommitReport) -> WindowEnd {
        enter(phase, Phase::Reverting);
        self.revert.follows(&report);
        let reverted = self.revert.run();
        if !reverted.stands() {
            return self.unsettled(phase);
        }
        enter(phase, Phase::Reverted);
        self.reverted(phase, refused, report)
    }

    fn reverted(&mut self, phase: &AtomicU8, refused: Option<Errno>, report: CommitReport) -> WindowEnd {
        if let Err(stuck) = self.let_go() {
            return WindowEnd::StillSuspended(stuck);
        }
        enter(phase, Phase::Done);
        match refused {
            Some(errno) => WindowEnd::Refused(errno),
            None => WindowEnd::CommitFailed(report),
        }
    }

    /// Puts EIO in the place of the moved sectors. The kernel allocates for this table; that it must be loaded
    /// now is why it is the last resort. While it cannot be had, the device stays suspended: I/O that waits is better
    /// than an update that is forgotten.
    fn unsettled(&mut self, phase: &AtomicU8) -> WindowEnd {
        enter(phase, Phase::Unsettled);
        let mut stuck = Errno::EIO;
        for _ in 0..TRIES {
            match self.window.load_prepared().and_then(|()| self.window.resume()) {
                Ok(()) => {
                    enter(phase, Phase::Done);
                    return WindowEnd::Unsettled;
                }
                Err(errno) => stuck = errno,
            }
        }
        WindowEnd::StillSuspended(stuck)
    }

    /// Resumes if suspended, with the table that is in force.
    fn let_go(&mut self) -> Result<(), Errno> {
        insist(|| self.window.clear())?;
        // If it does not say whether it is suspended, a resume does no harm.
        if !matches!(self.window.suspended(), Ok(false)) {
            insist(|| self.window.resume())?;
        }
        Ok(())
    }

    /// Copies again what was written since it was copied, and flushes if that was anything: what was copied before was
    /// flushed before.
    fn make_current(&mut self) -> Result<(), UndoCause> {
        let gaps = Gaps { setup: self.setup, block: self.block };
        self.changed.fill(false);
        let known = self.watch.as_mut().is_some_and(|watch| watch.refresh(&mut self.changed).is_ok());
        let watch = self.watch.as_ref().filter(|_| known);
        let mut repeated = false;
        for recopy in &self.copies {
            // What is held is asked of the spare itself: it costs little, and a write to it must not be lost.
            for (gap, _) in recopy.gaps.iter().filter(|(_, why)| *why == Gap::Tombstone) {
                gaps.check(&recopy.copy, *gap, Gap::Tombstone, &mut self.data)?;
            }
            let Some(watch) = watch else {
                repeat(recopy, recopy.copy.range, Trust::Nothing, gaps, &mut self.data, &mut self.check)?;
                repeated = true;
                continue;
            };
            for area in recopy.areas.clone().filter(|area| self.changed.get(*area) == Some(&true)) {
                let part = watch.area_range(area).and_then(|range| range.intersect(recopy.copy.range));
                let Some(part) = part else { continue };
                repeat(recopy, part, Trust::Watch, gaps, &mut self.data, &mut self.check)?;
                repeated = true;
            }
        }
        for disk in self.destinations.iter().filter(|_| repeated) {
            disk.flush().map_err(UndoCause::Disk)?;
        }
        Ok(())
    }
}

/// Tries again what must not fail.
fn insist(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut result = call();
    for _ in 1..TRIES {
        if result.is_ok() {
            break;
        }
        result = call();
    }
    result
}

fn enter(phase: &AtomicU8, next: Phase) {
    phase.store(next as u8, Ordering::SeqCst);
}

/// Whether a part is known to have been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// The watch says that it was written.
    Watch,
    /// Nobody knows.
    Nothing,
}

/// Repeats a part of a copy; every gap must still be one, and no new one may appear. A gap that was written has to be
/// looked at again outside the window: reading bad sectors takes too long in here.
fn repeat(
    recopy: &Recopy,
    part: Range,
    trust: Trust,
    gaps: Gaps,
    data: &mut [u8],
    check: &mut [u8],
) -> Result<(), UndoCause> {
    let mut at = part.start();
    for (gap, why) in &recopy.gaps {
        let Some(gap) = gap.intersect(part) else { continue };
        if let Some(solid) = Range::between(at, gap.start()) {
            repeat_solid(&recopy.copy, solid, data, check)?;
        }
        match (why, trust) {
            (Gap::Tombstone, _) => {}
            (Gap::Unreadable, Trust::Watch) => return Err(UndoCause::Unsteady(gap)),
            (Gap::Unreadable, Trust::Nothing) => gaps.check(&recopy.copy, gap, *why, data)?,
        }
        at = gap.end();
    }
    match Range::between(at, part.end()) {
        Some(solid) => repeat_solid(&recopy.copy, solid, data, check),
        None => Ok(()),
    }
}

fn place(base: Sectors, copy: &Copy, at: Sectors) -> Sectors {
    Sectors(base.0.saturating_add(at.saturating_sub(copy.range.start()).0))
}

fn repeat_solid(copy: &Copy, solid: Range, data: &mut [u8], check: &mut [u8]) -> Result<(), UndoCause> {
    let room = u64::try_from(data.len() / SECTOR_SIZE).unwrap_or(1).max(1);
    let mut at = solid.start();
    while let Some(part) = Range::between(at, solid.end()) {
        let len = part.len().min(Sectors(room));
        let bytes = len.to_usize_bytes().unwrap_or(0);
        let data = data.get_mut(..bytes).unwrap_or_default();
        let check = check.get_mut(..bytes).unwrap_or_default();
        let (from, to) = (place(copy.from, copy, at), place(copy.to, copy, at));
        copy.source.read(from, data).map_err(|error| match error.class() {
            FaultClass::Medium | FaultClass::Ambiguous => UndoCause::Unsteady(part),
            _ => UndoCause::Disk(error),
        })?;
        copy.destination.write(to, data).map_err(UndoCause::Disk)?;
        copy.destination.read(to, check).map_err(UndoCause::Disk)?;
        if data != check {
            return Err(UndoCause::Differs(part));
        }
        at = Sectors(at.0.saturating_add(len.0));
    }
    Ok(())
}

/// Asks whether gaps are still what they were.
#[derive(Clone, Copy, Debug)]
struct Gaps {
    setup: Uuid,
    block: Sectors,
}

impl Gaps {
    /// Reads the source of a gap, block by block. A block with some of its tombstones is a torn write, and held.
    fn check(self, copy: &Copy, gap: Range, why: Gap, data: &mut [u8]) -> Result<(), UndoCause> {
        let block = copy.source.logical_block().max(self.block);
        let bytes = block.to_usize_bytes().unwrap_or(SECTOR_SIZE);
        let mut at = gap.start();
        while at < gap.end() {
            let buf = data.get_mut(..bytes).unwrap_or_default();
            let read = copy.source.read(place(copy.from, copy, at), buf);
            let unchanged = match (why, read) {
                (Gap::Unreadable, Err(error)) => {
                    matches!(error.class(), FaultClass::Medium | FaultClass::Ambiguous)
                }
                (Gap::Tombstone, Ok(())) => (at.0..)
                    .zip(buf.chunks_exact(SECTOR_SIZE))
                    .any(|(sector, data)| tombstone::is_tombstone(data, self.setup, Sectors(sector))),
                _ => false,
            };
            if !unchanged {
                return Err(UndoCause::Unsteady(gap));
            }
            at = Sectors(at.0.saturating_add(block.0));
        }
        Ok(())
    }
}

/// Runs a window.
pub trait WindowRunner: std::fmt::Debug {
    /// Runs it to its end, whatever happens to this process, as far as the runner can see to that.
    ///
    /// # Errors
    /// When it could not be begun; nothing has changed then.
    fn run(&self, job: &mut WindowJob<'_>) -> std::io::Result<WindowEnd>;
}

/// Runs the window in this process without a guardian: for tests and for devices that nobody uses yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unguarded;

impl WindowRunner for Unguarded {
    fn run(&self, job: &mut WindowJob<'_>) -> std::io::Result<WindowEnd> {
        Ok(job.run(&AtomicU8::new(Phase::Armed as u8)))
    }
}
