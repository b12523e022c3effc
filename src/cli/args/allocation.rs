//! Arguments that choose where extents go, and how what cannot be read is dealt with: `policy`, `create --allocation`.

use super::Unreadable;
use crate::format::metadata::AllocationPolicy;
use clap::{Args, ValueEnum};

/// Where on the spares the next extent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Allocation {
    /// The first spare with room, the lowest place on it.
    FirstFit,
    /// The smallest free run on any spare that has room.
    BestFit,
    /// One spare after the other.
    RoundRobin,
    /// The spare with the largest free share.
    LeastUsed,
    /// The spare that is best in health.
    Health,
}

impl From<Allocation> for AllocationPolicy {
    fn from(choice: Allocation) -> Self {
        match choice {
            Allocation::FirstFit => AllocationPolicy::FirstFit,
            Allocation::BestFit => AllocationPolicy::BestFit,
            Allocation::RoundRobin => AllocationPolicy::RoundRobin,
            Allocation::LeastUsed => AllocationPolicy::LeastUsed,
            Allocation::Health => AllocationPolicy::Health,
        }
    }
}

/// Arguments of `policy`.
#[derive(Debug, Args)]
#[command(after_help = "Without a choice it shows what the setup has. A change is for what is remapped from now on; \
    what is remapped already stays where it is.")]
pub struct Policy {
    /// The setup, or a pattern for several ('data*').
    pub name: String,
    /// Where on the spares the next extent goes. Sectors beside an extent are kept with it, whatever the choice.
    #[arg(long, value_enum)]
    pub allocation: Option<Allocation>,
    /// What to do with blocks that cannot be read, unless a command says otherwise.
    #[arg(long, value_enum)]
    pub unreadable: Option<Unreadable>,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}
