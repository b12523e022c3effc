//! Arguments of `report`.

use super::FileSearch;
use super::assembly::Patience;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `report`.
#[derive(Debug, Args)]
#[command(
    after_help = "The page is one file that loads nothing: it can be kept, mailed and printed. It shows the state and what to do, \
    the surface of the disk, the spares, growth over time, the latencies that 'stats' has counted, and what was lost."
)]
pub struct Report {
    /// The setups, by name or pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Write the page to this file, at once and whole; '-' prints it.
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: Patience,
    /// Where to stop looking for files.
    #[command(flatten)]
    pub files: FileSearch,
}
