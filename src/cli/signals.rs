//! Being asked to stop: the signals that people and systemd send, taken note of instead of dying from.
//!
//! Invariant: while a [`Signals`] lives, none of them ends the program half-way.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Takes the signals that ask to stop.
#[derive(Debug)]
pub(super) struct Signals {
    descriptor: SignalFd,
    before: SigSet,
}

impl Signals {
    /// From now on these signals are taken note of. Threads that are started later inherit this.
    pub(super) fn take() -> Result<Signals, Errno> {
        let mut wanted = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| wanted.add(signal));
        let before = wanted.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        let descriptor = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { descriptor, before })
    }

    /// Whether one of them has come since the last call.
    pub(super) fn came(&mut self) -> bool {
        matches!(self.descriptor.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}
