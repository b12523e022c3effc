//! The three layouts of the kernel module, at every place where one of them has a copy.
#![no_main]

use dm_remap::format::foreign_module::{Ground, Layout, judge, read_all_layouts, read_module_metadata, v4};
use dm_remap::units::Sectors;
use libfuzzer_sys::fuzz_target;

/// Sectors where a copy of layout A or B begins, and where the entries of C do.
const PLACES: [usize; 11] = [0, 256, 512, 768, 1024, 2048, 4096, 8192, 8, 1, 264];
const END: usize = 9000 * 512;

/// Version 4 with the magic, version, size and checksum that it needs to be looked at any further.
fn signed(piece: &[u8]) -> Vec<u8> {
    let mut copy = piece.to_vec();
    copy.resize(v4::STRUCT_BYTES, 0);
    copy[..4].copy_from_slice(&v4::MAGIC.to_le_bytes());
    copy[4..8].copy_from_slice(&4u32.to_le_bytes());
    copy[32..36].copy_from_slice(&(v4::STRUCT_BYTES as u32).to_le_bytes());
    let crc = v4::crc(&copy);
    copy[24..28].copy_from_slice(&crc.to_le_bytes());
    copy
}

fuzz_target!(|data: &[u8]| {
    read_all_layouts(data);
    // PLACE LENGTH (2 bytes) BYTES, up to eight times; from place 128 on version 4 is signed.
    let (mut pieces, mut rest) = (Vec::new(), data);
    while let [place, low, high, more @ ..] = rest
        && pieces.len() < 8
    {
        let (bytes, left) = more.split_at(more.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        let start = PLACES[usize::from(place & 127) % PLACES.len()] * 512;
        let bytes = if *place >= 128 { signed(bytes) } else { bytes.to_vec() };
        pieces.push((start, bytes));
        rest = left;
    }
    let read = |offset: u64, len: usize| {
        let at = usize::try_from(offset).ok().filter(|at| *at < END).ok_or("beyond the end")?;
        let mut out = vec![0; len.min(END - at)];
        for (start, bytes) in &pieces {
            let (from, to) = (at.max(*start), (at + out.len()).min(start + bytes.len()));
            if from < to {
                out[from - at..to - at].copy_from_slice(&bytes[from - start..to - start]);
            }
        }
        Ok(out)
    };
    for copy in [None, Some(0), Some(4), Some(5)] {
        let Ok(metadata) = read_module_metadata(&read, copy) else { continue };
        // Those that a rival copy disputes are listed beside them.
        assert!(
            metadata.entries.len() <= 5 * v4::MAX_ENTRIES
                && (metadata.layout != Layout::Helper || metadata.entries.is_empty())
        );
        for ground in [Sectors(9000), Sectors(u64::MAX >> 9), Sectors(0)] {
            let judged = judge(&metadata, &Ground { main: ground, spare: Sectors(9000), in_place: ground.0 != 0 });
            assert_eq!(judged.len(), metadata.entries.len());
        }
    }
});
