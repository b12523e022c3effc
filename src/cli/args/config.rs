//! Arguments of `config`.

use clap::{Args, Subcommand};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print what is in force, and where each value comes from.
    Show(Show),
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub struct Show {
    /// What is in force for this setup; without it, what is in force where no setup is meant.
    pub name: Option<String>,
}
