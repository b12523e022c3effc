//! What monitoring/ ships fits what `metrics` prints: promtool takes the page and the rules, the rules raise what they should,
//! and rules, dashboard and template use no metric, label or code that there is not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dm_remap::messages::Trouble;
use dm_remap::metrics::{Contents, Disk, METRICS, Reading, SETUP_STATES, SPARE_STATES, Scan, Setup, Spare, render};
use dm_remap::stats::{BOUNDS_NS, Counted, Counters, Histogram, SetupStats, SpareStats};
use dm_remap::units::Sectors;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs promtool, and gives what it says; it must succeed, and have nothing to say against `input`.
fn promtool(args: &[&str], input: &str) -> String {
    let program = root().join("target/tools/promtool");
    assert!(program.exists(), "there is no {}: scripts/test file fetches it", program.display());
    let mut child = Command::new(program)
        .args(args)
        .current_dir(root().join("monitoring/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "promtool {}: {said}", args.join(" "));
    said
}

fn counted() -> Option<Counted> {
    let counts = (0..=42).collect();
    let histogram = Histogram { bounds_ns: BOUNDS_NS.to_vec(), counts };
    let counters = Counters { reads: 900, read_ns: 123_456_789, writes: 3, histogram, ..Counters::default() };
    Some(Counted { since: 1_700_000_000, counters })
}

/// A page with a sample of every metric.
fn page() -> String {
    let spare = |index, state: &str| Spare {
        index,
        device: Some("/dev/sdb".into()),
        uuid: "u".into(),
        state: state.into(),
        known: true,
        used: Sectors(8),
        free: Sectors(1000),
        copies_current: 5,
        generation: Some(9),
        ..Spare::default()
    };
    let setup = |name: &str| Setup {
        name: name.into(),
        main: "/dev/disk/by-id/a \"b\" \\ c\nd ü".into(),
        state: "degraded".into(),
        troubles: vec!["DMR-05".into()],
        size: Sectors(1 << 40),
        contents: Some(Contents { exhausted_at: Some(1_800_000_000), generation: 9, ..Contents::default() }),
        scan: Some(Scan { started: 1_700_000_000, finished: Some(1_700_000_100), percent: 100, ..Scan::default() }),
        spares: vec![spare(0, "online"), spare(1, "missing")],
        stats: SetupStats {
            setup: counted(),
            spares: vec![SpareStats { index: 0, counted: counted(), ..SpareStats::default() }],
        },
        disks: vec![Disk { role: "main".into(), score: 63, recorded: 1_700_000_000, risk: Some(12_500_000) }],
        ..Setup::default()
    };
    let readings = [
        Reading::Seen(Box::new(setup("data"))),
        Reading::Seen(Box::new(setup("root"))),
        Reading::Silent("slow".into()),
        Reading::Failed("gone".into()),
    ];
    render("0.1.0", &readings, &Trouble::ALL.map(|trouble| trouble.message().code))
}

#[test]
fn promtool_has_nothing_to_say_against_the_page() {
    let page = page();
    for metric in METRICS {
        assert!(page.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind)), "no {}", metric.name);
    }
    assert_eq!(promtool(&["check", "metrics"], &page), "");
    // It would see a page that is wrong.
    let broken =
        page.replace("# TYPE dm_remap_setups gauge\n", "# TYPE dm_remap_setups gauge\ndm_remap_setups{a=\"} 1\n");
    let program = root().join("target/tools/promtool");
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(broken.as_bytes()).unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn the_rules_are_valid_and_raise_what_they_should() {
    assert!(promtool(&["check", "rules", "dm-remap.rules.yml"], "").contains("SUCCESS"));
    assert!(promtool(&["test", "rules", "dm-remap.test.yml"], "").contains("SUCCESS"));
    // Each rule is named in its tests, or raised by them.
    let read = |name: &str| std::fs::read_to_string(root().join("monitoring/prometheus").join(name)).unwrap();
    let (rules, tests) = (read("dm-remap.rules.yml"), read("dm-remap.test.yml"));
    for rule in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(rule), "{rule} has no test");
    }
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

/// The words of `text` that begin with `start`.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).map(move |(at, _)| {
        let word = &text[at..];
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').unwrap_or(word.len());
        &word[..end]
    })
}

#[test]
fn rules_dashboard_and_template_use_only_what_there_is() {
    let mut all = Vec::new();
    files(&root().join("monitoring"), &mut all);
    let known: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let codes = Trouble::ALL.map(|trouble| trouble.message().code);
    let mut used = BTreeSet::new();
    for path in &all {
        let text = std::fs::read_to_string(path).unwrap().replace("\\\"", "\"");
        for word in words(&text, "dm_remap_").map(|word| word.strip_suffix("_bucket").unwrap_or(word)) {
            assert!(known.contains(word), "{}: there is no metric {word}", path.display());
            used.insert(word.to_string());
        }
        for word in words(&text, "DMR-0").chain(words(&text, "DMR-1")) {
            assert!(codes.contains(&word), "{}: there is no code {word}", path.display());
        }
        for (at, mark) in text.match_indices("state=\"").chain(text.match_indices("state!=\"")) {
            let word = text[at + mark.len()..].split('"').next().unwrap();
            let there_is = SETUP_STATES.contains(&word) || SPARE_STATES.contains(&word);
            // The state of an alert is Prometheus' own.
            let alert = text[..at].ends_with("alert");
            assert!(there_is || alert, "{}: there is no state {word}", path.display());
        }
    }
    assert!(all.len() >= 5 && used.len() > 15, "{used:?}");
}

#[test]
fn dashboard_and_template_are_whole() {
    let read = |name: &str| std::fs::read_to_string(root().join("monitoring").join(name)).unwrap();
    let board: serde_json::Value = serde_json::from_str(&read("grafana/dm-remap.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    // Every query of the dashboard is one that Prometheus can read: as a rule of its own.
    let mut rules = String::from("groups:\n  - name: x\n    rules:\n");
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        rules += &format!("      - record: x\n        expr: '{}'\n", target["expr"].as_str().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");

    let template = read("zabbix/dm-remap.yaml");
    let ids: Vec<&str> =
        template.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uuid: ")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    assert!(ids.iter().all(|id| id.len() == 32 && &id[12..13] == "4"), "{ids:?}");
    // Every trigger's item is there.
    let keys: Vec<&str> = template
        .lines()
        .filter_map(|line| line.trim().strip_prefix("key: "))
        .map(|key| key.trim_matches('\''))
        .collect();
    let triggers: Vec<&str> = template
        .lines()
        .filter_map(|line| line.split_once("expression: 'last(/dm-remap by Zabbix agent/"))
        .map(|(_, rest)| rest.split(')').next().unwrap())
        .collect();
    assert!(triggers.len() > 8 && triggers.iter().all(|key| keys.contains(key)), "{triggers:?}");
}
