//! What was read of a copy, before it is judged: so that one process can read and another judge.
//!
//! Invariants:
//! - nothing is judged twice in different ways: [`RawCopy::judge_by`] is the one judgement;
//! - any bytes can be parsed; what does not fit is an error, never a panic.

use crate::block::Disk;
use crate::block::buffer::AlignedBuffer;
use crate::format::copy::{Judge, Verdict, index_u32, judge_header, total_len};
use crate::format::{COPY_ALIGNMENT, COPY_MAX_BYTES, COPY_STARTS};
use crate::units::Sectors;

/// What was read in the place of one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawCopy {
    /// The device ends before it.
    Beyond,
    /// It cannot be read.
    Unreadable {
        /// First sector of the request that failed.
        sector: Sectors,
        /// The error in words.
        reason: String,
    },
    /// Its first block, and the rest when that is a header of ours.
    Bytes(Vec<u8>),
}

impl RawCopy {
    /// Reads the place of copy `index` (0 to 4) of a device.
    pub fn read(disk: &dyn Disk, index: usize) -> RawCopy {
        let (Some(start), Some(number)) = (COPY_STARTS.get(index).copied(), index_u32(index)) else {
            return RawCopy::Beyond;
        };
        let mut head = AlignedBuffer::new(COPY_ALIGNMENT);
        if disk.size() < start.checked_add(Sectors(8)).unwrap_or(start) {
            return RawCopy::Beyond;
        }
        let unreadable =
            |error: crate::block::DiskError| RawCopy::Unreadable { sector: error.start, reason: error.to_string() };
        if let Err(error) = disk.read(start, &mut head) {
            return unreadable(error);
        }
        let Ok(len) = judge_header(&head, number).and_then(|header| total_len(&header)) else {
            return RawCopy::Bytes(head.to_vec());
        };
        let mut copy = AlignedBuffer::new(len);
        match disk.read(start, &mut copy) {
            Ok(()) => RawCopy::Bytes(copy.to_vec()),
            Err(error) => unreadable(error),
        }
    }

    /// The verdict on it, as copy `index`.
    pub fn judge(&self, index: usize) -> Verdict {
        self.judge_by(&mut Judge::default(), index)
    }

    /// The same, by one who has judged others.
    pub fn judge_by(&self, judge: &mut Judge, index: usize) -> Verdict {
        match (self, index_u32(index)) {
            (RawCopy::Beyond, _) | (_, None) => Verdict::Foreign("the device is too small to be a spare".into()),
            (RawCopy::Unreadable { sector, reason }, _) => {
                Verdict::Unreadable { sector: *sector, reason: reason.clone() }
            }
            (RawCopy::Bytes(bytes), Some(number)) => judge.judge(bytes, number),
        }
    }

    /// Appends it to a message.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            RawCopy::Beyond => out.push(0),
            RawCopy::Unreadable { sector, reason } => {
                out.push(1);
                out.extend(sector.0.to_le_bytes());
                put_bytes(out, reason.as_bytes());
            }
            RawCopy::Bytes(bytes) => {
                out.push(2);
                put_bytes(out, bytes);
            }
        }
    }

    /// Takes one from the front of a message; `None` when there is none.
    pub fn take(message: &mut &[u8]) -> Option<RawCopy> {
        let (tag, rest) = message.split_first()?;
        *message = rest;
        match tag {
            0 => Some(RawCopy::Beyond),
            1 => {
                let (sector, rest) = message.split_first_chunk::<8>()?;
                *message = rest;
                let reason = String::from_utf8_lossy(take_bytes(message)?).into_owned();
                Some(RawCopy::Unreadable { sector: Sectors(u64::from_le_bytes(*sector)), reason })
            }
            2 => Some(RawCopy::Bytes(take_bytes(message)?.to_vec())),
            _ => None,
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.get(..bytes.len().min(COPY_MAX_BYTES)).unwrap_or_default();
    out.extend(u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
    out.extend(bytes);
}

fn take_bytes<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = message.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    *message = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..5000), sector: u64, reason: String) {
            let copies =
                [RawCopy::Bytes(bytes), RawCopy::Beyond, RawCopy::Unreadable { sector: Sectors(sector), reason }];
            let mut message = Vec::new();
            copies.iter().for_each(|copy| copy.put(&mut message));
            let mut rest = message.as_slice();
            for copy in &copies {
                prop_assert_eq!(RawCopy::take(&mut rest), Some(copy.clone()));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_can_be_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some(copy) = RawCopy::take(&mut rest) {
                copy.judge(0);
            }
        }
    }
}
