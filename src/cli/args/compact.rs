//! Arguments of `compact`.

use clap::Args;

/// Arguments of `compact`.
#[derive(Debug, Args)]
#[command(
    after_help = "It works in batches, each a swap of its own; interrupted, it ends after the one at hand, and what \
    was done is kept. Nothing is moved on or off main. A second run right after finds nothing to do."
)]
pub struct Compact {
    /// The setup.
    pub name: String,
    /// The most sectors to move in one swap.
    #[arg(long, value_name = "SECTORS", default_value_t = crate::plan::compact::BATCH.0, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}
