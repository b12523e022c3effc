//! What `create` and `spare add` need to know of a device that is to be a spare.

use super::Context;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::engine::{EngineError, find};
use crate::format::choose::{ChooseError, Expected};
use crate::format::copy::Verdict;
use crate::format::metadata::SetupState;
use crate::plan::create::{Contents, DeviceFacts};
use crate::store::{SpareReading, read_copies};
use anyhow::Result;

/// A device as planning needs to know it.
pub(super) fn device_facts(context: &Context, device: &BlockDevice) -> Result<DeviceFacts> {
    let mut uses: Vec<String> = context.host.usage(device).iter().map(ToString::to_string).collect();
    if uses.is_empty()
        && let Err(error) = context.host.claim_check(device)
    {
        uses.push(format!("it cannot be opened exclusively: {error}"));
    }
    Ok(DeviceFacts {
        path: device.path.display().to_string(),
        devno: device.devno,
        identity: device.identity.clone(),
        uses,
        read_only: device.read_only,
    })
}

/// What a spare-to-be holds.
pub(super) fn contents(context: &Context, device: &BlockDevice) -> Result<Contents> {
    let disk = DirectDisk::open_device(device, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
    let reading = read_copies(&disk, Expected::default());
    let traces = traces(&reading);
    if let Some(contents @ (Contents::SpareOf { .. } | Contents::Unusable(_))) = traces {
        return Ok(contents);
    }
    // Copies of a setup that is no more may survive under a newer filesystem.
    let signature = context.host.signature(device, &disk).map_err(EngineError::Disk)?;
    Ok(match signature {
        Some(signature) => Contents::Signature(signature.to_string()),
        None => traces.unwrap_or(Contents::Nothing),
    })
}

/// What the copies on a device say, if there are any.
pub(super) fn traces(reading: &SpareReading) -> Option<Contents> {
    match reading.choose() {
        Ok(chosen) => {
            let config = &chosen.copy.metadata.config;
            Some(match config.state {
                SetupState::Ready => Contents::SpareOf { name: config.name.clone(), setup: chosen.copy.metadata.setup },
                SetupState::Forming | SetupState::Dissolved => Contents::Leftover,
            })
        }
        Err(ChooseError::NoneValid) if !reading.has_traces() => None,
        // Old remains beside those of a creation that was interrupted over them.
        Err(ChooseError::Mixed(_) | ChooseError::Divergent(_)) if all_remains(reading) => Some(Contents::Leftover),
        Err(_) => Some(Contents::Unusable(find::describe(reading))),
    }
}

fn all_remains(reading: &SpareReading) -> bool {
    reading.verdicts.iter().all(|verdict| match verdict {
        Verdict::Valid(copy) => copy.metadata.config.state != SetupState::Ready,
        _ => true,
    })
}
