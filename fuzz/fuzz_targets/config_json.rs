//! The configuration as JSON. What JSON says without a mistake, YAML says, too.
#![no_main]

use dm_remap::config::{Syntax, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let json = read(data, Syntax::Json);
    for mistake in &json.mistakes {
        assert!(mistake.at.line >= 1 && mistake.at.column >= 1, "{mistake}");
        assert!(!mistake.to_string().chars().any(char::is_control), "{mistake:?}");
    }
    // What is no JSON at all is called that, and what serde_json takes as a value never is. Between the two are numbers of any
    // size, which are JSON, and half surrogates, which are not.
    let not_json = json.mistakes.iter().any(|mistake| mistake.problem.starts_with("no valid JSON"));
    if std::str::from_utf8(data).is_ok() {
        assert!(not_json || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok());
        assert!(!not_json || serde_json::from_slice::<serde_json::Value>(data).is_err());
    }
    // Escapes of JSON and the ends of lines of YAML are each other's exceptions.
    if !json.mistakes.is_empty() || data.contains(&b'\\') || data.contains(&b'\r') || !data.is_ascii() {
        return;
    }
    let yaml = read(data, Syntax::Yaml);
    if yaml.mistakes.is_empty() {
        let of =
            |config: &dm_remap::config::Config, name: Option<&str>| format!("{:?}", config.settings(name).all(&[]));
        assert!(json.config.setups.keys().eq(yaml.config.setups.keys()));
        for name in json.config.setups.keys().map(|name| Some(name.as_str())).chain([None]) {
            assert_eq!(of(&json.config, name), of(&yaml.config, name));
        }
    }
});
