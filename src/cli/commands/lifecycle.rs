//! `activate`, `deactivate`, `destroy`, `recover`, `acknowledge`.

use super::{Context, Exit, Output, moves};
use crate::block::device::BlockDevice;
use crate::cli::args::{Acknowledge, Activate, Deactivate, Destroy, Recover};
use crate::cli::report::{count, loss_words, sizes};
use crate::engine::activate::{self as engine, ActivateOptions};
use crate::engine::find::{FoundSpare, Wanted, find_main, find_spares, read_spare};
use crate::engine::held::list_again;
use crate::engine::recover::{self as recovery, Recovered};
use crate::engine::session::{Session, choose_among, find_active, live_devices};
use crate::engine::splice::settle_held;
use crate::engine::{EngineError, Member, destroy as dissolve};
use crate::format::choose::{Expected, SetupChoice};
use crate::format::metadata::{SetupState, UnreadablePolicy};
use crate::identity::{Identity, Match};
use crate::map::{Fate, Loss, SpareIndex};
use crate::plan::Refusal;
use crate::plan::moves::plan_restore;
use crate::segments::Layout;
use crate::store::SpareReading;
use crate::units::{DevNo, Sectors};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// A setup that was found on its devices.
struct Located {
    choice: SetupChoice,
    /// Spares by index, without those that were removed; complete unless the choice says that some are missing.
    spares: Vec<FoundSpare>,
}

impl Located {
    fn setup(&self) -> Uuid {
        self.choice.newest.metadata.setup
    }

    fn name(&self) -> &str {
        &self.choice.newest.metadata.config.name
    }

    /// The same devices, their metadata read anew.
    fn read_again(self, context: &Context) -> Result<Located> {
        let expected = Expected { setup: Some(self.setup()), spare: None };
        let mut found = Vec::new();
        for spare in &self.spares {
            found.push(read_spare(&context.host, &spare.device.path, expected)?);
        }
        let readings: Vec<SpareReading> = found.iter().map(|f| f.reading.clone()).collect();
        let choice = choose_among(self.name(), &readings)?;
        Ok(Located { choice, spares: found })
    }
}

fn locate(context: &Context, wanted: &Wanted, named: &[PathBuf]) -> Result<Located> {
    let found = find_spares(&context.host, wanted, named)?;
    let readings: Vec<SpareReading> = found.iter().map(|f| f.reading.clone()).collect();
    let label = match wanted {
        Wanted::Name(name) => name.clone(),
        Wanted::Setup(setup) => setup.to_string(),
        Wanted::Spare(path) => path.display().to_string(),
    };
    let choice = choose_among(&label, &readings)?;
    let mut spares = Vec::new();
    for (_, record) in choice.newest.metadata.members() {
        let here = found.iter().find(|f| f.reading.choose().is_ok_and(|c| c.copy.spare == record.uuid));
        spares.extend(here.cloned());
    }
    Ok(Located { choice, spares })
}

pub(super) fn activate(context: &Context, args: &Activate, out: &mut Output) -> Result<Exit> {
    let dm = context.dm()?;
    let wanted = match (&args.name, args.spares.first()) {
        (Some(name), _) => match Uuid::try_parse(name) {
            Ok(setup) => Wanted::Setup(setup),
            Err(_) => Wanted::Name(name.clone()),
        },
        (None, Some(spare)) => Wanted::Spare(spare.clone()),
        (None, None) => return Err(Refusal::NothingGiven.into()),
    };
    if let Wanted::Name(name) = &wanted
        && find_active(dm, name).is_ok()
    {
        return already_up(context, name, args.dry_run, out);
    }
    if !args.dry_run {
        context.remove_remains()?;
    }
    let located = locate(context, &wanted, &args.spares)?;
    let _lock = context.lock(&located.setup().to_string(), located.name())?;
    // Another command may have been at work until the lock was ours.
    let located = located.read_again(context)?;
    let main = &find_main(&context.host, &located.choice, args.main.as_deref(), &located.spares)?;
    let Located { choice, spares } = &located;
    let metadata = &choice.newest.metadata;
    let name = &metadata.config.name;
    if let Wanted::Name(wanted) = &wanted
        && wanted != name
    {
        let what = format!("it belongs to the setup '{name}', not to '{wanted}'");
        return Err(Refusal::Metadata { device: "the spare".into(), what }.into());
    }
    let mark = context.mark();
    if find_active(dm, name).is_ok_and(|(_, setup)| setup == metadata.setup) {
        return Err(Refusal::AlreadyActive(name.clone()).into());
    }
    let options = ActivateOptions {
        mark: &mark,
        takeover: args.takeover,
        update_stale: args.update_stale,
        recheck: &|session| main_is_still(context, session),
        observer: &context.progress,
    };
    engine::check(choice, &options)?;
    check_free(context, main)?;
    for (spare, (_, record)) in spares.iter().zip(metadata.members()) {
        check_free(context, &spare.device)?;
        let named = args.spares.iter().any(|p| context.device(p).is_ok_and(|d| d.devno == spare.device.devno));
        check_fits(&spare.device, &record.identity, metadata.config.main.logical_block)?;
        check_is_the_spare(&spare.device, &record.identity, named)?;
    }
    check_fits(main, &metadata.config.main, metadata.config.main.logical_block)?;
    if args.dry_run {
        report_located(out, &located, main);
        return Ok(Exit::Done);
    }
    let members: Result<Vec<Member>, EngineError> = spares.iter().map(|s| context.member(&s.device)).collect();
    let up = engine::activate(dm, choice, context.member(main)?, members?, &options)?;
    context.keep_backup(&up.session.metadata);
    moves::tell_failed(context, &up.session);
    for note in up.activation.warning.iter() {
        context.note(note);
    }
    if let Some(mark) = &up.unclean {
        let when = humantime::format_rfc3339_seconds(time_of(mark.time));
        context
            .note(&format!("'{name}' was not put down cleanly after its activation at {when}; its metadata is whole"));
    }
    for spare in &up.caught_up {
        context.note(&format!("spare {spare} was behind the others; it is up to date now"));
    }
    if out.is_json() {
        let unclean = up.unclean.is_some();
        out.json(&serde_json::json!({
            "name": name, "uuid": metadata.setup, "device": up.activation.node,
            "main": main.path, "unclean": unclean, "generation": up.session.metadata.generation,
        }));
    } else {
        out.line(format!("'{name}' is up: {}", up.activation.node.display()));
        out.line(format!("  main    {}, {}", main.path.display(), sizes(main.size)));
        for spare in spares {
            out.line(format!("  spare   {}, {}", spare.device.path.display(), sizes(spare.device.size)));
        }
    }
    Ok(if up.session.failed.is_empty() { Exit::Done } else { Exit::Attention })
}

/// Refuses, unless a command was killed between bringing the device up and making its node.
fn already_up(context: &Context, name: &str, dry_run: bool, out: &mut Output) -> Result<Exit> {
    let node = context.host.dev().join("mapper").join(name);
    if dry_run || node.exists() {
        return Err(Refusal::AlreadyActive(name.into()).into());
    }
    let (_lock, session) = context.locked_session(name)?;
    session.check_live()?;
    // Else the next call would swap in a table that a killed command has loaded.
    session.clear_leftovers()?;
    session.dm.activate(name, false)?;
    Ok(said(out, name, false, "was up already, without its node: that is there now"))
}

fn time_of(seconds: u64) -> std::time::SystemTime {
    // Beyond the year 9999 the library would refuse; such a time is wrong anyway.
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.min(253_402_300_799))
}

fn check_free(context: &Context, device: &BlockDevice) -> Result<(), Refusal> {
    let uses: Vec<String> = context.host.usage(device).iter().map(ToString::to_string).collect();
    let path = device.path.display().to_string();
    if !uses.is_empty() {
        return Err(Refusal::InUse { device: path, uses: uses.join("; ") });
    }
    if device.read_only {
        return Err(Refusal::ReadOnly(path));
    }
    Ok(())
}

/// Refuses a device that shrank, or whose logical blocks grew since the setup was made.
fn check_fits(device: &BlockDevice, recorded: &Identity, block: Sectors) -> Result<(), Refusal> {
    let path = device.path.display().to_string();
    if device.size < recorded.size {
        let what = format!("it has {} sectors, and had {} when the setup was made", device.size, recorded.size);
        return Err(Refusal::Metadata { device: path, what });
    }
    if device.logical_block > block {
        return Err(Refusal::LargerBlocks { device: path, spare: device.logical_block, main: block });
    }
    Ok(())
}

/// Refuses a device that holds a spare's copies and is another device than the spare was, unless a person named it: it
/// may be one leg of a mirror, or a clone.
fn check_is_the_spare(device: &BlockDevice, recorded: &Identity, named: bool) -> Result<(), Refusal> {
    let why = match recorded.matches(&device.identity) {
        Match::Different(why) => why,
        Match::Unproven if recorded.has_stable_name() => "it has no name that could prove it".into(),
        Match::Proven | Match::Unproven => return Ok(()),
    };
    if named {
        return Ok(());
    }
    let what = format!(
        "it holds a spare's metadata, but is another device than that spare was ({why}). If it is right, name it with --spare"
    );
    Err(Refusal::Metadata { device: device.path.display().to_string(), what })
}

/// Looks at main again once device-mapper holds it: its number must still stand for the same device.
fn main_is_still(context: &Context, session: &Session<'_>) -> Result<(), EngineError> {
    let device = context.host.device_by_number(session.main.devno);
    let device = device.map_err(|e| EngineError::Device(e.to_string()))?;
    match session.metadata.config.main.matches(&device.identity) {
        Match::Different(why) => {
            let what = format!("{} was replaced while the setup was being brought up: {why}", device.path.display());
            Err(Refusal::MainUnclear(what).into())
        }
        Match::Proven | Match::Unproven => Ok(()),
    }
}

fn report_located(out: &mut Output, located: &Located, main: &BlockDevice) {
    let metadata = &located.choice.newest.metadata;
    let spares: Vec<_> = located.spares.iter().map(|s| s.device.path.display().to_string()).collect();
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": true, "name": metadata.config.name, "uuid": metadata.setup,
            "main": main.path, "spares": spares, "extents": metadata.map.len(),
        }));
        return;
    }
    out.line(format!("would bring up '{}' (dry run: nothing was changed)", metadata.config.name));
    out.line(format!("  main    {}", main.path.display()));
    for spare in spares {
        out.line(format!("  spare   {spare}"));
    }
    out.line(format!("  map     {}, generation {}", count(metadata.map.len(), "extent"), metadata.generation));
}

fn open_by(context: &Context, session: &Session<'_>) -> String {
    let live = live_devices(session.dm, &session.name).map(|live| context.uses(live.state.devno));
    let uses = live.unwrap_or_default();
    if uses.is_empty() { "a process has it open".into() } else { uses.join("; ") }
}

pub(super) fn deactivate(context: &Context, args: &Deactivate, out: &mut Output) -> Result<Exit> {
    if args.dry_run {
        let session = context.reading_session(&args.name)?;
        refuse_unless_idle(context, &session)?;
        return Ok(said(out, &args.name, true, "would be taken down (dry run: nothing was changed)"));
    }
    let (_lock, mut session) = context.locked_session(&args.name)?;
    session.clear_leftovers()?;
    let uses = open_by(context, &session);
    engine::deactivate(&mut session, || uses)?;
    context.keep_backup(&session.metadata);
    moves::tell_failed(context, &session);
    Ok(said(out, &args.name, false, "is down; 'dm-remap activate' brings it up again"))
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
fn said(out: &mut Output, name: &str, dry_run: bool, what: &str) -> Exit {
    if out.is_json() {
        out.json(&serde_json::json!({ "dry_run": dry_run, "name": name, "result": what }));
    } else {
        out.line(format!("'{name}' {what}"));
    }
    Exit::Done
}

pub(super) fn destroy(context: &Context, args: &Destroy, out: &mut Output) -> Result<Exit> {
    let dm = context.dm()?;
    if !args.dry_run {
        context.remove_remains()?;
    }
    let active = find_active(dm, &args.name).is_ok();
    let (_lock, mut session) = match (active, args.dry_run) {
        (true, false) => {
            let (lock, session) = context.locked_session(&args.name)?;
            (Some(lock), session)
        }
        (true, true) => (None, context.reading_session(&args.name)?),
        (false, _) => inactive_session(context, args)?,
    };
    if active {
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
        let ran = moves::run(context, &mut session, &plan, 3, &[])?;
        if !session.metadata.map.is_empty() {
            moves::report(context, &args.name, &ran, Duration::ZERO, out);
            let left = session.metadata.map.len();
            return Err(EngineError::Device(format!(
                "{left} extents of '{}' could not be moved back (see above); the setup stays as it is",
                args.name
            ))
            .into());
        }
    }
    let uses = open_by(context, &session);
    context.keep_backup(&session.metadata);
    dissolve::destroy(&mut session, args.discard_extents, || uses)?;
    Ok(said(out, &args.name, false, "is dissolved; main can be used by itself, the spares hold no metadata any more"))
}

/// A setup that is not up, for dissolving: its spares, and main if it is here.
fn inactive_session<'a>(
    context: &'a Context,
    args: &Destroy,
) -> Result<(Option<crate::engine::lock::Lock>, Session<'a>)> {
    let located = locate(context, &Wanted::Name(args.name.clone()), &args.spares)?;
    if located.name() != args.name {
        let what = format!("it belongs to the setup '{}', not to '{}'", located.name(), args.name);
        return Err(Refusal::Metadata { device: "the spare".into(), what }.into());
    }
    let lock = context.lock(&located.setup().to_string(), &args.name)?;
    let Located { choice, spares } = located.read_again(context)?;
    let metadata = choice.newest.metadata.clone();
    if metadata.config.state == SetupState::Ready {
        let mark = context.mark();
        let observer = &context.progress;
        let recheck = &|_: &Session<'_>| Ok(());
        engine::check(
            &choice,
            &ActivateOptions { mark: &mark, takeover: false, update_stale: true, recheck, observer },
        )?;
    }
    let mut members: Vec<Option<Member>> = Vec::new();
    for record in &metadata.spares {
        let is_it = |f: &&FoundSpare| f.reading.choose().is_ok_and(|c| c.copy.spare == record.uuid);
        let here = spares.iter().filter(|_| record.state.is_member()).find(is_it);
        if let Some(found) = here {
            check_free(context, &found.device)?;
        }
        members.push(here.map(|found| context.member(&found.device)).transpose()?);
    }
    let session = Session {
        dm: context.dm()?,
        name: args.name.clone(),
        digest: choice.newest.digest,
        metadata,
        // What is on main does not matter for erasing spares; it may well be dead.
        main: Member::gone("main", DevNo { major: 0, minor: 0 }),
        spares: members,
        layout: Layout::Flat,
        failed: Vec::new(),
    };
    Ok((Some(lock), session))
}

pub(super) fn recover(context: &Context, args: &Recover, out: &mut Output) -> Result<Exit> {
    if args.dry_run {
        let session = context.reading_session(&args.name)?;
        let what = match session.check_live() {
            Ok(()) => "is in order: there is nothing to settle".to_string(),
            Err(error) => format!("needs to be settled: {error}"),
        };
        return Ok(said(out, &args.name, true, &what));
    }
    let (_lock, mut session) = context.locked_session(&args.name)?;
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
        Recovered::Settled => "had an unsettled commit: it is settled, and all its sectors are back",
    };
    Ok(said(out, &args.name, false, what))
}

pub(super) fn acknowledge(context: &Context, args: &Acknowledge, out: &mut Output) -> Result<Exit> {
    let pick = |session: &Session<'_>| -> Vec<Loss> {
        let wanted = |loss: &Loss| args.sectors.is_empty() || args.sectors.iter().any(|r| r.overlaps(loss.range));
        session.metadata.map.losses().iter().filter(|l| l.fate != Fate::Held && wanted(l)).collect()
    };
    let (guard, losses) = if args.dry_run {
        (None, pick(&context.reading_session(&args.name)?))
    } else {
        let (lock, mut session) = context.locked_session(&args.name)?;
        session.check_live()?;
        // Held sectors that were written since are ordinary from now on, and their loss can be acknowledged.
        list_again(&session)?;
        settle_held(&mut session, &context.progress)?;
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
