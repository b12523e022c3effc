//! The page that `report` writes: the facts of all setups, and how they become one HTML file.
//!
//! Invariants:
//! - the page loads nothing and runs nothing: no script, no font, no picture, no link to elsewhere, and a policy in its head that
//!   would forbid them;
//! - all text goes in by way of `maud`, which escapes it: a setup, a device or a file may be called what it likes;
//! - its length is bounded whatever the facts: pictures are binned, lists are cut and say so;
//! - a page is the same for the same facts.

mod charts;
mod page;
mod surface;

pub use page::render;
pub use surface::{Cell, KINDS, Mark, Surface, surface};

use crate::stats::SetupStats;
use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};

/// Everything that a page tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The machine.
    pub host: String,
    /// When it was looked at, seconds since 1970.
    pub time: u64,
    /// The program's version.
    pub version: String,
    /// The setups, in order.
    pub setups: Vec<Entry>,
}

/// A setup, or why there is nothing to tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// How it is doing.
    Seen(Box<Setup>),
    /// It did not answer in time: its name.
    Silent(String),
    /// It could not be looked at: its name, and why.
    Failed(String, String),
}

/// How a setup is doing. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its device.
    pub device: String,
    /// Its main, and what is known of that disk (model, serial number).
    pub main: String,
    /// Model and serial number of the main, where they are known.
    pub main_identity: String,
    /// Its state in words.
    pub state: String,
    /// How grave that is.
    pub tone: Tone,
    /// What is the matter, the gravest first.
    pub troubles: Vec<TroubleFacts>,
    /// Its size.
    pub size: Sectors,
    /// Generation of the metadata.
    pub generation: u64,
    /// What lives on spares.
    pub remapped: Sectors,
    /// In how many runs.
    pub extents: u64,
    /// What answers EIO until it is written.
    pub held: Sectors,
    /// What is on the list of losses, `held` included.
    pub lost: Sectors,
    /// The surface of main.
    pub surface: Surface,
    /// The last scan in words; nothing when there was none.
    pub scan: Option<String>,
    /// The room on the spares, in words; empty when it is not known.
    pub room: String,
    /// Its spares.
    pub spares: Vec<SpareFacts>,
    /// Its disks, by what they last said of themselves.
    pub disks: Vec<DiskFacts>,
    /// How long the room lasts, in words.
    pub foresight: Option<String>,
    /// The history, in order of time.
    pub history: Vec<Point>,
    /// What was counted of its requests.
    pub stats: SetupStats,
    /// What was lost; cut to what a page can show.
    pub losses: Vec<LossFacts>,
    /// Runs on the list of losses, also those that are not in `losses`.
    pub loss_count: u64,
    /// The largest runs that live on spares: where, and on which.
    pub largest: Vec<(Range, u8)>,
}

/// How grave something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tone {
    /// All in order.
    #[default]
    Good,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Bad,
}

/// A thing that is the matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubleFacts {
    /// Its code.
    pub code: String,
    /// What it is called.
    pub title: String,
    /// What is the matter here.
    pub status: String,
    /// What to do here.
    pub action: String,
    /// What it means in general.
    pub meaning: String,
    /// What to do about it in general.
    pub remedy: String,
}

/// A spare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareFacts {
    /// Its number.
    pub index: u8,
    /// Its device, where it is there.
    pub device: Option<String>,
    /// Its state, as `status` has it.
    pub state: String,
    /// Its size.
    pub size: Sectors,
    /// What lives on it.
    pub used: Sectors,
    /// Room for more.
    pub free: Sectors,
    /// Bad places.
    pub bad: Sectors,
    /// Copies of the metadata that are current.
    pub copies_current: u64,
}

/// How a disk is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// What it is to the setup.
    pub role: String,
    /// Its device.
    pub path: String,
    /// From 0 to 100.
    pub score: u8,
    /// What that is called.
    pub band: String,
    /// How grave that is.
    pub tone: Tone,
    /// The gravest reason.
    pub reason: Option<String>,
    /// How likely it is to fail within 30 days, and of how many that is true, in words.
    pub risk: Option<String>,
    /// When it said so.
    pub recorded: u64,
}

/// A point of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// When.
    pub time: u64,
    /// What lived on spares.
    pub remapped: Sectors,
    /// What was on the list of losses.
    pub lost: Sectors,
}

/// Sectors that were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossFacts {
    /// Which.
    pub range: Range,
    /// What became of them.
    pub fate: String,
    /// What they belong to, a line each.
    pub owners: Vec<String>,
}

/// The most cells in the picture of a surface.
pub const MOST_CELLS: u64 = charts::MOST_CELLS;

/// The most losses that a page lists of a setup.
pub const MOST_LOSSES: usize = 100;

/// The most runs on spares that a page lists of a setup.
pub const MOST_RUNS: usize = 10;

#[cfg(test)]
mod tests;
