//! Mapfiles of GNU ddrescue: what is read, written and read again is the same.
#![no_main]

use dm_remap::format::lists::{read_mapfile, write_mapfile};
use dm_remap::units::Sectors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(map) = read_mapfile(text, "-/*?") else { return };
    let end = map.wanted.iter().map(|range| range.end().0).max().unwrap_or(8);
    // Beyond that no number of bytes fits.
    if end < 1 << 54 {
        let again = read_mapfile(&write_mapfile(&map.wanted, Sectors(end)), "-").expect("what we write we read");
        assert_eq!(again.wanted, map.wanted);
    }
});
