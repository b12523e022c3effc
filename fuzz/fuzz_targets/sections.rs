//! One copy made of sections, so that a longer one does not spoil the others.
#![no_main]

use dm_remap::format::copy::{Verdict, judge};
use dm_remap_fuzz::{assembled, check_valid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Verdict::Valid(copy) = judge(&assembled(data, 3), 3) {
        check_valid(&copy, 3);
    }
});
