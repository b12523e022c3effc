//! Arguments of `validate`, which is the program `dm-remap-validate`, too.

use clap::Args;
use std::path::PathBuf;

/// Judge a spare, and change nothing.
#[derive(Debug, Args)]
pub struct Validate {
    /// A spare: a device or an image file. It is only read.
    #[arg(long, value_name = "DEV", required = true)]
    pub device: Option<PathBuf>,
}
