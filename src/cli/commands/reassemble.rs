//! `activate` and `reassemble`: bringing up setups that are not up.

use super::assembly::{Search, Wanted, already_up, bring_up};
use super::incremental;
use super::{Context, Exit, Output};
use crate::cli::args::Activate;
use crate::cli::args::assembly::Reassemble;
use crate::cli::output::complain;
use crate::cli::{exit_of, worse};
use crate::engine::discover::Where;
use crate::engine::session::find_active;
use crate::format::metadata::SetupState;
use crate::plan::assemble::{AssemblyOptions, FoundSetup};
use anyhow::Result;
use uuid::Uuid;

pub(super) fn activate(context: &Context, args: &Activate, out: &mut Output) -> Result<Exit> {
    context.set_layout(args.layout);
    let dm = context.dm()?;
    if let Some(name) = args.name.as_ref().filter(|name| Uuid::try_parse(name).is_err())
        && find_active(dm, name).is_ok()
    {
        return already_up(context, name, args.dry_run, out);
    }
    if !args.dry_run {
        context.remove_remains()?;
    }
    let wanted = Wanted { name: args.name.clone(), devices: args.spares.clone() };
    let place = Where { named: args.spares.clone(), main: args.main.clone(), ..Where::everywhere() };
    let mut search = Search::within(context, &place, args.patience.timeout)?;
    let setup = search.pick(&wanted)?;
    let options = AssemblyOptions {
        update_stale: args.update_stale,
        takeover: args.takeover,
        accept_changed_main: args.accept_changed_main,
        main: search.discovery.main,
        ..AssemblyOptions::default()
    };
    bring_up(context, &mut search, setup, &options, args.dry_run, out)
}

pub(super) fn reassemble(context: &Context, args: &Reassemble, out: &mut Output) -> Result<Exit> {
    context.set_layout(args.layout);
    if let Some(occasion) = incremental::occasion(args) {
        return incremental::reassemble(context, &occasion, args.patience.timeout, args.dry_run, out);
    }
    context.dm()?;
    if !args.dry_run {
        context.remove_remains()?;
    }
    let place = Where { named: args.devices.clone(), main: args.main.clone(), ..Where::everywhere() };
    let mut search = Search::within(context, &place, args.patience.timeout)?;
    let options = AssemblyOptions {
        safe_mode: args.safe_mode,
        degraded: args.degraded,
        read_only: args.read_only,
        update_stale: args.update_stale,
        takeover: args.takeover,
        accept_changed_main: args.accept_changed_main,
        main: search.discovery.main,
        rename: args.rename.clone(),
    };
    let setups = which(&search, args)?;
    if let ([only], false) = (setups.as_slice(), args.auto) {
        return bring_up(context, &mut search, *only, &options, args.dry_run, out);
    }
    if args.main.is_some() || args.rename.is_some() {
        let what = "--main and --rename are for one setup; say which with --setup".into();
        return Err(crate::cli::context::Usage(what).into());
    }
    if setups.is_empty() && !out.is_json() {
        out.line("no setup was found that is not up");
    }
    let mut bring = |setup, one: &mut Output| bring_up(context, &mut search, setup, &options, args.dry_run, one);
    Ok(each_alone(&setups, out, &mut bring))
}

/// Does something with each setup: one that is refused does not keep the others down.
pub(super) fn each_alone(
    setups: &[Uuid],
    out: &mut Output,
    work: &mut dyn FnMut(Uuid, &mut Output) -> Result<Exit>,
) -> Exit {
    let mut exit = Exit::Done;
    let mut each = Vec::new();
    for setup in setups.iter().copied() {
        let mut one = Output::new(out.is_json());
        let done = work(setup, &mut one).unwrap_or_else(|error| {
            let exit = exit_of(&error);
            if one.is_json() {
                one.json(&serde_json::json!({ "uuid": setup, "error": format!("{error:#}"), "exit_code": exit as u8 }));
            }
            complain(&format!("{error:#}"));
            exit
        });
        exit = worse(exit, done);
        each.push(one.into_text());
    }
    if out.is_json() {
        let each: Vec<serde_json::Value> = each.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        out.json(&serde_json::json!({ "setups": each }));
    } else {
        each.iter().for_each(|text| out.text(text));
    }
    exit
}

/// The setups that are meant.
fn which(search: &Search, args: &Reassemble) -> Result<Vec<Uuid>> {
    if args.auto {
        // Remains of what was interrupted are no setups; discover shows them.
        let is_setup = |setup: &&FoundSetup| setup.newest.metadata.config.state == SetupState::Ready;
        let down = search.discovery.setups.iter().filter(|setup| setup.live.is_none()).filter(is_setup);
        return Ok(down.map(|setup| setup.setup()).collect());
    }
    if args.setup.is_none() {
        return Ok(search.on_named_devices()?.iter().map(|setup| setup.setup()).collect());
    }
    let wanted = Wanted { name: args.setup.clone(), devices: args.devices.clone() };
    Ok(vec![search.pick(&wanted)?])
}
