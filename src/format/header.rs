//! The first 512 bytes of a copy.
//!
//! Invariants:
//! - magic, version, copy index, spare UUID and the header CRC stay where they are in all versions to come, so
//!   that "damaged" and "written by a later version" can always be told apart;
//! - every CRC32 (IEEE, as in zlib) is salted: it starts over the spare UUID and the copy index, so a copy that was
//!   pasted elsewhere does not pass.

use crate::units::Sectors;
use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every copy.
pub const MAGIC: [u8; 8] = *b"dm-remap";

/// The format version that this code writes and reads.
pub const VERSION: u32 = 1;

/// Compatible feature flags that this code knows. Unknown ones are kept.
pub const COMPATIBLE_KNOWN: u64 = 0;

/// Incompatible: a loss has the fate *held-stale*. Set exactly when one has.
pub const INCOMPATIBLE_STALE: u64 = 1;

/// Incompatible feature flags that this code knows. An unknown one refuses the copy.
pub const INCOMPATIBLE_KNOWN: u64 = INCOMPATIBLE_STALE;

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 512;

/// Entries in the section table.
pub const MAX_SECTIONS: usize = 12;

/// Kinds of section.
pub mod kind {
    /// JSON: name, state, main, policy, activation mark.
    pub const CONFIGURATION: u32 = 1;
    /// JSON: the spares in order.
    pub const SPARES: u32 = 2;
    /// Binary: extents and losses.
    pub const MAP: u32 = 3;
    /// JSON: what happened so far.
    pub const HEALTH: u32 = 4;
    /// Binary: sectors of the spares that failed.
    pub const BAD_BLOCKS: u32 = 5;
    /// Binary: generation and digest of the commits before this one.
    pub const LINEAGE: u32 = 6;

    /// Whether this version knows sections of that kind.
    pub const fn is_known(kind: u32) -> bool {
        CONFIGURATION <= kind && kind <= LINEAGE
    }

    /// The section's name in messages.
    pub fn name(kind: u32) -> String {
        match kind {
            CONFIGURATION => "configuration".into(),
            SPARES => "spares".into(),
            MAP => "map".into(),
            HEALTH => "health".into(),
            BAD_BLOCKS => "bad blocks".into(),
            LINEAGE => "lineage".into(),
            other => format!("unknown ({other})"),
        }
    }
}

/// One entry of the section table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawSection {
    /// What it is: see [`kind`]. Zero ends the table.
    pub kind: U32,
    /// Where it starts, in bytes from the start of the copy.
    pub offset: U32,
    /// Length in bytes.
    pub len: U32,
    /// Salted CRC32 of its bytes.
    pub crc: U32,
}

/// The header, byte for byte.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// 0 to 4: which copy this is.
    pub copy_index: U32,
    /// Feature flags that a reader may ignore.
    pub compatible: U64,
    /// Feature flags that a reader must know.
    pub incompatible: U64,
    /// UUID of the setup.
    pub setup: [u8; 16],
    /// UUID of the spare.
    pub spare: [u8; 16],
    /// Raised by every commit.
    pub generation: U64,
    /// Time of the commit, seconds since 1970.
    pub committed: U64,
    /// First sector of the data area of this spare.
    pub data_start: U64,
    /// Length of the whole copy in bytes, padding included.
    pub total_len: U32,
    /// Entries used in `sections`.
    pub section_count: U32,
    /// SHA-256 of the content, the same in all copies of a commit: see `copy::content_digest`.
    pub digest: [u8; 32],
    /// Where the sections are.
    pub sections: [RawSection; MAX_SECTIONS],
    /// Zero.
    pub reserved: [u8; 184],
    /// Salted CRC32 of the whole copy without this and the next field.
    pub whole_crc: U32,
    /// Salted CRC32 of the header without this field.
    pub header_crc: U32,
}

const _: () = {
    assert!(size_of::<RawSection>() == 16);
    assert!(size_of::<RawHeader>() == HEADER_BYTES);
    assert!(core::mem::offset_of!(RawHeader, spare) == 48);
    assert!(core::mem::offset_of!(RawHeader, digest) == 96);
    assert!(core::mem::offset_of!(RawHeader, sections) == 128);
    assert!(core::mem::offset_of!(RawHeader, whole_crc) == 504);
    assert!(core::mem::offset_of!(RawHeader, header_crc) == 508);
};

impl RawHeader {
    /// A header of zeros with the magic and the version.
    pub fn blank() -> RawHeader {
        RawHeader { magic: MAGIC, version: VERSION.into(), ..RawHeader::new_zeroed() }
    }

    /// The CRC that the header ought to have, were it copy `index`.
    pub fn expected_crc(&self, index: u32) -> u32 {
        let mut hash = salted(&self.spare, index);
        hash.update(self.as_bytes().get(..HEADER_BYTES - 4).unwrap_or_default());
        hash.finalize()
    }

    /// UUID of the setup.
    pub fn setup_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.setup)
    }

    /// UUID of the spare.
    pub fn spare_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.spare)
    }

    /// First sector of the data area.
    pub fn data_start(&self) -> Sectors {
        Sectors(self.data_start.get())
    }
}

/// A CRC32 that has the salt of copy `index` on the spare in it already.
pub(super) fn salted(spare: &[u8; 16], index: u32) -> crc32fast::Hasher {
    let mut hash = crc32fast::Hasher::new();
    hash.update(spare);
    hash.update(&index.to_le_bytes());
    hash
}
