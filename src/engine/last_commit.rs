//! The last commit of a setup that is up, as this machine remembers it until it goes down: a file under /run/dm-remap.
//!
//! Spares that are away for a while, now one and now another, must not each go on by itself: a command that can read only
//! what is older than this knows that a spare with something newer is away.
//!
//! Invariants: written after a commit stands, never before; what cannot be written or read is no reason to fail, for it only says
//! less; a setup that is brought up begins anew.

use crate::format::metadata::Ancestor;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What this machine remembers of one setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCommit {
    path: PathBuf,
    /// What was remembered when this was made.
    known: Option<Ancestor>,
}

impl LastCommit {
    /// In `directory`, of a setup. To be made before its spares are read, where no lock keeps others from committing: they
    /// hold what is known here then, or something newer.
    pub fn of(directory: &Path, setup: Uuid) -> LastCommit {
        let path = directory.join(format!("{setup}.commit"));
        LastCommit { known: read(&path), path }
    }

    /// The commit that was remembered when this was made, if one was.
    pub fn known(&self) -> Option<Ancestor> {
        self.known
    }

    /// Remembers that this commit stands.
    pub fn remember(&self, commit: Ancestor) {
        if read(&self.path) != Some(commit) {
            let _ = self.write(commit);
        }
    }

    /// Complete or not at all.
    fn write(&self, commit: Ancestor) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        fs::write(&aside, serde_json::to_string(&(commit.generation, commit.digest))?)?;
        fs::rename(&aside, &self.path)
    }

    /// Forgets it: the setup goes down, or comes up.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn read(path: &Path) -> Option<Ancestor> {
    let (generation, digest) = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    Some(Ancestor { generation, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_there_until_it_is_forgotten() {
        let directory = std::env::temp_dir().join(format!("dm-remap-last-commit-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let of = |setup| LastCommit::of(&directory, Uuid::from_u128(setup));
        let last = of(7);
        let commit = |generation| Ancestor { generation, digest: [generation as u8; 32] };
        assert_eq!(of(7).known(), None);
        last.remember(commit(41));
        last.remember(commit(42));
        assert_eq!(of(7).known(), Some(commit(42)));
        assert_eq!(last.known(), None, "what came later is not known to it");
        assert_eq!(of(8).known(), None);
        fs::write(&last.path, "[42, [1, 2").unwrap();
        assert_eq!(of(7).known(), None);
        last.forget();
        last.forget();
        assert_eq!(of(7).known(), None);
        fs::remove_dir_all(&directory).unwrap();
        // Nowhere to write to is no reason to fail.
        last.remember(commit(43));
        assert_eq!(of(7).known(), None);
    }
}
