//! `metadata restore`.

use super::super::{Context, Exit, Output};
use super::hands::{claim_all, found_on, is_up, others_of, unused};
use crate::cli::args::RestoreMetadata;
use crate::cli::context::Usage;
use crate::cli::report::count;
use crate::engine::rewrite::{Rewrite, rewrite};
use crate::engine::{EngineError, backup, find, now};
use crate::format::COPY_STARTS;
use crate::format::copy::{ValidCopy, Verdict};
use crate::plan::Refusal;
use crate::plan::restore::{Allowed, Found, RestoreFacts, RestorePlan, plan};
use crate::store::CommitTarget;
use anyhow::Result;

pub(super) fn restore(context: &Context, args: &RestoreMetadata, out: &mut Output) -> Result<Exit> {
    if args.as_spare.is_some() && args.targets.len() != 1 {
        return Err(Usage("--as-spare is for one device: give the others in calls of their own".into()).into());
    }
    let saved = read_backup(args)?;
    let setup = saved.metadata.setup;
    let lock = context.lock(&setup.to_string(), &saved.metadata.config.name)?;
    let devices: Result<Vec<_>, EngineError> = args.targets.iter().map(|path| context.device(path)).collect();
    let devices = devices?;
    let mut targets: Vec<Found> = Vec::new();
    for device in &devices {
        targets.push(found_on(context, device)?);
    }
    let (others, other_devices) = others_of(context, setup, &devices)?;
    let facts = RestoreFacts {
        active: is_up(context, setup)?.is_some(),
        as_spare: args.as_spare,
        allowed: Allowed {
            over_newer: args.over_newer,
            over_divergent: args.over_divergent,
            force_signature: args.force_signature,
        },
        unused: unused(context, setup, devices.iter().chain(&other_devices), saved.metadata.generation)?,
        backup: saved,
        targets,
        others,
        now: now(),
    };
    let plan = plan(&facts)?;
    if !args.dry_run {
        let _claims = claim_all(context, &devices)?;
        // Looking at all other devices may have taken long.
        for (device, before) in devices.iter().zip(&facts.targets) {
            let now = found_on(context, device)?;
            if (&now.verdicts, &now.signature) != (&before.verdicts, &before.signature) {
                let what =
                    format!("{} was written by somebody else meanwhile: nothing was changed", before.device.path);
                return Err(EngineError::Device(what).into());
            }
        }
        let mut rewrites = Vec::new();
        for (device, index) in devices.iter().zip(&plan.spares) {
            let record = plan.metadata.spare(*index);
            let record = record.ok_or_else(|| EngineError::Device(format!("no spare {index}")))?;
            let disk = context.member(device)?.disk;
            let target = CommitTarget { disk, uuid: record.uuid, data_start: record.data_start };
            rewrites.push(Rewrite { target, copies: (0..COPY_STARTS.len()).collect(), good: Vec::new() });
        }
        rewrite(&plan.metadata, &rewrites)?;
        context.keep_backup(&plan.metadata);
    }
    drop(lock);
    report(args, &facts, &plan, out);
    Ok(Exit::Done)
}

fn read_backup(args: &RestoreMetadata) -> Result<ValidCopy> {
    let file = args.file.display();
    let verdict =
        backup::load(&args.file).map_err(|error| EngineError::system(format!("cannot read {file}"), error))?;
    match verdict {
        Verdict::Valid(copy) => Ok(*copy),
        other => {
            let what = format!("it is no backup that can be used: {}", find::verdict_words(&other));
            Err(Refusal::Metadata { device: file.to_string(), what }.into())
        }
    }
}

fn report(args: &RestoreMetadata, facts: &RestoreFacts, plan: &RestorePlan, out: &mut Output) {
    let metadata = &plan.metadata;
    let old = facts.backup.metadata.generation;
    let targets = || facts.targets.iter().zip(&plan.spares);
    if out.is_json() {
        let rows: Vec<_> = targets()
            .map(|(found, index)| serde_json::json!({ "device": found.device.path, "spare": index }))
            .collect();
        out.json(&serde_json::json!({
            "dry_run": args.dry_run, "name": metadata.config.name, "uuid": metadata.setup,
            "backup_generation": old, "generation": metadata.generation, "extents": metadata.map.len(),
            "targets": rows, "warnings": plan.warnings,
        }));
        return;
    }
    let (verb, end) =
        if args.dry_run { ("would restore", " (dry run: nothing was changed)") } else { ("restored", "") };
    out.line(format!(
        "{verb} generation {old} of '{}' ({}) as generation {}{end}",
        metadata.config.name,
        count(metadata.map.len(), "extent"),
        metadata.generation
    ));
    for (found, index) in targets() {
        out.line(format!("  spare {index}  {}: all five copies", found.device.path));
    }
    for warning in &plan.warnings {
        out.line(format!("  NOTE {warning}"));
    }
}
