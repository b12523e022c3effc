//! Arguments of `health`.

use super::assembly::Patience;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Arguments of `health`.
#[derive(Debug, Args)]
#[command(
    after_help = "Disks are asked through smartctl (package smartmontools); those that sleep are not woken. What 'scan --cron' has \
    recorded, what the last scan found, what was moved, failed requests in the kernel log and slow ones (see 'stats') count as well. The \
    score is a summary by fixed rules, no probability. What is done about it is in the configuration, section 'health'; nothing by itself. \
    Exit code 3 when a disk is poor or failing."
)]
pub struct Health {
    /// The setups, by name or pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME", conflicts_with = "device")]
    pub names: Vec<String>,
    /// Judge this device instead of a setup's.
    #[arg(long, value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// Ask disks that sleep, too: that wakes them.
    #[arg(long)]
    pub wake: bool,
    /// Print what was recorded over time instead.
    #[arg(long, conflicts_with_all = ["device", "nagios", "wake"])]
    pub history: bool,
    /// With --history: how to print it.
    #[arg(long, value_enum, requires = "history", default_value = "table")]
    pub format: HistoryFormat,
    /// Answer as a Nagios plugin: one line with performance data; exit code 0 OK, 1 warning, 2 critical, 3 unknown.
    #[arg(long, conflicts_with = "json")]
    pub nagios: bool,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: Patience,
}

/// How to print a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HistoryFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For spreadsheets: a line for each value.
    Csv,
    /// For programs that want XML.
    Xml,
}
