//! `validate`: judges a configuration or a spare.

use super::{Context, Exit, Output, metadata};
use crate::cli::args::MetadataSource;
use crate::cli::args::validate::Validate;
use crate::cli::context::Usage;
use crate::cli::report::count;
use crate::cli::settings::read_file;
use anyhow::Result;
use std::path::Path;

pub(super) fn validate(context: &Context, args: &Validate, out: &mut Output) -> Result<Exit> {
    match (&args.device, context.named_config()) {
        (Some(_), Some(_)) => Err(Usage("name a configuration or a spare, not both".into()).into()),
        (Some(device), None) => {
            // With a slash it is a path, whatever it is called.
            let source = std::path::absolute(device)?.to_string_lossy().into_owned();
            metadata::check(context, &MetadataSource { source }, out)
        }
        (None, Some(file)) => config(file, out),
        (None, None) => Err(Usage("name what to judge: --config FILE or --device DEV".into()).into()),
    }
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
