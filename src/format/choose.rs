//! Choosing among the copies of a spare, and among the spares of a setup.
//!
//! Invariants:
//! - the newest valid generation wins;
//! - one generation with two contents is divergent, and refused: a person must choose;
//! - copies of two different setups or spares on one device are refused unless the caller knows which it wants.

use super::copy::{ValidCopy, Verdict};
use crate::map::SpareIndex;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Which metadata the caller is looking for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The setup, where it is known.
    pub setup: Option<Uuid>,
    /// The spare, where it is known.
    pub spare: Option<Uuid>,
}

/// Why no copy can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// No copy is valid.
    #[error("no valid copy")]
    NoneValid,
    /// Copies of different setups or spares, and nothing says which is meant.
    #[error(
        "copies of {} different spares or setups ({}); name the setup that is meant",
        .0.len(),
        .0.iter().map(|(setup, spare)| format!("setup {setup} spare {spare}")).collect::<Vec<_>>().join(", ")
    )]
    Mixed(Vec<(Uuid, Uuid)>),
    /// Two contents with the same generation.
    #[error("divergent: generation {0} exists with different contents; a person must choose")]
    Divergent(u64),
}

/// The choice for one spare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The newest valid copy.
    pub copy: ValidCopy,
    /// Which copies are equal to it.
    pub current: Vec<usize>,
    /// Which copies are not: damaged, older, foreign or unreadable.
    pub lagging: Vec<usize>,
}

/// Turns valid copies that belong to somebody else than expected into [`Verdict::Foreign`].
pub fn reject_unexpected(verdicts: &mut [Verdict], expected: Expected) {
    for verdict in verdicts {
        let Verdict::Valid(copy) = verdict else {
            continue;
        };
        let setup = copy.metadata.setup;
        let wrong_setup = expected.setup.is_some_and(|wanted| wanted != setup);
        let wrong_spare = expected.spare.is_some_and(|wanted| wanted != copy.spare);
        if wrong_setup || wrong_spare {
            let name = &copy.metadata.config.name;
            *verdict = Verdict::Foreign(format!("spare {} of setup {setup} ('{name}')", copy.spare));
        }
    }
}

/// Chooses among the verdicts of one device, after [`reject_unexpected`].
///
/// # Errors
/// [`ChooseError`].
pub fn choose(verdicts: &[Verdict]) -> Result<Chosen, ChooseError> {
    let valid: Vec<(usize, &ValidCopy)> = verdicts
        .iter()
        .enumerate()
        .filter_map(|(index, verdict)| match verdict {
            Verdict::Valid(copy) => Some((index, &**copy)),
            _ => None,
        })
        .collect();
    let mut owners: Vec<(Uuid, Uuid)> = valid.iter().map(|(_, copy)| (copy.metadata.setup, copy.spare)).collect();
    owners.sort_unstable();
    owners.dedup();
    if owners.len() > 1 {
        return Err(ChooseError::Mixed(owners));
    }
    let (_, newest) = valid.iter().max_by_key(|(_, copy)| copy.metadata.generation).ok_or(ChooseError::NoneValid)?;
    let generation = newest.metadata.generation;
    let same = |copy: &ValidCopy| copy.metadata.generation == generation;
    if valid.iter().any(|(_, copy)| same(copy) && copy.digest != newest.digest) {
        return Err(ChooseError::Divergent(generation));
    }
    let current: Vec<usize> = valid.iter().filter(|(_, copy)| same(copy)).map(|(index, _)| *index).collect();
    let lagging = (0..verdicts.len()).filter(|index| !current.contains(index)).collect();
    Ok(Chosen { copy: (*newest).clone(), current, lagging })
}

/// What the spares of one setup say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupChoice {
    /// The newest valid copy of all.
    pub newest: ValidCopy,
    /// Generation found on each spare.
    pub generations: BTreeMap<SpareIndex, u64>,
    /// Spares of the setup that were not among those given.
    pub missing: Vec<SpareIndex>,
}

impl SetupChoice {
    /// Spares that hold an older generation than the newest, with how many commits they are behind. Commits are counted
    /// by the lineage where that reaches back far enough: generations may be left out.
    pub fn stale(&self) -> Vec<(SpareIndex, u64)> {
        let newest = &self.newest.metadata;
        self.generations
            .iter()
            .filter(|(_, generation)| **generation < newest.generation)
            .map(|(index, generation)| (*index, newest.commits_since(*generation)))
            .collect()
    }
}

/// Chooses among spares of one setup, each with its own choice. An older one that the newest generation has removed, or
/// does not know, does not count.
///
/// # Errors
/// [`ChooseError`]: none given, different setups among them, the same spare twice, or divergent.
pub fn choose_setup(spares: &[Chosen]) -> Result<SetupChoice, ChooseError> {
    let newest = spares
        .iter()
        .map(|chosen| &chosen.copy)
        .max_by_key(|copy| copy.metadata.generation)
        .ok_or(ChooseError::NoneValid)?;
    let setup = newest.metadata.setup;
    let generation = newest.metadata.generation;
    let mut generations = BTreeMap::new();
    for Chosen { copy, .. } in spares {
        if copy.metadata.setup != setup {
            let owners = [(setup, newest.spare), (copy.metadata.setup, copy.spare)];
            return Err(ChooseError::Mixed(owners.to_vec()));
        }
        let member = newest.metadata.spare_index(copy.spare).filter(|index| newest.metadata.is_member(*index));
        // What a spare says that was removed before is of no account. Not so at the same generation: which of the two
        // was removed by the other is then for a person to say.
        if member.is_none() && copy.metadata.generation < generation {
            continue;
        }
        let known = if copy.metadata.generation == generation {
            Some(newest.digest)
        } else {
            let mut lineage = newest.metadata.lineage.iter();
            lineage.find(|a| a.generation == copy.metadata.generation).map(|a| a.digest)
        };
        // A generation too old to be in the lineage can only be called stale. One that the lineage passes over was made
        // elsewhere: generations are left out, and two hosts leave out different ones.
        let oldest = newest.metadata.lineage.first().map_or(generation, |ancestor| ancestor.generation);
        let passed_over = known.is_none() && copy.metadata.generation > oldest;
        if passed_over || known.is_some_and(|digest| digest != copy.digest) {
            return Err(ChooseError::Divergent(copy.metadata.generation));
        }
        if let Some(index) = member
            && generations.insert(index, copy.metadata.generation).is_some()
        {
            return Err(ChooseError::Mixed(vec![(setup, copy.spare), (setup, copy.spare)]));
        }
    }
    let members = newest.metadata.members().map(|(index, _)| index);
    let missing = members.filter(|index| !generations.contains_key(index)).collect();
    Ok(SetupChoice { newest: newest.clone(), generations, missing })
}
