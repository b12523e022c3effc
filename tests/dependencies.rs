//! What the program is built from, by the rules of deny.toml: licences, where crates come from, and no version left open. `cargo deny
//! check bans licenses sources` says the same, and takes two minutes to build; these are its rules that this project needs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use spdx::{Expression, Licensee, ParseMode};
use std::collections::BTreeSet;
use std::process::Command;
use toml::{Table, Value};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn table(file: &str) -> Table {
    std::fs::read_to_string(format!("{ROOT}/{file}")).unwrap().parse().unwrap()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string()).collect()
}

/// `name vVERSION (where it is from, when that is not the registry)`, and its licence, of all that is used for the targets of deny.toml,
/// also by those that only build or test.
fn packages() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for target in words(&table("deny.toml")["graph"]["targets"]) {
        let args = ["tree", "--locked", "--all-features", "--edges=all", "--prefix=none", "--format={p}|{l}"];
        let out =
            Command::new(env!("CARGO")).current_dir(ROOT).args(args).arg("--target").arg(target).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let lines = text.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| line.contains('|'));
        all.extend(lines.map(|line| {
            let (package, licence) = line.split_once('|').unwrap();
            (package.replace(" (proc-macro)", ""), licence.to_string())
        }));
    }
    assert!(all.len() > 50, "{all:?}");
    all
}

/// Whether a package may be used under this expression, as far as deny.toml says.
fn is_allowed(rules: &Table, package: &str, licence: &str) -> bool {
    let mut names = words(&rules["licenses"]["allow"]);
    for exception in rules["licenses"]["exceptions"].as_array().unwrap() {
        if exception["crate"].as_str() == Some(package) {
            names.extend(words(&exception["allow"]));
        }
    }
    let allowed: Vec<Licensee> = names.iter().map(|word| Licensee::parse(word).unwrap()).collect();
    let Ok(expression) = Expression::parse_mode(licence, ParseMode::LAX) else { return false };
    expression.evaluate(|requirement| allowed.iter().any(|licensee| licensee.satisfies(requirement)))
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let rules = table("deny.toml");
    let name = |package: &str| package.split(' ').next().unwrap().to_string();
    let packages = packages();
    let wrong: Vec<_> = packages.iter().filter(|(p, licence)| !is_allowed(&rules, &name(p), licence)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The rule can say no.
    assert!(!is_allowed(&rules, "dm-remap", "GPL-3.0-only") && !is_allowed(&rules, "clap", ""));
    assert!(is_allowed(&rules, "devicemapper", "MPL-2.0") && !is_allowed(&rules, "clap", "MPL-2.0"));
}

#[test]
fn every_crate_comes_from_the_registry() {
    let elsewhere: Vec<_> = packages().into_iter().filter(|(package, _)| package.contains('(')).collect();
    let ours = |(package, _): &(String, String)| package.starts_with("dm-remap v") && package.contains(ROOT);
    assert!(elsewhere.len() == 1 && elsewhere.iter().all(ours), "{elsewhere:?}");
}

#[test]
fn no_version_is_left_open() {
    for file in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let manifest = table(file);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(section).and_then(Value::as_table).into_iter().flatten() {
                let version = value.as_str().or_else(|| value.get("version")?.as_str());
                let is_ours = value.get("path").is_some();
                assert!(is_ours || version.is_some_and(|version| !version.contains('*')), "{file}: {name} {value}");
            }
        }
    }
}
