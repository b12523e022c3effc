//! The moves of a plan that are still to be copied, in order, and what becomes of one whose place does not take it.
//!
//! Invariant: a move is in the queue, or among those that are copied, or was left out and told of; its slot is nobody else's.

use super::{Joined, Work, copy_run, copy_to_main, copy_to_spare, destinations, may_go_to};
use crate::engine::salvage::{CHUNK, CopyFault, Salvager};
use crate::engine::splice::{ATTEMPTS, SpliceOptions, SpliceOutcome, add_found_bad};
use crate::engine::{EngineError, Session};
use crate::map::SpareIndex;
use crate::plan::moves::{OnSpares, add_bad, sectors_of};
use crate::plan::{Home, Move, MoveKind, MovePlan, Refusal};
use crate::pool::Pool;
use crate::units::{Range, Sectors};
use std::sync::Arc;

/// Copies all moves of the plan, replacing bad slots and leaving out what cannot be moved, and flushes what was written. The
/// slots of those that come `later` are taken already.
pub(in crate::engine) fn copy_all<'a>(
    session: &Session<'a>,
    plan: &MovePlan,
    later: &[Move],
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<Work<'a>, EngineError> {
    let work = Work::watching(session, &plan.moves);
    let queue = plan.moves.iter().rev().map(|step| (*step, 0)).collect();
    let (done, total) = (Sectors::ZERO, plan.sectors());
    let mut copying = Copying { session, plan, later, options, work, queue, done, total };
    loop {
        copying.run(salvager, outcome)?;
        match copying.not_flushed()? {
            Some((spare, error)) => copying.avoid(spare, None, error, outcome)?,
            None => return Ok(Work { flushed: true, ..copying.work }),
        }
    }
}

/// The copying of a plan that is under way.
struct Copying<'r, 'a> {
    session: &'r Session<'a>,
    plan: &'r MovePlan,
    later: &'r [Move],
    options: &'r SpliceOptions<'r>,
    work: Work<'a>,
    /// What is left, the next one last, and how often its slot was replaced.
    queue: Vec<(Move, u32)>,
    done: Sectors,
    /// Sectors of the plan.
    total: Sectors,
}

impl Copying<'_, '_> {
    fn run(&mut self, salvager: &mut Salvager, outcome: &mut SpliceOutcome) -> Result<(), EngineError> {
        // Moves at the end of the queue that cannot be copied together.
        let mut singly = 0usize;
        while !self.queue.is_empty() {
            if singly == 0 {
                let run = self.next_run();
                match copy_run(self.session, self.plan, &run, salvager, self.options, &mut self.work)? {
                    Joined::Copied if !run.is_empty() => {
                        self.queue.truncate(self.queue.len().saturating_sub(run.len()));
                        self.tell(sectors_of(&run));
                        continue;
                    }
                    Joined::Copied => {}
                    Joined::Refused => singly = run.len(),
                }
            }
            singly = singly.saturating_sub(1);
            self.copy_next(salvager, outcome)?;
        }
        Ok(())
    }

    fn tell(&mut self, sectors: Sectors) {
        self.done = Sectors(self.done.0.saturating_add(sectors.0)).min(self.total);
        self.options.observer.progress(self.done.0, self.total.0);
    }

    /// Copies the next move of the queue by itself.
    fn copy_next(&mut self, salvager: &mut Salvager, outcome: &mut SpliceOutcome) -> Result<(), EngineError> {
        let Some((step, tries)) = self.queue.pop() else { return Ok(()) };
        let (session, plan, options) = (self.session, self.plan, self.options);
        if let Home::Slot(slot) = step.to
            && !self.may_go_to(slot.spare)
        {
            let why = format!("spare {} takes no extents any more", slot.spare);
            if plan.kind == MoveKind::Compact {
                outcome.dropped.push((step.range, why));
                return Ok(());
            }
            options.observer.note(&why);
            self.queue.push((step, tries));
            return Ok(self.put_elsewhere(slot.spare, Vec::new(), outcome)?);
        }
        let (mut told, total) = (self.done, self.total);
        let mut progress = |sectors: Sectors| {
            told = Sectors(told.0.saturating_add(sectors.0)).min(total);
            options.observer.progress(told.0, total.0);
        };
        let copied = match plan.kind {
            MoveKind::Remap | MoveKind::Evacuate | MoveKind::GiveUp | MoveKind::Compact => {
                copy_to_spare(session, plan, &step, salvager, options, &mut progress)
            }
            MoveKind::Restore => copy_to_main(session, plan, &step, salvager, options, &mut progress, &mut self.work),
        };
        self.done = told;
        match copied {
            Ok(copies) => {
                self.work.moves.push(step);
                self.work.copies.extend(copies);
                Ok(())
            }
            Err(CopyFault::Stop(error)) => Err(error),
            Err(CopyFault::Device(error)) => match step.to {
                Home::Slot(slot) => self.avoid(slot.spare, Some(step), error, outcome),
                Home::Main => Err(error),
            },
            Err(CopyFault::Destination { bad, why }) => self.slot_is_bad(&step, tries, &bad, &why, outcome),
        }
    }

    /// What follows when sectors of the place that a move goes to are bad.
    fn slot_is_bad(
        &mut self,
        step: &Move,
        tries: u32,
        bad: &[Range],
        why: &str,
        outcome: &mut SpliceOutcome,
    ) -> Result<(), EngineError> {
        match step.to {
            Home::Main => outcome.dropped.push((step.range, format!("main is still bad there: {why}"))),
            Home::Slot(slot) if self.plan.kind == MoveKind::Compact => {
                outcome.bad_slots.extend(bad.iter().map(|r| (slot.spare, *r)));
                outcome.dropped.push((step.range, format!("its new slot is bad: {why}")));
            }
            Home::Slot(slot) if tries < ATTEMPTS => {
                self.options.observer.note(&format!("spare {} is bad itself: {why}", slot.spare));
                outcome.bad_slots.extend(bad.iter().map(|r| (slot.spare, *r)));
                let again = self.replace_slots(outcome, &[(*step, tries.saturating_add(1))])?;
                self.queue.extend(again);
            }
            Home::Slot(slot) => {
                let why = format!("spare {} fails wherever it is written: {why}. Nothing was changed", slot.spare);
                self.avoid(slot.spare, Some(*step), EngineError::Device(why), outcome)?;
            }
        }
        Ok(())
    }

    /// Flushes the spares that were written to: the first that fails, and how. Trouble of main is an error.
    fn not_flushed(&self) -> Result<Option<(SpareIndex, EngineError)>, EngineError> {
        for disk in destinations(&self.work) {
            let Err(error) = disk.flush() else { continue };
            let is_of =
                |index: &SpareIndex| self.session.spare(*index).is_some_and(|member| Arc::ptr_eq(&member.disk, &disk));
            let spare = self.session.metadata.members().map(|(index, _)| index).find(is_of);
            return spare.map(|spare| Some((spare, error.clone().into()))).ok_or(error.into());
        }
        Ok(None)
    }

    /// What follows when a spare is in trouble as a whole: all that was to go there goes to others, and is read once more,
    /// if they have room for all of it; `failed` is what it did not take. The spare itself is not judged: that is for the
    /// commit, which goes to all of them.
    fn avoid(
        &mut self,
        spare: SpareIndex,
        failed: Option<Move>,
        error: EngineError,
        outcome: &SpliceOutcome,
    ) -> Result<(), EngineError> {
        if self.plan.kind == MoveKind::Compact {
            return Err(error);
        }
        self.work.avoided.push(spare);
        let moves = std::mem::take(&mut self.work.moves);
        let (copied, stay): (Vec<Move>, Vec<Move>) = moves.into_iter().partition(|step| goes_to(step, spare));
        self.work.moves = stay;
        if let Some(member) = self.session.spare(spare) {
            self.work.copies.retain(|(copy, _)| !Arc::ptr_eq(&copy.destination, &member.disk));
        }
        self.done = self.done.saturating_sub(sectors_of(&copied));
        if self.put_elsewhere(spare, copied.into_iter().chain(failed).collect(), outcome).is_err() {
            return Err(error);
        }
        self.options.observer.note(&format!("spare {spare}: {error}. Other spares are used instead"));
        Ok(())
    }

    /// Puts those moves, and all of the queue that go to `spare`, back into the queue with slots on others.
    fn put_elsewhere(&mut self, spare: SpareIndex, moves: Vec<Move>, outcome: &SpliceOutcome) -> Result<(), Refusal> {
        let queue = std::mem::take(&mut self.queue);
        let (left, stay): (Vec<_>, Vec<_>) = queue.into_iter().partition(|(step, _)| goes_to(step, spare));
        self.queue = stay;
        // What it was tried with before says nothing of other spares.
        let mut moves: Vec<(Move, u32)> =
            moves.into_iter().chain(left.into_iter().map(|(step, _)| step)).map(|step| (step, 0)).collect();
        moves.sort_unstable_by_key(|(step, _)| step.range);
        let replaced = self.replace_slots(outcome, &moves)?;
        // Slots that follow each other are written together: the first comes last.
        self.queue.extend(replaced.into_iter().rev());
        Ok(())
    }

    /// Whether extents may move to a spare: it is there and takes new ones, and the plan does not keep to others. A commit
    /// between the plan and the copying may have marked the spare as failed.
    fn may_go_to(&self, index: SpareIndex) -> bool {
        !self.work.avoided.contains(&index) && may_go_to(self.session, self.plan, index)
    }

    /// Finds other slots for moves whose slot is bad, or on a spare that takes no extents any more. The slots that are in
    /// use stay taken until after the swap: also those that extents are to leave, and those of moves that are not made yet.
    fn replace_slots(&self, outcome: &SpliceOutcome, moves: &[(Move, u32)]) -> Result<Vec<(Move, u32)>, Refusal> {
        let mut view = self.session.metadata.clone();
        add_found_bad(&mut view.bad_blocks, self.plan, outcome);
        let queued = self.queue.iter().map(|(step, _)| step);
        let mut taken = OnSpares::new();
        for pending in self.work.moves.iter().chain(queued).chain(self.later) {
            if let Home::Slot(slot) = pending.to {
                let len = view.map.slot_len(pending.range.len());
                taken.entry(slot.spare).or_default().extend(len.and_then(|len| Range::new(slot.start, len)));
            }
        }
        for (spare, slots) in taken {
            add_bad(&mut view.bad_blocks, spare, slots);
        }
        let mut pool = Pool::new(&view, |index| self.may_go_to(index)).judged_by(&self.session);
        let mut replaced = Vec::new();
        for (step, tries) in moves {
            let parts = pool
                .allocate(step.range)
                .map_err(|full| Refusal::NoFreeSlot { needed: step.range.len(), free: full.free })?;
            for part in parts {
                let from = step.clip(part.range).map_or(step.from, |part| part.from);
                replaced.push((Move { range: part.range, from, to: Home::Slot(part.slot) }, *tries));
            }
        }
        Ok(replaced)
    }

    /// The next moves whose slots follow each other, as many as one request can write; none when there is only one. Moves
    /// that need more care are left to be copied alone: those to main, with held sectors, or of a slot that was replaced.
    fn next_run(&self) -> Vec<Move> {
        let map = &self.session.metadata.map;
        let simple = matches!(self.plan.kind, MoveKind::Remap | MoveKind::Evacuate | MoveKind::Compact);
        let mut run: Vec<Move> = Vec::new();
        let mut room = CHUNK;
        for (step, tries) in self.queue.iter().rev().take_while(|_| simple) {
            let (Home::Slot(slot), Some(left)) = (step.to, room.checked_sub(step.range.len())) else { break };
            let follows = run.last().is_none_or(|last| match last.to {
                Home::Slot(before) => {
                    before.spare == slot.spare && before.start.checked_add(last.range.len()) == Some(slot.start)
                }
                Home::Main => false,
            });
            if !follows || *tries != 0 || map.has_held(step.range) || !self.may_go_to(slot.spare) {
                break;
            }
            room = left;
            run.push(*step);
        }
        if run.len() < 2 { Vec::new() } else { run }
    }
}

fn goes_to(step: &Move, spare: SpareIndex) -> bool {
    matches!(step.to, Home::Slot(slot) if slot.spare == spare)
}
