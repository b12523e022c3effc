//! `create`: gathers the facts, plans, runs.

use super::spare_facts::{contents, device_facts, still_holds, still_ours, traces};
use super::{Context, Exit, Output};
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::Create;
use crate::cli::choices::policy;
use crate::cli::report::sizes;
use crate::dm::DeviceMapper;
use crate::engine::create::{CreateOptions, create as run};
use crate::engine::{EngineError, now};
use crate::format::choose::Expected;
use crate::plan::create::{Contents, CreateFacts, CreatePlan, SpareFacts, plan};
use crate::pool::Pool;
use crate::store::read_copies;
use anyhow::Result;
use std::path::Path;
use uuid::Uuid;

pub(super) fn create(context: &Context, args: &Create, out: &mut Output) -> Result<Exit> {
    let dm = context.dm()?;
    let _lock = context.lock(&format!("create-{}", args.name.replace('/', "_")), &args.name)?;
    let _claiming = if args.dry_run { None } else { Some(context.claim_lock()?) };
    if !args.dry_run {
        context.remove_remains()?;
    }
    let main = context.device(&args.main)?;
    let spares: Result<Vec<BlockDevice>, EngineError> = args.spares.iter().map(|p| context.device(p)).collect();
    let spares = spares?;
    let facts = facts(context, args, &main, &spares)?;
    let found: Vec<Contents> = facts.spares.iter().map(|spare| spare.contents.clone()).collect();
    let plan = plan(facts)?;
    for warning in &plan.warnings {
        context.note(warning);
    }
    for spare in &spares {
        if context.host.same_disk(&main, spare) {
            context.note(&format!(
                "{} and {} are on the same disk: when that disk dies, both are gone",
                main.path.display(),
                spare.path.display()
            ));
        }
    }
    if args.dry_run {
        report(out, &plan, None);
        return Ok(Exit::Done);
    }
    let _setup_lock = context.lock(&plan.metadata.setup.to_string(), &args.name)?;
    let members: Result<Vec<_>, EngineError> = spares.iter().map(|s| context.member(s)).collect();
    let recheck = || still_free(context, plan.metadata.setup, &main, spares.iter().zip(&found));
    context.set_layout(args.layout);
    let layout = context.layout_rule(&args.name);
    let options = CreateOptions { mark: &context.mark(), layout, recheck: &recheck, observer: &context.progress };
    let (session, activation) = run(dm, &plan, context.member(&main)?, members?, &options)?;
    if let Some(warning) = &activation.warning {
        context.note(warning);
    }
    context.keep_backup(&session.metadata);
    context.announce(session.main.devno);
    report(out, &plan, Some(&activation.node));
    Ok(Exit::Done)
}

/// Looks at the devices of a new setup again that are claimed for it, before anything is written to them.
pub(super) fn still_free<'a>(
    context: &Context,
    setup: Uuid,
    main: &BlockDevice,
    mut spares: impl Iterator<Item = (&'a BlockDevice, &'a Contents)>,
) -> Result<(), EngineError> {
    still_ours(context, main, setup)?;
    spares.try_for_each(|(spare, found)| still_holds(context, spare, setup, found))
}

pub(super) fn facts(
    context: &Context,
    args: &Create,
    main: &BlockDevice,
    spares: &[BlockDevice],
) -> Result<CreateFacts> {
    let dm = context.dm()?;
    let taken = dm.state(&args.name).ok().flatten().map(|_| "a device-mapper device has it".to_string());
    let node = context.host.dev().join("mapper").join(&args.name);
    let name_taken = taken.or_else(|| {
        let exists = !args.name.contains('/') && !args.name.is_empty() && node.symlink_metadata().is_ok();
        // A stale one is replaced when the device comes up.
        let taken = exists && !dm.has_stale_node(&args.name).unwrap_or(false);
        taken.then(|| format!("{} exists", node.display()))
    });
    let mut overlaps = Vec::new();
    let all: Vec<&BlockDevice> = std::iter::once(main).chain(spares).collect();
    for (i, a) in all.iter().enumerate() {
        for b in all.iter().skip(i + 1) {
            if let Some(why) = context.host.overlap(a, b) {
                overlaps.push((a.path.display().to_string(), b.path.display().to_string(), why));
            }
        }
    }
    let spare_facts: Result<Vec<SpareFacts>> = spares
        .iter()
        .map(|spare| Ok(SpareFacts { contents: contents(context, spare)?, device: device_facts(context, spare)? }))
        .collect();
    let on_main = DirectDisk::open_device(main, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
    let main_is_spare = match traces(&read_copies(&on_main, Expected::default())) {
        Some(Contents::SpareOf { name, .. }) => Some(name),
        _ => None,
    };
    Ok(CreateFacts {
        main_is_spare,
        name: args.name.clone(),
        name_taken,
        main: device_facts(context, main)?,
        spares: spare_facts?,
        overlaps,
        force_signature: args.force_signature,
        policy: policy(args, context.settings(Some(&args.name))?),
        now: now(),
        setup: Uuid::new_v4(),
        spare_uuids: spares.iter().map(|_| Uuid::new_v4()).collect(),
    })
}

fn report(out: &mut Output, plan: &CreatePlan, node: Option<&Path>) {
    let metadata = &plan.metadata;
    let name = &metadata.config.name;
    let room = Pool::new(metadata, |_| true).free();
    let spares: Vec<&str> = plan.spares.iter().map(|s| s.path.as_str()).collect();
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": node.is_none(),
            "name": name,
            "uuid": metadata.setup,
            "device": node,
            "main": plan.main.path,
            "sectors": metadata.map.main_len(),
            "unit": metadata.map.unit(),
            "spares": spares,
            "free_sectors": room,
        }));
        return;
    }
    match node {
        Some(node) => out.line(format!("'{name}' is up: {}", node.display())),
        None => out.line(format!("would create '{name}' (dry run: nothing was changed)")),
    }
    out.line(format!("  main    {}, {}", plan.main.path, sizes(metadata.map.main_len())));
    for spare in &plan.spares {
        out.line(format!("  spare   {}, {}", spare.path, sizes(spare.identity.size)));
    }
    out.line(format!("  room    {} in units of {} sectors", sizes(room), metadata.map.unit()));
}
