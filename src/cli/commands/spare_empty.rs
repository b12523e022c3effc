//! `spare evacuate`, `remove`, `replace`: everything leaves a spare, in parts.
//!
//! Invariants:
//! - nothing moves before all of it has found a place;
//! - the setup's lock is held for one part at a time, so that a watcher can act on an error in between. That nothing new
//!   comes to the spare meanwhile is seen to by its state, which is committed before the first part;
//! - between two parts everything is as after any other command: who is asked to end does so there, who is killed leaves
//!   that, or a part that is made or is not; the same command goes on from there.

use super::probe::{is_busy, patient_session};
use super::spare::run_addition;
use super::spare_find::{Candidates, device_words, find, member_of, plan_addition};
use super::{Context, Exit, Output, moves};
use crate::cli::args::{Leaving, SpareEvacuate, SpareRemove, SpareReplace};
use crate::cli::output::complain;
use crate::cli::report::{count, loss_rows, move_rows, sizes};
use crate::cli::signals::Signals;
use crate::engine::give_up::give_up;
use crate::engine::guardian::Guarded;
use crate::engine::lock::Lock;
use crate::engine::splice::{MOVES_AT_ONCE, SpliceOptions, splice};
use crate::engine::{EngineError, PartObserver, Session, members};
use crate::format::metadata::{Metadata, SpareState, UnreadablePolicy};
use crate::map::{Loss, SpareIndex};
use crate::plan::moves::sectors_of;
use crate::plan::spares::{Destinations, plan_leave};
use crate::plan::{MoveKind, MovePlan, Refusal};
use crate::pool::Available;
use crate::units::{Range, Sectors};
use anyhow::Result;
use std::time::Duration;
use uuid::Uuid;

/// The most that is moved in one swap: 64 MiB, for which the kernel counts writes unit by unit.
const PART: Sectors = Sectors(131_072);

/// The most extents that are moved in one swap.
const PART_MOVES: usize = 1024;

/// How long another command is waited for before we look whether we are asked to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is to be emptied, and how.
struct Job<'a> {
    name: &'a str,
    index: SpareIndex,
    /// The spare is known by this while the lock is free.
    uuid: Uuid,
    to: Destinations,
    leaving: &'a Leaving,
    /// Something has been changed for it already.
    begun: bool,
}

/// How it went.
#[derive(Debug, Default)]
struct Emptied {
    /// Sectors that were to move when it began.
    total: Sectors,
    moved: Sectors,
    extents: usize,
    swaps: usize,
    lost: Vec<Loss>,
    bad_slots: Vec<(SpareIndex, Range)>,
    dropped: Vec<(Range, String)>,
    interrupted: bool,
    spare_failed: bool,
    /// What ended it after something had been changed already.
    error: Option<String>,
}

impl Emptied {
    fn exit(&self) -> Exit {
        // Never a refusal: something was changed.
        if self.error.is_some() {
            return Exit::Failed;
        }
        let fine = self.lost.is_empty() && self.dropped.is_empty() && !self.interrupted && !self.spare_failed;
        if fine { Exit::Done } else { Exit::Attention }
    }
}

/// The spares as they will be.
struct Planned<'a> {
    session: &'a Session<'a>,
    metadata: &'a Metadata,
}

impl Available for Planned<'_> {
    fn is_usable(&self, spare: SpareIndex) -> bool {
        // One that is only about to be added is there, too.
        self.session.is_there(spare) || self.session.metadata.spare(spare) != self.metadata.spare(spare)
    }

    fn disk_score(&self, spare: SpareIndex) -> Option<u8> {
        self.session.disk_score(spare)
    }
}

/// Plans to move all that lives on the spare; what refuses, refuses here.
fn plan(session: &Session<'_>, job: &Job<'_>, metadata: &Metadata) -> Result<MovePlan, Refusal> {
    let extents = metadata.map.extents_by_slot(job.index).count();
    let gone = !session.is_there(job.index);
    if gone && extents > 0 && !job.leaving.give_up_unreadable {
        let record = metadata.spare(job.index);
        let hint = record.and_then(|r| r.identity.path.clone().or_else(|| r.identity.serial.clone()));
        let what = hint.unwrap_or_else(|| "no name known".into());
        return Err(Refusal::SpareGone { name: job.name.into(), index: job.index, what, extents });
    }
    let unreadable = match metadata.config.policy.unreadable {
        _ if job.leaving.give_up_unreadable => UnreadablePolicy::Hold,
        // Left in a slot that nobody can read it would be forgotten there; held it is listed, and a write heals it.
        UnreadablePolicy::Leave => UnreadablePolicy::Hold,
        other => other,
    };
    let mut plan = plan_leave(metadata, job.index, &job.to, unreadable, Planned { session, metadata })?;
    if job.leaving.give_up_unreadable {
        plan.kind = MoveKind::GiveUp;
    }
    Ok(plan)
}

/// Checks that the spare is still the one that was meant.
fn is_still(session: &Session<'_>, job: &Job<'_>) -> Result<()> {
    match session.metadata.spare(job.index) {
        Some(record) if record.uuid == job.uuid && record.state.is_member() => Ok(()),
        _ => Err(Refusal::SpareRemoved { name: job.name.into(), index: job.index }.into()),
    }
}

/// Moves everything away, part by part; with the last of it, under the same lock, `finish` is called. An error before
/// anything was changed is an error; a later one is part of what is to be told.
fn empty(
    context: &Context,
    job: &Job<'_>,
    held: (Lock, Session<'_>),
    signals: &mut Signals,
    finish: &mut dyn FnMut(&mut Session<'_>) -> Result<()>,
) -> Result<Emptied> {
    let mut emptied = Emptied::default();
    let mut begun = job.begun;
    match empty_in_parts(context, job, held, signals, finish, &mut emptied, &mut begun) {
        Err(error) if !begun => return Err(error),
        Err(error) => emptied.error = Some(format!("the last step failed: {error:#}")),
        Ok(()) => {}
    }
    Ok(emptied)
}

fn empty_in_parts(
    context: &Context,
    job: &Job<'_>,
    held: (Lock, Session<'_>),
    signals: &mut Signals,
    finish: &mut dyn FnMut(&mut Session<'_>) -> Result<()>,
    emptied: &mut Emptied,
    begun: &mut bool,
) -> Result<()> {
    let (mut held, mut first) = (Some(held), true);
    loop {
        let (lock, mut session) = match held.take() {
            Some(held) => held,
            None => match patient_session(context, job.name, PATIENCE) {
                Err(error) if is_busy(&error) && signals.came() => {
                    emptied.interrupted = true;
                    return Ok(());
                }
                Err(error) if is_busy(&error) => continue,
                other => other?,
            },
        };
        session.check_live()?;
        is_still(&session, job)?;
        let mut whole = plan(&session, job, &session.metadata)?;
        if first {
            emptied.total = whole.sectors();
            if session.metadata.spare(job.index).is_some_and(|record| record.state == SpareState::Present) {
                *begun = true;
                members::set_state(&mut session, job.index, SpareState::Draining)?;
                // That commit may have marked a destination as failed.
                whole = plan(&session, job, &session.metadata)?;
            }
            first = false;
        }
        if whole.moves.is_empty() {
            let generation = session.metadata.generation;
            let result = finish(&mut session);
            *begun |= session.metadata.generation != generation;
            context.keep_backup(&session.metadata);
            moves::tell_failed(context, &session);
            emptied.spare_failed |= !session.failed.is_empty();
            drop(lock);
            return result;
        }
        let part = whole.first_part(PART, PART_MOVES, session.metadata.map.unit());
        let generation = session.metadata.generation;
        let result = move_part(context, job, &mut session, part, emptied);
        *begun |= session.metadata.generation != generation;
        result?;
        drop(session);
        drop(lock);
        if signals.came() {
            emptied.interrupted = true;
            return Ok(());
        }
    }
}

fn move_part(
    context: &Context,
    job: &Job<'_>,
    session: &mut Session<'_>,
    part: MovePlan,
    emptied: &mut Emptied,
) -> Result<()> {
    if part.kind == MoveKind::GiveUp
        && let Some(member) = session.spares.get_mut(job.index.as_usize()).and_then(Option::as_mut)
    {
        *member = give_up(member);
    }
    let observer = PartObserver { whole: &context.progress, before: emptied.moved, total: emptied.total };
    let options = SpliceOptions {
        retries: job.leaving.retries,
        runner: &Guarded,
        observer: &observer,
        suspects: &[],
        at_once: MOVES_AT_ONCE,
    };
    let result = splice(session, part, &options);
    context.keep_backup(&session.metadata);
    moves::tell_failed(context, session);
    emptied.spare_failed |= !session.failed.is_empty();
    let outcome = result?;
    if outcome.moved.is_empty() {
        let why = outcome.dropped.first().map_or("nothing could be moved".to_string(), |(_, why)| why.clone());
        return Err(EngineError::Device(format!("spare {} of '{}': {why}", job.index, job.name)).into());
    }
    emptied.moved = Sectors(emptied.moved.0.saturating_add(sectors_of(&outcome.moved).0));
    emptied.extents += outcome.moved.len();
    emptied.swaps += 1;
    emptied.lost.extend(outcome.lost);
    emptied.bad_slots.extend(outcome.bad_slots);
    emptied.dropped.extend(outcome.dropped);
    Ok(())
}

fn job<'a>(
    session: &Session<'_>,
    name: &'a str,
    index: SpareIndex,
    to: Destinations,
    leaving: &'a Leaving,
) -> Result<Job<'a>, Refusal> {
    match session.metadata.spare(index).filter(|record| record.state.is_member()) {
        Some(record) => Ok(Job { name, index, uuid: record.uuid, to, leaving, begun: false }),
        None => Err(Refusal::SpareRemoved { name: name.into(), index }),
    }
}

fn take_signals() -> Result<Signals> {
    Signals::take().map_err(|e| EngineError::system("cannot take signals", e).into())
}

pub(super) fn evacuate(context: &Context, args: &SpareEvacuate, out: &mut Output) -> Result<Exit> {
    let prepare = |session: &Session<'_>| -> Result<Job<'_>> {
        session.check_live()?;
        let index = find(context, session, &args.spare)?;
        let first: Result<Vec<SpareIndex>> = args.to.iter().map(|text| find(context, session, text)).collect();
        let to = Destinations { first: first?, only: !args.to.is_empty() };
        Ok(job(session, &args.name, index, to, &args.leaving)?)
    };
    if args.leaving.dry_run {
        let session = context.planning_session(&args.name)?;
        let job = prepare(&session)?;
        let plan = plan(&session, &job, &session.metadata)?;
        return Ok(dry_run(out, &job, &plan, &["evacuate"]));
    }
    let mut signals = take_signals()?;
    let held = context.locked_session(&args.name)?;
    let job = prepare(&held.1)?;
    let emptied = empty(context, &job, held, &mut signals, &mut |_| Ok(()))?;
    drop(signals);
    let again = format!("dm-remap spare evacuate {} {}", args.name, args.spare);
    Ok(report(context, &job, &emptied, &again, &[], out))
}

pub(super) fn remove(context: &Context, args: &SpareRemove, out: &mut Output) -> Result<Exit> {
    let prepare = |session: &Session<'_>| -> Result<Job<'_>> {
        session.check_live()?;
        let index = find(context, session, &args.spare)?;
        members::check_removable(session, index)?;
        Ok(job(session, &args.name, index, Destinations::default(), &args.leaving)?)
    };
    if args.leaving.dry_run {
        let session = context.planning_session(&args.name)?;
        let job = prepare(&session)?;
        let plan = plan(&session, &job, &session.metadata)?;
        return Ok(dry_run(out, &job, &plan, &["evacuate", "remove"]));
    }
    let mut signals = take_signals()?;
    let held = context.locked_session(&args.name)?;
    let job = prepare(&held.1)?;
    let (emptied, done) = empty_and_remove(context, &job, held, &mut signals)?;
    drop(signals);
    let again = format!("dm-remap spare remove {} {}", args.name, args.spare);
    Ok(report(context, &job, &emptied, &again, &done, out))
}

/// Empties the spare and removes it; what is to be said of that.
fn empty_and_remove(
    context: &Context,
    job: &Job<'_>,
    held: (Lock, Session<'_>),
    signals: &mut Signals,
) -> Result<(Emptied, Vec<String>)> {
    let mut done = Vec::new();
    let emptied = empty(context, job, held, signals, &mut |session| {
        let device = device_words(context, session, job.index);
        let not_erased = members::remove(session, job.index)?;
        done.push(format!("spare {} ({device}) is removed from '{}'", job.index, job.name));
        if let Some(why) = not_erased {
            let what = format!(
                "its copies of the metadata could not be erased ({why}): when it comes back, it will be recognised as removed"
            );
            context.note(&what);
        }
        Ok(())
    })?;
    Ok((emptied, done))
}

pub(super) fn replace(context: &Context, args: &SpareReplace, out: &mut Output) -> Result<Exit> {
    if args.leaving.dry_run {
        let session = context.planning_session(&args.name)?;
        session.check_live()?;
        let Some(replacing) = prepare_replace(context, &session, args)? else {
            return Ok(replaced_already(out, args));
        };
        let steps: &[&str] =
            if replacing.addition.is_some() { &["add", "evacuate", "remove"] } else { &["evacuate", "remove"] };
        return Ok(dry_run(out, &replacing.job, &replacing.plan, steps));
    }
    let mut signals = take_signals()?;
    let (lock, mut session) = context.locked_session(&args.name)?;
    session.check_live()?;
    let claiming = context.claim_lock()?;
    let Some(replacing) = prepare_replace(context, &session, args)? else {
        return Ok(replaced_already(out, args));
    };
    let Replacing { mut job, addition, .. } = replacing;
    if let Some((devices, plan)) = &addition {
        run_addition(context, &mut session, devices, plan)?;
        job.begun = true;
    }
    drop(claiming);
    let (emptied, mut done) = empty_and_remove(context, &job, (lock, session), &mut signals)?;
    drop(signals);
    if addition.is_some() {
        let new = job.to.first.first().map_or(String::new(), ToString::to_string);
        done.insert(0, format!("'{}' has a new spare {new}: {}", args.name, args.new.display()));
    }
    let again = format!("dm-remap spare replace {} {} {}", args.name, args.old, args.new.display());
    Ok(report(context, &job, &emptied, &again, &done, out))
}

fn replaced_already(out: &mut Output, args: &SpareReplace) -> Exit {
    if out.is_json() {
        out.json(
            &serde_json::json!({ "dry_run": args.leaving.dry_run, "name": args.name, "done": ["replaced already"] }),
        );
    } else {
        out.line(format!("{}: {} was replaced already", args.name, args.old));
    }
    Exit::Done
}

/// A replacement that is possible.
struct Replacing<'a> {
    job: Job<'a>,
    /// The new device, unless it is a spare already.
    addition: Option<(Candidates, crate::plan::AddPlan)>,
    plan: MovePlan,
}

/// Checks the whole of a replacement; `None` when an interrupted one was finished but for its last words.
fn prepare_replace<'a>(
    context: &Context,
    session: &Session<'_>,
    args: &'a SpareReplace,
) -> Result<Option<Replacing<'a>>> {
    let old = find(context, session, &args.old)?;
    let device = context.device(&args.new)?;
    let member = member_of(session, &device);
    if !session.metadata.is_member(old) && member.is_some() {
        return Ok(None);
    }
    let mut after = session.metadata.clone();
    let (new, addition) = match member {
        Some(new) => (new, None),
        None => {
            let (devices, plan) =
                plan_addition(context, session, std::slice::from_ref(&args.new), args.force_signature)?;
            plan.apply(&mut after);
            let new = plan.records.first().map_or(old, |(index, _)| *index);
            (new, Some((devices, plan)))
        }
    };
    let to = Destinations { first: vec![new], only: false };
    let job = job(session, &args.name, old, to, &args.leaving)?;
    let plan = plan(session, &job, &after)?;
    Ok(Some(Replacing { job, addition, plan }))
}

fn dry_run(out: &mut Output, job: &Job<'_>, plan: &MovePlan, steps: &[&str]) -> Exit {
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": true, "name": job.name, "spare": job.index, "steps": steps, "moves": move_rows(&plan.moves),
        }));
        return Exit::Done;
    }
    let moves = count(plan.moves.len(), "move");
    let steps = steps.join(", ");
    out.line(format!(
        "{}: spare {}: would {steps}: {moves} of {} (dry run: nothing was changed)",
        job.name,
        job.index,
        sizes(plan.sectors())
    ));
    for step in &plan.moves {
        out.line(format!("  {step}"));
    }
    Exit::Done
}

/// Reports what was done, with the files that were hit as far as they are found in time; the exit to use.
fn report(context: &Context, job: &Job<'_>, emptied: &Emptied, again: &str, done: &[String], out: &mut Output) -> Exit {
    let lost = loss_rows(&emptied.lost, &context.owners(job.name, &emptied.lost, job.leaving.files.patience()));
    if out.is_json() {
        let dropped: Vec<_> =
            emptied.dropped.iter().map(|(range, why)| serde_json::json!({ "range": range, "why": why })).collect();
        let bad: Vec<_> =
            emptied.bad_slots.iter().map(|(s, range)| serde_json::json!({ "spare": s, "range": range })).collect();
        let mut told = serde_json::json!({
            "dry_run": false,
            "name": job.name,
            "spare": job.index,
            "interrupted": emptied.interrupted,
            "total_sectors": emptied.total,
            "moved_sectors": emptied.moved,
            "extents": emptied.extents,
            "swaps": emptied.swaps,
            "lost": lost,
            "not_moved": dropped,
            "bad_slots": bad,
            "done": done,
        });
        if let (Some(error), Some(fields)) = (&emptied.error, told.as_object_mut()) {
            fields.insert("error".into(), error.as_str().into());
            fields.insert("exit_code".into(), (Exit::Failed as u8).into());
        }
        out.json(&told);
        emptied.error.iter().for_each(|error| complain(error));
        return emptied.exit();
    }
    if emptied.total > Sectors::ZERO || done.is_empty() {
        out.line(format!(
            "{}: moved {} in {} from spare {}, in {}",
            job.name,
            sizes(emptied.moved),
            count(emptied.extents, "extent"),
            job.index,
            count(emptied.swaps, "swap")
        ));
    }
    for (spare, range) in &emptied.bad_slots {
        out.line(format!("  spare {spare} is bad at {range}: other slots were taken"));
    }
    const MOST: usize = 50;
    for loss in lost.iter().take(MOST) {
        for (number, line) in loss.lines().iter().enumerate() {
            out.line(format!("  {}{line}", if number == 0 { "LOST " } else { "     " }));
        }
    }
    if lost.len() > MOST {
        out.line(format!("  … and {} more losses; see 'dm-remap status {}'", lost.len() - MOST, job.name));
    }
    for (range, why) in &emptied.dropped {
        out.line(format!("  NOT MOVED {range}: {why}"));
    }
    for line in done {
        out.line(line);
    }
    if let Some(error) = &emptied.error {
        let left = sizes(emptied.total.saturating_sub(emptied.moved));
        out.line(format!("FAILED: {left} are left on spare {}", job.index));
        out.line(format!("  to go on when that is settled: {again}"));
        complain(error);
    }
    if emptied.interrupted {
        let left = sizes(emptied.total.saturating_sub(emptied.moved));
        out.line(format!(
            "interrupted: {left} are left on spare {}, which gets no new extents. Everything is in order.",
            job.index
        ));
        out.line(format!("  to go on: {again}"));
        out.line(format!("  to keep the spare instead: dm-remap spare readd {} {}", job.name, job.index));
    }
    emptied.exit()
}
