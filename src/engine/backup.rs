//! A copy of every generation in a file, for the day when all spares are gone.
//!
//! Invariants: a file is complete or absent (written aside, synced, renamed); at most [`KEEP`] files for a setup; a
//! failure is told and never fails the command: these files are a convenience, the spares are the truth.

use crate::format::copy::encode;
use crate::format::metadata::Metadata;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files kept for each setup.
pub const KEEP: usize = 32;

/// Writes the metadata as copy 0 of the first spare (that was not removed) would hold it to `DIRECTORY/SETUP/GENERATION.copy0`, and removes
/// the oldest files. Returns the path.
///
/// # Errors
/// What the filesystem says.
pub fn save(directory: &Path, metadata: &Metadata) -> io::Result<PathBuf> {
    let dir = directory.join(metadata.setup.to_string());
    fs::create_dir_all(&dir)?;
    let encoded = encode(metadata).map_err(|e| io::Error::other(e.to_string()))?;
    let spare = metadata.members().next().map(|(_, record)| record).ok_or_else(|| io::Error::other("no spare"))?;
    let mut bytes = vec![0; encoded.len()];
    encoded.stamp(&mut bytes, spare.uuid, spare.data_start, 0);
    let path = dir.join(format!("{:020}.copy0", metadata.generation));
    let aside = dir.join(".writing");
    let mut file = File::create(&aside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(&dir)?.sync_all()?;
    prune(&dir)?;
    Ok(path)
}

fn prune(dir: &Path) -> io::Result<()> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "copy0"))
        .collect();
    names.sort();
    let surplus = names.len().saturating_sub(KEEP);
    for old in names.iter().take(surplus) {
        fs::remove_file(old)?;
    }
    Ok(())
}
