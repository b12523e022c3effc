//! What fills the slot of a held sector, so that the spare itself knows whether it has been written since.
//!
//! Invariant: a tombstone names the setup and the sector, so one that was copied elsewhere is not believed.

use crate::units::{SECTOR_SIZE, Sectors};
use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"dmr-held";

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTombstone {
    magic: [u8; 8],
    setup: [u8; 16],
    sector: U64,
    /// CRC32 over the fields before it.
    crc: U32,
    zero: [u8; 476],
}

const _: () = assert!(size_of::<RawTombstone>() == SECTOR_SIZE);

fn make(setup: Uuid, sector: Sectors) -> RawTombstone {
    let mut raw =
        RawTombstone { magic: MAGIC, setup: *setup.as_bytes(), sector: sector.0.into(), crc: 0.into(), zero: [0; 476] };
    let covered = raw.as_bytes().get(..32).map_or(0, crc32fast::hash);
    raw.crc = covered.into();
    raw
}

/// Fills `buf` with the tombstones of consecutive sectors, the first of which is `first` (a sector of the setup).
pub fn fill(buf: &mut [u8], setup: Uuid, first: Sectors) {
    for (sector, chunk) in (first.0..).zip(buf.chunks_exact_mut(SECTOR_SIZE)) {
        chunk.copy_from_slice(make(setup, Sectors(sector)).as_bytes());
    }
}

/// Whether `sector_data` is the tombstone of `sector` of this setup.
pub fn is_tombstone(sector_data: &[u8], setup: Uuid, sector: Sectors) -> bool {
    sector_data == make(setup, sector).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_is_known_only_in_its_place() {
        let setup = Uuid::from_u128(7);
        let mut buf = [1; 1024];
        fill(&mut buf, setup, Sectors(9));
        assert!(is_tombstone(&buf[..512], setup, Sectors(9)));
        assert!(is_tombstone(&buf[512..], setup, Sectors(10)));
        assert!(!is_tombstone(&buf[..512], setup, Sectors(10)));
        assert!(!is_tombstone(&buf[..512], Uuid::from_u128(8), Sectors(9)));
        assert!(!is_tombstone(&[0; 512], setup, Sectors(9)));
        assert_eq!(&buf[..8], b"dmr-held");
    }
}
