//! Exact points to kill a command at: its system calls, by strace's injection. Without -f, so the guardian is left alone.

use crate::live::{Ended, process_field, processes, program, run, wait_for};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A system call of a traced run.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// Which of the calls of this name it is, from 1: strace counts each name by itself.
    pub nth: usize,
    /// The line.
    pub text: String,
}

impl Call {
    /// Whether it suspends a device.
    pub fn suspends(&self) -> bool {
        self.text.contains("DM_DEV_SUSPEND") && self.text.contains("DM_SUSPEND_FLAG")
    }

    /// Whether it resumes a device.
    pub fn resumes(&self) -> bool {
        self.text.contains("DM_DEV_SUSPEND") && !self.text.contains("DM_SUSPEND_FLAG")
    }
}

/// Whether strace is there and its injection works here.
pub fn usable() -> bool {
    let probe = run("strace", &["-o", "/dev/null", "-e", "inject=exit_group:signal=SIGKILL:when=1", "true"]);
    assert!(probe.code != Some(127), "strace is missing: see scripts/install-deps");
    probe.code.is_none() || probe.code == Some(137)
}

/// Runs the program under strace; how it ended, and its system calls from its first use of device-mapper on.
pub fn trace(args: &[&str]) -> (Ended, Vec<Call>) {
    let file = "/tmp/trace";
    let program = program();
    let all: Vec<&str> = ["-o", file, &program].into_iter().chain(args.iter().copied()).collect();
    let ended = steadily(|| run("strace", &all));
    let calls = parse(&fs::read_to_string(file).unwrap());
    let first = calls.iter().position(|c| c.text.contains("/dev/mapper/control") || c.text.contains(".lock"));
    (ended, calls[first.unwrap_or(0)..].to_vec())
}

/// The calls in strace's output of one process.
pub fn parse(text: &str) -> Vec<Call> {
    let mut counts = std::collections::BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let name = line.split('(').next().unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || !line.contains('(') {
            continue;
        }
        let nth = counts.entry(name.to_string()).and_modify(|n| *n += 1).or_insert(1usize);
        calls.push(Call { name: name.into(), nth: *nth, text: line.into() });
    }
    calls
}

/// Where a command is suspended: from the call after SUSPEND to RESUME, as positions in `calls`.
pub fn window(calls: &[Call]) -> std::ops::Range<usize> {
    let start = calls.iter().position(Call::suspends).expect("no SUSPEND");
    let end = calls.iter().skip(start + 1).position(Call::resumes).expect("no RESUME");
    start + 1..start + 1 + end + 1
}

/// Runs the program; on entering `call`, that happens to it (in strace's words).
pub fn run_with(what: &str, call: &Call, args: &[&str]) -> Ended {
    let inject = format!("inject={}:{what}:when={}", call.name, call.nth);
    let trace = format!("trace={}", call.name);
    let program = program();
    // One that hangs ends with 124.
    let mut all = vec!["120", "strace", "-o", "/dev/null", "-e", &trace, "-e", &inject, &program];
    all.extend(args);
    run("timeout", &all)
}

/// Runs the program, killed on entering `call`, which is then not made. Whether it was killed: a run may have fewer
/// calls than the one before.
pub fn kill_at(call: &Call, args: &[&str]) -> bool {
    let ended = run_with("signal=SIGKILL", call, args);
    assert!(matches!(ended.code, None | Some(137 | 0 | 3)) || unsteady(&ended), "{call:?}: {ended:?}");
    !matches!(ended.code, Some(0 | 3)) && !unsteady(&ended)
}

/// Whether a move gave up, with nothing changed, because our load kept writing what it was copying: strace and a machine
/// that others use make it slow.
fn unsteady(ended: &Ended) -> bool {
    ended.code == Some(1) && ended.err.contains("nothing was changed. Try again")
}

/// Does what the error says, a few times.
pub fn steadily(run: impl Fn() -> Ended) -> Ended {
    let mut ended = run();
    for _ in 0..5 {
        if !unsteady(&ended) {
            break;
        }
        ended = run();
    }
    ended
}

/// A command that is held for a while before one of its system calls.
#[derive(Debug)]
pub struct Held {
    strace: Child,
    /// The command.
    pub pid: i32,
}

impl Held {
    /// Starts the program, to stay at `call` for `time`.
    pub fn start(call: &Call, time: Duration, args: &[&str]) -> Held {
        let inject = format!("inject={}:delay_enter={}:when={}", call.name, time.as_micros(), call.nth);
        let strace = Command::new("strace")
            .args(["-o", "/dev/null", "-e", &format!("trace={}", call.name), "-e", &inject, &program()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let parent = strace.id().to_string();
        let mut pid = None;
        wait_for(Duration::from_secs(5), || {
            let is_child = |pid: &i32| process_field(*pid, "PPid").is_some_and(|p| p == parent);
            pid = processes("dm-remap").into_iter().find(is_child);
            pid.is_some()
        });
        Held { strace, pid: pid.expect("the command did not start") }
    }

    /// Its guardian.
    pub fn guardian(&self) -> Option<i32> {
        let parent = self.pid.to_string();
        processes("dm-remap-guard").into_iter().find(|g| process_field(*g, "PPid").is_some_and(|p| p == parent))
    }

    /// Whether the command is still held: strace has it stopped meanwhile, and no signal changes that.
    pub fn is_held(&self) -> bool {
        process_field(self.pid, "State").is_some_and(|state| state.starts_with('t'))
    }

    /// Whether the command has ended.
    pub fn is_over(&self) -> bool {
        process_field(self.pid, "State").is_none_or(|state| state.starts_with('Z'))
    }

    /// Waits for its end; its exit code, unless a signal ended it.
    pub fn end(mut self) -> Option<i32> {
        self.strace.wait().unwrap().code()
    }
}
