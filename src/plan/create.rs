//! Planning a new setup.

use super::Refusal;
use crate::format::metadata::{Config, Health, Metadata, Policy, SetupState, SpareRecord, SpareState, check_name};
use crate::format::{DATA_START, MAX_SPARES};
use crate::identity::Identity;
use crate::map::{MAX_UNIT, Map};
use crate::units::{DevNo, Sectors};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A device as planning needs to know it.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// How the person named it.
    pub path: String,
    /// Its number.
    pub devno: DevNo,
    /// What it says of itself.
    pub identity: Identity,
    /// Who uses it, in words; empty when nobody does.
    pub uses: Vec<String>,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// What a spare-to-be holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing that anybody knows.
    Nothing,
    /// Somebody's data, in words.
    Signature(String),
    /// A spare of a setup.
    SpareOf {
        /// Name of the setup.
        name: String,
        /// Its UUID.
        setup: Uuid,
    },
    /// Metadata of a setup that never came to be, or was destroyed.
    Leftover,
    /// Metadata that is damaged or from a later version.
    Unusable(String),
}

/// A spare-to-be.
#[derive(Clone, Debug)]
pub struct SpareFacts {
    /// The device.
    pub device: DeviceFacts,
    /// What it holds.
    pub contents: Contents,
}

/// All that is known when a setup is to be created.
#[derive(Clone, Debug)]
pub struct CreateFacts {
    /// The name.
    pub name: String,
    /// What has the name already, if anything.
    pub name_taken: Option<String>,
    /// Main.
    pub main: DeviceFacts,
    /// Name of the setup that main is a spare of, if it is one.
    pub main_is_spare: Option<String>,
    /// The spares in order.
    pub spares: Vec<SpareFacts>,
    /// Pairs of the given devices that share sectors: paths and why.
    pub overlaps: Vec<(String, String, String)>,
    /// Overwrite signatures on spares.
    pub force_signature: bool,
    /// Choices of the administrator.
    pub policy: Policy,
    /// Now, seconds since 1970.
    pub now: u64,
    /// UUID for the setup.
    pub setup: Uuid,
    /// UUIDs for the spares, at least as many as there are.
    pub spare_uuids: Vec<Uuid>,
}

/// A setup that can be created.
#[derive(Clone, Debug)]
pub struct CreatePlan {
    /// What will be written first, as [`SetupState::Forming`].
    pub metadata: Metadata,
    /// Main.
    pub main: DeviceFacts,
    /// The spares in order.
    pub spares: Vec<DeviceFacts>,
    /// Things that the person ought to know.
    pub warnings: Vec<String>,
}

/// The unit for a main: the larger of its block sizes, at least 8 sectors unless main is smaller.
///
/// # Errors
/// [`Refusal::BadMain`] when that is no power of two or above [`MAX_UNIT`].
pub fn unit_for(path: &str, main: &Identity) -> Result<Sectors, Refusal> {
    let bad = |why: String| Refusal::BadMain { device: path.into(), why };
    let block = main.logical_block.max(main.physical_block);
    let unit = if main.size < Sectors(8) { block } else { block.max(Sectors(8)) };
    if main.size == Sectors::ZERO {
        return Err(bad("it has no sectors".into()));
    }
    if !main.size.is_multiple_of(main.logical_block) {
        return Err(bad("its size is not a whole number of its logical blocks".into()));
    }
    if !unit.0.is_power_of_two() || unit > MAX_UNIT {
        return Err(bad(format!("its blocks of {unit} sectors are not a power of two up to {MAX_UNIT}")));
    }
    Ok(unit)
}

/// Checks everything, and plans the setup.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn plan(facts: CreateFacts) -> Result<CreatePlan, Refusal> {
    check_name(&facts.name).map_err(|_| Refusal::BadName(facts.name.clone()))?;
    if let Some(by) = facts.name_taken {
        return Err(Refusal::NameTaken { name: facts.name, by });
    }
    if facts.spares.is_empty() || facts.spares.len() > MAX_SPARES {
        return Err(Refusal::SpareCount(facts.spares.len()));
    }
    if let Some((first, second, why)) = facts.overlaps.into_iter().next() {
        return Err(Refusal::Overlap { first, second, why });
    }
    check_free(&facts.main)?;
    if let Some(setup) = &facts.main_is_spare {
        let why = format!("it is a spare of the setup '{setup}'. Destroy that setup first");
        return Err(Refusal::BadMain { device: facts.main.path.clone(), why });
    }
    let unit = unit_for(&facts.main.path, &facts.main.identity)?;
    for spare in &facts.spares {
        check_spare(spare, &facts.main.identity, unit, facts.force_signature)?;
    }
    let records = facts.spares.iter().zip(&facts.spare_uuids).map(|(spare, uuid)| SpareRecord {
        uuid: *uuid,
        data_start: DATA_START,
        state: SpareState::Present,
        holds: None,
        removed: None,
        identity: spare.device.identity.clone(),
        unknown: BTreeMap::new(),
    });
    let map = Map::new(facts.main.identity.size, unit)
        .map_err(|e| Refusal::BadMain { device: facts.main.path.clone(), why: e.to_string() })?;
    let metadata = Metadata {
        setup: facts.setup,
        generation: 1,
        committed: facts.now,
        compatible: 0,
        incompatible: 0,
        config: Config {
            name: facts.name,
            state: SetupState::Forming,
            created: facts.now,
            main: facts.main.identity.clone(),
            policy: facts.policy,
            active: None,
            samples: None,
            unknown: BTreeMap::new(),
        },
        spares: records.collect(),
        map,
        health: Health::default(),
        bad_blocks: BTreeMap::new(),
        lineage: Vec::new(),
        unknown_sections: Vec::new(),
    };
    let mut warnings = Vec::new();
    if !facts.main.identity.has_stable_name() {
        warnings.push(format!(
            "{} has no WWN, serial number or partition UUID: after a reboot, 'activate' will need --main to be told which device it is",
            facts.main.path
        ));
    }
    let spares = facts.spares.into_iter().map(|s| s.device).collect();
    Ok(CreatePlan { metadata, main: facts.main, spares, warnings })
}

fn check_free(device: &DeviceFacts) -> Result<(), Refusal> {
    if !device.uses.is_empty() {
        return Err(Refusal::InUse { device: device.path.clone(), uses: device.uses.join("; ") });
    }
    if device.read_only {
        return Err(Refusal::ReadOnly(device.path.clone()));
    }
    Ok(())
}

/// Checks that a device can be a spare of a setup with this main and this unit.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn check_spare(spare: &SpareFacts, main: &Identity, unit: Sectors, force_signature: bool) -> Result<(), Refusal> {
    let SpareFacts { device, contents } = spare;
    check_free(device)?;
    if device.identity.logical_block > main.logical_block {
        return Err(Refusal::LargerBlocks {
            device: device.path.clone(),
            spare: device.identity.logical_block,
            main: main.logical_block,
        });
    }
    let needed = Sectors(DATA_START.0.saturating_add(unit.0));
    if device.identity.size < needed {
        let size = device.identity.size;
        return Err(Refusal::SpareTooSmall { device: device.path.clone(), size, needed });
    }
    match contents {
        Contents::SpareOf { name, setup } => {
            Err(Refusal::SpareOfSetup { device: device.path.clone(), name: name.clone(), setup: setup.to_string() })
        }
        Contents::Signature(signature) if !force_signature => {
            Err(Refusal::Signature { device: device.path.clone(), signature: signature.clone() })
        }
        Contents::Unusable(what) if !force_signature => {
            Err(Refusal::DamagedTraces { device: device.path.clone(), what: what.clone() })
        }
        _ => Ok(()),
    }
}
