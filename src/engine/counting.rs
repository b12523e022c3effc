//! Counting the requests to a setup, and to what of it lives on its spares, by dm-stats: see [`crate::stats`].
//!
//! Invariants:
//! - what is counted is what the setup's users do: what our own commands read and write goes to the disks themselves;
//! - asking for it again keeps what was counted, and follows the live table;
//! - nothing on any disk is read or written.

use super::session::{LiveDevices, leads_to, live_devices};
use super::{EngineError, now};
use crate::dm::{DeviceMapper, DmError};
use crate::stats::{
    Counters, PROGRAM, Region, Runs, SetupStats, SpareStats, Subject, changes, create_message, list_message,
    region_ids, regions,
};
use crate::units::{Range, Sectors};

/// What lives on each spare, by the live table.
fn runs(live: &LiveDevices) -> Runs {
    let mut runs: Runs = live.spares.iter().map(|(index, ..)| (index.0, Default::default())).collect();
    for target in &live.tables.flat {
        let Some(device) = leads_to(target) else { continue };
        let spare = live.spares.iter().find(|(_, spare, private)| [*spare, *private].contains(&device));
        let set = spare.and_then(|(index, ..)| runs.get_mut(&index.0));
        if let (Some(set), Some(range)) = (set, Range::new(target.start, target.len)) {
            set.insert(range);
        }
    }
    runs
}

fn list(dm: &dyn DeviceMapper, name: &str) -> Result<String, DmError> {
    Ok(dm.message(name, Sectors::ZERO, &list_message())?.unwrap_or_default())
}

fn delete(dm: &dyn DeviceMapper, name: &str, region: u64) -> Result<(), DmError> {
    dm.message(name, Sectors::ZERO, &format!("@stats_delete {region}")).map(drop)
}

/// Counts from now on, where that is not done yet, and says whether it was not. What lives on spares now is counted for them. To be
/// called under the setup's lock, while it is not suspended: the kernel waits for requests in flight.
///
/// # Errors
/// [`crate::plan::Refusal::NotActive`], or what device-mapper says.
pub fn enable(dm: &dyn DeviceMapper, name: &str) -> Result<bool, EngineError> {
    let runs = runs(&live_devices(dm, name)?);
    let (old, new) = changes(&regions(&list(dm, name)?), &runs);
    old.into_iter().try_for_each(|id| delete(dm, name, id))?;
    let is_new = new.contains(&Subject::Setup);
    for subject in new {
        dm.message(name, Sectors::ZERO, &create_message(subject, now()))?;
    }
    Ok(is_new)
}

/// Counts no more, and forgets what was counted; whether there was anything. To be called under the setup's lock.
///
/// # Errors
/// [`crate::plan::Refusal::NotActive`], or what device-mapper says.
pub fn disable(dm: &dyn DeviceMapper, name: &str) -> Result<bool, EngineError> {
    live_devices(dm, name)?;
    let ids = region_ids(&list(dm, name)?);
    ids.iter().try_for_each(|id| delete(dm, name, *id))?;
    Ok(!ids.is_empty())
}

/// Whether requests to the setup are counted.
///
/// # Errors
/// What device-mapper says.
pub fn is_enabled(dm: &dyn DeviceMapper, name: &str) -> Result<bool, EngineError> {
    Ok(regions(&list(dm, name)?).iter().any(|region| region.subject == Subject::Setup))
}

/// What was counted so far.
///
/// # Errors
/// [`crate::plan::Refusal::NotActive`], what device-mapper says, or that its reply cannot be read.
pub fn read(dm: &dyn DeviceMapper, name: &str) -> Result<SetupStats, EngineError> {
    let runs = runs(&live_devices(dm, name)?);
    let spare = |(index, runs): (u8, crate::units::RangeSet)| SpareStats {
        index,
        sectors: runs.sectors(),
        ..SpareStats::default()
    };
    let mut stats = SetupStats { setup: None, spares: runs.into_iter().map(spare).collect() };
    for region in regions(&list(dm, name)?) {
        if let Some(counters) = read_region(dm, name, &region)? {
            stats.add(&region, counters);
        }
    }
    Ok(stats)
}

/// What was counted in a region; nothing when it has gone meanwhile.
fn read_region(dm: &dyn DeviceMapper, name: &str, region: &Region) -> Result<Option<Counters>, DmError> {
    let reply = match dm.message(name, Sectors::ZERO, &format!("@stats_print {}", region.id)) {
        Err(error) if error.errno() == Some(nix::errno::Errno::ENOENT) => return Ok(None),
        reply => reply?.unwrap_or_default(),
    };
    let bad = || DmError::BadReply {
        operation: "message",
        device: name.into(),
        detail: format!("counters of {PROGRAM}: '{}'", reply.trim()),
    };
    Counters::parse(&reply, &region.bounds).ok_or_else(bad).map(Some)
}
