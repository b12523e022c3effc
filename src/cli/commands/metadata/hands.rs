//! What `repair` and `restore` need to know of devices before they write to them by hand.

use super::super::Context;
use super::super::spare_facts::device_facts;
use crate::block::Disk;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::block::foreign::signature_over_ours;
use crate::block::usage::Claim;
use crate::cli::commands::assembly::devices_with_copies;
use crate::engine::EngineError;
use crate::engine::backup::newest_kept;
use crate::format::choose::Expected;
use crate::format::copy::Verdict;
use crate::plan::Refusal;
use crate::plan::restore::Found;
use crate::store::{read_copies, unused_generation};
use anyhow::Result;
use uuid::Uuid;

fn open(device: &BlockDevice) -> Result<DirectDisk, EngineError> {
    DirectDisk::open_device(device, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))
}

/// A device, its copies, and what else is on it.
pub(super) fn found_on(context: &Context, device: &BlockDevice) -> Result<Found> {
    let disk = open(device)?;
    let verdicts = read_copies(&disk, Expected::default()).verdicts;
    // Where the first copy is whole, nothing was made over it.
    let signature = match verdicts.first() {
        Some(Verdict::Valid(_)) => None,
        _ => signature_over_ours(&context.host, device, &disk).map_err(EngineError::Disk)?,
    };
    let signature = signature.map(|signature| signature.to_string());
    Ok(Found { device: device_facts(context, device)?, verdicts, signature })
}

/// The spares of a setup that are here, other than the devices given.
pub(super) fn others_of(
    context: &Context,
    setup: Uuid,
    without: &[BlockDevice],
) -> Result<(Vec<Found>, Vec<BlockDevice>)> {
    let (mut found, mut devices) = (Vec::new(), Vec::new());
    // An error means that there is none.
    for (device, _) in devices_with_copies(context, &setup.to_string()).unwrap_or_default() {
        if without.iter().any(|known| known.devno == device.devno) {
            continue;
        }
        found.push(found_on(context, &device)?);
        devices.push(device);
    }
    Ok((found, devices))
}

/// The name under which a setup is up, if it is. Without device-mapper nothing is.
pub(super) fn is_up(context: &Context, setup: Uuid) -> Result<Option<String>> {
    if context.dm().is_err() {
        return Ok(None);
    }
    let active = context.active()?;
    Ok(active.into_iter().find(|live| live.setup == setup).map(|live| live.state.name))
}

/// A generation above all that any of the devices has seen, above all of which a backup is kept, and above `least`.
pub(super) fn unused<'a>(
    context: &Context,
    setup: Uuid,
    devices: impl Iterator<Item = &'a BlockDevice>,
    least: u64,
) -> Result<u64, EngineError> {
    let mut next = least.max(newest_kept(&context.backups(), setup)).saturating_add(1);
    for device in devices {
        let disk = open(device)?;
        next = unused_generation(&disk as &dyn Disk, setup, next);
    }
    Ok(next)
}

/// Claims devices for as long as the result lives, so that nobody mounts them meanwhile.
pub(super) fn claim_all(context: &Context, devices: &[BlockDevice]) -> Result<Vec<Claim>> {
    let claim = |device: &BlockDevice| {
        context.host.claim(device).map_err(|error| {
            let uses = format!("it cannot be opened exclusively: {error}");
            Refusal::InUse { device: device.path.display().to_string(), uses }.into()
        })
    };
    devices.iter().map(claim).collect()
}
