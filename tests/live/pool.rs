//! The spares of a setup, as it tells of them.

use super::{Setup, dm_remap};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The spares by index: path and state.
pub fn spares(name: &str) -> BTreeMap<usize, (PathBuf, String)> {
    let out = dm_remap(&["spare", "list", name, "--json"]).expect(&[0]).out;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let rows = json["setups"][0]["spares"].as_array().unwrap_or_else(|| panic!("{out}"));
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_string();
    rows.iter()
        .map(|row| (row["index"].as_u64().unwrap() as usize, (text(row, "device").into(), text(row, "state"))))
        .collect()
}

/// Brings the list of devices up to date: the place of one that was removed keeps the last path.
pub fn follow(setup: &mut Setup) -> BTreeMap<usize, (PathBuf, String)> {
    let found = spares(&setup.name);
    for (index, (path, _)) in &found {
        while setup.spares.len() <= *index {
            setup.spares.push(path.clone());
        }
        setup.spares[*index] = path.clone();
    }
    found
}
