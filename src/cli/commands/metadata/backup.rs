//! `metadata backup`.

use super::super::{Context, Exit, Output};
use super::readings;
use crate::cli::args::{Backup, MetadataSource};
use crate::cli::commands::assembly::{devices_with_copies, time_of};
use crate::cli::context::Usage;
use crate::cli::report::count;
use crate::engine::session::{choose_among, find_active};
use crate::engine::{EngineError, backup as files, find};
use crate::format::copy::ValidCopy;
use crate::plan::Refusal;
use crate::store::SpareReading;
use anyhow::Result;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

pub(super) fn backup(context: &Context, args: &Backup, out: &mut Output) -> Result<Exit> {
    let (source, file) = match (&args.source, &args.file) {
        (source, _) if args.list => return list(context, source.as_deref(), out),
        (Some(source), Some(file)) => (source, file),
        _ => return Err(Usage("name a spare or a setup, and a file".into()).into()),
    };
    let (readings, label) = newest_readings(context, source)?;
    let newest = choose_among(&label, &readings)
        .map_err(|refusal| match readings.as_slice() {
            // Why none of its copies can be taken.
            [only] => {
                let what = find::describe(only);
                Refusal::Metadata { device: label.clone(), what: format!("no copy can be chosen: {what}") }
            }
            _ => refusal,
        })?
        .newest;
    let failed = |error: std::io::Error| EngineError::system(format!("cannot write {}", file.display()), error);
    let bytes = files::image(&newest.metadata).map_err(failed)?;
    if file == Path::new("-") {
        if out.is_json() {
            return Err(Usage("--json and '-' both want standard output".into()).into());
        }
        return match std::io::stdout().lock().write_all(&bytes) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(failed(error).into()),
            _ => Ok(Exit::Done),
        };
    }
    files::export(file, &bytes, args.force_overwrite).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::Error::from(Refusal::Metadata {
            device: file.display().to_string(),
            what: "it is there already. Choose another name, or say --force-overwrite".into(),
        }),
        _ => failed(error).into(),
    })?;
    report(&newest, file, bytes.len(), out);
    Ok(Exit::Done)
}

/// The copies of a device, or of all spares of a setup, up or not; and what to call it.
fn newest_readings(context: &Context, source: &str) -> Result<(Vec<SpareReading>, String)> {
    let is_name = !source.contains('/') && !Path::new(source).exists();
    let is_up = || context.dm().is_ok_and(|dm| find_active(dm, source).is_ok());
    if is_name && !is_up() {
        let found = devices_with_copies(context, source)?;
        return Ok((found.into_iter().map(|(_, reading)| reading).collect(), source.into()));
    }
    Ok((readings(context, &MetadataSource { source: source.into() })?, source.into()))
}

fn report(newest: &ValidCopy, file: &Path, bytes: usize, out: &mut Output) {
    let metadata = &newest.metadata;
    if out.is_json() {
        out.json(&serde_json::json!({
            "file": file, "bytes": bytes, "name": metadata.config.name, "uuid": metadata.setup,
            "generation": metadata.generation, "extents": metadata.map.len(),
        }));
        return;
    }
    out.line(format!(
        "wrote generation {} of '{}' ({}) to {}",
        metadata.generation,
        metadata.config.name,
        count(metadata.map.len(), "extent"),
        file.display()
    ));
}

/// The files that are kept of one setup, by name or UUID, or of all.
fn list(context: &Context, wanted: Option<&str>, out: &mut Output) -> Result<Exit> {
    let directory = context.backups();
    let setup = wanted.and_then(|wanted| Uuid::try_parse(wanted).ok());
    let mut kept = files::list(&directory, setup)
        .map_err(|error| EngineError::system(format!("cannot read {}", directory.display()), error))?;
    if let (Some(name), None) = (wanted, setup) {
        kept.retain(|kept| kept.content.as_ref().is_ok_and(|copy| copy.metadata.config.name == name));
    }
    if out.is_json() {
        let rows: Vec<_> = kept.iter().map(row).collect();
        out.json(&serde_json::json!({ "directory": directory, "kept_for_each": files::KEEP, "backups": rows }));
        return Ok(Exit::Done);
    }
    if kept.is_empty() {
        out.line(format!("no backups under {}", directory.display()));
        return Ok(Exit::Done);
    }
    let mut rows = vec![["NAME", "GENERATION", "COMMITTED", "EXTENTS", "FILE"].map(String::from).to_vec()];
    for files::Kept { path, content } in &kept {
        let file = path.display().to_string();
        rows.push(match content {
            Ok(copy) => {
                let metadata = &copy.metadata;
                let (name, generation) = (metadata.config.name.clone(), metadata.generation.to_string());
                vec![name, generation, time(metadata.committed), metadata.map.len().to_string(), file]
            }
            Err(why) => vec!["-".into(), "-".into(), why.clone(), "-".into(), file],
        });
    }
    out.table(0, &rows);
    Ok(Exit::Done)
}

fn row(kept: &files::Kept) -> serde_json::Value {
    let path: &PathBuf = &kept.path;
    match &kept.content {
        Ok(copy) => serde_json::json!({
            "file": path, "name": copy.metadata.config.name, "uuid": copy.metadata.setup,
            "generation": copy.metadata.generation, "committed": copy.metadata.committed,
            "extents": copy.metadata.map.len(),
        }),
        Err(why) => serde_json::json!({ "file": path, "error": why }),
    }
}

fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(time_of(seconds)).to_string()
}
