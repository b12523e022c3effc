//! Running tools of the system, and reading what they say.
//!
//! Invariants:
//! - no shell; a tool is taken from the system's own folders, never from PATH, and gets nothing of our environment;
//! - it is killed when the time is up, when it wants too much memory, or when its reader has seen enough. It is not
//!   waited for after that: a process that hangs in a read of a dying disk does not even die at once;
//! - what is kept of its output is bounded.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where tools may be.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The most output that is kept of one tool.
const MOST_OUTPUT: usize = 8 << 20;

/// The most that is kept of what a tool says on standard error.
const MOST_ERRORS: usize = 4096;

/// Memory that a tool may use: some keep a table of all blocks, and the machine has other work to do.
const MOST_MEMORY_KIB: u64 = 1 << 20;

/// The instant at which a search ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    end: Instant,
    patience: Duration,
}

impl Deadline {
    /// So far from now.
    pub(crate) fn after(patience: Duration) -> Deadline {
        let now = Instant::now();
        // A time that does not fit is far enough away.
        let end = now.checked_add(patience).or_else(|| now.checked_add(Duration::from_secs(86_400))).unwrap_or(now);
        Deadline { end, patience }
    }

    /// Whether it is past.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Why a tool gave no answer. Displayed it is a phrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ToolError {
    /// It is not installed.
    #[error("{tool} is not installed (package {package})")]
    Missing {
        /// The tool.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// It could not be started.
    #[error("{tool} cannot be started: {why}")]
    Start {
        /// The tool.
        tool: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// The time is up.
    #[error("it took longer than {} s (in {tool})", patience.as_secs_f32())]
    TimeUp {
        /// The tool.
        tool: &'static str,
        /// How long all of it was allowed to take.
        patience: Duration,
    },
    /// It wanted too much memory.
    #[error("{tool} wanted more than {} MiB of memory", MOST_MEMORY_KIB / 1024)]
    Memory {
        /// The tool.
        tool: &'static str,
    },
    /// It failed.
    #[error("{tool} failed: {said}")]
    Failed {
        /// The tool.
        tool: &'static str,
        /// What it said, or its exit code.
        said: String,
    },
}

/// A tool, and the package that it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// Name of the program.
    pub(crate) name: &'static str,
    /// Debian's package.
    pub(crate) package: &'static str,
}

/// How a tool ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its exit code; `None` when it was stopped because its reader had seen enough.
    pub(crate) code: Option<i32>,
    /// The beginning of what it said on standard error.
    pub(crate) errors: String,
}

/// Whether a reader wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// It does.
    More,
    /// It has seen enough.
    Enough,
}

impl Tool {
    /// Runs the tool and hands its output to `sink`, piece by piece, as it comes.
    pub(crate) fn stream(
        self,
        arguments: &[&OsStr],
        deadline: Deadline,
        sink: &mut dyn FnMut(&[u8]) -> Want,
    ) -> Result<Ended, ToolError> {
        let tool = self.name;
        if deadline.is_over() {
            return Err(ToolError::TimeUp { tool, patience: deadline.patience });
        }
        let program = self.find().ok_or(ToolError::Missing { tool, package: self.package })?;
        let start = |error: std::io::Error| ToolError::Start { tool, why: error.to_string() };
        let mut child = Command::new(program)
            .arg0(tool)
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", FOLDERS.join(":"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let mut errors = Vec::new();
        let end = self.pump(&mut child, deadline, sink, &mut errors);
        if !matches!(end, Ok(Want::More)) {
            let _ = child.kill();
        }
        let errors = String::from_utf8_lossy(&errors).into_owned();
        match end? {
            Want::Enough => {
                reap(&mut child, Instant::now() + Duration::from_millis(200));
                Ok(Ended { code: None, errors })
            }
            Want::More => match reap(&mut child, deadline.end) {
                Some(code) => Ok(Ended { code: Some(code), errors }),
                None => {
                    let _ = child.kill();
                    Err(ToolError::TimeUp { tool, patience: deadline.patience })
                }
            },
        }
    }

    /// Runs the tool and gives its output, which must be whole; any exit code will do.
    pub(crate) fn capture(self, arguments: &[&OsStr], deadline: Deadline) -> Result<(String, Ended), ToolError> {
        let mut out = Vec::new();
        let mut whole = true;
        let ended = self.stream(arguments, deadline, &mut |bytes| {
            whole = out.len().saturating_add(bytes.len()) <= MOST_OUTPUT;
            if whole {
                out.extend_from_slice(bytes);
            }
            if whole { Want::More } else { Want::Enough }
        })?;
        if !whole {
            let said = format!("its output is longer than {} MiB", MOST_OUTPUT >> 20);
            return Err(ToolError::Failed { tool: self.name, said });
        }
        Ok((String::from_utf8_lossy(&out).into_owned(), ended))
    }

    /// As [`Tool::capture`], and the exit code must be 0.
    pub(crate) fn output(self, arguments: &[&OsStr], deadline: Deadline) -> Result<String, ToolError> {
        let (out, ended) = self.capture(arguments, deadline)?;
        self.check(&ended)?;
        Ok(out)
    }

    /// Fails unless the tool was stopped by its reader, or ended well.
    pub(crate) fn check(self, ended: &Ended) -> Result<(), ToolError> {
        match ended.code {
            None | Some(0) => Ok(()),
            Some(_) => Err(self.failed(ended)),
        }
    }

    /// The error of a tool that did not do what it should.
    pub(crate) fn failed(self, ended: &Ended) -> ToolError {
        let line = first_words(&ended.errors);
        let said = if line.is_empty() { format!("exit code {}", ended.code.unwrap_or_default()) } else { line };
        ToolError::Failed { tool: self.name, said }
    }

    fn find(self) -> Option<PathBuf> {
        FOLDERS.iter().map(|folder| Path::new(folder).join(self.name)).find(|path| path.is_file())
    }

    /// Reads both outputs until both have ended.
    fn pump(
        self,
        child: &mut Child,
        deadline: Deadline,
        sink: &mut dyn FnMut(&[u8]) -> Want,
        errors: &mut Vec<u8>,
    ) -> Result<Want, ToolError> {
        let tool = self.name;
        let broken = |why: String| ToolError::Start { tool, why };
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(broken("it has no output".into()));
        };
        let mut buffer = vec![0u8; 1 << 16];
        let (mut out_open, mut err_open) = (true, true);
        let mut next_look = Instant::now();
        while out_open || err_open {
            if deadline.is_over() {
                return Err(ToolError::TimeUp { tool, patience: deadline.patience });
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + Duration::from_millis(100);
                if memory_kib(child.id()).is_some_and(|kib| kib > MOST_MEMORY_KIB) {
                    return Err(ToolError::Memory { tool });
                }
            }
            let (out_ready, err_ready) = {
                // A pipe that has ended is always ready: it is not asked about any more.
                let mut wait = Vec::with_capacity(2);
                wait.extend(out_open.then(|| PollFd::new(out.as_fd(), PollFlags::POLLIN)));
                wait.extend(err_open.then(|| PollFd::new(err.as_fd(), PollFlags::POLLIN)));
                let step = deadline.left().min(Duration::from_millis(100));
                let timeout = PollTimeout::try_from(step).unwrap_or(PollTimeout::ZERO);
                match poll(&mut wait, timeout) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(errno) => return Err(broken(errno.to_string())),
                }
                let mut ready = wait.iter().map(|fd| fd.any().unwrap_or(false));
                (out_open && ready.next() == Some(true), err_open && ready.next() == Some(true))
            };
            if out_ready {
                let len = read_some(&mut out, &mut buffer).map_err(|e| broken(e.to_string()))?;
                out_open = len > 0;
                if out_open && sink(buffer.get(..len).unwrap_or_default()) == Want::Enough {
                    return Ok(Want::Enough);
                }
            }
            if err_ready {
                let len = read_some(&mut err, &mut buffer).map_err(|e| broken(e.to_string()))?;
                err_open = len > 0;
                let room = MOST_ERRORS.saturating_sub(errors.len()).min(len);
                errors.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
        }
        Ok(Want::More)
    }
}

/// Has the kernel forget what it keeps of a device for readers like these tools. A mounted XFS or btrfs reads and
/// writes its metadata past that cache, so a tool would see what it was at the time of an earlier run.
pub(crate) fn forget_cached(device: &Path) {
    if let Ok(file) = std::fs::File::open(device) {
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // Advice only: if it is not taken, the tools see something older.
        let _ = nix::fcntl::posix_fadvise(&file, 0, 0, advice);
    }
}

fn read_some(pipe: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match pipe.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Waits for a child that has closed its output. A signal counts as exit code -1.
fn reap(child: &mut Child, end: Instant) -> Option<i32> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code().unwrap_or(-1)),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
}

/// Memory that a process has, in KiB (proc_pid_status(5)).
fn memory_kib(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The first lines that say something, without the line with which the tools of e2fsprogs introduce themselves.
fn first_words(errors: &str) -> String {
    let introduction = |line: &&str| line.starts_with("debugfs 1.") || line.starts_with("dumpe2fs 1.");
    let lines = errors.lines().map(str::trim).filter(|line| !line.is_empty() && !introduction(line));
    let text = lines.take(3).collect::<Vec<_>>().join(" ");
    text.chars().take(300).collect()
}

/// Cuts a stream into lines; a line that is longer than [`MOST_LINE`] is cut there.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

/// The longest line that [`Lines`] gives.
const MOST_LINE: usize = 4 << 20;

impl Lines {
    /// Takes a piece of the stream, and gives every line that ends in it, without its end.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str) -> Want) -> Want {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let room = MOST_LINE.saturating_sub(self.rest.len()).min(piece.len());
            self.rest.extend_from_slice(piece.get(..room).unwrap_or_default());
            if pieces.peek().is_some() {
                let line = std::mem::take(&mut self.rest);
                if each(&String::from_utf8_lossy(&line)) == Want::Enough {
                    return Want::Enough;
                }
            }
        }
        Want::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &'static str) -> Tool {
        Tool { name, package: "coreutils" }
    }

    fn run(name: &'static str, arguments: &[&str], patience: Duration) -> Result<(String, Ended), ToolError> {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        tool(name).capture(&arguments, Deadline::after(patience))
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn output_errors_and_exit_code_are_told() {
        let (out, ended) = run("printf", &["%s\\n", "a b", "c"], LONG).unwrap();
        assert_eq!((out.as_str(), ended.code), ("a b\nc\n", Some(0)));
        let (out, ended) = run("cat", &["/does/not/exist"], LONG).unwrap();
        assert_eq!((out.as_str(), ended.code), ("", Some(1)));
        let error = tool("cat").check(&ended).unwrap_err().to_string();
        assert_eq!(error, "cat failed: cat: /does/not/exist: No such file or directory");
        let (out, _) = run("env", &[], LONG).unwrap();
        assert_eq!(out, "LC_ALL=C\nPATH=/usr/sbin:/sbin:/usr/bin:/bin\n");
    }

    #[test]
    fn a_tool_that_is_absent_or_slow_is_told() {
        let error = run("no-such-tool", &[], LONG).unwrap_err();
        assert_eq!(error.to_string(), "no-such-tool is not installed (package coreutils)");
        let start = Instant::now();
        let error = run("sleep", &["60"], Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.to_string(), "it took longer than 0.3 s (in sleep)");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(matches!(run("true", &[], Duration::ZERO), Err(ToolError::TimeUp { .. })));
    }

    #[test]
    fn output_without_end_is_cut() {
        let error = run("yes", &[], LONG).unwrap_err();
        assert_eq!(error.to_string(), "yes failed: its output is longer than 8 MiB");
        let mut lines = 0;
        let mut cut = Lines::default();
        let mut sink = |bytes: &[u8]| {
            cut.feed(bytes, |line| {
                assert_eq!(line, "y");
                lines += 1;
                if lines < 1000 { Want::More } else { Want::Enough }
            })
        };
        let ended = tool("yes").stream(&[], Deadline::after(LONG), &mut sink).unwrap();
        assert_eq!((lines, ended.code), (1000, None));
    }

    #[test]
    fn lines_do_not_depend_on_the_pieces_that_they_come_in() {
        let text = b"one\n\ntwo \xff\nthree";
        for size in 1..=text.len() {
            let mut cut = Lines::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                cut.feed(piece, |line| {
                    seen.push(line.to_string());
                    Want::More
                });
            }
            assert_eq!(seen, ["one", "", "two \u{fffd}"]);
        }
    }
}
