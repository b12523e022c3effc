//! Arguments of `alert`.

use clap::Args;

/// Arguments of `alert`.
#[derive(Debug, Args)]
#[command(
    after_help = "Alerts go to the journal (or the system's log), to the program and to the address that the configuration \
    names under 'alerts'. Only changes are told: one message for each command and setup. --test sends a message that \
    says so, and tells how each way went; exit code 1 when one of them failed."
)]
pub struct Alert {
    /// Send a test message, as the setup NAME would, or by what is configured for all.
    #[arg(long, required_unless_present = "list", conflicts_with = "list")]
    pub test: bool,
    /// List the kinds of events, and their message identifiers in the journal.
    #[arg(long, conflicts_with = "name")]
    pub list: bool,
    /// The setup.
    pub name: Option<String>,
}
