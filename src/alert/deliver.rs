//! The ways in which a message is told, and how each of them went.

use super::event::Alert;
use super::{journal, mail, program};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Where to. What is `None` is not used.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// A program that is handed the message.
    pub program: Option<PathBuf>,
    /// The address that is written to.
    pub mail: Option<String>,
    /// The sendmail program.
    pub sendmail: PathBuf,
    /// The journal's socket.
    pub journal: Option<PathBuf>,
    /// How long the program, and the mail program, may take.
    pub limit: Duration,
}

/// How one way went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// `program`, `mail` or `journal`.
    pub way: &'static str,
    /// What exactly: the program's path, the address, the socket.
    pub to: String,
    /// What went wrong; nothing when it was taken.
    pub error: Option<String>,
}

/// Tells it in every way, one after the other.
pub fn deliver(ways: &Ways, alert: &Alert) -> Vec<Told> {
    let mut told = Vec::new();
    if let Some(socket) = &ways.journal {
        let error = journal::send(socket, alert).err().map(|error| format!("cannot write to it: {error}"));
        told.push(Told { way: "journal", to: socket.display().to_string(), error });
    }
    if let Some(path) = &ways.program {
        let error = program::hand_over(path, alert, ways.limit).err().map(|error| error.to_string());
        told.push(Told { way: "program", to: path.display().to_string(), error });
    }
    if let Some(address) = &ways.mail {
        let error = mail::send(&ways.sendmail, address, alert, ways.limit).err().map(|error| error.to_string());
        told.push(Told { way: "mail", to: address.clone(), error });
    }
    told
}
