//! Records of /dev/kmsg and lines of a trace.
#![no_main]

use dm_remap::watch::{kmsg, report, trace};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(record) = kmsg::parse_record(data) {
        let _ = report::parse_line(&record.message);
    }
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        let _ = (report::parse_line(line), trace::parse_line(line));
    }
});
