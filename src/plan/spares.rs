//! Planning changes of the members of the pool: adding spares, and emptying one.
//!
//! Invariants:
//! - the index of a spare never changes while it is a member: what is removed leaves its place behind;
//! - a place that was left is taken again only when no fresh one is free, the one that was left first before the others;
//! - all that lives on a spare has found a new place in the plan before the first of it moves.

use super::create::{DeviceFacts, SpareFacts, check_spare};
use super::moves::OnSpares;
use super::room::{check_growth, check_moves};
use super::{Home, Move, MoveKind, MovePlan, Refusal};
use crate::format::metadata::{Metadata, SpareRecord, SpareState, UnreadablePolicy};
use crate::format::{DATA_START, MAX_SPARES};
use crate::identity::Identity;
use crate::map::{Extent, SpareIndex};
use crate::pool::{Allocation, Available, Pool};
use crate::units::{Range, Sectors};
use std::collections::BTreeMap;
use uuid::Uuid;

/// All that is known when spares are to be added.
#[derive(Clone, Debug)]
pub struct AddFacts {
    /// The spares-to-be in order.
    pub spares: Vec<SpareFacts>,
    /// Pairs of the given devices and those of the setup that share sectors: paths and why.
    pub overlaps: Vec<(String, String, String)>,
    /// Overwrite signatures on spares.
    pub force_signature: bool,
    /// UUIDs for the spares, at least as many as there are.
    pub uuids: Vec<Uuid>,
}

/// Spares that can be added.
#[derive(Clone, Debug)]
pub struct AddPlan {
    /// The devices in order.
    pub devices: Vec<DeviceFacts>,
    /// Their places and records, in the same order.
    pub records: Vec<(SpareIndex, SpareRecord)>,
}

impl AddPlan {
    /// Puts the records into their places.
    pub fn apply(&self, metadata: &mut Metadata) {
        for (index, record) in &self.records {
            match metadata.spares.get_mut(index.as_usize()) {
                Some(place) => *place = record.clone(),
                None => metadata.spares.push(record.clone()),
            }
        }
    }
}

/// Checks everything that `create` checks of a spare, and plans to add the spares.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn plan_add(metadata: &Metadata, facts: AddFacts) -> Result<AddPlan, Refusal> {
    if facts.spares.is_empty() {
        return Err(Refusal::SpareCount(0));
    }
    if let Some((first, second, why)) = facts.overlaps.into_iter().next() {
        return Err(Refusal::Overlap { first, second, why });
    }
    for spare in &facts.spares {
        check_spare(spare, &metadata.config.main, metadata.map.unit(), facts.force_signature)?;
    }
    let places = free_places(metadata);
    let more = facts.spares.len();
    if more > places.len() {
        let (name, members) = (metadata.config.name.clone(), metadata.members().count());
        return Err(Refusal::TooManySpares { name, members, more });
    }
    let devices: Vec<DeviceFacts> = facts.spares.into_iter().map(|spare| spare.device).collect();
    let record = |(device, uuid): (&DeviceFacts, Uuid)| SpareRecord {
        uuid,
        data_start: DATA_START,
        state: SpareState::Present,
        holds: None,
        removed: None,
        identity: device.identity.clone(),
        unknown: BTreeMap::new(),
    };
    let records = places.into_iter().zip(devices.iter().zip(facts.uuids).map(record)).collect();
    let plan = AddPlan { devices, records };
    let mut after = metadata.clone();
    plan.apply(&mut after);
    check_growth(metadata, &after)?;
    Ok(plan)
}

/// Places for new spares: fresh ones, then those that removed spares left, the oldest first.
fn free_places(metadata: &Metadata) -> Vec<SpareIndex> {
    let all = (0u8..).take(MAX_SPARES).map(SpareIndex);
    let fresh = all.skip(metadata.spares.len());
    let mut left: Vec<(u64, SpareIndex)> = (0u8..)
        .zip(&metadata.spares)
        .filter(|(_, record)| !record.state.is_member())
        .map(|(index, record)| (record.removed.unwrap_or(0), SpareIndex(index)))
        .collect();
    left.sort_unstable();
    fresh.chain(left.into_iter().map(|(_, index)| index)).collect()
}

/// Where extents may go that leave a spare.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    /// Spares that are filled first.
    pub first: Vec<SpareIndex>,
    /// Whether others are out of the question.
    pub only: bool,
}

/// Free space in two ranks: what is wanted first, and the rest.
struct Ranked<'a> {
    first: Pool<'a>,
    rest: Pool<'a>,
}

impl Ranked<'_> {
    fn free(&self) -> Sectors {
        Sectors(self.first.free().0.saturating_add(self.rest.free().0))
    }

    /// As much as possible of a range on the spares that are wanted first.
    fn allocate(&mut self, range: Range, unit: Sectors) -> Option<Vec<Allocation>> {
        if let Ok(slots) = self.first.allocate(range) {
            return Some(slots);
        }
        let room = self.first.free().align_down(unit);
        let cut = range.start().checked_add(room)?;
        let mut slots = match Range::between(range.start(), cut.min(range.end())) {
            Some(head) => self.first.allocate(head).ok()?,
            None => Vec::new(),
        };
        if let Some(tail) = Range::between(cut.max(range.start()), range.end()) {
            slots.extend(self.rest.allocate(tail).ok()?);
        }
        Some(slots)
    }
}

/// Plans to move everything that lives on `spare` to the other spares, in order of main. `usable` says which of them
/// are there. The plan may be too much for one swap: see [`MovePlan::first_part`].
///
/// `unreadable` is for what cannot be read from its slot any more, and was not lost before.
///
/// # Errors
/// [`Refusal`] when a destination takes no extents, or slots or metadata do not suffice.
pub fn plan_leave(
    metadata: &Metadata,
    spare: SpareIndex,
    to: &Destinations,
    unreadable: UnreadablePolicy,
    usable: impl Available,
) -> Result<MovePlan, Refusal> {
    let map = &metadata.map;
    for index in &to.first {
        if let Some(why) = no_destination(metadata, *index, spare, usable.is_usable(*index)) {
            return Err(Refusal::NoDestination { name: metadata.config.name.clone(), index: *index, why });
        }
    }
    let wanted = |index: SpareIndex| to.first.contains(&index);
    let open = |index: SpareIndex| index != spare && usable.is_usable(index);
    let mut pool = Ranked {
        first: Pool::new(metadata, |index| open(index) && wanted(index)).judged_by(&usable),
        rest: Pool::new(metadata, |index| open(index) && !wanted(index) && !to.only).judged_by(&usable),
    };
    let mut leaving: Vec<Extent> = map.extents_by_slot(spare).collect();
    leaving.sort_unstable_by_key(|extent| extent.range);
    let needed =
        Sectors(leaving.iter().filter_map(|e| map.slot_len(e.range.len())).map(|l| l.0).fold(0, u64::saturating_add));
    let free = pool.free();
    let only_to = to.only.then(|| to.first.clone());
    let mut moves = Vec::new();
    for extent in leaving {
        let slots = pool.allocate(extent.range, map.unit());
        for to in slots.ok_or(Refusal::NoRoomToLeave { spare, needed, free })? {
            let from = extent.clip(to.range).unwrap_or(extent).slot;
            moves.push(Move { range: to.range, from: Home::Slot(from), to: Home::Slot(to.slot) });
        }
    }
    let bad_slots = OnSpares::new();
    let plan = MovePlan { kind: MoveKind::Evacuate, moves, already: Vec::new(), unreadable, bad_slots, only_to };
    check_moves(metadata, &plan)?;
    Ok(plan)
}

fn no_destination(metadata: &Metadata, index: SpareIndex, left: SpareIndex, usable: bool) -> Option<&'static str> {
    match metadata.spare(index).map(|record| record.state) {
        _ if index == left => Some("the one that is to be left"),
        None => Some("not one of its spares"),
        Some(SpareState::Removed) => Some("removed"),
        Some(SpareState::Failed) => Some("marked as failed"),
        Some(SpareState::Draining) => Some("being emptied itself"),
        Some(SpareState::Present) if !usable => Some("not there"),
        Some(SpareState::Present) => None,
    }
}

impl MovePlan {
    /// The first moves of the plan: at most `most` sectors (but one unit at least) and `moves` moves. What is left is
    /// planned anew when these are made.
    pub fn first_part(&self, most: Sectors, moves: usize, unit: Sectors) -> MovePlan {
        let mut left = most.align_down(unit).max(unit);
        let mut part = Vec::new();
        for step in self.moves.iter().take(moves) {
            let Some(head) = Range::new(step.range.start(), step.range.len().min(left)) else { break };
            part.extend(step.clip(head));
            left = left.saturating_sub(head.len());
        }
        MovePlan { moves: part, ..self.clone() }
    }
}

/// The record of a spare that has become larger.
///
/// # Errors
/// [`Refusal::CannotGrow`] when it has not, or is another device by its own names.
pub fn plan_grow(metadata: &Metadata, index: SpareIndex, found: &Identity) -> Result<SpareRecord, Refusal> {
    let refuse = |why: String| Refusal::CannotGrow { name: metadata.config.name.clone(), index, why };
    let record = metadata.spare(index).filter(|record| record.state.is_member());
    let record = record.ok_or_else(|| refuse("the setup has no such spare".into()))?;
    if found.size < record.identity.size {
        return Err(refuse(format!(
            "it has {} sectors and {} are recorded: it has shrunk, and what lies beyond its end is lost",
            found.size, record.identity.size
        )));
    }
    if found.size == record.identity.size {
        return Err(refuse(format!("its device has the {} sectors that are recorded, and no more", found.size)));
    }
    let as_large = Identity { size: found.size, ..record.identity.clone() };
    if let crate::identity::Match::Different(why) = as_large.matches(found) {
        return Err(refuse(format!("its device is not the one that is recorded: {why}")));
    }
    let identity = Identity { unknown: record.identity.unknown.clone(), ..found.clone() };
    Ok(SpareRecord { identity, ..record.clone() })
}
