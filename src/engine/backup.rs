//! A copy of every generation in a file, for the day when all spares are gone.
//!
//! Invariants: a file is complete or absent (written aside, synced, renamed); at most [`KEEP`] files for a setup, among
//! them always the one written last; a failure is told and never fails the command: these files are a convenience, the
//! spares are the truth.

use crate::format::COPY_MAX_BYTES;
use crate::format::copy::{ValidCopy, Verdict, encode, judge_detached};
use crate::format::metadata::Metadata;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Files kept for each setup.
pub const KEEP: usize = 32;

/// What the names of backup files end in.
const EXTENSION: &str = "copy0";

/// The metadata as copy 0 of the first spare (of those that were not removed) would hold it.
///
/// # Errors
/// When it does not fit.
pub fn image(metadata: &Metadata) -> io::Result<Vec<u8>> {
    let encoded = encode(metadata).map_err(|e| io::Error::other(e.to_string()))?;
    let spare = metadata.members().next().map(|(_, record)| record).ok_or_else(|| io::Error::other("no spare"))?;
    let mut bytes = vec![0; encoded.len()];
    encoded.stamp(&mut bytes, spare.uuid, spare.data_start, 0);
    Ok(bytes)
}

/// Writes the metadata to `DIRECTORY/SETUP/GENERATION.copy0`, and removes the oldest files. Returns the path.
///
/// # Errors
/// What the filesystem says.
pub fn save(directory: &Path, metadata: &Metadata) -> io::Result<PathBuf> {
    let dir = directory.join(metadata.setup.to_string());
    fs::create_dir_all(&dir)?;
    let bytes = image(metadata)?;
    let path = dir.join(format!("{:020}.{EXTENSION}", metadata.generation));
    let aside = dir.join(".writing");
    let mut file = File::create(&aside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(&dir)?.sync_all()?;
    prune(&dir, &path)?;
    Ok(path)
}

/// Writes bytes to a file that a person named: all of them or none. An existing file is replaced only with `replace`, and
/// only if it is a regular file.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or what the filesystem says.
pub fn export(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return Err(io::Error::other("it is there, and no regular file")),
        Ok(_) if !replace => return Err(io::ErrorKind::AlreadyExists.into()),
        _ => {}
    }
    // A link stays a link: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let name = path.file_name().ok_or_else(|| io::Error::other("it is no name for a file"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&aside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| {
        // A link is made only where nothing is by then.
        if replace { fs::rename(&aside, &path) } else { fs::hard_link(&aside, &path) }
    });
    let removed = if replace && written.is_ok() { Ok(()) } else { fs::remove_file(&aside) };
    written.and(removed)?;
    File::open(dir)?.sync_all()
}

/// Reads a backup file, and judges it as any copy is judged. It may be longer than the copy: an image of a spare is a
/// backup, too.
///
/// # Errors
/// When it cannot be read; what is wrong with its content is in the verdict.
pub fn load(path: &Path) -> io::Result<Verdict> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(COPY_MAX_BYTES).unwrap_or(u64::MAX);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(judge_detached(&bytes))
}

/// A backup file that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The file.
    pub path: PathBuf,
    /// What it holds, or why it cannot be used.
    pub content: Result<ValidCopy, String>,
}

/// The files that are kept of all setups, or of one by its UUID, oldest generation first.
///
/// # Errors
/// What the filesystem says. That nothing was ever kept is no error.
pub fn list(directory: &Path, setup: Option<Uuid>) -> io::Result<Vec<Kept>> {
    let folders: Vec<PathBuf> = match setup {
        Some(setup) => vec![directory.join(setup.to_string())],
        None => entries(directory)?,
    };
    let mut out = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        for path in backups(folder)? {
            let content = match load(&path) {
                Ok(Verdict::Valid(copy)) => Ok(*copy),
                Ok(_) => Err("it is damaged".to_string()),
                Err(error) => Err(error.to_string()),
            };
            out.push(Kept { path, content });
        }
    }
    Ok(out)
}

/// The newest generation of a setup among the files that are kept, or 0. A new generation goes above it, so that no file
/// is written over.
pub fn newest_kept(directory: &Path, setup: Uuid) -> u64 {
    let kept = list(directory, Some(setup)).unwrap_or_default();
    let of_setup =
        kept.iter().filter_map(|kept| kept.content.as_ref().ok()).filter(|copy| copy.metadata.setup == setup);
    of_setup.map(|copy| copy.metadata.generation).max().unwrap_or(0)
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    names.sort();
    Ok(names)
}

fn backups(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = entries(dir)?;
    names.retain(|path| path.extension().is_some_and(|e| e == EXTENSION));
    Ok(names)
}

/// Removes the oldest files but `written`, which is old by its number when a spare went back to an older generation.
fn prune(dir: &Path, written: &Path) -> io::Result<()> {
    let names = backups(dir)?;
    let surplus = names.len().saturating_sub(KEEP);
    for old in names.iter().filter(|name| *name != written).take(surplus) {
        fs::remove_file(old)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
