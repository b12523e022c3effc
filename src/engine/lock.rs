//! One command at a time: flock on files under /run/dm-remap.
//!
//! Invariant: a lock is held by the open file, so a killed process never leaves one behind.

use super::EngineError;
use crate::flock::FileLock;
use crate::plan::Refusal;
use nix::errno::Errno;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A lock that is held as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: FileLock,
}

/// Takes the lock called `key` (a setup's UUID, or a name that is being created) in `directory`, without waiting.
/// `name` is what to call the setup in messages.
///
/// # Errors
/// [`Refusal::Busy`] with the process that has it.
pub fn take(directory: &Path, key: &str, name: &str) -> Result<Lock, EngineError> {
    let system =
        |e: std::io::Error| EngineError::system(format!("cannot make the lock file in {}", directory.display()), e);
    fs::create_dir_all(directory).map_err(system)?;
    let path = directory.join(format!("{key}.lock"));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(system)?;
    match FileLock::try_take(file) {
        Ok(mut lock) => {
            // Who it is helps the next one; a full /run must not keep us from working.
            if let Some(file) = lock.file() {
                let _ = file.set_len(0).and_then(|()| file.rewind());
                let _ = writeln!(file, "{}", std::process::id());
            }
            Ok(Lock { _file: lock })
        }
        Err((mut file, Errno::EAGAIN)) => {
            let mut text = String::new();
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut text);
            let pid = text.trim().parse().ok();
            Err(Refusal::Busy { name: name.into(), pid }.into())
        }
        Err((_, errno)) => Err(system(errno.into())),
    }
}

/// The lock of this host for taking devices into use, waited for as long as `patience`. A claim of device-mapper keeps
/// other programs away, but not another device-mapper device, also of another setup: all of them share one holder. So a
/// command holds this from before it looks at a device until its first commit to it stands.
///
/// # Errors
/// [`Refusal::Claiming`] with the process that has it.
pub fn take_claims(directory: &Path, patience: Duration) -> Result<Lock, EngineError> {
    let begun = Instant::now();
    loop {
        match take(directory, "claim", "") {
            Err(EngineError::Refused(Refusal::Busy { pid, .. })) if begun.elapsed() >= patience => {
                return Err(Refusal::Claiming { pid }.into());
            }
            Err(EngineError::Refused(Refusal::Busy { .. })) => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "key", "data").unwrap();
        let second = take(dir.path(), "key", "data").unwrap_err();
        let me = std::process::id();
        assert!(matches!(second, EngineError::Refused(Refusal::Busy { pid: Some(pid), .. }) if pid == me));
        take(dir.path(), "other", "data").unwrap();
        drop(first);
        take(dir.path(), "key", "data").unwrap();
    }

    #[test]
    fn devices_are_taken_into_use_by_one_command_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = take_claims(dir.path(), Duration::ZERO).unwrap();
        let me = std::process::id();
        let second = take_claims(dir.path(), Duration::from_millis(30)).unwrap_err();
        assert!(matches!(second, EngineError::Refused(Refusal::Claiming { pid: Some(pid) }) if pid == me));
        let waiting = std::thread::spawn({
            let dir = dir.path().to_path_buf();
            move || take_claims(&dir, Duration::from_secs(60)).map(drop)
        });
        drop(first);
        waiting.join().unwrap().unwrap();
    }
}
