//! A lock on a file, held as long as the value lives.
//!
//! Invariant: letting go never panics, which `nix`'s lock does when the filesystem refuses it (a network filesystem may);
//! the kernel then lets go when the process ends.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;

/// An exclusive lock on an open file, against other processes.
#[derive(Debug)]
pub struct FileLock(Option<Flock<File>>);

impl FileLock {
    /// Waits until nobody else has it.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn take(file: File) -> io::Result<FileLock> {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => Ok(FileLock(Some(lock))),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Takes it if nobody else has it.
    ///
    /// # Errors
    /// `EAGAIN` when somebody has, or what the filesystem says; with the file.
    pub fn try_take(file: File) -> Result<FileLock, (File, Errno)> {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map(|lock| FileLock(Some(lock)))
    }

    /// The file.
    pub fn file(&mut self) -> Option<&mut File> {
        self.0.as_deref_mut()
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if let Some(Err((lock, _))) = self.0.take().map(Flock::unlock) {
            // It would be tried again, and panic.
            std::mem::forget(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let lock = FileLock::take(open()).unwrap();
        assert_eq!(FileLock::try_take(open()).unwrap_err().1, Errno::EAGAIN);
        drop(lock);
        FileLock::try_take(open()).unwrap().file().unwrap();
    }
}
