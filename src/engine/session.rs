//! A setup that is up: its devices, its metadata, and the check that both agree.
//!
//! Invariants:
//! - a session of a changing command is made under the setup's lock;
//! - its metadata is what the spares hold, and the live table is the one that the metadata gives;
//! - every spare is claimed by a private device of the setup (see [`super::held`]), also while it serves nothing.

use super::last_commit::LastCommit;
use super::tables::{self, Tables};
use super::{EngineError, dirty, held, now};
use crate::block::{Disk, DiskError, Operation};
use crate::dm::{DeviceMapper, DeviceState, TableSlot};
use crate::format::MAX_SPARES;
use crate::format::choose::{ChooseError, Chosen, Expected, SetupChoice, choose_setup};
use crate::format::copy::{Judge, encode};
use crate::format::metadata::{Ancestor, Metadata};
use crate::map::{Extent, Map, Slot, SpareIndex};
use crate::plan::Refusal;
use crate::pool::{Available, Scores};
use crate::segments::{
    Devices, Layout, LayoutRule, PART_LINES, PartLines, Piece, Place, SpareDevice, Target, TargetKind, pieces_from,
};
use crate::store::{Commit, CommitReport, CommitTarget, SpareReading, read_copies_by, unused_generation};
use crate::units::{DevNo, Sectors};
use nix::errno::Errno;
use std::sync::Arc;
use uuid::Uuid;

/// What a setup's dm UUID begins with.
pub const UUID_PREFIX: &str = "DMREMAP-";

/// A device that belongs to a setup.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub devno: DevNo,
    /// How to read and write it.
    pub disk: Arc<dyn Disk>,
}

impl Member {
    /// A member whose device is not there any more: every request to it fails with `ENXIO`.
    pub fn gone(what: &str, devno: DevNo) -> Member {
        Member { devno, disk: Arc::new(Gone { name: format!("{what} ({devno}, which is gone)").into() }) }
    }

    /// Whether its device is not there any more.
    pub fn is_gone(&self) -> bool {
        self.disk.size() == GONE_SIZE
    }
}

/// Size of a device that is not there: any request is to fail for the right reason, not for being out of bounds.
const GONE_SIZE: Sectors = Sectors(u64::MAX / 512);

/// A device that is not there any more.
#[derive(Debug)]
struct Gone {
    name: Arc<str>,
}

impl Gone {
    fn error(&self, operation: Operation, start: Sectors) -> DiskError {
        DiskError { device: self.name.clone(), operation, start, len: Sectors::ZERO, errno: Errno::ENXIO }
    }
}

impl Disk for Gone {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
    fn size(&self) -> Sectors {
        GONE_SIZE
    }
    fn logical_block(&self) -> Sectors {
        Sectors(1)
    }
    fn read(&self, start: Sectors, _buf: &mut [u8]) -> Result<(), DiskError> {
        Err(self.error(Operation::Read, start))
    }
    fn write(&self, start: Sectors, _buf: &[u8]) -> Result<(), DiskError> {
        Err(self.error(Operation::Write, start))
    }
    fn flush(&self) -> Result<(), DiskError> {
        Err(self.error(Operation::Flush, Sectors::ZERO))
    }
}

/// Opens devices by number.
pub trait DiskSource: std::fmt::Debug {
    /// Opens a device, for writing too when `write`; `None` when it is not there any more.
    ///
    /// # Errors
    /// [`EngineError::Device`] when it is there and cannot be opened.
    fn open(&self, devno: DevNo, write: bool) -> Result<Option<Member>, EngineError>;
}

/// A setup that is up.
#[derive(Debug)]
pub struct Session<'a> {
    /// Device-mapper.
    pub dm: &'a dyn DeviceMapper,
    /// Name of the setup and its device.
    pub name: String,
    /// What the spares hold.
    pub metadata: Metadata,
    /// SHA-256 of that.
    pub digest: [u8; 32],
    /// Main.
    pub main: Member,
    /// The spares by index; `None` for one that is missing.
    pub spares: Vec<Option<Member>>,
    /// Who decides how the map becomes tables, when they are made anew.
    pub layout: LayoutRule,
    /// How large the overlays of a switched layout get.
    pub part_lines: PartLines,
    /// Spares that were marked as failed by this command, because commits to them failed.
    pub failed: Vec<SpareIndex>,
    /// It was brought up to be read only: nothing is committed, and its devices refuse writes.
    pub read_only: bool,
    /// Spares that hold an older generation than the newest and take commits: the last commit was interrupted before
    /// it reached them.
    pub passed_over: Vec<SpareIndex>,
    /// Where this machine remembers what was committed last, while the setup is up.
    pub last_commit: Option<LastCommit>,
    /// How well the spares' disks are, where that is known, for those who choose among them by it.
    pub disk_scores: Scores,
}

impl Available for &Session<'_> {
    fn is_usable(&self, spare: SpareIndex) -> bool {
        self.is_there(spare)
    }

    fn disk_score(&self, spare: SpareIndex) -> Option<u8> {
        self.disk_scores.get(&spare).copied()
    }
}

/// The dm UUID of a setup's device.
pub fn device_uuid(setup: Uuid) -> String {
    format!("{UUID_PREFIX}{setup}")
}

/// Name of the private device that claims a spare.
pub fn spare_device_name(name: &str, spare: SpareIndex) -> String {
    format!("{name}-spare{spare}")
}

/// UUID of the private device that claims a spare.
pub fn spare_device_uuid(setup: Uuid, spare: SpareIndex) -> String {
    format!("{UUID_PREFIX}{setup}-spare{spare}")
}

/// The setup that a dm UUID belongs to, if it is the UUID of a setup's own device.
pub fn setup_of_uuid(uuid: &str) -> Option<Uuid> {
    Uuid::try_parse(uuid.strip_prefix(UUID_PREFIX)?).ok()
}

/// The setup that a dm UUID belongs to, if it is the UUID of its own device or of a private one.
pub fn setup_of_any_uuid(uuid: &str) -> Option<Uuid> {
    let rest = uuid.strip_prefix(UUID_PREFIX)?;
    let (setup, private) = rest.split_at_checked(uuid::fmt::Hyphenated::LENGTH)?;
    (private.is_empty() || private.starts_with('-')).then(|| Uuid::try_parse(setup).ok()).flatten()
}

/// State of the dm device of an active setup, and the setup's UUID.
///
/// # Errors
/// [`Refusal::NotActive`] when there is no such device, it is not ours, or it never had a table: a killed command left it.
pub fn find_active(dm: &dyn DeviceMapper, name: &str) -> Result<(DeviceState, Uuid), EngineError> {
    let state = dm.state(name)?.ok_or_else(|| Refusal::NotActive(name.into()))?;
    match setup_of_uuid(&state.uuid) {
        Some(setup) if state.active => Ok((state, setup)),
        _ => Err(Refusal::NotActive(name.into()).into()),
    }
}

/// Which devices an active setup is made of, read from device-mapper alone.
#[derive(Clone, Debug)]
pub struct LiveDevices {
    /// UUID of the setup.
    pub setup: Uuid,
    /// State of its device.
    pub state: DeviceState,
    /// What its live table does.
    pub tables: Tables,
    /// Main, when any piece of the table leads there.
    pub main: Option<DevNo>,
    /// The spares that are claimed, with the number of the private device.
    pub spares: Vec<(SpareIndex, DevNo, DevNo)>,
}

/// Reads from device-mapper which devices an active setup is made of.
///
/// # Errors
/// [`Refusal::NotActive`], or what device-mapper says.
pub fn live_devices(dm: &dyn DeviceMapper, name: &str) -> Result<LiveDevices, EngineError> {
    let (state, setup) = find_active(dm, name)?;
    let tables = tables::read(dm, name, setup, TableSlot::Active)?;
    let mut spares = Vec::new();
    for index in (0u8..).take(MAX_SPARES).map(SpareIndex) {
        let private = spare_device_name(name, index);
        let Some(claim) = dm.state(&private)? else { continue };
        if claim.uuid != spare_device_uuid(setup, index) {
            continue;
        }
        if let Some(device) = dm.table(&private, TableSlot::Active)?.iter().find_map(leads_to) {
            spares.push((index, device, claim.devno));
        }
    }
    let is_spare = |d: &DevNo| spares.iter().any(|(_, spare, held)| spare == d || held == d);
    let main = tables.flat.iter().filter_map(leads_to).find(|d| !is_spare(d));
    Ok(LiveDevices { setup, state, tables, main, spares })
}

/// The device that a piece of a table leads to, if it is one.
pub(super) fn leads_to(target: &Target) -> Option<DevNo> {
    match target.kind {
        TargetKind::Linear { device, .. }
        | TargetKind::Switch { device, .. }
        | TargetKind::FlakeyErrorReads { device, .. }
        | TargetKind::Dust { device, .. } => Some(device),
        _ => None,
    }
}

/// What the spares of a setup say together.
///
/// # Errors
/// [`Refusal::Metadata`] in the words of the verdicts when nothing can be chosen.
pub fn choose_among(name: &str, readings: &[SpareReading]) -> Result<SetupChoice, Refusal> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for reading in readings {
        match reading.choose() {
            Ok(choice) => chosen.push(choice),
            Err(ChooseError::NoneValid) => {}
            Err(other) => {
                let device = reading.device.to_string();
                return Err(Refusal::Metadata { device, what: other.to_string() });
            }
        }
    }
    choose_setup(&chosen).map_err(|e| Refusal::Metadata { device: name.into(), what: e.to_string() })
}

impl<'a> Session<'a> {
    /// Opens the active setup `name` for a changing command: devices from device-mapper, metadata from the spares.
    /// Does not yet compare the two: see [`Session::check_live`].
    ///
    /// # Errors
    /// [`Refusal`] when it is not active, its metadata is in doubt, or it is to be changed and was brought up read-only;
    /// otherwise what failed.
    pub fn open(
        dm: &'a dyn DeviceMapper,
        source: &dyn DiskSource,
        name: &str,
        write: bool,
    ) -> Result<Session<'a>, EngineError> {
        Session::open_with_tables(dm, source, name, write).map(|(session, _)| session)
    }

    /// The same, and what the live table does.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_with_tables(
        dm: &'a dyn DeviceMapper,
        source: &dyn DiskSource,
        name: &str,
        write: bool,
    ) -> Result<(Session<'a>, Tables), EngineError> {
        let live = live_devices(dm, name)?;
        if write && live.state.read_only {
            return Err(Refusal::ReadOnly(format!("'{name}'")).into());
        }
        let main = live
            .main
            .ok_or_else(|| EngineError::Device(format!("the table of '{name}' does not lead to any main device")))?;
        // A device that is gone stays a member, one that fails: the setup goes on without it, degraded.
        let main = source.open(main, write)?.unwrap_or_else(|| Member::gone("main", main));
        let mut members = Vec::new();
        for (index, device, _) in &live.spares {
            let member = source.open(*device, write)?;
            members.push((*index, member.unwrap_or_else(|| Member::gone(&format!("spare {index}"), *device))));
        }
        let expected = Expected { setup: Some(live.setup), spare: None };
        let mut judge = Judge::default();
        let readings: Vec<SpareReading> =
            members.iter().map(|(_, m)| read_copies_by(&mut judge, &*m.disk, expected)).collect();
        let choice = choose_among(name, &readings)?;
        let takes_commits = |index: &SpareIndex| {
            choice.newest.metadata.spare(*index).is_some_and(|record| record.state.takes_commits())
        };
        let passed_over = choice.stale().into_iter().map(|(index, _)| index).filter(takes_commits).collect();
        let newest = choice.newest;
        let mut spares = vec![None; newest.metadata.spares.len()];
        for (index, member) in members {
            // A private device that has no member any more, or not yet, was left by a killed command.
            if let Some(place) = spares.get_mut(index.as_usize())
                && newest.metadata.is_member(index)
            {
                *place = Some(member);
            }
        }
        let mut session = Session {
            dm,
            name: name.into(),
            digest: newest.digest,
            metadata: newest.metadata,
            main,
            spares,
            layout: LayoutRule::Keep,
            failed: Vec::new(),
            read_only: live.state.read_only,
            passed_over,
            last_commit: None,
            disk_scores: Scores::new(),
            part_lines: PART_LINES,
        };
        if session.read_only {
            // It came up so, and nothing of it was committed.
            session.metadata.map = held::map_with(&session.metadata, &held::rewritten(&session))?;
        }
        Ok((session, live.tables))
    }

    /// Logical block size of main in sectors, as recorded: what is held is held in whole blocks of this size.
    pub fn block(&self) -> Sectors {
        self.metadata.config.main.logical_block
    }

    /// UUID of the setup.
    pub fn setup(&self) -> Uuid {
        self.metadata.setup
    }

    /// The devices as the tables need to know them.
    ///
    /// # Errors
    /// What device-mapper says of the private devices.
    pub fn devices(&self) -> Result<Devices, EngineError> {
        let mut spares = Vec::with_capacity(self.metadata.spares.len());
        for (index, record) in (0u8..).map(SpareIndex).zip(&self.metadata.spares) {
            let member = self.spare(index);
            let held = match member {
                Some(_) => self.dm.state(&spare_device_name(&self.name, index))?.map(|s| s.devno),
                None => None,
            };
            spares.push(SpareDevice {
                device: member.map(|m| m.devno),
                held,
                size: record.identity.size,
                data_start: record.data_start,
            });
        }
        Ok(Devices { main: self.main.devno, logical_block: self.block(), spares })
    }

    /// What one of the tables of the setup's device does.
    ///
    /// # Errors
    /// What device-mapper says.
    pub fn tables(&self, slot: TableSlot) -> Result<Tables, EngineError> {
        tables::read(self.dm, &self.name, self.setup(), slot)
    }

    /// The spare with this index, unless it is missing.
    pub fn spare(&self, index: SpareIndex) -> Option<&Member> {
        self.spares.get(index.as_usize()).and_then(Option::as_ref)
    }

    /// Whether a spare can be read and written, as far as is known without trying.
    pub fn is_there(&self, index: SpareIndex) -> bool {
        self.spare(index).is_some_and(|member| !member.is_gone())
    }

    /// Spares that commits go to: there, not marked as failed, and not removed.
    pub fn commit_targets(&self) -> Vec<CommitTarget> {
        self.targets_of(&self.metadata)
    }

    fn targets_of(&self, metadata: &Metadata) -> Vec<CommitTarget> {
        let members = metadata.spares.iter().zip(&self.spares);
        members
            .filter(|(record, _)| record.state.takes_commits())
            .filter_map(|(record, member)| {
                Some(CommitTarget {
                    disk: member.as_ref()?.disk.clone(),
                    uuid: record.uuid,
                    data_start: record.data_start,
                })
            })
            .collect()
    }

    /// The present content as the next generation, with a number that was never begun before.
    pub fn next_metadata(&self) -> Metadata {
        let mut next = self.metadata.next(now(), self.digest);
        for target in self.commit_targets() {
            next.generation = unused_generation(&*target.disk, self.setup(), next.generation);
        }
        next
    }

    /// Commits a change of the metadata that moves nothing, outside the window. Spares that do not take it, while others
    /// do, are marked as failed: see [`Session::failed`].
    ///
    /// # Errors
    /// [`EngineError::CommitFailed`] when no spare took it.
    pub fn commit(&mut self, change: impl FnOnce(&mut Metadata)) -> Result<CommitReport, EngineError> {
        let mut next = self.next_metadata();
        change(&mut next);
        next.note_used(&self.metadata);
        let encoded = encode(&next)?;
        let digest = encoded.digest();
        let targets = self.targets_of(&next);
        let report = Commit::new(targets.clone(), encoded).run();
        if !report.stands() {
            return Err(self.commit_failed(&report));
        }
        self.adopt(next, digest);
        self.mark_failed_spares(&targets, &report)?;
        Ok(report)
    }

    /// Takes over what a commit has made durable.
    pub fn adopt(&mut self, metadata: Metadata, digest: [u8; 32]) {
        self.metadata = metadata;
        self.digest = digest;
        self.remember_commit();
    }

    /// Remembers the commit that is in force.
    pub fn remember_commit(&self) {
        if let Some(last) = &self.last_commit {
            last.remember(Ancestor { generation: self.metadata.generation, digest: self.digest });
        }
    }

    /// What was committed last, when only what is older can be read.
    pub fn newest_away(&self) -> Option<Ancestor> {
        self.last_commit.as_ref()?.known().filter(|newest| newest.generation > self.metadata.generation)
    }

    /// Refuses to build upon what is older than what was committed: a spare that is away would go on by itself.
    ///
    /// # Errors
    /// [`Refusal::NewestAway`].
    pub fn check_newest(&self) -> Result<(), Refusal> {
        let (name, readable) = (self.name.clone(), self.metadata.generation);
        self.newest_away()
            .map_or(Ok(()), |newest| Err(Refusal::NewestAway { name, readable, newest: newest.generation }))
    }

    /// The error for a commit that did not stand.
    pub fn commit_failed(&self, report: &CommitReport) -> EngineError {
        match report.first_error() {
            Some(error) => EngineError::CommitFailed { name: self.name.clone(), error: error.clone() },
            None => EngineError::Device(format!("'{}' has no spare to commit to", self.name)),
        }
    }

    /// Writes the last commit once more to those of `targets` that did not take it while others did, and marks as failed
    /// those that still do not.
    ///
    /// # Errors
    /// When the mark cannot be committed.
    pub fn mark_failed_spares(&mut self, targets: &[CommitTarget], report: &CommitReport) -> Result<(), EngineError> {
        let missed = |targets: &[CommitTarget], report: &CommitReport| -> Vec<CommitTarget> {
            let missed = |i: usize| report.target(i).is_some_and(|t| !t.holds_a_group());
            targets.iter().enumerate().filter(|(i, _)| missed(*i)).map(|(_, target)| target.clone()).collect()
        };
        let again = missed(targets, report);
        if again.is_empty() {
            return Ok(());
        }
        let report = Commit::new(again.clone(), encode(&self.metadata)?).run();
        let failed: Vec<Uuid> = missed(&again, &report).iter().map(|target| target.uuid).collect();
        if failed.is_empty() {
            return Ok(());
        }
        self.failed.extend(failed.iter().filter_map(|uuid| self.metadata.spare_index(*uuid)));
        self.commit(|next| {
            let missed: Vec<SpareIndex> = failed.iter().filter_map(|uuid| next.spare_index(*uuid)).collect();
            missed.into_iter().for_each(|index| next.mark_failed(index));
        })
        .map(|_| ())
    }

    /// Checks that the device is not suspended and its live table is the one that the metadata gives; its layout.
    ///
    /// # Errors
    /// [`Refusal::Suspended`] or [`Refusal::TableDiffers`].
    pub fn check_live(&self) -> Result<Layout, EngineError> {
        self.check_live_but(None)
    }

    /// The same, but it is no matter whether the extents of `spare` lead there or answer EIO.
    ///
    /// # Errors
    /// As [`Session::check_live`].
    pub fn check_live_but(&self, spare: Option<SpareIndex>) -> Result<Layout, EngineError> {
        let (state, _) = find_active(self.dm, &self.name)?;
        if state.suspended {
            return Err(Refusal::Suspended(self.name.clone()).into());
        }
        let own = self.dm.table(&self.name, TableSlot::Active)?;
        if tables::is_right(self, &own, &self.missing_or(spare))? {
            return Ok(Layout::Switched);
        }
        let live = tables::behind(self.dm, &self.name, self.setup(), own)?;
        self.compare_with(&live, spare)?;
        Ok(live.layout())
    }

    /// As [`Session::check_live`], for who has just read the table: a large one takes long to read. One that differs is read
    /// again, because it was changed since, perhaps.
    ///
    /// # Errors
    /// As there.
    pub fn check_read(&self, live: &Tables) -> Result<Layout, EngineError> {
        let (state, _) = find_active(self.dm, &self.name)?;
        if !state.suspended && self.compare_with(live, None).is_ok() { Ok(live.layout()) } else { self.check_live() }
    }

    fn compare_with(&self, live: &Tables, spare: Option<SpareIndex>) -> Result<(), EngineError> {
        let devices = self.devices()?;
        let differs = |detail| Refusal::TableDiffers { name: self.name.clone(), detail };
        live.check_flushes(self, &devices).map_err(differs)?;
        compare(&live.flat, &devices, &self.metadata.map, self.missing_or(spare)).map_err(differs)?;
        Ok(())
    }

    /// Whether a spare is missing, or this one.
    fn missing_or(&self, spare: Option<SpareIndex>) -> impl Fn(SpareIndex) -> bool + '_ {
        move |index| Some(index) == spare || self.spare(index).is_none()
    }

    /// Writes the generation that is in force to a spare that missed it, before there is a newer one: a crash in that
    /// newer commit must not leave it further behind.
    ///
    /// # Errors
    /// [`EngineError::CommitFailed`] when the spare does not take it.
    pub fn catch_up(&self, index: SpareIndex) -> Result<(), EngineError> {
        let encoded = encode(&self.metadata)?;
        let (Some(member), Some(record)) = (self.spare(index), self.metadata.spare(index)) else { return Ok(()) };
        // Another version may write the same content in other words: that would be divergent.
        if encoded.digest() != self.digest {
            return Ok(());
        }
        let target = CommitTarget { disk: member.disk.clone(), uuid: record.uuid, data_start: record.data_start };
        let report = Commit::new(vec![target], encoded).run();
        match report.target(0) {
            Some(state) if state.holds_a_group() => Ok(()),
            _ => Err(self.commit_failed(&report)),
        }
    }

    /// Removes what a killed command may have left beside the device: a loaded table and the private devices behind it,
    /// statistics regions, private devices over spares that do not belong to the setup any more, or not yet. Finishes its commit on the spares that
    /// it did not reach; one that does not take it is left to the next commit, which marks it as failed.
    ///
    /// # Errors
    /// What device-mapper says.
    pub fn clear_leftovers(&mut self) -> Result<(), EngineError> {
        self.dm.clear(&self.name)?;
        tables::drop_unused(self);
        dirty::remove_leftovers(self.dm, &self.name);
        let others = (0u8..).map(SpareIndex).take(MAX_SPARES).filter(|index| !self.metadata.is_member(*index));
        for index in others {
            let private = spare_device_name(&self.name, index);
            let uuid = spare_device_uuid(self.setup(), index);
            if self.dm.state(&private)?.is_some_and(|state| state.uuid == uuid) {
                self.dm.remove(&private)?;
            }
        }
        if !self.read_only {
            let passed_over = std::mem::take(&mut self.passed_over);
            self.passed_over = passed_over.into_iter().filter(|index| self.catch_up(*index).is_err()).collect();
        }
        Ok(())
    }
}

/// Compares what a flat table does with what a map says, but for extents on a spare that is `missing`.
///
/// # Errors
/// The first difference, in words.
pub fn compare(
    table: &[Target],
    devices: &Devices,
    map: &Map,
    missing: impl Fn(SpareIndex) -> bool,
) -> Result<(), String> {
    let end = compare_from(Sectors::ZERO, table, devices, map, missing)?;
    if end != map.main_len() {
        return Err(format!("it ends at sector {end}, and main at {}", map.main_len()));
    }
    Ok(())
}

/// The same for a part of a flat table that begins at `start`; where it ends.
///
/// # Errors
/// As [`compare`].
pub(super) fn compare_from(
    start: Sectors,
    part: &[Target],
    devices: &Devices,
    map: &Map,
    missing: impl Fn(SpareIndex) -> bool,
) -> Result<Sectors, String> {
    let mut end = start;
    for piece in pieces_from(part, devices, start) {
        let piece = piece.map_err(|error| error.to_string())?;
        end = piece.range.end();
        compare_piece(piece, map, &missing)?;
    }
    Ok(end)
}

/// The same for one piece. As pieces leave no gap, a map of which every piece is a part has no extent that they miss.
fn compare_piece(piece: Piece, map: &Map, missing: impl Fn(SpareIndex) -> bool) -> Result<(), String> {
    let mut extents = map.extents_in(piece.range);
    match piece.place {
        Place::Nowhere => {
            if let Some(extent) = extents.find(|extent| !missing(extent.slot.spare)) {
                return Err(format!("sectors {} answer EIO", extent.range));
            }
            if !map.serves(piece.range) {
                return Err(format!("sectors {} answer EIO", piece.range));
            }
        }
        Place::Main => {
            if let Some(extent) = extents.find(|extent| !missing(extent.slot.spare)) {
                return Err(format!("extent {} is not where the map has it", extent.range));
            }
        }
        Place::Spare { spare, start, through_held } => {
            let whole = Extent { range: piece.range, slot: Slot { spare, start } };
            for extent in extents {
                if whole.clip(extent.range) != Some(extent) {
                    return Err(format!("extent {} is not where the map has it", extent.range));
                }
            }
            if !map.serves(piece.range) {
                return Err(format!("sectors {} lead to a spare, and the map does not say so", piece.range));
            }
            if !through_held && map.has_held(piece.range) {
                return Err(format!("held sectors in {} do not answer EIO", piece.range));
            }
        }
    }
    Ok(())
}
