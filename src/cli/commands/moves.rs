//! `remap` and `restore`.

use super::{Context, Exit, Output};
use crate::cli::args::{OnlyLeave, Remap, Restore};
use crate::cli::choices::RemapChoices;
use crate::cli::context::Usage;
use crate::cli::report::{LossRow, count, loss_rows, move_rows, sizes};
use crate::engine::guardian::Guarded;
use crate::engine::salvage::{BlockOutcome, BlockRecord};
use crate::engine::splice::{MOVES_AT_ONCE, SpliceOptions, SpliceOutcome, splice};
use crate::engine::{EngineError, Session};
use crate::format::lists::{read_badblocks, read_mapfile};
use crate::format::metadata::UnreadablePolicy;
use crate::plan::moves::{AlreadyMapped, MovePlan, plan_remap, plan_restore, sectors_of};
use crate::units::Range;
use anyhow::Result;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

pub(super) fn remap(context: &Context, args: &Remap, out: &mut Output) -> Result<Exit> {
    let choices = RemapChoices::new(args, context.settings(Some(&args.name))?);
    let listed = listed(context, args)?;
    let from_list = args.from_badblocks.is_some() || args.from_mapfile.is_some();
    let already = if from_list { AlreadyMapped::Skip } else { AlreadyMapped::Refuse };
    let requested: Vec<Range> = args.sectors.iter().copied().chain(listed).collect();
    if requested.is_empty() && from_list {
        return Ok(report(context, &args.name, &Ran::default(), Duration::ZERO, out));
    }
    let plan = |session: &Session<'_>| {
        let unreadable = choices.unreadable.unwrap_or(session.metadata.config.policy.unreadable);
        plan_remap(&session.metadata, &requested, already, unreadable, session)
    };
    if args.dry_run {
        return dry_run(context, &args.name, plan, out);
    }
    let ran = locked_run(context, &args.name, plan, choices.retries, &requested)?;
    ended(report(context, &args.name, &ran, choices.patience, out), ran)
}

pub(super) fn restore(context: &Context, args: &Restore, out: &mut Output) -> Result<Exit> {
    let requested = (!args.all).then_some(&args.sectors[..]);
    let unreadable = match args.unreadable {
        Some(OnlyLeave::Leave) => UnreadablePolicy::Leave,
        None => UnreadablePolicy::Hold,
    };
    let plan = |session: &Session<'_>| plan_restore(&session.metadata, requested, unreadable);
    if args.dry_run {
        return dry_run(context, &args.name, plan, out);
    }
    let ran = locked_run(context, &args.name, plan, 3, &[])?;
    ended(report(context, &args.name, &ran, args.files.patience(), out), ran)
}

/// How a command ends whose plan was run, and reported.
fn ended(exit: Exit, ran: Ran) -> Result<Exit> {
    ran.stopped.map_or(Ok(exit), |error| Err(error.into()))
}

/// What a plan did.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) outcome: SpliceOutcome,
    already: Vec<Range>,
    /// Whether a spare failed on the way.
    spare_failed: bool,
    /// Why the rest of it was not done.
    pub(super) stopped: Option<EngineError>,
}

/// Makes a plan and runs it, under the setup's lock. The lock is free again before anything is reported: looking for
/// files may take a while.
fn locked_run(
    context: &Context,
    name: &str,
    plan: impl FnOnce(&Session<'_>) -> Result<MovePlan, crate::plan::Refusal>,
    retries: u32,
    suspects: &[Range],
) -> Result<Ran> {
    let (_lock, mut session) = context.locked_session(name)?;
    session.check_live()?;
    let plan = plan(&session)?;
    run(context, &mut session, plan, retries, suspects)
}

/// Runs a plan with a guardian; what was done, also when only a part of it could be. `suspects` are sectors that are known
/// to be bad where they live now.
pub(super) fn run(
    context: &Context,
    session: &mut Session<'_>,
    mut plan: MovePlan,
    retries: u32,
    suspects: &[Range],
) -> Result<Ran> {
    let options =
        SpliceOptions { retries, runner: &Guarded, observer: &context.progress, suspects, at_once: MOVES_AT_ONCE };
    let generation = session.metadata.generation;
    let already = std::mem::take(&mut plan.already);
    let result = splice(session, plan, &options);
    if session.metadata.generation != generation {
        context.keep_backup(&session.metadata);
    }
    tell_failed(context, session);
    let (outcome, stopped) = match result {
        Ok(outcome) => (outcome, None),
        Err(EngineError::Partway { mut done, moved, of, source }) => {
            let outcome = std::mem::take(&mut *done);
            (outcome, Some(EngineError::Partway { done, moved, of, source }))
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Ran { outcome, already, spare_failed: !session.failed.is_empty(), stopped })
}

/// Says which spares did not take a commit.
pub(super) fn tell_failed(context: &Context, session: &Session<'_>) {
    for spare in &session.failed {
        context.note(&format!("spare {spare} did not take the commit and is marked as failed; the others did"));
    }
}

fn dry_run(
    context: &Context,
    name: &str,
    plan: impl FnOnce(&Session<'_>) -> Result<MovePlan, crate::plan::Refusal>,
    out: &mut Output,
) -> Result<Exit> {
    let session = context.planning_session(name)?;
    session.check_live()?;
    let plan = plan(&session)?;
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": true, "name": name, "moves": move_rows(&plan.moves), "already": plan.already,
        }));
        return Ok(Exit::Done);
    }
    let moves = count(plan.moves.len(), "move");
    out.line(format!("would make {moves} of {} (dry run: nothing was changed)", sizes(plan.sectors())));
    for step in &plan.moves {
        out.line(format!("  {step}"));
    }
    for range in &plan.already {
        out.line(format!("  {range}: already remapped, left as it is"));
    }
    Ok(Exit::Done)
}

/// Reports what a plan did, with the files that were hit as far as they are found in time; the exit to use.
pub(super) fn report(context: &Context, name: &str, ran: &Ran, patience: Duration, out: &mut Output) -> Exit {
    let lost = loss_rows(&ran.outcome.lost, &context.owners(name, &ran.outcome.lost, patience));
    tell(name, &ran.outcome, &ran.already, &lost, out);
    let fine = ran.outcome.lost.is_empty() && ran.outcome.dropped.is_empty() && !ran.spare_failed;
    if fine { Exit::Done } else { Exit::Attention }
}

fn tell(name: &str, outcome: &SpliceOutcome, already: &[Range], lost: &[LossRow], out: &mut Output) {
    if out.is_json() {
        let dropped: Vec<_> =
            outcome.dropped.iter().map(|(range, why)| serde_json::json!({ "range": range, "why": why })).collect();
        let bad: Vec<_> =
            outcome.bad_slots.iter().map(|(s, range)| serde_json::json!({ "spare": s, "range": range })).collect();
        out.json(&serde_json::json!({
            "dry_run": false,
            "name": name,
            "moves": move_rows(&outcome.moved),
            "lost": lost,
            "not_moved": dropped,
            "already": already,
            "recovered_by_retry": outcome.recovered,
            "blocks": outcome.blocks.iter().map(block_row).collect::<Vec<_>>(),
            "bad_slots": bad,
            "rewritten": outcome.rewritten,
        }));
        return;
    }
    out.line(format!(
        "{name}: moved {} in {}",
        sizes(sectors_of(&outcome.moved)),
        count(outcome.moved.len(), "extent")
    ));
    const MOST: usize = 50;
    for step in outcome.moved.iter().take(MOST) {
        out.line(format!("  {step}"));
    }
    if outcome.moved.len() > MOST {
        out.line(format!("  … and {} more; see 'dm-remap map {name}'", outcome.moved.len() - MOST));
    }
    if !already.is_empty() {
        out.line(format!("  {} already remapped, left as they are", count(already.len(), "range")));
    }
    if outcome.recovered.0 > 0 {
        out.line(format!("  {} read only after a retry", sizes(outcome.recovered)));
    }
    for record in outcome.blocks.iter().take(MOST) {
        out.line(format!("  {}", block_words(record)));
    }
    if outcome.blocks.len() > MOST {
        out.line(format!(
            "  … and {} more runs that did not read at once; --json lists all",
            outcome.blocks.len() - MOST
        ));
    }
    for (spare, range) in &outcome.bad_slots {
        out.line(format!("  spare {spare} is bad at {range}: other slots were taken"));
    }
    for range in &outcome.rewritten {
        out.line(format!("  held sectors {range} were written since, and are ordinary now"));
    }
    for loss in lost.iter().take(MOST) {
        for (number, line) in loss.lines().iter().enumerate() {
            out.line(format!("  {}{line}", if number == 0 { "LOST " } else { "     " }));
        }
    }
    if lost.len() > MOST {
        out.line(format!("  … and {} more losses; see 'dm-remap status {name}'", lost.len() - MOST));
    }
    for (range, why) in &outcome.dropped {
        out.line(format!("  NOT MOVED {range}: {why}"));
    }
}

/// A run of blocks that did not read at once, in words.
pub(super) fn block_words(record: &BlockRecord) -> String {
    let range = record.range;
    match record.outcome {
        BlockOutcome::Recovered { attempt } => format!("{range}: read at attempt {attempt}"),
        BlockOutcome::Lost { attempts, errno } => {
            let reads = count(usize::try_from(attempts).unwrap_or(usize::MAX), "attempt");
            format!("{range}: not read in {reads}: {} ({errno:?})", errno.desc())
        }
    }
}

/// The same for programs.
pub(super) fn block_row(record: &BlockRecord) -> serde_json::Value {
    let range = record.range;
    match record.outcome {
        BlockOutcome::Recovered { attempt } => {
            serde_json::json!({ "range": range, "outcome": "recovered", "attempt": attempt })
        }
        BlockOutcome::Lost { attempts, errno } => serde_json::json!({
            "range": range, "outcome": "lost", "attempts": attempts, "errno": format!("{errno:?}"),
        }),
    }
}

/// The sectors that the list files name.
fn listed(context: &Context, args: &Remap) -> Result<Vec<Range>> {
    let mut out = Vec::new();
    if let Some(path) = &args.from_badblocks {
        if args.block_size < 512 || !args.block_size.is_multiple_of(512) {
            return Err(Usage(format!("--block-size {}: it must be a multiple of 512", args.block_size)).into());
        }
        let list = read_badblocks(&read_text(path)?, args.block_size);
        out.extend(list.map_err(|e| Usage(format!("{}: {e}", path.display())))?);
    }
    if let Some(path) = &args.from_mapfile {
        let list = read_mapfile(&read_text(path)?, &args.mapfile_status);
        let list = list.map_err(|e| Usage(format!("{}: {e}", path.display())))?;
        if list.unfinished_bytes > 0 {
            context.note(&format!(
                "{}: ddrescue has not finished with {} bytes; they are left out (see --mapfile-status)",
                path.display(),
                list.unfinished_bytes
            ));
        }
        out.extend(list.wanted);
    }
    Ok(out)
}

/// The most bytes of a list file: more than a line for every sector of any list that fits the metadata.
const MOST_LIST_BYTES: u64 = 64 << 20;

fn read_text(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| EngineError::system(format!("cannot read {}", path.display()), e);
    let mut text = String::new();
    let mut limited: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().take(MOST_LIST_BYTES))
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?.take(MOST_LIST_BYTES))
    };
    limited.read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) >= MOST_LIST_BYTES {
        return Err(Usage(format!("{} is too large for a list of bad sectors", path.display())).into());
    }
    Ok(text)
}
