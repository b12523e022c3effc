//! How far the kernel log was dealt with, kept in a file for each setup.
//!
//! Invariants:
//! - a position is written after the work that its records asked for is done, never before;
//! - the file is replaced whole, so a killed watcher leaves the old or the new position;
//! - it is not synced to disk: it means something within one boot only, and the disk may be dying.

use crate::block::host::{self, Host};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Up to where the kernel log was dealt with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which boot: the kernel's random number for it.
    pub boot: String,
    /// The last record that needs no more work.
    pub sequence: u64,
}

/// The kernel's random number for this boot.
pub fn boot_id(host: &Host) -> String {
    host::text(&host.proc().join("sys/kernel/random/boot_id")).unwrap_or_default()
}

/// Removes positions of other boots, which mean nothing any more.
pub fn clean(folder: &Path, boot: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let known = fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Position>(&text).ok());
        if known.is_some_and(|position| position.boot != boot) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The file for a setup in `folder`.
fn file(folder: &Path, setup: Uuid) -> PathBuf {
    folder.join(format!("{setup}.json"))
}

/// The position of a setup; `None` when there is none that can be read: then everything is gone through again.
pub fn load(folder: &Path, setup: Uuid) -> Option<Position> {
    serde_json::from_slice(&fs::read(file(folder, setup)).ok()?).ok()
}

/// Keeps the position of a setup, and makes `folder` if it is not there.
///
/// # Errors
/// What the filesystem says.
pub fn save(folder: &Path, setup: Uuid, position: &Position) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = file(folder, setup);
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(position)?)?;
    fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("watch");
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(load(&folder, one), None);
        for sequence in [5, 6] {
            let position = Position { boot: "b".into(), sequence };
            save(&folder, one, &position).unwrap();
            assert_eq!(load(&folder, one), Some(position));
        }
        assert_eq!(load(&folder, two), None);
        fs::write(file(&folder, two), "{\"boot\": 7").unwrap();
        assert_eq!(load(&folder, two), None);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left there");
        // What is no position is somebody's, and stays.
        clean(&folder, "b");
        assert!(load(&folder, one).is_some());
        clean(&folder, "c");
        assert_eq!((load(&folder, one), fs::read_dir(&folder).unwrap().count()), (None, 1));
    }
}
