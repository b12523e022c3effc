//! One copy: any bytes, and the same with right checksums. Valid ones survive encoding, and become tables and back.
#![no_main]

use dm_remap::format::copy::{Verdict, judge, judge_header};
use dm_remap_fuzz::{check_valid, stamped};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let index = u32::from(data.first().copied().unwrap_or_default() % 5);
    for bytes in [data.to_vec(), stamped(data, index)] {
        let _ = judge_header(&bytes, index);
        if let Verdict::Valid(copy) = judge(&bytes, index) {
            check_valid(&copy, index);
        }
    }
});
