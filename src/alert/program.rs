//! Runs a program that is told something, and does not wait for it for ever.
//!
//! Invariants: no shell; no more than the time that is given, after which the program and all of its process group are
//! killed; what it is given to read can always be written, because it is a file in memory.

use super::event::Alert;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The most bytes of one variable: the kernel takes 128 KiB.
const LONGEST_VARIABLE: usize = 100_000;

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be run at all.
    #[error("cannot run {program}: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time.
    #[error("{program} did not end within {} s and was killed", limit.as_secs_f32())]
    TimedOut {
        /// Which.
        program: String,
        /// The time that it had.
        limit: Duration,
    },
    /// It ended with a failure.
    #[error("{program} failed: {status}")]
    Failed {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// Hands a message to a program: in variables named DM_REMAP_*, and as JSON on its standard input.
///
/// # Errors
/// [`ProgramError`].
pub fn hand_over(program: &Path, alert: &Alert, limit: Duration) -> Result<(), ProgramError> {
    let start = |source| ProgramError::Start { program: program.display().to_string(), source };
    let json = alert.json().map_err(|error| start(error.into()))?;
    let mut command = Command::new(program);
    command
        .env("DM_REMAP_EVENT", alert.kind().name())
        .env("DM_REMAP_EVENTS", alert.kinds())
        .env("DM_REMAP_SETUP", variable(&alert.setup))
        .env("DM_REMAP_UUID", variable(&alert.uuid))
        .env("DM_REMAP_DEVICE", variable(&alert.device))
        .env("DM_REMAP_HOST", variable(&alert.host))
        .env("DM_REMAP_SUBJECT", variable(&alert.subject()))
        .env("DM_REMAP_DETAILS", variable(&alert.details()));
    run(command, json.as_bytes(), limit)
}

/// Text as a variable can have it.
fn variable(text: &str) -> String {
    let mut end = text.len().min(LONGEST_VARIABLE);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().replace('\0', " ")
}

/// Runs a command with `input` to read; what it writes goes nowhere.
///
/// # Errors
/// [`ProgramError`].
pub(super) fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<(), ProgramError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| ProgramError::Start { program: program.clone(), source };
    let stdin = in_memory(input).map_err(start)?;
    // Its own group: what it has started is killed with it.
    command
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(start)?;
    match wait(&mut child, limit) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(ProgramError::Failed { program, status }),
        Ok(None) => Err(ProgramError::TimedOut { program, limit }),
        Err(source) => Err(ProgramError::Start { program, source }),
    }
}

fn in_memory(input: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("dm-remap-alert", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?);
    file.write_all(input)?;
    file.rewind()?;
    Ok(file)
}

/// How the child ended; `None` when it was killed because its time was over.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            let group = i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)?;
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.kill();
            // One that waits for a disk cannot be killed: it is left behind.
            for _ in 0..100 {
                if child.try_wait()?.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
