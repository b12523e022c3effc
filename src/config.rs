//! The configuration file: from its text to settings, and to a list of all mistakes in it.
//!
//! Invariants:
//! - one table ([`KEYS`]) says which keys there are: reading, showing, the sample and the hints go by it;
//! - pure, and total: any text gives settings or mistakes, each with its line and column, in bounded depth and memory;
//! - a configuration with a mistake in it is not used at all;
//! - YAML and JSON say the same: both become the same tree before anybody looks at what is in it.

mod json;
mod keys;
mod rate;
mod read;
mod sample;
mod settings;
mod tree;
mod value;
mod yaml;

pub use keys::*;
pub use rate::Rate;
pub use read::{Reading, read};
pub use sample::sample;
pub use settings::{Config, Section, Set, Settings, Source, Stored};
pub use tree::{Mistake, Position, Syntax};
pub use value::{Key, Kind, Scope, Spec, Value};

/// The longest text that is looked at, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
