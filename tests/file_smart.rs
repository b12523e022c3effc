//! Outputs of smartctl from real disks, as far as they are at hand: all are understood, and judged as their names say.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dm_remap::health::{Band, Evidence, Health, judge};
use dm_remap::smart::{Protocol, Smart, parse};
use std::path::{Path, PathBuf};

/// The outputs are not ours to keep.
fn outputs() -> Option<Vec<(String, Smart)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/smartctl");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: {} is not there", folder.display());
        return None;
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let smart =
            parse(&std::fs::read(path).unwrap()).unwrap_or_else(|| panic!("{} is not understood", path.display()));
        (path.file_name().unwrap().to_string_lossy().into_owned(), smart)
    };
    Some(paths.iter().map(read).collect())
}

fn health(smart: &Smart) -> Health {
    judge(&Evidence { now: 1_800_000_000, smart: Some(smart), ..Evidence::default() })
}

#[test]
fn all_of_them_are_understood() {
    let Some(outputs) = outputs() else { return };
    assert!(outputs.len() >= 7);
    for (name, smart) in &outputs {
        let protocol = match name.split('_').next().unwrap() {
            "ata" | "sata" => Protocol::Ata,
            "nvme" => Protocol::Nvme,
            "sas" => Protocol::Scsi,
            other => panic!("what is {other}?"),
        };
        assert_eq!(smart.protocol, protocol, "{name}");
        assert!(smart.model.is_some() && smart.serial.is_some() && smart.passed.is_some(), "{name}: {smart:?}");
        assert!(smart.power_on_hours.is_some() && smart.temperature.is_some(), "{name}: {smart:?}");
        assert!(!smart.counters.is_empty(), "{name}: {smart:?}");
        // Packed values would be huge.
        assert!(smart.counters.values().all(|value| *value < 1 << 20), "{name}: {smart:?}");
    }
}

#[test]
fn scores_are_ordered_as_the_names_say() {
    let Some(outputs) = outputs() else { return };
    let scores = |word: &str| {
        let of: Vec<(String, Health)> = outputs
            .iter()
            .filter(|(name, _)| name.contains(word))
            .map(|(name, smart)| (name.clone(), health(smart)))
            .collect();
        assert!(!of.is_empty(), "{word}");
        of
    };
    for (name, health) in scores("healthy") {
        assert!(health.band == Band::Good && health.score == Some(100), "{name}: {health:?}");
    }
    for (name, health) in scores("degraded") {
        assert!(health.band == Band::Poor, "{name}: {health:?}");
        // Its maker says PASSED.
        assert!(health.reasons.iter().any(|reason| reason.text.contains("PASSED")), "{name}: {health:?}");
    }
    for (name, health) in scores("FAILED") {
        assert!(health.band == Band::Failing && health.score < Some(26), "{name}: {health:?}");
    }
    for (name, health) in scores("grown_defects") {
        assert!(health.band == Band::Fair && health.reasons[0].text == "grown defects 56", "{name}: {health:?}");
    }
}
