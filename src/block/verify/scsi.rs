//! VERIFY (16), and what its answers mean.
//!
//! Sources: SBC-3 "VERIFY (16) command"; SPC-4 "Sense data"; the kernel's own judgement in drivers/scsi/scsi_error.c
//! and scsi_lib.c (`scsi_result_to_blk_status`), which the errnos follow.

use super::Blocks;
use nix::errno::Errno;

/// The most blocks in one command: what an ATA disk takes is 65,536; less, so that a command is soon over.
pub(super) const MOST_BLOCKS: u64 = 2048;

/// The command. BYTCHK is 0: the medium is read, no data is compared.
pub(super) fn verify(blocks: Blocks) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = blocks.first.to_be_bytes();
    let [i, j, k, l] = blocks.count.to_be_bytes();
    [0x8f, 0, a, b, c, d, e, f, g, h, i, j, k, l, 0, 0]
}

/// What came back of a command.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// SCSI status.
    pub(super) status: u8,
    /// `DID_…`: what the host adapter says.
    pub(super) host: u16,
    /// What the driver says.
    pub(super) driver: u16,
    /// Sense data.
    pub(super) sense: Vec<u8>,
}

const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;

const DID_NO_CONNECT: u16 = 0x01;
const DID_TIME_OUT: u16 = 0x03;
/// `DRIVER_SENSE`: there is sense data, no error of the driver.
const DRIVER_SENSE: u16 = 0x08;
const DRIVER_TIMEOUT: u16 = 0x06;

impl Answer {
    /// Whether the blocks could be read; `EAGAIN` when the command was not carried out and may be sent again.
    pub(super) fn judge(&self) -> Result<(), Errno> {
        if self.status == CHECK_CONDITION
            && let Some(sense) = Sense::parse(&self.sense)
        {
            return sense.judge();
        }
        match self.host {
            0 => {}
            DID_NO_CONNECT => return Err(Errno::ENODEV),
            DID_TIME_OUT => return Err(Errno::ETIMEDOUT),
            _ => return Err(Errno::ENOLINK),
        }
        // The upper half is a suggestion.
        match self.driver & 0x0f {
            0 | DRIVER_SENSE => {}
            DRIVER_TIMEOUT => return Err(Errno::ETIMEDOUT),
            _ => return Err(Errno::ENOLINK),
        }
        match self.status {
            0 => Ok(()),
            BUSY | TASK_SET_FULL => Err(Errno::EAGAIN),
            _ => Err(Errno::EREMOTEIO),
        }
    }
}

/// The part of sense data that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sense {
    /// About a command before this one.
    deferred: bool,
    key: u8,
    /// Additional sense code.
    code: u8,
}

impl Sense {
    /// In fixed or descriptor format; `None` when it is neither or too short.
    fn parse(bytes: &[u8]) -> Option<Sense> {
        let response = bytes.first()? & 0x7f;
        let (key, code) = match response {
            0x70 | 0x71 => (bytes.get(2)?, bytes.get(12).copied().unwrap_or(0)),
            0x72 | 0x73 => (bytes.get(1)?, bytes.get(2).copied().unwrap_or(0)),
            _ => return None,
        };
        Some(Sense { deferred: response & 1 == 1, key: key & 0x0f, code })
    }

    fn judge(self) -> Result<(), Errno> {
        const LBA_OUT_OF_RANGE: u8 = 0x21;
        if self.deferred {
            return Err(Errno::EAGAIN);
        }
        match self.key {
            // No sense, recovered error: the data was there.
            0x0 | 0x1 => Ok(()),
            0x2 => Err(Errno::ENXIO),
            0x3 => Err(Errno::ENODATA),
            0x5 if self.code == LBA_OUT_OF_RANGE => Err(Errno::EINVAL),
            0x5 => Err(Errno::EOPNOTSUPP),
            // Unit attention, aborted command.
            0x6 | 0xb => Err(Errno::EAGAIN),
            // Hardware error, and all that cannot be.
            _ => Err(Errno::EREMOTEIO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixed(response: u8, key: u8, code: u8) -> Vec<u8> {
        let mut sense = vec![0; 18];
        (sense[0], sense[2], sense[7], sense[12]) = (response, key, 10, code);
        sense
    }

    fn checked(sense: &[u8]) -> Answer {
        Answer { status: CHECK_CONDITION, driver: DRIVER_SENSE, sense: sense.to_vec(), ..Answer::default() }
    }

    #[test]
    fn the_command_is_as_the_standard_has_it() {
        let command = verify(Blocks { first: 0x0102_0304_0506_0708, count: 0x0a0b_0c0d });
        assert_eq!(command, [0x8f, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0]);
    }

    #[test]
    fn only_a_medium_error_says_that_a_sector_is_bad() {
        // What a SATA disk's UNC becomes in libata (medium error, unrecovered read error, auto reallocate failed).
        let uncorrectable = [0x72, 0x03, 0x11, 0x04, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x77, 0x22];
        assert_eq!(checked(&uncorrectable).judge(), Err(Errno::ENODATA));
        for response in [0x70, 0xf0] {
            for key in 0..16 {
                let expected = match key {
                    0 | 1 => Ok(()),
                    2 => Err(Errno::ENXIO),
                    3 => Err(Errno::ENODATA),
                    5 => Err(Errno::EOPNOTSUPP),
                    6 | 11 => Err(Errno::EAGAIN),
                    _ => Err(Errno::EREMOTEIO),
                };
                // The upper bits of the byte are flags.
                assert_eq!(checked(&fixed(response, key | 0xe0, 0x11)).judge(), expected, "key {key}");
                assert_eq!(checked(&[0x72, key, 0x11, 0]).judge(), expected, "key {key}");
            }
        }
        assert_eq!(checked(&fixed(0x70, 5, 0x21)).judge(), Err(Errno::EINVAL));
        assert_eq!(checked(&fixed(0x71, 3, 0x11)).judge(), Err(Errno::EAGAIN), "of a command before this one");
    }

    #[test]
    fn trouble_on_the_way_is_no_bad_sector() {
        let answer = |status, host, driver| Answer { status, host, driver, sense: Vec::new() };
        for (answer, expected) in [
            (answer(0, 0, 0), Ok(())),
            (answer(0, 1, 0), Err(Errno::ENODEV)),
            (answer(0, 3, 0), Err(Errno::ETIMEDOUT)),
            (answer(0, 7, 0), Err(Errno::ENOLINK)),
            (answer(0, 0x0e, 0), Err(Errno::ENOLINK)),
            (answer(0, 0, 6), Err(Errno::ETIMEDOUT)),
            (answer(0, 0, 4), Err(Errno::ENOLINK)),
            (answer(8, 0, 0), Err(Errno::EAGAIN)),
            (answer(0x28, 0, 0), Err(Errno::EAGAIN)),
            (answer(0x18, 0, 0), Err(Errno::EREMOTEIO)),
            (answer(2, 0, 8), Err(Errno::EREMOTEIO)),
        ] {
            assert_eq!(answer.judge(), expected, "{answer:?}");
        }
        // A medium error is one also where an old kernel leaves DID_MEDIUM_ERROR beside it.
        let answer = Answer { host: 0x13, ..checked(&fixed(0x70, 3, 0x11)) };
        assert_eq!(answer.judge(), Err(Errno::ENODATA));
    }

    proptest! {
        #[test]
        fn no_sense_data_makes_it_fall_over(status in any::<u8>(), sense in prop::collection::vec(any::<u8>(), 0..64)) {
            let answer = Answer { status, sense: sense.clone(), ..Answer::default() };
            if answer.judge() == Err(Errno::ENODATA) {
                prop_assert!(status == CHECK_CONDITION && (sense[1] & 15 == 3 || sense[2] & 15 == 3));
            }
        }
    }
}
