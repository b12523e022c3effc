//! `udev-probe`: what a device is to dm-remap, for the rules in packaging/udev.
//!
//! Invariants: nothing is written; a main is called one only if the kernel says that a setup stands on it, or its stable
//! names are those on record; the output is properties of udev, one a line, none for a device that is nothing to us.

use super::{Context, Exit, Output};
use crate::block::Disk;
use crate::block::buffer::AlignedBuffer;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::UdevProbe;
use crate::engine::registry;
use crate::engine::session::{setup_of_any_uuid, setup_of_uuid};
use crate::format::copy::{index_u32, judge_header};
use crate::format::{COPY_ALIGNMENT, COPY_STARTS};
use crate::units::DevNo;
use anyhow::Result;
use uuid::Uuid;

pub(super) fn probe(context: &Context, args: &UdevProbe, out: &mut Output) -> Result<Exit> {
    let device = context.device(&args.device)?;
    let folder = context.host.sys().join(format!("dev/block/{}", device.devno));
    let own = std::fs::read_to_string(folder.join("dm/uuid")).unwrap_or_default();
    let mut properties = Vec::new();
    if let Some(setup) = setup_of_uuid(own.trim()) {
        properties.push(("DM_REMAP_SETUP", setup.to_string()));
    } else if args.main {
        if let Some((setup, name)) = main_of(context, &device) {
            properties.push(("DM_REMAP_MAIN", setup.to_string()));
            properties.extend(name.map(|name| ("DM_REMAP_NAME", name)));
        }
    } else if let Some((setup, spare)) = spare_on(&device) {
        properties.push(("ID_FS_TYPE", "dm_remap_spare".into()));
        properties.push(("ID_FS_USAGE", "raid".into()));
        properties.push(("ID_FS_UUID", setup.to_string()));
        properties.push(("ID_FS_UUID_ENC", setup.to_string()));
        properties.push(("ID_FS_UUID_SUB", spare.to_string()));
        properties.push(("ID_FS_UUID_SUB_ENC", spare.to_string()));
        properties.push(("DM_REMAP_SETUP", setup.to_string()));
    }
    if out.is_json() {
        let map: serde_json::Map<String, serde_json::Value> =
            properties.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        out.json(&map);
        return Ok(Exit::Done);
    }
    properties.iter().for_each(|(key, value)| out.line(format!("{key}={value}")));
    Ok(Exit::Done)
}

/// The setup that a device, or the disk that it is a partition of, is the main of; its name where it is known.
fn main_of(context: &Context, device: &BlockDevice) -> Option<(Uuid, Option<String>)> {
    let known = registry::all(&context.registry());
    let disk = device.partition.as_ref().and_then(|part| context.host.device_by_number(part.disk).ok());
    for device in [Some(device), disk.as_ref()].into_iter().flatten() {
        if let Some(known) = registry::main_of(&known, &device.identity) {
            return Some((known.setup, Some(known.name.clone())));
        }
        if let Some(setup) = held_by(context, device.devno)
            && spare_on(device).is_none()
        {
            return Some((setup, known.iter().find(|known| known.setup == setup).map(|known| known.name.clone())));
        }
    }
    None
}

/// The setup of which a device stands on this one: its main, or a spare.
fn held_by(context: &Context, devno: DevNo) -> Option<Uuid> {
    let holders = context.host.sys().join(format!("dev/block/{devno}/holders"));
    let uuid = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("dm/uuid")).ok()?;
        setup_of_any_uuid(text.trim())
    };
    std::fs::read_dir(holders).ok()?.flatten().find_map(uuid)
}

/// Setup and spare of the first copy whose header is whole. The copy itself may be damaged: it is a spare all the same.
fn spare_on(device: &BlockDevice) -> Option<(Uuid, Uuid)> {
    let disk = DirectDisk::open_device(device, Mode::ReadOnly).ok()?;
    let mut head = AlignedBuffer::new(COPY_ALIGNMENT);
    COPY_STARTS.into_iter().enumerate().find_map(|(index, start)| {
        disk.read(start, &mut head).ok()?;
        let header = judge_header(&head, index_u32(index)?).ok()?;
        Some((Uuid::from_bytes(header.setup), Uuid::from_bytes(header.spare)))
    })
}
