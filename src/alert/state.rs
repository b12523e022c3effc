//! What was told of each setup, in files.
//!
//! Invariants: a file is complete or absent (written aside, synced, renamed); what cannot be read counts as nothing known,
//! so that something is told twice rather than never; one command at a time looks, tells and writes.

use super::change::Look;
use crate::flock::FileLock;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The version of the files.
const VERSION: u32 = 1;

/// More than any state needs.
const LONGEST: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    setup: Uuid,
    look: Look,
}

/// The state of a setup, held against other commands until it is dropped.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    setup: Uuid,
    _lock: FileLock,
}

impl State {
    /// Takes the state of a setup in `directory`; waits for a command that has it.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn take(directory: &Path, setup: Uuid) -> io::Result<State> {
        fs::create_dir_all(directory)?;
        let file =
            File::options().create(true).truncate(false).write(true).open(directory.join(format!("{setup}.lock")))?;
        let lock = FileLock::take(file)?;
        Ok(State { path: directory.join(format!("{setup}.json")), setup, _lock: lock })
    }

    /// What was told last; nothing when there is no such file, or none that can be used.
    pub fn load(&self) -> Look {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        let stored = read.ok().and_then(|_| serde_json::from_slice::<Stored>(&bytes).ok());
        let ours = stored.filter(|stored| stored.version == VERSION && stored.setup == self.setup);
        ours.map(|stored| stored.look).unwrap_or_default()
    }

    /// Remembers what was told.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn save(&self, look: Look) -> io::Result<()> {
        let aside = self.path.with_extension("writing");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(&Stored { version: VERSION, setup: self.setup, look })?)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_again_and_damage_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let setup = Uuid::from_u128(7);
        let state = State::take(dir.path(), setup).unwrap();
        assert_eq!(state.load(), Look::default());
        let look = Look { short: true, scanned: Some(5), ..Look::default() };
        state.save(look.clone()).unwrap();
        drop(state);
        let state = State::take(dir.path(), setup).unwrap();
        assert_eq!(state.load(), look);
        fs::write(dir.path().join(format!("{setup}.json")), "{\"version\":1").unwrap();
        assert_eq!(state.load(), Look::default());
        let other = State::take(dir.path(), Uuid::from_u128(8)).unwrap();
        state.save(look).unwrap();
        fs::rename(&state.path, &other.path).unwrap();
        assert_eq!(other.load(), Look::default(), "it is of another setup");
    }
}
