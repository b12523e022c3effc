//! One file for each group of commands: options in, library calls, report out.

mod ahead;
mod alert;
mod assembly;
mod changes;
mod compact;
mod config;
mod create;
mod cron;
mod cron_each;
mod discover;
mod health;
mod health_history;
mod health_view;
mod incremental;
mod known;
mod layout;
mod lifecycle;
mod metadata;
mod metrics;
mod moves;
mod policy;
mod probe;
mod reassemble;
mod report;
mod room;
mod scan;
mod scan_report;
mod scan_setup;
mod scanner;
mod show;
mod spare;
mod spare_empty;
mod spare_facts;
mod spare_find;
mod stats;
mod stats_view;
mod status;
mod status_many;
mod status_view;
mod udev;
mod validate;
mod watch;

pub(super) use changes::tell_changes;
pub(super) use known::disk_scores;
pub(super) use status_many::Failed as WorkerFailed;

use super::Exit;
use super::args::{Cli, Command};
use super::context::Context;
use super::output::Output;
use anyhow::Result;

/// Runs the command that was asked for.
pub(super) fn run(context: &Context, cli: &Cli, out: &mut Output) -> Result<Exit> {
    match &cli.command {
        Command::Create(args) => create::create(context, args, out),
        Command::Remap(args) => moves::remap(context, args, out),
        Command::Restore(args) => moves::restore(context, args, out),
        Command::Map(args) => show::map(context, args, out),
        Command::Status(args) => status_many::status(context, args, out),
        Command::List(args) => show::list(context, args, out),
        Command::Activate(args) => reassemble::activate(context, args, out),
        Command::Deactivate(args) => lifecycle::deactivate(context, args, out),
        Command::Destroy(args) => lifecycle::destroy(context, args, out),
        Command::Recover(args) => lifecycle::recover(context, args, out),
        Command::Acknowledge(args) => lifecycle::acknowledge(context, args, out),
        Command::Policy(args) => policy::policy(context, args, out),
        Command::Layout(args) => layout::layout(context, args, out),
        Command::Compact(args) => compact::compact(context, args, out),
        Command::Scan(args) => scan::scan(context, args, out),
        Command::Watch(args) => watch::watch(context, args, out),
        Command::Spare(args) => spare::run(context, args, out),
        Command::Metadata(args) => metadata::run(context, args, out),
        Command::Discover(args) => discover::discover(context, args, out),
        Command::Reassemble(args) => reassemble::reassemble(context, args, out),
        Command::Alert(args) => alert::alert(context, args, out),
        Command::Metrics(args) => metrics::metrics(context, args, out),
        Command::Health(args) => health::health(context, args, out),
        Command::Report(args) => report::report(context, args, out),
        Command::Stats(args) => stats::stats(context, args, out),
        Command::Config(args) => config::run(context, args, out),
        Command::Validate(args) => validate::validate(context, args, out),
        Command::UdevProbe(args) => udev::probe(context, args, out),
    }
}
