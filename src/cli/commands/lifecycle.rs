//! `deactivate`, `destroy`, `recover`, `acknowledge`.

use super::assembly::{self, Search, Wanted};
use super::{Context, Exit, Output, moves};
use crate::cli::args::{Acknowledge, Deactivate, Destroy, Recover};
use crate::cli::output::complain;
use crate::cli::report::{count, loss_words};
use crate::cli::{exit_of, worse};
use crate::engine::activate as engine;
use crate::engine::held::list_again;
use crate::engine::recover::{self as recovery, Recovered};
use crate::engine::session::{Session, find_active, live_devices};
use crate::engine::splice::settle_held;
use crate::engine::{EngineError, destroy as dissolve};
use crate::format::metadata::{Ancestor, UnreadablePolicy};
use crate::map::{Loss, SpareIndex};
use crate::plan::Refusal;
use crate::plan::moves::plan_restore;
use anyhow::Result;
use std::time::{Duration, Instant};

fn open_by(context: &Context, session: &Session<'_>) -> String {
    let Ok(live) = live_devices(session.dm, &session.name) else { return "a process has it open".into() };
    let devno = live.state.devno;
    let uses = context.uses(devno);
    let by = if uses.is_empty() { context.host.openers(devno) } else { uses };
    match by.as_slice() {
        [] => "a process has it open".into(),
        [_, ..] if by.iter().all(|one| one.contains("(process ")) => format!("open by {}", by.join(", ")),
        _ => by.join("; "),
    }
}

pub(super) fn deactivate(context: &Context, args: &Deactivate, out: &mut Output) -> Result<Exit> {
    match &args.name {
        Some(name) => deactivate_one(context, name, args.dry_run, out),
        None => deactivate_all(context, args.dry_run, out),
    }
}

/// Takes down what can be taken down. A setup below another one (a spare may be a setup of its own) goes after it.
fn deactivate_all(context: &Context, dry_run: bool, out: &mut Output) -> Result<Exit> {
    let mut left: Vec<String> = context.active()?.into_iter().map(|live| live.state.name).collect();
    let mut each = Vec::new();
    loop {
        let mut refused = Vec::new();
        let before = left.len();
        for name in left {
            let mut one = Output::new(out.is_json());
            match deactivate_one(context, &name, dry_run, &mut one) {
                Ok(_) => each.push(one.into_text()),
                Err(error) => refused.push((name, error)),
            }
        }
        if dry_run || refused.is_empty() || refused.len() == before {
            return Ok(tell_all(each, &refused, out));
        }
        left = refused.into_iter().map(|(name, _)| name).collect();
    }
}

fn tell_all(each: Vec<String>, refused: &[(String, anyhow::Error)], out: &mut Output) -> Exit {
    if out.is_json() {
        let mut rows: Vec<serde_json::Value> = each.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        rows.extend(
            refused.iter().map(|(name, error)| serde_json::json!({ "name": name, "error": format!("{error:#}") })),
        );
        out.json(&serde_json::json!({ "setups": rows }));
    } else {
        each.iter().for_each(|text| out.text(text));
        if each.is_empty() && refused.is_empty() {
            out.line("no setup is up");
        }
    }
    for (_, error) in refused {
        complain(&format!("{error:#}"));
    }
    refused.iter().map(|(_, error)| exit_of(error)).fold(Exit::Done, worse)
}

fn deactivate_one(context: &Context, name: &str, dry_run: bool, out: &mut Output) -> Result<Exit> {
    if dry_run {
        let session = context.reading_session(name)?;
        refuse_unless_idle(context, &session)?;
        return Ok(said(out, name, true, "would be taken down (dry run: nothing was changed)"));
    }
    if find_active(context.dm()?, name).is_err() {
        remove_what_is_left(context, name)?;
    }
    wait_for_udev(context, name)?;
    let (_lock, mut session) = context.locked_session_to_take_down(name)?;
    session.clear_leftovers()?;
    // It may have come in between.
    wait_for_udev(context, name)?;
    let uses = open_by(context, &session);
    engine::deactivate(&mut session, || uses)?;
    context.last_commit(session.setup()).forget();
    if !session.read_only {
        context.keep_backup(&session.metadata);
    }
    moves::tell_failed(context, &session);
    Ok(said(out, name, false, "is down; 'dm-remap activate' brings it up again"))
}

/// Removes devices and nodes that a command left that was killed while it took the setup down.
fn remove_what_is_left(context: &Context, name: &str) -> Result<()> {
    context.remove_remains()?;
    for device in engine::remove_stale_nodes(context.dm()?, name)? {
        context.note(&format!("removed the node '{device}', which an interrupted command had left"));
    }
    Ok(())
}

/// How long a device may be open by somebody who is not known: udev looks at each that has come up or was written.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(3);
/// How long it may be open by workers of udev and by nobody else: a busy machine has more rules to run than time.
const UDEV_PATIENCE: Duration = Duration::from_secs(30);

/// Waits while udev may be looking at the device. Whoever else has it open for longer, or is known, is not waited for.
fn wait_for_udev(context: &Context, name: &str) -> Result<()> {
    let begun = Instant::now();
    let mut unseen = 0;
    loop {
        let (state, _) = find_active(context.dm()?, name)?;
        if state.open_count == 0 || begun.elapsed() > UDEV_PATIENCE || !context.uses(state.devno).is_empty() {
            return Ok(());
        }
        let unknown = || {
            let openers = context.host.openers(state.devno);
            openers.is_empty() || !openers.iter().all(|opener| is_udev(opener))
        };
        let mut pause = Duration::from_millis(50);
        if begun.elapsed() > UNKNOWN_PATIENCE {
            // A worker that opens it in this very moment is seen only the next time.
            unseen = if unknown() { unseen + 1 } else { 0 };
            if unseen > 1 {
                return Ok(());
            }
            // All processes are looked at for that: seldom.
            pause = Duration::from_millis(500);
        }
        std::thread::sleep(pause);
    }
}

/// Whether a process, named as [`Host::openers`](crate::block::host::Host::openers) does, is a worker of udev: it is done
/// with a device by itself.
fn is_udev(opener: &str) -> bool {
    ["(udev-worker) ", "systemd-udevd ", "udevd "].iter().any(|worker| opener.starts_with(worker))
}

/// What a dry run must see too: taking down is refused while the device is open or suspended.
fn refuse_unless_idle(context: &Context, session: &Session<'_>) -> Result<()> {
    let (state, _) = find_active(session.dm, &session.name)?;
    if state.open_count > 0 {
        return Err(Refusal::Open { name: session.name.clone(), uses: open_by(context, session) }.into());
    }
    if state.suspended {
        return Err(Refusal::Suspended(session.name.clone()).into());
    }
    Ok(())
}

/// One line about one setup, or the same as JSON.
pub(super) fn said(out: &mut Output, name: &str, dry_run: bool, what: &str) -> Exit {
    if out.is_json() {
        out.json(&serde_json::json!({ "dry_run": dry_run, "name": name, "result": what }));
    } else {
        out.line(format!("'{name}' {what}"));
    }
    Exit::Done
}

pub(super) fn destroy(context: &Context, args: &Destroy, out: &mut Output) -> Result<Exit> {
    let dm = context.dm()?;
    let active = find_active(dm, &args.name).is_ok();
    if !active && !args.dry_run {
        remove_what_is_left(context, &args.name)?;
    }
    if active && !args.dry_run {
        wait_for_udev(context, &args.name)?;
    }
    let (_lock, mut session) = match (active, args.dry_run) {
        (true, false) => {
            let (lock, session) = context.locked_session(&args.name)?;
            (Some(lock), session)
        }
        (true, true) => (None, context.reading_session(&args.name)?),
        (false, _) => inactive_session(context, args)?,
    };
    if active {
        if !args.dry_run {
            // It may have come in between.
            wait_for_udev(context, &args.name)?;
        }
        refuse_unless_idle(context, &session)?;
    }
    let extents = session.metadata.map.len();
    if extents > 0 && !args.merge_back && !args.discard_extents {
        return Err(Refusal::HasExtents { name: args.name.clone(), extents }.into());
    }
    if extents > 0 && args.merge_back && !active {
        return Err(Refusal::NotActive(args.name.clone()).into());
    }
    if args.dry_run {
        let extents = count(extents, "extent");
        let what = if args.merge_back {
            format!("would be dissolved, after {extents} were moved back onto main (dry run: nothing was changed)")
        } else {
            format!("would be dissolved, and {extents} given up (dry run: nothing was changed)")
        };
        return Ok(said(out, &args.name, true, &what));
    }
    if extents > 0 && args.merge_back {
        let plan = plan_restore(&session.metadata, None, UnreadablePolicy::Hold)?;
        // The moves are no result of their own, unless they fail.
        let ran = moves::run(context, &mut session, plan, 3, &[])?;
        if !session.metadata.map.is_empty() {
            moves::report(context, &args.name, &ran, Duration::ZERO, out);
            if let Some(error) = ran.stopped {
                return Err(error.into());
            }
            let left = session.metadata.map.len();
            return Err(EngineError::Device(format!(
                "{left} extents of '{}' could not be moved back (see above); the setup stays as it is",
                args.name
            ))
            .into());
        }
    }
    if active {
        wait_for_udev(context, &args.name)?;
    }
    let uses = open_by(context, &session);
    context.keep_backup(&session.metadata);
    let setup = session.setup();
    let forget = || {
        context.last_commit(setup).forget();
        context.record_main(setup, None);
    };
    let away = away(&session);
    dissolve::destroy(&mut session, args.discard_extents, || uses, forget)?;
    context.announce(session.main.devno);
    if away.is_empty() {
        let what = "is dissolved; main can be used by itself, the spares hold no metadata any more";
        return Ok(said(out, &args.name, false, what));
    }
    let away: Vec<String> = away.iter().map(|index| index.to_string()).collect();
    let what = format!(
        "is dissolved; main can be used by itself. Spare {} is away, and holds old metadata of it: when it is back, overwrite its beginning before anything else uses it",
        away.join(", ")
    );
    said(out, &args.name, false, &what);
    Ok(Exit::Attention)
}

/// The spares that are not there.
fn away(session: &Session<'_>) -> Vec<SpareIndex> {
    session.metadata.members().map(|(index, _)| index).filter(|index| session.spare(*index).is_none()).collect()
}

/// A setup that is not up, for dissolving: its spares. What is on main does not matter; it may well be dead.
fn inactive_session<'a>(
    context: &'a Context,
    args: &Destroy,
) -> Result<(Option<crate::engine::lock::Lock>, Session<'a>)> {
    let wanted = Wanted { name: Some(args.name.clone()), devices: args.spares.clone() };
    let mut search = Search::begin(context, &wanted)?;
    let setup = search.pick(&wanted)?;
    let lock = context.lock(&setup.to_string(), &args.name)?;
    let found = search.read_again(context, setup)?;
    let session = assembly::spares_only(context, &search, &found)?;
    Ok((Some(lock), session))
}

pub(super) fn recover(context: &Context, args: &Recover, out: &mut Output) -> Result<Exit> {
    if args.dry_run {
        let session = context.reading_session(&args.name)?;
        let what = match (session.check_live(), session.newest_away()) {
            (Ok(_), Some(newest)) => format!(
                "would go on with generation {}, and give up generation {}, which is on a spare that is away",
                session.metadata.generation, newest.generation
            ),
            (Ok(_), None) => "is in order: there is nothing to settle".to_string(),
            (Err(error), _) => format!("needs to be settled: {error}"),
        };
        return Ok(said(out, &args.name, true, &what));
    }
    let (_lock, mut session) = context.locked_session_as_it_is(&args.name)?;
    if let Some(newest) = session.newest_away() {
        return go_on(context, session, newest, out);
    }
    let found = recovery::recover(&mut session, &context.progress)?;
    if found != Recovered::Nothing {
        context.keep_backup(&session.metadata);
    }
    let what = match found {
        Recovered::Nothing => "is in order: there was nothing to settle",
        Recovered::Resumed => "was suspended by an interrupted command, and runs again with its old map",
        Recovered::Completed => {
            "was suspended between commit and swap: the swap was completed, the new map is in force"
        }
        Recovered::Finished => "was in order, but for a commit that had not reached all spares: now it has",
        Recovered::Settled => "had an unsettled commit: it is settled, and all its sectors are back",
    };
    Ok(said(out, &args.name, false, what))
}

/// Goes on with what can be read, when a spare with something newer is away, as long as the live table is what that says.
fn go_on(context: &Context, mut session: Session<'_>, newest: Ancestor, out: &mut Output) -> Result<Exit> {
    if session.check_live().is_err() {
        session.check_newest()?;
    }
    let readable = session.metadata.generation;
    session.clear_leftovers()?;
    session.commit(|next| next.supersede(newest))?;
    context.keep_backup(&session.metadata);
    moves::tell_failed(context, &session);
    let what = format!(
        "goes on with generation {readable}; what generation {}, which is on a spare that is away, has changed is given up",
        newest.generation
    );
    Ok(said(out, &session.name, false, &what))
}

pub(super) fn acknowledge(context: &Context, args: &Acknowledge, out: &mut Output) -> Result<Exit> {
    let pick = |session: &Session<'_>| -> Vec<Loss> {
        let wanted = |loss: &Loss| args.sectors.is_empty() || args.sectors.iter().any(|r| r.overlaps(loss.range));
        session.metadata.map.losses().iter().filter(|l| !l.fate.is_held() && wanted(l)).collect()
    };
    let (guard, losses) = if args.dry_run {
        (None, pick(&context.reading_session(&args.name)?))
    } else {
        let (lock, mut session) = context.locked_session(&args.name)?;
        session.check_live()?;
        // Held sectors that were written since are ordinary from now on, and their loss can be acknowledged.
        list_again(&session)?;
        if !settle_held(&mut session, &context.progress)?.is_empty() {
            context.keep_backup(&session.metadata);
        }
        let losses = pick(&session);
        if !losses.is_empty() {
            let mut map = session.metadata.map.clone();
            losses.iter().for_each(|loss| map.clear_loss(loss.range));
            session.commit(|next| next.map = map)?;
            context.keep_backup(&session.metadata);
        }
        (Some(lock), losses)
    };
    drop(guard);
    if out.is_json() {
        out.json(&serde_json::json!({ "dry_run": args.dry_run, "name": args.name, "acknowledged": losses }));
        return Ok(Exit::Done);
    }
    let verb = if args.dry_run { "would acknowledge" } else { "acknowledged" };
    out.line(format!("{}: {verb} {}", args.name, count(losses.len(), "loss").replace("losss", "losses")));
    for loss in &losses {
        out.line(format!("  {}", loss_words(loss)));
    }
    Ok(Exit::Done)
}

/// Used by `status` too: the index of every spare of a setup.
pub(super) fn indexes(session: &Session<'_>) -> impl Iterator<Item = SpareIndex> + use<> {
    session.metadata.members().map(|(index, _)| index).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::is_udev;

    #[test]
    fn only_workers_of_udev_are_waited_for() {
        for (opener, expected) in [
            ("(udev-worker) (process 1221)", true),
            ("systemd-udevd (process 9)", true),
            ("udevd (process 9)", true),
            ("udevdump (process 9)", false),
            ("dd (process 5)", false),
        ] {
            assert_eq!(is_udev(opener), expected, "{opener}");
        }
    }
}
