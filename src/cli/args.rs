//! The one definition of the command line.

pub mod alert;
mod allocation;
pub mod assembly;
pub mod config;
pub mod health;
mod metadata;
pub mod metrics;
pub mod report;
mod spare;
pub mod stats;
pub mod validate;

pub use allocation::{Allocation, Policy};
use assembly::{Discover, Reassemble};
mod compact;
mod layout;

pub use compact::Compact;
pub use layout::{LayoutChoice, LayoutOf, WithLayout};
pub use metadata::{Backup, Import, Metadata, MetadataSource, Repair, RestoreMetadata};
pub use spare::{Leaving, Spare, SpareAdd, SpareEvacuate, SpareGrow, SpareList, SpareReadd, SpareRemove, SpareReplace};

use crate::config::Rate;
use crate::format::metadata::UnreadablePolicy;
use crate::units::Range;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use validate::Validate;

/// The end of every tool's help.
const AFTER_HELP: &str = "Sectors are 512 bytes everywhere, counted from 0.\n\
    Exit codes: 0 done; 1 failed; 2 bad usage; 3 done, but needs attention; 4 refused for safety, nothing was changed.";

/// Keep a block device with bad sectors in service.
#[derive(Debug, Parser)]
#[command(name = "dm-remap", version, about, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = AFTER_HELP)]
pub struct Cli {
    // No docstring: clap would take it for the program's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

// No docstring here either, for the same reason.
#[allow(missing_docs)]
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but results and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Use this configuration instead of /etc/dm-remap/config.yaml (or .yml, or .json).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

// One command as a program of its own: its arguments, and the global ones. Its docstring is that of `A`.
#[allow(missing_docs)]
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Tool<A: Args> {
    #[command(flatten)]
    pub globals: Globals,
    #[command(flatten)]
    pub args: A,
}

impl<A: Args> Tool<A> {
    /// Reads the arguments of the program `name`, which is the command that `command` makes of them.
    pub fn parse(name: &'static str, command: fn(A) -> Command, args: Vec<OsString>) -> Result<Cli, clap::Error> {
        let mut program = Tool::<A>::command().name(name).bin_name(name);
        let mut matches = program.try_get_matches_from_mut(args)?;
        let tool = Tool::<A>::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut program))?;
        Ok(Cli { globals: tool.globals, command: command(tool.args) })
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new setup and bring up /dev/mapper/NAME.
    Create(Create),
    /// Move bad sectors to a spare, live.
    Remap(Remap),
    /// Move extents back onto main, live.
    Restore(Restore),
    /// List the extents.
    Map(Map),
    /// Show state, spares and losses.
    Status(Status),
    /// List the active setups.
    List(List),
    /// Bring a setup up again from its spares.
    Activate(Activate),
    /// Take a setup down; nothing is lost.
    Deactivate(Deactivate),
    /// Dissolve a setup for good.
    Destroy(Destroy),
    /// Settle what an interrupted command left.
    Recover(Recover),
    /// Take losses off the list, once you know of them.
    Acknowledge(Acknowledge),
    /// Show or change what a setup does by itself.
    Policy(Policy),
    /// Show or change how a setup becomes tables of device-mapper, live.
    Layout(LayoutOf),
    /// Bring scattered extents together, live: a smaller table, free space in long runs.
    Compact(Compact),
    /// Find bad and slow sectors, and move them away.
    Scan(Box<Scan>),
    /// Stay in the foreground, and move sectors away as the kernel reports errors.
    Watch(Watch),
    /// Add, empty, replace and remove spares, online.
    #[command(subcommand)]
    Spare(Spare),
    /// Look at what is on the spares, mend it, save it, take it over.
    #[command(subcommand)]
    Metadata(Metadata),
    /// Look for setups on devices and image files, and change nothing.
    Discover(Discover),
    /// Put setups together again from their spares, and bring them up.
    Reassemble(Reassemble),
    /// Prove that alerts reach somebody; list what is told.
    Alert(alert::Alert),
    /// Print what monitoring reads, in Prometheus' text format.
    Metrics(metrics::Metrics),
    /// Show how many requests there were, and how long they took.
    Stats(stats::Stats),
    /// Judge the disks: a score for each, with the reasons.
    Health(health::Health),
    /// Write a page for people: how the setups are doing, in pictures.
    Report(report::Report),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::Config),
    /// Judge a configuration or a spare, and change nothing.
    Validate(Validate),
    /// Tell udev what a device is to dm-remap.
    #[command(hide = true)]
    UdevProbe(UdevProbe),
}

impl Command {
    /// Whether the answer is for Nagios, errors too.
    pub fn is_nagios(&self) -> bool {
        match self {
            Command::Status(status) => status.nagios,
            Command::Scan(scan) => scan.nagios,
            Command::Health(health) => health.nagios,
            _ => false,
        }
    }
}

/// Arguments of `udev-probe`, which the rules in packaging/udev call.
#[derive(Debug, Args)]
pub struct UdevProbe {
    /// The device.
    pub device: PathBuf,
    /// Do not read from it: only ask whether it is the main of a setup.
    #[arg(long)]
    pub main: bool,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the setup and of its device.
    pub name: String,
    /// The device to keep in service. Its contents stay as they are.
    #[arg(long, value_name = "DEV")]
    pub main: PathBuf,
    /// A device for metadata and replacement sectors. Everything on it is overwritten. Up to 16.
    #[arg(long = "spare", value_name = "DEV", required = true, num_args = 1..)]
    pub spares: Vec<PathBuf>,
    /// What to do with blocks that cannot be read, unless a command says otherwise. [default: hold]
    #[arg(long, value_enum)]
    pub unreadable: Option<Unreadable>,
    /// Where on the spares extents go. [default: first-fit]
    #[arg(long, value_enum)]
    pub allocation: Option<Allocation>,
    /// Its layout.
    #[command(flatten)]
    pub layout: WithLayout,
    /// Overwrite a filesystem, partition table or the like on a spare.
    #[arg(long)]
    pub force_signature: bool,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `remap`.
#[derive(Debug, Args)]
pub struct Remap {
    /// The setup.
    pub name: String,
    /// Bad sectors: SECTOR, SECTOR+COUNT or FIRST-LAST.
    #[arg(value_name = "SECTOR[+COUNT]")]
    pub sectors: Vec<Range>,
    /// Take the sectors from a list that badblocks(8) wrote ('-' reads standard input).
    #[arg(long, value_name = "FILE")]
    pub from_badblocks: Option<PathBuf>,
    /// Block size in bytes of the badblocks list (its option -b).
    #[arg(long, value_name = "BYTES", default_value_t = 1024, requires = "from_badblocks")]
    pub block_size: u64,
    /// Take the sectors from a mapfile of GNU ddrescue ('-' reads standard input).
    #[arg(long, value_name = "FILE")]
    pub from_mapfile: Option<PathBuf>,
    /// Which blocks of the mapfile to take: '-' bad, '/' not scraped, '*' not trimmed, '?' not tried.
    #[arg(long, value_name = "STATUSES", default_value = "-", requires = "from_mapfile", allow_hyphen_values = true)]
    pub mapfile_status: String,
    /// What to do with blocks that cannot be read (default: as the setup says).
    #[arg(long, value_enum)]
    pub unreadable: Option<Unreadable>,
    /// How often to read a bad block again before it is given up. [default: 3]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Where to stop looking for files.
    #[command(flatten)]
    pub files: FileSearch,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// How long to look for the files that were hit.
#[derive(Debug, Args)]
pub struct FileSearch {
    /// How long to look for the files that lost sectors belong to; 0 does not look. [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub file_search: Option<u32>,
}

impl FileSearch {
    /// As given on the command line.
    pub fn given(&self) -> Option<Duration> {
        self.file_search.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// As given on the command line, else the built-in one: for commands that do not go by the configuration.
    pub fn patience(&self) -> Duration {
        self.given().unwrap_or(Duration::from_secs(30))
    }
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The setup.
    pub name: String,
    /// Sectors to move back: SECTOR, SECTOR+COUNT or FIRST-LAST.
    #[arg(value_name = "SECTOR[+COUNT]", required_unless_present = "all")]
    pub sectors: Vec<Range>,
    /// Move everything back.
    #[arg(long, conflicts_with = "sectors")]
    pub all: bool,
    /// What to do with held blocks that main cannot read either: 'leave' lets main answer for them.
    #[arg(long, value_enum)]
    pub unreadable: Option<OnlyLeave>,
    /// Where to stop looking for files.
    #[command(flatten)]
    pub files: FileSearch,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `map`.
#[derive(Debug, Args)]
pub struct Map {
    /// The setup.
    pub name: String,
    /// How to print it.
    #[arg(long, value_enum, default_value = "table")]
    pub format: MapFormat,
    /// Block size in bytes for --format badblocks.
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub block_size: u64,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "It ends cleanly on SIGTERM, SIGINT and SIGHUP. Killed or stopped for a while, it goes through the kernel log\n\
    since it last did when it is started again."
)]
pub struct Watch {
    /// The setups; all that are up, now and later, when none is named.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How long the first report waits for others that come with it. [default: 30ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub settle: Option<Duration>,
    /// What to do with blocks that cannot be read (default: as the setup says).
    #[arg(long, value_enum)]
    pub unreadable: Option<Unreadable>,
    /// How often to read a bad block again before it is given up. [default: 3]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Use the kernel log only, also where the kernel can trace failed requests.
    #[arg(long)]
    pub no_trace: bool,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --device the main of the setup is read, and the slots in use on its spares; what is bad is moved at \
    once, unless --report-only. A scan gives way to others who use the disk; --rate max does not.\n\
    A scan that was stopped goes on with --resume."
)]
pub struct Scan {
    /// The setup. With --cron any number of them, also by pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME", required_unless_present_any = ["device", "cron"])]
    pub names: Vec<String>,
    /// Read this device instead of a setup, and only report what is found.
    #[arg(long, value_name = "DEV", conflicts_with_all = ["names", "cron", "full"])]
    pub device: Option<PathBuf>,
    /// Read only these sectors of main: SECTOR+COUNT or FIRST-LAST. May be given more than once.
    #[arg(long = "range", value_name = "SECTOR+COUNT")]
    pub ranges: Vec<Range>,
    /// Also read the unused space of the spares, and what was left unreadable on main.
    #[arg(long)]
    pub full: bool,
    /// Go on with the last scan, which was stopped before its end.
    #[arg(long, conflicts_with_all = ["ranges", "full"])]
    pub resume: bool,
    /// Begin anew although a scan was stopped before its end.
    #[arg(long, conflicts_with = "resume")]
    pub restart: bool,
    /// Stop after this time (for example 90s, 30m, 2h); --resume goes on.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, overrides_with = "time_budget")]
    pub time_budget: Option<Duration>,
    /// Read at most so many bytes a second (for example 500K, 20M, 1G), or 'max': without giving way to anybody.
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// Read only while nobody else uses the disk.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub idle: Option<bool>,
    /// How often to read a bad block again before it is given up. [default: 3]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// A place is weak when it takes longer than this to read, twice, while others do not; 0 for never. [default: 500]
    #[arg(long, value_name = "MS")]
    pub slow_ms: Option<u64>,
    /// Change nothing.
    #[arg(long)]
    pub report_only: bool,
    /// Move weak places, too, while they can still be read.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        conflicts_with_all = ["report_only", "device"])]
    pub move_weak: Option<bool>,
    /// Move so many sectors on both sides of a bad one with it. [default: 0]
    #[arg(long, value_name = "SECTORS", conflicts_with_all = ["report_only", "device"])]
    pub margin: Option<u64>,
    /// What to do with blocks that cannot be read (default: as the setup says).
    #[arg(long, value_enum, conflicts_with_all = ["report_only", "device"])]
    pub unreadable: Option<Unreadable>,
    /// How to ask the disk: 'verify' lets the drive read without sending the data, where it can be trusted to do so. [default: read]
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Where to stop looking for files.
    #[command(flatten)]
    pub files: FileSearch,
    /// Answer as a Nagios plugin: one line with performance data; exit code 0 OK, 1 warning, 2 critical, 3 unknown.
    #[arg(long, conflicts_with_all = ["cron", "json"])]
    pub nagios: bool,
    /// Show no progress bar.
    #[arg(long)]
    pub no_progress: bool,
    /// For cron and systemd timers: say nothing unless something changed, go on where the last run stopped, look at what
    /// the kernel has reported since, and leave setups alone that another run is at work on.
    #[arg(long, conflicts_with_all = ["ranges", "full", "resume", "restart", "report_only"])]
    pub cron: bool,
    /// With --cron: the time that a whole pass is spread over; what is left of it is for later runs. [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "cron")]
    pub interval: Option<Duration>,
    /// With --cron of several setups: leave one alone whose disk has not answered for so long.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "cron", default_value = "2min")]
    pub give_up: Duration,
    // What the process of several setups starts for each of them.
    #[allow(missing_docs)]
    #[arg(long, hide = true, value_name = "NAME", requires = "cron")]
    pub only: Option<String>,
    /// With --cron: wait a random time up to this before beginning, so that not all machines begin at once. [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "cron")]
    pub jitter: Option<Duration>,
}

/// How to ask the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Read the data.
    Read,
    /// Let the drive read it (SCSI VERIFY, NVMe Verify).
    Verify,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// The setups, by name or pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Of several setups each has a line, and those that are not well are shown in full below. What DMR codes mean is in dm-remap(7)."
)]
pub struct Status {
    /// The setups, by name or pattern ('data*'); all active ones when none is named.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Show all of them in full.
    #[arg(long, short)]
    pub verbose: bool,
    /// Answer as a Nagios plugin: one line with performance data; exit code 0 OK, 1 warning, 2 critical, 3 unknown.
    #[arg(long, conflicts_with_all = ["verbose", "json"])]
    pub nagios: bool,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: assembly::Patience,
    /// Where to stop looking for files.
    #[command(flatten)]
    pub files: FileSearch,
}

/// Arguments of `activate`.
#[derive(Debug, Args)]
pub struct Activate {
    /// Name or UUID of the setup.
    #[arg(required_unless_present = "spares")]
    pub name: Option<String>,
    /// A spare of the setup; the others are looked for. Needed only when they cannot be found.
    #[arg(long = "spare", alias = "device", value_name = "DEV", num_args = 1..)]
    pub spares: Vec<PathBuf>,
    /// The main, when it cannot be told by itself. It must still fit.
    #[arg(long, value_name = "DEV")]
    pub main: Option<PathBuf>,
    /// Bring it up although another machine is marked as having it active.
    #[arg(long)]
    pub takeover: bool,
    /// Bring spares up to date that failed or were absent for several commits.
    #[arg(long)]
    pub update_stale: bool,
    /// Bring it up although main was written to while it was down.
    #[arg(long)]
    pub accept_changed_main: bool,
    /// Its layout.
    #[command(flatten)]
    pub layout: WithLayout,
    /// How long a device may take to answer.
    #[command(flatten)]
    pub patience: assembly::Patience,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `deactivate`.
#[derive(Debug, Args)]
pub struct Deactivate {
    /// The setup.
    #[arg(required_unless_present = "all")]
    pub name: Option<String>,
    /// All that are up; those in use are left, with a word.
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// The setup.
    pub name: String,
    /// Move all extents back onto main first.
    #[arg(long, conflicts_with = "discard_extents")]
    pub merge_back: bool,
    /// Give up the data of all extents: main answers for these sectors with what it has.
    #[arg(long)]
    pub discard_extents: bool,
    /// A spare of the setup, when it is not up and its spares cannot be found.
    #[arg(long = "spare", alias = "device", value_name = "DEV", num_args = 1..)]
    pub spares: Vec<PathBuf>,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// The setup.
    pub name: String,
    /// Print what is found, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Arguments of `acknowledge`.
#[derive(Debug, Args)]
pub struct Acknowledge {
    /// The setup.
    pub name: String,
    /// Losses to take off the list (default: all that are not held).
    #[arg(value_name = "SECTOR[+COUNT]")]
    pub sectors: Vec<Range>,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// What to do with blocks that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unreadable {
    /// Move them; reads answer EIO until they are written.
    Hold,
    /// Move them and fill them with zeros.
    Zero,
    /// Leave them on main.
    Leave,
}

impl From<Unreadable> for UnreadablePolicy {
    fn from(choice: Unreadable) -> Self {
        match choice {
            Unreadable::Hold => UnreadablePolicy::Hold,
            Unreadable::Zero => UnreadablePolicy::Zero,
            Unreadable::Leave => UnreadablePolicy::Leave,
        }
    }
}

/// The only choice that a restore has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnlyLeave {
    /// Let main answer for them.
    Leave,
}

/// How to print a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MapFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
    /// The device-mapper table, as 'dmsetup table' prints it.
    Dmsetup,
    /// A list for mke2fs and e2fsck.
    Badblocks,
    /// A mapfile for GNU ddrescue.
    Mapfile,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        Tool::<Validate>::command().debug_assert();
        Tool::<Discover>::command().debug_assert();
        Tool::<Reassemble>::command().debug_assert();
    }
}
