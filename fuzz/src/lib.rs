//! What the targets have in common: copies whose checksums are right whatever stands in them, so that a fuzzer gets past
//! them, and what must hold of a copy that was taken for valid.

use dm_remap::format::copy::{EncodeError, ValidCopy, Verdict, encode, judge};
use dm_remap::format::{COPY_ALIGNMENT, COPY_MAX_BYTES};
use dm_remap::pool::Pool;
use dm_remap::segments::{Devices, SpareDevice, map_of, read_back, setup_table};
use dm_remap::units::DevNo;

/// Bytes of the header (docs/FORMAT.md).
pub const HEADER: usize = 512;
/// Where the section table begins, and how long an entry is.
const TABLE: usize = 128;
const ENTRY: usize = 16;

fn crc(spare: &[u8], index: u32, parts: &[&[u8]]) -> [u8; 4] {
    let mut hash = crc32fast::Hasher::new();
    hash.update(spare);
    hash.update(&index.to_le_bytes());
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_le_bytes()
}

fn u32_at(copy: &[u8], at: usize) -> usize {
    u32::from_le_bytes(copy[at..at + 4].try_into().unwrap()) as usize
}

/// Makes a whole copy with right magic, length and checksums of any bytes.
pub fn stamped(data: &[u8], index: u32) -> Vec<u8> {
    let mut copy = data.to_vec();
    copy.resize(copy.len().clamp(HEADER, COPY_MAX_BYTES).next_multiple_of(COPY_ALIGNMENT), 0);
    copy[..8].copy_from_slice(b"dm-remap");
    copy[8..12].copy_from_slice(&1u32.to_le_bytes());
    copy[12..16].copy_from_slice(&index.to_le_bytes());
    let announced = u32_at(&copy, 88);
    if announced < COPY_ALIGNMENT || announced > copy.len() || announced % COPY_ALIGNMENT != 0 {
        let len = copy.len() as u32;
        copy[88..92].copy_from_slice(&len.to_le_bytes());
    }
    let len = u32_at(&copy, 88);
    copy.truncate(len);
    let spare: [u8; 16] = copy[48..64].try_into().unwrap();
    for entry in (TABLE..).step_by(ENTRY).take(u32_at(&copy, 92).min(12)) {
        let (start, bytes) = (u32_at(&copy, entry + 4), u32_at(&copy, entry + 8));
        if let Some(section) = start.checked_add(bytes).and_then(|end| copy.get(start..end)) {
            let sum = crc(&spare, index, &[section]);
            copy[entry + 12..entry + 16].copy_from_slice(&sum);
        }
    }
    let whole = crc(&spare, index, &[&copy[..504], &copy[HEADER..]]);
    copy[504..508].copy_from_slice(&whole);
    let header = crc(&spare, index, &[&copy[..508]]);
    copy[508..512].copy_from_slice(&header);
    copy
}

/// Makes a copy of sections: KIND (1 byte) LENGTH (2 bytes, little-endian) BYTES, up to twelve of them, after 24 bytes
/// for generation, commit time and data area.
pub fn assembled(data: &[u8], index: u32) -> Vec<u8> {
    let (head, mut rest) = data.split_at(data.len().min(24));
    let mut copy = vec![0; HEADER];
    copy[32..48].copy_from_slice(&[7; 16]);
    copy[48..64].copy_from_slice(&[9; 16]);
    copy[64..64 + head.len()].copy_from_slice(head);
    let mut count = 0u32;
    while let [kind, low, high, more @ ..] = rest
        && count < 12
    {
        let (bytes, left) = more.split_at(more.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        copy.resize(copy.len().next_multiple_of(8), 0);
        let entry = TABLE + count as usize * ENTRY;
        let (kind, start, len) = (u32::from(*kind), copy.len() as u32, bytes.len() as u32);
        copy[entry..entry + 4].copy_from_slice(&kind.to_le_bytes());
        copy[entry + 4..entry + 8].copy_from_slice(&start.to_le_bytes());
        copy[entry + 8..entry + 12].copy_from_slice(&len.to_le_bytes());
        copy.extend_from_slice(bytes);
        (rest, count) = (left, count + 1);
    }
    copy[92..96].copy_from_slice(&count.to_le_bytes());
    stamped(&copy, index)
}

/// What must hold of any copy that is said to be valid.
pub fn check_valid(copy: &ValidCopy, index: u32) {
    let metadata = &copy.metadata;
    metadata.check().expect("valid means checked");
    match encode(metadata) {
        Ok(encoded) => {
            let mut bytes = vec![0; encoded.len()];
            encoded.stamp(&mut bytes, copy.spare, copy.data_start, index);
            match judge(&bytes, index) {
                Verdict::Valid(again) => assert_eq!(again.metadata, *metadata, "another after encoding"),
                other => panic!("valid before encoding, and after it {other:?}"),
            }
        }
        // Written differently by somebody, it may need more room, or more sections than there are entries.
        Err(EncodeError::Full { .. } | EncodeError::Sections(_)) => {}
        Err(error) => panic!("it cannot be encoded: {error}"),
    }
    let _ = Pool::new(metadata, |_| true).free();
    let devices = Devices {
        main: DevNo { major: 8, minor: 0 },
        logical_block: metadata.config.main.logical_block,
        spares: (1..)
            .zip(&metadata.spares)
            .map(|(minor, record)| SpareDevice {
                device: Some(DevNo { major: 8, minor }),
                held: Some(DevNo { major: 253, minor }),
                size: record.identity.size,
                data_start: record.data_start,
            })
            .collect(),
    };
    let Ok(table) = setup_table(&metadata.map, &devices) else { return };
    let pieces = read_back(&table, &devices).expect("a table that was made is understood");
    let map = map_of(&pieces, metadata.map.main_len(), metadata.map.unit()).expect("pieces of a table are a map");
    assert!(map.extents().eq(metadata.map.extents()), "the table has another map");
}
