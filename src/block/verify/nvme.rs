//! NVMe Verify, and what its answers mean.
//!
//! Sources: NVM Command Set Specification 1.0, "Verify command"; NVM Express Base Specification 2.0, "Status field
//! definition"; the kernel's own judgement in drivers/nvme/host/core.c (`nvme_error_status`), which the errnos follow.

use super::Blocks;
use nix::errno::Errno;

/// The most blocks in one command. Controllers limit it (VSL), and most take as much as in a read.
pub(super) const MOST_BLOCKS: u64 = 256;

/// `struct nvme_passthru_cmd` of linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Command {
    pub(super) opcode: u8,
    flags: u8,
    reserved: u16,
    pub(super) namespace: u32,
    dword2: u32,
    dword3: u32,
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    pub(super) dword10: u32,
    pub(super) dword11: u32,
    pub(super) dword12: u32,
    dword13: u32,
    dword14: u32,
    dword15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<Command>() == 72);

/// The command: no data, no metadata, protection information is not checked.
pub(super) fn verify(namespace: u32, blocks: Blocks) -> Command {
    let [a, b, c, d, e, f, g, h] = blocks.first.to_be_bytes();
    Command {
        opcode: 0x0c,
        namespace,
        dword10: u32::from_be_bytes([e, f, g, h]),
        dword11: u32::from_be_bytes([a, b, c, d]),
        // Counted from zero.
        dword12: blocks.count.saturating_sub(1) & 0xffff,
        timeout_ms: super::ioctl::TIMEOUT_MS,
        ..Command::default()
    }
}

/// What the status of a completed command means; `EAGAIN` when it was not carried out and may be sent again.
pub(super) fn judge(status: u32) -> Result<(), Errno> {
    // Status code and its type; above them "do not retry", "more", and the retry delay.
    match status & 0x7ff {
        0x000 => Ok(()),
        0x001 | 0x002 | 0x00b => Err(Errno::EOPNOTSUPP),
        0x080 => Err(Errno::EINVAL),
        // Internal error: what a read makes of it too. qemu says so of sectors that a read cannot recover.
        0x006 => Err(Errno::EIO),
        // Aborted on request, for a queue that goes, or for a missing fused command.
        0x007 | 0x008 => Err(Errno::EAGAIN),
        0x281 => Err(Errno::ENODATA),
        // Protection information does not fit.
        0x282..=0x284 => Err(Errno::EILSEQ),
        // About the path, not the drive.
        0x300..=0x3ff => Err(Errno::ENOLINK),
        _ => Err(Errno::EREMOTEIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_as_the_specification_has_it() {
        let command = verify(7, Blocks { first: 0x0102_0304_0506_0708, count: 256 });
        assert_eq!((command.opcode, command.namespace), (0x0c, 7));
        assert_eq!((command.dword10, command.dword11, command.dword12), (0x0506_0708, 0x0102_0304, 255));
        assert_eq!((command.data_len, command.address), (0, 0));
    }

    #[test]
    fn only_an_unrecovered_read_error_says_that_a_sector_is_bad() {
        for status in 0..0x800 {
            let is_bad = judge(status) == Err(Errno::ENODATA);
            assert_eq!(is_bad, status == 0x281, "{status:#x}");
            assert_eq!(judge(status).is_ok(), status == 0, "{status:#x}");
            // "Do not retry" and "more" change nothing.
            assert_eq!(judge(status | 0x6000), judge(status));
        }
        assert_eq!(judge(0x4001), Err(Errno::EOPNOTSUPP));
        assert_eq!(judge(0x4080), Err(Errno::EINVAL));
        assert_eq!(judge(0x4006), Err(Errno::EIO));
        assert_eq!(judge(0x371), Err(Errno::ENOLINK));
    }
}
