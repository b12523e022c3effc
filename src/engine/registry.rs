//! The mains of this machine's setups, by what their devices say of themselves: so that a main is known as such before
//! any spare has appeared, and nobody mounts it by itself.
//!
//! Invariants: a file is complete or absent (written aside, synced, renamed), and is written only when it changes; a file
//! that cannot be read hides nothing; a failure is told and never fails a command: the spares are the truth.

use crate::format::metadata::Metadata;
use crate::identity::{Identity, Match};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What the names of the files end in.
const EXTENSION: &str = "main";

/// A setup that this machine has had up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// UUID of the setup.
    pub setup: Uuid,
    /// Its name.
    pub name: String,
    /// What its main says of itself.
    pub main: Identity,
}

fn path_of(directory: &Path, setup: Uuid) -> PathBuf {
    directory.join(format!("{setup}.{EXTENSION}"))
}

/// Keeps what the metadata says of main. Whether that was news.
///
/// # Errors
/// What the filesystem says.
pub fn remember(directory: &Path, metadata: &Metadata) -> io::Result<bool> {
    // Where the device was last seen is a hint that changes from boot to boot.
    let main = Identity { path: None, ..metadata.config.main.clone() };
    let known = Known { setup: metadata.setup, name: metadata.config.name.clone(), main };
    let path = path_of(directory, known.setup);
    if read(&path).as_ref() == Some(&known) {
        return Ok(false);
    }
    fs::create_dir_all(directory)?;
    let mut text = serde_json::to_string_pretty(&known)?;
    text.push('\n');
    let aside = directory.join(format!(".{}", known.setup));
    let mut file = File::create(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

/// Forgets a setup that was dissolved. Whether it was known.
///
/// # Errors
/// What the filesystem says.
pub fn forget(directory: &Path, setup: Uuid) -> io::Result<bool> {
    match fs::remove_file(path_of(directory, setup)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Option<Known> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// All setups that are known, by UUID.
pub fn all(directory: &Path) -> Vec<Known> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
    let mut all: Vec<Known> = files.filter_map(|path| read(&path)).collect();
    all.sort_by_key(|known| known.setup);
    all
}

/// The setup whose main a device is, beyond doubt.
pub fn main_of<'a>(known: &'a [Known], device: &Identity) -> Option<&'a Known> {
    known.iter().find(|known| known.main.matches(device) == Match::Proven)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Sectors;

    fn known(number: u128, serial: Option<&str>) -> Known {
        let main = Identity { serial: serial.map(Into::into), size: Sectors(100), ..Identity::default() };
        Known { setup: Uuid::from_u128(number), name: format!("setup{number}"), main: main.with_fingerprint() }
    }

    #[test]
    fn only_what_is_proven_is_a_main() {
        let all = [known(1, Some("S1")), known(2, None)];
        let device = |serial: Option<&str>, size| {
            Identity { serial: serial.map(Into::into), size: Sectors(size), ..Identity::default() }.with_fingerprint()
        };
        assert_eq!(main_of(&all, &device(Some("S1"), 100)), Some(&all[0]));
        assert_eq!(main_of(&all, &device(Some("S2"), 100)), None);
        assert_eq!(main_of(&all, &device(Some("S1"), 101)), None, "it has grown: a person has to say");
        assert_eq!(main_of(&all, &device(None, 100)), None, "it may be any disk of that size");
    }

    #[test]
    fn what_cannot_be_read_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let one = known(1, Some("S1"));
        fs::write(path_of(folder.path(), one.setup), serde_json::to_vec(&one).unwrap()).unwrap();
        fs::write(path_of(folder.path(), Uuid::from_u128(2)), b"{ \"setup\": 5").unwrap();
        fs::write(folder.path().join("README"), b"hello").unwrap();
        assert_eq!(all(folder.path()), std::slice::from_ref(&one));
        assert!(forget(folder.path(), one.setup).unwrap());
        assert!(!forget(folder.path(), one.setup).unwrap());
        assert_eq!(all(folder.path()), []);
        assert_eq!(all(Path::new("/no/such/folder")), []);
    }
}
