//! Arguments of `discover` and `reassemble`, which are the programs `dm-remap-discover` and `dm-remap-reassemble`, too.

use clap::{ArgGroup, Args};
use std::path::PathBuf;
use std::time::Duration;

/// Look for setups on devices and image files, and change nothing.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("place").required(true).multiple(true),
    after_help = "Everything is opened for reading only. A device that does not answer in time is passed over and named."
)]
pub struct Discover {
    /// Look at all block devices.
    #[arg(long, group = "place")]
    pub scan_all: bool,
    /// Look at these devices or image files. Mains are looked for everywhere.
    #[arg(long = "device", value_name = "DEV", num_args = 1.., group = "place")]
    pub devices: Vec<PathBuf>,
    /// Judge every spare that is found in depth, as dm-remap-validate does.
    #[arg(long)]
    pub validate: bool,
    /// Tell also what was passed over, and why.
    #[arg(long, short)]
    pub verbose: bool,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: Patience,
}

/// How long a device may take to answer.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// How long a device may take to answer before it is passed over.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    pub timeout: Duration,
}

/// What a person decides, and no start script: the configuration speaks there.
const FOR_A_PERSON: [&str; 11] = [
    "auto",
    "setup",
    "devices",
    "safe_mode",
    "main",
    "degraded",
    "update_stale",
    "takeover",
    "accept_changed_main",
    "read_only",
    "rename",
];

/// Put setups together again from their spares, and bring them up.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).multiple(true),
    after_help = "Whatever is in doubt is refused with the reason and exit code 4, and nothing is changed. Each option below --main \
    lets one kind of doubt pass. With --safe-mode none does."
)]
pub struct Reassemble {
    /// All setups that are found and not up.
    #[arg(long, group = "which", conflicts_with_all = ["setup", "main", "rename"])]
    pub auto: bool,
    /// For udev: this device has appeared. The setups whose spare or main it is come up if they are complete and beyond
    /// doubt, and boot.activate does not say no; if something is missing still, that is no error.
    #[arg(long, value_name = "DEV", group = "which", conflicts_with_all = FOR_A_PERSON)]
    pub incremental: Option<PathBuf>,
    /// For a start script: the same for all setups that are found. Those with something missing are named.
    #[arg(long, group = "which", conflicts_with_all = FOR_A_PERSON)]
    pub boot: bool,
    /// For a timer: this setup has not come up in time. It comes up degraded if boot.incomplete says so.
    #[arg(long, value_name = "UUID", group = "which", conflicts_with_all = FOR_A_PERSON)]
    pub last_resort: Option<String>,
    /// This setup, by name or UUID.
    #[arg(long, value_name = "NAME|UUID", group = "which")]
    pub setup: Option<String>,
    /// The setups of these spares; the other spares are looked for. A spare that is named is believed to be the right one.
    #[arg(long = "device", value_name = "DEV", num_args = 1.., group = "which")]
    pub devices: Vec<PathBuf>,
    /// Only what is complete and beyond doubt.
    #[arg(long, conflicts_with_all = ["degraded", "update_stale", "takeover", "accept_changed_main"])]
    pub safe_mode: bool,
    /// The main, when it cannot be told by itself. It must still fit.
    #[arg(long, value_name = "DEV")]
    pub main: Option<PathBuf>,
    /// Come up without spares that are missing: their extents answer EIO.
    #[arg(long)]
    pub degraded: bool,
    /// Bring spares up to date that failed or were absent for several commits.
    #[arg(long)]
    pub update_stale: bool,
    /// Bring it up although another machine is marked as having it active.
    #[arg(long)]
    pub takeover: bool,
    /// Bring it up although main was written to while it was down.
    #[arg(long)]
    pub accept_changed_main: bool,
    /// Write nothing, neither to main nor to the spares, and let nothing be written.
    #[arg(long, conflicts_with_all = ["rename", "update_stale"])]
    pub read_only: bool,
    /// Give it a new name, for good.
    #[arg(long, value_name = "NAME")]
    pub rename: Option<String>,
    /// The layout of what comes up.
    #[command(flatten)]
    pub layout: super::WithLayout,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: Patience,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}
