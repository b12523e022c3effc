//! `compact`: brings scattered extents together, batch by batch.
//!
//! Invariants:
//! - between two batches the setup is in order, and has fewer extents, or the same in lower slots, than before;
//! - the setup's lock is held for one batch at a time, so that a watcher can act in between; each batch is planned from
//!   the metadata that it finds.

use super::probe::{is_busy, patient_session};
use super::{Context, Exit, Output, moves};
use crate::cli::args;
use crate::cli::report::{count, move_rows, sizes};
use crate::cli::signals::Signals;
use crate::engine::{EngineError, Observer, Session};
use crate::format::metadata::Metadata;
use crate::map::SpareIndex;
use crate::plan::compact::{Apart, Shape, plan_all, plan_compact, shape, still_apart};
use crate::plan::moves::sectors_of;
use crate::plan::{Move, MovePlan};
use crate::segments::setup_table;
use crate::units::{Range, RangeSet, Sectors};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// How long another command is waited for before we look whether we are asked to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the lock is left free between two batches: longer than those who wait for it sleep between two attempts.
const BREATH: Duration = Duration::from_millis(60);

/// How scattered a setup is, as it is reported.
#[derive(Debug, Serialize)]
struct Measured {
    extents: usize,
    table_lines: usize,
    free_runs: usize,
    longest_free_sectors: Sectors,
    free_sectors: Sectors,
}

/// What was done, or would be.
#[derive(Debug, Default)]
struct Work {
    batches: usize,
    moved: Vec<Move>,
    not_moved: Vec<(Range, String)>,
    rewritten: Vec<Range>,
    apart: Vec<Apart>,
    interrupted: bool,
    spare_failed: bool,
    /// Whether anything was committed.
    committed: bool,
    /// What ended it after that.
    error: Option<String>,
}

pub(super) fn compact(context: &Context, args: &args::Compact, out: &mut Output) -> Result<Exit> {
    let batch = Sectors(args.batch);
    if args.dry_run {
        return dry_run(context, args, batch, out);
    }
    let mut signals = Signals::take().map_err(|e| EngineError::system("cannot take signals", e))?;
    let mut run = Run { batch, ..Run::default() };
    let result = run_batches(context, args, &mut signals, &mut run);
    drop(signals);
    let Run { before: Some(before), after: Some(after), mut work, .. } = run else {
        return result.map(|()| Exit::Done);
    };
    match result {
        Err(error) if !work.committed => return Err(error),
        // Whatever kind it is of: it is not so that nothing was changed.
        Err(error) => work.error = Some(format!("{error:#}")),
        Ok(()) => {}
    }
    report(args, &before, &after, &work, out);
    let fine = work.not_moved.is_empty() && !work.spare_failed && !work.interrupted;
    Ok(match (&work.error, fine) {
        (Some(_), _) => Exit::Failed,
        (None, true) => Exit::Done,
        (None, false) => Exit::Attention,
    })
}

/// A run in the making.
#[derive(Debug, Default)]
struct Run {
    batch: Sectors,
    /// The setup is known by this while the lock is free.
    setup: Option<Uuid>,
    before: Option<Measured>,
    after: Option<Measured>,
    avoid: RangeSet,
    work: Work,
}

/// Makes batch after batch until there is none to make, or we are asked to end.
fn run_batches(context: &Context, args: &args::Compact, signals: &mut Signals, run: &mut Run) -> Result<()> {
    let mut held = Some(context.locked_session(&args.name)?);
    loop {
        let (lock, mut session) = match held.take() {
            Some(held) => held,
            None => match patient_session(context, &args.name, PATIENCE) {
                Err(error) if is_busy(&error) => {
                    if signals.came() {
                        run.work.interrupted = true;
                        return Ok(());
                    }
                    continue;
                }
                other => other?,
            },
        };
        session.check_live()?;
        if *run.setup.get_or_insert(session.setup()) != session.setup() {
            return Err(EngineError::Device(format!("'{}' is another setup now", args.name)).into());
        }
        if run.before.is_none() {
            run.before = Some(measure(&session, &session.metadata)?);
            run.after = Some(measure(&session, &session.metadata)?);
        }
        let more = run_batch(context, &mut session, signals, run);
        let measured = measure(&session, &session.metadata);
        run.after = measured.ok().or(run.after.take());
        drop(session);
        drop(lock);
        if !more? {
            return Ok(());
        }
        std::thread::sleep(BREATH);
    }
}

/// Plans a batch and makes it; whether there may be another.
fn run_batch(context: &Context, session: &mut Session<'_>, signals: &mut Signals, run: &mut Run) -> Result<bool> {
    let plan = plan_compact(&session.metadata, usable(session), run.batch, &run.avoid)?;
    if plan.moves.is_empty() {
        run.work.apart = still_apart(&session.metadata, usable(session), run.batch, &run.avoid);
        return Ok(false);
    }
    if signals.came() {
        run.work.interrupted = true;
        return Ok(false);
    }
    context.progress.step(&format!("batch {}", run.work.batches.saturating_add(1)));
    let generation = session.metadata.generation;
    let ran = moves::run(context, session, plan, 1, &[]);
    run.work.committed |= session.metadata.generation != generation;
    run.work.spare_failed |= !session.failed.is_empty();
    let moves::Ran { outcome, stopped, .. } = ran?;
    run.work.batches = run.work.batches.saturating_add(1);
    run.avoid = run.avoid.iter().chain(outcome.dropped.iter().map(|(range, _)| *range)).collect();
    run.work.moved.extend(outcome.moved);
    run.work.not_moved.extend(outcome.dropped);
    run.work.rewritten.extend(outcome.rewritten);
    stopped.map_or(Ok(true), |error| Err(error.into()))
}

/// The spares that extents may be moved on: those that are there.
fn usable<'s>(session: &'s Session<'_>) -> impl Fn(SpareIndex) -> bool + 's {
    |spare| session.is_there(spare)
}

fn measure(session: &Session<'_>, metadata: &Metadata) -> Result<Measured> {
    let Shape { extents, free_runs, longest_free, free, .. } = shape(metadata, usable(session));
    let table = setup_table(&metadata.map, &session.devices()?).map_err(EngineError::from)?;
    Ok(Measured {
        extents,
        table_lines: table.len(),
        free_runs,
        longest_free_sectors: longest_free,
        free_sectors: free,
    })
}

fn dry_run(context: &Context, args: &args::Compact, batch: Sectors, out: &mut Output) -> Result<Exit> {
    let session = context.reading_session(&args.name)?;
    session.check_live()?;
    let (plans, metadata) = plan_all(&session.metadata, usable(&session), batch)?;
    let (before, after) = (measure(&session, &session.metadata)?, measure(&session, &metadata)?);
    let apart = still_apart(&metadata, usable(&session), batch, &RangeSet::default());
    let moved: Vec<Move> = plans.iter().flat_map(|plan| plan.moves.iter().copied()).collect();
    let work = Work { batches: plans.len(), moved, apart, ..Work::default() };
    report(args, &before, &after, &work, out);
    if !out.is_json() {
        for (number, plan) in (1..).zip(&plans) {
            batch_lines(number, plan, out);
        }
    }
    Ok(Exit::Done)
}

fn batch_lines(number: usize, plan: &MovePlan, out: &mut Output) {
    out.line(format!("  batch {number}: {} of {}", count(plan.moves.len(), "move"), sizes(plan.sectors())));
    for step in &plan.moves {
        out.line(format!("    {step}"));
    }
}

fn report(args: &args::Compact, before: &Measured, after: &Measured, work: &Work, out: &mut Output) {
    let sectors = sectors_of(&work.moved);
    if out.is_json() {
        let not_moved: Vec<_> =
            work.not_moved.iter().map(|(range, why)| serde_json::json!({ "range": range, "why": why })).collect();
        let apart: Vec<_> = work
            .apart
            .iter()
            .map(|a| serde_json::json!({ "range": a.range, "extents": a.extents, "why": a.why }))
            .collect();
        out.json(&serde_json::json!({
            "dry_run": args.dry_run, "name": args.name, "batches": work.batches, "sectors_moved": sectors,
            "before": before, "after": after, "moves": move_rows(&work.moved), "not_moved": not_moved,
            "still_apart": apart, "rewritten": work.rewritten, "interrupted": work.interrupted, "error": work.error,
        }));
        return;
    }
    let name = &args.name;
    match (args.dry_run, work.moved.is_empty()) {
        (_, true) if work.not_moved.is_empty() && !work.interrupted && work.error.is_none() => {
            out.line(format!("{name}: nothing to bring together"));
        }
        (true, _) => out.line(format!(
            "would move {} in {} (dry run: nothing was changed)",
            sizes(sectors),
            batches(work.batches)
        )),
        (false, _) => out.line(format!("{name}: moved {} in {}", sizes(sectors), batches(work.batches))),
    }
    let rows = [
        ("extents", before.extents.to_string(), after.extents.to_string()),
        ("table", count(before.table_lines, "line"), count(after.table_lines, "line")),
        ("free", count(before.free_runs, "run"), count(after.free_runs, "run")),
        ("longest", sizes(before.longest_free_sectors), sizes(after.longest_free_sectors)),
    ];
    for (key, old, new) in rows {
        let change = if old == new { old } else { format!("{old} -> {new}") };
        out.line(format!("  {key:<8} {change}"));
    }
    const MOST: usize = 20;
    for (range, why) in work.not_moved.iter().take(MOST) {
        out.line(format!("  NOT MOVED {range}: {why}"));
    }
    for apart in work.apart.iter().take(MOST) {
        out.line(format!("  still apart: {} in {}: {}", apart.range, count(apart.extents, "extent"), apart.why));
    }
    let more = work.not_moved.len().saturating_sub(MOST).saturating_add(work.apart.len().saturating_sub(MOST));
    if more > 0 {
        out.line(format!("  … and {more} more; --json lists all"));
    }
    if let Some(error) = &work.error {
        out.line(format!("  STOPPED: {error}; what was done before is kept, and the same command goes on"));
    }
    if work.interrupted {
        out.line("  interrupted: what was done is kept, and the same command goes on");
    }
}

/// `1 batch`, `2 batches`.
fn batches(number: usize) -> String {
    if number == 1 { "1 batch".into() } else { format!("{number} batches") }
}
