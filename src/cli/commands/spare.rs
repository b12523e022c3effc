//! `spare add`, `list`, `readd`, `grow`; see `spare_empty` for those that move extents.

use super::spare_empty;
use super::spare_facts::{made_over, still_holds, still_ours};
use super::spare_find::{device_words, find, member_of, plan_addition, uuid_on};
use super::{Context, Exit, Output, moves};
use crate::block::device::BlockDevice;
use crate::cli::args::{Spare, SpareAdd, SpareGrow, SpareList, SpareReadd};
use crate::cli::report::sizes;
use crate::engine::{EngineError, Session, members};
use crate::format::choose::Expected;
use crate::format::metadata::SpareState;
use crate::identity::{Identity, Match};
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::plan::create::Contents;
use crate::plan::spares::{AddPlan, plan_grow};
use crate::pool::Pool;
use crate::store::read_copies;
use crate::units::Sectors;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use uuid::Uuid;

pub(super) fn run(context: &Context, args: &Spare, out: &mut Output) -> Result<Exit> {
    match args {
        Spare::Add(args) => add(context, args, out),
        Spare::Remove(args) => spare_empty::remove(context, args, out),
        Spare::Replace(args) => spare_empty::replace(context, args, out),
        Spare::Evacuate(args) => spare_empty::evacuate(context, args, out),
        Spare::List(args) => list(context, args, out),
        Spare::Readd(args) => readd(context, args, out),
        Spare::Grow(args) => grow(context, args, out),
    }
}

fn add(context: &Context, args: &SpareAdd, out: &mut Output) -> Result<Exit> {
    if args.dry_run {
        let session = context.reading_session(&args.name)?;
        session.check_live()?;
        let (_, plan) = plan_addition(context, &session, &args.devices, args.force_signature)?;
        report_added(out, &args.name, &plan, true, Pool::new(&session.metadata, |_| true).free());
        return Ok(Exit::Done);
    }
    let (_lock, mut session) = context.locked_session(&args.name)?;
    session.check_live()?;
    let claiming = context.claim_lock()?;
    let (devices, plan) = plan_addition(context, &session, &args.devices, args.force_signature)?;
    run_addition(context, &mut session, &devices, &plan)?;
    drop(claiming);
    report_added(out, &args.name, &plan, false, Pool::new(&session.metadata, |_| true).free());
    Ok(if session.failed.is_empty() { Exit::Done } else { Exit::Attention })
}

/// Adds what was planned, one device after the other: each is a spare as soon as its commit stands.
pub(super) fn run_addition(
    context: &Context,
    session: &mut Session<'_>,
    devices: &[(BlockDevice, Contents)],
    plan: &AddPlan,
) -> Result<()> {
    let main = context.host.device_by_number(session.main.devno).ok();
    let setup = session.setup();
    for (number, ((device, found), (index, record))) in devices.iter().zip(&plan.records).enumerate() {
        if main.as_ref().is_some_and(|main| context.host.same_disk(main, device)) {
            context
                .note(&format!("{} is on the same disk as main: when that dies, both are gone", device.path.display()));
        }
        let recheck = || still_holds(context, device, setup, found);
        let member = context.member(device)?;
        let result = members::add(session, *index, record, member, &recheck, &context.progress);
        context.keep_backup(&session.metadata);
        moves::tell_failed(context, session);
        match result {
            // It is no refusal any more, in which nothing was changed.
            Err(error) if number > 0 => {
                return Err(EngineError::Device(format!(
                    "{error}. The devices before {} are added, it and those after it are not",
                    device.path.display()
                ))
                .into());
            }
            other => other?,
        }
        if devices.len() > 1 {
            context.note(&format!("{} is added", device.path.display()));
        }
    }
    Ok(())
}

fn report_added(out: &mut Output, name: &str, plan: &AddPlan, dry_run: bool, free: Sectors) {
    let spares = || plan.devices.iter().zip(&plan.records);
    if out.is_json() {
        let rows: Vec<_> = spares()
            .map(|(device, (index, record))| {
                serde_json::json!({
                    "index": index, "device": device.path, "uuid": record.uuid, "sectors": record.identity.size,
                })
            })
            .collect();
        out.json(&serde_json::json!({ "dry_run": dry_run, "name": name, "added": rows, "free_sectors": free }));
        return;
    }
    for (device, (index, _)) in spares() {
        let size = sizes(device.identity.size);
        if dry_run {
            out.line(format!(
                "would add {} to '{name}' as spare {index}, {size} (dry run: nothing was changed)",
                device.path
            ));
        } else {
            out.line(format!("'{name}' has a new spare {index}: {}, {size}", device.path));
        }
    }
    if !dry_run {
        out.line(format!("  room    {}", sizes(free)));
    }
}

/// A spare as `spare list` shows it.
#[derive(Debug, Serialize)]
struct SpareRow {
    index: SpareIndex,
    device: String,
    uuid: String,
    state: &'static str,
    sectors: Sectors,
    used_sectors: Sectors,
    free_sectors: Sectors,
    extents: usize,
    bad_sectors: u64,
    /// Newest generation on it; absent when nothing there can be read.
    generation: Option<u64>,
    /// How many generations it is behind the newest.
    behind: Option<u64>,
}

fn list(context: &Context, args: &SpareList, out: &mut Output) -> Result<Exit> {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => context.active()?.into_iter().map(|live| live.state.name).collect(),
    };
    let mut setups = Vec::new();
    for name in names {
        let session = context.reading_session(&name)?;
        let rows: Vec<SpareRow> = session.metadata.members().map(|(index, _)| row(context, &session, index)).collect();
        setups.push((name, session.metadata.generation, rows));
    }
    if out.is_json() {
        let setups: Vec<_> = setups
            .iter()
            .map(|(name, generation, spares)| {
                serde_json::json!({ "name": name, "generation": generation, "spares": spares })
            })
            .collect();
        out.json(&serde_json::json!({ "setups": setups }));
        return Ok(Exit::Done);
    }
    if setups.is_empty() {
        out.line("no active setups");
        return Ok(Exit::Done);
    }
    let heading = ["SETUP", "SPARE", "DEVICE", "STATE", "SECTORS", "USED", "FREE", "EXTENTS", "BAD", "BEHIND"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for (name, _, spares) in setups {
        rows.extend(spares.into_iter().map(|row| {
            vec![
                name.clone(),
                row.index.to_string(),
                row.device,
                row.state.into(),
                row.sectors.to_string(),
                row.used_sectors.to_string(),
                row.free_sectors.to_string(),
                row.extents.to_string(),
                row.bad_sectors.to_string(),
                row.behind.map_or("-".into(), |behind| behind.to_string()),
            ]
        }));
    }
    out.table(0, &rows);
    Ok(Exit::Done)
}

fn row(context: &Context, session: &Session<'_>, index: SpareIndex) -> SpareRow {
    let metadata = &session.metadata;
    let record = metadata.spare(index);
    let expected = Expected { setup: Some(metadata.setup), spare: record.map(|r| r.uuid) };
    let chosen = session.spare(index).and_then(|member| read_copies(&*member.disk, expected).choose().ok());
    let generation = chosen.map(|chosen| chosen.copy.metadata.generation);
    let behind = generation.map(|generation| metadata.generation.saturating_sub(generation));
    let sum = |lengths: &mut dyn Iterator<Item = u64>| lengths.fold(0, u64::saturating_add);
    SpareRow {
        index,
        device: device_words(context, session, index),
        uuid: record.map(|r| r.uuid.to_string()).unwrap_or_default(),
        state: state_word(session, index, generation),
        sectors: record.map_or(Sectors::ZERO, |r| r.identity.size),
        used_sectors: Sectors(sum(&mut metadata.map.extents_by_slot(index).map(|e| e.range.len().0))),
        free_sectors: Pool::new(metadata, |index| session.is_there(index)).free_on(index),
        extents: metadata.map.extents_by_slot(index).count(),
        bad_sectors: sum(&mut metadata.bad_blocks.get(&index).into_iter().flatten().map(|r| r.len().0)),
        generation,
        behind,
    }
}

/// The state of a spare in a word: for `status`, too. `generation` is the newest on it.
pub(super) fn state_word(session: &Session<'_>, index: SpareIndex, generation: Option<u64>) -> &'static str {
    let metadata = &session.metadata;
    let state = metadata.spare(index).map_or(SpareState::Removed, |record| record.state);
    match (session.is_there(index), state, generation) {
        (_, SpareState::Removed, _) => "removed",
        (false, _, _) => "missing",
        (true, SpareState::Failed, _) => "failed",
        (true, _, None) => "unreadable",
        (true, _, Some(generation)) if generation < metadata.generation => "stale",
        (true, SpareState::Draining, _) => "draining",
        (true, SpareState::Present, _) => "online",
    }
}

fn readd(context: &Context, args: &SpareReadd, out: &mut Output) -> Result<Exit> {
    let prepare = |session: &Session<'_>| -> Result<(SpareIndex, BlockDevice)> {
        session.check_live_but(find(context, session, &args.spare).ok())?;
        let index = find(context, session, &args.spare)?;
        if !session.metadata.is_member(index) {
            return Err(Refusal::SpareRemoved { name: session.name.clone(), index }.into());
        }
        let device = device_to_take_back(context, session, index, &args.spare)?;
        check_taken_back(context, session, index, &device)?;
        let reading = context.member_for_reading(&device)?;
        members::check_back(session, index, &*reading.disk)?;
        Ok((index, device))
    };
    if args.dry_run {
        let session = context.reading_session(&args.name)?;
        let (index, device) = prepare(&session)?;
        return Ok(said(
            out,
            &args.name,
            index,
            true,
            &format!("would take {} back into service", device.path.display()),
        ));
    }
    let (_lock, mut session) = context.locked_session(&args.name)?;
    let _claiming = context.claim_lock()?;
    let (index, device) = prepare(&session)?;
    let was = session.spare(index).map(|member| member.devno);
    let setup = session.setup();
    let recheck = || {
        still_ours(context, &device, setup)?;
        check_not_made_over(context, &args.name, setup, index, &device)
    };
    let result = members::readd(&mut session, index, context.member(&device)?, &recheck, &context.progress);
    context.keep_backup(&session.metadata);
    moves::tell_failed(context, &session);
    result?;
    if was != Some(device.devno) && session.metadata.map.extents_by_slot(index).next().is_some() {
        context.note(&format!(
            "what was written to spare {index} just before it went away, and had not been flushed, may be lost, as with \
             any disk that is pulled: check what lies on '{}'",
            args.name
        ));
    }
    Ok(said(out, &args.name, index, false, &format!("{} is back in service", device.path.display())))
}

/// The device that is named, the one that the spare has, or the only one here that holds its copies.
fn device_to_take_back(context: &Context, session: &Session<'_>, index: SpareIndex, text: &str) -> Result<BlockDevice> {
    if text.contains('/') {
        return Ok(context.device(Path::new(text))?);
    }
    if session.is_there(index)
        && let Some(member) = session.spare(index)
    {
        return Ok(context.host.device_by_number(member.devno).map_err(|e| EngineError::Device(e.to_string()))?);
    }
    let uuid = session.metadata.spare(index).map(|record| record.uuid);
    let idle = |device: &BlockDevice| context.host.usage(device).is_empty() && !context.host.is_suspended(device);
    let mut found = Vec::new();
    for device in context.host.all_devices() {
        if idle(&device) && uuid_on(session, &device).ok().flatten() == uuid {
            found.push(device);
        }
    }
    let refuse = |why: String| Refusal::NotTakenBack { name: session.name.clone(), index, why };
    match (found.pop(), found.pop()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(two)) => Err(refuse(format!(
            "{} and {} both hold its copies; name the right one",
            one.path.display(),
            two.path.display()
        ))
        .into()),
        (None, _) => Err(refuse("no device here holds its copies".into()).into()),
    }
}

/// Checks that the device is free or serves as this spare, is the one that is recorded, and no other one does its work.
fn check_taken_back(context: &Context, session: &Session<'_>, index: SpareIndex, device: &BlockDevice) -> Result<()> {
    let refuse = |why: String| Refusal::NotTakenBack { name: session.name.clone(), index, why };
    let path = device.path.display().to_string();
    let Some(record) = session.metadata.spare(index).filter(|record| record.state.is_member()) else {
        return Err(Refusal::SpareRemoved { name: session.name.clone(), index }.into());
    };
    match member_of(session, device) {
        Some(other) if other != index => return Err(refuse(format!("{path} is spare {other}")).into()),
        Some(_) => {}
        None => {
            if session.is_there(index)
                && let Some(member) = session.spare(index)
                && read_copies(&*member.disk, Expected { setup: Some(session.setup()), spare: Some(record.uuid) })
                    .has_traces()
            {
                let here = context.path_of(member.devno);
                return Err(refuse(format!("{here} is that spare and still answers; {path} is a copy of it")).into());
            }
            let uses = super::spare_facts::device_facts(context, device)?.uses;
            if !uses.is_empty() {
                return Err(Refusal::InUse { device: path, uses: uses.join("; ") }.into());
            }
        }
    }
    if device.read_only {
        return Err(Refusal::ReadOnly(path).into());
    }
    if device.size < record.identity.size {
        let why = format!("{path} has {} sectors, and the spare had {}", device.size, record.identity.size);
        return Err(refuse(why).into());
    }
    if device.logical_block > session.block() {
        let (spare, main) = (device.logical_block, session.block());
        return Err(Refusal::LargerBlocks { device: path, spare, main }.into());
    }
    let as_large = Identity { size: device.size, ..record.identity.clone() };
    match as_large.matches(&device.identity) {
        Match::Different(why) => Err(refuse(format!("{path} is another device than it was: {why}")).into()),
        Match::Unproven if record.identity.has_stable_name() => {
            Err(refuse(format!("{path} has no name that could prove that it is the same device")).into())
        }
        Match::Proven | Match::Unproven => {
            Ok(check_not_made_over(context, &session.name, session.setup(), index, device)?)
        }
    }
}

/// Checks that nobody has made anything over its copies: its slots would not be what they were.
fn check_not_made_over(
    context: &Context,
    name: &str,
    setup: Uuid,
    index: SpareIndex,
    device: &BlockDevice,
) -> Result<(), EngineError> {
    let disk = context.member_for_reading(device)?.disk;
    let reading = read_copies(&*disk, Expected { setup: Some(setup), spare: None });
    match made_over(context, device, &*disk, &reading)? {
        None => Ok(()),
        Some(signature) => {
            let path = device.path.display();
            let why =
                format!("{path} holds {signature}, which somebody made over its copies: what lived there may be gone");
            Err(Refusal::NotTakenBack { name: name.into(), index, why }.into())
        }
    }
}

/// One line about one spare, or the same as JSON.
fn said(out: &mut Output, name: &str, index: SpareIndex, dry_run: bool, what: &str) -> Exit {
    if out.is_json() {
        out.json(&serde_json::json!({ "dry_run": dry_run, "name": name, "spare": index, "result": what }));
    } else {
        let dry = if dry_run { " (dry run: nothing was changed)" } else { "" };
        out.line(format!("{name}: spare {index}: {what}{dry}"));
    }
    Exit::Done
}

fn grow(context: &Context, args: &SpareGrow, out: &mut Output) -> Result<Exit> {
    let refuse = |session: &Session<'_>, index, why: &str| Refusal::CannotGrow {
        name: session.name.clone(),
        index,
        why: why.into(),
    };
    let device_of = |session: &Session<'_>| -> Result<(SpareIndex, BlockDevice)> {
        session.check_live()?;
        let index = find(context, session, &args.spare)?;
        match session.spare(index).filter(|member| !member.is_gone()) {
            Some(member) => {
                let device = context.host.device_by_number(member.devno);
                Ok((index, device.map_err(|e| EngineError::Device(e.to_string()))?))
            }
            None => Err(refuse(session, index, "its device is not there").into()),
        }
    };
    if args.dry_run {
        let session = context.reading_session(&args.name)?;
        let (index, mut device) = device_of(&session)?;
        members::check_growable(&session, index)?;
        if let Some(bytes) = args.size {
            let file = context.host.loop_file(&device).map_err(|why| refuse(&session, index, &why))?;
            device.identity.size = file.size_after(bytes).map_err(|why| refuse(&session, index, &why))?;
        }
        let record = plan_grow(&session.metadata, index, &device.identity)?;
        return Ok(said(out, &args.name, index, true, &grown_words(&session, index, record.identity.size)));
    }
    let (_lock, mut session) = context.locked_session(&args.name)?;
    let (index, mut device) = device_of(&session)?;
    members::check_growable(&session, index)?;
    if let Some(bytes) = args.size {
        let file = context.host.loop_file(&device).map_err(|why| refuse(&session, index, &why))?;
        file.size_after(bytes).map_err(|why| refuse(&session, index, &why))?;
        file.grow(bytes).map_err(|e| EngineError::system(format!("cannot grow {}", file.path().display()), e))?;
        device = context.host.device_by_number(device.devno).map_err(|e| EngineError::Device(e.to_string()))?;
    }
    let record = plan_grow(&session.metadata, index, &device.identity)?;
    let words = grown_words(&session, index, record.identity.size);
    let result = members::grow(&mut session, index, &record, &context.progress);
    context.keep_backup(&session.metadata);
    moves::tell_failed(context, &session);
    result?;
    Ok(said(out, &args.name, index, false, &words))
}

fn grown_words(session: &Session<'_>, index: SpareIndex, size: Sectors) -> String {
    let before = session.metadata.spare(index).map_or(Sectors::ZERO, |record| record.identity.size);
    format!("from {} to {}", sizes(before), sizes(size))
}
