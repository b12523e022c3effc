//! Passes in files, so that a scan can go on after it was stopped or killed, and `status` can tell of the last one.
//!
//! Invariants: a file is complete or absent (written aside, synced, renamed); what cannot be read or does not fit is told
//! and never guessed at; losing a file loses time, never data.

use super::pass::{Pass, Subject, VERSION};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// More than any pass needs: a file that is longer is not ours.
const LONGEST: u64 = 256 << 20;

/// The file of a subject in `directory`.
pub fn path(directory: &Path, subject: &Subject) -> PathBuf {
    match subject {
        Subject::Setup(uuid) => directory.join(format!("{uuid}.json")),
        Subject::Suspects(uuid) => directory.join(format!("{uuid}-suspects.json")),
        Subject::Device(fingerprint) => directory.join(format!("device-{fingerprint}.json")),
    }
}

/// Saves a pass.
///
/// # Errors
/// What the filesystem says.
pub fn save(directory: &Path, pass: &Pass) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let path = path(directory, &pass.subject);
    let aside = path.with_extension("writing");
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec(pass)?)?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(directory)?.sync_all()
}

/// Loads the last pass of a subject; `None` when there is none.
///
/// # Errors
/// When the file is there and cannot be read, is damaged, or is of another version.
pub fn load(directory: &Path, subject: &Subject) -> io::Result<Option<Pass>> {
    let path = path(directory, subject);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let pass: Pass = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    if pass.version != VERSION || pass.subject != *subject {
        return Err(wrong("it is of another version, or of something else".into()));
    }
    Ok(Some(pass))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::pass::{Area, Order, Place};
    use crate::units::{Range, RangeSet, Sectors};
    use proptest::prelude::*;

    fn pass() -> Pass {
        let area: RangeSet = Range::new(Sectors(5), Sectors(100)).into_iter().collect();
        let order = Order { ranges: Some(area.clone()), full: false, report_only: true, slow_ms: 500, retries: 3 };
        Pass::new(Subject::Device("abc".into()), order, vec![Area::new(Place::Main, area)], 7)
    }

    #[test]
    fn a_pass_is_found_again_and_others_are_not_mistaken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pass = pass();
        assert_eq!(load(dir.path(), &pass.subject).unwrap(), None);
        save(dir.path(), &pass).unwrap();
        assert_eq!(load(dir.path(), &pass.subject).unwrap(), Some(pass.clone()));
        let other = Subject::Device("def".into());
        fs::rename(path(dir.path(), &pass.subject), path(dir.path(), &other)).unwrap();
        assert_eq!(load(dir.path(), &other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        save(dir.path(), &Pass { version: VERSION + 1, ..pass.clone() }).unwrap();
        assert!(load(dir.path(), &pass.subject).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_no_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let dir = tempfile::tempdir().unwrap();
            let pass = pass();
            save(dir.path(), &pass).unwrap();
            let path = path(dir.path(), &pass.subject);
            let mut bytes = fs::read(&path).unwrap();
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(len - cut % len);
            fs::write(&path, bytes).unwrap();
            let _ = load(dir.path(), &pass.subject);
        }
    }
}
