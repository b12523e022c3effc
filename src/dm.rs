//! The device-mapper calls that we use, as a trait, so that the engine runs the same on a kernel and on a fake.
//!
//! Invariants:
//! - `suspend`, `resume` and `clear` of the real implementation, and everything that a [`Window`] does, allocate
//!   nothing, log nothing and touch no file unless they fail: they are called while the device under the root
//!   filesystem may be suspended (a [`Window`] does not even allocate to report a failure);
//! - `resume` swaps in the inactive table when there is one; when the kernel refuses it, the device is still
//!   suspended with its old table (see the caller's rescue).

mod control;
pub mod fake;
pub mod kernel;
mod lines;
mod node;
mod udev;
pub mod window;

use crate::segments::Target;
use crate::units::{DevNo, Sectors};
use nix::errno::Errno;
use std::path::PathBuf;

/// Which of a device's two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableSlot {
    /// The table that serves I/O.
    Active,
    /// The table that the next resume will swap in.
    Inactive,
}

/// What the kernel says of a device-mapper device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// Name.
    pub name: String,
    /// UUID, empty when it has none.
    pub uuid: String,
    /// Device number.
    pub devno: DevNo,
    /// Whether I/O to it waits.
    pub suspended: bool,
    /// Whether it has an active table.
    pub active: bool,
    /// Whether a table lies in the inactive slot.
    pub inactive: bool,
    /// How many have it open (mounts and devices on top included).
    pub open_count: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// A device-mapper call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmError {
    /// There is no device of that name.
    #[error("device-mapper has no device '{0}'")]
    NoDevice(String),
    /// The kernel refused.
    #[error("device-mapper {operation} of '{device}': {} ({errno:?})", errno.desc())]
    Refused {
        /// What was asked, as dmsetup names it (`create`, `load`, `suspend`, `resume`, …).
        operation: &'static str,
        /// Name of the device.
        device: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// This machine cannot do device-mapper: no control node, no kernel support, or no permission.
    #[error("device-mapper is not usable here: {0}")]
    Unavailable(String),
    /// A reply that makes no sense.
    #[error("device-mapper {operation} of '{device}' gave an answer that cannot be read: {detail}")]
    BadReply {
        /// What was asked.
        operation: &'static str,
        /// Name of the device.
        device: String,
        /// What was wrong.
        detail: String,
    },
}

impl DmError {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            DmError::Refused { errno, .. } => Some(*errno),
            DmError::NoDevice(_) => Some(Errno::ENXIO),
            _ => None,
        }
    }
}

/// A device that is up and has its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The node, such as `/dev/mapper/NAME`.
    pub node: PathBuf,
    /// What went wrong without stopping us, in words for the operator (udev did not answer, for one).
    pub warning: Option<String>,
}

/// What is done to one device between suspend and resume. Everything it needs is prepared when it is made, so
/// that no method allocates, not even to fail: errors are bare numbers. `ENXIO` means that the device is gone.
pub trait Window: std::fmt::Debug {
    /// Stops I/O, without freezing the filesystem, after what is in flight has ended. No error when it is
    /// stopped already. `EINTR` when a signal came first: then nothing has changed.
    fn suspend(&self) -> Result<(), Errno>;
    /// Swaps in the inactive table, if any, and lets I/O go on. On refusal the device is still suspended with
    /// its old table, and the inactive slot is empty.
    fn resume(&self) -> Result<(), Errno>;
    /// Empties the inactive slot. No error when it is empty already.
    fn clear(&self) -> Result<(), Errno>;
    /// Whether I/O to the device waits.
    fn suspended(&self) -> Result<bool, Errno>;
    /// Whether a table lies in the inactive slot.
    fn has_inactive(&self) -> Result<bool, Errno>;
    /// The last resort: loads the emergency table that was given when the window was made. User space allocates
    /// nothing for it, but the kernel does. `ENODATA` when no table was given.
    fn load_prepared(&self) -> Result<(), Errno>;
}

/// A message that is prepared: for use while the device is suspended.
pub trait PreparedMessage: std::fmt::Debug {
    /// Bytes that it needs to be sent, the room for the reply included.
    fn room(&self) -> usize;
    /// Sends it, and shows the reply (empty when there is none). Allocates nothing: `buffer`, which may be shared by many
    /// messages, has [`PreparedMessage::room`] bytes at least, or it is `EINVAL`. `ENOSPC` when the reply does not fit.
    fn send(&self, buffer: &mut [u8], on_reply: &mut dyn FnMut(&[u8])) -> Result<(), Errno>;
}

/// The device-mapper calls. Devices are named, never numbered.
pub trait DeviceMapper: std::fmt::Debug {
    /// Version of the kernel's interface (major, minor, patch).
    fn version(&self) -> Result<(u32, u32, u32), DmError>;
    /// Names and numbers of all devices.
    fn list(&self) -> Result<Vec<(String, DevNo)>, DmError>;
    /// State of one device; `None` when there is none of that name.
    fn state(&self, name: &str) -> Result<Option<DeviceState>, DmError>;
    /// Makes a device without a table. `EBUSY` when name or UUID is taken.
    fn create(&self, name: &str, uuid: &str) -> Result<DeviceState, DmError>;
    /// Loads a table into the inactive slot. Never call it while a device is suspended. The kernel checks bounds
    /// and alignment here only for the first table that a device ever gets, later only at resume.
    fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<(), DmError>;
    /// Empties the inactive slot. No error when it is empty already. Allocates nothing unless it fails.
    fn clear(&self, name: &str) -> Result<(), DmError>;
    /// Stops I/O, without freezing the filesystem, after what is in flight has ended. `EINTR` when a signal
    /// came first: then nothing has changed. Allocates nothing unless it fails.
    fn suspend(&self, name: &str) -> Result<(), DmError>;
    /// Swaps in the inactive table, if any, and lets I/O go on. On refusal the device is still suspended with
    /// its old table, and the inactive slot is empty. Allocates nothing unless it fails.
    fn resume(&self, name: &str) -> Result<(), DmError>;
    /// Brings up a device that was just created and loaded: as `resume`, but udev is told and waited for
    /// (within a limit), and /dev/mapper/NAME exists afterwards. `private` devices are hidden from udev's rules.
    fn activate(&self, name: &str, private: bool) -> Result<Activation, DmError>;
    /// Takes a device down, and its node; udev is waited for within the same limit. `EBUSY` when it is open.
    fn remove(&self, name: &str) -> Result<(), DmError>;
    /// Whether /dev/mapper/NAME is left of a device that is gone: a device-mapper node, or udev's link to one that is
    /// no more, while no device has that name. A command that was killed while it took the device down leaves one.
    fn has_stale_node(&self, name: &str) -> Result<bool, DmError>;
    /// Removes such a node; whether there was one. A device that gets the name in this moment keeps its node.
    fn remove_stale_node(&self, name: &str) -> Result<bool, DmError>;
    /// A table of a device, in the kernel's words; empty when the slot is empty.
    fn table(&self, name: &str, slot: TableSlot) -> Result<Vec<Target>, DmError>;
    /// Whether the table in `slot` is `table`. The same as comparing [`DeviceMapper::table`], with less memory perhaps.
    fn has_table(&self, name: &str, slot: TableSlot, table: &[Target]) -> Result<bool, DmError> {
        Ok(self.table(name, slot)? == table)
    }
    /// Sends a message to the target at `sector` (or to dm-stats); the reply if there is one.
    fn message(&self, name: &str, sector: Sectors, text: &str) -> Result<Option<String>, DmError>;
    /// Prepares what [`Window`] does to a device, with the table that its last resort loads. The device need not
    /// be suspended, and is not touched.
    fn window<'a>(&'a self, name: &str, emergency: Option<&[Target]>) -> Result<Box<dyn Window + 'a>, DmError>;
    /// Prepares a message whose reply takes at most `reply` bytes.
    fn prepare_message<'a>(
        &'a self,
        name: &str,
        text: &str,
        reply: usize,
    ) -> Result<Box<dyn PreparedMessage + 'a>, DmError>;
}
