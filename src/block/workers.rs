//! Processes that look at devices, so that one that hangs delays only itself.
//!
//! A thread in a read that never ends cannot be left behind: the kernel keeps its process from ending. A child process can.
//!
//! Invariants:
//! - the calling process has one thread, as for every fork;
//! - a worker has no standard streams and no files of its parent, and dies with its parent; what it is given to do must only read;
//! - an item that takes longer than its patience is given up, its worker is killed and not waited for;
//! - the results are in order of the items, whoever was first.

#![allow(unsafe_code)] // fork

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getppid, pipe2, read, write};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What the work gave.
    Done(Vec<u8>),
    /// It took longer than its patience.
    TimedOut,
    /// Its worker died.
    Died,
}

/// Most bytes that one item may give.
const MOST_BYTES: usize = 64 << 20;

/// Bytes taken from a worker at once.
const CHUNK: usize = 65_536;

/// Does `work` for the items 0 to `items`-1 in up to `workers` processes, each item within `patience`.
///
/// # Errors
/// When not one process can be made.
pub fn in_workers(
    items: usize,
    workers: usize,
    patience: Duration,
    work: &dyn Fn(usize) -> Vec<u8>,
) -> io::Result<Vec<Outcome>> {
    if items == 0 {
        return Ok(Vec::new());
    }
    let mut crew = Crew { work, patience, workers: Vec::new(), results: vec![None; items], next: 0 };
    for _ in 0..workers.clamp(1, items.max(1)) {
        match Worker::begin(work) {
            Ok(worker) => crew.workers.push(worker),
            Err(error) if crew.workers.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    crew.run()?;
    crew.dismiss();
    Ok(crew.results.into_iter().map(|result| result.unwrap_or(Outcome::Died)).collect())
}

/// A child process and what it is at.
#[derive(Debug)]
struct Worker {
    process: Pid,
    orders: OwnedFd,
    answers: OwnedFd,
    /// The item, and when it is given up.
    item: Option<(usize, Instant)>,
    /// What has come of its answer.
    answer: Vec<u8>,
}

impl Worker {
    fn begin(work: &dyn Fn(usize) -> Vec<u8>) -> io::Result<Worker> {
        let (their_orders, orders) = pipe2(OFlag::O_CLOEXEC)?;
        let (answers, their_answers) = pipe2(OFlag::O_CLOEXEC)?;
        let parent = nix::unistd::getpid();
        // SAFETY: this process has one thread (see the module's invariants), so the child may use all that it could.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop((orders, answers));
                let _ = serve(parent, &their_orders, &their_answers, work);
                // SAFETY: ends the child at once; the parent's buffers and exit handlers are not the child's to run.
                unsafe { nix::libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                Ok(Worker { process: child, orders, answers, item: None, answer: Vec::new() })
            }
        }
    }

    fn order(&mut self, item: usize, patience: Duration) -> bool {
        let number = u64::try_from(item).unwrap_or(u64::MAX).to_le_bytes();
        self.item = Some((item, Instant::now() + patience));
        self.answer.clear();
        write_all(&self.orders, &number).is_ok()
    }

    /// Takes what has come; the answer when it is whole. An error when the worker is gone.
    fn listen(&mut self, chunk: &mut [u8]) -> Result<Option<Vec<u8>>, Errno> {
        match read(&self.answers, chunk) {
            Ok(0) => return Err(Errno::EPIPE),
            Ok(count) => self.answer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        let Some((len, rest)) = self.answer.split_first_chunk::<8>() else { return Ok(None) };
        let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
        if len > MOST_BYTES {
            return Err(Errno::EMSGSIZE);
        }
        Ok((rest.len() >= len).then(|| rest.to_vec()))
    }

    /// Kills it. It is waited for only as far as that takes no time: it may be in a read that never ends.
    fn kill(&self) {
        let _ = kill(self.process, Signal::SIGKILL);
        let _ = waitpid(self.process, Some(WaitPidFlag::WNOHANG));
    }
}

struct Crew<'a> {
    work: &'a dyn Fn(usize) -> Vec<u8>,
    patience: Duration,
    workers: Vec<Worker>,
    results: Vec<Option<Outcome>>,
    next: usize,
}

impl Crew<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            self.give_orders()?;
            let Some(deadline) = self.workers.iter().filter_map(|w| w.item.map(|(_, end)| end)).min() else {
                return Ok(());
            };
            let ready = self.wait(deadline)?;
            let now = Instant::now();
            let mut lost = Vec::new();
            for (place, worker) in self.workers.iter_mut().enumerate() {
                let Some((item, end)) = worker.item else { continue };
                let outcome = match ready.contains(&place).then(|| worker.listen(&mut chunk)) {
                    Some(Ok(Some(answer))) => Outcome::Done(answer),
                    Some(Err(_)) => Outcome::Died,
                    _ if now >= end => Outcome::TimedOut,
                    _ => continue,
                };
                if !matches!(outcome, Outcome::Done(_)) {
                    lost.push(place);
                }
                worker.item = None;
                self.results.iter_mut().skip(item).take(1).for_each(|result| *result = Some(outcome.clone()));
            }
            self.replace(&lost);
        }
    }

    fn give_orders(&mut self) -> io::Result<()> {
        if self.workers.is_empty() && self.next < self.results.len() {
            self.workers.push(Worker::begin(self.work)?);
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.item.is_none()) {
            if self.next >= self.results.len() {
                break;
            }
            // One that cannot be told is found dead by its answer.
            worker.order(self.next, self.patience);
            self.next += 1;
        }
        Ok(())
    }

    /// The places of the workers that have something to say, at the latest at the deadline.
    fn wait(&self, deadline: Instant) -> io::Result<Vec<usize>> {
        let busy: Vec<usize> =
            self.workers.iter().enumerate().filter(|(_, w)| w.item.is_some()).map(|(place, _)| place).collect();
        let mut fds: Vec<PollFd<'_>> = self
            .workers
            .iter()
            .filter(|worker| worker.item.is_some())
            .map(|worker| PollFd::new(worker.answers.as_fd(), PollFlags::POLLIN))
            .collect();
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = busy.into_iter().zip(&fds);
        Ok(ready.filter(|(_, fd)| fd.any() == Some(true)).map(|(place, _)| place).collect())
    }

    fn replace(&mut self, lost: &[usize]) {
        for place in lost.iter().rev() {
            let worker = self.workers.swap_remove(*place);
            worker.kill();
            if self.next < self.results.len()
                && let Ok(worker) = Worker::begin(self.work)
            {
                self.workers.push(worker);
            }
        }
    }

    /// Those that are idle end at once, and are waited for. One that cannot be killed ends when it finds its orders closed.
    fn dismiss(&mut self) {
        let (killed, others): (Vec<Worker>, Vec<Worker>) =
            self.workers.drain(..).partition(|worker| kill(worker.process, Signal::SIGKILL).is_ok());
        drop(others);
        for worker in killed {
            let _ = waitpid(worker.process, None);
        }
    }
}

/// The life of a worker: item after item, until the parent has no more.
fn serve(parent: Pid, orders: &OwnedFd, answers: &OwnedFd, work: &dyn Fn(usize) -> Vec<u8>) -> nix::Result<()> {
    // A worker that is left behind in a read must not keep the parent's output open.
    let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|_| Errno::ENOENT)?;
    dup2_stdin(&nowhere)?;
    dup2_stdout(&nowhere)?;
    dup2_stderr(&nowhere)?;
    close_all_but(&[orders, answers]);
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Ok(());
    }
    let mut number = [0; 8];
    while read_all(orders, &mut number)? {
        let answer = work(usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX));
        write_all(answers, &u64::try_from(answer.len()).unwrap_or(u64::MAX).to_le_bytes())?;
        write_all(answers, &answer)?;
    }
    Ok(())
}

/// Closes what the parent had open, but for the standard streams and these: a worker that is left behind in a read must
/// not keep a lock. Kernels before 5.9 cannot, and then it does.
fn close_all_but(kept: &[&OwnedFd]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    let mut first = 3_u32;
    for last in kept.iter().map(|fd| fd.checked_sub(1)).chain([Some(u32::MAX)]) {
        let Some(last) = last else { continue };
        if first <= last {
            // SAFETY: closes descriptors that nothing in this process uses any more: it only runs `work` from here on,
            // which opens its own.
            unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, last, 0_u32) };
        }
        first = last.saturating_add(2);
    }
}

/// Fills the buffer; `false` at the end.
fn read_all(from: &OwnedFd, buf: &mut [u8]) -> nix::Result<bool> {
    let mut rest = buf;
    while !rest.is_empty() {
        match read(from, rest) {
            Ok(0) => return Ok(false),
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

fn write_all(to: &OwnedFd, bytes: &[u8]) -> nix::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_whole() {
        let work = |item: usize| vec![u8::try_from(item % 251).unwrap(); item * 1000];
        let results = in_workers(150, 4, Duration::from_secs(30), &work).unwrap();
        assert_eq!(results.len(), 150);
        for (item, result) in results.iter().enumerate() {
            assert_eq!(result, &Outcome::Done(work(item)), "{item}");
        }
        assert!(in_workers(0, 4, Duration::from_secs(1), &work).unwrap().is_empty());
    }

    #[test]
    fn one_that_hangs_and_one_that_dies_delay_nobody_else() {
        let work = |item: usize| {
            match item {
                3 => std::thread::sleep(Duration::from_secs(60)),
                5 => std::process::abort(),
                _ => {}
            }
            vec![7]
        };
        let begun = Instant::now();
        let results = in_workers(20, 3, Duration::from_millis(800), &work).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
        for (item, result) in results.iter().enumerate() {
            let expected = match item {
                3 => Outcome::TimedOut,
                5 => Outcome::Died,
                _ => Outcome::Done(vec![7]),
            };
            assert_eq!(result, &expected, "{item}");
        }
    }
}
