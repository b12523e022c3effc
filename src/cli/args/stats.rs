//! Arguments of `stats`.

use clap::Args;
use std::time::Duration;

/// Arguments of `stats`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("change").multiple(false),
    after_help = "Requests are counted by the kernel (dm-stats) from --enable on, until --disable or until the setup is taken down; \
    'metrics.latency: true' in the configuration counts from the start. A request that touches what lives on a spare is counted for the \
    setup and for the spare; of more than 128 runs on spares the longest are counted. A percentile is the upper bound of a bin, which is at most 1.67 times the truth."
)]
pub struct Stats {
    /// The setups, by name or pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Begin to count.
    #[arg(long, group = "change")]
    pub enable: bool,
    /// Count no more, and forget what was counted.
    #[arg(long, group = "change")]
    pub disable: bool,
    /// Begin to count anew, from zero.
    #[arg(long, group = "change")]
    pub reset: bool,
    /// Print what has happened in each of these intervals, until a signal or --count ends it.
    #[arg(long, short, value_name = "TIME", value_parser = humantime::parse_duration, num_args = 0..=1,
        require_equals = true, default_missing_value = "2s", conflicts_with = "change")]
    pub watch: Option<Duration>,
    /// With --watch: end after so many intervals.
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Show no histogram.
    #[arg(long)]
    pub no_histogram: bool,
}
