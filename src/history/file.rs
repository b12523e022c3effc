//! The files: `UUID.jsonl`, with `UUID.lock` beside it, in the directory that is handed in.

use super::{LIMIT, Record, is_news, line, parse, thin};
use crate::flock::FileLock;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// How much of a file's end is looked at for the last record: more than some hundred lines.
const TAIL: u64 = 64 << 10;

fn path(directory: &Path, setup: Uuid) -> PathBuf {
    directory.join(format!("{setup}.jsonl"))
}

/// All records of a setup, in the order in which they were written; none when there is no file. Nothing is changed.
///
/// # Errors
/// What the filesystem says.
pub fn read(directory: &Path, setup: Uuid) -> io::Result<Vec<Record>> {
    match fs::read(path(directory, setup)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Adds `record` when it is news after the last of its kind, and says whether it was. It is on the disk when this returns.
///
/// # Errors
/// What the filesystem says.
pub fn append(directory: &Path, setup: Uuid, record: &Record) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    let lock = directory.join(format!("{setup}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(lock)?;
    let _lock = FileLock::take(lock)?;
    let path = path(directory, setup);
    let is_new = !path.exists();
    let mut file = File::options().create(true).read(true).append(true).open(&path)?;
    let tail = tail(&mut file)?;
    let last = parse(&tail).into_iter().rfind(|last| last.what.is_like(&record.what));
    let Some(line) = line(record).filter(|_| is_news(last.as_ref(), record)) else { return Ok(false) };
    let mut bytes = Vec::new();
    if tail.last().is_some_and(|byte| *byte != b'\n') {
        // A crash has cut off a line: what comes must not be part of it.
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_data()?;
    if is_new {
        File::open(directory)?.sync_all()?;
    }
    if file.metadata()?.len() > LIMIT {
        replace(directory, &path, record.time)?;
    }
    Ok(true)
}

/// The end of a file.
fn tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Puts a thinned file in the place of one that has become too long. It is half as long at most, so that this is rare.
fn replace(directory: &Path, path: &Path, now: u64) -> io::Result<()> {
    let most = usize::try_from(LIMIT / 2).unwrap_or(usize::MAX);
    let text = thin(&fs::read(path)?, most, now);
    let aside = path.with_extension("writing");
    let mut file = File::create(&aside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(directory)?.sync_all()
}
