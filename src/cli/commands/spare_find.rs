//! Which spare is meant, and what a device is to a setup.

use super::Context;
use super::spare_facts::{contents, device_facts, made_over};
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::context::Usage;
use crate::engine::{EngineError, Session};
use crate::format::choose::Expected;
use crate::format::metadata::{Metadata, SpareRecord, SpareState};
use crate::identity::{Identity, Match};
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::plan::create::{Contents, SpareFacts};
use crate::plan::spares::{AddFacts, AddPlan, plan_add};
use crate::store::read_copies;
use anyhow::Result;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The spare that a person named by its device, its index or its UUID; also one that was removed.
pub(super) fn find(context: &Context, session: &Session<'_>, text: &str) -> Result<SpareIndex> {
    let metadata = &session.metadata;
    let found = if text.contains('/') {
        let device = context.device(Path::new(text))?;
        match member_of(session, &device) {
            Some(index) => Some(index),
            None => uuid_on(session, &device)?
                .and_then(|uuid| metadata.spare_index(uuid))
                .or_else(|| removed_from(metadata, &device.identity)),
        }
    } else if let Ok(uuid) = Uuid::try_parse(text) {
        metadata.spare_index(uuid)
    } else {
        text.parse().ok().map(SpareIndex).filter(|index| metadata.spare(*index).is_some())
    };
    Ok(found.ok_or_else(|| {
        let spares: Vec<String> = metadata
            .members()
            .map(|(index, record)| {
                let device = session.spare(index).map(|member| context.path_of(member.devno));
                format!("{index} ({}, {})", device.unwrap_or_else(|| "missing".into()), record.uuid)
            })
            .collect();
        Usage(format!("'{text}' names no spare of '{}', which has: {}", session.name, spares.join(", ")))
    })?)
}

/// The place of the spare that this device was before it was removed and its copies were erased: by its own names, or
/// by all that is known of it where it has none. The last one, if there were several. For words only.
fn removed_from(metadata: &Metadata, found: &Identity) -> Option<SpareIndex> {
    let was = |record: &SpareRecord| {
        let recorded = &record.identity;
        recorded.matches(found) == Match::Proven
            || !recorded.has_stable_name() && recorded.fingerprint == found.fingerprint && recorded.path == found.path
    };
    let removed = metadata.spares.iter().zip(0u8..).filter(|(record, _)| !record.state.is_member() && was(record));
    removed.max_by_key(|(record, _)| record.removed).map(|(_, index)| SpareIndex(index))
}

/// The spare that a device serves as at this moment.
pub(super) fn member_of(session: &Session<'_>, device: &BlockDevice) -> Option<SpareIndex> {
    let mut indexes = session.metadata.members().map(|(index, _)| index);
    indexes.find(|index| session.spare(*index).is_some_and(|member| member.devno == device.devno))
}

/// The UUID of the spare of this setup whose copies a device holds.
pub(super) fn uuid_on(session: &Session<'_>, device: &BlockDevice) -> Result<Option<Uuid>> {
    let disk = DirectDisk::open_device(device, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
    let reading = read_copies(&disk, Expected { setup: Some(session.setup()), spare: None });
    Ok(reading.choose().ok().map(|chosen| chosen.copy.spare))
}

/// What stands for a spare in messages: the path of its device, or why there is none.
pub(super) fn device_words(context: &Context, session: &Session<'_>, index: SpareIndex) -> String {
    match session.spare(index) {
        Some(member) if !member.is_gone() => context.path_of(member.devno),
        Some(member) => format!("{}, gone", member.devno),
        None => "missing".into(),
    }
}

/// Devices that are to be spares, with what was found on each.
pub(super) type Candidates = Vec<(BlockDevice, Contents)>;

/// Plans to add devices to a setup, after all the checks of `create`.
pub(super) fn plan_addition(
    context: &Context,
    session: &Session<'_>,
    paths: &[PathBuf],
    force_signature: bool,
) -> Result<(Candidates, AddPlan)> {
    let devices: Result<Vec<BlockDevice>, EngineError> = paths.iter().map(|path| context.device(path)).collect();
    let devices = devices?;
    for device in &devices {
        if let Some(index) = member_of(session, device) {
            return Err(already(session, device, index).into());
        }
    }
    let (mut spares, mut found) = (Vec::new(), Vec::new());
    for device in &devices {
        let on_it = contents(context, device)?;
        let contents = contents_for(context, session, device, on_it.clone())?;
        found.push(on_it);
        spares.push(SpareFacts { contents, device: device_facts(context, device)? });
    }
    let uuids = devices.iter().map(|_| Uuid::new_v4()).collect();
    let overlaps = overlaps(context, session, &devices);
    let facts = AddFacts { spares, overlaps, force_signature, uuids };
    let plan = plan_add(&session.metadata, facts)?;
    Ok((devices.into_iter().zip(found).collect(), plan))
}

/// What `found` on a device is to this setup: as for `create`, but a spare that was removed from it holds nothing that
/// counts, unless somebody has made something over its copies since.
fn contents_for(context: &Context, session: &Session<'_>, device: &BlockDevice, found: Contents) -> Result<Contents> {
    let ours = matches!(&found, Contents::SpareOf { setup, .. } if *setup == session.setup());
    if !ours {
        return Ok(found);
    }
    let disk = DirectDisk::open_device(device, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
    let reading = read_copies(&disk, Expected { setup: Some(session.setup()), spare: None });
    let uuid = reading.choose().ok().map(|chosen| chosen.copy.spare);
    match uuid.and_then(|uuid| session.metadata.spare_index(uuid)).filter(|i| session.metadata.is_member(*i)) {
        Some(index) => Err(already(session, device, index).into()),
        None => Ok(made_over(context, device, &disk, &reading)?.map_or(Contents::Leftover, Contents::Signature)),
    }
}

fn already(session: &Session<'_>, device: &BlockDevice, index: SpareIndex) -> Refusal {
    let name = session.name.clone();
    let state = session.metadata.spare(index).map(|record| record.state);
    let serves = session.spare(index).is_some_and(|member| member.devno == device.devno);
    let hint = if !serves || state != Some(SpareState::Present) {
        format!(". 'dm-remap spare readd {name} {}' takes it back into service", device.path.display())
    } else {
        String::new()
    };
    Refusal::AlreadySpare { device: device.path.display().to_string(), name, index, hint }
}

/// Pairs of devices, at least one of them new, that share sectors.
fn overlaps(context: &Context, session: &Session<'_>, devices: &[BlockDevice]) -> Vec<(String, String, String)> {
    let members = std::iter::once(&session.main).chain(session.spares.iter().flatten());
    let known: Vec<BlockDevice> = members.filter_map(|m| context.host.device_by_number(m.devno).ok()).collect();
    let mut out = Vec::new();
    for (i, device) in devices.iter().enumerate() {
        for other in known.iter().chain(devices.iter().skip(i + 1)) {
            if let Some(why) = context.host.overlap(other, device) {
                out.push((other.path.display().to_string(), device.path.display().to_string(), why));
            }
        }
    }
    out
}
