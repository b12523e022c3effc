//! `metadata repair`.
//!
//! A setup that is up is repaired by a commit of its present content as a new generation, through its session and under its
//! lock: that is how every copy is written that a running setup relies on. A spare that fails it is marked as failed, and
//! no other command can commit meanwhile.

use super::super::{Context, Exit, Output, moves};
use super::hands::{claim_all, found_on, is_up, others_of, unused};
use crate::block::device::BlockDevice;
use crate::cli::args::Repair;
use crate::cli::commands::assembly::devices_with_copies;
use crate::cli::report::count;
use crate::engine::find::verdict_words;
use crate::engine::rewrite::{Rewrite, rewrite};
use crate::engine::session::find_active;
use crate::engine::{EngineError, Session, now};
use crate::format::COPY_STARTS;
use crate::format::choose::Expected;
use crate::format::copy::{ValidCopy, Verdict};
use crate::plan::Refusal;
use crate::plan::repair::{RepairFacts, RepairPlan, plan};
use crate::plan::restore::Found;
use crate::store::{CommitTarget, read_copies};
use anyhow::Result;
use std::path::Path;
use uuid::Uuid;

pub(super) fn repair(context: &Context, args: &Repair, out: &mut Output) -> Result<Exit> {
    let path = Path::new(&args.source);
    if args.source.contains('/') || path.exists() {
        return by_hand(context, args, vec![context.device(path)?], true, out);
    }
    if context.dm().is_ok_and(|dm| find_active(dm, &args.source).is_ok()) {
        return while_up(context, args, out);
    }
    let found = devices_with_copies(context, &args.source)?;
    by_hand(context, args, found.into_iter().map(|(device, _)| device).collect(), false, out)
}

/// The spares of a setup that is not up: one that was named, or all that are here.
fn by_hand(
    context: &Context,
    args: &Repair,
    devices: Vec<BlockDevice>,
    single: bool,
    out: &mut Output,
) -> Result<Exit> {
    let read = || -> Result<Vec<Found>> { devices.iter().map(|device| found_on(context, device)).collect() };
    let before = read()?;
    let Some((setup, name)) = setup_of(args, &before) else {
        let device = args.source.clone();
        let what = match before.first() {
            Some(found) => format!("{}. 'metadata restore' writes a backup", describe(&found.verdicts)),
            None => "nothing of it is here".into(),
        };
        return Err(Refusal::Metadata { device, what: format!("no valid copy to repair from: {what}") }.into());
    };
    let lock = context.lock(&setup.to_string(), &name)?;
    if let Some(name) = is_up(context, setup)? {
        let what = format!("it is a spare of '{name}', which is up. Give the name: 'metadata repair {name}'");
        return Err(Refusal::Metadata { device: args.source.clone(), what }.into());
    }
    // Another command may have been at work until the lock was ours.
    let spares = read()?;
    let (others, other_devices) = if single { others_of(context, setup, &devices)? } else { Default::default() };
    let facts = RepairFacts {
        unused: unused(context, setup, devices.iter().chain(&other_devices), 0)?,
        spares,
        others,
        from_copy: args.from_copy.map(usize::from),
        from_spare: args.from_spare,
        force_signature: args.force_signature,
        now: now(),
    };
    let plan = plan(&facts)?;
    if !args.dry_run && !plan.steps.is_empty() {
        carry_out(context, &devices, &plan)?;
    }
    drop(lock);
    report(args, &name, &facts.spares, &plan, out);
    Ok(if plan.notes.is_empty() { Exit::Done } else { Exit::Attention })
}

/// The setup that is meant: by the choice that was made, else by the first valid copy.
fn setup_of(args: &Repair, found: &[Found]) -> Option<(Uuid, String)> {
    let named = |copy: &ValidCopy| (copy.metadata.setup, copy.metadata.config.name.clone());
    let valid = |verdict: &Verdict| match verdict {
        Verdict::Valid(copy) => Some(named(copy)),
        _ => None,
    };
    let chosen = args.from_copy.filter(|_| found.len() == 1).map(usize::from);
    match chosen {
        Some(index) => found.first()?.verdicts.get(index).and_then(valid),
        None => found.iter().flat_map(|found| &found.verdicts).find_map(valid),
    }
}

fn describe(verdicts: &[Verdict]) -> String {
    let words = verdicts.iter().enumerate().map(|(i, verdict)| format!("copy {i} {}", verdict_words(verdict)));
    words.collect::<Vec<_>>().join(", ")
}

fn carry_out(context: &Context, devices: &[BlockDevice], plan: &RepairPlan) -> Result<()> {
    let _claims = claim_all(context, devices)?;
    let mut all = Vec::new();
    for step in &plan.steps {
        let device = devices.get(step.position).ok_or_else(|| EngineError::Device("no such spare".into()))?;
        let disk = context.member(device)?.disk;
        let target = CommitTarget { disk, uuid: step.spare, data_start: step.data_start };
        all.push((step, Rewrite { target, copies: step.copies.clone(), good: step.good.clone() }));
    }
    if plan.new_generation {
        // One content for all: together, so that they never contradict each other for long.
        let rewrites: Vec<Rewrite> = all.iter().map(|(_, rewrite)| rewrite.clone()).collect();
        if let Some(step) = plan.steps.first() {
            rewrite(&step.metadata, &rewrites)?;
            context.keep_backup(&step.metadata);
        }
        return Ok(());
    }
    for (step, one) in all {
        rewrite(&step.metadata, &[one])?;
    }
    Ok(())
}

/// A setup that is up.
fn while_up(context: &Context, args: &Repair, out: &mut Output) -> Result<Exit> {
    if args.from_copy.is_some() || args.from_spare.is_some() {
        let what = "it is up, and runs with the map that is right. Take it down to choose among copies";
        return Err(Refusal::Metadata { device: args.source.clone(), what: what.into() }.into());
    }
    let (lock, mut session) = if args.dry_run {
        (None, context.reading_session(&args.source)?)
    } else {
        let (lock, session) = context.locked_session(&args.source)?;
        (Some(lock), session)
    };
    session.check_live()?;
    let (lagging, mut notes) = lagging_copies(context, &session, args.force_signature)?;
    let mut generation = session.metadata.generation;
    if !lagging.is_empty() && !args.dry_run {
        session.commit(|_| {})?;
        context.keep_backup(&session.metadata);
        moves::tell_failed(context, &session);
        generation = session.metadata.generation;
        for (device, copies) in lagging_copies(context, &session, true)?.0 {
            notes.push(format!(
                "{device}: {} cannot be mended: its sectors do not keep what is written",
                copies_words(&copies)
            ));
        }
    }
    drop(lock);
    let failed = !session.failed.is_empty();
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": args.dry_run, "name": args.source, "active": true, "generation": generation,
            "new_generation": !lagging.is_empty(), "notes": notes,
            "spares": lagging.iter().map(|(device, copies)| serde_json::json!({
                "device": device, "copies": copies,
            })).collect::<Vec<_>>(),
        }));
    } else if lagging.is_empty() {
        out.line(format!("'{}': all copies are in order; there was nothing to repair", args.source));
    } else {
        let (verb, end) = if args.dry_run {
            ("would be repaired by a commit", " (dry run: nothing was changed)".to_string())
        } else {
            ("was repaired by a commit", format!(": generation {generation}"))
        };
        out.line(format!("'{}' is up, and {verb} of its present content{end}", args.source));
        for (device, copies) in &lagging {
            out.line(format!("  {device}: {}", copies_words(copies)));
        }
    }
    if !out.is_json() {
        notes.iter().for_each(|note| out.line(format!("  NOTE {note}")));
    }
    Ok(if failed || !notes.is_empty() { Exit::Attention } else { Exit::Done })
}

/// The copies on the spares of a setup that is up that are not what they should be, and spares that are left alone.
#[allow(clippy::type_complexity)]
fn lagging_copies(
    context: &Context,
    session: &Session<'_>,
    force_signature: bool,
) -> Result<(Vec<(String, Vec<usize>)>, Vec<String>)> {
    let expected = Expected { setup: Some(session.setup()), spare: None };
    let (mut lagging, mut notes) = (Vec::new(), Vec::new());
    for (record, member) in session.metadata.spares.iter().zip(&session.spares) {
        let Some(member) = member else { continue };
        let device = context.path_of(member.devno);
        if !record.state.takes_commits() {
            if record.state.is_member() {
                notes.push(format!(
                    "{device} failed a commit before, and is left alone: 'dm-remap spare readd {} {device}' takes it back",
                    session.name
                ));
            }
            continue;
        }
        let verdicts = read_copies(&*member.disk, expected).verdicts;
        let unsupported = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Unsupported(_)));
        let foreign = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Foreign(_)));
        if unsupported {
            let what = format!("{}. Nothing is overwritten by this version", describe(&verdicts));
            return Err(Refusal::Metadata { device, what }.into());
        }
        if foreign && !force_signature {
            let signature = "data of something else where a copy belongs".into();
            return Err(Refusal::Signature { device, signature }.into());
        }
        let current = |verdict: &Verdict| matches!(verdict, Verdict::Valid(copy) if copy.digest == session.digest);
        let bad: Vec<usize> =
            verdicts.iter().enumerate().filter(|(_, verdict)| !current(verdict)).map(|(index, _)| index).collect();
        if !bad.is_empty() {
            lagging.push((device, bad));
        }
    }
    Ok((lagging, notes))
}

fn copies_words(copies: &[usize]) -> String {
    let list: Vec<String> = copies.iter().map(ToString::to_string).collect();
    format!("{} ({})", count(copies.len(), "copy").replace("copys", "copies"), list.join(", "))
}

fn report(args: &Repair, name: &str, spares: &[Found], plan: &RepairPlan, out: &mut Output) {
    let device = |position: usize| spares.get(position).map(|found| found.device.path.clone()).unwrap_or_default();
    let was = |position: usize, index: usize| {
        let verdict = spares.get(position).and_then(|found| found.verdicts.get(index));
        verdict.map(verdict_words).unwrap_or_default()
    };
    if out.is_json() {
        let rows: Vec<_> = plan
            .steps
            .iter()
            .map(|step| {
                serde_json::json!({
                    "device": device(step.position), "spare": step.spare, "generation": step.metadata.generation,
                    "copies": step.copies.iter().map(|index| serde_json::json!({
                        "copy": index, "sector": COPY_STARTS.get(*index), "was": was(step.position, *index),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        out.json(&serde_json::json!({
            "dry_run": args.dry_run, "name": name, "active": false, "new_generation": plan.new_generation,
            "spares": rows, "notes": plan.notes,
        }));
        return;
    }
    if plan.steps.is_empty() {
        out.line(format!("'{name}': all copies are in order; there is nothing to repair"));
    }
    let (verb, end) = if args.dry_run { ("would write", " (dry run: nothing was changed)") } else { ("wrote", "") };
    for step in &plan.steps {
        let generation = step.metadata.generation;
        out.line(format!("{}: {verb} generation {generation} of '{name}'{end}", device(step.position)));
        for index in &step.copies {
            out.line(format!("  copy {index}  was {}", was(step.position, *index)));
        }
    }
    for note in &plan.notes {
        out.line(format!("  NOTE {note}"));
    }
}
