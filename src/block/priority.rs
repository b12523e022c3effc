//! The I/O class of the calling thread: a scan is to come last.
//!
//! Source: ioprio_set(2), include/uapi/linux/ioprio.h. Only some of the kernel's schedulers (BFQ) heed the class;
//! mq-deadline and none do not, so whoever must not disturb has to pace himself as well.
//!
//! Invariant: only the calling thread is changed, and [`IdleIo`] changes it back in the same thread.

#![allow(unsafe_code)] // ioprio_set and ioprio_get: no crate of ours wraps them

use nix::errno::Errno;
use nix::libc;
use std::io;
use std::marker::PhantomData;

const CLASS_SHIFT: u32 = 13;
const CLASS_IDLE: libc::c_long = 3;
const WHO_PROCESS: libc::c_long = 1;
/// With [`WHO_PROCESS`]: the calling thread.
const MYSELF: libc::c_long = 0;

/// Puts the calling thread into the idle class: its I/O is served when no other waits.
///
/// # Errors
/// What the kernel says; `ENOSYS` where it has no such classes.
pub fn set_idle_io_class() -> io::Result<()> {
    set(CLASS_IDLE << CLASS_SHIFT)
}

/// Keeps the calling thread in the idle class; when it is dropped, the thread gets its former class back if the kernel
/// lets it.
#[derive(Debug)]
pub struct IdleIo {
    before: libc::c_long,
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl IdleIo {
    /// Does as [`set_idle_io_class`], and remembers what was before.
    ///
    /// # Errors
    /// As there; nothing has changed then.
    pub fn enter() -> io::Result<IdleIo> {
        let before = get()?;
        set_idle_io_class()?;
        Ok(IdleIo { before, _not_send: PhantomData })
    }
}

impl Drop for IdleIo {
    fn drop(&mut self) {
        // A thread that stays idle is slow, nothing else.
        let _ = set(self.before);
    }
}

fn set(value: libc::c_long) -> io::Result<()> {
    // SAFETY: the call takes three integers, and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, MYSELF, value) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

fn get() -> io::Result<libc::c_long> {
    // SAFETY: the call takes two integers, and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, MYSELF) };
    Errno::result(result).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a thread of its own, whose class nothing else depends on.
    fn apart(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    fn class() -> libc::c_long {
        get().unwrap() >> CLASS_SHIFT
    }

    #[test]
    fn the_thread_becomes_idle_and_gets_its_class_back() {
        apart(|| {
            let before = get().unwrap();
            assert_ne!(class(), CLASS_IDLE);
            let idle = IdleIo::enter().unwrap();
            assert_eq!(class(), CLASS_IDLE);
            drop(idle);
            assert_eq!(get().unwrap(), before);
        });
    }

    #[test]
    fn only_the_calling_thread_is_changed() {
        apart(|| {
            let other = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                let seen = scope.spawn(|| {
                    other.wait();
                    class()
                });
                set_idle_io_class().unwrap();
                other.wait();
                assert_ne!(seen.join().unwrap(), CLASS_IDLE);
                assert_eq!(class(), CLASS_IDLE);
            });
        });
    }
}
