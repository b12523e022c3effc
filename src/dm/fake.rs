//! A device-mapper in memory, so that everything above the trait can be tested without a kernel.
//!
//! It behaves as Linux 6.1 and 6.12 were measured to (the same battery runs against all three, see
//! `tests/guest_dm.rs`):
//! - a device without a table is not suspended; a resume of a suspended device without a table is `EINVAL`;
//! - LOAD refuses gaps, empty tables and unknown target types (`EINVAL`) and unknown devices (`ENXIO`), but bounds
//!   and alignment only for the first table that a device ever gets. Later ones fail at RESUME with `EINVAL`: then
//!   the device is suspended with its old table, the new one is gone, and a plain resume rescues it;
//! - a lower device may shrink under a table: the upper one's I/O beyond its end then fails;
//! - a table in either slot holds its devices open, once for each dm device; what is open cannot be removed;
//! - a flush goes to every device in the table; an `error` or `switch` piece takes no part in it;
//! - messages go to the active table; without one they are `EINVAL` (6.1 does nothing and says nothing).
//!
//! `dust`, measured on 6.1:
//! - blocks are numbered **on the underlying device** (`(offset + sector in target) / block`), not in the target;
//! - I/O is split at multiples of the block **in the target**, and each part is judged by its first sector alone.
//!   So `offset` must be a multiple of the block, else a part that straddles two blocks misses the second one;
//! - a write of any part of a bad block heals the whole block, but only while `enable`d; the list and the
//!   switch belong to the loaded table: a reload starts with an empty list and disabled;
//! - messages work while the device is suspended; block numbers up to and including size/block are accepted.
//!
//! dm-stats (`@stats_…`) survive reloads and work while suspended; counts are made when a request ends, in every
//! area that it touches.
//!
//! What it does not do: hold I/O on a suspended device. Such a request fails with `EAGAIN`, which no kernel gives,
//! so that a test sees it.

mod device;
mod disk;
mod dust;
mod state;
mod stats;

pub use disk::FakeDisk;

use super::{Activation, DeviceMapper, DeviceState, DmError, PreparedMessage, TableSlot, Window};
use crate::block::Disk;
use crate::segments::Target;
use crate::units::{DevNo, Sectors};
use nix::errno::Errno;
use state::State;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An operation, to hang a hook or a refusal on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `version`.
    Version,
    /// `list`.
    List,
    /// `state`, and the queries of a window.
    State,
    /// `create`.
    Create,
    /// `load`.
    Load,
    /// `clear`, also of a window.
    Clear,
    /// `suspend`, also of a window.
    Suspend,
    /// `resume`, also of a window. A refused resume leaves the device suspended and drops the inactive table.
    Resume,
    /// `activate`. Refused as `Resume` is.
    Activate,
    /// `remove`.
    Remove,
    /// `table`.
    Table,
    /// `message`.
    Message,
    /// The making of a window.
    Window,
    /// `load_prepared` of a window.
    EmergencyLoad,
}

impl Op {
    /// The operation's name in errors and in the journal.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Version => "version",
            Op::List => "list",
            Op::State => "info",
            Op::Create => "create",
            Op::Load => "load",
            Op::Clear => "clear",
            Op::Suspend => "suspend",
            Op::Resume => "resume",
            Op::Activate => "activate",
            Op::Remove => "remove",
            Op::Table => "table",
            Op::Message => "message",
            Op::Window => "window",
            Op::EmergencyLoad => "emergency load",
        }
    }
}

/// What runs before an operation. `Send`, so that a test may use the fake from several threads.
pub type Hook = Box<dyn FnMut(&FakeDm) + Send>;

/// The fake. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct FakeDm {
    state: Arc<Mutex<State>>,
    /// Apart from the state: a hook may use the fake.
    hooks: Arc<Mutex<HashMap<Op, Vec<Hook>>>>,
}

impl fmt::Debug for FakeDm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeDm").field("state", &self.state).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeDm {
    /// A kernel with all target types that we know and no devices.
    pub fn new() -> FakeDm {
        FakeDm::default()
    }

    /// Makes `disk` known by its number, for tables to name. Replaces the disk that had the number.
    pub fn register(&self, number: DevNo, disk: Arc<dyn Disk>) {
        lock(&self.state).register(number, disk);
    }

    /// The dm device `name` as a disk: I/O through its active table, whatever that is at the time. Using it does
    /// not count as having it open (see [`FakeDm::hold`]).
    pub fn disk(&self, name: &str) -> FakeDisk {
        FakeDisk::new(self.state.clone(), name)
    }

    /// Makes `name` be open by `count` others (a mount, say), besides the tables that name it.
    pub fn hold(&self, name: &str, count: u32) {
        lock(&self.state).hold(name, count);
    }

    /// Limits the target types that the kernel has. LOAD of another is `EINVAL`.
    pub fn set_supported(&self, types: &[&str]) {
        lock(&self.state).supported = Some(types.iter().map(|t| (*t).to_string()).collect());
    }

    /// Makes the next `times` operations of this kind fail with `errno`.
    pub fn refuse_next(&self, op: Op, errno: Errno, times: u32) {
        lock(&self.state).refusals.push((op, errno, times));
    }

    /// Runs `hook` before every operation of this kind, also before one that then fails. While hooks of a kind run,
    /// operations of the same kind that they start run none.
    pub fn on(&self, op: Op, hook: Hook) {
        lock(&self.hooks).entry(op).or_default().push(hook);
    }

    /// Drops all hooks.
    pub fn clear_hooks(&self) {
        lock(&self.hooks).clear();
    }

    /// The operations that change something, in order, as `suspend NAME` or `load NAME 3 targets`; those that
    /// failed end in `: ERRNO`.
    pub fn journal(&self) -> Vec<String> {
        lock(&self.state).journal.clone()
    }

    /// What was done that must not be: a LOAD while some device was suspended. An emergency load, which is
    /// allowed to, is in the journal instead.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.state).violations.clone()
    }

    /// Runs the hooks of `op`, with no lock held.
    fn run_hooks(&self, op: Op) {
        let mut running = lock(&self.hooks).get_mut(&op).map(std::mem::take).unwrap_or_default();
        for hook in &mut running {
            hook(self);
        }
        if !running.is_empty() {
            // Hooks that were added meanwhile come after the old ones.
            let mut hooks = lock(&self.hooks);
            let list = hooks.entry(op).or_default();
            running.append(list);
            *list = running;
        }
    }

    /// Hooks, injected refusal, the operation itself, journal.
    fn run<T>(
        &self,
        op: Op,
        name: &str,
        detail: &str,
        work: impl FnOnce(&mut State) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.run_hooks(op);
        let mut state = lock(&self.state);
        let result = match state.refusal(op) {
            Some(errno) => {
                state.refused(op, name);
                Err(errno)
            }
            None => work(&mut state),
        };
        state.note(op, name, detail, result.as_ref().err().copied());
        result
    }

    /// As [`FakeDm::run`], with the error that the trait gives.
    fn call<T>(
        &self,
        op: Op,
        name: &str,
        detail: &str,
        work: impl FnOnce(&mut State) -> Result<T, Errno>,
    ) -> Result<T, DmError> {
        self.run(op, name, detail, work).map_err(|errno| match errno {
            Errno::ENXIO if !lock(&self.state).exists(name) => DmError::NoDevice(name.into()),
            _ => DmError::Refused { operation: op.name(), device: name.into(), errno },
        })
    }
}

impl DeviceMapper for FakeDm {
    fn version(&self) -> Result<(u32, u32, u32), DmError> {
        self.call(Op::Version, "", "", |_| Ok((4, 47, 0)))
    }

    fn list(&self) -> Result<Vec<(String, DevNo)>, DmError> {
        self.call(Op::List, "", "", |state| Ok(state.list()))
    }

    fn state(&self, name: &str) -> Result<Option<DeviceState>, DmError> {
        self.call(Op::State, name, "", |state| Ok(state.info(name)))
    }

    fn create(&self, name: &str, uuid: &str) -> Result<DeviceState, DmError> {
        self.call(Op::Create, name, uuid, |state| state.create(name, uuid))
    }

    fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<(), DmError> {
        let detail = format!("{} targets", table.len());
        self.call(Op::Load, name, &detail, |state| {
            state.check_load(name);
            state.load(name, table, read_only)
        })
    }

    fn clear(&self, name: &str) -> Result<(), DmError> {
        self.call(Op::Clear, name, "", |state| state.clear(name))
    }

    fn suspend(&self, name: &str) -> Result<(), DmError> {
        self.call(Op::Suspend, name, "", |state| state.suspend(name))
    }

    fn resume(&self, name: &str) -> Result<(), DmError> {
        self.call(Op::Resume, name, "", |state| state.resume(name))
    }

    fn activate(&self, name: &str, private: bool) -> Result<Activation, DmError> {
        let detail = if private { "private" } else { "" };
        self.call(Op::Activate, name, detail, |state| state.resume(name))?;
        let node = PathBuf::from(format!("/dev/mapper/{name}"));
        Ok(Activation { node, warning: None })
    }

    fn remove(&self, name: &str) -> Result<(), DmError> {
        self.call(Op::Remove, name, "", |state| state.remove(name))
    }

    fn has_stale_node(&self, _name: &str) -> Result<bool, DmError> {
        Ok(false) // it has no nodes
    }

    fn remove_stale_node(&self, name: &str) -> Result<bool, DmError> {
        self.has_stale_node(name)
    }

    fn table(&self, name: &str, slot: TableSlot) -> Result<Vec<Target>, DmError> {
        self.call(Op::Table, name, "", |state| state.table(name, slot))
    }

    fn message(&self, name: &str, sector: Sectors, text: &str) -> Result<Option<String>, DmError> {
        let detail = format!("{sector} {text}");
        self.call(Op::Message, name, &detail, |state| state.message(name, sector, text))
    }

    fn window<'a>(&'a self, name: &str, emergency: Option<&[Target]>) -> Result<Box<dyn Window + 'a>, DmError> {
        self.call(Op::Window, name, "", |_| Ok(()))?;
        let emergency = emergency.map(<[Target]>::to_vec);
        Ok(Box::new(FakeWindow { dm: self, name: name.into(), emergency }))
    }

    fn prepare_message<'a>(
        &'a self,
        name: &str,
        text: &str,
        reply: usize,
    ) -> Result<Box<dyn PreparedMessage + 'a>, DmError> {
        let (name, text) = (name.into(), text.into());
        Ok(Box::new(FakeMessage { dm: self, name, text, reply }))
    }
}

/// A [`PreparedMessage`] to the fake.
#[derive(Debug)]
struct FakeMessage<'a> {
    dm: &'a FakeDm,
    name: String,
    text: String,
    reply: usize,
}

impl PreparedMessage for FakeMessage<'_> {
    fn room(&self) -> usize {
        self.reply
    }

    fn send(&self, buffer: &mut [u8], on_reply: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        if buffer.len() < self.room() {
            return Err(Errno::EINVAL);
        }
        let reply = self.dm.message(&self.name, Sectors::ZERO, &self.text);
        let reply = reply.map_err(|e| e.errno().unwrap_or(Errno::EIO))?.unwrap_or_default();
        if reply.len() > self.reply {
            return Err(Errno::ENOSPC);
        }
        on_reply(reply.as_bytes());
        Ok(())
    }
}

/// A [`Window`] onto the fake.
#[derive(Debug)]
struct FakeWindow<'a> {
    dm: &'a FakeDm,
    name: String,
    emergency: Option<Vec<Target>>,
}

impl FakeWindow<'_> {
    fn info(&self) -> Result<DeviceState, Errno> {
        self.dm.run(Op::State, &self.name, "", |state| state.info(&self.name).ok_or(Errno::ENXIO))
    }
}

impl Window for FakeWindow<'_> {
    fn suspend(&self) -> Result<(), Errno> {
        self.dm.run(Op::Suspend, &self.name, "", |state| state.suspend(&self.name))
    }

    fn resume(&self) -> Result<(), Errno> {
        self.dm.run(Op::Resume, &self.name, "", |state| state.resume(&self.name))
    }

    fn clear(&self) -> Result<(), Errno> {
        self.dm.run(Op::Clear, &self.name, "", |state| state.clear(&self.name))
    }

    fn suspended(&self) -> Result<bool, Errno> {
        Ok(self.info()?.suspended)
    }

    fn has_inactive(&self) -> Result<bool, Errno> {
        Ok(self.info()?.inactive)
    }

    fn load_prepared(&self) -> Result<(), Errno> {
        let table = self.emergency.as_deref().ok_or(Errno::ENODATA)?;
        let detail = format!("{} targets", table.len());
        self.dm.run(Op::EmergencyLoad, &self.name, &detail, |state| state.load(&self.name, table, false))
    }
}

#[cfg(test)]
mod tests;
