//! Arguments about the layout of a setup's tables.

use crate::segments::{Layout, LayoutRule};
use clap::{Args, ValueEnum};

/// A layout, as people choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutChoice {
    /// Switched once there are many extents, by what the kernel does with flushes.
    Auto,
    /// One table of linear pieces.
    Flat,
    /// A short table over private devices: fsync and splices stay fast.
    Switched,
}

impl LayoutChoice {
    /// The rule for a kernel of this release.
    pub fn rule(self, release: &str) -> LayoutRule {
        match self {
            LayoutChoice::Auto => LayoutRule::auto(release),
            LayoutChoice::Flat => LayoutRule::Fixed(Layout::Flat),
            LayoutChoice::Switched => LayoutRule::Fixed(Layout::Switched),
        }
    }
}

/// Which layout a setup comes up with.
#[derive(Clone, Copy, Debug, Args)]
pub struct WithLayout {
    /// How its map becomes tables of device-mapper: see dm-remap-layout(8). [default: auto]
    #[arg(long, value_enum)]
    pub layout: Option<LayoutChoice>,
}

/// Arguments of `layout`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a layout it says which one is in force. What is remapped stays the same, and so does what is \
    stored on the spares. It holds until the next command that makes tables: the configuration's remap.layout says what \
    those do."
)]
pub struct LayoutOf {
    /// The setup.
    pub name: String,
    /// The layout that it is to have.
    #[arg(value_enum, id = "WANTED", value_name = "LAYOUT")]
    pub layout: Option<LayoutChoice>,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}
