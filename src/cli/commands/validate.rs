//! `validate`: judges a configuration or a spare.

use super::{Context, Exit, Output};
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::validate::Validate;
use crate::cli::context::Usage;
use crate::cli::output::Colour;
use crate::cli::report::count;
use crate::cli::settings::read_file;
use crate::engine::EngineError;
use crate::validate::{Examination, Level, examine};
use anyhow::Result;
use std::path::Path;

pub(super) fn validate(context: &Context, args: &Validate, out: &mut Output) -> Result<Exit> {
    match (&args.device, context.named_config()) {
        (Some(_), Some(_)) => Err(Usage("name a configuration or a spare, not both".into()).into()),
        (Some(device), None) => spare(context, device, args.read_slots, out),
        (None, Some(file)) => config(file, out),
        (None, None) => Err(Usage("name what to judge: --config FILE or --device DEV".into()).into()),
    }
}

/// Judges a spare.
fn spare(context: &Context, device: &Path, read_slots: bool, out: &mut Output) -> Result<Exit> {
    let examination = examined(context, device, read_slots)?;
    if out.is_json() {
        out.json(&as_json(&examination));
    } else {
        render(&examination, out);
    }
    Ok(exit_for(&examination))
}

/// Examines one device or image file, which is opened for reading only.
pub(super) fn examined(context: &Context, device: &Path, read_slots: bool) -> Result<Examination, EngineError> {
    let disk = DirectDisk::open(&context.host, device, Mode::ReadOnly);
    let disk = disk.map_err(|error| EngineError::Device(error.to_string()))?;
    Ok(examine(&disk, read_slots, &context.progress))
}

/// The examination as a value.
pub(super) fn as_json(examination: &Examination) -> serde_json::Value {
    let level = examination.level();
    serde_json::json!({
        "device": examination.device, "owner": examination.owner, "result": level, "checks": examination.checks,
    })
}

/// How a command ends that found this.
pub(super) fn exit_for(examination: &Examination) -> Exit {
    match examination.level() {
        Level::Ok => Exit::Done,
        Level::Warning => Exit::Attention,
        Level::Error => Exit::Failed,
    }
}

/// Prints what was found on a spare.
pub(super) fn render(examination: &Examination, out: &mut Output) {
    let device = &examination.device;
    out.line(match &examination.owner {
        Some(owner) => {
            let (name, setup, generation) = (&owner.name, owner.setup, owner.generation);
            format!("{device}: spare {} of '{name}' ({setup}), generation {generation}", owner.spare)
        }
        None => format!("{device}: no spare that can be used"),
    });
    for check in &examination.checks {
        let (colour, word) = match check.level {
            Level::Ok => (Colour::Green, "ok     "),
            Level::Warning => (Colour::Yellow, "warning"),
            Level::Error => (Colour::Red, "ERROR  "),
        };
        out.line(format!("  {}  {:<10}  {}", out.paint(colour, word), check.name, check.summary));
        for finding in &check.findings {
            out.line(format!("  {:19}  - {finding}", ""));
        }
    }
    let number = |level| examination.checks.iter().filter(|check| check.level == level).count();
    let (errors, warnings) = (number(Level::Error), number(Level::Warning));
    let all = count(examination.checks.len(), "check");
    out.line(format!("{device}: {all}, {} with errors, {} with warnings", errors, warnings));
}

/// Judges a configuration file.
fn config(file: &Path, out: &mut Output) -> Result<Exit> {
    let reading = read_file(file).map_err(|error| anyhow::anyhow!("{error}"))?;
    let exit = if reading.mistakes.is_empty() { Exit::Done } else { Exit::Failed };
    let (shown, setups) = (file.display().to_string(), &reading.config.setups);
    if out.is_json() {
        out.json(&serde_json::json!({
            "file": shown,
            "valid": reading.mistakes.is_empty(),
            "mistakes": reading.mistakes,
            "setups": setups.keys().collect::<Vec<_>>(),
        }));
        return Ok(exit);
    }
    for mistake in &reading.mistakes {
        out.line(format!("{shown}:{mistake}"));
    }
    out.line(match reading.mistakes.len() {
        0 => format!("{shown}: no mistakes, {}", count(setups.len(), "setup")),
        mistakes => format!("{shown}: {}", count(mistakes, "mistake")),
    });
    Ok(exit)
}
