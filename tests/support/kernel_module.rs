//! A spare of the out-of-tree kernel module, made by the description of its format alone (docs/kernel-module-format.md).

/// Bytes of one copy of version 4.
const COPY: usize = 84_288;

/// The module's CRC, bit by bit: 0xEDB88320 reflected, from 0, nothing inverted.
fn module_crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

/// Metadata of version 4, to be written from each 256th sector on, five times: original, slot and flags of each remap.
pub(crate) fn version_4(main_sectors: u64, spare_sectors: u64, rows: &[(u64, u64, u16)]) -> Vec<u8> {
    let mut copy = vec![0u8; COPY.next_multiple_of(512)];
    let mut put = |at: usize, bytes: &[u8]| copy[at..at + bytes.len()].copy_from_slice(bytes);
    for (at, value) in [(0, 0x444D_5234u32), (4, 4), (32, COPY as u32), (136, 512), (256, 100), (300, 2048)] {
        put(at, &value.to_le_bytes());
    }
    for (at, value) in [(8, 12u64), (16, 1_700_000_000), (120, main_sectors), (128, spare_sectors)] {
        put(at, &value.to_le_bytes());
    }
    put(296, &(rows.len() as u32).to_le_bytes());
    for (n, (original, slot, flags)) in rows.iter().enumerate() {
        put(312 + 40 * n, &original.to_le_bytes());
        put(312 + 40 * n + 8, &slot.to_le_bytes());
        put(312 + 40 * n + 34, &flags.to_le_bytes());
    }
    let crc = module_crc(&[&copy[..24], &copy[28..COPY]].concat());
    copy[24..28].copy_from_slice(&crc.to_le_bytes());
    copy
}
