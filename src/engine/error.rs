//! Everything that can go wrong while a plan runs.

use super::splice::SpliceOutcome;
use crate::block::DiskError;
use crate::dm::DmError;
use crate::format::copy::EncodeError;
use crate::map::{MapError, SpareIndex};
use crate::plan::Refusal;
use crate::segments::SegmentError;
use crate::units::Range;
use nix::errno::Errno;

/// Why a plan did not run to its end. Unless the text says otherwise, the setup runs as before.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Refused; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A device-mapper call failed.
    #[error(transparent)]
    Dm(#[from] DmError),
    /// A device failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A device failed in a way that says nothing about single sectors.
    #[error(
        "{0}. This is trouble with the device, its cable or its controller, not with single sectors: nothing was remapped"
    )]
    Transport(DiskError),
    /// Reads fail with EIO, also where they must not.
    #[error(
        "{error}. Sectors that should be good ({probe}) cannot be read either: this is not a matter of single sectors, and nothing was remapped"
    )]
    NotTheMedium {
        /// The error that was to be judged.
        error: DiskError,
        /// The known-good sectors that failed too.
        probe: Range,
    },
    /// The metadata does not fit or is inconsistent.
    #[error("{0}. Nothing was changed")]
    Encode(#[from] EncodeError),
    /// The map does not take the change.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The table cannot be built or read.
    #[error(transparent)]
    Segments(#[from] SegmentError),
    /// The kernel took another table than was given.
    #[error("the kernel gave back another table than was loaded for '{0}'; the old one is in force")]
    TableNotTaken(String),
    /// The device could not be suspended.
    #[error(
        "'{name}' could not be suspended: {}. I/O in flight did not end in time: the disk may be hanging. Nothing was changed",
        errno.desc()
    )]
    NotSuspended {
        /// The setup.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The copy kept changing under us.
    #[error(
        "the sectors being moved on '{0}' kept changing between readable and unreadable; nothing was changed. Try again"
    )]
    Unsteady(String),
    /// Something in the window failed and was undone.
    #[error("the move on '{name}' was undone: {why}. The old map is in force")]
    Undone {
        /// The setup.
        name: String,
        /// Why.
        why: String,
    },
    /// No spare took the commit.
    #[error("no spare of '{name}' took the commit: {error}. The old map is in force")]
    CommitFailed {
        /// The setup.
        name: String,
        /// The first error.
        error: DiskError,
    },
    /// Nobody can know which map is durable.
    #[error(
        "no spare of '{name}' could be written, and it is not known what it holds now. The sectors of this step answer EIO until a commit succeeds: put the spare right, then run 'dm-remap recover {name}'"
    )]
    Unsettled {
        /// The setup.
        name: String,
    },
    /// The device is suspended and could not be resumed.
    #[error("'{name}' is suspended and could not be resumed: {}. Try 'dm-remap recover {name}'", errno.desc())]
    StillSuspended {
        /// The setup.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The move stands, and something after it failed.
    #[error("the move on '{name}' is made and its map is durable, but what follows it failed: {source}")]
    AfterSwap {
        /// The setup.
        name: String,
        /// What failed.
        source: Box<EngineError>,
    },
    /// Some of the moves stand; the next ones could not be made.
    #[error("{moved} of {of} moves are made and stay so. The next part of them failed: {source}")]
    Partway {
        /// Moves that were made.
        moved: usize,
        /// Moves of the plan.
        of: usize,
        /// What the parts did that are made.
        done: Box<SpliceOutcome>,
        /// Why the next part failed, and what is in force of it.
        source: Box<EngineError>,
    },
    /// A file or process of our own.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// The error.
        source: std::io::Error,
    },
    /// A spare could not be told that the setup is dissolved, and not be erased.
    #[error(
        "'{name}' is dissolved, but spare {index} could not be told, nor be erased: {error}. The other spares keep the news for now. Put it right or take it away, then run 'dm-remap destroy {name}' again"
    )]
    NotErased {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// What its device said.
        error: DiskError,
    },
    /// A device that cannot be found or opened.
    #[error("{0}")]
    Device(String),
}

impl EngineError {
    /// What failed, whatever went well before.
    pub fn cause(&self) -> &EngineError {
        match self {
            EngineError::Partway { source, .. } => source.cause(),
            other => other,
        }
    }

    /// Wraps an I/O error with what was being done.
    pub fn system(what: impl Into<String>, source: impl Into<std::io::Error>) -> EngineError {
        EngineError::System { what: what.into(), source: source.into() }
    }
}
