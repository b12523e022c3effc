//! `metadata dump` and `metadata check`; the other commands of `metadata` are in the files below.

mod backup;
mod hands;
mod import;
mod repair;
mod restore;

use super::{Context, Exit, Output};
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::{Metadata, MetadataSource};
use crate::cli::output::Colour;
use crate::cli::report::extent_rows;
use crate::cli::worse;
use crate::engine::session::live_devices;
use crate::engine::{DiskSource, EngineError, Member, find};
use crate::format::COPY_STARTS;
use crate::format::choose::Expected;
use crate::format::copy::{Judge, ValidCopy, Verdict};
use crate::store::{SpareReading, read_copies, read_copies_by};
use anyhow::Result;
use std::path::Path;

pub(super) fn run(context: &Context, command: &Metadata, out: &mut Output) -> Result<Exit> {
    match command {
        Metadata::Dump(args) => dump(context, args, out),
        Metadata::Check(args) => check(context, args, out),
        Metadata::Repair(args) => repair::repair(context, args, out),
        Metadata::Backup(args) => backup::backup(context, args, out),
        Metadata::Restore(args) => restore::restore(context, args, out),
        Metadata::Import(args) => import::import(context, args, out),
    }
}

/// Reads the copies of a device or image, or of all spares of an active setup.
fn readings(context: &Context, source: &MetadataSource) -> Result<Vec<SpareReading>> {
    let path = Path::new(&source.source);
    if source.source.contains('/') || path.exists() {
        let disk = DirectDisk::open(&context.host, path, Mode::ReadOnly);
        let disk = disk.map_err(|e| EngineError::Device(e.to_string()))?;
        return Ok(vec![read_copies(&disk, Expected::default())]);
    }
    let live = live_devices(context.dm()?, &source.source)?;
    let (mut out, mut judge) = (Vec::new(), Judge::default());
    for (_, device, _) in live.spares {
        let member = context.open(device, false)?.unwrap_or_else(|| Member::gone("spare", device));
        let expected = Expected { setup: Some(live.setup), spare: None };
        out.push(read_copies_by(&mut judge, &*member.disk, expected));
    }
    Ok(out)
}

fn dump(context: &Context, source: &MetadataSource, out: &mut Output) -> Result<Exit> {
    for reading in readings(context, source)? {
        let chosen = reading
            .choose()
            .map_err(|e| EngineError::Device(format!("{}: {e}: {}", reading.device, find::describe(&reading))))?;
        out.json(&dump_json(&reading.device, &chosen.copy));
    }
    Ok(Exit::Done)
}

fn dump_json(device: &str, copy: &ValidCopy) -> serde_json::Value {
    let metadata = &copy.metadata;
    let bad: Vec<_> = metadata
        .bad_blocks
        .iter()
        .flat_map(|(spare, runs)| runs.iter().map(move |r| serde_json::json!({ "spare": spare, "range": r })))
        .collect();
    let lineage: Vec<_> = metadata
        .lineage
        .iter()
        .map(|a| serde_json::json!({ "generation": a.generation, "digest": hex(&a.digest) }))
        .collect();
    serde_json::json!({
        "device": device,
        "spare": copy.spare,
        "setup": metadata.setup,
        "generation": metadata.generation,
        "committed": metadata.committed,
        "digest": hex(&copy.digest),
        "bytes": copy.len,
        "compatible_features": metadata.compatible,
        "incompatible_features": metadata.incompatible_flags(),
        "config": metadata.config,
        "spares": metadata.spares,
        "health": metadata.health,
        "unit": metadata.map.unit(),
        "main_sectors": metadata.map.main_len(),
        "extents": extent_rows(&metadata.map),
        "losses": metadata.map.losses().iter().collect::<Vec<_>>(),
        "bad_blocks": bad,
        "lineage": lineage,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn check(context: &Context, source: &MetadataSource, out: &mut Output) -> Result<Exit> {
    let readings = readings(context, source)?;
    let mut exit = Exit::Done;
    let mut spares = Vec::new();
    for reading in &readings {
        let choice = reading.choose();
        let current = choice.as_ref().map(|c| c.current.clone()).unwrap_or_default();
        let judged = match &choice {
            Ok(c) if c.lagging.is_empty() => Exit::Done,
            Ok(_) => Exit::Attention,
            Err(_) => Exit::Failed,
        };
        exit = worse(exit, judged);
        spares.push(serde_json::json!({
            "device": &*reading.device,
            "result": match &choice {
                Ok(c) => format!("generation {} of setup {}", c.copy.metadata.generation, c.copy.metadata.setup),
                Err(error) => error.to_string(),
            },
            "copies": reading.verdicts.iter().zip(COPY_STARTS).enumerate().map(|(i, (v, at))| serde_json::json!({
                "copy": i, "sector": at, "verdict": word(v), "detail": find::verdict_words(v),
                "current": current.contains(&i),
            })).collect::<Vec<_>>(),
        }));
    }
    if out.is_json() {
        out.json(&serde_json::json!({ "spares": spares }));
        return Ok(exit);
    }
    for reading in &readings {
        render(out, reading);
    }
    Ok(exit)
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Unreadable { .. } => "unreadable",
        Verdict::Blank => "blank",
        Verdict::Foreign(_) => "foreign",
        Verdict::Damaged(_) => "damaged",
        Verdict::Unsupported(_) => "unsupported",
        Verdict::Valid(_) => "valid",
    }
}

fn render(out: &mut Output, reading: &SpareReading) {
    out.line(format!("{}:", reading.device));
    for (index, (verdict, start)) in reading.verdicts.iter().zip(COPY_STARTS).enumerate() {
        let colour = if matches!(verdict, Verdict::Valid(_)) { Colour::Green } else { Colour::Red };
        let words = out.paint(colour, &find::verdict_words(verdict));
        out.line(format!("  copy {index}  sector {:>5}  {words}", start.0));
    }
    match reading.choose() {
        Ok(chosen) => {
            let metadata = &chosen.copy.metadata;
            let lag = chosen.lagging.len();
            out.line(format!(
                "  setup '{}' ({}), generation {}{}",
                metadata.config.name,
                metadata.setup,
                metadata.generation,
                if lag == 0 {
                    String::new()
                } else {
                    format!("; {lag} of 5 copies are not current, the next commit writes them anew")
                }
            ));
        }
        Err(error) => out.line(format!("  {error}")),
    }
}
