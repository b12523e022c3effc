//! What every command does at its end for the setups that it touched: requests are counted where that is wanted, the history is
//! kept, changes are told, metrics are written.
//!
//! Invariants: nothing is told, and no file is touched, while a setup is suspended: its filesystem may be the one that
//! programs and state lie on; one command at a time looks, tells and writes, so that an older look never follows a newer one;
//! a failure here is noted and changes no exit code.

use super::known::Known;
use super::status::{StatusReport, examine, gather};
use super::{Context, alert, health, metrics, report, stats};
use crate::alert::state::State;
use crate::cli::syslog::{self, Severity};
use crate::engine::session::find_active;
use crate::units::RangeSet;
use anyhow::Result;
use std::time::Duration;

/// To be called when everything is resumed and no lock is held.
pub(in crate::cli) fn tell_changes(context: &Context) {
    for (name, weak) in context.take_touched() {
        if let Err(error) = tell(context, &name, weak) {
            context.note(&format!("{name}: what has changed could not be told: {error:#}"));
        }
    }
    metrics::write_configured(context);
}

fn tell(context: &Context, name: &str, weak: RangeSet) -> Result<()> {
    let dm = context.dm()?;
    // It went down: there is nothing to look at.
    let Ok((state, setup)) = find_active(dm, name) else { return Ok(()) };
    if state.suspended {
        syslog::log(
            Severity::Error,
            &format!("{name}: is suspended; unless a command is at work, run 'dm-remap recover'"),
        );
        return Ok(());
    }
    stats::count_configured(context, name);
    let state = State::take(&context.state().join("alert"), setup)?;
    // Before anybody is told: a program that is run may look at it, and what the disks say is told, too.
    let (report, disks) = look(context, name)?;
    let kept = report::keep(context, setup, &report).map_err(anyhow::Error::from).and(disks);
    if let Err(error) = kept {
        context.note(&format!("{name}: the history is not up to date: {error}"));
    }
    alert::tell(context, &state, &report, weak)
}

/// How a setup is doing, its disks asked where that is due; whether what they say could be kept.
fn look(context: &Context, name: &str) -> Result<(StatusReport, Result<()>)> {
    let Ok((session, live)) = context.reading_session_with_tables(name) else {
        return Ok((gather(context, name, Duration::ZERO)?, Ok(())));
    };
    let mut known = Known::load(context, &session.metadata);
    let kept = if context.are_disks_due() { health::keep(context, &session, &mut known) } else { Ok(()) };
    Ok((examine(context, &session, live, known, Duration::ZERO)?, kept))
}
