//! Planning to take over the remaps of the out-of-tree kernel module.
//!
//! Invariants:
//! - the old spare is a source only: the data goes to another device, so nothing of it is ever overwritten;
//! - an entry in doubt is left out unless every one of its doubts was accepted by name;
//! - the module remapped single sectors: the other sectors of a unit come from main.

use super::create::{CreateFacts, CreatePlan, plan as plan_create};
use super::moves::{AlreadyMapped, apply, plan_remap};
use super::{Home, Move, Refusal};
use crate::format::foreign_module::{Doubt, Entry, Judged, Layout, ModuleMetadata};
use crate::format::metadata::UnreadablePolicy;
use crate::map::{Map, Slot};
use crate::units::{Range, Sectors};

/// All that is known when an import is planned.
#[derive(Clone, Debug)]
pub struct ImportFacts {
    /// What the module knew.
    pub module: ModuleMetadata,
    /// Its entries, judged; also by a look at their slots.
    pub judged: Vec<Judged>,
    /// Doubts in spite of which entries are taken in.
    pub accept: Vec<Doubt>,
    /// Path of the old spare.
    pub old: String,
    /// Who uses the old spare, in words; empty when nobody does.
    pub old_uses: Vec<String>,
    /// Logical block size of the old spare in sectors.
    pub old_block: Sectors,
    /// Take main although it has another size than the module recorded.
    pub other_size: bool,
    /// The setup to make.
    pub create: CreateFacts,
}

/// Where sectors of a unit come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The same place on main.
    Main,
    /// From this sector of the old spare on.
    Old(Sectors),
}

/// Sectors to copy to the new spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportCopy {
    /// The sectors of the setup.
    pub range: Range,
    /// Where they come from.
    pub from: Origin,
    /// Where they go.
    pub to: Slot,
}

/// An import that can be made.
#[derive(Clone, Debug)]
pub struct ImportPlan {
    /// The setup, without extents as yet.
    pub create: CreatePlan,
    /// Its map, once everything is copied.
    pub map: Map,
    /// What is copied, in order.
    pub copies: Vec<ImportCopy>,
    /// Sectors that come from the old spare.
    pub imported: Sectors,
}

/// Divides the entries into those that are taken in and those that are left out. Both in the order of the table.
pub fn select<'a>(judged: &'a [Judged], accept: &[Doubt]) -> (Vec<Entry>, Vec<&'a Judged>) {
    let fine = |one: &&Judged| one.doubts.iter().all(|doubt| doubt.can_be_accepted() && accept.contains(doubt));
    let taken = judged.iter().filter(fine).map(|one| one.entry).collect();
    (taken, judged.iter().filter(|one| !fine(one)).collect())
}

/// Checks everything, and plans the import.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn plan(facts: ImportFacts) -> Result<ImportPlan, Refusal> {
    let refuse = |device: &str, what: String| Refusal::Metadata { device: device.into(), what };
    let (module, old) = (&facts.module, facts.old.as_str());
    if module.layout == Layout::Helper {
        let what = format!(
            "the metadata is of {}, which has no remaps: there is nothing to import. 'dm-remap create' makes a new setup",
            module.layout
        );
        return Err(refuse(old, what));
    }
    if !facts.old_uses.is_empty() {
        return Err(Refusal::InUse { device: old.into(), uses: facts.old_uses.join("; ") });
    }
    let (main, recorded) = (&facts.create.main, module.main_sectors);
    if recorded != Sectors::ZERO && recorded != main.identity.size && !facts.other_size {
        let what = format!(
            "it has {} sectors, and the main that the module recorded had {recorded}. If it is right all the same, say --other-size",
            main.identity.size
        );
        return Err(refuse(&main.path, what));
    }
    let coarse = [(main.path.as_str(), main.identity.logical_block), (old, facts.old_block)];
    if let Some((path, block)) = coarse.into_iter().find(|(_, block)| *block != Sectors(1)) {
        let what = format!(
            "its logical blocks have {block} sectors; the module remapped single sectors, which cannot be copied there"
        );
        return Err(refuse(path, what));
    }
    let (taken, left) = select(&facts.judged, &facts.accept);
    if taken.is_empty() {
        let what = format!("none of its {} entries is to be taken in: there is nothing to import", left.len());
        return Err(refuse(old, what));
    }
    let create = plan_create(facts.create)?;
    let runs = runs_of(taken);
    let ranges: Vec<Range> = runs.iter().map(|(range, _)| *range).collect();
    let empty = &create.metadata;
    let moves = plan_remap(empty, &ranges, AlreadyMapped::Skip, UnreadablePolicy::Hold, |_| true)?.moves;
    let map = apply(&empty.map, &moves, &[]).map_err(|error| refuse(old, error.to_string()))?;
    let imported = Sectors(ranges.iter().map(|range| range.len().0).fold(0, u64::saturating_add));
    Ok(ImportPlan { copies: moves.iter().flat_map(|step| copies_of(step, &runs)).collect(), create, map, imported })
}

/// Entries that continue each other both on main and on the old spare, joined; in the order of main.
fn runs_of(mut taken: Vec<Entry>) -> Vec<(Range, Sectors)> {
    taken.sort_unstable_by_key(|entry| entry.original);
    let mut runs: Vec<(Range, Sectors)> = Vec::new();
    for entry in taken {
        let Some(one) = Range::new(entry.original, Sectors(1)) else { continue };
        match runs.last_mut() {
            Some((range, slot)) if range.end() == one.start() && slot.checked_add(range.len()) == Some(entry.slot) => {
                *range = Range::between(range.start(), one.end()).unwrap_or(*range);
            }
            _ => runs.push((one, entry.slot)),
        }
    }
    runs
}

/// How the slot of a move is composed.
fn copies_of(step: &Move, runs: &[(Range, Sectors)]) -> Vec<ImportCopy> {
    let first = runs.partition_point(|(range, _)| range.end() <= step.range.start());
    let near = runs.iter().skip(first).take_while(|(range, _)| range.start() < step.range.end());
    let inside: Vec<(Range, Sectors)> = near
        .filter_map(|(range, slot)| {
            let part = range.intersect(step.range)?;
            Some((part, slot.checked_add(part.start().checked_sub(range.start())?)?))
        })
        .collect();
    let holes: Vec<Range> = inside.iter().map(|(range, _)| *range).collect();
    let around = step.range.without(&holes).into_iter().map(|range| (range, Origin::Main));
    let old = inside.into_iter().map(|(range, slot)| (range, Origin::Old(slot)));
    let copy = |(range, from): (Range, Origin)| {
        let Home::Slot(to) = step.clip(range)?.to else { return None };
        Some(ImportCopy { range, from, to })
    };
    let mut all: Vec<ImportCopy> = around.chain(old).filter_map(copy).collect();
    all.sort_unstable_by_key(|copy| copy.range);
    all
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
