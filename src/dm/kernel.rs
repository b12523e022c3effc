//! The kernel's device-mapper.
//!
//! Thin over the `devicemapper` crate's raw calls, except for what must not allocate (see [`super::window`]) and for
//! what tells udev (see `udev.rs`): there the crate would wait without a limit.

use super::window::{KernelMessage, KernelWindow, Prepared, WindowHandle, can_be_said};
use super::{
    Activation, DeviceMapper, DeviceState, DmError, PreparedMessage, TableSlot, Window, control, lines, node, udev,
};
use crate::segments::Target;
use crate::units::{DevNo, Sectors};
use devicemapper::{DM, DevId, DeviceInfo, DmFlags, DmName, DmOptions, DmUuid, errors};
use nix::errno::Errno;
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Where things are on this machine, and how long to wait for udev. The default is right outside of tests.
#[derive(Clone, Debug)]
pub struct Host {
    /// Directory of the devices' nodes.
    pub mapper: PathBuf,
    /// A file that exists when udev runs.
    pub udev_control: PathBuf,
    /// Longest wait for udev. Once it was in vain, later waits of the same [`Kernel`] are of a second at most.
    pub udev_limit: Duration,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            mapper: "/dev/mapper".into(),
            udev_control: "/run/udev/control".into(),
            udev_limit: Duration::from_secs(15),
        }
    }
}

/// Lines above which a table is not loaded through the crate, which needs several strings for each: 200,000 lines are
/// then 50 MB.
const LONG_TABLE: usize = 4096;
/// Longest wait for a udev that has not answered before.
const LIMIT_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often a removal is tried, and the pause between: udev opens devices to probe them, for an instant.
const REMOVE_TRIES: u32 = 5;
const REMOVE_PAUSE: Duration = Duration::from_millis(200);

/// The kernel's device-mapper, through an open control node.
pub struct Kernel {
    dm: DM,
    host: Host,
    udev_failed: AtomicBool,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Opens the control node, loading the module and making the node when they are missing.
    /// [`DmError::Unavailable`] says in plain words what stands in the way.
    pub fn open() -> Result<Kernel, DmError> {
        Kernel::open_on(Host::default())
    }

    /// As [`Kernel::open`], with other places and limits.
    pub fn open_on(host: Host) -> Result<Kernel, DmError> {
        control::prepare()?;
        let dm = DM::new().map_err(|e| DmError::Unavailable(e.to_string()))?;
        let kernel = Kernel { dm, host, udev_failed: AtomicBool::new(false) };
        match kernel.version() {
            Ok((4, ..)) => Ok(kernel),
            Ok((major, minor, _)) => Err(DmError::Unavailable(format!(
                "the kernel's interface has version {major}.{minor}, which this program does not know"
            ))),
            Err(e) => Err(DmError::Unavailable(control::refused_words(e.errno()))),
        }
    }

    /// What suspends, resumes and clears one device without allocating; it also works in a forked child.
    pub fn handle(&self, name: &str) -> Result<WindowHandle<'_>, DmError> {
        self.low(name).map_err(|errno| refused("open", name, errno))
    }

    /// As [`Kernel::handle`], without allocating for the error.
    fn low(&self, name: &str) -> Result<WindowHandle<'_>, Errno> {
        WindowHandle::new(self.dm.file().as_fd(), name)
    }

    /// What `read` makes of the lines of a table.
    fn read_table<T>(
        &self,
        name: &str,
        slot: TableSlot,
        read: impl FnOnce(&[u8], u32) -> Result<T, String>,
    ) -> Result<T, DmError> {
        dm_name("table", name)?;
        let answer = self.low(name).and_then(|handle| handle.table(slot, read));
        let table = answer.map_err(|errno| self.error("table", name, errno))?;
        table.map_err(|detail| DmError::BadReply { operation: "table", device: name.into(), detail })
    }

    /// The error for a refusal. The kernel says `ENXIO` also when a table names a device that does not exist.
    fn error(&self, operation: &'static str, name: &str, errno: Errno) -> DmError {
        let exists = || self.low(name).and_then(|handle| handle.flags()).is_ok();
        if errno == Errno::ENXIO && !exists() {
            return DmError::NoDevice(name.into());
        }
        refused(operation, name, errno)
    }

    /// The error for what the crate reports.
    fn wrap(&self, operation: &'static str, name: &str, error: devicemapper::DmError) -> DmError {
        match error {
            devicemapper::DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => self.error(operation, name, *errno),
            other => DmError::BadReply { operation, device: name.into(), detail: other.to_string() },
        }
    }

    /// A cookie, when udev runs and can be waited for.
    fn cookie(&self) -> Option<udev::Cookie> {
        if self.udev_runs() { udev::Cookie::new().ok() } else { None }
    }

    fn udev_runs(&self) -> bool {
        self.host.udev_control.exists()
    }

    /// Waits for udev; a warning when it does not answer.
    fn wait_for_udev(&self, name: &str, cookie: &udev::Cookie) -> Option<String> {
        let limit = if self.udev_failed.load(Ordering::Relaxed) {
            self.host.udev_limit.min(LIMIT_AFTER_FAILURE)
        } else {
            self.host.udev_limit
        };
        if cookie.wait(limit) {
            return None;
        }
        self.udev_failed.store(true, Ordering::Relaxed);
        Some(format!(
            "udev did not answer for '{name}' within {} s, went on without it; check that systemd-udevd runs",
            limit.as_secs_f32()
        ))
    }

    fn make_node(&self, name: &str, dev: u64) -> Result<(PathBuf, bool), Errno> {
        let devno = node::number(dev).ok_or(Errno::ENXIO)?;
        node::ensure(&self.host.mapper, name, devno)
    }

    /// Asks for a removal, again while udev may be the one that has the device open.
    fn remove_patiently(&self, handle: &WindowHandle<'_>, event: u32) -> Result<bool, Errno> {
        for _ in 1..REMOVE_TRIES {
            match handle.remove_telling(event) {
                Err(Errno::EBUSY) if self.udev_runs() => sleep(REMOVE_PAUSE),
                other => return other.map(|told| told.uevent),
            }
        }
        handle.remove_telling(event).map(|told| told.uevent)
    }
}

fn refused(operation: &'static str, name: &str, errno: Errno) -> DmError {
    DmError::Refused { operation, device: name.into(), errno }
}

/// The crate's form of a name; `EINVAL` for what it or the kernel would not take.
fn dm_name<'a>(operation: &'static str, name: &'a str) -> Result<&'a DmName, DmError> {
    // Newer kernels refuse the last three themselves; with older ones they would get in the way in /dev/mapper.
    if name.contains(['\0', '/']) || ["control", ".", ".."].contains(&name) {
        return Err(refused(operation, name, Errno::EINVAL));
    }
    DmName::new(name).map_err(|_| refused(operation, name, Errno::EINVAL))
}

fn device_state(name: &str, info: &DeviceInfo) -> DeviceState {
    let flags = info.flags();
    let device = info.device();
    DeviceState {
        name: name.into(),
        uuid: info.uuid().map(ToString::to_string).unwrap_or_default(),
        devno: DevNo { major: device.major, minor: device.minor },
        suspended: flags.contains(DmFlags::DM_SUSPEND),
        active: flags.contains(DmFlags::DM_ACTIVE_PRESENT),
        inactive: flags.contains(DmFlags::DM_INACTIVE_PRESENT),
        open_count: u32::try_from(info.open_count()).unwrap_or(0),
        read_only: flags.contains(DmFlags::DM_READONLY),
    }
}

impl DeviceMapper for Kernel {
    fn version(&self) -> Result<(u32, u32, u32), DmError> {
        self.dm.version().map_err(|e| self.wrap("version", "", e))
    }

    fn list(&self) -> Result<Vec<(String, DevNo)>, DmError> {
        let devices = self.dm.list_devices().map_err(|e| self.wrap("list", "", e))?;
        let number = |d: devicemapper::Device| DevNo { major: d.major, minor: d.minor };
        Ok(devices.into_iter().map(|(name, device, _)| (name.to_string(), number(device))).collect())
    }

    fn state(&self, name: &str) -> Result<Option<DeviceState>, DmError> {
        let id = DevId::Name(dm_name("info", name)?);
        match self.dm.device_info(&id).map_err(|e| self.wrap("info", name, e)) {
            Ok(info) => Ok(Some(device_state(name, &info))),
            Err(DmError::NoDevice(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn create(&self, name: &str, uuid: &str) -> Result<DeviceState, DmError> {
        let id = dm_name("create", name)?;
        let uuid = match uuid {
            "" => None,
            _ if uuid.contains('\0') => return Err(refused("create", name, Errno::EINVAL)),
            _ => Some(DmUuid::new(uuid).map_err(|_| refused("create", name, Errno::EINVAL))?),
        };
        let info = self.dm.device_create(id, uuid, DmOptions::default());
        Ok(device_state(name, &info.map_err(|e| self.wrap("create", name, e))?))
    }

    fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<(), DmError> {
        let id = DevId::Name(dm_name("load", name)?);
        if !table.iter().all(can_be_said) {
            return Err(refused("load", name, Errno::EINVAL));
        }
        if table.len() > LONG_TABLE {
            let load = |handle: WindowHandle<'_>| handle.load(&Prepared::new(table, read_only)?);
            return self.low(name).and_then(load).map_err(|errno| self.error("load", name, errno));
        }
        let line = |t: &Target| (t.start.0, t.len.0, t.kind.name().to_string(), t.kind.params());
        let lines: Vec<_> = table.iter().map(line).collect();
        let flags = if read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
        self.dm
            .table_load(&id, &lines, DmOptions::default().set_flags(flags))
            .map(drop)
            .map_err(|e| self.wrap("load", name, e))
    }

    fn clear(&self, name: &str) -> Result<(), DmError> {
        let done = self.low(name).and_then(|handle| handle.clear());
        done.map_err(|errno| self.error("clear", name, errno))
    }

    fn suspend(&self, name: &str) -> Result<(), DmError> {
        let done = self.low(name).and_then(|handle| handle.suspend());
        done.map_err(|errno| self.error("suspend", name, errno))
    }

    fn resume(&self, name: &str) -> Result<(), DmError> {
        let done = self.low(name).and_then(|handle| handle.resume());
        done.map_err(|errno| self.error("resume", name, errno))
    }

    fn activate(&self, name: &str, private: bool) -> Result<Activation, DmError> {
        let error = |errno| self.error("activate", name, errno);
        dm_name("activate", name)?;
        let handle = self.low(name).map_err(error)?;
        let cookie = self.cookie();
        let event = if self.udev_runs() { udev::event_number(private, cookie.as_ref()) } else { 0 };
        let told = handle.resume_telling(event).map_err(error)?;
        let mut warning = match &cookie {
            Some(cookie) if told.uevent => self.wait_for_udev(name, cookie),
            _ => None,
        };
        let (node, made) = self.make_node(name, told.dev).map_err(|e| refused("node", name, e))?;
        if made && warning.is_none() && self.udev_runs() {
            warning = Some(format!("udev made no {}, so it was made here", node.display()));
        }
        Ok(Activation { node, warning })
    }

    fn remove(&self, name: &str) -> Result<(), DmError> {
        let error = |errno| self.error("remove", name, errno);
        dm_name("remove", name)?;
        let handle = self.low(name).map_err(error)?;
        let cookie = self.cookie();
        let event = if self.udev_runs() { udev::event_number(false, cookie.as_ref()) } else { 0 };
        let uevent = self.remove_patiently(&handle, event).map_err(error)?;
        if let Some(cookie) = cookie.filter(|_| uevent) {
            // Nothing is wrong for the caller when udev is late: the device is gone, and its node in a moment.
            let _late = self.wait_for_udev(name, &cookie);
        }
        node::remove(&self.host.mapper, name).map_err(|errno| refused("node", name, errno))
    }

    fn has_stale_node(&self, name: &str) -> Result<bool, DmError> {
        if dm_name("node", name).is_err() || self.state(name)?.is_some() {
            return Ok(false);
        }
        Ok(control::block_major().is_some_and(|major| node::is_left(&self.host.mapper, name, major)))
    }

    fn remove_stale_node(&self, name: &str) -> Result<bool, DmError> {
        if !self.has_stale_node(name)? {
            return Ok(false);
        }
        let error = |errno| refused("node", name, errno);
        node::remove(&self.host.mapper, name).map_err(error)?;
        // Another command may have made a device of that name since it was looked at; then the node was that one's.
        if let Some(state) = self.state(name)? {
            node::ensure(&self.host.mapper, name, state.devno).map_err(error)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn table(&self, name: &str, slot: TableSlot) -> Result<Vec<Target>, DmError> {
        self.read_table(name, slot, lines::parse)
    }

    fn has_table(&self, name: &str, slot: TableSlot, table: &[Target]) -> Result<bool, DmError> {
        self.read_table(name, slot, |answer, count| lines::are(answer, count, table))
    }

    fn message(&self, name: &str, sector: Sectors, text: &str) -> Result<Option<String>, DmError> {
        let id = DevId::Name(dm_name("message", name)?);
        if text.contains('\0') {
            return Err(refused("message", name, Errno::EINVAL));
        }
        let reply = self.dm.target_msg(&id, Some(sector.0), text);
        reply.map(|(_, text)| text).map_err(|e| self.wrap("message", name, e))
    }

    fn window<'a>(&'a self, name: &str, emergency: Option<&[Target]>) -> Result<Box<dyn Window + 'a>, DmError> {
        dm_name("window", name)?;
        let handle = self.low(name).map_err(|errno| refused("window", name, errno))?;
        let emergency = emergency.map(|table| Prepared::new(table, false)).transpose();
        let emergency = emergency.map_err(|errno| refused("window", name, errno))?;
        Ok(Box::new(KernelWindow { handle, emergency }))
    }

    fn prepare_message<'a>(
        &'a self,
        name: &str,
        text: &str,
        reply: usize,
    ) -> Result<Box<dyn PreparedMessage + 'a>, DmError> {
        dm_name("message", name)?;
        let made = self.low(name).and_then(|handle| KernelMessage::new(handle, text, reply));
        let message = made.map_err(|errno| refused("message", name, errno))?;
        Ok(Box::new(message))
    }
}
