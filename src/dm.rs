//! The device-mapper calls that we use, as a trait, so that the engine runs the same on a kernel and on a fake.
//!
//! Invariants:
//! - `suspend`, `resume` and `clear` of the real implementation allocate nothing, log nothing and touch no
//!   file: they are called while the device under the root filesystem may be suspended;
//! - `resume` swaps in the inactive table when there is one; when the kernel refuses it, the device is still
//!   suspended with its old table (see the caller's rescue).

use crate::segments::Target;
use crate::units::{DevNo, Sectors};
use nix::errno::Errno;

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
    /// Loads a table into the inactive slot. Never call it while the device is suspended.
    fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<(), DmError>;
    /// Empties the inactive slot. No error when it is empty already. Allocates nothing.
    fn clear(&self, name: &str) -> Result<(), DmError>;
    /// Stops I/O, without freezing the filesystem, after what is in flight has ended. `EINTR` when a signal
    /// came first: then nothing has changed. Allocates nothing.
    fn suspend(&self, name: &str) -> Result<(), DmError>;
    /// Swaps in the inactive table, if any, and lets I/O go on. On refusal the device is still suspended with
    /// its old table. Allocates nothing.
    fn resume(&self, name: &str) -> Result<(), DmError>;
    /// Brings up a device that was just created and loaded: as `resume`, but udev is told and waited for
    /// (within a limit), and /dev/mapper/NAME exists afterwards. `private` devices are hidden from udev's rules.
    fn activate(&self, name: &str, private: bool) -> Result<(), DmError>;
    /// Takes a device down, and its node. `EBUSY` when it is open.
    fn remove(&self, name: &str) -> Result<(), DmError>;
    /// A table of a device, in the kernel's words; empty when the slot is empty.
    fn table(&self, name: &str, slot: TableSlot) -> Result<Vec<Target>, DmError>;
    /// Sends a message to the target at `sector` (or to dm-stats); the reply if there is one.
    fn message(&self, name: &str, sector: Sectors, text: &str) -> Result<Option<String>, DmError>;
}
