//! Planning to rewrite the copies of spares that are damaged, blank or old.
//!
//! Invariants:
//! - a spare's copies are mended from a good copy of that spare, in the same generation: nothing becomes newer than it was;
//! - where copies contradict each other a person chooses, and only then there is a new generation, above all that was seen;
//! - a spare that is merely behind the others is told of, and not touched: what it missed is for `activate` to judge;
//! - what is not ours is not overwritten unless that is said by name;
//! - a spare that was removed from the setup is told of, and not mended.

use super::Refusal;
use super::create::DeviceFacts;
use super::restore::{AsSpare, Found};
use crate::format::choose::{ChooseError, Chosen, choose, choose_setup};
use crate::format::copy::{ValidCopy, Verdict, encode};
use crate::format::metadata::{Metadata, SetupState};
use crate::units::Sectors;
use uuid::Uuid;

/// All that is known when copies are to be mended.
#[derive(Clone, Debug)]
pub struct RepairFacts {
    /// The spares to mend: one, or those of a setup that are here.
    pub spares: Vec<Found>,
    /// Other spares of the same setup that are here, and are not to be touched.
    pub others: Vec<Found>,
    /// The copy that is right, where copies contradict each other.
    pub from_copy: Option<usize>,
    /// The spare that is right, where spares do.
    pub from_spare: Option<AsSpare>,
    /// Overwrite what is not ours, where a copy belongs.
    pub force_signature: bool,
    /// A generation above all that were ever begun on any of the devices.
    pub unused: u64,
    /// Now, seconds since 1970.
    pub now: u64,
}

/// Copies of one spare that are to be written.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which of the facts' spares.
    pub position: usize,
    /// The spare's UUID.
    pub spare: Uuid,
    /// First sector of its data area.
    pub data_start: Sectors,
    /// The copies to write.
    pub copies: Vec<usize>,
    /// The copies that are good now, and must be overwritten last.
    pub good: Vec<usize>,
    /// What they will hold.
    pub metadata: Metadata,
}

/// What will be written. No steps: all copies are in order.
#[derive(Clone, Debug, Default)]
pub struct RepairPlan {
    /// For each spare that needs it.
    pub steps: Vec<Step>,
    /// Whether the steps carry a new generation, because a person has chosen among contradicting copies.
    pub new_generation: bool,
    /// Things that the person ought to know.
    pub notes: Vec<String>,
}

/// A device that may be written: free and not read-only.
///
/// # Errors
/// [`Refusal::InUse`], [`Refusal::ReadOnly`].
pub(super) fn check_free(device: &DeviceFacts) -> Result<(), Refusal> {
    if !device.uses.is_empty() {
        return Err(Refusal::InUse { device: device.path.clone(), uses: device.uses.join("; ") });
    }
    if device.read_only {
        return Err(Refusal::ReadOnly(device.path.clone()));
    }
    Ok(())
}

/// Refuses copies of a later version: this one cannot judge them.
///
/// # Errors
/// [`Refusal::Metadata`].
pub(super) fn check_supported(device: &str, verdicts: &[Verdict]) -> Result<(), Refusal> {
    let unsupported = verdicts.iter().enumerate().find_map(|(index, verdict)| match verdict {
        Verdict::Unsupported(what) => Some(format!("copy {index}: {what}. Nothing is overwritten by this version")),
        _ => None,
    });
    unsupported.map_or(Ok(()), |what| Err(Refusal::Metadata { device: device.into(), what }))
}

/// The refusal to overwrite what nobody knows.
pub(super) fn foreign(device: &str) -> Refusal {
    Refusal::Signature { device: device.into(), signature: "data of something else where a copy belongs".into() }
}

/// Plans the repair.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn plan(facts: &RepairFacts) -> Result<RepairPlan, Refusal> {
    for found in &facts.spares {
        check_device(found, facts.force_signature)?;
    }
    let chosen = match choice_of(facts)? {
        Some((position, copy)) => return settle(facts, position, copy),
        None => agreed(facts)?,
    };
    let others: Vec<Chosen> = facts.others.iter().filter_map(|other| choose(&other.verdicts).ok()).collect();
    let all: Vec<Chosen> = chosen.iter().chain(&others).cloned().collect();
    let name = chosen.first().map(|c| c.copy.metadata.config.name.clone()).unwrap_or_default();
    let choice = choose_setup(&all).map_err(|error| divergent_spares(&name, &error))?;
    let mut plan = RepairPlan::default();
    for (position, (found, chosen)) in facts.spares.iter().zip(chosen).enumerate() {
        if !is_member(&choice.newest.metadata, chosen.copy.spare) {
            plan.notes.push(no_member(found));
            continue;
        }
        let newest = choice.newest.metadata.generation;
        let own = chosen.copy.metadata.generation;
        if own < newest {
            plan.notes.push(format!(
                "{} is stale against the others: it holds generation {own}, and they {newest}. Repair does not bring it up to date; use 'spare readd' while the setup is up, or 'activate --update-stale'",
                found.device.path
            ));
        }
        if !chosen.lagging.is_empty() {
            plan.steps.push(step(position, found, &chosen.copy, &chosen.current, chosen.lagging.clone())?);
        }
    }
    Ok(plan)
}

fn is_member(metadata: &Metadata, spare: Uuid) -> bool {
    metadata.members().any(|(_, record)| record.uuid == spare)
}

/// What is said of a device that is left alone: mended, the copies of a removed spare would pass for those of a member.
fn no_member(found: &Found) -> String {
    format!("{} is no spare of the newest generation here, or was removed: it is left alone", found.device.path)
}

/// Checks whether a device may be written to at all.
fn check_device(found: &Found, force_signature: bool) -> Result<(), Refusal> {
    let device = &found.device.path;
    check_free(&found.device)?;
    check_supported(device, &found.verdicts)?;
    if force_signature {
        return Ok(());
    }
    if let Some(signature) = found.signature.clone() {
        return Err(Refusal::Signature { device: device.clone(), signature });
    }
    let has_foreign = found.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Foreign(_)));
    if has_foreign { Err(foreign(device)) } else { Ok(()) }
}

/// Each spare's own choice, when nobody has chosen.
fn agreed(facts: &RepairFacts) -> Result<Vec<Chosen>, Refusal> {
    let one = |found: &Found| {
        let device = found.device.path.clone();
        let chosen = choose(&found.verdicts).map_err(|error| {
            let advice = match error {
                ChooseError::NoneValid => "there is nothing to repair from; 'metadata restore' writes a backup".into(),
                ChooseError::Divergent(_) => format!("say which copy is right with --from-copy ({})", valid(found)),
                ChooseError::Mixed(_) => format!("say which copy is meant with --from-copy ({})", valid(found)),
            };
            Refusal::Metadata { device: device.clone(), what: format!("{error}: {advice}") }
        })?;
        check_ready(&device, &chosen.copy.metadata)?;
        Ok(chosen)
    };
    facts.spares.iter().map(one).collect()
}

/// The valid copies of a device, for a person who has to choose.
fn valid(found: &Found) -> String {
    let words = found.verdicts.iter().enumerate().filter_map(|(index, verdict)| match verdict {
        Verdict::Valid(copy) => {
            let (metadata, short) = (&copy.metadata, copy.digest.iter().take(4).map(|b| format!("{b:02x}")));
            let digest = short.collect::<String>();
            Some(format!("{index}: '{}' generation {}, content {digest}…", metadata.config.name, metadata.generation))
        }
        _ => None,
    });
    words.collect::<Vec<_>>().join("; ")
}

fn check_ready(device: &str, metadata: &Metadata) -> Result<(), Refusal> {
    let what = match metadata.config.state {
        SetupState::Ready => return Ok(()),
        SetupState::Forming => "it has what is left of a creation that was interrupted: there is no setup to repair",
        SetupState::Dissolved => "it has what is left of a setup that was destroyed: there is nothing to repair",
    };
    Err(Refusal::Metadata { device: device.into(), what: what.into() })
}

fn divergent_spares(name: &str, error: &ChooseError) -> Refusal {
    let what = format!(
        "{error}. Repair the whole setup: 'metadata repair {name} --from-spare N' with the spare that is right"
    );
    Refusal::Metadata { device: name.into(), what }
}

/// The copy that the person chose, and the spare that it is on.
fn choice_of(facts: &RepairFacts) -> Result<Option<(usize, ValidCopy)>, Refusal> {
    if facts.from_copy.is_none() && facts.from_spare.is_none() {
        return Ok(None);
    }
    let refuse = |what: String| Refusal::Metadata { device: "the choice".into(), what };
    let is_it = |found: &Found| {
        found.verdicts.iter().any(|verdict| match (verdict, facts.from_spare) {
            (Verdict::Valid(copy), Some(AsSpare::Uuid(uuid))) => copy.spare == uuid,
            (Verdict::Valid(copy), Some(AsSpare::Index(index))) => copy.metadata.spare_index(copy.spare) == Some(index),
            (_, None) => true,
            _ => false,
        })
    };
    let mut fitting = facts.spares.iter().enumerate().filter(|(_, found)| is_it(found));
    let (position, found) = match (fitting.next(), fitting.next()) {
        (Some(only), None) => only,
        (None, _) => return Err(refuse("the spare that was chosen is not here".into())),
        (Some(_), Some(_)) => {
            return Err(refuse("it fits several spares: say which one is right with --from-spare".into()));
        }
    };
    let device = found.device.path.clone();
    let copy = match facts.from_copy {
        None => {
            choose(&found.verdicts)
                .map_err(|error| Refusal::Metadata {
                    device: device.clone(),
                    what: format!("{error}: say which copy is right with --from-copy ({})", valid(found)),
                })?
                .copy
        }
        Some(index) => match found.verdicts.get(index) {
            Some(Verdict::Valid(copy)) => (**copy).clone(),
            _ => {
                let what = format!("copy {index} is not valid; those that are: {}", valid(found));
                return Err(Refusal::Metadata { device, what });
            }
        },
    };
    check_ready(&device, &copy.metadata)?;
    Ok(Some((position, copy)))
}

/// The plan once a person has chosen: the content that was chosen, everywhere.
fn settle(facts: &RepairFacts, position: usize, copy: ValidCopy) -> Result<RepairPlan, Refusal> {
    let setup = copy.metadata.setup;
    let same = |other: &ValidCopy| (other.metadata.generation, other.digest) == (copy.metadata.generation, copy.digest);
    // Not of this setup: taken to be somebody's remains, which the person has decided about by choosing.
    let rival = |other: &ValidCopy| {
        other.metadata.setup == setup && !same(other) && other.metadata.generation >= copy.metadata.generation
    };
    let others: Vec<Chosen> = facts.others.iter().filter_map(|other| choose(&other.verdicts).ok()).collect();
    let contradicts = |other: &&Chosen| !is_ancestor_or_same(&other.copy, &copy);
    if let Some(other) = others.iter().find(contradicts) {
        let name = &copy.metadata.config.name;
        let what = format!(
            "another spare here holds generation {}, and not what was chosen (generation {}). Repair the whole setup: 'metadata repair {name} --from-spare N'",
            other.copy.metadata.generation, copy.metadata.generation
        );
        return Err(Refusal::Metadata { device: name.clone(), what });
    }
    let backed = others.iter().any(|other| same(&other.copy));
    let contradicted = facts.spares.iter().flat_map(valid_copies).any(|(_, other)| rival(other));
    if !contradicted || backed {
        // What was chosen is the newest anyway, or what the other spares hold: it needs no new generation.
        let mut plan = RepairPlan::default();
        for (at, found) in facts.spares.iter().enumerate() {
            let good = copies_where(found, same);
            let Some(source) = valid_copies(found).find(|(_, other)| same(other)).map(|(_, copy)| copy.clone()) else {
                continue;
            };
            if !is_member(&copy.metadata, source.spare) {
                plan.notes.push(no_member(found));
                continue;
            }
            let lagging: Vec<usize> = (0..found.verdicts.len()).filter(|index| !good.contains(index)).collect();
            if !lagging.is_empty() {
                plan.steps.push(step(at, found, &source, &good, lagging)?);
            }
        }
        return Ok(plan);
    }
    let mut next = copy.metadata.next(facts.now, copy.digest);
    next.generation = next.generation.max(facts.unused);
    let mut plan = RepairPlan { new_generation: true, ..RepairPlan::default() };
    for (at, found) in facts.spares.iter().enumerate() {
        let own = valid_copies(found).map(|(_, other)| other).find(|other| other.metadata.setup == setup);
        let mut members = copy.metadata.members().map(|(_, record)| record);
        let Some(record) = own.and_then(|own| members.find(|record| record.uuid == own.spare)) else {
            plan.notes.push(format!(
                "{} is no spare of what was chosen, or was removed: it is left alone",
                found.device.path
            ));
            continue;
        };
        let good = if at == position { copies_where(found, same) } else { Vec::new() };
        let (spare, data_start) = (record.uuid, record.data_start);
        let copies = (0..found.verdicts.len()).collect();
        plan.steps.push(Step { position: at, spare, data_start, copies, good, metadata: next.clone() });
    }
    plan.notes.push(format!(
        "the contents that contradict it are given up; what was chosen becomes generation {}",
        next.generation
    ));
    Ok(plan)
}

fn valid_copies(found: &Found) -> impl Iterator<Item = (usize, &ValidCopy)> {
    found.verdicts.iter().enumerate().filter_map(|(index, verdict)| match verdict {
        Verdict::Valid(copy) => Some((index, &**copy)),
        _ => None,
    })
}

fn copies_where(found: &Found, is: impl Fn(&ValidCopy) -> bool) -> Vec<usize> {
    valid_copies(found).filter(|(_, copy)| is(copy)).map(|(index, _)| index).collect()
}

/// Whether `old` is the same commit as `new`, or one that `new` came after.
fn is_ancestor_or_same(old: &ValidCopy, new: &ValidCopy) -> bool {
    let (before, after) = (old.metadata.generation, new.metadata.generation);
    if before == after {
        return old.digest == new.digest;
    }
    let known = new.metadata.lineage.iter().find(|ancestor| ancestor.generation == before);
    before < after && known.is_none_or(|ancestor| ancestor.digest == old.digest)
}

/// A step that writes copies anew as they were.
fn step(position: usize, found: &Found, copy: &ValidCopy, good: &[usize], copies: Vec<usize>) -> Result<Step, Refusal> {
    let refuse = |what: String| Refusal::Metadata { device: found.device.path.clone(), what };
    let encoded = encode(&copy.metadata).map_err(|error| refuse(error.to_string()))?;
    // Written in other words under the same generation, it would contradict the copies that are good.
    if encoded.digest() != copy.digest {
        let what =
            "its good copies were written by another version of dm-remap, in other words: the next commit renews all";
        return Err(refuse(what.into()));
    }
    let (spare, data_start) = (copy.spare, copy.data_start);
    Ok(Step { position, spare, data_start, copies, good: good.to_vec(), metadata: copy.metadata.clone() })
}
