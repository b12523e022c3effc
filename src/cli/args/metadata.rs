//! Arguments of `metadata`.

use crate::format::foreign_module::Doubt;
use crate::map::SpareIndex;
use crate::plan::restore::AsSpare;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use uuid::Uuid;

/// What to do with metadata.
#[derive(Debug, Subcommand)]
pub enum Metadata {
    /// Print what a spare or an active setup holds.
    Dump(MetadataSource),
    /// Judge each of the five copies.
    Check(MetadataSource),
    /// Rewrite copies that are damaged, blank or old from a good one.
    Repair(Repair),
    /// Write the newest metadata to a file, or list the files that are kept by themselves.
    Backup(Backup),
    /// Write the metadata of a backup file back onto spares. What is in their slots is not in a backup.
    Restore(RestoreMetadata),
    /// Take over the remaps of the out-of-tree dm-remap kernel module, onto a new spare.
    Import(Import),
}

/// Where metadata is to be read.
#[derive(Debug, Args)]
pub struct MetadataSource {
    /// A spare (a device or an image file), or the name of an active setup: then all its spares.
    #[arg(value_name = "DEV|NAME")]
    pub source: String,
}

/// Arguments of `metadata repair`.
#[derive(Debug, Args)]
pub struct Repair {
    /// A spare of a setup that is not up, or the name of a setup: then all its spares that are here.
    #[arg(value_name = "DEV|NAME")]
    pub source: String,
    /// The copy (0 to 4) that is right, where copies contradict each other. What contradicts it is given up.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..5))]
    pub from_copy: Option<u8>,
    /// The spare that is right, by its index or UUID, where spares contradict each other.
    #[arg(long, value_name = "INDEX|UUID", value_parser = as_spare)]
    pub from_spare: Option<AsSpare>,
    /// Overwrite a filesystem or other data that is not dm-remap's where a copy belongs.
    #[arg(long)]
    pub force_signature: bool,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `metadata backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// A spare (a device or an image file), or the name of a setup. With --list: the name or UUID of a setup.
    #[arg(value_name = "DEV|NAME", required_unless_present = "list")]
    pub source: Option<String>,
    /// Where to write it; '-' is standard output.
    #[arg(value_name = "FILE", required_unless_present = "list", conflicts_with = "list")]
    pub file: Option<PathBuf>,
    /// List the backups that every command keeps under /var/lib/dm-remap/backup.
    #[arg(long)]
    pub list: bool,
    /// Replace the file if it is there.
    #[arg(long)]
    pub force_overwrite: bool,
}

/// Arguments of `metadata restore`.
#[derive(Debug, Args)]
pub struct RestoreMetadata {
    /// A file that 'metadata backup' wrote, one of those that 'metadata backup --list' shows, or an image of a spare.
    pub file: PathBuf,
    /// The spares to write to.
    #[arg(long = "to", value_name = "DEV", required = true, num_args = 1..)]
    pub targets: Vec<PathBuf>,
    /// Which spare the device is, by its index or UUID, when it has no name that proves it.
    #[arg(long, value_name = "INDEX|UUID", value_parser = as_spare)]
    pub as_spare: Option<AsSpare>,
    /// Overwrite metadata that is newer than the backup: what was moved since is forgotten.
    #[arg(long)]
    pub over_newer: bool,
    /// Overwrite metadata of the same setup that went another way than the backup.
    #[arg(long)]
    pub over_divergent: bool,
    /// Overwrite a filesystem or other data that is not dm-remap's where the copies go.
    #[arg(long)]
    pub force_signature: bool,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `metadata import`.
#[derive(Debug, Args)]
#[command(
    after_help = "The old spare is only read. A new setup is made on another device (--spare): each remapped sector is copied\n\
    from the old spare, its neighbours from main. Entries in doubt are listed and left out, unless accepted by\n\
    their kind of doubt: main answers for what is left out. Without --yes nothing is changed (exit code 4)."
)]
pub struct Import {
    /// The spare of the kernel module: a device or an image file. It is never written.
    #[arg(value_name = "OLD")]
    pub source: PathBuf,
    /// The main that it belongs to.
    #[arg(long, value_name = "DEV")]
    pub main: PathBuf,
    /// The device for the new spare. Everything on it is overwritten.
    #[arg(long, value_name = "DEV")]
    pub spare: Option<PathBuf>,
    /// Name of the new setup.
    #[arg(long, default_value = "imported")]
    pub name: String,
    /// Take in entries in spite of these doubts (as the report calls them, separated by commas).
    #[arg(long, value_name = "DOUBT,…", value_delimiter = ',', value_parser = doubt)]
    pub accept: Vec<Doubt>,
    /// Take this copy (0 to 4) of the old metadata instead of the newest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..5))]
    pub from_copy: Option<u8>,
    /// Make the setup although main has another size than the old metadata says.
    #[arg(long)]
    pub other_size: bool,
    /// Overwrite a filesystem, partition table or the like on the new spare.
    #[arg(long)]
    pub force_signature: bool,
    /// How often to read a bad block again before it is given up.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub retries: u32,
    /// Do it.
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

fn as_spare(text: &str) -> Result<AsSpare, String> {
    if let Ok(index) = text.parse() {
        return Ok(AsSpare::Index(SpareIndex(index)));
    }
    Uuid::try_parse(text).map(AsSpare::Uuid).map_err(|_| format!("'{text}' is neither an index nor a UUID"))
}

fn doubt(text: &str) -> Result<Doubt, String> {
    let acceptable = || Doubt::ALL.into_iter().filter(|doubt| doubt.can_be_accepted());
    acceptable().find(|doubt| doubt.word() == text).ok_or_else(|| {
        let all: Vec<&str> = acceptable().map(Doubt::word).collect();
        format!("'{text}' is no doubt that can be accepted; those are: {}", all.join(", "))
    })
}
