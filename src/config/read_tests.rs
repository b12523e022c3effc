//! What is read from texts, right and wrong.

use super::*;
use crate::config::keys::*;
use crate::config::{sample, value::Kind};
use proptest::prelude::*;
use std::time::Duration;

fn yaml(text: &str) -> Reading {
    read(text.as_bytes(), Syntax::Yaml)
}

fn json(text: &str) -> Reading {
    read(text.as_bytes(), Syntax::Json)
}

/// The mistakes as lines.
fn wrong(reading: &Reading) -> Vec<String> {
    reading.mistakes.iter().map(ToString::to_string).collect()
}

const GOOD: &str = "\
defaults:
  scan: {retries: 5, rate: 20M}
  remap:
    unreadable: zero
setups:
  data:
    scan:
      rate: 'max'
      interval: \"7days\"
  other:
";

#[test]
fn a_setup_takes_its_own_value_then_the_defaults_then_the_built_in() {
    let reading = yaml(GOOD);
    assert_eq!(wrong(&reading), [""; 0]);
    let data = reading.config.settings(Some("data"));
    assert_eq!(data.get(&SCAN_RETRIES), 5);
    assert_eq!(data.get(&SCAN_RATE), Some(Rate::Max));
    assert_eq!(data.get(&SCAN_INTERVAL), Duration::from_secs(7 * 86_400));
    assert_eq!(data.get(&SCAN_SLOW_MS), 500);
    assert_eq!(data.get(&REMAP_UNREADABLE), "zero");
    assert_eq!((data.own(&REMAP_UNREADABLE), data.own(&SCAN_RATE)), (None, Some(Some(Rate::Max))));
    for name in [None, Some("other"), Some("unknown")] {
        assert_eq!(reading.config.settings(name).get(&SCAN_RATE), Some(Rate::Bytes(20 << 20)));
    }
}

#[test]
fn json_says_the_same_as_yaml() {
    let text = r#"{"defaults": {"scan": {"retries": 5, "rate": "20M"}, "remap": {"unreadable": "zero"}},
        "setups": {"data": {"scan": {"rate": "max", "interval": "7days"}}, "other": null}}"#;
    let (one, other) = (yaml(GOOD), json(text));
    assert_eq!(wrong(&other), [""; 0]);
    for name in [None, Some("data"), Some("other")] {
        let all = |reading: &Reading| {
            let settings = reading.config.settings(name);
            KEYS.map(|spec| settings.find(spec).0)
        };
        assert_eq!(all(&one), all(&other));
    }
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_would_be_right() {
    let text = "\
defaults:
  scan:
    retrys: 3
    slow_ms: fast
    margin: 99999999
    idle: yes
    rate: 12
    unreadable: hold
    method: [read]
    interval: 5
    retries: 1
    retries: 2
    jitter: ~
  scna: {}
  remap: 7
setups:
  -x: {}
  data:
    scan:
      jitter: 5m
    alerts:
      on: [bad, bda]
      program: relative
scan: {}
";
    let told = wrong(&yaml(text));
    let expected = [
        "3:5: there is no key 'retrys' in 'scan': did you mean 'retries'?",
        "4:14: scan.slow_ms: 'fast' is not right here: write a whole number from 0 to 600000",
        "5:13: scan.margin: '99999999' is too large: write a whole number from 0 to 1048576",
        "6:11: scan.idle: 'yes' is not right here: write true or false",
        "7:11: scan.rate: '12' is not right here: write bytes a second, at least 64K, such as 500K, 20M or 1G; or max",
        "8:5: there is no key 'unreadable' in 'scan': there is remap.unreadable",
        "9:13: scan.method: a list is not right here: write one of read, verify",
        "10:15: scan.interval: '5' is not right here: write a time from 1s to 1year, such as 90s, 30m or 24h",
        "12:5: 'retries' comes twice: it stands in line 11 already",
        "13:5: scan.jitter: there is no value: write a time from 0s to 1day, such as 90s, 30m or 24h",
        "14:3: there is no key 'scna' here: did you mean 'scan'?",
        "15:10: '7' is not right here: 'remap' holds lines of KEY: VALUE",
        "17:3: '-x' is not a name that a setup can have: write at most",
        "20:7: 'scan.jitter' cannot be set for one setup: put it under 'defaults'",
        "22:17: alerts.on: 'bda' is not right here: write a list of some of bad, weak, lost",
        "23:16: alerts.program: 'relative' is not right here: write an absolute path",
        "24:1: there is no key 'scan' at the top: put it under 'defaults'",
    ];
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\nnot\n{expected}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn what_makes_yaml_a_language_is_refused() {
    for (text, expected) in [
        ("defaults: &a {}", "1:11: an anchor"),
        ("defaults:\n  scan: *a", "2:9: "),
        ("defaults: !!map {}", "1:11: a tag (!)"),
        ("defaults: {}\n---\nsetups: {}", "2:1: a second document"),
        ("defaults:\n\tscan: {}", "2:1: a tab in the indentation: indent with spaces"),
        ("defaults:\n  \tscan: {}", "2:3: a tab in the indentation"),
        ("? [a]\n: 1", "1:3: a key that is no word"),
        ("defaults: {", "no valid YAML"),
        ("defaults: 'x", "no valid YAML"),
        ("- defaults", "1:1: a list is not right here: the file holds lines of KEY: VALUE"),
        ("<<: {}", "1:1: there is no key '<<' at the top"),
    ] {
        let told = wrong(&yaml(text));
        assert!(told.iter().any(|line| line.contains(expected)), "{text:?}: {told:?}, not {expected}");
    }
    let aliased = wrong(&yaml("defaults: &a {}\nsetups: *a"));
    assert_eq!(aliased.len(), 2, "{aliased:?}");
    assert!(aliased[1].starts_with("2:9: an alias (*)"), "{aliased:?}");
    // Empty is fine.
    for text in ["", "---\n", "# nothing\n", "defaults:\nsetups:\n", "\u{feff}defaults: {}"] {
        assert_eq!(wrong(&yaml(text)), [""; 0], "{text:?}");
    }
}

#[test]
fn json_is_strict() {
    for (text, expected) in [
        ("", "1:1: no valid JSON: EOF"),
        ("{\n  \"defaults\": {},\n}", "3:1: no valid JSON: key must be a string"),
        ("{'defaults': {}}", "1:2: no valid JSON: key must be a string"),
        ("{} {}", "1:4: no valid JSON: trailing characters"),
        ("// no\n{}", "1:1: no valid JSON"),
        ("{\"é\" 1}", "1:6: no valid JSON"),
        (
            "{\"defaults\": {\"scan\": {\"retries\": \"3\"}}}",
            "1:35: scan.retries: the text '3' is not right here: write a whole number",
        ),
        ("{\"defaults\": {\"scan\":\n{\"é\": 1,\n\"retries\": 1e2}}}", "3:12: scan.retries: '1e2' is not right here"),
        ("{\"defaults\": {}, \"defaults\": {}}", "1:18: 'defaults' comes twice"),
        ("[]", "1:1: a list is not right here"),
    ] {
        let told = wrong(&json(text));
        assert!(told.iter().any(|line| line.starts_with(expected)), "{text:?}: {told:?}, not {expected}");
    }
}

#[test]
fn what_is_too_deep_too_long_or_no_text_is_told() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100), close.repeat(100));
    assert!(wrong(&yaml(&deep("[", "]")))[0].contains("nested deeper than 12 levels"));
    assert!(wrong(&json(&deep("[", "]")))[0].contains("nested deeper than 12 levels"));
    assert!(wrong(&json(&"[".repeat(100_000)))[0].contains("no valid JSON"));
    let long = vec![b'#'; MAX_BYTES + 1];
    for syntax in [Syntax::Yaml, Syntax::Json] {
        assert!(wrong(&read(&long, syntax))[0].starts_with("1:1: the text has 1048577 bytes"));
        assert_eq!(wrong(&read(b"# \xc3\xa9\nx\xff", syntax)), ["2:2: a byte that is not UTF-8"]);
    }
    let many: String = (0..5000).map(|n| format!("k{n}: 1\n")).collect();
    let told = wrong(&yaml(&many));
    assert!(told.len() == 201 && told[200].contains("and 4800 more mistakes"), "{}", told.len());
    // What stands in a file cannot reach the terminal as it is.
    assert!(wrong(&yaml("\"\\e[31m\": 1"))[0].contains("'\\u{1b}[31m'"));
}

#[test]
fn keys_that_do_not_go_together_are_told() {
    let both = "defaults: {scan: {rate: max, idle: true}}";
    assert_eq!(wrong(&yaml(both)).len(), 1, "{:?}", wrong(&yaml(both)));
    assert_eq!(wrong(&yaml("defaults: {scan: {rate: 1M, idle: true}}")), [""; 0]);
    // The setup's own section goes before the defaults: no mistake.
    assert_eq!(wrong(&yaml("{defaults: {scan: {rate: max}}, setups: {a: {scan: {idle: true}}}}")), [""; 0]);
    // The journal is told in any case: what to tell of needs neither a program nor an address.
    assert_eq!(wrong(&yaml("setups: {a: {alerts: {on: [scan]}}}")), [""; 0]);
}

#[test]
fn mail_addresses_and_paths_cannot_be_options() {
    let mail = |address: &str| wrong(&yaml(&format!("defaults: {{alerts: {{mail: \"{address}\"}}}}"))).is_empty();
    assert!(mail("root") && mail("a.b+c@example.org"));
    for address in ["", "-oQ/tmp", "a b", "a@", "@b", "a@b@c", "a@b\\nc", "a,b"] {
        assert!(!mail(address), "{address}");
    }
    let path = |path: &str| wrong(&yaml(&format!("defaults: {{alerts: {{program: \"{path}\"}}}}"))).is_empty();
    assert!(path("/bin/true") && !path("bin/true") && !path("") && !path("/a\\nb") && !path("/\\0"));
}

#[test]
fn the_sample_is_right_also_with_everything_switched_on() {
    let text = sample();
    assert_eq!(wrong(&yaml(&text)), [""; 0]);
    assert!(yaml(&text).config == Config::default() || yaml(&text).config.setups.is_empty());
    // Every line "# key: value" of a key.
    let names: Vec<String> = KEYS.iter().map(|spec| format!("{}: ", spec.name)).collect();
    let on = |line: &str| match line.strip_prefix("    # ") {
        Some(rest) if names.iter().any(|name| rest.starts_with(name.as_str())) => format!("    {rest}\n"),
        _ => format!("{line}\n"),
    };
    let all = yaml(&text.lines().map(on).collect::<String>());
    assert_eq!(wrong(&all), [""; 0]);
    for spec in KEYS {
        let set = all.config.defaults.get(spec).unwrap_or_else(|| panic!("{} is not in the sample", spec.path()));
        assert!(spec.default == Value::Unset || spec.default == set.value, "{}", spec.path());
    }
    // And the example of a setup.
    let setups = text.split("setups:\n").nth(1).unwrap().replace("  # ", "  ");
    assert_eq!(wrong(&yaml(&format!("setups:\n{setups}"))), [""; 0]);
}

#[test]
fn the_table_fits_itself() {
    let mut seen = std::collections::BTreeSet::new();
    for spec in KEYS {
        assert!(seen.insert(spec.path()), "{} comes twice", spec.path());
        assert!(GROUPS.iter().any(|(group, _)| *group == spec.group), "{}", spec.path());
        // A default is one of the possible values, and is shown as it may be written.
        let Value::Unset = spec.default else {
            let text = format!("defaults: {{{}: {{{}: {}}}}}", spec.group, spec.name, spec.default);
            let reading = yaml(&text);
            assert!(reading.mistakes.iter().all(|m| m.problem.contains("nobody")), "{text}: {:?}", wrong(&reading));
            assert_eq!(reading.config.defaults.get(spec).unwrap().value, spec.default);
            continue;
        };
        assert!(!matches!(spec.kind, Kind::Switch | Kind::Integer(..) | Kind::Word(_)), "{}", spec.path());
    }
}

proptest! {
    #[test]
    fn any_text_gives_settings_or_mistakes(text in "[a-z:{}\\[\\]\"'#&*! \\n\\t-]{0,60}") {
        let _ = (yaml(&text), json(&text));
    }

    #[test]
    fn words_are_near_what_they_nearly_are(at in 0usize..7, c in proptest::char::range('a', 'z')) {
        let mut word: Vec<char> = "retries".chars().collect();
        prop_assert_eq!(distance("retries", "retries"), 0);
        word[at] = c;
        prop_assert!(distance(&word.iter().collect::<String>(), "retries") <= 1);
        word.insert(at, c);
        prop_assert!(distance(&word.iter().collect::<String>(), "retries") <= 2);
    }

    #[test]
    fn a_place_in_json_is_where_the_key_stands(before in "[ \\n\\té]{0,20}") {
        let before = before.replace('é', " ");
        let text = format!("{{{before}\"nope\": 1}}");
        let byte = text.find('"').unwrap();
        prop_assert_eq!(json(&text).mistakes[0].at, position_of(&text, byte));
    }
}
