//! Telling udev of a device, and waiting for it within a limit.
//!
//! How it works (libdevmapper's protocol): the ioctl carries a number, the cookie; the kernel passes it on in the
//! uevent; the last of udev's rules runs `dmsetup udevcomplete COOKIE`, which takes one off the System V semaphore
//! that has the cookie as its key. The `devicemapper` crate does the same but waits without a limit, and for ever when
//! udev's control socket exists and nobody serves it. So the cookie is ours.

#![allow(unsafe_code)] // System V semaphores

use nix::errno::Errno;
use nix::libc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Upper half of a semaphore's key (`DM_COOKIE_MAGIC`, libdevmapper).
const MAGIC: u32 = 0x0D4D;

/// `DM_UDEV_PRIMARY_SOURCE_FLAG`: the event comes from a tool that keeps to the protocol.
const PRIMARY_SOURCE: u16 = 0x0040;
/// `DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG`, `…_DISK_RULES_FLAG`, `…_OTHER_RULES_FLAG` and `…_LOW_PRIORITY_FLAG`: no probing, no links
/// except the one in /dev/mapper.
const PRIVATE: u16 = 0x0002 | 0x0004 | 0x0008 | 0x0010;

/// How often to look whether udev is done.
const POLL: Duration = Duration::from_millis(5);

/// A semaphore that udev takes down when it is done with an event. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Cookie {
    /// Lower half of the key.
    base: u16,
    semaphore: i32,
}

/// The number to give with the ioctl: what the event's rules are told, and the cookie, if there is one.
pub(super) fn event_number(private: bool, cookie: Option<&Cookie>) -> u32 {
    let flags = if private { PRIMARY_SOURCE | PRIVATE } else { PRIMARY_SOURCE };
    u32::from(flags) << 16 | cookie.map_or(0, |cookie| u32::from(cookie.base))
}

impl Cookie {
    /// A new cookie. Fails as semget(2) does: `ENOSYS` without System V IPC, `ENOSPC` when all semaphores are taken.
    pub(super) fn new() -> Result<Cookie, Errno> {
        for _ in 0..32 {
            let (_, base, ..) = uuid::Uuid::new_v4().as_fields();
            let key = i32::try_from(MAGIC << 16 | u32::from(base)).map_err(|_| Errno::EINVAL)?;
            if base == 0 {
                continue;
            }
            let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
            // SAFETY: no pointers are involved.
            match Errno::result(unsafe { libc::semget(key, 1, flags) }) {
                Ok(semaphore) => {
                    let cookie = Cookie { base, semaphore };
                    cookie.raise()?;
                    return Ok(cookie);
                }
                Err(Errno::EEXIST) => (),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EEXIST)
    }

    /// Sets the new semaphore, which Linux makes with 0, to the 1 that udev will take off.
    fn raise(&self) -> Result<(), Errno> {
        let mut up = libc::sembuf { sem_num: 0, sem_op: 1, sem_flg: 0 };
        // SAFETY: one operation, as the count says, that lives until the call returns.
        Errno::result(unsafe { libc::semop(self.semaphore, &mut up, 1) }).map(drop)
    }

    /// Waits until udev has taken the semaphore down; whether it did so before `limit` was over. A semaphore that
    /// someone has removed (`dmsetup udevcomplete_all`) counts as done.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            // SAFETY: GETVAL takes no fourth argument.
            let value = unsafe { libc::semctl(self.semaphore, 0, libc::GETVAL) };
            if value <= 0 {
                return true;
            }
            let now = Instant::now();
            if now >= end {
                return false;
            }
            sleep(POLL.min(end - now));
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no fourth argument. Failure means that it is gone already.
        unsafe { libc::semctl(self.semaphore, 0, libc::IPC_RMID) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_at_the_limit_or_when_udev_is_done() {
        let Ok(cookie) = Cookie::new() else { return };
        let start = Instant::now();
        assert!(!cookie.wait(Duration::from_millis(30)));
        assert!(start.elapsed() >= Duration::from_millis(30));
        let mut down = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
        // SAFETY: one operation, as the count says.
        assert_eq!(unsafe { libc::semop(cookie.semaphore, &mut down, 1) }, 0);
        assert!(cookie.wait(Duration::ZERO));
    }

    #[test]
    fn the_event_number_carries_flags_and_cookie() {
        let cookie = Cookie { base: 0x1234, semaphore: -1 };
        assert_eq!(event_number(false, Some(&cookie)), 0x0040_1234);
        assert_eq!(event_number(true, Some(&cookie)), 0x005e_1234);
        assert_eq!(event_number(true, None), 0x005e_0000);
    }
}
