//! The calls that are made while a device is suspended, straight on the control node's descriptor.
//!
//! Invariants:
//! - nothing here allocates, logs, takes a lock that another thread may hold, or touches a file: the root
//!   filesystem may lie on the suspended device. (Making a [`WindowHandle`] or a [`Prepared`] is before that.)
//! - it all works in a forked child too: the state is a descriptor and a name;
//! - `event_nr` is 0 unless the caller gives a cookie, so nobody waits for udev.
//!
//! Source of the structures and numbers: include/uapi/linux/dm-ioctl.h. The kernel copies the bare header of such a
//! call to its stack and allocates nothing for it either (`IOCTL_FLAGS_NO_PARAMS`, drivers/md/dm-ioctl.c).

#![allow(unsafe_code)] // ioctls

use super::{PreparedMessage, TableSlot, Window};
use crate::segments::Target;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;

/// Bytes in a name, the terminating zero included (`DM_NAME_LEN`).
const NAME_LEN: usize = 128;
/// Bytes in a UUID, the terminating zero included (`DM_UUID_LEN`).
const UUID_LEN: usize = 129;
/// Bytes in a target type, the terminating zero included (`DM_MAX_TYPE_NAME`).
pub(super) const TYPE_LEN: usize = 16;

/// `DM_SUSPEND_FLAG`: in a request, suspend rather than resume; in a reply, it is suspended.
const SUSPEND: u32 = 1 << 1;
/// `DM_INACTIVE_PRESENT_FLAG`: there is a table in the inactive slot.
const INACTIVE_PRESENT: u32 = 1 << 6;
/// `DM_READONLY_FLAG`: the table is to refuse writes.
const READ_ONLY: u32 = 1 << 0;
/// `DM_STATUS_TABLE_FLAG`: the table, not how its targets are doing.
const STATUS_TABLE: u32 = 1 << 4;
/// `DM_QUERY_INACTIVE_TABLE_FLAG`: of the inactive slot.
const QUERY_INACTIVE: u32 = 1 << 12;
/// `DM_SKIP_LOCKFS_FLAG`: do not freeze the filesystem. Resume needs it too: it suspends first when there is a new
/// table and the device is not suspended.
const SKIP_LOCKFS: u32 = 1 << 10;
/// `DM_BUFFER_FULL_FLAG`: the reply did not fit.
const BUFFER_FULL: u32 = 1 << 8;
/// `DM_DATA_OUT_FLAG`: the message has a reply.
const DATA_OUT: u32 = 1 << 16;
/// `DM_UEVENT_GENERATED_FLAG`: udev was told, so a cookie will be answered.
const UEVENT_GENERATED: u32 = 1 << 13;

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_LEN],
    uuid: [u8; UUID_LEN],
    data: [u8; 7],
}

/// Bytes in the header.
const HEADER_LEN: usize = 312;
/// The same for the header's own fields.
const HEADER_LEN_U32: u32 = 312;
const _: () = assert!(size_of::<DmIoctl>() == HEADER_LEN);

/// Bytes in a `struct dm_target_spec`.
const SPEC_LEN: usize = 40;

/// Bytes that a table query asks for first: what most tables need.
const FIRST_ROOM: u32 = 16_384;
/// Bytes that a line of a table may take: a linear one with large numbers.
const LIKELY_LINE: u32 = 80;

/// The ioctl numbers, which need no more than the macro gives them.
mod sys {
    use super::DmIoctl;
    nix::ioctl_readwrite!(dev_remove, 0xfd, 4, DmIoctl);
    nix::ioctl_readwrite!(dev_suspend, 0xfd, 6, DmIoctl);
    nix::ioctl_readwrite!(dev_status, 0xfd, 7, DmIoctl);
    nix::ioctl_readwrite!(table_load, 0xfd, 9, DmIoctl);
    nix::ioctl_readwrite!(table_clear, 0xfd, 10, DmIoctl);
    nix::ioctl_readwrite!(table_status, 0xfd, 12, DmIoctl);
    nix::ioctl_readwrite!(target_message, 0xfd, 14, DmIoctl);
}

impl DmIoctl {
    /// A request about `name` without data after the header.
    fn new(name: [u8; NAME_LEN], flags: u32, event_nr: u32) -> DmIoctl {
        DmIoctl {
            // The interface has been compatible since 4.0.0; the kernel answers with its own version.
            version: [4, 0, 0],
            data_size: HEADER_LEN_U32,
            data_start: HEADER_LEN_U32,
            target_count: 0,
            open_count: 0,
            flags,
            event_nr,
            padding: 0,
            dev: 0,
            name,
            uuid: [0; UUID_LEN],
            data: [0; 7],
        }
    }
}

/// What the kernel answered to a call that may have told udev.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Whether udev was told, so that the cookie will be answered.
    pub(super) uevent: bool,
    /// The device's number, as the kernel encodes it.
    pub(super) dev: u64,
}

/// One device, ready to be suspended and resumed without allocating: a descriptor of the control node and a name.
#[derive(Clone, Copy, Debug)]
pub struct WindowHandle<'fd> {
    fd: BorrowedFd<'fd>,
    name: [u8; NAME_LEN],
}

impl<'fd> WindowHandle<'fd> {
    /// A handle for the device `name` on a descriptor of `/dev/mapper/control`. Asks nothing of the kernel.
    /// `EINVAL` for a name that cannot be one: empty, longer than 127 bytes, or with a zero byte.
    pub fn new(fd: BorrowedFd<'fd>, name: &str) -> Result<WindowHandle<'fd>, Errno> {
        let mut padded = [0; NAME_LEN];
        if name.is_empty() || name.len() >= NAME_LEN || name.contains('\0') {
            return Err(Errno::EINVAL);
        }
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        Ok(WindowHandle { fd, name: padded })
    }

    /// Stops I/O without freezing the filesystem, after what is in flight has ended. `EINTR` when a signal came
    /// first (nothing has changed), `ENXIO` when there is no such device. No error when it is suspended already.
    pub fn suspend(&self) -> Result<(), Errno> {
        let mut request = DmIoctl::new(self.name, SUSPEND | SKIP_LOCKFS, 0);
        // SAFETY: the descriptor is open as long as `self`, and the request is a whole `struct dm_ioctl` of which
        // the kernel writes no more than `data_size` bytes.
        unsafe { sys::dev_suspend(self.fd.as_raw_fd(), &mut request) }.map(drop)
    }

    /// Swaps in the inactive table, if any, and lets I/O go on. On refusal (`EINVAL` mostly) the device is
    /// suspended with its old table, and the inactive slot is empty.
    pub fn resume(&self) -> Result<(), Errno> {
        self.resume_telling(0).map(drop)
    }

    /// As [`WindowHandle::resume`], with a cookie for udev.
    pub(super) fn resume_telling(&self, event_nr: u32) -> Result<Told, Errno> {
        let mut request = DmIoctl::new(self.name, SKIP_LOCKFS, event_nr);
        // SAFETY: as in `suspend`.
        unsafe { sys::dev_suspend(self.fd.as_raw_fd(), &mut request) }?;
        Ok(Told { uevent: request.flags & UEVENT_GENERATED != 0, dev: request.dev })
    }

    /// Takes the device down, with a cookie for udev. `EBUSY` when it is open.
    pub(super) fn remove_telling(&self, event_nr: u32) -> Result<Told, Errno> {
        let mut request = DmIoctl::new(self.name, 0, event_nr);
        // SAFETY: as in `suspend`.
        unsafe { sys::dev_remove(self.fd.as_raw_fd(), &mut request) }?;
        Ok(Told { uevent: request.flags & UEVENT_GENERATED != 0, dev: request.dev })
    }

    /// Empties the inactive slot. No error when it is empty already.
    pub fn clear(&self) -> Result<(), Errno> {
        let mut request = DmIoctl::new(self.name, 0, 0);
        // SAFETY: as in `suspend`.
        unsafe { sys::table_clear(self.fd.as_raw_fd(), &mut request) }.map(drop)
    }

    /// The device's flags (`DM_…_FLAG` in linux/dm-ioctl.h); `ENXIO` when there is no such device.
    pub fn flags(&self) -> Result<u32, Errno> {
        let mut request = DmIoctl::new(self.name, 0, 0);
        // SAFETY: as in `suspend`.
        unsafe { sys::dev_status(self.fd.as_raw_fd(), &mut request) }?;
        Ok(request.flags)
    }

    /// Whether I/O to the device waits.
    pub fn suspended(&self) -> Result<bool, Errno> {
        Ok(self.flags()? & SUSPEND != 0)
    }

    /// Whether a table lies in the inactive slot.
    pub fn has_inactive(&self) -> Result<bool, Errno> {
        Ok(self.flags()? & INACTIVE_PRESENT != 0)
    }

    /// The table in `slot`, read by `read` from the kernel's answer and the number of lines in it. Allocates.
    pub(super) fn table<T>(&self, slot: TableSlot, read: impl FnOnce(&[u8], u32) -> T) -> Result<T, Errno> {
        let flags = match slot {
            TableSlot::Active => STATUS_TABLE,
            TableSlot::Inactive => STATUS_TABLE | QUERY_INACTIVE,
        };
        let mut room = FIRST_ROOM;
        loop {
            let mut request = DmIoctl::new(self.name, flags, 0);
            request.data_size = room;
            let mut buffer = vec![0u8; usize::try_from(room).map_err(|_| Errno::E2BIG)?];
            let start = buffer.as_mut_ptr().cast::<DmIoctl>();
            // SAFETY: the buffer is longer than a header, a DmIoctl is plain bytes, and the kernel reads and writes no
            // more than `data_size` bytes, all of them initialised.
            let answer = unsafe {
                start.write_unaligned(request);
                sys::table_status(self.fd.as_raw_fd(), start)?;
                start.read_unaligned()
            };
            if answer.flags & BUFFER_FULL == 0 {
                let from = usize::try_from(answer.data_start).unwrap_or(usize::MAX);
                return Ok(read(buffer.get(from..).unwrap_or_default(), answer.target_count));
            }
            // A table of linear pieces fits at once now, others after some more tries.
            let likely = answer.target_count.saturating_mul(LIKELY_LINE).saturating_add(FIRST_ROOM);
            room = room.checked_mul(2).ok_or(Errno::E2BIG)?.max(likely);
        }
    }

    /// Loads a table that was prepared. `EBUSY` when another thread is just doing that with the same one.
    pub fn load(&self, table: &Prepared) -> Result<(), Errno> {
        // Not `lock`: in a forked child the holder may not exist any more.
        let mut buffer = table.buffer.try_lock().map_err(|_| Errno::EBUSY)?;
        if buffer.len() < HEADER_LEN {
            return Err(Errno::EINVAL);
        }
        let mut request = DmIoctl::new(self.name, if table.read_only { READ_ONLY } else { 0 }, 0);
        request.data_size = u32::try_from(buffer.len()).map_err(|_| Errno::E2BIG)?;
        request.target_count = table.targets;
        let start = buffer.as_mut_ptr().cast::<DmIoctl>();
        // SAFETY: the buffer is at least a header long (checked), exclusively ours (the lock), and a DmIoctl is
        // plain bytes; the kernel reads `data_size` bytes, all of them initialised, and writes fewer.
        unsafe {
            start.write_unaligned(request);
            sys::table_load(self.fd.as_raw_fd(), start)
        }
        .map(drop)
    }
}

/// A table in the kernel's own form, ready to be loaded without another allocation in user space.
#[derive(Debug)]
pub struct Prepared {
    /// Room for the header, which the kernel overwrites, and the targets.
    buffer: Mutex<Vec<u8>>,
    targets: u32,
    read_only: bool,
}

impl Prepared {
    /// Encodes `table`, which refuses writes if `read_only`. `EINVAL` for what cannot be said to the kernel: a target type longer than 15 bytes, a zero
    /// byte, more than 4 GiB of text.
    pub fn new(table: &[Target], read_only: bool) -> Result<Prepared, Errno> {
        // Room for all of it at once, as a rule: growing needs three times the memory for a moment.
        let room = table.len().saturating_mul(usize::try_from(LIKELY_LINE).unwrap_or(0)).saturating_add(HEADER_LEN);
        let mut buffer = Vec::with_capacity(room);
        buffer.resize(HEADER_LEN, 0);
        for target in table {
            encode(target, &mut buffer)?;
        }
        u32::try_from(buffer.len()).map_err(|_| Errno::EINVAL)?;
        let targets = u32::try_from(table.len()).map_err(|_| Errno::EINVAL)?;
        Ok(Prepared { buffer: Mutex::new(buffer), targets, read_only })
    }
}

/// Whether the kernel's structures can hold this target.
pub(super) fn can_be_said(target: &Target) -> bool {
    let kind = target.kind.name();
    kind.len() < TYPE_LEN && !kind.contains('\0') && !target.kind.params().contains('\0')
}

/// Appends a `struct dm_target_spec` with its parameters, padded to 8 bytes.
#[allow(clippy::host_endian_bytes)] // an ioctl speaks the host's byte order
fn encode(target: &Target, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    if !can_be_said(target) {
        return Err(Errno::EINVAL);
    }
    let params = target.kind.params();
    let text_len = (params.len() + 1).next_multiple_of(8);
    let next = u32::try_from(SPEC_LEN + text_len).map_err(|_| Errno::EINVAL)?;
    let mut put = |bytes: &[u8], width: usize| {
        buffer.extend(bytes.iter().copied().chain(std::iter::repeat(0)).take(width));
    };
    put(&target.start.0.to_ne_bytes(), 8);
    put(&target.len.0.to_ne_bytes(), 8);
    put(&[], 4); // status
    put(&next.to_ne_bytes(), 4);
    put(target.kind.name().as_bytes(), TYPE_LEN);
    put(params.as_bytes(), text_len);
    Ok(())
}

/// A [`Window`] onto the kernel.
#[derive(Debug)]
pub(super) struct KernelWindow<'fd> {
    pub(super) handle: WindowHandle<'fd>,
    pub(super) emergency: Option<Prepared>,
}

impl Window for KernelWindow<'_> {
    fn suspend(&self) -> Result<(), Errno> {
        self.handle.suspend()
    }

    fn resume(&self) -> Result<(), Errno> {
        self.handle.resume()
    }

    fn clear(&self) -> Result<(), Errno> {
        self.handle.clear()
    }

    fn suspended(&self) -> Result<bool, Errno> {
        self.handle.suspended()
    }

    fn has_inactive(&self) -> Result<bool, Errno> {
        self.handle.has_inactive()
    }

    fn load_prepared(&self) -> Result<(), Errno> {
        self.handle.load(self.emergency.as_ref().ok_or(Errno::ENODATA)?)
    }
}

/// A [`PreparedMessage`] to the kernel.
#[derive(Debug)]
pub(super) struct KernelMessage<'fd> {
    handle: WindowHandle<'fd>,
    /// Sector (0) and text of the message, with the terminating zero: what follows the header.
    payload: Vec<u8>,
    /// Bytes of header and payload, and after the call of header and reply.
    room: usize,
}

impl<'fd> KernelMessage<'fd> {
    /// Prepares `text` with room for `reply` bytes. `EINVAL` for a zero byte or more than 4 GiB.
    pub(super) fn new(handle: WindowHandle<'fd>, text: &str, reply: usize) -> Result<Self, Errno> {
        let mut payload = vec![0; 8];
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
        let room = payload.len().max(reply).checked_add(HEADER_LEN + 1).ok_or(Errno::EINVAL)?;
        if text.contains('\0') || u32::try_from(room).is_err() {
            return Err(Errno::EINVAL);
        }
        Ok(KernelMessage { handle, payload, room })
    }
}

impl PreparedMessage for KernelMessage<'_> {
    fn room(&self) -> usize {
        self.room
    }

    fn send(&self, buffer: &mut [u8], on_reply: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut request = DmIoctl::new(self.handle.name, 0, 0);
        request.data_size = u32::try_from(self.room).map_err(|_| Errno::E2BIG)?;
        // The kernel takes as much memory as it is told of: no more than this message needs.
        let buffer = buffer.get_mut(..self.room).ok_or(Errno::EINVAL)?;
        let body = buffer.get_mut(HEADER_LEN..).unwrap_or_default();
        body.iter_mut().zip(&self.payload).for_each(|(to, from)| *to = *from);
        let start = buffer.as_mut_ptr().cast::<DmIoctl>();
        // SAFETY: the buffer has `room` bytes, which `new` made more than a header has; it is exclusively ours, and a
        // DmIoctl is plain bytes. The kernel reads and writes no more than `data_size` bytes, all of them initialised.
        let answer = unsafe {
            start.write_unaligned(request);
            sys::target_message(self.handle.fd.as_raw_fd(), start)?;
            start.read_unaligned()
        };
        if answer.flags & BUFFER_FULL != 0 {
            return Err(Errno::ENOSPC);
        }
        let end = usize::try_from(answer.data_size).unwrap_or(0).min(buffer.len());
        let from = usize::try_from(answer.data_start).unwrap_or(end);
        let reply = buffer.get(from..end).unwrap_or_default();
        let text = reply.split(|byte| *byte == 0).next().unwrap_or_default();
        on_reply(if answer.flags & DATA_OUT != 0 { text } else { &[] });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::TargetKind;
    use crate::units::{DevNo, Sectors};
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn names_that_cannot_be_are_refused() {
        let null = File::open("/dev/null").unwrap();
        for bad in ["", "a\0b", &"x".repeat(128)] {
            assert_eq!(WindowHandle::new(null.as_fd(), bad).err(), Some(Errno::EINVAL));
        }
        let handle = WindowHandle::new(null.as_fd(), &"x".repeat(127)).unwrap();
        assert_eq!(handle.name[126..], [b'x', 0]);
        assert_eq!(handle.suspend(), Err(Errno::ENOTTY));
    }

    #[test]
    fn tables_are_encoded_as_the_header_file_says() {
        let device = DevNo { major: 8, minor: 1 };
        let kind = TargetKind::Linear { device, offset: Sectors(100) };
        let linear = Target { start: Sectors(0), len: Sectors(5), kind };
        let error = Target { start: Sectors(5), len: Sectors(1), kind: TargetKind::Error };
        let table = Prepared::new(&[linear, error], false).unwrap();
        let buffer = table.buffer.lock().unwrap();
        assert_eq!(table.targets, 2);
        assert_eq!(buffer.len(), HEADER_LEN + 48 + 48);
        assert_eq!(&buffer[HEADER_LEN + 24..HEADER_LEN + 48], b"linear\0\0\0\0\0\0\0\0\0\08:1 100\0");
        assert_eq!(buffer[HEADER_LEN + 48], 5);
        let long = TargetKind::other("x".repeat(16), "");
        let long = Target { start: Sectors(0), len: Sectors(1), kind: long };
        assert_eq!(Prepared::new(&[long], false).err(), Some(Errno::EINVAL));
    }
}
