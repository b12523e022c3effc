//! The configuration as YAML: every text gives settings or mistakes, and every mistake has a place in the text.
#![no_main]

use dm_remap::config::{Syntax, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let reading = read(data, Syntax::Yaml);
    let lines = data.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 2;
    for mistake in &reading.mistakes {
        assert!(mistake.at.line >= 1 && mistake.at.line <= lines && mistake.at.column >= 1, "{mistake}");
        assert!(!mistake.to_string().chars().any(char::is_control), "{mistake:?}");
    }
});
