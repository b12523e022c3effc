//! Settling what an interrupted command left: a suspended device, a table without its commit, unsettled sectors.
//!
//! Invariants:
//! - the newest durable map decides; it is committed again before anything is resumed, so that it is durable for sure;
//! - a table that fits neither the map nor the map with EIO in places was made by somebody else: refused;
//! - whatever is found, the device runs afterwards, or the error says why not.

use super::session::{Session, compare, find_active};
use super::tables::Tables;
use super::{EngineError, Observer, held, tables};
use crate::dm::TableSlot;
use crate::map::Map;
use crate::plan::Refusal;
use crate::segments::{Devices, Piece, Place, SegmentError, read_back, setup_table};

/// What recovery found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing to do.
    Nothing,
    /// The device was suspended with the right table: it was resumed.
    Resumed,
    /// The device was suspended between commit and swap: the new table was swapped in.
    Completed,
    /// Sectors answered EIO because their commit was unsettled: it is settled, and they are back.
    Settled,
    /// The device was in order, and a commit had not reached all spares: now it has.
    Finished,
}

/// Settles the setup.
///
/// # Errors
/// [`Refusal::TableDiffers`] when the live table is nobody's that we know; what failed otherwise.
pub fn recover(session: &mut Session<'_>, observer: &dyn Observer) -> Result<Recovered, EngineError> {
    let dm = session.dm;
    let name = session.name.clone();
    let (state, _) = find_active(dm, &name)?;
    let devices = session.devices()?;
    let live = session.tables(TableSlot::Active)?;
    let fits = fits(&live, &devices, session);
    tables::let_go(session)?;
    if fits.is_ok() && !state.suspended {
        let before = session.passed_over.len();
        session.clear_leftovers()?;
        return Ok(if session.passed_over.len() < before { Recovered::Finished } else { Recovered::Nothing });
    }
    if fits.is_ok() {
        // What was read may be in a disk's cache only (a commit of the old map that was interrupted): if it were lost
        // after I/O has gone on, the next start would find another map.
        observer.step("committing the map again");
        session.commit(|_| {})?;
        dm.clear(&name)?;
        dm.resume(&name)?;
        session.clear_leftovers()?;
        return Ok(Recovered::Resumed);
    }
    if state.suspended {
        return complete(session, &devices, fits.err().unwrap_or_default(), observer);
    }
    settle(session, &live, &devices, fits.err().unwrap_or_default(), observer)
}

fn fits(table: &Tables, devices: &Devices, session: &Session<'_>) -> Result<(), String> {
    table.check_flushes(session, devices)?;
    compare(&table.flat, devices, &session.metadata.map, |spare| session.spare(spare).is_none())
}

fn pieces(table: &Tables, devices: &Devices) -> Result<Vec<Piece>, SegmentError> {
    read_back(&table.flat, devices)
}

/// Suspended with another table than the newest map's: the command died after its commit. Either the table that it had
/// loaded is that map's, or the live one is at least ours.
fn complete(
    session: &mut Session<'_>,
    devices: &Devices,
    detail: String,
    observer: &dyn Observer,
) -> Result<Recovered, EngineError> {
    let dm = session.dm;
    let name = session.name.clone();
    let loaded = session.tables(TableSlot::Inactive)?;
    let live = session.tables(TableSlot::Active)?;
    if fits(&loaded, devices, session).is_err() && pieces(&live, devices).is_err() {
        return Err(Refusal::TableDiffers { name, detail }.into());
    }
    observer.step("committing the new map again");
    // Some copies may hold it durably and others not: now all do.
    session.commit(|_| {})?;
    if fits(&loaded, devices, session).is_err() {
        // The kernel had refused the new table and thrown it away, or the last resort lies there. The newest map is
        // right all the same: nothing was written since it was committed. The flat table needs no other devices, which
        // should not be made while this one is suspended.
        let table = setup_table(&session.metadata.map, devices)?;
        dm.load(&name, &table, false)?;
    }
    dm.resume(&name)?;
    session.check_live()?;
    sync_held(session, observer)?;
    tables::drop_unused(session);
    Ok(Recovered::Completed)
}

/// Not suspended, and the table differs from the newest map's only by EIO: a commit was unsettled. As nothing was
/// written to those sectors since, either map is right; the newest that can be read is committed again.
fn settle(
    session: &mut Session<'_>,
    live: &Tables,
    devices: &Devices,
    detail: String,
    observer: &dyn Observer,
) -> Result<Recovered, EngineError> {
    let name = session.name.clone();
    // A table that cannot even be read as one of ours was made by somebody else, too.
    let ours = pieces(live, devices).is_ok_and(|live| differs_only_by_eio(&live, &session.metadata.map));
    if !ours {
        return Err(Refusal::TableDiffers { name, detail }.into());
    }
    observer.step("committing the map again");
    session.commit(|_| {})?;
    sync_held(session, observer)?;
    tables::swap(session)?;
    session.check_live()?;
    Ok(Recovered::Settled)
}

fn differs_only_by_eio(live: &[Piece], map: &Map) -> bool {
    live.iter().any(|p| p.place == Place::Nowhere)
        && live.iter().all(|piece| match piece.place {
            Place::Nowhere => true,
            Place::Main => map.extents_in(piece.range).next().is_none(),
            Place::Spare { spare, start, .. } => map
                .extents_in(piece.range)
                .next()
                .is_some_and(|e| e.range == piece.range && e.slot.spare == spare && e.slot.start == start),
        })
}

fn sync_held(session: &Session<'_>, observer: &dyn Observer) -> Result<(), EngineError> {
    let map = &session.metadata.map;
    held::sync_all(session, Some(map), &[map], observer)
}
