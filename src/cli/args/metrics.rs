//! Arguments of `metrics`.

use super::assembly::Patience;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `metrics`.
#[derive(Debug, Args)]
#[command(
    after_help = "With 'metrics.textfile' in the configuration the file is written by every command that changes or scans a \
    setup, so that nothing has to run this. Alert rules, a dashboard and a template come with the program, in monitoring/."
)]
pub struct Metrics {
    /// The setups, by name or pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Write dm_remap.prom in this directory, at once and whole, instead of printing: for node_exporter's textfile
    /// collector.
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub textfile: Option<PathBuf>,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: Patience,
}
