//! Changing the members of a setup that is up: adding, removing and taking back spares, and what they record.
//!
//! Invariants:
//! - a device is claimed by its private device before anything is written to it, and written to before the others say
//!   that it is a member: whenever any copy names a new spare, that spare holds such a copy itself;
//! - a spare is named as removed by the others before its copies are erased and its claim is given up;
//! - a crash leaves the old list of members or the new one; a claim without a member is removed by the next command.

use super::session::{Session, spare_device_name, spare_device_uuid};
use super::splice::settle_held;
use super::tables;
use super::{EngineError, Member, Observer, held};
use crate::block::Disk;
use crate::dm::TableSlot;
use crate::format::choose::Expected;
use crate::format::copy::encode;
use crate::format::metadata::{Metadata, SpareRecord, SpareState};
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::segments::HeldKind;
use crate::store::{Commit, CommitReport, CommitTarget, erase_copies, read_copies};

/// Adds one spare in the place `index`, under the setup's lock. `recheck` looks at the device again once device-mapper
/// has claimed it, before anything is written.
///
/// # Errors
/// What failed; unless the text says otherwise the setup is as before, and nothing of it is left on the device.
pub fn add(
    session: &mut Session<'_>,
    index: SpareIndex,
    record: &SpareRecord,
    member: Member,
    recheck: &dyn Fn() -> Result<(), EngineError>,
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    session.check_live()?;
    session.clear_leftovers()?;
    if session.metadata.is_member(index) || index.as_usize() > session.metadata.spares.len() {
        return Err(EngineError::Device(format!("place {index} of '{}' is not free", session.name)));
    }
    observer.step("claiming");
    held::claim(session, index, member.devno, record.identity.size)?;
    let result = recheck().and_then(|()| {
        // Old copies beside the new ones would be one device with two owners.
        if read_copies(&*member.disk, Expected::default()).has_traces() {
            erase_copies(&*member.disk)?;
        }
        Ok(())
    });
    if let Err(error) = result {
        release(session, index)?;
        return Err(error);
    }
    observer.step("committing");
    commit_new(session, index, record, member, observer)
}

/// Makes the new list durable: on the new spare first, then on the others, all as one generation.
fn commit_new(
    session: &mut Session<'_>,
    index: SpareIndex,
    record: &SpareRecord,
    member: Member,
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    let mut next = session.next_metadata();
    put_record(&mut next, index, record);
    let encoded = match encode(&next) {
        Ok(encoded) => encoded,
        Err(error) => {
            release(session, index)?;
            return Err(error.into());
        }
    };
    let digest = encoded.digest();
    let new = CommitTarget { disk: member.disk.clone(), uuid: record.uuid, data_start: record.data_start };
    let report = Commit::new(vec![new], encoded.clone()).run();
    // A new spare has no excuse for not keeping its metadata.
    if report.target(0).is_none_or(|t| t.durable != [true; 5]) {
        let error = session.commit_failed(&report);
        forget_new(session, index, &member, next.generation, observer)?;
        return Err(error);
    }
    let targets = session.commit_targets();
    let report = Commit::new(targets.clone(), encoded).run();
    if !report.stands() {
        return Err(withdraw_new(session, index, &member, next.generation, &report, observer));
    }
    session.adopt(next, digest);
    session.spares.resize(session.metadata.spares.len(), None);
    if let Some(place) = session.spares.get_mut(index.as_usize()) {
        *place = Some(member);
    }
    session.mark_failed_spares(&targets, &report)
}

fn put_record(metadata: &mut Metadata, index: SpareIndex, record: &SpareRecord) {
    match metadata.spares.get_mut(index.as_usize()) {
        Some(place) => *place = record.clone(),
        None => metadata.spares.push(record.clone()),
    }
}

/// No other spare took the list with the new one for sure, but some may hold a copy of it. So the old list is committed
/// again, as a newer generation; only then may the new spare's copies go.
fn withdraw_new(
    session: &mut Session<'_>,
    index: SpareIndex,
    member: &Member,
    begun: u64,
    report: &CommitReport,
    observer: &dyn Observer,
) -> EngineError {
    let error = session.commit_failed(report);
    if session.commit(|next| next.generation = next.generation.max(begun.saturating_add(1))).is_err() {
        return EngineError::Device(format!(
            "no other spare of '{}' could be written, and it is not known what they hold now; {} stays a spare until one can be. Put them right, then run 'dm-remap recover {}'",
            session.name,
            member.disk.name(),
            session.name
        ));
    }
    match forget_new(session, index, member, begun, observer) {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// Takes a device back out that no other spare names: erases it and gives up the claim. If it cannot be erased, its
/// generation must not be used for other content.
fn forget_new(
    session: &mut Session<'_>,
    index: SpareIndex,
    member: &Member,
    begun: u64,
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    if let Err(error) = erase_copies(&*member.disk) {
        observer.note(&format!("while undoing: {error}"));
        if session.metadata.generation <= begun {
            session.commit(|next| next.generation = next.generation.max(begun.saturating_add(1)))?;
        }
    }
    release(session, index)
}

/// Removes the private device of a place.
fn release(session: &Session<'_>, index: SpareIndex) -> Result<(), EngineError> {
    let private = spare_device_name(&session.name, index);
    let uuid = spare_device_uuid(session.setup(), index);
    if session.dm.state(&private)?.is_some_and(|state| state.uuid == uuid) {
        session.dm.remove(&private)?;
    }
    Ok(())
}

/// Gives a spare another state, in one commit; none when it has that state.
///
/// # Errors
/// When the commit fails.
pub fn set_state(session: &mut Session<'_>, index: SpareIndex, state: SpareState) -> Result<(), EngineError> {
    if session.metadata.spare(index).is_none_or(|record| record.state == state) {
        return Ok(());
    }
    session.commit(|next| {
        if state == SpareState::Failed {
            next.mark_failed(index);
        } else if let Some(record) = next.spares.get_mut(index.as_usize()) {
            (record.state, record.holds) = (state, None);
        }
    })?;
    Ok(())
}

/// Checks that a spare can be removed once nothing lives on it: another one has to keep the metadata.
///
/// # Errors
/// [`Refusal::SpareRemoved`] or [`Refusal::LastSpare`].
pub fn check_removable(session: &Session<'_>, index: SpareIndex) -> Result<(), Refusal> {
    let name = session.name.clone();
    if !session.metadata.is_member(index) {
        return Err(Refusal::SpareRemoved { name, index });
    }
    let keeps = |(other, record): (SpareIndex, &SpareRecord)| {
        other != index && record.state.takes_commits() && session.is_there(other)
    };
    if session.metadata.members().any(keeps) { Ok(()) } else { Err(Refusal::LastSpare { name, index }) }
}

/// Removes a spare on which nothing lives, under the setup's lock: the others say so, its claim is given up, its copies
/// are erased. Returns why they could not be, if they could not: they are out of date then, and the device is recognised.
///
/// # Errors
/// [`Refusal`], or what failed; the spare is a member until the commit stands.
pub fn remove(session: &mut Session<'_>, index: SpareIndex) -> Result<Option<String>, EngineError> {
    session.check_live()?;
    session.clear_leftovers()?;
    check_removable(session, index)?;
    if session.metadata.map.extents_by_slot(index).next().is_some() {
        return Err(EngineError::Device(format!(
            "extents of '{}' live on spare {index}: it has to be evacuated first",
            session.name
        )));
    }
    session.commit(|next| {
        let generation = next.generation;
        next.bad_blocks.remove(&index);
        for record in next.spares.iter_mut().skip(index.as_usize()).take(1) {
            record.state = SpareState::Removed;
            record.removed = Some(generation);
        }
    })?;
    let member = session.spares.get_mut(index.as_usize()).and_then(Option::take);
    release(session, index)?;
    Ok(match member {
        Some(member) => erase_copies(&*member.disk).err().map(|error| error.to_string()),
        None => Some("its device is not there".into()),
    })
}

/// Checks that a device holds what a spare of this setup may hold that failed or was away: its own copies, of this
/// generation or of one of its ancestors. Its slots are current then: extents are never moved to a spare that failed,
/// and while it was away all reads and writes of its extents answered EIO.
///
/// # Errors
/// [`Refusal::NotTakenBack`].
pub fn check_back(session: &Session<'_>, index: SpareIndex, disk: &dyn Disk) -> Result<(), Refusal> {
    let metadata = &session.metadata;
    let refuse = |why: String| Err(Refusal::NotTakenBack { name: session.name.clone(), index, why });
    let Some(record) = metadata.spare(index).filter(|record| record.state.is_member()) else {
        return Err(Refusal::SpareRemoved { name: session.name.clone(), index });
    };
    let device = disk.name();
    let chosen = match read_copies(disk, Expected { setup: Some(session.setup()), spare: None }).choose() {
        Ok(chosen) => chosen,
        Err(error) => return refuse(format!("{device} holds {error} of this setup")),
    };
    let copy = &chosen.copy;
    if copy.spare != record.uuid {
        return refuse(format!("{device} is another spare of this setup ({})", copy.spare));
    }
    let generation = copy.metadata.generation;
    let known = if generation == metadata.generation {
        Some(session.digest)
    } else {
        metadata.lineage.iter().find(|a| a.generation == generation).map(|a| a.digest)
    };
    if let Some(least) = record.least_generation(metadata).filter(|least| generation < *least) {
        return refuse(format!(
            "{device} holds generation {generation}, and the spare held at least {least} when it was last seen: it was put \
             back to an earlier state, and what its slots hold is old, too"
        ));
    }
    match known {
        Some(digest) if digest == copy.digest => Ok(()),
        Some(_) => refuse(format!(
            "generation {generation} on {device} has another content than the setup had: it was changed elsewhere"
        )),
        None if generation > metadata.generation => refuse(format!(
            "{device} holds generation {generation}, and the setup is at {}: it was changed elsewhere",
            metadata.generation
        )),
        None => refuse(format!(
            "{device} holds generation {generation}, which is too old to be proven an ancestor of {}. \
             'dm-remap deactivate', then 'dm-remap activate --update-stale', takes it on your word",
            metadata.generation
        )),
    }
}

/// Takes a spare back into service, on the device that it has now: the newest generation is written to it, the tables
/// lead there, and it is present again. The caller has checked that the device is the one that is recorded; `recheck`
/// looks at it again once device-mapper has claimed it, before anything is written.
///
/// # Errors
/// [`Refusal`], or what failed. Until its table is in force the spare's extents may answer EIO, as they did while it
/// was away; the same command can be run again.
pub fn readd(
    session: &mut Session<'_>,
    index: SpareIndex,
    member: Member,
    recheck: &dyn Fn() -> Result<(), EngineError>,
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    session.check_live_but(Some(index))?;
    check_back(session, index, &*member.disk)?;
    session.clear_leftovers()?;
    let moved = session.spare(index).is_none_or(|known| known.devno != member.devno);
    if moved {
        observer.step("leading to the device");
        detach(session, index)?;
        let size = session.metadata.spare(index).map_or(crate::units::Sectors::ZERO, |r| r.identity.size);
        held::claim(session, index, member.devno, size)?;
        // It was claimed a moment ago only.
        let still = recheck().and_then(|()| Ok(check_back(session, index, &*member.disk)?));
        if let Err(error) = still {
            release(session, index)?;
            return Err(error);
        }
    } else {
        recheck()?;
    }
    if let Some(place) = session.spares.get_mut(index.as_usize()) {
        *place = Some(member);
    }
    // What is written to its extents from now on must not be forgotten: the map is on it before anything leads there.
    observer.step("committing");
    session.catch_up(index)?;
    if moved || session.check_live().is_err() {
        // Its extents answer EIO still: blocks are held before anything leads there.
        held::hold_anew(session, index, observer)?;
        tables::swap(session)?;
    }
    session.check_live()?;
    set_state(session, index, SpareState::Present)?;
    if session.failed.contains(&index) {
        return Err(EngineError::Device(format!(
            "spare {index} did not take the commit, and is marked as failed again"
        )));
    }
    settle_held(session, observer)?;
    Ok(())
}

/// Makes the setup's table lead nowhere in place of a spare, and removes its private device.
fn detach(session: &mut Session<'_>, index: SpareIndex) -> Result<(), EngineError> {
    let known = session.spares.get_mut(index.as_usize()).and_then(Option::take);
    if known.is_some() && session.metadata.map.extents_by_slot(index).next().is_some() {
        tables::swap(session)?;
    }
    release(session, index)
}

/// Records that a spare has become larger, under the setup's lock; its private device follows.
///
/// # Errors
/// [`Refusal::CannotGrow`] while blocks are held that the kernel remembers by itself, or what failed.
pub fn grow(
    session: &mut Session<'_>,
    index: SpareIndex,
    record: &SpareRecord,
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    session.check_live()?;
    session.clear_leftovers()?;
    held::list_again(session)?;
    settle_held(session, observer)?;
    check_growable(session, index)?;
    session.commit(|next| {
        let places = next.spares.iter_mut().skip(index.as_usize()).take(1);
        places.for_each(|place| place.identity = record.identity.clone());
    })?;
    let map = session.metadata.map.clone();
    held::sync_all(session, Some(&map), &[&map], observer)
}

/// A `dust` table remembers which blocks were written; one of another length would have to forget that.
///
/// # Errors
/// [`Refusal::CannotGrow`].
pub fn check_growable(session: &Session<'_>, index: SpareIndex) -> Result<(), EngineError> {
    let held = session.metadata.map.held_slots(index);
    if held.is_empty() || session.spare(index).is_none() {
        return Ok(());
    }
    let table = session.dm.table(&spare_device_name(&session.name, index), TableSlot::Active)?;
    if HeldKind::of(&table) == Some(HeldKind::Dust) {
        let why = format!(
            "it has held blocks in {} places, which this kernel cannot keep held while it grows. Write them, or evacuate the spare, first",
            held.len()
        );
        return Err(Refusal::CannotGrow { name: session.name.clone(), index, why }.into());
    }
    Ok(())
}
