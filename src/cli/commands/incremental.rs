//! `reassemble --incremental`, `--boot` and `--last-resort`: setups that come up with nobody at the keyboard.
//!
//! Invariants:
//! - nothing comes up that `--safe-mode` would refuse, but for spares that are missing when the configuration permits it;
//! - what is missing may still appear: that is told, and no error, until the last resort;
//! - a setup that is up, or that another process is bringing up, is left alone.

use super::assembly::{Search, bring_up};
use super::probe::is_busy;
use super::reassemble::each_alone;
use super::{Context, Exit, Output};
use crate::cli::args::assembly::Reassemble;
use crate::config::{BOOT_ACTIVATE, BOOT_INCOMPLETE};
use crate::dm::DeviceMapper;
use crate::engine::discover::Where;
use crate::engine::registry;
use crate::engine::session::setup_of_uuid;
use crate::format::metadata::SetupState;
use crate::plan::Refusal;
use crate::plan::assemble::{AssemblyOptions, FoundSetup, ProblemKind, problems};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Why a setup might come up now.
#[derive(Clone, Debug)]
pub(super) enum Occasion {
    /// This device has appeared.
    Appeared(PathBuf),
    /// The machine starts.
    Boot,
    /// This setup has not come up in time.
    LastResort(String),
}

/// The occasion, if this is none of the calls that people make.
pub(super) fn occasion(args: &Reassemble) -> Option<Occasion> {
    match (&args.incremental, args.boot, &args.last_resort) {
        (Some(device), ..) => Some(Occasion::Appeared(device.clone())),
        (None, true, _) => Some(Occasion::Boot),
        (None, false, Some(setup)) => Some(Occasion::LastResort(setup.clone())),
        (None, false, None) => None,
    }
}

pub(super) fn reassemble(
    context: &Context,
    occasion: &Occasion,
    patience: Duration,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit> {
    let dm = context.dm()?;
    if let Occasion::LastResort(setup) = occasion {
        let wanted = Uuid::try_parse(setup).map_err(|_| crate::cli::context::Usage(format!("'{setup}' is no UUID")))?;
        for (device, _) in dm.list()? {
            if dm.state(&device)?.is_some_and(|state| setup_of_uuid(&state.uuid) == Some(wanted)) {
                return Ok(Exit::Done);
            }
        }
    }
    if !dry_run {
        context.remove_remains()?;
    }
    let mut search = Search::within(context, &Where::everywhere(), patience)?;
    let setups = which(context, &search, occasion)?;
    Ok(each_alone(&setups, out, &mut |setup, one| bring(context, &mut search, setup, occasion, dry_run, one)))
}

/// The setups that are meant, as far as they may come up by themselves.
fn which(context: &Context, search: &Search, occasion: &Occasion) -> Result<Vec<Uuid>> {
    let is_down = |setup: &&FoundSetup| setup.live.is_none() && setup.newest.metadata.config.state == SetupState::Ready;
    let mut setups = Vec::new();
    for setup in search.discovery.setups.iter().filter(is_down) {
        let is_meant = match occasion {
            Occasion::Boot => true,
            Occasion::LastResort(uuid) => setup.setup().to_string() == uuid.to_lowercase(),
            Occasion::Appeared(device) => is_part(context, search, setup, device),
        };
        if is_meant && context.settings(Some(setup.name()))?.get(&BOOT_ACTIVATE) {
            setups.push(setup.setup());
        }
    }
    Ok(setups)
}

/// Whether a device is a spare of a setup, or the main that is on record for it.
fn is_part(context: &Context, search: &Search, setup: &FoundSetup, device: &Path) -> bool {
    let Ok(device) = context.device(device) else { return false };
    let places = search.discovery.devices.iter().enumerate().filter(|(_, seen)| seen.devno == Some(device.devno));
    let is_spare = places.into_iter().any(|(place, _)| setup.stands_on(place));
    let known = registry::all(&context.registry());
    is_spare || registry::main_of(&known, &device.identity).is_some_and(|known| known.setup == setup.setup())
}

fn bring(
    context: &Context,
    search: &mut Search,
    setup: Uuid,
    occasion: &Occasion,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit> {
    let Some(found) = search.discovery.setups.iter().find(|found| found.setup() == setup) else {
        return Ok(Exit::Done);
    };
    let settings = context.settings(Some(found.name()))?;
    let last = matches!(occasion, Occasion::LastResort(_));
    let degraded = last && settings.get(&BOOT_INCOMPLETE) == "degraded";
    let options = AssemblyOptions { safe_mode: !degraded, degraded, ..AssemblyOptions::default() };
    let mark = context.mark();
    let all = problems(found, &search.discovery.devices, &options, |active| mark.is_same_machine(active));
    let may_appear = |kind| matches!(kind, ProblemKind::Incomplete | ProblemKind::MainMissing);
    if let (false, Some(problem)) = (last, all.iter().find(|problem| may_appear(problem.kind))) {
        let what = format!("waits: {}", problem.refusal);
        return Ok(super::lifecycle::said(out, found.name(), dry_run, &what));
    }
    match bring_up(context, search, setup, &options, dry_run, out) {
        Err(error) if is_busy(&error) || is_up(&error) => Ok(Exit::Done),
        other => other,
    }
}

fn is_up(error: &anyhow::Error) -> bool {
    let is = |refusal: &Refusal| matches!(refusal, Refusal::AlreadyActive(_));
    let engine = error.downcast_ref::<crate::engine::EngineError>();
    error.downcast_ref::<Refusal>().is_some_and(is)
        || matches!(engine, Some(crate::engine::EngineError::Refused(refusal)) if is(refusal))
}
