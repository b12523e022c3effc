//! `policy`: shows and changes the choices that a setup keeps.

use super::{Context, Exit, Output, moves};
use crate::cli::args;
use crate::cli::output::complain;
use crate::cli::selection::select;
use crate::cli::{exit_of, worse};
use crate::format::metadata::Policy;
use anyhow::Result;

pub(super) fn policy(context: &Context, args: &args::Policy, out: &mut Output) -> Result<Exit> {
    let names = select(context, std::slice::from_ref(&args.name))?;
    if let [name] = names.as_slice() {
        return policy_of(context, args, name, out);
    }
    let mut exit = Exit::Done;
    let mut rows: Vec<serde_json::Value> = Vec::new();
    for name in &names {
        let mut one = Output::like(out);
        match policy_of(context, args, name, &mut one) {
            Ok(done) => exit = worse(exit, done),
            // One that is refused does not keep the others from it.
            Err(error) => {
                complain(&format!("{error:#}"));
                exit = worse(exit, exit_of(&error));
            }
        }
        let text = one.into_text();
        if out.is_json() {
            rows.extend(serde_json::from_str::<serde_json::Value>(&text));
        } else {
            out.text(&text);
        }
    }
    if out.is_json() {
        out.json(&serde_json::json!({ "setups": rows }));
    }
    Ok(exit)
}

fn policy_of(context: &Context, args: &args::Policy, name: &str, out: &mut Output) -> Result<Exit> {
    let wanted = |current: &Policy| Policy {
        allocation: args.allocation.map_or(current.allocation, Into::into),
        unreadable: args.unreadable.map_or(current.unreadable, Into::into),
        unknown: current.unknown.clone(),
    };
    let shows_only = args.allocation.is_none() && args.unreadable.is_none();
    let (before, after, spare_failed) = if shows_only || args.dry_run {
        let before = context.reading_session(name)?.metadata.config.policy;
        let after = wanted(&before);
        (before, after, false)
    } else {
        let (_lock, mut session) = context.locked_session(name)?;
        session.check_live()?;
        let before = session.metadata.config.policy.clone();
        let after = wanted(&before);
        if after != before {
            session.commit(|next| next.config.policy = after.clone())?;
            context.keep_backup(&session.metadata);
            moves::tell_failed(context, &session);
        }
        (before, after, !session.failed.is_empty())
    };
    let exit = if spare_failed { Exit::Attention } else { Exit::Done };
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": args.dry_run, "name": name, "changed": before != after && !args.dry_run,
            "before": before, "policy": after, "allocation": after.allocation, "unreadable": after.unreadable,
        }));
        return Ok(exit);
    }
    let would = if args.dry_run && before != after { " (dry run: nothing was changed)" } else { "" };
    out.line(format!("{name}: policy{would}"));
    let rows = [
        ("allocation", word(&before.allocation), word(&after.allocation)),
        ("unreadable", word(&before.unreadable), word(&after.unreadable)),
    ];
    for (key, old, new) in rows {
        let was = if old == new { String::new() } else { format!("  (was {old})") };
        out.line(format!("  {key}  {new}{was}"));
    }
    Ok(exit)
}

/// A choice as the metadata spells it.
fn word(choice: &impl serde::Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
