//! Arguments of `spare`.

use super::{FileSearch, Rate};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What to do with the spares of a setup. Everywhere SPARE is the path of a device, an index, or a UUID.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "SPARE is the path of its device, its index, or its UUID: 'dm-remap spare list' shows all three."
)]
pub enum Spare {
    /// Add devices as spares.
    Add(SpareAdd),
    /// Take a spare out of a setup; its extents move to the others first.
    Remove(SpareRemove),
    /// Put a new device in the place of a spare: add, evacuate, remove.
    Replace(SpareReplace),
    /// Move all extents of a spare to the others. It gets no new ones from then on.
    Evacuate(SpareEvacuate),
    /// List the spares.
    List(SpareList),
    /// Take a spare back into service that failed, was away, or was being emptied.
    Readd(SpareReadd),
    /// Make use of a spare whose device has become larger.
    Grow(SpareGrow),
}

/// Arguments of `spare add`.
#[derive(Debug, Args)]
pub struct SpareAdd {
    /// The setup.
    pub name: String,
    /// Devices to add. Everything on them is overwritten.
    #[arg(value_name = "DEV", required = true, num_args = 1..)]
    pub devices: Vec<PathBuf>,
    /// Overwrite a filesystem, partition table or the like on them.
    #[arg(long)]
    pub force_signature: bool,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// How extents leave a spare.
#[derive(Debug, Args)]
pub struct Leaving {
    /// Give up what cannot be read from the spare, for whatever reason: it answers EIO until it is written. For a spare
    /// that is gone for good.
    #[arg(long)]
    pub give_up_unreadable: bool,
    /// How often to read a bad block again before it is given up.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub retries: u32,
    /// Where to stop looking for files.
    #[command(flatten)]
    pub files: FileSearch,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `spare remove`.
#[derive(Debug, Args)]
pub struct SpareRemove {
    /// The setup.
    pub name: String,
    /// The spare.
    #[arg(value_name = "SPARE")]
    pub spare: String,
    /// How its extents leave it.
    #[command(flatten)]
    pub leaving: Leaving,
}

/// Arguments of `spare replace`.
#[derive(Debug, Args)]
pub struct SpareReplace {
    /// The setup.
    pub name: String,
    /// The spare that goes.
    #[arg(value_name = "OLD")]
    pub old: String,
    /// The device that takes its place. Everything on it is overwritten, unless it is a spare of the setup already.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Overwrite a filesystem, partition table or the like on the new device.
    #[arg(long)]
    pub force_signature: bool,
    /// How its extents leave it.
    #[command(flatten)]
    pub leaving: Leaving,
}

/// Arguments of `spare evacuate`.
#[derive(Debug, Args)]
pub struct SpareEvacuate {
    /// The setup.
    pub name: String,
    /// The spare.
    #[arg(value_name = "SPARE")]
    pub spare: String,
    /// Move its extents to these spares only.
    #[arg(long, value_name = "SPARE", num_args = 1..)]
    pub to: Vec<String>,
    /// How its extents leave it.
    #[command(flatten)]
    pub leaving: Leaving,
}

/// Arguments of `spare list`.
#[derive(Debug, Args)]
pub struct SpareList {
    /// The setup; all active ones when none is named.
    pub name: Option<String>,
}

/// Arguments of `spare readd`.
#[derive(Debug, Args)]
pub struct SpareReadd {
    /// The setup.
    pub name: String,
    /// The spare, or the device that it is now.
    #[arg(value_name = "SPARE|DEV")]
    pub spare: String,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `spare grow`.
#[derive(Debug, Args)]
pub struct SpareGrow {
    /// The setup.
    pub name: String,
    /// The spare.
    #[arg(value_name = "SPARE")]
    pub spare: String,
    /// Make the file under a loop device so large first: bytes, with K, M, G or T for powers of 1024.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub size: Option<u64>,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    match text.parse::<Rate>() {
        Ok(Rate::Bytes(bytes)) => Ok(bytes),
        _ => Err(format!("'{text}' is no size: write a number of bytes, such as 500M or 2G")),
    }
}
