//! Taking over the remaps of the out-of-tree kernel module: looking at the old slots, and composing the new ones.
//!
//! Invariants:
//! - the old spare is only read;
//! - new slots are written while the setup is *forming*: device-mapper has claimed main and the new spare, no device is
//!   visible yet, and a crash leaves no setup;
//! - the map becomes durable in one commit, after the slots are flushed;
//! - what cannot be read is held, and never taken from an older place.

use super::create::{CreateOptions, create_prepared};
use super::salvage::{Copy, CopyFault, Filling, Salvager};
use super::{EngineError, Member, Observer, Session};
use crate::block::buffer::AlignedBuffer;
use crate::block::{Disk, DiskError, FaultClass};
use crate::dm::{Activation, DeviceMapper};
use crate::format::foreign_module::{Doubt, Judged};
use crate::map::{Fate, Loss};
use crate::plan::import::{ImportPlan, Origin};
use crate::units::{Range, SECTOR_SIZE, Sectors, coalesce};
use std::sync::Arc;

/// Looks at the slots of all entries that lie on the old spare, and adds what is doubtful about their contents.
///
/// A slot full of zeros is in doubt unless main has zeros there, too: the module may never have copied its data.
///
/// # Errors
/// When a device fails in a way that is not about single sectors.
pub fn look_at_slots(
    old: &dyn Disk,
    main: &dyn Disk,
    judged: &mut [Judged],
    observer: &dyn Observer,
) -> Result<(), EngineError> {
    observer.step("looking at the old slots");
    let total = u64::try_from(judged.len()).unwrap_or(u64::MAX);
    for (done, one) in (1u64..).zip(judged) {
        observer.progress(done, total);
        let entry = one.entry;
        if entry.slot >= old.size() || entry.original >= main.size() {
            continue;
        }
        match sector_is_blank(old, entry.slot)? {
            None => one.doubts.push(Doubt::Unreadable),
            Some(true) if sector_is_blank(main, entry.original)? != Some(true) => one.doubts.push(Doubt::Blank),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether a sector is all zeros; `None` when it cannot be read.
fn sector_is_blank(disk: &dyn Disk, sector: Sectors) -> Result<Option<bool>, EngineError> {
    let block = disk.logical_block();
    let mut data = AlignedBuffer::new(block.to_usize_bytes().unwrap_or(SECTOR_SIZE));
    match disk.read(sector.align_down(block), &mut data) {
        Ok(()) => {
            let skip = sector.saturating_sub(sector.align_down(block)).to_usize_bytes().unwrap_or(0);
            Ok(Some(data.iter().skip(skip).take(SECTOR_SIZE).all(|byte| *byte == 0)))
        }
        Err(error) => match error.class() {
            FaultClass::Medium | FaultClass::Ambiguous => Ok(None),
            FaultClass::Transport => Err(EngineError::Transport(error)),
            FaultClass::Request => Err(error.into()),
        },
    }
}

/// What reads bytes of a disk for [`crate::format::foreign_module::read_module_metadata`].
pub fn read_bytes(disk: &dyn Disk, offset: u64, len: usize) -> Result<Vec<u8>, String> {
    let failed = |error: DiskError| error.to_string();
    let block = disk.logical_block().to_usize_bytes().unwrap_or(SECTOR_SIZE).max(SECTOR_SIZE);
    let block64 = u64::try_from(block).unwrap_or(u64::MAX);
    let size = disk.size().to_bytes().map_or(u64::MAX, |bytes| bytes.0);
    let first = offset - offset % block64;
    let skip = usize::try_from(offset - first).unwrap_or(0);
    let there = usize::try_from(size.saturating_sub(first)).unwrap_or(usize::MAX);
    let wanted = skip.saturating_add(len).next_multiple_of(block).min(there - there % block);
    if wanted <= skip {
        return Err("it lies beyond the end of the device".into());
    }
    let mut data = AlignedBuffer::new(wanted);
    disk.read(Sectors(first / 512), &mut data).map_err(failed)?;
    Ok(data.iter().skip(skip).take(len).copied().collect())
}

/// An import that was made.
#[derive(Debug)]
pub struct Imported<'a> {
    /// The new setup, up.
    pub session: Session<'a>,
    /// Its node.
    pub activation: Activation,
    /// Sectors that could not be read, and are held.
    pub lost: Vec<Range>,
}

/// The devices of an import.
#[derive(Debug)]
pub struct ImportDevices {
    /// Main.
    pub main: Member,
    /// The new spare.
    pub spare: Member,
    /// The old spare.
    pub old: Arc<dyn Disk>,
}

/// Makes the setup, with its slots filled. A bad block is read `retries` times more.
///
/// # Errors
/// What failed; the new spare is erased then, and no device is left.
pub fn import<'a>(
    dm: &'a dyn DeviceMapper,
    plan: &ImportPlan,
    devices: ImportDevices,
    retries: u32,
    options: &CreateOptions<'_>,
) -> Result<Imported<'a>, EngineError> {
    let ImportDevices { main, spare, old } = devices;
    let mut lost = Vec::new();
    let (session, activation) = create_prepared(dm, &plan.create, main, vec![spare], options, &mut |session| {
        let losses = fill(session, plan, &old, retries, options.observer)?;
        lost = coalesce(losses.iter().map(|loss| loss.range).collect());
        let mut map = plan.map.clone();
        for loss in losses {
            map.record_loss(loss.range, loss.fate)?;
        }
        Ok(map)
    })?;
    Ok(Imported { session, activation, lost })
}

/// Composes the slots on the new spare, and makes them durable. Returns what could not be read.
fn fill(
    session: &Session<'_>,
    plan: &ImportPlan,
    old: &Arc<dyn Disk>,
    retries: u32,
    observer: &dyn Observer,
) -> Result<Vec<Loss>, EngineError> {
    observer.step("copying");
    let mut salvager = Salvager::new(retries, session.block(), Vec::new());
    let total = plan.copies.iter().map(|copy| copy.range.len().0).fold(0, u64::saturating_add);
    let (mut done, mut lost) = (0u64, Vec::new());
    for step in &plan.copies {
        let missing = || EngineError::Device(format!("spare {} is missing", step.to.spare));
        let destination = session.spare(step.to.spare).ok_or_else(missing)?.disk.clone();
        let (source, from, fate) = match step.from {
            Origin::Main => (session.main.disk.clone(), step.range.start(), Fate::Held),
            Origin::Old(sector) => (old.clone(), sector, Fate::HeldStale),
        };
        let filling = Filling::Tombstones(session.setup());
        let copy = Copy { range: step.range, source, from, destination, to: step.to.start, filling };
        let copied = salvager.copy(&copy, observer, |sectors| {
            done = done.saturating_add(sectors.0);
            observer.progress(done, total);
        });
        let here = copied.map_err(|fault| stopped(fault, &copy))?.lost();
        lost.extend(here.into_iter().map(|range| Loss { range, fate }));
    }
    for spare in session.spares.iter().flatten() {
        spare.disk.flush()?;
    }
    Ok(lost)
}

fn stopped(fault: CopyFault, copy: &Copy) -> EngineError {
    match fault {
        CopyFault::Stop(error) | CopyFault::Device(error) => error,
        CopyFault::Destination { why, .. } => EngineError::Device(format!(
            "{} is bad itself ({why}): take another device for the new spare. No setup was made",
            copy.destination.name()
        )),
    }
}
