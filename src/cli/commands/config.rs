//! `config show`: what is in force, and where it comes from.

use super::{Context, Exit, Output};
use crate::cli::args::config::{Config, Show};
use crate::cli::settings::{Loaded, stored};
use crate::config::{Scope, Source, Spec, Value};
use anyhow::Result;
use std::path::Path;

pub(super) fn run(context: &Context, command: &Config, out: &mut Output) -> Result<Exit> {
    match command {
        Config::Show(args) => show(context, args, out),
    }
}

fn show(context: &Context, args: &Show, out: &mut Output) -> Result<Exit> {
    let Loaded { file, config } = context.loaded()?;
    let settings = config.settings(args.name.as_deref());
    let kept = args.name.as_deref().map(|name| {
        context.reading_session(name).map(|session| stored(&session.metadata.config.policy)).unwrap_or_else(|error| {
            context.note(&format!("what the setup stores by itself is not known: {error:#}"));
            Vec::new()
        })
    });
    let rows: Vec<_> = settings.all(&kept.unwrap_or_default());
    if out.is_json() {
        let shown = rows.iter().map(|(spec, value, source)| {
            serde_json::json!({ "key": spec.path(), "value": value, "source": source, "used_by": spec.used_by })
        });
        out.json(&serde_json::json!({ "file": file, "name": args.name, "settings": shown.collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    out.line(match file {
        Some(file) => format!("configuration: {}", file.display()),
        None => "configuration: none".to_string(),
    });
    let mut table = vec![["KEY", "VALUE", "FROM"].map(str::to_string).to_vec()];
    table.extend(rows.iter().map(|(spec, value, source)| row(spec, value, *source, file.as_deref())));
    out.table(0, &table);
    Ok(Exit::Done)
}

fn row(spec: &Spec, value: &Value, source: Source, file: Option<&Path>) -> Vec<String> {
    let place = |line: usize, section: &str| match file {
        Some(file) => format!("{}:{line} ({section})", file.display()),
        None => section.to_string(),
    };
    let mut from = match source {
        Source::Builtin => "built-in".to_string(),
        Source::Defaults { at } => place(at.line, "defaults"),
        Source::Setup { at } => place(at.line, "the setup's own section"),
        Source::Stored => "stored in the setup".to_string(),
    };
    if spec.used_by.is_empty() && source != Source::Builtin {
        from.push_str("; no command of this version goes by it");
    }
    // It would not be heeded for one setup: that belongs to the whole run.
    if spec.scope == Scope::Defaults && source != Source::Builtin {
        from.push_str("; for the whole run");
    }
    vec![spec.path(), value.to_string(), from]
}
