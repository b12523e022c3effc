//! Arguments of `validate`, which is the program `dm-remap-validate`, too.

use clap::Args;
use std::path::PathBuf;

/// Judge a configuration or a spare, and change nothing.
///
/// Exit codes: 0 all is right; 1 there are mistakes; 3 there are warnings only. Name a configuration with --config, or a
/// spare with --device.
#[derive(Debug, Args)]
pub struct Validate {
    /// A spare: a device or an image file. It is only read.
    #[arg(long, value_name = "DEV", conflicts_with = "config", required_unless_present = "config")]
    pub device: Option<PathBuf>,
    /// Also read every slot in use, and tell which sectors cannot be read.
    #[arg(long, requires = "device")]
    pub read_slots: bool,
}
