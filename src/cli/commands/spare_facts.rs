//! What `create` and `spare add` need to know of a device that is to be a spare.

use super::Context;
use crate::block::Disk;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::block::foreign::signature_over_ours;
use crate::block::usage::Use;
use crate::engine::session::device_uuid;
use crate::engine::{EngineError, find};
use crate::format::choose::{ChooseError, Expected};
use crate::format::copy::Verdict;
use crate::format::metadata::SetupState;
use crate::plan::Refusal;
use crate::plan::create::{Contents, DeviceFacts};
use crate::store::{SpareReading, read_copies};
use anyhow::Result;
use uuid::Uuid;

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
pub(super) fn contents(context: &Context, device: &BlockDevice) -> Result<Contents, EngineError> {
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

/// What somebody made over our copies on a device, which `reading` has found there. A copy that is merely out of date, or
/// cannot be read, tells of nobody else.
pub(super) fn made_over(
    context: &Context,
    device: &BlockDevice,
    disk: &dyn Disk,
    reading: &SpareReading,
) -> Result<Option<String>, EngineError> {
    let strange = |v: &Verdict| matches!(v, Verdict::Blank | Verdict::Foreign(_) | Verdict::Damaged(_));
    if !reading.verdicts.iter().any(strange) {
        return Ok(None);
    }
    let signature = signature_over_ours(&context.host, device, disk).map_err(EngineError::Disk)?;
    Ok(signature.map(|signature| signature.to_string()))
}

/// Looks at a device again that device-mapper has claimed for a setup, before anything is written to it: it is still the
/// same, and nobody but the setup holds it. (Its claim does not keep other device-mapper devices away.)
pub(super) fn still_ours(context: &Context, device: &BlockDevice, setup: Uuid) -> Result<(), EngineError> {
    let path = device.path.display().to_string();
    let now = context.host.device_by_number(device.devno).map_err(|e| EngineError::Device(e.to_string()))?;
    if now.identity != device.identity {
        return Err(EngineError::Device(format!("{path} was replaced by another device meanwhile")));
    }
    let strangers = not_of(setup, &context.host.usage(&now));
    if strangers.is_empty() { Ok(()) } else { Err(Refusal::InUse { device: path, uses: strangers.join("; ") }.into()) }
}

/// The uses of a device that are none of a setup's own devices, in words.
fn not_of(setup: Uuid, uses: &[Use]) -> Vec<String> {
    let own = device_uuid(setup);
    let private = format!("{own}-");
    let ours = |usage: &&Use| match usage {
        Use::Holder { dm_uuid: Some(uuid), .. } => *uuid == own || uuid.starts_with(&private),
        _ => false,
    };
    uses.iter().filter(|usage| !ours(usage)).map(ToString::to_string).collect()
}

/// The same for a spare-to-be, which was found to hold `found`: it still does.
pub(super) fn still_holds(
    context: &Context,
    device: &BlockDevice,
    setup: Uuid,
    found: &Contents,
) -> Result<(), EngineError> {
    still_ours(context, device, setup)?;
    if contents(context, device)? == *found {
        return Ok(());
    }
    let path = device.path.display();
    Err(EngineError::Device(format!("what {path} holds has changed since it was looked at: nothing was written to it")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_setup_itself_may_hold_what_it_has_claimed() {
        let setup = Uuid::from_u128(7);
        let holder = |uuid: Option<String>| Use::Holder {
            name: "dm-1".into(),
            description: "device-mapper device 'x'".into(),
            dm_uuid: uuid,
        };
        let own = [device_uuid(setup), format!("{}-spare3", device_uuid(setup))].map(|uuid| holder(Some(uuid)));
        assert_eq!(not_of(setup, &own), Vec::<String>::new());
        let other = format!("{}-spare0", device_uuid(Uuid::from_u128(8)));
        for strange in [holder(Some(other)), holder(Some("LVM-x".into())), holder(None), Use::Swap] {
            assert_eq!(not_of(setup, &[own[1].clone(), strange.clone()]), [strange.to_string()]);
        }
    }
}
