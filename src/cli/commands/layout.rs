//! `layout`: shows and changes how a setup's map becomes tables.

use super::{Context, Exit, Output};
use crate::cli::args::LayoutOf;
use crate::engine::tables::change_layout;
use anyhow::Result;

pub(super) fn layout(context: &Context, args: &LayoutOf, out: &mut Output) -> Result<Exit> {
    let rule = args.layout.map(|wanted| context.layout_rule_of(wanted));
    let (before, after) = match rule {
        Some(rule) if !args.dry_run => {
            let (_lock, mut session) = context.locked_session(&args.name)?;
            let before = session.check_live()?;
            let after = if rule.choose(before, session.metadata.map.len()) == before {
                before
            } else {
                change_layout(&mut session, rule)?
            };
            (before, after)
        }
        _ => {
            let session = context.reading_session(&args.name)?;
            let before = session.check_live()?;
            (before, rule.map_or(before, |rule| rule.choose(before, session.metadata.map.len())))
        }
    };
    if out.is_json() {
        out.json(&serde_json::json!({
            "name": args.name, "dry_run": args.dry_run, "before": before, "layout": after,
            "changed": before != after && !args.dry_run,
        }));
        return Ok(Exit::Done);
    }
    out.line(match (before == after, args.dry_run) {
        (true, _) => format!("{}: {after}", args.name),
        (false, true) => format!("{}: {after} (was {before}; dry run: nothing was changed)", args.name),
        (false, false) => format!("{}: {after} (was {before})", args.name),
    });
    Ok(Exit::Done)
}
