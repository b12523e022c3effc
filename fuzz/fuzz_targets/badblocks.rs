//! Lists of badblocks(8): what is read, written and read again is the same.
#![no_main]

use dm_remap::format::lists::{read_badblocks, write_badblocks};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let size = 512u64 << (size % 9);
    if let Ok(ranges) = read_badblocks(text, size) {
        assert_eq!(read_badblocks(&write_badblocks(&ranges, size), size).as_ref(), Ok(&ranges));
    }
    let _ = read_badblocks(text, u64::MAX);
});
