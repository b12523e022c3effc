//! The files that scans leave: what is read can be counted, and written and read again.
#![no_main]

use dm_remap::scan::pass::Pass;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(pass) = serde_json::from_slice::<Pass>(data) else { return };
    let _ = (pass.standing(), pass.percent());
    for area in &pass.areas {
        let _ = (area.standing(), area.found_so_far());
    }
    let text = serde_json::to_vec(&pass).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Pass>(&text).expect("and read again"), pass);
});
