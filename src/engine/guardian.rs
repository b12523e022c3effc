//! The guardian: a process that finishes or undoes a window when the command that began it dies.
//!
//! Invariants:
//! - it is forked before the device is suspended, from a process with one thread, with all memory that it needs;
//! - it does nothing while the command lives, unless the command is stopped or hangs past the deadline: then it
//!   kills the command first, so that two never work on one window;
//! - it learns of the command's death by the end of a pipe, which the kernel closes only after the last system call of
//!   the command has ended;
//! - both allocate without the help of I/O (`PR_SET_IO_FLUSHER`) while the window is open: memory that the kernel gets for
//!   their requests must not wait for the device that they hold suspended;
//! - it holds the setup's lock (a flock is shared by fork) until it is done.

#![allow(unsafe_code)] // fork, and memory shared between two processes

use super::window::{Phase, WindowEnd, WindowJob, WindowRunner};
use nix::fcntl::OFlag;
use nix::libc::{c_int, c_ulong, prctl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, MlockAllFlags, ProtFlags, mlockall, mmap_anonymous, munlockall, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2, setsid};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long SUSPEND may wait for I/O in flight before the guardian interrupts it.
const SUSPEND_DEADLINE: Duration = Duration::from_secs(20);

/// How long the window may stay in one phase before the guardian takes it for hung (or stopped) and kills the command.
const PHASE_DEADLINE: Duration = Duration::from_secs(90);

/// How often the guardian looks at the clock.
const POLL_MILLISECONDS: u16 = 200;

/// Bytes of heap that are made present before the window, so that library code inside it finds free memory.
const HEAP_RESERVE: usize = 1 << 20;

/// Runs windows with a guardian.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guarded;

/// A byte shared between the command and its guardian.
#[derive(Debug)]
struct SharedPhase {
    page: NonNull<c_void>,
}

const PAGE: NonZeroUsize = match NonZeroUsize::new(4096) {
    Some(size) => size,
    None => NonZeroUsize::MIN,
};

impl SharedPhase {
    fn new() -> io::Result<SharedPhase> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let page = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_SHARED)? };
        Ok(SharedPhase { page })
    }

    fn cell(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped as long as `self`, zeroed, aligned, and both processes use it as this atomic only.
        unsafe { AtomicU8::from_ptr(self.page.as_ptr().cast()) }
    }
}

impl Drop for SharedPhase {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size, and no reference to it is left.
        let _ = unsafe { munmap(self.page, PAGE.get()) };
    }
}

impl WindowRunner for Guarded {
    fn run(&self, job: &mut WindowJob<'_>) -> io::Result<WindowEnd> {
        let phase = SharedPhase::new()?;
        let (watch, alive) = pipe2(OFlag::O_CLOEXEC)?;
        let (ready, tell_ready) = pipe2(OFlag::O_CLOEXEC)?;
        reserve_heap();
        let command = getpid();
        let quiet = Quiet::begin()?;
        // A child inherits it.
        let flusher = IoFlusher::begin();
        // SAFETY: this process has one thread (those that read for a scan were joined), so the child may use everything
        // that the parent could.
        let guardian = match unsafe { fork() }? {
            ForkResult::Child => {
                drop((alive, ready));
                let status = guard(job, phase.cell(), &watch, tell_ready, command);
                // SAFETY: ends the child at once; the parent's buffers and exit handlers are not the child's to run.
                unsafe { nix::libc::_exit(status) }
            }
            ForkResult::Parent { child } => child,
        };
        drop((watch, tell_ready));
        let guarded = matches!(nix::unistd::read(&ready, &mut [0]), Ok(1));
        // Without locked memory a page fault in the window could need the suspended device. Refused to the
        // unprivileged only, who cannot use device-mapper either.
        let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).is_ok();
        let end = if guarded {
            Ok(job.run(phase.cell()))
        } else {
            Err(io::Error::other("the guardian process died at once"))
        };
        if locked {
            let _ = munlockall();
        }
        drop(alive);
        let _ = waitpid(guardian, None);
        drop(flusher);
        drop(quiet);
        end
    }
}

/// Blocks the signals that people send, so that none ends the command inside the window; the alarm may.
struct Quiet {
    before: SigSet,
    alarm: SigAction,
}

extern "C" fn interrupt_only(_signal: nix::libc::c_int) {}

impl Quiet {
    fn begin() -> io::Result<Quiet> {
        let mut blocked = SigSet::all();
        blocked.remove(Signal::SIGALRM);
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), Some(&mut before))?;
        // Without SA_RESTART, so that SUSPEND comes back with EINTR.
        let action = SigAction::new(SigHandler::Handler(interrupt_only), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        let alarm = unsafe { sigaction(Signal::SIGALRM, &action)? };
        Ok(Quiet { before, alarm })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: puts back what was there before.
        let _ = unsafe { sigaction(Signal::SIGALRM, &self.alarm) };
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// `PR_SET_IO_FLUSHER` and `PR_GET_IO_FLUSHER` of include/uapi/linux/prctl.h.
const SET_IO_FLUSHER: c_int = 57;
const GET_IO_FLUSHER: c_int = 58;

/// Tells the kernel that this process serves a block device, for as long as it lives: what is allocated for its system
/// calls then starts no I/O to make room. Linux 5.6, and for those with CAP_SYS_RESOURCE; others go without.
struct IoFlusher {
    set: bool,
}

impl IoFlusher {
    fn begin() -> IoFlusher {
        // Who is one already stays one.
        IoFlusher { set: is_io_flusher() == Some(false) && set_io_flusher(true) }
    }
}

impl Drop for IoFlusher {
    fn drop(&mut self) {
        if self.set {
            set_io_flusher(false);
        }
    }
}

/// `None` where the kernel does not know, or does not tell us.
fn is_io_flusher() -> Option<bool> {
    let zero: c_ulong = 0;
    // SAFETY: takes numbers only, and returns one.
    match unsafe { prctl(GET_IO_FLUSHER, zero, zero, zero, zero) } {
        -1 => None,
        number => Some(number != 0),
    }
}

fn set_io_flusher(on: bool) -> bool {
    let (on, zero): (c_ulong, c_ulong) = (on.into(), 0);
    // SAFETY: takes numbers only, and changes how the kernel allocates for this thread.
    unsafe { prctl(SET_IO_FLUSHER, on, zero, zero, zero) == 0 }
}

/// Makes some heap present and keeps it: what the window calls may use it without asking the kernel.
fn reserve_heap() {
    let reserve = vec![1u8; HEAP_RESERVE];
    std::hint::black_box(&reserve);
}

/// The guardian's life. Returns its exit status.
fn guard(job: &mut WindowJob<'_>, phase: &AtomicU8, watch: &OwnedFd, tell_ready: OwnedFd, command: Pid) -> i32 {
    let _ = setsid();
    let _ = nix::sys::prctl::set_name(c"dm-remap-guard");
    let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    if nix::unistd::write(&tell_ready, &[1]).is_err() {
        return 1;
    }
    drop(tell_ready);
    wait_for_the_end(phase, watch, command);
    match Phase::from_u8(phase.load(Ordering::SeqCst)) {
        Phase::Done => 0,
        died_in => {
            let end = job.take_over(died_in, phase);
            i32::from(matches!(end, WindowEnd::StillSuspended(_)))
        }
    }
}

/// Waits until the command is gone; interrupts a SUSPEND that takes too long, and kills a command that hangs.
fn wait_for_the_end(phase: &AtomicU8, watch: &OwnedFd, command: Pid) {
    let mut seen = (phase.load(Ordering::SeqCst), Instant::now());
    loop {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::from(POLL_MILLISECONDS)), Ok(0) | Err(_)) {
            // Nobody ever writes: readable means that the other end is gone.
            return;
        }
        let now = phase.load(Ordering::SeqCst);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        let waited = seen.1.elapsed();
        match Phase::from_u8(now) {
            Phase::Armed | Phase::Done => {}
            Phase::Suspending if waited > SUSPEND_DEADLINE && waited < PHASE_DEADLINE => {
                let _ = kill(command, Signal::SIGALRM);
            }
            _ if waited > PHASE_DEADLINE => {
                let _ = kill(command, Signal::SIGKILL);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_for_as_long_as_it_lasts() {
        // Another thread of the test may be left alone: it is a property of the thread.
        if is_io_flusher() != Some(false) {
            println!("skipped: this kernel has no PR_SET_IO_FLUSHER, or not for us");
            return;
        }
        let outer = IoFlusher::begin();
        assert_eq!(is_io_flusher(), Some(true));
        drop(IoFlusher::begin());
        assert_eq!(is_io_flusher(), Some(true));
        drop(outer);
        assert_eq!(is_io_flusher(), Some(false));
    }
}
