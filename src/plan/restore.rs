//! Planning to write the metadata of a backup file back onto spares.
//!
//! Invariants:
//! - only onto a device that fits the identity of the spare that it is to be, and that is no other spare;
//! - never over metadata that is newer than the backup, or that went its own way, unless that is said by name;
//! - the new generation is above all that was seen, and remembers the backup and what is given up for it as its ancestors;
//! - one backup, restored to one spare after the other, makes one generation.

use super::create::DeviceFacts;
use super::{Refusal, repair};
use crate::format::choose::{ChooseError, Chosen, choose};
use crate::format::copy::{ValidCopy, Verdict};
use crate::format::metadata::{Ancestor, Metadata, SetupState};
use crate::identity::Match;
use crate::map::SpareIndex;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Which spare a device is to be, in a person's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsSpare {
    /// By its UUID.
    Uuid(Uuid),
    /// By its place in the setup.
    Index(SpareIndex),
}

/// A device with what was found on it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The device.
    pub device: DeviceFacts,
    /// A verdict for each of its copies.
    pub verdicts: Vec<Verdict>,
    /// What else is on it, in words.
    pub signature: Option<String>,
}

/// What may be overwritten.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Metadata that is newer than the backup.
    pub over_newer: bool,
    /// Metadata that went another way than the backup.
    pub over_divergent: bool,
    /// A filesystem or the like.
    pub force_signature: bool,
}

/// All that is known when a backup is to be restored.
#[derive(Clone, Debug)]
pub struct RestoreFacts {
    /// What the file holds.
    pub backup: ValidCopy,
    /// Whether the setup is up.
    pub active: bool,
    /// The devices to write to.
    pub targets: Vec<Found>,
    /// Other devices here that hold copies of the setup.
    pub others: Vec<Found>,
    /// Which spare the device is to be; for one target only.
    pub as_spare: Option<AsSpare>,
    /// What may be overwritten.
    pub allowed: Allowed,
    /// A generation above all that were ever begun on any of the devices.
    pub unused: u64,
    /// Now, seconds since 1970.
    pub now: u64,
}

/// A restore that can be made.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// What will be written.
    pub metadata: Metadata,
    /// Which target becomes which spare, in the order of the targets.
    pub spares: Vec<SpareIndex>,
    /// Things that the person ought to know.
    pub warnings: Vec<String>,
}

/// Checks everything, and plans the restore.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn plan(facts: &RestoreFacts) -> Result<RestorePlan, Refusal> {
    let backup = &facts.backup.metadata;
    let name = &backup.config.name;
    let refuse = |device: &str, what: String| Refusal::Metadata { device: device.into(), what };
    match backup.config.state {
        SetupState::Ready => {}
        SetupState::Forming => return Err(refuse(name, "the backup is of a creation that was not finished".into())),
        SetupState::Dissolved => return Err(refuse(name, "the backup is of a setup that was destroyed".into())),
    }
    if facts.active {
        let what = "it is active: its spares are read and written by it. 'metadata repair' mends their copies";
        return Err(refuse(name, what.into()));
    }
    if facts.targets.is_empty() {
        return Err(Refusal::NothingGiven);
    }
    let mut spares: Vec<SpareIndex> = Vec::new();
    for target in &facts.targets {
        repair::check_free(&target.device)?;
        let index = spare_of(facts, target)?;
        if spares.contains(&index) {
            return Err(refuse(&target.device.path, format!("another device was given for spare {index} already")));
        }
        check_overwritten(facts, target)?;
        spares.push(index);
    }
    for other in &facts.others {
        check_against(facts, other)?;
    }
    let metadata = made_before(facts).unwrap_or_else(|| made_anew(facts));
    Ok(RestorePlan { warnings: warnings(facts, &spares), metadata, spares })
}

/// The newest copies on all devices, as far as they have one.
fn newest_copies(facts: &RestoreFacts) -> impl Iterator<Item = ValidCopy> + '_ {
    facts.targets.iter().chain(&facts.others).filter_map(|found| Some(choose(&found.verdicts).ok()?.copy))
}

/// The generation that an earlier call has made of this backup, if it is the newest here: this call, for other spares of the
/// same setup or after it was killed, goes on with it, or the spares would tell different truths.
fn made_before(facts: &RestoreFacts) -> Option<Metadata> {
    let newest = newest_copies(facts).max_by_key(|copy| copy.metadata.generation)?;
    is_restored(&facts.backup, &newest).then_some(newest.metadata)
}

/// A generation of its own. Those that are newer than the backup, and are given up for it, become its ancestors: who still
/// has one of them is behind.
fn made_anew(facts: &RestoreFacts) -> Metadata {
    let backup = &facts.backup.metadata;
    let newer = newest_copies(facts).filter(|copy| copy.metadata.generation > backup.generation);
    let given_up: BTreeMap<u64, [u8; 32]> = newer.map(|copy| (copy.metadata.generation, copy.digest)).collect();
    let mut metadata = backup.next(facts.now, facts.backup.digest);
    for (generation, digest) in given_up {
        metadata.supersede(Ancestor { generation, digest });
    }
    metadata.generation = metadata.generation.max(facts.unused);
    metadata
}

/// Whether a copy is what a restore of the backup has written.
fn is_restored(backup: &ValidCopy, copy: &ValidCopy) -> bool {
    let found = &copy.metadata;
    let ancestor = Ancestor { generation: backup.metadata.generation, digest: backup.digest };
    let mut expected = backup.metadata.next(found.committed, backup.digest);
    (expected.generation, expected.lineage) = (found.generation, found.lineage.clone());
    found.lineage.contains(&ancestor) && expected == *found
}

/// Which spare of the backup's setup the target is.
fn spare_of(facts: &RestoreFacts, target: &Found) -> Result<SpareIndex, Refusal> {
    let backup = &facts.backup.metadata;
    let path = &target.device.path;
    let refuse = |what: String| Refusal::Metadata { device: path.clone(), what };
    let records = || backup.members();
    let held = target.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Valid(copy) if copy.metadata.setup == backup.setup => Some(copy.spare),
        _ => None,
    });
    let named = match facts.as_spare {
        None => None,
        Some(AsSpare::Index(index)) => {
            let record = backup.spare(index).ok_or_else(|| refuse(format!("the backup has no spare {index}")))?;
            if !record.state.is_member() {
                return Err(refuse(format!("spare {index} was removed before the backup was made")));
            }
            Some(index)
        }
        Some(AsSpare::Uuid(uuid)) => {
            let index = backup.spare_index(uuid).filter(|index| backup.is_member(*index));
            Some(index.ok_or_else(|| refuse(format!("the backup has no spare with the UUID {uuid}")))?)
        }
    };
    let member = |uuid| backup.spare_index(uuid).filter(|index| backup.is_member(*index));
    let found = match (held.map(|uuid| (uuid, member(uuid))), named) {
        (Some((_, Some(held))), Some(named)) if held != named => {
            return Err(refuse(format!("it is spare {held} by what it holds, and not spare {named}")));
        }
        (Some((uuid, None)), _) => {
            return Err(refuse(format!("it holds spare {uuid} of this setup, which the backup does not know")));
        }
        (Some((_, Some(index))), _) | (None, Some(index)) => Some(index),
        (None, None) => None,
    };
    if let Some(index) = found {
        if !records().any(|(member, _)| member == index) {
            return Err(refuse(format!("spare {index} was removed from '{}' before the backup", backup.config.name)));
        }
        return match backup.spare(index).map(|record| record.identity.matches(&target.device.identity)) {
            Some(Match::Different(why)) => {
                Err(refuse(format!("it is another device than spare {index} of '{}' was: {why}", backup.config.name)))
            }
            _ => Ok(index),
        };
    }
    let judged =
        |wanted: Match| records().filter(move |(_, record)| record.identity.matches(&target.device.identity) == wanted);
    let proven: Vec<SpareIndex> = judged(Match::Proven).map(|(index, _)| index).collect();
    match proven.as_slice() {
        [only] => return Ok(*only),
        [] => {}
        several => {
            let list = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(refuse(format!("it fits the spares {list}. Say which one with --as-spare")));
        }
    }
    let unproven: Vec<String> = judged(Match::Unproven).map(|(index, _)| index.to_string()).collect();
    Err(refuse(if unproven.is_empty() {
        format!("it fits no spare of '{}': its size or its names are others", backup.config.name)
    } else {
        format!(
            "it has no name that proves it to be a spare of '{}'. If it is, say which one with --as-spare (by its size it may be {})",
            backup.config.name,
            unproven.join(" or ")
        )
    }))
}

/// Refuses to overwrite what must not be, on a target.
fn check_overwritten(facts: &RestoreFacts, target: &Found) -> Result<(), Refusal> {
    let device = target.device.path.clone();
    repair::check_supported(&device, &target.verdicts)?;
    if let Some(signature) = target.signature.clone()
        && !facts.allowed.force_signature
    {
        return Err(Refusal::Signature { device, signature });
    }
    let setup = facts.backup.metadata.setup;
    for verdict in &target.verdicts {
        match verdict {
            Verdict::Valid(copy) if copy.metadata.setup != setup => {
                let (name, setup) = (copy.metadata.config.name.clone(), copy.metadata.setup.to_string());
                return Err(Refusal::SpareOfSetup { device, name, setup });
            }
            Verdict::Foreign(_) if !facts.allowed.force_signature => return Err(repair::foreign(&device)),
            _ => {}
        }
    }
    check_against(facts, target)
}

/// Refuses when a device, a target or not, holds the setup in a newer generation, or in one that went another way.
fn check_against(facts: &RestoreFacts, found: &Found) -> Result<(), Refusal> {
    let backup = &facts.backup;
    let device = &found.device.path;
    let refuse = |what: String| Refusal::Metadata { device: device.clone(), what };
    match choose(&found.verdicts) {
        Err(ChooseError::NoneValid) => Ok(()),
        Err(error @ ChooseError::Mixed(_)) => Err(refuse(error.to_string())),
        Err(ChooseError::Divergent(_)) if facts.allowed.over_divergent => Ok(()),
        Err(error) => {
            Err(refuse(format!("{error}. 'metadata repair --from-copy' settles it, or say --over-divergent")))
        }
        Ok(chosen) if is_restored(backup, &chosen.copy) => Ok(()),
        Ok(chosen) if is_divergent(backup, &chosen) => {
            if facts.allowed.over_divergent {
                return Ok(());
            }
            let generation = chosen.copy.metadata.generation;
            Err(refuse(format!(
                "it holds generation {generation} of this setup with another content than the backup's: they went different ways. If the backup is right, say --over-divergent"
            )))
        }
        Ok(chosen) if chosen.copy.metadata.generation > backup.metadata.generation => {
            if facts.allowed.over_newer {
                return Ok(());
            }
            let (newer, older) = (chosen.copy.metadata.generation, backup.metadata.generation);
            Err(refuse(format!(
                "it holds generation {newer} of this setup, which is newer than the backup's {older}: what was moved since would be forgotten. 'metadata repair' mends its copies; if the older map is really meant, say --over-newer"
            )))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether one of the two is not an ancestor of the other, as far as they remember.
fn is_divergent(backup: &ValidCopy, chosen: &Chosen) -> bool {
    let (mine, theirs) = (&backup.metadata, &chosen.copy.metadata);
    if mine.generation == theirs.generation {
        return backup.digest != chosen.copy.digest;
    }
    let (old, new) = if mine.generation < theirs.generation { (backup, &chosen.copy) } else { (&chosen.copy, backup) };
    let known = new.metadata.lineage.iter().find(|ancestor| ancestor.generation == old.metadata.generation);
    known.is_some_and(|ancestor| ancestor.digest != old.digest)
}

fn warnings(facts: &RestoreFacts, spares: &[SpareIndex]) -> Vec<String> {
    let backup = &facts.backup.metadata;
    let mut out = Vec::new();
    let served = |index: &SpareIndex| backup.map.extents_by_slot(*index).next().is_some();
    if spares.iter().any(served) {
        out.push(
            "only the map is restored, not what is in the slots: where a spare was overwritten, its extents read what is there now"
                .into(),
        );
    }
    if facts.others.is_empty() && facts.targets.iter().all(|t| choose(&t.verdicts).is_err()) {
        out.push(format!(
            "nothing here tells whether generation {} was the last one: what was moved after it is not in the map, and main's old data answers there",
            backup.generation
        ));
    }
    if backup.config.active.is_some() {
        out.push(
            "the backup was made while the setup was up: 'activate' will say that it was not put down cleanly".into(),
        );
    }
    out
}
