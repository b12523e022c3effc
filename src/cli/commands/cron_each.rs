//! `scan --cron` of several setups: each in a process of its own, a few at a time.
//!
//! Invariants:
//! - one whose disk does not answer delays nobody: it is left behind, and its lock keeps later runs away from it;
//! - the processes together take no longer than the time that there is, but for what a process needs to end.

use super::Exit;
use crate::cli::output::complain;
use crate::cli::signals::Signals;
use crate::cli::syslog::{self, Severity};
use crate::cli::worse;
use crate::engine::EngineError;
use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Setups that are scanned at the same time.
const AT_ONCE: usize = 4;

/// How often to look how they are doing.
const POLL: Duration = Duration::from_millis(20);

/// How long a thread may wait for its disk, without one byte read by the whole process, before it is left behind.
const SILENCE: Duration = Duration::from_secs(120);

/// A process that scans one setup.
struct Scanning {
    name: String,
    child: Child,
    /// Bytes read, and since when no more were read while a thread waits for the disk.
    read: u64,
    still: Instant,
    looked: Instant,
}

/// Scans each setup within its share of the time.
pub(super) fn scan(names: &[String], time: Option<Duration>, signals: &RefCell<Signals>) -> Result<Exit> {
    let begun = Instant::now();
    let mut left = names.iter();
    let mut at_work: Vec<Scanning> = Vec::new();
    let mut exit = Exit::Done;
    let mut interrupted = false;
    loop {
        while at_work.len() < AT_ONCE && !interrupted {
            let waiting = left.len().saturating_add(at_work.len());
            let Some(name) = left.next() else { break };
            let rounds = u32::try_from(waiting.div_ceil(AT_ONCE).max(1)).unwrap_or(u32::MAX);
            let share = time.map(|time| time.saturating_sub(begun.elapsed()) / rounds);
            at_work.push(begin(name, share)?);
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
            match one.look() {
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
    command.args(args).arg("--only").arg(name).stdin(Stdio::null());
    if let Some(share) = share {
        // The last one counts.
        command.arg("--time-budget").arg(format!("{}ms", share.as_millis().max(1)));
    }
    let child = command.spawn().map_err(|error| EngineError::system("cannot start a process", error))?;
    let now = Instant::now();
    Ok(Scanning { name: name.into(), child, read: 0, still: now, looked: now })
}

impl Scanning {
    fn stop(&self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
    }

    /// How it ended, if it has.
    fn look(&mut self) -> Option<Exit> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
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
        let read = bytes_read(self.child.id());
        if read != self.read || !waits_for_a_disk(self.child.id()) {
            (self.read, self.still) = (read, now);
        }
        if now.duration_since(self.still) < SILENCE {
            return None;
        }
        let text = format!("{}: its disk has not answered for {} s; left alone", self.name, SILENCE.as_secs());
        complain(&text);
        syslog::log(Severity::Error, &text);
        self.stop();
        Some(Exit::Failed)
    }
}

fn bytes_read(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Whether any thread is in uninterruptible sleep.
fn waits_for_a_disk(process: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let state = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("stat")).ok()?;
        // The name before it may hold anything, a bracket too.
        text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    tasks.filter_map(state).any(|state| state == 'D')
}
