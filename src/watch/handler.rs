//! What the watcher asks for and tells: the part that the command line plays.

use super::kmsg::LogError;
use super::setups::Watched;
use super::suspects::Suspects;
use crate::engine::EngineError;
use crate::units::Range;
use nix::errno::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// How something that the watcher asked for went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. For suspects: these sectors of main were bad.
    Done(Vec<Range>),
    /// There was nothing to do.
    Nothing,
    /// Another command works on the setup: again in a moment.
    Busy,
    /// The disk cannot be reached, so its sectors could not be judged: again later.
    Transport(String),
    /// It failed: again later.
    Failed(String),
}

/// What the watcher tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins.
    Begins {
        /// The tracepoint in use, or why only the kernel log is.
        tracepoint: Result<&'static str, String>,
        /// How many setups are watched for now.
        setups: usize,
    },
    /// A setup is watched from now on.
    Up(String),
    /// A setup is not there any more.
    Down(String),
    /// A setup has another watcher.
    Elsewhere(String),
    /// The kernel reported trouble on the way to a disk.
    Transport {
        /// The setup.
        setup: String,
        /// What was reported.
        report: String,
    },
    /// Something the watcher asked for did not go well. It will be tried again.
    Trouble {
        /// The setup.
        setup: String,
        /// What happened.
        text: String,
    },
    /// Reports may have been missed.
    Missed {
        /// The setup; all of them when there is none.
        setup: Option<String>,
        /// Why.
        text: String,
    },
    /// Something about the watcher itself.
    Note(String),
    /// It ends, because of a signal.
    Ends,
}

/// Does what the watcher asks for, and tells what happens.
pub trait Handler {
    /// Probes sectors of main, and moves what is bad. What there is to tell of it waits for [`Handler::pass_on`].
    fn suspects(&mut self, setup: &Watched, suspects: &Suspects) -> Outcome;
    /// Tells what was done about suspects, which may take a while (a mail, a program).
    fn pass_on(&mut self);
    /// Makes held blocks that were written ordinary, and tells it.
    fn settle(&mut self, setup: &Watched) -> Outcome;
    /// Tells something.
    fn tell(&mut self, event: Event);
}

/// Why the watcher cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A device-mapper call, or a lock.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A system call of the loop itself.
    #[error("the watcher cannot {what}: {}", errno.desc())]
    System {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl From<crate::dm::DmError> for WatchError {
    fn from(error: crate::dm::DmError) -> Self {
        WatchError::Engine(error.into())
    }
}

/// What a watcher needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The setups; all that are up when none is named.
    pub names: Vec<String>,
    /// Where positions are kept.
    pub positions: PathBuf,
    /// Where locks are.
    pub locks: PathBuf,
    /// How long the first report waits for others.
    pub settle: Duration,
    /// Whether to use the tracepoint where there is one.
    pub trace: bool,
}
