//! Finding the devices of a setup that is not up: its spares by what is on them, its main by what it says of itself.
//!
//! Invariants:
//! - devices are opened for reading only;
//! - a path proves nothing; two candidates are refused.

use super::EngineError;
use super::session::UUID_PREFIX;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::block::host::Host;
use crate::format::choose::{Expected, SetupChoice, choose_setup};
use crate::format::copy::Verdict;
use crate::identity::{Identity, Match};
use crate::plan::Refusal;
use crate::store::{SpareReading, read_copies};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A device that holds copies.
#[derive(Clone, Debug)]
pub struct FoundSpare {
    /// The device.
    pub device: BlockDevice,
    /// What stands on it.
    pub reading: SpareReading,
}

/// Which setup is wanted.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// By name, on any device.
    Name(String),
    /// By UUID, on any device.
    Setup(Uuid),
    /// Whatever stands on this device, and the other spares of the same setup.
    Spare(PathBuf),
}

/// Whether a device-mapper device is one that we made: what is behind it will be found by itself.
pub fn is_ours(host: &Host, device: &BlockDevice) -> bool {
    let path = host.sys().join("class/block").join(&device.name).join("dm/uuid");
    std::fs::read_to_string(path).is_ok_and(|uuid| uuid.starts_with(UUID_PREFIX))
}

/// Reads the copies of one device.
///
/// # Errors
/// When it cannot be opened.
pub fn read_spare(host: &Host, path: &Path, expected: Expected) -> Result<FoundSpare, EngineError> {
    let device = host.device(path).map_err(|e| EngineError::Device(e.to_string()))?;
    let disk = DirectDisk::open_device(&device, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
    let reading = read_copies(&disk, expected);
    Ok(FoundSpare { device, reading })
}

/// All spares of the wanted setup among all block devices, besides those in `named`, which come first.
///
/// # Errors
/// When a named device cannot be read or holds no valid copy, or nothing is found.
pub fn find_spares(host: &Host, wanted: &Wanted, named: &[PathBuf]) -> Result<Vec<FoundSpare>, EngineError> {
    let mut found = Vec::new();
    let mut paths: Vec<PathBuf> = named.to_vec();
    if let Wanted::Spare(path) = wanted {
        paths.insert(0, path.clone());
    }
    for path in &paths {
        let spare = read_spare(host, path, Expected::default())?;
        if let Err(error) = spare.reading.choose() {
            let what = format!("{error}: {}", describe(&spare.reading));
            return Err(Refusal::Metadata { device: path.display().to_string(), what }.into());
        }
        if !found.iter().any(|f: &FoundSpare| f.device.devno == spare.device.devno) {
            found.push(spare);
        }
    }
    let setup = match (wanted, found.first().and_then(|f| f.reading.choose().ok())) {
        (_, Some(chosen)) => Some(chosen.copy.metadata.setup),
        (Wanted::Setup(setup), None) => Some(*setup),
        _ => None,
    };
    let name = match wanted {
        Wanted::Name(name) => Some(name.as_str()),
        _ => None,
    };
    if complete(&found) {
        return Ok(found);
    }
    for device in host.all_devices() {
        // What something else stands on is not a spare itself (a leg of a mirror, a path), and would be refused anyway;
        // a suspended device would not answer.
        if !is_idle(host, &device) {
            continue;
        }
        if is_ours(host, &device) || found.iter().any(|f| f.device.devno == device.devno) {
            continue;
        }
        let Ok(disk) = DirectDisk::open_device(&device, Mode::ReadOnly) else { continue };
        let reading = read_copies(&disk, Expected { setup, spare: None });
        if belongs(&reading, setup, name) {
            found.push(FoundSpare { device, reading });
        }
    }
    if found.is_empty() {
        let what = match wanted {
            Wanted::Name(name) => format!("no device here is a spare of a setup called '{name}'"),
            Wanted::Setup(setup) => format!("no device here is a spare of the setup {setup}"),
            Wanted::Spare(path) => format!("{} is not a spare", path.display()),
        };
        return Err(EngineError::Device(what));
    }
    Ok(found)
}

/// Whether the devices found are all spares of their setup.
fn complete(found: &[FoundSpare]) -> bool {
    let chosen: Vec<_> = found.iter().filter_map(|f| f.reading.choose().ok()).collect();
    choose_setup(&chosen).is_ok_and(|choice| choice.missing.is_empty())
}

fn is_idle(host: &Host, device: &BlockDevice) -> bool {
    let folder = host.sys().join("class/block").join(&device.name);
    let held = std::fs::read_dir(folder.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
    let suspended = std::fs::read_to_string(folder.join("dm/suspended")).is_ok_and(|text| text.trim() == "1");
    !held && !suspended
}

fn belongs(reading: &SpareReading, setup: Option<Uuid>, name: Option<&str>) -> bool {
    reading.verdicts.iter().any(|verdict| match verdict {
        Verdict::Valid(copy) => match setup {
            Some(setup) => copy.metadata.setup == setup,
            None => name == Some(copy.metadata.config.name.as_str()),
        },
        _ => false,
    })
}

/// The verdicts of a device in one line.
pub fn describe(reading: &SpareReading) -> String {
    let words: Vec<String> =
        reading.verdicts.iter().enumerate().map(|(i, v)| format!("copy {i} {}", verdict_words(v))).collect();
    words.join(", ")
}

/// A verdict in words.
pub fn verdict_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Unreadable { reason, .. } => format!("unreadable: {reason}"),
        Verdict::Blank => "blank".into(),
        Verdict::Foreign(what) => format!("foreign: {what}"),
        Verdict::Damaged(damage) => format!("damaged: {damage}"),
        Verdict::Unsupported(what) => format!("unsupported: {what}"),
        Verdict::Valid(copy) => format!("valid, generation {}", copy.metadata.generation),
    }
}

/// The device that is main: the one named, if it fits, else the only one that is proven to be it.
///
/// # Errors
/// [`Refusal::MainUnclear`] when the named one is another device, none is found, or more than one.
pub fn find_main(
    host: &Host,
    choice: &SetupChoice,
    named: Option<&Path>,
    spares: &[FoundSpare],
) -> Result<BlockDevice, EngineError> {
    let metadata = &choice.newest.metadata;
    let (name, wanted) = (&metadata.config.name, &metadata.config.main);
    if let Some(path) = named {
        let device = host.device(path).map_err(|e| EngineError::Device(e.to_string()))?;
        return match wanted.matches(&device.identity) {
            Match::Different(why) => {
                let what = format!("{} is not the main of '{name}': {why}", path.display());
                Err(Refusal::MainUnclear(what).into())
            }
            Match::Proven | Match::Unproven => Ok(device),
        };
    }
    let is_spare = |d: &BlockDevice| spares.iter().any(|s| s.device.devno == d.devno);
    let devices: Vec<BlockDevice> =
        host.all_devices().into_iter().filter(|d| !is_spare(d) && !is_ours(host, d)).collect();
    let mut proven = devices.iter().filter(|d| wanted.matches(&d.identity) == Match::Proven);
    match (proven.next(), proven.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(one), Some(two)) => Err(Refusal::MainUnclear(format!(
            "the main of '{name}' is ambiguous: {} and {} both match. Name the right one with --main",
            one.path.display(),
            two.path.display()
        ))
        .into()),
        (None, _) => Err(Refusal::MainUnclear(missing_main(name, wanted, &devices)).into()),
    }
}

fn missing_main(name: &str, wanted: &Identity, devices: &[BlockDevice]) -> String {
    let fitting: Vec<String> = devices
        .iter()
        .filter(|d| wanted.matches(&d.identity) == Match::Unproven)
        .map(|d| d.path.display().to_string())
        .collect();
    let hint = wanted.path.as_deref().map(|p| format!(" (last seen as {p})")).unwrap_or_default();
    if fitting.is_empty() {
        format!(
            "the main of '{name}'{hint} is not here: no device has its identity and its size of {} sectors",
            wanted.size
        )
    } else {
        format!(
            "the main of '{name}'{hint} cannot be proven: it has no WWN, serial or partition UUID that is known here. Of its size are: {}. Name the right one with --main",
            fitting.join(", ")
        )
    }
}
