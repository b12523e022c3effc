//! Writes to many disks at once: the kernel's native AIO, by its bare system calls.
//!
//! Source: io_setup(2), io_submit(2), io_getevents(2); include/uapi/linux/aio_abi.h.
//!
//! Invariants:
//! - [`Parallel::run`] allocates nothing, starts no thread, and returns only when the kernel is done with every request:
//!   it may be called while a device is suspended, and the borrowed memory is not in use afterwards;
//! - a context belongs to the process that made it: in a forked child nothing is tried, and the caller does the work
//!   itself. When a process dies, the kernel waits for its requests before it closes its descriptors (`exit_aio`), so
//!   whoever waits for that knows that they have ended;
//! - only writes: they are submitted, and their memory is allocated, in this process. A flush (`IOCB_CMD_FDSYNC`) is not: the
//!   kernel hands it to a shared workqueue, which may have to make a thread first, with memory that may wait for the
//!   suspended device;
//! - what the kernel did not take is left [`Outcome::Untried`], never half-done.

#![allow(unsafe_code)] // the AIO calls: no crate of ours wraps them

use nix::errno::Errno;
use nix::libc;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `IOCB_CMD_PWRITEV`.
const PWRITEV: u16 = 8;

/// Pieces of memory in one write.
const PIECES: usize = 2;

/// `struct iocb`. The two fields of eight bytes after the first are swapped on big-endian machines; both are 0 here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved2: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// `struct iovec`, as numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    base: usize,
    len: usize,
}

const _: () = {
    assert!(size_of::<Iocb>() == 64);
    assert!(size_of::<IoEvent>() == 32);
    assert!(size_of::<Piece>() == size_of::<libc::iovec>());
};

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel did not take it, or not all of it: the caller has to do it.
    #[default]
    Untried,
    /// Done, all of it.
    Done,
    /// Failed.
    Failed(Errno),
}

/// A write to one device.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The device.
    pub device: BorrowedFd<'a>,
    /// The byte of the device where the first piece goes.
    pub offset: u64,
    /// The bytes, one piece after the other; a piece may be empty.
    pub pieces: [&'a [u8]; PIECES],
    /// What became of it.
    pub outcome: Outcome,
}

impl Request<'_> {
    /// Bytes that it moves.
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }
}

/// Room for requests that are made at once.
#[derive(Debug)]
pub struct Parallel {
    context: libc::c_ulong,
    /// The process that made the context.
    owner: u32,
    control: Vec<Iocb>,
    pieces: Vec<[Piece; PIECES]>,
    events: Vec<IoEvent>,
}

impl Parallel {
    /// Room for `room` requests at once; `None` where the kernel has no AIO, or no more of it.
    pub fn new(room: usize) -> Option<Parallel> {
        let mut context: libc::c_ulong = 0;
        let events = libc::c_long::try_from(room).ok()?;
        // SAFETY: the kernel writes one number to `context`, which must be 0 before.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) };
        Errno::result(made).ok()?;
        Some(Parallel {
            context,
            owner: std::process::id(),
            control: vec![Iocb::default(); room],
            pieces: vec![[Piece::default(); PIECES]; room],
            events: vec![IoEvent::default(); room],
        })
    }

    /// Whether this process may use it.
    fn is_ours(&self) -> bool {
        self.context != 0 && self.owner == std::process::id()
    }

    /// Makes all requests at once and waits until none is under way. Requests beyond the room stay untried.
    pub fn run(&mut self, requests: &mut [Option<Request<'_>>]) {
        requests.iter_mut().flatten().for_each(|request| request.outcome = Outcome::Untried);
        if !self.is_ours() {
            return;
        }
        let mut under_way = 0usize;
        let slots = self.control.iter_mut().zip(&mut self.pieces);
        for ((number, request), (control, pieces)) in (0u64..).zip(requests.iter()).zip(slots) {
            let Some(filled) = request.as_ref().and_then(|request| fill(request, number, pieces)) else { continue };
            *control = filled;
            let mut list = [std::ptr::from_mut(control)];
            // SAFETY: the list, the control block, the pieces and the memory that they name are borrowed until this
            // function returns, which is after the kernel has reported the request as ended.
            let taken =
                unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1 as libc::c_long, list.as_mut_ptr()) };
            if taken == 1 {
                under_way = under_way.saturating_add(1);
            }
        }
        while under_way > 0 {
            let room = libc::c_long::try_from(self.events.len()).unwrap_or(libc::c_long::MAX);
            let none: *mut libc::timespec = std::ptr::null_mut();
            // SAFETY: the kernel writes at most `room` events, which is how many there is memory for.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    1 as libc::c_long,
                    room,
                    self.events.as_mut_ptr(),
                    none,
                )
            };
            match Errno::result(got) {
                Ok(got) => {
                    let got = usize::try_from(got).unwrap_or(0);
                    self.events.iter().take(got).for_each(|event| settle(event, requests));
                    under_way = under_way.saturating_sub(got);
                }
                Err(Errno::EINTR) => {}
                Err(_) => {
                    // It cannot tell any more what became of them; it waits for them while it goes.
                    self.end();
                    return;
                }
            }
        }
    }

    /// Gives the context back, once all requests have ended.
    fn end(&mut self) {
        // SAFETY: takes a number, and waits for requests that are under way.
        let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
        self.context = 0;
    }
}

impl Drop for Parallel {
    fn drop(&mut self) {
        if self.is_ours() {
            self.end();
        }
    }
}

/// The control block of a request; `None` when it does not fit the kernel's numbers.
fn fill(request: &Request<'_>, number: u64, pieces: &mut [Piece; PIECES]) -> Option<Iocb> {
    for (piece, memory) in pieces.iter_mut().zip(request.pieces) {
        *piece = Piece { base: memory.as_ptr().expose_provenance(), len: memory.len() };
    }
    Some(Iocb {
        data: number,
        fildes: u32::try_from(request.device.as_raw_fd()).ok()?,
        opcode: PWRITEV,
        buf: u64::try_from(pieces.as_ptr().expose_provenance()).ok()?,
        nbytes: u64::try_from(PIECES).ok()?,
        offset: i64::try_from(request.offset).ok()?,
        ..Iocb::default()
    })
}

/// Takes note of how a request ended. One that was cut short stays untried: done again, it gives the errno of the place.
fn settle(event: &IoEvent, requests: &mut [Option<Request<'_>>]) {
    let number = usize::try_from(event.data).unwrap_or(usize::MAX);
    let Some(Some(request)) = requests.get_mut(number) else { return };
    request.outcome = match usize::try_from(event.res) {
        Ok(moved) if moved == request.bytes() => Outcome::Done,
        Ok(_) => Outcome::Untried,
        Err(_) => Outcome::Failed(Errno::from_raw(i32::try_from(event.res.saturating_neg()).unwrap_or(libc::EIO))),
    };
}

#[cfg(test)]
#[path = "parallel_tests.rs"]
mod tests;
