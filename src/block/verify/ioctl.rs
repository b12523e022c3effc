//! The two calls that hand a command to a drive: `SG_IO` (scsi/sg.h) and `NVME_IOCTL_IO_CMD` (linux/nvme_ioctl.h).
//!
//! Invariant: no command here moves data, so the kernel writes to nothing but the structures and the sense buffer.

#![allow(unsafe_code)] // ioctls

use super::nvme::Command;
use super::scsi::Answer;
use nix::errno::Errno;
use nix::libc;
use std::os::fd::RawFd;

/// How long the kernel waits for one command: twice as long as for a read, because a drive tries hard on bad sectors.
pub(super) const TIMEOUT_MS: u32 = 60_000;

/// `struct sg_io_hdr`.
#[repr(C)]
#[derive(Debug)]
struct SgIo {
    interface_id: libc::c_int,
    direction: libc::c_int,
    command_len: u8,
    sense_room: u8,
    iovec_count: u16,
    data_len: u32,
    data: *mut libc::c_void,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: libc::c_int,
    user: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_len: u8,
    host_status: u16,
    driver_status: u16,
    residual: libc::c_int,
    duration_ms: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SgIo>() == 88);

/// `SG_DXFER_NONE`.
const NO_DATA: libc::c_int = -1;
const SENSE_ROOM: u8 = 96;

mod sys {
    use super::{Command, SgIo};
    nix::ioctl_readwrite_bad!(sg_io, 0x2285, SgIo);
    nix::ioctl_none!(nvme_id, b'N', 0x40);
    nix::ioctl_readwrite!(nvme_io, b'N', 0x43, Command);
}

/// Sends a SCSI command that moves no data.
pub(super) fn scsi(fd: RawFd, command: &[u8; 16]) -> Result<Answer, Errno> {
    let mut sense = [0u8; SENSE_ROOM as usize];
    let mut request = SgIo {
        interface_id: libc::c_int::from(b'S'),
        direction: NO_DATA,
        command_len: 16,
        sense_room: SENSE_ROOM,
        iovec_count: 0,
        data_len: 0,
        data: std::ptr::null_mut(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: TIMEOUT_MS,
        flags: 0,
        pack_id: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_len: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the request is a whole `struct sg_io_hdr`; its pointers lead to 16 bytes of command and to as many bytes
    // for sense data as it says, and both outlive the call. No data is moved.
    unsafe { sys::sg_io(fd, &mut request) }?;
    let sense = sense.get(..usize::from(request.sense_len.min(SENSE_ROOM))).unwrap_or_default().to_vec();
    Ok(Answer { status: request.status, host: request.host_status, driver: request.driver_status, sense })
}

/// Sends an NVMe command that moves no data; its status.
pub(super) fn nvme(fd: RawFd, command: Command) -> Result<u32, Errno> {
    let mut command = command;
    // SAFETY: the request is a whole `struct nvme_passthru_cmd`, and asks for no data.
    let status = unsafe { sys::nvme_io(fd, &mut command) }?;
    u32::try_from(status).map_err(|_| Errno::EIO)
}

/// The number of the NVMe namespace that the device is.
pub(super) fn namespace(fd: RawFd) -> Result<u32, Errno> {
    // SAFETY: the call takes no argument, and touches no memory of ours.
    let id = unsafe { sys::nvme_id(fd) }?;
    u32::try_from(id).ok().filter(|id| *id > 0).ok_or(Errno::ENODEV)
}
