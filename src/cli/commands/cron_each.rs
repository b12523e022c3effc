//! `scan --cron` of several setups: each in a process of its own, a few at a time.
//!
//! Invariants:
//! - one whose disk does not answer delays nobody: it is left behind, and its lock keeps later runs away from it;
//! - what a process says is passed on when it has ended: one that is left behind holds none of our pipes, for whose end cron
//!   and systemd wait;
//! - the processes together take no longer than the time that there is, but for what a process needs to end.

use super::Exit;
use crate::cli::output::{complain, complain_raw};
use crate::cli::signals::Signals;
use crate::cli::syslog::{self, Severity};
use crate::cli::worse;
use crate::engine::EngineError;
use anyhow::Result;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Setups that are scanned at the same time.
const AT_ONCE: usize = 4;

/// How often to look how they are doing.
const POLL: Duration = Duration::from_millis(20);

/// The kernel wakes who waits for a request now and then, lest its watchdog takes him for hung: every 60 s by default.
const WOKEN: u64 = 50;

/// A process that scans one setup.
struct Scanning {
    name: String,
    child: Child,
    /// What it says, on standard output and standard error.
    said: [File; 2],
    /// The threads that wait for a disk: how often they had given up the processor, and since when that is so.
    waiting: BTreeMap<String, (u64, Instant)>,
    looked: Instant,
}

/// Scans each setup within its share of the time.
/// A disk that does not answer for `patience` is left alone.
pub(super) fn scan(
    shares: &[(String, Option<Duration>)],
    time: Option<Duration>,
    patience: Duration,
    signals: &RefCell<Signals>,
) -> Result<Exit> {
    let begun = Instant::now();
    let mut left = shares.iter();
    let mut at_work: Vec<Scanning> = Vec::new();
    let mut exit = Exit::Done;
    let mut interrupted = false;
    loop {
        while at_work.len() < AT_ONCE && !interrupted {
            let waiting = left.len().saturating_add(at_work.len());
            let Some((name, most)) = left.next() else { break };
            let rounds = u32::try_from(waiting.div_ceil(AT_ONCE).max(1)).unwrap_or(u32::MAX);
            let share = time.map(|time| time.saturating_sub(begun.elapsed()) / rounds);
            at_work.push(begin(name, share.into_iter().chain(*most).min())?);
        }
        if at_work.is_empty() {
            return Ok(exit);
        }
        if !interrupted && signals.borrow_mut().came() {
            interrupted = true;
            // Each writes where it is, and ends.
            at_work.iter().for_each(|one| one.stop());
        }
        let mut stay = Vec::new();
        for mut one in at_work {
            match one.look(patience) {
                Some(end) => exit = worse(exit, end),
                None => stay.push(one),
            }
        }
        at_work = stay;
        std::thread::sleep(POLL);
    }
}

/// The same command line, for one setup.
fn begin(name: &str, share: Option<Duration>) -> Result<Scanning> {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, called);
    // Behind a '--' all would be names: the process would start others, and they more.
    command.args(args.take_while(|arg| arg != "--")).arg("--only").arg(name).stdin(Stdio::null());
    if let Some(share) = share {
        // The last one counts.
        command.arg("--time-budget").arg(format!("{}ms", share.as_millis().max(1)));
    }
    let said = [memory()?, memory()?];
    let [out, err] = &said;
    let copy = |file: &File| file.try_clone().map_err(|error| EngineError::system("cannot copy a file", error));
    command.stdout(copy(out)?).stderr(copy(err)?);
    let child = command.spawn().map_err(|error| EngineError::system("cannot start a process", error))?;
    let now = Instant::now();
    Ok(Scanning { name: name.into(), child, said, waiting: BTreeMap::new(), looked: now })
}

/// A file in memory.
fn memory() -> Result<File, EngineError> {
    let file = memfd_create(c"dm-remap", MFdFlags::MFD_CLOEXEC);
    file.map(File::from).map_err(|errno| EngineError::system("cannot make a file in memory", errno))
}

impl Scanning {
    /// Passes on what it has said.
    fn pass_on(&mut self) {
        let [out, err] = &mut self.said;
        let mut text = [String::new(), String::new()];
        for (file, text) in [out, err].into_iter().zip(&mut text) {
            // What cannot be passed on is in the journal.
            let _ = file.rewind().and_then(|()| file.read_to_string(text));
        }
        let [out, err] = text;
        let _ = std::io::stdout().write_all(out.as_bytes());
        complain_raw(&err);
    }

    fn stop(&self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
    }

    /// How it ended, if it has.
    fn look(&mut self, patience: Duration) -> Option<Exit> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                self.pass_on();
                return Some(match status.code() {
                    Some(0) => Exit::Done,
                    Some(3) => Exit::Attention,
                    Some(4) => Exit::Refused,
                    _ => Exit::Failed,
                });
            }
            Err(_) => return Some(Exit::Failed),
            Ok(None) => {}
        }
        let now = Instant::now();
        if now.duration_since(self.looked) < Duration::from_secs(1) {
            return None;
        }
        self.looked = now;
        self.note_waiting(now);
        if !self.waiting.values().any(|(_, since)| now.duration_since(*since) >= patience) {
            return None;
        }
        let text = format!("{}: its disk has not answered for {} s; left alone", self.name, patience.as_secs());
        complain(&text);
        syslog::log(Severity::Error, &text);
        self.stop();
        Some(Exit::Failed)
    }

    /// Takes note of the threads that wait for a disk, and forgets those that have got on since.
    fn note_waiting(&mut self, now: Instant) {
        let before = std::mem::take(&mut self.waiting);
        for (thread, switches) in waiting_threads(self.child.id()) {
            let seen = match before.get(&thread) {
                Some((first, since)) => {
                    let woken = now.duration_since(*since).as_secs() / WOKEN;
                    let is_still = switches <= first.saturating_add(woken).saturating_add(1);
                    if is_still { (*first, *since) } else { (switches, now) }
                }
                None => (switches, now),
            };
            self.waiting.insert(thread, seen);
        }
    }
}

/// The threads of a process that are in uninterruptible sleep, and how often each has given up the processor.
fn waiting_threads(process: u32) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let waiting = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let switches = value("voluntary_ctxt_switches:")?.parse().ok()?;
        value("State:")?.starts_with('D').then(|| (task.file_name().to_string_lossy().into_owned(), switches))
    };
    tasks.filter_map(waiting).collect()
}
